"""One WebSocket's life: dial, read, send, watch, close. It ends with a reason and never tries again by itself.

link
 ├─ reader     trio-websocket's reader driving decode and delivery; shielded, so that it ends last
 ├─ sender     pings first, then subscribe frames, all through the limiter
 ├─ watchdog   sleeps until the session's next deadline; never sends and never waits for a limiter
 └─ joining    where another link delivers the same: waits until this one may as well, and hands out what it kept
"""

from __future__ import annotations

import logging
import math
import random
from typing import TYPE_CHECKING, Any

import attrs
import trio

from ._delivery import hand_out
from ._limiter import SlidingWindowLimiter
from ._network import network_problem
from ._standby import Standby
from ._streams import stage
from ._supervisor import one_error
from ._websocket import run_websocket
from .errors import DialError, ExchangeError, LinkClosed, LinkError, LinkSilent, SendStuck, TokenExpired
from .protocol.session import Failed, Session

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from ._budget import DialLimiter
    from ._channels import Sink
    from ._config import FeedConfig
    from ._credentials import Secret
    from ._journal import Journal
    from ._lateness import Lateness
    from ._network import Network
    from ._refusals import Refusals
    from ._rest import Rest, Server
    from ._streams import ByWire, Routes
    from ._untrusted import Url
    from ._websocket import WebSocket
    from .protocol.market import Market
    from .protocol.session import Event


_log = logging.getLogger("kufeed.link")

_JITTER = 1.0
"""Seconds added to the window of frames: those that left apart may arrive closer together, and the exchange counts
arrivals. One too many, and it drops the connection (cryptofeed issue 838)."""
_LONGEST_TEXT = 1000
"""Characters of an error's text that are looked at: looking for a token in four million takes a second."""
_PING_EVERY = (1.0, 50.0)
"""Seconds, least and most, whatever a token reply says. Pings go before all other frames and share their budget: many
more would let nothing else through. KuCoin closes after about 60 s without one, and asked for 50 s at most (2023)."""
_PONG_WITHIN = (1.0, 60.0)
"""Seconds, least and most: so long may a dead link go unnoticed after a ping."""


@attrs.frozen
class Surroundings:
    """What all connections of a feed to one market share."""

    market: Market
    config: FeedConfig
    network: Network
    rest: Rest
    tls: Callable[[], ssl.SSLContext]
    rng: random.Random
    dial_budgets: tuple[DialLimiter, ...]
    """All of them hold: the market's own, and this feed's share of it."""
    dial_places: trio.Semaphore
    rotation_places: trio.Semaphore
    """Besides, for dials that replace links in time."""
    journal: Journal
    refusals: Refusals
    lateness: Lateness
    note_dial: Callable[[str], object]
    """Is told by which id the exchange will know a connection."""
    close_deadline: Callable[[], float]
    """When everything must have ended; infinite while the feed is open."""
    warned: set[str] = attrs.field(factory=set)
    """What has been warned about already."""


