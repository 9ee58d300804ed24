"""What an update is to those before it: examples of each merge key, and a property over links that lag and lose."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kufeed import Side, topic
from kufeed.protocol.merge import Merge, Verdict, merge_of
from kufeed.protocol.updates import Announcement, BookDelta, Candle, FundingRate, Level1, Ticker, Trade

if TYPE_CHECKING:
    from kufeed import Update

NEW, AFTER_HOLE, NEW_EPOCH = Verdict.NEW, Verdict.AFTER_HOLE, Verdict.NEW_EPOCH
DUPLICATE, DISORDERED = Verdict.DUPLICATE, Verdict.DISORDERED

START = 1_750_000_000_000_000_000
SECOND = 10**9
A, B, C = 1, 2, 3
"""Generations of links."""

TRADES, TICKERS, DELTAS = topic("trade", "AB-CD"), topic("ticker", "AB-CD"), topic("book_delta", "AB-CD")
LEVEL1, CANDLES = topic("level1", "AB-CD"), topic("candle", "AB-CD", interval="1min")
RATES, ANNOUNCEMENTS = topic("funding_rate", "ABCDM"), topic("announcement", "ABCDM")

_received = iter(range(START, START + 10**15, 7))


def times(time: int | None) -> tuple[int | None, int]:
    """Of the exchange, so many ns after `START`; and of the receipt, never the same twice."""
    return None if time is None else START + time, next(_received)


def trade(number: int, time: int | None = None, price: int = 1) -> Trade:
    at = times(number if time is None else time)
    return Trade(TRADES, "AB-CD", number, *at, Decimal(price), Decimal(2), Side.BUY, str(number))


def ticker(number: int | None, time: int | None, bid: int = 1) -> Ticker:
    return Ticker(TICKERS, "AB-CD", number, *times(time), Decimal(bid), Decimal(2), Decimal(3), Decimal(4))


def delta(first: int, last: int | None = None, time: int | None = -1) -> BookDelta:
    number = first if last is None else last
    return BookDelta(DELTAS, "AB-CD", number, *times(number if time == -1 else time), first, ())


def level1(time: int | None, bid: int = 1) -> Level1:
    return Level1(LEVEL1, "AB-CD", None, *times(time), Decimal(bid), Decimal(2), Decimal(3), Decimal(4))


def misdated(update: Any) -> Any:
    return attrs.evolve(update, misdated=True)


def announcement(time: int, event: str = "funding.begin") -> Announcement:
    return Announcement(ANNOUNCEMENTS, "ABCDM", None, *times(time), event, START, Decimal(1))


def rate(time: int, predicted: bool) -> FundingRate:
    return FundingRate(RATES, "ABCDM", None, *times(time), Decimal(1), predicted, None)


def verdicts(*taken: tuple[Update, int], merge: Merge | None = None) -> list[Verdict]:
    merge = merge or merge_of(taken[0][0].topic.channel)
    return [merge.take(update, generation) for update, generation in taken]


def firsts(*taken: tuple[Update, int], merge: Merge | None = None) -> list[bool | None]:
    """Of each that is a duplicate, whether it shows that its link has missed nothing; None of others."""
    merge = merge or merge_of(taken[0][0].topic.channel)
    return [merge.rejoins if merge.take(*one) is DUPLICATE else None for one in taken]


def on(generation: int, *updates: Any) -> list[tuple[Any, int]]:
    return [(update, generation) for update in updates]


# -- contiguous: book changes -----------------------------------------------------------------------------------------


def test_numbers_that_join_on_are_new_on_whichever_link_they_come_first() -> None:
    taken = [(delta(5), A), (delta(6, 8), A), (delta(9), B), (delta(9), A), (delta(10), A), (delta(9, 10), B)]
    assert verdicts(*taken) == [NEW, NEW, NEW, DUPLICATE, NEW, DUPLICATE]


def test_a_hole_is_known_by_its_numbers_and_told_once() -> None:
    merge = merge_of(DELTAS.channel)
    assert verdicts(*on(A, delta(5), delta(9, 10)), merge=merge) == [NEW, AFTER_HOLE]
    assert merge.missing == (6, 8)
    assert verdicts(*on(A, delta(7), delta(11)), merge=merge) == [DISORDERED, NEW], "late, and told already"
    assert verdicts(*on(B, delta(8), delta(11), delta(12)), merge=merge) == [DUPLICATE, DUPLICATE, NEW]


def test_one_number_is_a_hole_too() -> None:
    merge = merge_of(DELTAS.channel)
    assert verdicts(*on(A, delta(5), delta(7)), merge=merge) == [NEW, AFTER_HOLE]
    assert merge.missing == (6, 6)


def test_before_anything_has_come_nothing_is_missing() -> None:
    merge = merge_of(DELTAS.channel)
    assert (merge.missing, merge.rejoins) == (None, False)
    assert [verdict.value for verdict in Verdict] == [
        *("new", "new, after a hole", "new epoch"),
        *("duplicate", "disordered"),
    ]


def test_what_came_already_is_not_new_on_the_link_that_brought_it_either() -> None:
    assert verdicts(*on(A, delta(5), delta(6), delta(7), delta(6), delta(8))) == [NEW, NEW, NEW, DUPLICATE, NEW]


def test_a_message_that_overlaps_is_new() -> None:
    """Its changes have numbers of their own."""
    assert verdicts(*on(A, delta(5, 7), delta(6, 9), delta(10))) == [NEW, NEW, NEW]


@pytest.mark.parametrize("other", [A, B])
def test_lower_numbers_that_were_sent_later_are_a_new_epoch_at_once(other: int) -> None:
    taken = [*on(A, delta(1000), delta(1001)), *on(other, delta(500, time=1002), delta(501, time=1003))]
    assert verdicts(*taken) == [NEW, NEW, NEW_EPOCH, NEW]


def test_a_renumbering_within_a_millisecond_is_seen_with_the_next_one() -> None:
    updates = on(A, delta(1000, time=5), delta(1, time=5), delta(2, time=5), delta(3, time=6), delta(4, time=6))
    assert verdicts(*updates) == [NEW, DISORDERED, DISORDERED, NEW_EPOCH, NEW]


def test_what_lags_behind_a_renumbering_is_not_delivered() -> None:
    merge = merge_of(DELTAS.channel)
    verdicts(*on(A, delta(998), delta(999)), *on(B, delta(997), delta(998)), merge=merge)
    assert verdicts(*on(A, delta(1000), delta(1, time=1002)), merge=merge) == [NEW, NEW_EPOCH]
    taken = on(B, delta(999), delta(1000), delta(1001, time=1001), delta(1, time=1002), delta(2, time=1003))
    assert verdicts(*taken, merge=merge) == [DUPLICATE, DUPLICATE, DUPLICATE, DUPLICATE, NEW]


def test_a_link_that_begins_with_what_was_numbered_before_a_renumbering_is_not_delivered() -> None:
    """Though its number is higher than the last: it was sent before the numbers began anew."""
    renumbered = on(A, delta(1000), delta(1, time=1002))
    assert verdicts(*renumbered, *on(B, delta(1001, time=1001), delta(2, time=1003))) == [
        *(NEW, NEW_EPOCH),
        *(DUPLICATE, NEW),
    ]


def test_what_is_known_to_have_been_delivered_goes_as_far_back_as_the_numbers_have_no_hole() -> None:
    """With times. Without them lower numbers may be those of a new numbering, unless they are of the last 64."""
    timed, untimed = (on(A, *(delta(number, time=time) for number in range(2, 101))) for time in (-1, None))
    for number, known in ((1, False), (2, True), (3, True), (35, True)):
        assert firsts(*timed, *on(B, delta(number)))[-1] is known
    for number, known in ((2, False), (35, False), (36, True), (37, True)):
        late = on(B, delta(number, time=None))
        assert firsts(*untimed, *late)[-1] is known
        merge = merge_of(DELTAS.channel)
        verdicts(*untimed, merge=merge)
        merge.cut()
        assert verdicts(*late, merge=merge) == [DUPLICATE if known else NEW_EPOCH]


def test_without_times_lower_numbers_are_a_new_epoch_after_an_outage_or_eight_in_a_row() -> None:
    merge = merge_of(DELTAS.channel)
    verdicts(*on(A, *(delta(number, time=None) for number in (1000, 1001, 1002))), merge=merge)
    lower = on(A, *(delta(number, time=None) for number in range(1, 10)))
    assert verdicts(*lower, merge=merge) == [*[DISORDERED] * 7, NEW_EPOCH, NEW]
    merge.cut()
    assert verdicts(*on(B, delta(9, time=None), delta(10, time=None)), merge=merge) == [DUPLICATE, NEW]
    merge.cut()
    assert verdicts(*on(C, delta(1, time=None), delta(2, time=None)), merge=merge) == [NEW_EPOCH, NEW]


def test_a_reconnect_that_cost_no_number_goes_on_and_another_has_a_hole() -> None:
    merge = merge_of(DELTAS.channel)
    verdicts(*on(A, delta(5), delta(6)), merge=merge)
    merge.cut()
    assert verdicts(*on(B, delta(7)), merge=merge) == [NEW]
    merge.cut()
    assert verdicts(*on(C, delta(9)), merge=merge) == [AFTER_HOLE]
    assert merge.missing == (8, 8)


# -- increasing: trades and tickers -----------------------------------------------------------------------------------


def test_numbers_may_be_skipped() -> None:
    assert verdicts(*on(A, trade(1), trade(5), trade(6))) == [NEW, NEW, NEW]


def test_of_two_links_the_first_arrival_is_delivered() -> None:
    taken = [(trade(1), A), (trade(1), B), (trade(2), B), (trade(3), B), (trade(2), A), (trade(3), A), (trade(4), A)]
    assert verdicts(*taken) == [NEW, DUPLICATE, NEW, NEW, DUPLICATE, DUPLICATE, NEW]


def test_a_trade_that_the_faster_link_has_missed_is_noticed() -> None:
    """It cannot be delivered in order; that it was missed can be told."""
    assert verdicts(*on(A, trade(1), trade(2), trade(4)), *on(B, trade(2), trade(3), trade(4))) == [
        *(NEW, NEW, NEW),
        *(DUPLICATE, DISORDERED, DUPLICATE),
    ]


def test_trades_of_one_link_out_of_order() -> None:
    assert verdicts(*on(A, trade(1), trade(3), trade(2), trade(3), trade(4))) == [NEW, NEW, DISORDERED, DUPLICATE, NEW]


def test_what_is_older_than_all_that_is_remembered_is_no_news_of_another_link_and_disordered_on_the_same() -> None:
    many = on(A, *(trade(number) for number in range(100, 300)))
    assert verdicts(*many, *on(B, trade(50)))[-1] is DUPLICATE
    assert verdicts(*many, *on(A, trade(50)))[-1] is DISORDERED


def test_of_the_last_64_trades_it_is_known_which_were_missed() -> None:
    """Of what another link brings; of trades before them nobody knows."""
    evens = on(A, *(trade(number) for number in range(2, 202, 2)))
    for number, missed in ((71, False), (73, False), (75, True), (199, True)):
        assert verdicts(*evens, *on(B, trade(number)))[-1] is (DISORDERED if missed else DUPLICATE)
    assert firsts(*evens, *on(B, trade(72), trade(74), trade(76)))[-3:] == [False, False, False]
    assert firsts(*evens, *on(B, trade(74), trade(76)))[-2:] == [True, False], "the first of its link alone"


def test_a_number_that_is_used_again_for_another_trade_is_of_a_new_numbering() -> None:
    assert verdicts(*on(A, *map(trade, range(1, 6)), trade(3, time=9, price=7)))[-1] is NEW_EPOCH


def test_a_ticker_may_say_several_things_at_one_number() -> None:
    """It has its book's number and its own time; of the last trade it may say more."""
    first, same, later = ticker(7, 1), ticker(7, 1), ticker(7, 2)
    other, older = ticker(7, 2, bid=5), ticker(7, 0, bid=6)
    assert verdicts(*on(A, first, same, later, other, older)) == [NEW, DUPLICATE, NEW, NEW, DISORDERED]
    assert verdicts(*on(A, later, older, ticker(7, 1))) == [NEW, DISORDERED, DISORDERED]
    again = on(B, ticker(7, 1), ticker(7, 2), ticker(7, 2, bid=5), ticker(7, 3))
    assert verdicts(*on(A, first, later, other), *again)[3:] == [DUPLICATE, DUPLICATE, DUPLICATE, NEW]


