"""Byte streams of the simulated exchange: a pipe that behaves like TCP, and one stream shared by two writers."""

from __future__ import annotations

import operator

import trio

_WINDOW = 262_144  # about what a TCP connection over loopback buffers on both sides together


class _Direction:
    """One way of a pipe: at most *window* bytes under way, then the sender waits, as TCP makes it wait."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.most: int | None = None  # bytes that the receiver gets at a time
        self.data = bytearray()
        self.sender_closed = False
        self.receiver_closed = False
        self.reset = False
        self._changed = trio.Event()

    def change(self) -> None:
        """Wake whoever waits for this direction."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_change(self) -> None:
        await self._changed.wait()


class PipeStream(trio.abc.HalfCloseableStream):
    """One end of `open_pipe()`. Like a TCP connection: bounded, the peer's close is an end of file, `reset()` an error.

    Each method is a checkpoint; a second task in the same direction gets `trio.BusyResourceError`.
    """

    def __init__(self, outgoing: _Direction, incoming: _Direction) -> None:
        self._out = outgoing
        self._in = incoming
        self._sending = False
        self._receiving = False
        self._closed = False
        self._window = incoming.window

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is using this stream for send")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_send()
            with memoryview(data) as view:
                sent = 0
                while sent < len(view):
                    room = self._out.window - len(self._out.data)
                    if room > 0:
                        self._out.data += view[sent : sent + room]
                        sent += room
                        self._out.change()
                    else:
                        await self._out.wait_change()
                        self._check_send()
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is using this stream for send")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_send()
            while len(self._out.data) >= self._out.window:
                await self._out.wait_change()
                self._check_send()
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is using this stream for send")
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError
        self._out.sender_closed = True
        self._out.change()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._receiving:
            raise trio.BusyResourceError("another task is using this stream for receive")
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError(f"max_bytes must be positive, not {max_bytes}")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                if self._closed:
                    raise trio.ClosedResourceError
                if self._in.reset:
                    raise trio.BrokenResourceError("connection reset by peer")
                if self._in.data:
                    size = 65536 if max_bytes is None else max_bytes
                    if self._in.most is not None:
                        size = min(size, self._in.most)
                    data = bytes(self._in.data[:size])
                    del self._in.data[:size]
                    self._in.change()
                    return data
                if self._in.sender_closed:
                    return b""
                await self._in.wait_change()
        finally:
            self._receiving = False

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._closed

    async def aclose(self) -> None:
        """Close both ways at once. The peer reads what is under way and then an end of file."""
        self.close()
        await trio.lowlevel.checkpoint()

    def split(self, size: int | None) -> None:
        """Let the peer receive at most *size* bytes at a time from now on; None for as many as there are."""
        self._out.most = size

    def stop_reading(self) -> None:
        """Take no byte more from the peer: what it sends from now on is stuck, until `read_on()`."""
        self._in.window = 0

    def read_on(self) -> None:
        """Take what the peer sends again."""
        self._in.window = self._window
        self._in.change()

    def reset(self) -> None:
        """Tear the connection down as a TCP reset does: what is under way is lost, both peers' calls fail at once."""
        self._out.reset = True
        self._out.data.clear()
        self.close()

    def close(self) -> None:
        """What `aclose()` does."""
        if not self._closed:
            self._closed = True
            self._out.sender_closed = True
            self._in.receiver_closed = True
            self._in.data.clear()
            self._out.change()
            self._in.change()

    def _check_send(self) -> None:
        if self._closed or self._out.sender_closed:
            raise trio.ClosedResourceError
        if self._out.receiver_closed or self._in.reset:
            raise trio.BrokenResourceError("the peer is gone")


def open_pipe(window: int = _WINDOW) -> tuple[PipeStream, PipeStream]:
    """Two connected ends; at most *window* bytes are under way in each direction."""
    one, other = _Direction(window), _Direction(window)
    return PipeStream(one, other), PipeStream(other, one)


class SharedStream(trio.abc.Stream):
    """A stream whose writers take turns, and which first gives back bytes that were read already.

    trio-websocket answers control frames in its reader task while the session sends pushes; without the turns the
    second of them gets `trio.BusyResourceError`.
    """

    def __init__(self, stream: trio.abc.Stream, replay: bytes = b"") -> None:
        self._stream = stream
        self._replay = replay
        self._turn = trio.StrictFIFOLock()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        async with self._turn:
            await self._stream.send_all(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        async with self._turn:
            await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._replay:
            await trio.lowlevel.checkpoint()
            size = len(self._replay) if max_bytes is None else max_bytes
            data, self._replay = self._replay[:size], self._replay[size:]
            return data
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()
