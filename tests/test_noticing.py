"""How soon the end of a link that was up is noticed, and what it is called.

`docs/failures.rst` shows the same table: a test compares. How a dial fails is in `test_dial.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MemorySendStream, MockClock

import kufeed
from kufeed import FeedConfig
from tests.test_close import Scripted, close
from tests.test_websocket import frame

PAGE = Path(__file__).parents[1] / "docs" / "failures.rst"
PING, PONG, ACK = 18.0, 10.0, 5.0
BOUNDS = {
    "at once": 0.05,
    "``ping_interval`` + ``pong_timeout``": PING + PONG + 0.5,
    "``ack_timeout``: asked again": ACK + 0.1,
    "2 x ``ack_timeout``": 2 * ACK + 0.1,
}

Peer = Callable[["Failing", trio.abc.Stream], Awaitable[None]]


@attrs.frozen
class Failure:
    name: str
    told: str
    """Which error."""
    within: str
    peer: Peer


class Failing(Scripted):
    """Answers pings until *since*; then it fails."""

    def __init__(self, nursery: trio.Nursery, failure: Failure, since: float) -> None:
        super().__init__(nursery, self._fail)
        self.failure = failure
        self.since = since
        self.began: float | None = None

    async def _fail(self, stream: trio.abc.Stream) -> None:
        if self.began is not None:
            await self.converse(stream)
            return
        with trio.move_on_at(self.since):
            await self.converse(stream)
        self.began = trio.current_time()
        await self.failure.peer(self, stream)

    async def converse(self, stream: trio.abc.Stream, *, acks: bool = True, pongs: bool = True) -> None:
        while True:
            opcode, body = await self.read_frame(stream)
            if opcode == 0x8:
                return
            asked = json.loads(body)
            answer = "pong" if asked["type"] == "ping" else "ack"
            if (acks and answer == "ack") or (pongs and answer == "pong"):
                await stream.send_all(frame(0x1, json.dumps({"id": asked["id"], "type": answer}).encode()))


async def half_open(network: Failing, stream: trio.abc.Stream) -> None:
    """What the client sends is taken by somebody, and nothing comes back."""
    while await stream.receive_some(1000):
        pass


async def stuck(network: Failing, stream: trio.abc.Stream) -> None:
    """Data come as before, but what the client sends is not taken."""
    ours = network.streams[-1].send_stream
    assert isinstance(ours, MemorySendStream)
    ours.send_all_hook = trio.sleep_forever
    while True:
        await stream.send_all(frame(0x1, b'{"topic":"/market/ticker:X-Y","type":"message","subject":"x","data":{}}'))
        await trio.sleep(0.5)


async def cut(network: Failing, stream: trio.abc.Stream) -> None:
    await trio.aclose_forcefully(stream)


async def reset(network: Failing, stream: trio.abc.Stream) -> None:
    async def fail() -> None:
        raise trio.BrokenResourceError from ConnectionResetError("reset by the peer")

    ours = network.streams[-1]
    assert isinstance(ours.send_stream, MemorySendStream)
    ours.receive_stream.receive_some_hook = fail
    await stream.send_all(frame(0x9))  # so that the client, which reads already, reads again
    await trio.sleep_forever()


def says(sent: bytes) -> Peer:
    async def peer(network: Failing, stream: trio.abc.Stream) -> None:
        await stream.send_all(sent)
        await network.converse(stream)

    return peer


FAILURES = [
    Failure("silent: half open, frozen, or cut off without a word", "LinkSilent: no pong",
        "``ping_interval`` + ``pong_timeout``", half_open),
    Failure("does not read, though it sends", "SendStuck: a frame could not be sent",
        "``ping_interval`` + ``pong_timeout``", stuck),
    Failure("ends the connection (FIN)", "LinkClosed: closed with code 1006", "at once", cut),
    Failure("resets the connection (RST)", "LinkClosed: closed with code 1006: reset by the peer", "at once", reset),
    Failure("closes with a code", "LinkClosed: closed with code 1012", "at once", says(close(1012))),
    Failure("sends what is no WebSocket frame", "ProtocolViolation: unknown opcode", "at once", says(frame(0x3))),
    Failure("sends text that is none", "ProtocolViolation: ", "at once", says(frame(0x1, b"\xff"))),
    Failure("refuses the token (error 401)", "TokenExpired: token is expired", "at once",
        says(frame(0x1, b'{"type":"error","code":401,"data":"token is expired"}'))),
]  # fmt: skip


async def next_of(events: Any, kind: type) -> Any:
    while not isinstance(event := await anext(events), kind):
        pass
    return event


@pytest.mark.parametrize("since", [20.0, PING + 0.01, 2 * PING - 0.01, 4000.0])
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
async def test_the_end_of_a_link_is_noticed_in_time(autojump_clock: MockClock, failure: Failure, since: float) -> None:
    """Whenever it comes between two pings; and it is told with its cause and how long the link was up."""
    async with trio.open_nursery() as nursery:
        network = Failing(nursery, failure, since)
        async with kufeed.open_feed(FeedConfig(stale_after=None), network=network) as feed, feed.ticker("BTC-USDT"):
            with feed.events() as events:
                with trio.fail_after(since + 100):
                    event = await next_of(events, kufeed.LinkLost)
                noticed = trio.current_time()
                assert network.began is not None
                assert noticed - network.began <= BOUNDS[failure.within]
                kind, _, text = failure.told.partition(": ")
                assert type(event.cause).__name__ == kind
                assert str(event.cause).startswith(text)
                assert event.duration == pytest.approx(noticed, abs=0.5)
                up = await next_of(events, kufeed.LinkUp)
                assert trio.current_time() - noticed <= 1.1  # the first step of the back-off
                assert up.connection == event.connection
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("busy", [False, True], ids=["quiet link", "busy link"])
async def test_a_missing_ack_is_noticed_in_time(autojump_clock: MockClock, busy: bool) -> None:
    """Asked once more after `ack_timeout`, and given up after twice that, however much else comes."""
    asked: list[float] = []

    async def peer(network: Failing, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                while busy:
                    await stream.send_all(frame(0x1, b'{"topic":"/market/ticker:BTC-USDT","type":"message"}') * 50)
                    await trio.sleep(0.05)

            with suppress(trio.BrokenResourceError):  # the client has left
                while True:
                    _, body = await network.read_frame(stream)
                    if b'"subscribe"' in body:
                        asked.append(trio.current_time())
            nursery.cancel_scope.cancel()

    failure = Failure("", "", "", peer)
    async with trio.open_nursery() as nursery:
        network = Failing(nursery, failure, 1.0)
        async with kufeed.open_feed(FeedConfig(), network=network) as feed, feed.ticker("BTC-USDT") as tickers:
            await trio.sleep(2)
            began = trio.current_time()
            with pytest.raises(kufeed.SubscriptionTimeout):
                await tickers.add("ETH-USDT")
            assert trio.current_time() - began <= BOUNDS["2 x ``ack_timeout``"]
            assert asked[1] - began <= BOUNDS["``ack_timeout``: asked again"]
        nursery.cancel_scope.cancel()


def test_the_page_shows_the_table() -> None:
    rows = re.findall(r"^   \* - (.+)\n     - (.+)\n     - (.+)$", PAGE.read_text(), re.MULTILINE)
    of_links = [(failure.name, f"`{failure.told.partition(': ')[0]}`", failure.within) for failure in FAILURES]
    of_acks = ("does not acknowledge a topic, on a quiet link or a busy one", "`SubscriptionTimeout`")
    expected = [
        *of_links,
        (*of_acks, "``ack_timeout``: asked again; 2 x ``ack_timeout``: told"),
    ]
    assert rows[1 : len(expected) + 1] == expected
