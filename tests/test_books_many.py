"""A thousand order books inside the budget of REST, and books that are cancelled at any step."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import kufeed
from kufeed import FeedConfig, RestBudget
from kufeed.testing import Exchange, MemoryNetwork, rest

from .bookish import QUIET, Watched, check, skip_numbers, waiting, watched, wire
from .test_cancellation import CancelAfter


def weight_of(network: Watched, position: int) -> int:
    one = network.requests[position]
    return rest.weight("futures" if "-" not in one.symbol else "spot", one.path)


def heaviest_window(network: Watched) -> int:
    """The most weight that was asked for in any 30 s."""
    weights = [weight_of(network, position) for position in range(len(network.requests))]
    heaviest = 0
    start = total = 0
    for position, one in enumerate(network.requests):
        total += weights[position]
        while network.requests[start].at <= one.at - 30.0:
            total -= weights[start]
            start += 1
        heaviest = max(heaviest, total)
    return heaviest


async def test_a_thousand_books_begin_anew_inside_the_budget(autojump_clock: MockClock) -> None:
    """All of them lose their connections; the exchange refuses nothing, and all are right in the end."""
    futures = [f"T{number:04d}USDTM" for number in range(1, 301)]
    spot = [f"T{number:04d}-USDT" for number in range(1, 701)]
    exchange = Exchange(generated=700, book_levels=40, **QUIET)
    config = FeedConfig(reconnect_delay=0.1, max_reconnect_delay=0.5)
    async with watched(exchange, config) as (_, feed, network):
        async with feed.book(*futures, *spot, depth=5) as books:
            started = trio.current_time()
            for symbol in (*futures, *spot):
                await feed.books[symbol].wait_ready()
            assert trio.current_time() - started < 61.0, "2,300 of weight are more than one window has"
            for view in waiting(books):
                check(exchange, view, 5)
            await exchange.disconnect_all()
            await wait_all_tasks_blocked()
            assert {one.state for one in feed.statistics().books} == {"waiting"}
            for symbol in (*futures, *spot):
                await feed.books[symbol].wait_ready()
            assert {one.state for one in feed.statistics().books} == {"live"}
            for symbol in (*futures[::50], *spot[::50]):
                exchange.change_book(symbol)
            await wait_all_tasks_blocked()
            seen = waiting(books)
            assert len({view.symbol for view in seen}) == 1000
            for view in seen:
                check(exchange, view, 5)
            assert sum(one.failed + one.unfit for one in feed.statistics().books) == 0
        assert heaviest_window(network) <= 2000


async def test_tokens_go_before_the_snapshots_that_wait_already(autojump_clock: MockClock) -> None:
    """Without a token a whole connection streams nothing."""
    spot = [f"T{number:04d}-USDT" for number in range(1, 21)]
    async with watched(Exchange(generated=20, book_levels=40, **QUIET), FeedConfig(reconnect_delay=0.1)) as (
        exchange,
        feed,
        network,
    ):
        async with feed.book(*spot), feed.book("XBTUSDTM") as future:
            await trio.sleep(31.0)
            waiting(future)
            budget = RestBudget.of_this_run()
            most = await budget.acquire(1980)
            little = [await budget.acquire(2) for _ in range(10)]  # all that is left
            for symbol in spot:
                skip_numbers(exchange, symbol, 1)
                exchange.change_book(symbol)
            await wait_all_tasks_blocked()
            (session,) = [one for one in exchange.sessions if one.market == "futures"]
            await session.disconnect()
            await trio.sleep(1.0)
            before = len(network.requests)
            for permit in little:  # what a token needs comes back in pieces that a snapshot could have
                permit.release()
                await trio.sleep(1.0)
            await trio.sleep(30.0)
            asked = network.requests[before:]
            assert [bool(one.symbol) for one in asked] == [False, *[True] * 5]
            most.release()
            check(exchange, await future.receive(), 20)
            for symbol in spot:
                await feed.books[symbol].wait_ready()


# -- cancellation -----------------------------------------------------------------------------------------------------


async def entering(exchange: Exchange, feed: kufeed.Feed) -> None:
    """Two markets, a link that is shared and one that is not."""
    async with feed.book("XBTUSDTM", "BTC-USDT") as books:
        await books.receive()
        async with feed.book("XBTUSDTM", overflow="block") as every:
            await every.receive()
            await books.add("ETH-USDT")


async def resyncing(exchange: Exchange, feed: kufeed.Feed) -> None:
    """A hole, a cut, and each time the way back."""
    async with feed.book("XBTUSDTM") as books, feed.book("XBTUSDTM", overflow="block", buffer=1) as every:
        await books.receive()
        skip_numbers(exchange, "XBTUSDTM", 2)
        exchange.change_book("XBTUSDTM", 3)
        await books.receive()
        await exchange.disconnect_all()
        await books.receive()
        for _ in range(2):
            await every.receive()


@pytest.mark.parametrize("life", [entering, resyncing])
@pytest.mark.parametrize("start", [0, 7])
def test_wherever_it_is_cancelled_nothing_stays(life: object, start: int) -> None:
    """The books are gone, their tasks have ended, nothing stays subscribed, and the feed is out in time."""

    async def main(steps: int) -> bool:
        exchange = Exchange(live=False)
        async with MemoryNetwork(exchange) as network:
            tasks = trio.lowlevel.current_statistics().tasks_living
            config = FeedConfig(reconnect_delay=0.1, linger=1000.0)
            async with kufeed.open_feed(config, network=network, rng=random.Random(1)) as feed:
                with trio.CancelScope() as scope:
                    instrument = CancelAfter(steps, scope)
                    trio.lowlevel.add_instrument(instrument)
                    await life(exchange, feed)  # type: ignore[operator]
                trio.lowlevel.remove_instrument(instrument)
                assert not feed.books
                assert feed.statistics().books == ()
                await trio.sleep(3.0)  # a link that was being made is there by then, and what was asked is unsubscribed
                assert "book " not in feed.tree().replace("books", "")
                assert all(not session.topics for session in exchange.sessions)
                assert feed._books._exclusive == {}
                async with feed.book("XBTUSDTM") as books:
                    check(exchange, await books.receive(), 20)
                leaving = trio.current_time()
            assert trio.current_time() <= leaving + config.close_timeout
            await trio.sleep(0.001)
            assert exchange.sessions == ()
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            return scope.cancelled_caught

    steps = start + 1
    while trio.run(main, steps, clock=MockClock(autojump_threshold=0)):
        steps += 13
    assert steps > 150, "the life was expected to take more steps than that"


def test_a_feed_that_is_cancelled_while_books_begin_anew_is_out_in_time() -> None:
    """Many snapshots wait for their turn, some for an answer that does not come."""

    async def main() -> None:
        exchange = Exchange(generated=60, book_levels=40, live=False)
        exchange.faults.book = kufeed.testing.BookFault(delay=1000.0)
        symbols = [f"T{number:04d}USDTM" for number in range(1, 61)]
        async with MemoryNetwork(exchange) as network:
            tasks = trio.lowlevel.current_statistics().tasks_living
            with trio.move_on_after(5.0):
                async with kufeed.open_feed(network=network, rng=random.Random(1)) as feed, feed.book(*symbols):
                    await exchange.wait_subscribed(*map(wire, symbols))
                    await trio.sleep_forever()
            assert trio.current_time() <= 5.0 + 2.0
            await trio.sleep(0.001)
            assert exchange.sessions == ()
            await trio.sleep(1000.0)  # the exchange notices that nobody waits for its answers
            assert trio.lowlevel.current_statistics().tasks_living == tasks

    trio.run(main, clock=MockClock(autojump_threshold=0))
