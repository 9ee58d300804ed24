"""A sliding-window limiter for one `trio.run`. Knows nothing of KuCoin."""

from __future__ import annotations

import math
from collections import deque

import trio


class SlidingWindowLimiter:
    """At most *max_requests* acquisitions in any *window* seconds, first come first served.

    Cancelling a waiter takes nothing from the budget and leaves the order of the others as it was.
    """

    def __init__(self, max_requests: int, window: float) -> None:
        self.max_requests = max_requests
        self.window = window
        self._turn = trio.StrictFIFOLock()
        self._free_again_at = deque([-math.inf] * max_requests, maxlen=max_requests)

    async def acquire(self) -> None:
        """Wait until one more fits. A checkpoint, always."""
        async with self._turn:
            await trio.sleep_until(self._free_again_at[0])
            self._free_again_at.append(trio.current_time() + self.window)

    def __repr__(self) -> str:
        return f"<SlidingWindowLimiter {self.max_requests} per {self.window:g} s>"
