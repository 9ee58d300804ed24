"""Errors come out of a hidden nursery as they went in."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel

from kufeed._supervisor import one_error


class Mine(Exception):
    pass


class Theirs(Exception):
    pass


async def fail(error: BaseException) -> None:
    raise error


async def hidden(body_error: BaseException | None, *task_errors: BaseException) -> None:
    """A hidden nursery with a body and tasks that fail at the same time."""
    with one_error() as body:
        async with trio.open_nursery() as nursery:
            for error in task_errors:
                nursery.start_soon(fail, error)
            with body.watched():
                if body_error is not None:
                    with trio.CancelScope(shield=True):
                        await trio.lowlevel.checkpoint()
                        await trio.lowlevel.checkpoint()
                    raise body_error
                await trio.lowlevel.checkpoint()


async def test_an_error_of_the_body_comes_out_as_itself() -> None:
    error = Mine()
    context = error.__context__ = KeyError("what it was raised during")
    with pytest.raises(Mine) as raised:
        await hidden(error)
    assert raised.value is error
    assert raised.value.__context__ is context


async def test_an_error_of_one_task_comes_out_bare() -> None:
    error = Theirs()
    with pytest.raises(Theirs) as raised:
        await hidden(None, error)
    assert raised.value is error
    assert raised.value.__context__ is None


async def test_errors_of_several_tasks_stay_together() -> None:
    with pytest.RaisesGroup(Theirs, Theirs):
        await hidden(None, Theirs(), Theirs())


async def test_the_body_wins_and_the_rest_is_its_context() -> None:
    error, other = Mine(), Theirs()
    with pytest.raises(Mine) as raised:
        await hidden(error, other)
    assert raised.value is error
    context = raised.value.__context__
    assert isinstance(context, ExceptionGroup)
    assert context.exceptions == (other,)


@pytest.mark.parametrize("inner", [Mine(), Theirs()])
async def test_a_group_of_the_body_is_never_looked_into(inner: Exception) -> None:
    group = ExceptionGroup("mine", [inner])
    with pytest.RaisesGroup(type(inner)) as raised:
        await hidden(group)
    assert raised.value is group
    with pytest.RaisesGroup(type(inner)) as raised:
        await hidden(group, Theirs())
    assert raised.value is group


async def test_a_group_raised_by_a_task_keeps_its_own_layer() -> None:
    group = ExceptionGroup("theirs", [Theirs()])
    with pytest.RaisesGroup(Theirs, match="theirs"):
        await hidden(None, group)


async def test_cancelled_passes_when_it_is_alone() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await hidden(None)
    assert scope.cancelled_caught


async def test_cancelled_gives_way_to_a_real_error() -> None:
    with trio.CancelScope() as scope, pytest.raises(Theirs):
        with one_error() as body:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail, Theirs())
                with body.watched():
                    scope.cancel()
                    await trio.sleep(1)
    assert not scope.cancelled_caught


async def test_two_hidden_nurseries_hide_two_layers() -> None:
    with pytest.raises(Theirs):
        with one_error() as outer:
            async with trio.open_nursery():
                with outer.watched():
                    await hidden(None, Theirs())


async def test_keyboard_interrupt_comes_out_bare() -> None:
    with pytest.raises(KeyboardInterrupt):
        await hidden(None, KeyboardInterrupt())


async def test_no_error_no_trouble() -> None:
    await hidden(None)
