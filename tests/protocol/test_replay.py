"""Recorded sessions, replayed through the path that a feed takes: frames, `stage()`, books, queues.

`python -m pytest -s tests/protocol/test_replay.py` prints what was compared.
"""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import ujson

import kufeed
from kufeed import OrderBook, Overflow, Ticker, Topic, Trade, UpdateType, topic
from kufeed._bookkeeper import BookKeeper, KeptBook, Reader
from kufeed._channels import UpdateQueue
from kufeed._json import loads
from kufeed._lateness import Lateness
from kufeed._refusals import Refusals
from kufeed._streams import Routes, Stream, stage
from kufeed.protocol import BookEvent, BookSnapshot, BookState, BookSync
from kufeed.protocol.snapshots import read_book
from kufeed.protocol.spot import SPOT

from .. import samples

if TYPE_CHECKING:
    from collections.abc import Iterator

WITH_BOOKS = "session_spot_2021-04-25_EQZ_COV.jsonl"
WITHOUT_BOOKS = "session_spot_2021-04-23_ticker_match.jsonl"
SYMBOLS = ("COV-BTC", "EQZ-BTC")
PUBLIC = 100
"""Levels of a side that anybody may ask for."""


@attrs.frozen
class Joined:
    """What a snapshot met."""

    symbol: str
    sequence: int
    buffered: int
    skipped: int
    """Of the buffered changes: those that it has already."""
    event: BookEvent | None


class Replay:
    """A session fed line by line, in the order of the recording: WebSocket frames, and REST replies between them."""

    def __init__(self, file: str, *topics: Topic, depth: int = 20, limit: int | None = None) -> None:
        self.updates: list[Any] = []
        self.joined: list[Joined] = []
        self.control = 0
        self.refusals = Refusals()
        self.lateness = Lateness(None)
        self.received_s = 0.0
        self.keeper = BookKeeper(self._want, blocks=True)  # a view of each change
        self.lines = (samples.require() / file).read_text(encoding="utf-8").splitlines()
        self._limit = limit
        self._queue = UpdateQueue(dict.fromkeys(UpdateType, Overflow.RAISE), 10_000)
        self._tickets: dict[str, int] = {}
        self._sequences: dict[str, list[int]] = {symbol: [] for symbol in SYMBOLS}
        self._routes = Routes()
        for one in topics:
            stream = Stream(one)
            stream.add(self._queue)
            if one.kind is UpdateType.BOOK_DELTA:
                stream.add(self.keeper)
                self.keeper.books[one] = book = KeptBook(BookSync(one, depth=depth), stir=lambda: None)
                book.readers[self._queue] = Reader(self._queue, depth)
            self._routes.add(stream)

    def book(self, symbol: str) -> BookSync:
        return self.keeper.books[topic("book_delta", symbol)].sync

    def __iter__(self) -> Iterator[Any]:
        """What comes of each line, in order, at the moment when it comes."""
        for line in self.lines:
            recorded = json.loads(line, parse_float=Decimal)
            self.received_s = float(recorded["recv"])
            if recorded["chan"] == "ws":
                self._frame(line, round(recorded["recv"] * 10**9))
            else:
                self._reply(recorded["chan"].removeprefix("rest:"), line, round(recorded["recv"] * 10**9))
            while True:
                try:
                    update = self._queue.take()
                except trio.WouldBlock:
                    break
                if update.kind is UpdateType.BOOK_DELTA:
                    self._sequences[update.symbol].append(update.sequence)
                self.updates.append(update)
                yield update

    def merged(self) -> tuple[int, int]:
        """What was delivered to nobody since it came twice, or out of order: on one link there should be none."""
        counts = self.refusals.duplicates, self.refusals.disordered
        print("{} duplicates, {} out of order".format(*counts))
        return counts

    def bring(self, line: str, generation: int) -> None:
        """One message, on the link of this generation; what comes of it besides views."""
        self._frame(line, 1_650_000_000_000_000_000, generation)
        while True:
            try:
                update = self._queue.take()
            except trio.WouldBlock:
                return
            if not isinstance(update, OrderBook):
                self.updates.append(update)

    def _frame(self, line: str, received_ns: int, generation: int = 0) -> None:
        # As it came, byte for byte: it was not decoded and encoded again.
        payload = line[line.index('"raw":') + len('"raw":') : -1].encode()
        touched = stage(
            [payload],
            loads=loads,
            by_wire=self._routes.by_wire,
            received_time_ns=received_ns,
            on_control=self._on_control,
            refusals=self.refusals,
            lateness=self.lateness,
            generation=generation,
        )
        for stream in touched:
            for sink in stream.sinks:
                assert sink.hand_over()

    def _on_control(self, frame: Any) -> None:
        assert frame["type"] in ("welcome", "ack")
        self.control += 1

    def _want(self, keeper: BookKeeper, book: KeptBook) -> None:
        if book.sync.topic.symbol not in self._tickets:
            self._tickets[book.sync.topic.symbol] = book.sync.ask()

    def _reply(self, symbol: str, line: str, received_ns: int) -> None:
        data = ujson.loads(line)["raw"]["data"]
        if self._limit is not None:
            data = {**data, "bids": data["bids"][: self._limit], "asks": data["asks"][: self._limit]}
        snapshot = read_book(data, SPOT, self._limit, received_ns)
        buffered = self._sequences[symbol]
        skipped = sum(number <= snapshot.sequence for number in buffered)
        book = self.keeper.books[topic("book_delta", symbol)]
        event = book.sync.seed(self._tickets[symbol], snapshot)
        self.joined.append(Joined(symbol, snapshot.sequence, len(buffered), skipped, event))
        self.keeper.show(book)
        assert self.keeper.hand_over()


