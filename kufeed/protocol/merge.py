"""None twice and none out of order: what an update is to those of its stream that were delivered before it.

A stream may be carried by several links at once, or by one after the other. Each brings its updates in the exchange's
order, with some missing; which of them are the same is told by the channel's merge key. A link is known by its
*generation*, a number that no other link of the stream has. Pure: what is told to whom is not decided here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import attrs

from .market import MergeKey, UpdateType

if TYPE_CHECKING:
    from collections.abc import Callable

    from .market import Channel
    from .updates import Update

_WINDOW = 64
"""Numbers that are remembered, where each update counts: so far one link may be behind another."""
_MOST_TIED = 32
"""Updates with one key that are remembered."""
_MOST_LINKS = 4
"""That are remembered besides the one that delivered last: those that live, and one that went."""
_PATIENCE = 8
"""Updates in a row that are lower without times to tell why, or earlier on one link: then they are a new epoch."""
_LATE = 1_000_000_000
"""Nanoseconds. What has a lower number and is so much later is no old message of a link that lags."""
_EVENTS = frozenset({UpdateType.TRADE, UpdateType.ANNOUNCEMENT})
"""Kinds of which each update counts. Others are states: an older one on another link was superseded, not missed."""


class Verdict(Enum):
    """What an update is to those before it. The first three are to be delivered, and count as delivered."""

    NEW = "new"
    AFTER_HOLE = "new, after a hole"
    """Its number proves that some are missing: `Merge.missing`."""
    NEW_EPOCH = "new epoch"
    """The exchange numbers or dates its updates anew. Whether any are missing, nobody can tell."""
    DUPLICATE = "duplicate"
    """It was delivered, or is an older state than one that was."""
    DISORDERED = "disordered"
    """It was not delivered, and comes too late for that."""


NEW, AFTER_HOLE, NEW_EPOCH = Verdict.NEW, Verdict.AFTER_HOLE, Verdict.NEW_EPOCH
DUPLICATE, DISORDERED = Verdict.DUPLICATE, Verdict.DISORDERED


@attrs.define(eq=False)
class _Link:
    """What came last on a link that did not deliver what was delivered last, or has fallen behind itself since."""

    key: int
    fell: bool
    """Whether it has had a higher key before, and has delivered nothing since."""
    since: Update | None
    """What had been delivered last then."""


class Merge:
    """Of one stream: give it every update in the order of arrival. `merge_of()` makes the one that a channel needs."""

    missing: tuple[int, int] | None = None
    """First and last number of the hole before an update that is `AFTER_HOLE`."""
    rejoins: bool = False
    """Of a `DUPLICATE`: it is the first of its link, and was delivered by another. So nothing is missing in between:
    a link brings all from its first update on."""

    def take(self, update: Update, generation: int) -> Verdict:
        """What *update*, which came on the link of this *generation*, is."""
        raise NotImplementedError

    def cut(self) -> None:
        """No link carries the stream now: what comes next comes on a new one, whatever its generation."""
        raise NotImplementedError


class _Ordered(Merge):
    """By a key that increases. `_key` is the highest of this epoch: that of what was delivered last."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._key = -1
        self._last: Update | None = None
        self._generation: int | None = None  # of the link that delivered it
        self._links: dict[int, _Link] = {}
        self._epoch: Update | None = None  # the first one of it
        self._cut = False
        self._tied: list[Update] = []  # delivered at one place
        self._row: tuple[Update | None, int] = (None, 0)  # updates in a row that were not delivered, since which one

    def cut(self) -> None:
        self._generation = None
        self._links.clear()
        self._cut = True

    # -- what a link brought before -----------------------------------------------------------------------------------

    def _before(self, generation: int) -> _Link | None:
        """What came last on this link; None where nothing has."""
        link = self._links.get(generation)
        if generation != self._generation:
            return link
        if link is not None and link.since is self._last:
            return link
        return _Link(self._key, False, self._last)  # it has delivered since

    def _refuse(self, verdict: Verdict, generation: int, key: int, before: _Link | None) -> Verdict:
        """An update of this link is not delivered."""
        fell = before is not None and (before.fell or key < before.key)
        self._links[generation] = _Link(key, fell, self._last)
        self._prune()
        return verdict

    def _prune(self) -> None:
        if len(self._links) > _MOST_LINKS:
            del self._links[next(iter(self._links))]

    def _deliver(self, update: Update, generation: int, key: int) -> None:
        if generation != self._generation:
            if self._generation is not None and (before := self._before(self._generation)) is not None:
                self._links[self._generation] = before
            self._links.pop(generation, None)
            self._generation = generation
            self._prune()
        self._key, self._last = key, update
        self._cut = False

    def _fell(self, generation: int, key: int, before: _Link | None) -> bool:
        """Whether the link has had a higher key before."""
        return generation == self._generation or (before is not None and (before.fell or key < before.key))

    def _loses_patience(self) -> bool:
        """Count one more that was not delivered; whether that makes too many in a row."""
        since, count = self._row
        self._row = (self._last, count + 1 if since is self._last else 1)
        return self._row[1] >= _PATIENCE

    # -- ties ---------------------------------------------------------------------------------------------------------

    def _was_delivered(self, update: Update) -> bool:
        """Whether it equals, in all but receipt, one of those delivered at the place of the last."""
        assert self._last is not None
        if _equal(update, self._last):
            return True
        if not self._tied or self._place(self._tied[0]) != self._place(self._last):
            self._tied = [self._last]
        return any(_equal(update, one) for one in reversed(self._tied))

    def _deliver_tied(self, update: Update, generation: int) -> Verdict:
        if len(self._tied) == _MOST_TIED:
            del self._tied[0]
        self._tied.append(update)
        self._deliver(update, generation, self._key)
        return NEW

    def _place(self, update: Update) -> object:
        """Where in the stream it belongs, as far as anything but its data says so."""
        raise NotImplementedError


