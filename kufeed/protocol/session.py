"""The state machine of one link: what KuCoin's protocol asks of a client, with neither a socket nor a clock.

Give it control frames and the time, take events and frames to send. Data frames never pass through here; `heard()`
tells the session that something arrived.

    dialled --welcome--> open --(token refused | nothing heard | send stuck)--> failed

In `open`, each request goes its own way:

    queued --sent--> waiting --ack--> done
              ^         |--error 404--> refused; in halves while it has several topics
              |         |--error 509--> queued again later | in halves | the link is full
              '--no ack-'               sent once more, then given up
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import DialError, LinkError, LinkSilent, SendStuck, TokenExpired
from . import messages
from .messages import Meaning

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .market import Topic


_MOST_PROBES = 8
"""That are waited for; a server which answers none must not have us remember them all."""


@attrs.frozen
class Welcomed:
    """The link may be used."""


@attrs.frozen
class Acked:
    """The exchange streams `topics`."""

    topics: tuple[Topic, ...]


@attrs.frozen
class Rejected:
    """The exchange refused `topic`."""

    topic: Topic
    code: int
    message: str


@attrs.frozen
class Unanswered:
    """Neither ack nor error came for `topics` within two times the ack time-out."""

    topics: tuple[Topic, ...]


@attrs.frozen
class LinkFull:
    """This connection takes no more topics; `topics` were refused for it."""

    topics: tuple[Topic, ...]
    limit: int | None
    """How many topics a connection may have, where the exchange's text says so."""


@attrs.frozen
class Slowed:
    """The exchange asked for fewer frames; nothing but pings is sent for `seconds`."""

    seconds: float
    code: int
    message: str


@attrs.frozen
class Ponged:
    """The server has answered a `probe()`: what it had sent before has come."""

    ping_id: str


@attrs.frozen
class Failed:
    """The link is of no more use."""

    error: LinkError


@attrs.frozen
class Unknown:
    """A control frame that nothing was waiting for: a notice, a late answer, a type nobody knows."""

    frame: Mapping[str, Any]


Event = Welcomed | Acked | Rejected | Unanswered | LinkFull | Slowed | Ponged | Failed | Unknown


@attrs.define(eq=False)
class Frame:
    """A frame to send; `request` is None for a ping."""

    text: str
    request: Request | None = None


@attrs.define(eq=False)
class Request:
    """Topics asked for in one frame (or given back: `subscribe` is False), until the exchange has answered."""

    topics: tuple[Topic, ...]
    subscribe: bool
    again: bool
    """Its topics were given up before: no reader need go on for their answer."""
    give_up_at: float = math.inf
    """Set at the first sending: two ack time-outs later."""
    ask_again_at: float = math.inf


