"""The one seam to the outside: byte streams and clocks. Everything above it runs unchanged over a simulated network."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

import trio

from ._tls import TLSStream

if TYPE_CHECKING:
    import ssl


class Network(Protocol):
    """What a feed needs of the outside world. `open_feed(network=...)` takes any object with these three methods.

    One that has an `ssl_context` too is given that where `FeedConfig` has none, and then this machine's authorities are
    not read, which takes longer than all else that opening a feed does.
    """

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        """Connect to *host*:*port*; with *tls* given, the TLS handshake is finished before this returns.

        Raises `OSError` where the host cannot be reached, `trio.BrokenResourceError` (with the `ssl.SSLError` as its
        cause) where the handshake fails. A cancelled call leaves no socket behind.
        """
        ...

    def time_ns(self) -> int:
        """The wall clock: nanoseconds since 1970-01-01 UTC. Only ever compared with exchange time stamps."""
        ...

    def perf_counter(self) -> float:
        """A monotonic clock in seconds for measuring how long something took."""
        ...


class RealNetwork:
    """TCP and TLS of this machine, and its clocks."""

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        stream: trio.abc.Stream = await trio.open_tcp_stream(host, port)
        if tls is None:
            return stream
        try:
            secured = TLSStream(stream, tls, server_hostname=host)
            await secured.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return secured

    # The functions themselves, not methods around them: they are called once for each update.
    time_ns = staticmethod(time.time_ns)
    perf_counter = staticmethod(time.perf_counter)


def network_problem(error: BaseException) -> BaseException | str:
    """What to say of an error that a network raised: its cause, where it has one."""
    return _plain(error.__cause__ or error)


def _plain(error: BaseException) -> BaseException | str:
    """Happy eyeballs fails with one error for each address it tried."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    return "; ".join(dict.fromkeys(str(_plain(one)) for one in error.exceptions))
