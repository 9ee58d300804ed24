"""Programs that use a feed as its documentation says, in many ways: nothing that a fault plan does may fool them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import trio

import kufeed
from kufeed import Feed, FeedConfig, KufeedError, Overflow, Subscription
from kufeed.testing import Exchange

SYMBOLS = ("XBTUSDTM", "BTC-USDT", "ETH-USDT", "ETHUSDTM")
SETTLE = 180.0
"""Seconds after the last fault within which every stream is live again: a dead stream is looked into once a minute."""

CALM = 2.0
"""Seconds that it goes on after that."""

Make = Callable[[], Subscription[Any]]


@attrs.frozen(repr=False)
class Program:
    """One that is drawn by a seed: how its feed is configured, what it subscribes to, and how it consumes it."""

    config: FeedConfig
    consumers: tuple[Callable[[Feed], Awaitable[None]], ...]
    market: dict[str, Any]
    label: str

    def __repr__(self) -> str:
        return self.label

    def exchange(self) -> Exchange:
        """One for it."""
        return Exchange(ledger=True, **self.market)

    async def __call__(self) -> None:
        async with kufeed.open_feed(self.config) as feed, trio.open_nursery() as nursery:
            for consumer in self.consumers:
                nursery.start_soon(consumer, feed)


def program(seed: int) -> Program:
    """The same for the same *seed*."""
    rng = random.Random(f"program {seed}")
    servers = rng.choice((1, 1, 2))
    config = FeedConfig(
        reconnect_delay=rng.choice((0.1, 0.5)),
        max_reconnect_delay=rng.choice((1.0, 4.0)),
        max_reconnect_attempts=None,
        circuit_cooldown=5.0,
        connect_timeout=4.0,
        ack_timeout=2.0,
        stale_after=rng.choice((4.0, 8.0)),
        healthy_after=5.0,
        linger=1.0,
        redundancy=rng.choice((1, 1, 1, 2)),
        rotate_after=rng.choice((23 * 3600.0, 23 * 3600.0, 15.0)),
    )
    market = {
        "seed": seed,
        "update_interval": rng.choice((1.0, 1.0, 0.5)),
        "ping_interval": 4.0,
        "ping_timeout": 2.0,
        "instance_servers": servers,
    }
    chosen = [rng.choice(CONSUMERS) for _ in range(rng.randint(1, 3))]
    consumers = tuple(partial(consumer, symbols=tuple(rng.sample(SYMBOLS, rng.randint(1, 2)))) for consumer in chosen)
    return Program(config, consumers, market, f"program({seed})")


async def follow(make: Make, consume: Callable[[Subscription[Any]], Awaitable[None]]) -> None:
    """Keep a subscription, whatever happens to it: enter it again where that failed, iterate again where that did."""
    while True:
        try:
            async with make() as subscription:
                while True:
                    try:
                        await consume(subscription)
                    except KufeedError:
                        continue
                    else:
                        return  # every stream of it has ended
        except KufeedError:
            await trio.sleep(1.0)


async def plainly(subscription: Subscription[Any]) -> None:
    async for _ in subscription:
        pass


async def slowly(subscription: Subscription[Any]) -> None:
    async for _ in subscription:
        await trio.sleep(0.7)


async def with_events(subscription: Subscription[Any]) -> None:
    async for _ in subscription.with_events():
        pass


async def in_batches(subscription: Subscription[Any]) -> None:
    async for _ in subscription.batches(50):
        await trio.sleep(0.1)


async def tickers(feed: Feed, symbols: tuple[str, ...]) -> None:
    await follow(lambda: feed.ticker(*symbols), plainly)


async def slow_tickers(feed: Feed, symbols: tuple[str, ...]) -> None:
    await follow(lambda: feed.ticker(*symbols, changes_only=True), slowly)


async def trades(feed: Feed, symbols: tuple[str, ...]) -> None:
    await follow(lambda: feed.trades(*symbols), with_events)


async def few_trades(feed: Feed, symbols: tuple[str, ...]) -> None:
    await follow(lambda: feed.trades(*symbols, buffer=3), slowly)


async def blocking_trades(feed: Feed, symbols: tuple[str, ...]) -> None:
    await follow(lambda: feed.trades(*symbols, overflow=Overflow.BLOCK, buffer=4), slowly)


async def recovered_trades(feed: Feed, symbols: tuple[str, ...]) -> None:
    await follow(lambda: feed.trades(*symbols, backfill=True), plainly)


async def deltas(feed: Feed, symbols: tuple[str, ...]) -> None:
    await follow(lambda: feed.book_deltas(*symbols), with_events)


async def few_deltas(feed: Feed, symbols: tuple[str, ...]) -> None:
    await follow(lambda: feed.book_deltas(*symbols, buffer=2), in_batches)


async def books(feed: Feed, symbols: tuple[str, ...]) -> None:
    await follow(lambda: feed.book(*symbols), with_events)


async def slow_books(feed: Feed, symbols: tuple[str, ...]) -> None:
    await follow(lambda: feed.book(*symbols, depth=5), slowly)


async def mixed(feed: Feed, symbols: tuple[str, ...]) -> None:
    futures = tuple(symbol for symbol in symbols if "-" not in symbol)
    topics = [kufeed.topic("trade", symbol) for symbol in symbols]
    topics += [kufeed.topic("mark_price", symbol) for symbol in futures]
    topics += [kufeed.topic("candle", symbol, interval="1min") for symbol in symbols]
    await follow(lambda: feed.subscribe(*topics), with_events)


async def depths(feed: Feed, symbols: tuple[str, ...]) -> None:
    await follow(lambda: feed.depth(*symbols, levels=5), plainly)


async def everything_spot(feed: Feed, symbols: tuple[str, ...]) -> None:
    await follow(lambda: feed.all_tickers(), plainly)


async def inline(feed: Feed, symbols: tuple[str, ...]) -> None:
    await handled(feed, lambda _: None, lambda: feed.trades(*symbols))


async def in_a_handler(feed: Feed, symbols: tuple[str, ...]) -> None:
    async def handle(_: object) -> None:
        await trio.sleep(0.05)

    await handled(feed, handle, lambda: feed.trades(*symbols))


async def handled(feed: Feed, fn: Any, make: Make) -> None:
    while True:
        try:
            async with feed.open_handlers(on_error="isolate") as handlers:
                await handlers.start(fn, make())
                await trio.sleep_forever()
        except KufeedError:
            await trio.sleep(1.0)


CHANGING: dict[str, tuple[str, Callable[..., Subscription[Any]], float]] = {
    "XBTUSDTM": ("ticker", Feed.ticker, 3.0),
    "BTC-USDT": ("trade", Feed.trades, 0.3),
    "ETH-USDT": ("book_delta", Feed.book_deltas, 0.3),
    "ETHUSDTM": ("trade", Feed.trades, 3.0),
}


async def coming_and_going(feed: Feed, symbols: tuple[str, ...]) -> None:
    """A symbol is removed and added while all goes on: of which kind, its symbols say."""
    kind, make, pause = CHANGING[symbols[0]]

    async def change(subscription: Subscription[Any]) -> None:
        try:
            for number in range(6):
                await trio.sleep(pause if number % 2 else 3.0)
                if number % 2:
                    await subscription.add("ETH-USDT")
                elif kufeed.topic(kind, "ETH-USDT") in subscription.topics:
                    subscription.remove("ETH-USDT")
        except (KufeedError, trio.ClosedResourceError):
            pass

    async def consume(subscription: Subscription[Any]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change, subscription)
            with suppress(KufeedError):
                await plainly(subscription)
            nursery.cancel_scope.cancel()

    await follow(lambda: make(feed, "BTC-USDT", "ETH-USDT"), consume)


async def without_waiting(feed: Feed, symbols: tuple[str, ...]) -> None:
    """It is entered at once, and what is refused is told."""
    await follow(lambda: feed.trades(*symbols, wait="none", on_reject="skip"), with_events)


CONSUMERS = (
    tickers,
    slow_tickers,
    trades,
    few_trades,
    blocking_trades,
    recovered_trades,
    deltas,
    few_deltas,
    books,
    slow_books,
    mixed,
    depths,
    everything_spot,
    inline,
    in_a_handler,
    coming_and_going,
    without_waiting,
)
