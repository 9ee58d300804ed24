"""A book is right or unreadable, whatever arrives in whatever order."""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kufeed.errors import BookNotReady
from kufeed.protocol import BookChange, BookDelta, Level, Side, topic
from kufeed.protocol.orderbook import (
    MOST_BUFFERED,
    SPARE_LEVELS,
    TRANSITIONS,
    BookEvent,
    BookSnapshot,
    BookState,
    BookSync,
)
from kufeed.testing.histories import ReferenceBook

if TYPE_CHECKING:
    from kufeed.protocol import OrderBook

SPOT, FUTURES = topic("book_delta", "BTC-USDT"), topic("book_delta", "XBTUSDTM")


class Truth(ReferenceBook):
    """The exchange's own spot book, and its messages as a client decodes them."""

    def __init__(self) -> None:
        super().__init__("BTC-USDT", time_ns=1_700_000_000_000_000_000)

    def message(self, wanted: list[tuple[Side, int, int]]) -> BookDelta:
        """One with *wanted* changes, at so many steps from the lowest price."""
        first = self.sequence + 1
        made = self.change((side.value, 80 + step, size) for side, step, size in wanted)
        changes = [BookChange(Side(side), Decimal(price), Decimal(size), number) for side, price, size, number in made]
        return BookDelta(SPOT, "BTC-USDT", self.sequence, self.time_ns, self.time_ns, first, tuple(changes))


def check(view: OrderBook, truth: Truth, depth: int) -> None:
    assert view.sequence is not None
    moment = truth.moments[view.sequence]
    assert tuple(view.bids) == moment.bids[:depth]
    assert tuple(view.asks) == moment.asks[:depth]


one_change = st.tuples(st.sampled_from(Side), st.integers(0, 41), st.integers(0, 5))
step = st.one_of(
    st.tuples(st.just("deliver"), st.lists(one_change, min_size=1, max_size=4)),
    st.tuples(st.just("lose"), st.lists(one_change, min_size=1, max_size=4)),
    st.tuples(st.just("hold"), st.lists(one_change, min_size=1, max_size=4)),  # to be delivered later
    st.tuples(st.just("late"), st.integers(0, 5)),  # one of those held, out of order
    st.tuples(st.just("again"), st.integers(0, 5)),  # one that was delivered before
    st.tuples(st.just("ask"), st.none()),
    st.tuples(st.just("forgo"), st.none()),
    st.tuples(st.just("seed"), st.tuples(st.integers(0, 6), st.sampled_from([None, 4, 8]))),  # lag, truncation
    st.tuples(st.just("audit"), st.tuples(st.integers(0, 6), st.sampled_from([None, 4, 8]))),
    st.tuples(st.just("malformed"), st.sampled_from(["crossed", "zero", "twice"])),
    st.tuples(st.just("lost"), st.booleans()),
    st.tuples(st.just("renumber"), st.none()),
    st.tuples(st.just("renumber nearby"), st.lists(one_change, min_size=1, max_size=4)),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(step, max_size=60), st.integers(1, 6))
def test_no_view_is_shown_that_did_not_exist_and_in_the_end_it_is_the_exchanges(
    steps: list[tuple[str, object]], depth: int
) -> None:
    truth = Truth()
    book = BookSync(SPOT, depth=depth, most_buffered=8)
    held: deque[BookDelta] = deque()
    delivered: deque[BookDelta] = deque(maxlen=6)
    ticket = None
    sequences: list[int] = []
    audited = joined = held_back = 0

    def look() -> None:
        audits = book.audits + book.audits_missed + (book._auditing is not None)
        assert audits == audited, "each was compared, or is counted as missed, or will be seen"
        seeds = book.seeds + book.held_in_vain + (book._ahead is not None)
        assert seeds == joined + held_back, "each that fitted or was held has joined, or did in vain, or is still held"
        if book.is_readable(depth):
            view = book.view(depth)
            check(view, truth, depth)
            assert view.sequence is not None
            sequences.append(view.sequence)
        else:
            with pytest.raises(BookNotReady):
                book.view(depth)

    def receive(delta: BookDelta) -> None:
        before = book.state
        event = book.receive(delta)
        assert (event is None) or before is BookState.LIVE
        if before is BookState.LIVE and event not in (None, BookEvent.APPLIED):
            assert book.state is BookState.BROKEN
            sequences.clear()
        delivered.append(delta)
        look()

    def snapshot(lag: int, limit: int | None) -> BookSnapshot:
        return truth.snapshot(sorted(truth.moments)[-1 - min(lag, len(truth.moments) - 1)], limit)

    for what, given_ in steps:
        match what:
            case "deliver":
                receive(truth.message(given_))  # type: ignore[arg-type]
            case "lose":
                truth.message(given_)  # type: ignore[arg-type]
            case "hold":
                held.append(truth.message(given_))  # type: ignore[arg-type]
            case "late" if held:
                receive(held[given_ % len(held)])  # type: ignore[operator]
            case "again" if delivered:
                receive(delivered[given_ % len(delivered)])  # type: ignore[operator]
            case "ask":
                ticket = book.ask()
            case "forgo" if ticket is not None:
                book.forgo(ticket)
                look()
            case "seed" if ticket is not None:
                seed = snapshot(*given_)  # type: ignore[misc]
                if book.seed(ticket, seed) is BookEvent.JOINED:
                    assert book.state is BookState.LIVE
                    joined += 1
                held_back += book._ahead is seed
                look()
            case "audit" if ticket is not None:
                audited += 1
                assert book.audit(ticket, snapshot(*given_)) is not BookEvent.DIFFERS  # type: ignore[misc]
                look()
            case "malformed" if ticket is not None:
                good = truth.snapshot()
                bad = {
                    "crossed": (good.bids, (Level(Decimal(1), Decimal(1)), *good.asks)),
                    "zero": (good.bids, (*good.asks, Level(Decimal(999), Decimal(0)))),
                    "twice": ((*good.bids, *good.bids[:1]), good.asks),
                }[given_]  # type: ignore[index]
                if not good.bids:
                    continue
                spoilt = BookSnapshot(good.sequence, None, 0, bad[0], bad[1], None)
                assert book.seed(ticket, spoilt) in (None, BookEvent.UNFIT)
                look()
            case "lost":
                book.lost()
                held.clear()
                delivered.clear()
                sequences.clear()
                assert book.state is BookState.WAITING
                if given_:
                    book.subscribed()
                look()
            case "renumber":
                truth.time_ns += 3_000_000_000
                truth.renumber(5)
                book.lost()
                held.clear()
                delivered.clear()
                sequences.clear()
            case "renumber nearby":
                # Unnoticed it would be where no change of the old numbering has come as far: nothing tells them apart.
                last = book._stream if book.state is BookState.LIVE else book._buffer[-1] if book._buffer else None
                if last is None or (book.state is BookState.LIVE and last.sequence != book.sequence):
                    continue
                assert last.sequence is not None
                truth.renumber(last.sequence - 4)
                held.clear()
                delivered.clear()
                sequences.clear()
                receive(truth.message(given_))  # type: ignore[arg-type]
                assert book.state is not BookState.LIVE
                sequences.clear()
        assert all(earlier <= later for earlier, later in pairwise(sequences)), "a book never goes back"

    # The faults are over: what is missing is noticed at the next change, and one good snapshot mends it.
    for _ in range(3):
        receive(truth.message([(Side.BUY, 0, 1)]))
        if not book.is_readable(depth):
            ticket = book.ask()
            assert book.seed(ticket, truth.snapshot()) is BookEvent.JOINED
            joined += 1
    receive(truth.message([(Side.SELL, 41, 2)]))
    check(book.view(depth), truth, depth)
    assert book.view(depth).sequence == truth.sequence


