"""Each channel's decoder on messages of our own: what it takes, and that it refuses what is not its channel's.

The recorded messages of the exchange are tried in `test_samples.py`; these need no samples.
"""

from __future__ import annotations

import copy
import re
from decimal import Decimal
from functools import partial
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kufeed.errors import MessageRefused
from kufeed.protocol import (
    CHANNELS,
    MARKETS,
    Announcement,
    BookChange,
    BookDelta,
    CallAuction,
    CallAuctionDepth,
    Candle,
    Channel,
    Depth,
    FundingRate,
    IndexPrice,
    Level,
    Level1,
    MarkPrice,
    MergeKey,
    Side,
    Stats24h,
    Ticker,
    Topic,
    Trade,
    Update,
    UpdateType,
    parse_topic,
    topic,
)
from kufeed.protocol.fields import shown

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

MS = 1_750_000_000_250
LEVEL1 = {"bids": ["101.4", "3"], "asks": ["101.6", "0.5"], "timestamp": MS}
SPOT_DEPTH = {"bids": [["101.4", "3"], ["101.3", "1"]], "asks": [["101.6", "0.5"]], "timestamp": MS}
SPOT_DELTA = {
    "symbol": "AB-CD",
    "sequenceStart": 75,
    "sequenceEnd": 77,
    "changes": {"bids": [["101.4", "0", "75"], ["0", "0", "77"]], "asks": [["101.6", "0.5", "76"]]},
    "time": MS,
}
ROW = ["1749999960", "1.1", "1.3", "1.4", "1.0", "20.5", "25.25"]
SPOT_CANDLE = {"symbol": "AB-CD", "candles": ROW, "time": 1_750_000_000_250_000_005}
SPOT_STATS_INNER = {
    "symbol": "AB-CD",
    "datetime": MS,
    "lastTradedPrice": 1.3,
    "high": 1.4,
    "low": 1.0,
    "vol": 20.50000000000000000000,
    "volValue": 25.25,
    "changePrice": -0.25,
    "changeRate": -0.1613,
}
SPOT_STATS = {"sequence": "78", "data": SPOT_STATS_INNER}
INDICATOR = {"symbol": "AB-CD", "granularity": 1000, "timestamp": MS, "value": 0.00001588}
CALL_AUCTION = {
    "symbol": "AB-CD",
    "estimatedPrice": "0.17",
    "estimatedSize": "0.03715004",
    "sellOrderRangeLowPrice": "1.5",
    "sellOrderRangeHighPrice": "2.5",
    "buyOrderRangeLowPrice": "1.25",
    "buyOrderRangeHighPrice": "2.25",
    "time": MS,
}
FUTURES_DEPTH = {"bids": [[1.5, 3], [1.25, 1]], "asks": [["1.75", 5]], "sequence": 79, "timestamp": MS}
FUTURES_DELTA = {"sequence": 80, "change": "39069.0,buy,23960", "timestamp": MS}
INSTRUMENT = {"markPrice": 1.5, "indexPrice": 1.25, "timestamp": MS}
FUNDING = {"granularity": 28_800_000, "fundingRate": -0.002966, "timestamp": MS}
FUTURES_CANDLE = {"symbol": "ABCDM", "candles": ROW, "time": MS}
FUTURES_STATS = {
    "symbol": "ABCDM",
    "volume": 5834.46,
    "turnover": 526.5,
    "lastPrice": 29912,
    "lowPrice": 29332.0,
    "highPrice": 31884.0,
    "priceChg": -1688,
    "priceChgPct": -0.0534,
    "ts": 1_750_000_000_250_000_006,
}
ANNOUNCEMENT = {"symbol": "ABCDM", "fundingTime": MS + 1, "fundingRate": -0.002966, "timestamp": MS}

