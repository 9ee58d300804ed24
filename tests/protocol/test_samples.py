"""Every message that KuCoin was recorded or documented to send: decoded to the right values, or not, for a reason.

What is expected is derived here from the JSON text and the tables of PROTOCOL.md, not by kufeed's decoders. `FATES` has
a row for each file of samples, and no file is without one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from decimal import Decimal
from functools import cache, partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import pytest
import ujson

from kufeed import ExchangeError
from kufeed._json import loads as strict_loads
from kufeed._lateness import Lateness
from kufeed._refusals import Refusals
from kufeed._rest import Rest
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
    parse_topic,
)
from kufeed.protocol import topic as topic_of
from kufeed.protocol.futures import FUTURES
from kufeed.protocol.session import Acked, Failed, LinkFull, Rejected, Session, Slowed, Unknown, Welcomed
from kufeed.protocol.snapshots import read_book
from kufeed.protocol.spot import SPOT
from kufeed.protocol.symbols import LISTS, read_row

from .. import samples
from ..test_rest import fetch, reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio.testing import MockClock

    from ..samples import Sample

    Spec = tuple[Callable[[Any], Any], tuple[str, ...]]

NOW = 1_700_000_000_123_456_789


def price(raw: Any) -> Decimal:
    """Exact: the text as it stands, or a JSON number, which `read` has as it stands."""
    return Decimal(raw)


def milliseconds(raw: Any) -> int:
    assert len(str(raw)) == 13
    return int(raw) * 1_000_000


def nanoseconds(raw: Any) -> int:
    assert len(str(raw)) == 19
    return int(raw)


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


ALL_TICKERS = "/market/ticker:all"
"""One topic for all symbols: which of them a message concerns stands in its subject alone (section 5)."""
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
}
ANNOUNCEMENT: dict[str, Spec] = {
    **INDICATOR,
    "funding_time_ns": (milliseconds, ("fundingTime",)),
    "rate": (price, ("fundingRate",)),
}

# PROTOCOL.md, sections 5 (units), 6 and 7: attribute of the record -> (what it is, its names in `data`, best first).
# `matchSize` and `time` are how the futures documents of 2019 call them; `size` is then what is left of the order.
BUILT: dict[tuple[str, str], tuple[type[Update], dict[str, Spec]]] = {
    **dict.fromkeys(
        [("/market/ticker", "trade.ticker"), (ALL_TICKERS, "")],
        (
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
            "last_price": inner("lastTradedPrice", price),
            "high": inner("high", price),
            "low": inner("low", price),
            "volume": inner("vol", price),
            "turnover": inner("volValue", price),
            "change": inner("changePrice", price),
            "change_rate": inner("changeRate", price),
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
        {**INDICATOR, "mark_price": (price, ("value",)), "index_price": NONE},
    ),
    ("/indicator/index", "tick"): (IndexPrice, {**INDICATOR, "index_price": (price, ("value",))}),
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
            "last_price": (price, ("lastPrice",)),
            "high": (price, ("highPrice",)),
            "low": (price, ("lowPrice",)),
            "volume": (price, ("volume",)),
            "turnover": (price, ("turnover",)),
            "change": (price, ("priceChg",)),
            "change_rate": (price, ("priceChgPct",)),
        },
    ),
    ("/contract/announcement", "funding.begin"): (Announcement, ANNOUNCEMENT),
    ("/contract/announcement", "funding.end"): (Announcement, ANNOUNCEMENT),
}
# The second record of one message: a contract's index price comes with its mark price.
ALSO: dict[tuple[str, str], tuple[type[Update], dict[str, Spec]]] = {
    ("/contract/instrument", "mark.index.price"): (IndexPrice, {**INDICATOR, "index_price": (price, ("indexPrice",))}),
}


def read(sample: Sample, parse_float: Callable[[str], Decimal] = Decimal) -> Any:
    """The JSON of *sample*, in which no number has gone through a float, unless *parse_float* says so."""
    return json.loads(sample.text, parse_float=parse_float)


def through_a_float(text: str) -> Decimal:
    """What is left of a number where the JSON decoder makes a float of it: the shortest text that means that."""
    return Decimal(repr(float(text)))


DECODERS: dict[str, tuple[Callable[[bytes], Any], Callable[[str], Decimal]]] = {
    "the feed's own": (strict_loads, Decimal),
    "ujson": (ujson.loads, through_a_float),
    "orjson": (orjson.loads, through_a_float),
}
"""Decoders of JSON, and what each makes of a number with a fraction."""


def test_some_samples_have_more_digits_than_a_float() -> None:
    """Else the tests below could not tell the decoders apart."""
    long = [sample for sample in samples.load() if is_built(sample) and read(sample) != read(sample, through_a_float)]
    assert len(long) == 3


def path_of(sample: Sample) -> str:
    """The topic up to the colon; "" where there is none."""
    return str(read(sample).get("topic", "")).partition(":")[0]


def is_built(sample: Sample) -> bool:
    message = read(sample)
    path, _, argument = str(message.get("topic")).partition(":")
    if path == "/market/snapshot" and "-" not in argument:
        return False  # of a whole market: one topic for many symbols, left out
    return key_of(message) in BUILT


def key_of(message: dict[str, Any]) -> tuple[str, Any]:
    if message.get("topic") == ALL_TICKERS:
        return ALL_TICKERS, ""
    return str(message.get("topic")).partition(":")[0], message.get("subject")


def symbol_of(message: dict[str, Any]) -> tuple[str, str | None]:
    """The symbol that *message* concerns, of candles with the interval."""
    if message["topic"] == ALL_TICKERS:
        return message["subject"], None
    symbol, _, interval = (message["topic"].partition(":")[2] or message["data"]["symbol"]).partition("_")
    return symbol, interval or None


def wanted_by(sample: Sample) -> list[Topic]:
    """The topics of what is expected of *sample*, in the order of the table's rows."""
    message = read(sample)
    path = message["topic"].partition(":")[0]
    if message["topic"] == ALL_TICKERS:
        rows = [row for row in CHANNELS if str(row) == ALL_TICKERS]
    else:
        rows = [row for row in CHANNELS if row.path == path and message["subject"] in row.subjects]
    return [Topic(row, *symbol_of(message)) for row in rows]


