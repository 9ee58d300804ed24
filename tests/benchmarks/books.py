"""What keeping a book costs: CPU time of interleaved rounds; `python tests/benchmarks/books.py [rounds]`.

Prints the cost of one level-2 message from bytes to a changed book (decode, apply), of the top 20 after each change of
a book of 5,000 levels a side, of a decoded change from the keeper to the views that its readers take, of a resync from
a whole snapshot (its reply read, then the book begun from it), and of the same changes in other containers. JSON is
decoded as a feed does it that was not told otherwise.
"""

from __future__ import annotations

import random
import sys
import time
from bisect import bisect_left
from decimal import Decimal
from statistics import median
from typing import TYPE_CHECKING, Any

import ujson
from sortedcontainers import SortedDict

from kufeed import FeedConfig
from kufeed._bookkeeper import BookKeeper, KeptBook, Reader
from kufeed._buffers import DEFAULT_OVERFLOW
from kufeed._channels import UpdateQueue
from kufeed.protocol import Level, Side, topic
from kufeed.protocol.orderbook import BookSnapshot, BookSync
from kufeed.protocol.sides import BookSide
from kufeed.protocol.snapshots import read_book

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

loads = FeedConfig().loads
LEVELS = 5_000
MESSAGES = 20_000
SPOT, FUTURES = topic("book_delta", "BTC-USDT"), topic("book_delta", "XBTUSDTM")


def changes(rng: random.Random) -> list[tuple[Side, Decimal, int]]:
    """Most of them near the best price, as in a recorded session; a third removes a level."""
    made = []
    for _ in range(MESSAGES):
        side = rng.choice((Side.BUY, Side.SELL))
        away = min(int(rng.expovariate(1 / 40)), LEVELS - 1)
        price = 50_000 - away if side is Side.BUY else 50_001 + away
        made.append((side, Decimal(price) / 10, rng.choice((0, 1, 2))))
    return made


def start() -> BookSnapshot:
    bids = tuple(Level(Decimal(50_000 - number) / 10, Decimal(1)) for number in range(LEVELS))
    asks = tuple(Level(Decimal(50_001 + number) / 10, Decimal(1)) for number in range(LEVELS))
    return BookSnapshot(1000, 10**18, 10**18, bids, asks, None)


def spot_messages(made: list[tuple[Side, Decimal, int]]) -> list[bytes]:
    messages = []
    for number, (side, price, size) in enumerate(made, 1001):
        row = [[str(price), str(size), str(number)]]
        data = {
            "changes": {"asks": [] if side is Side.BUY else row, "bids": row if side is Side.BUY else []},
            "sequenceStart": number,
            "sequenceEnd": number,
            "symbol": "BTC-USDT",
            "time": 1_700_000_000_000 + number,
        }
        frame = {"topic": SPOT.wire, "type": "message", "subject": "trade.l2update", "data": data}
        messages.append(ujson.dumps(frame, escape_forward_slashes=False).encode())
    return messages


def futures_messages(made: list[tuple[Side, Decimal, int]]) -> list[bytes]:
    messages = []
    for number, (side, price, size) in enumerate(made, 1001):
        data = {"sequence": number, "change": f"{price},{side},{size}", "timestamp": 1_700_000_000_000 + number}
        frame = {"topic": FUTURES.wire, "type": "message", "subject": "level2", "data": data}
        messages.append(ujson.dumps(frame, escape_forward_slashes=False).encode())
    return messages


def live(of: Any) -> BookSync:
    book = BookSync(of)
    book.subscribed()
    book.seed(book.ask(), start())
    return book


# -- what is measured: each returns microseconds of CPU for one of what it names ---------------------------------------


