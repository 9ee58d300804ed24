"""Where a feed stands, all its connections together: judged from counts, and told in the journal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
import trio

from ._lifecycle import FeedState, Progress, StateChanged
from .errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._journal import Journal

_PROGRESS_EVERY = 0.1
"""Seconds between two tellings of progress."""


@attrs.frozen
class Tally:
    """The topics of a feed, as its connections carry them."""

    total: int
    acked: int
    hopeless: bool
    """Whether every connection that has any has given up for now."""

    @property
    def pending(self) -> bool:
        return self.acked < self.total


class Standing:
    """The state of a feed and its progress. *count* has to be cheap: it is called after each batch of changes.

    Whoever changes what is counted calls `stir()`; `run()` then looks once for all that happened in one pass of the
    scheduler. That is one pass late, but cannot see a change half made.
    """

    def __init__(self, journal: Journal, count: Callable[[], Tally]) -> None:
        self._journal = journal
        self._count = count
        self._closed = False
        self._told = FeedState.IDLE
        self._progress = Tally(0, 0, hopeless=False)
        """What was told last."""
        self._progress_from = -math.inf
        self._progress_due = math.inf
        self._stirred = trio.Event()
        self._changed = trio.Event()

    @property
    def state(self) -> FeedState:
        return FeedState.CLOSED if self._closed else _judge(self._count())

    def stir(self) -> None:
        self._stirred.set()

    def close(self) -> None:
        """The feed is closed. Idempotent."""
        if not self._closed:
            self._closed = True
            self._progress_due = math.inf  # else nothing would move it, and `run()` never rest
            self._tell_state(FeedState.CLOSED)
            self._wake()

    async def run(self) -> None:
        """Tell what changes; until cancelled."""
        while True:
            with trio.move_on_at(self._progress_due):
                await self._stirred.wait()
                self._stirred = trio.Event()
            if not self._closed:
                tally = self._count()
                self._tell_state(_judge(tally))
                self._tell_progress(tally)
                self._wake()

    def _tell_state(self, state: FeedState) -> None:
        if state is not self._told:
            before, self._told = self._told, state
            self._journal.tell(StateChanged(state, before))

    def _tell_progress(self, tally: Tally) -> None:
        last, self._progress_due = self._progress, math.inf
        if (tally.acked, tally.total) == (last.acked, last.total):
            return
        if tally.pending and trio.current_time() < self._progress_from:
            self._progress_due = self._progress_from
            return
        self._progress = tally
        if tally.pending or last.pending:
            self._progress_from = trio.current_time() + _PROGRESS_EVERY
            self._journal.tell(Progress(tally.acked, tally.total))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_change(self) -> None:
        """Return when what is counted has changed, or may have."""
        await self._changed.wait()

    async def wait_state(self, *states: FeedState | str) -> FeedState:
        try:
            wanted = {FeedState(state) for state in states}
        except ValueError as error:
            raise UsageError(f"{error}; there are {', '.join(FeedState)}") from None
        if not wanted:
            raise UsageError(f"wait_state() takes one state or more of {', '.join(FeedState)}")
        await trio.lowlevel.checkpoint()
        while (state := self.state) not in wanted:
            if self._closed:
                raise UsageError("the feed is closed")
            await self.wait_change()
        return state


def _judge(tally: Tally) -> FeedState:
    if tally.total == 0:
        return FeedState.IDLE
    if not tally.pending:
        return FeedState.LIVE
    if tally.acked:
        return FeedState.DEGRADED
    return FeedState.DOWN if tally.hopeless else FeedState.CONNECTING
