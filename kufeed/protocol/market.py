"""What a market, a channel and a topic are. The facts of each market stand in `spot` and `futures`, as rows."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Decoder = Callable[[dict[str, Any], "Topic", int], Any]


ALL = "all"
"""What stands in place of a symbol in the topic of all symbols."""


class UpdateType(StrEnum):
    """The kinds of updates, as `Update.kind` names them."""

    TICKER = "ticker"
    TRADE = "trade"
    LEVEL1 = "level1"
    DEPTH = "depth"
    BOOK_DELTA = "book_delta"
    BOOK = "book"
    MARK_PRICE = "mark_price"
    INDEX_PRICE = "index_price"
    FUNDING_RATE = "funding_rate"
    CANDLE = "candle"
    STATS_24H = "stats_24h"
    ANNOUNCEMENT = "announcement"
    CALL_AUCTION = "call_auction"
    CALL_AUCTION_DEPTH = "call_auction_depth"


class MergeKey(Enum):
    """How two updates of one stream are told to be the same one, and in which order they belong."""

    CONTIGUOUS = "contiguous"
    """Numbered without holes: the only kind that can prove a gap."""
    INCREASING = "increasing"
    """Numbered, but numbers may be skipped."""
    TIME = "time"
    """Not numbered: exchange time together with equal data."""

    @property
    def gap(self) -> str:
        """By what a `Gap` tells updates that are missing: the times around them, where it can the numbers as well."""
        return "times and numbers" if self is MergeKey.CONTIGUOUS else "times"


@attrs.frozen
class Market:
    """One of KuCoin's two market families, which share neither hosts nor tokens. Disagreements: `docs/protocol.rst`."""

    name: str
    rest_url: str
    topics_per_connection: int
    """One symbol of one channel is one topic."""
    symbols_per_frame: int = 100
    """Symbols in one subscribe frame (KuCoin, WebSocket introduction; the 509 error text says the same)."""
    dials_per_minute: int = 30
    """New connections (KuCoin, request rate limit)."""
    frames_per_window: int = 100
    """Frames a client may send in `frame_window` seconds; pings count (KuCoin, request rate limit)."""
    frame_window: float = 10.0


@attrs.frozen(eq=False)
class Channel:
    """One row of the channel table: all that kufeed knows about a kind of stream."""

    market: Market
    kind: UpdateType
    path: str
    """The wire topic up to the colon, such as `/market/ticker`."""
    subjects: tuple[str, ...]
    """The `subject` values of its messages; empty where the subject carries something else."""
    record: type
    """The class of its updates, one of `updates`."""
    decoders: Mapping[type, Decoder]
    """By the type of its numbers, `Decimal` or `float`: (decoded message, topic, time of receipt in ns) -> record.

    A message that is not valid raises `MessageRefused`, one that is no message of the channel also `KeyError` or
    `TypeError`. Nothing is kept or changed.
    """
    merge_key: MergeKey
    time: str
    """The field of `data` that carries the exchange's time, and its unit."""
    source: str
    """Where the shape is documented, or that it was recorded."""
    sizes: str | None = None
    """What its sizes and volumes count: `contracts`, or which currency; None where it has neither."""
    levels: int | None = None
    """Levels of each side of the book, where the channel comes in several depths."""
    intervals: Mapping[str, int] | None = None
    """Seconds of each candle interval by its name on the wire, where the channel is of candles."""
    pushed_without_symbol: bool = False
    """Its messages come under the bare path; `data.symbol` says whom they concern."""
    symbol_in_subject: bool = False
    """It has one topic, of all symbols (`ALL`); the `subject` of each message says whom it concerns."""

    def __str__(self) -> str:
        return f"{self.path}:{ALL}" if self.symbol_in_subject else self.path

    def __repr__(self) -> str:
        return f"<Channel {self.market.name} {self.kind} {self}>"


@attrs.frozen(repr=False, cache_hash=True)
class Topic:
    """One stream: a channel and the one symbol it is about. Hashable and comparable; `str()` is the wire topic.

    An update that came on the topic of all symbols has the topic of its own symbol there: its `str()` is that of the
    symbol's own topic, but it is another stream, and not equal to it.
    """

    channel: Channel
    symbol: str
    """`"all"` where the topic is the one of all symbols."""
    interval: str | None = None
    """Of candles, as `Channel.intervals` names it; else None."""
    wire: str = attrs.field(init=False, eq=False)

    @wire.default
    def _join(self) -> str:
        return f"{self.channel.path}:{self.argument}"

    @property
    def argument(self) -> str:
        """What follows the colon in the wire topic: the symbol, of candles with its interval."""
        return self.symbol if self.interval is None else f"{self.symbol}_{self.interval}"

    @property
    def is_part(self) -> bool:
        """Whether it is one symbol of a topic of all symbols. Such a stream cannot be subscribed to by itself."""
        return self.channel.symbol_in_subject and self.symbol != ALL

    @property
    def kind(self) -> UpdateType:
        """What its updates are."""
        return self.channel.kind

    def covers(self, other: Topic) -> bool:
        """Whether who subscribes to it gets updates of *other*: they are the same, or it is of all symbols."""
        return other == self or (other.is_part and other.channel is self.channel and self.symbol == ALL)

    def __str__(self) -> str:
        return self.wire

    def __repr__(self) -> str:
        return f"<Topic {self.wire} of {self.channel}>" if self.is_part else f"<Topic {self.wire}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """As IPython and Hypothesis print it: the call that makes it, which an example can be run again with."""
        choices = (("levels", self.channel.levels), ("interval", self.interval))
        named = [f"{name}={value!r}" for name, value in choices if value is not None]
        printer.text(f"topic({', '.join([repr(str(self.kind)), repr(self.symbol), *named])})")
