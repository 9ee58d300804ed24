"""A gate: who comes while it is shut waits, and it may be turned as often as anybody likes."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from kufeed.testing.gate import Gate


async def test_all_who_wait_pass_when_it_opens_and_those_who_come_later_too() -> None:
    gate = Gate()
    passed: list[int] = []

    async def walk(number: int) -> None:
        await gate.wait_open()
        passed.append(number)

    async with trio.open_nursery() as nursery:
        gate.open()  # it is open
        gate.shut()
        gate.shut()  # once more does not leave those behind who wait by then
        for number in range(3):
            nursery.start_soon(walk, number)
        await wait_all_tasks_blocked()
        assert not gate.is_open
        gate.shut()
        await wait_all_tasks_blocked()
        assert passed == []
        gate.open()
        assert gate.is_open
    assert sorted(passed) == [0, 1, 2]
    await walk(3)
    assert passed[-1] == 3


async def test_one_that_is_shut_again_at_once_lets_nobody_pass() -> None:
    gate = Gate()
    gate.shut()
    with trio.move_on_after(0.1) as waiting:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gate.wait_open)
            await wait_all_tasks_blocked()
            gate.open()
            gate.shut()
    assert waiting.cancelled_caught
