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


def test_a_ticker_may_say_several_things_at_one_number() -> None:
    """It has its book's number and its own time; of the last trade it may say more."""
    first, same, later = ticker(7, 1), ticker(7, 1), ticker(7, 2)
    other, older = ticker(7, 2, bid=5), ticker(7, 0, bid=6)
    assert verdicts(*on(A, first, same, later, other, older)) == [NEW, DUPLICATE, NEW, NEW, DISORDERED]
    again = on(B, ticker(7, 1), ticker(7, 2), ticker(7, 2, bid=5), ticker(7, 3))
    assert verdicts(*on(A, first, later, other), *again)[3:] == [DUPLICATE, DUPLICATE, DUPLICATE, NEW]


def test_an_older_state_of_another_link_was_superseded() -> None:
    """Two servers may choose other moments to publish a ticker; none of both is missing."""
    taken = [(ticker(10, 10), A), (ticker(20, 20), A), (ticker(12, 12), B), (ticker(22, 22), B)]
    assert verdicts(*taken) == [NEW, NEW, DUPLICATE, NEW]


def test_tickers_without_time_or_number() -> None:
    assert verdicts(*on(A, ticker(7, None), ticker(7, None), ticker(7, None, bid=5))) == [NEW, DUPLICATE, NEW]
    numberless = on(A, ticker(None, 1), ticker(None, 1), ticker(None, 2), ticker(None, 1))
    assert verdicts(*numberless) == [NEW, DUPLICATE, NEW, DISORDERED]


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


@pytest.mark.parametrize("make", [trade, ticker])
def test_a_wrong_clock_here_changes_nothing(make: Any) -> None:
    """Then every time is absurd, and they can be compared with each other."""
    old, new = ([misdated(make(1000 * n + k, 1000 - 100 * n + k)) for k in range(30)] for n in (5, 3))
    merge = merge_of(make(1, 1).topic.channel)
    assert verdicts(*on(A, *old), merge=merge) == [NEW] * 30
    assert set(verdicts(*on(B, *old), merge=merge)) == {DUPLICATE}
    assert verdicts(*on(A, *new), merge=merge) == [NEW_EPOCH, *[NEW] * 29]


def test_without_a_time_it_is_delivered() -> None:
    assert verdicts((level1(None), A), (level1(None), A), (level1(5), A), (level1(None), B)) == [NEW] * 4


def test_a_clock_that_was_set_back_does_not_end_a_stream() -> None:
    back = on(A, level1(1000), *(level1(time) for time in range(500, 509)))
    assert verdicts(*back) == [NEW, *[DISORDERED] * 7, NEW_EPOCH, NEW]


def test_a_time_that_cannot_be_right_makes_no_other_old() -> None:
    absurd = misdated(level1(10**18))
    taken = on(A, level1(1), absurd, level1(2), absurd, misdated(level1(10**18 + 1)), level1(3))
    assert verdicts(*taken) == [NEW, NEW, NEW, DUPLICATE, NEW, NEW]
    assert verdicts(*taken, *on(B, absurd, level1(2), level1(4)))[6:] == [DUPLICATE, DUPLICATE, NEW]


def test_a_market_that_sleeps_repeats_itself_past_the_hour() -> None:
    assert verdicts(*on(A, level1(1), level1(1), misdated(level1(1)))) == [NEW, DUPLICATE, DUPLICATE]


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


def test_an_announcement_that_the_faster_link_has_missed_is_noticed() -> None:
    taken = [(announcement(1), A), (announcement(9), A), (announcement(1), B), (announcement(5, "funding.end"), B)]
    assert verdicts(*taken) == [NEW, NEW, DUPLICATE, DISORDERED]


# -- what a first duplicate proves ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [trade, ticker, level1, announcement])
def test_a_link_that_begins_with_what_was_delivered_last_has_missed_nothing(make: Any) -> None:
    at = (make(5), make(6)) if make in (trade, level1, announcement) else (make(5, 5), make(6, 6))
    merge = merge_of(at[0].topic.channel)
    verdicts(*on(A, *at), merge=merge)
    merge.cut()
    again = attrs.evolve(at[1], received_time_ns=1)
    assert verdicts(*on(A, again), merge=merge) == [DUPLICATE], "whatever its generation, after an outage"
    assert merge.rejoins
    assert verdicts(*on(A, again), merge=merge) == [DUPLICATE]
    assert not merge.rejoins, "it is not the first of its link"


def test_an_old_state_proves_nothing() -> None:
    """It may be what the exchange shows to everybody who comes."""
    merge = merge_of(LEVEL1.channel)
    verdicts(*on(A, level1(5), level1(9)), merge=merge)
    merge.cut()
    assert verdicts(*on(B, level1(5)), merge=merge) == [DUPLICATE]
    assert not merge.rejoins


# -- bounded ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda n: ticker(7, 1, n), lambda n: level1(1, n)])
def test_what_stands_at_one_place_is_forgotten_in_time(make: Any) -> None:
    merge: Any = merge_of(make(1).topic.channel)
    assert set(verdicts(*on(A, *map(make, range(1, 200))), merge=merge)) == {NEW}
    assert len(merge._tied) <= 32
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
