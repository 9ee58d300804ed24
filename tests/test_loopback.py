"""The same code over real sockets: TCP and TLS on loopback, and a session as KuCoin really served it."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

import kufeed
from kufeed import FeedConfig, parse_topic
from kufeed.testing import Address, Exchange
from tests import samples


def config_of(address: Address, **fields: Any) -> FeedConfig:
    return FeedConfig(futures_url=address.futures_url, spot_url=address.spot_url, **fields)


@asynccontextmanager
async def served(
    exchange: Exchange, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", **fields: Any
) -> AsyncIterator[kufeed.Feed]:
    async with exchange.listen(host, tls=tls) as address:
        async with kufeed.open_feed(config_of(address, **fields)) as feed:
            yield feed


def recorded() -> list[dict[str, Any]]:
    texts = [sample.text for sample in samples.load("session_spot_2021-04-23_ticker_match.jsonl")]
    frames = [json.loads(text) | {"text": text} for text in texts]
    return [frame for frame in frames if frame["type"] == "message"]


async def test_a_recorded_session_arrives_complete_in_order_and_exact() -> None:
    """803 frames of 2021-04-23, served over a socket: welcome and acks by the exchange, the rest byte for byte."""
    frames = recorded()
    assert len(frames) == 800
    topics = [parse_topic(wire) for wire in dict.fromkeys(frame["topic"] for frame in frames)]
    exchange = Exchange(live=False)
    async with served(exchange) as feed, feed.subscribe(*topics, overflow="drop_oldest") as updates:
        with trio.fail_after(20):
            assert await exchange.play([frame["text"] for frame in frames]) == 800
            arrived = [await updates.receive() for _ in frames]
        assert updates.statistics().dropped == updates.statistics().pending == 0
        assert feed.statistics().refused == {}
    for frame, update in zip(frames, arrived, strict=True):
        data = frame["data"]
        assert str(update.topic) == frame["topic"]
        assert update.sequence == int(data["sequence"])
        if isinstance(update, kufeed.Ticker):
            assert update.symbol == frame["topic"].partition(":")[2]
            assert [str(value) for value in (update.bid, update.bid_size, update.ask, update.ask_size)] == [
                str(Decimal(data[name])) for name in ("bestBid", "bestBidSize", "bestAsk", "bestAskSize")
            ]
            assert (update.price, update.size) == (Decimal(data["price"]), Decimal(data["size"]))
            assert update.exchange_time_ns == data["time"] * 1_000_000
        else:
            assert isinstance(update, kufeed.Trade)
            assert (update.price, update.size) == (Decimal(data["price"]), Decimal(data["size"]))
            assert (update.side, update.trade_id) == (data["side"], data["tradeId"])
            assert update.exchange_time_ns == int(data["time"])
    assert sum(isinstance(update, kufeed.Trade) for update in arrived) == 12


async def test_both_markets_over_tcp() -> None:
    async with served(Exchange(update_interval=0.01)) as feed, feed.ticker("XBTUSDTM", "BTC-USDT") as tickers:
        with trio.fail_after(10):
            seen = set()
            while len(seen) < 2:
                seen.add((await tickers.receive()).symbol)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_tls_with_a_certificate_that_is_trusted(authority: trustme.CA) -> None:
    client = ssl.create_default_context()
    authority.configure_trust(client)
    exchange = Exchange(update_interval=0.01)
    async with served(exchange, tls=server_context(authority, "127.0.0.1"), ssl_context=client) as feed:
        async with feed.ticker("XBTUSDTM") as tickers:
            with trio.fail_after(10):
                assert (await tickers.receive()).symbol == "XBTUSDTM"


@pytest.mark.parametrize("trust", [False, True])
async def test_the_environment_says_whom_to_trust_only_where_it_is_trusted(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: bool
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    server = server_context(authority, "127.0.0.1")
    async with served(Exchange(update_interval=0.01), tls=server, trust_env=trust, max_reconnect_attempts=0) as feed:
        with trio.fail_after(10):
            if trust:
                async with feed.ticker("XBTUSDTM") as tickers:
                    await tickers.receive()
            else:
                with pytest.raises(kufeed.ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"):
                    async with feed.ticker("XBTUSDTM"):
                        pass


@pytest.mark.parametrize(("names", "trusted"), [(("127.0.0.1",), False), (("elsewhere.example",), True)])
async def test_tls_with_a_certificate_that_is_not(authority: trustme.CA, names: tuple[str, ...], trusted: bool) -> None:
    """An unknown authority and a wrong host are named as the cause, at once."""
    client = ssl.create_default_context()
    if trusted:
        authority.configure_trust(client)
    async with served(
        Exchange(), tls=server_context(authority, *names), ssl_context=client, max_reconnect_attempts=0
    ) as feed:
        with trio.fail_after(5), pytest.raises(kufeed.ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"):
            async with feed.ticker("XBTUSDTM"):
                pass


async def test_a_refused_connection_fails_at_once() -> None:
    async with Exchange().listen() as address:
        config = config_of(address, max_reconnect_attempts=0)
    async with kufeed.open_feed(config) as feed:
        with trio.fail_after(5), pytest.raises(kufeed.ConnectionFailed) as failure:
            async with feed.ticker("XBTUSDTM"):
                pass
    assert isinstance(failure.value.cause, kufeed.DialError)
    assert failure.value.cause.phase == "token"


async def test_links_are_replaced_and_either_of_two_may_go() -> None:
    """Over TCP, with two instance servers: no hole, nothing twice, nothing told."""
    exchange = Exchange(update_interval=0.01, instance_servers=2)
    settings = {"redundancy": 2, "rotate_after": 1.5, "reconnect_delay": 0.01}
    async with served(exchange, **settings) as feed, feed.book_deltas("XBTUSDTM") as deltas:
        with feed.events() as events, trio.fail_after(30):
            seen: list[Any] = []
            for _ in range(3):
                with trio.move_on_after(2.5):
                    async for one in deltas.with_events():
                        seen.append(one)  # noqa: PERF401  # what there is when the time is over
                exchange.sessions[0].cut()
            replaced = 0
            with suppress(trio.WouldBlock):
                while True:
                    replaced += isinstance(events.receive_nowait(), kufeed.LinkReplaced)
    assert replaced >= 1
    assert all(isinstance(one, kufeed.BookDelta) for one in seen)
    assert all(second.first_sequence == first.sequence + 1 for first, second in pairwise(seen))


async def test_a_cut_link_comes_back() -> None:
    exchange = Exchange(update_interval=0.01)
    async with served(exchange, reconnect_delay=0.01) as feed, feed.ticker("XBTUSDTM") as tickers:
        with trio.fail_after(20):
            for _ in range(3):
                await tickers.receive()
                await exchange.disconnect_all()
                await exchange.wait_subscribed("/contractMarket/tickerV2:XBTUSDTM")
                while tickers.statistics().pending:
                    tickers.receive_nowait()
        assert len(exchange.dials) == 4
