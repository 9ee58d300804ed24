"""Order books over a feed: right or unreadable, whatever the exchange and the network do."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

import kufeed
from kufeed import (
    BookNotReady,
    Credentials,
    CredentialsRefused,
    Disconnected,
    FeedConfig,
    Gap,
    GapCause,
    OrderBook,
    Overflow,
    Resynced,
    UsageError,
)
from kufeed.testing import BookFault, Exchange

from .test_feed import asked, simulated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUIET: dict[str, Any] = {"live": False}
BOTH = ("BTC-USDT", "XBTUSDTM")


def check(exchange: Exchange, view: OrderBook) -> None:
    """The book is what the exchange's was at that sequence."""
    truth = exchange.book(view.symbol, view.sequence)
    assert view.bids == truth.bids[: len(view.bids)]
    assert view.asks == truth.asks[: len(view.asks)]


def wire(symbol: str) -> str:
    return str(kufeed.topic("book_delta", symbol))


async def views(books: Any, count: int) -> AsyncIterator[OrderBook]:
    for _ in range(count):
        yield await books.receive()


# -- the main job -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", BOTH)
async def test_each_view_is_the_exchanges_book_at_its_sequence(symbol: str, autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.book(symbol, depth=7) as books:
        first = await books.receive()
        assert type(first) is OrderBook
        assert (len(first.bids), len(first.asks)) == (7, 7)
        check(exchange, first)
        for _ in range(50):
            sequence = exchange.change_book(symbol, 3)
            await trio.sleep(0.1)
            view = await books.receive()
            assert view.sequence == sequence
            check(exchange, view)
        live = feed.books[symbol]
        assert live.sequence == view.sequence
        assert live.best_bid == view.best_bid
        assert live.top(7) == view
        assert list(live.bids)[:7] == list(view.bids)


async def test_a_live_market_of_both_kinds(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    async with simulated(exchange) as (_, feed), feed.book(*BOTH, "ETH-USDT") as books:
        seen: dict[str, int] = {}
        while min(seen.values(), default=0) < 30 or len(seen) < 3:
            view = await books.receive()
            check(exchange, view)
            assert len(view.bids) == len(view.asks) == 20
            assert seen.get(view.symbol, -1) < view.sequence
            seen[view.symbol] = view.sequence
        assert {one.symbol: one.state for one in feed.statistics().books} == dict.fromkeys(seen, "live")
        assert all(one.breaks == 0 for one in feed.statistics().books)
