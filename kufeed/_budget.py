"""Budgets that all feeds of a run share, so that the exchange's limits hold for them together: dials, REST weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from ._limiter import Permit, SlidingWindowLimiter
from ._shared_budget import SharedDialBudget
from ._untrusted import read_url
from .protocol import rest

if TYPE_CHECKING:
    import os

    from .protocol.market import Market

K = TypeVar("K")
V = TypeVar("V")


class DialLimiter(Protocol):
    """What `open_feed(dial_limiter=...)` takes: a `DialBudget`, a `SlidingWindowLimiter`, or one of your own."""

    async def acquire(self) -> Permit:
        """Wait for a dial's turn. Cancelled, it has taken nothing. An `OSError` counts as a failed dial."""
        ...


class DialBudget(SlidingWindowLimiter):
    """At most *dials* connections to one host in any *window* seconds; KuCoin allows 30 in a minute.

    A dial counts from its end, since the exchange may see it at any time before. Lane 1 is for what can wait: the
    links that replace others in time. By themselves, all feeds of a `trio.run` share one for each market's host; make
    one to give them another (``open_feed(dial_limiter=...)``).
    """

    def __init__(self, dials: int = 30, window: float = 60.0) -> None:
        super().__init__(dials, window, None, lanes=2, count_from="release")

    @staticmethod
    def shared(path: str | os.PathLike[str], dials: int = 30, window: float = 60.0) -> SharedDialBudget:
        """A budget for all processes of this machine that name the same file: see `SharedDialBudget`."""
        return SharedDialBudget(path, dials, window)


async def acquire_dial(dials: DialLimiter, *, can_wait: bool) -> Permit:
    """A turn of *dials*; those who *can_wait* come behind all others, where it tells them apart."""
    if can_wait and isinstance(dials, DialBudget):
        return await dials.acquire(lane=1)
    return await dials.acquire()


class RestBudget(SlidingWindowLimiter):
    """REST requests by their weight: at most *weight* in any *window* seconds; KuCoin allows 2000 in 30 s.

    A request counts from its end, as a dial does. Lane 0 is for what cannot wait: the tokens of
    connections; then come the snapshots of books, lane 1, and the rest.
    """

    def __init__(self, weight: int = rest.WEIGHT_PER_WINDOW, window: float = rest.WINDOW) -> None:
        super().__init__(weight, window, None, lanes=3, count_from="release")

    @staticmethod
    def of_this_run(budget_share: float = 1.0) -> RestBudget:
        """That of all feeds of this `trio.run` with that share: for requests of your own from the same address."""
        return rest_budgets(budget_share)[0]


class Quiet:
    """How long the exchange has asked this run to leave one host alone, or all of them."""

    def __init__(self, everywhere: Quiet | None = None) -> None:
        self.everywhere = everywhere
        self._until = -math.inf
        self._lifted = trio.Event()

    def ask(self, seconds: float) -> None:
        """From now on; a longer wait stays."""
        self._until = max(self._until, trio.current_time() + seconds)

    def lift(self) -> None:
        self._until = -math.inf
        self._lifted.set()
        self._lifted = trio.Event()
        if self.everywhere is not None:
            self.everywhere.lift()

    def until(self) -> float:
        return self._until if self.everywhere is None else max(self._until, self.everywhere.until())

    async def wait_over(self) -> None:
        """Wait until nothing is asked for any more, or it was lifted; not at all where that is so already."""
        while (until := self.until()) > trio.current_time():
            with trio.move_on_at(until):
                await self._lifted.wait()


# Trio's clock belongs to one run, so does a limiter: a module global would make the next run wait for hours.
_dials: trio.lowlevel.RunVar[dict[tuple[str, int], DialBudget]] = trio.lowlevel.RunVar("dial budgets")
_weights: trio.lowlevel.RunVar[dict[int, RestBudget]] = trio.lowlevel.RunVar("REST budgets")
_quiet: trio.lowlevel.RunVar[dict[str, Quiet]] = trio.lowlevel.RunVar("hosts to be left alone")

TOKEN_LANE, SNAPSHOT_LANE, OTHER_LANE = 0, 1, 2
"""Of a REST budget: without a token nothing streams at all, and without a snapshot a book cannot be read."""


def dial_budgets(base_url: str, market: Market, share: float) -> tuple[DialLimiter, ...]:
    """The budgets that all feeds of this `trio.run` share for dials to one market's host.

    The market's own always holds; feeds that were given a share of it have that in common besides.
    """
    budgets, host = _of_this_run(_dials), _host(base_url)
    limits = _limits(market.dials_per_minute, share)
    return tuple(budgets.setdefault((host, dials), DialBudget(dials)) for dials in limits)


def rest_budgets(share: float) -> tuple[RestBudget, ...]:
    """The budgets of REST weight that all feeds of this `trio.run` share: the exchange counts by address.

    Acquire the weight of a request from each before sending it, and release when the answer is in.
    """
    budgets = _of_this_run(_weights)
    limits = _limits(rest.WEIGHT_PER_WINDOW, share, least=rest.TOKEN.weight)
    return tuple(budgets.setdefault(weight, RestBudget(weight)) for weight in limits)


def quiet(base_url: str) -> Quiet:
    """What all feeds of this `trio.run` know of one market's host."""
    hosts = _of_this_run(_quiet)
    everywhere = hosts.setdefault("", Quiet())
    return hosts.setdefault(_host(base_url), Quiet(everywhere))


def _host(base_url: str) -> str:
    url = read_url(base_url, "http", "https")
    return f"{url.host}:{url.port}"


def _limits(whole: int, share: float, *, least: int = 1) -> list[int]:
    return sorted({whole, max(least, math.floor(whole * share))})


def _of_this_run(variable: trio.lowlevel.RunVar[dict[K, V]]) -> dict[K, V]:
    try:
        return variable.get()
    except LookupError:
        made: dict[K, V] = {}
        variable.set(made)
        return made
