"""Books over REST: public and signed, against the simulated exchange, and whatever else may answer."""

from __future__ import annotations

import json
import logging
import math
import random
import ssl
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import attrs
import pytest
import trio
import ujson
from trio.testing import MockClock, memory_stream_pair

from kufeed import ClockOff, Credentials, CredentialsRefused, ExchangeError, MessageRefused, topic
from kufeed._credentials import repeats, signed_headers
from kufeed._rest import Rest, Signature
from kufeed.protocol import BookSnapshot
from kufeed.protocol.clock import ServerClock
from kufeed.testing import BookFault, Exchange, MemoryNetwork

SPOT, FUTURES = topic("book_delta", "BTC-USDT"), topic("book_delta", "XBTUSDTM")
BASES = {SPOT: "https://api.kucoin.com", FUTURES: "https://api-futures.kucoin.com"}
VALUES = {"key": "k3y-0123456789abcdef", "secret": "s3cret-0123456789", "passphrase": "passphrase-0123456789"}
MINE = Credentials(**VALUES)
CUT = {SPOT: 100, FUTURES: None}


def settings() -> ssl.SSLContext:
    """Nothing is encrypted here."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Skewed:
    """A memory network whose wall clock can be set, and which may be slow."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.ahead = 0.0
        self.slow = 0.0
        self.streams: list[trio.abc.Stream] = []

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        await trio.sleep(self.slow)
        self.streams.append(await self.network.open_stream(host, port, tls))
        return self.streams[-1]

    def time_ns(self) -> int:
        return self.network.time_ns() + round(self.ahead * 1e9)

    def perf_counter(self) -> float:
        return self.network.perf_counter()


@asynccontextmanager
async def exchange_and_rest(stream: Any = SPOT, **arguments: Any) -> AsyncIterator[tuple[Exchange, Rest, Skewed]]:
    exchange = Exchange(live=False, **arguments)
    async with MemoryNetwork(exchange) as memory:
        network = Skewed(memory)
        yield exchange, Rest(network, BASES[stream], settings, ujson.loads), network


async def signed(rest: Rest, credentials: Credentials) -> BookSnapshot:
    """A spot book, by a clock that is asked for it."""
    return await rest.fetch_book(SPOT, Signature(credentials, await rest.fetch_clock()))


def requests(exchange: Exchange) -> int:
    return exchange.statistics().requests


# -- good books -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [SPOT, FUTURES], ids=str)
async def test_a_public_book_is_the_true_one(autojump_clock: MockClock, stream: Any) -> None:
    """Whole of futures, the best hundred levels of spot."""
    async with exchange_and_rest(stream, book_levels=1200) as (exchange, rest, network):
        await trio.sleep(5)
        for _ in range(3):
            exchange.change_book(stream.symbol, 10)
            book, truth = await rest.fetch_book(stream), exchange.book(stream.symbol)
            assert (book.bids, book.asks) == (truth.bids[: CUT[stream]], truth.asks[: CUT[stream]])
            assert (book.sequence, book.limit) == (truth.sequence, CUT[stream])
            assert book.exchange_time_ns == book.received_time_ns == network.time_ns()
            assert book.problem() is None
            assert {type(level.price) for level in book.bids} == {Decimal}


async def test_a_signed_spot_book_is_whole(autojump_clock: MockClock) -> None:
    async with exchange_and_rest(book_levels=3000) as (exchange, rest, _):
        book = await signed(rest, exchange.issue_credentials())
        truth = exchange.book("BTC-USDT")
        assert (book.sequence, book.bids, book.asks) == (truth.sequence, truth.bids, truth.asks)
        assert (len(book.bids), book.limit) == (3000, None)


async def test_a_futures_book_is_public_whoever_asks(autojump_clock: MockClock) -> None:
    async with exchange_and_rest(FUTURES) as (exchange, rest, _):
        assert (await rest.fetch_book(FUTURES, Signature(MINE, ServerClock()))).bids == exchange.book("XBTUSDTM").bids
        assert requests(exchange) == 1


async def test_numbers_may_be_floats(autojump_clock: MockClock) -> None:
    async with exchange_and_rest() as (_, rest, _):
        book = await rest.fetch_book(SPOT, numbers=float)
        assert {type(number) for level in book.bids for number in level} == {float}


async def test_over_tcp_the_base_has_a_path_which_is_not_signed() -> None:
    from kufeed import RealNetwork

    exchange = Exchange(live=False)
    async with exchange.listen() as address:
        rest = Rest(RealNetwork(), address.spot_url, settings, ujson.loads)
        with trio.fail_after(30):
            book = await signed(rest, exchange.issue_credentials())
    assert book.limit is None


