"""The frame tap's parser: whole messages out, pings and close frames untouched, however the bytes are cut."""

from __future__ import annotations

import base64
import hashlib
import itertools
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import wsproto
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.events import Request as Upgrade

from kufeed.protocol import frames
from kufeed.protocol.frames import FrameParser, Violation

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
LIMIT = 70_000
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def frame(opcode: int, payload: bytes = b"", *, final: bool = True, flags: int = 0, size: int | None = None) -> bytes:
    """A server's frame. *size* bytes of length are written in place of the shortest form; it may lie."""
    length = len(payload)
    if size is None:
        size = 0 if length < 126 else 2 if length < 2**16 else 8
    second = bytes([length]) if size == 0 else bytes([126 if size == 2 else 127]) + length.to_bytes(size, "big")
    return bytes([opcode | flags | (0x80 if final else 0)]) + second + payload


def head(opcode: int, length: int, *, final: bool = True) -> bytes:
    """Only the head of a frame, which announces *length* bytes."""
    size = 0 if length < 126 else 2 if length < 2**16 else 8
    return frame(opcode, b"", final=final)[:1] + (
        bytes([length]) if size == 0 else bytes([126 if size == 2 else 127]) + length.to_bytes(size, "big")
    )


@attrs.frozen
class Stream:
    """A server's bytes, and what is to become of them."""

    data: bytes
    messages: list[bytes]
    pings: bytes


def feed(parser: FrameParser, pieces: Iterable[bytes]) -> Violation | None:
    for piece in pieces:
        try:
            parser.feed(piece)
        except Violation as violation:
            return violation
    return None


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


# -- what is valid ----------------------------------------------------------------------------------------------------