def delta(number: int, *changes: tuple[Side, str, str], first: int | None = None, time: int = 0) -> BookDelta:
    rows = tuple(BookChange(side, Decimal(price), Decimal(size), number) for side, price, size in changes)
    return BookDelta(SPOT, "BTC-USDT", number, 10**18 + time, 10**18 + time, first or number, rows)


def seeded(sequence: int = 10, limit: int | None = None, depth: int = 1) -> BookSync:
    book = BookSync(SPOT, depth=depth)
    book.subscribed()
    assert book.seed(book.ask(), snapshot(sequence, limit)) is BookEvent.JOINED
    return book


def snapshot(sequence: int = 10, limit: int | None = None, levels: int = 3) -> BookSnapshot:
    bids = tuple(Level(Decimal(100 - number), Decimal(1)) for number in range(levels))
    asks = tuple(Level(Decimal(101 + number), Decimal(1)) for number in range(levels))
    return BookSnapshot(sequence, 10**18, 10**18, bids, asks, limit)


def test_the_worked_example_of_the_futures_documents() -> None:
    """KuCoin futures, level 2: snapshot 16, then 17 sets a bid and 18 removes an ask."""
    book = BookSync(FUTURES)
    book.subscribed()
    for number, side, price, size in ((15, Side.BUY, "1", 1), (17, Side.BUY, "3988.50", 44)):
        change = BookChange(side, Decimal(price), size, number)
        assert book.receive(BookDelta(FUTURES, "XBTUSDTM", number, 10**18, 10**18, number, (change,))) is None
    asks = (Level(Decimal("3988.6"), 3), Level(Decimal("3988.61"), 32))
    start = BookSnapshot(16, 10**18, 10**18, (Level(Decimal("3988.51"), 56),), asks, None)
    # 15 and then 17 is a hole, but the snapshot covers it.
    assert book.seed(book.ask(), start) is BookEvent.JOINED
    assert book.view(5).bids == ((Decimal("3988.51"), 56), (Decimal("3988.50"), 44))
    gone = BookChange(Side.SELL, Decimal("3988.61"), 0, 18)
    assert book.receive(BookDelta(FUTURES, "XBTUSDTM", 18, 10**18, 10**18, 18, (gone,))) is BookEvent.APPLIED
    assert book.view(5).asks == ((Decimal("3988.6"), 3),)
    assert book.sequence == 18


def test_each_change_that_the_snapshot_has_is_skipped() -> None:
    book = BookSync(SPOT)
    book.subscribed()
    rows = (
        BookChange(Side.BUY, Decimal(100), Decimal(7), 10),  # the snapshot is later than this one
        BookChange(Side.BUY, Decimal(99), Decimal(8), 11),
    )
    book.receive(BookDelta(SPOT, "BTC-USDT", 11, 10**18, 10**18, 9, rows))
    assert book.seed(book.ask(), snapshot(10)) is BookEvent.JOINED
    assert book.view(2).bids == ((100, 1), (99, 8))
    assert book.sequence == 11


def test_price_0_moves_the_sequence_and_nothing_else() -> None:
    book = seeded()
    before = book.view(3)
    assert book.receive(delta(11, (Side.BUY, "0", "0"))) is BookEvent.APPLIED
    after = book.view(3)
    assert (after.sequence, after.bids, after.asks) == (11, before.bids, before.asks)


