"""Order books over a feed: right or unreadable, whatever the exchange and the network do."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import kufeed
from kufeed import (
    BookNotReady,
    ConnectionFailed,
    CredentialsRefused,
    ExchangeError,
    Feed,
    FeedConfig,
    Gap,
    GapCause,
    OrderBook,
    Overflowed,
    Resynced,
    SubscriptionRejected,
    SubscriptionTimeout,
    UsageError,
)
from kufeed.testing import BookFault, Exchange, Limits

from .bookish import BOTH, QUIET, balanced, check, kinds, skip_numbers, until_blocked, waiting, watched, wire
from .test_feed import QUICK, asked, simulated

FUTURE, SPOT = "XBTUSDTM", "BTC-USDT"


# -- the main job -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", BOTH)
async def test_each_view_is_the_exchanges_book_at_its_sequence(symbol: str, autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.book(symbol, depth=7) as books:
        first = await books.receive()
        assert type(first) is OrderBook
        assert (len(first.bids), len(first.asks)) == (7, 7)
        check(exchange, first)
        for _ in range(50):
            sequence = exchange.change_book(symbol, 3)
            await trio.sleep(0.1)
            view = await books.receive()
            assert view.sequence == sequence
            check(exchange, view)
        live = feed.books[symbol]
        assert live.sequence == view.sequence
        assert live.best_bid == view.best_bid
        assert live.top(7) == view
        assert list(live.bids)[:7] == list(view.bids)


async def test_a_live_market_of_both_kinds(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    async with simulated(exchange) as (_, feed), feed.book(*BOTH, "ETH-USDT") as books:
        seen: dict[str, list[int]] = {}
        while len(seen) < 3 or min(map(len, seen.values())) < 30:
            view = await books.receive()
            check(exchange, view, 20)
            seen.setdefault(view.symbol, []).append(view.sequence)
        for sequences in seen.values():
            assert sequences == sorted(set(sequences))
        assert {one.symbol: one.state for one in feed.statistics().books} == dict.fromkeys(seen, "live")
        assert all(one.breaks == 0 for one in feed.statistics().books)


async def test_numbers_may_be_floats(autojump_clock: MockClock) -> None:
    """Spot and futures, snapshot and stream: each price stands once, in the end as in exact numbers."""
    async with watched(config=FeedConfig(numbers=float)) as (exchange, feed, _), feed.book(*BOTH) as books:
        for _ in range(30):
            for symbol in BOTH:
                exchange.change_book(symbol, 2)
            await wait_all_tasks_blocked()
            for view in waiting(books):
                truth = exchange.book(view.symbol, view.sequence)
                size = int if view.symbol == FUTURE else float
                assert {type(level.price) for level in view.bids + view.asks} == {float}
                assert {type(level.size) for level in view.bids + view.asks} == {size}
                assert [tuple(map(float, level)) for level in view.asks] == [
                    tuple(map(float, level)) for level in truth.asks[:20]
                ]
                assert [tuple(map(float, level)) for level in view.bids] == [
                    tuple(map(float, level)) for level in truth.bids[:20]
                ]


# -- what a public seed of a spot book can promise --------------------------------------------------------------------


def consume(exchange: Exchange, symbol: str, levels: int) -> None:
    """Take the best *levels* bids of a book away, one change each, as the exchange pushes them."""
    model = exchange.model.find("spot" if "-" in symbol else "futures", symbol)
    assert model is not None
    changes: list[Any] = []
    for _ in range(levels):
        model._set(model.bids, "buy", model.bids.best, 0, changes)
    push(exchange, model, changes)


def push(exchange: Exchange, model: Any, changes: list[Any]) -> None:
    from kufeed.testing.market import Beat

    for route in exchange._publisher.routes_of(model):
        exchange._publisher.publish(route, model, Beat(exchange._clock.now_ns(), tuple(changes), ()))


async def test_a_public_seed_is_replaced_before_it_is_too_thin(autojump_clock: MockClock) -> None:
    """At fewer than depth and 20 levels; meanwhile it can be read, and nothing is told."""
    async with watched(Exchange(book_levels=1000, **QUIET)) as (exchange, feed, network):
        async with feed.book(SPOT, depth=20) as books:
            events = books.with_events()
            await until_blocked(events)
            live = feed.books[SPOT]
            assert (len(live.bids), len(live.asks)) == (100, 100)
            consume(exchange, SPOT, 60)
            (view,) = await until_blocked(events)
            check(exchange, view, 20)
            assert (len(live.bids), network.books()) == (40, 1)
            exchange.faults.book = BookFault(delay=2.0)
            consume(exchange, SPOT, 10)
            assert kinds(await until_blocked(events)) == ["OrderBook"]
            assert (len(live.bids), network.books()) == (30, 2)
            consume(exchange, SPOT, 10)
            (view,) = await until_blocked(events)
            check(exchange, view, 20)
            assert live.is_ready
            await trio.sleep(2.5)
            assert len(live.bids) == 100 - 10
            assert await until_blocked(events) == [], "the new seed shows nothing new"
            exchange.change_book(SPOT)
            (view,) = await until_blocked(events)
            check(exchange, view, 20)
            assert view.gap_before is None
            (found,) = feed.statistics().books
            assert (found.seeds, found.breaks) == (2, 0)


@pytest.mark.parametrize("joins", [False, True])
async def test_a_seed_that_waits_for_the_changes_is_counted_when_it_joins(
    joins: bool, autojump_clock: MockClock
) -> None:
    """Or as one that did not fit, where the connection is lost before."""
    config = FeedConfig(reconnect_delay=0.1)
    async with watched(Exchange(book_levels=1000, **QUIET), config) as (exchange, feed, _), feed.book(SPOT):
        await wait_all_tasks_blocked()
        model = exchange.model.find("spot", SPOT)
        assert model is not None
        exchange.faults.book = BookFault(error=503, times=1)
        consume(exchange, SPOT, 70)
        await wait_all_tasks_blocked()
        topic = exchange._publisher.routes[wire(SPOT)].topic
        frames = list(topic.channel.encode(topic, model, model.change(exchange._clock.now_ns(), 2)))
        await trio.sleep(3.0)
        (found,) = feed.statistics().books
        assert (found.seeds, found.unfit, found.state) == (1, 0, "live")
        if joins:
            await exchange.play(frames)
            await wait_all_tasks_blocked()
            (found,) = feed.statistics().books
            assert (found.seeds, found.unfit) == (2, 0)
            assert len(feed.books[SPOT].bids) > 90
        else:
            await exchange.disconnect_all()
            await trio.sleep(3.0)
            (found,) = feed.statistics().books
            assert (found.seeds, found.unfit, found.state) == (2, 1, "live")


@pytest.mark.parametrize("overflow", ["latest", "block"])
async def test_a_public_seed_that_is_too_thin_shows_nothing(overflow: str, autojump_clock: MockClock) -> None:
    """`Gap` and `Resynced` tell of it; who reads less deep goes on."""
    async with watched(Exchange(book_levels=1000, **QUIET)) as (exchange, feed, _):
        async with feed.book(SPOT, depth=30, overflow=overflow) as books, feed.book(SPOT, depth=5) as shallow:
            events = books.with_events()
            await until_blocked(events)
            exchange.faults.book = BookFault(delay=2.0)
            consume(exchange, SPOT, 75)
            told = await until_blocked(events)
            gap = told[-1]
            assert isinstance(gap, Gap)
            assert (gap.cause, gap.first_missing) == (GapCause.BOOK, None)
            with pytest.raises(BookNotReady, match="fewer than 30 levels are known"):
                feed.books[SPOT].top(30)
            await wait_all_tasks_blocked()
            check(exchange, waiting(shallow)[-1], 5)
            assert feed.books[SPOT].top(5).sequence == exchange.book(SPOT).sequence
            await trio.sleep(2.5)
            resynced, view = await until_blocked(events)
            assert isinstance(resynced, Resynced)
            assert view.gap_before == attrs.evolve(gap, until_ns=view.time_ns)
            check(exchange, view, 30)
            exchange.change_book(SPOT)
            await wait_all_tasks_blocked()
            assert waiting(shallow)[-1].gap_before is None


async def test_what_the_public_cannot_see_is_refused_before_anything_is_dialled(autojump_clock: MockClock) -> None:
    async with watched(Exchange(book_levels=1000, **QUIET)) as (exchange, feed, network):
        with pytest.raises(UsageError, match=r"depth of a spot book \(BTC-USDT\) is at most 50 without"):
            feed.book(FUTURE, SPOT, depth=51)
        for nonsense in (0, -1, True, 1.5, "20"):
            with pytest.raises(UsageError, match="a depth is a whole number of levels from 1 up"):
                feed.book(SPOT, depth=nonsense)  # type: ignore[arg-type]
        assert network.requests == []
        async with feed.book(FUTURE, depth=400) as books:
            check(exchange, await books.receive(), 400)
            with pytest.raises(UsageError, match="at most 50 without"):
                await books.add(SPOT)
            assert [str(one) for one in books.topics] == [wire(FUTURE)]
            assert list(feed.books) == [FUTURE]
            assert len(exchange.sessions) == 1
            exchange.change_book(FUTURE)
            check(exchange, await books.receive(), 400)


async def test_credentials_get_a_spot_book_whole(autojump_clock: MockClock) -> None:
    exchange = Exchange(book_levels=1000, **QUIET)
    async with watched(exchange, FeedConfig(credentials=exchange.issue_credentials())) as (_, feed, network):
        async with feed.book(SPOT, depth=900) as books:
            check(exchange, await books.receive(), 900)
            consume(exchange, SPOT, 50)
            check(exchange, await books.receive(), 900)
            assert feed.books[SPOT].snapshot().bids == exchange.book(SPOT).bids
            assert network.books() == 1


async def test_a_clock_that_is_wrong_is_mended(autojump_clock: MockClock) -> None:
    """Before the first signature, and when it was set since."""
    exchange = Exchange(**QUIET)
    async with watched(exchange, FeedConfig(credentials=exchange.issue_credentials())) as (_, feed, network):
        network.ahead = -3600.0
        async with feed.book(SPOT, depth=60) as books:
            check(exchange, await books.receive(), 60)
            network.ahead = 7200.0
            skip_numbers(exchange, SPOT, 1)
            exchange.change_book(SPOT)
            check(exchange, await books.receive(), 60)
            (found,) = feed.statistics().books
            assert (found.seeds, found.failed) == (2, 0)


@pytest.mark.parametrize("before", [None, 503])
async def test_credentials_that_are_refused_are_raised_once_and_tried_again(
    before: int | None, autojump_clock: MockClock
) -> None:
    """To each reader, also to who comes later, and whatever went wrong before; once they are taken there is a book."""
    exchange = Exchange(**QUIET)
    good = exchange.issue_credentials()
    wrong = attrs.evolve(good, passphrase="another-passphrase")  # noqa: S106  # of nobody
    async with watched(exchange, FeedConfig(credentials=wrong)) as (_, feed, network):
        if before is not None:
            exchange.faults.book = BookFault(error=before, times=1)
        async with feed.book(SPOT, depth=60) as books, feed.book(FUTURE) as others:
            with pytest.raises(CredentialsRefused) as error:
                await books.receive()
            assert error.value.code == "400004"
            check(exchange, await others.receive(), 20)
            async with feed.book(SPOT, depth=70) as late:
                with pytest.raises(CredentialsRefused):
                    await late.receive()
            asked_before = network.books(SPOT)
            with trio.move_on_after(200.0) as scope:
                await books.receive()
            assert scope.cancelled_caught, "it is told once"
            since = network.books(SPOT) - asked_before
            assert 2 <= since <= 4, "it goes on asking, once a minute"
            exchange._keys._issued[good.key] = wrong  # as if the passphrase had been changed at the exchange
            check(exchange, await books.receive(), 60)


@pytest.mark.parametrize("before", [None, 503])
@pytest.mark.parametrize("code", ["900001", "400001", "400002", "400006"])
@pytest.mark.parametrize("symbol", BOTH)
async def test_a_refusal_that_lasts_is_raised_once_and_asking_goes_on(
    symbol: str, code: str, before: int | None, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one about credentials: nothing was signed here, so it is no reason to ask at once in another way."""
    async with watched() as (exchange, feed, network):
        if before is not None:
            exchange.faults.book = BookFault(error=before, times=1)
            async with feed.book(symbol) as early:
                check(exchange, await early.receive(), 20)
        caplog.clear()
        exchange.faults.book = BookFault(error=(code, "no"))
        start = trio.current_time()
        async with feed.book(symbol) as one, feed.book(symbol, depth=3) as two:
            for books in (one, two):
                with pytest.raises(ExchangeError, match=code) as error:
                    await books.receive()
                assert not isinstance(error.value, CredentialsRefused)
            with trio.move_on_after(60.0) as scope:
                await one.receive()
            assert scope.cancelled_caught, "it is told once"
            assert 2 <= network.books(since=start) <= 20
            warnings = [record for record in caplog.records if record.name == "kufeed.books"]
            assert [(one.levelname, code in one.getMessage()) for one in warnings] == [("WARNING", True)]
            exchange.faults.book = None
            check(exchange, await one.receive(), 20)


