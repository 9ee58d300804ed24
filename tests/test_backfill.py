"""`feed.trades(..., backfill=True)`: what a lost connection has missed is recovered, once, or told to be missing."""

from __future__ import annotations

import gc
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kufeed import (
    Disconnected,
    Dropped,
    Gap,
    GapCause,
    GapFill,
    Overflow,
    Restored,
    SubscriptionRejected,
    SymbolHalted,
    Trade,
    UsageError,
)
from kufeed.testing.market import Beat
from kufeed.testing.rest import Reply

from .bookish import balanced, until_blocked
from .tradish import (
    BACK,
    BOTH,
    HISTORIES,
    Spoil,
    all_of,
    answered,
    asked,
    delayed,
    kinds,
    miss,
    rows,
    sequences,
    trading,
    wire,
)

# -- what was missed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol", BOTH)
async def test_what_was_missed_comes_before_the_first_trade_after_the_hole(
    symbol: str, autojump_clock: MockClock
) -> None:
    """In order and once, and the hole is told before it: nothing happens silently."""
    async with trading() as (exchange, feed, network), feed.trades(symbol, backfill=True) as trades:
        exchange.trade(symbol, 3)
        (*_, before) = await all_of(trades)
        await miss(exchange, 20, symbol, skip=3)
        await trio.sleep(1.0)
        exchange.trade(symbol, 2)
        gap, *after = await all_of(trades)
        assert kinds([gap, *after]) == ["filled", *["old"] * 20, "new", "new"]
        assert sequences([before, *after]) == exchange.made[symbol][2:]
        assert after[0].gap_before == gap
        assert {one.gap_before for one in after[1:]} == {None}
        assert (gap.topic, gap.cause, gap.filled) == (before.topic, GapCause.RECONNECT, GapFill.FILLED)
        assert (gap.since_ns, gap.until_ns) == (before.time_ns, after[-2].time_ns)
        assert asked(network) == 1
        exchange.trade(symbol)
        assert kinds(await all_of(trades)) == ["new"]
        assert balanced(trades).delivered == 26


@pytest.mark.parametrize("symbol", BOTH)
async def test_a_recovered_trade_is_what_would_have_been_pushed(symbol: str, autojump_clock: MockClock) -> None:
    """But for its receipt, and that it says so. It is not late, and counts as nothing of the connection's."""
    async with trading() as (exchange, feed, _), feed.trades(symbol, backfill=True) as trades:
        exchange.trade(symbol)
        await all_of(trades)
        await miss(exchange, 1, symbol)
        model = exchange._model(symbol)
        made = model.recent_trades[-1] = attrs.evolve(
            model.recent_trades[-1], time_ns=exchange._clock.now_ns() - 7200 * 10**9
        )
        exchange.trade(symbol)
        _, old, new = await all_of(trades)
        assert (old.symbol, old.sequence, old.trade_id) == (symbol, made.sequence, str(made.sequence))
        assert (old.exchange_time_ns, old.side) == (made.time_ns, made.side)
        assert str(old.price) == model.instrument.price_text(made.price)
        assert type(old.size) is type(new.size)
        assert new.received_time_ns <= old.received_time_ns < new.received_time_ns + 10**9
        assert (old.late, old.misdated, old.raw) == (False, False, None)
        assert feed.statistics().misdated == 0


async def test_nothing_is_asked_before_the_first_trade_after_the_hole(autojump_clock: MockClock) -> None:
    """Only a history with that trade in it is known to reach to the hole's end."""
    async with trading() as (exchange, feed, network), feed.trades(*BOTH, backfill=True) as trades:
        for symbol in BOTH:
            exchange.trade(symbol)
        await all_of(trades)
        await miss(exchange, 5, BOTH[0])
        await trio.sleep(300.0)
        assert (asked(network), await all_of(trades)) == (0, [])
        exchange.trade(BOTH[0])
        assert kinds(await all_of(trades)) == ["filled", *["old"] * 5, "new"]
        assert asked(network) == 1


