"""What an update looks like: a line of text, a line of JSON, a row of a table."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs
from rich.table import Table
from rich.text import Text

from .._untrusted import printable
from ..protocol import (
    Announcement,
    BookDelta,
    CallAuction,
    Candle,
    Depth,
    FundingRate,
    IndexPrice,
    Level1,
    MarkPrice,
    OrderBook,
    Stats24h,
    SymbolInfo,
    Ticker,
    Topic,
    Trade,
    Update,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..protocol import BookChange, Level

_MOST_CHANGES = 3
"""Changes of one book that a line shows."""
_STYLES = {"bid": "green", "ask": "red", "buy": "green", "sell": "red"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def number(value: Decimal | float | None) -> str:
    """Exact and without an exponent; a dash for nothing."""
    if value is None:
        return "-"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def milliseconds(latency: float | None) -> str:
    return "-" if latency is None else f"{latency * 1000:.1f} ms"


def cells(update: Update) -> dict[str, str]:
    """What is worth seeing of *update*, each under the word that stands before it on a line and above it in a table."""
    match update:
        case Ticker() | Level1():
            quotes = {"bid": _quote(update.bid, update.bid_size), "ask": _quote(update.ask, update.ask_size)}
            return quotes | (_numbers(last=update.price) if isinstance(update, Ticker) else {})
        case Trade():
            return {"side": update.side.value, "size": number(update.size), "last": number(update.price)}
        case Depth() | OrderBook():
            levels = f"{len(update.bids)} + {len(update.asks)}"
            return {"bid": _best(update.bids), "ask": _best(update.asks), "levels": levels}
        case BookDelta():
            first, last = update.first_sequence, update.sequence
            sequence = f"{first}" if first == last else f"{first} to {last}"
            return {"sequence": sequence, "changes": _changes(update.changes)}
        case MarkPrice():
            return _numbers(mark=update.mark_price, index=update.index_price)
        case IndexPrice():
            return _numbers(index=update.index_price)
        case FundingRate(predicted=True):
            return {"predicted rate": number(update.rate)}
        case FundingRate():
            return {"settled rate": number(update.rate), "next": _utc(update.next_time_ns)}
        case Candle():
            start = f"{update.interval} {_utc(update.start_ns)}"
            prices = _numbers(open=update.open, high=update.high, low=update.low, close=update.close)
            return {"candle": start, **prices, **_numbers(volume=update.volume, turnover=update.turnover)}
        case Stats24h():
            prices = _numbers(last=update.last_price, high=update.high, low=update.low)
            amounts = _numbers(volume=update.volume, turnover=update.turnover)
            return {**prices, **amounts, **_numbers(change=update.change, change_rate=update.change_rate)}
        case Announcement():
            event = printable(update.event)
            return {"event": event, "rate": number(update.rate), "settles": _utc(update.funding_time_ns)}
        case CallAuction():
            buy = _numbers(buy_from=update.buy_low, buy_to=update.buy_high)
            sell = _numbers(sell_from=update.sell_low, sell_to=update.sell_high)
            return {**_numbers(price=update.price, size=update.size), **buy, **sell}
    return {"update": printable(repr(update))}


def _numbers(**values: Decimal | float | None) -> dict[str, str]:
    """The numbers that there are, by their words."""
    return {name.replace("_", " "): number(value) for name, value in values.items() if value is not None}


def _quote(price: Decimal | None, size: Decimal | float | None) -> str:
    return "-" if price is None else f"{number(price)} x {number(size)}"


def _best(levels: Sequence[Level]) -> str:
    return _quote(*levels[0]) if levels else "-"


def _changes(changes: Sequence[BookChange]) -> str:
    shown = [str(change) for change in changes[:_MOST_CHANGES]]
    more = len(changes) - len(shown)
    return ", ".join([*shown, f"{more} more"] if more else shown)


def _utc(time_ns: int | None) -> str:
    if time_ns is None:
        return "-"
    return (_EPOCH + timedelta(microseconds=time_ns // 1000)).isoformat().replace("+00:00", "Z")


def as_line(update: Update) -> str:
    """An update for people, on one line."""
    said = "  ".join(f"{word} {value}" for word, value in cells(update).items())
    return f"{printable(update.symbol):<10} {update.kind}  {said}  {milliseconds(update.latency)}\n"


def as_json(update: Update) -> str:
    """An update for programs, its fields by name: decimals as text, contracts and times (ns) as whole numbers.

    A level is a list of price and size, a change of a book one of side, price, size and sequence.
    """
    # What is decoded, and what was missing before it; not how it was written.
    names = [field.name for field in attrs.fields(type(update)) if field.name not in ("raw", "_latest")]
    return _one_line({"kind": update.kind.value, **{name: getattr(update, name) for name in names}})


def info_as_json(info: SymbolInfo) -> str:
    """The same for a symbol, its times in ISO 8601."""
    return _one_line(attrs.asdict(info, recurse=False))


def _one_line(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"), default=_plain) + "\n"


def _plain(value: Any) -> Any:
    """What JSON has no word for."""
    if isinstance(value, Decimal):
        return number(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Topic) else attrs.asdict(value, recurse=False)


@attrs.define
class _Row:
    cells: dict[str, str] = attrs.field(factory=dict)
    latency: float | None = None
    updates: int = 0


class Board:
    """The last known state of some symbols, one row each, drawn as a table when asked.

    Its columns are the words of the updates that it has taken, in the order in which they first came, the quotes first.
    """

    def __init__(self, symbols: Iterable[str]) -> None:
        self._rows = {symbol: _Row() for symbol in symbols if symbol != "all"}  # those come as they come
        self._words: dict[str, None] = {}

    def take(self, update: Update) -> None:
        row = self._rows.setdefault(update.symbol, _Row())
        row.cells.update(cells(update))
        self._words.update(dict.fromkeys(row.cells))
        row.latency = update.latency
        row.updates += 1

    def draw(self, caption: str, *, most: int | None = None) -> Table:
        """At most so many rows: painting takes as long as there are, whether they fit a terminal or not."""
        if most is not None and (hidden := len(self._rows) - most) > 0:
            caption = f"{hidden} symbols more; {caption}"
        table = Table(caption=caption, caption_justify="left")
        table.add_column("symbol", style="bold", no_wrap=True)
        words = sorted(self._words, key=lambda word: word not in ("bid", "ask"))
        for word in words:
            table.add_column(word, justify="right", style=_STYLES.get(word))
        table.add_column("latency", justify="right", style="dim")
        table.add_column("updates", justify="right", style="dim")
        for symbol, row in islice(self._rows.items(), most):
            shown = [row.cells.get(word, "-") for word in words]
            # `Text`, because rich would read markup into a plain string.
            values = [Text(value, style=_STYLES.get(value, "")) for value in shown]
            table.add_row(Text(printable(symbol)), *values, milliseconds(row.latency), str(row.updates))
        return table
