"""Who is wrong is found out, by the name of what is wrong; who is right is left in peace."""

from __future__ import annotations

import math
import operator
import random
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import kufeed
from kufeed import Overflow, UpdateType
from kufeed.protocol import BookSide, spot, topic
from kufeed.protocol.session import Session
from kufeed.testing import (
    Exchange,
    Fate,
    FaultPlan,
    Limits,
    MemoryNetwork,
    Offence,
    Witness,
    check_delivery,
    faults,
    run,
)
from kufeed.testing.network import EPOCH_NS

from .witnessed import subscriptions, until_closed, watch, watch_plainly, witnessed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from kufeed import Feed, Subscription
    from kufeed.testing import Finding, Publication, Truth

    Play = Callable[[Exchange, Feed], Awaitable[None]]
    Consume = Callable[[Subscription[Any], Witness], Awaitable[None]]

TRADES = "/contractMarket/execution:XBTUSDTM"


def truth_of(exchange: Exchange) -> Truth:
    assert exchange.truth is not None
    return exchange.truth


def offences(findings: tuple[Finding, ...]) -> set[Offence]:
    return {finding.offence for finding in findings}


def judged(
    subscribe: Callable[[Feed], Subscription[Any]],
    play: Play,
    *,
    consume: Consume = watch,
    policies: dict[UpdateType, Overflow] | None = None,
    spoil: Callable[[Witness], object] = lambda _: None,
    config: kufeed.FeedConfig | None = None,
    **bounds: Any,
) -> tuple[Finding, ...]:
    """What is found on one consumer while *play* goes on, its witness spoilt by *spoil* in the end."""
    exchange = Exchange(seed=1, ledger=True)
    seen: list[Witness] = []

    async def main() -> None:
        async with (
            MemoryNetwork(exchange) as network,
            kufeed.open_feed(config or kufeed.FeedConfig(), network=network, rng=random.Random(0)) as feed,
            witnessed(subscribe(feed), how=consume, policies=policies) as witness,
        ):
            await play(exchange, feed)
            seen.append(witness)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    spoil(seen[0])
    return check_delivery(exchange, seen[0], **bounds)


async def some_seconds(exchange: Exchange, feed: Feed) -> None:
    await trio.sleep(5)


async def cut(exchange: Exchange, feed: Feed) -> None:
    """Between two spells of five seconds, and the exchange is away for a while."""
    await trio.sleep(5)
    exchange.faults.refuse_dials = True
    await exchange.disconnect_all()
    await trio.sleep(3)
    exchange.faults.refuse_dials = False
    await trio.sleep(8)


def trades(feed: Feed) -> Subscription[Any]:
    return feed.trades("XBTUSDTM")


def tickers(feed: Feed) -> Subscription[Any]:
    return feed.ticker("XBTUSDTM")


def deltas(feed: Feed) -> Subscription[Any]:
    return feed.book_deltas("XBTUSDTM")


def updates_at(witness: Witness) -> list[int]:
    return [place for place, sighting in enumerate(witness.sightings) if isinstance(sighting.what, kufeed.Update)]


# Each offence


