"""Handlers: functions with updates, and what becomes of their errors; the whole feed in virtual time."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import kufeed
from kufeed import FeedConfig, Trade
from kufeed.testing import Exchange, MemoryNetwork

from .test_cancellation import CancelAfter

ACTIONS = ("propagate", "isolate", "restart")


class Mine(Exception):
    """Of the user's handler."""


class Bodys(Exception):
    """Of the user's body."""


class SubGroup(ExceptionGroup[Exception]):  # noqa: ASYNC126  # that is its point
    """A group of the user's own; as most of them it has no `derive()`, so that whoever rebuilds it loses it."""


@asynccontextmanager
async def quiet(config: FeedConfig | None = None) -> AsyncIterator[tuple[Exchange, kufeed.Feed]]:
    """An exchange that only sends what it is told to."""
    exchange = Exchange(live=False)
    async with MemoryNetwork(exchange) as network:
        async with kufeed.open_feed(config, network=network, rng=random.Random(1)) as feed:
            yield exchange, feed


def trade(sequence: int, symbol: str = "BTC-USDT") -> str:
    data = {
        "type": "match",
        "symbol": symbol,
        "sequence": str(sequence),
        "price": "1.5",
        "size": "2",
        "side": "buy",
        "tradeId": str(sequence),
        "time": str(1_767_225_600_000_000_000 + sequence),
    }
    return json.dumps({"type": "message", "topic": f"/market/match:{symbol}", "subject": "trade.l3match", "data": data})


async def send(exchange: Exchange, *sequences: int, symbol: str = "BTC-USDT") -> None:
    """Send trades in one go, and wait until everybody has reacted."""
    await exchange.play([trade(sequence, symbol) for sequence in sequences])
    await wait_all_tasks_blocked()


def law(counts: kufeed.QueueStatistics) -> bool:
    lost = counts.conflated + counts.dropped + counts.unchanged + counts.discarded
    return counts.received == counts.delivered + lost + counts.pending


class Failing:
    """A handler that notes what it gets and fails on some of it; `asynchronous` and `inline` are its two kinds."""

    def __init__(self, *failing: int, error: BaseException | None = None) -> None:
        self.failing = failing
        self.error = Mine() if error is None else error
        self.seen: list[int | None] = []

    def inline(self, update: Trade) -> None:
        self.seen.append(update.sequence)
        if update.sequence in self.failing:
            raise self.error

    async def asynchronous(self, update: Trade) -> None:
        self.inline(update)

    def of(self, kind: str) -> Callable[[Trade], Awaitable[None] | None]:
        return getattr(self, kind)  # type: ignore[no-any-return]


kinds = pytest.mark.parametrize("kind", ["asynchronous", "inline"])


# -- the main job -----------------------------------------------------------------------------------------------------


@kinds
async def test_a_handler_gets_every_update_in_order(autojump_clock: MockClock, kind: str) -> None:
    handler = Failing()
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        await handlers.start(handler.of(kind), feed.trades("BTC-USDT"))
        for first in range(0, 300, 100):
            await send(exchange, *range(first, first + 100))
        assert handler.seen == list(range(300))
        (counts,) = handlers.statistics()
        assert (counts.name, counts.running, counts.calls, counts.errors) == (
            f"Failing.{kind}",
            True,
            300,
            0,
        )
        assert counts.queues[0].received == counts.queues[0].delivered == 300


@kinds
async def test_start_returns_when_the_exchange_has_acknowledged(autojump_clock: MockClock, kind: str) -> None:
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        exchange.faults.withhold_acks = True
        started = trio.Event()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def start() -> None:
                await handlers.start(Failing().of(kind), feed.trades("BTC-USDT"))
                started.set()

            await trio.sleep(1)
            assert not started.is_set()
            exchange.faults.withhold_acks = False
        assert exchange.sessions[0].topics == ("/market/match:BTC-USDT",)


@kinds
async def test_start_soon_returns_at_once(autojump_clock: MockClock, kind: str) -> None:
    handler = Failing()
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        handlers.start_soon(handler.of(kind), feed.trades("BTC-USDT"))
        assert exchange.sessions == ()
        await exchange.wait_subscribed("/market/match:BTC-USDT")
        await send(exchange, 1, 2)
        assert handler.seen == [1, 2]


async def test_an_async_handler_gets_what_is_there_in_batches(autojump_clock: MockClock) -> None:
    seen: list[list[int | None]] = []

    async def handle(trades: list[Trade]) -> None:
        seen.append([one.sequence for one in trades])
        await trio.sleep(1)

    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        await handlers.start(handle, feed.trades("BTC-USDT"), batches=True)
        await send(exchange, 1)
        for number in range(2, 10):
            await send(exchange, number)
        await trio.sleep(1.5)
        assert seen == [[1], [2, 3, 4, 5, 6, 7, 8, 9]]


async def test_an_inline_handler_gets_what_one_read_brought_in_batches(autojump_clock: MockClock) -> None:
    seen: list[list[int | None]] = []
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        subscription = feed.trades("BTC-USDT")
        await handlers.start(
            lambda trades: seen.append([one.sequence for one in trades]), subscription, batches=True, name="noting"
        )
        await send(exchange, *range(10))
        assert [number for batch in seen for number in batch] == list(range(10))
        (counts,) = handlers.statistics()
        assert counts.name == "noting"
        assert counts.calls == len(seen) < 10
        assert subscription.statistics().delivered == 10


async def test_workers_share_the_symbols_and_keep_the_order_of_each(autojump_clock: MockClock) -> None:
    symbols = [f"T{number:04}-USDT" for number in range(10)]
    seen: dict[str, list[int | None]] = {symbol: [] for symbol in symbols}
    tasks: dict[str, set[trio.lowlevel.Task]] = {symbol: set() for symbol in symbols}

    async def handle(update: Trade) -> None:
        tasks[update.symbol].add(trio.lowlevel.current_task())
        await trio.sleep(random.random())
        seen[update.symbol].append(update.sequence)

    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        await handlers.start(handle, feed.trades(*symbols), workers=3)
        for number in range(20):
            await exchange.play([trade(number, symbol) for symbol in symbols])
        await trio.sleep(100)  # shorter than the silence after which a symbol that is not listed has ended
        assert all(numbers == list(range(20)) for numbers in seen.values())
        assert all(len(one) == 1 for one in tasks.values())
        assert len(set().union(*tasks.values())) == 3
        (counts,) = handlers.statistics()
        assert sorted(queue.delivered for queue in counts.queues) == [60, 60, 80]
        assert counts.calls == 200


async def test_a_worker_that_is_stuck_holds_up_its_own_symbols_alone(autojump_clock: MockClock) -> None:
    seen: list[str] = []

    async def handle(update: Trade) -> None:
        if update.symbol == "BTC-USDT":
            await trio.sleep_forever()
        seen.append(update.symbol)

    async with quiet() as (exchange, feed), feed.open_handlers(drain_timeout=0) as handlers:
        await handlers.start(handle, feed.trades("BTC-USDT", "ETH-USDT"), workers=5)
        await send(exchange, 1)
        await send(exchange, 1, 2, symbol="ETH-USDT")
        assert seen == ["ETH-USDT", "ETH-USDT"]
        assert len(handlers.statistics()[0].queues) == 2, "a worker without a symbol has nothing to do"


