"""A nursery for tasks which serve the body of an `async with` and end with it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def _holds_cancelled(error: BaseException) -> bool:
    return isinstance(error, BaseExceptionGroup) and error.subgroup(trio.Cancelled) is not None


@asynccontextmanager
async def open_services() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks are cancelled when the body is left.

    An error of the body comes out as itself, not in a group; when a task fails too, its group stands in the body
    error's `__context__`. The error of a task alone cancels the body and comes out in a group, as from any nursery.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except trio.Cancelled:
                raise
            except BaseException as error:
                if _holds_cancelled(error):
                    raise
                failure = error
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if failure is None:
            raise
        failure.__context__ = group
    if failure is not None:
        raise failure
