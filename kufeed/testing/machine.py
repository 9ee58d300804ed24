"""A feed and an exchange as a Hypothesis state machine, for users to extend with rules and invariants of their own.

Needs Hypothesis: ``pip install "kufeed[testing]"``.
"""

from __future__ import annotations

import math
import random
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, TypeVarTuple, Unpack

try:
    from hypothesis import strategies as st
    from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, multiple, rule
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'kufeed.testing.machine needs Hypothesis: pip install "kufeed[testing]"', name=error.name
    ) from error

import trio
from trio.testing import wait_all_tasks_blocked

from kufeed import FeedConfig, KufeedError, Subscription, Topic, Update, UsageError, open_feed
from kufeed._observing import CONDITIONS, Conditions
from kufeed.testing import strategies
from kufeed.testing.exchange import Exchange
from kufeed.testing.guest import GuestRun
from kufeed.testing.judge import Finding, check_delivery
from kufeed.testing.leaks import CountedNetwork, leaks
from kufeed.testing.market import DEFAULT_FUTURES, DEFAULT_SPOT
from kufeed.testing.network import EPOCH_NS, MemoryNetwork
from kufeed.testing.observer import FeedObserver
from kufeed.testing.plans import FaultPlan
from kufeed.testing.services import open_services

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hypothesis.strategies import SearchStrategy

    from kufeed import Feed, Overflow, StreamEvent
    from kufeed.testing.hazards import Fault, Severity
    from kufeed.testing.witness import Witness

