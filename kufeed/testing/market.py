"""The simulated market: order books, trades and the prices that follow from them.

Pure: no Trio, no clock; time is an argument and every random number comes from the seed. A symbol's books and trades
depend on the seed and on how many beats it has lived, never on which other symbols were looked at.
All prices are whole ticks and all sizes whole lots inside, so nothing is ever rounded.
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_left, insort
from calendar import monthrange
from collections import deque
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Literal

import attrs

from kufeed.testing.books import ChangeLog, Moment, Undo
from kufeed.testing.candles import CandleHistory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MarketName = Literal["spot", "futures"]
Side = Literal["buy", "sell"]

DEFAULT_FUTURES = ("XBTUSDTM", "ETHUSDTM")
DEFAULT_SPOT = ("BTC-USDT", "ETH-USDT")

FUNDING_INTERVAL_MS = 28_800_000  # 8 hours; PROTOCOL section 7
FUNDING_CAP = 0.003  # rest_futures_funding_rate sample: fundingRateCap
_INTEREST = 0.0001
_INTEREST_BAND = 0.0005
_BASIS_DEVIATION = 0.0007  # wide enough that the funding rate leaves the interest rate now and then

# A side of the book has so many levels, give or take: by itself not fewer than the 100 of the public snapshots.
LEVELS = 130
# What can be asked for: one beat may take twelve levels of a side, and more would reach down to a price of 0.
LEAST_LEVELS, MOST_LEVELS = 40, 3000
_FEWER, _MORE = 20, 30
CHANGES_KEPT = 100_000
OPEN = "Open"  # the status of a symbol which trades, as contracts spell it
_LEVELS_TAKEN = 3  # by one market order at most: the book must not be swept empty near the fair value
_WIDEST_SPREAD = 20  # ticks; in a wider market nobody takes or cancels until it is quoted again


def decimal_text(units: int, decimals: int) -> str:
    """*units* of 10**-*decimals* as the shortest plain text, as KuCoin spells its numbers: `"67220"`, `"0.003"`."""
    if not decimals:
        return str(units)
    whole, part = divmod(units, 10**decimals)
    tail = f"{part:0{decimals}d}".rstrip("0")
    return f"{whole}.{tail}" if tail else str(whole)


@attrs.frozen(kw_only=True)
class Instrument:
    """What is traded. Prices are counted in units of 10**-`price_decimals`, sizes in 10**-`size_decimals`.

    Futures sizes are whole contracts of `multiplier` units of the base currency, or of the quote currency where
    `is_inverse` (`size_decimals` is 0); `expiry_ms` is when a dated contract ends.
    """

    symbol: str
    market: MarketName
    base: str
    quote: str
    price_decimals: int
    size_decimals: int
    multiplier: str = "1"
    is_inverse: bool = False
    expiry_ms: int | None = None

    @property
    def settle(self) -> str:
        """The currency that the contract is settled in."""
        return self.base if self.is_inverse else self.quote

    def price_text(self, ticks: int) -> str:
        """A price in ticks as the exchange spells it."""
        return decimal_text(ticks, self.price_decimals)

    def size_text(self, lots: int) -> str:
        """A size in lots as the exchange spells it."""
        return decimal_text(lots, self.size_decimals)

    def price_number(self, ticks: int) -> float:
        """A price in ticks as a JSON number."""
        return float(ticks / 10**self.price_decimals)


@attrs.frozen
class BookChange:
    """One step of a book: the level at *price* now holds *size* lots in total; 0 removes it.

    A price of 0 changes nothing but the sequence (35 % of the recorded spot messages of 2021 were such).
    """

    sequence: int
    side: Side
    price: int
    size: int


@attrs.frozen
class Trade:
    """One match. `side` is the taker's; `book_sequence` is the book change that this trade caused."""

    sequence: int
    book_sequence: int
    side: Side
    price: int
    size: int
    taker_order: int
    maker_order: int
    time_ns: int


