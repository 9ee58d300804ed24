"""What all feeds of a run share, and what processes share through a file."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints

from kufeed import DialBudget, RestBudget, UsageError
from kufeed._budget import dial_budgets, rest_budgets
from kufeed.protocol import MARKETS

if TYPE_CHECKING:
    from pathlib import Path

SPOT, FUTURES = MARKETS

# -- in a run ----------------------------------------------------------------------------------------------------------


async def test_a_host_has_one_budget_however_it_is_written() -> None:
    one = dial_budgets("https://api.kucoin.com", SPOT, 1.0)
    assert dial_budgets("https://API.kucoin.com:443/", SPOT, 1.0) == one
    assert dial_budgets("https://api.kucoin.com.", SPOT, 1.0) == one
    assert dial_budgets("https://api-futures.kucoin.com", FUTURES, 1.0) != one
    (budget,) = one
    assert (budget.max_requests, budget.window) == (30, 60.0)  # type: ignore[attr-defined]


async def test_a_share_holds_besides_the_whole() -> None:
    small, whole = dial_budgets("https://api.kucoin.com", SPOT, 0.5)
    assert (small.max_requests, whole.max_requests) == (15, 30)  # type: ignore[attr-defined]
    assert dial_budgets("https://api.kucoin.com", SPOT, 1.0) == (whole,)
    assert dial_budgets("https://api.kucoin.com", SPOT, 0.001)[0].max_requests == 1  # type: ignore[attr-defined]


async def test_rest_weight_is_one_budget_with_room_for_a_token_in_any_share() -> None:
    (whole,) = rest_budgets(1.0)
    assert (whole.max_requests, whole.window) == (2000, 30.0)
    assert RestBudget.of_this_run() is whole
    assert [budget.max_requests for budget in rest_budgets(0.25)] == [500, 2000]
    assert rest_budgets(0.0001)[0].max_requests == 10


def test_each_run_has_budgets_of_its_own() -> None:
    async def use() -> Any:
        (budget,) = dial_budgets("https://api.kucoin.com", SPOT, 1.0)
        for _ in range(30):
            (await budget.acquire()).release()
        return budget

    first = trio.run(use, clock=MockClock(autojump_threshold=0))
    assert trio.run(use, clock=MockClock(autojump_threshold=0)) is not first


async def test_a_dial_budget_counts_from_the_end_of_a_dial(autojump_clock: MockClock) -> None:
    budget = DialBudget(dials=1, window=60.0)
    async with await budget.acquire():
        await trio.sleep(100)
    await budget.acquire()
    assert trio.current_time() == 160


# -- in a file ---------------------------------------------------------------------------------------------------------

DIALLER = """
import json, sys, time, trio
from kufeed import DialBudget

path, dials, window, count, lasts = sys.argv[1], *map(float, sys.argv[2:])

async def main():
    budget = DialBudget.shared(path, int(dials), window)
    async def dial():
        async with await budget.acquire():
            begun = time.monotonic()
            await trio.sleep(lasts)
            print(json.dumps([begun, time.monotonic()]), flush=True)
    async with trio.open_nursery() as nursery:
        for _ in range(int(count)):
            nursery.start_soon(dial)

