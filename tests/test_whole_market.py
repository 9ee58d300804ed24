"""One topic of all symbols is told as if each symbol had a topic of its own, and costs the exchange only one."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.lowlevel
import ujson
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import kufeed
from kufeed import Disconnected, Dropped, Gap, GapCause, Overflow, Restored, StreamEvent, Ticker, Update, topic
from kufeed._buffers import Overflow as Policy
from kufeed._channels import UpdateQueue
from kufeed._lateness import Lateness
from kufeed._refusals import Refusals
from kufeed._streams import Routes, Stream, stage
from kufeed._whole_market import MOST_SYMBOLS, stream_of
from kufeed.errors import LinkClosed
from kufeed.protocol import UpdateType
from kufeed.protocol.spot import one_of_all
from kufeed.testing import Exchange

from .test_delivery import law
from .test_feed import asked, simulated

if TYPE_CHECKING:
    from collections.abc import Callable

WIRE = "/market/ticker:all"
ALL = topic("ticker", "all")
SYMBOLS = ["AA-USDT", "BB-USDT", "CC-USDT"]
T0 = 1_767_225_600_000_000_000
LOST = LinkClosed(1001, "away")


def part(symbol: str) -> kufeed.Topic:
    """The topic that the updates of *symbol* have."""
    return one_of_all(ALL, symbol)


def frame(subject: Any, number: int, wire: str = WIRE, **more: Any) -> dict[str, Any]:
    """A ticker so many milliseconds after `T0`."""
    data = {
        "sequence": str(number),
        "bestBid": "1.1",
        "bestBidSize": "2",
        "bestAsk": "1.2",
        "bestAskSize": "3",
        "price": "1.1",
        "size": "0.5",
        "time": T0 // 1_000_000 + number,
    }
    return {"type": "message", "topic": wire, "subject": subject, "data": {**data, **more}}


def text(subject: Any, number: int, wire: str = WIRE) -> str:
    return json.dumps(frame(subject, number, wire))


def ms(number: int) -> int:
    return T0 + number * 1_000_000


def queue(overflow: Policy = Policy.DROP_OLDEST) -> UpdateQueue:
    return UpdateQueue(dict.fromkeys(UpdateType, overflow), 10_000)


class Desk:
    """One topic of all symbols, and everything that `stage()` does with its messages."""

    def __init__(self, **options: Any) -> None:
        self.stream = stream_of(ALL, **options)
        self.routes = Routes()
        self.routes.add(self.stream)
        self.refusals = Refusals()

    def stage(self, *frames: dict[str, Any]) -> set[Stream]:
        touched = stage(
            [json.dumps(one).encode() for one in frames],
            loads=ujson.loads,
            by_wire=self.routes.by_wire,
            received_time_ns=T0,
            on_control=pytest.fail,
            refusals=self.refusals,
            lateness=Lateness(None),
        )
        for sink in {sink for stream in touched for sink in stream.sinks}:
            assert sink.hand_over()
        return touched


def told(sink: UpdateQueue) -> list[Update | StreamEvent]:
    """All that waits for the consumer of *sink*."""
    found: list[Update | StreamEvent] = []
    try:
        while True:
            found.append(sink.take(events=True))
    except trio.WouldBlock:
        return found


# -- streams ----------------------------------------------------------------------------------------------------------


def test_only_the_topic_of_all_symbols_is_a_whole_market() -> None:
    assert type(stream_of(topic("ticker", "BTC-USDT"))) is Stream
    assert type(stream_of(ALL)) is not Stream


def test_each_symbol_gets_a_route_of_its_own_with_its_first_update() -> None:
    """From the second on its messages do not pass the whole market's stream any more: they cost what others cost."""
    desk, sink = Desk(), queue()
    desk.stream.add(sink)
    assert desk.stage(frame("AA-USDT", 1), frame("BB-USDT", 2)) == {desk.stream}
    second = desk.stage(frame("BB-USDT", 3), frame("AA-USDT", 4))
    assert {stream.topic for stream in second} == {part("AA-USDT"), part("BB-USDT")}
    assert {type(stream) for stream in second} == {Stream}
    updates = [update for update in told(sink) if isinstance(update, Ticker)]
    assert [(update.topic, update.sequence) for update in updates] == [
        (part("AA-USDT"), 1),
        (part("BB-USDT"), 2),
        (part("BB-USDT"), 3),
        (part("AA-USDT"), 4),
    ]
    assert [update.symbol for update in updates] == ["AA-USDT", "BB-USDT", "BB-USDT", "AA-USDT"]
    assert desk.routes.streams() == [desk.stream], "what is subscribed to, acknowledged and lost is one stream"


