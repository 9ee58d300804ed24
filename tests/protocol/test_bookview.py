"""What is read off a book."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kufeed.errors import InsufficientDepth, UsageError
from kufeed.protocol import Level, Side, topic
from kufeed.protocol.bookview import OrderBook, check_depth, order_book

TOPIC = topic("book_delta", "BTC-USDT")


def view(bids: list[tuple[Any, Any]], asks: list[tuple[Any, Any]]) -> OrderBook:
    return OrderBook(
        TOPIC,
        "BTC-USDT",
        7,
        10**18,
        10**18 + 5_000_000,
        tuple(Level(*one) for one in bids),
        tuple(Level(*one) for one in asks),
    )


BOOK = view(
    [(Decimal("100.5"), Decimal(2)), (Decimal(100), Decimal(3)), (Decimal(99), Decimal(5))],
    [(Decimal(101), Decimal(1)), (Decimal("101.5"), Decimal(4)), (Decimal(103), Decimal(10))],
)
FLOATS = view([(100.5, 2.0), (100.0, 3.0)], [(101.0, 1.0), (101.5, 4.0)])
CONTRACTS = view([(Decimal(100), 2)], [(Decimal(101), 1), (Decimal(102), 3)])
EMPTY = view([], [])


def test_the_middle() -> None:
    assert BOOK.best_bid == (Decimal("100.5"), 2)
    assert BOOK.best_ask == (101, 1)
    assert (BOOK.mid, BOOK.spread) == (Decimal("100.75"), Decimal("0.5"))
    assert (FLOATS.mid, FLOATS.spread) == (100.75, 0.5)
    assert (BOOK.latency_ms, BOOK.kind) == (5.0, "book")


def test_a_side_may_be_empty() -> None:
    one_sided = view([], [(Decimal(1), 1)])
    for book in (EMPTY, one_sided):
        assert (book.best_bid, book.mid, book.spread) == (None, None, None)
    assert EMPTY.best_ask is None
    assert EMPTY.depth_to(Decimal(5)) == 0
    with pytest.raises(InsufficientDepth):
        EMPTY.vwap(1)


def test_figures_are_exact_whatever_the_context() -> None:
    bid, ask = Decimal("0.1234567890123456789012345678901"), Decimal("0.2234567890123456789012345678903")
    with localcontext(prec=3):
        book = view([(bid, Decimal(1))], [(ask, Decimal(1))])
        assert book.mid == Decimal("0.1734567890123456789012345678902")
        assert book.spread == Decimal("0.1000000000000000000000000000002")
        assert book.vwap(1) == ask
        assert view([(bid, Decimal(1000)), (bid / 2, Decimal("1.0001"))], []).depth_to(bid / 2) == Decimal("1001.0001")


@pytest.mark.parametrize(
    ("price", "size"),
    [("100.7", 0), ("101", 1), ("101.4", 1), ("101.5", 5), ("103", 15), ("100.5", 2), ("100.2", 2), ("99", 10)],
)
def test_depth_to_a_price(price: str, size: int) -> None:
    assert BOOK.depth_to(Decimal(price)) == size


def test_a_float_means_the_level_that_is_written_so() -> None:
    book = view([(Decimal("0.1"), 5), (Decimal("0.09"), 7)], [(Decimal("0.7"), 3)])
    assert book.depth_to(0.1) == book.depth_to(Decimal("0.1")) == 5
    assert book.depth_to(0.7) == 3
    assert FLOATS.depth_to(101.5) == 5
    assert view([(Decimal("0.1"), 5)], []).depth_to(0.1) == view([], [(Decimal("0.7"), 5)]).depth_to(0.7) == 5


def test_a_repr_is_one_line_with_the_best_levels() -> None:
    said = repr(BOOK)
    assert said.startswith("OrderBook(/market/level2:BTC-USDT, sequence=7, ")
    assert said.endswith("bids=[100.5 x 2, 2 more], asks=[101 x 1, 2 more])")


@pytest.mark.parametrize("price", [Decimal(104), Decimal(98), 98.5])
def test_a_price_beyond_the_last_level_cannot_be_answered(price: Any) -> None:
    with pytest.raises(InsufficientDepth, match="BTC-USDT: the 3 levels here do not reach"):
        BOOK.depth_to(price)


def test_the_average_price_of_a_size() -> None:
    assert BOOK.vwap(Decimal("0.5")) == 101
    assert BOOK.vwap(4) == (101 + 3 * Decimal("101.5")) / 4
    assert BOOK.vwap(5, "sell") == (2 * Decimal("100.5") + 300) / 5
    assert CONTRACTS.vwap(2, Side.BUY) == Decimal("101.5")
    assert FLOATS.vwap(2) == pytest.approx(101.25)
    assert isinstance(FLOATS.vwap(2), float)
    with pytest.raises(InsufficientDepth, match=r"hold less than 15\.1"):
        BOOK.vwap(15.1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 10**6)), min_size=1, max_size=8), st.data())
def test_the_average_price_against_fractions(rows: list[tuple[int, int]], data: st.DataObject) -> None:
    levels = sorted(dict(rows).items())
    asks = [(Decimal(price) / 1000, Decimal(size) / 1000) for price, size in levels]
    size = Decimal(data.draw(st.integers(1, sum(size for _, size in levels)))) / 1000
    left, paid = Fraction(size), Fraction(0)
    for price, there in asks:
        taken = min(left, Fraction(there))
        paid += taken * Fraction(price)
        left -= taken
    assert abs(Fraction(view([], asks).vwap(size)) - paid / Fraction(size)) < Fraction(1, 10**30)


@pytest.mark.parametrize("bad", [0, -1, "1", None, True, Decimal("NaN"), float("nan")])
def test_what_is_no_price_or_size_is_a_usage_error(bad: Any) -> None:
    with pytest.raises(UsageError, match="price must be a positive number"):
        BOOK.depth_to(bad)
    with pytest.raises(UsageError, match="size must be a positive number"):
        BOOK.vwap(bad)


def test_a_side_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'buy' or 'sell'"):
        BOOK.vwap(1, "up")


def test_figures_have_the_type_of_the_books_numbers() -> None:
    assert {type(one) for one in (BOOK.mid, BOOK.spread, BOOK.vwap(2.5), BOOK.depth_to(101))} == {Decimal}
    assert {type(one) for one in (FLOATS.mid, FLOATS.spread, FLOATS.vwap(2), FLOATS.depth_to(101))} == {float}
    assert type(CONTRACTS.depth_to(102.0)) is int
    assert (FLOATS.spread, FLOATS.vwap(5), FLOATS.vwap(Decimal(3), "sell")) == (0.5, 101.4, (201 + 100) / 3)


def test_all_that_is_there_can_be_taken_and_no_more() -> None:
    assert BOOK.vwap(15) == Decimal("102.4" + 45 * "6" + "7"), "to 50 digits"
    assert FLOATS.vwap(5.0, "sell") == (2 * 100.5 + 300) / 5
    for book, most in ((BOOK, 15), (FLOATS, 5), (CONTRACTS, 4)):
        book.vwap(most)
        with pytest.raises(InsufficientDepth, match=f"^BTC-USDT: the {len(book.asks)} levels here hold less than"):
            book.vwap(most + 1)


def test_depth_is_of_the_side_on_which_the_price_lies() -> None:
    bids, asks = view([(Decimal(3), 1), (Decimal(2), 2)], []), view([], [(Decimal(4), 5), (Decimal(5), 6)])
    assert [bids.depth_to(price) for price in (2, 2.0, 3, 4)] == [3, 3, 1, 0]
    assert [asks.depth_to(price) for price in (3, 4, 4.5, 5)] == [0, 5, 5, 11]
    for book, price in ((bids, 1), (asks, 6), (asks, 5.5)):
        with pytest.raises(InsufficientDepth, match=f"^BTC-USDT: the 2 levels here do not reach {price}$"):
            book.depth_to(price)


def test_what_is_refused_is_named() -> None:
    for bad in ("1", 0, True):
        with pytest.raises(UsageError, match=rf"^price must be a positive number, not {bad!r}$"):
            BOOK.depth_to(bad)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=rf"^size must be a positive number, not {bad!r}$"):
            BOOK.vwap(bad)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^side must be 'buy' or 'sell', not 'up'$"):
        BOOK.vwap(1, "up")
    with pytest.raises(UsageError, match=r"^a depth is a whole number of levels from 1 up, not 0$"):
        BOOK.top(0)
    assert check_depth(1) == 1
    assert BOOK.top(1).asks == BOOK.asks[:1]


def test_a_view_that_is_made_fast_is_the_same() -> None:
    given = (TOPIC, "BTC-USDT", 7, 10**18, 10**18 + 5_000_000)
    assert order_book(*given, bids=BOOK.bids, asks=BOOK.asks) == BOOK


def test_the_top_of_a_view_is_the_same_moment() -> None:
    top = BOOK.top(2)
    assert (top.bids, top.asks, top.sequence) == (BOOK.bids[:2], BOOK.asks[:2], 7)
    assert BOOK.top(50) == BOOK
    for bad in (0, True, 1.5):
        with pytest.raises(UsageError):
            BOOK.top(bad)  # type: ignore[arg-type]
