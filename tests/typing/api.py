"""Only type-checked, never run: `scripts/check types` runs `mypy --strict tests/typing`.

What a user writes is accepted, with the types that a user expects. What is wrong is refused: each wrong line is marked
with the error that it must give, and mypy complains about a mark that is not needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, assert_type

import trio

import kufeed
from kufeed import Feed, Handlers, StreamEvent, Subscription, Ticker, Trade, Update

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# -- subscriptions ----------------------------------------------------------------------------------------------------


async def iterate(feed: Feed) -> None:
    async with feed.ticker("XBTUSDTM", "BTC-USDT") as tickers:
        assert_type(tickers, Subscription[Ticker])
        async for ticker in tickers:
            assert_type(ticker, Ticker)
            assert_type(ticker.bid, Decimal | None)
            assert_type(ticker.latency, float | None)
            print(ticker.side)  # type: ignore[attr-defined]  # a trade has one
        assert_type(await tickers.receive(), Ticker)
        assert_type(tickers.receive_nowait(), Ticker)
        with tickers.clone() as clone:
            assert_type(clone, Subscription[Ticker])
        async for batch in tickers.batches(max_size=10):
            assert_type(batch, list[Ticker])
        async for item in tickers.with_events():
            assert_type(item, Ticker | StreamEvent)
            if isinstance(item, kufeed.Gap):
                assert_type(item.cause, kufeed.GapCause)
        assert_type(tickers.statistics(), kufeed.QueueStatistics)
    async with feed.trades("XBTUSDTM", overflow=kufeed.Overflow.RAISE, buffer=10) as trades:
        async for trade in trades:
            assert_type(trade, Trade)
    async with feed.subscribe(kufeed.topic("ticker", "XBTUSDTM")) as updates:
        async for update in updates:
            assert_type(update, Update)
            assert_type(update.gap_before, kufeed.Gap | None)
            if isinstance(update, Ticker):
                assert_type(update.ask, Decimal | None)


def wrong_subscriptions(feed: Feed) -> None:
    feed.ticker(1)  # type: ignore[arg-type]
    feed.ticker(["XBTUSDTM", "ETHUSDTM"])  # type: ignore[arg-type]
    feed.trades("XBTUSDTM", buffer="10")  # type: ignore[arg-type]
    feed.trades("XBTUSDTM", overflow=1)  # type: ignore[arg-type]
    feed.subscribe("XBTUSDTM")  # type: ignore[arg-type]
    trades: Subscription[Trade] = feed.ticker("XBTUSDTM")  # type: ignore[assignment]
    del trades


# -- handlers ---------------------------------------------------------------------------------------------------------


async def on_ticker(ticker: Ticker) -> None: ...


async def on_trade(trade: Trade) -> None: ...


async def on_update(update: Update) -> None: ...


async def on_tickers(tickers: list[Ticker]) -> None: ...


async def on_updates(updates: Sequence[Update]) -> None: ...


async def changes_updates(updates: list[Update]) -> None: ...


def inline_ticker(ticker: Ticker) -> None: ...


def inline_trade(trade: Trade) -> None: ...


def inline_tickers(tickers: list[Ticker]) -> None: ...


async def returns_a_result(ticker: Ticker) -> int:
    return 1


async def on_two(first: Ticker, second: Ticker) -> None: ...


async def generates(ticker: Ticker) -> AsyncIterator[None]:
    yield


class Strategy:
    async def on_ticker(self, ticker: Ticker) -> None: ...

    async def __call__(self, ticker: Ticker) -> None: ...


async def handle(feed: Feed, channel: trio.MemorySendChannel[Ticker]) -> None:
    tickers, trades = feed.ticker("XBTUSDTM"), feed.trades("XBTUSDTM")
    seen: list[Ticker] = []
    async with feed.open_handlers() as handlers:
        assert_type(handlers, Handlers)
        handlers.start_soon(on_ticker, tickers)
        handlers.start_soon(on_update, tickers)
        handlers.start_soon(on_trade, trades, workers=4, name="trades")
        handlers.start_soon(inline_ticker, tickers)
        handlers.start_soon(on_tickers, tickers, batches=True)
        handlers.start_soon(on_updates, tickers, batches=True)
        handlers.start_soon(inline_tickers, tickers, batches=True)
        handlers.start_soon(Strategy().on_ticker, tickers)
        handlers.start_soon(Strategy(), tickers)
        handlers.start_soon(returns_a_result, tickers)
        handlers.start_soon(seen.append, tickers)
        handlers.start_soon(seen.extend, tickers, batches=True)
        handlers.start_soon(channel.send, tickers)
        handlers.start_soon(channel.send_nowait, tickers)
        handlers.start_soon(lambda ticker: print(ticker.bid), tickers)
        handlers.start_soon(print, tickers)
        await handlers.start(on_ticker, tickers)
        await handlers.start(on_tickers, tickers, batches=True)
        for counts in handlers.statistics():
            assert_type(counts, kufeed.HandlerStatistics)


async def handle_wrongly(feed: Feed, handlers: Handlers) -> None:
    tickers, trades = feed.ticker("XBTUSDTM"), feed.trades("XBTUSDTM")
    updates = feed.subscribe(kufeed.topic("ticker", "XBTUSDTM"))
    handlers.start_soon(on_trade, tickers)  # type: ignore[arg-type]
    handlers.start_soon(on_ticker, trades)  # type: ignore[arg-type]
    handlers.start_soon(on_ticker, updates)  # type: ignore[arg-type]
    handlers.start_soon(inline_trade, tickers)  # type: ignore[arg-type]
    handlers.start_soon(on_ticker, tickers, batches=True)  # type: ignore[call-overload]
    handlers.start_soon(on_tickers, tickers)  # type: ignore[arg-type]
    handlers.start_soon(inline_tickers, tickers)  # type: ignore[arg-type]
    handlers.start_soon(changes_updates, tickers, batches=True)  # type: ignore[call-overload]  # it might add others
    handlers.start_soon(on_two, tickers)  # type: ignore[arg-type]
    handlers.start_soon(generates, tickers)  # type: ignore[arg-type]
    handlers.start_soon(on_ticker(await tickers.receive()), tickers)  # type: ignore[call-overload]
    handlers.start_soon(on_ticker, "XBTUSDTM")  # type: ignore[call-overload]
    handlers.start_soon(on_ticker, tickers, workers="2")  # type: ignore[call-overload]
    handlers.start_soon(lambda ticker: print(ticker.side), tickers)  # type: ignore[attr-defined]
    await handlers.start(on_trade, tickers)  # type: ignore[arg-type]
    await handlers.start(on_ticker, tickers, batches=True)  # type: ignore[call-overload]


# -- policies ---------------------------------------------------------------------------------------------------------


def decide(error: Exception, name: str) -> Literal["isolate", "propagate"]:
    return "isolate" if name else "propagate"


def decide_anything(error: Exception, name: str) -> str:
    return "isolate"


def decide_without_name(error: Exception) -> Literal["isolate"]:
    return "isolate"


async def decide_later(error: Exception, name: str) -> Literal["isolate"]:
    return "isolate"


class Persistent:
    """A nursery-like of a user's own, which has inherited nothing."""

    def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None: ...