@pytest.mark.parametrize(
    "subject", ["trade.ticker", "all", "AAUSDTM", "aa-usdt", "", "AA-USDT ", "A" * 21 + "-B", None, 7, ["AA-USDT"], {}]
)
def test_a_subject_that_is_no_spot_symbol_is_refused_and_kept_nowhere(subject: Any) -> None:
    desk, sink = Desk(), queue()
    desk.stream.add(sink)
    assert desk.stage(frame(subject, 1)) == set()
    without = frame(subject, 1)
    del without["subject"]
    assert desk.stage(without) == set()
    assert (desk.refusals.causes, desk.refusals.unwanted) == ({"subject": 2}, 0)
    assert (told(sink), list(desk.routes.by_wire[WIRE])) == ([], [None])


def test_a_symbol_whose_first_message_is_damaged_begins_with_the_next() -> None:
    desk, sink = Desk(), queue()
    desk.stream.add(sink)
    desk.stage(frame("AA-USDT", 1, price="?"), {**frame("AA-USDT", 2), "data": None})
    assert list(desk.routes.by_wire[WIRE]) == [None]
    desk.stage(frame("AA-USDT", 3), frame("AA-USDT", 4, price="?"), frame("AA-USDT", 5))
    assert [update.sequence for update in told(sink) if isinstance(update, Ticker)] == [3, 5]
    assert desk.refusals.causes == {"price": 2, "data": 1}


def test_there_are_at_most_so_many_symbols() -> None:
    """A server cannot make it grow without bound; those that are known go on."""
    desk, sink = Desk(), queue(Policy.LATEST)
    desk.stream.add(sink)
    desk.stage(*(frame(f"A{number}-USDT", number) for number in range(MOST_SYMBOLS)))
    assert desk.refusals.causes == {}
    desk.stage(frame("ONE-MORE", 1), frame("ANOTHER-ONE", 2), frame("A0-USDT", MOST_SYMBOLS))
    assert desk.refusals.causes == {"subject": 2}
    assert "10,000" in desk.refusals.samples["subject"]
    assert len(desk.routes.by_wire[WIRE]) == 1 + MOST_SYMBOLS == 10_001
    assert len({update.symbol for update in told(sink) if isinstance(update, Ticker)}) == MOST_SYMBOLS


def test_with_the_topic_its_symbols_go() -> None:
    desk = Desk()
    desk.stream.add(queue())
    desk.stage(*(frame(symbol, 1) for symbol in SYMBOLS))
    assert len(desk.routes.by_wire[WIRE]) == 4
    desk.routes.remove(desk.stream)
    assert desk.routes.by_wire == {}
    assert desk.stage(frame("AA-USDT", 2), frame("DD-USDT", 2)) == set()
    assert (desk.refusals.unwanted, desk.refusals.causes) == (2, {})
    assert desk.routes.by_wire == {}


def test_on_another_connection_it_goes_on_with_what_it_knew() -> None:
    """As where the exchange calls the first one full."""
    desk, sink = Desk(), queue()
    desk.stream.add(sink)
    desk.stage(frame("AA-USDT", 1))
    desk.stream.lose(LOST, 1.0)
    desk.routes.remove(desk.stream)
    desk.routes = Routes()
    desk.routes.add(desk.stream)
    desk.stage(frame("AA-USDT", 5), frame("BB-USDT", 6))
    gaps = [one for one in told(sink) if isinstance(one, Gap)]
    assert [(gap.topic, gap.since_ns, gap.until_ns) for gap in gaps] == [
        (part("AA-USDT"), ms(1), ms(5)),
        (part("BB-USDT"), None, ms(6)),
    ]
    assert [stream.topic for stream in desk.stage(frame("BB-USDT", 7))] == [part("BB-USDT")]


def test_that_something_came_on_a_link_counts_whatever_symbol_it_was_of() -> None:
    desk = Desk()
    desk.stream.add(queue())
    assert not desk.stream.came_on_link()
    for frames in ([frame("AA-USDT", 1)], [frame("BB-USDT", 2)], [frame("AA-USDT", 3)]):
        desk.stage(*frames)
        assert desk.stream.came_on_link()
        desk.stream.begin_link()
        assert not desk.stream.came_on_link()


