"""KuCoin's spot market: its limits and its channels, one decoder each."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from . import fields
from .market import Channel, Market, MergeKey, UpdateType
from .updates import Ticker, Trade, fast_constructor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .market import Topic

SPOT = Market(
    name="spot",
    rest_url="https://api.kucoin.com",
    topics_per_connection=300,  # real 509 text of 2025-03; the documentation of 2025 says 400: the lower holds
)

_ticker = fast_constructor(Ticker)
_trade = fast_constructor(Trade)

_TICKER_PRICES = ("bestBid", "bestBidSize", "bestAsk", "bestAskSize", "price", "size")
_ticker_prices = itemgetter(*_TICKER_PRICES)


def _decode_ticker(data: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Ticker:
    time = data.get("time")
    if time is None:
        time = data.get("Time")  # so spelt in one document; older messages have neither
    prices = fields.optional_decimals(_ticker_prices(data), _TICKER_PRICES)
    return _ticker(
        topic,
        topic.symbol,
        fields.sequence(data["sequence"]),
        None if time is None else fields.milliseconds(time, "time"),
        received_time_ns,
        *prices,
    )


def _decode_trade(data: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Trade:
    fields.check_symbol(data, topic)
    return _trade(
        topic,
        topic.symbol,
        fields.sequence(data["sequence"]),
        fields.nanoseconds(data["time"], "time"),
        received_time_ns,
        fields.decimal(data["price"], "price"),
        fields.decimal(data["size"], "size"),
        fields.side(data["side"]),
        fields.text(data["tradeId"], "tradeId"),
    )


CHANNELS = (
    Channel(
        market=SPOT,
        kind=UpdateType.TICKER,
        path="/market/ticker",
        subjects=("trade.ticker",),
        record=Ticker,
        decode=_decode_ticker,
        merge_key=MergeKey.INCREASING,
        time="time, ms",
        source="KuCoin WebSocket, spot public channels: ticker; recorded 2021-04-23",
    ),
    Channel(
        market=SPOT,
        kind=UpdateType.TRADE,
        path="/market/match",
        subjects=("trade.l3match",),
        record=Trade,
        decode=_decode_trade,
        merge_key=MergeKey.INCREASING,
        time="time, ns as text",
        source="KuCoin WebSocket, spot public channels: trade; recorded 2021-04-23",
    ),
)
