"""The same plans in memory and over sockets: the feed is judged alike, and so is one whose network lies."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio

import kufeed
from kufeed import FeedConfig, KufeedError
from kufeed.testing import Exchange, FaultPlan, LoopbackNetwork, MemoryNetwork, Offence, Report, faults, judged, run

PLANS = 50
AT_ONCE = 10
KINDS = (
    faults.Refuse,
    faults.Hang,
    faults.Cut,
    faults.Silence,
    faults.StopReading,
    faults.Delay,
    faults.Bandwidth,
    faults.Drip,
    faults.Split,
    faults.Garble,
    faults.RefuseUpgrades,
    faults.SpoilWelcomes,
    faults.SpoilAcks,
    faults.SpoilPongs,
    faults.Complain,
    faults.Stall,
    faults.Close,
    faults.Restart,
    faults.DropMessages,
    faults.RepeatMessages,
    faults.ReorderMessages,
    faults.CorruptMessages,
    faults.Burst,
)
"""Those that a feed gets over within seconds, by its own clock."""
QUICK = FeedConfig(
    reconnect_delay=0.05,
    max_reconnect_delay=0.3,
    max_reconnect_attempts=None,
    connect_timeout=1.5,
    ack_timeout=1.0,
    healthy_after=0.5,
    circuit_cooldown=0.5,
)
MARKET: Callable[..., Exchange] = partial(
    Exchange, ledger=True, update_interval=0.1, ping_interval=1.0, ping_timeout=1.0
)


async def both_markets() -> None:
    """Trades with events, and tickers; asked for again wherever that fails."""

    async def follow(make: Callable[[], kufeed.Subscription[Any]]) -> None:
        while True:
            try:
                async with make() as subscription:
                    async for _ in subscription.with_events():
                        pass
            except KufeedError:
                await trio.sleep(0.1)

    # A budget of its own: its exchange is, and others of the same run have theirs.
    async with kufeed.open_feed(QUICK, dial_limiter=kufeed.DialBudget()) as feed, trio.open_nursery() as nursery:
        nursery.start_soon(follow, lambda: feed.trades("XBTUSDTM", "BTC-USDT"))
        nursery.start_soon(follow, lambda: feed.ticker("XBTUSDTM", "BTC-USDT"))


class Lying(trio.abc.Stream):
    """A stream that says of every sale that it was a purchase: what is wrong with it does not depend on the hour."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(max_bytes))
        return data.replace(b'"side":"sell"', b'"side": "buy"')

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class LyingMemory(MemoryNetwork):
    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        return Lying(await super().open_stream(host, port, tls))


class LyingLoopback(LoopbackNetwork):
    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        return Lying(await super().open_stream(host, port, tls))


def plan_of(seed: int) -> FaultPlan:
    return FaultPlan.random(seed, duration=2.0, most=3, kinds=KINDS)


def lies(seed: int) -> bool:
    """Every fifth run is over a network whose feed must be found wrong."""
    return seed % 5 == 0


def in_memory(seeds: range) -> list[frozenset[Offence]]:
    async def one(seed: int) -> Report[None]:
        return await judged(
            both_markets, plan=plan_of(seed), seed=seed, exchange=MARKET, network=LyingMemory, settle=20.0, calm=1.0
        )

    found = []
    for seed in seeds:
        if lies(seed):
            report = trio.run(one, seed, clock=trio.testing.MockClock(autojump_threshold=0))
        else:
            report = run(both_markets, plan=plan_of(seed), seed=seed, exchange=MARKET, settle=20.0, calm=1.0)
        found.append(report.offences)
    return found


def over_sockets(seeds: range) -> list[frozenset[Offence]]:
    found: dict[int, frozenset[Offence]] = {}

    async def one(seed: int, limit: trio.CapacityLimiter) -> None:
        async with limit:
            report = await judged(
                both_markets,
                plan=plan_of(seed),
                seed=seed,
                exchange=MARKET,
                network=LyingLoopback if lies(seed) else LoopbackNetwork,
                settle=20.0,
                calm=1.0,
            )
            found[seed] = report.offences
            print(seed, report, *report.findings[:3], sep="\n    ")

    async def all_of_them() -> None:
        limit = trio.CapacityLimiter(AT_ONCE)
        async with trio.open_nursery() as nursery:
            for seed in seeds:
                nursery.start_soon(one, seed, limit)

    trio.run(all_of_them)
    return [found[seed] for seed in seeds]


@pytest.mark.parametrize(
    "seeds", [range(AT_ONCE), pytest.param(range(PLANS), marks=pytest.mark.long)], ids=["ten", "fifty"]
)
def test_the_same_plans_give_the_same_verdicts(seeds: range) -> None:
    verdicts = over_sockets(seeds)
    assert verdicts == in_memory(seeds)
    for seed, verdict in zip(seeds, verdicts, strict=True):
        assert verdict == ({Offence.PHANTOM, Offence.SILENT_LOSS} if lies(seed) else set())
