"""Tickers through `async for`, beside plain trio-websocket + ujson: `python tests/benchmarks/throughput.py`.

The sender is another process at full speed over loopback TCP; each client a process of its own, the two interleaved.
A rate depends on the machine's mood, so CPU seconds per 100,000 updates stand beside it. Every update is checked: none
may be lost, and each must be in order.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import trio
import trio_websocket
import ujson

import kufeed

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from blast import SYMBOLS  # noqa: E402

FIRST_SEQUENCE = 1630218274617


Started = Callable[[], None]


async def plain(port: int, frames: int, started: Started) -> None:
    url = f"ws://127.0.0.1:{port}/"
    async with trio_websocket.open_websocket_url(url) as websocket:
        await websocket.get_message()
        topic = "/market/ticker:" + ",".join(SYMBOLS)
        await websocket.send_message(ujson.dumps({"id": "1", "type": "subscribe", "topic": topic, "response": True}))
        await websocket.get_message()
        started()
        for number in range(frames):
            message = ujson.loads(await websocket.get_message())
            assert int(message["data"]["sequence"]) == FIRST_SEQUENCE + number


async def ours(port: int, frames: int, started: Started) -> None:
    config = kufeed.FeedConfig(spot_url=f"http://127.0.0.1:{port}")
    async with kufeed.open_feed(config) as feed, feed.ticker(*SYMBOLS, overflow="drop_oldest") as tickers:
        started()
        expected = FIRST_SEQUENCE
        async for ticker in tickers:
            assert ticker.sequence == expected
            expected += 1
            if expected == FIRST_SEQUENCE + frames:
                break
        counts = tickers.statistics()
        assert (counts.received, counts.delivered, counts.dropped) == (frames, frames, 0), counts


CLIENTS = {"plain": plain, "kufeed": ours}


def measure(name: str, port: int, frames: int) -> None:
    """From the ack on: connecting happens once, and imports the HTTP client."""
    begun: list[float] = []
    trio.run(CLIENTS[name], port, frames, lambda: begun.extend([time.perf_counter(), time.process_time()]))
    print(time.perf_counter() - begun[0], time.process_time() - begun[1])


def main(frames: int = 100_000, rounds: int = 7) -> None:
    command = [sys.executable, str(HERE / "blast.py"), str(frames)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in CLIENTS}
            for _ in range(rounds):
                for name in CLIENTS:
                    client = [sys.executable, __file__, name, port, str(frames)]
                    output = subprocess.run(client, check=True, stdout=subprocess.PIPE, text=True).stdout
                    wall, cpu = map(float, output.split())
                    seconds[name].append((wall, cpu))
        finally:
            server.kill()
    median_cpu = {}
    for name, figures in seconds.items():
        rates = sorted(frames / wall for wall, _ in figures)
        cpus = sorted(cpu * 100_000 / frames for _, cpu in figures)
        median_cpu[name] = statistics.median(cpus)
        print(
            f"{name:8} {statistics.median(rates):9,.0f} updates/s ({rates[0]:,.0f} to {rates[-1]:,.0f})"
            f"   {median_cpu[name]:.3f} CPU s per 100,000 ({cpus[0]:.3f} to {cpus[-1]:.3f})"
        )
    print(f"kufeed does {median_cpu['plain'] / median_cpu['kufeed']:.2f} times as many per CPU second")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        main(*map(int, sys.argv[1:]))
