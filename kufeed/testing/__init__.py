"""A small KuCoin for your own tests: `Exchange`, over loopback TCP or in memory (`MemoryNetwork`)."""

from kufeed.testing import faults
from kufeed.testing.books import TrueBook
from kufeed.testing.cable import Cable
from kufeed.testing.exchange import Exchange
from kufeed.testing.limits import Limits
from kufeed.testing.network import LoopbackNetwork, MemoryNetwork
from kufeed.testing.plans import FaultPlan
from kufeed.testing.records import Address, BookFault, Dial, ExchangeStatistics, Faults
from kufeed.testing.session import Session

__all__ = [
    "Address",
    "BookFault",
    "Cable",
    "Dial",
    "Exchange",
    "ExchangeStatistics",
    "FaultPlan",
    "Faults",
    "Limits",
    "LoopbackNetwork",
    "MemoryNetwork",
    "Session",
    "TrueBook",
    "faults",
]

for _name in __all__:
    if _name != "faults":
        globals()[_name].__module__ = __name__
del _name
