"""When the market moves: the beats of a fixed grid, and which of them each symbol has lived."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kufeed.testing.market import SymbolModel

# After a long absence a symbol lives so many beats: as many as it takes that none of its last 100 trades, which are all
# that anybody can ask for, is from before.
MOST_MISSED = 250


class Beats:
    """Beat number n is n intervals after the grid's begin. Pure: the time is an argument.

    A symbol that nobody holds a topic of costs nothing. The beats it missed are lived when somebody asks for it again:
    its trades go on, whoever looks.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._begin = 0.0
        self._lived: dict[SymbolModel, int] = {}

    def begin(self, now: float) -> None:
        """The grid begins at *now*, and no symbol has missed anything."""
        self._begin = now
        self._lived.clear()

    def number(self, now: float) -> int:
        """The newest beat at *now*."""
        # A millionth of tolerance: who slept until a beat is not before it for the last bit of a float.
        return math.floor((now - self._begin) / self._interval + 1e-6)

    def at(self, number: int) -> float:
        """When a beat is."""
        return self._begin + number * self._interval

    def live(self, model: SymbolModel, number: int) -> None:
        """Note that a symbol lives this beat. From its first one on it misses what it does not live."""
        self._lived[model] = number

    def missed(self, model: SymbolModel, now: float) -> range:
        """The beats up to *now* that a symbol has to live, the newest `MOST_MISSED` at most; noted as lived."""
        last = self._lived.get(model)
        if last is None:
            return range(0)
        newest = self._lived[model] = self.number(now)
        return range(max(last, newest - MOST_MISSED) + 1, newest + 1)