def test_removing_what_is_not_there_is_nothing() -> None:
    book = seeded()
    assert book.receive(delta(11, (Side.BUY, "50", "0"))) is BookEvent.APPLIED
    assert len(book.bids) == 3


@pytest.mark.parametrize("ahead", [11, 12])
def test_a_snapshot_that_has_all_that_is_buffered_is_taken_as_it_is(ahead: int) -> None:
    book = BookSync(SPOT)
    for number in (10, 11):
        book.receive(delta(number, (Side.BUY, "100", "7"), time=5))
    assert book.seed(book.ask(), snapshot(ahead)) is BookEvent.JOINED
    view = book.view(1)
    assert (view.sequence, view.exchange_time_ns, view.bids) == (ahead, 10**18, ((100, 1),))


def test_one_price_written_in_two_ways_is_one_level() -> None:
    book = seeded()
    book.receive(delta(11, (Side.BUY, "100.00000000", "5")))
    assert book.view(1).bids == ((100, 5),)
    assert len(book.bids) == 3


def test_a_missing_number_breaks_the_book_and_says_what_is_missing() -> None:
    book = seeded()
    assert book.receive(delta(14, (Side.BUY, "100", "2"), first=13)) is BookEvent.GAP
    assert book.missing == (11, 12)
    assert book.state is BookState.BROKEN
    with pytest.raises(BookNotReady) as caught:
        book.view(1)
    assert (caught.value.symbol, caught.value.reason) == ("BTC-USDT", "broken")
    # What broke it is not lost: a snapshot that covers the hole joins it.
    assert book.seed(book.ask(), snapshot(11)) is BookEvent.UNFIT
    assert book.seed(book.ask(), snapshot(12)) is BookEvent.JOINED
    assert book.view(1).bids == ((100, 2),)
    assert book.sequence == 14


def test_a_snapshot_asked_for_before_the_break_is_not_used() -> None:
    book = seeded()
    ticket = book.ask()
    book.receive(delta(12, (Side.BUY, "100", "2")))
    assert book.seed(ticket, snapshot(12)) is None
    assert book.state is BookState.BROKEN
    book.ask()
    assert book.seed(ticket, snapshot(12)) is None, "nor once another was asked for"
    assert book.state is BookState.SYNCING


def test_a_book_that_crosses_is_broken() -> None:
    book = seeded()
    assert book.receive(delta(11, (Side.BUY, "101", "1"))) is BookEvent.CROSSED
    assert book.state is BookState.BROKEN
    assert book.missing is None


def test_numbers_that_start_anew_are_noticed_by_their_time() -> None:
    book = seeded(1000)
    assert book.receive(delta(1001, (Side.BUY, "100", "2"))) is BookEvent.APPLIED
    assert book.receive(delta(7, (Side.BUY, "100", "3"), time=-1)) is None, "an old message, out of order"
    assert book.receive(delta(8, (Side.BUY, "100", "3"), time=2_000_000_000)) is BookEvent.RENUMBERED
    assert book.seed(book.ask(), snapshot(7)) is BookEvent.JOINED
    assert (book.sequence, book.view(1).bids) == (8, ((100, 3),))


def test_numbers_may_start_anew_while_a_snapshot_is_under_way() -> None:
    book = BookSync(SPOT)
    book.receive(delta(1001, (Side.BUY, "100", "2")))
    ticket = book.ask()
    book.receive(delta(5, (Side.BUY, "100", "3"), time=2_000_000_000))
    assert book.seed(ticket, snapshot(1001)) is None
    assert book.seed(book.ask(), snapshot(4)) is BookEvent.JOINED
    assert (book.sequence, book.view(1).bids) == (5, ((100, 3),))


def test_a_buffer_that_is_full_needs_a_newer_snapshot() -> None:
    book = BookSync(SPOT, most_buffered=3)
    for number in range(11, 17):
        book.receive(delta(number, (Side.BUY, "90", "1")))
    assert book.seed(book.ask(), snapshot(12)) is BookEvent.UNFIT
    assert book.seed(book.ask(), snapshot(13)) is BookEvent.JOINED
    assert book.sequence == 16


def test_a_lost_connection_makes_it_unreadable_and_a_lower_number_may_follow() -> None:
    book = seeded(1000)
    ticket = book.ask()
    book.lost()
    assert (book.state, book.wants_snapshot()) == (BookState.WAITING, False)
    assert book.seed(ticket, snapshot(1000)) is None
    book.subscribed()
    assert book.seed(book.ask(), snapshot(3)) is BookEvent.JOINED
    assert book.sequence == 3


def test_a_seed_of_some_levels_is_right_only_within_its_prices() -> None:
    book = seeded(limit=3, depth=2)
    book.receive(delta(11, (Side.BUY, "98", "0")))  # the worst it knows
    assert book.view(2).bids == ((100, 1), (99, 1))
    book.receive(delta(12, (Side.BUY, "97.5", "4")))  # beyond: others may stand between
    with pytest.raises(BookNotReady, match="fewer than 3 levels"):
        book.view(3)
    book.receive(delta(13, (Side.BUY, "98.5", "4")))  # within
    assert book.view(3).bids == ((100, 1), (99, 1), (Decimal("98.5"), 4))


