"""`open_feed()`: owns the tasks of a feed and wires the rest together."""

from __future__ import annotations

import math
import random
import weakref
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import attrs
import trio

from ._backfill import Backfills
from ._books import Books
from ._buffers import DEFAULT_OVERFLOW, Overflow
from ._channels import UpdateQueue
from ._config import FeedConfig
from ._handlers import Handlers
from ._inline import InlineSink
from ._live_books import LiveBooks
from ._network import RealNetwork
from ._observing import CONDITIONS, ObservedQueue, ObservedSink
from ._pool import Pool
from ._proxy import Proxy, ProxyNetwork
from ._staleness import Staleness, StaleStream
from ._subscription import Subscription
from ._supervisor import one_error
from ._symbols import fetch_symbols
from ._tls import default_context
from .errors import UsageError
from .protocol.bookview import OrderBook, check_depth
from .protocol.market import ALL, Topic, UpdateType
from .protocol.topics import MARKETS, distinct, topics

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from ._bookkeeper import BookStatistics
    from ._budget import DialLimiter
    from ._connection import ConnectionStatistics
    from ._handlers import HandlerNursery, Policy
    from ._journal import FeedEvents
    from ._lifecycle import FeedState
    from ._network import Network
    from ._observing import Observer
    from .protocol.symbols import SymbolInfo
    from .protocol.updates import (
        Announcement,
        BookDelta,
        CallAuction,
        CallAuctionDepth,
        Candle,
        Depth,
        FundingRate,
        IndexPrice,
        Level1,
        MarkPrice,
        Stats24h,
        Ticker,
        Trade,
        Update,
    )


@attrs.frozen
class FeedStatistics:
    """What a feed has done so far; a snapshot."""

    connections: tuple[ConnectionStatistics, ...]
    books: tuple[BookStatistics, ...]
    """Each order book that is kept."""
    refused: Mapping[str, int]
    """Messages that were not valid, by cause: the field at fault, or `json`, `envelope`, `data`."""
    refused_samples: Mapping[str, str]
    """One sample of what was wrong for each cause, shortened."""
    unwanted: int
    """Valid messages that no subscription asked for, as may still come after an unsubscribe."""
    late: int
    """Updates that were older than `FeedConfig.latency_warning` when they came (`Update.late`)."""
    misdated: int
    """Updates whose time stamp cannot be right (`Update.misdated`)."""
    duplicates: int
    """Updates that came again, and were not delivered: they had been, or a later state of the same stream had."""
    disordered: int
    """Updates that came after later ones of their stream, and were not delivered: a `Gap` tells of them."""


class SubscriptionOptions(TypedDict, total=False):
    """The keyword arguments of each method of `Feed` that makes a subscription: `feed.ticker("XBTUSDTM", buffer=10)`.

    Any may be left out. A value that cannot be raises `UsageError`, a name that is none of these `TypeError`.
    """

    overflow: Overflow | str | None
    """What happens to an update that finds the buffer full: an `Overflow` or its name. None: what suits its kind."""
    buffer: int | None
    """How many updates may wait for the consumer; None: `FeedConfig.message_buffer_size`."""
    changes_only: bool
    """Deliver no update that equals the one before it of its topic in all but time and sequence; False by default.

    What is compared are the fields that the record has beyond those of `Update`, numbers by their value. A `Trade` and
    a `BookDelta` carry numbers of their own, so that each is a change. What is not delivered to this subscription is
    counted as `QueueStatistics.unchanged`; others of the same topic are not affected. After a hole, where the last
    one was lost to the overflow policy, and where a topic was removed and added again, the next update is delivered
    whatever it says: what was delivered last is what the exchange says, or a `Gap` or `Dropped` tells that it may not
    be. Under `Overflow.LATEST` it is compared with what the consumer took last, so that a value which is back before
    anybody saw it go is not told either. One record of each topic is kept for it.
    """
    on_reject: Literal["raise", "skip"] | None
    """What a topic does that the exchange refuses; None: `FeedConfig.on_reject`.

    `"raise"`: entering raises `SubscriptionRejected`, and nothing stays subscribed; later, as at a reconnect, it is
    raised once at its place in the stream, and all other topics go on. `"skip"`: they go on in any case. Then
    `with_events()` has a `Refused` at that place, and entering raises only where all topics were refused. Either way
    `Subscription.refused` says what was refused and why, and the feed's events have a `TopicRefused`.
    """
    wait: Literal["acks", "none"]
    """`"acks"`, the default: entering returns when every topic is acknowledged. `"none"`: it returns at once.

    What cannot be, such as too many topics, is a `UsageError` all the same. What the exchange refuses or does not
    answer, and connecting that was given up, are then told at their place in the stream, as they are after entering.
    `Subscription.wait_acked()` waits later.
    """


