"""The JSON of the exchange, strictly: what a number is not is refused, and not read as some other number.

`ujson` reads `-` as 0, `01` as 1 and `1.` as 1.0. To look for these in the bytes before it costs more than it saves:
for a spot ticker (263 bytes, CPython 3.11) `ujson.loads` takes 1.24 us, one search for two bytes such as `:0` takes
0.25 us (there would be eleven of them), `bytes.translate` to classes of characters and two searches 0.7 us, one regular
expression 5 us; the bytes of a whole batch at once cost the same. The standard library's scanner, which is written in C
and strict, takes 0.4 us more than `ujson` and needs none of that. Only messages full of JSON floats, the 24 h figures,
take it twice as long, and half as much again to keep what was written of each, since a float has too few digits for
some; they come every 2 to 5 s. `python tests/benchmarks/strict_json.py` prints the figures of each
channel.
"""

from __future__ import annotations

from json.decoder import JSONDecoder
from typing import Any

_SPACE = " \t\r\n"
_MAX_DIGITS = 4300
"""Of one integer: Python's own limit, which a program may have lifted. Reading takes the square of their number."""


class ExactFloat(float):
    """A number with a fraction or an exponent, and its `text`, which may have more digits than a float holds.

    A float in all else. `json.dumps` and `ujson.dumps` write it as one, `orjson.dumps` with ``default=float``.
    """

    __slots__ = ("text",)
    text: str


def _fraction(text: str) -> float:
    made = ExactFloat(text)
    made.text = text
    return made


def loads(payload: bytes) -> Any:
    """The value that *payload* is the JSON of, in UTF-8. `ValueError` for all else, whatever it is.

    A number with a fraction or an exponent is an `ExactFloat`. Refused are also `NaN` and `Infinity`, integers of more
    than 4,300 digits, a byte order mark, and nesting deeper than the recursion limit leaves room for. The last of equal
    keys counts.
    """
    text = payload.decode()
    try:
        value, end = (_scan if len(text) <= _MAX_DIGITS else _scan_long)(text, 0)
    except StopIteration:
        if text[:1] and text[0] in _SPACE and (text := text.lstrip(_SPACE)):
            return loads(text.encode())
        raise ValueError("not JSON: no value where one must stand") from None
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None
    if end != len(text) and text[end:].strip(_SPACE):
        raise ValueError("not JSON: more behind its end")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"not JSON: {constant}")


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"JSON with an integer of {len(text)} digits")
    return int(text)


_scan = JSONDecoder(parse_constant=_refuse, parse_float=_fraction).scan_once  # type: ignore[attr-defined]  # `raw_decode` without its frame
_scan_long = JSONDecoder(parse_constant=_refuse, parse_float=_fraction, parse_int=_integer).scan_once  # type: ignore[attr-defined]
"""For what is long enough to hold too long an integer: it calls a function for each, which costs 0.1 us."""
