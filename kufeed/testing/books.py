"""Books as they were: how the newest changes are undone, and the book at a sequence."""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import TYPE_CHECKING, Literal, NamedTuple

import attrs

from kufeed import Level

if TYPE_CHECKING:
    from kufeed.testing.market import Instrument


class Undo(NamedTuple):
    """What stood before one change."""

    sequence: int
    """The book's number before it."""
    side: Literal["buy", "sell"]
    price: int
    size: int


class ChangeLog:
    """How the newest *kept* changes are undone, of all books together: what many symbols keep has a bound, too."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._order: deque[deque[Undo]] = deque()  # whose change each one was, oldest first
        self._forgotten = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing was forgotten."""
        return self._forgotten == 0

    def add(self, own: deque[Undo], undo: Undo) -> None:
        """Keep *undo* as the newest of a book's *own*; the oldest of all may go."""
        own.append(undo)
        self._order.append(own)
        if len(self._order) > self._kept:
            self._order.popleft().popleft()
            self._forgotten += 1


@attrs.frozen
class Moment:
    """A book at one moment, both sides best first, in ticks and lots."""

    instrument: Instrument
    sequence: int
    bids: list[tuple[int, int]]
    asks: list[tuple[int, int]]


@attrs.frozen
class TrueBook:
    """The exchange's own book as it was at `sequence`: all levels, best first, as `kufeed.Level`.

    Compare a view with it: ``view.bids == exchange.book(view.symbol, view.sequence).bids[: len(view.bids)]``.
    """

    symbol: str
    sequence: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]

    @classmethod
    def at(cls, moment: Moment) -> TrueBook:
        """That of *moment*, with exact prices and sizes."""
        instrument = moment.instrument

        def levels(side: list[tuple[int, int]]) -> tuple[Level, ...]:
            return tuple(
                Level(
                    Decimal(instrument.price_text(price)),
                    Decimal(instrument.size_text(size)) if instrument.market == "spot" else size,
                )
                for price, size in side
            )

        return cls(instrument.symbol, moment.sequence, levels(moment.bids), levels(moment.asks))
