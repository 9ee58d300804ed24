"""One supervised sequence of links: dials for a connection, and dials again when a link is lost.

A link that joins others is on standby first, so that nothing is lost or told twice at the seam: see `_connection`.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from ._backoff import Backoff
from ._breaker import CircuitBreaker, CircuitState
from ._budget import TOKEN_LANE, acquire_dial
from ._lifecycle import CircuitOpened, DialFailed, LinkLost, LinkUp
from ._link import Link
from ._servers import ServerChoice
from ._supervisor import one_error
from .errors import DialError, LinkClosed, LinkError, TokenExpired
from .protocol import rest
from .protocol.session import Welcomed

if TYPE_CHECKING:
    from collections.abc import Collection

    from ._limiter import Permit
    from ._link import Surroundings
    from ._race import Race
    from ._streams import Routes
    from .protocol.session import Event

_log = logging.getLogger("kufeed.connection")

OLD_AGE = "age"
_POLITE = frozenset({1001, 1012})
"""Close codes of a server that goes away on purpose (RFC 6455; 1012 by the IANA registry): others are there at once."""
_ROTATION_SPREAD = 0.1
"""Links that were made together are not replaced together."""
_OLDEST = 23.75 * 3600.0
"""Seconds: KuCoin is expected to disconnect after 24 h (WebSocket introduction), and a dial may have to wait."""


class LineOwner(Protocol):
    """What a line asks its connection, and tells it. None of these may wait or raise, but `join()`."""

    number: int
    routes: Routes
    idle_since: float
    """When its last topic went; infinite while it has one."""

    async def wait_busy(self, line: Line) -> bool:
        """Wait while the connection has no topics and lingers on another link; whether *line* is to go on."""
        ...

    def taken_beside(self, line: Line) -> Collection[str]:
        """The servers that other lines have links to."""
        ...

    def is_carried_beside(self, line: Line) -> bool:
        """Whether another line's link delivers the same to the one subscription that may hold its reader."""
        ...

    def retire(self) -> None: ...

    def begin(self, line: Line) -> tuple[int, bool]:
        """A dial begins: the generation of its link, and whether that is to stand by at first."""
        ...

    def handle(self, line: Line, event: Event) -> None: ...

    def lost(self, line: Line, cause: LinkError) -> None:
        """The link is gone, with all that was acknowledged on it."""
        ...

    def gave_up(self, cause: LinkError) -> None: ...

    def circuit_opened(self) -> None:
        """A line has given up, or has failed again since: its trial dial did."""
        ...

    def rotate(self, line: Line, reason: str) -> None: ...

    async def join(self, line: Line) -> None:
        """Return when what the link on standby brings is to be delivered."""
        ...


@attrs.frozen
class LinkStatistics:
    """One link at this moment, or the place of one that is being made."""

    generation: int
    """Counts the dials of its connection; 0 before the first."""
    host: str | None
    """Of the instance server; None where none is known yet."""
    state: str
    """`waiting`, `dialling`, `standby` or `live`."""
    up_for: float
    """Seconds since its welcome; 0.0 before."""
    acked: int
    """Topics the exchange has acknowledged on it."""
    first: int
    """Updates that it brought, and another link after it (`FeedConfig.redundancy`)."""
    lead: float
    """Seconds by which it was first, all of these together."""


