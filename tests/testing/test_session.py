"""What one connection can be made to suffer: lag, silence, a peer that does not read, acks that are not right."""

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


async def test_a_muted_session_says_nothing_any_more_and_is_open(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot") as client, dialler.open("spot") as other:
            for each in (client, other):
                await each.subscribe(TICKER)
            muted, heard = exchange.sessions
            muted.mute()
            await client.send({"id": "1", "type": "ping"})
            exchange.change_book("BTC-USDT")
            await other.pushes(1)
            with trio.move_on_after(50) as patience:
                await client.receive()
            assert patience.cancelled_caught
            assert (muted.is_open, muted.pending, len(muted.pinged_at)) == (True, 0, 1)
            assert (heard.is_open, heard.pending) == (True, 0)
            with trio.move_on_after(0.5) as patience:
                await client.websocket.ping()
            assert patience.cancelled_caught, "not even what the WebSocket answers by itself"


async def test_a_session_that_does_not_read_gets_the_client_stuck(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with tools.connected(exchange, "spot") as client:
        await client.subscribe(TICKER)
        (session,) = exchange.sessions
        session.stop_reading()
        received = session.received
        with trio.move_on_after(5) as patience:
            await client.send({"id": "1", "type": "ping"})
        assert patience.cancelled_caught, "the send is stuck"
        begun = trio.current_time()
        while trio.current_time() < begun + 300:
            await client.pushes(1)
        assert (session.received, session.is_open) == (received, True)


async def test_acks_can_come_twice_or_with_another_id(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with tools.connected(exchange, "spot") as client:

        async def answers(kind: str) -> list[str]:
            await client.send({"id": "7", "type": kind, "topic": TICKER, "response": True})
            await client.send({"id": "last", "type": "ping"})
            frames: list[dict[str, Any]] = []
            while not frames or frames[-1]["type"] != "pong":
                frames.append(await client.receive())
            return [frame["id"] for frame in frames[:-1]]

        exchange.faults.ack_twice = True
        assert await answers("subscribe") == ["7", "7"]
        exchange.faults.wrong_acks = True
        assert await answers("unsubscribe") == ["not-7", "not-7"]
        exchange.faults.ack_twice = False
        assert await answers("subscribe") == ["not-7"]
        exchange.faults.wrong_acks = False
        assert await answers("unsubscribe") == ["7"]


async def test_acks_can_come_late_while_all_else_flows(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    exchange.faults.late_acks = 3.0
    async with tools.connected(exchange, "spot") as client:
        begun = trio.current_time()
        await client.send({"id": "7", "type": "subscribe", "topic": TICKER, "response": True})
        await client.send({"id": "8", "type": "ping"})
        kinds: list[str] = []
        while not kinds or kinds[-1] != "ack":
            kinds.append((await client.receive())["type"])
        assert trio.current_time() - begun == pytest.approx(3.0, abs=1e-6)
        assert kinds[0] == "pong"
        assert kinds.count("message") > 20
        await client.send({"id": "9", "type": "unsubscribe", "topic": TICKER, "response": True})
        await client.websocket.aclose()
    assert exchange.sessions == (), "an ack that is still to come holds nothing up"
