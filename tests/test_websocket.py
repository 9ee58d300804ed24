"""One WebSocket over the frame tap: messages in batches, control frames by trio-websocket, each end with its reason."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import h11
import pytest
import trio
import trio_websocket
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from kufeed import DialError, LinkClosed, LinkError, ProtocolViolation, TokenExpired
from kufeed._websocket import FrameTap, WebSocket, run_websocket


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    first = opcode | (0x80 if fin else 0)
    if len(payload) < 126:
        return struct.pack("!BB", first, len(payload)) + payload
    if len(payload) < 65536:
        return struct.pack("!BBH", first, 126, len(payload)) + payload
    return struct.pack("!BBQ", first, 127, len(payload)) + payload


async def read_head(stream: trio.abc.Stream) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        received = await stream.receive_some(1)
        if not received:
            raise trio.BrokenResourceError
        head += received
    return head


async def receive_exactly(stream: trio.abc.Stream, size: int) -> bytes:
    """At most so many bytes, fewer where the stream ends."""
    found = b""
    while len(found) < size and (data := await stream.receive_some(size - len(found))):
        found += data
    return found


def answer(head: bytes) -> bytes:
    key = next(line.split(b": ")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324  # RFC 6455 wants it
    lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
    return b"\r\n".join([*lines, b"Sec-WebSocket-Accept: " + base64.b64encode(digest), b"", b""])


Server = Callable[[trio.abc.Stream], Awaitable[None]]


class Outcome:
    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.end: LinkError | None = None
        self.over = trio.Event()

    @property
    def texts(self) -> list[bytes]:
        return [text for batch in self.batches for text in batch]


@asynccontextmanager
async def connected(
    server: Server,
    *,
    limit: int = 100_000,
    deliver: Callable[[Sequence[bytes]], Awaitable[None]] | None = None,
    wrap: Callable[[trio.abc.Stream], trio.abc.Stream] = lambda stream: stream,
) -> AsyncIterator[tuple[WebSocket, Outcome]]:
    """A client connected to *server*, which gets the stream after the upgrade; *wrap* is put around the client's."""
    ours, theirs = memory_stream_pair()
    outcome = Outcome()

    async def collect(payloads: Sequence[bytes]) -> None:
        outcome.batches.append(list(payloads))

    async def serve() -> None:
        await theirs.send_all(answer(await read_head(theirs)))
        await server(theirs)

    async def read(task_status: trio.TaskStatus[WebSocket]) -> None:
        outcome.end = await run_websocket(
            wrap(ours),
            host="h",
            target="/",
            deliver=deliver or collect,
            max_message_size=limit,
            task_status=task_status,
        )
        outcome.over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)  # noqa: ASYNC113  # the upgrade below waits for it
        websocket = await nursery.start(read)
        yield websocket, outcome
        nursery.cancel_scope.cancel()


async def test_texts_of_one_read_come_as_one_batch() -> None:
    async def server(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"".join(frame(0x1, b"%d" % number) for number in range(500)))
        await stream.aclose()

    async with connected(server) as (_, outcome):
        await outcome.over.wait()
        assert outcome.texts == [b"%d" % number for number in range(500)]
        assert len(outcome.batches) < 10


async def test_one_read_brings_64_kib_at_most() -> None:
    """However much has arrived: what a read brought is decoded without a pause."""
    text = b"x" * 346

    async def server(stream: trio.abc.Stream) -> None:
        await stream.send_all(frame(0x1, text) * 1_000)
        await stream.aclose()

    async with connected(server) as (_, outcome):
        await outcome.over.wait()
        assert outcome.texts == [text] * 1_000
        assert {len(batch) for batch in outcome.batches[:-1]} == {187, 188}


async def test_thousands_of_small_messages_come_in_slices_with_turns_for_others_between() -> None:
    ticks = 0
    seen: list[tuple[int, int]] = []

    async def tick() -> None:
        nonlocal ticks
        while True:
            await trio.lowlevel.checkpoint()
            ticks += 1

    async def deliver(payloads: Sequence[bytes]) -> None:
        assert set(payloads) == {b"{}"}
        seen.append((ticks, len(payloads)))

    async def server(stream: trio.abc.Stream) -> None:
        await stream.send_all(frame(0x1, b"{}") * 5_400)
        await stream.aclose()

    async with connected(server, deliver=deliver) as (_, outcome), trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        await outcome.over.wait()
        nursery.cancel_scope.cancel()
    assert [count for _, count in seen] == [1_000] * 5 + [400]
    assert seen[-1][0] - seen[0][0] >= 4  # of five turns; of two tasks that are ready together, either may be first