def test_the_first_update_of_a_symbol_and_all_later_ones_are_read_as_the_feed_is_told() -> None:
    desk = Desk(numbers=float, keep_raw=True)
    sink = queue()
    desk.stream.add(sink)
    frames = [frame(symbol, number) for number in (1, 2) for symbol in ("AA-USDT", "BB-USDT")]
    desk.stage(*frames)
    updates = [one for one in told(sink) if isinstance(one, Ticker)]
    assert [update.raw for update in updates] == frames
    assert {type(update.bid) for update in updates} == {float}


class Separate:
    """The same messages, each symbol subscribed to by itself: what the whole market is measured by."""

    def __init__(self) -> None:
        self.streams = {symbol: Stream(part(symbol)) for symbol in SYMBOLS}

    def stage(self, symbol: str, number: int) -> None:
        stream = self.streams[symbol]
        update = stream.decode(frame(symbol, number), stream.topic, T0)
        for append in stream.stagers:
            append(update)
        stream.latest = update
        for sink in stream.sinks:
            sink.hand_over()

    def each(self, do: Callable[[Stream], object]) -> None:
        for stream in self.streams.values():
            do(stream)


steps = st.lists(
    st.sampled_from(SYMBOLS)
    | st.sampled_from(["lose", "restore", "begin"])
    | st.tuples(st.sampled_from(["add", "remove"]), st.integers(0, 2)),
    max_size=60,
)


@given(steps)
@settings(deadline=None)
def test_every_symbol_is_told_as_if_it_had_a_topic_of_its_own(given_steps: list[Any]) -> None:
    """Its updates and its gaps, in one order, to whoever was there; that the link was lost is told once for all."""
    desk, separate = Desk(), Separate()
    ours, theirs = [queue() for _ in range(3)], [queue() for _ in range(3)]
    for number, step in enumerate(given_steps, 1):
        match step:
            case "lose":
                desk.stream.lose(LOST, number)
                separate.each(lambda stream, now=number: stream.lose(LOST, now))  # type: ignore[misc]
            case "restore":
                desk.stream.restore(number)
                separate.each(lambda stream, now=number: stream.restore(now))  # type: ignore[misc]
            case "begin":
                desk.stream.begin_link()
                separate.each(Stream.begin_link)
            case ("add", which):
                desk.stream.add(ours[which])
                separate.each(lambda stream, sink=theirs[which]: stream.add(sink))  # type: ignore[misc]
            case ("remove", which):
                desk.stream.remove(ours[which])
                separate.each(lambda stream, sink=theirs[which]: stream.remove(sink))  # type: ignore[misc]
            case symbol:
                desk.stage(frame(symbol, number))
                separate.stage(symbol, number)
        assert desk.stream.came_on_link() == any(one.came_on_link() for one in separate.streams.values())
    for own, other in zip(ours, theirs, strict=True):
        said, expected = told(own), told(other)
        assert [one for one in said if is_of_a_symbol(one)] == [one for one in expected if is_of_a_symbol(one)]
        once = [one for one in expected if is_of_a_symbol(one) or one.topic == part("AA-USDT")]
        assert [of_all(one) for one in said] == [of_all(one) for one in once]
    assert desk.refusals == Refusals()


def is_of_a_symbol(one: Any) -> bool:
    return isinstance(one, Ticker | Gap)


def of_all(one: Any) -> Any:
    return one if is_of_a_symbol(one) else attrs.evolve(one, topic=ALL)


# -- subscriptions ----------------------------------------------------------------------------------------------------


async def test_every_spot_ticker_comes_by_one_topic(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(generated=5)) as (exchange, feed), feed.all_tickers() as tickers:
        assert tickers.topics == (ALL,)
        assert [str(one) for one in tickers.topics] == [WIRE]
        seen: dict[str, list[Ticker]] = {}
        while len(seen) < 7 or min(map(len, seen.values())) < 10:
            ticker = await tickers.receive()
            seen.setdefault(ticker.symbol, []).append(ticker)
            assert ticker.topic == part(ticker.symbol)
            assert str(ticker.topic) == f"/market/ticker:{ticker.symbol}"
            assert ticker.gap_before is None
        assert seen.keys() == set(exchange.model.symbols("spot"))
        for updates in seen.values():
            numbers = [update.sequence for update in updates]
            assert numbers == sorted(set(numbers)), "of each symbol in its order"
        (session,) = exchange.sessions
        assert session.topics == (WIRE,)
        assert asked(session, "subscribe") == [WIRE]
        statistics = feed.statistics()
        assert statistics.connections[0].topics == statistics.connections[0].acked == 1
        assert (statistics.refused, statistics.unwanted) == ({}, 0)
        assert repr(feed) == "<Feed open: 1 connections, 1 streams>"
    assert law(tickers.statistics())


