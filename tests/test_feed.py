"""The feed as a user sees it, over the simulated exchange in virtual time: real code, fake wire, fake clock."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import kufeed
from kufeed import FeedConfig, topic
from kufeed.testing import Exchange, Limits, MemoryNetwork
from kufeed.testing.wire import text_frame

MS = 1_750_000_000_250

QUICK = FeedConfig(max_reconnect_attempts=2, reconnect_delay=0.5, circuit_cooldown=30.0)


@asynccontextmanager
async def simulated(
    exchange: Exchange | None = None, config: FeedConfig | None = None
) -> AsyncIterator[tuple[Exchange, kufeed.Feed]]:
    exchange = Exchange() if exchange is None else exchange
    async with MemoryNetwork(exchange) as network:
        async with kufeed.open_feed(config, network=network, rng=random.Random(1)) as feed:
            yield exchange, feed


def asked(session: Any, verb: str) -> list[str]:
    frames = [json.loads(text) for text in session.received]
    return [frame["topic"] for frame in frames if frame["type"] == verb]


# -- the main job -----------------------------------------------------------------------------------------------------


async def test_tickers_of_both_markets_arrive_in_one_stream(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed), feed.ticker("XBTUSDTM", "BTC-USDT") as tickers:
        seen: dict[str, list[kufeed.Ticker]] = {"XBTUSDTM": [], "BTC-USDT": []}
        async for ticker in tickers:
            seen[ticker.symbol].append(ticker)
            if all(len(updates) >= 20 for updates in seen.values()):
                break
        for updates in seen.values():
            sequences = [update.sequence for update in updates]
            assert sequences == sorted(set(sequences))
            assert all(update.bid < update.ask for update in updates)
        future, spot = seen["XBTUSDTM"][0], seen["BTC-USDT"][0]
        assert type(future.bid) is Decimal
        assert type(future.bid_size) is int
        assert type(spot.bid_size) is Decimal
        assert str(future.topic) == "/contractMarket/tickerV2:XBTUSDTM"
        assert spot.kind is kufeed.UpdateType.TICKER
        assert spot.latency == pytest.approx(0, abs=1)


Open = Callable[[kufeed.Feed], kufeed.Subscription[Any]]
SERVED: dict[str, tuple[Open, type[kufeed.Update], str]] = {
    "level1": (lambda feed: feed.level1("BTC-USDT"), kufeed.Level1, "/spotMarket/level1:BTC-USDT"),
    "depth": (lambda feed: feed.depth("BTC-USDT"), kufeed.Depth, "/spotMarket/level2Depth5:BTC-USDT"),
    "depth 50": (
        lambda feed: feed.depth("XBTUSDTM", levels=50),
        kufeed.Depth,
        "/contractMarket/level2Depth50:XBTUSDTM",
    ),
    "spot book": (lambda feed: feed.book_deltas("BTC-USDT"), kufeed.BookDelta, "/market/level2:BTC-USDT"),
    "book": (lambda feed: feed.book_deltas("XBTUSDTM"), kufeed.BookDelta, "/contractMarket/level2:XBTUSDTM"),
    "mark": (lambda feed: feed.mark_price("XBTUSDTM"), kufeed.MarkPrice, "/contract/instrument:XBTUSDTM"),
    "index": (lambda feed: feed.index_price("XBTUSDTM"), kufeed.IndexPrice, "/contract/instrument:XBTUSDTM"),
    "funding": (lambda feed: feed.funding_rate("XBTUSDTM"), kufeed.FundingRate, "/contract/instrument:XBTUSDTM"),
    "spot candles": (
        lambda feed: feed.candles("BTC-USDT", interval="1min"),
        kufeed.Candle,
        "/market/candles:BTC-USDT_1min",
    ),
    "candles": (
        lambda feed: feed.candles("XBTUSDTM", interval="1hour"),
        kufeed.Candle,
        "/contractMarket/limitCandle:XBTUSDTM_1hour",
    ),
    "spot stats": (lambda feed: feed.stats_24h("BTC-USDT"), kufeed.Stats24h, "/market/snapshot:BTC-USDT"),
    "stats": (lambda feed: feed.stats_24h("XBTUSDTM"), kufeed.Stats24h, "/contractMarket/snapshot:XBTUSDTM"),
}


@pytest.mark.parametrize("name", SERVED)
async def test_every_channel_that_the_simulated_exchange_serves_streams(name: str, autojump_clock: MockClock) -> None:
    make, record, wire = SERVED[name]
    async with simulated() as (_, feed), make(feed) as updates:
        assert [str(one) for one in updates.topics] == [wire]
        last = 0
        for _ in range(3):
            update = await updates.receive()
            assert type(update) is record
            assert str(update.topic) == wire
            assert update.exchange_time_ns is not None
            assert update.exchange_time_ns >= last
            last = update.exchange_time_ns
            if isinstance(update, kufeed.Depth):
                assert update.bids[0].price < update.asks[0].price
        assert feed.statistics().refused == {}
        assert feed.statistics().unwanted == 0 or wire.startswith("/contract/instrument")


@pytest.mark.parametrize("name", SERVED)
async def test_every_channel_can_come_on_two_links(name: str, autojump_clock: MockClock) -> None:
    make, _, _ = SERVED[name]
    async with simulated(config=FeedConfig(redundancy=2)) as (_, feed), make(feed) as updates:
        seen = []
        while feed.statistics().duplicates < 10:
            seen.append((await updates.receive()).exchange_time_ns)
        assert seen == sorted(seen)
        (connection,) = feed.statistics().connections
        assert sum(link.first for link in connection.links) > 0


@pytest.mark.parametrize("symbol", ["BTC-USDT", "XBTUSDTM"])
async def test_book_deltas_are_numbered_without_holes(symbol: str, autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed), feed.book_deltas(symbol) as deltas:
        last = (await deltas.receive()).sequence
        for _ in range(50):
            delta = await deltas.receive()
            assert last is not None
            assert delta.first_sequence == last + 1
            last = delta.sequence


async def test_three_kinds_share_one_topic_of_the_wire(autojump_clock: MockClock) -> None:
    """Subscribed to once, unsubscribed with the last; each gets its own, and only that."""
    async with simulated() as (exchange, feed):
        async with feed.mark_price("XBTUSDTM") as marks:
            async with feed.index_price("XBTUSDTM") as indexes, feed.funding_rate("XBTUSDTM") as rates:
                rate = await rates.receive()
                mark, index = await marks.receive(), await indexes.receive()
                assert (type(mark), type(index), type(rate)) == (
                    kufeed.MarkPrice,
                    kufeed.IndexPrice,
                    kufeed.FundingRate,
                )
                assert mark.index_price == index.index_price
                (session,) = exchange.sessions
                assert asked(session, "subscribe") == ["/contract/instrument:XBTUSDTM"]
            await trio.sleep(1)
            assert asked(session, "unsubscribe") == []
            assert (await marks.receive()).mark_price > 0
        await trio.sleep(0.1)
        assert asked(session, "unsubscribe") == ["/contract/instrument:XBTUSDTM"]


@pytest.mark.parametrize("redundancy", [1, 2])
async def test_the_last_of_shared_kinds_gives_the_topic_back_whichever_asked(
    redundancy: int, autojump_clock: MockClock
) -> None:
    async with simulated(config=FeedConfig(redundancy=redundancy)) as (exchange, feed), feed.ticker("XBTUSDTM"):
        first, last = feed.mark_price("XBTUSDTM"), feed.index_price("XBTUSDTM")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(first)
            await stack.enter_async_context(last)
            await trio.sleep(1)
            first.close()
        await trio.sleep(1)
        assert len(exchange.sessions) == redundancy
        for session in exchange.sessions:
            assert set(session.topics) == {"/contractMarket/tickerV2:XBTUSDTM"}


async def test_shared_kinds_come_back_after_a_reconnect(autojump_clock: MockClock) -> None:
    wanted = [topic("mark_price", "XBTUSDTM"), topic("index_price", "XBTUSDTM")]
    async with simulated() as (exchange, feed), feed.subscribe(*wanted) as updates:
        assert {type(await updates.receive()) for _ in range(2)} == {kufeed.MarkPrice, kufeed.IndexPrice}
        await exchange.disconnect_all()
        gaps: dict[type, kufeed.Gap] = {}
        while len(gaps) < 2:
            update = await updates.receive()
            if update.gap_before is not None:
                gaps[type(update)] = update.gap_before
        assert {gap.topic for gap in gaps.values()} == set(wanted)


@pytest.mark.parametrize("name", SERVED)
async def test_a_feed_of_floats_has_floats_wherever_another_has_decimals(name: str, autojump_clock: MockClock) -> None:
    """Of the same messages; contracts stay whole numbers."""
    make, _, _ = SERVED[name]
    found: dict[Any, list[Any]] = {}
    for kind in (Decimal, float):
        async with simulated(config=FeedConfig(numbers=kind)) as (_, feed), make(feed) as updates:
            found[kind] = [value for _ in range(3) for value in amounts(await updates.receive())]
    expected = [float(value) if type(value) is Decimal else value for value in found[Decimal]]
    assert any(type(value) is Decimal for value in found[Decimal])
    assert [(type(value), value) for value in found[float]] == [(type(value), value) for value in expected]


def amounts(value: Any) -> list[Any]:
    """The numbers in a record but its times of receipt, in order."""
    if isinstance(value, kufeed.Update):
        value = attrs.astuple(value, recurse=False)[5:]
    if isinstance(value, tuple):
        return [found for part in value for found in amounts(part)]
    return [value] if type(value) in (int, float, Decimal) else []


async def test_a_record_keeps_its_message_where_the_feed_is_told_to(autojump_clock: MockClock) -> None:
    """Whole, and one object for all: the subscriptions that share the record, and the records that share a message."""
    async with simulated(config=FeedConfig(keep_raw=True)) as (_, feed):
        mark, index = feed.mark_price("XBTUSDTM"), feed.index_price("XBTUSDTM")
        async with mark, index, feed.index_price("XBTUSDTM") as again:
            found = [await one.receive() for one in (mark, index, again)]
            message = found[0].raw
            assert message is not None
            assert (message["topic"], message["subject"]) == ("/contract/instrument:XBTUSDTM", "mark.index.price")
            assert message["data"]["timestamp"] * 1_000_000 == found[0].exchange_time_ns
            assert [update.raw is message for update in found] == [True] * 3
        async with feed.trades("XBTUSDTM", buffer=1) as trades:
            await trio.sleep(20)
            trade = await trades.receive()
            assert trade.gap_before is not None
            assert trade.raw is not None
            assert trade.raw["data"]["tradeId"] == trade.trade_id
    async with simulated() as (_, feed), feed.ticker("XBTUSDTM") as tickers:
        assert (await tickers.receive()).raw is None


@pytest.mark.parametrize("symbol", ["BTC-USDT", "XBTUSDTM"])
async def test_a_candle_is_final_once_the_next_one_has_come(symbol: str, autojump_clock: MockClock) -> None:
    """Also after a reconnect, in a copy that has a gap before it, and for each subscription of the stream."""
    async with simulated() as (exchange, feed), feed.candles(symbol, interval="1min") as candles:
        async with feed.candles(symbol, interval="1min", buffer=1) as few:
            rows: dict[int, kufeed.Candle] = {}
            while len(rows) < 4:
                candle = await candles.receive()
                if len(rows) == 2 and candle.start_ns not in rows:
                    await exchange.disconnect_all()
                rows[candle.start_ns] = candle
                assert [row.final for row in rows.values()] == [start < max(rows) for start in rows]
            last = await few.receive()
            assert last.gap_before is not None
            await trio.sleep(90)
            assert last.final
            assert rows[max(rows)].final
            assert (await few.receive()).final is False


async def test_a_symbol_joins_with_the_levels_and_the_interval_of_its_subscription(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed):
        async with feed.depth("BTC-USDT", levels=50) as depth, feed.candles("BTC-USDT", interval="1min") as candles:
            await depth.add("ETH-USDT")
            await candles.add("ETH-USDT")
            asked_for = [wire for session in exchange.sessions for wire in asked(session, "subscribe")]
            assert asked_for[-2:] == ["/spotMarket/level2Depth50:ETH-USDT", "/market/candles:ETH-USDT_1min"]
            candles.remove("ETH-USDT")


PLAYED: dict[str, tuple[Open, str, str, dict[str, Any]]] = {
    "announcement": (
        lambda feed: feed.announcements("XBTUSDTM"),
        "/contract/announcement:XBTUSDTM",
        "funding.end",
        {"symbol": "XBTUSDTM", "fundingTime": MS, "fundingRate": -0.002966, "timestamp": MS},
    ),
    "mark": (
        lambda feed: feed.mark_price("USDT-BTC"),
        "/indicator/markPrice:USDT-BTC",
        "tick",
        {"symbol": "USDT-BTC", "granularity": 1000, "value": 0.0000158, "timestamp": MS},
    ),
    "index": (
        lambda feed: feed.index_price("USDT-BTC"),
        "/indicator/index:USDT-BTC",
        "tick",
        {"symbol": "USDT-BTC", "granularity": 1000, "value": 0.0000158, "timestamp": MS},
    ),
    "auction": (
        lambda feed: feed.call_auction("BTC-USDT"),
        "/callauction/callauctionData:BTC-USDT",
        "callauction.callauctionData",
        {"symbol": "BTC-USDT", "estimatedPrice": "0.17", "time": MS},
    ),
    "auction depth": (
        lambda feed: feed.call_auction_depth("BTC-USDT"),
        "/callauction/level2Depth50:BTC-USDT",
        "level2",
        {"bids": [["1", "2"]], "asks": [], "timestamp": MS},
    ),
}


@pytest.mark.parametrize("name", PLAYED)
@pytest.mark.parametrize("bare", [False, True])
async def test_what_comes_at_its_hour_or_of_few_symbols(name: str, bare: bool, autojump_clock: MockClock) -> None:
    """Also an announcement under its bare path, as KuCoin pushes it; nothing else comes without its symbol."""
    make, wire, subject, data = PLAYED[name]
    path = wire.partition(":")[0]
    async with simulated(Exchange(live=False)) as (exchange, feed), make(feed) as updates:
        (session,) = exchange.sessions
        pushed = path if bare else wire
        session.push(text_frame(json.dumps({"topic": pushed, "type": "message", "subject": subject, "data": data})))
        with trio.move_on_after(1):
            update = await updates.receive()
            assert (update.topic.wire, update.exchange_time_ns) == (wire, MS * 1_000_000)
            assert getattr(update, "event", subject) == subject
            return
        assert bare
        assert name != "announcement"
        assert feed.statistics().unwanted == 1


def test_what_a_market_does_not_have_is_refused_at_once() -> None:
    async def main() -> None:
        async with kufeed.open_feed() as feed:
            for make in (
                lambda: feed.level1("XBTUSDTM"),
                lambda: feed.funding_rate("BTC-USDT"),
                lambda: feed.announcements("BTC-USDT"),
                lambda: feed.call_auction("XBTUSDTM"),
                lambda: feed.candles("XBTUSDTM", interval="6hour"),
                lambda: feed.depth("XBTUSDTM", levels=20),
            ):
                with pytest.raises(kufeed.UsageError):
                    make()

    trio.run(main)


async def test_mixed_kinds_come_in_one_order_of_arrival(autojump_clock: MockClock) -> None:
    wanted = [topic("ticker", "ETH-USDT"), topic("trade", "ETH-USDT"), topic("trade", "ETHUSDTM")]
    async with simulated() as (_, feed), feed.subscribe(*wanted) as updates:
        kinds, last = set(), 0
        async for update in updates:
            assert update.received_time_ns >= last
            last = update.received_time_ns
            kinds.add((type(update), update.symbol))
            if len(kinds) == 3:
                break
    assert kinds == {(kufeed.Ticker, "ETH-USDT"), (kufeed.Trade, "ETH-USDT"), (kufeed.Trade, "ETHUSDTM")}


async def test_everything_the_exchange_sent_arrives_in_order(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), feed.trades("XBTUSDTM") as trades:
        await trio.sleep(60)
        exchange.freeze()
        await trio.sleep(0.1)
        session = exchange.sessions[0]
        pongs = sum('"ping"' in text for text in session.received)
        count = session.sent - pongs - 2  # the welcome and the ack
        assert trades.statistics().pending == count > 100
        numbers = [trades.receive_nowait().sequence for _ in range(count)]
        assert numbers == sorted(set(numbers))
        exchange.thaw()


# -- entering and leaving ---------------------------------------------------------------------------------------------


async def test_opening_a_feed_dials_nothing(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed):
        feed.ticker("XBTUSDTM")
        await trio.sleep(100)
        assert exchange.tokens_issued == 0
        assert feed.tree() == "open_feed\n  books\n  pool\n  watchers"


async def test_entering_returns_when_every_topic_is_acknowledged(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed):
        async with feed.ticker("XBTUSDTM", "ETHUSDTM", "BTC-USDT"):
            held = {name for session in exchange.sessions for name in session.topics}
            assert held == {
                "/contractMarket/tickerV2:XBTUSDTM",
                "/contractMarket/tickerV2:ETHUSDTM",
                "/market/ticker:BTC-USDT",
            }


async def test_a_subscription_is_entered_once(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed):
        tickers = feed.ticker("XBTUSDTM")
        with pytest.raises(kufeed.UsageError, match="enter the subscription first"):
            await tickers.receive()
        with pytest.raises(kufeed.UsageError, match="enter the subscription first"):
            async for _ in tickers:
                pass
        async with tickers:
            pass
        with pytest.raises(kufeed.UsageError, match="entered once"):
            async with tickers:
                pass
        with pytest.raises(trio.ClosedResourceError):
            await tickers.receive()


@pytest.mark.parametrize("partial", [False, True])
async def test_a_refused_topic_is_named_and_costs_nobody_else_anything(
    autojump_clock: MockClock, partial: bool
) -> None:
    """Whether the exchange refuses the whole frame or the bad symbol alone, which KuCoin does not document."""
    async with simulated(Exchange(partial_subscribe=partial)) as (exchange, feed):
        async with feed.ticker("BTC-USDT") as good:
            with pytest.raises(kufeed.SubscriptionRejected) as refusal:
                async with feed.ticker("ETH-USDT", "NONE-USDT"):
                    pass
            assert refusal.value.topic == "/market/ticker:NONE-USDT"
            assert refusal.value.code == "404"
            assert (await good.receive()).symbol == "BTC-USDT"
            await trio.sleep(1)
            assert exchange.sessions[0].topics == ("/market/ticker:BTC-USDT",)


async def test_a_missing_ack_is_asked_for_again_and_then_raised(autojump_clock: MockClock) -> None:
    """`SubscriptionTimeout` after two times `ack_timeout`, counted from sending, although data flow on the link."""
    async with simulated(config=FeedConfig(ack_timeout=3.0)) as (exchange, feed):
        async with feed.ticker("XBTUSDTM") as tickers:
            await tickers.receive()
            exchange.faults.ignore_topics = {"/contractMarket/tickerV2:ETHUSDTM"}
            start = trio.current_time()
            with pytest.raises(kufeed.SubscriptionTimeout) as timeout:
                async with feed.ticker("ETHUSDTM"):
                    pass
            assert trio.current_time() - start == pytest.approx(6.0, abs=0.01)
            assert timeout.value.topics == ("/contractMarket/tickerV2:ETHUSDTM",)
            assert asked(exchange.sessions[0], "subscribe").count("/contractMarket/tickerV2:ETHUSDTM") == 2
            assert len(exchange.dials) == 1


async def test_two_subscriptions_to_one_topic_share_the_wire(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed):
        async with feed.ticker("XBTUSDTM") as first:
            async with feed.ticker("XBTUSDTM") as second:
                assert await first.receive() is await second.receive()
            assert asked(exchange.sessions[0], "subscribe") == ["/contractMarket/tickerV2:XBTUSDTM"]
            await trio.sleep(1)
            assert asked(exchange.sessions[0], "unsubscribe") == []
            await first.receive()
        await trio.sleep(1)
        assert asked(exchange.sessions[0], "unsubscribe") == ["/contractMarket/tickerV2:XBTUSDTM"]
        assert exchange.sessions[0].topics == ()


async def test_leaving_is_no_checkpoint(autojump_clock: MockClock) -> None:
    """A checkpoint in a cancelled scope would replace the body's error."""
    async with simulated() as (_, feed):
        with pytest.raises(ZeroDivisionError), trio.CancelScope() as scope:
            async with feed.ticker("XBTUSDTM"):
                scope.cancel()
                raise ZeroDivisionError


