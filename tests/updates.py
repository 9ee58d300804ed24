"""Updates for tests of what carries them: numbered in their stream, a nanosecond apart."""

from __future__ import annotations

from decimal import Decimal

from kufeed import Side, Ticker, Topic, Trade, topic

TICKERS = (topic("ticker", "AA-USDT"), topic("ticker", "BBUSDTM"))
TRADES = (topic("trade", "AA-USDT"), topic("trade", "BBUSDTM"))

START_NS = 1_750_000_000_000_000_000


def update(stream: Topic, number: int) -> Ticker | Trade:
    """The update of *stream* with this sequence, so many nanoseconds after `START_NS`."""
    time = START_NS + number
    if stream.kind == "ticker":
        return Ticker(stream, stream.symbol, number, time, time + 5, Decimal(1), Decimal(2), Decimal(3), Decimal(4))
    return Trade(stream, stream.symbol, number, time, time + 5, Decimal(1), Decimal(2), Side.BUY, str(number))
