"""Values that lie over others for a while: each one leaves without a trace, in whatever order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kufeed.testing import Exchange
from kufeed.testing.overlays import Overlays


class Shelf:
    def __init__(self, value: int) -> None:
        self.value = value
        self.overlays = Overlays()

    def lay(self, value: int) -> Callable[[], None]:
        return self.overlays.lay("shelf", value, lambda: self.value, self.put)

    def put(self, value: int) -> None:
        self.value = value


def test_the_newest_counts_and_then_the_one_before_it() -> None:
    shelf = Shelf(1)
    end_long = shelf.lay(2)
    end_short = shelf.lay(3)
    assert shelf.value == 3
    end_short()
    assert shelf.value == 2
    end_long()
    assert shelf.value == 1


def test_one_that_lies_below_leaves_unseen_and_only_once() -> None:
    shelf = Shelf(1)
    end_first = shelf.lay(2)
    end_second = shelf.lay(2)
    end_first()
    end_first()
    assert shelf.value == 2
    end_second()
    assert shelf.value == 1


def test_what_is_set_by_hand_meanwhile_stays() -> None:
    shelf = Shelf(1)
    end = shelf.lay(2)
    shelf.value = 7
    end()
    assert shelf.value == 7


def test_a_value_that_only_compares_equal_is_another_one() -> None:
    shelf = Shelf(0)
    end = shelf.lay(True)
    shelf.value = 1
    end()
    assert shelf.value is not True
    assert shelf.value == 1


@pytest.mark.parametrize("value", [503, 1, True, ("429000", "Too Many Requests")])
def test_the_same_value_set_by_hand_in_faults_stays(value: Any) -> None:
    exchange = Exchange()
    end_first, end_second = exchange.overlay(token_error=value), exchange.overlay(token_error=value)
    end_second()
    exchange.faults.token_error = value
    end_first()
    assert exchange.faults.token_error is value
    exchange.overlay(token_error=500)()
    assert exchange.faults.token_error is value


def test_what_is_set_by_hand_voids_all_that_lay_there() -> None:
    shelf = Shelf(1)
    end_old = shelf.lay(2)
    shelf.value = 7
    end_new = shelf.lay(3)
    end_old()
    assert shelf.value == 3
    end_new()
    assert shelf.value == 7


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=12))
def test_the_value_is_always_that_of_the_newest_one_that_lies_there(steps: list[tuple[int, int]]) -> None:
    shelf = Shelf(99)
    lying: list[tuple[int, Callable[[], None]]] = []
    for value, choice in steps:
        if choice < len(lying):
            lying.pop(choice)[1]()
        else:
            lying.append((value, shelf.lay(value)))
        assert shelf.value == (lying[-1][0] if lying else 99)
    for _, end in lying:
        end()
    assert shelf.value == 99


def test_fields_of_faults_are_laid_over_together() -> None:
    exchange = Exchange()
    exchange.faults.retry_after = "7"
    end = exchange.overlay(token_error=503, retry_after="1")
    assert (exchange.faults.token_error, exchange.faults.retry_after) == (503, "1")
    end()
    assert (exchange.faults.token_error, exchange.faults.retry_after) == (None, "7")