ALL_TICKERS = "/market/ticker:all"
# By wire topic; where several channels share one, the kind stands before it.
MESSAGES: dict[str, dict[str, Any]] = {
    "/spotMarket/level1:AB-CD": LEVEL1,
    "/spotMarket/level2Depth5:AB-CD": SPOT_DEPTH,
    "/spotMarket/level2Depth50:AB-CD": SPOT_DEPTH,
    "/callauction/level2Depth50:AB-CD": SPOT_DEPTH,
    "/market/level2:AB-CD": SPOT_DELTA,
    "/market/candles:AB-CD_1min": SPOT_CANDLE,
    "/market/snapshot:AB-CD": SPOT_STATS,
    "/indicator/markPrice:AB-CD": {name: value for name, value in INDICATOR.items() if name != "granularity"},
    "/indicator/index:AB-CD": {name: value for name, value in INDICATOR.items() if name != "granularity"},
    "/callauction/callauctionData:AB-CD": CALL_AUCTION,
    "/contractMarket/level2Depth5:ABCDM": FUTURES_DEPTH,
    "/contractMarket/level2Depth50:ABCDM": FUTURES_DEPTH,
    "/contractMarket/level2:ABCDM": FUTURES_DELTA,
    "/contract/instrument:ABCDM": INSTRUMENT,
    "index_price /contract/instrument:ABCDM": INSTRUMENT,
    "funding_rate /contract/instrument:ABCDM": FUNDING,
    "/contractMarket/limitCandle:ABCDM_1min": FUTURES_CANDLE,
    "/contractMarket/snapshot:ABCDM": FUTURES_STATS,
    "/contract/announcement:ABCDM": ANNOUNCEMENT,
    "/market/ticker:AB-CD": SPOT_TICKER,
    ALL_TICKERS: SPOT_TICKER,
    "/market/match:AB-CD": SPOT_TRADE,
    "/contractMarket/tickerV2:ABCDM": FUTURES_TICKER,
    "/contractMarket/execution:ABCDM": FUTURES_TRADE,
}
D = Decimal
MS_NS = MS * 1_000_000
SPOT_QUOTES = (D("101.4"), D(3), D("101.6"), D("0.00000001"), D("101.5"), D("0.250"))
SPOT_LEVELS = ((Level(D("101.4"), D(3)), Level(D("101.3"), D(1))), (Level(D("101.6"), D("0.5")),))
FUTURES_LEVELS = ((Level(D("1.5"), 3), Level(D("1.25"), 1)), (Level(D("1.75"), 5),))
PRICES = (D("1.1"), D("1.3"), D("1.4"), D("1.0"))
"""Open, close, high and low: in this order in both markets; REST has others."""
SAID: dict[str, tuple[Any, ...]] = {
    "/spotMarket/level1:AB-CD": (Level1, None, MS_NS, D("101.4"), D(3), D("101.6"), D("0.5")),
    "/spotMarket/level2Depth5:AB-CD": (Depth, None, MS_NS, *SPOT_LEVELS),
    "/spotMarket/level2Depth50:AB-CD": (Depth, None, MS_NS, *SPOT_LEVELS),
    "/callauction/level2Depth50:AB-CD": (CallAuctionDepth, None, MS_NS, *SPOT_LEVELS),
    "/market/level2:AB-CD": (
        *(BookDelta, 77, MS_NS, 75),
        (
            BookChange(Side.BUY, D("101.4"), D(0), 75),
            BookChange(Side.BUY, D(0), D(0), 77),
            BookChange(Side.SELL, D("101.6"), D("0.5"), 76),
        ),
    ),
    "/market/candles:AB-CD_1min": (
        *(Candle, None, 1_750_000_000_250_000_005),
        *("1min", 1_749_999_960_000_000_000, *PRICES, D("20.5"), D("25.25")),
    ),
    "/market/snapshot:AB-CD": (
        *(Stats24h, 78, MS_NS),
        *(D("1.3"), D("1.4"), D("1.0"), D("20.5"), D("25.25"), D("-0.25"), D("-0.1613")),
    ),
    "/indicator/markPrice:AB-CD": (MarkPrice, None, MS_NS, D("0.00001588"), None),
    "/indicator/index:AB-CD": (IndexPrice, None, MS_NS, D("0.00001588")),
    "/callauction/callauctionData:AB-CD": (
        *(CallAuction, None, MS_NS),
        *(D("0.17"), D("0.03715004"), D("1.5"), D("2.5"), D("1.25"), D("2.25")),
    ),
    "/contractMarket/level2Depth5:ABCDM": (Depth, 79, MS_NS, *FUTURES_LEVELS),
    "/contractMarket/level2Depth50:ABCDM": (Depth, 79, MS_NS, *FUTURES_LEVELS),
    "/contractMarket/level2:ABCDM": (BookDelta, 80, MS_NS, 80, (BookChange(Side.BUY, D("39069.0"), 23960, 80),)),
    "/contract/instrument:ABCDM": (MarkPrice, None, MS_NS, D("1.5"), D("1.25")),
    "index_price /contract/instrument:ABCDM": (IndexPrice, None, MS_NS, D("1.25")),
    "funding_rate /contract/instrument:ABCDM": (FundingRate, None, MS_NS, D("-0.002966"), False, 28_800.0),
    "/contractMarket/limitCandle:ABCDM_1min": (
        *(Candle, None, MS_NS),
        *("1min", 1_749_999_960_000_000_000, *PRICES, None, D("25.25")),  # the volume there is known to be wrong
    ),
    "/contractMarket/snapshot:ABCDM": (
        *(Stats24h, None, 1_750_000_000_250_000_006),
        *(D(29912), D("31884.0"), D("29332.0"), D("5834.46"), D("526.5"), D(-1688), D("-0.0534")),
    ),
    "/contract/announcement:ABCDM": (
        *(Announcement, None, MS_NS),
        *("funding.begin", (MS + 1) * 1_000_000, D("-0.002966")),
    ),
    "/market/ticker:AB-CD": (Ticker, 71, MS_NS, *SPOT_QUOTES),
    ALL_TICKERS: (Ticker, 71, MS_NS, *SPOT_QUOTES),
    "/market/match:AB-CD": (Trade, 72, 1_750_000_000_250_000_001, D("101.50"), D("0.1"), Side.SELL, "t72"),
    "/contractMarket/tickerV2:ABCDM": (Ticker, 73, 1_750_000_000_250_000_003, D("0.00120"), 11, D("0.00121"), 12),
    "/contractMarket/execution:ABCDM": (Trade, 74, 1_750_000_000_250_000_004, D("0.00121"), 5, Side.BUY, "t74"),
}
"""The record of each of these messages: its class, number and time, then its own values in order."""
MAY_BE_MISSING = {
    ("/market/ticker:AB-CD", "time"),
    (ALL_TICKERS, "time"),
    ("/market/level2:AB-CD", "time"),
    ("/contractMarket/tickerV2:ABCDM", "sequence"),
    ("/contractMarket/level2Depth5:ABCDM", "sequence"),
    ("/contractMarket/level2Depth50:ABCDM", "sequence"),
    *(("/callauction/callauctionData:AB-CD", name) for name in CALL_AUCTION if name not in ("symbol", "time")),
    *(("/contractMarket/snapshot:ABCDM", name) for name in FUTURES_STATS if name != "ts"),
}
OTHER_NAMES = {
    ("/contractMarket/execution:ABCDM", "ts"): "time",
    ("/contractMarket/level2Depth5:ABCDM", "timestamp"): "ts",
    ("/contractMarket/level2Depth50:ABCDM", "timestamp"): "ts",
}
"""Of two names for one field, the old one is looked for last, and missed."""
SIGNED = {"fundingRate", "priceChg", "priceChgPct"}
TIMES = ("time", "ts", "timestamp", "fundingTime")
FIELDS = [(wire, name) for wire, data in MESSAGES.items() for name in data]
EMPTY_SIDE = ("bestBid", "bestAsk", "price", "size")


