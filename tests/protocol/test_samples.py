"""Every message that KuCoin was recorded or documented to send: decoded to the right values, or survived.

What is expected is derived here from the JSON text and the tables of PROTOCOL.md, not by kufeed's decoders.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import pytest
import ujson

from kufeed._lateness import Lateness
from kufeed._refusals import Refusals
from kufeed._streams import Routes, Stream, stage
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
    IndexPrice,
    Level,
    Level1,
    MarkPrice,
    Side,
    Stats24h,
    Ticker,
    Topic,
    Trade,
    Update,
)
from kufeed.protocol.session import Acked, Failed, Rejected, Session, Slowed, Unknown, Welcomed

from .. import samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..samples import Sample

    Spec = tuple[Callable[[Any], Any], tuple[str, ...]]

NOW = 1_700_000_000_123_456_789


def price(raw: Any) -> Decimal:
    """Exact: the text as it stands, or the shortest text of an old message's JSON number."""
    return Decimal(raw)


def milliseconds(raw: Any) -> int:
    assert len(str(raw)) == 13
    return int(raw) * 1_000_000


def nanoseconds(raw: Any) -> int:
    assert len(str(raw)) == 19
    return int(raw)


def number(raw: Any) -> Decimal:
    """A JSON number of statistics, which went through a double at the exchange: the shortest text that means it."""
    return Decimal(raw) if isinstance(raw, str) else Decimal(repr(float(raw)))


def depth_time(raw: Any) -> int:
    return nanoseconds(raw) if len(str(raw)) == 19 else milliseconds(raw)


def side_of(book: list[list[Any]], size: Callable[[Any], Any], *, best_first: Callable[..., Any]) -> tuple[Level, ...]:
    """The levels of one side, whose order on the wire is not to be relied on (section 7)."""
    rows = {Decimal(price): size(amount) for price, amount in book}
    assert len(rows) == len(book)
    ordered = []
    while rows:
        ordered.append(best_first(rows))
        rows_of = rows.pop(ordered[-1])
        ordered[-1] = Level(ordered[-1], rows_of)
    return tuple(ordered)


def bids(size: Callable[[Any], Any]) -> Spec:
    return (partial(side_of, size=size, best_first=max), ("bids",))


def asks(size: Callable[[Any], Any]) -> Spec:
    return (partial(side_of, size=size, best_first=min), ("asks",))


def spot_changes(raw: dict[str, list[list[str]]]) -> tuple[BookChange, ...]:
    sides = ((Side.BUY, "bids"), (Side.SELL, "asks"))
    return tuple(BookChange(side, Decimal(p), Decimal(s), int(n)) for side, key in sides for p, s, n in raw[key])


def futures_change(data: dict[str, Any]) -> tuple[BookChange, ...]:
    price, side, size = data["change"].split(",")
    return (BookChange(Side(side), Decimal(price), int(size), data["sequence"]),)


def element(position: int, convert: Callable[[Any], Any]) -> Spec:
    return (lambda candle: convert(candle[position]), ("candles",))


def seconds(raw: str) -> int:
    assert len(raw) == 10
    return int(raw) * 1_000_000_000


def inner(key: str, convert: Callable[[Any], Any]) -> Spec:
    return (lambda data: convert(data[key]), ("data",))


ALL_OF_IT = ("",)
"""In place of a name: the whole of `data`."""
NONE: Spec = (str, ())
"""Not in this channel's messages."""
CANDLE: dict[str, Spec] = {
    "sequence": NONE,
    "start_ns": element(0, seconds),
    "open": element(1, price),
    "close": element(2, price),
    "high": element(3, price),
    "low": element(4, price),
    "turnover": element(6, price),
}
SPOT_DEPTH: dict[str, Spec] = {
    "sequence": NONE,
    "exchange_time_ns": (milliseconds, ("timestamp",)),
    "bids": bids(Decimal),
    "asks": asks(Decimal),
}
FUTURES_DEPTH: dict[str, Spec] = {
    "sequence": (int, ("sequence",)),
    "exchange_time_ns": (depth_time, ("timestamp", "ts")),
    "bids": bids(int),
    "asks": asks(int),
}
INDICATOR: dict[str, Spec] = {"sequence": NONE, "exchange_time_ns": (milliseconds, ("timestamp",))}
CALL_AUCTION_PRICES = {
    "price": "estimatedPrice",
    "size": "estimatedSize",
    "sell_low": "sellOrderRangeLowPrice",
    "sell_high": "sellOrderRangeHighPrice",
    "buy_low": "buyOrderRangeLowPrice",
    "buy_high": "buyOrderRangeHighPrice",
}
FUNDING: dict[str, Spec] = {
    **INDICATOR,
    "rate": (price, ("fundingRate",)),
    "predicted": (lambda granularity: granularity == 60_000, ("granularity",)),
    # 60000 is a predicted rate, anything else the interval of a settled one (section 7).
    "interval": (lambda granularity: None if granularity == 60_000 else granularity / 1000, ("granularity",)),
    "next_time_ns": (
        lambda data: None if data["granularity"] == 60_000 else milliseconds(data["timestamp"] + data["granularity"]),
        ALL_OF_IT,
    ),
}
ANNOUNCEMENT: dict[str, Spec] = {
    **INDICATOR,
    "funding_time_ns": (milliseconds, ("fundingTime",)),
    "rate": (price, ("fundingRate",)),
}

