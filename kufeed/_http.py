"""One HTTP request over the network seam, by httpcore2. Imported at the first request."""

from __future__ import annotations

from contextlib import aclosing
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import httpcore2
import trio

from ._untrusted import has_control, http_problem
from .errors import ExchangeError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from ._network import Network
    from ._untrusted import Url

_LONGEST_HEAD = 16 * 1024
_READ_SIZE = 4096
"""Bytes fed to h11 at once: an answer in a thousand tiny pieces must not hold up the event loop."""

_NONE: Mapping[str, str] = MappingProxyType({})


@attrs.frozen
class Reply:
    """An answer, read whole."""

    status: int
    headers: dict[str, str] = attrs.field(repr=False)  # a peer may send back what it was sent
    """By name in lower case; of several with one name, the last."""
    body: bytes = attrs.field(repr=False)  # a token may stand in it


async def exchange_bytes(
    network: Network,
    method: str,
    url: Url,
    tls: Callable[[], ssl.SSLContext],
    max_body: int,
    more_headers: Mapping[str, str] = _NONE,
) -> Reply:
    """Send a request without a body, return the answer; the connection is closed afterwards.

    Raises `ExchangeError` where the answer is not HTTP or longer than *max_body*, and what the network raises.
    """
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    target = httpcore2.URL(scheme=url.scheme.encode(), host=url.host.encode(), port=url.port, target=path.encode())
    context = tls() if url.scheme == "https" else None
    headers = [
        ("Host", url.authority),
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
        ("Content-Length", "0"),
        ("Content-Type", "application/json"),
        *more_headers.items(),
    ]
    # Opened here and not by a pool of httpcore2's, which would drop the cause of an error (`raise ... from None`).
    stream = await network.open_stream(url.host, url.port, context)
    try:
        reply = await _exchange(stream, method, target, headers, max_body)
    except httpcore2.ProtocolError as error:
        raise ExchangeError(f"the answer from {url.host} is not HTTP: {http_problem(error)}") from None
    except (trio.BrokenResourceError, ExchangeError) as error:
        _forget_values(error)
        raise
    finally:
        # The answer has been read whole, or nobody wants the rest: no manners are needed, and none may hang.
        await trio.aclose_forcefully(stream)
    if reply is None:
        raise ExchangeError(f"the answer from {url.host} has more than {max_body} bytes")
    return reply


def _forget_values(error: BaseException) -> None:
    """The values in its frames are those of a request and its answer: a token or a signature may be there."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__


async def _exchange(
    stream: trio.abc.Stream, method: str, target: httpcore2.URL, headers: list[tuple[str, str]], max_body: int
) -> Reply | None:
    """The answer, or None where it is too long."""
    connection = _Connection(target.origin, _Stream(stream))
    async with connection.stream(method, target, headers=headers) as response:
        body = bytearray()
        async with aclosing(response.aiter_stream()) as parts:
            async for part in parts:
                body += part
                if len(body) > max_body:
                    return None
        named = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        return Reply(response.status, named, bytes(body))


class _Connection(httpcore2.AsyncHTTP11Connection):
    MAX_INCOMPLETE_EVENT_SIZE = _LONGEST_HEAD


class _Stream(httpcore2.AsyncNetworkStream):
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._head: bytes | None = b""  # its last bytes, until it has ended

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # httpcore2's
        data = bytes(await self._stream.receive_some(min(max_bytes, _READ_SIZE)))
        if self._head is not None:
            head, ended, _ = (self._head + data).partition(b"\r\n\r\n")
            if has_control(head):  # h11 takes quadratic time to find one behind many blanks
                raise ExchangeError("the answer is not HTTP: a control character in its head")
            self._head = None if ended else head[-3:]
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # httpcore2's
        if buffer:
            await self._stream.send_all(buffer)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)

    def get_extra_info(self, info: str) -> Any:
        return None
