"""One link takes over from another: nothing lost, nothing twice, nobody told; with redundancy there are always two."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import kufeed
from kufeed import FeedConfig
from kufeed.testing import Exchange, Limits
from tests.test_feed import simulated

if TYPE_CHECKING:
    from collections.abc import Callable

OFTEN = FeedConfig(rotate_after=100.0)
ALWAYS = FeedConfig(rotate_after=25.0)


async def collect(stream: Any, seconds: float) -> list[Any]:
    """All that a subscription yields in *seconds*, events included."""
    seen: list[Any] = []
    with trio.move_on_after(seconds):
        async for one in stream.with_events():
            seen.append(one)  # noqa: PERF401  # what there is when the time is over
    return seen


def updates(seen: list[Any], kind: type) -> list[Any]:
    return [one for one in seen if isinstance(one, kind)]


def waiting(events: kufeed.FeedEvents) -> list[kufeed.FeedEvent]:
    """What waits to be read."""
    seen: list[kufeed.FeedEvent] = []
    try:
        while True:
            seen.append(events.receive_nowait())
    except trio.WouldBlock:
        return seen


def events_of(seen: list[Any]) -> list[Any]:
    return [one for one in seen if isinstance(one, kufeed.StreamEvent)]


def holes(deltas: list[kufeed.BookDelta]) -> int:
    return sum(second.first_sequence != first.sequence + 1 for first, second in pairwise(deltas))


async def test_nothing_is_lost_or_told_twice_when_links_are_replaced(autojump_clock: MockClock) -> None:
    async with simulated(config=ALWAYS) as (exchange, feed), feed.book_deltas("XBTUSDTM", "ETHUSDTM") as deltas:
        seen = await collect(deltas, 250)
        assert len(exchange.dials) >= 9
        assert events_of(seen) == []
        for symbol in "XBTUSDTM", "ETHUSDTM":
            of_symbol = [delta for delta in updates(seen, kufeed.BookDelta) if delta.symbol == symbol]
            assert len(of_symbol) > 1000 / 4
            assert holes(of_symbol) == 0
        assert len(exchange.sessions) <= 2


@pytest.mark.parametrize("kind", ["trades", "ticker", "level1", "depth", "mark_price", "candles"])
async def test_every_kind_survives_it(autojump_clock: MockClock, kind: str) -> None:
    """Beside a feed that is never rotated: both see the same."""
    options: dict[str, Any] = {"interval": "1min"} if kind == "candles" else {}
    symbol = "XBTUSDTM" if kind == "mark_price" else "BTC-USDT"
    async with simulated(config=ALWAYS) as (exchange, feed):
        async with kufeed.open_feed(FeedConfig(max_message_size=2**20), network=feed._network) as plain:
            seen: dict[str, list[Any]] = {"rotated": [], "plain": []}

            async def read(name: str, one: kufeed.Feed) -> None:
                async with getattr(one, kind)(symbol, overflow="drop_oldest", **options) as stream:
                    entered.append(name)
                    async for update in stream.with_events():
                        seen[name].append(update)

            entered: list[str] = []
            with trio.move_on_after(125):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read, "rotated", feed)
                    nursery.start_soon(read, "plain", plain)
        assert len(exchange.dials) >= 5
        assert events_of(seen["rotated"]) == []
        both = [[_said(update) for update in one] for one in seen.values()]
        assert abs(len(both[0]) - len(both[1])) <= 1  # the one entered a little later
        assert both[0][-50:] == both[1][-50:]
        assert set(both[0][1:]) <= set(both[1]) or set(both[1][1:]) <= set(both[0])


def _said(update: Any) -> tuple[Any, ...]:
    return (update.symbol, update.sequence, update.exchange_time_ns, repr(update))


async def test_a_book_stays_readable(autojump_clock: MockClock) -> None:
    async with simulated(config=ALWAYS) as (exchange, feed), feed.book("XBTUSDTM") as books:
        await feed.books["XBTUSDTM"].wait_ready()
        seen = await collect(books, 150)
        assert len(exchange.dials) >= 5
        assert events_of(seen) == []
        (book,) = feed.statistics().books
        assert (book.breaks, book.seeds) == (0, 1)
        last = updates(seen, kufeed.OrderBook)[-1]
        assert last.bids[0] == exchange.book("XBTUSDTM", last.sequence).bids[0]


async def test_the_next_link_is_acked_before_the_old_one_goes(autojump_clock: MockClock) -> None:
    async with simulated(config=OFTEN) as (exchange, feed), feed.ticker("XBTUSDTM", "ETHUSDTM") as tickers:
        (old,) = exchange.sessions
        with feed.events() as events:
            async for event in events:
                if isinstance(event, kufeed.LinkReplaced):
                    break
        assert event.reason == "age"
        assert 90 <= event.duration <= 115
        (new,) = [session for session in exchange.sessions if session is not old]
        assert set(new.held) == set(old.held)
        pinged = [json.loads(text)["id"] for text in old.received if '"ping"' in text]
        assert len(pinged) > 5  # the last of them asked whether all had come
        await old.wait_ended()
        assert await tickers.receive()


async def test_an_old_link_goes_on_while_no_other_can_be_had(autojump_clock: MockClock) -> None:
    exchange = Exchange(update_interval=1.0)
    async with simulated(exchange, OFTEN) as (_, feed), feed.book_deltas("XBTUSDTM") as deltas:
        exchange.faults.refuse_dials = True
        seen = await collect(deltas, 2000)
        assert events_of(seen) == []
        assert holes(updates(seen, kufeed.BookDelta)) == 0
        exchange.faults.refuse_dials = False
        more = await collect(deltas, 200)
        assert events_of(more) == []
        assert len(exchange.dials) >= 2


async def test_where_the_old_link_dies_first_its_successor_takes_over(autojump_clock: MockClock) -> None:
    config = attrs.evolve(OFTEN, max_reconnect_attempts=None)
    limits = Limits(token_life=300.0)
    async with simulated(Exchange(limits=limits), config) as (exchange, feed), feed.book_deltas("XBTUSDTM") as deltas:
        exchange.faults.refuse_dials = True
        seen = await collect(deltas, 400)
        assert [type(event) for event in events_of(seen)] == [kufeed.Disconnected]
        exchange.faults.refuse_dials = False
        seen = await collect(deltas, 60)
        assert [type(event) for event in events_of(seen)] == [kufeed.Restored, kufeed.Gap]
        assert len(exchange.sessions) == 1
        assert updates(seen, kufeed.BookDelta)


async def test_topics_come_and_go_while_a_link_is_replaced(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(generated=30), ALWAYS) as (exchange, feed):
        symbols = [f"T{number:04}USDTM" for number in range(1, 31)]
        async with feed.book_deltas("XBTUSDTM") as deltas:
            seen: list[Any] = []
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def _() -> None:
                    async for one in deltas.with_events():
                        seen.append(one)  # noqa: PERF401  # it never ends

                for turn in range(240):
                    symbol = symbols[turn % 30]
                    await deltas.add(symbol)
                    await trio.sleep(0.37)
                    deltas.remove(symbol)
                nursery.cancel_scope.cancel()
            assert [event for event in events_of(seen) if event.topic.symbol == "XBTUSDTM"] == []
            assert holes([one for one in updates(seen, kufeed.BookDelta) if one.symbol == "XBTUSDTM"]) == 0
            assert len(exchange.dials) >= 3
            await trio.sleep(10)
            assert [set(session.held) for session in exchange.sessions] == [{"/contractMarket/level2:XBTUSDTM"}]


@pytest.mark.parametrize("redundancy", [1, 2])
@pytest.mark.parametrize("kind", ["trades", "book_deltas", "ticker"])
async def test_what_a_link_has_kept_from_before_a_topic_was_added_again_is_not_told(
    autojump_clock: MockClock, kind: str, redundancy: int
) -> None:
    """The link that joins has kept what the other one delivered before the removal; nothing newer has come since."""
    exchange, config = Exchange(update_interval=0.05), attrs.evolve(OFTEN, redundancy=redundancy)
    async with simulated(exchange, config) as (_, feed):
        async with getattr(feed, kind)("BTC-USDT", "ETH-USDT", overflow="drop_oldest") as stream:
            seen = await collect(stream, 50)
            while len(exchange.sessions) <= redundancy:
                seen += await collect(stream, 0.5)
            seen += await collect(stream, 0.5)
            exchange.faults.mute_symbols.add("BTC-USDT")
            stream.remove("BTC-USDT")
            removed = feed._network.time_ns()
            await stream.add("BTC-USDT")
            seen += await collect(stream, 5)
            exchange.faults.mute_symbols.clear()
            seen += await collect(stream, 5)
    of_symbol = [one for one in seen if isinstance(one, kufeed.Update) and one.symbol == "BTC-USDT"]
    said = [_said(one)[:3] for one in of_symbol]
    assert len(said) == len(set(said))
    times = [one.time_ns for one in of_symbol]
    assert times == sorted(times)
    assert any(time > removed for time in times)


async def test_a_consumer_that_blocks_loses_nothing(autojump_clock: MockClock) -> None:
    async with simulated(config=ALWAYS) as (exchange, feed):
        async with feed.book_deltas("XBTUSDTM", overflow="block", buffer=10) as deltas:
            seen: list[Any] = []
            with trio.move_on_after(150):
                async for one in deltas.with_events():
                    seen.append(one)
                    if len(seen) % 50 == 0:
                        await trio.sleep(4)
            assert holes(updates(seen, kufeed.BookDelta)) == 0
            assert not [event for event in events_of(seen) if not isinstance(event, kufeed.SlowConsumer)]
            assert len(exchange.dials) >= 3


HELD: dict[str, Callable[[kufeed.Feed], kufeed.Subscription[Any]]] = {
    "trades": lambda feed: feed.trades("XBTUSDTM", overflow="block", buffer=2),
    "backfill": lambda feed: feed.trades("XBTUSDTM", overflow="block", buffer=2, backfill=True),
    "book": lambda feed: feed.book("XBTUSDTM", overflow="block", buffer=2),
}


@pytest.mark.parametrize("name", HELD)
async def test_what_a_held_link_leaves_comes_without_another_update(autojump_clock: MockClock, name: str) -> None:
    """The link that takes over hands it out, though it brings nothing itself."""
    async with simulated(Exchange(live=False, accept_any_symbol=False), OFTEN) as (exchange, feed):
        async with HELD[name](feed) as held:
            await collect(held, 5)
            while len(exchange.sessions) < 2 or not exchange.sessions[1].held:  # noqa: ASYNC110  # of virtual time
                await trio.sleep(0.05)
            await trio.sleep(0.3)
            exchange.trade("XBTUSDTM", 3)  # each changes the book too
            await trio.sleep(10)
            assert len(exchange.sessions) == 1, "the old link is gone"
            assert len(updates(await collect(held, 5), kufeed.Update)) == 3


async def test_what_can_wait_comes_behind_reconnects() -> None:
    """A full budget of dials: who reconnects goes first, though who replaces a link has come before."""
    clock = MockClock(autojump_threshold=0)
    order: list[str] = []

    async def main() -> None:
        from kufeed._budget import acquire_dial

        budget = kufeed.DialBudget(1, 60.0)

        async def dial(name: str, *, can_wait: bool) -> None:
            permit = await acquire_dial(budget, can_wait=can_wait)
            order.append(name)
            permit.release()

        (await budget.acquire()).release()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: dial("rotation", can_wait=True))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(lambda: dial("reconnect", can_wait=False))

    await trio.to_thread.run_sync(lambda: trio.run(main, clock=clock))
    assert order == ["reconnect", "rotation"]


# -- two links at all times -------------------------------------------------------------------------------------------

TWICE = FeedConfig(redundancy=2)


async def test_losing_one_of_two_links_loses_nothing(autojump_clock: MockClock) -> None:
    async with simulated(config=TWICE) as (exchange, feed), feed.book_deltas("XBTUSDTM") as deltas:
        await trio.sleep(5)
        assert [set(session.held) for session in exchange.sessions] == [{"/contractMarket/level2:XBTUSDTM"}] * 2
        seen: list[Any] = []
        for turn in range(10):
            seen += await collect(deltas, 10)
            victim = exchange.sessions[turn % 2]
            victim.cut()
            seen += await collect(deltas, 20)
            assert len(exchange.sessions) == 2
        assert events_of(seen) == []
        assert holes(updates(seen, kufeed.BookDelta)) == 0
        assert feed.statistics().duplicates > 500


async def test_losing_both_is_told(autojump_clock: MockClock) -> None:
    async with simulated(config=TWICE) as (exchange, feed), feed.book_deltas("XBTUSDTM") as deltas:
        await collect(deltas, 10)
        await exchange.disconnect_all()
        seen = await collect(deltas, 30)
        assert [type(event) for event in events_of(seen)] == [kufeed.Disconnected, kufeed.Restored, kufeed.Gap]
        gap = next(one for one in seen if isinstance(one, kufeed.Gap))
        assert gap.first_missing is not None


async def test_a_book_outlives_either_of_its_links(autojump_clock: MockClock) -> None:
    async with simulated(config=TWICE) as (exchange, feed), feed.book("XBTUSDTM") as books:
        await feed.books["XBTUSDTM"].wait_ready()
        for turn in range(6):
            await collect(books, 10)
            exchange.sessions[turn % 2].cut()
        await collect(books, 10)
        (book,) = feed.statistics().books
        assert (book.breaks, book.seeds, book.state) == (0, 1, "live")


async def test_what_each_link_was_worth(autojump_clock: MockClock) -> None:
    """The second server is 50 ms slower: what the first brings is first, by 50 ms."""
    exchange = Exchange(instance_servers=2)
    exchange.faults.lag = {1: 0.05}
    async with simulated(exchange, TWICE) as (_, feed), feed.trades("XBTUSDTM", "ETHUSDTM") as trades:
        assert events_of(await collect(trades, 100)) == []
        links = feed.statistics().connections[0].links
        assert len({link.host for link in links}) == 2
        quick, slow = sorted(links, key=lambda link: -link.first)
        assert quick.first > 50
        assert quick.lead / quick.first == pytest.approx(0.05, abs=0.001)
        assert slow.first == 0


async def test_what_the_faster_link_misses_the_slower_one_brings_in_time(autojump_clock: MockClock) -> None:
    """The faster link is lost and comes back again and again: what it brings is not told before the slower one's."""
    exchange = Exchange(instance_servers=2)
    exchange.faults.lag = {1: 0.5}
    async with simulated(exchange, TWICE) as (_, feed), feed.book_deltas("XBTUSDTM") as deltas:
        seen = await collect(deltas, 5)
        for _ in range(20):
            for session in exchange.sessions:
                if session.server == 0:
                    session.cut()
            seen += await collect(deltas, 10)
        assert events_of(seen) == []
        assert holes(updates(seen, kufeed.BookDelta)) == 0


