"""What can be wrong with a message, by name, and what a client counts it under that refuses it. Needs Hypothesis."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import strategies as st

from kufeed.testing.wireforms import FORMS, form_of, written

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import SearchStrategy

    from kufeed import Topic
    from kufeed.protocol import Channel
    from kufeed.testing.wireforms import Form, Path

_NO_NUMBERS = ("NaN", "1_0", "Infinity", " 1", "1.", ".5", "+1", "0x1", "1e999999", "1..2", "١", "--1")
"""Most of which `decimal.Decimal` or `float` takes."""


class DamagedMessage(NamedTuple):
    """A message that is not valid: the text, the name of what was done to it, and the cause of its being refused.

    The *cause* is what `FeedStatistics.refused` counts it under.
    """

    damage: str
    text: str
    cause: str


Spoilt = tuple[str, str]
"""Text, and cause."""
Damage = dict[str, "SearchStrategy[Spoilt]"]


def spoilt(topic: Topic, message: dict[str, Any]) -> Damage:
    """Each damage that *message*, of *topic*, can have, by name."""
    form, text = form_of(topic), written(message)
    whole: Damage = {
        "cut off": st.integers(0, len(text) - 1).map(lambda end: (text[:end], "json")),
        "not json": st.sampled_from([(text.replace(":", "=", 1), "json"), (text.replace('"', "'"), "json")]),
        "no object": st.sampled_from([(f"[{text}]", "envelope"), (written(text), "envelope"), ("null", "envelope")]),
        "no topic": _without(message, "topic"),
        "topic is no text": _set(message, ("topic",), [7, None, [], {}], "topic"),
        "no subject": _without(message, "subject"),
        "subject is no text": _set(message, ("subject",), [7, None, []], "subject"),
        "no data": _without(message, "data"),
        "data is no object": _set(message, ("data",), [None, [], "data", 7], "data"),
    }
    return {**whole, **{name: one for name, one in _of_fields(form, message).items() if one is not None}}


def _of_fields(form: Form, message: dict[str, Any]) -> dict[str, SearchStrategy[Spoilt] | None]:
    data = message["data"]
    unsigned = [path for path in form.numbers if path[-1] not in form.signed]
    return {
        "missing field": _one_of(
            _without(message, "data", name, cause=form.missing_as.get(name)) for name in form.required
        ),
        "wrong type": _everywhere(message, form.numbers, lambda _: [True, [[]]]),
        "bad number": _everywhere(message, form.numbers, lambda _: _NO_NUMBERS),
        "negative number": _everywhere(message, unsigned, lambda value: [_negative(value)]),
        "huge number": _everywhere(message, form.numbers, lambda _: ["9" * 201]),
        "wrong unit": _everywhere(message, form.times, _other_units),
        "uneven row": _everywhere(message, form.rows, _uneven),
        "other symbol": _set(message, ("data", "symbol"), ["OTHER-USDT", "", None], "symbol")
        if "symbol" in data
        else None,
        "wrong side": None if form.side is None else _everywhere(message, [form.side], _wrong_side),
        "numbers backwards": _set(message, ("data", "sequenceStart"), [data["sequenceEnd"] + 1], "sequence")
        if "sequenceStart" in data
        else None,
    }


NAMES = (
    *("cut off", "not json", "no object", "no topic", "topic is no text", "no subject", "subject is no text"),
    *("no data", "data is no object", "missing field", "wrong type", "bad number", "negative number", "huge number"),
    *("wrong unit", "uneven row", "other symbol", "wrong side", "numbers backwards"),
)
"""All damages; which of them a message can have depends on its channel."""


def can_have(channel: Channel, damage: str) -> bool:
    """Whether there are messages of *channel* with that damage."""
    form = FORMS[channel.market.name, channel.kind]
    there = {
        "uneven row": bool(form.rows),
        "other symbol": "symbol" in form.required + form.compared,
        "wrong side": form.side is not None,
        "numbers backwards": "sequenceStart" in form.required,
    }
    return there.get(damage, True)


def _negative(value: Any) -> Any:
    return f"-{value}" if isinstance(value, str) else -1


def _other_units(value: int | str) -> list[int | str]:
    """A time in seconds, or as a client would write microseconds."""
    return [type(value)(int(value) // 1000), type(value)(int(value) // 10**6)]


def _uneven(value: list[Any] | str) -> list[Any]:
    if isinstance(value, str):
        return [value.rpartition(",")[0], f"{value},1"]
    return [value[:-1], [*value, "1"]]


def _wrong_side(value: str) -> list[str]:
    return [value.replace("buy", "BUY").replace("sell", "bid"), value.replace("buy", "").replace("sell", "")]


def _one_of(several: Any) -> SearchStrategy[Spoilt] | None:
    found = list(several)
    return st.one_of(found) if found else None


def _everywhere(message: dict[str, Any], paths: Any, values: Callable[[Any], Any]) -> SearchStrategy[Spoilt] | None:
    """Something else at one of *paths* of the data, where this message has it; the cause is the innermost name."""
    return _one_of(
        _set(message, ("data", *path), values(found), next(part for part in reversed(path) if isinstance(part, str)))
        for path in paths
        if (found := _at(message["data"], path)) is not None
    )


def _at(data: Any, path: Path) -> Any:
    for part in path:
        try:
            data = data[part]
        except LookupError:
            return None
    return data


def _set(message: dict[str, Any], path: Path, values: Any, cause: str) -> SearchStrategy[Spoilt]:
    def change(value: Any) -> Spoilt:
        changed = copy.deepcopy(message)
        _at(changed, path[:-1])[path[-1]] = value
        return written(changed), cause

    return st.sampled_from(list(values)).map(change)


def _without(message: dict[str, Any], *path: str, cause: str | None = None) -> SearchStrategy[Spoilt]:
    changed = copy.deepcopy(message)
    del _at(changed, path[:-1])[path[-1]]
    return st.just((written(changed), cause or path[-1]))
