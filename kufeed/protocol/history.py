"""Trades as REST replies have them, and which of them belong into a hole."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import MessageRefused
from . import fields, rest
from .events import GapCause, GapFill
from .futures import FUTURES
from .spot import SPOT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .events import Gap
    from .market import Market, Topic
    from .rest import Endpoint
    from .updates import Trade

HISTORIES: Mapping[Market, Endpoint] = {FUTURES: rest.FUTURES_TRADES, SPOT: rest.SPOT_TRADES}
"""Where the last 100 trades of a symbol are asked for."""
_MOST = 1000
"""Rows of a reply; there are 100."""


def read_trades(
    data: object,
    topic: Topic,
    received_time_ns: int,
    *,
    numbers: type[Decimal] | type[float] = Decimal,
    keep_raw: bool = False,
) -> list[Trade]:
    """The `data` of a reply with trades of *topic*'s symbol, each once, in the order of their sequence.

    The documents show the newest first of futures, and last of spot. Read by the channel's own decoder. Raises
    `MessageRefused` with the field that is not as documented: of a reply that is wrong in one row, nothing is used.
    """
    if type(data) is not list:
        raise MessageRefused("data", fields.shown(data))
    if len(data) > _MOST:
        raise MessageRefused("data", f"{len(data)} trades, of which there are 100 at most")
    read: dict[int, Trade] = {}
    for row in data:
        trade = _read(fields.mapping(row, "data"), topic, received_time_ns, numbers)
        assert trade.sequence is not None
        read[trade.sequence] = attrs.evolve(trade, raw=row) if keep_raw else trade
    return [read[sequence] for sequence in sorted(read)]


def _read(row: dict[str, Any], topic: Topic, received_time_ns: int, numbers: type[Decimal] | type[float]) -> Trade:
    # What a pushed trade has and these have not. Spot ids were other than the sequence until 2022.
    whole = {"symbol": topic.symbol, "tradeId": str(fields.sequence(row.get("sequence"))), **row}
    try:
        trade: Trade = topic.channel.decoders[numbers]({"data": whole}, topic, received_time_ns)
    except KeyError as error:
        raise MessageRefused(str(error.args[0]), "missing") from error
    return attrs.evolve(trade, backfilled=True)


def fill(gap: Gap, before: Trade, after: Trade, history: Sequence[Trade] | None) -> list[Gap | Trade]:
    """What belongs between *before* and *after*, where *gap* was: trades of *history*, and gaps at their places.

    *history* is a whole reply as `read_trades` gives it, or None where there is none. Nothing is missing where it
    reaches from *before* to *after*: numbers may be skipped, so only that shows it.
    """
    assert before.sequence is not None
    assert after.sequence is not None
    first, last = before.sequence, after.sequence
    numbers = [trade.sequence or 0 for trade in history or ()]
    recovered = [trade for trade in history or () if first < (trade.sequence or 0) < last]
    # A trade that came too late is missing from further back, and told of by the same gap.
    from_before = bool(numbers) and numbers[0] <= first and gap.cause is not GapCause.SEQUENCE
    to_after = bool(numbers) and numbers[-1] >= last
    if from_before and to_after:
        return [attrs.evolve(gap, filled=GapFill.FILLED), *recovered]
    if not recovered:
        return [attrs.evolve(gap, filled=GapFill.UNKNOWN)]
    told: list[Gap | Trade] = [*recovered]
    if not from_before:
        told.insert(0, attrs.evolve(gap, until_ns=recovered[0].time_ns, filled=GapFill.PARTLY))
    if not to_after:
        told.append(attrs.evolve(gap, since_ns=recovered[-1].time_ns, filled=GapFill.PARTLY))
    return told
