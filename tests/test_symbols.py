"""`feed.symbols()` as a user meets it: what it returns, what it refuses, what it costs, and how it ends."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

import kufeed
from kufeed import ExchangeError, FeedConfig, RequestFailed, RestBudget, SymbolStatus, SymbolType, UsageError
from kufeed.testing import Exchange, Limits

from .protocol.test_symbols import CONTRACT, PAIR
from .test_cancellation import CancelAfter
from .test_feed import simulated
from .test_rest import reply

# -- what is returned -------------------------------------------------------------------------------------------------


async def test_the_symbols_of_both_markets(autojump_clock: MockClock) -> None:
    exchange = Exchange(futures=["XBTUSDM", "XBTMH27"], generated=1)
    async with simulated(exchange) as (_, feed):
        await trio.sleep(3600)
        futures, spot = await feed.symbols("futures"), await feed.symbols("spot")
        assert feed.statistics() == kufeed.FeedStatistics((), (), {}, {}, 0, 0, 0, 0, 0), "it takes no connection"
    assert list(futures) == ["XBTUSDTM", "ETHUSDTM", "XBTUSDM", "XBTMH27", "T0001USDTM"]
    assert list(spot) == ["BTC-USDT", "ETH-USDT", "T0001-USDT"]
    assert all(info.symbol == symbol for listed in (futures, spot) for symbol, info in listed.items())
    linear, inverse, dated, pair = futures["XBTUSDTM"], futures["XBTUSDM"], futures["XBTMH27"], spot["BTC-USDT"]
    assert (linear.tick, linear.lot, linear.multiplier, linear.base) == (Decimal("0.1"), 1, Decimal("0.001"), "XBT")
    assert (linear.type, linear.status, linear.settle) == (SymbolType.PERPETUAL, SymbolStatus.OPEN, "USDT")
    assert linear.funding_interval == 28800
    assert linear.next_funding is not None
    # Asked for an hour after midnight; funding comes every eight hours.
    assert timedelta(0) <= linear.next_funding - datetime(2026, 1, 1, 8, tzinfo=UTC) < timedelta(seconds=1)
    assert (inverse.is_inverse, inverse.multiplier, inverse.settle, inverse.quote) == (True, -1, "XBT", "USD")
    assert (dated.type, dated.expiry) == (SymbolType.DATED, datetime(2027, 3, 26, 8, tzinfo=UTC))
    assert (dated.is_inverse, dated.funding_interval, dated.next_funding) == (True, None, None)
    assert (pair.tick, pair.lot, pair.settle) == (Decimal("0.1"), Decimal("0.00000001"), "USDT")


async def test_what_it_returns_cannot_be_changed(autojump_clock: MockClock) -> None:
    async with simulated() as (_, feed):
        listed: Any = await feed.symbols("spot")
        with pytest.raises(TypeError):
            del listed["BTC-USDT"]


async def test_everything_is_asked_anew(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed):
        for number in (1, 2, 3):
            await feed.symbols("futures")
            assert exchange.statistics().requests == number


@pytest.mark.parametrize("market", ["Futures", "margin", "", None, 7, ["spot"]])
async def test_there_is_no_other_market(autojump_clock: MockClock, market: Any) -> None:
    async with simulated() as (exchange, feed):
        with pytest.raises(UsageError, match="market must be 'futures' or 'spot'"):
            await feed.symbols(market)
        assert exchange.statistics().requests == 0


# -- an exchange that answers what the test wants ---------------------------------------------------------------------

Serve = Callable[[trio.abc.Stream], Awaitable[None]]


class Answering:
    """A network on which every host does the same with a request; it keeps what it was asked, and both ends."""

    ssl_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, nursery: trio.Nursery, serve: Serve) -> None:
        self.nursery = nursery
        self.serve = serve
        self.heads: list[str] = []
        self.ours: list[trio.abc.Stream] = []

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        ours, theirs = memory_stream_pair()
        self.ours.append(ours)
        self.nursery.start_soon(self._answer, theirs)
        return ours

    async def _answer(self, stream: trio.abc.Stream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            if not (data := await stream.receive_some()):
                return
            head += data
        self.heads.append(head.decode())
        try:
            await self.serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def assert_all_closed(self) -> None:
        assert self.ours
        for stream in self.ours:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some(1)

    def time_ns(self) -> int:
        return 1_767_225_600_000_000_000 + round(trio.current_time() * 1e9)

    def perf_counter(self) -> float:
        return trio.current_time()


@asynccontextmanager
async def answering(
    answer: bytes | Serve, config: FeedConfig | None = None
) -> AsyncIterator[tuple[Answering, kufeed.Feed]]:
    async def serve(stream: trio.abc.Stream) -> None:
        assert isinstance(answer, bytes)
        await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        network = Answering(nursery, serve if isinstance(answer, bytes) else answer)
        async with kufeed.open_feed(config, network=network) as feed:
            yield network, feed
        nursery.cancel_scope.cancel()


def listing(*rows: Any) -> bytes:
    return reply(json.dumps({"code": "200000", "data": rows}).encode())


async def never(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def test_it_asks_where_it_is_documented(autojump_clock: MockClock) -> None:
    async with answering(listing()) as (network, feed):
        assert await feed.symbols("futures") == await feed.symbols("spot") == {}
        assert [head.partition("\r\n")[0] for head in network.heads] == [
            "GET /api/v1/contracts/active HTTP/1.1",
            "GET /api/v2/symbols HTTP/1.1",
        ]
        await network.assert_all_closed()


async def test_a_bad_row_is_refused_and_counted_and_the_rest_is_returned(autojump_clock: MockClock) -> None:
    eth = CONTRACT | {"symbol": "ETHUSDTM"}
    rows = [CONTRACT, eth | {"tickSize": 0}, 7, eth, eth | {"multiplier": 2}, eth | {"tickSize": "x", "symbol": "A"}]
    async with answering(listing(*rows)) as (_, feed):
        listed = await feed.symbols("futures")
        assert list(listed) == ["XBTUSDTM", "ETHUSDTM"]
        assert listed["ETHUSDTM"].multiplier == Decimal("0.001"), "of two rows for a symbol, the first counts"
        statistics = feed.statistics()
    assert statistics.refused == {"tickSize": 2, "data": 1, "symbol": 1}
    assert statistics.refused_samples["symbol"] == "symbol: ETHUSDTM is there twice"


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (reply(b'{"code":"200000","data":null}'), "/api/v2/symbols: the answer is no list"),
        (reply(b'{"code":"200000","data":{"BTC-USDT":{}}}'), "no list"),
        (reply(b'{"code":"200000","data":"BTC-USDT"}'), "no list"),
        (reply(b'{"code":"200000"}'), "no list"),
        (listing({"symbol": "BTC-USDT"}, 7), "none of 2 rows is a symbol"),
        (reply(b"<html>"), "HTTP 200 without KuCoin's envelope"),
        (reply(b"[" * 2**20), "without KuCoin's envelope"),
        (reply(b'{"code":"400100","msg":"no"}'), r"/api/v2/symbols: no \(code 400100\)"),
        (reply(b"", status="503 Busy"), "HTTP 503"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        (reply(b" " * (4 * 2**20 + 1)), "more than 4194304 bytes"),
    ],
)
async def test_what_is_no_list_of_symbols_is_an_exchange_error(
    autojump_clock: MockClock, answer: bytes, match: str
) -> None:
    async with answering(answer) as (network, feed):
        with pytest.raises(ExchangeError, match=match):
            await feed.symbols("spot")
        assert len(network.heads) == 1, "one try"
        await network.assert_all_closed()


async def test_a_list_several_times_as_long_as_todays_is_taken_in_pieces(autojump_clock: MockClock) -> None:
    """Others run in between: at least once for every hundred rows."""
    rows = [PAIR | {"symbol": f"A{number}-USDT", "filler": "x" * 400} for number in range(6000)]
    body = listing(*rows)
    assert 3 * 2**20 < len(body) < 4 * 2**20
    passes = decoded_at = 0

    async def others() -> None:
        nonlocal passes
        while True:
            await trio.lowlevel.checkpoint()
            passes += 1

    def loads(text: bytes) -> Any:
        nonlocal decoded_at
        decoded_at = passes
        return json.loads(text)

    async with answering(body, FeedConfig(loads=loads)) as (network, feed):
        network.nursery.start_soon(others)
        assert len(await feed.symbols("spot")) == 6000
    assert passes - decoded_at >= 60


# -- the network fails ------------------------------------------------------------------------------------------------


async def test_nothing_in_time_is_a_request_that_failed(autojump_clock: MockClock) -> None:
    async with answering(never, FeedConfig(connect_timeout=7.0)) as (network, feed):
        with pytest.raises(RequestFailed, match=r"^/api/v1/contracts/active: nothing within 7 s$") as error:
            await feed.symbols("futures")
        assert trio.current_time() == 7
        assert error.value.path == "/api/v1/contracts/active"
        await network.assert_all_closed()


async def test_an_answer_that_drips_is_bounded_by_the_same_deadline(autojump_clock: MockClock) -> None:
    async def drip(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while True:
            await stream.send_all(b" ")
            await trio.sleep(0.5)

    async with answering(drip) as (network, feed):
        with pytest.raises(RequestFailed, match="nothing within 10 s"):
            await feed.symbols("futures")
        assert trio.current_time() == 10
        await network.assert_all_closed()


async def test_a_connection_that_breaks_is_a_request_that_failed(autojump_clock: MockClock) -> None:
    class Broken(Answering):
        async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
            await super().open_stream(host, port, tls)
            raise trio.BrokenResourceError from ConnectionResetError("reset by peer")

    async with trio.open_nursery() as nursery:
        async with kufeed.open_feed(network=Broken(nursery, never)) as feed:
            with pytest.raises(RequestFailed, match="/api/v2/symbols: reset by peer") as error:
                await feed.symbols("spot")
            assert isinstance(error.value.__cause__, trio.BrokenResourceError)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("url", ["https://nowhere.example", None])
async def test_an_exchange_that_is_not_there_is_no_os_error(autojump_clock: MockClock, url: str | None) -> None:
    exchange = Exchange()
    exchange.faults.refuse_dials = True
    config = FeedConfig() if url is None else FeedConfig(spot_url=url)
    async with simulated(exchange, config) as (_, feed):
        with pytest.raises(RequestFailed, match="refused the connection" if url is None else "no such host") as error:
            await feed.symbols("spot")
        assert isinstance(error.value.__cause__, OSError)
        exchange.faults.refuse_dials = False
        if url is None:
            assert await feed.symbols("spot"), "asked again, it works"


# -- what it costs ----------------------------------------------------------------------------------------------------


async def test_it_takes_its_weight_and_gives_it_back_only_where_nothing_was_sent(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    async with simulated(exchange) as (_, feed):
        budget = RestBudget.of_this_run()
        await feed.symbols("spot")
        assert budget.statistics().used == 4
        await feed.symbols("futures")
        assert budget.statistics().used == 7
        exchange.faults.request_error = 500
        with pytest.raises(ExchangeError):
            await feed.symbols("futures")
        statistics = budget.statistics()
        assert (statistics.used, statistics.held, statistics.waiting) == (10, 0, 0)
        await trio.sleep(30)
        assert budget.statistics().used == 0


async def test_a_share_counts_besides_the_whole(autojump_clock: MockClock) -> None:
    async with simulated(config=FeedConfig(budget_share=0.01)) as (exchange, feed):
        for _ in range(5):
            await feed.symbols("spot")
        assert trio.current_time() == 0
        assert exchange.statistics().requests == 5
        await feed.symbols("spot")
        assert trio.current_time() == 30
        assert RestBudget.of_this_run().statistics().used == 4


async def test_the_deadline_counts_from_when_the_budget_lets_it_through(autojump_clock: MockClock) -> None:
    async with answering(never, FeedConfig(connect_timeout=7.0)) as (network, feed):
        held = await RestBudget.of_this_run().acquire(2000)
        held.release()
        with pytest.raises(RequestFailed):
            await feed.symbols("spot")
        assert trio.current_time() == 30 + 7
        assert len(network.heads) == 1


async def test_tokens_go_first(autojump_clock: MockClock) -> None:
    """The symbols were asked for before the subscription; the first weight that is free is its token's."""
    order: list[str] = []
    async with simulated() as (_, feed), trio.open_nursery() as nursery:
        budget = RestBudget.of_this_run()
        (await budget.acquire(10)).release()
        await trio.sleep(5)
        (await budget.acquire(1990)).release()

        async def list_symbols() -> None:
            await feed.symbols("spot")
            order.append("symbols")

        async def subscribe() -> None:
            async with feed.ticker("BTC-USDT"):
                order.append("ticker")

        nursery.start_soon(list_symbols)
        await wait_all_tasks_blocked()
        nursery.start_soon(subscribe)
        await wait_all_tasks_blocked()
        assert budget.statistics().waiting == 2
    assert order == ["ticker", "symbols"]
    assert trio.current_time() >= 35


