"""Handlers: functions that get updates, in a task of their own or inline in the reader's, and what their errors do."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar, overload

import trio

from ._handler import Handler
from ._supervisor import UserNursery
from .errors import UsageError
from .protocol.updates import Update

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from types import TracebackType

    from ._handler import HandlerStatistics
    from ._inline import InlineSink
    from ._subscription import Subscription

T = TypeVar("T", bound=Update)

_log = logging.getLogger("kufeed.handlers")

Action = Literal["propagate", "isolate", "restart"]
"""What an error does: it comes out of `open_handlers()`; it is logged and counted, and the next update is handled; the
same, but too many in a minute come out."""

Policy = Action | Callable[[Exception, str], Action]

_ACTIONS = ("propagate", "isolate", "restart")


class HandlerNursery(Protocol):
    """Where handlers run: a `trio.Nursery`, or anything with its `start_soon`."""

    def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
        """Start a task that runs *async_fn*. What that raises is the nursery's to deal with.

        It may run it again then: the handler goes on with the next update.
        """
        ...


class Handlers:
    """What `Feed.open_handlers()` makes. Starts functions that get the updates of a subscription each.

    An ``async def`` runs in a task of its own behind a channel of its own: it may take its time, and delays nobody
    else. A plain function is called inline, in the task that reads the connection: at once, but everybody on that
    connection waits while it runs, so it must not block; over 1 ms it is warned about, once a minute.
    """

    def __init__(
        self,
        on_error: Policy,
        restarts_per_minute: int,
        drain_timeout: float,
        handler_nursery: HandlerNursery | None,
        perf_counter: Callable[[], float],
        make_sink: Callable[..., InlineSink],
    ) -> None:
        if _is_async(on_error) or not (callable(on_error) or on_error in _ACTIONS):
            raise UsageError(f"on_error must be one of {', '.join(_ACTIONS)}, or a plain function, not {on_error!r}")
        if type(restarts_per_minute) is not int or restarts_per_minute < 0:
            raise UsageError(f"restarts_per_minute must be a whole number, zero or more, not {restarts_per_minute!r}")
        if type(drain_timeout) not in (int, float) or not drain_timeout >= 0:
            raise UsageError(f"drain_timeout must be a number of seconds, zero or more, not {drain_timeout!r}")
        self._on_error = on_error
        self._restarts_per_minute = restarts_per_minute
        self._drain_timeout = drain_timeout
        self._nursery = handler_nursery
        self._perf_counter = perf_counter
        self._make_sink = make_sink
        self._handlers: list[Handler] = []
        self._block: AsyncExitStack | None = None
        self._leaving = False
        self._left = False

    async def __aenter__(self) -> Self:
        if self._block is not None:
            raise UsageError("these handlers were opened already")
        self._block = AsyncExitStack()
        if self._nursery is None:
            self._nursery = await self._block.enter_async_context(UserNursery())
        self._block.push_async_exit(self._leave)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        assert self._block is not None
        return bool(await self._block.__aexit__(kind, error, trace))  # noqa: ASYNC102  # as long as the handlers take

    @overload
    def start_soon(
        self,
        fn: Callable[[T], Awaitable[object] | None],
        subscription: Subscription[T],
        *,
        batches: Literal[False] = False,
        workers: int = 1,
        name: str | None = None,
    ) -> None: ...

    @overload
    def start_soon(
        self,
        fn: Callable[[list[T]], Awaitable[object] | None],
        subscription: Subscription[T],
        *,
        batches: Literal[True],
        workers: int = 1,
        name: str | None = None,
    ) -> None: ...

    def start_soon(
        self,
        fn: Callable[[Any], Awaitable[object] | None],
        subscription: Subscription[Any],
        *,
        batches: bool = False,
        workers: int = 1,
        name: str | None = None,
    ) -> None:
        """Enter *subscription* and have *fn* called with each of its updates, or with lists of them (*batches*).

        *workers* tasks share the symbols among them, each with a buffer of its own: the updates of one symbol stay in
        order, and with one task. A subscription that cannot be entered always fails the whole block, whatever
        *on_error* says.

        Raises `UsageError` for a subscription that is entered already, and for what is no handler. While the block is
        being left nothing is started any more.
        """
        self._start(self._add(fn, subscription, batches, workers, name))

    @overload
    async def start(
        self,
        fn: Callable[[T], Awaitable[object] | None],
        subscription: Subscription[T],
        *,
        batches: Literal[False] = False,
        workers: int = 1,
        name: str | None = None,
    ) -> None: ...

    @overload
    async def start(
        self,
        fn: Callable[[list[T]], Awaitable[object] | None],
        subscription: Subscription[T],
        *,
        batches: Literal[True],
        workers: int = 1,
        name: str | None = None,
    ) -> None: ...

    async def start(
        self,
        fn: Callable[[Any], Awaitable[object] | None],
        subscription: Subscription[Any],
        *,
        batches: bool = False,
        workers: int = 1,
        name: str | None = None,
    ) -> None:
        """The same, and return when the exchange has acknowledged every topic.

        Raises here what entering the subscription raises, or an inline handler meanwhile; `UsageError` where the block
        is left first. Where it raises or is cancelled, the handler does not run.
        """
        handler = self._add(fn, subscription, batches, workers, name)
        await handler.enter()
        if handler.ended:
            raise UsageError(f"the block was left while handler {handler.name} was being started")
        try:
            self._start(handler)
        except BaseException:
            handler.end()
            raise

    def statistics(self) -> tuple[HandlerStatistics, ...]:
        """Each handler, in the order of their starts. One that has ended is kept until the next is started."""
        return tuple(handler.statistics() for handler in self._handlers)

    def __repr__(self) -> str:
        running = sum(handler.running for handler in self._handlers)
        state = "left" if self._left else "leaving" if self._leaving else "inert" if self._block is None else "open"
        return f"<Handlers {state}: {running} running>"

    def _add(
        self, fn: Callable[[Any], Any], subscription: Subscription[Any], batches: bool, workers: int, name: str | None
    ) -> Handler:
        if self._left or self._nursery is None or self._block is None:
            raise UsageError("open the handlers first: `async with feed.open_handlers() as handlers:`")
        if not _can_handle(fn):
            raise UsageError(f"a handler is a function that can be called with an update, not {fn!r}")
        if type(workers) is not int or workers < 1:
            raise UsageError(f"workers must be a whole number from 1 up, not {workers!r}")
        name = name or getattr(fn, "__qualname__", None) or type(fn).__name__
        handler = Handler(name, fn, batches, self._comes_out, self._perf_counter)
        if _is_async(fn):
            handler.subscriptions = subscription._split(workers)  # noqa: SLF001  # made for handlers
        elif workers > 1:
            raise UsageError(f"{name} is a plain function, called inline: it cannot have several workers")
        else:
            inline = handler.make_inline(self._make_sink)
            handler.subscriptions = (subscription._deliver_to(inline),)  # noqa: SLF001  # made for handlers
        if self._leaving:
            handler.end()
        else:
            self._handlers = [one for one in self._handlers if not one.ended]
        self._handlers.append(handler)
        return handler

    def _start(self, handler: Handler) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(handler.run, name=f"handler {handler.name}")

    def _comes_out(self, handler: Handler, error: Exception) -> bool:
        """Ask the policy what *error* does. What does not come out is logged."""
        action = self._on_error(error, handler.name) if callable(self._on_error) else self._on_error
        if action not in _ACTIONS:
            raise UsageError(f"on_error() must return one of {', '.join(_ACTIONS)}, not {action!r}")
        if action == "restart" and not handler.may_restart(self._restarts_per_minute):
            action = "propagate"
        if action != "propagate":
            _log.error("handler %s failed, and goes on with the next update", handler.name, exc_info=error)
        return action == "propagate"

    async def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take no more updates and let what is pending be handled, for so long; then end what still runs."""
        self._leaving = True
        try:
            if error is None:
                for handler in self._handlers:
                    handler.finish()
                with trio.move_on_after(self._drain_timeout):
                    for handler in self._handlers:
                        await handler.wait_drained()
        finally:
            for handler in self._handlers:
                handler.end()
            with trio.CancelScope(shield=True):  # as a nursery does: they end in their own time
                for handler in self._handlers:
                    await handler.wait_stopped()
            self._left = True


def _can_handle(fn: object) -> bool:
    return callable(fn) and not (inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn))


def _is_async(fn: object) -> bool:
    while isinstance(fn, partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004
