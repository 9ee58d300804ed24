"""REST requests over the network seam: the connection token, books, and the exchange's time."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attrs

from ._budget import Quiet
from ._credentials import Secret, repeats, signed_headers
from ._untrusted import Url, is_visible, printable, read_host, read_url
from .errors import ExchangeError, MessageRefused
from .protocol import rest
from .protocol.clock import ServerClock
from .protocol.fields import milliseconds
from .protocol.futures import FUTURES
from .protocol.snapshots import read_book

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from ._credentials import Credentials
    from ._http import Reply
    from ._limiter import SlidingWindowLimiter
    from ._network import Network
    from .protocol.market import Market, Topic
    from .protocol.orderbook import BookSnapshot

_LONGEST_TOKEN_REPLY = 64 * 2**10
"""Bytes; one has about 500. What decoding JSON costs of memory and of the event loop's time is bounded by it."""
_LONGEST_BOOK_REPLY = 4 * 2**20
"""A level has 16 to 25 bytes: this is more than `snapshots.MOST_LEVELS` on both sides with numbers of usual length."""
_LONGEST_PART_REPLY = 64 * 2**10
"""200 levels have about 5 kB."""
_LONGEST_TIME_REPLY = 1024
_MOST_SERVERS = 32
_UNSIGNED: Mapping[str, str] = MappingProxyType({})
_KUCOIN_DOMAINS = ("kucoin.com", "kucoin.eu")
_CODE = re.compile(r"[0-9A-Za-z_.-]{1,20}")


@attrs.frozen
class Server:
    """One instance server of a token reply. The repr shows no token because there is none in it."""

    endpoint: Url
    ping_interval: float
    """Seconds; the wire says milliseconds."""
    pong_timeout: float


@attrs.frozen
class Token:
    """A connection token and where it may be used. Asked for anew before every dial: a token lives 24 h at most."""

    servers: tuple[Server, ...]
    _secret: str = attrs.field(repr=False)

    def target(self, server: Server, connect_id: str) -> Secret:
        """The path and query of the upgrade request. Holds the token: never log it."""
        path, query = server.endpoint.path or "/", server.endpoint.query
        token = f"token={quote(self._secret, safe='')}&connectId={quote(connect_id, safe='')}"
        return Secret(f"{path}?{query + '&' if query else ''}{token}")

    def hide(self, text: str) -> str:
        """*text* of the server's, unless it repeats the token, be it a piece of it: a close reason has 123 bytes."""
        for form in (self._secret, quote(self._secret, safe="")):
            if repeats(text, form):
                return "(a text that repeats the token)"
        return text


@attrs.frozen
class Signature:
    """What a request is signed with: whose key, and by which clock."""

    credentials: Credentials
    clock: ServerClock


