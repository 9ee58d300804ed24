"""Books as REST replies have them: read exactly, or refused by the name of the field."""

from __future__ import annotations

import copy
import json
from decimal import Decimal
from typing import Any

import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from kufeed.errors import MessageRefused
from kufeed.protocol import MARKETS, Market
from kufeed.protocol.orderbook import BookSnapshot
from kufeed.protocol.snapshots import MOST_LEVELS, read_book

from ..samples import load

NOW = 1_700_000_000_000_000_000
BY_NAME = {market.name: market for market in MARKETS}
SPOT, FUTURES = BY_NAME["spot"], BY_NAME["futures"]

SPOT_BOOK: dict[str, Any] = {
    "time": 1654325095225,
    "sequence": "1630423725254",
    "bids": [["29701.4", "1.1244206"], ["29701.2", "0.00006727"]],
    "asks": [["29701.5", "0.00023088"], ["29701.6", "0.48701789"]],
}
FUTURES_BOOK: dict[str, Any] = {
    "symbol": "XBTUSDM",
    "sequence": 1697895963339,
    "bids": [[66968, 2], [66964.8, 25596]],
    "asks": [[66968.1, 13501], [66968.7, 2032]],
    "ts": 1729168101216000000,
}
BOOKS = [(SPOT, SPOT_BOOK), (FUTURES, FUTURES_BOOK)]


def data_of(text: str) -> Any:
    return ujson.loads(text)["data"]


def rows(*pairs: tuple[str, str]) -> tuple[tuple[Decimal, Decimal], ...]:
    return tuple((Decimal(price), Decimal(size)) for price, size in pairs)


# -- what was recorded ------------------------------------------------------------------------------------------------


def test_the_spot_samples() -> None:
    first, second = [read_book(data_of(one.text), SPOT, None, NOW) for one in load("rest_spot_level2_snapshot.jsonl")]
    assert first == BookSnapshot(
        1630423725254,
        1654325095225_000000,
        NOW,
        rows(("29701.4", "1.1244206"), ("29701.2", "0.00006727"), ("29700.1", "0.49009689")),  # type: ignore[arg-type]
        rows(("29701.5", "0.00023088"), ("29701.6", "0.48701789"), ("29701.7", "0.00034976")),  # type: ignore[arg-type]
        None,
    )
    assert (second.sequence, second.exchange_time_ns) == (14610502970, 1729176273859_000000)
    assert second.bids == rows(("66976.4", "0.69109872"), ("66976.3", "0.14377"))
    assert second.asks == rows(("66976.5", "0.05408199"), ("66976.8", "0.0005"))


def test_the_futures_samples() -> None:
    samples = load("rest_futures_level2_snapshot.jsonl")
    books = [
        read_book(data_of(one.text), FUTURES, None, NOW, symbol=symbol)
        for one, symbol in zip(samples, ("XBTMM22", "XBTUSDM", "XBTUSDM"), strict=True)
    ]
    assert [book.sequence for book in books] == [1647109356374, 1638901902423, 1697895963339]
    assert [book.exchange_time_ns for book in books] == [
        1654325996914997044,
        1654326900579981822,
        1729168101216000000,
    ]
    assert books[0].bids == ((29665, 5463), (29664, 1300), (29651, 1344))
    assert books[0].asks == ((29680, 1400), (29688, 1365), (29695, 150))
    assert books[2].bids == ((66968, 2), (Decimal("66964.8"), 25596))
    assert books[2].asks == ((Decimal("66968.1"), 13501), (Decimal("66968.7"), 2032))
    for book in books:
        assert all(type(level.price) is Decimal and type(level.size) is int for level in book.bids + book.asks)


