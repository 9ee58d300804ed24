"""Holes among trades, filled from REST: a sink between a stream and its subscription, and the pool of such."""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import attrs
import trio

from ._budget import OTHER_LANE
from ._delivery import hand_out, wait_for_room
from .errors import KufeedError, MessageRefused, UsageError
from .protocol.events import Disconnected, Gap, GapCause, GapFill, Stale
from .protocol.history import HISTORIES, fill, read_trades
from .protocol.topics import MARKETS
from .protocol.updates import Update

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ._channels import Sink
    from ._config import FeedConfig
    from ._pool import Entering, Pool
    from .errors import SubscriptionRejected
    from .protocol.events import StreamEnd, StreamEvent
    from .protocol.market import Topic
    from .protocol.updates import Trade

_log = logging.getLogger("kufeed.backfill")

_PLACES = 8
"""Requests under way at once in a market: each is a connection of its own."""
_PAUSES = (0.0, 0.5, 1.0)
"""Seconds before each request: a history that does not reach the end of the hole yet is asked for again."""
_LONGEST_REPLY = 64 * 2**10
"""Bytes; 100 rows of a contract have 25,000."""
_LOST = (GapCause.RECONNECT, GapCause.STALE)
"""Causes of holes that a history can fill."""


@attrs.frozen
class _Hole:
    """Where trades are missing, and the first one after that."""

    gap: Gap
    after: Trade


