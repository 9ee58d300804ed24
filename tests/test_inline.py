"""An inline sink alone: it calls a function, and no error of that reaches whoever hands over."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

import kufeed
from kufeed._inline import InlineSink
from kufeed.protocol import Gap, GapCause

from .updates import TICKERS, update


def ticker(number: int) -> kufeed.Update:
    return update(TICKERS[0], number)


class Watched:
    """A sink with the clock in hand, and all that it told its owner."""

    def __init__(self, fn: Callable[[Any], object], *, batches: bool = False, comes_out: bool = False) -> None:
        self.now = 0.0
        self.errors: list[BaseException] = []
        self.seconds: list[float] = []
        self.comes_out = comes_out
        self.sink = InlineSink(
            fn, batches=batches, on_error=self.fail, on_call=self.seconds.append, perf_counter=lambda: self.now
        )

    def fail(self, error: BaseException) -> bool:
        self.errors.append(error)
        return self.comes_out

    def hand_over(self, *numbers: int) -> None:
        self.sink.staged += [ticker(number) for number in numbers]
        assert self.sink.hand_over()
        assert self.sink.staged == []
        assert self.sink.has_taken(self.sink.backlog())

    def counts(self) -> tuple[int, int, int]:
        counts = self.sink.statistics()
        assert counts.received == counts.delivered + counts.discarded
        assert (counts.pending, counts.dropped, counts.oldest_age, counts.slow) == (0, 0, None, False)
        return counts.received, counts.delivered, counts.discarded


def test_each_update_is_a_call_in_order() -> None:
    seen: list[int | None] = []
    watched = Watched(lambda one: seen.append(one.sequence))
    watched.hand_over(1, 2)
    watched.hand_over(3)
    watched.hand_over()
    assert seen == [1, 2, 3]
    assert watched.counts() == (3, 3, 0)
    assert len(watched.seconds) == 3


def test_a_batch_is_one_call() -> None:
    seen: list[list[int | None]] = []
    watched = Watched(lambda updates: seen.append([one.sequence for one in updates]), batches=True)
    watched.hand_over(1, 2)
    watched.hand_over()
    watched.hand_over(3)
    assert seen == [[1, 2], [3]]
    assert watched.counts() == (3, 3, 0)
    assert len(watched.seconds) == 2


def test_a_batch_belongs_to_the_function() -> None:
    """It may keep the list: nobody else writes to it."""
    kept: list[list[kufeed.Update]] = []
    watched = Watched(kept.append, batches=True)
    watched.hand_over(1)
    watched.hand_over(2)
    assert [[one.sequence for one in batch] for batch in kept] == [[1], [2]]


@pytest.mark.parametrize(
    "error", [ValueError(), trio.BrokenResourceError(), BaseExceptionGroup("", [SystemExit()]), KeyboardInterrupt()]
)
def test_an_error_costs_no_update(error: BaseException) -> None:
    seen: list[int | None] = []

    def fail(one: kufeed.Update) -> None:
        seen.append(one.sequence)
        raise error

    watched = Watched(fail)
    watched.hand_over(1, 2, 3)
    assert seen == [1, 2, 3]
    assert watched.errors == [error] * 3
    assert watched.counts() == (3, 3, 0)
    assert len(watched.seconds) == 3, "the time of a call that fails counts too"


@pytest.mark.parametrize("batches", [False, True])
def test_nothing_is_called_after_an_error_that_comes_out(batches: bool) -> None:
    """Until its owner goes on: meanwhile what comes is discarded, and counted."""
    calls: list[object] = []

    def fail(argument: object) -> None:
        calls.append(argument)
        raise ValueError

    watched = Watched(fail, batches=batches, comes_out=True)
    watched.hand_over(1, 2, 3)
    watched.hand_over(4)
    watched.sink.fail(KeyError())
    assert len(calls) == len(watched.errors) == 1
    delivered = 3 if batches else 1
    assert watched.counts() == (4, delivered, 4 - delivered)
    watched.sink.paused = False
    watched.hand_over(5)
    assert len(calls) == 2


def test_a_function_may_close_its_subscription() -> None:
    watched = Watched(lambda _: watched.sink.close())
    watched.hand_over(1, 2, 3)
    watched.hand_over(4)
    assert watched.counts() == (4, 1, 3)
    assert watched.sink.ended.is_set()
    watched.sink.fail(ValueError())
    assert watched.errors == []


def test_an_error_of_the_stream_goes_the_same_way() -> None:
    watched = Watched(lambda _: None, comes_out=True)
    error = kufeed.ConnectionFailed(["topic"], None)
    watched.sink.fail(error)
    (told,) = watched.errors
    assert told is not error, "others may be told of it, too"
    assert (type(told), str(told)) == (type(error), str(error))
    watched.hand_over(1)
    assert watched.counts() == (1, 0, 1)


@pytest.mark.filterwarnings("error")
def test_what_should_have_been_awaited_is_an_error() -> None:
    async def handle(one: kufeed.Update) -> None: ...

    class Later:
        def __await__(self) -> Any: ...

    for fn in (lambda one: handle(one), lambda one: Later()):
        watched = Watched(fn)
        watched.hand_over(1)
        gc.collect()
        (error,) = watched.errors
        assert isinstance(error, kufeed.UsageError)
        assert "async def" in str(error)


def test_what_a_function_returns_is_of_no_interest() -> None:
    watched = Watched(lambda one: one)
    watched.hand_over(1)
    assert watched.errors == []


def test_the_time_of_each_call_is_told() -> None:
    def work(one: kufeed.Update) -> None:
        watched.now += one.sequence or 0

    watched = Watched(work)
    watched.hand_over(1, 2)
    assert watched.seconds == [1, 2]


def test_an_update_after_a_hole_carries_it() -> None:
    """A copy: the record stands in other subscriptions too. Two holes before one update are one."""
    seen: list[kufeed.Update] = []
    watched = Watched(seen.append)
    topic = ticker(1).topic
    early = Gap(topic, GapCause.RECONNECT, None, None, 1, 2)
    late = Gap(topic, GapCause.RECONNECT, None, None, 3, 4)
    watched.sink.tell(kufeed.Disconnected(topic, ValueError()))
    watched.sink.tell(early)
    watched.sink.tell(late)
    original = ticker(1)
    watched.sink.staged.append(original)
    watched.sink.force()
    watched.hand_over(2)
    assert [one.gap_before for one in seen] == [early.joined(late), None]
    assert original.gap_before is None
    assert seen[0] == original


@pytest.mark.parametrize("batches", [False, True])
def test_what_was_discarded_while_paused_is_a_hole(batches: bool) -> None:
    """Told by the first update after it, as every hole is."""
    seen: list[kufeed.Update] = []

    def fail(argument: kufeed.Update | list[kufeed.Update]) -> None:
        seen.extend(argument if isinstance(argument, list) else [argument])
        if len(seen) == 1:
            raise ValueError

    watched = Watched(fail, batches=batches, comes_out=True)
    watched.hand_over(1)
    watched.hand_over(2, 3)
    watched.hand_over(4)
    watched.sink.paused = False
    watched.hand_over(5)
    watched.hand_over(6)
    assert [one.sequence for one in seen] == [1, 5, 6]
    topic = ticker(1).topic
    hole = Gap(topic, GapCause.OVERFLOW, None, None, ticker(2).time_ns, ticker(4).time_ns)
    assert [one.gap_before for one in seen] == [None, hole, None]


def test_a_stray_next_comes_out_as_python_has_it() -> None:
    """A `StopIteration` is an error like any other here; no coroutine can raise one, so there it is a RuntimeError."""

    def fail(one: kufeed.Update) -> None:
        next(iter(()))

    watched = Watched(fail, comes_out=True)
    watched.hand_over(1)
    assert [type(error) for error in watched.errors] == [StopIteration]


async def test_it_never_holds_its_reader() -> None:
    watched = Watched(lambda _: None)
    watched.sink.slow()
    watched.sink.wake_all()
    assert not watched.sink.blocks
    with trio.testing.assert_checkpoints():
        await watched.sink.wait_room()
    watched.sink.finish()
    assert watched.sink.ended.is_set()


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("changes_only", [False, True])
@pytest.mark.parametrize("batches", [False, True])
def test_a_hole_gets_its_end_before_the_function_is_told_of_it(batches: bool, changes_only: bool, paused: bool) -> None:
    """Also where what came first after it was discarded, and is missing too."""
    seen: list[kufeed.Update] = []
    watched = Watched(seen.extend if batches else seen.append, batches=batches)
    sink = watched.sink
    sink.changes_only = changes_only
    watched.hand_over(1)
    topic = ticker(1).topic
    hole = Gap(topic, GapCause.BOOK, None, None, ticker(1).time_ns, None)
    sink.tell(hole)
    sink.complete(TICKERS[1], 4)  # another one's
    sink.complete(topic, ticker(4).time_ns)
    sink.complete(topic, ticker(6).time_ns)  # it has one already
    if paused:
        sink.paused = True
        watched.hand_over(5)
        sink.paused = False
    watched.hand_over(8)
    until = ticker(5 if paused else 4).time_ns
    assert [one.sequence for one in seen] == [1, 8]
    assert [one.gap_before for one in seen] == [None, attrs.evolve(hole, until_ns=until)]


def test_a_hole_before_what_is_discarded_while_paused_is_told_too() -> None:
    """The first update after both holes carries them as one: nothing between was handed out."""
    seen: list[kufeed.Update] = []
    watched = Watched(seen.append)
    hole = Gap(ticker(1).topic, GapCause.RECONNECT, None, None, ticker(1).time_ns - 5, ticker(1).time_ns)
    watched.sink.paused = True
    watched.sink.stage_after(hole, ticker(1))
    watched.hand_over()
    watched.sink.paused = False
    watched.hand_over(2)
    (told,) = [one.gap_before for one in seen]
    assert told is not None
    assert (told.cause, told.since_ns, told.until_ns) == (GapCause.RECONNECT, hole.since_ns, ticker(1).time_ns)