async def test_a_hole_in_which_nothing_happened_is_known_to_be_empty(autojump_clock: MockClock) -> None:
    async with trading() as (exchange, feed, _), feed.trades(BOTH[0], backfill=True) as trades:
        exchange.trade(BOTH[0])
        await all_of(trades)
        await miss(exchange, 0, BOTH[0])
        exchange.trade(BOTH[0])
        assert kinds(await all_of(trades)) == ["filled", "new"]


async def test_of_more_than_a_hundred_the_older_ones_are_told_to_be_missing(autojump_clock: MockClock) -> None:
    """The gap has the times between which they are, and stands there."""
    async with trading() as (exchange, feed, _), feed.trades(BOTH[1], backfill=True) as trades:
        exchange.trade(BOTH[1])
        (before,) = await all_of(trades)
        await miss(exchange, 150, BOTH[1])
        exchange.trade(BOTH[1])
        gap, *after = await all_of(trades)
        assert kinds([gap, *after]) == ["partly", *["old"] * 99, "new"]
        assert sequences(after) == exchange.made[BOTH[1]][-100:]
        assert (gap.since_ns, gap.until_ns) == (before.time_ns, after[0].time_ns)


async def test_where_nothing_came_before_the_hole_nothing_is_asked(autojump_clock: MockClock) -> None:
    """Where it begins is not known."""
    async with trading() as (exchange, feed, network), feed.trades(BOTH[0], backfill=True) as trades:
        await miss(exchange, 5, BOTH[0])
        exchange.trade(BOTH[0])
        assert kinds(await all_of(trades)) == ["unknown", "new"]
        assert asked(network) == 0


async def test_where_the_numbers_began_anew_nothing_is_asked(autojump_clock: MockClock) -> None:
    async with trading() as (exchange, feed, network), feed.trades(BOTH[0], backfill=True) as trades:
        exchange.trade(BOTH[0])
        await all_of(trades)
        await miss(exchange, 5, BOTH[0])
        exchange._model(BOTH[0]).trade_sequence = 5
        exchange.trade(BOTH[0])
        assert kinds(await all_of(trades)) == ["unknown", "new"]
        assert asked(network) == 0


async def test_a_trade_that_came_late_is_no_hole_to_fill(autojump_clock: MockClock) -> None:
    """It belongs before what was passed on already, so that no history can make it good."""
    async with trading() as (exchange, feed, network), feed.trades(BOTH[0], backfill=True) as trades:
        model = exchange._model(BOTH[0])
        exchange.trade(BOTH[0], 3, skip=5)
        await all_of(trades)
        model.trade_sequence -= 7
        exchange.made[BOTH[0]].clear()  # its time is older too
        exchange.trade(BOTH[0])
        model.trade_sequence += 20
        exchange.trade(BOTH[0])
        gap, trade = await all_of(trades)
        assert (gap.cause, gap.filled, trade.gap_before) == (GapCause.SEQUENCE, None, gap)
        assert asked(network) == 0


@pytest.mark.parametrize("lost_as_well", [False, True])
async def test_what_a_dead_stream_has_missed_is_recovered_too(lost_as_well: bool, autojump_clock: MockClock) -> None:
    """The exchange has forgotten the topic, and its connection may be lost before it is heard of again."""
    async with trading() as (exchange, feed, network), feed.trades(BOTH[1], backfill=True) as trades:
        exchange.trade(BOTH[1])
        await all_of(trades)
        exchange.faults.mute_topics = {wire(BOTH[1])}
        exchange.trade(BOTH[1], 20)
        exchange._model(BOTH[1]).last_price += 100
        await trio.sleep(150.0)
        exchange.faults.mute_topics = ()
        if lost_as_well:
            await miss(exchange, 5, BOTH[1])
        exchange.trade(BOTH[1])
        gap, *after = await all_of(trades)
        assert gap.cause is GapCause.STALE
        assert kinds([gap, *after]) == ["filled", *["old"] * (25 if lost_as_well else 20), "new"]
        assert asked(network) == 1


