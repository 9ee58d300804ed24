"""Order books while the stream, the snapshots or the connection are at fault: never wrong, in the end right."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
import ujson
from trio.testing import MockClock, wait_all_tasks_blocked

from kufeed import (
    BookNotReady,
    Disconnected,
    FeedConfig,
    Gap,
    GapCause,
    OrderBook,
    Restored,
    Resynced,
)
from kufeed.testing import BookFault, Exchange

from .bookish import BOTH, QUIET, balanced, check, kinds, skip_numbers, until_blocked, waiting, watched, wire
from .test_books import SPOT, consume

BACK = FeedConfig(reconnect_delay=0.1, max_reconnect_delay=1.0)


def state(feed: Any, symbol: str) -> Any:
    """What the statistics say of one book."""
    (found,) = [one for one in feed.statistics().books if one.symbol == symbol]
    return found


# -- a hole in the stream ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("symbol", "other"), [BOTH, BOTH[::-1]])
async def test_a_hole_is_told_at_its_place_and_that_book_alone_begins_anew(
    symbol: str, other: str, autojump_clock: MockClock
) -> None:
    """It cannot be read until it is right; the other gives every view meanwhile, and nothing is asked for it."""
    async with watched() as (exchange, feed, network), feed.book(symbol, other, depth=5) as books:
        events = books.with_events()
        before = {view.symbol: view for view in await until_blocked(events)}
        assert set(before) == {symbol, other}
        first, last = skip_numbers(exchange, symbol, 5)
        exchange.faults.book = BookFault(delay=3.0, symbols={symbol})
        exchange.change_book(symbol)
        (gap,) = await until_blocked(events)
        assert (gap.topic, gap.cause) == (before[symbol].topic, GapCause.SEQUENCE)
        assert (gap.first_missing, gap.last_missing) == (first, last)
        assert (gap.since_ns, gap.until_ns) == (before[symbol].exchange_time_ns, None)
        with pytest.raises(BookNotReady) as error:
            feed.books[symbol].best_bid  # noqa: B018  # reading it is what raises
        assert (error.value.symbol, error.value.reason) == (symbol, "syncing")
        for _ in range(5):
            exchange.change_book(symbol)
            sequence = exchange.change_book(other)
            (view,) = await until_blocked(events)
            assert (view.symbol, view.sequence, view.gap_before) == (other, sequence, None)
            check(exchange, view, 5)
            assert feed.books[other].sequence == sequence
        await trio.sleep(3.0)
        told, *views = await until_blocked(events)
        assert told == Resynced(gap.topic, pytest.approx(3.0))
        (view,) = views
        assert view.sequence == exchange.book(symbol).sequence
        assert view.gap_before == attrs.evolve(gap, until_ns=view.time_ns), "now it is known where the hole ends"
        check(exchange, view, 5)
        assert (network.books(symbol), network.books(other)) == (2, 1)
        found = state(feed, symbol)
        assert (found.state, found.breaks, found.seeds, found.unfit, found.failed) == ("live", 1, 2, 0, 0)
        assert (state(feed, other).breaks, state(feed, other).seeds) == (0, 1)
        exchange.change_book(symbol)
        (view,) = await until_blocked(events)
        assert view.gap_before is None
        balanced(books)


async def test_a_second_hole_before_the_book_is_right_again_is_no_second_gap(autojump_clock: MockClock) -> None:
    """There is no view between the two, and a snapshot from before the second is not used."""
    async with watched() as (exchange, feed, network), feed.book("XBTUSDTM") as books:
        events = books.with_events()
        await until_blocked(events)
        exchange.faults.book = BookFault(delay=1.0)
        skip_numbers(exchange, "XBTUSDTM", 2)
        exchange.change_book("XBTUSDTM")
        assert kinds(await until_blocked(events)) == ["Gap"]
        skip_numbers(exchange, "XBTUSDTM", 3)
        exchange.change_book("XBTUSDTM")
        await trio.sleep(10.0)
        resynced, view = await until_blocked(events)
        assert (type(resynced), view.sequence) == (Resynced, exchange.book("XBTUSDTM").sequence)
        check(exchange, view, 20)
        found = state(feed, "XBTUSDTM")
        assert (found.breaks, found.seeds, found.unfit) == (1, 2, 1)
        assert network.books() == 3


async def test_changes_that_come_twice_or_late_are_nothing(autojump_clock: MockClock) -> None:
    """What was applied already is skipped; what comes before its turn breaks the book, and is no wrong view."""
    async with watched() as (exchange, feed, _), feed.book("XBTUSDTM", overflow="block") as books:
        seen = [await books.receive()]
        model = exchange.model.find("futures", "XBTUSDTM")
        assert model is not None
        topic = exchange._publisher.routes[wire("XBTUSDTM")].topic
        frames = [
            text
            for _ in range(6)
            for text in topic.channel.encode(topic, model, model.change(exchange._clock.now_ns(), 1))
        ]
        await exchange.play([frames[0], frames[0], frames[1], frames[0], frames[1], frames[2]])
        await wait_all_tasks_blocked()
        seen += waiting(books)
        assert [view.sequence - seen[0].sequence for view in seen] == [0, 1, 2, 3]
        await exchange.play([frames[4], frames[3], frames[5]])
        await wait_all_tasks_blocked()
        later = waiting(books)
        assert [view.sequence - seen[0].sequence for view in later] == [6]
        gap = later[0].gap_before
        assert gap is not None
        assert gap.first_missing == gap.last_missing == seen[0].sequence + 4
        for view in seen + later:
            check(exchange, view, 20)
        assert state(feed, "XBTUSDTM").breaks == 1


async def test_every_view_before_a_hole_comes_before_its_gap_however_small_the_buffer(
    autojump_clock: MockClock,
) -> None:
    """Also where one read brings them all, and what comes after the hole."""
    async with watched() as (exchange, feed, _), feed.book("XBTUSDTM", overflow="block", buffer=1) as books:
        events = books.with_events()
        first = (await until_blocked(events))[0].sequence
        exchange.change_book("XBTUSDTM", 4)
        skip_numbers(exchange, "XBTUSDTM", 1)
        exchange.change_book("XBTUSDTM", 1)
        told: list[Any] = []
        for _ in range(5):
            told += [one for one in await until_blocked(events) if isinstance(one, OrderBook | Gap | Resynced)]
            await trio.sleep(1.0)
        assert [getattr(one, "sequence", type(one)) for one in told] == [
            *range(first + 1, first + 5),
            Gap,
            Resynced,
            first + 6,
        ]
        assert all(view.gap_before is None for view in told[:4])
        assert told[6].gap_before == attrs.evolve(told[4], until_ns=told[6].time_ns)
        assert balanced(books).dropped == 0


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("changes_only", [False, True])
@pytest.mark.parametrize("overflow", ["latest", "block", "drop_oldest"])
async def test_the_end_of_a_hole_is_filled_in_once_it_is_known(
    overflow: str, changes_only: bool, waits: bool, autojump_clock: MockClock
) -> None:
    """One event; whoever came to it before the book was right again reads the end off the next view.

    Of two ends of a subscription one may have the event, and the other the view.
    """
    options: dict[str, Any] = {"overflow": overflow, "buffer": 4, "changes_only": changes_only, "depth": 50}
    async with (
        watched(Exchange(book_levels=40, **QUIET)) as (exchange, feed, _),
        feed.book(*BOTH, **options) as books,
        feed.book(*BOTH, depth=50) as plain,
    ):
        with books.clone() as other:
            events = books.with_events()
            await until_blocked(events)
            exchange.faults.book = BookFault(delay=3.0, symbols={"XBTUSDTM"})
            for _ in range(2):
                last = exchange.change_book("XBTUSDTM")
                await trio.sleep(0.1)
                first_missing, last_missing = skip_numbers(exchange, "XBTUSDTM", 2)
                exchange.change_book("XBTUSDTM")
                seen = [] if waits else await until_blocked(events)
                await trio.sleep(2.0)
                exchange.change_book("BTC-USDT")
                exchange.change_book("XBTUSDTM")
                await trio.sleep(10.0)
                if waits:
                    seen = await until_blocked(events)
                    assert sorted(kinds(seen))[:2] == ["Gap", "OrderBook"]
                    assert sorted(kinds(seen))[-2:] == ["OrderBook", "Resynced"]
                    (gap,) = [one for one in seen if isinstance(one, Gap)]
                    view = seen[-1]
                else:
                    assert kinds(seen) == ["OrderBook", "Gap"]
                    assert seen[-1].until_ns is None
                    unconcerned, view = waiting(other)
                    assert (unconcerned.symbol, unconcerned.gap_before) == ("BTC-USDT", None)
                    assert await until_blocked(events) == []
                    gap = attrs.evolve(seen[-1], until_ns=view.time_ns)
                check(exchange, view)
                assert view.gap_before == gap
                assert (gap.cause, gap.first_missing, gap.last_missing) == (
                    GapCause.SEQUENCE,
                    first_missing,
                    last_missing,
                )
                assert last == first_missing - 1
                assert gap.since_ns < gap.until_ns == view.time_ns
                assert waiting(plain)[-1].gap_before == gap, "who only reads views is told the same"
            balanced(books)


@pytest.mark.parametrize("waits", [False, True])
async def test_of_two_holes_before_one_view_the_second_one_ends_it(waits: bool, autojump_clock: MockClock) -> None:
    """The view between them was replaced before anybody took it."""
    async with watched() as (exchange, feed, _), feed.book("XBTUSDTM") as books:
        events = books.with_events()
        (first,) = await until_blocked(events)
        skip_numbers(exchange, "XBTUSDTM", 2)
        exchange.change_book("XBTUSDTM")
        await trio.sleep(5.0)
        exchange.faults.book = BookFault(delay=3.0)
        skip_numbers(exchange, "XBTUSDTM", 2)
        exchange.change_book("XBTUSDTM")
        await trio.sleep(1.0)
        if not waits:
            told = await until_blocked(events)
            assert kinds(told) == ["Gap", "Resynced", "OrderBook", "Gap"]
            assert (told[0].until_ns, told[3].until_ns) == (told[2].time_ns, None)
        await trio.sleep(5.0)
        view = (await until_blocked(events))[-1]
        check(exchange, view, 20)
        since = told[2].time_ns if not waits else first.time_ns
        assert view.gap_before is not None
        assert (view.gap_before.since_ns, view.gap_before.until_ns) == (since, view.time_ns)


async def test_a_hole_of_a_book_that_is_added_anew_has_an_end_too(autojump_clock: MockClock) -> None:
    """It was read no more before it was right again."""
    async with watched() as (exchange, feed, _), feed.book("XBTUSDTM") as books:
        events = books.with_events()
        await until_blocked(events)
        exchange.faults.book = BookFault(error=503)
        skip_numbers(exchange, "XBTUSDTM", 2)
        exchange.change_book("XBTUSDTM")
        await trio.sleep(1.0)
        books.remove("XBTUSDTM")
        exchange.faults.book = None
        await books.add("XBTUSDTM")
        told = await until_blocked(events)
        assert kinds(told) == ["Gap", "OrderBook"]
        assert told[1].gap_before == attrs.evolve(told[0], until_ns=told[1].time_ns)


# -- snapshots --------------------------------------------------------------------------------------------------------

FAULTS = {
    "503": (BookFault(error=503, times=3), 3, 0),
    "a business error with HTTP 200": (BookFault(error=("500000", "Internal Server Error"), times=3), 3, 0),
    "garbage": (BookFault(damage="garbage", times=3), 3, 0),
    "crossed": (BookFault(damage="crossed", times=3), 0, 3),
    "a price twice": (BookFault(damage="duplicate", times=3), 0, 3),
    "too old": (BookFault(stale=9, times=3), 0, 3),
    "too old by far": (BookFault(stale=10**6, times=2), 0, 2),
    "hanging": (BookFault(delay=math.inf, times=2), 2, 0),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("symbol", BOTH)
async def test_snapshots_at_fault_are_asked_for_again_until_one_fits(
    symbol: str, fault: str, autojump_clock: MockClock
) -> None:
    """With growing pauses, a hanging one for `connect_timeout` at most; until then no view is shown."""
    spoilt, failed, unfit = FAULTS[fault]
    async with watched(config=FeedConfig(connect_timeout=4.0)) as (exchange, feed, network):
        exchange.change_book(symbol, 20)  # something to be older than
        exchange.faults.book = spoilt
        async with feed.book(symbol) as books:
            exchange.change_book(symbol)
            await wait_all_tasks_blocked()
            assert waiting(books) == []
            assert not feed.books[symbol].is_ready
            with trio.fail_after(4.0 * 3 + 0.25 + 0.5 + 1.0):
                view = await books.receive()
            check(exchange, view, 20)
            assert view.sequence == exchange.book(symbol).sequence
            assert view.gap_before is None
            found = state(feed, symbol)
            assert (found.failed, found.unfit, found.seeds, found.breaks) == (failed, unfit, 1, 0)
            assert network.books() == failed + unfit + 1
            times = [one.at for one in network.requests if one.symbol]
            assert all(later > earlier for earlier, later in pairwise(times))


class WrongSymbol(Exchange):
    """Answers with the book of another contract, so many times."""

    wrong = 2

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._right = self._desk.answer_book
        self._desk.answer_book = self._answer_book  # type: ignore[method-assign]

    def _answer_book(self, where: Any, headers: dict[str, str]) -> Any:
        if self.wrong and where.query.get("symbol") == "XBTUSDTM":
            self.wrong -= 1
            where = attrs.evolve(where, query={"symbol": "ETHUSDTM"})
        return self._right(where, headers)


async def test_a_seed_of_the_old_numbering_keeps_no_thin_book_from_another(autojump_clock: MockClock) -> None:
    """One that the exchange kept too long, with a number that the changes come to later or never."""
    for back in (100, 10**9):
        async with watched(Exchange(book_levels=1000, **QUIET)) as (exchange, feed, network):
            async with feed.book(SPOT, depth=50) as books:
                check(exchange, await books.receive(), 50)
                exchange.change_book(SPOT, 30)
                await trio.sleep(5.0)
                exchange.renumber_book(SPOT, exchange.book(SPOT).sequence - back)
                await trio.sleep(2.0)
                for _ in range(5):
                    exchange.change_book(SPOT)
                    await trio.sleep(1.0)
                await trio.sleep(40.0)
                waiting(books)
                exchange.faults.book = BookFault(stale=60, times=1)
                before = network.books()
                for _ in range(200):
                    consume(exchange, SPOT, 1)
                    await trio.sleep(0.25)
                    for view in waiting(books):
                        check(exchange, view, 50)
                    assert len(feed.books[SPOT].top(50).bids) == 50, "it never was too thin"
                (found,) = feed.statistics().books
                assert found.unfit == 1
                assert network.books() - before == 1 + found.seeds - 2


async def test_seeds_that_the_changes_never_come_to_are_asked_for_ever_less_often(autojump_clock: MockClock) -> None:
    """Numbers far too high, in time: each is held, disproved a second later, and replaced in the end by a good one."""
    spoilt = 0

    def loads(text: bytes) -> Any:
        nonlocal spoilt
        answer = ujson.loads(text)
        if spoilt and isinstance(data := answer.get("data"), dict) and "bids" in data:
            data["sequence"] = str(int(data["sequence"]) + 10**9)
        return answer

    exchange = Exchange(book_levels=1000, **QUIET)
    async with watched(exchange, FeedConfig(loads=loads)) as (_, feed, network):
        async with feed.book(SPOT, depth=20) as books:
            check(exchange, await books.receive(), 20)
            spoilt = True
            consume(exchange, SPOT, 61)
            for beat in range(100):
                await trio.sleep(1.0)
                exchange.change_book(SPOT) if beat % 10 else consume(exchange, SPOT, 1)
            assert len(feed.books[SPOT].top(20).bids) == 20
            assert 4 <= network.books() <= 20
            spoilt = False
            for _ in range(60):
                await trio.sleep(1.0)
                consume(exchange, SPOT, 1)
            (found,) = feed.statistics().books
            assert (found.breaks, found.failed) == (0, 0)
            assert found.seeds >= 2
            assert found.unfit == network.books() - found.seeds
            check(exchange, waiting(books)[-1], 20)


@pytest.mark.parametrize("fault", [BookFault(stale=40), BookFault(error=503), BookFault(damage="crossed")])
async def test_a_seed_that_fails_when_it_is_not_wanted_any_more_leaves_nothing(
    fault: BookFault, autojump_clock: MockClock
) -> None:
    """It is counted, and no changes are kept for another."""
    async with watched(Exchange(book_levels=1000, **QUIET)) as (exchange, feed, network):
        async with feed.book(SPOT, depth=3) as shallow:
            async with feed.book(SPOT, depth=50) as deep:
                check(exchange, await deep.receive(), 50)
                exchange.faults.book = attrs.evolve(fault, delay=1.0, times=1)
                consume(exchange, SPOT, 35)
                await trio.sleep(0.5)
            await trio.sleep(1.0)
            found = state(feed, SPOT)
            assert (found.seeds, found.unfit + found.failed, network.books()) == (1, 1, 2)
            exchange.change_book(SPOT)
            await wait_all_tasks_blocked()
            assert feed._books._shared.books[shallow.topics[0]].sync._buffer is None


async def test_the_book_of_another_contract_is_no_snapshot(autojump_clock: MockClock) -> None:
    async with watched(WrongSymbol(**QUIET)) as (exchange, feed, _), feed.book("XBTUSDTM") as books:
        view = await books.receive()
        check(exchange, view, 20)
        assert view.symbol == "XBTUSDTM"
        assert state(feed, "XBTUSDTM").failed == 2


@pytest.mark.parametrize("error", [429, ("429000", "Too Many Requests"), 503])
async def test_a_wait_that_the_exchange_asks_for_is_kept_by_all(error: Any, autojump_clock: MockClock) -> None:
    """Whatever else wants a snapshot there asks for none before it is over."""
    async with watched() as (exchange, feed, network):
        exchange.faults.book = BookFault(error=error, times=1)
        exchange.faults.retry_after = "7"
        async with feed.book("BTC-USDT") as books:
            await wait_all_tasks_blocked()
            assert network.books() == 1
            asked_at = trio.current_time()
            wait = 7.0 if isinstance(error, int) else 30.0 - (trio.current_time() - network.requests[0].at)
            async with feed.book("ETH-USDT") as others:
                check(exchange, await books.receive(), 20)
                check(exchange, await others.receive(), 20)
            times = [one.at for one in network.requests if one.symbol][1:]
            assert len(times) == 2
            assert min(times) >= asked_at + wait - 1e-6
            assert max(times) <= asked_at + wait + 1.0


async def test_a_market_that_answers_nothing_does_not_keep_the_other_from_its_snapshots(
    autojump_clock: MockClock,
) -> None:
    spot = [f"T{number:04d}-USDT" for number in range(1, 31)]
    async with watched(Exchange(generated=30, book_levels=40, **QUIET)) as (exchange, feed, _):
        async with feed.book("XBTUSDTM") as books:
            await books.receive()
            exchange.faults.book = BookFault(delay=math.inf, symbols=spot)
            async with feed.book(*spot):
                await wait_all_tasks_blocked()
                skip_numbers(exchange, "XBTUSDTM", 1)
                exchange.change_book("XBTUSDTM")
                with trio.fail_after(1.0):
                    check(exchange, await books.receive(), 20)


# -- connections ------------------------------------------------------------------------------------------------------


async def cut(exchange: Exchange, network: Any, how: str) -> None:
    match how:
        case "fin":
            await exchange.disconnect_all()
        case "close":
            await exchange.disconnect_all(1001)
        case "reset":
            exchange.cable.cut("reset")
        case "silence":
            exchange.freeze()
            await trio.sleep(40.0)  # a ping is due after 18 s, its pong 10 s later
            exchange.thaw()


@pytest.mark.parametrize("how", ["fin", "close", "reset", "silence"])
@pytest.mark.parametrize("symbol", BOTH)
async def test_a_lost_connection_ends_what_is_known_and_lower_numbers_may_follow(
    symbol: str, how: str, autojump_clock: MockClock
) -> None:
    """`Disconnected`, `Restored`, `Gap`, `Resynced`, a view: in this order, and nothing of the old numbers after it."""
    async with watched(config=BACK) as (exchange, feed, network), feed.book(symbol) as books:
        events = books.with_events()
        (first,) = await until_blocked(events)
        await trio.sleep(2.0)
        exchange.change_book(symbol, 3)
        old = (await until_blocked(events))[-1]
        exchange.renumber_book(symbol, 1000)
        skip_numbers(exchange, symbol, 2)
        await cut(exchange, network, how)
        with trio.fail_after(30.0):
            told = [await anext(events) for _ in range(5)]
        assert kinds(told) == ["Disconnected", "Restored", "Gap", "Resynced", "OrderBook"]
        lost, restored, gap, resynced, view = told
        assert {one.topic for one in told} == {first.topic}
        assert isinstance(lost, Disconnected)
        assert isinstance(restored, Restored)
        assert (gap.cause, gap.first_missing, gap.since_ns) == (GapCause.RECONNECT, None, old.exchange_time_ns)
        assert gap.until_ns == view.exchange_time_ns
        assert isinstance(resynced, Resynced)
        assert view.gap_before == gap
        assert view.sequence == 1002 < old.sequence
        check(exchange, view, 20)
        for number in range(3):
            exchange.change_book(symbol)
            (view,) = await until_blocked(events)
            assert (view.sequence, view.gap_before) == (1003 + number, None)
            check(exchange, view, 20)
        found = state(feed, symbol)
        assert (found.breaks, found.seeds) == (0, 2), "a lost connection is no break"


async def test_while_it_is_disconnected_a_book_says_so(autojump_clock: MockClock) -> None:
    async with watched(config=FeedConfig(reconnect_delay=20.0)) as (exchange, feed, _), feed.book(*BOTH) as books:
        await wait_all_tasks_blocked()
        assert len(waiting(books)) == 2
        await exchange.disconnect_all()
        await wait_all_tasks_blocked()
        for symbol in BOTH:
            assert state(feed, symbol).state == "waiting"
            with pytest.raises(BookNotReady, match=f"{symbol} is not ready: waiting"):
                feed.books[symbol].snapshot()


@pytest.mark.parametrize("symbol", BOTH)
async def test_a_snapshot_under_way_when_the_connection_is_lost_is_not_used(
    symbol: str, autojump_clock: MockClock
) -> None:
    async with watched(config=BACK) as (exchange, feed, network):
        exchange.faults.book = BookFault(delay=5.0, times=1)
        async with feed.book(symbol) as books:
            await wait_all_tasks_blocked()
            assert network.books() == 1
            old = exchange.book(symbol).sequence
            exchange.renumber_book(symbol, 7)
            await exchange.disconnect_all()
            view = await books.receive()
            assert view.sequence == 7 != old
            assert trio.current_time() < 5.0
            check(exchange, view, 20)
            await trio.sleep(10.0)
            assert waiting(books) == []
            assert feed.books[symbol].sequence == 7
            assert network.books() == 2


async def test_a_quiet_book_can_be_read_without_any_change(autojump_clock: MockClock) -> None:
    """From the acknowledgement on nothing is missed; also after a reconnect, where the view is the same again."""
    async with watched(config=BACK) as (exchange, feed, _), feed.book(*BOTH) as books:
        await feed.books["XBTUSDTM"].wait_ready()
        await feed.books["BTC-USDT"].wait_ready()
        first = {view.symbol: view for view in waiting(books)}
        await exchange.disconnect_all()
        for _ in BOTH:
            view = await books.receive()
            check(exchange, view, 20)
            assert view.sequence == first[view.symbol].sequence
            assert view.gap_before is not None


@pytest.mark.parametrize("overflow", ["latest", "block"])
async def test_a_hole_and_a_cut_before_anybody_looks_are_told_in_one_order(
    overflow: str, autojump_clock: MockClock
) -> None:
    async with watched(config=BACK) as (exchange, feed, _), feed.book("BTC-USDT", overflow=overflow) as books:
        events = books.with_events()
        await until_blocked(events)
        exchange.faults.book = BookFault(error=503)
        skip_numbers(exchange, "BTC-USDT", 4)
        exchange.change_book("BTC-USDT")
        await wait_all_tasks_blocked()
        await exchange.disconnect_all()
        exchange.faults.book = None
        await trio.sleep(5.0)
        told = await until_blocked(events)
        assert kinds(told) == ["Gap", "Disconnected", "Restored", "Resynced", "OrderBook"]
        assert told[-1].gap_before == told[0]
        assert told[0].until_ns == told[-1].time_ns
        check(exchange, told[-1], 20)


async def test_who_comes_while_the_connection_is_lost_is_told_of_no_end_without_a_beginning(
    autojump_clock: MockClock,
) -> None:
    async with watched(config=FeedConfig(reconnect_delay=4.0)) as (exchange, feed, _), feed.book("BTC-USDT") as books:
        await books.receive()
        await exchange.disconnect_all()
        await wait_all_tasks_blocked()
        async with feed.book("BTC-USDT", depth=3) as late:
            assert kinds(await until_blocked(late.with_events())) == ["OrderBook"]
        told = await until_blocked(books.with_events())
        assert kinds(told) == ["Disconnected", "Restored", "Gap", "Resynced", "OrderBook"]