def decode(wire: str, data: Any) -> Any:
    """What the exact decoder says; that of floats takes the same messages, and refuses the others in the same words."""
    wanted = topic_of(wire)
    # Where it names the symbol, it is the one of the other messages here.
    message = {"topic": str(wanted), "subject": (*wanted.channel.subjects, "AB-CD")[0], "data": data}
    exact, of_floats = (partial(wanted.channel.decoders[kind], message, wanted, NOW) for kind in (Decimal, float))
    try:
        update = exact()
    except Exception as error:
        with pytest.raises(type(error), match=f"^{re.escape(str(error))}$"):
            of_floats()
        raise
    expected = [float(value) if type(value) is Decimal else value for value in flat(update)]
    assert [(type(value), value) for value in flat(of_floats())] == [(type(value), value) for value in expected]
    return update


def refused(wire: str, data: Any) -> MessageRefused:
    """How the decoder refuses *data*."""
    with pytest.raises(MessageRefused) as caught:
        decode(wire, data)
    return caught.value


def flat(value: Any) -> list[Any]:
    """The values in a record, one after the other, those of levels and changes too."""
    if isinstance(value, Update):
        value = attrs.astuple(value, recurse=False)
    return [found for part in value for found in flat(part)] if isinstance(value, tuple) else [value]


