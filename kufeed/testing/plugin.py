"""Fixtures for pytest, there as soon as kufeed is installed: `exchange`, `memory_network`, `feed`.

They go with pytest-trio, whose virtual clock they run on. ``-p no:kufeed`` switches them off. Hypothesis is not
imported.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

import kufeed
from kufeed.testing.exchange import Exchange
from kufeed.testing.network import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

try:
    from pytest_trio import trio_fixture
except ImportError:

    def trio_fixture(fixture: object) -> object:
        @pytest.fixture(name=fixture.__name__)  # type: ignore[attr-defined]
        def missing() -> None:
            raise pytest.UsageError("this fixture of kufeed needs pytest-trio: pip install 'kufeed[testing]'")

        return missing


@pytest.fixture
def exchange() -> Exchange:
    """A small KuCoin with a ledger, as `kufeed.testing.Exchange` makes it. Define your own to have another."""
    return Exchange(ledger=True)


@trio_fixture  # type: ignore[untyped-decorator]
async def memory_network(exchange: Exchange, autojump_clock: MockClock) -> AsyncIterator[MemoryNetwork]:
    """A network on which there is only the `exchange`, under pytest-trio's `autojump_clock`: for `open_feed()`."""
    async with MemoryNetwork(exchange) as network:
        yield network  # noqa: ASYNC119  # pytest-trio ends its fixtures itself


@trio_fixture  # type: ignore[untyped-decorator]
async def feed(memory_network: MemoryNetwork) -> AsyncIterator[kufeed.Feed]:
    """An open feed over the `memory_network`, with jitter that is always the same; closed after the test."""
    async with kufeed.open_feed(network=memory_network, rng=random.Random(0)) as opened:
        yield opened  # noqa: ASYNC119  # as above
