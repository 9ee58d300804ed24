"""What a reply asks us to wait, and what a request costs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kufeed import ClockOff, CredentialsRefused, ExchangeError
from kufeed.protocol import rest, retry_after
from kufeed.protocol.rest import (
    LONGEST_WAIT,
    TOKEN,
    WEIGHT_PER_WINDOW,
    WINDOW,
    concerns_address,
    is_lasting,
    is_of_symbol,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

EARLY, LATE = "Tue, 15 Nov 2026 08:12:31 GMT", "Tue, 15 Nov 2026 08:13:01 GMT"
LATE_NS = 1_794_730_381 * 10**9

CASES: list[tuple[str, int, dict[str, str], dict[str, Any], float | None]] = [
    ("success", 200, {}, {"code": "200000"}, None),
    ("success that tells the quota", 200, {"gw-ratelimit-reset": "12345"}, {"code": "200000"}, None),
    ("another refusal", 200, {}, {"code": "400100"}, None),
    ("quota used up, milliseconds", 429, {"gw-ratelimit-reset": "12345"}, {"code": "429000"}, 12.345),
    ("quota used up, told with HTTP 200", 200, {"gw-ratelimit-reset": "500"}, {"code": "429000"}, 0.5),
    ("both headers: KuCoin's own", 429, {"gw-ratelimit-reset": "500", "retry-after": "9"}, {}, 0.5),
    ("Retry-After in seconds", 429, {"retry-after": "7"}, {}, 7.0),
    ("Retry-After with blanks", 503, {"retry-after": " 7 "}, {}, 7.0),
    ("Retry-After as a date, by the server's clock", 503, {"retry-after": LATE, "date": EARLY}, {"time_ns": 0}, 30.0),
    ("Retry-After as a date, by our clock", 503, {"retry-after": LATE}, {"time_ns": LATE_NS - 4 * 10**9}, 4.0),
    ("Retry-After as a date, and no clock", 503, {"retry-after": LATE}, {}, None),
    ("Retry-After in the past", 503, {"retry-after": EARLY, "date": LATE}, {}, 0.0),
    ("Retry-After that is neither", 503, {"retry-after": "soon", "date": EARLY}, {}, None),
    ("Retry-After that is negative", 503, {"retry-after": "-5"}, {}, None),
    ("Retry-After in other digits", 503, {"retry-after": "٣"}, {}, None),
    ("Retry-After of a redirect", 302, {"retry-after": "3"}, {}, 3.0),
    ("a 429 that says nothing", 429, {}, {}, 10.0),
    ("a 429 of overload", 429, {}, {"code": "429000"}, 10.0),
    ("a 429 with a header that is none", 429, {"gw-ratelimit-reset": "x"}, {}, 10.0),
    ("the code of 2023", 200, {}, {"code": "200002"}, 10.0),
    ("spot's 403", 403, {}, {}, 30.0),
    ("a 403 that says how long", 403, {"retry-after": "5"}, {}, 5.0),
    ("Cloudflare's block", 429, {}, {"body": b"error code: 1015"}, 30.0),
    ("1015 within another number", 429, {}, {"body": b"id 210150"}, 10.0),
    ("a server error", 500, {}, {}, None),
    ("not allowed", 401, {}, {}, None),
    ("too long to be believed", 429, {"retry-after": "99999999999"}, {}, LONGEST_WAIT),
    ("too long, in digits", 429, {"retry-after": "9" * 5000}, {}, 10.0),
    ("a reset that is too long", 429, {"gw-ratelimit-reset": "999999999999"}, {}, LONGEST_WAIT),
    ("a reset of a reply that is about something else", 503, {"gw-ratelimit-reset": "500"}, {}, None),
    ("Retry-After of the first status that may have one", 300, {"retry-after": "3"}, {}, 3.0),
    ("Retry-After of a success", 299, {"retry-after": "3"}, {"code": "200000"}, None),
    ("Retry-After of a quota told with HTTP 200", 200, {"retry-after": "3"}, {"code": "200002"}, 3.0),
    ("as many digits as are read", 503, {"retry-after": "9" * 19}, {}, 3600.0),
    ("one digit more", 503, {"retry-after": "9" * 20}, {}, None),
    ("a date without a zone", 503, {"retry-after": LATE.replace("GMT", "-0000"), "date": EARLY}, {}, 30.0),
    ("a date of another zone", 503, {"retry-after": LATE.replace("GMT", "-0001"), "date": EARLY}, {}, 90.0),
    ("Cloudflare's block at the end of what is looked at", 429, {}, {"body": b"1015".rjust(4096)}, 30.0),
    ("Cloudflare's block behind it", 429, {}, {"body": b"1015".rjust(4097)}, 10.0),
    ("1015 where KuCoin itself has answered", 429, {}, {"code": "429000", "body": b" 1015 "}, 10.0),
    ("1015 of another status", 500, {}, {"body": b" 1015 "}, None),
    ("a date after the end of time", 503, {"retry-after": "Tue, 15 Nov 99999 08:12:31 GMT", "date": EARLY}, {}, None),
]


@pytest.mark.parametrize(
    ("status", "headers", "more", "wait"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_one_function_maps_a_reply_to_a_wait(
    status: int, headers: dict[str, str], more: dict[str, Any], wait: float | None
) -> None:
    assert retry_after(status, headers, **more) == wait


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nine hours east of Greenwich."""
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


