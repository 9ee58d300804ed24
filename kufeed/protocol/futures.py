"""KuCoin's futures market: its limits and its channels, one decoder each. Sizes are contracts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MessageRefused
from . import fields
from .fields import decoders
from .market import Channel, Market, MergeKey, UpdateType
from .updates import (
    Announcement,
    BookChange,
    BookDelta,
    Candle,
    Depth,
    FundingRate,
    IndexPrice,
    MarkPrice,
    Stats24h,
    Ticker,
    Trade,
    fast_constructor,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from .fields import Numbers
    from .market import Topic

FUTURES = Market(
    name="futures",
    rest_url="https://api-futures.kucoin.com",
    topics_per_connection=100,  # documentation of 2023; that of 2025 knows no limit: the lower holds
)

_ticker = fast_constructor(Ticker)
_trade = fast_constructor(Trade)
_depth = fast_constructor(Depth)
_delta = fast_constructor(BookDelta)
_mark_price = fast_constructor(MarkPrice)
_index_price = fast_constructor(IndexPrice)
_funding = fast_constructor(FundingRate)
_candle = fast_constructor(Candle)
_stats = fast_constructor(Stats24h)
_announcement = fast_constructor(Announcement)

INTERVALS = {
    "1min": 60,
    "3min": 180,
    "5min": 300,
    "15min": 900,
    "30min": 1800,
    "1hour": 3600,
    "2hour": 7200,
    "4hour": 14_400,
    "8hour": 28_800,
    "12hour": 43_200,
    "1day": 86_400,
    "1week": 604_800,
    "1month": 2_592_000,
}
"""Seconds of each candle interval; a month counts 30 days. There is no `6hour`."""
_PREDICTED = 60_000
"""The granularity of a predicted funding rate, which comes every minute; a settled one has its interval."""


def _decode_ticker(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Ticker:
    data = message["data"]
    fields.check_symbol(data, topic)
    return _ticker(
        topic,
        topic.symbol,
        fields.optional_sequence(data.get("sequence")),  # absent in messages of 2023 and before
        fields.nanoseconds(data["ts"], "ts"),
        received_time_ns,
        numbers.optional_decimal(data["bestBidPrice"], "bestBidPrice"),
        fields.optional_contracts(data["bestBidSize"], "bestBidSize"),
        numbers.optional_decimal(data["bestAskPrice"], "bestAskPrice"),
        fields.optional_contracts(data["bestAskSize"], "bestAskSize"),
    )


def _decode_trade(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Trade:
    data = message["data"]
    fields.check_symbol(data, topic)
    # The shape of 2019 had `matchSize` for what was traded, `size` for what was left, and `time` for `ts`.
    size = data["matchSize"] if "matchSize" in data else data["size"]
    time = data["ts"] if "ts" in data else data["time"]
    return _trade(
        topic,
        topic.symbol,
        fields.sequence(data["sequence"]),
        fields.nanoseconds(time, "ts"),
        received_time_ns,
        numbers.decimal(data["price"], "price"),
        fields.contracts(size, "size"),
        fields.side(data["side"]),
        fields.word(data["tradeId"], "tradeId"),
    )


def _decode_depth(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Depth:
    data = message["data"]
    return _depth(
        topic,
        topic.symbol,
        fields.optional_sequence(data.get("sequence")),  # absent in messages of 2020
        _depth_time(data),
        received_time_ns,
        numbers.levels(data["bids"], "bids", fields.many_contracts, descending=True),
        numbers.levels(data["asks"], "asks", fields.many_contracts, descending=False),
    )


def _depth_time(data: Mapping[str, Any]) -> int:
    """Milliseconds in all recordings; one old document shows nanoseconds, which nobody takes for the other."""
    if "timestamp" in data:
        return fields.milliseconds(data["timestamp"], "timestamp")
    try:
        return fields.milliseconds(data["ts"], "ts")
    except MessageRefused:
        return fields.nanoseconds(data["ts"], "ts")


def _decode_delta(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> BookDelta:
    data = message["data"]
    number = fields.sequence(data["sequence"])
    price, side, size = fields.three(data["change"], "change")
    change = BookChange(
        fields.side(side, "change"), numbers.decimal(price, "change"), fields.contracts(size, "change"), number
    )
    time = fields.milliseconds(data["timestamp"], "timestamp")
    return _delta(topic, topic.symbol, number, time, received_time_ns, number, (change,))


def _decode_mark_price(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> MarkPrice:
    time, mark, index = _mark_and_index(numbers, message["data"])
    return _mark_price(topic, topic.symbol, None, time, received_time_ns, mark, index)


def _decode_index_price(
    numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int
) -> IndexPrice:
    time, _, index = _mark_and_index(numbers, message["data"])
    return _index_price(topic, topic.symbol, None, time, received_time_ns, index)


def _mark_and_index(numbers: Numbers, data: Mapping[str, Any]) -> tuple[int, Decimal, Decimal]:
    return (
        fields.milliseconds(data["timestamp"], "timestamp"),
        numbers.decimal(data["markPrice"], "markPrice"),
        numbers.decimal(data["indexPrice"], "indexPrice"),
    )


def _decode_funding(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> FundingRate:
    data = message["data"]
    granularity = fields.funding_interval(data["granularity"], "granularity")
    time = fields.milliseconds(data["timestamp"], "timestamp")
    rate = numbers.signed_decimal(data["fundingRate"], "fundingRate")
    predicted = granularity == _PREDICTED
    interval = None if predicted else granularity / 1000
    return _funding(topic, topic.symbol, None, time, received_time_ns, rate, predicted, interval)


def _decode_candle(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Candle:
    data = message["data"]
    fields.check_symbol(data, topic)
    start, opened, closed, high, low, _, turnover = fields.seven(data["candles"], "candles")
    prices = [numbers.decimal(value, "candles") for value in (opened, closed, high, low)]
    time = fields.milliseconds(data["time"], "time")
    assert topic.interval is not None
    return _candle(
        topic,
        topic.symbol,
        None,
        time,
        received_time_ns,
        topic.interval,
        fields.candle_start(start, time, "candles"),
        *prices,
        None,  # KuCoin, futures klines: the volume here is wrong and must not be used
        numbers.decimal(turnover, "candles"),
    )


def _decode_stats(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Stats24h:
    data = message["data"]
    if "symbol" in data:  # absent in the oldest messages
        fields.check_symbol(data, topic)
    return _stats(
        topic,
        topic.symbol,
        None,
        fields.nanoseconds(data["ts"], "ts"),
        received_time_ns,
        numbers.optional_decimal(data.get("lastPrice"), "lastPrice"),
        numbers.optional_decimal(data.get("highPrice"), "highPrice"),
        numbers.optional_decimal(data.get("lowPrice"), "lowPrice"),
        numbers.optional_decimal(data.get("volume"), "volume"),
        numbers.optional_decimal(data.get("turnover"), "turnover"),
        numbers.optional_signed_decimal(data.get("priceChg"), "priceChg"),
        numbers.optional_signed_decimal(data.get("priceChgPct"), "priceChgPct"),
    )


def _decode_announcement(
    numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int
) -> Announcement:
    data = message["data"]
    fields.check_symbol(data, topic)
    return _announcement(
        topic,
        topic.symbol,
        None,
        fields.milliseconds(data["timestamp"], "timestamp"),
        received_time_ns,
        fields.text(message["subject"], "subject"),
        fields.milliseconds(data["fundingTime"], "fundingTime"),
        numbers.signed_decimal(data["fundingRate"], "fundingRate"),
    )


CHANNELS = (
    Channel(
        market=FUTURES,
        kind=UpdateType.TICKER,
        path="/contractMarket/tickerV2",
        subjects=("tickerV2",),
        record=Ticker,
        decoders=decoders(_decode_ticker),
        merge_key=MergeKey.INCREASING,
        time="ts, ns",
        source="KuCoin WebSocket, futures public channels: get ticker v2; recorded 2022-06",
        sizes="contracts",
    ),
    Channel(
        market=FUTURES,
        kind=UpdateType.TRADE,
        path="/contractMarket/execution",
        subjects=("match",),
        record=Trade,
        decoders=decoders(_decode_trade),
        merge_key=MergeKey.INCREASING,
        time="ts, ns",
        source="KuCoin WebSocket, futures public channels: match execution data; recorded 2021-03",
        sizes="contracts",
    ),
    Channel(
        market=FUTURES,
        kind=UpdateType.DEPTH,
        path="/contractMarket/level2Depth5",
        subjects=("level2",),
        record=Depth,
        decoders=decoders(_decode_depth),
        merge_key=MergeKey.TIME,
        time="timestamp, ms",
        source="KuCoin WebSocket, futures public channels: level2 5 best ask/bid orders; recorded 2022-05",
        sizes="contracts",
        levels=5,
    ),
    Channel(
        market=FUTURES,
        kind=UpdateType.DEPTH,
        path="/contractMarket/level2Depth50",
        subjects=("level2",),
        record=Depth,
        decoders=decoders(_decode_depth),
        merge_key=MergeKey.TIME,
        time="timestamp, ms",
        source="KuCoin WebSocket, futures public channels: level2 50 best ask/bid orders",
        sizes="contracts",
        levels=50,
    ),
    Channel(
        market=FUTURES,
        kind=UpdateType.BOOK_DELTA,
        path="/contractMarket/level2",
        subjects=("level2",),
        record=BookDelta,
        decoders=decoders(_decode_delta),
        merge_key=MergeKey.CONTIGUOUS,
        time="timestamp, ms",
        source="KuCoin WebSocket, futures public channels: level2 market data; recorded 2021-06",
        sizes="contracts",
    ),
    Channel(  # the first of its path: the one that `parse_topic` means
        market=FUTURES,
        kind=UpdateType.MARK_PRICE,
        path="/contract/instrument",
        subjects=("mark.index.price",),
        record=MarkPrice,
        decoders=decoders(_decode_mark_price),
        merge_key=MergeKey.TIME,
        time="timestamp, ms",
        source="KuCoin WebSocket, futures public channels: contract market data",
    ),
    Channel(
        market=FUTURES,
        kind=UpdateType.INDEX_PRICE,
        path="/contract/instrument",
        subjects=("mark.index.price",),
        record=IndexPrice,
        decoders=decoders(_decode_index_price),
        merge_key=MergeKey.TIME,
        time="timestamp, ms",
        source="KuCoin WebSocket, futures public channels: contract market data",
    ),
    Channel(
        market=FUTURES,
        kind=UpdateType.FUNDING_RATE,
        path="/contract/instrument",
        subjects=("funding.rate",),
        record=FundingRate,
        decoders=decoders(_decode_funding),
        merge_key=MergeKey.TIME,
        time="timestamp, ms",
        source="KuCoin WebSocket, futures public channels: contract market data",
    ),
    Channel(
        market=FUTURES,
        kind=UpdateType.CANDLE,
        path="/contractMarket/limitCandle",
        subjects=("candle.stick",),
        record=Candle,
        decoders=decoders(_decode_candle),
        merge_key=MergeKey.TIME,
        time="time, ms",
        source="KuCoin WebSocket, futures public channels: klines",
        intervals=INTERVALS,
    ),
    Channel(
        market=FUTURES,
        kind=UpdateType.STATS_24H,
        path="/contractMarket/snapshot",
        subjects=("snapshot.24h",),
        record=Stats24h,
        decoders=decoders(_decode_stats),
        merge_key=MergeKey.TIME,
        time="ts, ns",
        source="KuCoin WebSocket, futures public channels: symbol snapshot; recorded 2022-06",
        sizes="base currency; US dollars where inverse",
    ),
    Channel(
        market=FUTURES,
        kind=UpdateType.ANNOUNCEMENT,
        path="/contract/announcement",
        subjects=("funding.begin", "funding.end"),
        record=Announcement,
        decoders=decoders(_decode_announcement),
        merge_key=MergeKey.TIME,
        time="timestamp, ms",
        source="KuCoin WebSocket, futures public channels: funding fee settlement",
        pushed_without_symbol=True,
    ),
)
