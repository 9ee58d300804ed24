"""Fields of a message, exact or refused.

A decoder of JSON may let non-finite numbers through, and `Decimal()` takes `"1_0"`, `" 1 "`, `"١"` and
`"1e999999"`; none of these is a price. A refusal is a `MessageRefused` whose cause is the name of the field.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import partial
from operator import itemgetter, neg
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import attrs

from .._json import ExactFloat
from ..errors import MessageRefused
from .updates import Level, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .market import Decoder, Topic
    from .updates import Number

_PLAIN = "0123456789."
_MAX_DIGITS = 200
"""For one number, or for all of a message taken together; the longest seen has 31, most of them a tail of zeros.

With an exponent of two digits, what is within it is a float that is neither infinite nor rounded to zero.
"""
_NUMBER = re.compile(r"(?:0|[1-9][0-9]*|0[0-9]+)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")
_MAX_SEQUENCE = 2**63
_FIRST, _END = 10**9, 9 * 10**9
"""Seconds of the times that are taken, from 2001 to 2255: of the same count of digits, and in nanoseconds below 2**63
with years to spare for what is added to one."""
_MINUTE = 60
_SHORTEST_FUNDING, _LONGEST_FUNDING = 60_000, 7 * 86_400_000
"""Milliseconds from one funding rate to the next: a predicted one comes each minute, contracts are settled by hours."""
MAX_CHANGES = 100_000
"""Of one side of a book in one message: a bound, where documents state none."""
_MAX_LEVELS = 1000
"""Of one side in one message; the deepest channel has 50."""
_LONGEST_WORD = 64
_price = itemgetter(0)
_pair = partial(tuple.__new__, Level)  # `Level` without the frames of its own `__new__`
_SIDES = {"buy": Side.BUY, "sell": Side.SELL}


@attrs.frozen
class Numbers:
    """How a feed reads decimal numbers: all into one type. What is taken and what is refused is the same for each.

    Annotations say `Decimal`, as those of the records do; read by `FLOAT`, each is a float.
    """

    convert: Callable[[str], Decimal]
    negate: Callable[[Decimal], Decimal]

    def decimal(self, value: object, field: str) -> Decimal:
        """A number that is finite and not negative: text as KuCoin writes it, or a JSON number.

        Of an `ExactFloat` it is the text that counts; of another float the shortest text that means it.
        """
        convert = self.convert  # not called on `self`: CPython 3.11 would look it up anew each time
        if type(value) is str:
            if value and not value.strip(_PLAIN) and value[0] != "." != value[-1] and len(value) <= _MAX_DIGITS:
                try:
                    return convert(value)
                except (ArithmeticError, ValueError):  # what Decimal and float say of two dots
                    pass
            elif len(value) <= _MAX_DIGITS and _NUMBER.fullmatch(value):
                return convert(value)
        elif type(value) is ExactFloat:
            return self.decimal(value.text, field)
        elif type(value) is float or type(value) is int:
            # The shortest text that means this float: 31528.00000000 on the wire was written from a decimal, no double.
            text = repr(value) if type(value) is float or abs(value) < 10**_MAX_DIGITS else ""
            if _NUMBER.fullmatch(text):
                return convert(text)
        raise MessageRefused(field, shown(value))

    def optional_decimal(self, value: object, field: str) -> Decimal | None:
        """The same, or None where the exchange left the value out: one side of a book may be empty."""
        if value is None or value == "":
            return None
        return self.decimal(value, field)

    def optional_decimals(self, values: Sequence[object], names: Sequence[str]) -> Iterable[Decimal | None]:
        """`optional_decimal` for many fields at once, at half the price: plain numbers are recognised all together."""
        try:
            text = ".".join(values)  # type: ignore[arg-type]  # what is not text raises, and is looked at by itself
            # Digits and dots, no two dots together: whatever else could be wrong with one of them, `convert` refuses.
            plain = len(text) <= _MAX_DIGITS and text.isascii() and ".." not in text and text[:1] != "." != text[-1:]
            if plain and text.replace(".", "").isdigit():
                return list(map(self.convert, values))  # type: ignore[arg-type]
        except (TypeError, ArithmeticError, ValueError):
            pass
        return [self.optional_decimal(value, name) for value, name in zip(values, names, strict=True)]

    def signed_decimal(self, value: object, field: str) -> Decimal:
        """A number that is finite and may be negative: a rate, or a change."""
        if type(value) is ExactFloat:
            value = value.text
        if type(value) is str and value[:1] == "-":
            return self.negate(self.decimal(value[1:], field))
        if type(value) is int or type(value) is float:
            size = self.decimal(abs(value), field)
            return self.negate(size) if value < 0 else size
        return self.decimal(value, field)

    def optional_signed_decimal(self, value: object, field: str) -> Decimal | None:
        """The same, or None where the exchange left the value out."""
        return None if value is None or value == "" else self.signed_decimal(value, field)

    def decimals(self, values: Sequence[object], field: str) -> list[Decimal]:
        """`decimal` for all the prices or sizes of one side of a book, recognised together where they are plain."""
        try:
            text = ".".join(values)  # type: ignore[arg-type]  # as in `optional_decimals`
            plain = text.isascii() and ".." not in text and text[:1] != "." != text[-1:]
            if plain and text.replace(".", "").isdigit() and max(map(len, values)) <= _MAX_DIGITS:  # type: ignore[arg-type]
                return list(map(self.convert, values))  # type: ignore[arg-type]
        except (TypeError, ArithmeticError, ValueError):
            pass
        return [self.decimal(value, field) for value in values]

    def levels(
        self,
        value: object,
        field: str,
        sizes: Callable[[Sequence[object], str], Iterable[Number]],
        *,
        descending: bool,
        most: int = _MAX_LEVELS,
    ) -> tuple[Level, ...]:
        """One side of a book, best first: the order on the wire has changed over the years (futures documents, 2020).

        *sizes* reads the other numbers of the levels.
        """
        if type(value) is not list:
            raise MessageRefused(field, shown(value))
        if len(value) > most:
            raise MessageRefused(field, f"{len(value)} levels, of which there are {most} at most")
        if any(type(row) is not list or len(row) != 2 for row in value):
            raise MessageRefused(field, "not pairs of price and size")
        if not value:
            return ()
        prices, amounts = zip(*value, strict=True)
        found = list(map(_pair, zip(self.decimals(prices, field), sizes(amounts, field), strict=True)))
        found.sort(reverse=descending, key=_price)
        return tuple(found)


# `copy_negate` and not a minus, which would round to the 28 digits of the context.
EXACT = Numbers(Decimal, Decimal.copy_negate)
FLOAT = Numbers(cast("Callable[[str], Decimal]", float), neg)
NUMBERS: Mapping[type, Numbers] = {Decimal: EXACT, float: FLOAT}


def decoders(decode: Callable[[Numbers, Mapping[str, Any], Topic, int], Any]) -> Mapping[type, Decoder]:
    """*decode* for each type of number."""
    # Bound as a method is: that costs nothing at the call, where a `partial` would.
    return {kind: MethodType(decode, numbers) for kind, numbers in NUMBERS.items()}


def mapping(value: object, field: str) -> dict[str, Any]:
    """A JSON object inside `data`."""
    if type(value) is dict:
        return value
    raise MessageRefused(field, shown(value))


def seven(value: object, field: str) -> list[object]:
    """The seven elements of a candle."""
    if type(value) is list and len(value) == 7:
        return value
    raise MessageRefused(field, shown(value))


def three(value: object, field: str) -> list[str]:
    """The three parts of a futures book change, `price,side,size` (one document calls them otherwise, by mistake)."""
    if type(value) is str and len(value) < _MAX_DIGITS and len(parts := value.split(",")) == 3:
        return parts
    raise MessageRefused(field, shown(value))


def candle_start(value: object, time_ns: int, field: str) -> int:
    """Seconds since the epoch, as nanoseconds; *time_ns* is the time of the message. Text, as candles write it.

    Of whole minutes: not of whole intervals, since a candle of 8 hours is documented (2020) that began at 10:00 UTC.
    And not more than a minute, the shortest interval, after the message: nothing says that both times are read off
    one clock, but a candle that is further ahead would call the present one final.
    """
    number = _whole(value, field)
    if not _FIRST <= number < _END:
        raise MessageRefused(field, f"not seconds: {shown(value)}")
    if number % _MINUTE:
        raise MessageRefused(field, f"not a whole minute: {shown(value)}")
    start_ns = number * 1_000_000_000
    if start_ns > time_ns + _MINUTE * 1_000_000_000:
        raise MessageRefused(field, f"begins after its message: {shown(value)}")
    return start_ns


def contracts(value: object, field: str) -> int:
    """A futures size: a whole number of contracts, as a JSON integer or (in one old document) text."""
    return _whole(value, field)


def many_contracts(values: Sequence[object], field: str) -> list[int]:
    return [_whole(value, field) for value in values]


def optional_contracts(value: object, field: str) -> int | None:
    return None if value is None or value == "" else _whole(value, field)


def sequence(value: object, field: str = "sequence") -> int:
    return _whole(value, field)


def optional_sequence(value: object, field: str = "sequence") -> int | None:
    return None if value is None else _whole(value, field)


def milliseconds(value: object, field: str) -> int:
    """Milliseconds since the epoch, as nanoseconds. The count of digits is checked: units are the protocol's trap."""
    number = value if type(value) is int else _whole(value, field)
    if _FIRST * 1000 <= number < _END * 1000:
        return number * 1_000_000
    raise MessageRefused(field, f"not milliseconds: {shown(value)}")


