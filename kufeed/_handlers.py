"""Handlers: functions that get updates, in a task of their own or inline in the reader's, and what their errors do."""

from __future__ import annotations

import inspect
import logging
import math
from collections import deque
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

import attrs
import trio

from ._inline import InlineSink
from ._supervisor import one_error
from .errors import UsageError
from .protocol.updates import Update

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ._channels import QueueStatistics
    from ._subscription import Subscription

T = TypeVar("T", bound=Update)

_log = logging.getLogger("kufeed.handlers")

Action = Literal["propagate", "isolate", "restart"]
"""What an error does: it comes out of `open_handlers()`; it is logged and counted, and the next update is handled; the
same, but too many in a minute come out."""

_ACTIONS = ("propagate", "isolate", "restart")
_MINUTE = 60.0
_LONG_INLINE = 0.001
"""Seconds that an inline handler may take before it is warned about: the reader of its link waits for it."""


class HandlerNursery(Protocol):
    """Where handlers run: a `trio.Nursery`, or anything with its `start_soon`."""

    def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
        """Start a task. What it raises is the owner's."""
        ...


@attrs.frozen
class HandlerStatistics:
    """One handler at this moment."""

    name: str
    running: bool
    calls: int
    errors: int
    """Errors that its calls raised, whatever became of them."""
    longest_call: float
    """Seconds; of an async handler with all it waited for."""
    queues: tuple[QueueStatistics, ...]
    """Of its subscription: one, or one for each worker."""


