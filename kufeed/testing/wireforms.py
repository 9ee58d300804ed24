"""The form of each channel's messages, as Hypothesis draws them: what its `data` has, and which of it has to be right.

The one table behind `messages()`, `damaged_messages()` and `updates()`. Needs Hypothesis.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import strategies as st

from kufeed import UpdateType
from kufeed.testing.market import decimal_text
from kufeed.testing.network import EPOCH_NS

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import DrawFn, SearchStrategy

    from kufeed import Topic

Path = tuple[str | int, ...]
"""Where something stands in `data`: names and places, from outside in."""
Data = dict[str, Any]


@attrs.frozen(kw_only=True)
class Form:
    """One form of `data`. A cause is what a client counts a message under that it refuses, most often the field's name.

    What it names may be left out of some messages, or be of an empty side of a book.
    """

    data: Callable[[str, int], SearchStrategy[Data]]
    """Of a symbol, and the seconds of a candle."""
    subjects: tuple[str, ...]
    required: tuple[str, ...]
    """Fields without which it is no message; the cause is their own name, but for `missing_as`."""
    compared: tuple[str, ...] = ()
    """Others that all messages have; nothing is read of them, but they must not be wrong."""
    missing_as: dict[str, str] = attrs.field(factory=dict)
    numbers: tuple[Path, ...]
    """Numbers that are read; the cause is the innermost name."""
    signed: tuple[str, ...] = ()
    """Those which may be negative."""
    times: tuple[Path, ...]
    rows: tuple[Path, ...] = ()
    """Lists of a certain length, and texts of so many parts."""
    side: Path | None = None
    """Where it says `buy` or `sell`."""


# What numbers and times look like

sequences = st.integers(1, 2**53)
contracts = st.integers(1, 10**6)
moments = st.integers(0, 86_400_000).map(lambda after: EPOCH_NS // 1_000_000 + after)
"""Milliseconds since the epoch, within the day that begins the virtual clock."""
nanoseconds = st.builds(lambda moment, rest: moment * 1_000_000 + rest, moments, st.integers(0, 999_999))
amounts = st.builds(decimal_text, st.integers(1, 10**12), st.integers(0, 8))
"""Prices and sizes as texts."""
numbers = amounts.map(float)
rates = st.integers(-3000, 3000).map(lambda millionths: millionths / 1_000_000)
words = st.from_regex(r"[0-9a-f]{1,24}", fullmatch=True)
sides = st.sampled_from(["buy", "sell"])


@st.composite
def quotes(draw: DrawFn) -> tuple[str, str]:
    """A bid and an ask above it."""
    bid, spread, decimals = draw(st.integers(1, 10**9)), draw(st.integers(1, 100)), draw(st.integers(0, 8))
    return decimal_text(bid, decimals), decimal_text(bid + spread, decimals)


@st.composite
def books(draw: DrawFn, size: SearchStrategy[Any]) -> dict[str, list[list[Any]]]:
    """The top of a book, best first on both sides, either of which may be empty."""
    decimals, middle = draw(st.integers(0, 8)), draw(st.integers(1000, 10**9))
    found: dict[str, list[list[Any]]] = {}
    for name, direction in (("bids", -1), ("asks", 1)):
        steps = draw(st.lists(st.integers(1, 100), max_size=5))
        prices = [middle + direction * sum(steps[: number + 1]) for number in range(len(steps))]
        found[name] = [[decimal_text(price, decimals), draw(size)] for price in prices]
    return found


@st.composite
def candle_rows(draw: DrawFn, time_ns: int, seconds: int) -> list[str]:
    """Start, open, close, high, low, volume and turnover of the candle of *time_ns*."""
    decimals = draw(st.integers(0, 8))
    low, opened, closed, high = sorted(draw(st.lists(st.integers(1, 10**9), min_size=4, max_size=4)))
    if draw(st.booleans()):
        opened, closed = closed, opened
    prices = [decimal_text(price, decimals) for price in (opened, closed, high, low)]
    start = time_ns // 1_000_000_000 // seconds * seconds
    return [str(start), *prices, draw(amounts), draw(amounts)]


# Spot


@st.composite
def _spot_ticker(draw: DrawFn, symbol: str, seconds: int) -> Data:
    bid, ask = draw(quotes())
    return {
        "bestAsk": ask,
        "bestAskSize": draw(amounts),
        "bestBid": bid,
        "bestBidSize": draw(amounts),
        "price": draw(st.sampled_from([bid, ask])),
        "sequence": str(draw(sequences)),
        "size": draw(amounts),
        "time": draw(moments),
    }


@st.composite
def _spot_trade(draw: DrawFn, symbol: str, seconds: int) -> Data:
    sequence = str(draw(sequences))
    return {
        "makerOrderId": draw(words),
        "price": draw(amounts),
        "sequence": sequence,
        "side": draw(sides),
        "size": draw(amounts),
        "symbol": symbol,
        "takerOrderId": draw(words),
        "time": str(draw(nanoseconds)),
        "tradeId": sequence,
        "type": "match",
    }


@st.composite
def _level1(draw: DrawFn, symbol: str, seconds: int) -> Data:
    bid, ask = draw(quotes())
    return {"bids": [bid, draw(amounts)], "asks": [ask, draw(amounts)], "timestamp": draw(moments)}


@st.composite
def _spot_depth(draw: DrawFn, symbol: str, seconds: int) -> Data:
    return {**draw(books(amounts)), "timestamp": draw(moments)}


@st.composite
def _spot_delta(draw: DrawFn, symbol: str, seconds: int) -> Data:
    first = draw(sequences)
    changes = draw(st.lists(st.tuples(sides, amounts, st.just("0") | amounts), min_size=1, max_size=4))
    rows: dict[str, list[list[str]]] = {"asks": [], "bids": []}
    for number, (side, price, size) in enumerate(changes, start=first):
        rows["asks" if side == "sell" else "bids"].append([price, size, str(number)])
    return {
        "changes": rows,
        "sequenceEnd": first + len(changes) - 1,
        "sequenceStart": first,
        "symbol": symbol,
        "time": draw(moments),
    }


@st.composite
def _spot_candle(draw: DrawFn, symbol: str, seconds: int) -> Data:
    time_ns = draw(nanoseconds)
    return {"symbol": symbol, "candles": draw(candle_rows(time_ns, seconds)), "time": time_ns}


@st.composite
def _spot_stats(draw: DrawFn, symbol: str, seconds: int) -> Data:
    prices = {name: draw(numbers) for name in ("high", "lastTradedPrice", "low", "vol", "volValue")}
    changes = {name: draw(rates) for name in ("changePrice", "changeRate")}
    inner = {**changes, "datetime": draw(moments), **prices, "symbol": symbol}
    return {"sequence": str(draw(sequences)), "data": inner}


@st.composite
def _indicator(draw: DrawFn, symbol: str, seconds: int) -> Data:
    return {"symbol": symbol, "granularity": 1000, "timestamp": draw(moments), "value": draw(numbers)}


@st.composite
def _call_auction(draw: DrawFn, symbol: str, seconds: int) -> Data:
    low, high = draw(quotes())
    return {
        "symbol": symbol,
        "estimatedPrice": draw(amounts),
        "estimatedSize": draw(amounts),
        **{f"{side}OrderRangeLowPrice": low for side in ("sell", "buy")},
        **{f"{side}OrderRangeHighPrice": high for side in ("sell", "buy")},
        "time": draw(moments),
    }


# Futures


@st.composite
def _futures_ticker(draw: DrawFn, symbol: str, seconds: int) -> Data:
    bid, ask = draw(quotes())
    return {
        "symbol": symbol,
        "sequence": draw(sequences),
        "bestBidSize": draw(contracts),
        "bestBidPrice": bid,
        "bestAskPrice": ask,
        "bestAskSize": draw(contracts),
        "ts": draw(nanoseconds),
    }


@st.composite
def _futures_trade(draw: DrawFn, symbol: str, seconds: int) -> Data:
    sequence = draw(sequences)
    return {
        "symbol": symbol,
        "sequence": sequence,
        "side": draw(sides),
        "size": draw(contracts),
        "price": draw(amounts),
        "takerOrderId": draw(words),
        "makerOrderId": draw(words),
        "tradeId": str(sequence),
        "ts": draw(nanoseconds),
    }


@st.composite
def _futures_depth(draw: DrawFn, symbol: str, seconds: int) -> Data:
    sides, moment = draw(books(contracts)), draw(moments)
    return {**sides, "sequence": draw(sequences), "timestamp": moment, "ts": moment}


@st.composite
def _futures_delta(draw: DrawFn, symbol: str, seconds: int) -> Data:
    change = f"{draw(amounts)},{draw(sides)},{draw(st.just(0) | contracts)}"
    return {"sequence": draw(sequences), "change": change, "timestamp": draw(moments)}


@st.composite
def _mark_and_index(draw: DrawFn, symbol: str, seconds: int) -> Data:
    return {
        "markPrice": draw(numbers),
        "indexPrice": draw(numbers),
        "granularity": 1000,
        "timestamp": draw(moments),
    }


@st.composite
def _funding(draw: DrawFn, symbol: str, seconds: int) -> Data:
    granularity = draw(st.sampled_from([60_000, 28_800_000]))
    return {"granularity": granularity, "fundingRate": draw(rates), "timestamp": draw(moments)}


@st.composite
def _futures_candle(draw: DrawFn, symbol: str, seconds: int) -> Data:
    moment = draw(moments)
    return {
        "symbol": symbol,
        "candles": draw(candle_rows(moment * 1_000_000, seconds)),
        "time": moment,
    }


@st.composite
def _futures_stats(draw: DrawFn, symbol: str, seconds: int) -> Data:
    prices = {name: draw(numbers) for name in ("highPrice", "lastPrice", "lowPrice", "turnover", "volume")}
    changes = {name: draw(rates) for name in ("priceChg", "priceChgPct")}
    return {**prices, **changes, "symbol": symbol, "ts": draw(nanoseconds)}


@st.composite
def _announcement(draw: DrawFn, symbol: str, seconds: int) -> Data:
    moment = draw(moments)
    ahead = draw(st.integers(0, 600_000))
    return {"symbol": symbol, "fundingTime": moment + ahead, "fundingRate": draw(rates), "timestamp": moment}


def _plain(*names: str) -> tuple[Path, ...]:
    return tuple((name,) for name in names)


_DEPTH_ROWS: tuple[Path, ...] = (("bids", 0), ("asks", 0))
_DEPTH_NUMBERS: tuple[Path, ...] = tuple((side, 0, place) for side in ("bids", "asks") for place in (0, 1))
_SPOT_DEPTH = Form(
    data=_spot_depth,
    subjects=("level2",),
    required=("bids", "asks", "timestamp"),
    numbers=(*_DEPTH_NUMBERS, ("timestamp",)),
    times=(("timestamp",),),
    rows=_DEPTH_ROWS,
)
_SPOT_INDICATOR = Form(
    data=_indicator,
    subjects=("tick",),
    required=("symbol", "timestamp", "value"),
    numbers=_plain("timestamp", "value"),
    times=(("timestamp",),),
)
_CONTRACT_PRICES = Form(
    data=_mark_and_index,
    subjects=("mark.index.price",),
    required=("markPrice", "indexPrice", "timestamp"),
    numbers=_plain("markPrice", "indexPrice", "timestamp"),
    times=(("timestamp",),),
)
_AUCTION_PRICES = (
    *("estimatedPrice", "estimatedSize", "sellOrderRangeLowPrice", "sellOrderRangeHighPrice"),
    *("buyOrderRangeLowPrice", "buyOrderRangeHighPrice"),
)
_DAY_OF_CONTRACT = ("volume", "turnover", "lastPrice", "lowPrice", "highPrice", "priceChg", "priceChgPct")
_DAY_OF_PAIR = ("lastTradedPrice", "high", "low", "vol", "volValue", "changePrice", "changeRate")


FORMS: dict[tuple[str, UpdateType], Form] = {
    ("spot", UpdateType.TICKER): Form(
        data=_spot_ticker,
        subjects=("trade.ticker",),
        required=("sequence", "bestBid", "bestBidSize", "bestAsk", "bestAskSize", "price", "size"),
        numbers=_plain("sequence", "bestBid", "bestBidSize", "bestAsk", "bestAskSize", "price", "size", "time"),
        times=(("time",),),
    ),
    ("spot", UpdateType.TRADE): Form(
        data=_spot_trade,
        subjects=("trade.l3match",),
        required=("symbol", "sequence", "price", "size", "side", "tradeId", "time"),
        numbers=_plain("sequence", "price", "size", "time"),
        times=(("time",),),
        side=("side",),
    ),
    ("spot", UpdateType.LEVEL1): Form(
        data=_level1,
        subjects=("level1",),
        required=("bids", "asks", "timestamp"),
        numbers=(("bids", 0), ("bids", 1), ("asks", 0), ("asks", 1), ("timestamp",)),
        times=(("timestamp",),),
        rows=_plain("bids", "asks"),
    ),
    ("spot", UpdateType.DEPTH): _SPOT_DEPTH,
    ("spot", UpdateType.CALL_AUCTION_DEPTH): _SPOT_DEPTH,
    ("spot", UpdateType.BOOK_DELTA): Form(
        data=_spot_delta,
        subjects=("trade.l2update",),
        required=("symbol", "sequenceStart", "sequenceEnd", "changes"),
        numbers=(
            *_plain("sequenceStart", "sequenceEnd", "time"),
            *(("changes", side, 0, place) for side in ("bids", "asks") for place in (0, 1, 2)),
        ),
        times=(("time",),),
        rows=(("changes", "bids", 0), ("changes", "asks", 0)),
    ),
    ("spot", UpdateType.CANDLE): Form(
        data=_spot_candle,
        subjects=("trade.candles.update", "trade.candles.add"),
        required=("symbol", "candles", "time"),
        numbers=(("time",), *(("candles", place) for place in range(7))),
        times=(("time",),),
        rows=(("candles",),),
    ),
    ("spot", UpdateType.STATS_24H): Form(
        data=_spot_stats,
        subjects=("trade.snapshot",),
        required=("sequence", "data"),
        numbers=(("sequence",), ("data", "datetime"), *(("data", name) for name in _DAY_OF_PAIR)),
        signed=("changePrice", "changeRate"),
        times=(("data", "datetime"),),
    ),
    ("spot", UpdateType.MARK_PRICE): _SPOT_INDICATOR,
    ("spot", UpdateType.INDEX_PRICE): _SPOT_INDICATOR,
    ("spot", UpdateType.CALL_AUCTION): Form(
        data=_call_auction,
        subjects=("callauction.callauctionData",),
        required=("symbol", "time"),
        numbers=_plain(*_AUCTION_PRICES, "time"),
        times=(("time",),),
    ),
    ("futures", UpdateType.TICKER): Form(
        data=_futures_ticker,
        subjects=("tickerV2",),
        required=("symbol", "bestBidPrice", "bestBidSize", "bestAskPrice", "bestAskSize", "ts"),
        numbers=_plain("sequence", "bestBidPrice", "bestBidSize", "bestAskPrice", "bestAskSize", "ts"),
        times=(("ts",),),
    ),
    ("futures", UpdateType.TRADE): Form(
        data=_futures_trade,
        subjects=("match",),
        required=("symbol", "sequence", "price", "size", "side", "tradeId", "ts"),
        missing_as={"ts": "time"},  # which messages of 2019 have in its place
        numbers=_plain("sequence", "price", "size", "ts"),
        times=(("ts",),),
        side=("side",),
    ),
    ("futures", UpdateType.DEPTH): Form(
        data=_futures_depth,
        subjects=("level2",),
        required=("bids", "asks"),
        numbers=(*_DEPTH_NUMBERS, *_plain("sequence", "timestamp")),
        times=(("timestamp",),),
        rows=_DEPTH_ROWS,
    ),
    ("futures", UpdateType.BOOK_DELTA): Form(
        data=_futures_delta,
        subjects=("level2",),
        required=("sequence", "change", "timestamp"),
        numbers=_plain("sequence", "timestamp"),
        times=(("timestamp",),),
        rows=(("change",),),
        side=("change",),
    ),
    ("futures", UpdateType.MARK_PRICE): _CONTRACT_PRICES,
    ("futures", UpdateType.INDEX_PRICE): _CONTRACT_PRICES,
    ("futures", UpdateType.FUNDING_RATE): Form(
        data=_funding,
        subjects=("funding.rate",),
        required=("granularity", "fundingRate", "timestamp"),
        numbers=_plain("granularity", "fundingRate", "timestamp"),
        signed=("fundingRate",),
        times=(("timestamp",),),
    ),
    ("futures", UpdateType.CANDLE): Form(
        data=_futures_candle,
        subjects=("candle.stick",),
        required=("symbol", "candles", "time"),
        numbers=(("time",), *(("candles", place) for place in (0, 1, 2, 3, 4, 6))),  # the volume is not read
        times=(("time",),),
        rows=(("candles",),),
    ),
    ("futures", UpdateType.STATS_24H): Form(
        data=_futures_stats,
        subjects=("snapshot.24h",),
        required=("ts",),
        compared=("symbol",),
        numbers=_plain(*_DAY_OF_CONTRACT, "ts"),
        signed=("priceChg", "priceChgPct"),
        times=(("ts",),),
    ),
    ("futures", UpdateType.ANNOUNCEMENT): Form(
        data=_announcement,
        subjects=("funding.begin", "funding.end"),
        required=("symbol", "fundingTime", "fundingRate", "timestamp"),
        numbers=_plain("fundingTime", "fundingRate", "timestamp"),
        signed=("fundingRate",),
        times=(("fundingTime",), ("timestamp",)),
    ),
}
"""By market and UpdateType."""


def form_of(topic: Topic) -> Form:
    """The form of the messages of *topic*."""
    return FORMS[topic.channel.market.name, topic.kind]


@st.composite
def frames(draw: DrawFn, topic: Topic, *, symbols: SearchStrategy[str]) -> dict[str, Any]:
    """A message of *topic*; of one of *symbols* where the topic is that of all."""
    form = form_of(topic)
    symbol = draw(symbols) if topic.channel.symbol_in_subject else topic.symbol
    subject = symbol if topic.channel.symbol_in_subject else draw(st.sampled_from(form.subjects))
    seconds = topic.channel.intervals[topic.interval] if topic.channel.intervals and topic.interval else 0
    data = draw(form.data(symbol, seconds))
    return {"topic": str(topic), "type": "message", "subject": subject, "data": data}


def written(message: object) -> str:
    """JSON as the exchange writes it."""
    return json.dumps(message, separators=(",", ":"))
