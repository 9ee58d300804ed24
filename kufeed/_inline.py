"""Where the updates of an inline handler go: into a function, at once, in the task that reads the connection."""

from __future__ import annotations

import inspect
from copy import copy
from typing import TYPE_CHECKING, Any, NoReturn

import attrs
import trio

from ._changes import forget, says_the_same
from ._channels import QueueStatistics, error_of
from .errors import UsageError
from .protocol.events import Gap, GapCause, StreamEnd, StreamEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._channels import UpdateQueue
    from .errors import SubscriptionRejected
    from .protocol.market import Topic
    from .protocol.updates import Update


class InlineSink:
    """Calls *fn* with each update, or with lists of them. Whatever that raises goes to *on_error*, and no further.

    Where *on_error* returns true the sink is `paused`: it discards what comes until somebody sets that back. Neither
    *on_error* nor *on_call*, which gets the seconds that each call took, may raise.
    """

    blocks = False

    def __init__(
        self,
        fn: Callable[[Any], object],
        *,
        batches: bool,
        on_error: Callable[[BaseException], bool],
        on_call: Callable[[float], None],
        perf_counter: Callable[[], float],
    ) -> None:
        self.staged: list[Update] = []
        self.closed = False
        self.paused = False
        self.changes_only = False
        """Whether an update that says the same as the one before it of its topic is not passed on."""
        self.skips_refused = False
        """Whether a topic that the exchange refuses is left out in silence, and no error of the handler's."""
        self.refused: dict[Topic, SubscriptionRejected] = {}
        """Topics that were asked for, and are not streamed because the exchange refused them."""
        self.on_end: Callable[[Topic], None] | None = None
        """Called with the topic of a stream that has ended."""
        self.ended = trio.Event()
        """Set when nothing more will come."""
        self._fn = fn
        self._batches = batches
        self._on_error = on_error
        self._on_call = on_call
        self._perf_counter = perf_counter
        self._gaps: dict[Topic, Gap] = {}
        self._known: dict[Topic, Update] = {}  # the last of each topic, where only changes are passed on
        self._received = 0
        self._unchanged = 0
        self._delivered = 0
        self._discarded = 0

    def stand_for(self, queue: UpdateQueue) -> None:
        """Get what *queue* would, as it would."""
        self.changes_only = queue.changes_only
        self.skips_refused = queue.skips_refused
        self.on_end = queue.on_end

    # -- the reader's side: none of it may raise ----------------------------------------------------------------------

    def stage_after(self, gap: Gap, update: Update) -> None:
        self.staged.append(attrs.evolve(update, gap_before=gap))

    def hand_over(self) -> bool:
        updates = self.staged.copy()
        self.staged.clear()
        self._received += len(updates)
        # One after the other: what is lost by a failing call is not what the next is compared with.
        news = filter(self._is_new, updates) if self.changes_only else updates
        if not self._batches:
            for update in news:
                self._pass([update])
        elif batch := list(news):
            self._pass(batch)
        return True

    def _is_new(self, update: Update) -> bool:
        known = self._known.get(update.topic)
        if known is not None and update.gap_before is None and says_the_same(known, update):
            self._unchanged += 1
            return False
        self._known[update.topic] = update
        return True

    def _pass(self, updates: list[Update]) -> None:
        if self.closed or self.paused:  # the function itself may have seen to that, in the call before
            self._discarded += len(updates)
            for update in updates:
                if update.gap_before is not None:
                    self.tell(update.gap_before)
                time = update.time_ns
                self.tell(Gap(update.topic, GapCause.OVERFLOW, None, None, time, time))
            return
        self._delivered += len(updates)
        if self._gaps:
            updates = [self._with_gap(update) for update in updates]
        argument = updates if self._batches else updates[0]
        start = self._perf_counter()
        try:
            result = self._fn(argument)
            if result is not None and inspect.isawaitable(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise UsageError(f"{self._fn!r} returned something to await: make the handler itself an async def")
        except BaseException as error:  # noqa: ASYNC103, BLE001  # its owner raises it, in a task of its own
            self._fail(error)
        self._on_call(self._perf_counter() - start)

    def _fail(self, error: BaseException) -> None:
        if self._on_error(error):
            self.paused = True

    def _with_gap(self, update: Update) -> Update:
        gap = self._gaps.pop(update.topic, None)
        if gap is None:
            return update
        return attrs.evolve(update, gap_before=gap if update.gap_before is None else gap.joined(update.gap_before))

    def acked(self, topic: Topic) -> None: ...

    def left(self, topics: Iterable[Topic]) -> None: ...

    def has_staged(self) -> bool:
        return bool(self.staged)

    def backlog(self) -> int:
        return 0

    def has_taken(self, backlog: int) -> bool:
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
            forget(self._known, event.topic)

    def complete(self, topic: Topic, until_ns: int) -> None:
        gap = self._gaps.get(topic)
        if gap is not None and gap.until_ns is None:
            self._gaps[topic] = attrs.evolve(gap, until_ns=until_ns)

    def part(self, topics: Iterable[Topic]) -> None:
        for topic in topics:
            self.refused.pop(topic, None)
            forget(self._known, topic)
            for gone in list(filter(topic.covers, self._gaps)):
                del self._gaps[gone]

    def fail(self, error: Exception) -> None:
        if not (self.closed or self.paused):
            self._fail(copy(error))

    def refuse(self, topics: Iterable[Topic], error: SubscriptionRejected) -> None:
        self.refused.update(dict.fromkeys(topics, error))
        if not self.skips_refused:
            self.fail(error)

    def end(self, event: StreamEnd) -> None:
        self.fail(error_of(event))
        if self.on_end is not None:
            self.on_end(event.topic)

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True
        self.ended.set()

    # -- what a subscription asks of its queue ------------------------------------------------------------------------

    def wake_all(self) -> None: ...

    def take(self, *_: object) -> NoReturn:
        raise UsageError("the updates of this subscription go to an inline handler")

    async def next(self, *_: object, events: bool = False) -> NoReturn:
        self.take()

    def statistics(self) -> QueueStatistics:
        return QueueStatistics(
            received=self._received,
            delivered=self._delivered,
            conflated=0,
            dropped=0,
            unchanged=self._unchanged,
            discarded=self._discarded,
            pending=0,
            most_pending=0,
            bound=0,
            oldest_age=None,
            slow=False,
        )
