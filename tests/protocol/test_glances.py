"""What REST says of a symbol is compared with what its stream has said: only what both know, and what it owes."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from kufeed.errors import MessageRefused
from kufeed.protocol import Candle, Depth, Level, Level1, MarkPrice, Side, Ticker, Trade, UpdateType, topic
from kufeed.protocol.futures import FUTURES
from kufeed.protocol.glances import Glimpse, has_moved, read_glimpse, told_by
from kufeed.protocol.spot import SPOT

SPOT_ROW = {"symbol": "A-B", "buy": "1.1", "bestBidSize": "0.5", "sell": "1.2", "bestAskSize": "3", "last": "1.15"}
SPOT_GLIMPSE = Glimpse(1.1, 0.5, 1.2, 3.0, 1.15)


def made(kind: str, **fields: Any) -> dict[str, Any]:
    more: dict[str, Any] = {"levels": 5} if kind == "depth" else {"interval": "1min"} if kind == "candle" else {}
    return {
        "topic": topic(kind, "A-B", **more),
        "symbol": "A-B",
        "sequence": None,
        "exchange_time_ns": None,
        "received_time_ns": 1,
        **fields,
    }


def test_a_row_of_each_market() -> None:
    assert read_glimpse(SPOT_ROW, SPOT) == SPOT_GLIMPSE
    assert read_glimpse({"symbol": "XM", "lastTradePrice": 86364}, FUTURES) == Glimpse(last=86364.0)
    assert read_glimpse({}, SPOT) == Glimpse()


@pytest.mark.parametrize(
    ("row", "problem"),
    [({"buy": "x"}, "buy: "), ({"last": -1}, "last: "), ({"sell": []}, "sell: "), (None, "data: None"), ([], "data: ")],
)
def test_a_row_that_is_none_is_refused(row: Any, problem: str) -> None:
    with pytest.raises(MessageRefused, match=f"^{problem}"):
        read_glimpse(row, SPOT)


D = Decimal
SAME: list[Any] = [
    Ticker(**made("ticker"), bid=D("1.1"), bid_size=D("0.50"), ask=D("1.2"), ask_size=D(3), price=D("1.15")),
    Ticker(**made("ticker"), bid=1.1, bid_size=0.5, ask=1.2, ask_size=3.0, price=1.15),  # type: ignore[arg-type]
    Level1(**made("level1"), bid=D("1.1"), bid_size=D("0.5"), ask=D("1.2"), ask_size=D(3)),
    Depth(**made("depth"), bids=(Level(D("1.1"), D("0.5")),), asks=(Level(D("1.2"), D(3)),)),
    Depth(**made("depth"), bids=(), asks=()),
    Trade(**made("trade"), price=D("1.15"), size=D(1), side=Side.BUY, trade_id="1"),
    MarkPrice(**made("mark_price"), mark_price=D(5), index_price=None),
]


@pytest.mark.parametrize("update", SAME, ids=lambda update: type(update).__name__)
def test_what_says_the_same_has_not_moved(update: Any) -> None:
    assert not has_moved(update.kind, told_by(update), SPOT_GLIMPSE)


def test_it_says_as_much_as_it_knows() -> None:
    quotes = Glimpse(1.1, 0.5, 1.2, 3.0)
    told = [SPOT_GLIMPSE, SPOT_GLIMPSE, quotes, quotes, Glimpse(), Glimpse(last=1.15), Glimpse()]
    assert [told_by(update) for update in SAME] == told


def test_a_candle_says_the_last_price() -> None:
    numbers = dict.fromkeys(("open", "high", "low", "volume", "turnover"), D(9))
    candle = Candle(**made("candle"), interval="1min", start_ns=0, close=D("1.15"), **numbers)
    assert told_by(candle) == Glimpse(last=1.15)


def test_nothing_is_told_by_nothing() -> None:
    assert told_by(None) == Glimpse()
    assert not has_moved(UpdateType.TICKER, Glimpse(), SPOT_GLIMPSE)


@pytest.mark.parametrize("field", ["buy", "bestBidSize", "sell", "bestAskSize", "last"])
def test_each_number_counts_and_for_trades_only_the_last_price(field: str) -> None:
    later = read_glimpse({**SPOT_ROW, field: "9"}, SPOT)
    assert has_moved(UpdateType.TICKER, SPOT_GLIMPSE, later)
    assert has_moved(UpdateType.BOOK_DELTA, SPOT_GLIMPSE, later)
    assert has_moved(UpdateType.TRADE, SPOT_GLIMPSE, later) == (field == "last")
    assert has_moved(UpdateType.CANDLE, SPOT_GLIMPSE, later) == (field == "last")