@attrs.frozen
class Beat:
    """What happened to one symbol in one beat of the market, in order."""

    time_ns: int
    changes: tuple[BookChange, ...]
    trades: tuple[Trade, ...]


class BookSide:
    """The price levels of one side: `best` first by iteration, any level by its price."""

    def __init__(self, *, descending: bool) -> None:
        self._descending = descending
        self._prices: list[int] = []  # ascending
        self._sizes: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._prices)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        prices = reversed(self._prices) if self._descending else iter(self._prices)
        return ((price, self._sizes[price]) for price in prices)

    def copy(self) -> BookSide:
        """Another one with the same levels."""
        other = BookSide(descending=self._descending)
        other._prices, other._sizes = self._prices.copy(), self._sizes.copy()
        return other

    @property
    def best(self) -> int:
        """The best price in ticks."""
        return self._prices[-1] if self._descending else self._prices[0]

    @property
    def deepest(self) -> int:
        """The price in ticks which is furthest from the other side."""
        return self._prices[0] if self._descending else self._prices[-1]

    def size_at(self, price: int) -> int:
        """Lots at *price*; 0 where there is no such level."""
        return self._sizes.get(price, 0)

    def price_at(self, depth: int) -> int:
        """The price of the level number *depth*, the best one being 0."""
        return self._prices[-1 - depth] if self._descending else self._prices[depth]

    def top(self, levels: int) -> list[tuple[int, int]]:
        """The best *levels* levels, best first."""
        prices = self._prices[: -levels - 1 : -1] if self._descending else self._prices[:levels]
        return [(price, self._sizes[price]) for price in prices]

    def set(self, price: int, size: int) -> None:
        """Put *size* lots at *price*; 0 removes the level."""
        if size:
            if price not in self._sizes:
                insort(self._prices, price)
            self._sizes[price] = size
        elif price in self._sizes:
            del self._sizes[price]
            del self._prices[bisect_left(self._prices, price)]