def with_books(**options: Any) -> Replay:
    return Replay(WITH_BOOKS, *(topic(kind, one) for one in SYMBOLS for kind in ("book_delta", "ticker")), **options)


def topics_of(lines: list[str]) -> list[Topic]:
    """What the messages of a recording are of."""
    kinds = {"/market/ticker": "ticker", "/market/match": "trade", "/market/level2": "book_delta"}
    recorded = [json.loads(line)["raw"] for line in lines]
    wires = dict.fromkeys(message["topic"] for message in recorded if "topic" in message)
    return [topic(kinds[wire.partition(":")[0]], wire.partition(":")[2]) for wire in wires]


def best(update: OrderBook | Ticker) -> tuple[Any, ...]:
    """Price and size of the best bid and the best ask."""
    if isinstance(update, Ticker):
        return update.bid, update.bid_size, update.ask, update.ask_size
    assert update.best_bid is not None
    assert update.best_ask is not None
    return (*update.best_bid, *update.best_ask)


def test_the_rebuilt_book_has_the_best_prices_of_the_recorded_ticker_at_each_equal_sequence() -> None:
    replay = with_books()
    updates = list(replay)
    views = {(one.symbol, one.sequence): best(one) for one in updates if isinstance(one, OrderBook)}
    tickers = {(one.symbol, one.sequence): best(one) for one in updates if isinstance(one, Ticker)}
    same = views.keys() & tickers.keys()
    differ = {where: (views[where], tickers[where]) for where in same if views[where] != tickers[where]}
    alone = sorted(tickers.keys() - views.keys())

    kinds = Counter(type(one).__name__ for one in updates)
    print(f"\n{WITH_BOOKS}: {kinds['BookDelta']} changes, {kinds['Ticker']} tickers, {kinds['OrderBook']} views")
    for one in replay.joined:
        print(f"{one.symbol}: {one.event} at {one.sequence}; {one.buffered} buffered, {one.skipped} of them skipped")
    print(f"best bid and ask with their sizes, book and ticker at equal sequence: {len(same)} compared, ", end="")
    print(f"{len(same) - len(differ)} equal; tickers from before the first snapshot: {len(alone)}")

    assert differ == {}
    assert len(same) >= 55
    first = {one.symbol: one.sequence for one in replay.joined}
    assert all(sequence < first[symbol] for symbol, sequence in alone)
    assert (replay.refusals.causes, replay.refusals.unwanted, replay.control) == ({}, 0, 14)
    assert replay.merged() == (0, 0)


def test_what_each_snapshot_of_the_recording_met() -> None:
    """It was newer than what had come: the changes up to it are skipped, be they before or behind it in the stream."""
    replay = with_books()
    updates = list(replay)
    late = {
        one.symbol: sum(
            update.symbol == one.symbol and update.sequence <= one.sequence
            for update in updates
            if update.kind is UpdateType.BOOK_DELTA
        )
        - one.skipped
        for one in replay.joined
    }
    print(f"\nchanges that a snapshot had already and that came after it: {late}")
    assert replay.joined == [
        Joined("COV-BTC", 1612699351243, 1, 1, BookEvent.JOINED),
        Joined("EQZ-BTC", 1619079123934, 1, 1, BookEvent.JOINED),
    ]
    assert late == {"COV-BTC": 3, "EQZ-BTC": 1}
    for symbol in SYMBOLS:
        changes = [one for one in updates if one.kind is UpdateType.BOOK_DELTA and one.symbol == symbol]
        shown = [one.sequence for one in updates if isinstance(one, OrderBook) and one.symbol == symbol]
        assert shown == list(range(shown[0], changes[-1].sequence + 1)), "none is missing, none comes twice"
        assert replay.book(symbol).state is BookState.LIVE


# -- what the public gets of a spot book ------------------------------------------------------------------------------


def test_a_seed_of_100_levels_shows_nothing_that_the_whole_book_does_not() -> None:
    """However deep it is read, at each change of the recording; what it cannot know it does not show."""
    whole, public = with_books(), with_books(limit=PUBLIC)
    unknown = Counter[str]()
    for true, _ in zip(whole, public, strict=True):
        if true.kind is UpdateType.TICKER or whole.book(true.symbol).state is not BookState.LIVE:
            continue
        known = public.book(true.symbol)
        assert known.sequence == whole.book(true.symbol).sequence
        for depth in (1, 20, 50, 90, PUBLIC):
            if known.is_readable(depth):
                view, truth = known.view(depth), whole.book(true.symbol).view(depth)
                assert (view.bids, view.asks) == (truth.bids, truth.asks)
            else:
                assert depth > 50, "what is allowed to be asked for stays known for this long"
                unknown[f"{true.symbol}, {depth} levels"] += 1
    print(f"\ntimes that so many levels were not known: {dict(unknown)}")
    assert unknown["EQZ-BTC, 100 levels"] > 0