async def test_texts_may_follow_the_upgrade_in_the_same_packet() -> None:
    ours, theirs = memory_stream_pair()
    batches: list[Sequence[bytes]] = []

    async def deliver(payloads: Sequence[bytes]) -> None:
        batches.append(payloads)

    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def serve() -> None:
            await theirs.send_all(answer(await read_head(theirs)) + frame(0x1, b"first") + frame(0x1, b"second"))
            await theirs.aclose()

        async def read(task_status: trio.TaskStatus[WebSocket]) -> None:
            await run_websocket(
                ours, host="h", target="/", deliver=deliver, max_message_size=1000, task_status=task_status
            )

        await nursery.start(read)
    assert [list(batch) for batch in batches] == [[b"first", b"second"]]


async def test_fragments_pings_and_binary_messages() -> None:
    """A fragmented text is one text, a ping inside it is answered, and binary messages come in their place."""
    got: list[bytes] = []

    async def server(stream: trio.abc.Stream) -> None:
        await stream.send_all(frame(0x1, b"he", fin=False) + frame(0x9, b"ping!") + frame(0x0, b"llo"))
        for number in range(5):
            await stream.send_all(frame(0x2, b"binary %d" % number))
        await stream.send_all(frame(0x1, b"after"))
        while sum(map(len, got)) < 11:
            got.append(await stream.receive_some(100))
        await stream.aclose()

    async with connected(server) as (_, outcome):
        await outcome.over.wait()
        assert outcome.texts == [b"hello", *(b"binary %d" % number for number in range(5)), b"after"]
    pong = b"".join(got)
    assert pong[0] == 0x8A
    mask = pong[2:6]
    assert bytes(byte ^ mask[index % 4] for index, byte in enumerate(pong[6:])) == b"ping!"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(0x1, b"\xff\xfe"), 1007),
        (frame(0x1, b"x" * 2000), 1009),
        (frame(0x2, b"", fin=False) + frame(0x1, b"text inside"), 1002),
        (frame(0x0, b"continues nothing"), 1002),
        (frame(0x3), 1002),
        (bytes([0x81, 0x81, 1, 2, 3, 4, 0]), 1002),
        (frame(0x8, struct.pack("!H", 1005)), 1002),
        (frame(0x8, struct.pack("!H", 1000) + b"\xff"), 1007),
    ],
)
async def test_a_violation_is_told_to_the_peer_and_named(autojump_clock: MockClock, sent: bytes, code: int) -> None:
    """The close frame carries the code that RFC 6455 asks for; what came before is delivered, nothing after."""
    received = b""

    async def server(stream: trio.abc.Stream) -> None:
        nonlocal received
        await stream.send_all(frame(0x1, b"good") + sent + frame(0x1, b"too late"))
        while data := await stream.receive_some(100):
            received += data
            if len(received) >= 8:
                await stream.aclose()
                return

    async with connected(server, limit=1500) as (websocket, outcome):
        with trio.fail_after(1):
            await websocket.wait_over()
            await websocket.aclose()
            await outcome.over.wait()
        assert outcome.texts == [b"good"]
        assert isinstance(outcome.end, ProtocolViolation)
        assert outcome.end.code == code
    assert received[0] == 0x88
    mask = received[2:6]
    assert struct.unpack("!H", bytes([received[6] ^ mask[0], received[7] ^ mask[1]])) == (code,)


async def test_whatever_is_read_others_have_their_turn() -> None:
    """One read may bring thousands of frames: each call is a checkpoint, also where it finds them there already."""
    ours, theirs = memory_stream_pair()
    delivered: list[bytes] = []

    async def deliver(payloads: Sequence[bytes]) -> None:
        delivered.extend(payloads)

    tap = FrameTap(ours, deliver, 1_000)
    head = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    pings = [frame(0x9), frame(0x9, b"ping"), frame(0x9, b"pong")]
    for sent, expected in [
        (head, [head[:20], head[20:]]),
        (pings[0] + frame(0x1, b"text") + frame(0xA) + pings[1], pings[:2]),
        (pings[2] + frame(0x8), [pings[2], frame(0x8)]),
    ]:
        await theirs.send_all(sent)
        for piece in expected:
            with trio.testing.assert_checkpoints():
                assert await tap.receive_some(20) == piece
    assert delivered == [b"text"]
    assert not tap.ended.is_set()
    await tap.aclose()
    assert tap.ended.is_set()


