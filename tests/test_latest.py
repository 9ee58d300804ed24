"""The last value of a stream and its age, at any time: what `feed.latest()` says, over a simulated exchange."""

from __future__ import annotations

import json
from decimal import Decimal

import attrs
import pytest
import trio
from trio.testing import MockClock

import kufeed
from kufeed import FeedConfig, Overflow, topic
from kufeed.testing import Exchange

from .test_feed import QUICK, simulated

BTC, ETH = topic("ticker", "BTC-USDT"), topic("ticker", "ETH-USDT")
QUIET = {"live": False}
T0 = 1_767_225_600_000


def ticker(sequence: int, symbol: str = "BTC-USDT", *, bid: str = "1.5", time: int | None = None) -> str:
    """A ticker of the spot market, so many milliseconds after `T0`."""
    data = {
        "sequence": str(sequence),
        "bestBid": bid,
        "bestBidSize": "2",
        "bestAsk": "9",
        "bestAskSize": "2",
        "price": "1.5",
        "size": "1",
        "time": T0 + (sequence if time is None else time),
    }
    return json.dumps({"type": "message", "topic": f"/market/ticker:{symbol}", "subject": "trade.ticker", "data": data})


def number(feed: kufeed.Feed, one: kufeed.Topic) -> int | None:
    found = feed.latest(one)
    return None if found is None else found.update.sequence


