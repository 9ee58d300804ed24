"""What the exchange published, read by kufeed's own decoders, and found again for what a consumer saw."""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import attrs

from kufeed import FeedConfig, MessageRefused, UpdateType
from kufeed.protocol import MergeKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from kufeed import Gap, Topic, Update
    from kufeed.testing.truth import Publication, Truth

EVENTS = (UpdateType.TRADE, UpdateType.ANNOUNCEMENT)
"""Kinds of which each update counts; others are states."""
_loads = FeedConfig().loads
_UNREADABLE = (MessageRefused, KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


@attrs.define(eq=False)
class Reading:
    """A publication as an update of one topic."""

    publication: Publication
    update: Any
    backward: bool
    """Whether its number or time is not above all before it: numbered anew, a clock set back, or said again."""
    dated_back: bool
    """Whether its time is before that of one before it: on another connection it may be of an old numbering."""
    number: int
    """Its place among the readings of its topic."""

    def lies_in(self, gap: Gap) -> bool:
        """Whether *gap* says that this may be missing."""
        update = self.update
        if gap.first_missing is not None and gap.last_missing is not None:
            first = getattr(update, "first_sequence", update.sequence)
            return bool(gap.first_missing <= update.sequence and first <= gap.last_missing)
        time = update.exchange_time_ns
        if time is None:
            return True
        return (gap.since_ns is None or gap.since_ns <= time) and (gap.until_ns is None or time <= gap.until_ns)


class Readings:
    """All publications of one topic that a client can read, in order."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.all: list[Reading] = []
        self.unsteady_until = -1
        """The number of the last at which numbers or times went back: up to there a gap's bounds say little."""
        self._by_key: dict[tuple[int | None, int | None], list[Reading]] = {}
        self._highest = -1
        self._latest_ns = 0

    @property
    def goes_backward(self) -> bool:
        """Whether numbers or times ever went back."""
        return self.unsteady_until >= 0

    @property
    def is_contiguous(self) -> bool:
        """Whether its numbers prove a hole."""
        return self.topic.channel.merge_key is MergeKey.CONTIGUOUS

    def add(self, publication: Publication, update: Any) -> None:
        """*update* is what the next publication says."""
        by_time = self.topic.channel.merge_key is MergeKey.TIME
        order = update.exchange_time_ns if by_time else update.sequence
        backward = order is not None and order <= self._highest and not self._is_tie(update, order)
        if not backward and order is not None:
            self._highest = order
        time = update.exchange_time_ns or 0
        dated_back = 0 < time < self._latest_ns
        # Numbers go on from where they were set; who looks at the time waits until it is where it was.
        went_back = backward and (by_time or order <= self.all[-1].update.sequence)
        if went_back or time < self._latest_ns:
            self.unsteady_until = len(self.all)
        self._latest_ns = max(time, self._latest_ns)
        reading = Reading(publication, update, backward, dated_back, len(self.all))
        self.all.append(reading)
        self._by_key.setdefault((update.sequence, update.exchange_time_ns), []).append(reading)

    def _is_tie(self, update: Any, order: int) -> bool:
        """Whether it says something new at the number or time of the last: a ticker has its book's."""
        return order == self._highest and not any(
            said(one.update) == said(update) for one in self._by_key.get((update.sequence, update.exchange_time_ns), ())
        )

    def find(self, update: Update, after: int) -> Reading | None:
        """The publication that *update* is: of several that say the same, the first one behind number *after*."""
        same = self.alike(update)
        return next((one for one in same if one.number > after), same[0] if same else None)

    def alike(self, update: Update) -> list[Reading]:
        """Every publication that *update* may be."""
        candidates = self._by_key.get((update.sequence, update.exchange_time_ns), ())
        same = [one for one in candidates if said(one.update) == said(update)]
        # Perhaps it is of a feed with `numbers=float`.
        return same or [one for one in candidates if _as_floats(one) == said(update)]


def read_all(truth: Truth, topic: Topic) -> dict[Topic, Readings]:
    """What was published for *topic*: by the topic of the updates, which differ where it is the one of all symbols."""
    channel = topic.channel
    decode: Callable[..., Any] = channel.decoders[Decimal]
    found = {} if channel.symbol_in_subject else {topic: Readings(topic)}
    for publication in truth.published.get(wire_of(topic), ()):
        try:
            frame = _loads(publication.text.encode())
            if channel.subjects and frame["subject"] not in channel.subjects:
                continue
            update = decode(frame, topic, 0)
        except _UNREADABLE:
            continue
        readings = found.get(update.topic)
        if readings is None:
            readings = found[update.topic] = Readings(update.topic)
        readings.add(publication, update)
    return found


def wire_of(topic: Topic) -> str:
    """The wire topic on which updates of *topic* come."""
    return str(topic.channel) if topic.channel.symbol_in_subject else topic.wire


def said(update: Update) -> object:
    """All that the exchange said in *update*."""
    return type(update), _fields(type(update), timed=True)(update)  # type: ignore[arg-type]  # mypy looks at the hash of its instances


def content(update: Update) -> object:
    """The same, without its number and time: what `changes_only` compares."""
    return _fields(type(update), timed=False)(update)  # type: ignore[arg-type]  # as above


@cache
def _fields(record: type[Update], *, timed: bool) -> Callable[[Any], object]:
    # That it came on the right topic is how it was found.
    left_out = {"topic", "received_time_ns"} if timed else {"topic", "received_time_ns", "sequence", "exchange_time_ns"}
    return attrgetter(*(field.name for field in attrs.fields(record) if field.eq and field.name not in left_out))


def _as_floats(reading: Reading) -> object:
    topic = reading.update.topic
    return said(topic.channel.decoders[float](_loads(reading.publication.text.encode()), topic, 0))
