"""Whatever the network, the history and the consumer do: no trade twice, none out of order, none missing silently."""

from __future__ import annotations

import os
import random
from bisect import bisect_left, bisect_right
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import kufeed
from kufeed import Dropped, FeedConfig, Gap, GapFill, Overflow, Trade
from kufeed.testing import MemoryNetwork
from kufeed.testing.rest import Reply

from .bookish import balanced
from .tradish import BOTH, Spoil, Trading, answered, delayed, rows, wire

symbols = st.sampled_from(BOTH)
pauses = st.sampled_from([0.0, 0.01, 0.3, 1.5, 12.0])
SPOILT: dict[str, Spoil] = {
    "nothing": lambda reply: reply,
    "slow": delayed(0.4),
    "slower": delayed(3.0),
    "lost": delayed(1000.0),
    "refused": answered("", 503),
    "garbage": answered('{"code":"200000","da'),
    "a row too short": rows(lambda data: data[-1].pop("price") and None if data else None),
    "short": rows(lambda data: data[-5:]),
    "empty": rows(lambda _: []),
    "behind": rows(lambda data: data[:-2]),
    "jumbled and twice": rows(lambda data: [*data[::-1], *data]),
}
HEALTHY = ("nothing", "slow", "slower", "jumbled and twice")
steps = st.one_of(
    st.tuples(st.just("trade"), symbols, st.sampled_from([1, 1, 2, 5, 40]), st.integers(1, 3)),
    st.tuples(st.just("trade"), symbols, st.sampled_from([1, 1, 2, 5, 40]), st.integers(1, 3)),
    st.tuples(st.just("trade"), symbols, st.sampled_from([1, 1, 2, 5, 40]), st.integers(1, 3)),
    st.tuples(st.just("wait"), pauses),
    st.tuples(st.just("wait"), pauses),
    st.tuples(st.just("cut"), st.sampled_from([None, 1001]), symbols, st.sampled_from([0, 1, 10, 60, 150])),
    st.tuples(st.just("cut"), st.sampled_from([None, 1001]), symbols, st.sampled_from([0, 1, 10, 60, 150])),
    st.tuples(st.just("remove and add"), symbols),
    st.tuples(st.just("dead"), symbols, st.sampled_from([1, 10, 60, 150])),
)


class Witness:
    """Reads one subscription and checks each trade against what was made."""

    def __init__(self, exchange: Trading, trades: Any, pause: float) -> None:
        self.exchange = exchange
        self.trades = trades
        self.pause = pause
        self.last: dict[str, Trade] = {}
        self.gaps: dict[str, list[Gap]] = {symbol: [] for symbol in BOTH}
        """Told since the last trade."""
        self.missed: dict[str, int] = dict.fromkeys(BOTH, 0)
        self.fills: set[GapFill | None] = set()
        self.again: dict[str, int] = dict.fromkeys(BOTH, 0)
        """The last trade before the symbol was removed and added again: up to there nothing is promised."""

    async def run(self) -> None:
        async for one in self.trades.with_events():
            if isinstance(one, Gap | Dropped):
                gap = one.gap if isinstance(one, Dropped) else one
                self.gaps[gap.topic.symbol].append(gap)
                self.fills.add(gap.filled)
            elif isinstance(one, Trade):
                self.look_at(one)
                await trio.sleep(self.pause)

    def look_at(self, trade: Trade) -> None:
        assert trade.sequence is not None
        made = self.exchange.made[trade.symbol]
        place = bisect_left(made, trade.sequence)
        assert made[place] == trade.sequence, "there was no such trade"
        before = self.last.get(trade.symbol)
        gaps, self.gaps[trade.symbol] = self.gaps[trade.symbol], []
        if not self.again[trade.symbol]:  # else one may have been taken before, whose trade was not
            assert (trade.gap_before is not None) == bool(gaps), "a gap is told before the trade after it"
        if before is not None:
            assert before.sequence is not None
            assert trade.sequence > before.sequence, "each once, in order"
            missing = made[bisect_right(made, max(before.sequence, self.again[trade.symbol])) : place]
            if missing:
                gap = trade.gap_before
                assert gap is not None, "missing silently"
                assert gap.filled is not GapFill.FILLED, "missing, and said to be filled"
                assert gap.until_ns is not None
                times = [self.exchange.times[trade.symbol, number] for number in missing]
                assert (gap.since_ns or 0) <= times[0] <= times[-1] <= gap.until_ns, (
                    "what is missing is between its times"
                )
                self.missed[trade.symbol] += len(missing)
        self.last[trade.symbol] = trade