async def test_links_count_against_max_connections(autojump_clock: MockClock) -> None:
    config = FeedConfig(redundancy=2, max_connections=3, topics_per_connection=1)
    async with simulated(config=config) as (exchange, feed):
        with pytest.raises(kufeed.UsageError, match="need 4 connections"):
            async with feed.ticker("XBTUSDTM", "ETHUSDTM"):
                pass
        assert not exchange.dials


# -- what the exchange says -------------------------------------------------------------------------------------------


async def test_a_notice_of_an_end_has_the_link_replaced(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), feed.book_deltas("XBTUSDTM") as deltas:
        (session,) = exchange.sessions
        with feed.events() as events:
            session.reply('{"type":"notice","data":"this server closes for an upgrade in 60 s"}')
            seen = await collect(deltas, 30)
            kinds = [type(event) for event in waiting(events)]
        assert [kind for kind in kinds if kind not in (kufeed.StateChanged, kufeed.Progress)] == [
            kufeed.Notice,
            kufeed.LinkUp,
            kufeed.LinkReplaced,
        ]
        assert events_of(seen) == []
        assert not session.is_open
        assert len(exchange.sessions) == 1


@pytest.mark.parametrize("code", [1001, 1012])
async def test_a_polite_close_is_answered_at_once(autojump_clock: MockClock, code: int) -> None:
    async with simulated() as (exchange, feed), feed.ticker("XBTUSDTM"):
        await trio.sleep(100)
        closed_at = trio.current_time()
        await exchange.disconnect_all(code)
        assert exchange.dials[-1].at - closed_at < 0.1
        await feed.wait_state("live")