def test_the_books_of_the_recorded_session() -> None:
    lines = [one for one in load("session_spot_2021-04-25_EQZ_COV.jsonl") if '"code":"200000"' in one.text]
    books = [read_book(data_of(one.text), SPOT, None, NOW) for one in lines]
    assert [book.sequence for book in books] == [1612699351243, 1619079123934]
    assert [book.exchange_time_ns for book in books] == [1619378328032_000000, 1619378329970_000000]
    for line, book in zip(lines, books, strict=True):
        raw = json.loads(line.text)["data"]
        assert len(book.bids) > 100
        assert book.problem() is None
        assert [(Decimal(price), Decimal(size)) for price, size in raw["bids"]] == list(book.bids)
        assert [(Decimal(price), Decimal(size)) for price, size in raw["asks"]] == list(book.asks)


# -- what is read -----------------------------------------------------------------------------------------------------


def test_levels_come_best_first_in_whatever_order() -> None:
    book = SPOT_BOOK | {"bids": SPOT_BOOK["bids"][::-1], "asks": SPOT_BOOK["asks"][::-1]}
    assert read_book(book, SPOT, None, NOW) == read_book(SPOT_BOOK, SPOT, None, NOW)


def test_a_sequence_may_be_text_or_a_number_and_prices_either() -> None:
    """Futures documents of 2023 show prices as text."""
    book = FUTURES_BOOK | {"sequence": "1697895963339", "bids": [["66968", 2], ["66964.80", "25596"]]}
    assert read_book(book, FUTURES, None, NOW) == read_book(FUTURES_BOOK, FUTURES, None, NOW)


@pytest.mark.parametrize(("market", "book"), BOOKS, ids=["spot", "futures"])
def test_numbers_may_be_floats(market: Market, book: dict[str, Any]) -> None:
    exact, fast = read_book(book, market, None, NOW), read_book(book, market, None, NOW, numbers=float)
    assert {type(level.price) for level in fast.bids + fast.asks} == {float}
    assert {type(level.size) for level in fast.bids + fast.asks} == {float if market is SPOT else int}
    assert [(float(price), float(size)) for price, size in exact.bids] == list(fast.bids)
    with pytest.raises(MessageRefused, match=r"^bids"):
        read_book(book | {"bids": [["1_0", "1"]]}, market, None, NOW, numbers=float)


def test_an_empty_side_is_a_side() -> None:
    book = read_book(SPOT_BOOK | {"bids": []}, SPOT, 100, NOW)
    assert (book.bids, book.limit, book.problem()) == ((), 100, None)


def test_what_contradicts_itself_is_read_and_judged_elsewhere() -> None:
    crossed = read_book(SPOT_BOOK | {"bids": [["29702", "1"]]}, SPOT, None, NOW)
    twice = read_book(SPOT_BOOK | {"bids": [["29701.4", "1"], ["29701.40", "2"]]}, SPOT, None, NOW)
    nothing = read_book(SPOT_BOOK | {"bids": [["29701.4", "0"]]}, SPOT, None, NOW)
    assert [book.problem() for book in (crossed, twice, nothing)] == [
        "best bid not below best ask",
        "a price stands twice",
        "a level with price or size 0",
    ]


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("market", "field", "value"),
    [
        *((market, "sequence", value) for market in MARKETS for value in (None, -1, "", "x", 1.5, True, 2**63)),
        *((market, side, value) for market in MARKETS for side in ("bids", "asks")
          for value in (None, {}, "", [7], [["1"]], [["1", "2", "3"]], [[None, 1]], [["1", None]], [["nan", 1]],
                        [["-1", 1]], [[True, 1]], [["1e999", 1]], [["1", "-1"]], [["1", "x"]])),
        (SPOT, "time", None), (SPOT, "time", 1654325095), (SPOT, "time", 1654325095225000000), (SPOT, "time", "soon"),
        (FUTURES, "ts", None), (FUTURES, "ts", 1654325095225),
        (FUTURES, "symbol", "ETHUSDTM"), (FUTURES, "symbol", None), (FUTURES, "bids", [[1, 1.5]]),
    ],
)  # fmt: skip
def test_a_damaged_field_is_named(market: Market, field: str, value: Any) -> None:
    book = SPOT_BOOK if market is SPOT else FUTURES_BOOK
    with pytest.raises(MessageRefused, match=f"^{field}: "):
        read_book(book | {field: value}, market, None, NOW, symbol="XBTUSDM")


