"""trio-websocket over the frame tap: one WebSocket whose messages arrive in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
import trio
import trio_websocket

from ._supervisor import one_error
from ._untrusted import http_problem, printable
from .errors import DialError, LinkClosed, LinkError, ProtocolViolation, TokenExpired
from .protocol import rest
from .protocol.frames import FrameParser, Violation
from .protocol.upgrade import Refusal, UpgradeAnswer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

_READ_SIZE = 65_536
"""Bytes asked of the network at once."""
_LONGEST_BATCH = 1000
"""Messages delivered without a pause. No ordinary read brings so many: then a batch is what one read brought."""
_CLOSE_FRAME = 0x88


class FrameTap(trio.abc.Stream):
    """Between the network and trio-websocket: takes messages out and hands them to *deliver*, batch by batch.

    Until the upgrade is answered trio-websocket sees nothing, and of a refusal it sees nothing at all.
    `ended` is set when nothing more will come, whoever the cause: EOF, a broken connection, or our own close. After a
    violation nothing more is delivered or passed on, and once the peer has been told of it the connection is closed.
    """

    def __init__(
        self, stream: trio.abc.Stream, deliver: Callable[[Sequence[bytes]], Awaitable[None]], max_message_size: int
    ) -> None:
        self.ended = trio.Event()
        self.over = trio.Event()
        """Set when the peer broke the protocol, or both sides have sent their close frame. EOF may come much later."""
        self.violation: Violation | None = None
        self.error: BaseException | None = None
        self.failed_delivery: BaseException | None = None
        """An exception of *deliver*, where raising it is not enough."""
        self.refusal: Refusal | None = None
        """What came instead of an upgrade; `ended` is set with it."""
        self._stream = stream
        self._deliver = deliver
        self._answer: UpgradeAnswer | None = UpgradeAnswer()
        self._parser = FrameParser(max_message_size)
        self._close_sent = False
        self._passing = bytearray()  # what trio-websocket gets next: the head, a ping or the close frame

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        # Pings go first, so that no pong waits for those who get messages; a violation or a close frame comes last, as
        # it did on the wire: what came before is delivered while the connection is open. A ping goes alone, for we may
        # begin to close before the next: wsproto raises where it is to answer one after that.
        parser, passing = self._parser, self._passing
        if passing or parser.pings or parser.close_frame:
            await trio.lowlevel.checkpoint()  # it came with an earlier read, perhaps with thousands more
        while not passing:
            if parser.pings:
                passing += parser.next_ping()
            elif parser.messages:
                batch, parser.messages = parser.messages[:_LONGEST_BATCH], parser.messages[_LONGEST_BATCH:]
                await self._hand_over(batch)
                if parser.messages:
                    await trio.lowlevel.checkpoint()
            elif self.violation is not None and not self.over.is_set():
                self.over.set()
            elif parser.close_frame:
                passing += parser.close_frame
                parser.close_frame = b""
            elif not await self._read():
                return b""
        passed = bytes(passing[:max_bytes])
        del passing[:max_bytes]
        return passed

    async def _hand_over(self, batch: Sequence[bytes]) -> None:
        try:
            await self._deliver(batch)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # trio-websocket would take it for a dead connection. All other errors come out as they are.
            self.failed_delivery = error
            self.ended.set()
            raise

    async def _read(self) -> bool:
        """Feed the parser what one read brings; false at the end."""
        try:
            data = await self._stream.receive_some(_READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.error = error.__cause__ or error
            self.ended.set()
            raise
        if not data:
            self.ended.set()
            return False
        try:
            self._feed(bytes(data))
        except Refusal as refusal:
            self.refusal = refusal
            self.ended.set()
            return False
        except Violation as violation:
            self.violation = violation
            return not self._close_sent  # else no answer will be found in what follows
        return True

    def _feed(self, data: bytes) -> None:
        if self._answer is not None:
            rest = self._answer.feed(data)
            if rest is None:
                return
            self._passing += self._answer.head
            self._answer, data = None, rest
        self._parser.feed(data)

    def stop(self) -> None:
        """We are about to close: no message is taken any more, and no ping answered.

        To be called before trio-websocket is told to, which counts itself as closing before its close frame has left.
        """
        self._parser.stop()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.error = self.error or error.__cause__ or error
            self.ended.set()
            raise
        # trio-websocket writes one event at a time: a close frame is at the start, or not there.
        if data and data[0] == _CLOSE_FRAME:
            self._close_sent = True
            if self._parser.closed:
                self.over.set()
            elif self.violation is not None:
                await self.aclose()  # nothing that comes can be trusted, an answer neither (RFC 6455, section 7.1.7)

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

    async def wait_over(self) -> None:
        """Return once the peer has broken the protocol or closed, and its close was answered; `end()` says which."""
        await self._tap.over.wait()

    async def aclose(self) -> None:
        """The close handshake, with the code a violation asks for. Waits for the peer: bound it by a deadline.

        After a violation only for the close frame to leave.
        """
        violation = self._tap.violation
        self._tap.stop()
        await self._inner.aclose(1000 if violation is None else violation.code)

    def end(self) -> LinkError:
        """Why the connection is over."""
        violation, reason = self._tap.violation, self._inner.closed
        if violation is not None:
            return ProtocolViolation(violation.code, str(violation))
        code, text = (1006, None) if reason is None else (reason.code, reason.reason)
        if code == 1006 and self._tap.error is not None:
            text = str(self._tap.error) or type(self._tap.error).__name__
        return LinkClosed(code, None if text is None else printable(text))


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
    the link, and what it raises comes out as itself. Raises `DialError("upgrade", …)`, or `TokenExpired` for a 401,
    before it has started. The stream is closed in any case.
    """
    tap = FrameTap(stream, deliver, max_message_size)
    websocket: WebSocket | None = None
    problem: str | None = None
    try:
        with one_error() as body:
            async with trio.open_nursery() as nursery:
                with body.watched():
                    # trio-websocket waits for an upgrade on a connection that has ended already.
                    upgraded = trio.Event()
                    nursery.start_soon(
                        _cancel_unless_upgraded, tap, upgraded, nursery.cancel_scope, name="upgrade guard"
                    )
                    # It takes any stream; its annotation names two.
                    connection = await trio_websocket.wrap_client_stream(nursery, tap, host, target)  # type: ignore[arg-type]
                    upgraded.set()
                    websocket = WebSocket(connection, tap)
                    task_status.started(websocket)
    except (h11.ProtocolError, UnicodeError) as error:
        if websocket is not None:
            raise  # not of the answer's head, which trio-websocket leaves to whoever waits for it: a bug of ours
        problem = http_problem(_first(error))
    finally:
        await trio.aclose_forcefully(stream)
    if tap.failed_delivery is not None:
        raise tap.failed_delivery
    if websocket is None:
        if tap.error is not None:
            tap.error.with_traceback(None)  # the values in its frames are those of the request, and so of the token
        raise _upgrade_failure(tap, problem) from tap.error
    return websocket.end()


async def _cancel_unless_upgraded(tap: FrameTap, upgraded: trio.Event, scope: trio.CancelScope) -> None:
    await tap.ended.wait()
    if not upgraded.is_set():
        scope.cancel()


def _upgrade_failure(tap: FrameTap, problem: str | None) -> LinkError:
    refusal = tap.refusal
    if refusal is None:
        return DialError("upgrade", tap.error or problem or "the connection ended before the upgrade")
    if refusal.status == 401:
        return TokenExpired("HTTP 401 at the handshake")
    wait = None if refusal.status is None else rest.retry_after(refusal.status, refusal.headers)
    return DialError("upgrade", refusal, retry_after=wait)


def _first(error: BaseException) -> BaseException:
    """The error that others were raised while handling."""
    while error.__context__ is not None:
        error = error.__context__
    return error
