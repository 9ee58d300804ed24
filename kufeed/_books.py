"""Which books are kept and for whom, and where their snapshots come from: the pool of book subscriptions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, overload

import trio

from ._backoff import Backoff
from ._bookkeeper import BookKeeper, KeptBook, Reader
from ._budget import OTHER_LANE, SNAPSHOT_LANE
from ._delivery import hand_out
from ._supervisor import one_error
from .errors import BookNotReady, ClockOff, CredentialsRefused, ExchangeError, KufeedError, UsageError
from .protocol.bookview import BookFigures, OrderBook, check_depth
from .protocol.market import UpdateType
from .protocol.orderbook import BookEvent, BookState, BookSync
from .protocol.rest import is_lasting
from .protocol.spot import SPOT
from .protocol.topics import MARKETS
from .protocol.topics import topic as make_topic
from .protocol.updates import Level

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Iterator

    from ._bookkeeper import BookStatistics
    from ._channels import Sink
    from ._config import FeedConfig
    from ._pool import Entering, Pool
    from .protocol.market import Topic
    from .protocol.orderbook import BookSnapshot
    from .protocol.sides import BookSide

_log = logging.getLogger("kufeed.books")

_PLACES = 8
"""Snapshots under way at once in a market: each is a connection of its own."""
MOST_PUBLIC_DEPTH = 50
"""Levels of a spot book that a public seed of 100 can promise for some time: the top is consumed, and the seed knows
nothing of what moves up from below (a recorded session differed at level 99 after 30 s)."""
_BACKOFF = Backoff(0.25, max=32.0)
"""The first snapshot is often older than the first change: asking again at once would be as early."""
_PAUSE = 60.0
"""Seconds that nothing is signed after credentials were refused: they are the same for every book."""


class Books:
    """Keeps each book that somebody reads. `run()` owns the tasks that fetch snapshots; the rest returns at once."""

    def __init__(self, pool: Pool, config: FeedConfig, rng: random.Random) -> None:
        self._pool = pool
        self._config = config
        self._rng = rng
        self._shared = BookKeeper(self._want)
        self._exclusive: dict[Sink, BookKeeper] = {}
        # Of each market its own: one that does not answer must not keep the other waiting.
        self._places = {market: trio.CapacityLimiter(_PLACES) for market in MARKETS}
        self._waited_for: dict[Topic, trio.Event] = {}
        self._refusal: tuple[float, CredentialsRefused] | None = None
        """Of the credentials, and until when it stands for every signed request."""
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Fetch snapshots as they are wanted; until cancelled."""
        try:
            with one_error() as body:
                async with trio.open_nursery() as self._nursery:
                    with body.watched():
                        if (every := self._config.book_audit_every) is not None:
                            self._nursery.start_soon(self._audit_all, every, name="book audits")
                        task_status.started()
                        await trio.sleep_forever()
        finally:
            self._nursery = None

    # -- what subscriptions ask for -----------------------------------------------------------------------------------

    def at_depth(self, depth: int) -> BooksAtDepth:
        """What subscriptions of *depth* levels attach to."""
        return BooksAtDepth(self, depth)

    def check_depth(self, topics: Iterable[Topic], depth: int) -> None:
        """Raise `UsageError` where a book of *topics* cannot be known to *depth* without credentials."""
        if depth <= MOST_PUBLIC_DEPTH or self._config.credentials is not None:
            return
        for topic in topics:
            if topic.channel.market is SPOT:
                raise UsageError(
                    f"depth of a spot book ({topic.symbol}) is at most {MOST_PUBLIC_DEPTH} without "
                    f"FeedConfig(credentials=...), not {depth}: the public gets 100 levels, and some are used up"
                )

    def attach(self, topics: Sequence[Topic], sink: Sink, depth: int) -> Entering:
        """Have views of the books of *topics* delivered to *sink*. Raises as `Pool.attach` does, nothing changed."""
        self.check_depth(topics, depth)
        keeper = self._shared
        if sink.blocks:
            keeper = self._exclusive.setdefault(sink, BookKeeper(self._want, blocks=True))
        for topic in topics:
            book = keeper.books.setdefault(topic, KeptBook(BookSync(topic), partial(self._stir, topic)))
            book.readers[sink] = Reader(sink, depth)
            book.sync.depth = max(book.sync.depth, depth)
        try:
            entering = self._pool.attach(topics, keeper, reader=sink, leave=partial(self.detach, sink=sink))
        except BaseException:
            self._leave(topics, sink)
            raise
        for topic in topics:
            keeper.welcome(topic, sink)
        return entering

    def detach(self, topics: Iterable[Topic], sink: Sink) -> None:
        """Deliver *topics* to *sink* no more; a book that nobody reads is not kept. Whoever waits for one fails."""
        topics = list(topics)
        keeper = self._exclusive.get(sink, self._shared)
        self._pool.abandon(topics, sink)
        self._pool.detach(self._leave(topics, sink), keeper)

    def _leave(self, topics: Iterable[Topic], sink: Sink) -> list[Topic]:
        """Take *sink* off the books of *topics*; returns those that nobody reads now."""
        keeper = self._exclusive.get(sink, self._shared)
        unread: list[Topic] = []
        for topic in topics:
            book = keeper.books.get(topic)
            if book is None or book.readers.pop(sink, None) is None:
                continue
            if book.readers:
                book.sync.depth = max(reader.depth for reader in book.readers.values())
            else:
                keeper.forget(topic)
                unread.append(topic)
        if not keeper.books:
            self._exclusive.pop(sink, None)
        return unread

    def has(self, topic: Topic, sink: Sink) -> bool:
        keeper = self._exclusive.get(sink, self._shared)
        book = keeper.books.get(topic)
        return book is not None and sink in book.readers and self._pool.has(topic, keeper)

    def entered(self, entering: Entering) -> None:
        self._pool.entered(entering)

    def close(self) -> None:
        """The feed is closed: what is kept is not kept up to date any more, so nothing can be read. Idempotent."""
        for keeper in self._keepers():
            for topic in tuple(keeper.books):
                keeper.forget(topic)

    # -- what is kept -------------------------------------------------------------------------------------------------

    def _keepers(self) -> Iterator[BookKeeper]:
        yield self._shared
        yield from self._exclusive.values()

    def symbols(self) -> Iterable[str]:
        """Of the books that are kept, each once."""
        return dict.fromkeys(topic.symbol for keeper in self._keepers() for topic in keeper.books)

    def find(self, topic: Topic) -> KeptBook | None:
        """Its book; of several, for subscriptions that share nothing, one that can be read."""
        found = [keeper.books[topic] for keeper in self._keepers() if topic in keeper.books]
        return max(found, key=lambda book: book.sync.state is BookState.LIVE, default=None)

    def _stir(self, topic: Topic) -> None:
        if (event := self._waited_for.pop(topic, None)) is not None:
            event.set()

    async def wait_change(self, topic: Topic) -> None:
        """Return when one of its books may have become readable, or is kept no more."""
        await self._waited_for.setdefault(topic, trio.Event()).wait()

    def statistics(self) -> tuple[BookStatistics, ...]:
        return tuple(book.statistics() for keeper in self._keepers() for book in keeper.books.values())

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def _want(self, keeper: BookKeeper, book: KeptBook) -> None:
        if book.syncing is None and self._nursery is not None:
            book.syncing = trio.CancelScope()
            self._nursery.start_soon(self._sync, keeper, book, name=f"book {book.sync.topic.symbol}")

    async def _sync(self, keeper: BookKeeper, book: KeptBook) -> None:
        """Fetch snapshots until the book has one that fits."""
        assert book.syncing is not None
        failures = 0
        try:
            with book.syncing:
                while book.readers and book.sync.wants_snapshot():
                    pause = await self._seed(keeper, book, failures)
                    failures = 0 if pause is None else failures + 1
                    if pause is not None:
                        await trio.sleep(pause)
        finally:
            book.syncing = None
        keeper.care_for(book)  # it lost its connection meanwhile, and may have one again

    async def _seed(self, keeper: BookKeeper, book: KeptBook, failures: int) -> float | None:
        """One try; returns how long to wait before the next one, None after a seed that fits."""
        sync = book.sync
        async with self._places[sync.topic.channel.market]:
            ticket = sync.ask()
            try:
                snapshot = await self._fetch(sync.topic, SNAPSHOT_LANE)
            except KufeedError as error:
                book.failed += 1
                if failures == 0:
                    _log.warning("no snapshot of %s: %s; trying again", sync.topic.symbol, error)
                told = None if book.refused is None else book.refused.code
                if isinstance(error, ExchangeError) and is_lasting(error) and error.code != told:
                    if failures:
                        _log.warning("no snapshot of %s: %s; trying again", sync.topic.symbol, error)
                    book.refused = error
                    keeper.fail_book(book, error)
                wait = error.retry_after if isinstance(error, ExchangeError) else None
                return _BACKOFF.delay(failures + 1, self._rng, retry_after=wait)
        event = sync.seed(ticket, snapshot)
        if event is not BookEvent.JOINED and (sync.state is not BookState.LIVE or sync.wants_snapshot()):
            book.unfit += 1
            return _BACKOFF.delay(failures + 1, self._rng)
        book.seeds += 1
        book.refused = None
        keeper.show(book)
        book.stir()
        await hand_out([keeper], _wait_for_room)
        return None

    async def _fetch(self, topic: Topic, lane: int) -> BookSnapshot:
        """A snapshot, in its turn. Where the clock of a signature was off, it is set and another one tried."""
        credentials = self._config.credentials
        rest = self._pool.rest(topic.channel.market)
        signed = credentials is not None and topic.channel.market is SPOT
        for is_last in (False, True):
            if signed and self._refusal is not None and trio.current_time() < self._refusal[0]:
                raise self._refusal[1]
            endpoint, weight = rest.book_request(topic, credentials)
            send = partial(rest.fetch_book, topic, credentials, self._config.numbers)
            try:
                return await self._pool.requests.run(rest, endpoint, weight, lane, send)
            except ClockOff:
                if is_last:
                    raise
            except CredentialsRefused as error:
                self._refusal = trio.current_time() + _PAUSE, error
                raise
        raise AssertionError("the loop returns or raises")

    async def _audit_all(self, every: float) -> None:
        while True:
            await trio.sleep(every)
            for keeper in list(self._keepers()):
                for book in list(keeper.books.values()):
                    if book.sync.state is BookState.LIVE and book.syncing is None:
                        await self._audit(keeper, book)

    async def _audit(self, keeper: BookKeeper, book: KeptBook) -> None:
        sync = book.sync
        async with self._places[sync.topic.channel.market]:
            if sync.state is not BookState.LIVE:
                return
            ticket = sync.ask()
            try:
                snapshot = await self._fetch(sync.topic, OTHER_LANE)
            except KufeedError as error:
                sync.forgo()
                book.warn_of_audit(error)
                return
        match sync.audit(ticket, snapshot):
            case BookEvent.DIFFERS:
                keeper.broke(book, BookEvent.DIFFERS)
                keeper.care_for(book)
            case BookEvent.UNFIT:
                book.warn_of_audit("its snapshot is too old, or no book")


