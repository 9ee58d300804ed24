"""What is kept and shown of messages that were refused: short, on one line, no token, and not too much of it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from kufeed._json import loads
from kufeed._refusals import Refusals
from kufeed.errors import MessageRefused

FRAME = {"topic": "/market/ticker:AB-CD", "subject": "trade.ticker", "data": {"secret": "payload"}}


class Desk:
    def __init__(self) -> None:
        self.now = 0.0
        self.refusals = Refusals(perf_counter=lambda: self.now)


@pytest.fixture
def debug(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "kufeed.validation")
    return caplog


def test_a_refused_message_is_shown_without_its_payload(debug: pytest.LogCaptureFixture) -> None:
    Refusals().add(MessageRefused("price", "'x'"), FRAME)
    assert debug.messages == ["refused, topic /market/ticker:AB-CD, subject trade.ticker: price: 'x'"]
    assert debug.records[0].levelno == logging.DEBUG


@pytest.mark.parametrize("frame", [None, [], {}, {"topic": None, "subject": [[]]}, {"topic": 10**5000}, {"topic": {}}])
def test_a_message_of_any_shape_can_be_shown(debug: pytest.LogCaptureFixture, frame: Any) -> None:
    Refusals().add(MessageRefused("envelope", "no object"), frame)
    assert debug.messages[0].startswith("refused, topic ")


def test_what_is_shown_is_one_short_printable_line(debug: pytest.LogCaptureFixture) -> None:
    evil = "\u202e\x1b[31m\n\ud800" * 100
    refusals = Refusals()
    refusals.add(MessageRefused("price", evil), {"topic": evil, "subject": evil})
    assert debug.messages[0].isprintable()
    assert len(debug.messages[0]) < 700
    assert refusals.samples["price"].isprintable()
    assert len(refusals.samples["price"]) <= 200


def test_what_may_not_be_told_is_hidden_before_it_is_cut(debug: pytest.LogCaptureFixture) -> None:
    def hide(text: str) -> str:
        return "(hidden)" if "token" in text else text

    refusals = Refusals()
    refusals.add(MessageRefused("price", "token"), {"topic": "x" * 198 + "token", "subject": "token"}, hide)
    assert debug.messages == ["refused, topic (hidden), subject (hidden): (hidden)"]
    assert refusals.samples == {"price": "(hidden)"}


def test_nothing_is_shown_to_who_does_not_ask(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kufeed.validation")
    desk = Desk()
    for _ in range(30):
        desk.refusals.add(MessageRefused("price"), FRAME)
    caplog.set_level(logging.DEBUG, "kufeed.validation")
    desk.refusals.add(MessageRefused("price"), FRAME)
    assert len(caplog.messages) == 1, "and what nobody would have seen uses nothing up"
    assert desk.refusals.causes == {"price": 31}


def test_of_many_some_are_shown_and_the_rest_is_counted(debug: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    for number in range(100):
        desk.now = number / 10
        desk.refusals.add(MessageRefused("price", str(number)), FRAME)
    assert len(debug.messages) == 20
    desk.now = 59.9
    desk.refusals.add(MessageRefused("price"), FRAME)
    assert len(debug.messages) == 20
    desk.now = 60.0
    desk.refusals.add(MessageRefused("price", "last"), FRAME)
    assert [text.split(": ")[-1] for text in debug.messages[20:]] == ["81 more were refused, and not shown", "last"]
    desk.now = 120.0
    desk.refusals.add(MessageRefused("price", "alone"), FRAME)
    assert len(debug.messages) == 23, "none was left out: that is not told"
    assert desk.refusals.causes == {"price": 103}


def test_the_reason_why_json_is_none_repeats_nothing_of_it() -> None:
    with pytest.raises(ValueError) as refusal:
        loads(b'{"a": tokentokentoken}')
    assert "token" not in str(refusal.value)
