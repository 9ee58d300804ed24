"""Streams that fall silent: a quiet market is no alarm, a dead stream is, and one that has ended says so."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import kufeed
from kufeed import (
    Delisted,
    FeedConfig,
    FeedEvent,
    Gap,
    GapCause,
    Halted,
    Stale,
    StreamDelisted,
    StreamHalted,
    StreamRecovered,
    StreamStale,
    SymbolDelisted,
    SymbolHalted,
    Update,
    UsageError,
    topic,
)
from kufeed._json import loads as strict_loads
from kufeed.testing import Exchange, MemoryNetwork
from kufeed.testing.http import Where
from kufeed.testing.rest import Reply

from .bookish import change_replies
from .test_feed import asked

SPOT, FUTURES = "BTC-USDT", "XBTUSDTM"
NOTICED = 60 + 10 + 5 + 10
"""Seconds of silence until the alarm, at most, where one look shows it (docs/staleness.rst)."""
NOTICED_LATER = NOTICED + 60
"""Where it takes two."""


class Watched:
    """An exchange, a feed, and what the feed has told of its streams."""

    def __init__(self, exchange: Exchange, feed: kufeed.Feed, network: MemoryNetwork) -> None:
        self.exchange, self.feed, self.network = exchange, feed, network
        self._journal = feed._pool.journal.open(10**6)

    @property
    def told(self) -> list[FeedEvent]:
        kinds = StreamStale | StreamRecovered | StreamHalted | StreamDelisted
        return [event for event in self._journal._waiting if isinstance(event, kinds)]


@asynccontextmanager
async def watched(exchange: Exchange | None = None, **fields: Any) -> AsyncIterator[Watched]:
    exchange = Exchange(update_interval=1.0) if exchange is None else exchange
    async with MemoryNetwork(exchange) as network:
        async with kufeed.open_feed(FeedConfig(**fields), network=network, rng=random.Random(1)) as feed:
            yield Watched(exchange, feed, network)


def altered() -> tuple[Callable[[bytes], Any], dict[bytes, bytes]]:
    """A decoder of JSON, and what it replaces beforehand: may be filled at any time."""
    replaced: dict[bytes, bytes] = {}

    def loads(text: bytes) -> Any:
        for old, new in replaced.items():
            text = text.replace(old, new)
        return strict_loads(text)

    return loads, replaced


async def collect(sub: kufeed.Subscription[Any], into: list[Any]) -> None:
    async for item in sub.with_events():
        into.append((trio.current_time(), item))  # noqa: PERF401  # others look at it meanwhile


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # of virtual time, and there is nothing to wait for
        await trio.sleep(0.5)


# -- a quiet market ---------------------------------------------------------------------------------------------------

OPEN: dict[str, Callable[[kufeed.Feed], kufeed.Subscription[Any]]] = {
    "spot ticker": lambda feed: feed.ticker(SPOT),
    "futures ticker": lambda feed: feed.ticker(FUTURES),
    "spot trades": lambda feed: feed.trades(SPOT),
    "futures trades": lambda feed: feed.trades(FUTURES),
    "level 1": lambda feed: feed.level1(SPOT),
    "spot depth": lambda feed: feed.depth(SPOT),
    "futures depth": lambda feed: feed.depth(FUTURES),
    "spot deltas": lambda feed: feed.book_deltas(SPOT, overflow="drop_oldest"),
    "futures deltas": lambda feed: feed.book_deltas(FUTURES, overflow="drop_oldest"),
    "spot book": lambda feed: feed.book(SPOT),
    "futures book": lambda feed: feed.book(FUTURES),
    "spot candles": lambda feed: feed.candles(SPOT, interval="1min"),
    "all tickers": lambda feed: feed.all_tickers(),
}
BY_THE_CLOCK: dict[str, Callable[[kufeed.Feed], kufeed.Subscription[Any]]] = {
    "mark": lambda feed: feed.mark_price(FUTURES),
    "index": lambda feed: feed.index_price(FUTURES),
    "spot stats": lambda feed: feed.stats_24h(SPOT),
    "futures stats": lambda feed: feed.stats_24h(FUTURES),
}
ONE_LOOK = ("spot ticker", "spot trades", "futures trades", "level 1", "spot depth", "spot candles", "all tickers")


@pytest.mark.parametrize("name", OPEN)
async def test_a_quiet_market_is_no_alarm(autojump_clock: MockClock, name: str) -> None:
    """Nothing moves for hours: the exchange is asked now and then, and has nothing newer either."""
    async with watched(Exchange(update_interval=20_000.0)) as here:
        async with OPEN[name](here.feed):
            before = here.exchange.statistics().requests
            await trio.sleep(5400)
            assert here.told == []
            assert 18 <= here.exchange.statistics().requests - before <= 2 * (18 + 4), "every five minutes, in the end"
            assert here.feed.stale_streams()[0].alarmed is False


@pytest.mark.parametrize("name", OPEN)
async def test_a_market_that_moves_seldom_is_no_alarm(autojump_clock: MockClock, name: str) -> None:
    async with watched(Exchange(update_interval=200.0)) as here, OPEN[name](here.feed):
        await trio.sleep(2 * 3600)
        assert here.told == []


async def test_settlements_and_auctions_come_at_their_hour(autojump_clock: MockClock) -> None:
    exchange = Exchange(update_interval=20_000.0)
    async with watched(exchange) as here, here.feed.announcements(FUTURES), here.feed.call_auction(SPOT):
        before = here.exchange.statistics().requests
        await trio.sleep(3600)
        assert here.told == []
        assert here.exchange.statistics().requests == before


async def test_a_live_feed_asks_nothing(autojump_clock: MockClock) -> None:
    async with watched() as here, here.feed.ticker(SPOT, FUTURES), here.feed.funding_rate(FUTURES):
        before = here.exchange.statistics().requests
        await trio.sleep(600)
        assert here.exchange.statistics().requests == before
        assert here.feed.stale_streams(older_than=61.0) == ()


# -- a dead stream ----------------------------------------------------------------------------------------------------


def alarms(seen: list[Any]) -> list[float]:
    return [at for at, item in seen if isinstance(item, Stale)]


@pytest.mark.parametrize("name", [*OPEN, *BY_THE_CLOCK])
async def test_a_stream_that_dies_is_told_of_once(autojump_clock: MockClock, name: str) -> None:
    """It is muted while the exchange moves on; the alarm comes in time, and not again however long it lasts."""
    subscribe = {**OPEN, **BY_THE_CLOCK}[name]
    async with watched() as here, subscribe(here.feed) as sub, trio.open_nursery() as nursery:
        seen: list[Any] = []
        nursery.start_soon(collect, sub, seen)
        await trio.sleep(100)
        here.exchange.faults.mute_topics = set(map(str, sub.topics))
        died = trio.current_time()
        await trio.sleep(600)
        assert len(alarms(seen)) == 1
        (noticed,) = alarms(seen)
        assert 60 <= noticed - died <= (NOTICED if name in (*ONE_LOOK, *BY_THE_CLOCK) else NOTICED_LATER)
        (event,) = here.told
        assert isinstance(event, StreamStale)
        assert event.topic == sub.topics[0]
        assert event.silent_for == pytest.approx(noticed - died, abs=10.1)
        assert not event.never
        assert here.feed.stale_streams()[0].alarmed
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", [*OPEN, *BY_THE_CLOCK])
async def test_a_stream_that_is_dead_on_arrival_is_told_of(autojump_clock: MockClock, name: str) -> None:
    """Acknowledged, and never an update, while the exchange moves."""
    async with watched() as here:
        sub = {**OPEN, **BY_THE_CLOCK}[name](here.feed)
        here.exchange.faults.mute_topics = set(map(str, sub.topics))
        async with sub, trio.open_nursery() as nursery:
            seen: list[Any] = []
            nursery.start_soon(collect, sub, seen)
            born = trio.current_time()
            await trio.sleep(600)
            (noticed,) = alarms(seen)
            assert 60 <= noticed - born <= (NOTICED if name in BY_THE_CLOCK else NOTICED_LATER)
            (event,) = here.told
            assert isinstance(event, StreamStale)
            assert event.never
            (stale,) = here.feed.stale_streams()
            assert stale.never
            assert stale.alarmed
            assert stale.acked
            nursery.cancel_scope.cancel()


async def test_it_is_asked_for_anew_and_what_it_missed_is_told(autojump_clock: MockClock) -> None:
    async with watched() as here, here.feed.ticker(SPOT, "ETH-USDT") as sub, trio.open_nursery() as nursery:
        seen: list[Any] = []
        nursery.start_soon(collect, sub, seen)
        await trio.sleep(10)
        wire = f"/market/ticker:{SPOT}"
        here.exchange.faults.mute_topics = {wire}
        await trio.sleep(NOTICED)
        (session,) = here.exchange.sessions
        assert asked(session, "subscribe")[1:] == [wire]
        assert asked(session, "unsubscribe") == [wire]
        assert set(session.topics) == {wire, "/market/ticker:ETH-USDT"}
        here.exchange.faults.mute_topics = ()
        await trio.sleep(30)
        mine = [item for _, item in seen if item.topic == sub.topics[0]]
        place = next(index for index, item in enumerate(mine) if isinstance(item, Stale))
        before, gap, after = mine[place - 1], mine[place + 1], mine[place + 2]
        assert isinstance(before, Update)
        assert isinstance(gap, Gap)
        assert (gap.cause, gap.since_ns, gap.until_ns) == (GapCause.STALE, before.time_ns, after.time_ns)
        assert after.gap_before == gap
        stale, recovered = here.told
        assert isinstance(stale, StreamStale)
        assert isinstance(recovered, StreamRecovered)
        assert recovered.silent_for == pytest.approx((after.received_time_ns - before.received_time_ns) / 1e9, abs=10)
        assert here.feed.stale_streams() == ()
        assert not any(isinstance(item, Stale | Gap) for _, item in seen if item.topic != sub.topics[0])
        nursery.cancel_scope.cancel()


async def test_a_link_on_which_nothing_comes_but_pongs_is_made_anew(autojump_clock: MockClock) -> None:
    """Where one topic of several is dead, that is asked for anew; where all are, their link is at fault."""
    exchange = Exchange()
    wires = ["/contractMarket/tickerV2:XBTUSDTM", "/contractMarket/tickerV2:ETHUSDTM"]
    async with watched(exchange) as here, here.feed.ticker("XBTUSDTM", "ETHUSDTM") as tickers:
        with here.feed.events() as events:
            await trio.sleep(30)
            exchange.faults.mute_topics = wires[:1]
            await trio.sleep(300)
            assert len(exchange.dials) == 1
            exchange.faults.mute_topics = wires
            while not isinstance(event := await anext(events), kufeed.LinkLost):
                pass
            assert isinstance(event.cause, kufeed.LinkSilent)
            assert event.cause.waited_for == "data"
            exchange.faults.mute_topics = ()
            await trio.sleep(5)
            while tickers.statistics().pending:
                tickers.receive_nowait()
            assert {(await tickers.receive()).symbol for _ in range(20)} == {"XBTUSDTM", "ETHUSDTM"}
        assert len(exchange.dials) == 2


async def test_a_second_death_is_told_of_again(autojump_clock: MockClock) -> None:
    async with watched() as here, here.feed.ticker(SPOT) as sub:
        for _ in range(3):
            await trio.sleep(100)
            here.exchange.faults.mute_topics = set(map(str, sub.topics))
            await trio.sleep(NOTICED_LATER)
            here.exchange.faults.mute_topics = ()
        await trio.sleep(30)
        assert [type(event) for event in here.told] == [StreamStale, StreamRecovered] * 3


async def test_a_funding_rate_has_four_of_its_minutes(autojump_clock: MockClock) -> None:
    async with watched() as here, here.feed.funding_rate(FUTURES) as sub:
        await trio.sleep(1000)
        assert here.told == []
        last = (await sub.receive()).received_time_ns
        quiet(here, *sub.topics)
        await until(lambda: bool(here.told))
        assert 240 <= (here.network.time_ns() - last) / 1e9 <= 265


async def test_streams_of_one_wire_topic_are_asked_for_anew_once(autojump_clock: MockClock) -> None:
    wire = f"/contract/instrument:{FUTURES}"
    topics = [topic(kind, FUTURES) for kind in ("mark_price", "index_price")]
    async with watched() as here, here.feed.subscribe(topics[0]), here.feed.subscribe(topics[1]):
        await trio.sleep(10)
        here.exchange.faults.mute_topics = {wire}
        await trio.sleep(NOTICED)
        assert {event.topic for event in here.told if isinstance(event, StreamStale)} == set(topics)
        assert asked(here.exchange.sessions[0], "subscribe") == [wire, wire]


@pytest.mark.parametrize("redundancy", [1, 2])
@pytest.mark.parametrize("is_cut", [False, True])
async def test_neighbours_on_the_wire_are_told_what_asking_anew_costs_them(
    autojump_clock: MockClock, is_cut: bool, redundancy: int
) -> None:
    """The unsubscribe takes from them too: here until the exchange answers, or the link is lost before it does."""
    loads, replaced = altered()
    wire = f"/contract/instrument:{FUTURES}"
    async with watched(loads=loads, redundancy=redundancy) as here:
        rates, marks = here.feed.funding_rate(FUTURES), here.feed.mark_price(FUTURES, overflow="drop_oldest")
        async with rates, marks, trio.open_nursery() as nursery:
            seen: list[Any] = []
            nursery.start_soon(collect, marks, seen)
            await trio.sleep(10)
            replaced[b'"funding.rate"'] = b'"no.such.thing"'
            await trio.sleep(200)
            here.exchange.faults.ignore_topics = {wire}
            await until(lambda: bool(here.told))
            replaced.clear()
            await trio.sleep(2)
            if is_cut:
                await here.exchange.disconnect_all()
            here.exchange.faults.ignore_topics = ()
            await trio.sleep(30)
            nursery.cancel_scope.cancel()
        (gap,) = (item for _, item in seen if isinstance(item, Gap))
        assert gap.cause is GapCause.STALE
        assert sum(isinstance(item, kufeed.Disconnected) for _, item in seen) == is_cut
        prices = [item for _, item in seen if isinstance(item, kufeed.MarkPrice)]
        distances = {after: after.time_ns - before.time_ns for before, after in pairwise(prices)}
        assert max(distances.values()) > 2e9
        assert max(distances, key=lambda one: distances[one]).gap_before == gap
        assert not any(isinstance(item, Stale) for _, item in seen)


async def test_an_outage_is_no_silence_of_the_stream(autojump_clock: MockClock) -> None:
    """Nothing is alarmed while the link is down, nor for what was missed when it is back and the market quiet."""
    async with watched(max_reconnect_attempts=None) as here, here.feed.ticker(SPOT):
        await trio.sleep(10)
        here.exchange.faults.refuse_dials = True
        await here.exchange.disconnect_all()
        await trio.sleep(600)
        (stale,) = here.feed.stale_streams()
        assert (stale.acked, stale.alarmed, stale.never) == (False, False, False)
        assert stale.silent_for == pytest.approx(600, abs=1)
        assert here.told == []
        here.exchange._pulse.live = False
        here.exchange.change_book(SPOT, 50)
        here.exchange.faults.refuse_dials = False
        await trio.sleep(1800)
        assert here.feed.stale_streams()[0].acked
        assert here.told == []


BLOCKING: dict[str, Callable[[kufeed.Feed], kufeed.Subscription[Any]]] = {
    "ticker": lambda feed: feed.ticker(SPOT, overflow="block", buffer=5),
    "backfill": lambda feed: feed.trades(SPOT, overflow="block", buffer=5, backfill=True),
    "book": lambda feed: feed.book(SPOT, overflow="block", buffer=5),
}


@pytest.mark.parametrize("name", BLOCKING)
async def test_a_held_reader_is_no_dead_stream(autojump_clock: MockClock, name: str) -> None:
    """Nobody listens, by the consumer's own wish; when it goes on, the clock starts anew, and nothing is lost."""
    async with watched() as here, BLOCKING[name](here.feed) as sub:
        await trio.sleep(1800)
        assert here.told == []
        await sub.receive()
        await trio.sleep(1800)
        assert here.told == []
        assert sub.statistics().dropped == 0


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_wall_clock_that_jumps_raises_no_alarm_and_hides_none(autojump_clock: MockClock, hours: int) -> None:
    async with watched() as here, here.feed.ticker(SPOT) as sub:
        true_time = here.network.time_ns
        await trio.sleep(100)
        here.network.time_ns = lambda: true_time() + hours * 3600 * 10**9  # type: ignore[method-assign]
        await trio.sleep(300)
        assert here.told == []
        here.exchange.faults.mute_topics = set(map(str, sub.topics))
        await trio.sleep(NOTICED_LATER)
        assert [type(event) for event in here.told] == [StreamStale]


