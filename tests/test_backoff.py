"""Waits grow, are capped and spread; the server's own wait wins."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kufeed import Backoff, UsageError


def test_without_jitter_it_doubles_up_to_the_cap() -> None:
    delays = Backoff(jitter="none").delays(random.Random(0))
    assert list(itertools.islice(delays, 7)) == [1, 2, 4, 8, 16, 32, 32]


@given(
    first=st.floats(0, 10),
    factor=st.floats(1, 10),
    more=st.floats(0, 100),
    failures=st.integers(1, 10_000),
    seed=st.integers(),
)
def test_a_delay_is_drawn_between_zero_and_a_growing_capped_step(
    first: float, factor: float, more: float, failures: int, seed: int
) -> None:
    backoff = Backoff(first, factor, first + more)
    step = backoff.step(failures)
    assert 0 <= backoff.delay(failures, random.Random(seed)) <= step <= first + more
    assert step <= backoff.step(failures + 1)
    assert backoff.step(1) == first
    if first and step < first + more:
        assert step == pytest.approx(first * factor ** (failures - 1))


def test_the_whole_range_is_used() -> None:
    rng = random.Random(0)
    delays = [Backoff().delay(4, rng) for _ in range(1000)]
    assert min(delays) < 0.1
    assert 7.9 < max(delays) <= 8.0


def test_the_same_seed_waits_the_same() -> None:
    one, other = (itertools.islice(Backoff().delays(random.Random(7)), 20) for _ in range(2))
    assert list(one) == list(other)


@pytest.mark.parametrize("jitter", ["full", "none"])
def test_the_servers_wait_wins_and_draws_nothing(jitter: Any) -> None:
    rng = random.Random(0)
    before = rng.getstate()
    assert Backoff(jitter=jitter).delay(9, rng, retry_after=2.5) == 2.5
    assert rng.getstate() == before


def test_a_wait_of_zero_asks_for_nothing() -> None:
    """Otherwise a server that answers every dial with `Retry-After: 0` would be dialled without a pause."""
    assert Backoff(jitter="none").delay(3, random.Random(0), retry_after=0.0) == 4
    assert Backoff(jitter="none").delay(3, random.Random(0), retry_after=-1.0) == 4


def test_a_first_step_of_zero_stays_zero() -> None:
    assert Backoff(0.0).step(100_000) == 0


def test_what_has_lived_long_enough_fails_for_the_first_time_again() -> None:
    backoff = Backoff(healthy_after=60.0)
    assert backoff.count(0, 0.0) == 1
    assert backoff.count(5, 59.9) == 6
    assert backoff.count(5, 60.0) == 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"first": -1.0}, "first"),
        ({"first": float("nan")}, "first"),
        ({"factor": 0.5}, "factor"),
        ({"factor": float("inf")}, "factor"),
        ({"max": 0.5}, "max"),
        ({"max": "32"}, "max"),
        ({"jitter": "half"}, "jitter"),
        ({"healthy_after": True}, "healthy_after"),
    ],
)
def test_impossible_values_are_refused_by_name(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError, match=field):
        Backoff(**arguments)


def test_no_failure_has_no_step() -> None:
    with pytest.raises(UsageError, match="failures"):
        Backoff().step(0)


def test_it_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Backoff().first = 2.0  # type: ignore[misc]
