"""From payloads to updates in the queues of those who want them: the hot path, with nothing in it that waits."""

from __future__ import annotations

from decimal import Decimal
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from ._race import Heat
from .errors import MessageRefused
from .protocol.events import Disconnected, Gap, GapCause, Restored
from .protocol.market import MergeKey, UpdateType
from .protocol.merge import Verdict, merge_of
from .protocol.updates import keeping_raw, knowing_later

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from ._channels import Sink
    from ._lateness import Lateness
    from ._race import Race
    from ._refusals import Refusals
    from .protocol.market import Decoder, Topic
    from .protocol.updates import Update

    ByWire = Mapping[str, Mapping[str | None, tuple["Stream", ...]]]


_NEW = Verdict.NEW

_UNREADABLE = (ValueError, RecursionError, OverflowError)
"""What decoders of JSON raise for what is none, or more than they can take."""
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)
"""What reading a message raises that is not what it should be, besides `MessageRefused`."""


class Stream:
    """One topic, where its updates go, and the hole in it, while it has one.

    It may be a part of a *whole*, which alone is subscribed to and told of connections; else it is its own.
    """

    def __init__(
        self,
        topic: Topic,
        whole: Stream | None = None,
        *,
        numbers: type[Decimal] | type[float] = Decimal,
        keep_raw: bool = False,
    ) -> None:
        self.topic = topic
        self.whole = whole or self
        decode: Decoder = topic.channel.decoders[numbers]
        if topic.kind is UpdateType.CANDLE:
            decode = knowing_later(decode)
        self.decode = keeping_raw(decode) if keep_raw else decode
        self._merge = merge_of(topic.channel)
        self.take: Callable[[Update, int], Verdict] = self._merge.take
        """What an update of it is, that came on the link of this generation; others than `NEW` go to `admit()`."""
        self.heat: Heat | None = None
        self.since = 0.0
        """When somebody first wanted it."""
        self.acked_at: float | None = None
        """Since when the exchange streams it on the present link; None while it does not."""
        self.is_up = False
        """It was acknowledged, and not lost since; it may be asked for anew just now."""
        self.overdue = False
        """Its subscribers were told that the exchange does not acknowledge it."""
        self.sinks: tuple[Sink, ...] = ()
        self.stagers: tuple[Callable[[Any], None], ...] = ()
        self.latest: Update | None = None
        """What came last, on whichever connection."""
        self._before_link: Update | None = None
        self._heard_again = False
        self._lost_at: float | None = None
        self._told_lost: set[Sink] = set()
        # Who is to be told that something is missing, and why: what it is is known at the next update.
        self._missing: dict[Sink, GapCause] = {}
        # And since when for them, where that is earlier than what came last: it came after later ones.
        self._too_late_ns: dict[Sink, int] = {}
        self._jumped = False
        self._numbers: tuple[int, int] | None = None

    def routed(self, subjects: dict[str | None, tuple[Stream, ...]]) -> None:
        """From here on *subjects* are where messages of its wire topic go; it is among them."""

    def add(self, sink: Sink) -> None:
        if sink not in self.sinks:
            self._set((*self.sinks, sink))

    def remove(self, sink: Sink) -> None:
        self._missing.pop(sink, None)
        self._too_late_ns.pop(sink, None)
        self._told_lost.discard(sink)
        self._set(tuple(one for one in self.sinks if one is not sink))

    def _set(self, sinks: tuple[Sink, ...]) -> None:
        # Copied on change: the decoding loop may be walking over the old one.
        self.sinks = sinks
        self._choose_stagers()

    def _choose_stagers(self) -> None:
        # That there is a hole costs nothing where there is none: it is another way, not a question on the way.
        appends = tuple(sink.staged.append for sink in self.sinks)
        self.stagers = (self._stage_after_hole,) if self._missing else appends

    def last(self, topic: Topic) -> Update | None:
        """What came last of *topic*, which is its own or that of a part of it."""
        return self.latest

    def lasts(self) -> tuple[Update, ...]:
        """What came last on the present link, of each symbol it carries."""
        return () if self.latest is None or self.latest is self._before_link else (self.latest,)

    def enter(self, race: Race) -> None:
        """Several links carry it: have *race* told which is first."""
        heat = self.heat = Heat(race)

        def take(update: Update, generation: int) -> Verdict:
            verdict = self._merge.take(update, generation)
            heat.see(update, generation, verdict)
            return verdict

        self.take = take

    def begin_link(self) -> None:
        """From here on it is asked for on another link."""
        self._before_link = self.latest
        self._heard_again = False
        self.acked_at = None

    def came_on_link(self) -> bool:
        """Whether anything of it came on the present link: the exchange may stream before it acknowledges."""
        return self._heard_again or self.latest is not self._before_link

    def lose(self, cause: Exception, now: float) -> None:
        """The connection that carried it is gone, and what the exchange sends until it is subscribed to again."""
        if self._lost_at is None:
            self._lost_at = now
        self.cut()
        self.acked_at = None
        self.is_up = False
        self.miss(self.sinks)
        self._told_lost.update(self.sinks)
        for sink in self.sinks:
            sink.tell(Disconnected(self.topic, cause))

    def cut(self) -> None:
        """No link carries it now."""
        self._merge.cut()

    def miss(self, sinks: Collection[Sink], cause: GapCause = GapCause.RECONNECT) -> None:
        """*sinks* are told at the next update that something is missing before it, for the first cause given.

        They are not where that update, or one that was delivered and comes again, proves that a lost connection cost
        nothing. It proves nothing of what came too late.
        """
        for sink in sinks:
            self._missing.setdefault(sink, cause)
        self._choose_stagers()

    def admit(self, verdict: Verdict, update: Update, refusals: Refusals) -> bool:
        """Whether *update*, of which `take()` said this, is to be staged; else it is counted."""
        contiguous = self.topic.channel.merge_key is MergeKey.CONTIGUOUS
        if verdict is Verdict.DUPLICATE or verdict is Verdict.DISORDERED:
            self._heard_again = True
            if verdict is Verdict.DISORDERED:
                refusals.disordered += 1
                if not contiguous:  # by its number it was told already that it is missing
                    for sink in self.sinks:
                        self._too_late_ns[sink] = min(update.time_ns, self._too_late_ns.get(sink, update.time_ns))
                    self.miss(self.sinks, GapCause.SEQUENCE)
            else:
                refusals.duplicates += 1
                if self._merge.rejoins and self._missing:
                    self._forgive()
            return False
        self._jumped = True
        self._numbers = self._merge.missing if verdict is Verdict.AFTER_HOLE else None
        self.miss(self.sinks, GapCause.SEQUENCE)
        return True

    def _forgive(self) -> None:
        """A lost connection has cost nothing but what came too late."""
        self._missing = {
            sink: cause
            for sink, cause in self._missing.items()
            if cause is not GapCause.RECONNECT or sink in self._too_late_ns
        }
        self._choose_stagers()

    def restore(self, now: float) -> None:
        """The exchange streams it, for the first time or again."""
        self.acked_at = now
        self.is_up = True
        for sink in self.sinks:
            sink.acked(self.topic)
        if self._lost_at is not None:
            duration = now - self._lost_at
            self._lost_at = None
            told, self._told_lost = self._told_lost, set()
            for sink in self.sinks:
                if sink in told:
                    sink.tell(Restored(self.topic, duration))

    def _stage_after_hole(self, update: Update) -> None:
        if not self._jumped and self.latest is not None and self.topic.channel.merge_key is MergeKey.CONTIGUOUS:
            self._missing.clear()  # its number is the next one
        latest_ns = None if self.latest is None else self.latest.time_ns
        first, last = self._numbers or (None, None)
        missing, self._missing = self._missing, {}
        too_late_ns, self._too_late_ns = self._too_late_ns, {}
        self._jumped, self._numbers = False, None
        self._choose_stagers()
        for sink in self.sinks:
            cause = missing.get(sink)
            if cause is None:
                sink.staged.append(update)
            else:
                since = None if latest_ns is None else min(latest_ns, too_late_ns.get(sink, latest_ns))
                sink.stage_after(Gap(self.topic, cause, first, last, since, update.time_ns), update)


