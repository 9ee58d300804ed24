"""An error says what it says to everybody, and belongs to who raises it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kufeed import errors

MADE: list[errors.KufeedError] = [
    errors.KufeedError("a", 1),
    errors.UsageError("mend it"),
    errors.ExchangeError("no", code="900001", retry_after=3.0),
    errors.SubscriptionRejected("/market/ticker:NONE-USDT", 404, "not found"),
    errors.RequestFailed("/api/v1/status", OSError("unreachable")),
    errors.CredentialsRefused("no", code="400004"),
    errors.ClockOff("no", code="400002"),
    errors.SubscriptionTimeout(["a", "b"], 10.0),
    errors.CircuitOpen(7.0, OSError("gone")),
    errors.ConnectionFailed(["a", "b"], OSError("gone")),
    errors.StreamEnded("a", "over"),
    errors.SymbolHalted("a", "Pause"),
    errors.SymbolDelisted("a"),
    errors.Overflowed(["a"], 3),
    errors.BookNotReady("BTC-USDT", "waiting"),
    errors.InsufficientDepth("BTC-USDT", "too few"),
    errors.LinkError("lost"),
    errors.DialError("token", OSError("gone"), retry_after=1.0),
    errors.TokenExpired("401"),
    errors.LinkClosed(1006, "gone"),
    errors.LinkSilent("pong", 10.0),
    errors.SendStuck(5.0),
    errors.ProtocolViolation(1002, "reserved bits"),
    errors.MessageRefused("price", "none"),
]


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_a_copy_says_the_same_and_has_a_traceback_of_its_own(made: errors.KufeedError) -> None:
    found: Any = None
    try:
        raise made from KeyError("why")
    except errors.KufeedError:
        found = copy.copy(made)
    assert found is not made
    assert type(found) is type(made)
    assert (str(found), repr(found), found.args, vars(found)) == (str(made), repr(made), made.args, vars(made))
    assert found.__cause__ is made.__cause__
    assert found.__traceback__ is None


def test_every_error_is_here() -> None:
    assert {type(made).__name__ for made in MADE} == set(errors.__all__)
