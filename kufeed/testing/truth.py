"""The exchange's own record of what it published, on which connections it was put, and what became of it there."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Literal

import attrs
import trio

from kufeed.testing.linefaults import Bandwidth, Cut, Delay, Drip, Garble, Silence, StopReading

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kufeed.testing.hazards import Fault
    from kufeed.testing.market import MarketName, SymbolModel
    from kufeed.testing.session import Session
    from kufeed.testing.wire import ActiveTopic

_ON_BYTES = (Bandwidth, Cut, Delay, Drip, Garble, Silence, StopReading)


class Fate(Enum):
    """What became of a publication on one connection that held its topic."""

    SENT = "sent"
    """It was queued as it is. Whether the client got it depends on how long the connection lived."""
    LATE = "late"
    """It was queued after later ones of its topic."""
    WITHHELD = "withheld"
    """A fault has kept it back."""
    DAMAGED = "damaged"
    """It was sent so that a client can see that it is not valid."""
    FULL = "full"
    """It found the connection's buffer full: the client reads too slowly."""
    CLOSED = "closed"
    """The connection was being closed."""


@attrs.define(eq=False)
class Publication:
    """One message that the market published for a wire topic, whether anybody held that or not."""

    wire: str
    number: int
    """Its place among those of its topic, from 0."""
    at: float
    """When, by `trio.current_time()`."""
    text: str
    played: bool = False
    """Whether `Exchange.play()` has sent it, and not the market."""
    fates: dict[Life, Fate] = attrs.field(factory=dict)
    """Of each connection that held the topic then; empty where nobody did."""


@attrs.define(eq=False)
class Held:
    """That a connection held a topic: from and until when."""

    since: float
    until: float = math.inf


@attrs.define(eq=False)
class Life:
    """One WebSocket connection, from its welcome to its end."""

    session: Session
    opened_at: float
    ended_at: float = math.inf
    held: dict[str, list[Held]] = attrs.field(factory=dict)
    """By wire topic, when it held it."""
    sent_at: list[float] = attrs.field(factory=list)
    """When something was pushed on it."""
    tampered_at: list[float] = attrs.field(factory=list)
    """When something else was put on it than what was published just then."""

    @property
    def market(self) -> MarketName:
        """Of which market it is."""
        return self.session.market

    def held_throughout(self, wire: str, since: float, until: float) -> bool:
        """Whether it lived and held *wire* from *since* to *until*."""
        return any(one.since <= since and until <= one.until for one in self.held.get(wire, ()))

    def was_tampered_with(self, since: float, until: float) -> bool:
        """Whether anything else than what was published was put on it between these moments."""
        return any(since <= at <= until for at in self.tampered_at)


@attrs.define(eq=False)
class Strike:
    """That a fault has struck: when, and until when; infinite while it goes on."""

    fault: Fault
    at: float
    until: float = math.inf


Limit = Literal["dials", "connections", "frames", "symbols", "topics", "weight"]


@attrs.frozen
class Refusal:
    """That the exchange had to refuse something by a limit of its own: which one, when, and where."""

    at: float
    limit: Limit
    market: MarketName
    text: str


