"""`changes_only`: what says nothing new is counted and not delivered, and nobody sits on an old value because of it."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import kufeed
from kufeed import (
    BookChange,
    BookDelta,
    Disconnected,
    Dropped,
    Gap,
    GapCause,
    Level1,
    Overflow,
    Overflowed,
    Side,
    StreamEvent,
    Ticker,
    Topic,
    Trade,
    Update,
    UpdateType,
    topic,
)
from kufeed._changes import says_the_same
from kufeed._channels import UpdateQueue
from kufeed._delivery import hand_out
from kufeed._inline import InlineSink
from kufeed.errors import LinkClosed
from kufeed.protocol import CHANNELS, FundingRate
from kufeed.testing import Exchange

from .test_channels import END, everything, law, never_hold, put
from .test_feed import simulated
from .test_latest import BTC, ETH, QUIET, ticker
from .updates import START_NS, TICKERS

if TYPE_CHECKING:
    from collections.abc import Sequence

A, B = TICKERS
LEVEL1 = topic("level1", "AA-USDT")
STREAMS: tuple[Topic, ...] = (A, B, LEVEL1)
POLICIES = list(Overflow)


def says(stream: Topic, number: int, value: int) -> Ticker | Level1:
    """An update of *stream* with this number whose bid is *value*, a nanosecond after the one before."""
    time = START_NS + number
    record = Ticker if stream.kind == "ticker" else Level1
    return record(stream, stream.symbol, number, time, time, Decimal(value), Decimal(1), Decimal(9), Decimal(1))


def queue_of(policy: Overflow = Overflow.DROP_OLDEST, bound: int = 10) -> UpdateQueue:
    return UpdateQueue(dict.fromkeys(UpdateType, policy), bound, changes_only=True)


def seen(items: Sequence[Update | StreamEvent]) -> list[Any]:
    """Updates by number and value, events by name."""
    return [
        (one.sequence, int(one.bid or 0)) if isinstance(one, Ticker | Level1) else type(one).__name__ for one in items
    ]


# -- what is the same -------------------------------------------------------------------------------------------------


def test_time_and_sequence_make_no_difference_and_every_other_field_does() -> None:
    one = says(A, 1, 5)
    gap = Gap(A, GapCause.RECONNECT, None, None, 1, 2)
    later = attrs.evolve(one, sequence=2, exchange_time_ns=None, received_time_ns=9, gap_before=gap)
    assert says_the_same(one, later)
    assert says_the_same(one, attrs.evolve(one, bid=Decimal("5.00"))), "equal as numbers"
    for name in ("bid", "bid_size", "ask", "ask_size", "price", "size"):
        assert not says_the_same(one, attrs.evolve(one, **{name: Decimal(7)})), name
        assert not says_the_same(attrs.evolve(one, **{name: None}), attrs.evolve(one, **{name: Decimal(7)})), name


RECORDS = sorted({one.record for one in CHANNELS}, key=lambda one: one.__name__)


@pytest.mark.parametrize("record", RECORDS, ids=lambda one: one.__name__)
def test_each_field_of_each_record_counts(record: type[Update]) -> None:
    """Whatever a record has beyond what all updates have; that includes numbers of its own, such as a trade's id."""
    common = {field.name for field in attrs.fields(Update)}
    own = [field.name for field in attrs.fields(record) if field.name not in common and field.eq]
    assert own
    plain: dict[str, Any] = {field.alias: 1 for field in attrs.fields(record)} | {"gap_before": None}
    for name in own:
        assert not says_the_same(record(**plain), record(**plain | {name: 2})), name
    for name in {field.alias for field in attrs.fields(record)}.difference(own):
        assert says_the_same(record(**plain), record(**plain | {name: 2})), name


def test_a_settled_funding_rate_that_is_repeated_is_no_change() -> None:
    """Though the next settlement, which is reckoned from the time of the message, moves on with it."""
    stream = topic("funding_rate", "XBTUSDTM")
    one, other = (
        FundingRate(stream, "XBTUSDTM", None, n, n, Decimal(1), False, 28_800.0) for n in (START_NS, START_NS + 1)
    )
    assert one.next_time_ns != other.next_time_ns
    assert says_the_same(one, other)
    assert not says_the_same(one, attrs.evolve(other, interval=14_400.0))


