"""The records that users receive: one class per kind of update, the same for spot and futures.

A record is frozen: the same object may stand in the queues of many subscriptions. Building a frozen attrs class of 13
slots takes 850 ns, a mutable one 190 ns, a mutable one frozen by changing its class 255 ns
(`python -m pytest tests/benchmarks/test_records.py --benchmark-only`), so decoders build with `fast_constructor`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import attrs

from .market import Topic, UpdateType

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .events import Gap

Number = Decimal | int


def _plain(value: object) -> str:
    """A value as a log shows it: a decimal by its digits, and text so that no terminal obeys it."""
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.value if isinstance(value, Side) else repr(value)


def _size(value: object) -> str:
    """A size with its unit: what is counted is contracts, an amount of currency is never an `int`."""
    return f"{value} contracts" if type(value) is int else _plain(value)


def first_row(rows: Sequence[object]) -> str:
    """The first row, and how many there are more: the best level stands for its side of a book."""
    more = f", {len(rows) - 1} more" if len(rows) > 1 else ""
    return f"[{rows[0]}{more}]" if rows else "[]"


def _time(time_ns: int | None) -> str:
    try:
        return "None" if time_ns is None else _datetime(time_ns).isoformat().replace("+00:00", "Z")
    except OverflowError:  # of the year 10000: no decoder lets that pass, but anybody may make a record
        return f"{time_ns} ns"


class Level(NamedTuple):
    """One price of a book and the size that stands there."""

    price: Decimal
    size: Number

    def __str__(self) -> str:
        return f"{_plain(self.price)} x {_size(self.size)}"

    def __repr__(self) -> str:
        return f"Level({self})"


class Side(StrEnum):
    """Who took: `buy` lifted an ask, `sell` hit a bid."""

    BUY = "buy"
    SELL = "sell"


@attrs.frozen(repr=False, weakref_slot=False)
class Update:
    """What every update carries. `isinstance(x, Update)` holds for each; use the subclasses to tell them apart.

    Where an annotation says `Decimal`, a feed with `FeedConfig(numbers=float)` gives a `float`.
    """

    kind: ClassVar[UpdateType]

    topic: Topic = attrs.field(repr=False)
    """The stream it came on; `str(update.topic)` is the wire topic with its one symbol."""
    symbol: str = attrs.field(repr=False)
    sequence: int | None
    """The exchange's own number, or None where the message has none. What it counts: the channel's row."""
    exchange_time_ns: int | None
    """The exchange's time stamp in nanoseconds since the epoch (UTC), or None where the message has none."""
    received_time_ns: int
    """This machine's clock when the bytes were read, in nanoseconds since the epoch (UTC)."""
    gap_before: Gap | None = attrs.field(default=None, kw_only=True, eq=False)
    """What is missing directly before this update, for the subscription that received it; None where nothing is."""
    late: bool = attrs.field(default=False, kw_only=True, eq=False)
    """Whether it was older than `FeedConfig.latency_warning` when it came; never true of one that is `misdated`."""
    misdated: bool = attrs.field(default=False, kw_only=True, eq=False)
    """Whether its `exchange_time_ns` is more than an hour behind or a minute ahead of this machine's clock."""
    raw: dict[str, Any] | None = attrs.field(default=None, kw_only=True, eq=False, repr=False)
    """The whole decoded message, where `FeedConfig(keep_raw=True)` asks for it; else None.

    The JSON decoder's own object, which everybody shares who receives an update made of it: read it, do not change it.
    By the default decoder, a number with a fraction is a `float` that also has the `text` that was sent.
    Part neither of comparisons nor of `repr()`.
    """

    @property
    def time_ns(self) -> int:
        """`exchange_time_ns`, or `received_time_ns` where the message has none."""
        return self.received_time_ns if self.exchange_time_ns is None else self.exchange_time_ns

    @property
    def latency(self) -> float | None:
        """Seconds from the exchange's time stamp to the receipt here; both clocks' errors included."""
        if self.exchange_time_ns is None:
            return None
        return (self.received_time_ns - self.exchange_time_ns) / 1e9

    @property
    def latency_ms(self) -> float | None:
        """The same in milliseconds."""
        return None if self.exchange_time_ns is None else (self.received_time_ns - self.exchange_time_ns) / 1e6

    @property
    def exchange_time(self) -> datetime | None:
        """`exchange_time_ns` as an aware UTC time, to the microsecond; None where the message has none."""
        return None if self.exchange_time_ns is None else _datetime(self.exchange_time_ns)

    def __repr__(self) -> str:
        """One line for a log: the wire topic, UTC times for the `_ns` fields, the best levels of a book."""
        said = [str(self.topic)]
        if self.symbol != self.topic.symbol:
            said.append(f"symbol={self.symbol!r}")
        for field in attrs.fields(type(self)):
            name, value = field.name, getattr(self, field.name)
            if field.repr is False or value is field.default:
                continue
            if name.endswith("_ns"):
                said.append(f"{name.removesuffix('_ns')}={_time(value)}")
            else:
                said.append(f"{name}={(field.repr if callable(field.repr) else _plain)(value)}")
        return f"{type(self).__name__}({', '.join(said)})"


