"""One end of a byte stream on its way through the exchange's cable."""

from __future__ import annotations

import math
import socket
import struct
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import attrs
import trio

from kufeed.testing.streams import PipeStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from kufeed.testing.cable import Cable

Ending = Literal["fin", "reset"]

_WINDOW = 262_144  # bytes that may be under way on a slow line before its sender waits
_GONE = "the line was cut"


def reset(stream: trio.abc.Stream) -> None:
    """End *stream* by a TCP reset, in memory by what is as good as one: what is under way is lost."""
    if isinstance(stream, trio.SocketStream):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
    elif isinstance(stream, PipeStream):
        stream.reset()


def finish(stream: trio.abc.Stream) -> None:
    """End *stream* by an end of file, after what was sent."""
    if isinstance(stream, trio.SocketStream):
        # To close while something waits to be read is a reset: the end of file must be ahead of it.
        with suppress(OSError):  # the peer was faster
            stream.socket.shutdown(socket.SHUT_WR)
        stream.socket.close()
    elif isinstance(stream, PipeStream):
        stream.close()


@attrs.frozen
class _Parcel:
    """What is under way on a slow line: bytes, or None for the end of the stream."""

    sent_at: float
    delays: dict[object, float]
    data: memoryview | None


class CableStream(trio.abc.Stream):
    """The exchange's end of one connection, with the faults of the line; made by `Cable.connect()`.

    While there are none it hands on what it is given. Over a *raw* stream that is neither a socket nor a pipe nothing
    can be cut, and all else is the same. A connection that was cut raises `trio.BrokenResourceError`.
    """

    def __init__(self, cable: Cable, raw: trio.abc.Stream) -> None:
        self._cable = cable
        self._raw = raw
        self._sent = 0  # bytes that went out or were lost: the faults below count from the beginning
        self._garbled: list[range] = []
        self._cut_at = math.inf
        self._cut_how: Ending = "fin"
        self._mute_at = math.inf
        self._whole = True  # none of these three: there is nothing to look for in what is sent
        self._stops: dict[object, None] = {}  # why nothing is read
        self._reading = trio.CancelScope()
        self._read_on = trio.Event()
        self._under_way: deque[_Parcel] = deque()
        self._waiting = 0  # bytes under way
        self._running = False
        self._run = trio.CancelScope()
        self._less = trio.Event()
        self._wrote = 0  # bytes in the newest piece
        self._wrote_at = -math.inf
        self._peer_closed = False
        self._cut = False
        self._closed = False
        self._finished = False
        self.resize()

    @property
    def is_sound(self) -> bool:
        """Whether nothing was done to it that a client may take for its end."""
        return self._whole and not self._stops and not self._cable.slow

    # The line's faults

    def cut(self, how: Ending = "fin", after: int = 0) -> None:
        """End it once *after* more bytes are sent; the earliest of several cuts is it. What is dead stays as it is."""
        if self._sent + after < self._cut_at:
            self._cut_at, self._cut_how, self._whole = self._sent + after, how, False
        if not after:
            self._end()

    def garble(self, after: int, count: int) -> None:
        """Flip the bits of *count* bytes, *after* so many more."""
        self._garbled.append(range(self._sent + after, self._sent + after + count))
        self._whole = False

    def mute(self, after: int = 0) -> None:
        """Let all that is sent vanish for good, *after* so many more bytes; its end too."""
        self._mute_at = min(self._mute_at, self._sent + after)
        self._whole = False

    def silence(self) -> None:
        """Let nothing arrive any more, either way, for good."""
        self.mute()
        self._stops[self] = None
        self._reading.cancel()

    def stop_reading(self) -> Callable[[], None]:
        """Take nothing from the client, until what is returned is called. Its sends are stuck, over TCP a bit later."""
        key = object()
        self._stops[key] = None
        self._reading.cancel()
        if isinstance(self._raw, PipeStream):
            self._raw.stop_reading()

        def read_on() -> None:
            self._stops.pop(key, None)
            if not self._stops:
                if isinstance(self._raw, PipeStream):
                    self._raw.read_on()
                self._wake_reader()

        return read_on

    def resize(self) -> None:
        """The cable's pieces have another size: a pipe cuts them where they are received, so that each is one."""
        if isinstance(self._raw, PipeStream):
            self._raw.split(self._cable.piece)

    # The stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._check_open()
        if self._running or self._cable.slow:
            await self._send_slowly(bytes(data))
        elif self._whole and self._cable.piece is None:
            try:
                await self._raw.send_all(data)
            except trio.ClosedResourceError:
                self._check_open()
                raise
            self._sent += len(data)
            self._check_cut()
        else:
            await self._write(memoryview(bytes(data)))

    async def wait_send_all_might_not_block(self) -> None:
        self._check_open()
        if self._running or self._cable.slow:
            await trio.lowlevel.checkpoint()
            await self._wait_room()
        else:
            await self._raw.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            self._check_open()
            if self._stops:
                await self._read_on.wait()
                continue
            # A reader that stops must not take what comes next: what it waits for is cancelled.
            with trio.CancelScope() as self._reading:
                try:
                    data = bytes(await self._raw.receive_some(max_bytes))
                except trio.ClosedResourceError:
                    self._check_open()
                    raise
                self._peer_closed = not data
                return data

    async def aclose(self) -> None:
        """Close it, after what is under way; one that is dead is closed with the exchange, so that no client hears."""
        self._close()
        if self._finished:
            await trio.aclose_forcefully(self._raw)
        else:
            await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        """Send what is under way, each when its time has come, until there is nothing. For `Cable.start()`."""
        try:
            with trio.CancelScope() as self._run:
                while self._under_way and not self._cut:  # it may have been cut before this task began
                    await self._wait_due()
                    piece = self._take()
                    if piece is not None:
                        await self._write(piece)
                        self._wrote, self._wrote_at = len(piece), trio.current_time()
                        self._waiting -= len(piece)
                        self._tell_less()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._cut = True  # the client is gone: its sender is told at its next send
        finally:
            self._running = False
            self._under_way.clear()
            self._tell_less()
            if self._closed:
                self._release()
                if self._finished:
                    await trio.aclose_forcefully(self._raw)

    def _take(self) -> memoryview | None:
        """What goes out at once of all that is under way; None for the end of the stream."""
        parcel = self._under_way.popleft()
        size = self._cable.pace()
        if parcel.data is None or size is None or len(parcel.data) <= size:
            return parcel.data
        self._under_way.appendleft(attrs.evolve(parcel, data=parcel.data[size:]))
        return parcel.data[:size]

    async def _wait_due(self) -> None:
        """Wait until what is first may leave: when it does changes with the cable."""
        while True:
            first = self._under_way[0]
            due = first.sent_at + self._cable.lateness(first.delays)
            if first.data is not None:
                due = max(due, self._wrote_at + self._cable.pause(self._wrote))
            if trio.current_time() >= due:
                return
            with trio.move_on_at(due):
                await self._cable.wait_change()

    async def _send_slowly(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        await self._wait_room()
        if data:
            self._waiting += len(data)
            self._put(memoryview(data))

    async def _wait_room(self) -> None:
        while self._waiting >= _WINDOW:
            await self._less.wait()
            self._check_open()

    def _put(self, data: memoryview | None) -> None:
        self._under_way.append(_Parcel(trio.current_time(), self._cable.draw_delays(), data))
        if not self._running:
            self._running = True
            self._cable.start(self)

    async def _write(self, data: memoryview) -> None:
        """Put *data* on the line: in pieces, with what is wrong with it."""
        if not data:
            await self._raw.send_all(b"")
        while data:
            if self._sent >= self._mute_at:
                self._sent += len(data)
                await trio.lowlevel.checkpoint()
                return
            size = len(data) if self._cable.piece is None or isinstance(self._raw, PipeStream) else self._cable.piece
            size = int(min(size, self._cut_at - self._sent, self._mute_at - self._sent))
            try:
                await self._raw.send_all(self._spoil(data[:size]))
            except trio.ClosedResourceError:
                self._check_open()
                raise
            self._sent += len(data[:size])
            data = data[size:]
            self._check_cut()

    def _spoil(self, data: memoryview) -> memoryview | bytearray:
        if not self._garbled:
            return data
        spoilt = bytearray(data)
        end = self._sent + len(data)
        here = [range(max(one.start, self._sent), min(one.stop, end)) for one in self._garbled]
        for place in {place for one in here for place in one}:  # once, also where several meet
            spoilt[place - self._sent] ^= 0xFF
        self._garbled = [one for one in self._garbled if one.stop > end]
        return spoilt

    def _check_cut(self) -> None:
        if self._sent >= self._cut_at:
            self._end()
            self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError
        if self._cut:
            raise trio.BrokenResourceError(_GONE)

    def _end(self) -> None:
        """It is cut."""
        if self._cut or self._is_dead:
            return
        self._cut = True
        self._run.cancel()
        if self._cut_how == "reset":
            reset(self._raw)
        else:
            finish(self._raw)
        self._wake_reader()
        self._tell_less()

    @property
    def _is_dead(self) -> bool:
        return self._sent >= self._mute_at

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._cut and (self._running or self._cable.slow):
            self._put(None)
        else:
            self._release()
        self._reading.cancel()
        self._wake_reader()
        self._tell_less()

    def _release(self) -> None:
        """Nothing is under way, and nothing will be."""
        self._cable.forget(self)
        if self._is_dead and not (self._cut or self._peer_closed):
            self._cable.bury(self._raw)
        else:
            finish(self._raw)
            self._finished = True

    def _wake_reader(self) -> None:
        self._read_on.set()
        self._read_on = trio.Event()

    def _tell_less(self) -> None:
        self._less.set()
        self._less = trio.Event()