# -- how views wait, and their accounts -------------------------------------------------------------------------------


async def test_latest_waits_and_each_change_has_a_view_where_it_may_block(autojump_clock: MockClock) -> None:
    """LATEST: the newest view of each symbol, one of each batch. BLOCK: one of every change, on a link of its own."""
    async with watched() as (exchange, feed, _):
        async with feed.book(*BOTH) as latest, feed.book(*BOTH, overflow="block") as every:
            await wait_all_tasks_blocked()
            assert len(exchange.sessions) == 4
            first = {view.symbol: view.sequence for view in waiting(every)}
            assert len(waiting(latest)) == 2
            for symbol in BOTH:
                exchange.change_book(symbol, 10)
            await wait_all_tasks_blocked()
            counts = balanced(latest)
            assert (counts.received, counts.conflated, counts.pending) == (4, 0, 2), "one of each batch"
            for symbol in BOTH:
                exchange.change_book(symbol)
            await wait_all_tasks_blocked()
            newest = waiting(latest)
            assert {view.symbol: view.sequence for view in newest} == {
                symbol: exchange.book(symbol).sequence for symbol in BOTH
            }
            assert balanced(latest).conflated == 2
            steps: dict[str, list[int]] = {symbol: [] for symbol in BOTH}
            for view in waiting(every):
                check(exchange, view, 20)
                steps[view.symbol].append(view.sequence - first[view.symbol])
            assert steps[FUTURE] == list(range(1, 12)), "each message is one change"
            assert steps[SPOT] == [4, 8, 10, 11], "a spot message holds up to four"
            assert balanced(every).conflated == balanced(every).dropped == 0
            async with feed.book(FUTURE, overflow="block"):
                assert len(exchange.sessions) == 5