class Handlers:
    """What `Feed.open_handlers()` yields. Starts functions that get the updates of a subscription each.

    An ``async def`` runs in a task of its own behind a channel of its own: it may take its time, and delays nobody
    else. A plain function is called inline, in the task that reads the connection: at once, but everybody on that
    connection waits while it runs, so it must not block; over 1 ms it is warned about.
    """

    def __init__(
        self,
        on_error: Action | Callable[[Exception, str], Action],
        restarts_per_minute: int,
        nursery: HandlerNursery,
        perf_counter: Callable[[], float],
    ) -> None:
        if not callable(on_error) and on_error not in _ACTIONS:
            raise UsageError(f"on_error must be one of {', '.join(_ACTIONS)}, or a function, not {on_error!r}")
        if type(restarts_per_minute) is not int or restarts_per_minute < 0:
            raise UsageError(f"restarts_per_minute must be a whole number, not {restarts_per_minute!r}")
        self._on_error = on_error
        self._restarts_per_minute = restarts_per_minute
        self._nursery = nursery
        self._perf_counter = perf_counter
        self._handlers: list[_Handler] = []
        self._closed = False

    @overload
    def start_soon(
        self,
        fn: Callable[[T], Awaitable[None] | None],
        subscription: Subscription[T],
        *,
        batches: Literal[False] = False,
        workers: int = 1,
        name: str | None = None,
    ) -> None: ...

    @overload
    def start_soon(
        self,
        fn: Callable[[list[T]], Awaitable[None] | None],
        subscription: Subscription[T],
        *,
        batches: Literal[True],
        workers: int = 1,
        name: str | None = None,
    ) -> None: ...

    def start_soon(
        self,
        fn: Callable[[Any], Awaitable[None] | None],
        subscription: Subscription[Any],
        *,
        batches: bool = False,
        workers: int = 1,
        name: str | None = None,
    ) -> None:
        """Enter *subscription* and have *fn* called with each of its updates, or with lists of them (*batches*).

        *workers* tasks share the symbols among them: the updates of one symbol stay in order, and with one task. A
        subscription that cannot be entered always fails the whole block, whatever *on_error* says.

        Raises `UsageError` for a subscription that is entered already, and for arguments that are impossible.
        """
        self._start(fn, subscription, batches, workers, name)

    @overload
    async def start(
        self,
        fn: Callable[[T], Awaitable[None] | None],
        subscription: Subscription[T],
        *,
        batches: Literal[False] = False,
        workers: int = 1,
        name: str | None = None,
    ) -> None: ...

    @overload
    async def start(
        self,
        fn: Callable[[list[T]], Awaitable[None] | None],
        subscription: Subscription[T],
        *,
        batches: Literal[True],
        workers: int = 1,
        name: str | None = None,
    ) -> None: ...

    async def start(
        self,
        fn: Callable[[Any], Awaitable[None] | None],
        subscription: Subscription[Any],
        *,
        batches: bool = False,
        workers: int = 1,
        name: str | None = None,
    ) -> None:
        """The same, and return when the exchange has acknowledged every topic.

        Raises here what entering the subscription raises. Cancelled, the handler does not run.
        """
        handler = self._start(fn, subscription, batches, workers, name, awaited=True)
        try:
            await handler.wait_ready()
        except BaseException:
            handler.cancel()
            raise

    def statistics(self) -> tuple[HandlerStatistics, ...]:
        """Each handler that was started, in that order."""
        return tuple(handler.statistics() for handler in self._handlers)

    def _start(
        self,
        fn: Callable[[Any], Any],
        subscription: Subscription[Any],
        batches: bool,
        workers: int,
        name: str | None,
        *,
        awaited: bool = False,
    ) -> _Handler:
        if self._closed:
            raise UsageError("these handlers are closed")
        if not callable(fn):
            raise UsageError(f"a handler is a function, not {fn!r}")
        if type(workers) is not int or workers < 1:
            raise UsageError(f"workers must be a whole number from 1 up, not {workers!r}")
        name = name or getattr(fn, "__qualname__", None) or type(fn).__name__
        handler = _Handler(name, fn, self._decide, self._perf_counter, awaited=awaited)
        if _is_async(fn):
            handler.subscriptions = subscription._split(workers)  # noqa: SLF001  # made for handlers
            serve = handler.serve_batches if batches else handler.serve
        elif workers > 1:
            raise UsageError(f"{name} is a plain function, called inline: it cannot have several workers")
        else:
            inline = InlineSink(
                fn,
                batches=batches,
                on_error=partial(self._inline_failed, handler),
                on_call=handler.called,
                perf_counter=self._perf_counter,
            )
            handler.subscriptions = (subscription._deliver_to(inline),)  # noqa: SLF001  # made for handlers
            serve = partial(_wait_ended, inline)
        self._handlers.append(handler)
        for number, one in enumerate(handler.subscriptions, 1):
            worker = f"handler {name} #{number}" if len(handler.subscriptions) > 1 else f"handler {name}"
            self._nursery.start_soon(handler.run, one, serve, name=worker)
        return handler

    # -- errors -------------------------------------------------------------------------------------------------------

    def _decide(self, handler: _Handler, error: Exception) -> bool:
        """Whether *error* of *handler* comes out; where it does not, it has been logged."""
        handler.errors += 1
        action = self._on_error(error, handler.name) if callable(self._on_error) else self._on_error
        if action not in _ACTIONS:
            raise UsageError(f"on_error() must return one of {', '.join(_ACTIONS)}, not {action!r}")
        if action == "restart" and not handler.may_restart(self._restarts_per_minute):
            action = "propagate"
        if action != "propagate":
            _log.error("handler %s failed, and goes on with the next update", handler.name, exc_info=error)
        return action == "propagate"

    def _inline_failed(self, handler: _Handler, error: Exception) -> None:
        # In the reader's task, which no error may reach: a task of the handlers' own raises it.
        try:
            comes_out = self._decide(handler, error)
        except Exception as worse:  # noqa: BLE001  # of the user's own policy
            comes_out, error = True, worse
        if comes_out and not handler.cancelled:
            handler.cancel()
            self._nursery.start_soon(_raise, error, name=f"error of {handler.name}")

    # -- the end ------------------------------------------------------------------------------------------------------

    async def _drain(self, seconds: float) -> None:
        """Take no more updates, and let what is pending be handled, for so long."""
        for handler in self._handlers:
            handler.finish()
        with trio.move_on_after(seconds):
            for handler in self._handlers:
                await handler.wait_ended()

    async def _stop(self) -> None:
        """Cancel what still runs and wait for its end, as a nursery does."""
        self._closed = True
        for handler in self._handlers:
            handler.cancel()
        with trio.CancelScope(shield=True):
            for handler in self._handlers:
                await handler.wait_ended()


