"""Plans for what a feed must get right, by name: quick, where the thousands of test_plans.py take their time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import pytest
import trio

import kufeed
from kufeed import FeedConfig
from kufeed.testing import Exchange, FaultPlan, faults, run

from .test_plans import told

QUICK = FeedConfig(reconnect_delay=0.2, max_reconnect_delay=1.0, max_reconnect_attempts=None)
MARKET = partial(Exchange, ledger=True, update_interval=0.5, ping_interval=4.0, ping_timeout=2.0)


async def trades_for(seconds: float) -> None:
    async with kufeed.open_feed(QUICK) as feed:
        with trio.move_on_after(seconds):
            async with feed.trades("BTC-USDT", "XBTUSDTM") as trades:
                async for _ in trades:
                    pass


@pytest.mark.parametrize(
    "fault",
    [
        faults.Cut(at=5.0),
        faults.Cut(at=5.0, how="reset", after=3),
        faults.Close(at=5.0, code=1012),
        faults.Silence(at=5.0, lasting=1.0),
        faults.Stall(at=5.0, lasting=8.0),
        faults.Restart(at=5.0, lasting=2.0),
    ],
)
def test_a_lost_connection_costs_nothing_in_silence(fault: faults.Fault) -> None:
    report = run(trades_for, 40.0, plan=FaultPlan(fault), exchange=MARKET)
    assert report.ended
    assert len(report.exchange.dials) == 4, "both markets, two times"
    report.check()


async def trades_on_two_links() -> None:
    config = attrs.evolve(QUICK, redundancy=2, rotate_after=12.0)
    async with kufeed.open_feed(config) as feed:
        with trio.move_on_after(20.0):
            async with feed.trades("XBTUSDTM", "BTC-USDT") as trades:
                async for _ in trades:
                    pass


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("at", [9.5, 10.5])
def test_of_several_links_on_standby_the_one_that_reaches_back_furthest_takes_over(seed: int, at: float) -> None:
    """All links that deliver fall silent while others are about to replace them, and have kept what came since."""
    market = partial(MARKET, update_interval=0.25, ping_interval=3.0, ping_timeout=1.5)
    plan = FaultPlan(faults.Silence(at=at, lasting=1.0))
    run(trades_on_two_links, plan=plan, seed=seed, exchange=market).check()


async def coming_and_going(kind: str) -> None:
    async with kufeed.open_feed(QUICK) as feed:
        async with getattr(feed, kind)("BTC-USDT", "ETH-USDT") as subscription, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                for _ in range(3):
                    await trio.sleep(3.0)
                    subscription.remove("ETH-USDT")
                    await trio.sleep(0.3)
                    await subscription.add("ETH-USDT")

            with trio.move_on_after(20.0):
                async for _ in subscription:
                    pass


@pytest.mark.parametrize("kind", ["trades", "book_deltas", "ticker"])
@pytest.mark.parametrize(
    "fault",
    [
        faults.MuteTopics(at=0.2, lasting=2.4),
        faults.SpoilAcks(at=0.3, lasting=7.0, how="late", seconds=1.3),
        faults.RepeatMessages(at=1.4, symbol="ETH-USDT", skip=3, count=4, delay=2),
        faults.ReorderMessages(at=2.8, skip=3, count=4),
    ],
)
def test_nobody_is_blamed_for_what_a_new_subscription_cannot_know(fault: faults.Fault, kind: str) -> None:
    """What the exchange kept back before the first update, or repeats; what it streams before it acknowledges."""
    run(coming_and_going, kind, plan=FaultPlan(fault), exchange=MARKET).check()


@pytest.mark.parametrize(
    "fault",
    [
        faults.Silence(at=5.0, lasting=60.0),
        faults.StopReading(at=5.0, lasting=60.0),
        faults.Stall(at=5.0, lasting=60.0),
        faults.Hang(at=0.0, lasting=60.0),
        faults.RefuseTokens(at=0.0, lasting=60.0),
    ],
)
def test_leaving_takes_no_longer_than_it_may_whoever_does_not_answer(fault: faults.Fault) -> None:
    report = run(trades_for, 6.0, plan=FaultPlan(fault), exchange=MARKET)
    assert report.ended
    assert report.seconds <= 6.0 + QUICK.close_timeout + 0.001
    report.check()


async def books_for(seconds: float) -> None:
    async with kufeed.open_feed(QUICK) as feed:
        with trio.move_on_after(seconds):
            async with feed.book("BTC-USDT", "XBTUSDTM") as books:
                async for _ in books:
                    pass


def test_each_view_of_a_book_has_the_time_of_its_own() -> None:
    """Also of one that a connection was lost for, so that it begins from another snapshot."""
    report = run(books_for, 10.0, plan=FaultPlan(faults.Cut(at=5.0)), exchange=MARKET)
    report.check()
    assert sum(isinstance(one.what, kufeed.OrderBook) for one in report.witnesses[0].sightings) > 20


async def changes_for(seconds: float) -> None:
    async with kufeed.open_feed(QUICK) as feed:
        with trio.move_on_after(seconds):
            async with feed.ticker("BTC-USDT", "ETH-USDT", changes_only=True) as tickers:
                async for _ in tickers:
                    pass


@pytest.mark.parametrize("plan", [FaultPlan(), FaultPlan(faults.Cut(at=5.0))], ids=["calm", "cut"])
def test_who_wants_changes_only_gets_every_change(plan: FaultPlan) -> None:
    report = run(changes_for, 20.0, plan=plan, exchange=MARKET)
    report.check()
    assert report.witnesses[0].statistics is not None
    assert report.witnesses[0].statistics.unchanged > 5, "or it says little"


async def tickers_for(seconds: float) -> None:
    async with kufeed.open_feed(QUICK) as feed:
        with trio.move_on_after(seconds):
            async with feed.ticker("BTC-USDT") as tickers:
                async for _ in tickers:
                    pass


def test_a_ticker_from_before_all_others_may_be_taken_for_an_old_one_and_its_loss_is_told() -> None:
    """On another connection, and the exchange's clock was set back: its number could be one of an old numbering."""
    plan = FaultPlan(faults.Close(at=5.1, code=4000), faults.SkewClock(at=5.4, lasting=0.9, seconds=-30.0))
    run(tickers_for, 15.0, plan=plan, exchange=MARKET).check()


