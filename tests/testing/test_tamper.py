"""Messages that are lost, repeated, late and damaged between the market and one connection."""

from __future__ import annotations

import json

import pytest

from kufeed.testing.tamper import (
    CORRUPTIONS,
    Corrupt,
    Corruption,
    Drop,
    Message,
    Reorder,
    Repeat,
    Tamper,
    damaged,
    passed,
    withdraw,
)

TICKER = '{"topic":"/market/ticker:BTC-USDT","type":"message","data":{"sequence":"7","price":"1.5","time":1619}}'


def sent(*tampers: Tamper, messages: str) -> str:
    """What becomes of messages of one letter each: capital ones are of the symbol A, small ones of b."""
    chain = list(tampers)
    made = [passed(chain, Message("A" if text.isupper() else "b", text)) for text in messages]
    return " ".join("".join(message.text for message in step) or "-" for step in made)


@pytest.mark.parametrize(
    ("tamper", "messages", "expected"),
    [
        (Drop("A", 0, 1), "AaB", "- a B"),
        (Drop("A", 1, 2), "AbBcCD", "A b - c - D"),
        (Drop(None, 1, 2), "AbBcCD", "A - - c C D"),
        (Repeat("A", 0, 2, 0), "AbBC", "AA b BB C"),
        (Repeat("A", 0, 1, 1), "AbB", "A bA B"),
        (Repeat("A", 0, 2, 2), "ABcdE", "A B cA dB E"),
        (Reorder("A", 0, 2), "AbBC", "- b BA C"),
        (Reorder(None, 1, 3), "AbBcC", "A - - cBb C"),
    ],
)
def test_so_many_pass_and_so_many_are_treated(tamper: Tamper, messages: str, expected: str) -> None:
    assert sent(tamper, messages=messages) == expected


def test_what_one_sends_goes_through_the_next() -> None:
    assert sent(Repeat("A", 0, 1, 0), Drop("A", 0, 1), messages="AB") == "A B"
    assert sent(Drop("A", 0, 1), Repeat("A", 0, 1, 0), messages="AB") == "- BB"


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (Drop("A", 0, 3), "- B C D"),
        (Drop("A", 2, 3), "A B C D"),
        (Repeat("A", 0, 3, 2), "A B C D"),
        (Reorder("A", 0, 3), "- BA C D"),
        (Reorder("A", 1, 3), "A B C D"),
    ],
)
def test_one_that_is_withdrawn_does_nothing_more_and_keeps_nothing(tamper: Tamper, expected: str) -> None:
    chain = [tamper]
    made = [passed(chain, Message("A", "A"))]
    withdraw(chain, tamper)
    made += [passed(chain, Message("A", text)) for text in "BCD"]
    assert " ".join("".join(message.text for message in step) or "-" for step in made) == expected
    assert chain == []


def test_one_that_is_over_leaves() -> None:
    chain: list[Tamper] = [Drop("A", 0, 1), Repeat("A", 0, 1, 1), Reorder("A", 0, 2)]
    for text in "AABBCC":
        passed(chain, Message("A", text))
    assert chain == []


@pytest.mark.parametrize("how", CORRUPTIONS)
def test_damage_can_be_seen(how: Corruption) -> None:
    spoilt = damaged(TICKER, how)
    assert passed([Corrupt("A", 0, 1, how)], Message("A", TICKER)) == [Message("A", spoilt)]
    if how in ("cut off", "not json"):
        with pytest.raises(ValueError):
            json.loads(spoilt)
        return
    frame = json.loads(spoilt)
    assert {
        "no data": lambda: "data" not in frame,
        "wrong type": lambda: frame["data"] == 7,
        "unknown topic": lambda: frame["topic"] == "/market/nothing:NO-SUCH",
        "bad number": lambda: set(frame["data"].values()) == {"1_0"},
        "huge number": lambda: set(frame["data"].values()) == {"1e999999"},
    }[how]()


def test_all_numbers_within_are_spoilt_and_nothing_else() -> None:
    text = '{"data":{"side":"buy","asks":[["1.5",3]],"on":true,"none":null,"change":"1.5,buy,2"}}'
    data = json.loads(damaged(text, "bad number"))["data"]
    assert data == {"side": "buy", "asks": [["1_0", "1_0"]], "on": True, "none": None, "change": "1.5,buy,2"}