class Truth:
    """What an exchange remembers with ``Exchange(ledger=True)``: everything, so it is for runs that end.

    Of each wire topic that was ever held, all that was published since: also while nobody held it. The books at each
    sequence are in `Exchange.book`.
    """

    def __init__(self) -> None:
        self.published: dict[str, list[Publication]] = {}
        """By wire topic, in order."""
        self.lives: list[Life] = []
        """Every WebSocket connection, oldest first."""
        self.refusals: list[Refusal] = []
        """What was refused by a limit."""
        self.strikes: list[Strike] = []
        """The faults of plans that were played, and of those noted by hand, in the order in which they struck."""
        self.frozen: list[Held] = []
        """When the whole exchange was silent (`Exchange.freeze`)."""
        self.books: dict[str, set[tuple[int, int]]] = {}
        """Numbers of the books that were told on request, by symbol, each with the time that it was told with."""
        self.unheld: dict[str, ActiveTopic] = {}
        """Wire topics that were held once, and are not now."""
        self.connections = 0
        """Byte streams that are open now, those for requests too."""
        self._live: dict[Session, Life] = {}
        self._held_back: dict[tuple[Session, str], Publication] = {}

    def __repr__(self) -> str:
        count = sum(map(len, self.published.values()))
        return f"<Truth of {len(self.published)} topics: {count} publications, {len(self.lives)} connections>"

    def was_disturbed(self, life: Life, until: float) -> bool:
        """Whether what was sent on *life* before *until* may have reached the client late, changed or not at all.

        Also where a fault of the byte stream is over: what waited, and what some of them have left, is not known here.
        """
        session = life.session
        return any(at is not None and at <= until for at in (session.muted_at, session.stopped_reading_at)) or any(
            isinstance(strike.fault, _ON_BYTES) and strike.at <= until and life.opened_at <= strike.until
            for strike in self.strikes
        )

    # What follows is called by the exchange, and by who plays faults.

    def publish(self, wire: str, text: str, at: float, *, played: bool = False) -> Publication:
        """The market has published *text* for *wire*."""
        row = self.published.setdefault(wire, [])
        publication = Publication(wire, len(row), at, text, played)
        row.append(publication)
        return publication

    def put(self, publication: Publication, session: Session, texts: Iterable[str], accepted: Sequence[bool]) -> None:
        """On *session*, *texts* were queued when it was the turn of *publication*, as far as they were *accepted*.

        Where none of them is its own, it is kept back; another one that was kept back comes late.
        """
        life = self._live.get(session)
        if life is None:
            return
        fate, foreign, count = Fate.WITHHELD, False, 0
        for text, taken in zip(texts, accepted, strict=True):
            count += 1
            reached = Fate.SENT if taken else Fate.FULL if session.is_open else Fate.CLOSED
            if text == publication.text and fate is not Fate.SENT:
                fate = reached
            elif (late := self._held_back.pop((session, text), None)) is not None:
                late.fates[life] = Fate.LATE if taken else reached
            else:
                foreign = True
        if fate is Fate.WITHHELD:
            if foreign:
                fate = Fate.DAMAGED
            else:
                self._held_back[session, publication.text] = publication
        if foreign or count != 1 or fate is Fate.DAMAGED:
            life.tampered_at.append(publication.at)
        if any(accepted):
            life.sent_at.append(publication.at)
        publication.fates[life] = fate

    def opened(self, session: Session) -> None:
        """*session* begins."""
        life = self._live[session] = Life(session, trio.current_time())
        self.lives.append(life)

    def ended(self, session: Session) -> None:
        """*session* is gone, and has left its topics."""
        self._live.pop(session).ended_at = trio.current_time()

    def joined(self, session: Session, topic: ActiveTopic) -> None:
        """*session* holds *topic* from now on."""
        self._live[session].held.setdefault(topic.name, []).append(Held(trio.current_time()))
        self.published.setdefault(topic.name, [])
        self.unheld.pop(topic.name, None)

    def left(self, session: Session, topic: ActiveTopic, *, last: bool) -> None:
        """*session* holds *topic* no more; with *last* nobody does."""
        self._live[session].held[topic.name][-1].until = trio.current_time()
        if last:
            self.unheld[topic.name] = topic

    def unheld_about(self, model: SymbolModel) -> list[ActiveTopic]:
        """Those of the `unheld` topics that tell about *model*."""
        is_spot = model.instrument.market == "spot"
        return [one for one in self.unheld.values() if one.model is model or (is_spot and one.argument == "all")]

    def refused(self, limit: Limit, market: MarketName, text: str) -> None:
        """Something was more than *limit* allows."""
        self.refusals.append(Refusal(trio.current_time(), limit, market, text))

    def struck(self, fault: Fault) -> Strike:
        """*fault* strikes now. Set `until` of what is returned where it has an end."""
        strike = Strike(fault, trio.current_time())
        self.strikes.append(strike)
        return strike

    def froze(self) -> None:
        """The exchange falls silent."""
        if not self.frozen or self.frozen[-1].until < math.inf:
            self.frozen.append(Held(trio.current_time()))

    def thawed(self) -> None:
        """The exchange goes on."""
        if self.frozen:
            self.frozen[-1].until = min(self.frozen[-1].until, trio.current_time())
