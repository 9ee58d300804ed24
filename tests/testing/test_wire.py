"""What the pushes look like: the shapes, number spellings and time units of the newest recorded or documented ones."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from kufeed.protocol import CHANNELS as KNOWN
from kufeed.testing import Exchange, Limits, MemoryNetwork
from kufeed.testing.wire import CHANNELS, text_frame

# One push of each channel, from the samples: newest real capture, or newest documentation where there is none.
SAMPLES = {
    "/market/ticker": (
        '{"type":"message","topic":"/market/ticker:BTC-USDT","subject":"trade.ticker","data":{"bestAsk":"31785.3",'
        '"bestAskSize":"1.0455757","bestBid":"31785.2","bestBidSize":"0.4645037","price":"31785.2",'
        '"sequence":"1630218274617","size":"0.03133705","time":1654032320677}}'
    ),
    "/market/match": (
        '{"topic":"/market/match:BTC-USDT","type":"message","subject":"trade.l3match","data":{"makerOrderId":'
        '"671b5007389355000701b1d3","price":"67523","sequence":"11067996711960577","side":"buy","size":"0.003",'
        '"symbol":"BTC-USDT","takerOrderId":"671b50161777ff00074c168d","time":"1729843222921000000",'
        '"tradeId":"11067996711960577","type":"match"}}'
    ),
    "/market/level2": (
        '{"topic":"/market/level2:BTC-USDT","type":"message","subject":"trade.l2update","data":{"changes":{"asks":'
        '[["67993.3","1.21427407","14701689783"]],"bids":[]},"sequenceEnd":14701689783,'
        '"sequenceStart":14701689783,"symbol":"BTC-USDT","time":1729816425625}}'
    ),
    "/spotMarket/level1": (
        '{"topic":"/spotMarket/level1:BTC-USDT","type":"message","subject":"level1","data":{"asks":["68145.8",'
        '"0.51987471"],"bids":["68145.7","1.29267802"],"timestamp":1729816058766}}'
    ),
    "/spotMarket/level2Depth5": (
        '{"topic":"/spotMarket/level2Depth5:BTC-USDT","type":"message","subject":"level2","data":{"asks":[["67996.7",'
        '"1.14213262"]],"bids":[["67996.6","0.37969491"]],"timestamp":1729822226746}}'
    ),
    "/market/candles": (
        '{"type":"message","topic":"/market/candles:BTC-USDT_1min","subject":"trade.candles.update","data":{"symbol":'
        '"BTC-USDT","candles":["1653523200","29543.6","31613.8","32406.7","28014.1","93044.50911291",'
        '"2792095272.950902197"],"time":1654081935182826588}}'
    ),
    "/contractMarket/tickerV2": (
        '{"topic":"/contractMarket/tickerV2:XBTUSDTM","type":"message","subject":"tickerV2","sn":1709284589209,"data":'
        '{"symbol":"XBTUSDTM","sequence":1709284589209,"bestBidSize":713,"bestBidPrice":"88987.4","bestAskPrice":'
        '"88987.5","bestAskSize":1037,"ts":1731665526461000000}}'
    ),
    "/contractMarket/ticker": (
        '{"topic":"/contractMarket/ticker:XBTUSDTM","type":"message","subject":"ticker","sn":1793133570931,"data":'
        '{"symbol":"XBTUSDTM","sequence":1793133570931,"side":"sell","size":1,"price":"90147.7","bestBidSize":2186,'
        '"bestBidPrice":"90147.7","bestAskPrice":"90147.8","tradeId":"1793133570931","bestAskSize":275,'
        '"ts":1731679215637000000}}'
    ),
    "/contractMarket/execution": (
        '{"topic":"/contractMarket/execution:XBTUSDTM","type":"message","subject":"match","sn":1743169228057,"data":'
        '{"symbol":"XBTUSDTM","sequence":1743169228057,"side":"buy","size":5,"price":"72137.3","takerOrderId":'
        '"166754573174730752","makerOrderId":"166754559966867456","tradeId":"1743169228057",'
        '"ts":1712570590399000000}}'
    ),
    "/contractMarket/level2": (
        '{"topic":"/contractMarket/level2:XBTUSDTM","type":"message","subject":"level2","sn":1709400450243,"data":'
        '{"sequence":1709400450243,"change":"90631.2,sell,2","timestamp":1731897467182}}'
    ),
    "/contractMarket/level2Depth5": (
        '{"topic":"/contractMarket/level2Depth5:XBTUSDTM","type":"message","subject":"level2","sn":1731680019100,'
        '"data":{"bids":[["89720.9",513]],"sequence":1709294294670,"timestamp":1731680019100,"ts":1731680019100,'
        '"asks":[["89721",906]]}}'
    ),
    "/contract/instrument": (
        '{"topic":"/contract/instrument:XBTUSDTM","type":"message","subject":"mark.index.price","data":{"markPrice":'
        '90445.02,"indexPrice":90445.02,"granularity":1000,"timestamp":1731899129000}}'
    ),
    "/contractMarket/snapshot": (
        '{"topic":"/contractMarket/snapshot:XBTUSDTM","type":"message","subject":"snapshot.24h","id":'
        '"673ab3fff4088b0001664f41","data":{"highPrice":91512.8,"lastPrice":90326.7,"lowPrice":88747.8,'
        '"price24HoursBefore":89880.4,"priceChg":446.3,"priceChgPct":0.0049,"symbol":"XBTUSDTM",'
        '"ts":1731900415023929239,"turnover":526928331.0482177734,"volume":5834.46}}'
    ),
    "/contractMarket/limitCandle": (
        '{"topic":"/contractMarket/limitCandle:XBTUSDTM_1min","type":"message","data":{"symbol":"XBTUSDTM","candles":'
        '["1731898200","90638.6","90638.6","90638.6","90638.6","21.0","21"],"time":1731898208357},'
        '"subject":"candle.stick"}'
    ),
}
SAMPLES |= {
    f"/indicator/{name}": (
        f'{{"topic":"/indicator/{name}:USDT-BTC","type":"message","subject":"tick","data":{{"symbol":"USDT-BTC",'
        '"granularity":1000,"value":0.000015880000000,"timestamp":1714769146000}}'
    )
    for name in ("markPrice", "index")
}
TIMES = {"time", "ts", "timestamp"}
AT_THEIR_HOUR = {"/contract/announcement", "/callauction/callauctionData", "/callauction/level2Depth50"}


def shape(value: Any, name: str = "") -> Any:
    """The structure of a message: keys, kinds of values, and the unit of its time stamps."""
    if isinstance(value, dict):
        return {key: shape(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if name in TIMES:
        return type(value).__name__, len(str(value))
    return "number" if isinstance(value, (int, float)) else "text"


def market_of(prefix: str) -> str:
    return next(market for market, one in CHANNELS if one == prefix)


@pytest.mark.parametrize("prefix", sorted(SAMPLES))
async def test_a_push_has_the_shape_of_the_sample(tools: Any, autojump_clock: object, prefix: str) -> None:
    sample = json.loads(SAMPLES[prefix])
    if prefix == "/market/level2":
        sample["data"]["changes"]["bids"] = sample["data"]["changes"]["asks"]
    async with tools.connected(Exchange(spot=["USDT-BTC"]), market_of(prefix)) as client:
        assert (await client.subscribe(sample["topic"]))["type"] == "ack"
        for _ in range(100):
            push = await client.receive_until("message")
            if prefix != "/market/level2" or all(push["data"]["changes"].values()):
                break
    assert shape(push) == shape(sample)
    assert push["topic"] == sample["topic"]
    assert push["subject"] == sample["subject"]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 70000])
def test_a_text_frame_is_what_wsproto_reads(size: int) -> None:
    reader = Connection(ConnectionType.CLIENT)
    reader.receive_data(text_frame("ö" * (size // 2) + "x" * (size % 2)))
    text = ""
    for event in reader.events():
        assert isinstance(event, TextMessage)
        text += event.data
    assert len(text.encode()) == size


async def test_every_channel_of_the_table_pushes(tools: Any, autojump_clock: object) -> None:
    """But for what comes at its hour only: that can be asked for, as at KuCoin."""
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        for market, symbol in (("spot", "BTC-USDT"), ("futures", "XBTUSDTM")):
            async with tools.Dialler(network).open(market) as client:
                waiting = set()
                for (owner, prefix), channel in CHANNELS.items():
                    if owner == market:
                        topic = f"{prefix}:{symbol}{'_1min' if channel.intervals else ''}"
                        assert (await client.subscribe(topic))["type"] == "ack"
                        waiting |= {topic} if prefix not in AT_THEIR_HOUR else set()
                with trio.fail_after(30):
                    while waiting:
                        waiting.discard((await client.receive_until("message"))["topic"])


def test_the_exchange_has_every_public_channel() -> None:
    assert set(CHANNELS) >= {(channel.market.name, channel.path) for channel in KNOWN}


async def test_the_all_symbols_ticker_tells_the_symbol_in_its_subject(tools: Any, autojump_clock: object) -> None:
    async with tools.connected(Exchange(generated=5), "spot") as client:
        assert (await client.subscribe("/market/ticker:all"))["type"] == "ack"
        pushes = await client.pushes(60)
    assert {push["topic"] for push in pushes} == {"/market/ticker:all"}
    assert {push["subject"] for push in pushes} == {"BTC-USDT", "ETH-USDT"} | {f"T000{n}-USDT" for n in range(1, 6)}


@pytest.mark.parametrize("any_symbol", [False, True])
async def test_only_spot_tickers_have_a_topic_of_all_symbols(
    tools: Any, autojump_clock: object, any_symbol: bool
) -> None:
    """Also where any symbol may be subscribed: `all` is none."""
    exchange = Exchange(accept_any_symbol=any_symbol)
    async with MemoryNetwork(exchange) as network:
        for market in ("spot", "futures"):
            async with tools.Dialler(network).open(market) as client:
                for (owner, prefix), channel in CHANNELS.items():
                    if owner == market:
                        argument = "all_1min" if channel.intervals else "all"
                        answer = await client.subscribe(f"{prefix}:{argument}")
                        assert answer["type"] == ("ack" if prefix == "/market/ticker" else "error"), prefix


async def test_all_symbols_count_as_one_topic(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(generated=50, limits=Limits(spot_topics=2))
    async with tools.connected(exchange, "spot") as client:
        assert (await client.subscribe("/market/ticker:all"))["type"] == "ack"
        assert (await client.subscribe("/market/ticker:BTC-USDT"))["type"] == "ack"
        assert (await client.subscribe("/market/ticker:ETH-USDT"))["code"] == 509
        assert exchange.sessions[0].topics == ("/market/ticker:all", "/market/ticker:BTC-USDT")


async def test_a_script_plays_to_who_holds_all_symbols(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with tools.connected(exchange, "spot") as client:
        await client.subscribe("/market/ticker:all")
        frame = json.dumps({"type": "message", "topic": "/market/ticker:all", "subject": "BTC-USDT", "data": {}})
        assert await exchange.play([frame, frame.replace(":all", ":BTC-USDT")]) == 1
        assert await client.receive_until("message") == json.loads(frame)


async def test_mark_prices_come_each_second_and_funding_rates_each_minute(tools: Any, autojump_clock: object) -> None:
    async with tools.connected(Exchange()) as client:
        await client.subscribe("/contract/instrument:XBTUSDTM")
        times: dict[str, list[int]] = {"mark.index.price": [], "funding.rate": []}
        await client.send({"id": "1", "type": "ping"})
        for _ in range(180):
            push = await client.receive_until("message")
            times[push["subject"]].append(push["data"]["timestamp"])
            if len(times["mark.index.price"]) % 30 == 0:
                await client.send({"id": "1", "type": "ping"})
    marks, rates = times["mark.index.price"], times["funding.rate"]
    assert {later - earlier for earlier, later in pairwise(marks)} == {1000}
    assert len(rates) == 3
    assert rates[2] - rates[1] == 60_000


async def test_a_new_spot_candle_is_announced(tools: Any, autojump_clock: object) -> None:
    async with tools.connected(Exchange(limits=Limits.off()), "spot") as client:
        await client.subscribe("/market/candles:BTC-USDT_1min")
        rows: dict[str, list[str]] = {}
        while len(rows) < 4:
            push = await client.receive_until("message")
            row = push["data"]["candles"]
            new = row[0] not in rows
            rows[row[0]] = row
            assert push["subject"] == ("trade.candles.add" if new and len(rows) > 1 else "trade.candles.update")
        starts = [int(start) for start in rows]
        assert [start - starts[0] for start in starts] == [0, 60, 120, 180]
        for _, opened, close, high, low, *_volumes in rows.values():
            assert Decimal(low) <= min(Decimal(opened), Decimal(close))
            assert max(Decimal(opened), Decimal(close)) <= Decimal(high)


async def test_the_wire_tells_one_story_of_a_futures_market(tools: Any, autojump_clock: object) -> None:
    """A snapshot and the increments after it are the book; tickers and depths agree with it at their sequence."""
    async with MemoryNetwork(Exchange(seed=11)) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("futures") as client:
            for channel in ("level2", "tickerV2", "level2Depth5", "execution"):
                await client.subscribe(f"/contractMarket/{channel}:XBTUSDTM")
            start = (await dialler.request("futures", "GET", "/api/v1/level2/snapshot?symbol=XBTUSDTM")).data
            books = {
                "buy": {Decimal(repr(price)): size for price, size in start["bids"]},
                "sell": {Decimal(repr(price)): size for price, size in start["asks"]},
            }
            sequence, checked = start["sequence"], 0
            traded: list[tuple[Decimal, str]] = []
            for _ in range(600):
                push = await client.receive_until("message")
                data = push["data"]
                if "change" in data and data["sequence"] > sequence:
                    assert data["sequence"] == sequence + 1
                    sequence += 1
                    price, side, size = data["change"].split(",")
                    books[side][Decimal(price)] = int(size)
                    if size == "0":
                        del books[side][Decimal(price)]
                elif push["subject"] == "tickerV2" and data["sequence"] == sequence:
                    bid, ask = max(books["buy"]), min(books["sell"])
                    assert bid < ask
                    assert (Decimal(data["bestBidPrice"]), data["bestBidSize"]) == (bid, books["buy"][bid])
                    assert (Decimal(data["bestAskPrice"]), data["bestAskSize"]) == (ask, books["sell"][ask])
                    checked += 1
                elif "asks" in data and data["sequence"] == sequence:
                    asks = [(Decimal(price), size) for price, size in data["asks"]]
                    assert asks == sorted(books["sell"].items())[:5]
                    checked += 1
                elif push["subject"] == "match":
                    traded.append((Decimal(data["price"]), data["tradeId"]))
            assert checked > 100
            history = (await dialler.request("futures", "GET", "/api/v1/trade/history?symbol=XBTUSDTM")).data
            known = {(Decimal(trade["price"]), trade["tradeId"]) for trade in history}
            assert known <= set(traded) | known
            assert known & set(traded)


async def test_the_wire_tells_one_story_of_a_spot_market(tools: Any, autojump_clock: object) -> None:
    """KuCoin's calibration procedure (PROTOCOL section 8) leads to a book whose best prices are the ticker's."""
    async with MemoryNetwork(Exchange(seed=12)) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot") as client:
            await client.subscribe("/market/level2:BTC-USDT")
            await client.subscribe("/market/ticker:BTC-USDT")
            path = "/api/v1/market/orderbook/level2_100?symbol=BTC-USDT"
            start = (await dialler.request("spot", "GET", path)).data
            books = {side: {Decimal(p): Decimal(s) for p, s in start[side]} for side in ("bids", "asks")}
            sequence, checked, passed = int(start["sequence"]), 0, 0
            for _ in range(400):
                push = await client.receive_until("message")
                data = push["data"]
                if push["subject"] == "trade.ticker":
                    if int(data["sequence"]) == sequence:
                        assert Decimal(data["bestBid"]) == max(books["bids"])
                        assert Decimal(data["bestAsk"]) == min(books["asks"])
                        assert Decimal(data["bestAskSize"]) == books["asks"][min(books["asks"])]
                        checked += 1
                elif data["sequenceEnd"] > sequence:
                    assert data["sequenceStart"] <= sequence + 1
                    sequence = data["sequenceEnd"]
                    for side, book in books.items():
                        for price, size, _number in data["changes"][side]:
                            passed += price == "0"
                            if price != "0" and size == "0":
                                book.pop(Decimal(price), None)
                            elif price != "0":
                                book[Decimal(price)] = Decimal(size)
            assert checked > 100
            assert passed > 5, "steps of the sequence which change nothing do occur"
