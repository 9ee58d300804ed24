"""What the judge says: offences, and where each was found."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from kufeed import Topic


class Offence(StrEnum):
    """What can be wrong with what a consumer saw, or with how the feed behaved."""

    SILENT_LOSS = "silent loss"
    """Something is missing, and no gap, drop or error says so at its place."""
    PHANTOM = "phantom"
    """Something was seen that the exchange never sent."""
    DUPLICATE = "duplicate"
    """Something was seen twice."""
    DISORDER = "disorder"
    """Something was seen after what came later."""
    FALSE_BOOK = "false book"
    """A book was never like that at its sequence."""
    FALSE_TIME = "false time"
    """An update says that it was received when it cannot have been, or a book has not the time of its sequence."""
    LEAK = "leak"
    """A task or a connection outlived its feed."""
    BROKEN_LIMIT = "broken limit"
    """The exchange had to refuse what was more than it allows."""
    LATE = "late detection"
    """A failure was noticed later than promised."""
    AVOIDABLE_LOSS = "avoidable loss"
    """A hole was declared where nothing was missing, and a connection brought everything untouched all the time."""
    NOT_LIVE = "not live"
    """A stream was not live again within the bound after the last fault."""
    SLOW_CLOSE = "slow close"
    """Leaving took longer than `FeedConfig.close_timeout`, or the program did not end at all."""
    FALSE_ACCOUNTS = "false accounts"
    """The terms of `QueueStatistics` do not add up, or do not agree with what was seen."""


@attrs.frozen
class Finding:
    """One offence: of which topic, when (`trio.current_time()`), and in words."""

    offence: Offence
    text: str
    topic: Topic | None = None
    at: float | None = None

    def __str__(self) -> str:
        return f"{self.offence}{'' if self.at is None else f' at {self.at:.3f}'}: {self.text}"