def test_an_older_state_of_another_link_was_superseded() -> None:
    """Two servers may choose other moments to publish a ticker; none of both is missing."""
    taken = [(ticker(10, 10), A), (ticker(20, 20), A), (ticker(12, 12), B), (ticker(22, 22), B)]
    assert verdicts(*taken) == [NEW, NEW, DUPLICATE, NEW]


def test_two_tickers_of_one_time_in_the_order_of_their_numbers_are_new_whoever_brings_them() -> None:
    assert verdicts((ticker(10, 5), A), (ticker(11, 5), B), (ticker(12, 5), A)) == [NEW, NEW, NEW]


@pytest.mark.parametrize("time", [6, None])
def test_what_is_of_the_old_numbering_by_the_numbers_of_its_link_is_not_delivered(time: int | None) -> None:
    """Where its time does not tell. Without times nobody can tell for ever: so many in a row are a new numbering."""
    merge = merge_of(TICKERS.channel)
    verdicts(*on(A, ticker(1000, time and 5)), *on(B, ticker(1000, time and 5)), merge=merge)
    lower = [ticker(number, time) for number in range(1, 9)]
    assert NEW_EPOCH in verdicts(*on(A, *lower), merge=merge)
    old = on(B, *(ticker(number, time) for number in range(1001, 1009)))
    assert verdicts(*old, merge=merge) == [*[DUPLICATE] * 7, DUPLICATE if time else NEW_EPOCH]
    assert merge.rejoins is False
    if time:
        assert verdicts(*on(B, ticker(9, time + 1)), *on(A, ticker(10, time)), merge=merge) == [NEW, NEW]
    else:
        begun = on(B, *(ticker(number, time) for number in (1007, 1008, 1009)))
        assert verdicts(*begun, merge=merge) == [DISORDERED, DUPLICATE, NEW]


