"""The channel table of both markets, and topics made from what people write."""

from __future__ import annotations

import copyreg
import re
from typing import TYPE_CHECKING

from ..errors import UsageError
from . import futures, spot
from .market import ALL, Channel, Market, Topic, UpdateType

if TYPE_CHECKING:
    from collections.abc import Iterable

CHANNELS: tuple[Channel, ...] = (*spot.CHANNELS, *futures.CHANNELS)
MARKETS: tuple[Market, ...] = (spot.SPOT, futures.FUTURES)

# Those with one topic for all symbols stand under no market, and under that topic.
_BY_KIND: dict[tuple[Market | None, UpdateType], list[Channel]] = {}
_BY_PATH: dict[str, Channel] = {}  # the first row, where several share a path
for _channel in CHANNELS:
    _BY_KIND.setdefault((None if _channel.symbol_in_subject else _channel.market, _channel.kind), []).append(_channel)
    _BY_PATH.setdefault(str(_channel), _channel)
del _channel


def _row(name: str, kind: UpdateType) -> Channel:
    return next(channel for channel in CHANNELS if str(channel) == name and channel.kind is kind)


# A copy of an update, in this process or another, is of the same row of the table, or it would equal no other.
copyreg.pickle(Channel, lambda channel: (_row, (str(channel), channel.kind)))

# A perpetual ends in M (XBTUSDTM, XBTUSDM); a dated contract in M, the letter of its month and its year (XBTMH21).
# Bitcoin itself is XBT, so BTCUSDTM and its like are nothing; BTCDOMUSDTM might be something.
_FUTURES_SYMBOL = re.compile(r"(?!BTC(?:USD[TC]?)?M(?:[A-Z][0-9]{2})?$)[A-Z0-9]{2,30}M(?:[FGHJKMNQUVXZ][0-9]{2})?")
_QUOTES = ("USDT", "USDC", "USD", "BTC", "ETH", "KCS", "EUR", "TRY", "BRL")


def topic(kind: UpdateType | str, symbol: str, *, levels: int | None = None, interval: str | None = None) -> Topic:
    """The stream of *kind* (such as `"ticker"`) for *symbol*; a dash tells spot (`BTC-USDT`) from futures (`XBTUSDTM`).

    `topic("ticker", "all")` is the one topic of all spot tickers. Depth needs *levels* (5 or 50), a candle its
    *interval* (such as `"1min"`); no other kind has either.

    Raises `UsageError` for an unknown kind, a kind this market does not have, levels or an interval that are missing,
    unknown or not this kind's, and an impossible symbol, which it tries to spell right.
    """
    try:
        kind = UpdateType(kind)
    except ValueError:
        raise UsageError(f"no kind of update is called {kind!r}; there are {', '.join(UpdateType)}") from None
    market = None if symbol == ALL else market_of(symbol)
    channels = _BY_KIND.get((market, kind))
    if channels is None:
        if market is None:
            raise UsageError(f"{kind} has no topic of all symbols")
        hint = f"; feed.book({symbol!r}) makes books of its changes" if kind is UpdateType.BOOK else ""
        raise UsageError(f"the {market.name} market has no {kind} stream ({symbol}){hint}")
    channel = _with_levels(channels, levels)
    return Topic(channel, symbol, _checked_interval(channel, interval))


def _with_levels(channels: list[Channel], levels: object) -> Channel:
    first = channels[0]
    if first.levels is None:
        if levels is not None:
            raise UsageError(f"{first.kind} has no levels to choose ({levels!r})")
        return first
    for channel in channels:
        if type(levels) is int and channel.levels == levels:
            return channel
    choices = " or ".join(str(channel.levels) for channel in channels)
    raise UsageError(f"{first.kind} needs levels={choices}, not {levels!r}")


def _checked_interval(channel: Channel, interval: object) -> str | None:
    if channel.intervals is None:
        if interval is not None:
            raise UsageError(f"{channel.kind} has no interval ({interval!r})")
        return None
    if isinstance(interval, str) and interval in channel.intervals:
        return interval
    choices = ", ".join(channel.intervals)
    raise UsageError(f"a {channel.market.name} {channel.kind} needs an interval of {choices}, not {interval!r}")


