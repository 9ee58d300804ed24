"""What a consumer saw, in its order: what `check_delivery()` holds against the exchange's truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from kufeed import Update

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from kufeed import Level, Overflow, QueueStatistics, StreamEvent, Topic, UpdateType


@attrs.frozen
class Claim:
    """What a consumer holds the book of `symbol` to be at `sequence`: as many levels of each side as it says."""

    symbol: str
    sequence: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


@attrs.frozen
class Sighting:
    """One thing that a consumer was handed, or said: when (`trio.current_time()`), and what."""

    at: float
    what: Update | StreamEvent | Exception | Claim


class Witness:
    """What one consumer of one subscription saw. Tell it everything, in order: `saw()` for what was received.

    Where it does not see events (plain iteration), holes are known by `Update.gap_before`. *policies* tell what may be
    missing without a word: updates that `Overflow.LATEST` has conflated. With *changes_only* what says nothing new may.
    With *depth* each view of a book must have so many levels on each side, or all that there are.
    """

    def __init__(
        self,
        name: str = "consumer",
        *,
        policies: Mapping[UpdateType, Overflow] | None = None,
        changes_only: bool = False,
        depth: int | None = None,
    ) -> None:
        self.name = name
        self.policies = {} if policies is None else dict(policies)
        self.changes_only = changes_only
        self.depth = depth
        self.sightings: list[Sighting] = []
        """What it was handed, in order."""
        self.told: list[Sighting] = []
        """Events as the feed put them into the stream, whether the consumer came to them or not; where known."""
        self.spans: dict[Topic, list[tuple[float, float | None]]] = {}
        """When each topic was subscribed to: from its (first) ack until it was left; None while it is not."""
        self.asked_at: dict[Topic, list[float]] = {}
        """When each topic was asked for, where that is known; it may come before the ack."""
        self.statistics: QueueStatistics | None = None
        """The accounts at the end, where they are known."""
        self.links: Collection[str] | None = None
        """The ids (`Session.connect_id`) of its feed's connections, where they are known: others bring it nothing."""
        self.epoch_ns: int | None = None
        """The wall clock of its feed, in ns, when `trio.current_time()` was 0: where it is known and never set, the
        times at which updates were received are judged by it."""
        self.left_at: float | None = None
        """When the subscription was left."""
        self.waiting: tuple[Update, ...] = ()
        """What it had not taken then, though it was there."""

    def asked(self, topics: Iterable[Topic], *, no_more: bool = False) -> None:
        """It asks for *topics* now; or *no_more*: it has not just now."""
        for topic in topics:
            asked = self.asked_at.setdefault(topic, [])
            if not no_more:
                asked.append(trio.current_time())
            elif asked:
                asked.pop()

    def subscribed(self, topics: Iterable[Topic]) -> None:
        """It is subscribed to *topics* from now on."""
        for topic in topics:
            self.spans.setdefault(topic, []).append((trio.current_time(), None))

    def unsubscribed(self, topics: Iterable[Topic]) -> None:
        """It has left *topics*."""
        for topic in topics:
            if spans := self.spans.get(topic):
                spans[-1] = (spans[-1][0], trio.current_time())

    def saw(self, what: Update | StreamEvent | Exception) -> None:
        """It was handed *what*, now; an exception is one that was raised to it in the stream's place."""
        self.sightings.append(Sighting(trio.current_time(), what))

    def claims_book(self, symbol: str, sequence: int, bids: Sequence[Level], asks: Sequence[Level]) -> None:
        """It holds the book of *symbol* to be this at *sequence*: judged like a book that it was handed."""
        self.sightings.append(Sighting(trio.current_time(), Claim(symbol, sequence, tuple(bids), tuple(asks))))

    @property
    def streaming(self) -> tuple[Topic, ...]:
        """The topics that it is subscribed to."""
        return tuple(topic for topic, spans in self.spans.items() if spans[-1][1] is None)

    def has_seen(self, topics: Iterable[Topic], since: float) -> bool:
        """Whether it was handed an update of each of *topics* since then."""
        missing = set(topics)
        for sighting in reversed(self.sightings):
            if sighting.at < since or not missing:
                break
            if isinstance(sighting.what, Update):
                of = sighting.what.topic
                missing = {topic for topic in missing if not (topic == of or topic.covers(of))}
        return not missing

    def heard(self, event: StreamEvent) -> None:
        """*event* was put into its stream, now, whether it comes to it or not."""
        self.told.append(Sighting(trio.current_time(), event))

    def left(self, statistics: QueueStatistics, waiting: Sequence[Update] = ()) -> None:
        """The subscription is over; these are its accounts, and what it has not taken."""
        self.left_at = trio.current_time()
        self.statistics = statistics
        self.waiting = tuple(waiting)
