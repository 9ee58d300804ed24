"""REST requests over the network seam, and the connection token they fetch."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import attrs

from .errors import ExchangeError
from .protocol import rest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from ._http import Reply
    from ._limiter import SlidingWindowLimiter
    from ._network import Network

_MAX_BODY = 16 * 2**20
"""Bytes of one answer. The largest that a feed asks for, the list of all contracts, has about 1 MB."""
_KUCOIN_DOMAINS = ("kucoin.com", "kucoin.eu")


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
        self,
        network: Network,
        base_url: str,
        tls: Callable[[], ssl.SSLContext],
        loads: Callable[[bytes], Any],
        allowed_hosts: Sequence[str] = (),
        budgets: Sequence[SlidingWindowLimiter] = (),
    ) -> None:
        self.budgets = tuple(budgets)
        """Where the weight of each request is taken from beforehand, by whoever asks; all of them hold."""
        self.base_url = base_url.rstrip("/")
        self._allowed_hosts = tuple(allowed_hosts)
        self._network = network
        self._tls = tls
        self._loads = loads

    async def fetch_token(self) -> Token:
        """`POST /api/v1/bullet-public` (KuCoin: apply connect token, public).

        Takes nothing from `budgets`: waiting for them belongs before the deadline of a dial. Raises `ExchangeError`
        where the answer is not a token, `OSError` or `trio.BrokenResourceError` where there is none. Cancellation
        closes the connection.
        """
        data = await self._request(rest.TOKEN)
        try:
            servers = tuple(_read_server(server) for server in data["instanceServers"])
            secret = data["token"]
        except (KeyError, TypeError, ValueError):
            raise ExchangeError("the token reply does not have the documented shape") from None
        if not servers or not isinstance(secret, str) or not secret:
            raise ExchangeError("the token reply names no server or no token")
        for server in servers:
            self._check_endpoint(server)
        return Token(servers, secret)

    def _check_endpoint(self, server: Server) -> None:
        """The token goes where the reply says: only to hosts that are KuCoin's or named by the user, and encrypted."""
        base, endpoint = urlsplit(self.base_url), urlsplit(server.endpoint)
        host = (endpoint.hostname or "").rstrip(".")
        known = {base.hostname, *(name.lower() for name in self._allowed_hosts)}
        if host not in known and not any(host == name or host.endswith(f".{name}") for name in _KUCOIN_DOMAINS):
            raise ExchangeError(f"the token reply names the host {host}; FeedConfig.allowed_hosts does not have it")
        plain_loopback = base.scheme == "http" and is_loopback(base.hostname or "")
        if endpoint.scheme != "wss" and not plain_loopback:
            raise ExchangeError(f"the token reply names {endpoint.scheme}://{host}; only wss:// is encrypted")

    async def _request(self, endpoint: rest.Endpoint) -> Any:
        """The `data` of an answer whose `code` is KuCoin's word for success.

        Where the answer asks to be left alone, every feed of the run leaves it alone.
        """
        # Not at the top: importing httpcore2 takes longer than all of kufeed, and a program may never dial.
        from ._http import exchange_bytes

        url = self.base_url + endpoint.path
        return self._unwrap(
            endpoint.path, await exchange_bytes(self._network, endpoint.method, url, self._tls, _MAX_BODY)
        )

    def _unwrap(self, path: str, reply: Reply) -> Any:
        try:
            answer = self._loads(reply.body)
        except (ValueError, RecursionError):
            answer = None
        code = answer.get("code") if isinstance(answer, Mapping) else None
        # Business errors can come with HTTP 200 (KuCoin, REST introduction): the code decides.
        if isinstance(answer, Mapping) and code == "200000" and reply.status == 200:
            return answer.get("data")
        code = code if isinstance(code, str) else None
        wait = rest.retry_after(
            reply.status, reply.headers, time_ns=self._network.time_ns(), code=code, body=reply.body
        )
        if wait:
            for budget in self.budgets:
                budget.pause(wait)
        message = answer.get("msg") if isinstance(answer, Mapping) else None
        shown = str(message)[:200] if message else f"HTTP {reply.status} without KuCoin's envelope"
        raise ExchangeError(f"{path}: {shown}", code=code, retry_after=wait)


def is_loopback(host: str) -> bool:
    """Whether *host* is this machine: `localhost`, or an address of 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_server(server: Mapping[str, Any]) -> Server:
    endpoint, interval, timeout = server["endpoint"], server["pingInterval"], server["pingTimeout"]
    parts = urlsplit(endpoint)
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.port == 0:  # .port raises where it is none
        raise ValueError("not a WebSocket endpoint")
    for number in (interval, timeout):
        if type(number) is not int or not 0 < number < 86_400_000:
            raise ValueError("not milliseconds within a day")
    return Server(endpoint, interval / 1000, timeout / 1000)
