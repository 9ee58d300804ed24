"""Whose error comes out of a block that is served by background tasks."""

from __future__ import annotations

import pytest
import trio

from kufeed.testing.services import open_services


async def fail() -> None:
    await trio.lowlevel.checkpoint()
    raise ValueError("task")


async def test_the_tasks_end_with_the_block() -> None:
    async with open_services() as nursery:
        nursery.start_soon(trio.sleep_forever)


async def test_the_bodys_error_is_not_wrapped() -> None:
    with pytest.raises(KeyError, match="body"):
        async with open_services() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise KeyError("body")


async def test_a_group_of_the_body_is_left_as_it_is() -> None:
    group = ExceptionGroup("body", [KeyError("one"), OSError("two")])
    with pytest.RaisesGroup(KeyError, OSError) as caught:
        async with open_services():
            raise group
    assert caught.value is group


async def test_a_tasks_error_cancels_the_body_and_comes_out_in_a_group() -> None:
    with pytest.RaisesGroup(ValueError):
        async with open_services() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()


async def test_when_both_fail_the_bodys_error_comes_out_and_the_rest_is_its_context() -> None:
    with pytest.raises(KeyError, match="body") as caught:
        async with open_services() as nursery:
            nursery.start_soon(fail)
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("body")
    assert isinstance(caught.value.__context__, ExceptionGroup)


async def test_cancellation_passes() -> None:
    with trio.CancelScope() as scope:
        async with open_services() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
