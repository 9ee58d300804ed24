"""`OrderBook`: a book at one moment, as users get it, and what can be read off any book."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from ..errors import InsufficientDepth, UsageError
from .market import UpdateType
from .updates import Side, Update, fast_constructor, first_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .updates import Level, Number

_EXACT = Context(prec=400)
"""Sums and products of two numbers that a decoder let through (200 digits each) are exact, whatever the context."""
_DIVIDING = Context(prec=50)


class BookFigures:
    """What can be read off `bids` and `asks`, best first. Sides may be empty; figures that need both are None then."""

    __slots__ = ()

    symbol: str
    bids: Sequence[Level]
    asks: Sequence[Level]

    @property
    def best_bid(self) -> Level | None:
        """The highest bid; None where there is none."""
        bids, _ = self._sides()
        return bids[0] if bids else None

    @property
    def best_ask(self) -> Level | None:
        """The lowest ask; None where there is none."""
        _, asks = self._sides()
        return asks[0] if asks else None

    @property
    def mid(self) -> Decimal | None:
        """Half-way between the best prices, exact; None where a side is empty."""
        bids, asks = self._sides()
        if not (bids and asks):
            return None
        bid, ask = bids[0].price, asks[0].price
        if type(bid) is Decimal:
            return _EXACT.divide(_EXACT.add(bid, ask), Decimal(2))
        return (bid + ask) / 2

    @property
    def spread(self) -> Decimal | None:
        """The best ask less the best bid, exact; None where a side is empty."""
        bids, asks = self._sides()
        if not (bids and asks):
            return None
        bid, ask = bids[0].price, asks[0].price
        return _EXACT.subtract(ask, bid) if type(bid) is Decimal else ask - bid

    def depth_to(self, price: Decimal | int | float) -> Number:
        """The size that stands between the middle and *price*, itself included: on the bids below, on the asks above.

        0 between the best prices. Raises `InsufficientDepth` where *price* lies beyond the last level here and more
        may stand between.
        """
        _check_positive("price", price)
        bids, asks = self._sides()
        levels = bids or asks
        if isinstance(price, float) and levels and type(levels[0].price) is Decimal:
            price = Decimal(repr(price))  # the level that is written so, not the binary number beside it
        if bids and price <= bids[0].price:
            levels = bids
            reached = [level.size for level in levels if level.price >= price]
        elif asks and price >= asks[0].price:
            levels = asks
            reached = [level.size for level in levels if level.price <= price]
        else:
            return 0
        if len(reached) == len(levels) and levels[-1].price != price and not self._is_whole(levels):
            raise InsufficientDepth(self.symbol, f"the {len(levels)} levels here do not reach {price}")
        return _total(reached)

    def vwap(self, size: Number | float, side: Side | str = Side.BUY) -> Decimal:
        """The average price of taking *size* at once: `buy` from the asks, `sell` from the bids.

        Levels are weighted by their size as it stands (of futures: contracts), to 50 digits. Raises
        `InsufficientDepth` where the levels here hold less.
        """
        _check_positive("size", size)
        try:
            taken_from = Side(side)
        except ValueError:
            raise UsageError(f"side must be 'buy' or 'sell', not {side!r}") from None
        bids, asks = self._sides()
        levels = asks if taken_from is Side.BUY else bids
        exact = not (levels and isinstance(levels[0].price, float))
        left: Any = (size if isinstance(size, Decimal) else Decimal(repr(size))) if exact else float(size)
        wanted = left
        paid: Any = Decimal(0) if exact else 0.0
        for level in levels:
            price, there = level
            taken = min(left, Decimal(there) if exact else float(there))
            if exact:
                paid = _EXACT.add(paid, _EXACT.multiply(taken, price))
                left = _EXACT.subtract(left, taken)
            else:
                paid += taken * price
                left -= taken
            if not left:
                return _DIVIDING.divide(paid, wanted) if exact else paid / wanted
        raise InsufficientDepth(self.symbol, f"the {len(levels)} levels here hold less than {size}")

    def _sides(self) -> tuple[Sequence[Level], Sequence[Level]]:
        """`bids` and `asks` of one moment, best first: what each figure looks at, once."""
        return self.bids, self.asks

    def _is_whole(self, side: Sequence[Level]) -> bool:
        """Whether there is nothing beyond the last level of *side*."""
        return False


def _check_positive(name: str, value: object) -> None:
    try:
        if isinstance(value, Decimal | int | float) and not isinstance(value, bool) and value > 0:
            return
    except ArithmeticError:  # a Decimal that is no number
        pass
    raise UsageError(f"{name} must be a positive number, not {value!r}")


def _total(sizes: Sequence[Number]) -> Number:
    total: Number = 0
    for size in sizes:
        total = _EXACT.add(total, size) if isinstance(size, Decimal) else total + size
    return total


@attrs.frozen(repr=False, weakref_slot=False)
class OrderBook(BookFigures, Update):
    """A book as it stood at `sequence`: never a mixture of two moments. Immutable; hand it to whom you like.

    `exchange_time_ns` is that of the last change, or of the snapshot where none came since.
    """

    kind: ClassVar[UpdateType] = UpdateType.BOOK

    bids: tuple[Level, ...] = attrs.field(repr=first_row)
    """The best levels, best first: as many as were asked for, or all where there are fewer."""
    asks: tuple[Level, ...] = attrs.field(repr=first_row)
    """The best levels, best first."""

    def top(self, count: int) -> OrderBook:
        """The same moment with the *count* best levels of each side, or as many as there are here."""
        check_depth(count)
        return attrs.evolve(self, bids=self.bids[:count], asks=self.asks[:count])


order_book = fast_constructor(OrderBook)


def check_depth(depth: object) -> int:
    """*depth* where it is a number of levels; `UsageError` else."""
    if type(depth) is not int or depth < 1:
        raise UsageError(f"a depth is a whole number of levels from 1 up, not {depth!r}")
    return depth