# PROTOCOL.md, sections 5 (units), 6 and 7: attribute of the record -> (what it is, its names in `data`, best first).
# `matchSize` and `time` are how the futures documents of 2019 call them; `size` is then what is left of the order.
BUILT: dict[tuple[str, str], tuple[type[Update], dict[str, Spec]]] = {
    ("/market/ticker", "trade.ticker"): (
        Ticker,
        {
            "sequence": (int, ("sequence",)),
            "exchange_time_ns": (milliseconds, ("time", "Time")),
            "bid": (price, ("bestBid",)),
            "bid_size": (price, ("bestBidSize",)),
            "ask": (price, ("bestAsk",)),
            "ask_size": (price, ("bestAskSize",)),
            "price": (price, ("price",)),
            "size": (price, ("size",)),
        },
    ),
    ("/market/match", "trade.l3match"): (
        Trade,
        {
            "sequence": (int, ("sequence",)),
            "exchange_time_ns": (nanoseconds, ("time",)),
            "price": (price, ("price",)),
            "size": (price, ("size",)),
            "side": (Side, ("side",)),
            "trade_id": (str, ("tradeId",)),
        },
    ),
    ("/contractMarket/tickerV2", "tickerV2"): (
        Ticker,
        {
            "sequence": (int, ("sequence",)),
            "exchange_time_ns": (nanoseconds, ("ts",)),
            "bid": (price, ("bestBidPrice",)),
            "bid_size": (int, ("bestBidSize",)),
            "ask": (price, ("bestAskPrice",)),
            "ask_size": (int, ("bestAskSize",)),
            "price": (price, ()),
            "size": (int, ()),
        },
    ),
    ("/contractMarket/execution", "match"): (
        Trade,
        {
            "sequence": (int, ("sequence",)),
            "exchange_time_ns": (nanoseconds, ("ts", "time")),
            "price": (price, ("price",)),
            "size": (int, ("matchSize", "size")),
            "side": (Side, ("side",)),
            "trade_id": (str, ("tradeId",)),
        },
    ),
    ("/spotMarket/level1", "level1"): (
        Level1,
        {
            **INDICATOR,
            "bid": (lambda flat: Decimal(flat[0]), ("bids",)),
            "bid_size": (lambda flat: Decimal(flat[1]), ("bids",)),
            "ask": (lambda flat: Decimal(flat[0]), ("asks",)),
            "ask_size": (lambda flat: Decimal(flat[1]), ("asks",)),
        },
    ),
    ("/spotMarket/level2Depth5", "level2"): (Depth, SPOT_DEPTH),
    ("/spotMarket/level2Depth50", "level2"): (Depth, SPOT_DEPTH),
    ("/callauction/level2Depth50", "level2"): (CallAuctionDepth, SPOT_DEPTH),
    ("/market/level2", "trade.l2update"): (
        BookDelta,
        {
            "sequence": (int, ("sequenceEnd",)),
            "first_sequence": (int, ("sequenceStart",)),
            "exchange_time_ns": (milliseconds, ("time",)),
            "changes": (spot_changes, ("changes",)),
        },
    ),
    **dict.fromkeys(
        [("/market/candles", "trade.candles.update"), ("/market/candles", "trade.candles.add")],
        (Candle, {**CANDLE, "exchange_time_ns": (nanoseconds, ("time",)), "volume": element(5, price)}),
    ),
    ("/market/snapshot", "trade.snapshot"): (
        Stats24h,
        {
            "sequence": (int, ("sequence",)),
            "exchange_time_ns": inner("datetime", milliseconds),
            "last_price": inner("lastTradedPrice", number),
            "high": inner("high", number),
            "low": inner("low", number),
            "volume": inner("vol", number),
            "turnover": inner("volValue", number),
            "change": inner("changePrice", number),
            "change_rate": inner("changeRate", number),
        },
    ),
    ("/callauction/callauctionData", "callauction.callauctionData"): (
        CallAuction,
        {
            "sequence": NONE,
            "exchange_time_ns": (milliseconds, ("time",)),
            **{name: (price, (key,)) for name, key in CALL_AUCTION_PRICES.items()},
        },
    ),
    ("/indicator/markPrice", "tick"): (
        MarkPrice,
        {**INDICATOR, "mark_price": (number, ("value",)), "index_price": NONE},
    ),
    ("/indicator/index", "tick"): (IndexPrice, {**INDICATOR, "index_price": (number, ("value",))}),
    ("/contractMarket/level2Depth5", "level2"): (Depth, FUTURES_DEPTH),
    ("/contractMarket/level2Depth50", "level2"): (Depth, FUTURES_DEPTH),
    ("/contractMarket/level2", "level2"): (
        BookDelta,
        {
            "sequence": (int, ("sequence",)),
            "first_sequence": (int, ("sequence",)),
            "exchange_time_ns": (milliseconds, ("timestamp",)),
            "changes": (futures_change, ALL_OF_IT),
        },
    ),
    ("/contract/instrument", "mark.index.price"): (
        MarkPrice,
        {**INDICATOR, "mark_price": (price, ("markPrice",)), "index_price": (price, ("indexPrice",))},
    ),
    ("/contract/instrument", "funding.rate"): (FundingRate, FUNDING),
    ("/contractMarket/limitCandle", "candle.stick"): (
        Candle,
        {**CANDLE, "exchange_time_ns": (milliseconds, ("time",)), "volume": NONE},
    ),
    ("/contractMarket/snapshot", "snapshot.24h"): (
        Stats24h,
        {
            "sequence": NONE,
            "exchange_time_ns": (nanoseconds, ("ts",)),
            "last_price": (number, ("lastPrice",)),
            "high": (number, ("highPrice",)),
            "low": (number, ("lowPrice",)),
            "volume": (number, ("volume",)),
            "turnover": (number, ("turnover",)),
            "change": (number, ("priceChg",)),
            "change_rate": (number, ("priceChgPct",)),
        },
    ),
    ("/contract/announcement", "funding.begin"): (Announcement, ANNOUNCEMENT),
    ("/contract/announcement", "funding.end"): (Announcement, ANNOUNCEMENT),
}
# The second record of one message: a contract's index price comes with its mark price.
ALSO: dict[tuple[str, str], tuple[type[Update], dict[str, Spec]]] = {
    ("/contract/instrument", "mark.index.price"): (IndexPrice, {**INDICATOR, "index_price": (price, ("indexPrice",))}),
}