async def test_a_late_trade_does_not_keep_a_hole_from_being_filled(autojump_clock: MockClock) -> None:
    """But of the two, which one gap tells of, it is never more than a part."""
    async with trading() as (exchange, feed, network), feed.trades(BOTH[0], backfill=True) as trades:
        for missed, filled in (5, "partly"), (0, "unknown"):
            exchange.trade(BOTH[0], 3, skip=5)
            await all_of(trades)
            exchange._model(BOTH[0]).trade_sequence -= 7
            exchange.made[BOTH[0]].clear()  # its time is older too
            exchange.trade(BOTH[0])
            exchange._model(BOTH[0]).trade_sequence += 20
            await miss(exchange, missed, BOTH[0])
            exchange.trade(BOTH[0])
            gap, *after = await all_of(trades)
            assert gap.cause is GapCause.SEQUENCE
            assert kinds([gap, *after]) == [filled, *["old"] * missed, "new"]
        assert asked(network) == 2


async def test_a_lost_connection_that_cost_nothing_is_no_reason_to_ask_later(autojump_clock: MockClock) -> None:
    """A trade that comes late thereafter is still no hole to fill."""
    async with trading() as (exchange, feed, network), feed.trades(BOTH[0], backfill=True) as trades:
        exchange.trade(BOTH[0], 2, skip=5)
        await miss(exchange, 0, BOTH[0])
        model = exchange._model(BOTH[0])
        for route in exchange._publisher.routes_of(model):  # what came last comes again: nothing is missing
            exchange._publisher.publish(route, model, Beat(exchange._clock.now_ns(), (), (model.recent_trades[-1],)))
        exchange.trade(BOTH[0], 2, skip=5)
        assert kinds(await all_of(trades)) == ["new"] * 4
        exchange._model(BOTH[0]).trade_sequence -= 7
        exchange.made[BOTH[0]].clear()
        exchange.trade(BOTH[0])
        exchange._model(BOTH[0]).trade_sequence += 20
        exchange.trade(BOTH[0])
        assert kinds(await all_of(trades)) == ["None", "new"]
        assert asked(network) == 0


async def test_without_it_nothing_is_asked_and_nothing_is_claimed(autojump_clock: MockClock) -> None:
    """Also where another subscription of the same trades has it."""
    async with trading() as (exchange, feed, network), feed.trades(BOTH[0]) as plain:
        async with feed.trades(BOTH[0], backfill=True) as trades:
            exchange.trade(BOTH[0])
            await all_of(trades)
            await miss(exchange, 5, BOTH[0])
            exchange.trade(BOTH[0])
            assert kinds(await all_of(trades)) == ["filled", *["old"] * 5, "new"]
            assert kinds(await all_of(plain)) == ["new", "None", "new"]
        assert asked(network) == 1


async def test_numbers_and_raw_messages_are_as_the_feed_wants_them(autojump_clock: MockClock) -> None:
    config = attrs.evolve(BACK, numbers=float, keep_raw=True)
    async with trading(config) as (exchange, feed, _), feed.trades(BOTH[0], backfill=True) as trades:
        exchange.trade(BOTH[0])
        await all_of(trades)
        await miss(exchange, 1, BOTH[0])
        exchange.trade(BOTH[0])
        _, old, _ = await all_of(trades)
        assert type(old.price) is float
        assert old.raw["sequence"] == str(old.sequence)


async def test_other_values_than_true_and_false_are_refused(autojump_clock: MockClock) -> None:
    async with trading() as (_, feed, _):
        with pytest.raises(UsageError, match="backfill must be True or False, not 1"):
            feed.trades("BTC-USDT", backfill=1)  # type: ignore[arg-type]