async def test_who_says_so_every_second_is_heard_once(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(instance_servers=2)) as (exchange, feed), feed.book_deltas("XBTUSDTM") as deltas:
        for _ in range(300):
            exchange.notify('{"type":"notice","data":"maintenance tomorrow at 10:00"}')
            assert events_of(await collect(deltas, 1)) == []
        assert len(exchange.dials) == 3  # from one server to the other and, as that says so too, back


# -- what readers of this code have found -----------------------------------------------------------------------------


async def test_after_a_blip_both_servers_are_used_again(autojump_clock: MockClock) -> None:
    exchange = Exchange(instance_servers=2, update_interval=1.0)
    async with simulated(exchange, TWICE) as (_, feed), feed.book_deltas("XBTUSDTM"):
        for turn in range(6):
            await trio.sleep(70)
            assert {session.server for session in exchange.sessions} == {0, 1}
            exchange.sessions[turn % 2].cut()
        await trio.sleep(10)
        exchange.kill_server(0)
        await trio.sleep(60)
        assert [session.server for session in exchange.sessions] == [1, 1]  # rather both here than one alone
        exchange.revive_server(0)


async def test_two_links_wait_no_less_than_one(autojump_clock: MockClock) -> None:
    """An exchange that welcomes and cuts: full jitter between dials, and one trial dial in a cool-down."""
    dials: dict[int, int] = {}
    for redundancy in (1, 2):
        exchange = Exchange(update_interval=1.0)
        async with simulated(exchange, FeedConfig(redundancy=redundancy)) as (_, feed):
            async with feed.ticker("XBTUSDTM", wait="none"), trio.open_nursery() as nursery:

                @nursery.start_soon
                async def cut(exchange: Exchange = exchange) -> None:
                    while True:
                        await trio.sleep(0.05)
                        for session in exchange.sessions:
                            session.cut()

                await trio.sleep(900)
                nursery.cancel_scope.cancel()
            dials[redundancy] = len(exchange.dials)
    assert dials[2] < 2.5 * dials[1] < 300