async def _wait_for_room(sink: Sink) -> bool:
    await sink.wait_room()
    return True


class BooksAtDepth:
    """`Books` as a subscription of one depth sees them: what `Pool` is to others."""

    def __init__(self, books: Books, depth: int) -> None:
        self._books = books
        self._depth = depth
        self.detach = books.detach
        self.entered = books.entered
        self.has = books.has

    def attach(self, topics: Sequence[Topic], sink: Sink) -> Entering:
        return self._books.attach(topics, sink, self._depth)


class _LiveSide(Sequence[Level]):
    """A side of a live book, best first, that cannot be changed. Each read raises as the book does."""

    __slots__ = ("_side",)

    def __init__(self, side: Callable[[], BookSide]) -> None:
        self._side = side

    @property
    def floor(self) -> object:
        return self._side().floor

    def __len__(self) -> int:
        return len(self._side())

    @overload
    def __getitem__(self, index: int) -> Level: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Level, ...]: ...

    def __getitem__(self, index: int | slice) -> Level | tuple[Level, ...]:
        return self._side()[index]

    def __iter__(self) -> Iterator[Level]:
        return iter(self._side())

    def __repr__(self) -> str:
        return repr(self._side())


class LiveBook(BookFigures):
    """A book as it stands at each moment, for as long as some subscription of the feed keeps it.

    Reading it raises `BookNotReady` while it is out of step with the exchange. What two reads say belongs together only
    where no other task ran between them: take `snapshot()` else.
    """

    __slots__ = ("_books", "_topic", "symbol")

    def __init__(self, topic: Topic, books: Books) -> None:
        self.symbol = topic.symbol
        self._topic = topic
        self._books = books

    def _kept(self) -> KeptBook:
        book = self._books.find(self._topic)
        if book is None:
            raise BookNotReady(self.symbol, "no subscription keeps it")
        return book

    def _read(self, depth: int = 1) -> BookSync:
        sync = self._kept().sync
        sync.check_readable(depth)
        return sync

    @property
    def is_ready(self) -> bool:
        """Whether it can be read now."""
        book = self._books.find(self._topic)
        return book is not None and book.sync.is_readable(1)

    async def wait_ready(self) -> None:
        """Return when it can be read; raise `BookNotReady` where no subscription keeps it, or none any more.

        A checkpoint in any case.
        """
        await trio.lowlevel.checkpoint()
        while not self.is_ready:
            self._kept()
            await self._books.wait_change(self._topic)

    @property
    def sequence(self) -> int:
        """The exchange's number of the last change in it."""
        return self._read().sequence

    @property
    def exchange_time_ns(self) -> int | None:
        """The exchange's time of the last change, or of the snapshot, in ns since the epoch (UTC)."""
        return self._read().exchange_time_ns

    @property
    def bids(self) -> Sequence[Level]:  # type: ignore[override]  # read-only here
        """All that is known, best first: the whole side, or of a spot book without credentials what its seed covers.

        Live, also where you keep it: each read of it is of that moment, or raises `BookNotReady`.
        """
        self._read()
        return _LiveSide(lambda: self._read().bids)

    @property
    def asks(self) -> Sequence[Level]:  # type: ignore[override]
        """The same of the other side."""
        self._read()
        return _LiveSide(lambda: self._read().asks)

    def top(self, count: int) -> OrderBook:
        """The *count* best levels of each side: a view that stays as it is. `BookNotReady` where fewer are known."""
        return self._read(check_depth(count)).view(count)

    def snapshot(self) -> OrderBook:
        """All that is known now, as a view that stays as it is."""
        return self._read().view(None)

    def _is_whole(self, side: Sequence[Level]) -> bool:
        return getattr(side, "floor", None) is None

    def __repr__(self) -> str:
        book = self._books.find(self._topic)
        return f"<LiveBook {self.symbol} {'not kept' if book is None else book.sync.state.value}>"


class LiveBooks(Mapping[str, LiveBook]):
    """The books that subscriptions of a feed keep, by symbol."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def __getitem__(self, symbol: str) -> LiveBook:
        try:
            wanted = make_topic(UpdateType.BOOK_DELTA, symbol)
        except UsageError:
            raise KeyError(symbol) from None
        if self._books.find(wanted) is None:
            raise KeyError(symbol)
        return LiveBook(wanted, self._books)

    def __iter__(self) -> Iterator[str]:
        return iter(self._books.symbols())

    def __len__(self) -> int:
        return len(tuple(self._books.symbols()))

    def __repr__(self) -> str:
        return f"<LiveBooks {', '.join(self)}>"
