"""What waits stays in order, the bound holds, and each policy loses what it says and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kufeed import Overflow, Topic, Update, UpdateType
from kufeed._buffers import DEFAULT_OVERFLOW, KeyedBuffer, PlainBuffer, make_buffer

from .updates import TICKERS, TRADES, update

STREAMS = (*TICKERS, *TRADES)
LOSSY = [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.RAISE]


def test_state_is_conflated_and_history_is_not() -> None:
    kept = {UpdateType.TRADE, UpdateType.CANDLE, UpdateType.ANNOUNCEMENT}
    for kind, policy in DEFAULT_OVERFLOW.items():
        if kind is UpdateType.BOOK_DELTA:
            assert policy is Overflow.RAISE, "a book with a hole is wrong"
        else:
            assert policy is (Overflow.DROP_OLDEST if kind in kept else Overflow.LATEST), kind
    assert set(DEFAULT_OVERFLOW) == set(UpdateType)


@pytest.mark.parametrize(
    ("policies", "kind"),
    [
        ({UpdateType.TRADE: Overflow.DROP_OLDEST}, PlainBuffer),
        ({UpdateType.TRADE: Overflow.BLOCK, UpdateType.TICKER: Overflow.BLOCK}, PlainBuffer),
        ({UpdateType.TICKER: Overflow.LATEST}, KeyedBuffer),
        (DEFAULT_OVERFLOW, KeyedBuffer),
    ],
)
def test_the_fast_kind_serves_one_policy(policies: Any, kind: type) -> None:
    assert type(make_buffer(policies, 10)) is kind


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.integers(0, 3), max_size=8)),
        st.tuples(st.just("pop"), st.integers(1, 6)),
        st.tuples(st.just("part"), st.integers(0, 3)),
    ),
    max_size=30,
)


@given(
    bound=st.integers(1, 5),
    ticker=st.sampled_from([*LOSSY, Overflow.LATEST]),
    trade=st.sampled_from([*LOSSY, Overflow.LATEST]),
    forced=st.booleans(),
    keyed=st.booleans(),
    steps=STEPS,
)
def test_a_buffer_is_what_a_plain_list_would_be(
    bound: int, ticker: Overflow, trade: Overflow, forced: bool, keyed: bool, steps: list[tuple[str, Any]]
) -> None:
    """Against a list in which everything is looked for: order, bound, losses and their places."""
    policies = {UpdateType.TICKER: ticker, UpdateType.TRADE: trade}
    buffer = KeyedBuffer(policies, bound) if keyed else make_buffer(policies, bound)
    model: list[Update] = []
    parted: set[Topic] = set()
    numbers = dict.fromkeys(STREAMS, 0)
    conflated = 0

    def counted() -> int:
        return sum(policies[one.kind] is not Overflow.LATEST for one in model)

    def let_in(one: Update) -> bool:
        """Into the model, where nothing is lost by it."""
        nonlocal conflated
        if policies[one.kind] is not Overflow.LATEST:
            if counted() == bound:
                return False
            model.append(one)
            return True
        found = [index for index, other in enumerate(model) if other.topic == one.topic]
        if not found:
            model.append(one)
        else:
            conflated += 1
            if one.topic in parted:
                del model[found[0]]
                model.append(one)
            else:
                model[found[0]] = one
        parted.discard(one.topic)
        return True

    for step, argument in steps:
        if step == "put":
            staged: list[Update] = []
            for index in argument:
                numbers[STREAMS[index]] += 1
                staged.append(update(STREAMS[index], numbers[STREAMS[index]]))
            expected = list(staged)
            while expected and let_in(expected[0]):
                del expected[0]
            buffer.accept(staged)
            assert staged == expected
            if forced or expected:
                lost: list[Update] = []
                for one in expected:
                    if let_in(one):
                        continue
                    droppable = [other for other in model if policies[other.kind] is Overflow.DROP_OLDEST]
                    if policies[one.kind] is Overflow.DROP_OLDEST and droppable:
                        lost.append(droppable[0])
                        model.remove(droppable[0])
                        model.append(one)
                    else:
                        lost.append(one)
                losses = buffer.force(staged)
                assert staged == []
                assert {(one.topic, one.sequence) for one in lost} == {(one.topic, one.sequence) for _, one in losses}
                assert len(lost) == len(losses)
                places = list(buffer.items) if isinstance(buffer, KeyedBuffer) else range(buffer.first(), buffer.end)
                for place, one in losses:
                    for number, other in zip(places, model, strict=True):
                        if other.topic == one.topic:
                            assert (number >= place) == (other.sequence > one.sequence)  # type: ignore[operator]
        elif step == "pop":
            for _ in range(min(argument, len(model))):
                popped = model.pop(0)
                parted.discard(popped.topic)
                assert buffer.oldest() is popped
                assert buffer.pop() is popped
        else:
            buffer.part(STREAMS[argument])
            if any(one.topic == STREAMS[argument] and policies[one.kind] is Overflow.LATEST for one in model):
                parted.add(STREAMS[argument])
        assert len(buffer.items) == len(model)
        assert counted() <= bound
        assert buffer.conflated == conflated
        assert buffer.oldest() is (model[0] if model else None)
        assert buffer.first() <= buffer.end
    assert [buffer.pop() for _ in range(len(model))] == model


def test_what_is_taken_leaves_nothing_behind() -> None:
    """Nothing grows with time: a buffer that has seen much and holds nothing is as small as a new one."""
    buffer = KeyedBuffer({UpdateType.TICKER: Overflow.LATEST, UpdateType.TRADE: Overflow.DROP_OLDEST}, 10)
    for number in range(1000):
        buffer.accept([update(stream, number) for stream in STREAMS])
        buffer.part(TICKERS[0])
        while buffer.items:
            buffer.pop()
    assert not any(getattr(buffer, name) for name in ("_latest", "_parted", "_droppable", "_counted"))
