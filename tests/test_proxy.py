"""Through an HTTP proxy: a tunnel for REST and WebSocket alike, and its password nowhere to be seen."""

from __future__ import annotations

import base64
import logging
import re
import ssl
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
import trustme
from trio.testing import memory_stream_pair

import kufeed
from kufeed import FeedConfig, UsageError
from kufeed._proxy import Proxy, ProxyNetwork
from kufeed.testing import Exchange

SECRET = "p@ss:word"  # noqa: S105  # a test's
USER = "user:p%40ss%3Aword"
SHOWING_IT = (SECRET, "p%40ss", "ss:word", "Basic ", base64.b64encode(b"user:" + SECRET.encode()).decode())


async def read_head(stream: trio.abc.Stream) -> str:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await stream.receive_some(1)
        assert data, head
        head += data
    return head.decode()


async def pump(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
    try:
        while data := await source.receive_some(65536):
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    await trio.aclose_forcefully(sink)


@asynccontextmanager
async def proxy(answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> AsyncIterator[tuple[str, list[str]]]:
    """A CONNECT proxy on loopback: its address, and the heads of the requests it got, which *answer* may repeat."""
    heads: list[str] = []

    async def serve(stream: trio.SocketStream) -> None:
        heads.append(head := await read_head(stream))
        await stream.send_all(answer.replace(b"{head}", head.encode()))
        if b" 200 " in answer:
            host, _, port = head.split()[1].rpartition(":")
            target = await trio.open_tcp_stream(host, int(port))
            async with trio.open_nursery() as tunnel:
                tunnel.start_soon(pump, stream, target)
                tunnel.start_soon(pump, target, stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, serve, [listener])
        yield f"127.0.0.1:{listener.socket.getsockname()[1]}", heads
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def feed_over(authority: trustme.CA, **fields: Any) -> AsyncIterator[tuple[kufeed.Feed, int]]:
    """A feed of an exchange that is served over TLS on loopback, and its port."""
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with Exchange(update_interval=0.01).listen(tls=server) as address:
        config = FeedConfig(futures_url=address.futures_url, ssl_context=client, max_reconnect_attempts=0, **fields)
        async with kufeed.open_feed(config) as feed:
            yield feed, address.port


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


async def test_everything_goes_through_the_proxy(authority: trustme.CA, caplog: pytest.LogCaptureFixture) -> None:
    """REST and WebSocket, TLS spoken inside the tunnel, and the password in no log and no repr."""
    with trio.fail_after(10), caplog.at_level(logging.DEBUG):
        async with proxy() as (where, heads), feed_over(authority, proxy=f"http://{USER}@{where}") as (feed, port):
            async with feed.ticker("XBTUSDTM") as tickers:
                await tickers.receive()
                shown = repr(feed) + repr(feed.config) + repr(vars(feed)) + feed.tree() + repr(feed.statistics())
    assert [head.splitlines()[0] for head in heads] == [f"CONNECT 127.0.0.1:{port} HTTP/1.1"] * 2
    assert all(f"Proxy-Authorization: Basic {SHOWING_IT[-1]}\r\n" in head for head in heads)
    assert not [secret for secret in SHOWING_IT if secret in caplog.text + shown]


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "answered HTTP 407 to CONNECT"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "answered HTTP 503"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "did not answer in HTTP: illegal status line$"),
        (b"HTTP/1.1 101 OK\r\n" + b"X: y\r\n" * 10_000, "did not answer in HTTP"),
        (b"{head}", "did not answer in HTTP: illegal status line$"),
        (b"HTTP/1.1 400 Bad\r\nX Received {head}", "did not answer in HTTP: illegal header line$"),
        (b"HTTP/1.1 400 Bad\r\nX-Received: {head}", "answered HTTP 400|did not answer in HTTP: illegal header line$"),
        (b"HTTP/1.1 400 {head}", "did not answer in HTTP: illegal|answered HTTP 400"),
        (b"HTTP/1.1 200 OK\r\nX: " + b" " * 1000 + b"\0", "did not answer in HTTP: illegal header line$"),
        (b"", "closed the connection"),
    ],
)
async def test_a_refusal_is_named_without_the_password(
    authority: trustme.CA, caplog: pytest.LogCaptureFixture, answer: bytes, match: str
) -> None:
    """In no error, log, repr or statistics, nor in a traceback that comes with the values of variables."""
    caplog.set_level(logging.DEBUG)
    async with proxy(answer) as (where, _), feed_over(authority, proxy=f"http://{USER}@{where}") as (feed, _):
        with trio.fail_after(5), pytest.raises(kufeed.ConnectionFailed) as failure:
            async with feed.ticker("XBTUSDTM"):
                pass
        shown = caplog.text + repr(failure.value) + repr(feed.statistics())
    assert re.search(match, str(failure.value))
    assert where in str(failure.value)
    cause = failure.value.cause
    assert isinstance(cause, kufeed.DialError)
    assert isinstance(cause.__cause__, ConnectionError)
    for error in (failure.value, cause):
        shown += "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
    assert not [secret for secret in SHOWING_IT if secret in shown]