def test_every_trade_and_every_book_delta_is_a_change() -> None:
    trade = topic("trade", "AA-USDT")
    first, second = (Trade(trade, "AA-USDT", n, n, n, Decimal(1), Decimal(2), Side.BUY, str(n)) for n in (1, 2))
    assert not says_the_same(first, second)
    book = topic("book_delta", "AA-USDT")
    deltas = [
        BookDelta(book, "AA-USDT", n, n, n, n, (BookChange(Side.BUY, Decimal(1), Decimal(2), n),)) for n in (1, 2)
    ]
    assert not says_the_same(*deltas)


# -- a channel --------------------------------------------------------------------------------------------------------


async def test_what_says_nothing_new_is_counted_and_not_delivered() -> None:
    queue = queue_of()
    await put(queue, says(A, 1, 5), says(A, 2, 5), says(B, 3, 5), says(A, 4, 6), says(B, 5, 5), says(A, 6, 5))
    assert seen(everything(queue)) == [(1, 5), (3, 5), (4, 6), (6, 5)]
    await put(queue, says(A, 7, 5))
    counts = queue.statistics()
    assert (counts.received, counts.delivered, counts.unchanged, counts.pending) == (7, 4, 3, 0)
    assert law(queue)


async def test_without_it_everything_is_delivered() -> None:
    queue = UpdateQueue(dict.fromkeys(UpdateType, Overflow.DROP_OLDEST), 10)
    await put(queue, says(A, 1, 5), says(A, 2, 5))
    assert seen(everything(queue)) == [(1, 5), (2, 5)]
    assert queue.statistics().unchanged == 0


async def test_what_says_nothing_new_takes_no_room() -> None:
    """A full buffer loses nothing to it, its consumer is not called slow, and nobody waits for it."""
    queue = queue_of(Overflow.BLOCK, bound=1)
    await put(queue, says(A, 1, 5))
    await put(queue, *(says(A, number, 5) for number in range(2, 100)))
    counts = queue.statistics()
    assert (counts.unchanged, counts.dropped, counts.pending, counts.slow) == (98, 0, 1, False)


async def test_a_consumer_is_not_woken_for_nothing() -> None:
    queue = queue_of(Overflow.LATEST)
    await put(queue, says(A, 1, 5))
    assert seen(everything(queue)) == [(1, 5)]
    await put(queue, says(A, 2, 6), says(A, 3, 5))
    assert everything(queue) == []
    counts = queue.statistics()
    assert (counts.received, counts.delivered, counts.conflated, counts.unchanged) == (3, 1, 1, 1)


async def test_a_value_that_is_back_before_anybody_saw_it_go_is_no_news() -> None:
    """Under LATEST, the consumer's last value counts: what waits is withdrawn where the stream is back at it."""
    queue = queue_of(Overflow.LATEST)
    await put(queue, says(A, 1, 5), says(B, 1, 5))
    assert seen(everything(queue)) == [(1, 5), (1, 5)]
    await put(queue, says(A, 2, 6), says(B, 2, 6))
    await put(queue, says(A, 3, 5))
    assert seen(everything(queue)) == [(2, 6)]
    await put(queue, says(A, 4, 6), says(A, 5, 6))
    assert seen(everything(queue)) == [(5, 6)], "the newest of what says the same"
    assert law(queue)


async def test_what_was_withdrawn_is_nothing_that_a_consumer_has_yet_to_take() -> None:
    """It keeps up, so nothing may be dropped."""
    policies = dict.fromkeys(UpdateType, Overflow.LATEST) | {UpdateType.LEVEL1: Overflow.DROP_OLDEST}
    queue = UpdateQueue(policies, 1, changes_only=True)
    await put(queue, says(A, 1, 5))
    assert seen(everything(queue)) == [(1, 5)]
    for number in (2, 4):
        await put(queue, says(A, number, 6), says(LEVEL1, number, number))
        backlog = queue.backlog()
        queue.staged.append(says(A, number + 1, 5))
        queue.hand_over()
        assert not queue.has_taken(backlog)
        assert seen(everything(queue)) == [(number, number)]
        assert queue.has_taken(backlog)