@attrs.define(eq=False)
class Repair:
    """A stream that is held up, from a hole on, until the history has been had."""

    topic: Topic
    before: Trade
    """The last one that was passed on."""
    held: deque[_Hole | Update | StreamEvent]
    """What came since. Begins with a hole; empty when it is over."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    """Of the request."""

    def hole(self) -> _Hole:
        first = self.held[0]
        assert isinstance(first, _Hole)
        return first


class TradeKeeper:
    """A `Sink` of trades: passes them on to *sink*, but those after a hole only when it is filled, or cannot be.

    *on_hole* is called for each repair that begins. At most *bound* updates and events are held; the stream for which
    there is no room any more goes on unrepaired. Streams without a hole are not held up.
    """

    def __init__(self, sink: Sink, bound: int, on_hole: Callable[[TradeKeeper, Repair], None]) -> None:
        self.staged: list[Any] = []  # of `Trade`
        self.blocks = sink.blocks
        self.topics: set[Topic] = set()
        self._sink = sink
        self._bound = bound
        self._on_hole = on_hole
        self._last: dict[str, Trade] = {}  # that were passed on, by symbol
        self._last_before_loss: dict[str, Trade] = {}  # of those streams that were ever lost, or dead
        self._gaps: dict[int, Gap] = {}  # by the place in `staged` of what they precede
        self._repairs: dict[str, Repair] = {}
        self._held = 0
        self._ready: deque[Update | StreamEvent] = deque()  # what an event stands before has to enter first

    # -- the producer's side ------------------------------------------------------------------------------------------

    def stage_after(self, gap: Gap, update: Update) -> None:
        self._gaps[len(self.staged)] = gap
        self.staged.append(update)

    def hand_over(self) -> bool:
        staged, last = self.staged, self._last
        if not (self._gaps or self._repairs or self._ready):
            for trade in staged:
                last[trade.symbol] = trade
            self._sink.staged += staged
            staged.clear()
            return self._sink.hand_over()
        trades, gaps = staged.copy(), self._gaps
        staged.clear()
        self._gaps = {}
        for place, trade in enumerate(trades):
            self._sort(trade, gaps.get(place))
        return self._pass_on()

    def _sort(self, trade: Trade, gap: Gap | None) -> None:
        repair = self._repairs.get(trade.symbol)
        if repair is not None:
            self._hold(repair, trade if gap is None else _Hole(gap, trade))
        elif gap is not None and self._can_fill(hole := _Hole(gap, trade), self._last.get(trade.symbol)):
            repair = Repair(trade.topic, self._last[trade.symbol], deque([hole]))
            self._repairs[trade.symbol] = repair
            self._held += 1
            self._on_hole(self, repair)
        else:
            if gap is not None:
                self._ready.append(self._unfilled(gap, self._last.get(trade.symbol)))
            self._ready.append(trade)
            self._last[trade.symbol] = trade

    def _hold(self, repair: Repair, what: _Hole | Update | StreamEvent) -> None:
        repair.held.append(what)
        self._held += 1
        if self._held > self._bound:
            _log.warning("more than %d updates came while trades of %s were asked for", self._bound, repair.topic)
            self.give_up(repair)

    def _pass_on(self) -> bool:
        sink, ready = self._sink, self._ready
        while ready:
            if isinstance(first := ready[0], Update):
                sink.staged.append(first)
                ready.popleft()
                continue
            if not sink.hand_over():
                return False
            # An inline handler was called, which may have changed anything.
            if ready and ready[0] is first:
                sink.tell(first)
                ready.popleft()
        return sink.hand_over()

    # -- repairs ------------------------------------------------------------------------------------------------------

    def fill(self, repair: Repair, history: Sequence[Trade] | None) -> None:
        """Make ready what fills the first hole of *repair*, and what came after it, up to the next one."""
        hole, before = repair.hole(), repair.before
        told = [self._unfilled(hole.gap, before)] if history is None else fill(hole.gap, before, hole.after, history)
        self._ready += [*told, hole.after]
        repair.before = hole.after
        repair.held.popleft()
        self._held -= 1
        while repair.held:
            one = repair.held[0]
            if isinstance(one, _Hole):
                if self._can_fill(one, repair.before):
                    return
                self._ready += [self._unfilled(one.gap, repair.before), one.after]
                repair.before = one.after
            else:
                self._ready.append(one)
                if isinstance(one, Update):
                    repair.before = one  # type: ignore[assignment]  # trades are all that it gets
                else:
                    self._note_loss(one, repair.before)
            repair.held.popleft()
            self._held -= 1
        del self._repairs[repair.topic.symbol]
        self._last[repair.topic.symbol] = repair.before

    def _note_loss(self, event: StreamEvent, before: Trade | None) -> None:
        if isinstance(event, Disconnected | Stale) and before is not None:
            self._last_before_loss[before.symbol] = before

    def _was_lost(self, gap: Gap, before: Trade | None) -> bool:
        """Whether the stream was lost since *before*: a gap has the first cause of several, as of a late trade."""
        return gap.cause in _LOST or (before is not None and self._last_before_loss.get(before.symbol) is before)

    def _can_fill(self, hole: _Hole, before: Trade | None) -> bool:
        """Whether a history can fill *hole*: not where nothing came before it, nor where the numbers began anew.

        Nor where the stream was not lost: what is missing then came late, and belongs before what was passed on.
        """
        return (
            self._was_lost(hole.gap, before)
            and before is not None
            and before.sequence is not None
            and hole.after.sequence is not None
            and before.sequence < hole.after.sequence
        )

    def _unfilled(self, gap: Gap, before: Trade | None) -> Gap:
        return attrs.evolve(gap, filled=GapFill.UNKNOWN) if self._was_lost(gap, before) else gap

    def give_up(self, repair: Repair) -> None:
        """Make ready what it holds, unrepaired. Idempotent."""
        repair.scope.cancel()
        while repair.held:
            self.fill(repair, None)

    def begin(self, topics: Iterable[Topic]) -> None:
        """Get *topics* too; what came of one before is of no concern."""
        for topic in topics:
            self._forget(topic)
        self.topics.update(topics)

    def leave(self, topics: Iterable[Topic]) -> None:
        """Get *topics* no more; what was held of them is passed on next."""
        for topic in topics:
            self.topics.discard(topic)
            # Nothing is handed over here: an inline handler may be what is closing the subscription.
            if (repair := self._repairs.get(topic.symbol)) is not None:
                self.give_up(repair)
            self._forget(topic)

    def _forget(self, topic: Topic) -> None:
        self._last.pop(topic.symbol, None)
        self._last_before_loss.pop(topic.symbol, None)

    # -- what else happens to the streams -----------------------------------------------------------------------------

    def acked(self, topic: Topic) -> None:
        self._sink.acked(topic)

    def tell(self, event: StreamEvent) -> None:
        topic = getattr(event, "topic", None)
        repair = None if topic is None else self._repairs.get(topic.symbol)
        if repair is not None:
            self._hold(repair, event)
            return
        if topic is not None:
            self._note_loss(event, self._last.get(topic.symbol))
        if self._ready:
            self._ready.append(event)
        else:
            self._sink.tell(event)

    def fail(self, error: Exception) -> None:
        """What is held is not waited for: an error is about many streams, mostly."""
        self._sink.fail(error)

    def refuse(self, topics: Iterable[Topic], error: SubscriptionRejected) -> None:
        """Those that were being entered have been left already, and are told there."""
        gone = [topic for topic in topics if topic in self.topics]
        self._pass_on_now(gone)
        if gone:
            self._sink.refuse(gone, error)

    def end(self, event: StreamEnd) -> None:
        self._pass_on_now([event.topic])
        self.leave([event.topic])
        self._sink.end(event)

    def _pass_on_now(self, topics: Iterable[Topic]) -> None:
        """Have what is held of *topics* enter, unrepaired: what is told next comes after it."""
        for topic in topics:
            if (repair := self._repairs.get(topic.symbol)) is not None:
                self.give_up(repair)
        if self._ready and not self.hand_over() and not self.blocks:
            self.force()

    def complete(self, topic: Topic, until_ns: int) -> None:
        self._sink.complete(topic, until_ns)

    # -- room: that of the subscription -------------------------------------------------------------------------------

    def has_staged(self) -> bool:
        return bool(self.staged or self._ready) or self._sink.has_staged()

    def backlog(self) -> Any:
        return self._sink.backlog()

    def has_taken(self, backlog: Any) -> bool:
        return self._sink.has_taken(backlog)

    def force(self) -> None:
        while not self.hand_over():
            self._sink.force()

    def slow(self) -> None:
        self._sink.slow()

    async def wait_room(self) -> None:
        await self._sink.wait_room()

    def close(self) -> None:
        """What is pending is the subscription's to discard."""