@pytest.mark.parametrize(("status", "everywhere"), [(429, True), (503, False)])
async def test_an_exchange_that_asks_to_be_left_alone_is(
    autojump_clock: MockClock, status: int, everywhere: bool
) -> None:
    """By the next request as by the connections of the run; a busy server by those who would ask that one alone."""
    exchange = Exchange()
    exchange.faults.request_error, exchange.faults.retry_after = status, "50"
    async with simulated(exchange) as (_, feed):
        with pytest.raises(ExchangeError, match=f"HTTP {status}") as error:
            await feed.symbols("spot")
        assert error.value.retry_after == 50
        exchange.faults.request_error = None
        await feed.symbols("futures")
        assert trio.current_time() == (50 if everywhere else 0)
        await feed.symbols("spot")
        assert trio.current_time() == 50


async def test_what_was_asked_for_meanwhile_is_seen(autojump_clock: MockClock) -> None:
    """Ten stand in the queue for the budget when the first is told to leave the exchange alone for a minute."""
    exchange = Exchange()
    exchange.faults.request_error, exchange.faults.retry_after = 503, "60"
    async with simulated(exchange) as (_, feed), trio.open_nursery() as nursery:
        budget = RestBudget.of_this_run()
        (await budget.acquire(1996)).release()
        await trio.sleep(1)

        async def ask() -> None:
            try:
                await feed.symbols("spot")
            except ExchangeError:
                return

        for _ in range(10):
            nursery.start_soon(ask)
        await trio.sleep(58)
        assert exchange.statistics().requests == 1
        assert budget.statistics().held == 0, "nobody holds weight while the exchange is left alone"
        exchange.faults.request_error = None
    assert exchange.statistics().requests == 10
    assert trio.current_time() >= 60