def test_a_renumbering_that_one_link_has_told_too_early_to_be_seen_is_its_own_when_another_tells_it() -> None:
    """Its numbers before are not held against it."""
    early = on(A, ticker(100, 5), ticker(1, 5))
    assert verdicts(*early, *on(B, ticker(2, 6)), *on(A, ticker(3, 6))) == [NEW, DISORDERED, NEW_EPOCH, NEW]


def test_a_link_that_has_fallen_behind_itself_begins_a_new_numbering_as_soon_as_it_is_later() -> None:
    """Whatever it was that it brought then: an older state, what was delivered, or what another numbering had."""
    older = [*on(A, ticker(100, 100)), *on(B, ticker(50, 50), ticker(40, 40))]
    assert verdicts(*older, *on(B, ticker(45, 101)))[1:] == [DUPLICATE, DUPLICATE, NEW_EPOCH]
    equal = [*on(A, ticker(100, 100)), *on(B, ticker(50, 100), ticker(40, 100), ticker(100, 100))]
    assert verdicts(*equal, *on(A, ticker(105, 105)), *on(B, ticker(103, 106)))[1:] == [
        *(DUPLICATE, DISORDERED, DUPLICATE),
        *(NEW, NEW_EPOCH),
    ]
    renumbered = [*on(A, ticker(1000, 5)), *on(B, ticker(1000, 5)), *on(A, ticker(1, 6)), *on(B, ticker(995, 6))]
    assert verdicts(*renumbered, *on(A, ticker(2000, 7)), *on(B, ticker(1500, 8)))[2:] == [
        *(NEW_EPOCH, DUPLICATE),
        *(NEW, NEW_EPOCH),
    ]
    again = [*on(A, *map(trade, range(1, 6))), *on(B, trade(5), trade(3))]
    assert verdicts(*again, *on(B, trade(4, time=9)))[-3:] == [DUPLICATE, DUPLICATE, NEW_EPOCH]
    anew = on(A, ticker(1000, 80), ticker(500, 100))
    old = on(B, ticker(400, 90), ticker(300, 91))
    assert verdicts(*anew, *old, *on(B, ticker(350, 101)))[1:] == [NEW_EPOCH, DUPLICATE, DUPLICATE, NEW_EPOCH]
    held = on(A, *map(delta, range(100, 110)))
    lagging = on(B, delta(105), delta(103), delta(104, time=110))
    assert verdicts(*held, *lagging)[-3:] == [DUPLICATE, DUPLICATE, NEW_EPOCH]


