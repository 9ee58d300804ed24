"""Histories of a book: what was published of it, how that arrives, and what the book was at each number.

`ReferenceBook` is the plain model that they are made with, in dicts and without any of the client's code.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Literal

import attrs

from kufeed import Level, topic
from kufeed.protocol import BookSnapshot
from kufeed.testing.books import TrueBook
from kufeed.testing.network import EPOCH_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kufeed import Topic

SideName = Literal["buy", "sell"]
Change = tuple[SideName, int, int]
"""Side, price, and what stands there now."""
_DEPTH = 12  # levels of a side to begin with
_MIDDLE = 100


class ReferenceBook:
    """A book of whole prices around 100, and every moment of it since *sequence*.

    Changes that would cross it change nothing but the number, as those with price 0 on the wire do.
    """

    def __init__(self, symbol: str, sequence: int = 100, time_ns: int = EPOCH_NS) -> None:
        self.symbol = symbol
        self.sequence = sequence
        self.time_ns = time_ns
        self.sides: dict[SideName, dict[int, int]] = {
            "buy": {_MIDDLE - number: 1 + number for number in range(_DEPTH)},
            "sell": {_MIDDLE + 1 + number: 1 + number for number in range(_DEPTH)},
        }
        self.moments: dict[int, TrueBook] = {}
        """By sequence: the book after each message."""
        self._remember()

    def change(self, wanted: Iterable[Change]) -> list[tuple[SideName, int, int, int]]:
        """Make one message of changes: side, price, and the new size there. Returns those that it has, with numbers."""
        made: list[tuple[SideName, int, int, int]] = []
        for side, price, size in wanted:
            self.sequence += 1
            if size and self._crosses(side, price):
                made.append((side, 0, 0, self.sequence))
                continue
            if size:
                self.sides[side][price] = size
            else:
                self.sides[side].pop(price, None)
            made.append((side, price, size, self.sequence))
        self.time_ns += 10_000_000
        self._remember()
        return made

    def renumber(self, sequence: int) -> None:
        """The book as it stands has this number from now on, and no other moment is remembered."""
        self.sequence = sequence
        self.moments.clear()
        self._remember()

    def snapshot(self, sequence: int | None = None, limit: int | None = None) -> BookSnapshot:
        """The book at *sequence* (None: as it stands), of each side *limit* levels, as if asked for now."""
        moment = self.moments[self.sequence if sequence is None else sequence]
        bids, asks = moment.bids[:limit], moment.asks[:limit]
        return BookSnapshot(moment.sequence, self.time_ns, self.time_ns, bids, asks, limit)

    def _crosses(self, side: SideName, price: int) -> bool:
        if side == "buy":
            return any(price >= ask for ask in self.sides["sell"])
        return any(price <= bid for bid in self.sides["buy"])

    def _remember(self) -> None:
        exact = Decimal if "-" in self.symbol else int
        bids, asks = (
            tuple(Level(Decimal(price), exact(size)) for price, size in sorted(side.items(), reverse=down))
            for side, down in ((self.sides["buy"], True), (self.sides["sell"], False))
        )
        self.moments[self.sequence] = TrueBook(self.symbol, self.sequence, bids, asks)


@attrs.frozen(kw_only=True)
class DeltaHistory:
    """What a client gets that keeps a book: level-2 messages, and the snapshot to begin from.

    `published` are the messages in their order; `arriving` the same with losses, repetitions and swaps, each with its
    place in `published`. `books` has the true book at the number of the snapshot and after each message.
    """

    topic: Topic
    snapshot: BookSnapshot
    published: tuple[str, ...]
    arriving: tuple[tuple[int, str], ...]
    books: Mapping[int, TrueBook] = attrs.field(repr=False)

    @property
    def is_whole(self) -> bool:
        """Whether everything arrives, in order and once."""
        return [place for place, _ in self.arriving] == list(range(len(self.published)))


def delta_message(book: ReferenceBook, changes: list[tuple[SideName, int, int, int]]) -> dict[str, object]:
    """The level-2 message of *changes* that were just made, as each market writes it; futures ones have one each."""
    moment = book.time_ns // 1_000_000
    wire = str(topic("book_delta", book.symbol))
    if "-" not in book.symbol:
        ((side, price, size, sequence),) = changes
        data: dict[str, object] = {"sequence": sequence, "change": f"{price},{side},{size}", "timestamp": moment}
        return {"topic": wire, "type": "message", "subject": "level2", "sn": sequence, "data": data}
    rows: dict[str, list[list[str]]] = {"asks": [], "bids": []}
    for side, price, size, sequence in changes:
        rows["asks" if side == "sell" else "bids"].append([str(price), str(size), str(sequence)])
    data = {
        "changes": rows,
        "sequenceEnd": changes[-1][-1],
        "sequenceStart": changes[0][-1],
        "symbol": book.symbol,
        "time": moment,
    }
    return {"topic": wire, "type": "message", "subject": "trade.l2update", "data": data}
