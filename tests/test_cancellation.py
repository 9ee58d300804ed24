"""Cancelled at any step of its life a feed leaves nothing behind, and is out in time."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

import kufeed
from kufeed import FeedConfig
from kufeed.testing import Exchange, MemoryNetwork


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope after a number of task steps, wherever the run is by then."""

    def __init__(self, steps: int, scope: trio.CancelScope) -> None:
        self.left = steps
        self.scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


async def life(exchange: Exchange, network: MemoryNetwork) -> None:
    """Connect, stream, lose a link, come back, change, close."""
    async with kufeed.open_feed(FeedConfig(reconnect_delay=0.1), network=network, rng=random.Random(1)) as feed:
        async with feed.ticker("XBTUSDTM") as tickers, feed.trades("BTC-USDT") as trades:
            for _ in range(3):
                await tickers.receive()
                await trades.receive()
            await exchange.disconnect_all()
            await tickers.add("ETHUSDTM")
            await trades.receive()
            tickers.remove("XBTUSDTM")


async def life_of_a_book(exchange: Exchange, network: MemoryNetwork) -> None:
    """Keep a book on two links that are replaced, lose one, lose both, begin the book anew, close."""
    config = FeedConfig(reconnect_delay=0.1, rotate_after=3.0, redundancy=2)
    async with kufeed.open_feed(config, network=network, rng=random.Random(1)) as feed:
        async with feed.book("XBTUSDTM") as books:
            with feed.events() as events:
                replaced = 0
                async for event in events:
                    replaced += isinstance(event, kufeed.LinkReplaced)
                    if replaced == 2:
                        break
            exchange.sessions[0].cut()
            await books.receive()
            await exchange.disconnect_all()
            await feed.books["XBTUSDTM"].wait_ready()
            await books.receive()


EVERY = pytest.mark.long


@pytest.mark.parametrize(
    ("life", "start", "each"),
    [
        (life, 0, 7),
        (life_of_a_book, 0, 13),
        pytest.param(life, 0, 1, marks=EVERY),
        pytest.param(life_of_a_book, 0, 1, marks=EVERY),
    ],
)
def test_wherever_it_is_cancelled_nothing_stays(
    life: Callable[[Exchange, MemoryNetwork], Awaitable[None]], start: int, each: int
) -> None:
    """At one step of so many, until the whole life fits in; Trio's order of tasks differs each time."""

    async def main(steps: int) -> bool:
        exchange = Exchange()
        async with MemoryNetwork(exchange) as network:
            tasks = trio.lowlevel.current_statistics().tasks_living
            with trio.CancelScope() as scope:
                trio.lowlevel.add_instrument(CancelAfter(steps, scope))
                await life(exchange, network)
            await trio.sleep(0.001)
            assert exchange.sessions == ()
            assert trio.lowlevel.current_statistics().tasks_living == tasks
            assert trio.current_time() < 30
            return scope.cancelled_caught

    steps = start + 1
    while trio.run(main, steps, clock=MockClock(autojump_threshold=0)):
        steps += each
    assert steps > 200, "the life was expected to take more steps than that"


async def test_no_token_ever_reaches_a_log(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG, all libraries included, over connecting, failing and closing; nor a repr, nor an error's text."""
    exchange = Exchange()
    shown: list[str] = []
    with caplog.at_level(logging.DEBUG):
        async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
            async with feed.ticker("XBTUSDTM") as tickers:
                tokens = [exchange.sessions[0].token]
                shown += [repr(feed), feed.tree(), repr(feed.statistics()), repr(tickers)]
                shown += [repr(vars(connection)) for connection in feed._pool.connections]
                exchange.expire_tokens()
                await exchange.disconnect_all()
                await trio.sleep(5)
                tokens.append(exchange.sessions[0].token)
    assert all(len(token) > 20 for token in tokens)
    text = caplog.text + "".join(shown)
    assert "kufeed.connection" in text
    for token in tokens:
        assert token[:20] not in text
