"""Requests that are not part of a dial: each in its turn, under one deadline, and ended with the feed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from ._budget import OTHER_LANE
from ._network import network_problem
from .errors import RequestFailed, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._limiter import Permit
    from ._rest import Answer, Rest
    from .protocol.rest import Endpoint


T = TypeVar("T")


class Requests:
    """What one feed asks of REST besides tokens, whichever market it asks. `close()` ends all of it."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._open: set[trio.CancelScope] = set()
        self._closed = False

    async def ask(self, rest: Rest, endpoint: Endpoint, max_body: int) -> Answer:
        """Ask once for *endpoint*, whose answer has *max_body* bytes at most. Raises as `run()` does."""
        send = partial(rest.request, endpoint, max_body)
        return await self.run(rest, endpoint.path, endpoint.weight, OTHER_LANE, send)

    async def run(self, rest: Rest, path: str, weight: int, lane: int, send: Callable[[], Awaitable[T]]) -> T:
        """Await ``send()`` once, when the exchange does not want to be left alone and the budgets have room.

        That wait has no bound of its own; from then on *send* has the timeout. Raises `ExchangeError` where the
        exchange says no or something else, `RequestFailed` where there is no answer, `UsageError` where the feed is
        closed, before or meanwhile. Cancelled, it closes the connection and gives its turn back where nothing was sent
        yet.
        """
        await trio.lowlevel.checkpoint_if_cancelled()  # who ends with the feed has not misused it
        if self._closed:
            raise UsageError("the feed is closed")
        with trio.CancelScope() as scope:
            self._open.add(scope)
            try:
                return await self._run(rest, path, weight, lane, send)
            finally:
                self._open.discard(scope)
        raise UsageError(f"the feed was closed while {path} was asked for")

    async def _run(self, rest: Rest, path: str, weight: int, lane: int, send: Callable[[], Awaitable[T]]) -> T:
        permits = await _take_turn(rest, weight, lane)
        try:
            with trio.move_on_after(self._timeout):
                return await send()
        except (OSError, trio.BrokenResourceError) as error:
            raise RequestFailed(path, network_problem(error)) from error
        finally:
            for permit in permits:
                permit.release()
        raise RequestFailed(path, f"nothing within {self._timeout:g} s")

    def close(self) -> None:
        """End all that is being asked, and ask nothing more. Idempotent."""
        self._closed = True
        for scope in self._open:
            scope.cancel()


async def _take_turn(rest: Rest, weight: int, lane: int) -> list[Permit]:
    """A permit of each budget. Whether the exchange asks to be left alone is looked at again when all are there."""
    permits: list[Permit] = []
    try:
        while True:
            await rest.quiet.wait_over()
            for weights in rest.budgets:
                permits.append(await weights.acquire(weight, lane=lane))  # noqa: PERF401  # none may get lost
            if rest.quiet.until() <= trio.current_time():
                return permits
            _give_back(permits)
    except BaseException:
        _give_back(permits)
        raise


def _give_back(permits: list[Permit]) -> None:
    while permits:
        permits.pop().release(unused=True)
