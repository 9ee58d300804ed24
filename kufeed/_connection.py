"""One connection: a set of topics, and the links that carry them.

Most of the time that is one link. There are more where `FeedConfig.redundancy` asks for it, and while a link that grows
old is replaced. All of a connection's links carry the same topics and deliver into the same streams, which take what
comes first. A link that joins another is on standby until nothing can be lost or come twice at the seam:

    dialled --welcome--> all that the other has acknowledged is acknowledged here
            --a ping and its pong on the other link--> what was sent on it before has come
            --overlap--> live: what was kept follows what the other link brought; an old link ends
"""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio

from ._delivery import hand_out, wait_for_room
from ._lifecycle import ExchangeComplained, LinkReplaced, Notice
from ._line import OLD_AGE, Line, LinkStatistics
from ._race import Race
from ._streams import Routes
from ._supervisor import one_error
from .errors import LinkError, LinkSilent
from .protocol import session as events
from .protocol.fields import shown
from .protocol.messages import read_error

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from ._channels import Sink
    from ._link import Surroundings
    from ._streams import Stream
    from .protocol.market import Topic

_log = logging.getLogger("kufeed.connection")

OVERLAP = 1.0
"""Seconds that an old link goes on after its last pong: whether the exchange answers pings in order with what it
pushes, nobody has said."""


_LATER = 60.0
_NOTICE_EVERY = 600.0
"""Seconds in which a server that announces its end is heard once: it may say so every second."""
_SPEAKS_OF_AN_END = re.compile("clos|shut|restart|reconnect|maintenance|upgrad|go.*away|disconnect", re.IGNORECASE)
"""Of a notice: how the exchange would announce that it closes a link, it has not written. Taking a word wrong costs one
dial and loses nothing."""


class Owner(Protocol):
    """What a connection tells the pool. None of these may wait or raise."""

    def acked(self, connection: Connection, topics: Sequence[Topic]) -> None: ...

    def lost(self, connection: Connection, streams: Collection[Stream], cause: LinkError) -> None:
        """*streams* came on a link that is gone, and come on no other."""
        ...

    def rejected(self, connection: Connection, topic: Topic, code: int, message: str) -> None: ...

    def unanswered(self, connection: Connection, topics: Sequence[Topic]) -> list[Topic]:
        """Tells those who wait, and returns the topics that others still want: they were being restored."""
        ...

    def link_full(self, connection: Connection, topics: Sequence[Topic]) -> None: ...

    def gave_up(self, connection: Connection, cause: LinkError) -> None: ...

    def circuit_opened(self, connection: Connection) -> None:
        """It has given up, or has failed again since."""
        ...


@attrs.frozen
class ConnectionStatistics:
    """One connection of a feed at this moment."""

    number: int
    market: str
    topics: int
    acked: int
    """Topics the exchange has acknowledged on a link that is up now."""
    dials: int
    """Times a link was dialled, successfully or not."""
    failures: int
    """Links lost or not made, in a row; a link that lives `healthy_after` seconds ends the row."""
    last_failure: str | None
    links: tuple[LinkStatistics, ...]