async def test_workers_take_all_topics_of_a_symbol_together(autojump_clock: MockClock) -> None:
    wanted = [kufeed.topic(kind, symbol) for kind in ("ticker", "trade") for symbol in ("BTC-USDT", "ETH-USDT")]

    async def handle(update: kufeed.Update) -> None: ...

    async with quiet() as (_, feed), feed.open_handlers() as handlers:
        await handlers.start(handle, feed.subscribe(*wanted), workers=4)
        assert [{one.symbol for one in part.topics} for part in handlers._handlers[0].subscriptions] == [
            {"BTC-USDT"},
            {"ETH-USDT"},
        ]


async def test_a_slow_handler_delays_nobody_else(autojump_clock: MockClock) -> None:
    slow, quick = Failing(), Failing()

    async def handle_slowly(update: Trade) -> None:
        await trio.sleep(3600)
        slow.inline(update)

    async with quiet() as (exchange, feed), feed.open_handlers(drain_timeout=0) as handlers:
        await handlers.start(handle_slowly, feed.trades("BTC-USDT"))
        await handlers.start(quick.asynchronous, feed.trades("BTC-USDT"))
        await send(exchange, *range(100))
        assert quick.seen == list(range(100))
        assert slow.seen == []


async def test_a_handlers_symbols_come_and_go(autojump_clock: MockClock) -> None:
    handler = Failing()
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        trades = feed.trades("BTC-USDT")
        await handlers.start(handler.inline, trades)
        await trades.add("ETH-USDT")
        trades.remove("BTC-USDT")
        await trio.sleep(1)
        await send(exchange, 1)
        await send(exchange, 2, symbol="ETH-USDT")
        assert handler.seen == [2]


@kinds
async def test_a_handler_that_closes_its_subscription_ends(autojump_clock: MockClock, kind: str) -> None:
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        trades = feed.trades("BTC-USDT")

        class Once(Failing):
            def inline(self, update: Trade) -> None:
                super().inline(update)
                trades.close()

        once = Once()
        await handlers.start(once.of(kind), trades)
        await send(exchange, 1, 2, 3)
        assert once.seen == [1]
        assert not handlers.statistics()[0].running
        counts = trades.statistics()
        assert (counts.received, counts.delivered, counts.discarded) == (3, 1, 2)
        await trio.sleep(1)
        assert exchange.sessions[0].topics == ()


async def test_what_has_ended_is_forgotten_when_the_next_is_started(autojump_clock: MockClock) -> None:
    """A program may start and end handlers for ever."""
    async with quiet() as (_, feed), feed.open_handlers() as handlers:
        for _ in range(5):
            trades = feed.trades("BTC-USDT")
            await handlers.start(Failing().asynchronous, trades)
            trades.close()
            await wait_all_tasks_blocked()
            assert len(handlers.statistics()) == 1


async def test_what_takes_updates_counts_as_async_however_it_is_made(autojump_clock: MockClock) -> None:
    class Recorder:
        async def __call__(self, update: Trade) -> None:
            seen.append(update.sequence)

    async def handle(_: str, update: Trade) -> None:
        seen.append(update.sequence)

    seen: list[int | None] = []
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        await handlers.start(Recorder(), feed.trades("BTC-USDT"))
        await handlers.start(partial(handle, "first"), feed.trades("BTC-USDT"))
        await handlers.start(partial(Recorder()), feed.trades("BTC-USDT"))
        await send(exchange, 7)
        assert seen == [7, 7, 7]
        assert [one.name for one in handlers.statistics()] == ["Recorder", "partial", "partial"]


# -- entering ---------------------------------------------------------------------------------------------------------


REFUSING = Exchange  # with a live market, unknown symbols are refused


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_cannot_be_entered_raises_from_start(autojump_clock: MockClock, workers: int) -> None:
    exchange, handler = Exchange(), Failing()
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        async with feed.open_handlers(on_error="isolate") as handlers:
            with pytest.raises(kufeed.SubscriptionRejected):
                await handlers.start(handler.asynchronous, feed.trades("ETH-USDT", "NONE-USDT"), workers=workers)
            with pytest.raises(kufeed.SubscriptionRejected):
                await handlers.start(handler.inline, feed.trades("NONE-USDT"))
            await trio.sleep(1)
            assert exchange.sessions[0].topics == ()
            assert not any(one.running for one in handlers.statistics())
    assert handler.seen == []


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("workers", [1, 2])
async def test_what_cannot_be_entered_raises_out_of_the_block(
    autojump_clock: MockClock, action: Any, workers: int
) -> None:
    """From `start_soon()`, whatever the policy says."""
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        with pytest.raises(kufeed.SubscriptionRejected):
            async with feed.open_handlers(on_error=action) as handlers:
                handlers.start_soon(Failing().asynchronous, feed.trades("ETH-USDT", "NONE-USDT"), workers=workers)
                await trio.sleep_forever()
        await trio.sleep(1)
        assert exchange.sessions[0].topics == ()


async def test_a_worker_that_cannot_enter_takes_those_along_that_have(autojump_clock: MockClock) -> None:
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        exchange.faults.ignore_topics = {"/market/match:ETH-USDT"}
        with pytest.raises(kufeed.SubscriptionTimeout):
            await handlers.start(Failing().asynchronous, feed.trades("BTC-USDT", "ETH-USDT"), workers=2)
        await trio.sleep(1)
        assert exchange.statistics().topics == 0


