"""The token request: what an answer may be, and where it may send us."""

from __future__ import annotations

import json
import ssl
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import ujson
from trio.testing import MockClock, memory_stream_pair

from kufeed import ExchangeError
from kufeed._rest import Rest, Token, is_loopback
from kufeed._untrusted import Url, read_url

Serve = Callable[[trio.abc.Stream], Awaitable[None]]


def settings() -> ssl.SSLContext:
    """Nothing is encrypted here."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


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


def token_body(endpoint: Any = "wss://ws-api-spot.kucoin.com/", **changes: Any) -> bytes:
    server = {
        "endpoint": endpoint,
        "encrypt": True,
        "protocol": "websocket",
        "pingInterval": 18000,
        "pingTimeout": 10000,
    }
    server |= {key: value for key, value in changes.items() if key in server}
    data: dict[str, Any] = {"token": "SECRET+/==", "instanceServers": [server]}
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
        rest = Rest(network, base, settings, ujson.loads, hosts)
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
    assert server.endpoint == Url("wss", "ws-api-spot.kucoin.com", 443, "/")
    assert (server.ping_interval, server.pong_timeout) == (18.0, 10.0)
    assert token.target(server, "me") == "/?token=SECRET%2B%2F%3D%3D&connectId=me"
    assert network.asked == [("api.kucoin.com", 443, True)]
    assert "SECRET" not in repr(token) + repr(token.target(server, "me"))


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
    ("base", "host", "asked"),
    [
        ("http://[::1]:8080", "[::1]:8080", ("::1", 8080, False)),
        ("http://[0:0:0:0:0:0:0:1]", "[::1]", ("::1", 80, False)),
        ("https://API.KuCoin.com.:443", "api.kucoin.com", ("api.kucoin.com", 443, True)),
    ],
)
async def test_the_host_is_asked_and_named_in_one_way(
    autojump_clock: MockClock, base: str, host: str, asked: tuple[str, int, bool]
) -> None:
    heads: list[bytes] = []

    async def serve(stream: trio.abc.Stream) -> None:
        heads.append(bytes(await stream.receive_some(65536)))
        await stream.send_all(reply(token_body()))

    _, network = await fetch(serve, base=base)
    assert f"\r\nHost: {host}\r\n" in heads[0].decode()
    assert network.asked == [asked]


SERVER = {"endpoint": "wss://kucoin.com", "pingInterval": 1000, "pingTimeout": 1000}
BAD_TOKENS = ["SECRET\ud800", "SECRET\r\nX: y", "SECRET \u00fc", ["SECRET"]]
BAD_ENDPOINTS: list[Any] = [
    7, {"a": 1}, [1], None, "", "wss://a..kucoin.com/", "wss://.kucoin.com/", f"wss://{'a' * 70}.kucoin.com/",
    "wss://a\0b.kucoin.com/", "wss://a%00.kucoin.com/", "wss://a b.kucoin.com/", "wss://\u00fc.kucoin.com/",
    "wss://\u2603\u200d.kucoin.com/", "wss://a\ud800.kucoin.com/", "wss://\u212aucoin.com/", "wss://kucoin.com/\u00fc",
    "wss://kucoin.com/\ud800", "wss://kucoin.com/a b", "wss://kucoin.com/a\r\nX: 1\r\n", "wss://kucoin.com\r\n:443/",
    "wss://kucoin.com/a\x0bX", "wss://evil@kucoin.com/", "wss://a..b@kucoin.com/", "wss://evil.com\\@kucoin.com/",
    "wss://evil.com\\.kucoin.com/", " wss://kucoin.com/", "wss://kucoin.com/#x", "wss://kucoin.com:0/",
]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (reply(b"{}"), "HTTP 200 without KuCoin's envelope"),
        (reply(b"[1, 2]"), "without KuCoin's envelope"),
        (reply(b"\xff\xfe garbage"), "without KuCoin's envelope"),
        (reply(b"[" * 60_000), "without KuCoin's envelope"),
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
        (reply(b"x" * 65537), "more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 300,
         "more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + token_body() + b"\r\n0\r\n\r\n",
         "not HTTP: illegal chunk header$"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nSECRET\r\n0\r\n\r\n", "malformed chunk footer$"),
        (reply(token_body(), status="500 Oops"), "HTTP 500"),
        (reply(b'{"code":"4","msg":' + b"[" * 1000 + b"]" * 1000 + b"}"), "HTTP 200 .* envelope"),
        (reply(b'{"code":"4","msg":{"token":"SECRET"}}'), "HTTP 200 .* envelope"),
        (reply(token_body().replace(b'"SECRET+/=="', b"[" * 1000 + b"]" * 1000)), "no token"),
        (reply(token_body(instanceServers={"a": 1})), "documented shape"),
        (reply(token_body(instanceServers=[7])), "documented shape"),
        (reply(token_body(instanceServers=[SERVER] * 33)), "documented shape"),
        *((reply(token_body(token=token)), "no token") for token in BAD_TOKENS),
        *((reply(token_body(endpoint)), "documented shape") for endpoint in BAD_ENDPOINTS),
    ],
)  # fmt: skip
async def test_garbage_and_wrong_types_are_an_exchange_error(
    autojump_clock: MockClock, answer: bytes, match: str
) -> None:
    """Never another exception, never a redirect followed, never a body without bound; the connection is closed."""
    with trio.fail_after(5), pytest.raises(ExchangeError, match=match) as error:
        await fetch(answer)
    assert "SECRET" not in repr(error.value)


async def test_as_many_servers_and_bytes_as_fit_are_taken(autojump_clock: MockClock) -> None:
    body = token_body(instanceServers=[SERVER] * 32)
    token, _ = await fetch(reply(body + b" " * (65536 - len(body))))
    assert len(token.servers) == 32


@pytest.mark.parametrize(
    ("envelope", "text", "code"),
    [
        ({"code": "400100", "msg": "x" * 5000}, "/api/v1/bullet-public: " + "x" * 197 + "... (code 400100)", "400100"),
        (
            {"code": "1", "msg": "a\n2026 forged\x1b[31m"},
            r"/api/v1/bullet-public: a\n2026 forged\x1b[31m (code 1)",
            "1",
        ),
        ({"code": "1", "msg": "\ud800"}, r"/api/v1/bullet-public: \ud800 (code 1)", "1"),
        ({"code": "A" * 5000, "msg": "m"}, "/api/v1/bullet-public: m", None),
        ({"code": "4\n5", "msg": "m"}, "/api/v1/bullet-public: m", None),
        ({"code": 400100, "msg": "m"}, "/api/v1/bullet-public: m", None),
    ],
)
async def test_what_the_exchange_says_is_told_on_one_short_line(
    autojump_clock: MockClock, envelope: dict[str, Any], text: str, code: str | None
) -> None:
    with pytest.raises(ExchangeError) as error:
        await fetch(reply(json.dumps(envelope).encode()))
    assert str(error.value) == text
    assert error.value.code == code


TOKEN_CUT_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + token_body()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(token_body()) + token_body()


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize(
    "answer", [TOKEN_CUT_OFF, CHUNKED + b"\r\nSECRET\r\n", reply(token_body(), status="500 Oops"), reply(token_body(7))]
)
async def test_no_traceback_shows_a_token_whatever_became_of_the_answer(
    autojump_clock: MockClock, answer: bytes, broken: bool
) -> None:
    """Not even one that comes with the values of variables."""

    class Breaking(trio.abc.ReceiveStream):
        def __init__(self, stream: trio.abc.Stream) -> None:
            self.stream = stream

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            if data := await self.stream.receive_some(max_bytes):
                return data
            raise trio.BrokenResourceError("broken") from ConnectionResetError("reset")

        async def aclose(self) -> None:
            await self.stream.aclose()

    class Network(Served):
        async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
            stream = await super().open_stream(host, port, tls)
            return trio.StapledStream(stream, Breaking(stream)) if broken else stream

    async def serve(stream: trio.abc.Stream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        network = Network(nursery, serve)
        with pytest.raises((ExchangeError, trio.BrokenResourceError)) as error:
            await Rest(network, "https://api.kucoin.com", settings, ujson.loads).fetch_token()
        if answer == TOKEN_CUT_OFF and broken:
            assert isinstance(error.value.__cause__, ConnectionResetError)
        nursery.cancel_scope.cancel()
    shown = traceback.TracebackException(error.type, error.value, error.tb.tb_next, capture_locals=True)
    text = "".join(shown.format())
    assert "in fetch_token" in text
    assert "SECRET" not in text


async def test_a_server_that_takes_no_goodbye_holds_nobody(autojump_clock: MockClock) -> None:
    class Clinging(trio.abc.Stream):
        def __init__(self, stream: trio.abc.Stream) -> None:
            self.stream = stream

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            await self.stream.send_all(data)

        async def wait_send_all_might_not_block(self) -> None:
            await self.stream.wait_send_all_might_not_block()

        async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
            return await self.stream.receive_some(max_bytes)

        async def aclose(self) -> None:
            try:
                await trio.sleep(60)
            finally:
                await trio.aclose_forcefully(self.stream)

    class Network(Served):
        async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
            return Clinging(await super().open_stream(host, port, tls))

    async def serve(stream: trio.abc.Stream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(reply(token_body()))

    async with trio.open_nursery() as nursery:
        network = Network(nursery, serve)
        await Rest(network, "https://api.kucoin.com", settings, ujson.loads).fetch_token()
    assert trio.current_time() == 0


@pytest.mark.parametrize(
    ("endpoint", "base", "hosts"),
    [
        ("wss://ws-api-spot.kucoin.com/", "https://api.kucoin.com", ()),
        ("wss://push-private.kucoin.com/endpoint", "https://api.kucoin.com", ()),
        ("wss://ws.kucoin.eu", "https://api.kucoin.eu", ()),
        ("wss://KUCOIN.COM./", "https://api.kucoin.com", ()),
        ("wss://gateway.example/", "https://gateway.example:8443/kucoin", ()),
        ("wss://relay.example/", "https://api.kucoin.com", ("Relay.example",)),
        ("wss://relay.example./", "https://api.kucoin.com", ("relay.example",)),
        ("wss://relay.example/", "https://api.kucoin.com", ("relay.example.",)),
        ("wss://gateway.example/", "https://gateway.example./", ()),
        ("wss://[0::1]/", "https://api.kucoin.com", ("::1",)),
        ("ws://127.0.0.1:1234/", "http://127.0.0.1:80", ()),
        ("ws://localhost/", "http://localhost", ()),
        ("ws://[::1]:80/", "http://[::1]:80", ()),
    ],
)
async def test_a_token_goes_to_known_hosts(
    autojump_clock: MockClock, endpoint: str, base: str, hosts: tuple[str, ...]
) -> None:
    token, _ = await fetch(reply(token_body(endpoint)), base=base, hosts=hosts)
    assert token.servers[0].endpoint == read_url(endpoint, "ws", "wss")


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
    # Nor where it is not the first: any of them may be the one that is dialled.
    good, bad = (json.loads(token_body(one))["data"]["instanceServers"] for one in ("wss://kucoin.com/", endpoint))
    with pytest.raises(ExchangeError, match=match):
        await fetch(reply(token_body(instanceServers=good + bad)), base=base)


def test_what_loopback_is() -> None:
    assert all(map(is_loopback, ["localhost", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["", "kucoin.com", "10.0.0.1", "localhost.example", "0.0.0.0"]))


@pytest.mark.parametrize("blanks", [b"", b" " * 4000])
async def test_a_control_character_in_the_head_is_no_http(autojump_clock: MockClock, blanks: bytes) -> None:
    """Behind many blanks h11 would take quadratic time to find it, and nothing else could run meanwhile."""
    with pytest.raises(ExchangeError, match="control character"):
        await fetch(b"HTTP/1.1 200 OK\r\nX: " + blanks + b"\x00\r\n\r\n{}")


async def test_a_control_character_in_the_body_is_data(autojump_clock: MockClock) -> None:
    with pytest.raises(ExchangeError, match="without KuCoin's envelope"):
        await fetch(reply(b"\x00"))


def test_a_text_that_repeats_a_piece_of_the_token_is_hidden() -> None:
    token = Token((), "abcdefghijklmnopqrstuvwxyz==")
    assert token.hide("closed: the server is going away") == "closed: the server is going away"
    for text in ("abcdefghijklmnopqrstuvwxyz==", "bad defghijklmnopq", "token=abc&x=nopqrstuvwxyz%3D%3D"):
        assert token.hide(f"no: {text}") == "(a text that repeats the token)"
