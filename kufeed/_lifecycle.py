"""What happens to a feed as a whole: its state, and records of what its connections go through. `Feed.events()`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from .errors import LinkError
    from .protocol.market import Topic


class FeedState(StrEnum):
    """What a feed is at, all its connections together."""

    IDLE = "idle"
    """Nothing is subscribed to."""
    CONNECTING = "connecting"
    """Something is subscribed to, and nothing of it is acknowledged yet, or again."""
    LIVE = "live"
    """All that is subscribed to is acknowledged."""
    DEGRADED = "degraded"
    """Some of it is."""
    DOWN = "down"
    """Nothing is, and reconnecting was given up for now: every circuit is open."""
    CLOSED = "closed"


@attrs.frozen
class FeedEvent:
    """The base of all events of a feed, for `isinstance`."""


@attrs.frozen
class StateChanged(FeedEvent):
    """The feed has become `state`."""

    state: FeedState
    before: FeedState


@attrs.frozen
class LinkUp(FeedEvent):
    """A link was made: the exchange has said welcome."""

    connection: int
    """The number of its connection, as in `ConnectionStatistics`."""
    market: str
    host: str
    """Of the instance server."""
    duration: float
    """Seconds from the begin of the dial, when its turn had come."""


@attrs.frozen
class DialFailed(FeedEvent):
    """A link could not be made."""

    connection: int
    market: str
    host: str | None
    """Of the instance server; None where it failed before one was known."""
    cause: LinkError
    duration: float
    """Seconds from the begin of the dial."""
    failures: int
    """In a row."""
    retry_in: float | None
    """Seconds until the next try; None where the circuit opens instead."""


@attrs.frozen
class LinkLost(FeedEvent):
    """A link that was up is lost."""

    connection: int
    market: str
    host: str
    cause: LinkError
    duration: float
    """Seconds that it was up."""
    failures: int
    """In a row."""
    retry_in: float | None
    """Seconds until the next try; None where the circuit opens instead."""


@attrs.frozen
class LinkReplaced(FeedEvent):
    """A link made way for the next one, which was up and acknowledged before: nothing was lost."""

    connection: int
    market: str
    host: str
    """Of the new link's instance server."""
    reason: str
    """`age`, or what the exchange said."""
    duration: float
    """Seconds that the old one was up."""


@attrs.frozen
class Notice(FeedEvent):
    """The exchange sent a frame of type `notice` or `command`, which its documents name and nobody has seen.

    Where it speaks of an end, the link is replaced at once.
    """

    connection: int
    market: str
    text: str
    """Its `data` or `subject`, shortened."""


@attrs.frozen
class ExchangeComplained(FeedEvent):
    """The exchange asked for fewer frames, or sent an error that nothing was waiting for."""

    connection: int
    market: str
    code: int
    """0 where it gave none."""
    message: str
    """Its own words, shortened."""
    pause: float
    """Seconds for which nothing but pings is sent now; 0.0 where it asked for no pause."""


@attrs.frozen
class CircuitOpened(FeedEvent):
    """The attempts of a connection are used up (`FeedConfig.max_reconnect_attempts`), or its trial dial has failed."""

    connection: int
    market: str
    cause: LinkError
    retry_in: float | None
    """Seconds until the trial dial; None where only `Feed.reset()` makes one."""


@attrs.frozen
class ExchangeClosed(FeedEvent):
    """The exchange says that it is closed, or takes only cancellations: asked whenever a circuit opens."""

    market: str
    status: str
    """`close` or `cancelonly` (`GET /api/v1/status`)."""
    message: str
    """The exchange's own words."""


@attrs.frozen
class TopicRefused(FeedEvent):
    """The exchange refused a topic, at the subscribing or when it was asked for again after a reconnect."""

    topic: Topic
    code: int
    message: str


@attrs.frozen
class TopicsUnanswered(FeedEvent):
    """The exchange has neither acknowledged `topics` nor refused them. They are asked for again, where somebody still
    wants them, and told of again only after an acknowledgement."""

    connection: int
    market: str
    topics: tuple[Topic, ...]
    duration: float
    """Seconds since they were asked for: two times `FeedConfig.ack_timeout`."""


@attrs.frozen
class StreamStale(FeedEvent):
    """`topic` is silent while the exchange has something newer, or owes it by the clock; it is asked for anew."""

    topic: Topic
    silent_for: float
    """Seconds, of which the link was up for all."""
    never: bool
    """Whether nothing came since it was subscribed to, since the last outage or since it was asked for anew."""


@attrs.frozen
class StreamRecovered(FeedEvent):
    """Updates of a stale `topic` come again."""

    topic: Topic
    silent_for: float
    """Seconds from its last update, or from its acknowledgement where none had come; give or take ten.

    What came is looked at now and then, never on its way.
    """


@attrs.frozen
class StreamHalted(FeedEvent):
    """The symbol of `topic` is not traded: `status`, as `SymbolStatus` has it. It was unsubscribed from."""

    topic: Topic
    status: str


@attrs.frozen
class StreamDelisted(FeedEvent):
    """The symbol of `topic` is not listed any more. It was unsubscribed from."""

    topic: Topic


@attrs.frozen
class Progress(FeedEvent):
    """So many of all topics are acknowledged."""

    acked: int
    total: int
