"""Never more than the limit in any window, first come first served, and nothing lost by cancelling."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from kufeed import SlidingWindowLimiter, UsageError

# -- the model: impatient clients on a clock that jumps ----------------------------------------------------------------

MAX, WINDOW, BURST = 6, 10.0, 3
TIMES = st.integers(0, 120).map(lambda quarters: quarters / 4)  # exact in binary: the same moment is common


@st.composite
def clients(draw: st.DrawFn) -> list[dict[str, Any]]:
    one = st.fixed_dictionaries(
        {
            "arrives": TIMES,
            "patience": TIMES.map(lambda time: time + 0.125),
            "holds": TIMES,
            "weight": st.integers(1, MAX),
            "lane": st.integers(0, 1),
            "unused": st.booleans(),
            "nowait": st.booleans(),
        }
    )
    return sorted(draw(st.lists(one, min_size=1, max_size=25)), key=lambda client: client["arrives"])


@given(
    clients=clients(),
    count_from=st.sampled_from(["acquire", "release"]),
    jumps=st.lists(TIMES, max_size=3),
    pauses=st.lists(st.tuples(TIMES, TIMES), max_size=2),
)
def test_whatever_clients_do_the_limits_hold_and_nothing_is_lost(
    clients: list[dict[str, Any]], count_from: Any, jumps: list[float], pauses: list[tuple[float, float]]
) -> None:
    """Weights, two lanes, cancellation, places given back unused, pauses, and a clock that jumps."""
    counts: list[tuple[float, float, int]] = []  # (from, until, weight): what the window has to have room for
    held = most_held = 0
    asked: list[dict[str, Any]] = []  # each with when it got in, or gave up
    clock = MockClock(autojump_threshold=0)

    async def main() -> None:
        limiter = SlidingWindowLimiter(MAX, WINDOW, BURST, lanes=2, count_from=count_from)

        async def use(client: dict[str, Any], permit: Any) -> None:
            nonlocal held, most_held
            start = trio.current_time()
            assert start >= paused_until
            held += 1
            most_held = max(most_held, held)
            assert 0 <= limiter.statistics().used <= MAX
            with trio.CancelScope(shield=True):
                await trio.sleep(client["holds"])
            held -= 1
            permit.release(unused=client["unused"])
            permit.release()
            end = trio.current_time()
            until = start + WINDOW if count_from == "acquire" else end + WINDOW
            counts.append((start, min(end, until) if client["unused"] else until, client["weight"]))

        paused_until = -math.inf

        async def run(client: dict[str, Any]) -> None:
            await trio.sleep_until(client["arrives"])
            if client["nowait"]:
                try:
                    permit = limiter.acquire_nowait(client["weight"], lane=client["lane"])
                except trio.WouldBlock:
                    return
                await use(client, permit)
                return
            mine = {"lane": client["lane"], "in": False}
            asked.append(mine)
            with trio.move_on_after(client["patience"]):
                try:
                    permit = await limiter.acquire(client["weight"], lane=client["lane"])
                    mine["in"] = True
                finally:
                    mine["at"] = trio.current_time()
                await use(client, permit)

        async def pause(at: float, seconds: float) -> None:
            nonlocal paused_until
            await trio.sleep_until(at)
            limiter.pause(seconds)
            paused_until = max(paused_until, trio.current_time() + seconds)

        async def jump() -> None:
            for seconds in jumps:
                await trio.sleep(1.0)
                clock.jump(seconds)

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(run, client)
            for at, seconds in pauses:
                nursery.start_soon(pause, at, seconds)
            nursery.start_soon(jump)
        # No permit lost, none made: once a window has passed, exactly the whole limit is there at once.
        await trio.sleep(max(WINDOW, paused_until - trio.current_time()))
        statistics = limiter.statistics()
        assert (statistics.used, statistics.held, statistics.waiting, statistics.next_free) == (0, 0, 0, 0.0)
        assert statistics.worst_window <= MAX
        limiter.acquire_nowait(MAX).release()
        with pytest.raises(trio.WouldBlock):
            limiter.acquire_nowait()

    trio.run(main, clock=clock)
    assert most_held <= BURST
    for position, later in enumerate(asked):
        # First come, first served, in each lane: nobody that came before had still to wait.
        if later["in"]:
            assert all(one["at"] <= later["at"] for one in asked[:position] if one["lane"] == later["lane"])
    for moment, _, _ in counts:
        assert sum(weight for start, end, weight in counts if start <= moment < end) <= MAX


@given(weights=st.lists(st.integers(1, 4), min_size=1, max_size=30), count_from=st.sampled_from(["acquire", "release"]))
def test_nobody_waits_longer_than_those_before_take(weights: list[int], count_from: Any) -> None:
    """No starvation: patient clients all get in, in order, none later than the sums of weights before it say."""
    granted: list[tuple[float, int]] = []

    async def main() -> None:
        limiter = SlidingWindowLimiter(4, 1.0, 2, count_from=count_from)

        async def client(number: int) -> None:
            async with await limiter.acquire(weights[number]):
                granted.append((trio.current_time(), number))

        async with trio.open_nursery() as nursery:
            for number in range(len(weights)):
                nursery.start_soon(client, number)
                await wait_all_tasks_blocked()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert [number for _, number in granted] == list(range(len(weights)))
    for time, number in granted:
        assert time <= number + 1


# -- by example --------------------------------------------------------------------------------------------------------


async def test_acquiring_is_a_checkpoint_even_when_free() -> None:
    limiter = SlidingWindowLimiter(2, 1.0)
    with assert_checkpoints():
        permit = await limiter.acquire()
    permit.release()
    with assert_checkpoints():
        async with limiter:
            pass


async def test_who_is_let_in_runs_before_its_window_does(mock_clock: MockClock) -> None:
    """What happens after the return is what has to be limited, however long others kept the task from it."""
    limiter = SlidingWindowLimiter(1, 1.0)
    mock_clock.autojump_threshold = 0

    async def be_busy() -> None:
        mock_clock.jump(0.5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_busy)
        await limiter.acquire()
        first = trio.current_time()
        await limiter.acquire()
        assert trio.current_time() - first >= 1.0


async def test_a_cancelled_acquire_takes_nothing() -> None:
    limiter = SlidingWindowLimiter(2, 1.0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await limiter.acquire()
    assert scope.cancelled_caught
    assert limiter.statistics().used == limiter.statistics().held == 0


async def test_who_gives_up_waiting_leaves_the_others_their_turn(autojump_clock: MockClock) -> None:
    limiter = SlidingWindowLimiter(1, 1.0)
    await limiter.acquire()
    async with trio.open_nursery() as nursery:
        impatient = trio.CancelScope()

        @nursery.start_soon
        async def first() -> None:
            with impatient:
                await limiter.acquire()

        await wait_all_tasks_blocked()

        @nursery.start_soon
        async def second() -> None:
            with trio.fail_after(1.5):
                await limiter.acquire()

        await wait_all_tasks_blocked()
        assert limiter.statistics().waiting == 2
        impatient.cancel()
        await wait_all_tasks_blocked()
        assert limiter.statistics().waiting == 1
    assert trio.current_time() == 1.0
    assert limiter.statistics().waiting == 0


async def test_a_block_releases_and_its_error_comes_out() -> None:
    limiter = SlidingWindowLimiter(10, 1.0, burst=1)
    error = KeyError("mine")
    with pytest.raises(KeyError) as raised:
        async with limiter:
            assert limiter.statistics().held == 1
            raise error
    assert raised.value is error
    async with await limiter.acquire(3) as permit:
        assert permit.weight == 3
    with limiter.acquire_nowait():
        pass
    assert limiter.statistics().held == 0
    assert limiter.statistics().used == 5


async def test_an_exit_in_a_cancelled_scope_does_not_swap_the_error() -> None:
    limiter = SlidingWindowLimiter()
    with trio.CancelScope() as scope, pytest.raises(KeyError):
        async with limiter, await limiter.acquire():
            scope.cancel()
            raise KeyError


async def test_a_heavy_request_is_not_overtaken(autojump_clock: MockClock) -> None:
    limiter = SlidingWindowLimiter(4, 1.0)
    order: list[int] = []

    async def client(weight: int) -> None:
        await limiter.acquire(weight)
        order.append(weight)

    await limiter.acquire(2)
    async with trio.open_nursery() as nursery:
        for weight in (4, 1, 2):
            nursery.start_soon(client, weight)
            await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            limiter.acquire_nowait()  # two would fit, but somebody waits
    assert order == [4, 1, 2]
    assert trio.current_time() == 2


async def test_lane_0_goes_first(autojump_clock: MockClock) -> None:
    limiter = SlidingWindowLimiter(1, 1.0, lanes=2)
    order: list[str] = []

    async def client(name: str, lane: int) -> None:
        await limiter.acquire(lane=lane)
        order.append(name)

    await limiter.acquire()
    async with trio.open_nursery() as nursery:
        for name, lane in [("subscribe 1", 1), ("subscribe 2", 1), ("ping 1", 0), ("ping 2", 0)]:
            nursery.start_soon(client, name, lane)
            await wait_all_tasks_blocked()
    assert order == ["ping 1", "ping 2", "subscribe 1", "subscribe 2"]


async def test_who_waits_in_a_lower_lane_does_not_hold_up_an_upper_one() -> None:
    limiter = SlidingWindowLimiter(4, 1000.0, lanes=2)
    await limiter.acquire(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: limiter.acquire(2, lane=1))
        await wait_all_tasks_blocked()
        limiter.acquire_nowait(lane=0)
        nursery.cancel_scope.cancel()


async def test_burst_frees_by_release_and_the_window_by_time(autojump_clock: MockClock) -> None:
    limiter = SlidingWindowLimiter(3, 10.0, burst=2)
    first, second = await limiter.acquire(), await limiter.acquire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limiter.acquire)
        await trio.sleep(1)
        assert limiter.statistics().waiting == 1
        first.release()
    assert trio.current_time() == 1
    second.release()
    await limiter.acquire()
    assert trio.current_time() == 10


async def test_what_takes_time_counts_from_its_end(autojump_clock: MockClock) -> None:
    """A place that was held is free again one window after its release; unused, at once."""
    limiter = SlidingWindowLimiter(2, 10.0, count_from="release")
    slow, unused = await limiter.acquire(), await limiter.acquire()
    assert limiter.statistics().next_free == math.inf
    await trio.sleep(9)
    slow.release()
    slow.release()
    unused.release(unused=True)
    await limiter.acquire()
    assert trio.current_time() == 9
    await limiter.acquire()
    assert trio.current_time() == 19


async def test_a_release_lets_the_next_in_before_anybody_new(autojump_clock: MockClock) -> None:
    limiter = SlidingWindowLimiter(burst=1)
    permit = await limiter.acquire()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limiter.acquire)
        await wait_all_tasks_blocked()
        permit.release()
        with pytest.raises(trio.WouldBlock):
            limiter.acquire_nowait()
        await wait_all_tasks_blocked()
        assert limiter.statistics().held == 1


async def test_giving_back_what_has_left_the_window_changes_nothing(autojump_clock: MockClock) -> None:
    limiter = SlidingWindowLimiter(2, 1.0)
    permit = await limiter.acquire()
    await trio.sleep(1)
    assert limiter.statistics().used == 0
    permit.release(unused=True)
    assert limiter.statistics().used == 0
    await limiter.acquire(2)


async def test_a_pause_holds_everybody_up_and_the_longest_counts(autojump_clock: MockClock) -> None:
    limiter = SlidingWindowLimiter()
    limiter.pause(30)
    limiter.pause(5)
    assert limiter.statistics().next_free == 30
    with pytest.raises(trio.WouldBlock):
        limiter.acquire_nowait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limiter.acquire)
        await trio.sleep(29)
        limiter.pause(11)  # asked for again while somebody waits
    assert trio.current_time() == 40


async def test_what_is_free_next_and_what_was_worst_take_all_into_account(autojump_clock: MockClock) -> None:
    limiter = SlidingWindowLimiter(2, 10.0)
    await limiter.acquire(2)
    limiter.pause(30)
    assert limiter.statistics().next_free == 30
    await trio.sleep(30)
    await limiter.acquire()
    statistics = limiter.statistics()
    assert (statistics.used, statistics.worst_window) == (1, 2)


async def test_places_that_are_given_back_leave_nothing_behind() -> None:
    limiter = SlidingWindowLimiter(5, 1000.0)
    for _ in range(1000):
        (await limiter.acquire(5)).release(unused=True)
    assert limiter.statistics().used == 0
    assert len(limiter._counted) == 0


async def test_a_pause_can_be_ended_and_must_be_a_time(autojump_clock: MockClock) -> None:
    limiter = SlidingWindowLimiter()
    for impossible in (math.inf, -1.0, math.nan, "5"):
        with pytest.raises(UsageError, match="pause"):
            limiter.pause(impossible)  # type: ignore[arg-type]
    limiter.pause(1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limiter.acquire)
        await trio.sleep(5)
        limiter.resume()
    assert trio.current_time() == 5


async def test_what_a_burst_holds_up_is_not_free(autojump_clock: MockClock) -> None:
    limiter = SlidingWindowLimiter(burst=1)
    async with limiter:
        assert limiter.statistics().next_free == math.inf
    assert limiter.statistics().next_free == 0
    await trio.sleep(10)
    assert "0 of 1000" in repr(limiter)


async def test_without_arguments_it_is_as_documented() -> None:
    limiter = SlidingWindowLimiter()
    assert repr(limiter) == "<SlidingWindowLimiter 0 of 1000 in 10 s, 0 of 100 held, 0 waiting>"
    assert limiter.statistics().worst_window == 0
    assert (await limiter.acquire()).weight == 1
    assert limiter.statistics().used == limiter.statistics().worst_window == 1


async def test_a_permit_says_whether_it_is_held() -> None:
    permit = await SlidingWindowLimiter().acquire(3)
    assert repr(permit) == "<Permit of weight 3, held>"
    permit.release()
    assert repr(permit) == "<Permit of weight 3, released>"


async def test_a_window_may_be_shorter_than_a_second_and_a_pause_may_be_none(autojump_clock: MockClock) -> None:
    limiter = SlidingWindowLimiter(1, 0.5, burst=None)
    limiter.pause(0)
    await limiter.acquire()
    assert trio.current_time() == 0.0
    await limiter.acquire()
    assert trio.current_time() == 0.5
    limiter.pause(0.25)
    assert limiter.statistics().next_free == 0.5, "the longer of the two counts"


async def test_statistics_and_repr_tell_where_it_is(autojump_clock: MockClock) -> None:
    limiter = SlidingWindowLimiter(4, 10.0, burst=3)
    assert limiter.statistics().next_free == 0.0
    async with await limiter.acquire(3), limiter:
        await trio.sleep(4)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(limiter.acquire)
            await wait_all_tasks_blocked()
            statistics = limiter.statistics()
            assert repr(limiter) == "<SlidingWindowLimiter 4 of 4 in 10 s, 2 of 3 held, 1 waiting>"
            nursery.cancel_scope.cancel()
    assert (statistics.used, statistics.held, statistics.waiting) == (4, 2, 1)
    assert (statistics.next_free, statistics.worst_window) == (6.0, 4)
    with pytest.raises(AttributeError):
        statistics.used = 0


def test_it_can_be_printed_anywhere() -> None:
    """Where its own clock runs it says what counts now, elsewhere what counted when somebody last looked."""
    limiter = SlidingWindowLimiter(4, 10.0, None)

    async def use() -> None:
        for _ in range(2):
            await limiter.acquire()
            await trio.sleep(6)
        assert repr(limiter) == "<SlidingWindowLimiter 1 of 4 in 10 s, 2 held, 0 waiting>"

    async def elsewhere() -> None:
        await trio.sleep(80_000)
        assert repr(limiter) == "<SlidingWindowLimiter 1 of 4 in 10 s, 2 held, 0 waiting>"

    trio.run(use, clock=MockClock(autojump_threshold=0))
    assert repr(limiter) == "<SlidingWindowLimiter 1 of 4 in 10 s, 2 held, 0 waiting>"
    trio.run(elsewhere, clock=MockClock(autojump_threshold=0))


def test_another_run_is_refused_clearly() -> None:
    """Trio's clock differs from run to run: a limiter carried over would wait for hours, or let too much through."""
    limiter = SlidingWindowLimiter(1, 1000.0)
    trio.run(limiter.acquire)

    async def again() -> None:
        with pytest.raises(UsageError, match=r"another trio\.run"):
            await limiter.acquire()
        with pytest.raises(UsageError, match=r"another trio\.run"):
            limiter.acquire_nowait()
        with pytest.raises(UsageError, match=r"another trio\.run"):
            async with limiter:
                pass
        with pytest.raises(UsageError, match=r"another trio\.run"):
            limiter.pause(1)
        with pytest.raises(UsageError, match=r"another trio\.run"):
            limiter.statistics()

    trio.run(again)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"max_requests": 0}, "max_requests"),
        ({"max_requests": 1.5}, "max_requests"),
        ({"max_requests": True}, "max_requests"),
        ({"window": 0}, "window"),
        ({"window": math.inf}, "window"),
        ({"window": "10"}, "window"),
        ({"burst": 0}, "burst"),
        ({"lanes": 0}, "lanes"),
        ({"lanes": None}, "lanes"),
        ({"count_from": "start"}, "count_from"),
    ],
)
def test_impossible_arguments_are_refused_by_name(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name} must be "):
        SlidingWindowLimiter(**arguments)


@pytest.mark.parametrize(("weight", "lane"), [(0, 0), (11, 0), (-1, 0), (1.0, 0), (1, 1), (1, -1), (True, 0)])
async def test_impossible_weights_and_lanes_are_refused(weight: Any, lane: Any) -> None:
    """A weight that no window has room for would wait for ever."""
    limiter = SlidingWindowLimiter(10)
    with pytest.raises(UsageError, match=r"weight|lane"):
        await limiter.acquire(weight, lane=lane)
    with pytest.raises(UsageError, match=r"weight|lane"):
        limiter.acquire_nowait(weight, lane=lane)
    assert limiter.statistics().used == limiter.statistics().waiting == 0
