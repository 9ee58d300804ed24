"""Credentials sign as KuCoin documents it, and nothing shows them."""

from __future__ import annotations

import copy
import traceback
from typing import Any

import attrs
import pytest

from kufeed import Credentials, FeedConfig, UsageError
from kufeed._credentials import Secret, repeats, signed_headers

EXAMPLE = "f03a5284-5c39-4aaa-9b20-dea10bdcf8e3"  # the secret of KuCoin's documentation
WORDS = {"key": "k3y-0123456789abcdef", "secret": EXAMPLE, "passphrase": "example-passphrase"}
VARIABLES = {"KUCOIN_KEY": WORDS["key"], "KUCOIN_SECRET": EXAMPLE, "KUCOIN_PASSPHRASE": "example-passphrase"}


def telling(text: str) -> list[str]:
    return [word for word in WORDS.values() if repeats(text, word)]


# -- signing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "signature"),
    [
        ("/api/v1/deposit-addresses", '{"currency":"BTC"}', "7QP/oM0ykidMdrfNEUmng8eZjg/ZvPafjIqmxiVfYu4="),
        ("/api/v1/bullet-private", "", "WNGQD2tKTq8y5eouFZ2ak/x4dJHTdH0SnSmHSZT4hnE="),
    ],
)
def test_the_documented_examples_are_signed_as_documented(path: str, body: str, signature: str) -> None:
    headers = signed_headers(Credentials(**WORDS), "POST", path, body, 1547015186532)
    assert headers == {
        "KC-API-KEY": WORDS["key"],
        "KC-API-SIGN": signature,
        "KC-API-TIMESTAMP": "1547015186532",
        "KC-API-PASSPHRASE": "IoTcU5759faAzx5dundQKhoGPVqvfczV6zdr/KmKhs0=",
        "KC-API-KEY-VERSION": "3",
    }


def test_what_is_signed_is_time_method_path_and_body() -> None:
    credentials = Credentials(**WORDS)
    signed = [("GET", "/a?b=c", "", 1), ("POST", "/a?b=c", "", 1), ("GET", "/a", "", 1), ("GET", "/a?b=c", "x", 1)]
    signatures = {signed_headers(credentials, *one)["KC-API-SIGN"] for one in [*signed, ("GET", "/a?b=c", "", 2)]}
    assert len(signatures) == 5


# -- what is a credential ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["key", "secret", "passphrase"])
@pytest.mark.parametrize(
    "value", ["", " ", "hunter2 ", "\thunter2", "hunter2\r\nX: y", "hunter2\x00", "hunter2\ud800", b"hunter2", 7, None]
)
def test_what_cannot_be_one_is_refused_by_the_name_of_its_field(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} must be text") as error:
        Credentials(**(WORDS | {name: value}))
    assert "hunter2" not in shown(error)
    assert telling(shown(error)) == []


@pytest.mark.parametrize("name", ["key", "secret"])
@pytest.mark.parametrize("value", ["with blank", "grün"])
def test_a_key_goes_into_a_header(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} must be text of visible ASCII"):
        Credentials(**(WORDS | {name: value}))


def test_a_passphrase_may_be_in_any_language() -> None:
    headers = signed_headers(Credentials(**(WORDS | {"passphrase": "grüner Tee"})), "GET", "/", "", 1)
    assert headers["KC-API-PASSPHRASE"] == "5bcU5Xo6eQ81zRuRDCi1ji1gUBwhk7Am9D60hOTjF6w="  # openssl dgst -hmac


# -- the environment --------------------------------------------------------------------------------------------------