def test_a_thin_seed_is_replaced_before_it_cannot_be_read_and_stays_readable_meanwhile() -> None:
    levels = 2 + SPARE_LEVELS
    book = BookSync(SPOT, depth=2)
    book.subscribed()
    book.seed(book.ask(), snapshot(10, limit=levels, levels=levels))
    assert not book.wants_snapshot()
    book.receive(delta(11, (Side.BUY, "100", "0")))
    assert book.wants_snapshot()
    ticket = book.ask()
    book.receive(delta(12, (Side.BUY, "99", "0")))
    book.receive(delta(13, (Side.BUY, "99.5", "9")))
    assert book.view(1).bids == ((Decimal("99.5"), 9),)
    assert book.seed(ticket, snapshot(9, limit=levels, levels=levels)) is BookEvent.UNFIT, "11 was not kept"
    good = snapshot(11, limit=levels, levels=levels)
    good = BookSnapshot(11, None, 0, (*good.bids[1:], Level(Decimal(100 - levels), Decimal(1))), good.asks, levels)
    assert book.seed(ticket, good) is BookEvent.JOINED
    assert (book.sequence, book.view(1).bids) == (13, ((Decimal("99.5"), 9),))
    assert book.bids.floor == 100 - levels


def test_a_seed_ahead_of_a_readable_book_joins_when_the_changes_have_come_so_far() -> None:
    levels = 2 + SPARE_LEVELS
    book = seeded(10, limit=3, depth=2)
    assert book.wants_snapshot()
    assert book.seed(book.ask(), snapshot(12, limit=levels, levels=levels)) is None
    assert not book.wants_snapshot()
    assert book.receive(delta(11, (Side.BUY, "100", "9"))) is BookEvent.APPLIED
    assert (book.sequence, book.view(1).bids, len(book.bids)) == (11, ((100, 9),), 3)
    assert (book.seeds, book.held_in_vain) == (1, 0)
    assert book.receive(delta(12, (Side.BUY, "100", "1"))) is BookEvent.APPLIED
    assert (book.sequence, len(book.bids)) == (12, levels)
    assert (book.seeds, book.held_in_vain, book._buffer) == (2, 0, None)
    assert book.receive(delta(13, (Side.BUY, "100", "2"))) is BookEvent.APPLIED
    assert book.view(1).bids == ((100, 2),)


@pytest.mark.parametrize("how", ["lost", "a hole", "no book any more", "another"])
def test_a_seed_that_is_held_and_never_joins_is_counted_as_such(how: str) -> None:
    book = seeded(10, limit=3, depth=2)
    assert book.seed(book.ask(), snapshot(12)) is None
    match how:
        case "lost":
            book.lost()
        case "a hole":
            book.receive(delta(12, (Side.BUY, "100", "9")))
        case "no book any more":  # it has levels that were gone by then, and the last change crosses them
            gone = [BookChange(Side.BUY, Decimal(price), Decimal(0), 111 - price) for price in (100, 99)]
            rows = (*gone, BookChange(Side.SELL, Decimal(99), Decimal(1), 13))
            assert book.receive(BookDelta(SPOT, "BTC-USDT", 13, 10**18, 10**18, 11, rows)) is BookEvent.APPLIED
        case "another":
            assert book.seed(book.ask(), snapshot(13)) is None
    assert (book.seeds, book.held_in_vain) == (1, 1)


@pytest.mark.parametrize("dated", [True, False])
def test_a_seed_that_the_changes_do_not_come_to_is_given_up(dated: bool) -> None:
    """Later changes have lower numbers: it is of another numbering. Without its time, after a minute of changes."""
    seconds = 10**9
    book = seeded(10, limit=3, depth=2)
    seed = snapshot(1000)
    seed = seed if dated else attrs.evolve(seed, exchange_time_ns=None)
    assert book.seed(book.ask(), seed) is None
    bound = (1 if dated else 60) * seconds
    assert book.receive(delta(11, (Side.BUY, "100", "9"), time=bound)) is BookEvent.APPLIED
    assert (book.wants_snapshot(), book.held_in_vain, book.given_up) == (False, 0, 0)
    assert book.receive(delta(12, (Side.BUY, "100", "8"), time=bound + 1)) is BookEvent.APPLIED
    assert (book.wants_snapshot(), book.held_in_vain, book.given_up) == (True, 1, 1)
    if dated:
        assert book.seed(book.ask(), seed) is BookEvent.UNFIT, "what has disproved it once does so still"
    right = snapshot(12, limit=30, levels=30)
    bids = (Level(Decimal(100), Decimal(8)), *right.bids[1:])
    right = attrs.evolve(right, bids=bids, exchange_time_ns=right.exchange_time_ns + bound + 1)
    assert book.seed(book.ask(), right) is BookEvent.JOINED
    assert (book.held_in_vain, book.given_up) == (1, 0)


@pytest.mark.parametrize("dated", [True, False])
def test_a_change_that_a_seed_has_already_is_not_later_than_it(dated: bool) -> None:
    """With its very number, but later by more than clocks may differ: the seed is of another numbering.

    Without its time nobody can tell, however late the change: at last it has come so far.
    """
    book = seeded(10, limit=3, depth=2)
    assert book.seed(book.ask(), snapshot(11) if dated else attrs.evolve(snapshot(11), exchange_time_ns=None)) is None
    assert book.receive(delta(11, (Side.BUY, "100", "1"), time=90 * 10**9)) is BookEvent.APPLIED
    assert (book.wants_snapshot(), book.seeds, book.held_in_vain) == ((True, 1, 1) if dated else (False, 2, 0))


