"""Validators of what can be set on an exchange: errors name the field."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import attrs

_SENDABLE = (*range(1000, 1004), *range(1007, 1015), *range(3000, 5000))  # RFC 6455, section 7.4


def is_status(value: object) -> bool:
    """An HTTP status of an error."""
    return type(value) is int and 400 <= value < 600


def is_error(value: object) -> bool:
    """An HTTP status of an error, or KuCoin's code and message."""
    if isinstance(value, tuple):
        return len(value) == 2 and all(isinstance(part, str) for part in value)
    return is_status(value)


def is_close_code(value: object) -> bool:
    """A code that a close frame may carry."""
    return type(value) is int and value in _SENDABLE


def is_header(value: object) -> bool:
    """Text that may stand in a header."""
    return isinstance(value, str) and value.isascii() and value.isprintable() and value == value.strip()


def is_name(value: object) -> bool:
    """A name, such as a symbol's."""
    return isinstance(value, str) and bool(value)


def is_flag(value: object) -> bool:
    """True or False."""
    return isinstance(value, bool)


def is_finite(value: object) -> bool:
    """A number of seconds, of either sign, within a century."""
    return type(value) in (int, float) and abs(value) < 4e9  # type: ignore[arg-type]


def is_wait(value: object) -> bool:
    """A number of seconds to wait; `math.inf` for ever."""
    return type(value) in (int, float) and (0 <= value < 4e9 or value == math.inf)  # type: ignore[operator]


def must(
    check: Callable[[object], bool], words: str, *, optional: bool = False
) -> Callable[[object, attrs.Attribute[Any], object], None]:
    """A validator: what does not pass *check* raises `ValueError`, which says in *words* what it must be."""

    def validate(_: object, field: attrs.Attribute[Any], value: object) -> None:
        if not (check(value) or (optional and value is None)):
            raise ValueError(f"{field.name} must be {words}{', or None' if optional else ''}, not {value!r:.80}")

    return validate


ERROR = "an HTTP status from 400 to 599, or KuCoin's code and message"
STATUS = "an HTTP status from 400 to 599"