@pytest.mark.parametrize("policy", POLICIES)
async def test_after_a_hole_the_next_is_delivered_whatever_it_says(policy: Overflow) -> None:
    queue = queue_of(policy)
    gap = Gap(A, GapCause.RECONNECT, None, None, 1, 2)
    await put(queue, says(A, 1, 5), says(B, 2, 5))
    everything(queue)
    queue.tell(gap)
    await put(queue, says(A, 3, 5), says(B, 4, 5))
    assert seen(everything(queue)) == ["Gap", (3, 5)]
    # The same where the one before still waits: what came before the hole is not what comes after it.
    await put(queue, says(A, 5, 6))
    queue.tell(gap)
    assert seen(everything(queue)) == [(5, 6), "Gap"]
    await put(queue, says(A, 6, 6), says(A, 7, 6))
    (last,) = everything(queue)
    assert isinstance(last, Update)
    assert last.gap_before == gap
    assert law(queue)


@pytest.mark.parametrize("policy", [Overflow.DROP_NEWEST, Overflow.RAISE, Overflow.BLOCK])
async def test_where_the_last_one_was_lost_the_next_is_delivered(policy: Overflow) -> None:
    """Or its consumer would sit on an older value for ever."""
    queue = queue_of(policy, bound=1)
    await put(queue, says(A, 1, 5))
    await put(queue, says(A, 2, 6), says(A, 3, 6))
    counts = queue.statistics()
    assert (counts.dropped, counts.unchanged) == (2, 0), "what is the same as one that was lost is not unchanged"
    assert queue.take_up_to(1) == [says(A, 1, 5)]
    await put(queue, says(A, 4, 6))
    if policy is Overflow.RAISE:
        with pytest.raises(Overflowed):
            queue.take()
    (fourth,) = queue.take_up_to(9)
    assert fourth.sequence == 4
    assert fourth.gap_before is not None


async def test_where_the_last_one_was_not_lost_nothing_is_forgotten() -> None:
    queue = queue_of(Overflow.DROP_OLDEST, bound=1)
    await put(queue, says(A, 1, 5))
    await put(queue, says(A, 2, 6))
    await put(queue, says(A, 3, 6))
    counts = queue.statistics()
    assert (counts.dropped, counts.unchanged) == (1, 1)
    assert [one.sequence for one in queue.take_up_to(9)] == [2]


async def test_a_loss_to_another_topic_is_one_too() -> None:
    queue = queue_of(Overflow.DROP_OLDEST, bound=1)
    await put(queue, says(A, 1, 5))
    assert seen(everything(queue)) == [(1, 5)]
    await put(queue, says(A, 2, 6))
    await put(queue, says(B, 1, 1), says(A, 3, 6))
    assert queue.take_up_to(9) == [says(A, 3, 6)]


@pytest.mark.parametrize("policy", POLICIES)
async def test_parted_topics_begin_anew(policy: Overflow) -> None:
    """As when they are removed and added again; what waits is still delivered, and not compared with."""
    queue = queue_of(policy)
    await put(queue, says(A, 1, 5), says(B, 1, 5))
    assert queue.take_up_to(9) == [says(A, 1, 5), says(B, 1, 5)]
    queue.part([A])
    await put(queue, says(A, 2, 5), says(B, 2, 5))
    queue.part([A])
    assert queue.take_up_to(9) == [says(A, 2, 5)]
    await put(queue, says(A, 3, 5), says(B, 3, 5))
    assert queue.take_up_to(9) == [says(A, 3, 5)]