@pytest.mark.parametrize("after", [0.0, 0.001, 0.01])
async def test_a_cancelled_entering_leaves_nothing_subscribed(autojump_clock: MockClock, after: float) -> None:
    async with simulated() as (exchange, feed):
        exchange.faults.withhold_acks = True
        with trio.move_on_after(after) as scope:
            async with feed.ticker("XBTUSDTM"):
                pass
        assert scope.cancelled_caught
        await trio.sleep(20)
        assert exchange.sessions == ()
        assert repr(feed) == "<Feed open: 0 connections, 0 streams>"


async def test_symbols_come_and_go_while_the_subscription_is_open(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed), feed.ticker("XBTUSDTM") as tickers:
        await tickers.add("ETHUSDTM", "BTC-USDT")
        tickers.remove("XBTUSDTM")
        assert [str(one) for one in tickers.topics] == ["/contractMarket/tickerV2:ETHUSDTM", "/market/ticker:BTC-USDT"]
        await trio.sleep(1)
        while tickers.statistics().pending:
            tickers.receive_nowait()
        symbols = {(await tickers.receive()).symbol for _ in range(50)}
        assert symbols == {"ETHUSDTM", "BTC-USDT"}
        with pytest.raises(kufeed.UsageError, match="not in this subscription"):
            tickers.remove("XBTUSDTM")
        with pytest.raises(kufeed.SubscriptionRejected):
            await tickers.add("NONE-USDT")
        assert len(tickers.topics) == 2


