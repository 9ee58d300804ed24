"""Standard output that may be a slow pipe, or one that nobody reads any more."""

from __future__ import annotations

import os
import sys
import threading

import trio

_GRACE = 1.0
"""Seconds that a write in progress gets once the command is over."""


class OutputClosed(Exception):
    """Whoever read our output has left, as `head` does."""


class Output:
    """Text to standard output, past `sys.stdout`: written whole, and never holding up the event loop.

    A reader that is slower than the market must not keep pings from going out, so each write happens in a thread. One
    that hangs for ever is abandoned when the command ends; a buffered file would be waited for by the interpreter.
    """

    def __init__(self) -> None:
        self.is_terminal = sys.stdout.isatty()
        self._encoding = sys.stdout.encoding or "utf-8"
        self._turn = trio.Lock()
        self._writing = threading.Lock()
        self._waiting: list[str] = []

    async def write(self, text: str) -> None:
        """Write *text*; several callers take turns. Raises `OutputClosed`. Cancelled, `write_now()` writes it."""
        self._waiting.append(text)
        async with self._turn:
            await trio.to_thread.run_sync(self._write, abandon_on_cancel=True)

    def write_now(self, text: str = "") -> None:
        """Write *text* after what waits, waiting for a slow reader. Raises `OutputClosed`."""
        self._waiting.append(text)
        self._write(_GRACE)

    def _write(self, patience: float = -1) -> None:
        if not self._writing.acquire(timeout=patience):
            return
        try:
            waiting, self._waiting = self._waiting, []
            left = memoryview("".join(waiting).encode(self._encoding, "replace"))
            while left:
                left = left[os.write(sys.stdout.fileno(), left) :]
        except BrokenPipeError:
            raise OutputClosed from None
        finally:
            self._writing.release()


def complain(problem: object) -> None:
    """One line about *problem* on standard error."""
    sys.stderr.write(f"kufeed: {' '.join(str(problem).split())}\n")
    sys.stderr.flush()
