"""KuCoin's spot market: its limits and its channels, one decoder each."""

from __future__ import annotations

import re
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from ..errors import MessageRefused
from . import fields
from .fields import decoders
from .market import ALL, Channel, Market, MergeKey, Topic, UpdateType
from .updates import (
    BookChange,
    BookDelta,
    CallAuction,
    CallAuctionDepth,
    Candle,
    Depth,
    IndexPrice,
    Level1,
    MarkPrice,
    Side,
    Stats24h,
    Ticker,
    Trade,
    fast_constructor,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from .fields import Numbers

SYMBOL = re.compile(r"[A-Z0-9]{1,20}-[A-Z0-9]{1,20}")

SPOT = Market(
    name="spot",
    rest_url="https://api.kucoin.com",
    topics_per_connection=300,  # real 509 text of 2025-03; the documentation of 2025 says 400: the lower holds
)

_ticker = fast_constructor(Ticker)
_trade = fast_constructor(Trade)
_level1 = fast_constructor(Level1)
_depth = fast_constructor(Depth)
_call_auction_depth = fast_constructor(CallAuctionDepth)
_delta = fast_constructor(BookDelta)
_mark_price = fast_constructor(MarkPrice)
_index_price = fast_constructor(IndexPrice)
_candle = fast_constructor(Candle)
_stats = fast_constructor(Stats24h)
_call_auction = fast_constructor(CallAuction)

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
INTERVALS = {
    "1min": _MINUTE,
    "3min": 3 * _MINUTE,
    "5min": 5 * _MINUTE,
    "15min": 15 * _MINUTE,
    "30min": 30 * _MINUTE,
    "1hour": _HOUR,
    "2hour": 2 * _HOUR,
    "4hour": 4 * _HOUR,
    "6hour": 6 * _HOUR,
    "8hour": 8 * _HOUR,
    "12hour": 12 * _HOUR,
    "1day": _DAY,
    "1week": 7 * _DAY,
    "1month": 30 * _DAY,
}
"""Seconds of each candle interval; a month counts 30 days. `5min` and `1month` stand in KuCoin's list for REST only."""

_TICKER_PRICES = ("bestBid", "bestBidSize", "bestAsk", "bestAskSize", "price", "size")
_ticker_prices = itemgetter(*_TICKER_PRICES)


def _decode_ticker(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Ticker:
    data = message["data"]
    time = data.get("time")
    if time is None:
        time = data.get("Time")  # so spelt in one document; older messages have neither
    prices = numbers.optional_decimals(_ticker_prices(data), _TICKER_PRICES)
    return _ticker(
        topic,
        topic.symbol,
        fields.sequence(data["sequence"]),
        None if time is None else fields.milliseconds(time, "time"),
        received_time_ns,
        *prices,
    )


def one_of_all(topic: Topic, subject: object) -> Topic:
    """The stream of one symbol in that of all, which *topic* is; `MessageRefused` where *subject* is no symbol."""
    if topic.symbol != ALL or not isinstance(subject, str) or SYMBOL.fullmatch(subject) is None:
        raise MessageRefused("subject", fields.shown(subject))
    return Topic(topic.channel, subject)


def _decode_one_of_all(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Ticker:
    subject = message["subject"]
    if subject != topic.symbol or subject == ALL:
        topic = one_of_all(topic, subject)
    return _decode_ticker(numbers, message, topic, received_time_ns)


def _decode_trade(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Trade:
    data = message["data"]
    fields.check_symbol(data, topic)
    return _trade(
        topic,
        topic.symbol,
        fields.sequence(data["sequence"]),
        fields.nanoseconds(data["time"], "time"),
        received_time_ns,
        numbers.decimal(data["price"], "price"),
        numbers.decimal(data["size"], "size"),
        fields.side(data["side"]),
        fields.word(data["tradeId"], "tradeId"),
    )


def _decode_level1(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Level1:
    data = message["data"]
    bid, bid_size = _flat(numbers, data["bids"], "bids")
    ask, ask_size = _flat(numbers, data["asks"], "asks")
    time = fields.milliseconds(data["timestamp"], "timestamp")
    return _level1(topic, topic.symbol, None, time, received_time_ns, bid, bid_size, ask, ask_size)


def _flat(numbers: Numbers, side: object, field: str) -> tuple[Decimal | None, Decimal | None]:
    """`["price", "size"]`, or nothing where the side is empty."""
    if side is None or side == []:
        return None, None
    if type(side) is not list or len(side) != 2:
        raise MessageRefused(field, fields.shown(side))
    return numbers.optional_decimal(side[0], field), numbers.optional_decimal(side[1], field)


def _decode_depth(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Depth:
    return _depth(topic, topic.symbol, None, *_depth_values(numbers, message["data"], received_time_ns))


def _decode_call_auction_depth(
    numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int
) -> CallAuctionDepth:
    return _call_auction_depth(topic, topic.symbol, None, *_depth_values(numbers, message["data"], received_time_ns))


def _depth_values(numbers: Numbers, data: Mapping[str, Any], received_time_ns: int) -> tuple[Any, ...]:
    return (
        fields.milliseconds(data["timestamp"], "timestamp"),
        received_time_ns,
        numbers.levels(data["bids"], "bids", numbers.decimals, descending=True),
        numbers.levels(data["asks"], "asks", numbers.decimals, descending=False),
    )


def _decode_delta(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> BookDelta:
    data = message["data"]
    fields.check_symbol(data, topic)
    first = fields.sequence(data["sequenceStart"], "sequenceStart")
    last = fields.sequence(data["sequenceEnd"], "sequenceEnd")
    if first > last:  # as one worked example prints it, by mistake
        raise MessageRefused("sequence", f"{first} to {last}")
    sides, time = fields.mapping(data["changes"], "changes"), data.get("time")  # absent in messages of 2021
    changes = (
        *_changes(numbers, Side.BUY, sides["bids"], "bids"),
        *_changes(numbers, Side.SELL, sides["asks"], "asks"),
    )
    for change in changes:
        if not first <= change.sequence <= last:
            raise MessageRefused("sequence", f"{change.sequence} in {first} to {last}")
    return _delta(
        topic,
        topic.symbol,
        last,
        None if time is None else fields.milliseconds(time, "time"),
        received_time_ns,
        first,
        changes,
    )


def _changes(numbers: Numbers, side: Side, value: object, field: str) -> list[BookChange]:
    if type(value) is not list or len(value) > fields.MAX_CHANGES:
        raise MessageRefused(field, fields.shown(value))
    if any(type(row) is not list or len(row) != 3 for row in value):
        raise MessageRefused(field, "not price, size and sequence")
    return [
        BookChange(side, numbers.decimal(price, field), numbers.decimal(size, field), fields.sequence(number, field))
        for price, size, number in value
    ]


def _decode_candle(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Candle:
    data = message["data"]
    fields.check_symbol(data, topic)
    # Open, close, high, low: another order than REST has in the futures market.
    start, opened, closed, high, low, volume, turnover = fields.seven(data["candles"], "candles")
    time = fields.nanoseconds(data["time"], "time")  # 19 digits, though documents call them microseconds
    assert topic.interval is not None
    return _candle(
        topic,
        topic.symbol,
        None,
        time,
        received_time_ns,
        topic.interval,
        fields.candle_start(start, time, "candles"),
        *(numbers.decimal(value, "candles") for value in (opened, closed, high, low, volume, turnover)),
    )


def _decode_stats(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Stats24h:
    data = message["data"]
    inner = data["data"]
    if type(inner) is list:  # documents of 2023 show a list
        if len(inner) != 1:
            raise MessageRefused("data", "not one symbol")
        inner = inner[0]
    fields.check_symbol(fields.mapping(inner, "data"), topic)
    return _stats(
        topic,
        topic.symbol,
        fields.sequence(data["sequence"]),
        fields.milliseconds(inner["datetime"], "datetime"),
        received_time_ns,
        numbers.optional_decimal(inner.get("lastTradedPrice"), "lastTradedPrice"),
        numbers.optional_decimal(inner.get("high"), "high"),
        numbers.optional_decimal(inner.get("low"), "low"),
        numbers.optional_decimal(inner.get("vol"), "vol"),
        numbers.optional_decimal(inner.get("volValue"), "volValue"),
        numbers.optional_signed_decimal(inner.get("changePrice"), "changePrice"),
        numbers.optional_signed_decimal(inner.get("changeRate"), "changeRate"),
    )


def _decode_mark_price(numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int) -> MarkPrice:
    time, value = _indicator(numbers, message["data"], topic)
    return _mark_price(topic, topic.symbol, None, time, received_time_ns, value, None)


def _decode_index_price(
    numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int
) -> IndexPrice:
    time, value = _indicator(numbers, message["data"], topic)
    return _index_price(topic, topic.symbol, None, time, received_time_ns, value)


def _indicator(numbers: Numbers, data: Mapping[str, Any], topic: Topic) -> tuple[int, Decimal]:
    fields.check_symbol(data, topic)
    return fields.milliseconds(data["timestamp"], "timestamp"), numbers.decimal(data["value"], "value")


_CALL_AUCTION = (
    "estimatedPrice",
    "estimatedSize",
    "sellOrderRangeLowPrice",
    "sellOrderRangeHighPrice",
    "buyOrderRangeLowPrice",
    "buyOrderRangeHighPrice",
)


def _decode_call_auction(
    numbers: Numbers, message: Mapping[str, Any], topic: Topic, received_time_ns: int
) -> CallAuction:
    data = message["data"]
    fields.check_symbol(data, topic)
    time = fields.milliseconds(data["time"], "time")
    values = (numbers.optional_decimal(data.get(name), name) for name in _CALL_AUCTION)
    return _call_auction(topic, topic.symbol, None, time, received_time_ns, *values)


CHANNELS = (
    Channel(
        market=SPOT,
        kind=UpdateType.TICKER,
        path="/market/ticker",
        subjects=("trade.ticker",),
        record=Ticker,
        decoders=decoders(_decode_ticker),
        merge_key=MergeKey.INCREASING,
        time="time, ms",
        source="KuCoin WebSocket, spot public channels: ticker; recorded 2021-04-23",
        sizes="base currency",
    ),
    Channel(
        market=SPOT,
        kind=UpdateType.TICKER,
        path="/market/ticker",
        subjects=(),
        record=Ticker,
        decoders=decoders(_decode_one_of_all),
        merge_key=MergeKey.INCREASING,
        time="time, ms",
        source="KuCoin WebSocket, spot public channels: all tickers; recorded 2022-05",
        sizes="base currency",
        symbol_in_subject=True,
    ),
    Channel(
        market=SPOT,
        kind=UpdateType.TRADE,
        path="/market/match",
        subjects=("trade.l3match",),
        record=Trade,
        decoders=decoders(_decode_trade),
        merge_key=MergeKey.INCREASING,
        time="time, ns as text",
        source="KuCoin WebSocket, spot public channels: trade; recorded 2021-04-23",
        sizes="base currency",
    ),
    Channel(
        market=SPOT,
        kind=UpdateType.LEVEL1,
        path="/spotMarket/level1",
        subjects=("level1",),
        record=Level1,
        decoders=decoders(_decode_level1),
        merge_key=MergeKey.TIME,
        time="timestamp, ms",
        source="KuCoin WebSocket, spot public channels: level 1",
        sizes="base currency",
    ),
    *(
        Channel(
            market=SPOT,
            kind=UpdateType.DEPTH,
            path=f"/spotMarket/level2Depth{levels}",
            subjects=("level2",),
            record=Depth,
            decoders=decoders(_decode_depth),
            merge_key=MergeKey.TIME,
            time="timestamp, ms",
            source=f"KuCoin WebSocket, spot public channels: level 2, {levels} best",
            sizes="base currency",
            levels=levels,
        )
        for levels in (5, 50)
    ),
    Channel(
        market=SPOT,
        kind=UpdateType.BOOK_DELTA,
        path="/market/level2",
        subjects=("trade.l2update",),
        record=BookDelta,
        decoders=decoders(_decode_delta),
        merge_key=MergeKey.CONTIGUOUS,
        time="time, ms",
        source="KuCoin WebSocket, spot public channels: level 2 increment; recorded 2021-04-25",
        sizes="base currency",
    ),
    Channel(
        market=SPOT,
        kind=UpdateType.CANDLE,
        path="/market/candles",
        subjects=("trade.candles.update", "trade.candles.add"),
        record=Candle,
        decoders=decoders(_decode_candle),
        merge_key=MergeKey.TIME,
        time="time, ns; the start in s as text",
        source="KuCoin WebSocket, spot public channels: klines; `add` recorded 2021-04-25",
        sizes="base currency",
        intervals=INTERVALS,
    ),
    Channel(
        market=SPOT,
        kind=UpdateType.STATS_24H,
        path="/market/snapshot",
        subjects=("trade.snapshot",),
        record=Stats24h,
        decoders=decoders(_decode_stats),
        merge_key=MergeKey.TIME,
        time="datetime, ms",
        source="KuCoin WebSocket, spot public channels: symbol snapshot; recorded 2022-06",
        sizes="base currency",
    ),
    Channel(
        market=SPOT,
        kind=UpdateType.MARK_PRICE,
        path="/indicator/markPrice",
        subjects=("tick",),
        record=MarkPrice,
        decoders=decoders(_decode_mark_price),
        merge_key=MergeKey.TIME,
        time="timestamp, ms",
        source="KuCoin WebSocket, margin public channels: mark price",
    ),
    Channel(
        market=SPOT,
        kind=UpdateType.INDEX_PRICE,
        path="/indicator/index",
        subjects=("tick",),
        record=IndexPrice,
        decoders=decoders(_decode_index_price),
        merge_key=MergeKey.TIME,
        time="timestamp, ms",
        source="KuCoin WebSocket, margin public channels: index price",
    ),
    Channel(
        market=SPOT,
        kind=UpdateType.CALL_AUCTION,
        path="/callauction/callauctionData",
        subjects=("callauction.callauctionData",),
        record=CallAuction,
        decoders=decoders(_decode_call_auction),
        merge_key=MergeKey.TIME,
        time="time, ms",
        source="KuCoin WebSocket, spot public channels: call auction data",
        sizes="base currency",
    ),
    Channel(
        market=SPOT,
        kind=UpdateType.CALL_AUCTION_DEPTH,
        path="/callauction/level2Depth50",
        subjects=("level2",),
        record=CallAuctionDepth,
        decoders=decoders(_decode_call_auction_depth),
        merge_key=MergeKey.TIME,
        time="timestamp, ms",
        source="KuCoin WebSocket, spot public channels: call auction order book",
        sizes="base currency",
    ),
)
