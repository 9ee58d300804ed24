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


class SubGroup(ExceptionGroup[Exception]):
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
        await trio.sleep(1)
        assert seen == [[1], [2, 3, 4, 5, 6, 7, 8, 9]]


async def test_an_inline_handler_gets_what_one_read_brought_in_batches(autojump_clock: MockClock) -> None:
    seen: list[list[int | None]] = []
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        subscription = feed.trades("BTC-USDT")
        await handlers.start(
            lambda trades: seen.append([one.sequence for one in trades]), subscription, batches=True, name="noting"
        )
        await send(exchange, *range(10))
        assert sum(seen, []) == list(range(10))
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
        await trio.sleep(200)
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
    class Callable_:
        async def __call__(self, update: Trade) -> None:
            seen.append(update.sequence)

    async def handle(_: str, update: Trade) -> None:
        seen.append(update.sequence)

    seen: list[int | None] = []
    async with quiet() as (exchange, feed), feed.open_handlers() as handlers:
        await handlers.start(Callable_(), feed.trades("BTC-USDT"))
        await handlers.start(partial(handle, "first"), feed.trades("BTC-USDT"))
        await handlers.start(partial(Callable_()), feed.trades("BTC-USDT"))
        await send(exchange, 7)
        assert seen == [7, 7, 7]
        assert [one.name for one in handlers.statistics()] == ["Callable_", "partial", "partial"]


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
                with pytest.raises(kufeed.UsageError, match="left while handler Failing.asynchronous was being started"):
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
            await handlers.start(Failing(*range(100), error=error).of(kind), feed.trades("BTC-USDT"))
        async with feed.trades("BTC-USDT") as trades:
            await send(exchange, *range(100))
            assert other.seen == first.seen == [one.sequence for one in await trades.batches().__anext__()]
            assert other.seen == list(range(100))
        assert all(one.errors == 100 for one in handlers.statistics()[2:])
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
        with pytest.raises(BaseException) as raised:  # noqa: PT011
            async with feed.open_handlers() as handlers:
                await handlers.start(Failing(1, error=error).of(kind), feed.trades("BTC-USDT"))
                await send(exchange, 1)
                await trio.sleep_forever()
        assert raised.value is error
        assert len(exchange.dials) == 1


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
        with pytest.raises(ExceptionGroup) as raised:
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

        with pytest.raises(ExceptionGroup) as raised:
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
        with pytest.raises(ExceptionGroup) as raised:
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
        for error in (Bodys(), SubGroup("of the body's own", [Bodys()]), SystemExit(), StopAsyncIteration(), StopIteration()):
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


async def test_a_plain_function_that_returns_a_coroutine_is_told_so(autojump_clock: MockClock) -> None:
    async def handle(update: Trade) -> None:
        pytest.fail("nobody awaits it")

    async with quiet() as (exchange, feed):
        with pytest.raises(kufeed.UsageError, match="make the handler itself an async def"):
            async with feed.open_handlers() as handlers:
                await handlers.start(lambda update: handle(update), feed.trades("BTC-USDT"))
                await send(exchange, 1)
                await trio.sleep_forever()


@kinds
async def test_an_error_before_the_block_is_ready_is_not_lost(autojump_clock: MockClock, kind: str) -> None:
    """One symbol streams while another is not acknowledged: `start()` of an inline handler raises what it raised."""
    async with quiet() as (exchange, feed):
        exchange.faults.ignore_topics = {"/market/match:ETH-USDT"}
        handler = Failing(1)
        with pytest.raises(Mine if kind == "inline" else kufeed.SubscriptionTimeout):
            async with feed.open_handlers() as handlers, trio.open_nursery() as nursery:

                @nursery.start_soon
                async def play() -> None:
                    await exchange.wait_subscribed("/market/match:BTC-USDT")
                    await exchange.play([trade(1)])

                try:
                    await handlers.start(handler.of(kind), feed.trades("BTC-USDT", "ETH-USDT"))
                except (Mine, kufeed.SubscriptionTimeout) as error:
                    found = error
                else:
                    pytest.fail("it was not acknowledged")
        # flake8-async: groups of the nursery above are of the test's own making
        raise found