class Line:
    """Keeps one link up for its connection. `run()` is its whole life; everything else returns at once."""

    def __init__(
        self,
        place: int,
        around: Surroundings,
        owner: LineOwner,
        *,
        replaces: Line | None = None,
        reason: str = "",
    ) -> None:
        config = around.config
        self.place = place
        """Which of the connection's parallel lines it is: each prefers another instance server."""
        self.replaces = replaces
        """The line whose link is to end once this one's has joined it."""
        self.reason = reason
        self.retired = False
        self.failed: LinkError | None = None
        """Why the attempts are used up, while they are."""
        self.failures = 0
        self.acked: set[str] = set()
        self.link: Link | None = None
        self.up_since: float | None = None
        self.is_live = False
        """Whether what its link brings is delivered."""
        self.blamed = False
        """Its link was given up because nothing was acknowledged on it."""
        self._around = around
        self._owner = owner
        self._wait_to_dial = trio.CancelScope()
        self._permits: list[Permit] = []
        self._places: list[trio.Semaphore] = []
        self._probes: dict[str, trio.Event] = {}
        self._dialled_at = 0.0
        self._host: str | None = None
        shunned = replaces.server_name if replaces is not None and reason != OLD_AGE else None
        self._servers = ServerChoice(owner.number - 1 + place, shunned)
        self._try_now = trio.Event()
        self._last_failure: LinkError | None = None
        self._backoff = Backoff(
            config.reconnect_delay, max=config.max_reconnect_delay, healthy_after=config.healthy_after
        )
        allowed = config.max_reconnect_attempts
        self._breaker = CircuitBreaker(None if allowed is None else allowed + 1, config.circuit_cooldown)

    # -- what its connection asks -------------------------------------------------------------------------------------

    def try_now(self) -> None:
        """Dial at once where it waits for its back-off or the circuit's cool-down."""
        self._try_now.set()
        self._breaker.half_open()

    def stop_waiting(self) -> None:
        """Do not wait for a turn to dial any more; where the connection is still wanted, begin to wait anew."""
        self._try_now.set()
        self._wait_to_dial.cancel()

    def retire(self) -> None:
        """End, politely where there is a link."""
        self.retired = True
        self.is_live = False
        if self.link is not None:
            self.link.end(None)
        self.try_now()
        self.stop_waiting()

    def set_idle_since(self, time: float) -> None:
        if self.link is not None:
            self.link.idle_at = time + self._around.config.linger
            self.link.stir()

    def has_all_of(self, other: Line) -> bool:
        """Whether all that *other* has acknowledged is acknowledged here too."""
        return self.acked >= other.acked

    @property
    def server_name(self) -> str | None:
        """Of the instance server that it has a link to, or dials."""
        server = None if self.link is None else self.link.server
        return None if server is None else server.endpoint.authority

    def age(self) -> float:
        """Seconds that its link has been up; 0.0 where it is not."""
        return 0.0 if self.up_since is None else trio.current_time() - self.up_since

    async def wait_pong(self) -> bool:
        """Return when the server has answered a ping sent now, or has not in time; also once the link is gone.

        Whether it has answered. A server that never answers pings on this link counts as one that has.
        """
        link = self.link
        if link is None or link.session is None:
            return False
        session = link.session
        ping_id = session.probe()
        answered = self._probes[ping_id] = trio.Event()
        link.stir()
        try:
            while not answered.is_set():
                # A reader that is held, or was, may have the answer still before it.
                holds = session.holds
                with trio.move_on_after(session.pong_timeout + self._around.market.frame_window):
                    await answered.wait()
                if not session.is_held and session.holds == holds:
                    break
            return answered.is_set() or not session.has_ponged
        finally:
            del self._probes[ping_id]

    def ponged(self, ping_id: str) -> None:
        if ping_id in self._probes:
            self._probes[ping_id].set()

    # -- the supervisor -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a link up while there are topics to carry; returns once it is retired."""
        while True:
            if not await self._owner.wait_busy(self):
                return
            try:
                await self._run_link()
            except LinkError as failure:
                await self._wait_after(failure)

    async def _run_link(self) -> None:
        dialled = False
        try:
            if not await self._wait_for_turn():
                return
            dialled = True
            self._dialled_at = trio.current_time()
            generation, stands_by = self._owner.begin(self)
            self.link = Link(
                generation,
                self._around,
                self._owner.routes,
                choose=lambda servers: self._servers.choose(servers, self._owner.taken_beside(self)),
                on_event=self._handle,
                on_idle=self._owner.retire,
                on_old=lambda: self._owner.rotate(self, OLD_AGE),
                is_carried_beside=lambda: self._owner.is_carried_beside(self),
                join=partial(self._owner.join, self) if stands_by else None,
            )
            self.set_idle_since(self._owner.idle_since)
            with one_error():
                async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own, to be seen in the tree
                    nursery.start_soon(self.link.run, name="link")
        except LinkError as failure:
            self._owner.lost(self, failure)
            raise
        finally:
            if self.link is not None:
                self._note_server(self.link)
            self.link = None
            for answered in self._probes.values():
                answered.set()
            self.is_live = False
            self.acked.clear()
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
                if self.replaces is not None:
                    await self._take_place(self._around.rotation_places)
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
                self._permits.append(await acquire_dial(dials, can_wait=self.replaces is not None))
            except OSError as error:
                raise DialError("budget", error) from error
        with trio.move_on_after(rest.WINDOW) as patience:
            for weights in around.rest.budgets:
                self._permits.append(await weights.acquire(rest.TOKEN.weight, lane=TOKEN_LANE))
        if patience.cancelled_caught:
            return False
        await self._take_place(around.dial_places)
        return True

    async def _take_place(self, places: trio.Semaphore) -> None:
        await places.acquire()
        self._places.append(places)

    def _end_turn(self, *, unused: bool) -> None:
        for permit in self._permits:
            permit.release(unused=unused)
        self._permits.clear()
        for places in self._places:
            places.release()
        self._places.clear()

    def _handle(self, event: Event) -> None:
        assert self.link is not None
        if isinstance(event, Welcomed):
            now = trio.current_time()
            self._end_turn(unused=False)
            self.up_since = now
            self.failed = None
            self._servers.up()
            self.is_live = self.link.standby is None
            if self._breaker.state is CircuitState.HALF_OPEN:
                self._breaker.record_success()  # the trial was the dial
            spread = self._around.rng.uniform(1 - _ROTATION_SPREAD, 1 + _ROTATION_SPREAD)
            self.link.old_at = now + min(self._around.config.rotate_after * spread, _OLDEST)
            number, market = self._owner.number, self._around.market.name
            _log.info("connection #%d (%s) is up", number, market)
            self._around.journal.tell(LinkUp(number, market, self.link.host or "", now - self._dialled_at))
        self._owner.handle(self, event)

    async def _wait_after(self, failure: LinkError) -> None:
        now = trio.current_time()
        was_up, self.up_since = self.up_since, None
        # A refused token is answered with a fresh one at once; refused again, it is a failure like any other.
        self.failures = self._backoff.count(self.failures, 0.0 if was_up is None else now - was_up)
        is_first = self.failures == 1
        at_once = isinstance(failure, TokenExpired) and (is_first or not isinstance(self._last_failure, TokenExpired))
        self._last_failure = failure
        if is_first:
            self._breaker.record_success()
            at_once = at_once or (isinstance(failure, LinkClosed) and failure.code in _POLITE)
        self._breaker.record_failure(failure)
        if self.retired:  # another line has taken over
            self._tell(failure, was_up, now, 0.0)
            return
        wait = failure.retry_after if isinstance(failure, DialError) else None
        if wait and isinstance(failure, DialError) and failure.phase == "upgrade":
            self._around.rest.quiet.ask(wait)
        self._try_now = trio.Event()
        is_open = self._breaker.state is CircuitState.OPEN
        pause = 0.0 if at_once else self._backoff.delay(self.failures, self._around.rng, retry_after=wait)
        self._tell(failure, was_up, now, None if is_open else pause)
        if is_open:
            _log.warning("connection #%d (%s) gave up: %s", self._owner.number, self._around.market.name, failure)
            if self.failed is None:
                self.failed = failure
                self._owner.gave_up(failure)
            self._owner.circuit_opened()
            await self._breaker.wait_state(CircuitState.HALF_OPEN)
        else:
            _log.warning(
                "connection #%d (%s) failed: %s; next try in %.3g s",
                *(self._owner.number, self._around.market.name, failure, pause),
            )
            with trio.move_on_after(pause):
                await self._try_now.wait()

    def _tell(self, failure: LinkError, was_up: float | None, now: float, retry_in: float | None) -> None:
        number, market = self._owner.number, self._around.market.name
        tell = self._around.journal.tell
        if was_up is None:
            duration = now - self._dialled_at
            tell(DialFailed(number, market, self._host, failure, duration, self.failures, retry_in))
        else:
            tell(LinkLost(number, market, self._host or "", failure, now - was_up, self.failures, retry_in))
        if retry_in is None:
            tell(CircuitOpened(number, market, failure, self._breaker.cooldown))

    def _note_server(self, link: Link) -> None:
        self._host = link.host
        note = self._servers.failed if self.up_since is None else self._servers.lost
        note(self.server_name)

    # -- watching -----------------------------------------------------------------------------------------------------

    def statistics(self, race: Race | None) -> LinkStatistics:
        first, lead = (0, 0.0) if race is None or self.link is None else race.won(self.link.generation)
        link, up_since = self.link, self.up_since
        state = "waiting" if link is None else "dialling"
        if up_since is not None:
            state = "live" if self.is_live else "standby"
        return LinkStatistics(
            generation=0 if link is None else link.generation,
            host=None if link is None else link.host,
            state=state,
            up_for=self.age(),
            acked=len(self.acked),
            first=first,
            lead=lead,
        )
