"""Each channel's decoder on messages of our own: what it takes, and that it refuses what is not its channel's.

The recorded messages of the exchange are tried in `test_samples.py`; these need no samples.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kufeed.errors import MessageRefused
from kufeed.protocol import CHANNELS, MARKETS, Channel, MergeKey, Side, Ticker, Trade, parse_topic, topic

NOW = 1_750_000_000_500_000_000

SPOT_TICKER = {
    "sequence": "71",
    "price": "101.5",
    "size": "0.250",
    "bestBid": "101.4",
    "bestBidSize": "3",
    "bestAsk": "101.6",
    "bestAskSize": "0.00000001",
    "time": 1_750_000_000_250,
}
SPOT_TRADE = {
    "symbol": "AB-CD",
    "sequence": "72",
    "price": "101.50",
    "size": "0.1",
    "side": "sell",
    "tradeId": "t72",
    "time": "1750000000250000001",
}
FUTURES_TICKER = {
    "symbol": "ABCDM",
    "sequence": 73,
    "bestBidPrice": "0.00120",
    "bestBidSize": 11,
    "bestAskPrice": "0.00121",
    "bestAskSize": 12,
    "ts": 1_750_000_000_250_000_003,
}
FUTURES_TRADE = {
    "symbol": "ABCDM",
    "sequence": 74,
    "price": "0.00121",
    "size": 5,
    "side": "buy",
    "tradeId": "t74",
    "ts": 1_750_000_000_250_000_004,
}

MESSAGES: dict[str, dict[str, Any]] = {
    "/market/ticker:AB-CD": SPOT_TICKER,
    "/market/match:AB-CD": SPOT_TRADE,
    "/contractMarket/tickerV2:ABCDM": FUTURES_TICKER,
    "/contractMarket/execution:ABCDM": FUTURES_TRADE,
}
MAY_BE_MISSING = {("/market/ticker:AB-CD", "time"), ("/contractMarket/tickerV2:ABCDM", "sequence")}
FIELDS = [(wire, name) for wire, data in MESSAGES.items() for name in data]
EMPTY_SIDE = ("bestBid", "bestAsk", "price", "size")


def decode(wire: str, data: Any) -> Any:
    wanted = parse_topic(wire)
    return wanted.channel.decode(data, wanted, NOW)


def test_spot_ticker() -> None:
    """Text prices, a sequence as text, the time in milliseconds, and the last trade."""
    wanted = topic("ticker", "AB-CD")
    assert decode("/market/ticker:AB-CD", SPOT_TICKER) == Ticker(
        topic=wanted,
        symbol="AB-CD",
        sequence=71,
        exchange_time_ns=1_750_000_000_250_000_000,
        received_time_ns=NOW,
        bid=Decimal("101.4"),
        bid_size=Decimal(3),
        ask=Decimal("101.6"),
        ask_size=Decimal("0.00000001"),
        price=Decimal("101.5"),
        size=Decimal("0.25"),
    )


def test_spot_trade() -> None:
    """The time is text, in nanoseconds."""
    assert decode("/market/match:AB-CD", SPOT_TRADE) == Trade(
        topic=topic("trade", "AB-CD"),
        symbol="AB-CD",
        sequence=72,
        exchange_time_ns=1_750_000_000_250_000_001,
        received_time_ns=NOW,
        price=Decimal("101.5"),
        size=Decimal("0.1"),
        side=Side.SELL,
        trade_id="t72",
    )


def test_futures_ticker() -> None:
    """Sizes are contracts; there is no last trade."""
    assert decode("/contractMarket/tickerV2:ABCDM", FUTURES_TICKER) == Ticker(
        topic=topic("ticker", "ABCDM"),
        symbol="ABCDM",
        sequence=73,
        exchange_time_ns=1_750_000_000_250_000_003,
        received_time_ns=NOW,
        bid=Decimal("0.0012"),
        bid_size=11,
        ask=Decimal("0.00121"),
        ask_size=12,
    )


def test_futures_trade() -> None:
    assert decode("/contractMarket/execution:ABCDM", FUTURES_TRADE) == Trade(
        topic=topic("trade", "ABCDM"),
        symbol="ABCDM",
        sequence=74,
        exchange_time_ns=1_750_000_000_250_000_004,
        received_time_ns=NOW,
        price=Decimal("0.00121"),
        size=5,
        side=Side.BUY,
        trade_id="t74",
    )


def test_futures_trade_as_documented_in_2019() -> None:
    """`matchSize` was traded, `size` is left of the order; the time is called `time`, and the price is a number."""
    old = {**FUTURES_TRADE, "matchSize": 2, "size": 99, "price": 3200.00, "time": FUTURES_TRADE["ts"]}
    del old["ts"]
    trade = decode("/contractMarket/execution:ABCDM", old)
    assert (trade.size, trade.price, trade.exchange_time_ns) == (2, 3200, 1_750_000_000_250_000_004)


def test_spot_ticker_time_spelt_with_a_capital_or_left_out() -> None:
    old = {name: value for name, value in SPOT_TICKER.items() if name != "time"}
    assert decode("/market/ticker:AB-CD", old).exchange_time_ns is None
    assert decode("/market/ticker:AB-CD", old).latency is None
    capital = decode("/market/ticker:AB-CD", {**old, "Time": 1_750_000_000_250})
    assert capital.exchange_time_ns == 1_750_000_000_250_000_000


@pytest.mark.parametrize("wire", ["/market/ticker:AB-CD", "/contractMarket/tickerV2:ABCDM"])
@pytest.mark.parametrize("nothing", [None, ""])
def test_an_empty_side_of_the_book_is_none(wire: str, nothing: Any) -> None:
    data = {name: nothing if name.startswith("bestBid") else value for name, value in MESSAGES[wire].items()}
    ticker = decode(wire, data)
    assert (ticker.bid, ticker.bid_size) == (None, None)
    assert None not in (ticker.ask, ticker.ask_size)


@pytest.mark.parametrize("wire", MESSAGES)
def test_fields_nobody_knows_change_nothing(wire: str) -> None:
    data = {"sn": 9, "makerUserId": "0", "": None, **MESSAGES[wire], "new": {"deep": [1]}}
    assert decode(wire, data) == decode(wire, MESSAGES[wire])


@pytest.mark.parametrize(("wire", "name"), FIELDS)
def test_a_missing_field_is_missed_by_its_name(wire: str, name: str) -> None:
    data = {key: value for key, value in MESSAGES[wire].items() if key != name}
    if (wire, name) in MAY_BE_MISSING:
        decode(wire, data)
        return
    with pytest.raises(KeyError) as caught:
        decode(wire, data)
    assert caught.value.args[0] in (name, "time"), "of two names for one field, the old one is looked for last"


@pytest.mark.parametrize(("wire", "name"), FIELDS)
@pytest.mark.parametrize("value", [True, False, [], {}, -1, "-1", "x", 1e300, 0.5, "NaN", "\ud800"], ids=ascii)
def test_a_field_of_the_wrong_kind_is_refused_by_its_name(wire: str, name: str, value: Any) -> None:
    if (name == "tradeId" and isinstance(value, str)) or (value == 0.5 and is_decimal(wire, name)):
        return
    with pytest.raises(MessageRefused) as caught:
        decode(wire, {**MESSAGES[wire], name: value})
    assert caught.value.cause == name


def is_decimal(wire: str, name: str) -> bool:
    return "price" in name.lower() or (wire.startswith("/market/") and ("best" in name or name == "size"))


@pytest.mark.parametrize(("wire", "name"), [(wire, name) for wire, name in FIELDS if name in ("time", "ts")])
@pytest.mark.parametrize("digits", [0, 1, 10, 13, 16, 19, 20])
def test_a_time_in_another_unit_is_refused(wire: str, name: str, digits: int) -> None:
    """Seconds, microseconds, and milliseconds where nanoseconds belong; a zero is no time either."""
    right = len(str(MESSAGES[wire][name]))
    value = int("1" * digits) if digits else 0
    if digits == right:
        decode(wire, {**MESSAGES[wire], name: value})
        return
    with pytest.raises(MessageRefused) as caught:
        decode(wire, {**MESSAGES[wire], name: value})
    assert caught.value.cause == name


@given(st.dictionaries(st.sampled_from(sorted({name for _, name in FIELDS})), st.none() | st.text() | st.integers()))
def test_no_data_whatever_makes_a_decoder_raise_anything_unforeseen(damage: dict[str, Any]) -> None:
    for wire, data in MESSAGES.items():
        try:
            decode(wire, {**data, **damage})
        except MessageRefused as refusal:
            assert refusal.cause in damage  # noqa: PT017  # the refusal is one of two right outcomes


def test_the_table_states_what_delivery_relies_on() -> None:
    """One row per channel; a path, a market and a kind name it; trades and tickers are numbered with holes."""
    assert len({channel.path for channel in CHANNELS}) == len(CHANNELS)
    assert len({(channel.market, channel.kind) for channel in CHANNELS}) == len(CHANNELS)
    assert {channel.path for channel in CHANNELS} == {wire.partition(":")[0] for wire in MESSAGES}
    for channel in CHANNELS:
        assert isinstance(channel, Channel)
        assert channel.market in MARKETS
        assert channel.record.kind is channel.kind  # type: ignore[attr-defined]
        assert channel.merge_key is MergeKey.INCREASING
        assert channel.source
        assert channel.time
        assert channel.path in repr(channel)


def test_the_limits_are_the_lower_where_sources_disagree() -> None:
    """PROTOCOL.md, section 4."""
    limits = {market.name: market.topics_per_connection for market in MARKETS}
    assert limits == {"spot": 300, "futures": 100}
    for market in MARKETS:
        assert (market.symbols_per_frame, market.dials_per_minute) == (100, 30)
        assert (market.frames_per_window, market.frame_window) == (100, 10.0)
