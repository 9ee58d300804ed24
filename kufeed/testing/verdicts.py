"""What is wrong with the updates that a witness saw of one topic: one function for each offence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from kufeed import GapCause, GapFill, Overflow
from kufeed.protocol import MergeKey
from kufeed.testing.case import KEPT, UNDER_WAY, felt_until
from kufeed.testing.exchangefaults import Complain, Delist, Halt, IgnoreTopics, MuteTopics, SkewClock, SpoilAcks
from kufeed.testing.findings import Finding, Offence
from kufeed.testing.linefaults import Garble
from kufeed.testing.plainly import misread
from kufeed.testing.readings import EVENTS, wire_of
from kufeed.testing.truth import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kufeed import Gap, Topic
    from kufeed.testing.case import Case, Match, Seen, Testimony
    from kufeed.testing.readings import Reading, Readings
    from kufeed.testing.session import Session

_MAY_MEND = (Complain, Delist, Garble, Halt, IgnoreTopics, MuteTopics, SkewClock, SpoilAcks)
"""Faults for which a feed may rightly ask for a stream anew, or begin it anew, though its connection lives."""
_NOT_OURS = (GapCause.OVERFLOW, GapCause.BOOK)
"""Causes of holes that the consumer has made, or a book."""


@attrs.define
class Hole:
    """Where publications between two updates were not seen; before the first one where there is none before."""

    before: Match | None
    after: Match
    missing: list[Reading]


def judge_updates(testimony: Testimony) -> Iterator[Finding]:
    """Everything that is wrong with the updates of each topic, books apart."""
    for topic, trail in testimony.updates.items():
        readings = testimony.case.readings_of(topic)
        matches = testimony.matches(topic)
        yield from _phantoms(testimony, topic, trail, matches)
        found = [match for match in matches if match is not None]
        in_order = list(_in_order(found))
        yield from _repeated_or_late(testimony, topic, readings, found)
        for hole in _holes(readings, in_order):
            yield from _silent(testimony, readings, hole)
            yield from _avoidable(testimony, readings, hole)


def _phantoms(
    testimony: Testimony, topic: Topic, trail: Sequence[Seen], matches: Sequence[Match | None]
) -> Iterator[Finding]:
    case = testimony.case
    for seen, match in zip(trail, matches, strict=True):
        if match is None:
            if not case.was_garbled(seen.at):
                yield Finding(Offence.PHANTOM, f"no publication of {topic} says {seen.update}", topic, seen.at)
        elif (wrong := misread(match.reading.publication, seen.update)) is not None:
            yield Finding(Offence.PHANTOM, f"{seen.update} was read wrongly: {wrong}", topic, seen.at)
        elif testimony.was_none_of_its(match.reading.publication, topic, seen.at):
            text = f"{seen.update}, published at {match.reading.publication.at:.3f}, came though {topic} had been left"
            yield Finding(Offence.PHANTOM, text, topic, seen.at)


def _repeated_or_late(
    testimony: Testimony, topic: Topic, readings: Readings, matches: Sequence[Match]
) -> Iterator[Finding]:
    numbers: set[int] = set()
    last: Match | None = None
    for match in matches:
        number, update, at = match.reading.number, match.seen.update, match.seen.at
        known = number in numbers or (last is not None and number < last.reading.number)
        if known and (_clock_went_back(readings, number, at) or _was_sent_anew(testimony, match)):
            continue
        if number in numbers:
            yield Finding(Offence.DUPLICATE, f"{update} was seen before", topic, at)
        elif last is not None and number < last.reading.number:
            text = f"{update} was seen after {last.seen.update}, which was published later"
            yield Finding(Offence.DISORDER, text, topic, at)
        numbers.add(number)
        if last is None or number > last.reading.number:
            last = match


def _was_sent_anew(testimony: Testimony, match: Match) -> bool:
    """Whether the exchange may itself have sent it to a new subscription, which cannot know it, as if it was new."""
    begun = testimony.begun(match.seen.update.topic, match.seen.at)
    return match.reading.publication.at < begun and any(
        life.was_tampered_with(begun, match.seen.at) for life in match.reading.publication.fates
    )


def _clock_went_back(readings: Readings, number: int, at: float) -> bool:
    """Whether the exchange's clock has gone back since publication *number*, by *at*: so it looks like a new one."""
    by_time = readings.topic.channel.merge_key is MergeKey.TIME
    return by_time and any(one.backward and one.publication.at <= at for one in readings.all[number + 1 :])


