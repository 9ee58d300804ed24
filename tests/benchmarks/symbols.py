"""What `feed.symbols()` costs, and the longest that it keeps others from running: `python tests/benchmarks/symbols.py`.

CPU time of one call over memory streams, the exchange's side included, best of six; and the longest step of a task.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Literal

import trio
from trio.testing import memory_stream_pair

import kufeed

if TYPE_CHECKING:
    import ssl

CONTRACT: dict[str, Any] = {
    "type": "FFWCSX",
    "expireDate": None,
    "baseCurrency": "XBT",
    "quoteCurrency": "USDT",
    "settleCurrency": "USDT",
    "lotSize": 1,
    "tickSize": 0.1,
    "multiplier": 0.001,
    "isInverse": False,
    "status": "Open",
    "fundingRateGranularity": 28800000,
    "nextFundingRateTime": 17752926,
}
PAIR: dict[str, Any] = {
    "baseCurrency": "BTC",
    "quoteCurrency": "USDT",
    "priceIncrement": "0.1",
    "baseIncrement": "0.00000001",
    "enableTrading": True,
}


class LongestStep(trio.abc.Instrument):
    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = time.thread_time()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.seconds = max(self.seconds, time.thread_time() - self._began)


class Answers:
    """A network that answers every request with one body."""

    def __init__(self, nursery: trio.Nursery, body: bytes) -> None:
        self._nursery = nursery
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        ours, theirs = memory_stream_pair()
        self._nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(self._answer)

    time_ns = staticmethod(time.time_ns)
    perf_counter = staticmethod(time.perf_counter)


async def measure(what: str, market: Literal["futures", "spot"], body: bytes) -> None:
    best, longest, count = float("inf"), 0.0, 0
    async with trio.open_nursery() as nursery, kufeed.open_feed(network=Answers(nursery, body)) as feed:
        for _ in range(6):
            step = LongestStep()
            trio.lowlevel.add_instrument(step)
            began = time.process_time()
            try:
                count = len(await feed.symbols(market))
            except kufeed.ExchangeError:
                count = 0
            best = min(best, time.process_time() - began)
            await trio.lowlevel.checkpoint()  # the step that has just decoded ends here
            trio.lowlevel.remove_instrument(step)
            longest = step.seconds  # of the last: the first imports httpcore2
    told = f"{len(body) / 1e6:.1f} MB, {count} symbols: {best * 1e3:.0f} ms of CPU"
    print(f"{what:<28}{told}, longest step {longest * 1e3:.0f} ms")


def listed(row: dict[str, Any], size: int, symbols: list[str]) -> bytes:
    filler = {f"field{number}": "0.0001" for number in range((size - len(json.dumps(row))) // 21)}
    return json.dumps({"code": "200000", "data": [{"symbol": symbol, **row, **filler} for symbol in symbols]}).encode()


trio.run(measure, "600 contracts", "futures", listed(CONTRACT, 2200, [f"A{number}USDTM" for number in range(600)]))
trio.run(measure, "1,300 spot symbols", "spot", listed(PAIR, 600, [f"A{number}-USDT" for number in range(1300)]))
trio.run(
    measure, "as many as are taken", "futures", listed(CONTRACT, 2200, [f"A{number}USDTM" for number in range(1900)])
)
hostile = {f"{number:x}": 1 for number in range(330_000)}
trio.run(measure, "an object of ever new keys", "spot", json.dumps({"code": "200000", "data": hostile}).encode())
