"""`wait="none"`: entering returns at once, and what follows is told in the stream. Progress for those who look."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

import kufeed
from kufeed import FeedConfig, Progress
from kufeed.testing import Exchange, MemoryNetwork

FUTURES = "/contractMarket/tickerV2:XBTUSDTM"


@asynccontextmanager
async def simulated(exchange: Exchange, **config: Any) -> AsyncIterator[kufeed.Feed]:
    async with MemoryNetwork(exchange) as network:
        config = {"reconnect_delay": 0.1, **config}
        async with kufeed.open_feed(FeedConfig(**config), network=network, rng=random.Random(1)) as feed:
            yield feed


# -- entering ---------------------------------------------------------------------------------------------------------


async def test_entering_returns_before_anything_is_dialled(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    async with simulated(exchange) as feed:
        start = trio.current_time()
        with assert_checkpoints():
            tickers = await feed.ticker("XBTUSDTM", "BTC-USDT", wait="none").__aenter__()
        assert (trio.current_time(), len(exchange.dials)) == (start, 0)
        await tickers.wait_acked()
        assert feed.state == "live"
        with assert_checkpoints():
            await tickers.wait_acked()
        assert {(await tickers.receive()).symbol for _ in range(10)} == {"XBTUSDTM", "BTC-USDT"}
        with assert_checkpoints():
            await tickers.add("ETHUSDTM")
        assert feed.state == "degraded"
        await tickers.wait_acked()
        assert len(tickers.topics) == 3
        tickers.close()


async def test_what_cannot_be_is_told_before_anything_is_sent(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    async with simulated(exchange, max_connections=1, topics_per_connection=1) as feed:
        with pytest.raises(kufeed.UsageError, match="max_connections is 1"):
            async with feed.ticker("XBTUSDTM", "ETHUSDTM", wait="none"):
                pass
        with pytest.raises(kufeed.UsageError, match="wait must be 'acks' or 'none', not 'forever'"):
            feed.ticker("XBTUSDTM", wait="forever")  # type: ignore[arg-type]
        await trio.sleep(1)
        assert (feed.state, len(exchange.dials)) == ("idle", 0)


async def test_cancelled_it_leaves_nothing_subscribed(autojump_clock: MockClock) -> None:
    async with simulated(Exchange()) as feed:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with feed.ticker("XBTUSDTM", wait="none"):
                pytest.fail("entered")
        assert feed.state == "idle"


# -- what comes at its place in the stream ----------------------------------------------------------------------------


@pytest.mark.parametrize("partial", [False, True])
async def test_a_refusal_is_raised_at_its_place(autojump_clock: MockClock, partial: bool) -> None:
    async with simulated(Exchange(partial_subscribe=partial)) as feed:
        async with feed.ticker("XBTUSDTM", "NONEUSDTM", wait="none") as tickers:
            await tickers.wait_acked()
            with pytest.raises(kufeed.SubscriptionRejected, match="NONEUSDTM"):
                await tickers.receive()
            assert (await tickers.receive()).symbol == "XBTUSDTM"
            assert ([one.symbol for one in tickers.topics], len(tickers.refused)) == (["XBTUSDTM"], 1)


async def test_a_refusal_of_all_is_told_too(autojump_clock: MockClock) -> None:
    async with simulated(Exchange()) as feed:
        async with feed.ticker("NONEUSDTM", wait="none", on_reject="skip") as tickers:
            event = await tickers.with_events().__anext__()
            assert isinstance(event, kufeed.Refused)
            await tickers.wait_acked()
            assert tickers.topics == ()


async def test_a_missing_ack_is_raised_at_its_place_and_asked_for_again(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    exchange.faults.ignore_topics = {FUTURES}
    async with simulated(exchange, ack_timeout=1.0) as feed:
        async with feed.ticker("XBTUSDTM", "ETHUSDTM", wait="none") as tickers:
            with pytest.raises(kufeed.SubscriptionTimeout), trio.fail_after(20):
                while True:
                    await tickers.receive()
            exchange.faults.ignore_topics = ()
            with trio.fail_after(30):
                await tickers.wait_acked()
            assert feed.state == "live"


@pytest.mark.parametrize("kind", ["ticker", "book"])
async def test_a_connection_that_has_given_up_is_raised_once(autojump_clock: MockClock, kind: str) -> None:
    """Whether it had done so before, or does so now."""
    exchange = Exchange()
    exchange.faults.refuse_dials = True
    async with simulated(exchange, max_reconnect_attempts=1, circuit_cooldown=20.0) as feed:
        async with getattr(feed, kind)("XBTUSDTM", wait="none") as first:
            with pytest.raises(kufeed.ConnectionFailed):
                await first.receive()
            async with getattr(feed, kind)("XBTUSDTM", wait="none") as second:
                with pytest.raises(kufeed.ConnectionFailed):
                    await second.receive()
                exchange.faults.refuse_dials = False
                with trio.fail_after(60):
                    await second.wait_acked()
                    assert (await second.receive()).symbol == (await first.receive()).symbol == "XBTUSDTM"


# -- waiting later ----------------------------------------------------------------------------------------------------


async def test_waiting_waits_for_what_was_lost_meanwhile(autojump_clock: MockClock) -> None:
    """All is acknowledged at one moment, not each at some."""
    exchange = Exchange()
    exchange.faults.ignore_topics = {FUTURES}
    async with simulated(exchange, ack_timeout=1.0) as feed:
        async with feed.ticker("XBTUSDTM", "ETHUSDTM", "BTC-USDT", wait="none") as tickers:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tickers.wait_acked)
                await trio.sleep(0.1)
                exchange.faults.ignore_topics = {"/market/ticker:BTC-USDT"}
                await exchange.disconnect_all()
                await trio.sleep(0.5)
                assert nursery.child_tasks
                exchange.faults.ignore_topics = ()
            assert feed.state == "live"


async def test_waiting_ends_with_the_subscription_or_the_feed(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    exchange.faults.withhold_acks = True
    outcomes: list[str] = []

    async def wait(tickers: kufeed.Subscription[kufeed.Ticker], name: str) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await tickers.wait_acked()
        outcomes.append(name)

    async with trio.open_nursery() as nursery:
        async with simulated(exchange) as feed:
            async with feed.ticker("XBTUSDTM", wait="none") as tickers:
                nursery.start_soon(wait, tickers, "subscription")  # noqa: ASYNC111  # its end is what is tested
                await wait_all_tasks_blocked()
            await wait_all_tasks_blocked()
            assert outcomes == ["subscription"]
            tickers = await feed.ticker("XBTUSDTM", wait="none").__aenter__()
            nursery.start_soon(wait, tickers, "feed")
            await wait_all_tasks_blocked()
    assert outcomes == ["subscription", "feed"]
    with pytest.raises(trio.ClosedResourceError):
        await tickers.wait_acked()


async def test_it_ends_with_its_own_end_of_the_subscription(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    exchange.faults.withhold_acks = True
    async with simulated(exchange) as feed, feed.ticker("XBTUSDTM", wait="none") as tickers:
        with tickers.clone() as mine, trio.fail_after(1):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def wait() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await mine.wait_acked()

                await wait_all_tasks_blocked()
                mine.close()
        exchange.faults.withhold_acks = False
        await tickers.wait_acked()


async def test_it_is_for_those_who_are_inside(autojump_clock: MockClock) -> None:
    async with simulated(Exchange()) as feed:
        with pytest.raises(kufeed.UsageError, match="enter the subscription first"):
            await feed.ticker("XBTUSDTM").wait_acked()


# -- handlers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_handler_starts_at_once_and_hears_later(autojump_clock: MockClock, workers: int) -> None:
    seen: set[str] = set()
    errors: list[Exception] = []

    async def handle(ticker: kufeed.Ticker) -> None:
        seen.add(ticker.symbol)

    def note(error: Exception, _: str) -> Any:
        errors.append(error)
        return "isolate"

    exchange = Exchange()
    async with simulated(exchange) as feed, feed.open_handlers(on_error=note) as handlers:
        await handlers.start(handle, feed.ticker("XBTUSDTM", "BTC-USDT", "NONE-USDT", wait="none"), workers=workers)
        await handlers.start(lambda one: seen.add(f"inline {one.symbol}"), feed.ticker("ETHUSDTM", wait="none"))
        assert not exchange.dials
        await trio.sleep(1)
    assert seen == {"XBTUSDTM", "BTC-USDT", "inline ETHUSDTM"}
    assert [type(error) for error in errors] == [kufeed.SubscriptionRejected]


# -- progress ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("market", "count"), [("futures", 3_200), pytest.param("spot", 10_000, marks=pytest.mark.long)]
)
async def test_thousands_of_topics_show_their_progress_and_flow_meanwhile(
    autojump_clock: MockClock, market: Literal["futures", "spot"], count: int
) -> None:
    """The dials of a minute are not enough for all: what is acknowledged streams, while the rest waits its turn."""
    exchange = Exchange(generated=count, update_interval=25.0, book_levels=40)
    symbols = [symbol for symbol in exchange.model.symbols(market) if symbol.startswith("T")]
    early: set[str] = set()

    async with simulated(exchange) as feed:
        events = feed.events()

        async def read(tickers: kufeed.Subscription[kufeed.Ticker]) -> None:
            async for ticker in tickers:
                if feed.state != "live":
                    early.add(ticker.symbol)

        async with trio.open_nursery() as nursery:
            async with feed.ticker(*symbols, wait="none") as tickers:
                nursery.start_soon(read, tickers)  # noqa: ASYNC111  # it is told that it was closed
                with trio.fail_after(600):
                    await tickers.wait_acked()
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
    told = [one async for one in events if isinstance(one, Progress)]
    counts = [one.acked for one in told]
    assert told[0] == Progress(0, count)
    assert told[-1] == Progress(count, count)
    assert counts == sorted(set(counts))
    assert len(told) > 2
    assert len(early) >= 1000
