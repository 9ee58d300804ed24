"""The REST side: PROTOCOL.md sections 2, 8 and 9."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from kufeed.testing import Exchange, MemoryNetwork
from kufeed.testing.network import EPOCH_NS


@pytest.mark.parametrize("market", ["spot", "futures"])
async def test_a_token_names_the_endpoint_and_the_intervals_in_ms(
    tools: Any, autojump_clock: object, market: str
) -> None:
    async with MemoryNetwork(Exchange(ping_interval=50.0, ping_timeout=7.5)) as network:
        data = (await tools.Dialler(network).request(market, "POST", "/api/v1/bullet-public")).data
    assert data["instanceServers"] == [
        {
            "endpoint": f"wss://ws-api-{market}.kucoin.com/",
            "encrypt": True,
            "protocol": "websocket",
            "pingInterval": 50000,
            "pingTimeout": 7500,
        }
    ]
    assert data["token"].endswith("==")
    assert 150 < len(data["token"]) < 250


async def test_each_token_is_a_new_one(tools: Any, autojump_clock: object) -> None:
    async with MemoryNetwork(Exchange()) as network:
        assert len({await tools.Dialler(network).token("spot") for _ in range(5)}) == 5


@pytest.mark.parametrize("market", ["spot", "futures"])
async def test_server_time_is_in_ms(tools: Any, autojump_clock: object, market: str) -> None:
    async with MemoryNetwork(Exchange()) as network:
        await trio.sleep(12.5)
        response = await tools.Dialler(network).request(market, "GET", "/api/v1/timestamp")
        assert response.data == EPOCH_NS // 1_000_000 + 12_500
        status = await tools.Dialler(network).request(market, "GET", "/api/v1/status")
        assert status.data == {"status": "open", "msg": ""}


async def test_the_lists_of_symbols(tools: Any, autojump_clock: object) -> None:
    async with MemoryNetwork(Exchange(generated=1)) as network:
        dialler = tools.Dialler(network)
        spot = (await dialler.request("spot", "GET", "/api/v2/symbols")).data
        assert [row["symbol"] for row in spot] == ["BTC-USDT", "ETH-USDT", "T0001-USDT"]
        assert (spot[0]["priceIncrement"], spot[0]["baseIncrement"]) == ("0.1", "0.00000001")
        futures = (await dialler.request("futures", "GET", "/api/v1/contracts/active")).data
        assert [row["symbol"] for row in futures] == ["XBTUSDTM", "ETHUSDTM", "T0001USDTM"]
        one = (await dialler.request("futures", "GET", "/api/v1/contracts/XBTUSDTM")).data
        assert one == futures[0]
        assert (one["baseCurrency"], one["multiplier"], one["tickSize"], one["status"]) == ("XBT", 0.001, 0.1, "Open")
        assert one["nextFundingRateTime"] == 28_800_000, "a countdown in ms"


async def test_an_inverse_and_a_dated_contract(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(futures=["XBTUSDM", "ETHUSDM", "XBTMH21", "ETHUSDTMZ26"])
    async with MemoryNetwork(exchange) as network:
        listed = (await tools.Dialler(network).request("futures", "GET", "/api/v1/contracts/active")).data
    rows = {row["symbol"]: row for row in listed}
    for symbol, base in (("XBTUSDM", "XBT"), ("ETHUSDM", "ETH"), ("XBTMH21", "XBT")):
        row = rows[symbol]
        assert (row["isInverse"], row["multiplier"]) == (True, -1.0)
        assert (row["baseCurrency"], row["quoteCurrency"], row["settleCurrency"]) == (base, "USD", base)
    dated, linear = rows["XBTMH21"], rows["ETHUSDTMZ26"]
    assert (dated["type"], dated["expireDate"]) == ("FFICSX", 1616745600000)
    assert dated["nextFundingRateTime"] is dated["fundingRateGranularity"] is None
    assert (linear["type"], linear["expireDate"], linear["isInverse"]) == ("FFICSX", 1798185600000, False)
    assert linear["multiplier"] > 0
    assert (rows["XBTUSDM"]["type"], rows["XBTUSDM"]["expireDate"]) == ("FFWCSX", None)


@pytest.mark.parametrize("market", ["spot", "futures"])
async def test_any_request_but_the_tokens_can_be_made_to_fail(tools: Any, autojump_clock: object, market: str) -> None:
    path = "/api/v2/symbols" if market == "spot" else "/api/v1/contracts/active"
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        exchange.faults.request_error, exchange.faults.retry_after = 503, "7"
        reply = await dialler.request(market, "GET", path)
        assert (reply.status, reply.text, reply.headers["retry-after"]) == (503, "", "7")
        exchange.faults.request_error = ("400100", "no")
        assert (await dialler.request(market, "GET", path)).json == {"code": "400100", "msg": "no"}
        await dialler.token(market)


async def test_the_funding_rate_agrees_with_the_contract(tools: Any, autojump_clock: object) -> None:
    async with MemoryNetwork(Exchange()) as network:
        dialler = tools.Dialler(network)
        rate = (await dialler.request("futures", "GET", "/api/v1/funding-rate/ETHUSDTM/current")).data
        contract = (await dialler.request("futures", "GET", "/api/v1/contracts/ETHUSDTM")).data
    assert rate["symbol"] == contract["fundingRateSymbol"] == ".ETHUSDTMFPI8H"
    assert rate["value"] == contract["fundingFeeRate"]
    assert rate["granularity"] == contract["fundingRateGranularity"] == 28_800_000
    assert rate["fundingTime"] == EPOCH_NS // 1_000_000 + 28_800_000


@pytest.mark.parametrize("levels", [20, 100])
async def test_public_spot_books(tools: Any, autojump_clock: object, levels: int) -> None:
    async with MemoryNetwork(Exchange()) as network:
        path = f"/api/v1/market/orderbook/level2_{levels}?symbol=BTC-USDT"
        book = (await tools.Dialler(network).request("spot", "GET", path)).data
    assert isinstance(book["sequence"], str)
    assert len(book["bids"]) == len(book["asks"]) == levels
    assert all(isinstance(text, str) for row in book["bids"] + book["asks"] for text in row)
    bids, asks = ([float(price) for price, _ in book[side]] for side in ("bids", "asks"))
    assert bids == sorted(bids, reverse=True)
    assert asks == sorted(asks)
    assert bids[0] < asks[0]


@pytest.mark.parametrize(("path", "levels"), [("snapshot", 130), ("depth20", 20), ("depth100", 100)])
async def test_public_futures_books(tools: Any, autojump_clock: object, path: str, levels: int) -> None:
    async with MemoryNetwork(Exchange()) as network:
        book = (await tools.Dialler(network).request("futures", "GET", f"/api/v1/level2/{path}?symbol=XBTUSDTM")).data
    assert isinstance(book["sequence"], int)
    assert len(book["bids"]) == len(book["asks"]) == levels
    assert all(isinstance(price, float) and isinstance(size, int) for price, size in book["bids"] + book["asks"])
    assert len(str(book["ts"])) == 19


@pytest.mark.parametrize(
    ("market", "method", "path", "status", "code"),
    [
        ("spot", "GET", "/api/v3/market/orderbook/level2?symbol=BTC-USDT", 200, "400001"),
        ("spot", "GET", "/api/v1/market/orderbook/level2_20?symbol=NO-PE", 200, "900001"),
        ("spot", "GET", "/api/v1/market/orderbook/level2_20", 200, "400100"),
        ("futures", "GET", "/api/v1/level2/snapshot?symbol=NOPE", 200, "200003"),
        ("futures", "GET", "/api/v1/contracts/NOPE", 200, "200003"),
        ("futures", "GET", "/api/v2/symbols", 404, "404000"),
        ("spot", "GET", "/nowhere", 404, "404000"),
        ("spot", "POST", "/api/v2/symbols", 404, "404000"),
        ("spot", "GET", "/api/v1/bullet-public", 405, "400100"),
    ],
)
async def test_errors_come_in_the_envelope(
    tools: Any, autojump_clock: object, market: str, method: str, path: str, status: int, code: str
) -> None:
    async with MemoryNetwork(Exchange()) as network:
        response = await tools.Dialler(network).request(market, method, path)
    assert response.status == status
    assert response.json["code"] == code
    assert response.json["msg"]


async def test_a_connection_serves_many_requests_and_closes_when_asked(tools: Any, autojump_clock: object) -> None:
    async with MemoryNetwork(Exchange()) as network:
        stream = await network.open_stream("api.kucoin.com", 443, None)
        for _ in range(3):
            response = await tools.http(stream, "GET", "/api/v1/status", "api.kucoin.com")
            assert response.data["status"] == "open"
        last = await tools.http(stream, "GET", "/api/v1/status", "api.kucoin.com", extra="Connection: close\r\n")
        assert last.headers["connection"] == "close"
        assert await stream.receive_some() == b""


async def test_what_is_not_http_is_answered_with_400_and_harms_nobody(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        stream = await network.open_stream("api.kucoin.com", 443, None)
        await stream.send_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 400 ")
        assert await stream.receive_some() == b""
        await tools.Dialler(network).token("spot")


PROBES = [
    ("spot", "/market/ticker:BTC-USDT", "/api/v1/market/orderbook/level1?symbol=BTC-USDT"),
    ("futures", "/contractMarket/ticker:XBTUSDTM", "/api/v1/ticker?symbol=XBTUSDTM"),
]


@pytest.mark.parametrize(("market", "topic", "path"), PROBES)
async def test_a_ticker_over_rest_is_the_last_one_that_was_pushed(
    tools: Any, autojump_clock: object, market: str, topic: str, path: str
) -> None:
    exchange = Exchange(live=False)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        asked = (await dialler.request(market, "GET", path)).data
        assert asked["sequence"], "also before anything has happened"
        async with dialler.open(market) as client:
            await client.subscribe(topic)
            for _ in range(3):
                await trio.sleep(1)
                exchange.trade(topic.partition(":")[2])
                pushed = (await client.pushes(1))[0]["data"]
                await trio.sleep(1)
                asked = (await dialler.request(market, "GET", path)).data
                assert {name: asked[name] for name in pushed} == pushed


@pytest.mark.parametrize(("market", "topic", "path"), PROBES)
async def test_a_ticker_over_rest_tells_what_a_muted_topic_does_not(
    tools: Any, autojump_clock: object, market: str, topic: str, path: str
) -> None:
    exchange = Exchange()
    exchange.faults.mute_topics = {topic}
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open(market) as client:
            await client.subscribe(topic)
            seen = []
            for _ in range(5):
                await trio.sleep(3)
                seen.append((await dialler.request(market, "GET", path)).data["sequence"])
        assert seen == sorted(set(seen)), "it goes on"
