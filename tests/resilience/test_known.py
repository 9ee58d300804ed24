"""Plans for what a feed must get right, by name: quick, where the thousands of test_plans.py take their time."""

from __future__ import annotations

from functools import partial

import pytest
import trio

import kufeed
from kufeed import FeedConfig
from kufeed.testing import Exchange, FaultPlan, faults, run

QUICK = FeedConfig(reconnect_delay=0.2, max_reconnect_delay=1.0, max_reconnect_attempts=None)
MARKET = partial(Exchange, ledger=True, update_interval=0.5, ping_interval=4.0, ping_timeout=2.0)


async def trades_for(seconds: float) -> None:
    async with kufeed.open_feed(QUICK) as feed:
        with trio.move_on_after(seconds):
            async with feed.trades("BTC-USDT", "XBTUSDTM") as trades:
                async for _ in trades:
                    pass


@pytest.mark.parametrize(
    "fault",
    [
        faults.Cut(at=5.0),
        faults.Cut(at=5.0, how="reset", after=3),
        faults.Close(at=5.0, code=1012),
        faults.Silence(at=5.0, lasting=1.0),
        faults.Stall(at=5.0, lasting=8.0),
        faults.Restart(at=5.0, lasting=2.0),
    ],
)
def test_a_lost_connection_costs_nothing_in_silence(fault: faults.Fault) -> None:
    report = run(trades_for, 40.0, plan=FaultPlan(fault), exchange=MARKET)
    assert report.ended
    assert len(report.exchange.dials) == 4, "both markets, two times"
    report.check()


@pytest.mark.parametrize(
    "fault",
    [
        faults.Silence(at=5.0, lasting=60.0),
        faults.StopReading(at=5.0, lasting=60.0),
        faults.Stall(at=5.0, lasting=60.0),
        faults.Hang(at=0.0, lasting=60.0),
        faults.RefuseTokens(at=0.0, lasting=60.0),
    ],
)
def test_leaving_takes_no_longer_than_it_may_whoever_does_not_answer(fault: faults.Fault) -> None:
    report = run(trades_for, 6.0, plan=FaultPlan(fault), exchange=MARKET)
    assert report.ended
    assert report.seconds <= 6.0 + QUICK.close_timeout + 0.001
    report.check()
