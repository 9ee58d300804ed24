"""A small KuCoin: both markets, REST and WebSocket, over TCP or any other stream."""

from __future__ import annotations

import math
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import h11
import trio
import trio_websocket
import wsproto

from kufeed.testing.books import TrueBook
from kufeed.testing.cable import Cable
from kufeed.testing.cablestream import reset
from kufeed.testing.conversation import Conversation
from kufeed.testing.desk import Desk
from kufeed.testing.gate import Gate
from kufeed.testing.keys import KeyOffice
from kufeed.testing.limits import Limits
from kufeed.testing.market import CHANGES_KEPT, LEAST_LEVELS, LEVELS, MOST_LEVELS, OPEN, MarketModel
from kufeed.testing.overlays import Overlays
from kufeed.testing.premises import Premises, WallClock
from kufeed.testing.publisher import Publisher
from kufeed.testing.pulse import Pulse
from kufeed.testing.reception import Reception
from kufeed.testing.records import Address, Dial, ExchangeStatistics
from kufeed.testing.services import open_services
from kufeed.testing.session import CONNECTION_LOST, Session
from kufeed.testing.tokens import TokenOffice
from kufeed.testing.truth import Truth

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable

    from kufeed import Credentials
    from kufeed.testing.market import MarketName, SymbolModel

_LOST = (*CONNECTION_LOST, h11.RemoteProtocolError, trio_websocket.HandshakeError, wsproto.utilities.ProtocolError)