def test_seeds_given_up_are_counted_in_a_row() -> None:
    """Until one joins, or the book begins anew."""
    book = seeded(10, limit=3, depth=2)
    for number in (11, 12, 13):
        time = 2 * 10**9 * number
        assert book.seed(book.ask(), attrs.evolve(snapshot(1000), exchange_time_ns=10**18 + time)) is None
        book.receive(delta(number, (Side.BUY, "100", "9"), time=time + 10**9 + 1))
        assert (book.given_up, book.held_in_vain) == (number - 10, number - 10)
    book.lost()
    assert (book.given_up, book.held_in_vain) == (0, 3)


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("side", ["bids", "asks"])
def test_a_seed_of_a_live_book_has_to_say_what_that_knows(side: str, later: bool) -> None:
    """At the same number one of two that differ is wrong: nothing is shown until another has come."""
    book = seeded(10, limit=3, depth=2)
    ticket = book.ask()
    if later:  # than the seed, which is compared where that leads to
        book.receive(delta(11))
    other = snapshot(10)
    best, *rest = getattr(other, side)
    other = attrs.evolve(other, **{side: (Level(best.price, Decimal(7)), *rest)})
    assert book.seed(ticket, other) is BookEvent.DIFFERS
    assert not book.is_readable(1)
    assert book.seed(book.ask(), snapshot(11)) is BookEvent.JOINED


@pytest.mark.parametrize("asked_before", [True, False])
def test_a_seed_of_the_old_numbering_is_not_held(asked_before: bool) -> None:
    """Whether the change that disproves it was buffered or not: `ask()` begins a buffer."""
    book = seeded(10, limit=3, depth=2)
    ticket = book.ask() if asked_before else None
    book.receive(delta(11, (Side.BUY, "100", "9"), time=60 * 10**9))
    assert book.seed(book.ask() if ticket is None else ticket, snapshot(1000)) is BookEvent.UNFIT
    assert book.wants_snapshot()


def test_an_audit_of_the_old_numbering_is_missed_and_breaks_nothing() -> None:
    late = 60 * 10**9
    book = seeded(9)
    book.receive(delta(10, (Side.BUY, "100", "9"), time=late))
    assert book.audit(book.ask(), snapshot(11)) is BookEvent.UNFIT
    assert (book.state, book.audits_missed) == (BookState.LIVE, 1)
    book = seeded(9)
    assert book.audit(book.ask(), snapshot(11)) is None
    assert book.receive(delta(10, (Side.BUY, "100", "9"), time=late)) is BookEvent.APPLIED
    assert book.audits_missed == 1, "it waits no more"
    assert book.receive(delta(11, (Side.BUY, "100", "8"), time=late)) is BookEvent.APPLIED
    assert (book.audits, book.audits_missed) == (0, 1)


def test_a_seed_ahead_of_a_book_too_thin_to_be_read_is_used_at_once() -> None:
    book = seeded(limit=3, depth=4)
    assert book.seed(book.ask(), snapshot(15)) is BookEvent.JOINED
    assert book.receive(delta(14, (Side.BUY, "100", "9"))) is None
    assert book.receive(delta(16, (Side.BUY, "100", "2"))) is BookEvent.APPLIED


def test_numbers_that_start_anew_nearby_are_noticed_at_once() -> None:
    """By the times of changes: the snapshot's own says nothing of what was under way."""
    book = seeded(1000)
    assert book.receive(delta(1000, (Side.BUY, "100", "9"), time=1)) is None, "the changes catch up with the snapshot"
    assert book.receive(delta(999, (Side.BUY, "100", "9"))) is None, "out of order"
    assert book.receive(delta(1000, (Side.BUY, "100", "9"), time=1)) is None, "again"
    assert book.receive(delta(999, (Side.BUY, "100", "5"), time=2)) is BookEvent.RENUMBERED


@pytest.mark.parametrize("late", [0, 1])
def test_a_lower_number_after_a_seed_alone_is_of_a_new_numbering_when_it_is_later_by_more_than_a_second(
    late: int,
) -> None:
    """By up to a second it may be one that was under way when the snapshot was made."""
    book = seeded(1000)
    event = book.receive(delta(7, (Side.BUY, "100", "9"), time=10**9 + late))
    assert event is (BookEvent.RENUMBERED if late else None)


@pytest.mark.parametrize("number", [11, 12, 13])
def test_once_changes_have_come_a_lower_number_is_of_a_new_numbering_when_it_is_later_at_all(number: int) -> None:
    """Also where they were buffered when the snapshot came, and for the number of the last of them."""
    book = BookSync(SPOT)
    for buffered in (11, 12, 13):
        book.receive(delta(buffered, (Side.BUY, "100", "9")))
    assert book.seed(book.ask(), snapshot(10)) is BookEvent.JOINED
    assert book.receive(delta(number, (Side.BUY, "100", "8"))) is None
    assert book.receive(delta(number, (Side.BUY, "100", "8"), time=1)) is BookEvent.RENUMBERED


def test_a_number_that_comes_again_later_is_of_a_new_numbering_while_it_is_buffered_too() -> None:
    book = BookSync(SPOT)
    book.receive(delta(11, (Side.BUY, "100", "2")))
    ticket = book.ask()
    book.receive(delta(11, (Side.BUY, "100", "3")))
    assert list(book._buffer or ()) == [delta(11, (Side.BUY, "100", "2"))], "the same message"
    book.receive(delta(11, (Side.BUY, "100", "4"), time=1))
    assert book.seed(ticket, snapshot(11)) is None
    assert book.seed(book.ask(), snapshot(10)) is BookEvent.JOINED
    assert book.view(1).bids == ((100, 4),)


