"""A budget of dials that several processes share through a file. Knows nothing of KuCoin."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from ._limiter import Permit
from .errors import UsageError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

_log = logging.getLogger("kufeed.budget")

_MARK = int.from_bytes(b"kufd", "big")
"""SQLite's `application_id` of such a file: no other database is ever written to."""
_LEASE = 120.0
"""Seconds for which a dial is believed to go on without news of it: its process may have died."""
_LOOK_AGAIN = 0.5
"""Seconds at most between two looks of one who waits: another process does not wake anybody."""


class SharedDialBudget:
    """At most *dials* dials in any *window* seconds, by all processes of this machine that name the same file.

    Pass it to `open_feed(dial_limiter=...)`; made by `DialBudget.shared`. The file is an SQLite database, made where
    there is none, so a process that dies in the middle of a write damages nothing; one that dies while dialling gives
    its place back 120 s later. A dial counts from its end. Within a process it is first come first served; among
    processes who waits looks again twice a second, and whoever looks first is first.

    Time is the machine's monotonic clock, which all processes share and nobody sets. So it may be used in any number
    of runs, one after the other, but not under a virtual clock, nor from several machines. Every process must name the
    same numbers: others raise `UsageError`, as does a file of something else, which is left as it was. A file that is
    held by another for a second raises `BlockingIOError`. Releasing a permit writes to the file: a fraction of a
    millisecond, at most five.
    """

    def __init__(self, path: str | os.PathLike[str], dials: int = 30, window: float = 60.0) -> None:
        if type(dials) is not int or dials < 1:
            raise UsageError(f"dials must be a whole number from 1 up, not {dials!r}")
        if type(window) not in (int, float) or not 0 < window <= 86_400:
            raise UsageError(f"window must be a positive number of seconds, at most a day, not {window!r}")
        self.path = os.path.abspath(path)
        self.dials = dials
        self.window = float(window)
        self._turn = trio.StrictFIFOLock()
        self._process = os.getpid()
        try:
            with self._transaction(patience=1.0, make=True) as file:
                found = file.execute("SELECT dials, window FROM budget").fetchone()
        except BlockingIOError:
            raise
        except OSError as error:
            raise UsageError(f"{self.path} cannot hold a budget: {error}") from error
        if found != (self.dials, self.window):
            raise UsageError(
                f"{self.path} holds a budget of {found[0]} dials in {found[1]:g} s; all must name the same"
            )

    async def acquire(self) -> Permit:
        """Wait for a dial's turn, and take it. A checkpoint, always. Cancelled, it has taken nothing.

        Raises `OSError` where the file has become unusable: it was removed, the disk is full.
        """
        if self._process != os.getpid():  # a fork while somebody waited: nobody of here holds the turn
            self._process, self._turn = os.getpid(), trio.StrictFIFOLock()
        async with self._turn:
            while True:
                attempt = _Attempt()
                try:
                    # In a thread, since a disk may take its time, and left behind when it takes too long.
                    wait = await trio.to_thread.run_sync(self._take, attempt, abandon_on_cancel=True)
                except trio.Cancelled:
                    if attempt.abandon():
                        self._release(attempt.id, unused=True)
                    raise
                if wait is None:
                    return Permit(1, partial(self._release, attempt.id))
                # Not all at once: processes that were started together would go on looking together.
                await trio.sleep(min(wait, _LOOK_AGAIN) * random.uniform(0.9, 1.0))  # noqa: S311  # no secret

    def __repr__(self) -> str:
        return f"<SharedDialBudget {self.path}: {self.dials} per {self.window:g} s>"

    # -- in the file --------------------------------------------------------------------------------------------------

    def _take(self, attempt: _Attempt) -> float | None:
        """None where a dial may begin, which stands in the file then; else how long it may take until one may."""
        try:
            with self._transaction() as file:
                now = time.monotonic()
                # Nothing can be that far ahead but what was written before the machine was started again.
                file.execute(
                    "DELETE FROM dial WHERE free_at <= ? OR free_at > ?", (now, now + _LEASE + self.window + 1.0)
                )
                free_at = [row[0] for row in file.execute("SELECT free_at FROM dial ORDER BY free_at")]
                if len(free_at) >= self.dials:
                    return float(free_at[len(free_at) - self.dials]) - now
                file.execute("INSERT INTO dial VALUES (?, ?)", (attempt.id, now + _LEASE + self.window))
        except BlockingIOError:
            return random.uniform(0.02, 0.05)  # noqa: S311  # no secret
        if attempt.is_abandoned_when_done():
            self._release(attempt.id, unused=True)
        return None

    def _release(self, dial: int, unused: bool) -> None:
        try:
            with self._transaction(patience=0.005) as file:
                file.execute("DELETE FROM dial WHERE id = ?", (dial,))
                if not unused:  # also where its lease had run out
                    file.execute("INSERT INTO dial VALUES (?, ?)", (dial, time.monotonic() + self.window))
        except OSError as error:  # its lease runs out by itself
            _log.warning("%s: a dial's end could not be noted: %s", self.path, error)

    @contextmanager
    def _transaction(self, patience: float = 0.0, *, make: bool = False) -> Iterator[sqlite3.Connection]:
        """What happens inside happens whole and alone among all processes, or not at all. *make* a missing file.

        Raises `BlockingIOError` where somebody else is at it for longer than *patience* seconds, `OSError` where the
        file cannot be used. A connection each time: one may be carried neither across a fork nor between threads.
        """
        import sqlite3  # an optional part of Python

        try:
            address = f"{Path(self.path).as_uri()}?mode={'rwc' if make else 'rw'}"
            with closing(sqlite3.connect(address, uri=True, timeout=patience, isolation_level=None)) as file:
                # After a crash of the whole machine nothing in the file counts any more: no need to wait for the disk.
                file.execute("PRAGMA synchronous = OFF")
                file.execute("BEGIN IMMEDIATE")
                try:
                    self._prepare(file)
                    yield file
                except BaseException:
                    file.execute("ROLLBACK")
                    raise
                file.execute("COMMIT")
        except sqlite3.Error as error:
            busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
            raise (BlockingIOError if busy else OSError)(str(error)) from error

    def _prepare(self, file: sqlite3.Connection) -> None:
        (mark,) = file.execute("PRAGMA application_id").fetchone()
        if mark == _MARK:
            return
        if mark or file.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise OSError("it is a database of something else")
        file.execute(f"PRAGMA application_id = {_MARK}")
        file.execute("CREATE TABLE dial (id INTEGER PRIMARY KEY, free_at REAL NOT NULL)")
        file.execute("CREATE TABLE budget (dials INTEGER NOT NULL, window REAL NOT NULL)")
        file.execute("INSERT INTO budget VALUES (?, ?)", (self.dials, self.window))


class _Attempt:
    """One try to write a dial into the file, by a thread that may be left behind."""

    def __init__(self) -> None:
        # Chosen by chance, so that no number is ever used again: whoever is late frees nobody else's place.
        self.id = random.getrandbits(62)  # no secret
        self._lock = threading.Lock()
        self._done = False
        self._abandoned = False

    def abandon(self) -> bool:
        """Nobody wants it any more; returns whether it is in the file already."""
        with self._lock:
            self._abandoned = True
            return self._done

    def is_abandoned_when_done(self) -> bool:
        with self._lock:
            self._done = True
            return self._abandoned