async def test_it_is_the_ticker_of_all(autojump_clock: MockClock) -> None:
    """`feed.ticker("all")` is the same stream; two subscriptions share the wire, and the second misses no symbol."""
    async with simulated() as (exchange, feed), feed.ticker("all") as first:
        assert first.topics == (topic("ticker", "all"),) == feed.all_tickers().topics
        for _ in range(10):
            await first.receive()
        async with feed.all_tickers(overflow="drop_oldest", buffer=7) as second:
            seen = {(await second.receive()).symbol for _ in range(20)}
            assert seen == {"BTC-USDT", "ETH-USDT"}
            assert second.statistics().bound == 7
            assert asked(exchange.sessions[0], "subscribe") == [WIRE]
        await trio.sleep(1)
        assert asked(exchange.sessions[0], "unsubscribe") == []
        await first.receive()


async def test_the_latest_of_each_symbol_waits(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(live=False)) as (exchange, feed), feed.all_tickers(buffer=1) as tickers:
        await exchange.play(text(symbol, number) for number in range(1, 100) for symbol in SYMBOLS)
        await trio.sleep(1)
        counts = tickers.statistics()
        assert (counts.received, counts.pending, counts.conflated, counts.dropped) == (297, 3, 294, 0)
        taken = [await tickers.receive() for _ in SYMBOLS]
        assert [(one.symbol, one.sequence) for one in taken] == [(symbol, 99) for symbol in SYMBOLS]
        assert law(tickers.statistics())


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "raise"])
async def test_what_is_dropped_is_told_symbol_by_symbol(overflow: str, autojump_clock: MockClock) -> None:
    async with simulated(Exchange(live=False)) as (exchange, feed):
        async with feed.all_tickers(overflow=overflow, buffer=2) as tickers:
            await exchange.play(text(symbol, number) for number in (1, 2, 3) for symbol in SYMBOLS)
            await trio.sleep(1)
            items: list[Any] = []
            overflowed: list[kufeed.Overflowed] = []
            with trio.move_on_after(1):
                while True:
                    try:
                        items.append(await anext(tickers.with_events()))
                    except kufeed.Overflowed as error:
                        overflowed.append(error)
            counts = tickers.statistics()
    assert (counts.received, counts.delivered, counts.dropped) == (9, 2, 7)
    assert law(counts)
    updates = [(one.symbol, one.sequence) for one in items if isinstance(one, Ticker)]
    assert updates == (
        [("BB-USDT", 3), ("CC-USDT", 3)] if overflow == "drop_oldest" else [("AA-USDT", 1), ("BB-USDT", 1)]
    )
    lost = Counter[kufeed.Topic]()
    for one in items:
        if isinstance(one, Dropped):
            lost[one.topic] += one.count
    there = Counter(part(symbol) for symbol, _ in updates)
    assert lost == {part(symbol): 3 - there[part(symbol)] for symbol in SYMBOLS}
    assert bool(overflowed) is (overflow == "raise")
    if overflowed:
        assert sum(error.lost for error in overflowed) == 7
        assert set(overflowed[0].topics) == {f"/market/ticker:{symbol}" for symbol in SYMBOLS}


async def test_blocking_loses_nothing_and_holds_a_link_of_its_own(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(live=False)) as (exchange, feed), feed.all_tickers() as latest:
        async with feed.all_tickers(overflow=Overflow.BLOCK, buffer=2) as tickers:
            assert [session.topics for session in exchange.sessions] == [(WIRE,), (WIRE,)]
            await exchange.play(text(symbol, number) for number in range(1, 51) for symbol in SYMBOLS)
            got: dict[str, list[int | None]] = {}
            for _ in range(150):
                await trio.sleep(0.1)
                ticker = await tickers.receive()
                assert ticker.gap_before is None
                got.setdefault(ticker.symbol, []).append(ticker.sequence)
            assert got == {symbol: list(range(1, 51)) for symbol in SYMBOLS}
            counts = tickers.statistics()
            assert (counts.received, counts.delivered, counts.dropped) == (150, 150, 0)
        assert latest.statistics().received == 150


