"""How long to wait before trying again: a value, with neither a clock nor a task. Knows nothing of KuCoin."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import attrs

from .errors import UsageError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator


def _seconds(_: object, field: attrs.Attribute[Any], value: Any) -> None:
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise UsageError(f"{field.name} must be a number of seconds, zero or more, not {value!r}")


@attrs.frozen
class Backoff:
    """Waits that grow: `first` seconds, `factor` times as much after each further failure, never above `max`.

    With `jitter` "full" a wait is drawn evenly between zero and the step; with "none" it is the step. Full jitter is
    the default: clients that lost the same server at the same moment would otherwise come back at the same moments, all
    of them, at each try. Evenly spread, they come at a steady rate, and the mean wait is half the step.

    `healthy_after` is how long something must have lived for its failure to count as the first again. Raises
    `UsageError` for values that are impossible.
    """

    first: float = attrs.field(default=1.0, validator=_seconds)
    factor: float = attrs.field(default=2.0)
    max: float = attrs.field(default=32.0, validator=_seconds)
    jitter: Literal["full", "none"] = attrs.field(default="full")
    healthy_after: float = attrs.field(default=60.0, kw_only=True, validator=_seconds)

    @factor.validator
    def _check_factor(self, _: object, value: Any) -> None:
        if type(value) not in (int, float) or not 1 <= value < math.inf:
            raise UsageError(f"factor must be a number from 1 up, not {value!r}")

    @jitter.validator
    def _check_jitter(self, _: object, value: Any) -> None:
        if value not in ("full", "none"):
            raise UsageError(f"jitter must be 'full' or 'none', not {value!r}")

    def __attrs_post_init__(self) -> None:
        if self.max < self.first:
            raise UsageError(f"max must be at least first, not {self.max!r} with {self.first!r}")

    def step(self, failures: int) -> float:
        """The most that is waited after *failures* in a row: `first` seconds after the first one."""
        if failures < 1:
            raise UsageError(f"failures must be at least 1, not {failures!r}")
        try:
            return min(self.max, self.first * float(self.factor) ** (failures - 1))
        except OverflowError:
            return self.max if self.first else 0.0

    def delay(self, failures: int, rng: random.Random, *, retry_after: float | None = None) -> float:
        """Seconds to wait after *failures* in a row.

        What the server asked for, *retry_after*, wins; None and zero ask for nothing. *rng* is where the jitter is
        drawn from; with jitter "none", and where the server's wait wins, it is not touched.
        """
        if retry_after is not None and retry_after > 0:
            return retry_after
        step = self.step(failures)
        return step if self.jitter == "none" else rng.uniform(0.0, step)

    def delays(self, rng: random.Random) -> Iterator[float]:
        """`delay(1)`, `delay(2)`, … without end."""
        failures = 0
        while True:
            failures += 1
            yield self.delay(failures, rng)

    def count(self, failures: int, lived: float) -> int:
        """How many failures in a row there are after one more, of something that had lived for *lived* seconds."""
        return 1 if lived >= self.healthy_after else failures + 1
