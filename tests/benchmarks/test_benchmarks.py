"""The scripts beside this file run: their figures are for people, but a script that nobody runs does not last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kufeed.protocol import CHANNELS


def test_decoding_has_a_row_for_each_channel() -> None:
    script = Path(__file__).with_name("decoding.py")
    ended = subprocess.run([sys.executable, script, "2", "1"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    head, *rows = ended.stdout.splitlines()
    assert head.split()[:3] == ["bytes", "strict,", "Decimal"]
    for row, channel in zip(rows, CHANNELS, strict=True):
        assert row.startswith(f"{channel.market.name} {channel}")
        assert row.count(" to ") == 6
