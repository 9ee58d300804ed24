"""What kinds of streams are called, and which streams a topic has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis.vendor.pretty import pretty

from kufeed.protocol import CHANNELS, UpdateType, topic
from kufeed.protocol.market import Channel, Market, MergeKey, Topic
from kufeed.protocol.spot import one_of_all


def test_kinds_have_the_names_that_users_write() -> None:
    """In code, in configuration, in recordings: they do not change."""
    assert list(UpdateType) == [
        *("ticker", "trade", "level1", "depth", "book_delta", "book", "mark_price", "index_price", "funding_rate"),
        *("candle", "stats_24h", "announcement", "call_auction", "call_auction_depth"),
    ]


def test_updates_of_a_stream_are_told_apart_in_three_ways() -> None:
    assert [key.value for key in MergeKey] == ["contiguous", "increasing", "time"]
    assert [key.gap for key in MergeKey] == ["times and numbers", "times", "times"]


def test_a_topic_covers_itself_and_that_of_all_symbols_its_parts() -> None:
    every, own, other = topic("ticker", "all"), topic("ticker", "BTC-USDT"), topic("trade", "BTC-USDT")
    part = one_of_all(every, "BTC-USDT")
    assert (every.is_part, own.is_part, part.is_part) == (False, False, True)
    assert [one.covers(part) for one in (every, part, own, other)] == [True, True, False, False]
    assert not one_of_all(every, "ETH-USDT").covers(part)
    assert [one.covers(own) for one in (every, part, own, other)] == [False, False, True, False]
    assert [one.covers(every) for one in (every, part, own, other)] == [True, False, False, False]


def test_a_printed_topic_is_the_call_that_makes_it() -> None:
    """Where Hypothesis or IPython prints it."""
    assert pretty(topic("ticker", "BTC-USDT")) == "topic('ticker', 'BTC-USDT')"
    assert pretty(topic("depth", "XBTUSDTM", levels=50)) == "topic('depth', 'XBTUSDTM', levels=50)"
    assert pretty(topic("candle", "BTC-USDT", interval="1min")) == "topic('candle', 'BTC-USDT', interval='1min')"


def test_what_a_row_does_not_say_it_does_not_have() -> None:
    market = Market("moon", "https://moon.example", 7)
    row = Channel(market, UpdateType.TICKER, "/moon/ticker", ("moon",), int, {}, MergeKey.TIME, "ts, ms", "nowhere")
    assert (row.sizes, row.levels, row.intervals) == (None, None, None)
    assert (row.pushed_without_symbol, row.symbol_in_subject) == (False, False)
    assert (str(row), repr(row)) == ("/moon/ticker", "<Channel moon ticker /moon/ticker>")


def test_announcements_alone_are_pushed_under_the_bare_path() -> None:
    assert {channel.path for channel in CHANNELS if channel.pushed_without_symbol} == {"/contract/announcement"}


def test_the_wire_topic_is_nobodys_to_choose() -> None:
    made: Any = Topic
    with pytest.raises(TypeError):
        made(topic("ticker", "BTC-USDT").channel, "BTC-USDT", wire="/market/ticker:ETH-USDT")