async def test_a_slow_consumer_that_blocks_loses_nothing_and_holds_up_nobody(autojump_clock: MockClock) -> None:
    async with watched() as (exchange, feed, _):
        async with feed.book(FUTURE, overflow="block", buffer=2) as slow, feed.book(FUTURE) as fast:
            first = await slow.receive()
            await fast.receive()
            for number in range(1, 301):
                exchange.change_book(FUTURE)
                assert (await fast.receive()).sequence == first.sequence + number
            await trio.sleep(5.0)
            for number in range(1, 301):
                view = await slow.receive()
                assert (view.sequence, view.gap_before) == (first.sequence + number, None)
                check(exchange, view, 20)
            assert balanced(slow).dropped == 0


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "raise"])
async def test_what_has_no_room_is_counted_and_told(overflow: str, autojump_clock: MockClock) -> None:
    async with watched() as (exchange, feed, _):
        async with feed.book(FUTURE, overflow=overflow, buffer=3) as books:
            first = await books.receive()
            for _ in range(8):
                exchange.change_book(FUTURE)
                await wait_all_tasks_blocked()
            counts = balanced(books)
            assert (counts.received, counts.dropped, counts.pending) == (9, 5, 3)
            left = [books.receive_nowait() for _ in range(3)]
            kept = range(6, 9) if overflow == "drop_oldest" else range(1, 4)
            assert [view.sequence - first.sequence for view in left] == list(kept)
            for view in left:
                check(exchange, view, 20)
            exchange.change_book(FUTURE)
            await wait_all_tasks_blocked()
            if overflow == "raise":
                with pytest.raises(Overflowed) as error:
                    books.receive_nowait()
                assert error.value.lost == 5
            view = books.receive_nowait()
            check(exchange, view, 20)
            gap = left[0].gap_before if overflow == "drop_oldest" else view.gap_before
            assert gap is not None
            assert gap.cause is GapCause.OVERFLOW
            balanced(books)


async def test_one_who_keeps_up_loses_nothing_by_the_company_of_one_who_does_not(autojump_clock: MockClock) -> None:
    """Both read the same books, and one read brings more views than either has room for."""
    symbols = [f"T{number:04d}USDTM" for number in range(1, 9)]
    async with watched(Exchange(generated=8, book_levels=40, **QUIET)) as (exchange, feed, _):
        async with (
            feed.book(*symbols, overflow="drop_oldest", buffer=2) as slow,
            feed.book(*symbols, overflow="drop_oldest", buffer=2) as fast,
            trio.open_nursery() as nursery,
        ):
            seen: list[OrderBook] = []

            async def read() -> None:
                async for view in fast:
                    seen.append(view)  # noqa: PERF401  # it never ends by itself

            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            for _ in range(5):
                for symbol in symbols:
                    exchange.change_book(symbol)
                await wait_all_tasks_blocked()
            counts = balanced(fast)
            assert (counts.dropped, counts.delivered) == (0, len(seen))
            assert counts.received == 8 + 5 * 8
            assert balanced(slow).dropped > 0
            nursery.cancel_scope.cancel()


