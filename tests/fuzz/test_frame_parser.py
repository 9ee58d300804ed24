"""The frame tap's parser against damaged streams, held to a slow reference and to wsproto.

The long run is `pytest -m long tests/fuzz`; see docs/conformance.rst. A failure names its seed and its stream.
"""

from __future__ import annotations

import codecs
import random

import attrs
import pytest
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from kufeed.protocol.frames import FrameParser, Violation

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
SHORT, LONG = 300_000, 10_000_000
LONGEST_HEAD = 10
AFTERWARDS = b"\x81\x05after\x89\x00\x01\x00\x80\x05after\x82\x05after\x88\x00"


@attrs.define
class Outcome:
    """What becomes of a stream."""

    messages: list[bytes] = attrs.field(factory=list)
    pings: bytes = b""
    close_frame: bytes = b""
    code: int | None = None
    """Of the violation, where there was one."""
    read: int = attrs.field(default=0, eq=False)
    """How many bytes it took to know."""


@pytest.mark.parametrize("seed", range(3))
def test_damaged_streams_are_read_as_by_the_references(seed: int) -> None:
    fuzz(seed, SHORT)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 110))
def test_a_hundred_million_bytes_of_damaged_streams_are_read_as_by_the_references(seed: int) -> None:
    fuzz(seed, LONG)


def fuzz(seed: int, budget: int) -> None:
    """Read damaged streams, each uncut, cut at random, and, where it is short, bytewise.

    Goes on until *budget* bytes were read; what follows a close frame or a violation does not count, nor a second way.
    """
    rng = random.Random(seed)
    fuzzed = 0
    while fuzzed < budget:
        data = damaged(rng)
        limit = rng.choice([0, 10, 126, 1_000, 2**16, *[2**20] * 5, *[2**63] * 5])
        expected = slowly(data, limit)
        fuzzed += expected.read
        for pieces in ways_to_cut(rng, data):
            found = read(pieces, limit)
            assert found == expected, f"seed {seed}, limit {limit}, in {len(pieces)} pieces: {data!r}"
        assert_wsproto_agrees(data, expected)


# -- reading ----------------------------------------------------------------------------------------------------------


def read(pieces: list[bytes], limit: int) -> Outcome:
    """By the parser under test: no exception but a violation, no more kept than a message may have, an end that is."""
    parser = FrameParser(limit)
    outcome = Outcome()
    for piece in pieces:
        try:
            parser.feed(piece)
        except Violation as violation:
            assert outcome.code is None, "raised twice"
            outcome.code = violation.code
        assert len(parser._rest) + len(parser._parts) <= limit + LONGEST_HEAD + 125
    outcome.messages, outcome.pings = list(parser.messages), bytes(parser.pings)
    outcome.close_frame = parser.close_frame
    if outcome.code is not None or outcome.close_frame:
        parser.feed(AFTERWARDS)
        assert parser.messages == outcome.messages
        assert bytes(parser.pings) == outcome.pings
    return outcome


def slowly(data: bytes, limit: int) -> Outcome:
    """The rules of RFC 6455, frame by frame over a whole stream: slow, and without any memory of where it was cut."""
    outcome = Outcome()
    message: int | None = None
    decoder = codecs.getincrementaldecoder("utf-8")()
    parts = b""
    while len(data) >= 2:
        opcode, final = data[0] & 0x0F, data[0] >= 0x80
        extended = {126: 2, 127: 8}.get(data[1] & 0x7F, 0)
        head_is_whole = len(data) >= 2 + extended
        length = data[1] & 0x7F  # with its head incomplete, of a control frame already too long
        if extended and head_is_whole:
            length = int.from_bytes(data[2 : 2 + extended], "big")
        control, begins = opcode in (CLOSE, PING, PONG), opcode in (TEXT, BINARY)
        if (
            data[1] >= 0x80
            or data[0] & 0x70
            or not (control or begins or opcode == CONTINUATION)
            or (control and (length > 125 or not final))
            or (begins and message is not None)
            or (opcode == CONTINUATION and message is None)
            or (extended and head_is_whole and not (126 if extended == 2 else 2**16) <= length < 2**63)
        ):
            outcome.code = 1002
            return outcome
        if head_is_whole and not control and length + len(parts) > limit:
            outcome.code = 1009
            return outcome
        frame = data[: 2 + extended + length]
        outcome.read += len(frame)
        body = frame[2 + extended :]
        whole = head_is_whole and len(body) == length
        kind = opcode if control or begins else message
        if kind == TEXT and head_is_whole:
            try:
                decoder.decode(body, final and whole)
            except UnicodeDecodeError:
                outcome.code = 1007
                return outcome
        if not whole:
            return outcome
        data = data[len(frame) :]
        if opcode == CLOSE:
            outcome.code = close_code(body)
            if outcome.code is None:
                outcome.close_frame = frame
            return outcome
        if control:
            outcome.pings += frame if opcode == PING else b""
            continue
        parts += body
        message = None if final else kind
        if final:
            outcome.messages.append(parts)
            parts = b""
    return outcome


