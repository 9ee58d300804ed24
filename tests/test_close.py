"""Saying goodbye: politely where somebody listens, and never waiting for whom nobody can make answer."""

from __future__ import annotations

import json
import math
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
from trio.testing import MemorySendStream, MockClock, memory_stream_pair

import kufeed
from kufeed import FeedConfig
from tests.test_websocket import answer, frame, read_head

Peer = Callable[[trio.abc.Stream], Awaitable[None]]


class Scripted:
    """A network whose token endpoint works, and whose WebSockets are welcomed, acked, and then left to *peer*."""

    ssl_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, nursery: trio.Nursery, peer: Peer) -> None:
        self.nursery = nursery
        self.peer = peer
        self.upgrades: list[float] = []
        self.streams: list[trio.StapledStream] = []

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = memory_stream_pair()
        self.streams.append(ours)
        self.nursery.start_soon(self._serve, theirs, host)
        return ours

    async def _serve(self, stream: trio.abc.Stream, host: str) -> None:
        with suppress(trio.BrokenResourceError):  # the client is gone
            await self._converse(stream)

    async def _converse(self, stream: trio.abc.Stream) -> None:
        head = await read_head(stream)
        if head.startswith(b"POST"):
            server = {"endpoint": "wss://ws.kucoin.com/", "pingInterval": 18000, "pingTimeout": 10000}
            data = {"token": "x", "instanceServers": [server]}
            body = json.dumps({"code": "200000", "data": data}).encode()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            return
        self.upgrades.append(trio.current_time())
        await stream.send_all(answer(head) + frame(0x1, b'{"id":"1","type":"welcome"}'))
        opcode, body = await self.read_frame(stream)
        if opcode == 0x8:
            await stream.send_all(frame(0x8, body))
            return
        request = json.loads(body)
        await stream.send_all(frame(0x1, json.dumps({"id": request["id"], "type": "ack"}).encode()))
        await self.peer(stream)

    async def read_frame(self, stream: trio.abc.Stream) -> tuple[int, bytes]:
        """One masked frame of the client's: opcode and payload."""
        first, length = await self._exactly(stream, 2)
        length &= 127
        if length == 126:
            (length,) = struct.unpack("!H", await self._exactly(stream, 2))
        mask, body = await self._exactly(stream, 4), await self._exactly(stream, length)
        return first & 0xF, bytes(byte ^ mask[index % 4] for index, byte in enumerate(body))

    async def _exactly(self, stream: trio.abc.Stream, count: int) -> bytes:
        data = b""
        while len(data) < count:
            received = await stream.receive_some(count - len(data))
            if not received:
                raise trio.BrokenResourceError
            data += received
        return data

    time_ns = staticmethod(lambda: 0)
    perf_counter = staticmethod(trio.current_time)


def close(code: int) -> bytes:
    return frame(0x8, struct.pack("!H", code))


async def read_close(stream: trio.abc.Stream) -> int:
    """The code of the client's close frame; fails where something else comes."""
    data = b""
    while len(data) < 8:
        received = await stream.receive_some(8 - len(data))
        assert received, "the connection ended without a close frame"
        data += received
    assert data[0] == 0x88
    return int(struct.unpack("!H", bytes([data[6] ^ data[2], data[7] ^ data[3]]))[0])


async def test_a_peer_that_closes_and_keeps_the_connection_is_not_waited_for(autojump_clock: MockClock) -> None:
    """Its close is answered with its own code, and the next dial is only the back-off away."""

    async def peer(stream: trio.abc.Stream) -> None:
        await trio.sleep(10)
        await stream.send_all(close(1012))
        assert await read_close(stream) == 1012
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        network = Scripted(nursery, peer)
        async with kufeed.open_feed(FeedConfig(reconnect_delay=0.5), network=network) as feed:
            async with feed.ticker("BTC-USDT"):
                await trio.sleep(11)
                assert feed.statistics().connections[0].last_failure == "closed with code 1012"
        nursery.cancel_scope.cancel()
    assert network.upgrades[1] - network.upgrades[0] <= 10.5


@pytest.mark.parametrize("answers", [True, False])
async def test_our_close_has_a_code_and_is_bounded(autojump_clock: MockClock, answers: bool) -> None:
    codes: list[int] = []

    async def peer(stream: trio.abc.Stream) -> None:
        codes.append(await read_close(stream))
        if answers:
            await stream.send_all(close(1000))
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        network = Scripted(nursery, peer)
        async with kufeed.open_feed(FeedConfig(close_timeout=1.5), network=network) as feed:
            async with feed.ticker("BTC-USDT"):
                start = trio.current_time()
        assert trio.current_time() - start == pytest.approx(0.0 if answers else 1.5, abs=0.01)
        nursery.cancel_scope.cancel()
    assert codes == [1000]