async def test_symbols_cannot_be_added_to_a_mixture_by_name(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed):
        async with feed.subscribe(topic("ticker", "XBTUSDTM"), topic("trade", "XBTUSDTM")) as updates:
            with pytest.raises(kufeed.UsageError, match="give topics"):
                await updates.add("ETHUSDTM")
            await updates.add(topic("trade", "ETHUSDTM"))
            assert len(updates.topics) == 3


async def test_clones_share_the_stream_and_the_last_close_ends_it(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), feed.trades("XBTUSDTM") as trades:
        numbers: list[int | None] = []

        async def consume(end: kufeed.Subscription[kufeed.Trade]) -> None:
            with end:
                for _ in range(50):
                    numbers.append((await end.receive()).sequence)
                    await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(consume, trades.clone())
        assert len(numbers) == len(set(numbers)) == 150
        assert exchange.sessions[0].topics != ()
        assert trades.statistics().delivered == 150


async def test_closing_an_end_wakes_whoever_waits_on_it(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(live=False)) as (_, feed), feed.trades("XBTUSDTM") as trades:
        clone = trades.clone()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await clone.receive()

            await wait_all_tasks_blocked()
            clone.close()


async def test_leaving_the_feed_ends_iteration_in_other_tasks(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with simulated(Exchange(live=False)) as (_, feed):
            tickers = await feed.ticker("XBTUSDTM").__aenter__()

            @nursery.start_soon
            async def consume() -> None:
                async for _ in tickers:
                    pytest.fail("nothing was sent")

            await wait_all_tasks_blocked()
        with pytest.raises(kufeed.UsageError, match="the feed is closed"):
            feed.ticker("XBTUSDTM")
        assert repr(feed) == "<Feed closed>"


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("BTC/USDT", "did you mean BTC-USDT"),
        ("BTCUSDTM", "did you mean XBTUSDTM"),
        ("xbtusdtm", "did you mean XBTUSDTM"),
        ("", "spot is BTC-USDT"),
    ],
)
async def test_an_impossible_symbol_is_refused_before_dialling(
    autojump_clock: MockClock, wrong: str, hint: str
) -> None:
    async with simulated() as (exchange, feed):
        with pytest.raises(kufeed.UsageError, match=hint):
            feed.ticker("XBTUSDTM", wrong)
        assert exchange.tokens_issued == 0


async def test_bad_arguments_are_named(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed):
        with pytest.raises(kufeed.UsageError, match="at least one symbol"):
            feed.ticker()
        with pytest.raises(kufeed.UsageError, match="twice"):
            feed.trades("XBTUSDTM", "XBTUSDTM")
        with pytest.raises(kufeed.UsageError, match="buffer"):
            feed.trades("XBTUSDTM", buffer=0)
        with pytest.raises(kufeed.UsageError, match="takes topics"):
            feed.subscribe("XBTUSDTM")  # type: ignore[arg-type]


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_more_topics_than_a_link_carries_open_another_link(autojump_clock: MockClock) -> None:
    """250 futures topics at 100 on a link; the exchange enforces its limits."""
    symbols = [f"T{number:04}USDTM" for number in range(1, 251)]
    async with simulated(Exchange(generated=250)) as (exchange, feed), feed.ticker(*symbols):
        assert sorted(len(session.topics) for session in exchange.sessions) == [50, 100, 100]
        assert exchange.statistics().dials_refused == 0
        async with feed.trades(*symbols[:50]):
            assert sorted(len(session.topics) for session in exchange.sessions) == [100, 100, 100]


async def test_a_link_that_the_exchange_calls_full_is_relieved(autojump_clock: MockClock) -> None:
    """The exchange may allow fewer topics than we believe: what it refuses moves to another link."""
    exchange = Exchange(limits=Limits(futures_topics=2))
    async with simulated(exchange) as (_, feed), feed.ticker("XBTUSDTM", "ETHUSDTM"):
        async with feed.trades("XBTUSDTM", "ETHUSDTM") as trades:
            assert [len(session.topics) for session in exchange.sessions] == [2, 2]
            assert {(await trades.receive()).symbol for _ in range(40)} == {"XBTUSDTM", "ETHUSDTM"}


async def test_too_many_connections_are_refused_with_nothing_changed(autojump_clock: MockClock) -> None:
    config = FeedConfig(max_connections=1, topics_per_connection=2)
    async with simulated(config=config) as (exchange, feed), feed.ticker("XBTUSDTM"):
        with pytest.raises(kufeed.UsageError, match="max_connections"):
            async with feed.trades("XBTUSDTM", "ETHUSDTM"):
                pass
        assert exchange.sessions[0].topics == ("/contractMarket/tickerV2:XBTUSDTM",)
        assert len(feed.statistics().connections) == 1


async def test_dials_stay_within_the_budget_of_the_run(autojump_clock: MockClock) -> None:
    """40 links at once: never more than 30 dials in any 60 s, which the exchange would refuse."""
    config = FeedConfig(topics_per_connection=1, linger=1000.0)
    symbols = [f"T{number:04}USDTM" for number in range(1, 41)]
    exchange = Exchange(generated=40, update_interval=1.0)
    async with simulated(exchange, config) as (_, feed), feed.ticker(*symbols):
        times = [dial.at for dial in exchange.dials]
        assert len(times) == 40
        assert all(later - earlier >= 60.0 for earlier, later in zip(times, times[30:], strict=False))


async def test_two_feeds_of_one_run_share_the_dial_budget(autojump_clock: MockClock) -> None:
    exchange = Exchange(generated=40, update_interval=1.0)
    config = FeedConfig(topics_per_connection=1)
    async with MemoryNetwork(exchange) as network, trio.open_nursery() as nursery:
        for start in (1, 21):

            @nursery.start_soon
            async def run(start: int = start) -> None:
                async with kufeed.open_feed(config, network=network) as feed:
                    async with feed.ticker(*(f"T{number:04}USDTM" for number in range(start, start + 20))):
                        pass

    times = [dial.at for dial in exchange.dials]
    assert len(times) == 40
    assert all(later - earlier >= 60.0 for earlier, later in zip(times, times[30:], strict=False))
    assert exchange.statistics().dials_refused == 0