async def test_no_pong_waits_for_those_who_get_the_texts(autojump_clock: MockClock) -> None:
    """The ping came with a text in one packet, and its delivery holds the link."""
    received = b""
    answered = trio.Event()
    delivered: list[bytes] = []

    async def deliver(payloads: Sequence[bytes]) -> None:
        await answered.wait()
        delivered.extend(payloads)

    async def server(stream: trio.abc.Stream) -> None:
        nonlocal received
        await stream.send_all(frame(0x1, b"a", fin=False) + frame(0x9, b"ping") + frame(0x0, b"b"))
        received += await receive_exactly(stream, 10)
        answered.set()
        await stream.aclose()

    async with connected(server, deliver=deliver) as (_, outcome):
        with trio.fail_after(1):
            await outcome.over.wait()
    assert received[0] == 0x8A
    assert delivered == [b"ab"]


@pytest.mark.parametrize("end", [frame(0x8), frame(0x3)], ids=["close frame", "violation"])
async def test_what_came_before_the_end_is_delivered_while_the_connection_is_open(
    autojump_clock: MockClock, end: bytes
) -> None:
    """Text, ping and end in one packet: the pong, then delivery, where an answer can still be sent, then the close."""
    received = b""
    opened = trio.Event()
    websocket: WebSocket

    async def deliver(payloads: Sequence[bytes]) -> None:
        await websocket.send(f"echo of {payloads[0].decode()}")

    async def server(stream: trio.abc.Stream) -> None:
        nonlocal received
        await opened.wait()
        await stream.send_all(frame(0x1, b"text") + frame(0x9) + end)
        received += await receive_exactly(stream, 6 + (6 + len(b"echo of text")) + (6 if end == frame(0x8) else 8))
        await stream.aclose()

    async with connected(server, deliver=deliver) as (websocket, outcome):
        opened.set()
        with trio.fail_after(1):
            if end == frame(0x3):
                await websocket.wait_over()
                await websocket.aclose()
            await outcome.over.wait()
    assert kinds(received) == [0x8A, 0x81, 0x88]


def kinds(data: bytes) -> list[int]:
    """The first bytes of a client's (short) frames."""
    found = []
    while data:
        found.append(data[0])
        data = data[6 + (data[1] & 0x7F) :]
    return found


async def test_the_peers_close_is_reported_with_its_code_and_reason(autojump_clock: MockClock) -> None:
    async def server(stream: trio.abc.Stream) -> None:
        await stream.send_all(frame(0x8, struct.pack("!H", 1012) + b"restarting"))
        await stream.receive_some(100)
        await stream.aclose()

    async with connected(server) as (_, outcome):
        await outcome.over.wait()
        assert isinstance(outcome.end, LinkClosed)
        assert (outcome.end.code, outcome.end.reason) == (1012, "restarting")


async def test_the_peers_reason_is_told_on_one_line(autojump_clock: MockClock) -> None:
    async def server(stream: trio.abc.Stream) -> None:
        await stream.send_all(frame(0x8, struct.pack("!H", 1012) + "a\n\x1b[31mü".encode()))
        await stream.receive_some(100)
        await stream.aclose()

    async with connected(server) as (_, outcome):
        await outcome.over.wait()
        assert str(outcome.end) == r"closed with code 1012: a\n\x1b[31mü"


async def test_a_connection_that_just_ends_is_1006(autojump_clock: MockClock) -> None:
    async def server(stream: trio.abc.Stream) -> None:
        await stream.aclose()

    async with connected(server) as (websocket, outcome):
        await outcome.over.wait()
        assert isinstance(outcome.end, LinkClosed)
        assert outcome.end.code == 1006
        with pytest.raises(LinkClosed):
            await websocket.send("too late")


async def test_our_close_is_answered(autojump_clock: MockClock) -> None:
    async def server(stream: trio.abc.Stream) -> None:
        await stream.receive_some(100)
        await stream.send_all(frame(0x1, b"crossed our close") + frame(0x8, struct.pack("!H", 1000)))
        await stream.aclose()

    async with connected(server) as (websocket, outcome):
        with trio.fail_after(1):
            await websocket.aclose()
        await outcome.over.wait()
        assert outcome.texts == []


