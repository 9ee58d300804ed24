"""REST: what requests cost, what refusals mean, and how long a reply asks us to wait. Requests are sent elsewhere."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, ClassVar, Literal
from urllib.parse import quote

import attrs

from ..errors import ClockOff, CredentialsRefused, ExchangeError

if TYPE_CHECKING:
    from collections.abc import Mapping

WEIGHT_PER_WINDOW = 2000
"""Weight that one address may use in `WINDOW` seconds: the public pool (KuCoin, rate limit, 2025)."""
WINDOW = 30.0
LONGEST_WAIT = 3600.0
"""Seconds. No reply silences us for longer, whatever it says: a wait without a bound would be the peer's to choose."""

_BLOCKED = 30.0
"""How long an address is blocked (Cloudflare 1015, spot's HTTP 403: KuCoin spot and futures documentation, 2023)."""
_TOO_MANY = 10.0
"""How long code 200002 blocks (same source); used for a 429 that says nothing, which means overload (2025)."""
_QUOTA_CODES = ("429000", "200002")
_CLOUDFLARE_BLOCK = re.compile(rb"\b1015\b")


@attrs.frozen
class Endpoint:
    """A request that kufeed sends; anybody may."""

    method: Literal["GET", "POST"]
    path: str
    weight: int
    """What it costs of `WEIGHT_PER_WINDOW`."""


@attrs.frozen
class SignedEndpoint:
    """A request that must be signed, with a key of "General" permission. It only ever reads."""

    method: ClassVar[Literal["GET"]] = "GET"
    path: str
    weight: int


TOKEN = Endpoint("POST", "/api/v1/bullet-public", 10)
"""Apply connect token (public), both markets."""


def contract(symbol: str) -> Endpoint:
    """One futures contract, also one that is not open (KuCoin, get symbol)."""
    return Endpoint("GET", f"/api/v1/contracts/{quote(symbol, safe='')}", 3)


SPOT_BOOK_100 = Endpoint("GET", "/api/v1/market/orderbook/level2_100", 2)
"""100 levels of each side of a spot book, public (KuCoin, get part order book)."""
FUTURES_BOOK = Endpoint("GET", "/api/v1/level2/snapshot", 3)
"""A whole futures book, public (KuCoin, get full order book)."""
SPOT_SYMBOLS = Endpoint("GET", "/api/v2/symbols", 4)
"""All spot symbols (KuCoin, get all symbols; version 1 is deprecated since 2022-10-20)."""
FUTURES_CONTRACTS = Endpoint("GET", "/api/v1/contracts/active", 3)
"""All futures contracts that are open (KuCoin, get all symbols)."""
SPOT_TICKERS = Endpoint("GET", "/api/v1/market/allTickers", 15)
"""The tickers of all spot symbols, a snapshot every two seconds (KuCoin, get all tickers)."""
SPOT_BOOK = SignedEndpoint("/api/v3/market/orderbook/level2", 3)
"""A whole spot book (KuCoin, get full order book). Its weight is one of the user's pool (4000 in 30 s), and is taken
from the address' all the same: the smaller one."""
SPOT_TRADES = Endpoint("GET", "/api/v1/market/histories", 3)
"""The last 100 trades of a spot symbol (KuCoin, get trade history)."""
FUTURES_TRADES = Endpoint("GET", "/api/v1/trade/history", 5)
"""The last 100 trades of a contract (KuCoin, get trade history). No document at hand states the weights of these two:
they are what the larger clients count with."""
STATUS = Endpoint("GET", "/api/v1/status", 4)
"""Whether a market is open (KuCoin, get service status: 3 of spot, 4 of futures)."""
SPOT_TIME = Endpoint("GET", "/api/v1/timestamp", 3)
"""Milliseconds since the epoch (KuCoin, get server time)."""

_CLOCK_OFF = "400002"
_WHO_ASKS = ("400001", _CLOCK_OFF, "400003", "400004", "400005", "400006", "400007")

_UNKNOWN_SYMBOL = ("200003", "900001")
_LASTING = (*_WHO_ASKS, *_UNKNOWN_SYMBOL, "400100", "404000", "411100")
"""Who asks, symbol or parameter wrong, no such path, account frozen: the same request gets the same answer again."""


def is_lasting(error: ExchangeError) -> bool:
    """Whether *error* is a refusal that asking again does not mend: the user has to, or the exchange."""
    return error.code in _LASTING


def is_of_symbol(error: ExchangeError) -> bool:
    """Whether *error* says that there is no such symbol: 200003 of futures, 900001 of spot (KuCoin, REST errors)."""
    return error.code in _UNKNOWN_SYMBOL


def refusal(message: str, *, signed: bool, code: str | None = None, retry_after: float | None = None) -> ExchangeError:
    """The error that says what to do next about KuCoin's *code* (KuCoin, REST errors).

    Only of a *signed* request a code about who asks is one about the credentials.
    """
    kind = ExchangeError
    if signed and code in _WHO_ASKS:
        kind = ClockOff if code == _CLOCK_OFF else CredentialsRefused
    return kind(message, code=code, retry_after=retry_after)


def retry_after(
    status: int, headers: Mapping[str, str], *, code: str | None = None, body: bytes = b"", time_ns: int | None = None
) -> float | None:
    """Seconds that a reply asks us to send nothing, or None where it does not ask.

    *headers* have names in lower case; *code* is KuCoin's from the body's envelope, *body* what came where there is no
    envelope. What the server states wins: `gw-ratelimit-reset` in milliseconds where the quota is used up, then
    `Retry-After` in seconds or as a date, which is compared with the reply's own `Date`, or with our wall clock
    *time_ns* where it has none. Where it states nothing: 30 s for HTTP 403 and for Cloudflare's 1015, 10 s for HTTP
    429 and codes 429000 and 200002. Never more than an hour.
    """
    quota_used_up = status == 429 or code in _QUOTA_CODES
    stated = _milliseconds(headers.get("gw-ratelimit-reset")) if quota_used_up else None
    if stated is None and (status >= 300 or quota_used_up):
        stated = _seconds_or_date(headers.get("retry-after"), headers.get("date"), time_ns)
    if stated is None:
        if status == 403 or (status == 429 and code is None and _CLOUDFLARE_BLOCK.search(body[:4096])):
            stated = _BLOCKED
        elif quota_used_up:
            stated = _TOO_MANY
    return None if stated is None else min(stated, LONGEST_WAIT)


def concerns_address(status: int, code: str | None) -> bool:
    """Whether a wait is asked of our address, whichever host it talks to, and not by the state of one server."""
    return status in (403, 429) or code in _QUOTA_CODES


def _milliseconds(text: str | None) -> float | None:
    return None if (number := _whole(text)) is None else number / 1000


def _seconds_or_date(text: str | None, date: str | None, time_ns: int | None) -> float | None:
    if (number := _whole(text)) is not None:
        return float(number)
    # Both by the server's clock where it tells: ours may differ.
    then, now = _epoch_seconds(text), _epoch_seconds(date)
    if now is None and time_ns is not None:
        now = time_ns / 1e9
    return None if then is None or now is None else max(0.0, then - now)


def _epoch_seconds(date: str | None) -> float | None:
    try:
        read = parsedate_to_datetime(date or "")
    except (ValueError, OverflowError):
        return None
    return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()


def _whole(text: str | None) -> int | None:
    text = "" if text is None else text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