# -- the history is at fault ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (answered("", 503), None),
        (answered('{"code":"429000","msg":"Too Many Requests"}', 429), None),
        (answered('{"code":"200000","da'), None),
        (answered('{"code":"200000"}'), "data"),
        (answered('{"code":"200000","data":{}}'), "data"),
        (rows(lambda data: data[3].__delitem__("side")), "side"),
        (rows(lambda data: data[3].update(price="-1")), "price"),
        (rows(lambda data: data[3].update(sequence=[])), "sequence"),
        (rows(lambda data: data[3].update(size=True)), "size"),
        (rows(lambda _: []), None),
    ],
)
async def test_a_history_that_cannot_be_had_leaves_the_hole_as_it_was(
    spoil: Spoil, cause: str | None, autojump_clock: MockClock
) -> None:
    """The trades go on, the gap says that nothing is known, and what was wrong is counted."""
    async with trading() as (exchange, feed, _), feed.trades(BOTH[0], backfill=True) as trades:
        exchange.trade(BOTH[0])
        (before,) = await all_of(trades)
        await miss(exchange, 5, BOTH[0])
        exchange.spoil = spoil
        exchange.trade(BOTH[0])
        await trio.sleep(15.0)
        gap, after = await all_of(trades)
        assert kinds([gap, after]) == ["unknown", "new"]
        assert (gap.since_ns, gap.until_ns) == (before.time_ns, after.time_ns)
        assert dict(feed.statistics().refused) == ({} if cause is None else {cause: 1})
        balanced(trades)


async def test_a_history_that_does_not_reach_the_end_of_the_hole_yet_is_asked_for_again(
    autojump_clock: MockClock,
) -> None:
    """It may come from a place that lags behind the stream."""
    async with trading() as (exchange, feed, network), feed.trades(BOTH[0], backfill=True) as trades:
        exchange.trade(BOTH[0])
        await all_of(trades)
        await miss(exchange, 5, BOTH[0])
        exchange.spoil = rows(lambda data: data[:-2])
        exchange.trade(BOTH[0])
        assert await all_of(trades) == []
        exchange.spoil = lambda reply: reply
        await trio.sleep(1.0)
        assert kinds(await all_of(trades)) == ["filled", *["old"] * 5, "new"]
        assert asked(network) == 2


async def test_where_it_never_reaches_the_end_what_it_has_is_used(autojump_clock: MockClock) -> None:
    async with trading() as (exchange, feed, network), feed.trades(BOTH[0], backfill=True) as trades:
        exchange.trade(BOTH[0])
        await all_of(trades)
        await miss(exchange, 5, BOTH[0])
        exchange.spoil = rows(lambda data: data[:-2])
        exchange.trade(BOTH[0])
        await trio.sleep(2.0)
        told = await all_of(trades)
        assert kinds(told) == [*["old"] * 4, "partly", "new"]
        gap = told[4]
        assert (gap.since_ns, gap.until_ns) == (told[3].time_ns, told[5].time_ns)
        assert asked(network) == 3


async def test_what_comes_while_it_is_asked_for_waits_and_the_other_streams_do_not(
    autojump_clock: MockClock,
) -> None:
    """Nor is anything of the reply twice that has been pushed meanwhile."""
    async with trading() as (exchange, feed, _), feed.trades(*BOTH, backfill=True) as trades:
        for symbol in BOTH:
            exchange.trade(symbol)
        await all_of(trades)
        await miss(exchange, 5, BOTH[0])
        for symbol in BOTH:
            exchange.trade(symbol)
        assert len(await all_of(trades)) == 9
        await exchange.disconnect_all()
        exchange.trade(BOTH[0], 5)
        await exchange.wait_subscribed(*map(wire, BOTH))
        exchange.spoil = delayed(3.0)
        exchange.trade(BOTH[0], 2)
        await trio.sleep(1.0)
        exchange.trade(BOTH[0], 2)
        exchange.spoil = lambda reply: reply
        exchange.trade(BOTH[1])
        assert [(one.topic.symbol) for one in await all_of(trades)] == [BOTH[1], BOTH[1]]
        exchange.trade(BOTH[1])
        assert [(one.topic.symbol) for one in await all_of(trades)] == [BOTH[1]]
        assert (balanced(trades).received, balanced(trades).pending) == (11, 0)
        await trio.sleep(2.0)
        held = await all_of(trades)
        assert kinds(held) == ["filled", *["old"] * 5, *["new"] * 4]
        assert sequences(held) == exchange.made[BOTH[0]][-9:]
        balanced(trades)


