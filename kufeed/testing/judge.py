"""The judge: what a consumer saw, held against what the exchange knows to be true."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kufeed import Overflow
from kufeed.testing.bookverdicts import judge_books
from kufeed.testing.case import Case, Testimony
from kufeed.testing.conduct import judge_accounts, judge_detection, judge_limits, judge_recovery
from kufeed.testing.exchangefaults import SkewClock
from kufeed.testing.findings import Finding, Offence
from kufeed.testing.readings import wire_of
from kufeed.testing.times import judge_times
from kufeed.testing.verdicts import judge_updates

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kufeed.testing.exchange import Exchange
    from kufeed.testing.truth import Truth
    from kufeed.testing.witness import Witness

__all__ = ["Finding", "Offence", "check_delivery"]

_SLACK = 1.0
"""Seconds on top of the exchange's own figures until a dead connection must have been noticed."""


def check_delivery(
    exchange: Exchange,
    *witnesses: Witness,
    end: float | None = None,
    notice_within: float | None = None,
    live_within: float = 120.0,
    calm_since: float | None = None,
) -> tuple[Finding, ...]:
    """All that is wrong with what *witnesses* saw of *exchange*, and with how their feed behaved, in order of time.

    *exchange* must keep the truth: ``Exchange(ledger=True)``. Nothing is changed, and asking again gives the same.

    - *end*: until when it is judged (`trio.current_time()`); None is the last moment that anybody noted.
    - *notice_within*: seconds until a connection on which nothing comes must have been noticed; None is the exchange's
      ping interval and pong time-out, and a second.
    - *live_within*: seconds after *calm_since* from which on all that is published must arrive. None there is the end
      of the last fault that a `FaultPlan` or a method of a session or of the exchange has caused.

    Leaks and slow closing are not seen here. Raises `ValueError` where the exchange keeps no ledger.
    """
    truth = exchange.truth
    if truth is None:
        raise ValueError("this exchange knows nothing of what it sent: make it with ledger=True")
    if notice_within is None:
        notice_within = exchange.ping_interval + exchange.ping_timeout + _SLACK
    watched = [(witness, {wire_of(topic) for topic in witness.spans}) for witness in witnesses]
    case = Case(
        truth,
        end=_last_moment(truth, witnesses) if end is None else end,
        notice_within=notice_within,
        live_within=live_within,
        calm_since=_calm(truth) if calm_since is None else calm_since,
        apart=[(one.links, wires) for one, wires in watched if Overflow.BLOCK in one.policies.values()],
        watched=[(one.links, wires) for one, wires in watched],
    )
    found = [*judge_limits(case), *(one for witness in witnesses for one in _judge(exchange, Testimony(witness, case)))]
    return tuple(sorted(found, key=lambda one: math.inf if one.at is None else one.at))


def _judge(exchange: Exchange, testimony: Testimony) -> Iterator[Finding]:
    yield from judge_updates(testimony)
    yield from judge_books(testimony, exchange.model)
    yield from judge_times(testimony)
    yield from judge_detection(testimony)
    yield from judge_recovery(testimony)
    yield from judge_accounts(testimony)


def _last_moment(truth: Truth, witnesses: tuple[Witness, ...]) -> float:
    """The last time that anything was noted."""
    known = [rows[-1].at for rows in truth.published.values() if rows]
    known += [time for life in truth.lives for time in (life.opened_at, life.ended_at) if time < math.inf]
    for witness in witnesses:
        known += [sighting.at for sighting in (*witness.sightings[-1:], *witness.told[-1:])]
        known += [] if witness.left_at is None else [witness.left_at]
    return max(known, default=0.0)


def _calm(truth: Truth) -> float:
    """When the last fault was over that is known of."""
    times = [0.0, *(frozen.until for frozen in truth.frozen)]
    # Until a clock is where it was, what comes is older than what came.
    times += [
        strike.until + (abs(strike.fault.seconds) if isinstance(strike.fault, SkewClock) else 0.0)
        for strike in truth.strikes
    ]
    for life in truth.lives:
        session = life.session
        odd = (session.muted_at, session.stopped_reading_at, session.disconnected_at)
        times += [at for at in odd if at is not None]
    return max(times)
