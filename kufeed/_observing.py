"""What may be put in the place of the world, and who then looks on: the seam of `kufeed.testing.run()`.

Only where somebody observes are channels of these classes made; without, nothing of this costs anything.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio

from ._channels import UpdateQueue
from ._inline import InlineSink

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ._buffers import Overflow
    from ._channels import End, QueueStatistics
    from ._network import Network
    from .protocol.events import StreamEnd, StreamEvent
    from .protocol.market import Topic, UpdateType
    from .protocol.updates import Update


class Onlooker(Protocol):
    """Is told what goes into one subscription and what comes out of it. None of it may raise."""

    def asked(self, topics: Iterable[Topic], *, no_more: bool = False) -> None:
        """*topics* are asked for: what comes of them from now on is its own, before the ack too.

        With *no_more* they were not, but left: what was said just before is taken back.
        """
        ...

    def subscribed(self, topics: Iterable[Topic]) -> None:
        """The exchange streams *topics* to it from now on."""
        ...

    def unsubscribed(self, topics: Iterable[Topic]) -> None:
        """It gets nothing of *topics* any more."""
        ...

    def saw(self, what: Update | StreamEvent | Exception) -> None:
        """Its consumer was handed *what*, or it was raised to it."""
        ...

    def heard(self, event: StreamEvent) -> None:
        """*event* was put into its stream, whether its consumer comes to it or not."""
        ...

    def left(self, statistics: QueueStatistics, waiting: Sequence[Update] = ()) -> None:
        """It is over; these are its accounts just before, and what its consumer had not taken."""
        ...


class Observer(Protocol):
    """Is told of each feed that is opened, and asked for who looks on at its subscriptions."""

    def closing(self, feed: object, timeout: float) -> None:
        """*feed* begins to close, for which it has *timeout* seconds."""
        ...

    def closed(self, feed: object) -> None:
        """It has closed: none of its tasks runs any more."""
        ...

    def dialling(self, feed: object, connect_id: str) -> None:
        """*feed* dials a connection, which the exchange will know by this id."""
        ...

    def onlooker(
        self, feed: object, policies: Mapping[UpdateType, Overflow], *, changes_only: bool, depth: int | None
    ) -> Onlooker:
        """Who looks on at a subscription to *feed* that is made now, of books to *depth* where it is of books."""
        ...


@attrs.frozen(kw_only=True)
class Conditions:
    """What `open_feed()` takes where it is not told otherwise: for a task and those that it starts."""

    network: Network
    rng: random.Random
    observer: Observer


CONDITIONS: ContextVar[Conditions | None] = ContextVar("kufeed conditions", default=None)


class _Spans:
    """Which topics are streamed to one subscription, told to the onlooker where that changes."""

    def __init__(self, onlooker: Onlooker) -> None:
        self._onlooker = onlooker
        self._open: dict[Topic, None] = {}

    def begin(self, topic: Topic) -> None:
        if topic not in self._open:
            self._open[topic] = None
            self._onlooker.subscribed([topic])

    def end(self, topics: Iterable[Topic]) -> None:
        for topic in topics:
            if topic in self._open:
                del self._open[topic]
                self._onlooker.unsubscribed([topic])

    def end_all(self) -> None:
        self.end(list(self._open))


class ObservedQueue(UpdateQueue):
    """A channel with an onlooker."""

    def __init__(
        self,
        policies: Mapping[UpdateType, Overflow],
        bound: int,
        *,
        new_onlooker: Callable[..., Onlooker],
        depth: int | None,
        **options: Any,
    ) -> None:
        super().__init__(policies, bound, **options)
        self.onlooker = new_onlooker(policies, changes_only=self.changes_only, depth=depth)
        self._spans = _Spans(self.onlooker)

    def acked(self, topic: Topic) -> None:
        self._spans.begin(topic)

    def part(self, topics: Iterable[Topic]) -> None:
        chosen = tuple(topics)
        self.onlooker.asked(chosen)
        super().part(chosen)

    def left(self, topics: Iterable[Topic]) -> None:
        chosen = tuple(topics)
        self.onlooker.asked(chosen, no_more=True)
        self._spans.end(chosen)

    def end(self, event: StreamEnd) -> None:
        self._spans.end([event.topic])
        super().end(event)

    def finish(self) -> None:
        self._spans.end_all()
        super().finish()

    def close(self) -> None:
        first = not self.closed
        statistics, waiting = self.statistics(), self.waiting()
        super().close()
        if first:
            self._spans.end_all()
            self.onlooker.left(statistics, waiting)

    def tell(self, event: StreamEvent) -> None:
        self.onlooker.heard(event)
        super().tell(event)

    async def next(self, end: End, events: bool = False) -> Update | StreamEvent:
        try:
            what = await super().next(end, events)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self.onlooker.saw(error)
            raise
        self.onlooker.saw(what)
        return what

    def take(self, events: bool = False) -> Update | StreamEvent:
        try:
            what = super().take(events)
        except (trio.WouldBlock, trio.EndOfChannel):
            raise
        except Exception as error:
            self.onlooker.saw(error)
            raise
        self.onlooker.saw(what)
        return what

    def take_up_to(self, count: int) -> list[Update]:
        taken = super().take_up_to(count)
        for what in taken:
            self.onlooker.saw(what)
        return taken


class ObservedSink(InlineSink):
    """An inline handler with the onlooker of the channel in whose place it stands."""

    def stand_for(self, queue: UpdateQueue) -> None:
        super().stand_for(queue)
        assert isinstance(queue, ObservedQueue)
        self._onlooker = onlooker = queue.onlooker
        self._spans = _Spans(onlooker)
        fn = self._fn

        def seen(argument: Any) -> object:
            for update in argument if self._batches else [argument]:
                onlooker.saw(update)
            return fn(argument)

        self._fn = seen

    def acked(self, topic: Topic) -> None:
        self._spans.begin(topic)

    def part(self, topics: Iterable[Topic]) -> None:
        chosen = tuple(topics)
        self._onlooker.asked(chosen)
        super().part(chosen)

    def left(self, topics: Iterable[Topic]) -> None:
        chosen = tuple(topics)
        self._onlooker.asked(chosen, no_more=True)
        self._spans.end(chosen)

    def end(self, event: StreamEnd) -> None:
        self._spans.end([event.topic])
        super().end(event)

    def tell(self, event: StreamEvent) -> None:
        self._onlooker.heard(event)
        super().tell(event)

    def fail(self, error: Exception) -> None:
        if not (self.closed or self.paused):
            self._onlooker.saw(error)
        super().fail(error)

    def close(self) -> None:
        first = not self.closed
        super().close()
        if first:
            self._spans.end_all()
            self._onlooker.left(self.statistics())