async def test_after_the_deadline_they_go_on_unrepaired(autojump_clock: MockClock) -> None:
    async with trading() as (exchange, feed, _), feed.trades(BOTH[0], backfill=True) as trades:
        exchange.trade(BOTH[0])
        await all_of(trades)
        await miss(exchange, 5, BOTH[0])
        exchange.spoil = delayed(1000.0)
        exchange.trade(BOTH[0], 3)
        await trio.sleep(9.9)
        assert await all_of(trades) == []
        await trio.sleep(0.2)
        assert kinds(await all_of(trades)) == ["unknown", *["new"] * 3]
        assert "backfill" not in feed.tree()


async def test_so_they_do_when_too_many_wait(autojump_clock: MockClock) -> None:
    """`message_buffer_size` bounds them for all streams of a subscription."""
    config = attrs.evolve(BACK, message_buffer_size=4)
    async with (
        trading(config) as (exchange, feed, _),
        feed.trades(*BOTH, backfill=True, buffer=100) as trades,
    ):
        for symbol in BOTH:
            exchange.trade(symbol)
        await all_of(trades)
        await miss(exchange, 5, BOTH[0])
        exchange.spoil = delayed(5.0)
        exchange.trade(BOTH[0], 2)
        exchange.trade(BOTH[1], 2)
        await wait_all_tasks_blocked()
        assert await all_of(trades) == []
        exchange.trade(BOTH[1])
        gap, *live = await all_of(trades)
        assert (gap.topic.symbol, kinds([gap, *live])) == (BOTH[1], ["unknown", "new", "new", "new"])
        exchange.trade(BOTH[1])
        assert kinds(await all_of(trades)) == ["new"]
        await trio.sleep(6.0)
        assert kinds(await all_of(trades)) == ["filled", *["old"] * 5, "new", "new"]
        balanced(trades)


async def test_a_second_hole_while_the_first_is_being_filled_is_filled_after_it(autojump_clock: MockClock) -> None:
    """Each by a history of its own, and what is told of the connection stays at its place."""
    async with trading() as (exchange, feed, network), feed.trades(BOTH[0], backfill=True) as trades:
        exchange.trade(BOTH[0])
        await all_of(trades)
        await miss(exchange, 2, BOTH[0])
        await until_blocked(trades.with_events())
        exchange.spoil = delayed(3.0)
        exchange.trade(BOTH[0])
        await wait_all_tasks_blocked()
        exchange.trade(BOTH[0])
        await miss(exchange, 3, BOTH[0])
        exchange.trade(BOTH[0])
        await trio.sleep(10.0)
        told = await until_blocked(trades.with_events())
        shown = [type(one).__name__ if isinstance(one, Disconnected | Restored) else kinds([one])[0] for one in told]
        assert shown == [
            *("filled", "old", "old", "new", "new"),
            *("Disconnected", "Restored"),
            *("filled", "old", "old", "old", "new"),
        ]
        assert sequences(told) == exchange.made[BOTH[0]][1:]
        assert asked(network) == 2
        exchange.trade(BOTH[0])
        assert kinds(await all_of(trades)) == ["new"]


async def test_a_hundred_streams_ask_a_few_at_a_time_and_within_the_budget(autojump_clock: MockClock) -> None:
    symbols = [f"T{number:04d}-USDT" for number in range(1, 101)]
    async with trading() as (exchange, feed, network):
        exchange.model = type(exchange.model)(seed=0, generated=100)
        exchange.made |= {symbol: [] for symbol in symbols}
        busy = 0
        most = 0

        def watch(reply: Reply) -> Reply:
            nonlocal busy, most
            busy = sum(one.at == trio.current_time() for one in network.requests if one.path in HISTORIES)
            most = max(most, busy)
            return attrs.evolve(reply, delay=0.1)

        exchange.spoil = watch
        async with feed.trades(*symbols, backfill=True) as trades:
            for symbol in symbols:
                exchange.trade(symbol)
            await all_of(trades)
            await exchange.disconnect_all()
            for symbol in symbols:
                exchange.trade(symbol)
            await exchange.wait_subscribed(*map(wire, symbols))
            for symbol in symbols:
                exchange.trade(symbol)
            await trio.sleep(5.0)
            told = await all_of(trades)
            assert sorted(kinds(told)) == sorted(["filled", "old", "new"] * 100)
            for symbol in symbols:
                mine = [one for one in told if one.topic.symbol == symbol]
                assert sequences(mine) == exchange.made[symbol][1:]
        assert asked(network) == 100
        assert most == 8