@pytest.mark.parametrize("subscribe", [trades, deltas, lambda feed: feed.trades("BTC-USDT")])
@pytest.mark.parametrize("place", [0, 5, -1], ids=["first", "middle", "last but some"])
def test_a_consumer_that_drops_an_update_is_found(subscribe: Callable[[Feed], Subscription[Any]], place: int) -> None:
    def drop(witness: Witness) -> None:
        places = updates_at(witness)
        del witness.sightings[places[place if place >= 0 else len(places) // 2]]

    findings = judged(subscribe, some_seconds, spoil=drop)
    assert offences(findings) == {Offence.SILENT_LOSS}
    assert len(findings) == 1
    assert "no gap was told" in findings[0].text


def test_a_consumer_that_stops_taking_what_was_delivered_is_found_by_its_accounts() -> None:
    def forget(witness: Witness) -> None:
        del witness.sightings[updates_at(witness)[3] :]

    (finding,) = judged(trades, some_seconds, spoil=forget)
    assert finding.offence is Offence.SILENT_LOSS
    assert "were brought and not seen" in finding.text


def test_a_conflated_stream_has_no_more_missing_than_its_accounts_say() -> None:
    def drop(witness: Witness) -> None:
        del witness.sightings[updates_at(witness)[3]]

    assert offences(judged(tickers, some_seconds, spoil=drop)) == {Offence.SILENT_LOSS}


@pytest.mark.parametrize("subscribe", [trades, tickers])
def test_a_reconnect_without_a_gap_is_a_silent_loss(subscribe: Callable[[Feed], Subscription[Any]]) -> None:
    def hush(witness: Witness) -> None:
        witness.sightings = [
            attrs.evolve(sighting, what=attrs.evolve(what, gap_before=None))
            if isinstance(what, kufeed.Update)
            else sighting
            for sighting in witness.sightings
            if not isinstance(what := sighting.what, kufeed.Gap)
        ]

    assert not judged(subscribe, cut)
    assert offences(judged(subscribe, cut, spoil=hush)) == {Offence.SILENT_LOSS}


def test_a_gap_that_does_not_reach_over_what_is_missing_explains_nothing() -> None:
    def shorten(witness: Witness) -> None:
        for place in updates_at(witness):
            update: Any = witness.sightings[place].what
            if (gap := update.gap_before) is not None:
                shorter = attrs.evolve(update, gap_before=attrs.evolve(gap, until_ns=gap.since_ns))
                witness.sightings[place] = attrs.evolve(witness.sightings[place], what=shorter)
        witness.sightings = [one for one in witness.sightings if not isinstance(one.what, kufeed.Gap)]

    (finding,) = judged(trades, cut, spoil=shorten)
    assert finding.offence is Offence.SILENT_LOSS
    assert "do not say so" in finding.text


def test_a_gap_that_says_it_was_filled_explains_nothing() -> None:
    def boast(witness: Witness) -> None:
        for place, sighting in enumerate(witness.sightings):
            what: Any = sighting.what
            if isinstance(what, kufeed.Gap):
                witness.sightings[place] = attrs.evolve(sighting, what=attrs.evolve(what, filled=kufeed.GapFill.FILLED))
            elif isinstance(what, kufeed.Update) and what.gap_before is not None:
                filled = attrs.evolve(what.gap_before, filled=kufeed.GapFill.FILLED)
                witness.sightings[place] = attrs.evolve(sighting, what=attrs.evolve(what, gap_before=filled))

    assert offences(judged(trades, cut, spoil=boast)) == {Offence.SILENT_LOSS}


def _invent(update: Any) -> Any:
    return attrs.evolve(update, price=update.price + 1)


@pytest.mark.parametrize("invent", [_invent, lambda one: attrs.evolve(one, sequence=one.sequence + 1_000_000)])
def test_an_update_that_was_never_published_is_a_phantom(invent: Callable[[Any], Any]) -> None:
    def add(witness: Witness) -> None:
        place = updates_at(witness)[4]
        witness.sightings.insert(
            place, attrs.evolve(witness.sightings[place], what=invent(witness.sightings[place].what))
        )

    assert offences(judged(trades, some_seconds, spoil=add)) >= {Offence.PHANTOM}


def test_an_update_of_another_topic_is_a_phantom() -> None:
    def move(witness: Witness) -> None:
        place = updates_at(witness)[4]
        moved = attrs.evolve(witness.sightings[place].what, topic=topic("trade", "ETHUSDTM"), symbol="ETHUSDTM")  # type: ignore[misc,arg-type]
        witness.sightings.insert(place, attrs.evolve(witness.sightings[place], what=moved))

    findings = judged(trades, some_seconds, spoil=move)
    assert Offence.PHANTOM in offences(findings)


@pytest.mark.parametrize("subscribe", [trades, tickers, deltas])
def test_an_update_that_was_published_after_its_topic_was_left_is_a_phantom(
    subscribe: Callable[[Feed], Subscription[Any]],
) -> None:
    def leave(witness: Witness) -> None:
        for spans in witness.spans.values():
            spans[-1] = (spans[-1][0], 2.0)

    assert offences(judged(subscribe, some_seconds, spoil=leave)) == {Offence.PHANTOM}


def test_what_comes_before_the_ack_of_a_topic_that_was_added_again_is_no_phantom() -> None:
    async def remove_and_add() -> None:
        async with (
            kufeed.open_feed(kufeed.FeedConfig(linger=0.0)) as feed,
            feed.trades("BTC-USDT", "ETH-USDT") as stream,
        ):
            with trio.move_on_after(30):
                async for update in stream:
                    if stream.topics[-1] == topic("trade", "ETH-USDT") and update.symbol == "ETH-USDT":
                        stream.remove("ETH-USDT")
                        await trio.sleep(3)
                        await stream.add("ETH-USDT")

    run(remove_and_add, plan=FaultPlan(faults.SpoilAcks(at=1, lasting=20, how="late", seconds=1.5))).check()


def test_a_topic_that_was_added_again_where_another_holds_it_is_to_be_seen() -> None:
    async def remove_and_add() -> None:
        async with kufeed.open_feed() as feed, feed.ticker("BTC-USDT", "ETH-USDT") as one, feed.ticker("ETH-USDT"):
            await trio.sleep(2)
            one.remove("ETH-USDT")
            await trio.sleep(2)
            await one.add("ETH-USDT")
            with trio.move_on_after(5):
                async for _ in one:
                    pass

    report = run(remove_and_add)
    report.check()
    assert report.witnesses[0].spans[topic("ticker", "ETH-USDT")] == [(0.0, 2.0), (4.0, 9.0)]


def test_whoever_comes_again_to_a_book_is_shown_it_as_it_stands() -> None:
    async def remove_and_add() -> None:
        async with kufeed.open_feed() as feed, feed.book("BTC-USDT", "ETH-USDT") as books, feed.book("BTC-USDT"):
            with trio.move_on_after(20):
                async for _ in books:
                    if trio.current_time() > 10.2 and books.topics[0].symbol == "BTC-USDT":
                        books.remove("BTC-USDT")
                        await trio.sleep(0.1)
                        await books.add("BTC-USDT")

    run(remove_and_add, exchange=lambda: Exchange(ledger=True, update_interval=0.5)).check()


@pytest.mark.parametrize("subscribe", [trades, deltas])
@pytest.mark.parametrize("by", [0.0, 1e-9])
def test_what_nobody_held_at_the_edge_of_a_subscription_is_not_owed(
    subscribe: Callable[[Feed], Subscription[Any]], by: float
) -> None:
    made: list[Publication] = []

    async def some_more(exchange: Exchange, feed: Feed) -> None:
        await trio.sleep(5.2)
        (published,) = (rows for rows in truth_of(exchange).published.values() if rows)
        made.extend(one for one in published if one.at == published[len(published) // 2].at)

    def begin(witness: Witness) -> None:
        for publication in made:
            publication.fates.clear()
        witness.statistics = None
        for spans in witness.spans.values():
            spans[0] = (made[0].at - by, spans[0][1])
        witness.sightings = [one for one in witness.sightings if one.at > made[0].at]

    assert not judged(subscribe, some_more, spoil=begin)


@pytest.mark.parametrize(
    ("subscribe", "cause", "offence"),
    [
        (trades, kufeed.GapCause.OVERFLOW, Offence.FALSE_ACCOUNTS),
        (trades, kufeed.GapCause.BOOK, Offence.AVOIDABLE_LOSS),
        (lambda feed: feed.book("XBTUSDTM"), kufeed.GapCause.RECONNECT, Offence.AVOIDABLE_LOSS),
        (lambda feed: feed.book("XBTUSDTM"), kufeed.GapCause.OVERFLOW, Offence.FALSE_ACCOUNTS),
    ],
)
def test_holes_that_were_told_without_a_cause_are_found(
    subscribe: Callable[[Feed], Subscription[Any]], cause: kufeed.GapCause, offence: Offence
) -> None:
    def fear(witness: Witness) -> None:
        for place in updates_at(witness)[2:]:
            update: Any = witness.sightings[place].what
            gap = kufeed.Gap(update.topic, cause, None, None, None, None)
            witness.sightings[place] = attrs.evolve(witness.sightings[place], what=attrs.evolve(update, gap_before=gap))

    assert offences(judged(subscribe, some_seconds, spoil=fear)) == {offence}


def test_more_is_missing_than_was_dropped() -> None:
    def lose(witness: Witness) -> None:
        places = updates_at(witness)
        update: Any = witness.sightings[places[9]].what
        gap = kufeed.Gap(update.topic, kufeed.GapCause.OVERFLOW, None, None, None, None)
        witness.sightings[places[9]] = attrs.evolve(
            witness.sightings[places[9]], what=attrs.evolve(update, gap_before=gap)
        )
        del witness.sightings[places[4] : places[9]]
        assert witness.statistics is not None
        witness.statistics = attrs.evolve(
            witness.statistics, delivered=witness.statistics.delivered - 2, dropped=witness.statistics.dropped + 2
        )

    assert Offence.SILENT_LOSS in offences(judged(trades, some_seconds, spoil=lose))


@pytest.mark.parametrize("subscribe", [trades, lambda feed: feed.book("XBTUSDTM")])
@pytest.mark.parametrize(("part", "is_found"), [(0.25, False), (0.9, True)])
def test_what_was_garbled_once_excuses_nothing_for_ever(
    subscribe: Callable[[Feed], Subscription[Any]], part: float, is_found: bool
) -> None:
    async def garbled(exchange: Exchange, feed: Feed) -> None:
        await trio.sleep(1)
        await FaultPlan(faults.Garble(at=0)).play(exchange)
        await trio.sleep(1)
        await exchange.disconnect_all()
        await trio.sleep(50)

    def invent(witness: Witness) -> None:
        places = updates_at(witness)
        at = places[int(part * len(places))]
        update: Any = witness.sightings[at].what
        other = attrs.evolve(update, bids=()) if isinstance(update, kufeed.OrderBook) else _invent(update)
        witness.depth = 20
        witness.sightings[at] = attrs.evolve(witness.sightings[at], what=other)

    found = offences(judged(subscribe, garbled, spoil=invent))
    assert bool(found & {Offence.PHANTOM, Offence.FALSE_BOOK}) is is_found


def test_that_numbers_went_back_once_excuses_no_later_loss() -> None:
    async def restarted(exchange: Exchange, feed: Feed) -> None:
        await trio.sleep(2)
        await FaultPlan(faults.Restart(at=0, lasting=1)).play(exchange)
        await trio.sleep(20)

    def lose(witness: Witness) -> None:
        place = updates_at(witness)[-9]
        update: Any = witness.sightings[place].what
        gap = kufeed.Gap(update.topic, kufeed.GapCause.RECONNECT, 1, 1, 1, 1)
        witness.sightings[place] = attrs.evolve(witness.sightings[place], what=attrs.evolve(update, gap_before=gap))
        del witness.sightings[place - 3 : place]
        witness.statistics = None

    assert not judged(deltas, restarted)
    assert Offence.SILENT_LOSS in offences(judged(deltas, restarted, spoil=lose))


@pytest.mark.parametrize("subscribe", [trades, tickers])
def test_a_sound_connection_that_is_given_up_with_nothing_in_its_place_is_an_avoidable_loss(
    monkeypatch: pytest.MonkeyPatch, subscribe: Callable[[Feed], Subscription[Any]]
) -> None:
    opened: list[trio.abc.Stream] = []
    real = MemoryNetwork.open_stream

    async def open_stream(self: MemoryNetwork, host: str, port: int, tls: Any) -> trio.abc.Stream:
        opened.append(await real(self, host, port, tls))
        return opened[-1]

    async def give_up(exchange: Exchange, feed: Feed) -> None:
        for _ in range(3):
            await trio.sleep(7)
            while opened:
                await opened.pop().aclose()
        await trio.sleep(5)

    monkeypatch.setattr(MemoryNetwork, "open_stream", open_stream)
    found = judged(subscribe, give_up)
    assert [finding.offence for finding in found] == [Offence.AVOIDABLE_LOSS] * 3


@pytest.mark.parametrize("subscribe", [trades, tickers, deltas])
def test_an_update_seen_twice_is_a_duplicate(subscribe: Callable[[Feed], Subscription[Any]]) -> None:
    def repeat(witness: Witness) -> None:
        place = updates_at(witness)[4]
        witness.sightings.insert(place, witness.sightings[place])
        witness.statistics = None  # or the accounts would not agree

    (finding,) = judged(subscribe, some_seconds, spoil=repeat)
    assert finding.offence is Offence.DUPLICATE


@pytest.mark.parametrize("subscribe", [trades, tickers, deltas])
def test_two_updates_in_the_wrong_order_are_disorder(subscribe: Callable[[Feed], Subscription[Any]]) -> None:
    def swap(witness: Witness) -> None:
        first, second = updates_at(witness)[4:6]
        seen = witness.sightings
        seen[first], seen[second] = seen[second], seen[first]

    assert Offence.DISORDER in offences(judged(subscribe, some_seconds, spoil=swap))


class OwnBook:
    """A consumer with a book of its own, of the exchange's and the changes since: heedless of holes, or not."""

    def __init__(self, *, heeds_gaps: bool) -> None:
        self.exchange = Exchange()  # that of the run, once there is one
        self.heeds_gaps = heeds_gaps
        self.begin("XBTUSDTM", -1)

    def begin(self, symbol: str, sequence: int | None = None) -> None:
        book = self.exchange.book(symbol)
        self.sequence = book.sequence if sequence is None else sequence
        self.bids, self.asks = BookSide(kufeed.Side.BUY, book.bids), BookSide(kufeed.Side.SELL, book.asks)

    async def play(self, exchange: Exchange, feed: Feed) -> None:
        self.exchange = exchange
        await cut(exchange, feed)

    async def consume(self, subscription: Subscription[Any], witness: Witness) -> None:
        async for delta in until_closed(subscription):
            witness.saw(delta)
            if self.sequence < 0 or (self.heeds_gaps and delta.gap_before is not None):
                self.begin(delta.symbol)
            for change in delta.changes:
                if change.sequence > self.sequence and change.price:
                    (self.bids if change.side == "buy" else self.asks).set(change.price, change.size)
            self.sequence = max(self.sequence, delta.sequence)
            witness.claims_book(delta.symbol, self.sequence, self.bids.top(20), self.asks.top(20))


@pytest.mark.parametrize("heeds_gaps", [True, False])
def test_a_book_of_ones_own_is_false_behind_a_hole_that_was_not_heeded(heeds_gaps: bool) -> None:
    consumer = OwnBook(heeds_gaps=heeds_gaps)
    findings = judged(deltas, consumer.play, consume=consumer.consume)
    assert offences(findings) == (set() if heeds_gaps else {Offence.FALSE_BOOK})


def _with_size(view: Any) -> Any:
    (price, size), *rest = view.bids
    return attrs.evolve(view, bids=(kufeed.Level(price, size + 1), *rest))


@pytest.mark.parametrize(
    "spoil",
    [_with_size, lambda view: attrs.evolve(view, sequence=7), lambda view: attrs.evolve(view, asks=view.asks[1:])],
)
def test_a_view_that_the_book_never_had_is_false(spoil: Callable[[Any], Any]) -> None:
    def bend(witness: Witness) -> None:
        place = updates_at(witness)[4]
        witness.sightings[place] = attrs.evolve(witness.sightings[place], what=spoil(witness.sightings[place].what))

    (finding,) = judged(lambda feed: feed.book("XBTUSDTM"), some_seconds, spoil=bend)
    assert finding.offence is Offence.FALSE_BOOK


@pytest.mark.parametrize("kept", [0, 1, 19])
@pytest.mark.parametrize("depth", [20, None])
def test_a_view_of_fewer_levels_than_were_asked_for_is_false(kept: int, depth: int | None) -> None:
    def cut_off(witness: Witness) -> None:
        witness.depth = depth
        place = updates_at(witness)[4]
        shorter = attrs.evolve(witness.sightings[place].what, bids=witness.sightings[place].what.bids[:kept])  # type: ignore[misc,arg-type,union-attr]
        witness.sightings[place] = attrs.evolve(witness.sightings[place], what=shorter)

    found = judged(lambda feed: feed.book("XBTUSDTM"), some_seconds, spoil=cut_off)
    assert offences(found) == (set() if depth is None else {Offence.FALSE_BOOK})


def test_views_have_an_order_and_come_once() -> None:
    def repeat(witness: Witness) -> None:
        first, second = updates_at(witness)[4:6]
        seen = witness.sightings
        seen[first : second + 1] = [seen[first], seen[first], seen[second], seen[first]]
        witness.statistics = None

    findings = judged(lambda feed: feed.book("XBTUSDTM"), some_seconds, spoil=repeat)
    assert [finding.offence for finding in findings] == [Offence.DUPLICATE, Offence.DISORDER]


def test_a_book_that_goes_on_over_changes_which_no_connection_brought_is_a_silent_loss() -> None:
    def hush(witness: Witness) -> None:
        witness.sightings = [
            attrs.evolve(one, what=attrs.evolve(one.what, gap_before=None))  # type: ignore[misc,arg-type]
            for one in witness.sightings
            if isinstance(one.what, kufeed.Update)
        ]

    assert not judged(lambda feed: feed.book("XBTUSDTM"), cut)
    assert offences(judged(lambda feed: feed.book("XBTUSDTM"), cut, spoil=hush)) == {Offence.SILENT_LOSS}


def test_a_hole_that_is_told_where_nothing_is_missing_is_an_avoidable_loss() -> None:
    def fear(witness: Witness) -> None:
        place = updates_at(witness)[4]
        update: Any = witness.sightings[place].what
        gap = kufeed.Gap(update.topic, kufeed.GapCause.RECONNECT, None, None, None, update.time_ns)
        witness.sightings.insert(place, attrs.evolve(witness.sightings[place], what=gap))

    (finding,) = judged(trades, some_seconds, spoil=fear)
    assert finding.offence is Offence.AVOIDABLE_LOSS


@pytest.mark.parametrize("counts", [{"received": 1}, {"delivered": -1, "conflated": 1}])
def test_accounts_that_do_not_add_up_are_false(counts: dict[str, int]) -> None:
    def cook(witness: Witness) -> None:
        assert witness.statistics is not None
        more = {name: getattr(witness.statistics, name) + by for name, by in counts.items()}
        witness.statistics = attrs.evolve(witness.statistics, **more)

    (finding,) = judged(trades, some_seconds, spoil=cook)
    assert finding.offence is Offence.FALSE_ACCOUNTS


# What messages say


def test_a_decoder_that_takes_one_field_for_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spot, "_ticker_prices", operator.itemgetter("bestAsk", "bestAskSize", *spot._TICKER_PRICES[2:]))
    found = judged(lambda feed: feed.ticker("BTC-USDT"), some_seconds)
    assert offences(found) == {Offence.PHANTOM}
    assert "was read wrongly: its bid is" in found[0].text


# Times


def at_another_time(**shift: int) -> Callable[[Witness], None]:
    """One update has other times, by so many nanoseconds."""

    def spoil(witness: Witness) -> None:
        place = updates_at(witness)[4]
        update: Any = witness.sightings[place].what
        other = attrs.evolve(update, **{name: getattr(update, name) + by for name, by in shift.items()})
        witness.sightings[place] = attrs.evolve(witness.sightings[place], what=other)

    return spoil


@pytest.mark.parametrize("subscribe", [trades, tickers, deltas, lambda feed: feed.book("XBTUSDTM")])
@pytest.mark.parametrize("by", [-1_000_000, 1_000_000])
def test_an_update_was_received_after_it_was_published_and_before_it_was_seen(
    subscribe: Callable[[Feed], Subscription[Any]], by: int
) -> None:
    (finding,) = judged(subscribe, some_seconds, spoil=at_another_time(received_time_ns=by))
    assert finding.offence is Offence.FALSE_TIME


def test_where_the_clock_is_not_known_it_proves_nothing() -> None:
    def forget(witness: Witness) -> None:
        at_another_time(received_time_ns=-1_000_000)(witness)
        witness.epoch_ns = None

    assert not judged(trades, some_seconds, spoil=forget)


def test_the_time_of_receipt_is_that_of_arrival_however_late_the_consumer_comes() -> None:
    async def slowly(subscription: Subscription[Any], witness: Witness) -> None:
        await watch(subscription, witness, 0.7)

    def late(witness: Witness) -> None:
        for place in updates_at(witness):
            sighting = witness.sightings[place]
            update: Any = sighting.what
            other = attrs.evolve(update, received_time_ns=EPOCH_NS + round(sighting.at * 1e9))
            witness.sightings[place] = attrs.evolve(sighting, what=other)

    assert not judged(trades, some_seconds, consume=slowly)
    assert offences(judged(trades, some_seconds, consume=slowly, spoil=late)) == {Offence.FALSE_TIME}


@pytest.mark.parametrize("symbol", ["XBTUSDTM", "BTC-USDT"])
def test_a_book_has_the_time_of_its_sequence(symbol: str) -> None:
    spoil = at_another_time(exchange_time_ns=-100_000_000)
    (finding,) = judged(lambda feed: feed.book(symbol), some_seconds, spoil=spoil)
    assert finding.offence is Offence.FALSE_TIME
    assert "has the time of another one" in finding.text


# What says nothing new


def changes(feed: Feed) -> Subscription[Any]:
    """Of a book whose best prices often stay as they are."""
    return feed.ticker("BTC-USDT", changes_only=True)


def wants_changes(then: Callable[[Witness], object]) -> Callable[[Witness], object]:
    """Spoil by *then* who has asked for changes only."""

    def spoil(witness: Witness) -> None:
        witness.changes_only = True
        then(witness)

    return spoil


def move(witness: Witness, count: int, **terms: int) -> None:
    """Count that many updates less as delivered, and by *terms* as something else."""
    assert witness.statistics is not None
    accounts = {name: getattr(witness.statistics, name) + by for name, by in terms.items()}
    witness.statistics = attrs.evolve(witness.statistics, delivered=witness.statistics.delivered - count, **accounts)


def test_a_change_that_is_not_delivered_is_missing_however_many_updates_were_none() -> None:
    def lose(witness: Witness) -> None:
        assert witness.statistics is not None
        assert witness.statistics.unchanged > 5
        del witness.sightings[updates_at(witness)[3]]

    assert not judged(changes, some_seconds, spoil=wants_changes(lambda _: None))
    assert Offence.SILENT_LOSS in offences(judged(changes, some_seconds, spoil=wants_changes(lose)))


def test_a_change_that_is_counted_as_none_is_false_accounts() -> None:
    def lose(witness: Witness) -> None:
        del witness.sightings[updates_at(witness)[3]]
        move(witness, 1, unchanged=1)

    found = offences(judged(changes, some_seconds, spoil=wants_changes(lose)))
    assert found == {Offence.SILENT_LOSS, Offence.FALSE_ACCOUNTS}


@pytest.mark.parametrize("subscribe", [trades, tickers])
def test_who_wants_all_has_no_unchanged_updates(subscribe: Callable[[Feed], Subscription[Any]]) -> None:
    (finding,) = judged(subscribe, some_seconds, spoil=lambda witness: move(witness, 0, received=1, unchanged=1))
    assert finding.offence is Offence.FALSE_ACCOUNTS
    assert "said nothing new" in finding.text


@pytest.mark.parametrize("only_changes", [False, True])
def test_what_came_last_of_a_stream_cannot_have_been_conflated(*, only_changes: bool) -> None:
    def lose(witness: Witness) -> None:
        assert witness.statistics is not None
        witness.changes_only = only_changes
        lost = [place for place in updates_at(witness) if witness.sightings[place].at > 3]
        del witness.sightings[lost[0] :]
        unchanged = witness.statistics.unchanged
        move(witness, len(lost), conflated=len(lost) + unchanged, unchanged=-unchanged)

    (finding,) = judged(changes if only_changes else tickers, some_seconds, spoil=lose)
    assert finding.offence is Offence.SILENT_LOSS
    assert "1 of them were to wait" in finding.text


@pytest.mark.parametrize("kept_back", [True, False])
def test_what_says_the_same_as_what_came_before_one_that_was_kept_back_is_none_to_be_seen(*, kept_back: bool) -> None:
    """Only where the one between them came is the second a change."""

    async def play(exchange: Exchange, feed: Feed) -> None:
        await trio.sleep(1)
        number, time = exchange.book("BTC-USDT").sequence, EPOCH_NS // 10**6 + 1000
        await exchange.play(
            f'{{"topic":"/market/ticker:BTC-USDT","type":"message","subject":"trade.ticker","data":{{"bestAsk":"{ask}",'
            f'"bestAskSize":"1","bestBid":"1","bestBidSize":"1","price":"1","sequence":"{number + 1000 + count}",'
            f'"size":"1","time":{time}}}}}'
            for count, ask in enumerate((2, 3, 2, 4))
        )
        await trio.sleep(0.05)  # before the market says more
        if kept_back:
            published = truth_of(exchange).published["/market/ticker:BTC-USDT"]
            first, between, *_ = (one for one in published if one.played)
            between.fates = dict.fromkeys(first.fates, Fate.WITHHELD)

    def lose(witness: Witness) -> None:
        witness.statistics = None
        first, *_ = (place for place in updates_at(witness) if getattr(witness.sightings[place].what, "bid", 0) == 1)
        del witness.sightings[first + 1 : first + 3]

    found = judged(
        lambda feed: feed.ticker("BTC-USDT", changes_only=True, overflow="drop_oldest"),
        play,
        policies={UpdateType.TICKER: Overflow.DROP_OLDEST},
        spoil=wants_changes(lose),
    )
    assert offences(found) == (set() if kept_back else {Offence.SILENT_LOSS})


async def mute_all(exchange: Exchange, feed: Feed) -> None:
    await trio.sleep(3)
    for session in exchange.sessions:
        session.mute()
    await trio.sleep(60)


async def stop_reading_all(exchange: Exchange, feed: Feed) -> None:
    await trio.sleep(3)
    for session in exchange.sessions:
        session.stop_reading()
    await trio.sleep(60)


async def freeze(exchange: Exchange, feed: Feed) -> None:
    await trio.sleep(3)
    exchange.freeze()
    await trio.sleep(60)
    exchange.thaw()
    await trio.sleep(20)


async def lag_for_a_while(exchange: Exchange, feed: Feed) -> None:
    await trio.sleep(3)
    for seconds in (3.0, 0.0):
        for session in exchange.sessions:
            session.lag = seconds
        await trio.sleep(5)


def test_what_came_by_a_connection_that_lagged_once_may_have_come_late() -> None:
    assert not offences(judged(trades, lag_for_a_while))


@pytest.mark.parametrize("play", [mute_all, stop_reading_all, freeze])
def test_a_dead_connection_that_is_noticed_late_is_found(play: Play) -> None:
    patient = kufeed.FeedConfig(pong_timeout=50.0, stale_after=1000.0)
    assert Offence.LATE not in offences(judged(trades, play))
    assert Offence.LATE in offences(judged(trades, play, config=patient))
    assert Offence.LATE not in offences(judged(trades, play, config=patient, notice_within=70.0))


def blocking(feed: Feed) -> Subscription[Any]:
    return feed.trades("XBTUSDTM", overflow="block", buffer=1)


BLOCKING = {UpdateType.TRADE: Overflow.BLOCK}


@pytest.mark.parametrize("play", [mute_all, stop_reading_all, freeze])
@pytest.mark.parametrize("pause", [0.0, 20.0])
def test_who_blocks_may_hold_the_reader_up_but_not_where_all_has_been_taken(play: Play, pause: float) -> None:
    async def consume(subscription: Subscription[Any], witness: Witness) -> None:
        await watch(subscription, witness, pause)

    patient = kufeed.FeedConfig(pong_timeout=50.0, stale_after=1000.0)
    assert not judged(blocking, play, policies=BLOCKING, consume=consume)
    found = judged(blocking, play, policies=BLOCKING, consume=consume, config=patient)
    assert offences(found) == (set() if pause else {Offence.LATE})


@pytest.mark.parametrize("kind", ["trades", "ticker"])
def test_what_came_on_the_connection_of_another_who_blocks_is_not_owed(kind: str) -> None:
    made: list[Exchange] = []

    def exchange() -> Exchange:
        made.append(Exchange(ledger=True))
        return made[-1]

    async def follow(subscription: Subscription[Any]) -> None:
        async with subscription:
            async for _ in subscription:
                pass

    async def cut_the_first() -> None:
        config = kufeed.FeedConfig(reconnect_delay=3.0, max_reconnect_delay=3.0)
        async with kufeed.open_feed(config) as feed, trio.open_nursery() as nursery:
            nursery.start_soon(follow, getattr(feed, kind)("XBTUSDTM"))
            await trio.sleep(1)
            nursery.start_soon(follow, getattr(feed, kind)("XBTUSDTM", overflow="block"))
            await trio.sleep(5)
            await made[0].sessions[0].disconnect()
            made[0].faults.refuse_dials = True
            await trio.sleep(5)
            nursery.cancel_scope.cancel()

    run(cut_the_first, exchange=exchange).check()


@pytest.mark.parametrize("pause", [0.0, 0.7])
def test_a_hole_told_to_who_blocks_is_avoidable_where_its_one_connection_brought_everything(pause: float) -> None:
    async def consume(subscription: Subscription[Any], witness: Witness) -> None:
        await watch(subscription, witness, pause)

    def fear(witness: Witness) -> None:
        place = updates_at(witness)[4]
        update: Any = witness.sightings[place].what
        gap = kufeed.Gap(update.topic, kufeed.GapCause.RECONNECT, None, None, None, update.time_ns)
        witness.sightings.insert(place, attrs.evolve(witness.sightings[place], what=gap))

    (finding,) = judged(blocking, some_seconds, policies=BLOCKING, consume=consume, spoil=fear)
    assert finding.offence is Offence.AVOIDABLE_LOSS
    assert not judged(blocking, two_cuts, policies=BLOCKING, consume=consume)


def test_a_stream_that_does_not_come_back_is_not_live() -> None:
    async def stay_away(exchange: Exchange, feed: Feed) -> None:
        await trio.sleep(3)
        exchange.faults.refuse_dials = True
        await exchange.disconnect_all()
        await trio.sleep(40)

    assert offences(judged(trades, stay_away, live_within=10.0)) == {Offence.NOT_LIVE}
    assert not judged(trades, stay_away, live_within=60.0)
    assert not judged(trades, stay_away, live_within=10.0, calm_since=40.0)


def two_feeds(symbols: tuple[str, str], after: float, seconds: float) -> Callable[[], Awaitable[None]]:
    """A program with one feed for each of *symbols*, which it opens one *after* the other."""

    async def follow(symbol: str) -> None:
        config = kufeed.FeedConfig(reconnect_delay=0.1, stale_after=None)
        async with kufeed.open_feed(config) as feed, feed.trades(symbol) as trades:
            async for _ in trades:
                pass

    async def program() -> None:
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow, symbols[0])
                await trio.sleep(after)
                nursery.start_soon(follow, symbols[1])

    return program


def test_that_another_feed_dials_does_not_say_that_a_dead_connection_was_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Session, "deadline", lambda *_: math.inf)  # no ping, so no pong that is late
    report = run(two_feeds(("BTC-USDT", "ETH-USDT"), 12.0, 60.0), plan=FaultPlan(faults.Silence(at=10)))
    assert Offence.LATE in report.offences


def test_of_two_feeds_each_is_judged_by_its_own_connections() -> None:
    made: list[Exchange] = []
    program = two_feeds(("BTC-USDT", "BTC-USDT"), 1.2, 20.0)

    def exchange() -> Exchange:
        made.append(Exchange(seed=1, ledger=True, update_interval=0.5))
        return made[-1]

    async def cut_one() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(program)
            await trio.sleep(10)
            await made[0].sessions[0].disconnect()

    report = run(cut_one, exchange=exchange)
    report.check()
    assert [len(witness.links or ()) for witness in report.witnesses] == [2, 1]


@pytest.mark.parametrize(
    ("subscribe", "policy"),
    [
        (lambda feed: feed.book("XBTUSDTM"), Overflow.LATEST),
        (lambda feed: feed.trades("XBTUSDTM", overflow="block"), Overflow.BLOCK),
        (lambda feed: feed.ticker("XBTUSDTM"), Overflow.LATEST),
    ],
)
def test_a_stream_that_comes_back_and_dies_later_is_not_live(
    subscribe: Callable[[Feed], Subscription[Any]], policy: Overflow
) -> None:
    async def two_minutes(exchange: Exchange, feed: Feed) -> None:
        await trio.sleep(120)

    def die(witness: Witness) -> None:
        witness.sightings = [one for one in witness.sightings if one.at < 100]
        witness.statistics = None  # or the accounts would not agree

    policies = {UpdateType.BOOK: policy, UpdateType.TRADE: policy, UpdateType.TICKER: policy}
    assert not judged(subscribe, two_minutes, live_within=40.0, policies=policies)
    found = judged(subscribe, two_minutes, live_within=40.0, policies=policies, spoil=die)
    assert offences(found) == {Offence.NOT_LIVE}


@pytest.mark.parametrize(
    ("kind", "overflow"),
    [("ticker", None), ("book", None), ("book", "block"), *(("trades", one) for one in ("raise", "drop_newest", None))],
)
def test_a_program_that_computes_for_minutes_is_not_told_that_its_streams_are_not_live(
    kind: str, overflow: str | None
) -> None:
    async def computes() -> None:
        async with kufeed.open_feed() as feed, getattr(feed, kind)("BTC-USDT", "XBTUSDTM", overflow=overflow) as stream:
            await stream.receive()
            await trio.sleep(100)

    report = run(computes)
    report.check()
    assert report.witnesses[0].statistics is not None
    assert report.witnesses[0].statistics.pending == len(report.witnesses[0].waiting) > 0


async def test_what_the_exchange_refuses_by_its_limits_is_a_broken_limit(autojump_clock: MockClock) -> None:
    exchange = Exchange(ledger=True, limits=Limits(spot_topics=1))
    truth = truth_of(exchange)
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        async with feed.ticker("BTC-USDT", "ETH-USDT"):
            await trio.sleep(1)
    assert offences(check_delivery(exchange)) == {Offence.BROKEN_LIMIT}
    strike = truth.struck(faults.LowerLimits())
    strike.at = 0.0
    assert check_delivery(exchange)  # those of topics are none of the lowered ones


@pytest.mark.parametrize(("lasting", "expected"), [(30.0, set()), (2.0, {Offence.BROKEN_LIMIT})])
async def test_limits_that_a_fault_has_lowered_are_nobodys_fault_until_it_is_over(
    autojump_clock: MockClock, lasting: float, expected: set[Offence]
) -> None:
    exchange = Exchange(ledger=True, limits=Limits(messages_per_10s=2))
    plan = FaultPlan(faults.LowerLimits(messages_per_10s=1, lasting=lasting))
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plan.play, exchange)
            await trio.sleep(5)
            for symbol in ("BTC-USDT", "ETH-USDT"):
                with trio.move_on_after(2):
                    async with feed.ticker(symbol):
                        pass
            nursery.cancel_scope.cancel()
    assert offences(check_delivery(exchange)) == expected


