"""What happens to a stream between its updates: holes, losses, silence, and their ends.

Each is a frozen record. `Subscription.with_events()` yields them at their place among the updates.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from .market import Topic


class GapCause(StrEnum):
    """Why updates are missing."""

    RECONNECT = "reconnect"
    """The connection was lost; the exchange replays nothing."""
    SEQUENCE = "sequence"
    """The exchange's own numbers have a hole, or begin anew; or what came was too late for its place."""
    OVERFLOW = "overflow"
    """The consumer was slower than the wire, and its buffer full."""
    BOOK = "book"
    """The book contradicted itself, or a snapshot, or was not known deep enough: it is begun anew."""


@attrs.frozen
class StreamEvent:
    """The base of all events, for `isinstance`."""


@attrs.frozen
class Gap(StreamEvent):
    """Updates of `topic` are missing here, or may be: no more is known than what stands in the other fields.

    It stands before the first update of the topic after the hole, which carries it as `Update.gap_before`; there may be
    some of other topics between.
    """

    topic: Topic
    cause: GapCause
    first_missing: int | None
    """Sequence of the first missing update, where the channel is numbered without holes; else None."""
    last_missing: int | None
    """Sequence of the last one."""
    since_ns: int | None
    """No update before this is missing: exchange time (or receipt, where the message has none) in ns since the epoch.

    None where nothing was received before.
    """
    until_ns: int | None
    """No update after this is missing."""

    def joined(self, other: Gap) -> Gap:
        """One gap in place of this one and *other*, with no update of the topic between; the cause is the first's."""
        first = other if self.since_ns is not None and (other.since_ns or 0) < self.since_ns else self
        numbers = (self.first_missing, self.last_missing, other.first_missing, other.last_missing)
        known = [number for number in numbers if number is not None]
        ends = [end for end in (self.until_ns, other.until_ns) if end is not None]
        return Gap(
            self.topic,
            first.cause,
            min(known) if len(known) == 4 else None,
            max(known) if len(known) == 4 else None,
            first.since_ns,
            max(ends, default=None),
        )


@attrs.frozen
class Dropped(StreamEvent):
    """So many updates of `topic` were thrown away because this subscription's buffer was full."""

    topic: Topic
    count: int
    gap: Gap
    """What is missing; the next update of the topic has it as `gap_before`."""


@attrs.frozen
class Disconnected(StreamEvent):
    """The connection of `topic` was lost. What is missed until `Restored` is told by a `Gap` before the next update."""

    topic: Topic
    cause: Exception


@attrs.frozen
class Restored(StreamEvent):
    """The exchange streams `topic` again, `duration` seconds after its connection was lost."""

    topic: Topic
    duration: float


@attrs.frozen
class Stale(StreamEvent):
    """`topic` has been silent for `silent_for` seconds, longer than is likely for it."""

    topic: Topic
    silent_for: float


@attrs.frozen
class Resynced(StreamEvent):
    """The order book of `topic` was out of step with the exchange's, and is right again after `duration` seconds."""

    topic: Topic
    duration: float


@attrs.frozen
class SlowConsumer(StreamEvent):
    """This subscription's consumer does not keep up with the wire: told once when it begins and once when it ends.

    It begins when the buffer is full and ends when the consumer has emptied it.
    """

    ended: bool
    duration: float
    """Seconds it has lasted; 0.0 where it begins."""
    lost: int
    """Updates that were thrown away meanwhile; 0 where it begins."""