# -- buffers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("buffer", [1, 2, 7])
async def test_blocking_delivers_all_of_it_in_order_however_small_the_buffer(
    buffer: int, autojump_clock: MockClock
) -> None:
    """The connection is not held while the history is asked for, but while what it brought is taken."""
    async with (
        trading() as (exchange, feed, _),
        feed.trades(*BOTH, backfill=True, overflow=Overflow.BLOCK, buffer=buffer) as trades,
    ):
        exchange.trade(BOTH[0])
        await all_of(trades)
        await miss(exchange, 30, BOTH[0])
        exchange.trade(BOTH[0], 3)
        await trio.sleep(30.0)
        exchange.trade(BOTH[0], 3)
        await trio.sleep(30.0)
        told: list[Any] = []
        for _ in range(40):
            told += await all_of(trades)
        assert kinds(told) == ["filled", *["old"] * 30, *["new"] * 6]
        assert sequences(told) == exchange.made[BOTH[0]][1:]
        assert balanced(trades).dropped == 0


@pytest.mark.parametrize(("overflow", "kept"), [("drop_oldest", slice(-3, None)), ("drop_newest", slice(0, 3))])
async def test_what_is_dropped_of_it_is_counted_and_told(overflow: str, kept: slice, autojump_clock: MockClock) -> None:
    """A hole that was filled and then lost to a full buffer is not said to be filled."""
    async with (
        trading() as (exchange, feed, _),
        feed.trades(BOTH[0], backfill=True, overflow=overflow, buffer=3) as trades,
    ):
        exchange.trade(BOTH[0])
        await all_of(trades)
        await miss(exchange, 30, BOTH[0])
        exchange.trade(BOTH[0])
        await trio.sleep(3.0)
        exchange.trade(BOTH[0])
        await wait_all_tasks_blocked()
        told = await until_blocked(trades.with_events())
        assert sequences(told) == exchange.made[BOTH[0]][1:][kept]
        assert sum(one.count for one in told if isinstance(one, Dropped)) == 29 == balanced(trades).dropped
        if overflow == "drop_oldest":
            first = next(one for one in told if isinstance(one, Trade))
            assert first.gap_before is not None
            assert first.gap_before.filled is None


async def test_a_consumer_that_keeps_up_loses_nothing_by_a_small_buffer(autojump_clock: MockClock) -> None:
    """However much a history brings at once."""
    seen: list[Trade] = []
    async with (
        trading() as (exchange, feed, _),
        feed.trades(BOTH[0], backfill=True, buffer=3) as trades,
        trio.open_nursery() as nursery,
    ):

        async def follow() -> None:
            async for trade in trades:
                seen.append(trade)  # noqa: PERF401  # it never ends

        nursery.start_soon(follow)
        exchange.trade(BOTH[0])
        await miss(exchange, 90, BOTH[0])
        exchange.trade(BOTH[0], 2)
        await trio.sleep(1.0)
        assert sequences(seen) == exchange.made[BOTH[0]]
        assert balanced(trades).dropped == 0
        nursery.cancel_scope.cancel()


# -- who reads it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("inline", [False, True])
async def test_handlers_get_it(inline: bool, batches: bool, autojump_clock: MockClock) -> None:
    seen: list[Trade] = []

    def take(what: Any) -> None:
        seen.extend(what if batches else [what])

    async def take_async(what: Any) -> None:
        await trio.lowlevel.checkpoint()
        take(what)

    async with trading() as (exchange, feed, _), feed.open_handlers() as handlers:
        await handlers.start(take if inline else take_async, feed.trades(*BOTH, backfill=True), batches=batches)
        exchange.trade(BOTH[0])
        await miss(exchange, 5, BOTH[0])
        exchange.trade(BOTH[0])
        await trio.sleep(1.0)
        assert sequences(seen) == exchange.made[BOTH[0]]
        gaps = [one.gap_before for one in seen]
        assert [gap and gap.filled for gap in gaps] == [None, GapFill.FILLED, *[None] * 5]


