"""One open WebSocket connection, as the exchange sees it."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import trio
from trio_websocket import ConnectionClosed

from kufeed.testing.wire import text_frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_websocket import WebSocketConnection

    from kufeed.testing.cablestream import CableStream
    from kufeed.testing.gate import Gate
    from kufeed.testing.limits import Limits
    from kufeed.testing.market import MarketName
    from kufeed.testing.streams import SharedStream
    from kufeed.testing.tamper import Tamper

CONNECTION_LOST = (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionClosed)
_BATCH = 65_536  # bytes joined into one send
_RECEIVED_KEPT = 1000
_CLOSE_PATIENCE = 1.0  # seconds for the client's half of a closing handshake


class Session:
    """One open WebSocket connection. Read its properties and counters; the rest is the exchange's.

    `market` and `server`, the number of its instance server from 0, tell where it is; `muted_at`,
    `stopped_reading_at` and `disconnected_at` when it was told to (`trio.current_time()`), or None; `left_at` when the
    client has ended it of its own accord; `has_lagged`, whether its `lag` was ever more than 0.

    Outgoing pushes wait in a bounded buffer and leave in as few sends as possible. A client that reads too slowly loses
    pushes (counted in `dropped`) and holds up nobody else, as KuCoin's staff describe it (PROTOCOL section 3).
    """

    def __init__(
        self,
        websocket: WebSocketConnection,
        stream: SharedStream,
        line: CableStream,
        *,
        market: MarketName,
        server: int,
        token: str,
        connect_id: str,
        limits: Limits,
        lag: float = 0.0,
        buffer: int,
        ends_at: float = math.inf,
    ) -> None:
        self.market = market
        self.server = server
        self.token = token
        self.connect_id = connect_id
        self.opened_at = trio.current_time()
        self.sent = 0
        self.dropped = 0
        self.muted_at: float | None = None
        self.stopped_reading_at: float | None = None
        self.disconnected_at: float | None = None
        self.left_at: float | None = None
        self.held: dict[str, None] = {}
        self.tampers: list[Tamper] = []
        self.last_request: str | None = None
        self.scope = trio.CancelScope()
        self.nursery: trio.Nursery | None = None
        self._websocket = websocket
        self._stream = stream
        self._line = line
        self._limits = limits
        self._buffer = buffer
        self._ends_at = ends_at
        self._received: deque[str] = deque(maxlen=_RECEIVED_KEPT)
        self._lag = 0.0
        self.has_lagged = False
        self.lag = lag
        self._outbox: deque[bytes] = deque()
        self._delayed: deque[tuple[float, bytes]] = deque()  # when each one leaves; all of them after the outbox
        self._pending = 0
        self._last_ping = self.opened_at
        self._pings: deque[float] = deque(maxlen=_RECEIVED_KEPT)
        self._closing = False
        self._reads = True
        self._more = trio.Event()
        self._less = trio.Event()
        self._ended = trio.Event()

    def __repr__(self) -> str:
        state = "open" if self.is_open else "closed"
        return f"<Session {self.market} {self.connect_id} {state}, {len(self.held)} topics, {self.dropped} dropped>"

    @property
    def topics(self) -> tuple[str, ...]:
        """The wire topics which this connection holds, one symbol each, in the order of subscribing."""
        return tuple(self.held)

    @property
    def received(self) -> tuple[str, ...]:
        """The newest 1000 frames that the client sent, as text."""
        return tuple(self._received)

    @property
    def pinged_at(self) -> tuple[float, ...]:
        """When the newest 1000 JSON pings came: `trio.current_time()`."""
        return tuple(self._pings)

    @property
    def is_open(self) -> bool:
        """False once the connection has ended or is being closed."""
        return not (self._closing or self._ended.is_set())

    @property
    def lag(self) -> float:
        """Seconds that what is said on this connection, answers too, takes to arrive. Set it at any time.

        The order stays: what is said after a lag became less waits for what was said before. Raises `ValueError` for
        less than 0.
        """
        return self._lag

    @lag.setter
    def lag(self, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            raise ValueError(f"lag must be zero or more, not {seconds!r}")
        self._lag = seconds
        self.has_lagged |= seconds > 0

    @property
    def pending(self) -> int:
        """Bytes that wait to be sent. What is on its long way by `lag` is not among them."""
        return self._pending

    def push(self, frame: bytes) -> bool:
        """Queue a finished frame, or drop it, count it and return False where the buffer is full."""
        if not self.is_open:
            return False
        if self._pending >= self._buffer:
            self.dropped += 1
            return False
        self._queue(frame)
        return True

    def reply(self, text: str, *, after: float = 0.0) -> None:
        """Queue a control frame, *after* so many seconds; these are never dropped."""
        if not self.is_open:
            return
        if after:
            self._start(self._reply_later, text, trio.current_time() + after)
        else:
            self._queue(text_frame(text))

    async def _reply_later(self, text: str, at: float) -> None:
        await trio.sleep_until(at)
        self.reply(text)

    async def _cut_later(self, at: float) -> None:
        await trio.sleep_until(at)
        self.cut()

    def _start(self, function: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """In the connection's own nursery, which takes nothing more once it is ending."""
        if self.nursery is not None and self.is_open:
            self.nursery.start_soon(function, *arguments)

    def mute(self) -> None:
        """From now on nothing reaches the client any more, as where a link broke that nobody has closed.

        The exchange does not notice: it goes on reading and "sending".
        """
        if self.muted_at is None:
            self.muted_at = trio.current_time()
        self._line.mute()

    def stop_reading(self) -> None:
        """Read nothing from the client any more, and go on sending; its silence is not held against it.

        In memory its sends are stuck at once, over TCP when the buffers of the system are full.
        """
        self._reads = False
        if self.stopped_reading_at is None:
            self.stopped_reading_at = trio.current_time()
        self._line.stop_reading()

    def reset(self) -> None:
        """Tear the connection down by a TCP reset, by which the client may lose what it has not read."""
        self._line.cut("reset")

    async def wait_room(self) -> None:
        """Wait until a push would not be dropped, or the connection has ended."""
        await trio.lowlevel.checkpoint()
        while self._pending >= self._buffer and self.is_open:
            await self._less.wait()

    async def wait_sent(self) -> None:
        """Wait until all that was queued is with the transport, or the connection has ended."""
        await trio.lowlevel.checkpoint()
        while (self._pending or self._delayed) and self.is_open:
            await self._less.wait()

    async def wait_ended(self) -> None:
        """Wait until the connection is gone and the exchange has forgotten it."""
        await self._ended.wait()

    async def disconnect(self, code: int | None = None) -> None:
        """End the connection: with a close frame of *code* (the client gets 1 s to answer it), or cut it (None).

        Returns when the connection is gone. Cancelled, it is cut.
        """
        self.disconnected_at = trio.current_time()
        try:
            if code is not None and self.is_open:
                self._stop_sending()
                with trio.move_on_after(_CLOSE_PATIENCE):
                    await self._websocket.aclose(code)
        finally:
            self.cut()
        await self._ended.wait()

    # What follows is called by the exchange only.

    def note_received(self, text: str) -> None:
        """Keep a client's frame for `received`."""
        self._received.append(text)

    def note_end(self) -> None:
        """It has ended: by the client's wish, unless the exchange or the line has ended it."""
        if self.is_open and self._line.is_sound:
            self.left_at = trio.current_time()

    def note_ping(self) -> None:
        """The client is alive: its silence counts from now."""
        self._last_ping = trio.current_time()
        self._pings.append(self._last_ping)

    def cut(self) -> None:
        """Drop the connection without a close frame."""
        self._stop_sending()
        self.scope.cancel()

    def cut_soon(self, seconds: float) -> None:
        """Drop the connection without a close frame, after so many seconds."""
        self._start(self._cut_later, trio.current_time() + seconds)

    def close_soon(self, code: int) -> None:
        """End the connection with a close frame of *code*, as `disconnect()`, without waiting for it."""
        self._start(self.disconnect, code)

    def end(self) -> None:
        """The connection is over; wakes whoever waits for that."""
        self._stop_sending()
        self._ended.set()

    async def run_sender(self, gate: Gate) -> None:
        """Send what is queued, joined, until the connection is lost or being closed."""
        try:
            while True:
                while not self._outbox:
                    self._more = trio.Event()
                    if self._delayed:
                        with trio.move_on_at(self._delayed[0][0]):
                            await self._more.wait()
                        self._release()
                    else:
                        await self._more.wait()
                await gate.wait_open()
                batch: list[bytes] = []
                size = 0
                while self._outbox and size < _BATCH:
                    batch.append(self._outbox.popleft())
                    size += len(batch[-1])
                # The client may have begun to close while frames were waiting: nothing may follow our close frame.
                if self._closing or self._websocket.closed is not None:
                    return
                await self._stream.send_all(b"".join(batch))
                self.sent += len(batch)
                self._pending -= size
                self._less.set()
                self._less = trio.Event()
        except CONNECTION_LOST:
            self.cut()

    async def run_watch(self) -> None:
        """Cut the connection when the client was silent for too long, or when the connection is too old."""
        silence = self._limits.client_silence or math.inf
        life = self._limits.token_life or math.inf
        while True:
            if not self._reads:
                silence = math.inf
            deadline = min(self._last_ping + silence, self.opened_at + life, self._ends_at)
            if trio.current_time() >= deadline:
                self.cut()
                return
            await trio.sleep_until(deadline)

    def _queue(self, frame: bytes) -> None:
        if self._lag or self._delayed:
            arrival = trio.current_time() + self._lag
            self._delayed.append((max(arrival, self._delayed[-1][0]) if self._delayed else arrival, frame))
        else:
            self._outbox.append(frame)
            self._pending += len(frame)
        self._more.set()

    def _release(self) -> None:
        now = trio.current_time()
        while self._delayed and self._delayed[0][0] <= now:
            frame = self._delayed.popleft()[1]
            self._outbox.append(frame)
            self._pending += len(frame)

    def _stop_sending(self) -> None:
        self._closing = True
        self._less.set()
