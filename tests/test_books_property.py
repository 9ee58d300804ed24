"""Whatever the exchange, the network and the consumers do: no view that did not exist, and in the end the right one."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import kufeed
from kufeed import Dropped, FeedConfig, Gap, OrderBook, Overflow
from kufeed.testing import BookFault, Exchange, MemoryNetwork

from .bookish import BOTH, balanced, wire

EPOCH = 10**6
"""Numbers of each numbering lie in a range of their own, so that a view tells which one it is of."""

symbols = st.sampled_from(BOTH)
steps = st.one_of(
    st.tuples(st.just("change"), symbols, st.integers(1, 6)),
    st.tuples(st.just("change"), symbols, st.integers(1, 6)),
    st.tuples(st.just("change"), symbols, st.integers(1, 6)),
    st.tuples(st.just("change, each by itself"), symbols, st.integers(1, 6)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.3, 1.5, 8.0])),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.3, 1.5, 8.0])),
    st.tuples(st.just("mute"), symbols, st.integers(1, 5)),
    st.tuples(st.just("jumble"), symbols, st.permutations(range(4)), st.lists(st.integers(0, 3), max_size=3)),
    st.tuples(st.just("renumber"), symbols),
    st.tuples(st.just("cut"), st.sampled_from([None, 1001])),
    st.tuples(st.just("renumber and cut"), symbols),
    st.tuples(st.just("freeze"), st.sampled_from([0.5, 40.0])),
    st.tuples(
        st.just("spoil"),
        st.builds(
            BookFault,
            error=st.sampled_from([None, None, None, 503, ("429000", "Too Many Requests")]),
            delay=st.sampled_from([0.0, 0.0, 0.2, 2.0, 60.0]),
            stale=st.sampled_from([0, 0, 1, 5]),
            damage=st.sampled_from([None, None, "crossed", "duplicate", "garbage"]),
            times=st.integers(1, 3),
        ),
    ),
)


class Witness:
    """Reads one subscription, and checks each view against the exchange at once."""

    def __init__(self, exchange: Exchange, books: Any, *, depth: int, pause: float, every: bool) -> None:
        self.exchange = exchange
        self.books = books
        self.depth = depth
        self.pause = pause
        self.every = every
        self.last: dict[str, OrderBook] = {}
        self.told: set[str] = set()
        """Of which symbols a gap was told since their last view."""

    async def run(self) -> None:
        async for one in self.books.with_events():
            if isinstance(one, Gap | Dropped):
                self.told.add(one.topic.symbol)
            elif isinstance(one, OrderBook):
                self.look_at(one)
                await trio.sleep(self.pause)

    def look_at(self, view: OrderBook) -> None:
        truth = self.exchange.book(view.symbol, view.sequence)
        assert view.bids == truth.bids[: self.depth], "it never was like this"
        assert view.asks == truth.asks[: self.depth]
        before = self.last.get(view.symbol)
        assert (view.gap_before is not None) == (view.symbol in self.told), "a gap is told before the view after it"
        self.told.discard(view.symbol)
        assert view.gap_before is None or view.gap_before.until_ns is not None, "where the hole ends is known by now"
        if before is not None:
            assert view.sequence // EPOCH <= before.sequence // EPOCH, "an old numbering after a new one"
            if view.gap_before is None:
                assert view.sequence > before.sequence
                assert view.sequence // EPOCH == before.sequence // EPOCH, "a new numbering without a gap"
                if self.every and view.symbol == "XBTUSDTM":
                    assert view.sequence == before.sequence + 1, "a change without a view"
        self.last[view.symbol] = view


class World:
    """An exchange that is open, and what happens to it."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.epochs = dict.fromkeys(BOTH, 99)
        for symbol in BOTH:
            self.renumber(symbol)

    def renumber(self, symbol: str) -> None:
        self.epochs[symbol] -= 1
        self.exchange.renumber_book(symbol, self.epochs[symbol] * EPOCH)
        # More than a snapshot is too old by: one with old numbers, of a book that is quiet, nobody could tell from new.
        self.exchange.change_book(symbol, 8)

    async def take(self, step: tuple[Any, ...]) -> None:
        exchange = self.exchange
        match step:
            case "change", symbol, count:
                exchange.change_book(symbol, count)
            case "change, each by itself", symbol, count:
                for _ in range(count):
                    exchange.change_book(symbol)
                    await trio.sleep(0.001)
            case "wait", seconds:
                await trio.sleep(seconds)
            case "mute", symbol, count:
                exchange.faults.mute_topics = {wire(symbol)}
                exchange.change_book(symbol, count)
                exchange.faults.mute_topics = ()
            case "jumble", symbol, order, again:
                await self.jumble(symbol, order, again)
            case "renumber", symbol:
                self.renumber(symbol)
            case "cut", code:
                await exchange.disconnect_all(code)
            case "renumber and cut", symbol:
                self.renumber(symbol)
                await exchange.disconnect_all()
            case "freeze", seconds:
                exchange.freeze()
                await trio.sleep(seconds)
                exchange.thaw()
            case "spoil", fault:
                exchange.faults.book = fault

    async def jumble(self, symbol: str, order: list[int], again: list[int]) -> None:
        """Push four messages out of order, and some of them twice."""
        exchange = self.exchange
        model = exchange.model.find("spot" if "-" in symbol else "futures", symbol)
        route = exchange._publisher.routes.get(wire(symbol))
        assert model is not None
        beats = [model.change(exchange._clock.now_ns(), 1) for _ in range(4)]
        if route is not None:
            frames = [text for beat in beats for text in route.topic.channel.encode(route.topic, model, beat)]
            await exchange.play([frames[index] for index in (*order, *again)])


