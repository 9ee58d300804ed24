"""The exchange's clock is known to half a round trip."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kufeed.protocol.clock import ServerClock

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


def test_the_answer_is_taken_to_be_from_half_way() -> None:
    clock = ServerClock.learned(NOW + 60 * SECOND, NOW, NOW + 2 * SECOND)
    assert clock.ahead_ns == 59 * SECOND
    assert clock.time_ms(NOW + 5 * SECOND) == (NOW + 64 * SECOND) // 1_000_000
    assert ServerClock().time_ms(NOW + 999_999) == NOW // 1_000_000


def test_it_is_known_in_whole_nanoseconds() -> None:
    """A float of so many would be wrong by a hundred of them."""
    assert ServerClock.learned(NOW + 8, NOW + 1, NOW + 4).ahead_ns == 6


@given(
    ahead=st.integers(-(10**18), 10**18),
    out=st.integers(0, 20 * SECOND),
    back=st.integers(0, 20 * SECOND),
    later=st.integers(0, 10**15),
)
def test_it_is_wrong_by_half_the_round_trip_at_most(ahead: int, out: int, back: int, later: int) -> None:
    clock = ServerClock.learned(NOW + out + ahead, NOW, NOW + out + back)
    truth_ms = (NOW + later + ahead) / 1_000_000
    assert abs(clock.time_ms(NOW + later) - truth_ms) <= (out + back) / 2 / 1_000_000 + 1.001