@pytest.mark.parametrize("crossing", [frame(0x9, b"hi"), frame(0xA), frame(0x9) * 3 + frame(0x1, b"text")])
async def test_what_crosses_our_close_does_not_keep_it_from_being_answered(
    autojump_clock: MockClock, crossing: bytes
) -> None:
    """wsproto sends no pong after a close frame, and raises where it is to."""

    async def server(stream: trio.abc.Stream) -> None:
        await stream.receive_some(100)
        await stream.send_all(crossing + frame(0x8, struct.pack("!H", 1000)))
        await trio.sleep_forever()

    async with connected(server) as (websocket, outcome):
        with trio.fail_after(1):
            await websocket.aclose()
            await outcome.over.wait()
        assert isinstance(outcome.end, LinkClosed)
        assert outcome.end.code == 1000


async def test_who_breaks_the_protocol_instead_of_answering_our_close_is_not_waited_for(
    autojump_clock: MockClock,
) -> None:
    async def server(stream: trio.abc.Stream) -> None:
        await stream.receive_some(100)
        await stream.send_all(frame(0x3) + frame(0x8, struct.pack("!H", 1000)))
        await trio.sleep_forever()

    async with connected(server) as (websocket, outcome):
        with trio.fail_after(1):
            await websocket.aclose()
            await outcome.over.wait()
        assert isinstance(outcome.end, ProtocolViolation)


class Gated(trio.abc.Stream):
    """A stream whose sending waits while `gate` is shut, and fails of a text once `broken` is set."""

    def __init__(self, inner: trio.abc.Stream) -> None:
        self.inner = inner
        self.gate = trio.Event()
        self.gate.set()
        self.broken: Exception | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.gate.wait()
        if self.broken is not None and data[0] == 0x81:
            raise trio.BrokenResourceError from self.broken
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.gate.wait()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self.inner.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self.inner.aclose()


@asynccontextmanager
async def with_pings_waiting(server: Server) -> AsyncIterator[tuple[WebSocket, Outcome, Gated]]:
    """A client that has several pings to answer, and does not get its first pong out."""

    async def ping(stream: trio.abc.Stream) -> None:
        await opened.wait()
        await stream.send_all(frame(0x9, b"a") + frame(0x9, b"b") + frame(0x9, b"c"))
        await server(stream)

    opened = trio.Event()
    gated: list[Gated] = []

    def wrap(inner: trio.abc.Stream) -> trio.abc.Stream:
        gated.append(Gated(inner))
        return gated[0]

    async with connected(ping, wrap=wrap) as (websocket, outcome):
        gated[0].gate = trio.Event()
        opened.set()
        await wait_all_tasks_blocked()
        yield websocket, outcome, gated[0]


async def test_we_may_close_while_pings_wait_for_their_pongs(autojump_clock: MockClock) -> None:
    """One pong is on its way; after our close frame the others are not owed any more."""
    received = b""

    async def server(stream: trio.abc.Stream) -> None:
        nonlocal received
        received = await receive_exactly(stream, 7 + 8)
        await stream.send_all(frame(0x8, struct.pack("!H", 1000)))
        await trio.sleep_forever()

    async with with_pings_waiting(server) as (websocket, outcome, stream), trio.open_nursery() as nursery:
        nursery.start_soon(websocket.aclose)
        await wait_all_tasks_blocked()
        stream.gate.set()
        with trio.fail_after(1):
            await outcome.over.wait()
    assert kinds(received) == [0x8A, 0x88]
    assert isinstance(outcome.end, LinkClosed)
    assert outcome.end.code == 1000


async def test_a_send_that_fails_is_the_end_whatever_pings_wait(autojump_clock: MockClock) -> None:
    """trio-websocket counts itself as closing then; the peer did nothing wrong."""

    async def server(stream: trio.abc.Stream) -> None:
        await receive_exactly(stream, 7)
        await trio.sleep(1)
        await stream.aclose()

    async with with_pings_waiting(server) as (websocket, outcome, stream), trio.open_nursery() as nursery:
        stream.broken = ConnectionResetError("reset by the peer")

        @nursery.start_soon
        async def send() -> None:
            with pytest.raises(LinkClosed, match="1006: reset by the peer"):
                await websocket.send("text")

        await wait_all_tasks_blocked()
        stream.gate.set()
        with trio.fail_after(2):
            await outcome.over.wait()
    assert str(outcome.end) == "closed with code 1006: reset by the peer"


