"""Outages, long and often: the exchange's limits hold, everything comes back, and nothing is left over."""

from __future__ import annotations

import gc
import os
import random
from bisect import bisect_left
from collections import Counter
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

import kufeed
from kufeed import FeedConfig, _budget
from kufeed.testing import Exchange, Limits, MemoryNetwork
from tests.test_feed import simulated
from tests.test_rotation import collect, events_of, holes, updates

TWELVE = [f"T{number:04}USDTM" for number in range(1, 13)]


def most_in_window(times: list[float], window: float) -> int:
    """How many of *times* lie in the fullest window of so many seconds."""
    return max(bisect_left(times, time + window) - index for index, time in enumerate(times))


async def wait_acked(feed: kufeed.Feed, topics: int) -> None:
    while sum(one.acked for one in feed.statistics().connections) < topics:  # noqa: ASYNC110  # to the millisecond
        await trio.sleep(0.001)


@pytest.mark.parametrize("how", ["close", "cut", "reset"])
async def test_after_a_cut_all_topics_are_acked_within_a_second(autojump_clock: MockClock, how: str) -> None:
    """Counted from the dial, which the back-off's first step may keep waiting for up to `reconnect_delay`."""
    exchange = Exchange(generated=12, update_interval=1.0)
    async with simulated(exchange) as (_, feed), feed.ticker(*TWELVE):
        for _ in range(8):
            await trio.sleep(70)
            cut_at, before = trio.current_time(), len(exchange.dials)
            for session in exchange.sessions:
                if how == "reset":
                    session.reset()
                else:
                    await session.disconnect(1000 if how == "close" else None)
            while len(exchange.dials) == before:  # noqa: ASYNC110
                await trio.sleep(0.001)
            await wait_acked(feed, 12)
            dialled_at = exchange.dials[-1].at
            assert dialled_at - cut_at <= 1.05
            assert trio.current_time() - dialled_at < 1.0


async def test_another_server_takes_over(autojump_clock: MockClock) -> None:
    """One of two instance servers dies for good: how long until all is live on the other."""
    took: list[float] = []
    for turn in range(20):
        exchange = Exchange(generated=12, instance_servers=2, update_interval=1.0)
        async with MemoryNetwork(exchange) as network:
            async with kufeed.open_feed(network=network, rng=random.Random(turn)) as feed, feed.ticker(*TWELVE):
                await trio.sleep(5)
                (session,) = exchange.sessions
                dead = session.server
                exchange.kill_server(dead)
                began = trio.current_time()
                await trio.lowlevel.checkpoint()
                while not exchange.sessions or exchange.sessions[0].server == dead:  # noqa: ASYNC110
                    await trio.sleep(0.001)
                await wait_acked(feed, 12)
                took.append(trio.current_time() - began)
    print(f"time to live on the other server: median {sorted(took)[10]:.2f} s, most {max(took):.2f} s, 20 seeds")
    assert max(took) < 2.1  # the first step of the back-off, and a second


@pytest.mark.parametrize("seconds", [600, pytest.param(3600, marks=pytest.mark.long)])
async def test_a_storm_of_reconnects_keeps_the_limits(autojump_clock: MockClock, seconds: int) -> None:
    """All links are cut every few seconds, and each dial succeeds: the budget alone holds them back."""
    rng = random.Random(5)
    config = FeedConfig(topics_per_connection=4, reconnect_delay=0.01, max_reconnect_delay=0.1)
    exchange = Exchange(generated=12, update_interval=1.0)
    async with simulated(exchange, config) as (_, feed), feed.ticker(*TWELVE):
        end = trio.current_time() + seconds
        messages: Counter[int] = Counter()
        while trio.current_time() < end:
            await trio.sleep(rng.uniform(1.0, 6.0))
            for session in exchange.sessions:
                messages[len(session.received)] += 1
            await exchange.disconnect_all()
        times = [dial.at for dial in exchange.dials]
        assert len(times) > seconds / 4  # half a budget for each 60 s, and more
        assert most_in_window(times, 60.0) <= 30
        assert {dial.status for dial in exchange.dials} == {101}
        # Of a link that lived for some seconds: this many frames came in less than ten.
        assert max(messages) <= 100
        await trio.sleep(120)
        await wait_acked(feed, 12)


@pytest.mark.parametrize("seconds", [60, pytest.param(600, marks=pytest.mark.long)])
async def test_a_storm_of_subscribing_keeps_the_limit_of_messages(autojump_clock: MockClock, seconds: int) -> None:
    """A consumer that changes its mind all the time: the exchange would drop a link with 101 frames in 10 s."""
    async with simulated(Exchange(generated=12)) as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        with feed.events(10**6) as events:
            with trio.move_on_after(seconds):
                while True:
                    for symbol in TWELVE:
                        await tickers.add(symbol)
                        tickers.remove(symbol)
            expected = kufeed.Progress | kufeed.StateChanged
            assert [event for event in _waiting(events) if not isinstance(event, expected)] == []
        assert len(exchange.dials) == 1


def _waiting(events: Any) -> list[Any]:
    seen: list[Any] = []
    try:
        while True:
            seen.append(events.receive_nowait())
    except trio.WouldBlock:
        return seen