def test_a_snapshot_of_the_old_numbering_is_unfit() -> None:
    book = BookSync(SPOT)
    book.receive(delta(5, (Side.BUY, "100", "2"), time=60 * 10**9))
    assert book.seed(book.ask(), snapshot(1_000_000)) is BookEvent.UNFIT
    assert book.seed(book.ask(), snapshot(4)) is BookEvent.JOINED


@pytest.mark.parametrize("ahead", [False, True])
def test_an_audit_compares_at_the_same_number(ahead: bool) -> None:
    book = seeded(9)
    ticket = book.ask()
    if not ahead:
        book.receive(delta(10, (Side.BUY, "0", "0")))
        book.receive(delta(11, (Side.BUY, "100", "3")))
    assert book.audit(ticket, snapshot(10)) is None
    if ahead:
        assert book.audits == 0
        book.receive(delta(10, (Side.BUY, "0", "0")))
    assert book.audits == 1


@pytest.mark.parametrize("side", ["bids", "asks"])
@pytest.mark.parametrize("ahead", [False, True])
def test_an_audit_finds_a_book_that_went_wrong(ahead: bool, side: str) -> None:
    book = seeded(9)
    getattr(book, side).set(getattr(book, side)[1].price, Decimal(5))  # a bit that tipped over
    ticket = book.ask()
    if ahead:
        assert book.audit(ticket, snapshot(10)) is None
        assert book.receive(delta(10, (Side.BUY, "0", "0"))) is BookEvent.DIFFERS
    else:
        book.receive(delta(10, (Side.BUY, "0", "0")))
        assert book.audit(ticket, snapshot(10)) is BookEvent.DIFFERS
    assert (book.state, book.audits) == (BookState.BROKEN, 0)


def test_an_audit_that_cannot_be_compared_changes_nothing() -> None:
    book = seeded(9)
    book.receive(delta(10, (Side.BUY, "0", "0")))
    assert book.audit(book.ask(), snapshot(9)) is BookEvent.UNFIT
    assert (book.state, book.audits, book.audits_missed) == (BookState.LIVE, 0, 1)


def test_each_audit_is_counted_by_what_became_of_it() -> None:
    book = seeded(9)
    for rounds in (1, 2):
        assert book.audit(book.ask(), snapshot(9)) is None
        assert book.audit(book.ask(), None) is None
        assert book.audit(book.ask(), snapshot(8)) is BookEvent.UNFIT
        assert (book.audits, book.audits_missed) == (rounds, 2 * rounds)


@pytest.mark.parametrize("ahead", [False, True])
def test_an_audit_with_no_book_is_known_to_be_none_at_once(ahead: bool) -> None:
    book = seeded(9)
    twice = snapshot(10 if ahead else 9)
    spoilt = BookSnapshot(twice.sequence, None, 0, (*twice.bids, *twice.bids[:1]), twice.asks, None)
    assert book.audit(book.ask(), spoilt) is BookEvent.UNFIT
    assert (book.audits, book.audits_missed, book._buffer) == (0, 1, None)


def test_changes_are_kept_only_as_long_as_something_is_to_come() -> None:
    """What was asked for, what waits for the changes, or what the book wants: the last of them to end lets them go."""

    def kept() -> bool:
        book.receive(delta(book.sequence + 1, (Side.BUY, "100", "1")))
        return book._buffer is not None

    levels = 2 + SPARE_LEVELS
    book = BookSync(SPOT, depth=2)
    book.subscribed()
    book.ask()
    book.lost()  # what was asked for before does not count
    book.subscribed()
    assert book.seed(book.ask(), snapshot(9, levels, levels)) is BookEvent.JOINED
    assert not kept()
    seed, audit = book.ask(), book.ask()
    assert kept()
    book.forgo(seed)
    assert kept(), "an audit is under way"
    assert book.audit(audit, snapshot(book.sequence + 3, levels, levels)) is None
    assert kept(), "it waits for the changes"
    seed = book.ask()
    assert kept()
    assert kept(), "now it was compared, and a seed is under way"
    book.depth = 3
    book.forgo(seed)
    assert kept(), "another is wanted: it may be older"
    book.depth = 2
    assert not kept()
    assert (book.audits, book.audits_missed) == (1, 0)


@pytest.mark.parametrize("how", ["none came", "lost", "live again", "not live", "begun anew", "another", "a seed"])
def test_an_audit_that_comes_to_nothing_is_counted_as_missed(how: str) -> None:
    book = seeded(9, limit=3)
    ticket = book.ask()
    match how:
        case "none came":
            book.audit(ticket, None)
        case "lost":  # before its snapshot was there
            book.lost()
            assert book.audit(ticket, snapshot(9)) is None
        case "live again":  # what was asked for on another connection says nothing of this one
            book.lost()
            book.subscribed()
            assert book.seed(book.ask(), snapshot(9)) is BookEvent.JOINED
            assert book.audit(ticket, snapshot(9)) is None
        case "not live":
            book.receive(delta(12))
            assert book.audit(book.ask(), snapshot(9)) is None
        case "begun anew":  # while its snapshot waits for the changes
            assert book.audit(ticket, snapshot(11)) is None
            assert book.receive(delta(12, (Side.BUY, "100", "1"))) is BookEvent.GAP
        case "another":
            assert book.audit(ticket, snapshot(11)) is None
            assert book.audit(book.ask(), snapshot(12)) is None
        case "a seed":
            assert book.audit(ticket, snapshot(11)) is None
            book.depth = 10
            assert book.seed(book.ask(), snapshot(12)) is BookEvent.JOINED
    assert (book.audits, book.audits_missed) == (0, 1)
    if how == "another":
        for number in range(10, 13):
            book.receive(delta(number, (Side.BUY, "0", "0")))
        assert (book.audits, book.audits_missed) == (1, 1)


