"""`FeedMachine`: what it does by itself, and what users make of it."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from kufeed import Gap, KufeedError, Overflow, Ticker, Topic, Trade, UsageError, topic
from kufeed.testing import faults, strategies
from kufeed.testing.leaks import CountedNetwork
from kufeed.testing.machine import Consumer, FeedMachine

SMALL = settings(
    max_examples=8, stateful_step_count=12, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
TRADES = topic("trade", "XBTUSDTM")


@contextmanager
def taken_by_hand(kind: type[FeedMachine] = FeedMachine) -> Iterator[Any]:
    """A machine whose steps a test takes; it ends with the block."""
    machine = kind()
    try:
        yield machine
    finally:
        machine.teardown()


def run(machine: type[FeedMachine], chosen: settings = SMALL) -> None:
    run_state_machine_as_test(machine, settings=chosen)


def test_a_right_feed_is_not_found_fault_with() -> None:
    run(FeedMachine)


def test_steps_can_be_taken_by_hand() -> None:
    """As a reproducer does."""
    with taken_by_hand() as machine:
        consumer = machine.subscribe(topics=[TRADES, topic("ticker", "BTC-USDT")], overflow=Overflow.RAISE, buffer=100)
        assert machine.feed.state == "live"
        before = len(consumer.received)
        machine.trade(symbol="XBTUSDTM", count=3)
        assert [type(one) for one in consumer.received[before:]].count(Trade) == 3
        machine.take(consumer=consumer, count=0)
        before = len(consumer.received)
        machine.wait(seconds=2.0)
        assert len(consumer.received) == before
        machine.take(consumer=consumer, count=2)
        assert len(consumer.received) == before + 2
        machine.take(consumer=consumer, count=math.inf)
        assert len(consumer.received) > before + 2
        machine.add(consumer=consumer, topic=topic("ticker", "ETH-USDT"))
        machine.remove(consumer=consumer, number=1)
        assert [str(one) for one in consumer.subscription.topics] == [str(TRADES), "/market/ticker:ETH-USDT"]
        book = machine.watch_book(symbol="BTC-USDT", depth=1)
        machine.change_book(symbol="BTC-USDT", count=5)
        assert book.received
        machine.strike(fault=faults.Close())
        machine.wait(seconds=10.0)
        assert any(isinstance(one, Gap) for one in consumer.received)
        machine.unsubscribe(consumer=consumer)
        assert len(machine.witnesses) == 2


def test_what_a_fault_keeps_away_is_no_error() -> None:
    with taken_by_hand() as machine:
        machine.strike(fault=faults.Delist(symbol="ETHUSDTM"))
        gone = machine.subscribe([topic("trade", "ETHUSDTM")], Overflow.LATEST, 10)
        assert not isinstance(gone, Consumer)
        machine.trade("ETHUSDTM", 1)
        machine.change_book("ETHUSDTM", 1)
        kept = machine.subscribe([TRADES], Overflow.LATEST, 10)
        machine.add(kept, topic("trade", "ETHUSDTM"))
        assert kept.subscription.topics == (TRADES,)


def test_a_mistake_of_the_user_is_one() -> None:
    with taken_by_hand() as machine:
        tickers = machine.feed.ticker("XBTUSDTM")
        assert machine.consume(tickers) is not None
        with pytest.raises(UsageError):
            machine.consume(tickers)


def test_rules_and_invariants_of_the_user_hold_and_are_called() -> None:
    calls: Counter[str] = Counter()

    class Watched(FeedMachine):
        """Keeps the best bid, by a rule of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.best: Any = None

        def topics(self) -> st.SearchStrategy[Topic]:
            return strategies.topics(kinds=["ticker"])

        def received(self, consumer: Consumer, what: object) -> None:
            calls["received"] += 1
            assert isinstance(what, Ticker) or not isinstance(what, Trade)

        @rule(seconds=st.floats(0.0, 5.0))
        def look(self, seconds: float) -> None:
            async def bid() -> Any:
                async with self.feed.ticker("XBTUSDTM") as tickers:
                    with trio.move_on_after(seconds):
                        return (await tickers.receive()).bid

            try:
                self.best = self.call(bid)
            except KufeedError:
                self.best = None
            calls["look"] += 1

        @invariant()
        def it_is_a_price(self) -> None:
            calls["invariant"] += 1
            assert self.best is None or self.best > 0

    run(Watched)
    assert min(calls["look"], calls["received"], calls["invariant"]) > 0


