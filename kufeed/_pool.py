"""Which topic lives on which connection, and who waits for its ack."""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from ._budget import dial_budgets, quiet, rest_budgets
from ._connection import Connection
from ._journal import Journal
from ._lateness import Lateness
from ._lifecycle import TopicRefused, TopicsUnanswered
from ._link import Surroundings
from ._maintenance import Maintenance
from ._refusals import Refusals
from ._requests import Requests
from ._rest import Rest
from ._standing import Standing, Tally
from ._streams import newest
from ._supervisor import one_error
from ._whole_market import stream_of
from .errors import ConnectionFailed, LinkError, SubscriptionRejected, SubscriptionTimeout, UsageError
from .protocol.events import GapCause
from .protocol.futures import FUTURES
from .protocol.market import ALL

if TYPE_CHECKING:
    import random
    import ssl
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

    from ._budget import DialLimiter
    from ._channels import Sink
    from ._config import FeedConfig
    from ._network import Network
    from ._streams import Stream
    from .protocol.events import StreamEnd
    from .protocol.market import Market, Topic
    from .protocol.updates import Update


_SESSION_FULL = 509
"""KuCoin's code for a topic too many on a connection."""
_ROTATIONS = 2
"""Dials at once, in a market, that replace links in time: all others keep their places."""


