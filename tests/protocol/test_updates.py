"""The records users receive: frozen values, however they were built."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kufeed.errors import MessageRefused
from kufeed.protocol import (
    CHANNELS,
    Announcement,
    BookChange,
    BookDelta,
    CallAuction,
    CallAuctionDepth,
    Candle,
    Depth,
    FundingRate,
    Gap,
    GapCause,
    IndexPrice,
    Level,
    Level1,
    MarkPrice,
    OrderBook,
    Side,
    Stats24h,
    Ticker,
    Trade,
    Update,
    UpdateType,
    parse_topic,
    topic,
)
from kufeed.protocol.updates import fast_constructor, keeping_raw, knowing_later

WHERE = {"topic": topic("ticker", "BTC-USDT"), "symbol": "BTC-USDT"}
WHEN = {"sequence": 7, "exchange_time_ns": 1_750_000_000_000_000_000, "received_time_ns": 1_750_000_000_012_000_000}
TICKER: dict[str, Any] = {
    **WHERE,
    **WHEN,
    "bid": Decimal("1.1"),
    "bid_size": Decimal(2),
    "ask": Decimal("1.2"),
    "ask_size": Decimal(3),
    "price": Decimal("1.15"),
    "size": Decimal(1),
}
TRADE: dict[str, Any] = {
    **WHERE,
    **WHEN,
    "topic": topic("trade", "BTC-USDT"),
    "price": Decimal("1.1"),
    "size": Decimal(2),
    "side": Side.BUY,
    "trade_id": "t7",
}
LEVELS = (Level(Decimal(2), 3), Level(Decimal(1), 4))
MORE: dict[Any, dict[str, Any]] = {
    Level1: {"bid": Decimal(1), "bid_size": Decimal(2), "ask": Decimal(3), "ask_size": Decimal(4)},
    Depth: {"bids": LEVELS, "asks": LEVELS[::-1]},
    CallAuctionDepth: {"bids": LEVELS, "asks": ()},
    OrderBook: {"bids": LEVELS, "asks": LEVELS[::-1]},
    BookDelta: {"first_sequence": 6, "changes": (BookChange(Side.BUY, Decimal(1), 2, 6),)},
    MarkPrice: {"mark_price": Decimal(1), "index_price": Decimal(2)},
    IndexPrice: {"index_price": Decimal(1)},
    FundingRate: {"rate": Decimal(-1), "predicted": False, "interval": 28_800.0},
    Candle: {
        "interval": "1min",
        "start_ns": 1_750_000_000_000_000_000,
        **{name: Decimal(1) for name in ("open", "high", "low", "close", "volume", "turnover")},
    },
    Stats24h: {
        name: Decimal(1) for name in ("last_price", "high", "low", "volume", "turnover", "change", "change_rate")
    },
    Announcement: {"event": "funding.begin", "funding_time_ns": 5, "rate": Decimal(-1)},
    CallAuction: {name: Decimal(1) for name in ("price", "size", "sell_low", "sell_high", "buy_low", "buy_high")},
}


def in_order(record: Any, values: dict[str, Any]) -> dict[str, Any]:
    names = [field.name for field in attrs.fields(record) if not field.kw_only]
    assert {*values} == {*names}
    return {name: values[name] for name in names}


RECORDS = [
    (Ticker, TICKER),
    (Trade, TRADE),
    *((record, in_order(record, {**WHERE, **WHEN, **values})) for record, values in MORE.items()),
]

MORE_UNSET: dict[Any, dict[str, Any]] = {Trade: {"backfilled": False}, Candle: {"_latest": None}}
UNSET: dict[Any, dict[str, Any]] = {
    record: {"gap_before": None, "late": False, "misdated": False, "raw": None, **MORE_UNSET.get(record, {})}
    for record, _ in RECORDS
}
"""What a decoder does not know."""

records = pytest.mark.parametrize(("record", "values"), RECORDS, ids=lambda value: getattr(value, "__name__", ""))


def test_every_record_of_the_channel_table_is_tried_here() -> None:
    made_of_others = {OrderBook}
    assert {record for record, _ in RECORDS} == {channel.record for channel in CHANNELS} | made_of_others
    assert {record.kind for record, _ in RECORDS} == set(UpdateType)


def quick(record: Any, values: dict[str, Any]) -> Any:
    return fast_constructor(record)(*values.values())


@records
def test_the_fast_way_builds_the_very_same_value(record: Any, values: dict[str, Any]) -> None:
    slow, fast = record(**values), quick(record, values)
    assert type(fast) is record
    assert fast == slow
    assert hash(fast) == hash(slow)
    assert repr(fast) == repr(slow)
    assert attrs.asdict(fast, recurse=False) == attrs.asdict(slow, recurse=False) == {**values, **UNSET[record]}
    assert attrs.evolve(fast, sequence=8) == attrs.evolve(slow, sequence=8) != fast


@records
def test_every_field_counts_in_a_comparison_but_what_others_know_of_it(record: Any, values: dict[str, Any]) -> None:
    """Not `gap_before`, which is the subscription's, `late` and `misdated`, which are our clock's, and `raw`."""
    made = quick(record, values)
    gap = Gap(made.topic, GapCause.RECONNECT, None, None, 1, 2)
    known = {"gap_before": gap, "late": True, "misdated": True, "raw": {"data": 1}, "backfilled": True}
    told = attrs.evolve(made, **{name: value for name, value in known.items() if name in UNSET[record]})
    assert told == made
    assert hash(told) == hash(made)
    for field in attrs.fields(record):
        if field.name in UNSET[record]:
            continue
        other = dict(values, **{field.name: topic("ticker", "A-B") if field.name == "topic" else "something else"})
        assert quick(record, other) != made


@records
@pytest.mark.parametrize("build", ["slow", "fast"])
def test_a_record_is_frozen(record: Any, values: dict[str, Any], build: str) -> None:
    """The same object stands in the queues of many subscriptions."""
    made = record(**values) if build == "slow" else quick(record, values)
    for name in (*values, "kind", "latency", "new"):
        with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
            setattr(made, name, 1)
        with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
            delattr(made, name)
    assert made == record(**values)
    assert not hasattr(made, "__dict__")


@records
def test_a_record_is_an_update_of_its_kind(record: Any, values: dict[str, Any]) -> None:
    made = quick(record, values)
    assert isinstance(made, Update)
    assert made.kind is record.kind
    assert str(made.topic).endswith(":BTC-USDT")
    assert {made} == {record(**values)}
    assert copy.copy(made) == made


def pickled(made: Any) -> Any:
    return pickle.loads(pickle.dumps(made))  # noqa: S301  # our own bytes


@records
def test_a_record_goes_to_another_process_and_back(record: Any, values: dict[str, Any]) -> None:
    """It is equal there, and of the same row of the channel table: what waits for it by its topic finds it."""
    made = attrs.evolve(quick(record, values), raw={"data": {"price": "1"}})
    for again in (pickled(made), copy.deepcopy(made)):
        assert again == made
        assert again.topic.channel is made.topic.channel
        assert again.raw == made.raw


# -- the message it was made of ---------------------------------------------------------------------------------------


def test_a_message_is_kept_as_it_is_where_that_is_wanted() -> None:
    """The very object that the JSON decoder made; not in `repr()`, which a message may be megabytes of."""
    message = {"data": {"n": 7}}
    made = quick(Ticker, TICKER)
    decode = keeping_raw(lambda *arguments: made if arguments == (message, made.topic, 9) else None)
    assert made.raw is None
    shown = repr(made)
    assert decode(message, made.topic, 9) is made
    assert made.raw is message
    assert repr(made) == shown
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.raw = {}  # type: ignore[misc]


# -- candles that are over --------------------------------------------------------------------------------------------

CANDLES = topic("candle", "BTC-USDT", interval="1min")


def candles(*starts: int, received_time_ns: int = 10**18 + 300 * 10**9) -> list[Candle]:
    """The candles of one stream that start in these minutes, in this order; a negative one is in a refused message."""
    decode = knowing_later(CANDLES.channel.decoders[Decimal])
    found = []
    for start in starts:
        row = [str(10**9 - 40 + 60 * abs(start) + 60), "1", "2", "3", "0.5", "6" if start >= 0 else "-6", "7"]
        data = {"symbol": "BTC-USDT", "candles": row, "time": WHEN["exchange_time_ns"]}
        try:
            found.append(decode({"data": data}, CANDLES, received_time_ns))
        except MessageRefused:
            assert start < 0
    return found


def test_a_candle_is_final_once_a_later_one_came() -> None:
    first, again = candles(1, 1)
    assert (first.final, again.final) == (False, False)
    first, again, later = candles(1, 1, 2)
    assert (first.final, again.final, later.final) == (True, True, False)
    assert Candle(**dict(RECORDS)[Candle]).final is False, "nothing is known of its stream"


@given(st.lists(st.integers(-5, 5)))
def test_a_candle_is_final_exactly_where_a_valid_one_with_a_later_start_has_come(starts: list[int]) -> None:
    """Whatever their order: one that comes after a later start is final at once."""
    valid = [start for start in starts if start >= 0]
    assert [candle.final for candle in candles(*starts)] == [start < max(valid) for start in valid]


def test_a_candle_says_when_it_was_received() -> None:
    (candle,) = candles(1, received_time_ns=10**18 + 5)
    assert (candle.received_time_ns, candle.time_ns) == (10**18 + 5, WHEN["exchange_time_ns"])


def test_a_start_that_is_ahead_of_the_clock_ends_no_candle() -> None:
    """Its message may be as far ahead, so that nothing in it says so; one minute is what clocks may differ by."""
    at_start = (10**9 + 20 + 60 * 5) * 10**9
    for ahead, final in ((60 * 10**9, True), (60 * 10**9 + 1, False)):
        first, later, again = candles(1, 5, 1, received_time_ns=at_start - ahead)
        assert (first.final, later.final, again.final) == (final, False, final)


def test_a_copy_of_a_candle_with_a_gap_before_it_learns_of_later_ones_too() -> None:
    decode = knowing_later(lambda message, *_: quick(Candle, {**dict(RECORDS)[Candle], "start_ns": message["start"]}))
    made = decode({"start": 0}, CANDLES, 9)
    gap = Gap(made.topic, GapCause.RECONNECT, None, None, 1, 2)
    copies = [attrs.evolve(made, gap_before=gap), copy.copy(made)]
    snapshots = [pickled(made), copy.deepcopy(made)]
    decode({"start": 1}, CANDLES, 9)
    assert [one.final for one in copies] == [True, True]
    assert [one.final for one in snapshots] == [False, False], "these know what was known when they were made"
    assert pickled(made).final
    assert {made, *copies, *snapshots} == {made}, "not part of a comparison"
    assert repr(made) == repr(snapshots[0])


@pytest.mark.parametrize("channel", CHANNELS, ids=str)
def test_every_channel_has_a_record_of_its_kind(channel: Any) -> None:
    assert issubclass(channel.record, Update)
    assert isinstance(channel.record.kind, UpdateType)
    assert channel.record.kind is channel.kind


def test_what_futures_do_not_have_is_none() -> None:
    values = {name: value for name, value in TICKER.items() if name not in ("price", "size")}
    for made in (Ticker(**values), quick(Ticker, values)):
        assert (made.price, made.size) == (None, None)


def test_a_record_needs_all_its_fields() -> None:
    with pytest.raises(TypeError):
        fast_constructor(Trade)(*list(TRADE.values())[:-1])
    with pytest.raises(TypeError):
        fast_constructor(Trade)(*TRADE.values(), *UNSET[Trade].values(), 1)


def test_latency_is_seconds_from_the_exchange_to_here() -> None:
    assert quick(Ticker, TICKER).latency == 0.012
    assert Ticker(**{**TICKER, "exchange_time_ns": None}).latency is None
    assert Ticker(**{**TICKER, "exchange_time_ns": WHEN["received_time_ns"] + 5_000_000}).latency == -0.005


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))
def test_latency_is_never_off_by_more_than_a_float_must_be(sent: int, received: int) -> None:
    """The difference is taken in whole nanoseconds, before anything is rounded."""
    made = Trade(**{**TRADE, "exchange_time_ns": sent, "received_time_ns": received})
    assert made.latency == (received - sent) / 1e9


def test_latency_in_milliseconds_and_the_time_as_a_datetime() -> None:
    made = quick(Ticker, TICKER)
    assert made.latency_ms == 12.0
    assert made.exchange_time == datetime(2025, 6, 15, 15, 6, 40, tzinfo=UTC)
    nothing = attrs.evolve(made, exchange_time_ns=None)
    assert (nothing.latency_ms, nothing.exchange_time) == (None, None)


@given(st.integers(0, 2**63 - 1))
def test_a_datetime_is_right_to_the_microsecond(time_ns: int) -> None:
    made = Ticker(**{**TICKER, "exchange_time_ns": time_ns})
    found = made.exchange_time
    assert found is not None
    assert found.utcoffset() == timedelta(0)
    assert (found - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) == time_ns // 1000


def test_a_candle_starts_at_an_aware_time() -> None:
    candle = Candle(**dict(RECORDS)[Candle])
    assert candle.start == datetime(2025, 6, 15, 15, 6, 40, tzinfo=UTC)


def test_the_time_of_an_update_is_that_of_its_receipt_where_the_exchange_told_none() -> None:
    made = quick(Ticker, TICKER)
    assert made.time_ns == WHEN["exchange_time_ns"]
    assert attrs.evolve(made, exchange_time_ns=None).time_ns == WHEN["received_time_ns"]


def test_funding_is_settled_next_one_interval_after_the_last() -> None:
    """No time is reckoned of a rate that says no interval, as a predicted one, or none of its own."""
    settled = FundingRate(**dict(RECORDS)[FundingRate])
    assert settled.next_time_ns == WHEN["exchange_time_ns"] + 28_800 * 10**9
    assert attrs.evolve(settled, interval=None).next_time_ns is None
    assert attrs.evolve(settled, exchange_time_ns=None).next_time_ns is None


def test_a_side_is_text() -> None:
    assert (Side.BUY, Side.SELL) == ("buy", "sell")
    assert f"{Side.BUY}" == "buy"


LOGGED = {
    "/contractMarket/tickerV2:XBTUSDTM": (
        {"sequence": 7, "bestBidSize": 713, "bestBidPrice": "88987.4", "bestAskPrice": "88987.5", "bestAskSize": 1},
        "Ticker(/contractMarket/tickerV2:XBTUSDTM, sequence=7, {TIMES}, "
        "bid=88987.4, bid_size=713 contracts, ask=88987.5, ask_size=1 contracts)",
    ),
    "/market/ticker:BTC-USDT": (
        {
            "sequence": "7",
            "price": "0.08",
            "size": "3",
            "bestBid": "0.00000000",
            "bestBidSize": "1",
            "bestAsk": None,
            "bestAskSize": "",
        },
        "Ticker(/market/ticker:BTC-USDT, sequence=7, {TIMES}, "
        "bid=0.00000000, bid_size=1, ask=None, ask_size=None, price=0.08, size=3)",
    ),
    "/contractMarket/execution:XBTUSDTM": (
        {"sequence": 7, "side": "sell", "size": 3, "price": "90503.9", "tradeId": "81"},
        "Trade(/contractMarket/execution:XBTUSDTM, sequence=7, {TIMES}, "
        "price=90503.9, size=3 contracts, side=sell, trade_id='81')",
    ),
    "/contractMarket/level2Depth50:XBTUSDTM": (
        {"sequence": 7, "bids": [[str(n), n] for n in range(1, 51)], "asks": [["60", 5]]},
        "Depth(/contractMarket/level2Depth50:XBTUSDTM, sequence=7, {TIMES}, "
        "bids=[50 x 50 contracts, 49 more], asks=[60 x 5 contracts])",
    ),
    "/spotMarket/level2Depth5:BTC-USDT": (
        {"bids": [["1.5", "3"], ["1.4", "0.2"]], "asks": []},
        "Depth(/spotMarket/level2Depth5:BTC-USDT, sequence=None, {TIMES}, bids=[1.5 x 3, 1 more], asks=[])",
    ),
    "/contractMarket/level2:XBTUSDTM": (
        {"sequence": 7, "change": "90631.2,sell,0"},
        "BookDelta(/contractMarket/level2:XBTUSDTM, sequence=7, {TIMES}, "
        "first_sequence=7, changes=[sell 90631.2 x 0 contracts])",
    ),
    "/market/level2:BTC-USDT": (
        {"sequenceStart": 6, "sequenceEnd": 7, "changes": {"bids": [["1.5", "3", "6"], ["2", "0", "7"]], "asks": []}},
        "BookDelta(/market/level2:BTC-USDT, sequence=7, {TIMES}, first_sequence=6, changes=[buy 1.5 x 3, 1 more])",
    ),
    "/contract/instrument:XBTUSDTM": (
        {"markPrice": 4010.52, "indexPrice": 4000.23},
        "MarkPrice(/contract/instrument:XBTUSDTM, sequence=None, {TIMES}, mark_price=4010.52, index_price=4000.23)",
    ),
    "/contractMarket/limitCandle:XBTUSDTM_1min": (
        {"candles": ["1731898200", "90638.6", "90638.5", "90638.7", "90638.4", "21.0", "1903.4103"]},
        "Candle(/contractMarket/limitCandle:XBTUSDTM_1min, sequence=None, {TIMES}, interval='1min', "
        "start=2024-11-18T02:50:00Z, open=90638.6, close=90638.5, high=90638.7, low=90638.4, volume=None, "
        "turnover=1903.4103)",
    ),
    "/contractMarket/snapshot:XBTUSDTM": (
        {"volume": 5834.46, "lastPrice": 3551},
        "Stats24h(/contractMarket/snapshot:XBTUSDTM, sequence=None, {TIMES}, last_price=3551, high=None, low=None, "
        "volume=5834.46, turnover=None, change=None, change_rate=None)",
    ),
}
"""Wire topic -> `data` without its time -> what a log shows."""
TIMES = "exchange_time=2025-06-15T15:06:40.001000Z, received_time=2025-06-15T15:06:40.012345Z"


@pytest.mark.parametrize("wire", LOGGED)
def test_a_log_line_shows_the_topic_times_as_times_and_contracts_as_contracts(wire: str) -> None:
    """Sizes of the spot market are amounts, without a word; of a book the best level of each side stands for all."""
    data, expected = LOGGED[wire]
    stream = parse_topic(wire)
    message = {"data": {"symbol": stream.symbol, **data, **times_of(stream)}}
    made = stream.channel.decoders[Decimal](message, stream, 1_750_000_000_012_345_678)
    assert repr(made) == expected.replace("{TIMES}", TIMES)
    assert str(made) == f"{made}" == repr(made)


def test_a_log_line_of_a_book_shows_its_best_levels() -> None:
    shown = repr(OrderBook(**{**dict(RECORDS)[OrderBook], "topic": topic("book_delta", "BTC-USDT")}))
    assert shown.startswith("OrderBook(/market/level2:BTC-USDT, sequence=7, exchange_time=2025-06-15T15:06:40Z, ")
    assert shown.endswith("bids=[2 x 3 contracts, 1 more], asks=[1 x 4 contracts, 1 more])")


def times_of(stream: Any) -> dict[str, Any]:
    name, _, unit = stream.channel.time.partition(", ")
    return {name: 1_750_000_000_001_000_000 // (1 if unit.startswith("ns") else 1_000_000)}


@records
def test_a_log_line_leaves_out_what_was_left_out(record: Any, values: dict[str, Any]) -> None:
    shown = repr(record(**values))
    assert shown.startswith(f"{record.__name__}({values['topic']}, sequence=7, ")
    assert "gap_before" not in shown
    assert "symbol=" not in shown
    gap = Gap(values["topic"], GapCause.RECONNECT, None, None, 1, 2)
    assert f"gap_before={gap!r}" in repr(record(**values, gap_before=gap))
    other = record(**{**values, "symbol": "ETH-USDT"})
    assert "symbol='ETH-USDT'" in repr(other), "where the topic does not say it"


def test_a_time_that_is_not_known_is_shown_as_none() -> None:
    shown = repr(Ticker(**{**TICKER, "exchange_time_ns": None}))
    assert "exchange_time=None, received_time=2025-06-15T15:06:40.012000Z" in shown


@given(st.integers(-(2**200), 2**200))
def test_no_time_is_too_strange_to_be_shown(time_ns: int) -> None:
    values = {**dict(RECORDS)[Announcement], "funding_time_ns": time_ns}
    assert "funding_time=" in repr(Announcement(**values))


def test_a_level_and_a_change_say_their_size_in_its_unit() -> None:
    assert repr(Level(Decimal("0.10"), 3)) == "Level(0.10 x 3 contracts)"
    assert repr(Level(Decimal("1E-8"), Decimal(3))) == "Level(0.00000001 x 3)"
    assert repr(Level(Decimal(1), 0.5)) == "Level(1 x 0.5)"  # type: ignore[arg-type]
    change = BookChange(Side.BUY, Decimal("0.10"), 0, 17)
    assert repr(change) == "BookChange(buy 0.10 x 0 contracts, sequence=17)"
    assert str(change) == "buy 0.10 x 0 contracts"
