"""After so many failures nobody is let in for a while, then exactly one, and the others by its outcome."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from kufeed import CircuitBreaker, CircuitOpen, CircuitState, CircuitStatistics, UsageError


class Down(Exception):
    pass


async def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(Down):
            async with breaker:
                raise Down


# -- the model: clients of a service that goes up and down -------------------------------------------------------------

FAILURES, COOLDOWN = 2, 4.0
TIMES = st.integers(0, 80).map(lambda quarters: quarters / 4)
CLIENTS = st.lists(
    st.fixed_dictionaries(
        {
            "arrives": TIMES,
            "takes": TIMES,
            "ends": st.sampled_from(["success", "failure", "ignored", "cancelled"]),
            "patience": TIMES.map(lambda time: time + 0.125),
        }
    ),
    min_size=1,
    max_size=25,
)
HANDS = st.lists(st.tuples(TIMES, st.sampled_from(["half_open", "reset"])), max_size=3)


@given(clients=CLIENTS, hands=HANDS, by_hand=st.booleans())
def test_whatever_clients_do_one_tries_and_the_others_go_by_its_outcome(
    clients: list[dict[str, Any]], hands: list[tuple[float, str]], by_hand: bool
) -> None:
    """Whoever is inside came in while it was closed, or is the one trial; who waits gets in or is told."""
    inside_trial = 0
    told: list[tuple[CircuitOpen, CircuitStatistics, float]] = []

    async def main() -> None:
        nonlocal inside_trial
        breaker = CircuitBreaker(FAILURES, None if by_hand else COOLDOWN, ignore=KeyError)

        async def run(client: dict[str, Any]) -> None:
            nonlocal inside_trial
            await trio.sleep_until(client["arrives"])
            with trio.move_on_after(client["patience"]) as scope:
                try:
                    async with breaker:
                        state = breaker.state
                        assert state is not CircuitState.OPEN
                        on_trial = state is CircuitState.HALF_OPEN
                        if on_trial:
                            inside_trial += 1
                            assert inside_trial == 1, "two trials at once"
                        try:
                            scope.deadline = math.inf
                            await trio.sleep(client["takes"])
                            if client["ends"] == "failure":
                                raise Down
                            if client["ends"] == "ignored":
                                raise KeyError
                            if client["ends"] == "cancelled":
                                scope.cancel()
                                await trio.sleep_forever()
                        finally:
                            if on_trial and breaker.state is CircuitState.HALF_OPEN:
                                inside_trial -= 1
                except (Down, KeyError):
                    pass
                except CircuitOpen as error:
                    told.append((error, breaker.statistics(), trio.current_time()))

        async def use_hand(at: float, what: str) -> None:
            nonlocal inside_trial
            await trio.sleep_until(at)
            was = breaker.state
            getattr(breaker, what)()
            if what == "reset":
                assert breaker.state is CircuitState.CLOSED
            elif was is CircuitState.OPEN:
                assert breaker.state is CircuitState.HALF_OPEN
            if breaker.state is not was:
                inside_trial = 0

        async def watch() -> None:
            nonlocal inside_trial
            state = breaker.state
            while True:
                others = [one for one in CircuitState if one is not state]
                state = await breaker.wait_state(*others)
                inside_trial = 0 if state is not CircuitState.HALF_OPEN else inside_trial

        async with trio.open_nursery() as watchers:
            watchers.start_soon(watch)
            with trio.fail_after(10_000):  # nobody is stuck
                async with trio.open_nursery() as nursery:
                    for client in clients:
                        nursery.start_soon(run, client)
                    for at, what in hands:
                        nursery.start_soon(use_hand, at, what)
            watchers.cancel_scope.cancel()
        statistics = breaker.statistics()
        assert (statistics.inside, statistics.waiting) == (0, 0)
        # It always recovers: after the cool-down, or by hand, one success closes it.
        if statistics.state is CircuitState.OPEN and by_hand:
            breaker.half_open()
        await trio.sleep(COOLDOWN)
        async with breaker:
            pass
        assert breaker.state is CircuitState.CLOSED
        assert breaker.statistics().failures == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
    for error, statistics, now in told:
        assert (statistics.state, statistics.until) == (CircuitState.OPEN, error.until)
        assert error.until > now
        assert isinstance(error.cause, Down)


# -- by example --------------------------------------------------------------------------------------------------------


async def test_entering_is_a_checkpoint_and_leaving_is_none() -> None:
    breaker = CircuitBreaker()
    with assert_checkpoints():
        async with breaker:
            pass
    with assert_checkpoints():
        await breaker.wait_state("closed")
    with trio.CancelScope() as scope, pytest.raises(KeyError):
        async with breaker:
            scope.cancel()
            raise KeyError


async def test_it_opens_after_so_many_failures_in_a_row(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(3, 60.0)
    await fail(breaker, 2)
    async with breaker:
        pass  # a success starts the count anew
    await fail(breaker, 2)
    assert breaker.state is CircuitState.CLOSED
    await fail(breaker)
    assert breaker.state is CircuitState.OPEN
    with pytest.raises(CircuitOpen, match="Down") as raised:
        async with breaker:
            raise AssertionError("nobody gets in")
    assert raised.value.until == 60.0
    assert isinstance(raised.value.cause, Down)
    await trio.sleep(59.9)
    assert breaker.state is CircuitState.OPEN
    await trio.sleep(0.1)
    assert breaker.state is CircuitState.HALF_OPEN


@pytest.mark.parametrize("goes_well", [True, False])
async def test_of_many_that_wait_one_tries_and_the_others_learn_the_outcome(
    autojump_clock: MockClock, goes_well: bool
) -> None:
    breaker = CircuitBreaker(1, 10.0)
    await fail(breaker)
    trials = told = through = 0

    async def client() -> None:
        nonlocal trials, told, through
        await breaker.wait_state(CircuitState.HALF_OPEN)
        try:
            async with breaker:
                if breaker.state is CircuitState.HALF_OPEN:
                    trials += 1
                    await trio.sleep(5)
                    assert breaker.statistics().waiting == 9
                    if not goes_well:
                        raise Down
                through += 1
        except CircuitOpen as error:
            told += error.until == trio.current_time() + 10
        except Down:
            pass

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(client)
    assert trio.current_time() == 15
    assert (trials, through, told) == ((1, 10, 0) if goes_well else (1, 0, 9))
    assert breaker.state is (CircuitState.CLOSED if goes_well else CircuitState.OPEN)


@pytest.mark.parametrize("end", ["cancelled", "ignored"])
async def test_a_trial_that_says_nothing_leaves_its_place_to_the_next(autojump_clock: MockClock, end: str) -> None:
    breaker = CircuitBreaker(1, 10.0, ignore=(KeyError, LookupError))
    await fail(breaker)
    await trio.sleep(10)
    tried: list[str] = []

    async def say_nothing(scope: trio.CancelScope) -> None:
        with scope:
            try:
                async with breaker:
                    tried.append("first")
                    await trio.sleep(1)
                    if end == "ignored":
                        raise KeyError
                    await trio.sleep_forever()
            except KeyError:
                pass

    async def succeed() -> None:
        async with breaker:
            tried.append("second")
            assert breaker.state is CircuitState.HALF_OPEN

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(say_nothing, scope)
        await wait_all_tasks_blocked()
        nursery.start_soon(succeed)
        await trio.sleep(2)
        scope.cancel()
    assert tried == ["first", "second"]
    assert breaker.state is CircuitState.CLOSED


@pytest.mark.parametrize("changes_before", [0, 1, 2])
async def test_the_outcome_of_what_began_before_counts_nothing(autojump_clock: MockClock, changes_before: int) -> None:
    """A call that was slow enough to see the circuit open and half-open neither closes it nor opens it again."""
    breaker = CircuitBreaker(1, 10.0)
    for _ in range(changes_before):
        breaker.reset()

    async def slow(seconds: float, goes_well: bool) -> None:
        try:
            async with breaker:
                await trio.sleep(seconds)
                if not goes_well:
                    raise Down
        except Down:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow, 5, True)
        nursery.start_soon(slow, 6, False)
        nursery.start_soon(slow, 12, True)
        nursery.start_soon(slow, 13, False)
        await wait_all_tasks_blocked()
        await fail(breaker)
        await trio.sleep(7)
        assert breaker.state is CircuitState.OPEN
        assert breaker.statistics().until == 10
    assert breaker.state is CircuitState.HALF_OPEN
    assert breaker.statistics().opened == 1


async def test_a_group_is_a_failure_where_anything_in_it_is() -> None:
    breaker = CircuitBreaker(1, ignore=KeyError)
    with pytest.RaisesGroup(KeyError):
        async with breaker:
            raise ExceptionGroup("", [KeyError()])
    with pytest.RaisesGroup(KeyError, KeyboardInterrupt):
        async with breaker:
            raise BaseExceptionGroup("", [KeyError(), KeyboardInterrupt()])
    assert breaker.state is CircuitState.CLOSED
    with pytest.RaisesGroup(KeyError, pytest.RaisesGroup(Down)):
        async with breaker:
            raise ExceptionGroup("", [KeyError(), ExceptionGroup("", [Down()])])
    assert breaker.state is CircuitState.OPEN


async def test_without_arguments_it_is_as_documented(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker()
    assert breaker.statistics().cause is None
    await fail(breaker, 9)
    assert breaker.state is CircuitState.CLOSED
    await fail(breaker)
    assert breaker.statistics().until == 60.0
    assert isinstance(breaker.statistics().cause, Down)


async def test_a_cooldown_may_be_short_or_none_at_all(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(1, 0)
    await fail(breaker)
    assert breaker.state is CircuitState.HALF_OPEN
    breaker = CircuitBreaker(1, 0.5)
    await fail(breaker)
    assert breaker.statistics().until == 0.5


async def test_without_a_cooldown_it_opens_again_only_by_hand(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(1, None)
    await fail(breaker)
    await trio.sleep(80_000)
    with pytest.raises(CircuitOpen) as raised:
        async with breaker:
            pass
    assert raised.value.until == math.inf
    async with trio.open_nursery() as nursery:
        nursery.start_soon(breaker.wait_state, "half-open")
        await wait_all_tasks_blocked()
        breaker.half_open()
    await fail(breaker)
    assert breaker.state is CircuitState.OPEN
    breaker.reset()
    assert breaker.state is CircuitState.CLOSED
    assert breaker.statistics().failures == 0
    assert breaker.statistics().cause is None
    breaker.half_open()  # of a closed circuit: nothing to end
    assert breaker.state is CircuitState.CLOSED


async def test_a_reset_lets_in_who_waits_for_a_trial(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(1, 1.0)
    await fail(breaker)
    await trio.sleep(1)
    entered = trio.Event()

    async def hang() -> None:
        async with breaker:
            await trio.sleep_forever()

    async def wait() -> None:
        async with breaker:
            entered.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang)
        await wait_all_tasks_blocked()
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert not entered.is_set()
        breaker.reset()
        await entered.wait()
        nursery.cancel_scope.cancel()
    assert breaker.state is CircuitState.CLOSED


async def test_a_trial_that_was_overtaken_keeps_nobody_out(autojump_clock: MockClock) -> None:
    """The circuit was reset by hand, opened and half-opened again, while the first trial still hangs."""
    breaker = CircuitBreaker(1, 1.0)
    await fail(breaker)
    await trio.sleep(1)

    async def hang() -> None:
        async with breaker:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang)
        await wait_all_tasks_blocked()
        breaker.reset()
        await fail(breaker)
        await trio.sleep(1)
        with trio.fail_after(1):
            async with breaker:
                pass
        assert breaker.state is CircuitState.CLOSED
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("goes_well", [True, False])
async def test_a_trial_may_enter_again_inside(autojump_clock: MockClock, goes_well: bool) -> None:
    """What works while it is closed must not hang at the first recovery; the outer block's outcome counts."""
    breaker = CircuitBreaker(1, 1.0)
    await fail(breaker)
    await trio.sleep(1)
    with trio.fail_after(10):
        try:
            async with breaker:
                async with breaker:
                    pass
                assert breaker.state is CircuitState.HALF_OPEN
                if not goes_well:
                    raise Down
        except Down:
            pass
    assert breaker.state is (CircuitState.CLOSED if goes_well else CircuitState.OPEN)


