"""The ledger of an exchange: what it published, for whom, and what became of it."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import pytest
import trio

import kufeed
from kufeed.testing import Exchange, FaultPlan, Limits, MemoryNetwork, faults
from kufeed.testing.truth import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kufeed.testing.truth import Publication, Truth

TRADES = "/contractMarket/execution:XBTUSDTM"
TICKER = "/contractMarket/tickerV2:XBTUSDTM"


def truth_of(exchange: Exchange) -> Truth:
    assert exchange.truth is not None
    return exchange.truth


def fates(publications: list[Publication]) -> Iterator[list[str]]:
    return ([fate.value for fate in one.fates.values()] for one in publications)


def test_no_ledger_is_kept_unless_it_is_asked_for() -> None:
    assert Exchange().truth is None
    assert repr(Exchange(ledger=True).truth) == "<Truth of 0 topics: 0 publications, 0 connections>"


async def test_what_is_published_is_kept_with_what_became_of_it(autojump_clock: trio.testing.MockClock) -> None:
    exchange = Exchange(live=False, accept_any_symbol=False, ledger=True)
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        async with feed.trades("XBTUSDTM") as trades:
            exchange.trade("XBTUSDTM", 3)
            seen = [await trades.receive() for _ in range(3)]
            row = truth_of(exchange).published[TRADES]
            assert [json.loads(one.text)["data"]["sequence"] for one in row] == [one.sequence for one in seen]
            assert list(fates(row)) == [["sent"]] * 3
            assert [one.number for one in row] == [0, 1, 2]
            (life,) = truth_of(exchange).lives
            assert life.held_throughout(TRADES, trio.current_time(), trio.current_time())
            assert truth_of(exchange).connections == 1


async def test_what_nobody_holds_any_more_is_published_into_the_ledger(autojump_clock: trio.testing.MockClock) -> None:
    exchange = Exchange(ledger=True)
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        async with feed.trades("XBTUSDTM") as trades:
            await trades.receive()
            exchange.faults.refuse_dials = True
            await exchange.disconnect_all()
            cut = trio.current_time()
            await trio.sleep(5)
            exchange.faults.refuse_dials = False
            events = [event async for event in _until_restored(trades)]
            assert events
    row = truth_of(exchange).published[TRADES]
    missed = [one for one in row if not one.fates]
    assert missed
    assert all(cut <= one.at <= cut + 20 for one in missed)
    sequences = [json.loads(one.text)["data"]["sequence"] for one in row]
    assert sequences == sorted(set(sequences))
    assert [one.at for one in row] == sorted(one.at for one in row)
    assert [life.ended_at < float("inf") for life in truth_of(exchange).lives] == [True, True]


async def _until_restored(trades: kufeed.Subscription[kufeed.Trade]):  # type: ignore[no-untyped-def]
    async for event in trades.with_events():
        if isinstance(event, kufeed.Restored):
            return
        yield event


async def test_muted_topics_are_withheld(autojump_clock: trio.testing.MockClock) -> None:
    exchange = Exchange(live=False, accept_any_symbol=False, ledger=True)
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        async with feed.trades("XBTUSDTM"):
            exchange.faults.mute_topics = {TRADES}
            exchange.trade("XBTUSDTM")
            assert list(fates(truth_of(exchange).published[TRADES])) == [["withheld"]]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (["a"], Fate.SENT),
        ([], Fate.WITHHELD),
        (["?"], Fate.DAMAGED),
        (["a", "a"], Fate.SENT),
    ],
)
async def test_what_is_put_on_a_connection_says_what_became_of_it(
    autojump_clock: trio.testing.MockClock, sent: list[str], expected: Fate
) -> None:
    exchange = Exchange(live=False, accept_any_symbol=False, ledger=True)
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        async with feed.trades("XBTUSDTM"):
            truth, (session,) = truth_of(exchange), exchange.sessions
            publication = truth.publish(TRADES, "a", 1.0)
            truth.put(publication, session, sent, [True] * len(sent))
            assert list(publication.fates.values()) == [expected]
            assert bool(truth.lives[0].tampered_at) is (sent != ["a"])


async def test_what_was_kept_back_and_comes_behind_another_is_late(autojump_clock: trio.testing.MockClock) -> None:
    exchange = Exchange(live=False, accept_any_symbol=False, ledger=True)
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        async with feed.trades("XBTUSDTM"):
            truth, (session,) = truth_of(exchange), exchange.sessions
            first, second = truth.publish(TRADES, "a", 1.0), truth.publish(TRADES, "b", 1.0)
            truth.put(first, session, [], [])
            truth.put(second, session, ["b", "a"], [True, True])
            assert list(fates([first, second])) == [["late"], ["sent"]]


async def test_what_is_more_than_a_limit_allows_is_noted(autojump_clock: trio.testing.MockClock) -> None:
    exchange = Exchange(ledger=True, limits=Limits(dials_per_minute=1))
    async with MemoryNetwork(exchange) as network:
        for _ in range(2):
            with pytest.raises(kufeed.ConnectionFailed) if truth_of(exchange).lives else _nothing():
                async with (
                    kufeed.open_feed(kufeed.FeedConfig(max_reconnect_attempts=0), network=network) as feed,
                    feed.ticker("XBTUSDTM"),
                ):
                    pass
    assert [refusal.limit for refusal in truth_of(exchange).refusals] == ["dials"]


def _nothing() -> trio.CancelScope:
    return trio.CancelScope()


async def test_faults_of_plans_are_noted_with_their_end(autojump_clock: trio.testing.MockClock) -> None:
    class Nap(faults.Stall):
        def strike(self, exchange: Exchange):  # type: ignore[no-untyped-def]
            exchange.freeze()
            return exchange.thaw

    exchange = Exchange(ledger=True)
    async with MemoryNetwork(exchange):
        began = trio.current_time()
        await FaultPlan(Nap(at=1, lasting=2)).play(exchange)
    (strike,) = truth_of(exchange).strikes
    assert (strike.at - began, strike.until - began) == (1, 3)
    (frozen,) = truth_of(exchange).frozen
    assert (frozen.since - began, frozen.until - began) == (1, 3)


async def test_the_market_is_the_same_with_a_ledger(autojump_clock: trio.testing.MockClock) -> None:
    async def saw(*, ledger: bool) -> list[int | None]:
        exchange = Exchange(seed=3, ledger=ledger)
        async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network, rng=random.Random(1)) as feed:
            async with feed.trades("XBTUSDTM") as trades:
                first = [(await trades.receive()).sequence for _ in range(10)]
                await exchange.disconnect_all()
                return first + [(await trades.receive()).sequence for _ in range(10)]

    assert await saw(ledger=True) == await saw(ledger=False)
