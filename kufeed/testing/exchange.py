"""A small KuCoin: both markets, REST and WebSocket, over TCP or any other stream."""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections import deque
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import h11
import trio
import trio_websocket
import wsproto

from kufeed.testing import rest, tamper, wire
from kufeed.testing.beats import Beats
from kufeed.testing.books import TrueBook
from kufeed.testing.cable import Cable
from kufeed.testing.cablestream import reset
from kufeed.testing.gate import Gate
from kufeed.testing.http import MARKETS, Where, locate, next_request, send_reply, server_host
from kufeed.testing.keys import KeyOffice
from kufeed.testing.limits import Limits, SlidingWindow, WeightPool
from kufeed.testing.market import CHANGES_KEPT, LEAST_LEVELS, LEVELS, MOST_LEVELS, OPEN, MarketModel
from kufeed.testing.overlays import Overlays
from kufeed.testing.records import Address, BookFault, Dial, ExchangeStatistics, Faults
from kufeed.testing.services import open_services
from kufeed.testing.session import CONNECTION_LOST, Session
from kufeed.testing.spoilt import send_spoilt
from kufeed.testing.streams import SharedStream
from kufeed.testing.tokens import TokenOffice
from kufeed.testing.truth import Truth

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from kufeed import Credentials
    from kufeed.testing.cablestream import CableStream
    from kufeed.testing.market import Beat, MarketName, SymbolModel
    from kufeed.testing.truth import Limit

_LOST = (*CONNECTION_LOST, h11.RemoteProtocolError, trio_websocket.HandshakeError, wsproto.utilities.ProtocolError)
_IDLE_HTTP = 75.0  # seconds an HTTP connection may wait for its next request
_HANDSHAKE = 10.0  # seconds for the WebSocket upgrade
DROP_AFTER_509 = 0.07  # seconds; ISS cryptofeed 838 saw the connection dropped about 70 ms after the error
_NO_FAULT = BookFault()
_DIALS_KEPT = 10_000
_BREATH = 200  # symbols advanced between two checkpoints
_TOPIC = re.compile(r'"topic"\s*:\s*"([^"\\]*)"')


@attrs.define(eq=False)
class _Route:
    """A held topic and who holds it."""

    topic: wire.ActiveTopic
    sessions: dict[Session, None] = attrs.field(factory=dict)