class Tunnels:
    """A network on which everybody is a proxy; behind it stands a TLS server with *certificate*."""

    def __init__(self, nursery: trio.Nursery, certificate: trustme.LeafCert | None = None) -> None:
        self.nursery = nursery
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        if certificate is not None:
            certificate.configure_cert(self.context)
        self.asked: list[tuple[str, int, bool]] = []
        self.streams: list[trio.abc.Stream] = []
        self.heads: list[str] = []

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        self.asked.append((host, port, tls is not None))
        ours, theirs = memory_stream_pair()
        self.streams.append(ours)
        self.nursery.start_soon(self.serve, theirs)
        return ours

    async def serve(self, stream: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, AssertionError):
            self.heads.append(await read_head(stream))
            await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
            await trio.SSLStream(stream, self.context, server_side=True).do_handshake()
            return
        await trio.aclose_forcefully(stream)

    time_ns = staticmethod(lambda: 0)
    perf_counter = staticmethod(trio.current_time)


async def test_a_proxy_that_takes_no_request_is_named_without_the_password() -> None:
    class Gone:
        async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            ours, theirs = memory_stream_pair()
            await trio.aclose_forcefully(theirs)
            return ours

        time_ns = staticmethod(lambda: 0)
        perf_counter = staticmethod(trio.current_time)

    with pytest.raises(ConnectionError, match=r"the proxy p\.example:3128 broke the connection: ") as error:
        through = ProxyNetwork(Gone(), Proxy.from_url(f"http://{USER}@p.example:3128"))
        await through.open_stream("ws.example", 443, None)
    shown = "".join(traceback.TracebackException.from_exception(error.value, capture_locals=True).format())
    assert not [secret for secret in SHOWING_IT if secret in shown]


@pytest.mark.parametrize(("named", "accepted"), [("ws.example", True), ("proxy.example", False)])
async def test_the_certificate_has_to_name_the_exchange_not_the_proxy(
    authority: trustme.CA, named: str, accepted: bool
) -> None:
    client = ssl.create_default_context()
    authority.configure_trust(client)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            network = Tunnels(nursery, authority.issue_cert(named))
            through = ProxyNetwork(network, Proxy("proxy.example", 3128))
            if accepted:
                await through.open_stream("ws.example", 443, client)
            else:
                with pytest.raises(trio.BrokenResourceError, match=r"certificate is not valid for 'ws\.example'"):
                    await through.open_stream("ws.example", 443, client)
                with pytest.raises(trio.ClosedResourceError):
                    await network.streams[0].receive_some(1)
            nursery.cancel_scope.cancel()
    assert network.asked == [("proxy.example", 3128, False)]
    assert network.heads[0].startswith("CONNECT ws.example:443 HTTP/1.1\r\nHost: ws.example:443\r\n")


@pytest.mark.parametrize("host", ["a b", "ünï.example", "a\r\nX: y", "a\ud800", "a\0b"])
async def test_a_host_that_nobody_can_ask_for_is_not_asked_for(host: str) -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            network = Tunnels(nursery)
            with pytest.raises(ConnectionError, match="cannot be asked for") as error:
                await ProxyNetwork(network, Proxy("proxy.example", 3128)).open_stream(host, 443, None)
            assert host not in str(error.value)
            for stream in network.streams:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.receive_some(1)
            nursery.cancel_scope.cancel()
    assert network.heads == []