@pytest.mark.parametrize("hours", [2, pytest.param(8, marks=pytest.mark.long)])
@pytest.mark.parametrize("attempts", [10, None])
async def test_an_outage_of_hours_ends_in_a_live_feed(
    autojump_clock: MockClock, attempts: int | None, hours: int
) -> None:
    exchange = Exchange(generated=12, update_interval=1.0)
    config = FeedConfig(max_reconnect_attempts=attempts)
    async with simulated(exchange, config) as (_, feed), feed.ticker(*TWELVE, "BTC-USDT") as tickers:
        failures: list[Exception] = []
        seen: list[Any] = []

        async def read() -> None:
            while True:
                try:
                    async for one in tickers.with_events():
                        seen.append(one)  # noqa: PERF401  # it never ends
                except kufeed.ConnectionFailed as failure:
                    failures.append(failure)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(10)
            exchange.faults.refuse_dials = True
            await exchange.disconnect_all()
            await trio.sleep(hours * 3600)
            exchange.faults.refuse_dials = False
            seen.clear()
            await trio.sleep(120)
            assert feed.state is kufeed.FeedState.LIVE
            assert {one.symbol for one in updates(seen, kufeed.Ticker)} == {*TWELVE, "BTC-USDT"}
            nursery.cancel_scope.cancel()
        # Once for each of the two connections, and not at all where the attempts have no end.
        assert len(failures) == (0 if attempts is None else 2)


@pytest.mark.parametrize("times", [200, pytest.param(1000, marks=pytest.mark.long)])
async def test_hundreds_of_reconnects_leave_nothing_behind(times: int) -> None:
    """Over loopback TCP: tasks, sockets and file descriptors after the last are those after the first."""
    # Each needs a token: the exchange's REST budget would have it take three minutes.
    weights = {kufeed._budget.rest.WEIGHT_PER_WINDOW: _budget.RestBudget(10**6)}
    _budget._weights.set(weights)
    exchange = Exchange(live=False, limits=Limits.off())
    async with exchange.listen() as address:
        config = FeedConfig(
            futures_url=address.futures_url,
            spot_url=address.spot_url,
            reconnect_delay=0.001,
            max_reconnect_delay=0.001,
            max_reconnect_attempts=None,
        )
        limiter = kufeed.DialBudget(10**6)
        async with kufeed.open_feed(config, dial_limiter=limiter) as feed, feed.ticker("XBTUSDTM", "ETHUSDTM"):
            after: list[tuple[int, int]] = []
            with trio.fail_after(100):
                for _ in range(times):
                    await exchange.disconnect_all()
                    await exchange.wait_subscribed(
                        "/contractMarket/tickerV2:XBTUSDTM", "/contractMarket/tickerV2:ETHUSDTM"
                    )
                    await wait_acked(feed, 2)
                    if len(exchange.dials) in (2, times + 1):
                        await trio.sleep(0.2)
                        after.append(
                            (trio.lowlevel.current_statistics().tasks_living, len(os.listdir("/proc/self/fd")))
                        )
            print(f"tasks and file descriptors after the first reconnect {after[0]}, after the last {after[-1]}")
            assert len(exchange.dials) >= times + 1
            assert after[0] == after[-1]


def living() -> Counter[str]:
    """Objects by the package of their type. The simulated exchange keeps its truth, which grows: it does not count."""
    gc.collect()
    modules = (type(one).__module__ for one in gc.get_objects())
    packages = (".".join(module.split(".")[:2]) for module in modules)
    return Counter(package for package in packages if package.startswith(("kufeed.", "trio", "wsproto", "h11")))


@pytest.mark.long
def test_a_week_of_rotations() -> None:
    """A hundred links for a week: all replaced in time inside the budget of dials, no hole, nothing twice, flat."""
    hundred = [f"T{number:04}USDTM" for number in range(1, 101)]
    day = 24 * 3600

    async def main() -> None:
        exchange = Exchange(generated=100, update_interval=600.0, ping_interval=50.0)
        config = FeedConfig(topics_per_connection=1, max_connections=100, stale_after=None)
        async with simulated(exchange, config) as (_, feed), feed.book_deltas(*hundred) as deltas:
            objects: list[Counter[str]] = []
            numbers = dict.fromkeys(hundred, 0)
            count = 0
            for turn in range(7):
                seen = await collect(deltas, day)
                assert events_of(seen) == []
                count += len(seen)
                for symbol in hundred:
                    of_symbol = [one for one in updates(seen, kufeed.BookDelta) if one.symbol == symbol]
                    assert holes(of_symbol) == 0
                    assert numbers[symbol] in (0, of_symbol[0].first_sequence - 1)
                    numbers[symbol] = of_symbol[-1].sequence
                seen.clear()
                of_symbol.clear()
                objects.append(living())
                del objects[-1]["kufeed.testing"]
                print(f"day {turn + 1}: {len(exchange.dials)} dials, objects {dict(objects[-1])}", flush=True)
            times = [dial.at for dial in exchange.dials]
            assert {dial.status for dial in exchange.dials} == {101}
            assert most_in_window(times, 60.0) <= 30
            assert len(times) >= 700
            assert len(exchange.sessions) == 100
            print(f"{count} updates, {len(times)} dials, {most_in_window(times, 60.0)} in the fullest minute")
            assert objects[-1].total() <= objects[3].total() * 1.01  # a stream remembers the last links that it had

    trio.run(main, clock=MockClock(autojump_threshold=0))
