"""From the reader of a link to the channels of its subscriptions: nothing is lost that a consumer could have taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ._channels import Sink


async def hand_out(
    sinks: Iterable[Sink], hold: Callable[[Sink], Awaitable[bool]], leave: Callable[[], bool] = lambda: False
) -> None:
    """Hand staged updates to their channels; where they do not fit, let the consumers run before anything is dropped.

    After two scheduler passes every consumer that was woken has run once. One that has taken all that waited keeps up,
    however much a single read brought, and whatever another reader has brought since; for any other the channel's
    policy decides. Where that is to block, ``await hold(sink)`` waits for room, or returns False at once where the
    reader must go on. Once *leave* says so, what is still staged is left to another reader of the same sinks.
    """
    waiting = [(sink, sink.backlog()) for sink in sinks if not sink.hand_over()]
    try:
        while waiting:
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            for sink, backlog in waiting:
                if not sink.has_taken(backlog) and not (sink.blocks and await hold(sink)):
                    if leave():
                        return
                    sink.force()
            waiting = [(sink, sink.backlog()) for sink, _ in waiting if not sink.hand_over()]
    finally:
        for sink, _ in () if leave() else waiting:  # cancelled: nothing that arrived stays behind uncounted
            sink.force()
            sink.hand_over()


async def wait_for_room(sink: Sink) -> bool:
    """A *hold* of `hand_out()` for who hands out what no reader waits behind."""
    await sink.wait_room()
    return True
