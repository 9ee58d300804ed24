"""What is wrong with the books that a witness saw, or says it holds."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import attrs

from kufeed import GapCause, Overflow, UpdateType
from kufeed.testing.findings import Finding, Offence
from kufeed.testing.truth import Fate
from kufeed.testing.witness import Claim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kufeed import Level, Topic
    from kufeed.testing.case import Seen, Testimony
    from kufeed.testing.market import BookSide, MarketModel, SymbolModel

_BROUGHT = frozenset({Fate.SENT, Fate.LATE})
"""Changes that came late can be put in their place; of what was garbled somewhere, nobody knows what it was."""


@attrs.define(eq=False)
class Look:
    """A book as somebody holds it to be, and how many changes ago it was like that; None where it never was."""

    symbol: str
    sequence: int
    bids: Sequence[Level]
    asks: Sequence[Level]
    at: float
    topic: Topic | None = None
    depth: int | None = None
    """How many levels of each side it must have where there are so many; None where as many as it has are enough."""
    ago: int | None = None


def judge_books(testimony: Testimony, market: MarketModel) -> Iterator[Finding]:
    """Everything that is wrong with views of books, and with what the witness says of books of its own."""
    depth = testimony.witness.depth
    shown = {topic: [_look(seen, depth) for seen in trail] for topic, trail in testimony.views.items()}
    claimed = [
        Look(what.symbol, what.sequence, what.bids, what.asks, sighting.at)
        for sighting in testimony.witness.sightings
        if isinstance(what := sighting.what, Claim)
    ]
    yield from _false(testimony, market, [*claimed, *(look for looks in shown.values() for look in looks)])
    for topic, looks in shown.items():
        yield from _out_of_order(testimony, topic, looks)
        yield from _silent(testimony, topic)
        yield from _avoidable(testimony, topic)


def _look(seen: Seen, depth: int | None) -> Look:
    view: Any = seen.update
    return Look(view.symbol, view.sequence, view.bids, view.asks, seen.at, view.topic, depth)


def _false(testimony: Testimony, market: MarketModel, looks: Sequence[Look]) -> Iterator[Finding]:
    by_symbol: dict[str, list[Look]] = {}
    for look in looks:
        by_symbol.setdefault(look.symbol, []).append(look)
    for symbol, of_one in by_symbol.items():
        model = market.known(symbol)
        wrong = of_one if model is None else compare(model, of_one)
        for look in wrong:
            if not testimony.case.was_garbled(look.at):
                text = f"the book of {symbol} at {look.sequence} was not like this: {_best(look)}"
                yield Finding(Offence.FALSE_BOOK, text, look.topic, look.at)


def compare(model: SymbolModel, looks: Sequence[Look]) -> list[Look]:
    """Go back over the book's changes, and note when it was as each of *looks* says; those that are wrong.

    What is forgotten is not wrong.
    """
    wanted: dict[int, list[Look]] = {}
    for look in looks:
        wanted.setdefault(look.sequence, []).append(look)
    equals = _comparer(model)
    left, known = len(looks), set[int]()
    for ago, (sequence, bids, asks) in enumerate(model.rewind()):
        for look in wanted.get(sequence, ()):
            known.add(sequence)
            if look.ago is None and equals(bids, look.bids, look.depth) and equals(asks, look.asks, look.depth):
                look.ago = ago
                left -= 1
        if not left:
            break
    return [look for look in looks if look.ago is None and (model.remembers_all or look.sequence in known)]


def _comparer(model: SymbolModel) -> Callable[[BookSide, Sequence[Level], int | None], bool]:
    """Whether the best levels of a side, so many or as many as these, are these."""
    instrument = model.instrument
    known: dict[tuple[type, int, int], tuple[Any, Any]] = {}

    def equals(side: BookSide, levels: Sequence[Level], depth: int | None) -> bool:
        # A feed with `numbers=float` has the nearest float, which does not equal the number that was sent.
        kind: type[Any] = type(levels[0].price) if levels else Decimal
        true: list[tuple[Any, Any]] = []
        for price, size in side.top(len(levels) if depth is None else depth):
            level = known.get((kind, price, size))
            if level is None:
                level = kind(instrument.price_text(price)), kind(instrument.size_text(size))
                known[kind, price, size] = level
            true.append(level)
        return true == list(levels)

    return equals


def _best(look: Look) -> str:
    bid = look.bids[0] if look.bids else "no bids"
    ask = look.asks[0] if look.asks else "no asks"
    return f"{bid} / {ask}, {len(look.bids)} and {len(look.asks)} levels"


def _out_of_order(testimony: Testimony, topic: Topic, looks: Sequence[Look]) -> Iterator[Finding]:
    last: int | None = None
    begun = -math.inf
    for look, seen in zip(looks, testimony.views[topic], strict=True):
        if look.ago is None:
            continue
        before, begun = begun, testimony.begun(topic, look.at)
        # Who has left the book and comes again is shown it as it stands.
        if last is not None and look.ago == last and not seen.has_hole and begun == before:
            yield Finding(Offence.DUPLICATE, f"the book of {topic} at {look.sequence} was seen before", topic, look.at)
        elif last is not None and look.ago > last:
            text = f"the book of {topic} at {look.sequence} was seen after a later one"
            yield Finding(Offence.DISORDER, text, topic, look.at)
        last = look.ago if last is None else min(last, look.ago)


def _silent(testimony: Testimony, topic: Topic) -> Iterator[Finding]:
    """Changes that no connection has brought, between two views without a word: the book cannot have been known."""
    readings = testimony.case.readings_of(topic)
    if readings.goes_backward:
        return
    ends = [reading.update.sequence for reading in readings.all]
    before: int | None = None
    for seen in testimony.views[topic]:
        after = bisect_right(ends, seen.update.sequence)
        missing = [
            one
            for one in readings.all[before:after]
            if before is not None
            and testimony.was_to_see(one, readings)
            and _BROUGHT.isdisjoint(testimony.put(one.publication).values())
        ]
        if missing and not seen.has_hole:
            text = (
                f"{len(missing)} changes before the view at {seen.update.sequence} were on no connection, from"
                f" {missing[0].update.first_sequence} on, and no gap was told"
            )
            yield Finding(Offence.SILENT_LOSS, text, topic, seen.at)
        before = after


def _avoidable(testimony: Testimony, topic: Topic) -> Iterator[Finding]:
    """Holes that were told between two views though nothing had happened, and one connection brought every change.

    That a book itself was found wrong, or thin, is believed.
    """
    case, readings = testimony.case, testimony.case.readings_of(topic)
    if readings.goes_backward or testimony.policy(UpdateType.BOOK) is Overflow.BLOCK:
        return
    ends = [reading.update.sequence for reading in readings.all]
    for before, after in pairwise(testimony.views[topic]):
        told = [gap for gap in after.gaps if gap.cause in (GapCause.RECONNECT, GapCause.SEQUENCE)]
        if not told or case.was_struck(before.at, after.at) or testimony.begun(topic, after.at) >= before.at:
            continue
        first = bisect_left(ends, before.update.sequence)
        span = readings.all[first : bisect_right(ends, after.update.sequence)]
        if good := testimony.good_lives(span, after.at):
            text = f"{told[0]} was told, though nothing happened and {good[0].session} has brought every change"
            yield Finding(Offence.AVOIDABLE_LOSS, text, topic, after.at)
