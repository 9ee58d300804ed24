"""What subscribers are told when updates are missing, and who waits for whom: the whole feed in virtual time."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import kufeed
from kufeed import (
    Disconnected,
    Dropped,
    FeedConfig,
    Gap,
    GapCause,
    Overflow,
    Overflowed,
    Restored,
    SlowConsumer,
    StreamEvent,
    Update,
    topic,
)
from kufeed.testing import Exchange, Limits

from .test_feed import simulated
from .test_latest import ticker as spot_ticker

if TYPE_CHECKING:
    from collections.abc import Sequence

BTC, ETH = topic("trade", "BTC-USDT"), topic("trade", "ETH-USDT")
QUIET = {"live": False}
T0 = 1_767_225_600_000_000_000


def trade(sequence: int, symbol: str = "BTC-USDT") -> str:
    """A trade so many milliseconds after `T0`."""
    data = {
        "type": "match",
        "symbol": symbol,
        "sequence": str(sequence),
        "price": "1.5",
        "size": "2",
        "side": "buy",
        "tradeId": str(sequence),
        "time": str(T0 + sequence * 1_000_000),
    }
    return json.dumps({"type": "message", "topic": f"/market/match:{symbol}", "subject": "trade.l3match", "data": data})


def ms(number: int) -> int:
    return T0 + number * 1_000_000


def law(counts: kufeed.QueueStatistics) -> bool:
    lost = counts.conflated + counts.dropped + counts.unchanged + counts.discarded
    return counts.received == counts.delivered + lost + counts.pending


async def take(subscription: Any, seconds: float = 1.0) -> list[Any]:
    """What comes within so many seconds."""
    found: list[Any] = []
    with trio.move_on_after(seconds):
        async for item in subscription:
            found.append(item)  # noqa: PERF401  # a comprehension that is cancelled keeps nothing
    return found


# -- holes ------------------------------------------------------------------------------------------------------------


async def test_a_reconnect_is_told_at_its_place(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.trades("BTC-USDT", "ETH-USDT") as trades:
        await exchange.play([trade(1), trade(2), trade(1, "ETH-USDT")])
        await trio.sleep(1)
        await exchange.disconnect_all(1001)
        await exchange.wait_subscribed(str(BTC), str(ETH))
        await exchange.play([trade(7), trade(8)])
        items = await take(trades.with_events())
    gap = Gap(BTC, GapCause.RECONNECT, None, None, ms(2), ms(7))
    names = [item.sequence if isinstance(item, Update) else type(item).__name__ for item in items]
    assert names == [1, 2, 1, "Disconnected", "Disconnected", "Restored", "Restored", "Gap", 7, 8]
    lost = [item for item in items if isinstance(item, Disconnected)]
    assert {item.topic for item in lost} == {BTC, ETH}
    assert all(isinstance(item.cause, kufeed.LinkClosed) and item.cause.code == 1001 for item in lost)
    assert {item.topic: 0 <= item.duration < 2 for item in items if isinstance(item, Restored)} == {
        BTC: True,
        ETH: True,
    }
    assert gap in items
    assert [item.gap_before for item in items if isinstance(item, Update)] == [None, None, None, gap, None]


async def test_plain_iteration_tells_by_gap_before_alone(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.trades("BTC-USDT", "ETH-USDT") as trades:
        await exchange.play([trade(1), trade(3, "ETH-USDT")])
        await exchange.disconnect_all()
        await exchange.wait_subscribed(str(BTC), str(ETH))
        await exchange.play([trade(7), trade(8), trade(9, "ETH-USDT")])
        items = await take(trades)
    assert [(item.symbol, item.gap_before and item.gap_before.since_ns) for item in items] == [
        ("BTC-USDT", None),
        ("ETH-USDT", None),
        ("BTC-USDT", ms(1)),
        ("BTC-USDT", None),
        ("ETH-USDT", ms(3)),
    ]


async def test_several_cuts_before_the_next_update_are_one_hole(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.trades("BTC-USDT") as trades:
        await exchange.play([trade(1)])
        for _ in range(5):
            await exchange.disconnect_all()
            await exchange.wait_subscribed(str(BTC))
            await trio.sleep(1)
        await exchange.play([trade(9)])
        items = await take(trades.with_events())
    assert [type(item).__name__ for item in items] == ["Trade", "Disconnected", "Restored", "Gap", "Trade"]
    assert items[-1].gap_before == Gap(BTC, GapCause.RECONNECT, None, None, ms(1), ms(9))


async def test_what_was_never_received_has_no_beginning(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.trades("BTC-USDT") as trades:
        await exchange.disconnect_all()
        await exchange.wait_subscribed(str(BTC))
        await exchange.play([trade(5)])
        (first,) = await take(trades)
    assert first.gap_before == Gap(BTC, GapCause.RECONNECT, None, None, None, ms(5))


async def test_who_comes_during_an_outage_misses_nothing(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.trades("BTC-USDT") as before:
        await exchange.play([trade(1)])
        exchange.faults.refuse_dials = True
        await exchange.disconnect_all()
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            late = feed.trades("BTC-USDT")
            nursery.start_soon(late.__aenter__)
            await wait_all_tasks_blocked()
            exchange.faults.refuse_dials = False
        await exchange.play([trade(7)])
        assert [item.gap_before is not None for item in await take(before)] == [False, True]
        items = await take(late.with_events())
        late.close()
    assert [type(item).__name__ for item in items] == ["Trade"]
    assert items[0].gap_before is None


async def test_a_hole_goes_with_a_topic_that_moves(autojump_clock: MockClock) -> None:
    """The exchange takes fewer topics after the cut: the one that moves to another link has its hole told too."""
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.trades("BTC-USDT", "ETH-USDT") as trades:
        await exchange.play([trade(1), trade(2, "ETH-USDT")])
        exchange.limits = Limits(spot_topics=1)
        await exchange.disconnect_all()
        await exchange.wait_subscribed(str(BTC), str(ETH))
        assert len(exchange.sessions) == 2
        await exchange.play([trade(7), trade(8, "ETH-USDT")])
        items = await take(trades)
    gaps = {(item.symbol, item.sequence): item.gap_before for item in items}
    assert gaps.pop(("BTC-USDT", 7)).since_ns == ms(1)
    assert gaps.pop(("ETH-USDT", 8)).since_ns == ms(2)
    assert set(gaps.values()) == {None}


async def test_what_was_read_together_keeps_its_order(autojump_clock: MockClock) -> None:
    """An update before the one after the hole, in the same read, comes before the gap."""
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.trades("BTC-USDT", "ETH-USDT") as trades:
        await exchange.play([trade(1), trade(1, "ETH-USDT")])
        await exchange.disconnect_all()
        await exchange.wait_subscribed(str(BTC), str(ETH))
        await exchange.play([trade(5, "ETH-USDT"), trade(6, "ETH-USDT"), trade(7)])
        items = [item for item in await take(trades.with_events()) if not isinstance(item, Disconnected | Restored)]
    names = [(item.symbol, item.sequence) if isinstance(item, Update) else type(item).__name__ for item in items[2:]]
    assert names == ["Gap", ("ETH-USDT", 5), ("ETH-USDT", 6), "Gap", ("BTC-USDT", 7)]


async def test_a_link_that_never_carried_a_topic_is_no_loss_to_it(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), trio.open_nursery() as nursery:
        exchange.faults.withhold_acks = True
        trades = feed.trades("BTC-USDT")
        nursery.start_soon(trades.__aenter__)
        await trio.sleep(1)
        exchange.faults.withhold_acks = False
        await exchange.disconnect_all()
        await exchange.wait_subscribed(str(BTC))
        await exchange.play([trade(5)])
        items = await take(trades.with_events())
        trades.close()
    assert [type(item).__name__ for item in items] == ["Trade"]


@pytest.mark.parametrize("entering", [False, True])
async def test_what_came_before_its_ack_is_lost_with_its_link_too(autojump_clock: MockClock, entering: bool) -> None:
    """The exchange streams before it acknowledges: a link lost in between has carried the topic all the same."""
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), trio.open_nursery() as nursery:
        trades = feed.trades("BTC-USDT")
        if entering:
            exchange.faults.withhold_acks = True
            nursery.start_soon(trades.__aenter__)
        else:
            await trades.__aenter__()
            exchange.faults.withhold_acks = True
            await exchange.disconnect_all()
        await exchange.wait_subscribed(str(BTC))
        await exchange.play([trade(5)])
        await trio.sleep(0.1)
        await exchange.disconnect_all()
        exchange.faults.withhold_acks = False
        await exchange.wait_subscribed(str(BTC))
        await exchange.play([trade(9)])
        await trio.sleep(0.1)
        items = await take(trades.with_events())
        trades.close()
    ninth = next(item for item in items if isinstance(item, Update) and item.sequence == 9)
    assert ninth.gap_before == Gap(BTC, GapCause.RECONNECT, None, None, ms(5), ms(9))
    last = max(index for index, item in enumerate(items) if isinstance(item, Disconnected))
    assert last > next(index for index, item in enumerate(items) if isinstance(item, Update))


async def test_a_return_is_told_also_where_updates_came_before_the_ack(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.trades("BTC-USDT") as trades:
        await exchange.play([trade(1)])
        exchange.faults.withhold_acks = True
        await exchange.disconnect_all()
        await exchange.wait_subscribed(str(BTC))
        await exchange.play([trade(5)])
        await trio.sleep(0.1)
        exchange.faults.withhold_acks = False
        items = await take(trades.with_events(), 10)
    names = [item.sequence if isinstance(item, Update) else type(item).__name__ for item in items]
    assert names == [1, "Disconnected", "Gap", 5, "Restored"]


async def test_a_symbol_taken_back_and_asked_for_again_in_an_outage_has_no_hole(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.trades("BTC-USDT") as other, feed.trades("BTC-USDT") as trades:
        await exchange.play([trade(1)])
        exchange.faults.refuse_dials = True
        await exchange.disconnect_all()
        await trio.sleep(0.1)
        trades.remove("BTC-USDT")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trades.add, "BTC-USDT")
            await trio.sleep(0.1)
            exchange.faults.refuse_dials = False
        await exchange.play([trade(7)])
        assert [item.gap_before for item in await take(trades)] == [None, None]
        assert (await take(other))[1].gap_before is not None


async def test_an_idle_link_that_is_closed_is_no_disconnect(autojump_clock: MockClock) -> None:
    async with simulated(config=FeedConfig(linger=0.0)) as (exchange, feed), feed.trades("XBTUSDTM") as trades:
        async with feed.trades("BTC-USDT"):
            pass
        await trio.sleep(5)
        assert len(exchange.sessions) == 1
        assert not any(isinstance(item, StreamEvent) for item in await take(trades.with_events()))


async def test_a_closed_feed_is_no_disconnect(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed):
        trades = feed.trades("XBTUSDTM")
        await trades.__aenter__()
        items = trades.with_events()
        await anext(items)
    with pytest.raises(StopAsyncIteration):
        await anext(items)


# -- slow consumers ---------------------------------------------------------------------------------------------------


async def test_a_handler_slower_than_the_wire_is_told_each_drop(autojump_clock: MockClock) -> None:
    """40,000 updates at 2,000 a second into one that takes 5 ms: bounded, every drop announced, the link untouched."""
    exchange = Exchange(**QUIET)
    bound, sent = 1000, 40_000
    events: list[StreamEvent] = []
    seen: list[tuple[int, Gap | None]] = []
    async with simulated(exchange) as (_, feed), feed.trades("BTC-USDT", buffer=bound) as trades:

        async def send() -> None:
            for start in range(0, sent, 20):
                await exchange.play([trade(number) for number in range(start, start + 20)])
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            async for item in trades.with_events():
                if isinstance(item, Update):
                    assert item.sequence is not None
                    seen.append((item.sequence, item.gap_before))
                    if item.sequence == sent - 1:
                        break
                    await trio.sleep(0.005)
                else:
                    events.append(item)
                assert trades.statistics().pending <= bound
        counts = trades.statistics()
        assert exchange.statistics().dials == len(exchange.sessions) == 1
        pings = asked_pings(exchange)
    assert counts.received == sent
    assert law(counts)
    assert counts.most_pending == bound
    dropped = [event for event in events if isinstance(event, Dropped)]
    assert sum(event.count for event in dropped) == counts.dropped == sent - len(seen) > 0
    assert sum(isinstance(event, SlowConsumer) for event in events) == 1
    for (before, _), (number, gap) in pairwise(seen):
        assert (gap is not None) == (number != before + 1)
        if gap is not None:
            assert (gap.cause, gap.since_ns, gap.until_ns) == (GapCause.OVERFLOW, ms(before + 1), ms(number - 1))
    assert all(later - earlier <= 18.01 for earlier, later in pairwise(pings))


async def test_an_async_handler_slower_than_the_wire_is_told_each_drop_too(autojump_clock: MockClock) -> None:
    """The same through `open_handlers()`: each update after a hole says how large it is, and nobody reconnects."""
    exchange = Exchange(**QUIET)
    bound, sent = 1000, 40_000
    seen: list[Update] = []

    async def handle(update: kufeed.Trade) -> None:
        seen.append(update)
        await trio.sleep(0.005)

    async with simulated(exchange) as (_, feed), feed.open_handlers(drain_timeout=60) as handlers:
        await handlers.start(handle, feed.trades("BTC-USDT", buffer=bound))
        for start in range(0, sent, 20):
            await exchange.play([trade(number) for number in range(start, start + 20)])
            await trio.sleep(0.01)
        assert handlers.statistics()[0].queues[0].pending <= bound
        await trio.sleep(60)
        pings = asked_pings(exchange)
        assert exchange.statistics().dials == len(exchange.sessions) == 1
    (counts,) = handlers.statistics()[0].queues
    assert law(counts)
    assert (counts.received, counts.delivered, counts.most_pending) == (sent, len(seen), bound)
    assert counts.dropped == sent - len(seen) > 0
    for before, after in pairwise(seen):
        assert before.sequence is not None
        assert after.sequence is not None
        if after.sequence == before.sequence + 1:
            assert after.gap_before is None
        else:
            expected = (GapCause.OVERFLOW, ms(before.sequence + 1), ms(after.sequence - 1))
            gap = after.gap_before
            assert gap is not None
            assert (gap.cause, gap.since_ns, gap.until_ns) == expected
    assert all(later - earlier <= 18.01 for earlier, later in pairwise(pings))


def asked_pings(exchange: Exchange) -> list[float]:
    """When the pings of the last session came."""
    return list(exchange.sessions[0].pinged_at)


async def test_a_consumer_that_keeps_up_with_two_links_loses_nothing(autojump_clock: MockClock) -> None:
    """While one reader waits for the consumer another refills what it has emptied: that is not being slow."""
    exchange = Exchange(**QUIET)
    seen = 0
    config = FeedConfig(topics_per_connection=1)
    async with simulated(exchange, config) as (_, feed):
        async with feed.trades("BTC-USDT", "ETH-USDT", buffer=50) as trades, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def consume() -> None:
                nonlocal seen
                async for _ in trades:
                    seen += 1

            await wait_all_tasks_blocked()
            for start in range(0, 5000, 100):
                numbers = range(start, start + 100)
                await exchange.play([trade(one, symbol) for symbol in ("BTC-USDT", "ETH-USDT") for one in numbers])
                await trio.sleep(0.1)
            assert (seen, trades.statistics().dropped) == (10_000, 0)
            nursery.cancel_scope.cancel()


async def test_an_overflow_under_raise_comes_out_and_iterating_goes_on(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    options: dict[str, Any] = {"overflow": "raise", "buffer": 2}
    async with simulated(exchange) as (_, feed), feed.trades("BTC-USDT", **options) as trades:
        await exchange.play([trade(number) for number in range(1, 6)])
        await trio.sleep(1)
        assert [(await trades.receive()).sequence for _ in range(2)] == [1, 2]
        with pytest.raises(Overflowed) as raised:
            await trades.receive()
        assert raised.value.lost == 3
        await exchange.play([trade(6)])
        assert (await trades.receive()).sequence == 6


@pytest.mark.parametrize("overflow", ["sometimes", 7, ""])
async def test_an_overflow_policy_that_is_none_is_refused(autojump_clock: MockClock, overflow: Any) -> None:
    async with simulated() as (_, feed):
        with pytest.raises(kufeed.UsageError, match="block, drop_oldest, drop_newest, latest, raise"):
            feed.ticker("XBTUSDTM", overflow=overflow)


async def test_tickers_are_conflated_and_trades_are_not(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed):
        async with feed.ticker("XBTUSDTM", "ETHUSDTM") as tickers, feed.trades("XBTUSDTM", "ETHUSDTM") as trades:
            await trio.sleep(30)
            assert tickers.statistics().pending == 2
            assert tickers.statistics().conflated > 100
            assert {ticker.symbol for ticker in await take(tickers, 0.01)} == {"XBTUSDTM", "ETHUSDTM"}
            counts = trades.statistics()
            assert (counts.conflated, counts.dropped, counts.pending) == (0, 0, counts.received)
        assert law(tickers.statistics())


# -- blocking ---------------------------------------------------------------------------------------------------------


async def test_a_blocking_consumer_holds_its_link_for_minutes_and_keeps_it(autojump_clock: MockClock) -> None:
    """Five minutes without a take: pings go out, nothing is lost here, nobody reconnects; then all of it comes."""
    exchange = Exchange(**QUIET)
    sent = 2000
    async with simulated(exchange) as (_, feed):
        async with (
            feed.trades("BTC-USDT", overflow=Overflow.BLOCK, buffer=10) as trades,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(exchange.play, [trade(number) for number in range(sent)])
            await trio.sleep(300)
            counts = trades.statistics()
            assert (counts.pending, counts.slow, counts.dropped) == (10, True, 0)
            pings = asked_pings(exchange)
            assert len(pings) >= 16
            assert all(later - earlier <= 18.01 for earlier, later in pairwise(pings))
            items = await take(trades.with_events(), 5)
            assert exchange.statistics().dials == 1
            # And it lives on: the pongs that were not read meanwhile are.
            await trio.sleep(120)
            assert exchange.statistics().dials == 1
        counts = trades.statistics()
    assert [item.sequence for item in items if isinstance(item, Update)] == list(range(sent))
    assert all(item.gap_before is None for item in items if isinstance(item, Update))
    slow = [item for item in items if isinstance(item, SlowConsumer)]
    assert [event.ended for event in slow][:2] == [False, True]
    assert 299 < slow[1].duration < 301
    assert (counts.received, counts.delivered) == (sent, sent)
    assert law(counts)


@pytest.mark.parametrize("config", [None, FeedConfig(topics_per_connection=1)])
async def test_a_blocking_subscription_of_several_links_gets_from_all(
    autojump_clock: MockClock, config: FeedConfig | None
) -> None:
    symbols = ("XBTUSDTM", "ETHUSDTM") if config else ("XBTUSDTM", "BTC-USDT")
    async with simulated(config=config) as (exchange, feed):
        async with feed.trades(*symbols, overflow="block", buffer=3) as trades:
            assert len(exchange.sessions) == 2
            await trio.sleep(60)
            for _ in range(3):
                items = await take(trades, 60)
                assert {item.symbol for item in items} == set(symbols)
            assert exchange.statistics().dials == 2
            start = trio.current_time()
        await trio.sleep(0.1)
    assert trio.current_time() - start < 1


async def test_a_blocking_subscription_shares_its_link_with_nobody(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), feed.trades("XBTUSDTM") as shared:
        async with feed.trades("XBTUSDTM", overflow="block", buffer=5) as first:
            async with feed.trades("XBTUSDTM", "ETHUSDTM", overflow="block", buffer=5) as second:
                assert len(exchange.sessions) == 3
                await trio.sleep(60)
                assert first.statistics().slow
                assert second.statistics().slow
                # Neither the others nor the next one wait for them.
                received = shared.statistics().received
                async with feed.trades("ETHUSDTM"):
                    assert len(exchange.sessions) == 3
                await trio.sleep(10)
                assert shared.statistics().received > received
                assert shared.statistics().dropped == 0
                assert len(await take(first, 0.1)) > 5
        await trio.sleep(10)
        assert len(exchange.sessions) == 1


async def test_a_held_link_takes_a_further_symbol(autojump_clock: MockClock) -> None:
    """Its ack is behind what the consumer does not take: the reader goes on until it is in, and tells what it lost."""
    async with simulated() as (_, feed), feed.trades("XBTUSDTM", overflow="block", buffer=5) as trades:
        await trio.sleep(60)
        assert trades.statistics().slow
        with trio.fail_after(5):
            await trades.add("ETHUSDTM")
        counts = trades.statistics()
        items = await take(trades.with_events(), 1)
    assert sum(item.count for item in items if isinstance(item, Dropped)) == counts.dropped > 0
    assert {item.symbol for item in items if isinstance(item, Update)} == {"XBTUSDTM", "ETHUSDTM"}


async def test_leaving_a_held_subscription_or_its_feed_does_not_wait(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed):
        for _ in range(2):
            async with feed.trades("XBTUSDTM", overflow="block", buffer=5) as trades:
                await trio.sleep(60)
            assert law(trades.statistics())
        await trio.sleep(10)
        assert exchange.sessions == ()
        trades = feed.trades("XBTUSDTM", overflow="block", buffer=5)
        await trades.__aenter__()
        await trio.sleep(60)
        assert trades.statistics().slow
        start = trio.current_time()
    assert trio.current_time() - start < 0.1
    assert law(trades.statistics())


async def test_a_held_link_that_is_cut_is_noticed_once_it_is_read_again(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed), feed.trades("XBTUSDTM", overflow="block", buffer=5) as trades:
        await trio.sleep(60)
        await exchange.disconnect_all()
        items = await take(trades.with_events(), 30)
        assert [type(item) for item in items if isinstance(item, Disconnected | Restored | Gap)] == [
            Disconnected,
            Restored,
            Gap,
        ]
        assert law(trades.statistics())


async def test_a_blocking_consumer_that_is_slow_gets_one_after_the_other(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    taken: list[Any] = []
    async with simulated(exchange) as (_, feed):
        async with feed.trades("BTC-USDT", overflow="block", buffer=3) as trades, trio.open_nursery() as nursery:
            nursery.start_soon(exchange.play, [trade(number) for number in range(200)])
            with trio.fail_after(60):
                async for update in trades:
                    taken.append(update)
                    if len(taken) == 200:
                        break
                    await trio.sleep(0.1)
    assert ordered(taken)


async def test_a_topic_that_is_never_acknowledged_lets_a_blocking_consumer_lose_nothing_more(
    autojump_clock: MockClock,
) -> None:
    """After a reconnect the exchange ignores one of two topics for good: the other's reader may be held again."""
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed):
        async with feed.trades("BTC-USDT", "ETH-USDT", overflow="block", buffer=2) as trades:
            exchange.faults.ignore_topics = (str(ETH),)
            await exchange.disconnect_all()
            await exchange.wait_subscribed(str(BTC))
            with pytest.raises(kufeed.SubscriptionTimeout):
                while True:
                    await trades.receive()
            before = trades.statistics().dropped
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exchange.play, [trade(number) for number in range(500)])
                await trio.sleep(600)
                assert trades.statistics().dropped == before
                nursery.cancel_scope.cancel()


