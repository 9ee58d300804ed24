"""Signed requests: one asks for the exchange's clock, all use it, and each request is paid for in a turn of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kufeed import ClockOff, Feed, FeedConfig, RestBudget
from kufeed._budget import OTHER_LANE
from kufeed._requests import Requests
from kufeed._signing import Signer
from kufeed.testing import BookFault, Exchange, rest
from kufeed.testing.http import Where

from .bookish import QUIET, Watched, change_replies, check, skip_numbers, waiting, watched
from .test_fetch_book import SPOT, exchange_and_rest, requests

SYMBOLS = [f"T{number:04d}-USDT" for number in range(1, 21)]
TIME = "/api/v1/timestamp"


class Clockwork(Exchange):
    """Takes a second to tell the time, and refuses to so many times."""

    refuse = 0

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        change_replies(self, self._changed)

    def _changed(self, where: Where | None, reply: rest.Reply) -> rest.Reply:
        if where is None or where.path != TIME:
            return reply
        if self.refuse:
            self.refuse -= 1
            reply = rest.failure("500000", "Internal Server Error")
        return attrs.evolve(reply, delay=1.0)


@asynccontextmanager
async def signing() -> AsyncIterator[tuple[Clockwork, Feed, Watched]]:
    exchange = Clockwork(generated=20, book_levels=150, **QUIET)
    async with watched(exchange, FeedConfig(credentials=exchange.issue_credentials())) as (_, feed, network):
        yield exchange, feed, network


def clocks(network: Watched) -> int:
    return sum(one.path == TIME for one in network.requests)


def check_paid(network: Watched, books: int, times: int) -> None:
    """So much was asked for, and what was taken from the budget is what that weighs."""
    assert (network.books(), clocks(network)) == (books, times)
    spent = sum(rest.weight("spot", one.path) for one in network.requests)
    assert RestBudget.of_this_run().statistics().used == spent == 10 + 3 * books + 3 * times
    assert trio.current_time() < 30.0, "all of it is in one window"


async def test_first_requests_at_once_ask_for_the_clock_once(autojump_clock: MockClock) -> None:
    async with signing() as (exchange, feed, network), feed.book(*SYMBOLS, depth=120) as books:
        for symbol in SYMBOLS:
            await feed.books[symbol].wait_ready()
        for view in waiting(books):
            check(exchange, view, 120)
        check_paid(network, books=20, times=1)


async def test_a_clock_that_is_not_told_fails_only_who_asked(autojump_clock: MockClock) -> None:
    """The next one asks then."""
    async with signing() as (exchange, feed, network):
        exchange.refuse = 2
        async with feed.book(*SYMBOLS, depth=120):
            for symbol in SYMBOLS:
                await feed.books[symbol].wait_ready()
            assert sum(one.failed for one in feed.statistics().books) == 2
            check_paid(network, books=20, times=3)


async def test_who_is_cancelled_while_it_asks_for_the_clock_hands_over(autojump_clock: MockClock) -> None:
    async with signing() as (_, feed, network), AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        await first.enter_async_context(feed.book(SYMBOLS[0], depth=120))
        await wait_all_tasks_blocked()
        await stack.enter_async_context(feed.book(*SYMBOLS[1:6], depth=120))
        await trio.sleep(0.5)
        assert (network.books(), clocks(network)) == (0, 1)
        await first.aclose()
        for symbol in SYMBOLS[1:6]:
            await feed.books[symbol].wait_ready()
        check_paid(network, books=5, times=2)


async def test_all_who_failed_by_one_clock_ask_for_the_next_one_once(autojump_clock: MockClock) -> None:
    async with signing() as (exchange, feed, network), feed.book(*SYMBOLS[:8], depth=120):
        for symbol in SYMBOLS[:8]:
            await feed.books[symbol].wait_ready()
        network.ahead = 60.0
        for symbol in SYMBOLS[:8]:
            skip_numbers(exchange, symbol, 1)
            exchange.change_book(symbol)
        await wait_all_tasks_blocked()
        for symbol in SYMBOLS[:8]:
            await feed.books[symbol].wait_ready()
        assert {(one.seeds, one.failed) for one in feed.statistics().books} == {(2, 0)}
        check_paid(network, books=8 + 8 + 8, times=2)


async def test_who_fails_by_a_clock_that_others_have_replaced_asks_for_none(autojump_clock: MockClock) -> None:
    async with exchange_and_rest() as (exchange, rest, network):
        signer = Signer(Requests(10.0), exchange.issue_credentials())
        await signer.fetch_book(rest, SPOT, OTHER_LANE)
        network.ahead = 60.0
        exchange.faults.book = BookFault(delay=3.0, times=1)
        before = requests(exchange)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(signer.fetch_book, rest, SPOT, OTHER_LANE)
        assert requests(exchange) == before + 2 + 1 + 2


async def test_a_clock_that_was_set_is_learned_anew(autojump_clock: MockClock) -> None:
    async with exchange_and_rest() as (exchange, rest, network):
        signer = Signer(Requests(10.0), exchange.issue_credentials())
        await signer.fetch_book(rest, SPOT, OTHER_LANE)
        assert requests(exchange) == 2
        await signer.fetch_book(rest, SPOT, OTHER_LANE)
        assert requests(exchange) == 3
        network.ahead = -60.0
        assert (await signer.fetch_book(rest, SPOT, OTHER_LANE)).limit is None
        assert requests(exchange) == 3 + 3
        exchange.faults.clock_skew = 3600.0
        assert (await signer.fetch_book(rest, SPOT, OTHER_LANE)).limit is None
        assert requests(exchange) == 3 + 3 + 3


async def test_a_time_that_is_refused_twice_is_told(autojump_clock: MockClock) -> None:
    """And the clock is asked again by the next request."""
    async with exchange_and_rest() as (exchange, rest, _):
        signer = Signer(Requests(10.0), exchange.issue_credentials())
        exchange.faults.book = BookFault(error=("400002", "KC-API-TIMESTAMP Invalid"))
        with pytest.raises(ClockOff, match=r"level2: KC-API-TIMESTAMP Invalid \(code 400002\)") as error:
            await signer.fetch_book(rest, SPOT, OTHER_LANE)
        assert requests(exchange) == 4
        assert error.value.__context__ is None
        exchange.faults.book = None
        assert (await signer.fetch_book(rest, SPOT, OTHER_LANE)).limit is None
        assert requests(exchange) == 6