async def test_the_environments_proxy_is_for_tls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`HTTPS_PROXY` says nothing of a connection that is not encrypted, such as to an exchange on this machine."""
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            network = Tunnels(nursery)
            await ProxyNetwork(network, None).open_stream("plain.example", 80, None)
            with pytest.raises(trio.BrokenResourceError):
                await ProxyNetwork(network, None).open_stream("ws.example", 443, ssl.create_default_context())
            nursery.cancel_scope.cancel()
    assert network.asked == [("plain.example", 80, False), ("proxy.example", 3128, False)]


async def test_the_certificate_is_the_exchanges_own(authority: trustme.CA) -> None:
    async with proxy() as (where, _), feed_over(trustme.CA(), proxy=f"http://{where}") as (feed, _):
        feed._tls = ssl.create_default_context()  # which does not know this exchange's authority
        with trio.fail_after(5), pytest.raises(kufeed.ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"):
            async with feed.ticker("XBTUSDTM"):
                pass


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(("excepted", "used"), [("", True), ("127.0.0.1", False)])
async def test_the_environment_is_honoured_only_when_trusted(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, trust: bool, excepted: str, used: bool
) -> None:
    for name in ("https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", excepted)
    with trio.fail_after(10):
        async with proxy() as (where, heads):
            monkeypatch.setenv("HTTPS_PROXY", f"http://{where}")
            async with feed_over(authority, trust_env=trust) as (feed, _), feed.ticker("XBTUSDTM") as tickers:
                await tickers.receive()
    assert len(heads) == (2 if trust and used else 0)


@pytest.mark.parametrize(
    "url",
    [
        *("proxy:8080", "https://proxy", "socks5://proxy", "http:///x", "http://h:99999", "http://h:0", 7),
        *("http://a b:1", "http://a..b:1", "http://h:1/path", "http://h:1?x", "http://h:1#x", "http://@"),
    ],
)
def test_a_bad_proxy_is_refused_without_being_repeated(url: Any) -> None:
    with pytest.raises(UsageError, match="proxy must be a URL") as error:
        FeedConfig(proxy=url)
    assert str(url) not in str(error.value)


@pytest.mark.parametrize(
    "password", ["p@ss/w0rd", "pa/ss", "12/34", "p@ss", "p#q", "p?q", "[p]", "p\\q", "pä", "p\udcff"]
)
def test_a_password_that_could_be_read_otherwise_is_refused(password: str) -> None:
    """Part of it would be the host, and be looked up and shown."""
    with pytest.raises(UsageError, match="percent-encoded") as error:
        FeedConfig(proxy=f"http://user:{password}@proxy.corp:3128")
    assert not {"p@ss", "w0rd", "12", "udcff", "corp"} & set(re.findall("[a-z0-9@]+", repr(error.value)))
    with pytest.raises(UsageError):
        FeedConfig(proxy=f"http://{password}:x@proxy.corp:3128")


def test_what_a_proxy_url_may_say() -> None:
    assert Proxy.from_url("http://h") == Proxy("h", 80)
    assert Proxy.from_url("http://H.:8080/") == Proxy("h", 8080)
    assert Proxy.from_url("http://[::1]:99") == Proxy("::1", 99)
    assert Proxy.from_url("http://u@h:1").authorization == b"Basic " + base64.b64encode(b"u:")
    assert Proxy.from_url("http://u:a:b@h:1").authorization == b"Basic " + base64.b64encode(b"u:a:b")
    # Bytes as they were escaped; and a colon in the user would begin the password (RFC 7617, section 2).
    assert Proxy.from_url("http://u:%ff%C3%A4@h:1").authorization == b"Basic " + base64.b64encode(b"u:\xff\xc3\xa4")
    with pytest.raises(UsageError):
        Proxy.from_url("http://a%3Ab:c@h:1")
    assert SECRET not in repr(Proxy.from_url(f"http://{USER}@h"))