async def test_what_comes_before_the_welcome_holds_no_reader(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    async with simulated(exchange) as (_, feed), feed.trades("BTC-USDT", overflow="block", buffer=2) as trades:
        exchange.faults.withhold_welcome = True
        await exchange.disconnect_all()
        await trio.sleep(60)
        assert feed.statistics().connections[0].failures > 1
        exchange.faults.withhold_welcome = False
        assert law(trades.statistics())


def ordered(updates: Sequence[Any]) -> bool:
    numbers = [update.sequence for update in updates]
    return numbers == sorted(set(numbers))


async def test_a_blocking_consumer_that_comes_now_and_then_gets_all(autojump_clock: MockClock) -> None:
    exchange = Exchange(**QUIET)
    taken: list[Update] = []
    async with simulated(exchange) as (_, feed):
        async with feed.trades("BTC-USDT", overflow="block", buffer=3) as trades, trio.open_nursery() as nursery:
            nursery.start_soon(exchange.play, [trade(number) for number in range(500)])
            while len(taken) < 500:
                taken.extend(await take_one_batch(trades))
                await trio.sleep(0.7)
    assert len(taken) == 500
    assert ordered(taken)


async def take_one_batch(trades: Any) -> list[Update]:
    async for batch in trades.batches(7):
        return list(batch)
    return []


async def test_a_handler_that_removes_a_topic_after_a_hole_takes_nothing_from_others(autojump_clock: MockClock) -> None:
    """Functions of the user's run when all that was read is staged everywhere: what others had stays theirs."""
    exchange = Exchange(live=False)
    btc = kufeed.topic("ticker", "BTC-USDT")
    armed = False
    async with simulated(exchange) as (_, feed):
        other = feed.ticker("BTC-USDT", "ETH-USDT", overflow="drop_oldest")

        def remove(update: kufeed.Ticker) -> None:
            if armed and update.symbol == "BTC-USDT" and btc in other.topics:
                other.remove("BTC-USDT")

        async with other, feed.open_handlers() as handlers:
            await handlers.start(remove, feed.ticker("BTC-USDT", "XRP-USDT"))
            await exchange.play([spot_ticker(1)])
            await trio.sleep(1)
            assert (await other.receive()).sequence == 1
            await exchange.disconnect_all()
            await exchange.wait_subscribed(str(btc))
            await trio.sleep(5)
            armed = True
            await exchange.play([spot_ticker(5)])
            await trio.sleep(1)
            update = other.receive_nowait()
            assert update.sequence == 5
            assert update.gap_before is not None
            counts = other.statistics()
            assert (counts.received, counts.delivered, counts.pending) == (2, 2, 0)


async def test_a_topic_that_is_added_again_is_not_told_of_what_was_missing_before(autojump_clock: MockClock) -> None:
    exchange = Exchange(live=False)
    async with simulated(exchange) as (_, feed):
        async with feed.ticker("ETH-USDT", "BTC-USDT", overflow="drop_newest", buffer=1) as tickers:
            await exchange.play([spot_ticker(1, "ETH-USDT"), spot_ticker(2), spot_ticker(3)])
            await trio.sleep(1)
            assert (await tickers.receive()).symbol == "ETH-USDT"
            with pytest.raises(trio.WouldBlock):
                tickers.receive_nowait()
            tickers.remove("BTC-USDT")
            await trio.sleep(3_600)
            await tickers.add("BTC-USDT")
            await exchange.play([spot_ticker(100)])
            update = await tickers.receive()
            assert (update.sequence, update.gap_before) == (100, None)


async def test_who_joins_again_in_an_outage_is_not_told_that_it_is_over(autojump_clock: MockClock) -> None:
    """`Restored` only to who was told `Disconnected`, on the subscription as it is now."""
    exchange = Exchange(live=False)
    async with simulated(exchange) as (_, feed):
        async with feed.ticker("ETH-USDT", "BTC-USDT") as mine, feed.ticker("BTC-USDT") as other:
            exchange.faults.refuse_dials = True
            await exchange.disconnect_all()
            await trio.sleep(0.1)
            mine.remove("BTC-USDT")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mine.add, "BTC-USDT")
                await trio.sleep(0.1)
                exchange.faults.refuse_dials = False
            await exchange.play([spot_ticker(5)])
            told = []
            async for one in mine.with_events():
                told.append((type(one).__name__, str(getattr(one, "topic", ""))))
                if isinstance(one, kufeed.Ticker):
                    break
            assert ("Restored", "/market/ticker:BTC-USDT") not in told
            assert ("Disconnected", "/market/ticker:BTC-USDT") in told, "before it left"
            del other
