"""The channel of a subscription: order, bound, accounts and told holes, whatever producer and consumers do."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from kufeed import (
    BookDelta,
    Disconnected,
    Dropped,
    Gap,
    GapCause,
    Overflow,
    Overflowed,
    Restored,
    SlowConsumer,
    StreamEvent,
    Topic,
    Update,
    UpdateType,
    topic,
)
from kufeed._buffers import DEFAULT_OVERFLOW
from kufeed._channels import Sink, UpdateQueue
from kufeed._delivery import hand_out
from kufeed.errors import ConnectionFailed, LinkClosed, SubscriptionRejected

from .updates import START_NS, TICKERS, TRADES, update

if TYPE_CHECKING:
    from collections.abc import Mapping

STREAMS = (*TICKERS, *TRADES)
TRADE = TRADES[0]


@attrs.define
class End:
    closed: bool = False


END = End()


async def never_hold(sink: Sink) -> bool:
    await trio.lowlevel.checkpoint()
    return False


def channel(policy: Overflow = Overflow.DROP_OLDEST, bound: int = 10, **options: Any) -> UpdateQueue:
    return UpdateQueue(dict.fromkeys(UpdateType, policy), bound, **options)


def trades(*numbers: int) -> list[Update]:
    return [update(TRADE, number) for number in numbers]


async def put(queue: UpdateQueue, *updates: Update) -> None:
    queue.staged.extend(updates)
    await hand_out([queue], never_hold)


def holding(*numbers: int, policy: Overflow = Overflow.DROP_OLDEST, bound: int = 10) -> UpdateQueue:
    queue = channel(policy, bound)
    queue.staged.extend(trades(*numbers))
    assert queue.hand_over()
    return queue


def law(queue: UpdateQueue) -> bool:
    counts = queue.statistics()
    return counts.received == (
        counts.delivered + counts.conflated + counts.dropped + counts.unchanged + counts.discarded + counts.pending
    )


def everything(queue: UpdateQueue) -> list[Update | StreamEvent]:
    """What `with_events()` would yield now."""
    found: list[Update | StreamEvent] = []
    while True:
        try:
            found.append(queue.take(events=True))
        except (trio.WouldBlock, trio.EndOfChannel):
            return found


def told(items: list[Update | StreamEvent]) -> list[Any]:
    """Updates by their number, events by their name."""
    return [one.sequence if isinstance(one, Update) else type(one).__name__ for one in items]


# -- taking -----------------------------------------------------------------------------------------------------------


async def test_taking_is_a_cancellation_point_even_while_updates_wait() -> None:
    queue = holding(*range(10))
    with trio.move_on_after(0) as scope:
        while True:
            await queue.next(END)
    assert scope.cancelled_caught
    assert queue.statistics().delivered == 0


async def test_other_tasks_run_while_a_long_queue_is_taken() -> None:
    """At least every 5 ms, by the clock that the queue was given."""
    now = 0.0
    queue = channel(bound=1000, perf_counter=lambda: now)
    await put(queue, *trades(*range(1000)))
    ran_at: list[float] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def other() -> None:
            while True:
                ran_at.append(now)
                await trio.lowlevel.checkpoint()

        for _ in range(1000):
            await queue.next(END)
            now += 0.001
        nursery.cancel_scope.cancel()
    # Each yield lets the other task run once; Trio shuffles the order within a pass, so it may come late in one and
    # early in the next.
    assert max(later - earlier for earlier, later in pairwise(ran_at)) <= 2 * 0.0061


async def test_taking_costs_no_scheduler_pass_while_updates_wait() -> None:
    queue = holding(*range(10))
    passes = Passes()
    trio.lowlevel.add_instrument(passes)
    assert [(await queue.next(END)).sequence for _ in range(10)] == list(range(10))  # type: ignore[union-attr]
    trio.lowlevel.remove_instrument(passes)
    assert passes.count == 0


class Passes(trio.abc.Instrument):
    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_waiting_is_a_checkpoint() -> None:
    queue = channel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, queue, *trades(1))
        with assert_checkpoints():
            await queue.next(END)


@pytest.mark.parametrize("events", [False, True])
async def test_a_reader_cancelled_at_any_step_has_lost_nothing(autojump_clock: MockClock, events: bool) -> None:
    """Cancelled after each number of task steps in turn, it goes on where it was."""
    for limit in range(60):
        queue = channel(bound=3)
        taken: list[Any] = []

        async def produce(queue: UpdateQueue = queue) -> None:
            for number in range(30):
                if number % 7 == 3:
                    queue.tell(Restored(TRADE, 1.0))
                queue.staged.append(update(TRADE, number))
                while not queue.hand_over():  # noqa: ASYNC110  # it stands for the reader, which has other things to do
                    await trio.sleep(1)
                await trio.sleep(number % 3)
            queue.finish()

        async def consume(scope: trio.CancelScope, queue: UpdateQueue = queue, taken: list[Any] = taken) -> None:
            with scope:
                while True:
                    try:
                        taken.append(await queue.next(END, events))
                    except StopAsyncIteration:
                        return

        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            cancel = CancelAfter(limit, scope)
            trio.lowlevel.add_instrument(cancel)
            nursery.start_soon(produce)
            await consume(scope)
            trio.lowlevel.remove_instrument(cancel)
            await consume(trio.CancelScope())
        assert [one.sequence for one in taken if isinstance(one, Update)] == list(range(30))
        assert sum(isinstance(one, Restored) for one in taken) == (4 if events else 0)
        assert law(queue)
        assert queue.statistics().delivered == 30


class CancelAfter(trio.abc.Instrument):
    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self.left = steps
        self.scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


async def test_a_large_read_does_not_outrun_a_consumer_that_keeps_up() -> None:
    """370 updates in one read, room for 10, and a consumer that takes what is there: nothing is dropped."""
    # A clock that stands: on a machine that gives us no time, the consumer would yield after each update.
    queue = channel(perf_counter=lambda: 0.0)
    taken: list[int | None] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def consume() -> None:
            while len(taken) < 3700:
                taken.append((await queue.next(END)).sequence)  # type: ignore[union-attr]

        await wait_all_tasks_blocked()
        for start in range(0, 3700, 370):
            await put(queue, *trades(*range(start, start + 370)))
    assert taken == list(range(3700))
    counts = queue.statistics()
    assert (counts.dropped, counts.most_pending, counts.slow) == (0, 10, False)


async def test_a_consumer_that_does_not_come_costs_two_scheduler_passes(autojump_clock: MockClock) -> None:
    queue = holding(*range(10))
    start = trio.current_time()
    await put(queue, *trades(*range(10, 1000)))
    assert trio.current_time() == start
    assert queue.statistics().dropped == 990
    assert [one.sequence for one in queue.take_up_to(100)] == list(range(990, 1000))


async def test_a_batch_ends_before_an_error_and_carries_gaps() -> None:
    queue = holding(1, 2)
    queue.tell(Gap(TRADE, GapCause.RECONNECT, None, None, 2, 5))
    await put(queue, *trades(5, 6))
    queue.fail(KeyError())
    await put(queue, *trades(7))
    batch = queue.take_up_to(10)
    assert [one.sequence for one in batch] == [1, 2, 5, 6]
    assert [one.gap_before is not None for one in batch] == [False, False, True, False]
    assert queue.take_up_to(10) == []
    with pytest.raises(KeyError):
        queue.take()
    assert [one.sequence for one in queue.take_up_to(10)] == [7]


# -- errors -----------------------------------------------------------------------------------------------------------


async def test_errors_are_raised_at_their_place_once() -> None:
    queue = holding(1, 2)
    queue.fail(KeyError("between"))
    await put(queue, *trades(3))
    assert [(await queue.next(END)).sequence for _ in range(2)] == [1, 2]  # type: ignore[union-attr]
    with pytest.raises(KeyError, match="between"):
        await queue.next(END)
    assert (await queue.next(END)).sequence == 3  # type: ignore[union-attr]
    assert law(queue)


async def test_an_error_wakes_a_waiting_consumer() -> None:
    queue = channel()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def consume() -> None:
            with pytest.raises(KeyError):
                await queue.next(END)

        await wait_all_tasks_blocked()
        queue.fail(KeyError())


async def test_an_error_outlives_the_drop_of_what_stood_before_it() -> None:
    queue = holding(1, 2, bound=2)
    queue.fail(KeyError())
    await put(queue, *trades(3, 4, 5))
    with pytest.raises(KeyError):
        await queue.next(END)
    assert told(everything(queue)) == ["SlowConsumer", "Dropped", 4, 5, "SlowConsumer"]
    assert queue.statistics().dropped == 3
    assert law(queue)


def test_each_queue_raises_an_error_of_its_own() -> None:
    """One that others raise too would keep all their frames, and grow for as long as somebody comes."""
    error = SubscriptionRejected(str(TRADE), 404, "not found")
    found = []
    for _ in range(2):
        queue = channel()
        queue.fail(error)
        with pytest.raises(SubscriptionRejected) as raised:
            queue.take()
        found.append(raised.value)
    assert len({id(one) for one in (error, *found)}) == 3
    assert {(str(one), one.topic, one.code) for one in (error, *found)} == {(str(error), str(TRADE), "404")}
    assert error.__traceback__ is None


def test_failures_that_nobody_came_for_become_one() -> None:
    queue = channel()
    for number in range(1000):
        queue.fail(ConnectionFailed([f"topic {number % 3}"], OSError(number)))
    with pytest.raises(ConnectionFailed) as raised:
        queue.take()
    assert raised.value.topics == ("topic 0", "topic 1", "topic 2")
    assert str(raised.value.cause) == "999"
    with pytest.raises(trio.WouldBlock):
        queue.take()


# -- policies ---------------------------------------------------------------------------------------------------------


async def test_the_oldest_goes_and_what_is_missing_is_told() -> None:
    queue = holding(1, 2, 3, bound=3)
    await put(queue, *trades(4, 5))
    items = everything(queue)
    assert told(items) == ["Dropped", 3, "SlowConsumer", 4, 5, "SlowConsumer"]
    dropped = next(one for one in items if isinstance(one, Dropped))
    gap = Gap(TRADE, GapCause.OVERFLOW, None, None, START_NS + 1, START_NS + 2)
    assert (dropped.topic, dropped.count, dropped.gap) == (TRADE, 2, gap)
    third = next(one for one in items if isinstance(one, Update))
    assert third.gap_before == gap
    assert third == update(TRADE, 3)  # otherwise as it was


async def test_the_newest_goes_and_what_is_missing_is_told() -> None:
    queue = holding(1, 2, policy=Overflow.DROP_NEWEST, bound=2)
    await put(queue, *trades(3, 4))
    assert queue.take_up_to(5) == trades(1, 2)
    await put(queue, *trades(5))
    (fifth,) = queue.take_up_to(5)
    assert fifth.gap_before == Gap(TRADE, GapCause.OVERFLOW, None, None, START_NS + 3, START_NS + 4)


DELTA = topic("book_delta", "AA-USDT")


def delta(number: int) -> BookDelta:
    """The delta with the numbers `10 * number` to `10 * number + 9`."""
    time = START_NS + number
    return BookDelta(DELTA, DELTA.symbol, 10 * number + 9, time, time + 5, 10 * number, ())


@pytest.mark.parametrize("policy", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.RAISE])
async def test_where_numbers_have_no_holes_the_missing_ones_are_named(policy: Overflow) -> None:
    """From the first number of the first lost record to the last of the last, also of losses that were joined."""
    queue = channel(policy, bound=2)
    await put(queue, delta(1), delta(2))
    await put(queue, delta(3))
    await put(queue, delta(4))
    first, last = (1, 2) if policy is Overflow.DROP_OLDEST else (3, 4)
    gaps = []
    for _ in range(20):
        try:
            found = queue.take(events=True)
        except Overflowed:
            continue
        except trio.WouldBlock:
            break
        if isinstance(found, Dropped):
            gaps.append(found.gap)
    times = (START_NS + first, START_NS + last)
    assert gaps == [Gap(DELTA, GapCause.OVERFLOW, 10 * first, 10 * last + 9, *times)]


async def test_raise_tells_at_the_place_of_the_hole_and_goes_on() -> None:
    queue = holding(1, 2, policy=Overflow.RAISE, bound=2)
    await put(queue, *trades(3, 4))
    assert (await queue.next(END)).sequence == 1  # type: ignore[union-attr]
    await put(queue, *trades(5))
    assert (await queue.next(END)).sequence == 2  # type: ignore[union-attr]
    with pytest.raises(Overflowed) as raised:
        await queue.next(END)
    assert (raised.value.topics, raised.value.lost) == ((str(TRADE),), 2)
    fifth = await queue.next(END)
    assert isinstance(fifth, Update)
    assert (fifth.sequence, fifth.gap_before is not None) == (5, True)
    assert law(queue)


async def test_latest_keeps_one_of_each_stream_in_order_of_first_arrival() -> None:
    queue = channel(Overflow.LATEST, bound=1)
    first, second = TICKERS
    await put(queue, update(first, 1), update(second, 1), update(first, 2), update(second, 2), update(first, 3))
    assert [(one.topic, one.sequence) for one in queue.take_up_to(9)] == [(first, 3), (second, 2)]
    counts = queue.statistics()
    assert (counts.received, counts.delivered, counts.conflated, counts.dropped) == (5, 2, 3, 0)
    assert not counts.slow


async def test_latest_does_not_conflate_across_a_gap() -> None:
    """What came after the hole does not take the place of what came before it: the gap stands directly before it."""
    queue = channel(Overflow.LATEST)
    first, second = TICKERS
    await put(queue, update(first, 1), update(second, 1))
    queue.tell(Gap(first, GapCause.RECONNECT, None, None, 1, 7))
    await put(queue, update(first, 7), update(first, 8))
    items = everything(queue)
    assert told(items) == [1, "Gap", 8]
    assert [one.topic for one in items if isinstance(one, Update)] == [second, first]
    assert items[-1].gap_before == items[1]  # type: ignore[union-attr]
    assert law(queue)


async def test_in_a_mixture_each_kind_goes_by_its_own_policy() -> None:
    queue = UpdateQueue({UpdateType.TICKER: Overflow.LATEST, UpdateType.TRADE: Overflow.DROP_NEWEST}, 2)
    ticker, other = TICKERS
    await put(queue, update(ticker, 1), *trades(1, 2, 3), update(other, 1), update(ticker, 2))
    assert [(one.kind, one.sequence) for one in queue.take_up_to(9)] == [
        ("ticker", 2),
        ("trade", 1),
        ("trade", 2),
        ("ticker", 1),
    ]
    assert queue.statistics().dropped == 1


# -- events -----------------------------------------------------------------------------------------------------------


async def test_events_stand_among_the_updates_in_one_order() -> None:
    queue = holding(1)
    lost, back = Disconnected(TRADE, LinkClosed(1006, None)), Restored(TRADE, 2.5)
    gap = Gap(TRADE, GapCause.RECONNECT, None, None, 1, 9)
    queue.tell(lost)
    queue.tell(back)
    queue.tell(gap)
    await put(queue, *trades(9))
    ninth = attrs.evolve(update(TRADE, 9), gap_before=gap)
    items = everything(queue)
    assert items == [update(TRADE, 1), lost, back, gap, ninth]
    assert items[-1].gap_before == gap  # type: ignore[union-attr]


async def test_iterating_plainly_passes_over_events() -> None:
    queue = channel()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def consume() -> None:
            assert (await queue.next(END)).sequence == 1  # type: ignore[union-attr]

        await wait_all_tasks_blocked()
        queue.tell(Disconnected(TRADE, LinkClosed(1006, None)))
        await wait_all_tasks_blocked()
        await put(queue, *trades(1))


async def test_a_gap_belongs_to_the_next_update_of_its_topic() -> None:
    queue = channel()
    gap = Gap(TRADES[1], GapCause.RECONNECT, None, None, 1, 2)
    queue.tell(gap)
    await put(queue, update(TRADES[0], 1), update(TRADES[1], 2), update(TRADES[1], 3))
    taken = [await queue.next(END) for _ in range(3)]
    assert [one.gap_before for one in taken if isinstance(one, Update)] == [None, gap, None]


async def test_gaps_of_a_topic_with_others_updates_between_are_one_to_it() -> None:
    queue = channel()
    queue.tell(Gap(TRADES[1], GapCause.RECONNECT, None, None, 1, 2))
    await put(queue, update(TRADES[0], 1))
    queue.tell(Gap(TRADES[1], GapCause.RECONNECT, None, None, 3, 4))
    await put(queue, update(TRADES[1], 4))
    assert queue.take_up_to(9)[1].gap_before == Gap(TRADES[1], GapCause.RECONNECT, None, None, 1, 4)


async def test_a_gap_among_what_was_dropped_is_one_hole_with_it() -> None:
    """Whichever the channel comes to first: from the first that was dropped to the last that never came."""
    queue = channel(bound=1)
    await put(queue, *trades(1))
    queue.tell(Gap(TRADE, GapCause.RECONNECT, None, None, START_NS + 1, START_NS + 5))
    await put(queue, *trades(5))
    (fifth,) = queue.take_up_to(9)
    assert fifth.gap_before is not None
    assert (fifth.gap_before.since_ns, fifth.gap_before.until_ns) == (START_NS + 1, START_NS + 5)


OPEN = Gap(TRADE, GapCause.BOOK, None, None, START_NS + 1, None)
"""A hole that is told before anybody knows where it ends."""
POLICIES = [Overflow.BLOCK, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.LATEST, Overflow.RAISE]


@pytest.mark.parametrize("changes_only", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
async def test_a_hole_that_waits_is_told_with_the_end_that_it_got_meanwhile(
    policy: Overflow, changes_only: bool
) -> None:
    queue = channel(policy, changes_only=changes_only)
    await put(queue, *trades(1))
    queue.tell(OPEN)
    queue.tell(Restored(TRADE, 2.5))
    queue.complete(TRADE, START_NS + 5)
    await put(queue, *trades(5))
    items = everything(queue)
    whole = attrs.evolve(OPEN, until_ns=START_NS + 5)
    assert told(items) == [*([1] if policy is not Overflow.LATEST else []), "Gap", "Restored", 5]
    assert items[-3] == whole
    assert items[-1].gap_before == whole  # type: ignore[union-attr]
    assert law(queue)


@pytest.mark.parametrize("events", [False, True])
@pytest.mark.parametrize("changes_only", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
async def test_a_hole_that_was_told_already_gets_its_end_in_what_the_next_update_says_of_it(
    policy: Overflow, changes_only: bool, events: bool
) -> None:
    """The event that was told stays as it was, and is the only one."""
    queue = channel(policy, changes_only=changes_only)
    queue.tell(OPEN)
    if events:
        assert queue.take(events=True) == OPEN
    with pytest.raises(trio.WouldBlock):
        queue.take(events=events)
    queue.complete(TRADES[1], START_NS + 4)  # another one's
    queue.complete(TRADE, START_NS + 5)
    with pytest.raises(trio.WouldBlock):
        queue.take(events=True)
    await put(queue, *trades(5, 6))
    items = everything(queue)
    assert told(items) == ([6] if policy is Overflow.LATEST else [5, 6])
    assert items[0].gap_before == attrs.evolve(OPEN, until_ns=START_NS + 5)  # type: ignore[union-attr]


@pytest.mark.parametrize("reached", [False, True])
async def test_a_hole_that_ended_is_no_end_of_one_that_did_not(reached: bool) -> None:
    """As one they have no end until both have; where updates were dropped between them, too."""
    queue = channel(bound=1)
    await put(queue, *trades(1))
    queue.tell(OPEN)
    await put(queue, update(TRADES[1], 2))  # drops what stood before the hole
    if reached:
        assert sorted(map(str, told(everything(queue)))) == ["2", "Dropped", "Gap", "SlowConsumer", "SlowConsumer"]
    queue.complete(TRADE, START_NS + 9)
    await put(queue, *trades(9))
    ninth = [one for one in everything(queue) if isinstance(one, Update)][-1]
    assert ninth.sequence == 9
    assert ninth.gap_before is not None
    assert (ninth.gap_before.since_ns, ninth.gap_before.until_ns) == (START_NS + 1, START_NS + 9)
    earlier = Gap(TRADE, GapCause.RECONNECT, None, None, START_NS, START_NS + 1)
    for joined in (earlier.joined(OPEN), OPEN.joined(earlier)):
        assert (joined.cause, joined.since_ns, joined.until_ns) == (GapCause.RECONNECT, START_NS, None)


async def test_an_end_without_an_open_hole_changes_nothing() -> None:
    queue = holding(1)
    gap = Gap(TRADE, GapCause.RECONNECT, None, None, 1, 2)
    queue.tell(gap)
    queue.complete(TRADE, 3)
    assert everything(queue)[1:] == [gap]
    queue.complete(TRADE, 3)
    await put(queue, *trades(2))
    (second,) = everything(queue)
    assert second.gap_before == gap  # type: ignore[union-attr]
    queue.tell(OPEN)
    queue.close()
    queue.complete(TRADE, 3)
    with pytest.raises(trio.EndOfChannel):
        queue.take(events=True)


async def test_the_record_in_other_channels_is_not_touched() -> None:
    one, other = channel(), channel()
    shared = update(TRADE, 1)
    one.tell(Gap(TRADE, GapCause.RECONNECT, None, None, 0, 1))
    await put(one, shared)
    await put(other, shared)
    assert one.take().gap_before is not None  # type: ignore[union-attr]
    assert other.take() is shared
    assert shared.gap_before is None


async def test_a_flapping_link_leaves_a_stuck_consumer_a_bounded_number_of_events() -> None:
    queue = holding(1)
    for number in range(1000):
        for stream in STREAMS:
            queue.tell(Disconnected(stream, LinkClosed(1006, str(number))))
            queue.tell(Restored(stream, 1.0))
            queue.tell(Gap(stream, GapCause.RECONNECT, None, None, number, number + 1))
    items = everything(queue)
    assert len(items) == 1 + 3 * len(STREAMS)
    # Merged, they still say all: the hole is from the first cut to the last return.
    gaps = [one for one in items if isinstance(one, Gap)]
    assert all((one.since_ns, one.until_ns) == (0, 1000) for one in gaps)


async def test_places_between_which_all_was_dropped_become_one() -> None:
    queue = channel(bound=2)
    for number in range(1000):
        queue.tell(Restored(TRADE, float(number)))
        await put(queue, *trades(number))
    assert len(queue._places) <= 2 * 3 + 16
    items = everything(queue)
    assert told(items).count("Restored") <= 3
    assert sum(one.count for one in items if isinstance(one, Dropped)) == 998


async def test_what_is_dropped_behind_something_that_stays_leaves_a_bounded_number_of_places() -> None:
    """In a mixture one waiting ticker holds the front, and trades are dropped behind it."""
    queue = UpdateQueue(DEFAULT_OVERFLOW, 10)
    await put(queue, update(TICKERS[0], 1))
    for number in range(5000):
        await put(queue, *trades(number))
    assert len(queue._places) < 100
    items = everything(queue)
    dropped = [one for one in items if isinstance(one, Dropped)]
    assert sum(one.count for one in dropped) == queue.statistics().dropped == 4990
    tenth = next(one for one in items if isinstance(one, Update) and one.topic == TRADE)
    assert tenth.gap_before is not None
    assert (tenth.gap_before.since_ns, tenth.gap_before.until_ns) == (START_NS, START_NS + 4989)


@pytest.mark.parametrize("policy", [Overflow.LATEST, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST])
async def test_updates_between_cuts_leave_a_bounded_number_of_events_too(policy: Overflow) -> None:
    queue = channel(policy, bound=2)
    for number in range(500):
        for stream in TICKERS:
            queue.tell(Disconnected(stream, LinkClosed(1006, None)))
            queue.tell(Restored(stream, 1.0))
            queue.tell(Gap(stream, GapCause.RECONNECT, None, None, START_NS + number, START_NS + number + 1))
            await put(queue, update(stream, number + 1))
    assert len(queue._places) < 50
    assert sum(len(place.marks) for place in queue._places) < 200


async def test_the_end_of_a_slow_episode_is_told_while_a_gap_waits_for_its_update(autojump_clock: MockClock) -> None:
    queue = channel(Overflow.DROP_NEWEST, bound=1, perf_counter=trio.current_time)
    await put(queue, *trades(1))
    await put(queue, *trades(2))
    seen: list[Any] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def consume() -> None:
            while True:
                seen.append(await queue.next(END, events=True))

        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert told(seen) == [1, "SlowConsumer", "Dropped", "SlowConsumer"]
    assert [one.ended for one in seen if isinstance(one, SlowConsumer)] == [False, True]
    assert not queue.statistics().slow


async def test_a_slow_consumer_is_told_once_and_its_end_once(autojump_clock: MockClock) -> None:
    queue = channel(bound=2, perf_counter=trio.current_time)
    await put(queue, *trades(1, 2))
    assert not queue.statistics().slow
    for number in range(3, 10):
        await put(queue, *trades(number))
        await trio.sleep(1)
    assert queue.statistics().slow
    items = everything(queue)
    slow = [one for one in items if isinstance(one, SlowConsumer)]
    assert slow == [SlowConsumer(ended=False, duration=0.0, lost=0), SlowConsumer(ended=True, duration=7.0, lost=7)]
    assert not queue.statistics().slow
    await put(queue, *trades(10, 11, 12))
    assert sum(isinstance(one, SlowConsumer) for one in everything(queue)) == 2


async def test_the_end_is_told_before_what_comes_after_it() -> None:
    """Also where the consumer has taken all, and not come again."""
    queue = holding(1, 2, bound=2)
    await put(queue, *trades(3))
    assert [one.sequence for one in queue.take_up_to(5)] == [2, 3]
    await put(queue, *trades(4))
    assert told(everything(queue)) == ["SlowConsumer", 4]


async def test_an_event_wakes_who_waits_for_it() -> None:
    queue = channel()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def consume() -> None:
            assert await queue.next(END, events=True) == Restored(TRADE, 1.0)

        await wait_all_tasks_blocked()
        queue.tell(Restored(TRADE, 1.0))


async def test_statistics_tell_the_age_of_what_waits_longest() -> None:
    now = START_NS
    queue = channel(time_ns=lambda: now)
    assert queue.statistics().oldest_age is None
    await put(queue, *trades(0, 1))
    now = START_NS + 3_000_000_005
    assert queue.statistics().oldest_age == 3.0


# -- the end ----------------------------------------------------------------------------------------------------------


async def test_finishing_delivers_what_is_pending_and_discards_what_comes() -> None:
    queue = holding(1, 2)
    queue.finish()
    await put(queue, *trades(3))
    queue.tell(Restored(TRADE, 1.0))
    assert [(await queue.next(END)).sequence for _ in range(2)] == [1, 2]  # type: ignore[union-attr]
    with pytest.raises(StopAsyncIteration):
        await queue.next(END)
    assert queue.statistics().discarded == 1
    assert law(queue)


@pytest.mark.parametrize("how", ["finish", "close"])
async def test_the_end_wakes_every_consumer(how: str) -> None:
    queue = channel()
    ended = 0

    async def consume() -> None:
        nonlocal ended
        with pytest.raises(StopAsyncIteration):
            await queue.next(END)
        ended += 1

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(consume)
        await wait_all_tasks_blocked()
        getattr(queue, how)()
    assert ended == 3


# -- the model --------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("produce"), st.lists(st.integers(0, 3), max_size=10)),
        st.tuples(st.just("hole"), st.integers(0, 3)),
        st.tuples(st.just("event"), st.integers(0, 3)),
        st.tuples(st.just("fail"), st.none()),
        st.tuples(st.just("wait"), st.tuples(st.integers(1, 4), st.booleans())),
        st.tuples(st.just("cancel"), st.integers(0, 2)),
        st.tuples(st.just("nowait"), st.tuples(st.integers(1, 5), st.booleans())),
        st.tuples(st.just("batch"), st.integers(1, 8)),
        st.tuples(st.just("finish"), st.none()),
        st.tuples(st.just("close"), st.none()),
    ),
    max_size=40,
)
POLICIES = [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.RAISE, Overflow.LATEST]


class Ledger:
    """What was sent and what was seen, and what must be true of the two."""

    def __init__(self, policies: Mapping[UpdateType, Overflow]) -> None:
        self.policies = policies
        self.sent = dict.fromkeys(STREAMS, 0)
        self.seen: dict[Topic, int] = dict.fromkeys(STREAMS, 0)
        self.holes: dict[Topic, list[tuple[int, int]]] = {stream: [] for stream in STREAMS}
        self.delivered = 0

    def next_updates(self, indices: list[int]) -> list[Update]:
        made: list[Update] = []
        for index in indices:
            self.sent[STREAMS[index]] += 1
            made.append(update(STREAMS[index], self.sent[STREAMS[index]]))
        return made

    def hole(self, index: int) -> Gap:
        """The exchange sends three updates that never arrive."""
        stream = STREAMS[index]
        since = self.sent[stream]
        self.sent[stream] += 3
        self.holes[stream].append((since, self.sent[stream] + 1))
        return Gap(stream, GapCause.RECONNECT, None, None, START_NS + since, START_NS + self.sent[stream] + 1)

    def saw(self, item: Update | StreamEvent) -> None:
        if not isinstance(item, Update):
            return
        self.delivered += 1
        assert item.sequence is not None
        before, self.seen[item.topic] = self.seen[item.topic], item.sequence
        assert item.sequence > before, "out of order, or twice"
        missing = set(range(before + 1, item.sequence))
        if self.policies[item.kind] is Overflow.LATEST:
            # What is conflated is not missing; what the exchange sent into a hole is.
            missing &= {number for since, until in self.holes[item.topic] for number in range(since + 1, until)}
        if not missing:
            return
        assert item.gap_before is not None, f"{sorted(missing)} are missing and nobody said so"
        since, until = item.gap_before.since_ns, item.gap_before.until_ns
        assert since is not None
        assert until is not None
        assert since - START_NS <= min(missing)
        assert max(missing) <= until - START_NS <= item.sequence


@settings(max_examples=300, deadline=None)
@given(bound=st.integers(1, 6), ticker=st.sampled_from(POLICIES), trade=st.sampled_from(POLICIES), plan=steps)
def test_whatever_happens_order_bound_accounts_and_holes_are_right(
    bound: int, ticker: Overflow, trade: Overflow, plan: list[tuple[str, Any]]
) -> None:
    """Consumers come and are cancelled, the producer overflows the buffer, links are lost, errors stand in between."""
    policies = {UpdateType.TICKER: ticker, UpdateType.TRADE: trade}

    async def main() -> None:
        queue = UpdateQueue(policies, bound, perf_counter=trio.current_time)
        ledger = Ledger(policies)
        staged = failures = errors = 0
        scopes: dict[int, trio.CancelScope] = {}

        async def consume(slot: int, count: int, events: bool, task_status: trio.TaskStatus[None]) -> None:
            nonlocal errors
            with trio.CancelScope() as scopes[slot]:
                task_status.started()
                for _ in range(count):
                    try:
                        ledger.saw(await queue.next(END, events))
                    except KeyError:
                        errors += 1
                    except Overflowed:
                        assert Overflow.RAISE in policies.values()
                    except StopAsyncIteration:
                        return

        async with trio.open_nursery() as nursery:
            for slot, (step, argument) in enumerate(plan):
                match step:
                    case "produce":
                        staged += len(argument)
                        await put(queue, *ledger.next_updates(argument))
                    case "hole":
                        queue.tell(ledger.hole(argument))
                    case "event":
                        queue.tell(Disconnected(STREAMS[argument], LinkClosed(1006, None)))
                    case "fail":
                        failures += 1
                        queue.fail(KeyError())
                    case "wait":
                        await nursery.start(consume, slot, *argument)
                    case "cancel":
                        for scope in list(scopes.values())[: argument + 1]:
                            scope.cancel()
                        scopes.clear()
                    case "nowait":
                        count, events = argument
                        for _ in range(count):
                            try:
                                ledger.saw(queue.take(events))
                            except KeyError:
                                errors += 1
                            except Overflowed:
                                pass
                            except (trio.WouldBlock, trio.EndOfChannel):
                                break
                    case "batch":
                        for one in queue.take_up_to(argument):
                            ledger.saw(one)
                    case "finish" | "close":
                        getattr(queue, step)()
                await wait_all_tasks_blocked()
                counts = queue.statistics()
                assert law(queue)
                assert counts.received == staged
                assert counts.delivered == ledger.delivered
                assert counts.pending <= bound + len(STREAMS) >= counts.most_pending
                if Overflow.LATEST not in policies.values():
                    assert counts.pending <= bound >= counts.most_pending
                if counts.pending:  # no lost wake-up: nobody waits while there is something to take
                    assert queue._consumers.statistics().tasks_waiting == 0
                assert len(queue._places) <= 2 * (counts.pending + 1) + 16
                assert all(len(place.marks) <= len(STREAMS) * 4 + 4 for place in queue._places)
            queue.close()
        assert errors <= failures
        assert law(queue)

    trio.run(main, clock=MockClock(autojump_threshold=0))


@settings(max_examples=150, deadline=None)
@given(
    rng=st.randoms(use_true_random=False),
    bound=st.integers(1, 6),
    policies=st.one_of(
        st.just(dict.fromkeys(UpdateType, Overflow.BLOCK)),
        st.fixed_dictionaries({kind: st.sampled_from(POLICIES) for kind in UpdateType}),
    ),
)
def test_two_readers_and_three_ends_share_a_channel_without_a_loss(
    rng: random.Random, bound: int, policies: dict[UpdateType, Overflow]
) -> None:
    """Readers are cancelled and may not always hold; ends are cancelled, take by batches, and close."""

    async def main() -> None:
        queue = UpdateQueue(policies, bound, perf_counter=trio.current_time)
        ledger = Ledger(policies)
        sent = 0

        async def hold(sink: Sink) -> bool:
            if rng.random() < 0.1:
                return await never_hold(sink)
            sink.slow()
            with trio.move_on_after(rng.choice([1, 30])) as scope:
                await sink.wait_room()
            return not scope.cancelled_caught

        async def read(indices: list[int]) -> None:
            nonlocal sent
            with trio.CancelScope() as scope:
                for _ in range(15):
                    updates = ledger.next_updates(rng.choices(indices, k=rng.randint(0, 8)))
                    sent += len(updates)
                    queue.staged.extend(updates)
                    if rng.random() < 0.05:
                        scope.cancel()
                    await hand_out([queue], hold)
                    await trio.sleep(rng.choice([0, 0, 0.5, 1]))

        async def consume() -> None:
            end = End()
            for _ in range(rng.randint(5, 40)):
                with trio.move_on_after(rng.choice([0, 0.1, 2])):
                    try:
                        ledger.saw(await queue.next(end, rng.random() < 0.5))
                    except Overflowed:
                        pass
                    except (StopAsyncIteration, trio.ClosedResourceError):
                        return
                if rng.random() < 0.1:
                    for one in queue.take_up_to(rng.randint(1, 4)):
                        ledger.saw(one)
                if rng.random() < 0.05:
                    end.closed = True
                    queue.wake_all()
                await trio.sleep(rng.choice([0, 0, 0.3]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, [0, 1])
            nursery.start_soon(read, [2, 3])
            for _ in range(3):
                nursery.start_soon(consume)
            for _ in range(30):
                await trio.sleep(0.5)
                await wait_all_tasks_blocked()
                counts = queue.statistics()
                assert law(queue)
                assert counts.received + len(queue.staged) == sent
                assert counts.delivered == ledger.delivered
                if counts.pending:
                    assert queue._consumers.statistics().tasks_waiting == 0
                if counts.pending < bound:
                    assert queue._readers.statistics().tasks_waiting == 0, "a reader waits though there is room"
            nursery.cancel_scope.cancel()
        queue.close()
        queue.hand_over()
        assert queue.statistics().received == sent
        assert law(queue)

    trio.run(main, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Overflow.BLOCK, [1, 2, 3, 4, 5, "Gap", 7]),
        (Overflow.DROP_OLDEST, ["SlowConsumer", "Dropped", 5, "Gap", 7, "SlowConsumer"]),
        (Overflow.DROP_NEWEST, [1, 2, "SlowConsumer", "Dropped", "Gap", "SlowConsumer"]),
    ],
)
def test_a_gap_stays_before_its_update_where_what_came_before_has_no_room(
    policy: Overflow, expected: list[Any]
) -> None:
    queue = channel(policy, 2)
    queue.staged.extend(trades(1, 2, 3, 4, 5))
    (seventh,) = trades(7)
    gap = Gap(TRADE, GapCause.SEQUENCE, 6, 6, None, seventh.time_ns)
    queue.stage_after(gap, seventh)
    if policy is not Overflow.BLOCK and not queue.hand_over():
        queue.force()
    found: list[Update | StreamEvent] = []
    for _ in range(8):
        found += everything(queue)
        queue.hand_over()
    assert told(found) == expected
    assert [one.gap_before for one in found if isinstance(one, Update) and one.sequence == 7] in ([gap], [])
    assert law(queue)
