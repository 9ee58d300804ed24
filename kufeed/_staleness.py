"""Who watches whether each stream still streams: looks at the silent ones, asks the exchange, and raises the alarm.

Nothing of it is on the way of a message: what came last of a stream is looked at now and then.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import attrs
import trio

from ._glance import look_at
from ._lifecycle import StreamDelisted, StreamHalted, StreamRecovered, StreamStale
from ._supervisor import one_error
from .errors import KufeedError, UsageError
from .protocol.events import Delisted, Halted, Stale
from .protocol.futures import FUTURES
from .protocol.glances import has_moved, told_by
from .protocol.market import ALL, UpdateType
from .protocol.staleness import AT_THEIR_HOUR, CADENCE, Rhythm
from .protocol.symbols import SymbolStatus, SymbolType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ._glance import Glance
    from ._lifecycle import FeedEvent
    from ._network import Network
    from ._pool import Pool
    from ._streams import Stream
    from .protocol.events import StreamEnd
    from .protocol.glances import Glimpse
    from .protocol.market import Market, Topic
    from .protocol.updates import Update

_log = logging.getLogger("kufeed.staleness")

_PASSES = 6
"""Times that all streams are looked at in `stale_after` seconds; less often than every `_LONGEST_PASS` never."""
_LONGEST_PASS = 10.0
_STREAMS_AT_ONCE = 250
"""Looked at between two checkpoints: about a millisecond, at 4 µs each (tests/test_staleness.py prints it)."""
LOOK_EVERY = 60.0
"""Seconds between two looks at a market by REST, at least, however many of its streams are silent."""
_LONGEST_PAUSE = 300.0
"""Seconds until a silent stream is looked into again, at most; each look that shows nothing new doubles the pause."""
_GRACE = 5.0
"""Seconds that an update may be under way which REST has shown already."""
_UNPROVED = 3
"""So many times the threshold a stream with a cadence may be silent while REST does not answer."""
_ENDED = frozenset(SymbolStatus) - {SymbolStatus.OPEN, SymbolStatus.INIT, SymbolStatus.UNKNOWN}
"""A contract that has yet to open is silent by nature, and what a new word means we do not know."""


@attrs.frozen
class StaleStream:
    """A stream that has been silent for long, for whatever reason: `Feed.stale_streams`."""

    topic: Topic
    silent_for: float
    """Seconds since its last update was received; since it was subscribed to, where none ever was."""
    never: bool
    """Whether no update ever came."""
    acked: bool
    """Whether the exchange streams it; False while its connection is down, or it is still being asked for."""
    alarmed: bool
    """Whether the exchange has shown it to be dead (`Stale`); else its market may just be quiet."""


@attrs.define(eq=False)
class _Watch:
    """What is known of one stream."""

    stream: Stream
    rhythm: Rhythm
    acked_at: float | None = None
    """As the stream had it when it was looked at last."""
    seen: Update | None = None
    before: Mapping[str, Glimpse] | None = None
    """What REST said earlier in this silence."""
    shown_at: float | None = None
    """When REST has shown that there is something newer."""
    unlisted: int = 0
    """Looks in a row that did not find its symbol."""
    looks: int = 0
    look_at: float = -math.inf
    stale_since: float | None = None
    """When the silence began that was told of; None where none was, or it is over."""

    @property
    def may_be_listed(self) -> bool:
        """Whether its symbol is one of the market's list: a margin index, as of USDT-BTC, is of no traded pair."""
        topic = self.stream.topic
        is_indicator = topic.kind in (UpdateType.MARK_PRICE, UpdateType.INDEX_PRICE)
        return topic.symbol != ALL and (topic.channel.market is FUTURES or not is_indicator)

    def forget(self) -> None:
        """The silence is over: what was learned of it holds no more."""
        self.before = self.shown_at = None
        self.unlisted = self.looks = 0
        self.look_at = -math.inf

    def is_newer(self, glance: Glance) -> bool:
        """Whether *glance* shows something that the stream owes: newer than its last update, or than another glance."""
        topic = self.stream.topic
        now = glance.glimpses
        if topic.symbol != ALL:
            now = {topic.symbol: now[topic.symbol]} if topic.symbol in now else {}
        told = {update.symbol: told_by(update) for update in self.stream.lasts()}
        for known in (told, self.before or {}):
            if any(symbol in known and has_moved(topic.kind, known[symbol], one) for symbol, one in now.items()):
                return True
        if self.before is None:
            self.before = now
        return False


