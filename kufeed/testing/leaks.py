"""What outlives its owner: connections, and tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from kufeed.testing.findings import Finding, Offence
from kufeed.testing.streams import PipeStream

if TYPE_CHECKING:
    import ssl

    from kufeed.testing.network import LoopbackNetwork, MemoryNetwork


def living_tasks() -> int:
    """How many tasks the Trio run has now."""
    return trio.lowlevel.current_statistics().tasks_living


def leaks(count: int, what: str) -> tuple[Finding, ...]:
    """What is to be said of so many that are left: nothing of none."""
    return (Finding(Offence.LEAK, f"{count} {what} after their owner has ended"),) if count else ()


class CountedNetwork:
    """A network that knows which of its connections are still open."""

    def __init__(self, network: MemoryNetwork | LoopbackNetwork) -> None:
        self._network = network
        self._streams: list[trio.abc.Stream] = []
        self.ssl_context = network.ssl_context
        self.time_ns = network.time_ns
        self.perf_counter = network.perf_counter

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        stream = await self._network.open_stream(host, port, tls)
        self._streams.append(stream)
        return stream

    @property
    def open_connections(self) -> int:
        return sum(not _is_closed(stream) for stream in self._streams)


def _is_closed(stream: trio.abc.Stream) -> bool:
    if isinstance(stream, trio.SocketStream):
        return stream.socket.fileno() == -1
    return not isinstance(stream, PipeStream) or stream.closed  # another one is of the program's own network
