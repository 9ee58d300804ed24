"""Which of several links brings updates first, and by how much: what redundancy is worth."""

from __future__ import annotations

from collections import defaultdict


class Race:
    """Of one connection. A link is known by its generation."""

    def __init__(self) -> None:
        self._won: defaultdict[int, list[float]] = defaultdict(lambda: [0, 0.0])

    def note(self, winner: int, seconds: float) -> None:
        """*winner* has brought an update so many seconds before another link did."""
        record = self._won[winner]
        record[0] += 1
        record[1] += seconds

    def won(self, generation: int) -> tuple[int, float]:
        """How often it was first, and by how many seconds, all together."""
        count, seconds = self._won.get(generation, (0, 0.0))
        return int(count), seconds

    def forget(self, generation: int) -> None:
        """Its link is gone."""
        self._won.pop(generation, None)
