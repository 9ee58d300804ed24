"""What is kept of a link that another one delivers for: in order, bounded, and its control frames not held up."""

from __future__ import annotations

import json
from typing import Any

from kufeed._json import loads
from kufeed._standby import MOST_BYTES, Standby

ACK = {"id": "7", "type": "ack"}


def push(size: int = 0) -> bytes:
    return json.dumps({"topic": "/market/ticker:BTC-USDT", "type": "message", "data": "x" * size}).encode()


def keep(standby: Standby, *payloads: bytes, at: int = 0, mark: int = 0) -> tuple[bool, list[Any]]:
    """Whether any of them were kept, and the control frames among them."""
    told: list[Any] = []
    return standby.keep(payloads, at, mark, loads, told.append), told


def test_messages_come_out_in_order_with_the_times_and_marks_of_their_receipt() -> None:
    standby = Standby()
    batches = [([push(1), push(2)], 10, 1), ([push(3)], 20, 2)]
    for payloads, at, mark in batches:
        assert keep(standby, *payloads, at=at, mark=mark) == (True, [])
    assert [standby.take(), standby.take(), standby.take()] == [*batches, None]
    assert standby.dropped == 0


def test_control_frames_are_told_at_once_and_not_kept() -> None:
    standby = Standby()
    assert keep(standby, json.dumps(ACK).encode()) == (False, [ACK])
    assert standby.take() is None
    assert keep(standby, push(), json.dumps(ACK).encode()) == (True, [ACK])
    assert standby.take() == ([push()], 0, 0)


def test_what_is_not_valid_is_kept_for_who_counts_it() -> None:
    standby = Standby()
    broken = [b"{", b"\xff", b"[1]", b"[" * 100_000]
    assert keep(standby, *broken) == (True, [])
    assert standby.take() == (broken, 0, 0)


def test_the_oldest_go_where_it_is_too_much_and_are_counted() -> None:
    standby = Standby()
    part = push(MOST_BYTES // 4)
    for at in range(10):
        keep(standby, part, push(), at=at)
    assert standby.dropped == 14
    taken = [standby.take() for _ in range(3)]
    assert taken == [([part, push()], at, 0) for at in (7, 8, 9)]
    assert standby.take() is None
    keep(standby, part, at=10)
    assert standby.take() == ([part], 10, 0), "what was taken does not count any more"
