"""KuCoin's limits, as PROTOCOL.md sections 4 and 9 state them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from kufeed.testing.market import MarketName


def _limit(instance: object, attribute: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and value <= 0:
        raise ValueError(f"{attribute.name} must be positive, or None for no limit, not {value!r}")


@attrs.frozen(kw_only=True)
class Limits:
    """What the exchange enforces; None switches a limit off. `Limits.off()` has none. Raises `ValueError` for others.

    - `dials_per_minute`: WebSocket connections in 60 s and market; one more gets HTTP 429.
    - `connections`: open connections of a market at one time; one more gets HTTP 429.
    - `messages_per_10s`: client frames of one connection (pings too); one more gets error 509, and 70 ms later the
      connection is dropped without a close frame.
    - `symbols_per_frame`: symbols in one subscribe; more get error 509.
    - `spot_topics`, `futures_topics`: topics of one connection, each symbol counts; more get error 509.
    - `token_life`: seconds; a later dial gets error 401, a connection is cut when it is that old.
    - `rest_weight`: the request weights of 30 s, counted from the first request; more get HTTP 429 with code 429000.
    - `client_silence`: seconds without a JSON ping after which a connection is cut, even while data flow.
    """

    dials_per_minute: int | None = attrs.field(default=30, validator=_limit)
    connections: int | None = attrs.field(default=800, validator=_limit)
    messages_per_10s: int | None = attrs.field(default=100, validator=_limit)
    symbols_per_frame: int | None = attrs.field(default=100, validator=_limit)
    spot_topics: int | None = attrs.field(default=300, validator=_limit)
    futures_topics: int | None = attrs.field(default=100, validator=_limit)
    token_life: float | None = attrs.field(default=86400.0, validator=_limit)
    rest_weight: int | None = attrs.field(default=2000, validator=_limit)
    client_silence: float | None = attrs.field(default=60.0, validator=_limit)

    @classmethod
    def off(cls) -> Limits:
        """No limit at all."""
        return cls(**{field.name: None for field in attrs.fields(cls)})

    def topics(self, market: MarketName) -> int | None:
        """How many topics one connection of *market* may hold."""
        return self.spot_topics if market == "spot" else self.futures_topics


class SlidingWindow:
    """Counts events; says whether one more within the last *period* seconds is allowed. *limit* None: always."""

    def __init__(self, limit: int | None, period: float) -> None:
        self._limit = limit
        self._period = period
        self._times: deque[float] = deque()

    def admit(self, now: float, lowered: int | None = None) -> bool:
        """Count an event at *now* if it is allowed. A refused one is not counted.

        *lowered* is the limit of the moment, where that is less. Nothing is counted where there is none.
        """
        limit = lowered if self._limit is None else self._limit if lowered is None else min(lowered, self._limit)
        if limit is None:
            return True
        # A microsecond of tolerance: who waits for exactly one period must not fail for the last bit of a float.
        while self._times and self._times[0] <= now - self._period + 1e-6:
            self._times.popleft()
        if len(self._times) >= limit:
            return False
        self._times.append(now)
        return True


class WeightPool:
    """The REST quota: so much weight per 30 s, the period beginning at the first request in it."""

    period = 30.0

    def __init__(self, quota: int | None) -> None:
        self._quota = quota
        self._since = float("-inf")
        self._used = 0

    def take(self, weight: int, now: float) -> bool:
        """Use *weight* of the quota; False where it is exhausted."""
        if self._quota is None:
            return True
        if now >= self._since + self.period:
            self._since = now
            self._used = 0
        if self._used + weight > self._quota:
            return False
        self._used += weight
        return True

    def headers(self, now: float) -> list[tuple[str, str]]:
        """What each reply tells about the quota; the reset is in milliseconds."""
        if self._quota is None:
            return []
        reset = max(0, round((self._since + self.period - now) * 1000))
        return [
            ("gw-ratelimit-limit", str(self._quota)),
            ("gw-ratelimit-remaining", str(self._quota - self._used)),
            ("gw-ratelimit-reset", str(reset)),
        ]
