"""Each fault of a line, as a client of the exchange and a feed meet it: in memory and over sockets."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import kufeed
from kufeed.testing import Exchange, FaultPlan, LoopbackNetwork, MemoryNetwork, faults
from kufeed.testing.hazards import Fault, LastingFault

SPOT = "api.kucoin.com"
STATUS = "/api/v1/status"
TICKER = "/market/ticker:BTC-USDT"

AnyNetwork = MemoryNetwork | LoopbackNetwork
both = pytest.mark.parametrize("kind", [MemoryNetwork, LoopbackNetwork])


@asynccontextmanager
async def struck(network: AnyNetwork, *given: Fault) -> AsyncIterator[trio.CancelScope]:
    """The body runs while the plan is played, from after what strikes at once; what is yielded ends the plan."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(FaultPlan(*given).play, network.exchange)
        await trio.sleep(0.01)
        with trio.fail_after(20):  # noqa: ASYNC100  # what the body does
            yield nursery.cancel_scope
        nursery.cancel_scope.cancel()


async def some(stream: trio.abc.Stream, seconds: float = 0.1) -> bytes | None:
    """What comes within that time: None where nothing does."""
    with trio.move_on_after(seconds):
        return bytes(await stream.receive_some())
    return None


@both
async def test_refused_until_it_is_over(kind: type[AnyNetwork]) -> None:
    async with kind(Exchange()) as network:
        async with struck(network, faults.Refuse(lasting=0.3), faults.Refuse(lasting=0.1)):
            await trio.sleep(0.15)
            with pytest.raises(ConnectionRefusedError):
                await network.open_stream(SPOT, 443, None)
            await trio.sleep(0.2)
            await (await network.open_stream(SPOT, 443, None)).aclose()


async def test_who_listens_refuses_by_a_reset(tools: Any) -> None:
    exchange = Exchange()
    async with exchange.listen() as address:
        end = exchange.cable.refuse()
        stream = await trio.open_tcp_stream("127.0.0.1", address.port)
        async with stream:
            with pytest.raises(trio.BrokenResourceError) as failure:
                await stream.receive_some()
            assert isinstance(failure.value.__cause__, ConnectionResetError)
        end()
        await tools.tcp_request(address.spot_url, "GET", STATUS)


@both
@pytest.mark.parametrize(("stage", "told"), [("connect", None), ("handshake", b"HTTP/1.1")])
async def test_those_that_hang_stay_so(tools: Any, kind: type[AnyNetwork], stage: Any, told: bytes | None) -> None:
    async with kind(Exchange()) as network, struck(network, faults.Hang(stage=stage, lasting=0.1)):
        async with await network.open_stream(SPOT, 443, None) as stream:
            await stream.send_all(f"GET {STATUS} HTTP/1.1\r\nHost: {SPOT}\r\n\r\n".encode())
            assert await some(stream) == told
            assert await some(stream) is None
            await trio.sleep(0.1)
            assert (await tools.Dialler(network).request("spot", "GET", STATUS)).status == 200
            assert await some(stream) is None


@both
@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("after", [0, 1, 3, 40])
async def test_a_cut(tools: Any, kind: type[AnyNetwork], how: Any, after: int) -> None:
    exchange = Exchange(live=False)
    async with kind(exchange) as network, tools.Dialler(network).open("spot") as client:
        await client.subscribe(TICKER)
        (session,) = exchange.sessions
        async with struck(network, faults.Cut(how=how, after=after)):
            if after:
                assert session.is_open
                exchange.change_book("BTC-USDT")
            await session.wait_ended()
            assert await client.closed() == 1006


@both
async def test_half_open(tools: Any, kind: type[AnyNetwork]) -> None:
    exchange = Exchange(live=False)
    async with kind(exchange) as network, tools.Dialler(network).open("spot") as client:
        await client.subscribe(TICKER)
        (session,) = exchange.sessions
        async with struck(network, faults.Silence(lasting=0.05)):
            received = session.received
            await client.send({"id": "1", "type": "ping"})
            exchange.change_book("BTC-USDT")
            with trio.move_on_after(0.1) as patience:
                await client.receive()
            assert patience.cancelled_caught, "also when the fault is over"
            assert (session.received, session.is_open) == (received, True)
            async with tools.Dialler(network).open("spot") as other:
                await other.subscribe(TICKER)
            await session.disconnect()
            with trio.move_on_after(0.1) as patience:
                await client.receive()
            assert patience.cancelled_caught, "nobody closes it"


@both
async def test_it_reads_on_when_it_has_stopped_reading(tools: Any, kind: type[AnyNetwork]) -> None:
    exchange = Exchange(live=False)
    async with kind(exchange) as network, tools.Dialler(network).open("spot") as client:
        await client.subscribe(TICKER)
        (session,) = exchange.sessions
        async with struck(network, faults.StopReading(lasting=0.3)), trio.open_nursery() as nursery:
            begun = trio.current_time()
            nursery.start_soon(client.send, {"id": "1", "type": "ping"})
            exchange.change_book("BTC-USDT")
            await client.pushes(1)
            assert session.pinged_at == ()
            await client.receive_until("pong")
            assert trio.current_time() - begun >= 0.25