async def test_a_full_buffer_drops_the_oldest_and_counts_exactly(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed), feed.trades("XBTUSDTM", buffer=7) as trades:
        await trio.sleep(30)
        counts = trades.statistics()
        assert counts.pending == counts.bound == counts.most_pending == 7
        assert counts.dropped > 0
        newest = feed.trades("XBTUSDTM", buffer=1)
        async with newest:
            last = (await newest.receive()).sequence
        for _ in range(5):
            await trio.lowlevel.checkpoint()  # a full buffer is given two scheduler passes before it drops
        kept = [trades.receive_nowait().sequence for _ in range(7)]
        assert kept == sorted(set(kept))
        assert kept[-1] == last
        with pytest.raises(trio.WouldBlock):
            trades.receive_nowait()
        counts = trades.statistics()
        assert counts.received == counts.delivered + counts.dropped + counts.discarded + counts.pending
        assert (counts.delivered, counts.pending) == (7, 0)
    counts = trades.statistics()
    assert counts.received == counts.delivered + counts.dropped + counts.discarded + counts.pending


# -- reconnecting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [None, 1000, 1001, 1011])
async def test_after_a_cut_everything_is_subscribed_again(autojump_clock: MockClock, code: int | None) -> None:
    """The desired set is restored, with a fresh token for each dial, however the link was lost."""
    async with simulated() as (exchange, feed):
        async with feed.ticker("XBTUSDTM", "ETHUSDTM") as tickers, feed.trades("XBTUSDTM") as trades:
            for _ in range(3):
                before = set(exchange.sessions[0].topics)
                await exchange.disconnect_all(code)
                with trio.fail_after(60):
                    await exchange.wait_subscribed(*before)
                await trio.sleep(1)
                assert set(exchange.sessions[0].topics) == before
                while tickers.statistics().pending:
                    tickers.receive_nowait()
                assert {(await tickers.receive()).symbol for _ in range(40)} == {"XBTUSDTM", "ETHUSDTM"}
                await trades.receive()
        assert exchange.tokens_issued == len(exchange.dials) == 4
        assert [dial.status for dial in exchange.dials] == [101] * 4


