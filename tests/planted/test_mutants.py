"""Mutants are what they say, and what is written about survivors is of mutants that exist."""

from __future__ import annotations

import pytest

pytest.importorskip("mutmut", reason="mutants need the extra `mutation`")

from . import mutants


def test_a_mutant_says_where_it_is_and_what_it_changes() -> None:
    there = [one for one in mutants.mutants_of("_limiter") if one.function == "SlidingWindowLimiter._window_at"]
    mutant = next(one for one in there if "missing < 0" in one.change[1])
    assert mutant.change == ("if missing <= 0:", "if missing < 0:")
    code = (mutants.ROOT / mutants.file_of("_limiter")).read_text(encoding="utf-8")
    assert mutant.source.splitlines()[mutant.line - 1].strip() == "if missing < 0:"
    assert len(mutant.source) == len(code) - 1


def test_decorated_functions_and_what_stands_outside_functions_are_mutated_and_types_are_not() -> None:
    made = mutants.mutants_of("_breaker")
    assert {"CircuitBreaker.state", "CircuitState", ""} <= {one.function for one in made}
    changed = [one.change for one in made if one.function == "CircuitBreaker.state"]
    assert ("self._change(CircuitState.HALF_OPEN)", "self._change(None)") in changed
    assert len(changed) == len(set(changed)) == 4
    first = min(made, key=lambda one: one.line)
    assert first.change[0] == "_COUNTS_NOTHING = -1", "and no import or type before it"


def test_each_module_has_tests() -> None:
    for module in mutants.modules():
        assert all((mutants.ROOT / file).exists() for file in mutants.tests_of(module)), module


def test_what_is_explained_is_there() -> None:
    assert mutants.outdated(mutants.explanations()) == []
    assert set(mutants.settled()) <= set(mutants.modules())
    assert mutants.settled(), "CI draws of these"


def test_the_same_seed_draws_the_same() -> None:
    first, second = ([str(one) for one in mutants.sample(["_breaker", "_limiter"], 3, "seed")] for _ in range(2))
    assert first == second
    assert len(first) == 3


def test_of_no_module_nothing_can_be_drawn() -> None:
    with pytest.raises(mutants.CannotRun, match=r"no module to draw mutants of: survivors\.toml calls none settled"):
        mutants.sample([], 3, "seed")