def test_the_book_of_another_symbol_is_refused_by_its_name() -> None:
    with pytest.raises(MessageRefused, match=r"^symbol: 'XBTUSDM'$"):
        read_book(FUTURES_BOOK, FUTURES, None, NOW, symbol="ETHUSDTM")


@pytest.mark.parametrize(("market", "book"), BOOKS, ids=["spot", "futures"])
def test_a_missing_field_is_named(market: Market, book: dict[str, Any]) -> None:
    for field in set(book) - {"symbol"}:
        with pytest.raises(MessageRefused, match=f"^{field}: "):
            read_book({name: value for name, value in book.items() if name != field}, market, None, NOW)


@pytest.mark.parametrize("data", [None, [], "book", 7])
def test_what_is_no_object_is_no_book(data: Any) -> None:
    with pytest.raises(MessageRefused, match=r"^data: "):
        read_book(data, SPOT, None, NOW)


def test_as_many_levels_as_were_asked_for_and_no_more() -> None:
    def with_bids(count: int) -> dict[str, Any]:
        return SPOT_BOOK | {"bids": [[str(1 + number), "1"] for number in range(count)]}

    assert len(read_book(with_bids(100), SPOT, 100, NOW).bids) == 100
    with pytest.raises(MessageRefused, match=r"^bids: 101 levels, of which there are 100 at most"):
        read_book(with_bids(101), SPOT, 100, NOW)
    with pytest.raises(MessageRefused, match=r"^asks: 2 levels, of which there are 1 at most"):
        read_book(SPOT_BOOK | {"bids": []}, SPOT, 1, NOW)
    assert len(read_book(with_bids(MOST_LEVELS), SPOT, None, NOW).bids) == MOST_LEVELS
    with pytest.raises(MessageRefused, match=f"^bids: {MOST_LEVELS + 1} levels"):
        read_book(with_bids(MOST_LEVELS + 1), SPOT, None, NOW)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything inside *value*."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inside for place in places(child, (*path, key)))]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30) | st.just("1e9999"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_a_damaged_reply_is_a_sound_snapshot_or_refused(data: st.DataObject) -> None:
    """Whatever is put in the place of whatever, nothing else comes out, and the reply stays as it was."""
    market, book = data.draw(st.sampled_from(BOOKS))
    damaged: Any = {"data": copy.deepcopy(book)}
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places(damaged)[1:]))
        inside = damaged
        for key in path:
            inside = inside[key]
        inside[last] = data.draw(anything)
    before = copy.deepcopy(damaged)
    limit, numbers = data.draw(st.sampled_from([None, 2, 100])), data.draw(st.sampled_from([Decimal, float]))
    refused: MessageRefused | None = None
    try:
        made = read_book(damaged["data"], market, limit, NOW, symbol="XBTUSDM", numbers=numbers)
    except MessageRefused as refusal:
        refused = refusal
    if refused is not None:
        assert refused.cause in {*book, "data"}
        assert str(refused).isprintable()
        assert len(str(refused)) < 200
    else:
        assert 0 <= made.sequence < 2**63
        assert made.exchange_time_ns is not None
        assert 10**18 <= made.exchange_time_ns < 10**19
        for levels, descending in ((made.bids, True), (made.asks, False)):
            assert all(level.price >= 0 and level.size >= 0 for level in levels)
            prices = [level.price for level in levels]
            assert prices == sorted(prices, reverse=descending)
            assert limit is None or len(levels) <= limit
        made.problem()
    assert repr(damaged) == repr(before)
