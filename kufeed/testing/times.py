"""Whether updates have the right times: when they were received, and when a book was as it is shown.

The exchange's time of any other update is part of what it says: a wrong one is a phantom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kufeed import Overflow, Trade
from kufeed.testing.case import UNDER_WAY
from kufeed.testing.findings import Finding, Offence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kufeed import Topic
    from kufeed.testing.case import Match, Seen, Testimony

_EXACT = 1e-6
"""Seconds by which two clocks may differ that are the same: sums of floats are not exact."""


def judge_times(testimony: Testimony) -> Iterator[Finding]:
    """Updates with times that they cannot have had."""
    for topic in testimony.updates:
        for match in testimony.matches(topic):
            if match is not None and not testimony.case.was_garbled(match.seen.at):
                yield from _received(testimony, topic, match)
    for topic, trail in testimony.views.items():
        yield from _books(testimony, topic, [seen for seen in trail if not testimony.case.was_garbled(seen.at)])


def _received(testimony: Testimony, topic: Topic, match: Match) -> Iterator[Finding]:
    """One that says it was received before it was published, after it was seen, or long after it had come."""
    update, publication = match.seen.update, match.reading.publication
    alike = testimony.case.readings_of(topic).alike(update)
    since = alike[0].publication.at
    until = match.seen.at
    fetched = isinstance(update, Trade) and update.backfilled
    if (
        len(alike) == 1
        and not fetched
        and testimony.policy(topic.kind) is not Overflow.BLOCK  # what waits for it waits with the exchange
        and testimony.sure_life(publication, publication.at + UNDER_WAY) is not None
    ):
        until = min(until, publication.at + UNDER_WAY)
    yield from _between(testimony, topic, match.seen, since, until)


def _between(testimony: Testimony, topic: Topic, seen: Seen, since: float, until: float) -> Iterator[Finding]:
    if testimony.witness.epoch_ns is None:
        return
    at = (seen.update.received_time_ns - testimony.witness.epoch_ns) / 1e9
    if not since - _EXACT <= at <= until + _EXACT:
        text = f"{seen.update} says that it was received at {at:.6f}, which was between {since:.6f} and {until:.6f}"
        yield Finding(Offence.FALSE_TIME, text, topic, seen.at)


def _books(testimony: Testimony, topic: Topic, trail: list[Seen]) -> Iterator[Finding]:
    """Views whose time is neither that of the last change before, nor that of a book that was told on request."""
    made: dict[int, float] = {}
    times: dict[int, set[int | None]] = {}
    for reading in testimony.case.readings_of(topic).all:
        made.setdefault(reading.update.sequence, reading.publication.at)
        times.setdefault(reading.update.sequence, set()).add(reading.update.exchange_time_ns)
    for sequence, time_ns in testimony.case.truth.books.get(topic.symbol, ()):
        times.setdefault(sequence, set()).add(time_ns)
    for seen in trail:
        number: int = seen.update.sequence  # type: ignore[assignment]  # views have one
        known = times.get(number, ())
        if known and seen.update.exchange_time_ns not in known:
            said = ", ".join(sorted(map(str, known)))
            text = f"{seen.update} has the time of another one: of that at {number} the exchange said {said}"
            yield Finding(Offence.FALSE_TIME, text, topic, seen.at)
        yield from _between(testimony, topic, seen, made.get(number, 0.0), seen.at)
