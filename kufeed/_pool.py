"""Which topic lives on which connection, and who waits for its ack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ._budget import dial_budgets, rest_budgets
from ._connection import Connection
from ._link import Surroundings
from ._rest import Rest
from ._streams import Refusals, Stream
from ._supervisor import one_error
from .errors import ConnectionFailed, ExchangeError, LinkError, SubscriptionRejected, SubscriptionTimeout, UsageError
from .protocol.futures import FUTURES

if TYPE_CHECKING:
    import random
    import ssl
    from collections.abc import Callable, Iterable, Sequence

    from ._budget import DialLimiter
    from ._channels import UpdateQueue
    from ._config import FeedConfig
    from ._network import Network
    from .protocol.market import Market, Topic


class Entering:
    """A subscription's wait until every one of its wire topics is acknowledged."""

    def __init__(self, topics: Iterable[Topic], queue: UpdateQueue) -> None:
        self.pending = {topic.wire for topic in topics}
        self.queue = queue
        self._error: Exception | None = None
        self._over = trio.Event()

    def acked(self, wires: Iterable[str]) -> None:
        self.pending.difference_update(wires)
        if not self.pending:
            self._over.set()

    def fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._over.set()

    async def wait(self) -> None:
        await self._over.wait()
        if self._error is not None:
            raise self._error


