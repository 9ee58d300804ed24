"""From payloads to updates in the queues of those who want them: the hot path, with nothing in it that waits."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs

from .errors import MessageRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ._channels import UpdateQueue
    from .protocol.market import Topic


class Stream:
    """One topic and the queues of the subscriptions that want it."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.decode = topic.channel.decode
        self.overdue = False
        """Its subscribers were told that the exchange does not acknowledge it."""
        self.queues: tuple[UpdateQueue, ...] = ()
        self.stagers: tuple[Callable[[Any], None], ...] = ()

    def add(self, queue: UpdateQueue) -> None:
        if queue not in self.queues:
            self._set((*self.queues, queue))

    def remove(self, queue: UpdateQueue) -> None:
        self._set(tuple(one for one in self.queues if one is not queue))

    def _set(self, queues: tuple[UpdateQueue, ...]) -> None:
        # Copied on change: the decoding loop may be walking over the old one.
        self.queues = queues
        self.stagers = tuple(queue.staged.append for queue in queues)


class Routes:
    """Which stream a message belongs to: wire topic, then subject. Several streams may share one wire topic."""

    def __init__(self) -> None:
        self.by_wire: dict[str, dict[str | None, Stream]] = {}

    def add(self, stream: Stream) -> None:
        subjects = self.by_wire.setdefault(stream.topic.wire, {})
        for subject in stream.topic.channel.subjects or (None,):
            subjects[subject] = stream

    def remove(self, stream: Stream) -> None:
        subjects = self.by_wire.get(stream.topic.wire, {})
        for subject in [key for key, value in subjects.items() if value is stream]:
            del subjects[subject]
        if not subjects:
            self.by_wire.pop(stream.topic.wire, None)

    def streams(self) -> list[Stream]:
        return [stream for subjects in self.by_wire.values() for stream in dict.fromkeys(subjects.values())]


@attrs.define
class Refusals:
    """What arrived and was not delivered to anybody, counted by cause; at most one sample of each."""

    causes: Counter[str] = attrs.field(factory=Counter)
    samples: dict[str, str] = attrs.field(factory=dict)
    unwanted: int = 0
    """Valid frames for topics or subjects that nobody here asked for, as after an unsubscribe."""

    def add(self, refusal: MessageRefused) -> None:
        self.causes[refusal.cause] += 1
        self.samples.setdefault(refusal.cause, str(refusal))


def stage(
    payloads: Sequence[bytes],
    *,
    loads: Callable[[bytes], Any],
    by_wire: Mapping[str, Mapping[str | None, Stream]],
    received_time_ns: int,
    on_control: Callable[[Mapping[str, Any]], None],
    refusals: Refusals,
) -> set[Stream]:
    """Decode *payloads* in order and stage each update with every queue that wants it.

    Returns the streams that have something staged. Frames without a topic go to *on_control*. What is not valid is
    counted, and changes nothing else.
    """
    touched: set[Stream] = set()
    for payload in payloads:
        try:
            frame = loads(payload)
            subjects = by_wire[frame["topic"]]
            stream = subjects.get(frame["subject"]) or subjects[None]
            update = stream.decode(frame["data"], stream.topic, received_time_ns)
        except MessageRefused as refusal:
            refusals.add(refusal)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            _classify(payload, loads, by_wire, error, on_control, refusals)
        else:
            touched.add(stream)
            for append in stream.stagers:
                append(update)
    return touched


def _classify(
    payload: bytes,
    loads: Callable[[bytes], Any],
    by_wire: Mapping[str, Mapping[str | None, Stream]],
    error: Exception,
    on_control: Callable[[Mapping[str, Any]], None],
    refusals: Refusals,
) -> None:
    """Say what a payload is that did not become an update: off the hot path, so it may look twice."""
    try:
        frame = loads(payload)
    except (ValueError, RecursionError, OverflowError):
        refusals.add(MessageRefused("json", type(error).__name__))
        return
    if not isinstance(frame, dict):
        refusals.add(MessageRefused("envelope", "not a JSON object"))
    elif "topic" not in frame:
        on_control(frame)
    elif not isinstance(frame["topic"], str):
        refusals.add(MessageRefused("topic", "not text"))
    elif frame["topic"] not in by_wire or not _wanted(by_wire[frame["topic"]], frame.get("subject")):
        refusals.unwanted += 1
    elif not isinstance(frame.get("data"), dict):
        refusals.add(MessageRefused("data", "not a JSON object"))
    elif isinstance(error, KeyError):
        refusals.add(MessageRefused(str(error.args[0])[:40], "missing"))
    else:
        refusals.add(MessageRefused("malformed", f"{frame['topic'][:60]}: {type(error).__name__}"))


def _wanted(subjects: Mapping[str | None, Stream], subject: object) -> bool:
    return None in subjects or (isinstance(subject, str) and subject in subjects)