class Session:
    """One link's life from the upgrade on. Times are seconds on any one clock; it never looks at a clock itself.

    *generation* tells this link's ids from those of every earlier link, so that a late answer matches nothing.
    """

    def __init__(
        self,
        *,
        generation: int,
        welcome_by: float,
        ping_interval: float,
        pong_timeout: float,
        ack_timeout: float,
    ) -> None:
        self.generation = generation
        self.ping_interval = ping_interval
        self.pong_timeout = pong_timeout
        self.ack_timeout = ack_timeout
        self.welcomed = False
        self._welcome_by = welcome_by
        self._next_id = 0
        self._next_ping = math.inf
        self._pong_by = math.inf
        self._send_by = math.inf
        self._paused_until = -math.inf
        self._pings: deque[Frame] = deque()
        self._probes: deque[str] = deque(maxlen=_MOST_PROBES)
        self._queued: deque[Request] = deque()
        self._waiting: dict[str, Request] = {}
        # By the wire, as the exchange knows topics: kinds may share one, and another may ask for it than gives it back.
        # Each one's newest open request: what an older one asked for is neither repeated nor told. Asked again, an
        # unsubscribe whose ack was lost would silence a stream that everybody believes acked.
        self._newest: dict[str, Request] = {}
        self._asked: set[str] = set()  # what the exchange may be streaming to us
        self._held_since: float | None = None
        self.has_ponged = False
        """Whether the server answers pings at all."""
        self.holds = 0
        """How often its reader was held."""
        self._failed = False

    # -- what the user of the link wants ------------------------------------------------------------------------------

    def subscribe(self, topics: Iterable[Topic], *, again: bool = False) -> None:
        """Ask for *topics*; *again* where they were not answered before, so that nobody waits for it any more."""
        self._queue(topics, subscribe=True, again=again)

    def unsubscribe(self, topics: Iterable[Topic]) -> None:
        """Give *topics* back. Nothing is sent for those that were never asked for on this link."""
        topics = list(topics)
        self._withdraw(topics)
        self._queue([topic for topic in topics if topic.wire in self._asked], subscribe=False)

    def probe(self) -> str:
        """Queue a ping besides the regular ones, and return its id: its pong is told as `Ponged`."""
        ping_id = self._new_id()
        self._probes.append(ping_id)
        self._pings.append(Frame(messages.ping(ping_id)))
        return ping_id

    def resubscribe(self, topics: Iterable[Topic]) -> None:
        """Give *topics* back and ask for them anew. Both are sent: to who has it, the exchange would change nothing."""
        topics = list(topics)
        self.unsubscribe(topics)
        self._queued.extend(self._request(batch, subscribe=True) for batch in messages.batches(topics))

    def _queue(self, topics: Iterable[Topic], *, subscribe: bool, again: bool = False) -> None:
        topics = list(topics)
        self._withdraw(topics)
        self._queued.extend(
            self._request(batch, subscribe=subscribe, again=again) for batch in messages.batches(topics)
        )

    def _withdraw(self, topics: Iterable[Topic]) -> None:
        """Take *topics* out of requests that were not sent yet: of each topic at most one waits to be sent."""
        for topic in topics:
            request = self._newest.get(topic.wire)
            if request is not None and request in self._queued and request not in self._waiting.values():
                request.topics = tuple(other for other in request.topics if other.wire != topic.wire)
                del self._newest[topic.wire]
                if not request.topics:
                    self._queued.remove(request)

    def _request(self, topics: tuple[Topic, ...], *, subscribe: bool, again: bool = False) -> Request:
        request = Request(topics, subscribe, again)
        self._newest.update(dict.fromkeys((topic.wire for topic in topics), request))
        return request

    def _still_meant(self, request: Request) -> tuple[Topic, ...]:
        return tuple(topic for topic in request.topics if self._newest.get(topic.wire) is request)

    def _finish(self, request: Request) -> tuple[Topic, ...]:
        """Expect no answer to *request* any more, under none of its ids; returns what of it was still meant."""
        for frame_id in [key for key, value in self._waiting.items() if value is request]:
            del self._waiting[frame_id]
        if request in self._queued:
            self._queued.remove(request)
        topics = self._still_meant(request)
        for topic in topics:
            del self._newest[topic.wire]
        return topics

    # -- what the server says -----------------------------------------------------------------------------------------

    def heard(self) -> None:
        """Anything at all arrived: the link is alive, which is all that a pong would have proved."""
        self._pong_by = math.inf

    def receive(self, frame: Mapping[str, Any], now: float) -> list[Event]:
        """Take one control frame: any frame without a topic of ours."""
        if self._failed:
            return []
        match frame.get("type"):
            case "welcome" if not self.welcomed:
                self.welcomed = True
                self._welcome_by = math.inf
                self._next_ping = now + self.ping_interval
                return [Welcomed()]
            case "ack":
                request = self._waiting.get(messages.read_id(frame) or "")
                if request is not None:
                    topics = self._finish(request)
                    return [Acked(topics)] if request.subscribe and topics else []
            case "pong":
                return self._ponged(messages.read_id(frame))
            case "error":
                return self._refused(messages.read_error(frame), frame, now)
        return [Unknown(frame)]

    def _ponged(self, ping_id: str | None) -> list[Event]:
        self.has_ponged = True
        if ping_id is None or ping_id not in self._probes:
            return []
        self._probes.remove(ping_id)
        return [Ponged(ping_id)]

    def _refused(self, error: messages.ErrorFrame, frame: Mapping[str, Any], now: float) -> list[Event]:
        if error.meaning is Meaning.TOKEN_EXPIRED:
            return self._fail(TokenExpired(error.message))
        events: list[Event] = []
        if error.meaning is Meaning.TOO_FAST:
            self._paused_until = max(self._paused_until, now + error.wait)
            events.append(Slowed(error.wait, error.code, error.message))
        if error.frame_id is None and error.topic is not None:
            return events + self._refused_by_name(error, frame)
        request = self._waiting.get(error.frame_id or "")
        if error.frame_id is None and error.meaning in (Meaning.LINK_FULL, Meaning.FRAME_TOO_LARGE):
            asked = [one for one in dict.fromkeys(self._waiting.values()) if one.subscribe]
            request = asked[0] if len(asked) == 1 else None  # of several, the server does not say which
        if request is None:
            return events or [Unknown(frame)]
        topics = self._finish(request)
        if error.meaning is Meaning.TOO_FAST:
            # It was not looked at; asked again it starts anew, so that the pause does not use up its time.
            self._ask_anew(request, topics)
        elif not request.subscribe:
            events.append(Unknown(frame))  # it streams on, or never did: either way nobody listens
        elif error.meaning is Meaning.LINK_FULL and topics:
            events.append(LinkFull(topics, error.limit))
        elif len(request.topics) > 1:
            # Which of them is at fault, the frame may not say: halves find it, and the others get through.
            middle = len(topics) // 2
            self._ask_anew(request, topics[:middle], topics[middle:])
        elif topics:
            events.append(Rejected(topics[0], error.code, error.message))
        return events

    def _refused_by_name(self, error: messages.ErrorFrame, frame: Mapping[str, Any]) -> list[Event]:
        """The server named no request, but the topic: what else was asked for with it is still to be answered."""
        for request in dict.fromkeys(self._waiting.values()):
            for topic in request.topics:
                if topic.wire == error.topic and request.subscribe:
                    request.topics = tuple(other for other in request.topics if other != topic)
                    told = self._newest.get(topic.wire) is request
                    if told:
                        del self._newest[topic.wire]
                    if not request.topics:
                        self._finish(request)
                    return [Rejected(topic, error.code, error.message)] if told else []
        return [Unknown(frame)]

    def _ask_anew(self, request: Request, *parts: tuple[Topic, ...]) -> None:
        anew = [self._request(part, subscribe=request.subscribe, again=request.again) for part in parts if part]
        self._queued.extendleft(reversed(anew))

    def _fail(self, error: LinkError) -> list[Event]:
        if self._failed:
            return []
        self._failed = True
        return [Failed(error)]

    # -- a reader that is held -----------------------------------------------------------------------------------------

    def waits_for_answers(self) -> bool:
        """Whether a subscribe is to be sent, or answered: while it is, the reader must go on reading.

        For one that was given up before it need not: it may never be answered.
        """
        return any(one.subscribe and not one.again for one in (*self._queued, *self._waiting.values()))

    @property
    def is_held(self) -> bool:
        """Between `hold()` and `resume()`."""
        return self._held_since is not None

    def hold(self, now: float) -> None:
        """Nothing is read from *now* on: what the server should say cannot be missed. Pings go on."""
        self._held_since = now
        self.holds += 1

    def resume(self, now: float) -> None:
        """Reading goes on: deadlines for what the server should say have stood still since `hold()`."""
        assert self._held_since is not None
        stood_still = now - self._held_since
        self._held_since = None
        self._pong_by = (
            min(self._pong_by + stood_still, now + self.pong_timeout) if self._pong_by < math.inf else math.inf
        )
        for request in dict.fromkeys(self._waiting.values()):
            request.ask_again_at += stood_still
            request.give_up_at += stood_still

    # -- time ---------------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """When `tick()` is due next. It moves: ask again after each call."""
        if self._failed:
            return math.inf
        times = [self._next_ping, self._send_by]
        if self._held_since is None:
            times += [self._welcome_by, self._pong_by]
            times += [min(request.ask_again_at, request.give_up_at) for request in self._waiting.values()]
        if self._queued and self._paused_until > -math.inf:
            times.append(self._paused_until)
        return min(times)

    def tick(self, now: float) -> list[Event]:
        """Do what is due at *now*: queue a ping, ask again, or report what did not come."""
        if self._failed:
            return []
        held = self._held_since is not None
        if now >= self._welcome_by and not held:
            return self._fail(DialError("welcome", "the server sent no welcome"))
        if now >= self._send_by:
            return self._fail(SendStuck(self.pong_timeout))
        if now >= self._pong_by and not held:
            return self._fail(LinkSilent("pong", self.pong_timeout))
        if now >= self._paused_until:
            self._paused_until = -math.inf
        if now >= self._next_ping:
            # On a fixed schedule, whether data flow or not: the server closes after about 60 s without a client ping
            # (KuCoin futures documentation; python-kucoin issue 56).
            missed = math.floor((now - self._next_ping) / self.ping_interval)
            self._next_ping += (missed + 1) * self.ping_interval
            if self._next_ping <= now:  # the quotient was rounded down: this turn is now, not once more
                self._next_ping += self.ping_interval
            if not self._pings:
                self._pings.append(Frame(messages.ping(self._new_id())))
        return [] if held else self._overdue(now)

    def _overdue(self, now: float) -> list[Event]:
        given_up: list[Event] = []  # one for each request: together, halves would come back as the whole
        for request in dict.fromkeys(self._waiting.values()):
            if now >= request.give_up_at:
                topics = self._finish(request)
                if topics and request.subscribe:
                    given_up.append(Unanswered(topics))
            elif now >= request.ask_again_at:
                request.ask_again_at = math.inf
                self._queued.append(request)
        return given_up

    # -- frames to send -----------------------------------------------------------------------------------------------

    def wants_to_send(self) -> bool:
        if self._failed:
            return False
        return bool(self._pings) or (self.welcomed and bool(self._queued) and self._paused_until == -math.inf)

    def next_frame(self) -> Frame | None:
        """The next frame to send, pings first; None while there is nothing, or the exchange asked for a pause.

        Also None where all that was to be asked for again has been superseded meanwhile.
        """
        while self.wants_to_send():
            if self._pings:
                return self._pings.popleft()
            request = self._queued.popleft()
            is_repeated = request.give_up_at < math.inf
            if topics := self._still_meant(request) if is_repeated else request.topics:
                frame_id = self._new_id()
                self._waiting[frame_id] = request
                wires = [topic.wire for topic in topics]
                if request.subscribe:
                    self._asked.update(wires)
                else:
                    self._asked.difference_update(wires)
                encode = messages.subscribe if request.subscribe else messages.unsubscribe
                return Frame(encode(frame_id, messages.joined(topics)), request)
        return None

    def sending(self, frame: Frame, now: float) -> None:
        """*frame* goes out now; `sent()` follows when the network has taken it."""
        self._send_by = now + self.pong_timeout
        request = frame.request
        if request is None:
            self._pong_by = min(self._pong_by, now + self.pong_timeout)
        elif request.give_up_at == math.inf:
            request.ask_again_at = now + self.ack_timeout
            request.give_up_at = now + 2 * self.ack_timeout

    def sent(self) -> None:
        self._send_by = math.inf

    def _new_id(self) -> str:
        self._next_id += 1
        return f"{self.generation}-{self._next_id}"
