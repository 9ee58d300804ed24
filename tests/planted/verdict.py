"""A plugin of pytest, loaded where a planted defect is run: says how the tests ended, and of which kufeed they were.

Writes JSON to the file that `PLANTED_VERDICT` names. It imports nothing of kufeed before the tests do.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

_CRASHES = (ImportError, NameError, SyntaxError, AttributeError, TypeError)
"""What a patch raises that does not do what it says: that shows nothing about the test."""

caught: list[str] = []
crashed: list[str] = []
uncollected: list[str] = []


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.excinfo is None or call.excinfo.typename == "Skipped":
        return
    leaves = list(_leaves(call.excinfo.value))
    where = crashed if any(isinstance(leaf, _CRASHES) for leaf in leaves) else caught
    where.append(f"{type(leaves[0]).__name__}: {leaves[0]}".splitlines()[0])


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
