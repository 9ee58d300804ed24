"""Faults of the exchange itself: what it refuses, withholds, repeats, forgets and gets wrong."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs

from kufeed.testing import checks, complaints, tamper, wire
from kufeed.testing.conversation import DROP_AFTER_509
from kufeed.testing.hazards import Fault, LastingFault, Severity, among, any_of, between
from kufeed.testing.market import OPEN
from kufeed.testing.records import BookFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from kufeed.testing.exchange import Exchange
    from kufeed.testing.records import Damage
    from kufeed.testing.session import Session

SYMBOLS = ("XBTUSDTM", "ETHUSDTM", "BTC-USDT", "ETH-USDT")
"""What every exchange has."""
ERRORS = (429, 500, 503, ("429000", "Too Many Requests"), ("500000", "Internal Server Error"))

_MESSAGES = 100_000  # that a filter waits for, or holds
_IN_ONE_MOMENT = 10_000  # which take the exchange about a second


def _error(default: int | None, *values: Any) -> Any:
    return any_of(default, *values, check=checks.is_error, words=checks.ERROR, optional=default is None)


def _retry_after() -> Any:
    words = "what a header can say"
    return any_of(None, None, None, "1", "5", check=checks.is_header, words=words, optional=True)


def _some_symbol() -> Any:
    return any_of(None, None, *SYMBOLS, check=checks.is_name, words="a symbol", optional=True)


def _symbol(default: str, *values: str) -> Any:
    return any_of(default, *values, check=checks.is_name, words="a symbol")


def _check_symbol(exchange: Exchange, symbol: str | None) -> None:
    if symbol is not None and not exchange.has(symbol):
        raise LookupError(f"this exchange does not have {symbol}")


def _overlay_member(exchange: Exchange, field: str, member: object) -> Callable[[], None]:
    """Have *member* be in that set of the faults for a while."""

    def write(inside: bool) -> None:
        members = getattr(exchange.faults, field)
        if inside:
            members.add(member)
        else:
            members.discard(member)

    return exchange.overlays.lay((field, member), True, lambda: member in getattr(exchange.faults, field), write)


@attrs.frozen(kw_only=True, repr=False)
class RefuseTokens(LastingFault):
    """Token requests get `error`: an HTTP status, or KuCoin's code and message in a reply with HTTP 200.

    `retry_after` is the `Retry-After` header that comes with a status.
    """

    severity: ClassVar[Severity] = "brutal"
    error: int | tuple[str, str] = _error(503, *ERRORS)
    retry_after: str | None = _retry_after()

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.overlay(token_error=self.error, token_retry_after=self.retry_after)


@attrs.frozen(kw_only=True, repr=False)
class RefuseRequests(LastingFault):
    """All other requests get `error`, as with `RefuseTokens`."""

    severity: ClassVar[Severity] = "brutal"
    error: int | tuple[str, str] = _error(503, *ERRORS)
    retry_after: str | None = _retry_after()

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.overlay(request_error=self.error, request_retry_after=self.retry_after)


@attrs.frozen(kw_only=True, repr=False)
class RefuseUpgrades(LastingFault):
    """The upgrade to a WebSocket gets the HTTP status `error`."""

    severity: ClassVar[Severity] = "brutal"
    error: int = any_of(503, 429, 500, 502, 503, check=checks.is_status, words=checks.STATUS)
    retry_after: str | None = _retry_after()

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.overlay(upgrade_error=self.error, upgrade_retry_after=self.retry_after)


@attrs.frozen(kw_only=True, repr=False)
class SpoilReplies(LastingFault):
    """Bodies of REST replies are `"slow"` (a byte every 0.1 s), `"endless"`, `"garbage"` or `"short"` (the connection
    ends before the body does)."""

    severity: ClassVar[Severity] = "brutal"
    how: Literal["slow", "endless", "garbage", "short"] = among("garbage", "slow", "endless", "garbage", "short")

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.overlay(reply_bodies=self.how)


@attrs.frozen(kw_only=True, repr=False)
class ExpireTokens(Fault):
    """All tokens issued so far are expired for later dials; open connections stay."""

    severity: ClassVar[Severity] = "brutal"

    def strike(self, exchange: Exchange) -> None:
        exchange.expire_tokens()


@attrs.frozen(kw_only=True, repr=False)
class TokenLife(LastingFault):
    """Tokens issued meanwhile live `seconds`; then their connection is cut."""

    severity: ClassVar[Severity] = "brutal"
    seconds: float = between(5.0, 1.0, 10.0, least=0.001)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.overlay(token_life=self.seconds)


@attrs.frozen(kw_only=True, repr=False)
class SpoilWelcomes(LastingFault):
    """The welcome of new connections is `"missing"`, or `seconds` `"late"`."""

    severity: ClassVar[Severity] = "rough"
    how: Literal["missing", "late"] = among("missing", "missing", "late")
    seconds: float = between(1.0, 0.1, 3.0)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        if self.how == "missing":
            return exchange.overlay(withhold_welcome=True)
        return exchange.overlay(late_welcome=self.seconds)


@attrs.frozen(kw_only=True, repr=False)
class SpoilAcks(LastingFault):
    """Acks are `"missing"`, `seconds` `"late"`, `"twice"`, have an id that nobody used (`"wrong"`), or answer a request
    of the connection before (`"old"`)."""

    severity: ClassVar[Severity] = "rough"
    how: Literal["missing", "late", "twice", "wrong", "old"] = among(
        "missing", "missing", "late", "twice", "wrong", "old"
    )
    seconds: float = between(1.0, 0.1, 3.0)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        if self.how == "late":
            return exchange.overlay(late_acks=self.seconds)
        field = {"missing": "withhold_acks", "twice": "ack_twice", "wrong": "wrong_acks", "old": "old_acks"}[self.how]
        return exchange.overlay(**{field: True})


@attrs.frozen(kw_only=True, repr=False)
class SpoilPongs(LastingFault):
    """Pongs are `"missing"`, `seconds` `"late"`, `"twice"`, or have an id that nobody used (`"wrong"`)."""

    severity: ClassVar[Severity] = "rough"
    how: Literal["missing", "late", "twice", "wrong"] = among("missing", "missing", "late", "twice", "wrong")
    seconds: float = between(1.0, 0.1, 3.0)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        if self.how == "late":
            return exchange.overlay(late_pongs=self.seconds)
        field = {"missing": "withhold_pongs", "twice": "pong_twice", "wrong": "wrong_pongs"}[self.how]
        return exchange.overlay(**{field: True})


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

    def strike(self, exchange: Exchange) -> None:
        for session in exchange.sessions:
            session.reply(self._frame(session, exchange))
            if self.meaning in ("401 token", "509 rate"):
                session.cut_soon(DROP_AFTER_509)

    def _frame(self, session: Session, exchange: Exchange) -> str:
        match self.meaning:
            case "401 token":
                return complaints.expired_token()
            case "404 topic":
                topic = next(iter(session.held), "/market/level2:BSV-BTC")
                return complaints.no_such_topic(topic)
            case "404 odd":
                return wire.error("nobody", 404, "not found")
            case "509 rate":
                return complaints.too_many_frames(session.connect_id)
            case "509 topics":
                most = exchange.limits.topics(session.market) or 100
                return complaints.too_many_topics(most)
            case "509 symbols":
                most = exchange.limits.symbols_per_frame or 100
                return complaints.too_many_symbols(most)
            case "415 type":
                return complaints.no_such_type()


@attrs.frozen(kw_only=True, repr=False)
class MuteTopics(LastingFault):
    """Topics of `symbol` (None: all topics) are acked as usual and never pushed; all else goes on."""

    severity: ClassVar[Severity] = "brutal"
    symbol: str | None = _some_symbol()

    def check(self, exchange: Exchange) -> None:
        _check_symbol(exchange, self.symbol)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return _overlay_member(exchange, "mute_symbols", self.symbol or "*")


@attrs.frozen(kw_only=True, repr=False)
class IgnoreTopics(LastingFault):
    """A subscribe naming a topic of `symbol` (None: any) is not answered, and the topic gets no pushes on it."""

    severity: ClassVar[Severity] = "brutal"
    symbol: str | None = _some_symbol()

    def check(self, exchange: Exchange) -> None:
        _check_symbol(exchange, self.symbol)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return _overlay_member(exchange, "ignore_symbols", self.symbol or "*")


@attrs.frozen(kw_only=True, repr=False)
class Stall(LastingFault):
    """The whole exchange falls silent: nothing is read, answered or pushed. Then it goes on where it was."""

    severity: ClassVar[Severity] = "rough"

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        def write(frozen: bool) -> None:
            if frozen:
                exchange.freeze()
            else:
                exchange.thaw()

        return exchange.overlays.lay("frozen", True, lambda: exchange.is_frozen, write)


@attrs.frozen(kw_only=True, repr=False)
class Close(Fault):
    """Every WebSocket is closed with a close frame of `code`."""

    severity: ClassVar[Severity] = "rough"
    code: int = any_of(
        1001, 1000, 1001, 1008, 1011, 1012, 4000, check=checks.is_close_code, words="a code that may be sent"
    )

    def strike(self, exchange: Exchange) -> None:
        for session in exchange.sessions:
            session.close_soon(self.code)


@attrs.frozen(kw_only=True, repr=False)
class Restart(LastingFault):
    """The exchange restarts: everything open is cut, what comes is refused for `lasting` seconds, tokens are void, and
    the books are numbered anew from 0."""

    severity: ClassVar[Severity] = "brutal"

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        end = exchange.overlay(refuse_dials=True)
        exchange.restart()
        return end


@attrs.frozen(kw_only=True, repr=False)
class ServerDown(LastingFault):
    """One instance server is dead: what is open on it is cut, what comes is refused."""

    severity: ClassVar[Severity] = "rough"
    server: int = between(0, 0, 0)

    def check(self, exchange: Exchange) -> None:
        exchange.check_server(self.server)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        end = _overlay_member(exchange, "dead_servers", self.server)
        exchange.cut_server(self.server)
        return end


@attrs.frozen(kw_only=True, repr=False)
class _MessageFault(Fault):
    """About the next messages of `symbol` (None: any) on each open connection: `skip` pass, `count` are treated.

    However late they come, unless the plan is cancelled.
    """

    severity: ClassVar[Severity] = "brutal"
    symbol: str | None = _some_symbol()
    skip: int = between(0, 0, 3, most=_MESSAGES)
    count: int = between(1, 1, 4, least=1, most=_MESSAGES)

    def check(self, exchange: Exchange) -> None:
        _check_symbol(exchange, self.symbol)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        struck = [(session.tampers, self.make_tamper()) for session in exchange.sessions]
        for tampers, one in struck:
            tampers.append(one)

        def withdraw() -> None:
            for tampers, one in struck:
                tamper.withdraw(tampers, one)

        return withdraw

    @abstractmethod
    def make_tamper(self) -> tamper.Tamper:
        """What it does on one connection."""


@attrs.frozen(kw_only=True, repr=False)
class DropMessages(_MessageFault):
    """Of the next messages of `symbol` (None: any) on each open connection, `skip` pass and then `count` are not
    sent."""

    def make_tamper(self) -> tamper.Tamper:
        return tamper.Drop(self.symbol, self.skip, self.count)


@attrs.frozen(kw_only=True, repr=False)
class RepeatMessages(_MessageFault):
    """As `DropMessages`, but they are sent twice; the second time after `delay` further messages of that connection."""

    delay: int = between(0, 0, 3, most=_MESSAGES)

    def make_tamper(self) -> tamper.Tamper:
        return tamper.Repeat(self.symbol, self.skip, self.count, self.delay)


@attrs.frozen(kw_only=True, repr=False)
class ReorderMessages(_MessageFault):
    """As `DropMessages`, but they are held until the last of the `count` comes, and sent, the last one first."""

    count: int = between(2, 2, 4, least=2, most=_MESSAGES)

    def make_tamper(self) -> tamper.Tamper:
        return tamper.Reorder(self.symbol, self.skip, self.count)


@attrs.frozen(kw_only=True, repr=False)
class CorruptMessages(_MessageFault):
    """As `DropMessages`, but they are sent damaged, in a way that a client can see: half of the JSON is missing
    (`"cut off"`), it is no JSON or has no `data`, `data` is a number (`"wrong type"`), the numbers in it are none that
    an exchange means, or the topic is unknown."""

    how: tamper.Corruption = among("cut off", *tamper.CORRUPTIONS)

    def make_tamper(self) -> tamper.Tamper:
        return tamper.Corrupt(self.symbol, self.skip, self.count, self.how)


@attrs.frozen(kw_only=True, repr=False)
class SpoilBooks(Fault):
    """The next `times` requests for a book (of `symbol`; None: any) meet what `BookFault` has by the same names.

    However late they come, unless the plan is cancelled.
    """

    severity: ClassVar[Severity] = "brutal"
    symbol: str | None = _some_symbol()
    times: int = between(1, 1, 3, least=1)
    error: int | tuple[str, str] | None = _error(None, None, None, *ERRORS)
    delay: float = any_of(0.0, 0.0, 0.0, 0.3, 2.0, 1e6, check=checks.is_wait, words="a number of seconds, 0 or more")
    stale: int = between(0, 0, 6)
    damage: Damage | None = among(None, None, "crossed", "duplicate", "garbage")

    def check(self, exchange: Exchange) -> None:
        _check_symbol(exchange, self.symbol)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        books, source = exchange.faults.books, object()
        symbols = None if self.symbol is None else (self.symbol,)
        fault = BookFault(
            error=self.error,
            delay=self.delay,
            stale=self.stale,
            damage=self.damage,
            times=self.times,
            symbols=symbols,
            source=source,
        )
        books.append(fault)

        def withdraw() -> None:
            books[:] = [one for one in books if one.source is not source]

        return withdraw


@attrs.frozen(kw_only=True, repr=False)
class SkewClock(LastingFault):
    """The exchange's clock is `seconds` ahead (behind, where negative): it jumps there, and back when it is over."""

    severity: ClassVar[Severity] = "brutal"
    seconds: float = any_of(1.0, -30.0, -1.0, 1.0, 30.0, check=checks.is_finite, words="a finite number of seconds")

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.overlay(clock_skew=self.seconds)


