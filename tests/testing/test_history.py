"""The trade history over REST: the very trades that were pushed, also those which nobody was there to receive."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing

from kufeed.testing import Exchange, MemoryNetwork

PLACES = [
    ("futures", "XBTUSDTM", "/contractMarket/execution:XBTUSDTM", "/api/v1/trade/history?symbol=XBTUSDTM"),
    ("spot", "BTC-USDT", "/market/match:BTC-USDT", "/api/v1/market/histories?symbol=BTC-USDT"),
]
SHARED = ("sequence", "price", "size", "side")
each_market = pytest.mark.parametrize(("market", "symbol", "topic", "path"), PLACES)


def as_trade(row: dict[str, Any]) -> tuple[Any, ...]:
    """What push and history tell in common; the time in ns, as text."""
    return (*(row[name] for name in SHARED), str(row.get("ts") or row["time"]))


async def history(tools: Any, network: MemoryNetwork, market: str, path: str) -> list[tuple[Any, ...]]:
    """Oldest first."""
    rows = [as_trade(row) for row in (await tools.Dialler(network).request(market, "GET", path)).data]
    return rows if market == "spot" else rows[::-1]


@each_market
async def test_the_history_has_what_was_pushed(
    tools: Any, autojump_clock: object, market: str, symbol: str, topic: str, path: str
) -> None:
    exchange = Exchange(live=False)
    async with MemoryNetwork(exchange) as network, tools.Dialler(network).open(market) as client:
        await client.subscribe(topic)
        last = exchange.trade(symbol, count=130)
        pushed = [as_trade(push["data"]) for push in await client.pushes(130)]
        assert pushed[-1][0] == (str(last) if market == "spot" else last)
        assert await history(tools, network, market, path) == pushed[-100:], "the newest hundred"
        before = exchange.book(symbol).sequence
        exchange.trade(symbol)
        assert exchange.book(symbol).sequence > before
        assert (await history(tools, network, market, path))[-1] == as_trade((await client.pushes(1))[0]["data"])


@each_market
async def test_trades_are_kept_also_when_nobody_is_told(
    tools: Any, autojump_clock: object, market: str, symbol: str, topic: str, path: str
) -> None:
    exchange = Exchange(live=False)
    async with MemoryNetwork(exchange) as network:
        assert await history(tools, network, market, path) == []
        last = exchange.trade(symbol, count=7)
        kept = await history(tools, network, market, path)
        assert len(kept) == 7
        assert int(kept[-1][0]) == last
        assert all(int(one[0]) < int(other[0]) for one, other in pairwise(kept))


@each_market
async def test_a_live_market_goes_on_while_nobody_holds_a_topic(
    tools: Any, market: str, symbol: str, topic: str, path: str
) -> None:
    """Its history is the same as if somebody had stayed, and goes on where the next subscriber begins."""

    def run(stays: bool) -> tuple[list[Any], list[Any], list[Any]]:
        async def main() -> tuple[list[Any], list[Any], list[Any]]:
            pushed: list[Any] = []
            async with MemoryNetwork(Exchange(seed=11)) as network:
                dialler = tools.Dialler(network)
                async with dialler.open(market) as client:
                    await client.subscribe(topic)
                    await trio.sleep(20 if stays else 4)
                await trio.sleep(0.05 if stays else 16.05)
                kept = await history(tools, network, market, path)
                async with dialler.open(market) as client:
                    await client.subscribe(topic)
                    pushed = [as_trade(push["data"]) for push in await client.pushes(10)]
                    after = await history(tools, network, market, path)
            return kept, pushed, after

        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    (stayed, left) = [await trio.to_thread.run_sync(run, stays) for stays in (True, False)]
    assert stayed == left
    kept, pushed, after = left
    assert 20 < len(kept) <= 100
    start = after.index(kept[-1])
    assert after[start + 1 : start + 11] == pushed


@each_market
async def test_after_a_long_absence_the_whole_history_is_new(
    tools: Any, autojump_clock: object, market: str, symbol: str, topic: str, path: str
) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        async with tools.Dialler(network).open(market) as client:
            await client.subscribe(topic)
            seen = [as_trade(push["data"]) for push in await client.pushes(20)]
        await trio.sleep(8 * 3600)
        kept = await history(tools, network, market, path)
        assert len(kept) == 100
        assert not set(kept) & set(seen)
        assert network.time_ns() - int(kept[-1][-1]) < 30e9


async def test_what_is_halted_or_frozen_or_was_never_held_does_not_move(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        async with tools.Dialler(network).open("spot") as client:
            await client.subscribe("/market/match:BTC-USDT")
            await client.pushes(3)
        still = exchange.book("ETH-USDT")
        exchange.halt("BTC-USDT")
        halted = exchange.book("BTC-USDT")
        await trio.sleep(60)
        assert exchange.book("ETH-USDT") == still
        assert exchange.book("BTC-USDT") == halted
        exchange.resume("BTC-USDT")
        assert exchange.book("BTC-USDT") == halted, "nothing has happened meanwhile"
        await trio.sleep(1)
        moved = exchange.book("BTC-USDT")
        assert moved.sequence > halted.sequence
        exchange.freeze()
        await trio.sleep(1)
        assert exchange.book("BTC-USDT") == moved


@pytest.mark.parametrize("count", [0, -1])
async def test_a_count_of_trades_is_positive(tools: Any, autojump_clock: object, count: int) -> None:
    async with MemoryNetwork(Exchange()) as network:
        with pytest.raises(ValueError, match="count must be 1 or more"):
            network.exchange.trade("BTC-USDT", count)
        with pytest.raises(LookupError, match="NO-PE"):
            network.exchange.trade("NO-PE")
        network.exchange.halt("BTC-USDT")
        with pytest.raises(ValueError, match="halted"):
            network.exchange.trade("BTC-USDT")
