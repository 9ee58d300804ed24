"""`FeedConfig`: every field is checked, can be read from the environment, and has the effect it promises."""

from __future__ import annotations

import json
import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import attrs
import orjson
import pytest
import trio
import trustme
import ujson
from trio.testing import MockClock

import kufeed
from kufeed import FeedConfig, UsageError
from kufeed._json import loads as strict_loads
from kufeed.testing import Exchange, Limits, MemoryNetwork

FIELDS = {field.name: field for field in attrs.fields(FeedConfig)}
Effect = Callable[[], Awaitable[None]]
EFFECTS: dict[str, Effect] = {}


def effect(function: Effect) -> Effect:
    EFFECTS[function.__name__] = function
    return function


@asynccontextmanager
async def feed_with(
    exchange: Exchange | None = None, **fields: Any
) -> AsyncIterator[tuple[Exchange, kufeed.Feed, MemoryNetwork]]:
    exchange = Exchange() if exchange is None else exchange
    async with MemoryNetwork(exchange) as network:
        async with kufeed.open_feed(FeedConfig(**fields), network=network, rng=random.Random(3)) as feed:
            yield exchange, feed, network


async def time_to_fail(**fields: Any) -> float:
    """Seconds until entering gives up on an exchange that refuses every dial."""
    exchange = Exchange()
    exchange.faults.refuse_dials = True
    start = trio.current_time()
    async with feed_with(exchange, **fields) as (_, feed, _):
        with pytest.raises(kufeed.ConnectionFailed):
            async with feed.ticker("XBTUSDTM"):
                pass
        return trio.current_time() - start


# -- one effect for each field, named after it ------------------------------------------------------------------------


async def _named_host(symbol: str, **fields: Any) -> None:
    async with feed_with(max_reconnect_attempts=0, **fields) as (_, feed, _):
        with pytest.raises(kufeed.ConnectionFailed, match=r"elsewhere\.example"):
            async with feed.ticker(symbol):
                pass


@effect
async def futures_url() -> None:
    await _named_host("XBTUSDTM", futures_url="https://elsewhere.example")


@effect
async def spot_url() -> None:
    await _named_host("BTC-USDT", spot_url="https://elsewhere.example")


@effect
async def max_reconnect_attempts() -> None:
    for attempts in (0, 3):
        async with feed_with(max_reconnect_attempts=attempts) as (exchange, feed, _):
            exchange.faults.token_error = 503
            with pytest.raises(kufeed.ConnectionFailed):
                async with feed.ticker("XBTUSDTM"):
                    pass
            assert feed.statistics().connections[0].dials == attempts + 1


@effect
async def reconnect_delay() -> None:
    assert await time_to_fail(max_reconnect_attempts=1, reconnect_delay=0) == 0
    assert 1 < await time_to_fail(max_reconnect_attempts=1, reconnect_delay=20, max_reconnect_delay=20) < 20


@effect
async def max_reconnect_delay() -> None:
    capped = await time_to_fail(max_reconnect_attempts=10, reconnect_delay=1, max_reconnect_delay=1)
    free = await time_to_fail(max_reconnect_attempts=10, reconnect_delay=1, max_reconnect_delay=1000)
    assert capped <= 10 < free


@effect
async def healthy_after() -> None:
    for lived, failures in ((40.0, 1), (20.0, 2)):
        async with feed_with(healthy_after=30.0) as (exchange, feed, _), feed.ticker("XBTUSDTM"):
            for _ in range(2):
                await trio.sleep(lived)
                await exchange.disconnect_all()
                await exchange.wait_subscribed("/contractMarket/tickerV2:XBTUSDTM")
            assert feed.statistics().connections[0].failures == failures


