"""Where the updates of an inline handler go: into a function, at once, in the task that reads the connection."""

from __future__ import annotations

import inspect
import time
from typing import TYPE_CHECKING, Any

import attrs
import trio

from ._channels import QueueStatistics
from .protocol.events import Gap, StreamEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from .protocol.market import Topic
    from .protocol.updates import Update


class InlineSink:
    """Calls *fn* with each update, or with lists of them. Whatever that raises goes to *on_error* and stops nothing."""

    blocks = False

    def __init__(
        self,
        fn: Callable[[Any], Any],
        *,
        batches: bool,
        on_error: Callable[[Exception], None],
        on_call: Callable[[float], None],
        perf_counter: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.staged: list[Update] = []
        self.closed = False
        self.ended = trio.Event()
        """Set when nothing more will come."""
        self._fn = fn
        self._batches = batches
        self._on_error = on_error
        self._on_call = on_call
        self._perf_counter = perf_counter
        self._gaps: dict[Topic, Gap] = {}
        self._received = 0
        self._delivered = 0
        self._discarded = 0

    def hand_over(self) -> bool:
        updates = self.staged.copy()
        self.staged.clear()
        self._received += len(updates)
        if self._gaps:
            updates = [self._with_gap(update) for update in updates]
        if self._batches and updates and not self.closed:
            self._delivered += len(updates)
            self._call(updates)
        else:
            for update in updates:
                if self.closed:  # by the handler itself, maybe
                    self._discarded += 1
                else:
                    self._delivered += 1
                    self._call(update)
        return True

    def _call(self, argument: Update | list[Update]) -> None:
        start = self._perf_counter()
        try:
            result = self._fn(argument)
            if result is not None and inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise TypeError(f"{self._fn!r} returned something to await: make the handler itself an async def")
        except Exception as error:  # noqa: BLE001  # no handler may harm the reader, nor cost another an update
            self._on_error(error)
        self._on_call(self._perf_counter() - start)

    def _with_gap(self, update: Update) -> Update:
        gap = self._gaps.pop(update.topic, None)
        return update if gap is None else attrs.evolve(update, gap_before=gap)

    def is_empty(self) -> bool:
        return True

    def force(self) -> None:
        self.hand_over()

    def slow(self) -> None: ...

    async def wait_room(self) -> None:
        await trio.lowlevel.checkpoint()

    def tell(self, event: StreamEvent) -> None:
        if isinstance(event, Gap):
            before = self._gaps.get(event.topic)
            self._gaps[event.topic] = event if before is None else before.joined(event)

    def fail(self, error: Exception) -> None:
        if not self.closed:
            self._on_error(error)

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True
        self.ended.set()

    def wake_all(self) -> None: ...

    def statistics(self) -> QueueStatistics:
        return QueueStatistics(
            received=self._received,
            delivered=self._delivered,
            conflated=0,
            dropped=0,
            unchanged=0,
            discarded=self._discarded,
            pending=0,
            most_pending=0,
            bound=0,
            oldest_age=None,
            slow=False,
        )