@attrs.frozen(repr=False, weakref_slot=False)
class Ticker(Update):
    """The best bid and ask. `sequence` is the order book's: the book at that number has exactly these prices.

    Spot (`/market/ticker`, every 100 ms) adds the last trade; futures (`/contractMarket/tickerV2`, on change) does not.
    Prices are exact; sizes are an amount of the base currency (spot, `Decimal`) or contracts (futures, `int`).
    None on a side means that the exchange sent none, as for an empty side of the book.
    """

    kind: ClassVar[UpdateType] = UpdateType.TICKER

    bid: Decimal | None
    bid_size: Number | None = attrs.field(repr=_size)
    ask: Decimal | None
    ask_size: Number | None = attrs.field(repr=_size)
    price: Decimal | None = None
    """Price of the last trade; spot only."""
    size: Number | None = None
    """Size of the last trade; spot only."""


@attrs.frozen(repr=False, weakref_slot=False)
class Trade(Update):
    """One execution. `sequence` counts trades, not book changes; numbers may be skipped.

    `size` is an amount of the base currency (spot, `Decimal`) or contracts (futures, `int`); `side` is the taker's.
    """

    kind: ClassVar[UpdateType] = UpdateType.TRADE

    price: Decimal
    size: Number = attrs.field(repr=_size)
    side: Side
    trade_id: str
    """Of a spot trade that is `backfilled`, its `sequence`: the history has no ids, and today both are the same."""
    backfilled: bool = attrs.field(default=False, kw_only=True, eq=False)
    """Whether it was recovered from the exchange's history after a hole. Its receipt is that of the history; it is
    neither `late` nor `misdated`, whatever its time."""


@attrs.frozen(repr=False, weakref_slot=False)
class Level1(Update):
    """The best bid and ask of a spot book, every 10 ms where they changed. Not numbered: `sequence` is None."""

    kind: ClassVar[UpdateType] = UpdateType.LEVEL1

    bid: Decimal | None
    bid_size: Decimal | None
    ask: Decimal | None
    ask_size: Decimal | None


@attrs.frozen(repr=False, weakref_slot=False)
class Depth(Update):
    """The top of a book, whole, every 100 ms where it changed. There may be fewer levels than were asked for.

    `sequence` is the book's (futures; absent in messages of 2020) or None (spot).
    """

    kind: ClassVar[UpdateType] = UpdateType.DEPTH

    bids: tuple[Level, ...] = attrs.field(repr=first_row)
    """Best first."""
    asks: tuple[Level, ...] = attrs.field(repr=first_row)
    """Best first."""


@attrs.frozen(repr=False, weakref_slot=False)
class CallAuctionDepth(Depth):
    """The top of a spot book during a call auction."""

    kind: ClassVar[UpdateType] = UpdateType.CALL_AUCTION_DEPTH