def test_only_an_exchange_that_keeps_the_truth_can_be_judged() -> None:
    with pytest.raises(ValueError, match="ledger=True"):
        check_delivery(Exchange())


# Those who are right


async def calm(exchange: Exchange, feed: Feed) -> None:
    await trio.sleep(10)


async def two_cuts(exchange: Exchange, feed: Feed) -> None:
    for code in (None, 1001):
        await trio.sleep(4)
        await exchange.disconnect_all(code)
    await trio.sleep(6)


async def bursts(exchange: Exchange, feed: Feed) -> None:
    await trio.sleep(2)
    for symbol in ("XBTUSDTM", "BTC-USDT"):
        exchange.trade(symbol, 50)
        exchange.change_book(symbol, 80)
    await trio.sleep(3)


async def renumber(exchange: Exchange, feed: Feed) -> None:
    await trio.sleep(2)
    for symbol in ("XBTUSDTM", "BTC-USDT"):
        exchange.renumber_book(symbol)
    await trio.sleep(3)
    await exchange.disconnect_all()
    for symbol in ("XBTUSDTM", "BTC-USDT"):
        exchange.renumber_book(symbol)
    await trio.sleep(5)


async def mute_topics(exchange: Exchange, feed: Feed) -> None:
    await trio.sleep(2)
    exchange.faults.mute_topics = {TRADES, "/contractMarket/level2:XBTUSDTM", "/market/ticker:BTC-USDT"}
    await trio.sleep(3)
    exchange.faults.mute_topics = ()
    await trio.sleep(5)


