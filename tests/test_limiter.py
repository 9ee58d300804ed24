"""Never more than the limit in any window, first come first served, and nothing lost by cancelling."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints

from kufeed._limiter import SlidingWindowLimiter


async def test_acquire_is_a_checkpoint_even_when_free() -> None:
    limiter = SlidingWindowLimiter(2, 1.0)
    with assert_checkpoints():
        await limiter.acquire()


@given(
    limit=st.integers(1, 5),
    window=st.floats(0.5, 20),
    clients=st.lists(st.tuples(st.floats(0, 30), st.floats(0.01, 60)), min_size=1, max_size=40),
)
def test_no_window_ever_holds_more_and_nobody_overtakes(
    limit: int, window: float, clients: list[tuple[float, float]]
) -> None:
    """Impatient clients: each arrives at some time and gives up after a while."""
    granted: list[tuple[float, int]] = []

    async def main() -> None:
        limiter = SlidingWindowLimiter(limit, window)

        async def client(number: int, arrives: float, patience: float) -> None:
            await trio.sleep(arrives)
            with trio.move_on_after(patience):
                await limiter.acquire()
                granted.append((trio.current_time(), number))

        async with trio.open_nursery() as nursery:
            for number, (arrives, patience) in enumerate(sorted(clients)):
                nursery.start_soon(client, number, arrives, patience)
        # Whoever gave up took nothing: once a window has passed, the whole limit is there at once.
        await trio.sleep(window)
        start = trio.current_time()
        for _ in range(limit):
            await limiter.acquire()
        assert trio.current_time() == start

    trio.run(main, clock=MockClock(autojump_threshold=0))
    times = [time for time, _ in granted]
    for earlier, later in zip(times, times[limit:], strict=False):
        assert later - earlier >= window * (1 - 1e-9)
    arrivals = [sorted(clients)[number][0] for _, number in granted]
    assert arrivals == sorted(arrivals)


async def test_what_takes_time_counts_from_its_end(autojump_clock: MockClock) -> None:
    """A place that was held is free again one window after its release; unused, at once."""
    limiter = SlidingWindowLimiter(2, 10.0)
    slow, unused = await limiter.take(), await limiter.take()
    await trio.sleep(9)
    slow.release()
    slow.release()
    unused.release(unused=True)
    await limiter.acquire()
    assert trio.current_time() == 9
    await limiter.acquire()
    assert trio.current_time() == 19