def subscribed_by(sample: Sample) -> list[Topic]:
    """What has to be subscribed to for it."""
    return [parse_topic(ALL_TICKERS) if topic.channel.symbol_in_subject else topic for topic in wanted_by(sample)]


def rights(sample: Sample) -> list[tuple[Topic, type[Update], dict[str, Spec]]]:
    message = read(sample)
    key = key_of(message)
    expected = [table[key] for table in (BUILT, ALSO) if key in table]
    return [(topic, *row) for topic, row in zip(wanted_by(sample), expected, strict=True)]


def assert_right(update: Any, sample: Sample, number: int = 0, parse_float: Callable[[str], Decimal] = Decimal) -> None:
    message = read(sample, parse_float)
    path, _, argument = message["topic"].partition(":")
    symbol, interval = symbol_of(message)
    topic, record, fields = rights(sample)[number]
    texts = {"event": message["subject"]} if record is Announcement else {"interval": interval} if interval else {}
    assert type(update) is record, sample
    decoded = {field.name for field in attrs.fields(record) if not field.kw_only}
    assert decoded == {*fields, *texts, "topic", "symbol", "received_time_ns"}
    assert {name: getattr(update, name) for name in texts} == texts, sample
    assert update.topic == topic, sample
    wire = message["topic"] if argument not in ("", "all") else f"{path}:{symbol}"
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


@cache
def every_topic() -> tuple[Topic, ...]:
    """What is subscribed to in these tests."""
    return tuple(dict.fromkeys(one for sample in samples.load() if is_built(sample) for one in subscribed_by(sample)))


