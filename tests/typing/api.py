"""Only type-checked, never run: `scripts/check types` runs `mypy --strict tests/typing`.

What a user writes is accepted, with the types that a user expects. What is wrong is refused: each wrong line is marked
with the error that it must give, and mypy complains about a mark that is not needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, assert_type

import trio

import kufeed
from kufeed import (
    Announcement,
    BookChange,
    BookDelta,
    BookStatistics,
    CallAuction,
    CallAuctionDepth,
    Candle,
    ConnectionStatistics,
    Delisted,
    Depth,
    Disconnected,
    Dropped,
    Feed,
    FeedStatistics,
    FundingRate,
    Gap,
    Halted,
    Handlers,
    HandlerStatistics,
    IndexPrice,
    Level,
    Level1,
    LiveBook,
    LiveBooks,
    MarkPrice,
    OrderBook,
    QueueStatistics,
    Restored,
    Resynced,
    Side,
    SlowConsumer,
    Stale,
    StaleStream,
    Stats24h,
    StreamEvent,
    Subscription,
    Ticker,
    Topic,
    Trade,
    Update,
    UpdateType,
    testing,
)
from kufeed.testing import Exchange, FaultPlan, faults, strategies
from kufeed.testing.machine import Consumer, FeedMachine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hypothesis import strategies as st


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
    feed.depth("XBTUSDTM", levels=50, overflow="latest", buffer=None, changes_only=True)
    feed.candles("XBTUSDTM", interval="1min", changes_only=False)
    feed.book("XBTUSDTM", on_reject="skip", wait="none")
    feed.ticker("XBTUSDTM", on_reject=None, wait="acks")
    feed.ticker("XBTUSDTM", on_reject="ignore")  # type: ignore[arg-type]
    feed.ticker("XBTUSDTM", wait="forever")  # type: ignore[arg-type]
    options: kufeed.SubscriptionOptions = {"buffer": 10, "changes_only": True}
    assert_type(feed.level1("BTC-USDT", **options), Subscription[kufeed.Level1])
    async with feed.subscribe(kufeed.topic("ticker", "XBTUSDTM"), changes_only=True) as updates:
        async for update in updates:
            assert_type(update, Update)
            assert_type(update.gap_before, kufeed.Gap | None)
            if isinstance(update, Ticker):
                assert_type(update.ask, Decimal | None)


def look(feed: Feed) -> None:
    assert_type(feed.latest(kufeed.topic("ticker", "XBTUSDTM")), kufeed.Latest | None)
    if (latest := feed.latest(kufeed.topic("ticker", "XBTUSDTM"))) is not None:
        assert_type(latest.update, Update)
        assert_type(latest.age, float)
        latest.age = 0.0  # type: ignore[misc]


async def watch(feed: Feed) -> None:
    assert_type(feed.state, kufeed.FeedState)
    assert_type(await feed.wait_state("live", kufeed.FeedState.DOWN), kufeed.FeedState)
    assert_type(feed.events(buffer=10), kufeed.FeedEvents)
    feed.state = "live"  # type: ignore[misc, assignment]


async def read(events: kufeed.FeedEvents) -> None:
    with events as same:
        assert_type(same, kufeed.FeedEvents)
    assert_type(events.missed, int)
    assert_type(events.closed, bool)
    assert_type(await events.receive(), kufeed.FeedEvent)
    assert_type(events.receive_nowait(), kufeed.FeedEvent)
    assert_type(events.close(), None)
    async for event in events:
        assert_type(event, kufeed.FeedEvent)
        match event:
            case kufeed.StateChanged(state, before):
                assert_type((state, before), tuple[kufeed.FeedState, kufeed.FeedState])


def every_kind(feed: Feed) -> None:
    assert_type(feed.ticker("BTC-USDT", overflow="latest", buffer=1), Subscription[Ticker])
    assert_type(feed.all_tickers(overflow="block", buffer=1), Subscription[Ticker])
    assert_type(feed.trades("BTC-USDT"), Subscription[Trade])
    assert_type(feed.trades("BTC-USDT", backfill=True, buffer=10), Subscription[Trade])
    assert_type(feed.level1("BTC-USDT"), Subscription[Level1])
    assert_type(feed.depth("BTC-USDT", levels=50), Subscription[Depth])
    assert_type(feed.book_deltas("BTC-USDT"), Subscription[BookDelta])
    assert_type(feed.book("BTC-USDT", "XBTUSDTM", depth=7, overflow="block", buffer=1), Subscription[OrderBook])
    assert_type(feed.books, LiveBooks)
    assert_type(feed.mark_price("XBTUSDTM"), Subscription[MarkPrice])
    assert_type(feed.index_price("XBTUSDTM"), Subscription[IndexPrice])
    assert_type(feed.funding_rate("XBTUSDTM"), Subscription[FundingRate])
    assert_type(feed.candles("XBTUSDTM", interval="1min"), Subscription[Candle])
    assert_type(feed.stats_24h("XBTUSDTM"), Subscription[Stats24h])
    assert_type(feed.announcements("XBTUSDTM"), Subscription[Announcement])
    assert_type(feed.call_auction("BTC-USDT"), Subscription[CallAuction])
    assert_type(feed.call_auction_depth("BTC-USDT"), Subscription[CallAuctionDepth])
    assert_type(feed.subscribe(kufeed.topic(UpdateType.DEPTH, "BTC-USDT", levels=5)), Subscription[Update])
    assert_type(feed.open_handlers(), Handlers)
    assert_type(feed.statistics(), FeedStatistics)
    assert_type(feed.tree(), str)
    assert_type(feed.reset(), None)


async def every_method(trades: Subscription[Trade]) -> None:
    assert_type(await trades.receive(), Trade)
    assert_type(trades.receive_nowait(), Trade)
    assert_type([batch async for batch in trades.batches()], list[list[Trade]])
    assert_type([item async for item in trades.with_events()], list[Trade | StreamEvent])
    assert_type(trades.clone(), Subscription[Trade])
    assert_type(await trades.add("ETH-USDT"), None)
    assert_type(trades.remove("ETH-USDT"), None)
    assert_type(trades.close(), None)
    assert_type(trades.topics, tuple[Topic, ...])
    assert_type(trades.refused, Mapping[Topic, kufeed.SubscriptionRejected])
    assert_type(await trades.wait_acked(), None)
    assert_type(trades.statistics(), QueueStatistics)


# -- records ----------------------------------------------------------------------------------------------------------


def any_update(update: Update, topic: Topic) -> None:
    assert_type(update.topic, Topic)
    assert_type(update.kind, UpdateType)
    assert_type(update.symbol, str)
    assert_type(update.sequence, int | None)
    assert_type(update.exchange_time_ns, int | None)
    assert_type(update.received_time_ns, int)
    assert_type(update.gap_before, Gap | None)
    assert_type(update.late, bool)
    assert_type(update.misdated, bool)
    assert_type(update.raw, dict[str, Any] | None)
    assert_type(update.time_ns, int)
    assert_type(update.latency, float | None)
    assert_type(update.latency_ms, float | None)
    assert_type(update.exchange_time, datetime | None)
    assert_type(topic.channel, kufeed.protocol.Channel)
    assert_type(topic.symbol, str)
    assert_type(topic.interval, str | None)
    assert_type(topic.wire, str)
    assert_type(topic.argument, str)
    assert_type(topic.is_part, bool)
    assert_type(topic.kind, UpdateType)
    update.symbol = "frozen"  # type: ignore[misc]


def quotes(ticker: Ticker, level1: Level1, trade: Trade) -> None:
    assert_type(ticker.bid, Decimal | None)
    assert_type(ticker.bid_size, Decimal | int | None)
    assert_type(ticker.ask, Decimal | None)
    assert_type(ticker.ask_size, Decimal | int | None)
    assert_type(ticker.price, Decimal | None)
    assert_type(ticker.size, Decimal | int | None)
    assert_type(level1.bid, Decimal | None)
    assert_type(level1.bid_size, Decimal | None)
    assert_type(level1.ask, Decimal | None)
    assert_type(level1.ask_size, Decimal | None)
    assert_type(trade.price, Decimal)
    assert_type(trade.size, Decimal | int)
    assert_type(trade.side, Side)
    assert_type(trade.trade_id, str)
    assert_type(trade.backfilled, bool)


def books(depth: Depth, auction: CallAuctionDepth, delta: BookDelta, level: Level, change: BookChange) -> None:
    assert_type(depth.bids, tuple[Level, ...])
    assert_type(depth.asks, tuple[Level, ...])
    assert_type(auction.bids, tuple[Level, ...])
    assert_type(delta.first_sequence, int)
    assert_type(delta.changes, tuple[BookChange, ...])
    assert_type(level.price, Decimal)
    assert_type(level.size, Decimal | int)
    assert_type(change.side, Side)
    assert_type(change.price, Decimal)
    assert_type(change.size, Decimal | int)
    assert_type(change.sequence, int)


def whole_books(book: OrderBook) -> None:
    assert_type(book.bids, tuple[Level, ...])
    assert_type(book.asks, tuple[Level, ...])
    assert_type(book.best_bid, Level | None)
    assert_type(book.best_ask, Level | None)
    assert_type(book.mid, Decimal | None)
    assert_type(book.spread, Decimal | None)
    assert_type(book.top(3), OrderBook)
    assert_type(book.depth_to(Decimal(1)), Decimal | int)
    assert_type(book.vwap(3, "sell"), Decimal)
    assert_type(book.vwap(Decimal("0.5"), Side.BUY), Decimal)
    book.bids = ()  # type: ignore[misc]


async def live_books(live: LiveBook, books: LiveBooks) -> None:
    assert_type(books["XBTUSDTM"], LiveBook)
    assert_type(list(books), list[str])
    assert_type(books.get("XBTUSDTM"), LiveBook | None)
    assert_type(live.symbol, str)
    assert_type(live.is_ready, bool)
    assert_type(await live.wait_ready(), None)
    assert_type(live.sequence, int)
    assert_type(live.exchange_time_ns, int | None)
    assert_type(live.best_bid, Level | None)
    assert_type(live.best_ask, Level | None)
    assert_type(live.mid, Decimal | None)
    assert_type(live.spread, Decimal | None)
    assert_type(live.bids[0], Level)
    assert_type(live.asks[:5], Sequence[Level])
    assert_type([level.price for level in live.bids], list[Decimal])
    assert_type(live.top(3), OrderBook)
    assert_type(live.snapshot(), OrderBook)
    assert_type(live.depth_to(Decimal(1)), Decimal | int)
    assert_type(live.vwap(3), Decimal)
    books["XBTUSDTM"] = live  # type: ignore[index]


def book_accounts(book: BookStatistics) -> None:
    assert_type(book.symbol, str)
    assert_type(book.state, str)
    assert_type(book.sequence, int)
    assert_type(book.levels, int)
    assert_type(book.breaks, int)
    assert_type(book.seeds, int)
    assert_type(book.unfit, int)
    assert_type(book.failed, int)
    assert_type(book.audits, int)
    assert_type(book.audits_missed, int)


def prices(mark: MarkPrice, index: IndexPrice, funding: FundingRate, settlement: Announcement) -> None:
    assert_type(mark.mark_price, Decimal)
    assert_type(mark.index_price, Decimal | None)
    assert_type(index.index_price, Decimal)
    assert_type(funding.rate, Decimal)
    assert_type(funding.predicted, bool)
    assert_type(funding.interval, float | None)
    assert_type(funding.next_time_ns, int | None)
    assert_type(settlement.event, str)
    assert_type(settlement.funding_time_ns, int)
    assert_type(settlement.rate, Decimal)


def figures(candle: Candle, stats: Stats24h, auction: CallAuction) -> None:
    assert_type(candle.interval, str)
    assert_type(candle.start_ns, int)
    assert_type(candle.start, datetime)
    assert_type(candle.final, bool)
    assert_type(candle.open, Decimal)
    assert_type(candle.close, Decimal)
    assert_type(candle.high, Decimal)
    assert_type(candle.low, Decimal)
    assert_type(candle.volume, Decimal | None)
    assert_type(candle.turnover, Decimal)
    assert_type(stats.last_price, Decimal | None)
    assert_type(stats.high, Decimal | None)
    assert_type(stats.low, Decimal | None)
    assert_type(stats.volume, Decimal | None)
    assert_type(stats.turnover, Decimal | None)
    assert_type(stats.change, Decimal | None)
    assert_type(stats.change_rate, Decimal | None)
    assert_type(auction.price, Decimal | None)
    assert_type(auction.size, Decimal | None)
    assert_type(auction.sell_low, Decimal | None)
    assert_type(auction.sell_high, Decimal | None)
    assert_type(auction.buy_low, Decimal | None)
    assert_type(auction.buy_high, Decimal | None)


def losses(gap: Gap, dropped: Dropped, slow: SlowConsumer) -> None:
    assert_type(gap.topic, Topic)
    assert_type(gap.cause, kufeed.GapCause)
    assert_type(gap.first_missing, int | None)
    assert_type(gap.last_missing, int | None)
    assert_type(gap.since_ns, int | None)
    assert_type(gap.until_ns, int | None)
    assert_type(gap.filled, kufeed.GapFill | None)
    assert_type(dropped.topic, Topic)
    assert_type(dropped.count, int)
    assert_type(dropped.gap, Gap)
    assert_type(slow.ended, bool)
    assert_type(slow.duration, float)
    assert_type(slow.lost, int)


def links(
    up: kufeed.LinkUp,
    failed: kufeed.DialFailed,
    lost: kufeed.LinkLost,
    replaced: kufeed.LinkReplaced,
    notice: kufeed.Notice,
    opened: kufeed.CircuitOpened,
) -> None:
    assert_type((up.connection, up.market, up.host, up.duration), tuple[int, str, str, float])
    assert_type((failed.connection, failed.market, failed.host), tuple[int, str, str | None])
    assert_type((failed.cause, failed.duration), tuple[kufeed.LinkError, float])
    assert_type((failed.failures, failed.retry_in), tuple[int, float | None])
    assert_type((lost.connection, lost.market, lost.host), tuple[int, str, str])
    assert_type((lost.cause, lost.duration), tuple[kufeed.LinkError, float])
    assert_type((lost.failures, lost.retry_in), tuple[int, float | None])
    assert_type((replaced.connection, replaced.market, replaced.host), tuple[int, str, str])
    assert_type((replaced.reason, replaced.duration), tuple[str, float])
    assert_type((notice.connection, notice.market, notice.text), tuple[int, str, str])
    assert_type((opened.connection, opened.market), tuple[int, str])
    assert_type((opened.cause, opened.retry_in), tuple[kufeed.LinkError, float | None])


def life_of_a_feed(
    changed: kufeed.StateChanged,
    shut: kufeed.ExchangeClosed,
    complained: kufeed.ExchangeComplained,
    refused: kufeed.TopicRefused,
    unanswered: kufeed.TopicsUnanswered,
    progress: kufeed.Progress,
) -> None:
    assert_type((changed.state, changed.before), tuple[kufeed.FeedState, kufeed.FeedState])
    assert_type((shut.market, shut.status, shut.message), tuple[str, str, str])
    assert_type((complained.connection, complained.market), tuple[int, str])
    assert_type((complained.code, complained.message, complained.pause), tuple[int, str, float])
    assert_type((refused.topic, refused.code, refused.message), tuple[Topic, int, str])
    assert_type((unanswered.connection, unanswered.market), tuple[int, str])
    assert_type((unanswered.topics, unanswered.duration), tuple[tuple[Topic, ...], float])
    assert_type((progress.acked, progress.total), tuple[int, int])


def life_of_a_stream(
    stale: kufeed.StreamStale,
    recovered: kufeed.StreamRecovered,
    halted: kufeed.StreamHalted,
    delisted: kufeed.StreamDelisted,
) -> None:
    assert_type((stale.topic, stale.silent_for, stale.never), tuple[Topic, float, bool])
    assert_type((recovered.topic, recovered.silent_for), tuple[Topic, float])
    assert_type((halted.topic, halted.status), tuple[Topic, str])
    assert_type(delisted.topic, Topic)


def refusals(refused: kufeed.Refused) -> None:
    assert_type(refused.topic, Topic)
    assert_type(refused.cause, kufeed.SubscriptionRejected)


def ends(feed: Feed, halted: Halted, delisted: Delisted) -> None:
    assert_type(halted.topic, Topic)
    assert_type(halted.status, str)
    assert_type(delisted.topic, Topic)
    assert_type(feed.stale_streams(older_than=30.0), tuple[StaleStream, ...])
    for stream in feed.stale_streams():
        assert_type(stream.topic, Topic)
        assert_type(stream.silent_for, float)
        assert_type(stream.never, bool)
        assert_type(stream.acked, bool)
        assert_type(stream.alarmed, bool)


def silences(lost: Disconnected, restored: Restored, stale: Stale, resynced: Resynced) -> None:
    assert_type(lost.topic, Topic)
    assert_type(lost.cause, Exception)
    assert_type(restored.topic, Topic)
    assert_type(restored.duration, float)
    assert_type(stale.topic, Topic)
    assert_type(stale.silent_for, float)
    assert_type(resynced.topic, Topic)
    assert_type(resynced.duration, float)


def accounts(
    feed: FeedStatistics, link: ConnectionStatistics, queue: QueueStatistics, handler: HandlerStatistics
) -> None:
    assert_type(feed.connections, tuple[ConnectionStatistics, ...])
    assert_type(feed.books, tuple[BookStatistics, ...])
    assert_type(feed.refused, Mapping[str, int])
    assert_type(feed.refused_samples, Mapping[str, str])
    assert_type(feed.unwanted, int)
    assert_type(feed.late, int)
    assert_type(feed.misdated, int)
    assert_type(feed.duplicates, int)
    assert_type(feed.disordered, int)
    assert_type(link.number, int)
    assert_type(link.market, str)
    assert_type(link.topics, int)
    assert_type(link.acked, int)
    assert_type(link.dials, int)
    assert_type(link.failures, int)
    assert_type(link.last_failure, str | None)
    assert_type(link.links, tuple[kufeed.LinkStatistics, ...])
    for one in link.links:
        assert_type((one.generation, one.host, one.state), tuple[int, str | None, str])
        assert_type((one.up_for, one.acked, one.first, one.lead), tuple[float, int, int, float])
    assert_type(queue.received, int)
    assert_type(queue.delivered, int)
    assert_type(queue.conflated, int)
    assert_type(queue.dropped, int)
    assert_type(queue.unchanged, int)
    assert_type(queue.discarded, int)
    assert_type(queue.pending, int)
    assert_type(queue.most_pending, int)
    assert_type(queue.bound, int)
    assert_type(queue.oldest_age, float | None)
    assert_type(queue.slow, bool)
    assert_type(handler.name, str)
    assert_type(handler.running, bool)
    assert_type(handler.calls, int)
    assert_type(handler.errors, int)
    assert_type(handler.longest_call, float)
    assert_type(handler.queues, tuple[QueueStatistics, ...])


def match_records(update: Update) -> None:
    match update:
        case Trade(price=price, size=size):
            assert_type(price, Decimal)
            assert_type(size, Decimal | int)
        case FundingRate(predicted=True):
            assert_type(update.rate, Decimal)
    if isinstance(update, Depth):
        (price, size), *_ = update.bids
        assert_type(price * size, Decimal)


def wrong_subscriptions(feed: Feed) -> None:
    feed.candles("XBTUSDTM")  # type: ignore[call-arg]
    feed.all_tickers("BTC-USDT")  # type: ignore[call-arg, arg-type, unused-ignore]  # it has no symbols to choose
    feed.ticker("XBTUSDTM", levels=5)  # type: ignore[call-arg]
    feed.ticker(1)  # type: ignore[arg-type]
    feed.ticker(["XBTUSDTM", "ETHUSDTM"])  # type: ignore[arg-type]
    feed.trades("XBTUSDTM", buffer="10")  # type: ignore[arg-type]
    feed.trades("XBTUSDTM", overflow=1)  # type: ignore[arg-type]
    feed.trades("XBTUSDTM", changes_only="yes")  # type: ignore[arg-type]
    feed.trades("XBTUSDTM", bufer=10)  # type: ignore[call-arg]
    feed.ticker("XBTUSDTM", levels=5)  # type: ignore[call-arg]
    feed.subscribe("XBTUSDTM")  # type: ignore[arg-type]
    feed.book("XBTUSDTM", depth="20")  # type: ignore[arg-type]
    feed.book("XBTUSDTM", levels=20)  # type: ignore[call-arg]
    feed.latest("XBTUSDTM")  # type: ignore[arg-type]
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


# -- symbols ----------------------------------------------------------------------------------------------------------


async def symbols(feed: Feed) -> None:
    assert_type(await feed.symbols("futures"), Mapping[str, kufeed.SymbolInfo])


def symbol_info(info: kufeed.SymbolInfo) -> None:
    assert_type(info.symbol, str)
    assert_type(info.market, str)
    assert_type(info.type, kufeed.SymbolType)
    assert_type(info.base, str)
    assert_type(info.quote, str)
    assert_type(info.settle, str)
    assert_type(info.tick, Decimal)
    assert_type(info.lot, Decimal | int)
    assert_type(info.multiplier, Decimal)
    assert_type(info.is_inverse, bool)
    assert_type(info.status, kufeed.SymbolStatus)
    assert_type(info.exchange_status, str | bool)
    assert_type(info.expiry, datetime | None)
    assert_type(info.funding_interval, float | None)
    assert_type(info.next_funding, datetime | None)
    assert_type(info.base_size(1), Decimal)
    assert_type(info.base_size(Decimal(1), 80_000), Decimal)


async def wrong_symbols(feed: Feed) -> None:
    await feed.symbols("margin")  # type: ignore[arg-type]
    listed = await feed.symbols("spot")
    listed["BTC-USDT"] = listed["ETH-USDT"]  # type: ignore[index]
    listed["BTC-USDT"].tick = Decimal(1)  # type: ignore[misc]
    listed["BTC-USDT"].base_size(1.5)  # type: ignore[arg-type]


# -- testing ----------------------------------------------------------------------------------------------------------


async def fault_plans(exchange: Exchange) -> None:
    plan = FaultPlan(faults.Close(at=2, code=1012), faults.RefuseTokens(error=("429000", "Too Many Requests")))
    assert_type(FaultPlan.from_json(plan.to_json()), FaultPlan)
    assert_type(FaultPlan.from_json(plan.to_json(), kinds=[faults.Close]), FaultPlan)
    assert_type(FaultPlan.random(7, "rough", duration=5), FaultPlan)
    assert_type([fault.until for fault in plan], list[float])
    plan.check(exchange)
    await plan.play(exchange)
    end = exchange.overlay(token_error=503)
    assert_type(end, Callable[[], None])
    exchange.restart()
    FaultPlan.random(7, "wild")  # type: ignore[arg-type]
    FaultPlan("Close")  # type: ignore[arg-type]
    faults.SpoilAcks(how="odd")  # type: ignore[arg-type]
    faults.Close(2)  # type: ignore[call-arg]


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


# -- testing ----------------------------------------------------------------------------------------------------------


async def over_sockets() -> None:
    exchange = testing.Exchange()
    async with testing.LoopbackNetwork(exchange) as network, kufeed.open_feed(network=network):
        assert_type(network, testing.LoopbackNetwork)
        assert_type(network.time_ns(), int)
        assert_type(network.perf_counter(), float)
    async with exchange.listen() as address:
        assert_type(address.server_ports, tuple[int, ...])


def pull_at_the_cable(exchange: testing.Exchange) -> None:
    cable = exchange.cable
    assert_type(cable, testing.Cable)
    assert_type(cable.refuse(), Callable[[], None])
    assert_type(cable.hang("handshake"), Callable[[], None])
    assert_type(cable.stop_reading(), Callable[[], None])
    assert_type(cable.delay(0.5, jitter=0.1), Callable[[], None])
    assert_type(cable.narrow(1000), Callable[[], None])
    assert_type(cable.drip(size=1, every=0.1), Callable[[], None])
    assert_type(cable.split(1), Callable[[], None])
    assert_type(cable.refuses, bool)
    cable.cut("reset", after=3)
    cable.cut("sever")  # type: ignore[arg-type]
    cable.silence()
    cable.garble(after=3, count=1)
    exchange.sessions[0].reset()


async def play(exchange: testing.Exchange) -> None:
    plan = testing.FaultPlan(testing.faults.Cut(at=1.0), testing.faults.Delay(lasting=2.0))
    assert_type(testing.FaultPlan.random(7, "mild"), testing.FaultPlan)
    assert_type(testing.FaultPlan.from_json(plan.to_json()), testing.FaultPlan)
    await plan.play(exchange)
    assert_type(plan.until, float)
    testing.FaultPlan("Cut")  # type: ignore[arg-type]
    testing.faults.Cut(1.0)  # type: ignore[call-arg]


def judging(exchange: testing.Exchange, updates: Sequence[kufeed.Trade], book: kufeed.OrderBook) -> None:
    witness = testing.Witness("mine", policies={kufeed.UpdateType.TRADE: kufeed.Overflow.DROP_OLDEST}, depth=20)
    witness.epoch_ns = 1_750_000_000_000_000_000
    witness.subscribed([kufeed.topic("trade", "XBTUSDTM")])
    for update in updates:
        witness.saw(update)
    witness.claims_book("XBTUSDTM", 1, book.bids, book.asks)
    findings = testing.check_delivery(exchange, witness, notice_within=30.0, live_within=60.0)
    assert_type(findings, tuple[testing.Finding, ...])
    assert_type(findings[0].offence, testing.Offence)
    assert_type(findings[0].topic, Topic | None)
    assert_type(exchange.truth, testing.Truth | None)
    witness.saw("a trade")  # type: ignore[arg-type]


def draw(data: st.DataObject) -> None:
    assert_type(data.draw(strategies.symbols("spot")), str)
    assert_type(data.draw(strategies.topics("futures", kinds=["trade"], of=strategies.symbols())), Topic)
    assert_type(data.draw(strategies.messages("trade")), str)
    assert_type(data.draw(strategies.messages(kufeed.topic("trade", "XBTUSDTM"))), str)
    damaged = data.draw(strategies.damaged_messages(damages=["cut off"]))
    assert_type(damaged, strategies.DamagedMessage)
    assert_type((damaged.damage, damaged.text, damaged.cause), tuple[str, str, str])
    assert_type(data.draw(strategies.updates("book")), Update)
    history = data.draw(strategies.delta_histories("spot", loss=False, repeats=False, disorder=False, most=5))
    assert_type(history, strategies.DeltaHistory)
    assert_type(history.books[history.snapshot.sequence], testing.TrueBook)
    assert_type(history.is_whole, bool)
    assert_type(data.draw(strategies.plans("rough", duration=5.0, most=2)), testing.FaultPlan)
    assert_type(data.draw(strategies.faults(kinds=[testing.faults.Cut])), testing.faults.Fault)
    assert_type(data.draw(strategies.markets(seed=1)), testing.Exchange)
    strategies.topics("margin")  # type: ignore[arg-type]
    strategies.plans("gentle")  # type: ignore[arg-type]


class Machine(FeedMachine):
    severity = "rough"
    recovery = 60.0

    def make_exchange(self) -> testing.Exchange:
        return testing.Exchange(ledger=True)

    def received(self, consumer: Consumer, what: object) -> None:
        assert_type(consumer.received, list[Update | kufeed.StreamEvent | kufeed.KufeedError])

    def look(self) -> None:
        assert_type(self.exchange, testing.Exchange)
        assert_type(self.feed, Feed)
        assert_type(self.call(self.feed.symbols, "spot"), Mapping[str, kufeed.SymbolInfo])
        assert_type(self.consume(self.feed.ticker("XBTUSDTM")), Consumer | None)
        self.advance(1.0)
        self.start_soon(trio.sleep, 1.0)
        self.start_soon(trio.sleep, "1")  # type: ignore[arg-type]
