"""What is told of streams: the words for it, and how two gaps with nothing between them become one."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from kufeed.protocol import Gap, GapCause, GapFill, topic

TICKER = topic("ticker", "BTC-USDT")
EARLY = Gap(TICKER, GapCause.RECONNECT, 3, 5, 30, 50)
LATE = Gap(TICKER, GapCause.OVERFLOW, 7, 9, 70, 90)


def test_causes_and_fills_have_the_names_that_users_write() -> None:
    assert list(GapCause) == ["reconnect", "sequence", "overflow", "stale", "book"]
    assert list(GapFill) == ["filled", "partly", "unknown"]
    assert EARLY.filled is None


@pytest.mark.parametrize(("one", "other"), [(EARLY, LATE), (LATE, EARLY)], ids=["in order", "late"])
def test_two_gaps_become_one_from_the_first_to_the_last(one: Gap, other: Gap) -> None:
    """Between them is nothing that was delivered: what the exchange sent there is missing as well."""
    assert one.joined(other) == Gap(TICKER, GapCause.RECONNECT, 3, 9, 30, 90)


@pytest.mark.parametrize("field", ["first_missing", "last_missing"])
def test_where_a_number_is_not_known_none_is(field: str) -> None:
    changes: dict[str, Any] = {field: None}
    unknown = attrs.evolve(LATE, **changes)
    for joined in (EARLY.joined(unknown), unknown.joined(EARLY)):
        assert joined == Gap(TICKER, GapCause.RECONNECT, None, None, 30, 90)


def test_one_that_goes_on_makes_both_go_on() -> None:
    for one, other in ((EARLY, LATE), (LATE, EARLY)):
        goes_on = attrs.evolve(one, until_ns=None)
        assert goes_on.joined(other).until_ns is other.joined(goes_on).until_ns is None


def test_one_before_which_nothing_was_received_is_the_first() -> None:
    always = attrs.evolve(LATE, since_ns=None)
    for other in (EARLY, attrs.evolve(EARLY, since_ns=1)):
        for joined in (other.joined(always), always.joined(other)):
            assert (joined.cause, joined.since_ns) == (GapCause.OVERFLOW, None)


def test_of_two_that_begin_together_the_cause_is_that_of_the_one_told_first() -> None:
    for since in (30, None):
        one, other = attrs.evolve(EARLY, since_ns=since), attrs.evolve(LATE, since_ns=since)
        assert (one.joined(other).cause, other.joined(one).cause) == (GapCause.RECONNECT, GapCause.OVERFLOW)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (GapFill.FILLED, GapFill.FILLED, GapFill.FILLED),
        (GapFill.FILLED, GapFill.PARTLY, GapFill.PARTLY),
        (GapFill.UNKNOWN, GapFill.PARTLY, GapFill.UNKNOWN),
        (GapFill.FILLED, None, None),
        (None, GapFill.UNKNOWN, None),
        (None, None, None),
    ],
)
def test_two_that_become_one_are_filled_as_far_as_both(
    one: GapFill | None, other: GapFill | None, both: GapFill | None
) -> None:
    assert attrs.evolve(EARLY, filled=one).joined(attrs.evolve(LATE, filled=other)).filled is both
