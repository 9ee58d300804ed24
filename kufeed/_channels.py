"""A bounded queue between the reader of a link and the consumers of one subscription, with exact accounts."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from .protocol.updates import Update

_LONGEST_RUN = 0.005
"""Seconds a consumer may take updates before other tasks run: a scheduler pass costs as much as a dozen takes."""


@attrs.frozen
class QueueStatistics:
    """Counts of updates; `received == delivered + dropped + discarded + pending` whenever nobody is inside a call."""

    received: int
    """Valid updates that arrived for this subscription."""
    delivered: int
    """Handed to a consumer."""
    dropped: int
    """Thrown away because the buffer was full: the oldest first."""
    discarded: int
    """Thrown away because the subscription was closed."""
    pending: int
    """Waiting in the buffer now."""
    most_pending: int
    """The most that ever waited after a delivery."""
    bound: int
    """The size of the buffer, in updates."""


class End(Protocol):
    """One of the ends that consume from a queue."""

    closed: bool


class UpdateQueue:
    """A queue of updates that drops the oldest when full. The producer appends to `staged` and hands over once a batch.

    What a consumer takes it has: there is no checkpoint between the take and the return.
    """

    def __init__(self, bound: int, perf_counter: Callable[[], float] = time.perf_counter) -> None:
        self.bound = bound
        self.staged: list[Update] = []
        self.closed = False
        self._perf_counter = perf_counter
        self._queue: deque[Update] = deque()
        # Errors to raise at their place in the stream: (count of updates before it, error).
        self._errors: deque[tuple[int, Exception]] = deque()
        self._consumers = trio.lowlevel.ParkingLot()
        self._last_yield = perf_counter()
        self._received = 0
        self._delivered = 0
        self._dropped = 0
        self._discarded = 0
        self._most_pending = 0

    # -- the producer's side ------------------------------------------------------------------------------------------

    def hand_over(self) -> bool:
        """Move as much of what is staged as there is room for, and wake consumers. True when nothing is left staged."""
        staged, queue = self.staged, self._queue
        if self.closed:
            self._received += len(staged)
            self._discarded += len(staged)
            staged.clear()
            return True
        room = self.bound - len(queue)
        if len(staged) <= room:
            queue.extend(staged)
            self._received += len(staged)
            staged.clear()
        elif room:
            queue.extend(staged[:room])
            self._received += room
            del staged[:room]
        self._most_pending = max(self._most_pending, len(queue))
        self._consumers.unpark(count=len(queue))
        return not staged

    def is_empty(self) -> bool:
        return not self._queue

    def overflow(self) -> None:
        """Make room for what is staged: drop the oldest, be it pending or staged itself."""
        excess = len(self._queue) + len(self.staged) - self.bound
        while excess > 0 and self._queue:
            self._queue.popleft()
            self._dropped += 1
            excess -= 1
        if excess > 0:
            del self.staged[:excess]
            self._received += excess
            self._dropped += excess

    def fail(self, error: Exception) -> None:
        """Have *error* raised once, to the consumer that comes to this place in the stream."""
        if not self.closed:
            self._errors.append((self._received, error))
            self._consumers.unpark()

    def close(self) -> None:
        """Discard what is pending; consumers come to the end at once. Idempotent."""
        self.closed = True
        self._discarded += len(self._queue)
        self._queue.clear()
        self._errors.clear()
        self._consumers.unpark_all()

    def wake_all(self) -> None:
        """Have every waiting consumer look whether its end is still open."""
        self._consumers.unpark_all()

    # -- the consumers' side ------------------------------------------------------------------------------------------

    async def next(self, end: End) -> Update:
        """Wait for the next update and take it; `StopAsyncIteration` when the queue is closed.

        Cancellable at each call; yields at least every 5 ms. With several consumers one may come before another that
        was woken for the same update: each looks again. One coroutine, since each costs a tenth of the whole step.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._perf_counter() - self._last_yield > _LONGEST_RUN:
            await trio.lowlevel.checkpoint()
            self._last_yield = self._perf_counter()
        while not self._queue and not self._errors and not self.closed and not end.closed:
            await self._consumers.park()
            self._last_yield = self._perf_counter()
        if end.closed:
            raise trio.ClosedResourceError("this end of the subscription is closed")
        if self._errors or self.closed:
            return self._take_at_the_edge()
        self._delivered += 1
        return self._queue.popleft()

    def _take_at_the_edge(self) -> Update:
        try:
            return self.take()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def take_up_to(self, count: int) -> list[Update]:
        """What is there now, at most *count* updates and none beyond the place of an error."""
        if self._errors:
            count = min(count, self._errors[0][0] - self._received + len(self._queue))
        taken = [self._queue.popleft() for _ in range(min(count, len(self._queue)))]
        self._delivered += len(taken)
        return taken

    def take(self) -> Update:
        """The next update, or the error that stands before it.

        Raises `trio.WouldBlock` while there is neither, `trio.EndOfChannel` when the queue is closed.
        """
        if self._errors and self._errors[0][0] <= self._received - len(self._queue):
            raise self._errors.popleft()[1]
        if not self._queue:
            raise trio.EndOfChannel if self.closed else trio.WouldBlock
        self._delivered += 1
        return self._queue.popleft()

    def statistics(self) -> QueueStatistics:
        return QueueStatistics(
            received=self._received,
            delivered=self._delivered,
            dropped=self._dropped,
            discarded=self._discarded,
            pending=len(self._queue),
            most_pending=self._most_pending,
            bound=self.bound,
        )