# -- the exchange's clock ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [-86_400.0, -5.5, 0.0, 5.5, 86_400.0])
async def test_a_signature_goes_by_the_exchanges_clock(autojump_clock: MockClock, ahead: float) -> None:
    async with exchange_and_rest() as (exchange, rest, network):
        network.ahead, network.slow = ahead, 2.0
        assert (await signed(rest, exchange.issue_credentials())).limit is None
        assert requests(exchange) == 2


@pytest.mark.parametrize("data", [None, "soon", 1729100692, {"a": 1}])
async def test_a_time_that_is_none_is_an_exchange_error(autojump_clock: MockClock, data: Any) -> None:
    with pytest.raises(ExchangeError, match="/api/v1/timestamp: not a time: data: ") as error:
        await ask(envelope(data), credentials=MINE)
    assert isinstance(error.value.__cause__, MessageRefused)


# -- what the exchange refuses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "code"), [("key", "400003"), ("passphrase", "400004"), ("secret", "400004")])
async def test_credentials_of_somebody_else_are_refused_at_once(
    autojump_clock: MockClock, field: str, code: str
) -> None:
    """A wrong secret spoils the passphrase, too, which is looked at first."""
    async with exchange_and_rest() as (exchange, rest, _):
        wrong = attrs.asdict(exchange.issue_credentials()) | {field: getattr(MINE, field)}
        with pytest.raises(CredentialsRefused) as error:
            await signed(rest, Credentials(**wrong))
        assert error.value.code == code
        assert not isinstance(error.value, ClockOff)
        assert requests(exchange) == 2, "it is not tried again"


@pytest.mark.parametrize("code", ["400001", "400005", "400006", "400007"])
async def test_each_code_about_credentials_has_its_error(autojump_clock: MockClock, code: str) -> None:
    async with exchange_and_rest() as (exchange, rest, _):
        exchange.faults.book = BookFault(error=(code, "no"))
        with pytest.raises(CredentialsRefused, match=f"no .code {code}."):
            await signed(rest, exchange.issue_credentials())


async def test_other_refusals_say_code_and_wait(autojump_clock: MockClock) -> None:
    async with exchange_and_rest() as (exchange, rest, _):
        exchange.faults.book = BookFault(error=("429000", "Too Many Requests"), times=1)
        with pytest.raises(ExchangeError, match="Too Many Requests") as error:
            await rest.fetch_book(SPOT)
        assert not isinstance(error.value, CredentialsRefused)
        assert error.value.retry_after is not None
        exchange.faults.retry_after = "7"
        exchange.faults.book = BookFault(error=503, times=1)
        with pytest.raises(ExchangeError, match="HTTP 503 without KuCoin's envelope") as error:
            await rest.fetch_book(SPOT)
        assert error.value.retry_after == 7.0
        assert rest.quiet.until() == trio.current_time() + 30.0  # of the 429, whose quota comes back then
        await rest.fetch_book(SPOT)


# -- what is no book --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [SPOT, FUTURES], ids=str)
async def test_books_that_contradict_themselves_are_handed_over_to_be_judged(
    autojump_clock: MockClock, stream: Any
) -> None:
    async with exchange_and_rest(stream) as (exchange, rest, _):
        exchange.change_book(stream.symbol, 9)
        exchange.faults.book = BookFault(damage="crossed")
        assert (await rest.fetch_book(stream)).problem() == "best bid not below best ask"
        exchange.faults.book = BookFault(damage="duplicate")
        assert (await rest.fetch_book(stream)).problem() == "a price stands twice"
        exchange.faults.book = BookFault(stale=9)
        assert (await rest.fetch_book(stream)).sequence == exchange.book(stream.symbol).sequence - 9
        exchange.faults.book = BookFault(damage="garbage")
        with pytest.raises(ExchangeError, match="HTTP 200 without KuCoin's envelope"):
            await rest.fetch_book(stream)


async def test_a_hanging_request_ends_with_its_scope(autojump_clock: MockClock) -> None:
    async with exchange_and_rest() as (exchange, rest, _):
        exchange.faults.book = BookFault(delay=math.inf)
        with trio.move_on_after(60) as patience:
            await rest.fetch_book(SPOT)
        assert patience.cancelled_caught
        assert trio.current_time() == 60


Wrap = Callable[[trio.abc.Stream], trio.abc.Stream]