class _Numbered(_Ordered):
    """By the exchange's numbers, with its times to tell a lower number of a new numbering from an old message."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self._recent: deque[Update] | None = deque(maxlen=_WINDOW) if channel.kind in _EVENTS else None
        self._unnumbered: _Timed | None = None
        self._renumbered = False  # there was another epoch before this one

    def take(self, update: Update, generation: int) -> Verdict:
        number = update.sequence
        if generation == self._generation and number is not None and number > self._key:
            self._key = number
            self._last = update
            if self._recent is not None:
                self._recent.append(update)
            return NEW
        return self._look(update, generation)

    def cut(self) -> None:
        super().cut()
        if self._unnumbered is not None:
            self._unnumbered.cut()

    def _deliver(self, update: Update, generation: int, key: int) -> None:
        if self._cut:
            self._epoch = update  # no link is left that lags behind: nothing need wait until a clock is where it was
        super()._deliver(update, generation, key)

    def _place(self, update: Update) -> object:
        return update.sequence, update.exchange_time_ns

    def _look(self, update: Update, generation: int) -> Verdict:
        number = update.sequence
        self.rejoins = False
        if number is None:  # tickers of 2023 and before had none
            if self._unnumbered is None:
                self._unnumbered = _Timed(self._channel)
            verdict = self._unnumbered.take(update, generation)
            self.rejoins = self._unnumbered.rejoins
            return verdict
        if self._last is None:
            return self._begin(update, generation, number, NEW)
        before = self._before(generation)
        if generation != self._generation and self._is_of_old_epoch(update):
            # What is higher may be of a numbering before the first that was seen, or the exchange's clock was set back:
            # either way nobody has had it.
            missed = number > self._key and self._recent is not None and not self._renumbered
            return self._refuse(DISORDERED if missed else DUPLICATE, generation, number, before)
        if number > self._key:
            return self._higher(update, generation, number, before)
        tied = self._tie(update, generation, before) if number == self._key else None
        return tied or self._lower(update, generation, number, before)

    def _is_of_old_epoch(self, update: Update) -> bool:
        if self._epoch is None or self._cut:
            return False
        return _comparable(update, self._epoch) and update.time_ns < self._epoch.time_ns

    def _is_in_epoch(self, number: int) -> bool:
        return self._epoch is not None and number >= (self._epoch.sequence or 0)

    def _begin(self, update: Update, generation: int, number: int, verdict: Verdict) -> Verdict:
        """*update* is the first of a numbering."""
        self._epoch = update
        self._renumbered = verdict is NEW_EPOCH
        if self._recent is not None:
            self._recent.clear()
        self._join(update, generation, number)
        return verdict

    def _higher(self, update: Update, generation: int, number: int, before: _Link | None) -> Verdict:
        if before is not None and before.key > self._key and not self._is_later(update):
            # Its link was beyond what was delivered last already, so it still goes by an old numbering.
            assert self._last is not None
            if _comparable(update, self._last) or not self._loses_patience():
                return self._refuse(DUPLICATE, generation, number, before)
            return self._begin(update, generation, number, NEW_EPOCH)
        return self._join(update, generation, number)

    def _join(self, update: Update, generation: int, number: int) -> Verdict:
        if self._recent is not None:
            self._recent.append(update)
        self._deliver(update, generation, number)
        return NEW

    def _tie(self, update: Update, generation: int, before: _Link | None) -> Verdict | None:
        """A ticker has its book's number, and may say more than one thing at that."""
        assert self._last is not None
        if self._was_delivered(update):
            self.rejoins = before is None
            return self._refuse(DUPLICATE, generation, self._key, before)
        if _comparable(update, self._last) and update.time_ns < self._last.time_ns:
            return None
        return self._deliver_tied(update, generation)

    def _lower(self, update: Update, generation: int, number: int, before: _Link | None) -> Verdict:
        fell = self._fell(generation, number, before)
        if self._was_recent(update, number):  # whatever the times say: the exchange's clock may have been set back
            self.rejoins = before is None
            return self._refuse(DUPLICATE, generation, number, before)
        if self._is_later(update) and (before is None or fell or self._is_later(update, _LATE)):
            return self._begin(update, generation, number, NEW_EPOCH)
        if generation != self._generation and self._is_in_epoch(number):
            fell = False  # together with the exchange, and after another link
        assert self._last is not None
        timed = _comparable(update, self._last)
        if self._is_known(number, timed=timed):
            self.rejoins = before is None
            return self._refuse(DUPLICATE, generation, number, before)
        # After an outage it is no message of a link that lags.
        if not timed and ((before is None and self._cut) or self._loses_patience()):
            return self._begin(update, generation, number, NEW_EPOCH)
        missed = fell or self._is_missed(number)
        return self._refuse(DISORDERED if missed else DUPLICATE, generation, number, before)

    def _is_known(self, number: int, *, timed: bool) -> bool:
        """Whether the update with this number, which is lower than the last, is known to have been delivered."""
        return self._recall(number) is not None

    def _was_recent(self, update: Update, number: int) -> bool:
        """Whether it equals, in all but receipt, one that was delivered lately."""
        one = self._recall(number)
        return one is not None and _equal(update, one)

    def _recall(self, number: int) -> Update | None:
        """What was delivered lately with this number. They are in order: an epoch forgets those before it."""
        recent = self._recent
        if not recent:
            return None
        found = recent[bisect_left(recent, number, key=_sequence)]  # at most the last one, which has the highest
        return found if found.sequence == number else None

    def _is_missed(self, number: int) -> bool:
        """Whether another link has missed what has this number and is not known to have been delivered."""
        return self._recent is not None and number > (self._recent[0].sequence or 0)

    def _is_later(self, update: Update, slack: int = 0) -> bool:
        """Whether it was sent after what was delivered last, by the exchange's clock."""
        assert self._last is not None
        if self._last.misdated and not update.misdated:  # what came with an absurd time may have an absurd number
            return update.exchange_time_ns is not None
        return _comparable(update, self._last) and update.time_ns > self._last.time_ns + slack