def read(sample: Sample) -> Any:
    """The JSON of *sample*, in which no number has gone through a float."""
    return json.loads(sample.text, parse_float=Decimal)


def is_built(sample: Sample) -> bool:
    message = read(sample)
    path, _, argument = str(message.get("topic")).partition(":")
    if path == "/market/snapshot" and "-" not in argument:
        return False  # of a whole market: one topic for many symbols, left out
    return (path, message.get("subject")) in BUILT


def wanted_by(sample: Sample) -> list[Topic]:
    """The topics of what is expected of *sample*, in the order of the table's rows."""
    message = read(sample)
    path, _, argument = message["topic"].partition(":")
    symbol, _, interval = (argument or message["data"]["symbol"]).partition("_")
    rows = [row for row in CHANNELS if row.path == path and message["subject"] in row.subjects]
    return [Topic(row, symbol, interval or None) for row in rows]


def rights(sample: Sample) -> list[tuple[Topic, type[Update], dict[str, Spec]]]:
    message = read(sample)
    key = (message["topic"].partition(":")[0], message["subject"])
    expected = [table[key] for table in (BUILT, ALSO) if key in table]
    return [(topic, *row) for topic, row in zip(wanted_by(sample), expected, strict=True)]


def assert_right(update: Any, sample: Sample, number: int = 0) -> None:
    message = read(sample)
    path, _, argument = message["topic"].partition(":")
    symbol, _, interval = (argument or message["data"]["symbol"]).partition("_")
    topic, record, fields = rights(sample)[number]
    texts = {"event": message["subject"]} if record is Announcement else {"interval": interval} if interval else {}
    assert type(update) is record, sample
    assert {field.name for field in attrs.fields(record)} == {
        *fields,
        *texts,
        "topic",
        "symbol",
        "received_time_ns",
        "gap_before",
        "late",
        "misdated",
    }
    assert {name: getattr(update, name) for name in texts} == texts, sample
    assert update.topic == topic, sample
    wire = message["topic"] if argument else f"{path}:{symbol}"
    assert (str(update.topic), update.symbol, update.received_time_ns) == (wire, symbol, NOW), sample
    data = {**message["data"], "": message["data"]}
    for name, (convert, keys) in fields.items():
        raw = next((data[key] for key in keys if key in data), None)
        expected = None if raw is None else convert(raw)
        found = getattr(update, name)
        assert found == expected, f"{name} of {sample}"
        assert type(found) is type(expected), f"{name} of {sample}"
        if convert is price and isinstance(raw, str):
            assert format(found, "f") == raw, f"{name} of {sample}: not a digit more or less"