def timed(count: int, work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return (time.process_time() - begin) / count * 1e6


def whole_way(of: Any, messages: list[bytes], top: int | None) -> float:
    book, decode = live(of), of.channel.decoders[Decimal]

    def work() -> None:
        for message in messages:
            book.receive(decode(loads(message), of, 1))
            if top is not None:
                book.view(top)

    cost = timed(len(messages), work)
    assert book.sequence == 1000 + len(messages)
    return cost


def decode_only(of: Any, messages: list[bytes]) -> float:
    decode = of.channel.decoders[Decimal]

    def work() -> None:
        for message in messages:
            decode(loads(message), of, 1)

    return timed(len(messages), work)


def through_keeper(messages: list[bytes], depths: Sequence[int], batch: int = 1) -> float:
    """Changes handed over so many at once; each reader takes the view of each batch before the next one."""
    decode = FUTURES.channel.decoders[Decimal]
    deltas = [decode(loads(message), FUTURES, 1) for message in messages]
    batches = [deltas[start : start + batch] for start in range(0, len(deltas), batch)]
    keeper = BookKeeper(lambda _, book: None)
    book = keeper.books[FUTURES] = KeptBook(live(FUTURES), stir=lambda: None)
    queues = [UpdateQueue(DEFAULT_OVERFLOW, 10) for _ in depths]
    book.readers.update((queue, Reader(queue, depth)) for queue, depth in zip(queues, depths, strict=True))

    def work() -> None:
        for staged in batches:
            keeper.staged += staged
            keeper.hand_over()
            for queue in queues:
                queue.take()

    cost = timed(len(messages), work)
    assert book.sync.sequence == 1000 + len(messages)
    assert all(queue.statistics().delivered == len(batches) for queue in queues)
    return cost


def read_reply() -> float:
    snapshot = start()
    sides = {
        side: [[str(price), str(size)] for price, size in levels]
        for side, levels in (("bids", snapshot.bids), ("asks", snapshot.asks))
    }
    data = {"time": 1_700_000_000_000, "sequence": "1000", **sides}
    reply = ujson.dumps({"code": "200000", "data": data}).encode()
    return timed(1, lambda: read_book(loads(reply)["data"], SPOT.channel.market, None, 1))


def resync() -> float:
    snapshot = start()
    book = BookSync(SPOT)
    book.subscribed()
    return timed(1, lambda: book.seed(book.ask(), snapshot))


def kufeed_side(made: list[tuple[Side, Decimal, int]], top: int | None) -> float:
    sides = {side: BookSide(side, levels) for side, levels in _start_levels()}

    def work() -> None:
        for side, price, size in made:
            kept = sides[side]
            kept.set(price, size)
            if top is not None:
                kept.top(top)

    return timed(len(made), work)


def sorted_dict(made: list[tuple[Side, Decimal, int]], top: int | None) -> float:
    sides = {side: SortedDict(dict(levels)) for side, levels in _start_levels()}

    def work() -> None:
        for side, price, size in made:
            kept = sides[side]
            if size:
                kept[price] = size
            else:
                kept.pop(price, None)
            if top is not None:
                items = kept.items()
                tuple(items[-top:][::-1] if side is Side.BUY else items[:top])

    return timed(len(made), work)


def plain_lists(made: list[tuple[Side, Decimal, int]], top: int | None) -> float:
    """A sorted list of prices and a list of sizes beside it."""
    sides = {}
    for side, levels in _start_levels():
        ordered = sorted(levels)
        sides[side] = ([price for price, _ in ordered], [size for _, size in ordered])

    def work() -> None:
        for side, price, size in made:
            prices, sizes = sides[side]
            at = bisect_left(prices, price)
            known = at < len(prices) and prices[at] == price
            if size and known:
                sizes[at] = size
            elif size:
                prices.insert(at, price)
                sizes.insert(at, size)
            elif known:
                del prices[at], sizes[at]
            if top is not None:
                if side is Side.BUY:
                    tuple(zip(prices[-top:][::-1], sizes[-top:][::-1], strict=True))
                else:
                    tuple(zip(prices[:top], sizes[:top], strict=True))

    return timed(len(made), work)


def dict_sorted_when_read(made: list[tuple[Side, Decimal, int]], top: int | None) -> float:
    """A dict, sorted anew for each look at it: a hundredth of the changes, since it is that slow."""
    sides = {side: dict(levels) for side, levels in _start_levels()}
    made = made if top is None else made[: len(made) // 100]

    def work() -> None:
        for side, price, size in made:
            kept = sides[side]
            if size:
                kept[price] = size
            else:
                kept.pop(price, None)
            if top is not None:
                sorted(kept.items(), reverse=side is Side.BUY)[:top]

    return timed(len(made), work)


def _start_levels() -> list[tuple[Side, list[tuple[Decimal, int]]]]:
    snapshot = start()
    return [
        (Side.BUY, [(level.price, 1) for level in snapshot.bids]),
        (Side.SELL, [(level.price, 1) for level in snapshot.asks]),
    ]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    made = changes(random.Random(1))
    spot, futures = spot_messages(made), futures_messages(made)
    subjects: dict[str, Callable[[], float]] = {
        "spot message: decode": lambda: decode_only(SPOT, spot),
        "spot message: decode, apply": lambda: whole_way(SPOT, spot, None),
        "spot message: decode, apply, top 20": lambda: whole_way(SPOT, spot, 20),
        "futures message: decode": lambda: decode_only(FUTURES, futures),
        "futures message: decode, apply": lambda: whole_way(FUTURES, futures, None),
        "futures message: decode, apply, top 20": lambda: whole_way(FUTURES, futures, 20),
        "futures change: 1 reader, top 20": lambda: through_keeper(futures, [20]),
        "futures change: 10 readers, top 20": lambda: through_keeper(futures, [20] * 10),
        "futures change: 10 readers, top 11 to top 20": lambda: through_keeper(futures, range(11, 21)),
        "futures change, 10 at once: 1 reader, top 20": lambda: through_keeper(futures, [20], 10),
        "futures change, 10 at once: 10 readers, top 20": lambda: through_keeper(futures, [20] * 10, 10),
        "futures change, 10 at once: 10 readers, 11 to 20": lambda: through_keeper(futures, range(11, 21), 10),
        "resync: read the reply": read_reply,
        "resync: begin from it": resync,
    }
    for name, container in (
        ("dict and sorted list (kufeed)", kufeed_side),
        ("sortedcontainers.SortedDict", sorted_dict),
        ("two lists", plain_lists),
        ("dict, sorted when read", dict_sorted_when_read),
    ):
        for top in (None, 20):
            shown = "change" if top is None else "change and top 20"
            subjects[f"{name}: {shown}"] = lambda of=container, top=top: of(made, top)  # type: ignore[misc]
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, measure in subjects.items():
            found[name].append(measure())
    print(f"CPU microseconds, {rounds} interleaved rounds of {MESSAGES} changes, {LEVELS} levels a side")
    print(f"{'':52}{'best':>10}{'median':>10}{'most':>10}")
    for name, costs in found.items():
        print(f"{name:52}{min(costs):10.2f}{median(costs):10.2f}{max(costs):10.2f}")


if __name__ == "__main__":
    main()