def test_a_date_without_a_zone_is_not_of_ours(elsewhere: None) -> None:
    headers = {"retry-after": LATE.replace("GMT", "-0000"), "date": EARLY}
    assert retry_after(503, headers) == 30.0


@given(
    status=st.integers(100, 999),
    headers=st.dictionaries(
        st.sampled_from(["gw-ratelimit-reset", "retry-after", "date"]),
        st.one_of(st.text(max_size=40), st.integers().map(str), st.datetimes().map(str), st.just(LATE)),
    ),
    code=st.one_of(st.none(), st.sampled_from(["200000", "429000", "200002"])),
    body=st.binary(max_size=50),
    time_ns=st.one_of(st.none(), st.integers(0, 2**63)),
)
def test_whatever_a_server_says_is_a_bounded_wait_or_none(
    status: int, headers: dict[str, str], code: str | None, body: bytes, time_ns: int | None
) -> None:
    wait = retry_after(status, headers, code=code, body=body, time_ns=time_ns)
    assert wait is None or 0 <= wait <= LONGEST_WAIT


def test_what_a_token_costs() -> None:
    assert (TOKEN.weight, WEIGHT_PER_WINDOW, WINDOW) == (10, 2000, 30.0)


def test_no_reply_silences_us_for_more_than_an_hour() -> None:
    assert LONGEST_WAIT == 3600.0


@pytest.mark.parametrize(
    ("endpoint", "method", "path", "weight"),
    [
        (TOKEN, "POST", "/api/v1/bullet-public", 10),
        (rest.contract("XBTUSDTM"), "GET", "/api/v1/contracts/XBTUSDTM", 3),
        (rest.contract("A/B?c"), "GET", "/api/v1/contracts/A%2FB%3Fc", 3),
        (rest.SPOT_SYMBOLS, "GET", "/api/v2/symbols", 4),
        (rest.FUTURES_CONTRACTS, "GET", "/api/v1/contracts/active", 3),
        (rest.SPOT_TICKERS, "GET", "/api/v1/market/allTickers", 15),
        (rest.SPOT_TRADES, "GET", "/api/v1/market/histories", 3),
        (rest.FUTURES_TRADES, "GET", "/api/v1/trade/history", 5),
        (rest.STATUS, "GET", "/api/v1/status", 4),
        (rest.SPOT_BOOK, "GET", "/api/v3/market/orderbook/level2", 3),
        (rest.SPOT_BOOK_100, "GET", "/api/v1/market/orderbook/level2_100", 2),
        (rest.FUTURES_BOOK, "GET", "/api/v1/level2/snapshot", 3),
        (rest.SPOT_TIME, "GET", "/api/v1/timestamp", 3),
    ],
)
def test_what_requests_are_and_cost(endpoint: Any, method: str, path: str, weight: int) -> None:
    assert (endpoint.method, endpoint.path, endpoint.weight) == (method, path, weight)


def test_a_signed_request_only_reads() -> None:
    with pytest.raises(TypeError):
        rest.SignedEndpoint("/api/v1/orders", 2, method="POST")  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        rest.SPOT_BOOK.method = "POST"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("400001", CredentialsRefused),
        ("400002", ClockOff),
        *((f"40000{last}", CredentialsRefused) for last in range(3, 8)),
        *((code, ExchangeError) for code in ("400000", "400008", "400100", "429000", "404000", None)),
    ],
)
def test_an_error_says_what_to_do_next(code: str | None, kind: type[ExchangeError]) -> None:
    error = refusal("no", code=code, retry_after=3.0, signed=True)
    assert type(error) is kind
    assert isinstance(error, CredentialsRefused) == (code is not None and "400001" <= code <= "400007")
    assert (error.code, error.message, error.retry_after) == (code, "no", 3.0)
    error = refusal("no", code=code, retry_after=3.0, signed=False)
    assert type(error) is ExchangeError, "it has nothing to do with credentials that were not sent"
    assert (error.code, error.message, error.retry_after) == (code, "no", 3.0)


@pytest.mark.parametrize("signed", [False, True])
def test_what_does_not_mend_by_asking_again_is_known_by_its_code(signed: bool) -> None:
    """Whatever is wrong with who asks, and with what is asked for; not what is of this moment."""
    lasting = [f"40000{last}" for last in range(1, 8)] + ["200003", "400100", "404000", "411100", "900001"]
    assert all(is_lasting(refusal("no", code=code, signed=signed)) for code in lasting)
    assert not any(is_lasting(refusal("no", code=code, signed=signed)) for code in ("429000", "500000", "400000", None))


def test_what_says_that_there_is_no_such_symbol() -> None:
    codes = ("200003", "900001", "400100", "404000", None)
    assert [is_of_symbol(refusal("no", code=code, signed=False)) for code in codes] == [True, True, False, False, False]


def test_a_block_is_of_the_address_and_an_overload_of_one_server() -> None:
    of_address: list[tuple[int, str | None]] = [(403, None), (429, None), (200, "429000"), (200, "200002")]
    assert all(concerns_address(*told) for told in of_address)
    assert not any(concerns_address(status, "500000") for status in (200, 401, 404, 500, 503))
