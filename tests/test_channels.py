"""The queue of a subscription: order, bound and accounts hold whatever producer and consumers do."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from kufeed._buffers import Overflow
from kufeed._channels import Sink, UpdateQueue
from kufeed._delivery import hand_out


async def never_hold(sink: Sink) -> bool:
    await trio.lowlevel.checkpoint()
    return False


@attrs.define
class End:
    closed: bool = False


def law(queue: UpdateQueue) -> bool:
    counts = queue.statistics()
    return counts.received == counts.delivered + counts.dropped + counts.discarded + counts.pending


def queue_of(bound: int, *items: Any) -> UpdateQueue:
    queue = UpdateQueue(DROP_OLDEST, bound)
    queue.staged.extend(items)
    queue.hand_over()
    return queue


async def test_taking_is_a_cancellation_point_even_while_updates_wait() -> None:
    queue = queue_of(10, *range(10))
    with trio.move_on_after(0) as scope:
        while True:
            await queue.next(End())
    assert scope.cancelled_caught
    assert queue.statistics().delivered == 0


async def test_other_tasks_run_while_a_long_queue_is_taken() -> None:
    """At least every 5 ms, by the clock that the queue was given."""
    now = 0.0
    queue = UpdateQueue(DROP_OLDEST, 1000, perf_counter=lambda: now)
    queue.staged.extend(range(1000))  # type: ignore[arg-type]
    queue.hand_over()
    ran_at: list[float] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def other() -> None:
            while True:
                ran_at.append(now)
                await trio.lowlevel.checkpoint()

        for _ in range(1000):
            await queue.next(End())
            now += 0.001
        nursery.cancel_scope.cancel()
    # Each yield lets the other task run once; Trio shuffles the order within a pass, so it may come late in one and
    # early in the next.
    assert max(later - earlier for earlier, later in pairwise(ran_at)) <= 2 * 0.0061


async def test_taking_costs_no_scheduler_pass_while_updates_wait() -> None:
    queue = queue_of(10, *range(10))
    passes = Passes()
    trio.lowlevel.add_instrument(passes)
    for number in range(10):
        assert await queue.next(End()) == number
    trio.lowlevel.remove_instrument(passes)
    assert passes.count == 0


class Passes(trio.abc.Instrument):
    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_waiting_is_a_checkpoint() -> None:
    queue = UpdateQueue(DROP_OLDEST, 10)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def produce() -> None:
            queue.staged.append(1)  # type: ignore[arg-type]
            queue.hand_over()

        with assert_checkpoints():
            assert await queue.next(End()) == 1


async def test_errors_are_raised_at_their_place_once() -> None:
    queue = queue_of(10, 1, 2)
    queue.fail(KeyError("between"))
    queue.staged.append(3)  # type: ignore[arg-type]
    queue.hand_over()
    assert [await queue.next(End()), await queue.next(End())] == [1, 2]
    with pytest.raises(KeyError, match="between"):
        await queue.next(End())
    assert await queue.next(End()) == 3
    assert law(queue)


async def test_an_error_wakes_a_waiting_consumer() -> None:
    queue = UpdateQueue(DROP_OLDEST, 10)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def consume() -> None:
            with pytest.raises(KeyError):
                await queue.next(End())

        await wait_all_tasks_blocked()
        queue.fail(KeyError())


async def test_an_error_outlives_the_drop_of_what_stood_before_it() -> None:
    queue = queue_of(2, 1, 2)
    queue.fail(KeyError())
    queue.staged.extend([3, 4, 5])  # type: ignore[list-item]
    await hand_out([queue], never_hold)
    with pytest.raises(KeyError):
        await queue.next(End())
    assert [await queue.next(End()), await queue.next(End())] == [4, 5]
    assert queue.statistics().dropped == 3
    assert law(queue)


async def test_a_large_read_does_not_outrun_a_consumer_that_keeps_up() -> None:
    """370 updates in one read, room for 10, and a consumer that takes what is there: nothing is dropped."""
    queue = UpdateQueue(DROP_OLDEST, 10)
    taken: list[int] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def consume() -> None:
            while len(taken) < 3700:
                taken.append(await queue.next(End()))  # type: ignore[arg-type]

        await wait_all_tasks_blocked()
        for start in range(0, 3700, 370):
            queue.staged.extend(range(start, start + 370))  # type: ignore[arg-type]
            await hand_out([queue], never_hold)
    assert taken == list(range(3700))
    assert queue.statistics().dropped == 0
    assert queue.statistics().most_pending == 10


async def test_a_consumer_that_does_not_come_costs_two_scheduler_passes(autojump_clock: MockClock) -> None:
    queue = queue_of(10, *range(10))
    queue.staged.extend(range(10, 1000))  # type: ignore[arg-type]
    start = trio.current_time()
    await hand_out([queue], never_hold)
    assert trio.current_time() == start
    assert queue.statistics().dropped == 990
    assert [queue.take() for _ in range(10)] == list(range(990, 1000))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("produce"), st.integers(0, 12)),
        st.tuples(st.just("fail"), st.none()),
        st.tuples(st.just("wait"), st.integers(1, 3)),
        st.tuples(st.just("cancel"), st.integers(0, 2)),
        st.tuples(st.just("nowait"), st.integers(1, 5)),
        st.tuples(st.just("close"), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(bound=st.integers(1, 8), plan=steps)
def test_whatever_happens_order_bound_and_accounts_hold(bound: int, plan: list[tuple[str, Any]]) -> None:
    """Consumers come and are cancelled, the producer overflows the buffer, errors stand in between."""

    async def main() -> None:
        queue = UpdateQueue(DROP_OLDEST, bound)
        taken: list[int] = []
        errors = 0
        produced = failures = 0
        scopes: dict[int, trio.CancelScope] = {}

        async def consume(slot: int, count: int, task_status: trio.TaskStatus[None]) -> None:
            nonlocal errors
            with trio.CancelScope() as scopes[slot]:
                task_status.started()
                for _ in range(count):
                    try:
                        taken.append(await queue.next(End()))  # type: ignore[arg-type]
                    except KeyError:
                        errors += 1
                    except StopAsyncIteration:
                        return

        async with trio.open_nursery() as nursery:
            for slot, (step, argument) in enumerate(plan):
                match step:
                    case "produce":
                        queue.staged.extend(range(produced, produced + argument))  # type: ignore[arg-type]
                        produced += argument
                        await hand_out([queue], never_hold)
                    case "fail":
                        failures += not queue.closed
                        queue.fail(KeyError())
                    case "wait":
                        await nursery.start(consume, slot, argument)
                    case "cancel":
                        for scope in list(scopes.values())[: argument + 1]:
                            scope.cancel()
                        scopes.clear()
                    case "nowait":
                        for _ in range(argument):
                            try:
                                taken.append(queue.take())  # type: ignore[arg-type]
                            except KeyError:
                                errors += 1
                            except (trio.WouldBlock, trio.EndOfChannel):
                                break
                    case "close":
                        queue.close()
                await wait_all_tasks_blocked()
                counts = queue.statistics()
                assert law(queue)
                assert counts.received == produced
                assert counts.delivered == len(taken)
                assert counts.pending <= bound >= counts.most_pending
                if counts.pending:  # no lost wake-up: nobody waits while there is something to take
                    assert queue._consumers.statistics().tasks_waiting == 0
            queue.close()
        assert taken == sorted(set(taken))
        assert errors <= failures
        assert law(queue)

    trio.run(main, clock=MockClock(autojump_threshold=0))
