"""The exchange behind `kufeed`'s own seam: in memory with the clock of the Trio run, or over loopback sockets."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from kufeed.testing.http import Host, find_host
from kufeed.testing.streams import open_pipe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    from kufeed.testing.exchange import Exchange
    from kufeed.testing.records import Address

EPOCH_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z: the wall clock when `trio.current_time()` is 0


class _ExchangeNetwork(ABC):
    """A network of an exchange, which is open while the network is entered."""

    ssl_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    """What a feed without TLS settings of its own hands over here, where nothing is encrypted: it trusts nobody."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._manager: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> Self:
        if self._manager is not None:
            raise RuntimeError(f"a {type(self).__name__} can be entered once")
        self._manager = self._open()
        await self._manager.__aenter__()
        return self

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Awaitable[bool | None]:
        if self._manager is None:
            raise RuntimeError(f"this {type(self).__name__} was not entered")
        return self._manager.__aexit__(kind, error, trace)

    @abstractmethod
    def _open(self) -> AbstractAsyncContextManager[None]:
        """What is entered."""

    def _find(self, host: str) -> Host:
        found = find_host(host)
        if found is None or (found.server or 0) >= self.exchange.instance_servers:
            raise socket.gaierror(socket.EAI_NONAME, f"{host}: no such host on this network")
        return found


class MemoryNetwork(_ExchangeNetwork):
    """A network on which only KuCoin's hosts exist, all of them served by *exchange* in memory.

    ``async with MemoryNetwork(exchange) as network:`` runs the exchange; pass *network* to
    `kufeed.open_feed(network=...)`. Under `trio.testing.MockClock` a day takes seconds. The wall clock is
    `trio.current_time()` seconds after 2026-01-01T00:00:00Z, so that with a `MockClock` runs repeat exactly. Leaving
    the block cuts every connection; an error of the body comes out unwrapped. May be entered once.
    """

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        async with self.exchange.open(self.time_ns) as self._nursery:
            try:
                yield
            finally:
                self._nursery = None

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        """Connect to the exchange. *tls* is ignored: the stream stands for the decrypted one.

        Raises `socket.gaierror` (an `OSError`) for a host that is not KuCoin's, `ConnectionRefusedError` where a
        fault of the exchange says so, its server is dead or the block was left. The stream behaves like TCP:
        bounded, the exchange's end gone is an end of file when reading and `trio.BrokenResourceError` when writing.
        """
        await trio.lowlevel.checkpoint()
        found = self._find(host)
        if self._nursery is None or self.exchange.refuse_dial(found.server):
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"{host}:{port} refused the connection")
        ours, theirs = open_pipe()
        self._nursery.start_soon(
            self.exchange.serve_stream, theirs, host, found.server or 0, name=f"kufeed exchange: {host}"
        )
        return ours

    def time_ns(self) -> int:
        """The virtual wall clock in ns since 1970-01-01 UTC."""
        return EPOCH_NS + round(trio.current_time() * 1e9)

    def perf_counter(self) -> float:
        """`trio.current_time()`: nothing takes time in here."""
        return trio.current_time()


class LoopbackNetwork(_ExchangeNetwork):
    """`MemoryNetwork` over real sockets: KuCoin's hosts and no others, all of them *exchange* on loopback TCP.

    ``async with LoopbackNetwork(exchange) as network:`` listens; pass *network* to `kufeed.open_feed(network=...)`. The
    clocks are those of this machine, so that no `MockClock` may be used, and runs do not repeat to the microsecond.
    Leaving the block cuts every connection; an error of the body comes out unwrapped. May be entered once.
    """

    time_ns = staticmethod(time.time_ns)
    perf_counter = staticmethod(time.perf_counter)

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        self._address: Address | None = None

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        async with self.exchange.listen() as self._address:
            try:
                yield
            finally:
                self._address = None

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        """Connect to the exchange. *tls* is ignored: for TLS, use `Exchange.listen()`.

        Raises `socket.gaierror` (an `OSError`) for a host that is not KuCoin's, `ConnectionRefusedError` where a
        fault of the exchange says so, its server is dead or the block was left.
        """
        found = self._find(host)
        connecting = trio.socket.socket()
        try:
            if self._address is None or self.exchange.refuse_dial(found.server):
                # Where nobody listens the kernel says what it says of a server that is down.
                with socket.socket() as nobody:
                    nobody.bind(("127.0.0.1", 0))
                    await connecting.connect(nobody.getsockname())
            else:
                listening = self._address
                number = found.server
                await connecting.connect(
                    (listening.host, listening.port if number is None else listening.server_ports[number])
                )
        except BaseException:
            connecting.close()
            raise
        return trio.SocketStream(connecting)