@pytest.mark.parametrize("policy", POLICIES)
async def test_one_record_is_kept_for_each_topic(policy: Overflow) -> None:
    """Nothing grows with time, nor with the topics that come and go."""
    queue = queue_of(policy)
    symbols = [topic("ticker", f"T{number}-USDT") for number in range(100)]
    for number in range(10):
        for one in symbols:
            await put(queue, says(one, number, number))
            everything(queue)
    assert len(queue._buffer._known) == 100  # type: ignore[attr-defined]
    for one in symbols:
        await put(queue, says(one, 99, 99))
        queue.part([one])
        everything(queue)
    assert queue._buffer._known == {}  # type: ignore[attr-defined]


# -- the model --------------------------------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("produce"), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=8)),
        st.tuples(st.just("produce"), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=8)),
        st.tuples(st.just("hole"), st.integers(0, 2)),
        st.tuples(st.just("part"), st.integers(0, 2)),
        st.tuples(st.just("event"), st.integers(0, 2)),
        st.tuples(st.just("take"), st.tuples(st.integers(1, 5), st.booleans())),
        st.tuples(st.just("batch"), st.integers(1, 5)),
    ),
    max_size=40,
)


class Observer:
    """What a consumer has been told of one topic, and what it must never be told."""

    def __init__(self, stream: Topic) -> None:
        self.stream = stream
        self.sent: list[Ticker | Level1] = []
        self.parted_at: list[int] = []
        """Numbers before which the next is delivered whatever it says: after holes, and where it was removed."""
        self.last: Update | None = None
        self.lost_since = False

    def send(self, value: int) -> Ticker | Level1:
        self.sent.append(says(self.stream, len(self.sent) + 1, value))
        return self.sent[-1]

    def part(self) -> None:
        self.parted_at.append(len(self.sent) + 1)

    def saw(self, item: Update | StreamEvent) -> None:
        if isinstance(item, Dropped):
            self.lost_since = True
        if not isinstance(item, Update):
            return
        assert item.sequence is not None
        before, self.last = self.last, item
        told = self.lost_since or item.gap_before is not None
        self.lost_since = False
        if before is None:
            return
        assert before.sequence is not None
        assert item.sequence > before.sequence
        if says_the_same(before, item) and not told:
            assert any(before.sequence < number <= item.sequence for number in self.parted_at), "no news"

    def check_end(self, *, lost: bool) -> None:
        """All that was sent was taken: the consumer is up to date, or was told that it is not."""
        if not self.sent or lost:
            return
        assert self.last is not None
        assert self.last.sequence is not None
        assert says_the_same(self.last, self.sent[-1]), "the consumer sits on an old value"
        parted = [number for number in self.parted_at if number <= len(self.sent)]
        assert self.last.sequence >= max(parted, default=0), "what came after a hole, or anew, was not delivered"


def drain(queue: UpdateQueue) -> list[Update | StreamEvent]:
    found: list[Update | StreamEvent] = []
    while True:
        try:
            found.append(queue.take(events=True))
        except Overflowed:
            continue
        except trio.WouldBlock:
            return found


@settings(max_examples=400, deadline=None)
@given(
    bound=st.integers(1, 5),
    policies=st.one_of(
        st.just(dict.fromkeys(UpdateType, Overflow.BLOCK)),
        st.fixed_dictionaries(
            {kind: st.sampled_from([one for one in POLICIES if one is not Overflow.BLOCK]) for kind in UpdateType}
        ),
    ),
    plan=steps,
)
def test_nothing_is_said_twice_and_the_last_word_arrives(
    bound: int, policies: dict[UpdateType, Overflow], plan: list[tuple[str, Any]]
) -> None:
    async def main() -> None:
        queue = UpdateQueue(policies, bound, changes_only=True)
        observers = {stream: Observer(stream) for stream in STREAMS}

        def saw(item: Update | StreamEvent) -> None:
            if isinstance(item, Update | Dropped):
                observers[item.topic].saw(item)

        for step, argument in [*plan, ("take", (1000, True))]:
            match step:
                case "produce":
                    await put(queue, *(observers[STREAMS[index]].send(value) for index, value in argument))
                case "hole":
                    stream = STREAMS[argument]
                    observers[stream].part()
                    now = START_NS + len(observers[stream].sent)
                    queue.tell(Gap(stream, GapCause.RECONNECT, None, None, now, now + 1))
                case "part":
                    observer = observers[STREAMS[argument]]
                    observer.part()
                    # Who removes a topic is not told with a later one what was missing before.
                    observer.lost_since |= STREAMS[argument] in queue._gaps
                    queue.part([STREAMS[argument]])
                case "event":
                    queue.tell(Disconnected(STREAMS[argument], LinkClosed(1006, None)))
                case "take":
                    count, events = argument
                    for _ in range(count):
                        try:
                            saw(queue.take(events))
                        except Overflowed:
                            pass
                        except trio.WouldBlock:
                            break
                case "batch":
                    for one in queue.take_up_to(argument):
                        saw(one)
            counts = queue.statistics()
            assert law(queue)
            assert counts.received == sum(len(one.sent) for one in observers.values())
            assert len(queue._buffer._known) <= len(STREAMS)  # type: ignore[attr-defined]
        for stream, observer in observers.items():
            # Who iterates plainly has passed over a loss, and is told by the next update.
            observer.check_end(lost=observer.lost_since or stream in queue._gaps)

    trio.run(main)