# -- the exchange does not say ----------------------------------------------------------------------------------------


async def test_where_nobody_can_tell_only_what_comes_by_the_clock_is_stale(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with watched() as here, here.feed.ticker(FUTURES) as tickers, here.feed.mark_price(FUTURES) as prices:
        await trio.sleep(10)
        here.exchange.faults.request_error = 500
        here.exchange.faults.mute_topics = set(map(str, (*tickers.topics, *prices.topics)))
        died = trio.current_time()
        with caplog.at_level(logging.WARNING, "kufeed.staleness"):
            await until(lambda: bool(here.told))
        assert 180 <= trio.current_time() - died <= 180 + 11
        await trio.sleep(3600)
        (event,) = here.told
        assert event.topic == prices.topics[0]  # type: ignore[attr-defined]
        assert sum("cannot be told" in record.message for record in caplog.records) == 1
        here.exchange.faults.request_error = None
        await trio.sleep(600)
        assert {event.topic for event in here.told} == {*tickers.topics, *prices.topics}  # type: ignore[attr-defined]


@pytest.mark.parametrize("answer", [b'"data":{}', b'"data":[]', b'"data":[1,{"symbol":2}]', b'"data":null'])
async def test_a_list_that_is_none_says_nothing(autojump_clock: MockClock, answer: bytes) -> None:
    def loads(text: bytes) -> Any:
        return strict_loads(b'{"code":"200000",' + answer + b"}" if b'"enableTrading"' in text else text)

    async with watched(loads=loads) as here, here.feed.ticker(SPOT) as sub:
        here.exchange.faults.mute_topics = set(map(str, sub.topics))
        await trio.sleep(1800)
        assert here.told == []
        assert sub.topics


# -- a stream that has ended ------------------------------------------------------------------------------------------


def quiet(here: Watched, *topics: object) -> None:
    here.exchange.faults.mute_topics = set(map(str, topics))


async def test_a_halted_symbol_ends_its_stream(autojump_clock: MockClock) -> None:
    loads, replaced = altered()
    async with watched(loads=loads) as here, here.feed.trades(FUTURES, "ETHUSDTM") as sub:
        gone, stays = sub.topics
        await trio.sleep(10)
        quiet(here, gone)
        replaced[b'"status":"Open"'] = b'"status":"Paused"'
        died = trio.current_time()
        with pytest.raises(SymbolHalted, match=r"execution:XBTUSDTM has ended: trading is halted \(paused\)") as error:
            async for _ in sub:
                pass
        assert 60 <= trio.current_time() - died <= NOTICED
        assert (error.value.topic, error.value.status) == (str(gone), "paused")
        assert sub.topics == (stays,)
        assert here.told == [StreamHalted(gone, "paused")]
        await trio.sleep(1)
        assert here.exchange.sessions[0].topics == (str(stays),)
        assert (await sub.receive()).topic == stays
        await trio.sleep(600)
        assert len(here.told) == 1
        with pytest.raises(UsageError, match="is not in this subscription"):
            sub.remove(gone)


async def test_it_may_be_subscribed_to_again_when_trading_resumes(autojump_clock: MockClock) -> None:
    loads, replaced = altered()
    async with watched(loads=loads) as here, here.feed.trades(FUTURES, "ETHUSDTM") as sub:
        gone, stays = sub.topics
        quiet(here, gone)
        replaced[b'"status":"Open"'] = b'"status":"Paused"'
        await until(lambda: sub.topics == (stays,))
        replaced.clear()
        quiet(here)
        await sub.add(FUTURES)
        with pytest.raises(SymbolHalted):
            while True:
                await sub.receive()
        while (await sub.receive()).topic != gone:
            pass


async def test_events_tell_it_without_raising_and_end_with_the_last_topic(autojump_clock: MockClock) -> None:
    loads, replaced = altered()
    async with watched(loads=loads) as here, here.feed.trades(SPOT, "ETH-USDT") as sub:
        topics = sub.topics
        await trio.sleep(10)
        quiet(here, *topics)
        replaced[b'"enableTrading":true'] = b'"enableTrading":false'
        items = [item async for item in sub.with_events()]
        assert items[-2:] == [Halted(one, "disabled") for one in topics]
        assert sub.topics == ()
        await trio.sleep(60)
        assert here.exchange.sessions == ()
        with pytest.raises(trio.EndOfChannel):
            await sub.receive()
        with pytest.raises(UsageError, match="has ended"):
            await sub.add(SPOT)


async def test_batches_stop_before_it(autojump_clock: MockClock) -> None:
    loads, replaced = altered()
    async with watched(loads=loads) as here, here.feed.trades(SPOT) as sub:
        await trio.sleep(10)
        quiet(here, *sub.topics)
        replaced[b'"enableTrading":true'] = b'"enableTrading":false'
        await trio.sleep(NOTICED)
        batches = sub.batches()
        assert len(await batches.__anext__()) == sub.statistics().delivered > 1
        with pytest.raises(SymbolHalted):
            await batches.__anext__()
        with pytest.raises(StopAsyncIteration):
            await batches.__anext__()


def delist(exchange: Exchange, symbol: str) -> None:
    for names in exchange.model._names.values():
        names.pop(symbol, None)


@pytest.mark.parametrize("symbol", [SPOT, FUTURES])
async def test_a_symbol_that_is_not_listed_ends_its_stream(autojump_clock: MockClock, symbol: str) -> None:
    """Said by two lists: one with a hole must not end a stream for good."""
    async with watched() as here, here.feed.trades(symbol) as sub:
        (gone,) = sub.topics
        await trio.sleep(10)
        quiet(here, gone)
        delist(here.exchange, symbol)
        died = trio.current_time()
        with pytest.raises(SymbolDelisted, match="not listed"):
            async for _ in sub:
                pass
        assert 120 <= trio.current_time() - died <= NOTICED_LATER
        assert here.told == [StreamDelisted(gone)]
        assert [update async for update in sub] == []


async def test_a_contract_that_is_not_in_the_list_of_open_ones_is_asked_for_by_name(autojump_clock: MockClock) -> None:
    def loads(text: bytes) -> Any:
        frame = strict_loads(text)
        rows = frame.get("data")
        if isinstance(rows, list):
            frame["data"] = [row for row in rows if row["symbol"] != FUTURES]
        elif isinstance(rows, dict) and "status" in rows:
            rows["status"] = "BeingSettled"
        return frame

    async with watched(loads=loads) as here, here.feed.trades(FUTURES) as sub:
        quiet(here, *sub.topics)
        with pytest.raises(SymbolHalted, match="being_settled"):
            async for _ in sub:
                pass


@pytest.mark.parametrize("status", [b"Init", b"Novelty"])
async def test_a_contract_that_has_yet_to_open_has_not_ended(autojump_clock: MockClock, status: bytes) -> None:
    """Nor has one whose status is a new word; that one is stale by the usual rules."""
    loads, replaced = altered()
    replaced[b'"status":"Open"'] = b'"status":"' + status + b'"'
    async with watched(loads=loads) as here, here.feed.trades(FUTURES) as sub:
        quiet(here, *sub.topics)
        await trio.sleep(1800)
        assert [type(event) for event in here.told] == ([] if status == b"Init" else [StreamStale])
        assert sub.topics


@pytest.mark.parametrize("kind", ["mark_price", "trades"])
async def test_many_delisted_contracts_take_turns_and_none_is_alarmed(autojump_clock: MockClock, kind: str) -> None:
    """Of those that were not asked for by name yet, nothing is known."""
    gone = [f"T{number:04}USDTM" for number in range(1, 26)]
    async with watched(Exchange(update_interval=1.0, generated=30)) as here:
        async with getattr(here.feed, kind)(*gone, FUTURES, overflow="drop_oldest") as sub:
            await trio.sleep(20)
            for symbol in gone:
                here.exchange.delist(symbol)
            await trio.sleep(1500)
            assert [one.symbol for one in sub.topics] == [FUTURES]
        assert {type(event) for event in here.told} == {StreamDelisted}
        assert len(here.told) == len(gone)


async def test_contracts_that_have_yet_to_open_keep_no_other_from_its_turn(autojump_clock: MockClock) -> None:
    def loads(text: bytes) -> Any:
        frame = strict_loads(text)
        if isinstance(rows := frame.get("data"), list):  # of open contracts only; by name each has its row still
            frame["data"] = [row for row in rows if row.get("status") == "Open"]
        return frame

    yet_to_open = [f"T{number:04}USDTM" for number in range(1, 13)]
    async with watched(Exchange(update_interval=1.0, generated=20), loads=loads) as here:
        async with here.feed.trades(*yet_to_open, FUTURES, overflow="drop_oldest"):
            await trio.sleep(20)
            for symbol in yet_to_open:
                here.exchange.halt(symbol, "Init")
            here.exchange.delist(FUTURES)
            await trio.sleep(1000)
        (event,) = here.told
        assert isinstance(event, StreamDelisted)
        assert event.topic.symbol == FUTURES


async def test_a_stream_that_is_left_during_a_look_at_thousands_is_not_alarmed(autojump_clock: MockClock) -> None:
    symbols = [f"T{number:04}-USDT" for number in range(1, 601)]
    async with watched(Exchange(live=False, generated=650)) as here:
        async with here.feed.trades(*symbols, overflow="drop_oldest") as sub, trio.open_nursery() as nursery:
            await trio.sleep(5)
            for symbol in symbols:
                here.exchange.trade(symbol)
            await trio.sleep(1)
            here.exchange.faults.mute_topics = set(map(str, sub.topics))
            for symbol in symbols:
                here.exchange.trade(symbol)
            staleness: Any = here.feed._staleness
            decide = staleness._is_proved
            left: list[str] = []

            def decided(watch: Any, now: float) -> bool:
                proved: bool = decide(watch, now)
                if proved and watch.stream.topic.symbol == symbols[0] and not left:
                    left.append(symbols[0])
                    nursery.start_soon(leave)
                return proved

            async def leave() -> None:
                sub.remove(symbols[0])

            staleness._is_proved = decided
            await until(lambda: bool(here.told))
            stale = {event.topic.symbol for event in here.told if isinstance(event, StreamStale)}
            assert len(stale) == len(here.told) > 250  # those whose price has moved
            assert symbols[0] not in stale
            assert left


async def test_a_dated_contract_has_no_funding(autojump_clock: MockClock) -> None:
    exchange = Exchange(futures=["XBTMH27"], update_interval=10.0)
    async with watched(exchange) as here, here.feed.funding_rate("XBTMH27") as sub:
        quiet(here, *sub.topics)
        await trio.sleep(3600)
        assert here.told == []


async def test_every_subscription_of_the_topic_is_told(autojump_clock: MockClock) -> None:
    """A book, its changes, and a handler."""
    loads, replaced = altered()
    handled: list[object] = []
    async with watched(loads=loads) as here, here.feed.book(SPOT) as books, trio.open_nursery() as nursery:
        seen: list[Any] = []
        nursery.start_soon(collect, books, seen)
        async with here.feed.book_deltas(SPOT, overflow="drop_oldest") as deltas:
            async with here.feed.open_handlers(on_error="isolate") as handlers:
                await handlers.start(handled.append, here.feed.book_deltas(SPOT, overflow="drop_oldest"))
                await trio.sleep(10)
                quiet(here, *books.topics)
                replaced[b'"enableTrading":true'] = b'"enableTrading":false'
                await trio.sleep(NOTICED)
                assert isinstance(seen[-1][1], Halted)
                with pytest.raises(SymbolHalted):
                    async for _ in deltas:
                        pass
                (handler,) = handlers.statistics()
                assert (handler.errors, handler.running) == (1, False)
        assert SPOT not in here.feed.books
        assert books.topics == deltas.topics == ()


async def test_an_entering_that_fails_leaves_no_reader_waiting_for_ever(autojump_clock: MockClock) -> None:
    """What it had has ended while it was waiting for more."""
    loads, replaced = altered()
    async with watched(loads=loads, ack_timeout=100.0) as here, here.feed.trades(FUTURES) as sub:
        quiet(here, *sub.topics)
        replaced[b'"status":"Open"'] = b'"status":"Paused"'
        here.exchange.faults.ignore_topics = {"/contractMarket/execution:ETHUSDTM"}
        with pytest.raises(kufeed.SubscriptionTimeout):
            await sub.add("ETHUSDTM")
        with pytest.raises(SymbolHalted):
            async for _ in sub:
                pass
        assert [update async for update in sub] == []


# -- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
async def test_thousands_of_silent_streams_cost_what_one_costs(autojump_clock: MockClock, count: int) -> None:
    """One look a minute at each market, whatever the number; and one pass over all holds up nobody (-s: figures)."""
    exchange = Exchange(generated=count // 4, update_interval=20_000.0)
    symbols = [f"T{number:04}{end}" for number in range(1, count // 4 + 1) for end in ("-USDT", "USDTM")]
    asked_at: list[float] = []

    def count_reply(where: Where | None, reply: Reply) -> Reply:
        if where is not None and not where.path.endswith("bullet-public"):
            asked_at.append(trio.current_time())
        return reply

    change_replies(exchange, count_reply)
    topics = [topic(kind, symbol) for kind in ("ticker", "trade") for symbol in symbols]
    async with watched(exchange) as here, here.feed.subscribe(*topics):
        await trio.sleep(420)
        assert len(here.feed.stale_streams()) == count
        assert here.told == []
        took = []
        for _ in range(3):
            start = time.perf_counter()
            await here.feed._staleness._pass(60.0)
            took.append(time.perf_counter() - start)
    assert max(sum(start <= at < start + 60 for at in asked_at) for start in asked_at) == 3  # spot has two lists
    print(f"one pass over {len(topics)} silent streams: {min(took) * 1000:.1f} ms, in parts of 250")
    assert min(took) < count * 50e-6


# -- looking ----------------------------------------------------------------------------------------------------------


async def test_stale_streams_says_what_is_silent_for_whatever_reason(autojump_clock: MockClock) -> None:
    async with watched(Exchange(live=False), stale_after=None) as here, here.feed.ticker("BTC-USDT", "ETH-USDT") as sub:
        assert here.feed.stale_streams() == ()
        assert len(here.feed.stale_streams(older_than=0)) == 2
        await trio.sleep(50)
        data = dict.fromkeys(("sequence", "bestBid", "bestBidSize", "bestAsk", "bestAskSize", "price", "size"), "1")
        await here.exchange.play([json.dumps({"topic": str(sub.topics[0]), "subject": "trade.ticker", "data": data})])
        await trio.sleep(20)
        (one,) = here.feed.stale_streams()
        assert (one.topic, one.never, one.acked, one.alarmed) == (sub.topics[1], True, True, False)
        assert one.silent_for == pytest.approx(70, abs=1)
        await trio.sleep(50)
        both = here.feed.stale_streams(older_than=70)
        assert [(stream.never, round(stream.silent_for)) for stream in both] == [(False, 70), (True, 120)]
    assert here.feed.stale_streams(older_than=0) == ()


@pytest.mark.parametrize("older_than", [-1, "60", None, True, float("nan")])
async def test_how_long_must_be_a_time(autojump_clock: MockClock, older_than: Any) -> None:
    async with watched() as here:
        with pytest.raises(UsageError, match="older_than must be a number of seconds"):
            here.feed.stale_streams(older_than)


async def test_it_can_be_switched_off(autojump_clock: MockClock) -> None:
    async with watched(stale_after=None) as here, here.feed.ticker(SPOT) as sub:
        assert "watchers" not in here.feed.tree()
        quiet(here, *sub.topics)
        await trio.sleep(3600)
        assert here.told == []
        assert here.feed.stale_streams()


async def test_closing_a_feed_while_it_asks_raises_nothing(autojump_clock: MockClock) -> None:
    async with watched(Exchange(live=False)) as here, here.feed.ticker(SPOT):
        await trio.sleep(55)
        here.exchange.freeze()
        await until(lambda: "look at spot" in here.feed.tree())


def test_ended_events_are_what_they_say() -> None:
    assert issubclass(Halted, kufeed.StreamEvent)
    assert Delisted(topic("ticker", SPOT)) != Halted(topic("ticker", SPOT), "paused")
