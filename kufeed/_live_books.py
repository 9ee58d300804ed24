"""`Feed.books`: the books that are kept, as they stand at each moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, overload

import trio

from .errors import BookNotReady, UsageError
from .protocol.bookview import BookFigures, OrderBook, check_depth
from .protocol.market import UpdateType
from .protocol.topics import topic as make_topic
from .protocol.updates import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._bookkeeper import KeptBook
    from ._books import Books
    from .protocol.market import Topic
    from .protocol.orderbook import BookSync
    from .protocol.sides import BookSide


class _LiveSide(Sequence[Level]):
    """A side of a live book, best first, that cannot be changed. Each read raises as the book does."""

    __slots__ = ("_side",)

    def __init__(self, side: Callable[[], BookSide]) -> None:
        self._side = side

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

    def _kept(self, depth: int = 1) -> KeptBook:
        book = self._books.find(self._topic, depth)
        if book is None:
            raise BookNotReady(self.symbol, "no subscription keeps it")
        return book

    def _read(self, depth: int = 1) -> BookSync:
        sync = self._kept(depth).sync
        sync.check_readable(depth)
        return sync

    @property
    def is_ready(self) -> bool:
        """Whether it can be read now."""
        book = self._books.find(self._topic, 1)
        return book is not None and book.sync.is_readable(1)

    async def wait_ready(self) -> None:
        """Return when it can be read; raise `BookNotReady` where no subscription keeps it, or none any more.

        A checkpoint in any case.
        """
        await trio.lowlevel.checkpoint()
        while not self._kept().sync.is_readable(1):
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
        """All that is known, best first: the whole side, or of a spot book that the public gets what its seed covers.

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

    def _sides(self) -> tuple[BookSide, BookSide]:
        sync = self._read()
        return sync.bids, sync.asks

    def _is_whole(self, side: Sequence[Level]) -> bool:
        return getattr(side, "floor", None) is None

    def __repr__(self) -> str:
        book = self._books.find(self._topic, 1)
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
        if self._books.find(wanted, 1) is None:
            raise KeyError(symbol)
        return LiveBook(wanted, self._books)

    def __iter__(self) -> Iterator[str]:
        return iter(self._books.symbols())

    def __len__(self) -> int:
        return len(tuple(self._books.symbols()))

    def __repr__(self) -> str:
        return f"<LiveBooks {', '.join(self)}>"