def topic_of(wire: str) -> Topic:
    kind, _, shared = wire.rpartition(" ")
    return topic(kind, shared.partition(":")[2]) if kind else parse_topic(shared)


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_table_states_what_delivery_relies_on() -> None:
    """One row per channel; a market, a kind and its levels name it, or path and kind; books are numbered, no holes."""
    assert len({(str(channel), channel.kind) for channel in CHANNELS}) == len(CHANNELS)
    named = {(channel.market, channel.kind, channel.levels, channel.symbol_in_subject) for channel in CHANNELS}
    assert len(named) == len(CHANNELS)
    assert {topic_of(wire).channel for wire in MESSAGES} == set(CHANNELS)
    assert len(MESSAGES) == len(CHANNELS)
    keys = {
        UpdateType.TICKER: MergeKey.INCREASING,
        UpdateType.TRADE: MergeKey.INCREASING,
        UpdateType.BOOK_DELTA: MergeKey.CONTIGUOUS,
    }
    for channel in CHANNELS:
        assert isinstance(channel, Channel)
        assert channel.market in MARKETS
        assert channel.record.kind is channel.kind  # type: ignore[attr-defined]
        assert channel.merge_key is keys.get(channel.kind, MergeKey.TIME)
        depth = re.search(r"Depth(\d+)$", channel.path) if channel.kind is UpdateType.DEPTH else None
        assert channel.levels == (int(depth[1]) if depth else None)
        contiguous = channel.merge_key is MergeKey.CONTIGUOUS
        assert channel.merge_key.gap == ("times and numbers" if contiguous else "times")
        assert bool(channel.subjects) is not channel.symbol_in_subject
        assert channel.pushed_without_symbol is (channel.kind is UpdateType.ANNOUNCEMENT)
        assert channel.source
        assert channel.time
        assert str(channel).startswith(channel.path)
        assert str(channel) in repr(channel)


SUBJECTS = {
    "ticker spot": ("trade.ticker",),
    "ticker:all spot": (),
    "trade spot": ("trade.l3match",),
    "level1 spot": ("level1",),
    "depth spot": ("level2",),
    "book_delta spot": ("trade.l2update",),
    "candle spot": ("trade.candles.update", "trade.candles.add"),
    "stats_24h spot": ("trade.snapshot",),
    "mark_price spot": ("tick",),
    "index_price spot": ("tick",),
    "call_auction spot": ("callauction.callauctionData",),
    "call_auction_depth spot": ("level2",),
    "ticker futures": ("tickerV2",),
    "trade futures": ("match",),
    "depth futures": ("level2",),
    "book_delta futures": ("level2",),
    "mark_price futures": ("mark.index.price",),
    "index_price futures": ("mark.index.price",),
    "funding_rate futures": ("funding.rate",),
    "candle futures": ("candle.stick",),
    "stats_24h futures": ("snapshot.24h",),
    "announcement futures": ("funding.begin", "funding.end"),
}
"""PROTOCOL.md, sections 6 and 7."""


def test_each_channel_has_the_subjects_of_the_protocol() -> None:
    for channel in CHANNELS:
        name = f"{channel.kind}{':all' * channel.symbol_in_subject} {channel.market.name}"
        assert channel.subjects == SUBJECTS[name], name


