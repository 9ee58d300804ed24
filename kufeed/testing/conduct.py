"""How the feed behaved: limits, detection, recovery and accounts. What a witness saw is a proof of these, not all."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from kufeed import GapCause, OrderBook, Overflow, UpdateType
from kufeed.testing.case import UNDER_WAY
from kufeed.testing.exchangefaults import Complain, LowerLimits, SpoilPongs
from kufeed.testing.findings import Finding, Offence
from kufeed.testing.linefaults import Refuse, Silence
from kufeed.testing.readings import wire_of
from kufeed.testing.truth import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kufeed import QueueStatistics, Topic, Update
    from kufeed.testing.case import Case, Testimony
    from kufeed.testing.readings import Reading, Readings
    from kufeed.testing.truth import Life, Limit, Refusal, Strike

_LOWERED: tuple[Limit, ...] = ("dials", "frames")
"""What `LowerLimits` is about. What is refused is not counted, so that nothing of it is left when it is over."""
_LONGEST_WINDOW = 60.0
"""Seconds that any limit looks back."""
_BROUGHT = frozenset({Fate.SENT, Fate.LATE})
_LATELY = 10.0
"""Seconds before the last that was surely brought since which a live stream has brought something."""


def judge_limits(case: Case) -> Iterator[Finding]:
    """What the exchange had to refuse by limits that no fault has lowered."""
    for refusal in case.truth.refusals:
        if not any(_excuses(strike, refusal) for strike in case.truth.strikes):
            text = f"{refusal.text}, which is more than the limit of {refusal.limit} of the {refusal.market} market"
            yield Finding(Offence.BROKEN_LIMIT, text, None, refusal.at)


def _excuses(strike: Strike, refusal: Refusal) -> bool:
    if isinstance(strike.fault, LowerLimits):
        return refusal.limit in _LOWERED and strike.at <= refusal.at <= strike.until
    return isinstance(strike.fault, Complain) and strike.at <= refusal.at <= strike.until + _LONGEST_WINDOW


# Detection


def judge_detection(testimony: Testimony) -> Iterator[Finding]:
    """Connections on which nothing came any more, and the feed has not noticed in time."""
    case = testimony.case
    for life in filter(testimony.is_own, case.truth.lives):
        for since, until in _dead(case, life):
            deadline = since + case.notice_within
            if deadline > min(until, case.end):
                continue
            topics = [topic for topic in testimony.witness.spans if _depends(testimony, topic, life, since, deadline)]
            if topics and not _noticed(testimony, topics, life, since, deadline):
                names = ", ".join(wire_of(topic) for topic in topics)
                text = (
                    f"nothing came on {life.session} from {since:.3f} on, and by {deadline:.3f} nobody noticed: {names}"
                )
                yield Finding(Offence.LATE, text, topics[0], deadline)


def _dead(case: Case, life: Life) -> Iterator[tuple[float, float]]:
    """From and until when nothing reached the client on *life*, or no pong did."""
    session = life.session
    for at in (session.muted_at, session.stopped_reading_at):
        if at is not None:
            yield at, math.inf
    for strike in case.truth.strikes:
        if life.opened_at <= strike.at < life.ended_at:
            if isinstance(strike.fault, Silence):
                yield strike.at, math.inf
            elif isinstance(strike.fault, SpoilPongs) and strike.fault.how in ("missing", "wrong"):
                # Whatever comes proves as much as a pong: it is silent only between two messages.
                came = (at for at in life.sent_at if strike.at < at < strike.until)
                yield from pairwise((strike.at, *came, strike.until))
    for frozen in case.truth.frozen:
        if life.opened_at <= frozen.since < life.ended_at:
            yield frozen.since, frozen.until


def _depends(testimony: Testimony, topic: Topic, life: Life, since: float, deadline: float) -> bool:
    """Whether the witness was to get *topic* on *life* all that time, and did not hold its reader up itself."""
    return (
        (testimony.policy(topic.kind) is not Overflow.BLOCK or _lets_go(testimony, life, since, deadline))
        and any(one.since <= since < one.until for one in life.held.get(wire_of(topic), ()))
        and any(first <= since and deadline <= last for first, last in testimony.spans(topic))
    )


def _lets_go(testimony: Testimony, life: Life, since: float, deadline: float) -> bool:
    """Whether a witness that blocks had taken all that came on *life*, and is the one that this is for."""
    mine = [topic for topic in testimony.topics() if wire_of(topic) in life.held]
    # Who reads nothing any more may go on sending.
    return bool(mine) and all(
        testimony.only_life(topic, since, deadline) is life
        and not testimony.is_book(topic)
        and testimony.has_taken_all(topic, life, since if life.session.stopped_reading_at is None else deadline)
        for topic in mine
    )


def _noticed(testimony: Testimony, topics: list[Topic], life: Life, since: float, deadline: float) -> bool:
    """Whether the feed has ended it, told of it, or turned to another connection."""
    case = testimony.case
    if life.ended_at <= deadline:
        return True
    others = [other for other in case.truth.lives if other is not life and testimony.is_own(other)]
    for topic in topics:
        wire = wire_of(topic)
        if any(since <= at <= deadline for at in testimony.lost_at.get(wire, ())):
            return True
        if any(one.since <= deadline and since <= one.until for other in others for one in other.held.get(wire, ())):
            return True
    # It may have opened one in its place, and not come to asking for all of its topics there.
    for other in others:
        replaces = not other.held or not other.held.keys().isdisjoint(life.held)
        if replaces and other.market == life.market and since <= other.opened_at <= deadline:
            return True
    # It may have dialled, and met what refuses it before the exchange sees it.
    refused = (strike for strike in case.truth.strikes if strike.at <= deadline and since <= strike.until)
    return any(isinstance(strike.fault, Refuse) for strike in refused)


# Recovery


def judge_recovery(testimony: Testimony) -> Iterator[Finding]:
    """Streams of which nothing comes, though every fault has been over for so long."""
    case, witness = testimony.case, testimony.witness
    due = case.calm_since + case.live_within
    if due > case.end or (witness.statistics is not None and witness.statistics.pending and not witness.waiting):
        return
    for topic in testimony.topics():
        readings = case.readings_of(topic)
        settled = max(testimony.unchanged(topic), default=-1)  # a stream that is where it was has nothing to bring
        published = [one for one in readings.all[settled + 1 :] if _is_due(testimony, readings, one, due)]
        if published and not _came(testimony, topic, least := _late_one(testimony, published)):
            text = (
                f"{least.update}, published at {least.publication.at:.3f}, and all after it have not come, though the"
                f" last fault was over at {case.calm_since:.3f}"
            )
            yield Finding(Offence.NOT_LIVE, text, topic, least.publication.at)


def _late_one(testimony: Testimony, published: Sequence[Reading]) -> Reading:
    """The one of *published* that, or one after which, must have come: near the last that was brought for certain."""
    for last in reversed(published):
        publication = last.publication
        lives = testimony.put(publication)
        if lives and all(testimony.case.is_sure(life, publication, publication.at + UNDER_WAY) for life in lives):
            return next(one for one in published if one.publication.at >= publication.at - _LATELY)
    return published[0]


def _is_due(testimony: Testimony, readings: Readings, reading: Reading, due: float) -> bool:
    at = reading.publication.at
    until = at + UNDER_WAY
    return (
        due <= at
        and until <= testimony.case.end
        and testimony.was_to_see(reading, readings)
        and any(since <= at and until <= last for since, last in testimony.spans(readings.topic))
    )


def _came(testimony: Testimony, topic: Topic, least: Reading) -> bool:
    """Whether that publication, or any after it, was seen or waited to be.

    Anything since, where what waits is with the exchange; and what had no room is not held against the feed.
    """
    at, waiting, accounts = least.publication.at, testimony.witness.waiting, testimony.witness.statistics
    policy = testimony.policy(UpdateType.BOOK if topic in testimony.views else topic.kind)
    if (waiting and policy is Overflow.BLOCK) or (accounts is not None and accounts.dropped):
        return True
    if policy is Overflow.BLOCK:
        return any(seen.at >= at for seen in testimony.updates.get(topic, testimony.views.get(topic, ())))
    if any(view.at >= at for view in testimony.views.get(topic, ())):
        return True
    readings = testimony.case.readings_of(topic)
    return any(match is not None and match.reading.number >= least.number for match in testimony.matches(topic)) or any(
        _is_since(update, least, readings) for update in waiting if update.topic == topic
    )


def _is_since(update: Update, least: Reading, readings: Readings) -> bool:
    """Whether *update* is that publication or one after it, or a view of a book with it."""
    if isinstance(update, OrderBook):
        return readings.goes_backward or update.sequence >= least.update.sequence
    found = readings.find(update, least.number - 1)
    return found is not None and found.number >= least.number


# Accounts


def judge_accounts(testimony: Testimony) -> Iterator[Finding]:
    """Counts that do not add up, or are less than what was seen."""
    accounts = testimony.witness.statistics
    if accounts is None:
        return
    told = (
        accounts.delivered
        + accounts.conflated
        + accounts.dropped
        + accounts.unchanged
        + accounts.discarded
        + accounts.pending
    )
    if told != accounts.received:
        text = f"{accounts.received} updates were received, and {told} accounted for: {accounts}"
        yield Finding(Offence.FALSE_ACCOUNTS, text)
    if accounts.delivered < testimony.delivered:
        text = f"{accounts.delivered} updates were delivered by the accounts, and {testimony.delivered} seen"
        yield Finding(Offence.FALSE_ACCOUNTS, text)
    lost = accounts.dropped + accounts.discarded
    overflows = [seen for seen in testimony.in_order() if any(gap.cause is GapCause.OVERFLOW for gap in seen.gaps)]
    if max(len(overflows), testimony.dropped_told) > lost:
        example = f", such as before {overflows[0].update}" if overflows else ""
        text = (
            f"{testimony.dropped_told} updates in {len(overflows)} holes{example} were told to be dropped where there"
            f" was no room, and the accounts know of {lost}"
        )
        yield Finding(Offence.FALSE_ACCOUNTS, text)
    yield from _unaccounted(testimony, accounts)
    yield from _not_unchanged(testimony, accounts)


def _not_unchanged(testimony: Testimony, accounts: QueueStatistics) -> Iterator[Finding]:
    """More is said to have said nothing new than did."""
    case = testimony.case
    if any(life.tampered_at for life in case.truth.lives) or case.was_garbled(case.end):
        return  # what is repeated, or was read wrongly, may be had several times
    most = sum(
        not _BROUGHT.isdisjoint(testimony.put(case.readings_of(topic).all[number].publication).values())
        for topic in testimony.topics()
        for number in testimony.unchanged(topic)
    )
    if accounts.unchanged > most:
        text = f"{accounts.unchanged} updates said nothing new by the accounts, and {most} that were brought did"
        yield Finding(Offence.FALSE_ACCOUNTS, text)


def _unaccounted(testimony: Testimony, accounts: QueueStatistics) -> Iterator[Finding]:
    """More was brought for certain, and not seen, than the accounts say has been conflated or waits.

    What came last of a stream has nothing that it could have been conflated with: it, or one after it, waits.
    """
    conflating, waiting = 0, 0
    example: Reading | None = None
    for topic in testimony.topics():
        if testimony.is_book(topic) or testimony.is_apart(topic):
            continue  # views are fewer than changes; what who blocks does not take waits with the exchange
        readings = testimony.case.readings_of(topic)
        dropping = _tells_of_drops_only(testimony, topic)
        lost = list(_brought_and_not_seen(testimony, topic, readings))
        if testimony.policy(topic.kind) is Overflow.LATEST:
            settled = max(testimony.unchanged(topic), default=-1)
            waits = any(is_last and reading.number > settled for reading, is_last in lost)
            waiting += waits
            conflating += len(lost) - waits
        else:
            lost = [(reading, is_last) for reading, is_last in lost if is_last or dropping]
            waiting += len(lost)
        if lost and example is None:
            example = lost[0][0]
    told = accounts.pending + accounts.discarded + accounts.dropped
    if example is not None and (waiting > told or conflating + waiting > told + accounts.conflated):
        text = (
            f"{conflating + waiting} updates were brought and not seen, such as {example.update}, published at"
            f" {example.publication.at:.3f}, and {waiting} of them were to wait; the accounts know of"
            f" {told + accounts.conflated}, of which {told} may have waited"
        )
        yield Finding(Offence.SILENT_LOSS, text, example.update.topic, example.publication.at)


def _tells_of_drops_only(testimony: Testimony, topic: Topic) -> bool:
    """Whether it was told of holes in *topic*, all of which it has made itself."""
    failed = any(seen.failed for seen in testimony.updates.get(topic, ()))
    return {gap.cause for gap in testimony.gaps(topic)} == {GapCause.OVERFLOW} and not failed


def _brought_and_not_seen(testimony: Testimony, topic: Topic, readings: Readings) -> Iterator[tuple[Reading, bool]]:
    """Each such reading that no gap speaks of, and whether it is behind the last one that was seen."""
    gaps = [gap for gap in testimony.gaps(topic) if gap.cause is not GapCause.OVERFLOW]
    numbers = {match.reading.number for match in testimony.matches(topic) if match is not None}
    last = max(numbers, default=-1)
    for reading in readings.all:
        settled = reading.publication.at + UNDER_WAY
        if (
            reading.number not in numbers
            and not (reading.dated_back and reading.number > last)  # whatever would tell of it has not come
            and any(since < reading.publication.at and settled <= until for since, until in testimony.spans(topic))
            and testimony.was_to_see(reading, readings)
            and testimony.sure_life(reading.publication, settled) is not None
            and not any(reading.lies_in(gap) for gap in gaps)
        ):
            yield reading, reading.number > last