async def test_where_nothing_can_be_dialled_any_more_it_is_raised_though_a_successor_waited(
    autojump_clock: MockClock,
) -> None:
    """The link that grew old dies while the circuit of its successor is open."""
    limits = Limits(token_life=2000.0)
    config = FeedConfig(rotate_after=100.0, max_reconnect_attempts=2)
    exchange = Exchange(limits=limits, update_interval=1.0)
    async with simulated(exchange, config) as (_, feed), feed.book_deltas("XBTUSDTM") as deltas:
        exchange.faults.refuse_dials = True
        with feed.events() as events:
            with pytest.raises(kufeed.ConnectionFailed):
                await collect(deltas, 3000)
            told = waiting(events)
        assert [event.duration > 1900 for event in told if isinstance(event, kufeed.LinkLost)] == [True]
        exchange.faults.refuse_dials = False
        await feed.wait_state("live")
        assert updates(await collect(deltas, 100), kufeed.BookDelta)


@pytest.mark.parametrize("lag", [0.0, 0.5, 3.0])
async def test_a_topic_that_the_next_link_does_not_get_keeps_the_old_one(autojump_clock: MockClock, lag: float) -> None:
    """Until another gets it, however late its ack comes there and however much is still under way here."""
    bad, good = "/contractMarket/level2:ETHUSDTM", "/contractMarket/level2:XBTUSDTM"
    exchange = Exchange(update_interval=0.2)
    async with simulated(exchange, OFTEN) as (_, feed), feed.book_deltas("XBTUSDTM", "ETHUSDTM") as deltas:
        (old,) = exchange.sessions
        old.lag = lag
        exchange.faults.ignore_topics = [bad]
        seen = await collect(deltas, 200)
        assert old.is_open
        assert {bad, good} <= set(old.held)
        exchange.faults.ignore_topics = ()
        seen += await collect(deltas, 120)
        assert events_of(seen) == []
        assert not old.is_open
        assert len(exchange.sessions) <= 2
        for symbol in "XBTUSDTM", "ETHUSDTM":
            assert holes([delta for delta in updates(seen, kufeed.BookDelta) if delta.symbol == symbol]) == 0
        await collect(deltas, 250)
        assert len(exchange.sessions) <= 2


