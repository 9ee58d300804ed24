"""The exchange's clock, as far as one request tells it."""

from __future__ import annotations

import attrs


@attrs.frozen
class ServerClock:
    """How far the exchange's clock is ahead of ours: a signed request must not be 5 s from it (KuCoin, signing)."""

    ahead_ns: int = 0

    @classmethod
    def learned(cls, server_time_ns: int, sent_ns: int, received_ns: int) -> ServerClock:
        """From an answer that gives *server_time_ns* and the times by our clock, all in ns since the epoch.

        The exchange looked at its clock some time between; half-way is wrong by half the round trip at most.
        """
        return cls(server_time_ns - (sent_ns + received_ns) // 2)

    def time_ms(self, time_ns: int) -> int:
        """The exchange's time in ms since the epoch when ours is *time_ns*."""
        return (time_ns + self.ahead_ns) // 1_000_000