async def test_changes_only_drops_views_whose_levels_did_not_change(autojump_clock: MockClock) -> None:
    async with watched() as (exchange, feed, _):
        async with feed.book(FUTURE, depth=1, changes_only=True) as best, feed.book(FUTURE, depth=1) as every:
            await wait_all_tasks_blocked()
            told = waiting(best)
            everything = waiting(every)
            for _ in range(60):
                exchange.change_book(FUTURE)
                await wait_all_tasks_blocked()
                told += waiting(best)
                everything += waiting(every)
            assert len(everything) == 61
            distinct = [everything[0]]
            distinct += [new for old, new in pairwise(everything) if (old.bids, old.asks) != (new.bids, new.asks)]
            assert told == distinct
            assert 1 < len(told) < 61
            assert balanced(best).unchanged == 61 - len(told)


async def test_clones_share_the_views(autojump_clock: MockClock) -> None:
    async with watched() as (exchange, feed, _), feed.book(FUTURE, overflow="block") as books:
        with books.clone() as other:
            first = await books.receive()
            for _ in range(3):
                exchange.change_book(FUTURE)
            got = [await other.receive(), await books.receive(), await other.receive()]
            assert [view.sequence - first.sequence for view in got] == [1, 2, 3]
        exchange.change_book(FUTURE)
        assert (await books.receive()).sequence == first.sequence + 4
        balanced(books)


async def test_batches(autojump_clock: MockClock) -> None:
    async with watched() as (exchange, feed, _), feed.book(FUTURE, overflow="block") as books:
        batches = books.batches(max_size=3)
        assert len(await anext(batches)) == 1
        exchange.change_book(FUTURE, 5)
        await wait_all_tasks_blocked()
        assert [len(await anext(batches)) for _ in range(2)] == [3, 2]


# -- who shares a book ------------------------------------------------------------------------------------------------


async def test_subscriptions_of_different_depths_share_one_book(autojump_clock: MockClock) -> None:
    """One link, one seed; each sees as deep as it asked, the last one to come at once, and one may leave."""
    async with watched() as (exchange, feed, network):
        async with feed.book(SPOT, depth=5) as shallow:
            check(exchange, await shallow.receive(), 5)
            async with feed.book(SPOT, depth=40) as deep:
                view = deep.receive_nowait()
                check(exchange, view, 40)
                assert view.gap_before is None
                for _ in range(3):
                    exchange.change_book(SPOT)
                    check(exchange, await shallow.receive(), 5)
                    check(exchange, await deep.receive(), 40)
                assert (len(exchange.sessions), network.books(), len(feed.books)) == (1, 1, 1)
            exchange.change_book(SPOT)
            check(exchange, await shallow.receive(), 5)
            assert asked(exchange.sessions[0], "unsubscribe") == []
            assert feed.books[SPOT].is_ready
        assert not feed.books


async def test_symbols_may_be_added_and_removed(autojump_clock: MockClock) -> None:
    async with watched() as (exchange, feed, network), feed.book(FUTURE, depth=3) as books:
        await books.receive()
        await books.add(SPOT, FUTURE)
        assert (await books.receive()).symbol == SPOT
        books.remove(FUTURE)
        await wait_all_tasks_blocked()
        assert list(feed.books) == [SPOT]
        assert exchange.change_book(FUTURE)
        sequence = exchange.change_book(SPOT)
        view = await books.receive()
        assert (view.symbol, view.sequence) == (SPOT, sequence)
        exchange.change_book(FUTURE)
        await books.add(FUTURE)
        view = await books.receive()
        check(exchange, view, 3)
        assert (view.symbol, view.gap_before) == (FUTURE, None)
        assert (network.books(FUTURE), network.books(SPOT)) == (2, 1)


async def test_a_book_that_is_there_already_is_shown_at_once_however_full_the_buffer(
    autojump_clock: MockClock,
) -> None:
    """By the policy: nothing waits unseen for the next change."""
    async with watched() as (exchange, feed, _), feed.book(FUTURE) as keeps:
        await keeps.receive()
        async with feed.book(SPOT, overflow="drop_oldest", buffer=1) as books:
            await wait_all_tasks_blocked()
            await books.add(FUTURE)
            counts = balanced(books)
            assert (counts.received, counts.dropped, counts.pending) == (2, 1, 1)
            view = books.receive_nowait()
            check(exchange, view, 20)
            assert view.symbol == FUTURE


@pytest.mark.parametrize("overflow", ["latest", "block"])
async def test_leaving_lets_the_book_go(overflow: str, autojump_clock: MockClock) -> None:
    """Also while its snapshot is under way: the task that fetches it ends, and nothing stays subscribed."""
    async with watched() as (exchange, feed, _):
        exchange.faults.book = BookFault(delay=30.0)
        async with feed.book(*BOTH, overflow=overflow):
            await wait_all_tasks_blocked()
            assert feed.tree().count("book BTC-USDT") == feed.tree().count("book XBTUSDTM") == 1
            assert set(feed.books) == set(BOTH)
        assert (len(feed.books), feed.statistics().books) == (0, ())
        await wait_all_tasks_blocked()
        assert "book BTC-USDT" not in feed.tree()
        assert "book XBTUSDTM" not in feed.tree()
        assert all(not session.topics for session in exchange.sessions)
        assert feed._books._exclusive == {}


async def test_a_book_and_its_changes_share_a_wire_topic(autojump_clock: MockClock) -> None:
    """Whoever comes first, and whoever leaves first."""
    async with watched() as (exchange, feed, _):
        for symbol in BOTH:
            async with feed.book_deltas(symbol) as deltas:
                async with feed.book(symbol) as books:
                    check(exchange, await books.receive(), 20)
                    sequence = exchange.change_book(symbol)
                    assert (await deltas.receive()).sequence == (await books.receive()).sequence == sequence
                exchange.change_book(symbol)
                assert (await deltas.receive()).sequence == sequence + 1
            async with feed.book(symbol) as books:
                await books.receive()
                async with feed.book_deltas(symbol) as deltas:
                    exchange.change_book(symbol)
                    await deltas.receive()
                check(exchange, await books.receive(), 20)
        for session in exchange.sessions:
            assert len(asked(session, "subscribe")) == 2, "one for each of the two times"