async def test_a_dead_token_is_answered_with_a_fresh_one(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        exchange.expire_tokens()
        await exchange.disconnect_all()
        await trio.sleep(3)
        while tickers.statistics().pending:
            tickers.receive_nowait()
        await tickers.receive()


@pytest.mark.parametrize("where", ["token_error", "upgrade_error"])
@pytest.mark.parametrize(("retry_after", "wait"), [("7", 7.0), (None, 10.0)])
async def test_the_exchanges_own_wait_wins_over_the_back_off(
    autojump_clock: MockClock, where: str, retry_after: str | None, wait: float
) -> None:
    """Also for the other links of the run to that host: the exchange counts by address."""
    exchange = Exchange()
    config = FeedConfig(
        topics_per_connection=1, reconnect_delay=0.001, max_reconnect_delay=0.001, max_reconnect_attempts=None
    )
    async with simulated(exchange, config) as (_, feed), feed.ticker("XBTUSDTM"):
        setattr(exchange.faults, where, 429)
        exchange.faults.retry_after = retry_after
        await exchange.disconnect_all()
        await trio.sleep(1)
        refused, refused_at = exchange.statistics().requests + exchange.statistics().dials, trio.current_time()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def another() -> None:
                async with feed.ticker("ETHUSDTM"):
                    pass

            await trio.sleep(wait - 1.5)
            assert exchange.statistics().requests + exchange.statistics().dials == refused
            setattr(exchange.faults, where, None)
            await trio.sleep(1)
        assert trio.current_time() <= refused_at + wait + 1
        assert len(exchange.sessions) == 2


@pytest.mark.parametrize("where", ["token_error", "upgrade_error"])
async def test_those_who_were_on_their_way_wait_too(autojump_clock: MockClock, where: str) -> None:
    """Twenty links and one place to dial from: the first is refused, and none of the others asks again."""
    exchange = Exchange(generated=20, update_interval=1.0)
    setattr(exchange.faults, where, 429)
    exchange.faults.retry_after = "60"
    config = FeedConfig(topics_per_connection=1, max_concurrent_dials=1)
    async with simulated(exchange, config) as (_, feed), trio.open_nursery() as nursery:
        nursery.start_soon(feed.ticker(*(f"T{number:04}USDTM" for number in range(1, 21))).__aenter__)
        await trio.sleep(59)
        assert exchange.statistics().requests == 1
        assert exchange.statistics().dials == (where == "upgrade_error")
        setattr(exchange.faults, where, None)
        await trio.sleep(60)
        assert len(exchange.sessions) == 20


async def test_a_wait_for_one_server_concerns_no_other_market(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    async with simulated(exchange) as (_, feed), feed.ticker("XBTUSDTM"):
        exchange.faults.token_error, exchange.faults.retry_after = 503, "3600"
        await exchange.disconnect_all()
        await trio.sleep(2)
        exchange.faults.token_error = None
        with trio.fail_after(5):
            async with feed.ticker("BTC-USDT"):
                pass
        assert len(exchange.sessions) == 1
        feed.reset()  # by hand it is lifted
        await trio.sleep(1)
        assert len(exchange.sessions) == 2


async def test_another_dial_budget_does_not_hide_what_the_exchange_asked_for(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as two:
        async with kufeed.open_feed(network=network, dial_limiter=kufeed.DialBudget()) as one:
            exchange.faults.upgrade_error, exchange.faults.retry_after = 429, "30"
            with trio.move_on_after(1):
                async with one.ticker("XBTUSDTM"):
                    pass
            exchange.faults.upgrade_error = None
            start = trio.current_time()
            async with two.ticker("ETHUSDTM"):
                assert trio.current_time() - start > 28


async def test_those_who_wait_for_a_dial_keep_nobody_from_rest(autojump_clock: MockClock) -> None:
    """Forty futures links have used up their market's dials; spot has its own, and REST weight is there for it."""
    config = FeedConfig(topics_per_connection=1, budget_share=0.1)
    async with simulated(Exchange(generated=40), config) as (_, feed), trio.open_nursery() as nursery:
        nursery.start_soon(feed.ticker(*(f"T{number:04}USDTM" for number in range(1, 41))).__aenter__)
        await trio.sleep(1)
        with trio.fail_after(5):
            async with feed.ticker("BTC-USDT"):
                pass
        nursery.cancel_scope.cancel()


async def test_a_dial_budget_that_fails_tells_of_no_loss_twice(autojump_clock: MockClock) -> None:
    class Sometimes(kufeed.DialBudget):
        broken = False

        async def acquire(self, weight: int = 1, *, lane: int = 0) -> kufeed.Permit:
            if self.broken:
                await trio.lowlevel.checkpoint()
                raise OSError("the disk is full")
            return await super().acquire(weight, lane=lane)

    budget = Sometimes()
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        async with kufeed.open_feed(network=network, dial_limiter=budget) as feed, feed.trades("XBTUSDTM") as trades:
            await trio.sleep(5)
            while trades.statistics().pending:
                trades.receive_nowait()
            budget.broken = True
            await exchange.disconnect_all()
            seen: list[Any] = []
            with trio.move_on_after(20):
                async for item in trades.with_events():
                    seen.append(item)  # noqa: PERF401  # a comprehension that is cancelled keeps nothing
            assert [type(item) for item in seen] == [kufeed.Disconnected]


async def test_a_token_that_the_server_repeats_is_shown_nowhere(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = Exchange()
    async with simulated(exchange) as (_, feed), feed.ticker("XBTUSDTM") as tickers:
        tokens = []
        for piece in (slice(None), slice(20, 60)):
            (session,) = exchange.sessions
            tokens.append(session.token)
            session.reply(json.dumps({"type": "error", "code": 401, "data": f"bad token {session.token[piece]}"}))
            await trio.sleep(30)
        await tickers.receive()
        shown = caplog.text + str(feed.statistics())
        assert "repeats the token" in shown
        for token in tokens:
            assert len(token) > 60
            assert token[20:40] not in shown


async def test_a_token_that_stands_in_a_refused_message_is_shown_nowhere(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "kufeed.validation")
    async with simulated() as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        (session,) = exchange.sessions
        data = {"symbol": "XBTUSDTM", "ts": "x", "bestBidSize": session.token[20:60]}
        frame = {"topic": "/contractMarket/tickerV2:XBTUSDTM", "subject": "tickerV2", "data": data}
        session.reply(json.dumps({**frame, "data": {**data, "ts": session.token}}))
        session.reply(json.dumps({**frame, "data": {**data, "symbol": f"\u202e{session.token[30:60]}"}}))
        session.reply(json.dumps(frame))
        await tickers.receive()
        statistics = feed.statistics()
        assert statistics.refused == {"ts": 2, "symbol": 1}
        assert statistics.refused_samples == dict.fromkeys(["ts", "symbol"], "(a text that repeats the token)")
        assert "ts: 'x'" in caplog.text
        for start in range(len(session.token) - 12):
            assert session.token[start : start + 12] not in caplog.text


async def test_what_is_late_or_misdated_is_delivered_flagged_and_counted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each market has its episodes: one of them may have trouble alone."""
    exchange = Exchange(update_interval=3600.0)
    async with simulated(exchange) as (_, feed), feed.subscribe(*SENT) as updates:
        now = feed._network.time_ns()
        ages = [0.05, 0.2, 0.3, 3601.0, -61.0, 9999.0]
        await exchange.play(
            [sent(now - int(age * 1e9), number) for number, age in enumerate(ages) for sent in SENT.values()]
        )
        seen = [await updates.receive() for _ in range(2 * len(ages))]
        flags = [(False, False), (True, False), (True, False), *[(False, True)] * 3]
        for stream in SENT:
            assert [(one.late, one.misdated) for one in seen if one.topic == stream] == flags
        assert (feed.statistics().late, feed.statistics().misdated) == (4, 6)
        assert feed.statistics().refused == {}
    warned = [record.args[0] for record in caplog.records if record.name == "kufeed.latency"]  # type: ignore[index]
    assert sorted(warned, key=str) == sorted(SENT, key=str)


def spot_match(time_ns: int, number: int = 1) -> str:
    data = {"symbol": "BTC-USDT", "sequence": str(number), "price": "1", "size": "1", "side": "buy", "tradeId": "t"}
    frame = {"topic": "/market/match:BTC-USDT", "subject": "trade.l3match", "data": {**data, "time": str(time_ns)}}
    return json.dumps(frame)


def futures_match(time_ns: int, number: int = 1) -> str:
    data = {"symbol": "XBTUSDTM", "sequence": number, "price": "1", "size": 1, "side": "buy", "tradeId": "t"}
    frame = {"topic": "/contractMarket/execution:XBTUSDTM", "subject": "match", "data": {**data, "ts": time_ns}}
    return json.dumps(frame)


SENT = {topic("trade", "BTC-USDT"): spot_match, topic("trade", "XBTUSDTM"): futures_match}


async def test_a_feed_that_is_told_so_calls_nothing_late(autojump_clock: MockClock) -> None:
    exchange = Exchange(update_interval=3600.0)
    async with simulated(exchange, FeedConfig(latency_warning=None)) as (_, feed), feed.trades("BTC-USDT") as trades:
        await exchange.play([spot_match(feed._network.time_ns() - 10**9)])
        assert not (await trades.receive()).late
        assert feed.statistics().late == 0


async def test_a_frame_of_an_odd_type_is_survived_at_debug(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A list a thousand deep has no repr: logging it would end the feed."""
    caplog.set_level("DEBUG", "kufeed")
    async with simulated() as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        exchange.sessions[0].reply('{"type":' + "[" * 1000 + "]" * 1000 + "}")
        await trio.sleep(5)
        await tickers.receive()
        assert exchange.statistics().dials == 1


async def test_an_error_that_nothing_waits_for_is_an_event(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        await trio.sleep(1)
        with feed.events() as events:
            exchange.sessions[0].reply('{"type":"error","code":500,"data":"sorry"}')
            exchange.sessions[0].reply('{"type":"error","code":509,"data":"exceed max permits per 10 seconds"}')
            exchange.sessions[0].reply('{"type":"error","code":"x","data":["\\n"],"id":"other"}')
            await trio.sleep(1)
            told = [events.receive_nowait() for _ in range(3)]
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()
        assert told[:2] == [
            kufeed.ExchangeComplained(1, "futures", 500, "sorry", 0.0),
            kufeed.ExchangeComplained(1, "futures", 509, "exceed max permits per 10 seconds", 10.0),
        ]
        assert isinstance(told[2], kufeed.ExchangeComplained)
        assert told[2].code == 0
        assert told[2].message.isprintable()
        await tickers.receive()


async def test_a_missing_ack_is_an_event_until_it_comes(autojump_clock: MockClock) -> None:
    """Once for a topic, be somebody waiting for it or not."""
    wires = ["/contractMarket/tickerV2:XBTUSDTM", "/contractMarket/tickerV2:ETHUSDTM"]
    async with simulated() as (exchange, feed), feed.ticker("XBTUSDTM"), feed.trades("XBTUSDTM"):

        def told() -> list[kufeed.FeedEvent]:
            return [event for event in events._waiting if isinstance(event, kufeed.TopicsUnanswered)]

        with feed.events() as events:
            exchange.faults.ignore_topics = set(wires)
            with pytest.raises(kufeed.SubscriptionTimeout):
                async with feed.ticker("ETHUSDTM"):
                    pass
            assert told() == [kufeed.TopicsUnanswered(1, "futures", (topic("ticker", "ETHUSDTM"),), 10.0)]
            await exchange.disconnect_all()
            await trio.sleep(60)
            assert told()[1:] == [kufeed.TopicsUnanswered(1, "futures", (topic("ticker", "XBTUSDTM"),), 10.0)]
            exchange.faults.ignore_topics = ()
            await trio.sleep(30)
            assert feed.state == "live"
            assert len(told()) == 2


async def test_a_trial_dial_that_succeeds_closes_the_circuit(autojump_clock: MockClock) -> None:
    """Cut again soon afterwards, it reconnects at once: one loss is no outage."""
    config = FeedConfig(max_reconnect_attempts=2, reconnect_delay=0.5, circuit_cooldown=30.0)
    async with simulated(config=config) as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        exchange.faults.refuse_dials = True
        await exchange.disconnect_all()
        with pytest.raises(kufeed.ConnectionFailed):
            while True:
                await tickers.receive()
        exchange.faults.refuse_dials = False
        await trio.sleep(40)
        assert len(exchange.sessions) == 1
        await exchange.disconnect_all()
        await trio.sleep(10)
        assert len(exchange.sessions) == 1
        while tickers.statistics().pending:
            tickers.receive_nowait()
        await tickers.receive()


async def test_losses_days_apart_are_no_row(autojump_clock: MockClock) -> None:
    config = FeedConfig(max_reconnect_attempts=2)
    slow = Exchange(update_interval=30.0)
    async with simulated(slow, config) as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        for _ in range(6):
            await trio.sleep(3600)
            await exchange.disconnect_all()
        await trio.sleep(90)
        assert len(exchange.sessions) == 1
        await tickers.receive()
        assert feed.statistics().connections[0].failures <= 1


async def test_a_dial_budget_that_fails_is_a_failed_dial(autojump_clock: MockClock) -> None:
    class Broken:
        async def acquire(self) -> kufeed.Permit:
            await trio.lowlevel.checkpoint()
            raise OSError("the disk is full")

    async with MemoryNetwork(Exchange()) as network:
        config = FeedConfig(max_reconnect_attempts=1)
        async with kufeed.open_feed(config, network=network, dial_limiter=Broken()) as feed:
            with pytest.raises(kufeed.ConnectionFailed, match="budget: the disk is full"):
                async with feed.ticker("XBTUSDTM"):
                    pass


async def test_topics_wanted_while_the_link_is_down_are_asked_for_when_it_is_up(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), feed.ticker("XBTUSDTM"):
        exchange.faults.refuse_dials = True
        await exchange.disconnect_all()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def heal() -> None:
                await trio.sleep(5)
                exchange.faults.refuse_dials = False

            async with feed.trades("XBTUSDTM") as trades:
                assert trio.current_time() >= 5
                await trades.receive()


async def test_used_up_attempts_are_raised_once_and_recovery_follows(autojump_clock: MockClock) -> None:
    """`ConnectionFailed` comes at its place, once; the subscription stays entered, and iterating again waits."""
    async with simulated(config=QUICK) as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        await tickers.receive()
        exchange.faults.refuse_dials = True
        await exchange.disconnect_all()
        with pytest.raises(kufeed.ConnectionFailed) as failure:
            async for _ in tickers:
                pass
        assert failure.value.topics == ("/contractMarket/tickerV2:XBTUSDTM",)
        assert isinstance(failure.value.cause, kufeed.DialError)
        failed_at = trio.current_time()
        with pytest.raises(kufeed.ConnectionFailed):
            async with feed.trades("XBTUSDTM"):
                pass
        exchange.faults.refuse_dials = False
        await tickers.receive()
        assert 0 < trio.current_time() - failed_at <= QUICK.circuit_cooldown + 1


async def test_reset_tries_again_at_once(autojump_clock: MockClock) -> None:
    config = FeedConfig(max_reconnect_attempts=0, circuit_cooldown=None)
    async with simulated(config=config) as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        await tickers.receive()
        exchange.faults.refuse_dials = True
        await exchange.disconnect_all()
        with pytest.raises(kufeed.ConnectionFailed):
            async for _ in tickers:
                pass
        exchange.faults.refuse_dials = False
        with trio.move_on_after(10_000) as scope:
            await tickers.receive()
        assert scope.cancelled_caught
        start = trio.current_time()
        feed.reset()
        await tickers.receive()
        assert trio.current_time() - start < 1


async def test_entering_fails_when_nothing_answers(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    exchange.faults.refuse_dials = True
    async with simulated(exchange, QUICK) as (_, feed):
        with pytest.raises(kufeed.ConnectionFailed, match="refused"):
            async with feed.ticker("XBTUSDTM"):
                pass
        await trio.sleep(60)
        assert feed.statistics().connections == ()


async def test_a_topic_refused_at_reconnect_is_raised_to_its_subscribers_alone(autojump_clock: MockClock) -> None:
    """A delisted symbol must not keep its neighbours from coming back."""
    exchange = Exchange(live=False)
    async with simulated(exchange) as (_, feed), feed.ticker("XBTUSDTM", "ETHUSDTM") as tickers:
        async with feed.ticker("GONEUSDTM") as gone:
            exchange._conversation.any_symbol = False  # it knows the first two
            await exchange.disconnect_all()
            with pytest.raises(kufeed.SubscriptionRejected) as refusal:
                await gone.receive()
            assert refusal.value.topic == "/contractMarket/tickerV2:GONEUSDTM"
            await trio.sleep(1)
            assert len(exchange.sessions[0].topics) == 2
            with pytest.raises(trio.WouldBlock):
                tickers.receive_nowait()


# -- silence ----------------------------------------------------------------------------------------------------------


async def test_a_silent_link_is_noticed_and_replaced(autojump_clock: MockClock) -> None:
    """Within ping interval + pong time-out, whatever the peer's TCP does."""
    exchange = Exchange(ping_interval=18.0, ping_timeout=10.0)
    async with simulated(exchange) as (_, feed), feed.ticker("XBTUSDTM") as tickers:
        await tickers.receive()
        start = trio.current_time()
        exchange.freeze()
        with trio.move_on_after(18.0 + 10.0 + 0.5):
            async for _ in tickers:
                pass
        (connection,) = feed.statistics().connections
        assert connection.last_failure == "no pong within 10 s"
        assert trio.current_time() - start <= 28.5


async def test_pongs_may_be_missing_while_data_flow(autojump_clock: MockClock) -> None:
    """Anything heard proves that the link is alive."""
    async with simulated() as (exchange, feed), feed.ticker("XBTUSDTM"):
        exchange.faults.withhold_pongs = True
        await trio.sleep(120)
        assert len(exchange.dials) == 1


async def test_no_welcome_fails_the_dial(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    exchange.faults.withhold_welcome = True
    async with simulated(exchange, FeedConfig(max_reconnect_attempts=0, connect_timeout=4.0)) as (_, feed):
        with pytest.raises(kufeed.ConnectionFailed, match="welcome"):
            async with feed.ticker("XBTUSDTM"):
                pass
        assert trio.current_time() == pytest.approx(4.0, abs=0.1)


async def test_a_day_of_pings(autojump_clock: MockClock) -> None:
    """20 h through the real trio-websocket, nearly till the link is replaced: one ping each 18 s, none late."""
    # The exchange hangs up on whoever is silent for longer: so no ping comes late.
    exchange = Exchange(update_interval=60.0, limits=Limits(token_life=None, client_silence=18.01))
    async with simulated(exchange) as (_, feed), feed.ticker("XBTUSDTM") as tickers:
        with trio.move_on_after(20 * 3600):
            async for _ in tickers:
                assert len(exchange.dials) == 1
        assert exchange.sessions[0].is_open
        pings = [json.loads(text) for text in exchange.sessions[0].received if '"ping"' in text]
        assert int(pings[-1]["id"].partition("-")[2]) >= 20 * 3600 / 18 - 1
        assert feed.statistics().connections[0].failures == 0


# -- errors and the end -----------------------------------------------------------------------------------------------


class BodyError(Exception):
    pass


async def test_an_error_of_the_body_comes_out_as_itself(autojump_clock: MockClock) -> None:
    error = BodyError("mine")
    with pytest.raises(BodyError) as raised:
        async with simulated() as (_, feed), feed.ticker("XBTUSDTM"):
            raise error
    assert raised.value is error
    assert raised.value.__context__ is None


async def test_a_group_that_the_user_raised_is_not_looked_into(autojump_clock: MockClock) -> None:
    group = ExceptionGroup("mine", [BodyError("only one")])
    with pytest.RaisesGroup(BodyError) as raised:
        async with simulated() as (_, feed), feed.ticker("XBTUSDTM"):
            raise group
    assert raised.value is group


class BrokenNetwork(MemoryNetwork):
    """A bug below us: the clock raises once it is told to."""

    broken = False

    def time_ns(self) -> int:
        if self.broken:
            raise RuntimeError("a bug")
        return super().time_ns()


async def test_a_bug_in_our_tasks_surfaces_as_itself(autojump_clock: MockClock) -> None:
    async with BrokenNetwork(Exchange()) as network:
        with pytest.raises(RuntimeError, match="a bug"):
            async with kufeed.open_feed(network=network) as feed, feed.ticker("XBTUSDTM") as tickers:
                network.exchange._clock.time_ns = lambda: 0
                network.broken = True
                async for _ in tickers:
                    pass


async def test_the_body_wins_when_both_fail(autojump_clock: MockClock) -> None:
    async with BrokenNetwork(Exchange()) as network:
        with pytest.raises(BodyError) as raised:
            async with kufeed.open_feed(network=network) as feed, feed.ticker("XBTUSDTM"):
                network.exchange._clock.time_ns = lambda: 0
                network.broken = True
                try:
                    await trio.sleep_forever()
                finally:
                    raise BodyError  # that is the case in question
        context = raised.value.__context__
        assert isinstance(context, ExceptionGroup)
        assert context.subgroup(lambda error: str(error) == "a bug") is not None


async def test_when_the_block_is_cancelled_the_body_still_has_a_working_feed(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed):
        pass
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        with trio.CancelScope() as scope:
            async with kufeed.open_feed(network=network) as feed, feed.ticker("XBTUSDTM") as tickers:
                scope.cancel()
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                        assert (await tickers.receive()).symbol == "XBTUSDTM"
        assert scope.cancelled_caught


async def test_leaving_says_goodbye_at_once(autojump_clock: MockClock) -> None:
    async with MemoryNetwork(Exchange()) as network:
        async with kufeed.open_feed(network=network) as feed, feed.ticker("XBTUSDTM", "BTC-USDT"):
            await trio.sleep(1)
            start = trio.current_time()
        assert trio.current_time() - start < 0.01
        await trio.sleep(0.01)
        assert network.exchange.sessions == ()
        assert network.exchange.statistics().connections_lost == 0


class StallingStream(trio.abc.Stream):
    def __init__(self, stream: trio.abc.Stream, network: StallingNetwork) -> None:
        self.stream = stream
        self.network = network

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.stream.receive_some(max_bytes)
        if self.network.silent:
            await trio.sleep_forever()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.network.full:
            await trio.sleep_forever()
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self.stream.aclose()


class StallingNetwork(MemoryNetwork):
    """Connections whose peer vanished (`silent`: nothing arrives) or does not read (`full`: nothing is taken)."""

    silent = False
    full = False

    async def open_stream(self, host: str, port: int, tls: Any) -> trio.abc.Stream:
        return StallingStream(await super().open_stream(host, port, tls), self)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_leaving_is_bounded_when_nobody_answers(autojump_clock: MockClock, cancelled: bool, full: bool) -> None:
    """One absolute deadline for the whole feed, however many links there are."""
    config = FeedConfig(close_timeout=1.5, topics_per_connection=1)
    async with StallingNetwork(Exchange()) as network:
        with trio.CancelScope() as scope:
            async with kufeed.open_feed(config, network=network) as feed:
                async with feed.ticker("XBTUSDTM", "ETHUSDTM", "BTC-USDT"):
                    network.silent, network.full = True, full
                    start = trio.current_time()
                    if cancelled:
                        scope.cancel()
                        await trio.sleep(1)
        assert trio.current_time() - start == pytest.approx(1.5, abs=0.01)


async def test_a_stuck_send_is_noticed_while_data_flow(autojump_clock: MockClock) -> None:
    """The peer pushes and does not read: no pong is missed, but the ping cannot leave."""
    async with StallingNetwork(Exchange()) as network, kufeed.open_feed(network=network) as feed:
        async with feed.ticker("XBTUSDTM") as tickers:
            await tickers.receive()
            network.full = True
            await trio.sleep(18.0 + 10.0 + 0.5)
            (connection,) = feed.statistics().connections
            assert connection.last_failure == "a frame could not be sent within 10 s"


@pytest.mark.parametrize("when", [0.0, 0.01, 0.5])
async def test_leaving_while_dialling_is_immediate(autojump_clock: MockClock, when: float) -> None:
    exchange = Exchange()
    exchange.freeze()
    async with MemoryNetwork(exchange) as network:
        async with kufeed.open_feed(network=network) as feed:
            with trio.move_on_after(when):
                async with feed.ticker("XBTUSDTM"):
                    pass
        assert trio.current_time() == pytest.approx(when, abs=0.01)


async def test_an_idle_link_lingers_for_the_next_subscription(autojump_clock: MockClock) -> None:
    async with simulated(config=FeedConfig(linger=5.0)) as (exchange, feed):
        async with feed.ticker("XBTUSDTM"):
            pass
        await trio.sleep(4.9)
        async with feed.ticker("XBTUSDTM") as tickers:
            await tickers.receive()
            await trio.sleep(10)
            assert len(exchange.dials) == 1
        await trio.sleep(5.1)
        assert exchange.sessions == ()
        assert feed.tree() == "open_feed\n  books\n  pool\n  watchers"
        async with feed.ticker("XBTUSDTM") as tickers:
            await tickers.receive()
        assert len(exchange.dials) == 2


# -- looking inside ---------------------------------------------------------------------------------------------------


async def test_the_task_tree_has_the_names_of_the_design(autojump_clock: MockClock) -> None:
    """docs/design.rst shows this tree."""
    async with simulated() as (_, feed), feed.ticker("XBTUSDTM"):
        assert feed.tree().splitlines() == [
            "open_feed",
            "  books",
            "  pool",
            "    connection #1",
            "      line 0",
            "        link",
            "          reader",
            "          sender",
            "          watchdog",
            "  watchers",
        ]


async def test_a_bad_message_is_counted_and_ends_nothing(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(live=False)) as (exchange, feed), feed.ticker("BTC-USDT") as tickers:
        good = {
            "topic": "/market/ticker:BTC-USDT",
            "type": "message",
            "subject": "trade.ticker",
            "data": {
                "sequence": "7",
                "price": "2",
                "size": "1",
                "bestAsk": "3",
                "bestAskSize": "1",
                "bestBid": "1.5",
                "bestBidSize": "1",
                "time": 1704873323416,
            },
        }
        bad = {**good, "data": {**good["data"], "bestBid": "1_5"}}  # type: ignore[dict-item]
        await exchange.play([json.dumps(bad), json.dumps(good)])
        assert (await tickers.receive()).bid == Decimal("1.5")
        statistics = feed.statistics()
        assert statistics.refused == {"bestBid": 1}
        assert statistics.refused_samples == {"bestBid": "bestBid: '1_5'"}
        assert tickers.statistics().received == 1
        assert len(exchange.dials) == 1


# -- several at once --------------------------------------------------------------------------------------------------


async def test_leaving_the_feed_fails_whoever_is_entering(autojump_clock: MockClock) -> None:
    """In another task, which outlives the feed: it must not wait for an ack that cannot come."""
    exchange = Exchange()
    exchange.faults.withhold_acks = True
    failures: list[str] = []

    async def enter(feed: kufeed.Feed, opened: kufeed.Subscription[kufeed.Ticker] | None) -> None:
        with pytest.raises(kufeed.UsageError, match="closed") as failure:
            if opened is None:
                async with feed.trades("XBTUSDTM"):
                    pass
            else:
                await opened.add("BTC-USDT")
        failures.append(str(failure.value))

    async with MemoryNetwork(exchange) as network, trio.open_nursery() as nursery:
        async with kufeed.open_feed(network=network) as feed:
            exchange.faults.withhold_acks = False
            opened = await feed.ticker("XBTUSDTM").__aenter__()
            exchange.faults.withhold_acks = True
            # The tasks outlive the feed they use: that is the case in question.
            nursery.start_soon(enter, feed, None)  # noqa: ASYNC111
            nursery.start_soon(enter, feed, opened)  # noqa: ASYNC111
            await trio.sleep(1)
    assert len(failures) == 2


async def test_the_same_symbol_added_twice_at_once_comes_once(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed), feed.trades("XBTUSDTM") as trades:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(trades.add, "ETHUSDTM")
        assert len(trades.topics) == 2
        numbers = [
            trade.sequence for trade in [await trades.receive() for _ in range(200)] if trade.symbol == "ETHUSDTM"
        ]
        assert numbers == sorted(set(numbers))


async def test_a_cancelled_add_leaves_its_place_to_the_next(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), feed.trades("XBTUSDTM") as trades:
        exchange.faults.withhold_acks = True
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def impatient() -> None:
                with trio.move_on_after(1):
                    await trades.add("ETHUSDTM")
                exchange.faults.withhold_acks = False

            await wait_all_tasks_blocked()
            await trades.add("ETHUSDTM")
        assert (await trades.receive()).symbol
        assert set(exchange.sessions[0].topics) == {str(one) for one in trades.topics}


@pytest.mark.parametrize("backfill", [False, True])
async def test_a_failed_add_is_told_to_who_added_alone(autojump_clock: MockClock, backfill: bool) -> None:
    config = FeedConfig(max_reconnect_attempts=1, reconnect_delay=0.1, circuit_cooldown=None)
    async with simulated(config=config) as (exchange, feed), feed.trades("XBTUSDTM", backfill=backfill) as trades:
        exchange.faults.token_error = 503
        with pytest.raises(kufeed.ConnectionFailed):
            await trades.add("BTC-USDT")
        assert [str(one) for one in trades.topics] == ["/contractMarket/execution:XBTUSDTM"]
        for _ in range(3):
            assert (await trades.receive()).symbol == "XBTUSDTM"


@pytest.mark.parametrize("how", ["given up", "not answered", "refused"])
async def test_a_failed_add_does_not_cost_another_kind_on_the_same_wire(autojump_clock: MockClock, how: str) -> None:
    """It is told of the failure in its stream, and goes on with it."""
    config = FeedConfig(max_reconnect_attempts=1, reconnect_delay=1.0, circuit_cooldown=20.0)
    wire = "/contract/instrument:XBTUSDTM"
    errors = {
        "given up": kufeed.ConnectionFailed,
        "not answered": kufeed.SubscriptionTimeout,
        "refused": kufeed.SubscriptionRejected,
    }
    marks = [topic("ticker", "ETHUSDTM"), topic("mark_price", "XBTUSDTM")]
    async with simulated(config=config) as (exchange, feed), feed.subscribe(*marks) as updates:
        exchange.faults.refuse_dials = how == "given up"
        exchange.faults.ignore_topics = {wire} if how == "not answered" else ()
        if how == "refused":
            exchange.delist("XBTUSDTM")
        await exchange.disconnect_all()
        await wait_all_tasks_blocked()
        with pytest.raises(errors[how]):
            await updates.add(topic("index_price", "XBTUSDTM"))
        exchange.faults.refuse_dials = False
        exchange.faults.ignore_topics = ()
        told: list[Exception] = []
        kinds: set[str] = set()
        with trio.move_on_after(60):
            while True:
                try:
                    kinds.add((await updates.receive()).kind)
                except kufeed.KufeedError as error:
                    told.append(error)
                    kinds.clear()
        assert [type(error) for error in told] == [errors[how]]
        assert kinds == ({"ticker"} if how == "refused" else {"ticker", "mark_price"})


async def test_closing_while_another_task_adds_leaves_nothing(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), trio.open_nursery() as nursery:
        async with feed.ticker("XBTUSDTM") as tickers:
            exchange.faults.withhold_acks = True

            @nursery.start_soon
            async def add() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await tickers.add("ETHUSDTM")

            await trio.sleep(1)
        exchange.faults.withhold_acks = False
        await trio.sleep(3)
        assert exchange.sessions[0].topics == ()


async def test_used_up_attempts_are_told_to_everybody_they_concern(autojump_clock: MockClock) -> None:
    """To the consumer and to each task that adds, all of one subscription."""
    async with simulated(config=QUICK) as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        told: list[str] = []

        async def expect(name: str, wait: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(kufeed.ConnectionFailed):
                while True:
                    await wait()
            told.append(name)

        exchange.faults.refuse_dials = True
        await exchange.disconnect_all()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect, "consumer", tickers.receive)
                nursery.start_soon(expect, "first", partial(tickers.add, "ETHUSDTM"))
                nursery.start_soon(expect, "second", partial(tickers.add, "T0001USDTM"))
        assert sorted(told) == ["consumer", "first", "second"]


async def test_a_restored_topic_without_an_ack_is_told_and_asked_for_again(autojump_clock: MockClock) -> None:
    """Its neighbours stay up; whoever enters it meanwhile gets a time-out of its own, in its own time."""
    wire = "/contractMarket/execution:ETHUSDTM"
    wanted = [topic("ticker", "XBTUSDTM"), topic("trade", "ETHUSDTM")]
    async with simulated() as (exchange, feed), feed.subscribe(*wanted) as tickers:
        exchange.faults.ignore_topics = {wire}
        await exchange.disconnect_all()
        await exchange.wait_subscribed("/contractMarket/tickerV2:XBTUSDTM")
        await trio.sleep(5)
        start = trio.current_time()
        with pytest.raises(kufeed.SubscriptionTimeout):
            async with feed.trades("ETHUSDTM"):
                pass
        assert trio.current_time() - start <= 10.1
        with pytest.raises(kufeed.SubscriptionTimeout, match=wire):
            while True:
                assert (await tickers.receive()).symbol
        assert len(exchange.dials) == 2
        exchange.faults.ignore_topics = set()
        await exchange.wait_subscribed(wire)
        with trio.fail_after(5):
            while (await tickers.receive()).symbol != "ETHUSDTM":
                pass
        assert len(exchange.dials) == 2


async def test_a_topic_that_is_never_answered_keeps_no_other_from_coming_back(autojump_clock: MockClock) -> None:
    """Asked for in one frame: another link is tried once, then halves find the one that is at fault."""
    symbols = [f"T{number:04}USDTM" for number in range(1, 17)]
    async with simulated(Exchange(generated=16, update_interval=1.0)) as (exchange, feed), feed.ticker(*symbols):
        exchange.faults.ignore_topics = {"/contractMarket/tickerV2:T0005USDTM"}
        await exchange.disconnect_all()
        await trio.sleep(75)
        assert len(exchange.sessions[0].topics) == 15
        assert len(exchange.dials) == 3
        exchange.faults.ignore_topics = set()
        await trio.sleep(15)
        assert len(exchange.sessions[0].topics) == 16


async def test_without_any_ack_the_link_is_at_fault(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        exchange.faults.withhold_acks = True
        await exchange.disconnect_all()
        await trio.sleep(12)
        assert len(exchange.dials) == 3
        assert feed.statistics().connections[0].last_failure == "no acknowledgement within 10 s"
        exchange.faults.withhold_acks = False
        await trio.sleep(15)
        assert feed.statistics().connections[0].acked == 1
        with pytest.raises(kufeed.SubscriptionTimeout):
            while True:
                tickers.receive_nowait()


@pytest.mark.parametrize(("limit", "links"), [(98, [98, 2]), (50, [50, 50]), (30, [30, 30, 30, 10])])
async def test_the_exchanges_own_limit_is_learnt(autojump_clock: MockClock, limit: int, links: list[int]) -> None:
    """One refusal tells it: the topics are spread in as few links as that allows."""
    exchange = Exchange(generated=100, limits=Limits(futures_topics=limit))
    async with simulated(exchange) as (_, feed), feed.ticker(*(f"T{number:04}USDTM" for number in range(1, 101))):
        assert [len(session.topics) for session in exchange.sessions] == links


async def test_a_full_link_with_no_other_allowed_is_told(autojump_clock: MockClock) -> None:
    exchange = Exchange(limits=Limits(futures_topics=1))
    async with simulated(exchange, FeedConfig(max_connections=1)) as (_, feed):
        with pytest.raises(kufeed.ExchangeError, match="max_connections is 1"):
            async with feed.ticker("XBTUSDTM", "ETHUSDTM"):
                pass


async def test_changing_ones_mind_costs_the_exchange_nothing(autojump_clock: MockClock) -> None:
    """A storm of entering and cancelling does not keep the next subscription waiting."""
    async with simulated() as (exchange, feed), feed.ticker("XBTUSDTM"):
        for _ in range(3000):
            with trio.move_on_after(0.0001):
                async with feed.ticker("ETHUSDTM"):
                    pass
        start = trio.current_time()
        async with feed.trades("ETHUSDTM"):
            assert trio.current_time() - start <= 11.01  # one window of frames: 10 s, and 1 s for their way
        assert exchange.statistics().dials == 1


async def test_feeds_with_different_shares_stay_within_one_budget(autojump_clock: MockClock) -> None:
    exchange = Exchange(generated=60, update_interval=1.0)
    async with MemoryNetwork(exchange) as network, trio.open_nursery() as nursery:
        for start, share in ((1, 1.0), (31, 0.9)):

            @nursery.start_soon
            async def run(start: int = start, share: float = share) -> None:
                config = FeedConfig(topics_per_connection=1, budget_share=share)
                async with kufeed.open_feed(config, network=network) as feed:
                    async with feed.ticker(*(f"T{number:04}USDTM" for number in range(start, start + 30))):
                        pass

    assert exchange.statistics().dials_refused == 0
    times = [dial.at for dial in exchange.dials]
    assert len(times) == 60
    assert all(later - earlier >= 60.0 for earlier, later in zip(times, times[30:], strict=False))


async def test_one_market_waiting_for_its_budget_keeps_no_other_from_dialling(autojump_clock: MockClock) -> None:
    config = FeedConfig(topics_per_connection=1)
    exchange = Exchange(generated=40, update_interval=1.0)
    async with simulated(exchange, config) as (_, feed), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def many() -> None:
            async with feed.ticker(*(f"T{number:04}USDTM" for number in range(1, 41))):
                pass

        await trio.sleep(1)
        start = trio.current_time()
        async with feed.ticker("BTC-USDT"):
            assert trio.current_time() - start < 1


async def test_a_connection_that_nobody_wants_any_more_does_not_dial(autojump_clock: MockClock) -> None:
    config = FeedConfig(topics_per_connection=1)
    async with simulated(Exchange(generated=60), config) as (exchange, feed):
        with trio.move_on_after(1):
            async with feed.ticker(*(f"T{number:04}USDTM" for number in range(1, 61))):
                pass
        await trio.sleep(200)
        assert exchange.statistics().dials == 30


async def test_an_idle_link_makes_room_for_another_market(autojump_clock: MockClock) -> None:
    async with simulated(config=FeedConfig(max_connections=1, linger=1000.0)) as (exchange, feed):
        async with feed.ticker("XBTUSDTM"):
            pass
        async with feed.ticker("BTC-USDT") as tickers:
            await tickers.receive()
            assert [session.market for session in exchange.sessions] == ["spot"]


async def test_all_symbols_removed_others_may_be_added(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed), feed.ticker("XBTUSDTM") as tickers:
        tickers.remove("XBTUSDTM")
        await tickers.add("ETHUSDTM")
        while (await tickers.receive()).symbol != "ETHUSDTM":
            pass


async def test_each_dial_has_a_connect_id_of_its_own(autojump_clock: MockClock) -> None:
    async with simulated(config=FeedConfig(topics_per_connection=1)) as (exchange, feed):
        async with feed.ticker("XBTUSDTM", "ETHUSDTM", "BTC-USDT"):
            assert len({session.connect_id for session in exchange.sessions}) == 3


async def test_batches_are_what_is_there(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed), feed.trades("XBTUSDTM") as trades:
        await trio.sleep(20)
        waiting = trades.statistics().pending
        sizes, numbers = [], []
        async for batch in trades.batches(max_size=7):
            sizes.append(len(batch))
            numbers += [trade.sequence for trade in batch]
            if sum(sizes) >= waiting:
                break
        assert sizes[:-1] == [7] * (len(sizes) - 1)
        assert numbers == sorted(set(numbers))
        assert trades.statistics().delivered == len(numbers)
        with pytest.raises(kufeed.UsageError, match="max_size"):
            trades.batches(0)


async def test_two_that_try_again_after_a_time_out_are_both_served(autojump_clock: MockClock) -> None:
    """The second joins a topic in the moment in which it was given up: it must be asked for again."""
    async with simulated() as (exchange, feed):
        exchange.faults.withhold_acks = True

        async def enter() -> None:
            while True:
                try:
                    async with feed.ticker("XBTUSDTM") as tickers:
                        await tickers.receive()
                        await trio.sleep(20)
                        return
                except kufeed.SubscriptionTimeout:
                    continue

        with trio.fail_after(100):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(enter)
                nursery.start_soon(enter)
                await trio.sleep(15)
                exchange.faults.withhold_acks = False


async def test_adding_during_a_restore_does_not_cost_what_was_there(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        exchange.faults.withhold_acks = True
        await exchange.disconnect_all()
        await trio.sleep(0.001)
        with pytest.raises(kufeed.SubscriptionTimeout, match="ETHUSDTM"):
            await tickers.add("ETHUSDTM")
        exchange.faults.withhold_acks = False
        with trio.fail_after(60), pytest.raises(kufeed.SubscriptionTimeout, match="XBTUSDTM"):
            while True:
                await tickers.receive()
        with trio.fail_after(60):
            await tickers.receive()
        assert [str(one) for one in tickers.topics] == ["/contractMarket/tickerV2:XBTUSDTM"]


async def test_an_exchange_that_takes_no_topic_at_all_is_not_asked_for_ever(autojump_clock: MockClock) -> None:
    """Called full with one topic, a connection is not full: another would do no better."""

    def refuse(session: Any, request_id: str | None, text: str, *, ack: bool) -> None:
        session.reply(
            json.dumps(
                {
                    "id": request_id,
                    "type": "error",
                    "code": 509,
                    "data": "exceed max subscription count limitation of 300 per session",
                }
            )
        )

    refusing = Exchange()
    refusing._conversation.subscribe = refuse  # type: ignore[method-assign]
    async with simulated(refusing) as (exchange, feed):
        with trio.fail_after(60), pytest.raises(kufeed.SubscriptionRejected, match="full"):
            async with feed.ticker("XBTUSDTM", "ETHUSDTM", "BTC-USDT"):
                pass
        assert len(exchange.dials) <= 4


async def test_a_topic_refused_for_all_is_added_for_each(autojump_clock: MockClock) -> None:
    exchange = Exchange(live=False)
    async with simulated(exchange) as (_, feed), feed.ticker("XBTUSDTM", "GONEUSDTM") as first:
        async with feed.ticker("XBTUSDTM", "GONEUSDTM") as second:
            exchange._conversation.any_symbol = False
            await exchange.disconnect_all()
            for end in (first, second):
                with pytest.raises(kufeed.SubscriptionRejected):
                    await end.receive()
            exchange._conversation.any_symbol = True
            await second.add("GONEUSDTM")
            await first.add("GONEUSDTM")
            gone = feed._pool._streams[topic("ticker", "GONEUSDTM"), None][0]
            assert set(gone.sinks) == {first._queue, second._queue}


async def test_halves_find_two_topics_that_are_never_answered(autojump_clock: MockClock) -> None:
    """Frames with either of them are not answered at all; they are told once, together, and the rest comes back."""

    deaf = Exchange(generated=16)
    subscribe = deaf._conversation.subscribe

    def ignore_two(session: Any, request_id: str | None, text: str, *, ack: bool) -> None:
        if len(deaf.dials) == 1 or not {"T0003USDTM", "T0014USDTM"} & set(text.partition(":")[2].split(",")):
            subscribe(session, request_id, text, ack=ack)

    deaf._conversation.subscribe = ignore_two  # type: ignore[method-assign]
    symbols = [f"T{number:04}USDTM" for number in range(1, 17)]
    async with simulated(deaf) as (exchange, feed), feed.ticker(*symbols) as tickers:
        await exchange.disconnect_all()
        await trio.sleep(90)
        assert len(exchange.sessions[0].topics) == 14
        told = 0
        while tickers.statistics().pending:
            try:
                tickers.receive_nowait()
            except kufeed.SubscriptionTimeout:
                told += 1
        assert told == 1


async def test_a_bad_proxy_of_the_environment_is_named_and_ends_nothing_else(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "proxy.corp:3128")
    async with simulated(config=FeedConfig(trust_env=True, max_reconnect_attempts=0)) as (_, feed):
        with pytest.raises(kufeed.ConnectionFailed, match="HTTPS_PROXY"):
            async with feed.ticker("XBTUSDTM"):
                pass


async def test_a_bug_is_not_hidden_by_whoever_was_entering(autojump_clock: MockClock) -> None:
    async with BrokenNetwork(Exchange()) as network:
        network.exchange._clock.time_ns = lambda: 0
        network.broken = True
        with pytest.raises(RuntimeError, match="a bug"):
            async with kufeed.open_feed(network=network) as feed, feed.ticker("XBTUSDTM"):
                pytest.fail("the clock is read when the first frame comes")


@pytest.mark.parametrize("name", ["depth", "kinds", "bufer"])
async def test_an_option_that_there_is_not_is_a_type_error(autojump_clock: MockClock, name: str) -> None:
    async with simulated() as (_, feed):
        for make in (feed.ticker, feed.trades, feed.book_deltas):
            with pytest.raises(TypeError, match=name):
                make("BTC-USDT", **{name: 3})  # type: ignore[call-overload]
        with pytest.raises(TypeError, match=name):
            feed.subscribe(kufeed.topic("ticker", "BTC-USDT"), **{name: 3})  # type: ignore[misc]
