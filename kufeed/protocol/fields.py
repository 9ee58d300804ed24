"""Fields of a message, exact or refused.

`ujson` lets malformed and non-finite numbers through, and `Decimal()` takes `"1_0"`, `" 1 "`, `"١"` and
`"1e999999"`; none of these is a price. A refusal is a `MessageRefused` whose cause is the name of the field.
"""

from __future__ import annotations

import re
from decimal import Decimal
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from ..errors import MessageRefused
from .updates import Level, Side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .market import Topic

_PLAIN = "0123456789."
_MAX_DIGITS = 200
"""For one number, or for all of a message taken together; the longest seen has 31, most of them a tail of zeros."""
_NUMBER = re.compile(r"(?:0|[1-9][0-9]*|0[0-9]+)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,2})?")
_MAX_SEQUENCE = 2**63
MAX_CHANGES = 100_000
"""Of one side of a book in one message: a bound, where documents state none."""
_MAX_LEVELS = 1000
"""Of one side in one message; the deepest channel has 50."""
_price = itemgetter(0)
_SIDES = {"buy": Side.BUY, "sell": Side.SELL}


def decimal(value: object, field: str) -> Decimal:
    """A number that is finite and not negative: text as KuCoin writes it, or an old message's JSON number."""
    if type(value) is str:
        if value.strip(_PLAIN) == "" and value[-1:] != "." and value[:1] != "." and len(value) <= _MAX_DIGITS:
            try:
                return Decimal(value)
            except ArithmeticError:
                pass
        elif len(value) <= _MAX_DIGITS and _NUMBER.fullmatch(value):
            return Decimal(value)
    elif type(value) is float or type(value) is int:
        # The shortest text that means this float: 31528.00000000 on the wire was written from a decimal, not a double.
        text = repr(value) if type(value) is float or abs(value) < 10**_MAX_DIGITS else ""
        if _NUMBER.fullmatch(text):
            return Decimal(text)
    raise MessageRefused(field, shown(value))


def optional_decimal(value: object, field: str) -> Decimal | None:
    """The same, or None where the exchange left the value out: one side of a book may be empty."""
    if value is None or value == "":
        return None
    return decimal(value, field)


def signed_decimal(value: object, field: str) -> Decimal:
    """A number that is finite and may be negative: a rate, or a change."""
    # `copy_negate` and not a minus, which would round to the 28 digits of the context.
    if type(value) is str and value[:1] == "-":
        return decimal(value[1:], field).copy_negate()
    if type(value) is int or type(value) is float:
        size = decimal(abs(value), field)
        return size.copy_negate() if value < 0 else size
    return decimal(value, field)


def optional_signed_decimal(value: object, field: str) -> Decimal | None:
    return None if value is None or value == "" else signed_decimal(value, field)


def levels(
    value: object,
    field: str,
    size: Callable[[object, str], Any],
    *,
    descending: bool,
    price: Callable[[object, str], Any] = decimal,
    most: int = _MAX_LEVELS,
) -> tuple[Level, ...]:
    """One side of a book, best first: the order on the wire has changed over the years (futures documents, 2020)."""
    if type(value) is not list:
        raise MessageRefused(field, shown(value))
    if len(value) > most:
        raise MessageRefused(field, f"{len(value)} levels, of which there are {most} at most")
    if any(type(row) is not list or len(row) != 2 for row in value):
        raise MessageRefused(field, "not pairs of price and size")
    found = [Level(price(at, field), size(amount, field)) for at, amount in value]
    found.sort(reverse=descending, key=_price)
    return tuple(found)


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


def optional_decimals(values: Sequence[object], names: Sequence[str]) -> Iterable[Decimal | None]:
    """`optional_decimal` for many fields at once, at half the price: plain numbers are recognised all together."""
    try:
        text = ".".join(values)  # type: ignore[arg-type]  # what is not text raises, and is looked at by itself
        # Digits and dots, no two dots together: whatever else could be wrong with one of them, Decimal refuses.
        plain = len(text) <= _MAX_DIGITS and text.isascii() and ".." not in text and text[:1] != "." != text[-1:]
        if plain and text.replace(".", "").isdigit():
            return [Decimal(value) for value in values]  # type: ignore[arg-type]
    except (TypeError, ArithmeticError):
        pass
    return [optional_decimal(value, name) for value, name in zip(values, names, strict=True)]


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