async def test_a_link_that_is_not_needed_any_more_is_closed_in_its_time(autojump_clock: MockClock) -> None:
    """Also where the feed goes on and the peer does not answer."""
    times: list[float] = []

    async def peer(stream: trio.abc.Stream) -> None:
        await network.read_frame(stream)  # the topic is given back
        assert await read_close(stream) == 1000
        times.append(trio.current_time())
        assert await stream.receive_some(1) == b""
        times.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        network = Scripted(nursery, peer)
        async with kufeed.open_feed(FeedConfig(linger=3.0, close_timeout=1.5), network=network) as feed:
            async with feed.ticker("BTC-USDT"):
                pass
            await trio.sleep(20)
    assert times == pytest.approx([3.0, 4.5], abs=0.01)


async def test_a_link_that_cannot_send_is_replaced_at_once(autojump_clock: MockClock) -> None:
    """Though reading goes on as if nothing had happened."""

    async def fail() -> None:
        raise trio.BrokenResourceError from ConnectionResetError("reset by the peer")

    async def peer(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        network = Scripted(nursery, peer)
        async with kufeed.open_feed(FeedConfig(reconnect_delay=0.5), network=network) as feed:
            async with feed.ticker("BTC-USDT") as tickers:
                assert isinstance(network.streams[-1].send_stream, MemorySendStream)
                network.streams[-1].send_stream.send_all_hook = fail
                with trio.move_on_after(1):
                    await tickers.add("ETH-USDT")
                assert feed.statistics().connections[0].last_failure == "closed with code 1006: reset by the peer"
        nursery.cancel_scope.cancel()
    assert len(network.upgrades) == 2


@pytest.mark.parametrize(
    ("sent", "code"), [(frame(0x1, b"\xff"), 1007), (frame(0x3), 1002), (frame(0x1, b"x" * 5000), 1009)]
)
async def test_a_violation_is_told_and_the_link_replaced(autojump_clock: MockClock, sent: bytes, code: int) -> None:
    """At once: who breaks the protocol is not asked for an answer, and what it sends is read no further."""
    codes: list[int] = []

    async def peer(stream: trio.abc.Stream) -> None:
        await trio.sleep(10)
        await stream.send_all(sent)
        codes.append(await read_close(stream))
        assert await stream.receive_some(1) == b""
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        network = Scripted(nursery, peer)
        config = FeedConfig(max_message_size=4000, reconnect_delay=0.5)
        async with kufeed.open_feed(config, network=network) as feed, feed.ticker("BTC-USDT"):
            await trio.sleep(11)
        nursery.cancel_scope.cancel()
    assert codes == [code]
    assert network.upgrades[1] - network.upgrades[0] <= 10.5


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope after a number of steps of the task with a name, and remembers when."""

    def __init__(self, name: str, steps: int, scope: trio.CancelScope) -> None:
        self.name = name
        self.left = steps
        self.scope = scope
        self.at = math.inf

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= task.name == self.name
        if self.left == 0:
            self.scope.cancel()
            self.at = trio.current_time()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_feed_that_is_cancelled_as_its_upgrade_succeeds_waits_for_nobody(steps: int) -> None:
    """The peer would answer our close, but the reader of its answer has ended already.

    Whether its last step or the link's next comes first is left to Trio's dice.
    """

    async def main() -> None:
        async def peer(stream: trio.abc.Stream) -> None:
            while (await network.read_frame(stream))[0] != 0x8:
                pass
            await stream.send_all(close(1000))

        async with trio.open_nursery() as nursery:
            network = Scripted(nursery, peer)
            with trio.CancelScope() as scope:
                cancel = CancelAfter("reader", steps, scope)
                trio.lowlevel.add_instrument(cancel)
                async with kufeed.open_feed(FeedConfig(), network=network) as feed, feed.ticker("BTC-USDT"):
                    await trio.sleep(1)
            assert trio.current_time() <= min(cancel.at, 1) + 0.1
            nursery.cancel_scope.cancel()
            cancelled.append(scope.cancelled_caught)

    cancelled: list[bool] = []
    for _ in range(30):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    assert all(cancelled) or steps == 3