async def skew(exchange: Exchange, feed: Feed) -> None:
    for seconds in (5.0, -3.0, 0.0):
        truth_of(exchange).struck(faults.SkewClock(seconds=seconds)).until = trio.current_time() + 3
        exchange.faults.clock_skew = seconds
        await trio.sleep(3)
    await exchange.disconnect_all()
    await trio.sleep(8)


async def halts(exchange: Exchange, feed: Feed) -> None:
    await trio.sleep(2)
    exchange.halt("XBTUSDTM")
    await trio.sleep(100)
    exchange.resume("XBTUSDTM")
    await trio.sleep(5)


async def spoilt_books(exchange: Exchange, feed: Feed) -> None:
    await trio.sleep(2)
    await exchange.disconnect_all()
    exchange.faults.book = kufeed.testing.BookFault(times=3, stale=5, damage="crossed")
    await trio.sleep(8)


async def everything(exchange: Exchange, feed: Feed) -> None:
    for play in (two_cuts, bursts, renumber, skew):
        await play(exchange, feed)


PLAYS = [calm, two_cuts, cut, mute_all, freeze, bursts, renumber, mute_topics, skew, halts, spoilt_books]


def run_all(
    play: Play,
    *,
    kinds: Collection[str] | None = None,
    options: dict[str, Any] | None = None,
    how: Consume = watch,
    seed: int = 0,
    **config: Any,
) -> tuple[Exchange, list[Witness]]:
    """Consumers of every channel, or of those *kinds*, each with a subscription of its own."""
    exchange = Exchange(seed=seed, ledger=True)
    witnesses: list[Witness] = []

    async def main() -> None:
        async with (
            MemoryNetwork(exchange) as network,
            kufeed.open_feed(kufeed.FeedConfig(**config), network=network, rng=random.Random(seed)) as feed,
            AsyncExitStack() as stack,
        ):
            made = subscriptions(feed, **(options or {}))
            for name, subscription in made.items() if kinds is None else ((kind, made[kind]) for kind in kinds):
                policies = {UpdateType(name.split()[0]): subscription.overflow}
                watching = witnessed(subscription.made, policies=policies, how=how, name=name)
                witnesses.append(await stack.enter_async_context(watching))
            await play(exchange, feed)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return exchange, witnesses


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__)
def test_consumers_of_every_channel_who_are_right_are_left_in_peace(play: Play) -> None:
    is_long = play in (mute_all, freeze, halts)
    exchange, witnesses = run_all(play, kinds=("ticker", "trade", "book_delta", "book") if is_long else None)
    assert check_delivery(exchange, *witnesses, live_within=60.0) == ()
    assert all(witness.sightings for witness in witnesses)


