"""flake8-async as its own command is, in half of the time.

It walks a file once for each of its rules, and before each walk has libcst find out anew where everything stands. No
rule changes anything here (nobody asks for `--autofix`), so that once is enough.
"""

from __future__ import annotations

from typing import Any

import flake8_async
import libcst


class Unchanged(libcst.MetadataWrapper):
    """A file and what libcst knows of it: after each rule still the same."""

    def visit(self, visitor: Any) -> libcst.Module:
        super().visit(visitor)
        return self.module


def once() -> Any:
    """A stand-in for `libcst.MetadataWrapper` that makes none anew for the file which it had last."""
    last: Unchanged | None = None

    def wrapper(module: libcst.Module, **options: Any) -> Unchanged:
        nonlocal last
        if last is None or last.module is not module:
            last = Unchanged(module, **options)
        return last

    return wrapper


if __name__ == "__main__":
    libcst.MetadataWrapper = once()
    raise SystemExit(flake8_async.main())