sizes = st.sampled_from([0, 1, 2, 124, 125, 126, 127, 128, 1_000, 65_535, 65_536, 65_537, LIMIT]) | st.integers(0, 300)
texts = st.text(max_size=40).map(str.encode) | st.builds(
    lambda unit, size: (unit * (size // len(unit) + 1))[:size] if unit.isascii() else unit * (size // len(unit)),
    st.sampled_from([b"x", b"kufeed", "é".encode(), "€".encode(), "𝄞".encode()]),
    sizes,
)
binaries = st.builds(lambda size: bytes(range(256)) * (size // 256) + bytes(range(size % 256)), sizes)
controls = st.builds(lambda opcode, text: (opcode, text), st.sampled_from([PING, PONG]), st.binary(max_size=125))


@st.composite
def messages(draw: st.DrawFn) -> Stream:
    """One message, whole or in fragments (perhaps inside a character), with control frames between them."""
    is_text = draw(st.booleans())
    payload = draw(texts if is_text else binaries)
    parts = cut(payload, draw(st.lists(st.integers(0, 2**20), max_size=4)))
    if draw(st.booleans()):
        parts = [payload]
    data = pings = b""
    for index, part in enumerate(parts):
        for opcode, content in draw(st.lists(controls, max_size=1)):
            data += frame(opcode, content)
            pings += frame(opcode, content) if opcode == PING else b""
        opcode = CONTINUATION if index else TEXT if is_text else BINARY
        piece = frame(opcode, part, final=index == len(parts) - 1)
        data += piece
    return Stream(data, [payload], pings)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    chosen = draw(st.lists(messages(), max_size=6))
    data = b"".join(one.data for one in chosen)
    pings = b"".join(one.pings for one in chosen)
    return Stream(data, [message for one in chosen for message in one.messages], pings)


@given(streams(), st.lists(st.integers(0, 2**20), max_size=12))
def test_a_valid_stream_reads_the_same_wherever_it_is_cut(stream: Stream, cuts: list[int]) -> None:
    """Messages whole and in order, text and binary; pings untouched and in order."""
    parser = FrameParser(LIMIT)
    assert feed(parser, cut(stream.data, cuts)) is None
    assert parser.messages == stream.messages
    assert bytes(parser.pings) == stream.pings


@given(streams().filter(lambda stream: len(stream.data) < 3_000))
def test_one_byte_at_a_time_reads_the_same(stream: Stream) -> None:
    parser = FrameParser(LIMIT)
    assert feed(parser, (bytes([byte]) for byte in stream.data)) is None
    assert parser.messages == stream.messages
    assert bytes(parser.pings) == stream.pings


@given(streams(), st.lists(st.integers(0, 2**20), max_size=5))
def test_an_independent_parser_understands_what_was_passed(stream: Stream, cuts: list[int]) -> None:
    """wsproto sees the pings as if there had been nothing else, and the same messages."""
    parser = FrameParser(LIMIT)
    assert feed(parser, cut(stream.data, cuts)) is None
    whole, rest = events_of(stream.data), events_of(bytes(parser.pings))
    assert rest == [event for event in whole if event[0] not in ("message", "pong")]
    assert [event[1] for event in whole if event[0] == "message"] == parser.messages


def events_of(data: bytes) -> list[tuple[str, bytes]]:
    """What wsproto reads from a server's *data*, messages put together; the key of the handshake is made to fit."""
    client = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    request = client.send(Upgrade(host="h", target="/")).decode()
    key = next(
        line.partition(": ")[2] for line in request.split("\r\n") if line.lower().startswith("sec-websocket-key")
    )
    accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()  # noqa: S324  # RFC 6455
    client.receive_data(HEAD.replace(b"\r\n\r\n", f"\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()))
    client.receive_data(data)
    found: list[tuple[str, bytes]] = []
    message = b""
    for event in client.events():
        match event:
            case Ping(payload=payload):
                found.append(("ping", bytes(payload)))
            case Pong(payload=payload):
                found.append(("pong", bytes(payload)))
            case AcceptConnection():
                found.append(("open", b""))
            case CloseConnection():
                found.append(("close", b""))
            case BytesMessage() | TextMessage():
                message += bytes(event.data) if isinstance(event, BytesMessage) else event.data.encode()
                if event.message_finished:
                    found.append(("message", message))
                    message = b""
    return found


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, LIMIT])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_each_form_of_length(opcode: int, size: int) -> None:
    parser = FrameParser(LIMIT)
    data = frame(opcode, b"x" * size)
    parser.feed(data + data)
    assert parser.messages == [b"x" * size] * 2
    assert not parser.pings


def test_the_messages_of_one_read_are_a_batch_in_one_order() -> None:
    """One read may bring hundreds: all are there at once, whichever kind they are."""
    parser = FrameParser(LIMIT)
    parser.feed(b"".join(frame(BINARY if number % 3 else TEXT, str(number).encode()) for number in range(370)))
    assert parser.messages == [str(number).encode() for number in range(370)]


# -- what is not ------------------------------------------------------------------------------------------------------

OPEN_TEXT = frame(TEXT, b"a", final=False)
OPEN_BINARY = frame(BINARY, b"a", final=False)

ILLEGAL_HEADS: dict[str, tuple[int, bytes, bytes]] = {
    "a masked frame": (1002, b"", bytes([0x81, 0x85]) + b"mask" + b"hello"),
    "a masked empty frame": (1002, b"", bytes([0x81, 0x80]) + b"mask"),
    "a masked long frame": (1002, b"", bytes([0x81, 0xFE, 0x00, 0xFF])),
    "reserved bit 1": (1002, b"", frame(TEXT, b"x", flags=0x40)),
    "reserved bit 2": (1002, b"", frame(BINARY, b"x", flags=0x20)),
    "reserved bit 3": (1002, b"", frame(PING, b"x", flags=0x10)),
    **{f"unknown opcode {opcode:#x}": (1002, b"", frame(opcode, b"")) for opcode in (*range(3, 8), *range(0xB, 0x10))},
    "a fragmented ping": (1002, b"", frame(PING, b"x", final=False)),
    "a fragmented pong": (1002, b"", frame(PONG, b"", final=False)),
    "a fragmented close": (1002, b"", frame(CLOSE, b"", final=False)),
    "a ping of 126 bytes": (1002, b"", frame(PING, b"x" * 126)),
    "a close of 126 bytes": (1002, b"", frame(CLOSE, b"\x03\xe8" + b"x" * 124)),
    "a pong whose length is written long": (1002, b"", frame(PONG, b"x", size=2)),
    "a continuation of nothing": (1002, b"", frame(CONTINUATION, b"x")),
    "a continuation after a whole message": (1002, frame(TEXT, b"ok"), frame(CONTINUATION, b"x")),
    "a continuation after a finished one": (1002, OPEN_TEXT + frame(CONTINUATION, b"b"), frame(CONTINUATION, b"c")),
    "a text inside a fragmented text": (1002, OPEN_TEXT, frame(TEXT, b"b")),
    "a text inside a fragmented binary": (1002, OPEN_BINARY, frame(TEXT, b"b")),
    "a binary inside a fragmented text": (1002, OPEN_TEXT, frame(BINARY, b"b")),
    "a binary inside a fragmented binary": (1002, OPEN_BINARY, frame(BINARY, b"b")),
    "a fragmented text inside a fragmented text": (1002, OPEN_TEXT, OPEN_TEXT),
    "125 bytes written in 16 bits": (1002, b"", frame(TEXT, b"x" * 125, size=2)),
    "nothing written in 64 bits": (1002, b"", frame(BINARY, b"", size=8)),
    "65,535 bytes written in 64 bits": (1002, b"", frame(TEXT, b"x" * 65_535, size=8)),
    "a length with the highest bit": (1002, b"", head(TEXT, 2**63)),
    "a text larger than allowed": (1009, b"", head(TEXT, LIMIT + 1)),
    "a binary larger than allowed": (1009, b"", head(BINARY, LIMIT + 1)),
    "a text of 2^62 bytes": (1009, b"", head(TEXT, 2**62)),
    "a binary of 2^62 bytes": (1009, b"", head(BINARY, 2**62)),
    "a fragment of 2^62 bytes": (1009, OPEN_TEXT, head(CONTINUATION, 2**62)),
    "fragments of a text larger together": (1009, frame(TEXT, b"x" * LIMIT, final=False), head(CONTINUATION, 1)),
    "fragments of a binary larger together": (1009, frame(BINARY, b"x" * LIMIT, final=False), head(CONTINUATION, 1)),
}
ILLEGAL_BODIES: dict[str, tuple[int, bytes, bytes]] = {
    "a byte that is never UTF-8": (1007, b"", frame(TEXT, b"\xff")),
    "half a character": (1007, b"", frame(TEXT, "€".encode()[:2])),
    "a surrogate": (1007, b"", frame(TEXT, b"\xed\xa0\x80")),
    "an overlong form": (1007, b"", frame(TEXT, b"\xc0\xaf")),
    "half a character, then a whole message": (1007, b"", frame(TEXT, b"\xe2\x82") + frame(TEXT, b"\xac")),
    "half a character in the last fragment": (1007, OPEN_TEXT, frame(CONTINUATION, b"\xe2\x82")),
    "a wrong byte in a fragment": (1007, frame(TEXT, b"\xe2", final=False), frame(CONTINUATION, b"x", final=False)),
    "a close of one byte": (1002, b"", frame(CLOSE, b"\x03")),
    "a close whose reason is not UTF-8": (1007, b"", frame(CLOSE, b"\x03\xe8\xce\xba\xff")),
    "a close whose reason begins in the middle of a character": (1007, b"", frame(CLOSE, b"\x03\xe8\xba")),
    "a close inside a fragmented text with a reserved code": (1002, OPEN_TEXT, frame(CLOSE, b"\x03\xed")),
    **{
        f"close code {code}": (1002, b"", frame(CLOSE, code.to_bytes(2, "big") + b"reason"))
        for code in (0, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65_535)
    },
}
ILLEGAL = ILLEGAL_HEADS | ILLEGAL_BODIES


@pytest.mark.parametrize("name", ILLEGAL)
@pytest.mark.parametrize("size", [1, 3, 2**20], ids=["bytes", "threes", "whole"])
def test_what_is_illegal_is_refused_with_its_close_code_and_ends_all_delivery(name: str, size: int) -> None:
    """What was valid before stands; the violation is raised once; nothing after it is delivered or passed."""
    code, opening, illegal = ILLEGAL[name]
    before = frame(TEXT, b"before") + frame(PING, b"before") + opening
    data = before + illegal + frame(TEXT, b"after") + frame(PING, b"after") + frame(CONTINUATION, b"after")
    parser = FrameParser(LIMIT)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    raised = 0
    for piece in pieces:
        try:
            parser.feed(piece)
        except Violation as violation:
            raised += 1
            assert violation.code == code  # noqa: PT017  # every piece is tried; that exactly one raises is asserted below
            assert " " in str(violation), "it says what is wrong"  # noqa: PT017
    assert raised == 1
    assert parser.messages[0] == b"before"
    assert set(parser.messages) <= {b"before", b"ok", b"ab"}
    assert bytes(parser.pings).startswith(frame(PING, b"before"))
    assert b"after" not in bytes(parser.pings)


@pytest.mark.parametrize("name", ILLEGAL_HEADS)
def test_a_frame_is_judged_by_its_head_alone(name: str) -> None:
    """Nobody waits for the body of an illegal frame, least of all for 2^62 bytes."""
    code, opening, illegal = ILLEGAL[name]
    parser = FrameParser(LIMIT)
    parser.feed(opening)
    violation = feed(parser, (illegal[at : at + 1] for at in range(min(10, len(illegal)))))
    assert violation is not None
    assert violation.code == code


def test_a_control_frame_is_no_part_of_the_message_that_it_interrupts() -> None:
    """Neither does it count against the limit of messages, however small that is."""
    parser = FrameParser(10)
    ping = frame(PING, b"x" * 125)
    data = ping + frame(TEXT, b"0123456789", final=False) + ping + frame(CONTINUATION)
    assert feed(parser, bytewise(data)) is None
    assert parser.messages == [b"0123456789"]
    assert bytes(parser.pings) == ping * 2


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5), st.integers(0, 300))
@example(b"\x81\x7f", [], 10)
@example(b"\x01\x7f" + bytes(7) + b"\x01", [3], 10)  # the verdict must not fall while the length is incomplete
def test_arbitrary_bytes_are_read_or_refused_the_same_way_however_cut(data: bytes, cuts: list[int], limit: int) -> None:
    whole, pieces = FrameParser(limit), FrameParser(limit)
    one, other = feed(whole, [data]), feed(pieces, cut(data, cuts))
    assert (one is None, one and one.code) == (other is None, other and other.code)
    assert whole.messages == pieces.messages
    assert whole.pings == pieces.pings
    assert whole.close_frame == pieces.close_frame
    assert all(len(text) <= limit for text in whole.messages)


@pytest.mark.parametrize("form", ["whole", "first fragment", "last fragment"])
@pytest.mark.parametrize("wrong", [b"\xf4\x90", b"\xff", b"\xed\xa0\x80", b"\xc0"])  # of a surrogate, Python wants all
def test_a_text_is_refused_at_the_first_byte_that_cannot_be_utf8(form: str, wrong: bytes) -> None:
    """Nobody waits for the rest of a frame that is known to be wrong, however the bytes before arrived."""
    good = "κόσμε".encode()
    opening = OPEN_TEXT if form == "last fragment" else b""
    opcode = CONTINUATION if form == "last fragment" else TEXT
    start = opening + head(opcode, 300, final=form != "first fragment") + good
    for size in (1, 2, len(start)):
        parser = FrameParser(LIMIT)
        assert feed(parser, (start[at : at + size] for at in range(0, len(start), size))) is None
        assert feed(parser, [wrong[:-1]]) is None
        violation = feed(parser, [wrong[-1:]])
        assert violation is not None
        assert violation.code == 1007
        assert feed(parser, [b"x" * 400]) is None
        assert parser.messages == []


@given(st.text(min_size=1, max_size=60), st.lists(st.integers(0, 400), max_size=8), st.integers(0, 3))
def test_characters_may_be_cut_anywhere_in_frames_and_reads(text: str, cuts: list[int], more: int) -> None:
    """What is known to be UTF-8 of an incomplete frame is remembered for that frame alone."""
    payload = text.encode()
    parts = cut(payload, cuts[:2])
    data = b"".join(
        frame(CONTINUATION if index else TEXT, part, final=index == len(parts) - 1) + frame(PING, part[:100])
        for index, part in enumerate(parts)
    )
    data = data + frame(TEXT, payload) * more
    for pieces in (cut(data, cuts), bytewise(data)):
        parser = FrameParser(LIMIT)
        assert feed(parser, pieces) is None
        assert parser.messages == [payload] * (1 + more)


# -- after a close ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2**20], ids=["bytes", "whole"])
@pytest.mark.parametrize("before", [b"", OPEN_TEXT, OPEN_BINARY], ids=["idle", "inside a text", "inside a binary"])
def test_nothing_is_taken_or_passed_after_the_peers_close_frame(before: bytes, size: int) -> None:
    """It stands by itself: the other parser is to see it when the texts before it have been handed out."""
    close = frame(CLOSE, b"\x03\xe8bye")
    data = frame(TEXT, b"last") + before + close + frame(TEXT, b"after") + frame(PING) + b"\xff" * 20
    parser = FrameParser(LIMIT)
    assert feed(parser, (data[start : start + size] for start in range(0, len(data), size))) is None
    assert parser.messages == [b"last"]
    assert not parser.pings
    assert parser.close_frame == close
    assert parser.closed is True


@pytest.mark.parametrize("data", [b"", frame(TEXT, b"x"), OPEN_TEXT, frame(PING), frame(CONTINUATION)])
def test_it_is_not_closed_before_the_peer_has_said_so(data: bytes) -> None:
    """Not even where it has broken the protocol."""
    parser = FrameParser(LIMIT)
    feed(parser, [data])
    assert (parser.close_frame, parser.closed) == (b"", False)


@pytest.mark.parametrize("code", [None, *range(1000, 1004), *range(1007, 1014), 3000, 4999])
def test_a_close_frame_may_say_any_of_these(code: int | None) -> None:
    close = frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + "bis später".encode())
    parser = FrameParser(LIMIT)
    parser.feed(close)
    assert parser.close_frame == close


def test_pings_come_one_at_a_time() -> None:
    parser = FrameParser(LIMIT)
    pings = [frame(PING, b"x" * size) for size in (0, 1, 125, 0, 7)]
    assert feed(parser, [b"".join(pings)]) is None
    assert [parser.next_ping() for _ in pings] == pings
    assert not parser.pings


def test_after_our_own_close_nothing_is_taken_but_the_answer() -> None:
    """Neither a message nor a ping, also where one was there already: nobody may answer it now."""
    parser = FrameParser(LIMIT)
    parser.feed(frame(TEXT, b"before") + frame(PING, b"before") + OPEN_TEXT)
    parser.stop()
    assert not parser.pings
    close = frame(CLOSE, b"\x03\xe8")
    parser.feed(frame(CONTINUATION, b"b") + frame(TEXT, b"after") + frame(PING, b"p") + close + frame(TEXT, b"late"))
    assert parser.messages == [b"before"]
    assert not parser.pings
    assert parser.close_frame == close


def test_what_is_illegal_stays_illegal_after_our_own_close_frame() -> None:
    parser = FrameParser(LIMIT)
    parser.stop()
    with pytest.raises(Violation):
        parser.feed(frame(CONTINUATION, b"x"))


# -- cost -------------------------------------------------------------------------------------------------------------


class Work:
    """Counts what a parser does instead of timing it: bytes it copies, and looks it takes at its input."""

    def __init__(self) -> None:
        self.copied = 0
        self.looks = 0

    def parser(self, limit: int = LIMIT) -> FrameParser:
        """A parser whose input and buffers count. Growing a bytearray is taken to cost what is added."""
        parser = FrameParser(limit)
        for name in ("pings", "_rest", "_parts"):
            setattr(parser, name, CountedArray(self))
        return parser

    def feed(self, parser: FrameParser, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(frames, "bytes", lambda data: counted(data, self), raising=False)
                parser.feed(CountedBytes(piece, self))


class CountedBytes(bytes):
    work: Work

    def __new__(cls, data: bytes, work: Work) -> CountedBytes:
        new = super().__new__(cls, data)
        new.work = work
        return new

    def __getitem__(self, key: Any) -> Any:
        self.work.looks += 1
        found = super().__getitem__(key)
        return counted(found, self.work) if isinstance(found, bytes) else found


class CountedArray(bytearray):
    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def __iadd__(self, data: Any) -> CountedArray:
        self.work.looks += 1
        self.work.copied += len(data)
        super().__iadd__(data)
        return self


def counted(data: bytes, work: Work) -> CountedBytes:
    work.copied += len(data)
    return CountedBytes(data, work)


@given(streams().filter(lambda stream: 0 < len(stream.data) < 200_000), st.lists(st.integers(0, 2**20), max_size=40))
def test_the_work_is_in_proportion_to_the_bytes_however_they_are_cut(stream: Stream, cuts: list[int]) -> None:
    data = stream.data
    work = Work()
    parser = work.parser()
    pieces = cut(data, cuts)
    work.feed(parser, pieces)
    assert parser.messages == stream.messages
    assert work.copied <= 12 * len(data)
    assert work.looks <= 12 * len(data)


FLOODS = {
    "a text": frame(TEXT, "é".encode() * 10_000),
    "a text of one byte a fragment": frame(TEXT, b"", final=False) + frame(CONTINUATION, b"x", final=False) * 10_000,
    "a binary message": frame(BINARY, b"x" * 20_000),
    "empty fragments": OPEN_BINARY + frame(CONTINUATION, b"", final=False) * 10_000,
    "pings": frame(PING) * 20_000,
    "long pings": frame(PING, b"x" * 125) * 500,
    "empty texts": frame(TEXT) * 20_000,
}


@pytest.mark.parametrize("size", [1, 7, 2**20], ids=["bytes", "sevens", "whole"])
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_costs_what_its_bytes_cost(name: str, size: int) -> None:
    """One byte a read, endless fragments, 20,000 pings at once: no more work for each byte than in any other stream."""
    data = FLOODS[name]
    work = Work()
    work.feed(work.parser(), (data[at : at + size] for at in range(0, len(data), size)))
    assert work.copied <= 12 * len(data)
    assert work.looks <= 12 * len(data)


# -- memory -----------------------------------------------------------------------------------------------------------


def grown(feeding: Any, *, peak: bool = False) -> int:
    """Bytes of memory that *feeding* left allocated, or had allocated at its peak."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60.0)  # what another thread of the test runner allocates meanwhile would count too
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        feeding()
        return tracemalloc.get_traced_memory()[1 if peak else 0] - before
    finally:
        tracemalloc.stop()
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("part", [b"", b"xy"], ids=["empty", "small"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_fragments_without_end_take_no_more_memory_than_a_message_may(opcode: int, part: bytes) -> None:
    parser = FrameParser(1_000)
    parser.feed(frame(opcode, b"", final=False))
    pieces = frame(CONTINUATION, part, final=False) * (400 if part else 50_000)
    assert grown(lambda: parser.feed(pieces)) < 8_000
    parser.feed(frame(CONTINUATION, b"."))
    assert parser.messages == [part * 400 + b"."]


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CONTINUATION])
@pytest.mark.parametrize("length", [2**30, 2**62])
def test_an_announced_message_takes_memory_only_as_it_arrives(opcode: int, length: int) -> None:
    """Even where the limit allows it."""
    parser = FrameParser(2**63)
    if opcode == CONTINUATION:
        parser.feed(OPEN_TEXT)
    assert grown(lambda: parser.feed(head(opcode, length) + b"x" * 1_000), peak=True) < 8_000
    assert grown(lambda: feed(parser, itertools.repeat(b"x", 1_000)), peak=True) < 8_000


def test_a_message_that_drips_takes_memory_for_itself_alone() -> None:
    size = 50_000
    parser = FrameParser(LIMIT)
    drops = bytewise(frame(TEXT, b"x" * size))
    assert grown(lambda: feed(parser, drops), peak=True) < 5 * size
    assert parser.messages == [b"x" * size]
    parser.messages.clear()
    assert grown(lambda: feed(parser, drops)) < 2 * size


def test_a_flood_of_pings_takes_memory_for_its_bytes() -> None:
    """They are kept as they came, not taken apart."""
    parser = FrameParser(LIMIT)
    pings = frame(PING, b"x") * 50_000
    assert grown(lambda: parser.feed(pings), peak=True) < 5 * len(pings)
    assert bytes(parser.pings) == pings


@pytest.mark.parametrize("ended", [frame(CLOSE), frame(CONTINUATION)], ids=["a close frame", "a violation"])
def test_what_follows_the_end_is_not_kept(ended: bytes) -> None:
    parser = FrameParser(LIMIT)
    feed(parser, [ended])
    after = [frame(TEXT, b"x" * 100) + frame(PING) + b"\x81"] * 1_000
    assert grown(lambda: feed(parser, after), peak=True) < 8_000