@given(plan=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), max_size=40), policy=st.sampled_from(POLICIES))
def test_where_nothing_is_lost_it_is_each_streams_changes(plan: list[tuple[int, int]], policy: Overflow) -> None:
    """For a consumer that takes each at once, and for one that takes all at the end, except that LATEST conflates."""

    async def main() -> None:
        prompt, late = queue_of(policy, bound=100), queue_of(policy, bound=100)
        expected: list[Update] = []
        taken: list[Update] = []
        last: dict[Topic, int] = {}
        for number, (index, value) in enumerate(plan):
            one = says(STREAMS[index], number, value)
            if last.get(one.topic) != value:
                expected.append(one)
            last[one.topic] = value
            await put(prompt, one)
            await put(late, one)
            taken += prompt.take_up_to(9)
        assert taken == expected
        assert prompt.statistics().unchanged == len(plan) - len(expected)
        if policy is not Overflow.LATEST:
            assert late.take_up_to(100) == expected
        assert law(prompt)
        assert law(late)

    trio.run(main)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), bound=st.integers(1, 4), policy=st.sampled_from(POLICIES))
def test_two_readers_and_two_ends_of_a_channel_of_changes(seed: int, bound: int, policy: Overflow) -> None:
    """Readers wait for room or give up, consumers come and are cancelled: the accounts hold, nobody waits in vain."""
    rng = random.Random(seed)

    async def main() -> None:
        queue = UpdateQueue(dict.fromkeys(UpdateType, policy), bound, perf_counter=trio.current_time, changes_only=True)
        sent = dict.fromkeys(STREAMS, 0)
        last_sent: dict[Topic, Update] = {}
        last_taken: dict[Topic, Update] = {}
        delivered = 0

        async def hold(_: Any) -> bool:
            if rng.random() < 0.2:
                return await never_hold(queue)
            await queue.wait_room()
            return True

        async def read(streams: Sequence[Topic]) -> None:
            for _ in range(15):
                for stream in rng.choices(streams, k=rng.randint(0, 6)):
                    sent[stream] += 1
                    last_sent[stream] = says(stream, sent[stream], rng.randint(0, 1))
                    queue.staged.append(last_sent[stream])
                await hand_out([queue], hold)
                await trio.sleep(rng.choice([0, 0.5, 1]))

        async def consume() -> None:
            nonlocal delivered
            while True:
                with trio.move_on_after(rng.choice([0, 0.1, 2])):
                    try:
                        update = await queue.next(END)
                    except Overflowed:
                        continue
                    assert isinstance(update, Update)
                    last_taken[update.topic] = update
                    delivered += 1
                await trio.sleep(rng.choice([0, 0, 0.3]))

        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as readers:
                for _ in range(2):
                    nursery.start_soon(consume)
                readers.start_soon(read, [A])
                readers.start_soon(read, [B, LEVEL1])
            await trio.sleep(100)
            counts = queue.statistics()
            assert law(queue)
            assert (counts.received, counts.delivered, counts.pending) == (sum(sent.values()), delivered, 0)
            nursery.cancel_scope.cancel()
        if not counts.dropped:
            assert all(says_the_same(last_taken[stream], last) for stream, last in last_sent.items())

    trio.run(main, clock=MockClock(autojump_threshold=0))