class Staleness:
    """The third level of noticing silence, after the pong and the link: each stream. `run()` is its task."""

    def __init__(self, pool: Pool, network: Network, tell: Callable[[FeedEvent], None]) -> None:
        self._pool = pool
        self._network = network
        self._tell = tell
        self._watches: dict[Stream, _Watch] = {}
        self._looked_at: dict[Market, float] = {}
        self._decided_at: dict[Market, dict[str, float]] = {}  # of the silent symbols, until they are no more
        self._looking: set[Market] = set()
        self._unanswered: set[Market] = set()

    def streams(self, older_than: float) -> tuple[StaleStream, ...]:
        """All that are silent for *older_than* seconds or longer."""
        now, now_ns = trio.current_time(), self._network.time_ns()
        found = []
        for stream in self._pool.streams():
            latest = _latest(stream)
            silent_for = now - stream.since if latest is None else (now_ns - latest.received_time_ns) / 1e9
            if silent_for >= older_than:
                watch = self._watches.get(stream)
                alarmed = watch is not None and watch.stale_since is not None and watch.seen is latest
                found.append(
                    StaleStream(stream.topic, silent_for, latest is None, stream.acked_at is not None, alarmed)
                )
        return tuple(found)

    async def run(self, stale_after: float, *, task_status: trio.TaskStatus[None]) -> None:
        """Look at all streams now and then; until cancelled."""
        pause = min(_LONGEST_PASS, stale_after / _PASSES)
        with one_error() as body:
            async with trio.open_nursery() as nursery:
                with body.watched():
                    task_status.started()
                    while True:
                        await trio.sleep(pause)
                        for market, watches in (await self._pass(stale_after)).items():
                            if self._is_time(market, watches):
                                self._looking.add(market)
                                nursery.start_soon(self._look, market, watches, name=f"look at {market.name}")

    def _is_time(self, market: Market, watches: Iterable[_Watch]) -> bool:
        """Whether to ask about silent streams of *market* now: for the sake of one, all are looked into."""
        now = trio.current_time()
        if market in self._looking or now < self._looked_at.get(market, -math.inf) + LOOK_EVERY:
            return False
        return any(watch.look_at <= now for watch in watches)

    # -- what can be seen from here -----------------------------------------------------------------------------------

    async def _pass(self, stale_after: float) -> dict[Market, list[_Watch]]:
        """Look at each stream; returns those that are silent for unusually long, by market."""
        suspicious: dict[Market, list[_Watch]] = {}
        alarms: list[_Watch] = []
        streams = self._pool.streams()
        now, now_ns = trio.current_time(), self._network.time_ns()
        for number, stream in enumerate(streams):
            if number % _STREAMS_AT_ONCE == _STREAMS_AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
                now, now_ns = trio.current_time(), self._network.time_ns()
            watch = self._watches.get(stream)
            if watch is None:
                watch = _Watch(stream, Rhythm(stale_after, CADENCE.get(stream.topic.kind)))
                self._watches[stream] = watch
            if not self._is_silent(watch, now, now_ns):
                continue
            if watch.stale_since is None and self._is_proved(watch, now):
                alarms.append(watch)
            suspicious.setdefault(stream.topic.channel.market, []).append(watch)
        if len(self._watches) > len(streams):
            carried = set(streams)
            self._watches = {stream: watch for stream, watch in self._watches.items() if stream in carried}
        self._alarm(alarms)
        return suspicious

    def _is_silent(self, watch: _Watch, now: float, now_ns: int) -> bool:
        """Take note of what came since the last time; returns whether too little did, while the link was up."""
        stream, rhythm = watch.stream, watch.rhythm
        latest = _latest(stream)
        if latest is not watch.seen:
            watch.seen = latest
            if latest is not None:
                # The wall clock says when, as far as ours bears it out: it may have been set meanwhile.
                heard_at = min(now, now - (now_ns - latest.received_time_ns) / 1e9)
                if watch.stale_since is not None:
                    silent_for = max(0.0, heard_at - watch.stale_since)
                    watch.stale_since = None
                    _log.info("%s streams again, after %.3g s", stream.topic, silent_for)
                    self._tell(StreamRecovered(stream.topic, silent_for))
                if stream.acked_at == watch.acked_at:
                    rhythm.heard(heard_at)
                else:
                    rhythm.begin(heard_at)
            watch.forget()
        if stream.acked_at != watch.acked_at:
            watch.acked_at = stream.acked_at
            rhythm.begin(max(rhythm.since, stream.acked_at or 0.0))
            watch.forget()
        if stream.acked_at is None or stream.topic.kind in AT_THEIR_HOUR:
            return False
        if any(sink.blocks and sink.has_staged() for sink in stream.sinks):
            rhythm.begin(now)  # its consumer holds the reader: nobody listens
            watch.forget()
        return rhythm.is_unusual(now)

    def _is_proved(self, watch: _Watch, now: float) -> bool:
        if watch.shown_at is not None:
            return now >= watch.shown_at + _GRACE
        topic = watch.stream.topic
        rhythm = watch.rhythm
        return (
            topic.kind in CADENCE
            and topic.channel.market in self._unanswered
            and rhythm.silent_for(now) >= _UNPROVED * rhythm.threshold
        )

    # -- what the exchange says ---------------------------------------------------------------------------------------

    async def _look(self, market: Market, watches: list[_Watch]) -> None:
        pool = self._pool
        wanted = {watch.stream.topic.symbol for watch in watches}
        decided_at = self._decided_at.get(market, {})
        # Whose turn it has not been for longest comes first: not all may be decided.
        in_turn = sorted(wanted - {ALL}, key=lambda symbol: (decided_at.get(symbol, -math.inf), symbol))
        try:
            glance = await look_at(pool.requests, pool.rest(market), market, in_turn, everything=ALL in wanted)
        except UsageError:
            return  # the feed is closed
        except KufeedError as error:
            self._cannot_tell(market, watches, error)
            return
        finally:
            self._looked_at[market] = trio.current_time()
            self._looking.discard(market)
        self._unanswered.discard(market)
        looked_at = self._looked_at[market]
        self._decided_at[market] = {
            symbol: decided_at.get(symbol, -math.inf) if symbol in glance.undecided else looked_at for symbol in in_turn
        }
        alarms: list[_Watch] = []
        for number, watch in enumerate(watches):
            if number % _STREAMS_AT_ONCE == _STREAMS_AT_ONCE - 1:
                await trio.lowlevel.checkpoint()
            now = trio.current_time()
            if self._watches.get(watch.stream) is not watch or not pool.carries(watch.stream):
                continue
            if not self._is_silent(watch, now, self._network.time_ns()):
                continue
            if watch.stream.topic.symbol in glance.undecided:
                continue  # its turn comes
            self._put_off(watch, now)
            if (event := _end_of(watch, glance)) is not None:
                self._end(watch, event)
            elif self._owes(watch, glance, now) and watch.stale_since is None:
                alarms.append(watch)
        self._alarm(alarms)

    def _cannot_tell(self, market: Market, watches: Iterable[_Watch], error: KufeedError) -> None:
        if market not in self._unanswered:
            self._unanswered.add(market)
            _log.warning("streams of %s are silent, and whether they should be cannot be told: %s", market.name, error)
        for watch in watches:
            self._put_off(watch, trio.current_time())

    def _put_off(self, watch: _Watch, now: float) -> None:
        watch.look_at = now + min(_LONGEST_PAUSE, LOOK_EVERY * 2**watch.looks)
        watch.looks += watch.looks < 10

    def _owes(self, watch: _Watch, glance: Glance, now: float) -> bool:
        """Whether the stream is known to be dead now; where that is only shown yet, a pass will say so."""
        topic = watch.stream.topic
        info = glance.symbols.get(topic.symbol)
        if watch.unlisted or (info is not None and info.status is SymbolStatus.INIT):
            return False
        if topic.kind is UpdateType.FUNDING_RATE and info is not None and info.type is SymbolType.DATED:
            return False
        if topic.kind in CADENCE:
            return True
        if watch.shown_at is None and watch.is_newer(glance):
            watch.shown_at = now
        return False

    def _end(self, watch: _Watch, event: StreamEnd) -> None:
        del self._watches[watch.stream]
        if isinstance(event, Halted):
            _log.warning("%s has ended: its symbol is %s", event.topic, event.status)
            self._tell(StreamHalted(event.topic, event.status))
        else:
            _log.warning("%s has ended: its symbol is not listed any more", event.topic)
            self._tell(StreamDelisted(event.topic))
        self._pool.end(watch.stream, event)

    def _is_still_dead(self, watch: _Watch, now: float, now_ns: int) -> bool:
        is_watched = self._watches.get(watch.stream) is watch and self._pool.carries(watch.stream)
        return is_watched and self._is_silent(watch, now, now_ns) and watch.stale_since is None

    def _alarm(self, watches: list[_Watch]) -> None:
        """Tell everybody that these are dead, and ask for them anew. Those that were heard or left since are not."""
        now, now_ns = trio.current_time(), self._network.time_ns()
        watches = [watch for watch in watches if self._is_still_dead(watch, now, now_ns)]
        if not watches:
            return
        _log.warning("%d streams are stale, such as %s; asking for them anew", len(watches), watches[0].stream.topic)
        for watch in watches:
            stream, silent_for = watch.stream, watch.rhythm.silent_for(now)
            watch.stale_since = watch.rhythm.since
            for sink in stream.sinks:
                sink.tell(Stale(stream.topic, silent_for))
            self._tell(StreamStale(stream.topic, silent_for, not stream.came_on_link()))
        self._pool.resubscribe([watch.stream for watch in watches])


def _latest(stream: Stream) -> Update | None:
    return stream.last(stream.topic)


def _end_of(watch: _Watch, glance: Glance) -> StreamEnd | None:
    """How the exchange has ended the stream, if it has."""
    topic = watch.stream.topic
    if not watch.may_be_listed:
        return None
    if topic.symbol not in glance.listed:
        # Said twice: one list with a hole must not end a stream for good.
        watch.unlisted += 1
        return Delisted(topic) if watch.unlisted > 1 else None
    watch.unlisted = 0
    info = glance.symbols.get(topic.symbol)
    return Halted(topic, info.status.value) if info is not None and info.status in _ENDED else None