def test_the_environment_is_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Credentials.from_env(environ=VARIABLES) == Credentials(**WORDS)
    other = {name.replace("KUCOIN_", "MINE_"): value for name, value in VARIABLES.items()}
    assert Credentials.from_env("MINE_", other) == Credentials(**WORDS)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert Credentials.from_env() == Credentials(**WORDS)
    assert FeedConfig.from_env().credentials is None


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("absent", [True, False])
def test_a_variable_that_is_missing_is_named(variable: str, absent: bool) -> None:
    environ = {name: value for name, value in VARIABLES.items() if name != variable}
    if not absent:
        environ[variable] = ""
    with pytest.raises(UsageError, match=f"^{variable} is not set") as error:
        Credentials.from_env(environ=environ)
    assert telling(str(error.value)) == []


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_that_cannot_be_one_is_named_and_not_shown(variable: str) -> None:
    with pytest.raises(UsageError, match=f"^{variable}: {variable[7:].lower()} must be text") as error:
        Credentials.from_env(environ=VARIABLES | {variable: "hunter2hunter2\n"})
    assert "hunter2" not in shown(error)


# -- nothing shows them -----------------------------------------------------------------------------------------------


def shown(error: pytest.ExceptionInfo[BaseException]) -> str:
    """A traceback with the values of variables, without that of the test itself."""
    assert error.tb.tb_next is not None
    found = traceback.TracebackException(error.type, error.value, error.tb.tb_next, capture_locals=True)
    return "".join(found.format())


def test_no_repr_shows_them() -> None:
    credentials = Credentials(**WORDS)
    headers = signed_headers(credentials, "GET", "/", "", 1)
    texts = [repr(credentials), str(credentials), f"{credentials}", repr(FeedConfig(credentials=credentials))]
    texts += [repr(attrs.asdict(credentials)), repr(headers), repr([credentials.key, credentials.secret])]
    for text in texts:
        assert telling(text) == []
        assert headers["KC-API-SIGN"] not in text
        assert headers["KC-API-PASSPHRASE"] not in text
    assert repr(headers).count("<secret>") == 3


def test_no_traceback_shows_them() -> None:
    class Worse:
        def __format__(self, spec: str) -> str:
            raise ZeroDivisionError

    worse: Any = Worse()
    with pytest.raises(ZeroDivisionError) as error:
        signed_headers(Credentials(**WORDS), "GET", "/", "", worse)
    text = shown(error)
    assert "<Credentials>" in text
    assert telling(text) == []


def test_they_are_frozen_compared_by_value_and_copied_as_such() -> None:
    credentials = Credentials(**WORDS)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        credentials.key = "other"  # type: ignore[misc]
    another = copy.deepcopy(credentials)
    assert another == credentials
    assert telling(repr([another, another.secret])) == []
    assert credentials != Credentials(**(WORDS | {"key": "other"}))


def test_a_piece_of_a_secret_counts_as_the_secret() -> None:
    secret = Secret("abcdefghijklmnopqrstuvwxyz==")
    for text in ("abcdefghijklmnopqrstuvwxyz==", "bad defghijklmnopq", "token=abc&x=nopqrstuvwxyz=="):
        assert repeats(text, secret)
    assert not repeats("the server is going away", secret)
    assert not repeats("short", "short")


# -- the configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["key", ("k", "s", "p"), WORDS, True])
def test_the_configuration_takes_credentials_and_nothing_else(value: Any) -> None:
    with pytest.raises(UsageError, match=r"^credentials must be kufeed\.Credentials or None$") as error:
        FeedConfig(credentials=value)
    assert telling(str(error.value)) == []
    assert FeedConfig(credentials=Credentials(**WORDS)).credentials == Credentials(**WORDS)


def test_what_is_signed_goes_out_encrypted_or_nowhere() -> None:
    credentials = Credentials(**WORDS)
    for base in ("https://gateway.example/kucoin", "http://127.0.0.1:8000/spot", "http://[::1]:80"):
        assert FeedConfig(spot_url=base, credentials=credentials).spot_url == base
    with pytest.raises(UsageError, match=r"^credentials need a spot_url that is https://"):
        FeedConfig(spot_url="http://gateway.example", credentials=credentials)
    assert FeedConfig(futures_url="http://gateway.example", credentials=credentials), "futures books are public"


@pytest.mark.parametrize("text", ["key", "none"])
def test_the_environment_of_a_feed_has_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"^KUFEED_CREDENTIALS: credentials cannot be set from the environment"):
        FeedConfig.from_env(environ={"KUFEED_CREDENTIALS": text})