trio.run(main)
"""


def dial_from_processes(path: Path, processes: int, dials: int, window: float, count: int, lasts: float) -> list[Any]:
    """Each process dials *count* times, each dial *lasts* seconds; returns when each began and ended."""
    arguments = [sys.executable, "-c", DIALLER, str(path), *map(str, (dials, window, count, lasts))]
    started = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    made = []
    try:
        for process in started:
            output, _ = process.communicate(timeout=600)
            assert process.returncode == 0
            made += [json.loads(line) for line in output.splitlines()]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return made


def most_in_any_window(made: list[Any], window: float) -> int:
    """The exchange sees a dial at some time between its begin and its end: the worst that it could see."""
    return max(sum(begun < moment + window and ended >= moment for begun, ended in made) for _, moment in made)


def test_two_processes_never_dial_more_than_one_may(tmp_path: Path) -> None:
    made = dial_from_processes(tmp_path / "dials", processes=2, dials=6, window=1.0, count=10, lasts=0.02)
    assert len(made) == 20
    assert most_in_any_window(made, 1.0) == 6


@pytest.mark.long
def test_two_processes_never_dial_more_than_30_in_a_minute(tmp_path: Path) -> None:
    """In real time: two minutes and a half."""
    made = dial_from_processes(tmp_path / "dials", processes=2, dials=30, window=60.0, count=45, lasts=0.2)
    print(f"\n{len(made)} dials of two processes in {max(end for _, end in made) - min(made)[0]:.1f} s;", end=" ")
    print(f"at most {most_in_any_window(made, 60.0)} in any 60 s")
    assert len(made) == 90
    assert most_in_any_window(made, 60.0) == 30


async def test_acquiring_is_a_checkpoint_and_a_cancelled_one_takes_nothing(tmp_path: Path) -> None:
    budget = DialBudget.shared(tmp_path / "dials", dials=1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await budget.acquire()
    assert scope.cancelled_caught
    with assert_checkpoints():
        permit = await budget.acquire()
    with trio.move_on_after(0.05) as scope:
        await budget.acquire()
    assert scope.cancelled_caught
    permit.release(unused=True)
    permit.release()
    with trio.fail_after(5):
        await budget.acquire()


async def test_it_is_first_come_first_served_within_a_process(tmp_path: Path) -> None:
    budget = DialBudget.shared(tmp_path / "dials", dials=1, window=0.05)
    order: list[int] = []

    async def dial(number: int) -> None:
        async with await budget.acquire():
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(dial, number)
            await trio.testing.wait_all_tasks_blocked(0.005)
    assert order == list(range(5))


async def test_an_acquire_that_is_cancelled_while_the_disk_is_slow_returns_at_once_and_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = DialBudget.shared(tmp_path / "dials", dials=1)
    take, slow = budget._take, threading.Event()

    def take_slowly(attempt: Any) -> float | None:
        slow.wait(5)
        try:
            return take(attempt)
        finally:
            done.set()

    done = threading.Event()
    monkeypatch.setattr(budget, "_take", take_slowly)
    start = time.monotonic()
    with trio.move_on_after(0.05):
        await budget.acquire()
    assert time.monotonic() - start < 1
    slow.set()
    await trio.to_thread.run_sync(done.wait, 5)
    with trio.fail_after(5):
        await budget.acquire()


async def test_a_late_release_frees_nobody_elses_place(tmp_path: Path) -> None:
    path = tmp_path / "dials"
    first, second = DialBudget.shared(path, dials=1), DialBudget.shared(path, dials=1)
    late = await first.acquire()
    with sqlite3.connect(path) as file:
        file.execute("DELETE FROM dial")  # its lease has run out
    file.close()
    await second.acquire()
    late.release(unused=True)
    with trio.move_on_after(0.1) as scope:
        await first.acquire()
    assert scope.cancelled_caught


async def test_a_dial_longer_than_its_lease_still_counts_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "dials"
    budget = DialBudget.shared(path, dials=1)
    long = await budget.acquire()
    with sqlite3.connect(path) as file:
        file.execute("DELETE FROM dial")
    file.close()
    long.release()
    with trio.move_on_after(0.1) as scope:
        await budget.acquire()
    assert scope.cancelled_caught


async def test_a_file_that_was_removed_is_no_new_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    budget = DialBudget.shared("dials", dials=1)
    monkeypatch.chdir("/")
    await budget.acquire()  # it is found again from elsewhere
    (tmp_path / "dials").unlink()
    with pytest.raises(OSError, match="unable to open"):
        await budget.acquire()


def test_it_lasts_from_run_to_run(tmp_path: Path) -> None:
    budget = DialBudget.shared(tmp_path / "dials", dials=1, window=0.2)

    async def dial() -> float:
        async with await budget.acquire():
            return time.monotonic()

    first = trio.run(dial)
    assert trio.run(dial) - first >= 0.2


async def test_a_place_whose_process_died_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "dials"
    budget = DialBudget.shared(path, dials=2, window=60.0)
    await budget.acquire()  # and never told of again
    with sqlite3.connect(path) as file:
        (free_at,) = file.execute("SELECT free_at FROM dial").fetchone()
        assert 179 < free_at - time.monotonic() <= 180
        file.execute("UPDATE dial SET free_at = ?", (time.monotonic() - 1,))
    file.close()
    await budget.acquire()
    await budget.acquire()


async def test_times_of_before_the_machine_was_started_count_nothing(tmp_path: Path) -> None:
    path = tmp_path / "dials"
    budget = DialBudget.shared(path, dials=1)
    with sqlite3.connect(path) as file:
        file.execute("INSERT INTO dial VALUES (1, ?)", (time.monotonic() + 1e6,))
    file.close()
    with trio.fail_after(5):
        await budget.acquire()


async def test_a_file_that_somebody_holds_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "dials"
    budget = DialBudget.shared(path)
    permit = await budget.acquire()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with trio.move_on_after(0.1) as scope:
        await budget.acquire()
    assert scope.cancelled_caught
    permit.release()  # it cannot be noted: the place comes back by itself, later
    assert "could not be noted" in caplog.text
    holder.execute("ROLLBACK")
    holder.close()
    await budget.acquire()


async def test_a_file_that_has_gone_bad_is_an_error_of_the_dial(tmp_path: Path) -> None:
    path = tmp_path / "dials"
    budget = DialBudget.shared(path)
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(OSError, match="not a database"):
        await budget.acquire()


@pytest.mark.parametrize("content", [b"nothing of a database, but somebody's text" * 50])
def test_a_file_of_something_else_is_refused_and_left_as_it_was(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="mine cannot hold a budget"):
        DialBudget.shared(path)
    assert path.read_bytes() == content
    other = tmp_path / "database"
    with sqlite3.connect(other) as file:
        file.execute("CREATE TABLE mine (x)")
    file.close()
    before = other.read_bytes()
    with pytest.raises(UsageError, match="something else"):
        DialBudget.shared(other)
    assert other.read_bytes() == before


def test_other_numbers_for_one_file_are_refused(tmp_path: Path) -> None:
    DialBudget.shared(tmp_path / "dials")
    DialBudget.shared(str(tmp_path / "dials"))
    with pytest.raises(UsageError, match="30 dials in 60 s"):
        DialBudget.shared(tmp_path / "dials", dials=20)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"dials": 0}, "dials"), ({"dials": 1.0}, "dials"), ({"window": 0}, "window"), ({"window": 1e6}, "window")],
)
def test_impossible_numbers_are_refused_by_name(tmp_path: Path, arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=name):
        DialBudget.shared(tmp_path / "dials", **arguments)
    assert not (tmp_path / "dials").exists()


def test_a_file_that_is_held_is_nobodys_bug(tmp_path: Path) -> None:
    path = tmp_path / "dials"
    DialBudget.shared(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(BlockingIOError, match="locked"):
        DialBudget.shared(path)
    holder.close()


def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot hold a budget"):
        DialBudget.shared(tmp_path / "missing" / "dials")