class Answering:
    """A network whose every host gives the next of *answers* to whatever is asked; the last one again and again."""

    def __init__(self, nursery: trio.Nursery, answers: Sequence[bytes], wrap: Wrap) -> None:
        self.nursery = nursery
        self.answers = list(answers)
        self.wrap = wrap
        self.heads: list[str] = []
        self.streams: list[trio.abc.Stream] = []

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        ours, theirs = memory_stream_pair()
        self.streams.append(ours)
        self.nursery.start_soon(self.serve, theirs)
        return self.wrap(ours)

    async def serve(self, stream: trio.abc.Stream) -> None:
        self.heads.append(bytes(await stream.receive_some(65536)).decode())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        try:
            await stream.send_all(answer)
            await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    def time_ns(self) -> int:
        return 1_700_000_000_000_000_000

    def perf_counter(self) -> float:
        return 0.0


def envelope(data: Any, code: str = "200000", **more: Any) -> bytes:
    return http(json.dumps({"code": code, "data": data, **more}).encode())


def http(body: bytes, *, status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


TIME = envelope(1_700_000_000_000)
BOOK: dict[str, Any] = {
    "time": 1_700_000_000_000,
    "sequence": "7",
    "bids": [["1.5", "2"]],
    "asks": [["1.6", "3"]],
}


async def ask(
    *answers: bytes,
    stream: Any = SPOT,
    credentials: Credentials | None = None,
    wrap: Wrap = lambda stream: stream,
    base: str | None = None,
) -> list[str]:
    """Fetch a book from who gives these answers; the heads of the requests. Every connection is closed afterwards."""
    caught: list[Exception] = []
    async with trio.open_nursery() as nursery:
        network = Answering(nursery, answers, wrap)
        rest = Rest(network, base or BASES[stream], settings, ujson.loads)
        try:
            await (rest.fetch_book(stream) if credentials is None else signed(rest, credentials))
        except (ExchangeError, trio.BrokenResourceError) as error:
            caught.append(error)
        nursery.cancel_scope.cancel()
    for opened in network.streams:
        with pytest.raises(trio.ClosedResourceError):
            await opened.receive_some(1)
    if caught:
        raise caught[0]
    return network.heads


async def test_what_is_asked_is_what_is_documented(autojump_clock: MockClock) -> None:
    (head,) = await ask(envelope(BOOK))
    assert head.startswith("GET /api/v1/market/orderbook/level2_100?symbol=BTC-USDT HTTP/1.1\r\n")
    assert "KC-API" not in head
    time, book = await ask(TIME, envelope(BOOK), credentials=MINE, base="https://gateway.example/kucoin/")
    assert time.startswith("GET /kucoin/api/v1/timestamp HTTP/1.1\r\n")
    assert "KC-API" not in time, "a time needs no signature"
    assert book.startswith("GET /kucoin/api/v3/market/orderbook/level2?symbol=BTC-USDT HTTP/1.1\r\n")
    assert "KC-API-KEY: k3y-0123456789abcdef\r\n" in book
    assert "KC-API-TIMESTAMP: 1700000000000\r\n" in book
    assert "KC-API-KEY-VERSION: 3\r\n" in book
    assert f"KC-API-SIGN: {HEADERS['KC-API-SIGN']}\r\n" in book
    assert f"KC-API-PASSPHRASE: {HEADERS['KC-API-PASSPHRASE']}\r\n" in book
    assert "s3cret" not in book
    assert "passphrase-" not in book


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (envelope(None), "level2_100: not a book: data: None"),
        (envelope([BOOK]), "not a book: data: list"),
        (envelope(BOOK | {"bids": None}), "not a book: bids: None"),
        (envelope(BOOK | {"bids": [["1.5", "x"]]}), "not a book: bids: 'x'"),
        (envelope(BOOK | {"time": 7}), "not a book: time: not milliseconds: 7"),
        (envelope(BOOK | {"asks": [["1", "1"]] * 101}), "not a book: asks: 101 levels, of which there are 100 at most"),
        (envelope(None, "900001", msg="symbol not exists"), r"level2_100: symbol not exists \(code 900001\)"),
        (http(b"x" * 65537), "more than 65536 bytes"),
        (http(b"", status="302 Found", extra="Location: https://elsewhere.example/\r\n"), "HTTP 302"),
        (http(b"[" * 60_000), "without KuCoin's envelope"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
    ],
)
async def test_what_is_no_book_is_an_exchange_error(autojump_clock: MockClock, answer: bytes, match: str) -> None:
    with pytest.raises(ExchangeError, match=match):
        await ask(answer)


