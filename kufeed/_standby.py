"""What a link brings while another one still delivers: kept as it came, until it may follow."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MOST_BYTES = 16 * 2**20
"""Of messages kept for one link. The other link has delivered the oldest by then, most likely; it is seen to."""


class Standby:
    """Messages of one link in order; the oldest go where they are too many.

    Each batch has the time of its receipt, and a mark of the routes as they were then (`Routes.mark`).
    """

    def __init__(self) -> None:
        self.dropped = 0
        """Messages that were let go."""
        self._batches: deque[tuple[Sequence[bytes], int, int]] = deque()
        self._size = 0

    def keep(
        self,
        payloads: Sequence[bytes],
        received_time_ns: int,
        mark: int,
        loads: Callable[[bytes], Any],
        on_control: Callable[[Mapping[str, Any]], None],
    ) -> bool:
        """Keep *payloads*, but hand control frames on at once: the acknowledgements that end the standby are such.

        Whether there were others.
        """
        kept: list[bytes] = []
        for payload in payloads:
            frame = _control_frame(payload, loads)
            if frame is None:
                kept.append(payload)
            else:
                on_control(frame)
        if kept:
            self._batches.append((kept, received_time_ns, mark))
            self._size += sum(map(len, kept))
        while self._size > MOST_BYTES:
            self.dropped += len(self._batches[0][0])
            self.take()
        return bool(kept)

    def take(self) -> tuple[Sequence[bytes], int, int] | None:
        """The oldest batch, the time of its receipt and its mark; None where there is none."""
        if not self._batches:
            return None
        batch = self._batches.popleft()
        self._size -= sum(map(len, batch[0]))
        return batch


def _control_frame(payload: bytes, loads: Callable[[bytes], Any]) -> Mapping[str, Any] | None:
    """What *payload* says where it is a control frame. What is none, and what is not valid, is looked at later."""
    try:
        frame = loads(payload)
    except (ValueError, RecursionError, OverflowError):
        return None
    if not isinstance(frame, dict) or not {"topic", "subject"}.isdisjoint(frame) or frame.get("type") == "message":
        return None
    return frame