@pytest.mark.parametrize("place", [0, 1])
async def test_a_topic_that_only_one_of_two_has_is_not_lost_when_that_is_replaced(
    autojump_clock: MockClock, place: int
) -> None:
    config = FeedConfig(redundancy=2, rotate_after=100.0)
    exchange = Exchange(update_interval=0.2)
    async with simulated(exchange, config) as (_, feed), feed.book_deltas("XBTUSDTM", "ETHUSDTM") as deltas:
        await trio.sleep(20)
        exchange.faults.ignore_topics = ["/contractMarket/level2:ETHUSDTM"]
        exchange.sessions[place].cut()  # its next link gets one topic of the two
        seen = await collect(deltas, 600)
        assert holes([delta for delta in updates(seen, kufeed.BookDelta) if delta.symbol == "ETHUSDTM"]) == 0
        assert [event for event in events_of(seen) if isinstance(event, kufeed.Disconnected)] == []


async def test_a_link_that_takes_fewer_topics_tells_what_moves(autojump_clock: MockClock) -> None:
    """The limit of topics on a link has become lower: those that go elsewhere have a hole, and it is told."""
    exchange = Exchange(generated=6, update_interval=0.5)
    symbols = [f"T{number:04}USDTM" for number in range(1, 7)]
    async with simulated(exchange, OFTEN) as (_, feed), feed.book_deltas(*symbols) as deltas:
        exchange.limits = Limits(futures_topics=4)
        seen = await collect(deltas, 400)
        moved = [event.topic.symbol for event in events_of(seen) if isinstance(event, kufeed.Disconnected)]
        assert len(moved) == len(set(moved)) == 2
        for symbol in symbols:
            of_symbol = [delta for delta in updates(seen, kufeed.BookDelta) if delta.symbol == symbol]
            told = [delta.gap_before is not None for delta in of_symbol]
            assert holes(of_symbol) <= sum(told)
            assert of_symbol[-1].received_time_ns > of_symbol[0].received_time_ns + 380 * 10**9


