"""For tests of books over a feed: what they are compared with, and what was asked of REST."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

import kufeed
from kufeed import Disconnected, FeedConfig, Gap, OrderBook, Restored, Resynced
from kufeed.testing import Exchange, MemoryNetwork
from kufeed.testing.http import Where
from kufeed.testing.rest import Reply

QUIET: dict[str, Any] = {"live": False}
BOTH = ("BTC-USDT", "XBTUSDTM")


def wire(symbol: str) -> str:
    return str(kufeed.topic("book_delta", symbol))


def check(exchange: Exchange, view: OrderBook, depth: int | None = None) -> None:
    """The book is what the exchange's was at that sequence."""
    truth = exchange.book(view.symbol, view.sequence)
    assert view.bids == truth.bids[: len(view.bids)]
    assert view.asks == truth.asks[: len(view.asks)]
    if depth is not None:
        assert (len(view.bids), len(view.asks)) == (depth, depth)


def waiting(books: Any) -> list[OrderBook]:
    """All that waits for the consumer now."""
    taken = []
    while True:
        try:
            taken.append(books.receive_nowait())
        except trio.WouldBlock:
            return taken


async def until_blocked(events: Any) -> list[Any]:
    """All that can be had without any time passing, events included."""
    taken: list[Any] = []

    async def take() -> None:
        async for one in events:
            taken.append(one)  # noqa: PERF401  # it is cancelled, and what it has must stay

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return taken


def kinds(items: list[Any]) -> list[str]:
    """What they are, in order."""
    told = (OrderBook, Gap, Disconnected, Restored, Resynced)
    return [type(item).__name__ for item in items if isinstance(item, told)]


def balanced(books: Any) -> kufeed.QueueStatistics:
    """The accounts of a subscription, which add up."""
    counts: kufeed.QueueStatistics = books.statistics()
    gone = counts.conflated + counts.dropped + counts.unchanged + counts.discarded
    assert counts.received == counts.delivered + gone + counts.pending
    return counts


def skip_numbers(exchange: Exchange, symbol: str, count: int) -> tuple[int, int]:
    """Have the exchange make *count* changes that it does not push; the first and the last of their numbers."""
    before = exchange.book(symbol).sequence
    exchange.faults.mute_topics = {wire(symbol)}
    after = exchange.change_book(symbol, count)
    exchange.faults.mute_topics = ()
    return before + 1, after


def change_replies(exchange: Exchange, change: Callable[[Where | None, Reply], Reply]) -> None:
    """Have *change* make what *exchange* replies to each request over REST out of what it would have replied."""
    answer = exchange._desk.answer

    def changed(method: str, where: Where | None, headers: dict[str, str], *, secure: bool) -> Reply:
        return change(where, answer(method, where, headers, secure=secure))

    exchange._desk.answer = changed  # type: ignore[method-assign]


@attrs.frozen
class Request:
    """One that was sent to REST."""

    at: float
    path: str
    symbol: str


class Watched:
    """A memory network that remembers what was asked of REST."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.requests: list[Request] = []
        self.ahead = 0.0
        """Seconds that this machine's clock is ahead."""
        self._network = network
        self.ssl_context = network.ssl_context

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        return _WatchedStream(await self._network.open_stream(host, port, tls), self.requests)

    def time_ns(self) -> int:
        return self._network.time_ns() + round(self.ahead * 1e9)

    def perf_counter(self) -> float:
        return self._network.perf_counter()

    def books(self, symbol: str | None = None, since: float = 0.0) -> int:
        """How many books were asked for, of *symbol* only or of all."""
        return sum(
            one.symbol == (symbol or one.symbol) and bool(one.symbol) and one.at >= since for one in self.requests
        )


class _WatchedStream(trio.abc.Stream):
    def __init__(self, stream: trio.abc.Stream, requests: list[Request]) -> None:
        self._stream = stream
        self._requests: list[Request] | None = requests

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._requests is not None:  # the first that is sent holds the request
            target = bytes(data).split(b" ", 2)[1].decode()
            path, _, query = target.partition("?")
            if path.startswith("/api/"):
                symbol = query.removeprefix("symbol=") if query.startswith("symbol=") else ""
                self._requests.append(Request(trio.current_time(), path, symbol))
            self._requests = None
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def watched(
    exchange: Exchange | None = None, config: FeedConfig | None = None
) -> AsyncIterator[tuple[Exchange, kufeed.Feed, Watched]]:
    """An exchange that is silent by itself, a feed over it, and what the feed asks of REST.

    What waits for ever is told after a thousand virtual seconds: pings would keep the clock going.
    """
    exchange = Exchange(**QUIET) if exchange is None else exchange
    with trio.fail_after(1000.0):
        async with MemoryNetwork(exchange) as memory:
            network = Watched(memory)
            async with kufeed.open_feed(config, network=network, rng=random.Random(1)) as feed:
                yield exchange, feed, network
