"""What the verdicts are found on: the exchange's truth, and what one witness saw, topic by topic."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs

from kufeed import (
    Delisted,
    Disconnected,
    Dropped,
    Gap,
    GapFill,
    Halted,
    OrderBook,
    Overflow,
    Refused,
    StreamEnded,
    SubscriptionRejected,
    Update,
    UpdateType,
)
from kufeed.testing.exchangefaults import SkewClock
from kufeed.testing.linefaults import Garble
from kufeed.testing.readings import EVENTS, Reading, Readings, content, read_all, wire_of
from kufeed.testing.truth import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kufeed import Topic
    from kufeed.testing.truth import Life, Publication, Strike, Truth
    from kufeed.testing.witness import Sighting, Witness

UNDER_WAY = 1.0
"""Seconds that a message may be under way, and what was sent so shortly before a connection ended may be lost."""
_TAKEN = 30.0
"""Seconds in which a consumer has taken what waited, and a book has begun anew, once a connection is gone."""
_EDGE = 1e-6
"""Seconds by which sums of floats may differ that are the same moment."""
KEPT = frozenset({Fate.WITHHELD, Fate.DAMAGED, Fate.LATE, Fate.FULL})


@attrs.define
class Case:
    """One exchange's truth, with the bounds that hold; shared by all witnesses."""

    truth: Truth
    end: float
    """Until when it is judged."""
    notice_within: float
    live_within: float
    calm_since: float
    """When the last fault was over; infinite where none ever is."""
    apart: list[tuple[object, set[str]]] = attrs.field(factory=list)
    """By feed (its `Witness.links`), wire topics that subscriptions may have connections of their own for."""
    watched: list[tuple[object, set[str]]] = attrs.field(factory=list)
    """By feed, the wire topics of each witness."""
    _garbles: list[tuple[float, float, Strike]] | None = None
    _read: dict[Topic, dict[Topic, Readings]] = attrs.field(factory=dict)

    def readings(self, topic: Topic) -> dict[Topic, Readings]:
        """What was published for a topic that can be subscribed to, by the topic of the updates."""
        if topic not in self._read:
            self._read[topic] = read_all(self.truth, topic)
        return self._read[topic]

    def readings_of(self, topic: Topic) -> Readings:
        """What was published of the topic that an update has."""
        whole = attrs.evolve(topic, symbol="all") if topic.is_part else topic
        return self.readings(whole).get(topic) or Readings(topic)

    def was_struck(self, since: float, until: float) -> bool:
        """Whether any fault, or what it has left, may have been felt meanwhile."""
        return any(
            strike.at <= until and since <= felt_until(strike) + self.notice_within for strike in self.truth.strikes
        ) or any(one.since <= until and since <= one.until + self.notice_within for one in self.truth.frozen)

    def was_garbled(self, at: float, life: Life | None = None) -> bool:
        """Whether bytes had been garbled by then on *life*, or on any connection that may still be felt."""
        for since, over, strike in self._garbled():
            if since <= at + 1e-6 and (at <= over if life is None else life.opened_at <= strike.at):
                return True
        return False

    def _garbled(self) -> list[tuple[float, float, Strike]]:
        """When bytes were garbled, and until when somebody may have what they said.

        A book goes on from one connection to the next where their lives overlap; where none is left it begins anew.
        """
        if self._garbles is None:
            self._garbles = []
            for strike in self.truth.strikes:
                if isinstance(strike.fault, Garble):
                    over = strike.at
                    for life in self.truth.lives:
                        if life.opened_at <= over:
                            over = max(over, life.ended_at)
                    self._garbles.append((strike.at, over + _TAKEN, strike))
        return self._garbles

    def is_sure(self, life: Life, publication: Publication, until: float) -> bool:
        """Whether *life* has brought it for certain by then: undisturbed, and it lived on."""
        fate = publication.fates.get(life)
        lived = life.ended_at > publication.at + UNDER_WAY
        whole = not life.tampered_at and not self.truth.was_disturbed(life, until)
        frozen = any(
            one.since <= publication.at + UNDER_WAY and publication.at <= one.until for one in self.truth.frozen
        )
        return fate is Fate.SENT and lived and whole and not frozen and not life.session.has_lagged