@both
@pytest.mark.parametrize(
    ("fault", "least", "most"),
    [
        (faults.Delay(seconds=0.2), 0.19, 1.0),
        (faults.Delay(seconds=0.1, jitter=0.1), 0.09, 1.0),
        (faults.Bandwidth(bytes_per_second=500), 0.2, 1.5),
        (faults.Drip(size=10, every=0.02), 0.1, 1.5),
        (faults.Split(size=1), 0.0, 0.5),
    ],
)
async def test_what_is_late_or_in_pieces_is_whole(
    tools: Any, kind: type[AnyNetwork], fault: LastingFault, least: float, most: float
) -> None:
    async with kind(Exchange()) as network, struck(network, fault):
        async with await network.open_stream(SPOT, 443, None) as stream:
            begun = trio.current_time()
            assert (await tools.http(stream, "GET", STATUS, SPOT)).data["status"] == "open"
            assert least <= trio.current_time() - begun <= most


@both
async def test_what_was_said_last_arrives_late_too(tools: Any, kind: type[AnyNetwork]) -> None:
    async with kind(Exchange()) as network, struck(network, faults.Delay(seconds=0.1)):
        async with await network.open_stream(SPOT, 443, None) as stream:
            await stream.send_all(b"nothing that one could understand\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 400")
            assert await stream.receive_some() == b""


@both
async def test_garbled(tools: Any, kind: type[AnyNetwork]) -> None:
    async with kind(Exchange()) as network, await network.open_stream(SPOT, 443, None) as stream:
        await trio.sleep(0.01)
        async with struck(network, faults.Garble(after=2, count=3)):
            await stream.send_all(f"GET {STATUS} HTTP/1.1\r\nHost: {SPOT}\r\n\r\n".encode())
            reply = await some(stream)
    assert reply is not None
    assert reply[:9] == b"HT" + bytes(byte ^ 0xFF for byte in b"TP/") + b"1.1 "


@both
@pytest.mark.parametrize(
    "fault",
    [
        faults.Cut(),
        faults.Cut(how="reset"),
        faults.Cut(after=1),
        faults.Cut(how="reset", after=50),
        faults.Garble(count=2),  # a header of a frame that must not be
    ],
)
async def test_a_feed_comes_back_and_tells(kind: type[AnyNetwork], fault: Fault) -> None:
    exchange = Exchange(update_interval=0.01)
    config = kufeed.FeedConfig(reconnect_delay=0.01)
    async with kind(exchange) as network, kufeed.open_feed(config, network=network) as feed:
        async with feed.trades("BTC-USDT") as trades:
            await trades.receive()
            async with struck(network, fault):
                await until_gap(trades)
                await trades.receive()


@pytest.mark.parametrize(
    "given",
    [
        (faults.Silence(),),
        (faults.StopReading(lasting=math.inf),),
        (faults.Cut(), faults.Hang(lasting=15.0)),
        (faults.Cut(), faults.Hang(stage="handshake", lasting=15.0)),
        (faults.Cut(), faults.Refuse(lasting=30.0)),
        (faults.Cut(), faults.Refuse(lasting=8.0), faults.Hang(at=8.0), faults.Delay(at=10.0, seconds=1.0, jitter=1.0)),
    ],
)
async def test_what_takes_long_to_notice(given: tuple[Fault, ...], autojump_clock: MockClock) -> None:
    exchange = Exchange()
    config = kufeed.FeedConfig(max_reconnect_attempts=30)
    async with MemoryNetwork(exchange) as network:
        async with kufeed.open_feed(config, network=network, rng=random.Random(1)) as feed:
            async with feed.ticker("BTC-USDT") as tickers:
                await tickers.receive()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(FaultPlan(*given).play, exchange)
                    with trio.fail_after(120):
                        await until_gap(tickers)
                        await tickers.receive()
                    nursery.cancel_scope.cancel()


async def until_gap(updates: kufeed.Subscription[Any]) -> None:
    async for update in updates:
        if update.gap_before is not None:
            return


def mild_plan(seed: int) -> FaultPlan:
    """Faults of lines, of those that lose nothing."""
    plan = FaultPlan.random(seed, "mild", duration=5.0)
    return FaultPlan(*(fault for fault in plan if isinstance(fault, LINE_FAULTS)))


LINE_FAULTS = (faults.Delay, faults.Bandwidth, faults.Drip, faults.Split)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32).map(mild_plan))
def test_mild_faults_lose_nothing_and_keep_the_order(plan: FaultPlan) -> None:
    """A feed gets every change of a book, each once and in its place, whatever the line is like."""

    async def main() -> None:
        exchange = Exchange(update_interval=0.1)
        async with MemoryNetwork(exchange) as network:
            async with kufeed.open_feed(network=network, rng=random.Random(1)) as feed:
                async with feed.book_deltas("XBTUSDTM") as deltas, trio.open_nursery() as nursery:
                    nursery.start_soon(plan.play, exchange)
                    seen: list[kufeed.BookDelta] = []
                    with trio.move_on_after(6.0):
                        async for delta in deltas:
                            seen.append(delta)  # noqa: PERF401  # what there is when the time is over
                    nursery.cancel_scope.cancel()
                    (session,) = exchange.sessions
                    assert session.dropped == 0
        assert len(seen) > 30
        assert all(delta.gap_before is None for delta in seen)
        assert all(second.first_sequence == first.sequence + 1 for first, second in pairwise(seen))

    trio.run(main, clock=MockClock(autojump_threshold=0))