def test_every_state_is_left_by_a_lost_connection_and_every_row_ends_in_a_state() -> None:
    assert {state for state, _ in TRANSITIONS} == set(BookState)
    assert all(TRANSITIONS[state, BookEvent.LOST] is BookState.WAITING for state in BookState)
    assert {event for _, event in TRANSITIONS} == set(BookEvent)


def test_a_change_that_came_already_is_nothing() -> None:
    book = seeded()
    assert book.receive(delta(11, (Side.BUY, "100", "2"))) is BookEvent.APPLIED
    assert book.receive(delta(11, (Side.BUY, "100", "3"))) is None
    assert book.view(1).bids == ((100, 2),)


def test_price_0_is_no_level_whatever_its_size() -> None:
    book = seeded()
    book.receive(delta(11, (Side.BUY, "0", "5")))
    assert len(book.bids) == 3


def test_of_buffered_changes_that_overlap_each_is_applied_once() -> None:
    book = BookSync(SPOT)
    book.receive(delta(12, (Side.BUY, "100", "2"), first=11))
    old = BookChange(Side.BUY, Decimal(100), Decimal(7), 12)
    new = BookChange(Side.BUY, Decimal(99), Decimal(3), 13)
    book.receive(BookDelta(SPOT, "BTC-USDT", 13, 10**18, 10**18, 12, (old, new)))
    assert book.seed(book.ask(), snapshot(10)) is BookEvent.JOINED
    assert book.view(2).bids == ((100, 2), (99, 3))


def test_a_hole_in_the_buffer_is_not_bridged() -> None:
    book = BookSync(SPOT)
    book.receive(delta(11, (Side.BUY, "100", "2")))
    book.receive(delta(13, (Side.BUY, "99", "2")))
    assert book.seed(book.ask(), snapshot(10)) is BookEvent.UNFIT
    assert book.seed(book.ask(), snapshot(12)) is BookEvent.JOINED
    assert (book.sequence, book.view(1).bids) == (13, ((100, 1),))


def test_a_snapshot_asked_for_on_another_connection_is_not_used() -> None:
    """Whichever one it was."""
    book = BookSync(SPOT)
    tickets = []
    for _ in range(3):
        book.receive(delta(11, (Side.BUY, "100", "2")))
        tickets.append(book.ask())
        book.lost()
    book.subscribed()
    for ticket in tickets:
        assert book.seed(ticket, snapshot(10)) is None
    assert book.seed(book.ask(), snapshot(10)) is BookEvent.JOINED
    assert book.sequence == 10, "what was buffered on the other connection is gone"


def test_changes_that_cross_the_snapshot_make_it_unfit() -> None:
    book = BookSync(SPOT)
    book.receive(delta(11, (Side.BUY, "101", "2")))
    assert book.seed(book.ask(), snapshot(10)) is BookEvent.UNFIT


def test_what_was_missing_once_is_not_told_again() -> None:
    book = seeded()
    book.receive(delta(12, (Side.BUY, "90", "2")))
    assert book.missing == (11, 11)
    assert book.seed(book.ask(), snapshot(12)) is BookEvent.JOINED
    assert book.receive(delta(13, (Side.BUY, "101", "1"))) is BookEvent.CROSSED
    assert book.missing is None


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_states_and_events_have_the_words_that_errors_and_documents_show() -> None:
    assert [state.value for state in BookState] == ["waiting", "syncing", "live", "broken"]
    assert {event.name: event.value for event in BookEvent} == {
        "SUBSCRIBED": "subscribed",
        "LOST": "connection lost",
        "JOINED": "snapshot joins the buffer",
        "UNFIT": "snapshot too old, or contradicts itself",
        "APPLIED": "change applied",
        "GAP": "number missing",
        "RENUMBERED": "numbers start anew",
        "CROSSED": "best bid not below best ask",
        "DIFFERS": "audit: differs from a snapshot",
        "RESTART": "resync begins",
    }


@pytest.mark.parametrize(
    ("bids", "asks", "problem"),
    [
        ([(3, 1), (2, 9)], [(4, 1), (5, 9)], None),
        ([(3, 1)], [], None),
        ([], [(3, 1)], None),
        ([], [], None),
        ([(3, 1), (2, 0)], [(4, 1)], "a level with price or size 0"),
        ([(3, 1), (0, 1)], [(4, 1)], "a level with price or size 0"),
        ([(3, 1)], [(4, 0)], "a level with price or size 0"),
        ([(3, 1)], [(4, 1), (4, 2)], "a price stands twice"),
        ([(3, 1), (3, 1)], [], "a price stands twice"),
        ([(2, 1), (4, 1)], [(5, 1), (4, 9)], "best bid not below best ask"),
        ([(4, 1)], [(3, 9)], "best bid not below best ask"),
    ],
)
def test_what_cannot_be_a_book(bids: list[tuple[int, int]], asks: list[tuple[int, int]], problem: str | None) -> None:
    sides = [tuple(Level(Decimal(price), Decimal(size)) for price, size in side) for side in (bids, asks)]
    assert BookSnapshot(1, None, 0, *sides, None).problem() == problem


