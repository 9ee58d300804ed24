"""Every example runs as a user would run it, against the simulated exchange."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

import kufeed
from kufeed.testing import Exchange

ROOT = Path(kufeed.__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_are_examples() -> None:
    assert [path.name for path in EXAMPLES] == ["quickstart.py"], "test the new one here as well"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
async def test_an_example_prints_what_the_exchange_sends(path: Path) -> None:
    async with Exchange().listen() as address:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error",
            "KUFEED_FUTURES_URL": address.futures_url,
            "KUFEED_SPOT_URL": address.spot_url,
        }
        process = await trio.lowlevel.open_process(
            [sys.executable, str(path)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        try:
            with trio.fail_after(60):
                printed = bytearray()
                while printed.count(b"\n") < 8:
                    data = await process.stdout.receive_some()
                    assert data, "it stopped"
                    printed += data
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
                await trio.aclose_forcefully(process.stdout)
    lines = printed.decode().splitlines()[:8]
    assert {line.split()[0] for line in lines} == {"XBTUSDTM", "BTC-USDT"}
    for line in lines:
        bid, ask, latency = map(float, line.split()[1:])
        assert bid < ask
        assert -1 < latency < 60