async def live(seed: int, plan: list[tuple[Any, ...]], depth: int, pause: float) -> None:
    exchange = Exchange(seed=seed, live=False)
    config = FeedConfig(reconnect_delay=0.1, max_reconnect_delay=2.0, max_reconnect_attempts=None, connect_timeout=5.0)
    async with MemoryNetwork(exchange) as network:
        world = World(exchange)
        async with kufeed.open_feed(config, network=network, rng=random.Random(seed)) as feed:
            async with (
                feed.book(*BOTH, depth=depth) as newest,
                feed.book(*BOTH, depth=3, overflow=Overflow.BLOCK, buffer=2) as every,
                feed.book(*BOTH, depth=50, overflow=Overflow.DROP_OLDEST, buffer=3) as some,
                feed.book(*BOTH, depth=1, changes_only=True) as changes,
                trio.open_nursery() as nursery,
            ):
                witnesses = [
                    Witness(exchange, newest, depth=depth, pause=pause, every=False),
                    Witness(exchange, every, depth=3, pause=pause, every=True),
                    Witness(exchange, some, depth=50, pause=pause, every=False),
                    Witness(exchange, changes, depth=1, pause=0.0, every=False),
                ]
                for witness in witnesses:
                    nursery.start_soon(witness.run)
                for step in plan:
                    await world.take(step)
                exchange.faults.book = None
                await trio.sleep(2.0)  # a renumbering is told from an old message by its time
                for symbol in BOTH:
                    exchange.change_book(symbol, 2)
                await trio.sleep(90.0)  # a wait that was asked for, a deadline, a back-off
                for symbol in BOTH:
                    sequence = exchange.change_book(symbol)
                    await trio.sleep(5.0)
                    for witness in witnesses[:3]:
                        assert witness.last[symbol].sequence == sequence, "in the end it is the exchange's"
                    top = exchange.book(symbol)
                    shown = witnesses[3].last[symbol]
                    assert (shown.bids, shown.asks) == (top.bids[:1], top.asks[:1])
                    whole = feed.books[symbol].snapshot()
                    assert whole.bids == exchange.book(symbol).bids[: len(whole.bids)]
                for books in (newest, every, some, changes):
                    assert balanced(books).pending == 0
                assert {one.state for one in feed.statistics().books} == {"live"}
                nursery.cancel_scope.cancel()


def run(seed: int, plan: list[tuple[Any, ...]], depth: int, pause: float) -> None:
    trio.run(live, seed, plan, depth, pause, clock=MockClock(autojump_threshold=0))


plans = given(
    seed=st.integers(0, 1000),
    plan=st.lists(steps, max_size=25),
    depth=st.sampled_from([1, 20, 50]),
    pause=st.sampled_from([0.0, 0.0, 0.4]),
)
QUICK = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@plans
def test_each_view_existed_and_the_last_one_is_the_exchanges(
    seed: int, plan: list[tuple[Any, ...]], depth: int, pause: float
) -> None:
    run(seed, plan, depth, pause)


@pytest.mark.long
@settings(QUICK, max_examples=int(os.environ.get("KUFEED_EXAMPLES", "3000")))
@plans
def test_the_same_for_longer(seed: int, plan: list[tuple[Any, ...]], depth: int, pause: float) -> None:
    run(seed, plan, depth, pause)
