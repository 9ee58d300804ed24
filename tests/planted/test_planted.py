"""The planted defects are up to date with the code, and what is planted is noticed: see README.md."""

from __future__ import annotations

import ast
import os
import random
import re
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


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (DIFF.format("import math  # nothing is wrong"), "the test passes"),
        (DIFF.format("import no_such_module"), "not collected: .*no_such_module"),
        (DIFF.format("x").replace("import math", "import maths"), "01-x.patch does not apply to the code as it is"),
    ],
    ids=["nothing is wrong", "an import fails", "the code has moved on"],
)
def test_what_is_no_catch(tmp_path: Path, patch: str, said: str) -> None:
    path = tmp_path / "01-x.patch"
    path.write_text(HEAD + patch, encoding="utf-8")
    outcome = run.try_one(Defect.read(path))
    assert not outcome.caught
    assert re.match(said, outcome.said), outcome.said


def test_a_patch_says_what_it_is_about(tmp_path: Path) -> None:
    path = tmp_path / "01-x.patch"
    path.write_text(DIFF, encoding="utf-8")
    with pytest.raises(NotAPatch, match=r"01-x\.patch does not begin with the lines Wrong, Promise"):
        Defect.read(path)


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(NotAPatch, match="there is no patch no-such"):
        run.defects(["no-such", "no-jitter"])
