"""Which of several links brings updates first, and by how much: what redundancy is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .protocol.merge import Verdict

if TYPE_CHECKING:
    from .protocol.updates import Update

_REMEMBERED = 256
"""Updates of a stream: so far one link may be behind another."""


class Race:
    """Of one connection. A link is known by its generation, from `begin()` to `forget()`."""

    def __init__(self) -> None:
        self._won: dict[int, tuple[int, float]] = {}

    def begin(self, generation: int) -> None:
        self._won[generation] = (0, 0.0)

    def forget(self, generation: int) -> None:
        """Its link is gone."""
        self._won.pop(generation, None)

    def note(self, winner: int, seconds: float) -> None:
        """*winner* has brought an update so many seconds before another link did."""
        if winner in self._won:
            count, lead = self._won[winner]
            self._won[winner] = count + 1, lead + seconds

    def won(self, generation: int) -> tuple[int, float]:
        """How often it was first, and by how many seconds, all together."""
        return self._won.get(generation, (0, 0.0))


class Heat:
    """The part of a race that is about one stream."""

    def __init__(self, race: Race) -> None:
        self.race = race
        self._first: dict[tuple[int | None, int | None], tuple[int, int]] = {}

    def see(self, update: Update, generation: int, verdict: Verdict) -> None:
        """*update* came on the link of this *generation*."""
        key = update.sequence, update.exchange_time_ns
        if verdict is not Verdict.DUPLICATE:
            self._first.setdefault(key, (generation, update.received_time_ns))
            if len(self._first) > _REMEMBERED:
                del self._first[next(iter(self._first))]
        elif key in self._first and self._first[key][0] != generation:
            winner, received_ns = self._first.pop(key)
            self.race.note(winner, (update.received_time_ns - received_ns) / 1e9)
