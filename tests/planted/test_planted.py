"""The planted defects are up to date with the code, and what is planted is noticed: see README.md."""

from __future__ import annotations

import ast
import json
import os
import random
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from . import run
from .run import Defect, NotAPatch

DEFECTS = run.defects()


@pytest.mark.parametrize("defect", DEFECTS, ids=[one.name for one in DEFECTS])
def test_each_patch_applies_and_its_test_exists(defect: Defect) -> None:
    defect.check()
    file, _, name = defect.test.rpartition("::")
    tree = ast.parse((run.ROOT / file).read_text(encoding="utf-8"))
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions
    assert defect.promise[:1] in set("12345678")


def test_the_table_is_that_of_the_patches() -> None:
    assert run.README.read_text(encoding="utf-8") == run.readme(), "write it anew: python tests/planted/run.py --table"


def test_three_of_them_are_caught(capsys: pytest.CaptureFixture[str]) -> None:
    """Others every day; all of them with `python tests/planted/run.py`."""
    seed = os.environ.get("PLANTED_SEED", datetime.now(UTC).date().isoformat())
    chosen = random.Random(seed).sample(DEFECTS, 3)
    with capsys.disabled():
        print(f"\nplanted with PLANTED_SEED={seed}: {', '.join(one.name for one in chosen)}")
    missed = [f"{one.defect.name}: {one.said}" for one in run.try_all(chosen) if not one.caught]
    assert not missed, f"with PLANTED_SEED={seed}"


HEAD = """Wrong: nothing
Promise: 1
Caught by: tests/test_backoff.py::test_no_failure_has_no_step
Matters: to nobody

"""
DIFF = """--- a/kufeed/_backoff.py
+++ b/kufeed/_backoff.py
@@ -5,2 +5,2 @@
-import math
+{}
 from typing import TYPE_CHECKING, Any, Literal
"""
RAISES = """--- a/kufeed/_backoff.py
+++ b/kufeed/_backoff.py
@@ -56,3 +56,3 @@
         if failures < 1:
-            raise UsageError(f"failures must be at least 1, not {{failures!r}}")
+            raise {}
         try:
"""


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (DIFF.format("import math  # nothing is wrong"), "the test passes"),
        (DIFF.format("import no_such_module"), "(not collected|pytest did not come to its end): .*no_such_module"),
        (RAISES.format('KeyError("no step")'), "not what a test catches by: KeyError: 'no step'"),
        (RAISES.format('AssertionError("of kufeed")'), "not what a test catches by: AssertionError: of kufeed"),
        (DIFF.format("x").replace("import math", "import maths"), "01-x.patch does not apply to the code as it is"),
    ],
    ids=["nothing is wrong", "an import fails", "it crashes", "its own assertion fails", "the code has moved on"],
)
def test_what_is_no_catch(tmp_path: Path, patch: str, said: str) -> None:
    path = tmp_path / "01-x.patch"
    path.write_text(HEAD + patch, encoding="utf-8")
    outcome = run.try_one(Defect.read(path))
    assert not outcome.caught
    assert re.match(said, outcome.said), outcome.said


@pytest.mark.parametrize(("named", "caught"), [(" [KeyError]", True), (" [ValueError]", False), ("", False)])
def test_an_error_is_a_catch_where_the_patch_names_it(tmp_path: Path, named: str, caught: bool) -> None:
    path = tmp_path / "01-x.patch"
    path.write_text(HEAD.replace("_step\n", f"_step{named}\n") + RAISES.format('KeyError("no step")'), encoding="utf-8")
    outcome = run.try_one(Defect.read(path))
    assert (outcome.caught, outcome.said.endswith("KeyError: 'no step'")) == (caught, True)


@pytest.mark.parametrize(("where", "counted"), [("setup", "crashed"), ("call", "caught")])
def test_an_assertion_while_fixtures_are_made_is_no_catch(tmp_path: Path, where: str, counted: str) -> None:
    source = f"""
import pytest

@pytest.fixture
def made():
    assert {where != "setup"}

def test_it(made):
    pytest.fail("as it should")
"""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(source, encoding="utf-8")
    verdict = tmp_path / "verdict.json"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(run.ROOT), str(run.HERE)]),
        "PLANTED_VERDICT": str(verdict),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "verdict", "-p", "no:cacheprovider", "tests/test_it.py"]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=60)
    seen = json.loads(verdict.read_text(encoding="utf-8"))
    assert {name: len(seen[name]) for name in ("caught", "crashed")} == {"caught": 0, "crashed": 0, counted: 1}


def test_a_patch_says_what_it_is_about(tmp_path: Path) -> None:
    path = tmp_path / "01-x.patch"
    path.write_text(DIFF, encoding="utf-8")
    with pytest.raises(NotAPatch, match=r"01-x\.patch does not begin with the lines Wrong, Promise"):
        Defect.read(path)


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(NotAPatch, match="there is no patch no-such"):
        run.defects(["no-such", "no-jitter"])
