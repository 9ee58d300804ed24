"""Who looks on at the feeds of a run: a witness for each subscription, and a clock for each feed that closes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from kufeed.testing.findings import Finding, Offence
from kufeed.testing.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kufeed import Overflow, UpdateType

_IN_TIME = 0.001
"""Seconds by which a deadline may be missed: sums of floats are not exact."""


class FeedObserver:
    """For `Conditions.observer`: keeps what it sees. *epoch_ns* is that of all witnesses, see `Witness.epoch_ns`."""

    def __init__(self, *, epoch_ns: int | None) -> None:
        self._epoch_ns = epoch_ns
        self.witnesses: list[Witness] = []
        """Of each subscription, in the order in which they were made."""
        self.findings: list[Finding] = []
        """Feeds that took longer to close than they have promised."""
        self._deadlines: dict[object, float] = {}
        self._links: dict[object, set[str]] = {}

    def dialling(self, feed: object, connect_id: str) -> None:
        self._links.setdefault(feed, set()).add(connect_id)

    def onlooker(
        self, feed: object, policies: Mapping[UpdateType, Overflow], *, changes_only: bool, depth: int | None
    ) -> Witness:
        name = f"subscription {len(self.witnesses) + 1}"
        witness = Witness(name, policies=policies, changes_only=changes_only, depth=depth)
        witness.epoch_ns = self._epoch_ns
        witness.links = self._links.setdefault(feed, set())
        self.witnesses.append(witness)
        return witness

    def closing(self, feed: object, timeout: float) -> None:
        self._deadlines[feed] = trio.current_time() + timeout

    def closed(self, feed: object) -> None:
        late = trio.current_time() - self._deadlines.pop(feed, math.inf)
        if late > _IN_TIME:
            text = f"leaving open_feed() took {late:.3f} s more than close_timeout"
            self.findings.append(Finding(Offence.SLOW_CLOSE, text, at=trio.current_time()))