def newest(updates: Iterable[Update | None]) -> Update | None:
    """The last of *updates* in the exchange's order: a link that was held brings old messages late.

    Of those whose time can be right, where there are any.
    """
    there = (one for one in updates if one is not None)
    return max(there, key=lambda one: (not one.misdated, one.time_ns, one.sequence or 0), default=None)


class Routes:
    """Which streams a message belongs to: wire topic, then subject. Several streams may share one, or both."""

    def __init__(self) -> None:
        self.by_wire: dict[str, dict[str | None, tuple[Stream, ...]]] = {}
        self.mark = 0
        """Grows with each stream that is added."""
        self._marks: dict[Stream, int] = {}

    def add(self, stream: Stream) -> None:
        if stream not in self._marks:
            self.mark += 1
            self._marks[stream] = self.mark
        subjects = self.by_wire.setdefault(stream.topic.wire, {})
        for subject in stream.topic.channel.subjects or (None,):
            others = subjects.get(subject, ())
            if stream not in others:
                subjects[subject] = (*others, stream)
        stream.routed(subjects)

    def remove(self, stream: Stream) -> None:
        self._marks.pop(stream, None)
        subjects = self.by_wire.get(stream.topic.wire, {})
        for subject, streams in list(subjects.items()):
            left = tuple(one for one in streams if one.whole is not stream)
            if left:
                subjects[subject] = left
            else:
                del subjects[subject]
        if not subjects:
            self.by_wire.pop(stream.topic.wire, None)

    def as_of(self, mark: int) -> ByWire:
        """`by_wire` without the streams that were added after *mark*: what came by then is none of theirs.

        Who has removed a topic and added it again has had what came before, most likely.
        """
        younger = dict(takewhile(lambda one: one[1] > mark, reversed(self._marks.items())))
        if not younger:
            return self.by_wire
        by_wire = dict(self.by_wire)
        for wire in {stream.topic.wire for stream in younger}:
            of_wire = by_wire.pop(wire)
            older = {
                subject: left
                for subject, streams in of_wire.items()
                if (left := tuple(one for one in streams if one.whole not in younger))
            }
            if older:
                by_wire[wire] = older
        return by_wire

    def streams(self) -> list[Stream]:
        every = (streams for subjects in self.by_wire.values() for streams in subjects.values())
        return list(dict.fromkeys(stream.whole for streams in every for stream in streams))


