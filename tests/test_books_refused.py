"""Spot books whose credentials the exchange refuses: what the public gets serves who does not need more."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kufeed import BookNotReady, ClockOff, CredentialsRefused, Feed, FeedConfig, Gap, Resynced
from kufeed.protocol import rest
from kufeed.testing import BookFault, Exchange

from .bookish import QUIET, Watched, check, kinds, skip_numbers, until_blocked, waiting, watched
from .test_books import SPOT, consume

SYMBOLS = [f"T{number:04d}-USDT" for number in range(1, 31)]
SIGNED, PUBLIC = rest.SPOT_BOOK.path, rest.SPOT_BOOK_100.path
EVERY_MINUTE = 60.0


class Refusing(Exchange):
    """Refuses the passphrase of the one key that it has given away, until it does not."""

    def __init__(self, **options: Any) -> None:
        super().__init__(generated=30, book_levels=1000, **QUIET, **options)
        self.wrong = self.issue_credentials()
        self.refuse()

    def refuse(self) -> None:
        self._keys._issued[self.wrong.key] = attrs.evolve(self.wrong, passphrase="another")  # noqa: S106

    def accept(self) -> None:
        self._keys._issued[self.wrong.key] = self.wrong


@asynccontextmanager
async def refusing(**settings: Any) -> AsyncIterator[tuple[Refusing, Feed, Watched]]:
    exchange = Refusing()
    async with watched(exchange, FeedConfig(credentials=exchange.wrong, **settings)) as (_, feed, network):
        yield exchange, feed, network


def asked(network: Watched, since: float = -1.0) -> dict[str, int]:
    """How many books were asked for by signature and by everybody's way."""
    return dict(Counter(one.path for one in network.requests if one.symbol and one.at > since))


def hole(exchange: Exchange, symbol: str) -> None:
    skip_numbers(exchange, symbol, 1)
    exchange.change_book(symbol)


