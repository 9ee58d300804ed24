"""What ends a program that does not end when it is cancelled: an error where each of its tasks waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import trio


class Stuck(BaseException):
    """Raised in a task that was cancelled long ago and waits on, shielded: nothing else would end it.

    No `Exception`: it is not to be tried again after.
    """


def break_off(task: trio.lowlevel.Task, spare: Collection[trio.Nursery]) -> list[str]:
    """Raise `Stuck` where *task* waits and where those wait that run below it, but for the nurseries to *spare*.

    Returns the names of those that wait for anything but others. Trio has no public door to it: it is what a cancel
    does, past every shield.
    """

    def raise_stuck() -> NoReturn:
        raise Stuck(f"{task.name} was cancelled, and has not ended")

    names: list[str] = []
    for one in _below(task, spare):
        if one._abort_func is not None:  # noqa: SLF001
            if not one.child_nurseries or one is task:
                names.append(one.name)
            one._attempt_abort(raise_stuck)  # noqa: SLF001
    return names


def _below(task: trio.lowlevel.Task, spare: Collection[trio.Nursery]) -> Iterator[trio.lowlevel.Task]:
    for nursery in task.child_nurseries:
        if nursery not in spare:
            for child in sorted(nursery.child_tasks, key=lambda one: one.name):
                yield from _below(child, ())
    yield task
