"""`run()`: a whole Trio program against the simulated exchange, judged."""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs
import trio
import trio.testing

from kufeed._observing import CONDITIONS, Conditions
from kufeed.testing.chances import fixed_chances
from kufeed.testing.exchange import Exchange
from kufeed.testing.judge import Finding, Offence, check_delivery
from kufeed.testing.leaks import CountedNetwork, leaks, living_tasks
from kufeed.testing.network import EPOCH_NS, LoopbackNetwork, MemoryNetwork
from kufeed.testing.observer import FeedObserver
from kufeed.testing.plans import FaultPlan
from kufeed.testing.services import open_services
from kufeed.testing.stuck import Stuck, break_off

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kufeed.testing.witness import Witness


T = TypeVar("T")

_LAST_WORDS = 0.5
"""Seconds between the end of the program and the judgement: what was under way then has arrived."""
_SETTLE = 60.0
_PATIENCE = 120.0
"""Seconds in which a program that was cancelled has to end: its own clean-up may take some."""
_LOOK_AGAIN = 1.0
_MOMENT = 0.617
"""Seconds between two breaks: no round number, or a loop that sleeps by those would never be found waiting."""


@attrs.frozen(kw_only=True, eq=False)
class Report(Generic[T]):
    """What became of a run: what the program returned or raised, what its feeds' consumers saw, and the verdict."""

    plan: FaultPlan
    seed: int
    call: str
    """What was run, and how."""
    result: T | None
    """What it returned; None too where it raised, or was ended because its time was over."""
    error: Exception | None
    """What it raised."""
    ended: bool
    """Whether it ended by itself."""
    seconds: float
    """How long it ran, in virtual time."""
    findings: tuple[Finding, ...]
    """The verdict: empty where nothing was wrong."""
    witnesses: tuple[Witness, ...]
    """What each subscription was handed, in the order in which they were made."""
    exchange: Exchange
    """The exchange, as it was left."""

    def check(self) -> None:
        """Raise what the program raised, or `AssertionError` with all findings and the line that runs this again."""
        __tracebackhide__ = True
        if self.error is not None:
            note = f"again: {self.reproducer}"
            if note not in getattr(self.error, "__notes__", ()):
                self.error.add_note(note)
            raise self.error
        if self.findings:
            raise AssertionError("\n".join([*map(str, self.findings), f"again: {self.reproducer}"]))

    @property
    def reproducer(self) -> str:
        """A line that runs the same again, with ``from kufeed.testing import FaultPlan, faults``.

        An expression where the program and its arguments have such names; over sockets, one to await.
        """
        return f"kufeed.testing.{self.call}"

    @property
    def offences(self) -> frozenset[Offence]:
        """What kinds of findings there are."""
        return frozenset(finding.offence for finding in self.findings)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all that was seen, when, and of the verdict: equal where two runs went the same way."""
        digest = hashlib.sha256()
        for witness in self.witnesses:
            for sighting in (*witness.sightings, *witness.told):
                digest.update(f"{sighting.at!r} {sighting.what!r}\n".encode())
        digest.update(f"{self.findings!r} {self.error!r} {self.seconds!r} {self.exchange.statistics()!r}".encode())
        return digest.hexdigest()

    def __str__(self) -> str:
        counts = Counter(str(finding.offence) for finding in self.findings)
        verdict = ", ".join(f"{count} × {offence}" for offence, count in counts.items()) or "nothing wrong"
        if self.error is not None:
            verdict += f", and it raised {type(self.error).__name__}"
        seen = sum(len(witness.sightings) for witness in self.witnesses)
        return f"{verdict}; {self.seconds:.1f} s, {seen} seen; {self.reproducer}"


def run(
    app: Callable[..., Awaitable[T]],
    *args: Any,
    plan: FaultPlan | None = None,
    seed: int = 0,
    exchange: Callable[[], Exchange] | None = None,
    settle: float = _SETTLE,
    calm: float | None = None,
) -> Report[T]:
    """Run a whole Trio program, as `trio.run(app, *args)` would, against a simulated exchange on which *plan* plays.

    `judged()` in a Trio run of its own, whose clock is virtual and jumps whenever every task waits, so that minutes
    take milliseconds. Besides, tasks that are left are found (`Offence.LEAK`). Everything that is drawn is drawn from
    *seed*: the market, jitter, the order in which Trio runs tasks, and Python's own `random` functions; the same
    arguments give the same report, in any process. What the program takes from the world beside the feed, such as
    `time.time()`, sockets and threads, stays real, and while a thread works the virtual clock runs away: keep
    `trio.to_thread` out of what is to go the same way again.

    May not be called inside of a Trio run: there, await `judged()`.
    """

    async def alone() -> Report[T]:
        before = living_tasks()
        report = await judged(app, *args, plan=plan, seed=seed, exchange=exchange, settle=settle, calm=calm)
        await trio.testing.wait_all_tasks_blocked()
        left = leaks(living_tasks() - before, "tasks run")
        return attrs.evolve(report, findings=(*report.findings, *left))

    with fixed_chances(seed):
        return trio.run(alone, clock=trio.testing.MockClock(autojump_threshold=0))


async def judged(
    app: Callable[..., Awaitable[T]],
    *args: Any,
    plan: FaultPlan | None = None,
    seed: int = 0,
    exchange: Callable[[], Exchange] | None = None,
    network: type[MemoryNetwork | LoopbackNetwork] = MemoryNetwork,
    settle: float = _SETTLE,
    calm: float | None = None,
) -> Report[T]:
    """Run a whole Trio program against a simulated exchange on which *plan* plays, and judge what it was handed.

    The program needs no change: where it calls `kufeed.open_feed()` without a network of its own, it gets one on which
    only KuCoin's hosts exist: a *network* of this kind, in memory or over loopback sockets. It runs until it returns or
    raises, or is cancelled as by Ctrl-C, *settle* seconds after the last fault was over; with *calm* sooner, so many
    seconds after each of its streams has brought something since, but for delisted symbols. Then `check_delivery()`
    judges what each of its subscriptions was handed, and beside it whether leaving took longer than
    `FeedConfig.close_timeout`, and whether connections are left.

    *exchange* makes the exchange, with ``ledger=True``; None: one of this *seed* with the symbols that every exchange
    has. How often it goes the same way depends on the clock and on Trio's scheduling: `run()` fixes both.

    An exception of the program stands in `Report.error`; `BaseException`s such as `KeyboardInterrupt` come out. One
    that has not ended two minutes after it was cancelled is broken off, and that is a finding (`Offence.SLOW_CLOSE`).
    Cancelled, the program is. What is read from `Feed.books` and `Feed.latest()` is not judged.
    """
    chosen = FaultPlan() if plan is None else plan
    call = [_name(app), *map(repr, args), f"plan={chosen!r}", f"seed={seed}"]
    call += [f"exchange={_name(exchange)}"] if exchange is not None else []
    call += [f"settle={settle!r}"] if settle != _SETTLE else []
    call += [f"calm={calm!r}"] if calm is not None else []
    in_memory = network is MemoryNetwork
    call += [] if in_memory else [f"network={_name(network)}"]
    world = Exchange(seed=seed, ledger=True) if exchange is None else exchange()
    chosen.check(world)
    observer = FeedObserver(epoch_ns=EPOCH_NS if in_memory else None)  # the clock of the machine may be set
    result: T | None = None
    error: Exception | None = None
    async with network(world) as opened:
        counted = CountedNetwork(opened)
        rng = random.Random(f"{seed}:feed")
        began = trio.current_time()
        last = began + max((fault.until if fault.until < math.inf else fault.at for fault in chosen), default=0.0)
        token = CONDITIONS.set(Conditions(network=counted, rng=rng, observer=observer))
        stuck: list[str] = []
        async with open_services() as watch:
            watch.start_soon(_end_when_stuck, last + settle + _PATIENCE, trio.lowlevel.current_task(), stuck)
            try:
                with trio.move_on_at(last + settle) as time_over:
                    async with open_services() as nursery:
                        nursery.start_soon(chosen.play, world, name="fault plan")
                        if calm is not None:
                            nursery.start_soon(_end_when_calm, time_over, observer, world, last, calm, name="calm")
                        result = await app(*args)
            except Stuck:
                pass
            except BaseExceptionGroup as group:
                _, others = group.split(Stuck)
                if others is not None and not isinstance(others, Exception):
                    raise
                error = None if stuck else others
            except Exception as raised:  # noqa: BLE001  # the program's own: the report has it
                error = None if stuck else raised
            finally:
                CONDITIONS.reset(token)
        ended = trio.current_time()
        left = leaks(counted.open_connections, "connections are open")
        await trio.sleep(_LAST_WORDS)
        findings = check_delivery(world, *observer.witnesses, end=ended, live_within=settle / 2)
    if stuck:
        text = f"{_PATIENCE:.0f} s after it was cancelled the program had not ended, but waited in {', '.join(stuck)}"
        findings = (*findings, Finding(Offence.SLOW_CLOSE, text, at=ended))
    return Report(
        plan=chosen,
        seed=seed,
        call=f"{'run' if in_memory else 'judged'}({', '.join(call)})",
        result=result,
        error=error,
        ended=not time_over.cancelled_caught,
        seconds=ended - began,
        findings=(*findings, *left, *observer.findings),
        witnesses=tuple(observer.witnesses),
        exchange=world,
    )


def _name(thing: object) -> str:
    """As the program of its author may call it."""
    name = getattr(thing, "__name__", None)
    owner = getattr(thing, "__self__", None)
    return repr(thing) if name is None else f"{owner!r}.{name}" if owner is not None else str(name)


async def _end_when_stuck(at: float, task: trio.lowlevel.Task, names: list[str]) -> None:
    """Break the program off that has not ended by then, and note what it was waiting in.

    Again and again: what is not waiting just then, or waits once more in its clean-up, has its turn a moment later.
    """
    spare = tuple(task.child_nurseries)
    await trio.sleep_until(at)
    while True:
        names += [name for name in break_off(task, spare) if name not in names]
        await trio.sleep(_MOMENT)


async def _end_when_calm(
    scope: trio.CancelScope, observer: FeedObserver, exchange: Exchange, since: float, calm: float
) -> None:
    """Cancel *scope* some time after all has been live since then."""
    await trio.sleep_until(since)
    while True:
        await trio.sleep(_LOOK_AGAIN)
        if _all_live(observer, exchange, since):
            break
    await trio.sleep(calm)
    scope.cancel()


def _all_live(observer: FeedObserver, exchange: Exchange, since: float) -> bool:
    """Whether there is a subscription, and every topic of each has brought something; delisted symbols need not."""
    gone = exchange.model.delisted
    subscribed = [
        (witness, [topic for topic in witness.streaming if topic.symbol not in gone])
        for witness in observer.witnesses
        if witness.left_at is None
    ]
    return bool(subscribed) and all(topics and witness.has_seen(topics, since) for witness, topics in subscribed)