class SymbolModel:
    """One symbol: its order book, its trades, and the prices that follow from them.

    `status` is "Open" while it trades; who lets it live asks first. `sequence` numbers the book without holes;
    `trade_sequence` is another number space, increasing with holes, as on the exchange since 2022. The best bid is
    always below the best ask and both sides hold at least *levels* - 20
    levels. *log* bounds how much of the past is kept.
    """

    def __init__(
        self,
        instrument: Instrument,
        rng: random.Random,
        *,
        price: int,
        typical_size: int,
        levels: int = LEVELS,
        log: ChangeLog | None = None,
    ) -> None:
        self.instrument = instrument
        self.bids = BookSide(descending=True)
        self.asks = BookSide(descending=False)
        self.last_price = price
        self.last_size = typical_size
        self.last_side: Side = "buy"
        self.recent_trades: deque[Trade] = deque(maxlen=100)  # the length of the exchange's trade history reply
        self.history = CandleHistory()
        self.time_ns = 0
        self.status = OPEN
        self._log = ChangeLog(CHANGES_KEPT) if log is None else log
        self._past: deque[Undo] = deque()
        self._levels = levels
        self._rng = rng
        self._typical_size = typical_size
        self._first_price = price
        self._fair = float(price)
        self._basis = self._premium = rng.gauss(0, _BASIS_DEVIATION)
        if instrument.market == "spot":
            self.sequence = rng.randrange(14_000_000_000, 15_000_000_000)
            self.trade_sequence = rng.randrange(10_000_000_000_000_000, 12_000_000_000_000_000)
        else:
            self.sequence = rng.randrange(1_690_000_000_000, 1_710_000_000_000)
            self.trade_sequence = rng.randrange(1_740_000_000_000, 1_800_000_000_000)
        bid, ask = price - 1, price + 1
        for _ in range(levels):
            self.bids.set(bid, self._some_size())
            self.asks.set(ask, self._some_size())
            bid -= rng.randint(1, 3)
            ask += rng.randint(1, 3)

    def __repr__(self) -> str:
        text = self.instrument.price_text
        return f"<{self.instrument.symbol} #{self.sequence} {text(self.bids.best)} / {text(self.asks.best)}>"

    @property
    def index_price(self) -> float:
        """The index price: the fair value around which the book is quoted, without the contract's own premium."""
        decimals = self.instrument.price_decimals
        return round(float(self._fair / (1 + self._basis) / 10**decimals), decimals + 1)

    @property
    def funding_rate(self) -> float:
        """The predicted 8-hour rate: average premium of the book over the index, pulled to the interest rate."""
        correction = max(-_INTEREST_BAND, min(_INTEREST_BAND, _INTEREST - self._premium))
        return round(max(-FUNDING_CAP, min(FUNDING_CAP, self._premium + correction)), 6)

    @property
    def mark_price(self) -> float:
        """The fair price by KuCoin's method: the index price plus the funding still to be paid."""
        interval_ns = FUNDING_INTERVAL_MS * 1_000_000
        remaining = 1 - self.time_ns % interval_ns / interval_ns
        return round(self.index_price * (1 + self.funding_rate * remaining), self.instrument.price_decimals + 1)

    def advance(self, time_ns: int) -> Beat:
        """Let one beat of the market pass at *time_ns* (ns since the epoch) and tell what happened, in order."""
        rng = self._rng
        self.time_ns = time_ns
        changes: list[BookChange] = []
        trades: list[Trade] = []
        fair = self._fair + rng.gauss(0, 1.5)
        self._fair = max(self._first_price / 2, min(self._first_price * 2, fair))
        self._basis += rng.gauss(0, _BASIS_DEVIATION / 22) - self._basis / 1000
        for _ in range(rng.randint(1, 4)):
            roll = rng.random()
            if self._is_wide():
                self._place(changes)
            elif roll < 0.22:
                self._take(changes, trades)
            elif roll < 0.68:
                self._place(changes)
            elif roll < 0.90:
                self._cancel(changes)
            elif self.instrument.market == "spot":
                self._pass(changes)
        self._keep_depth(self.bids, "buy", changes)
        self._keep_depth(self.asks, "sell", changes)
        middle = (self.bids.best + self.asks.best) / 2
        premium = middle * (1 + self._basis) / self._fair - 1
        self._premium += 0.01 * (premium - self._premium)
        return Beat(time_ns, tuple(changes), tuple(trades))

    def change(self, time_ns: int, count: int) -> Beat:
        """Make *count* changes of the book, and no trades, at *time_ns*."""
        self.time_ns = time_ns
        changes: list[BookChange] = []
        while len(changes) < count:
            roll = self._rng.random()
            if roll < 0.5 or self._is_wide():
                self._place(changes)
            elif roll < 0.9 or self.instrument.market != "spot":
                self._cancel(changes)
            else:
                self._pass(changes)
        return Beat(time_ns, tuple(changes), ())

    def trade(self, time_ns: int, count: int) -> Beat:
        """Make *count* trades, and the changes of the book that come with them, at *time_ns*."""
        self.time_ns = time_ns
        changes: list[BookChange] = []
        trades: list[Trade] = []
        while len(trades) < count:
            if self._is_wide():
                self._place(changes)
            else:
                self._take(changes, trades, most=count - len(trades))
            self._keep_depth(self.bids, "buy", changes)
            self._keep_depth(self.asks, "sell", changes)
        return Beat(time_ns, tuple(changes), tuple(trades))

    def renumber(self, sequence: int) -> None:
        """The book as it stands has this number from now on; the next change has the one after it."""
        self._log.add(self._past, Undo(self.sequence, "buy", 0, 0))
        self.sequence = sequence

    def moment(self, changes_ago: int = 0) -> Moment:
        """The book as it was so many changes ago, or as far back as is kept."""
        past = {"buy": dict(self.bids), "sell": dict(self.asks)}
        sequence = self.sequence
        for undo in islice(reversed(self._past), changes_ago):
            sequence = undo.sequence
            if undo.size:
                past[undo.side][undo.price] = undo.size
            else:
                past[undo.side].pop(undo.price, None)
        return Moment(
            self.instrument, sequence, sorted(past["buy"].items(), reverse=True), sorted(past["sell"].items())
        )

    def rewind(self) -> Iterator[tuple[int, BookSide, BookSide]]:
        """The book's number, bids and asks now, and as they were before each change that is kept, newest first.

        Valid until the next one is asked for.
        """
        bids, asks = self.bids.copy(), self.asks.copy()
        yield self.sequence, bids, asks
        for undo in reversed(self._past):
            (bids if undo.side == "buy" else asks).set(undo.price, undo.size)
            yield undo.sequence, bids, asks

    @property
    def remembers_all(self) -> bool:
        """Whether every change there ever was can be undone."""
        return self._log.is_whole

    def moment_at(self, sequence: int) -> Moment | None:
        """The book as it was at *sequence*, the last time that it had this number; None where that is not kept."""
        if sequence == self.sequence:
            return self.moment()
        for ago, undo in enumerate(reversed(self._past), start=1):
            if undo.sequence == sequence:
                return self.moment(ago)
        return None

    def _is_wide(self) -> bool:
        return self.asks.best - self.bids.best > _WIDEST_SPREAD

    def _take(self, changes: list[BookChange], trades: list[Trade], most: int = _LEVELS_TAKEN) -> None:
        """A market order: takes the best levels one after the other, one trade for each, *most* or fewer."""
        rng = self._rng
        middle = (self.bids.best + self.asks.best) / 2
        # Buyers come when the book is cheap: this ties the book to the fair value.
        lean = max(-0.45, min(0.45, (self._fair - middle) / 20))
        side: Side = "buy" if rng.random() < 0.5 + lean else "sell"
        resting = self.asks if side == "buy" else self.bids
        resting_side: Side = "sell" if side == "buy" else "buy"
        best_size = resting.size_at(resting.best)
        roll = rng.random()
        if roll < 0.6:
            wanted = rng.randint(1, best_size)
        elif roll < 0.9:
            wanted = best_size
        else:
            wanted = best_size + rng.randint(1, self._typical_size)
        taker_order = self._order_id()
        for _ in range(min(most, _LEVELS_TAKEN)):
            if not wanted:
                break
            price = resting.best
            size = min(wanted, resting.size_at(price))
            wanted -= size
            self._set(resting, resting_side, price, resting.size_at(price) - size, changes)
            self.trade_sequence += rng.randint(1, 3)
            trade = Trade(
                self.trade_sequence, self.sequence, side, price, size, taker_order, self._order_id(), self.time_ns
            )
            trades.append(trade)
            self.recent_trades.append(trade)
            self.last_price, self.last_size, self.last_side = price, size, side
            self.history.add(self.time_ns, price, size)

    def _place(self, changes: list[BookChange]) -> None:
        """A limit order that rests: quoted around the fair value, but never at a price which would match at once."""
        rng = self._rng
        distance = 1 + int(rng.expovariate(1 / 6))
        if rng.random() < 0.5:
            price = max(1, min(math.floor(self._fair) - distance, self.asks.best - 1))
            self._set(self.bids, "buy", price, self.bids.size_at(price) + self._some_size(), changes)
        else:
            price = max(math.ceil(self._fair) + distance, self.bids.best + 1)
            self._set(self.asks, "sell", price, self.asks.size_at(price) + self._some_size(), changes)

    def _cancel(self, changes: list[BookChange]) -> None:
        """An order leaves, wholly or in part, mostly near the best price."""
        rng = self._rng
        side, levels = self._either_side()
        if len(levels) < self._levels - _FEWER:
            return
        price = levels.price_at(min(int(rng.expovariate(1 / 10)), len(levels) - 1))
        size = levels.size_at(price)
        self._set(levels, side, price, 0 if rng.random() < 0.6 else size - rng.randint(1, size), changes)

    def _pass(self, changes: list[BookChange]) -> None:
        """The sequence advances and the visible book does not (price 0; PROTOCOL section 8)."""
        side, levels = self._either_side()
        self._set(levels, side, 0, 0, changes)

    def _keep_depth(self, levels: BookSide, side: Side, changes: list[BookChange]) -> None:
        while len(levels) > self._levels + _MORE:
            self._set(levels, side, levels.deepest, 0, changes)
        while len(levels) < self._levels - _FEWER:
            step = self._rng.randint(1, 3)
            price = levels.deepest - step if side == "buy" else levels.deepest + step
            self._set(levels, side, price, self._some_size(), changes)

    def _set(self, levels: BookSide, side: Side, price: int, size: int, changes: list[BookChange]) -> None:
        self._log.add(self._past, Undo(self.sequence, side, price, levels.size_at(price)))
        self.sequence += 1
        levels.set(price, size)
        changes.append(BookChange(self.sequence, side, price, size))

    def _either_side(self) -> tuple[Side, BookSide]:
        return ("buy", self.bids) if self._rng.random() < 0.5 else ("sell", self.asks)

    def _some_size(self) -> int:
        return max(1, int(self._typical_size * 10 ** self._rng.uniform(-2, 1)))

    def _order_id(self) -> int:
        return self._rng.getrandbits(96 if self.instrument.market == "spot" else 57)


