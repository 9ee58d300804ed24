"""Candles and 24-hour statistics of one symbol, from its trades."""

from __future__ import annotations

from collections import deque

import attrs

_DAY_MINUTES = 1440

SPOT_INTERVALS: dict[str, int] = {  # seconds; PROTOCOL section 6 (SD23)
    "1min": 60,
    "3min": 180,
    "5min": 300,
    "15min": 900,
    "30min": 1800,
    "1hour": 3600,
    "2hour": 7200,
    "4hour": 14400,
    "6hour": 21600,
    "8hour": 28800,
    "12hour": 43200,
    "1day": 86400,
    "1week": 604800,
}
FUTURES_INTERVALS: dict[str, int] = {  # PROTOCOL section 7: no 6hour, and 1month (taken as 30 days here)
    **{name: seconds for name, seconds in SPOT_INTERVALS.items() if name != "6hour"},
    "1month": 2592000,
}


@attrs.define
class Candle:
    """One bar, in ticks and lots; `turnover` is the sum of price x size in the same units."""

    start_s: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    turnover: int

    def add(self, price: int, size: int) -> None:
        """Account for one trade."""
        self.high = max(self.high, price)
        self.low = min(self.low, price)
        self.close = price
        self.volume += size
        self.turnover += price * size

    def absorb(self, later: Candle) -> None:
        """Append a *later* bar."""
        self.high = max(self.high, later.high)
        self.low = min(self.low, later.low)
        self.close = later.close
        self.volume += later.volume
        self.turnover += later.turnover


class CandleHistory:
    """The trades of the last 24 hours by the minute; bounded, whatever was traded."""

    def __init__(self) -> None:
        self._minutes: deque[Candle] = deque(maxlen=_DAY_MINUTES)
        self._running: dict[int, Candle] = {}

    def add(self, time_ns: int, price: int, size: int) -> None:
        """Account for one trade; times must not run backwards by more than the current minute."""
        now_s = time_ns // 1_000_000_000
        start = now_s - now_s % 60
        if self._minutes and start <= self._minutes[-1].start_s:
            self._minutes[-1].add(price, size)
        else:
            self._minutes.append(Candle(start, price, price, price, price, size, price * size))
        for seconds, candle in self._running.items():
            start = now_s - now_s % seconds
            if start <= candle.start_s:
                candle.add(price, size)
            else:
                self._running[seconds] = Candle(start, price, price, price, price, size, price * size)

    def current(self, seconds: int) -> Candle | None:
        """The newest candle of *seconds* length; None before the first trade. From its first call on it is exact."""
        candle = self._running.get(seconds)
        if candle is None and self._minutes:
            newest = self._minutes[-1].start_s
            candle = self._running[seconds] = self._merged(newest - newest % seconds)
        return candle

    def last_day(self, time_ns: int) -> Candle | None:
        """The trades of the 24 hours before *time_ns* as one bar; None where there were none."""
        since = time_ns // 1_000_000_000 - 86400
        if not self._minutes or self._minutes[-1].start_s < since:
            return None
        return self._merged(since)

    def _merged(self, since_s: int) -> Candle:
        bars = [bar for bar in self._minutes if bar.start_s >= since_s]
        merged = attrs.evolve(bars[0], start_s=since_s)
        for bar in bars[1:]:
            merged.absorb(bar)
        return merged
