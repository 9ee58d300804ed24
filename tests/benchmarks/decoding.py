"""What a message costs from its bytes to its record, for each channel: `python tests/benchmarks/decoding.py`.

With the default decoder, which is strict, with `ujson` and `orjson`, with exact numbers and floats: CPU microseconds of
a message, the median of interleaved rounds and their least and greatest. JSON and decoder only: no socket, no routing,
no delivery. The messages are those of the simulated exchange, many for each channel; where it only plays what it is
given, one of that shape.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import orjson
import ujson

from kufeed import _json
from kufeed._streams import Stream
from kufeed.protocol import CHANNELS, Channel, Topic
from kufeed.protocol.market import ALL
from kufeed.testing import wire
from kufeed.testing.market import MarketModel, MarketName

BEATS = 600
SECOND = 1_000_000_000
START = 1_750_000_000 * SECOND
MS = START // 1_000_000
AUCTION = {
    "symbol": "BTC-USDT",
    "estimatedPrice": "0.17",
    "estimatedSize": "0.03715004",
    "sellOrderRangeLowPrice": "1.788",
    "sellOrderRangeHighPrice": "2.386",
    "buyOrderRangeLowPrice": "1.788",
    "buyOrderRangeHighPrice": "2.386",
    "time": MS,
}
SIDE = [[f"{price / 10}", f"{price / 1000}"] for price in range(67_000, 67_050)]
PLAYED: dict[str, dict[str, Any]] = {
    "/callauction/callauctionData": AUCTION,
    "/callauction/level2Depth50": {"asks": SIDE, "bids": SIDE, "timestamp": MS},
    "/contract/announcement": {"symbol": "XBTUSDTM", "fundingTime": MS, "fundingRate": -0.002966, "timestamp": MS},
}
WAYS: list[tuple[str, Callable[[bytes], Any], type]] = [
    ("strict, Decimal", _json.loads, Decimal),
    ("strict, float", _json.loads, float),
    ("ujson, Decimal", ujson.loads, Decimal),
    ("ujson, float", ujson.loads, float),
    ("orjson, Decimal", orjson.loads, Decimal),
    ("orjson, float", orjson.loads, float),
]


def payloads(topic: Topic) -> list[bytes]:
    """Messages of *topic* as the exchange writes them."""
    channel = topic.channel
    market: MarketName = "spot" if channel.market.name == "spot" else "futures"
    if channel.path in PLAYED:
        push = {"topic": str(topic), "type": "message", "subject": channel.subjects[0], "data": PLAYED[channel.path]}
        return [wire.compact(push).encode()]
    encoder = wire.CHANNELS[market, channel.path]
    model = MarketModel()
    symbol = model.find(market, topic.symbol)
    active = encoder.find(model, ALL if channel.symbol_in_subject else topic.argument, any_symbol=False)
    assert symbol is not None
    assert active is not None
    found: list[str] = []
    for beat in range(BEATS):
        found += encoder.encode(active, symbol, symbol.advance(START + beat * SECOND))
    chosen = [text.encode() for text in found if ujson.loads(text)["subject"] in (channel.subjects or (topic.symbol,))]
    assert chosen
    return chosen


def topic_of(channel: Channel) -> Topic:
    symbol = "BTC-USDT" if channel.market.name == "spot" else "XBTUSDTM"
    return Topic(channel, symbol, None if channel.intervals is None else "1min")


def measure(messages: Sequence[bytes], topic: Topic, loads: Callable[[bytes], Any], numbers: type) -> float:
    """CPU microseconds for each of *messages*."""
    decode = Stream(topic, numbers=numbers).decode  # as a feed has it
    begun = time.process_time()
    for message in messages:
        decode(loads(message), topic, START)
    return (time.process_time() - begun) / len(messages) * 1e6


def name(channel: Channel) -> str:
    kind = f" ({channel.kind})" if channel.path == "/contract/instrument" else ""
    return f"{channel.market.name} {channel}{kind}"


def main(messages: int = 3000, rounds: int = 9) -> None:
    topics = [topic_of(channel) for channel in CHANNELS]
    many = {topic: (found * (messages // len(found) + 1))[:messages] for topic in topics for found in [payloads(topic)]}
    seconds: dict[tuple[Topic, str], list[float]] = {}
    gc.disable()
    for _ in range(rounds):
        for topic in topics:
            for way, loads, numbers in WAYS:
                seconds.setdefault((topic, way), []).append(measure(many[topic], topic, loads, numbers))
        gc.collect()
    print(f"{'':48}  bytes" + "".join(f"{way:>26}" for way, _, _ in WAYS))
    for topic in topics:
        size = statistics.mean(map(len, many[topic]))
        cells = []
        for way, _, _ in WAYS:
            found = seconds[topic, way]
            cells.append(f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})".rjust(26))
        print(f"{name(topic.channel):48}  {size:5.0f}" + "".join(cells))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