@asynccontextmanager
async def trades_read() -> AsyncIterator[kufeed.Subscription[Any]]:
    """A subscription to trades, that somebody reads all the time."""

    async def read(trades: kufeed.Subscription[Any]) -> None:
        async for _ in trades:
            pass

    async with kufeed.open_feed(QUICK) as feed, feed.trades("BTC-USDT", "XBTUSDTM") as trades:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, trades)
            yield trades
            nursery.cancel_scope.cancel()


async def ask_again() -> None:
    async with trades_read() as trades:
        await trio.sleep(6.0)
        trades.remove("BTC-USDT")
        await trades.add("BTC-USDT")
        await trio.sleep(20.0)


def test_what_comes_of_a_topic_that_is_asked_for_again_before_its_ack_is_its_own() -> None:
    """Left and asked for in one moment, and the exchange takes its time to hear of either."""
    run(ask_again, plan=FaultPlan(faults.StopReading(at=5.0, lasting=4.0)), exchange=MARKET).check()


async def ask_in_vain() -> None:
    async with trades_read() as trades:
        await trio.sleep(6.0)
        trades.remove("BTC-USDT")
        await trio.sleep(2.0)
        with trio.move_on_after(2.0):
            await trades.add("BTC-USDT")


@pytest.mark.parametrize("seed", range(4))
def test_who_leaves_a_topic_as_something_comes_has_left_it_though_it_is_never_acknowledged_again(seed: int) -> None:
    bursts = [faults.Burst(at=at, symbol="BTC-USDT", trades=5) for at in (6.0, 9.0)]
    plan = FaultPlan(faults.SpoilAcks(at=7.0, lasting=20.0, how="wrong"), *bursts)
    run(ask_in_vain, plan=plan, seed=seed, exchange=MARKET).check()


async def held(kind: str) -> None:
    """On two links for each market: their readers wait for a consumer that takes one update a second."""
    async with kufeed.open_feed(attrs.evolve(QUICK, redundancy=2)) as feed:
        with trio.move_on_after(20.0):
            async with getattr(feed, kind)("XBTUSDTM", "BTC-USDT", overflow="block", buffer=1) as subscription:
                async for _ in subscription:
                    await trio.sleep(1.0)


@pytest.mark.parametrize("kind", ["ticker", "trades"])
@pytest.mark.parametrize("at", [5.0, 12.0])
def test_a_link_that_is_cut_before_it_has_caught_up_does_not_skip_what_it_kept(at: float, kind: str) -> None:
    """What its reader has read since waits behind that, and is of no use without it."""
    market = partial(MARKET, update_interval=0.1)
    run(held, kind, plan=FaultPlan(faults.Cut(at=at, how="reset")), exchange=market).check()


@pytest.mark.parametrize("seed", [600182, 810368, 1002130, 2101142])
def test_plans_that_the_judge_was_wrong_about(seed: int) -> None:
    """A wrong clock, a hole told late, a topic left as something came, and a numbering that met the one before it."""
    assert not list(told(seed))
