"""When a silence is unusual: at least the floor, several usual distances of a slow stream, and never for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kufeed.protocol import CHANNELS
from kufeed.protocol.staleness import AT_THEIR_HOUR, CADENCE, DISTANCES, LONGEST, Rhythm

FLOOR = st.floats(0.5, 600)
DISTANCE = st.floats(0, 5000)
MANY = st.lists(DISTANCE, max_size=50)


def heard(rhythm: Rhythm, distances: list[float], start: float = 0.0) -> float:
    at = start
    rhythm.begin(at)
    rhythm.heard(at)
    for distance in distances:
        at += distance
        rhythm.heard(at)
    return at


@given(FLOOR, MANY)
def test_the_threshold_is_between_the_floor_and_the_longest(floor: float, distances: list[float]) -> None:
    rhythm = Rhythm(floor)
    heard(rhythm, distances)
    assert floor <= rhythm.threshold <= max(floor, LONGEST)


@given(FLOOR, MANY)
def test_whatever_it_has_learned_a_long_silence_is_unusual(floor: float, distances: list[float]) -> None:
    rhythm = Rhythm(floor)
    last = heard(rhythm, distances)
    assert rhythm.is_unusual(last + max(floor, LONGEST) + 1e-6)
    assert not rhythm.is_unusual(last + floor * 0.999)


@given(FLOOR, st.floats(1, LONGEST / DISTANCES), st.lists(st.floats(-0.25, 0.25), min_size=20, max_size=60))
def test_a_stream_that_comes_regularly_is_not_unusual(floor: float, distance: float, jitter: list[float]) -> None:
    """By then it is known for what it is: up to three of its distances, give or take a quarter, are nothing."""
    rhythm = Rhythm(floor)
    last = heard(rhythm, [distance * (1 + one) for one in jitter])
    assert not rhythm.is_unusual(last + 2.9 * distance)


@given(FLOOR, MANY, DISTANCE, DISTANCE)
def test_a_longer_distance_never_shortens_the_threshold(
    floor: float, distances: list[float], one: float, other: float
) -> None:
    shorter, longer = Rhythm(floor), Rhythm(floor)
    heard(shorter, [*distances, min(one, other)])
    heard(longer, [*distances, max(one, other)])
    assert shorter.threshold <= longer.threshold


@given(MANY, st.floats(0, 1e6))
def test_when_it_happened_does_not_matter(distances: list[float], start: float) -> None:
    here, there = Rhythm(60.0), Rhythm(60.0)
    heard(here, distances)
    heard(there, distances, start)
    assert here.threshold == pytest.approx(there.threshold, rel=1e-6)


@given(MANY, DISTANCE)
def test_nothing_is_learned_from_a_silence_with_a_cut_in_it(distances: list[float], outage: float) -> None:
    rhythm = Rhythm(60.0)
    last = heard(rhythm, distances)
    before = rhythm.threshold
    rhythm.begin(last + outage)
    assert rhythm.silent_for(last + outage + 1) == pytest.approx(1)
    rhythm.heard(last + 2 * outage + 1)
    assert rhythm.threshold == before


def test_a_clock_that_was_set_back_changes_nothing() -> None:
    rhythm = Rhythm(60.0)
    rhythm.heard(100.0)
    rhythm.heard(50.0)
    assert (rhythm.since, rhythm.silent_for(40.0), rhythm.threshold) == (100.0, 0.0, 60.0)


def test_kinds_with_a_cadence_are_known_before_they_have_shown_it() -> None:
    assert Rhythm(60.0, 60.0).threshold == 240.0
    assert Rhythm(60.0, 1.0).threshold == 60.0
    assert Rhythm(0.5).threshold == 0.5


def test_the_usual_distance_goes_a_quarter_of_the_way_to_the_newest() -> None:
    rhythm = Rhythm(1.0)
    rhythm.heard(0.5)
    assert rhythm.since == 0.5
    seen = []
    for at in (100.5, 200.5, 300.5, 300.5):
        rhythm.heard(at)
        seen.append(rhythm.threshold)
    assert seen == [DISTANCES * usual for usual in (25.0, 43.75, 57.8125, 43.359375)]


def test_a_silence_is_unusual_from_its_threshold_on() -> None:
    """Who wakes up just then finds it so, and need not look twice."""
    rhythm = Rhythm(60.0)
    rhythm.begin(10.0)
    assert not rhythm.is_unusual(69.9)
    assert rhythm.is_unusual(70.0)


def test_half_an_hour_is_unusual_for_any_stream() -> None:
    rhythm = Rhythm(1.0)
    heard(rhythm, [5000.0] * 20)
    assert rhythm.threshold == 1800.0


def test_what_comes_whatever_the_market_does() -> None:
    """As documented; the 24 h statistics of futures come every 5 s."""
    assert CADENCE == {"mark_price": 1.0, "index_price": 1.0, "funding_rate": 60.0, "stats_24h": 5.0}


def test_every_kind_in_the_tables_has_a_channel() -> None:
    kinds = {channel.kind for channel in CHANNELS}
    assert kinds >= set(CADENCE)
    assert kinds >= AT_THEIR_HOUR
    assert not AT_THEIR_HOUR & set(CADENCE)