async def test_a_used_up_quota_is_left_alone_until_it_is_reset(autojump_clock: MockClock) -> None:
    async with simulated(Exchange(limits=Limits(rest_weight=6))) as (exchange, feed):
        await feed.symbols("spot")
        await trio.sleep(10)
        with pytest.raises(ExchangeError, match="Too Many Requests") as error:
            await feed.symbols("futures")
        assert (error.value.code, error.value.retry_after) == ("429000", 20.0)
        await feed.symbols("futures")
        assert trio.current_time() == 30
        assert exchange.statistics().requests == 3


async def test_reset_asks_at_once(autojump_clock: MockClock) -> None:
    exchange = Exchange()
    exchange.faults.request_error, exchange.faults.retry_after = 429, "3000"
    async with simulated(exchange) as (_, feed), trio.open_nursery() as nursery:
        with pytest.raises(ExchangeError):
            await feed.symbols("spot")
        exchange.faults.request_error = None
        nursery.start_soon(feed.symbols, "spot")
        nursery.start_soon(feed.symbols, "futures")
        await trio.sleep(100)
        assert exchange.statistics().requests == 1
        feed.reset()
    assert trio.current_time() == 100


# -- the end ----------------------------------------------------------------------------------------------------------


async def test_a_closed_feed_asks_nothing(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed):
        pass
    with pytest.raises(UsageError, match="the feed is closed"):
        await feed.symbols("spot")
    assert exchange.statistics().requests == 0