def test_one_that_has_not_begins_none_before_it_is_later_by_a_second() -> None:
    rising = on(B, ticker(50, 50), ticker(50, 50), ticker(60, 101))
    assert verdicts(*on(A, ticker(100, 100)), *rising) == [NEW, DUPLICATE, DUPLICATE, DUPLICATE]


@pytest.mark.parametrize("other", [B, None])
def test_a_lower_number_on_the_link_that_delivered_last_is_out_of_order(other: int | None) -> None:
    """Also after a new numbering has begun there. On another link it is an older state."""
    verdict, link = (DISORDERED, A) if other is None else (DUPLICATE, other)
    assert verdicts(*on(A, ticker(5, 5)), *on(link, ticker(3, 5)))[-1] is verdict
    assert verdicts(*on(A, ticker(50, 1), ticker(5, 5)), *on(link, ticker(3, 5)))[-1] is verdict
    assert verdicts(*on(A, ticker(50, 1), ticker(5, 5), ticker(6, 5)))[-1] is NEW
    in_a_row = on(A, *(ticker(number, None) for number in (50, *range(11, 19))))
    assert verdicts(*in_a_row, *on(link, ticker(3, None)))[-2:] == [NEW_EPOCH, verdict]
    merge = merge_of(TICKERS.channel)
    verdicts(*on(C, ticker(50, None)), merge=merge)
    merge.cut()
    assert verdicts(*on(A, ticker(5, None)), *on(link, ticker(3, None)), merge=merge) == [NEW_EPOCH, verdict]


def test_a_link_behind_what_the_epoch_began_with_is_out_of_order_when_it_falls_behind_itself() -> None:
    """Within the epoch it is not: then it may have fallen together with the exchange."""
    begun = [*on(A, ticker(100, 100)), *on(B, ticker(50, 100), ticker(40, 100))]
    assert verdicts(*begun) == [NEW, DUPLICATE, DISORDERED]
    within = [*on(A, ticker(100, 100), ticker(200, 200)), *on(B, ticker(150, 150), ticker(101, 101), ticker(100, 150))]
    assert verdicts(*within)[2:] == [DUPLICATE, DUPLICATE, DUPLICATE]


def test_without_times_what_another_link_lags_is_no_new_numbering_while_the_first_lives() -> None:
    for number in (ticker, lambda number, time: delta(number, time=time)):
        lagging = on(B, number(5, None))
        assert verdicts(*on(A, number(1000, None), number(1001, None)), *lagging)[-1] is DUPLICATE
    merge = merge_of(TICKERS.channel)
    verdicts(*on(A, ticker(10, 10**12)), merge=merge)
    merge.cut()
    assert verdicts(*on(B, ticker(5, None)), merge=merge) == [NEW_EPOCH], "one time alone tells nothing"


