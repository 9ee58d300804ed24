"""Faults of the exchange itself: what it refuses, withholds, repeats, forgets and gets wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import attrs

from kufeed.testing.hazards import Fault, LastingFault, Severity, among, any_of, between

if TYPE_CHECKING:
    from kufeed.testing.records import Damage

SYMBOLS = ("XBTUSDTM", "ETHUSDTM", "BTC-USDT", "ETH-USDT")
"""What every exchange has."""
ERRORS = (429, 500, 503, ("429000", "Too Many Requests"), ("500000", "Internal Server Error"))


@attrs.frozen(kw_only=True, repr=False)
class RefuseTokens(LastingFault):
    """Token requests get `error`: an HTTP status, or KuCoin's code and message in a reply with HTTP 200.

    `retry_after` is the `Retry-After` header that comes with a status.
    """

    severity: ClassVar[Severity] = "brutal"
    error: int | tuple[str, str] = any_of(503, *ERRORS)
    retry_after: str | None = any_of(None, None, None, "1", "5")


@attrs.frozen(kw_only=True, repr=False)
class RefuseRequests(LastingFault):
    """All other requests get `error`, as with `RefuseTokens`."""

    severity: ClassVar[Severity] = "brutal"
    error: int | tuple[str, str] = any_of(503, *ERRORS)
    retry_after: str | None = any_of(None, None, None, "1", "5")


@attrs.frozen(kw_only=True, repr=False)
class RefuseUpgrades(LastingFault):
    """The upgrade to a WebSocket gets the HTTP status `error`."""

    severity: ClassVar[Severity] = "brutal"
    error: int = any_of(503, 429, 500, 502, 503)
    retry_after: str | None = any_of(None, None, None, "1", "5")


@attrs.frozen(kw_only=True, repr=False)
class SpoilReplies(LastingFault):
    """Bodies of REST replies are `"slow"` (a byte every 0.1 s), `"endless"`, `"garbage"` or `"short"` (the connection
    ends before the body does)."""

    severity: ClassVar[Severity] = "brutal"
    how: Literal["slow", "endless", "garbage", "short"] = among("garbage", "slow", "endless", "garbage", "short")


@attrs.frozen(kw_only=True, repr=False)
class ExpireTokens(Fault):
    """All tokens issued so far are expired for later dials; open connections stay."""

    severity: ClassVar[Severity] = "brutal"


@attrs.frozen(kw_only=True, repr=False)
class TokenLife(LastingFault):
    """Tokens issued meanwhile live `seconds`; then their connection is cut."""

    severity: ClassVar[Severity] = "brutal"
    seconds: float = between(5.0, 1.0, 10.0, least=0.001)


@attrs.frozen(kw_only=True, repr=False)
class SpoilWelcomes(LastingFault):
    """The welcome of new connections is `"missing"`, or `seconds` `"late"`."""

    severity: ClassVar[Severity] = "rough"
    how: Literal["missing", "late"] = among("missing", "missing", "late")
    seconds: float = between(1.0, 0.1, 3.0)


@attrs.frozen(kw_only=True, repr=False)
class SpoilAcks(LastingFault):
    """Acks are `"missing"`, `seconds` `"late"`, `"twice"`, have an id that nobody used (`"wrong"`), or answer a request
    of the connection before (`"old"`)."""

    severity: ClassVar[Severity] = "rough"
    how: Literal["missing", "late", "twice", "wrong", "old"] = among(
        "missing", "missing", "late", "twice", "wrong", "old"
    )
    seconds: float = between(1.0, 0.1, 3.0)


@attrs.frozen(kw_only=True, repr=False)
class SpoilPongs(LastingFault):
    """Pongs are `"missing"`, `seconds` `"late"`, `"twice"`, or have an id that nobody used (`"wrong"`)."""

    severity: ClassVar[Severity] = "rough"
    how: Literal["missing", "late", "twice", "wrong"] = among("missing", "missing", "late", "twice", "wrong")
    seconds: float = between(1.0, 0.1, 3.0)


Complaint = Literal["401 token", "404 topic", "404 odd", "509 rate", "509 topics", "509 symbols", "415 type"]


@attrs.frozen(kw_only=True, repr=False)
class Complain(Fault):
    """Every open connection gets an error frame that nothing has caused, in one of the meanings that codes have.

    After `"401 token"` and `"509 rate"` the exchange drops the connection, as it does in earnest.
    """

    severity: ClassVar[Severity] = "brutal"
    meaning: Complaint = among(
        "401 token", "401 token", "404 topic", "404 odd", "509 rate", "509 topics", "509 symbols", "415 type"
    )


@attrs.frozen(kw_only=True, repr=False)
class MuteTopics(LastingFault):
    """Topics of `symbol` (None: all topics) are acked as usual and never pushed; all else goes on."""

    severity: ClassVar[Severity] = "brutal"
    symbol: str | None = any_of(None, None, *SYMBOLS)


@attrs.frozen(kw_only=True, repr=False)
class IgnoreTopics(LastingFault):
    """A subscribe naming a topic of `symbol` (None: any) is not answered, and the topic gets no pushes on it."""

    severity: ClassVar[Severity] = "brutal"
    symbol: str | None = any_of(None, None, *SYMBOLS)


@attrs.frozen(kw_only=True, repr=False)
class Stall(LastingFault):
    """The whole exchange falls silent: nothing is read, answered or pushed. Then it goes on where it was."""

    severity: ClassVar[Severity] = "rough"


@attrs.frozen(kw_only=True, repr=False)
class Close(Fault):
    """Every WebSocket is closed with a close frame of `code`."""

    severity: ClassVar[Severity] = "rough"
    code: int = any_of(1001, 1000, 1001, 1008, 1011, 1012, 4000)


@attrs.frozen(kw_only=True, repr=False)
class Restart(LastingFault):
    """The exchange restarts: everything open is cut, what comes is refused for `lasting` seconds, tokens are void, and
    the books are numbered anew from 0."""

    severity: ClassVar[Severity] = "brutal"


@attrs.frozen(kw_only=True, repr=False)
class ServerDown(LastingFault):
    """One instance server is dead: what is open on it is cut, what comes is refused."""

    severity: ClassVar[Severity] = "rough"
    server: int = between(0, 0, 0)


@attrs.frozen(kw_only=True, repr=False)
class DropMessages(Fault):
    """Of the next messages of `symbol` (None: any) on each connection, `skip` pass and then `count` are not sent."""

    severity: ClassVar[Severity] = "brutal"
    symbol: str | None = any_of(None, None, *SYMBOLS)
    skip: int = between(0, 0, 3)
    count: int = between(1, 1, 4, least=1)


@attrs.frozen(kw_only=True, repr=False)
class RepeatMessages(Fault):
    """As `DropMessages`, but they are sent twice; the second time after `delay` further messages of that connection."""

    severity: ClassVar[Severity] = "brutal"
    symbol: str | None = any_of(None, None, *SYMBOLS)
    skip: int = between(0, 0, 3)
    count: int = between(1, 1, 4, least=1)
    delay: int = between(0, 0, 3)


@attrs.frozen(kw_only=True, repr=False)
class ReorderMessages(Fault):
    """As `DropMessages`, but they are sent, the last of the `count` first."""

    severity: ClassVar[Severity] = "brutal"
    symbol: str | None = any_of(None, None, *SYMBOLS)
    skip: int = between(0, 0, 3)
    count: int = between(2, 2, 4, least=2)


Corruption = Literal["cut off", "not json", "no data", "wrong type", "bad number", "unknown topic", "huge number"]


@attrs.frozen(kw_only=True, repr=False)
class CorruptMessages(Fault):
    """As `DropMessages`, but they are sent damaged, in a way that a client can see."""

    severity: ClassVar[Severity] = "brutal"
    symbol: str | None = any_of(None, None, *SYMBOLS)
    skip: int = between(0, 0, 3)
    count: int = between(1, 1, 4, least=1)
    how: Corruption = among(
        "cut off", "cut off", "not json", "no data", "wrong type", "bad number", "unknown topic", "huge number"
    )


@attrs.frozen(kw_only=True, repr=False)
class SpoilBooks(Fault):
    """The next `times` requests for a book (of `symbol`; None: any) meet what `BookFault` has by the same names."""

    severity: ClassVar[Severity] = "brutal"
    symbol: str | None = any_of(None, None, *SYMBOLS)
    times: int = between(1, 1, 3, least=1)
    error: int | tuple[str, str] | None = any_of(None, None, None, *ERRORS)
    delay: float = any_of(0.0, 0.0, 0.0, 0.3, 2.0, 1e6)
    stale: int = between(0, 0, 6)
    damage: Damage | None = among(None, None, "crossed", "duplicate", "garbage")


@attrs.frozen(kw_only=True, repr=False)
class SkewClock(LastingFault):
    """The exchange's clock is `seconds` ahead (behind, where negative): it jumps there, and back when it is over."""

    severity: ClassVar[Severity] = "brutal"
    seconds: float = any_of(1.0, -30.0, -1.0, 1.0, 30.0)