class _Handler:
    """One function, its subscriptions, and the tasks that serve them, one each."""

    def __init__(
        self,
        name: str,
        fn: Callable[[Any], Any],
        decide: Callable[[_Handler, Exception], bool],
        perf_counter: Callable[[], float],
        *,
        awaited: bool,
    ) -> None:
        self.name = name
        self.subscriptions: tuple[Subscription[Any], ...] = ()
        self.errors = 0
        self.cancelled = False
        self._fn = fn
        self._decide = decide
        self._perf_counter = perf_counter
        self._awaited = awaited
        self._entry_error: Exception | None = None
        self._ready = trio.Event()
        self._entered = 0
        self._running = 0
        self._none_running = trio.Event()
        self._calls = 0
        self._longest = 0.0
        self._warned_at = -math.inf
        self._restarts: deque[float] = deque()
        self._scopes: list[trio.CancelScope] = []

    async def run(self, subscription: Subscription[Any], serve: Callable[[Subscription[Any]], Awaitable[None]]) -> None:
        """The life of one of its tasks."""
        if self.cancelled:
            return
        self._running += 1
        try:
            with trio.CancelScope() as scope:
                self._scopes.append(scope)
                if await self._enter(subscription):
                    with closing(subscription):
                        await serve(subscription)
        finally:
            self._running -= 1
            if not self._running:
                self._none_running.set()
                self._none_running = trio.Event()

    async def _enter(self, subscription: Subscription[Any]) -> bool:
        try:
            await subscription.__aenter__()
        except Exception as error:
            if not self._awaited:
                raise
            self._entry_error = self._entry_error or error
            self._ready.set()
            return False
        self._entered += 1
        if self._entered == len(self.subscriptions):
            self._ready.set()
        return True

    async def wait_ready(self) -> None:
        """Return when all its subscriptions are entered; raises the error of one that could not be."""
        await self._ready.wait()
        if self._entry_error is not None:
            raise self._entry_error

    async def wait_ended(self) -> None:
        """Return when none of its tasks runs; one that has not begun does not run any more, once it is cancelled."""
        while self._running:
            await self._none_running.wait()

    def finish(self) -> None:
        """Take no more updates, but handle what is pending; where it is still being entered, end."""
        if self._entered < len(self.subscriptions):
            self.cancel()
        for subscription in self.subscriptions:
            subscription._finish()  # noqa: SLF001  # made for handlers

    def cancel(self) -> None:
        self.cancelled = True
        for scope in self._scopes:
            scope.cancel()

    async def serve(self, subscription: Subscription[Any]) -> None:
        await self._serve(subscription)

    async def serve_batches(self, subscription: Subscription[Any]) -> None:
        await self._serve(subscription.batches())

    async def _serve(self, updates: AsyncIterator[Any]) -> None:
        while True:
            try:
                try:
                    update = await anext(updates)
                except (StopAsyncIteration, trio.ClosedResourceError):
                    return
                start = self._perf_counter()
                try:
                    await self._fn(update)
                finally:
                    self._count(self._perf_counter() - start)
            except Exception as error:
                if self._decide(self, error):
                    raise

    # -- watching -----------------------------------------------------------------------------------------------------

    def called(self, seconds: float) -> None:
        """An inline call took so long."""
        self._count(seconds)
        if seconds > _LONG_INLINE and (now := self._perf_counter()) - self._warned_at > _MINUTE:
            self._warned_at = now
            _log.warning("inline handler %s took %.1f ms: its connection waits meanwhile", self.name, seconds * 1000)

    def _count(self, seconds: float) -> None:
        self._calls += 1
        self._longest = max(self._longest, seconds)

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
            running=self._running > 0,
            calls=self._calls,
            errors=self.errors,
            longest_call=self._longest,
            queues=tuple(subscription.statistics() for subscription in self.subscriptions),
        )


@asynccontextmanager
async def open_handlers(
    *,
    on_error: Action | Callable[[Exception, str], Action],
    restarts_per_minute: int,
    drain_timeout: float,
    handler_nursery: HandlerNursery | None,
    perf_counter: Callable[[], float],
) -> AsyncIterator[Handlers]:
    """See `Feed.open_handlers`."""
    async with AsyncExitStack() as stack:
        if handler_nursery is None:
            body = stack.enter_context(one_error(together=True))
            handler_nursery = await stack.enter_async_context(trio.open_nursery())
            stack.enter_context(body.watched())
        handlers = Handlers(on_error, restarts_per_minute, handler_nursery, perf_counter)
        try:
            yield handlers
            await handlers._drain(drain_timeout)  # noqa: SLF001  # the other half of Handlers
        finally:
            await handlers._stop()  # noqa: ASYNC102, SLF001  # shielded, as a nursery waits for its tasks


def _is_async(fn: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004


async def _wait_ended(inline: InlineSink, _: Subscription[Any]) -> None:
    await inline.ended.wait()


async def _raise(error: Exception) -> None:
    raise error
