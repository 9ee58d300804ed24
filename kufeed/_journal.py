"""Who wants to know what happens to a feed gets it in order, through a buffer that has a bound."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ._lifecycle import FeedEvent


class Journal:
    """Told of events by whoever owns them; `tell()` never waits and never raises. *on_tell* must not either."""

    def __init__(self, on_tell: Callable[[], None] | None = None) -> None:
        # Weak: a reader that its owner has dropped costs nothing any more, closed or not.
        self._readers: weakref.WeakSet[FeedEvents] = weakref.WeakSet()
        self._on_tell = on_tell

    def tell(self, event: FeedEvent) -> None:
        for reader in self._readers:
            reader._put(event)  # noqa: SLF001  # one subject, two classes
        if self._on_tell is not None:
            self._on_tell()

    def open(self, bound: int = 1000) -> FeedEvents:
        reader = FeedEvents(self, bound)
        self._readers.add(reader)
        return reader

    def close(self) -> None:
        """Every reader comes to its end once it has taken what waits. Idempotent."""
        for reader in tuple(self._readers):
            reader._end()  # noqa: SLF001

    def forget(self, reader: FeedEvents) -> None:
        self._readers.discard(reader)


class FeedEvents:
    """What `Feed.events()` returns: an async iterator of `FeedEvent`, in order, from when it was made.

    It ends once the feed is closed and what waits was taken. Each step can be cancelled, and a cancelled step has lost
    nothing. Where several tasks iterate over one, each event goes to one of them.

    At most *buffer* events wait; then the oldest go, and `missed` counts them. ``with feed.events() as events:`` closes
    it, as `close()` does; one that nobody refers to any more need not be closed.
    """

    def __init__(self, journal: Journal, bound: int) -> None:
        self.missed = 0
        """Events that went because nobody had come for them."""
        self.closed = False
        """Whether it was closed by `close()`."""
        self._journal = journal
        self._waiting: deque[FeedEvent] = deque()
        self._bound = bound
        self._ended = False
        self._stirred = trio.Event()

    def close(self) -> None:
        """Take no more events, and discard what waits. Idempotent, never waits."""
        self.closed = True
        self._waiting.clear()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FeedEvent:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def receive(self) -> FeedEvent:
        """The next event.

        Raises `trio.EndOfChannel` once the feed is closed, and `trio.ClosedResourceError` after `close()`. A
        checkpoint, always. Cancelled, it has taken nothing.
        """
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                await self._stirred.wait()

    def receive_nowait(self) -> FeedEvent:
        """The next event, or `trio.WouldBlock` where none is waiting; otherwise raises as `receive()` does."""
        if self.closed:
            raise trio.ClosedResourceError("these events were closed")
        if self._waiting:
            return self._waiting.popleft()
        raise trio.EndOfChannel if self._ended else trio.WouldBlock

    def __repr__(self) -> str:
        state = "closed" if self.closed else "ended" if self._ended else "open"
        return f"<FeedEvents {state}: {len(self._waiting)} waiting, {self.missed} missed>"

    def _put(self, event: FeedEvent) -> None:
        if len(self._waiting) >= self._bound:
            self._waiting.popleft()
            self.missed += 1
        self._waiting.append(event)
        self._stir()

    def _end(self) -> None:
        self._ended = True
        self._journal.forget(self)
        self._stir()

    def _stir(self) -> None:
        self._stirred.set()
        self._stirred = trio.Event()
