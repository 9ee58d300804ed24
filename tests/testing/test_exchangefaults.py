"""Each fault of the exchange as a plain client meets it, and that it is over when it is over."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio_websocket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

import kufeed
from kufeed.testing import BookFault, Exchange, FaultPlan, Faults, Limits, MemoryNetwork, faults
from kufeed.testing.exchangefaults import SYMBOLS
from kufeed.testing.services import open_services

TRADES = "/contractMarket/execution:XBTUSDTM"
TICKER = "/contractMarket/tickerV2:XBTUSDTM"
DELTAS = "/contractMarket/level2:XBTUSDTM"
OWN = [kind for kind in faults.KINDS if kind.__module__ == "kufeed.testing.exchangefaults"]


@asynccontextmanager
async def playing(exchange: Exchange, *given: faults.Fault) -> AsyncIterator[None]:
    """While the plan is played; it begins before the body does, and what is left of it ends with the body."""
    async with open_services() as nursery:
        nursery.start_soon(FaultPlan(*given).play, exchange)
        await trio.testing.wait_all_tasks_blocked()
        yield


async def numbers(client: Any, count: int) -> list[int]:
    return [push["data"]["sequence"] for push in await client.pushes(count)]


async def answer_within(client: Any, seconds: float, kind: str) -> dict[str, Any] | None:
    """The next frame of this type; None where none comes."""
    with trio.move_on_after(seconds):
        frame: dict[str, Any] = await client.receive_until(kind)
        return frame
    return None


# Requests


@pytest.mark.parametrize(
    ("kind", "method", "target"),
    [
        (faults.RefuseTokens, "POST", "/api/v1/bullet-public"),
        (faults.RefuseRequests, "GET", "/api/v1/timestamp"),
    ],
)
async def test_requests_are_refused_for_a_while(
    tools: Any, autojump_clock: object, kind: Any, method: str, target: str
) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with playing(exchange, kind(error=429, retry_after="5", lasting=2)):
            refused = await dialler.request("spot", method, target)
            assert (refused.status, refused.headers["retry-after"]) == (429, "5")
            await trio.sleep(2)
            assert (await dialler.request("spot", method, target)).data
        async with playing(exchange, kind(error=("429000", "Too Many Requests"))):
            assert (await dialler.request("spot", method, target)).json["code"] == "429000"
        assert (await dialler.request("spot", method, target)).data  # a plan that is left ends what goes on


async def test_a_wait_is_asked_for_by_the_refusals_of_its_own_fault_only(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    patient = faults.RefuseUpgrades(error=429, retry_after="3600", lasting=10)
    hasty = faults.RefuseTokens(error=503, lasting=5)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        token = await dialler.token("spot")

        async def waits() -> tuple[str | None, str | None]:
            refused = await dialler.request("spot", "POST", "/api/v1/bullet-public")
            with pytest.raises(trio_websocket.ConnectionRejected) as failure:
                async with dialler.open("spot", token=token):
                    pass
            upgrade = {name.lower(): value for name, value in failure.value.headers or ()}
            return refused.headers.get("retry-after"), (upgrade[b"retry-after"].decode() if upgrade else None)

        async with playing(exchange, hasty, patient):
            assert await waits() == (None, "3600")
        async with playing(exchange, hasty, patient, attrs.evolve(hasty, retry_after="7", lasting=1)):
            assert await waits() == ("7", "3600")
            await trio.sleep(1)
            assert await waits() == (None, "3600")
        exchange.faults.retry_after = "5"  # by hand: of all that do not say it themselves
        async with playing(exchange, hasty, patient):
            assert await waits() == ("5", "3600")


async def test_upgrades_are_refused_for_a_while(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network, playing(exchange, faults.RefuseUpgrades(error=502, lasting=1)):
        with pytest.raises(trio_websocket.ConnectionRejected) as caught:
            async with tools.Dialler(network).open("spot"):
                pass
        assert caught.value.status_code == 502
        await trio.sleep(1)
        async with tools.Dialler(network).open("spot"):
            pass


async def received(network: MemoryNetwork, seconds: float) -> tuple[bytes, bool]:
    """What came within so many seconds in answer to a request, and whether the connection had ended then."""
    got = bytearray()
    async with await network.open_stream("api.kucoin.com", 443, None) as stream:
        await stream.send_all(b"GET /api/v1/timestamp HTTP/1.1\r\nHost: api.kucoin.com\r\n\r\n")
        with trio.move_on_after(seconds):
            while data := await stream.receive_some():
                got += data
            return bytes(got), True
    return bytes(got), False


async def test_a_slow_body_comes_byte_for_byte_and_at_once_when_that_is_over(autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        async with playing(exchange, faults.SpoilReplies(how="slow", lasting=100)):
            answer, ended = await received(network, 1.05)
            assert len(answer.partition(b"\r\n\r\n")[2]) == 11
            assert not ended
        async with playing(exchange, faults.SpoilReplies(how="slow", lasting=0.5)):
            answer, ended = await received(network, 0.65)
            assert answer.endswith(b"}")
            assert not ended


async def test_an_endless_body_ends_with_its_connection_when_that_is_over(autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        async with playing(exchange, faults.SpoilReplies(how="endless", lasting=3)):
            assert (await received(network, 1))[1] is False
            answer, ended = await received(network, 5)
            assert len(answer) > 100_000
            assert ended
        assert (await received(network, 1))[0].endswith(b"}")


async def test_bodies_are_garbage_or_short(autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        async with playing(exchange, faults.SpoilReplies(how="garbage")):
            answer, ended = await received(network, 1)
            assert answer.endswith(b"\xff\xfe")
            assert not ended
        async with playing(exchange, faults.SpoilReplies(how="short")):
            answer, ended = await received(network, 1)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert int(head.partition(b"content-length: ")[2].split()[0]) > len(body) > 0
            assert ended
        assert (await received(network, 1))[0].endswith(b"}")


async def test_books_are_spoilt_so_many_times_each_by_its_own_fault(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    target = "/api/v1/level2/snapshot?symbol="
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        plan = (
            faults.SpoilBooks(symbol="XBTUSDTM", error=500, times=2),
            faults.SpoilBooks(error=("500000", "no"), times=1),
        )
        async with playing(exchange, *plan):
            pass
        assert (await dialler.request("futures", "GET", target + "ETHUSDTM")).json["code"] == "500000"
        answers = [(await dialler.request("futures", "GET", target + "XBTUSDTM")).status for _ in range(3)]
        assert answers == [500, 500, 200]
        assert exchange.faults.books == []


# Tokens and dials


async def test_tokens_expire(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        token = await dialler.token("spot")
        async with dialler.open("spot", token=token):
            await FaultPlan(faults.ExpireTokens()).play(exchange)
            assert len(exchange.sessions) == 1
            async with dialler.open("spot", token=token, welcome=False) as late:
                assert (await late.receive())["data"] == "token is expired"


async def test_tokens_of_a_short_life_take_their_connection_with_them(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with playing(exchange, faults.TokenLife(seconds=5, lasting=1)):
            token = await dialler.token("spot")
            await trio.sleep(2)
            began = trio.current_time()
            async with dialler.open("spot", token=token) as client, dialler.open("spot"):
                await client.closed()
                assert trio.current_time() - began == pytest.approx(3)
                await trio.sleep(10)
                assert len(exchange.sessions) == 1
            async with dialler.open("spot", token=token, welcome=False) as late:
                assert (await late.receive())["code"] == 401


async def test_limits_are_lowered_for_a_while(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(limits=Limits.off())
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        lowered = faults.LowerLimits(dials_per_minute=2, messages_per_10s=3, lasting=30)
        async with playing(exchange, lowered):
            async with dialler.open("spot") as client:
                for _ in range(4):
                    await client.send({"id": "1", "type": "ping"})
                assert (await client.receive_until("error"))["data"] == "exceed max permits per 10 seconds"
                await client.closed()
            async with dialler.open("spot"):
                pass
            with pytest.raises(trio_websocket.ConnectionRejected):
                async with dialler.open("spot"):
                    pass
            await trio.sleep(30)
            async with dialler.open("spot") as client:
                for _ in range(9):
                    await client.send({"id": "1", "type": "ping"})
                for _ in range(9):
                    await client.receive_until("pong")


async def test_a_connection_is_allowed_what_the_limit_of_the_moment_is(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()

    async def ping(client: Any, count: int) -> None:
        for _ in range(count):
            await client.send({"id": "1", "type": "ping"})
        for _ in range(count):
            await client.receive_until("pong")

    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot") as before:
            async with playing(exchange, faults.LowerLimits(messages_per_10s=3, lasting=30)):
                async with dialler.open("spot") as meanwhile:
                    await ping(meanwhile, 3)
                    await trio.sleep(30)
                    await ping(meanwhile, 50)
                    await ping(before, 50)
            async with playing(exchange, faults.LowerLimits(messages_per_10s=3, lasting=30)):
                await before.send({"id": "1", "type": "ping"})
                assert (await before.receive_until("error"))["code"] == 509


async def test_maintenance_refuses_and_says_so(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with playing(exchange, faults.Maintain(lasting=5)):
            assert (await dialler.request("spot", "GET", "/api/v1/status")).data["status"] == "close"
            assert (await dialler.request("spot", "POST", "/api/v1/bullet-public")).status == 503
            await trio.sleep(5)
            assert (await dialler.request("spot", "GET", "/api/v1/status")).data["status"] == "open"
            async with dialler.open("spot"):
                pass


async def test_one_server_is_down_for_a_while(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(instance_servers=2)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot", server=1) as client, dialler.open("spot", server=0):
            plan = (faults.ServerDown(server=1, lasting=5), faults.ServerDown(server=1, at=2, lasting=6))
            async with playing(exchange, *plan):
                await client.closed()
                assert [session.server for session in exchange.sessions] == [0]
                await trio.sleep(6)  # the first one is over, the second one is not
                with pytest.raises(ConnectionRefusedError):
                    async with dialler.open("spot", server=1):
                        pass
                await trio.sleep(2)
                async with dialler.open("spot", server=1):
                    pass


# Control frames


async def test_welcomes_are_missing_or_late(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with playing(exchange, faults.SpoilWelcomes(how="missing", lasting=1)):
            async with dialler.open("spot", welcome=False) as client:
                assert await answer_within(client, 20, "welcome") is None
        async with playing(exchange, faults.SpoilWelcomes(how="late", seconds=3, lasting=1)):
            async with dialler.open("spot", welcome=False) as client:
                assert await answer_within(client, 2.9, "welcome") is None
                assert await answer_within(client, 0.2, "welcome")
        async with dialler.open("spot"):
            pass


@pytest.mark.parametrize(
    ("kind", "answer", "frame"),
    [
        (faults.SpoilPongs, "pong", {"id": "7", "type": "ping"}),
        (faults.SpoilAcks, "ack", {"id": "7", "type": "unsubscribe", "topic": TRADES, "response": True}),
    ],
)
async def test_answers_are_missing_late_twice_or_wrong(
    tools: Any, autojump_clock: object, kind: Any, answer: str, frame: dict[str, object]
) -> None:
    exchange = Exchange()
    async with tools.connected(exchange) as client:

        async def ask(**fields: object) -> dict[str, Any] | None:
            async with playing(exchange, kind(**fields)):
                await client.send(frame)
                return await answer_within(client, 1, answer)

        assert await ask(how="missing") is None
        assert await ask(how="late", seconds=3) is None
        assert (await answer_within(client, 3, answer) or {})["id"] == "7"
        assert (await ask(how="wrong") or {})["id"] == "not-7"
        assert (await ask(how="twice") or {})["id"] == "7"
        assert (await answer_within(client, 1, answer) or {})["id"] == "7"
        await client.send(frame)
        assert (await answer_within(client, 1, answer) or {})["id"] == "7"
        assert await answer_within(client, 1, answer) is None


async def test_acks_answer_a_request_of_the_connection_before(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with playing(exchange, faults.SpoilAcks(how="old", lasting=math.inf)):
            async with dialler.open("futures") as client:
                await client.send({"id": "first", "type": "subscribe", "topic": TRADES, "response": True})
                assert await answer_within(client, 3, "ack") is None  # there was none before
            async with dialler.open("futures") as client:
                assert (await client.subscribe(TRADES, "second"))["id"] == "first"
        async with dialler.open("futures") as client:
            assert (await client.subscribe(TRADES, "third"))["id"] == "third"


@pytest.mark.parametrize(
    ("meaning", "code", "text", "drops"),
    [
        ("401 token", 401, "token is expired", True),
        ("404 topic", 404, f"topic {TRADES} is not found", False),
        ("404 odd", 404, "not found", False),
        ("509 rate", 509, "exceed max permits per 10 seconds", True),
        ("509 topics", 509, "exceed max subscription count limitation of 100 per session", False),
        ("509 symbols", 509, "exceed max subscription count limitation of 100 per time", False),
        ("415 type", 415, "type is not supported", False),
    ],
)
async def test_complaints_have_the_texts_of_the_exchange(
    tools: Any, autojump_clock: object, meaning: Any, code: int, text: str, drops: bool
) -> None:
    exchange = Exchange()
    async with tools.connected(exchange) as client:
        await client.subscribe(TRADES)
        await FaultPlan(faults.Complain(meaning=meaning)).play(exchange)
        complaint = await client.receive_until("error")
        assert (complaint["code"], complaint["data"]) == (code, text)
        await trio.sleep(0.1)
        assert len(exchange.sessions) == (0 if drops else 1)


# Streams


@pytest.mark.parametrize("symbol", ["XBTUSDTM", None])
async def test_topics_are_mute_for_a_while(tools: Any, autojump_clock: object, symbol: str | None) -> None:
    exchange = Exchange()
    async with tools.connected(exchange) as client:
        await client.subscribe(TICKER)
        await client.subscribe(TICKER.replace("XBT", "ETH"))
        async with playing(exchange, faults.MuteTopics(symbol=symbol, lasting=5)):
            with trio.move_on_after(4.9):
                while True:
                    push = await client.receive_until("message")
                    assert symbol is not None
                    assert push["data"]["symbol"] == "ETHUSDTM"
            assert await answer_within(client, 2, "message")


@pytest.mark.parametrize("symbol", ["XBTUSDTM", None])
async def test_subscribes_are_ignored_for_a_while(tools: Any, autojump_clock: object, symbol: str | None) -> None:
    exchange = Exchange()
    async with tools.connected(exchange) as client:
        async with playing(exchange, faults.IgnoreTopics(symbol=symbol, lasting=5)):
            await client.send({"id": "1", "type": "subscribe", "topic": TICKER, "response": True})
            assert await answer_within(client, 6, "ack") is None
            assert exchange.sessions[0].topics == ()
            assert (await client.subscribe(TICKER, "2"))["id"] == "2"


async def test_a_stall_holds_everything_up(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with tools.connected(exchange) as client:
        await client.subscribe(TICKER)
        plan = (faults.Stall(lasting=5), faults.Stall(at=1, lasting=2))
        async with playing(exchange, *plan):
            await client.send({"id": "p", "type": "ping"})
            assert await answer_within(client, 4.9, "pong") is None
            assert await answer_within(client, 1, "pong")
            assert await answer_within(client, 1, "message")


async def test_an_exchange_that_was_frozen_before_a_stall_stays_so(autojump_clock: object) -> None:
    exchange = Exchange()
    exchange.freeze()
    async with MemoryNetwork(exchange):
        await FaultPlan(faults.Stall()).play(exchange)
        assert exchange.is_frozen


@pytest.mark.parametrize("code", [1001, 4000])
async def test_connections_are_closed_with_a_code(tools: Any, autojump_clock: object, code: int) -> None:
    exchange = Exchange()
    async with tools.connected(exchange) as client:
        await FaultPlan(faults.Close(code=code)).play(exchange)
        assert await client.closed() == code
        await trio.sleep(2)
        assert exchange.sessions == ()


async def test_a_restart_cuts_refuses_and_begins_anew(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False, accept_any_symbol=False)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        token = await dialler.token("futures")
        idle = await network.open_stream("api.kucoin.com", 443, None)
        before = exchange.book("XBTUSDTM")
        async with dialler.open("futures") as client:
            async with playing(exchange, faults.Restart(lasting=3)):
                await client.closed()
                assert await idle.receive_some() == b""
                with pytest.raises(ConnectionRefusedError):
                    await dialler.token("futures")
                await trio.sleep(3)
        with pytest.raises(trio_websocket.ConnectionRejected) as caught:
            async with dialler.open("futures", token=token):
                pass
        assert caught.value.status_code == 401
        async with dialler.open("futures") as client:
            await client.subscribe(DELTAS)
            exchange.change_book("XBTUSDTM", 3)
            assert await numbers(client, 3) == [1, 2, 3]
        after = exchange.book("XBTUSDTM", 0)
        assert (after.bids, after.asks) == (before.bids, before.asks)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (faults.DropMessages(symbol="XBTUSDTM", skip=1, count=2), [1, 4, 5, 6]),
        (faults.DropMessages(symbol="ETHUSDTM", count=2), [1, 2, 3, 4, 5, 6]),
        (faults.RepeatMessages(skip=1, count=1, delay=2), [1, 2, 3, 4, 2, 5, 6]),
        (faults.ReorderMessages(skip=1, count=3), [1, 4, 3, 2, 5, 6]),
    ],
)
async def test_messages_of_each_open_connection_are_tampered_with(
    tools: Any, autojump_clock: object, fault: faults.Fault, expected: list[int]
) -> None:
    exchange = Exchange(live=False)
    exchange.renumber_book("XBTUSDTM")
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("futures") as first, dialler.open("futures") as second:
            await first.subscribe(DELTAS)
            await second.subscribe(DELTAS)
            await FaultPlan(fault).play(exchange)
            async with dialler.open("futures") as later:
                await later.subscribe(DELTAS)
                exchange.change_book("XBTUSDTM", 6)
                assert await numbers(later, 6) == [1, 2, 3, 4, 5, 6]
            assert await numbers(first, len(expected)) == expected
            assert await numbers(second, len(expected)) == expected
            if fault.symbol != "ETHUSDTM":  # type: ignore[attr-defined]
                assert all(session.tampers == [] for session in exchange.sessions)


async def test_messages_are_corrupted(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    exchange.renumber_book("XBTUSDTM")
    async with tools.connected(exchange) as client:
        await client.subscribe(DELTAS)
        await FaultPlan(faults.CorruptMessages(how="wrong type", skip=1)).play(exchange)
        exchange.change_book("XBTUSDTM", 3)
        assert [push["data"] if push["data"] == 7 else 0 for push in await client.pushes(3)] == [0, 7, 0]


async def test_the_clock_jumps_there_and_back(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)

        async def ahead() -> float:
            told = (await dialler.request("spot", "GET", "/api/v1/timestamp")).data
            return float(told - network.time_ns() // 1_000_000) / 1000

        # A lasts from 0 to 10, B from 5 to 7: after B, A's value stands again.
        async with playing(exchange, faults.SkewClock(seconds=30, lasting=10), faults.SkewClock(seconds=-1, at=5)):
            seen = []
            for _ in range(4):
                await trio.sleep(0.5)
                seen.append(await ahead())
                await trio.sleep(3)
            assert seen == [pytest.approx(value, abs=0.01) for value in (30, 30, 30, 0)]
            assert exchange.faults.clock_skew == 0
        async with playing(exchange, faults.SkewClock(seconds=30, lasting=10), faults.SkewClock(seconds=-1, at=5)):
            await trio.sleep(6)
            assert await ahead() == pytest.approx(-1, abs=0.01)


async def test_a_burst_comes_within_one_moment(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with tools.connected(exchange) as client:
        await client.subscribe(TRADES)
        await FaultPlan(faults.Burst(trades=30, changes=0)).play(exchange)
        assert len({push["data"]["ts"] for push in await client.pushes(30)}) == 1
        await client.subscribe(DELTAS)
        await FaultPlan(faults.Burst(trades=0, changes=40)).play(exchange)
        first, *_, last = await numbers(client, 40)
        assert last - first == 39


async def test_a_symbol_is_halted_for_a_while_and_delisted_for_good(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange()
    async with tools.connected(exchange) as client:
        await client.subscribe(TICKER)
        async with playing(exchange, faults.Halt(lasting=5), faults.Halt(at=1, lasting=2)):
            assert exchange.status("XBTUSDTM") == "Paused"
            await trio.sleep(4)
            assert exchange.status("XBTUSDTM") == "Paused"
            await trio.sleep(1.5)
            assert exchange.status("XBTUSDTM") == "Open"
        # Delisted while it is halted: the end of the halt does not bring it back.
        await FaultPlan(faults.Halt(lasting=5), faults.Delist(at=1, symbol="XBTUSDTM"), faults.Burst(at=2)).play(
            exchange
        )
        assert exchange.status("XBTUSDTM") == "Closed"
        assert (await client.subscribe(TICKER, "9"))["code"] == 404


@pytest.mark.parametrize("fault", [faults.Close(), faults.Complain(meaning="509 rate")], ids=repr)
async def test_a_fault_may_strike_while_a_connection_ends(tools: Any, autojump_clock: object, fault: Any) -> None:
    exchange = Exchange(limits=Limits.off())
    async with MemoryNetwork(exchange) as network:
        for steps in range(25):
            async with tools.Dialler(network).open("spot") as client:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.websocket.aclose)
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    fault.strike(exchange)
    assert exchange.sessions == ()


# Plans


async def test_what_was_set_by_hand_before_stays(autojump_clock: object) -> None:
    exchange = Exchange()
    exchange.faults.late_acks = 9.0
    exchange.faults.dead_servers.add(0)
    exchange.faults.mute_symbols.add("XBTUSDTM")
    exchange.halt("ETHUSDTM")
    async with MemoryNetwork(exchange):
        async with playing(
            exchange,
            faults.SpoilAcks(how="late", seconds=1),
            faults.ServerDown(),
            faults.MuteTopics(symbol="XBTUSDTM"),
            faults.Halt(symbol="ETHUSDTM"),
        ):
            assert exchange.faults.late_acks == 1
        assert exchange.faults == Faults(late_acks=9.0, dead_servers={0}, mute_symbols={"XBTUSDTM"})
        assert exchange.status("ETHUSDTM") == "Paused"


@pytest.mark.parametrize("kind", [kind for kind in OWN if hasattr(kind, "symbol")])
async def test_a_symbol_that_the_exchange_does_not_have_is_an_error_before_anything_happens(
    autojump_clock: object, kind: Any
) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange):
        with pytest.raises(LookupError, match="DOGEUSDTM"):
            await FaultPlan(faults.RefuseTokens(), kind(symbol="DOGEUSDTM", at=3)).play(exchange)
        assert exchange.faults == Faults()
        assert trio.current_time() == 0


async def test_a_server_that_the_exchange_does_not_have_is_an_error_before_anything_happens(
    autojump_clock: object,
) -> None:
    exchange = Exchange(instance_servers=2)
    async with MemoryNetwork(exchange):
        with pytest.raises(ValueError, match="no server 2"):
            await FaultPlan(faults.ServerDown(server=2, at=1)).play(exchange)
        assert trio.current_time() == 0


async def test_what_waits_for_messages_or_requests_outlives_a_plan_that_is_over_not_one_that_is_cancelled(
    autojump_clock: object,
) -> None:
    exchange = Exchange(live=False)
    exchange.faults.books.append(mine := BookFault(times=2, stale=1))
    plan = FaultPlan(faults.DropMessages(), faults.RepeatMessages(), faults.SpoilBooks(times=2, stale=1))
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        async with feed.trades("XBTUSDTM"):
            (session,) = exchange.sessions
            with trio.move_on_after(3):
                await FaultPlan(*plan, faults.Delay(lasting=5)).play(exchange)
            assert session.tampers == []
            assert exchange.faults.books == [mine]
            await plan.play(exchange)
            assert len(session.tampers) == len(exchange.faults.books) == 2


WRONG = [
    (faults.RefuseTokens, {"error": 200}),
    (faults.RefuseTokens, {"error": True}),
    (faults.RefuseTokens, {"error": ("429000",)}),
    (faults.RefuseRequests, {"error": ("429000", 7)}),
    (faults.RefuseRequests, {"error": None}),
    (faults.RefuseRequests, {"retry_after": "1\r\nx: y"}),
    (faults.RefuseUpgrades, {"error": ("429000", "no")}),
    (faults.RefuseUpgrades, {"retry_after": 5}),
    (faults.SpoilReplies, {"how": "odd"}),
    (faults.TokenLife, {"seconds": 0}),
    (faults.SpoilAcks, {"seconds": math.nan}),
    (faults.SpoilPongs, {"at": -1}),
    (faults.SpoilWelcomes, {"at": 10**400}),
    (faults.Complain, {"meaning": "418 teapot"}),
    (faults.MuteTopics, {"symbol": 7}),
    (faults.MuteTopics, {"symbol": ""}),
    (faults.Close, {"code": 1006}),
    (faults.Close, {"code": "1000"}),
    (faults.ServerDown, {"server": 0.5}),
    (faults.DropMessages, {"count": 0}),
    (faults.RepeatMessages, {"skip": 1.5}),
    (faults.ReorderMessages, {"count": 1}),
    (faults.CorruptMessages, {"how": ["cut off"]}),
    (faults.SpoilBooks, {"delay": -1.0}),
    (faults.SpoilBooks, {"error": 99}),
    (faults.SpoilBooks, {"damage": "odd"}),
    (faults.SkewClock, {"seconds": math.inf}),
    (faults.Burst, {"symbol": None}),
    (faults.Burst, {"trades": -1}),
    (faults.Burst, {"trades": 10**12}),
    (faults.Burst, {"changes": 100_001}),
    (faults.ReorderMessages, {"count": 100_001}),
    (faults.RepeatMessages, {"delay": 100_001}),
    (faults.LowerLimits, {"dials_per_minute": True}),
    (faults.Maintain, {"refuses": 1}),
    (BookFault, {"error": 200}),
]


@pytest.mark.parametrize(("kind", "fields"), WRONG, ids=lambda value: getattr(value, "__name__", str(value)))
def test_fields_out_of_range_are_named(kind: Any, fields: dict[str, Any]) -> None:
    (name,) = fields
    with pytest.raises(ValueError, match=name):
        kind(**fields)


PLAIN = st.sampled_from([None, True, 0, 1, -1, 1.5, 503, 1e300, math.inf, math.nan, 10**400, "", "inf", "7", *SYMBOLS])
JSON = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.sampled_from("ab"), PLAIN, max_size=2)


@given(st.data())
def test_a_field_of_nonsense_in_json_is_a_value_error_or_a_plan_that_can_be_written(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(OWN))
    names = st.sampled_from([field.name for field in attrs.fields(kind)])
    row = {**data.draw(st.dictionaries(names, JSON, max_size=3)), "fault": kind.__name__}
    try:
        plan = FaultPlan.from_json(json.dumps([row]))
    except ValueError:
        return
    assert FaultPlan.from_json(plan.to_json()) == plan


def test_json_that_is_nested_beyond_measure_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not JSON"):
        FaultPlan.from_json("[" * 200_000)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_a_plan_drawn_at_random_plays_on_any_exchange_and_leaves_nothing_behind(tools: Any, seed: int) -> None:
    drawn = [fault for fault in FaultPlan.random(seed, "brutal", most=8) if type(fault) in OWN]

    async def main() -> None:
        exchange = Exchange(seed=seed)
        async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
            async with open_services() as nursery:
                nursery.start_soon(read_on, feed)
                await FaultPlan(*drawn).play(exchange)
            exchange.faults.books.clear()  # these wait for requests, not for a time
            assert exchange.faults == Faults()
            await trio.sleep(60)  # until dials are allowed again, whoever has used them up
            async with tools.Dialler(network).open("spot") as client:
                await client.subscribe("/market/ticker:BTC-USDT")  # it is never delisted
                with trio.fail_after(5):
                    await client.pushes(3)

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def read_on(feed: kufeed.Feed) -> None:
    """Read trades and books of the default symbols, again whenever it fails."""
    while True:
        try:
            async with feed.trades(*SYMBOLS) as trades, feed.book(*SYMBOLS) as books, trio.open_nursery() as nursery:
                nursery.start_soon(exhaust, trades)
                nursery.start_soon(exhaust, books)
        except* kufeed.KufeedError:
            pass
        await trio.sleep(1)


async def exhaust(subscription: kufeed.Subscription[Any]) -> None:
    async for _ in subscription:
        pass


# What a feed makes of them


@pytest.mark.parametrize(
    "fault",
    [
        faults.SpoilWelcomes(how="missing", lasting=3),
        faults.SpoilReplies(how="endless", lasting=3),
        faults.SpoilReplies(how="short", lasting=3),
        faults.Restart(lasting=3),
        faults.RefuseTokens(error=429, retry_after="2", lasting=3),
        faults.TokenLife(seconds=2, lasting=3),
    ],
    ids=repr,
)
async def test_a_feed_is_live_again_afterwards(autojump_clock: object, fault: faults.Fault) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        async with feed.ticker("XBTUSDTM") as tickers:
            await tickers.receive()
            async with playing(exchange, fault):
                await exchange.disconnect_all()
                await trio.sleep(60)
            ticker = await tickers.receive()
            while ticker.exchange_time_ns < network.time_ns() - 10**9:
                ticker = await tickers.receive()


async def test_a_feed_tells_what_was_dropped_on_the_way(autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        async with feed.book_deltas("XBTUSDTM") as deltas:
            await FaultPlan(faults.DropMessages(skip=2, count=3)).play(exchange)
            last = exchange.change_book("XBTUSDTM", 6)
            received = [await deltas.receive() for _ in range(3)]
    assert [delta.sequence for delta in received] == [last - 5, last - 4, last]
    gap = received[2].gap_before
    assert gap is not None
    assert (gap.first_missing, gap.last_missing) == (last - 3, last - 1)
