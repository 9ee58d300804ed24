"""Owning tasks: errors come out as they went in. Knows nothing of KuCoin."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType
    from typing import Any, NoReturn, Self


class Body:
    """Remembers what the code inside a hidden nursery raised: `one_error()` tells it from our tasks' errors."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.error = error
            raise


@contextmanager
def one_error() -> Iterator[Body]:
    """Put around `async with trio.open_nursery()` where the nursery is a detail: strips exactly that one layer.

    Code inside runs under `body.watched()`. Its exception, be it a group of the user's own, comes out as itself; what
    our tasks raised besides stands in its `__context__`. Without one, a single error comes out bare, several as the
    group they are. `Cancelled` beside a real error is dropped; alone it passes.
    """
    body = Body()
    try:
        yield body
    except BaseExceptionGroup as group:
        if group is body.error:
            raise
        raised = [error for error in group.exceptions if not _is_cancelled(error)]
        main = body.error
        if main is not None and _is_cancelled(main) and raised:
            main = None
        if main is not None:
            others = [error for error in raised if error is not main]
            raise_unchanged(main, group.derive(others) if others else None)
        if len(raised) == 1:
            raise_unchanged(raised[0])
        if not raised:
            raise_unchanged(group.exceptions[0])
        raise group.derive(raised) from None


def _is_cancelled(error: BaseException) -> bool:
    """Whether it is `Cancelled`, or a group of nothing else: a nursery that is cancelled raises one."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


class UserNursery:
    """A nursery whose tasks and body are all the user's: what they raise comes out as it was raised.

    One error comes out as itself, several in a group of exactly these. The first cancels the rest. `Cancelled` beside
    an error is dropped; alone it passes.

    Only `Cancelled` passes through the nursery inside: one puts errors into a group, and rebuilds the groups in there,
    the user's own among them, when it takes out `Cancelled`. And no generator stands in the way, since a
    `StopAsyncIteration` would not come out of it.
    """

    def __init__(self) -> None:
        self._errors: list[BaseException] = []
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> Self:
        self._nursery = await self._manager.__aenter__()
        return self

    def start_soon(self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None) -> None:
        self._nursery.start_soon(self._run, async_fn, args, name=async_fn if name is None else name)

    async def _run(self, async_fn: Callable[..., Awaitable[object]], args: tuple[Any, ...]) -> None:
        try:
            await async_fn(*args)
        except trio.Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001  # raised when the block is left
            if (cancelled := self._keep(error)) is not None:
                raise cancelled from None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        passing = None if error is None else self._keep(error)
        others: tuple[BaseException, ...] = ()
        try:
            kind = None if passing is None else type(passing)
            await self._manager.__aexit__(kind, passing, trace)  # noqa: ASYNC102  # as long as the tasks take
        except BaseExceptionGroup as group:
            others = group.exceptions
        # What is no Cancelled here was delivered to the nursery itself: a KeyboardInterrupt.
        errors = self._errors + [one for one in others if not isinstance(one, trio.Cancelled)]
        if len(errors) > 1:
            raise_unchanged(BaseExceptionGroup("several functions failed", errors))
        final = errors[0] if errors else others[0] if others else None
        if final is not None and final is not error:
            raise_unchanged(final)
        return final is None

    def _keep(self, error: BaseException) -> trio.Cancelled | None:
        """Remember *error*, and cancel all tasks. What of it is `Cancelled` is returned instead, as one."""
        cancelled: BaseException | None = error if isinstance(error, trio.Cancelled) else None
        rest: BaseException | None = None if cancelled else error
        if isinstance(error, BaseExceptionGroup) and error.subgroup(trio.Cancelled) is not None:
            cancelled, rest = error.split(trio.Cancelled)
        if rest is not None and not any(rest is one for one in self._errors):
            self._errors.append(rest)
            self._nursery.cancel_scope.cancel()
        while isinstance(cancelled, BaseExceptionGroup):
            cancelled = cancelled.exceptions[0]
        assert cancelled is None or isinstance(cancelled, trio.Cancelled)
        return cancelled


def raise_unchanged(error: BaseException, beside: BaseException | None = None) -> NoReturn:
    """Raise *error* with the `__context__` that it has, or with *beside* as that, whatever is being handled here."""
    context = error.__context__ if beside is None else beside
    try:
        raise error
    finally:
        # `raise` inside an `except` block sets the context to what is handled there.
        error.__context__ = context
        del error, beside, context