async def test_no_place_for_a_blocking_book_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    async with watched(config=FeedConfig(max_connections=1)) as (_, feed, _), feed.book(FUTURE) as books:
        await books.receive()
        with pytest.raises(UsageError, match="max_connections"):
            async with feed.book(FUTURE, overflow="block"):
                pytest.fail("entered")
        with pytest.raises(UsageError, match="max_connections"):
            await books.add(SPOT)
        assert (list(feed.books), len(feed._books._exclusive)) == ([FUTURE], 0)


# -- errors of the stream ---------------------------------------------------------------------------------------------


async def test_giving_up_is_raised_to_each_reader_with_the_topics_that_it_has(autojump_clock: MockClock) -> None:
    """Once, also where it reads several books of the link; then the book comes back."""
    async with watched(config=QUICK) as (exchange, feed, _):
        async with feed.book(FUTURE) as one, feed.book(FUTURE, "ETHUSDTM") as two, feed.book(SPOT) as other:
            for books, count in ((one, 1), (two, 2), (other, 1)):
                for _ in range(count):
                    await books.receive()
            exchange.faults.token_error = 503
            for session in exchange.sessions:
                if session.market == "futures":
                    await session.disconnect()
            for books, topics in ((one, [wire(FUTURE)]), (two, [wire(FUTURE), wire("ETHUSDTM")])):
                with pytest.raises(ConnectionFailed) as error:
                    await books.receive()
                assert sorted(error.value.topics) == sorted(topics)
            exchange.change_book(SPOT)
            check(exchange, await other.receive(), 20)
            exchange.faults.token_error = None
            check(exchange, await one.receive(), 20)
            for _ in range(2):
                view = await two.receive()
                check(exchange, view, 20)
                assert view.gap_before is not None


@pytest.mark.parametrize("joined", [False, True])
async def test_giving_up_reaches_who_is_being_entered(joined: bool, autojump_clock: MockClock) -> None:
    async with watched(config=QUICK) as (exchange, feed, _):
        exchange.faults.token_error = 503
        async with trio.open_nursery() as nursery:

            async def enter() -> None:
                with pytest.raises(ConnectionFailed):
                    async with feed.book(FUTURE):
                        pytest.fail("entered")

            nursery.start_soon(enter)
            if joined:
                await trio.sleep(0.1)
                nursery.start_soon(enter)
        assert not feed.books


async def test_what_keeps_a_book_from_everybody_keeps_nobody_who_was_told(autojump_clock: MockClock) -> None:
    """Each reader raises an error of its own: that which others raised would have their frames, and so all they had."""

    class Mine:
        """What a reader has."""

    had: list[weakref.ref[Mine]] = []

    async def read(feed: Feed) -> None:
        mine = Mine()
        had.append(weakref.ref(mine))
        async with feed.book(SPOT) as books:
            await books.receive()

    async with watched() as (exchange, feed, _):
        exchange.faults.book = BookFault(error=("900001", "symbol not exists"))
        async with feed.book(SPOT) as books:
            with pytest.raises(ExchangeError, match="900001"):
                await books.receive()
            for _ in range(10):
                with pytest.raises(ExchangeError, match="900001"):
                    await read(feed)
            gc.collect()
            assert [ref() for ref in had] == 10 * [None]


async def test_a_rejection_is_raised_where_it_is_waited_for_and_the_book_is_forgotten(
    autojump_clock: MockClock,
) -> None:
    async with watched(Exchange(live=False, accept_any_symbol=False)) as (exchange, feed, _):
        async with feed.book(FUTURE) as books:
            await books.receive()
            with pytest.raises(SubscriptionRejected):
                async with feed.book("NONEUSDTM"):
                    pytest.fail("entered")
            with pytest.raises(SubscriptionRejected):
                await books.add("NONEUSDTM")
            assert list(feed.books) == [FUTURE]
            exchange.change_book(FUTURE)
            check(exchange, await books.receive(), 20)


async def test_a_rejection_after_a_reconnect_reaches_all_readers(autojump_clock: MockClock) -> None:
    """The book is not kept any more; who waits for it hears so, and it may be added again."""
    exchange = Exchange(generated=1, **QUIET)
    async with watched(exchange, FeedConfig(reconnect_delay=0.1)) as (_, feed, _):
        async with feed.book("T0001USDTM") as one, feed.book("T0001USDTM", FUTURE) as two:
            await one.receive()
            await two.receive()
            await two.receive()
            model = exchange.model
            delisted = model._names["futures"]
            del delisted["T0001USDTM"]
            exchange._conversation.any_symbol = False
            live = feed.books["T0001USDTM"]
            await exchange.disconnect_all()
            for books in (one, two):
                with pytest.raises(SubscriptionRejected, match="T0001USDTM"):
                    await books.receive()
            assert list(feed.books) == [FUTURE]
            with pytest.raises(BookNotReady, match="no subscription keeps it"):
                await live.wait_ready()
            check(exchange, await two.receive(), 20)
            delisted["T0001USDTM"] = None
            await two.add("T0001USDTM")
            view = await two.receive()
            assert view.symbol == "T0001USDTM"
            check(exchange, view, 20)