class BookChange(NamedTuple):
    """One price of one side: what stands there now."""

    side: Side
    """`buy` for the bids, `sell` for the asks."""
    price: Decimal
    """0 changes nothing but the sequence."""
    size: Number
    """The new total at that price; 0 removes it."""
    sequence: int

    def __str__(self) -> str:
        return f"{self.side} {_plain(self.price)} x {_size(self.size)}"

    def __repr__(self) -> str:
        return f"BookChange({self}, sequence={self.sequence})"


@attrs.frozen(repr=False, weakref_slot=False)
class BookDelta(Update):
    """What changed in a book: one record for each message, so that its changes are applied together or not at all.

    Contiguous: the next one's `first_sequence` is this one's `sequence` and one; anything else is a gap. Within one,
    changes need not be contiguous, since several of one price are merged.
    """

    kind: ClassVar[UpdateType] = UpdateType.BOOK_DELTA

    first_sequence: int
    changes: tuple[BookChange, ...] = attrs.field(repr=first_row)


@attrs.frozen(repr=False, weakref_slot=False)
class MarkPrice(Update):
    """The price that margins are computed with: of a contract, every second, or of a margin pair such as USDT-BTC."""

    kind: ClassVar[UpdateType] = UpdateType.MARK_PRICE

    mark_price: Decimal
    index_price: Decimal | None
    """The index it follows; None for a margin pair, where it is a stream of its own."""


@attrs.frozen(repr=False, weakref_slot=False)
class IndexPrice(Update):
    """The index that a contract follows, every second, or that of a margin pair."""

    kind: ClassVar[UpdateType] = UpdateType.INDEX_PRICE

    index_price: Decimal


@attrs.frozen(repr=False, weakref_slot=False)
class FundingRate(Update):
    """The rate that holders of a perpetual contract pay each other: predicted every minute, settled in the end."""

    kind: ClassVar[UpdateType] = UpdateType.FUNDING_RATE

    rate: Decimal
    """A fraction of the position's value; negative where the short side pays."""
    predicted: bool
    """Whether it is still going to change; else it was settled."""
    interval: float | None
    """Seconds between settlements, where the message says so: a settled one does."""

    @property
    def next_time_ns(self) -> int | None:
        """When it is settled next, reckoned: `interval` after `exchange_time_ns`; None where one of these is.

        So where a settled rate is repeated it moves on, and is no change of what the record says (`changes_only`).
        """
        if self.interval is None or self.exchange_time_ns is None:
            return None
        return self.exchange_time_ns + round(self.interval * 1e9)


@attrs.define(eq=False)
class _LatestStart:
    """The start of the latest candle of a stream, which all candles of the stream look at."""

    start_ns: int = 0


@attrs.frozen(repr=False, weakref_slot=False)
class Candle(Update):
    """A candle as it stands. `exchange_time_ns` is the message's time, `start_ns` the candle's."""

    kind: ClassVar[UpdateType] = UpdateType.CANDLE

    interval: str
    """As on the wire: `1min`, `1hour`, …"""
    start_ns: int
    open: Decimal
    close: Decimal
    high: Decimal
    low: Decimal
    volume: Decimal | None
    """Of the base currency (spot). None for futures: KuCoin says that the number it sends there is wrong."""
    turnover: Decimal
    """Of the quote currency."""
    _latest: _LatestStart | None = attrs.field(default=None, kw_only=True, eq=False, repr=False)

    @property
    def final(self) -> bool:
        """Whether its time is over: a candle with a later start has been received on its stream.

        Live: of a candle you keep it becomes True, as soon as the later one has reached this machine, not only when you
        receive it. It is said of the row and not of this update: a last change of the row may stand behind it in your
        buffer, or may have been missed. A pickled or deep copy keeps what was known when it was made.

        A start that is more than a minute ahead of this machine's clock ends nothing: one `misdated` message must not
        end all that follow. So by a clock that is that far behind, short candles never become final.
        """
        return self._latest is not None and self.start_ns < self._latest.start_ns

    @property
    def start(self) -> datetime:
        """`start_ns` as an aware UTC time."""
        return _datetime(self.start_ns)