class Staged:
    """What `stage()` makes of messages when every topic that occurs in the samples is wanted.

    Those of a recorded session follow each other; single ones of different years and authors are no stream.
    """

    def __init__(self, messages: Iterable[Sample], loads: Callable[[bytes], Any] = strict_loads) -> None:
        self.updates: list[Any] = []
        self.control: list[Any] = []
        self.refusals = Refusals()
        self.touched: set[Stream] = set()
        by_stream = groupby(messages, lambda one: one.file if one.file in RECORDED else str(one))
        for _, together in by_stream:
            self.touched |= stage(
                [sample.text.encode() for sample in together],
                loads=loads,
                by_wire=self._routes().by_wire,
                received_time_ns=NOW,
                on_control=self.control.append,
                refusals=self.refusals,
                lateness=Lateness(0.1),
            )

    def _routes(self) -> Routes:
        routes = Routes()
        for topic in every_topic():
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


# -- why a line is no update: each function fails where the reason does not hold -------------------------------------


def nothing_else(sample: Sample) -> None:
    raise AssertionError(f"{sample} was to become an update")


def private(sample: Sample) -> None:
    """Of an account: it says so, and no channel has its path."""
    message = read(sample)
    assert message.get("channelType") == "private" or "userId" in message, sample
    assert path_of(sample) not in {channel.path for channel in CHANNELS}, sample


def left_out(sample: Sample) -> None:
    """A public topic that is no channel here; `LEFT_OUT` says why."""
    path, _, argument = read(sample)["topic"].partition(":")
    if path == "/market/snapshot":
        assert "-" not in argument, sample
    assert {path, f"{path}:{argument}"} & {name.partition(":{")[0] for name in LEFT_OUT}, sample


def sent_by_clients(sample: Sample) -> None:
    assert read(sample)["type"] in ("ping", "subscribe", "unsubscribe", "openTunnel", "closeTunnel"), sample


def of_the_session(sample: Sample) -> None:
    """`test_what_a_session_makes_of_each_control_frame` has each kind."""
    assert read(sample)["type"] in ("welcome", "ack", "pong", "error"), sample


def token_reply(sample: Sample) -> None:
    """Read by `Rest.fetch_token`: `test_a_token_reply_is_read_as_it_stands`."""
    assert {*read(sample)["data"]} == {"token", "instanceServers"}, sample


def refusal_reply(sample: Sample) -> None:
    """Read by `Rest`, whatever was asked for: `test_a_refusal_by_rest_is_told_with_its_code`."""
    assert {*read(sample)} == {"code", "msg"}, sample


def no_reader(sample: Sample) -> None:
    """A REST answer that nothing in kufeed asks for: `Rest` reads tokens, books and the time, and symbols all else."""
    assert read(sample)["code"] == "200000", sample
    assert {name for name in vars(Rest) if not name.startswith("_")} == {
        "fetch_token",
        "fetch_book",
        "fetch_clock",
        "request",
    }
    data = read(sample)["data"]
    assert not isinstance(data, dict) or not {"bids", "asks"} <= {*data}, sample
    assert "multiplier" not in sample.text, sample
    assert "baseIncrement" not in sample.text, sample


def book_reply(sample: Sample) -> None:
    """Read by `Rest.fetch_book`; `test_snapshots.py` and `test_replay.py` have the values."""
    market = FUTURES if "futures" in sample.file else SPOT
    data = ujson.loads(sample.text)["data"]
    book = read_book(data, market, None, 0)
    assert (book.sequence, len(book.bids), len(book.asks)) == (
        int(data["sequence"]),
        len(data["bids"]),
        len(data["asks"]),
    )


def time_reply(sample: Sample) -> None:
    """Read by `Rest` of the spot market, before it signs."""
    assert milliseconds(read(sample)["data"]) > 0


def symbol_list(sample: Sample) -> None:
    """Read by `Feed.symbols`; `test_the_recorded_contracts_are_read` and its like have the values."""
    (market,) = (one for one in LISTS if one.name == ("spot" if "spot" in sample.file else "futures"))
    for row in ujson.loads(sample.text)["data"]:
        assert read_row(row, market, 0).symbol == row["symbol"]


def recorded(sample: Sample) -> None:
    """A recorded session has, besides its updates, control frames and the answers of REST that it asked for."""
    (book_reply if "code" in read(sample) else of_the_session)(sample)


