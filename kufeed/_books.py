"""Which books are kept and for whom, and where their snapshots come from: the pool of book subscriptions."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from ._backoff import Backoff
from ._bookkeeper import BookKeeper, KeptBook, Reader
from ._budget import OTHER_LANE, SNAPSHOT_LANE
from ._delivery import hand_out, wait_for_room
from ._refused_key import RefusedKey
from ._rest import book_endpoint
from ._signing import Signer
from ._supervisor import one_error
from .errors import CredentialsRefused, ExchangeError, KufeedError, UsageError
from .protocol.futures import FUTURES
from .protocol.orderbook import BookEvent, BookState, BookSync
from .protocol.rest import is_lasting
from .protocol.spot import SPOT
from .protocol.topics import MARKETS

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, Sequence

    from ._bookkeeper import BookStatistics
    from ._channels import Sink
    from ._config import FeedConfig
    from ._pool import Entering, Pool
    from .protocol.market import Topic
    from .protocol.orderbook import BookSnapshot

_log = logging.getLogger("kufeed.books")

_PLACES = 8
"""Snapshots under way at once in a market: each is a connection of its own."""
MOST_PUBLIC_DEPTH = 50
"""Levels of a spot book that a public seed of 100 can promise for some time: the top is consumed, and the seed knows
nothing of what moves up from below (a recorded session differed at level 99 after 30 s)."""
_SHORT_BACKOFF = Backoff(0.25, max=4.0)
"""After seeds that the changes did not come to: that may be long ago, and the book need not be dark for long."""
_BACKOFF = Backoff(0.25, max=32.0)
"""The first snapshot is often older than the first change: asking again at once would be as early."""


class Books:
    """Keeps each book that somebody reads. `run()` owns the tasks that fetch snapshots; the rest returns at once."""

    def __init__(self, pool: Pool, config: FeedConfig, rng: random.Random) -> None:
        self._pool = pool
        self._config = config
        self._rng = rng
        self._signer = None if config.credentials is None else Signer(pool.requests, config.credentials)
        self._shared = BookKeeper(self._want)
        self._exclusive: dict[Sink, BookKeeper] = {}
        # Of each market its own: one that does not answer must not keep the other waiting.
        self._places = {market: trio.CapacityLimiter(_PLACES) for market in MARKETS}
        self._waited_for: dict[Topic, trio.Event] = {}
        self._key = RefusedKey()
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
            self._fit(book)
        try:
            entering = self._pool.attach(topics, keeper, reader=sink, leave=partial(self.detach, sink=sink))
        except BaseException:
            self._leave(topics, sink)
            raise
        for topic in topics:
            keeper.welcome(topic, sink)
            if (kept := keeper.books.get(topic)) is not None:
                self._tell_refused(kept)
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
                self._fit(book)
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

    def is_pending(self, topic: Topic, sink: Sink) -> bool:
        return self.has(topic, sink) and self._pool.is_pending(topic, self._exclusive.get(sink, self._shared))

    def entered(self, entering: Entering) -> None:
        self._pool.entered(entering)

    async def wait_pending(self) -> None:
        await self._pool.wait_pending()

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

    def find(self, topic: Topic, depth: int) -> KeptBook | None:
        """Its book; of several, for subscriptions that share nothing, one that can be read to *depth*, or at all."""
        found = [keeper.books[topic] for keeper in self._keepers() if topic in keeper.books]
        return max(found, key=lambda book: (book.sync.is_readable(depth), book.sync.is_readable(1)), default=None)

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
        self._tell_refused(book)
        if book.syncing is None and self._nursery is not None and not self._is_hopeless(book):
            book.syncing = trio.CancelScope()
            self._nursery.start_soon(self._sync, keeper, book, name=f"book {book.sync.topic.symbol}")

    async def _sync(self, keeper: BookKeeper, book: KeptBook) -> None:
        """Fetch snapshots until the book has one that fits."""
        assert book.syncing is not None
        failures = 0
        try:
            with book.syncing:
                if book.sync.given_up:  # else the next change might have it ask again, and so on
                    await trio.sleep(_SHORT_BACKOFF.delay(book.sync.given_up, self._rng))
                while book.readers and book.sync.wants_snapshot() and not self._is_hopeless(book):
                    pause = await self._seed(keeper, book, failures)
                    failures = 0 if pause is None else failures + 1
                    if pause is not None:
                        await trio.sleep(pause)
        finally:
            book.syncing = None
        keeper.care_for(book)  # it lost its connection meanwhile, and may have one again

    async def _seed(self, keeper: BookKeeper, book: KeptBook, failures: int) -> float | None:
        """One try; returns how long to wait before the next one, None where none may be needed any more."""
        sync = book.sync
        async with self._places[sync.topic.channel.market]:
            self._tell_refused(book)  # the key may be refused since it waits for its place
            if self._is_hopeless(book):
                return None
            ticket = sync.ask()
            try:
                snapshot = await self._fetch(sync.topic, SNAPSHOT_LANE)
            except KufeedError as error:
                sync.forgo(ticket)
                book.failed += 1
                if isinstance(error, CredentialsRefused):
                    self._tell_refused(book)
                    return None  # there is another way, or none
                return self._put_off(keeper, book, error, failures)
        event = sync.seed(ticket, snapshot)
        if event is BookEvent.DIFFERS:
            keeper.broke(book, event)
        if event is BookEvent.UNFIT or sync.state is not BookState.LIVE:
            book.unfit += 1
            return _BACKOFF.delay(failures + 1, self._rng)
        book.refused = None
        keeper.show(book)
        book.stir()
        await hand_out([keeper], wait_for_room)
        return None

    def _put_off(self, keeper: BookKeeper, book: KeptBook, error: KufeedError, failures: int) -> float:
        """Tell what there is to tell of *error*; returns how long to wait before the next try."""
        refusal = error if isinstance(error, ExchangeError) else None
        told = None if book.refused is None else book.refused.code
        news = refusal is not None and is_lasting(refusal) and refusal.code != told
        if news or failures == 0:
            _log.warning("no snapshot of %s: %s; trying again", book.sync.topic.symbol, error)
        if news:
            book.refused = refusal
            keeper.fail_book(book, error)
        wait = None if refusal is None else refusal.retry_after
        return _BACKOFF.delay(failures + 1, self._rng, retry_after=wait)

    async def _fetch(self, topic: Topic, lane: int) -> BookSnapshot:
        """A snapshot, in its turn: signed, where there are credentials and the exchange has nothing against them."""
        market = topic.channel.market
        rest, numbers = self._pool.rest(market), self._config.numbers
        if market is FUTURES or self._signer is None or self._is_public(topic):
            endpoint = book_endpoint(market, signed=False)
            send = partial(rest.fetch_book, topic, None, numbers)
            return await self._pool.requests.run(rest, endpoint.path, endpoint.weight, lane, send)
        try:
            snapshot = await self._signer.fetch_book(rest, topic, lane, numbers)
        except CredentialsRefused as error:
            self._refuse(error)
            raise
        self._key.accept()
        return snapshot

    # -- credentials that are refused: what the public gets serves who does not need more ------------------------------

    def _is_public(self, topic: Topic) -> bool:
        """Whether the book of *topic* gets nothing signed though there are credentials."""
        return topic.channel.market is SPOT and self._key.stands()

    def _is_hopeless(self, book: KeptBook) -> bool:
        """Whether no snapshot that could be had now is deep enough for any of its readers."""
        return book.sync.depth > MOST_PUBLIC_DEPTH and self._is_public(book.sync.topic)

    def _fit(self, book: KeptBook) -> None:
        """Have *book* want snapshots that are as deep as its readers want to see, and can for now."""
        depths = [reader.depth for reader in book.readers.values()]
        if self._is_public(book.sync.topic):
            depths = [depth for depth in depths if depth <= MOST_PUBLIC_DEPTH] or depths
        book.sync.depth = max(depths, default=book.sync.depth)

    def _fit_all(self) -> None:
        for keeper in list(self._keepers()):
            for book in list(keeper.books.values()):
                self._fit(book)
                keeper.care_for(book)

    def _refuse(self, error: CredentialsRefused) -> None:
        if self._key.stands():
            return  # this one was under way
        self._key.refuse(error)
        self._fit_all()
        assert self._nursery is not None  # whose task has asked
        self._nursery.start_soon(self._sign_again, self._key.until, name="refused key")

    async def _sign_again(self, at: float) -> None:
        """Have those who need what is signed ask for it at that time."""
        await trio.sleep_until(at)
        self._fit_all()

    def _tell_refused(self, book: KeptBook) -> None:
        """Tell those readers whom only a whole book serves that there is none, where none can be had now."""
        sync = book.sync
        if not self._is_public(sync.topic):
            return
        if sync.state is BookState.LIVE and sync.bids.floor is None and sync.asks.floor is None:
            return
        for reader in tuple(book.readers.values()):
            if reader.depth > MOST_PUBLIC_DEPTH:
                self._key.tell(reader.sink)

    # -- audits -------------------------------------------------------------------------------------------------------

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
                sync.audit(ticket, None)
                if not isinstance(error, CredentialsRefused):  # of which the log has been told
                    book.warn_of_audit(error)
                return
        match sync.audit(ticket, snapshot):
            case BookEvent.DIFFERS:
                keeper.broke(book, BookEvent.DIFFERS)
                keeper.care_for(book)
            case BookEvent.UNFIT:
                book.warn_of_audit("its snapshot is too old, or no book")


class BooksAtDepth:
    """`Books` as a subscription of one depth sees them: what `Pool` is to others."""

    def __init__(self, books: Books, depth: int) -> None:
        self._books = books
        self._depth = depth
        self.detach = books.detach
        self.entered = books.entered
        self.has = books.has
        self.is_pending = books.is_pending
        self.wait_pending = books.wait_pending

    def attach(self, topics: Sequence[Topic], sink: Sink) -> Entering:
        return self._books.attach(topics, sink, self._depth)
