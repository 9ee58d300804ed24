"""A sliding-window limiter: so much in any so many seconds, first come first served. Knows nothing of KuCoin."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from functools import partial
from typing import TYPE_CHECKING, Literal

import attrs
import trio

from .errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self


@attrs.frozen
class LimiterStatistics:
    """A limiter at one moment, as `SlidingWindowLimiter.statistics()` returns it."""

    used: int
    """Weight that counts now: what was acquired within the last window, or is held where that counts."""
    held: int
    """Permits that were acquired and not released yet."""
    waiting: int
    """Tasks in `acquire()`, all lanes together."""
    next_free: float
    """Seconds until there is room for one more, were nobody waiting; `math.inf` while that takes a release."""
    worst_window: int
    """The most weight that any window has had so far; never above `max_requests`."""


class SlidingWindowLimiter:
    """At most *max_requests* acquisitions in any *window* seconds, and at most *burst* of them held at once.

    ``async with limiter:`` acquires and, at the end of the block, releases; ``async with await limiter.acquire(3) as
    permit:`` does so with a weight. An acquisition of weight *n* counts as *n* requests and as one permit. Releasing
    frees a place among *burst* (None: as many as the window has), not in the window: that frees by time alone.

    First come, first served: a heavy request waits at the head of the queue, and no lighter one passes it. With
    *lanes*, those of lane 0 go before all of lane 1, and so on; who keeps lane 0 busy without pause has lane 1
    wait. Cancelling a waiter takes nothing from the budget and leaves the order of the others as it was.

    A window is half open: what was acquired at `t` counts until just before `t + window`. Where the thing that is
    limited happens some time after the acquisition, as a request that has to travel, count from its end:
    ``count_from="release"`` holds the place in the window while the permit is held, and has the window begin when it is
    released. So the limit holds for whatever moment in between the other side takes for the request's.

    It belongs to one `trio.run`, whose clock it counts by: the first that uses it. Used in another it raises
    `UsageError`. Raises `UsageError` for arguments that are impossible.
    """

    def __init__(
        self,
        max_requests: int = 1000,
        window: float = 10.0,
        burst: int | None = 100,
        *,
        lanes: int = 1,
        count_from: Literal["acquire", "release"] = "acquire",
    ) -> None:
        for name, value in ("max_requests", max_requests), ("lanes", lanes), ("burst", burst):
            if (type(value) is not int or value < 1) and not (name == "burst" and value is None):
                raise UsageError(f"{name} must be a whole number from 1 up, not {value!r}")
        if type(window) not in (int, float) or not 0 < window < math.inf:
            raise UsageError(f"window must be a positive number of seconds, not {window!r}")
        if count_from not in ("acquire", "release"):
            raise UsageError(f"count_from must be 'acquire' or 'release', not {count_from!r}")
        self.max_requests = max_requests
        self.window = window
        self.burst = burst
        self._counts_from_release = count_from == "release"
        self._lanes: tuple[OrderedDict[_Waiter, None], ...] = tuple(OrderedDict() for _ in range(lanes))
        self._counted: deque[_Place] = deque()  # in the order in which they leave the window
        self._used = 0
        self._held = 0
        self._entered: list[Permit] = []
        self._worst = 0
        self._paused_until = -math.inf
        self._run: trio.lowlevel.TrioToken | None = None

    async def acquire(self, weight: int = 1, *, lane: int = 0) -> Permit:
        """Wait for one's turn and for room, and take it. Release what it returns: ``async with await l.acquire():``.

        A checkpoint, always. Cancelled, it has taken nothing. Raises `UsageError` for a weight that no window has room
        for, and for a lane that there is not.
        """
        self._check(weight, lane)
        waiter = _Waiter(weight)
        self._lanes[lane][waiter] = None
        try:
            # A checkpoint before the take, never after: who was let in is not kept while its window runs.
            await trio.lowlevel.checkpoint()
            while (at := self._turn_of(waiter)) > trio.current_time():
                waiter.stirred = trio.Event()
                with trio.move_on_at(at):
                    await waiter.stirred.wait()
            return self._take(weight)
        finally:
            del self._lanes[lane][waiter]
            self._stir()

    def acquire_nowait(self, weight: int = 1, *, lane: int = 0) -> Permit:
        """Take room at once; `trio.WouldBlock` where there is none, or somebody of this lane or above waits for it."""
        self._check(weight, lane)
        if any(self._lanes[: lane + 1]) or self._room_at(weight) > trio.current_time():
            raise trio.WouldBlock
        return self._take(weight)

    def pause(self, seconds: float) -> None:
        """Have nobody acquire for *seconds* from now, as a server may ask by Retry-After. A longer pause stays.

        Raises `UsageError` for what is no number of seconds.
        """
        if type(seconds) not in (int, float) or not 0 <= seconds < math.inf:
            raise UsageError(f"a pause is a number of seconds, zero or more, not {seconds!r}")
        self._bind()
        self._paused_until = max(self._paused_until, trio.current_time() + seconds)

    def resume(self) -> None:
        """End a pause."""
        self._paused_until = -math.inf
        self._stir()

    async def __aenter__(self) -> None:
        self._entered.append(await self.acquire())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # No checkpoint: it would swap an error for Cancelled. The permits of such blocks are all alike.
        self._entered.pop().release()

    def statistics(self) -> LimiterStatistics:
        """What the limiter is at now. Within its `trio.run` only."""
        self._bind()
        now = trio.current_time()
        return LimiterStatistics(
            used=self._used_at(now),
            held=self._held,
            waiting=sum(map(len, self._lanes)),
            next_free=max(0.0, self._room_at(1) - now),
            worst_window=self._worst,
        )

    def __repr__(self) -> str:
        held = f"{self._held} held" if self.burst is None else f"{self._held} of {self.burst} held"
        waiting = sum(map(len, self._lanes))
        if self._run is not None and trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is self._run:
            self._used_at(trio.current_time())
        window = f"{self._used} of {self.max_requests} in {self.window:g} s"
        return f"<{type(self).__name__} {window}, {held}, {waiting} waiting>"

    # -- who is next, and when ----------------------------------------------------------------------------------------

    def _turn_of(self, waiter: _Waiter) -> float:
        """When *waiter* may take what it wants: not later than now, at a time, or not before it is stirred."""
        return self._room_at(waiter.weight) if self._first() is waiter else math.inf

    def _first(self) -> _Waiter | None:
        return next((next(iter(lane)) for lane in self._lanes if lane), None)

    def _stir(self) -> None:
        """Have the first who waits look again: it may have become the first, or there may be room."""
        if (first := self._first()) is not None:
            first.stirred.set()

    def _room_at(self, weight: int) -> float:
        if self.burst is not None and self._held >= self.burst:
            return math.inf
        return self._window_at(weight)

    def _window_at(self, weight: int) -> float:
        now = trio.current_time()
        missing = self._used_at(now) + weight - self.max_requests
        if missing <= 0:
            return max(now, self._paused_until)
        for place in self._counted:
            missing -= place.weight
            if missing <= 0:
                return max(place.leaves_at, self._paused_until)
        return math.inf

    def _used_at(self, now: float) -> int:
        while self._counted and self._counted[0].leaves_at <= now:
            self._used -= self._counted.popleft().weight
        return self._used

    # -- taking and giving back ---------------------------------------------------------------------------------------

    def _take(self, weight: int) -> Permit:
        self._used += weight
        self._held += 1
        self._worst = max(self._worst, self._used)
        place = _Place(weight)
        if not self._counts_from_release:
            self._begin_window(place)
        return Permit(weight, partial(self._give_back, place))

    def _begin_window(self, place: _Place) -> None:
        place.leaves_at = trio.current_time() + self.window
        self._counted.append(place)

    def _give_back(self, place: _Place, unused: bool) -> None:
        self._held -= 1
        if unused:
            if place in self._counted:
                self._counted.remove(place)
                self._used -= place.weight
            elif self._counts_from_release:
                self._used -= place.weight
        elif self._counts_from_release:
            self._begin_window(place)
        self._stir()

    # -- checks -------------------------------------------------------------------------------------------------------

    def _check(self, weight: int, lane: int) -> None:
        if type(weight) is not int or not 1 <= weight <= self.max_requests:
            raise UsageError(f"weight must be a whole number from 1 to {self.max_requests}, not {weight!r}")
        if type(lane) is not int or not 0 <= lane < len(self._lanes):
            raise UsageError(f"lane must be a whole number from 0 to {len(self._lanes) - 1}, not {lane!r}")
        self._bind()

    def _bind(self) -> None:
        run = trio.lowlevel.current_trio_token()
        if self._run is None:
            self._run = run
        elif self._run is not run:
            raise UsageError("this limiter counts by the clock of another trio.run; make one for each run")


class Permit:
    """One acquisition, held until it is released. ``async with`` and ``with`` release it, neither of them waiting."""

    def __init__(self, weight: int, give_back: Callable[[bool], None]) -> None:
        self.weight = weight
        self._give_back: Callable[[bool], None] | None = give_back

    def release(self, *, unused: bool = False) -> None:
        """Free the place among those held; *unused*: also in the window, since nothing happened. Idempotent."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(unused)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Permit of weight {self.weight}, {'released' if self._give_back is None else 'held'}>"


@attrs.define(eq=False)
class _Waiter:
    """Somebody in `acquire()`."""

    weight: int
    stirred: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False)
class _Place:
    """What an acquisition takes of the window: so much, until then."""

    weight: int
    leaves_at: float = math.inf
