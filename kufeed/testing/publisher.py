"""Who holds which topics, and what is pushed to them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import attrs
import trio

from kufeed.testing import tamper, wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kufeed.testing.market import Beat, SymbolModel
    from kufeed.testing.premises import Premises
    from kufeed.testing.session import Session

EVERYTHING = "/market/ticker:all"
_TOPIC = re.compile(r'"topic"\s*:\s*"([^"\\]*)"')


@attrs.define(eq=False)
class Route:
    """A held topic and who holds it."""

    topic: wire.ActiveTopic
    sessions: dict[Session, None] = attrs.field(factory=dict)


class Publisher:
    """Puts what the market says of a symbol on the connections that hold a topic about it, and in the ledger.

    *early* is how many seconds ahead of its time a topic with an interval of its own may be published.
    """

    def __init__(self, premises: Premises, *, early: float, buffer: int) -> None:
        self._premises = premises
        self._early_ns = early * 1e9
        self._buffer = buffer
        self._by_symbol: dict[SymbolModel, dict[str, Route]] = {}
        self._changed = trio.Event()
        self.routes: dict[str, Route] = {}
        """By wire topic."""
        self.pushes = 0
        """How many frames were queued."""

    def begin(self) -> None:
        """A Trio run begins."""
        self._changed = trio.Event()

    # Who holds what

    def join(self, session: Session, topic: wire.ActiveTopic) -> None:
        """*session* holds *topic* from now on."""
        route = self.routes.get(topic.name)
        if route is None:
            route = self.routes[topic.name] = Route(topic)
            if topic.model is not None:
                self._by_symbol.setdefault(topic.model, {})[topic.name] = route
        route.sessions[session] = None
        session.held[topic.name] = None
        if (truth := self._premises.truth) is not None:
            truth.joined(session, route.topic)
        self._changed.set()
        self._changed = trio.Event()

    def leave(self, session: Session, name: str) -> None:
        """*session* does not hold the topic of that name any more."""
        del session.held[name]
        route = self.routes[name]
        del route.sessions[session]
        if (truth := self._premises.truth) is not None:
            truth.left(session, route.topic, last=not route.sessions)
        if not route.sessions:
            del self.routes[name]
            model = route.topic.model
            if model is not None:
                del self._by_symbol[model][name]
                if not self._by_symbol[model]:
                    del self._by_symbol[model]

    async def wait_joined(self) -> None:
        """Wait until some session joins."""
        await self._changed.wait()

    def routes_of(self, model: SymbolModel) -> list[Route]:
        """The held topics that tell about a symbol."""
        routes = list(self._by_symbol.get(model, {}).values())
        everything = self.routes.get(EVERYTHING)
        if everything is not None and model.instrument.market == "spot":
            routes.append(everything)
        return routes

    @property
    def is_needed(self) -> bool:
        """Whether anybody holds a topic, or may miss something of one."""
        return bool(self.routes or self._unheld)

    def needs(self, model: SymbolModel) -> bool:
        """Whether anybody holds a topic that tells about a symbol, or may miss something of one."""
        truth = self._premises.truth
        return bool(self.routes_of(model) or (truth is not None and truth.unheld_about(model)))

    def needed(self) -> dict[SymbolModel, None]:
        """The symbols to which that applies."""
        models = dict.fromkeys(self._by_symbol)
        models.update(dict.fromkeys(topic.model for topic in self._unheld.values() if topic.model is not None))
        if EVERYTHING in self.routes or EVERYTHING in self._unheld:
            market = self._premises.model
            found = (market.find("spot", symbol) for symbol in market.symbols("spot"))
            models.update(dict.fromkeys(model for model in found if model is not None))
        return models

    @property
    def _unheld(self) -> dict[str, wire.ActiveTopic]:
        return {} if self._premises.truth is None else self._premises.truth.unheld

    # What is pushed

    def tell(self, model: SymbolModel, beat: Beat) -> None:
        """A symbol has moved: publish that."""
        for route in self.routes_of(model):
            self.publish(route, model, beat)
        self.note_unheld(model, beat, trio.current_time())

    def note_unheld(self, model: SymbolModel, beat: Beat, at: float) -> None:
        """Note what those miss who held a topic, and come back."""
        if (truth := self._premises.truth) is not None:
            for topic in truth.unheld_about(model):
                for text in self._news(topic, model, beat):
                    truth.publish(topic.name, text, at)

    def publish(self, route: Route, model: SymbolModel, beat: Beat) -> None:
        """Publish what one topic has to say of that."""
        topic, truth = route.topic, self._premises.truth
        muted = self._premises.faults.mutes(topic.name, topic.symbol)
        if muted and truth is None:
            return
        for text in self._news(topic, model, beat):
            publication = None if truth is None else truth.publish(topic.name, text, trio.current_time())
            frame = wire.text_frame(text)
            for session in route.sessions:
                texts, accepted = ([], []) if muted else _send(session, model, text, frame)
                self.pushes += sum(accepted)
                if truth is not None and publication is not None:
                    truth.put(publication, session, texts, accepted)

    def _news(self, topic: wire.ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
        """What is to be published for *topic* of this beat, if it is time for that."""
        every = topic.channel.every
        if every is not None:
            if beat.time_ns < topic.next_due_ns - self._early_ns:
                return iter(())
            topic.next_due_ns = beat.time_ns + round(every * 1e9)
        return topic.channel.encode(topic, model, beat)

    async def play(self, frames: Iterable[str | bytes]) -> int:
        """See `Exchange.play()`."""
        await trio.lowlevel.checkpoint()
        truth = self._premises.truth
        count = 0
        touched: dict[Session, None] = {}
        for frame in frames:
            text = frame.decode() if isinstance(frame, bytes) else frame
            route = self.routes.get(_topic_of(text))
            if route is None:
                continue
            data = wire.text_frame(text)
            publication = (
                None if truth is None else truth.publish(route.topic.name, text, trio.current_time(), played=True)
            )
            for session in tuple(route.sessions):
                if session.pending >= self._buffer:
                    await session.wait_room()
                accepted = session.push(data)
                count += accepted
                if truth is not None and publication is not None:
                    truth.put(publication, session, [text], [accepted])
                touched[session] = None
        for session in touched:
            await session.wait_sent()
        self.pushes += count
        return count


def _send(session: Session, model: SymbolModel, text: str, frame: bytes) -> tuple[Sequence[str], Sequence[bool]]:
    """Put a publication, *text* and as a *frame*, on the wire of *session*.

    Returns what was put there now, and of each whether there was room. Without faults that is *text*; a fault may
    have it be nothing, something else, or several; what it held back before is among them when it leaves.
    """
    if not session.tampers:
        return (text,), (session.push(frame),)
    message = tamper.Message(model.instrument.symbol, text)
    texts = [made.text for made in tamper.passed(session.tampers, message)]
    return texts, [session.push(wire.text_frame(one)) for one in texts]


def _topic_of(text: str) -> str:
    """The topic of a raw frame; empty where it has none. The short way is safe while the word stands there once."""
    found = _TOPIC.findall(text)
    if len(found) == 1:
        return str(found[0])
    frame = json.loads(text) if found else {}
    return str(frame.get("topic", "")) if isinstance(frame, dict) else ""
