"""What delivery costs, and how late it is: `python tests/benchmarks/delivery.py [throughput] [latency] [stuck]`.

- ``throughput``: updates/s and CPU per update from the reader's hand-out to the user's code, through `async for`, the
  same with `changes_only` (each trade is a change), `batches()`, an async and an inline handler, beside a bare Trio
  memory channel with `await` on both sides. In one process, without sockets and without decoding: 200 ready-made trades
  at a time, as a busy read brings them.
- ``latency``: 1,000 trades/s from another process over loopback TCP. "wire" is the time from before the server's send
  to the user's code, "hop" from the reader's time stamp, which it takes when it has the bytes, to the user's code: the
  hop includes decoding.
- ``stuck``: 49 handlers of one topic at 100 trades/s over loopback, alone and with a fiftieth that never returns, whose
  buffer is full after ten updates: hop latency of the 49.

Variants take turns; medians over the rounds, with the least and the greatest in brackets.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from decimal import Decimal
from functools import partial
from pathlib import Path

import trio

import kufeed
from kufeed._delivery import hand_out
from kufeed.testing import Exchange, MemoryNetwork

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import blast  # noqa: E402

SYMBOL = "BTC-USDT"
SLICE = 200  # updates in one read: about what a busy server's socket holds


def spread(figures: list[float], shape: str) -> str:
    return f"{statistics.median(figures):{shape}} ({min(figures):{shape}} to {max(figures):{shape}})"


# -- throughput -------------------------------------------------------------------------------------------------------


def trades() -> list[kufeed.Trade]:
    topic = kufeed.topic("trade", SYMBOL)
    price, size, now = Decimal("31785.1"), Decimal("0.046"), time.time_ns()
    return [
        kufeed.Trade(topic, SYMBOL, number, now, now, price, size, kufeed.Side.BUY, str(number))
        for number in range(SLICE)
    ]


async def hold(_: object) -> bool:
    raise AssertionError("nobody asked for Overflow.BLOCK")


async def push(subscription: kufeed.Subscription[kufeed.Trade], count: int) -> None:
    """What the reader of a link does with updates once they are decoded."""
    sink, updates = subscription._queue, trades()
    append = sink.staged.append
    for _ in range(count // SLICE):
        for update in updates:
            append(update)
        await hand_out([sink], hold)
        await trio.lowlevel.checkpoint()  # for the next read


async def through_bare_channel(_: kufeed.Feed, count: int) -> None:
    send, receive = trio.open_memory_channel[kufeed.Trade](10_000)

    async def produce() -> None:
        updates = trades()
        for _ in range(count // SLICE):
            for update in updates:
                await send.send(update)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        for _ in range(count):
            await receive.receive()


async def through_async_for(feed: kufeed.Feed, count: int, changes_only: bool = False) -> None:
    async with feed.trades(SYMBOL, changes_only=changes_only) as subscription, trio.open_nursery() as nursery:
        nursery.start_soon(push, subscription, count)
        seen = 0
        async for _ in subscription:
            seen += 1
            if seen == count:
                break


async def through_batches(feed: kufeed.Feed, count: int) -> None:
    async with feed.trades(SYMBOL) as subscription, trio.open_nursery() as nursery:
        nursery.start_soon(push, subscription, count)
        seen = 0
        async for batch in subscription.batches():
            for _ in batch:
                seen += 1
            if seen == count:
                break


async def through_async_handler(feed: kufeed.Feed, count: int) -> None:
    seen = 0

    async def handle(trade: kufeed.Trade) -> None:
        nonlocal seen
        seen += 1

    async with feed.open_handlers() as handlers:
        subscription = feed.trades(SYMBOL)
        await handlers.start(handle, subscription)
        await push(subscription, count)
    assert seen == count, subscription.statistics()


async def through_inline_handler(feed: kufeed.Feed, count: int) -> None:
    seen = 0

    def handle(trade: kufeed.Trade) -> None:
        nonlocal seen
        seen += 1

    async with feed.open_handlers() as handlers:
        subscription = feed.trades(SYMBOL)
        await handlers.start(handle, subscription)
        await push(subscription, count)
    assert seen == count, subscription.statistics()


WAYS = {
    "bare channel": through_bare_channel,
    "async for": through_async_for,
    "changes_only": partial(through_async_for, changes_only=True),
    "batches()": through_batches,
    "async handler": through_async_handler,
    "inline handler": through_inline_handler,
}


class RealTime(MemoryNetwork):
    perf_counter = staticmethod(time.perf_counter)  # as `RealNetwork` has it: it is asked for twice for each update


async def time_way(way: Callable[[kufeed.Feed, int], Awaitable[None]], count: int) -> tuple[float, float]:
    async with RealTime(Exchange(live=False)) as network, kufeed.open_feed(network=network) as feed:
        await way(feed, SLICE)  # connects, and warms up
        wall, cpu = time.perf_counter(), time.process_time()
        await way(feed, count)
        return time.perf_counter() - wall, time.process_time() - cpu


def throughput(count: int = 200_000, rounds: int = 7) -> None:
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    cpus: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            wall, cpu = trio.run(time_way, way, count)
            rates[name].append(count / wall)
            cpus[name].append(cpu / count * 1e6)
    for name in WAYS:
        print(f"{name:15}{spread(rates[name], '11,.0f')} updates/s   {spread(cpus[name], '6.2f')} us CPU per update")


# -- latency ----------------------------------------------------------------------------------------------------------


def paced(rate: float) -> Iterator[bytes]:
    """A trade at each tick, with the time at which it is sent."""
    tick = time.perf_counter() + 0.2
    number = 0
    while True:
        time.sleep(max(0.0, tick - time.perf_counter()))
        tick += 1 / rate
        number += 1
        data = {
            "type": "match",
            "symbol": SYMBOL,
            "sequence": str(number),
            "price": "31785.1",
            "size": "0.04612337",
            "side": "buy",
            "tradeId": f"5c24c5da03aa673885cd{number:06}",
            "takerOrderId": "5c24c5d903aa6772d55b371e",
            "makerOrderId": "5c2187d003aa677bd09d5c93",
            "time": str(time.time_ns()),
        }
        frame = {"type": "message", "topic": f"/market/match:{SYMBOL}", "subject": "trade.l3match", "data": data}
        yield blast.encode(json.dumps(frame, separators=(",", ":")).encode())


def serve(rate: float) -> None:
    """Serve for ever, and print the port."""

    def serve_one(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # the client has gone
            blast.serve(connection, port, paced(rate))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        print(port, flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve_one, args=(connection,), daemon=True).start()


@contextmanager
def served(rate: float) -> Iterator[kufeed.FeedConfig]:
    command = [sys.executable, __file__, "serve", str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield kufeed.FeedConfig(spot_url=f"http://127.0.0.1:{server.stdout.readline().strip()}")
        finally:
            server.kill()


class Clock:
    """Notes when each update arrives: nanoseconds since it was sent, and since it was read."""

    def __init__(self) -> None:
        self.wire: list[int] = []
        self.hop: list[int] = []

    def note(self, trade: kufeed.Trade) -> None:
        now = time.time_ns()
        assert trade.exchange_time_ns is not None
        self.wire.append(now - trade.exchange_time_ns)
        self.hop.append(now - trade.received_time_ns)

    async def note_later(self, trade: kufeed.Trade) -> None:
        self.note(trade)


def percentile(nanoseconds: list[int], percent: int) -> float:
    """In microseconds; the first tenth, in which things get warm, is left out."""
    rest = sorted(nanoseconds[len(nanoseconds) // 10 :])
    return rest[len(rest) * percent // 100] / 1000


async def listen(config: kufeed.FeedConfig, way: str, seconds: float) -> Clock:
    clock = Clock()
    async with kufeed.open_feed(config) as feed:
        if way == "async for":
            async with feed.trades(SYMBOL) as subscription:
                with trio.move_on_after(seconds):
                    async for trade in subscription:
                        clock.note(trade)
        else:
            async with feed.open_handlers() as handlers:
                fn = clock.note if way == "inline handler" else clock.note_later
                await handlers.start(fn, feed.trades(SYMBOL))
                await trio.sleep(seconds)
    return clock


def latency(rate: float = 1000.0, seconds: float = 4.0, rounds: int = 5) -> None:
    clocks: dict[str, list[Clock]] = {"async for": [], "async handler": [], "inline handler": []}
    with served(rate) as config:
        for _ in range(rounds):
            for way in clocks:
                clocks[way].append(trio.run(listen, config, way, seconds))
    for way, found in clocks.items():
        for leg in ("wire", "hop"):
            p50, p99 = ([percentile(getattr(clock, leg), percent) for clock in found] for percent in (50, 99))
            print(f"{way:15}{leg}   P50 {spread(p50, '4.0f')} us   P99 {spread(p99, '4.0f')} us")


# -- stuck ------------------------------------------------------------------------------------------------------------


async def listen_all(config: kufeed.FeedConfig, stuck: bool, seconds: float) -> list[int]:
    clocks = [Clock() for _ in range(49)]

    async def never_return(trade: kufeed.Trade) -> None:
        await trio.sleep_forever()

    async with kufeed.open_feed(config) as feed, feed.open_handlers(drain_timeout=0) as handlers:
        for clock in clocks:
            handlers.start_soon(clock.note_later, feed.trades(SYMBOL))
        if stuck:
            handlers.start_soon(never_return, feed.trades(SYMBOL, buffer=10))
        await trio.sleep(seconds)
        if stuck:
            (queue,) = handlers.statistics()[-1].queues
            assert queue.delivered == 1
            assert queue.dropped > 100
    assert all(len(clock.hop) == len(clocks[0].hop) for clock in clocks), "each gets every update"
    return [hop for clock in clocks for hop in clock.hop[len(clock.hop) // 10 :]]


def stuck(rate: float = 100.0, seconds: float = 5.0, rounds: int = 5) -> None:
    hops: dict[bool, list[list[int]]] = {False: [], True: []}
    with served(rate) as config:
        for _ in range(rounds):
            for with_one in hops:
                hops[with_one].append(trio.run(listen_all, config, with_one, seconds))
    for with_one, found in hops.items():
        p50, p99 = ([percentile(one, percent) for one in found] for percent in (50, 99))
        name = "49 handlers and a stuck one" if with_one else "49 handlers"
        print(f"{name:28} hop   P50 {spread(p50, '5.0f')} us   P99 {spread(p99, '5.0f')} us")


def main(*names: str) -> None:
    for name in names or ("throughput", "latency", "stuck"):
        {"throughput": throughput, "latency": latency, "stuck": stuck}[name]()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(float(sys.argv[2]))
    else:
        main(*sys.argv[1:])
