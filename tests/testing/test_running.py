"""`run()` runs a program unchanged, judges it, and does the same again for the same seed."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import kufeed
from kufeed import FeedConfig
from kufeed.testing import Exchange, FaultPlan, MemoryNetwork, Offence, faults, run

CUTS = FaultPlan(
    faults.Cut(at=3.0, how="reset"), faults.SpoilAcks(at=3.0, lasting=4.0), faults.Stall(at=9.0, lasting=3.0)
)
QUICK = FeedConfig(reconnect_delay=0.2, max_reconnect_delay=2.0)


async def five_trades(symbol: str) -> list[int | None]:
    async with kufeed.open_feed() as feed, feed.trades(symbol) as trades:
        return [(await trades.receive()).sequence for _ in range(5)]


async def for_ever() -> None:
    async with kufeed.open_feed(QUICK) as feed, feed.ticker("XBTUSDTM") as tickers:
        async for _ in tickers:
            await trio.sleep(0.01 * random.random())


def test_a_program_runs_as_it_is_and_its_result_is_reported() -> None:
    report = run(five_trades, "BTC-USDT")
    assert report.result is not None
    assert sorted(report.result) == report.result
    assert (report.ended, report.error, report.findings) == (True, None, ())
    (witness,) = report.witnesses
    assert [sighting.what.sequence for sighting in witness.sightings] == report.result  # type: ignore[union-attr]
    assert [str(topic) for topic in witness.spans] == ["/market/match:BTC-USDT"]
    assert witness.statistics is not None
    assert witness.statistics.delivered == 5
    report.check()


def test_it_is_ended_some_time_after_the_last_fault() -> None:
    report = run(for_ever, plan=CUTS, settle=20.0)
    assert (report.ended, report.result, report.error) == (False, None, None)
    assert 12.0 + 20.0 <= report.seconds < 12.0 + 20.0 + 2.1
    assert len(report.exchange.dials) > 1
    report.check()


def test_what_a_program_raises_is_raised_by_check_with_the_line_that_does_it_again() -> None:
    async def fails() -> None:
        async with kufeed.open_feed() as feed, feed.ticker("XBTUSDTM") as tickers:
            await tickers.receive()
            raise LookupError("mine")

    report = run(fails, plan=CUTS, seed=4)
    assert type(report.error) is LookupError
    assert report.ended
    with pytest.raises(LookupError, match="mine") as caught:
        report.check()
    assert report.reproducer in caught.value.__notes__[0]


def test_the_reproducer_is_an_expression() -> None:
    report = run(for_ever, plan=CUTS, seed=3, settle=5.0)
    assert report.reproducer == f"kufeed.testing.run(for_ever, plan={CUTS!r}, seed=3, settle=5.0)"
    names = {"kufeed": kufeed, "for_ever": for_ever, "FaultPlan": FaultPlan, "faults": faults}
    again = eval(report.reproducer, names)  # noqa: S307
    assert again.fingerprint == report.fingerprint


def test_equal_seeds_give_equal_reports_and_others_do_not() -> None:
    prints = [run(for_ever, plan=CUTS, seed=seed, settle=5.0).fingerprint for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]


def test_the_chances_of_the_caller_are_left_alone() -> None:
    random.seed(17)
    expected = random.random()
    random.seed(17)
    run(for_ever, settle=1.0)
    assert random.random() == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_another_process_gives_the_same_report(seed: int) -> None:
    """Also where strings have other hashes there, by which sets are ordered."""
    root = Path(__file__).parents[2]
    code = (
        "from tests.testing.test_running import *; "
        f"print(run(for_ever, plan=FaultPlan.random({seed}), seed={seed}, settle=5.0).fingerprint)"
    )

    def printed(hash_seed: str) -> str:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(root)}
        ran = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment, timeout=60
        )
        return ran.stdout.strip()

    here = run(for_ever, plan=FaultPlan.random(seed), seed=seed, settle=5.0).fingerprint
    assert printed("1") == printed("2") == here


def test_the_exchange_may_be_another() -> None:
    report = run(five_trades, "T0003-USDT", exchange=partial(Exchange, generated=5, update_interval=0.5, ledger=True))
    assert len(report.result or []) == 5
    assert report.exchange.statistics().tokens_issued == 1


def test_a_network_of_the_programs_own_is_left_to_it() -> None:
    class Nowhere:
        async def open_stream(self, host: str, port: int, tls: Any) -> trio.abc.Stream:
            await trio.lowlevel.checkpoint()
            raise OSError("nowhere")

        def time_ns(self) -> int:
            return 1

        def perf_counter(self) -> float:
            return 1.0

    async def elsewhere() -> None:
        config = FeedConfig(max_reconnect_attempts=1, circuit_cooldown=None)
        async with kufeed.open_feed(config, network=Nowhere()) as feed, feed.ticker("XBTUSDTM"):
            pass

    report = run(elsewhere)
    assert isinstance(report.error, kufeed.ConnectionFailed)
    assert report.exchange.statistics().requests == 0


# -- what run() itself finds -------------------------------------------------------------------------------------------


def test_a_task_that_outlives_the_program_is_found() -> None:
    async def leaves_one() -> None:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        await trio.lowlevel.checkpoint()

    report = run(leaves_one)
    assert report.offences == {Offence.LEAK}
    assert "1 tasks" in str(report.findings[0])


def test_a_connection_that_outlives_the_program_is_found() -> None:
    kept = []

    async def leaves_one() -> None:
        from kufeed._observing import CONDITIONS

        conditions = CONDITIONS.get()
        assert conditions is not None
        kept.append(await conditions.network.open_stream("api.kucoin.com", 443, None))

    report = run(leaves_one)
    assert report.offences == {Offence.LEAK}
    with pytest.raises(AssertionError, match="leak: 1 connections are open"):
        report.check()


class Stubborn(trio.abc.Stream):
    """A stream that takes its time to close, and cannot be hurried."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes(await self._stream.receive_some(max_bytes))

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5.0)
        await self._stream.aclose()


