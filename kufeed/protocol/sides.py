"""One side of an order book, kept by price."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, overload

from .updates import Level, Side

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .updates import Number

_new_tuple = tuple.__new__
"""Half the price of calling `Level`, which is most of what a change costs."""

Price = Any
"""`Decimal` or `float`, one of them throughout a book: both order and compare by value, so `1.0` is `1.00`."""


class BookSide(Sequence[Level]):
    """The levels of one side, best first, each price once.

    A dict by price, and a sorted list whose end is the best price: most changes are near it, where a list is cheap to
    change (`python tests/benchmarks/books.py` prints this beside other containers).
    """

    __slots__ = ("_best_from", "_keys", "_levels", "_negate", "_tops", "floor")

    def __init__(self, side: Side, levels: Iterable[tuple[Price, Number]] = (), *, whole: bool = True) -> None:
        """Of *levels* each price stands once, and no size is 0. Not *whole*: beyond the worst of them may be more."""
        self._negate = side is Side.SELL
        self._levels: dict[Price, Level] = {}
        for price, size in levels:
            self._levels[self._key(price)] = Level(price, size)
        self._keys: list[Price] = sorted(self._levels)
        self.floor: Price | None = None if whole or not self._keys else self._keys[0]
        """The key of the worst price that is known about; None where all are."""
        self._tops: dict[int, tuple[Level, ...]] = {}
        self._best_from: Price | None = None

    def _key(self, price: Price) -> Price:
        # Not a plain minus, which rounds a Decimal to the digits of the context.
        if not self._negate:
            return price
        return price.copy_negate() if type(price) is Decimal else -price

    def set(self, price: Price, size: Number) -> None:
        """*size* stands at *price* from now on; 0 removes it, be it there or not. Beyond what is known: nothing."""
        key = self._key(price)
        if self.floor is not None and key < self.floor:
            return
        levels = self._levels
        if size:
            if key not in levels:
                insort(self._keys, key)
            levels[key] = _new_tuple(Level, (price, size))
        elif levels.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]
        else:
            return
        if self._tops and (self._best_from is None or key >= self._best_from):
            self._tops.clear()

    def top(self, count: int) -> tuple[Level, ...]:
        """The *count* best levels, or all where there are fewer. The same tuple again until one of them changes."""
        found = self._tops.get(count)
        if found is None:
            keys, levels = self._keys[-count:], self._levels
            found = tuple([levels[key] for key in reversed(keys)])
            worst = keys[0] if len(keys) == count else None
            deeper = self._best_from is not None and (worst is None or worst < self._best_from)
            if not self._tops or deeper:
                self._best_from = worst
            self._tops[count] = found
        return found

    def covers(self, count: int) -> bool:
        """Whether the *count* best levels are all known: those, or all there are."""
        return self.floor is None or len(self._keys) >= count

    def best(self) -> Level | None:
        """The best level; None where there is none."""
        return self._levels[self._keys[-1]] if self._keys else None

    def agrees(self, other: BookSide) -> bool:
        """Whether both say the same of every price that both know about."""
        floors = [floor for floor in (self.floor, other.floor) if floor is not None]
        floor = max(floors) if floors else None
        return self._from(floor) == other._from(floor)

    def _from(self, floor: Price | None) -> list[Level]:
        start = 0 if floor is None else bisect_left(self._keys, floor)
        return [self._levels[key] for key in self._keys[start:]]

    # -- a sequence, best first ---------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Level: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Level, ...]: ...

    def __getitem__(self, index: int | slice) -> Level | tuple[Level, ...]:
        if isinstance(index, slice):
            return tuple([self._levels[key] for key in self._keys[::-1][index]])
        return self._levels[self._keys[~index]]

    def __iter__(self) -> Iterator[Level]:
        levels = self._levels
        return iter([levels[key] for key in reversed(self._keys)])

    def __repr__(self) -> str:
        return f"<BookSide {len(self)} levels, best {self.best()}>"
