"""What a list of REST tells of symbols at a moment, and whether that is newer than what a stream has said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from .fields import FLOAT, mapping
from .market import UpdateType
from .spot import SPOT
from .updates import Candle, Depth, Level1, Ticker, Trade

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .market import Market
    from .updates import Number, Update


@attrs.frozen
class Glimpse:
    """The top of a symbol's book and its last trade, as far as they are known.

    All are floats: they are only compared, and a feed may be told to make floats itself.
    """

    bid: float | None = None
    bid_size: float | None = None
    ask: float | None = None
    ask_size: float | None = None
    last: float | None = None


_BOOK = ("bid", "bid_size", "ask", "ask_size")
_TRADES = (UpdateType.TRADE, UpdateType.CANDLE)
_FIELDS: dict[Market, Mapping[str, str]] = {
    SPOT: {"bid": "buy", "bid_size": "bestBidSize", "ask": "sell", "ask_size": "bestAskSize", "last": "last"}
}
_CONTRACT: Mapping[str, str] = {"last": "lastTradePrice"}


def read_glimpse(row: object, market: Market) -> Glimpse:
    """One row of spot's list of tickers, or of the list of contracts; `MessageRefused` where a number is none."""
    values = mapping(row, "data")
    names = _FIELDS.get(market, _CONTRACT)
    return Glimpse(**{field: FLOAT.optional_decimal(values.get(name), name) for field, name in names.items()})  # type: ignore[arg-type]  # it makes floats


def told_by(update: Update | None) -> Glimpse:
    """What *update* tells of the same."""
    match update:
        case Ticker() | Level1():
            last = update.price if isinstance(update, Ticker) else None
            return _glimpse(update.bid, update.bid_size, update.ask, update.ask_size, last)
        case Depth():
            bid, bid_size = update.bids[0] if update.bids else (None, None)
            ask, ask_size = update.asks[0] if update.asks else (None, None)
            return _glimpse(bid, bid_size, ask, ask_size, None)
        case Trade():
            return Glimpse(last=float(update.price))
        case Candle():
            return Glimpse(last=float(update.close))
    return Glimpse()


def _glimpse(*values: Number | None) -> Glimpse:
    return Glimpse(*(None if value is None else float(value) for value in values))


def has_moved(kind: UpdateType, before: Glimpse, after: Glimpse) -> bool:
    """Whether a stream of *kind* was due to say something between the two.

    A trade changes the book as well; a change of the book is no trade. What only one of them knows is not compared.
    """
    fields = ("last",) if kind in _TRADES else (*_BOOK, "last")
    return any(_differ(getattr(before, field), getattr(after, field)) for field in fields)


def _differ(one: Any, other: Any) -> bool:
    return one is not None and other is not None and one != other