@pytest.mark.parametrize("where", ["budget", "quiet", "answer"])
async def test_closing_the_feed_ends_what_is_being_asked(autojump_clock: MockClock, where: str) -> None:
    """At once, with an error that says so, wherever it stands; also where another task asks."""
    errors: list[UsageError] = []
    async with trio.open_nursery() as nursery:
        network = Answering(nursery, never)

        async def ask() -> None:
            with pytest.raises(UsageError, match="closed while /api/v2/symbols was asked for") as error:
                await feed.symbols("spot")
            errors.append(error.value)

        async with kufeed.open_feed(network=network) as feed:
            budget = RestBudget.of_this_run()
            if where == "budget":
                (await budget.acquire(2000)).release()
            elif where == "quiet":
                feed._pool.rest(kufeed.topic("ticker", "BTC-USDT").channel.market).quiet.ask(1000)
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            assert len(network.ours) == (where == "answer")
            left_at = trio.current_time()
        await wait_all_tasks_blocked()
        assert len(errors) == 1
        assert trio.current_time() == left_at
        if network.ours:
            await network.assert_all_closed()
        nursery.cancel_scope.cancel()
    statistics = budget.statistics()
    assert (statistics.held, statistics.waiting) == (0, 0)


async def test_cancelled_while_it_waits_it_has_taken_nothing(autojump_clock: MockClock) -> None:
    async with simulated() as (exchange, feed):
        budget = RestBudget.of_this_run()
        (await budget.acquire(1998)).release()
        with trio.move_on_after(5) as scope:
            await feed.symbols("spot")
        assert scope.cancelled_caught
        statistics = budget.statistics()
        assert (statistics.used, statistics.held, statistics.waiting) == (1998, 0, 0)
        assert exchange.statistics().requests == 0


