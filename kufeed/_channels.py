"""A bounded channel between the reader of a link and the consumers of one subscription, with exact accounts."""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_left
from collections import deque
from copy import copy
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio

from ._buffers import Overflow, make_buffer
from ._changes import ChangesBuffer
from .errors import ConnectionFailed, Overflowed, StreamEnded, SubscriptionTimeout, SymbolDelisted, SymbolHalted
from .protocol.events import Dropped, Gap, GapCause, Halted, Refused, SlowConsumer, StreamEnd, StreamEvent
from .protocol.market import MergeKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ._buffers import Loss
    from .errors import SubscriptionRejected
    from .protocol.market import Topic, UpdateType
    from .protocol.updates import Update

_log = logging.getLogger("kufeed.delivery")

_QUIET = 60.0
"""Seconds between two warnings of one slow consumer: with a small buffer it falls behind with every update."""

_LONGEST_RUN = 0.005
"""Seconds a consumer may take updates before other tasks run: a scheduler pass costs as much as a dozen takes."""


@attrs.frozen
class QueueStatistics:
    """Counts of updates of one subscription, its clones together.

    ``received == delivered + conflated + dropped + unchanged + discarded + pending`` whenever nobody is inside a call.
    """

    received: int
    """Valid updates that arrived for this subscription."""
    delivered: int
    """Handed to a consumer."""
    conflated: int
    """Replaced by a later update of the same stream before anybody took them (`Overflow.LATEST`)."""
    dropped: int
    """Thrown away because the buffer was full."""
    unchanged: int
    """Not delivered because they said nothing new (`SubscriptionOptions.changes_only`)."""
    discarded: int
    """Thrown away because the subscription was closed."""
    pending: int
    """Waiting in the buffer now."""
    most_pending: int
    """The most that ever waited after a delivery."""
    bound: int
    """The size of the buffer, in updates; those under `Overflow.LATEST` do not count."""
    oldest_age: float | None
    """Seconds since the receipt of what has waited longest; None where nothing waits."""
    slow: bool
    """Whether the consumer is behind: the buffer was full, and has not been empty since."""


class End(Protocol):
    """One of the ends that consume from a channel."""

    closed: bool


class Sink(Protocol):
    """Where a stream's updates go: the reader appends to `staged` and hands over once a batch. None of it may raise."""

    staged: list[Update]
    blocks: bool
    """Whether the reader waits for room rather than lose anything; then no other sink shares its link."""

    def stage_after(self, gap: Gap, update: Update) -> None:
        """Stage *update*, which *gap* precedes. Called while others are staged: it runs no code of the user's."""
        ...

    def hand_over(self) -> bool:
        """Take what is staged as far as that loses nothing; true when nothing is left."""
        ...

    def has_staged(self) -> bool:
        """Whether anything is staged that was not taken, here or with those that it hands over to."""
        ...

    def backlog(self) -> Any:
        """A mark for `has_taken()`: all that waits now."""
        ...

    def has_taken(self, backlog: Any) -> bool:
        """Whether all that waited then has been taken, whatever has come since."""
        ...

    def force(self) -> None:
        """Take all that is staged; what has no room goes by the policy."""
        ...

    def slow(self) -> None:
        """The reader waits for room from now on."""
        ...

    async def wait_room(self) -> None:
        """Return when there is room again, or nothing will be taken any more."""
        ...

    def acked(self, topic: Topic) -> None:
        """The exchange streams *topic* to it from now on; again after each reconnect."""
        ...

    def tell(self, event: StreamEvent) -> None:
        """Put *event* at this place in the stream."""
        ...

    def complete(self, topic: Topic, until_ns: int) -> None:
        """The `Gap` of *topic* that was told without its end ends there: to be called before its next update.

        Nothing new is told. Whoever has not come to the gap is told the whole; in the next update it is whole anyway.
        """
        ...

    def fail(self, error: Exception) -> None:
        """Have a copy of *error* raised at this place in the stream.

        Others may get *error* as well, and what is raised keeps the frames that it passes, with all that they have.
        """
        ...

    def refuse(self, topics: Iterable[Topic], error: SubscriptionRejected) -> None:
        """Nothing of *topics* comes any more, because of *error*: raise it or tell of it, as the subscription chose."""
        ...

    def end(self, event: StreamEnd) -> None:
        """The stream of its topic has ended at this place."""
        ...

    def close(self) -> None:
        """Discard what is pending, and take no more. Idempotent."""
        ...


