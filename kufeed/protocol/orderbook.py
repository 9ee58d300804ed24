"""How a book is kept right: the calibration of KuCoin's documents as a state machine, without I/O or clock.

Changes are buffered until a snapshot joins them, then applied one by one while their numbers are without holes. A book
that may be wrong is not readable: it starts anew. `TRANSITIONS` is the whole machine; the documentation draws it.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from ..errors import BookNotReady
from .bookview import OrderBook, order_book
from .sides import BookSide
from .updates import Side

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .market import Topic
    from .updates import BookChange, BookDelta, Level

MOST_BUFFERED = 2_000
"""Changes kept for a snapshot. The oldest go first: a snapshot that needs them is asked for again.

A change takes about 400 bytes, and a thousand books may wait at once while REST is quiet. The exchange's busiest books
have some hundred changes a second, and a snapshot comes within a few seconds or is asked for again.
"""
SPARE_LEVELS = 20
"""A seed that knows so few levels beyond those that are read is replaced before it is too thin."""
_LATE = 1_000_000_000
"""Nanoseconds. What is so much later than a snapshot was not made before it; the times of changes need no slack."""
_HELD_AT_MOST = 60_000_000_000
"""Nanoseconds that a snapshot waits for the changes; only where somebody blocks they may be far behind it."""


class BookState(StrEnum):
    """Where a book stands. Only a live one can be read."""

    WAITING = "waiting"
    """Its changes do not come: not subscribed to yet, or the connection is lost."""
    SYNCING = "syncing"
    """Changes are buffered until a snapshot joins them."""
    LIVE = "live"
    """In step with the exchange's numbers."""
    BROKEN = "broken"
    """It was live and a change is missing, or it contradicts itself; changes are buffered for a new start."""


class BookEvent(StrEnum):
    """What moves a book from one state to another."""

    SUBSCRIBED = "subscribed"
    """Its changes come from now on."""
    LOST = "connection lost"
    JOINED = "snapshot joins the buffer"
    UNFIT = "snapshot too old, or contradicts itself"
    APPLIED = "change applied"
    GAP = "number missing"
    RENUMBERED = "numbers start anew"
    CROSSED = "best bid not below best ask"
    DIFFERS = "audit: differs from a snapshot"
    RESTART = "resync begins"


TRANSITIONS: dict[tuple[BookState, BookEvent], BookState] = {
    (BookState.WAITING, BookEvent.SUBSCRIBED): BookState.SYNCING,
    (BookState.WAITING, BookEvent.LOST): BookState.WAITING,
    (BookState.SYNCING, BookEvent.JOINED): BookState.LIVE,
    (BookState.SYNCING, BookEvent.UNFIT): BookState.SYNCING,
    (BookState.SYNCING, BookEvent.SUBSCRIBED): BookState.SYNCING,
    (BookState.SYNCING, BookEvent.LOST): BookState.WAITING,
    (BookState.LIVE, BookEvent.APPLIED): BookState.LIVE,
    (BookState.LIVE, BookEvent.JOINED): BookState.LIVE,
    (BookState.LIVE, BookEvent.UNFIT): BookState.LIVE,
    (BookState.LIVE, BookEvent.SUBSCRIBED): BookState.LIVE,
    (BookState.LIVE, BookEvent.GAP): BookState.BROKEN,
    (BookState.LIVE, BookEvent.RENUMBERED): BookState.BROKEN,
    (BookState.LIVE, BookEvent.CROSSED): BookState.BROKEN,
    (BookState.LIVE, BookEvent.DIFFERS): BookState.BROKEN,
    (BookState.LIVE, BookEvent.LOST): BookState.WAITING,
    (BookState.BROKEN, BookEvent.RESTART): BookState.SYNCING,
    (BookState.BROKEN, BookEvent.SUBSCRIBED): BookState.BROKEN,
    (BookState.BROKEN, BookEvent.LOST): BookState.WAITING,
}


