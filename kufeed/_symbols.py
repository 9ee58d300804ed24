"""The symbol list of a market: asked for, and read without holding up the event loop."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import trio

from .errors import ExchangeError, MessageRefused
from .protocol.symbols import LISTS, SymbolInfo, read_row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._refusals import Refusals
    from ._requests import Requests
    from ._rest import Rest
    from .protocol.market import Market

_LONGEST_REPLY = 4 * 2**20
"""Bytes. Today's lists have about 1.3 MB (600 contracts of 2.2 KB) and 0.8 MB (1,300 spot symbols of 600 bytes).

JSON is decoded in one go, during which nothing else runs: so many bytes take about 25 ms where they are rows, and 100
at the worst, an object of ever new keys (`tests/benchmarks/symbols.py`). A thread would not help: the decoder keeps
the interpreter's lock.
"""
_ROWS_AT_ONCE = 100
"""Rows read between two checkpoints: about 2 ms."""


async def fetch_symbols(requests: Requests, rest: Rest, market: Market, refusals: Refusals) -> Mapping[str, SymbolInfo]:
    """The symbols of *market* as the exchange lists them, by name and in its order; rows that are not valid are counted
    in *refusals*.

    Raises what `Requests.ask` does, and `ExchangeError` where the answer is no list of symbols at all.
    """
    endpoint, _ = LISTS[market]
    answer = await requests.ask(rest, endpoint, _LONGEST_REPLY)
    rows = answer.data
    if not isinstance(rows, list):
        raise ExchangeError(f"{endpoint.path}: the answer is no list")
    found: dict[str, SymbolInfo] = {}
    for number, row in enumerate(rows, start=1):
        if number % _ROWS_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
        try:
            info = read_row(row, market, answer.received_time_ns)
            if info.symbol in found:
                raise MessageRefused("symbol", f"{info.symbol} is there twice")
            found[info.symbol] = info
        except MessageRefused as refusal:
            refusals.add(refusal, {"topic": endpoint.path})
    if rows and not found:
        raise ExchangeError(f"{endpoint.path}: none of {len(rows)} rows is a symbol as documented")
    return MappingProxyType(found)
