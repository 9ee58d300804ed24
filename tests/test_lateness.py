"""What is late and what is misdated: the borders, the counts, and one warning for each episode, in pretended time."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kufeed import Ticker, topic
from kufeed._lateness import Lateness

NOW = 1_750_000_000_000_000_000
SECOND = 1_000_000_000
HOUR, MINUTE = 3600 * SECOND, 60 * SECOND
TOPICS = (topic("ticker", "BTC-USDT"), topic("ticker", "ETH-USDT"))


def aged(age_ns: int, stream: int = 0) -> Ticker:
    """An update received now, with a time stamp so much older."""
    one = TOPICS[stream]
    return Ticker(one, one.symbol, 1, NOW - age_ns, NOW, None, None, None, None)


class Desk:
    """Asks as the hot path asks, at a time that the test sets."""

    def __init__(self, latency_warning: float | None = 0.1) -> None:
        self.now = 0.0
        self.lateness = Lateness(latency_warning, perf_counter=lambda: self.now)

    def receive(self, update: Ticker) -> tuple[bool, bool]:
        oldest, newest = self.lateness.in_time(update.received_time_ns)
        assert update.exchange_time_ns is not None
        if not oldest <= update.exchange_time_ns <= newest:
            self.lateness.mark(update)
        return update.late, update.misdated

    def counts(self) -> tuple[int, int]:
        return self.lateness.late, self.lateness.misdated


IN_TIME, LATE, MISDATED = (False, False), (True, False), (False, True)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        *((0, IN_TIME), (SECOND // 10, IN_TIME), (SECOND // 10 + 1, LATE), (HOUR, LATE), (HOUR + 1, MISDATED)),
        *((-1, IN_TIME), (-MINUTE, IN_TIME), (-MINUTE - 1, MISDATED), (NOW - 1, MISDATED), (-(2**62), MISDATED)),
    ],
)
def test_the_borders(age: int, expected: tuple[bool, bool]) -> None:
    desk = Desk()
    assert desk.receive(aged(age)) == expected
    assert desk.counts() == expected


def test_none_means_that_nothing_is_late() -> None:
    desk = Desk(None)
    assert [desk.receive(aged(age)) for age in (SECOND, HOUR, HOUR + 1)] == [IN_TIME, IN_TIME, MISDATED]


def test_a_warning_above_an_hour_warns_of_nothing() -> None:
    desk = Desk(1e300)
    assert [desk.receive(aged(age)) for age in (HOUR, HOUR + 1)] == [IN_TIME, MISDATED]


@given(st.integers(-(2**61), 2**61), st.none() | st.floats(1e-9, 1e9))
def test_an_update_is_one_of_the_three(age: int, latency_warning: float | None) -> None:
    desk = Desk(latency_warning)
    late, misdated = desk.receive(aged(age))
    assert misdated is not (-MINUTE <= age <= HOUR)
    assert late is (latency_warning is not None and not misdated and age > round(latency_warning * SECOND))
    assert desk.counts() == (late, misdated)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "kufeed.latency"]


def test_an_episode_is_warned_about_once_however_many_streams_are_late(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    for number in range(1000):
        desk.now = number * 0.1
        desk.receive(aged(SECOND // 4, number % 2))
    assert warnings(caplog) == [
        "/market/ticker:BTC-USDT came 0.250 s after its time stamp, and latency_warning is 0.1 s; "
        "0 were late in the episode before"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_an_episode_ends_when_none_was_late_for_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    for now in (0.0, 5.0, 15.0, 25.0):  # never more than ten apart
        desk.now = now
        desk.receive(aged(SECOND))
    assert len(warnings(caplog)) == 1
    desk.now = 35.5
    for age in (0, HOUR + 1):  # neither is late
        desk.receive(aged(age))
    desk.receive(aged(2 * SECOND, stream=1))
    assert len(warnings(caplog)) == 2
    assert warnings(caplog)[-1] == (
        "/market/ticker:ETH-USDT came 2.000 s after its time stamp, and latency_warning is 0.1 s; "
        "4 were late in the episode before"
    )
    desk.now = 60.0
    desk.receive(aged(SECOND))
    assert warnings(caplog)[-1].endswith("; 1 were late in the episode before")


def test_what_is_misdated_is_not_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.receive(aged(2 * HOUR))
    assert warnings(caplog) == []