async def test_an_inline_handler_may_remove_what_it_is_called_with(autojump_clock: MockClock) -> None:
    """In the middle of what was recovered; the rest of it still comes."""
    seen: list[Trade] = []
    async with trading() as (exchange, feed, _), feed.open_handlers() as handlers:
        trades = feed.trades(*BOTH, backfill=True)

        def take(trade: Trade) -> None:
            seen.append(trade)
            if len(seen) == 3:
                trades.remove(BOTH[0])

        await handlers.start(take, trades)
        exchange.trade(BOTH[0])
        await miss(exchange, 5, BOTH[0])
        exchange.trade(BOTH[0])
        await trio.sleep(1.0)
        assert sequences(seen) == exchange.made[BOTH[0]]
        exchange.trade(BOTH[1])
        await wait_all_tasks_blocked()
        assert seen[-1].symbol == BOTH[1]


async def test_workers_and_clones_get_it(autojump_clock: MockClock) -> None:
    seen: list[Trade] = []

    async def take(trade: Trade) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(trade)

    async with trading() as (exchange, feed, _), feed.trades(BOTH[0], backfill=True) as trades:
        async with feed.open_handlers() as handlers:
            await handlers.start(take, feed.trades(*BOTH, backfill=True), workers=2)
            for symbol in BOTH:
                exchange.trade(symbol)
            await all_of(trades)
            await miss(exchange, 5, BOTH[0])
            exchange.trade(BOTH[0])
            await trio.sleep(1.0)
        assert sorted(sequences(seen)) == sorted(exchange.made[BOTH[0]] + exchange.made[BOTH[1]])
        with trades.clone() as other:
            taken = [one for end in (trades, other, trades, other, trades, other) for one in [await end.receive()]]
        assert sequences(taken) == exchange.made[BOTH[0]][1:]


async def test_what_is_held_of_a_symbol_that_is_removed_still_comes(autojump_clock: MockClock) -> None:
    """Added again, it begins anew: what it missed meanwhile is not recovered."""
    async with trading() as (exchange, feed, network), feed.trades(*BOTH, backfill=True) as trades:
        exchange.trade(BOTH[0])
        await all_of(trades)
        await miss(exchange, 5, BOTH[0])
        exchange.spoil = delayed(3.0)
        exchange.trade(BOTH[0], 2)
        await wait_all_tasks_blocked()
        trades.remove(BOTH[0])
        assert kinds(await all_of(trades)) == ["unknown", "new", "new"]
        assert "backfill" not in feed.tree()
        exchange.spoil = lambda reply: reply
        exchange.trade(BOTH[0], 2)
        await trades.add(BOTH[0])
        await miss(exchange, 1, BOTH[0])
        exchange.trade(BOTH[0])
        assert kinds(await all_of(trades)) == ["unknown", "new"]
        await miss(exchange, 1, BOTH[0])
        exchange.trade(BOTH[0])
        assert kinds(await all_of(trades)) == ["filled", "old", "new"]
        assert asked(network) == 2
        balanced(trades)


@pytest.mark.parametrize("pause", range(6))
async def test_added_again_at_once_it_comes_behind_what_was_held(pause: int, autojump_clock: MockClock) -> None:
    """Though the exchange streams it to another subscription, so that there is no acknowledgement to wait for."""
    async with trading() as (exchange, feed, _), feed.trades(BOTH[0]), feed.trades(BOTH[0], backfill=True) as trades:
        exchange.trade(BOTH[0])
        await all_of(trades)
        await miss(exchange, 5, BOTH[0])
        exchange.spoil = delayed(3.0)
        exchange.trade(BOTH[0], 8)
        await wait_all_tasks_blocked()

        async def push() -> None:
            for _ in range(12):
                await trio.lowlevel.checkpoint()
                exchange.trade(BOTH[0])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            for _ in range(pause):
                await trio.lowlevel.checkpoint()
            trades.remove(BOTH[0])
            await trades.add(BOTH[0])
        told = sequences(await all_of(trades))
        assert told == sorted(set(told))
        assert len(told) > 8


