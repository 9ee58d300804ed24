"""REST requests over the network seam, and the connection token they fetch."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import attrs
import trio

from .errors import ExchangeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._network import Network

_MAX_BODY = 16 * 2**20
"""Bytes of one answer. The largest that a feed asks for, the list of all contracts, has about 1 MB."""


@attrs.frozen
class Server:
    """One instance server of a token reply. The repr shows no token because there is none in it."""

    endpoint: str
    ping_interval: float
    """Seconds; the wire says milliseconds."""
    pong_timeout: float


@attrs.frozen
class Token:
    """A connection token and where it may be used. Asked for anew before every dial: a token lives 24 h at most."""

    servers: tuple[Server, ...]
    _secret: str = attrs.field(repr=False)

    def target(self, server: Server, connect_id: str) -> str:
        """The path and query of the upgrade request. Holds the token: never log it."""
        parts = urlsplit(server.endpoint)
        query = f"token={quote(self._secret, safe='')}&connectId={quote(connect_id, safe='')}"
        return f"{parts.path or '/'}?{parts.query + '&' if parts.query else ''}{query}"


class Rest:
    """Requests to one market's REST base, each on a connection of its own (a feed asks seldom)."""

    def __init__(
        self, network: Network, base_url: str, tls: Callable[[], ssl.SSLContext], loads: Callable[[bytes], Any]
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._network = network
        self._tls = tls
        self._loads = loads

    async def fetch_token(self) -> Token:
        """`POST /api/v1/bullet-public` (KuCoin: apply connect token, public).

        Raises `ExchangeError` where the answer is not a token, `OSError` or `trio.BrokenResourceError` where there is
        none. Cancellation closes the connection.
        """
        data = await self._request("POST", "/api/v1/bullet-public")
        try:
            servers = tuple(_read_server(server) for server in data["instanceServers"])
            secret = data["token"]
        except (KeyError, TypeError, ValueError):
            raise ExchangeError("the token reply does not have the documented shape") from None
        if not servers or not isinstance(secret, str) or not secret:
            raise ExchangeError("the token reply names no server or no token")
        return Token(servers, secret)

    async def _request(self, method: str, path: str) -> Any:
        """The `data` of an answer whose `code` is KuCoin's word for success."""
        # Not at the top: importing it takes longer than all of kufeed, and a program may never dial.
        import httpcore2  # noqa: PLC0415

        url = httpcore2.URL(self.base_url + path)
        headers = [("Host", _host_header(self.base_url)), ("Content-Type", "application/json"), ("Connection", "close")]
        headers += [("Accept-Encoding", "identity"), ("Accept", "application/json"), ("Content-Length", "0")]
        tls = self._tls() if url.scheme == b"https" else None
        backend = _Backend(self._network, tls)
        try:
            async with (
                httpcore2.AsyncConnectionPool(tls, network_backend=backend, max_keepalive_connections=0) as pool,
                pool.stream(method, url, headers=headers) as response,
            ):
                body = bytearray()
                async for part in response.aiter_stream():
                    body += part
                    if len(body) > _MAX_BODY:
                        raise ExchangeError(f"the answer to {path} has more than {_MAX_BODY} bytes")
        except httpcore2.ProtocolError as error:
            raise ExchangeError(f"{path}: the answer is not HTTP ({error})") from None
        return self._unwrap(path, response.status, bytes(body))

    def _unwrap(self, path: str, status: int, body: bytes) -> Any:
        try:
            answer = self._loads(body)
        except (ValueError, RecursionError):
            answer = None
        code = answer.get("code") if isinstance(answer, Mapping) else None
        # Business errors can come with HTTP 200 (KuCoin, REST introduction): the code decides.
        if isinstance(answer, Mapping) and code == "200000" and status == 200:
            return answer.get("data")
        message = answer.get("msg") if isinstance(answer, Mapping) else None
        shown = str(message)[:200] if message else f"HTTP {status} without KuCoin's envelope"
        raise ExchangeError(f"{path}: {shown}", code=code if isinstance(code, str) else None)


def _read_server(server: Mapping[str, Any]) -> Server:
    endpoint, interval, timeout = server["endpoint"], server["pingInterval"], server["pingTimeout"]
    parts = urlsplit(endpoint)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError("not a WebSocket endpoint")
    for number in (interval, timeout):
        if type(number) is not int or not 0 < number < 86_400_000:
            raise ValueError("not milliseconds within a day")
    return Server(endpoint, interval / 1000, timeout / 1000)


def _host_header(base_url: str) -> str:
    return urlsplit(base_url).netloc


class _Backend:
    """httpcore2's view of the seam. TLS is finished by `open_stream`, so `start_tls` finds nothing left to do."""

    def __init__(self, network: Network, tls: ssl.SSLContext | None) -> None:
        self._network = network
        self._tls = tls

    async def connect_tcp(self, host: str, port: int, **_: Any) -> _Stream:
        return _Stream(await self._network.open_stream(host, port, self._tls))

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)


class _Stream:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # httpcore2's
        return bytes(await self._stream.receive_some(max_bytes))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # httpcore2's
        if buffer:
            await self._stream.send_all(buffer)

    async def start_tls(self, *_: Any, **__: Any) -> _Stream:
        return self

    async def aclose(self) -> None:
        # An answer is read whole before this, or nobody wants the rest: no manners needed, and none may hang.
        await trio.aclose_forcefully(self._stream)

    def get_extra_info(self, info: str) -> Any:
        return None


