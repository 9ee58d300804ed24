"""Which of the instance servers of a token reply a line dials next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ._rest import Server


class ServerChoice:
    """Of one line. Remembers where dialling failed since it had a link, and where that was lost.

    *offset* is where it begins in the list, so that connections spread over all; *shunned* is a server that is about to
    close.
    """

    def __init__(self, offset: int, shunned: str | None = None) -> None:
        self._offset = offset
        self._shunned = shunned
        self._failed: dict[str, None] = {}  # the one that did so last is the last
        self._lost: str | None = None

    def choose(self, servers: Sequence[Server], taken: Collection[str]) -> Server:
        """The next of *servers*; rather none of those that are *taken*, whose loss would cost two links at once.

        Those that did not answer come last, the latest of them at the end: where servers are dead the next dial goes
        elsewhere, be it where another link is. One whose link was lost comes after those where nothing is.
        """
        failed = list(self._failed)

        def weighed(index: int) -> tuple[int, bool, bool, bool, int]:
            name = servers[index].endpoint.authority
            place = (index - self._offset) % len(servers)
            failures = failed.index(name) + 1 if name in self._failed else 0
            return failures, name == self._shunned, name in taken, name == self._lost, place

        return servers[min(range(len(servers)), key=weighed)]

    def failed(self, name: str | None) -> None:
        """It could not be dialled; None where that was not even tried."""
        if name is not None:
            self._failed.pop(name, None)
            self._failed[name] = None

    def lost(self, name: str | None) -> None:
        """A link to it was lost."""
        self._lost = name

    def up(self) -> None:
        """A link was made."""
        self._failed.clear()
        self._lost = self._shunned = None
