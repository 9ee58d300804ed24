"""Streaming to the terminal or to a pipe, until the time, the count or the user says stop."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal

import attrs
import trio
from rich.live import Live

from .. import Overflow, UpdateType, open_feed, topic
from ..errors import KufeedError, UsageError
from ._progress import progress_bar
from ._running import CommandFailed
from ._views import Board, as_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from .. import Feed, FeedConfig, Subscription, Update
    from ._output import Output

_REPAINT_EVERY = 0.25
_FRAME = 6
"""Lines of a table that are none of its rows."""
_MANY = 100
"""Symbols that are subscribed to without a bar: no more than one frame takes."""
_BATCH = 1000
"""Most updates formatted in one go: other tasks wait that long."""

Kind = Literal[
    "ticker",
    "trades",
    "level1",
    "depth",
    "book",
    "book_deltas",
    "mark_price",
    "index_price",
    "funding_rate",
    "candles",
    "stats_24h",
    "announcements",
    "call_auction",
    "call_auction_depth",
]
"""What can be watched, by the names of the feed's methods."""
KINDS: dict[Kind, UpdateType] = {
    "ticker": UpdateType.TICKER,
    "trades": UpdateType.TRADE,
    "level1": UpdateType.LEVEL1,
    "depth": UpdateType.DEPTH,
    "book": UpdateType.BOOK,
    "book_deltas": UpdateType.BOOK_DELTA,
    "mark_price": UpdateType.MARK_PRICE,
    "index_price": UpdateType.INDEX_PRICE,
    "funding_rate": UpdateType.FUNDING_RATE,
    "candles": UpdateType.CANDLE,
    "stats_24h": UpdateType.STATS_24H,
    "announcements": UpdateType.ANNOUNCEMENT,
    "call_auction": UpdateType.CALL_AUCTION,
    "call_auction_depth": UpdateType.CALL_AUCTION_DEPTH,
}
_LEVELS: dict[Kind, int] = {"depth": 5, "book": 20}
"""Of each side, where the user does not say."""


@attrs.define(kw_only=True)
class Watch:
    """What to stream, how to show it, and when to stop. `run()` once; `summary()` at any time, also afterwards."""

    config: FeedConfig
    kinds: Sequence[Kind]
    symbols: Sequence[str]
    output: Output
    console: Console
    progress: Console | None = None
    """Where a bar is painted while many symbols are being subscribed to; None: nowhere."""
    levels: int | None = None
    interval: str | None = None
    format: Callable[[Update], str] | None = None
    """How one update is written; None: a table on a terminal, lines for people otherwise."""
    seconds: float | None = None
    count: int | None = None
    _subscriptions: list[Subscription[Update]] = attrs.field(factory=list, init=False)
    _taken: int = attrs.field(default=0, init=False)

    async def run(self) -> None:
        """Raises what entering a subscription and iterating over it raise, `OutputClosed` and `CommandFailed`."""
        seconds = math.inf if self.seconds is None else self.seconds
        with trio.move_on_after(seconds) as time_limit:
            async with open_feed(self.config) as feed, AsyncExitStack() as stack:
                if self.progress is not None and len(self.symbols) > _MANY:
                    async with progress_bar(feed, self.progress):
                        await self._subscribe(feed, stack)
                else:
                    await self._subscribe(feed, stack)
                await self._show(feed)
        if time_limit.cancelled_caught and len(self._subscriptions) < len(self.kinds):
            raise CommandFailed(f"not subscribed within {seconds:g} s")

    async def _subscribe(self, feed: Feed, stack: AsyncExitStack) -> None:
        for kind in self.kinds:
            subscription = self._subscription(feed, kind)
            await stack.enter_async_context(subscription)
            self._subscriptions.append(subscription)

    def _subscription(self, feed: Feed, kind: Kind) -> Subscription[Any]:
        levels = _LEVELS.get(kind) if self.levels is None else self.levels
        if kind == "book":
            if self.interval is not None:
                raise UsageError("a book has no interval")
            return feed.book(*self.symbols, depth=levels or 0, overflow=Overflow.DROP_OLDEST)
        topics = [topic(KINDS[kind], symbol, levels=levels, interval=self.interval) for symbol in self.symbols]
        return feed.subscribe(*topics, overflow=Overflow.DROP_OLDEST)

    async def _show(self, feed: Feed) -> None:
        board: Board | None = None
        async with trio.open_nursery() as nursery:
            if self.format is None and self.output.is_terminal:
                board = Board(self.symbols)
                nursery.start_soon(self._repaint, feed, board)
            async with trio.open_nursery() as consumers:
                for subscription in self._subscriptions:
                    consumers.start_soon(self._follow, subscription, board, consumers.cancel_scope)
            nursery.cancel_scope.cancel()

    async def _follow(self, subscription: Subscription[Update], board: Board | None, enough: trio.CancelScope) -> None:
        shown = self.format or as_line
        while True:
            batch, failure = await _next_batch(subscription, self._wanted())
            self._taken += len(batch)
            if board is None:
                await self.output.write("".join([shown(update) for update in batch]))
            else:
                for update in batch:
                    board.take(update)
            if failure is not None:
                raise failure
            if not self._wanted():
                enough.cancel()

    def _wanted(self) -> int:
        return _BATCH if self.count is None else min(_BATCH, self.count - self._taken)

    async def _repaint(self, feed: Feed, board: Board) -> None:
        # A task of its own: however many updates come, a terminal is painted a few times a second.
        most = max(1, self.console.height - _FRAME)
        with Live(board.draw("", most=most), console=self.console, auto_refresh=False, transient=False) as live:
            try:
                while True:
                    await trio.sleep(_REPAINT_EVERY)
                    up = sum(connection.acked > 0 for connection in feed.statistics().connections)
                    live.update(board.draw(f"{up} connections up; Ctrl-C leaves", most=most), refresh=True)
            finally:
                live.update(board.draw("", most=most), refresh=True)

    def summary(self) -> str | None:
        """The accounts of all subscriptions together, on one line; None where nothing was subscribed."""
        if not self._subscriptions:
            return None
        counts = [subscription.statistics() for subscription in self._subscriptions]
        said = {
            name: sum(getattr(one, name) for one in counts)
            for name in ("received", "delivered", "dropped", "discarded", "pending")
        }
        optional = ("discarded", "pending")  # what was in a buffer when we left
        return ", ".join(f"{name} {count}" for name, count in said.items() if count or name not in optional)


async def _next_batch(subscription: Subscription[Update], most: int) -> tuple[list[Update], KufeedError | None]:
    """What waits, at least one update and at most *most*, and the error that stands behind it in the stream."""
    batch: list[Update] = []
    try:
        batch.append(await subscription.receive())
        while len(batch) < most:
            batch.append(subscription.receive_nowait())
    except trio.WouldBlock:
        pass
    except KufeedError as error:
        return batch, error
    return batch, None