@attrs.frozen(repr=False)
class BookSnapshot:
    """A whole book, or the best `limit` levels of each side, as REST gave it."""

    sequence: int
    exchange_time_ns: int | None
    received_time_ns: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    limit: int | None
    """How many levels of a side it has at most; None where it has them all."""

    def problem(self) -> str | None:
        """What about it cannot be a book; None where it may be one."""
        for levels in (self.bids, self.asks):
            if any(not level.size or not level.price for level in levels):
                return "a level with price or size 0"
            if len({level.price for level in levels}) != len(levels):
                return "a price stands twice"
        if self.bids and self.asks and max(self.bids)[0] >= min(self.asks)[0]:
            return "best bid not below best ask"
        return None

    def __repr__(self) -> str:
        return f"<BookSnapshot {self.sequence}, {len(self.bids)} bids, {len(self.asks)} asks>"


class BookSync:
    """One book. Give it every change in order of arrival, and a snapshot whenever it `wants_snapshot()`."""

    def __init__(self, topic: Topic, *, depth: int = 1, most_buffered: int = MOST_BUFFERED) -> None:
        self.topic = topic
        self.depth = depth
        """How many levels of each side its readers want to see."""
        self.state = BookState.WAITING
        self.sequence = 0
        self.exchange_time_ns: int | None = None
        self.received_time_ns = 0
        self.bids = BookSide(Side.BUY)
        self.asks = BookSide(Side.SELL)
        self.missing: tuple[int, int] | None = None
        """First and last number of the hole that it broke at; None where it broke otherwise, or never."""
        self.audits = 0
        """Times that it was found equal to a snapshot."""
        self.audits_missed = 0
        """Times that it was to be compared and was not: no snapshot came, it did not fit, or the book began anew."""
        self.seeds = 0
        """Snapshots that it began from."""
        self.held_in_vain = 0
        """Those that waited for its changes, and then did not fit or were not wanted any more."""
        self.given_up = 0
        """Of those, how many in a row the changes did not bear out: the next one had better be asked for later."""
        self._buffer: deque[BookDelta] | None = None
        self._asked = 0  # for how many snapshots, that have neither come nor failed
        self._most_buffered = most_buffered
        self._ticket = 0
        self._auditing: BookSnapshot | None = None
        self._ahead: BookSnapshot | None = None  # a seed that the changes have not reached
        self._stream: BookDelta | None = None  # the last change that came in its order

    # -- what the connection says -------------------------------------------------------------------------------------

    def subscribed(self) -> None:
        """Changes come from now on: the exchange has acknowledged, or the first one is here."""
        self._go(BookEvent.SUBSCRIBED)
        if self._buffer is None and self.state is BookState.SYNCING:
            self._buffer = deque(maxlen=self._most_buffered)

    def lost(self) -> None:
        """Changes come no more. What comes after may be numbered anew, so nothing is kept."""
        self._go(BookEvent.LOST)
        self._forget()
        self._buffer = None

    def receive(self, delta: BookDelta) -> BookEvent | None:
        """Take one change. Returns what it did to a live book; None where it was buffered or is known already."""
        if self.state is not BookState.LIVE:
            if self.state is BookState.WAITING:
                self.subscribed()  # the exchange may stream before it acknowledges
            self._keep(delta)
            return None
        if delta.sequence is None or delta.sequence <= self.sequence:
            return self._break(BookEvent.RENUMBERED, delta) if self._is_renumbered(delta) else None
        if delta.first_sequence > self.sequence + 1:
            self.missing = (self.sequence + 1, delta.first_sequence - 1)
            return self._break(BookEvent.GAP, delta)
        if self._buffer is not None:
            self._buffer.append(delta)
            self._let_go()
        self._apply(delta)
        if self._crosses():
            return self._break(BookEvent.CROSSED, None)
        seed = self._ahead
        if seed is not None and _settles(delta, seed) and self._join(seed) is BookEvent.UNFIT:
            self.held_in_vain += 1
            self.given_up += 1
        snapshot = self._auditing
        if snapshot is not None and _settles(delta, snapshot) and self._audit(snapshot) is BookEvent.DIFFERS:
            return BookEvent.DIFFERS
        return BookEvent.APPLIED  # and stays live: the row of the table that is taken every time

    # -- snapshots ----------------------------------------------------------------------------------------------------

    def wants_snapshot(self) -> bool:
        """Whether it has to be seeded: not live though its changes come, or soon too thin for its readers."""
        if self.state is BookState.LIVE:
            wanted = self.depth + SPARE_LEVELS
            return self._ahead is None and not (self.bids.covers(wanted) and self.asks.covers(wanted))
        return self.state is not BookState.WAITING

    def ask(self) -> int:
        """A snapshot is asked for now: a ticket for `seed()`, `audit()` or `forgo()`, one of which is to follow.

        Of changes from here on none is lost until then.
        """
        if self.state is BookState.BROKEN:
            self._go(BookEvent.RESTART)
        if self._buffer is None:
            self._buffer = deque(maxlen=self._most_buffered)
        self._asked += 1
        return self._ticket

    def forgo(self, ticket: int) -> None:
        """The seed that was asked for does not come: no changes are kept for it."""
        self._answered(ticket)
        self._let_go()

    def seed(self, ticket: int, snapshot: BookSnapshot) -> BookEvent | None:
        """Start from *snapshot*: JOINED where it fits, UNFIT where another is needed.

        None where the book has lost its connection or broken since *ticket*, and needs another; or where it can be read
        to its depth and its changes have not come as far as *snapshot*. Then it joins when they have, so that each
        change has its moment, and `wants_snapshot()` is false until then, or until they show that they will not: by
        coming later with lower numbers. That is counted (`given_up`).
        """
        if not self._answered(ticket):
            return None
        self._drop_ahead()
        if self._is_ahead(snapshot) and self.is_readable(self.depth):
            self._ahead = snapshot
            return None
        event = self._join(snapshot)
        self._let_go()
        return event

    def _join(self, snapshot: BookSnapshot) -> BookEvent:
        self._ahead = None
        made = self._rebuilt(snapshot)
        if made is None:
            return self._go(BookEvent.UNFIT)
        bids, asks, last = made
        sequence = snapshot.sequence if last is None else last.sequence
        agrees = self.bids.agrees(bids) and self.asks.agrees(asks)
        if self.state is BookState.LIVE and sequence == self.sequence and not agrees:
            return self._break(BookEvent.DIFFERS, None)  # one of the two is of another numbering
        if last is None:
            self.sequence, self.exchange_time_ns = snapshot.sequence, snapshot.exchange_time_ns
            self.received_time_ns = snapshot.received_time_ns
        elif last.sequence is not None:
            self.sequence, self.exchange_time_ns = last.sequence, last.exchange_time_ns
            self.received_time_ns = last.received_time_ns
        if self._buffer:
            self._stream = self._buffer[-1]
        self.bids, self.asks = bids, asks
        # What else was asked for may be older than the changes that came: those do not always join the ones to come.
        self._buffer = deque(maxlen=self._most_buffered) if self._asked else None
        self._drop_audit()
        self.seeds += 1
        self.given_up = 0
        return self._go(BookEvent.JOINED)

    def audit(self, ticket: int, snapshot: BookSnapshot | None) -> BookEvent | None:
        """Compare with *snapshot* at its number, now or when the changes have come that far; None where none came.

        DIFFERS where it is another book; UNFIT where it cannot be compared; None where it is the same, or will be seen
        later: then `receive()` returns DIFFERS. None, too, where the book has lost its connection or broken since
        *ticket*. What was not compared is counted.
        """
        self._drop_audit()
        if not self._answered(ticket) or self.state is not BookState.LIVE or snapshot is None:
            self.audits_missed += 1
            self._let_go()
            return None
        if self._is_ahead(snapshot):
            self._auditing = snapshot
            return None
        return self._audit(snapshot)

    def _audit(self, snapshot: BookSnapshot) -> BookEvent | None:
        made = self._rebuilt(snapshot)
        self._auditing = None
        self._let_go()
        if made is None:
            self.audits_missed += 1
            return self._go(BookEvent.UNFIT)
        bids, asks, _ = made
        if self.bids.agrees(bids) and self.asks.agrees(asks):
            self.audits += 1
            return None
        return self._break(BookEvent.DIFFERS, None)

    def _is_ahead(self, snapshot: BookSnapshot) -> bool:
        """Whether the changes may come to *snapshot*, and have not yet."""
        return snapshot.sequence > self.sequence and self._may_fit(snapshot)

    def _may_fit(self, snapshot: BookSnapshot) -> bool:
        last = self._buffer[-1] if self._buffer else self._stream
        return snapshot.problem() is None and (last is None or not _disproves(last, snapshot))

    def _rebuilt(self, snapshot: BookSnapshot) -> tuple[BookSide, BookSide, BookDelta | None] | None:
        """The sides of *snapshot* with all buffered changes after it, and the last of these; None where it is unfit."""
        if not self._may_fit(snapshot):
            return None
        later = [one for one in self._buffer or () if one.sequence is not None and one.sequence > snapshot.sequence]
        if later and later[0].first_sequence > snapshot.sequence + 1:
            return None  # too old
        if not later and self.state is BookState.LIVE and snapshot.sequence < self.sequence:
            return None  # older than what we have, and what came between is not here any more
        bids, asks = self._sides(snapshot)
        sequence = snapshot.sequence
        for delta in later:
            _change(bids, asks, delta.changes, sequence)
            sequence = delta.sequence or sequence
        best_bid, best_ask = bids.best(), asks.best()
        if best_bid is not None and best_ask is not None and best_bid.price >= best_ask.price:
            return None
        return bids, asks, later[-1] if later else None

    def _sides(self, snapshot: BookSnapshot) -> tuple[BookSide, BookSide]:
        limit = snapshot.limit
        return (
            BookSide(Side.BUY, snapshot.bids, whole=limit is None or len(snapshot.bids) < limit),
            BookSide(Side.SELL, snapshot.asks, whole=limit is None or len(snapshot.asks) < limit),
        )

    # -- reading ------------------------------------------------------------------------------------------------------

    def is_readable(self, depth: int) -> bool:
        """Whether it is live and knows the *depth* best levels of each side."""
        return self.state is BookState.LIVE and self.bids.covers(depth) and self.asks.covers(depth)

    def check_readable(self, depth: int = 1) -> None:
        """Raise `BookNotReady` unless it can be read to *depth*."""
        if not self.is_readable(depth):
            thin = f"fewer than {depth} levels are known" if self.state is BookState.LIVE else self.state.value
            raise BookNotReady(self.topic.symbol, thin)

    def view(self, depth: int | None) -> OrderBook:
        """The *depth* best levels of each side as they stand, or all that are known. Raises `BookNotReady`."""
        self.check_readable(1 if depth is None else depth)
        last = self._stream if self._stream is not None and self._stream.sequence == self.sequence else None
        made: OrderBook = order_book(
            self.topic,
            self.topic.symbol,
            self.sequence,
            self.exchange_time_ns,
            self.received_time_ns,
            self.bids.top(depth) if depth is not None else tuple(self.bids),
            self.asks.top(depth) if depth is not None else tuple(self.asks),
            None,
            last is not None and last.late,
            last is not None and last.misdated,
        )
        return made

    # -- inside -------------------------------------------------------------------------------------------------------

    def _go(self, event: BookEvent) -> BookEvent:
        self.state = TRANSITIONS[self.state, event]
        return event

    def _apply(self, delta: BookDelta) -> None:
        assert delta.sequence is not None
        _change(self.bids, self.asks, delta.changes, self.sequence)
        self._stream = delta
        self.sequence = delta.sequence
        self.exchange_time_ns = delta.exchange_time_ns
        self.received_time_ns = delta.received_time_ns

    def _crosses(self) -> bool:
        bid, ask = self.bids.best(), self.asks.best()
        return bid is not None and ask is not None and bid.price >= ask.price

    def _break(self, event: BookEvent, delta: BookDelta | None) -> BookEvent:
        """Stop being live; a *delta* that does not join is the first of the new start."""
        if event is not BookEvent.GAP:
            self.missing = None
        self._forget()
        self._buffer = deque([] if delta is None else [delta], maxlen=self._most_buffered)
        return self._go(event)

    def _answered(self, ticket: int) -> bool:
        """What was asked for with *ticket* has come or failed. False where the book began anew since."""
        if ticket != self._ticket or self.state is BookState.WAITING:
            return False
        self._asked = max(0, self._asked - 1)
        return True

    def _let_go(self) -> None:
        """Keep no changes where no snapshot is to come that may be older than they."""
        held = self._ahead is not None or self._auditing is not None
        if self.state is BookState.LIVE and not self._asked and not held and not self.wants_snapshot():
            self._buffer = None

    def _void_tickets(self) -> None:
        self._ticket += 1
        self._asked = 0

    def _forget(self) -> None:
        self._void_tickets()
        self.bids, self.asks = BookSide(Side.BUY), BookSide(Side.SELL)
        self._drop_ahead()
        self.given_up = 0
        self._drop_audit()
        self._stream = None

    def _drop_ahead(self) -> None:
        self.held_in_vain += self._ahead is not None
        self._ahead = None

    def _drop_audit(self) -> None:
        self.audits_missed += self._auditing is not None
        self._auditing = None

    def _keep(self, delta: BookDelta) -> None:
        """Buffer *delta*, so that what is buffered has no holes and stands in order."""
        assert self._buffer is not None
        if self._buffer and delta.sequence is not None:
            last = self._buffer[-1]
            assert last.sequence is not None
            if delta.sequence <= last.sequence:
                if not _is_newer(delta, last.exchange_time_ns):
                    return
                self._buffer.clear()
                self._void_tickets()  # a snapshot under way may be of the old numbering
            elif delta.first_sequence > last.sequence + 1:
                self._buffer.clear()  # what stands before a hole joins nothing
        self._buffer.append(delta)

    def _is_renumbered(self, delta: BookDelta) -> bool:
        """Whether *delta*, with a number that the live book has already, is of a new numbering and no old message."""
        last = self._stream
        if last is None or _number(delta) > _number(last):  # a snapshot was ahead, and the changes are catching up
            self._stream = delta
            return _is_newer(delta, self.exchange_time_ns, _LATE)
        return _is_newer(delta, last.exchange_time_ns)


