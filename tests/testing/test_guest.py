"""A Trio run that plain functions carry on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest
import trio
from trio._core import _run as scheduling

from kufeed.testing.guest import GuestRun


@pytest.fixture
def run() -> Iterator[GuestRun]:
    run = GuestRun(patience=600.0)
    yield run
    run.close()


def test_a_call_is_run_to_its_end_in_virtual_time(run: GuestRun) -> None:
    async def later(seconds: float) -> str:
        await trio.sleep(seconds)
        return f"{trio.current_time():.0f}"

    began = time.monotonic()
    assert run.call(later, 300.0) == "300"
    run.advance(86_400.0)
    assert run.call(later, 0.0) == "86700"
    assert time.monotonic() - began < 5
    run.close()


def test_time_stands_still_between_calls_and_tasks_go_on_within_them(run: GuestRun) -> None:
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            await trio.sleep(1)
            ticks.append(trio.current_time())

    run.nursery.start_soon(tick)
    assert not ticks
    run.advance(3.5)
    assert ticks == [1, 2, 3]
    run.close()


def test_what_a_call_raises_comes_out_and_the_run_goes_on(run: GuestRun) -> None:
    async def fail() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run.call(fail)
    run.advance(1.0)


def test_a_call_that_never_ends_is_given_up(run: GuestRun) -> None:
    with pytest.raises(trio.TooSlowError):
        run.call(trio.sleep_forever)
    run.advance(1.0)
    run.close()


def test_what_a_task_raises_comes_out_of_the_call_and_ends_the_run(run: GuestRun) -> None:
    async def fail() -> None:
        await trio.sleep(5)
        raise LookupError("the task's")

    run.nursery.start_soon(fail)
    with pytest.raises(LookupError, match="the task's"):
        run.advance(10.0)
    assert run.is_over
    with pytest.raises(RuntimeError, match="is over"):
        run.advance(1.0)
    run.close()


def test_after_closing_the_thread_may_have_another_run(run: GuestRun) -> None:
    async def hold_on() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(30)

    threads = threading.active_count()
    run.nursery.start_soon(hold_on)
    run.advance(1.0)
    run.close()
    run.close()
    assert run.is_over
    assert run.clock.current_time() == 30
    assert threading.active_count() == threads
    assert trio.run(_answer) == 42


async def _answer() -> int:
    return 42


def test_one_task_that_cannot_be_ended_is_told(run: GuestRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kufeed.testing.guest._PASSES_TO_END", 1000)
    let_go = trio.Event()

    async def hold_on() -> None:
        with trio.CancelScope(shield=True):
            await let_go.wait()

    run.nursery.start_soon(hold_on)
    run.advance(1.0)
    with pytest.raises(RuntimeError, match="not to be cancelled"):
        run.close()
    let_go.set()
    run.close()


def test_the_order_of_tasks_is_of_the_seed_and_chances_are_as_before_afterwards() -> None:
    def order(seed: int) -> list[int]:
        run = GuestRun(seed=seed)
        woken: list[int] = []

        async def wake(number: int) -> None:
            for _ in range(3):
                await trio.sleep(1)
                woken.append(number)

        for number in range(5):
            run.nursery.start_soon(wake, number)
        run.advance(5.0)
        run.close()
        return woken

    before = random.getstate(), scheduling._ALLOW_DETERMINISTIC_SCHEDULING
    assert order(1) == order(1) != order(2)
    assert (random.getstate(), scheduling._ALLOW_DETERMINISTIC_SCHEDULING) == before