# -- an inline sink ---------------------------------------------------------------------------------------------------


class Inline:
    """A sink of changes that calls `take`, and fails when it is told to."""

    def __init__(self, *, batches: bool = False) -> None:
        self.seen: list[Update] = []
        self.fails = False
        self.calls = 0
        self.sink = InlineSink(
            self.take,
            batches=batches,
            on_error=lambda _: True,
            on_call=lambda _: None,
            perf_counter=lambda: 0.0,
        )
        self.sink.changes_only = True

    def take(self, argument: Any) -> None:
        self.calls += 1
        self.seen += argument if isinstance(argument, list) else [argument]
        if self.fails:
            raise ValueError

    def hand_over(self, *updates: Update) -> None:
        self.sink.staged += updates
        assert self.sink.hand_over()
        counts = self.sink.statistics()
        assert counts.received == counts.delivered + counts.unchanged + counts.discarded


@pytest.mark.parametrize("batches", [False, True])
def test_an_inline_function_is_not_called_for_what_says_nothing_new(batches: bool) -> None:
    inline = Inline(batches=batches)
    inline.hand_over(says(A, 1, 5), says(A, 2, 5), says(B, 3, 5), says(A, 4, 6))
    inline.hand_over(says(A, 5, 6), says(B, 6, 5))
    assert [one.sequence for one in inline.seen] == [1, 3, 4]
    assert inline.calls == (1 if batches else 3)
    counts = inline.sink.statistics()
    assert (counts.received, counts.delivered, counts.unchanged) == (6, 3, 3)
    inline.sink.tell(Gap(A, GapCause.RECONNECT, None, None, 1, 2))
    inline.hand_over(says(A, 7, 6), says(B, 8, 5))
    inline.sink.part([B])
    inline.hand_over(says(A, 9, 6), says(B, 10, 5))
    assert [one.sequence for one in inline.seen[3:]] == [7, 10]


@pytest.mark.parametrize("batches", [False, True])
def test_what_was_discarded_while_paused_is_forgotten(batches: bool) -> None:
    """The value that the function has is older: the next is delivered whatever it says."""
    inline = Inline(batches=batches)
    inline.fails = True
    inline.hand_over(says(A, 1, 5))
    inline.hand_over(says(A, 2, 6), says(B, 1, 1))
    inline.fails = inline.sink.paused = False
    inline.hand_over(says(A, 3, 6), says(B, 2, 1))
    assert [one.sequence for one in inline.seen] == [1, 3, 2]
    assert all(one.gap_before is not None for one in inline.seen[1:])
    assert inline.sink.statistics().discarded == 2


def test_an_inline_function_that_fails_has_had_its_update() -> None:
    inline = Inline()
    inline.fails = True
    inline.hand_over(says(A, 1, 5), says(A, 2, 5), says(A, 3, 6), says(A, 4, 6))
    inline.sink.paused = False
    inline.hand_over(says(A, 5, 6))
    assert [one.sequence for one in inline.seen] == [1, 5]
    assert inline.seen[1].gap_before is not None
    counts = inline.sink.statistics()
    assert (counts.unchanged, counts.discarded) == (1, 2)


# -- a feed -----------------------------------------------------------------------------------------------------------