def test_tickers_without_time_or_number() -> None:
    assert verdicts(*on(A, ticker(7, None), ticker(7, None), ticker(7, None, bid=5))) == [NEW, DUPLICATE, NEW]
    numberless = on(A, ticker(None, 1), ticker(None, 1), ticker(None, 2), ticker(None, 1))
    assert verdicts(*numberless) == [NEW, DUPLICATE, NEW, DISORDERED]
    assert verdicts(*on(A, ticker(7, 1), ticker(None, 2), ticker(8, 3))) == [NEW, NEW, NEW]
    assert verdicts(*on(A, ticker(None, 5)), *on(B, ticker(None, 4))) == [NEW, DUPLICATE], "of another link"


@pytest.mark.parametrize("make", [trade, ticker])
def test_one_absurd_number_does_not_end_a_stream(make: Any) -> None:
    assert verdicts(*on(A, make(5, 5), make(10**18, 6), make(7, 7), make(8, 8))) == [NEW, NEW, NEW_EPOCH, NEW]
    absurd = misdated(make(10**18, 10**18))
    assert verdicts(*on(A, make(5, 5), absurd, make(7, 7), make(8, 8))) == [NEW, NEW, NEW_EPOCH, NEW]
    low = [*on(B, make(4, 4)), *on(A, make(5, 5), make(1, 6)), *on(B, make(5, 5), make(7, 7))]
    assert verdicts(*low) == [NEW, NEW, NEW_EPOCH, DUPLICATE, NEW]


def test_a_stamp_that_is_a_bit_later_on_a_server_that_lags_is_no_epoch() -> None:
    taken = [(ticker(10, 10), A), (ticker(9, 9), B), (ticker(20, 20), A), (ticker(19, 25), B)]
    assert verdicts(*taken) == [NEW, DUPLICATE, NEW, DUPLICATE]
    assert verdicts(*taken, (ticker(19, 21 + SECOND), B))[-1] is NEW_EPOCH, "but in the end something comes"


@pytest.mark.parametrize("make", [trade, ticker])
def test_a_link_that_lags_behind_a_renumbering(make: Any) -> None:
    merge = merge_of(make(1, 1).topic.channel)
    old = [make(1000 + number, number) for number in range(30)]
    new = [make(1 + number, 100 + number) for number in range(30)]
    assert verdicts(*on(A, *old, *new), merge=merge) == [*[NEW] * 30, NEW_EPOCH, *[NEW] * 29]
    assert set(verdicts(*on(B, *old, *new), merge=merge)) == {DUPLICATE}
    assert verdicts(*on(B, make(31, 130)), merge=merge) == [NEW]


def test_a_clock_that_is_set_back_before_another_link_goes_on_loses_nothing_silently() -> None:
    """Found by a fault plan: dated before the first update of all, it was taken for one that had been delivered."""
    before = on(A, trade(1, 100), trade(2, 101))
    back = on(B, trade(3, 71), trade(4, 72), trade(5, 105))
    assert verdicts(*before, *back) == [NEW, NEW, DISORDERED, DISORDERED, NEW]


def test_what_a_clock_set_back_makes_look_later_is_still_the_same() -> None:
    """Found by a fault plan, on two links: it was taken for the first of a new numbering."""
    sent = [trade(1, 100), trade(2, 101), trade(3, 71), trade(4, 72)]
    assert verdicts(*on(A, *sent), *on(B, *sent, trade(5, 105))) == [*[NEW] * 4, *[DUPLICATE] * 4, NEW]


# -- by time ----------------------------------------------------------------------------------------------------------


def test_equal_times_are_told_apart_by_what_is_said() -> None:
    said = on(A, level1(1), level1(1, 5), level1(1), level1(2))
    assert verdicts(*said) == [NEW, NEW, DUPLICATE, NEW]
    assert verdicts(*said, *on(B, level1(1), level1(1, 5), level1(2), level1(2, 5), level1(3)))[4:] == [
        *(DUPLICATE, DUPLICATE, DUPLICATE),
        *(NEW, NEW),
    ]


def test_an_earlier_time_is_old_on_another_link_and_disordered_on_the_same() -> None:
    assert verdicts((level1(5), A), (level1(4), B), (level1(3), A)) == [NEW, DUPLICATE, DISORDERED]
    assert verdicts((level1(1), A), (level1(5), B), (level1(3), B)) == [NEW, NEW, DISORDERED]
    assert verdicts((level1(5), A), (level1(5, 7), B), (level1(3), B)) == [NEW, NEW, DISORDERED]
    assert verdicts((level1(10), A), (level1(12), B), (level1(11), A)) == [NEW, NEW, DUPLICATE]


def test_a_link_that_has_fallen_behind_itself_is_out_of_order_until_it_delivers() -> None:
    fallen = [(level1(100), A), *on(B, level1(50), level1(40))]
    assert verdicts(*fallen, *on(B, level1(45), level1(100), level1(99)))[1:] == [
        *(DUPLICATE, DISORDERED),
        *(DISORDERED, DUPLICATE, DISORDERED),
    ]
    passed = [*fallen, (level1(100), B), (level1(110), A)]
    assert verdicts(*passed, (level1(105), B))[-1] is DISORDERED
    assert verdicts(*passed, *on(B, level1(111)), *on(A, level1(112)), *on(B, level1(111, 7)))[-1] is DUPLICATE
    assert verdicts(*on(A, level1(10), level1(5)), *on(B, level1(12)), *on(A, level1(11)))[-1] is DISORDERED
    risen = on(B, level1(50), level1(50), level1(60))
    assert verdicts((level1(100), A), *risen) == [NEW, DUPLICATE, DUPLICATE, DUPLICATE]


