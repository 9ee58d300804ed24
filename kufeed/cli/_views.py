"""What an update looks like: a line of text, a line of JSON, a row of a table. A symbol has its line of JSON too."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs
from rich.table import Table

from ..protocol import SymbolInfo, Ticker, Topic, Trade, Update

if TYPE_CHECKING:
    from collections.abc import Iterable


def number(value: Decimal | int | None) -> str:
    """Exact and without an exponent; a dash for nothing."""
    if value is None:
        return "-"
    return format(value, "f") if isinstance(value, Decimal) else str(value)


def milliseconds(latency: float | None) -> str:
    return "-" if latency is None else f"{latency * 1000:.1f} ms"


def as_line(update: Update) -> str:
    """An update for people, on one line."""
    if isinstance(update, Ticker):
        bid = f"bid {number(update.bid)} x {number(update.bid_size)}"
        said = f"{bid}  ask {number(update.ask)} x {number(update.ask_size)}"
    elif isinstance(update, Trade):
        said = f"{update.side:<4} {number(update.size)} at {number(update.price)}"
    else:
        said = str(update)
    return f"{update.symbol:<10} {update.kind:<6}  {said}  {milliseconds(update.latency)}\n"


def as_json(update: Update) -> str:
    """An update for programs, its fields by name: decimals as text, contracts and times (ns) as whole numbers."""
    return _one_line({"kind": update.kind.value, **_fields(update)})


def info_as_json(info: SymbolInfo) -> str:
    """The same for a symbol: decimals as text, times in ISO 8601."""
    return _one_line(_fields(info))


def _one_line(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":")) + "\n"


def _fields(record: Update | SymbolInfo) -> dict[str, Any]:
    return {field.name: _plain(getattr(record, field.name)) for field in attrs.fields(type(record))}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return number(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Topic) else value


@attrs.define
class _Row:
    ticker: Ticker | None = None
    trade: Trade | None = None
    latency: float | None = None
    updates: int = 0


class Board:
    """The last known state of some symbols, one row each, drawn as a table when asked."""

    def __init__(self, symbols: Iterable[str], *, quotes: bool, trades: bool) -> None:
        self._rows = {symbol: _Row() for symbol in symbols}
        self._quotes = quotes
        self._trades = trades

    def take(self, update: Update) -> None:
        row = self._rows.setdefault(update.symbol, _Row())
        if isinstance(update, Ticker):
            row.ticker = update
        elif isinstance(update, Trade):
            row.trade = update
        row.latency = update.latency
        row.updates += 1

    def draw(self, caption: str) -> Table:
        table = Table(caption=caption, caption_justify="left")
        table.add_column("symbol", style="bold", no_wrap=True)
        if self._quotes:
            table.add_column("bid", justify="right", style="green")
            table.add_column("ask", justify="right", style="red")
        table.add_column("last trade", justify="right")
        if self._trades:
            table.add_column("size", justify="right")
        table.add_column("latency", justify="right", style="dim")
        table.add_column("updates", justify="right", style="dim")
        for symbol, row in self._rows.items():
            table.add_row(symbol, *self._cells(row), milliseconds(row.latency), str(row.updates))
        return table

    def _cells(self, row: _Row) -> list[str]:
        ticker, trade = row.ticker, row.trade
        cells = []
        if self._quotes:
            cells += ["-", "-"] if ticker is None else [number(ticker.bid), number(ticker.ask)]
        if trade is not None:
            color = "green" if trade.side == "buy" else "red"
            cells.append(f"[{color}]{number(trade.price)}[/]")
        else:
            cells.append("-" if ticker is None else number(ticker.price))  # spot tickers carry the last trade
        if self._trades:
            cells.append("-" if trade is None else number(trade.size))
        return cells