@pytest.mark.parametrize("wire", MESSAGES)
def test_a_row_says_where_the_time_is_and_what_sizes_count(wire: str) -> None:
    """As the message shows it. What it cannot show is where the row was read: documents, and recordings of a month."""
    channel, update = topic_of(wire).channel, decode(wire, MESSAGES[wire])
    name, unit, text, start = re.fullmatch(
        r"(\w+), (ns|ms)( as text)?(; the start in s as text)?", channel.time
    ).groups()  # type: ignore[union-attr]
    value = {**MESSAGES[wire], **MESSAGES[wire].get("data", {})}[name]
    assert int(value) * {"ns": 1, "ms": 1_000_000}[unit] == update.exchange_time_ns
    assert (type(value) is str) is bool(text)
    assert bool(start) is (wire == "/market/candles:AB-CD_1min")
    named = [getattr(update, name, None) for name in ("bid_size", "size", "volume")]
    sizes = {type(size) for size in [*named, *(row.size for row in getattr(update, "bids", ()))] if size is not None}
    sizes |= {type(change.size) for change in getattr(update, "changes", ())}
    inverse = "base currency; US dollars where inverse"
    assert sizes == {None: set(), "contracts": {int}, "base currency": {Decimal}, inverse: {Decimal}}[channel.sizes]
    assert (channel.sizes == inverse) is (wire == "/contractMarket/snapshot:ABCDM")
    markets = {"spot": "spot|margin", "futures": "futures"}[channel.market.name]
    recorded = r"(; (`add` )?recorded 20\d\d-\d\d(-\d\d)?)?"
    assert re.fullmatch(rf"KuCoin WebSocket, ({markets}) public channels: [a-z0-9/, ]+{recorded}", channel.source)


SECONDS = {"min": 60, "hour": 3600, "day": 86_400, "week": 604_800, "month": 30 * 86_400}
LENGTHS = {
    *("1min", "3min", "5min", "15min", "30min"),
    *("1hour", "2hour", "4hour", "8hour", "12hour", "1day", "1week", "1month"),
}


def test_candles_come_in_these_lengths() -> None:
    """Spot has one more."""
    named = {channel.market.name: channel.intervals for channel in CHANNELS if channel.kind is UpdateType.CANDLE}
    assert {market: set(intervals or ()) for market, intervals in named.items()} == {
        "spot": {*LENGTHS, "6hour"},
        "futures": LENGTHS,
    }
    for intervals in named.values():
        for name, seconds in (intervals or {}).items():
            count = re.match(r"\d+", name)
            assert count is not None
            assert seconds == int(count[0]) * SECONDS[name[count.end() :]]
        assert list((intervals or {}).values()) == sorted((intervals or {}).values()), "the shortest first"
    assert {channel.kind for channel in CHANNELS if channel.intervals} == {UpdateType.CANDLE}


def test_each_market_has_its_host_and_of_limits_the_lower_where_sources_disagree() -> None:
    """PROTOCOL.md, section 4."""
    limits = {market.name: (market.rest_url, market.topics_per_connection) for market in MARKETS}
    assert limits == {"spot": ("https://api.kucoin.com", 300), "futures": ("https://api-futures.kucoin.com", 100)}
    for market in MARKETS:
        assert (market.symbols_per_frame, market.dials_per_minute) == (100, 30)
        assert (market.frames_per_window, market.frame_window) == (100, 10.0)


# -- the decoders -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", SAID)
def test_a_message_becomes_its_record_value_by_value(wire: str) -> None:
    kind, sequence, time, *values = SAID[wire]
    wanted = topic_of(wire)
    assert str(wanted) == wire.rpartition(" ")[2]
    expected = kind(wanted, wanted.symbol, sequence, time, NOW, *values)
    if wire == ALL_TICKERS:
        wanted = Topic(wanted.channel, "AB-CD")
        expected = attrs.evolve(expected, topic=wanted, symbol="AB-CD")
    update = decode(wire, MESSAGES[wire])
    assert update == expected
    assert list(map(type, flat(update))) == list(map(type, flat(expected)))


