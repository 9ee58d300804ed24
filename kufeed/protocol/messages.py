"""Frames of the WebSocket protocol, both ways: what we send, and what the server's control frames mean."""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Any

import attrs
import ujson

from . import fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .market import Topic


def ping(frame_id: str) -> str:
    return ujson.dumps({"id": frame_id, "type": "ping"})


def subscribe(frame_id: str, wire_topic: str) -> str:
    # `response` is false by default, and without it there is neither an ack nor any proof (KuCoin, subscribe).
    return _request(frame_id, "subscribe", wire_topic)


def unsubscribe(frame_id: str, wire_topic: str) -> str:
    return _request(frame_id, "unsubscribe", wire_topic)


def _request(frame_id: str, verb: str, wire_topic: str) -> str:
    return ujson.dumps(
        {"id": frame_id, "type": verb, "topic": wire_topic, "privateChannel": False, "response": True},
        escape_forward_slashes=False,
    )


def joined(topics: Iterable[Topic]) -> str:
    """Topics of one channel as one wire topic: `/market/ticker:BTC-USDT,ETH-USDT`."""
    chosen = list(topics)
    return f"{chosen[0].channel.path}:{','.join(topic.argument for topic in chosen)}"


def batches(topics: Iterable[Topic]) -> Iterator[tuple[Topic, ...]]:
    """Topics sorted into what one frame may carry: one channel, at most the market's symbols per frame."""
    by_channel: dict[str, list[Topic]] = {}
    for topic in topics:
        by_channel.setdefault(str(topic.channel), []).append(topic)
    for chosen in by_channel.values():
        size = chosen[0].channel.market.symbols_per_frame
        for start in range(0, len(chosen), size):
            yield tuple(chosen[start : start + size])


class Meaning(Enum):
    """What an error frame asks of us. 509 stands for four different things; only its text tells them apart."""

    TOKEN_EXPIRED = "token expired"  # noqa: S105  # a meaning, not a token
    TOPIC_REFUSED = "topic refused"
    TOO_FAST = "too many frames: wait"
    FRAME_TOO_LARGE = "too many symbols in one frame"
    LINK_FULL = "too many topics on this connection"
    OTHER = "other"


@attrs.frozen
class ErrorFrame:
    """`{"type": "error", ...}`: `frame_id` is None where the server named no request of ours."""

    frame_id: str | None
    code: int
    message: str
    meaning: Meaning
    wait: float = 0.0
    """Seconds to send nothing, for `TOO_FAST`."""
    limit: int | None = None
    """How many topics a connection may have, for `LINK_FULL`."""
    topic: str | None = None
    """The wire topic that the text names, for `TOPIC_REFUSED`."""


_PER_SESSION = re.compile(r"exceed max subscription count limitation of (\d{1,6}) per session")
_NOT_FOUND = re.compile(r"topic (\S+) is not found")
_PER_FRAME = re.compile(r"exceed max subscription count limitation of \d+ per time")


def read_error(frame: Mapping[str, Any]) -> ErrorFrame:
    """Read an error frame; the texts were all recorded (`docs/protocol.rst` has the list with sources)."""
    frame_id = read_id(frame)
    code = frame.get("code")
    code = code if type(code) is int and 0 <= code < 10**9 else 0
    data = frame.get("data", "")
    message = data[:200] if isinstance(data, str) and data.isprintable() else fields.shown(data)
    meaning, wait, limit, topic = Meaning.OTHER, 0.0, None, None
    if code == 401:
        meaning = Meaning.TOKEN_EXPIRED
    elif code == 404:
        meaning = Meaning.TOPIC_REFUSED
        if named := _NOT_FOUND.search(message):
            topic = named[1]
    elif code == 509:
        if full := _PER_SESSION.search(message):
            meaning, limit = Meaning.LINK_FULL, int(full[1])
        elif _PER_FRAME.search(message):
            meaning = Meaning.FRAME_TOO_LARGE
        else:
            # "exceed max permits per second" and "... per 10 seconds"; an unknown text is read as the careful one.
            meaning, wait = Meaning.TOO_FAST, 1.0 if message.endswith("per second") else 10.0
    return ErrorFrame(frame_id, code, message, meaning, wait, limit, topic)


def read_id(frame: Mapping[str, Any]) -> str | None:
    """A frame's id as text: it comes back as a string even where a number was sent (recorded 2021-04-25)."""
    value = frame.get("id")
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int and abs(value) < 10**20 else None
