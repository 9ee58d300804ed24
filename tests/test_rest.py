"""The token request: what an answer may be, and where it may send us."""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import ujson
from trio.testing import MockClock, memory_stream_pair

from kufeed import ExchangeError
from kufeed._rest import Rest, Token, is_loopback

Serve = Callable[[trio.abc.Stream], Awaitable[None]]


class Served:
    """A network with one host, whose behaviour the test chooses."""

    def __init__(self, nursery: trio.Nursery, serve: Serve) -> None:
        self.nursery = nursery
        self.serve = serve
        self.asked: list[tuple[str, int, bool]] = []
        self.streams: list[trio.abc.Stream] = []

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        self.asked.append((host, port, tls is not None))
        ours, theirs = memory_stream_pair()
        self.streams.append(ours)
        self.nursery.start_soon(self.serve, theirs)
        return ours

    def time_ns(self) -> int:
        return 0

    def perf_counter(self) -> float:
        return 0.0


def reply(body: bytes, *, status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


def token_body(endpoint: str = "wss://ws-api-spot.kucoin.com/", **changes: Any) -> bytes:
    server = {
        "endpoint": endpoint,
        "encrypt": True,
        "protocol": "websocket",
        "pingInterval": 18000,
        "pingTimeout": 10000,
    }
    server |= {key: value for key, value in changes.items() if key in server}
    data = {"token": "SECRET+/==", "instanceServers": [server]}
    data |= {key: value for key, value in changes.items() if key in data}
    return json.dumps({"code": "200000", "data": data}).encode()


async def fetch(
    answer: bytes | Serve, *, base: str = "https://api.kucoin.com", hosts: tuple[str, ...] = ()
) -> tuple[Token, Served]:
    async def serve(stream: trio.abc.Stream) -> None:
        await stream.receive_some(65536)
        assert isinstance(answer, bytes)
        try:
            await stream.send_all(answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    outcome: list[Token] = []
    error: list[ExchangeError] = []
    async with trio.open_nursery() as nursery:
        network = Served(nursery, serve if isinstance(answer, bytes) else answer)
        rest = Rest(network, base, ssl.create_default_context, ujson.loads, hosts)
        try:
            outcome.append(await rest.fetch_token())
        except ExchangeError as failure:
            error.append(failure)
        nursery.cancel_scope.cancel()
    for stream in network.streams:
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some(1)
    if error:
        raise error[0]
    return outcome[0], network


async def test_a_token_reply_is_read(autojump_clock: MockClock) -> None:
    token, network = await fetch(reply(token_body()))
    (server,) = token.servers
    assert (server.endpoint, server.ping_interval, server.pong_timeout) == ("wss://ws-api-spot.kucoin.com/", 18.0, 10.0)
    assert token.target(server, "me") == "/?token=SECRET%2B%2F%3D%3D&connectId=me"
    assert network.asked == [("api.kucoin.com", 443, True)]
    assert "SECRET" not in repr(token)


async def test_the_request_asks_for_nothing_compressed(autojump_clock: MockClock) -> None:
    heads: list[bytes] = []

    async def serve(stream: trio.abc.Stream) -> None:
        heads.append(bytes(await stream.receive_some(65536)))
        await stream.send_all(reply(token_body("ws://127.0.0.1:99/x?a=b")))

    token, network = await fetch(serve, base="http://127.0.0.1:8080/spot/")
    head = heads[0].decode()
    assert head.startswith("POST /spot/api/v1/bullet-public HTTP/1.1\r\n")
    assert "Host: 127.0.0.1:8080\r\n" in head
    assert "Accept-Encoding: identity\r\n" in head
    assert network.asked == [("127.0.0.1", 8080, False)]
    assert token.target(token.servers[0], "1") == "/x?a=b&token=SECRET%2B%2F%3D%3D&connectId=1"


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (reply(b"{}"), "HTTP 200 without KuCoin's envelope"),
        (reply(b"[1, 2]"), "without KuCoin's envelope"),
        (reply(b"\xff\xfe garbage"), "without KuCoin's envelope"),
        (reply(b"[" * 100_000), "without KuCoin's envelope"),
        (reply(b"<html>busy</html>", status="503 Service Unavailable"), "HTTP 503"),
        (reply(b'{"code":"429000","msg":"Too Many Requests"}', status="429 Too Many"), "Too Many Requests"),
        (reply(b'{"code":"400100","msg":"Invalid Parameter."}'), "Invalid Parameter"),
        (reply(b"", status="302 Found", extra="Location: https://elsewhere.example/\r\n"), "HTTP 302"),
        (reply(b'{"code":"200000","data":null}'), "documented shape"),
        (reply(b'{"code":"200000","data":{"token":"x","instanceServers":[]}}'), "no server"),
        (reply(token_body(token="")), "no token"),
        (reply(token_body(token=7)), "no token"),
        (reply(token_body(pingInterval="18000")), "documented shape"),
        (reply(token_body(pingInterval=0)), "documented shape"),
        (reply(token_body(pingTimeout=True)), "documented shape"),
        (reply(token_body(pingTimeout=10**12)), "documented shape"),
        (reply(token_body("https://ws-api-spot.kucoin.com/")), "documented shape"),
        (reply(token_body("wss://[broken/")), "documented shape"),
        (reply(token_body("wss://ws-api-spot.kucoin.com:99999/")), "documented shape"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000, "not HTTP"),
        (reply(b"x" * (17 * 2**20)), "more than 16777216 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 300,
         "more than 16777216 bytes"),
    ],
)  # fmt: skip
async def test_garbage_and_wrong_types_are_an_exchange_error(
    autojump_clock: MockClock, answer: bytes, match: str
) -> None:
    """Never another exception, never a redirect followed, never a body without bound; the connection is closed."""
    with trio.fail_after(5), pytest.raises(ExchangeError, match=match) as error:
        await fetch(answer)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    ("endpoint", "base", "hosts"),
    [
        ("wss://ws-api-spot.kucoin.com/", "https://api.kucoin.com", ()),
        ("wss://push-private.kucoin.com/endpoint", "https://api.kucoin.com", ()),
        ("wss://ws.kucoin.eu", "https://api.kucoin.eu", ()),
        ("wss://KUCOIN.COM./", "https://api.kucoin.com", ()),
        ("wss://gateway.example/", "https://gateway.example:8443/kucoin", ()),
        ("wss://relay.example/", "https://api.kucoin.com", ("Relay.example",)),
        ("ws://127.0.0.1:1234/", "http://127.0.0.1:80", ()),
        ("ws://localhost/", "http://localhost", ()),
        ("ws://[::1]:80/", "http://[::1]:80", ()),
    ],
)
async def test_a_token_goes_to_known_hosts(
    autojump_clock: MockClock, endpoint: str, base: str, hosts: tuple[str, ...]
) -> None:
    token, _ = await fetch(reply(token_body(endpoint)), base=base, hosts=hosts)
    assert token.servers[0].endpoint == endpoint


@pytest.mark.parametrize(
    ("endpoint", "base", "match"),
    [
        ("wss://kucoin.com.evil.example/", "https://api.kucoin.com", r"evil\.example; FeedConfig\.allowed_hosts"),
        ("wss://notkucoin.com/", "https://api.kucoin.com", "allowed_hosts"),
        ("wss://127.0.0.1/", "https://api.kucoin.com", "allowed_hosts"),
        ("ws://ws-api-spot.kucoin.com/", "https://api.kucoin.com", "only wss"),
        ("ws://10.0.0.5/", "http://10.0.0.5", "only wss"),
        ("ws://127.0.0.1/", "https://127.0.0.1", "only wss"),
    ],
)  # fmt: skip
async def test_and_to_no_other(autojump_clock: MockClock, endpoint: str, base: str, match: str) -> None:
    """The refusal names the host and the setting that would allow it."""
    with pytest.raises(ExchangeError, match=match):
        await fetch(reply(token_body(endpoint)), base=base)


def test_what_loopback_is() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["", "kucoin.com", "10.0.0.1", "localhost.example", "0.0.0.0"]))
