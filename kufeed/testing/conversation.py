"""What is said on a WebSocket connection, beside pushes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
import trio_websocket

from kufeed.testing import complaints, wire
from kufeed.testing.limits import SlidingWindow
from kufeed.testing.premises import note_refusal

if TYPE_CHECKING:
    from kufeed.testing.gate import Gate
    from kufeed.testing.market import MarketName
    from kufeed.testing.premises import Premises
    from kufeed.testing.publisher import Publisher
    from kufeed.testing.pulse import Pulse
    from kufeed.testing.session import Session
    from kufeed.testing.tokens import TokenOffice

DROP_AFTER_509 = 0.07  # seconds; ISS cryptofeed 838 saw the connection dropped about 70 ms after the error


class Conversation:
    """How every client is talked to. With *partial* one bad symbol is refused alone, not its whole frame."""

    def __init__(
        self,
        premises: Premises,
        gate: Gate,
        publisher: Publisher,
        pulse: Pulse,
        tokens: TokenOffice,
        *,
        any_symbol: bool,
        partial: bool,
    ) -> None:
        self._premises = premises
        self._gate = gate
        self._publisher = publisher
        self._pulse = pulse
        self._tokens = tokens
        self._partial = partial
        self._last_requests: dict[MarketName, str] = {}  # the id of the newest one of a connection that has ended
        self.any_symbol = any_symbol
        """Whether a symbol that the market does not have may be subscribed."""

    async def run(self, session: Session, websocket: trio_websocket.WebSocketConnection) -> None:
        """Answer the client's frames until it has closed the connection, or is cut for its fault."""
        faults, limits = self._premises.faults, self._premises.limits
        expired = self._tokens.judge(session.token, session.market, trio.current_time()) == "expired"
        if expired:
            session.reply(complaints.expired_token())
        elif not faults.withhold_welcome:
            session.reply(wire.welcome(session.connect_id), after=faults.late_welcome)
        window = SlidingWindow(limits.messages_per_10s, 10.0)
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
            if not window.admit(trio.current_time(), faults.messages_per_10s):
                note_refusal(self._premises, "frames", session.market, f"a frame was sent: {text:.100}")
                session.reply(complaints.too_many_frames(session.connect_id))
                await trio.sleep(DROP_AFTER_509)
                session.cut()
                return
            # A client that asks without reading gets no unbounded heap of answers.
            await session.wait_room()
            self._handle(session, wire.parse_client_frame(text))

    def end(self, session: Session) -> None:
        """*session* has ended: it holds nothing any more."""
        for name in session.topics:
            self._publisher.leave(session, name)
        if session.last_request is not None:
            self._last_requests[session.market] = session.last_request

    def _handle(self, session: Session, frame: dict[str, Any] | None) -> None:
        if frame is None:
            session.reply(complaints.no_such_type())
            return
        request_id = None if frame.get("id") is None else str(frame["id"])
        match frame.get("type"):
            case "ping":
                session.note_ping()
                self._pong(session, request_id)
            case "subscribe":
                self.subscribe(session, request_id, str(frame.get("topic", "")), ack=frame.get("response") is True)
            case "unsubscribe":
                self._unsubscribe(session, request_id, str(frame.get("topic", "")), ack=frame.get("response") is True)
            case _:
                session.reply(complaints.no_such_type(request_id))

    def subscribe(self, session: Session, request_id: str | None, text: str, *, ack: bool) -> None:
        """Take a subscribe for the topics *text*: all of it, what is good of it, or nothing."""
        prefix, arguments = wire.split_topic(text)
        arguments = list(dict.fromkeys(arguments))
        limits = self._premises.limits
        if limits.symbols_per_frame is not None and len(arguments) > limits.symbols_per_frame:
            session.reply(complaints.too_many_symbols(limits.symbols_per_frame, request_id))
            note_refusal(self._premises, "symbols", session.market, f"{len(arguments)} symbols were in one frame")
            return
        channel = wire.CHANNELS.get((session.market, prefix))
        good: list[wire.ActiveTopic] = []
        bad: list[str] = []
        for argument in arguments:
            topic = channel and argument and channel.find(self._premises.model, argument, any_symbol=self.any_symbol)
            if topic:
                good.append(topic)
            else:
                bad.append(f"{prefix}:{argument}" if ":" in text else text)
        if bad and not self._partial:
            session.reply(complaints.no_such_topic(bad[0], request_id))
            return
        most = limits.topics(session.market)
        new = [topic for topic in good if topic.name not in session.held]
        count = len(session.held) + len(new)
        if most is not None and count > most:
            session.reply(complaints.too_many_topics(most, request_id))
            note_refusal(self._premises, "topics", session.market, f"{count} topics were asked for")
            return
        for name in bad:
            session.reply(complaints.no_such_topic(name, request_id))
        answered = bool(good)
        for topic in new:
            if self._premises.faults.ignores(topic.name, topic.symbol):
                answered = False
                continue
            if topic.model is not None:
                self._pulse.catch_up(topic.model)
            self._publisher.join(session, topic)
        if ack and answered:
            self._acknowledge(session, request_id)

    def _unsubscribe(self, session: Session, request_id: str | None, text: str, *, ack: bool) -> None:
        prefix, arguments = wire.split_topic(text)
        for argument in arguments:
            name = f"{prefix}:{argument}"
            if name in session.held:
                self._publisher.leave(session, name)
        if ack:
            self._acknowledge(session, request_id)

    def _pong(self, session: Session, request_id: str | None) -> None:
        faults = self._premises.faults
        if faults.withhold_pongs:
            return
        text = wire.answer("pong", f"not-{request_id}" if faults.wrong_pongs else request_id)
        for _ in range(2 if faults.pong_twice else 1):
            session.reply(text, after=faults.late_pongs)

    def _acknowledge(self, session: Session, request_id: str | None) -> None:
        faults = self._premises.faults
        session.last_request = request_id
        if faults.old_acks:
            request_id = self._last_requests.get(session.market)
        if faults.withhold_acks or (faults.old_acks and request_id is None):
            return
        text = wire.answer("ack", f"not-{request_id}" if faults.wrong_acks else request_id)
        for _ in range(2 if faults.ack_twice else 1):
            session.reply(text, after=faults.late_acks)
