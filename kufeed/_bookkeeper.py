"""From the changes of books to views of them: a sink for the one, and a source for other sinks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import attrs
import trio

from .errors import ConnectionFailed, SubscriptionTimeout
from .protocol.events import Disconnected, Gap, GapCause, Restored, Resynced, Stale, StreamEnd, StreamEvent
from .protocol.orderbook import BookEvent, BookSync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._channels import Sink
    from .errors import ExchangeError, SubscriptionRejected
    from .protocol.bookview import OrderBook
    from .protocol.market import Topic
    from .protocol.updates import Update

_log = logging.getLogger("kufeed.books")

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
    """Snapshots that did not fit: too old, no book, or ahead of changes that never came."""
    failed: int
    """Snapshots that could not be had."""
    audits: int
    """Times that it was found equal to a snapshot (`FeedConfig.book_audit_every`)."""
    audits_missed: int
    """Times that it could not be compared: no snapshot came, it did not fit, or the book began anew meanwhile."""


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
    cut_off: bool = False
    """It was told that the connection is lost, and not yet that it is back."""

    def flush(self) -> None:
        """Have what was staged enter its buffer: what is told next comes after it.

        Where the link waits for room no change is applied before, so what has none yet is of other books.
        """
        if not self.sink.hand_over() and not self.sink.blocks:
            self.sink.force()


@attrs.define(eq=False)
class KeptBook:
    """One book and its readers."""

    sync: BookSync
    stir: Callable[[], None]
    """To be called when it may have become readable, or is kept no more."""
    readers: dict[Sink, Reader] = attrs.field(factory=dict)
    syncing: trio.CancelScope | None = None
    """Of the task that fetches snapshots for it, while there is one."""
    breaks: int = 0
    unfit: int = 0
    failed: int = 0
    refused: ExchangeError | None = None
    """Why it has no snapshot, where asking again does not mend that."""
    audits_when_warned: int | None = None
    """How often it had been found right when it was last said that it cannot be audited."""

    def statistics(self) -> BookStatistics:
        sync = self.sync
        return BookStatistics(
            symbol=sync.topic.symbol,
            state=sync.state.value,
            sequence=sync.sequence,
            levels=len(sync.bids) + len(sync.asks),
            breaks=self.breaks,
            seeds=sync.seeds,
            unfit=self.unfit + sync.held_in_vain,
            failed=self.failed,
            audits=sync.audits,
            audits_missed=sync.audits_missed,
        )

    def warn_of_audit(self, why: object) -> None:
        """Say that it could not be audited: once, until it was found right again."""
        if self.audits_when_warned != self.sync.audits:
            self.audits_when_warned = self.sync.audits
            _log.warning("the book of %s cannot be audited: %s", self.sync.topic.symbol, why)


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
        self._behind: list[Sink] | None = None  # of those, which have not taken what waited; None where nobody looked

    # -- changes ------------------------------------------------------------------------------------------------------

    def stage_after(self, gap: Gap, update: Update) -> None:
        self.staged.append(update)  # that something is missing is seen by its number

    def hand_over(self) -> bool:
        """Apply what is staged; under `Overflow.BLOCK` one change after the other, as there is room for its view."""
        deltas = self.staged.copy()
        self.staged.clear()
        heard: dict[KeptBook, bool] = {}  # and whether it has changed, and stayed live
        for position, delta in enumerate(deltas):
            if self.blocks and not self._pass_on():
                self.staged[:0] = deltas[position:]
                break
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
            if changed:
                book.stir()
                if not self.blocks:
                    self.show(book)
            self.care_for(book)
        return self._pass_on() and not self.staged

    def care_for(self, book: KeptBook) -> None:
        """See to it that *book* gets the snapshot that it wants."""
        if book.readers and book.syncing is None and book.sync.wants_snapshot():
            self._on_want(self, book)

    # What hands over to an inline handler calls a function of the user's, which may remove readers and books: hence the
    # copies.

    def show(self, book: KeptBook) -> None:
        """Stage the book as it stands for each reader who can see it that deep; tell the others that they cannot."""
        views: dict[int, OrderBook] = {}
        for reader in tuple(book.readers.values()):
            self._show(book.sync, reader, views)

    def _show(self, sync: BookSync, reader: Reader, views: dict[int, OrderBook]) -> None:
        """*views* has those of this moment that were made for others, by depth."""
        view = views.get(reader.depth)
        if view is None and not sync.is_readable(reader.depth):
            self._darken(reader, GapCause.BOOK, None)
            return
        if reader.dark_since is None and reader.last is not None and reader.last.sequence == sync.sequence:
            return  # a seed that brought nothing that it has not seen
        if view is None or view.sequence != sync.sequence:
            view = views[reader.depth] = sync.view(reader.depth)
        if reader.dark_since is not None:
            self._lighten(reader, view)
        elif reader.last is None:
            reader.sink.complete(view.topic, view.time_ns)  # it may have left while the book was dark, and come back
        reader.last = view
        reader.sink.staged.append(view)
        self._holding[reader.sink] = None

    def welcome(self, topic: Topic, sink: Sink) -> None:
        """Show a new reader the book that others have already, or why nobody has it."""
        book = self.books.get(topic)
        if book is None or sink not in book.readers:
            return
        reader = book.readers[sink]
        if book.refused is not None and not book.sync.is_readable(reader.depth):
            sink.fail(book.refused)
        if book.sync.is_readable(reader.depth):
            self._show(book.sync, reader, {})
            reader.flush()
        self.care_for(book)  # it may read deeper than the others

    def broke(self, book: KeptBook, event: BookEvent) -> None:
        """A live book is none any more, because of *event*."""
        book.breaks += 1
        level = logging.ERROR if event is BookEvent.DIFFERS else logging.INFO
        _log.log(level, "the book of %s begins anew: %s", book.sync.topic.symbol, event)
        for reader in tuple(book.readers.values()):
            self._darken(reader, _CAUSE.get(event, GapCause.BOOK), book.sync.missing)

    def _darken(self, reader: Reader, cause: GapCause, missing: tuple[int, int] | None) -> None:
        if reader.last is None or reader.dark_since is not None:
            return
        reader.dark_since = trio.current_time()
        reader.gap_told = True
        first, last = missing or (None, None)
        reader.flush()
        reader.sink.tell(Gap(reader.last.topic, cause, first, last, reader.last.time_ns, None))

    def _lighten(self, reader: Reader, view: OrderBook) -> None:
        assert reader.last is not None
        assert reader.dark_since is not None
        dark_since, reader.dark_since = reader.dark_since, None
        reader.flush()
        if reader.gap_told:
            reader.sink.complete(view.topic, view.time_ns)
        else:
            since, until = reader.last.time_ns, view.time_ns
            reader.sink.tell(Gap(view.topic, GapCause.RECONNECT, None, None, since, until))
        reader.sink.tell(Resynced(view.topic, trio.current_time() - dark_since))

    # -- what else happens to the stream ------------------------------------------------------------------------------

    def acked(self, topic: Topic) -> None:
        book = self.books.get(topic)
        if book is not None:
            book.sync.subscribed()
            self.care_for(book)
            for sink in tuple(book.readers):
                sink.acked(topic)

    def tell(self, event: StreamEvent) -> None:
        """A lost connection ends what is known; holes are seen by their numbers, so being told of them is nothing."""
        if not isinstance(event, Disconnected | Restored | Stale):
            return
        book = self.books.get(event.topic)
        if book is None:
            return
        if isinstance(event, Stale):
            for reader in tuple(book.readers.values()):
                reader.flush()
                reader.sink.tell(event)
            return
        if isinstance(event, Disconnected):
            self._lost(book)
        for reader in tuple(book.readers.values()):
            if reader.cut_off or isinstance(event, Disconnected):
                reader.flush()
                reader.sink.tell(event)
                reader.cut_off = isinstance(event, Disconnected)

    def complete(self, topic: Topic, until_ns: int) -> None:
        """Nothing, as being told of holes is."""

    def _lost(self, book: KeptBook) -> None:
        book.sync.lost()
        if book.syncing is not None:
            book.syncing.cancel()
        for reader in book.readers.values():
            if reader.last is not None and reader.dark_since is None:
                reader.dark_since = trio.current_time()
                reader.gap_told = False

    def fail(self, error: Exception) -> None:
        """Have *error* raised to each reader of a book that it names, once, and naming only what that one reads."""
        by_sink: dict[Sink, list[str]] = {}
        for topic, book in self.books.items():
            if topic.wire in getattr(error, "topics", (topic.wire,)):
                for sink in book.readers:
                    by_sink.setdefault(sink, []).append(topic.wire)
        for sink, wires in by_sink.items():
            sink.fail(_about(error, wires))

    def refuse(self, topics: Iterable[Topic], error: SubscriptionRejected) -> None:
        """The books of *topics* are kept no more; each of their readers is told."""
        for topic in topics:
            if topic in self.books:
                for sink in tuple(self.forget(topic).readers):
                    sink.refuse([topic], error)

    def fail_book(self, book: KeptBook, error: Exception) -> None:
        """Have *error* raised to all who read *book*, at this place in their streams."""
        for sink in tuple(book.readers):
            sink.fail(error)

    def end(self, event: StreamEnd) -> None:
        if event.topic not in self.books:
            return
        for reader in tuple(self.forget(event.topic).readers.values()):
            reader.flush()
            reader.sink.end(event)

    def forget(self, topic: Topic) -> KeptBook:
        """Keep the book of *topic* no more."""
        book = self.books.pop(topic)
        book.sync.lost()
        if book.syncing is not None:
            book.syncing.cancel()
        book.stir()
        return book

    # -- room: that of the readers ------------------------------------------------------------------------------------

    def _pass_on(self) -> bool:
        for sink in tuple(self._holding):
            if sink.hand_over():
                self._holding.pop(sink, None)
        return not self._holding

    def has_staged(self) -> bool:
        return bool(self.staged) or any(sink.has_staged() for sink in self._holding)

    def backlog(self) -> tuple[tuple[Sink, object], ...]:
        return tuple((sink, sink.backlog()) for sink in self._holding)

    def has_taken(self, backlog: Any) -> bool:
        self._behind = [sink for sink, mark in backlog if not sink.has_taken(mark)]
        return not self._behind

    def force(self) -> None:
        """Have those who are behind take all; those who keep up lose nothing by their company."""
        behind, self._behind = self._behind, None
        if behind and not self.blocks:
            for sink in behind:
                sink.force()
            return
        while not self.hand_over():
            for sink in tuple(self._holding):
                sink.force()

    def slow(self) -> None:
        for sink in self._holding:
            sink.slow()

    async def wait_room(self) -> None:
        await trio.lowlevel.checkpoint()
        for sink in list(self._holding):
            await sink.wait_room()

    def close(self) -> None:
        """What is staged with readers is theirs to discard."""


def _about(error: Exception, wires: list[str]) -> Exception:
    """*error* as it is to who has only *wires* of what it names."""
    match error:
        case ConnectionFailed():
            return ConnectionFailed(wires, error.cause)
        case SubscriptionTimeout():
            return SubscriptionTimeout(wires, error.seconds)
    return error
