"""How soon a dial fails, and what is said about it. `docs/dialling.rst` shows the same table: a test compares."""

from __future__ import annotations

import json
import logging
import re
import ssl
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio
import trustme
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

import kufeed
from kufeed import ExchangeError, FeedConfig, LinkClosed, ProtocolViolation
from kufeed._tls import TLSStream
from tests.test_websocket import answer as accept
from tests.test_websocket import frame

TIMEOUT = 10.0
PAGE = Path(__file__).parents[1] / "docs" / "dialling.rst"

Server = Callable[[trio.abc.Stream], Awaitable[None]]


async def read_head(stream: trio.abc.Stream) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await stream.receive_some(1)
    return head


async def silence(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


def answer(reply: bytes, *, hang: bool = True) -> Server:
    """Read the request's head, send *reply*, then hang or end the connection."""

    async def serve(stream: trio.abc.Stream) -> None:
        await read_head(stream)
        await stream.send_all(reply)
        if hang:
            await trio.sleep_forever()
        await trio.aclose_forcefully(stream)

    return serve


async def cut(stream: trio.abc.Stream) -> None:
    await trio.aclose_forcefully(stream)


async def reset(stream: trio.abc.Stream) -> None:
    """Stands for a peer whose connection is reset while we read; `Faulty` sees to it."""
    await trio.sleep_forever()


async def fail_reading() -> None:
    raise trio.BrokenResourceError from ConnectionResetError("reset by the peer")


def slow(seconds: float, server: Server) -> Server:
    async def serve(stream: trio.abc.Stream) -> None:
        await trio.sleep(seconds)
        await server(stream)

    return serve


def upgraded(instead_of_welcome: Server) -> Server:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.send_all(accept(await read_head(stream)))
        await instead_of_welcome(stream)

    return serve


def frames(sent: bytes) -> Server:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.send_all(sent)
        await trio.sleep_forever()

    return upgraded(serve)


def endless_frames(sent: bytes) -> Server:
    async def serve(stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all, stream)
            while True:
                await stream.send_all(sent)
                await trio.sleep(0.1)

    return upgraded(serve)


async def read_all(stream: trio.abc.Stream) -> None:
    while await stream.receive_some(1000):
        pass


def endless(beginning: bytes, more: bytes) -> Server:
    async def serve(stream: trio.abc.Stream) -> None:
        await read_head(stream)
        await stream.send_all(beginning)
        while True:
            await stream.send_all(more)
            await trio.sleep(0.001)

    return serve


def token_for(endpoint: str) -> Server:
    server = {"endpoint": endpoint, "pingInterval": 18000, "pingTimeout": 10000}
    body = json.dumps({"code": "200000", "data": {"token": "SECRET", "instanceServers": [server]}}).encode()
    return answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


token = token_for("wss://ws-api-spot.kucoin.com/")


def echo(beginning: bytes = b"") -> Server:
    """Send *beginning* and then the request's head as it came."""

    async def serve(stream: trio.abc.Stream) -> None:
        await stream.send_all(beginning + await read_head(stream))
        await trio.sleep_forever()

    return serve


@attrs.frozen
class Fault:
    name: str
    phase: str
    at_once: bool
    match: str
    rest: Server | Exception = token
    websocket: Server | Exception = silence
    tls: Server | None = None
    """Instead of the stream that stands for the decrypted one: what the server does to the client's hello."""
    cause: type[BaseException] | None = None
    """What stands in `__cause__`; of a group its first error."""


def status(line: str, headers: str = "") -> bytes:
    return f"HTTP/1.1 {line}\r\nContent-Length: 0\r\n{headers}\r\n".encode()


async def untrusted(stream: trio.abc.Stream) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("ws-api-spot.kucoin.com").configure_cert(context)
    await trio.SSLStream(stream, context, server_side=True).do_handshake()


NO_CLASS = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"

FAULTS = [
    Fault("token: connection refused", "token", True, "refused", rest=ConnectionRefusedError("refused"),
        cause=ConnectionRefusedError),
    Fault("token: no answer", "token", False, "nothing within 10 s", rest=silence),
    Fault("token: connection cut", "token", True, "token: ", rest=cut, cause=trio.BrokenResourceError),
    Fault("token: connection cut after the request", "token", True, "not HTTP: Server disconnected without",
        rest=answer(b"", hang=False), cause=ExchangeError),
    Fault("token: HTTP 503", "token", True, "HTTP 503", rest=answer(status("503 Busy")), cause=ExchangeError),
    Fault("token: HTTP 429", "token", True, "HTTP 429", rest=answer(status("429 Slow down")), cause=ExchangeError),
    Fault("token: redirect", "token", True, "HTTP 302", rest=answer(status("302 Found", "Location: https://x/\r\n")),
        cause=ExchangeError),
    Fault("token: garbage", "token", True, "not HTTP", rest=answer(b"SSH-2.0-OpenSSH\r\n\r\n"), cause=ExchangeError),
    Fault("token: endless headers", "token", True, "not HTTP", rest=endless(
        b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 4000), cause=ExchangeError),
    Fault("token: endless body", "token", True, "more than", rest=endless(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + b"x" * 0x100000 + b"\r\n"),
        cause=ExchangeError),
    Fault("token: endless slow body", "token", False, "nothing within 10 s", rest=endless(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")),
    Fault("token: an endpoint that is none", "token", True, "documented shape", rest=token_for("wss://a..kucoin.com/"),
        cause=ExchangeError),
    Fault("connection refused", "connect", True, "refused", websocket=ConnectionRefusedError("refused"),
        cause=ConnectionRefusedError),
    Fault("a name that some library refuses", "connect", True, "UnicodeError: label too long",
        websocket=UnicodeError("label too long"), cause=UnicodeError),
    Fault("hung in TLS", "connect", False, "nothing within 10 s", tls=silence),
    Fault("cut in TLS", "connect", True, "connect: ", tls=cut, cause=trio.BrokenResourceError),
    Fault("untrusted certificate", "connect", True, "CERTIFICATE_VERIFY_FAILED", tls=untrusted,
        cause=trio.BrokenResourceError),
    Fault("hung after TCP", "upgrade", False, "nothing within 10 s", websocket=silence),
    Fault("cut before the 101", "upgrade", True, "upgrade: ", websocket=cut, cause=trio.BrokenResourceError),
    Fault("reset before the 101", "upgrade", True, "upgrade: reset by the peer", websocket=reset,
        cause=ConnectionResetError),
    Fault("cut in the 101", "upgrade", True, "ended before the upgrade", websocket=answer(NO_CLASS, hang=False)),
    Fault("HTTP 503", "upgrade", True, "HTTP 503", websocket=answer(status("503 Busy"))),
    Fault("HTTP 429", "upgrade", True, "HTTP 429", websocket=answer(status("429 Slow down"))),
    Fault("redirect", "upgrade", True, "HTTP 302", websocket=answer(status("302 Found", "Location: wss://x/\r\n"))),
    Fault("rejection with an endless body", "upgrade", True, "HTTP 403", websocket=endless(
        b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 0x10000 + b"\r\n")),
    Fault("garbage", "upgrade", True, "illegal status line", websocket=answer(b"SSH-2.0-OpenSSH\r\n\r\n")),
    Fault("endless headers", "upgrade", True, "upgrade: ", websocket=endless(NO_CLASS, b"X: y\r\n" * 4000)),
    Fault("endless status line", "upgrade", True, "upgrade: ", websocket=endless(b"HTTP/1.1 101 ", b"x" * 4000)),
    Fault("wrong accept key", "upgrade", True, "Bad accept token", websocket=answer(
        NO_CLASS + b"Connection: Upgrade\r\nSec-WebSocket-Accept: wrong\r\n\r\n")),
    Fault("our request sent back", "upgrade", True, "upgrade: illegal status line$", websocket=echo()),
    Fault("our request among the headers", "upgrade", True, "upgrade: illegal header line$", websocket=echo(NO_CLASS)),
    Fault("a header that is not ASCII", "upgrade", True, "not ASCII", websocket=answer(
        NO_CLASS + b"Connection: Upgrade\xff\r\n\r\n")),
    Fault("no welcome", "welcome", False, "no welcome", websocket=frames(b"")),
    Fault("no welcome after a slow token and a slow upgrade", "welcome", False, "no welcome",
        rest=slow(4, token), websocket=slow(4, frames(b""))),
    Fault("pings without end and no welcome", "welcome", False, "no welcome", websocket=endless_frames(frame(0x9) * 9)),
    Fault("other messages and no welcome", "welcome", False, "no welcome", websocket=endless_frames(frame(0x1, b"{}"))),
    Fault("a close frame instead of the welcome", "welcome", True, "welcome: closed with code 1012: busy",
        websocket=frames(frame(0x8, (1012).to_bytes(2, "big") + b"busy")), cause=LinkClosed),
    Fault("cut before the welcome", "welcome", True, "welcome: closed with code 1006", websocket=upgraded(cut),
        cause=LinkClosed),
    Fault("a broken frame instead of the welcome", "welcome", True, "welcome: unknown opcode 0x3",
        websocket=frames(frame(0x3)), cause=ProtocolViolation),
]  # fmt: skip


class Faulty:
    """The network of one fault. The first connection asks for the token, the second is the WebSocket."""

    ssl_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, fault: Fault, nursery: trio.Nursery) -> None:
        self.fault = fault
        self.nursery = nursery
        self.streams: list[trio.abc.Stream] = []

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        is_rest = not self.streams
        server = self.fault.rest if is_rest else self.fault.websocket
        if isinstance(server, Exception):
            raise server
        ours, theirs = memory_stream_pair()
        self.streams.append(ours)
        if not is_rest and self.fault.tls is not None:
            self.nursery.start_soon(quietly, self.fault.tls, theirs)
            await wait_all_tasks_blocked()  # what is cut is cut before anything is sent
            assert tls is not None
            secured = TLSStream(ours, tls, server_hostname=host)
            try:
                await secured.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(ours)
                raise
        if server is reset:
            ours.receive_stream.receive_some_hook = fail_reading
        self.nursery.start_soon(quietly, server, theirs)
        await wait_all_tasks_blocked()
        return ours

    time_ns = staticmethod(lambda: 0)
    perf_counter = staticmethod(trio.current_time)


async def quietly(server: Server, stream: trio.abc.Stream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await server(stream)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_each_fault_is_named_in_time(
    autojump_clock: MockClock, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """At once where it can be seen, otherwise when `connect_timeout` is over; nothing is left open.

    And the token is in no log at DEBUG, no repr, no traceback, nor in one that comes with the values of variables.
    """
    caplog.set_level(logging.DEBUG)
    config = FeedConfig(max_reconnect_attempts=0, connect_timeout=TIMEOUT)
    async with trio.open_nursery() as nursery:
        network = Faulty(fault, nursery)
        async with kufeed.open_feed(config, network=network) as feed:
            with pytest.raises(kufeed.ConnectionFailed) as failure:
                async with feed.ticker("BTC-USDT"):
                    pass
            took = trio.current_time()
            seen = repr(feed) + feed.tree() + repr(feed.statistics())
        nursery.cancel_scope.cancel()
    cause = failure.value.cause
    assert isinstance(cause, kufeed.DialError)
    assert cause.phase == fault.phase
    assert re.search(fault.match, str(cause))
    assert type(cause.__cause__) is (fault.cause or type(None))
    if fault.tls is untrusted:
        assert cause.__cause__ is not None
        assert isinstance(cause.__cause__.__cause__, ssl.SSLCertVerificationError)
    shown = "".join(traceback.format_exception(failure.value)) + repr(cause) + seen
    for error in (failure.value, cause):
        shown += "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert "SECRET" not in shown + caplog.text
    assert took <= 0.1 if fault.at_once else TIMEOUT <= took <= TIMEOUT + 0.1
    for stream in network.streams:
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some(1)


async def test_a_broken_frame_that_comes_late_leaves_no_time_for_its_close(autojump_clock: MockClock) -> None:
    """A peer that does not read either: the close frame is tried until the deadline of the dial, no longer."""

    async def block() -> None:
        await trio.sleep_forever()

    async def late(stream: trio.abc.Stream) -> None:
        await trio.sleep(TIMEOUT - 0.5)
        ours = network.streams[-1]
        assert isinstance(ours, trio.StapledStream)
        ours.send_stream.send_all_hook = block
        await stream.send_all(frame(0x3))
        await trio.sleep_forever()

    fault = Fault("late", "welcome", False, "", websocket=upgraded(late))
    async with trio.open_nursery() as nursery:
        network = Faulty(fault, nursery)
        config = FeedConfig(max_reconnect_attempts=0, connect_timeout=TIMEOUT)
        async with kufeed.open_feed(config, network=network) as feed:
            with pytest.raises(kufeed.ConnectionFailed, match="welcome: unknown opcode"):
                async with feed.ticker("BTC-USDT"):
                    pass
        assert TIMEOUT <= trio.current_time() <= TIMEOUT + 0.1
        nursery.cancel_scope.cancel()


async def test_a_token_refused_instead_of_the_welcome_is_a_dead_token(autojump_clock: MockClock) -> None:
    """It has a type of its own, also in this phase: a fresh token is asked for at once."""
    refused = frames(frame(0x1, b'{"id":"1","type":"error","code":401,"data":"token is expired"}'))
    async with trio.open_nursery() as nursery:
        network = Faulty(Fault("dead token", "welcome", True, "", websocket=refused), nursery)
        config = FeedConfig(max_reconnect_attempts=0, connect_timeout=TIMEOUT)
        async with kufeed.open_feed(config, network=network) as feed:
            with pytest.raises(kufeed.ConnectionFailed) as failure:
                async with feed.ticker("BTC-USDT"):
                    pass
        nursery.cancel_scope.cancel()
    assert isinstance(failure.value.cause, kufeed.TokenExpired)


def test_the_page_shows_the_table() -> None:
    rows = re.findall(r"^   \* - (.+)\n     - (.+)\n     - (.+)$", PAGE.read_text(), re.MULTILINE)
    assert rows[1:] == [
        (fault.name, fault.phase, "at once" if fault.at_once else "``connect_timeout``") for fault in FAULTS
    ]
