"""Planted defects: what a test suite is worth is what it notices. `python tests/planted/run.py [name...]`

Each `*.patch` beside this file makes kufeed wrong in one way, and its head names the test that catches that. Here each
is planted in a copy of `kufeed/`, and its test is run there and expected to fail. Exit code 1 where one is not caught.

`--table` writes the table of README.md anew instead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
README = HERE / "README.md"
TIME_OUT = 60.0
"""Seconds for one test with all its parameters, on a machine that does other things besides. Longer is no catch."""

_HEAD = re.compile(
    r"Wrong: (.+)\nPromise: (.+)\nCaught by: (\S+::\w+)(?: \[(\w+)\])?\nMatters: (.+)\n\n(?=--- a/kufeed/)"
)
_TABLE_BEGINS = "<!-- written by run.py --table -->\n"


class NotAPatch(Exception):
    """A patch whose head is not as it should be, or that does not apply to the code as it is."""


@attrs.frozen
class Defect:
    """One planted defect, as its patch describes it."""

    path: Path
    wrong: str
    """What the patched code does."""
    promise: str
    """Of docs/design.rst: which one it breaks, by number."""
    test: str
    """The node id of the test that catches it."""
    error: str | None
    """By which error, where that is neither an assertion nor a time-out of the test."""
    matters: str
    """What it would do to somebody."""

    @property
    def name(self) -> str:
        return self.path.stem

    @classmethod
    def read(cls, path: Path) -> Defect:
        found = _HEAD.match(path.read_text(encoding="utf-8"))
        if found is None:
            raise NotAPatch(f"{path.name} does not begin with the lines Wrong, Promise, Caught by, Matters, and a diff")
        return cls(path, *found.groups())

    def check(self) -> None:
        """Raise `NotAPatch` where the code has moved on."""
        self._apply(ROOT, "--check")

    def plant(self, where: Path) -> None:
        """Copy `kufeed/` to *where*, and make it wrong. Raises `NotAPatch` as `check()` does."""
        shutil.copytree(ROOT / "kufeed", where / "kufeed")
        self._apply(where)
        for changed in re.findall(r"^\+\+\+ b/(\S+)$", self.path.read_text(encoding="utf-8"), re.MULTILINE):
            file = where / changed
            # What was compiled within the same second would look up to date.
            for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
                compiled.unlink()

    def _apply(self, where: Path, *options: str) -> None:
        # Git must not take *where* for a part of a repository around it: it would look for other paths.
        alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(where.parent)}
        command = ["git", "apply", "--whitespace=nowarn", *options, str(self.path)]
        applied = subprocess.run(command, cwd=where, env=alone, capture_output=True, text=True, check=False)
        if applied.returncode:
            raise NotAPatch(f"{self.path.name} does not apply to the code as it is: {applied.stderr.strip()}")


@attrs.frozen
class Outcome:
    """What came of one defect."""

    defect: Defect
    caught: bool
    said: str
    """How the test failed, or why that is no catch."""
    seconds: float


def defects(names: Iterable[str] = ()) -> list[Defect]:
    """All planted defects in order, or those of these names, with or without their number."""
    every = [Defect.read(path) for path in sorted(HERE.glob("*.patch"))]
    chosen = {name: [one for one in every if name in (one.name, one.name.partition("-")[2])] for name in names}
    if unknown := [name for name, found in chosen.items() if not found]:
        raise NotAPatch(f"there is no patch {', '.join(unknown)}")
    return [one for found in chosen.values() for one in found] or every


def try_one(defect: Defect) -> Outcome:
    """Plant *defect* and run its test."""
    began = time.monotonic()
    with TemporaryDirectory(prefix="planted-") as name:
        where = Path(name).resolve()
        try:
            defect.plant(where)
            caught, said = _run(defect, where)
        except NotAPatch as error:
            caught, said = False, str(error)
    return Outcome(defect, caught, said, time.monotonic() - began)


def _run(defect: Defect, where: Path) -> tuple[bool, str]:
    verdict = where / "verdict.json"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(where), str(HERE)]),
        "PYTHONSAFEPATH": "1",  # else the directory that it runs in comes first, with the good kufeed in it
        "PLANTED_VERDICT": str(verdict),
        "PLANTED_ERROR": defect.error or "",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(where / "hypothesis"),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-p", "verdict", "-p", "no:cacheprovider"]
    try:
        ended = subprocess.run(
            [*command, defect.test],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIME_OUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"the test neither failed nor passed within {TIME_OUT:g} s"
    if not verdict.exists():
        why = (ended.stderr or ended.stdout).strip().splitlines()
        return False, f"pytest did not come to its end: {why[-1] if why else ended.returncode}"
    seen = json.loads(verdict.read_text(encoding="utf-8"))
    if seen["uncollected"]:
        return False, f"not collected: {seen['uncollected'][0].strip().splitlines()[-1]}"
    if seen["kufeed"] is None or not Path(seen["kufeed"]).is_relative_to(where):
        return False, f"the test has run with {seen['kufeed']}, which is not the copy"
    if seen["crashed"]:
        return False, f"not what a test catches by: {seen['crashed'][0]}"
    return (True, seen["caught"][0]) if seen["caught"] else (False, "the test passes")


def try_all(chosen: Sequence[Defect]) -> list[Outcome]:
    """Try *chosen*, as many at once as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(try_one, chosen))


def table() -> str:
    """The table of README.md."""
    rows = ["| patch | what is wrong | promise | caught by | why it matters |", "| --- | --- | --- | --- | --- |"]
    for one in defects():
        file, _, test = one.test.rpartition("::")
        caught_by = f"`{file}`<br>`{test}`" + (f", by `{one.error}`" if one.error else "")
        rows.append(f"| [{one.name}]({one.path.name}) | {one.wrong} | {one.promise} | {caught_by} | {one.matters} |")
    return "\n".join(rows) + "\n"


def readme() -> str:
    """README.md as it should be."""
    return README.read_text(encoding="utf-8").partition(_TABLE_BEGINS)[0] + _TABLE_BEGINS + "\n" + table()


def main(arguments: Sequence[str]) -> int:
    if arguments == ["--table"]:
        README.write_text(readme(), encoding="utf-8")
        return 0
    began = time.monotonic()
    chosen = defects(arguments)
    outcomes = try_all(chosen)
    width = max(len(one.defect.name) for one in outcomes)
    for one in outcomes:
        mark = "caught    " if one.caught else "NOT CAUGHT"
        print(f"{one.defect.name:{width}}  {mark} {one.seconds:5.1f} s  {one.said[:100]}")
        if not one.caught:
            print(f"{'':{width}}  {one.defect.test}")
    score = sum(one.caught for one in outcomes)
    print(f"{score} of {len(outcomes)} caught, {time.monotonic() - began:.0f} s")
    return 0 if score == len(outcomes) else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except NotAPatch as error:
        sys.exit(str(error))
