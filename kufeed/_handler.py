"""One handler: a function, its subscriptions, and the task that serves them."""

from __future__ import annotations

import logging
import math
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

from ._supervisor import UserNursery, one_error, raise_unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._channels import QueueStatistics
    from ._inline import InlineSink
    from ._subscription import Subscription

_log = logging.getLogger("kufeed.handlers")

_MINUTE = 60.0
_LONG_INLINE = 0.001
"""Seconds that an inline handler may take before it is warned about: the reader of its link waits for it."""


@attrs.frozen
class HandlerStatistics:
    """One handler at this moment."""

    name: str
    running: bool
    """Whether it gets updates: its subscription is entered, and it has neither failed for good nor ended."""
    calls: int
    errors: int
    """Errors that its calls raised or that its stream told of, whatever became of them."""
    longest_call: float
    """Seconds; of an async handler with all it waited for."""
    queues: tuple[QueueStatistics, ...]
    """Of its subscription: one, or one for each worker."""


class Handler:
    """One function, its subscriptions, and the one task that serves them."""

    def __init__(
        self,
        name: str,
        fn: Callable[[Any], Any],
        batches: bool,
        comes_out: Callable[[Handler, Exception], bool],
        perf_counter: Callable[[], float],
    ) -> None:
        self.name = name
        self.subscriptions: tuple[Subscription[Any], ...] = ()
        self.ended = False
        """It gets no more updates; its task, where it still runs, is cancelled."""
        self._fn = fn
        self._batches = batches
        self._comes_out = comes_out
        self._perf_counter = perf_counter
        self._inline: InlineSink | None = None
        self._failure: BaseException | None = None  # of the inline function, for its task to raise
        self._entered = False
        self._failed = False
        self._scope = trio.CancelScope()
        self._task_runs = False
        self._stopped = trio.Event()
        self._calls = 0
        self._errors = 0
        self._longest = 0.0
        self._warned_at = -math.inf
        self._restarts: deque[float] = deque()

    async def run(self) -> None:
        """The life of its task. Where it raised an `Exception`, once entered, it may be run again and goes on."""
        if self._failure is None:
            if self.ended:
                return
            if self._inline is not None:
                self._inline.paused = False
        self._failed = False
        self._task_runs = True
        try:
            with self._cancellable():
                if not self._entered:
                    await self._enter()
                await self._serve_all()
        except Exception:
            self._failed = self._entered
            raise
        finally:
            if not self._failed:
                self.end()
            self._task_runs = False
            self._stopped.set()
            self._stopped = trio.Event()

    async def enter(self) -> None:
        """Enter its subscriptions before its task runs. Where that fails or is cancelled, it has ended."""
        try:
            with self._cancellable():
                await self._enter()
        except BaseException:
            self.end()
            raise

    async def _enter(self) -> None:
        """Enter all its subscriptions at once; raises the first error."""
        errors: list[Exception] = []

        async def enter(one: Subscription[Any]) -> None:
            try:
                await one.__aenter__()
            except Exception as error:  # noqa: BLE001  # raised below, alone
                errors.append(error)
                nursery.cancel_scope.cancel()

        with one_error():
            async with trio.open_nursery() as nursery:
                for one in self.subscriptions:
                    nursery.start_soon(enter, one, name=f"entering {one!r}")
        if errors:
            raise errors[0]
        self._entered = True

    @contextmanager
    def _cancellable(self) -> Iterator[None]:
        """Until `end()`. Raises what an inline function raised, even where `Cancelled` is on its way."""
        try:
            with trio.CancelScope() as self._scope:
                if self.ended or self._failure is not None:
                    self._scope.cancel()
                yield
        finally:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise_unchanged(failure)

    async def _serve_all(self) -> None:
        if self._inline is not None:
            await self._inline.ended.wait()
        elif len(self.subscriptions) == 1:
            await self._serve(self.subscriptions[0])
        else:
            async with UserNursery() as workers:
                for number, one in enumerate(self.subscriptions, 1):
                    workers.start_soon(self._serve, one, name=f"worker #{number} of {self.name}")

    async def _serve(self, subscription: Subscription[Any]) -> None:
        updates = subscription.batches() if self._batches else subscription
        while True:
            try:
                try:
                    update = await updates.__anext__()
                except (StopAsyncIteration, trio.ClosedResourceError):
                    return
                start = self._perf_counter()
                try:
                    await self._fn(update)
                finally:
                    self._count(self._perf_counter() - start)
            except Exception as error:
                self._errors += 1
                if self._comes_out(self, error):
                    raise

    async def wait_drained(self) -> None:
        """Return when it has handled what was pending at `finish()`, or failed. Its task may have yet to begin."""
        while self.running:
            await self._stopped.wait()

    async def wait_stopped(self) -> None:
        """Return when its task does not run. One that has not begun does not run any more, after `end()`."""
        while self._task_runs:
            await self._stopped.wait()

    def finish(self) -> None:
        """Take no more updates, but handle what is pending; where it is still being entered, end."""
        if not self._entered:
            self.end()
        for one in self.subscriptions:
            one._finish()  # noqa: SLF001  # made for handlers

    def end(self) -> None:
        """Cancel its task, and discard what is pending. Idempotent."""
        self.ended = True
        self._scope.cancel()
        for one in self.subscriptions:
            one.close()

    # -- inline -------------------------------------------------------------------------------------------------------

    def make_inline(self, make_sink: Callable[..., InlineSink]) -> InlineSink:
        """Where its updates go, in the reader's task."""
        self._inline = make_sink(
            self._fn,
            batches=self._batches,
            on_error=self._inline_failed,
            on_call=self._inline_called,
            perf_counter=self._perf_counter,
        )
        return self._inline

    def _inline_failed(self, error: BaseException) -> bool:
        self._errors += 1
        try:
            comes_out = not isinstance(error, Exception) or self._comes_out(self, error)
        except BaseException as worse:  # noqa: ASYNC103, BLE001  # of the user's own policy; it has no await
            comes_out, error = True, worse
        if comes_out:
            self._failure = error
            self._scope.cancel()
        return comes_out

    def _inline_called(self, seconds: float) -> None:
        self._count(seconds)
        if seconds > _LONG_INLINE and (now := self._perf_counter()) - self._warned_at > _MINUTE:
            self._warned_at = now
            _log.warning("inline handler %s took %.1f ms: its connection waits meanwhile", self.name, seconds * 1000)

    # -- watching -----------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether it gets updates: it is entered, and has not failed since, nor ended."""
        return self._entered and not (self._failed or self.ended)

    def _count(self, seconds: float) -> None:
        self._calls += 1
        if seconds > self._longest:
            self._longest = seconds

    def may_restart(self, per_minute: int) -> bool:
        """Count a restart, if there was room for one more in this minute."""
        now = trio.current_time()
        while self._restarts and self._restarts[0] <= now - _MINUTE:
            self._restarts.popleft()
        if len(self._restarts) >= per_minute:
            return False
        self._restarts.append(now)
        return True

    def statistics(self) -> HandlerStatistics:
        return HandlerStatistics(
            name=self.name,
            running=self.running,
            calls=self._calls,
            errors=self._errors,
            longest_call=self._longest,
            queues=tuple(one.statistics() for one in self.subscriptions),
        )