@attrs.frozen
class Latest:
    """The last value of a stream, and how old it is."""

    update: Update
    age: float
    """Seconds since its receipt, by the network's clock (`Network.time_ns`)."""


class Feed:
    """What `open_feed()` yields. Its methods make subscriptions; nothing is dialled before one is entered."""

    def __init__(
        self,
        config: FeedConfig,
        network: Network,
        rng: random.Random,
        dial_limiter: DialLimiter | None,
        observer: Observer | None = None,
    ) -> None:
        self.config = config
        self._observer = observer
        self._tls: ssl.SSLContext | None = config.ssl_context or getattr(network, "ssl_context", None)
        proxy = None if config.proxy is None else Proxy.from_url(config.proxy)
        if proxy is not None or config.trust_env:
            network = ProxyNetwork(network, proxy)
        self._network = network
        self._close_deadline = math.inf
        self._queues: weakref.WeakSet[UpdateQueue | InlineSink] = weakref.WeakSet()
        self._nursery: trio.Nursery | None = None
        self._pool = Pool(
            config,
            network,
            rng,
            tls=self._tls_context,
            dial_limiter=dial_limiter,
            close_deadline=lambda: self._close_deadline,
            **({} if observer is None else {"note_dial": partial(observer.dialling, self)}),
        )
        self._books = Books(self._pool, config, rng)
        self._backfills = Backfills(self._pool, config)
        self._staleness = Staleness(self._pool, network, self._pool.journal.tell)

    # -- subscriptions ------------------------------------------------------------------------------------------------

    def ticker(self, *symbols: str, **options: Unpack[SubscriptionOptions]) -> Subscription[Ticker]:
        """Best bid and ask of *symbols*, futures and spot mixed as you like (the dash tells them apart).

        *overflow*, *buffer* and *changes_only* are told of at `SubscriptionOptions`; by default only the latest ticker
        of each symbol waits (`Overflow.LATEST`). `UsageError` for a symbol that cannot exist, with a suggestion.
        """
        return self._subscribe(UpdateType.TICKER, symbols, options)

    def all_tickers(self, **options: Unpack[SubscriptionOptions]) -> Subscription[Ticker]:
        """The ticker of every spot symbol, every 100 ms where it changed: one topic for the whole market.

        Each update has its own symbol, and a `topic` of its own by which it is conflated and its losses are told; the
        connection's are told with the one topic that is subscribed to. Otherwise as ``ticker("all")``, which is the
        same, and may be mixed with symbols.
        """
        return self.ticker(ALL, **options)

    def trades(
        self, *symbols: str, backfill: bool = False, **options: Unpack[SubscriptionOptions]
    ) -> Subscription[Trade]:
        """Every execution of *symbols*. Arguments and errors as for `ticker`; the default is `Overflow.DROP_OLDEST`.

        With *backfill*, what a lost connection or a dead stream (`Stale`) has missed is recovered from the exchange's
        history, which has the last 100 trades of a symbol: at their place, once, flagged `Trade.backfilled`. It is
        asked for when the first trade after the hole has come, and that symbol is held up until it is there, for
        `FeedConfig.connect_timeout` at most and `FeedConfig.message_buffer_size` trades of this subscription. The hole
        is told all the same, before what fills it: `Gap.filled` says whether anything may still be missing, and the
        gap's times where. What is lost to the overflow policy is not recovered.
        """
        if type(backfill) is not bool:
            raise UsageError(f"backfill must be True or False, not {backfill!r}")
        make_queue = self._queue_maker([UpdateType.TRADE], **options)
        source = self._backfills.of_one() if backfill else self._pool
        chosen = topics(UpdateType.TRADE, symbols)
        return Subscription(chosen, UpdateType.TRADE, source, make_queue, waits=_waits(options))

    def level1(self, *symbols: str, **options: Unpack[SubscriptionOptions]) -> Subscription[Level1]:
        """Best bid and ask of spot *symbols*, every 10 ms. Arguments, default and errors as for `ticker`."""
        return self._subscribe(UpdateType.LEVEL1, symbols, options)

    def depth(self, *symbols: str, levels: int = 5, **options: Unpack[SubscriptionOptions]) -> Subscription[Depth]:
        """The best *levels* of each side, 5 or 50 (else `UsageError`), every 100 ms. Otherwise as `ticker`."""
        return self._subscribe(UpdateType.DEPTH, symbols, options, levels=levels)

    def book_deltas(self, *symbols: str, **options: Unpack[SubscriptionOptions]) -> Subscription[BookDelta]:
        """Every change of the books of *symbols*, numbered without holes.

        As for `ticker`, but a full buffer raises `Overflowed` (`Overflow.RAISE`): a hole makes a book wrong.
        """
        return self._subscribe(UpdateType.BOOK_DELTA, symbols, options)

    def book(self, *symbols: str, depth: int = 20, **options: Unpack[SubscriptionOptions]) -> Subscription[OrderBook]:
        """The order books of *symbols*, kept right: views of the best *depth* levels of each side, any number from 1.

        Each view is the book as it stood at its `sequence`; one that might be wrong is not shown, and begun anew from a
        snapshot: `Gap` and `Resynced` tell of it. By default the latest view of each symbol waits, one of each batch of
        changes; `Overflow.BLOCK` gives one of every change. Entering returns when the exchange streams the changes; the
        first view comes when a snapshot has joined them.

        Otherwise as `ticker`. A refusal that asking again does not mend is raised once in the stream (`ExchangeError`),
        and asking goes on. A spot *depth* above 50 needs `FeedConfig.credentials` (`UsageError`); where the exchange
        does not take them, that refusal is `CredentialsRefused`, and they are tried again every minute. Up to a *depth*
        of 50 it is not raised: such books begin from what the public gets.
        """
        chosen = topics(UpdateType.BOOK_DELTA, symbols)
        self._books.check_depth(chosen, check_depth(depth))
        make_queue = self._queue_maker([UpdateType.BOOK], depth, **options)
        source = self._books.at_depth(depth)
        return Subscription(chosen, UpdateType.BOOK_DELTA, source, make_queue, waits=_waits(options))

    def mark_price(self, *symbols: str, **options: Unpack[SubscriptionOptions]) -> Subscription[MarkPrice]:
        """Mark price of contracts, every second, or of margin pairs such as USDT-BTC. Otherwise as `ticker`."""
        return self._subscribe(UpdateType.MARK_PRICE, symbols, options)

    def index_price(self, *symbols: str, **options: Unpack[SubscriptionOptions]) -> Subscription[IndexPrice]:
        """Index price of contracts, every second, or of margin pairs such as USDT-BTC. Otherwise as `ticker`."""
        return self._subscribe(UpdateType.INDEX_PRICE, symbols, options)

    def funding_rate(self, *symbols: str, **options: Unpack[SubscriptionOptions]) -> Subscription[FundingRate]:
        """Funding rate of contracts, predicted and settled. Otherwise as `ticker`; spot has none (`UsageError`)."""
        return self._subscribe(UpdateType.FUNDING_RATE, symbols, options)

    def candles(self, *symbols: str, interval: str, **options: Unpack[SubscriptionOptions]) -> Subscription[Candle]:
        """Candles of *interval* as KuCoin names it: `"1min"`, `"1hour"`, `"1day"`, …

        As for `ticker`, but every update is kept (`Overflow.DROP_OLDEST`). `UsageError` lists the intervals of the
        market where it does not have this one.
        """
        return self._subscribe(UpdateType.CANDLE, symbols, options, interval=interval)

    def stats_24h(self, *symbols: str, **options: Unpack[SubscriptionOptions]) -> Subscription[Stats24h]:
        """Figures of the last 24 hours, every 2 s (spot) or 5 s (futures). Otherwise as `ticker`."""
        return self._subscribe(UpdateType.STATS_24H, symbols, options)

    def announcements(self, *symbols: str, **options: Unpack[SubscriptionOptions]) -> Subscription[Announcement]:
        """Funding settlements of contracts. As for `ticker`, but all are kept (`Overflow.DROP_OLDEST`)."""
        return self._subscribe(UpdateType.ANNOUNCEMENT, symbols, options)

    def call_auction(self, *symbols: str, **options: Unpack[SubscriptionOptions]) -> Subscription[CallAuction]:
        """How a call auction of spot *symbols* would end, while there is one. Otherwise as `ticker`."""
        return self._subscribe(UpdateType.CALL_AUCTION, symbols, options)

    def call_auction_depth(
        self, *symbols: str, **options: Unpack[SubscriptionOptions]
    ) -> Subscription[CallAuctionDepth]:
        """The top of the book during a call auction of spot *symbols*. Otherwise as `ticker`."""
        return self._subscribe(UpdateType.CALL_AUCTION_DEPTH, symbols, options)

    def subscribe(self, *topics: Topic, **options: Unpack[SubscriptionOptions]) -> Subscription[Update]:
        """Any mixture of topics in one order of arrival: `feed.subscribe(topic("ticker", "XBTUSDTM"), …)`.

        *overflow* holds for all of them; by default each kind has its own.
        """
        for one in topics:
            if not isinstance(one, Topic):
                raise UsageError(f"subscribe() takes topics, such as kufeed.topic('ticker', 'XBTUSDTM'), not {one!r}")
        make_queue = self._queue_maker(UpdateType, **options)
        return Subscription(distinct(topics), None, self._pool, make_queue, waits=_waits(options))

    def _subscribe(
        self,
        kind: UpdateType,
        symbols: Iterable[str],
        options: SubscriptionOptions,
        *,
        levels: int | None = None,
        interval: str | None = None,
    ) -> Subscription[Any]:
        make_queue = self._queue_maker([kind], **options)
        chosen = topics(kind, symbols, levels=levels, interval=interval)
        return Subscription(chosen, kind, self._pool, make_queue, waits=_waits(options))

    def _queue_maker(
        self,
        kinds: Iterable[UpdateType],
        depth: int | None = None,
        /,
        *,
        overflow: Overflow | str | None = None,
        buffer: int | None = None,
        changes_only: bool = False,
        on_reject: Literal["raise", "skip"] | None = None,
        wait: Literal["acks", "none"] = "acks",
    ) -> Callable[[], UpdateQueue]:
        if self._nursery is None:
            raise UsageError("the feed is closed")
        bound = _check_buffer(self.config.message_buffer_size if buffer is None else buffer)
        try:
            policies = {kind: DEFAULT_OVERFLOW[kind] if overflow is None else Overflow(overflow) for kind in kinds}
        except ValueError:
            raise UsageError(f"overflow must be one of {', '.join(Overflow)}, not {overflow!r}") from None
        if type(changes_only) is not bool:
            raise UsageError(f"changes_only must be True or False, not {changes_only!r}")
        if on_reject not in ("raise", "skip", None):
            raise UsageError(f"on_reject must be 'raise' or 'skip', not {on_reject!r}")
        if wait not in ("acks", "none"):
            raise UsageError(f"wait must be 'acks' or 'none', not {wait!r}")
        skips_refused = (on_reject or self.config.on_reject) == "skip"
        network = self._network
        new_queue: Callable[..., UpdateQueue] = UpdateQueue
        if self._observer is not None:
            new_queue = partial(ObservedQueue, new_onlooker=partial(self._observer.onlooker, self), depth=depth)

        def make_queue() -> UpdateQueue:
            queue = new_queue(
                policies,
                bound,
                changes_only=changes_only,
                skips_refused=skips_refused,
                perf_counter=network.perf_counter,
                time_ns=network.time_ns,
            )
            self._queues.add(queue)
            return queue

        return make_queue

    # -- handlers -----------------------------------------------------------------------------------------------------

    def open_handlers(
        self,
        *,
        on_error: Policy = "propagate",
        restarts_per_minute: int = 5,
        drain_timeout: float = 1.0,
        handler_nursery: HandlerNursery | None = None,
    ) -> Handlers:
        """``async with feed.open_handlers() as handlers:`` runs functions with updates: see `Handlers`.

        *on_error* says what an exception of a handler does. "propagate": it comes out of this block, as itself, and
        everything in it is cancelled; where the body fails too, both come out as a group of two. "isolate": it is
        logged and counted, and the handler goes on with the next update. "restart": the same, but the sixth in a minute
        (*restarts_per_minute* and one) comes out. A function decides for each: it gets the exception and the handler's
        name, and returns one of these words. Errors of the stream itself, such as `ConnectionFailed`, go the same way;
        one of entering a subscription always comes out.

        Leaving the block normally takes no more updates and gives the handlers *drain_timeout* seconds for what is
        pending; then, or at once where the block is cancelled or fails, they are cancelled. With *handler_nursery*
        their tasks, and so their errors, are that nursery's; they end with this block all the same.
        """
        if self._nursery is None:
            raise UsageError("the feed is closed")
        return Handlers(
            on_error,
            restarts_per_minute,
            drain_timeout,
            handler_nursery,
            self._network.perf_counter,
            make_sink=self._make_sink,
        )

    def _make_sink(self, *arguments: Any, **options: Any) -> InlineSink:
        sink = (InlineSink if self._observer is None else ObservedSink)(*arguments, **options)
        self._queues.add(sink)
        return sink

    # -- what is traded -----------------------------------------------------------------------------------------------

    async def symbols(self, market: Literal["futures", "spot"]) -> Mapping[str, SymbolInfo]:
        """All that *market* trades, by symbol and in the exchange's order: `GET /api/v1/contracts/active`, or
        `GET /api/v2/symbols` of spot. The mapping cannot be changed.

        Asked anew at each call, and once: nothing is kept, nothing is tried again. The request waits for its turn in
        the run's budget of REST weight, behind the tokens of connections, and while the exchange asks to be left alone
        (`Feed.reset` ends that); then it has `FeedConfig.connect_timeout` seconds. It takes no subscription.

        A row that is not valid is left out and counted in `statistics().refused`. Raises `ExchangeError` where the
        exchange refuses, or its answer is no list of symbols; `RequestFailed` where there is no answer; `UsageError`
        for another market, and where the feed is closed, be it meanwhile. Cancelled, it leaves nothing behind.
        """
        chosen = next((one for one in MARKETS if one.name == market), None)
        if chosen is None:
            raise UsageError(f"market must be 'futures' or 'spot', not {market!r}")
        pool = self._pool
        return await fetch_symbols(pool.requests, pool.rest(chosen), chosen, pool.refusals)

    @property
    def books(self) -> LiveBooks:
        """The books that subscriptions of this feed keep, by symbol: ``feed.books["XBTUSDTM"].best_bid``."""
        return LiveBooks(self._books)

    # -- watching -----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> FeedState:
        """Where the feed stands, all its connections together."""
        return self._pool.standing.state

    async def wait_state(self, *states: FeedState | str) -> FeedState:
        """Return as soon as the state is one of *states*, with the state; at once where it is. A checkpoint, always.

        States that end before the task has run are missed. Raises `UsageError` for a name that is no state, or none at
        all, and where the feed is closed, be it meanwhile, unless that was waited for.
        """
        return await self._pool.standing.wait_state(*states)

    def events(self, buffer: int = 1000) -> FeedEvents:
        """What happens to the feed from now on, in order: ``with feed.events() as events:``, then ``async for``.

        Links that were made, lost and replaced, circuits that opened, topics that were refused, the state and the
        progress of subscribing: records with `FeedEvent` as their base. Recoverable failures are told here and nowhere
        else. Readers are independent, each with a buffer of *buffer* events (see `FeedEvents`).

        Raises `UsageError` where the feed is closed, or *buffer* is no size.
        """
        if self._nursery is None:
            raise UsageError("the feed is closed")
        return self._pool.journal.open(_check_buffer(buffer))

    def latest(self, topic: Topic) -> Latest | None:
        """The last valid update of *topic* and its age; None where none has come yet. Takes nothing from anybody.

        Never waits, and answers during an outage too: what the age means is yours to judge. It covers what some
        subscription is subscribed to now, whoever reads it. None also for a topic that nobody is subscribed to, from
        the last unsubscribe or the exchange's refusal on, and once the feed is closed. Where subscriptions have
        connections of their own (`Overflow.BLOCK`), the newest wins, by the exchange's time and number.

        Raises `UsageError` for what is no `Topic`.
        """
        if not isinstance(topic, Topic):
            raise UsageError(f"latest() takes a topic, such as kufeed.topic('ticker', 'XBTUSDTM'), not {topic!r}")
        update = self._pool.latest(topic)
        return None if update is None else Latest(update, (self._network.time_ns() - update.received_time_ns) / 1e9)

    def stale_streams(self, older_than: float = 60.0) -> tuple[StaleStream, ...]:
        """All that is subscribed to and silent for *older_than* seconds or longer, for whatever reason. Never waits.

        A quiet market is there too, and a stream whose connection is down: `StaleStream` says what is known of each.
        Ages are by the network's clock, as those of `latest`. `UsageError` where *older_than* is no number of seconds.
        """
        if type(older_than) not in (int, float) or not older_than >= 0:
            raise UsageError(f"older_than must be a number of seconds, zero or more, not {older_than!r}")
        return () if self._nursery is None else self._staleness.streams(older_than)

    def statistics(self) -> FeedStatistics:
        """What the feed has done so far, all its connections included."""
        refusals = self._pool.refusals
        return FeedStatistics(
            connections=tuple(connection.statistics() for connection in self._pool.connections),
            books=self._books.statistics(),
            refused=dict(refusals.causes),
            refused_samples=dict(refusals.samples),
            unwanted=refusals.unwanted,
            late=sum(one.late for one in self._pool.lateness),
            misdated=sum(one.misdated for one in self._pool.lateness),
            duplicates=refusals.duplicates,
            disordered=refusals.disordered,
        )

    def tree(self) -> str:
        """The feed's tasks as text, one a line, each indented below the task that owns it."""
        lines = ["open_feed"]
        if self._nursery is not None:
            _draw(self._nursery, "  ", lines)
        return "\n".join(lines)

    def reset(self) -> None:
        """Have every connection that waits to dial again do so now, also one whose attempts are used up."""
        self._pool.reset()

    def __repr__(self) -> str:
        if self._nursery is None:
            return "<Feed closed>"
        connections = self._pool.connections
        return f"<Feed open: {len(connections)} connections, {sum(len(one.streams()) for one in connections)} streams>"

    # -- life ---------------------------------------------------------------------------------------------------------

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = default_context(self.config.trust_env)
        return self._tls

    def _close(self) -> None:
        """Fix the one deadline by which everything has ended, and end every iteration."""
        self._close_deadline = trio.current_time() + self.config.close_timeout
        self._nursery = None
        self._pool.close()
        self._books.close()
        for queue in list(self._queues):
            queue.close()


