"""A small KuCoin for your own tests: `Exchange`, over loopback TCP or in memory (`MemoryNetwork`)."""

from kufeed.testing import faults
from kufeed.testing.books import TrueBook
from kufeed.testing.cable import Cable
from kufeed.testing.exchange import Exchange
from kufeed.testing.judge import Finding, Offence, check_delivery
from kufeed.testing.limits import Limits
from kufeed.testing.network import LoopbackNetwork, MemoryNetwork
from kufeed.testing.plans import FaultPlan
from kufeed.testing.records import Address, BookFault, Dial, ExchangeStatistics, Faults
from kufeed.testing.running import Report, judged, run
from kufeed.testing.session import Session
from kufeed.testing.truth import Fate, Held, Life, Publication, Refusal, Strike, Truth
from kufeed.testing.witness import Claim, Sighting, Witness

__all__ = [
    "Address",
    "BookFault",
    "Cable",
    "Claim",
    "Dial",
    "Exchange",
    "ExchangeStatistics",
    "Fate",
    "FaultPlan",
    "Faults",
    "Finding",
    "Held",
    "Life",
    "Limits",
    "LoopbackNetwork",
    "MemoryNetwork",
    "Offence",
    "Publication",
    "Refusal",
    "Report",
    "Session",
    "Sighting",
    "Strike",
    "TrueBook",
    "Truth",
    "Witness",
    "check_delivery",
    "faults",
    "judged",
    "run",
]

for _name in __all__:
    if _name != "faults":
        globals()[_name].__module__ = __name__
del _name