async def test_who_does_not_need_more_is_served_by_the_public(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One try tells for all books; the log has one warning, the stream no error."""
    async with refusing() as (exchange, feed, network), feed.book(*SYMBOLS, depth=50) as books:
        told = await until_blocked(books.with_events())
        assert kinds(told) == ["OrderBook"] * 30
        for view in told:
            check(exchange, view, 50)
        assert 1 <= asked(network)[SIGNED] <= 8
        assert asked(network)[PUBLIC] == 30
        await trio.sleep(3 * EVERY_MINUTE)
        for symbol in SYMBOLS:
            hole(exchange, symbol)
        told = await until_blocked(books.with_events())
        assert Counter(kinds(told)) == {"Gap": 30, "Resynced": 30, "OrderBook": 30}
        warnings = [record for record in caplog.records if record.name == "kufeed.books" and record.levelname != "INFO"]
        assert [(one.levelname, "400004" in one.getMessage()) for one in warnings] == [("WARNING", True)]


async def test_when_the_pause_is_over_the_next_snapshot_is_signed_again(autojump_clock: MockClock) -> None:
    async with refusing() as (exchange, feed, network), feed.book(SPOT, depth=20) as books:
        check(exchange, await books.receive(), 20)
        assert asked(network) == {SIGNED: 1, PUBLIC: 1}
        await trio.sleep(30.0)
        exchange.accept()
        hole(exchange, SPOT)
        check(exchange, await books.receive(), 20)
        assert asked(network) == {SIGNED: 1, PUBLIC: 2}, "a pause is a pause"
        await trio.sleep(31.0)
        assert asked(network) == {SIGNED: 1, PUBLIC: 2}, "a book that is known deep enough needs no snapshot"
        consume(exchange, SPOT, 70)
        await wait_all_tasks_blocked()
        assert asked(network) == {SIGNED: 2, PUBLIC: 2}
        exchange.change_book(SPOT)
        await wait_all_tasks_blocked()
        check(exchange, waiting(books)[-1], 20)
        assert feed.books[SPOT].snapshot().bids == exchange.book(SPOT).bids, "now it is whole"
        (found,) = feed.statistics().books
        assert (found.seeds, found.breaks, found.failed) == (3, 1, 1)


@pytest.mark.parametrize("first", [3, 900])
@pytest.mark.parametrize("overflow", ["latest", "block"])
async def test_only_who_needs_more_is_told_and_each_gets_what_can_be_had(
    first: int, overflow: str, autojump_clock: MockClock
) -> None:
    """Whoever comes first. The signed one is tried every minute; once it is taken the deep reader has its view."""
    async with (
        refusing() as (exchange, feed, network),
        feed.book(SPOT, depth=first) as one,
        feed.book(SPOT, depth=903 - first, overflow=overflow) as other,
    ):
        deep, shallow = (one, other) if first == 900 else (other, one)
        with pytest.raises(CredentialsRefused, match="400004"):
            await deep.receive()
        check(exchange, await shallow.receive(), 3)
        assert waiting(deep) == []
        start = trio.current_time()
        with trio.move_on_after(200.0) as scope:
            await deep.receive()
        assert scope.cancelled_caught, "it is told once"
        keepers = 1 if overflow == "latest" else 2
        found = asked(network, since=start)
        assert found[SIGNED] == 3
        assert found.get(PUBLIC, 0) == 0, "what the public gets is there already"
        exchange.change_book(SPOT)
        check(exchange, await shallow.receive(), 3)
        exchange.accept()
        check(exchange, await deep.receive(), 900)
        for _ in range(2):
            exchange.change_book(SPOT)
            check(exchange, await deep.receive(), 900)
            check(exchange, await shallow.receive(), 3)
        assert len(feed.statistics().books) == keepers
        assert {book.state for book in feed.statistics().books} == {"live"}


async def test_a_subscription_of_many_books_is_told_once(autojump_clock: MockClock) -> None:
    """And each book is there once the key is taken, also those that were not tried meanwhile."""
    async with refusing() as (exchange, feed, network), feed.book(*SYMBOLS, depth=900) as books:
        with pytest.raises(CredentialsRefused):
            await books.receive()
        start = trio.current_time()
        with trio.move_on_after(150.0) as scope:
            await books.receive()
        assert scope.cancelled_caught
        assert 2 <= asked(network, since=start)[SIGNED] <= 2 * 8
        assert PUBLIC not in asked(network)
        exchange.accept()
        with trio.fail_after(EVERY_MINUTE):
            for symbol in SYMBOLS:
                await feed.books[symbol].wait_ready()
        for view in waiting(books):
            check(exchange, view, 900)
        exchange.refuse()
        await exchange.disconnect_all()
        with pytest.raises(CredentialsRefused):
            for _ in SYMBOLS:  # a key that was taken and is not any more is news
                await books.receive()


async def test_who_comes_later_need_not_wait_for_the_pause_to_end(autojump_clock: MockClock) -> None:
    async with refusing() as (exchange, feed, network), feed.book(SPOT, depth=900) as deep:
        with pytest.raises(CredentialsRefused):
            await deep.receive()
        await trio.sleep(10.0)
        async with feed.book(SPOT, depth=3) as shallow, feed.book(SPOT, depth=800) as late:
            with trio.fail_after(1.0):
                check(exchange, await shallow.receive(), 3)
                with pytest.raises(CredentialsRefused):
                    await late.receive()
            assert asked(network) == {SIGNED: 1, PUBLIC: 1}
            with pytest.raises(BookNotReady, match="fewer than 800 levels are known"):
                feed.books[SPOT].top(800)
        exchange.accept()
        await trio.sleep(EVERY_MINUTE)
        check(exchange, waiting(deep)[-1], 900)


async def test_a_book_that_was_whole_lives_on_until_it_breaks(autojump_clock: MockClock) -> None:
    """A key that is revoked meanwhile is told when a snapshot is needed, in the stream, and mended there."""
    async with refusing() as (exchange, feed, _), feed.book(SPOT, depth=900) as deep, feed.book(SPOT) as shallow:
        exchange.accept()
        check(exchange, await deep.receive(), 900)
        await until_blocked(shallow.with_events())
        exchange.refuse()
        hole(exchange, SPOT)
        events = deep.with_events()
        gap = await anext(events)
        assert isinstance(gap, Gap)
        with pytest.raises(CredentialsRefused):
            await anext(events)
        assert kinds(await until_blocked(shallow.with_events())) == ["Gap", "Resynced", "OrderBook"]
        exchange.accept()
        resynced, view = [await anext(deep.with_events()) for _ in range(2)]
        assert isinstance(resynced, Resynced)
        assert view.gap_before == attrs.evolve(gap, until_ns=view.time_ns)
        check(exchange, view, 900)
        assert await until_blocked(shallow.with_events()) == []


@pytest.mark.parametrize("under_way", [False, True])
async def test_who_needs_more_is_told_at_once_whichever_book_the_key_was_refused_for(
    under_way: bool, autojump_clock: MockClock
) -> None:
    """Also where the book has a shallow reader, so that it begins anew by the public way; be it in its turn when
    the key was refused, behind as many others as have a place.
    """
    one, others = SYMBOLS[0], SYMBOLS[1:9]
    async with refusing() as (exchange, feed, _):
        exchange.accept()
        async with feed.book(one, depth=900) as deep, feed.book(*others, depth=900), feed.book(one, depth=3):
            check(exchange, await deep.receive(), 900)
            for other in others:
                await feed.books[other].wait_ready()
            exchange.refuse()
            exchange.faults.book = BookFault(delay=1.0, symbols=others)
            for other in others:
                hole(exchange, other)
            await trio.sleep(0.5 if under_way else 1.5)
            hole(exchange, one)
            events = deep.with_events()
            with trio.fail_after(1.0):
                assert isinstance(await anext(events), Gap)
                with pytest.raises(CredentialsRefused):
                    await anext(events)


async def test_of_several_books_one_that_is_deep_enough_is_read(autojump_clock: MockClock) -> None:
    """A public one beside a whole one of before, for who shares nothing."""
    async with refusing() as (exchange, feed, _):
        exchange.accept()
        async with feed.book(SPOT, depth=900, overflow="block") as deep:
            check(exchange, await deep.receive(), 900)
            exchange.refuse()
            async with feed.book(SYMBOLS[0], depth=900) as other:
                with pytest.raises(CredentialsRefused):
                    await other.receive()
                async with feed.book(SPOT, depth=3) as shallow:
                    check(exchange, await shallow.receive(), 3)
                    live = feed.books[SPOT]
                    assert live.top(900).bids == exchange.book(SPOT).bids[:900]
                    assert len(live.bids) == 100, "all that is known in the first that can be read"


async def test_a_clock_that_cannot_be_set_right_is_a_refusal_too(autojump_clock: MockClock) -> None:
    async with refusing() as (exchange, feed, network):
        exchange.accept()
        exchange.faults.book = BookFault(error=("400002", "KC-API-TIMESTAMP Invalid"), times=2)
        async with feed.book(SPOT, depth=3) as shallow, feed.book(SPOT, depth=900) as deep:
            with pytest.raises(ClockOff):
                await deep.receive()
            check(exchange, await shallow.receive(), 3)
            assert asked(network) == {SIGNED: 2, PUBLIC: 1}
            check(exchange, await deep.receive(), 900)


async def test_a_refusal_is_no_answer_to_what_else_goes_wrong(autojump_clock: MockClock) -> None:
    """A key is refused for a minute; a request that fails is tried again at once, signed."""
    async with refusing() as (exchange, feed, network):
        exchange.accept()
        exchange.faults.book = BookFault(error=503, times=1)
        async with feed.book(SPOT, depth=3) as books:
            check(exchange, await books.receive(), 3)
            assert asked(network) == {SIGNED: 2}


async def test_a_refused_seed_is_no_audit_that_was_missed(autojump_clock: MockClock) -> None:
    async with refusing() as (_, feed, network):
        async with feed.book(SPOT, depth=3) as shallow, feed.book(SPOT, depth=900):
            await shallow.receive()
            await trio.sleep(5 * EVERY_MINUTE)
            assert asked(network)[SIGNED] >= 5
            (found,) = feed.statistics().books
            assert (found.audits, found.audits_missed) == (0, 0)


async def test_audits_go_on_by_what_the_public_gets(autojump_clock: MockClock) -> None:
    async with refusing(book_audit_every=20.0) as (exchange, feed, network), feed.book(SPOT) as books:
        check(exchange, await books.receive(), 20)
        await trio.sleep(50.0)
        (found,) = feed.statistics().books
        assert (found.audits, found.state) == (2, "live")
        assert asked(network) == {SIGNED: 1, PUBLIC: 3}
        await trio.sleep(20.0)
        assert asked(network) == {SIGNED: 2, PUBLIC: 3}
        assert feed.books[SPOT].is_ready


async def test_a_key_that_is_taken_now_and_then_is_refused_for_a_minute_each_time(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a machine has several addresses and the key allows one: no storm of requests, and a warning a minute."""
    async with refusing() as (exchange, feed, network):
        exchange.accept()
        exchange.faults.book = BookFault(error=("400006", "the ip is not in the whitelist"), symbols=SYMBOLS[::2])
        async with feed.book(*SYMBOLS, depth=900) as books:
            with pytest.raises(CredentialsRefused, match="400006"):
                while True:
                    await books.receive()
            await trio.sleep(5 * EVERY_MINUTE + 1.0)
            assert asked(network)[SIGNED] <= 6 * 8 + 15
            warnings = [record for record in caplog.records if record.name == "kufeed.books"]
            assert 1 <= len(warnings) <= 6
            exchange.faults.book = None
            await trio.sleep(EVERY_MINUTE)
            assert {book.state for book in feed.statistics().books} == {"live"}
