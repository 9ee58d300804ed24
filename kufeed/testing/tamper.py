"""What happens to chosen messages between the market and one connection: they are lost, repeated, late or damaged.

Pure: a filter is told each message of its connection, in order, and says what is put on the wire in its place.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from kufeed.testing.wire import compact

if TYPE_CHECKING:
    from collections.abc import Iterable

Corruption = Literal["cut off", "not json", "no data", "wrong type", "bad number", "unknown topic", "huge number"]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)


class Message(NamedTuple):
    """A pushed frame, as JSON text, and the symbol that it is about."""

    symbol: str
    text: str


class Tamper(ABC):
    """Chooses, of the messages of `symbol` (None: of any): `skip` pass, the `count` after them are treated."""

    def __init__(self, symbol: str | None, skip: int, count: int) -> None:
        self.symbol = symbol
        self._skip = skip
        self._left = count

    @property
    def is_over(self) -> bool:
        """Whether all that comes will pass as it is."""
        return not self._left

    def withdraw(self) -> None:
        """Choose no further message; what it withholds until then is sent all the same."""
        self._left = 0

    def handle(self, message: Message) -> list[Message]:
        """What is put on the wire now that *message* is its connection's next one."""
        if not self._left or self.symbol not in (None, message.symbol):
            return [message]
        if self._skip:
            self._skip -= 1
            return [message]
        self._left -= 1
        return self.treat(message, is_last=not self._left)

    @abstractmethod
    def treat(self, message: Message, *, is_last: bool) -> list[Message]:
        """What is put on the wire instead of a chosen *message*."""


class Drop(Tamper):
    """They are not sent."""

    def treat(self, message: Message, *, is_last: bool) -> list[Message]:
        return []


class Repeat(Tamper):
    """They are sent, and once more after *delay* further messages of their connection, whatever those are about."""

    def __init__(self, symbol: str | None, skip: int, count: int, delay: int) -> None:
        super().__init__(symbol, skip, count)
        self._delay = delay
        self._waiting: list[tuple[int, Message]] = []  # after how many more messages

    @property
    def is_over(self) -> bool:
        return super().is_over and not self._waiting

    def withdraw(self) -> None:
        super().withdraw()
        self._waiting.clear()

    def handle(self, message: Message) -> list[Message]:
        waited = [(more - 1, again) for more, again in self._waiting]
        self._waiting = [(more, again) for more, again in waited if more]
        return [*super().handle(message), *(again for more, again in waited if not more)]

    def treat(self, message: Message, *, is_last: bool) -> list[Message]:
        if not self._delay:
            return [message, message]
        self._waiting.append((self._delay, message))
        return [message]


class Reorder(Tamper):
    """They wait until the last of them comes, and are sent in the opposite order."""

    def __init__(self, symbol: str | None, skip: int, count: int) -> None:
        super().__init__(symbol, skip, count)
        self._held: list[Message] = []

    def withdraw(self) -> None:
        self._left = min(len(self._held), 1)  # the next one is the last, with which they go

    def treat(self, message: Message, *, is_last: bool) -> list[Message]:
        self._held.append(message)
        return self._held[::-1] if is_last else []


class Corrupt(Tamper):
    """They are sent, `damaged()` in one way."""

    def __init__(self, symbol: str | None, skip: int, count: int, how: Corruption) -> None:
        super().__init__(symbol, skip, count)
        self._how = how

    def treat(self, message: Message, *, is_last: bool) -> list[Message]:
        return [Message(message.symbol, damaged(message.text, self._how))]


def passed(tampers: list[Tamper], message: Message) -> Iterable[Message]:
    """What a connection's *tampers* make of its next message, one after the other; those which are over leave."""
    messages = [message]
    for tamper in tampers:
        messages = [made for each in messages for made in tamper.handle(each)]
    tampers[:] = [tamper for tamper in tampers if not tamper.is_over]
    return messages


def withdraw(tampers: list[Tamper], tamper: Tamper) -> None:
    """Have *tamper*, one of a connection's *tampers*, do nothing further, and leave them as soon as it can."""
    tamper.withdraw()
    tampers[:] = [one for one in tampers if one is not tamper or not one.is_over]


def damaged(text: str, how: Corruption) -> str:
    """A pushed frame, spoilt so that a client can see it.

    - `"cut off"`: the second half of the JSON is missing. `"not json"`: it is a page of some gateway instead.
    - `"no data"`: the field `data` is missing. `"wrong type"`: it is a number.
    - `"bad number"`, `"huge number"`: each number in `data` is one that no exchange means (`1_0`, `1e999999`).
    - `"unknown topic"`: it is of a topic that nobody has heard of.
    """
    if how == "cut off":
        return text[: len(text) // 2]
    if how == "not json":
        return "<html><body>502 Bad Gateway</body></html>"
    frame: dict[str, Any] = json.loads(text)
    match how:
        case "no data":
            del frame["data"]
        case "wrong type":
            frame["data"] = 7
        case "unknown topic":
            frame["topic"] = "/market/nothing:NO-SUCH"
        case "bad number":
            frame["data"] = _with_numbers(frame["data"], "1_0")
        case "huge number":
            frame["data"] = _with_numbers(frame["data"], "1e999999")
    return compact(frame)


def _with_numbers(value: Any, number: str) -> Any:
    """*value* with *number* for each number in it, be it written as a number or as text."""
    if isinstance(value, dict):
        return {key: _with_numbers(inner, number) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_numbers(inner, number) for inner in value]
    if isinstance(value, str):
        return number if value.replace(".", "", 1).isdecimal() else value
    return value if isinstance(value, bool) or value is None else number