@attrs.frozen(kw_only=True, repr=False)
class Burst(Fault):
    """`trades` trades of `symbol` and `changes` changes of its book within one moment."""

    severity: ClassVar[Severity] = "mild"
    symbol: str = _symbol("XBTUSDTM", *SYMBOLS)
    trades: int = between(20, 0, 60, most=_IN_ONE_MOMENT)
    changes: int = between(20, 0, 60, most=_IN_ONE_MOMENT)

    def check(self, exchange: Exchange) -> None:
        exchange.status(self.symbol)

    def strike(self, exchange: Exchange) -> None:
        if exchange.status(self.symbol) == OPEN:
            if self.trades:
                exchange.trade(self.symbol, self.trades)
            if self.changes:
                exchange.change_book(self.symbol, self.changes)


@attrs.frozen(kw_only=True, repr=False)
class LowerLimits(LastingFault):
    """The exchange enforces less than it says: so many dials a minute and market, so many client messages in 10 s.

    Those of the 10 s or the minute before it count too. What it refuses meanwhile is nobody's fault.
    """

    severity: ClassVar[Severity] = "brutal"
    dials_per_minute: int = between(2, 1, 5, least=1)
    messages_per_10s: int = between(4, 2, 10, least=1)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.overlay(dials_per_minute=self.dials_per_minute, messages_per_10s=self.messages_per_10s)