def _number(delta: BookDelta) -> int:
    return delta.sequence or 0


def _is_newer(delta: BookDelta, than_ns: int | None, slack_ns: int = 0) -> bool:
    return delta.exchange_time_ns is not None and than_ns is not None and delta.exchange_time_ns > than_ns + slack_ns


def _settles(delta: BookDelta, snapshot: BookSnapshot) -> bool:
    """Whether the changes have come to *snapshot* with *delta*, or never will."""
    return _number(delta) >= snapshot.sequence or _disproves(delta, snapshot)


def _disproves(delta: BookDelta, snapshot: BookSnapshot) -> bool:
    """Whether *delta* has no higher number than *snapshot* though it is later: that one is of another numbering.

    With a lower one it is too late in any case after `_HELD_AT_MOST`: a snapshot may have no time, or a wrong one.
    """
    number = _number(delta)
    if number > snapshot.sequence:
        return False
    if _is_newer(delta, snapshot.exchange_time_ns, _LATE):
        return True
    held = delta.received_time_ns - snapshot.received_time_ns
    return number < snapshot.sequence and held > _HELD_AT_MOST


def _change(bids: BookSide, asks: BookSide, changes: Iterable[BookChange], after: int) -> None:
    for side, price, size, sequence in changes:
        # Price 0 changes nothing but the sequence (KuCoin, level-2 increment).
        if sequence > after and price:
            (bids if side is Side.BUY else asks).set(price, size)
