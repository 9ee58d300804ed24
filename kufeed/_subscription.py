"""`Subscription`: what a user iterates over."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import trio

from .errors import UsageError
from .protocol.market import Topic
from .protocol.topics import distinct, topics
from .protocol.updates import Update

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from types import TracebackType

    from ._channels import QueueStatistics, Sink, UpdateQueue
    from ._inline import InlineSink
    from ._pool import Entering
    from .errors import SubscriptionRejected
    from .protocol.events import StreamEvent
    from .protocol.market import UpdateType

T = TypeVar("T", bound=Update)


class Source(Protocol):
    """Where subscriptions get their updates from."""

    def attach(self, topics: Sequence[Topic], sink: Sink) -> Entering: ...

    def entered(self, entering: Entering) -> None: ...

    def detach(self, topics: Iterable[Topic], sink: Sink) -> None: ...

    def has(self, topic: Topic, sink: Sink) -> bool: ...

    def is_pending(self, topic: Topic, sink: Sink) -> bool: ...

    async def wait_pending(self) -> None: ...


class _Shared:
    """What the clones of one subscription have in common."""

    def __init__(
        self, chosen: tuple[Topic, ...], kind: UpdateType | None, pool: Source, queue: UpdateQueue, *, waits: bool
    ) -> None:
        self.topics = chosen
        """What was asked for, refused or not."""
        self.kind = kind
        """What all of its updates are; None where they may be anything."""
        self.levels, self.interval = chosen[0].channel.levels, chosen[0].interval
        """Of the symbols that join it by `add()`."""
        self.pool = pool
        self.queue = queue
        self.waits = waits
        """Whether those who subscribe to something wait for the acks."""
        self.ends = 1
        self.adding = trio.Lock()
        self.over = False
        """Every stream has ended; iterating does so too."""
        queue.on_end = self.ended

    def ended(self, topic: Topic) -> None:
        """The stream of *topic* has ended, by no wish of ours."""
        self.topics = tuple(one for one in self.topics if one != topic)
        self.end_if_empty()

    def end_if_empty(self) -> None:
        if not self.topics:
            self.over = True
            self.queue.finish()

    async def attach(self, chosen: tuple[Topic, ...]) -> None:
        """Subscribe to *chosen* and wait for the acks; where that fails, or is cancelled, nothing of it stays."""
        entering = self.pool.attach(chosen, self.queue)
        entering.skips_refused = self.queue.skips_refused
        self.queue.part(chosen)
        try:
            await (entering.wait() if self.waits else self._go_on(entering))
        except BaseException:
            self.detach(chosen)
            raise
        finally:
            self.pool.entered(entering)
        for gone, error in entering.refused:
            self.queue.refuse(gone, error)

    async def _go_on(self, entering: Entering) -> None:
        """Do not wait: what is refused, or fails, from now on is told at its place in the stream."""
        self.pool.entered(entering)
        if entering.error is not None:
            self.queue.fail(entering.error)
        await trio.lowlevel.checkpoint()

    def detach(self, chosen: tuple[Topic, ...]) -> None:
        """Unsubscribe from *chosen*; what comes of them where they are added again begins anew."""
        self.pool.detach(chosen, self.queue)
        self.queue.part(chosen)
        self.queue.left(chosen)


class Subscription(Generic[T]):
    """A stream of updates, made by methods of `Feed`. Inert until entered; entered once.

    `async with` returns when the exchange has acknowledged every topic, or raises `SubscriptionRejected`,
    `SubscriptionTimeout` (two times `ack_timeout`, counted from sending) or `ConnectionFailed`; nothing stays
    subscribed then, nor when it is cancelled. Leaving never awaits: the unsubscribe is queued.

    What is refused, `SubscriptionOptions.on_reject` may have left out instead (`refused`), and `wait` may have entering
    return at once (`wait_acked()`).

    Iterating yields updates in the exchange's order. It ends when the subscription or its feed is closed. While the
    link is down it waits; once reconnecting was given up it raises `ConnectionFailed`, once, and may be iterated again.
    Each step can be cancelled, and a cancelled step has lost nothing. While updates wait, other tasks run every 5 ms.

    A buffer that is full goes by its `Overflow` policy; `statistics()` counts what was lost, `Update.gap_before` tells
    of it at its place, and `with_events()` yields what happens between updates.
    """

    def __init__(
        self,
        chosen: tuple[Topic, ...],
        kind: UpdateType | None,
        pool: Source,
        make_queue: Callable[[], UpdateQueue],
        *,
        waits: bool = True,
    ) -> None:
        self.closed = False
        """Whether this end was closed; another clone may still be open."""
        self._make_queue = make_queue
        self._queue = make_queue()
        self._shared = _Shared(chosen, kind, pool, self._queue, waits=waits)
        self._waits: set[trio.CancelScope] = set()
        self._entered = False
        self._claimed = False
        self._opened = False

    async def __aenter__(self) -> Self:
        if self._entered:
            raise UsageError("a subscription is entered once; make another, or clone() this one while it is open")
        self._entered = True
        try:
            await self._shared.attach(self._shared.topics)
        except BaseException:
            self.closed = True
            self._queue.close()
            raise
        self._opened = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # No checkpoint here: in a cancelled scope it would swap the body's error for Cancelled.
        self.close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close this end. The last end to close unsubscribes and discards what is pending. Idempotent, never waits."""
        if self.closed or not self._opened:
            return
        self.closed = True
        self._queue.wake_all()
        for waiting in self._waits:
            waiting.cancel()
        self._shared.ends -= 1
        if self._shared.ends == 0:
            self._shared.detach(self._shared.topics)
            self._queue.close()

    async def wait_acked(self) -> None:
        """Return when the exchange has acknowledged every topic of it, refused ones apart; at once where it has.

        For those that were entered with ``wait="none"``, or after a reconnect. What goes wrong meanwhile is told at
        its place in the stream: this waits on, as long as it takes. Raises `trio.ClosedResourceError` once this end, or
        the feed, is closed. A checkpoint, always.
        """
        self._check_open()
        await trio.lowlevel.checkpoint()
        shared = self._shared
        pending: list[Topic] = []
        while True:
            self._check_open()
            if self._queue.closed:
                raise trio.ClosedResourceError("the feed is closed")
            while pending and not shared.pool.is_pending(pending[-1], self._queue):
                pending.pop()
            if not pending:  # of those that were looked at; each may have been lost again since
                pending = [topic for topic in shared.topics if shared.pool.is_pending(topic, self._queue)]
            if not pending:
                return
            with trio.CancelScope() as waiting:
                self._waits.add(waiting)
                try:
                    await shared.pool.wait_pending()
                finally:
                    self._waits.discard(waiting)

    def clone(self) -> Subscription[T]:
        """Another end of the same stream, open already: `with tickers.clone() as mine:` closes it again.

        Each update goes to one of the ends. The stream ends when its last end is closed.
        """
        self._check_open()
        other: Subscription[T] = object.__new__(type(self))
        other.closed = False
        other._make_queue = self._make_queue
        other._shared, other._queue = self._shared, self._queue
        other._waits = set()
        other._entered = other._claimed = other._opened = True
        self._shared.ends += 1
        return other

    # -- receiving ----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, T]:
        if not self._opened:
            self._check_open()
        return self._queue.next(self)  # type: ignore[return-value]  # the topics decide which records come

    async def receive(self) -> T:
        """The next update.

        Raises `trio.EndOfChannel` once the feed is closed, `trio.ClosedResourceError` once this end is closed, and
        `ConnectionFailed` or `SubscriptionRejected` at their place in the stream. Cancelled, it has taken nothing.
        """
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise trio.EndOfChannel from None

    def receive_nowait(self) -> T:
        """The next update, or `trio.WouldBlock` where none is waiting; otherwise raises as `receive()` does."""
        self._check_open()
        return self._queue.take()  # type: ignore[return-value]  # no events were asked for

    def with_events(self) -> Events[T]:
        """Iterate updates, and what happens between them, in one order: `Gap`, `Dropped`, `Disconnected` and others.

        A `Gap` or `Dropped` comes before the first update after the hole, which has it as `gap_before` too. Between two
        updates there is at most one event of each kind for a topic, however long nobody came for them. Otherwise as
        iterating updates. An event goes to one of the clones, as an update does; one that iterates plainly takes those
        on its way and drops them.
        """
        return Events(self)

    def batches(self, max_size: int = 1000) -> Batches[T]:
        """Iterate lists of what is there, one to *max_size* updates each; otherwise as iterating updates."""
        if type(max_size) is not int or max_size < 1:
            raise UsageError(f"max_size must be a whole number from 1 up, not {max_size!r}")
        return Batches(self, max_size)

    def _check_open(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("this end of the subscription is closed")
        if not self._opened:
            raise UsageError("enter the subscription first: `async with feed.ticker(...) as tickers:`")

    # -- changing -----------------------------------------------------------------------------------------------------

    async def add(self, *more: str | Topic) -> None:
        """Subscribe to more symbols (of this subscription's one kind) or topics, and wait for their acks.

        Raises as entering does; the subscription then stays as it was. Symbols that it has already are left alone. With
        ``wait="none"`` it does not wait, and with ``on_reject="skip"`` it raises where all that is new is refused.
        """
        self._check_open()
        shared = self._shared
        async with shared.adding:  # one at a time: the second finds what the first has added
            self._check_open()
            if shared.over:
                raise UsageError("every stream of this subscription has ended: make another")
            new = tuple(one for one in self._read(more) if not shared.pool.has(one, self._queue))
            if not new:
                return
            before = shared.topics
            shared.topics = tuple(dict.fromkeys((*before, *new)))
            try:
                await shared.attach(new)
            except BaseException:
                had_some = any(one not in new for one in before)
                shared.topics = tuple(one for one in shared.topics if one not in new)
                if had_some:  # all of which may have ended meanwhile
                    shared.end_if_empty()
                raise

    def remove(self, *less: str | Topic) -> None:
        """Unsubscribe from symbols or topics. Never waits; what is in the buffer already is still delivered."""
        self._check_open()
        shared = self._shared
        gone = self._read(less)
        for topic in gone:
            if topic not in shared.topics:
                raise UsageError(f"{topic} is not in this subscription")
        shared.topics = tuple(topic for topic in shared.topics if topic not in gone)
        shared.detach(gone)

    def _read(self, given: tuple[str | Topic, ...]) -> tuple[Topic, ...]:
        shared, kind = self._shared, self._shared.kind
        chosen: list[Topic] = []
        for one in given:
            if isinstance(one, Topic):
                if kind not in (None, one.kind):
                    raise UsageError(f"{one} is no {kind}, which is all that this subscription has")
                chosen.append(one)
            elif kind is not None:
                chosen.extend(topics(kind, [one], levels=shared.levels, interval=shared.interval))
            else:
                raise UsageError(f"this subscription has no single kind: give topics, such as topic('ticker', {one!r})")
        return distinct(chosen)

    # -- for handlers -------------------------------------------------------------------------------------------------

    def _split(self, parts: int) -> tuple[Subscription[T], ...]:
        """At most so many subscriptions in place of this one, all topics of a symbol in the same. Once only."""
        shared = self._shared
        if parts > 1 and (whole := next((one for one in shared.topics if one.channel.symbol_in_subject), None)):
            raise UsageError(f"workers share topics, and {whole} is one; try batches=True, or fewer symbols by name")
        self._claim()
        if parts == 1:
            return (self,)
        part_of = {symbol: number % parts for number, symbol in enumerate({one.symbol: None for one in shared.topics})}
        groups: dict[int, list[Topic]] = {}
        for one in shared.topics:
            groups.setdefault(part_of[one.symbol], []).append(one)
        return tuple(
            type(self)(tuple(group), shared.kind, shared.pool, self._make_queue, waits=shared.waits)
            for group in groups.values()
        )

    def _deliver_to(self, inline: InlineSink) -> Self:
        """Have updates go into *inline* instead of a channel. Such a subscription cannot be iterated. Once only."""
        self._claim()
        inline.stand_for(self._queue)
        self._queue = self._shared.queue = inline  # type: ignore[assignment]  # what it has not, only iteration needs
        return self

    def _claim(self) -> None:
        if self._entered or self._claimed:
            raise UsageError("a handler enters its subscription itself: give it one that nobody has entered")
        self._claimed = True

    def _finish(self) -> None:
        """Subscribe to nothing any more; what is pending is still delivered, then iterating ends."""
        if self._opened and not self.closed:
            self._shared.detach(self._shared.topics)
            self._queue.finish()

    # -- watching -----------------------------------------------------------------------------------------------------

    @property
    def topics(self) -> tuple[Topic, ...]:
        """What is subscribed to now: what was asked for, without what the exchange has refused."""
        refused = self._queue.refused
        return tuple(one for one in self._shared.topics if one not in refused) if refused else self._shared.topics

    @property
    def refused(self) -> Mapping[Topic, SubscriptionRejected]:
        """What the exchange has refused of what was asked for, be it at a reconnect, until it is added or removed."""
        return MappingProxyType(self._queue.refused)

    def statistics(self) -> QueueStatistics:
        """Counts of this subscription, all its clones together."""
        return self._queue.statistics()

    def __repr__(self) -> str:
        wires = [str(topic) for topic in self.topics]
        shown = ", ".join(wires[:3]) + (f" and {len(wires) - 3} more" if len(wires) > 3 else "")
        state = "closed" if self.closed else "open" if self._opened else "entering" if self._entered else "inert"
        return f"<Subscription {state}: {shown}>"


class Batches(Generic[T]):
    """What `Subscription.batches()` iterates."""

    def __init__(self, subscription: Subscription[T], max_size: int) -> None:
        self._subscription = subscription
        self._max_size = max_size

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[T]:
        first = await self._subscription.__anext__()
        rest = self._subscription._queue.take_up_to(self._max_size - 1)  # noqa: SLF001  # one subject, two classes
        return [first, *rest]  # type: ignore[list-item]


class Events(Generic[T]):
    """What `Subscription.with_events()` iterates."""

    def __init__(self, subscription: Subscription[T]) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, T | StreamEvent]:
        subscription = self._subscription
        if not subscription._opened:  # noqa: SLF001  # one subject, two classes
            subscription._check_open()  # noqa: SLF001
        return subscription._queue.next(subscription, events=True)  # type: ignore[return-value]  # noqa: SLF001