@pytest.mark.parametrize(
    ("reply", "match"),
    [
        (b"", "ended before the upgrade"),
        (b"HTTP/1.1 101 Swi", "ended before the upgrade"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy", "HTTP 503"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n", "HTTP 302"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "illegal status line"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
         b"Sec-WebSocket-Accept: wrong\r\n\r\n", "Bad accept token"),
    ],
)  # fmt: skip
async def test_a_failed_upgrade_is_reported_at_once_with_its_cause(
    autojump_clock: MockClock, reply: bytes, match: str
) -> None:
    ours, theirs = memory_stream_pair()

    async def deliver(payloads: Sequence[bytes]) -> None:
        pytest.fail("nothing was sent")

    async def read(task_status: trio.TaskStatus[WebSocket]) -> None:
        await run_websocket(ours, host="h", target="/", deliver=deliver, max_message_size=1000, task_status=task_status)

    async def connect() -> None:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def serve() -> None:
                await read_head(theirs)
                await theirs.send_all(reply)
                await theirs.aclose()

            await nursery.start(read)

    with trio.fail_after(1), pytest.RaisesGroup(pytest.RaisesExc(DialError, match=match)):
        await connect()


@pytest.mark.parametrize("name", [b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"Connection"])
async def test_a_header_that_is_not_ascii_fails_the_upgrade(autojump_clock: MockClock, name: bytes) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.send_all(answer(await read_head(stream)).removesuffix(b"\r\n") + name + b": \xff\r\n\r\n")

    assert await failed_upgrade(serve) == "upgrade: a header that is not ASCII"


async def test_a_host_that_a_library_refuses_fails_the_upgrade(autojump_clock: MockClock) -> None:
    """The last label and the port together are longer than a label may be."""

    async def serve(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    assert await failed_upgrade(serve, host=f"{'a' * 60}:65535") == "upgrade: against the rules of HTTP"


@pytest.mark.parametrize("place", ["with the upgrade", "later"])
@pytest.mark.parametrize(
    "error",
    [
        UnicodeDecodeError("ascii", b"\xff", 0, 1, "x"),
        ValueError("x"),
        KeyError("x"),
        OSError("x"),
        trio.BrokenResourceError("x"),
        trio.ClosedResourceError("x"),
        h11.RemoteProtocolError("x"),
        trio_websocket.ConnectionClosed(trio_websocket.CloseReason(1006, "x")),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_error_of_the_delivery_comes_out_as_itself(
    autojump_clock: MockClock, error: Exception, place: str
) -> None:
    """It is a bug of ours or of the user's `loads`, never taken for a failure of the network.

    Delivery may run as soon as the upgrade has been answered.
    """

    async def deliver(payloads: Sequence[bytes]) -> None:
        raise error

    async def serve(stream: trio.abc.Stream) -> None:
        await stream.send_all(
            answer(await read_head(stream)) + (frame(0x1, b"x") if place == "with the upgrade" else b"")
        )
        await wait_all_tasks_blocked()
        await stream.send_all(frame(0x1, b"x"))

    ours, theirs = memory_stream_pair()
    with trio.fail_after(1), pytest.RaisesGroup(type(error)) as group:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, theirs)
            await nursery.start(partial(run, ours, deliver=deliver))
    assert group.value.exceptions == (error,)


async def run(
    stream: trio.abc.Stream,
    *,
    host: str = "h",
    deliver: Callable[[Sequence[bytes]], Awaitable[None]],
    task_status: trio.TaskStatus[WebSocket],
) -> None:
    await run_websocket(stream, host=host, target="/", deliver=deliver, max_message_size=1000, task_status=task_status)


async def failed_upgrade(serve: Server, *, host: str = "h") -> str:
    """What the failure says; the stream is closed then."""

    async def deliver(payloads: Sequence[bytes]) -> None:
        pytest.fail("nothing was sent")

    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs)
        with trio.fail_after(1), pytest.raises(DialError) as failure:
            await nursery.start(partial(run, ours, host=host, deliver=deliver))
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.ClosedResourceError):
        await ours.receive_some(1)
    return str(failure.value)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000000000\r\n\r\n", 403),
        (b"HTTP/1.1 403 Forbidden\nContent-Length: 1000000000\n\n", 403),
        (b"HTTP/2.0 403 Forbidden\r\n\r\n", 403),
        (b"HTTP/1.1 403 " + b"x" * 2_000 + b"\r\nContent-Length: 1000000000\r\n\r\n", 403),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nContent-Length: 1000000000\r\n\r\n", 503),
    ],
    ids=["plain", "bare line feeds", "HTTP/2.0", "long reason", "after an interim answer"],
)
async def test_nobody_waits_for_the_body_of_a_refusal(autojump_clock: MockClock, head: bytes, status: int) -> None:
    """Nor collects it: of an answer that is no 101 trio-websocket would keep all, in quadratic time."""

    async def serve(stream: trio.abc.Stream) -> None:
        await stream.send_all(head[:1_200])
        await wait_all_tasks_blocked()
        await stream.send_all(head[1_200:] + b"x" * 1_000_000)
        await trio.sleep_forever()

    assert await failed_upgrade(serve) == f"upgrade: the server answered HTTP {status}"