@pytest.mark.parametrize("overflow", list(Overflow))
def test_slow_consumers_with_small_buffers_who_are_right_are_left_in_peace(overflow: Overflow) -> None:
    async def slowly(subscription: Subscription[Any], witness: Witness) -> None:
        await watch(subscription, witness, 0.2)

    exchange, witnesses = run_all(everything, options={"overflow": overflow, "buffer": 4}, how=slowly)
    assert check_delivery(exchange, *witnesses) == ()


@pytest.mark.parametrize(
    "config",
    [{"redundancy": 2}, {"numbers": float}, {"rotate_after": 5.0, "healthy_after": 1.0}],
    ids=["redundancy", "floats", "rotation"],
)
def test_neither_redundancy_nor_floats_nor_rotation_confuse_the_judge(config: dict[str, Any]) -> None:
    exchange, witnesses = run_all(everything, **config)
    assert check_delivery(exchange, *witnesses) == ()


def test_who_iterates_plainly_and_who_wants_changes_only_are_left_in_peace() -> None:
    exchange, witnesses = run_all(everything, how=watch_plainly)
    assert check_delivery(exchange, *witnesses) == ()
    exchange, witnesses = run_all(everything, options={"changes_only": True})
    for witness in witnesses:
        witness.changes_only = True
    assert check_delivery(exchange, *witnesses) == ()