async def test_a_reconnect_is_told_once_and_a_gap_for_each_symbol(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(live=False)) as (exchange, feed):
        async with feed.all_tickers(overflow="drop_oldest") as tickers:
            await exchange.play([text("AA-USDT", 1), text("BB-USDT", 2), text("AA-USDT", 3)])
            await trio.sleep(1)
            await exchange.disconnect_all(1001)
            await exchange.wait_subscribed(WIRE)
            again = [text("BB-USDT", 7), text("AA-USDT", 8), text("BB-USDT", 9), text("DD-USDT", 10)]
            await exchange.play([*again, text("DD-USDT", 11)])
            items: list[Any] = []
            with trio.move_on_after(1):
                async for item in tickers.with_events():
                    items.append(item)  # noqa: PERF401  # a comprehension that is cancelled keeps nothing
    names = [item.sequence if isinstance(item, Update) else type(item).__name__ for item in items]
    assert names == [1, 2, 3, "Disconnected", "Restored", "Gap", 7, "Gap", 8, 9, "Gap", 10, 11]
    assert {item.topic for item in items if isinstance(item, Disconnected | Restored)} == {ALL}
    assert [item for item in items if isinstance(item, Gap)] == [
        Gap(part("BB-USDT"), GapCause.RECONNECT, None, None, ms(2), ms(7)),
        Gap(part("AA-USDT"), GapCause.RECONNECT, None, None, ms(3), ms(8)),
        Gap(part("DD-USDT"), GapCause.RECONNECT, None, None, None, ms(10)),
    ]
    missed = {item.sequence: item.gap_before for item in items if isinstance(item, Ticker)}
    assert {number for number, gap in missed.items() if gap is not None} == {7, 8, 10}


async def test_who_comes_after_an_outage_missed_nothing_of_it(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(live=False)) as (exchange, feed), feed.all_tickers() as before:
        await exchange.play([text("AA-USDT", 1)])
        await before.receive()
        await exchange.disconnect_all()
        await exchange.wait_subscribed(WIRE)
        async with feed.all_tickers() as late:
            await exchange.play([text("AA-USDT", 5), text("BB-USDT", 6)])
            assert [(await before.receive()).gap_before is None for _ in range(2)] == [False, False]
            assert [(await late.receive()).gap_before for _ in range(2)] == [None, None]


async def test_a_symbols_own_ticker_is_another_stream(autojump_clock: MockClock) -> None:
    """In one subscription or in two: none conflates the other, and neither is delivered as the other."""
    own = topic("ticker", "AA-USDT")
    async with simulated(Exchange(live=False)) as (exchange, feed):
        async with feed.subscribe(own, ALL) as both, feed.ticker("AA-USDT") as single, feed.all_tickers() as every:
            assert sorted(asked(exchange.sessions[0], "subscribe")) == ["/market/ticker:AA-USDT", WIRE]
            for number in (1, 3):
                await exchange.play([text("trade.ticker", number, str(own)), text("AA-USDT", number + 1)])
            await trio.sleep(1)
            assert [(one.topic, one.sequence) for one in [await both.receive(), await both.receive()]] == [
                (own, 3),
                (part("AA-USDT"), 4),
            ]
            assert [(one.topic, one.sequence) for one in [await single.receive()]] == [(own, 3)]
            assert [(one.topic, one.sequence) for one in [await every.receive()]] == [(part("AA-USDT"), 4)]
            for subscription, count in ((both, 4), (single, 2), (every, 2)):
                assert subscription.statistics().received == count