async def test_a_whole_book_has_a_bound_too(autojump_clock: MockClock) -> None:
    body = json.dumps({"code": "200000", "data": BOOK}).encode()
    most = 4 * 2**20
    await ask(TIME, http(body + b" " * (most - len(body))), credentials=MINE)
    with pytest.raises(ExchangeError, match=f"more than {most} bytes"):
        await ask(TIME, http(body + b" " * (most - len(body) + 1)), credentials=MINE)
    futures = {"symbol": "ETHUSDTM", "sequence": 1, "bids": [], "asks": [], "ts": 1_700_000_000_000_000_000}
    with pytest.raises(ExchangeError, match="snapshot: not a book: symbol: 'ETHUSDTM'"):
        await ask(envelope(futures), stream=FUTURES)


# -- nothing shows who signed -----------------------------------------------------------------------------------------


class Breaking(trio.abc.Stream):
    """Breaks at the sending of what is signed, or at the reading of its answer, as a socket would."""

    def __init__(self, stream: trio.abc.Stream, at: str) -> None:
        self.stream = stream
        self.at = at
        self.signed = False

    def _break(self, data: object) -> None:
        try:
            raise ConnectionResetError("reset")
        except ConnectionResetError as error:
            raise trio.BrokenResourceError("broken") from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.signed = self.signed or b"KC-API-SIGN" in bytes(data)
        if self.signed and self.at == "send":
            self._break(data)
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.signed and self.at == "receive":
            self._break(b"")
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


HEADERS = signed_headers(MINE, "GET", "/api/v3/market/orderbook/level2?symbol=BTC-USDT", "", 1_700_000_000_000)
TELLING = [*VALUES.values(), str(HEADERS["KC-API-SIGN"]), str(HEADERS["KC-API-PASSPHRASE"])]
SHAPES = {
    "a refusal that repeats the key": envelope(None, "400003", msg="KC-API-KEY k3y-0123456789abcdef not exists"),
    "a header that repeats the key": http(b"{}", extra="X-You-Are: k3y-0123456789abcdef\r\n"),
    "no HTTP": b"k3y-0123456789abcdef k3y-0123456789abcdef\r\n\r\n",
    "a control character": b"HTTP/1.1 200 OK\r\nX: k3y-0123456789abcdef\x00\r\n\r\n",
    "cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nk3y-0123456789abcdef",
    "too long": http(b"x" * (4 * 2**20 + 1)),
    "no book": envelope(BOOK | {"bids": 7}),
    "broken while sending": TIME,
    "broken while reading": TIME,
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_no_error_traceback_or_log_shows_who_signed(
    autojump_clock: MockClock, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even a traceback that comes with the values of variables."""
    caplog.set_level(logging.DEBUG)
    at = {"broken while sending": "send", "broken while reading": "receive"}.get(shape, "")
    with pytest.raises((ExchangeError, trio.BrokenResourceError)) as error:
        await ask(TIME, SHAPES[shape], credentials=MINE, wrap=lambda stream: Breaking(stream, at))
    if at:
        assert isinstance(error.value, trio.BrokenResourceError)
        assert isinstance(error.value.__cause__, ConnectionResetError)
    inner = error.tb.tb_next
    assert inner is not None
    while inner.tb_next is not None and "fetch_book" not in inner.tb_frame.f_code.co_name:
        inner = inner.tb_next  # what `ask()` itself has in its variables is the test's own affair
    shown = traceback.TracebackException(error.type, error.value, inner, capture_locals=True)
    text = "".join(shown.format()) + str(error.value) + repr(error.value)
    assert "in fetch_book" in text
    if "k3y" not in SHAPES[shape].decode():  # httpcore2 tells, where asked to at DEBUG, what came; never what was sent
        text += "".join(f"{record.getMessage()} {record.args!r}" for record in caplog.records)
    assert [secret for secret in TELLING if repeats(text, secret)] == []


async def test_a_refusal_that_repeats_a_key_is_not_repeated(autojump_clock: MockClock) -> None:
    with pytest.raises(CredentialsRefused) as error:
        await ask(TIME, SHAPES["a refusal that repeats the key"], credentials=MINE)
    assert error.value.message == "/api/v3/market/orderbook/level2: (a text that repeats the credentials)"
    assert error.value.code == "400003"


# -- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
async def test_a_cancelled_request_leaves_nothing_open_and_the_next_one_is_good(
    autojump_clock: MockClock, seed: int
) -> None:
    rng = random.Random(seed)
    async with exchange_and_rest() as (exchange, rest, network):
        network.slow = 1.0
        exchange.faults.book = BookFault(delay=1.0)
        credentials = exchange.issue_credentials()
        with trio.move_on_after(rng.uniform(0, 3.5)):
            await signed(rest, credentials)
        for stream in network.streams:
            with trio.fail_after(1), pytest.raises(trio.ClosedResourceError):
                await stream.receive_some(1)
        assert (await signed(rest, credentials)).limit is None
