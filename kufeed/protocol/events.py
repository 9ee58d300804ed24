"""What happens to a stream between its updates: holes, losses, silence, and their ends.

Each is a frozen record. `Subscription.with_events()` yields them at their place among the updates.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from ..errors import SubscriptionRejected
    from .market import Topic


class GapCause(StrEnum):
    """Why updates are missing."""

    RECONNECT = "reconnect"
    """The connection was lost; the exchange replays nothing."""
    SEQUENCE = "sequence"
    """The exchange's own numbers have a hole, or begin anew; or what came was too late for its place."""
    OVERFLOW = "overflow"
    """The consumer was slower than the wire, and its buffer full."""
    STALE = "stale"
    """The stream was silent while the exchange moved on, until it was asked for anew (`Stale`). Or another kind was
    that shares its wire topic: asking for that one anew costs this one what comes meanwhile."""
    BOOK = "book"
    """The book contradicted itself, or a snapshot, or was not known deep enough: it is begun anew."""


class GapFill(StrEnum):
    """How far a hole among trades was filled from the exchange's history (``feed.trades(..., backfill=True)``)."""

    FILLED = "filled"
    """Nothing is missing: the trades that follow it are all there were."""
    PARTLY = "partly"
    """Some trades were recovered; others may be missing between the gap's times."""
    UNKNOWN = "unknown"
    """None could be recovered: the history could not be had, or says nothing of the hole."""


_CLAIMS = (GapFill.FILLED, GapFill.PARTLY, GapFill.UNKNOWN, None)
"""Each says less than the one before it."""


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
    """No update after this is missing.

    None where that is not known yet: the gap of an order book is told at once, and ends at the next view, whose
    `gap_before` says so.
    """
    filled: GapFill | None = None
    """What came of filling it, where somebody tried. Of one that is `filled`, the times tell where it was."""

    def joined(self, other: Gap) -> Gap:
        """One gap in place of this one and *other*, with no update of the topic between; the cause is the first's.

        It is filled as far as both are.
        """
        first = other if self.since_ns is not None and (other.since_ns or 0) < self.since_ns else self
        numbers = (self.first_missing, self.last_missing, other.first_missing, other.last_missing)
        known = [number for number in numbers if number is not None]
        # One that goes on is as long as any.
        until = None if self.until_ns is None or other.until_ns is None else max(self.until_ns, other.until_ns)
        return Gap(
            self.topic,
            first.cause,
            min(known) if len(known) == 4 else None,
            max(known) if len(known) == 4 else None,
            first.since_ns,
            until,
            max(self.filled, other.filled, key=_CLAIMS.index),
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
class Refused(StreamEvent):
    """The exchange refused `topic`, so that nothing of it comes any more; told in place of an error, where that was
    chosen (`SubscriptionOptions.on_reject`)."""

    topic: Topic
    cause: SubscriptionRejected


@attrs.frozen
class Stale(StreamEvent):
    """`topic` has been silent for `silent_for` seconds, and the exchange has something newer, or owes it by the clock.

    Told once; the next update of the topic ends it, and has a `Gap` before it. It is asked for anew meanwhile.
    """

    topic: Topic
    silent_for: float


@attrs.frozen
class StreamEnd(StreamEvent):
    """The base of what ends a stream: `topic` has been unsubscribed from, and nothing of it comes any more."""

    topic: Topic


@attrs.frozen
class Halted(StreamEnd):
    """`topic` was silent, and the exchange says that its symbol is not traded: `status`, as `SymbolStatus` has it."""

    status: str


@attrs.frozen
class Delisted(StreamEnd):
    """`topic` was silent, and the exchange lists its symbol no more."""


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
