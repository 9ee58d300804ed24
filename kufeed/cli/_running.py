"""One Trio run per command: it ends by signals without a traceback, and failures become one line and an exit code."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import trio

from ..errors import KufeedError, UsageError
from ._output import OutputClosed, complain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

DONE, FAILED, MISUSED, NOBODY_READS = 0, 1, 2, 141


class CommandFailed(Exception):
    """The command cannot do what it was asked to; its text is the line that the user sees."""


def run(command: Callable[[], Awaitable[None]]) -> int:
    """Run *command* to its end, its failure or a signal; returns the exit code.

    SIGINT and SIGTERM cancel it, so that everything is closed in order; the code is 128 and the signal's number.
    """
    code = DONE
    try:
        code = trio.run(_until_signal, command)
    except* (KufeedError, CommandFailed) as group:
        first = next(_leaves(group))
        complain(first)
        code = MISUSED if isinstance(first, UsageError) else FAILED
    except* OutputClosed:
        code = NOBODY_READS
    return code


async def _until_signal(command: Callable[[], Awaitable[None]]) -> int:
    code = DONE

    async def cancel_at_signal(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal code
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                code = 128 + number
                nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        await nursery.start(cancel_at_signal)
        await command()
        nursery.cancel_scope.cancel()
    return code


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
