"""`kufeed watch` shows what KuCoin really sent: the recorded session of 2021-04-23, served over a socket."""

from __future__ import annotations

import json
from decimal import Decimal

from kufeed.testing import Exchange

from .. import samples
from .process import running


async def test_watch_shows_the_tickers_of_a_recorded_session() -> None:
    texts = [sample.text for sample in samples.load("session_spot_2021-04-23_ticker_match.jsonl")]
    frames = [frame for frame in map(json.loads, texts) if frame.get("subject") == "trade.ticker"]
    topics = list(dict.fromkeys(frame["topic"] for frame in frames))
    symbols = [topic.partition(":")[2] for topic in topics]
    exchange = Exchange(live=False)
    async with exchange.listen() as address:
        urls = ("--spot-url", address.spot_url)
        async with running("watch", "ticker", *symbols, "--json", "--count", str(len(frames)), *urls) as watch:
            await exchange.wait_subscribed(*topics)
            assert await exchange.play(texts) == len(frames)
            ended = await watch.end()
    assert ended.code == 0
    assert ended.err == [f"kufeed: received {len(frames)}, delivered {len(frames)}, dropped 0"]
    shown = [json.loads(line) for line in ended.out]
    assert len(shown) == len(frames) > 700
    for frame, update in zip(frames, shown, strict=True):
        data = frame["data"]
        assert update["topic"] == frame["topic"]
        assert update["sequence"] == int(data["sequence"])
        assert update["exchange_time_ns"] == data["time"] * 1_000_000
        for name, theirs in (("bid", "bestBid"), ("ask_size", "bestAskSize"), ("price", "price")):
            assert Decimal(update[name]) == Decimal(data[theirs])
