"""The cable between an exchange and its clients: all byte streams run through it, and what ails a line is its."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal, TypeVar

import trio

from kufeed.testing.cablestream import CableStream, finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from kufeed.testing.cablestream import Ending

HangStage = Literal["connect", "handshake"]
T = TypeVar("T")

_IN_FIRST_LINE = 8  # bytes of an answer: "HTTP/1.1"
_TICKS = 50  # pieces that a second's bytes of a narrow line come in


def _enter(table: dict[object, T], value: T, change: Callable[[], None] | None = None) -> Callable[[], None]:
    """Put *value* into *table*; what is returned takes it out again."""
    key = object()

    def leave() -> None:
        table.pop(key, None)
        if change is not None:
            change()

    table[key] = value
    if change is not None:
        change()
    return leave


class Cable:
    """What every connection to an exchange runs through, as `Exchange.cable`: the same in memory and over sockets.

    What can go wrong with a line goes wrong here; a `FaultPlan` does it by the clock, these methods do it now. Those
    that last return a function that ends what the call began, and nothing else. Where several of a kind go on, delays
    add up; otherwise the narrowest line and the smallest pieces hold. A line that is late, slow or in pieces loses
    nothing and keeps the order, and what still waits when that is over arrives.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"{seed}:cable")
        self._nursery: trio.Nursery | None = None
        self._streams: dict[CableStream, None] = {}
        self._buried: list[trio.abc.Stream] = []
        self._refusals: dict[object, None] = {}
        self._hangs: dict[object, HangStage] = {}
        self._delays: dict[object, tuple[float, float]] = {}
        self._bandwidths: dict[object, int] = {}
        self._drips: dict[object, tuple[int, float]] = {}
        self._splits: dict[object, int] = {}
        self._changed = trio.Event()
        self.slow = False
        """Whether what is sent takes time: else streams hand it on at once."""
        self.piece: int | None = None
        """In pieces of how many bytes things arrive, where they do."""

    def __repr__(self) -> str:
        return f"<Cable, {len(self._streams)} streams, {'slow' if self.slow else 'quick'}>"

    # What goes wrong

    @property
    def refuses(self) -> bool:
        """Whether new connections are refused."""
        return bool(self._refusals)

    def refuse(self) -> Callable[[], None]:
        """Refuse new connections."""
        return _enter(self._refusals, None)

    def hang(self, stage: HangStage = "connect") -> Callable[[], None]:
        """Leave new connections without an answer, or stop it in its first line: for good, also when this is over."""
        return _enter(self._hangs, stage)

    def cut(self, how: Ending = "fin", after: int = 0) -> None:
        """End every open connection once *after* more bytes were sent on it: with an end of file or a reset."""
        for stream in tuple(self._streams):
            stream.cut(how, after)

    def silence(self) -> None:
        """Make every open connection half-open: nothing arrives any more, either way, and nobody closes it."""
        for stream in tuple(self._streams):
            stream.silence()

    def stop_reading(self) -> Callable[[], None]:
        """Read nothing from any connection that is open now."""
        stopped = [stream.stop_reading() for stream in self._streams]

        def read_on() -> None:
            for go_on in stopped:
                go_on()

        return read_on

    def delay(self, seconds: float, jitter: float = 0.0) -> Callable[[], None]:
        """Let what is sent arrive *seconds* later, and up to *jitter* more by chance, in order."""
        return self._slow_down(self._delays, (seconds, jitter))

    def narrow(self, bytes_per_second: int) -> Callable[[], None]:
        """Let each connection carry so much and no more; the rest waits."""
        return self._slow_down(self._bandwidths, bytes_per_second)

    def drip(self, size: int, every: float) -> Callable[[], None]:
        """Let what is sent arrive *size* bytes at a time, *every* so many seconds."""
        return self._slow_down(self._drips, (size, every))

    def split(self, size: int) -> Callable[[], None]:
        """Let what is sent arrive in pieces of *size* bytes, without any delay."""
        return self._slow_down(self._splits, size)

    def garble(self, after: int = 0, count: int = 1) -> None:
        """Flip the bits of *count* bytes on every open connection, *after* so many more."""
        for stream in tuple(self._streams):
            stream.garble(after, count)

    # What follows is called by the exchange and by the streams only.

    def open(self, nursery: trio.Nursery) -> None:
        """What takes its time is under way in *nursery* from now on."""
        self._nursery = nursery

    def close(self) -> None:
        """The exchange is shut: what nobody closed is closed."""
        for raw in self._buried:
            finish(raw)
        self._buried.clear()

    def connect(self, raw: trio.abc.Stream) -> CableStream:
        """The exchange's end of a new connection, through the cable."""
        stream = CableStream(self, raw)
        self._streams[stream] = None
        for stage in self._hangs.values():
            if stage == "connect":
                stream.silence()
            else:
                stream.mute(after=_IN_FIRST_LINE)
        return stream

    def start(self, stream: CableStream) -> None:
        """Have what waits on *stream* be sent in its time."""
        if self._nursery is None:
            raise RuntimeError("this exchange is not open: use listen(), open() or MemoryNetwork")
        self._nursery.start_soon(stream.run, name="kufeed exchange: slow line")

    def forget(self, stream: CableStream) -> None:
        """*stream* has ended."""
        self._streams.pop(stream, None)

    def bury(self, raw: trio.abc.Stream) -> None:
        """Leave the dead end of a connection open: its client must not be told."""
        self._buried.append(raw)

    def draw_delays(self) -> dict[object, float]:
        """By how much each of the delays holds up what is sent now."""
        return {key: seconds + self._rng.uniform(0.0, jitter) for key, (seconds, jitter) in self._delays.items()}

    def lateness(self, delays: dict[object, float]) -> float:
        """How much of *delays* still stands."""
        return sum(seconds for key, seconds in delays.items() if key in self._delays)

    def pace(self) -> int | None:
        """How many bytes leave at a time; None for all that there are."""
        sizes = [max(1, rate // _TICKS) for rate in self._bandwidths.values()]
        sizes += [size for size, _ in self._drips.values()]
        return min(sizes, default=None)

    def pause(self, sent: int) -> float:
        """Seconds between *sent* bytes and the next ones."""
        pauses = [sent / rate for rate in self._bandwidths.values()]
        pauses += [every for _, every in self._drips.values()]
        return max(pauses, default=0.0)

    async def wait_change(self) -> None:
        """Wait until something slow begins or ends."""
        await self._changed.wait()

    def _slow_down(self, table: dict[object, T], value: T) -> Callable[[], None]:
        return _enter(table, value, self._change)

    def _change(self) -> None:
        self.slow = bool(self._delays or self._bandwidths or self._drips)
        self.piece = min(self._splits.values(), default=None)
        for stream in self._streams:
            stream.resize()
        self._changed.set()
        self._changed = trio.Event()