class Exchange(Premises):
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
        super().__init__(
            MarketModel(
                seed=seed,
                futures=futures,
                spot=spot,
                generated=generated,
                levels=book_levels,
                changes_kept=changes_kept,
            ),
            Limits() if limits is None else limits,
            Truth() if ledger else None,
        )
        self.overlays = Overlays()
        self.cable = Cable(seed)
        self._clock = WallClock(self)
        self._gate = Gate()
        self._tokens = TokenOffice(seed, self.limits.token_life)
        self._keys = KeyOffice(seed)
        # Half a beat early is on time: the grid of beats must not turn "every second" into "every 1.1 seconds".
        self._publisher = Publisher(self, early=update_interval / 2, buffer=send_buffer)
        self._pulse = Pulse(self._clock, self._gate, self._publisher, interval=update_interval, live=live)
        self._desk = Desk(
            self,
            self._clock,
            self._pulse,
            self._tokens,
            self._keys,
            servers=instance_servers,
            ping_interval=ping_interval,
            ping_timeout=ping_timeout,
        )
        self._conversation = Conversation(
            self,
            self._gate,
            self._publisher,
            self._pulse,
            self._tokens,
            any_symbol=not live if accept_any_symbol is None else accept_any_symbol,
            partial=partial_subscribe,
        )
        self._reception = Reception(
            self, self._gate, self._desk, self._conversation, self._tokens, seed=seed, buffer=send_buffer
        )
        self._lost = 0

    def __repr__(self) -> str:
        state = "shut" if not self._clock.goes else "open" if self._gate.is_open else "frozen"
        return f"<Exchange {state}, {len(self._reception.sessions)} sessions, {len(self._publisher.routes)} topics>"

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
            count = self.instance_servers
            ports = [bound] if count == 1 else [await bind(0, server) for server in range(count)]
            self._desk.ports = ports
            base = f"{'http' if tls is None else 'https'}://{host}:{bound}"
            yield Address(host, bound, f"{base}/futures", f"{base}/spot", tuple(ports))

    @asynccontextmanager
    async def open(self, time_ns: Callable[[], int]) -> AsyncIterator[trio.Nursery]:
        """Run the market, with *time_ns* (ns since the epoch) as the exchange's clock, until the block is left.

        What `listen()` and `MemoryNetwork` stand on; yields the nursery which may serve connections. Raises
        `RuntimeError` where the exchange is open already.
        """
        if self._clock.goes:
            raise RuntimeError("this exchange is open already")
        self._clock.time_ns = time_ns
        self._publisher.begin()
        self._pulse.begin()
        try:
            async with open_services() as nursery:
                nursery.start_soon(self._pulse.run_market, name="kufeed exchange: market")
                self.cable.open(nursery)
                yield nursery
        finally:
            self.cable.close()
            self._clock.time_ns = None

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
            inner = line if tls is None else trio.SSLStream(line, tls, server_side=True)
            await self._reception.serve(line, inner, host, server)
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
        return await self._publisher.play(frames)

    def notify(self, frame: str | bytes, market: MarketName | None = None) -> int:
        """Send a raw frame (JSON text), verbatim, to every session, or to those of *market*: a `notice`, a `command`.

        Returns how many sessions that were. It is never dropped.
        """
        text = frame.decode() if isinstance(frame, bytes) else frame
        told = [session for session in self.sessions if market is None or session.market == market]
        for session in told:
            session.reply(text)
        return len(told)

    async def wait_subscribed(self, *topics: str) -> None:
        """Wait until each of the wire *topics* (one symbol each) is held by some session."""
        await trio.lowlevel.checkpoint()
        while not all(topic in self._publisher.routes for topic in topics):
            await self._publisher.wait_joined()

    async def disconnect_all(self, code: int | None = None) -> None:
        """End every WebSocket: cut it (None), or with a close frame of *code*. Returns when all are gone."""
        async with trio.open_nursery() as nursery:
            for session in self.sessions:
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
        for session in self.sessions:
            if session.server == index:
                session.cut()

    def check_server(self, index: int) -> None:
        """Raise `ValueError` for a server that there is not."""
        if not 0 <= index < self.instance_servers:
            raise ValueError(f"there is no server {index}: this exchange has {self.instance_servers}, from 0")

    def expire_tokens(self) -> None:
        """All tokens issued so far are expired for later dials; open connections stay."""
        self._tokens.expire_all()

    def restart(self) -> None:
        """Begin anew, as after a restart: everything open is cut, tokens are unknown, books are numbered from 0.

        Who comes is served at once; `faults.refuse_dials` makes that later. The market stays what it was.
        """
        for session in self.sessions:
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
            name,
            value,
            lambda: getattr(self.faults, name),
            lambda value: setattr(self.faults, name, value),
            lambda: self.faults.count_sets(name),
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
        self._publisher.tell(model, model.change(self._clock.now_ns(), count))
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
        self._publisher.tell(model, model.trade(self._clock.now_ns(), count))
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
        self._pulse.set_status(self._model(symbol), OPEN)

    def status(self, symbol: str) -> str:
        """`Open` while *symbol* trades, `Closed` once it is delisted. Raises `LookupError` for an unknown one."""
        return "Closed" if symbol in self.model.delisted else self._model(symbol).status

    def overlay_status(self, symbol: str, status: str = "Paused") -> Callable[[], None]:
        """As `halt()`, for a while, by the rules of `overlay()`. Raises `LookupError` for an unknown symbol."""
        model = self._model(symbol)
        return self.overlays.lay(
            ("status", symbol), status, lambda: model.status, lambda value: self._pulse.set_status(model, value)
        )

    def has(self, symbol: str) -> bool:
        """Whether *symbol* trades here, or did before it was delisted, or any symbol would do."""
        market: MarketName = "spot" if "-" in symbol else "futures"
        return self._conversation.any_symbol or symbol in self.model.symbols(market) or symbol in self.model.delisted

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
        self._pulse.catch_up(model)
        return model

    def _open_model(self, symbol: str) -> SymbolModel:
        model = self._model(symbol)
        if model.status != OPEN:
            raise ValueError(f"{symbol} is halted")
        return model

    @property
    def ping_interval(self) -> float:
        """What the token reply tells clients."""
        return self._desk.ping_interval

    @property
    def ping_timeout(self) -> float:
        """What the token reply tells clients."""
        return self._desk.ping_timeout

    @property
    def instance_servers(self) -> int:
        """How many servers the token reply names."""
        return self._desk.servers

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The open WebSocket connections, oldest first."""
        return tuple(self._reception.sessions)

    @property
    def dials(self) -> tuple[Dial, ...]:
        """The newest 10,000 attempts to open a WebSocket, oldest first."""
        return tuple(self._reception.dials)

    @property
    def tokens_issued(self) -> int:
        """How many tokens were given out."""
        return self._tokens.count

    def statistics(self) -> ExchangeStatistics:
        """The counters at this moment."""
        return ExchangeStatistics(
            sessions=len(self.sessions),
            topics=sum(len(session.held) for session in self.sessions),
            dials=self._reception.dial_count,
            dials_refused=self._reception.refused_count,
            tokens_issued=self._tokens.count,
            requests=self._desk.requests,
            beats=self._pulse.beats,
            pushes=self._publisher.pushes,
            dropped=self._reception.dropped,
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