def test_a_spot_ticker_of_all_symbols_is_its_own_symbols() -> None:
    """PROTOCOL.md, section 6: the subject is the symbol, the data are a ticker's."""
    every = topic("ticker", "all")

    def of_all(wanted: Topic, subject: Any) -> Any:
        message = {"topic": "/market/ticker:all", "subject": subject, "data": SPOT_TICKER}
        return every.channel.decoders[Decimal](message, wanted, NOW)

    one = of_all(every, "AB-CD")
    assert one == attrs.evolve(decode("/market/ticker:AB-CD", SPOT_TICKER), topic=one.topic)
    assert (str(one.topic), one.topic.channel, one.symbol) == ("/market/ticker:AB-CD", every.channel, "AB-CD")
    assert of_all(one.topic, "AB-CD") == one
    for wrong in ("trade.ticker", "all", "ABCDM", "ab-cd", "", None, 7, ["AB-CD"], "AB-CD ", "A" * 21 + "-B"):
        with pytest.raises(MessageRefused) as caught:
            of_all(every, wrong)
        assert (caught.value.cause, str(caught.value)) == ("subject", f"subject: {shown(wrong)}")
    with pytest.raises(MessageRefused):
        of_all(one.topic, "EF-GH")


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


@pytest.mark.parametrize("wire", ["/market/match:AB-CD", "/contractMarket/execution:ABCDM"])
@pytest.mark.parametrize("trade_id", ["", "x" * 65, "a b", "\x1b[31mred", "\u202e1", "\xfc"], ids=ascii)
def test_the_id_of_a_trade_is_short_and_visible(wire: str, trade_id: str) -> None:
    assert refused(wire, {**MESSAGES[wire], "tradeId": trade_id}).cause == "tradeId"


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
    assert caught.value.args[0] == OTHER_NAMES.get((wire, name), name)


@pytest.mark.parametrize(("wire", "name"), FIELDS)
def test_a_field_of_the_wrong_kind_is_refused_by_its_name(wire: str, name: str) -> None:
    for value in (True, False, [], {}, -1, "-1", "x", 1e300, 0.5, "NaN", "\ud800"):
        data = {**MESSAGES[wire], name: value}
        if (name == "tradeId" and isinstance(value, str)) or (value == 0.5 and is_decimal(wire, name)):
            continue
        if (name in SIGNED and value in (-1, "-1") and value is not True) or (name in ("bids", "asks") and value == []):
            decode(wire, data)
        elif name in ("changes", "data") and value == {}:
            with pytest.raises(KeyError):
                decode(wire, data)
        else:
            assert refused(wire, data).cause == name, ascii(value)


def is_decimal(wire: str, name: str) -> bool:
    if name in SIGNED or name in ("value", "turnover", "volume", "estimatedSize"):
        return True
    return "price" in name.lower() or (wire.startswith("/market/") and ("best" in name or name == "size"))


@pytest.mark.parametrize(("wire", "name"), [(wire, name) for wire, name in FIELDS if name in TIMES])
def test_a_time_in_another_unit_is_refused(wire: str, name: str) -> None:
    """Seconds, microseconds, and milliseconds where nanoseconds belong; a zero is no time either."""
    right = len(str(MESSAGES[wire][name]))
    for digits in (0, 1, 10, 13, 16, 19, 20):
        data = {**MESSAGES[wire], name: int("2" * digits) if digits else 0}
        if digits == right:
            decode(wire, data)
        else:
            assert refused(wire, data).cause == name, digits


NESTED = [
    *(("/market/snapshot:AB-CD", ["data", name], name) for name in SPOT_STATS_INNER),
    *((wire, [side, 0], side) for wire in MESSAGES if "epth" in wire for side in ("bids", "asks")),
    *(
        (wire, [side, 0, part], side)
        for wire in MESSAGES
        if "epth" in wire
        for side in ("bids", "asks")
        for part in (0, 1)
    ),
    *(("/spotMarket/level1:AB-CD", [side, part], side) for side in ("bids", "asks") for part in (0, 1)),
    *(("/market/level2:AB-CD", ["changes", side], side) for side in ("bids", "asks")),
    *(("/market/level2:AB-CD", ["changes", side, 0], side) for side in ("bids", "asks")),
    *(("/market/level2:AB-CD", ["changes", side, 0, part], side) for side in ("bids", "asks") for part in (0, 1, 2)),
    *(("/market/candles:AB-CD_1min", ["candles", part], "candles") for part in range(7)),
    *(("/contractMarket/limitCandle:ABCDM_1min", ["candles", part], "candles") for part in (0, 1, 2, 3, 4, 6)),
]