class World:
    """An exchange that is open, and what happens to it."""

    def __init__(self, exchange: Trading, witnesses: list[Witness]) -> None:
        self.exchange = exchange
        self.witnesses = witnesses
        self.most_missed = 0

    async def take(self, step: tuple[Any, ...]) -> None:
        exchange = self.exchange
        match step:
            case "trade", symbol, count, skip:
                exchange.trade(symbol, count, skip=skip)
            case "wait", seconds:
                await trio.sleep(seconds)
            case "cut", code, symbol, count:
                await wait_all_tasks_blocked()
                await exchange.disconnect_all(code)
                if count:
                    exchange.trade(symbol, count)
                self.most_missed = max(self.most_missed, count)
                await exchange.wait_subscribed(*map(wire, BOTH))
            case "dead", symbol, count:
                exchange.faults.mute_topics = {wire(symbol)}
                exchange.trade(symbol, count)
                for witness in self.witnesses:
                    before = witness.last.get(symbol)
                    if witness.again[symbol] and (before is None or (before.sequence or 0) <= witness.again[symbol]):
                        # Dead on arrival: nothing has come since it was added again, so nothing is known to be missing.
                        witness.again[symbol] = exchange.made[symbol][-1]
                exchange._model(symbol).last_price += 10  # which tells the watch that something is newer
                await trio.sleep(2000.0)
                exchange.faults.mute_topics = ()
                self.most_missed = max(self.most_missed, count)
            case "remove and add", symbol:
                for witness in self.witnesses:
                    witness.again[symbol] = exchange.made[symbol][-1]
                    witness.trades.remove(symbol)
                for witness in self.witnesses:
                    await witness.trades.add(symbol)


async def live(seed: int, plan: list[tuple[Any, ...]], spoilt: list[str], pause: float, bound: int) -> None:
    rng = random.Random(seed)
    exchange = Trading(seed=seed)
    order = iter(spoilt)

    def spoil(reply: Reply) -> Reply:
        return SPOILT[next(order, "nothing")](reply)

    exchange.spoil = spoil
    config = FeedConfig(
        reconnect_delay=0.1, max_reconnect_delay=1.0, max_reconnect_attempts=None, message_buffer_size=bound
    )
    async with MemoryNetwork(exchange) as network:
        async with kufeed.open_feed(config, network=network, rng=rng) as feed:
            async with (
                feed.trades(*BOTH, backfill=True, buffer=10_000) as all_trades,
                feed.trades(*BOTH, backfill=True, overflow=Overflow.BLOCK, buffer=2) as blocking,
                feed.trades(*BOTH, backfill=True, buffer=3) as few,
                trio.open_nursery() as nursery,
            ):
                subscriptions = [all_trades, blocking, few]
                witnesses = [Witness(exchange, one, pause if one is few else 0.0) for one in subscriptions]
                world = World(exchange, witnesses)
                for witness in witnesses:
                    nursery.start_soon(witness.run)
                for symbol in BOTH:
                    exchange.trade(symbol)
                for step in plan:
                    await world.take(step)
                await trio.sleep(60.0)
                for symbol in BOTH:
                    exchange.trade(symbol)
                await trio.sleep(60.0)
                for symbol in BOTH:
                    exchange.trade(symbol)
                await trio.sleep(30.0)
                healthy = all(one in HEALTHY for one in spoilt) and world.most_missed <= 60 and bound > 1000
                again = any(step[0] == "remove and add" for step in plan)
                for witness in witnesses:
                    for symbol in BOTH:
                        assert witness.last[symbol].sequence == exchange.made[symbol][-1]
                for trades in subscriptions:
                    assert balanced(trades).pending == 0
                if healthy and not again and not _within_a_hole(plan):
                    for witness in witnesses[:1]:
                        assert set(witness.missed.values()) == {0}, "a healthy history fills every hole"
                        assert witness.fills <= {GapFill.FILLED}
                for trades in subscriptions:
                    (keeper,) = trades._shared.pool._keepers.values()  # type: ignore[attr-defined]
                    assert (keeper._held, keeper._repairs, len(keeper._ready)) == (0, {}, 0)
                assert "backfill" not in feed.tree()
                nursery.cancel_scope.cancel()


def _within_a_hole(plan: list[tuple[Any, ...]]) -> bool:
    """Whether holes may have come to more than a history has, or one of them before anything was known."""
    missed = sum(step[3] for step in plan if step[0] == "cut") + sum(step[2] for step in plan if step[0] == "dead")
    return missed + sum(step[2] for step in plan if step[0] == "trade") > 95


def run(seed: int, plan: list[tuple[Any, ...]], spoilt: list[str], pause: float, bound: int) -> None:
    trio.run(live, seed, plan, spoilt, pause, bound, clock=MockClock(autojump_threshold=0))


plans = given(
    seed=st.integers(0, 1000),
    plan=st.lists(steps, max_size=15),
    spoilt=st.one_of(
        st.lists(st.sampled_from(sorted(SPOILT)), max_size=12), st.lists(st.sampled_from(HEALTHY), max_size=12)
    ),
    pause=st.sampled_from([0.0, 0.0, 0.4]),
    bound=st.sampled_from([10_000, 10_000, 10_000, 7]),
)
QUICK = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@plans
def test_each_trade_comes_once_and_what_is_missing_is_told(
    seed: int, plan: list[tuple[Any, ...]], spoilt: list[str], pause: float, bound: int
) -> None:
    run(seed, plan, spoilt, pause, bound)


@pytest.mark.long
@settings(QUICK, max_examples=int(os.environ.get("KUFEED_EXAMPLES", "2000")))
@plans
def test_the_same_for_longer(
    seed: int, plan: list[tuple[Any, ...]], spoilt: list[str], pause: float, bound: int
) -> None:
    run(seed, plan, spoilt, pause, bound)
