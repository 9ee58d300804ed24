"""From the changes of books to views of them: a sink for the one, and a source for other sinks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import trio

from .errors import SubscriptionRejected
from .protocol.events import Disconnected, Gap, GapCause, Restored, Resynced, StreamEvent
from .protocol.orderbook import BookEvent, BookSync

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._channels import Sink
    from .protocol.bookview import OrderBook
    from .protocol.market import Topic

_CAUSE = {BookEvent.GAP: GapCause.SEQUENCE, BookEvent.RENUMBERED: GapCause.SEQUENCE}
"""Of what happens to a live book; what else ends it is `GapCause.BOOK`."""


@attrs.frozen
class BookStatistics:
    """How one book has fared so far; a snapshot."""

    symbol: str
    state: str
    """`waiting`, `syncing`, `live` or `broken`; only a live one can be read."""
    sequence: int
    levels: int
    """Known now, both sides together."""
    breaks: int
    """Times that it was live and had to begin anew, lost connections apart."""
    seeds: int
    """Snapshots that it began from."""
    unfit: int
    """Snapshots that did not fit: too old, or no book."""
    failed: int
    """Snapshots that could not be had."""
    audits: int
    """Times that it was found equal to a snapshot (`FeedConfig.book_audit_every`)."""


@attrs.define(eq=False)
class Reader:
    """A subscription of a book."""

    sink: Sink
    depth: int
    last: OrderBook | None = None
    """What it was shown last."""
    dark_since: float | None = None
    """When it was last told that the book cannot be read; None while it can, or never could."""
    gap_told: bool = False


@attrs.define(eq=False)
class KeptBook:
    """One book and its readers."""

    sync: BookSync
    readers: dict[Sink, Reader] = attrs.field(factory=dict)
    syncing: trio.CancelScope | None = None
    """Of the task that fetches snapshots for it, while there is one."""
    changed: trio.Event = attrs.field(factory=trio.Event)
    """Set when it may have become readable, or nobody reads it any more; then there is another."""
    breaks: int = 0
    seeds: int = 0
    unfit: int = 0
    failed: int = 0

    def stir(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def statistics(self) -> BookStatistics:
        sync = self.sync
        return BookStatistics(
            symbol=sync.topic.symbol,
            state=sync.state.value,
            sequence=sync.sequence,
            levels=len(sync.bids) + len(sync.asks),
            breaks=self.breaks,
            seeds=self.seeds,
            unfit=self.unfit,
            failed=self.failed,
            audits=sync.audits,
        )


class BookKeeper:
    """A `Sink` of book changes: applies them, and hands views to the readers of each book.

    Under `Overflow.BLOCK` its one reader gets a view of every change; other readers get one of each batch.
    *on_want* is called for a book that needs a snapshot; it is called again and again until it has one.
    """

    def __init__(self, on_want: Callable[[BookKeeper, KeptBook], None], *, blocks: bool = False) -> None:
        self.staged: list[Any] = []  # of `BookDelta`
        self.blocks = blocks
        self.books: dict[Topic, KeptBook] = {}
        self._on_want = on_want
        self._holding: dict[Sink, None] = {}  # which have something staged

    # -- changes ------------------------------------------------------------------------------------------------------

    def hand_over(self) -> bool:
        deltas = self.staged.copy()
        self.staged.clear()
        heard: dict[KeptBook, bool] = {}  # and whether it has changed, and stayed live
        for delta in deltas:
            book = self.books.get(delta.topic)
            if book is None:
                continue
            event = book.sync.receive(delta)
            if event is BookEvent.APPLIED:
                heard[book] = True
                if self.blocks:
                    self.show(book)
            elif event is None:
                heard.setdefault(book, False)
            else:
                heard[book] = False
                self.broke(book, event)
        for book, changed in heard.items():
            if changed and not self.blocks:
                self.show(book)
            if book.syncing is None and book.sync.wants_snapshot():
                self._on_want(self, book)
        return self._pass_on()

    def show(self, book: KeptBook) -> None:
        """Stage the book as it stands for each reader who can see it that deep; tell the others that they cannot."""
        for reader in book.readers.values():
            self._show(book.sync, reader)

    def _show(self, sync: BookSync, reader: Reader) -> None:
        if sync.is_readable(reader.depth):
            view = sync.view(reader.depth)
            if reader.dark_since is not None:
                self._lighten(reader, view)
            reader.last = view
            reader.sink.staged.append(view)
            self._holding[reader.sink] = None
        else:
            self._darken(reader, GapCause.BOOK, None)

    def welcome(self, topic: Topic, sink: Sink) -> None:
        """Show a new reader the book that others have already; it has room, since nothing came before."""
        book = self.books[topic]
        if book.sync.is_readable(book.readers[sink].depth):
            self._show(book.sync, book.readers[sink])
            self._pass_on()
        elif book.syncing is None and book.sync.wants_snapshot():
            self._on_want(self, book)  # it reads deeper than the others

    def broke(self, book: KeptBook, event: BookEvent) -> None:
        """A live book is none any more, because of *event*."""
        book.breaks += 1
        for reader in book.readers.values():
            self._darken(reader, _CAUSE.get(event, GapCause.BOOK), book.sync.missing)

    def _darken(self, reader: Reader, cause: GapCause, missing: tuple[int, int] | None) -> None:
        if reader.last is None or reader.dark_since is not None:
            return
        reader.dark_since = trio.current_time()
        reader.gap_told = True
        first, last = missing or (None, None)
        reader.sink.hand_over()  # what it was shown comes before
        reader.sink.tell(Gap(reader.last.topic, cause, first, last, reader.last.time_ns, None))

    def _lighten(self, reader: Reader, view: OrderBook) -> None:
        assert reader.last is not None
        assert reader.dark_since is not None
        reader.sink.hand_over()
        if not reader.gap_told:
            since, until = reader.last.time_ns, view.time_ns
            reader.sink.tell(Gap(view.topic, GapCause.RECONNECT, None, None, since, until))
        reader.sink.tell(Resynced(view.topic, trio.current_time() - reader.dark_since))
        reader.dark_since = None

    # -- what else happens to the stream ------------------------------------------------------------------------------

    def acked(self, topic: Topic) -> None:
        book = self.books.get(topic)
        if book is not None:
            book.sync.subscribed()
            if book.syncing is None and book.sync.wants_snapshot():
                self._on_want(self, book)

    def tell(self, event: StreamEvent) -> None:
        """A lost connection ends what is known; holes are seen by their numbers, so being told of them is nothing."""
        if not isinstance(event, Disconnected | Restored):
            return
        self.hand_over()
        book = self.books.get(event.topic)
        if book is None:
            return
        if isinstance(event, Disconnected):
            self._lost(book)
        for reader in book.readers.values():
            reader.sink.tell(event)

    def _lost(self, book: KeptBook) -> None:
        book.sync.lost()
        if book.syncing is not None:
            book.syncing.cancel()
        for reader in book.readers.values():
            if reader.last is not None and reader.dark_since is None:
                reader.dark_since = trio.current_time()
                reader.gap_told = False
                reader.sink.hand_over()

    def fail(self, error: Exception) -> None:
        named = getattr(error, "topics", None)
        wires = set([error.topic] if isinstance(error, SubscriptionRejected) else named or ())
        for topic, book in self.books.items():
            if not wires or topic.wire in wires:
                if isinstance(error, SubscriptionRejected):
                    self._lost(book)
                self.fail_book(book, error)

    def fail_book(self, book: KeptBook, error: Exception) -> None:
        """Have *error* raised to all who read *book*, at this place in their streams."""
        for reader in book.readers.values():
            reader.sink.fail(error)

    # -- room: that of the readers ------------------------------------------------------------------------------------

    def _pass_on(self) -> bool:
        for sink in list(self._holding):
            if sink.hand_over():
                del self._holding[sink]
        return not self._holding

    def backlog(self) -> tuple[tuple[Sink, object], ...]:
        return tuple((sink, sink.backlog()) for sink in self._holding)

    def has_taken(self, backlog: Any) -> bool:
        return all(sink.has_taken(mark) for sink, mark in backlog)

    def force(self) -> None:
        self._pass_on()
        for sink in self._holding:
            sink.force()
        self._pass_on()

    def slow(self) -> None:
        for sink in self._holding:
            sink.slow()

    async def wait_room(self) -> None:
        await trio.lowlevel.checkpoint()
        for sink in list(self._holding):
            await sink.wait_room()

    def close(self) -> None:
        """What is staged with readers is theirs to discard."""