class NoNursery:
    def start(self, async_fn: Callable[..., Awaitable[object]]) -> None: ...


@asynccontextmanager
async def open_persistent() -> AsyncIterator[Persistent]:
    yield Persistent()


async def policies(feed: Feed) -> None:
    feed.open_handlers(on_error="isolate")
    feed.open_handlers(on_error="restart", restarts_per_minute=3, drain_timeout=0.5)
    feed.open_handlers(on_error=decide)
    feed.open_handlers(on_error=lambda error, name: "isolate")
    async with trio.open_nursery() as nursery, open_persistent() as persistent:
        feed.open_handlers(handler_nursery=nursery)
        feed.open_handlers(handler_nursery=persistent)


def wrong_policies(feed: Feed) -> None:
    feed.open_handlers(on_error="explode")  # type: ignore[arg-type]
    feed.open_handlers(on_error=decide_anything)  # type: ignore[arg-type]
    feed.open_handlers(on_error=decide_without_name)  # type: ignore[arg-type]
    feed.open_handlers(on_error=decide_later)  # type: ignore[arg-type]
    feed.open_handlers(handler_nursery=NoNursery())  # type: ignore[arg-type]
    feed.open_handlers(handler_nursery=open_persistent())  # type: ignore[arg-type]


# -- the rest ---------------------------------------------------------------------------------------------------------


async def main() -> None:
    async with kufeed.open_feed(kufeed.FeedConfig(reconnect_delay=0.5)) as feed:
        assert_type(feed, Feed)
        await iterate(feed)


def sign() -> None:
    credentials = kufeed.Credentials.from_env()
    assert_type(credentials.key, str)
    kufeed.FeedConfig(credentials=credentials)
    kufeed.FeedConfig(credentials="key")  # type: ignore[arg-type]
    kufeed.Credentials("key", "secret")  # type: ignore[call-arg]
    credentials.key = "other"  # type: ignore[misc]
