"""Mutants: small changes of the code, each of which a test of its module must notice. `mutants.py _limiter`

The changes are made by the operators of mutmut 3. Its runner is not used: it leaves out decorated functions, properties
among them, and what stands outside functions, and it cannot run for each module the tests of that module alone. Here
each change is made in a copy of `kufeed/`, and the tests of its module are run there. A test that fails kills it, or
one that does not end in time. One that survives would be missed by no test: write it, or say in survivors.toml why
there is none.

The tests are run once without a change first, and must pass: else all that follows would count as noticed. Where no
test can run with a change, as the module cannot be imported any more, that is counted apart: no test has noticed it.

`--list` prints them. `--sample 3 --seed N` is for CI: so many at random, of the modules that survivors.toml calls
settled, because all their mutants were run; and it looks that what is explained there is still there. Exit code 1 where
a mutant survives that is not explained.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import signal
import sys
import time
import tomllib
import traceback
from collections import Counter
from compileall import compile_dir
from functools import cached_property
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import libcst as cst
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.mutators import mutation_operators

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPLAINED = Path(__file__).with_name("survivors.toml")
TIME_OUT = 60.0
"""Seconds for the tests of one mutant, unless said otherwise. Where a virtual clock runs on for ever, a test waits for
what does not come any more: that is noticed too.
"""

_OTHER_TESTS = {
    "protocol.futures": ["tests/protocol/test_channels.py"],
    "protocol.market": [f"tests/protocol/test_{name}.py" for name in ("market", "topics", "channels")],
    "protocol.spot": ["tests/protocol/test_channels.py"],
}
"""Of modules without a test file of their name, or where others say more."""
_QUIETLY = [
    *("-q", "-x", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:benchmark", "-p", "no:kufeed"),
    *("-o", "addopts=--import-mode=importlib -m 'not long'", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
]
_KILLED, _SURVIVED, _TIMED_OUT, _NOT_RUN = "killed", "survived", "timed out", "not run"
_VERDICTS = {0: _SURVIVED, 1: _KILLED, 2: _NOT_RUN}
"""By the exit code of the process that runs the tests."""


class CannotRun(Exception):
    """The tests tell nothing about mutants, or there are none to run."""


@attrs.frozen(eq=False)
class Mutant:
    """One change of one module."""

    module: str
    number: int
    function: str
    """In which it is, as `Class.method`; empty at the module's top."""
    line: int
    _tree: cst.Module = attrs.field(repr=False)
    _node: cst.CSTNode = attrs.field(repr=False)
    _changed: cst.CSTNode = attrs.field(repr=False)

    @cached_property
    def source(self) -> str:
        """Of the whole module with the change in it. Costs tenths of a second."""
        changed = self._tree.deep_replace(self._node, self._changed)
        assert isinstance(changed, cst.Module)
        return changed.code

    @cached_property
    def change(self) -> tuple[str, str]:
        """The lines that are changed, and what they become, without their indentation."""
        before, after = self._tree.code.splitlines(), self.source.splitlines()
        start = next((at for at, (was, is_now) in enumerate(zip(before, after, strict=False)) if was != is_now), 0)
        end = 0
        while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
            end += 1
        was, becomes = before[start : len(before) - end], after[start : len(after) - end]
        return " ".join(map(str.strip, was)), " ".join(map(str.strip, becomes))

    @property
    def tests(self) -> list[str]:
        """The files of tests that must notice."""
        return tests_of(self.module)

    def __str__(self) -> str:
        was, becomes = self.change
        return f"{self.module}:{self.number} {self.function}, line {self.line}\n    - {was}\n    + {becomes}"


@attrs.frozen
class Unchanged:
    """A module as it is, with which its tests must pass."""

    module: str
    tests: list[str]

    @property
    def source(self) -> str:
        return _source(self.module)


_Run = TypeVar("_Run", Mutant, Unchanged)


def modules() -> list[str]:
    """Those that are mutated: what is pure, or has never heard of KuCoin."""
    files = sorted((ROOT / "kufeed" / "protocol").glob("[a-z]*.py"))
    return ["_breaker", "_limiter", *(f"protocol.{file.stem}" for file in files)]