async def test_it_may_join_and_leave_a_subscription(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), feed.ticker("XBTUSDTM") as tickers:
        await tickers.add("all")
        assert tickers.topics == (topic("ticker", "XBTUSDTM"), ALL)
        seen = set()
        while seen != {"XBTUSDTM", "BTC-USDT", "ETH-USDT"}:
            update = await tickers.receive()
            seen.add(update.symbol)
        with pytest.raises(kufeed.UsageError, match="one symbol of /market/ticker:all"):
            await tickers.add(part("BTC-USDT"))
        with pytest.raises(kufeed.UsageError, match="one symbol of /market/ticker:all"):
            feed.subscribe(part("BTC-USDT"))
        tickers.remove("all")
        await trio.sleep(1)
        while tickers.statistics().pending:
            await tickers.receive()
        assert {(await tickers.receive()).symbol for _ in range(10)} == {"XBTUSDTM"}
        assert [asked(session, "unsubscribe") for session in exchange.sessions] == [[], [WIRE]]
        await tickers.add("all")
        seen = set()
        while seen != {"XBTUSDTM", "BTC-USDT", "ETH-USDT"}:
            update = await tickers.receive()
            assert update.gap_before is None
            seen.add(update.symbol)


async def test_clones_divide_the_updates(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(live=False)) as (exchange, feed):
        async with feed.all_tickers(overflow="drop_oldest") as tickers:
            with tickers.clone() as other:
                await exchange.play(text(symbol, number) for number in range(1, 11) for symbol in SYMBOLS)
                await trio.sleep(1)
                halves = [[await one.receive() for _ in range(15)] for one in (tickers, other)]
            assert exchange.sessions[0].topics == (WIRE,)
            assert Counter(one.symbol for half in halves for one in half) == dict.fromkeys(SYMBOLS, 10)
            assert law(tickers.statistics())


async def test_a_cancelled_entering_leaves_nothing(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    exchange.faults.ignore_topics = {WIRE}
    async with simulated(exchange) as (_, feed):
        with trio.move_on_after(1) as scope:
            async with feed.all_tickers():
                pytest.fail("it was not acknowledged")
        assert scope.cancelled_caught
        exchange.faults.ignore_topics = set()
        async with feed.all_tickers() as tickers:
            await tickers.receive()


async def test_what_is_no_ticker_of_a_symbol_is_counted(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(live=False)) as (exchange, feed), feed.all_tickers() as tickers:
        await exchange.play([text("trade.ticker", 1), text(None, 2), text(["AA-USDT"], 3), text("AA-USDT", 4)])
        assert (await tickers.receive()).sequence == 4
        assert feed.statistics().refused == {"subject": 3}
        assert feed.statistics().unwanted == 0


# -- handlers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("inline", [False, True])
async def test_handlers_get_all_of_it(inline: bool, batches: bool, autojump_clock: MockClock) -> None:
    got: list[Ticker] = []

    def take(updates: Any) -> None:
        got.extend(updates if batches else [updates])

    async def take_later(updates: Any) -> None:
        await trio.lowlevel.checkpoint()
        take(updates)

    async with simulated(Exchange(live=False)) as (exchange, feed), feed.open_handlers() as handlers:
        fn: Any = take if inline else take_later
        await handlers.start(fn, feed.all_tickers(overflow="drop_oldest"), batches=batches)  # type: ignore[call-overload]
        await exchange.play(text(symbol, number) for number in (1, 2) for symbol in SYMBOLS)
        await trio.sleep(1)
        await exchange.disconnect_all()
        await exchange.wait_subscribed(WIRE)
        await exchange.play(text(symbol, number) for number in (5, 6) for symbol in SYMBOLS)
        await trio.sleep(1)
        (queue,) = handlers.statistics()[0].queues
        assert (queue.received, queue.delivered) == (12, 12)
    assert [one.symbol for one in got] == SYMBOLS * 4
    assert {one.sequence for one in got if one.gap_before is not None} == {5}
    assert {one.gap_before.topic for one in got if one.gap_before is not None} == {part(symbol) for symbol in SYMBOLS}


@pytest.mark.parametrize("symbols", [["all"], ["all", "BTC-USDT"], ["XBTUSDTM", "all"]])
async def test_workers_cannot_share_one_topic(symbols: list[str], autojump_clock: MockClock) -> None:
    """They share topics, by symbol; one worker would get nearly everything, and a symbol might have two."""

    async def handler(ticker: Ticker) -> None:
        pytest.fail("it was refused")

    async with simulated() as (exchange, feed), feed.open_handlers() as handlers:
        tickers = feed.ticker(*symbols)
        with pytest.raises(kufeed.UsageError, match=r"workers.*/market/ticker:all.*batches=True"):
            handlers.start_soon(handler, tickers, workers=2)
        assert handlers.statistics() == ()
        assert exchange.sessions == ()
        async with tickers:  # nobody has it
            await tickers.receive()
