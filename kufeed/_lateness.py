"""Which updates came late, and which carry a time that cannot be right: marked, counted, and warned about seldom."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING

from .protocol.updates import MOST_AHEAD

if TYPE_CHECKING:
    from collections.abc import Callable

    from .protocol.updates import Update

_log = logging.getLogger("kufeed.latency")

_SECOND = 1_000_000_000
_MOST_BEHIND = 3600 * _SECOND
"""Nothing is an hour on its way: a link that is silent for a minute or two is given up, and nobody queues for longer.
An older stamp is of something else: the last change of a market that sleeps, another unit, a clock that is wrong."""
_QUIET = 10.0
"""Seconds without a late update that end an episode."""


class Lateness:
    """Looks at the time stamps of one market's updates. *latency_warning* is in seconds; None: none is late.

    An episode of lateness begins with its first late update, which is warned about (logger ``kufeed.latency``), and
    ends when none was late for 10 s by *perf_counter*: however many streams there are, there is one warning.
    """

    def __init__(self, latency_warning: float | None, *, perf_counter: Callable[[], float] = time.perf_counter) -> None:
        self.late = 0
        self.misdated = 0
        self._latency_warning = latency_warning
        self._late_after = _MOST_BEHIND
        if latency_warning is not None:
            self._late_after = round(min(latency_warning * _SECOND, _MOST_BEHIND))
        self._perf_counter = perf_counter
        self._last = -math.inf
        self._in_episode = 0

    def in_time(self, received_time_ns: int) -> tuple[int, int]:
        """The earliest and the latest time stamp of what is received now that need not go to `mark()`."""
        return received_time_ns - self._late_after, received_time_ns + MOST_AHEAD

    def mark(self, update: Update) -> None:
        """Count *update*, whose time stamp is outside of `in_time()`, and set its flag. Nobody else has it yet."""
        assert update.exchange_time_ns is not None
        age = update.received_time_ns - update.exchange_time_ns
        if not -MOST_AHEAD <= age <= _MOST_BEHIND:
            self.misdated += 1
            object.__setattr__(update, "misdated", True)
            return
        self.late += 1
        object.__setattr__(update, "late", True)
        now = self._perf_counter()
        if now - self._last > _QUIET:
            _log.warning(
                "%s came %.3f s after its time stamp, and latency_warning is %g s; %d were late in the episode before",
                *(update.topic, age / _SECOND, self._latency_warning, self._in_episode),
            )
            self._in_episode = 0
        self._in_episode += 1
        self._last = now