def stage(
    payloads: Sequence[bytes],
    *,
    loads: Callable[[bytes], Any],
    by_wire: ByWire,
    received_time_ns: int,
    on_control: Callable[[Mapping[str, Any]], None],
    refusals: Refusals,
    lateness: Lateness,
    generation: int = 0,
    hide: Callable[[str], str] = str,
) -> set[Stream]:
    """Decode *payloads*, which came on the link of this *generation*, in order, and stage each update with every queue
    that wants it; none twice, and none that comes too late for its place in the stream.

    Returns the streams that have something staged. Frames without a topic go to *on_control*. What is not valid is
    counted, and changes nothing else; what is kept of it goes through *hide*.
    """
    touched: set[Stream] = set()
    others: Sequence[tuple[Stream, Update]]
    oldest, newest = lateness.in_time(received_time_ns)
    for payload in payloads:
        try:
            frame = loads(payload)
        except _UNREADABLE as error:
            refusals.add(MessageRefused("json", type(error).__name__))
            continue
        try:
            subjects = by_wire[frame["topic"]]
            subject = frame["subject"]
            streams = subjects.get(subject) or subjects[None]
            stream = streams[0]
            update = stream.decode(frame, stream.topic, received_time_ns)
            # All of them before any is staged: what one refuses, none delivers.
            others = _decode_for(streams[1:], frame, received_time_ns) if len(streams) > 1 else ()
        except MessageRefused as refusal:
            refusals.add(refusal, frame, hide)
            continue
        except _MALFORMED as error:
            try:
                others = _look_again(frame, by_wire, received_time_ns, error, on_control, refusals)
            except MessageRefused as refusal:
                refusals.add(refusal, frame, hide)
                continue
        else:
            if not oldest <= (update.exchange_time_ns or received_time_ns) <= newest:
                lateness.mark(update)
            if (verdict := stream.take(update, generation)) is _NEW or stream.admit(verdict, update, refusals):
                touched.add(stream)
                for append in stream.stagers:
                    append(update)
                stream.latest = update
        if others:
            for stream, update in others:
                if not oldest <= (update.exchange_time_ns or received_time_ns) <= newest:
                    lateness.mark(update)
                if (verdict := stream.take(update, generation)) is _NEW or stream.admit(verdict, update, refusals):
                    touched.add(stream)
                    for append in stream.stagers:
                        append(update)
                    stream.latest = update
    return touched