@attrs.frozen
class Answer:
    """What a request was answered with."""

    data: Any = attrs.field(repr=False)  # a token may stand in it
    received_time_ns: int
    """This machine's clock when it had been read whole, and not been decoded yet."""


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
        quiet: Quiet | None = None,
    ) -> None:
        self.budgets = tuple(budgets)
        """Where the weight of each request is taken from beforehand, by whoever asks; all of them hold."""
        self.quiet = Quiet() if quiet is None else quiet
        """How long the host is to be left alone; to be looked at before each request."""
        base = read_url(base_url, "http", "https")
        self._base = attrs.evolve(base, path=base.path.rstrip("/"))
        self._known_hosts = {base.host, *map(read_host, allowed_hosts)}
        self._network = network
        self._tls = tls
        self._loads = loads

    async def fetch_token(self) -> Token:
        """`POST /api/v1/bullet-public` (KuCoin: apply connect token, public).

        Takes nothing from `budgets`: waiting for them belongs before the deadline of a dial. Raises `ExchangeError`
        where the answer is not a token, `OSError` or `trio.BrokenResourceError` where there is none. Cancellation
        closes the connection.
        """
        data = (await self.request(rest.TOKEN, _LONGEST_TOKEN_REPLY)).data
        try:
            token = _read_token(data)
        except ValueError as error:
            raise ExchangeError(f"the token reply {error}") from None
        finally:
            del data  # for the same reason as in `_unwrap()`
        for server in token.servers:
            self._check_endpoint(server.endpoint)
        return token

    def _check_endpoint(self, endpoint: Url) -> None:
        """The token goes where the reply says: only to hosts that are KuCoin's or named by the user, and encrypted."""
        host = endpoint.host
        if host not in self._known_hosts and not any(
            host == name or host.endswith(f".{name}") for name in _KUCOIN_DOMAINS
        ):
            raise ExchangeError(f"the token reply names the host {host}; FeedConfig.allowed_hosts does not have it")
        plain_loopback = self._base.scheme == "http" and is_loopback(self._base.host)
        if endpoint.scheme != "wss" and not plain_loopback:
            raise ExchangeError(f"the token reply names {endpoint.scheme}://{host}; only wss:// is encrypted")

    async def fetch_book(
        self, topic: Topic, signature: Signature | None = None, numbers: type[Decimal] | type[float] = Decimal
    ) -> BookSnapshot:
        """The book of the topic's symbol: whole, but of spot without *signature* the best 100 levels of each side.

        Takes nothing from `budgets`, as `fetch_token()`; `book_endpoint()` has the weight. Raises `ExchangeError` where
        the answer is not a book (its cause is then the `MessageRefused` that names the field), `CredentialsRefused`
        where it does not take the signature, `OSError` or `trio.BrokenResourceError` where there is no answer.
        Cancellation closes the connection.
        """
        market = topic.channel.market
        endpoint = book_endpoint(market, signed=signature is not None)
        query = f"symbol={quote(topic.symbol, safe='')}"
        limit, longest = (100, _LONGEST_PART_REPLY) if endpoint is rest.SPOT_BOOK_100 else (None, _LONGEST_BOOK_REPLY)
        headers: Mapping[str, str] = _UNSIGNED
        if signature is not None and endpoint is rest.SPOT_BOOK:
            time_ms = signature.clock.time_ms(self._network.time_ns())
            target = f"{endpoint.path}?{query}"
            headers = signed_headers(signature.credentials, endpoint.method, target, "", time_ms)
        answer = await self.request(endpoint, longest, query, headers)
        try:
            return read_book(answer.data, market, limit, answer.received_time_ns, symbol=topic.symbol, numbers=numbers)
        except MessageRefused as error:
            raise ExchangeError(f"{endpoint.path}: not a book: {error}") from error

    async def fetch_clock(self) -> ServerClock:
        """`GET /api/v1/timestamp` of the spot market, the only one that signed requests go to.

        Takes nothing from `budgets`, and raises as `fetch_book()` does.
        """
        sent_ns = self._network.time_ns()
        answer = await self.request(rest.SPOT_TIME, _LONGEST_TIME_REPLY)
        try:
            told_ns = milliseconds(answer.data, "data")
        except MessageRefused as error:
            raise ExchangeError(f"{rest.SPOT_TIME.path}: not a time: {error}") from error
        return ServerClock.learned(told_ns, sent_ns, answer.received_time_ns)

    async def request(
        self,
        endpoint: rest.Endpoint | rest.SignedEndpoint,
        max_body: int,
        query: str = "",
        headers: Mapping[str, str] = _UNSIGNED,
    ) -> Answer:
        """The `data` of an answer whose `code` is KuCoin's word for success, and which has *max_body* bytes at most.

        Takes nothing from `budgets`, has no deadline, and raises as `fetch_token` does. Where the answer asks to be
        left alone, `quiet` knows it afterwards. No error repeats a `Secret` of *headers*.
        """
        # Not at the top: importing httpcore2 takes longer than all of kufeed, and a program may never dial.
        from ._http import exchange_bytes

        url = attrs.evolve(self._base, path=self._base.path + endpoint.path, query=query)
        reply = await exchange_bytes(self._network, endpoint.method, url, self._tls, max_body, headers)
        received_time_ns = self._network.time_ns()
        return Answer(self._unwrap(endpoint.path, reply, headers), received_time_ns)

    def _unwrap(self, path: str, reply: Reply, sent: Mapping[str, str]) -> Any:
        try:
            answer = self._loads(reply.body)
        except (ValueError, RecursionError):
            answer = None
        code = answer.get("code") if isinstance(answer, Mapping) else None
        # Business errors can come with HTTP 200 (KuCoin, REST introduction): the code decides.
        if isinstance(answer, Mapping) and code == "200000" and reply.status == 200:
            return answer.get("data")
        code = code if isinstance(code, str) and _CODE.fullmatch(code) else None
        wait = rest.retry_after(
            reply.status, reply.headers, time_ns=self._network.time_ns(), code=code, body=reply.body
        )
        if wait and rest.concerns_address(reply.status, code):
            (self.quiet.everywhere or self.quiet).ask(wait)
            for budget in self.budgets:
                budget.pause(wait)
        elif wait:
            self.quiet.ask(wait)
        message = _told(answer, sent) or f"HTTP {reply.status} without KuCoin's envelope"
        del answer  # a token may be there: no traceback that comes with the values of variables shows it
        raise rest.refusal(f"{path}: {message}", signed=bool(sent), code=code, retry_after=wait)


def book_endpoint(market: Market, *, signed: bool) -> rest.Endpoint | rest.SignedEndpoint:
    """What `fetch_book()` asks for, with a signature or without."""
    if market is FUTURES:
        return rest.FUTURES_BOOK
    return rest.SPOT_BOOK if signed else rest.SPOT_BOOK_100


def _told(answer: Any, sent: Mapping[str, str]) -> str:
    """The message of a refusal, unless it repeats a secret header; empty where there is none."""
    message = answer.get("msg") if isinstance(answer, Mapping) else None
    if not isinstance(message, str):
        return ""
    if any(isinstance(value, Secret) and repeats(message, value) for value in sent.values()):
        return "(a text that repeats the credentials)"
    return printable(message)


def is_loopback(host: str) -> bool:
    """Whether *host* is this machine: `localhost`, or an address of 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_token(data: Any) -> Token:
    """The `data` of a token reply; a `ValueError` says what is wrong with it, and repeats nothing."""
    try:
        secret, entries = data["token"], data["instanceServers"]
        if not isinstance(entries, list) or len(entries) > _MOST_SERVERS:
            raise ValueError
        servers = tuple(map(_read_server, entries))
    except (KeyError, TypeError, ValueError):
        raise ValueError("does not have the documented shape") from None
    if not servers or not isinstance(secret, str) or not secret or not is_visible(secret):
        raise ValueError("names no server or no token")
    return Token(servers, secret)


def _read_server(server: Mapping[str, Any]) -> Server:
    endpoint, interval, timeout = server["endpoint"], server["pingInterval"], server["pingTimeout"]
    for number in (interval, timeout):
        if type(number) is not int or not 0 < number < 86_400_000:
            raise ValueError("not milliseconds within a day")
    return Server(read_url(endpoint, "ws", "wss"), interval / 1000, timeout / 1000)
