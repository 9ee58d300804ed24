"""The market model: one seed one market, books that never cross, and prices which follow from the same state."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kufeed.testing.market import FUNDING_CAP, MarketModel, SymbolModel, Trade, decimal_text

SYMBOLS = ("XBTUSDTM", "ETHUSDTM", "BTC-USDT", "ETH-USDT", "T0002USDTM", "T0002-USDT")
BEAT_NS = 100_000_000
START_NS = 1_767_225_600_000_000_000

any_symbol = st.sampled_from(SYMBOLS)
any_seed = st.integers(0, 2**32)


def make(seed: int, symbol: str) -> SymbolModel:
    model = MarketModel(seed=seed, generated=3).find("spot" if "-" in symbol else "futures", symbol)
    assert model is not None
    return model


def digest(seed: int, symbol: str, beats: int = 200) -> str:
    model = make(seed, symbol)
    lived = hashlib.sha256()
    for beat in range(beats):
        lived.update(repr(model.advance(START_NS + beat * BEAT_NS)).encode())
    lived.update(repr((model.bids.top(200), model.asks.top(200), model.mark_price, model.funding_rate)).encode())
    return lived.hexdigest()


@settings(max_examples=30, deadline=None)
@given(seed=any_seed, symbol=any_symbol, beats=st.integers(1, 150))
def test_a_book_never_crosses_and_never_thins_out(seed: int, symbol: str, beats: int) -> None:
    model = make(seed, symbol)
    for beat in range(beats):
        model.advance(START_NS + beat * BEAT_NS)
        assert 0 < model.bids.best < model.asks.best
        assert len(model.bids) >= 100
        assert len(model.asks) >= 100
    for levels, descending in ((model.bids, True), (model.asks, False)):
        prices = [price for price, _ in levels]
        assert prices == sorted(set(prices), reverse=descending)
        assert all(size > 0 for _, size in levels)


@settings(max_examples=30, deadline=None)
@given(seed=any_seed, symbol=any_symbol, beats=st.integers(1, 100))
def test_a_snapshot_and_the_changes_after_it_are_the_book(seed: int, symbol: str, beats: int) -> None:
    model = make(seed, symbol)
    books = {"buy": dict(model.bids), "sell": dict(model.asks)}
    sequence = model.sequence
    for beat in range(beats):
        for change in model.advance(START_NS + beat * BEAT_NS).changes:
            assert change.sequence == sequence + 1
            sequence = change.sequence
            if change.price and change.size:
                books[change.side][change.price] = change.size
            elif change.price:
                del books[change.side][change.price]
    assert sequence == model.sequence
    assert books == {"buy": dict(model.bids), "sell": dict(model.asks)}


@settings(max_examples=30, deadline=None)
@given(seed=any_seed, symbol=any_symbol)
def test_each_trade_takes_its_size_from_the_best_level(seed: int, symbol: str) -> None:
    model = make(seed, symbol)
    books = {"buy": dict(model.bids), "sell": dict(model.asks)}
    last_trade = model.trade_sequence
    for beat in range(100):
        happened = model.advance(START_NS + beat * BEAT_NS)
        trades = {trade.book_sequence: trade for trade in happened.trades}
        for change in happened.changes:
            book = books[change.side]
            trade = trades.pop(change.sequence, None)
            if trade is not None:
                assert trade.side != change.side
                assert trade.price == change.price == (max(book) if change.side == "buy" else min(book))
                assert trade.size == book[change.price] - change.size > 0
            if change.size:
                book[change.price] = change.size
            else:
                book.pop(change.price, None)
        assert not trades, "a trade without its book change"
        for trade in happened.trades:
            assert trade.sequence > last_trade
            last_trade = trade.sequence
        if happened.trades:
            assert (model.last_price, model.last_size) == (happened.trades[-1].price, happened.trades[-1].size)
    assert abs(model.trade_sequence - model.sequence) > 1_000_000_000, (
        "trades and books have number spaces of their own"
    )


@settings(max_examples=30, deadline=None)
@given(seed=any_seed, symbol=any_symbol, beats=st.integers(1, 200))
def test_mark_index_and_funding_agree(seed: int, symbol: str, beats: int) -> None:
    model = make(seed, symbol)
    for beat in range(beats):
        model.advance(START_NS + beat * BEAT_NS)
    middle = (model.bids.best + model.asks.best) / 2 / 10**model.instrument.price_decimals
    assert abs(model.funding_rate) <= FUNDING_CAP
    assert model.index_price == pytest.approx(middle, rel=0.01)
    # The funding still to be paid is at most the whole rate; prices are rounded to a tenth of a tick.
    tick = 10**-model.instrument.price_decimals
    assert abs(model.mark_price - model.index_price) <= model.index_price * abs(model.funding_rate) + tick


def test_the_spread_stays_narrow_and_the_funding_rate_moves() -> None:
    model = make(7, "XBTUSDTM")
    rates = set()
    for beat in range(20_000):
        model.advance(START_NS + beat * BEAT_NS)
        assert model.asks.best - model.bids.best <= 60
        rates.add(model.funding_rate)
    assert len(rates) > 10


def test_equal_seeds_make_equal_markets_and_different_ones_do_not() -> None:
    for symbol in SYMBOLS:
        assert digest(5, symbol) == digest(5, symbol)
        assert digest(5, symbol) != digest(6, symbol)


def test_a_symbol_does_not_depend_on_which_others_were_looked_at() -> None:
    alone = make(5, "T0002-USDT")
    crowd = MarketModel(seed=5, generated=50, spot=["KCS-USDT"])
    for symbol in crowd.symbols("spot"):
        crowd.find("spot", symbol)
    other = crowd.find("spot", "T0002-USDT")
    assert other is not None
    assert alone.advance(START_NS) == other.advance(START_NS)


def test_the_market_is_the_same_in_every_process() -> None:
    """Whatever PYTHONHASHSEED says."""
    program = "import test_market as t; print(t.digest(5, 'T0002USDTM'), t.digest(5, 'BTC-USDT'))"
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent.parent)])
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert printed == {f"{digest(5, 'T0002USDTM')} {digest(5, 'BTC-USDT')}\n"}


def test_which_symbols_there_are() -> None:
    market = MarketModel(futures=["SOLUSDTM"], spot=["KCS-USDT"], generated=2)
    assert market.symbols("futures") == ("XBTUSDTM", "ETHUSDTM", "SOLUSDTM", "T0001USDTM", "T0002USDTM")
    assert market.symbols("spot") == ("BTC-USDT", "ETH-USDT", "KCS-USDT", "T0001-USDT", "T0002-USDT")
    assert market.find("spot", "XBTUSDTM") is None
    assert market.find("futures", "DOGEUSDTM") is None
    solana = market.find("futures", "SOLUSDTM")
    assert solana is not None
    assert (solana.instrument.base, solana.instrument.quote) == ("SOL", "USDT")
    assert solana.instrument.size_decimals == 0, "futures sizes are whole contracts"


def test_a_symbol_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="'KCSUSDT' is not of the form BASE-QUOTE"):
        MarketModel(spot=["KCSUSDT"])
    with pytest.raises(ValueError, match="'SOL-USDT' is a spot symbol"):
        MarketModel(futures=["SOL-USDT"])


@given(units=st.integers(0, 10**20), decimals=st.integers(0, 12))
def test_numbers_are_spelt_exactly_and_as_short_as_they_can_be(units: int, decimals: int) -> None:
    text = decimal_text(units, decimals)
    assert Decimal(text) == Decimal(units).scaleb(-decimals)
    assert "e" not in text.lower()
    assert "." not in text or text[-1] not in "0."


@settings(max_examples=20, deadline=None)
@given(seed=any_seed, gaps=st.lists(st.integers(1, 4000), min_size=1, max_size=60))
def test_candles_and_daily_statistics_are_those_of_the_trades(seed: int, gaps: list[int]) -> None:
    model = make(seed, "BTC-USDT")
    now = START_NS
    trades: list[Trade] = []
    for gap in gaps:
        now += gap * 1_000_000_000
        trades += model.advance(now).trades
        model.history.current(300)
    day = model.history.last_day(now)
    since = now // 10**9 - 86400
    recent = [trade for trade in trades if trade.time_ns // 60_000_000_000 * 60 >= since]
    if recent:
        assert day is not None
        assert (day.open, day.close) == (recent[0].price, recent[-1].price)
        assert (day.high, day.low) == (max(t.price for t in recent), min(t.price for t in recent))
        assert day.volume == sum(t.size for t in recent)
    if trades:
        candle = model.history.current(300)
        assert candle is not None
        inside = [t for t in trades if t.time_ns // 10**9 // 300 * 300 == candle.start_s]
        assert (candle.open, candle.close) == (inside[0].price, inside[-1].price)
        assert candle.volume == sum(t.size for t in inside)
        assert candle.turnover == sum(t.size * t.price for t in inside)
    assert all(one.sequence < other.sequence for one, other in pairwise(trades))
