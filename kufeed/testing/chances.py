"""What would differ from run to run: the order in which Trio runs tasks of one moment, and Python's `random`."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

from trio._core import _run as scheduling

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def fixed_chances(seed: int) -> Iterator[None]:
    """Have both depend on *seed* alone, as Hypothesis does it; when the block is left they are as they were.

    Trio has no public door to it: these two names are those that its own plugin for Hypothesis sets.
    """
    states = random.getstate(), scheduling._r.getstate()  # noqa: SLF001
    deterministic = scheduling._ALLOW_DETERMINISTIC_SCHEDULING  # noqa: SLF001
    scheduling._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # noqa: SLF001
    random.seed(seed)
    scheduling._r.seed(seed)  # noqa: SLF001
    try:
        yield
    finally:
        random.setstate(states[0])
        scheduling._r.setstate(states[1])  # noqa: SLF001
        scheduling._ALLOW_DETERMINISTIC_SCHEDULING = deterministic  # type: ignore[misc]  # noqa: SLF001
