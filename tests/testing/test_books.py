"""The exchange's true books: at each sequence, over REST as on the WebSocket, and how they are made to go wrong."""

from __future__ import annotations

import math
import random
from collections import deque
from decimal import Decimal
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from kufeed import Level
from kufeed.testing import BookFault, Exchange, MemoryNetwork
from kufeed.testing.books import ChangeLog, TrueBook, Undo
from kufeed.testing.market import MarketModel, SymbolModel

START_NS = 1_767_225_600_000_000_000
SPOT_100 = "/api/v1/market/orderbook/level2_100?symbol=BTC-USDT"
FUTURES_ALL = "/api/v1/level2/snapshot?symbol=XBTUSDTM"
TOPICS = {"spot": "/market/level2:BTC-USDT", "futures": "/contractMarket/level2:XBTUSDTM"}
SYMBOLS = {"spot": "BTC-USDT", "futures": "XBTUSDTM"}


def model_of(symbol: str, **arguments: Any) -> SymbolModel:
    found = MarketModel(**arguments).find("spot" if "-" in symbol else "futures", symbol)
    assert found is not None
    return found


def sides(model: SymbolModel) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    return list(model.bids), list(model.asks)


# -- the past ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    symbol=st.sampled_from(["BTC-USDT", "XBTUSDTM", "ETHUSDTM"]),
    steps=st.lists(st.sampled_from(["beat", 1, 3, "renumber"]), min_size=1, max_size=40),
)
def test_the_book_at_each_sequence_is_what_it_was(seed: int, symbol: str, steps: list[str | int]) -> None:
    """Also across beats and numberings: the newest of a number counts."""
    model = model_of(symbol, seed=seed)
    moments = {model.sequence: sides(model)}
    rng = random.Random(seed)
    for number, step in enumerate(steps):
        if step == "renumber":
            model.renumber(rng.randrange(100))
        elif isinstance(step, int):
            passed = model.change(START_NS + number, step).changes
            assert len(passed) == step
            for change in passed:
                moments.pop(change.sequence, None)  # it had this number before, and has it again now
        else:
            for change in model.advance(START_NS + number * 10**8).changes:
                moments.pop(change.sequence, None)
        moments[model.sequence] = sides(model)
    for sequence, then in moments.items():
        moment = model.moment_at(sequence)
        assert moment is not None
        assert (moment.sequence, moment.bids, moment.asks) == (sequence, *then)


def test_a_book_so_many_changes_ago() -> None:
    model = model_of("BTC-USDT")
    before, first = sides(model), model.sequence
    model.change(START_NS, 5)
    moment = model.moment(5)
    assert (moment.sequence, moment.bids, moment.asks) == (first, *before)
    assert model.moment(3).sequence == first + 2
    assert model.moment(1000).sequence == first, "as far back as is kept"


def test_what_is_kept_of_all_books_has_a_bound() -> None:
    market = MarketModel(changes_kept=100)
    busy, calm = market.find("spot", "BTC-USDT"), market.find("futures", "XBTUSDTM")
    assert busy is not None
    assert calm is not None
    start = calm.sequence
    calm.change(START_NS, 10)
    busy.change(START_NS, 95)
    assert calm.moment_at(start) is None
    assert calm.moment(1000).sequence == start + 5
    assert busy.moment_at(busy.sequence - 95) is not None
    busy.change(START_NS, 100)
    assert busy.moment_at(busy.sequence - 100) is not None
    assert busy.moment_at(busy.sequence - 101) is None
    assert calm.moment(1000).sequence == calm.sequence


def test_the_log_forgets_the_oldest_of_all() -> None:
    log, one, other = ChangeLog(2), deque[Undo](), deque[Undo]()
    for own, number in ((one, 1), (other, 2), (one, 3)):
        log.add(own, Undo(number, "buy", 1, 1))
    assert [[undo.sequence for undo in own] for own in (one, other)] == [[3], [2]]