async def test_a_lag_that_grows_does_not_let_the_next_link_overtake(autojump_clock: MockClock) -> None:
    async with simulated(config=OFTEN) as (exchange, feed), feed.trades("XBTUSDTM", "ETHUSDTM") as trades:
        (old,) = exchange.sessions
        seen: list[Any] = []
        for _ in range(150):
            old.lag += 0.25
            seen += await collect(trades, 1)
        seen += await collect(trades, 200)
        assert events_of(seen) == []
        assert len(exchange.dials) >= 2


async def test_a_blocking_consumer_loses_nothing_with_one_of_two_links(autojump_clock: MockClock) -> None:
    async with simulated(config=TWICE) as (exchange, feed):
        async with feed.book_deltas("XBTUSDTM", overflow="block", buffer=10) as deltas:
            seen = await collect(deltas, 10)
            for turn in range(6):
                await trio.sleep(10)  # both readers are held
                exchange.sessions[turn % 2].cut()
                await trio.sleep(10)
                seen += await collect(deltas, 30)
            assert not [event for event in events_of(seen) if not isinstance(event, kufeed.SlowConsumer)]
            assert holes(updates(seen, kufeed.BookDelta)) == 0


async def test_a_connection_lingers_though_one_of_its_links_is_lost(autojump_clock: MockClock) -> None:
    async with simulated(config=FeedConfig(redundancy=2, linger=20.0)) as (exchange, feed):
        async with feed.ticker("XBTUSDTM"):
            await trio.sleep(10)
        exchange.faults.refuse_dials = True
        exchange.sessions[0].cut()
        await trio.sleep(10)
        assert len(exchange.sessions) == 1
        exchange.faults.refuse_dials = False
        async with feed.ticker("XBTUSDTM"):
            await trio.sleep(30)
            assert len(exchange.sessions) == 2
        await trio.sleep(30)
        assert len(exchange.sessions) == 0