async def test_who_gives_up_waiting_for_a_trial_leaves_nothing(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(1, 1.0)
    await fail(breaker)
    await trio.sleep(1)
    async with breaker:
        with trio.move_on_after(3) as scope:
            async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # of another task than the trial's
                nursery.start_soon(breaker.__aenter__)
        assert scope.cancelled_caught
        assert breaker.statistics().waiting == 0
        assert breaker.statistics().inside == 1
    assert breaker.state is CircuitState.CLOSED


async def test_outcomes_can_be_told_without_a_block(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(2, 1.0)
    breaker.record_failure(Down("one"))
    breaker.record_success()
    breaker.record_failure(Down("two"))
    assert breaker.state is CircuitState.CLOSED
    breaker.record_failure(Down("three"))
    assert breaker.state is CircuitState.OPEN
    breaker.record_success()  # of something that was sent before
    breaker.record_failure(Down("four"))
    assert str(breaker.statistics().cause) == "three"
    assert breaker.state is CircuitState.OPEN
    await trio.sleep(1)
    breaker.record_success()
    assert breaker.state is CircuitState.CLOSED


async def test_it_never_opens_by_itself_where_no_number_is_given() -> None:
    breaker = CircuitBreaker(None)
    await fail(breaker, 1000)
    assert breaker.state is CircuitState.CLOSED
    assert breaker.statistics().failures == 1000


async def test_statistics_and_repr_tell_where_it_is(autojump_clock: MockClock) -> None:
    breaker = CircuitBreaker(2, 60.0)
    await fail(breaker)
    async with breaker:
        statistics = breaker.statistics()
        assert (statistics.state, statistics.failures, statistics.opened) == ("closed", 1, 0)
        assert (statistics.until, statistics.inside, statistics.waiting) == (None, 1, 0)
    await fail(breaker, 2)
    assert breaker.statistics().until == 60
    assert repr(breaker) == "<CircuitBreaker open, 2 of 2 failures, opened 1 times>"
    assert repr(CircuitBreaker(None)) == "<CircuitBreaker closed, 0 failures, opened 0 times>"
    with pytest.raises(AttributeError):
        statistics.failures = 0


def test_it_can_be_printed_anywhere() -> None:
    """Where its own clock runs it says what it is now, elsewhere what it was when somebody last looked."""
    breaker = CircuitBreaker(1, 5.0)

    async def open_it_twice() -> None:
        await fail(breaker)
        assert repr(breaker) == "<CircuitBreaker open, 1 of 1 failures, opened 1 times>"
        await trio.sleep(5)
        assert repr(breaker) == "<CircuitBreaker half-open, 1 of 1 failures, opened 1 times>"
        await fail(breaker)
        await trio.sleep(4)

    async def elsewhere() -> None:
        await trio.sleep(80_000)
        assert repr(breaker) == "<CircuitBreaker open, 2 of 1 failures, opened 2 times>"

    trio.run(open_it_twice, clock=MockClock(autojump_threshold=0))
    assert repr(breaker) == "<CircuitBreaker open, 2 of 1 failures, opened 2 times>"
    trio.run(elsewhere, clock=MockClock(autojump_threshold=0))


async def test_a_block_is_left_by_the_task_that_entered_it() -> None:
    breaker = CircuitBreaker()
    with pytest.raises(RuntimeError, match="task that entered"):
        await breaker.__aexit__(None, None, None)
    async with breaker, breaker:  # but a task may be inside more than once
        assert breaker.statistics().inside == 2
    assert breaker.statistics().inside == 0


def test_another_run_is_refused_clearly() -> None:
    breaker = CircuitBreaker(1, 1000.0)
    trio.run(fail, breaker)

    async def again() -> None:
        with pytest.raises(UsageError, match=r"another trio\.run"):
            async with breaker:
                pass
        with pytest.raises(UsageError, match=r"another trio\.run"):
            await breaker.wait_state("closed")
        for use in (breaker.half_open, breaker.reset, breaker.statistics, breaker.record_success):
            with pytest.raises(UsageError, match=r"another trio\.run"):
                use()
        with pytest.raises(UsageError, match=r"another trio\.run"):
            breaker.record_failure(Down())

    trio.run(again)


def test_outcomes_told_without_a_block_bind_it_to_the_run_too() -> None:
    breaker = CircuitBreaker(1, 5.0)

    async def open_it() -> None:
        breaker.record_failure(Down())

    async def again() -> None:
        with pytest.raises(UsageError, match=r"another trio\.run"):
            await breaker.wait_state("half-open")

    trio.run(open_it)
    trio.run(again)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"max_failures": 0}, "max_failures"),
        ({"max_failures": True}, "max_failures"),
        ({"max_failures": 1.5}, "max_failures"),
        ({"cooldown": -1}, "cooldown"),
        ({"cooldown": math.inf}, "cooldown"),
        ({"cooldown": "60"}, "cooldown"),
        ({"ignore": "KeyError"}, "ignore"),
        ({"ignore": (KeyError, 1)}, "ignore"),
    ],
)
def test_impossible_arguments_are_refused_by_name(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name} must be "):
        CircuitBreaker(**arguments)


@pytest.mark.parametrize("states", [(), ("shut",)])
async def test_impossible_states_are_refused(states: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="closed, open, half-open"):
        await CircuitBreaker().wait_state(*states)