class _Contiguous(_Numbered):
    """Numbers without holes, of book changes: what is missing is known by number.

    An order book decides for itself whether a lower number is of a new numbering, and must not miss one: a wrong book
    would look live. What is kept from it here it would ignore as well, since it is not later than what was delivered
    last; or a link brings it that lags, and has told its own numbers in order. Where there are no times to go by, and
    nothing lives that could lag, a lower number is a new epoch at once.
    """

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel)
        self._first = 0  # from here to `_key` everything was delivered

    def take(self, update: Any, generation: int) -> Verdict:
        if update.first_sequence == self._key + 1 and generation == self._generation:
            self._key = update.sequence
            self._last = update
            return NEW
        return self._look(update, generation)

    def _begin(self, update: Any, generation: int, number: int, verdict: Verdict) -> Verdict:
        if verdict is not AFTER_HOLE:
            self._epoch = update
        self._first = update.first_sequence
        self._deliver(update, generation, number)
        return verdict

    def _join(self, update: Any, generation: int, number: int) -> Verdict:
        first, following = update.first_sequence, self._key + 1
        if first > following:
            self.missing = following, first - 1
            return self._begin(update, generation, number, AFTER_HOLE)
        self._deliver(update, generation, number)  # it may overlap: its changes have numbers of their own
        return NEW

    def _tie(self, update: Update, generation: int, before: _Link | None) -> Verdict | None:
        return None

    def _is_known(self, number: int, *, timed: bool) -> bool:
        # Without times, so many numbers back it is rather a new numbering.
        return number >= self._first if timed else number >= max(self._first, self._key - _WINDOW)

    def _is_missed(self, number: int) -> bool:
        return False  # that was told, or was before the first