def test_a_new_book_has_counted_nothing_and_knows_nothing() -> None:
    book = BookSync(SPOT)
    assert (book.topic, book.depth, book.state, book.wants_snapshot()) == (SPOT, 1, BookState.WAITING, False)
    assert (book.sequence, book.exchange_time_ns, book.received_time_ns, book.missing) == (0, None, 0, None)
    assert (book.audits, book.audits_missed, book.seeds, book.held_in_vain, book.given_up) == (0, 0, 0, 0, 0)
    assert (tuple(book.bids), tuple(book.asks)) == ((), ())
    for word in ("waiting", "syncing"):
        with pytest.raises(BookNotReady) as caught:
            book.check_readable()
        assert (caught.value.symbol, caught.value.reason) == ("BTC-USDT", word)
        book.subscribed()


def test_a_view_is_dated_as_the_last_that_it_is_made_of() -> None:
    book = BookSync(SPOT, depth=4)
    book.receive(attrs.evolve(delta(10), exchange_time_ns=10**18 + 1, received_time_ns=10**18 + 2, late=True))

    def seed(sequence: int) -> None:
        made = attrs.evolve(snapshot(sequence, limit=3), exchange_time_ns=10**18 + 3, received_time_ns=10**18 + 4)
        assert book.seed(book.ask(), made) is BookEvent.JOINED

    def dates() -> tuple[object, ...]:
        view = book.view(1)
        assert (view.topic, view.symbol, view.sequence, view.gap_before) == (SPOT, "BTC-USDT", book.sequence, None)
        times = (view.exchange_time_ns or 0) - 10**18, view.received_time_ns - 10**18
        return (view.sequence, *times, view.late, view.misdated)

    seed(9)
    assert dates() == (10, 1, 2, True, False), "the change that was buffered"
    seed(11)
    assert dates() == (11, 3, 4, False, False), "the snapshot, whatever came before it"
    for late, misdated in ((True, False), (False, True), (False, False)):
        number = book.sequence + 1
        made = delta(number, (Side.BUY, "100", str(number)), time=number)
        book.receive(attrs.evolve(made, late=late, misdated=misdated))
        assert dates() == (number, number, number, late, misdated)


def test_all_that_is_known_of_a_book_can_be_read_where_its_best_prices_are() -> None:
    book = BookSync(SPOT)
    with pytest.raises(BookNotReady, match="waiting"):
        book.view(None)
    book.subscribed()
    assert book.seed(book.ask(), snapshot(10, limit=1, levels=1)) is BookEvent.JOINED
    book.check_readable()
    assert (book.view(None).bids, book.view(None).asks) == (((100, 1),), ((101, 1),))
    with pytest.raises(BookNotReady, match="fewer than 2 levels are known"):
        book.view(2)
    book.receive(delta(11, (Side.SELL, "101", "0")))
    with pytest.raises(BookNotReady, match="fewer than 1 levels are known"):
        book.view(None)
    book = seeded()
    assert (book.view(2).bids, book.view(2).asks) == (((100, 1), (99, 1)), ((101, 1), (102, 1)))
    assert (book.view(None).bids, book.view(None).asks) == (tuple(book.bids), tuple(book.asks))


@pytest.mark.parametrize(("limit", "known"), [(None, True), (4, True), (3, False)])
def test_a_side_with_as_many_levels_as_a_snapshot_may_have_may_have_more(limit: int | None, known: bool) -> None:
    book = seeded(limit=limit)
    assert [side.covers(4) for side in (book.bids, book.asks)] == [known, known]


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_the_bounds_are_those_that_the_documents_state() -> None:
    """How many changes wait for a snapshot, and how few levels beyond those that are read are too few."""
    assert (MOST_BUFFERED, SPARE_LEVELS) == (2000, 20)
    book = BookSync(SPOT)
    for number in range(1, 2003):
        book.receive(delta(number))
    assert book.seed(book.ask(), snapshot(1)) is BookEvent.UNFIT, "2 is not here any more"
    assert book.seed(book.ask(), snapshot(2)) is BookEvent.JOINED


@pytest.mark.parametrize("how", ["subscribed", "asked for", "another asked for", "crossed", "a hole"])
def test_however_a_buffer_begins_it_keeps_no_more_than_it_may(how: str) -> None:
    book = BookSync(SPOT, most_buffered=3)
    book.subscribed()
    if how != "subscribed":
        tickets = [book.ask(), book.ask()]
        assert book.seed(tickets[0], snapshot(10)) is BookEvent.JOINED
        if how != "another asked for":
            book.forgo(tickets[1])
    match how:
        case "asked for":
            book.ask()
        case "crossed":
            assert book.receive(delta(11, (Side.BUY, "101", "1"))) is BookEvent.CROSSED
        case "a hole":
            assert book.receive(delta(12)) is BookEvent.GAP
    for number in range(book.sequence + 1, book.sequence + 6):
        book.receive(delta(number + (how == "a hole")))
    assert book._buffer is not None
    assert len(book._buffer) == 3


def test_a_snapshot_asked_for_beside_a_seed_is_compared_though_it_is_older_than_the_changes() -> None:
    book = BookSync(SPOT)
    book.subscribed()
    seed, audit = book.ask(), book.ask()
    assert book.seed(seed, snapshot(10)) is BookEvent.JOINED
    for number in (11, 12):
        assert book.receive(delta(number, (Side.BUY, "100", str(number)))) is BookEvent.APPLIED
    assert book.audit(audit, snapshot(10)) is None
    assert (book.audits, book.audits_missed) == (1, 0)


def test_changes_that_come_before_the_acknowledgement_are_kept() -> None:
    book = BookSync(SPOT)
    book.receive(delta(11, (Side.BUY, "100", "2")))
    book.subscribed()
    assert book.seed(book.ask(), snapshot(10)) is BookEvent.JOINED
    assert (book.sequence, book.view(1).bids) == (11, ((100, 2),))