class Staged:
    """What `stage()` makes of messages when every topic that occurs in the samples is wanted."""

    def __init__(self, messages: Iterable[Sample], loads: Callable[[bytes], Any] = ujson.loads) -> None:
        self.updates: list[Any] = []
        self.control: list[Any] = []
        self.refusals = Refusals()
        self.touched = stage(
            [sample.text.encode() for sample in messages],
            loads=loads,
            by_wire=self._routes().by_wire,
            received_time_ns=NOW,
            on_control=self.control.append,
            refusals=self.refusals,
            lateness=Lateness(0.1),
        )

    def _routes(self) -> Routes:
        routes = Routes()
        for topic in dict.fromkeys(one for sample in samples.load() if is_built(sample) for one in wanted_by(sample)):
            stream = Stream(topic)
            stream.stagers = (self.updates.append,)
            routes.add(stream)
        return routes

    def counts(self) -> tuple[int, int, int, int]:
        refused = sum(self.refusals.causes.values())
        return len(self.updates), len(self.control), self.refusals.unwanted, refused


@pytest.fixture(scope="module")
def messages() -> list[Sample]:
    return samples.load()


def test_the_samples_are_all_there(messages: list[Sample]) -> None:
    """Each channel built here was seen in recorded or documented messages: this many."""
    assert Counter(sample.file for sample in messages if is_built(sample)) == {
        "futures_announcement.jsonl": 3,
        "futures_instrument.jsonl": 3,
        "futures_level2.jsonl": 5,
        "futures_level2Depth5.jsonl": 4,
        "futures_level2Depth50.jsonl": 2,
        "futures_limitCandle.jsonl": 1,
        "futures_snapshot.jsonl": 4,
        "margin_indicator_index.jsonl": 2,
        "margin_indicator_mark_price.jsonl": 2,
        "spot_callauction_data.jsonl": 1,
        "spot_callauction_level2Depth50.jsonl": 1,
        "spot_candles.jsonl": 4,
        "spot_level1.jsonl": 2,
        "spot_level2.jsonl": 4,
        "spot_level2Depth5.jsonl": 3,
        "spot_level2Depth50.jsonl": 1,
        "spot_snapshot.jsonl": 2,
        "futures_execution.jsonl": 5,
        "futures_tickerV2.jsonl": 5,
        "session_spot_2021-04-23_ticker_match.jsonl": 800,
        "session_spot_2021-04-25_EQZ_COV.jsonl": 152,
        "spot_match.jsonl": 3,
        "spot_ticker.jsonl": 4,
    }
    assert len(messages) > 1_100


@pytest.mark.parametrize("loads", [ujson.loads, orjson.loads], ids=["ujson", "orjson"])
def test_every_line_of_a_channel_built_here_has_the_right_values(
    messages: list[Sample], loads: Callable[[bytes], Any]
) -> None:
    """Prices exact, sizes in their unit, times by the table of units, whatever year the message is from; in order."""
    built = [sample for sample in messages if is_built(sample)]
    staged = Staged(built, loads)
    expected = [(sample, number) for sample in built for number in range(len(rights(sample)))]
    assert staged.counts() == (len(expected), 0, 0, 0), staged.refusals
    assert len(expected) == len(built) + 2, "two messages carry a mark and an index price"
    for update, (sample, number) in zip(staged.updates, expected, strict=True):
        assert_right(update, sample, number)
    assert {stream.topic for stream in staged.touched} == {one for sample in built for one in wanted_by(sample)}
    assert {stream.topic.channel for stream in staged.touched} == set(CHANNELS), "each row of the table was tried"