@pytest.mark.parametrize(("wire", "path", "cause"), NESTED, ids=str)
def test_damage_further_inside_is_refused_by_the_name_of_the_field(wire: str, path: list[Any], cause: str) -> None:
    data = copy.deepcopy(MESSAGES[wire])
    inside: Any = data
    for step in path[:-1]:
        inside = inside[step]
    for value in (True, {}, {"1": 1, "2": 2}, [1], [1, 2, 3, 4], "x", "1_0", 1e300, "NaN", "\ud800"):
        inside[path[-1]] = value
        assert refused(wire, data).cause == cause, ascii(value)


@pytest.mark.parametrize(
    "change", ["", "1,buy", "1,buy,2,3", "1,BUY,2", "1,2,buy", "1,buy,0.5", "-1,buy,1", "1,buy,-1", ","]
)
def test_a_futures_book_change_is_price_side_and_contracts(change: str) -> None:
    assert refused("/contractMarket/level2:ABCDM", {**FUTURES_DELTA, "change": change}).cause == "change"


@pytest.mark.parametrize("wire", [wire for wire in MESSAGES if "andle" in wire])
@pytest.mark.parametrize(
    "row",
    [ROW[:6], [*ROW, "1"], *([start, *ROW[1:]] for start in ("1749999960000", "1749999961", "1750000140"))],
    ids=["six", "eight", "ms", "no minute", "ahead"],
)
def test_a_candle_of_another_shape_is_refused(wire: str, row: list[str]) -> None:
    assert refused(wire, {**MESSAGES[wire], "candles": row}).cause == "candles"


def test_the_changes_of_a_spot_book_delta_are_within_its_numbers() -> None:
    wire = "/market/level2:AB-CD"
    for first, last, problem in (
        (77, 75, "77 to 75"),  # as one worked example prints it, by mistake
        (76, 77, "75 in 76 to 77"),
        (75, 76, "77 in 75 to 76"),
    ):
        refusal = refused(wire, {**SPOT_DELTA, "sequenceStart": first, "sequenceEnd": last})
        assert str(refusal) == f"sequence: {problem}"
    one = {"bids": [["101.4", "0", "75"]], "asks": []}
    assert decode(wire, {**SPOT_DELTA, "changes": one, "sequenceEnd": 75}).first_sequence == 75
    wider = decode(wire, {**SPOT_DELTA, "sequenceStart": 74, "sequenceEnd": 78})
    assert wider.changes == decode(wire, SPOT_DELTA).changes


def test_a_side_of_a_book_has_no_more_changes_or_levels_than_a_message_may_have() -> None:
    """Told by how they are refused: for their number, or for what the first of them is."""
    for rows, reason in ((100_001, "list"), (100_000, "not price, size and sequence")):
        changes = {"bids": [["1", "1"]] * rows, "asks": []}
        assert str(refused("/market/level2:AB-CD", {**SPOT_DELTA, "changes": changes})) == f"bids: {reason}"
    for wire in MESSAGES:
        if "epth" in wire:
            assert len(decode(wire, {**MESSAGES[wire], "bids": [["1", "1"]] * 1000}).bids) == 1000
            assert refused(wire, {**MESSAGES[wire], "bids": [["1", "1"]] * 1001}).cause == "bids"


@pytest.mark.parametrize("nothing", [None, []])
def test_a_side_of_the_best_prices_may_be_empty(nothing: Any) -> None:
    wire = "/spotMarket/level1:AB-CD"
    no_bids, no_asks = (decode(wire, {**LEVEL1, side: nothing}) for side in ("bids", "asks"))
    assert (no_bids.bid, no_bids.bid_size, no_bids.ask) == (None, None, Decimal("101.6"))
    assert (no_asks.ask, no_asks.ask_size, no_asks.bid) == (None, None, Decimal("101.4"))
    assert str(refused(wire, {**LEVEL1, "asks": ["101.6"]})) == "asks: list"
    assert str(refused(wire, {**LEVEL1, "asks": "101.6"})) == "asks: '101.6'"