def topics(
    kind: UpdateType | str, symbols: Iterable[str], *, levels: int | None = None, interval: str | None = None
) -> tuple[Topic, ...]:
    """`topic()` for each symbol; `UsageError` also where there is none, or one stands twice."""
    if isinstance(symbols, str):
        raise UsageError(f"symbols are separate arguments: write *{symbols!r}.split(), or one string for each")
    return distinct(topic(kind, symbol, levels=levels, interval=interval) for symbol in symbols)


def distinct(topics: Iterable[Topic]) -> tuple[Topic, ...]:
    """*topics* as a tuple; `UsageError` where there is none, one stands twice, or one cannot be subscribed to."""
    chosen = tuple(topics)
    if not chosen:
        raise UsageError("a subscription needs at least one symbol")
    seen: set[Topic] = set()
    for one in chosen:
        if one in seen:
            raise UsageError(f"{one} stands twice in one subscription")
        if one.is_part:
            raise UsageError(f"{one.symbol} is one symbol of {one.channel}; its own topic is parse_topic({one.wire!r})")
        seen.add(one)
    return chosen


def parse_topic(wire: str) -> Topic:
    """The topic whose `str()` is *wire*: `/market/ticker:BTC-USDT`, `/market/candles:BTC-USDT_1min`.

    `/market/ticker:all` is the one topic of all spot tickers.
    Mark price, index price and funding rate of a contract share one wire topic, `/contract/instrument:XBTUSDTM`; of
    these, it returns the mark price. `UsageError` where there is none.
    """
    if (whole := _BY_PATH.get(wire)) is not None and whole.symbol_in_subject:
        return Topic(whole, ALL)
    path, colon, symbol = wire.partition(":")
    channel = _BY_PATH.get(path)
    if channel is None or not colon:
        raise UsageError(f"{wire!r} is not a topic kufeed knows; paths are {', '.join(_BY_PATH)}")
    interval = None
    if channel.intervals is not None:
        symbol, _, interval = symbol.partition("_")
    if market_of(symbol) is not channel.market:
        raise UsageError(f"{symbol} is no symbol of the {channel.market.name} market, which {path} belongs to")
    return Topic(channel, symbol, _checked_interval(channel, interval))


def market_of(symbol: str) -> Market:
    """The market *symbol* belongs to; `UsageError` with a suggestion where no market could have it."""
    if not isinstance(symbol, str):
        raise UsageError(f"a symbol is text such as 'XBTUSDTM' or 'BTC-USDT', not {symbol!r}")
    if spot.SYMBOL.fullmatch(symbol):
        return spot.SPOT
    if _FUTURES_SYMBOL.fullmatch(symbol):
        return futures.FUTURES
    likely = suggestions(symbol)
    hint = f"; did you mean {' or '.join(likely)}?" if likely else "; spot is BTC-USDT, futures XBTUSDTM"
    raise UsageError(f"{symbol!r} is no KuCoin symbol{hint}")


def suggestions(symbol: str) -> list[str]:
    """What somebody who wrote *symbol* may have meant: KuCoin joins spot with a dash and calls Bitcoin futures XBT."""
    written = symbol.strip().upper()
    # `BTC/USDT:USDT` is how ccxt writes a perpetual settled in USDT.
    pair, colon, _ = written.partition(":")
    parts = [part for part in re.split(r"[^A-Z0-9]+", pair) if part]
    perpetual = "".join(["XBT" if part == "BTC" and index == 0 else part for index, part in enumerate(parts)]) + "M"
    if len(parts) == 2:
        found = [perpetual] if colon else ["-".join(parts)]
    elif len(parts) == 1:
        word = parts[0]
        quote = next((quote for quote in _QUOTES if word.endswith(quote) and len(word) > len(quote)), None)
        if quote is not None:
            base = word.removesuffix(quote)
            found = [f"{base}-{quote}", f"{'XBT' if base == 'BTC' else base}{quote}M"]
        else:
            found = [word if _FUTURES_SYMBOL.fullmatch(word) else word.replace("BTC", "XBT")]
    else:
        found = []
    possible = [one for one in found if spot.SYMBOL.fullmatch(one) or _FUTURES_SYMBOL.fullmatch(one)]
    return [one for one in possible if one != symbol]