async def test_no_acknowledgement_reaches_who_waits_for_it(autojump_clock: MockClock) -> None:
    """One that enters, alone or beside another that waits; and who had the book before the connection was lost."""
    config = FeedConfig(reconnect_delay=0.1, ack_timeout=1.0)
    async with watched(config=config) as (exchange, feed, _), feed.book(FUTURE) as books:
        await books.receive()
        exchange.faults.ignore_topics = {wire(FUTURE), wire("ETHUSDTM")}
        with pytest.raises(SubscriptionTimeout):
            async with feed.book("ETHUSDTM"):
                pytest.fail("entered")
        with pytest.raises(SubscriptionTimeout):
            await books.add("ETHUSDTM")
        assert list(feed.books) == [FUTURE]
        exchange.change_book(FUTURE)
        check(exchange, await books.receive(), 20)
        await exchange.disconnect_all()

        async def enter() -> None:
            with pytest.raises(SubscriptionTimeout) as error:
                async with feed.book(FUTURE, depth=3):
                    pytest.fail("entered")
            assert error.value.topics == (wire(FUTURE),)

        async with trio.open_nursery() as nursery:
            await trio.sleep(0.5)
            nursery.start_soon(enter)
            with pytest.raises(SubscriptionTimeout) as error:
                await books.receive()
            assert error.value.topics == (wire(FUTURE),)
        exchange.faults.ignore_topics = ()
        view = await books.receive()
        check(exchange, view, 20)
        assert view.gap_before is not None


async def test_what_is_closed_while_it_is_being_added_is_not_waited_for(autojump_clock: MockClock) -> None:
    """Although another one, which shares the book, still waits."""
    async with watched() as (exchange, feed, _), feed.book(FUTURE) as books, trio.open_nursery() as nursery:
        exchange.faults.ignore_topics = {wire("ETHUSDTM")}

        async def enter() -> None:
            async with feed.book("ETHUSDTM"):
                pytest.fail("entered")

        async def add() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await books.add("ETHUSDTM")

        nursery.start_soon(enter)
        nursery.start_soon(add)
        await wait_all_tasks_blocked()
        books.close()
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()


# -- handlers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inline", "options"),
    [(False, {}), (False, {"workers": 2}), (False, {"batches": True}), (True, {}), (True, {"batches": True})],
    ids=str,
)
async def test_handlers_get_views(inline: bool, options: dict[str, Any], autojump_clock: MockClock) -> None:
    seen: list[OrderBook] = []

    def take(found: Any) -> None:
        seen.extend(found if isinstance(found, list) else [found])

    async def take_async(found: Any) -> None:
        take(found)

    async with watched() as (exchange, feed, _), feed.open_handlers() as handlers:
        handlers.start_soon(take if inline else take_async, feed.book(*BOTH, depth=4), **options)
        await wait_all_tasks_blocked()
        for _ in range(5):
            for symbol in BOTH:
                exchange.change_book(symbol)
            await wait_all_tasks_blocked()
        for symbol in BOTH:
            mine = [view for view in seen if view.symbol == symbol]
            assert len(mine) == 6
            for view in mine:
                check(exchange, view, 4)


async def test_an_inline_handler_may_change_what_it_reads(autojump_clock: MockClock) -> None:
    """It may be called while another book is about to be shown; what it removes is shown to it no more."""
    async with watched(Exchange(book_levels=1000, **QUIET)) as (exchange, feed, _):
        mine = feed.book("ETH-USDT", SPOT, depth=30)
        calls: list[str] = []

        def take(view: OrderBook) -> None:
            calls.append(view.symbol)
            if calls.count("ETH-USDT") == 2 and len(mine.topics) == 2:
                mine.remove(SPOT)

        async with feed.open_handlers() as handlers, feed.book(SPOT, depth=2) as others:
            await handlers.start(take, mine)
            await wait_all_tasks_blocked()
            assert sorted(calls) == [SPOT, "ETH-USDT"]
            exchange.change_book("ETH-USDT")  # one read brings both: the view of this one is there when
            consume(exchange, SPOT, 75)  # that one is told to be too thin
            await wait_all_tasks_blocked()
            check(exchange, waiting(others)[-1], 2)
            assert len(mine.topics) == 1
            exchange.change_book("ETH-USDT")
            exchange.change_book(SPOT)
            await wait_all_tasks_blocked()
            check(exchange, waiting(others)[-1], 2)
        assert calls.count(SPOT) == 1
        assert calls.count("ETH-USDT") == 3
        assert not feed.books


async def test_an_inline_handler_of_several_books_hears_of_a_failure_once(autojump_clock: MockClock) -> None:
    errors: list[BaseException] = []

    def policy(error: BaseException, name: str) -> str:
        errors.append(error)
        return "isolate"

    async with watched(config=QUICK) as (exchange, feed, _):
        async with feed.open_handlers(on_error=policy) as handlers:  # type: ignore[arg-type]
            await handlers.start(lambda view: None, feed.book(FUTURE, "ETHUSDTM"))
            exchange.faults.token_error = 503
            await exchange.disconnect_all()
            await trio.sleep(10.0)
        (error,) = errors
        assert isinstance(error, ConnectionFailed)
        assert len(error.topics) == 2


# -- the live book ----------------------------------------------------------------------------------------------------


async def test_books_are_a_mapping_of_what_is_kept(autojump_clock: MockClock) -> None:
    async with watched() as (_, feed, _):
        assert isinstance(feed.books, Mapping)
        assert (dict(feed.books), repr(feed.books)) == ({}, "<LiveBooks >")
        for absent in (FUTURE, "ETH-USDT", "no such symbol", "", 5, None):
            assert absent not in feed.books
            with pytest.raises(KeyError) as error:
                feed.books[absent]  # type: ignore[index]
            assert error.value.args == (absent,)
        async with feed.book(*BOTH), feed.book(FUTURE, overflow="block"):
            assert sorted(feed.books) == sorted(BOTH)
            assert len(feed.books) == 2
            assert SPOT in feed.books
            assert {symbol: book.symbol for symbol, book in feed.books.items()} == dict(zip(BOTH, BOTH, strict=True))