class Exchange:
    """A small KuCoin for tests and demonstrations: seeded, both markets, REST and WebSocket, with KuCoin's limits.

    Open it with `listen()` (loopback TCP) or `MemoryNetwork(exchange)`; both may be opened again after they
    were left, in the same `trio.run` (its clock is theirs).
    The market has XBTUSDTM, ETHUSDTM, BTC-USDT and ETH-USDT, the symbols of *futures* and *spot*, and *generated* pairs
    `T0001USDTM`, `T0001-USDT`, …; equal *seed*, equal market. It moves every *update_interval* seconds, and only for
    symbols somebody holds a topic of; when somebody comes back to one, or asks for it by REST, it has moved meanwhile.
    It has every public channel; announcements and call auctions come if you `play()` them.

    *ping_interval* and *ping_timeout* (seconds) are what the token reply tells the client, for each of so many
    *instance_servers*: hosts of their own in memory; over TCP, where there are several, ports of their own.
    *limits* are enforced. With ``live=False`` the market is silent (only `play()` sends) and any symbol may be
    subscribed; *accept_any_symbol* sets the latter by itself.
    *partial_subscribe* decides what KuCoin leaves undocumented: whether one bad symbol refuses its whole frame (False)
    or is refused alone, by an error frame ahead of the ack (True).
    *book_levels* (40 to 3000) is about how many levels each side of a book has. The newest *changes_kept* changes of
    all books together are remembered, for `book()`.
    *send_buffer* bounds, in bytes, what waits for one slow client. The time stamps come from the door that is open:
    `time.time_ns` over TCP, the virtual clock in memory.
    With *ledger* it keeps `truth` (else None) for `check_delivery()`: all that it published for the topics that were
    ever held, and what became of that. It grows with time.

    Raises `ValueError` for arguments out of range.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        futures: Iterable[str] = (),
        spot: Iterable[str] = (),
        generated: int = 0,
        update_interval: float = 0.1,
        ping_interval: float = 18.0,
        ping_timeout: float = 10.0,
        limits: Limits | None = None,
        live: bool = True,
        accept_any_symbol: bool | None = None,
        partial_subscribe: bool = False,
        instance_servers: int = 1,
        book_levels: int = LEVELS,
        changes_kept: int = CHANGES_KEPT,
        send_buffer: int = 1_048_576,
        ledger: bool = False,
    ) -> None:
        for name, value in (
            ("update_interval", update_interval),
            ("ping_interval", ping_interval),
            ("ping_timeout", ping_timeout),
            ("changes_kept", changes_kept),
            ("send_buffer", send_buffer),
        ):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, not {value!r}")
        if not LEAST_LEVELS <= book_levels <= MOST_LEVELS:
            raise ValueError(f"book_levels must be from {LEAST_LEVELS} to {MOST_LEVELS}, not {book_levels!r}")
        if instance_servers < 1:
            raise ValueError(f"instance_servers must be 1 or more, not {instance_servers!r}")
        self.limits = Limits() if limits is None else limits
        self.faults = Faults()
        self.truth = Truth() if ledger else None
        self.overlays = Overlays()
        self.cable = Cable(seed)
        self.model = MarketModel(
            seed=seed, futures=futures, spot=spot, generated=generated, levels=book_levels, changes_kept=changes_kept
        )
        self._update_interval = update_interval
        self._grid = Beats(update_interval)
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._live = live
        self._any_symbol = not live if accept_any_symbol is None else accept_any_symbol
        self._partial = partial_subscribe
        self._servers = instance_servers
        self._ports: list[int] = []  # over TCP: of each instance server
        self._send_buffer = send_buffer
        self._rng = random.Random(f"{seed}:exchange")
        self._tokens = TokenOffice(seed, self.limits.token_life)
        self._keys = KeyOffice(seed)
        self._dial_windows = {market: SlidingWindow(self.limits.dials_per_minute, 60.0) for market in MARKETS}
        self._weights = WeightPool(self.limits.rest_weight)
        self._time_ns: Callable[[], int] | None = None
        self._gate = Gate()
        self._sessions: dict[Session, None] = {}
        self._last_requests: dict[MarketName, str] = {}  # the id of the newest one of a connection that has ended
        self._routes: dict[str, _Route] = {}
        self._by_symbol: dict[SymbolModel, dict[str, _Route]] = {}
        self._changed = trio.Event()
        self._dials: deque[Dial] = deque(maxlen=_DIALS_KEPT)
        self._dial_count = 0
        self._refused_count = 0
        self._requests = 0
        self._beats = 0
        self._pushes = 0
        self._dropped = 0
        self._lost = 0

    def __repr__(self) -> str:
        state = "shut" if self._time_ns is None else "open" if self._gate.is_open else "frozen"
        return f"<Exchange {state}, {len(self._sessions)} sessions, {len(self._routes)} topics>"

    # Doors

    @asynccontextmanager
    async def listen(
        self, host: str = "127.0.0.1", port: int = 0, *, tls: ssl.SSLContext | None = None
    ) -> AsyncIterator[Address]:
        """Serve TCP on *host* and *port* (0: a free one) until the block is left; then every connection is cut.

        With *tls* the connections are TLS ones and the URLs are `https:` and `wss:`. Raises `OSError` where the port
        is taken, `RuntimeError` where the exchange is open already. Errors of the body come out unwrapped.
        """
        async with AsyncExitStack() as listening, self.open(time.time_ns) as nursery:

            async def bind(port: int, server: int | None) -> int:
                """Serve a port; with *server* for that instance server alone. The port it got."""
                listeners = await trio.open_tcp_listeners(port, host=host)
                for listener in listeners:
                    listening.callback(listener.socket.close)
                bound: int = listeners[0].socket.getsockname()[1]

                async def serve(stream: trio.SocketStream) -> None:
                    if self.refuse_dial(server):
                        reset(stream)
                        return
                    # Trio closes what it gave when this returns, which may be before the line is at its end.
                    own = trio.SocketStream(trio.socket.socket(fileno=stream.socket.detach()))
                    await self.serve_stream(own, f"{host}:{bound}", server or 0, tls=tls)

                await nursery.start(trio.serve_listeners, serve, listeners, name="kufeed exchange: listeners")
                return bound

            bound = await bind(port, None)
            servers = range(self._servers)
            self._ports = [bound] if self._servers == 1 else [await bind(0, server) for server in servers]
            base = f"{'http' if tls is None else 'https'}://{host}:{bound}"
            yield Address(host, bound, f"{base}/futures", f"{base}/spot", tuple(self._ports))

    @asynccontextmanager
    async def open(self, time_ns: Callable[[], int]) -> AsyncIterator[trio.Nursery]:
        """Run the market, with *time_ns* (ns since the epoch) as the exchange's clock, until the block is left.

        What `listen()` and `MemoryNetwork` stand on; yields the nursery which may serve connections. Raises
        `RuntimeError` where the exchange is open already.
        """
        if self._time_ns is not None:
            raise RuntimeError("this exchange is open already")
        self._time_ns = time_ns
        self._changed = trio.Event()
        self._grid.begin(trio.current_time())
        try:
            async with open_services() as nursery:
                nursery.start_soon(self._run_market, name="kufeed exchange: market")
                self.cable.open(nursery)
                yield nursery
        finally:
            self.cable.close()
            self._time_ns = None

    async def serve_stream(
        self, stream: trio.abc.Stream, host: str, server: int = 0, *, tls: ssl.SSLContext | None = None
    ) -> None:
        """Serve one connection to the instance server *server* over *stream* until it ends, then close it.

        *stream* runs through the `cable`, and with *tls* it carries TLS.
        The market is told by the path's prefix (`/spot`, `/futures`) or else by the Host header, for which *host*
        stands in where there is none. A lost or misbehaving peer ends the call quietly; a bug of the exchange raises.
        """
        if self.truth is not None:
            self.truth.connections += 1
        line = self.cable.connect(stream)
        try:
            await self._serve_http(
                line, line if tls is None else trio.SSLStream(line, tls, server_side=True), host, server
            )
        except* _LOST:
            self._lost += 1
        finally:
            if self.truth is not None:
                self.truth.connections -= 1
            await trio.aclose_forcefully(line)

    # What tests do to it

    async def play(self, frames: Iterable[str | bytes]) -> int:
        """Send raw frames (JSON text), verbatim and in order, each to every session that holds the frame's topic.

        Waits for slow clients instead of dropping, and returns the number of frames handed to transports (one frame
        for two sessions counts twice). Frames without a topic, and topics nobody holds, are skipped. Cancelled, it
        stops between two frames.
        """
        await trio.lowlevel.checkpoint()
        count = 0
        touched: dict[Session, None] = {}
        for frame in frames:
            text = frame.decode() if isinstance(frame, bytes) else frame
            route = self._routes.get(_topic_of(text))
            if route is None:
                continue
            data = wire.text_frame(text)
            publication = (
                None
                if self.truth is None
                else self.truth.publish(route.topic.name, text, trio.current_time(), played=True)
            )
            for session in tuple(route.sessions):
                if session.pending >= self._send_buffer:
                    await session.wait_room()
                accepted = session.push(data)
                count += accepted
                if self.truth is not None and publication is not None:
                    self.truth.put(publication, session, [text], [accepted])
                touched[session] = None
        for session in touched:
            await session.wait_sent()
        self._pushes += count
        return count

    def notify(self, frame: str | bytes, market: MarketName | None = None) -> int:
        """Send a raw frame (JSON text), verbatim, to every session, or to those of *market*: a `notice`, a `command`.

        Returns how many sessions that were. It is never dropped.
        """
        text = frame.decode() if isinstance(frame, bytes) else frame
        told = [session for session in self._sessions if market is None or session.market == market]
        for session in told:
            session.reply(text)
        return len(told)

    async def wait_subscribed(self, *topics: str) -> None:
        """Wait until each of the wire *topics* (one symbol each) is held by some session."""
        await trio.lowlevel.checkpoint()
        while not all(topic in self._routes for topic in topics):
            await self._changed.wait()

    async def disconnect_all(self, code: int | None = None) -> None:
        """End every WebSocket: cut it (None), or with a close frame of *code*. Returns when all are gone."""
        async with trio.open_nursery() as nursery:
            for session in tuple(self._sessions):
                nursery.start_soon(session.disconnect, code)

    def kill_server(self, index: int) -> None:
        """Cut what is open on an instance server (from 0) and refuse what comes, until `revive_server()`.

        The same as adding it to `faults.dead_servers`, but for the cut. Raises `ValueError` for a server that there
        is not.
        """
        self.check_server(index)
        self.faults.dead_servers.add(index)
        self.cut_server(index)

    def revive_server(self, index: int) -> None:
        """Let an instance server take connections again. Raises `ValueError` for a server that there is not."""
        self.check_server(index)
        self.faults.dead_servers.discard(index)

    def cut_server(self, index: int) -> None:
        """Cut what is open on an instance server, which takes connections as before."""
        for session in self._sessions:
            if session.server == index:
                session.cut()

    def check_server(self, index: int) -> None:
        """Raise `ValueError` for a server that there is not."""
        if not 0 <= index < self._servers:
            raise ValueError(f"there is no server {index}: this exchange has {self._servers}, from 0")

    def expire_tokens(self) -> None:
        """All tokens issued so far are expired for later dials; open connections stay."""
        self._tokens.expire_all()

    def restart(self) -> None:
        """Begin anew, as after a restart: everything open is cut, tokens are unknown, books are numbered from 0.

        Who comes is served at once; `faults.refuse_dials` makes that later. The market stays what it was.
        """
        for session in self._sessions:
            session.cut()
        self.cable.cut()
        self._tokens.forget_all()
        for model in self.model.made:
            model.renumber(0)

    def overlay(self, **values: Any) -> Callable[[], None]:
        """Set these fields of `faults` for a while; what is returned ends that, and only that.

        Where several lie over one field the newest one counts, when it ends the one before it, and at last what stood
        there at first. A value that is set by hand meanwhile counts from then on, and stays.
        """
        ends = [self._overlay_field(name, value) for name, value in values.items()]

        def end() -> None:
            for end_field in ends:
                end_field()

        return end

    def _overlay_field(self, name: str, value: Any) -> Callable[[], None]:
        return self.overlays.lay(
            name, value, lambda: getattr(self.faults, name), lambda value: setattr(self.faults, name, value)
        )

    def issue_credentials(self) -> Credentials:
        """API credentials that this exchange accepts: they sign requests for whole spot books. Each time others."""
        return self._keys.issue()

    def change_book(self, symbol: str, count: int = 1) -> int:
        """Make *count* changes of the book of *symbol*, drawn by the seed, and push them to whoever holds its topics.

        Returns the book's sequence. Beside the market's own beats, so best with ``live=False``. Spot level-2 messages
        carry up to four changes of one call each, futures ones one. Raises `LookupError` for an unknown symbol,
        `ValueError` for a halted one and for a count below 1.
        """
        if count < 1:
            raise ValueError(f"count must be 1 or more, not {count!r}")
        model = self._open_model(symbol)
        self._tell(model, model.change(self._now_ns(), count))
        return model.sequence

    def trade(self, symbol: str, count: int = 1) -> int:
        """Make *count* trades of *symbol*, drawn by the seed, and push them to whoever holds its topics.

        Returns the sequence of the last one. They are in the trade history whether anybody was told or not; the book
        changes with them. Best with ``live=False``. Raises `LookupError` for an unknown symbol, `ValueError` for a
        halted one and for a count below 1.
        """
        if count < 1:
            raise ValueError(f"count must be 1 or more, not {count!r}")
        model = self._open_model(symbol)
        self._tell(model, model.trade(self._now_ns(), count))
        return model.trade_sequence

    def renumber_book(self, symbol: str, sequence: int = 0) -> None:
        """Number the book of *symbol* anew: it has *sequence* now, and its next change the one after that.

        Nothing is pushed. KuCoin did so at least once, in 2022. Raises `LookupError` for an unknown symbol,
        `ValueError` for a number below 0.
        """
        if sequence < 0:
            raise ValueError(f"sequence must be 0 or more, not {sequence!r}")
        self._model(symbol).renumber(sequence)

    def halt(self, symbol: str, status: str = "Paused") -> None:
        """Stop the trading of *symbol*: nothing of it changes or is pushed until `resume()`, its topics stay acked.

        The lists of symbols say so: futures by *status*, spot by `enableTrading`. Raises `LookupError` for an unknown
        symbol, `ValueError` for the status of those that trade.
        """
        if status == OPEN:
            raise ValueError(f"a halted symbol is not {OPEN}")
        self._model(symbol).status = status

    def resume(self, symbol: str) -> None:
        """Let a halted *symbol* trade again. Raises `LookupError` for an unknown or delisted one."""
        self._set_status(self._model(symbol), OPEN)

    def status(self, symbol: str) -> str:
        """`Open` while *symbol* trades, `Closed` once it is delisted. Raises `LookupError` for an unknown one."""
        return "Closed" if symbol in self.model.delisted else self._model(symbol).status

    def overlay_status(self, symbol: str, status: str = "Paused") -> Callable[[], None]:
        """As `halt()`, for a while, by the rules of `overlay()`. Raises `LookupError` for an unknown symbol."""
        model = self._model(symbol)
        return self.overlays.lay(
            ("status", symbol), status, lambda: model.status, lambda value: self._set_status(model, value)
        )

    def _set_status(self, model: SymbolModel, status: str) -> None:
        resumed = status == OPEN != model.status
        model.status = status
        if resumed and self._time_ns is not None:
            self._grid.missed(model, trio.current_time())  # it was halted: these it does not live

    def has(self, symbol: str) -> bool:
        """Whether *symbol* trades here, or did before it was delisted, or any symbol would do."""
        market: MarketName = "spot" if "-" in symbol else "futures"
        return self._any_symbol or symbol in self.model.symbols(market) or symbol in self.model.delisted

    def delist(self, symbol: str) -> None:
        """Forget *symbol*, for good: it is on no list, and a request or a subscribe for it is refused as unknown.

        Who holds topics of it keeps them, and nothing is pushed. Raises `LookupError` for an unknown symbol.
        """
        self.model.delist(self._model(symbol))

    def freeze(self) -> None:
        """Fall silent: connections stay open and are accepted, but nothing is read, answered or pushed any more."""
        self._gate.shut()
        if self.truth is not None:
            self.truth.froze()

    def thaw(self) -> None:
        """Go on after `freeze()`: what arrived meanwhile is answered now."""
        self._gate.open()
        if self.truth is not None:
            self.truth.thawed()

    # What tests look at

    @property
    def is_frozen(self) -> bool:
        """Whether it has fallen silent by `freeze()`."""
        return not self._gate.is_open

    def book(self, symbol: str, sequence: int | None = None) -> TrueBook:
        """The book of *symbol* as it stands, or as it was at *sequence* (the last time that it had this number).

        Raises `LookupError` for an unknown symbol, and for a sequence that it never had or that is forgotten.
        """
        model = self._model(symbol)
        moment = model.moment() if sequence is None else model.moment_at(sequence)
        if moment is None:
            raise LookupError(f"{symbol} never had the sequence {sequence}, or it is forgotten")
        return TrueBook.at(moment)

    def _model(self, symbol: str) -> SymbolModel:
        model = self.model.find("spot" if "-" in symbol else "futures", symbol)
        if model is None:
            raise LookupError(f"this exchange does not have {symbol}")
        self._catch_up(model)
        return model

    def _open_model(self, symbol: str) -> SymbolModel:
        model = self._model(symbol)
        if model.status != OPEN:
            raise ValueError(f"{symbol} is halted")
        return model

    @property
    def ping_interval(self) -> float:
        """What the token reply tells clients."""
        return self._ping_interval

    @property
    def ping_timeout(self) -> float:
        """What the token reply tells clients."""
        return self._ping_timeout

    @property
    def instance_servers(self) -> int:
        """How many servers the token reply names."""
        return self._servers

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The open WebSocket connections, oldest first."""
        return tuple(self._sessions)

    @property
    def dials(self) -> tuple[Dial, ...]:
        """The newest 10,000 attempts to open a WebSocket, oldest first."""
        return tuple(self._dials)

    @property
    def tokens_issued(self) -> int:
        """How many tokens were given out."""
        return self._tokens.count

    def statistics(self) -> ExchangeStatistics:
        """The counters at this moment."""
        return ExchangeStatistics(
            sessions=len(self._sessions),
            topics=sum(len(session.held) for session in self._sessions),
            dials=self._dial_count,
            dials_refused=self._refused_count,
            tokens_issued=self._tokens.count,
            requests=self._requests,
            beats=self._beats,
            pushes=self._pushes,
            dropped=self._dropped + sum(session.dropped for session in self._sessions),
            connections_lost=self._lost,
        )

    def refuse_dial(self, server: int | None = None) -> bool:
        """Whether the faults refuse the connection that is being made; a count of `refuse_dials` is used up by asking.

        *server* is the instance server that it is made to, None where it is made for requests.
        """
        if self.cable.refuses or server in self.faults.dead_servers:
            return True
        refuse = self.faults.refuse_dials
        if not refuse:
            return False
        if refuse is not True:
            self.faults.refuse_dials = refuse - 1
        return True

    # HTTP

    def _now_ns(self) -> int:
        if self._time_ns is None:
            raise RuntimeError("this exchange is not open: use listen(), open() or MemoryNetwork")
        return self._time_ns() + round(self.faults.clock_skew * 1e9)

    async def _serve_http(self, line: CableStream, stream: trio.abc.Stream, host: str, server: int) -> None:
        connection = h11.Connection(h11.SERVER)
        raw = bytearray()
        while True:
            request: h11.Request | None = None
            malformed = 0
            with trio.move_on_after(_IDLE_HTTP):
                try:
                    request = await next_request(connection, stream, raw)
                except h11.RemoteProtocolError as error:
                    malformed = error.error_status_hint
            if malformed and connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                reply = rest.failure("400000", "Bad Request", status=malformed)
                await send_reply(connection, stream, reply, close=True)
            if request is None:
                return
            await self._gate.wait_open()
            headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
            target = request.target.decode("latin-1")
            where = locate(target, headers.get("host", host))
            if "websocket" in headers.get("upgrade", "").lower():
                if server in self.faults.dead_servers:
                    return
                refusal, token = self._judge_dial(where, headers, server)
                if refusal is None and where is not None:
                    await self._serve_websocket(line, stream, bytes(raw), where, token, server)
                else:
                    await send_reply(connection, stream, refusal or rest.Reply(404, ""), close=True)
                return
            secure = isinstance(stream, trio.SSLStream)
            reply = self._answer(request.method.decode(), where, headers, secure=secure)
            if reply.delay:
                await trio.sleep(reply.delay)
            if self.faults.reply_bodies is None:
                await send_reply(connection, stream, reply)
            elif not await send_spoilt(connection, stream, reply, lambda: self.faults.reply_bodies):
                return
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            raw = bytearray(connection.trailing_data[0])
            connection.start_next_cycle()

    def _answer(self, method: str, where: Where | None, headers: dict[str, str], *, secure: bool) -> rest.Reply:
        self._requests += 1
        if where is None:
            return rest.failure("404000", "Url Not Found", status=404)
        now = trio.current_time()
        symbol = self.model.find(where.market, where.query.get("symbol", ""))
        if symbol is not None:
            self._catch_up(symbol)
        admitted = self._weights.take(rest.weight(where.market, where.path), now)
        quota = tuple(self._weights.headers(now))
        if not admitted:
            self._note_refusal("weight", where.market, f"{where.path} was requested")
            reply = rest.failure("429000", "Too Many Requests", status=429)
        elif where.path == "/api/v1/bullet-public":
            reply = self._issue_token(method, where, now, secure=secure)
        elif self.faults.request_error is not None:
            reply = self._faulty(self.faults.request_error)
        elif method != "GET":
            reply = rest.failure("404000", "Url Not Found", status=404)
        elif rest.is_book(where.market, where.path):
            reply = self._answer_book(where, headers)
        elif where.path == rest.STATUS:
            reply = rest.status(*(self.faults.maintenance or ("open", "")))
        else:
            reply = rest.answer(self.model, rest.Request(where.market, where.path, where.query, self._now_ns()))
        if reply.body:  # a bare status comes from some gateway, which knows nothing of quotas
            reply = attrs.evolve(reply, headers=(*reply.headers, *quota))
        return reply

    def _answer_book(self, where: Where, headers: dict[str, str]) -> rest.Reply:
        fault = self.faults.next_book(where.query.get("symbol", "")) or _NO_FAULT
        now = self._now_ns()
        refusal: tuple[str, str] | None = None
        if where.path == rest.SIGNED_BOOK:
            refusal = self._keys.refusal(headers, "GET", where.target, now // 1_000_000)
        if isinstance(fault.error, int):
            reply = rest.Reply(fault.error, "", self._retry_after())
        elif error := fault.error or refusal:
            reply = rest.failure(*error)
        else:
            reply = rest.answer(self.model, rest.Request(where.market, where.path, where.query, now, fault.stale))
            if fault.damage is not None:
                reply = rest.damaged(reply, fault.damage)
        return attrs.evolve(reply, delay=fault.delay)

    def _issue_token(self, method: str, where: Where, now: float, *, secure: bool) -> rest.Reply:
        if method != "POST":
            return rest.failure("400100", "Request method not supported", status=405)
        error = self.faults.token_error or self.faults.shut
        if error is not None:
            return self._faulty(error)
        endpoints = [f"wss://{server_host(where.market, server)}/" for server in range(self._servers)]
        if where.prefixed:
            scheme, name = "wss" if secure else "ws", where.host
            hosts = [f"{name.rpartition(':')[0]}:{port}" for port in self._ports] if self._servers > 1 else [name]
            endpoints = [f"{scheme}://{host}/{where.market}/endpoint" for host in hosts]
        token = self._tokens.issue(where.market, now, self.faults.token_life)
        return rest.bullet(token, endpoints, ping_interval=self._ping_interval, ping_timeout=self._ping_timeout)

    def _faulty(self, fault: int | tuple[str, str]) -> rest.Reply:
        return rest.Reply(fault, "", self._retry_after()) if isinstance(fault, int) else rest.failure(*fault)

    def _retry_after(self) -> tuple[tuple[str, str], ...]:
        wait = self.faults.retry_after
        return () if wait is None else (("Retry-After", wait),)

    # WebSocket

    def _judge_dial(self, where: Where | None, headers: dict[str, str], server: int) -> tuple[rest.Reply | None, str]:
        """None and the token where the upgrade may go on, else the HTTP refusal."""
        if where is None:
            return rest.failure("404000", "Url Not Found", status=404), ""
        token = where.query.get("token", "")
        refusal: rest.Reply | None = None
        limit = self.limits.connections
        error = self.faults.upgrade_error or self.faults.shut
        if error is not None:
            refusal = rest.Reply(error, "", self._retry_after())
        elif not self._dial_windows[where.market].admit(trio.current_time(), self.faults.dials_per_minute) or (
            limit is not None and sum(session.market == where.market for session in self._sessions) >= limit
        ):
            refusal = rest.failure("429000", "Too Many Requests", status=429)
            self._note_refusal("dials", where.market, "a connection was dialled")
        elif headers.get("sec-websocket-version") != "13" or not headers.get("sec-websocket-key"):
            refusal = rest.failure("400000", "Bad Request", status=400)
        elif self._tokens.judge(token, where.market, trio.current_time()) == "unknown":
            refusal = rest.failure("401000", "Unauthorized", status=401)
        status = 101 if refusal is None else refusal.status
        self._dials.append(Dial(trio.current_time(), where.market, status, server))
        self._dial_count += 1
        self._refused_count += refusal is not None
        return refusal, token

    async def _serve_websocket(
        self, line: CableStream, stream: trio.abc.Stream, raw: bytes, where: Where, token: str, server: int
    ) -> None:
        shared = SharedStream(stream, raw)
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(_HANDSHAKE) as handshake:
                request = await trio_websocket.wrap_server_stream(nursery, shared)
                websocket = await request.accept()
            if not (handshake.cancelled_caught or server in self.faults.dead_servers):
                ends_at = self._tokens.end(token)
                session = Session(
                    websocket,
                    shared,
                    line,
                    market=where.market,
                    server=server,
                    token=token,
                    connect_id=where.query.get("connectId") or f"{self._rng.getrandbits(50):x}",
                    limits=self.limits,
                    lag=self.faults.lag.get(server, 0.0),
                    buffer=self._send_buffer,
                    # Who comes too late is told so, and not cut.
                    ends_at=ends_at if ends_at > trio.current_time() else math.inf,
                )
                await self._run_session(session, websocket)
            nursery.cancel_scope.cancel()

    async def _run_session(self, session: Session, websocket: trio_websocket.WebSocketConnection) -> None:
        self._sessions[session] = None
        if self.truth is not None:
            self.truth.opened(session)
        try:
            with session.scope:
                async with trio.open_nursery() as nursery:
                    session.nursery = nursery
                    nursery.start_soon(session.run_sender, self._gate)
                    nursery.start_soon(session.run_watch)
                    await self._converse(session, websocket)
                    session.cut()  # it is not open any more from now on, whatever has yet to end
        finally:
            for name in session.topics:
                self._leave(session, name)
            del self._sessions[session]
            if self.truth is not None:
                self.truth.ended(session)
            if session.last_request is not None:
                self._last_requests[session.market] = session.last_request
            self._dropped += session.dropped
            session.end()

    async def _converse(self, session: Session, websocket: trio_websocket.WebSocketConnection) -> None:
        """Answer the client's frames until it has closed the connection."""
        expired = self._tokens.judge(session.token, session.market, trio.current_time()) == "expired"
        if expired:
            # Seen in XChange 4740: the error has no id, and nothing comes after it.
            session.reply(wire.error(None, 401, "token is expired"))
        elif not self.faults.withhold_welcome:
            session.reply(wire.welcome(session.connect_id), after=self.faults.late_welcome)
        window = SlidingWindow(self.limits.messages_per_10s, 10.0)
        lowered = self.faults.messages_per_10s
        while True:
            try:
                message = await websocket.get_message()
            except trio_websocket.ConnectionClosed:
                session.note_end()
                return
            await self._gate.wait_open()
            text = message if isinstance(message, str) else message.decode("utf-8", "replace")
            session.note_received(text)
            if expired:
                continue
            if not window.admit(trio.current_time(), lowered):
                self._note_refusal("frames", session.market, f"a frame was sent: {text:.100}")
                session.reply(wire.error(session.connect_id, 509, "exceed max permits per 10 seconds"))
                await trio.sleep(DROP_AFTER_509)
                session.cut()
                return
            # A client that asks without reading gets no unbounded heap of answers.
            await session.wait_room()
            self._handle(session, wire.parse_client_frame(text))

    def _handle(self, session: Session, frame: dict[str, Any] | None) -> None:
        if frame is None:
            session.reply(wire.error(None, 415, "type is not supported"))
            return
        request_id = None if frame.get("id") is None else str(frame["id"])
        match frame.get("type"):
            case "ping":
                session.note_ping()
                self._pong(session, request_id)
            case "subscribe":
                self._subscribe(session, request_id, str(frame.get("topic", "")), ack=frame.get("response") is True)
            case "unsubscribe":
                self._unsubscribe(session, request_id, str(frame.get("topic", "")), ack=frame.get("response") is True)
            case _:
                session.reply(wire.error(request_id, 415, "type is not supported"))

    def _subscribe(self, session: Session, request_id: str | None, text: str, *, ack: bool) -> None:
        prefix, arguments = wire.split_topic(text)
        arguments = list(dict.fromkeys(arguments))
        limits = self.limits
        if limits.symbols_per_frame is not None and len(arguments) > limits.symbols_per_frame:
            reason = f"exceed max subscription count limitation of {limits.symbols_per_frame} per time"
            session.reply(wire.error(request_id, 509, reason))
            self._note_refusal("symbols", session.market, f"{len(arguments)} symbols were in one frame")
            return
        channel = wire.CHANNELS.get((session.market, prefix))
        good: list[wire.ActiveTopic] = []
        bad: list[str] = []
        for argument in arguments:
            topic = channel and argument and channel.find(self.model, argument, any_symbol=self._any_symbol)
            if topic:
                good.append(topic)
            else:
                bad.append(f"{prefix}:{argument}" if ":" in text else text)
        if bad and not self._partial:
            session.reply(wire.error(request_id, 404, f"topic {bad[0]} is not found"))
            return
        most = limits.topics(session.market)
        new = [topic for topic in good if topic.name not in session.held]
        if most is not None and len(session.held) + len(new) > most:
            reason = f"exceed max subscription count limitation of {most} per session"
            session.reply(wire.error(request_id, 509, reason))
            self._note_refusal("topics", session.market, f"{len(session.held) + len(new)} topics were asked for")
            return
        for name in bad:
            session.reply(wire.error(request_id, 404, f"topic {name} is not found"))
        answered = bool(good)
        for topic in new:
            if self.faults.ignores(topic.name, topic.symbol):
                answered = False
            else:
                self._join(session, topic)
        if ack and answered:
            self._acknowledge(session, request_id)

    def _unsubscribe(self, session: Session, request_id: str | None, text: str, *, ack: bool) -> None:
        prefix, arguments = wire.split_topic(text)
        for argument in arguments:
            name = f"{prefix}:{argument}"
            if name in session.held:
                self._leave(session, name)
        if ack:
            self._acknowledge(session, request_id)

    def _pong(self, session: Session, request_id: str | None) -> None:
        faults = self.faults
        if faults.withhold_pongs:
            return
        text = wire.answer("pong", f"not-{request_id}" if faults.wrong_pongs else request_id)
        for _ in range(2 if faults.pong_twice else 1):
            session.reply(text, after=faults.late_pongs)

    def _acknowledge(self, session: Session, request_id: str | None) -> None:
        faults = self.faults
        session.last_request = request_id
        if faults.old_acks:
            request_id = self._last_requests.get(session.market)
        if faults.withhold_acks or (faults.old_acks and request_id is None):
            return
        text = wire.answer("ack", f"not-{request_id}" if faults.wrong_acks else request_id)
        for _ in range(2 if faults.ack_twice else 1):
            session.reply(text, after=faults.late_acks)

    def _join(self, session: Session, topic: wire.ActiveTopic) -> None:
        route = self._routes.get(topic.name)
        if route is None:
            if topic.model is not None:
                self._catch_up(topic.model)
            route = self._routes[topic.name] = _Route(topic)
            if topic.model is not None:
                self._by_symbol.setdefault(topic.model, {})[topic.name] = route
        route.sessions[session] = None
        session.held[topic.name] = None
        if self.truth is not None:
            self.truth.joined(session, route.topic)
        self._changed.set()
        self._changed = trio.Event()

    def _leave(self, session: Session, name: str) -> None:
        del session.held[name]
        route = self._routes[name]
        del route.sessions[session]
        if self.truth is not None:
            self.truth.left(session, route.topic, last=not route.sessions)
        if not route.sessions:
            del self._routes[name]
            model = route.topic.model
            if model is not None:
                del self._by_symbol[model][name]
                if not self._by_symbol[model]:
                    del self._by_symbol[model]

    def _note_refusal(self, limit: Limit, market: MarketName, text: str) -> None:
        if self.truth is not None:
            self.truth.refused(limit, market, text)

    # The market

    async def _run_market(self) -> None:
        """Advance the held symbols on a fixed grid of beats; sleep without any timer while none is held."""
        while True:
            await trio.lowlevel.checkpoint()
            if not self._live or not (self._routes or (self.truth is not None and self.truth.unheld)):
                await self._changed.wait()
                continue
            await self._gate.wait_open()
            await trio.sleep_until(self._grid.at(self._grid.number(trio.current_time()) + 1))
            if self._gate.is_open:
                await self._beat()

    async def _beat(self) -> None:
        self._beats += 1
        now = self._now_ns()
        beat_number = self._grid.number(trio.current_time())
        everything = self._routes.get("/market/ticker:all")
        models = dict.fromkeys(self._by_symbol)
        unheld = {} if self.truth is None else self.truth.unheld
        models.update(dict.fromkeys(topic.model for topic in unheld.values() if topic.model is not None))
        if everything is not None or "/market/ticker:all" in unheld:
            for symbol in self.model.symbols("spot"):
                model = self.model.find("spot", symbol)
                if model is not None:
                    models[model] = None
        for number, model in enumerate(models):
            if number % _BREATH == _BREATH - 1:
                await trio.lowlevel.checkpoint()
            told = self._routes_of(model) or (self.truth is not None and self.truth.unheld_about(model))
            if not told or model.status != OPEN:
                continue  # its last holder left during a checkpoint, or it is halted
            self._grid.live(model, beat_number)
            self._tell(model, model.advance(now))

    def _catch_up(self, model: SymbolModel) -> None:
        """Let a symbol that nobody held live the beats it missed; nobody is there to be told."""
        if self._time_ns is None or not self._gate.is_open or model.status != OPEN or self._routes_of(model):
            return
        now, now_ns = trio.current_time(), self._now_ns()
        for number in self._grid.missed(model, now):
            at = self._grid.at(number)
            self._note_unheld(model, model.advance(now_ns - round((now - at) * 1e9)), at)

    def _routes_of(self, model: SymbolModel) -> list[_Route]:
        """The held topics that tell about a symbol."""
        routes = list(self._by_symbol.get(model, {}).values())
        everything = self._routes.get("/market/ticker:all")
        if everything is not None and model.instrument.market == "spot":
            routes.append(everything)
        return routes

    def _tell(self, model: SymbolModel, beat: Beat) -> None:
        for route in self._routes_of(model):
            self._publish(route, model, beat)
        self._note_unheld(model, beat, trio.current_time())

    def _note_unheld(self, model: SymbolModel, beat: Beat, at: float) -> None:
        """What those miss who held a topic, and come back."""
        if self.truth is not None:
            for topic in self.truth.unheld_about(model):
                for text in self._news(topic, model, beat):
                    self.truth.publish(topic.name, text, at)

    def _publish(self, route: _Route, model: SymbolModel, beat: Beat) -> None:
        topic = route.topic
        muted = self.faults.mutes(topic.name, topic.symbol)
        if muted and self.truth is None:
            return
        for text in self._news(topic, model, beat):
            publication = None if self.truth is None else self.truth.publish(topic.name, text, trio.current_time())
            frame = wire.text_frame(text)
            for session in route.sessions:
                texts, accepted = ([], []) if muted else self._send(session, model, text, frame)
                self._pushes += sum(accepted)
                if self.truth is not None and publication is not None:
                    self.truth.put(publication, session, texts, accepted)

    def _send(
        self, session: Session, model: SymbolModel, text: str, frame: bytes
    ) -> tuple[Sequence[str], Sequence[bool]]:
        """Put a publication, *text* and as a *frame*, on the wire of *session*.

        Returns what was put there now, and of each whether there was room. Without faults that is *text*; a fault may
        have it be nothing, something else, or several; what it held back before is among them when it leaves.
        """
        if not session.tampers:
            return (text,), (session.push(frame),)
        message = tamper.Message(model.instrument.symbol, text)
        texts = [made.text for made in tamper.passed(session.tampers, message)]
        return texts, [session.push(wire.text_frame(one)) for one in texts]

    def _news(self, topic: wire.ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
        """What is to be published for *topic* of this beat, if it is time for that."""
        every = topic.channel.every
        if every is not None:
            # Half a beat early is on time: the grid of beats must not turn "every second" into "every 1.1 seconds".
            if beat.time_ns < topic.next_due_ns - self._update_interval * 5e8:
                return iter(())
            topic.next_due_ns = beat.time_ns + round(every * 1e9)
        return topic.channel.encode(topic, model, beat)


def _topic_of(text: str) -> str:
    """The topic of a raw frame; empty where it has none. The short way is safe while the word stands there once."""
    found = _TOPIC.findall(text)
    if len(found) == 1:
        return str(found[0])
    frame = json.loads(text) if found else {}
    return str(frame.get("topic", "")) if isinstance(frame, dict) else ""
