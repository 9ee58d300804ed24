"""Fields of a message, exact or refused.

A decoder of JSON may let non-finite numbers through, and `Decimal()` takes `"1_0"`, `" 1 "`, `"١"` and
`"1e999999"`; none of these is a price. A refusal is a `MessageRefused` whose cause is the name of the field.
"""

from __future__ import annotations

import re
from decimal import Decimal
from operator import itemgetter, neg
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

import attrs

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
MAX_CHANGES = 100_000
"""Of one side of a book in one message: a bound, where documents state none."""
_MAX_LEVELS = 1000
"""Of one side in one message; the deepest channel has 50."""
_LONGEST_WORD = 64
_price = itemgetter(0)
_SIDES = {"buy": Side.BUY, "sell": Side.SELL}


@attrs.frozen
class Numbers:
    """How a feed reads decimal numbers: all into one type. What is taken and what is refused is the same for each.

    Annotations say `Decimal`, as those of the records do; read by `FLOAT`, each is a float.
    """

    convert: Callable[[str], Decimal]
    negate: Callable[[Decimal], Decimal]

    def decimal(self, value: object, field: str) -> Decimal:
        """A number that is finite and not negative: text as KuCoin writes it, or an old message's JSON number."""
        convert = self.convert  # not called on `self`: CPython 3.11 would look it up anew each time
        if type(value) is str:
            if value and not value.strip(_PLAIN) and value[0] != "." != value[-1] and len(value) <= _MAX_DIGITS:
                try:
                    return convert(value)
                except (ArithmeticError, ValueError):  # what Decimal and float say of two dots
                    pass
            elif len(value) <= _MAX_DIGITS and _NUMBER.fullmatch(value):
                return convert(value)
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
        if type(value) is str and value[:1] == "-":
            return self.negate(self.decimal(value[1:], field))
        if type(value) is int or type(value) is float:
            size = self.decimal(abs(value), field)
            return self.negate(size) if value < 0 else size
        return self.decimal(value, field)

    def optional_signed_decimal(self, value: object, field: str) -> Decimal | None:
        """The same, or None where the exchange left the value out."""
        return None if value is None or value == "" else self.signed_decimal(value, field)

    def levels(
        self, value: object, field: str, size: Callable[[object, str], Number], *, descending: bool
    ) -> tuple[Level, ...]:
        """One side of a book, best first: the order on the wire has changed over the years (futures documents, 2020).

        *size* reads the other number of a level.
        """
        if type(value) is not list or len(value) > _MAX_LEVELS:
            raise MessageRefused(field, shown(value))
        if any(type(row) is not list or len(row) != 2 for row in value):
            raise MessageRefused(field, "not pairs of price and size")
        decimal = self.decimal
        found = [Level(decimal(price, field), size(amount, field)) for price, amount in value]
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


def seconds(value: object, field: str) -> int:
    """Seconds since the epoch, as nanoseconds; digits checked. Text, as candles write it."""
    number = _whole(value, field)
    if 10**9 <= number < 10**10:
        return number * 1_000_000_000
    raise MessageRefused(field, f"not seconds: {shown(value)}")


def contracts(value: object, field: str) -> int:
    """A futures size: a whole number of contracts, as a JSON integer or (in one old document) text."""
    return _whole(value, field)


def optional_contracts(value: object, field: str) -> int | None:
    return None if value is None or value == "" else _whole(value, field)


def sequence(value: object, field: str = "sequence") -> int:
    return _whole(value, field)


def optional_sequence(value: object, field: str = "sequence") -> int | None:
    return None if value is None else _whole(value, field)


def milliseconds(value: object, field: str) -> int:
    """Milliseconds since the epoch, as nanoseconds. The count of digits is checked: units are the protocol's trap."""
    number = value if type(value) is int else _whole(value, field)
    if 10**12 <= number < 10**13:
        return number * 1_000_000
    raise MessageRefused(field, f"not milliseconds: {shown(value)}")


def nanoseconds(value: object, field: str) -> int:
    """Nanoseconds since the epoch, digits checked."""
    number = value if type(value) is int else _whole(value, field)
    if 10**18 <= number < 2**63:
        return number
    raise MessageRefused(field, f"not nanoseconds: {shown(value)}")


def side(value: object, field: str = "side") -> Side:
    if isinstance(value, str) and value in _SIDES:
        return _SIDES[value]
    raise MessageRefused(field, shown(value))


def text(value: object, field: str) -> str:
    if type(value) is str:
        return value
    raise MessageRefused(field, shown(value))


def word(value: object, field: str) -> str:
    """A name, such as a symbol or a currency: short, and nothing in it but what can be seen."""
    if type(value) is str and 0 < len(value) <= _LONGEST_WORD and value.isprintable() and " " not in value:
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