async def test_other_subscriptions_of_the_stream_get_everything(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.ticker("BTC-USDT", overflow="drop_oldest") as everything_of_it:
        async with feed.ticker("BTC-USDT", overflow="drop_oldest", changes_only=True) as changes:
            await exchange.play([ticker(1), ticker(2), ticker(3, bid="1.6"), ticker(4, bid="1.60")])
            await trio.sleep(1)
            assert [everything_of_it.receive_nowait().sequence for _ in range(4)] == [1, 2, 3, 4]
            assert [changes.receive_nowait().sequence for _ in range(2)] == [1, 3]
            assert changes.statistics().unchanged == 2
            assert changes.statistics().pending == 0
            assert everything_of_it.statistics().unchanged == 0
            latest = feed.latest(BTC)
            assert latest is not None
            assert latest.update.sequence == 4


async def test_a_reconnect_is_told_by_an_update(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.ticker("BTC-USDT", changes_only=True) as changes:
        await exchange.play([ticker(1)])
        assert (await changes.receive()).sequence == 1
        await exchange.disconnect_all()
        await exchange.wait_subscribed(str(BTC))
        await exchange.play([ticker(2), ticker(3)])
        await trio.sleep(1)
        update = changes.receive_nowait()
        assert update.gap_before is not None
        await exchange.play([ticker(4)])
        await trio.sleep(1)
        assert changes.statistics().unchanged == 1, "and it begins anew after it"


async def test_what_was_removed_and_added_again_begins_anew(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.ticker("BTC-USDT", "ETH-USDT", changes_only=True) as changes:
        await exchange.play([ticker(1), ticker(1, "ETH-USDT")])
        assert {(await changes.receive()).symbol for _ in range(2)} == {"BTC-USDT", "ETH-USDT"}
        changes.remove("BTC-USDT")
        assert len(changes._queue._buffer._known) == 1  # type: ignore[attr-defined]
        await changes.add("BTC-USDT")
        await changes.add("ETH-USDT")  # it is there: nothing changes
        await exchange.play([ticker(2), ticker(2, "ETH-USDT")])
        await trio.sleep(1)
        assert changes.receive_nowait().symbol == "BTC-USDT"
        assert changes.statistics().unchanged == 1


async def test_what_the_exchange_refused_meanwhile_begins_anew(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.ticker("BTC-USDT", "GONE-USDT", changes_only=True) as changes:
        await exchange.play([ticker(1, "GONE-USDT")])
        await changes.receive()
        exchange._conversation.any_symbol = False
        await exchange.disconnect_all()
        with pytest.raises(kufeed.SubscriptionRejected):
            await changes.receive()
        exchange._conversation.any_symbol = True
        await changes.add("GONE-USDT")
        await exchange.play([ticker(2, "GONE-USDT")])
        await trio.sleep(1)
        assert changes.receive_nowait().sequence == 2


async def test_every_way_to_receive_has_only_changes(autojump_clock: MockClock) -> None:
    """Clones, batches, events and workers; the accounts are one."""
    exchange = Exchange(**QUIET)
    frames = [ticker(n, bid=str(n // 2 + 1), symbol=symbol) for n in range(10) for symbol in ("BTC-USDT", "ETH-USDT")]

    async def on_ticker(update: Ticker) -> None:
        handled.append(update)

    async with simulated(exchange) as (_, feed), feed.open_handlers() as handlers:
        options: Any = {"overflow": "drop_oldest", "changes_only": True}
        handled: list[Ticker] = []
        inline: list[Ticker] = []
        await handlers.start(on_ticker, feed.ticker("BTC-USDT", "ETH-USDT", **options), workers=2)
        await handlers.start(inline.append, feed.ticker("BTC-USDT", "ETH-USDT", **options))
        async with (
            feed.ticker("BTC-USDT", "ETH-USDT", **options) as one,
            feed.subscribe(BTC, ETH, **options) as two,
            feed.ticker("BTC-USDT", "ETH-USDT", **options) as three,
        ):
            await exchange.play(frames)
            await trio.sleep(1)
            batch = await one.batches().__anext__()
            events = two.with_events()
            with three.clone() as clone:
                ends = [(three, clone)[number % 2].receive_nowait() for number in range(10)]
            assert two.statistics().pending == 10
            for found in (handled, inline, batch, [await events.__anext__() for _ in range(10)], ends):
                assert len(found) == 10
                assert {update.sequence for update in found if isinstance(update, Update)} == {0, 2, 4, 6, 8}
            for subscription in (one, two, three):
                counts = subscription.statistics()
                assert (counts.received, counts.delivered, counts.unchanged) == (20, 10, 10)
        queues = [counts for handler in handlers.statistics() for counts in handler.queues]
        assert [(counts.received, counts.unchanged) for counts in queues] == [(10, 5), (10, 5), (20, 10)]


SUBSCRIBE: list[Any] = [
    lambda feed, **options: feed.ticker("BTC-USDT", **options),
    lambda feed, **options: feed.trades("BTC-USDT", **options),
    lambda feed, **options: feed.level1("BTC-USDT", **options),
    lambda feed, **options: feed.depth("BTC-USDT", **options),
    lambda feed, **options: feed.book_deltas("BTC-USDT", **options),
    lambda feed, **options: feed.mark_price("XBTUSDTM", **options),
    lambda feed, **options: feed.index_price("XBTUSDTM", **options),
    lambda feed, **options: feed.funding_rate("XBTUSDTM", **options),
    lambda feed, **options: feed.candles("BTC-USDT", interval="1min", **options),
    lambda feed, **options: feed.stats_24h("BTC-USDT", **options),
    lambda feed, **options: feed.announcements("XBTUSDTM", **options),
    lambda feed, **options: feed.call_auction("BTC-USDT", **options),
    lambda feed, **options: feed.call_auction_depth("BTC-USDT", **options),
    lambda feed, **options: feed.subscribe(BTC, **options),
]


@pytest.mark.parametrize("make", SUBSCRIBE)
async def test_every_method_takes_the_same_options_and_no_other(make: Any, autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed):
        assert not make(feed)._queue.changes_only
        assert not make(feed, changes_only=False)._queue.changes_only
        queue = make(feed, changes_only=True, overflow="drop_newest", buffer=7)._queue
        assert (queue.changes_only, queue.bound, set(queue.policies.values())) == (True, 7, {Overflow.DROP_NEWEST})
        for wrong in (None, 1, "yes"):
            with pytest.raises(kufeed.UsageError, match="changes_only"):
                make(feed, changes_only=wrong)
        for unknown in ("buffers", "kinds", "make_queue"):
            with pytest.raises(TypeError, match=unknown):
                make(feed, **{unknown: 1})


async def test_a_live_market_seen_by_changes_is_the_market(autojump_clock: MockClock) -> None:
    """The value at any moment is that of the newest message: only how often it is said differs."""
    async with simulated() as (_, feed), feed.ticker("XBTUSDTM", changes_only=True) as changes:
        one = topic("ticker", "XBTUSDTM")
        last: Update | None = None
        for _ in range(200):
            await trio.sleep(0.05)
            await wait_all_tasks_blocked()
            while changes.statistics().pending:
                update = changes.receive_nowait()
                assert last is None or not says_the_same(last, update)
                last = update
            latest = feed.latest(one)
            assert (last is None) == (latest is None)
            if last is not None and latest is not None:
                assert says_the_same(last, latest.update)
        counts = changes.statistics()
        assert counts.delivered > 20


@pytest.mark.parametrize("overflow", ["drop_oldest", "latest"])
async def test_all_symbols_that_are_added_again_begin_anew(overflow: str, autojump_clock: MockClock) -> None:
    exchange = Exchange(live=False)

    def of_all(sequence: int) -> str:
        message = json.loads(ticker(sequence))
        return json.dumps({**message, "topic": "/market/ticker:all", "subject": "BTC-USDT"})

    async with simulated(exchange) as (_, feed):
        async with feed.ticker("ETH-USDT", changes_only=True, overflow=overflow) as tickers:
            await tickers.add("all")
            await exchange.play([of_all(1)])
            assert (await tickers.receive()).sequence == 1
            tickers.remove("all")
            await tickers.add("all")
            await exchange.play([of_all(2)])
            assert (await tickers.receive()).sequence == 2, "it says the same, but nothing is known any more"
            await exchange.play([of_all(3)])
            await trio.sleep(1)
            assert tickers.statistics().unchanged == 1
            with pytest.raises(trio.WouldBlock):
                tickers.receive_nowait()
