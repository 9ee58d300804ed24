"""KuCoin's futures market: its limits and its channels, one decoder each. Sizes are contracts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import fields
from .market import Channel, Market, MergeKey, UpdateType
from .updates import Ticker, Trade, fast_constructor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .market import Topic

FUTURES = Market(
    name="futures",
    rest_url="https://api-futures.kucoin.com",
    topics_per_connection=100,  # documentation of 2023; that of 2025 knows no limit: the lower holds
)

_ticker = fast_constructor(Ticker)
_trade = fast_constructor(Trade)


def _decode_ticker(data: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Ticker:
    fields.check_symbol(data, topic)
    return _ticker(
        topic,
        topic.symbol,
        fields.optional_sequence(data.get("sequence")),  # absent in messages of 2023 and before
        fields.nanoseconds(data["ts"], "ts"),
        received_time_ns,
        fields.optional_decimal(data["bestBidPrice"], "bestBidPrice"),
        fields.optional_contracts(data["bestBidSize"], "bestBidSize"),
        fields.optional_decimal(data["bestAskPrice"], "bestAskPrice"),
        fields.optional_contracts(data["bestAskSize"], "bestAskSize"),
    )


def _decode_trade(data: Mapping[str, Any], topic: Topic, received_time_ns: int) -> Trade:
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
        fields.decimal(data["price"], "price"),
        fields.contracts(size, "size"),
        fields.side(data["side"]),
        fields.text(data["tradeId"], "tradeId"),
    )


CHANNELS = (
    Channel(
        market=FUTURES,
        kind=UpdateType.TICKER,
        path="/contractMarket/tickerV2",
        subjects=("tickerV2",),
        record=Ticker,
        decode=_decode_ticker,
        merge_key=MergeKey.INCREASING,
        time="ts, ns",
        source="KuCoin WebSocket, futures public channels: get ticker v2; recorded 2022-06",
    ),
    Channel(
        market=FUTURES,
        kind=UpdateType.TRADE,
        path="/contractMarket/execution",
        subjects=("match",),
        record=Trade,
        decode=_decode_trade,
        merge_key=MergeKey.INCREASING,
        time="ts, ns",
        source="KuCoin WebSocket, futures public channels: match execution data; recorded 2021-03",
    ),
)
