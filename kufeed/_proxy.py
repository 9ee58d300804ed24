"""Connections through an HTTP proxy: a network around a network, so that nothing above it knows."""

from __future__ import annotations

import base64
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import attrs
import h11
import trio

from ._tls import TLSStream
from ._untrusted import has_control, http_problem, is_visible, read_host, read_url
from .errors import UsageError

if TYPE_CHECKING:
    import ssl

    from ._network import Network

_TAKEN_FOR_AN_END = frozenset("/?#@\\[]")
"""Of user and password, by one reader of URLs or another, where they are not percent-encoded."""


@attrs.frozen
class Proxy:
    """An HTTP proxy. Its repr has no password."""

    host: str
    port: int
    authorization: bytes | None = attrs.field(default=None, repr=False)
    """The value of `Proxy-Authorization`, where the URL had a user."""

    @classmethod
    def from_url(cls, url: str) -> Proxy:
        """Read `http://user:password@host:port`; a `UsageError` does not repeat it.

        User and password are percent-encoded. What could be read in two ways is refused: part of a password would be
        taken for the host, and be looked up and shown.
        """
        try:
            scheme, _, rest = url.partition("://")
            user, at, place = rest.rpartition("@")
            address = read_url(f"{scheme}://{place}", "http")
            if address.path.strip("/") or address.query or not is_visible(user) or _TAKEN_FOR_AN_END & set(user):
                raise ValueError
            name, _, password = map(unquote_to_bytes, user.partition(":"))
            if b":" in name:  # it would begin the password (RFC 7617, section 2)
                raise ValueError
        except (ValueError, AttributeError, TypeError):
            raise UsageError(
                "proxy must be a URL such as http://user:password@host:8080, user and password percent-encoded"
            ) from None
        secret = b"Basic " + base64.b64encode(name + b":" + password) if at else None
        return cls(address.host, address.port, secret)


class ProxyNetwork:
    """*network*, with connections through *proxy*; without one, TLS connections through the environment's.

    The environment's is `HTTPS_PROXY`, except for the hosts of `NO_PROXY`, as Python's own `urllib` reads them; it is
    looked at for each connection.
    """

    def __init__(self, network: Network, proxy: Proxy | None) -> None:
        self._network = network
        self._proxy = proxy
        self.time_ns = network.time_ns
        self.perf_counter = network.perf_counter

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        """As `Network.open_stream`; a refusal of the proxy is a `ConnectionError` with its status.

        So is a *host* that is neither a name nor an address: a proxy cannot be asked for it.
        """
        proxy = self._proxy
        if proxy is None and tls is not None:
            proxy = _proxy_of_environment(host)
        if proxy is None:
            return await self._network.open_stream(host, port, tls)
        try:
            host = read_host(host)
        except ValueError as error:
            raise ConnectionError(f"a proxy cannot be asked for the host: {error}") from None
        stream = await self._network.open_stream(proxy.host, proxy.port, None)
        try:
            await _connect(stream, proxy, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            if tls is not None:
                stream = secured = TLSStream(stream, tls, server_hostname=host)
                await secured.do_handshake()
            return stream
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise


def _proxy_of_environment(host: str) -> Proxy | None:
    proxies = urllib.request.getproxies_environment()
    if "https" not in proxies or urllib.request.proxy_bypass_environment(host, proxies):  # type: ignore[attr-defined]
        return None
    try:
        return Proxy.from_url(proxies["https"])
    except UsageError as error:
        raise ConnectionError(f"HTTPS_PROXY in the environment: {error}") from None


async def _connect(stream: trio.abc.Stream, proxy: Proxy, target: str) -> None:
    """Ask for a tunnel to *target* (RFC 9110, section 9.3.6). h11 bounds the answer's head to 16 KiB."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=16 * 1024)
    where = f"the proxy {proxy.host}:{proxy.port}"
    try:
        await stream.send_all(_request(connection, proxy, target))
    except trio.BrokenResourceError as error:
        # Not `from error`: the values in its frames are those of the request, and so of the password.
        raise ConnectionError(f"{where} broke the connection: {error.__cause__ or error}") from None
    try:
        status = await _read_status(stream, connection)
    except h11.RemoteProtocolError as error:
        raise ConnectionError(f"{where} did not answer in HTTP: {http_problem(error)}") from None
    if status is None:
        raise ConnectionError(f"{where} closed the connection")
    if not 200 <= status < 300:
        raise ConnectionError(f"{where} answered HTTP {status} to CONNECT {target}")


async def _read_status(stream: trio.abc.Stream, connection: h11.Connection) -> int | None:
    while not isinstance(event := connection.next_event(), h11.Response):
        # A byte at a time: what follows the head belongs to the tunnel, and nobody may read it here.
        byte = await stream.receive_some(1)
        if not byte:
            return None
        if has_control(bytes(byte)):  # h11 takes quadratic time to find one behind many blanks
            raise h11.RemoteProtocolError("illegal header line")
        connection.receive_data(bytes(byte))
    return event.status_code


def _request(connection: h11.Connection, proxy: Proxy, target: str) -> bytes:
    headers = [(b"Host", target.encode())]
    if proxy.authorization is not None:
        headers.append((b"Proxy-Authorization", proxy.authorization))
    request = h11.Request(method=b"CONNECT", target=target.encode(), headers=headers)
    return (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