class Link:
    """Made for one dial. `run()` is its life; the other methods may be called at any time and never wait."""

    def __init__(
        self,
        generation: int,
        around: Surroundings,
        routes: Routes,
        *,
        choose: Callable[[Sequence[Server]], Server],
        on_event: Callable[[Event], None],
        on_idle: Callable[[], None],
        on_old: Callable[[], None],
        is_carried_beside: Callable[[], bool] = lambda: False,
        join: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.generation = generation
        self.session: Session | None = None
        self.server: Server | None = None
        """Chosen by *choose* from those of the token reply."""
        self.idle_at = math.inf
        """When the link has been without topics for long enough; set by its owner, who is then told by *on_idle*."""
        self.old_at = math.inf
        """When it is to be replaced; set by its owner, who is then told by *on_old*, once."""
        self.standby = None if join is None else Standby()
        """Keeps what comes, until *join* has returned and all of it was handed out, or to its end."""
        self.data_at = -math.inf
        """When the newest update came, or what may be one."""
        self.is_succeeded = False
        """Another link has taken its place, and hands out what this one has staged and found no room for."""
        self._around = around
        self._routes = routes
        self._on_event = on_event
        self._on_idle = on_idle
        self._on_old = on_old
        self._is_carried_beside = is_carried_beside
        self._choose = choose
        self._join = join
        self._caught_up = trio.Event()
        self._catching_up = False
        self._scope = trio.CancelScope()
        self._hide: Callable[[str], str] = str
        self._alarm = trio.CancelScope()
        self._holding = trio.CancelScope()
        self._wake_sender = trio.Event()
        self._failure: LinkError | None = None
        market = around.market
        self._frame_budget = SlidingWindowLimiter(
            market.frames_per_window, market.frame_window + _JITTER, None, count_from="release"
        )

    async def run(self) -> None:
        """Dial, serve until `end()`, close. Raises the `LinkError` that ended it; returns where none did.

        Until the welcome every failure but a refused token is a `DialError`, and told by the dial's deadline.
        Cancelled, it closes politely within the feed's close deadline before it passes `Cancelled` on.
        """
        deadline = trio.current_time() + self._around.config.connect_timeout
        with one_error() as body:
            async with trio.open_nursery() as nursery:
                with body.watched():
                    lifeline = trio.CancelScope()
                    websocket = await self._dial(nursery, lifeline, deadline)
                    lifeline.shield = True
                    try:
                        await self._serve(websocket)
                    finally:
                        await self._close(websocket, deadline)  # noqa: ASYNC102  # shielded and bounded in there
                        lifeline.cancel()
        failure = self._failure
        if failure is None:
            return
        if self._session().welcomed or isinstance(failure, DialError | TokenExpired):
            raise failure
        raise DialError("welcome", failure) from failure

    @property
    def host(self) -> str | None:
        """Of the instance server; None where none was chosen yet."""
        return None if self.server is None else self.server.endpoint.host

    def end(self, failure: LinkError | None) -> None:
        """Stop serving, with the reason. The first reason counts."""
        if not self._scope.cancel_called:
            if isinstance(failure, LinkClosed) and failure.reason:
                failure = LinkClosed(failure.code, self._hide(failure.reason))
            self._failure = failure
            self._scope.cancel()
            self._holding.cancel()

    def stir(self) -> None:
        """Something changed that the sender or the watchdog waits for."""
        if self.session is not None:
            self._alarm.deadline = min(self.session.deadline(), self.idle_at, self.old_at)
            if self.session.wants_to_send():
                self._wake_sender.set()
            if self.session.waits_for_answers():
                self._holding.cancel()

    # -- dial ---------------------------------------------------------------------------------------------------------

    async def _dial(self, nursery: trio.Nursery, lifeline: trio.CancelScope, deadline: float) -> WebSocket:
        around = self._around
        phase = "token"
        with trio.CancelScope(deadline=deadline) as scope:
            try:
                token = await around.rest.fetch_token()
                self._hide = token.hide
                server = self.server = self._choose(token.servers)
                self.session = self._new_session(server, deadline)
                # KuCoin asks for an id that is unique among clients; it comes back in the welcome.
                # Two feeds with the same *rng* are two clients all the same.
                connect_id = f"{around.rng.getrandbits(64) ^ random.getrandbits(64):016x}"  # no secret
                around.note_dial(connect_id)
                target = token.target(server, connect_id)
                phase = "connect"
                stream = await self._connect(server.endpoint)
                phase = "upgrade"
                websocket: WebSocket = await nursery.start(
                    self._read, lifeline, stream, server.endpoint.authority, target, name="reader"
                )
                return websocket
            except (OSError, trio.BrokenResourceError) as error:
                raise DialError(phase, network_problem(error)) from error
            except ExchangeError as error:
                raise DialError(phase, error, retry_after=error.retry_after) from error
        assert scope.cancelled_caught
        raise DialError(phase, f"nothing within {around.config.connect_timeout:g} s")

    async def _connect(self, endpoint: Url) -> trio.abc.Stream:
        tls = self._around.tls() if endpoint.scheme == "wss" else None
        try:
            return await self._around.network.open_stream(endpoint.host, endpoint.port, tls)
        except ValueError as error:  # a `UnicodeError`, mostly: what looked like a name is none to some library below
            raise DialError("connect", f"{type(error).__name__}: {error}") from error

    def _new_session(self, server: Server, deadline: float) -> Session:
        config = self._around.config
        told = self._within("asks for a ping every", server.ping_interval, *_PING_EVERY)
        # The server closes a connection that pings less often than it asked for: ours can only be shorter.
        interval = min(config.ping_interval or math.inf, told)
        if config.ping_interval is not None and interval < config.ping_interval and "ping" not in self._around.warned:
            self._around.warned.add("ping")
            _log.warning("ping_interval %g s is longer than the server's; using %g s", config.ping_interval, interval)
        timeout = config.pong_timeout or self._within("allows for a pong", server.pong_timeout, *_PONG_WITHIN)
        return Session(
            generation=self.generation,
            welcome_by=deadline,
            ping_interval=interval,
            pong_timeout=timeout,
            ack_timeout=config.ack_timeout,
        )

    def _within(self, what: str, told: float, least: float, most: float) -> float:
        """What the server says, within sane bounds; the first time that they matter, a warning says so."""
        used = min(max(told, least), most)
        if used != told and what not in self._around.warned:
            self._around.warned.add(what)
            _log.warning("the server %s %g s; using %g s", what, told, used)
        return used

    async def _read(  # noqa: ASYNC128  # run_websocket calls task_status
        self,
        lifeline: trio.CancelScope,
        stream: trio.abc.Stream,
        host: str,
        target: Secret,
        *,
        task_status: trio.TaskStatus[WebSocket],
    ) -> None:
        with lifeline:
            self.end(
                await run_websocket(
                    stream,
                    host=host,
                    target=target,
                    deliver=self._deliver,
                    max_message_size=self._around.config.max_message_size,
                    task_status=task_status,
                )
            )

    # -- serve --------------------------------------------------------------------------------------------------------

    async def _serve(self, websocket: WebSocket) -> None:
        with one_error() as body, self._scope:
            async with trio.open_nursery() as nursery:
                with body.watched():
                    nursery.start_soon(self._send, websocket, name="sender")
                    nursery.start_soon(self._watch, name="watchdog")
                    if self.standby is not None:
                        nursery.start_soon(self._catch_up, self.standby, name="joining")
                    await websocket.wait_over()
                    self.end(websocket.end())

    async def _deliver(self, payloads: Sequence[bytes]) -> None:
        session, around = self._session(), self._around
        session.heard()
        by_wire: ByWire = self._routes.by_wire
        if self._catching_up:
            mark = self._routes.mark
            await self._caught_up.wait()
            by_wire = self._routes.as_of(mark)
        received_time_ns = around.network.time_ns()
        if self.standby is not None:
            if self.standby.keep(payloads, received_time_ns, self._routes.mark, around.config.loads, self._control):
                self.data_at = trio.current_time()
        else:
            await self._hand_out(payloads, received_time_ns, by_wire)

    async def _catch_up(self, standby: Standby) -> None:
        """Once it may, hand out what was kept; the reader waits for that, so that it does not overtake."""
        assert self._join is not None
        await self._join()
        self._catching_up = True
        try:
            while (batch := standby.take()) is not None:
                payloads, received_time_ns, mark = batch
                await self._hand_out(payloads, received_time_ns, self._routes.as_of(mark))
            await self._hand_out_left()
            self.standby = None
        finally:  # broken off, it keeps what is left: what its reader brings may not overtake that
            self._catching_up = False
            self._caught_up.set()

    def _leaves_staged(self) -> bool:
        """Whether its end is no reason to force anything: what is staged goes out by another link's reader."""
        return self._scope.cancel_called and (self.is_succeeded or self._is_carried_beside())

    async def _hand_out_left(self) -> None:
        """Hand out what another link has staged, and left when it ended."""
        left = {sink for stream in self._routes.streams() for sink in stream.sinks if sink.has_staged()}
        await hand_out(left, self._hold, self._leaves_staged)

    async def _hand_out(self, payloads: Sequence[bytes], received_time_ns: int, by_wire: ByWire) -> None:
        around = self._around
        repeated = around.refusals.duplicates
        touched = stage(
            payloads,
            loads=around.config.loads,
            by_wire=by_wire,
            received_time_ns=received_time_ns,
            on_control=self._control,
            refusals=around.refusals,
            lateness=around.lateness,
            generation=self.generation,
            hide=self._hide,
        )
        if touched or around.refusals.duplicates != repeated:
            self.data_at = trio.current_time()
        if touched:
            sinks = {sink for stream in touched for sink in stream.sinks}
            await hand_out(sinks, self._hold, self._leaves_staged)

    async def _hold(self, sink: Sink) -> bool:
        """Wait for room in *sink*; False where the reader must go on: an answer is due, or the link ends."""
        session = self._session()
        if not session.welcomed or session.waits_for_answers() or self._scope.cancel_called:
            return False
        sink.slow()
        session.hold(trio.current_time())
        self.stir()
        try:
            with trio.CancelScope() as self._holding:
                await sink.wait_room()
        finally:
            session.resume(trio.current_time())
            self.stir()
        return not self._holding.cancelled_caught

    def _control(self, frame: Mapping[str, Any]) -> None:
        if isinstance(text := frame.get("data"), str):  # of an error; it may go into ours
            frame = {**frame, "data": self._hide(text[:_LONGEST_TEXT])}
        self._tell(self._session().receive(frame, trio.current_time()))

    def _tell(self, events: Iterable[Event]) -> None:
        for event in events:
            self._on_event(event)
            if isinstance(event, Failed):
                self.end(event.error)
        self.stir()

    async def _send(self, websocket: WebSocket) -> None:
        session = self._session()
        while True:
            while not session.wants_to_send():
                self._wake_sender = trio.Event()
                await self._wake_sender.wait()
            # The frame is chosen after the wait: a ping that came due meanwhile goes first.
            permit = await self._frame_budget.acquire()
            frame = session.next_frame()
            if frame is None:
                permit.release(unused=True)
                continue
            session.sending(frame, trio.current_time())
            self.stir()
            try:
                await websocket.send(frame.text)
            except LinkError as error:
                self.end(error)
                return
            permit.release()
            session.sent()
            self.stir()

    async def _watch(self) -> None:
        session = self._session()
        while True:
            with trio.CancelScope() as self._alarm:
                self.stir()
                await trio.sleep_forever()
            now = trio.current_time()
            self._tell(session.tick(now))
            if now >= self.idle_at:
                self._on_idle()
            if now >= self.old_at:
                self.old_at = math.inf
                self._on_old()

    # -- close --------------------------------------------------------------------------------------------------------

    async def _close(self, websocket: WebSocket, dial_deadline: float) -> None:
        """Say goodbye where somebody may be listening, within the close deadline; the reader is still running."""
        around = self._around
        deadline = min(trio.current_time() + around.config.close_timeout, around.close_deadline())
        if not self._session().welcomed:
            deadline = min(deadline, dial_deadline)
        if isinstance(self._failure, LinkSilent | SendStuck | DialError | TokenExpired):
            deadline = -math.inf  # nobody has been listening: waiting for an answer only delays the next dial
        with trio.CancelScope(deadline=deadline, shield=True):
            await websocket.aclose()

    def _session(self) -> Session:
        assert self.session is not None, "the session is made before the first byte is read"
        return self.session