class Pool:
    """Owns the connections of a feed. `run()` is their nursery; everything else returns at once."""

    def __init__(
        self,
        config: FeedConfig,
        network: Network,
        rng: random.Random,
        *,
        tls: Callable[[], ssl.SSLContext],
        dial_limiter: DialLimiter | None,
        close_deadline: Callable[[], float],
    ) -> None:
        self.connections: list[Connection] = []
        self.refusals = Refusals()
        self._config = config
        self._network = network
        self._rng = rng
        self._tls = tls
        self._dial_limiter = dial_limiter
        self._close_deadline = close_deadline
        self._dial_places = trio.Semaphore(config.max_concurrent_dials)
        self._around: dict[Market, Surroundings] = {}
        self._streams: dict[Topic, tuple[Stream, Connection]] = {}
        self._entering: set[Entering] = set()
        self._next_number = 1
        self._nursery: trio.Nursery | None = None
        self._closed = False

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            with one_error() as body:
                async with trio.open_nursery() as self._nursery:
                    with body.watched():
                        task_status.started()
                        await trio.sleep_forever()
        finally:
            self._nursery = None

    def close(self) -> None:
        """Take no more subscriptions, and let nobody wait for an ack that will not come. Idempotent."""
        self._closed = True
        for entering in self._entering:
            entering.fail(UsageError("the feed was closed while a subscription was being entered"))

    # -- what subscriptions ask for -----------------------------------------------------------------------------------

    def attach(self, topics: Sequence[Topic], queue: UpdateQueue) -> Entering:
        """Have *topics* delivered to *queue*. Raises `UsageError`, with nothing changed, beyond `max_connections`."""
        if self._nursery is None or self._closed:
            raise UsageError("the feed is closed")
        self._place([topic for topic in topics if topic not in self._streams])
        entering = Entering(topics, queue)
        for topic in topics:
            stream, connection = self._streams[topic]
            stream.add(queue)
            if connection.has_acked(topic.wire):
                entering.acked([topic.wire])
            elif connection.failed is not None:
                entering.fail(ConnectionFailed([topic.wire], connection.failed))
        self._entering.add(entering)
        return entering

    def entered(self, entering: Entering) -> None:
        """Nobody waits for *entering* any more."""
        self._entering.discard(entering)

    def has(self, topic: Topic, queue: UpdateQueue) -> bool:
        """Whether *topic* is delivered to *queue*: it was attached, and the exchange has not refused it since."""
        return topic in self._streams and queue in self._streams[topic][0].queues

    def detach(self, topics: Iterable[Topic], queue: UpdateQueue) -> None:
        """Deliver *topics* to *queue* no more; what nobody else wants is unsubscribed. Whoever waits for one fails."""
        topics = list(topics)
        for entering in self._entering:
            if entering.queue is queue and not entering.pending.isdisjoint(topic.wire for topic in topics):
                entering.fail(trio.ClosedResourceError("closed while it was being entered"))
        unwanted: dict[Connection, list[Stream]] = {}
        for topic in topics:
            stream, connection = self._streams.get(topic, (None, None))
            if stream is None or connection is None:
                continue  # refused by the exchange, and forgotten then
            stream.remove(queue)
            if not stream.queues:
                del self._streams[topic]
                unwanted.setdefault(connection, []).append(stream)
        for connection, streams in unwanted.items():
            connection.remove(streams)

    def reset(self) -> None:
        """Have every connection that waits to dial again dial now."""
        for connection in self.connections:
            connection.try_now()

    # -- where a topic lives ------------------------------------------------------------------------------------------

    def _place(self, topics: Sequence[Topic], *, working: bool = False) -> None:
        """Give each of *topics* a connection: the one that has its wire topic, one with room, or a new one.

        *working*: none whose attempts are used up, for topics whose subscribers would not be told of that any more.
        """
        plan: dict[Connection, list[Topic]] = {}
        wires: dict[str, Connection] = {}
        new: list[Connection] = []
        room = {connection: connection.room() for connection in self.connections}
        for topic in topics:
            connection = wires.get(topic.wire) or self._carrier(topic.wire)
            if connection is None:
                market = topic.channel.market
                # One that works, where there is one: what is sent to a failed one waits for its trial dial.
                roomy = [one for one in room if one.market is market and room[one] > 0]
                roomy = [one for one in roomy if one.failed is None or not working]
                connection = min(roomy, key=lambda one: one.failed is not None, default=None)
                if connection is None:
                    connection = Connection(self._next_number + len(new), self._surroundings(market), self)
                    new.append(connection)
                    room[connection] = connection.room()
                room[connection] -= 1
                wires[topic.wire] = connection
            plan.setdefault(connection, []).append(topic)
        busy = {connection for connection in self.connections if connection.is_busy()} | plan.keys()
        allowed = self._config.max_connections
        if len(busy) > allowed:
            raise UsageError(f"{len(topics)} more topics need {len(busy)} connections; max_connections is {allowed}")
        if len(self.connections) + len(new) > allowed:
            for idle in set(self.connections) - busy:
                idle.retire()  # it lingered for a topic like these, but not of its market
        for connection, chosen in plan.items():
            streams = [Stream(topic) for topic in chosen]
            self._streams.update((stream.topic, (stream, connection)) for stream in streams)
            connection.add(streams)
        for connection in new:
            self._start(connection)

    def _carrier(self, wire: str) -> Connection | None:
        return next((one for one in self.connections if not one.retired and one.carries(wire)), None)

    def _start(self, connection: Connection) -> None:
        assert self._nursery is not None
        self._next_number += 1
        self.connections.append(connection)
        self._nursery.start_soon(self._run_connection, connection, name=f"connection #{connection.number}")

    async def _run_connection(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self.connections.remove(connection)

    def _surroundings(self, market: Market) -> Surroundings:
        if market not in self._around:
            config = self._config
            base_url = config.futures_url if market is FUTURES else config.spot_url
            self._around[market] = Surroundings(
                market=market,
                config=config,
                network=self._network,
                rest=Rest(
                    self._network,
                    base_url,
                    self._tls,
                    config.loads,
                    config.allowed_hosts,
                    rest_budgets(config.budget_share),
                ),
                tls=self._tls,
                rng=self._rng,
                dial_budgets=(
                    (self._dial_limiter,)
                    if self._dial_limiter is not None
                    else dial_budgets(base_url, market, config.budget_share)
                ),
                dial_places=self._dial_places,
                refusals=self.refusals,
                close_deadline=self._close_deadline,
            )
        return self._around[market]

    # -- what connections tell ----------------------------------------------------------------------------------------

    def acked(self, topics: Sequence[Topic]) -> None:
        wires = {topic.wire for topic in topics}
        for entering in self._entering:
            entering.acked(wires)
        for stream in self._streams_of(wires):
            stream.overdue = False

    def rejected(self, connection: Connection, topic: Topic, code: int, message: str) -> None:
        gone = self._forget(connection, {topic.wire})
        self._tell(gone, SubscriptionRejected(topic.wire, code, message))

    def unanswered(self, connection: Connection, topics: Sequence[Topic]) -> list[Topic]:
        seconds = 2 * self._config.ack_timeout
        wires = {topic.wire for topic in topics}
        for entering in list(self._entering):
            if missing := entering.pending & wires:
                entering.fail(SubscriptionTimeout(sorted(missing), seconds))
                # At once, and not when its task wakes: nothing would ask again for somebody who joins in between.
                self.detach([stream.topic for stream in self._streams_of(missing)], entering.queue)
        restored = self._streams_of(wires)
        silent: dict[UpdateQueue, list[str]] = {}
        for stream in restored:
            if not stream.overdue:  # told once, until it is acknowledged again
                stream.overdue = True
                for queue in stream.queues:
                    silent.setdefault(queue, []).append(stream.topic.wire)
        for queue, missing_wires in silent.items():
            queue.fail(SubscriptionTimeout(missing_wires, seconds))
        return list({stream.topic.wire: stream.topic for stream in restored}.values())

    def link_full(self, connection: Connection, topics: Sequence[Topic]) -> None:
        for stream in self._forget(connection, {topic.wire for topic in topics}):
            try:
                self._place([stream.topic], working=True)
            except UsageError as error:
                self._tell([stream], ExchangeError(f"the exchange takes no more topics on a connection, and {error}"))
            else:
                for queue in stream.queues:
                    self._streams[stream.topic][0].add(queue)

    def gave_up(self, connection: Connection, cause: LinkError) -> None:
        by_queue: dict[UpdateQueue, list[str]] = {}
        for stream in connection.streams():
            for queue in stream.queues:
                by_queue.setdefault(queue, []).append(stream.topic.wire)
        for entering in self._entering:
            lost = entering.pending.intersection(by_queue.get(entering.queue, ()))
            if lost:
                entering.fail(ConnectionFailed(sorted(lost), cause))
        for queue, wires in by_queue.items():
            queue.fail(ConnectionFailed(wires, cause))

    def _tell(self, streams: Sequence[Stream], error: Exception) -> None:
        """Raise *error* where *streams* are waited for: in the entering, else at its place in the stream."""
        wires = {stream.topic.wire for stream in streams}
        told = [one for one in self._entering if not one.pending.isdisjoint(wires)]
        for entering in told:
            entering.fail(error)
        waiting = {entering.queue for entering in told}
        for queue in {queue for stream in streams for queue in stream.queues} - waiting:
            queue.fail(error)

    def _streams_of(self, wires: set[str]) -> list[Stream]:
        return [stream for topic, (stream, _) in self._streams.items() if topic.wire in wires]

    def _forget(self, connection: Connection, wires: set[str]) -> list[Stream]:
        """Take the streams of *wires* off *connection*, where the exchange does not have them."""
        gone = self._streams_of(wires)
        for stream in gone:
            del self._streams[stream.topic]
        connection.remove(gone, unsubscribe=False)
        return gone
