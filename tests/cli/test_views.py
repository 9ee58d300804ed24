"""What is painted on a terminal: a row for each symbol, and no more rows than it has room for."""

from __future__ import annotations

from decimal import Decimal

from kufeed import Ticker, topic
from kufeed.cli._views import Board


def ticker(symbol: str) -> Ticker:
    made = topic("ticker", symbol)
    return Ticker(made, symbol, 1, 1, 2, Decimal(1), Decimal(2), Decimal(3), Decimal(4))


def test_symbols_have_a_row_before_anything_came() -> None:
    table = Board(["BTC-USDT", "XBTUSDTM"], quotes=True, trades=False).draw("up", most=10)
    assert table.row_count == 2
    assert table.caption == "up"


def test_all_symbols_get_their_rows_as_they_come() -> None:
    board = Board(["all", "XBTUSDTM"], quotes=True, trades=False)
    assert board.draw("up", most=10).row_count == 1, "`all` is none"
    for number in range(7):
        board.take(ticker(f"A{number}-USDT"))
    assert board.draw("up", most=10).row_count == 8


def test_more_rows_than_the_terminal_has_are_counted() -> None:
    """Painting a thousand rows takes 0.4 s of CPU, several times a second."""
    board = Board(["all"], quotes=True, trades=False)
    for number in range(1000):
        board.take(ticker(f"A{number}-USDT"))
    table = board.draw("up", most=30)
    assert table.row_count == 30
    assert table.caption == "970 symbols more; up"