def file_of(module: str) -> Path:
    return Path("kufeed", *module.split(".")).with_suffix(".py")


def _source(module: str) -> str:
    return (ROOT / file_of(module)).read_text(encoding="utf-8")


def tests_of(module: str) -> list[str]:
    *above, name = module.split(".")
    return _OTHER_TESTS.get(module) or [str(Path("tests", *above, f"test_{name.lstrip('_')}.py"))]


class _Finder(cst.CSTVisitor):
    """Collects changes: pairs of a node and what may stand in its place."""

    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider)

    def __init__(self) -> None:
        self.found: list[tuple[cst.CSTNode, cst.CSTNode]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if self._says_nothing(node):
            return False
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                self.found.extend((node, changed) for changed in operator(node))
        return True

    def _says_nothing(self, node: cst.CSTNode) -> bool:
        """Whether changes in there are none that a test should notice: types, the words of errors and logs."""
        match node:
            case cst.Annotation() | cst.Decorator() | cst.Import() | cst.ImportFrom() | cst.Assert():
                return True
            case cst.If(test=cst.Name(value="TYPE_CHECKING")):
                return True
            case cst.Call(func=cst.Attribute(value=cst.Name(value="_log"))):
                return True
            case cst.Call(func=cst.Name(value="len" | "isinstance" | "TypeVar")):
                return True
            case cst.BaseString():
                return self._is_of_an_error(node)
        return False

    def _is_of_an_error(self, node: cst.CSTNode) -> bool:
        while isinstance(node := self.get_metadata(ParentNodeProvider, node), cst.BaseExpression | cst.Arg):
            pass
        return isinstance(node, cst.Raise | cst.Expr)


def mutants_of(module: str) -> list[Mutant]:
    """All mutants of *module*, in the order of its lines."""
    wrapper = MetadataWrapper(cst.parse_module(_source(module)))
    finder = _Finder()
    wrapper.visit(finder)
    positions = wrapper.resolve(PositionProvider)
    functions = dict(_functions(wrapper.module, positions))
    made = []
    for number, (node, changed) in enumerate(finder.found, 1):
        line = positions[node].start.line
        made.append(Mutant(module, number, functions.get(line, ""), line, wrapper.module, node, changed))
    return made


def _functions(module: cst.Module, positions: Any) -> Iterator[tuple[int, str]]:
    """Each line that is in a function, with its name; of nested ones the innermost comes last."""

    def walk(node: cst.CSTNode, names: tuple[str, ...]) -> Iterator[tuple[int, str]]:
        for child in node.children:
            inside = names
            if isinstance(child, cst.FunctionDef | cst.ClassDef):
                inside = (*names, child.name.value)
                place = positions[child]
                yield from ((line, ".".join(inside)) for line in range(place.start.line, place.end.line + 1))
            yield from walk(child, inside)

    yield from walk(module, ())


def explanations() -> dict[tuple[str, str, str, str], str]:
    """Why nobody need notice the mutants that are listed, by module, function, and what was changed into what."""
    listed = tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))["survivor"]
    return {(one["module"], one["function"], one["was"], one["becomes"]): one["because"] for one in listed}


def settled() -> list[str]:
    """The modules of which all mutants were run, and each survivor is explained."""
    return list(tomllib.loads(EXPLAINED.read_text(encoding="utf-8"))["settled"])


def outdated(known: dict[tuple[str, str, str, str], str]) -> list[tuple[str, str, str, str]]:
    """Explanations of mutants that are not made any more: the code has changed."""
    left = set(known)
    for module in {module for module, *_ in known}:
        functions = {function for of, function, *_ in known if of == module}
        for mutant in mutants_of(module):
            if mutant.function in functions:
                left.discard((module, mutant.function, *mutant.change))
    return sorted(left)


def gone(known: dict[tuple[str, str, str, str], str]) -> list[tuple[str, str, str, str]]:
    """Explanations of lines that are not there any more, in a moment; `outdated()` is exact, and takes minutes."""
    sources = {module: " ".join(map(str.strip, _source(module).splitlines())) for module, *_ in known}
    return sorted(one for one in known if one[2] not in sources[one[0]])