__all__ = ["Consumer", "FeedMachine"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PATIENCE = 600.0
"""Virtual seconds that a step may take."""
_LAST_WORDS = 2.0
"""Seconds between the end of the feed and the judgement: what was under way then has arrived."""
_TOPICS = strategies.topics()
_SYMBOLS = st.sampled_from([*DEFAULT_FUTURES, *DEFAULT_SPOT])


class Consumer:
    """A subscription of a `FeedMachine`, and the task that reads its updates and events: all, until it is let fewer."""

    def __init__(self, subscription: Subscription[Any], hand_over: Callable[[Consumer, Any], None]) -> None:
        self.subscription = subscription
        self.received: list[Update | StreamEvent | KufeedError] = []
        """What it was handed, in order; an error is one that was raised to it."""
        self.takes_topics = False
        """Whether the machine's rules may add topics of any kind to it."""
        self._hand_over = hand_over
        self._left: float = math.inf
        self._more = trio.Event()
        self._step = trio.CancelScope()

    def let(self, count: float) -> None:
        """Have it read so many more, those which are to come too; `math.inf` for all."""
        self._left = count
        self._more.set()
        self._step.cancel()

    async def read(self) -> None:
        """Read until the subscription ends or is closed."""
        events = self.subscription.with_events()
        while True:
            while self._left <= 0:
                self._more = trio.Event()
                await self._more.wait()
            try:
                with trio.CancelScope() as self._step:
                    what: Any = await anext(events)
                if self._step.cancelled_caught:
                    continue  # it has lost nothing
            except (StopAsyncIteration, trio.ClosedResourceError):
                return
            except UsageError:
                raise
            except KufeedError as raised:
                what = raised
            self._left -= 1
            self.received.append(what)
            self._hand_over(self, what)


class FeedMachine(RuleBasedStateMachine):
    """A feed against a simulated exchange in memory, and rules for all that may happen to them: a Hypothesis machine.

    Extend it with `rule` and `invariant` of `hypothesis.stateful`, and run ``YourMachine.TestCase``, as with any
    `RuleBasedStateMachine`; settings are those of Hypothesis. Its own rules subscribe, change subscriptions and
    unsubscribe, watch books, have consumers read or not, trade, change books, let time pass, and have faults strike;
    set to None those that you do not want.
    Rules and invariants are plain functions; what is async they do by `call()`. Between steps time stands still, and
    all tasks are blocked. The clock is virtual, and the same steps go the same way in every process.

    When the steps are done the faults end, consumers read what is left, the feed is closed, and what every subscription
    was handed is judged, that of your own rules too, and whether the feed has left connections or tasks:
    `AssertionError` names each finding. The run has always ended then, also when a rule has raised.

    Override `make_exchange()` and `make_config()` for others, `topics()` and `faults()` for what the rules draw, and
    `received()` to be told what consumers are handed.
    """

    severity: ClassVar[Severity] = "brutal"
    """How bad the faults may be."""
    recovery: ClassVar[float] = 0.0
    """Seconds that it goes on after the faults have ended. Then every stream has to be live again; 0: it need not."""

    consumers = Bundle("consumers")
    """Of `Consumer`, for your own rules."""

    def __init__(self) -> None:
        super().__init__()
        self._guest: GuestRun | None = None
        self._exchange: Exchange | None = None
        self._feed: Feed | None = None
        self._observer = FeedObserver(epoch_ns=EPOCH_NS)
        self._over = trio.Event()
        self._gone = trio.Event()
        self._faults: trio.Nursery | None = None
        self._findings: tuple[Finding, ...] = ()
        self._raised: list[Exception] = []
        self.open_consumers: list[Consumer] = []
        """Those that are subscribed."""

    # What may be overridden

    def make_exchange(self) -> Exchange:
        """The exchange of a new run; with ``ledger=True``, or what its consumers were handed cannot be judged."""
        return Exchange(update_interval=0.5, book_levels=40, ledger=True)

    def make_config(self) -> FeedConfig:
        """The configuration of its feed."""
        return FeedConfig()

    def topics(self) -> SearchStrategy[Topic]:
        """What is subscribed to."""
        return _TOPICS

    def faults(self) -> SearchStrategy[Fault]:
        """What may strike; when it does is the machine's."""
        return strategies.faults(self.severity)

    def received(self, consumer: Consumer, what: Update | StreamEvent | KufeedError) -> None:
        """*consumer* was handed *what*, just now. What it raises fails the test."""

    # What rules have

    @property
    def exchange(self) -> Exchange:
        """The exchange, open."""
        self._begin()
        assert self._exchange is not None
        return self._exchange

    @property
    def feed(self) -> Feed:
        """The feed, open."""
        self._begin()
        assert self._feed is not None
        return self._feed

    @property
    def witnesses(self) -> tuple[Witness, ...]:
        """What each subscription of the feed was handed, in the order in which they were made."""
        return tuple(self._observer.witnesses)

    def call(self, fn: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Run ``await fn(*args)`` to its end, however much virtual time it takes; return what it does, or raise that.

        Raises `trio.TooSlowError` where it takes more than ten minutes.
        """
        made = self._begin().call(fn, *args)
        self._raise_what_consumers_raised()
        return made

    def start_soon(self, fn: Callable[[Unpack[Ts]], Awaitable[object]], *args: *Ts) -> None:
        """Start a task that runs beside the steps, until it ends or the test does. What it raises fails the test."""
        self._begin().nursery.start_soon(fn, *args)

    def advance(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        self._begin().advance(seconds)
        self._raise_what_consumers_raised()

    def consume(self, subscription: Subscription[Any]) -> Consumer | None:
        """Enter *subscription* and have a consumer read it; None where it cannot be had, as faults may have it."""
        try:
            self.call(subscription.__aenter__)
        except UsageError:
            raise
        except KufeedError:
            return None
        consumer = Consumer(subscription, self._hand_over)
        self.open_consumers.append(consumer)
        self.start_soon(consumer.read)
        return consumer

    # Rules

    @rule(
        target=consumers,
        topics=st.runner().flatmap(lambda machine: st.lists(machine.topics(), min_size=1, max_size=3, unique=True)),
        overflow=st.sampled_from(["drop_oldest", "latest", "drop_newest", "raise"]),
        buffer=st.sampled_from([10_000, 10, 1]),
    )
    def subscribe(self, topics: list[Topic], overflow: Overflow | str, buffer: int) -> Any:
        """Subscribe, with a consumer that reads everything."""
        consumer = self.consume(self.feed.subscribe(*topics, overflow=overflow, buffer=buffer))
        if consumer is None:
            return multiple()
        consumer.takes_topics = True
        return consumer

    @rule(target=consumers, symbol=_SYMBOLS, depth=st.sampled_from([1, 20]))
    def watch_book(self, symbol: str, depth: int) -> Any:
        """Keep a book."""
        consumer = self.consume(self.feed.book(symbol, depth=depth))
        return multiple() if consumer is None else consumer

    @rule(consumer=consumers, topic=st.runner().flatmap(lambda machine: machine.topics()))
    def add(self, consumer: Consumer, topic: Topic) -> None:
        """Add a topic to a subscription that `subscribe()` has made, unless all of its streams have ended."""
        subscription = consumer.subscription
        if subscription.topics and consumer.takes_topics:
            try:
                self.call(subscription.add, topic)
            except UsageError:
                raise
            except KufeedError:
                pass  # it was refused, or a fault kept it away: it stays as it was

    @rule(consumer=consumers, number=st.integers(0, 2))
    def remove(self, consumer: Consumer, number: int) -> None:
        """Remove one of a subscription's topics, but for the last."""
        topics = consumer.subscription.topics
        if len(topics) > 1:
            self.call(_soon, consumer.subscription.remove, topics[number % len(topics)])

    @rule(consumer=consumes(consumers))
    def unsubscribe(self, consumer: Consumer) -> None:
        """Leave a subscription."""
        self.open_consumers.remove(consumer)
        self.call(_soon, consumer.subscription.close)

    @rule(consumer=consumers, count=st.sampled_from([math.inf, 0, 1, 5]))
    def take(self, consumer: Consumer, count: float) -> None:
        """Have a consumer read so many more and no more, or everything again."""
        self.call(_soon, consumer.let, count)

    @rule(seconds=st.sampled_from([0.5, 0.1, 2.0, 10.0, 40.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.advance(seconds)

    @rule(fault=st.runner().flatmap(lambda machine: machine.faults()))
    def strike(self, fault: Fault) -> None:
        """Have a fault strike now, for as long as it says."""
        self.call(self._strike, FaultPlan(fault))

    @rule(symbol=_SYMBOLS, count=st.sampled_from([1, 3]))
    def trade(self, symbol: str, count: int) -> None:
        """Trades of a symbol, unless it is halted or delisted."""
        self.call(_soon, self._try, self.exchange.trade, symbol, count)

    @rule(symbol=_SYMBOLS, count=st.sampled_from([1, 5]))
    def change_book(self, symbol: str, count: int) -> None:
        """Changes of a book, unless its symbol is halted or delisted."""
        self.call(_soon, self._try, self.exchange.change_book, symbol, count)

    # The run

    def teardown(self) -> None:
        """End the run, and judge it unless the test has failed already. Yours has to call it."""
        failed = sys.exception()
        guest = self._guest
        if guest is None:
            return
        try:
            if failed is None and not guest.is_over:
                guest.call(self._end)
                self._raise_what_consumers_raised()
        finally:
            try:
                guest.close()
            except Exception as error:
                if failed is None:
                    raise
                failed.add_note(f"ending the run raised {error!r}")
        findings, self._findings = self._findings, ()
        if failed is None:
            findings = (*findings, *leaks(guest.left, "tasks run"))
        if findings:
            raise AssertionError("\n".join(map(str, findings)))

    def _begin(self) -> GuestRun:
        """Where nothing runs yet, open everything: not before a step needs it, so that only steps can leave it open."""
        if self._guest is None:
            self._exchange = self.make_exchange()
            self._guest = GuestRun(patience=_PATIENCE + self.recovery)
            self._guest.call(self._opened)
        return self._guest

    async def _opened(self) -> None:
        assert self._guest is not None
        opened = trio.Event()
        self._guest.nursery.start_soon(self._live, opened)
        await opened.wait()

    async def _live(self, opened: trio.Event) -> None:
        exchange = self.exchange
        async with MemoryNetwork(exchange) as network:
            counted = CountedNetwork(network)
            CONDITIONS.set(Conditions(network=counted, rng=random.Random("feed"), observer=self._observer))
            async with open_feed(self.make_config()) as self._feed:
                async with open_services() as self._faults:
                    opened.set()
                    await self._over.wait()
                await self._see_out()
            ended = trio.current_time()
            left = leaks(counted.open_connections, "connections are open")
            await trio.sleep(_LAST_WORDS)
            self._findings = (*self._judged(exchange, ended), *left, *self._observer.findings)
        self._gone.set()

    async def _see_out(self) -> None:
        """Let the streams recover, where that is asked, and the consumers read what is left."""
        for consumer in self.open_consumers:
            consumer.let(math.inf)
        await trio.sleep(self.recovery)
        await wait_all_tasks_blocked()
        for consumer in self.open_consumers:
            consumer.subscription.close()

    def _hand_over(self, consumer: Consumer, what: Update | StreamEvent | KufeedError) -> None:
        try:
            self.received(consumer, what)
        except Exception as error:  # noqa: BLE001  # raised from the step: that of a task would come in a group
            self._raised.append(error)

    def _raise_what_consumers_raised(self) -> None:
        """The first of it: what came after may have come of it."""
        raised, self._raised = self._raised, []
        if raised:
            raise raised[0]

    async def _end(self) -> None:
        self._over.set()
        await self._gone.wait()

    def _judged(self, exchange: Exchange, ended: float) -> tuple[Finding, ...]:
        return check_delivery(exchange, *self.witnesses, end=ended, live_within=self.recovery or math.inf)

    async def _strike(self, plan: FaultPlan) -> None:
        assert self._faults is not None
        self._faults.start_soon(plan.play, self.exchange)

    @staticmethod
    def _try(fn: Callable[[str, int], object], symbol: str, count: int) -> None:
        with suppress(LookupError, ValueError):
            fn(symbol, count)


async def _soon(fn: Callable[[Unpack[Ts]], object], *args: *Ts) -> None:  # noqa: ASYNC124  # for `call()`
    """Call *fn* in the run."""
    fn(*args)