@effect
async def latency_warning() -> None:
    wire = "/market/ticker:BTC-USDT"
    data = dict.fromkeys(("sequence", "bestBid", "bestBidSize", "bestAsk", "bestAskSize", "price", "size"), "1")
    for seconds, late in ((0.1, 1), (2.0, 0), (None, 0)):
        exchange = Exchange(update_interval=3600.0)
        async with feed_with(exchange, latency_warning=seconds) as (_, feed, network), feed.ticker("BTC-USDT") as sub:
            sent = {**data, "time": network.time_ns() // 10**6 - 1000}
            await exchange.play([json.dumps({"topic": wire, "subject": "trade.ticker", "data": sent})])
            assert (await sub.receive()).late is bool(late)
            assert feed.statistics().late == late


@effect
async def rotate_after() -> None:
    async with feed_with(rotate_after=50.0) as (exchange, feed, _), feed.ticker("XBTUSDTM"):
        await trio.sleep(60)
        assert len(exchange.dials) == 2


@effect
async def redundancy() -> None:
    async with feed_with(redundancy=3) as (exchange, feed, _), feed.ticker("XBTUSDTM"):
        await trio.sleep(30)
        assert len(exchange.sessions) == 3


@effect
async def stale_after() -> None:
    wire = "/contract/instrument:XBTUSDTM"
    for seconds, until_noticed in ((12.0, (12, 15)), (60.0, (60, 71))):
        exchange = Exchange()
        exchange.faults.mute_topics = {wire}
        async with feed_with(exchange, stale_after=seconds) as (_, feed, _), feed.mark_price("XBTUSDTM") as sub:
            start = trio.current_time()
            async for item in sub.with_events():
                assert isinstance(item, kufeed.Stale)
                break
            least, most = until_noticed
            assert least <= trio.current_time() - start <= most


@effect
async def circuit_cooldown() -> None:
    async with feed_with(max_reconnect_attempts=0, circuit_cooldown=7.0) as (exchange, feed, _):
        async with feed.ticker("XBTUSDTM") as tickers:
            await tickers.receive()
            exchange.faults.refuse_dials = True
            await exchange.disconnect_all()
            with pytest.raises(kufeed.ConnectionFailed):
                async for _ in tickers:
                    pass
            exchange.faults.refuse_dials = False
            start = trio.current_time()
            await tickers.receive()
            assert 7.0 <= trio.current_time() - start < 7.2


def pings(exchange: Exchange) -> int:
    return sum('"ping"' in text for text in exchange.sessions[0].received)


@effect
async def ping_interval() -> None:
    async with feed_with(ping_interval=2.0) as (exchange, feed, _), feed.ticker("XBTUSDTM"):
        await trio.sleep(21)
        assert pings(exchange) == 10


@effect
async def pong_timeout() -> None:
    async with feed_with(pong_timeout=3.0, reconnect_delay=1000, max_reconnect_delay=1000) as (exchange, feed, _):
        async with feed.ticker("XBTUSDTM"):
            exchange.freeze()
            await trio.sleep(18 + 3.1)
            assert feed.statistics().connections[0].last_failure == "no pong within 3 s"


@effect
async def connect_timeout() -> None:
    exchange = Exchange()
    exchange.freeze()
    async with feed_with(exchange, max_reconnect_attempts=0, connect_timeout=1.25) as (_, feed, _):
        start = trio.current_time()
        with pytest.raises(kufeed.ConnectionFailed, match=r"within 1\.25 s"):
            async with feed.ticker("XBTUSDTM"):
                pass
        assert trio.current_time() - start == pytest.approx(1.25, abs=0.1)


@effect
async def ack_timeout() -> None:
    exchange = Exchange()
    exchange.faults.withhold_acks = True
    async with feed_with(exchange, ack_timeout=0.5) as (_, feed, _):
        start = trio.current_time()
        with pytest.raises(kufeed.SubscriptionTimeout):
            async with feed.ticker("XBTUSDTM"):
                pass
        assert trio.current_time() - start == pytest.approx(1.0, abs=0.05)


@effect
async def close_timeout() -> None:
    """Seen from the outside: test_feed.py shows that leaving takes exactly this long when nobody answers."""

    class Silent(MemoryNetwork):
        silent = False

        async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
            stream = await super().open_stream(host, port, tls)
            receive = stream.receive_some

            async def receive_some(max_bytes: int | None = None) -> bytes | bytearray:
                data = await receive(max_bytes)
                if self.silent:
                    await trio.sleep_forever()
                return data

            stream.receive_some = receive_some  # type: ignore[method-assign]
            return stream

    async with Silent(Exchange()) as network:
        async with kufeed.open_feed(FeedConfig(close_timeout=0.75), network=network) as feed:
            async with feed.ticker("XBTUSDTM"):
                network.silent = True
                start = trio.current_time()
        assert trio.current_time() - start == pytest.approx(0.75, abs=0.01)


@effect
async def linger() -> None:
    for seconds, sessions in ((0.0, 0), (50.0, 1)):
        async with feed_with(linger=seconds) as (exchange, feed, _):
            async with feed.ticker("XBTUSDTM"):
                pass
            await trio.sleep(10)
            assert len(exchange.sessions) == sessions


@effect
async def message_buffer_size() -> None:
    async with feed_with(message_buffer_size=3) as (_, feed, _), feed.trades("XBTUSDTM") as trades:
        await trio.sleep(30)
        assert trades.statistics().pending == trades.statistics().bound == 3


@effect
async def numbers() -> None:
    """Everywhere a number stands: test_feed.py."""
    for kind in (Decimal, float):
        async with feed_with(numbers=kind) as (_, feed, _), feed.mark_price("XBTUSDTM") as prices:
            assert type((await prices.receive()).mark_price) is kind


@effect
async def credentials() -> None:
    """Whole spot books, known to any depth."""
    exchange = Exchange(live=False, book_levels=1200)
    mine = exchange.issue_credentials()
    async with feed_with(exchange, credentials=mine) as (_, feed, _), feed.book("BTC-USDT", depth=1000) as books:
        with trio.fail_after(60):
            assert len((await books.receive()).bids) == 1000
    async with feed_with() as (_, feed, _):
        with pytest.raises(UsageError, match="at most 50 without FeedConfig"):
            feed.book("BTC-USDT", depth=1000)


@effect
async def book_audit_every() -> None:
    for every, audits in ((None, 0), (10.0, 3)):
        async with feed_with(Exchange(live=False), book_audit_every=every) as (_, feed, _), feed.book("XBTUSDTM"):
            await trio.sleep(35)
            (book,) = feed.statistics().books
            assert (book.state, book.seeds, book.audits) == ("live", 1, audits)


@effect
async def keep_raw() -> None:
    for kept in (False, True):
        async with feed_with(keep_raw=kept) as (_, feed, _), feed.ticker("XBTUSDTM") as tickers:
            assert ((await tickers.receive()).raw is not None) is kept


@effect
async def on_reject() -> None:
    async with feed_with(on_reject="skip") as (_, feed, _), feed.ticker("XBTUSDTM", "NONEUSDTM") as tickers:
        assert [one.symbol for one in tickers.topics] == ["XBTUSDTM"]
    async with feed_with(on_reject="raise") as (_, feed, _):
        with pytest.raises(kufeed.SubscriptionRejected):
            async with feed.ticker("XBTUSDTM", "NONEUSDTM"):
                pass


@effect
async def max_connections() -> None:
    async with feed_with(max_connections=1) as (_, feed, _), feed.ticker("XBTUSDTM"):
        with pytest.raises(UsageError, match="max_connections is 1"):
            async with feed.ticker("BTC-USDT"):
                pass


@effect
async def max_concurrent_dials() -> None:
    for allowed in (2, 5):
        exchange = Exchange()
        exchange.faults.withhold_welcome = True
        async with feed_with(exchange, max_concurrent_dials=allowed, topics_per_connection=1) as (_, feed, _):
            symbols = ("XBTUSDTM", "ETHUSDTM", "BTC-USDT", "ETH-USDT")
            with trio.move_on_after(5):
                async with feed.ticker(*symbols), feed.trades(*symbols):
                    pass
            with trio.move_on_after(5):
                async with feed.subscribe(*[kufeed.topic("ticker", one) for one in symbols]):
                    pass
            assert len(exchange.sessions) == min(allowed, 4)


@effect
async def budget_share() -> None:
    symbols = [f"T{number:04}USDTM" for number in range(1, 13)]
    async with feed_with(Exchange(generated=12), budget_share=1 / 3, topics_per_connection=1) as (exchange, feed, _):
        async with feed.ticker(*symbols):
            times = [dial.at for dial in exchange.dials]
            assert times[9] - times[0] < 1
            assert times[10] - times[0] >= 60


@effect
async def topics_per_connection() -> None:
    async with feed_with(topics_per_connection=1) as (exchange, feed, _), feed.ticker("XBTUSDTM", "ETHUSDTM"):
        assert [len(session.topics) for session in exchange.sessions] == [1, 1]


@effect
async def max_message_size() -> None:
    exchange = Exchange(live=False)
    async with feed_with(exchange, max_message_size=2000) as (_, feed, _), feed.ticker("BTC-USDT"):
        frame = {"topic": "/market/ticker:BTC-USDT", "subject": "trade.ticker", "data": {"padding": "x" * 2000}}
        await exchange.play([json.dumps(frame)])
        await trio.sleep(5)
        assert "the limit is 2000" in str(feed.statistics().connections[0].last_failure)


@effect
async def ssl_context() -> None:
    asked: list[ssl.SSLContext | None] = []

    class Noting(MemoryNetwork):
        async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
            asked.append(tls)
            return await super().open_stream(host, port, tls)

    context = ssl.create_default_context()
    trustme.CA().configure_trust(context)
    async with Noting(Exchange()) as network:
        async with kufeed.open_feed(FeedConfig(ssl_context=context), network=network) as feed:
            async with feed.ticker("XBTUSDTM"):
                pass
    assert asked == [context, context]  # for the token, for the WebSocket


@effect
async def allowed_hosts() -> None:
    class Renamed(MemoryNetwork):
        async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
            return await super().open_stream(host.replace("relay.example", "ws-api-futures.kucoin.com"), port, tls)

    def relayed(text: bytes) -> Any:
        return ujson.loads(text.replace(b"ws-api-futures.kucoin.com/", b"relay.example/futures/endpoint"))

    async with Renamed(Exchange()) as network:
        config = FeedConfig(loads=relayed, max_reconnect_attempts=0)
        async with kufeed.open_feed(config, network=network) as feed:
            with pytest.raises(kufeed.ConnectionFailed, match=r"relay\.example; FeedConfig\.allowed_hosts"):
                async with feed.ticker("XBTUSDTM"):
                    pass
        config = attrs.evolve(config, allowed_hosts=("relay.example",))
        async with kufeed.open_feed(config, network=network) as feed, feed.ticker("XBTUSDTM") as tickers:
            await tickers.receive()


async def _asked_host(**fields: Any) -> str:
    """The host of the first connection; it fails, as it is not the exchange's."""
    async with feed_with(max_reconnect_attempts=0, **fields) as (_, feed, _):
        with pytest.raises(kufeed.ConnectionFailed) as failure:
            async with feed.ticker("XBTUSDTM"):
                pass
    return str(failure.value.cause)


@effect
async def proxy() -> None:
    """Seen from the outside: test_proxy.py shows that what goes in comes out."""
    assert "proxy.example: no such host" in await _asked_host(proxy="http://proxy.example:3128")


@effect
async def trust_env() -> None:
    with pytest.MonkeyPatch.context() as environment:
        for name in ("https_proxy", "no_proxy", "NO_PROXY"):
            environment.delenv(name, raising=False)
        environment.setenv("HTTPS_PROXY", "http://proxy.example:3128")
        assert "proxy.example: no such host" in await _asked_host(trust_env=True)
        async with feed_with() as (_, feed, _), feed.ticker("XBTUSDTM") as tickers:
            await tickers.receive()


@effect
async def loads() -> None:
    seen: list[bytes] = []

    def noting(text: bytes) -> Any:
        seen.append(text)
        return orjson.loads(text)

    async with feed_with(loads=noting) as (_, feed, _), feed.ticker("XBTUSDTM") as tickers:
        await tickers.receive()
    assert any(b"tickerV2" in text for text in seen)


@pytest.mark.parametrize("name", FIELDS)
async def test_each_field_has_its_effect(autojump_clock: MockClock, name: str) -> None:
    await EFFECTS[name]()


async def test_a_ping_interval_longer_than_the_servers_is_cut_with_one_warning(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "kufeed"):
        async with feed_with(ping_interval=50.0) as (exchange, feed, _), feed.ticker("XBTUSDTM"):
            await exchange.disconnect_all()
            await exchange.wait_subscribed("/contractMarket/tickerV2:XBTUSDTM")
            await trio.sleep(18 * 3 + 1)
            assert pings(exchange) == 3
    assert [record.message for record in caplog.records if "ping_interval" in record.message] == [
        "ping_interval 50 s is longer than the server's; using 18 s"
    ]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "kufeed.link"]


