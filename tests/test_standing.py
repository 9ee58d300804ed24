"""`Feed.state`, `Feed.wait_state()` and `StateChanged`: one word for all connections, counted and never walked for."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

import kufeed
from kufeed import FeedConfig, FeedEvent, FeedEvents, FeedState, Progress, StateChanged, Subscription, Ticker
from kufeed._journal import Journal
from kufeed._standing import Standing, Tally
from kufeed.testing import Exchange, MemoryNetwork

FUTURES, SPOT = "/contractMarket/tickerV2:XBTUSDTM", "/market/ticker:BTC-USDT"


@asynccontextmanager
async def simulated(exchange: Exchange, **config: object) -> AsyncIterator[kufeed.Feed]:
    async with MemoryNetwork(exchange) as network:
        async with kufeed.open_feed(FeedConfig(**config), network=network, rng=random.Random(1)) as feed:  # type: ignore[arg-type]
            yield feed


def states(events: FeedEvents) -> list[str]:
    """The states that were told; each change begins where the last one ended."""
    found: list[FeedEvent] = []
    try:
        while True:
            found.append(events.receive_nowait())
    except (trio.WouldBlock, trio.EndOfChannel):
        pass
    changes = [one for one in found if isinstance(one, StateChanged)]
    assert all(one.state is not one.before for one in changes)
    assert [one.before for one in changes[1:]] == [one.state for one in changes[:-1]]
    return [one.state.value for one in changes]


# -- what a user sees -------------------------------------------------------------------------------------------------


async def test_it_follows_what_is_subscribed_to(autojump_clock: MockClock) -> None:
    async with simulated(Exchange()) as feed:
        assert feed.state is FeedState.IDLE
        events = feed.events()
        async with feed.ticker("XBTUSDTM"):
            assert await feed.wait_state("live") is FeedState.LIVE
            async with feed.ticker("BTC-USDT"):
                assert feed.state is FeedState.LIVE
                await trio.sleep(0.1)
        assert feed.state is FeedState.IDLE
        await trio.sleep(1)
        assert states(events) == ["connecting", "live", "degraded", "live", "idle"]
    assert states(events) == ["closed"]
    assert feed.state is FeedState.CLOSED


async def test_a_part_that_is_missing_degrades_it(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    async with simulated(exchange) as feed:
        async with feed.ticker("XBTUSDTM", "BTC-USDT"):
            exchange.faults.ignore_topics = {FUTURES}
            await exchange.disconnect_all()
            assert await feed.wait_state("connecting", "degraded") is FeedState.CONNECTING
            assert await feed.wait_state(FeedState.DEGRADED, FeedState.LIVE) is FeedState.DEGRADED
            exchange.faults.ignore_topics = ()
            with trio.fail_after(60):
                await feed.wait_state("live")


async def test_it_is_down_while_every_circuit_is_open(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    async with simulated(exchange, max_reconnect_attempts=1, reconnect_delay=0.1, circuit_cooldown=30.0) as feed:
        async with feed.ticker("XBTUSDTM", "BTC-USDT") as tickers:
            await tickers.receive()
            events = feed.events()
            exchange.faults.refuse_dials = True
            await exchange.disconnect_all()
            with trio.fail_after(10):
                await feed.wait_state("down")
            exchange.faults.refuse_dials = False
            await trio.sleep(31)
            assert feed.state is FeedState.LIVE
            assert states(events)[:2] == ["connecting", "down"]
            assert feed.state is FeedState.LIVE


async def test_waiting_for_it_is_a_checkpoint_and_takes_names_of_states_only(autojump_clock: MockClock) -> None:
    async with simulated(Exchange()) as feed:
        with assert_checkpoints():
            await feed.wait_state("idle")
        with pytest.raises(kufeed.UsageError, match="'alive' is not a valid FeedState; there are idle, connecting"):
            await feed.wait_state("alive")
        with pytest.raises(kufeed.UsageError, match="one state or more"):
            await feed.wait_state()


async def test_who_waits_when_the_feed_closes_hears_of_it(autojump_clock: MockClock) -> None:
    outcomes: list[str] = []

    async def wait(feed: kufeed.Feed, state: str) -> None:
        try:
            outcomes.append(await feed.wait_state(state))
        except kufeed.UsageError as error:
            outcomes.append(str(error))

    async with trio.open_nursery() as nursery:
        async with simulated(Exchange()) as feed:
            nursery.start_soon(wait, feed, "live")  # noqa: ASYNC111  # what happens after it is closed is what is tested
            nursery.start_soon(wait, feed, "closed")  # noqa: ASYNC111
            await wait_all_tasks_blocked()
    assert sorted(outcomes) == ["closed", "the feed is closed"]
    with pytest.raises(kufeed.UsageError, match="closed"):
        await feed.wait_state("live")


# -- how it is told ---------------------------------------------------------------------------------------------------


async def test_progress_is_told_ten_times_a_second_and_to_its_end(autojump_clock: MockClock) -> None:
    journal, tally = Journal(), Tally(0, 0, hopeless=False)
    standing = Standing(journal, lambda: tally)
    events = journal.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(standing.run)
        for acked in range(101):
            tally = Tally(100, acked, hopeless=False)
            standing.stir()
            await trio.sleep(0.009)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    journal.close()
    told = [one for one in [one async for one in events] if isinstance(one, Progress)]
    assert len(told) == 11
    assert (told[0], told[-1]) == (Progress(0, 100), Progress(100, 100))
    assert [one.acked for one in told] == sorted({one.acked for one in told})


async def test_progress_that_stands_still_is_told_as_far_as_it_came(autojump_clock: MockClock) -> None:
    journal, tally = Journal(), Tally(10, 0, hopeless=False)
    standing = Standing(journal, lambda: tally)
    events = journal.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(standing.run)
        standing.stir()
        await trio.sleep(0.01)
        tally = Tally(10, 7, hopeless=False)
        standing.stir()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    journal.close()
    assert [one async for one in events if isinstance(one, Progress)] == [Progress(0, 10), Progress(7, 10)]


class Steps(trio.abc.Instrument):
    """Notes which task runs."""

    def __init__(self, steps: list[trio.lowlevel.Task]) -> None:
        self.steps = steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps.append(task)


async def test_progress_that_is_owed_keeps_nobody_busy_once_it_is_closed(autojump_clock: MockClock) -> None:
    tally = Tally(10, 0, hopeless=False)
    standing = Standing(Journal(), lambda: tally)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(standing.run)
        standing.stir()
        await trio.sleep(0.01)
        tally = Tally(10, 7, hopeless=False)
        standing.stir()
        await trio.sleep(0.01)
        standing.close()
        autojump_clock.jump(1)
        steps: list[trio.lowlevel.Task] = []
        trio.lowlevel.add_instrument(counter := Steps(steps))
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        trio.lowlevel.remove_instrument(counter)
        assert sum(task is not trio.lowlevel.current_task() for task in steps) <= 3
        nursery.cancel_scope.cancel()


async def test_what_the_journal_is_told_has_the_state_looked_at(autojump_clock: MockClock) -> None:
    """A welcome ends that a connection has given up, and only the journal hears of it."""
    tally = Tally(1, 0, hopeless=True)
    journal = Journal(lambda: standing.stir())
    standing = Standing(journal, lambda: tally)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(standing.run)
        standing.stir()
        assert await standing.wait_state("down")
        await wait_all_tasks_blocked()
        events = journal.open()
        tally = Tally(1, 0, hopeless=False)
        journal.tell(kufeed.LinkUp(1, "spot", "localhost", 0.1))
        await wait_all_tasks_blocked()
        assert states(events) == ["connecting"]
        nursery.cancel_scope.cancel()


# -- the count --------------------------------------------------------------------------------------------------------

SYMBOLS = ["XBTUSDTM", "ETHUSDTM", "T0001USDTM", "T0002USDTM", "BTC-USDT", "ETH-USDT", "T0001-USDT", "NONE-USDT"]
Step = tuple[str, list[str]]
steps = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "block", "leave", "cut", "refuse", "admit", "mute", "wait", "reset"]),
        st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=4, unique=True),
    ),
    max_size=12,
)


def walked(feed: kufeed.Feed) -> Tally:
    """The same, from each stream."""
    wires = {(connection, stream.topic.wire) for stream, connection in feed._pool._streams.values()}
    acked = {(connection, wire) for connection, wire in wires if connection.has_acked(wire)}
    return Tally(len(wires), len(acked), all(connection.failed is not None for connection, _ in wires))


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(steps, st.booleans())
def test_the_count_is_that_of_a_fresh_walk(plan: list[Step], partial: bool) -> None:
    async def main() -> None:
        exchange = Exchange(generated=2, partial_subscribe=partial)
        config = {"topics_per_connection": 3, "max_reconnect_attempts": 1, "reconnect_delay": 0.1, "linger": 0.5}
        async with simulated(exchange, **config) as feed, AsyncExitStack() as stack:
            events = feed.events()
            entered: list[Subscription[Ticker]] = []
            for what, symbols in plan:
                match what:
                    case "enter" | "block":
                        overflow = "block" if what == "block" else None
                        one = feed.ticker(*symbols, overflow=overflow, wait="none", on_reject="skip")
                        entered.append(await stack.enter_async_context(one))
                    case "leave" if entered:
                        entered.pop().close()
                    case "cut":
                        await exchange.disconnect_all()
                    case "refuse" | "admit":
                        exchange.faults.refuse_dials = what == "refuse"
                    case "mute":
                        exchange.faults.withhold_acks = not exchange.faults.withhold_acks
                    case "wait":
                        await trio.sleep(len(symbols) * 3)
                    case "reset":
                        feed.reset()
                assert feed._pool._tally() == walked(feed)
                await trio.sleep(0.01)
                assert feed._pool._tally() == walked(feed)
                assert feed._pool.standing._told is feed.state
            exchange.faults.refuse_dials = exchange.faults.withhold_acks = False
            with trio.fail_after(300):
                await feed.wait_state("live", "idle")
            await wait_all_tasks_blocked()
            last = feed.state.value
            told = states(events)
            assert (told or ["idle"])[-1] == last

    trio.run(main, clock=MockClock(autojump_threshold=0))
