"""KuCoin's limits (PROTOCOL.md sections 4 and 9), each enforced and each switched off by None."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio_websocket

from kufeed.testing import Exchange, Limits, MemoryNetwork


def spot_topics(first: int, count: int) -> str:
    return "/market/ticker:" + ",".join(f"T{number:04d}-USDT" for number in range(first, first + count))


async def test_the_31st_dial_of_a_minute_is_http_429(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        token = await dialler.token("spot")
        for _ in range(30):
            async with dialler.open("spot", token=token):
                pass
        with pytest.raises(trio_websocket.ConnectionRejected) as refusal:
            async with dialler.open("spot", token=token):
                pass
        assert refusal.value.status_code == 429
        assert [dial.status for dial in exchange.dials[-2:]] == [101, 429]
        assert exchange.statistics().dials_refused == 1
        async with dialler.open("futures"):
            pass
        await trio.sleep(60)
        async with dialler.open("spot", token=token):
            pass


async def test_open_connections_are_limited(tools: Any, autojump_clock: object) -> None:
    async with MemoryNetwork(Exchange(limits=Limits(connections=1))) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot"):
            with pytest.raises(trio_websocket.ConnectionRejected) as refusal:
                async with dialler.open("spot"):
                    pass
            assert refusal.value.status_code == 429


async def test_the_101st_frame_in_10_s_is_an_error_and_70_ms_later_the_link_is_dropped(
    tools: Any, autojump_clock: object
) -> None:
    async with tools.connected(Exchange()) as client:
        for number in range(100):
            await client.send({"id": number, "type": "ping"})
            assert (await client.receive())["id"] == str(number)
        await client.send({"id": "100", "type": "ping"})
        error = await client.receive()
        now = trio.current_time()
        assert (error["type"], error["code"]) == ("error", 509)
        assert error["data"] == "exceed max permits per 10 seconds"
        assert await client.closed() == 1006, "without a close frame"
        assert trio.current_time() == pytest.approx(now + 0.07)


async def test_100_frames_in_each_10_s_are_allowed(tools: Any, autojump_clock: object) -> None:
    async with tools.connected(Exchange()) as client:
        for number in range(300):
            await client.send({"id": number, "type": "ping"})
            assert (await client.receive())["id"] == str(number)
            await trio.sleep(0.1)


async def test_a_frame_may_name_100_symbols(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(generated=300)
    async with tools.connected(exchange, "spot") as client:
        error = await client.subscribe(spot_topics(1, 101), 1)
        assert (error["id"], error["code"]) == ("1", 509)
        assert error["data"] == "exceed max subscription count limitation of 100 per time"
        assert exchange.sessions[0].topics == ()
        assert (await client.subscribe(spot_topics(1, 100)))["type"] == "ack"


async def test_a_spot_connection_may_hold_300_topics(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(generated=301, update_interval=1000.0)
    async with tools.connected(exchange, "spot") as client:
        for first in (1, 101, 201):
            assert (await client.subscribe(spot_topics(first, 100)))["type"] == "ack"
        error = await client.subscribe(spot_topics(301, 1))
        assert error["code"] == 509
        assert error["data"] == "exceed max subscription count limitation of 300 per session"
        assert (await client.subscribe(spot_topics(300, 1)))["type"] == "ack", "a topic held already costs nothing"
        await client.subscribe(spot_topics(1, 1), kind="unsubscribe")
        assert (await client.subscribe(spot_topics(301, 1)))["type"] == "ack"
        assert len(exchange.sessions[0].topics) == 300


async def test_a_futures_connection_may_hold_100_topics(tools: Any, autojump_clock: object) -> None:
    async with tools.connected(Exchange(generated=100, update_interval=1000.0)) as client:
        names = ",".join(f"T{number:04d}USDTM" for number in range(1, 101))
        assert (await client.subscribe(f"/contractMarket/tickerV2:{names}"))["type"] == "ack"
        error = await client.subscribe("/contractMarket/tickerV2:XBTUSDTM")
        assert error["data"] == "exceed max subscription count limitation of 100 per session"


async def test_rest_weight_is_limited_per_30_s_from_the_first_request(tools: Any, autojump_clock: object) -> None:
    async with MemoryNetwork(Exchange(limits=Limits(rest_weight=25))) as network:
        dialler = tools.Dialler(network)
        await trio.sleep(100)
        good = await dialler.request("spot", "POST", "/api/v1/bullet-public")
        assert good.headers["gw-ratelimit-limit"] == "25"
        assert good.headers["gw-ratelimit-remaining"] == "15"
        assert good.headers["gw-ratelimit-reset"] == "30000"
        await trio.sleep(10)
        await dialler.token("futures")
        refused = await dialler.request("spot", "POST", "/api/v1/bullet-public")
        assert (refused.status, refused.json["code"]) == (429, "429000")
        assert refused.headers["gw-ratelimit-remaining"] == "5"
        assert refused.headers["gw-ratelimit-reset"] == "20000", "milliseconds"
        await trio.sleep(20)
        await dialler.token("spot")


async def test_every_limit_can_be_switched_off(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(generated=400, limits=Limits.off(), update_interval=100_000.0)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        token = await dialler.token("spot")
        for _ in range(40):
            async with dialler.open("spot", token=token):
                pass
        async with dialler.open("spot", token=token) as client:
            assert (await client.subscribe(spot_topics(1, 400)))["type"] == "ack"
            for number in range(150):
                await client.send({"id": number, "type": "ping"})
                await client.receive()
            await trio.sleep(80_000)
            await client.send({"id": "still here", "type": "ping"})
            assert (await client.receive_until("pong"))["id"] == "still here"
        async with dialler.open("spot", token=token):
            pass
        response = await dialler.request("spot", "GET", "/api/v1/timestamp")
        assert "gw-ratelimit-limit" not in response.headers


@pytest.mark.parametrize("value", [0, -1])
def test_a_limit_is_positive_or_none(value: int) -> None:
    with pytest.raises(ValueError, match="dials_per_minute must be positive, or None"):
        Limits(dials_per_minute=value)
