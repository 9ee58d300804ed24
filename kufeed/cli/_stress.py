"""How fast and how fair a limiter is, measured on this machine."""

from __future__ import annotations

import statistics
import time
from collections import deque
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import trio

from .. import SlidingWindowLimiter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

_WAITERS = 100
_LIMIT, _WINDOW = 100, 0.25
_UNLIMITED = 2**62

Limiter = AbstractAsyncContextManager[Any]


async def stress_limiter(seconds: float) -> AsyncIterator[str]:
    """Lines to print, each as soon as it is measured; *seconds* for each of the four measurements and its baseline."""
    for name, tasks in ("uncontended", 1), (f"{_WAITERS} waiters", _WAITERS):
        ours = await _rate(SlidingWindowLimiter(_UNLIMITED, 3600.0, 1), tasks, seconds)
        trios = await _rate(trio.CapacityLimiter(1), tasks, seconds)
        yield f"{name:<16}{ours:>10,.0f} acquisitions/s   (trio.CapacityLimiter {trios:,.0f}/s)"
    # Counted from the release: only then is the limit kept at whatever moment inside the block one looks.
    waits, times = await _waits(SlidingWindowLimiter(_LIMIT, _WINDOW, None, count_from="release"), seconds)
    means = sorted(map(statistics.fmean, waits))
    yield (
        f"fairness        mean wait of each of {_WAITERS} tasks: {means[0] * 1000:.1f} to {means[-1] * 1000:.1f} ms, "
        f"median {statistics.median(means) * 1000:.1f} ms"
    )
    yield f"worst window    {_worst(times)} acquisitions in {_WINDOW:g} s, of {_LIMIT} allowed; {len(times)} in all"


async def _rate(limiter: Limiter, tasks: int, seconds: float) -> float:
    """Acquisitions a second where *tasks* tasks share one place."""
    count = 0

    async def work() -> None:
        nonlocal count
        while True:
            async with limiter:
                count += 1
                if tasks > 1:
                    await trio.lowlevel.checkpoint()  # otherwise nobody would ever find the place taken

    start = time.perf_counter()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(work)
    return count / (time.perf_counter() - start)


async def _waits(limiter: SlidingWindowLimiter, seconds: float) -> tuple[list[list[float]], list[float]]:
    """How long each task waited, each time, and when each acquisition was made."""
    waits: list[list[float]] = [[] for _ in range(_WAITERS)]
    times: list[float] = []

    async def work(mine: list[float]) -> None:
        while True:
            asked = trio.current_time()
            async with limiter:
                times.append(trio.current_time())
                mine.append(times[-1] - asked)

    with trio.move_on_after(max(seconds, 4 * _WINDOW)):
        async with trio.open_nursery() as nursery:
            for mine in waits:
                nursery.start_soon(work, mine)
    return [mine for mine in waits if mine], times


def _worst(times: list[float]) -> int:
    """The most acquisitions in any window, counted from the outside."""
    return max(_in_each_window(times), default=0)


def _in_each_window(times: list[float]) -> Iterator[int]:
    window: deque[float] = deque()
    for now in times:
        window.append(now)
        while window[0] <= now - _WINDOW:
            window.popleft()
        yield len(window)