@pytest.mark.parametrize("redundancy", [1, 2, 3])
async def test_the_topic_of_all_symbols_on_several_links(autojump_clock: MockClock, redundancy: int) -> None:
    exchange = Exchange(generated=50, update_interval=1.0)
    config = FeedConfig(redundancy=redundancy, rotate_after=50.0)
    async with simulated(exchange, config) as (_, feed), feed.all_tickers(overflow="drop_oldest") as tickers:
        seen = await collect(tickers, 150)
        assert events_of(seen) == []
        assert len({ticker.symbol for ticker in updates(seen, kufeed.Ticker)}) == 52
        for symbol in "BTC-USDT", "T0001-USDT":
            numbers = [ticker.sequence for ticker in updates(seen, kufeed.Ticker) if ticker.symbol == symbol]
            assert len(numbers) > 100
            assert numbers == sorted(set(numbers))
        assert feed.statistics().disordered == 0


@pytest.mark.parametrize("dead", [(0, 1), (1, 2), (0, 2)])
async def test_the_one_server_that_lives_is_found(autojump_clock: MockClock, dead: tuple[int, int]) -> None:
    for redundancy in 1, 2:
        exchange = Exchange(instance_servers=3)
        exchange.faults.dead_servers = set(dead)
        async with simulated(exchange, FeedConfig(redundancy=redundancy, max_reconnect_attempts=3)) as (_, feed):
            async with feed.ticker("XBTUSDTM"):
                await trio.sleep(60)
                assert [session.server in dead for session in exchange.sessions] == [False] * redundancy


async def test_a_restart_that_rolls_from_server_to_server(autojump_clock: MockClock) -> None:
    """Each announces its end, and goes: nothing is lost."""
    async with simulated(Exchange(instance_servers=2)) as (exchange, feed), feed.book_deltas("XBTUSDTM") as deltas:
        seen = await collect(deltas, 10)
        first = exchange.sessions[0].server
        for server in first, 1 - first:
            for session in exchange.sessions:
                if session.server == server:
                    session.reply('{"type":"notice","data":"this server restarts in 30 s"}')
            seen += await collect(deltas, 30)
            exchange.kill_server(server)
            seen += await collect(deltas, 60)
            exchange.revive_server(server)
            seen += await collect(deltas, 60)
        assert events_of(seen) == []
        assert holes(updates(seen, kufeed.BookDelta)) == 0


async def test_the_slower_of_two_links_is_not_silent(autojump_clock: MockClock) -> None:
    """It brings nothing new, but it brings: a dead topic does not end it."""
    exchange = Exchange(instance_servers=2, update_interval=0.5)
    exchange.faults.lag = {1: 0.3}
    async with simulated(exchange, TWICE) as (_, feed), feed.ticker("XBTUSDTM", "ETHUSDTM"):
        await trio.sleep(30)
        exchange.faults.mute_topics = ["/contractMarket/tickerV2:XBTUSDTM"]
        with feed.events() as events:
            await trio.sleep(400)
            kinds = {type(event) for event in waiting(events)}
        assert kufeed.StreamStale in kinds
        assert kufeed.LinkLost not in kinds
        assert len(exchange.dials) == 2
