"""A plugin of pytest, loaded where a planted defect is run: says how the tests ended, and of which kufeed they were.

A test catches by what it asserts, by `pytest.fail()` and `pytest.raises()`, or by a time-out of its own, and while it
is called: not where its fixtures are made. Any other error may come of a patch that does not do what it says, and shows
nothing about the test; so may one from within kufeed. `PLANTED_ERROR` names one more that is a catch, if any.

Writes JSON to the file that `PLANTED_VERDICT` names. It imports nothing of kufeed before the tests do.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

_CATCHES = {"AssertionError", "Failed", "TooSlowError"}
_NAMED = os.environ.get("PLANTED_ERROR")

caught: list[str] = []
crashed: list[str] = []
uncollected: list[str] = []


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.excinfo is None or call.excinfo.typename == "Skipped":
        return
    leaves = list(_leaves(call.excinfo.value))
    meant = call.when == "call" and all(map(_is_a_catch, leaves))
    (caught if meant else crashed).append(f"{type(leaves[0]).__name__}: {leaves[0]}".splitlines()[0])


def _is_a_catch(error: BaseException) -> bool:
    name = type(error).__name__
    return name == _NAMED or (name in _CATCHES and not _is_of_kufeed(error))


def _is_of_kufeed(error: BaseException) -> bool:
    """Whether kufeed raised it, or what kufeed called; `kufeed.testing` is there to find faults."""
    import kufeed  # the tests have, by now

    package = Path(kufeed.__file__).parent
    of_tests = False
    for frame, _ in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(package):
            of_tests = file.is_relative_to(package / "testing")
        elif file.is_relative_to(Path.cwd() / "tests"):
            of_tests = True
    return not of_tests


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        uncollected.append(str(report.longrepr))


def pytest_sessionfinish() -> None:
    kufeed = sys.modules.get("kufeed")
    Path(os.environ["PLANTED_VERDICT"]).write_text(
        json.dumps(
            {
                "kufeed": None if kufeed is None else kufeed.__file__,
                "caught": caught,
                "crashed": crashed,
                "uncollected": uncollected,
            }
        ),
        encoding="utf-8",
    )


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error