def test_backfilled_trades_are_published_ones() -> None:
    def subscribe(feed: Feed) -> Subscription[Any]:
        return feed.trades("XBTUSDTM", "BTC-USDT", backfill=True)

    seen: list[Witness] = []
    assert not judged(subscribe, cut, spoil=seen.append)
    assert any(getattr(one.what, "backfilled", False) for one in seen[0].sightings)


def test_who_leaves_topics_and_comes_back_is_left_in_peace() -> None:
    exchange = Exchange(seed=1, ledger=True)

    async def main() -> Witness:
        async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
            subscription = feed.trades("XBTUSDTM", "BTC-USDT")
            async with witnessed(subscription) as witness:
                for _ in range(3):
                    await trio.sleep(3)
                    (gone,) = (one for one in subscription.topics if one.symbol == "XBTUSDTM")
                    subscription.remove("XBTUSDTM")
                    witness.unsubscribed([gone])
                    await trio.sleep(3)
                    await subscription.add("XBTUSDTM")
                    witness.subscribed([gone])
                await trio.sleep(3)
            return witness

    witness = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert check_delivery(exchange, witness) == ()
    assert len(witness.spans[topic("trade", "XBTUSDTM")]) == 4


STEPS = st.sampled_from(["cut", "close", "freeze", "mute", "refuse", "trade", "change", "wait", "renumber", "thaw"])


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(STEPS, st.floats(0.0, 3.0)), max_size=8), st.integers(0, 100))
def test_whatever_happens_those_who_are_right_are_left_in_peace(steps: list[tuple[str, float]], seed: int) -> None:
    async def play(exchange: Exchange, feed: Feed) -> None:
        for step, seconds in steps:
            match step:
                case "cut" | "close":
                    await exchange.disconnect_all(None if step == "cut" else 1001)
                case "freeze":
                    exchange.freeze()
                case "thaw":
                    exchange.thaw()
                case "mute":
                    for session in exchange.sessions:
                        session.mute()
                case "refuse":
                    exchange.faults.refuse_dials = 2
                case "trade":
                    exchange.trade("XBTUSDTM", 5)
                case "change":
                    exchange.change_book("BTC-USDT", 5)
                case "renumber":
                    exchange.renumber_book("BTC-USDT")
            await trio.sleep(seconds)
        exchange.thaw()
        await trio.sleep(40)

    exchange, witnesses = run_all(play, kinds=("ticker", "trade", "book_delta", "book"), seed=seed, reconnect_delay=0.2)
    assert check_delivery(exchange, *witnesses, live_within=35.0) == ()