async def test_a_live_book_says_what_a_view_says(autojump_clock: MockClock) -> None:
    async with watched() as (exchange, feed, _), feed.book(*BOTH) as books:
        for symbol in BOTH:
            live = feed.books[symbol]
            with trio.fail_after(1):
                await live.wait_ready()
            exchange.change_book(symbol, 7)
            await wait_all_tasks_blocked()
            truth, view = exchange.book(symbol), live.snapshot()
            check(exchange, view)
            assert len(view.bids) == len(truth.bids) or symbol == SPOT
            assert (live.sequence, live.exchange_time_ns) == (view.sequence, view.exchange_time_ns)
            assert (live.best_bid, live.best_ask, live.mid, live.spread) == (
                view.best_bid,
                view.best_ask,
                view.mid,
                view.spread,
            )
            assert live.top(3) == view.top(3)
            assert (tuple(live.bids), tuple(live.asks)) == (view.bids, view.asks)
            price = truth.bids[5].price
            assert live.depth_to(price) == view.depth_to(price) == sum(level.size for level in truth.bids[:6])
            size = truth.asks[0].size + truth.asks[1].size
            worth = sum(Decimal(level.size) * level.price for level in truth.asks[:2])
            assert live.vwap(size) == view.vwap(size) == pytest.approx(worth / Decimal(size))
            with pytest.raises(kufeed.InsufficientDepth):
                live.vwap(10**12)
            with pytest.raises(UsageError):
                live.top(0)
            assert repr(live) == f"<LiveBook {symbol} live>"
        far = exchange.book(FUTURE).bids[-1].price / 2
        everything = sum(level.size for level in exchange.book(FUTURE).bids)
        assert feed.books[FUTURE].depth_to(far) == everything, "a futures book is whole: nothing stands beyond it"
        with pytest.raises(kufeed.InsufficientDepth):
            feed.books[SPOT].depth_to(far)
        snapshot = live.snapshot()
        exchange.change_book(live.symbol, 9)
        await wait_all_tasks_blocked()
        assert live.sequence == snapshot.sequence + 9
        assert len(waiting(books)) == 2


async def test_a_live_book_that_cannot_be_read_says_why(autojump_clock: MockClock) -> None:
    """Whatever is asked of it; `wait_ready()` returns when it can be, and raises when nobody keeps it any more."""
    async with watched() as (exchange, feed, _):
        exchange.faults.book = BookFault(delay=3.0)
        async with feed.book(FUTURE):
            live = feed.books[FUTURE]
            for read in (
                lambda: live.best_bid,
                lambda: live.sequence,
                lambda: live.bids,
                lambda: live.mid,
                lambda: live.top(1),
                live.snapshot,
                lambda: live.depth_to(1),
                lambda: live.vwap(1),
            ):
                with pytest.raises(BookNotReady) as error:
                    read()
                assert (error.value.symbol, error.value.reason) == (FUTURE, "syncing")
            assert not live.is_ready
            await live.wait_ready()
            assert trio.current_time() == pytest.approx(3.0)
            assert live.is_ready
            with trio.testing.assert_checkpoints():
                await live.wait_ready()
        with pytest.raises(BookNotReady, match="no subscription keeps it"):
            live.snapshot()
        assert not live.is_ready
        assert repr(live) == "<LiveBook XBTUSDTM not kept>"
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(BookNotReady, match="no subscription keeps it"):
                    await feed.books[FUTURE].wait_ready()

            async with feed.book(FUTURE):
                nursery.start_soon(wait)
                await wait_all_tasks_blocked()


async def test_a_side_that_is_kept_is_live_and_cannot_be_changed(autojump_clock: MockClock) -> None:
    async with watched() as (exchange, feed, _), feed.book(FUTURE) as books:
        await books.receive()
        bids = feed.books[FUTURE].bids
        assert not hasattr(bids, "set")
        exchange.change_book(FUTURE, 9)
        await wait_all_tasks_blocked()
        assert tuple(bids) == bids[:] == exchange.book(FUTURE).bids
        exchange.faults.book = BookFault(delay=3.0)
        skip_numbers(exchange, FUTURE, 1)
        exchange.change_book(FUTURE)
        await wait_all_tasks_blocked()
        for read in (len, list, repr, lambda side: side[0], lambda side: side[:5]):
            with pytest.raises(BookNotReady):
                read(bids)


async def test_a_view_is_as_late_as_its_last_change_and_one_for_all_of_a_depth(autojump_clock: MockClock) -> None:
    async with watched() as (exchange, feed, _), feed.book(FUTURE) as one, feed.book(FUTURE) as two:
        assert not (await one.receive()).late
        await two.receive()
        exchange.faults.clock_skew = -1.0
        exchange.change_book(FUTURE)
        view = await one.receive()
        assert (view.late, view.misdated) == (True, False)
        assert await two.receive() is view


@pytest.mark.parametrize("overflow", ["latest", "block"])
async def test_waiting_for_a_book_is_over_when_a_change_makes_it_readable(
    overflow: Any, autojump_clock: MockClock
) -> None:
    """A public one whose side was used up: it needs no seed where a level comes back within what is known."""
    async with watched() as (exchange, feed, _), feed.book(SPOT, depth=1, overflow=overflow) as books:
        await books.receive()
        exchange.faults.book = BookFault(error=503)
        live = feed.books[SPOT]
        consume(exchange, SPOT, 100)
        await trio.sleep(1.0)
        assert not live.is_ready
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live.wait_ready)
            await wait_all_tasks_blocked()
            changes: list[Any] = []
            model = exchange.model.find("spot", SPOT)
            assert model is not None
            model._set(model.bids, "buy", model.asks.best - 1, 5, changes)
            push(exchange, model, changes)
            await wait_all_tasks_blocked()
            assert live.is_ready
            assert not nursery.child_tasks
            nursery.cancel_scope.cancel()


async def test_waiting_for_a_book_is_over_when_any_of_its_keepers_has_it(autojump_clock: MockClock) -> None:
    """Two that share nothing keep the same book; one of them gets its snapshot first."""
    async with watched() as (exchange, feed, _):
        exchange.faults.book = BookFault(delay=9.0, times=1)
        async with feed.book(FUTURE):
            async with feed.book(FUTURE, overflow="block") as books:
                await feed.books[FUTURE].wait_ready()
                assert trio.current_time() < 1.0
                await books.receive()


