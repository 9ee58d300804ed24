"""What all parts of an exchange go by, and its clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kufeed.testing.records import Faults

if TYPE_CHECKING:
    from collections.abc import Callable

    from kufeed.testing.limits import Limits
    from kufeed.testing.market import MarketModel, MarketName
    from kufeed.testing.truth import Limit, Truth


class Premises:
    """The market, the limits, the faults and the ledger of an exchange. Each may be replaced at any time."""

    def __init__(self, model: MarketModel, limits: Limits, truth: Truth | None) -> None:
        self.model = model
        self.limits = limits
        self.truth = truth
        self.faults = Faults()


class WallClock:
    """The clock of an exchange: it goes while the exchange is open, and wrong where a fault says so."""

    def __init__(self, premises: Premises) -> None:
        self._premises = premises
        self.time_ns: Callable[[], int] | None = None
        """What it goes by; None while the exchange is shut."""

    @property
    def goes(self) -> bool:
        """Whether the exchange is open."""
        return self.time_ns is not None

    def now_ns(self) -> int:
        """Nanoseconds since the epoch, as the exchange has it. Raises `RuntimeError` while it is shut."""
        if self.time_ns is None:
            raise RuntimeError("this exchange is not open: use listen(), open() or MemoryNetwork")
        return self.time_ns() + round(self._premises.faults.clock_skew * 1e9)


def note_refusal(premises: Premises, limit: Limit, market: MarketName, text: str) -> None:
    """Have the ledger know what was more than *limit* allows."""
    if premises.truth is not None:
        premises.truth.refused(limit, market, text)