def test_a_seed_of_100_levels_that_is_taken_for_the_whole_book_goes_wrong() -> None:
    """Why a public spot book has a range: what moves up from below the seed is not there."""
    whole = with_books()
    taken: dict[str, tuple[BookSync, float]] = {}
    wrong: dict[str, tuple[int, float]] = {}
    for update in whole:
        symbol, true = update.symbol, whole.book(update.symbol)
        if isinstance(update, OrderBook) and symbol not in taken:
            naive = BookSync(true.topic)
            naive.subscribed()
            start = (update.sequence, None, update.received_time_ns, true.view(PUBLIC).bids, true.view(PUBLIC).asks)
            naive.seed(naive.ask(), BookSnapshot(*start, limit=None))
            taken[symbol] = naive, whole.received_s
        elif update.kind is UpdateType.BOOK_DELTA and symbol in taken:
            naive, since = taken[symbol]
            naive.receive(update)
            for ours, theirs in ((naive.bids, true.bids), (naive.asks, true.asks)):
                level = next((n for n in range(PUBLIC) if ours[n : n + 1] != theirs[n : n + 1]), None)
                if level is not None and symbol not in wrong:
                    wrong[symbol] = level, whole.received_s - since
    print("\na hundred levels, taken for the whole book, differ from it:", end="")
    print(
        *(f" {symbol} after {after:.1f} s at the {level + 1}th level" for symbol, (level, after) in wrong.items()),
        sep=";",
    )
    assert wrong
    assert all(50 <= level < PUBLIC and 0 < after < 30 for level, after in wrong.values())


# -- a session without books ------------------------------------------------------------------------------------------


def test_a_recorded_session_of_tickers_and_trades_replays_in_order() -> None:
    file = samples.require() / WITHOUT_BOOKS
    recorded = [json.loads(line)["raw"] for line in file.read_text(encoding="utf-8").splitlines()]
    topics = topics_of(file.read_text(encoding="utf-8").splitlines())
    replay = Replay(WITHOUT_BOOKS, *topics)
    updates = list(replay)
    counts = Counter(type(one) for one in updates)
    span = (updates[-1].received_time_ns - updates[0].received_time_ns) / 1e9
    print(f"\n{WITHOUT_BOOKS}: {counts[Ticker]} tickers of {len({one.symbol for one in updates})} symbols and ", end="")
    print(f"{counts[Trade]} trades in {span:.0f} s; no book changes and no snapshots")
    assert counts == {Ticker: 788, Trade: 12}
    assert [(str(one.topic), one.sequence) for one in updates] == [
        (message["topic"], int(message["data"]["sequence"])) for message in recorded if "topic" in message
    ]
    assert (replay.refusals.causes, replay.refusals.unwanted, replay.control, replay.joined) == ({}, 0, 3, [])
    assert all(one.received_time_ns >= (one.exchange_time_ns or 0) for one in updates)
    assert replay.merged() == (0, 0)


async def test_a_recording_that_lacks_one_change_ends_the_book() -> None:
    """What is shown up to there is right, and nothing after it."""
    replay = with_books()
    (at,) = (n for n, line in enumerate(replay.lines) if '"sequenceEnd":1612699351251}' in line)
    del replay.lines[at]
    list(replay)
    book = replay.book("COV-BTC")
    assert book.state is BookState.BROKEN
    assert book.missing == (1612699351251, 1612699351251)
    with pytest.raises(kufeed.BookNotReady):
        book.view(1)
    shown = [one.sequence for one in replay.updates if isinstance(one, OrderBook) and one.symbol == "COV-BTC"]
    assert shown[-1] == 1612699351250


@pytest.mark.parametrize("file", [WITH_BOOKS, WITHOUT_BOOKS])
def test_a_recording_that_comes_on_two_links_is_delivered_once(file: str) -> None:
    """The second one lags by some lines; and a third repeats the whole session when both are gone."""
    lines = [line for line in (samples.require() / file).read_text(encoding="utf-8").splitlines() if '"topic"' in line]
    topics = topics_of(lines)
    once, twice = Replay(file, *topics), Replay(file, *topics)
    for line in lines:
        once.bring(line, 1)
    for number in range(len(lines) + 7):
        for generation, place in ((1, number), (2, number - 7)):
            if 0 <= place < len(lines):
                twice.bring(lines[place], generation)
    for line in lines:
        twice.bring(line, 3)
    assert len(once.updates) == len(lines)
    assert [(str(one.topic), one.sequence) for one in twice.updates] == [
        (str(one.topic), one.sequence) for one in once.updates
    ]
    assert twice.merged() == (2 * len(lines), 0)
