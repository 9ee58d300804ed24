"""The pipe behaves like a TCP connection, and a shared stream lets its writers take turns."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from kufeed.testing.streams import PipeStream, SharedStream, open_pipe


async def test_the_pipe_keeps_every_rule_of_trios_streams() -> None:
    async def make() -> tuple[PipeStream, PipeStream]:
        await trio.lowlevel.checkpoint()
        return open_pipe()

    async def make_clogged() -> tuple[PipeStream, PipeStream]:
        one, other = open_pipe(window=1000)
        await one.send_all(b"x" * 1000)
        await other.send_all(b"x" * 1000)
        return one, other

    await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_a_sender_waits_for_a_slow_reader() -> None:
    one, other = open_pipe(window=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send_all, b"0123456789abc")
        await trio.testing.wait_all_tasks_blocked()
        assert await other.receive_some() == b"0123456789"
        assert await other.receive_some() == b"abc"


async def test_what_was_sent_before_a_close_still_arrives() -> None:
    one, other = open_pipe()
    await one.send_all(b"last words")
    await one.aclose()
    assert await other.receive_some() == b"last words"
    assert await other.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await other.send_all(b"too late")


async def test_a_reset_loses_what_was_under_way_and_fails_at_once() -> None:
    one, other = open_pipe()
    await one.send_all(b"never read")
    one.reset()
    with pytest.raises(trio.BrokenResourceError):
        await other.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await other.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await one.receive_some()


async def test_writers_of_a_shared_stream_take_turns() -> None:
    one, other = open_pipe(window=4)
    shared = SharedStream(one)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shared.send_all, b"aaaaaaaa")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(shared.send_all, b"bbbbbbbb")
        received = b""
        while len(received) < 16:
            received += await other.receive_some()
    assert received == b"aaaaaaaabbbbbbbb"


async def test_bytes_read_already_come_first() -> None:
    one, other = open_pipe()
    await other.send_all(b" there")
    shared = SharedStream(one, b"hello")
    assert await shared.receive_some(3) == b"hel"
    assert await shared.receive_some() == b"lo"
    assert await shared.receive_some() == b" there"
