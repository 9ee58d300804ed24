"""Where connections arrive: requests go to the desk, and what becomes a WebSocket to its conversation."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import TYPE_CHECKING

import h11
import trio
import trio_websocket

from kufeed.testing import rest
from kufeed.testing.http import MARKETS, locate, next_request, send_reply
from kufeed.testing.limits import SlidingWindow
from kufeed.testing.premises import note_refusal
from kufeed.testing.records import Dial
from kufeed.testing.session import Session
from kufeed.testing.spoilt import send_spoilt
from kufeed.testing.streams import SharedStream

if TYPE_CHECKING:
    from kufeed.testing.cablestream import CableStream
    from kufeed.testing.conversation import Conversation
    from kufeed.testing.desk import Desk
    from kufeed.testing.gate import Gate
    from kufeed.testing.http import Where
    from kufeed.testing.premises import Premises
    from kufeed.testing.tokens import TokenOffice

_IDLE_HTTP = 75.0  # seconds an HTTP connection may wait for its next request
_HANDSHAKE = 10.0  # seconds for the WebSocket upgrade
_DIALS_KEPT = 10_000


class Reception:
    """Serves connections, and knows those that are WebSockets. *buffer* bounds what waits for each of them."""

    def __init__(
        self,
        premises: Premises,
        gate: Gate,
        desk: Desk,
        conversation: Conversation,
        tokens: TokenOffice,
        *,
        seed: int,
        buffer: int,
    ) -> None:
        self._premises = premises
        self._gate = gate
        self._desk = desk
        self._conversation = conversation
        self._tokens = tokens
        self._buffer = buffer
        self._rng = random.Random(f"{seed}:exchange")
        self._windows = {market: SlidingWindow(premises.limits.dials_per_minute, 60.0) for market in MARKETS}
        self._dropped = 0
        self.sessions: dict[Session, None] = {}
        """Those that are open, oldest first."""
        self.dials: deque[Dial] = deque(maxlen=_DIALS_KEPT)
        """The newest ones, oldest first."""
        self.dial_count = 0
        self.refused_count = 0

    @property
    def dropped(self) -> int:
        """How many pushes found no room, on all connections that there were."""
        return self._dropped + sum(session.dropped for session in self.sessions)

    async def serve(self, line: CableStream, stream: trio.abc.Stream, host: str, server: int) -> None:
        """Serve *stream*, which runs through *line*, until it ends; see `Exchange.serve_stream()`."""
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
                if server in self._premises.faults.dead_servers:
                    return
                refusal, token = self._judge_dial(where, headers, server)
                if refusal is None and where is not None:
                    await self._serve_websocket(line, stream, bytes(raw), where, token, server)
                else:
                    await send_reply(connection, stream, refusal or rest.Reply(404, ""), close=True)
                return
            secure = isinstance(stream, trio.SSLStream)
            reply = self._desk.answer(request.method.decode(), where, headers, secure=secure)
            if reply.delay:
                await trio.sleep(reply.delay)
            if self._premises.faults.reply_bodies is None:
                await send_reply(connection, stream, reply)
            elif not await send_spoilt(connection, stream, reply, lambda: self._premises.faults.reply_bodies):
                return
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            raw = bytearray(connection.trailing_data[0])
            connection.start_next_cycle()

    def _judge_dial(self, where: Where | None, headers: dict[str, str], server: int) -> tuple[rest.Reply | None, str]:
        """None and the token where the upgrade may go on, else the HTTP refusal."""
        if where is None:
            return rest.failure("404000", "Url Not Found", status=404), ""
        now, faults = trio.current_time(), self._premises.faults
        token = where.query.get("token", "")
        refusal: rest.Reply | None = None
        limit = self._premises.limits.connections
        error = faults.upgrade_error or faults.shut
        if error is not None:
            refusal = rest.refusal(error, faults.upgrade_retry_after or faults.retry_after)
        elif not self._windows[where.market].admit(now, faults.dials_per_minute) or (
            limit is not None and sum(session.market == where.market for session in self.sessions) >= limit
        ):
            refusal = rest.failure("429000", "Too Many Requests", status=429)
            note_refusal(self._premises, "dials", where.market, "a connection was dialled")
        elif headers.get("sec-websocket-version") != "13" or not headers.get("sec-websocket-key"):
            refusal = rest.failure("400000", "Bad Request", status=400)
        elif self._tokens.judge(token, where.market, now) == "unknown":
            refusal = rest.failure("401000", "Unauthorized", status=401)
        self.dials.append(Dial(now, where.market, 101 if refusal is None else refusal.status, server))
        self.dial_count += 1
        self.refused_count += refusal is not None
        return refusal, token

    async def _serve_websocket(
        self, line: CableStream, stream: trio.abc.Stream, raw: bytes, where: Where, token: str, server: int
    ) -> None:
        shared = SharedStream(stream, raw)
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(_HANDSHAKE) as handshake:
                request = await trio_websocket.wrap_server_stream(nursery, shared)
                websocket = await request.accept()
            if not (handshake.cancelled_caught or server in self._premises.faults.dead_servers):
                ends_at = self._tokens.end(token)
                session = Session(
                    websocket,
                    shared,
                    line,
                    market=where.market,
                    server=server,
                    token=token,
                    connect_id=where.query.get("connectId") or f"{self._rng.getrandbits(50):x}",
                    limits=self._premises.limits,
                    lag=self._premises.faults.lag.get(server, 0.0),
                    buffer=self._buffer,
                    # Who comes too late is told so, and not cut.
                    ends_at=ends_at if ends_at > trio.current_time() else math.inf,
                )
                await self._run_session(session, websocket)
            nursery.cancel_scope.cancel()

    async def _run_session(self, session: Session, websocket: trio_websocket.WebSocketConnection) -> None:
        self.sessions[session] = None
        if self._premises.truth is not None:
            self._premises.truth.opened(session)
        try:
            with session.scope:
                async with trio.open_nursery() as nursery:
                    session.nursery = nursery
                    nursery.start_soon(session.run_sender, self._gate)
                    nursery.start_soon(session.run_watch)
                    await self._conversation.run(session, websocket)
                    session.cut()  # it is not open any more from now on, whatever has yet to end
        finally:
            self._conversation.end(session)
            del self.sessions[session]
            if self._premises.truth is not None:
                self._premises.truth.ended(session)
            self._dropped += session.dropped
            session.end()