# What nobody can know


@pytest.mark.parametrize("fate", [Fate.WITHHELD, Fate.DAMAGED, Fate.LATE, Fate.FULL])
def test_what_the_exchange_itself_kept_back_is_nobodys_fault(fate: Fate) -> None:
    async def play(exchange: Exchange, feed: Feed) -> None:
        await some_seconds(exchange, feed)
        for publication in truth_of(exchange).published[TRADES]:
            if publication.number in (3, 4):
                publication.fates = dict.fromkeys(publication.fates, fate)

    def lose(witness: Witness) -> None:
        third, fourth = updates_at(witness)[3:5]
        del witness.sightings[fourth], witness.sightings[third]

    assert not judged(trades, play, spoil=lose)


def test_what_follows_from_garbled_bytes_is_nobodys_fault() -> None:
    async def play(exchange: Exchange, feed: Feed) -> None:
        truth_of(exchange).struck(faults.Garble()).until = trio.current_time()
        await some_seconds(exchange, feed)

    def bend(witness: Witness) -> None:
        place = updates_at(witness)[4]
        witness.sightings[place] = attrs.evolve(witness.sightings[place], what=_invent(witness.sightings[place].what))

    assert not judged(trades, play, spoil=bend)


def test_a_hole_in_contiguous_numbers_is_told_whoever_made_it() -> None:
    async def play(exchange: Exchange, feed: Feed) -> None:
        await some_seconds(exchange, feed)
        for publication in truth_of(exchange).published["/contractMarket/level2:XBTUSDTM"]:
            if publication.number == 3:
                publication.fates = dict.fromkeys(publication.fates, Fate.WITHHELD)

    def lose(witness: Witness) -> None:
        del witness.sightings[updates_at(witness)[3]]

    assert offences(judged(deltas, play, spoil=lose)) == {Offence.SILENT_LOSS}


def test_a_consumer_is_judged_in_a_moment() -> None:
    """Some microseconds for each message; a bound that only a mistake would break, on any machine."""
    exchange, witnesses = run_all(calm, kinds=("ticker", "trade", "book_delta", "book"))
    count = sum(map(len, truth_of(exchange).published.values()))
    began = time.process_time()
    assert check_delivery(exchange, *witnesses) == ()
    each = (time.process_time() - began) / count
    print(f"judged in {each * 1e6:.0f} microseconds of CPU for each of {count} messages")
    assert each < 0.001
