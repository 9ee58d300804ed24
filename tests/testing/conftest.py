"""A plain client of the exchange: trio-websocket and hand-written HTTP, nothing of kufeed's own client side."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

import attrs
import pytest
import trio
import trio_websocket

from kufeed.testing import MemoryNetwork
from kufeed.testing.services import open_services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kufeed.testing import Exchange

HOSTS = {"spot": "api.kucoin.com", "futures": "api-futures.kucoin.com"}


@attrs.frozen
class Response:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def data(self) -> Any:
        assert self.json["code"] == "200000", self.text
        return self.json["data"]


class Client:
    """One WebSocket; frames in and out are dictionaries."""

    def __init__(self, websocket: trio_websocket.WebSocketConnection, stream: trio.abc.Stream) -> None:
        self.websocket = websocket
        self.stream = stream

    async def send(self, frame: dict[str, Any] | str) -> None:
        await self.websocket.send_message(frame if isinstance(frame, str) else json.dumps(frame))

    async def receive(self) -> dict[str, Any]:
        frame = json.loads(await self.websocket.get_message())
        assert isinstance(frame, dict)
        return frame

    async def receive_until(self, kind: str) -> dict[str, Any]:
        """The next frame of this type; others are thrown away."""
        while True:
            frame = await self.receive()
            if frame["type"] == kind:
                return frame

    async def subscribe(self, topic: str, request_id: object = "s", kind: str = "subscribe") -> dict[str, Any]:
        """Ask for an ack; the answer, an ack or an error."""
        await self.send({"id": request_id, "type": kind, "topic": topic, "response": True})
        while True:
            frame = await self.receive()
            if frame["type"] in {"ack", "error"}:
                return frame

    async def pushes(self, count: int) -> list[dict[str, Any]]:
        return [await self.receive_until("message") for _ in range(count)]

    async def closed(self) -> int:
        """Read to the end of the connection; the close code."""
        while True:
            try:
                await self.websocket.get_message()
            except trio_websocket.ConnectionClosed as error:
                return error.reason.code if error.reason else 0


async def http(stream: trio.abc.Stream, method: str, target: str, host: str, *, extra: str = "") -> Response:
    """One request on *stream*; reads exactly one response."""
    head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n{extra}\r\n"
    await stream.send_all(head.encode())
    received = b""
    while b"\r\n\r\n" not in received:
        received += await _some(stream)
    raw_head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = raw_head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += await _some(stream)
    return Response(int(status.split()[1]), headers, body.decode())


async def _some(stream: trio.abc.Stream) -> bytes:
    data = await stream.receive_some()
    assert data, "the exchange closed the connection"
    return bytes(data)


class Dialler:
    """Reaches a market over a memory network, or over TCP where a base URL is given instead."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network

    async def request(self, market: str, method: str, target: str) -> Response:
        stream = await self.network.open_stream(HOSTS[market], 443, None)
        async with stream:
            return await http(stream, method, target, HOSTS[market])

    async def token(self, market: str) -> str:
        response = await self.request(market, "POST", "/api/v1/bullet-public")
        return str(response.data["token"])

    @asynccontextmanager
    async def open(
        self, market: str, *, token: str | None = None, query: str = "", welcome: bool = True, server: int = 0
    ) -> AsyncIterator[Client]:
        """A connected client of that instance server, past the welcome. Raises `trio_websocket.ConnectionRejected`."""
        if token is None:
            token = await self.token(market)
        host = f"ws-api-{market}{f'-{server + 1}' if server else ''}.kucoin.com"
        stream = await self.network.open_stream(host, 443, None)
        try:
            async with stream, open_services() as nursery:
                target = f"/?token={quote(token, safe='')}{query}"
                websocket = await trio_websocket.wrap_client_stream(nursery, cast("Any", stream), host, target)
                client = Client(websocket, stream)
                if welcome:
                    assert (await client.receive())["type"] == "welcome"
                yield client
        except ExceptionGroup as group:
            # trio-websocket's reader task is where a refused handshake comes out.
            match group.exceptions:
                case (trio_websocket.ConnectionRejected() as refusal,):
                    raise trio_websocket.ConnectionRejected(*refusal.args) from group
            raise


async def tcp_request(base: str, method: str, path: str) -> Response:
    """One request to an exchange listening on TCP; *base* is one of the address' URLs."""
    parts = urlsplit(base)
    assert parts.hostname is not None
    assert parts.port is not None
    async with await trio.open_tcp_stream(parts.hostname, parts.port) as stream:
        return await http(stream, method, parts.path + path, parts.netloc)


@asynccontextmanager
async def open_tcp_client(base: str, *, server: int = 0) -> AsyncIterator[Client]:
    """A client past the welcome, by the endpoint of that number that the token reply names."""
    bullet = (await tcp_request(base, "POST", "/api/v1/bullet-public")).data
    url = f"{bullet['instanceServers'][server]['endpoint']}?token={quote(bullet['token'], safe='')}"
    async with trio_websocket.open_websocket_url(url) as websocket:
        client = Client(websocket, websocket._stream)
        assert (await client.receive())["type"] == "welcome"
        try:
            yield client
        finally:
            # trio-websocket leaves the socket open where the peer vanished without a close frame.
            if websocket.closed is not None:
                await trio.aclose_forcefully(client.stream)


@asynccontextmanager
async def connected(exchange: Exchange, market: str = "futures") -> AsyncIterator[Client]:
    """One client past the welcome, on a memory network of its own."""
    async with MemoryNetwork(exchange) as network, Dialler(network).open(market) as client:
        yield client


class Tools:
    """Test modules cannot import from here: this hands them what stands above."""

    Dialler = Dialler
    connected = staticmethod(connected)
    http = staticmethod(http)
    tcp_request = staticmethod(tcp_request)
    open_tcp_client = staticmethod(open_tcp_client)


@pytest.fixture
def tools() -> Tools:
    return Tools()