def _waits(options: SubscriptionOptions) -> bool:
    return options.get("wait", "acks") == "acks"


def _check_buffer(buffer: object) -> int:
    if type(buffer) is not int or buffer < 1:
        raise UsageError(f"buffer must be a whole number from 1 up, not {buffer!r}")
    return buffer


def _draw(nursery: trio.Nursery, indent: str, lines: list[str]) -> None:
    for task in sorted(nursery.child_tasks, key=lambda task: task.name):
        lines.append(indent + task.name)
        if task.name == "reader":
            continue  # below it trio-websocket's own tasks begin
        for child in task.child_nurseries:
            _draw(child, indent + "  ", lines)


@asynccontextmanager
async def open_feed(
    config: FeedConfig | None = None,
    *,
    network: Network | None = None,
    dial_limiter: DialLimiter | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[Feed]:
    """Open a feed: the only door that starts tasks. All of them have ended when this block is left.

    Entering is cheap: nothing is dialled before the first subscription is entered. Leaving takes at most
    `FeedConfig.close_timeout`, whatever the network does, and raises nothing of its own. An exception from the body
    comes out as itself; should one of kufeed's own tasks have failed as well, that stands in its `__context__`.
    When the block is cancelled, the body's clean-up still has a working feed.

    *network* replaces TCP, TLS and the clocks (see `kufeed.testing.MemoryNetwork`), *dial_limiter* the budget of dials
    that all feeds of this `trio.run` share (see `DialBudget`), *rng* the source of jitter. Under `kufeed.testing.run()`
    network and *rng* are its own unless given here.
    """
    conditions = CONDITIONS.get()
    observer = onlooker = None
    if conditions is not None:
        observer = conditions.observer
        onlooker = observer if network is None else None  # of another network's exchange, nobody here knows the truth
        network, rng = network or conditions.network, rng or conditions.rng
    feed = Feed(
        FeedConfig() if config is None else config,
        RealNetwork() if network is None else network,
        random.Random() if rng is None else rng,  # noqa: S311  # jitter, not secrets
        dial_limiter,
        onlooker,
    )
    pool_lifeline, book_lifeline = trio.CancelScope(), trio.CancelScope()

    async def run_pool(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128  # the pool calls it
        with pool_lifeline:
            await feed._pool.run(task_status=task_status)  # noqa: SLF001  # the other half of Feed

    async def run_books(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128  # the books call it
        with book_lifeline:
            await feed._books.run(task_status=task_status)  # noqa: SLF001

    try:
        with one_error() as body:
            async with trio.open_nursery() as nursery:
                await nursery.start(run_pool, name="pool")
                await nursery.start(run_books, name="books")
                if feed.config.stale_after is not None:
                    await nursery.start(feed._staleness.run, feed.config.stale_after, name="watchers")  # noqa: SLF001
                # From here on the body is cancelled before the connections it uses. A shield any earlier would leave
                # `start()` stuck for ever when it is cancelled; where a cancel came since, the pool is ending already.
                await trio.lowlevel.checkpoint_if_cancelled()
                pool_lifeline.shield = book_lifeline.shield = True
                feed._nursery = nursery  # noqa: SLF001
                try:
                    with body.watched():
                        yield feed
                finally:
                    if observer is not None:
                        observer.closing(feed, feed.config.close_timeout)
                    feed._close()  # noqa: SLF001
                    pool_lifeline.shield = book_lifeline.shield = False
                    nursery.cancel_scope.cancel()
    finally:
        if observer is not None:
            observer.closed(feed)
