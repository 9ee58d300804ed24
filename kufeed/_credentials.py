"""API credentials: secrets that nothing shows, and what they sign."""

from __future__ import annotations

import base64
import hmac
import os
from typing import TYPE_CHECKING, Any

import attrs

from ._untrusted import is_visible
from .errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_TELLING = 12
"""How much of a secret counts as telling it."""


class Secret(str):
    """Text that no repr shows: neither does a traceback that comes with the values of variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"


def repeats(text: str, secret: str) -> bool:
    """Whether *text* of a peer's repeats *secret*, be it a piece of it."""
    pieces = range(max(1, len(secret) - _TELLING + 1))
    return len(secret) >= _TELLING and any(secret[start : start + _TELLING] in text for start in pieces)


def _hidden(value: object) -> Secret:
    """*value* as a secret; what is not text as an empty one, which no field takes."""
    return Secret(value if isinstance(value, str) else "")


def _visible(_: object, field: attrs.Attribute[Any], value: Any) -> None:
    if not value or not is_visible(value):
        raise UsageError(f"{field.name} must be text of visible ASCII characters, without blanks")


def _one_line(_: object, field: attrs.Attribute[Any], value: Any) -> None:
    # A person chose it, so it may be in any language; what surrounds it came from a file or a form.
    if not value or not value.isprintable() or value != value.strip():
        raise UsageError(f"{field.name} must be text of printable characters, without blanks around it")


@attrs.frozen(repr=False, init=False)
class Credentials:
    """An API key of KuCoin's with its secret and passphrase, for requests that must be signed. "General" permission is
    enough: kufeed reads market data and sends nothing else.

    No repr shows any of the three, nor does a traceback that comes with the values of variables. Raises `UsageError`
    naming the field, never its value, for what cannot be one.
    """

    key: str = attrs.field(validator=_visible)
    secret: str = attrs.field(validator=_visible)
    passphrase: str = attrs.field(validator=_one_line)
    """The one that was chosen when the key was made, as it was typed."""

    def __init__(self, key: str, secret: str, passphrase: str) -> None:
        # By names that hide them, before anything can go wrong.
        key, secret, passphrase = map(_hidden, (key, secret, passphrase))
        self.__attrs_init__(key, secret, passphrase)

    @classmethod
    def from_env(cls, prefix: str = "KUCOIN_", environ: Mapping[str, str] | None = None) -> Credentials:
        """Those of the environment variables *prefix* + `KEY`, `SECRET` and `PASSPHRASE`.

        Only when called: nothing else in kufeed reads them. *environ* stands in for the process' own environment.
        Raises `UsageError` naming the variable that is absent, empty, or cannot be one.
        """
        environ = os.environ if environ is None else environ
        found = {name: Secret(environ.get(f"{prefix}{name.upper()}", "")) for name in attrs.fields_dict(cls)}
        del environ  # no traceback that comes with the values of variables shows it
        for field in attrs.fields(cls):
            variable = f"{prefix}{field.name.upper()}"
            if not found[field.name]:
                raise UsageError(f"{variable} is not set in the environment")
            try:
                field.validator(None, field, found[field.name])
            except UsageError as error:
                raise UsageError(f"{variable}: {error}") from None
        return cls(**found)

    def __repr__(self) -> str:
        return "<Credentials>"


def signed_headers(
    credentials: Credentials, method: str, path_with_query: str, body: str, time_ms: int
) -> dict[str, str]:
    """The headers that sign a request (KuCoin, authentication, key version 3; official SDKs send it since 2025-03).

    *path_with_query* is the one that is sent, its query without percent signs. What tells something is a `Secret`.
    """
    return {
        "KC-API-KEY": credentials.key,
        "KC-API-SIGN": _signature(credentials.secret, f"{time_ms}{method}{path_with_query}{body}"),
        "KC-API-TIMESTAMP": str(time_ms),
        "KC-API-PASSPHRASE": _signature(credentials.secret, credentials.passphrase),
        "KC-API-KEY-VERSION": "3",
    }


def _signature(secret: str, text: str) -> Secret:
    return Secret(base64.b64encode(hmac.digest(secret.encode(), text.encode(), "sha256")).decode())
