"""Scripts, faults and slow clients: what tests do to the exchange."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket

from kufeed.testing import Exchange, Limits, MemoryNetwork

MATCH = (
    '{"data" : {"odd": "spelling", "n":%d},"subject":"trade.l3match","topic":"/market/match:EQZ-BTC","type":"message"}'
)


async def test_a_script_is_played_verbatim_in_order_to_those_who_hold_the_topic(
    tools: Any, autojump_clock: object
) -> None:
    exchange = Exchange(live=False)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot") as one, dialler.open("spot") as other, trio.open_nursery() as nursery:
            await one.subscribe("/market/match:EQZ-BTC,COV-BTC")
            await other.subscribe("/market/match:COV-BTC")
            script: list[str | bytes] = [MATCH % number for number in range(50)]
            script.append(b'{"topic":"/market/match:COV-BTC"}')
            script.append('{"id":"1","type":"ack"}')
            received: list[str] = []

            async def read() -> None:
                received.extend([str(await one.websocket.get_message()) for _ in range(51)])

            nursery.start_soon(read)
            assert await exchange.play(script) == 52
        assert received == [MATCH % number for number in range(50)] + ['{"topic":"/market/match:COV-BTC"}']


async def test_a_script_waits_for_a_slow_client_and_loses_nothing(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False, send_buffer=2000)
    async with tools.connected(exchange, "spot") as client, trio.open_nursery() as nursery:
        await client.subscribe("/market/match:EQZ-BTC")
        nursery.start_soon(exchange.play, [MATCH % number for number in range(5000)])
        await trio.testing.wait_all_tasks_blocked()
        numbers = [push["data"]["n"] for push in await client.pushes(5000)]
    assert numbers == list(range(5000))
    assert exchange.statistics().dropped == 0


async def test_a_topic_is_found_wherever_the_word_stands(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    frame = '{"data":{"topic":"/market/match:COV-BTC"},"topic":"/market/match:EQZ-BTC","type":"message"}'
    async with tools.connected(exchange, "spot") as client:
        await client.subscribe("/market/match:EQZ-BTC")
        assert await exchange.play([frame, '{"data":{"topic":"/market/match:EQZ-BTC"},"topic":"x"}']) == 1
        assert await client.receive() == json.loads(frame)


async def test_one_can_wait_for_a_subscription(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with tools.connected(exchange, "spot") as client, trio.open_nursery() as nursery:
        with trio.testing.assert_checkpoints():
            await exchange.wait_subscribed()
        nursery.start_soon(exchange.wait_subscribed, "/market/match:A-B", "/market/match:C-D")
        await client.subscribe("/market/match:A-B")
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        await client.subscribe("/market/match:C-D")
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks


async def test_a_silent_market_stays_silent(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with tools.connected(exchange, "spot") as client:
        await client.subscribe("/market/ticker:BTC-USDT")
        with trio.move_on_after(50) as patience:
            await client.receive()
        assert patience.cancelled_caught


async def test_a_slow_client_loses_pushes_and_holds_up_nobody(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(send_buffer=20_000, limits=Limits.off())
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot") as slow, dialler.open("spot") as quick:
            await slow.subscribe("/spotMarket/level2Depth50:BTC-USDT")
            await quick.subscribe("/spotMarket/level2Depth50:BTC-USDT")
            await quick.pushes(500)
            first, second = exchange.sessions
            assert first.dropped > 0
            assert second.dropped == 0
            assert first.pending < 30_000
            assert exchange.statistics().dropped == first.dropped
            await slow.send({"id": "1", "type": "ping"})
            assert (await slow.receive_until("pong"))["id"] == "1", "answers are never dropped"


async def test_connections_can_be_cut_or_closed_with_a_code(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        for code, seen in ((None, 1006), (1001, 1001), (4002, 4002)):
            async with dialler.open("spot") as client, trio.open_nursery() as nursery:
                await client.subscribe("/market/ticker:BTC-USDT")
                nursery.start_soon(exchange.disconnect_all, code)
                assert await client.closed() == seen
            assert exchange.sessions == ()
        async with dialler.open("spot") as deaf:
            start = trio.current_time()
            await deaf.subscribe("/spotMarket/level2Depth50:BTC-USDT")
            await trio.sleep(30)
            await exchange.disconnect_all(1000)
            assert trio.current_time() <= start + 31, "who does not answer a close is cut"


async def test_a_frozen_exchange_says_nothing_until_it_is_thawed(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot") as client:
            await client.subscribe("/market/ticker:BTC-USDT")
            exchange.freeze()
            await client.send({"id": "late", "type": "ping"})
            with trio.move_on_after(20) as patience:
                while True:
                    await client.receive()
            assert patience.cancelled_caught
            with trio.move_on_after(5) as patience:
                await dialler.token("spot")
            assert patience.cancelled_caught
            exchange.thaw()
            assert (await client.receive_until("pong"))["id"] == "late"
            await client.pushes(3)


async def test_withheld_frames_are_not_sent(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    exchange.faults.withhold_welcome = True
    async with MemoryNetwork(exchange) as network, tools.Dialler(network).open("spot", welcome=False) as client:
        exchange.faults.withhold_pongs = True
        await client.send({"id": "1", "type": "ping"})
        exchange.faults.withhold_acks = True
        await client.send({"id": "2", "type": "subscribe", "topic": "/market/ticker:BTC-USDT", "response": True})
        await exchange.wait_subscribed("/market/ticker:BTC-USDT")
        exchange.faults.withhold_pongs = exchange.faults.withhold_acks = False
        await client.send({"id": "3", "type": "ping"})
        frames = [await client.receive() for _ in range(3)]
        assert [frame.get("id") for frame in frames if frame["type"] != "message"] == ["3"]


async def test_ignored_topics_get_no_answer_and_muted_ones_no_pushes(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    exchange.faults.ignore_topics = {"/market/ticker:ETH-USDT"}
    exchange.faults.mute_topics = {"/market/match:BTC-USDT"}
    async with tools.connected(exchange, "spot") as client:
        await client.send(
            {"id": "1", "type": "subscribe", "topic": "/market/ticker:BTC-USDT,ETH-USDT", "response": True}
        )
        assert (await client.subscribe("/market/match:BTC-USDT", "2"))["id"] == "2"
        assert {push["topic"] for push in await client.pushes(20)} == {"/market/ticker:BTC-USDT"}
        assert exchange.sessions[0].topics == ("/market/ticker:BTC-USDT", "/market/match:BTC-USDT")


async def test_token_requests_can_fail(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        exchange.faults.token_error = 503
        assert (await dialler.request("spot", "POST", "/api/v1/bullet-public")).status == 503
        exchange.faults.token_error = ("400007", "no permission")
        response = await dialler.request("spot", "POST", "/api/v1/bullet-public")
        assert (response.status, response.json) == (200, {"code": "400007", "msg": "no permission"})
        exchange.faults.token_error = None
        await dialler.token("spot")
        assert exchange.tokens_issued == 1


async def test_an_exchange_is_open_once_at_a_time_and_may_open_again(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange):
        with pytest.raises(RuntimeError, match="open already"):
            async with MemoryNetwork(exchange):
                pass
    async with MemoryNetwork(exchange) as network, tools.Dialler(network).open("spot") as client:
        await client.subscribe("/market/ticker:BTC-USDT")
        await client.pushes(2)


@pytest.mark.parametrize("name", ["update_interval", "ping_interval", "ping_timeout", "send_buffer"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_arguments_out_of_range_are_named(name: str, value: float) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        Exchange(**arguments)


async def test_two_runs_with_one_seed_are_the_same_on_the_wire(tools: Any) -> None:
    def run() -> list[str]:
        async def main() -> list[str]:
            async with tools.connected(Exchange(seed=3)) as client:
                await client.subscribe("/contractMarket/tickerV2:XBTUSDTM")
                await client.subscribe("/contractMarket/execution:XBTUSDTM")
                return [str(await client.websocket.get_message()) for _ in range(100)]

        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    first, second = await trio.to_thread.run_sync(run), await trio.to_thread.run_sync(run)
    assert first == second


async def test_a_bug_in_the_exchange_surfaces(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()

    async def use_it() -> None:
        async with MemoryNetwork(exchange) as network, tools.Dialler(network).open("spot") as client:
            exchange.model.find = None  # type: ignore[method-assign, assignment]
            await client.send({"id": "1", "type": "subscribe", "topic": "/market/ticker:BTC-USDT"})
            await trio.sleep_forever()

    with pytest.RaisesGroup(TypeError, flatten_subgroups=True):
        await use_it()


async def test_the_bodys_error_comes_out_as_itself(tools: Any, autojump_clock: object) -> None:
    async def use_it() -> None:
        async with tools.connected(Exchange()) as client:
            await client.subscribe("/contractMarket/tickerV2:XBTUSDTM")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await use_it()


async def test_cancelling_ends_it_and_it_can_be_opened_again(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    for _ in range(2):
        with trio.move_on_after(5) as scope:
            async with tools.connected(exchange) as client:
                await client.subscribe("/contractMarket/tickerV2:XBTUSDTM")
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert exchange.sessions == ()
        assert exchange.statistics().topics == 0


async def test_leaving_cuts_every_connection(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        stream = await network.open_stream("api.kucoin.com", 443, None)
    assert await stream.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")
    with pytest.raises(ConnectionRefusedError):
        await network.open_stream("api.kucoin.com", 443, None)


async def test_a_client_that_vanishes_is_forgotten(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network, tools.Dialler(network).open("spot") as client:
        await client.subscribe("/market/ticker:BTC-USDT")
        (session,) = exchange.sessions
        client.stream.reset()
        await session.wait_ended()
        assert exchange.sessions == ()
        with pytest.raises(trio_websocket.ConnectionClosed):
            await client.send("anything")


@pytest.mark.parametrize("market", ["spot", "futures"])
async def test_maintenance_is_told_and_may_refuse_who_comes(tools: Any, autojump_clock: object, market: str) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        token = await dialler.token(market)
        exchange.faults.maintenance = ("close", "upgrade until 10:00")
        reply = await dialler.request(market, "GET", "/api/v1/status")
        assert reply.data == {"status": "close", "msg": "upgrade until 10:00"}
        async with dialler.open(market) as before:
            exchange.faults.maintenance_refuses = True
            assert (await dialler.request(market, "POST", "/api/v1/bullet-public")).status == 503
            with pytest.raises(trio_websocket.ConnectionRejected) as refusal:
                async with dialler.open(market, token=token):
                    pass
            assert refusal.value.status_code == 503
            await before.send({"id": "1", "type": "ping"})
            assert (await before.receive())["type"] == "pong", "who is connected stays so"
        exchange.faults.maintenance = ("cancelonly", "")
        async with dialler.open(market):
            pass
        exchange.faults.maintenance = None
        assert (await dialler.request(market, "GET", "/api/v1/status")).data == {"status": "open", "msg": ""}


async def test_a_control_frame_can_be_sent_to_every_session(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    frame = '{"type": "notice", "subject":"maintenance"}'
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot") as spot, dialler.open("futures") as futures:
            assert exchange.notify(frame) == 2
            for client in (spot, futures):
                assert await client.websocket.get_message() == frame
            assert exchange.notify(b'{"type":"command"}', market="futures") == 1
            assert await futures.receive() == {"type": "command"}
            await spot.send({"id": "1", "type": "ping"})
            assert (await spot.receive())["type"] == "pong"
