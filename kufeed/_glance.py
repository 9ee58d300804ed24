"""One look at a whole market by REST: what is listed, whether it is traded, and where its prices stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import trio

from .errors import ExchangeError, MessageRefused
from .protocol import rest
from .protocol.futures import FUTURES
from .protocol.glances import Glimpse, read_glimpse
from .protocol.symbols import LISTS, SymbolInfo, read_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._requests import Requests
    from ._rest import Rest
    from .protocol.market import Market

_LONGEST_REPLY = 4 * 2**20
"""Bytes; the symbol lists have 1.3 MB at most today, and so has spot's list of tickers."""
_LONGEST_CONTRACT = 64 * 2**10
_MOST_CONTRACTS = 10
"""Contracts that the list of open ones does not have and that are asked for by name, in one look."""
_ROWS_AT_ONCE = 500


@attrs.frozen
class Glance:
    """What the exchange said of a market."""

    listed: frozenset[str]
    """Every symbol that has a row, whatever is in it."""
    undecided: frozenset[str]
    """Those that were asked for, and of which it is not known whether they have one."""
    symbols: Mapping[str, SymbolInfo]
    """Of those that were asked for, all whose row could be read."""
    glimpses: Mapping[str, Glimpse]
    """The same; where all tickers were asked for, those of all."""


async def look_at(
    requests: Requests, source: Rest, market: Market, wanted: Sequence[str], *, everything: bool
) -> Glance:
    """Ask for the lists of *market* once, and read what concerns *wanted* symbols; with *everything*, all prices.

    Where not all of them can be decided, those that come first are.

    Costs two requests of spot (19 of the weight), one of futures (3) and one more for each contract that is not open.
    Raises what `Requests.ask` does, and `ExchangeError` where an answer is no list.
    """
    endpoint, _ = LISTS[market]
    answer = await requests.ask(source, endpoint, _LONGEST_REPLY)
    rows = _by_symbol(endpoint, answer.data)
    listed = frozenset(rows)
    prices, undecided = rows, frozenset[str]()
    if market is FUTURES:
        # The list is of open contracts; what became of another, only its own row says.
        others = [symbol for symbol in wanted if symbol not in listed]
        undecided = frozenset(others[_MOST_CONTRACTS:])
        for symbol in others[:_MOST_CONTRACTS]:
            if (row := await _ask_for_contract(requests, source, symbol)) is not None:
                rows[symbol] = row
                listed |= {symbol}
    else:
        tickers = await requests.ask(source, rest.SPOT_TICKERS, _LONGEST_REPLY)
        data = tickers.data
        prices = _by_symbol(rest.SPOT_TICKERS, data.get("ticker") if isinstance(data, dict) else None)
    chosen = frozenset(wanted)
    symbols: dict[str, SymbolInfo] = {}
    glimpses: dict[str, Glimpse] = {}
    for number, symbol in enumerate(prices if everything else wanted):
        if number % _ROWS_AT_ONCE == _ROWS_AT_ONCE - 1:
            await trio.lowlevel.checkpoint()
        try:
            if symbol in chosen and symbol in rows:
                symbols[symbol] = read_row(rows[symbol], market, answer.received_time_ns)
            if symbol in prices:
                glimpses[symbol] = read_glimpse(prices[symbol], market)
        except MessageRefused:
            continue  # nothing is known of it, and so nothing said
    return Glance(listed, undecided, symbols, glimpses)


def _by_symbol(endpoint: rest.Endpoint, data: Any) -> dict[str, Any]:
    rows = data if isinstance(data, list) else ()
    found = {row["symbol"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("symbol"), str)}
    if not found:  # an exchange that lists nothing would be news of another kind
        raise ExchangeError(f"{endpoint.path}: the answer is no list of symbols")
    return found


async def _ask_for_contract(requests: Requests, source: Rest, symbol: str) -> Any:
    """Its row, or None where the exchange does not know it."""
    try:
        answer = await requests.ask(source, rest.contract(symbol), _LONGEST_CONTRACT)
    except ExchangeError as error:
        if rest.is_of_symbol(error):
            return None
        raise
    return answer.data
