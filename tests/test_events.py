"""`Feed.events()`: what happens to a feed, in order, for each who asks, and never more of it than asked for."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

import kufeed
from kufeed import FeedEvents, Progress
from kufeed._journal import Journal
from kufeed.testing import Exchange, MemoryNetwork


def event(number: int) -> Progress:
    return Progress(number, 100)


def waiting(events: FeedEvents) -> list[int]:
    found = []
    try:
        while True:
            one = events.receive_nowait()
            assert isinstance(one, Progress)
            found.append(one.acked)
    except trio.WouldBlock:
        return found


async def test_each_reader_has_all_since_it_was_opened() -> None:
    journal = Journal()
    with journal.open() as first:
        journal.tell(event(1))
        with journal.open() as second:
            journal.tell(event(2))
            assert (waiting(first), waiting(second)) == ([1, 2], [2])
        journal.tell(event(3))
        assert waiting(first) == [3]


async def test_the_oldest_go_first_and_are_counted() -> None:
    journal = Journal()
    small, large = journal.open(2), journal.open(10)
    for number in range(5):
        journal.tell(event(number))
    assert (small.missed, large.missed) == (3, 0)
    assert repr(small) == "<FeedEvents open: 2 waiting, 3 missed>"
    assert (waiting(small), waiting(large)) == ([3, 4], [0, 1, 2, 3, 4])


async def test_it_ends_with_the_journal_once_what_waits_is_taken() -> None:
    journal = Journal()
    events = journal.open()
    journal.tell(event(1))
    journal.close()
    journal.tell(event(2))
    assert [one async for one in events] == [event(1)]
    with pytest.raises(trio.EndOfChannel):
        await events.receive()
    with pytest.raises(trio.EndOfChannel):
        events.receive_nowait()


async def test_one_that_is_closed_takes_no_more_and_wakes_who_waits() -> None:
    journal = Journal()
    outcomes: list[str] = []

    async def read(events: FeedEvents) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await events.receive()
        outcomes.append("closed")

    async with trio.open_nursery() as nursery:
        with journal.open() as events:
            nursery.start_soon(read, events)  # noqa: ASYNC111  # what happens then is what is tested
            await wait_all_tasks_blocked()
        assert events.closed
        journal.tell(event(1))
    assert outcomes == ["closed"]
    with pytest.raises(trio.ClosedResourceError):
        events.receive_nowait()


async def test_one_that_nobody_refers_to_is_kept_by_nobody() -> None:
    journal = Journal()
    gone = weakref.ref(journal.open())
    gc.collect()
    assert gone() is None
    journal.tell(event(1))


async def test_each_step_is_a_checkpoint_and_loses_nothing_when_cancelled() -> None:
    journal = Journal()
    events = journal.open()
    journal.tell(event(1))
    with trio.CancelScope() as scope:
        scope.cancel()
        await events.receive()
    assert scope.cancelled_caught
    with assert_checkpoints():
        assert await events.receive() == event(1)
    taken: list[kufeed.FeedEvent] = []

    async def take() -> None:
        taken.append(await events.receive())

    for told_first in (False, True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            if told_first:
                journal.tell(event(2))
            nursery.cancel_scope.cancel()
            if not told_first:
                journal.tell(event(2))
    assert len(taken) + len(waiting(events)) == 2


async def test_several_tasks_share_one_reader() -> None:
    journal = Journal()
    events = journal.open()
    taken: list[kufeed.FeedEvent] = []

    async def take() -> None:
        taken.append(await events.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        journal.tell(event(1))
        await wait_all_tasks_blocked()
        journal.tell(event(2))
    assert taken == [event(1), event(2)]


async def test_a_feed_tells_and_ends_them(autojump_clock: MockClock) -> None:
    async with MemoryNetwork(Exchange()) as network:
        async with kufeed.open_feed(network=network) as feed:
            with pytest.raises(kufeed.UsageError, match="buffer must be a whole number from 1 up, not 0"):
                feed.events(0)
            events = feed.events()
            async with feed.ticker("XBTUSDTM"):
                await trio.sleep(0.1)
        states = [one.state for one in [one async for one in events] if isinstance(one, kufeed.StateChanged)]
        assert states == ["connecting", "live", "closed"]
        with pytest.raises(kufeed.UsageError, match="closed"):
            feed.events()
