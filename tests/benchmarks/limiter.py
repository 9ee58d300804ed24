"""What an acquisition costs, how fair it is, and the worst window: `python tests/benchmarks/limiter.py [SECONDS]`.

The same as `kufeed stress --limiter`.
"""

from __future__ import annotations

import sys

import trio

from kufeed.cli._stress import stress_limiter


async def main(seconds: float) -> None:
    async for line in stress_limiter(seconds):
        print(line, flush=True)


if __name__ == "__main__":
    trio.run(main, float(sys.argv[1]) if len(sys.argv) > 1 else 2.0)