def sample(chosen: Sequence[str], count: int, seed: str) -> list[Mutant]:
    """So many mutants of the modules *chosen*, of each module as often as it is large, roughly."""
    if not chosen:
        raise CannotRun(f"there is no module to draw mutants of: {EXPLAINED.name} calls none settled")
    rng = random.Random(seed)
    sizes = [(ROOT / file_of(module)).stat().st_size for module in chosen]
    drawn = Counter(rng.choices(chosen, sizes, k=count))
    return [mutant for module, times in drawn.items() for mutant in rng.sample(mutants_of(module), times)]


def explanation(mutant: Mutant, known: dict[tuple[str, str, str, str], str]) -> str | None:
    return known.get((mutant.module, mutant.function, *mutant.change))


# -- running ----------------------------------------------------------------------------------------------------------


def preload() -> None:
    """Import what every run needs and takes long, but nothing of kufeed: children are forked with it."""
    import hypothesis
    import pytest
    import pytest_trio
    import trio.testing
    import trio_websocket
    import ujson

    assert all((pytest, pytest_trio, trio.testing, trio_websocket, ujson))
    # A mutant is found by few examples or by chance, and nobody reads the smallest one that shows it.
    quick = hypothesis.settings(
        max_examples=30,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    hypothesis.settings.register_profile("mutants", quick)
    hypothesis.settings.load_profile("mutants")
    assert "kufeed" not in sys.modules
    gc.collect()
    gc.freeze()  # no child looks through all of this again


class _Seen:
    """A plugin of pytest: whether tests have failed, as its exit code does not tell that from files that are broken."""

    failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed


def _child(where: Path, tests: Sequence[str]) -> int:
    """In a process of its own. Returns a key of `_VERDICTS`, or 99 where the tests took the kufeed of elsewhere."""
    import pytest

    os.setsid()
    with (where / "output").open("wb") as output, Path(os.devnull).open("rb") as nothing:
        for stream, file in enumerate((nothing, output, output)):
            os.dup2(file.fileno(), stream)
    os.chdir(ROOT)
    sys.dont_write_bytecode = True
    sys.path[:] = [
        str(where),
        *(one for one in sys.path if Path(one or ".").resolve() not in (ROOT, Path(__file__).parent)),
    ]
    os.environ.update(PYTHONPATH=str(where), PYTHONSAFEPATH="1", HYPOTHESIS_STORAGE_DIRECTORY=str(where / "hypothesis"))
    seen = _Seen()
    try:
        code = pytest.main([*_QUIETLY, *tests], plugins=[seen])
    except Exception:  # noqa: BLE001  # pytest imports kufeed for its fixtures, and that has failed
        traceback.print_exc()
        return 2
    kufeed = sys.modules.get("kufeed")
    if kufeed is not None and not Path(str(kufeed.__file__)).is_relative_to(where):
        return 99
    if code == 0:
        return 0
    return 1 if seen.failed else 2


def run(chosen: Sequence[Mutant], jobs: int, time_out: float = TIME_OUT) -> Iterator[tuple[Mutant, str, float]]:
    """Run the tests of each; yields what became of it, and the seconds that took, as they end.

    Raises `CannotRun` where the tests do not pass without a mutant.
    """
    preload()
    with TemporaryDirectory(prefix="mutants-") as name:
        places = [Path(name).resolve() / str(number) for number in range(jobs)]
        for where in places:
            copytree(ROOT / "kufeed", where / "kufeed")
            compile_dir(where / "kufeed", quiet=1)  # once, and not in each run
        check(
            [Unchanged(module, tests_of(module)) for module in {one.module: None for one in chosen}], places, time_out
        )
        for mutant, verdict, seconds, _ in _each(chosen, places, time_out):
            yield mutant, verdict, seconds


def check(unchanged: Sequence[Unchanged], places: Sequence[Path], time_out: float = TIME_OUT) -> None:
    """Run the tests of the code as it is, each file with its like once. Raises `CannotRun` where they do not pass."""
    different = list({tuple(one.tests): one for one in unchanged}.values())
    for one, verdict, _, output in _each(different, places, time_out):
        if verdict != _SURVIVED:
            what = {_KILLED: "fail", _TIMED_OUT: f"do not end in {time_out:g} s", _NOT_RUN: "cannot run"}[verdict]
            raise CannotRun(f"without any mutant, the tests in {' '.join(one.tests)} {what}:\n{output}")


def _each(chosen: Sequence[_Run], places: Sequence[Path], time_out: float) -> Iterator[tuple[_Run, str, float, str]]:
    """Run the tests of each, as many at once as there are *places* with a copy of kufeed.

    Yields the verdict, the seconds that took, and the end of what pytest printed.
    """
    waiting, free = list(reversed(chosen)), list(places)
    running: dict[int, tuple[_Run, Path, float]] = {}
    try:
        while waiting or running:
            while waiting and free:
                one, where = waiting.pop(), free.pop()
                _write(where / file_of(one.module), one.source)
                running[_fork(where, one.tests)] = one, where, time.monotonic()
            for pid, (one, where, began) in list(running.items()):
                late = time.monotonic() > began + time_out
                if late:
                    os.killpg(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, 0 if late else os.WNOHANG)
                if ended:
                    del running[pid]
                    free.append(where)
                    _write(where / file_of(one.module), _source(one.module))
                    output = (where / "output").read_text(encoding="utf-8", errors="replace")[-2000:]
                    yield one, _TIMED_OUT if late else _verdict(status, output), time.monotonic() - began, output
            time.sleep(0.01)
    finally:
        for pid in running:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _write(file: Path, source: str) -> None:
    file.write_text(source, encoding="utf-8")
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()


def _fork(where: Path, tests: Sequence[str]) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 98
    try:
        code = _child(where, tests)
    except BaseException:  # noqa: ASYNC103, BLE001  # told, and nothing of it gets into the parent's code, which is here too
        traceback.print_exc()
    finally:
        os._exit(code)


def _verdict(status: int, output: str) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code not in _VERDICTS:
        raise CannotRun(f"the process that runs tests ended with {code}:\n{output}")
    return _VERDICTS[code]


# -- the command ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="as `_limiter` or `protocol.merge`; all where none is named")
    parser.add_argument("--list", action="store_true", help="only print them")
    parser.add_argument("--only", default="", help="those in functions with this in their name")
    parser.add_argument("--sample", type=int, help="so many of all, at random")
    parser.add_argument("--seed", default="", help="for --sample; printed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--time-out", type=float, default=TIME_OUT, help="seconds for the tests of one")
    given = parser.parse_args(arguments)
    if unknown := set(given.modules) - set(modules()):
        parser.error(f"no such module: {', '.join(unknown)}; there are {', '.join(modules())}")
    known = explanations()
    if given.sample:
        print(f"mutants.py --sample {given.sample} --seed {given.seed}", flush=True)
        for one in (old := gone(known)):
            print("survivors.toml explains what is not there any more:", *one)
        if old:
            return 1
        chosen = sample(given.modules or settled(), given.sample, given.seed)
    else:
        chosen = [mutant for module in given.modules or modules() for mutant in mutants_of(module)]
        chosen = [mutant for mutant in chosen if given.only in mutant.function]
    if given.list:
        for mutant in chosen:
            print(f"{mutant}{' (explained)' if explanation(mutant, known) else ''}")
        print(f"{len(chosen)} mutants")
        return 0
    counts: Counter[tuple[str, str]] = Counter()
    for mutant, verdict, seconds in run(chosen, given.jobs, given.time_out):
        why = explanation(mutant, known)
        if verdict == _SURVIVED and why:
            verdict = "explained"
        counts[mutant.module, verdict] += 1
        if verdict != _KILLED or given.sample:
            print(f"{verdict:9} {seconds:4.1f} s  {mutant}", flush=True)
    for module in dict.fromkeys(mutant.module for mutant in chosen):
        told = ", ".join(
            f"{counts[module, one]} {one}" for one in (_KILLED, _TIMED_OUT, _NOT_RUN, _SURVIVED, "explained")
        )
        print(f"{module}: {sum(count for (of, _), count in counts.items() if of == module)} mutants, {told}")
    return 1 if any(verdict == _SURVIVED for _, verdict in counts) else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except CannotRun as error:
        sys.exit(str(error))
