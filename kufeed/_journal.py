"""Who wants to know what happens to a feed gets it in order, through a buffer that has a bound."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from ._lifecycle import FeedEvent


class Journal:
    """Told of events by whoever owns them; `tell()` never waits and never raises."""

    def __init__(self) -> None:
        self._readers: list[JournalReader] = []

    def tell(self, event: FeedEvent) -> None:
        for reader in self._readers:
            reader.put(event)

    def open(self, bound: int = 1000) -> JournalReader:
        reader = JournalReader(self, bound)
        self._readers.append(reader)
        return reader

    def close(self) -> None:
        """Every reader comes to its end once it has taken what waits. Idempotent."""
        for reader in tuple(self._readers):
            reader.close()

    def _forget(self, reader: JournalReader) -> None:
        if reader in self._readers:
            self._readers.remove(reader)


class JournalReader:
    """One who reads the journal, from when it was opened."""

    def __init__(self, journal: Journal, bound: int) -> None:
        self.missed = 0
        self._journal = journal
        self._waiting: deque[FeedEvent] = deque()
        self._bound = bound
        self._closed = False
        self._stirred = trio.Event()

    def put(self, event: FeedEvent) -> None:
        if len(self._waiting) >= self._bound:
            self._waiting.popleft()
            self.missed += 1
        self._waiting.append(event)
        self._stir()

    def close(self) -> None:
        self._closed = True
        self._journal._forget(self)  # noqa: SLF001  # one subject, two classes
        self._stir()

    def _stir(self) -> None:
        self._stirred.set()
        self._stirred = trio.Event()
