"""What building one record costs: `python -m pytest tests/benchmarks/test_records.py --benchmark-only`."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import attrs
import pytest

from kufeed import Ticker, topic
from kufeed.protocol.updates import fast_constructor

VALUES = (topic("ticker", "BTC-USDT"), "BTC-USDT", 1, 2, 3, *[Decimal("1.5")] * 6)

frozen = Ticker
mutable = attrs.make_class("Mutable", [field.name for field in attrs.fields(Ticker)], slots=True)
ours = fast_constructor(Ticker)


@pytest.mark.parametrize("build", [frozen, mutable, ours], ids=["frozen", "mutable", "fast_constructor"])
def test_build(benchmark: Any, build: Callable[..., Any]) -> None:
    benchmark.pedantic(lambda: [build(*VALUES) for _ in range(1000)], rounds=200, warmup_rounds=10)
