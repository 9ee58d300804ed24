"""Whenever a circuit opens, the exchange is asked whether it is open at all, once a minute at most."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import kufeed
from kufeed import ExchangeClosed, FeedConfig, FeedEvents
from kufeed.testing import Exchange, MemoryNetwork

QUICK = FeedConfig(max_reconnect_attempts=1, reconnect_delay=0.1, circuit_cooldown=20.0)


@asynccontextmanager
async def given_up(exchange: Exchange, config: FeedConfig = QUICK) -> AsyncIterator[tuple[kufeed.Feed, FeedEvents]]:
    """A feed of both markets whose links cannot be made any more, until all of it has given up."""
    async with MemoryNetwork(exchange) as network:
        async with kufeed.open_feed(config, network=network, rng=random.Random(1)) as feed:
            async with feed.ticker("XBTUSDTM", "BTC-USDT") as tickers:
                await tickers.receive()
                events = feed.events()
                exchange.faults.upgrade_error = 503
                await exchange.disconnect_all()
                with trio.fail_after(20):
                    await feed.wait_state("down")
                await trio.sleep(1)
                yield feed, events


def told(events: FeedEvents) -> list[ExchangeClosed]:
    found = []
    try:
        while True:
            found.append(events.receive_nowait())
    except trio.WouldBlock:
        return [one for one in found if isinstance(one, ExchangeClosed)]


async def test_maintenance_is_told_in_the_exchanges_words(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = Exchange()
    exchange.faults.maintenance = ("close", "upgrading\nuntil " + 1000 * "noon")
    with caplog.at_level(logging.WARNING, "kufeed.pool"):
        async with given_up(exchange) as (feed, events):
            found = told(events)
            assert {(one.market, one.status) for one in found} == {("futures", "close"), ("spot", "close")}
            assert len(found) == 2
            message = found[0].message
            assert message.startswith("upgrading")
            assert message.isprintable()
            assert len(message) < 300
            exchange.faults.upgrade_error = None
            with trio.fail_after(60):
                await feed.wait_state("live")
    logged = [record.message for record in caplog.records if record.name == "kufeed.pool"]
    assert len(logged) == 2
    assert all("not open (close): upgrading" in message for message in logged)


@pytest.mark.parametrize("error", [None, 500, ("500000", "sorry")])
async def test_nothing_is_told_where_it_is_open_or_does_not_say(
    autojump_clock: MockClock, error: int | tuple[str, str] | None
) -> None:
    exchange = Exchange()
    exchange.faults.request_error = error
    async with given_up(exchange) as (_, events):
        assert told(events) == []


@pytest.mark.parametrize("status", [None, 7, ["close"]])
async def test_a_status_that_is_none_is_no_status(autojump_clock: MockClock, status: object) -> None:
    exchange = Exchange()
    exchange.faults.maintenance = (status, "")  # type: ignore[assignment]
    async with given_up(exchange) as (_, events):
        assert told(events) == []


async def test_it_is_asked_once_a_minute_however_many_give_up(autojump_clock: MockClock) -> None:
    """Also those that fail again on trial, or one after the other."""
    exchange = Exchange(generated=5)
    exchange.faults.maintenance = ("cancelonly", "")
    config = FeedConfig(max_reconnect_attempts=1, reconnect_delay=0.1, topics_per_connection=1, circuit_cooldown=20.0)
    async with given_up(exchange, config) as (feed, events):
        feed_down_at = trio.current_time()
        with pytest.raises(kufeed.ConnectionFailed):
            async with feed.ticker("T0001-USDT", "T0002-USDT", "T0003-USDT"):
                pass
        assert trio.current_time() < feed_down_at + 50
        assert [one.market for one in told(events)].count("spot") == 1
        await trio.sleep(600)
        found = told(events)
        assert {one.status for one in found} == {"cancelonly"}
        assert 8 <= [one.market for one in found].count("spot") <= 10


async def test_it_is_asked_again_while_the_outage_lasts(autojump_clock: MockClock) -> None:
    """When the circuit opens, the network may be down: nobody can tell. What is under way then shows later."""
    exchange = Exchange()
    exchange.faults.maintenance = ("close", "until noon")
    exchange.faults.request_error = 500
    async with given_up(exchange) as (feed, events):
        assert told(events) == []
        exchange.faults.request_error = None
        with trio.fail_after(60 + 2 * 20):
            while not told(events):  # noqa: ASYNC110  # of virtual time
                await trio.sleep(1)
        assert feed.state == "down"


async def test_leaving_does_not_wait_for_the_answer(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    async with given_up(exchange) as (feed, _):
        exchange.freeze()
        await trio.sleep(61)
        left = trio.current_time()
        assert feed.state == "down"
    assert trio.current_time() - left <= 2.0
