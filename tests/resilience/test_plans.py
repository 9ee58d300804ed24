"""For every fault plan: nothing lost silently, nothing invented, no false book, limits kept, live again, and it ends.

Each failure is one line that does it again; ``KUFEED_PLANS=100000 pytest -m long tests/resilience`` tries more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kufeed.testing import FaultPlan, Report, run
from kufeed.testing.hazards import SEVERITIES

from .programs import CALM, SETTLE, program

PLANS = 2000
MANY = int(os.environ.get("KUFEED_PLANS", "100000"))
CHUNKS = 80


def lived(seed: int, plan: FaultPlan | None = None) -> Report[None]:
    """The program of this *seed*, and its plan, or another one."""
    chosen = program(seed)
    if plan is None:
        plan = FaultPlan.random(seed, SEVERITIES[seed % len(SEVERITIES)])
    return run(chosen, plan=plan, seed=seed, exchange=chosen.exchange, settle=SETTLE, calm=CALM)


def failed(report: Report[None]) -> bool:
    return bool(report.findings or report.error)


def smallest(seed: int, report: Report[None]) -> Report[None]:
    """The same without the faults that it fails without, too."""
    for fault in report.plan:
        fewer = FaultPlan(*(one for one in report.plan if one is not fault))
        without = lived(seed, fewer)
        if failed(without):
            return smallest(seed, without)
    return report


def told(seed: int) -> Iterator[str]:
    """What is wrong with this seed: nothing, or some lines."""
    report = lived(seed)
    if failed(report):
        report = smallest(seed, report)
        yield f"again: {report.reproducer}"
        yield from (f"    {finding}" for finding in report.findings[:5])
        if report.error is not None:
            yield f"    {report.error!r}"


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_fault_plan_fools_a_feed(chunk: int) -> None:
    found = [line for seed in range(chunk, PLANS, CHUNKS) for line in told(seed)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.long
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_fault_plan_of_many_fools_a_feed(chunk: int) -> None:
    """About 60 ms each."""
    found = [line for seed in range(PLANS + chunk, PLANS + MANY, CHUNKS) for line in told(seed)]
    assert not found, "\n" + "\n".join(found)