# -- changing it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [40, 130, 3000])
@pytest.mark.parametrize("symbol", ["BTC-USDT", "XBTUSDTM"])
def test_a_book_keeps_its_size_and_never_crosses(symbol: str, levels: int) -> None:
    model = model_of(symbol, levels=levels)
    for number in range(1200):
        if number < 200:
            model.advance(START_NS + number * 10**8)
        else:
            model.change(START_NS + number * 10**8, 10)
        assert 0 < model.bids.deepest <= model.bids.best < model.asks.best
        for side in (model.bids, model.asks):
            assert levels - 35 <= len(side) <= levels + 35


def test_changes_are_drawn_by_the_seed() -> None:
    one, same, other = (model_of("BTC-USDT", seed=seed) for seed in (1, 1, 2))
    assert one.change(START_NS, 50).changes == same.change(START_NS, 50).changes
    assert [change.price for change in other.change(START_NS, 50).changes] != [
        change.price for change in one.change(START_NS, 50).changes
    ]
    kinds = {(change.side, bool(change.price), bool(change.size)) for change in one.change(START_NS, 500).changes}
    assert kinds == {(side, price, size) for side in ("buy", "sell") for price, size in
                     ((True, True), (True, False), (False, False))}  # fmt: skip
    futures = model_of("XBTUSDTM").change(START_NS, 500)
    assert all(change.price for change in futures.changes), "no-ops are of spot"
    assert not futures.trades


def apply(book: dict[str, dict[Decimal, Decimal]], side: str, price: str, size: str) -> None:
    """One change as a plain client would apply it (PROTOCOL section 8)."""
    if Decimal(price) and Decimal(size):
        book[side][Decimal(price)] = Decimal(size)
    elif Decimal(price):
        book[side].pop(Decimal(price), None)


def agrees(book: dict[str, dict[Decimal, Decimal]], truth: TrueBook) -> bool:
    return (dict(truth.bids), dict(truth.asks)) == (book["buy"], book["sell"])


@pytest.mark.parametrize("market", ["spot", "futures"])
async def test_what_is_pushed_leads_from_each_true_book_to_the_next(
    tools: Any, autojump_clock: object, market: str
) -> None:
    exchange, symbol = Exchange(live=False, seed=4), SYMBOLS[market]
    start = exchange.book(symbol)
    book: dict[str, dict[Decimal, Any]] = {"buy": dict(start.bids), "sell": dict(start.asks)}
    async with tools.connected(exchange, market) as client:
        await client.subscribe(TOPICS[market])
        last, merged, wide = start.sequence, 0, 0
        for count in (1, 2, 4, 7, 30, 100):
            assert exchange.change_book(symbol, count) == last + count
            while last < exchange.book(symbol).sequence:
                (push,) = await client.pushes(1)
                data = push["data"]
                if market == "futures":
                    assert data["sequence"] == last + 1
                    last = data["sequence"]
                    price, side, size = data["change"].split(",")
                    apply(book, side, price, size)
                else:
                    assert data["sequenceStart"] == last + 1
                    span = data["sequenceEnd"] - last
                    last = data["sequenceEnd"]
                    rows = [("buy", row) for row in data["changes"]["bids"]]
                    rows += [("sell", row) for row in data["changes"]["asks"]]
                    merged += len(rows) < span
                    wide += span > 1 and all(data["changes"].values())
                    for side, (price, size, _) in rows:
                        apply(book, side, price, size)
                assert agrees(book, exchange.book(symbol, last))
        assert last == start.sequence + 144
        if market == "spot":
            assert merged, "several changes of one price were merged"
            assert wide, "changes of both sides came in one message"


