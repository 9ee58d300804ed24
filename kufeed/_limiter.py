"""A sliding-window limiter for one `trio.run`. Knows nothing of KuCoin."""

from __future__ import annotations

import heapq
import math

import trio


class SlidingWindowLimiter:
    """At most *max_requests* acquisitions in any *window* seconds, first come first served.

    Cancelling a waiter takes nothing from the budget and leaves the order of the others as it was. It belongs to one
    `trio.run`, as Trio's clock does.
    """

    def __init__(self, max_requests: int, window: float) -> None:
        self.max_requests = max_requests
        self.window = window
        self._turn = trio.StrictFIFOLock()
        # When each place that nobody holds may be taken again: a heap.
        self._free_at = [-math.inf] * max_requests
        self._given_back = trio.Event()

    async def acquire(self) -> None:
        """Wait until one more fits, and count it from now. A checkpoint, always."""
        (await self.take()).release()

    async def take(self) -> Permit:
        """Wait until one more fits, and count it from `Permit.release()` on: for what happens some time in between."""
        async with self._turn:
            while not self._free_at:
                self._given_back = trio.Event()
                await self._given_back.wait()
            await trio.sleep_until(self._free_at[0])
            heapq.heappop(self._free_at)
            return Permit(self)

    def _give_back(self, free_at: float) -> None:
        heapq.heappush(self._free_at, free_at)
        self._given_back.set()

    def __repr__(self) -> str:
        return f"<SlidingWindowLimiter {self.max_requests} per {self.window:g} s>"


class Permit:
    """One place in a limiter's window, held until it is released."""

    def __init__(self, limiter: SlidingWindowLimiter) -> None:
        self._limiter = limiter
        self._held = True

    def release(self, *, unused: bool = False) -> None:
        """Have the window begin now; *unused*: give the place back at once, nothing happened. Idempotent."""
        if self._held:
            self._held = False
            self._limiter._give_back(  # noqa: SLF001  # the two are one
                -math.inf if unused else trio.current_time() + self._limiter.window
            )
