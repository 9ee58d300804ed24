"""Mutants are what they say, and what is written about survivors is of mutants that exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    known = mutants.explanations()
    assert mutants.gone(known) == []
    other = ("_breaker", "", "no such line", "another")
    assert mutants.gone({**known, other: ""}) == [other]


@pytest.mark.long
def test_what_is_explained_is_still_made() -> None:
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


DRIVER = """
import sys
from pathlib import Path
from shutil import copytree

sys.path.append(sys.argv[1])
import mutants

where, *files = map(Path, sys.argv[2:])
copytree(mutants.ROOT / "kufeed", where / "kufeed")
mutants.preload()
for file in files:
    time_out = 1.0 if "sleep" in file.read_text() else mutants.TIME_OUT
    try:
        mutants.check([mutants.Unchanged("_limiter", [str(file)])], [where], time_out)
        print("passes")
    except mutants.CannotRun as error:
        print(str(error).splitlines()[0])
"""
"""Runs in a process of its own, where nobody has imported kufeed yet."""


def test_tests_that_do_not_pass_without_a_mutant_kill_none(tmp_path: Path) -> None:
    tests = {
        "def test_it():\n    pass\n": "passes",
        "def test_it():\n    assert False\n": "fail:",
        "def test_it(no_such_fixture):\n    pass\n": "fail:",
        "import no_such_module\n": "cannot run:",
        "": "cannot run:",
        "import time\ndef test_it():\n    time.sleep(60)\n": "do not end in 1 s:",
    }
    files = [tmp_path / f"test_{number}.py" for number in range(len(tests))]
    for file, source in zip(files, tests, strict=True):
        file.write_text(source, encoding="utf-8")
    said = _run(DRIVER, str(tmp_path / "copy"), *map(str, files))
    for line, file, what in zip(said, files, tests.values(), strict=True):
        assert line == (what if what == "passes" else f"without any mutant, the tests in {file} {what}")


UNIMPORTABLE = """
import sys

sys.path.append(sys.argv[1])
import libcst
import mutants

tree = libcst.parse_module("import math")
changed = libcst.parse_statement("import no_such_module")
broken = mutants.Mutant("protocol.clock", 1, "", 1, tree, tree.body[0], changed)
for _, verdict, _ in mutants.run([broken], 1):
    print(verdict)
"""


def test_a_mutant_that_cannot_be_imported_is_killed_by_no_test() -> None:
    assert _run(UNIMPORTABLE) == ["not run"]


def _run(program: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-c", program, str(Path(mutants.__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
