"""A Trio run inside plain functions: it goes on while one of them waits, and stands still between."""

from __future__ import annotations

import math
import queue
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kufeed.testing.chances import fixed_chances
from kufeed.testing.leaks import living_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from outcome import Outcome

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PASSES_TO_END = 1_000_000
"""Passes of the scheduler in which a run that was cancelled has to end."""


class GuestRun:
    """A Trio run under a virtual clock, in Trio's guest mode, with the calling function as its host.

    Its tasks get on only within `call()`, `advance()` and `close()`: until what was asked for is done and all tasks are
    blocked. Whenever all are, the clock jumps to the next deadline, so nothing waits in real time and no thread is
    needed. A call that is not over after *patience* virtual seconds raises `trio.TooSlowError`. In which order tasks
    of one moment run depends on *seed* alone.

    One at a time in a thread, and none within another Trio run. Always `close()` it: until then there is no other.
    """

    def __init__(self, *, seed: int = 0, patience: float = 600.0) -> None:
        self.clock = MockClock(autojump_threshold=0)
        self.left = 0
        """How many tasks of the run outlived its nursery, once it is over."""
        self._patience = patience
        self._due: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._nursery: trio.Nursery | None = None
        self._outcome: Outcome[None] | None = None
        self._chances = fixed_chances(seed)
        self._chances.__enter__()
        try:
            trio.lowlevel.start_guest_run(
                self._main, run_sync_soon_threadsafe=self._due.put, done_callback=self._done, clock=self.clock
            )
            self._pump(lambda: self._nursery is not None)
        except BaseException:
            self._chances.__exit__(None, None, None)
            raise

    @property
    def nursery(self) -> trio.Nursery:
        """Where tasks of the run may be started, also between calls."""
        assert self._nursery is not None
        return self._nursery

    @property
    def is_over(self) -> bool:
        """Whether it has ended: it was closed, or a task has raised."""
        return self._outcome is not None

    def call(self, fn: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Run ``await fn(*args)`` to its end, and on until all tasks are blocked; return what it does, or raise that.

        Where another task has raised, that comes out instead: the run is over then. Raises `RuntimeError` where it was.
        """
        return self._call(self._patience, fn, *args)

    def advance(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        self._call(math.inf, trio.sleep, seconds)

    def _call(self, patience: float, fn: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        if self._outcome is not None:
            raise RuntimeError("this run is over")
        made: list[T] = []
        failed: list[Exception] = []
        settled: list[bool] = []

        async def run() -> None:
            try:
                with trio.fail_after(patience):
                    made.append(await fn(*args))
            except Exception as error:  # noqa: BLE001  # it is raised to the caller
                failed.append(error)
            await wait_all_tasks_blocked()
            settled.append(True)

        self.nursery.start_soon(run, name=f"call of {getattr(fn, '__qualname__', fn)}")
        self._pump(lambda: bool(settled))
        if failed:
            raise failed[0]
        return made[0]

    def close(self) -> None:
        """Cancel its tasks and see them out; once is enough. Raises what one of them raises in ending."""
        if self._outcome is not None:
            return
        self.nursery.cancel_scope.cancel(reason="the guest run is closed")
        self._pump(lambda: self.is_over, most=_PASSES_TO_END)

    async def _main(self) -> None:
        before = living_tasks()
        async with trio.open_nursery() as self._nursery:
            await trio.Event().wait()  # until it is cancelled
        await wait_all_tasks_blocked()
        self.left = living_tasks() - before

    def _done(self, outcome: Outcome[None]) -> None:
        self._outcome = outcome
        self._chances.__exit__(None, None, None)

    def _pump(self, until: Callable[[], bool], most: float = math.inf) -> None:
        """Let the run go on until then, or until it is over, and raise the error of which it is."""
        passes = 0
        while not until():
            if self._outcome is not None:
                self._raise_its_error()
                raise RuntimeError("this run was cancelled from within")
            if (passes := passes + 1) > most:
                raise RuntimeError(f"a task is not to be cancelled: the run goes on after {most} passes")
            self._due.get()()
        if self._outcome is not None:
            self._raise_its_error()

    def _raise_its_error(self) -> None:
        error = getattr(self._outcome, "error", None)
        if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            (error,) = error.exceptions  # the layer of our own nursery
        if error is not None:
            raise error
