"""What each kind of update looks like: a line, a row of a table, JSON; from what KuCoin was recorded to send."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import attrs
import pytest
import ujson
from rich.console import Console

from kufeed.cli._views import Board, as_json, as_line
from kufeed.protocol import Gap, GapCause, Level, OrderBook, Update, UpdateType, parse_topic, topic

MS = 1_750_000_000_000
RECEIVED = MS * 1_000_000 + 12_000_000
TIME = {"timestamp": MS, "ts": MS * 1_000_000}
STARTS_AT = str(MS // 60_000 * 60)
LINES: dict[str, tuple[dict[str, Any], str]] = {
    "/market/ticker:BTC-USDT": (
        {
            "sequence": "7",
            "price": "0.08",
            "size": "0.011",
            "bestBid": "0.049",
            "bestBidSize": "1",
            "bestAsk": None,
            "bestAskSize": None,
            "time": MS,
        },
        "BTC-USDT   ticker  bid 0.049 x 1  ask -  last 0.08  12.0 ms\n",
    ),
    "/contractMarket/tickerV2:XBTUSDTM": (
        {"bestBidSize": 713, "bestBidPrice": "88987.4", "bestAskPrice": "88987.5", "bestAskSize": 1037},
        "XBTUSDTM   ticker  bid 88987.4 x 713  ask 88987.5 x 1037  12.0 ms\n",
    ),
    "/contractMarket/execution:XBTUSDTM": (
        {"sequence": 7, "side": "sell", "size": 3, "price": "90503.9", "tradeId": "x"},
        "XBTUSDTM   trade  side sell  size 3  last 90503.9  12.0 ms\n",
    ),
    "/spotMarket/level1:BTC-USDT": (
        {"bids": ["1", "2"], "asks": ["1.10", "0.00000001"]},
        "BTC-USDT   level1  bid 1 x 2  ask 1.10 x 0.00000001  12.0 ms\n",
    ),
    "/spotMarket/level2Depth50:BTC-USDT": (
        {"bids": [["1", "2"], ["0.9", "3"]], "asks": []},
        "BTC-USDT   depth  bid 1 x 2  ask -  levels 2 + 0  12.0 ms\n",
    ),
    "/callauction/level2Depth50:BTC-USDT": (
        {"bids": [["1", "2"]], "asks": [["3", "4"]]},
        "BTC-USDT   call_auction_depth  bid 1 x 2  ask 3 x 4  levels 1 + 1  12.0 ms\n",
    ),
    "a book": (
        {"bids": [("90631.2", 3), ("90631.1", 1)], "asks": [("90631.3", 40)]},
        "XBTUSDTM   book  bid 90631.2 x 3  ask 90631.3 x 40  levels 2 + 1  12.0 ms\n",
    ),
    "/market/level2:BTC-USDT": (
        {
            "sequenceStart": 5,
            "sequenceEnd": 9,
            "changes": {"bids": [[str(n), "0", "9"] for n in range(1, 5)], "asks": []},
            "time": MS,
        },
        "BTC-USDT   book_delta  sequence 5 to 9  changes buy 1 x 0, buy 2 x 0, buy 3 x 0, 1 more  12.0 ms\n",
    ),
    "/contractMarket/level2:XBTUSDTM": (
        {"sequence": 7, "change": "90631.2,sell,2"},
        "XBTUSDTM   book_delta  sequence 7  changes sell 90631.2 x 2 contracts  12.0 ms\n",
    ),
    "/contract/instrument:XBTUSDTM": (
        {"markPrice": 4010.52, "indexPrice": 4000.23},
        "XBTUSDTM   mark_price  mark 4010.52  index 4000.23  12.0 ms\n",
    ),
    "/indicator/markPrice:USDT-BTC": ({"value": 0.5}, "USDT-BTC   mark_price  mark 0.5  12.0 ms\n"),
    "/indicator/index:USDT-BTC": ({"value": 0.5}, "USDT-BTC   index_price  index 0.5  12.0 ms\n"),
    "funding.rate": (
        {"granularity": 60000, "fundingRate": -0.0001},
        "XBTUSDTM   funding_rate  predicted rate -0.0001  12.0 ms\n",
    ),
    "funding.rate settled": (
        {"granularity": 28_800_000, "fundingRate": 0.0001},
        "XBTUSDTM   funding_rate  settled rate 0.0001  next 2025-06-15T23:06:40Z  12.0 ms\n",
    ),
    "/contractMarket/limitCandle:XBTUSDTM_1min": (
        {"candles": [STARTS_AT, "1", "2", "3", "0.5", "21.0", "1903.4"], "time": MS},
        "XBTUSDTM   candle  candle 1min 2025-06-15T15:06:00Z  open 1  high 3  low 0.5  close 2  turnover 1903.4  "
        "12.0 ms\n",
    ),
    "/market/candles:BTC-USDT_1hour": (
        {"candles": [STARTS_AT, "1", "2", "3", "0.5", "21.0", "1903.4"], "time": MS * 1_000_000},
        "BTC-USDT   candle  candle 1hour 2025-06-15T15:06:00Z  open 1  high 3  low 0.5  close 2  volume 21.0  "
        "turnover 1903.4  12.0 ms\n",
    ),
    "/contractMarket/snapshot:XBTUSDTM": (
        {"lastPrice": 3551, "priceChg": -5, "priceChgPct": -0.0043, "volume": 5834.46},
        "XBTUSDTM   stats_24h  last 3551  volume 5834.46  change -5  change rate -0.0043  12.0 ms\n",
    ),
    "funding.begin": (
        {"fundingTime": MS, "fundingRate": -0.002966},
        "XBTUSDTM   announcement  event funding.begin  rate -0.002966  settles 2025-06-15T15:06:40Z  12.0 ms\n",
    ),
    "/callauction/callauctionData:BTC-USDT": (
        {"estimatedPrice": "0.17", "estimatedSize": "0.03", "buyOrderRangeLowPrice": "1.788", "time": MS},
        "BTC-USDT   call_auction  price 0.17  size 0.03  buy from 1.788  12.0 ms\n",
    ),
}
"""Wire topic, or subject where that does not say enough -> `data` -> line."""


def made(name: str) -> Update:
    if name == "a book":
        of = topic("book_delta", "XBTUSDTM")
        levels = [tuple(Level(Decimal(price), size) for price, size in side) for side in LINES[name][0].values()]
        return OrderBook(of, of.symbol, 7, MS * 1_000_000, RECEIVED, *levels)
    kind = {"funding.rate": "funding_rate", "funding.begin": "announcement"}.get(name.partition(" ")[0])
    stream = parse_topic(name) if kind is None else topic(kind, "XBTUSDTM")
    message = {"subject": name, "data": {"symbol": stream.symbol, **TIME, **LINES[name][0]}}
    update: Update = stream.channel.decoders[Decimal](ujson.loads(ujson.dumps(message)), stream, RECEIVED)
    return update


def test_every_kind_is_tried_here() -> None:
    assert {made(name).kind for name in LINES} == set(UpdateType)


def test_a_book_may_have_an_empty_side() -> None:
    assert "  bid -  ask -  levels 0 + 0  " in as_line(attrs.evolve(made("a book"), bids=(), asks=()))


@pytest.mark.parametrize("name", LINES)
def test_a_line_for_people_says_what_is_worth_seeing(name: str) -> None:
    assert as_line(made(name)) == LINES[name][1]


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_json_holds_every_field(name: str) -> None:
    """Decimals as text, contracts and times as whole numbers, levels and changes as lists."""
    update = made(name)
    read = json.loads(as_json(update))
    assert read.pop("kind") == update.kind
    assert read.pop("topic") == str(update.topic)
    assert {*read, "topic"} == {field.name for field in attrs.fields(type(update))} - {"raw", "_latest"}
    for field, shown in read.items():
        value = getattr(update, field)
        if isinstance(value, tuple):
            assert shown == [[format(x, "f") if isinstance(x, Decimal) else x for x in row] for row in value]
        else:
            assert shown == (format(value, "f") if isinstance(value, Decimal) else value)


def test_a_hole_is_told_in_json_too() -> None:
    update = made("/contractMarket/execution:XBTUSDTM")
    gap = Gap(update.topic, GapCause.RECONNECT, None, None, 1, 2)
    assert json.loads(as_json(attrs.evolve(update, gap_before=gap)))["gap_before"] == {
        "topic": "/contractMarket/execution:XBTUSDTM",
        "cause": "reconnect",
        "first_missing": None,
        "last_missing": None,
        "since_ns": 1,
        "until_ns": 2,
        "filled": None,
    }


def painted(board: Board) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(board.draw("caption"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("name", LINES)
def test_a_table_shows_the_same_cell_by_cell(name: str) -> None:
    update = made(name)
    board = Board(["XBTUSDTM", "BTC-USDT", "USDT-BTC"])
    board.take(update)
    text = painted(board)
    said = as_line(update).rstrip("\n").split("  ")
    for part in said[2:-1]:
        assert part.split(" ")[-1] in text
    assert said[-1] in text
    for symbol in ("XBTUSDTM", "BTC-USDT", "USDT-BTC"):
        assert symbol in text


@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_puts_together_what_its_kinds_say(reverse: bool) -> None:
    """Quotes stand first, whichever kind came first."""
    board = Board(["XBTUSDTM"])
    names = ["/contractMarket/tickerV2:XBTUSDTM", "/contractMarket/execution:XBTUSDTM"]
    for name in reversed(names) if reverse else names:
        board.take(made(name))
    _, header, _, row, *_ = painted(board).splitlines()
    words = [cell.strip() for cell in header.split("┃")[1:-1]]
    values = [cell.strip() for cell in row.split("│")[1:-1]]
    assert words == ["symbol", "bid", "ask", "side", "size", "last", "latency", "updates"]
    assert values == ["XBTUSDTM", "88987.4 x 713", "88987.5 x 1037", "sell", "3", "90503.9", "12.0 ms", "2"]


def test_all_symbols_get_their_rows_as_they_come() -> None:
    board = Board(["all", "XBTUSDTM"])
    assert board.draw("up", most=10).row_count == 1, "`all` is none"
    ticker = made("/market/ticker:BTC-USDT")
    for number in range(7):
        board.take(attrs.evolve(ticker, symbol=f"A{number}-USDT"))
    table = board.draw("up", most=10)
    assert (table.row_count, table.caption) == (8, "up")


def test_more_rows_than_the_terminal_has_are_counted() -> None:
    """Painting a thousand rows takes 0.4 s of CPU, several times a second."""
    board = Board(["all"])
    ticker = made("/market/ticker:BTC-USDT")
    for number in range(1000):
        board.take(attrs.evolve(ticker, symbol=f"A{number}-USDT"))
    table = board.draw("up", most=30)
    assert (table.row_count, table.caption) == (30, "970 symbols more; up")


def test_no_text_of_a_peer_is_obeyed_by_a_terminal() -> None:
    """Neither as an escape sequence nor as rich's own markup; and none is longer than a line bears."""
    update = attrs.evolve(made("funding.begin"), event="[red]\x1b[2J\r\n" + "x" * 10_000, symbol="A\x07-B")
    line = as_line(update)
    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    assert len(line) < 500
    board = Board([])
    board.take(update)
    text = painted(board)
    assert "[red]" in text
    assert not {"\x1b", "\x07", "\r"} & {*text}
    assert as_json(update)[:-1].isprintable()