class Careless(FeedMachine):
    """An application that is wrong on reconnect: it believes that it has seen every trade number since the first."""

    def topics(self) -> st.SearchStrategy[Topic]:
        return st.just(TRADES)

    def faults(self) -> st.SearchStrategy[Any]:
        return strategies.faults(kinds=[faults.Delay, faults.Close])

    watch_book = add = remove = take = trade = change_book = None  # type: ignore[assignment]

    def received(self, consumer: Consumer, what: Any) -> None:
        assert not isinstance(what, Gap)


def test_an_application_that_is_wrong_is_found_and_the_steps_are_printed() -> None:
    with pytest.raises(AssertionError) as caught:
        run(Careless, settings(SMALL, max_examples=200, derandomize=True, phases=[Phase.generate]))
    notes = "\n".join(caught.value.__notes__)
    assert "state = Careless()" in notes
    assert "topics=[topic('trade', 'XBTUSDTM')])" in notes
    assert "state.strike(fault=faults." in notes
    assert "state.teardown()" in notes  # in CI, Hypothesis has another word after it


def test_a_feed_that_is_wrong_is_found() -> None:
    class Forgetful(FeedMachine):
        """Stands for a feed that has not handed out the last trade but one, and said nothing."""

        def teardown(self) -> None:
            for witness in self.witnesses:
                trades = [one for one in witness.sightings if isinstance(one.what, Trade)]
                if len(trades) > 2:
                    witness.sightings.remove(trades[-2])
            super().teardown()

    with pytest.raises(AssertionError, match="silent loss"), taken_by_hand(Forgetful) as machine:
        machine.subscribe([TRADES], Overflow.DROP_OLDEST, 1000)
        machine.wait(2.0)
        machine.trade("XBTUSDTM", 3)


def test_after_an_error_nothing_is_left() -> None:
    class Broken(FeedMachine):
        @rule()
        def fail(self) -> None:
            self.call(self.feed.ticker("XBTUSDTM").__aenter__)
            raise LookupError("mine")

    threads = threading.active_count()
    with pytest.raises(LookupError, match="mine"):
        run(Broken, settings(SMALL, phases=[Phase.generate]))
    assert threading.active_count() == threads
    assert trio.run(_tasks) < 10


async def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def test_a_connection_that_outlives_the_feed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[trio.abc.Stream] = []
    real = CountedNetwork.open_stream

    async def open_two(self: CountedNetwork, *where: Any) -> trio.abc.Stream:
        """Stands for a feed that opens a connection which it forgets."""
        kept.append(await real(self, *where))
        return await real(self, *where)

    monkeypatch.setattr(CountedNetwork, "open_stream", open_two)
    with pytest.raises(AssertionError, match=r"leak: \d connections are open"), taken_by_hand() as machine:
        machine.subscribe([TRADES], Overflow.DROP_OLDEST, 1000)
    assert kept


def test_a_task_that_outlives_the_feed_is_found() -> None:
    class Leaky(FeedMachine):
        """Stands for a feed that starts a task which nobody owns."""

        @rule()
        def leak(self) -> None:
            self.call(self._leak)

        async def _leak(self) -> None:
            trio.lowlevel.spawn_system_task(trio.sleep_forever)
            await trio.lowlevel.checkpoint()

    with pytest.raises(AssertionError, match="leak: 1 tasks run"), taken_by_hand(Leaky) as machine:
        machine.leak()


def test_tasks_of_the_users_own_are_no_leak() -> None:
    with taken_by_hand() as machine:
        machine.start_soon(trio.sleep_forever)


def test_what_a_consumer_raises_comes_out_of_the_step() -> None:
    class Broken(FeedMachine):
        def received(self, consumer: Consumer, what: object) -> None:
            raise LookupError("mine")

    with taken_by_hand(Broken) as machine:
        machine.subscribe([TRADES], Overflow.LATEST, 10)
        with pytest.raises(LookupError, match="mine"):
            machine.trade("XBTUSDTM", 1)
    assert trio.run(_tasks) < 10


def test_a_machine_that_does_nothing_opens_nothing() -> None:
    FeedMachine().teardown()


def test_the_same_steps_go_the_same_way() -> None:
    def story() -> list[str]:
        with taken_by_hand() as machine:
            consumer = machine.subscribe([TRADES, topic("depth", "BTC-USDT", levels=5)], Overflow.DROP_OLDEST, 10)
            machine.strike(faults.Silence(lasting=8.0))
            machine.wait(40.0)
            machine.strike(faults.Cut())
            machine.wait(10.0)
            seen = [f"{one.at!r} {one.what!r}" for one in machine.witnesses[0].sightings]
            assert len(consumer.received) == len(seen)
        return seen

    first = story()
    assert len(first) > 20
    assert story() == first