def uta(sample: Sample) -> None:
    """Of the newer protocol (section 11), spoken on hosts that kufeed does not dial."""
    message = read(sample)
    assert "T" in message or message.get("type", "pong") == "pong", sample
    assert "topic" not in message, sample


@attrs.frozen
class Fate:
    """What becomes of the lines of a file while all topics of all samples are subscribed to, as `stage()` counts it."""

    updates: int = 0
    """Lines that became updates, whose values were right."""
    control: int = 0
    """Lines without a topic, which the session gets."""
    unwanted: int = 0
    """Lines of topics or subjects that no subscription can ask for."""
    why: Callable[[Sample], None] = nothing_else
    """Holds for each line that is no update."""


FATES = {
    "client_frames.jsonl": Fate(control=3, unwanted=4, why=sent_by_clients),
    "control_frames.jsonl": Fate(control=12, why=of_the_session),
    "futures_announcement.jsonl": Fate(3),
    "futures_candle_legacy.jsonl": Fate(unwanted=2, why=left_out),
    "futures_execution.jsonl": Fate(5),
    "futures_instrument.jsonl": Fate(3),
    "futures_level2.jsonl": Fate(5),
    "futures_level2Depth5.jsonl": Fate(4),
    "futures_level2Depth50.jsonl": Fate(2),
    "futures_limitCandle.jsonl": Fate(1),
    "futures_snapshot.jsonl": Fate(4),
    "futures_tickerV2.jsonl": Fate(5),
    "futures_ticker_v1.jsonl": Fate(unwanted=2, why=left_out),
    "legacy_level3.jsonl": Fate(unwanted=3, why=left_out),
    "margin_funding_book_legacy.jsonl": Fate(unwanted=1, why=left_out),
    "margin_indicator_index.jsonl": Fate(2),
    "margin_indicator_mark_price.jsonl": Fate(2),
    "private_futures_cross_leverage.jsonl": Fate(unwanted=2, why=private),
    "private_futures_margin_mode.jsonl": Fate(unwanted=2, why=private),
    "private_futures_orders.jsonl": Fate(unwanted=2, why=private),
    "private_futures_position.jsonl": Fate(unwanted=5, why=private),
    "private_futures_stop_orders.jsonl": Fate(unwanted=2, why=private),
    "private_futures_wallet.jsonl": Fate(unwanted=5, why=private),
    "private_margin_cross_position.jsonl": Fate(unwanted=3, why=private),
    "private_margin_isolated_position.jsonl": Fate(unwanted=2, why=private),
    "private_margin_loan_legacy.jsonl": Fate(unwanted=3, why=private),
    "private_spot_balance.jsonl": Fate(unwanted=2, why=private),
    "private_spot_orders.jsonl": Fate(unwanted=5, why=private),
    "private_spot_stop_orders.jsonl": Fate(unwanted=2, why=private),
    "rest_contracts_active.jsonl": Fate(control=2, why=symbol_list),
    "rest_errors.jsonl": Fate(control=4, why=refusal_reply),
    "rest_futures_bullet.jsonl": Fate(control=2, why=token_reply),
    "rest_futures_funding_rate.jsonl": Fate(control=1, why=no_reader),
    "rest_futures_klines.jsonl": Fate(control=1, why=no_reader),
    "rest_futures_level2_snapshot.jsonl": Fate(control=3, why=book_reply),
    "rest_futures_ticker.jsonl": Fate(control=1, why=no_reader),
    "rest_futures_trade_history.jsonl": Fate(control=1, why=no_reader),
    "rest_spot_all_tickers.jsonl": Fate(control=1, why=no_reader),
    "rest_spot_bullet.jsonl": Fate(control=1, why=token_reply),
    "rest_spot_candles.jsonl": Fate(control=1, why=no_reader),
    "rest_spot_histories.jsonl": Fate(control=1, why=no_reader),
    "rest_spot_level1.jsonl": Fate(control=1, why=no_reader),
    "rest_spot_level2_snapshot.jsonl": Fate(control=2, why=book_reply),
    "rest_spot_symbols.jsonl": Fate(control=1, why=symbol_list),
    "rest_status.jsonl": Fate(control=2, why=no_reader),
    "rest_timestamp.jsonl": Fate(control=2, why=time_reply),
    "session_spot_2021-04-23_ticker_match.jsonl": Fate(800, control=3, why=recorded),
    "session_spot_2021-04-25_EQZ_COV.jsonl": Fate(152, control=16, why=recorded),
    "spot_callauction_data.jsonl": Fate(1),
    "spot_callauction_level2Depth50.jsonl": Fate(1),
    "spot_candles.jsonl": Fate(4),
    "spot_level1.jsonl": Fate(2),
    "spot_level2.jsonl": Fate(4),
    "spot_level2Depth5.jsonl": Fate(3),
    "spot_level2Depth50.jsonl": Fate(1),
    "spot_match.jsonl": Fate(3),
    "spot_snapshot.jsonl": Fate(2, unwanted=3, why=left_out),
    "spot_ticker.jsonl": Fate(4),
    "spot_ticker_all.jsonl": Fate(3),
    "uta_balance.jsonl": Fate(control=1, why=uta),
    "uta_control.jsonl": Fate(control=4, why=uta),
    "uta_execution.jsonl": Fate(control=1, why=uta),
    "uta_kline.jsonl": Fate(control=2, why=uta),
    "uta_leverage.jsonl": Fate(control=1, why=uta),
    "uta_lw.jsonl": Fate(control=1, why=uta),
    "uta_obu.jsonl": Fate(control=7, why=uta),
    "uta_orderAll.jsonl": Fate(control=1, why=uta),
    "uta_positionAll.jsonl": Fate(control=1, why=uta),
    "uta_ticker.jsonl": Fate(control=2, why=uta),
    "uta_trade.jsonl": Fate(control=2, why=uta),
}
RECORDED = {
    "session_spot_2021-04-23_ticker_match.jsonl": {
        "/market/ticker": 788,
        "/market/match": 12,
        "welcome": 1,
        "ack": 2,
    },
    "session_spot_2021-04-25_EQZ_COV.jsonl": {
        "/market/level2": 94,
        "/market/ticker": 58,
        "welcome": 1,
        "ack": 13,
        "REST book": 2,
    },
}
"""What the recorded sessions are made of, frame by frame."""


