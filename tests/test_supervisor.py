"""Errors come out of a hidden nursery, and of a nursery of the user's own functions, as they went in."""

from __future__ import annotations

import signal

import pytest
import trio
import trio.lowlevel

from kufeed._supervisor import UserNursery, one_error


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


def test_a_group_of_the_body_is_not_looked_into() -> None:
    """Also where it is no nursery that hands it on: it was the user who made a group of one."""
    error = ExceptionGroup("the user's", [Mine()])
    with pytest.RaisesGroup(Mine) as raised, one_error() as body, body.watched():
        raise error
    assert raised.value is error


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


async def test_a_group_of_nothing_but_cancelled_gives_way_too() -> None:
    """It is what a nursery of the body makes of being cancelled because of our task."""
    # A stray Cancelled might end the test, and look well.
    with pytest.raises((Theirs, BaseExceptionGroup)) as raised:  # noqa: ASYNC401
        with one_error() as body:
            async with trio.open_nursery() as nursery:
                with body.watched():
                    async with trio.open_nursery() as users:
                        users.start_soon(trio.sleep_forever)
                        nursery.start_soon(fail, Theirs())
                        await trio.sleep_forever()
    assert isinstance(raised.value, Theirs)


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


# -- a nursery of the user's own functions ----------------------------------------------------------------------------


class Own(ExceptionGroup[Exception]):  # noqa: ASYNC126  # that is its point
    """A group without `derive()`: whoever rebuilds it loses its class."""


OF_ALL_KINDS = [
    Mine("plain"),
    ExceptionGroup("a group", [Mine()]),
    Own("a group of its own class", [Mine(), Theirs()]),
    BaseExceptionGroup("a base group", [KeyboardInterrupt()]),
    SystemExit(),
    KeyboardInterrupt(),
    StopAsyncIteration(),
]


async def in_user_nursery(body_error: BaseException | None, *task_errors: BaseException) -> None:
    async with UserNursery() as nursery:
        for error in task_errors:
            nursery.start_soon(fail, error)
        if body_error is not None:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
            raise body_error
        if task_errors:
            await trio.sleep_forever()


@pytest.mark.parametrize("error", OF_ALL_KINDS, ids=repr)
@pytest.mark.parametrize("where", ["body", "task"])
async def test_one_error_of_the_users_comes_out_as_itself(error: BaseException, where: str) -> None:
    context = error.__context__ = KeyError("what it was raised during")
    with pytest.raises(type(error)) as raised:
        await (in_user_nursery(error) if where == "body" else in_user_nursery(None, error))
    assert raised.value is error
    assert raised.value.__context__ is context


async def test_several_errors_of_the_users_are_a_group_of_exactly_these() -> None:
    body_error = Own("of the body", [Mine()])
    with pytest.RaisesGroup(Mine, pytest.RaisesGroup(Mine), pytest.RaisesGroup(Mine)) as raised:
        await in_user_nursery(body_error, *OF_ALL_KINDS[:2])
    assert type(raised.value) is ExceptionGroup
    assert set(raised.value.exceptions) == {body_error, *OF_ALL_KINDS[:2]}
    assert raised.value.exceptions[-1] is body_error
    assert raised.value.__context__ is None


async def test_one_error_raised_twice_is_one() -> None:
    """As when the body waits for what a task waits for."""
    error = Mine()
    with pytest.raises(Mine) as raised:
        await in_user_nursery(error, error)
    assert raised.value is error


async def test_the_first_error_cancels_the_rest() -> None:
    async with trio.open_nursery() as outside:
        with pytest.raises(Mine):
            async with UserNursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fail, Mine())
                await trio.sleep_forever()
        with pytest.raises(Mine):
            async with UserNursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                raise Mine
        assert not outside.cancel_scope.cancel_called


@pytest.mark.parametrize("deep", [False, True])
async def test_cancelled_alone_passes(deep: bool) -> None:
    """As itself, or, where nurseries of the user's have made a group of it, as one."""
    with trio.CancelScope() as scope:
        with pytest.raises(trio.Cancelled):
            async with UserNursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                scope.cancel()
                if deep:
                    async with trio.open_nursery() as inner:
                        inner.start_soon(trio.sleep_forever)
                        await trio.sleep_forever()
                await trio.sleep_forever()
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_cancelled_of_a_task_alone_passes() -> None:
    """The body has ended, and waits."""

    async def sleep() -> None:
        async with trio.open_nursery() as inner:
            inner.start_soon(trio.sleep_forever)
            await trio.sleep_forever()

    async def cancel() -> None:
        scope.cancel()

    async with trio.open_nursery() as outside:
        scope = trio.CancelScope()
        outside.start_soon(cancel)
        with scope:
            async with UserNursery() as nursery:
                nursery.start_soon(sleep)
        assert scope.cancelled_caught


async def test_a_cancel_within_stays_within() -> None:
    async with UserNursery() as nursery:
        nursery.start_soon(trio.sleep, 0)
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.parametrize("outside", [False, True])
async def test_cancelled_within_a_group_of_the_users_is_taken_out(outside: bool) -> None:
    """An error made while being cancelled: nothing else is left of its group, whoever cancelled."""

    async def clean_up_badly() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise Mine

    left = pytest.RaisesGroup(Mine)
    with trio.CancelScope() as scope:
        with left if outside else pytest.RaisesGroup(Theirs, left):
            async with UserNursery() as nursery:
                async with trio.open_nursery() as inner:
                    inner.start_soon(clean_up_badly)
                    inner.start_soon(trio.sleep_forever)
                    await trio.lowlevel.checkpoint()
                    if outside:
                        scope.cancel()
                    else:
                        nursery.start_soon(fail, Theirs())


@pytest.mark.parametrize("error", [None, Mine()])
def test_control_c_comes_out_bare_or_in_the_group(error: Exception | None) -> None:
    """Where it is delivered to the nursery itself, which waits for its tasks."""
    # A shell starts what it runs in the background deaf to Ctrl-C, and so whatever runs these tests in there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    async def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)
        try:
            await trio.sleep_forever()
        finally:
            if error is not None:
                raise error

    async def main() -> None:
        async with UserNursery() as nursery:
            nursery.start_soon(interrupt)

    try:
        with pytest.raises(KeyboardInterrupt) if error is None else pytest.RaisesGroup(Mine, KeyboardInterrupt):
            trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)
    finally:
        signal.signal(signal.SIGINT, before)


async def test_nested_nurseries_of_the_users_add_no_layer() -> None:
    error = Own("of a task", [Mine()])
    with pytest.raises(Own) as raised:
        async with UserNursery(), UserNursery() as inner:
            inner.start_soon(fail, error)
            await trio.sleep_forever()
    assert raised.value is error


async def test_a_block_without_errors_waits_for_its_tasks() -> None:
    done = []

    async def work() -> None:
        await trio.lowlevel.checkpoint()
        done.append(True)

    async with UserNursery() as nursery:
        nursery.start_soon(work, name="work")
    assert done == [True]