def _in_order(matches: Sequence[Match]) -> Iterator[Match]:
    """Those that go on from the ones before them."""
    last = -1
    for match in matches:
        if match.reading.number > last:
            last = match.reading.number
            yield match


def _holes(readings: Readings, matches: Sequence[Match]) -> Iterator[Hole]:
    """What was skipped, also where it is nothing, if a hole was told there."""
    before: Match | None = None
    for after in matches:
        first = 0 if before is None else before.reading.number + 1
        if first < after.reading.number or after.seen.gaps:
            yield Hole(before, after, readings.all[first : after.reading.number])
        before = after


def _silent(testimony: Testimony, readings: Readings, hole: Hole) -> Iterator[Finding]:
    """Publications that are missing in *hole* without a word."""
    seen = hole.after.seen
    begun = testimony.begun(readings.topic, seen.at)
    missing = [one for one in hole.missing if one.publication.at > begun and testimony.was_to_see(one, readings)]
    if hole.before is None or hole.before.seen.at <= begun:  # no number before it tells that there was anything
        missing = [one for one in missing if not testimony.was_kept_back(one, readings)]
    if testimony.policy(readings.topic.kind) is Overflow.LATEST:
        missing = [one for one in missing if Fate.SENT not in testimony.fates(one.publication)]
    if missing and not seen.failed and not _goes_on(readings, hole):
        told = [gap for gap in seen.gaps if gap.filled is not GapFill.FILLED]
        told += [gap for gap in testimony.later_gaps(readings.topic, seen) if _reaches_back(gap)]
        steady = hole.before is not None and hole.before.reading.number >= readings.unsteady_until
        steady = steady or not readings.goes_backward
        # Else the bounds of a gap are of several numberings, or of a clock that jumped, and say nothing.
        missing = [one for one in missing if not any(one.lies_in(gap) or not steady for gap in told)]
        if missing:
            because = f"the gaps that were told, {seen.gaps}, do not say so" if seen.gaps else "no gap was told"
            text = f"{_count(missing)} missing before {seen.update}, and {because}"
            yield Finding(Offence.SILENT_LOSS, text, readings.topic, seen.at)


def _goes_on(readings: Readings, hole: Hole) -> bool:
    """Whether the numbers say that nothing is missing: a new numbering may have come to where the old one was."""
    if hole.before is None or not readings.is_contiguous:
        return False
    return bool(hole.after.reading.update.first_sequence == hole.before.reading.update.sequence + 1)


def _reaches_back(gap: Gap) -> bool:
    """Whether it tells of what came too late for its place, when that had been passed."""
    return gap.cause is GapCause.SEQUENCE and gap.since_ns is not None