async def test_a_server_that_asks_for_endless_pings_gets_one_a_second(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Pings go first, and share the budget of frames: nothing else would ever be sent."""
    async with feed_with(Exchange(ping_interval=0.001, ping_timeout=0.001)) as (exchange, feed, _):
        async with feed.ticker("XBTUSDTM"):
            for _ in range(2):
                await trio.sleep(30)
                assert 27 <= pings(exchange) <= 31
                with trio.fail_after(2):
                    async with feed.ticker("ETHUSDTM"):
                        pass
                await exchange.disconnect_all()
                await exchange.wait_subscribed("/contractMarket/tickerV2:XBTUSDTM")
    assert warnings_of(caplog) == [
        "the server asks for a ping every 0.001 s; using 1 s",
        "the server allows for a pong 0.001 s; using 1 s",
    ]


async def test_a_server_that_asks_for_a_ping_a_day_is_pinged_and_noticed_all_the_same(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = Exchange(ping_interval=86_399, ping_timeout=86_399, limits=Limits(client_silence=None))
    async with feed_with(exchange, reconnect_delay=1000, max_reconnect_delay=1000) as (_, feed, _):
        async with feed.ticker("XBTUSDTM"):
            await trio.sleep(251)
            assert pings(exchange) == 5
            exchange.freeze()
            await trio.sleep(50 + 60)
            assert feed.statistics().connections[0].last_failure == "no pong within 60 s"
    assert warnings_of(caplog) == [
        "the server asks for a ping every 86399 s; using 50 s",
        "the server allows for a pong 86399 s; using 60 s",
    ]


async def test_what_the_user_says_of_pings_stands(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    exchange = Exchange(ping_interval=1.0, ping_timeout=86_399)
    fields = {"ping_interval": 0.5, "pong_timeout": 0.75, "reconnect_delay": 1000, "max_reconnect_delay": 1000}
    async with feed_with(exchange, **fields) as (_, feed, _), feed.ticker("XBTUSDTM"):
        await trio.sleep(10.2)
        assert pings(exchange) == 20
        exchange.freeze()
        await trio.sleep(2)
        assert feed.statistics().connections[0].last_failure == "no pong within 0.75 s"
    assert warnings_of(caplog) == []


# -- validation -------------------------------------------------------------------------------------------------------

BAD = {
    "futures_url": [
        "api.kucoin.com",
        "ftp://x",
        "https://",
        7,
        "https://user:pw@host",
        "https://h?x=1",
        "http://h:99999",
        "https://\u00fcn\u00ef.example",
        "https://api.kucoin.com/\u00fc",
        "https://api.kucoin.com/a b",
        "https://api..kucoin.com",
        "https://.kucoin.com",
        "https://user:secret@host:bad",
        "htps://user:secret@host/",
    ],
    "spot_url": ["wss://x", "https://user:secret@host"],
    "max_reconnect_attempts": [-1, 1.5, "3", True],
    "reconnect_delay": [-0.1, float("nan"), float("inf"), "1", True, None],
    "max_reconnect_delay": [-1, 0.5],
    "healthy_after": [-1, None],
    "circuit_cooldown": [0, -1, "x"],
    "ping_interval": [0, -1],
    "pong_timeout": [0],
    "connect_timeout": [0, None],
    "ack_timeout": [0, None],
    "close_timeout": [-1, None],
    "linger": [-1],
    "message_buffer_size": [0, 1.0, None],
    "max_connections": [0],
    "max_concurrent_dials": [0],
    "budget_share": [0, 1.01, "1", float("nan")],
    "topics_per_connection": [0],
    "max_message_size": [10],
    "book_audit_every": [0, -1, float("inf"), "x"],
    "stale_after": [0],
    "latency_warning": [0, -1, float("inf"), float("nan"), "x"],
    "rotate_after": [0],
    "redundancy": [0],
    "ssl_context": [True],
    "proxy": ["https://user:secret@proxy:8080", "http://user:secret@", "http://u:secret@\u00fcn\u00ef..x:1"],
    "trust_env": [1, "yes"],
    "allowed_hosts": [
        "kucoin.com",
        ("",),
        (7,),
        ("relay.example", "relay.example:8443"),
        ("https://user:secret@relay.example",),
        ("relay.example/",),
        ("[::1]",),
        ("b\u00fccher.example",),
    ],
    "loads": ["json"],
    "numbers": [int, "float", Decimal(1), None, []],
    "keep_raw": [1],
    "on_reject": ["ignore"],
    "credentials": ["key"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_by_the_name_of_its_field(name: str, value: Any) -> None:
    with pytest.raises((UsageError, TypeError), match=name) as error:
        FeedConfig(**{name: value})
    assert "secret" not in repr(error.value)


def test_what_is_wrong_with_an_address_is_said_and_what_is_expected() -> None:
    with pytest.raises(UsageError, match=r"spot_url must be a URL such as https://api\.kucoin\.com: its port is 0"):
        FeedConfig(spot_url="https://api.kucoin.com:0")
    with pytest.raises(UsageError, match=r"spot_url must be .*: it has a query"):
        FeedConfig(spot_url="https://api.kucoin.com?x=1")
    with pytest.raises(UsageError, match=r"allowed_hosts\[1\] must be a name .* without scheme, port or path"):
        FeedConfig(allowed_hosts=("h", "h:1"))
    assert FeedConfig(allowed_hosts=("Relay.example.", "::1", "127.0.0.1")).allowed_hosts


def test_every_field_is_checked() -> None:
    assert set(BAD) == set(FIELDS)


def test_the_configuration_is_frozen_and_takes_keywords_only() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        FeedConfig().linger = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        FeedConfig("https://api.kucoin.com")  # type: ignore[misc]
    assert FeedConfig() == FeedConfig()
    assert FeedConfig().loads is strict_loads


# -- the environment --------------------------------------------------------------------------------------------------


def test_the_environment_is_read_when_asked() -> None:
    environ = {
        "KUFEED_SPOT_URL": "http://127.0.0.1:8000/spot",
        "KUFEED_ACK_TIMEOUT": "2.5",
        "KUFEED_MAX_RECONNECT_ATTEMPTS": "none",
        "KUFEED_MAX_CONNECTIONS": "7",
        "KUFEED_TRUST_ENV": "true",
        "KUFEED_ALLOWED_HOSTS": "one.example, two.example",
        "KUFEED_LINGER": "",
        "KUFEED_RECONNECT_DELAY": "60",
        "KUFEED_MAX_RECONNECT_DELAY": "120",
        "KUFEED_NUMBERS": "float",
        "OTHER_LINGER": "x",
    }
    assert FeedConfig.from_env(environ=environ) == FeedConfig(
        spot_url="http://127.0.0.1:8000/spot",
        ack_timeout=2.5,
        max_reconnect_attempts=None,
        max_connections=7,
        trust_env=True,
        allowed_hosts=("one.example", "two.example"),
        reconnect_delay=60.0,
        max_reconnect_delay=120.0,
        numbers=float,
    )
    for text in ("decimal", "Decimal"):
        assert FeedConfig.from_env(environ={"KUFEED_NUMBERS": text}).numbers is Decimal
    assert FeedConfig.from_env("OTHER_", environ={"OTHER_LINGER": "1"}).linger == 1.0


def test_the_environment_is_the_process_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUFEED_LINGER", "9")
    assert FeedConfig.from_env().linger == 9.0
    assert FeedConfig().linger == 5.0


@pytest.mark.parametrize(
    ("variable", "text", "field"),
    [
        ("KUFEED_ACK_TIMEOUT", "soon", "ack_timeout must be a number"),
        ("KUFEED_ACK_TIMEOUT", "-1", "ack_timeout must be a positive number"),
        ("KUFEED_ACK_TIMEOUT", "none", "ack_timeout must be a number"),
        ("KUFEED_MAX_CONNECTIONS", "1.5", "max_connections must be a whole number"),
        ("KUFEED_TRUST_ENV", "perhaps", "trust_env must be true or false"),
        ("KUFEED_SPOT_URL", "nowhere", "spot_url must be a URL"),
        ("KUFEED_SSL_CONTEXT", "x", "ssl_context cannot be set"),
        ("KUFEED_LOADS", "json.loads", "loads cannot be set"),
        ("KUFEED_NUMBERS", "int", "numbers must be Decimal or float"),
        ("KUFEED_LINGR", "1", "has no field 'lingr'"),
    ],
)
def test_a_bad_variable_is_named_together_with_its_field(variable: str, text: str, field: str) -> None:
    with pytest.raises(UsageError, match=f"{variable}: .*{field}"):
        FeedConfig.from_env(environ={variable: text})
