"""The feed's own JSON decoder: what the standard library's strict parser takes, and nothing else."""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import orjson
import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from kufeed._json import ExactFloat, loads

SPACE = st.text(" \t\r\n", max_size=2)
DIGITS = st.text("0123456789", min_size=1, max_size=6)
VALID = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

numbers = st.builds(
    "".join,
    st.tuples(
        *(st.sampled_from(["", "-"]), st.just("0") | st.integers(1).map(str)),
        *(st.just("") | DIGITS.map(".{}".format), st.just("") | st.sampled_from(["e5", "E-05", "e+10", "e0"])),
    ),
)
strings = (st.text() | st.text('01.-,:[]{}eE" \\', max_size=12)).map(json.dumps)
damaged_numbers = st.one_of(
    st.sampled_from(
        ["-", "01", "1.", "1.e5", "00", "-01", "-.5", "-0.", ".5", "+1", "1e", "00.5", "-00", "1.E1", "1e+"]
    ),
    st.sampled_from(
        ["NaN", "Infinity", "-Infinity", "-NaN", "nan", "0x1", "1_0", "--1", "1..2", "1.2.3", "1-2", "- 1"]
    ),
    st.text("0123456789.-+eE", min_size=1, max_size=8).filter(lambda text: not VALID.fullmatch(text)),
    st.builds("{}{}".format, st.sampled_from(["0", "00", "-0"]), st.integers(0)),
    st.builds("{}.{}".format, st.integers(), st.sampled_from(["", "e1", "E-1"])),
)


def written(scalars: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """JSON texts with any white space between their tokens."""

    def spaced(draw: st.DrawFn, *tokens: str) -> str:
        return "".join(draw(SPACE) + token + draw(SPACE) for token in tokens)

    @st.composite
    def array(draw: st.DrawFn, items: list[str]) -> str:
        return spaced(draw, "[", *[part for item in items for part in (",", item)][1:], "]")

    @st.composite
    def object_(draw: st.DrawFn, items: list[tuple[str, str]]) -> str:
        members = [part for key, value in items for part in (",", key, ":", value)][1:]
        return spaced(draw, "{", *members, "}")

    def containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        lists, members = st.lists(inner, max_size=3), st.lists(st.tuples(strings, inner), max_size=3)
        return lists.flatmap(array) | members.flatmap(object_)

    return st.recursive(st.builds("{}{}{}".format, SPACE, scalars, SPACE), containers, max_leaves=12)


texts = written(numbers | strings | st.sampled_from(["true", "false", "null"]))


@given(texts)
def test_what_is_json_is_read_as_the_standard_library_reads_it(text: str) -> None:
    assert same(loads(text.encode()), json.loads(text))


@given(numbers)
def test_a_fraction_keeps_how_it_was_written(text: str) -> None:
    """And is the same float as ever, also to who writes it again or sends it to another process."""
    (found,) = loads(f"[{text}]".encode())
    if not set(text) & {*".eE"}:
        assert type(found) is int
        return
    sent = pickle.loads(pickle.dumps(found))  # noqa: S301  # our own
    for one in (found, sent, copy.copy(found), copy.deepcopy(found)):
        assert (type(one), one.text) == (ExactFloat, text)
        assert same(one, float(text))
        assert hash(one) == hash(float(text))
    assert json.dumps(found) == json.dumps(float(text))
    assert ujson.dumps(found) == ujson.dumps(float(text))
    assert orjson.dumps([found], default=float) == orjson.dumps([float(text)])


def same(one: Any, other: Any) -> bool:
    """Equal, with the types equal: `1 == 1.0 == True`."""
    return one == other and repr(one) == repr(other)


@given(st.data(), damaged_numbers)
def test_a_damaged_number_is_refused_wherever_it_stands(data: st.DataObject, number: str) -> None:
    """Put in place of a number, with white space or without, in arrays, objects and alone."""
    text = data.draw(written(st.just('"here"')).filter(lambda text: re.search(r'(?<!\\)"here"(?!\s*:)', text)))
    with pytest.raises(ValueError):
        loads(re.sub(r'"here"(?!\s*:)', lambda _: number, text, count=1).encode())


@given(texts, st.data())
def test_what_is_not_json_is_refused_as_the_standard_library_refuses_it(text: str, data: st.DataObject) -> None:
    """One character replaced, left out or put in: whatever it comes to, both say the same."""
    place = data.draw(st.integers(0, len(text)))
    piece = data.draw(st.sampled_from([*'0-.eE+,:[]{}"\\ \n\0x', ""]))
    damaged = text[:place] + piece + text[place + data.draw(st.integers(0, 1)) :]
    try:
        expected = json.loads(damaged, parse_constant=refused)
    except ValueError:
        with pytest.raises(ValueError):
            loads(damaged.encode())
    else:
        assert same(loads(damaged.encode()), expected)


def refused(constant: str) -> Any:
    raise ValueError(constant)


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b" ", b"{", b"nonsense", b"{}{}", b"{} x", b'{"a":1,}', b"[1,]", b"nul", b"truex", b"\x0b1", b"1\xa0"),
        *(b"\xff", b'"\xff"', b'"\xed\xa0\x80"', b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b"1\0", b'"\n"', b'"\\x"'),
        *(b"[" * 400_000, b'{"a":' * 100_000, b"[" * 100_000 + b"]" * 100_000),
    ],
    ids=lambda payload: repr(payload[:12]),
)
def test_every_refusal_is_a_value_error(payload: bytes) -> None:
    with pytest.raises(ValueError):
        loads(payload)


def test_a_lone_surrogate_and_a_repeated_key_are_read_as_by_others() -> None:
    """Legal JSON, both; what may not stand in a field is the field's matter."""
    assert loads(b'"\\ud800"') == "\ud800"
    assert loads(b'{"a":1,"a":2}') == {"a": 2}
    assert loads(b"1e400") == math.inf, "a legal number; no field takes it"


@contextmanager
def digits_unlimited() -> Iterator[None]:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


@pytest.mark.parametrize("sign", [b"", b"-"])
@pytest.mark.parametrize("lifted", [False, True])
def test_an_integer_that_would_take_minutes_is_refused(sign: bytes, lifted: bool) -> None:
    """Also in a program that has lifted Python's own limit."""
    with digits_unlimited() if lifted else nullcontext():
        for digits in (4_301, 4_000_000):
            with pytest.raises(ValueError):
                loads(b'{"a":' + sign + b"9" * digits + b"}")
        for digits in (1, 4_299):
            assert loads(b"[" + b"1," * 5_000 + sign + b"9" * digits + b"]")[-1] == int(sign + b"9" * digits)


def test_long_texts_and_long_fractions_are_no_integers() -> None:
    assert loads(b'"' + b"9" * 10_000 + b'"') == "9" * 10_000
    assert loads(b"1." + b"0" * 10_000) == 1.0
