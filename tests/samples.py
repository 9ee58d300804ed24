"""The recorded and documented messages of KuCoin, which live beside the repository and not in it.

`SAMPLES_DIR` names their directory; without it, `../shared/kucoin/samples` next to the repository's root is meant.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import attrs
import pytest

_BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[2] / "shared" / "kucoin" / "samples"


@attrs.frozen
class Sample:
    """One message as it came: `text` is its JSON, byte for byte."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def directory() -> Path:
    return Path(os.environ.get("SAMPLES_DIR") or _BESIDE_THE_REPOSITORY)


def require() -> Path:
    """The directory of the samples. Where there is none a test fails in CI (`CI=true`) and is skipped elsewhere."""
    found = directory()
    if any(found.glob("*.jsonl")):
        return found
    reason = f"no KuCoin samples in {found}; SAMPLES_DIR names another directory"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def load(pattern: str = "*.jsonl") -> list[Sample]:
    """Every message of the files that match *pattern*; of a recorded session, what was inside its envelope."""
    files = sorted(require().glob(pattern))
    assert files, f"no sample file is called {pattern}"
    return [
        Sample(path.name, number, _raw(line) if path.name.startswith("session_") else line)
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if line.strip()
    ]


def _raw(line: str) -> str:
    """What stands in `raw`, without decoding and encoding it again: numbers keep their spelling."""
    start = line.index('"raw":') + len('"raw":')
    raw = line[start:].rstrip().removesuffix("}")
    json.loads(raw)
    return raw