@pytest.mark.parametrize("wire", [wire for wire in MESSAGES if "epth" in wire])
def test_levels_are_best_first_whatever_their_order_on_the_wire(wire: str) -> None:
    data = MESSAGES[wire]
    depth = decode(wire, {**data, "bids": data["bids"][::-1], "asks": [["9", "1"], *data["asks"]]})
    assert [level.price for level in depth.bids] == sorted((level.price for level in depth.bids), reverse=True)
    assert [level.price for level in depth.asks] == sorted(level.price for level in depth.asks)
    assert {type(level.size) for level in depth.asks} == {int if "contract" in wire else Decimal}
    assert decode(wire, {**data, "bids": [], "asks": []}).bids == ()


def test_futures_depth_as_one_old_document_shows_it() -> None:
    """Nanoseconds in `ts`, sizes as text, no sequence. Recordings have milliseconds there."""
    data = {"bids": [["9988", "56"]], "asks": [["9989", "8"]], "ts": 1_590_634_672_060_667_000}
    depth = decode("/contractMarket/level2Depth5:ABCDM", data)
    assert (depth.exchange_time_ns, depth.sequence, depth.bids[0].size) == (1_590_634_672_060_667_000, None, 56)
    assert decode("/contractMarket/level2Depth5:ABCDM", {**data, "ts": MS}).exchange_time_ns == MS_NS
    assert refused("/contractMarket/level2Depth5:ABCDM", {**data, "ts": MS // 1000}).cause == "ts"


def test_an_announcement_is_named_by_its_subject() -> None:
    wanted = topic_of("/contract/announcement:ABCDM")
    message = {"subject": "funding.end", "data": ANNOUNCEMENT}
    read = wanted.channel.decoders[Decimal]
    assert read(message, wanted, NOW).event == "funding.end"
    with pytest.raises(MessageRefused) as caught:
        read({**message, "subject": 7}, wanted, NOW)
    assert caught.value.cause == "subject"


def test_a_funding_rate_is_predicted_or_settled_by_its_granularity() -> None:
    wire = "funding_rate /contract/instrument:ABCDM"
    settled = decode(wire, FUNDING)
    assert (settled.rate, settled.predicted, settled.interval) == (Decimal("-0.002966"), False, 28_800.0)
    assert settled.next_time_ns == (MS + 28_800_000) * 1_000_000
    predicted = decode(wire, {**FUNDING, "granularity": 60_000})
    assert (predicted.predicted, predicted.interval, predicted.next_time_ns) == (True, None, None)
    for wrong in (0, 59_999, 7 * 86_400_000 + 1, 2**62):
        assert refused(wire, {**FUNDING, "granularity": wrong}).cause == "granularity"


def test_the_statistics_of_a_symbol_may_come_as_a_list_of_one() -> None:
    wire = "/market/snapshot:AB-CD"
    assert decode(wire, {**SPOT_STATS, "data": [SPOT_STATS_INNER]}) == decode(wire, SPOT_STATS)
    for wrong in ([], [SPOT_STATS_INNER] * 2, [None], [[]]):
        assert refused(wire, {**SPOT_STATS, "data": wrong}).cause == "data"
    assert str(refused(wire, {**SPOT_STATS, "data": []})) == "data: not one symbol"


@given(st.dictionaries(st.sampled_from(sorted({name for _, name in FIELDS})), st.none() | st.text() | st.integers()))
def test_no_data_whatever_makes_a_decoder_raise_anything_unforeseen(damage: dict[str, Any]) -> None:
    for wire, data in MESSAGES.items():
        try:
            decode(wire, {**data, **damage})
        except MessageRefused as refusal:
            named = damage.keys() | ({"sequence"} if damage.keys() & {"sequenceStart", "sequenceEnd"} else set())
            assert refusal.cause in named  # noqa: PT017  # the refusal is one of two right outcomes
