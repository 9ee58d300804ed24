"""The frame tap's parser: takes messages out of a server's frames, in batches, and passes pings and the close on.

Pure: the bytes after the upgrade in; payloads of messages, and the frames another parser (trio-websocket's) is to see,
out. Messages are taken in order, text and binary, single frames and fragment chains; so whether one is open is known
here alone, and an illegal mixture is noticed here (RFC 6455, section 5.4). Nothing is taken once either side has
closed. What is illegal is refused without waiting for more.
"""

from __future__ import annotations

import codecs

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_CONTROL = 0x8  # the bit that tells the last three from the others
_WHOLE_TEXT = 0x81  # the first byte of a text message in a single frame
_CLOSE_CODES = {1000, 1001, 1002, 1003, *range(1007, 1014), *range(3000, 5000)}
"""What a peer may send (RFC 6455, section 7.4, and what was registered since, as far as the other parser knows it)."""


class Violation(Exception):  # a fact about the peer, not an error of this module
    """The peer broke the protocol; `code` is the close code it deserves (1002, 1007, 1009)."""

    def __init__(self, code: int, problem: str) -> None:
        super().__init__(problem)
        self.code = code


class FrameParser:
    """Feed bytes, then collect `messages` (payloads, in order), and `pings` and `close_frame` for the other parser.

    The peer's close frame came after all else. Pongs are dropped: nobody here sends pings that they would answer.

    A `Violation` is raised once, by the `feed()` that meets it; what was valid before it stands in `messages` and
    `pings`. From then on, and after the peer's close frame, everything fed is dropped.
    """

    def __init__(self, max_message_size: int) -> None:
        self.messages: list[bytes] = []
        self.pings = bytearray()
        """Whole ping frames, one after the other; `next_ping()` takes one."""
        self.close_frame = b""
        self.closed = False
        """The peer has sent a close frame."""
        self._max_message_size = max_message_size
        # The start of a frame that is incomplete, and how many bytes it takes to go on with it. Of a text the body is
        # checked as it comes: how many bytes of it have been, and whether all that is wanted now is its body.
        self._rest = bytearray()
        self._wanted = 0
        self._checked = 0
        self._in_text = False
        self._taking = True
        self._ended = False
        # The fragmented message that is open: opcode, what has come, and of a text the state of its encoding.
        self._open: int | None = None
        self._parts = bytearray()
        self._utf8 = codecs.getincrementaldecoder("utf-8")()

    def stop(self) -> None:
        """This side closes: no message is taken any more and no ping passed, also of those that were here already.

        The peer's close frame still passes, for it may be the answer to ours.
        """
        self._taking = False
        self.pings.clear()

    def next_ping(self) -> bytes:
        """The first of `pings`, taken out."""
        size = 2 + self.pings[1]
        ping = bytes(self.pings[:size])
        del self.pings[:size]
        return ping

    def feed(self, data: bytes) -> None:
        """Take *data* in. Costs time in proportion to its length, however it is cut."""
        if self._ended:
            return
        try:
            if self._rest:
                self._rest += data
                if len(self._rest) < self._wanted:
                    if self._in_text:
                        self._check_start(data)
                    return
                data = bytes(self._rest)
                self._rest.clear()
            used = self._take_frames(data)
            if not self._ended:
                self._rest += data[used:]
        except Violation:
            self._ended = True
            raise

    def _take_frames(self, data: bytes) -> int:
        """Consume whole frames; returns where the first incomplete one begins."""
        position = 0
        messages, total, limit = self.messages, len(data), self._max_message_size
        checked, self._checked, self._in_text = self._checked, 0, False
        while True:
            left = total - position
            if left < 2:
                self._wanted = 2
                return position
            first, length = data[position], data[position + 1]
            header = 2
            if length >= 126:
                header = 4 if length == 126 else 10
                if length > 127:
                    raise Violation(1002, "a server's frame was masked")
                if left < header:
                    self._check_opcode(first, length)
                    self._wanted = header
                    return position
                size_bytes = header - 2
                length = int.from_bytes(data[position + 2 : position + header], "big")
                if length < 126 or (size_bytes == 8 and not 2**16 <= length < 2**63):
                    raise Violation(1002, "a frame's length was not in its shortest form")
            start = position + header
            end = start + length
            if first == _WHOLE_TEXT and self._open is None:
                if length > limit:
                    raise Violation(1009, f"a message of {length} bytes; the limit is {limit}")
                if end > total:
                    self._wanted = end - position
                    self._in_text = True
                    self._check_start(data[start:])
                    return position
                payload = data[start:end]
                if not payload.isascii():
                    self._check_utf8(payload[checked:], final=True)
                if self._taking:
                    messages.append(payload)
            else:
                self._check_opcode(first, length)
                if not first & _CONTROL and length > limit - len(self._parts):
                    raise Violation(1009, f"a message of more than {limit} bytes")
                if end > total:
                    self._wanted = end - position
                    if self._message_of(first & 0x0F) == _TEXT:
                        self._in_text = True
                        self._check_start(data[start:])
                    return position
                self._take_other(first, data[position:end], header, checked)
                if self._ended:
                    return end
            position = end
            checked = 0

    def _check_opcode(self, first: int, length: int) -> None:
        """What is wrong with a frame can be said from its head; nobody waits for the body of an illegal one.

        *length* may be the mark of a longer one, whose bytes are still to come.
        """
        if first & 0x70:
            raise Violation(1002, "a reserved bit was set, and no extension was agreed on")
        opcode, final = first & 0x0F, first & 0x80
        if opcode in (_CLOSE, _PING, _PONG):
            if length > 125 or not final:
                raise Violation(1002, "a control frame was fragmented or longer than 125 bytes")
        elif opcode == _CONTINUATION:
            if self._open is None:
                raise Violation(1002, "a continuation of no message")
        elif opcode not in (_TEXT, _BINARY):
            raise Violation(1002, f"unknown opcode {opcode:#x}")
        elif self._open is not None:
            raise Violation(1002, "a new message inside a fragmented one")

    def _message_of(self, opcode: int) -> int | None:
        """The opcode of the message that a frame belongs to; a control frame's own."""
        return self._open if opcode == _CONTINUATION else opcode

    def _take_other(self, first: int, frame: bytes, header: int, checked: int) -> None:
        opcode, final = first & 0x0F, bool(first & 0x80)
        if opcode == _CLOSE:
            self._check_close(frame[header:])
            self.close_frame = frame
            self._ended = self.closed = True
            return
        if opcode & _CONTROL:
            if opcode == _PING and self._taking:
                self.pings += frame
            return
        message = self._message_of(opcode)
        if message == _TEXT:
            self._check_utf8(frame[header + checked :], final=final)
        self._open = None if final else message
        self._parts += frame[header:]
        if final:
            if self._taking:
                self.messages.append(bytes(self._parts))
            self._parts.clear()

    def _check_close(self, body: bytes) -> None:
        # Of an illegal one the other parser would tell nobody, and wait for the end of the connection.
        if body and int.from_bytes(body[:2], "big") not in _CLOSE_CODES:
            raise Violation(1002, "a close frame without a valid code")
        try:
            body[2:].decode()
        except UnicodeDecodeError:
            raise Violation(1007, "the reason of a close frame was not UTF-8") from None

    def _check_start(self, part: bytes) -> None:
        self._check_utf8(part, final=False)
        self._checked += len(part)

    def _check_utf8(self, part: bytes, *, final: bool) -> None:
        try:
            self._utf8.decode(part, final)
        except UnicodeDecodeError:
            raise Violation(1007, "a text message was not UTF-8") from None
