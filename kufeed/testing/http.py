"""HTTP/1.1 as the exchange speaks it: requests in, replies out, and which market a request is for."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

import attrs
import h11

if TYPE_CHECKING:
    import trio

    from kufeed.testing.market import MarketName
    from kufeed.testing.rest import Reply

MARKETS: tuple[MarketName, ...] = ("spot", "futures")
_BASES: dict[str, MarketName] = {"api.kucoin.com": "spot", "api-futures.kucoin.com": "futures"}  # PROTOCOL section 1
# The exchange names one server per market today; those of other numbers are named as it might name them.
_SERVERS: dict[MarketName, re.Pattern[str]] = {
    market: re.compile(rf"ws-api-{market}(?:-([2-9]|[1-9][0-9]+))?\.kucoin\.com") for market in MARKETS
}
_STATUSES = frozenset(HTTPStatus)


@attrs.frozen
class Host:
    """One of KuCoin's hosts: `server` is the number of the instance server, None for a host of requests."""

    market: MarketName
    server: int | None


def find_host(name: str) -> Host | None:
    """The host of that name; None where KuCoin has none."""
    if name in _BASES:
        return Host(_BASES[name], None)
    for market, pattern in _SERVERS.items():
        if found := pattern.fullmatch(name):
            return Host(market, int(found[1] or 1) - 1)
    return None


def server_host(market: MarketName, server: int) -> str:
    """The name of the host of an instance server."""
    return f"ws-api-{market}{f'-{server + 1}' if server else ''}.kucoin.com"


@attrs.frozen
class Where:
    """Which market a request is for, and what is asked of it."""

    market: MarketName
    prefixed: bool
    host: str
    path: str
    query: dict[str, str]
    target: str
    """Path and query as one text, without percent signs: what a signature is about."""


def locate(target: str, host: str) -> Where | None:
    """Whose request this is, by the path's prefix or else by the host's name; None where neither tells."""
    parts = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    first, _, path = parts.path.removeprefix("/").partition("/")
    for market in MARKETS:
        if first == market:
            return Where(market, True, host, f"/{path}", query, _target(f"/{path}", parts.query))
    named = find_host(host.rpartition(":")[0] or host)
    return (
        None if named is None else Where(named.market, False, host, parts.path, query, _target(parts.path, parts.query))
    )


def _target(path: str, query: str) -> str:
    return unquote(f"{path}?{query}" if query else path)


async def next_request(connection: h11.Connection, stream: trio.abc.Stream, raw: bytearray) -> h11.Request | None:
    """The next request, its body read and thrown away; None at the end of the connection.

    *raw* collects the bytes as they came, for the WebSocket handshake which starts from the beginning. For an upgrade
    it returns as soon as the head is complete.
    """
    request: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await stream.receive_some()
            if request is None:
                raw += data
            connection.receive_data(bytes(data))
        elif isinstance(event, h11.Request):
            request = event
            if any(name == b"upgrade" for name, _ in event.headers):
                return request
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return None


async def send_reply(
    connection: h11.Connection,
    stream: trio.abc.Stream,
    reply: Reply,
    *,
    close: bool = False,
    body: bytes | None = None,
) -> None:
    """Send *reply*, with *close* as the last one of its connection; with *body* where that is not the reply's own."""
    if body is None:
        body = reply.body.encode()
    head = reply_head(connection, reply, len(body), close=close)
    rest = [connection.send(event) for event in (h11.Data(data=body), h11.EndOfMessage())]
    await stream.send_all(b"".join(part for part in (head, *rest) if part))


def reply_head(connection: h11.Connection, reply: Reply, length: int, *, close: bool = False) -> bytes:
    """The head of *reply*, which says that *length* bytes follow."""
    headers = [
        ("content-type", "application/json"),
        ("content-length", str(length)),
        *reply.headers,
        *([("connection", "close")] if close else []),
    ]
    reason = HTTPStatus(reply.status).phrase if reply.status in _STATUSES else ""
    head = connection.send(h11.Response(status_code=reply.status, headers=headers, reason=reason.encode()))
    return head or b""