def _decode_for(streams: Sequence[Stream], frame: dict[str, Any], received_time_ns: int) -> list[tuple[Stream, Update]]:
    """What *frame* is to others who share its topic and subject."""
    return [(stream, stream.decode(frame, stream.topic, received_time_ns)) for stream in streams]


def _look_again(
    frame: Any,
    by_wire: ByWire,
    received_time_ns: int,
    error: Exception,
    on_control: Callable[[Mapping[str, Any]], None],
    refusals: Refusals,
) -> Sequence[tuple[Stream, Update]]:
    """Say what a frame is that did not become an update; `MessageRefused` where it is not valid.

    It is an update after all where it came without its symbol in the topic, as announcements do.
    """
    if not isinstance(frame, dict):
        raise MessageRefused("envelope", "not a JSON object")
    if streams := _named_in_data(frame, by_wire):
        try:
            return _decode_for(streams, frame, received_time_ns)
        except _MALFORMED as found:
            raise _refusal(frame, found) from found
    if "topic" not in frame:
        if "subject" in frame or frame.get("type") == "message":
            raise MessageRefused("topic", "missing")
        on_control(frame)
    elif not isinstance(frame["topic"], str):
        raise MessageRefused("topic", "not text")
    elif frame["topic"] not in by_wire:
        if _names_nobody(frame, by_wire):
            raise MessageRefused("symbol", "not text")
        refusals.unwanted += 1
    elif not isinstance(frame.get("subject"), str):
        raise MessageRefused("subject", "not text" if "subject" in frame else "missing")
    elif not _wanted(by_wire[frame["topic"]], frame["subject"]):
        refusals.unwanted += 1
    else:
        raise _refusal(frame, error)
    return ()


def _refusal(frame: Mapping[str, Any], error: Exception) -> MessageRefused:
    """What is wrong with a frame that somebody wanted."""
    if not isinstance(frame.get("data"), dict):
        return MessageRefused("data", "not a JSON object")
    if isinstance(error, KeyError):
        return MessageRefused(str(error.args[0]), "missing")
    return MessageRefused("malformed", type(error).__name__)


def _named_in_data(frame: Mapping[str, Any], by_wire: ByWire) -> tuple[Stream, ...]:
    """The streams of a frame whose topic is the bare path of a channel, and whose data name the symbol."""
    path, data, subject = frame.get("topic"), frame.get("data"), frame.get("subject")
    if not (isinstance(path, str) and isinstance(data, dict) and isinstance(subject, str)):
        return ()
    symbol = data.get("symbol")
    if not isinstance(symbol, str):  # the text of what else it may be could take for ever, or not exist
        return ()
    streams = by_wire.get(f"{path}:{symbol}", {}).get(subject, ())
    return streams if streams and streams[0].topic.channel.pushed_without_symbol else ()


def _names_nobody(frame: Mapping[str, Any], by_wire: ByWire) -> bool:
    """Whether the topic of *frame* is the bare path of a channel that is streamed here, and its data name no symbol."""
    data = frame.get("data")
    if isinstance(data, dict) and isinstance(data.get("symbol"), str):
        return False
    channels = {next(iter(subjects.values()))[0].topic.channel for subjects in by_wire.values()}
    return any(channel.pushed_without_symbol and channel.path == frame["topic"] for channel in channels)


def _wanted(subjects: Mapping[str | None, tuple[Stream, ...]], subject: str) -> bool:
    return None in subjects or subject in subjects