class _Timed(_Ordered):
    """By the exchange's time, and by equal data where that is equal."""

    def __init__(self, channel: Channel, *, misdated: bool = False) -> None:
        super().__init__(channel)
        self._takes_misdated = misdated
        # Those whose times cannot be right are merged among themselves: they must not make all others old.
        self._misdated: _Timed | None = None
        self._recent: deque[Update] | None = deque(maxlen=_MOST_TIED) if channel.kind in _EVENTS else None

    def take(self, update: Update, generation: int) -> Verdict:
        time = update.exchange_time_ns
        if generation == self._generation and time is not None and time > self._key and not update.misdated:
            self._key = time
            self._last = update
            if self._recent is not None:
                self._recent.append(update)
            return NEW
        return self._look(update, generation)

    def cut(self) -> None:
        super().cut()
        if self._misdated is not None:
            self._misdated.cut()

    def _place(self, update: Update) -> object:
        return update.exchange_time_ns

    def _look(self, update: Update, generation: int) -> Verdict:
        time = update.exchange_time_ns
        self.rejoins = False
        if time is None:
            return NEW  # nothing tells it from others: better twice than never
        if update.misdated and not self._takes_misdated:
            if self._last is not None and self._key == time and self._was_delivered(update):
                return DUPLICATE  # by now it has been repeated for an hour
            if self._misdated is None:
                self._misdated = _Timed(self._channel, misdated=True)
            verdict = self._misdated.take(update, generation)
            self.rejoins = self._misdated.rejoins
            return verdict
        if self._last is None:
            return self._begin(update, generation, time, NEW)
        before = self._before(generation)
        if time == self._key:
            if self._was_delivered(update):
                self.rejoins = before is None
                return self._refuse(DUPLICATE, generation, time, before)
            if self._recent is not None:
                self._recent.append(update)
            return self._deliver_tied(update, generation)
        fell = self._fell(generation, time, before)
        if generation != self._generation and self._epoch is not None and time >= (self._epoch.exchange_time_ns or 0):
            fell = False  # together with the exchange's clock, and after another link
        if time > self._key:
            if before is None or before.key <= self._key:
                return self._begin(update, generation, time, NEW)
            verdict, counts = DUPLICATE, True  # its link goes by a clock that was set back since
        elif self._recent is not None and any(_equal(update, one) for one in self._recent):
            self.rejoins = before is None
            verdict, counts = DUPLICATE, False
        else:
            missed = fell or (self._recent is not None and time > (self._recent[0].exchange_time_ns or 0))
            verdict, counts = (DISORDERED if missed else DUPLICATE), fell
        if counts and self._loses_patience():
            return self._begin(update, generation, time, NEW_EPOCH)
        return self._refuse(verdict, generation, time, before)

    def _begin(self, update: Update, generation: int, time: int, verdict: Verdict) -> Verdict:
        if verdict is NEW_EPOCH:
            self._epoch = update
        if self._recent is not None:
            self._recent.append(update)
        self._deliver(update, generation, time)
        return verdict


class _Rates(Merge):
    """Predicted funding rates, and settled ones: two series on one topic. A settled rate is of a time that predictions
    may have passed when it comes."""

    def __init__(self, channel: Channel) -> None:
        self._series = {True: _Timed(channel), False: _Timed(channel)}

    def take(self, update: Any, generation: int) -> Verdict:
        series = self._series[update.predicted]
        verdict = series.take(update, generation)
        self.rejoins = series.rejoins
        return verdict

    def cut(self) -> None:
        for series in self._series.values():
            series.cut()


def merge_of(channel: Channel) -> Merge:
    """A new merge of one stream of *channel*, by its merge key."""
    if channel.kind is UpdateType.FUNDING_RATE:
        return _Rates(channel)
    match channel.merge_key:
        case MergeKey.CONTIGUOUS:
            return _Contiguous(channel)
        case MergeKey.INCREASING:
            return _Numbered(channel)
        case MergeKey.TIME:
            return _Timed(channel)


def _comparable(one: Update, other: Update) -> bool:
    """Whether their times say which was sent first: not where one of them has none, or alone has an absurd one."""
    known = one.exchange_time_ns is not None and other.exchange_time_ns is not None
    return known and one.misdated is other.misdated


def _equal(one: Update, other: Update) -> bool:
    """Whether the exchange said the same in both: they are equal in all but receipt."""
    said = _said(type(one))  # type: ignore[arg-type]  # mypy looks at the hash of its instances
    return type(one) is type(other) and bool(said(one) == said(other))


_sequence = attrgetter("sequence")
_NOT_SAID = {"topic", "symbol", "received_time_ns"}


@cache
def _said(record: type[Update]) -> Callable[[Any], object]:
    """All that the exchange said in an update of one stream."""
    return attrgetter(*(field.name for field in attrs.fields(record) if field.eq and field.name not in _NOT_SAID))