def close_code(body: bytes) -> int | None:
    """What a close frame with this body deserves."""
    code = int.from_bytes(body[:2], "big")
    if len(body) == 1 or (
        body and not (code in (1000, 1001, 1002, 1003) or 1007 <= code <= 1013 or 3000 <= code < 5000)
    ):
        return 1002
    try:
        body[2:].decode()
    except UnicodeDecodeError:
        return 1007
    return None


def assert_wsproto_agrees(data: bytes, outcome: Outcome) -> None:
    """An implementation that nobody here has written. It has no limit, and waits for whole heads."""
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(data)
    messages, parts, code = [], b"", None
    try:
        for frame in protocol.received_frames():
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                parts += frame.payload.encode() if isinstance(frame.payload, str) else bytes(frame.payload)
                if frame.message_finished:
                    messages.append(parts)
                    parts = b""
    except ParseFailed as problem:
        code = int(problem.code)
    if outcome.code == 1009:
        assert messages[: len(outcome.messages)] == outcome.messages
    else:
        assert messages == outcome.messages
        assert code in (outcome.code, None)


# -- streams ----------------------------------------------------------------------------------------------------------

INTERESTING = [
    0x00,
    0x01,
    0x02,
    0x7D,
    0x7E,
    0x7F,
    0x80,
    0x81,
    0x82,
    0x88,
    0x89,
    0x8A,
    0xC0,
    0xE2,
    0xED,
    0xF4,
    0xFE,
    0xFF,
]
CHARACTERS = 'kufeed{}":0123456789é€𝄞κόσμε\u0000\uffff\U0010ffff'


def damaged(rng: random.Random) -> bytes:
    """A valid stream with up to six injuries, most of them in the heads of frames; now and then mere noise."""
    if rng.random() < 0.03:
        return rng.randbytes(rng.randrange(200))
    frames = valid(rng)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        injure_frames(rng, frames)
    data = bytearray().join(frames)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        injure_bytes(rng, data)
    return bytes(data)


def valid(rng: random.Random) -> list[bytearray]:
    frames: list[bytearray] = []
    for _ in range(rng.randrange(1, 12)):
        kind = rng.choice([TEXT, TEXT, TEXT, BINARY])
        payload = (
            "".join(rng.choices(CHARACTERS, k=size_of(rng))).encode() if kind == TEXT else rng.randbytes(size_of(rng))
        )
        edges = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.choice([0, 0, 0, 1, 2, 5])))
        parts = [payload[start:end] for start, end in zip([0, *edges], [*edges, len(payload)], strict=True)]
        for index, part in enumerate(parts):
            while rng.random() < 0.15:
                frames.append(frame(rng.choice([PING, PONG]), rng.randbytes(rng.randrange(126))))
            frames.append(frame(CONTINUATION if index else kind, part, final=index == len(parts) - 1))
    if rng.random() < 0.3:
        code = rng.choice([1000, 1001, 3000, 4999, 5000, rng.randrange(999, 1018), rng.randrange(2**16)])
        frames.append(frame(CLOSE, rng.choice([b"", code.to_bytes(2, "big") + "später".encode()])))
    return frames


def size_of(rng: random.Random) -> int:
    return rng.choice([0, 1, rng.randrange(30), rng.randrange(130), rng.randrange(120, 130), 350, rng.randrange(2_000)])


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytearray:
    length = len(payload)
    size = 0 if length < 126 else 2 if length < 2**16 else 8
    second = bytes([length]) if size == 0 else bytes([125 + (size + 3) // 4]) + length.to_bytes(size, "big")
    return bytearray(bytes([opcode | (0x80 if final else 0)]) + second + payload)


def injure_frames(rng: random.Random, frames: list[bytearray]) -> None:
    at = rng.randrange(len(frames))
    match rng.randrange(8):
        case 0:
            frames[at][0] ^= 1 << rng.randrange(8)
        case 1:
            frames[at][0] = rng.choice(INTERESTING)
        case 2:
            frames[at][1] ^= 1 << rng.randrange(8)
        case 3:
            frames[at][1:2] = bytes([127]) + rng.choice([1, 2**16 - 1, 2**16, 2**30, 2**62, 2**63]).to_bytes(8, "big")
        case 4:
            frames[at][1:2] = bytes([126]) + rng.choice([0, 125, 126, 127, rng.randrange(2**16)]).to_bytes(2, "big")
        case 5:
            frames.insert(rng.randrange(len(frames)), bytearray(frames[at]))
        case 6:
            other = rng.randrange(len(frames))
            frames[at], frames[other] = frames[other], frames[at]
        case _ if len(frames) > 1:
            del frames[at]
        case _:
            frames[at] = frame(TEXT, b"\xe2\x82")


def injure_bytes(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    some = min(rng.choice([1, 1, 2, 4, 30]), len(data) - at)
    match rng.randrange(6):
        case 0 if some:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at : at + 1] = bytes([rng.choice(INTERESTING)])
        case 2:
            data[at:at] = rng.randbytes(rng.choice([1, 2, 10]))
        case 3:
            del data[at : at + some]
        case 4:
            data[at:at] = data[at : at + some]
        case _:
            del data[at:]


def ways_to_cut(rng: random.Random, data: bytes) -> list[list[bytes]]:
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 12)))
    ways = [[data], [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]]
    if len(data) < 1_000:
        ways.append([data[at : at + 1] for at in range(len(data))])
    return ways
