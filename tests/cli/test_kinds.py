"""`kufeed watch` of every kind, as a user runs it, against the simulated exchange over a socket."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, get_args

import pytest

from kufeed import Subscription, UpdateType, open_feed
from kufeed.cli._watching import KINDS, Kind
from kufeed.protocol import CHANNELS, market_of
from kufeed.testing import Exchange

from .process import called, run, running

MS = 1_750_000_000_000
PLAYED: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "funding_rate": (
        "XBTUSDTM",
        "/contract/instrument",
        "funding.rate",
        {"granularity": 60000, "fundingRate": -0.002966, "timestamp": MS},
    ),
    "announcements": (
        "XBTUSDTM",
        "/contract/announcement",
        "funding.begin",
        {"fundingTime": MS, "fundingRate": -0.002966, "timestamp": MS},
    ),
    "call_auction": (
        "BTC-USDT",
        "/callauction/callauctionData",
        "callauction.callauctionData",
        {"estimatedPrice": "0.17", "time": MS},
    ),
}


async def test_every_kind_can_be_watched_by_the_name_of_its_method() -> None:
    assert list(KINDS) == list(get_args(Kind))
    assert set(KINDS.values()) == set(UpdateType)
    async with open_feed() as feed:
        for name, kind in KINDS.items():
            options = {"interval": "1min"} if name == "candles" else {}
            subscribed = UpdateType.BOOK_DELTA if kind is UpdateType.BOOK else kind
            (symbol,) = [one for one in ("XBTUSDTM", "BTC-USDT") if has(one, subscribed)][:1]
            subscription: Subscription[Any] = getattr(feed, name)(symbol, **options)
            assert {one.kind for one in subscription.topics} == {subscribed}


def has(symbol: str, kind: UpdateType) -> bool:
    return any(channel.kind is kind and channel.market is market_of(symbol) for channel in CHANNELS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("depth", "--levels", "50"),
            r"(XBTUSDTM|BTC-USDT)   depth  bid [\d.]+ x [\d.]+  ask [\d.]+ x [\d.]+  levels 50 \+ 50",
        ),
        (("depth",), r".* levels 5 \+ 5 "),
        (("candles", "--interval", "1min"), r"\S+ +candle  candle 1min 20\S+:00Z  open [\d.]+  high"),
        (("book_deltas",), r"\S+ +book_delta  sequence \d+"),
        (("book",), r"\S+ +book  bid [\d.]+ x [\d.]+  ask [\d.]+ x [\d.]+  levels 20 \+ 20"),
        (("book", "--levels", "7"), r".* levels 7 \+ 7 "),
    ],
)
async def test_watch_streams_with_its_options(arguments: tuple[str, ...], said: str) -> None:
    async with Exchange().listen() as address:
        urls = ("--futures-url", address.futures_url, "--spot-url", address.spot_url)
        ended = await run("watch", *arguments, "XBTUSDTM", "BTC-USDT", "--count", "2", *urls)
    assert ended.code == 0, ended.err
    assert len(ended.out) == 2
    assert all(re.match(said, line) for line in ended.out), ended.out


async def test_a_book_is_one_object_a_line_with_its_levels() -> None:
    exchange = Exchange()
    async with exchange.listen() as address:
        urls = ("--futures-url", address.futures_url, "--spot-url", address.spot_url)
        ended = await run("watch", "book", "XBTUSDTM", "BTC-USDT", "--levels", "3", "--json", "--count", "9", *urls)
        assert ended.code == 0, ended.err
        for line in map(json.loads, ended.out):
            truth = exchange.book(line["symbol"], line["sequence"])
            for side, levels in (("bids", truth.bids), ("asks", truth.asks)):
                assert [(Decimal(price), Decimal(size)) for price, size in line[side]] == list(levels[:3])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("BTC-USDT", "--levels", "51"), "at most 50 without"),
        (("BTC-USDT", "--levels", "0"), "whole number of levels from 1 up"),
        (("BTC-USDT", "--interval", "1min"), "a book has no interval"),
        (("all",), "no topic of all symbols"),
    ],
)
def test_a_book_that_cannot_be_watched_is_refused_before_dialling(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    nowhere = ("--seconds", "5", "--spot-url", "http://127.0.0.1:1")
    ended = called(capsys, monkeypatch, "watch", "book", *arguments, *nowhere)
    assert ended.code == 2
    assert said in ended.err[0]


@pytest.mark.parametrize("kind", PLAYED)
async def test_watch_streams_what_the_exchange_sends_only_at_its_hour(kind: str) -> None:
    symbol, path, subject, data = PLAYED[kind]
    exchange = Exchange(live=False)
    async with exchange.listen() as address:
        urls = ("--futures-url", address.futures_url, "--spot-url", address.spot_url)
        async with running("watch", kind, symbol, "--json", "--count", "1", *urls) as watch:
            topic = f"{path}:{symbol}"
            await exchange.wait_subscribed(topic)
            frame = {"topic": topic, "type": "message", "subject": subject, "data": {"symbol": symbol, **data}}
            assert await exchange.play([json.dumps(frame)]) == 1
            ended = await watch.end()
    assert ended.code == 0, ended.err
    (update,) = map(json.loads, ended.out)
    assert (update["kind"], update["topic"]) == (KINDS[kind], topic)  # type: ignore[index]
    assert update["exchange_time_ns"] == MS * 1_000_000