def test_wherever_it_is_cancelled_nothing_stays() -> None:
    async def main(steps: int) -> bool:
        body = listing(*[PAIR | {"symbol": f"A{number}-USDT"} for number in range(300)])

        async def serve(stream: trio.abc.Stream) -> None:
            await stream.send_all(body)

        async with trio.open_nursery() as nursery:
            network = Answering(nursery, serve)
            async with kufeed.open_feed(FeedConfig(budget_share=0.5), network=network) as feed:
                budgets = RestBudget.of_this_run(), RestBudget.of_this_run(0.5)
                tasks = trio.lowlevel.current_statistics().tasks_living
                with trio.CancelScope() as scope:
                    trio.lowlevel.add_instrument(instrument := CancelAfter(steps, scope))
                    assert len(await feed.symbols("spot")) == 300
                instrument.left = -1
                await wait_all_tasks_blocked()
                for counts in [budget.statistics() for budget in budgets]:
                    assert (counts.held, counts.waiting) == (0, 0)
                    assert counts.used in (0, 4)
                assert trio.lowlevel.current_statistics().tasks_living <= tasks + len(network.ours)
                if network.ours:
                    await network.assert_all_closed()
                assert feed._pool.requests._open == set()
            nursery.cancel_scope.cancel()
        return scope.cancelled_caught

    steps = 1
    while trio.run(main, steps, clock=MockClock(autojump_threshold=0)):
        steps += 1
    assert steps > 20, "asking was expected to take more steps than that"
