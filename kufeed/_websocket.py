"""trio-websocket over the frame tap: one WebSocket whose text messages arrive in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio_websocket
import wsproto.utilities

from ._supervisor import one_error
from .errors import DialError, LinkClosed, LinkError, ProtocolViolation, TokenExpired
from .protocol.frames import FrameParser, Violation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_READ_SIZE = 65_536
"""Bytes asked of the network at once; a batch is what one read brought."""
_CLOSE_FRAME = 0x88


class FrameTap(trio.abc.Stream):
    """Between the network and trio-websocket: takes text messages out and hands them to *deliver*, batch by batch.

    `ended` is set when nothing more will come, whoever the cause: EOF, a broken connection, or our own close. After a
    violation nothing more is delivered or passed on, but the connection is read to its end.
    """

    def __init__(
        self, stream: trio.abc.Stream, deliver: Callable[[Sequence[bytes]], Awaitable[None]], max_message_size: int
    ) -> None:
        self.ended = trio.Event()
        self.violated = trio.Event()
        self.violation: Violation | None = None
        self.error: BaseException | None = None
        self._stream = stream
        self._deliver = deliver
        self._parser = FrameParser(max_message_size)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        parser = self._parser
        while not parser.passed:
            try:
                data = await self._stream.receive_some(_READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.error = error.__cause__ or error
                self.ended.set()
                raise
            if not data:
                self.ended.set()
                return b""
            try:
                parser.feed(bytes(data))
            except Violation as violation:
                self.violation = violation
                self.violated.set()
            if parser.texts:
                texts = parser.texts
                parser.texts = []
                await self._deliver(texts)
        passed = bytes(parser.passed[:max_bytes])
        del parser.passed[:max_bytes]
        return passed

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        # trio-websocket writes one event at a time: a close frame is at the start, or not there.
        if data and data[0] == _CLOSE_FRAME:
            self._parser.stop()
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.ended.set()
        await self._stream.aclose()


class WebSocket:
    """One open WebSocket, as `run_websocket()` hands it out. Only the task that runs it owns its end."""

    def __init__(self, inner: trio_websocket.WebSocketConnection, tap: FrameTap) -> None:
        self._inner = inner
        self._tap = tap

    async def send(self, text: str) -> None:
        """Send a text message; returns when the network has taken it. `LinkError` where the connection has ended."""
        try:
            await self._inner.send_message(text)
        except trio_websocket.ConnectionClosed:
            raise self.end() from None

    async def wait_violated(self) -> None:
        """Return once the peer has broken the protocol; `end()` says how."""
        await self._tap.violated.wait()

    async def aclose(self) -> None:
        """The close handshake, with the code a violation asks for. Waits for the peer: bound it by a deadline."""
        violation = self._tap.violation
        await self._inner.aclose(1000 if violation is None else violation.code)

    def end(self) -> LinkError:
        """Why the connection is over."""
        violation, reason = self._tap.violation, self._inner.closed
        if violation is not None:
            return ProtocolViolation(violation.code, str(violation))
        code, text = (1006, None) if reason is None else (reason.code, reason.reason)
        if code == 1006 and self._tap.error is not None:
            text = str(self._tap.error) or type(self._tap.error).__name__
        return LinkClosed(code, text)


async def run_websocket(
    stream: trio.abc.Stream,
    *,
    host: str,
    target: str,
    deliver: Callable[[Sequence[bytes]], Awaitable[None]],
    max_message_size: int,
    task_status: trio.TaskStatus[WebSocket],
) -> LinkError:
    """Upgrade *stream*, report the `WebSocket`, and read until the connection is over; returns why it is over.

    Each batch of messages goes through `await deliver(payloads)` in the reading task, so a *deliver* that waits holds
    the link. Raises `DialError("upgrade", …)`, or `TokenExpired` for a 401, before it has started. The stream is closed
    in any case.
    """
    tap = FrameTap(stream, deliver, max_message_size)
    try:
        with one_error() as body:
            async with trio.open_nursery() as nursery:
                with body.watched():
                    upgraded = trio.Event()
                    nursery.start_soon(_fail_unless_upgraded, tap, upgraded, name="upgrade guard")
                    connection = await trio_websocket.wrap_client_stream(
                        nursery,
                        tap,  # type: ignore[arg-type]  # it takes any stream; its annotation names two
                        host,
                        target,
                        max_message_size=max_message_size,
                    )
                    upgraded.set()
                    nursery.start_soon(_drain_binary, connection, deliver, name="binary messages")
                    websocket = WebSocket(connection, tap)
                    task_status.started(websocket)
    except trio_websocket.ConnectionRejected as rejection:
        if rejection.status_code == 401:
            raise TokenExpired("HTTP 401 at the handshake") from None
        raise DialError("upgrade", f"the server answered HTTP {rejection.status_code}") from None
    except wsproto.utilities.ProtocolError as error:
        # What the tap let through and wsproto does not: the link's end, not ours.
        return ProtocolViolation(1002, str(error))
    finally:
        await trio.aclose_forcefully(stream)
    return websocket.end()


async def _fail_unless_upgraded(tap: FrameTap, upgraded: trio.Event) -> None:
    """trio-websocket waits for an upgrade answer on a connection that has ended already."""
    await tap.ended.wait()
    if not upgraded.is_set():
        raise DialError("upgrade", tap.error or "the connection ended before the upgrade") from tap.error


async def _drain_binary(
    connection: trio_websocket.WebSocketConnection, deliver: Callable[[Sequence[bytes]], Awaitable[None]]
) -> None:
    """Binary messages come through trio-websocket; three unread ones would stop its reader, and with it the pongs."""
    while True:
        try:
            message = await connection.get_message()
        except trio_websocket.ConnectionClosed:
            return
        await deliver([message.encode() if isinstance(message, str) else message])
