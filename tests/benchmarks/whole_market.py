"""`all_tickers()` beside a topic for each symbol: `python tests/benchmarks/whole_market.py [symbols] [updates]`.

CPU per update from the bytes of a message to the user's ``async for``: JSON, route, record, queue. Without sockets, in
one process, 200 messages at a time, as a busy read brings them; the ways take turns, medians of the rounds with the
least and the greatest in brackets. Every update is checked: none may be lost, each has its symbol, in order.
Sockets come on top: so many topics need several connections, which bring smaller reads, and all_tickers one.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial

import trio
import ujson

from kufeed import Overflow, Topic, topic
from kufeed._channels import UpdateQueue
from kufeed._delivery import hand_out
from kufeed._lateness import Lateness
from kufeed._refusals import Refusals
from kufeed._streams import Routes, stage
from kufeed._whole_market import stream_of
from kufeed.protocol import UpdateType

SLICE = 200


class End:
    closed = False


def payloads(symbols: list[str], updates: int, wire: str | None) -> Iterator[bytes]:
    for number in range(updates):
        symbol = symbols[number % len(symbols)]
        data = {
            "bestAsk": f"{31785 + number % 97}.{number % 10}",
            "bestAskSize": f"1.0{number % 1000:03d}57",
            "bestBid": f"{31784 + number % 97}.{number % 10}",
            "bestBidSize": f"0.46{number % 1000:03d}37",
            "price": f"{31784 + number % 97}.{number % 10}",
            "sequence": str(1630218274617 + number),
            "size": "0.03133705",
            "time": 1654032320677 + number // 10,
        }
        where = {"topic": wire or f"/market/ticker:{symbol}", "subject": symbol if wire else "trade.ticker"}
        yield json.dumps({"type": "message", **where, "data": data}, separators=(",", ":")).encode()


async def deliver(topics: list[Topic], symbols: list[str], slices: list[list[bytes]]) -> float:
    """CPU seconds for all of *slices*."""
    queue = UpdateQueue({UpdateType.TICKER: Overflow.DROP_OLDEST}, 10_000)
    routes, refusals = Routes(), Refusals()
    for stream in map(stream_of, topics):
        stream.add(queue)
        routes.add(stream)

    async def hold(_: object) -> bool:
        raise AssertionError("nothing blocks")

    async def read() -> None:
        for messages in slices:
            touched = stage(
                messages,
                loads=ujson.loads,
                by_wire=routes.by_wire,
                received_time_ns=1_654_032_320_700_000_000,
                on_control=print,
                refusals=refusals,
                lateness=Lateness(None),
            )
            await hand_out({sink for stream in touched for sink in stream.sinks}, hold)
            await trio.lowlevel.checkpoint()
        queue.finish()

    async def consume() -> None:
        number, next_update, end = 0, queue.next, End()
        try:
            while True:
                update = await next_update(end)
                assert update.symbol == symbols[number % len(symbols)]  # type: ignore[union-attr]
                assert update.sequence == 1630218274617 + number  # type: ignore[union-attr]
                number += 1
        except StopAsyncIteration:
            assert number == sum(map(len, slices)), (number, refusals)

    start = time.process_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        nursery.start_soon(read)
    return time.process_time() - start


def main(count: int = 1000, updates: int = 100_000, rounds: int = 9) -> None:
    symbols = [f"T{number:04d}-USDT" for number in range(count)]
    ways: dict[str, tuple[list[Topic], list[list[bytes]]]] = {}
    for name, topics, wire in (
        (f"{count:,} topics", [topic("ticker", symbol) for symbol in symbols], None),
        ("all_tickers", [topic("ticker", "all")], "/market/ticker:all"),
    ):
        made = list(payloads(symbols, updates, wire))
        ways[name] = topics, [made[start : start + SLICE] for start in range(0, len(made), SLICE)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (topics, slices) in ways.items():
            seconds[name].append(trio.run(partial(deliver, topics, symbols, slices)))
    for name, figures in seconds.items():
        costs = sorted(cpu * 1e6 / updates for cpu in figures)
        print(f"{name:14} {statistics.median(costs):.2f} us CPU per update ({costs[0]:.2f} to {costs[-1]:.2f})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
