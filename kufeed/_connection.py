"""One supervised connection: carries its topics over one link at a time, and dials again when a link is lost."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from ._backoff import Backoff
from ._breaker import CircuitBreaker, CircuitState
from ._budget import TOKEN_LANE
from ._link import Link
from ._streams import Routes
from ._supervisor import one_error
from .errors import DialError, LinkError, LinkSilent, TokenExpired
from .protocol import rest
from .protocol import session as events
from .protocol.fields import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._channels import Sink
    from ._limiter import Permit
    from ._link import Surroundings
    from ._streams import Stream
    from .protocol.market import Topic

_log = logging.getLogger("kufeed.connection")


class Owner(Protocol):
    """What a connection tells the pool. None of these may wait or raise."""

    def acked(self, connection: Connection, topics: Sequence[Topic]) -> None: ...

    def lost(self, connection: Connection, cause: LinkError) -> None:
        """The link is gone, with all that was acknowledged on it."""
        ...

    def rejected(self, connection: Connection, topic: Topic, code: int, message: str) -> None: ...

    def unanswered(self, connection: Connection, topics: Sequence[Topic]) -> list[Topic]:
        """Tells those who wait, and returns the topics that others still want: they were being restored."""
        ...

    def link_full(self, connection: Connection, topics: Sequence[Topic]) -> None: ...

    def gave_up(self, connection: Connection, cause: LinkError) -> None: ...


@attrs.frozen
class ConnectionStatistics:
    """One connection of a feed at this moment."""

    number: int
    market: str
    topics: int
    acked: int
    """Topics the exchange has acknowledged on the present link."""
    dials: int
    """Times a link was dialled, successfully or not."""
    failures: int
    """Links lost or not made, in a row; a link that lives `healthy_after` seconds ends the row."""
    last_failure: str | None


class Connection:
    """Carries up to `capacity` topics. `run()` is its whole life; everything else returns at once."""

    def __init__(self, number: int, around: Surroundings, owner: Owner, *, exclusive_to: Sink | None = None) -> None:
        config = around.config
        self.number = number
        self.market = around.market
        self.capacity = config.topics_per_connection or self.market.topics_per_connection
        self.exclusive_to = exclusive_to
        """The one subscription that may hold its reader; None where many share it, and none may."""
        self.retired = False
        self.failed: LinkError | None = None
        """Why the attempts are used up, while they are."""
        self._around = around
        self._owner = owner
        self._routes = Routes()
        self._acked: set[str] = set()
        self._wait_to_dial = trio.CancelScope()
        self._permits: list[Permit] = []
        self._holds_place = False
        self._blamed_link = False
        self._link: Link | None = None
        self._idle_since = math.inf
        self._up_since: float | None = None
        self._failures = 0
        self._dials = 0
        self._last_failure: LinkError | None = None
        self._try_now = trio.Event()
        self._backoff = Backoff(
            config.reconnect_delay, max=config.max_reconnect_delay, healthy_after=config.healthy_after
        )
        allowed = config.max_reconnect_attempts
        self._breaker = CircuitBreaker(None if allowed is None else allowed + 1, config.circuit_cooldown)

    # -- topics: called by the pool -----------------------------------------------------------------------------------

    def room(self) -> int:
        return 0 if self.retired else max(0, self.capacity - len(self._routes.by_wire))

    def is_busy(self) -> bool:
        """Whether it has topics to carry; another lingers, or ends."""
        return bool(self._routes.by_wire) and not self.retired

    def carries(self, wire: str) -> bool:
        return wire in self._routes.by_wire

    def has_acked(self, wire: str) -> bool:
        return wire in self._acked

    def add(self, streams: Iterable[Stream]) -> None:
        """Carry *streams*; a wire topic that is new here is subscribed to, now or once the link is up."""
        new: list[Topic] = []
        for stream in streams:
            if not self.carries(stream.topic.wire):
                new.append(stream.topic)
            self._routes.add(stream)
            stream.begin_link()
        self._set_idle_since(math.inf)
        self._ask(events.Session.subscribe, new)

    def remove(self, streams: Iterable[Stream], *, unsubscribe: bool = True) -> None:
        """Carry *streams* no more; a wire topic that nobody shares is unsubscribed where the exchange took it."""
        gone: list[Topic] = []
        for stream in streams:
            self._routes.remove(stream)
            if not self.carries(stream.topic.wire):
                self._acked.discard(stream.topic.wire)
                gone.append(stream.topic)
        if unsubscribe:
            self._ask(events.Session.unsubscribe, gone)
        if not self._routes.by_wire:
            self._set_idle_since(trio.current_time())
            self.try_now()
            self._wait_to_dial.cancel()

    def streams(self) -> list[Stream]:
        return self._routes.streams()

    def try_now(self) -> None:
        """Dial at once where the connection waits for its back-off or the circuit's cool-down."""
        self._try_now.set()
        self._breaker.half_open()

    def _ask(self, what: Callable[[events.Session, Iterable[Topic]], None], topics: list[Topic]) -> None:
        session = None if self._link is None else self._link.session
        if session is not None and session.welcomed and topics:
            what(session, topics)
            assert self._link is not None
            self._link.stir()

    def _set_idle_since(self, time: float) -> None:
        self._idle_since = time
        if self._link is not None:
            self._link.idle_at = time + self._around.config.linger
            self._link.stir()

    def retire(self) -> None:
        """Carry nothing any more, and end."""
        self.retired = True
        if self._link is not None:
            self._link.end(None)
        self.try_now()
        self._wait_to_dial.cancel()

    # -- the supervisor -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a link up while there are topics to carry; returns once it has been idle for `linger` seconds."""
        while True:
            if not self._routes.by_wire:
                self.retire()
            if self.retired:
                return
            try:
                await self._run_link()
            except LinkError as failure:
                await self._wait_after(failure)

    async def _run_link(self) -> None:
        around = self._around
        dialled = False
        try:
            if not await self._wait_for_turn():
                return
            dialled = True
            self._dials += 1
            for stream in self.streams():
                stream.begin_link()
            link = Link(self._dials, around, self._routes, on_event=self._handle, on_idle=self.retire)
            link.idle_at = self._idle_since + around.config.linger
            self._link = link
            with one_error():
                async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own, to be seen in the tree
                    nursery.start_soon(link.run, name="link")
        except LinkError as failure:
            if dialled:
                self._owner.lost(self, failure)
            raise
        finally:
            self._link = None
            self._acked.clear()
            self._end_turn(unused=not dialled)

    async def _wait_for_turn(self) -> bool:
        """Wait for the budgets, then for one of the places; False where nobody wants the connection any more.

        All are held until the link is up or lost: the budgets count from then, whenever before the exchange saw the
        dial. They come first, so that a market which has used up its own keeps no other from dialling. What the
        exchange has asked for meanwhile is looked at last: many may have been on their way here when it did.
        """
        quiet = self._around.rest.quiet
        with trio.CancelScope() as self._wait_to_dial:
            while True:
                await quiet.wait_over()
                if await self._take_turn() and quiet.until() <= trio.current_time():
                    return True
                self._end_turn(unused=True)
        return False

    async def _take_turn(self) -> bool:
        """Take all it needs; False where REST has no room for as long as its window lasts.

        REST comes last: those who wait for a market's dials would use up the weight of all. And it is not
        waited for longer, as while the exchange asks everybody to wait: a dial is kept from others meanwhile.
        """
        around = self._around
        for dials in around.dial_budgets:
            try:
                self._permits.append(await dials.acquire())
            except OSError as error:
                raise DialError("budget", error) from error
        with trio.move_on_after(rest.WINDOW) as patience:
            for weights in around.rest.budgets:
                self._permits.append(await weights.acquire(rest.TOKEN.weight, lane=TOKEN_LANE))
        if patience.cancelled_caught:
            return False
        await around.dial_places.acquire()
        self._holds_place = True
        return True

    def _end_turn(self, *, unused: bool) -> None:
        for permit in self._permits:
            permit.release(unused=unused)
        self._permits.clear()
        if self._holds_place:
            self._holds_place = False
            self._around.dial_places.release()

    def _handle(self, event: events.Event) -> None:
        link = self._link
        assert link is not None
        assert link.session is not None
        match event:
            case events.Welcomed():
                self._end_turn(unused=False)
                self._up_since = trio.current_time()
                self.failed = None
                if self._breaker.state is CircuitState.HALF_OPEN:
                    self._breaker.record_success()  # the trial was the dial
                _log.info("connection #%d (%s) is up", self.number, self.market.name)
                link.session.subscribe(self._one_topic_each())
            case events.Acked(topics):
                held = [topic for topic in topics if self.carries(topic.wire)]
                self._acked.update(topic.wire for topic in held)
                self._blamed_link = False
                self._owner.acked(self, held)
            case events.Rejected(topic, code, message):
                self._owner.rejected(self, topic, code, message)
            case events.Unanswered(topics):
                wanted = self._owner.unanswered(self, [topic for topic in topics if self.carries(topic.wire)])
                if wanted and not self._acked and not self._blamed_link:
                    self._blamed_link = True
                    link.end(LinkSilent("acknowledgement", 2 * link.session.ack_timeout))
                else:
                    # The link is not at fault: others were acknowledged, or another link did no better.
                    self._ask_in_halves(link.session, wanted, again=True)
            case events.LinkFull(topics, limit):
                self._relieve(link.session, [topic for topic in topics if self.carries(topic.wire)], limit)
            case events.Slowed(seconds):
                _log.warning("connection #%d: the exchange asks for fewer frames; waiting %g s", self.number, seconds)
            case events.Unknown(frame):
                _log.debug("connection #%d: a frame nothing waits for, type %s", self.number, shown(frame.get("type")))

    def _relieve(self, session: events.Session, refused: list[Topic], limit: int | None) -> None:
        """Learn how many topics this connection takes, keep what fits, and have the rest go elsewhere."""
        others = len(self._routes.by_wire) - len(refused)
        if limit is not None and 0 < limit < others + len(refused):
            self.capacity = limit
            kept = max(0, limit - others)
            session.subscribe(refused[:kept])
            self._owner.link_full(self, refused[kept:])
        elif len(refused) > 1:  # the text gives no number, or not the one that was applied: halves find it
            self._ask_in_halves(session, refused)
        elif others:
            self.capacity = others
            self._owner.link_full(self, refused)
        else:  # refused on a connection of its own: another would do no better
            for topic in refused:
                self._owner.rejected(self, topic, 509, "the exchange calls a connection full that has nothing else")

    def _ask_in_halves(self, session: events.Session, topics: list[Topic], *, again: bool = False) -> None:
        """A frame was refused or not answered: halves find the topic that is at fault, and the others get through."""
        middle = len(topics) // 2
        session.subscribe(topics[:middle], again=again)
        session.subscribe(topics[middle:], again=again)

    def _one_topic_each(self) -> list[Topic]:
        return [next(iter(subjects.values()))[0].topic for subjects in self._routes.by_wire.values()]

    async def _wait_after(self, failure: LinkError) -> None:
        lived = 0.0 if self._up_since is None else trio.current_time() - self._up_since
        self._up_since = None
        # A refused token is answered with a fresh one at once; refused again, it is a failure like any other.
        fresh_token = isinstance(failure, TokenExpired) and not isinstance(self._last_failure, TokenExpired)
        self._last_failure = failure
        self._failures = self._backoff.count(self._failures, lived)
        if self._failures == 1:
            self._breaker.record_success()
        self._breaker.record_failure(failure)
        wait = failure.retry_after if isinstance(failure, DialError) else None
        if wait and isinstance(failure, DialError) and failure.phase == "upgrade":
            self._around.rest.quiet.ask(wait)
        self._try_now = trio.Event()
        if self._breaker.state is CircuitState.OPEN:
            _log.warning("connection #%d (%s) gave up: %s", self.number, self.market.name, failure)
            if self.failed is None:
                self.failed = failure
                self._owner.gave_up(self, failure)
            await self._breaker.wait_state(CircuitState.HALF_OPEN)
        else:
            pause = 0.0 if fresh_token else self._backoff.delay(self._failures, self._around.rng, retry_after=wait)
            _log.warning(
                "connection #%d (%s) failed: %s; next try in %.3g s", self.number, self.market.name, failure, pause
            )
            with trio.move_on_after(pause):
                await self._try_now.wait()

    def statistics(self) -> ConnectionStatistics:
        return ConnectionStatistics(
            number=self.number,
            market=self.market.name,
            topics=len(self._routes.by_wire),
            acked=len(self._acked),
            dials=self._dials,
            failures=self._failures,
            last_failure=None if self._last_failure is None else str(self._last_failure),
        )