_KNOWN: dict[str, tuple[Instrument, int, int]] = {
    instrument.symbol: (instrument, price, size)
    for instrument, price, size in (
        (
            Instrument(
                symbol="XBTUSDTM",
                market="futures",
                base="XBT",
                quote="USDT",
                price_decimals=1,
                size_decimals=0,
                multiplier="0.001",
            ),
            889_874,
            700,
        ),
        (
            Instrument(
                symbol="ETHUSDTM",
                market="futures",
                base="ETH",
                quote="USDT",
                price_decimals=2,
                size_decimals=0,
                multiplier="0.01",
            ),
            312_055,
            900,
        ),
        (
            Instrument(
                symbol="XBTUSDM",
                market="futures",
                base="XBT",
                quote="USD",
                price_decimals=1,
                size_decimals=0,
                is_inverse=True,
            ),
            889_650,
            5_000,
        ),
        (
            Instrument(symbol="BTC-USDT", market="spot", base="BTC", quote="USDT", price_decimals=1, size_decimals=8),
            889_921,
            20_000_000,
        ),
        (
            Instrument(symbol="ETH-USDT", market="spot", base="ETH", quote="USDT", price_decimals=2, size_decimals=7),
            312_071,
            15_000_000,
        ),
    )
}


_DATED = re.compile(r"(?P<root>[A-Z0-9]+)M(?P<month>[FGHJKMNQUVXZ])(?P<year>[0-9]{2})")
_MONTHS = "FGHJKMNQUVXZ"