class Backfills:
    """Fills the holes of all subscriptions with `backfill=True`."""

    def __init__(self, pool: Pool, config: FeedConfig) -> None:
        self._pool = pool
        self._config = config
        # Of each market its own: one that does not answer must not keep the other waiting.
        self._places = {market: trio.CapacityLimiter(_PLACES) for market in MARKETS}

    def of_one(self) -> BackfilledTrades:
        """What one subscription attaches to."""
        return BackfilledTrades(self._pool, self._config.message_buffer_size, self._start)

    # -- repairs ------------------------------------------------------------------------------------------------------

    def _start(self, keeper: TradeKeeper, repair: Repair) -> None:
        self._pool.start_soon(self._repair, keeper, repair, name=f"backfill {repair.topic.symbol}")

    async def _repair(self, keeper: TradeKeeper, repair: Repair) -> None:
        """Fill one hole after the other, and pass on what was held up."""
        try:
            while repair.held:
                history = await self._ask(repair)
                if repair.held:  # else it was ended meanwhile
                    keeper.fill(repair, history)
                    await hand_out([keeper], wait_for_room)
            await hand_out([keeper], wait_for_room)
        except BaseException:
            keeper.give_up(repair)
            keeper.force()  # so that it is counted
            raise

    async def _ask(self, repair: Repair) -> list[Trade] | None:
        """The history of its symbol, or None where it could not be had in time.

        Only after the first trade behind the hole: one that does not contain it may be older than the hole's end.
        """
        after = repair.hole().after.sequence or 0
        history: list[Trade] | None = None
        with trio.move_on_after(self._config.connect_timeout) as repair.scope:
            for pause in _PAUSES:
                await trio.sleep(pause)
                history = await self._fetch(repair.topic)
                if history is None or (history and (history[-1].sequence or 0) >= after):
                    break
        return history

    async def _fetch(self, topic: Topic) -> list[Trade] | None:
        market, config, pool = topic.channel.market, self._config, self._pool
        rest, endpoint = pool.rest(market), HISTORIES[market]
        send = partial(rest.request, endpoint, _LONGEST_REPLY, f"symbol={quote(topic.symbol, safe='')}")
        try:
            async with self._places[market]:
                answer = await pool.requests.run(rest, endpoint.path, endpoint.weight, OTHER_LANE, send)
            return read_trades(
                answer.data,
                topic,
                answer.received_time_ns,
                numbers=config.numbers,
                keep_raw=config.keep_raw,
            )
        except MessageRefused as refusal:
            pool.refusals.add(refusal, {"topic": endpoint.path})
        except UsageError:
            pass  # the feed is closed
        except KufeedError as error:
            _log.warning("no history of %s: %s", topic.symbol, error)
        return None


class BackfilledTrades:
    """What one subscription with `backfill=True` attaches to, as others do to the pool.

    It has its keeper for as long as it lives, whatever it subscribes to meanwhile: a symbol that is removed and added
    again comes behind what was held of it, and on the connection that blocking ones have of their own.
    """

    def __init__(self, pool: Pool, bound: int, on_hole: Callable[[TradeKeeper, Repair], None]) -> None:
        self._pool = pool
        self._bound = bound
        self._on_hole = on_hole
        self._keepers: dict[Sink, TradeKeeper] = {}  # several only where a handler has workers
        self.entered = pool.entered
        self.wait_pending = pool.wait_pending

    def attach(self, topics: Sequence[Topic], sink: Sink) -> Entering:
        """Have *topics* delivered to *sink*. Raises as `Pool.attach` does, nothing changed."""
        keeper = self._keepers.setdefault(sink, TradeKeeper(sink, self._bound, self._on_hole))
        entering = self._pool.attach(topics, keeper, reader=sink, leave=partial(self.detach, sink=sink))
        keeper.begin(topics)
        return entering

    def detach(self, topics: Iterable[Topic], sink: Sink) -> None:
        """Deliver *topics* to *sink* no more. Whoever waits for one fails."""
        topics = list(topics)
        keeper = self._keepers[sink]
        self._pool.abandon(topics, sink)
        self._pool.detach(topics, keeper)
        keeper.leave(topics)

    def has(self, topic: Topic, sink: Sink) -> bool:
        return sink in self._keepers and self._pool.has(topic, self._keepers[sink])

    def is_pending(self, topic: Topic, sink: Sink) -> bool:
        return sink in self._keepers and self._pool.is_pending(topic, self._keepers[sink])
