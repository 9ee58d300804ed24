"""The topic of all symbols: one on the wire, and a stream for each symbol, so that each is told its own losses."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn

from ._race import Heat
from ._streams import Stream, newest
from .errors import MessageRefused
from .protocol.events import GapCause
from .protocol.merge import Verdict

if TYPE_CHECKING:
    from collections.abc import Collection

    from ._channels import Sink
    from ._race import Race
    from .protocol.market import Topic
    from .protocol.updates import Update

MOST_SYMBOLS = 10_000
"""Symbols that are kept apart; messages of others are refused. KuCoin has about 1,000 (docs/protocol.rst)."""


def stream_of(topic: Topic, *, numbers: type[Decimal] | type[float] = Decimal, keep_raw: bool = False) -> Stream:
    """The stream that *topic* needs."""
    made = WholeMarket if topic.channel.symbol_in_subject else Stream
    return made(topic, numbers=numbers, keep_raw=keep_raw)


class WholeMarket(Stream):
    """Gets the first update of each symbol, and makes it a part with a route of its own, which gets all later ones.

    So the way of a message is that of any other topic. Parts share its sinks and its holes; they go with its routes.
    """

    def __init__(self, topic: Topic, *, numbers: type[Decimal] | type[float] = Decimal, keep_raw: bool = False) -> None:
        super().__init__(topic, numbers=numbers, keep_raw=keep_raw)
        self._parts: dict[str, Stream] = {}
        self._subjects: dict[str | None, tuple[Stream, ...]] = {}
        self._generation = 0
        self.take = self._take_first
        self._choose_stagers()

    def routed(self, subjects: dict[str | None, tuple[Stream, ...]]) -> None:
        self._subjects = subjects
        subjects.update((symbol, (part,)) for symbol, part in self._parts.items())

    def add(self, sink: Sink) -> None:
        super().add(sink)
        for part in self._parts.values():
            part.add(sink)

    def remove(self, sink: Sink) -> None:
        super().remove(sink)
        for part in self._parts.values():
            part.remove(sink)

    def last(self, topic: Topic) -> Update | None:
        if not topic.is_part:
            return newest(part.latest for part in self._parts.values())
        part = self._parts.get(topic.symbol)
        return None if part is None else part.latest

    def lasts(self) -> tuple[Update, ...]:
        return tuple(update for part in self._parts.values() for update in part.lasts())

    def enter(self, race: Race) -> None:
        self.heat = Heat(race)  # each part runs its own
        for part in self._parts.values():
            part.enter(race)

    def begin_link(self) -> None:
        super().begin_link()
        for part in self._parts.values():
            part.begin_link()

    def came_on_link(self) -> bool:
        return super().came_on_link() or any(part.came_on_link() for part in self._parts.values())

    def cut(self) -> None:
        super().cut()
        for part in self._parts.values():
            part.cut()

    def miss(self, sinks: Collection[Sink], cause: GapCause = GapCause.RECONNECT) -> None:
        super().miss(sinks, cause)
        for part in self._parts.values():
            part.miss(sinks, cause)

    def _take_first(self, update: Update, generation: int) -> Verdict:
        # Nothing has come of its symbol: there is nothing to compare with, until it has a part.
        self._generation = generation
        return Verdict.NEW

    def _choose_stagers(self) -> None:
        self.stagers = (self._begin_part,)

    def _begin_part(self, update: Update) -> None:
        part = self._parts[update.symbol] = Stream(update.topic, self)
        part.decode = self.decode
        if self.heat is not None:
            part.enter(self.heat.race)
        self._subjects[update.symbol] = (part,)
        if len(self._parts) == MOST_SYMBOLS:
            self.decode = _refuse
        for sink in self.sinks:
            part.add(sink)
        for sink, cause in self._missing.items():
            part.miss([sink], cause)
        part.take(update, self._generation)
        for append in part.stagers:
            append(update)
        part.latest = update


def _refuse(*_: Any) -> NoReturn:
    raise MessageRefused("subject", f"of more than {MOST_SYMBOLS:,} symbols")