def error_of(event: StreamEnd) -> StreamEnded:
    """What is raised to who does not iterate events."""
    return (
        SymbolHalted(event.topic.wire, event.status) if isinstance(event, Halted) else SymbolDelisted(event.topic.wire)
    )


@attrs.define(eq=False)
class _Place:
    """What stands between two updates: before the one with this number, and after all with a smaller one."""

    number: int
    marks: dict[tuple[object, ...], StreamEvent | _Loss | Exception] = attrs.field(factory=dict)

    def absorb(self, later: _Place) -> None:
        """Take over what stands at the next place."""
        self.number = later.number
        for key, mark in later.marks.items():
            self.marks[key] = _joined(self.marks.pop(key), mark) if key in self.marks else mark


@attrs.define(eq=False)
class _Loss:
    """Updates of one stream that were thrown away at one place. Becomes a `Dropped` when it is told."""

    first: Update
    last: Update
    count: int = 1

    def event(self) -> Dropped:
        topic = self.first.topic
        first, last = None, None
        if topic.channel.merge_key is MergeKey.CONTIGUOUS:
            # One record may carry several numbers (`BookDelta`).
            first, last = getattr(self.first, "first_sequence", self.first.sequence), self.last.sequence
        gap = Gap(topic, GapCause.OVERFLOW, first, last, self.first.time_ns, self.last.time_ns)
        return Dropped(topic, self.count, gap)


