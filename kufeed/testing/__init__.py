"""A small KuCoin for your own tests: `Exchange`, over loopback TCP or in memory (`MemoryNetwork`)."""

from kufeed.testing.exchange import Exchange
from kufeed.testing.limits import Limits
from kufeed.testing.network import MemoryNetwork
from kufeed.testing.records import Address, Dial, ExchangeStatistics, Faults
from kufeed.testing.session import Session

__all__ = [
    "Address",
    "Dial",
    "Exchange",
    "ExchangeStatistics",
    "Faults",
    "Limits",
    "MemoryNetwork",
    "Session",
]

for _public in (Address, Dial, Exchange, ExchangeStatistics, Faults, Limits, MemoryNetwork, Session):
    _public.__module__ = __name__
del _public
