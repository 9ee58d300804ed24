"""What refusing malformed numbers costs: `python tests/benchmarks/strict_json.py`, one line for each channel.

The CPU time of `ujson.loads` for one message, and by how much the others are slower: ours, which is strict, and ways to
keep `ujson` with a look at the bytes before it. Those are incomplete (they miss some), and cost more already.
"""

from __future__ import annotations

import json
import re
import sys
import time
import timeit
from pathlib import Path
from typing import Any

import orjson
import ujson

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
import samples  # noqa: E402
from blast import ticker  # noqa: E402

from kufeed._json import loads  # noqa: E402

SUSPICIOUS = re.compile(rb"[:,\[\s](?:0[0-9]|-(?!0(?![0-9])|[1-9]))|[0-9]\.(?![0-9])")
CLASSES = bytes.maketrans(b",[]}\n\t\r -eE", b"::::::::0::")


def two_searches(payload: bytes) -> Any:
    if payload.find(b":0") >= 0 or payload.find(b":-") >= 0:
        return loads(payload)
    return ujson.loads(payload)


def translated(payload: bytes) -> Any:
    classes = payload.translate(CLASSES)
    if classes.find(b":0") >= 0 or classes.find(b".:") >= 0:
        return loads(payload)
    return ujson.loads(payload)


def expression(payload: bytes) -> Any:
    if SUSPICIOUS.search(payload):
        return loads(payload)
    return ujson.loads(payload)


WAYS = {
    "ujson": ujson.loads,
    "ours": loads,
    "orjson": orjson.loads,
    "two searches": two_searches,
    "translated": translated,
    "expression": expression,
}
FILES = (
    *("spot_ticker", "spot_match", "spot_level1", "spot_level2.", "spot_level2Depth5.", "spot_level2Depth50"),
    *("spot_candles", "spot_snapshot", "spot_callauction_data", "margin_indicator_mark_price", "futures_tickerV2"),
    *("futures_execution", "futures_level2.", "futures_level2Depth5.", "futures_instrument", "futures_limitCandle"),
    *("futures_snapshot", "futures_announcement"),
)


def main(rounds: int = 15) -> None:
    messages = {"blast": ticker(77)}
    for name in FILES:
        value = json.loads(samples.load(f"{name}*")[0].text)
        messages[name.rstrip(".")] = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    print(f"{'':30}", *(f"{name:>13}" for name in WAYS))
    for name, payload in messages.items():
        number = max(10, 1_000_000 // len(payload))
        timers = [
            timeit.Timer("way(payload)", timer=time.process_time, globals={"way": way, "payload": payload})
            for way in WAYS.values()
        ]
        taken = [[timer.timeit(number) / number for timer in timers] for _ in range(rounds)]
        best = [min(column) for column in zip(*taken, strict=True)]
        others = (f"{other / best[0] - 1:+13.0%}" for other in best[1:])
        print(f"{name:20} {len(payload):5} B", f"{best[0] * 1e9:11,.0f} ns", *others)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