def test_a_decoder_alone_says_the_same(messages: list[Sample]) -> None:
    for sample in filter(is_built, messages):
        message = ujson.loads(sample.text)
        for number, topic in enumerate(wanted_by(sample)):
            update = topic.channel.decode(message["data"], topic, NOW, message["subject"])
            assert_right(update, sample, number)


def test_every_other_line_is_survived(messages: list[Sample]) -> None:
    """Other channels are unwanted; what has no topic (control frames, REST answers, UTA) goes to the session. No more.

    Nothing becomes an update, nothing is called invalid, and nothing is raised.
    """
    others = [sample for sample in messages if not is_built(sample)]
    assert others
    with_topic = [sample for sample in others if "topic" in read(sample)]
    staged = Staged(others)
    assert staged.counts() == (0, len(others) - len(with_topic), len(with_topic), 0), staged.refusals
    assert staged.touched == set()
    assert staged.control == [ujson.loads(sample.text) for sample in others if sample not in with_topic]


LEFT_OUT = {
    "/market/snapshot:{market}": "one topic for all symbols of a market",
    "/market/ticker:all": "one topic for all symbols",
    "/margin/fundingBook:{ccy}": "gone",
    "/contractMarket/ticker:{s}": "deprecated",
}
"""Topics of PROTOCOL.md that are no channel here, and why."""


def test_the_channel_table_is_complete_against_the_protocol_document() -> None:
    """Sections 6 and 7 name each topic in bold. Level 3 and the legacy futures candle stand there as gone, not bold."""
    document = samples.require().parent / "PROTOCOL.md"
    text = document.read_text(encoding="utf-8")
    public = text[text.index("\n## 6. ") : text.index("\n## 8. ")]
    bold = [name for part in re.findall(r"\*\*(.+?)\*\*", public) for name in re.findall(r"`([^`]+)`", part)]
    named = {_full(name, bold[:index]) for index, name in enumerate(bold)}
    named = {name for name in named if name.startswith("/")}
    assert len(named) > 20
    assert named >= LEFT_OUT.keys()
    assert {name.partition(":")[0] for name in named - LEFT_OUT.keys()} == {channel.path for channel in CHANNELS}


def _full(name: str, before: list[str]) -> str:
    """`…level2Depth50:{s}` in full, by the topic before it."""
    return f"{before[-1].rpartition('/')[0]}/{name[1:]}" if name.startswith("…") else name


def test_a_recorded_session_reads_as_it_was_served(messages: list[Sample]) -> None:
    """Welcome, acks, then tickers and trades: each message where it belongs, the updates in their order."""
    session = [sample for sample in messages if sample.file.startswith("session_spot_2021-04-23")]
    staged = Staged(session)
    assert staged.counts() == (800, 3, 0, 0)
    assert Counter(type(update) for update in staged.updates) == {Ticker: 788, Trade: 12}
    for update, sample in zip(staged.updates, filter(is_built, session), strict=True):
        assert_right(update, sample)


def test_every_line_without_a_topic_is_survived_by_the_session(messages: list[Sample]) -> None:
    """Also those that are no answers to anything: only a refused token ends a link."""
    for sample in messages:
        session = Session(generation=1, welcome_by=10, ping_interval=18, pong_timeout=10, ack_timeout=5)
        frame = ujson.loads(sample.text)
        if "topic" in frame:
            continue
        events = session.receive(frame, 0.0)
        match frame.get("type"), frame.get("code"):
            case "welcome", _:
                assert events == [Welcomed()], sample
            case "pong", _:
                assert events == [], sample
            case "error", 401:
                assert [type(event) for event in events] == [Failed], sample
            case "error", 509 if "permits" in frame["data"]:
                assert [type(event) for event in events] == [Slowed], sample
            case _:
                assert events == [Unknown(frame)], sample
        assert not [event for event in events if isinstance(event, Acked | Rejected)], sample


def test_without_samples_ci_fails_and_everybody_else_skips(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("SAMPLES_DIR", str(tmp_path_factory.mktemp("nothing")))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"no KuCoin samples in .*nothing"):
        samples.load()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="SAMPLES_DIR names another directory"):
        samples.load()
