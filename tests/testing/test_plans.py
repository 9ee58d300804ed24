"""Fault plans: values that are printed, stored, drawn and played again."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import pytest
import trio
from hypothesis import find, given
from hypothesis import strategies as st
from trio.testing import MockClock

from kufeed.testing import Exchange, FaultPlan, MemoryNetwork, faults, strategies
from kufeed.testing.hazards import SEVERITIES, Fault, LastingFault, Severity
from kufeed.testing.plans import kinds_of

ANY_PLAN = st.builds(FaultPlan.random, st.integers(0, 2**64), st.sampled_from(SEVERITIES))


@given(ANY_PLAN)
def test_the_repr_of_a_plan_makes_it_again(plan: FaultPlan) -> None:
    assert eval(repr(plan), {"FaultPlan": FaultPlan, "faults": faults}) == plan  # noqa: S307  # our own text
    assert FaultPlan.from_json(plan.to_json()) == plan
    assert hash(FaultPlan(*plan)) == hash(plan)


@pytest.mark.parametrize("kind", faults.KINDS)
def test_every_kind_makes_the_round_trip_as_by_default_and_without_end(kind: type[Fault]) -> None:
    plan = FaultPlan(kind())
    assert repr(plan) == f"FaultPlan(faults.{kind.__name__}())"
    assert FaultPlan.from_json(plan.to_json()) == plan
    if issubclass(kind, LastingFault):
        endless = FaultPlan(kind(lasting=math.inf))
        assert eval(repr(endless), {"FaultPlan": FaultPlan, "faults": faults}) == endless  # noqa: S307
        assert FaultPlan.from_json(endless.to_json()) == endless


def test_a_plan_is_a_value_in_the_order_of_its_faults() -> None:
    late, early = faults.Refuse(at=5.0), faults.Cut(at=1.0, how="reset")
    plan = FaultPlan(late, early)
    assert tuple(plan) == (early, late)
    assert plan == FaultPlan(early, late)
    assert plan != FaultPlan(early)
    assert plan != (early, late)
    assert (len(plan), plan.until) == (2, 7.0)
    assert FaultPlan().until == 0.0
    assert repr(plan) == "FaultPlan(faults.Cut(at=1.0, how='reset'), faults.Refuse(at=5.0))"
    assert plan.to_json() == '[{"fault": "Cut", "at": 1.0, "how": "reset"}, {"fault": "Refuse", "at": 5.0}]'
    with pytest.raises(AttributeError, match="cannot be changed"):
        plan.faults = ()
    with pytest.raises(TypeError, match="not of 'Cut'"):
        FaultPlan("Cut")  # type: ignore[arg-type]


def test_a_text_that_reads_inf_stays_a_text_in_json() -> None:
    plan = FaultPlan(faults.MuteTopics(symbol="inf", lasting=math.inf), faults.RefuseTokens(retry_after="inf"))
    assert FaultPlan.from_json(plan.to_json()) == plan


def test_a_plan_can_be_copied_and_pickled() -> None:
    plan = FaultPlan(faults.Cut(at=1.0), faults.SpoilBooks(error=("429000", "Too Many Requests")))
    for same in (copy.copy(plan), copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):  # noqa: S301  # our own
        assert same == plan


@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_seed_gives_a_plan_of_that_severity_within_its_time(severity: Severity) -> None:
    seen = set()
    for seed in range(300):
        plan = FaultPlan.random(seed, severity, duration=3.0, most=4)
        assert plan == FaultPlan.random(seed, severity, duration=3.0, most=4)
        assert 1 <= len(plan) <= 4
        assert plan.until <= 3.0
        seen.update(type(fault) for fault in plan)
    assert seen == set(kinds_of(severity))


@pytest.mark.parametrize("duration", [0.001, 0.0014, 0.01, 0.7, 3.33333, 20, 500.0])
def test_a_plan_is_over_within_its_duration_and_uses_all_of_it(duration: float) -> None:
    given = [FaultPlan.random(seed, duration=duration) for seed in range(300)]
    assert max(plan.until for plan in given) <= duration + 1e-9
    assert max(fault.at for plan in given for fault in plan) > 0.8 * duration - 0.001
    assert all(fault.lasting > 0 for plan in given for fault in plan if isinstance(fault, LastingFault))


def test_the_order_of_kinds_does_not_matter_to_a_seed() -> None:
    kinds = [faults.Cut, faults.Close, faults.Burst]
    plan = FaultPlan.random(3, kinds=kinds)
    assert plan == FaultPlan.random(3, kinds=iter(kinds[::-1])) == FaultPlan.random(3, kinds=set(kinds))


@pytest.mark.parametrize("draw", [lambda **given: FaultPlan.random(3, **given), strategies.plans])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"duration": -1}, "duration must be a number of seconds from 0.001 to 1000000000000, not -1"),
        ({"duration": 0.0}, "duration must be"),
        ({"duration": math.inf}, "duration must be"),
        ({"duration": math.nan}, "duration must be"),
        ({"duration": True}, "duration must be"),
        ({"most": -1}, "most must be a whole number, [01] or more, not -1"),
        ({"most": 2.5}, "most must be"),
        ({"kinds": []}, "kinds must name at least one fault"),
    ],
    ids=repr,
)
def test_what_no_plan_can_be_drawn_of_is_told(draw: Callable[..., object], given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        draw(**given)


def test_a_plan_that_is_drawn_has_one_fault_at_least() -> None:
    with pytest.raises(ValueError, match="most must be a whole number, 1 or more, not 0"):
        FaultPlan.random(3, most=0)


def test_a_seed_gives_the_same_plan_in_every_process() -> None:
    code = "from kufeed.testing import FaultPlan; print([FaultPlan.random(seed) for seed in range(20)])"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        check=True,
        timeout=60,
        text=True,
    ).stdout
    assert shown == f"{[FaultPlan.random(seed) for seed in range(20)]}\n"


def test_severities_hold_what_is_milder() -> None:
    mild, rough, brutal = (set(kinds_of(severity)) for severity in SEVERITIES)
    assert mild < rough < brutal == set(faults.KINDS)
    with pytest.raises(ValueError, match="severity must be one of mild, rough, brutal, not 'cruel'"):
        kinds_of("cruel")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", "this is not JSON"),
        ("{}", "a plan is a list of faults, not {}"),
        ("[7]", 'fault 0 must be an object with the name of a "fault", not 7'),
        ('[{"at": 1}]', 'fault 0 must be an object with the name of a "fault"'),
        ('[{"fault": "Cut"}, {"fault": "Boom"}]', "fault 1: there is no fault 'Boom'; there are Refuse, Hang"),
        ('[{"fault": "Cut", "when": 1}]', "fault 0: Cut has no 'when'; it has after, at, how"),
        ('[{"fault": "Cut", "how": "slowly"}]', "fault 0: Cut: how must be one of 'fin', 'reset', not 'slowly'"),
        ('[{"fault": "Cut", "at": -1}]', "fault 0: Cut: at must be a number, 0 or more, not -1"),
        ('[{"fault": "Cut", "after": 1.5}]', "fault 0: Cut: after must be a whole number, 0 or more, not 1.5"),
        ('[{"fault": "Cut", "at": "soon"}]', "fault 0: Cut: at must be a number, 0 or more, not 'soon'"),
        ('[{"fault": "Cut", "at": true}]', "fault 0: Cut: at must be a number, 0 or more, not True"),
        ('[{"fault": "Drip", "size": 0}]', "fault 0: Drip: size must be a whole number, 1 or more, not 0"),
        ('[{"fault": "Burst", "trades": 1e5}]', "fault 0: Burst: trades must be a whole number from 0 to 10000, not"),
        (
            '[{"fault": "Burst", "trades": 10001}]',
            "fault 0: Burst: trades must be a whole number from 0 to 10000, not 10001",
        ),
    ],
)
def test_what_is_wrong_with_json_is_told_with_its_place(text: str, told: str) -> None:
    with pytest.raises(ValueError) as failure:  # what it says is compared below
        FaultPlan.from_json(text)
    assert str(failure.value).startswith(told)


HISTORY: list[tuple[float, str]] = []


def note(what: str) -> None:
    HISTORY.append((trio.current_time(), what))


@attrs.frozen(kw_only=True, repr=False)
class Once(Fault):
    severity: ClassVar[Severity] = "mild"

    def strike(self, exchange: Exchange) -> None:
        note("once")


@attrs.frozen(kw_only=True, repr=False)
class Lasting(LastingFault):
    severity: ClassVar[Severity] = "mild"
    name: str = "it"

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        note(f"{self.name} begins")
        return lambda: note(f"{self.name} ends")


@pytest.fixture(autouse=True)
def no_history() -> None:
    HISTORY.clear()


@attrs.frozen(kw_only=True)
class Needy(Once):
    name: str


class Harmless(Once):
    severity = "harmless"  # type: ignore[assignment]


def test_kinds_of_ones_own_are_printed_stored_and_drawn_by_their_names() -> None:
    plan = FaultPlan(Lasting(at=2.0, lasting=math.inf, name="that"), Once(at=1.0), Needy(name="x"), faults.Cut())
    names = {"FaultPlan": FaultPlan, "faults": faults, "Lasting": Lasting, "Once": Once, "Needy": Needy}
    assert eval(repr(plan), names) == plan  # noqa: S307  # our own text
    assert FaultPlan.from_json(plan.to_json(), kinds=[Lasting, Once, Needy]) == plan
    with pytest.raises(ValueError, match="there is no fault 'Needy'; there are"):
        FaultPlan.from_json(plan.to_json())
    kinds = [Once, faults.Cut, Lasting]
    drawn = [FaultPlan.random(seed, kinds=kinds) for seed in range(50)]
    assert {type(fault) for plan in drawn for fault in plan} == set(kinds)
    assert drawn == [FaultPlan.random(seed, kinds=kinds[::-1]) for seed in range(50)]
    assert {fault.name for plan in drawn for fault in plan if isinstance(fault, Lasting)} == {"it"}
    found = find(strategies.plans(kinds=kinds), lambda plan: any(isinstance(fault, Lasting) for fault in plan))
    assert found == FaultPlan(Lasting())


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Fault, "Fault is no kind of fault: it has no strike()"),
        (LastingFault, "LastingFault is no kind of fault: it has no strike()"),
        ("Cut", "kinds are classes of faults, not 'Cut'"),
        (int, "kinds are classes of faults, not <class 'int'>"),
        (Needy, "Needy cannot be drawn: its name has no default"),
        (Harmless, "Harmless cannot be drawn: its severity is none of mild, rough, brutal"),
    ],
)
def test_what_is_no_kind_of_fault_is_told(kind: Any, told: str) -> None:
    for draw in (lambda: FaultPlan.random(3, kinds=[kind]), lambda: strategies.plans(kinds=[kind])):
        with pytest.raises(TypeError) as failure:
            draw()
        assert str(failure.value) == told


@pytest.mark.parametrize("kind", [Fault, LastingFault])
def test_a_fault_that_does_nothing_is_no_part_of_a_plan(kind: type[Fault]) -> None:
    with pytest.raises(TypeError, match="is no kind of fault: it has no strike"):
        FaultPlan(kind())


async def test_faults_strike_and_end_in_their_time_counted_from_the_play(autojump_clock: MockClock) -> None:
    plan = FaultPlan(Lasting(at=1.0, lasting=10.0, name="a"), Lasting(at=5.0, lasting=2.0, name="b"), Once(at=6.0))
    async with MemoryNetwork(Exchange()) as network:
        await trio.sleep(100)
        await plan.play(network.exchange)
    assert trio.current_time() == 111.0
    assert HISTORY == [
        (101.0, "a begins"),
        (105.0, "b begins"),
        (106.0, "once"),
        (107.0, "b ends"),
        (111.0, "a ends"),
    ]


async def test_faults_of_one_moment_strike_as_they_are_given_after_what_ends_then(autojump_clock: MockClock) -> None:
    names = [f"{number}" for number in range(20)]
    plan = FaultPlan(
        *(Lasting(at=2.0, lasting=0.0, name=name) for name in names), Lasting(at=1.0, lasting=1.0, name="it")
    )
    async with MemoryNetwork(Exchange()) as network:
        await plan.play(network.exchange)
    told = ["it begins", "it ends", *(f"{name} {what}" for name in names for what in ("begins", "ends"))]
    assert [what for _, what in HISTORY] == told


async def test_cancelled_what_goes_on_ends_and_what_was_to_come_does_not(autojump_clock: MockClock) -> None:
    plan = FaultPlan(Lasting(at=1.0, lasting=math.inf), Once(at=6.0))
    async with MemoryNetwork(Exchange()) as network:
        with trio.move_on_after(3):
            await plan.play(network.exchange)
    assert HISTORY == [(1.0, "it begins"), (3.0, "it ends")]


async def test_a_plan_can_be_played_many_times_at_once(autojump_clock: MockClock) -> None:
    plan = FaultPlan(Once(at=1.0))
    async with MemoryNetwork(Exchange()) as network, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(plan.play, network.exchange)
    assert HISTORY == [(1.0, "once")] * 3


def test_all_kinds_are_public() -> None:
    others = {"KINDS", "Fault", "LastingFault", "Severity"}
    assert {kind.__name__ for kind in faults.KINDS} | others == set(faults.__all__)