async def test_a_blocking_one_keeps_its_connection_when_its_last_symbol_comes_back(autojump_clock: MockClock) -> None:
    async with trading() as (exchange, feed, _):
        async with feed.trades(BOTH[0], backfill=True, overflow=Overflow.BLOCK) as trades:
            trades.remove(BOTH[0])
            await trades.add(BOTH[0])
            exchange.trade(BOTH[0])
            assert kinds(await all_of(trades)) == ["new"]
            assert len(exchange.dials) == 1


async def test_a_symbol_that_the_exchange_refuses_is_told_once(autojump_clock: MockClock) -> None:
    async with trading() as (exchange, feed, _), feed.trades(BOTH[0], backfill=True) as trades:
        with pytest.raises(SubscriptionRejected):
            await trades.add("NOPE-USDT")
        exchange.trade(BOTH[0])
        assert kinds(await all_of(trades)) == ["new"]
        assert [str(one) for one in trades.topics] == [wire(BOTH[0])]


@pytest.mark.parametrize("inline", [False, True])
async def test_leaving_while_it_is_asked_for_ends_it_and_counts_what_was_held(
    inline: bool, autojump_clock: MockClock
) -> None:
    """As discarded; no function is called any more."""
    seen: list[Trade] = []
    async with trading() as (exchange, feed, _):
        async with feed.open_handlers() as handlers:
            trades = feed.trades(BOTH[0], backfill=True)
            if inline:
                await handlers.start(seen.append, trades)
            else:
                await trades.__aenter__()
            exchange.trade(BOTH[0])
            await miss(exchange, 5, BOTH[0])
            exchange.spoil = delayed(3.0)
            exchange.trade(BOTH[0], 2)
            await wait_all_tasks_blocked()
            assert "backfill BTC-USDT" in feed.tree()
            trades.close()
            await wait_all_tasks_blocked()
            assert "backfill" not in feed.tree()
            counts = balanced(trades)
            assert counts.received == 3
            assert counts.discarded == (2 if inline else 3)
            assert len(seen) == inline


async def test_closing_the_feed_ends_it(autojump_clock: MockClock) -> None:
    async with trading() as (exchange, feed, _):
        trades = await feed.trades(BOTH[0], backfill=True).__aenter__()
        exchange.trade(BOTH[0])
        await all_of(trades)
        await miss(exchange, 5, BOTH[0])
        exchange.spoil = delayed(1000.0)
        exchange.trade(BOTH[0], 2)
        await wait_all_tasks_blocked()
        before = trio.current_time()
    assert trio.current_time() - before <= 2.0
    counts = balanced(trades)
    assert (counts.received, counts.delivered, counts.discarded) == (3, 1, 2)


async def test_it_repairs_time_and_again(autojump_clock: MockClock) -> None:
    """And keeps nothing of what is over."""
    async with trading() as (exchange, feed, _), feed.trades(BOTH[0], backfill=True) as trades:
        told: list[Any] = []
        exchange.trade(BOTH[0])
        for count in range(9):
            told += await all_of(trades)
            await miss(exchange, count, BOTH[0])
            exchange.trade(BOTH[0])
            await trio.sleep(20.0)
        told += await all_of(trades)
        assert sequences(told) == exchange.made[BOTH[0]]
        assert {one.filled for one in told if isinstance(one, Gap)} == {GapFill.FILLED}
        assert all(one.time_ns <= other.time_ns for one, other in pairwise(t for t in told if isinstance(t, Trade)))
        (keeper,) = trades._shared.pool._keepers.values()  # type: ignore[attr-defined]
        assert (keeper._held, keeper._repairs, len(keeper._ready), keeper._gaps) == (0, {}, 0, {})


async def test_subscriptions_whose_streams_have_ended_do_not_pile_up(autojump_clock: MockClock) -> None:
    async with trading() as (exchange, feed, _):
        for _ in range(3):
            async with feed.trades(BOTH[1], backfill=True) as trades:
                exchange.trade(BOTH[1])
                await trades.receive()
                exchange.halt(BOTH[1])
                with pytest.raises(SymbolHalted):
                    await trades.receive()
            exchange.resume(BOTH[1])
            del trades
        gc.collect()
        assert len(feed._queues) <= 1, "the watch over streams has the last one in mind"