@pytest.mark.parametrize(
    ("was", "instead", "problem"),
    [
        (b"HTTP/1.1 101", b"HTTP/1.0 101", "illegal status line: not HTTP/1.1"),
        (b"HTTP/1.1 101", b"HTTP/9.9 101", "illegal status line: not HTTP/1.1"),
        (b"\r\n", b"\n", "illegal status line: not HTTP/1.1"),
        (b"\r\n\r\n", b"\n\r\n", "a line of the answer's head ended in a bare line feed"),
        (b"\r\n\r\n", b"\r\n\n", "a line of the answer's head ended in a bare line feed"),
    ],
)
async def test_no_head_leads_past_the_tap(autojump_clock: MockClock, was: bytes, instead: bytes, problem: str) -> None:
    """h11 takes each of these for a 101; frames that followed it were checked by nobody."""

    async def serve(stream: trio.abc.Stream) -> None:
        await stream.send_all(answer(await read_head(stream)).replace(was, instead) + frame(0x1, b"text"))
        await trio.sleep_forever()

    assert await failed_upgrade(serve) == f"upgrade: {problem}"


async def test_interim_answers_before_the_101_are_skipped(autojump_clock: MockClock) -> None:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + answer(await read_head(stream)))
        await stream.send_all(frame(0x1, b"first"))
        await trio.sleep_forever()

    delivered = trio.Event()

    async def deliver(payloads: Sequence[bytes]) -> None:
        assert payloads == [b"first"]
        delivered.set()

    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs)
        await nursery.start(partial(run, ours, deliver=deliver))
        with trio.fail_after(1):
            await delivered.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("header", [b"Sec-WebSocket-Extensions: permessage-deflate", b"Sec-WebSocket-Protocol: chat"])
async def test_nothing_is_accepted_that_was_not_offered(autojump_clock: MockClock, header: bytes) -> None:
    ours, theirs = memory_stream_pair()

    async def deliver(payloads: Sequence[bytes]) -> None:
        pytest.fail("nothing was sent")

    async def read(task_status: trio.TaskStatus[WebSocket]) -> None:
        await run_websocket(ours, host="h", target="/", deliver=deliver, max_message_size=1000, task_status=task_status)

    async def serve() -> None:
        await theirs.send_all(answer(await read_head(theirs)).removesuffix(b"\r\n") + header + b"\r\n\r\n")

    with (
        trio.fail_after(1),
        pytest.RaisesGroup(pytest.RaisesExc(DialError, match="unrecognized|not supported|offered")),
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await nursery.start(read)


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["alone", "after an interim answer"])
async def test_a_refused_token_has_a_type_of_its_own(autojump_clock: MockClock, before: bytes) -> None:
    ours, theirs = memory_stream_pair()

    async def deliver(payloads: Sequence[bytes]) -> None:
        pytest.fail("nothing was sent")

    async def read(task_status: trio.TaskStatus[WebSocket]) -> None:
        await run_websocket(ours, host="h", target="/", deliver=deliver, max_message_size=1000, task_status=task_status)

    with pytest.RaisesGroup(TokenExpired):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.send_all, before + b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            await nursery.start(read)
