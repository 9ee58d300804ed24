"""The cable: nothing of its own while nothing is wrong, and each fault the same over pipes and over sockets."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from kufeed.testing.cable import Cable
from kufeed.testing.cablestream import CableStream, finish
from kufeed.testing.streams import open_pipe

DATA = bytes(range(256)) * 4

Ends = tuple[CableStream, trio.abc.Stream]
Opener = Callable[[Cable], Awaitable[Ends]]
SOCKETS: list[trio.abc.Stream] = []  # to be closed at the end of a test


async def over_a_pipe(cable: Cable) -> Ends:
    ours, theirs = open_pipe()
    await trio.lowlevel.checkpoint()
    return cable.connect(ours), theirs


async def over_a_socket(cable: Cable) -> Ends:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        theirs = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        raw = await listener.accept()
        SOCKETS.extend((raw, theirs))
        return cable.connect(raw), theirs


either = pytest.mark.parametrize("opened", [over_a_pipe, over_a_socket])


@asynccontextmanager
async def plugged() -> AsyncIterator[Cable]:
    """A cable of an open exchange."""
    cable = Cable(0)
    async with trio.open_nursery() as nursery:
        cable.open(nursery)
        try:
            with trio.fail_after(20):  # noqa: ASYNC100  # what the body does
                yield cable
        finally:
            while SOCKETS:
                await trio.aclose_forcefully(SOCKETS.pop())
        nursery.cancel_scope.cancel()
    cable.close()


async def read(stream: trio.abc.Stream, count: float = math.inf) -> bytes:
    """So many bytes, or all to the end of the file."""
    received = b""
    while len(received) < count:
        data = await stream.receive_some()
        if not data:
            break
        received += data
    return received


async def pieces(stream: trio.abc.Stream, count: int) -> list[tuple[float, bytes]]:
    """When what came, up to so many bytes."""
    came: list[tuple[float, bytes]] = []
    while sum(len(data) for _, data in came) < count:
        data = bytes(await stream.receive_some())
        assert data
        came.append((trio.current_time(), data))
    return came


@pytest.mark.parametrize("piece", [None, 5000])
async def test_it_keeps_every_rule_of_trios_streams(piece: int | None) -> None:
    async with plugged() as cable:
        if piece:
            cable.split(piece)

        async def make() -> tuple[CableStream, CableStream]:
            await trio.lowlevel.checkpoint()
            one, other = open_pipe()
            return cable.connect(one), cable.connect(other)

        await trio.testing.check_two_way_stream(make, None)


@either
async def test_both_ways_without_faults(opened: Opener) -> None:
    async with plugged() as cable:
        ours, theirs = await opened(cable)
        await ours.send_all(DATA)
        await theirs.send_all(b"hello")
        assert await read(theirs, len(DATA)) == DATA
        assert await ours.receive_some() == b"hello"
        assert "1 streams, quick" in repr(cable)
        await theirs.aclose()
        assert await ours.receive_some() == b""
        await ours.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await ours.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some()
        assert "0 streams" in repr(cable)


@either
@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_cut_at_once(opened: Opener, how: str) -> None:
    async with plugged() as cable:
        ours, theirs = await opened(cable)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def reads() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await ours.receive_some()

            await trio.sleep(0.05)
            cable.cut(how)  # type: ignore[arg-type]
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")
        if how == "fin":
            assert await theirs.receive_some() == b""
        else:
            with pytest.raises(trio.BrokenResourceError):
                await theirs.receive_some()
        await ours.aclose()


@either
@pytest.mark.parametrize("piece", [None, 100_000])
async def test_a_cut_wakes_who_is_stuck_in_a_send_or_closes(opened: Opener, piece: int | None) -> None:
    async with plugged() as cable:
        if piece:
            cable.split(piece)
        for told in (trio.BrokenResourceError, trio.ClosedResourceError):
            ours, _ = await opened(cable)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def sends(ours: CableStream = ours, told: type[Exception] = told) -> None:
                    with pytest.raises(told):
                        await ours.send_all(bytes(50_000_000))

                await trio.sleep(0.1)
                if told is trio.ClosedResourceError:
                    await ours.aclose()
                else:
                    cable.cut("reset")


@either
@pytest.mark.parametrize("after", [1, 3, 100, 1024])
async def test_a_cut_after_so_many_bytes(opened: Opener, after: int) -> None:
    async with plugged() as cable:
        ours, theirs = await opened(cable)
        await ours.send_all(b"before")
        cable.cut("reset", 2000)
        cable.cut("fin", after)
        cable.cut("reset", after + 1)
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(DATA)
        assert await read(theirs) == b"before" + DATA[:after]


@either
async def test_garbled_bytes(opened: Opener) -> None:
    async with plugged() as cable:
        ours, theirs = await opened(cable)
        await ours.send_all(b"..")
        cable.garble(3, 4)
        cable.garble(5, 3)  # some are hit twice: they are wrong all the same
        await ours.send_all(bytes(6))
        await ours.send_all(bytes(6))
        assert await read(theirs, 14) == b"..\0\0\0\xff\xff\xff\xff\xff\0\0\0\0"


@either
async def test_half_open_is_for_good_and_for_those_that_were_there(opened: Opener) -> None:
    async with plugged() as cable:
        ours, theirs = await opened(cable)
        cable.silence()
        later, client = await opened(cable)
        await later.send_all(b"alive")
        assert await client.receive_some() == b"alive"
        await ours.send_all(DATA)
        await theirs.send_all(b"anybody?")
        cable.cut("reset")
        with trio.move_on_after(0.05) as patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, ours, 1)
                nursery.start_soon(read, theirs, 1)
        assert patience.cancelled_caught
        await ours.aclose()
        with trio.move_on_after(0.05) as patience:
            await theirs.receive_some()
        assert patience.cancelled_caught, "not even that it ends"
        cable.close()
        with pytest.raises(trio.BrokenResourceError):  # an end of file where nothing was left unread
            if not await theirs.receive_some():
                raise trio.BrokenResourceError


@either
@pytest.mark.parametrize(("stage", "told"), [("connect", b""), ("handshake", b"HTTP/1.1")])
async def test_who_comes_hangs(opened: Opener, stage: str, told: bytes) -> None:
    async with plugged() as cable:
        before = await opened(cable)
        over = cable.hang(stage)  # type: ignore[arg-type]
        ours, theirs = await opened(cable)
        over()
        after = await opened(cable)
        for served, client in (before, after):
            await served.send_all(b"HTTP/1.1 200 OK")
            assert await client.receive_some() == b"HTTP/1.1 200 OK"
        await theirs.send_all(b"GET")
        with trio.move_on_after(0.05) as patience:
            await ours.receive_some()
        assert patience.cancelled_caught == (stage == "connect")
        await ours.send_all(b"HTTP/1.1 200 OK")
        received = bytearray()
        with trio.move_on_after(0.05) as patience:
            while True:
                received += await theirs.receive_some()
        assert received == told


@either
async def test_it_stops_reading_and_reads_on_when_the_last_stop_is_over(opened: Opener) -> None:
    async with plugged() as cable:
        ours, theirs = await opened(cable)
        async with trio.open_nursery() as nursery:
            taken: list[bytes] = []

            @nursery.start_soon
            async def reads() -> None:
                taken.append(await read(ours, 5))

            await trio.sleep(0.05)
            first, second = cable.stop_reading(), cable.stop_reading()
            sent = trio.Event()

            @nursery.start_soon
            async def sends() -> None:
                await theirs.send_all(b"hello")
                sent.set()

            await trio.sleep(0.05)
            first()
            first()
            await trio.sleep(0.05)
            if opened is over_a_pipe:
                assert not sent.is_set(), "it is stuck at once"
            await ours.send_all(b"it goes on sending")
            assert taken == []
            second()
        assert taken == [b"hello"]
        assert await theirs.receive_some() == b"it goes on sending"


async def test_a_client_of_who_does_not_read_is_stuck_over_sockets_too() -> None:
    async with plugged() as cable:
        _, theirs = await over_a_socket(cable)
        cable.stop_reading()
        with trio.move_on_after(0.2) as patience:
            while True:
                await theirs.send_all(bytes(1_000_000))
        assert patience.cancelled_caught


@either
@pytest.mark.parametrize("size", [1, 7])
async def test_pieces(opened: Opener, size: int) -> None:
    async with plugged() as cable:
        ours, theirs = await opened(cable)
        over, larger = cable.split(size), cable.split(100)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, DATA[:210])
            came = await pieces(theirs, 210)
        assert b"".join(data for _, data in came) == DATA[:210]
        if opened is over_a_pipe:
            assert [len(data) for _, data in came] == [size] * (210 // size)
        else:
            assert len(came) > 10
        over()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, DATA)
            came = await pieces(theirs, len(DATA))
        if opened is over_a_pipe:
            assert [len(data) for _, data in came] == [100] * 10 + [24]
        larger()
        await ours.send_all(DATA)
        assert await theirs.receive_some() == DATA


async def test_delays_add_up_and_keep_the_order(autojump_clock: MockClock) -> None:
    async with plugged() as cable:
        ours, theirs = await over_a_pipe(cable)
        first, second = cable.delay(1.0), cable.delay(0.5)
        await ours.send_all(b"a")  # to arrive at 1.5
        await trio.sleep(0.25)
        second()  # the first stands: a arrives at 1.0
        await ours.send_all(b"b")  # at 1.25
        await trio.sleep(0.25)
        assert await pieces(theirs, 2) == [(1.0, b"a"), (1.25, b"b")]
        await ours.send_all(b"c")
        await ours.aclose()
        first()
        assert await pieces(theirs, 1) == [(1.25, b"c")]
        assert await theirs.receive_some() == b""


async def test_an_end_of_file_is_late_too_and_a_delay_without_end_can_be_ended(autojump_clock: MockClock) -> None:
    async with plugged() as cable:
        ours, theirs = await over_a_pipe(cable)
        over = cable.delay(2.0)
        await ours.aclose()
        assert await theirs.receive_some() == b""
        assert trio.current_time() == 2.0
        over()
        ours, theirs = await over_a_pipe(cable)
        over = cable.delay(math.inf)
        await ours.send_all(b"x")
        await trio.sleep(5)
        over()
        assert await pieces(theirs, 1) == [(7.0, b"x")]


async def test_jitter_repeats_by_the_seed_and_keeps_the_order(autojump_clock: MockClock) -> None:
    runs = []
    for _ in range(2):
        async with plugged() as cable:
            begun = trio.current_time()
            ours, theirs = await over_a_pipe(cable)
            cable.delay(0.1, 0.2)
            for number in range(20):
                await ours.send_all(bytes([number]))
                await trio.sleep(0.01)
            came = await pieces(theirs, 20)
            assert b"".join(data for _, data in came) == bytes(range(20))
            runs.append([round(at - begun, 9) for at, data in came for _ in data])
    assert runs[0] == runs[1]


async def test_a_narrow_line(autojump_clock: MockClock) -> None:
    async with plugged() as cable:
        ours, theirs = await over_a_pipe(cable)
        wide, narrow = cable.narrow(2000), cable.narrow(100)
        await ours.send_all(DATA[:1000])
        await trio.sleep(5)
        narrow()
        came = await pieces(theirs, 1000)
        assert came[0] == (5.0, DATA[:502])
        assert came[-1][0] == pytest.approx(5.0 + 498 / 2000, abs=0.05)
        await ours.send_all(DATA)
        await ours.send_all(DATA)
        wide()
        assert await read(theirs, 2048) == DATA + DATA


async def test_a_drip(autojump_clock: MockClock) -> None:
    async with plugged() as cable:
        ours, theirs = await over_a_pipe(cable)
        slow, small = cable.drip(10, 1.0), cable.drip(5, 0.1)
        await ours.send_all(DATA[:30])
        assert await pieces(theirs, 15) == [(0.0, DATA[:5]), (1.0, DATA[5:10]), (2.0, DATA[10:15])]
        slow()
        came = await pieces(theirs, 10)
        assert [(round(at, 6), data) for at, data in came] == [(2.1, DATA[15:20]), (2.2, DATA[20:25])]
        small()
        assert await theirs.receive_some() == DATA[25:30]


async def test_what_is_sent_when_it_is_over_waits_for_what_was_sent_before(autojump_clock: MockClock) -> None:
    async with plugged() as cable:
        ours, theirs = await over_a_pipe(cable)
        over = cable.delay(0.1)
        await ours.send_all(bytes(200_000))
        await ours.send_all(bytes(200_000))
        await trio.sleep(1)  # the pipe is full
        over()
        await ours.send_all(b"last")
        assert await read(theirs, 400_004) == bytes(400_000) + b"last"


async def test_what_is_under_way_is_bounded(autojump_clock: MockClock) -> None:
    async with plugged() as cable:
        ours, theirs = await over_a_pipe(cable)
        over = cable.delay(math.inf)
        sent = 0
        with trio.move_on_after(1):
            while True:
                await ours.send_all(bytes(10_000))
                sent += 10_000
        assert 250_000 <= sent <= 280_000
        over()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.wait_send_all_might_not_block)
            assert await read(theirs, sent) == bytes(sent)


@either
async def test_a_cut_ends_what_is_under_way(opened: Opener) -> None:
    async with plugged() as cable:
        ours, theirs = await opened(cable)
        cable.delay(math.inf)
        await ours.send_all(DATA)
        cable.cut("fin")
        assert await theirs.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")
        await ours.aclose()
        await trio.sleep(0.01)
        assert cable._nursery is not None
        assert not cable._nursery.child_tasks, "nothing waits for the end of the delay"


async def test_a_slow_line_to_who_is_gone_breaks(autojump_clock: MockClock) -> None:
    async with plugged() as cable:
        ours, theirs = await over_a_pipe(cable)
        cable.delay(0.1)
        await theirs.aclose()
        await ours.send_all(DATA)
        await trio.sleep(1)
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(DATA)


async def test_a_cable_of_a_shut_exchange_says_so() -> None:
    cable = Cable(0)
    ours, _ = await over_a_pipe(cable)
    cable.delay(1.0)
    with pytest.raises(RuntimeError, match="not open"):
        await ours.send_all(b"x")


async def test_any_stream_can_run_through_it() -> None:
    async with plugged() as cable:
        one, other = trio.testing.memory_stream_pair()
        ours = cable.connect(one)
        cable.split(1)
        await ours.send_all(b"abc")
        assert await other.receive_some() == b"abc"
        cable.stop_reading()()
        finish(one)  # there is no way to do that
        await ours.aclose()
        assert await other.receive_some() == b""


SLOW = st.one_of(
    st.tuples(st.just("delay"), st.floats(0, 0.5), st.floats(0, 0.3)),
    st.tuples(st.just("narrow"), st.integers(500, 5000)),
    st.tuples(st.just("drip"), st.integers(1, 64), st.floats(0.001, 0.05)),
    st.tuples(st.just("split"), st.integers(1, 7)),
)


@settings(max_examples=50, deadline=None)
@given(
    faults=st.lists(st.tuples(st.floats(0, 3), st.floats(0, 3), SLOW), max_size=5),
    sends=st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 300)), min_size=1, max_size=15),
)
def test_slow_lines_lose_nothing_and_keep_the_order(
    faults: list[tuple[float, float, tuple[str, float, float]]], sends: list[tuple[float, int]]
) -> None:
    async def main() -> None:
        async with plugged_for_long() as cable, trio.open_nursery() as nursery:
            ours, theirs = await over_a_pipe(cable)
            for at, lasting, (name, *numbers) in faults:

                async def strike(at: float = at, lasting: float = lasting, name: str = name, *numbers: float) -> None:
                    await trio.sleep(at)
                    end = getattr(cable, name)(*numbers)
                    await trio.sleep(lasting)
                    end()

                nursery.start_soon(strike, at, lasting, name, *numbers)

            @nursery.start_soon
            async def send() -> None:
                for wait, size in sends:
                    await trio.sleep(wait)
                    await ours.send_all(DATA[:size])
                await ours.aclose()

            assert await read(theirs) == b"".join(DATA[:size] for _, size in sends)

    trio.run(main, clock=MockClock(autojump_threshold=0))


@asynccontextmanager
async def plugged_for_long() -> AsyncIterator[Cable]:
    cable = Cable(0)
    async with trio.open_nursery() as nursery:
        cable.open(nursery)
        with trio.fail_after(1000):  # noqa: ASYNC100  # as above
            yield cable
        nursery.cancel_scope.cancel()


async def test_it_costs_next_to_nothing_while_nothing_is_wrong() -> None:
    """Some 0.4 µs for a send, which takes 7 over a pipe alone and more over a socket."""

    async def cost(ours: trio.abc.Stream, theirs: trio.abc.Stream) -> float:
        begun = time.perf_counter()
        for _ in range(200):
            await ours.send_all(b"x" * 100)
        await read(theirs, 20_000)
        return time.perf_counter() - begun

    async with plugged() as cable:
        through, alone = [], []
        for _ in range(15):  # by turns: the machine has its moods
            through.append(await cost(*await over_a_pipe(cable)))
            alone.append(await cost(*open_pipe()))
        assert min(through) < 2 * min(alone)