@attrs.frozen(kw_only=True, repr=False)
class Maintain(LastingFault):
    """Maintenance: the status says so; with `refuses`, tokens and upgrades are refused with HTTP 503 meanwhile."""

    severity: ClassVar[Severity] = "brutal"
    refuses: bool = any_of(True, True, False, check=checks.is_flag, words="True or False")

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.overlay(maintenance=("close", "maintenance"), maintenance_refuses=self.refuses)


@attrs.frozen(kw_only=True, repr=False)
class Halt(LastingFault):
    """`symbol` is not traded: its topics stay, nothing is pushed, its status is `Paused`."""

    severity: ClassVar[Severity] = "rough"
    symbol: str = _symbol("XBTUSDTM", *SYMBOLS)

    def check(self, exchange: Exchange) -> None:
        exchange.status(self.symbol)

    def strike(self, exchange: Exchange) -> Callable[[], None] | None:
        return None if exchange.status(self.symbol) == "Closed" else exchange.overlay_status(self.symbol)


@attrs.frozen(kw_only=True, repr=False)
class Delist(Fault):
    """`symbol` is forgotten, for good: nothing of it is pushed, and requests and subscribes for it are refused."""

    severity: ClassVar[Severity] = "brutal"
    symbol: str = _symbol("ETHUSDTM", "ETHUSDTM", "ETH-USDT")

    def check(self, exchange: Exchange) -> None:
        exchange.status(self.symbol)

    def strike(self, exchange: Exchange) -> None:
        if exchange.status(self.symbol) != "Closed":
            exchange.delist(self.symbol)