def _avoidable(testimony: Testimony, readings: Readings, hole: Hole) -> Iterator[Finding]:
    """A hole that was told, though one connection has brought everything there was."""
    told = [gap for gap in hole.after.seen.gaps if gap.cause not in _NOT_OURS and gap.filled is not GapFill.FILLED]
    # Without numbers it may be about what is before this hole.
    told = [gap for gap in told if gap.first_missing is not None or not _reaches_back(gap)]
    if strange := [gap for gap in hole.after.seen.gaps if gap.cause is GapCause.BOOK]:
        text = f"{strange[0]} was told, which only views of books have"
        yield Finding(Offence.AVOIDABLE_LOSS, text, readings.topic, hole.after.seen.at)
    if not told or hole.before is None:
        return
    case, topic = testimony.case, readings.topic
    span = readings.all[hole.before.reading.number : hole.after.reading.number + 1]
    since, until = span[0].publication.at, span[-1].publication.at
    # What waits for who blocks waits with the exchange, and may be lost there until it is taken. But what came later on
    # the same connection has not overtaken it.
    if testimony.policy(topic.kind) is Overflow.BLOCK and not testimony.only_life(topic, since, hole.after.seen.at):
        return
    if (left := _given_up(testimony, readings, hole)) is not None:
        text = f"{told[0]} was told, for {left} was given up though it was sound and no other was there"
        yield Finding(Offence.AVOIDABLE_LOSS, text, topic, hole.after.seen.at)
        return
    if any(one.backward or KEPT.intersection(testimony.put(one.publication).values()) for one in span):
        return
    if _may_mend(case, since, until):
        return
    if not any(a <= since and until <= b for a, b in testimony.spans(topic)):
        return  # left meanwhile, and begun anew
    lives = testimony.put(span[0].publication)
    if len(lives) > 1 and not readings.is_contiguous and topic.kind not in EVENTS:
        return  # that an old state comes on another connection, too, does not prove to a client that it missed none
    # What it brings may wait until the consumer comes, or be lost with it.
    good = testimony.good_lives(span, hole.after.seen.at)
    if good and (len(good) == len(lives) or not testimony.is_apart(topic)):
        text = f"{told[0]} was told, though {good[0].session} has brought everything untouched"
        yield Finding(Offence.AVOIDABLE_LOSS, text, topic, hole.after.seen.at)


def _given_up(testimony: Testimony, readings: Readings, hole: Hole) -> Session | None:
    """The one connection that held the topic, where the client has ended it in *hole* and nothing at all was wrong."""
    assert hole.before is not None
    case, wire = testimony.case, wire_of(readings.topic)
    since, until = hole.before.reading.publication.at, hole.after.seen.at
    lives = list(testimony.put(hole.before.reading.publication))
    if len(lives) != 1 or testimony.is_apart(readings.topic) or case.was_struck(0.0, until):
        return None
    (life,) = lives
    left = life.session.left_at
    if left is None or not since <= left <= until or life.tampered_at or life.session.has_lagged:
        return None
    if case.truth.was_disturbed(life, left) or case.truth.frozen:
        return None
    if (pings := life.session.pinged_at) and not any(at > pings[-1] for at in life.sent_at):
        return None  # it may have waited for a pong
    if any(
        other is not life and one.since <= left <= one.until
        for other in case.truth.lives
        for one in other.held.get(wire, ())
    ):
        return None  # another one had taken its place, whatever became of that
    held = life.held.get(wire, ())
    if (
        not held
        or held[-1].until < left
        or not any(a <= since and until <= b for a, b in testimony.spans(readings.topic))
    ):
        return None  # left meanwhile
    every = [one for one in readings.all[hole.before.reading.number :] if one.publication.at < left - UNDER_WAY]
    return life.session if all(one.publication.fates.get(life) is Fate.SENT for one in every) else None


def _may_mend(case: Case, since: float, until: float) -> bool:
    return any(
        isinstance(strike.fault, _MAY_MEND) and strike.at <= until and since <= felt_until(strike) + case.notice_within
        for strike in case.truth.strikes
    ) or any(one.since <= until and since <= one.until for one in case.truth.frozen)


def _count(missing: Sequence[Reading]) -> str:
    first = missing[0]
    if len(missing) == 1:
        return f"{first.update}, published at {first.publication.at:.3f}, is"
    times = f"{first.publication.at:.3f} and {missing[-1].publication.at:.3f}"
    return f"{len(missing)} updates, published between {times} and the first of them {first.update}, are"
