"""What every fault is: a frozen record that says when it strikes, and how its fields are drawn."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import attrs

from kufeed.testing.checks import must

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from kufeed.testing.exchange import Exchange

Severity = Literal["mild", "rough", "brutal"]
"""`mild`: nothing is lost by it, things are late or in pieces. `rough`: connections and messages are lost.
`brutal`: the exchange itself lies, refuses or is away."""

_MOST = 10**12  # of what a field counts: more is a slip, and more than a clock can bear

SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@attrs.frozen
class Among:
    """A field takes one of these values where a plan is drawn."""

    values: tuple[Any, ...]

    def draw(self, rng: random.Random) -> Any:
        return rng.choice(self.values)


@attrs.frozen
class Between:
    """A field takes a whole number (both ends are ints) or seconds in this range where a plan is drawn."""

    low: float
    high: float

    def draw(self, rng: random.Random) -> float:
        if isinstance(self.low, int) and isinstance(self.high, int):
            return rng.randint(self.low, self.high)
        return round(rng.uniform(self.low, self.high), 3)


Domain = Among | Between


def among(default: Any, *values: Any) -> Any:
    """A field of a fault that takes one of *values*, as a literal in Python and JSON; others raise `ValueError`."""
    words = f"one of {', '.join(map(repr, dict.fromkeys(values)))}"
    return attrs.field(
        default=default, validator=must(lambda value: value in values, words), metadata={"domain": Among(values)}
    )


def between(default: float, low: float, high: float, *, least: float = 0, most: int = _MOST) -> Any:
    """A number of at least *least*, a whole one where *default* is; plans are drawn from *low* to *high*.

    *most* is for what makes work, or is kept: with more of it a plan would hang the exchange, past every signal.
    """
    whole = isinstance(default, int)

    def check(value: object) -> bool:
        if type(value) is not int and (whole or type(value) is not float):
            return False
        return least <= value <= most or value == math.inf

    span = f", {least} or more" if most == _MOST else f" from {least} to {most}"
    words = f"a {'whole ' if whole else ''}number{span}"
    return attrs.field(default=default, validator=must(check, words), metadata={"domain": Between(low, high)})


def any_of(default: Any, *values: Any, check: Callable[[object], bool], words: str, optional: bool = False) -> Any:
    """A field that takes what passes *check*, as *words* say it, and None if *optional*; plans draw from *values*."""
    return attrs.field(
        default=default, validator=must(check, words, optional=optional), metadata={"domain": Among(values)}
    )


@attrs.frozen(kw_only=True, repr=False)
class Fault:
    """The base of all faults: one thing that goes wrong, `at` seconds after the plan begins.

    A kind of your own is a subclass, ``@attrs.frozen(kw_only=True)``, with a `severity`, with fields of which each has
    a default, and with `strike()`. Where plans are drawn, its own fields are as by default.
    """

    severity: ClassVar[Severity]
    at: float = between(0.0, 0.0, 20.0)

    def check(self, exchange: Exchange) -> None:
        """Raise `LookupError` or `ValueError` where it is about what *exchange* never had: a symbol, a server."""

    def strike(self, exchange: Exchange) -> Callable[[], None] | None:
        """Have it happen to an open *exchange*, for `FaultPlan.play()`.

        What is returned ends it again: a `LastingFault` at `until`. For others it withdraws what has not happened yet,
        and is called where the plan is cancelled.
        """
        raise NotImplementedError

    @property
    def until(self) -> float:
        """When it is over, in seconds after the plan begins: what does not last, when it has struck.

        Its effects may come later, as where it is about the next messages or bytes, and may stay, as of `Delist`.
        """
        return self.at

    def __repr__(self) -> str:
        kind = type(self)
        name = kind.__name__ if is_own(kind) else f"faults.{kind.__name__}"
        fields = [field for field in attrs.fields(kind) if getattr(self, field.name) != field.default]
        inner = ", ".join(f"{field.name}={_shown(getattr(self, field.name))}" for field in fields)
        return f"{name}({inner})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """As IPython and Hypothesis print it, which spell out the fields of attrs classes: as `repr()` does."""
        printer.text(repr(self))


@attrs.frozen(kw_only=True, repr=False)
class LastingFault(Fault):
    """A fault that goes on for `lasting` seconds; `math.inf` for as long as the exchange is open."""

    lasting: float = between(2.0, 0.1, 8.0)

    @property
    def until(self) -> float:
        return self.at + self.lasting


def is_own(kind: type[Fault]) -> bool:
    """Whether it is a kind of the user's own."""
    return not kind.__module__.startswith("kufeed.testing.")


def check_kind(kind: Any, *, drawn: bool = False) -> None:
    """Raise `TypeError` for what is no kind of fault that can strike or, with *drawn*, be drawn."""
    if not (isinstance(kind, type) and issubclass(kind, Fault)):
        raise TypeError(f"kinds are classes of faults, not {kind!r}")
    if kind.strike is Fault.strike:
        raise TypeError(f"{kind.__name__} is no kind of fault: it has no strike()")
    if not drawn:
        return
    if getattr(kind, "severity", None) not in SEVERITIES:
        raise TypeError(f"{kind.__name__} cannot be drawn: its severity is none of {', '.join(SEVERITIES)}")
    if needed := [field.name for field in attrs.fields(kind) if field.default is attrs.NOTHING]:
        raise TypeError(f"{kind.__name__} cannot be drawn: its {needed[0]} has no default")


def domains(kind: type[Fault]) -> dict[str, tuple[Domain, Any]]:
    """What the fields are drawn from, and their defaults; those without a domain are as by default."""
    fields = attrs.fields(kind)
    return {field.name: (field.metadata["domain"], field.default) for field in fields if "domain" in field.metadata}


def _shown(value: object) -> str:
    return 'float("inf")' if value == math.inf else repr(value)