@pytest.mark.parametrize("make", [trade, ticker])
def test_a_wrong_clock_here_changes_nothing(make: Any) -> None:
    """Then every time is absurd, and they can be compared with each other."""
    old, new = ([misdated(make(1000 * n + k, 1000 - 100 * n + k)) for k in range(30)] for n in (5, 3))
    merge = merge_of(make(1, 1).topic.channel)
    assert verdicts(*on(A, *old), merge=merge) == [NEW] * 30
    assert set(verdicts(*on(B, *old), merge=merge)) == {DUPLICATE}
    assert verdicts(*on(A, *new), merge=merge) == [NEW_EPOCH, *[NEW] * 29]


def test_without_a_time_it_is_delivered() -> None:
    assert verdicts(*on(A, level1(None), level1(None), level1(5), level1(None)), (level1(None), B)) == [NEW] * 5


def test_a_clock_that_was_set_back_does_not_end_a_stream() -> None:
    back = on(A, level1(1000), *(level1(time) for time in range(500, 509)))
    assert verdicts(*back) == [NEW, *[DISORDERED] * 7, NEW_EPOCH, NEW]
    again = on(A, level1(507), level1(508), level1(509), level1(508))
    assert verdicts(*back[:9], *again)[9:] == [DUPLICATE, NEW, NEW, DISORDERED]
    thrice = on(A, level1(1001), *(level1(time) for time in range(500, 507)))
    assert verdicts(*back[:8], *thrice)[8:] == [NEW, *[DISORDERED] * 7], "not in a row"


def test_what_lags_behind_a_clock_that_was_set_back() -> None:
    """What was dated before is not delivered, unless it does not end; what was dated since is an older state."""
    merge = merge_of(LEVEL1.channel)
    verdicts((level1(1000), A), (level1(1000), B), *on(A, *map(level1, range(500, 508)), level1(510)), merge=merge)
    assert verdicts(*on(B, level1(1001), level1(1002)), merge=merge) == [DUPLICATE, DUPLICATE]
    assert verdicts(*on(B, level1(507, 9), level1(509), level1(505)), merge=merge) == [DUPLICATE, DUPLICATE, DISORDERED]
    before = [(level1(1000), A), (level1(1000), B), *on(A, *map(level1, range(500, 508)))]
    assert verdicts(*before, *on(B, *map(level1, range(1001, 1009)), level1(1007, 9), level1(1009)))[9:] == [
        *(NEW_EPOCH, *[DUPLICATE] * 7),
        *(NEW_EPOCH, DISORDERED, NEW),
    ]


def test_a_time_that_cannot_be_right_makes_no_other_old() -> None:
    absurd = misdated(level1(10**18))
    taken = on(A, level1(1), absurd, level1(2), absurd, misdated(level1(10**18 + 1)), level1(3))
    assert verdicts(*taken) == [NEW, NEW, NEW, DUPLICATE, NEW, NEW]
    assert verdicts(*taken, *on(B, absurd, level1(2), level1(4)))[6:] == [DUPLICATE, DUPLICATE, NEW]


def test_a_market_that_sleeps_repeats_itself_past_the_hour() -> None:
    assert verdicts(*on(A, level1(1), level1(1), misdated(level1(1)))) == [NEW, DUPLICATE, DUPLICATE]
    assert verdicts(*on(A, level1(1), misdated(level1(1, 5)))) == [NEW, NEW], "that was not said before"
    assert verdicts(*on(A, misdated(level1(1)), level1(1))) == [NEW, NEW]


def test_candles_of_one_time() -> None:
    """`add` and `update` of a row may share it."""

    def candle(time: int, start: int, close: int) -> Candle:
        values = (Decimal(1), Decimal(close), Decimal(9), Decimal(1), Decimal(1), Decimal(1))
        return Candle(CANDLES, "AB-CD", None, *times(time), "1min", start, *values)

    assert verdicts(*on(A, candle(5, 0, 2), candle(5, 60, 2), candle(5, 60, 3), candle(5, 60, 2))) == [
        *(NEW, NEW, NEW),
        DUPLICATE,
    ]


def test_settled_funding_rates_may_come_after_later_predictions() -> None:
    taken = [(rate(10, True), A), (rate(20, True), A), (rate(15, False), A), (rate(15, False), B), (rate(20, True), B)]
    assert verdicts(*taken) == [NEW, NEW, NEW, DUPLICATE, DUPLICATE]
    assert verdicts(*taken, (rate(10, True), A), (rate(10, True), C))[5:] == [DISORDERED, DUPLICATE]