def felt_until(strike: Strike) -> float:
    """When it has passed: after a clock was set back, times go over the same ground again."""
    return strike.until + (abs(strike.fault.seconds) if isinstance(strike.fault, SkewClock) else 0.0)


@attrs.define
class Seen:
    """One update in the order of its topic, and the holes that were told since the one before it."""

    at: float
    update: Update
    gaps: list[Gap]
    failed: bool
    """Whether an error about the topic was raised since the one before it."""

    @property
    def has_hole(self) -> bool:
        """Whether anything was told to be missing before it."""
        return self.failed or any(gap.filled is not GapFill.FILLED for gap in self.gaps)


@attrs.define
class Match:
    """An update that was seen, and the publication that it is."""

    seen: Seen
    reading: Reading


class Testimony:
    """What one witness saw, taken apart: updates by topic, and when streams have ended for it."""

    def __init__(self, witness: Witness, case: Case) -> None:
        self.witness = witness
        self.case = case
        self.updates: dict[Topic, list[Seen]] = {}
        self.views: dict[Topic, list[Seen]] = {}
        self.gaps_left: dict[Topic, list[Gap]] = {}
        """Told, and no update of the topic came after."""
        self.delivered = 0
        self.dropped_told = 0
        self.lost_at: dict[str, list[float]] = {}
        """When it was told that a connection is lost, by wire topic."""
        self._ended: dict[str, float] = {}
        self._matches: dict[Topic, list[Match | None]] = {}
        self._spans: dict[Topic, list[tuple[float, float]]] = {}
        self._asked: dict[Topic, list[tuple[float, float | None]]] = {}
        self._unchanged: dict[Topic, set[int]] = {}
        self._failed: set[str] = set()
        for sighting in witness.sightings:
            self._take(sighting)
        for sighting in witness.told:
            self._note_loss(sighting.at, sighting.what)

    def _take(self, sighting: Sighting) -> None:
        what = sighting.what
        match what:
            case Update():
                self._take_update(sighting.at, what)
            case Gap():
                self.gaps_left.setdefault(what.topic, []).append(what)
            case Dropped():
                self.gaps_left.setdefault(what.topic, []).append(what.gap)
                self.dropped_told += what.count
            case Exception():
                self._failed.update(_wires(what))
        self._note_loss(sighting.at, what)

    def _take_update(self, at: float, update: Update) -> None:
        topic = update.topic
        self.delivered += 1
        gaps = self.gaps_left.pop(topic, [])
        if update.gap_before is not None:
            gaps.append(update.gap_before)
        wire = wire_of(topic)
        seen = Seen(at, update, gaps, failed=bool(self._failed & {wire, topic.wire}))
        self._failed -= {topic.wire}
        (self.views if isinstance(update, OrderBook) else self.updates).setdefault(topic, []).append(seen)

    def _note_loss(self, at: float, what: object) -> None:
        if isinstance(what, Disconnected):
            self.lost_at.setdefault(what.topic.wire, []).append(at)
        elif isinstance(what, Halted | Delisted | Refused):
            self._ended.setdefault(what.topic.wire, at)
        elif isinstance(what, StreamEnded | SubscriptionRejected):
            self._ended.setdefault(what.topic, at)
        elif isinstance(what, Exception):
            for wire in _wires(what):
                self.lost_at.setdefault(wire, []).append(at)

    def in_order(self) -> Iterator[Seen]:
        """All updates and views that it saw, by topic."""
        for trails in (self.updates, self.views):
            for trail in trails.values():
                yield from trail

    def is_own(self, life: Life) -> bool:
        """Whether it is a connection of its feed, as far as that is known."""
        links = self.witness.links
        return links is None or life.session.connect_id in links

    def put(self, publication: Publication) -> dict[Life, Fate]:
        """What was done with it on the connections of its feed."""
        fates = publication.fates
        return fates if self.witness.links is None else {life: fates[life] for life in fates if self.is_own(life)}

    def fates(self, publication: Publication) -> set[Fate]:
        """What became of it; what was sent when bytes were garbled is damaged, for all that is known."""
        return {
            Fate.DAMAGED if fate is Fate.SENT and self.case.was_garbled(publication.at, life) else fate
            for life, fate in self.put(publication).items()
        }

    def is_excused(self, reading: Reading, readings: Readings) -> bool:
        """Whether nobody can know that it is missing.

        The exchange itself has kept it from all who held its topic, or sent it behind what is newer; and no number
        tells.
        """
        if readings.is_contiguous:
            return reading.publication.played and reading.backward
        return reading.backward or self.was_kept_back(reading, readings)

    def was_kept_back(self, reading: Reading, readings: Readings) -> bool:
        """Whether the exchange has kept it from all who held its topic, or sent it behind what is newer."""
        fates = self.fates(reading.publication)
        apart = self.is_apart(readings.topic)
        return bool(fates & KEPT if apart else fates and fates <= KEPT)

    def good_lives(self, span: Sequence[Reading], until: float) -> list[Life]:
        """Those connections that have brought all of *span* untouched, and went on until then; it is in order."""
        if not span:
            return []
        first, last = span[0].publication, span[-1].publication
        return [
            life
            for life in self.put(first)
            if life.held_throughout(first.wire, first.at, max(until, last.at + UNDER_WAY))
            and not life.was_tampered_with(first.at, last.at)
            and not self.case.truth.was_disturbed(life, last.at)
            and not life.session.has_lagged
            and all(one.publication.fates.get(life) is Fate.SENT for one in span)
        ]

    def is_apart(self, topic: Topic) -> bool:
        """Whether several subscriptions may have connections of their own for it: whose is whose, nobody knows."""
        return any(wire_of(topic) in apart for links, apart in self.case.apart if links is self.witness.links)

    def sure_life(self, publication: Publication, until: float) -> Life | None:
        """The one connection that has brought it for certain; None where none has, or where there are several."""
        lives = self.put(publication)
        if len(lives) != 1:
            return None
        (life,) = lives
        return life if self.case.is_sure(life, publication, until) else None

    def only_life(self, topic: Topic, since: float, until: float) -> Life | None:
        """The one connection that held *topic* for it at any time between; None where there may have been others.

        Those of another subscription of its feed cannot be told from its own.
        """
        wire, links = wire_of(topic), self.witness.links
        if sum(wire in watched for feed, watched in self.case.watched if feed is links) > 1:
            return None
        held = [
            life
            for life in self.case.truth.lives
            if self.is_own(life) and any(one.since <= until and since <= one.until for one in life.held.get(wire, ()))
        ]
        return held[0] if len(held) == 1 else None

    def has_taken_all(self, topic: Topic, life: Life, by: float) -> bool:
        """Whether it had seen by then what *life* had brought last of *topic*: so nothing waited on that connection."""
        readings = self.case.readings_of(topic)
        brought = [one.number for one in readings.all if one.publication.at <= by and life in one.publication.fates]
        numbers = {match.reading.number for match in self.matches(topic) if match is not None and match.seen.at <= by}
        return not brought or brought[-1] in numbers

    def topics(self) -> Iterator[Topic]:
        """The topics of the updates that it is to see: of those that it subscribed to."""
        for topic in self.witness.spans:
            yield from self.case.readings(topic)

    def matches(self, topic: Topic) -> list[Match | None]:
        """Which publication each update of *topic* is; None where there is no such."""
        if topic not in self._matches:
            readings, last = self.case.readings_of(topic), -1
            found = self._matches[topic] = list[Match | None]()
            for seen in self.updates.get(topic, ()):
                reading = readings.find(seen.update, last)
                found.append(None if reading is None else Match(seen, reading))
                if reading is not None and reading.number > last:
                    last = reading.number
        return self._matches[topic]

    def spans(self, topic: Topic) -> list[tuple[float, float]]:
        """When it was subscribed to *topic*, as an update has it: from (without) and until."""
        if topic not in self._spans:
            self._spans[topic] = self._find_spans(topic)
        return self._spans[topic]

    def gaps(self, topic: Topic) -> list[Gap]:
        """All holes of *topic* that were told."""
        return [*(gap for seen in self.updates.get(topic, ()) for gap in seen.gaps), *self.gaps_left.get(topic, ())]

    def later_gaps(self, topic: Topic, seen: Seen) -> list[Gap]:
        """Holes of *topic* that were told after *seen*."""
        later = [gap for one in self.updates[topic] if one.at >= seen.at and one is not seen for gap in one.gaps]
        return [*later, *self.gaps_left.get(topic, ())]

    def begun(self, topic: Topic, at: float) -> float:
        """When it subscribed to *topic* for the last time before *at*: what came before that it has left.

        What came before an acknowledgement, also one that never came, counts from when it left the topic before.
        """
        spans = self.spans(topic)
        begun = [since for since, _ in spans if since <= at]
        left = [until for _, until in spans if until < at]
        return max(*begun, *left, -math.inf)

    def was_none_of_its(self, publication: Publication, topic: Topic, seen_at: float) -> bool:
        """Whether it had left *topic* when this was published, and has not asked for it anew before it was seen."""
        left: float | None = None
        for since, until in self._asked_for(topic):
            if since <= publication.at:
                until = self.witness.left_at if until is None else until
                left = max(left or 0.0, math.inf if until is None else until)
        if left is None or publication.at <= left + UNDER_WAY:
            return False
        asked = [at for one, times in self.witness.asked_at.items() if one.covers(topic) for at in times]
        asked += [since for since, _ in self._asked_for(topic)]
        return not any(left <= at <= seen_at for at in asked)

    def _find_spans(self, topic: Topic) -> list[tuple[float, float]]:
        left = self.case.end if self.witness.left_at is None else self.witness.left_at
        ended = min(left, self._ended.get(topic.wire, math.inf), self._ended.get(wire_of(topic), math.inf))
        return [(since, min(ended, ended if until is None else until)) for since, until in self._asked_for(topic)]

    def _asked_for(self, topic: Topic) -> list[tuple[float, float | None]]:
        """The same as it was noted, whether the exchange has ended it before or not."""
        if topic not in self._asked:
            spans = self.witness.spans
            self._asked[topic] = [span for one, found in spans.items() if one.covers(topic) for span in found]
        return self._asked[topic]

    def was_to_see(self, reading: Reading, readings: Readings, *, by: float = math.inf) -> bool:
        """Whether it was subscribed when this was published, *by* then, and somebody can know that it is missing."""
        at = reading.publication.at
        # Where no connection held it, it was about to be asked for, or had been left, at this very moment.
        edge = 0.0 if self.put(reading.publication) else _EDGE
        return (
            at <= by
            and any(since + edge < at <= until - edge for since, until in self.spans(readings.topic))
            and not self.is_excused(reading, readings)
            and reading.number not in self.unchanged(readings.topic)
        )

    def unchanged(self, topic: Topic) -> set[int]:
        """By number, what was not seen of *topic* and need not be: where only changes are wanted, it may be none.

        It says the same as what was seen last before it. Under `LATEST` nothing else is what it is compared with; under
        other policies it may be any that came since, and went where there was no room, or was kept back.
        """
        if topic not in self._unchanged:
            self._unchanged[topic] = set(self._find_unchanged(topic)) if self.witness.changes_only else set()
        return self._unchanged[topic]

    def _find_unchanged(self, topic: Topic) -> Iterator[int]:
        numbers = {match.reading.number for match in self.matches(topic) if match is not None}
        conflates = self.policy(topic.kind) is Overflow.LATEST
        known: set[object] = set()
        for reading in self.case.readings_of(topic).all:
            says = content(reading.update)
            if reading.number in numbers:
                known = {says}
            elif says in known:
                yield reading.number
            elif not conflates:
                known.add(says)

    def is_book(self, topic: Topic) -> bool:
        """Whether it reads *topic* as views of a book, and not as changes."""
        reads_changes = topic in self.updates or UpdateType.BOOK_DELTA in self.witness.policies
        return topic in self.views or (topic.kind is UpdateType.BOOK_DELTA and not reads_changes)

    def policy(self, kind: UpdateType) -> Overflow:
        """What may happen to updates of *kind* where it does not keep up."""
        default = Overflow.DROP_OLDEST if kind in EVENTS else Overflow.LATEST
        return self.witness.policies.get(kind, DEFAULT_POLICIES.get(kind, default))


DEFAULT_POLICIES = {UpdateType.CANDLE: Overflow.DROP_OLDEST, UpdateType.BOOK_DELTA: Overflow.RAISE}


def _wires(error: Exception) -> tuple[str, ...]:
    """The wire topics that an error is about."""
    one = getattr(error, "topic", None)
    return tuple(getattr(error, "topics", ())) + ((one,) if isinstance(one, str) else ())