async def test_whoever_holds_a_topic_hears_of_a_change(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with tools.connected(exchange, "spot") as client:
        await client.subscribe("/market/ticker:BTC-USDT")
        await client.subscribe("/market/ticker:all", "2")
        exchange.change_book("BTC-USDT")
        assert [push["topic"] for push in await client.pushes(2)] == ["/market/ticker:BTC-USDT", "/market/ticker:all"]
        exchange.change_book("ETH-USDT")
        (push,) = await client.pushes(1)
        assert (push["topic"], push["subject"]) == ("/market/ticker:all", "ETH-USDT")


async def test_a_book_can_be_numbered_anew(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with tools.connected(exchange, "spot") as client:
        await client.subscribe(TOPICS["spot"])
        old = exchange.book("BTC-USDT")
        exchange.renumber_book("BTC-USDT", 41)
        assert exchange.change_book("BTC-USDT", 1) == 42
        (push,) = await client.pushes(1)
        assert (push["data"]["sequenceStart"], push["data"]["sequenceEnd"]) == (42, 42)
        assert exchange.book("BTC-USDT", old.sequence) == old
        assert exchange.book("BTC-USDT", 41).bids == old.bids
        exchange.renumber_book("BTC-USDT")
        assert exchange.book("BTC-USDT").sequence == 0


def test_the_true_book_is_exact_and_what_is_not_there_is_said() -> None:
    exchange = Exchange(live=False, book_levels=40)
    spot, futures = exchange.book("BTC-USDT"), exchange.book("XBTUSDTM")
    model = exchange.model.find("spot", "BTC-USDT")
    assert model is not None
    assert spot.bids[0] == Level(Decimal(model.bids.best) / 10, Decimal(model.bids.size_at(model.bids.best)) / 10**8)
    assert [price for price, _ in spot.bids] == sorted((price for price, _ in spot.bids), reverse=True)
    assert [price for price, _ in spot.asks] == sorted(price for price, _ in spot.asks)
    assert len(spot.bids) == len(futures.asks) == 40
    assert all(type(level) is Level and type(level.size) is int for level in futures.bids)
    with pytest.raises(LookupError, match="does not have NO-PE"):
        exchange.book("NO-PE")
    with pytest.raises(LookupError, match="BTC-USDT never had the sequence 7"):
        exchange.book("BTC-USDT", 7)
    for change in (exchange.change_book, exchange.renumber_book):
        with pytest.raises(LookupError, match="does not have NOPE"):
            change("NOPE")
    with pytest.raises(ValueError, match="count must be 1 or more, not 0"):
        exchange.change_book("BTC-USDT", 0)
    with pytest.raises(ValueError, match="sequence must be 0 or more, not -1"):
        exchange.renumber_book("BTC-USDT", -1)


@pytest.mark.parametrize("levels", [39, 3001])
def test_how_many_levels_there_can_be(levels: int) -> None:
    with pytest.raises(ValueError, match=f"book_levels must be from 40 to 3000, not {levels}"):
        Exchange(book_levels=levels)


# -- over REST --------------------------------------------------------------------------------------------------------


def read(data: dict[str, Any], symbol: str) -> TrueBook:
    def side(rows: list[list[Any]]) -> tuple[Level, ...]:
        return tuple(Level(Decimal(str(price)), size if type(size) is int else Decimal(size)) for price, size in rows)

    return TrueBook(symbol, int(data["sequence"]), side(data["bids"]), side(data["asks"]))


@pytest.mark.parametrize(
    ("market", "path", "levels"),
    [
        ("spot", "/api/v1/market/orderbook/level2_20", 20),
        ("spot", "/api/v1/market/orderbook/level2_100", 100),
        ("futures", "/api/v1/level2/snapshot", None),
        ("futures", "/api/v1/level2/depth20", 20),
        ("futures", "/api/v1/level2/depth100", 100),
    ],
)
async def test_public_books_are_the_true_ones_cut(
    tools: Any, autojump_clock: object, market: str, path: str, levels: int | None
) -> None:
    exchange, symbol = Exchange(live=False, book_levels=1200), SYMBOLS[market]
    async with MemoryNetwork(exchange) as network:
        for _ in range(3):
            exchange.change_book(symbol, 10)
            truth = exchange.book(symbol)
            assert len(truth.bids) > 1000
            data = (await tools.Dialler(network).request(market, "GET", f"{path}?symbol={symbol}")).data
            assert read(data, symbol) == TrueBook(symbol, truth.sequence, truth.bids[:levels], truth.asks[:levels])


# -- faults of books --------------------------------------------------------------------------------------------------


async def test_a_stale_book_is_the_true_one_of_before(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with MemoryNetwork(exchange) as network:
        exchange.change_book("XBTUSDTM", 20)
        exchange.faults.book = BookFault(stale=7)
        data = (await tools.Dialler(network).request("futures", "GET", FUTURES_ALL)).data
        assert read(data, "XBTUSDTM") == exchange.book("XBTUSDTM", exchange.book("XBTUSDTM").sequence - 7)


async def test_books_fail_as_often_as_is_said_and_only_those(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    exchange.faults.retry_after = "9"
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        exchange.faults.book = BookFault(error=503, times=2, symbols={"BTC-USDT"})
        assert (await dialler.request("futures", "GET", FUTURES_ALL)).status == 200
        assert (await dialler.request("spot", "GET", "/api/v1/timestamp")).status == 200
        for _ in range(2):
            reply = await dialler.request("spot", "GET", SPOT_100)
            assert (reply.status, reply.text, reply.headers["retry-after"]) == (503, "", "9")
        assert exchange.faults.book is None
        assert (await dialler.request("spot", "GET", SPOT_100)).data["bids"]
        exchange.faults.book = BookFault(error=("400007", "no permission"))
        for _ in range(3):
            reply = await dialler.request("spot", "GET", SPOT_100)
            assert (reply.status, reply.json) == (200, {"code": "400007", "msg": "no permission"})


async def test_a_book_can_come_late_or_never(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False)
    async with MemoryNetwork(exchange) as network, trio.open_nursery() as nursery:
        exchange.faults.book = BookFault(delay=3.0, times=1)
        truth, replies = exchange.book("BTC-USDT"), []

        async def ask() -> None:
            replies.append((await tools.Dialler(network).request("spot", "GET", SPOT_100)).data)

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        exchange.change_book("BTC-USDT", 5)
        await trio.sleep(2.9)
        assert replies == []
        await trio.sleep(0.2)
        assert int(replies[0]["sequence"]) == truth.sequence, "of the moment of the request"
        exchange.faults.book = BookFault(delay=math.inf)
        with trio.move_on_after(3600) as patience:
            await ask()
        assert patience.cancelled_caught


@pytest.mark.parametrize(("market", "path"), [("spot", SPOT_100), ("futures", FUTURES_ALL)])
async def test_a_book_can_be_damaged(tools: Any, autojump_clock: object, market: str, path: str) -> None:
    exchange = Exchange(live=False)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        good = (await dialler.request(market, "GET", path)).data
        exchange.faults.book = BookFault(damage="crossed")
        crossed = (await dialler.request(market, "GET", path)).data
        assert float(crossed["bids"][0][0]) > float(crossed["asks"][0][0])
        assert (crossed["bids"][1:], crossed["asks"][1:]) == (good["bids"][1:], good["asks"][1:])
        exchange.faults.book = BookFault(damage="duplicate")
        twice = (await dialler.request(market, "GET", path)).data
        assert twice["bids"][0][0] == twice["bids"][1][0]
        assert len(twice["bids"]) == len(good["bids"])
        exchange.faults.book = BookFault(damage="garbage")
        reply = await dialler.request(market, "GET", path)
        assert reply.status == 200
        with pytest.raises(ValueError, match=r"Expecting|Unterminated|Invalid"):
            print(reply.json)
        exchange.faults.book = BookFault(damage="crossed")
        unknown = await dialler.request(market, "GET", path.replace("=", "=NO"))
        assert unknown.json["code"] in {"900001", "200003"}


@pytest.mark.parametrize(
    ("field", "value"), [("delay", -1.0), ("delay", math.nan), ("stale", -1), ("damage", "other"), ("times", 0)]
)
def test_a_fault_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        BookFault(**{field: value})
