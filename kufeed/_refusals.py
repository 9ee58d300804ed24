"""Messages that are not what they should be: counted by cause, with a sample each, and shown to who asks for it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from ._untrusted import printable
from .protocol.fields import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from .errors import MessageRefused

_log = logging.getLogger("kufeed.validation")

_LONGEST_TEXT = 1000
"""Characters of the exchange's that are looked at: *hide* would search four million for a second."""
_LINES = 20
_PERIOD = 60.0
"""Seconds in which at most `_LINES` refused messages are shown: who may send garbage may send much of it."""


@attrs.define
class Refusals:
    """What arrived and was not delivered to anybody, counted by cause; at most one sample of each.

    A cause is a name from our own tables, never text of the exchange's, so there is a bounded number of them.
    """

    causes: Counter[str] = attrs.field(factory=Counter)
    samples: dict[str, str] = attrs.field(factory=dict)
    unwanted: int = 0
    """Valid frames for topics or subjects that nobody here asked for, as after an unsubscribe."""
    duplicates: int = 0
    """Valid updates that had been delivered already, or were older states than what had been."""
    disordered: int = 0
    """Valid updates that came after later ones, and were not delivered."""
    perf_counter: Callable[[], float] = attrs.field(default=time.perf_counter, eq=False, kw_only=True)
    _until: float = attrs.field(default=float("-inf"), init=False, eq=False)
    _lines: int = attrs.field(default=0, init=False, eq=False)
    _left_out: int = attrs.field(default=0, init=False, eq=False)

    def add(self, refusal: MessageRefused, frame: object = None, hide: Callable[[str], str] = str) -> None:
        """Count *refusal* of *frame*, which is None where it could not be read.

        *hide* takes what the exchange sent, and gives what may be kept of it and shown.
        """
        self.causes[refusal.cause] += 1
        if refusal.cause not in self.samples:
            self.samples[refusal.cause] = printable(hide(str(refusal)))
        if _log.isEnabledFor(logging.DEBUG) and self._may_show():
            topic, subject = (_text(frame, name, hide) for name in ("topic", "subject"))
            _log.debug("refused, topic %s, subject %s: %s", topic, subject, printable(hide(str(refusal))))

    def _may_show(self) -> bool:
        now = self.perf_counter()
        if now >= self._until:
            if self._left_out:
                _log.debug("%d more were refused, and not shown", self._left_out)
            self._until, self._lines, self._left_out = now + _PERIOD, 0, 0
        if self._lines == _LINES:
            self._left_out += 1
            return False
        self._lines += 1
        return True


def _text(frame: object, name: str, hide: Callable[[str], str]) -> str:
    value = frame.get(name) if isinstance(frame, dict) else None
    return printable(hide(value[:_LONGEST_TEXT])) if isinstance(value, str) else shown(value)
