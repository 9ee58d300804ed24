"""A circuit breaker: so many failures in a row, and nothing is tried for a while. Knows nothing of KuCoin."""

from __future__ import annotations

import math
from collections import defaultdict
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import attrs
import trio

from .errors import CircuitOpen, UsageError

if TYPE_CHECKING:
    from types import TracebackType


_COUNTS_NOTHING = -1


class CircuitState(StrEnum):
    """What a `CircuitBreaker` does with those who come."""

    CLOSED = "closed"
    """All go in; failures in a row are counted."""
    OPEN = "open"
    """Nobody goes in."""
    HALF_OPEN = "half-open"
    """One goes in, on trial; the others wait for its outcome."""


@attrs.frozen
class CircuitStatistics:
    """A breaker at one moment, as `CircuitBreaker.statistics()` returns it."""

    state: CircuitState
    failures: int
    """In a row, up to now."""
    opened: int
    """How often the circuit has opened, failed trials included."""
    until: float | None
    """Where it is open: `trio.current_time()` at which it half-opens, `math.inf` where only by hand."""
    cause: BaseException | None
    """The failure that counted last."""
    inside: int
    """Blocks that are being run."""
    waiting: int
    """Tasks that wait for the outcome of the trial."""


class CircuitBreaker:
    """Put around calls to something that may be down: ``async with breaker:``.

    Closed, it lets everybody in and counts *max_failures* failures in a row (None: it never opens by itself); a success
    starts the count anew. Then it is open: entering raises `CircuitOpen` at once. After *cooldown* seconds it is
    half-open: the first to come is let in on trial, everybody else waits. A trial that succeeds closes the circuit and
    lets all of them in; one that fails opens it for another *cooldown*, and those who waited get `CircuitOpen`. With
    *cooldown* None it half-opens only by `half_open()`.

    An exception that leaves the block is a failure. Those of the types in *ignore* say nothing, nor does a
    cancellation: a trial that ends so leaves its place to the next. A group is a failure where any exception in it is.
    The block's exception always comes out. Of a block that began before the state last changed, the outcome counts
    nothing.

    Entering is a checkpoint, always; it waits only for the outcome of another's trial, as long as that takes: put a
    time-out inside the block, where it is a failure, not around it, where it is a cancellation. A block is left by the
    task that entered it. That task may enter it again inside, also on trial; a task that it waits for may not.

    A breaker belongs to the first `trio.run` that uses it; another gets `UsageError`, as impossible arguments do.
    """

    def __init__(
        self,
        max_failures: int | None = 10,
        cooldown: float | None = 60.0,
        *,
        ignore: type[BaseException] | tuple[type[BaseException], ...] = (),
    ) -> None:
        if max_failures is not None and (type(max_failures) is not int or max_failures < 1):
            raise UsageError(f"max_failures must be a whole number from 1 up, or None, not {max_failures!r}")
        if cooldown is not None and not (_is_number(cooldown) and cooldown >= 0):
            raise UsageError(f"cooldown must be a number of seconds, zero or more, or None, not {cooldown!r}")
        types: tuple[Any, ...] = ignore if isinstance(ignore, tuple) else (ignore,)
        if not all(isinstance(one, type) and issubclass(one, BaseException) for one in types):
            raise UsageError(f"ignore must be an exception type or a tuple of them, not {ignore!r}")
        self.max_failures = max_failures
        self.cooldown = cooldown
        self._ignore = types
        self._state = CircuitState.CLOSED
        self._epoch = 0  # grows with each change of state: what began in an earlier one counts nothing
        self._until = math.inf
        self._failures = 0
        self._opened = 0
        self._cause: BaseException | None = None
        self._trial: _Block | None = None
        self._blocks: defaultdict[trio.lowlevel.Task, list[_Block]] = defaultdict(list)
        self._waiting = 0
        self._changed = trio.Event()
        self._run: trio.lowlevel.TrioToken | None = None

    # -- state --------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> CircuitState:
        """What it is now. An open circuit is half-open from the end of its cool-down on; nobody has to look."""
        if self._state is CircuitState.OPEN and trio.current_time() >= self._until:
            self._change(CircuitState.HALF_OPEN)
        return self._state

    async def wait_state(self, *states: CircuitState | str) -> CircuitState:
        """Return as soon as the state is one of *states*, with the state; at once where it is. A checkpoint, always.

        States that end before the task has run are missed, as one where the trial fails at once. Raises `UsageError`
        for a name that is no state, or none at all.
        """
        try:
            wanted = {CircuitState(state) for state in states}
        except ValueError as error:
            raise UsageError(f"{error}; there are {', '.join(CircuitState)}") from None
        if not wanted:
            raise UsageError(f"wait_state() takes one state or more of {', '.join(CircuitState)}")
        self._bind()
        await trio.lowlevel.checkpoint()
        while (state := self.state) not in wanted:
            await self._wait_change()
        return state

    def half_open(self) -> None:
        """Let somebody try now: ends the cool-down of an open circuit. Otherwise does nothing."""
        self._bind()
        if self.state is CircuitState.OPEN:
            self._change(CircuitState.HALF_OPEN)

    def reset(self) -> None:
        """Close the circuit and forget all failures; who waits for a trial goes in."""
        self._bind()
        self._failures = 0
        self._cause = None
        self._change(CircuitState.CLOSED)

    def statistics(self) -> CircuitStatistics:
        """What the breaker is at now."""
        self._bind()
        state = self.state
        return CircuitStatistics(
            state=state,
            failures=self._failures,
            opened=self._opened,
            until=self._until if state is CircuitState.OPEN else None,
            cause=self._cause,
            inside=sum(map(len, self._blocks.values())),
            waiting=self._waiting,
        )

    def __repr__(self) -> str:
        allowed = "" if self.max_failures is None else f" of {self.max_failures}"
        state = self.state if self._run is not None and _run_of_caller() is self._run else self._state
        return f"<CircuitBreaker {state}, {self._failures}{allowed} failures, opened {self._opened} times>"

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def record_success(self) -> None:
        """Something went well, as seen by other means than a block that ends: no more failures in a row.

        Closes a half-open circuit; an open one stays open.
        """
        self._bind()
        if self.state is not CircuitState.OPEN:
            self._failures = 0
            if self._state is CircuitState.HALF_OPEN:
                self._change(CircuitState.CLOSED)

    def record_failure(self, cause: BaseException) -> None:
        """Something failed, as seen by other means than a block's exception, such as an HTTP status.

        Opens a half-open circuit, and a closed one where that makes *max_failures*; an open one's cool-down goes on.
        """
        self._bind()
        state = self.state
        if state is CircuitState.OPEN:
            return
        self._failures += 1
        self._cause = cause
        if state is CircuitState.HALF_OPEN or self._failures >= (self.max_failures or math.inf):
            self._opened += 1
            self._until = math.inf if self.cooldown is None else trio.current_time() + self.cooldown
            self._change(CircuitState.OPEN)

    async def __aenter__(self) -> None:
        self._bind()
        task = trio.lowlevel.current_task()
        await trio.lowlevel.checkpoint()
        # Nothing is awaited between the look and the entering.
        while (state := self.state) is not CircuitState.CLOSED:
            if state is CircuitState.OPEN:
                raise CircuitOpen(self._until, self._cause)
            if self._trial is None or self._trial in self._blocks.get(task, ()):
                break
            self._waiting += 1
            try:
                await self._wait_change()
            finally:
                self._waiting -= 1
        block = _Block(self._epoch)
        if state is CircuitState.HALF_OPEN:
            if self._trial is None:
                self._trial = block
            else:  # inside its own trial: that one's outcome counts
                block = _Block(_COUNTS_NOTHING)
        self._blocks[task].append(block)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # No checkpoint: it would swap the block's error for Cancelled.
        task = trio.lowlevel.current_task()
        if not self._blocks[task]:
            del self._blocks[task]
            raise RuntimeError("a block of a circuit breaker must be left by the task that entered it")
        block = self._blocks[task].pop()
        if not self._blocks[task]:
            del self._blocks[task]
        if block.epoch != self._epoch:
            return
        if error is None:
            self.record_success()
        elif self._is_failure(error):
            self.record_failure(error)
        if block is self._trial:  # it has said nothing: the next may try
            self._trial = None
            self._wake()

    def _is_failure(self, error: BaseException) -> bool:
        if isinstance(error, self._ignore):
            return False
        if isinstance(error, BaseExceptionGroup):
            return any(self._is_failure(one) for one in error.exceptions)
        return isinstance(error, Exception)

    # -- changing -----------------------------------------------------------------------------------------------------

    def _change(self, state: CircuitState) -> None:
        self._state = state
        self._epoch += 1
        self._trial = None
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _wait_change(self) -> None:
        """Wait for a change, or for the end of the cool-down, which changes the state once somebody looks."""
        with trio.move_on_at(self._until if self._state is CircuitState.OPEN else math.inf):
            await self._changed.wait()

    def _bind(self) -> None:
        run = trio.lowlevel.current_trio_token()
        if self._run is None:
            self._run = run
        elif self._run is not run:
            raise UsageError("this circuit breaker counts by the clock of another trio.run; make one for each run")


@attrs.frozen(eq=False)
class _Block:
    """One `async with breaker:` that is being run."""

    epoch: int


def _run_of_caller() -> trio.lowlevel.TrioToken | None:
    return trio.lowlevel.current_trio_token() if trio.lowlevel.in_trio_run() else None


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]  # it is a number