def _expiry_ms(dated: re.Match[str]) -> int:
    """The last Friday of the month, 8:00 UTC, as XBTMH21 ended on 2021-03-26."""
    year, month = 2000 + int(dated["year"]), _MONTHS.index(dated["month"]) + 1
    last = datetime(year, month, monthrange(year, month)[1], 8, tzinfo=UTC)
    friday = last - timedelta(days=(last.weekday() - 4) % 7)
    return round(friday.timestamp() * 1000)


class MarketModel:
    """All symbols of both markets. A symbol's book is made when it is first asked for, so ten thousand cost nothing.

    *futures* and *spot* name symbols beside the four that are always there; *generated* adds as many pairs
    `T0001USDTM`, `T0001-USDT`, … Contracts in USD are inverse (`XBTUSDM`), one that is named like `XBTMH27` ends in
    that month. Each side of a book has about *levels* levels. The newest *changes_kept* changes of all books together
    can be undone. Raises `ValueError` for a spot symbol without a dash or a futures symbol with one.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        futures: Iterable[str] = (),
        spot: Iterable[str] = (),
        generated: int = 0,
        levels: int = LEVELS,
        changes_kept: int = CHANGES_KEPT,
    ) -> None:
        self._seed = seed
        self._levels = levels
        self._log = ChangeLog(changes_kept)
        names = [f"T{number:04d}" for number in range(1, generated + 1)]
        futures = (*DEFAULT_FUTURES, *futures, *(f"{name}USDTM" for name in names))
        spot = (*DEFAULT_SPOT, *spot, *(f"{name}-USDT" for name in names))
        for symbol in spot:
            if "-" not in symbol:
                raise ValueError(f"spot: {symbol!r} is not of the form BASE-QUOTE")
        for symbol in futures:
            if "-" in symbol:
                raise ValueError(f"futures: {symbol!r} is a spot symbol")
        self._names: dict[MarketName, dict[str, None]] = {
            "spot": dict.fromkeys(spot),
            "futures": dict.fromkeys(futures),
        }
        self._models: dict[str, SymbolModel] = {}
        self.delisted: set[str] = set()

    def symbols(self, market: MarketName) -> tuple[str, ...]:
        """All symbols of *market*, in the order in which they were named."""
        return tuple(self._names[market])

    @property
    def made(self) -> tuple[SymbolModel, ...]:
        """Those that somebody has asked for so far."""
        return tuple(self._models.values())

    def find(self, market: MarketName, symbol: str) -> SymbolModel | None:
        """The model of *symbol*, or None where *market* does not trade it."""
        if symbol not in self._names[market]:
            return None
        model = self._models.get(symbol)
        if model is None:
            model = self._models[symbol] = self._make(market, symbol)
        return model

    def known(self, symbol: str) -> SymbolModel | None:
        """The model of *symbol*, delisted or not; None where it was never asked for."""
        return self._models.get(symbol)

    def delist(self, model: SymbolModel) -> None:
        """The exchange does not know this symbol any more."""
        symbol = model.instrument.symbol
        del self._names[model.instrument.market][symbol]
        self.delisted.add(symbol)
        model.status = "Closed"

    def _make(self, market: MarketName, symbol: str) -> SymbolModel:
        # Seeding by text goes through SHA-512: the same in every process, whatever PYTHONHASHSEED says.
        rng = random.Random(f"{self._seed}:{symbol}")
        if symbol in _KNOWN:
            instrument, price, size = _KNOWN[symbol]
        elif market == "spot":
            base, _, quote = symbol.partition("-")
            instrument = Instrument(
                symbol=symbol,
                market=market,
                base=base,
                quote=quote,
                price_decimals=rng.randint(1, 6),
                size_decimals=rng.randint(2, 6),
            )
            price, size = rng.randrange(20_000, 900_000), 10 ** rng.randint(3, 5)
        else:
            dated = _DATED.fullmatch(symbol)
            root = dated["root"] if dated else symbol.removesuffix("M")
            quote = next(
                (quote for quote in ("USDT", "USDC", "USD") if root.endswith(quote)), "USD" if dated else "USDT"
            )
            is_inverse = quote == "USD"
            instrument = Instrument(
                symbol=symbol,
                market=market,
                base=root.removesuffix(quote) or root,
                quote=quote,
                price_decimals=rng.randint(1, 6),
                size_decimals=0,
                multiplier="1" if is_inverse else rng.choice(("0.1", "1", "10")),
                is_inverse=is_inverse,
                expiry_ms=_expiry_ms(dated) if dated else None,
            )
            price, size = rng.randrange(20_000, 900_000), 10 ** rng.randint(2, 4)
        return SymbolModel(instrument, rng, price=price, typical_size=size, levels=self._levels, log=self._log)