def nanoseconds(value: object, field: str) -> int:
    """Nanoseconds since the epoch, digits checked."""
    number = value if type(value) is int else _whole(value, field)
    if _FIRST * 1_000_000_000 <= number < _END * 1_000_000_000:
        return number
    raise MessageRefused(field, f"not nanoseconds: {shown(value)}")


def funding_interval(value: object, field: str) -> int:
    """Milliseconds from one funding rate to the next, from a minute to a week."""
    number = _whole(value, field)
    if _SHORTEST_FUNDING <= number <= _LONGEST_FUNDING:
        return number
    raise MessageRefused(field, f"not an interval of funding: {shown(value)}")


def side(value: object, field: str = "side") -> Side:
    if isinstance(value, str) and value in _SIDES:
        return _SIDES[value]
    raise MessageRefused(field, shown(value))


def text(value: object, field: str) -> str:
    if type(value) is str:
        return value
    raise MessageRefused(field, shown(value))


def word(value: object, field: str) -> str:
    """A name, such as a symbol, a currency or the id of a trade: short, of ASCII, and all of it can be seen."""
    if (
        type(value) is str
        and 0 < len(value) <= _LONGEST_WORD
        and (value.isascii() and value.isprintable() and " " not in value)
    ):
        return value
    raise MessageRefused(field, shown(value))


def flag(value: object, field: str) -> bool:
    if type(value) is bool:
        return value
    raise MessageRefused(field, shown(value))


def check_symbol(data: Mapping[str, Any], topic: Topic) -> None:
    """A message about another symbol than its topic names is nobody's."""
    if data["symbol"] != topic.symbol:
        raise MessageRefused("symbol", shown(data["symbol"]))


def _whole(value: object, field: str) -> int:
    if type(value) is int:
        if 0 <= value < _MAX_SEQUENCE:
            return value
    elif type(value) is str and len(value) <= 19 and value.isascii() and value.isdigit():
        number = int(value)
        if number < _MAX_SEQUENCE:
            return number
    raise MessageRefused(field, shown(value))


def shown(value: object) -> str:
    """A value as an error text may carry it: short, printable, whatever it is."""
    if type(value) is int and abs(value) >= 10**30:
        return "an integer of more than 30 digits"  # int -> text is quadratic, and refused above 4,300 digits
    if isinstance(value, str | bytes):
        value = value[:40]
    text = ascii(value) if not isinstance(value, dict | list) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
