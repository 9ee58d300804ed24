"""A gate which tasks pass while it is open and wait at while it is shut."""

from __future__ import annotations

import trio


class Gate:
    """Open at first. `shut()` and `open()` may be called any number of times from any task of the run."""

    def __init__(self) -> None:
        self._opened: trio.Event | None = None

    @property
    def is_open(self) -> bool:
        """Whether `wait_open()` would return at once."""
        return self._opened is None

    def shut(self) -> None:
        """Let nobody pass until `open()`."""
        if self._opened is None:
            self._opened = trio.Event()

    def open(self) -> None:
        """Let everybody pass."""
        if self._opened is not None:
            self._opened.set()
            self._opened = None

    async def wait_open(self) -> None:
        """Return when the gate is open. A checkpoint only where it has to wait: its loops have their own."""
        while self._opened is not None:
            await self._opened.wait()