def test_an_announcement_that_the_faster_link_has_missed_is_noticed() -> None:
    taken = [(announcement(1), A), (announcement(9), A), (announcement(1), B), (announcement(5, "funding.end"), B)]
    assert verdicts(*taken) == [NEW, NEW, DUPLICATE, DISORDERED]
    first = on(A, announcement(5), announcement(9), announcement(9, "funding.end"), announcement(12))
    for time, event, verdict in (
        *((1, "funding.begin", DUPLICATE), (5, "funding.end", DUPLICATE)),  # it may be forgotten
        *((6, "funding.begin", DISORDERED), (9, "other", DISORDERED), (9, "funding.end", DUPLICATE)),
    ):
        assert verdicts(*first, (announcement(time, event), B))[-1] is verdict
    assert set(verdicts(*first, *on(B, *[announcement(9)] * 20))[4:]) == {DUPLICATE}, "however often"
    many = on(A, *map(announcement, range(1, 34)))
    for time, first_is_known in ((1, False), (2, True)):
        assert firsts(*many, (announcement(time), B))[-1] is first_is_known, "32 are remembered"


# -- what a first duplicate proves ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        *(trade, level1, announcement, lambda time: ticker(time, time), lambda time: ticker(None, time)),
        *(lambda time: misdated(level1(time)), lambda time: rate(time, True), lambda time: rate(time, False)),
    ],
)
def test_a_link_that_begins_with_what_was_delivered_last_has_missed_nothing(make: Any) -> None:
    at = (make(5), make(6))
    merge = merge_of(at[0].topic.channel)
    verdicts(*on(A, *at), merge=merge)
    merge.cut()
    again = attrs.evolve(at[1], received_time_ns=1)
    assert verdicts(*on(A, again), merge=merge) == [DUPLICATE], "whatever its generation, after an outage"
    assert merge.rejoins is True
    assert verdicts(*on(A, again), merge=merge) == [DUPLICATE]
    assert merge.rejoins is False, "it is not the first of its link"


@pytest.mark.parametrize("make", [level1, lambda time: ticker(time, time)])
def test_an_old_state_proves_nothing(make: Any) -> None:
    """It may be what the exchange shows to everybody who comes."""
    merge = merge_of(make(1).topic.channel)
    verdicts(*on(A, make(5), make(9)), merge=merge)
    merge.cut()
    assert verdicts(*on(B, make(7)), merge=merge) == [DUPLICATE]
    assert merge.rejoins is False


def test_what_a_link_begins_with_may_have_been_delivered_long_ago() -> None:
    for taken in (on(A, *map(delta, range(5, 10))), on(A, *map(announcement, range(5, 10)))):
        make: Any = delta if taken[0][0].topic is DELTAS else announcement
        assert firsts(*taken, *on(B, make(7), make(7), make(8)))[5:] == [True, False, False]
        assert firsts(*taken, *on(B, make(5), make(6)))[5:] == [True, False]


@pytest.mark.parametrize("make", [level1, delta, trade])
def test_a_link_is_known_when_it_has_delivered_whether_or_not_it_did_so_last(make: Any) -> None:
    assert firsts((make(5), A), (make(6), B), (make(6), A), (make(6), B), (make(5), C))[2:] in (
        [False, False, True],
        [False, False, False],
    )


# -- bounded ----------------------------------------------------------------------------------------------------------


def test_as_many_links_are_remembered_as_may_live_at_once() -> None:
    """Four besides the one that delivered last; of more, the one that came first is forgotten."""
    others = list(range(11, 15))
    same = [(level1(5), link) for link in others]
    assert firsts((level1(5), A), *same, *same)[1:] == [True] * 4 + [False] * 4
    assert firsts((level1(5), A), *same, (level1(5), 15), *same)[5:7] == [True, True], "11 is a new one now"
    passed = [(level1(6), 14), *((level1(6), link) for link in (A, 11, 12, 13))]
    assert firsts((level1(5), A), *same, *passed)[6:] == [False] * 4, "who delivers does not count"


@pytest.mark.parametrize("make", [lambda n: ticker(7, 1, n), lambda n: level1(1, n)])
def test_what_stands_at_one_place_is_forgotten_in_time(make: Any) -> None:
    merge: Any = merge_of(make(1).topic.channel)
    assert set(verdicts(*on(A, *map(make, range(1, 200))), merge=merge)) == {NEW}
    assert len(merge._tied) <= 32
    assert verdicts(*on(A, make(168), make(167)), merge=merge) == [DUPLICATE, NEW], "the oldest first"
    for generation in range(100):
        verdicts((make(199), generation), merge=merge)
    assert len(merge._links) <= 4


# -- a model ----------------------------------------------------------------------------------------------------------


@attrs.frozen(repr=False)
class Sent:
    """What the exchange sends, by its place in the stream."""

    place: int
    update: Any

    def __repr__(self) -> str:
        return f"<{self.place}: {self.update.sequence} @ {self.update.exchange_time_ns - START}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))