async def test_a_worker_that_cannot_enter_waits_for_no_other(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        async with feed.open_handlers() as handlers:
            exchange.faults.ignore_topics = {"/market/match:ETH-USDT"}
            with pytest.raises(kufeed.SubscriptionRejected):
                await handlers.start(Failing().asynchronous, feed.trades("NONE-USDT", "ETH-USDT"), workers=2)
            assert trio.current_time() < 1


async def test_a_block_that_is_left_at_once_asks_the_exchange_for_nothing(autojump_clock: MockClock) -> None:
    async with quiet() as (exchange, feed):
        async with trio.open_nursery() as nursery:
            async with feed.open_handlers(handler_nursery=nursery) as handlers:
                handlers.start_soon(Failing().asynchronous, feed.trades("BTC-USDT"))
        assert feed.statistics().connections == ()
        assert exchange.tokens_issued == 0


async def test_workers_that_all_fail_to_enter_raise_one_error(autojump_clock: MockClock) -> None:
    async with quiet(FeedConfig(max_reconnect_attempts=0)) as (exchange, feed):
        exchange.faults.refuse_dials = True
        async with feed.open_handlers() as handlers:
            with pytest.raises(kufeed.ConnectionFailed):
                await handlers.start(Failing().asynchronous, feed.trades("BTC-USDT", "ETH-USDT"), workers=2)


async def test_a_cancelled_start_leaves_nothing(autojump_clock: MockClock) -> None:
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        exchange.faults.withhold_acks = True
        for workers in (1, 2):
            with trio.move_on_after(1) as scope:
                await handlers.start(Failing().asynchronous, feed.trades("BTC-USDT", "ETH-USDT"), workers=workers)
            assert scope.cancelled_caught
        assert not any(one.running for one in handlers.statistics())
        await trio.sleep(20)
        assert exchange.sessions == ()


async def test_a_block_that_is_left_ends_who_is_still_being_started(autojump_clock: MockClock) -> None:
    async with quiet() as (exchange, feed), trio.open_nursery() as nursery:
        exchange.faults.withhold_acks = True
        async with feed.open_handlers() as handlers:
            handlers.start_soon(Failing().asynchronous, feed.trades("ETH-USDT"))

            @nursery.start_soon
            async def start() -> None:
                with pytest.raises(kufeed.UsageError, match="was being started"):
                    await handlers.start(Failing().asynchronous, feed.trades("BTC-USDT"))

            await trio.sleep(0.1)
            start_time = trio.current_time()
        await wait_all_tasks_blocked()
        assert trio.current_time() == start_time


# -- errors -----------------------------------------------------------------------------------------------------------


@kinds
async def test_an_error_comes_out_of_the_block_as_itself(autojump_clock: MockClock, kind: str) -> None:
    handler = Failing(2, error=Mine("with its context"))
    handler.error.__context__ = cause = KeyError("what it was raised during")
    async with quiet() as (exchange, feed):
        with pytest.raises(Mine) as raised:
            async with feed.open_handlers() as handlers:
                await handlers.start(handler.of(kind), feed.trades("BTC-USDT"))
                await send(exchange, 1, 2, 3)
                await trio.sleep_forever()
        assert raised.value is handler.error
        assert raised.value.__context__ is cause
        assert handler.seen == [1, 2]
        counts = handlers.statistics()[0]
        assert (counts.calls, counts.errors, counts.running) == (2, 1, False)
        assert law(counts.queues[0])
        assert counts.queues[0].discarded == 1


@kinds
async def test_an_error_is_no_failure_of_the_network(autojump_clock: MockClock, kind: str) -> None:
    """Whatever it is: nobody reconnects, and nobody else loses an update."""
    errors = [
        trio.BrokenResourceError(),
        trio.ClosedResourceError(),
        kufeed.LinkClosed(1006, None),
        OSError(5, "of the handler's own"),
        StopAsyncIteration(),
        ExceptionGroup("of the user's own", [trio.BrokenResourceError()]),
        trio.TooSlowError(),
        RecursionError(),
    ]
    other = Failing()
    async with quiet() as (exchange, feed), feed.open_handlers(on_error="isolate") as handlers:
        await handlers.start(other.asynchronous, feed.trades("BTC-USDT"))
        first = Failing()
        await handlers.start(first.inline, feed.trades("BTC-USDT"))
        for error in errors:
            await handlers.start(Failing(*range(20), error=error).of(kind), feed.trades("BTC-USDT"))
        async with feed.trades("BTC-USDT") as trades:
            await send(exchange, *range(20))
            assert other.seen == first.seen == [one.sequence for one in await trades.batches().__anext__()]
            assert other.seen == list(range(20))
        assert all(one.errors == 20 for one in handlers.statistics()[2:])
        assert len(exchange.dials) == 1
        (connection,) = feed.statistics().connections
        assert connection.failures == 0


@kinds
@pytest.mark.parametrize(
    "error",
    [
        ExceptionGroup("of the user's own", [Mine()]),
        SubGroup("of the user's own", [Mine(), Bodys()]),
        SystemExit(3),
        KeyboardInterrupt(),
        StopAsyncIteration("a stray anext()"),
        BaseExceptionGroup("of the user's own", [KeyboardInterrupt()]),
    ],
    ids=repr,
)
async def test_what_a_handler_raised_is_never_changed(
    autojump_clock: MockClock, kind: str, error: BaseException
) -> None:
    async with quiet() as (exchange, feed):
        with pytest.raises(BaseException) as raised:
            async with feed.open_handlers() as handlers:
                await handlers.start(Failing(1, error=error).of(kind), feed.trades("BTC-USDT"))
                await send(exchange, 1)
                await trio.sleep_forever()
        assert raised.value is error
        assert len(exchange.dials) == 1


@kinds
@pytest.mark.parametrize("error", [SystemExit(3), BaseExceptionGroup("", [KeyboardInterrupt()])], ids=repr)
async def test_no_policy_is_asked_about_what_is_no_exception(
    autojump_clock: MockClock, kind: str, error: BaseException
) -> None:
    async with quiet() as (exchange, feed):
        with pytest.raises(type(error)) as raised:
            async with feed.open_handlers(on_error="isolate") as handlers:
                await handlers.start(Failing(1, error=error).of(kind), feed.trades("BTC-USDT"))
                await send(exchange, 1)
                await trio.sleep_forever()
        assert raised.value is error


@kinds
async def test_a_handlers_error_gets_past_nurseries_of_the_body(autojump_clock: MockClock, kind: str) -> None:
    """They are cancelled, and give groups with nothing but `Cancelled` in them."""
    async with quiet() as (exchange, feed):
        with pytest.raises(Mine):
            async with feed.open_handlers() as handlers:
                async with trio.open_nursery() as outer, trio.open_nursery() as inner:
                    outer.start_soon(trio.sleep_forever)
                    inner.start_soon(trio.sleep_forever)
                    await handlers.start(Failing(1).of(kind), feed.trades("BTC-USDT"))
                    await send(exchange, 1)
                    await trio.sleep_forever()


@kinds
async def test_body_and_handler_both_failing_give_a_group_of_exactly_these_two(
    autojump_clock: MockClock, kind: str
) -> None:
    mine, bodys = Failing(1), SubGroup("of the body's own", [Bodys()])
    async with quiet() as (exchange, feed):
        with pytest.RaisesGroup(Mine, pytest.RaisesGroup(Bodys)) as raised:
            async with feed.open_handlers() as handlers:
                await handlers.start(mine.of(kind), feed.trades("BTC-USDT"))
                await exchange.play([trade(1)])
                try:
                    await trio.sleep_forever()
                finally:
                    raise bodys
        assert raised.value.exceptions == (mine.error, bodys)
        assert raised.value.__context__ is None


async def test_a_body_that_fails_in_the_same_step_hides_no_inline_error(autojump_clock: MockClock) -> None:
    """The inline handler fails in the reader's task; its own task has had no chance to say so."""
    mine, bodys = Mine(), Bodys()
    async with quiet() as (exchange, feed):
        called = trio.Event()

        def fail(update: Trade) -> None:
            called.set()
            raise mine

        with pytest.RaisesGroup(Mine, Bodys) as raised:
            async with feed.open_handlers() as handlers:
                await handlers.start(fail, feed.trades("BTC-USDT"))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(exchange.play, [trade(1)])
                    with trio.CancelScope(shield=True):
                        await called.wait()
                raise bodys
        assert set(raised.value.exceptions) == {mine, bodys}


async def test_two_handlers_failing_give_a_group_of_two(autojump_clock: MockClock) -> None:
    one, two = Failing(1), Failing(1, error=SubGroup("second", [Mine()]))
    async with quiet() as (exchange, feed):
        with pytest.RaisesGroup(Mine, pytest.RaisesGroup(Mine)) as raised:
            async with feed.open_handlers() as handlers:
                await handlers.start(one.asynchronous, feed.trades("BTC-USDT"))
                await handlers.start(two.asynchronous, feed.trades("BTC-USDT"))
                await send(exchange, 1)
                await trio.sleep_forever()
        assert set(raised.value.exceptions) == {one.error, two.error}


async def test_a_failing_worker_ends_the_others(autojump_clock: MockClock) -> None:
    async with quiet() as (exchange, feed):
        with pytest.raises(Mine):
            async with feed.open_handlers() as handlers:
                await handlers.start(Failing(1).asynchronous, feed.trades("BTC-USDT", "ETH-USDT"), workers=2)
                await send(exchange, 1)
                await trio.sleep_forever()
        assert all(law(queue) for queue in handlers.statistics()[0].queues)


async def test_an_error_of_the_body_comes_out_as_itself(autojump_clock: MockClock) -> None:
    async with quiet() as (_, feed):
        for error in (
            Bodys(),
            SubGroup("of the body's own", [Bodys()]),
            SystemExit(),
            StopAsyncIteration(),
            StopIteration(),
        ):
            with pytest.raises(type(error)) as raised:
                async with feed.open_handlers() as handlers:
                    await handlers.start(Failing().asynchronous, feed.trades("BTC-USDT"))
                    raise error
            assert raised.value is error
            assert raised.value.__context__ is None


@pytest.mark.parametrize("action", ["isolate", "restart"])
@kinds
async def test_an_isolated_error_is_logged_and_counted_and_the_next_update_handled(
    autojump_clock: MockClock, kind: str, action: Any, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Failing(2, 3)
    async with quiet() as (exchange, feed), feed.open_handlers(on_error=action) as handlers:
        await handlers.start(handler.of(kind), feed.trades("BTC-USDT"))
        await send(exchange, 1, 2, 3, 4)
        assert handler.seen == [1, 2, 3, 4]
        (counts,) = handlers.statistics()
        assert (counts.calls, counts.errors, counts.running) == (4, 2, True)
        records = [record for record in caplog.records if record.name == "kufeed.handlers"]
        assert [record.levelno for record in records] == [logging.ERROR] * 2
        assert f"handler Failing.{kind} failed" in records[0].getMessage()
        assert records[0].exc_info is not None
        assert records[0].exc_info[1] is handler.error


@kinds
async def test_too_many_restarts_in_a_minute_come_out(autojump_clock: MockClock, kind: str) -> None:
    handler = Failing(*range(100))
    async with quiet() as (exchange, feed):
        with pytest.raises(Mine):
            async with feed.open_handlers(on_error="restart", restarts_per_minute=3) as handlers:
                await handlers.start(handler.of(kind), feed.trades("BTC-USDT"))
                await send(exchange, 0, 1, 2)
                await trio.sleep(60.1)
                await send(exchange, 3, 4, 5)
                await trio.sleep(59)
                assert handler.seen == [0, 1, 2, 3, 4, 5]
                await send(exchange, 6, 7)
                await trio.sleep_forever()
        assert handler.seen == [0, 1, 2, 3, 4, 5, 6]


@kinds
async def test_a_policy_may_be_a_function(autojump_clock: MockClock, kind: str) -> None:
    asked: list[tuple[Exception, str]] = []

    def decide(error: Exception, name: str) -> Any:
        asked.append((error, name))
        return "isolate" if isinstance(error, Mine) else "propagate"

    mine, other = Failing(1, 2), Failing(3, error=KeyError())
    async with quiet() as (exchange, feed):
        with pytest.raises(KeyError):
            async with feed.open_handlers(on_error=decide) as handlers:
                await handlers.start(mine.of(kind), feed.trades("BTC-USDT"), name="mine")
                await handlers.start(other.of(kind), feed.trades("BTC-USDT"), name="other")
                await send(exchange, 1, 2)
                assert asked == [(mine.error, "mine"), (mine.error, "mine")]
                await send(exchange, 3)
                await trio.sleep_forever()
        assert asked[2:] == [(other.error, "other")]


@kinds
async def test_a_policy_that_fails_comes_out_itself(autojump_clock: MockClock, kind: str) -> None:
    def broken(error: Exception, name: str) -> Any:
        raise ZeroDivisionError

    def exiting(error: Exception, name: str) -> Any:
        raise SystemExit

    async with quiet() as (exchange, feed):
        wrong: Any
        for number, (wrong, expected) in enumerate(
            [
                (broken, ZeroDivisionError),
                (exiting, SystemExit),
                (lambda error, name: "ignore", kufeed.UsageError),
                (lambda error: "isolate", TypeError),
            ]
        ):
            handler = Failing(number)
            with pytest.raises(expected) as raised:
                async with feed.open_handlers(on_error=wrong) as handlers:
                    await handlers.start(handler.of(kind), feed.trades("BTC-USDT"))
                    await send(exchange, number)
                    await trio.sleep_forever()
            assert raised.value.__context__ is handler.error
        assert len(exchange.dials) == 1


@kinds
async def test_an_error_of_the_stream_goes_by_the_policy_too(autojump_clock: MockClock, kind: str) -> None:
    """It stands at its place; and an isolated handler goes on after the recovery."""
    handler = Failing()
    asked: list[Exception] = []

    def decide(error: Exception, name: str) -> Any:
        asked.append(error)
        return "isolate"

    config = FeedConfig(max_reconnect_attempts=1, reconnect_delay=0.5, circuit_cooldown=30.0)
    async with quiet(config) as (exchange, feed), feed.open_handlers(on_error=decide) as handlers:
        await handlers.start(handler.of(kind), feed.trades("BTC-USDT"))
        await send(exchange, 1)
        exchange.faults.refuse_dials = True
        await exchange.disconnect_all()
        await trio.sleep(10)
        assert [type(error) for error in asked] == [kufeed.ConnectionFailed]
        exchange.faults.refuse_dials = False
        await exchange.wait_subscribed("/market/match:BTC-USDT")
        await send(exchange, 2)
        assert handler.seen == [1, 2]
        assert handlers.statistics()[0].errors == 1


async def test_a_stray_next_in_an_inline_handler_is_not_lost(autojump_clock: MockClock) -> None:
    """No coroutine can raise a `StopIteration`: Python makes it a RuntimeError with that as its cause."""
    async with quiet() as (exchange, feed):
        with pytest.raises(RuntimeError, match="raised StopIteration") as raised:
            async with feed.open_handlers() as handlers:
                await handlers.start(lambda update: next(iter(())), feed.trades("BTC-USDT"))
                await send(exchange, 1)
                await trio.sleep_forever()
        assert isinstance(raised.value.__cause__, StopIteration)
        assert len(exchange.dials) == 1


async def test_a_plain_function_that_returns_a_coroutine_is_told_so(autojump_clock: MockClock) -> None:
    async def handle(update: Trade) -> None:
        pytest.fail("nobody awaits it")

    async with quiet() as (exchange, feed):
        with pytest.raises(kufeed.UsageError, match="make the handler itself an async def"):
            async with feed.open_handlers() as handlers:
                await handlers.start(lambda update: handle(update), feed.trades("BTC-USDT"))
                await send(exchange, 1)
                await trio.sleep_forever()


async def test_an_inline_error_before_all_is_acknowledged_raises_from_start(autojump_clock: MockClock) -> None:
    """One symbol streams while another is not acknowledged."""
    handler = Failing(1)
    async with quiet() as (exchange, feed), trio.open_nursery() as nursery, feed.open_handlers() as handlers:
        exchange.faults.ignore_topics = {"/market/match:ETH-USDT"}

        @nursery.start_soon
        async def play() -> None:
            await exchange.wait_subscribed("/market/match:BTC-USDT")
            await exchange.play([trade(1), trade(2)])

        with pytest.raises(Mine):
            await handlers.start(handler.inline, feed.trades("BTC-USDT", "ETH-USDT"))
        assert handler.seen == [1]
        await trio.sleep(20)
        assert exchange.sessions == ()


# -- inline -----------------------------------------------------------------------------------------------------------


async def test_an_inline_handler_is_called_before_anybody_else_runs(autojump_clock: MockClock) -> None:
    tasks: list[trio.lowlevel.Task] = []
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        await handlers.start(lambda _: tasks.append(trio.lowlevel.current_task()), feed.trades("BTC-USDT"))
        await send(exchange, 1)
        (task,) = tasks
        assert "reader" in task.name


async def test_an_inline_handler_is_told_of_a_hole(autojump_clock: MockClock) -> None:
    holes: list[kufeed.Gap | None] = []
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        await handlers.start(lambda update: holes.append(update.gap_before), feed.trades("BTC-USDT"))
        await send(exchange, 1)
        await exchange.disconnect_all()
        await exchange.wait_subscribed("/market/match:BTC-USDT")
        await send(exchange, 5, 6)
        first, second, third = holes
        assert first is third is None
        assert second is not None
        assert second.cause is kufeed.GapCause.RECONNECT


async def test_an_inline_handler_over_a_millisecond_is_warned_about_once_a_minute(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """In virtual time, where nothing takes any but this."""
    took = 0.0

    def handle(update: Trade) -> None:
        autojump_clock.jump(took)

    def warnings() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "kufeed.handlers"]

    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        await handlers.start(handle, feed.trades("BTC-USDT"))
        took = 0.00099
        await send(exchange, *range(10))
        assert warnings() == []
        took = 0.002
        await send(exchange, *range(10, 20))
        (text,) = warnings()
        assert "test_an_inline_handler_over" in text
        assert "took 2.0 ms" in text
        await trio.sleep(59)
        await send(exchange, 20)
        assert len(warnings()) == 1
        await trio.sleep(1)
        await send(exchange, 21)
        assert len(warnings()) == 2
        assert handlers.statistics()[0].longest_call == pytest.approx(0.002)


async def test_the_subscription_of_an_inline_handler_cannot_be_iterated(autojump_clock: MockClock) -> None:
    async with quiet() as (_, feed), feed.open_handlers() as handlers:
        trades = feed.trades("BTC-USDT")
        await handlers.start(Failing().inline, trades)
        with pytest.raises(kufeed.UsageError, match="inline handler"):
            await trades.receive()
        with pytest.raises(kufeed.UsageError, match="inline handler"):
            trades.receive_nowait()
        with pytest.raises(kufeed.UsageError, match="inline handler"):
            await trades.batches().__anext__()
        with pytest.raises(kufeed.UsageError, match="inline handler"):
            await trades.with_events().__anext__()


# -- leaving ----------------------------------------------------------------------------------------------------------


async def slow_block(
    exchange: Exchange, feed: kufeed.Feed, seen: list[int | None], body: Callable[[], None], **options: Any
) -> kufeed.HandlerStatistics:
    """Leave a block with ten updates for a handler that takes a second for each."""

    async def handle(update: Trade) -> None:
        await trio.sleep(1)
        seen.append(update.sequence)

    handlers = feed.open_handlers(**options)
    try:
        async with handlers:
            await handlers.start(handle, feed.trades("BTC-USDT"))
            await send(exchange, *range(10))
            body()
    except Bodys:
        pass
    return handlers.statistics()[0]


@pytest.mark.parametrize(("timeout", "handled"), [(0.5, 0), (2.5, 2), (100, 10), (0, 0)])
async def test_what_is_pending_is_drained_for_so_long(autojump_clock: MockClock, timeout: float, handled: int) -> None:
    seen: list[int | None] = []
    async with quiet() as (exchange, feed):
        counts = await slow_block(exchange, feed, seen, lambda: None, drain_timeout=timeout)
        assert seen == list(range(handled))
        assert trio.current_time() == pytest.approx(min(timeout, 10), abs=0.1)
        (queue,) = counts.queues
        assert (queue.received, queue.delivered, queue.pending) == (10, min(handled + 1, 10), 0)
        assert queue.discarded == 10 - queue.delivered
        assert not counts.running
        await trio.sleep(1)
        assert exchange.statistics().topics == 0


@pytest.mark.parametrize("overflow", list(kufeed.Overflow))
async def test_a_drain_of_a_full_buffer_keeps_its_accounts(
    autojump_clock: MockClock, overflow: kufeed.Overflow
) -> None:
    """Under `BLOCK` the reader is being held meanwhile; what it still has is discarded."""

    async def handle(update: Trade) -> None:
        await trio.sleep(1)

    async with quiet() as (exchange, feed):
        async with feed.open_handlers(drain_timeout=2.5, on_error="isolate") as handlers:
            await handlers.start(handle, feed.trades("BTC-USDT", overflow=overflow, buffer=5))
            await send(exchange, *range(20))
        assert trio.current_time() == pytest.approx(1 if overflow == "latest" else 2.5, abs=0.1)
        (queue,) = handlers.statistics()[0].queues
        assert law(queue)
        assert queue.pending == 0
        assert queue.received == 20
        await trio.sleep(feed.config.linger + 1)
        assert exchange.sessions == ()


async def test_a_body_that_fails_drains_nothing(autojump_clock: MockClock) -> None:
    seen: list[int | None] = []

    def fail() -> None:
        raise Bodys

    async with quiet() as (exchange, feed):
        (queue,) = (await slow_block(exchange, feed, seen, fail, drain_timeout=100)).queues
        assert trio.current_time() == pytest.approx(0, abs=0.1)
        assert (queue.received, queue.delivered, queue.discarded, queue.pending) == (10, 1, 9, 0)


async def test_a_cancelled_exit_drains_nothing(autojump_clock: MockClock) -> None:
    seen: list[int | None] = []
    async with quiet() as (exchange, feed):
        with trio.CancelScope() as scope:
            await slow_block(exchange, feed, seen, scope.cancel, drain_timeout=100)
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(0, abs=0.1)
        assert seen == []


async def test_a_drain_can_be_cancelled(autojump_clock: MockClock) -> None:
    seen: list[int | None] = []
    async with quiet() as (exchange, feed):
        with trio.move_on_after(3.5) as scope:
            await slow_block(exchange, feed, seen, lambda: None, drain_timeout=100)
        assert scope.cancelled_caught
        assert seen == [0, 1, 2]


async def test_a_task_that_has_yet_to_begin_drains_too(autojump_clock: MockClock) -> None:
    """It is entered, so it has updates: leaving the block right after `start()` must not lose them."""
    handler = Failing()

    class Late:
        def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
            nursery.start_soon(self.run, async_fn)

        async def run(self, async_fn: Callable[..., Awaitable[object]]) -> None:
            await trio.sleep(0.5)
            await async_fn()

    async with quiet() as (exchange, feed), trio.open_nursery() as nursery:
        async with feed.open_handlers(handler_nursery=Late()) as handlers:
            await handlers.start(handler.asynchronous, feed.trades("BTC-USDT"))
            await send(exchange, 1, 2, 3)
            assert handler.seen == []
        assert handler.seen == [1, 2, 3]
        assert trio.current_time() == pytest.approx(0.5, abs=0.1)


async def test_an_error_while_draining_comes_out(autojump_clock: MockClock) -> None:
    handler = Failing(3)

    async def handle(update: Trade) -> None:
        await trio.sleep(0.1)
        handler.inline(update)

    async with quiet() as (exchange, feed):
        with pytest.raises(Mine):
            async with feed.open_handlers() as handlers:
                await handlers.start(handle, feed.trades("BTC-USDT"))
                await send(exchange, *range(10))
                assert handler.seen == []
        assert handler.seen == [0, 1, 2, 3]


async def test_a_draining_handler_gets_nothing_new(autojump_clock: MockClock) -> None:
    handler = Failing()

    async def handle(update: Trade) -> None:
        await trio.sleep(1)
        await handler.asynchronous(update)

    async with quiet() as (exchange, feed), trio.open_nursery() as nursery:
        async with feed.open_handlers(drain_timeout=100) as handlers:
            await handlers.start(handle, feed.trades("BTC-USDT"))
            inline = Failing()
            await handlers.start(inline.inline, feed.trades("BTC-USDT"))
            await send(exchange, 1, 2, 3)

            @nursery.start_soon
            async def play() -> None:
                await trio.sleep(1.5)
                assert await exchange.play([trade(4)]) == 0, "nobody holds the topic any more"

        assert handler.seen == inline.seen == [1, 2, 3]


async def test_what_is_started_while_draining_does_not_run(autojump_clock: MockClock) -> None:
    """A handler that starts others does not fail the block because it is being left."""
    other = Failing()
    refused: list[Exception] = []

    async def handle(update: Trade) -> None:
        await trio.sleep(0.1)
        handlers.start_soon(other.asynchronous, feed.trades("ETH-USDT"))
        try:
            await handlers.start(other.asynchronous, feed.trades("ETH-USDT"))
        except kufeed.UsageError as error:
            refused.append(error)

    async with quiet() as (exchange, feed):
        async with feed.open_handlers() as handlers:
            await handlers.start(handle, feed.trades("BTC-USDT"))
            await send(exchange, 1, 2)
        assert trio.current_time() == pytest.approx(0.2, abs=0.01)
        assert len(refused) == 2
        assert "ETH" not in "".join(exchange.sessions[0].received)
        assert [one.running for one in handlers.statistics()] == [False] * 5


@pytest.mark.parametrize("given", [False, True])
async def test_handlers_clean_up_in_peace(autojump_clock: MockClock, given: bool) -> None:
    """The block waits for a shielded `finally`, as a nursery does; the feed is still there."""
    cleaned = False

    async def handle(update: Trade) -> None:
        nonlocal cleaned
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                async with feed.trades("ETH-USDT"):
                    await trio.sleep(1)
            cleaned = True

    async with quiet() as (exchange, feed), trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            try:
                async with feed.open_handlers(handler_nursery=nursery if given else None) as handlers:
                    await handlers.start(handle, feed.trades("BTC-USDT"))
                    await send(exchange, 1)
                    scope.cancel()
            finally:
                assert cleaned


@kinds
async def test_handlers_end_with_their_feed(autojump_clock: MockClock, kind: str) -> None:
    """Left in the wrong order: the feed first."""
    feed_left, handlers_left = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        async with quiet() as (exchange, feed):

            @nursery.start_soon
            async def handle() -> None:
                async with feed.open_handlers() as handlers:
                    await handlers.start(Failing().of(kind), feed.trades("BTC-USDT"))
                    await feed_left.wait()
                    await wait_all_tasks_blocked()
                    assert not handlers.statistics()[0].running
                    with pytest.raises(kufeed.UsageError, match="the feed is closed"):
                        await handlers.start(Failing().of(kind), other)
                handlers_left.set()

            other = feed.trades("ETH-USDT")
            await exchange.wait_subscribed("/market/match:BTC-USDT")
            await send(exchange, 1)
        feed_left.set()
        with trio.fail_after(1):
            await handlers_left.wait()
        with pytest.raises(kufeed.UsageError, match="the feed is closed"):
            feed.open_handlers()


@kinds
async def test_a_handler_may_cancel_the_feed_it_is_fed_by(autojump_clock: MockClock, kind: str) -> None:
    class Cancelling(Failing):
        def inline(self, update: Trade) -> None:
            super().inline(update)
            scope.cancel()

    handler = Cancelling()
    with trio.CancelScope() as scope:
        async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
            await handlers.start(handler.of(kind), feed.trades("BTC-USDT"))
            await send(exchange, 1, 2)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert law(handlers.statistics()[0].queues[0])


# -- a nursery of the user's ------------------------------------------------------------------------------------------


@kinds
async def test_errors_are_those_of_the_nursery_that_was_given(autojump_clock: MockClock, kind: str) -> None:
    async with quiet() as (exchange, feed):
        with pytest.RaisesGroup(Mine):
            async with trio.open_nursery() as nursery:
                async with feed.open_handlers(handler_nursery=nursery) as handlers:
                    await handlers.start(Failing(1).of(kind), feed.trades("BTC-USDT"))
                    assert [task.name for task in nursery.child_tasks] == [f"handler Failing.{kind}"]
                    await send(exchange, 1)
                    await trio.sleep_forever()


@kinds
async def test_in_a_given_nursery_they_end_with_the_block_all_the_same(autojump_clock: MockClock, kind: str) -> None:
    async with quiet() as (exchange, feed), trio.open_nursery() as nursery:
        async with feed.open_handlers(handler_nursery=nursery) as handlers:
            await handlers.start(Failing().of(kind), feed.trades("BTC-USDT"))
            handlers.start_soon(Failing().of(kind), feed.trades("ETH-USDT"))
        assert not any(one.running for one in handlers.statistics())
        await wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert exchange.statistics().topics == 0


@kinds
async def test_a_given_nursery_that_is_cancelled_ends_the_handlers_alone(autojump_clock: MockClock, kind: str) -> None:
    async with quiet() as (exchange, feed), trio.open_nursery() as nursery:
        async with feed.open_handlers(handler_nursery=nursery) as handlers:
            await handlers.start(Failing().of(kind), feed.trades("BTC-USDT"))
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
                assert not handlers.statistics()[0].running
                assert exchange.sessions[0].topics == ()


@asynccontextmanager
async def persistent() -> AsyncIterator[Any]:
    """A policy of a user's own, who has inherited nothing: after an error, wait, and try again."""

    class Persistent:
        def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
            nursery.start_soon(self.run, async_fn, args)

        async def run(self, async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
            while True:
                try:
                    await async_fn(*args)
                except Mine:
                    await trio.sleep(10)
                else:
                    return

    async with trio.open_nursery() as nursery:
        yield Persistent()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_policy_of_the_users_own_may_run_a_handler_again(autojump_clock: MockClock, workers: int) -> None:
    """It goes on with the next update; what came meanwhile has waited."""
    handler = Failing(1, 3)
    async with quiet() as (exchange, feed), persistent() as nursery:
        async with feed.open_handlers(handler_nursery=nursery) as handlers:
            await handlers.start(handler.asynchronous, feed.trades("BTC-USDT", "ETH-USDT"), workers=workers)
            await send(exchange, 0, 1, 2)
            assert handler.seen == [0, 1]
            await send(exchange, 3, 4)
            await trio.sleep(10.5)
            assert handler.seen == [0, 1, 2, 3]
            assert not handlers.statistics()[0].running
            await trio.sleep(10)
            assert handler.seen == [0, 1, 2, 3, 4]
            assert handlers.statistics()[0].running
        assert not handlers.statistics()[0].running


async def test_an_inline_handler_that_is_run_again_goes_on_too(autojump_clock: MockClock) -> None:
    """It has no channel: what came meanwhile is discarded, counted, and told as a hole."""
    handler = Failing(1)
    holes: list[kufeed.Gap | None] = []

    def handle(update: Trade) -> None:
        holes.append(update.gap_before)
        handler.inline(update)

    async with quiet() as (exchange, feed), persistent() as nursery:
        async with feed.open_handlers(handler_nursery=nursery) as handlers:
            trades = feed.trades("BTC-USDT")
            await handlers.start(handle, trades)
            await send(exchange, 0, 1, 2)
            await send(exchange, 3)
            await trio.sleep(10)
            await send(exchange, 4)
            assert handler.seen == [0, 1, 4]
            assert (trades.statistics().delivered, trades.statistics().discarded) == (3, 2)
            assert [hole is not None for hole in holes] == [False, False, True]


async def test_what_an_inline_handler_misses_while_it_waits_to_be_run_again_is_told(autojump_clock: MockClock) -> None:
    seen: list[tuple[int | None, kufeed.Gap | None]] = []

    def handler(update: Trade) -> None:
        seen.append((update.sequence, update.gap_before))
        if update.sequence == 2:
            raise Mine

    async with quiet() as (exchange, feed), persistent() as nursery:
        async with feed.open_handlers(handler_nursery=nursery) as handlers:
            await handlers.start(handler, feed.trades("BTC-USDT"))
            await send(exchange, 1, 2, 3)
            await exchange.disconnect_all()
            await exchange.wait_subscribed("/market/match:BTC-USDT")
            await send(exchange, 7)
            await trio.sleep(60)
            await send(exchange, 8, 9)
            (counts,) = handlers.statistics()[0].queues
    assert [number for number, _ in seen] == [1, 2, 8, 9]
    gap = seen[2][1]
    assert gap is not None
    start = 1_767_225_600_000_000_000
    assert (gap.since_ns, gap.until_ns) == (start + 3, start + 7)
    assert [one for _, one in seen if one is not None] == [gap]
    assert (counts.discarded, law(counts)) == (2, True)


async def test_one_that_waits_to_be_run_again_does_not_hold_up_the_end(autojump_clock: MockClock) -> None:
    handler = Failing(1)
    async with quiet() as (exchange, feed):
        async with persistent() as nursery:
            async with feed.open_handlers(handler_nursery=nursery) as handlers:
                trades = feed.trades("BTC-USDT")
                await handlers.start(handler.asynchronous, trades)
                await send(exchange, 1, 2)
            assert trio.current_time() == pytest.approx(0, abs=0.1)
            assert trades.statistics().discarded == 1
        assert handler.seen == [1]


class ByHand:
    """A nursery-like that runs nothing by itself: `fns` are what it was asked to run."""

    def __init__(self) -> None:
        self.fns: list[Callable[..., Awaitable[object]]] = []

    def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
        assert not args
        self.fns.append(async_fn)


async def test_a_task_that_never_begins_does_not_hold_up_the_end(autojump_clock: MockClock) -> None:
    async with quiet() as (exchange, feed):
        async with feed.open_handlers(handler_nursery=ByHand()) as handlers:
            handlers.start_soon(Failing().asynchronous, feed.trades("BTC-USDT"))
            await handlers.start(Failing().asynchronous, feed.trades("ETH-USDT"))
        await trio.sleep(1)
        assert exchange.sessions[0].topics == ()


async def test_an_inline_error_waits_for_the_task_that_raises_it(autojump_clock: MockClock) -> None:
    """And nothing is called after it, until that task runs again."""
    handler, nursery = Failing(1), ByHand()
    async with quiet() as (exchange, feed), feed.open_handlers(handler_nursery=nursery) as handlers:
        await handlers.start(handler.inline, feed.trades("BTC-USDT"))
        (run,) = nursery.fns
        await send(exchange, 1, 2)
        with pytest.raises(Mine):
            await run()
        await send(exchange, 3)
        assert handler.seen == [1]
        with trio.move_on_after(1):
            async with trio.open_nursery() as tasks:
                tasks.start_soon(run)
                await send(exchange, 4)
        assert handler.seen == [1, 4]


async def test_an_inline_error_outlives_the_block(autojump_clock: MockClock) -> None:
    """Its task had no chance to raise it before the block was left: it still does."""
    handler, nursery = Failing(1), ByHand()
    async with quiet() as (exchange, feed):
        async with feed.open_handlers(handler_nursery=nursery, drain_timeout=0) as handlers:
            await handlers.start(handler.inline, feed.trades("BTC-USDT"))
            await send(exchange, 1)
        (run,) = nursery.fns
        with pytest.raises(Mine):
            await run()
        await run()


@kinds
async def test_what_could_not_be_entered_is_not_run_again(autojump_clock: MockClock, kind: str) -> None:
    nursery = ByHand()
    async with MemoryNetwork(Exchange()) as network, kufeed.open_feed(network=network) as feed:
        async with feed.open_handlers(handler_nursery=nursery) as handlers:
            handlers.start_soon(Failing().of(kind), feed.trades("NONE-USDT"))
            (run,) = nursery.fns
            with pytest.raises(kufeed.SubscriptionRejected):
                await run()
            await run()
            assert not handlers.statistics()[0].running


async def test_a_nursery_that_is_closed_leaves_nothing_subscribed(autojump_clock: MockClock) -> None:
    async with quiet() as (exchange, feed):
        async with trio.open_nursery() as nursery:
            pass
        async with feed.open_handlers(handler_nursery=nursery) as handlers:
            with pytest.raises(RuntimeError, match="closed"):
                await handlers.start(Failing().asynchronous, feed.trades("BTC-USDT"))
            await trio.sleep(1)
            assert exchange.sessions[0].topics == ()


# -- misuse and watching ----------------------------------------------------------------------------------------------


async def test_what_cannot_be_is_refused(autojump_clock: MockClock) -> None:
    async def decide(error: Exception, name: str) -> Any: ...

    def generator(update: Trade) -> Iterator[None]:
        yield

    async def asynchronous_generator(update: Trade) -> AsyncIterator[None]:
        yield

    async with quiet() as (_, feed):
        wrong: Any
        for wrong in ("explode", None, 7, decide):
            with pytest.raises(kufeed.UsageError, match="on_error must be"):
                feed.open_handlers(on_error=wrong)
        for wrong in (-1, 1.5, True, None):
            with pytest.raises(kufeed.UsageError, match="restarts_per_minute must be"):
                feed.open_handlers(restarts_per_minute=wrong)
        for wrong in (-1, float("nan"), True, None, "1"):
            with pytest.raises(kufeed.UsageError, match="drain_timeout must be"):
                feed.open_handlers(drain_timeout=wrong)
        unopened = feed.open_handlers()
        for method in (unopened.start_soon, unopened.start):
            with pytest.raises(kufeed.UsageError, match="open the handlers first"):
                await as_async(method, Failing().inline, feed.trades("BTC-USDT"))
        async with feed.open_handlers() as handlers:
            for method in (handlers.start_soon, handlers.start):
                for wrong in (None, "print", generator, asynchronous_generator):
                    with pytest.raises(kufeed.UsageError, match="a handler is a function"):
                        await as_async(method, wrong, feed.trades("BTC-USDT"))
                for wrong in (0, -1, 1.0, True, None):
                    with pytest.raises(kufeed.UsageError, match="workers must be"):
                        await as_async(method, Failing().asynchronous, feed.trades("BTC-USDT"), workers=wrong)
                with pytest.raises(kufeed.UsageError, match="cannot have several workers"):
                    await as_async(method, Failing().inline, feed.trades("BTC-USDT"), workers=2)
            with pytest.raises(kufeed.UsageError, match="opened already"):
                async with handlers:
                    pass
        with pytest.raises(kufeed.UsageError, match="opened already"):
            async with handlers:
                pass
        with pytest.raises(kufeed.UsageError, match="open the handlers first"):
            handlers.start_soon(Failing().inline, feed.trades("BTC-USDT"))


async def as_async(method: Callable[..., Any], *args: Any, **options: Any) -> None:
    result = method(*args, **options)
    if result is not None:
        await result


@kinds
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_subscription_is_given_to_one_handler_and_not_entered(
    autojump_clock: MockClock, kind: str, workers: int
) -> None:
    if kind == "inline" and workers > 1:
        return
    async with quiet() as (_, feed), feed.open_handlers() as handlers, feed.trades("BTC-USDT") as entered:
        given = feed.trades("BTC-USDT")
        handlers.start_soon(Failing().of(kind), given, workers=workers)
        for one in (given, entered, entered.clone()):
            with pytest.raises(kufeed.UsageError, match="nobody has entered"):
                handlers.start_soon(Failing().of(kind), one, workers=workers)


async def test_handlers_can_be_printed(autojump_clock: MockClock) -> None:
    async with quiet() as (_, feed):
        handlers = feed.open_handlers()
        assert repr(handlers) == "<Handlers inert: 0 running>"
        async with handlers:
            await handlers.start(Failing().asynchronous, feed.trades("BTC-USDT"))
            await wait_all_tasks_blocked()
            assert repr(handlers) == "<Handlers open: 1 running>"
        assert repr(handlers) == "<Handlers left: 0 running>"


async def test_statistics_of_a_handler(autojump_clock: MockClock) -> None:
    async def handle(update: Trade) -> None:
        await trio.sleep(5.0 - (update.sequence or 0))

    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        handlers.start_soon(handle, feed.trades("BTC-USDT", buffer=5), name="sleeper")
        assert not handlers.statistics()[0].running
        await exchange.wait_subscribed("/market/match:BTC-USDT")
        await send(exchange, 2, 3)
        await trio.sleep(4)
        (counts,) = handlers.statistics()
        assert (counts.name, counts.running, counts.calls, counts.errors) == ("sleeper", True, 1, 0)
        assert counts.longest_call == pytest.approx(3)
        assert counts.queues[0].bound == 5
        await trio.sleep(2)
        (counts,) = handlers.statistics()
        assert (counts.calls, counts.longest_call) == (2, pytest.approx(3))


# -- cancellation -----------------------------------------------------------------------------------------------------


async def life(feed: kufeed.Feed, exchange: Exchange, handlers: kufeed.Handlers, subscriptions: list[Any]) -> None:
    """Handlers of every kind, one of which fails, over a lost link, up to the drain."""
    seen = Failing(7)

    async def handle_slowly(update: kufeed.Update) -> None:
        await trio.sleep(0.05)

    symbols = ("BTC-USDT", "ETH-USDT")
    subscriptions += [feed.trades(*symbols) for _ in range(5)]
    async with handlers:
        handlers.start_soon(handle_slowly, subscriptions[0])
        await handlers.start(seen.asynchronous, subscriptions[1])
        await handlers.start(seen.inline, subscriptions[2])
        handlers.start_soon(handle_slowly, subscriptions[3], workers=2)
        await handlers.start(lambda updates: None, subscriptions[4], batches=True)
        await exchange.play([trade(number, symbol) for number in range(10) for symbol in symbols])
        await exchange.disconnect_all()
        await exchange.wait_subscribed("/market/match:BTC-USDT")
        await exchange.play([trade(number) for number in range(10, 20)])


@pytest.mark.parametrize("start", [0, 7])
def test_wherever_a_block_is_cancelled_nothing_stays(start: int) -> None:
    """Every 13th step from *start* on, until the whole life fits in; Trio's order of tasks differs each time."""

    async def main(steps: int) -> bool:
        exchange = Exchange(live=False)
        async with MemoryNetwork(exchange) as network:
            async with kufeed.open_feed(FeedConfig(reconnect_delay=0.1), network=network) as feed:
                tasks = trio.lowlevel.current_statistics().tasks_living
                handlers = feed.open_handlers(on_error="isolate")
                subscriptions: list[kufeed.Subscription[Trade]] = []
                with trio.CancelScope() as scope:
                    trio.lowlevel.add_instrument(CancelAfter(steps, scope))
                    await life(feed, exchange, handlers, subscriptions)
                assert not any(one.running for one in handlers.statistics())
                queues = [queue for one in handlers.statistics() for queue in one.queues]
                assert all(law(queue) and queue.pending == 0 for queue in queues), queues
                assert not feed._pool._streams
                assert not feed._pool._entering
                await trio.sleep(feed.config.linger + 20)
                assert exchange.sessions == ()
                assert trio.lowlevel.current_statistics().tasks_living == tasks
        return scope.cancelled_caught

    steps = start + 1
    while trio.run(main, steps, clock=MockClock(autojump_threshold=0)):
        steps += 13
    assert steps > 200, "the life was expected to take more steps than that"
