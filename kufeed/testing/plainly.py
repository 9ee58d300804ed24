"""What the exchange's own messages say, read a second time: by a table, and not by the decoders that are judged."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from kufeed import BookDelta, UpdateType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kufeed import Update
    from kufeed.testing.truth import Publication

_UNITS = {"ms": 1_000_000, "s": 1_000_000_000}
"""In nanoseconds."""
_TRADE = {name: name for name in ("sequence", "price", "size", "side")} | {"trade_id": "tradeId"}
_DEPTH = {"bids": "bids", "asks": "asks", "exchange_time_ns": "timestamp ms"}
_CANDLE = {
    "start_ns": "candles.0 s",
    "open": "candles.1",
    "close": "candles.2",
    "high": "candles.3",
    "low": "candles.4",
    "turnover": "candles.6",
}
_INDICATOR_TIME = {"exchange_time_ns": "timestamp ms"}

FIELDS: dict[tuple[str, UpdateType], dict[str, str]] = {
    ("spot", UpdateType.TICKER): {
        "sequence": "sequence",
        "bid": "bestBid",
        "bid_size": "bestBidSize",
        "ask": "bestAsk",
        "ask_size": "bestAskSize",
        "price": "price",
        "size": "size",
        "exchange_time_ns": "time ms",
    },
    ("spot", UpdateType.TRADE): {**_TRADE, "exchange_time_ns": "time"},
    ("spot", UpdateType.LEVEL1): {
        "bid": "bids.0",
        "bid_size": "bids.1",
        "ask": "asks.0",
        "ask_size": "asks.1",
        "exchange_time_ns": "timestamp ms",
    },
    ("spot", UpdateType.DEPTH): _DEPTH,
    ("spot", UpdateType.BOOK_DELTA): {
        "sequence": "sequenceEnd",
        "first_sequence": "sequenceStart",
        "exchange_time_ns": "time ms",
    },
    ("spot", UpdateType.CANDLE): {**_CANDLE, "volume": "candles.5", "exchange_time_ns": "time"},
    ("spot", UpdateType.STATS_24H): {
        "sequence": "sequence",
        "last_price": "data.lastTradedPrice",
        "high": "data.high",
        "low": "data.low",
        "volume": "data.vol",
        "turnover": "data.volValue",
        "change": "data.changePrice",
        "change_rate": "data.changeRate",
        "exchange_time_ns": "data.datetime ms",
    },
    ("spot", UpdateType.MARK_PRICE): {"mark_price": "value", **_INDICATOR_TIME},
    ("spot", UpdateType.INDEX_PRICE): {"index_price": "value", **_INDICATOR_TIME},
    ("futures", UpdateType.TICKER): {
        "sequence": "sequence",
        "bid": "bestBidPrice",
        "bid_size": "bestBidSize",
        "ask": "bestAskPrice",
        "ask_size": "bestAskSize",
        "exchange_time_ns": "ts",
    },
    ("futures", UpdateType.TRADE): {**_TRADE, "exchange_time_ns": "ts"},
    ("futures", UpdateType.DEPTH): {"sequence": "sequence", **_DEPTH},
    ("futures", UpdateType.BOOK_DELTA): {
        "sequence": "sequence",
        "first_sequence": "sequence",
        "exchange_time_ns": "timestamp ms",
    },
    ("futures", UpdateType.CANDLE): {**_CANDLE, "exchange_time_ns": "time ms"},
    ("futures", UpdateType.STATS_24H): {
        "last_price": "lastPrice",
        "high": "highPrice",
        "low": "lowPrice",
        "volume": "volume",
        "turnover": "turnover",
        "change": "priceChg",
        "change_rate": "priceChgPct",
        "exchange_time_ns": "ts",
    },
    ("futures", UpdateType.MARK_PRICE): {"mark_price": "markPrice", "index_price": "indexPrice", **_INDICATOR_TIME},
    ("futures", UpdateType.INDEX_PRICE): {"index_price": "indexPrice", **_INDICATOR_TIME},
    ("futures", UpdateType.FUNDING_RATE): {"rate": "fundingRate", **_INDICATOR_TIME},
}
"""By market and kind of update, where in `data` each of its fields stands, and of times the unit; nanoseconds else."""


def misread(publication: Publication, update: Update) -> str | None:
    """What *update* does not say as *publication* does; None where it says all as that.

    What a script has played may have a form of its own, and is not looked at.
    """
    if publication.played:
        return None
    data = json.loads(publication.text, parse_float=Decimal)["data"]
    for field, place in FIELDS.get((update.topic.channel.market.name, update.kind), {}).items():
        path, _, unit = place.partition(" ")
        said: Any = data
        for name in path.split("."):
            said = said[int(name) if isinstance(said, list) else name]
        if unit:
            said = int(said) * _UNITS[unit]
        read = getattr(update, field)
        if not _is_same(read, said):
            return f"its {field} is {read}, where {said} was published"
    if isinstance(update, BookDelta) and not _is_same(sorted(update.changes), sorted(_changes(data))):
        return f"its changes are {update.changes}, where {data} was published"
    return None


def _is_same(read: Any, said: Any) -> bool:
    if isinstance(said, list | tuple):
        return len(read) == len(said) and all(map(_is_same, read, said))
    if isinstance(read, str):
        return bool(read == said)
    if isinstance(read, float):  # of a feed with `numbers=float`
        return read == float(_number(said))
    return read is not None and bool(read == _number(said))


def _number(said: object) -> Decimal:
    return Decimal(str(said))


def _changes(data: dict[str, Any]) -> Iterator[tuple[str, Decimal, Decimal, int]]:
    """Side, price, size and number of each change of a book."""
    if "change" in data:
        price, side, size = data["change"].split(",")
        yield side, _number(price), _number(size), data["sequence"]
    else:
        for name, side in (("bids", "buy"), ("asks", "sell")):
            for price, size, number in data["changes"][name]:
                yield side, _number(price), _number(size), int(number)
