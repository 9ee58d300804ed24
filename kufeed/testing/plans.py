"""Fault plans: what goes wrong and when, as a value that can be printed, stored and played again."""

from __future__ import annotations

import heapq
import json
import math
import random
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import attrs
import trio

from kufeed.testing import faults
from kufeed.testing.hazards import SEVERITIES, Fault, LastingFault, Severity, check_kind, domains

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kufeed.testing.exchange import Exchange

_KINDS = {kind.__name__: kind for kind in faults.KINDS}
_DURATION = 20.0  # seconds: what the domains of fields are made for
_SHORTEST = 0.001  # seconds: times of faults that are drawn are whole milliseconds
_LONGEST = 10**12
_MOST = 5  # faults in a plan that is drawn: those which find something are short
_ENDS, _BEGINS = range(2)  # in this order where they are of one moment


def kinds_of(severity: Severity) -> tuple[type[Fault], ...]:
    """The kinds of fault that a plan of this *severity* has: its own, and all milder ones."""
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {', '.join(SEVERITIES)}, not {severity!r}")
    mildest = SEVERITIES[: SEVERITIES.index(severity) + 1]
    return tuple(kind for kind in faults.KINDS if kind.severity in mildest)


def chosen_kinds(severity: Severity, kinds: Iterable[type[Fault]] | None) -> tuple[type[Fault], ...]:
    """*kinds*, else those of *severity*: in the order of `faults.KINDS`, in whatever order they are given."""
    if kinds is None:
        return kinds_of(severity)
    chosen = list(kinds)
    for kind in chosen:
        check_kind(kind, drawn=True)
    if not chosen:
        raise ValueError("kinds must name at least one fault")
    return tuple(sorted(chosen, key=_place))


def _place(kind: type[Fault]) -> tuple[int, str]:
    """Among all kinds: those of the user's own come last."""
    known = faults.KINDS
    return (known.index(kind), "") if kind in known else (len(known), f"{kind.__module__}.{kind.__qualname__}")


def check_size(duration: object, most: object, *, least: int) -> None:
    """Raise `ValueError` unless plans of *least* to *most* faults within *duration* seconds can be drawn."""
    if type(duration) not in (int, float) or not _SHORTEST <= duration <= _LONGEST:  # type: ignore[operator]
        raise ValueError(f"duration must be a number of seconds from {_SHORTEST} to {_LONGEST}, not {duration!r}")
    if type(most) is not int or most < least:
        raise ValueError(f"most must be a whole number, {least} or more, not {most!r}")


class FaultPlan:
    """Faults in the order in which they strike, those of one moment as given; immutable, equal where the faults are.

    `repr()` is an expression that makes it again, with ``from kufeed.testing import FaultPlan, faults``.
    `to_json()` and `from_json()` are for files and for other languages, `random()` draws one from a seed, and `play()`
    has it happen.
    """

    __slots__ = ("faults",)
    faults: tuple[Fault, ...]

    def __init__(self, *given: Fault) -> None:
        for fault in given:
            if not isinstance(fault, Fault):
                raise TypeError(f"a plan is made of faults, not of {fault!r}")
            check_kind(type(fault))
        object.__setattr__(self, "faults", tuple(sorted(given, key=lambda fault: fault.at)))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a FaultPlan cannot be changed: make another, without or with another {name}")

    @classmethod
    def random(
        cls,
        seed: int,
        severity: Severity = "brutal",
        *,
        duration: float = _DURATION,
        most: int = _MOST,
        kinds: Iterable[type[Fault]] | None = None,
    ) -> FaultPlan:
        """Draw one to *most* faults of this *severity* or milder, or of these *kinds*, over within *duration* seconds.

        They strike anywhere in that time, and last up to 8 s, or less within less than 20. The same arguments give the
        same plan, in any process and with any version of Python, whatever the order of *kinds*. Raises `ValueError` for
        a severity that there is not, no kinds, a *most* below 1, and a *duration* below 0.001 or without end.
        """
        check_size(duration, most, least=1)
        chosen = chosen_kinds(severity, kinds)
        rng = random.Random(seed)
        return cls(*(_draw(rng.choice(chosen), rng, duration) for _ in range(rng.randint(1, most))))

    @classmethod
    def from_json(cls, text: str | bytes, *, kinds: Iterable[type[Fault]] = ()) -> FaultPlan:
        """The plan that `to_json()` wrote. Raises `ValueError` for anything else, saying what is wrong and where.

        *kinds* are those of your own that may be in it.
        """
        known = _KINDS | {kind.__name__: kind for kind in kinds}
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"this is not JSON: {error}") from None
        if not isinstance(rows, list):
            raise ValueError(f"a plan is a list of faults, not {rows!r:.80}")
        return cls(*(_read(number, row, known) for number, row in enumerate(rows)))

    def to_json(self) -> str:
        """An array of objects: each has the `fault`'s name and the fields that are not as by default."""
        rows = [{"fault": type(fault).__name__, **_fields(fault)} for fault in self.faults]
        return json.dumps(rows)

    @property
    def until(self) -> float:
        """When the last fault is over, in seconds after the plan begins; 0.0 for a plan without any.

        Those that do not last are over when they have struck. What is then to come of them still comes: faults of
        messages and of bytes meet the next ones, `SpoilBooks` the next requests, however late these are. Connections
        that `Hang` or `Silence` caught stay dead, `Delist` and `ExpireTokens` are for good.
        """
        return max((fault.until for fault in self.faults), default=0.0)

    def check(self, exchange: Exchange) -> None:
        """Raise `LookupError` for a symbol, `ValueError` for a server that *exchange* never had."""
        for fault in self.faults:
            fault.check(exchange)

    async def play(self, exchange: Exchange) -> None:
        """Have every fault strike *exchange*, from now on, and return when the last one is over.

        The clock is that of the Trio run: virtual under a `MockClock`. Cancelled, what goes on is ended and what was to
        come does not, nor what a fault waits for messages or requests to do. Faults of one moment strike one right
        after the other, as they stand in the plan; what ends then ends before. *exchange* must be open. Plans may be
        played at the same time. Raises what `check()` does.
        """
        self.check(exchange)
        began = trio.current_time()
        going: dict[int, Callable[[], None]] = {}  # what ends each fault that goes on, or withdraws the rest of it
        # One task for all of it: Trio wakes those that are due at one moment in any order.
        due = [(fault.at, _BEGINS, number) for number, fault in enumerate(self.faults)]
        await trio.lowlevel.checkpoint()
        try:
            while due:
                at, what, number = due[0]
                if trio.current_time() < began + at:
                    await trio.sleep_until(began + at)
                heapq.heappop(due)
                if what == _ENDS:
                    going.pop(number)()
                elif (end := _strike(self.faults[number], exchange)) is not None:
                    going[number] = end
                    if isinstance(self.faults[number], LastingFault):
                        heapq.heappush(due, (self.faults[number].until, _ENDS, number))
        except BaseException:
            with ExitStack() as rest:
                for end in going.values():
                    rest.callback(end)
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.faults

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)

    def __len__(self) -> int:
        return len(self.faults)

    def __eq__(self, other: object) -> bool:
        return self.faults == other.faults if isinstance(other, FaultPlan) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.faults)

    def __repr__(self) -> str:
        return f"FaultPlan({', '.join(map(repr, self.faults))})"