def test_leaving_that_takes_too_long_is_found() -> None:
    exchange = Exchange(ledger=True)

    class Network(MemoryNetwork):
        async def open_stream(self, host: str, port: int, tls: Any) -> trio.abc.Stream:
            return Stubborn(await super().open_stream(host, port, tls))

    async def stubborn() -> None:
        async with Network(exchange) as network, kufeed.open_feed(FeedConfig(), network=network) as feed:
            async with feed.ticker("XBTUSDTM") as tickers:
                await tickers.receive()

    report = run(stubborn, settle=5.0)
    assert Offence.SLOW_CLOSE in report.offences
    assert "3.000 s more" in str(report.findings)


@pytest.mark.parametrize("wait", [partial(trio.sleep, math.inf), trio.sleep_forever, trio.Event().wait])
def test_a_program_that_never_ends_is_broken_off(wait: Any) -> None:
    async def stubborn() -> None:
        async with kufeed.open_feed(QUICK) as feed, feed.ticker("XBTUSDTM") as tickers:
            async with trio.open_nursery() as nursery:

                async def shielded() -> None:
                    with trio.CancelScope(shield=True):
                        await wait()

                nursery.start_soon(shielded, name="the culprit")
                async for _ in tickers:
                    pass

    report = run(stubborn, settle=5.0)
    assert report.offences == {Offence.SLOW_CLOSE}
    assert "waited in the culprit" in str(report.findings[0])
    assert report.error is None
    assert not report.ended
    assert report.seconds == 125.0


def test_a_report_says_what_was_raised() -> None:
    async def fails() -> None:
        await trio.lowlevel.checkpoint()
        raise LookupError

    report = run(fails)
    assert str(report).startswith("nothing wrong, and it raised LookupError; 0.0 s")
    for _ in range(2):
        with pytest.raises(LookupError) as caught:
            report.check()
    assert len(caught.value.__notes__) == 1


async def _in_vain() -> None:
    while True:
        try:
            await trio.sleep(1.0)
        except Exception:  # noqa: BLE001, S112  # as programs do that are hard to end
            continue


async def _twice() -> None:
    try:
        await trio.sleep_forever()
    finally:
        await trio.sleep_forever()  # noqa: ASYNC102  # that is what is wrong with it


@pytest.mark.parametrize("wait", [_in_vain, _twice])
def test_a_program_that_holds_on_is_broken_off_again(wait: Any) -> None:
    async def stubborn() -> None:
        async with kufeed.open_feed(QUICK), trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True):
                nursery.start_soon(wait)
                await wait()

    report = run(stubborn, settle=5.0)
    assert report.offences == {Offence.SLOW_CLOSE}
    assert report.error is None


def test_a_plan_that_cannot_be_played_is_refused_before_anything_runs() -> None:
    with pytest.raises(LookupError, match="NOSUCHM"):
        run(for_ever, plan=FaultPlan(faults.Burst(symbol="NOSUCHM")))


def test_a_feed_over_a_network_of_its_own_is_not_judged() -> None:
    async def own() -> None:
        async with MemoryNetwork(Exchange(seed=9)) as network, kufeed.open_feed(network=network) as feed:
            async with feed.trades("BTC-USDT") as trades:
                for _ in range(3):
                    await trades.receive()

    report = run(own)
    assert (report.error, report.witnesses, report.findings) == (None, (), ())


def test_two_feeds_with_equal_chances_are_two_clients() -> None:
    async def two() -> None:
        async with (
            kufeed.open_feed(rng=random.Random(0)) as one,
            kufeed.open_feed(rng=random.Random(0)) as other,
            one.ticker("BTC-USDT") as here,
            other.ticker("BTC-USDT") as there,
        ):
            await here.receive()
            await there.receive()

    report = run(two)
    report.check()
    assert report.exchange.truth is not None
    assert len({life.session.connect_id for life in report.exchange.truth.lives}) == 2
