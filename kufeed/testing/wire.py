"""What the exchange says on a WebSocket: one encoder per channel, one table of channels, and control frames.

Written from PROTOCOL.md sections 3 to 7 and the newest samples, and independent of kufeed's decoders on purpose: the
one checks the other.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs

from kufeed.testing.candles import FUTURES_INTERVALS, SPOT_INTERVALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kufeed.testing.market import Beat, BookSide, MarketModel, MarketName, SymbolModel, Trade

_CHANGES_PER_MESSAGE = 4  # the range form of level2 merges a few changes into one message (docs since 2022-09)


def compact(value: object) -> str:
    """JSON as the exchange writes it: no spaces."""
    return json.dumps(value, separators=(",", ":"))


def text_frame(text: str) -> bytes:
    """*text* as one unmasked WebSocket text frame (RFC 6455 section 5.2), as a server sends it."""
    payload = text.encode()
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def welcome(connect_id: str) -> str:
    """The first frame of a connection."""
    return compact({"id": connect_id, "type": "welcome"})


def answer(kind: str, request_id: str | None) -> str:
    """An `ack` or a `pong`; the id is text whatever the client sent."""
    return compact({"type": kind} if request_id is None else {"id": request_id, "type": kind})


def error(request_id: str | None, code: int, text: str) -> str:
    """An error frame: the code is a number here, unlike in REST."""
    body: dict[str, object] = {} if request_id is None else {"id": request_id}
    return compact({**body, "type": "error", "code": code, "data": text})


@attrs.define(eq=False)
class ActiveTopic:
    """A wire topic somebody holds, and what its encoder must remember between two pushes.

    `model` is None for a topic outside the market model, which is fed by scripts only, and for `/market/ticker:all`.
    """

    name: str
    channel: Channel
    model: SymbolModel | None
    argument: str = ""
    next_due_ns: int = 0
    last: object = None
    symbol: str = ""


@attrs.frozen(kw_only=True)
class Channel:
    """One row of the table: how its pushes are made, and every how many seconds (None: each beat that has news)."""

    market: MarketName
    prefix: str
    encode: Callable[[ActiveTopic, SymbolModel, Beat], Iterator[str]]
    every: float | None = None
    intervals: Mapping[str, int] | None = None

    def find(self, market: MarketModel, argument: str, *, any_symbol: bool) -> ActiveTopic | None:
        """The topic of this channel for one *argument* (the text after the colon); None where there is no such."""
        name = f"{self.prefix}:{argument}"
        symbol, interval = argument, ""
        if self.intervals is not None:
            symbol, _, interval = argument.rpartition("_")
            if interval not in self.intervals:
                return None
        if symbol == "all":
            return ActiveTopic(name, self, None, symbol, symbol=symbol) if self.prefix == "/market/ticker" else None
        model = market.find(self.market, symbol)
        if model is None and (not any_symbol or symbol in market.delisted):
            return None
        return ActiveTopic(name, self, model, interval, symbol=symbol)


def _push(topic: str, subject: str, data: object, **extra: object) -> str:
    return compact({"topic": topic, "type": "message", "subject": subject, **extra, "data": data})


def _levels(side: BookSide, count: int, model: SymbolModel) -> list[list[str]]:
    price_text, size_text = model.instrument.price_text, model.instrument.size_text
    return [[price_text(price), size_text(size)] for price, size in side.top(count)]


def contract_levels(side: BookSide, count: int, model: SymbolModel) -> list[list[str | int]]:
    """The best *count* levels of a futures book as it is pushed: price text, whole contracts."""
    price_text = model.instrument.price_text
    return [[price_text(price), size] for price, size in side.top(count)]


def _order_text(order: int, model: SymbolModel) -> str:
    return f"{order:024x}" if model.instrument.market == "spot" else str(order)


# Spot: PROTOCOL section 6


def spot_ticker(model: SymbolModel, time_ns: int) -> dict[str, object]:
    """The fields of a spot ticker; also those of the REST reply but for its lack of a last size."""
    instrument = model.instrument
    bid, ask = model.bids.best, model.asks.best
    return {
        "bestAsk": instrument.price_text(ask),
        "bestAskSize": instrument.size_text(model.asks.size_at(ask)),
        "bestBid": instrument.price_text(bid),
        "bestBidSize": instrument.size_text(model.bids.size_at(bid)),
        "price": instrument.price_text(model.last_price),
        "sequence": str(model.sequence),
        "size": instrument.size_text(model.last_size),
        "time": time_ns // 1_000_000,
    }


def _spot_ticker(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    if beat.changes:
        subject = model.instrument.symbol if topic.argument == "all" else "trade.ticker"
        yield _push(topic.name, subject, spot_ticker(model, beat.time_ns))


def _spot_match(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    instrument = model.instrument
    for trade in beat.trades:
        data = {
            "makerOrderId": _order_text(trade.maker_order, model),
            "price": instrument.price_text(trade.price),
            "sequence": str(trade.sequence),
            "side": trade.side,
            "size": instrument.size_text(trade.size),
            "symbol": instrument.symbol,
            "takerOrderId": _order_text(trade.taker_order, model),
            "time": str(trade.time_ns),
            "tradeId": str(trade.sequence),
            "type": "match",
        }
        yield _push(topic.name, "trade.l3match", data)


def _spot_level2(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    instrument = model.instrument
    for first in range(0, len(beat.changes), _CHANGES_PER_MESSAGE):
        chunk = beat.changes[first : first + _CHANGES_PER_MESSAGE]
        # Several changes of one price are merged into the last one (DN tip; PROTOCOL section 8).
        merged = {(change.side, change.price): change for change in chunk}
        sides: dict[str, list[list[str]]] = {"asks": [], "bids": []}
        for change in merged.values():
            row = [
                instrument.price_text(change.price),
                instrument.size_text(change.size),
                str(change.sequence),
            ]
            sides["asks" if change.side == "sell" else "bids"].append(row)
        data = {
            "changes": sides,
            "sequenceEnd": chunk[-1].sequence,
            "sequenceStart": chunk[0].sequence,
            "symbol": instrument.symbol,
            "time": beat.time_ns // 1_000_000,
        }
        yield _push(topic.name, "trade.l2update", data)


def _spot_level1(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    best = {"asks": _levels(model.asks, 1, model)[0], "bids": _levels(model.bids, 1, model)[0]}
    if best != topic.last:
        topic.last = best
        yield _push(topic.name, "level1", {**best, "timestamp": beat.time_ns // 1_000_000})


def _spot_depth(levels: int) -> Callable[[ActiveTopic, SymbolModel, Beat], Iterator[str]]:
    def encode(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
        book = {"asks": _levels(model.asks, levels, model), "bids": _levels(model.bids, levels, model)}
        if book != topic.last:
            topic.last = book
            yield _push(topic.name, "level2", {**book, "timestamp": beat.time_ns // 1_000_000})

    return encode


def _statistics(model: SymbolModel, time_ns: int) -> tuple[int, int, int, int, int]:
    """Open, high, low (ticks), volume (lots) and turnover (ticks x lots) of the last 24 hours."""
    day = model.history.last_day(time_ns)
    if day is None:
        return model.last_price, model.last_price, model.last_price, 0, 0
    return day.open, day.high, day.low, day.volume, day.turnover


def _spot_snapshot(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    instrument = model.instrument
    number = instrument.price_number
    opened, high, low, volume, turnover = _statistics(model, beat.time_ns)
    lots = 10**instrument.size_decimals
    change = model.last_price - opened
    whole_day = {
        "changePrice": number(change),
        "changeRate": round(change / opened, 4),
        "high": number(high),
        "low": number(low),
        "open": number(opened),
        "vol": volume / lots,
        "volValue": turnover / lots / 10**instrument.price_decimals,
    }
    bid, ask = model.bids.best, model.asks.best
    data = {
        "askSize": model.asks.size_at(ask) / lots,
        "averagePrice": number(model.last_price),
        "baseCurrency": instrument.base,
        "bidSize": model.bids.size_at(bid) / lots,
        "board": 1,
        "buy": number(bid),
        **whole_day,
        "close": number(model.last_price),
        "datetime": beat.time_ns // 1_000_000,
        "lastTradedPrice": number(model.last_price),
        "makerCoefficient": 1.0,
        "makerFeeRate": 0.001,
        "marginTrade": True,
        "mark": 0,
        "market": "USDS",
        "marketChange24h": whole_day,
        "markets": ["USDS"],
        "quoteCurrency": instrument.quote,
        "sell": number(ask),
        "sort": 100,
        "symbol": instrument.symbol,
        "symbolCode": instrument.symbol,
        "takerCoefficient": 1.0,
        "takerFeeRate": 0.001,
        "trading": True,
    }
    yield _push(topic.name, "trade.snapshot", {"sequence": str(model.sequence), "data": data})


def _candle_row(model: SymbolModel, seconds: int) -> list[str] | None:
    candle = model.history.current(seconds)
    if candle is None:
        return None
    instrument = model.instrument
    decimals = instrument.price_decimals + instrument.size_decimals
    prices = (candle.open, candle.close, candle.high, candle.low)
    turnover = f"{candle.turnover / 10**decimals:.8f}".rstrip("0").rstrip(".")
    return [
        str(candle.start_s),
        *(instrument.price_text(price) for price in prices),
        instrument.size_text(candle.volume),
        turnover,
    ]


def _spot_candles(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    row = _candle_row(model, SPOT_INTERVALS[topic.argument])
    if row is None or row == topic.last:
        return
    # `add` announces a new row; the first push after subscribing belongs to a row which is already there.
    new = isinstance(topic.last, list) and topic.last[0] != row[0]
    topic.last = row
    subject = "trade.candles.add" if new else "trade.candles.update"
    data = {"symbol": model.instrument.symbol, "candles": row, "time": beat.time_ns}
    yield _push(topic.name, subject, data)


def _indicator(price: Callable[[SymbolModel], float]) -> Callable[[ActiveTopic, SymbolModel, Beat], Iterator[str]]:
    def encode(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
        data = {"symbol": model.instrument.symbol, "granularity": 1000, "timestamp": beat.time_ns // 1_000_000}
        yield _push(topic.name, "tick", {**data, "value": price(model)})

    return encode


def _at_its_hour(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    """Of an auction or a settlement, which this market does not have: it says nothing that is not played."""
    return iter(())


# Futures: PROTOCOL section 7


def _futures_best(model: SymbolModel) -> dict[str, object]:
    bid, ask = model.bids.best, model.asks.best
    return {
        "bestBidSize": model.bids.size_at(bid),
        "bestBidPrice": model.instrument.price_text(bid),
        "bestAskPrice": model.instrument.price_text(ask),
        "bestAskSize": model.asks.size_at(ask),
    }


def _ticker_v2(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    if beat.changes:
        head = {"symbol": model.instrument.symbol, "sequence": model.sequence}
        data = {**head, **_futures_best(model), "ts": beat.time_ns}
        yield _push(topic.name, "tickerV2", data, sn=model.sequence)


def futures_ticker(model: SymbolModel, trade: Trade) -> dict[str, object]:
    """The fields of the old futures ticker, whose sequence is the trade's; also those of the REST reply."""
    return {
        "symbol": model.instrument.symbol,
        "sequence": trade.sequence,
        "side": trade.side,
        "size": trade.size,
        "price": model.instrument.price_text(trade.price),
        **_futures_best(model),
        "tradeId": str(trade.sequence),
        "ts": trade.time_ns,
    }