def _strike(fault: Fault, exchange: Exchange) -> Callable[[], None] | None:
    """Have it happen, and note it; what is returned ends it, where it goes on."""
    strike = None if exchange.truth is None else exchange.truth.struck(fault)
    end = fault.strike(exchange)

    if end is None or not isinstance(fault, LastingFault):
        if strike is not None:
            strike.until = strike.at
        return end

    def end_and_note() -> None:
        end()
        if strike is not None:
            strike.until = trio.current_time()

    return end_and_note


def _draw(kind: type[Fault], rng: random.Random, duration: float) -> Fault:
    drawn = {name: domain.draw(rng) for name, (domain, _) in domains(kind).items()}
    return kind(**fitted(drawn, duration))


def fitted(drawn: dict[str, Any], duration: float) -> dict[str, Any]:
    """The fields of a fault, *drawn*, so that it is over within *duration* seconds, its times in whole milliseconds."""
    scale, end = duration / _DURATION, int(duration * 1000)
    at = min(round(drawn["at"] * scale * 1000), end)
    if "lasting" in drawn:
        at = min(at, end - 1)
        lasting = round(drawn["lasting"] * min(1.0, scale) * 1000)
        drawn["lasting"] = min(max(1, lasting), end - at) / 1000
    drawn["at"] = at / 1000
    return drawn


def _fields(fault: Fault) -> dict[str, Any]:
    chosen = {field.name: getattr(fault, field.name) for field in attrs.fields(type(fault))}
    return {
        field.name: "inf" if chosen[field.name] == math.inf else chosen[field.name]
        for field in attrs.fields(type(fault))
        if chosen[field.name] != field.default
    }


def _read(number: int, row: object, kinds: dict[str, type[Fault]]) -> Fault:
    where = f"fault {number}"
    if not isinstance(row, dict) or not isinstance(row.get("fault"), str):
        raise ValueError(f'{where} must be an object with the name of a "fault", not {row!r:.80}')
    fields = dict(row)
    name = fields.pop("fault")
    if name not in kinds:
        raise ValueError(f"{where}: there is no fault {name!r:.40}; there are {', '.join(kinds)}")
    known = {field.name: field for field in attrs.fields(kinds[name])}
    if unknown := [field for field in fields if field not in known]:
        raise ValueError(f"{where}: {name} has no {unknown[0]!r:.40}; it has {', '.join(sorted(known))}")
    values = {field: _value(value, known[field]) for field, value in fields.items()}
    try:
        return kinds[name](**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {name}: {error}") from None


def _value(value: Any, field: attrs.Attribute[Any]) -> Any:
    if value == "inf" and isinstance(field.default, float):
        return math.inf
    return tuple(value) if isinstance(value, list) else value
