"""One side of a book against a plain dict."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kufeed.protocol import Level, Side
from kufeed.protocol.sides import BookSide

prices = st.integers(1, 40)
changes = st.lists(st.tuples(prices, st.integers(0, 3)), max_size=60)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(Side),
    st.dictionaries(prices, st.integers(1, 3), max_size=20),
    changes,
    st.integers(1, 6),
    st.sampled_from([Decimal, float]),
    st.booleans(),
)
def test_a_side_is_a_sorted_dict(
    side: Side, start: dict[int, int], edits: list[tuple[int, int]], count: int, number: type, whole: bool
) -> None:
    levels = {number(price): size for price, size in start.items()}
    kept = BookSide(side, levels.items(), whole=whole)
    best_first = side is Side.BUY
    worst = None if whole or not levels else (min if best_first else max)(levels)
    for index, (written, size) in enumerate(edits):
        price = number(written)
        kept.set(price, size)
        if worst is None or (price >= worst if best_first else price <= worst):
            levels.pop(price, None)
            if size:
                levels[price] = size
        if index % 3:
            continue  # look now and then: what is cached must be noticed to be old later
        expected = [Level(*one) for one in sorted(levels.items(), reverse=best_first)]
        assert list(kept) == expected
        assert kept.top(count) == tuple(expected[:count])
        assert kept.top(count + 2) == tuple(expected[: count + 2])
        assert kept[:count] == tuple(expected[:count])
        assert kept[1::2] == tuple(expected[1::2])
        assert len(kept) == len(expected)
        assert kept.best() == (expected[0] if expected else None)
        if expected:
            assert (kept[0], kept[-1]) == (expected[0], expected[-1])
        assert kept.covers(count) is (worst is None or len(expected) >= count)
        with pytest.raises(IndexError):
            kept[len(expected)]


def test_the_same_top_is_the_same_object_until_one_of_its_levels_changes() -> None:
    side = BookSide(Side.SELL, [(Decimal(number), 1) for number in range(1, 10)])
    top = side.top(3)
    side.set(Decimal(4), 5)
    assert side.top(3) is top
    side.set(Decimal(3), 5)
    assert side.top(3) == ((1, 1), (2, 1), (3, 5))


def test_a_price_of_more_digits_than_the_context_is_kept_exact() -> None:
    price = Decimal("1." + 40 * "1")
    with localcontext(prec=6):
        side = BookSide(Side.SELL, [(price, 1)])
        side.set(price, 2)
        other = Decimal("1." + 39 * "1" + "2")
        side.set(other, 3)
    assert list(side) == [(price, 2), (other, 3)], "they differ in the last digit alone"


def test_sides_agree_where_both_know() -> None:
    full = BookSide(Side.BUY, [(Decimal(number), 1) for number in range(1, 10)])
    seed = BookSide(Side.BUY, [(Decimal(number), 1) for number in range(5, 10)], whole=False)
    assert full.agrees(seed)
    assert seed.agrees(full)
    assert full.agrees(BookSide(Side.BUY, full))
    assert not full.agrees(BookSide(Side.BUY, [*full[:-1], (Decimal(1), 2)]))
    full.set(Decimal(4), 0)
    assert full.agrees(seed)
    full.set(Decimal(5), 0)
    assert not full.agrees(seed)
    assert not seed.agrees(full)


def test_a_side_is_whole_unless_said_otherwise() -> None:
    side = BookSide(Side.BUY, [(Decimal(2), 1)])
    side.set(Decimal(1), 1)
    assert list(side) == [(2, 1), (1, 1)]
    assert side.covers(10)
    assert repr(side) == f"<BookSide 2 levels, best {side.best()}>"


@pytest.mark.parametrize("kind", Side)
def test_the_worst_price_that_is_known_may_change_and_what_is_beyond_may_not(kind: Side) -> None:
    beyond = {Side.BUY: Decimal(1), Side.SELL: Decimal(4)}[kind]
    side = BookSide(kind, [(Decimal(2), 1), (Decimal(3), 1)], whole=False)
    worst = side[-1].price
    side.set(worst, 5)
    side.set(beyond, 7)
    assert [level.size for level in side] == [1, 5]
    side.set(worst, 0)
    assert len(side) == 1
