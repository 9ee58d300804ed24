"""Symbols that stop trading, for a while or for good: what the lists say, and that nothing is pushed."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from kufeed.testing import Exchange, MemoryNetwork

PLACES = [("futures", "XBTUSDTM", "/contractMarket/tickerV2"), ("spot", "BTC-USDT", "/market/ticker")]


async def pushes_within(client: Any, seconds: float) -> int:
    count = 0
    with trio.move_on_after(seconds):
        while True:
            await client.receive_until("message")
            count += 1
    return count


@pytest.mark.parametrize(("market", "symbol", "prefix"), PLACES)
async def test_a_halted_symbol_is_silent_until_it_trades_again(
    tools: Any, autojump_clock: object, market: str, symbol: str, prefix: str
) -> None:
    exchange = Exchange()
    async with tools.connected(exchange, market) as client:
        assert (await client.subscribe(f"{prefix}:{symbol}"))["type"] == "ack"
        await client.pushes(3)
        exchange.halt(symbol)
        before = exchange.book(symbol)
        assert await pushes_within(client, 30) == 0
        assert exchange.book(symbol) == before
        with pytest.raises(ValueError, match=f"{symbol} is halted"):
            exchange.change_book(symbol)
        exchange.resume(symbol)
        assert await pushes_within(client, 5) > 10


async def test_a_halted_symbol_leaves_the_topic_of_all(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    exchange.halt("ETH-USDT")
    async with tools.connected(exchange, "spot") as client:
        await client.subscribe("/market/ticker:all")
        assert {push["subject"] for push in await client.pushes(20)} == {"BTC-USDT"}


async def test_a_topic_of_a_halted_symbol_is_acked(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    exchange.halt("BTC-USDT")
    async with tools.connected(exchange, "spot") as client:
        assert (await client.subscribe("/market/snapshot:BTC-USDT"))["type"] == "ack"
        assert await pushes_within(client, 20) == 0


async def test_the_lists_tell_who_is_halted(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:

        async def statuses() -> dict[str, Any]:
            request = tools.Dialler(network).request
            contracts = (await request("futures", "GET", "/api/v1/contracts/active")).data
            pairs = (await request("spot", "GET", "/api/v2/symbols")).data
            one = (await request("futures", "GET", "/api/v1/contracts/ETHUSDTM")).data
            assert one["status"] == next(row["status"] for row in contracts if row["symbol"] == "ETHUSDTM")
            return {
                **{row["symbol"]: row["status"] for row in contracts},
                **{row["symbol"]: row["enableTrading"] for row in pairs},
            }

        everything = {"XBTUSDTM": "Open", "ETHUSDTM": "Open", "BTC-USDT": True, "ETH-USDT": True}
        assert await statuses() == everything
        exchange.halt("XBTUSDTM")
        exchange.halt("ETHUSDTM", "BeingSettled")
        exchange.halt("BTC-USDT")
        assert await statuses() == {**everything, "XBTUSDTM": "Paused", "ETHUSDTM": "BeingSettled", "BTC-USDT": False}
        for symbol in ("XBTUSDTM", "ETHUSDTM", "BTC-USDT"):
            exchange.resume(symbol)
        assert await statuses() == everything


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize(("market", "symbol", "prefix"), PLACES)
async def test_a_delisted_symbol_is_gone(
    tools: Any, autojump_clock: object, live: bool, market: str, symbol: str, prefix: str
) -> None:
    exchange = Exchange(live=live)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open(market) as holder, dialler.open(market) as other:
            await holder.subscribe(f"{prefix}:{symbol}")
            exchange.delist(symbol)
            assert await pushes_within(holder, 30) == 0
            refusal = await other.subscribe(f"{prefix}:{symbol}")
            assert (refusal["type"], refusal["code"]) == ("error", 404)
            assert exchange.sessions[0].topics == (f"{prefix}:{symbol}",)
        path = "/api/v1/contracts/active" if market == "futures" else "/api/v2/symbols"
        assert symbol not in {row["symbol"] for row in (await dialler.request(market, "GET", path)).data}
        one = f"/api/v1/contracts/{symbol}" if market == "futures" else f"/api/v1/market/histories?symbol={symbol}"
        assert (await dialler.request(market, "GET", one)).json["code"] in {"200003", "900001"}
        with pytest.raises(LookupError, match=symbol):
            exchange.resume(symbol)


def test_what_cannot_be_halted_is_named() -> None:
    exchange = Exchange()
    for do in (exchange.halt, exchange.resume, exchange.delist):
        with pytest.raises(LookupError, match="NO-PE"):
            do("NO-PE")
    with pytest.raises(ValueError, match="not Open"):
        exchange.halt("XBTUSDTM", "Open")
