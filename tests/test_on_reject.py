"""What a refused topic does: raise, or be left out. Its neighbours go on in any case."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import kufeed
from kufeed import FeedConfig, FeedEvents, SubscriptionRejected, TopicRefused, topic
from kufeed.testing import Exchange, Limits, MemoryNetwork

GOOD, BAD = topic("ticker", "XBTUSDTM"), topic("ticker", "NONEUSDTM")
both_exchanges = pytest.mark.parametrize("partial", [False, True])
"""Whether one bad symbol refuses its whole frame, or is refused alone."""


@asynccontextmanager
async def simulated(exchange: Exchange, **config: Any) -> AsyncIterator[tuple[kufeed.Feed, FeedEvents]]:
    async with MemoryNetwork(exchange) as network:
        config = {"reconnect_delay": 0.1, **config}
        async with kufeed.open_feed(FeedConfig(**config), network=network, rng=random.Random(1)) as feed:
            with feed.events() as events:
                yield feed, events


def refused(events: FeedEvents) -> list[str]:
    found = []
    try:
        while True:
            one = events.receive_nowait()
            if isinstance(one, TopicRefused):
                assert one.code == 404
                assert one.message == f"topic {one.topic.wire} is not found"
                found.append(one.topic.symbol)
    except trio.WouldBlock:
        return found


# -- entering ---------------------------------------------------------------------------------------------------------


@both_exchanges
@pytest.mark.parametrize("where", ["feed", "subscription"])
async def test_entering_goes_on_without_what_is_refused(autojump_clock: MockClock, partial: bool, where: str) -> None:
    options: Any = {"on_reject": "skip"}
    exchange = Exchange(partial_subscribe=partial)
    async with simulated(exchange, **(options if where == "feed" else {})) as (feed, events):
        tickers = feed.ticker("XBTUSDTM", "NONEUSDTM", "BTC-USDT", **(options if where == "subscription" else {}))
        async with tickers:
            assert [one.symbol for one in tickers.topics] == ["XBTUSDTM", "BTC-USDT"]
            assert list(tickers.refused) == [BAD]
            error = tickers.refused[BAD]
            assert isinstance(error, SubscriptionRejected)
            assert (error.topic, error.code) == (BAD.wire, "404")
            assert refused(events) == ["NONEUSDTM"]
            assert "NONEUSDTM" not in repr(tickers)
            seen = {(await tickers.receive()).symbol for _ in range(20)}
            assert seen == {"XBTUSDTM", "BTC-USDT"}
            assert feed.state == "live"


async def test_each_who_enters_is_raised_an_error_of_its_own(autojump_clock: MockClock) -> None:
    found: list[SubscriptionRejected] = []
    async with simulated(Exchange()) as (feed, _), trio.open_nursery() as nursery:

        async def enter() -> None:
            with pytest.raises(SubscriptionRejected) as raised:
                async with feed.ticker("NONEUSDTM"):
                    pytest.fail("entered")
            found.append(raised.value)

        nursery.start_soon(enter)
        nursery.start_soon(enter)
    one, other = found
    assert one is not other
    assert (str(one), one.topic, one.code) == (str(other), other.topic, other.code)


async def test_what_a_subscription_says_wins_over_the_feed(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(), on_reject="skip") as (feed, _):
        with pytest.raises(SubscriptionRejected):
            async with feed.ticker("XBTUSDTM", "NONEUSDTM", on_reject="raise"):
                pass
        with pytest.raises(kufeed.UsageError, match="on_reject must be 'raise' or 'skip', not 'ignore'"):
            feed.ticker("XBTUSDTM", on_reject="ignore")  # type: ignore[arg-type]


@both_exchanges
async def test_where_all_are_refused_it_raises(autojump_clock: MockClock, partial: bool) -> None:
    async with simulated(Exchange(partial_subscribe=partial), on_reject="skip") as (feed, events):
        async with feed.ticker("BTC-USDT") as tickers:
            with pytest.raises(SubscriptionRejected):
                async with feed.ticker("NONEUSDTM", "NOTHINGUSDTM", "NONE-USDT"):
                    pass
            assert sorted(refused(events)) == ["NONE-USDT", "NONEUSDTM", "NOTHINGUSDTM"]
            with pytest.raises(SubscriptionRejected):
                await tickers.add("NONE-USDT")
            assert (len(tickers.topics), tickers.refused) == (1, {})
            await tickers.add("ETH-USDT", "NONE-USDT")
            assert ([one.symbol for one in tickers.topics], len(tickers.refused)) == (["BTC-USDT", "ETH-USDT"], 1)


@both_exchanges
async def test_a_book_goes_on_without_what_is_refused(autojump_clock: MockClock, partial: bool) -> None:
    async with simulated(Exchange(partial_subscribe=partial), on_reject="skip") as (feed, _):
        async with feed.book("XBTUSDTM", "NONEUSDTM") as books:
            assert list(feed.books) == ["XBTUSDTM"]
            assert [one.symbol for one in books.refused] == ["NONEUSDTM"]
            assert {(await books.receive()).symbol for _ in range(5)} == {"XBTUSDTM"}


@both_exchanges
async def test_topics_that_share_the_wire_are_refused_together(autojump_clock: MockClock, partial: bool) -> None:
    async with simulated(Exchange(partial_subscribe=partial), on_reject="skip") as (feed, events):
        asked = [topic(kind, symbol) for kind in ("mark_price", "index_price") for symbol in ("XBTUSDTM", "NONEUSDTM")]
        async with feed.subscribe(*asked) as updates:
            assert [(one.kind, one.symbol) for one in updates.refused] == [
                ("mark_price", "NONEUSDTM"),
                ("index_price", "NONEUSDTM"),
            ]
            assert refused(events) == ["NONEUSDTM", "NONEUSDTM"]
            assert len(updates.topics) == 2


@pytest.mark.parametrize("on_reject", ["raise", "skip"])
async def test_what_adding_raises_is_not_told_in_the_stream_too(autojump_clock: MockClock, on_reject: Any) -> None:
    """Also of two topics that share the wire, and where no connection takes them."""
    limits = attrs.evolve(Limits(), futures_topics=1)
    exchange = Exchange(limits=limits)
    async with simulated(exchange, on_reject=on_reject, max_connections=1) as (feed, _):
        async with feed.subscribe(topic("ticker", "XBTUSDTM")) as updates:
            more = [topic(kind, "ETHUSDTM") for kind in ("mark_price", "index_price")]
            with trio.fail_after(60), pytest.raises(SubscriptionRejected, match="max_connections"):
                await updates.add(*more)
            await trio.sleep(1)
            found = [await updates.with_events().__anext__() for _ in range(3)]
            assert {type(one) for one in found} == {kufeed.Ticker}
            assert (len(updates.topics), updates.refused) == (1, {})


async def test_one_may_skip_what_another_is_told_of(autojump_clock: MockClock) -> None:
    """Both wait for the same topic."""
    outcomes: list[str] = []

    async def enter(feed: kufeed.Feed, on_reject: Any) -> None:
        try:
            async with feed.ticker("XBTUSDTM", "NONEUSDTM", on_reject=on_reject) as tickers:
                outcomes.append(f"{on_reject} {len(tickers.topics)}")
                await tickers.receive()
        except SubscriptionRejected:
            outcomes.append(f"{on_reject} failed")

    async with simulated(Exchange()) as (feed, _), trio.open_nursery() as nursery:
        nursery.start_soon(enter, feed, "raise")
        nursery.start_soon(enter, feed, "skip")
    assert sorted(outcomes) == ["raise failed", "skip 1"]


async def test_handlers_go_on_too(autojump_clock: MockClock) -> None:
    seen: set[str] = set()

    async def handle(ticker: kufeed.Ticker) -> None:
        seen.add(ticker.symbol)

    async with simulated(Exchange(), on_reject="skip") as (feed, _), feed.open_handlers() as handlers:
        await handlers.start(handle, feed.ticker("XBTUSDTM", "NONEUSDTM"))
        await handlers.start(lambda one: seen.add(f"inline {one.symbol}"), feed.ticker("BTC-USDT", "NONE-USDT"))
        await trio.sleep(1)
        assert seen == {"XBTUSDTM", "inline BTC-USDT"}


# -- reconnects -------------------------------------------------------------------------------------------------------


async def delist(exchange: Exchange) -> None:
    """From the next connection on the exchange does not have what it only made up."""
    exchange._conversation.any_symbol = False
    await exchange.disconnect_all()
    await trio.sleep(1)


@both_exchanges
@pytest.mark.parametrize("on_reject", ["raise", "skip"])
async def test_what_a_reconnect_finds_refused_never_touches_its_neighbours(
    autojump_clock: MockClock, partial: bool, on_reject: Any
) -> None:
    exchange = Exchange(accept_any_symbol=True, partial_subscribe=partial)
    async with simulated(exchange, on_reject=on_reject) as (feed, events):
        async with feed.ticker("XBTUSDTM", "NONEUSDTM") as tickers, feed.ticker("ETHUSDTM") as others:
            assert tickers.refused == {}
            await delist(exchange)
            assert refused(events) == ["NONEUSDTM"]
            assert tickers.topics == (GOOD,)
            assert list(tickers.refused) == [BAD]
            found: list[object] = []
            iterator = tickers.with_events()
            while len(found) < 30:
                try:
                    found.append(await iterator.__anext__())
                except SubscriptionRejected as error:
                    found.append(error)
            errors = [one for one in found if isinstance(one, SubscriptionRejected)]
            marks = [one for one in found if isinstance(one, kufeed.Refused)]
            assert (len(errors), len(marks)) == ((1, 0) if on_reject == "raise" else (0, 1))
            if marks:
                assert (marks[0].topic, marks[0].cause) == (BAD, tickers.refused[BAD])
            assert (await others.receive()).symbol == "ETHUSDTM"
            assert feed.state == "live"


@both_exchanges
async def test_it_may_be_added_again_and_removed(autojump_clock: MockClock, partial: bool) -> None:
    exchange = Exchange(accept_any_symbol=True, partial_subscribe=partial)
    async with simulated(exchange, on_reject="skip") as (feed, _):
        async with feed.ticker("XBTUSDTM", "NONEUSDTM", "NOTHINGUSDTM") as tickers:
            await delist(exchange)
            assert len(tickers.refused) == 2
            tickers.remove("NOTHINGUSDTM")
            assert list(tickers.refused) == [BAD]
            exchange._conversation.any_symbol = True
            await tickers.add("NONEUSDTM")
            assert (tickers.refused, tickers.topics) == ({}, (GOOD, BAD))


@pytest.mark.parametrize("on_reject", ["raise", "skip"])
async def test_readers_of_a_book_are_told_each_in_its_way(autojump_clock: MockClock, on_reject: Any) -> None:
    exchange = Exchange(generated=1)
    async with simulated(exchange, on_reject=on_reject) as (feed, events):
        async with feed.book("XBTUSDTM", "T0001USDTM") as books:
            for symbol in list(feed.books):
                await feed.books[symbol].wait_ready()
            del exchange.model._names["futures"]["T0001USDTM"]
            await delist(exchange)
            assert refused(events) == ["T0001USDTM"]
            assert [one.symbol for one in books.refused] == ["T0001USDTM"]
            raised = 0
            marks = []
            iterator = books.with_events()
            for _ in range(20):
                try:
                    one = await iterator.__anext__()
                except SubscriptionRejected:
                    raised += 1
                else:
                    marks += [one] if isinstance(one, kufeed.Refused) else []
            assert (raised, len(marks)) == ((1, 0) if on_reject == "raise" else (0, 1))
            assert list(feed.books) == ["XBTUSDTM"]


@pytest.mark.parametrize("on_reject", ["raise", "skip"])
async def test_an_inline_handler_is_told_unless_it_skips(autojump_clock: MockClock, on_reject: Any) -> None:
    exchange = Exchange(accept_any_symbol=True)
    errors: list[Exception] = []

    def note(error: Exception, _: str) -> Any:
        errors.append(error)
        return "isolate"

    async with simulated(exchange, on_reject=on_reject) as (feed, _), feed.open_handlers(on_error=note) as handlers:
        await handlers.start(lambda _: None, feed.ticker("XBTUSDTM", "NONEUSDTM"))
        await delist(exchange)
    assert [type(error) for error in errors] == ([SubscriptionRejected] if on_reject == "raise" else [])