def _ticker_v1(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    for trade in beat.trades:
        yield _push(topic.name, "ticker", futures_ticker(model, trade), sn=trade.sequence)


def _execution(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    for trade in beat.trades:
        data = {
            "symbol": model.instrument.symbol,
            "sequence": trade.sequence,
            "side": trade.side,
            "size": trade.size,
            "price": model.instrument.price_text(trade.price),
            "takerOrderId": _order_text(trade.taker_order, model),
            "makerOrderId": _order_text(trade.maker_order, model),
            "tradeId": str(trade.sequence),
            "ts": trade.time_ns,
        }
        yield _push(topic.name, "match", data, sn=trade.sequence)


def _futures_level2(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    for change in beat.changes:
        text = f"{model.instrument.price_text(change.price)},{change.side},{change.size}"
        data = {"sequence": change.sequence, "change": text, "timestamp": beat.time_ns // 1_000_000}
        yield _push(topic.name, "level2", data, sn=change.sequence)


def _futures_depth(levels: int) -> Callable[[ActiveTopic, SymbolModel, Beat], Iterator[str]]:
    def encode(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
        bids, asks = contract_levels(model.bids, levels, model), contract_levels(model.asks, levels, model)
        if (bids, asks) != topic.last:
            topic.last = (bids, asks)
            now = beat.time_ns // 1_000_000
            data = {"bids": bids, "sequence": model.sequence, "timestamp": now, "ts": now, "asks": asks}
            yield _push(topic.name, "level2", data, sn=now)

    return encode


def _instrument(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    now = beat.time_ns // 1_000_000
    prices = {"markPrice": model.mark_price, "indexPrice": model.index_price}
    yield _push(topic.name, "mark.index.price", {**prices, "granularity": 1000, "timestamp": now})
    # One topic, two rhythms: prices each second, the predicted rate each minute.
    minute = now // 60_000
    if minute != topic.last:
        topic.last = minute
        rate = {"granularity": 60000, "fundingRate": model.funding_rate, "timestamp": now}
        yield _push(topic.name, "funding.rate", rate)


def _futures_snapshot(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    number = model.instrument.price_number
    opened, high, low, volume, turnover = _statistics(model, beat.time_ns)
    multiplier = float(model.instrument.multiplier)
    data = {
        "highPrice": number(high),
        "lastPrice": number(model.last_price),
        "lowPrice": number(low),
        "price24HoursBefore": number(opened),
        "priceChg": number(model.last_price - opened),
        "priceChgPct": round((model.last_price - opened) / opened, 4),
        "symbol": model.instrument.symbol,
        "ts": beat.time_ns,
        "turnover": number(turnover) * multiplier,
        "volume": volume * multiplier,
    }
    yield _push(topic.name, "snapshot.24h", data, id=f"{beat.time_ns // 1_000_000:024x}")


def _limit_candle(topic: ActiveTopic, model: SymbolModel, beat: Beat) -> Iterator[str]:
    row = _candle_row(model, FUTURES_INTERVALS[topic.argument])
    if row is not None:
        data = {"symbol": model.instrument.symbol, "candles": row, "time": beat.time_ns // 1_000_000}
        yield _push(topic.name, "candle.stick", data)


CHANNELS: dict[tuple[MarketName, str], Channel] = {
    (channel.market, channel.prefix): channel
    for channel in (
        Channel(market="spot", prefix="/market/ticker", encode=_spot_ticker),
        Channel(market="spot", prefix="/market/match", encode=_spot_match),
        Channel(market="spot", prefix="/market/level2", encode=_spot_level2),
        Channel(market="spot", prefix="/spotMarket/level1", encode=_spot_level1),
        Channel(market="spot", prefix="/spotMarket/level2Depth5", encode=_spot_depth(5)),
        Channel(market="spot", prefix="/spotMarket/level2Depth50", encode=_spot_depth(50)),
        Channel(market="spot", prefix="/market/snapshot", encode=_spot_snapshot, every=2.0),
        Channel(market="spot", prefix="/market/candles", encode=_spot_candles, intervals=SPOT_INTERVALS),
        Channel(market="spot", prefix="/indicator/markPrice", encode=_indicator(lambda of: of.mark_price), every=1.0),
        Channel(market="spot", prefix="/indicator/index", encode=_indicator(lambda of: of.index_price), every=1.0),
        Channel(market="spot", prefix="/callauction/callauctionData", encode=_at_its_hour),
        Channel(market="spot", prefix="/callauction/level2Depth50", encode=_at_its_hour),
        Channel(market="futures", prefix="/contract/announcement", encode=_at_its_hour),
        Channel(market="futures", prefix="/contractMarket/tickerV2", encode=_ticker_v2),
        Channel(market="futures", prefix="/contractMarket/ticker", encode=_ticker_v1),
        Channel(market="futures", prefix="/contractMarket/execution", encode=_execution),
        Channel(market="futures", prefix="/contractMarket/level2", encode=_futures_level2),
        Channel(market="futures", prefix="/contractMarket/level2Depth5", encode=_futures_depth(5)),
        Channel(market="futures", prefix="/contractMarket/level2Depth50", encode=_futures_depth(50)),
        Channel(market="futures", prefix="/contract/instrument", encode=_instrument, every=1.0),
        Channel(market="futures", prefix="/contractMarket/snapshot", encode=_futures_snapshot, every=5.0),
        Channel(
            market="futures",
            prefix="/contractMarket/limitCandle",
            encode=_limit_candle,
            every=1.0,
            intervals=FUTURES_INTERVALS,
        ),
    )
}


def split_topic(topic: str) -> tuple[str, list[str]]:
    """`/area/name:A,B` as its prefix and its arguments; an argument may be empty where the text was malformed."""
    prefix, _, arguments = topic.partition(":")
    return prefix, arguments.split(",")


def parse_client_frame(text: str) -> dict[str, Any] | None:
    """A client's frame, or None where it is no JSON object."""
    try:
        frame = json.loads(text)
    except ValueError:
        return None
    return frame if isinstance(frame, dict) else None