@attrs.frozen(kw_only=True, repr=False)
class Burst(Fault):
    """`trades` trades of `symbol` and `changes` changes of its book within one moment."""

    severity: ClassVar[Severity] = "mild"
    symbol: str = any_of("XBTUSDTM", *SYMBOLS)
    trades: int = between(20, 0, 60)
    changes: int = between(20, 0, 60)


@attrs.frozen(kw_only=True, repr=False)
class LowerLimits(LastingFault):
    """The exchange enforces less than it says: so many dials a minute and market, so many client messages in 10 s.

    Of connections that are made meanwhile. What it refuses then is nobody's fault.
    """

    severity: ClassVar[Severity] = "brutal"
    dials_per_minute: int = between(2, 1, 5, least=1)
    messages_per_10s: int = between(4, 2, 10, least=1)


@attrs.frozen(kw_only=True, repr=False)
class Maintain(LastingFault):
    """Maintenance: the status says so; with `refuses`, tokens and upgrades are refused with HTTP 503 meanwhile."""

    severity: ClassVar[Severity] = "brutal"
    refuses: bool = any_of(True, True, False)


@attrs.frozen(kw_only=True, repr=False)
class Halt(LastingFault):
    """`symbol` is not traded: its topics stay, nothing is pushed, its status is `Paused`."""

    severity: ClassVar[Severity] = "rough"
    symbol: str = any_of("XBTUSDTM", *SYMBOLS)


@attrs.frozen(kw_only=True, repr=False)
class Delist(Fault):
    """`symbol` is forgotten, for good: nothing of it is pushed, and requests and subscribes for it are refused."""

    severity: ClassVar[Severity] = "brutal"
    symbol: str = any_of("ETHUSDTM", "ETHUSDTM", "ETH-USDT")
