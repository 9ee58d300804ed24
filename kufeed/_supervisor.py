"""Owning tasks: errors come out as they went in. Knows nothing of KuCoin."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator


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
def one_error(*, together: bool = False) -> Iterator[Body]:
    """Put around `async with trio.open_nursery()` where the nursery is a detail: strips exactly that one layer.

    Code inside runs under `body.watched()`. Its exception, be it a group of the user's own, comes out as itself; what
    our tasks raised besides stands in its `__context__`, or beside it in a group where they are *together*, all the
    user's own. Without one, a single error comes out bare, several as the group they are. `Cancelled` beside a real
    error is dropped; alone it passes.
    """
    body = Body()
    try:
        yield body
    except BaseExceptionGroup as group:
        if group is body.error:
            raise
        raised = [error for error in group.exceptions if not isinstance(error, trio.Cancelled)]
        main = body.error
        if isinstance(main, trio.Cancelled) and raised:
            main = None
        if main is not None:
            others = [error for error in raised if error is not main]
            if together and others:
                raise group.derive(raised) from None
            _raise(main, group.derive(others) if others else None)
        if len(raised) == 1:
            _raise(raised[0], None)
        if not raised:
            _raise(group.exceptions[0], None)
        raise group.derive(raised) from None


def _raise(error: BaseException, beside: BaseException | None) -> None:
    context = error.__context__ if beside is None else beside
    try:
        raise error
    finally:
        # `raise` inside an `except` block sets the context to the group that is being taken apart.
        error.__context__ = context
        del error, beside, context