class UpdateQueue:
    """A bounded channel of updates, with what happened between them. What a consumer takes it has: there is no
    checkpoint between the take and the return.
    """

    def __init__(
        self,
        policies: Mapping[UpdateType, Overflow],
        bound: int,
        *,
        changes_only: bool = False,
        skips_refused: bool = False,
        perf_counter: Callable[[], float] = time.perf_counter,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.policies = policies
        self.bound = bound
        self.changes_only = changes_only
        self.skips_refused = skips_refused
        """Whether a topic that the exchange refuses is told of only, and not raised."""
        self.refused: dict[Topic, SubscriptionRejected] = {}
        """Topics that were asked for, and are not streamed because the exchange refused them."""
        self.blocks = Overflow.BLOCK in policies.values()
        self.staged: list[Update] = []
        self.closed = False
        self.on_end: Callable[[Topic], None] | None = None
        """Called with the topic of a stream that has ended."""
        self._ending = False
        self._perf_counter = perf_counter
        self._time_ns = time_ns
        self._buffer = ChangesBuffer(policies, bound) if changes_only else make_buffer(policies, bound)
        self._items = self._buffer.items
        self._pop = self._buffer.pop
        self._places: list[_Place] = []  # by number; no two alike
        self._gaps_staged: deque[tuple[Update, Gap]] = deque()  # and the staged update that each stands before
        self._gaps: dict[Topic, Gap] = {}  # reached by a consumer: for the next update of their topic
        # Whether there is anything but updates to look at: a place, a gap, the end.
        self._edge = False
        self._consumers = trio.lowlevel.ParkingLot()
        self._readers = trio.lowlevel.ParkingLot()
        self._last_yield = perf_counter()
        self._slow_since: float | None = None
        self._warned_at = -math.inf
        self._lost_while_slow = 0
        self._received = 0
        self._delivered = 0
        self._dropped = 0
        self._discarded = 0
        self._most_pending = 0

    # -- the producer's side ------------------------------------------------------------------------------------------

    def stage_after(self, gap: Gap, update: Update) -> None:
        self.hand_over()  # what was staged came before it
        if self.staged:  # and has found no room yet
            self._gaps_staged.append((update, gap))
        else:
            self.tell(gap)
        self.staged.append(update)

    def hand_over(self) -> bool:
        """Move what fits of what is staged, and wake consumers. True when nothing is left staged."""
        staged, items = self.staged, self._items
        if self.closed or self._ending:
            self._received += len(staged)
            self._discarded += len(staged)
            staged.clear()
            self._gaps_staged.clear()
            return True
        if self._slow_since is not None and not items:
            self._tell_of_end()
        self._received += len(staged)
        while self._gaps_staged:
            before = self._before_gap()
            self._buffer.accept(before)
            staged[:0] = before
            if before:
                break  # the gap waits behind what found no room
            self.tell(self._gaps_staged.popleft()[1])
        else:
            self._buffer.accept(staged)
        self._received -= len(staged)
        self._most_pending = max(self._most_pending, len(items))
        self._consumers.unpark(count=len(items))
        return not staged

    def acked(self, topic: Topic) -> None: ...

    def left(self, topics: Iterable[Topic]) -> None: ...

    def has_staged(self) -> bool:
        return bool(self.staged)

    def backlog(self) -> int:
        return self._delivered + self._buffer.withdrawn + len(self._items)

    def has_taken(self, backlog: int) -> bool:
        return self._delivered + self._buffer.withdrawn >= backlog

    def force(self) -> None:
        """Let all of what is staged in; what has no room goes by the policy, and is told of at its place."""
        if self.closed or self._ending or not self.staged:
            return
        self.slow()
        self._received += len(self.staged)
        while self._gaps_staged:
            self._force(self._before_gap())
            self.tell(self._gaps_staged.popleft()[1])
        self._force(self.staged)

    def _force(self, updates: list[Update]) -> None:
        losses = self._buffer.force(updates)
        self._dropped += len(losses)
        self._lost_while_slow += len(losses)
        self._note(losses)

    def _before_gap(self) -> list[Update]:
        """Take out of what is staged all that comes before the first gap there."""
        after = self._gaps_staged[0][0]
        index = next(place for place, update in enumerate(self.staged) if update is after)
        before = self.staged[:index]
        del self.staged[:index]
        return before

    def slow(self) -> None:
        """The buffer is full, and its consumer was given time: an episode begins, unless one is going on."""
        if self._slow_since is None:
            self._slow_since = self._perf_counter()
            self._lost_while_slow = 0
            self.tell(SlowConsumer(ended=False, duration=0.0, lost=0))
            if self._slow_since - self._warned_at > _QUIET:
                self._warned_at = self._slow_since
                _log.warning("a consumer is slower than the wire: its buffer of %d updates is full", self.bound)

    async def wait_room(self) -> None:
        """Return when there is room, or nothing will be taken any more. Cancelled or not, nothing has changed."""
        await trio.lowlevel.checkpoint()
        while len(self._items) >= self.bound and not (self.closed or self._ending):
            await self._readers.park()

    def tell(self, event: StreamEvent) -> None:
        """Put *event* behind all that has been handed over. Of one kind and topic, one stands between two updates."""
        if self.closed or self._ending:
            return
        of = event.ended if isinstance(event, SlowConsumer) else getattr(event, "topic", None)
        self._mark(self._buffer.end, (type(event), of), event)
        if isinstance(event, Gap):
            self._buffer.part(event.topic)
        self._consumers.unpark()

    def complete(self, topic: Topic, until_ns: int) -> None:
        if (gap := self._gaps.get(topic)) is not None and gap.until_ns is None:
            self._gaps[topic] = attrs.evolve(gap, until_ns=until_ns)
            return
        for place in reversed(self._places):  # it is among the last ones
            mark = place.marks.get((Gap, topic))
            if isinstance(mark, Gap) and mark.until_ns is None:
                place.marks[Gap, topic] = attrs.evolve(mark, until_ns=until_ns)
                return

    def waiting(self) -> list[Update]:
        """What nobody has taken yet, oldest first."""
        items: Any = self._items
        return list(items.values() if isinstance(items, dict) else items)

    def part(self, topics: Iterable[Topic]) -> None:
        """What comes of *topics* from now on begins anew.

        It neither takes the place of what waits, nor is compared with that, nor is told what was missing before.
        """
        waiting = {update.topic for update in self.waiting()} if self._gaps else set()
        for topic in topics:
            self.refused.pop(topic, None)
            self._buffer.part(topic)
            for gone in [one for one in self._gaps if topic.covers(one) and one not in waiting]:
                del self._gaps[gone]

    def fail(self, error: Exception) -> None:
        """Have a copy of *error* raised once, to the consumer that comes to this place in the stream."""
        if self.closed or self._ending:
            return
        # Those with many topics become one; others stay apart, so that none is told in place of another.
        of = None if hasattr(error, "topics") else getattr(error, "topic", str(error))
        self._mark(self._buffer.end, (type(error), of), copy(error))
        self._consumers.unpark()

    def refuse(self, topics: Iterable[Topic], error: SubscriptionRejected) -> None:
        gone = dict.fromkeys(topics, error)
        self.refused.update(gone)
        if not self.skips_refused:
            self.fail(error)
            return
        for topic in gone:
            self.tell(Refused(topic, error))

    def end(self, event: StreamEnd) -> None:
        self.tell(event)
        if self.on_end is not None:
            self.on_end(event.topic)

    def finish(self) -> None:
        """Take no more; consumers come to the end once they have taken what is pending.

        What a reader has read already and found no room for is discarded with what comes later.
        """
        self._ending = self._edge = True
        self._consumers.unpark_all()
        self._readers.unpark_all()

    def close(self) -> None:
        """Discard what is pending; consumers come to the end at once. Idempotent."""
        self.closed = self._edge = True
        while self._items:
            self._pop()
            self._discarded += 1
        self._places.clear()
        self._gaps.clear()
        self._consumers.unpark_all()
        self._readers.unpark_all()

    def wake_all(self) -> None:
        """Have every waiting consumer look whether its end is still open."""
        self._consumers.unpark_all()

    def _note(self, losses: Iterable[Loss]) -> None:
        raising: dict[int, list[Update]] = {}
        for number, update in losses:
            loss = self._place(number).marks.setdefault((Dropped, update.topic), _Loss(update, update, 0))
            assert isinstance(loss, _Loss)
            loss.last = update
            loss.count += 1
            if self.policies[update.kind] is Overflow.RAISE:
                raising.setdefault(number, []).append(update)
        for number, updates in raising.items():
            topics = tuple(dict.fromkeys(str(update.topic) for update in updates))
            self._mark(number, (Overflowed,), Overflowed(topics, len(updates)))

    def _tell_of_end(self) -> None:
        assert self._slow_since is not None
        duration = self._perf_counter() - self._slow_since
        self._slow_since = None
        self.tell(SlowConsumer(ended=True, duration=duration, lost=self._lost_while_slow))

    # -- places -------------------------------------------------------------------------------------------------------

    def _place(self, number: int) -> _Place:
        places = self._places
        index = bisect_left(places, number, key=attrgetter("number"))
        if index == len(places) or places[index].number != number:
            if len(places) > 2 * len(self._items) + 16:
                self._join_places()
                return self._place(number)
            places.insert(index, _Place(number))
            self._edge = True
        return places[index]

    def _mark(self, number: int, key: tuple[object, ...], mark: StreamEvent | Exception) -> None:
        marks = self._place(number).marks
        marks[key] = _joined(marks.pop(key), mark) if key in marks else mark

    def _join_places(self) -> None:
        """Places that no waiting update stands between any more become one, so that their number stays bounded."""
        waiting = self._buffer.numbers()
        joined: dict[int, _Place] = {}
        for place in self._places:
            before = bisect_left(waiting, place.number)
            earlier = joined.get(before)
            if earlier is None:
                joined[before] = place
            else:
                earlier.absorb(place)
        self._places = list(joined.values())

    # -- the consumers' side ------------------------------------------------------------------------------------------

    async def next(self, end: End, events: bool = False) -> Update | StreamEvent:
        """Wait for the next update, with *events* also for what stands before it; `StopAsyncIteration` at the end.

        Cancellable at each call; yields at least every 5 ms. With several consumers one may come before another that
        was woken for the same update: each looks again. One coroutine, since each costs a tenth of the whole step.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._perf_counter() - self._last_yield > _LONGEST_RUN:
            await trio.lowlevel.checkpoint()
            self._last_yield = self._perf_counter()
        while True:
            if end.closed:
                raise trio.ClosedResourceError("this end of the subscription is closed")
            if self._edge:
                try:
                    return self._take_at_the_edge(events)
                except trio.WouldBlock:
                    pass
                except trio.EndOfChannel:
                    raise StopAsyncIteration from None
                if self._slow_since is not None:
                    self._tell_of_end()
                    continue
            elif self._items:
                self._delivered += 1
                if self.blocks:
                    self._readers.unpark_all()
                return self._pop()
            elif self._slow_since is not None:
                self._tell_of_end()
                continue
            await self._consumers.park()
            self._last_yield = self._perf_counter()

    def take(self, events: bool = False) -> Update | StreamEvent:
        """The next update, or, with *events*, event; an error that stands before it is raised.

        Raises `trio.WouldBlock` while there is none, `trio.EndOfChannel` when there will be none.
        """
        if not self._items and self._slow_since is not None and not self.closed:
            self._tell_of_end()
        return self._take_at_the_edge(events)

    def take_up_to(self, count: int) -> list[Update]:
        """The updates that are there now, at most *count* and none beyond the place of an error."""
        taken: list[Update] = []
        while len(taken) < count and self._items:
            if self._edge and self._next_error():
                break
            taken.append(self._take_at_the_edge(False))  # type: ignore[arg-type]  # no events were asked for
        return taken

    def _take_at_the_edge(self, events: bool) -> Update | StreamEvent:
        while (place := self._reached()) is not None:
            key = next(iter(place.marks))
            mark = place.marks.pop(key)
            if not place.marks:
                del self._places[0]
            if isinstance(mark, StreamEnd) and not events:
                mark = error_of(mark)
            if isinstance(mark, Exception):
                self._edge = bool(self._places or self._gaps or self._ending)
                raise mark
            event = mark.event() if isinstance(mark, _Loss) else mark
            gap = event.gap if isinstance(event, Dropped) else event
            if isinstance(gap, Gap):
                before = self._gaps.get(gap.topic)
                self._gaps[gap.topic] = gap if before is None else before.joined(gap)
            if events:
                return event
        if not self._items:
            self._edge = bool(self._gaps or self._ending or self.closed)
            raise trio.EndOfChannel if self.closed or self._ending else trio.WouldBlock
        self._delivered += 1
        if self.blocks:
            self._readers.unpark_all()
        update = self._pop()
        if self._gaps and (found := self._gaps.pop(update.topic, None)) is not None:
            # A copy: the record stands in the channels of other subscriptions too, which may have lost nothing.
            update = attrs.evolve(update, gap_before=found)
        self._edge = bool(self._places or self._gaps or self._ending)
        return update

    def _reached(self) -> _Place | None:
        """What stands before the first update that waits, or behind the last one that was taken."""
        first = self._buffer.first() if self._items else math.inf
        places = self._places
        if not places or places[0].number > first:
            return None
        reached = 1
        while reached < len(places) and places[reached].number <= first:
            places[0].absorb(places[reached])
            reached += 1
        del places[1:reached]
        return places[0]

    def _next_error(self) -> bool:
        place = self._reached()
        return place is not None and any(isinstance(mark, Exception | StreamEnd) for mark in place.marks.values())

    # -- watching -----------------------------------------------------------------------------------------------------

    def statistics(self) -> QueueStatistics:
        oldest = self._buffer.oldest()
        return QueueStatistics(
            received=self._received,
            delivered=self._delivered,
            conflated=self._buffer.conflated,
            dropped=self._dropped,
            unchanged=self._buffer.unchanged,
            discarded=self._discarded,
            pending=len(self._items),
            most_pending=self._most_pending,
            bound=self.bound,
            oldest_age=None if oldest is None else (self._time_ns() - oldest.received_time_ns) / 1e9,
            slow=self._slow_since is not None,
        )


def _joined(
    earlier: StreamEvent | _Loss | Exception, later: StreamEvent | _Loss | Exception
) -> StreamEvent | _Loss | Exception:
    """One mark in place of two of a kind, with no update between them."""
    match earlier, later:
        case Gap(), Gap():
            return earlier.joined(later)
        case _Loss(), _Loss():
            return _Loss(earlier.first, later.last, earlier.count + later.count)
        case Overflowed(), Overflowed():
            return Overflowed(_united(earlier.topics, later.topics), earlier.lost + later.lost)
        case ConnectionFailed(), ConnectionFailed():
            return ConnectionFailed(_united(earlier.topics, later.topics), later.cause)
        case SubscriptionTimeout(), SubscriptionTimeout():
            return SubscriptionTimeout(_united(earlier.topics, later.topics), later.seconds)
    return later


def _united(earlier: tuple[str, ...], later: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(earlier + later))