@attrs.frozen(repr=False, weakref_slot=False)
class Stats24h(Update):
    """Figures of the last 24 hours. What a market does not send is None."""

    kind: ClassVar[UpdateType] = UpdateType.STATS_24H

    last_price: Decimal | None
    high: Decimal | None
    low: Decimal | None
    volume: Decimal | None
    """Of the base currency; of an inverse contract (XBTUSDM), of US dollars. Not contracts: it has fractions."""
    turnover: Decimal | None
    """Of the quote currency; of an inverse contract of the base currency."""
    change: Decimal | None
    """Of the price, in the quote currency."""
    change_rate: Decimal | None
    """The same as a fraction: 0.05 is five per cent up."""


@attrs.frozen(repr=False, weakref_slot=False)
class Announcement(Update):
    """A funding settlement of a contract begins or has ended."""

    kind: ClassVar[UpdateType] = UpdateType.ANNOUNCEMENT

    event: str
    """`funding.begin` or `funding.end`."""
    funding_time_ns: int
    rate: Decimal


@attrs.frozen(repr=False, weakref_slot=False)
class CallAuction(Update):
    """How a call auction would end now; every 100 ms, only while there is one."""

    kind: ClassVar[UpdateType] = UpdateType.CALL_AUCTION

    price: Decimal | None
    """Estimated."""
    size: Decimal | None
    """Estimated."""
    sell_low: Decimal | None
    sell_high: Decimal | None
    buy_low: Decimal | None
    buy_high: Decimal | None


R = TypeVar("R", bound=Update)

MOST_AHEAD = 60 * 1_000_000_000
"""Nanoseconds that a time of the exchange may be ahead of this machine's clock: what is further is `misdated`.

Clocks that anybody looks after are right to a second, those that nobody does are mostly right to a minute.
"""


def keeping_raw(decode: Callable[[dict[str, Any], Topic, int], R]) -> Callable[[dict[str, Any], Topic, int], R]:
    """*decode*, with the message in the record."""

    def decode_and_keep(message: dict[str, Any], topic: Topic, received_time_ns: int) -> R:
        update = decode(message, topic, received_time_ns)
        _set(update, "raw", message)
        return update

    return decode_and_keep


def knowing_later(
    decode: Callable[[dict[str, Any], Topic, int], Candle],
) -> Callable[[dict[str, Any], Topic, int], Candle]:
    """*decode* for the candles of one stream, each of which knows when a later one has come."""
    latest = _LatestStart()

    def decode_and_note(message: dict[str, Any], topic: Topic, received_time_ns: int) -> Candle:
        candle = decode(message, topic, received_time_ns)
        if latest.start_ns < candle.start_ns <= received_time_ns + MOST_AHEAD:
            latest.start_ns = candle.start_ns
        _set(candle, "_latest", latest)
        return candle

    return decode_and_note


_set = object.__setattr__  # of a record that nobody else has seen yet


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _datetime(time_ns: int) -> datetime:
    # Not by a float of seconds, which has too few digits.
    return _EPOCH + timedelta(microseconds=time_ns // 1000)


def fast_constructor(record: type[R]) -> Callable[..., R]:
    """A callable of *record*'s fields, in order, those by keyword only last; three times as fast as the class itself.

    It is a mutable class of the same layout, whose instances become frozen by taking the record's class.
    """

    def freeze(made: Any) -> None:
        made.__class__ = record

    # Not by keyword only: CPython looks up the default of each such argument by its name, at every call.
    in_order = sorted(attrs.fields(record), key=lambda field: field.kw_only)
    fields = {field.name: attrs.field(default=field.default) for field in in_order}
    plain = attrs.make_class("Plain", fields, class_body={"__attrs_post_init__": freeze})
    namespace: dict[str, Any] = {
        "__slots__": vars(record)["__slots__"],
        "__init__": vars(plain)["__init__"],
        "__attrs_post_init__": freeze,
        # Both, or CPython looks up the frozen base's pair at every assignment.
        "__setattr__": object.__setattr__,
        "__delattr__": object.__delattr__,
    }
    return type(record.__name__, record.__bases__, namespace)