def test_every_file_of_samples_is_accounted_for() -> None:
    assert {path.name for path in samples.require().iterdir()} == {*FATES, "INDEX.md"}


@pytest.mark.parametrize("file", FATES)
def test_every_line_becomes_the_right_update_or_none_for_a_reason(file: str) -> None:
    """Nothing that is no update is called invalid, or raises; what becomes of it is what its reason says."""
    fate, lines = FATES[file], samples.load(file)
    staged = Staged(lines)
    updates = iter(staged.updates)
    others = []
    for sample in lines:
        if is_built(sample):
            for number in range(len(rights(sample))):
                assert_right(next(updates), sample, number)
        else:
            fate.why(sample)
            others.append(sample)
    assert next(updates, None) is None
    assert len(lines) - len(others) == fate.updates
    assert (len(staged.control), staged.refusals.unwanted, staged.refusals.causes) == (fate.control, fate.unwanted, {})
    assert (staged.refusals.duplicates, staged.refusals.disordered) == (0, 0)
    assert staged.control == [json.loads(sample.text) for sample in others if "topic" not in read(sample)]
    assert fate.updates + fate.control + fate.unwanted == len(lines)


@pytest.mark.parametrize("file", RECORDED)
def test_a_recorded_session_is_counted_frame_by_frame(file: str) -> None:
    lines = samples.load(file)
    assert Counter(path_of(sample) or read(sample).get("type", "REST book") for sample in lines) == RECORDED[file]
    assert Counter(str(update.topic).partition(":")[0] for update in Staged(lines).updates) == {
        path: count for path, count in RECORDED[file].items() if path.startswith("/")
    }


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_line_of_a_channel_built_here_has_the_right_values(messages: list[Sample], decoder: str) -> None:
    """Prices exact, sizes in their unit, times by the table of units, whatever year the message is from; in order."""
    loads, parse_float = DECODERS[decoder]
    built = [sample for sample in messages if is_built(sample)]
    staged = Staged(built, loads)
    expected = [(sample, number) for sample in built for number in range(len(rights(sample)))]
    assert staged.counts() == (len(expected), 0, 0, 0), staged.refusals
    assert len(expected) == len(built) + 2, "two messages carry a mark and an index price"
    for update, (sample, number) in zip(staged.updates, expected, strict=True):
        assert_right(update, sample, number, parse_float)
    assert {stream.topic for stream in staged.touched} == {one for sample in built for one in subscribed_by(sample)}
    assert {stream.topic.channel for stream in staged.touched} == set(CHANNELS), "each row of the table was tried"