class Entering:
    """A subscription's wait until every one of its wire topics is acknowledged."""

    def __init__(
        self, topics: Iterable[Topic], sink: Sink, reader: Sink, leave: Callable[[Iterable[Topic]], None]
    ) -> None:
        self.topics = tuple(topics)
        self.pending = {topic.wire for topic in self.topics}
        self.sink = sink
        self.reader = reader
        """Where the subscription gets its updates: *sink*, or what others stand between."""
        self.leave = leave
        """Has some of the topics delivered to *reader* no more."""
        self.skips_refused = False
        """Whether it goes on without the topics that are refused, as long as any are left."""
        self.refused: list[tuple[tuple[Topic, ...], SubscriptionRejected]] = []
        """Topics it goes on without, and why."""
        self.error: Exception | None = None
        """Why it has failed; None where it has not."""
        self._any_acked = False
        self._over = trio.Event()

    def waits_for(self, connection: Connection, wires: Iterable[str]) -> set[str]:
        """Those of *wires*, as *connection* carries them, that it still waits for."""
        return self.pending.intersection(wires) if connection.exclusive_to is _owner(self.sink) else set()

    def acked(self, wires: Iterable[str]) -> None:
        self._any_acked = True
        self._settle(wires)

    def refuse(self, topics: Iterable[Topic], error: SubscriptionRejected) -> None:
        """The exchange does not stream *topics*, which are those of one wire topic that it waits for."""
        topics = tuple(topics)
        if self.skips_refused:
            self.refused.append((topics, error))
            self._settle([error.topic])
        else:
            self.fail(error)
        self.leave(topics)

    def give_up(self, wires: Collection[str], error: Exception) -> None:
        """Fail for the sake of *wires*, which it waits for.

        It leaves them at once, and not when its task wakes: it has been told, and need not be told in its stream; and
        nothing would ask again for somebody who joins in between.
        """
        self.fail(error)
        self.leave([topic for topic in self.topics if topic.wire in wires])

    def _settle(self, wires: Iterable[str]) -> None:
        self.pending.difference_update(wires)
        if not self.pending:
            if not self._any_acked and self.refused:
                self.fail(self.refused[0][1])
            self._over.set()

    def fail(self, error: Exception) -> None:
        self.error = self.error or copy(error)  # others get it as well, as in `Sink.fail()`
        self._over.set()

    async def wait(self) -> None:
        await self._over.wait()
        if self.error is not None:
            raise self.error


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
        note_dial: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.connections: list[Connection] = []
        self.refusals = Refusals(perf_counter=network.perf_counter)
        self.lateness: list[Lateness] = []
        """One for each market."""
        self.requests = Requests(config.connect_timeout)
        self.journal = Journal(lambda: self.standing.stir())
        self.standing = Standing(self.journal, self._tally)
        self._maintenance = Maintenance(self.requests, self.journal)
        self._config = config
        self._network = network
        self._rng = rng
        self._tls = tls
        self._dial_limiter = dial_limiter
        self._close_deadline = close_deadline
        self._note_dial = note_dial
        self._dial_places = trio.Semaphore(config.max_concurrent_dials)
        self._around: dict[Market, Surroundings] = {}
        # By topic, and the subscription it is for where its links are not shared.
        self._streams: dict[tuple[Topic, Sink | None], tuple[Stream, Connection]] = {}
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
                        await self.standing.run()
        finally:
            self._nursery = None

    def close(self) -> None:
        """Take no more subscriptions, and let nobody wait for an answer that will not come. Idempotent."""
        self._closed = True
        self.requests.close()
        for entering in self._entering:
            entering.fail(UsageError("the feed was closed while a subscription was being entered"))
        self.standing.close()
        self.journal.close()

    # -- what subscriptions ask for -----------------------------------------------------------------------------------

    def attach(
        self,
        topics: Sequence[Topic],
        sink: Sink,
        *,
        reader: Sink | None = None,
        leave: Callable[[Iterable[Topic]], None] | None = None,
    ) -> Entering:
        """Have *topics* delivered to *sink*. Raises `UsageError`, with nothing changed, beyond `max_connections`.

        *reader* is who enters, where *sink* serves others too, and *leave* what takes it off topics that are refused.
        """
        if self._nursery is None or self._closed:
            raise UsageError("the feed is closed")
        owner = _owner(sink)
        self._place([self._stream(topic) for topic in topics if (topic, owner) not in self._streams], owner)
        entering = Entering(topics, sink, reader or sink, leave or partial(self.detach, sink=sink))
        for topic in topics:
            stream, connection = self._streams[topic, owner]
            stream.add(sink)
            if connection.has_acked(topic.wire):
                if stream.acked_at is None:  # a new one, on a wire topic that others have already
                    stream.acked_at, stream.is_up = trio.current_time(), True
                entering.acked([topic.wire])
                sink.acked(topic)
            elif connection.failed is not None:
                entering.fail(ConnectionFailed([topic.wire], connection.failed))
        self._entering.add(entering)
        self.standing.stir()
        return entering

    def entered(self, entering: Entering) -> None:
        """Nobody waits for *entering* any more."""
        self._entering.discard(entering)

    def has(self, topic: Topic, sink: Sink) -> bool:
        """Whether *topic* is delivered to *sink*: it was attached, and the exchange has not refused it since."""
        found = self._streams.get((topic, _owner(sink)))
        return found is not None and sink in found[0].sinks

    def is_pending(self, topic: Topic, sink: Sink) -> bool:
        """Whether *topic* is to be delivered to *sink*, and the exchange has yet to acknowledge it."""
        stream, connection = self._streams.get((topic, _owner(sink)), (None, None))
        if stream is None or connection is None or sink not in stream.sinks:
            return False
        return not connection.has_acked(topic.wire)

    async def wait_pending(self) -> None:
        """Return when something that was pending may not be so any more, or the feed is closed."""
        await self.standing.wait_change()

    def latest(self, topic: Topic) -> Update | None:
        """What came last of *topic*, on whichever of its streams: one that all share, others of who may hold a link."""
        owners = dict.fromkeys(connection.exclusive_to for connection in self.connections)
        asked = attrs.evolve(topic, symbol=ALL) if topic.is_part else topic
        return newest(self._streams[asked, owner][0].last(topic) for owner in owners if (asked, owner) in self._streams)

    def detach(self, topics: Iterable[Topic], sink: Sink) -> None:
        """Deliver *topics* to *sink* no more; what nobody else wants is unsubscribed. Whoever waits for one fails."""
        topics = list(topics)
        self.abandon(topics, sink)
        unwanted: dict[Connection, list[Stream]] = {}
        for topic in topics:
            key = (topic, _owner(sink))
            stream, connection = self._streams.get(key, (None, None))
            if stream is None or connection is None:
                continue  # refused by the exchange, and forgotten then
            stream.remove(sink)
            if not stream.sinks:
                del self._streams[key]
                unwanted.setdefault(connection, []).append(stream)
        for connection, streams in unwanted.items():
            connection.remove(streams)
        self.standing.stir()

    def abandon(self, topics: Iterable[Topic], reader: Sink) -> None:
        """Have whoever waits for one of *topics* on behalf of *reader* fail."""
        wires = [topic.wire for topic in topics]
        for entering in self._entering:
            if entering.reader is reader and not entering.pending.isdisjoint(wires):
                entering.fail(trio.ClosedResourceError("closed while it was being entered"))

    def reset(self) -> None:
        """Have every connection that waits to dial again dial now, also where the exchange has asked us to wait."""
        for around in self._around.values():
            around.rest.quiet.lift()
            for budget in around.rest.budgets:
                budget.resume()
        for connection in self.connections:
            connection.try_now()

    def streams(self) -> list[Stream]:
        """All that is subscribed to; of a topic several, where a subscription shares its links with nobody."""
        return [stream for stream, _ in self._streams.values()]

    def carries(self, stream: Stream) -> bool:
        return self._find(stream) is not None

    def end(self, stream: Stream, event: StreamEnd) -> None:
        """Unsubscribe from *stream*, whoever wants it: *event* says why, and is told to them at its place."""
        connection = self._find(stream)
        if connection is not None:
            del self._streams[stream.topic, connection.exclusive_to]
            connection.remove([stream])
            for sink in stream.sinks:
                sink.end(event)

    def resubscribe(self, streams: Iterable[Stream]) -> None:
        """Have the exchange begin *streams* anew, which seem to be dead, and all that share their wire topics.

        Subscribers of the others are told too what is missing: what comes until the exchange streams them again.
        """
        topics: dict[Connection, dict[str, Topic]] = {}
        for stream in streams:
            if (connection := self._find(stream)) is not None:
                topics.setdefault(connection, {})[stream.topic.wire] = stream.topic
        for connection, by_wire in topics.items():
            for stream in _streams_of(connection, by_wire):
                stream.begin_link()
                stream.miss(stream.sinks, GapCause.STALE)
            connection.resubscribe(list(by_wire.values()))

    def _find(self, stream: Stream) -> Connection | None:
        for owner in {_owner(sink) for sink in stream.sinks}:  # one: who shares links with nobody shares no stream
            found, connection = self._streams.get((stream.topic, owner), (None, None))
            if found is stream:
                return connection
        return None

    def _stream(self, topic: Topic) -> Stream:
        stream = stream_of(topic, numbers=self._config.numbers, keep_raw=self._config.keep_raw)
        stream.since = trio.current_time()
        return stream

    def rest(self, market: Market) -> Rest:
        """Where *market* is asked by REST."""
        return self._surroundings(market).rest

    def start_soon(self, fn: Callable[..., Awaitable[None]], *args: object, name: str) -> None:
        """Run a task beside the connections, which ends with them. Where they have ended, it is not begun."""
        if self._nursery is not None:
            self._nursery.start_soon(fn, *args, name=name)

    def _tally(self) -> Tally:
        busy = [connection for connection in self.connections if connection.is_busy()]
        return Tally(
            total=sum(len(connection.routes.by_wire) for connection in busy),
            acked=sum(connection.acked_count() for connection in busy),
            hopeless=all(connection.failed is not None for connection in busy),
        )

    # -- where a topic lives ------------------------------------------------------------------------------------------

    def _place(self, streams: Sequence[Stream], owner: Sink | None, *, working: bool = False) -> None:
        """Give each of *streams* a connection: the one that has its wire topic, one with room, or a new one.

        *owner* shares its links with nobody. *working*: none whose attempts are used up, for topics whose subscribers
        would not be told of that any more.
        """
        plan: dict[Connection, list[Stream]] = {}
        wires: dict[str, Connection] = {}
        new: list[Connection] = []
        room = {one: one.room() for one in self.connections if one.exclusive_to is owner}
        for stream in streams:
            wire, market = stream.topic.wire, stream.topic.channel.market
            connection = wires.get(wire) or next((one for one in room if one.carries(wire) and not one.retired), None)
            if connection is None:
                # One that works, where there is one: what is sent to a failed one waits for its trial dial.
                roomy = [one for one in room if one.market is market and room[one] > 0]
                roomy = [one for one in roomy if one.failed is None or not working]
                connection = min(roomy, key=lambda one: one.failed is not None, default=None)
                if connection is None:
                    number, around = self._next_number + len(new), self._surroundings(market)
                    connection = Connection(number, around, self, exclusive_to=owner)
                    new.append(connection)
                    room[connection] = connection.room()
                room[connection] -= 1
                wires[wire] = connection
            plan.setdefault(connection, []).append(stream)
        busy = {connection for connection in self.connections if connection.is_busy()} | plan.keys()
        allowed, redundancy = self._config.max_connections, self._config.redundancy
        if len(busy) * redundancy > allowed:
            raise UsageError(
                f"{len(streams)} more topics need {len(busy) * redundancy} connections; max_connections is {allowed}"
            )
        if (len(self.connections) + len(new)) * redundancy > allowed:
            for idle in set(self.connections) - busy:
                idle.retire()  # it lingered for a topic like these, but not of its market
        for connection, chosen in plan.items():
            self._streams.update(((stream.topic, owner), (stream, connection)) for stream in chosen)
            connection.add(chosen)
        for connection in new:
            self._start(connection)

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
            self.standing.stir()

    def _surroundings(self, market: Market) -> Surroundings:
        if market not in self._around:
            config = self._config
            base_url = config.futures_url if market is FUTURES else config.spot_url
            lateness = Lateness(config.latency_warning, perf_counter=self._network.perf_counter)
            self.lateness.append(lateness)
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
                    quiet(base_url),
                ),
                tls=self._tls,
                rng=self._rng,
                dial_budgets=(
                    (self._dial_limiter,)
                    if self._dial_limiter is not None
                    else dial_budgets(base_url, market, config.budget_share)
                ),
                dial_places=self._dial_places,
                rotation_places=trio.Semaphore(_ROTATIONS),
                journal=self.journal,
                note_dial=self._note_dial,
                refusals=self.refusals,
                lateness=lateness,
                close_deadline=self._close_deadline,
            )
        return self._around[market]

    # -- what connections tell ----------------------------------------------------------------------------------------

    def acked(self, connection: Connection, topics: Sequence[Topic]) -> None:
        wires = {topic.wire for topic in topics}
        for entering in self._entering:
            if waited_for := entering.waits_for(connection, wires):
                entering.acked(waited_for)
        now = trio.current_time()
        for stream in _streams_of(connection, wires):
            stream.overdue = False
            stream.restore(now)
        self.standing.stir()

    def lost(self, connection: Connection, streams: Collection[Stream], cause: LinkError) -> None:
        now = trio.current_time()
        for stream in streams:
            stream.lose(cause, now)
        self.standing.stir()

    def rejected(self, connection: Connection, topic: Topic, code: int, message: str) -> None:
        self._refuse(connection, self._forget(connection, {topic.wire}), code, message)

    def unanswered(self, connection: Connection, topics: Sequence[Topic]) -> list[Topic]:
        seconds = 2 * self._config.ack_timeout
        wires = {topic.wire for topic in topics}
        new = tuple(stream.topic for stream in _streams_of(connection, wires) if not stream.overdue)
        if new:
            self.journal.tell(TopicsUnanswered(connection.number, connection.market.name, new, seconds))
        for entering in list(self._entering):
            if missing := entering.waits_for(connection, wires):
                entering.give_up(missing, SubscriptionTimeout(sorted(missing), seconds))
        restored = _streams_of(connection, wires)
        silent: dict[Sink, list[str]] = {}
        for stream in restored:
            if not stream.overdue:  # told once, until it is acknowledged again
                stream.overdue = True
                for sink in stream.sinks:
                    silent.setdefault(sink, []).append(stream.topic.wire)
        for sink, missing_wires in silent.items():
            sink.fail(SubscriptionTimeout(missing_wires, seconds))
        return list({stream.topic.wire: stream.topic for stream in restored}.values())

    def link_full(self, connection: Connection, topics: Sequence[Topic]) -> None:
        self.standing.stir()
        by_wire: dict[str, list[Stream]] = {}
        for stream in self._forget(connection, {topic.wire for topic in topics}):
            by_wire.setdefault(stream.topic.wire, []).append(stream)
        for streams in by_wire.values():
            try:
                self._place(streams, connection.exclusive_to, working=True)
            except UsageError as error:
                # Naming its topic, since a sink may serve others, who are not concerned.
                full = f"the exchange takes no more topics on a connection, and {error}"
                self._refuse(connection, streams, _SESSION_FULL, full)

    def gave_up(self, connection: Connection, cause: LinkError) -> None:
        for entering in list(self._entering):
            if lost := entering.waits_for(connection, list(connection.routes.by_wire)):
                entering.give_up(lost, ConnectionFailed(sorted(lost), cause))
        by_sink: dict[Sink, list[str]] = {}
        for stream in connection.streams():
            for sink in stream.sinks:
                by_sink.setdefault(sink, []).append(stream.topic.wire)
        for sink, wires in by_sink.items():
            sink.fail(ConnectionFailed(wires, cause))
        self.standing.stir()

    def circuit_opened(self, connection: Connection) -> None:
        if self._nursery is not None and self._maintenance.is_due(market := connection.market):
            ask = partial(self._maintenance.ask, market, self.rest(market))
            self._nursery.start_soon(ask, name=f"status of {market.name}")

    def _refuse(self, connection: Connection, streams: Sequence[Stream], code: int, message: str) -> None:
        """Tell of *streams*, forgotten already, of one wire topic: in the entering, else at its place in the stream."""
        if not streams:
            return
        for stream in streams:
            self.journal.tell(TopicRefused(stream.topic, code, message))
        wire = streams[0].topic.wire
        error = SubscriptionRejected(wire, code, message)
        told: set[tuple[Sink, Topic]] = set()
        for entering in list(self._entering):
            if entering.waits_for(connection, [wire]):
                waited_for = [one for one in entering.topics if one.wire == wire]
                entering.refuse(waited_for, error)
                told.update((entering.reader, one) for one in waited_for)
        by_sink: dict[Sink, list[Topic]] = {}
        for stream in streams:
            for sink in stream.sinks:
                if (sink, stream.topic) not in told:
                    by_sink.setdefault(sink, []).append(stream.topic)
        for sink, topics in by_sink.items():
            sink.refuse(topics, error)

    def _forget(self, connection: Connection, wires: set[str]) -> list[Stream]:
        """Take the streams of *wires* off *connection*, where the exchange does not have them."""
        gone = _streams_of(connection, wires)
        for stream in gone:
            del self._streams[stream.topic, connection.exclusive_to]
        connection.remove(gone)
        return gone


def _owner(sink: Sink) -> Sink | None:
    """Whose links *sink* is served by: its own where it may hold their reader, else everybody's."""
    return sink if sink.blocks else None


def _streams_of(connection: Connection, wires: Iterable[str]) -> list[Stream]:
    chosen = set(wires)
    return [stream for stream in connection.streams() if stream.topic.wire in chosen]