class Connection:
    """Carries up to `capacity` topics. `run()` is its whole life; everything else returns at once."""

    def __init__(self, number: int, around: Surroundings, owner: Owner, *, exclusive_to: Sink | None = None) -> None:
        self.number = number
        self.market = around.market
        self.capacity = around.config.topics_per_connection or self.market.topics_per_connection
        self.exclusive_to = exclusive_to
        """The one subscription that may hold its readers; None where many share it, and none may."""
        self.retired = False
        self.routes = Routes()
        self.idle_since = math.inf
        self._around = around
        self._owner = owner
        self._lines: list[Line] = []
        self._generation = 0
        self._last_failure: LinkError | None = None
        self._changed = trio.Event()
        self._race = Race() if around.config.redundancy > 1 else None
        self._announced: dict[str | None, float] = {}
        """By instance server, when it has announced an end."""
        self._refused_on: Line | None = None
        """Whose link has refused what is being told of."""
        self._nursery: trio.Nursery | None = None

    # -- topics: called by the pool -----------------------------------------------------------------------------------

    def room(self) -> int:
        return 0 if self.retired else max(0, self.capacity - len(self.routes.by_wire))

    def is_busy(self) -> bool:
        """Whether it has topics to carry; another lingers, or ends."""
        return bool(self.routes.by_wire) and not self.retired

    def carries(self, wire: str) -> bool:
        return wire in self.routes.by_wire

    def has_acked(self, wire: str) -> bool:
        return self._acked_beside(None, wire)

    def acked_count(self) -> int:
        return len(set[str]().union(*(line.acked for line in self._lines if line.is_live)))

    def add(self, streams: Iterable[Stream]) -> None:
        """Carry *streams*; a wire topic that is new here is subscribed to, now or once a link is up."""
        new: list[Topic] = []
        for stream in streams:
            if not self.carries(stream.topic.wire):
                new.append(stream.topic)
            self.routes.add(stream)
            if self._race is not None and (stream.heat is None or stream.heat.race is not self._race):
                stream.enter(self._race)
            stream.begin_link()
        self._set_idle_since(math.inf)
        self._ask(events.Session.subscribe, new)

    def remove(self, streams: Iterable[Stream]) -> None:
        """Carry *streams* no more; a wire topic that nobody shares is unsubscribed where the exchange took it."""
        gone: list[Topic] = []
        for stream in streams:
            self.routes.remove(stream)
            if not self.carries(stream.topic.wire):
                gone.append(stream.topic)
        for line in self._lines:
            line.acked.difference_update(topic.wire for topic in gone)
        self._ask(events.Session.unsubscribe, gone, but=self._refused_on)
        self._stir()
        if not self.routes.by_wire:
            self._set_idle_since(trio.current_time())
            for line in self._lines:
                line.stop_waiting()

    def resubscribe(self, topics: list[Topic]) -> None:
        """Give *topics* back and ask for them anew, on each link; make one anew that brings nothing but pongs.

        They are known to be dead, so that a link on which nothing of several topics comes is not merely quiet.
        """
        now, patience = trio.current_time(), self._around.config.stale_after or math.inf
        for line in self._lines:
            link = line.link
            if link is None or line.up_since is None:
                continue
            silent_for = now - max(link.data_at, line.up_since)
            if len(line.acked) > 1 and silent_for >= patience:
                link.end(LinkSilent("data", silent_for))
            line.acked.difference_update(topic.wire for topic in topics)
        self._ask(events.Session.resubscribe, topics)
        self._stir()

    def streams(self) -> list[Stream]:
        return self.routes.streams()

    def try_now(self) -> None:
        """Dial at once where a link waits for its back-off or the circuit's cool-down."""
        for line in self._lines:
            line.try_now()

    @property
    def failed(self) -> LinkError | None:
        """Why the attempts are used up, while they are: for every link."""
        failures = [line.failed for line in self._lines if not line.retired]
        return failures[-1] if failures and None not in failures else None

    def _ask(
        self,
        what: Callable[[events.Session, Iterable[Topic]], None],
        topics: list[Topic],
        *,
        but: Line | None = None,
    ) -> None:
        for line in self._lines:
            session = None if line.link is None else line.link.session
            if line is not but and session is not None and session.welcomed and topics:
                what(session, topics)
                assert line.link is not None
                line.link.stir()

    def _set_idle_since(self, time: float) -> None:
        self.idle_since = time
        for line in self._lines:
            line.set_idle_since(time)

    def retire(self) -> None:
        """Carry nothing any more, and end."""
        self.retired = True
        for line in self._lines:
            line.retire()
        self._stir()

    # -- its lines ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep links up while there are topics to carry; returns once it has been idle for `linger` seconds."""
        if self.retired:
            return
        with one_error() as body:
            async with trio.open_nursery() as self._nursery:
                with body.watched():
                    for place in range(self._around.config.redundancy):
                        self._start(Line(place, self._around, self))

    def _start(self, line: Line) -> None:
        assert self._nursery is not None
        self._lines.append(line)
        self._nursery.start_soon(self._run_line, line, name=f"line {line.place}")

    async def _run_line(self, line: Line) -> None:
        try:
            await line.run()
        finally:
            self._lines.remove(line)
            self._stir()

    def begin(self, line: Line) -> tuple[int, bool]:
        self._generation += 1
        if not any(other.is_live for other in self._lines):
            for stream in self.streams():
                stream.begin_link()
        if self._race is not None:
            self._race.begin(self._generation)
        return self._generation, len(self._lines) > 1

    def taken_beside(self, line: Line) -> Collection[str]:
        return {one.server_name for one in self._lines if one not in (line, line.replaces) and one.server_name}

    def is_carried_beside(self, line: Line) -> bool:
        return self.exclusive_to is not None and any(one.is_live for one in self._lines if one is not line)

    async def wait_busy(self, line: Line) -> bool:
        def lingers() -> bool:
            beside = any(one.up_since is not None for one in self._lines if one is not line)
            return beside and not (self.is_busy() or self.retired or line.retired)

        await self._until(lambda: not lingers())
        if not self.is_busy():
            self.retire()
        return not line.retired

    def rotate(self, line: Line, reason: str) -> None:
        """Have another link take the place of that of *line*, once it is up and has all that this one has."""
        if line.retired or self.retired or any(other.replaces is line for other in self._lines):
            return
        now = trio.current_time()
        if reason != OLD_AGE and now < self._announced.get(line.server_name, -math.inf) + _NOTICE_EVERY:
            return
        if not line.is_live and line.link is not None:  # it is about to replace another: later, if it still must
            line.link.old_at = now + _LATER
            return
        if reason != OLD_AGE:
            self._announced = {server: at for server, at in self._announced.items() if now < at + _NOTICE_EVERY}
            self._announced[line.server_name] = now
        self._start(Line(line.place, self._around, self, replaces=line, reason=reason))

    async def join(self, line: Line) -> None:
        """Wait, on standby, until what *line* brings may be delivered: at once where no other link is left."""
        await self._until(lambda: line.up_since is not None)
        while not self._is_next(line):
            if live := [one for one in self._lines if one.is_live]:
                # What goes decides, where it lives: all that it has must come on the new link.
                other = line.replaces if line.replaces in live else live[0]
                if await self._is_at_seam(line, other):
                    break
            else:
                await self._until(lambda: self._is_next(line) or any(one.is_live for one in self._lines))
        self._go_live(line)

    def _is_next(self, line: Line) -> bool:
        """Whether no link delivers, and none on standby has more to hand out first.

        That is the one with most topics, then the oldest: what it has kept reaches back furthest. The others join it.
        """
        if any(one.is_live for one in self._lines):
            return False
        standing_by = [
            one
            for one in self._lines
            if one.up_since is not None and one.link is not None and one.link.standby is not None and not one.retired
        ]
        return line is max(standing_by, key=lambda one: (len(one.acked), one.age()), default=line)

    async def _is_at_seam(self, line: Line, other: Line) -> bool:
        """Whether, after some waiting, what *line* has kept reaches back to before what *other* has delivered."""
        await self._until(lambda: not other.is_live or line.has_all_of(other))
        dropped = _dropped(line)
        has_all = await other.wait_pong()
        with trio.move_on_after(OVERLAP):
            await self._until(lambda: not other.is_live)
        return has_all and other.is_live and line.has_all_of(other) and _dropped(line) == dropped

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _stir(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _go_live(self, line: Line) -> None:
        new = [topic for topic in self._one_topic_each() if topic.wire in line.acked and not self.has_acked(topic.wire)]
        line.is_live = True
        if new:
            self._owner.acked(self, new)
        if (old := line.replaces) is not None:
            self._end_replaced(line, old)
        self._stir()

    def _end_replaced(self, line: Line, old: Line) -> None:
        assert line.link is not None
        self._around.journal.tell(
            LinkReplaced(self.number, self.market.name, line.link.host or "", line.reason, old.age())
        )
        if self._race is not None and old.link is not None:
            self._race.forget(old.link.generation)
        line.replaces = None
        if old.link is not None:
            old.link.is_succeeded = True
        old.retire()

    def _acked_beside(self, line: Line | None, wire: str) -> bool:
        """Whether *wire* is acknowledged on a link that delivers, other than that of *line*."""
        return any(other.is_live and wire in other.acked for other in self._lines if other is not line)

    # -- what lines tell ----------------------------------------------------------------------------------------------

    def lost(self, line: Line, cause: LinkError) -> None:
        self._last_failure = cause
        if self._race is not None and line.link is not None:
            self._race.forget(line.link.generation)
        was_live, line.is_live = line.is_live, False
        if was_live:
            alone = not any(other.is_live for other in self._lines)
            self._owner.lost(
                self,
                [
                    stream
                    for stream in self.streams()
                    if not self._acked_beside(None, stream.topic.wire)
                    and (stream.topic.wire in line.acked or (alone and (stream.came_on_link() or stream.is_up)))
                ],
                cause,
            )
            if not alone and self.exclusive_to is not None:
                # What the reader of the link has staged and found no room for, it has left.
                assert self._nursery is not None
                self._nursery.start_soon(self._hand_out_left, name="leftovers")
        successor = next((other for other in self._lines if other.replaces is line), None)
        if successor is not None:  # it takes over, as urgent as any other now
            successor.replaces = None
            successor.stop_waiting()
            line.retire()
            if self.failed is not None:
                self.gave_up(self.failed)
                self.circuit_opened()
        self._stir()

    async def _hand_out_left(self) -> None:
        left = {sink for stream in self.streams() for sink in stream.sinks if sink.has_staged()}
        await hand_out(left, wait_for_room)

    def gave_up(self, cause: LinkError) -> None:
        if self.failed is not None:
            self._owner.gave_up(self, cause)

    def circuit_opened(self) -> None:
        if self.failed is not None:
            self._owner.circuit_opened(self)

    def handle(self, line: Line, event: events.Event) -> None:
        assert line.link is not None
        session = line.link.session
        assert session is not None
        self._refused_on = line if isinstance(event, events.Rejected | events.LinkFull) else None
        match event:
            case events.Welcomed():
                session.subscribe(self._one_topic_each())
            case events.Acked(topics):
                self._acked(line, [topic for topic in topics if self.carries(topic.wire)])
            case events.Rejected(topic, code, message):
                self._owner.rejected(self, topic, code, message)
            case events.Unanswered(topics):
                self._unanswered(line, session, [topic for topic in topics if self.carries(topic.wire)])
            case events.LinkFull(topics, limit):
                self._relieve(session, [topic for topic in topics if self.carries(topic.wire)], limit)
            case events.Slowed(seconds, code, message):
                _log.warning("connection #%d: the exchange asks for fewer frames; waiting %g s", self.number, seconds)
                self._complained(code, message, seconds)
            case events.Ponged(ping_id):
                line.ponged(ping_id)
            case events.Unknown(frame) if frame.get("type") in ("notice", "command"):
                self._noticed(line, frame)
            case events.Unknown(frame) if frame.get("type") == "error":
                error = read_error(frame)
                _log.warning("connection #%d: error %d of the exchange: %s", self.number, error.code, error.message)
                self._complained(error.code, error.message)
            case events.Unknown(frame):
                _log.debug("connection #%d: a frame nothing waits for, type %s", self.number, shown(frame.get("type")))
        self._refused_on = None
        self._stir()

    def _noticed(self, line: Line, frame: Mapping[str, Any]) -> None:
        text = shown(frame.get("data") or frame.get("subject"))
        _log.warning("connection #%d: the exchange says: %s", self.number, text)
        self._around.journal.tell(Notice(self.number, self.market.name, text))
        if _SPEAKS_OF_AN_END.search(text):
            self.rotate(line, text)

    def _complained(self, code: int, message: str, pause: float = 0.0) -> None:
        self._around.journal.tell(ExchangeComplained(self.number, self.market.name, code, message, pause))

    def _acked(self, line: Line, topics: list[Topic]) -> None:
        new = [topic for topic in topics if not self._acked_beside(line, topic.wire)]
        line.acked.update(topic.wire for topic in topics)
        line.blamed = False
        if line.is_live:
            self._owner.acked(self, new)

    def _unanswered(self, line: Line, session: events.Session, topics: list[Topic]) -> None:
        """Those that come on another link are asked for again, and nobody need know."""
        beside = [topic for topic in topics if self._acked_beside(line, topic.wire)]
        wanted = beside + self._owner.unanswered(self, [topic for topic in topics if topic not in beside])
        assert line.link is not None
        if beside and not line.is_live:
            # It may not follow the other without them: what came late would overtake what is still under way there.
            line.link.end(LinkSilent("acknowledgement", 2 * session.ack_timeout))
        elif wanted and not line.acked and not line.blamed:
            line.blamed = True
            line.link.end(LinkSilent("acknowledgement", 2 * session.ack_timeout))
        else:
            # The link is not at fault: others were acknowledged, or another link did no better.
            self._ask_in_halves(session, wanted, again=True)

    def _relieve(self, session: events.Session, refused: list[Topic], limit: int | None) -> None:
        """Learn how many topics this connection takes, keep what fits, and have the rest go elsewhere."""
        others = len(self.routes.by_wire) - len(refused)
        if limit is not None and 0 < limit < others + len(refused):
            self.capacity = limit
            kept = max(0, limit - others)
            session.subscribe(refused[:kept])
            self._move(refused[kept:])
        elif len(refused) > 1:  # the text gives no number, or not the one that was applied: halves find it
            self._ask_in_halves(session, refused)
        elif others:
            self.capacity = others
            self._move(refused)
        else:  # refused on a connection of its own: another would do no better
            for topic in refused:
                self._owner.rejected(self, topic, 509, "the exchange calls a connection full that has nothing else")

    def _move(self, topics: list[Topic]) -> None:
        """Have *topics* go elsewhere; where they come on another link here, that ends before they are there."""
        wires = {topic.wire for topic in topics if self.has_acked(topic.wire)}
        torn = [stream for stream in self.streams() if stream.topic.wire in wires]
        if torn:
            self._owner.lost(self, torn, LinkError("the exchange takes fewer topics on a link than it did"))
        self._owner.link_full(self, topics)

    def _ask_in_halves(self, session: events.Session, topics: list[Topic], *, again: bool = False) -> None:
        """A frame was refused or not answered: halves find the topic that is at fault, and the others get through."""
        middle = len(topics) // 2
        session.subscribe(topics[:middle], again=again)
        session.subscribe(topics[middle:], again=again)

    def _one_topic_each(self) -> list[Topic]:
        return [next(iter(subjects.values()))[0].topic for subjects in self.routes.by_wire.values()]

    # -- watching -----------------------------------------------------------------------------------------------------

    def statistics(self) -> ConnectionStatistics:
        return ConnectionStatistics(
            number=self.number,
            market=self.market.name,
            topics=len(self.routes.by_wire),
            acked=self.acked_count(),
            dials=self._generation,
            failures=max((line.failures for line in self._lines), default=0),
            last_failure=None if self._last_failure is None else str(self._last_failure),
            links=tuple(line.statistics(self._race) for line in self._lines),
        )


def _dropped(line: Line) -> int:
    standby = None if line.link is None else line.link.standby
    return 0 if standby is None else standby.dropped