# -- audits -----------------------------------------------------------------------------------------------------------


async def test_audits_that_pass_are_counted(autojump_clock: MockClock) -> None:
    async with watched(config=FeedConfig(book_audit_every=10.0)) as (exchange, feed, network):
        async with feed.book(*BOTH) as books:
            events = books.with_events()
            for number in range(4):
                for symbol in BOTH:
                    exchange.change_book(symbol, 3)
                assert {one.audits for one in feed.statistics().books} == {number} or number == 0
                await trio.sleep(10.0)
                assert set(kinds(await until_blocked(events))) <= {"OrderBook"}
            assert {one.audits for one in feed.statistics().books} == {4}
            assert network.books() == 2 + 2 * 4
            assert {one.breaks for one in feed.statistics().books} == {0}


@pytest.mark.parametrize("delay", [0.0, 2.0])
@pytest.mark.parametrize("symbol", BOTH)
async def test_an_audit_finds_a_book_that_is_wrong_and_it_begins_anew(
    symbol: str, delay: float, autojump_clock: MockClock
) -> None:
    """Also where changes come while the snapshot does."""
    async with watched(config=FeedConfig(book_audit_every=10.0)) as (exchange, feed, _), feed.book(symbol) as books:
        events = books.with_events()
        await until_blocked(events)
        kept = feed._books._shared.books[books.topics[0]]
        price, size = kept.sync.bids[3]
        kept.sync.bids.set(price, size + 1)
        exchange.faults.book = BookFault(delay=delay)
        await trio.sleep(10.5)
        if delay:
            exchange.change_book(symbol, 2)
            await trio.sleep(5.0)
        told = [one for one in await until_blocked(events) if kinds([one])]
        assert kinds(told[-3:]) == ["Gap", "Resynced", "OrderBook"]
        assert told[-3].cause is GapCause.BOOK
        check(exchange, told[-1], 20)
        (found,) = feed.statistics().books
        assert (found.breaks, found.audits, found.state) == (1, 0, "live")
        await trio.sleep(10.0)
        assert feed.statistics().books[0].audits == 1


@pytest.mark.parametrize(
    "fault",
    [BookFault(error=503), BookFault(error=("400006", "no")), BookFault(stale=3), BookFault(damage="crossed")],
)
async def test_audits_that_cannot_be_compared_are_counted_and_an_episode_of_them_is_logged_once(
    fault: BookFault, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends with one that finds the book right."""

    def warnings() -> list[str]:
        return [one.getMessage() for one in caplog.records if "audit" in one.getMessage()]

    async with watched(config=FeedConfig(book_audit_every=10.0)) as (exchange, feed, _), feed.book(*BOTH) as books:
        for _ in BOTH:
            await books.receive()
        await trio.sleep(5.0)
        for episode in range(2):
            for symbol in BOTH:
                exchange.change_book(symbol, 5)
            exchange.faults.book = attrs.evolve(fault, symbols={SPOT})
            await trio.sleep(30.0)
            exchange.faults.book = None
            counts = {one.symbol: (one.audits, one.audits_missed) for one in feed.statistics().books}
            assert counts == {SPOT: (episode, 3 * (episode + 1)), FUTURE: (4 * episode + 3, 0)}
            assert len(warnings()) == episode + 1
            assert all(SPOT in one for one in warnings())
            await trio.sleep(10.0)
        assert {(one.breaks, one.failed, one.unfit, one.state) for one in feed.statistics().books} == {
            (0, 0, 0, "live")
        }


async def test_an_audit_that_gets_no_snapshot_changes_nothing_and_keeps_nothing(autojump_clock: MockClock) -> None:
    async with watched(config=FeedConfig(book_audit_every=10.0)) as (exchange, feed, _), feed.book(FUTURE) as books:
        await books.receive()
        exchange.faults.book = BookFault(error=503)
        await trio.sleep(11.0)
        for _ in range(5):
            exchange.change_book(FUTURE)
            check(exchange, await books.receive(), 20)
        (found,) = feed.statistics().books
        assert (found.audits, found.breaks, found.failed, found.state) == (0, 0, 0, "live")
        assert feed._books._shared.books[books.topics[0]].sync._buffer is None


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0.0, 5.0])
async def test_closing_is_no_snapshot_that_failed(
    after: float, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody tries again; whether a request was about to be made or under way."""
    exchange = Exchange(**QUIET)
    exchange.faults.book = BookFault(delay=9.0)
    async with simulated(exchange) as (_, feed):
        async with feed.book(*BOTH), feed.book(*BOTH, overflow="block"):
            await trio.sleep(after)
    assert [one.getMessage() for one in caplog.records if one.name == "kufeed.books"] == []


@pytest.mark.parametrize("overflow", ["latest", "block"])
async def test_a_book_cannot_be_read_once_the_feed_is_closed(overflow: str, autojump_clock: MockClock) -> None:
    """Whoever still has it, in a subscription that was not left; and whoever waits for it hears so."""
    async with simulated(Exchange(**QUIET)) as (_, feed):
        books = feed.book(FUTURE, overflow=overflow)
        await books.__aenter__()
        await books.receive()
        live = feed.books[FUTURE]
        assert live.is_ready
    assert not live.is_ready
    with pytest.raises(BookNotReady, match="no subscription keeps it"):
        live.snapshot()
    with pytest.raises(BookNotReady):
        await live.wait_ready()
    assert not feed.books


async def test_no_place_on_any_link_is_told_to_who_asked_for_it_alone(autojump_clock: MockClock) -> None:
    exchange = Exchange(limits=Limits(futures_topics=1), **QUIET)
    async with watched(exchange, FeedConfig(max_connections=1)) as (_, feed, _), feed.book(FUTURE) as books:
        await books.receive()
        with pytest.raises(SubscriptionRejected, match=r"ETHUSDTM.*max_connections"):
            async with feed.book("ETHUSDTM"):
                pytest.fail("entered")
        exchange.change_book(FUTURE)
        check(exchange, await books.receive(), 20)
