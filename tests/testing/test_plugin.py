"""The fixtures that every test of a program has once kufeed is installed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import kufeed
from kufeed.testing import Exchange, MemoryNetwork

ROOT = Path(__file__).parents[2]
THERE = [] if entry_points(group="pytest11", name="kufeed") else ["-p", "kufeed.testing.plugin"]
"""What an older installation of a working copy does not say by itself."""


async def test_a_feed_over_the_exchange(feed: kufeed.Feed, exchange: Exchange, memory_network: MemoryNetwork) -> None:
    async with feed.ticker("XBTUSDTM") as tickers:
        await tickers.receive()
        await exchange.disconnect_all()
        await tickers.receive()
    assert memory_network.exchange is exchange
    assert exchange.truth is not None
    assert len(exchange.dials) == 2


def ran(tmp_path: Path, text: str, *arguments: str) -> str:
    """What pytest prints of a test file of a user's."""
    (tmp_path / "test_mine.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *THERE, *arguments, str(tmp_path)]
    path = f"{tmp_path}:{ROOT}"
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env={"PYTHONPATH": path}, check=False
    )
    return done.stdout + done.stderr


MINE = """
import pytest
from kufeed.testing import Exchange

@pytest.fixture
def exchange():
    return Exchange(generated=2, ledger=True)

@pytest.mark.trio
async def test_mine(feed, exchange):
    async with feed.trades("T0002-USDT") as trades:
        assert (await trades.receive()).symbol == "T0002-USDT"
"""


def test_it_goes_with_pytest_trio_and_an_exchange_of_ones_own(tmp_path: Path) -> None:
    printed = ran(tmp_path, MINE, "-p", "no:hypothesispytest")
    assert "1 passed" in printed, printed


def test_without_pytest_trio_it_says_what_is_missing(tmp_path: Path) -> None:
    text = "def test_mine(feed):\n    pass\n"
    (tmp_path / "pytest_trio.py").write_text("raise ImportError('not there')")
    printed = ran(tmp_path, text, "-p", "no:trio")
    assert "needs pytest-trio" in printed, printed


def test_it_does_not_import_hypothesis(tmp_path: Path) -> None:
    (tmp_path / "pytest_trio.py").write_text("raise ImportError('not there')")
    code = "import kufeed.testing.plugin, sys; assert 'hypothesis' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"})
