"""Books as REST replies have them."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from ..errors import MessageRefused
from . import fields
from .futures import FUTURES
from .orderbook import BookSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from .market import Market
    from .updates import Number

MOST_LEVELS = 50_000
"""Of one side of a whole book: the largest have tens of thousands, those of minor pairs had a few thousand in 2021. A
reply with so many on both sides has 2.5 MB and takes about 0.3 s to read, in which nothing else runs: 3 us a level."""


def read_book(
    data: object,
    market: Market,
    limit: int | None,
    received_time_ns: int,
    *,
    symbol: str | None = None,
    numbers: type[Decimal] | type[float] = Decimal,
) -> BookSnapshot:
    """The `data` of a reply that holds a book of *market*: whole, or with *limit* levels of a side at most.

    *symbol* is the one that was asked for, where the reply names its own (futures). Raises `MessageRefused` with the
    field that is not as documented (KuCoin, get full order book). What contradicts itself is read all the same, and
    judged by `BookSnapshot.problem()`.
    """
    book = fields.mapping(data, "data")
    is_futures = market is FUTURES
    if is_futures and symbol is not None and book.get("symbol", symbol) != symbol:
        raise MessageRefused("symbol", fields.shown(book["symbol"]))
    time = fields.nanoseconds(book.get("ts"), "ts") if is_futures else fields.milliseconds(book.get("time"), "time")
    read = fields.NUMBERS[numbers]
    sizes: Callable[[Sequence[object], str], Iterable[Number]] = fields.many_contracts if is_futures else read.decimals
    most = MOST_LEVELS if limit is None else limit
    return BookSnapshot(
        fields.sequence(book.get("sequence")),
        time,
        received_time_ns,
        read.levels(book.get("bids"), "bids", sizes, descending=True, most=most),
        read.levels(book.get("asks"), "asks", sizes, descending=False, most=most),
        limit,
    )
