"""How long a stream may be silent before that is worth a question: what is known of its kind, and what it has shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .market import UpdateType

if TYPE_CHECKING:
    from collections.abc import Mapping

CADENCE: Mapping[UpdateType, float] = {
    UpdateType.MARK_PRICE: 1.0,
    UpdateType.INDEX_PRICE: 1.0,
    UpdateType.FUNDING_RATE: 60.0,
    UpdateType.STATS_24H: 5.0,  # of spot every 2 s
}
"""Seconds between two updates of kinds that come whatever the market does (KuCoin, WebSocket public channels)."""
AT_THEIR_HOUR = frozenset({UpdateType.ANNOUNCEMENT, UpdateType.CALL_AUCTION, UpdateType.CALL_AUCTION_DEPTH})
"""Kinds that come with a settlement or an auction, and are silent for days: silence says nothing of them."""

DISTANCES = 4
"""So many usual distances without an update are unusual."""
LONGEST = 1800.0
"""Seconds. A stream that is silent for longer is worth a question, whatever it has been like."""
_WEIGHT = 0.25
"""Of the newest distance: a market that falls asleep is known for it after a handful of updates."""


class Rhythm:
    """What one stream has shown of its distances; time is an argument, in seconds of a clock that never jumps.

    The threshold is *floor*, or several usual distances where that is longer, but not longer than `LONGEST`. Until
    some distance was seen the usual one is that of its kind, *cadence*.
    """

    __slots__ = ("_floor", "_learns", "_usual", "since", "threshold")

    def __init__(self, floor: float, cadence: float | None = None) -> None:
        self.since = 0.0
        """When the silence began: with the last update, or with `begin()`."""
        self._floor = floor
        self._usual = cadence or 0.0
        self._learns = False
        self.threshold = self._limit()

    def begin(self, now: float) -> None:
        """Count from *now*. What was before says nothing: the stream was asked for anew, or not read."""
        self.since = now
        self._learns = False

    def heard(self, at: float) -> None:
        """An update came at *at*; a time before the one before counts as the same."""
        at = max(at, self.since)
        if self._learns:
            self._usual += _WEIGHT * (at - self.since - self._usual)
            self.threshold = self._limit()
        self.since = at
        self._learns = True

    def silent_for(self, now: float) -> float:
        return max(0.0, now - self.since)

    def is_unusual(self, now: float) -> bool:
        """Whether it has been silent for longer than is likely."""
        return now - self.since >= self.threshold

    def _limit(self) -> float:
        return max(self._floor, min(LONGEST, DISTANCES * self._usual))

    def __repr__(self) -> str:
        return f"<Rhythm every {self._usual:.3g} s or so, unusual after {self.threshold:.3g} s>"