async def test_it_is_the_last_update_and_the_seconds_since_its_receipt(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.ticker("BTC-USDT", "ETH-USDT") as tickers:
        assert feed.latest(BTC) is None, "nothing has come yet"
        await exchange.play([ticker(1), ticker(2, time=-60_000), ticker(7, "ETH-USDT")])
        await trio.sleep(1.5)
        latest = feed.latest(BTC)
        assert latest is not None
        assert isinstance(latest.update, kufeed.Ticker)
        assert (latest.update.sequence, latest.update.bid) == (2, Decimal("1.5"))
        assert latest.age == pytest.approx(1.5, abs=0.01)
        assert number(feed, ETH) == 7, "each symbol has its own"
        assert tickers.statistics().delivered == 0, "looking takes nothing"
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            latest.age = 0.0  # type: ignore[misc]


async def test_kinds_that_share_a_topic_of_the_wire_have_each_their_own(autojump_clock: MockClock) -> None:
    mark, index = topic("mark_price", "XBTUSDTM"), topic("index_price", "XBTUSDTM")
    async with simulated() as (_, feed), feed.mark_price("XBTUSDTM") as marks, feed.index_price("XBTUSDTM") as indexes:
        await marks.receive()
        await indexes.receive()
        found = [feed.latest(one) for one in (mark, index, topic("funding_rate", "XBTUSDTM"))]
        assert [one and type(one.update) for one in found] == [kufeed.MarkPrice, kufeed.IndexPrice, None]


async def test_it_stands_through_an_outage_and_follows_the_new_link(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.ticker("BTC-USDT"):
        await exchange.play([ticker(1)])
        await trio.sleep(1)
        exchange.faults.refuse_dials = 1
        await exchange.disconnect_all()
        await trio.lowlevel.checkpoint()
        latest = feed.latest(BTC)
        assert latest is not None
        assert (latest.update.sequence, latest.age) == (1, pytest.approx(1, abs=0.1))
        await exchange.wait_subscribed(str(BTC))
        assert number(feed, BTC) == 1, "until something newer comes"
        await exchange.play([ticker(5)])
        await trio.sleep(0.1)
        assert number(feed, BTC) == 5


async def test_it_stands_when_reconnecting_was_given_up(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange, QUICK) as (_, feed), feed.ticker("BTC-USDT") as tickers:
        await exchange.play([ticker(1)])
        await tickers.receive()
        exchange.faults.refuse_dials = 1000
        await exchange.disconnect_all()
        with pytest.raises(kufeed.ConnectionFailed):
            await tickers.receive()
        await trio.sleep(600)
        latest = feed.latest(BTC)
        assert latest is not None
        assert latest.update.sequence == 1
        assert latest.age > 600


async def test_a_message_that_is_not_valid_does_not_touch_it(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.ticker("BTC-USDT"):
        await exchange.play([ticker(1), ticker(2, bid="1_0"), ticker(3, bid="nothing")])
        await trio.sleep(1)
        assert number(feed, BTC) == 1
        assert feed.statistics().refused == {"bestBid": 2}


async def test_after_the_last_unsubscribe_there_is_none(autojump_clock: MockClock) -> None:
    """Nobody keeps it up to date any more; the next subscription begins with nothing."""
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed):
        assert feed.latest(BTC) is None
        async with feed.ticker("BTC-USDT"):
            async with feed.ticker("BTC-USDT", "ETH-USDT") as both:
                await exchange.play([ticker(1), ticker(2, "ETH-USDT")])
                await trio.sleep(1)
                both.remove("ETH-USDT")
                assert (number(feed, BTC), number(feed, ETH)) == (1, None)
            assert number(feed, BTC) == 1, "one of two is left"
        assert feed.latest(BTC) is None
        async with feed.ticker("BTC-USDT"):
            assert feed.latest(BTC) is None
    assert feed.latest(BTC) is None


async def test_when_the_feed_is_closed_there_is_none(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed):
        tickers = feed.ticker("BTC-USDT")
        await tickers.__aenter__()
        await exchange.play([ticker(1)])
        await tickers.receive()
        assert number(feed, BTC) == 1
    assert feed.latest(BTC) is None


async def test_of_a_topic_that_the_exchange_refuses_there_is_none(autojump_clock: MockClock) -> None:
    """Also where it streamed before, and is refused after a reconnect; its neighbours keep theirs."""
    exchange = Exchange(**QUIET)
    gone = topic("ticker", "GONE-USDT")
    async with simulated(exchange) as (_, feed), feed.ticker("BTC-USDT", "GONE-USDT") as tickers:
        await exchange.play([ticker(1), ticker(2, "GONE-USDT")])
        assert {(await tickers.receive()).sequence for _ in range(2)} == {1, 2}
        assert (number(feed, BTC), number(feed, gone)) == (1, 2)
        exchange._conversation.any_symbol = False  # it knows the other one
        with pytest.raises(kufeed.SubscriptionRejected):
            async with feed.ticker("NOPE-USDT"):
                pass
        await exchange.disconnect_all()
        with pytest.raises(kufeed.SubscriptionRejected):
            await tickers.receive()
        assert (number(feed, BTC), number(feed, gone)) == (1, None)
        assert feed.latest(topic("ticker", "NOPE-USDT")) is None


async def test_of_several_streams_of_a_topic_the_newest_update_wins(autojump_clock: MockClock) -> None:
    """A blocking subscription has links of its own: while one is held, what others received is newer.

    When it goes on it reads old messages, later: the exchange's order counts, not the receipt.
    """
    exchange = Exchange(**QUIET)
    blocking = {"overflow": Overflow.BLOCK, "buffer": 1}
    async with simulated(exchange) as (_, feed), feed.ticker("BTC-USDT", **blocking) as held:  # type: ignore[arg-type]
        await exchange.play([ticker(1)])
        await trio.sleep(1)
        assert number(feed, BTC) == 1, "it is enough that a blocking one has it"
        async with feed.ticker("BTC-USDT", **blocking) as other:  # type: ignore[arg-type]
            for sequence in range(2, 5):
                await exchange.play([ticker(sequence, time=2)])
                await other.receive()
            assert number(feed, BTC) == 4, "the held one has 2, of the same millisecond"
            await exchange.play([ticker(5), ticker(6)])
            for _ in range(2):
                await other.receive()
            for _ in range(4):
                await held.receive()
                await trio.sleep(1)
                assert number(feed, BTC) == 6
        assert number(feed, BTC) == 6, "what the one that is left has"


async def test_it_takes_topics_as_subscribe_does() -> None:
    async with kufeed.open_feed() as feed:
        for wrong in ("BTC-USDT", "/market/ticker:BTC-USDT", None, "ticker"):
            with pytest.raises(kufeed.UsageError, match="topic"):
                feed.latest(wrong)  # type: ignore[arg-type]


async def test_its_age_goes_by_the_clock_of_the_network(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange, FeedConfig(ping_interval=1e6)) as (_, feed), feed.ticker("BTC-USDT"):
        await exchange.play([ticker(1)])
        await trio.sleep(0.5)
        ages = []
        for _ in range(3):
            latest = feed.latest(BTC)
            assert latest is not None
            ages.append(latest.age)
            await trio.sleep(10)
        assert [later - ages[0] for later in ages] == pytest.approx([0, 10, 20], abs=1e-6)


async def test_of_the_topic_of_all_symbols_each_has_its_own(autojump_clock: MockClock) -> None:
    def of_all(sequence: int, symbol: str, time: int) -> str:
        message = json.loads(ticker(sequence, symbol, time=time))
        return json.dumps({**message, "topic": "/market/ticker:all", "subject": symbol})

    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.all_tickers() as tickers:
        await exchange.play([of_all(7, "ETH-USDT", 1), of_all(3, "BTC-USDT", 2), of_all(4, "BTC-USDT", 3)])
        await exchange.play([of_all(8, "ETH-USDT", 2)])
        await trio.sleep(1)
        seen = {update.symbol: update for update in [await tickers.receive(), await tickers.receive()]}
        assert number(feed, seen["BTC-USDT"].topic) == 4
        assert number(feed, seen["ETH-USDT"].topic) == 8
        assert number(feed, topic("ticker", "all")) == 4, "the newest of all"
        assert feed.latest(BTC) is None, "that is a topic of its own"
        other = attrs.evolve(seen["BTC-USDT"].topic, symbol="XX-USDT")
        assert feed.latest(other) is None


async def test_a_time_that_cannot_be_right_is_not_the_newest(autojump_clock: MockClock) -> None:
    """Else one wrong time stamp would hide what comes of all other symbols."""
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.all_tickers():
        for sequence, symbol, time in ((1, "ETH-USDT", 10**9), (2, "BTC-USDT", 5)):
            message = json.loads(ticker(sequence, symbol, time=time))
            await exchange.play([json.dumps({**message, "topic": "/market/ticker:all", "subject": symbol})])
            await trio.sleep(1)
        assert number(feed, topic("ticker", "all")) == 2
