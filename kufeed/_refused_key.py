"""What the exchange has against the credentials: how long nothing is signed for it, and who was told."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING
from weakref import WeakSet

import trio

if TYPE_CHECKING:
    from ._channels import Sink
    from .errors import CredentialsRefused

_log = logging.getLogger("kufeed.books")

_PAUSE = 60.0
"""Seconds without a signed request after a refusal: who signs is the same for every book."""


class RefusedKey:
    """A refusal holds for every signed request, but not for ever: it stands for a while, then one tries again.

    The log and each stream are told once, until the key was taken again or the exchange says something else.
    """

    def __init__(self) -> None:
        self.until = -math.inf
        """When the last refusal stands no more."""
        self._error: CredentialsRefused | None = None
        self._told: WeakSet[Sink] = WeakSet()

    def stands(self) -> bool:
        """Whether it is too early to sign again."""
        return trio.current_time() < self.until

    def refuse(self, error: CredentialsRefused) -> None:
        """A signed request met *error*."""
        self.until = trio.current_time() + _PAUSE
        if self._error is None or self._error.code != error.code:
            _log.warning(
                "the credentials are refused: %s; until they are taken spot books are what the public gets", error
            )
            self._told.clear()
        self._error = error

    def accept(self) -> None:
        """A signed request was answered. One that was under way when another was refused says nothing new."""
        if not self.stands():
            self._error = None
            self._told.clear()

    def tell(self, sink: Sink) -> None:
        """Have the refusal raised in the stream of *sink*, unless it was."""
        if self._error is not None and sink not in self._told:
            self._told.add(sink)
            sink.fail(self._error)