MAKERS: dict[str, Any] = {
    "trade": trade,
    "ticker": ticker,
    "book_delta": lambda number, time: delta(number, time=time),
    "level1": lambda number, time: level1(time, number % 1000),
    "announcement": lambda number, time: announcement(time, f"{number}"),
}


@st.composite
def runs(draw: st.DrawFn) -> tuple[str, list[Sent], list[tuple[Sent, int]]]:
    """A kind, what the exchange sends, and what arrives: of links that lag, lose, and come and go."""
    kind = draw(st.sampled_from(sorted(MAKERS)))
    number, time, sent = draw(st.integers(1000, 2000)), 0, []
    renumbered_at = draw(st.none() | st.integers(1, 30)) if kind in ("trade", "ticker", "book_delta") else None
    for place in range(draw(st.integers(2, 60))):
        step = 1 if kind == "book_delta" else draw(st.integers(1, 3))
        number, time = number + step, time + draw(st.integers(0 if kind in ("trade", "book_delta") else 1, 3))
        if place == renumbered_at:
            number, time = draw(st.integers(1, 900)), time + 1
        sent.append(Sent(place, MAKERS[kind](number, time)))
    links: list[list[Sent]] = []
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(sent) - 1))
        end = draw(st.integers(begin, len(sent)))
        lost = draw(st.sets(st.integers(0, len(sent)), max_size=4))
        links.append([one for one in sent[begin:end] if one.place not in lost])
    arrived: list[tuple[Sent, int]] = []
    while any(links):
        turn = draw(st.sampled_from([n for n, link in enumerate(links) if link]))
        count = draw(st.integers(1, 10))
        arrived += [(attrs.evolve(one, update=attrs.evolve(one.update)), turn + 1) for one in links[turn][:count]]
        del links[turn][:count]
    return kind, sent, arrived


@given(runs())
@settings(max_examples=150, deadline=None)
def test_links_that_lag_lose_come_and_go(run: tuple[str, list[Sent], list[tuple[Sent, int]]]) -> None:
    """What is delivered is in order, nothing twice, and what is missing is told, as far as anybody can know it."""
    kind, sent, arrived = run
    if not arrived:
        return
    merge = merge_of(sent[0].update.topic.channel)
    taken = [(one.place, merge.take(one.update, generation), merge.missing) for one, generation in arrived]
    told = [(place, verdict, missing) for place, verdict, missing in taken if verdict in (NEW, AFTER_HOLE, NEW_EPOCH)]
    delivered = [place for place, *_ in told]
    assert delivered == sorted(set(delivered)), "in order, none twice"
    refused = {place for place, verdict, _ in taken if verdict is DISORDERED}
    assert refused.isdisjoint(delivered), "what is told to be missing was not delivered"
    if kind == "book_delta":
        for (before, *_), (place, verdict, missing) in pairwise(told):
            numbers = [one.update.sequence for one in sent[before + 1 : place]]
            if verdict is NEW:
                assert numbers == [], "a number that is missing is told"
            elif verdict is AFTER_HOLE and numbers == sorted(numbers):
                assert missing == (numbers[0], numbers[-1])
    numbers = [one.update.sequence for one in sent]
    if kind in ("trade", "announcement") and numbers == sorted(numbers, key=lambda one: one or 0):
        known = {place for place, *_ in taken}
        assert {place for place in known - set(delivered) if place > delivered[0]} == refused - {
            place for place in refused if place < delivered[0]
        }, "whichever link brought it: what could not be delivered is told"


def test_the_property_sees_all_verdicts() -> None:
    """A model that never loses anything would prove little."""
    seen: Counter[Verdict] = Counter()

    @given(runs())
    @settings(max_examples=400, deadline=None, database=None, derandomize=True)
    def run(drawn: tuple[str, list[Sent], list[tuple[Sent, int]]]) -> None:
        merge = merge_of(drawn[1][0].update.topic.channel)
        seen.update(merge.take(one.update, generation) for one, generation in drawn[2])

    run()
    print(f"\n{ {verdict.value: count for verdict, count in seen.items()} }")
    assert set(seen) == set(Verdict)


@pytest.mark.parametrize(
    "make", [trade, ticker, lambda number, ms: delta(number, None, ms)], ids=["trade", "ticker", "delta"]
)
def test_when_all_links_are_lost_nothing_waits_until_a_clock_is_caught_up_with(make: Any) -> None:
    """It was ahead at the first update of the stream, or of a numbering."""
    for before in ([], [make(100, 5 * SECOND)]):
        merge = merge_of(make(1, 1).topic.channel)
        verdicts(*on(A, *before, make(10, 40 * SECOND), make(11, 11 * SECOND)), merge=merge)
        merge.cut()
        assert verdicts(*on(B, make(12, 12 * SECOND), make(13, 13 * SECOND)), merge=merge) == [NEW, NEW]
        # From here on what is older than where it began anew is of a link that lags.
        assert verdicts(*on(C, make(200, 11 * SECOND)), merge=merge) != [NEW]