def test_a_decoder_alone_says_the_same(messages: list[Sample]) -> None:
    for sample in filter(is_built, messages):
        message = strict_loads(sample.text.encode())
        for number, topic in enumerate(wanted_by(sample)):
            update = topic.channel.decoders[Decimal](message, topic, NOW)
            assert_right(update, sample, number)


def amounts(update: Any) -> list[Any]:
    """Every size and volume of *update*."""
    named = [getattr(update, name, None) for name in ("bid_size", "ask_size", "size", "volume")]
    rows = [row for name in ("bids", "asks", "changes") for row in getattr(update, name, ())]
    return [one for one in (*named, *(row.size for row in rows)) if one is not None]


def test_the_table_says_what_sizes_count(messages: list[Sample]) -> None:
    """Contracts are whole numbers; whatever is not, is an amount of a currency."""
    found: dict[str, set[type]] = {}
    for update in Staged(messages).updates:
        types = found.setdefault(repr(update.topic.channel), set())
        types.update(type(one) for one in amounts(update))
    expected: dict[str | None, set[type]] = {
        None: set(),
        "contracts": {int},
        "base currency": {Decimal},
        "base currency; US dollars where inverse": {Decimal},
    }
    assert found == {repr(channel): expected[channel.sizes] for channel in CHANNELS}


LEFT_OUT = {
    "/market/snapshot:{market}": "never recorded, two shapes documented, and each symbol has a topic of its own",
    "/margin/fundingBook:{ccy}": "gone",
    "/contractMarket/ticker:{s}": "deprecated; tickerV2 has the quotes, execution the trades",
    "/contractMarket/candle": "gone; limitCandle is today's",
    "/spotMarket/level3": "gone",
    "/contractMarket/level3v2": "gone",
}
"""Topics of PROTOCOL.md that are no channel here, and why. Those without a symbol stand there as gone, not in bold."""


def test_the_channel_table_is_complete_against_the_protocol_document() -> None:
    """Sections 6 and 7 name each topic in bold, and those that are gone at least by their paths."""
    document = samples.require().parent / "PROTOCOL.md"
    text = document.read_text(encoding="utf-8")
    public = text[text.index("\n## 6. ") : text.index("\n## 8. ")]
    bold = [name for part in re.findall(r"\*\*(.+?)\*\*", public) for name in re.findall(r"`([^`]+)`", part)]
    named = {_full(name, bold[:index]) for index, name in enumerate(bold)}
    named = {name for name in named if name.startswith("/")}
    assert len(named) > 20
    assert named >= {name for name in LEFT_OUT if ":" in name}
    assert all(f"`{name}" in public for name in LEFT_OUT)
    built = {name if name == ALL_TICKERS else name.partition(":")[0] for name in named - LEFT_OUT.keys()}
    assert built == {str(channel) for channel in CHANNELS}


def _full(name: str, before: list[str]) -> str:
    """`…level2Depth50:{s}` in full, by the topic before it."""
    return f"{before[-1].rpartition('/')[0]}/{name[1:]}" if name.startswith("…") else name


