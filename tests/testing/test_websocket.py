"""How the exchange behaves on a WebSocket: PROTOCOL.md sections 2, 3 and 5."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio_websocket

from kufeed.testing import Exchange, Limits, MemoryNetwork


async def test_the_welcome_comes_first_and_carries_the_connect_id(tools: Any, autojump_clock: object) -> None:
    async with MemoryNetwork(Exchange()) as network:
        async with tools.Dialler(network).open("spot", query="&connectId=mine%201", welcome=False) as client:
            assert await client.receive() == {"id": "mine 1", "type": "welcome"}
        async with tools.Dialler(network).open("spot", welcome=False) as client:
            frame = await client.receive()
            assert frame["type"] == "welcome"
            assert frame["id"]


async def test_a_ping_is_answered_with_its_own_id_as_text(tools: Any, autojump_clock: object) -> None:
    async with tools.connected(Exchange()) as client:
        await client.send({"id": 17, "type": "ping"})
        assert await client.receive() == {"id": "17", "type": "pong"}
        await client.send({"id": "x", "type": "ping"})
        assert await client.receive() == {"id": "x", "type": "pong"}


async def test_a_subscription_is_acked_only_when_asked_for(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with tools.connected(exchange, "spot") as client:
        await client.send({"id": 1, "type": "subscribe", "topic": "/market/ticker:A-B"})
        await client.send({"id": 2, "type": "subscribe", "topic": "/market/ticker:C-D", "response": False})
        await client.send({"id": 3, "type": "subscribe", "topic": "/market/ticker:E-F", "response": True})
        assert await client.receive() == {"id": "3", "type": "ack"}, "ids come back as text"
        assert exchange.sessions[0].topics == ("/market/ticker:A-B", "/market/ticker:C-D", "/market/ticker:E-F")


async def test_pushes_of_a_comma_list_carry_one_symbol_each(tools: Any, autojump_clock: object) -> None:
    async with tools.connected(Exchange()) as client:
        answer = await client.subscribe("/contractMarket/tickerV2:XBTUSDTM,ETHUSDTM")
        assert answer["type"] == "ack"
        topics = {push["topic"] for push in await client.pushes(10)}
    assert topics == {"/contractMarket/tickerV2:XBTUSDTM", "/contractMarket/tickerV2:ETHUSDTM"}


async def test_after_an_unsubscribe_nothing_more_is_pushed(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with tools.connected(exchange) as client:
        await client.subscribe("/contractMarket/tickerV2:XBTUSDTM,ETHUSDTM")
        await client.pushes(4)
        answer = await client.subscribe("/contractMarket/tickerV2:XBTUSDTM", "u", kind="unsubscribe")
        assert answer == {"id": "u", "type": "ack"}
        assert {push["topic"] for push in await client.pushes(6)} == {"/contractMarket/tickerV2:ETHUSDTM"}
        assert exchange.sessions[0].topics == ("/contractMarket/tickerV2:ETHUSDTM",)


async def test_subscribing_twice_is_acked_and_pushed_once(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with tools.connected(exchange, "spot") as client:
        await client.subscribe("/market/ticker:BTC-USDT")
        assert (await client.subscribe("/market/ticker:BTC-USDT"))["type"] == "ack"
        sequences = [push["data"]["sequence"] for push in await client.pushes(10)]
        assert len(set(sequences)) == 10
        assert exchange.statistics().topics == 1


@pytest.mark.parametrize(
    ("market", "topic", "named"),
    [
        ("spot", "/market/level2:BSV-BTC", "/market/level2:BSV-BTC"),
        ("spot", "/market/ticker:BTC-USDT,NO-PE", "/market/ticker:NO-PE"),
        ("spot", "/contractMarket/tickerV2:XBTUSDTM", "/contractMarket/tickerV2:XBTUSDTM"),
        ("futures", "/market/ticker:BTC-USDT", "/market/ticker:BTC-USDT"),
        ("futures", "/contractMarket/limitCandle:XBTUSDTM_6hour", "/contractMarket/limitCandle:XBTUSDTM_6hour"),
        ("futures", "/contractMarket/tickerV2", "/contractMarket/tickerV2"),
        ("futures", "/nonsense:XBTUSDTM", "/nonsense:XBTUSDTM"),
    ],
)
async def test_an_unknown_topic_is_refused_by_name(
    tools: Any, autojump_clock: object, market: str, topic: str, named: str
) -> None:
    exchange = Exchange()
    async with tools.connected(exchange, market) as client:
        answer = await client.subscribe(topic, 9)
        assert answer == {"id": "9", "type": "error", "code": 404, "data": f"topic {named} is not found"}
        assert exchange.sessions[0].topics == (), "one bad symbol refuses its whole frame"


async def test_a_partial_subscribe_refuses_the_bad_symbol_alone(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(partial_subscribe=True)
    async with tools.connected(exchange, "spot") as client:
        await client.send({"id": 5, "type": "subscribe", "topic": "/market/match:BTC-USDT,NO-PE", "response": True})
        error = await client.receive()
        assert (error["id"], error["code"], error["data"]) == ("5", 404, "topic /market/match:NO-PE is not found")
        assert await client.receive() == {"id": "5", "type": "ack"}
        assert exchange.sessions[0].topics == ("/market/match:BTC-USDT",)


@pytest.mark.parametrize("frame", ['{"id":"1","type":"dance"}', '{"id":"1"}', "[]", "not JSON"])
async def test_an_unknown_type_is_error_415(tools: Any, autojump_clock: object, frame: str) -> None:
    async with tools.connected(Exchange()) as client:
        await client.send(frame)
        answer = await client.receive()
        assert (answer["type"], answer["code"], answer["data"]) == ("error", 415, "type is not supported")


@pytest.mark.parametrize("token", ["", "made-up"])
async def test_an_unknown_token_is_http_401(tools: Any, autojump_clock: object, token: str) -> None:
    async with MemoryNetwork(Exchange()) as network:
        with pytest.raises(trio_websocket.ConnectionRejected) as refusal:
            async with tools.Dialler(network).open("spot", token=token):
                pass
        assert refusal.value.status_code == 401


async def test_tokens_of_the_markets_are_not_interchangeable(tools: Any, autojump_clock: object) -> None:
    async with MemoryNetwork(Exchange()) as network:
        dialler = tools.Dialler(network)
        token = await dialler.token("futures")
        with pytest.raises(trio_websocket.ConnectionRejected) as refusal:
            async with dialler.open("spot", token=token):
                pass
        assert refusal.value.status_code == 401
        async with dialler.open("futures", token=token):
            pass


async def test_an_expired_token_opens_a_useless_connection(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(limits=Limits(token_life=100.0))
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        token = await dialler.token("spot")
        await trio.sleep(99)
        async with dialler.open("spot", token=token):
            pass
        await trio.sleep(1)
        async with dialler.open("spot", token=token, welcome=False) as client:
            assert await client.receive() == {"type": "error", "code": 401, "data": "token is expired"}
            await client.send({"id": "1", "type": "ping"})
            assert await client.closed() == 1006, "no answer comes any more, and in the end the link is cut"


async def test_tokens_can_be_expired_by_hand(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        token = await dialler.token("spot")
        async with dialler.open("spot", token=token) as early:
            exchange.expire_tokens()
            async with dialler.open("spot", token=token, welcome=False) as late:
                assert (await late.receive())["code"] == 401
            await early.send({"id": "1", "type": "ping"})
            assert (await early.receive())["type"] == "pong", "open connections stay"


async def test_a_connection_is_cut_when_it_is_as_old_as_its_token_may_be(tools: Any, autojump_clock: object) -> None:
    """24 hours of pings and one update a minute through the real trio-websocket."""
    exchange = Exchange(update_interval=60.0)
    async with tools.connected(exchange) as client:
        await client.subscribe("/contractMarket/tickerV2:XBTUSDTM")
        opened = trio.current_time()
        kinds = {"pong": 0, "message": 0}

        async def ping() -> None:
            while True:
                await trio.sleep(18)
                await client.send({"id": "p", "type": "ping"})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ping)
            try:
                while True:
                    kinds[(await client.receive())["type"]] += 1
            except trio_websocket.ConnectionClosed:
                nursery.cancel_scope.cancel()
        assert trio.current_time() == pytest.approx(opened + 86400)
    assert kinds["pong"] >= 4799
    assert kinds["message"] > 1300


async def test_without_a_client_ping_the_link_ends_after_60_s_though_data_flow(
    tools: Any, autojump_clock: object
) -> None:
    async with tools.connected(Exchange()) as client:
        start = trio.current_time()
        await client.subscribe("/contractMarket/tickerV2:XBTUSDTM")

        async def protocol_ping() -> None:
            await trio.sleep(30)
            await client.websocket.ping()  # one of the WebSocket protocol keeps nothing alive

        async with trio.open_nursery() as nursery:
            nursery.start_soon(protocol_ping)
            assert await client.closed() == 1006
        assert trio.current_time() == pytest.approx(start + 60)


async def test_a_client_may_close(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        async with tools.Dialler(network).open("spot") as client:
            await client.subscribe("/market/ticker:BTC-USDT")
            (session,) = exchange.sessions
            await client.websocket.aclose()
            await session.wait_ended()
            assert exchange.sessions == ()
            assert exchange.statistics().connections_lost == 0
        assert repr(exchange) == "<Exchange open, 0 sessions, 0 topics>"


async def test_the_market_rests_while_nobody_listens(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        await trio.sleep(1000)
        assert exchange.statistics().beats == 0
        async with tools.Dialler(network).open("spot") as client:
            await client.subscribe("/market/ticker:BTC-USDT")
            await client.pushes(5)
        beats = exchange.statistics().beats
        await trio.sleep(1000)
        assert exchange.statistics().beats - beats <= 1


async def test_no_token_is_ever_shown(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        token = await tools.Dialler(network).token("spot")
        async with tools.Dialler(network).open("spot", token=token):
            shown = repr((exchange, exchange.sessions, exchange.dials, exchange.statistics(), vars(exchange)))
            assert exchange.sessions[0].token == token
    assert token not in shown


async def test_what_the_client_sent_can_be_looked_at(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with tools.connected(exchange) as client:
        await client.send({"id": "1", "type": "ping"})
        await client.receive()
        (session,) = exchange.sessions
        assert [json.loads(text) for text in session.received] == [{"id": "1", "type": "ping"}]
        assert session.market == "futures"
        assert [(dial.market, dial.status) for dial in exchange.dials] == [("futures", 101)]
        assert exchange.tokens_issued == 1
