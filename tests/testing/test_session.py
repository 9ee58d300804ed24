"""What one connection can be made to suffer: lag, silence in one direction, a peer that does not read."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from kufeed.testing import Exchange, MemoryNetwork

TICKER = "/market/ticker:BTC-USDT"


async def test_all_that_is_said_arrives_later_and_in_order(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot") as slow, dialler.open("spot") as quick:
            exchange.sessions[0].lag = 0.5
            for client in (slow, quick):
                await client.send({"id": "1", "type": "subscribe", "topic": TICKER, "response": True})
                await client.send({"id": "2", "type": "ping"})
            await exchange.wait_subscribed(TICKER)
            await trio.testing.wait_all_tasks_blocked()
            exchange.change_book("BTC-USDT")
            begun = trio.current_time()
            for client, lag in ((quick, 0.0), (slow, 0.5)):
                assert [(await client.receive())["type"] for _ in range(3)] == ["ack", "pong", "message"]
                assert trio.current_time() - begun == pytest.approx(lag, abs=1e-6)


async def test_a_lag_that_becomes_less_keeps_the_order(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with tools.connected(exchange) as client:
        (session,) = exchange.sessions
        begun = trio.current_time()
        for request_id, lag in (("1", 2.0), ("2", 0.0), ("3", 1.0)):
            session.lag = lag
            await client.send({"id": request_id, "type": "ping"})
            await trio.testing.wait_all_tasks_blocked()
        arrivals = [((await client.receive())["id"], round(trio.current_time() - begun, 3)) for _ in range(3)]
        assert arrivals == [("1", 2.0), ("2", 2.0), ("3", 2.0)]
        session.lag = 0.0
        await client.send({"id": "4", "type": "ping"})
        assert (await client.receive())["id"] == "4"
        assert round(trio.current_time() - begun, 3) == 2.0


async def test_the_way_is_long_but_not_full(tools: Any, autojump_clock: object) -> None:
    """What is under way is no backlog: nothing is dropped for it, and a script waits until it has left."""
    exchange = Exchange(live=False, send_buffer=100)
    async with tools.connected(exchange, "spot") as client, trio.open_nursery() as nursery:
        await client.subscribe(TICKER)
        (session,) = exchange.sessions
        session.lag = 1.0
        begun = trio.current_time()
        nursery.start_soon(client.pushes, 50)
        assert await exchange.play([f'{{"topic":"{TICKER}","type":"message"}}'] * 50) == 50
        assert trio.current_time() - begun >= 1.0
        assert session.dropped == 0


async def test_new_connections_of_a_server_can_lag(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(instance_servers=2)
    exchange.faults.lag = {1: 0.25}
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        for server, lag in ((0, 0.0), (1, 0.25)):
            begun = trio.current_time()
            async with dialler.open("spot", server=server):
                assert trio.current_time() - begun == pytest.approx(lag, abs=1e-6), "the welcome is late too"
                assert exchange.sessions[0].lag == lag


@pytest.mark.parametrize("lag", [-1.0, float("nan"), float("inf")])
async def test_a_lag_is_not_negative(tools: Any, autojump_clock: object, lag: float) -> None:
    exchange = Exchange()
    async with tools.connected(exchange):
        with pytest.raises(ValueError, match="lag must be zero or more"):
            exchange.sessions[0].lag = lag