ASKED = topic_of("book_delta", "BSV-BTC")
NOT_FOUND = "topic /market/level2:BSV-BTC is not found"
TOO_MANY_SYMBOLS = "exceed max subscription count limitation of 100 per time"
ANSWERED: list[list[Any]] = [
    [Welcomed()],
    [Welcomed()],
    [Acked((ASKED,))],
    [Acked((ASKED,))],
    [],
    [Failed],
    [Rejected(ASKED, 404, NOT_FOUND)],
    [Rejected(ASKED, 415, "type is not supported")],
    [Slowed(1.0, 509, "exceed max permits per second")],
    [Slowed(10.0, 509, "exceed max permits per 10 seconds")],
    [Rejected(ASKED, 509, TOO_MANY_SYMBOLS)],
    [LinkFull((ASKED,), 300)],
]
"""What a session that has asked for one topic makes of each line of `control_frames.jsonl`."""


def test_what_a_session_makes_of_each_control_frame() -> None:
    """Each line as the answer to what was asked: only its id, where it has one, is that of our request."""
    for sample, expected in zip(samples.load("control_frames.jsonl"), ANSWERED, strict=True):
        session = Session(generation=1, welcome_by=10, ping_interval=18, pong_timeout=10, ack_timeout=5)
        frame = ujson.loads(sample.text)
        if frame["type"] != "welcome":
            session.receive({"id": "kufeed", "type": "welcome"}, 0.0)
            session.subscribe([ASKED])
            asked = session.next_frame()
            assert asked is not None
            session.sending(asked, 0.0)
            session.sent()
            if "id" in frame:
                frame["id"] = json.loads(asked.text)["id"]
        events = session.receive(frame, 0.0)
        assert [type(event) if isinstance(event, Failed) else event for event in events] == expected, sample
        assert [str(event.error) for event in events if isinstance(event, Failed)] == (
            ["token is expired"] if expected == [Failed] else []
        )


PLACEHOLDER = "token=PUBLIC-TOKEN-EXAMPLE%3D%3D.PLACEHOLDER%3D%3D&connectId=me"
SERVERS = [
    ("rest_futures_bullet.jsonl", 1, "ws-api-futures.kucoin.com", 18.0, f"/?{PLACEHOLDER}"),
    ("rest_futures_bullet.jsonl", 2, "push.kucoin.com", 50.0, f"/endpoint?{PLACEHOLDER}"),
    ("rest_spot_bullet.jsonl", 1, "ws-api-spot.kucoin.com", 18.0, f"/?{PLACEHOLDER}"),
]


@pytest.mark.parametrize(("file", "line", "host", "ping_interval", "target"), SERVERS)
async def test_a_token_reply_is_read_as_it_stands(
    autojump_clock: MockClock, file: str, line: int, host: str, ping_interval: float, target: str
) -> None:
    """By the real reader, from the bytes of an HTTP answer: its milliseconds become seconds."""
    (sample,) = [one for one in samples.load(file) if one.line == line]
    token, _ = await fetch(reply(sample.text.encode()))
    (server,) = token.servers
    assert (server.endpoint.scheme, server.endpoint.host, server.endpoint.port) == ("wss", host, 443)
    assert (server.ping_interval, server.pong_timeout) == (ping_interval, 10.0)
    assert token.target(server, "me") == target


REFUSALS = [
    ("400100", "Invalid Parameter.", None),
    ("200002", "Too many requests in a short period of time, please retry later", 10.0),
    ("429000", "Too Many Requests", 10.0),
    ("400005", "Invalid KC-API-SIGN", None),
]


@pytest.mark.parametrize(("line", "code", "message", "wait"), [(n, *row) for n, row in enumerate(REFUSALS, 1)])
async def test_a_refusal_by_rest_is_told_with_its_code(
    autojump_clock: MockClock, line: int, code: str, message: str, wait: float | None
) -> None:
    """Also under HTTP 200 (section 9); a wait is known for the codes that ask for one."""
    (sample,) = [one for one in samples.load("rest_errors.jsonl") if one.line == line]
    with pytest.raises(ExchangeError, match=re.escape(message)) as refusal:
        await fetch(reply(sample.text.encode()))
    assert (refusal.value.code, refusal.value.retry_after) == (code, wait)


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
