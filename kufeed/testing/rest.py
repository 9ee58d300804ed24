"""The REST side: replies as values. Pure: the market and the time are arguments (PROTOCOL sections 2, 8 and 9)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs

from kufeed.testing.market import FUNDING_CAP, FUNDING_INTERVAL_MS, OPEN, Trade
from kufeed.testing.wire import compact, futures_ticker, spot_ticker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kufeed.testing.books import Moment
    from kufeed.testing.market import MarketModel, MarketName, SymbolModel
    from kufeed.testing.records import Damage

_SPOT_BOOK = "/api/v1/market/orderbook/level2_"
STATUS = "/api/v1/status"
SIGNED_BOOK = "/api/v3/market/orderbook/level2"
_WHOLE = 1_000_000
_BOOKS: dict[MarketName, dict[str, int]] = {
    "spot": {SIGNED_BOOK: _WHOLE, f"{_SPOT_BOOK}20": 20, f"{_SPOT_BOOK}100": 100},
    "futures": {"/api/v1/level2/snapshot": _WHOLE, "/api/v1/level2/depth20": 20, "/api/v1/level2/depth100": 100},
}


@attrs.frozen
class Reply:
    """One HTTP reply with a JSON body."""

    status: int
    body: str
    headers: tuple[tuple[str, str], ...] = ()
    delay: float = 0.0


def success(data: object) -> Reply:
    """The envelope of a good reply."""
    return Reply(200, compact({"code": "200000", "data": data}))


def failure(code: str, message: str, *, status: int = 200) -> Reply:
    """The envelope of an error; business errors come with HTTP 200."""
    return Reply(status, compact({"code": code, "msg": message}))


def refusal(error: int | tuple[str, str], retry_after: str | None) -> Reply:
    """A bare status, with that `Retry-After` header where it is not None; or the envelope of KuCoin's own error."""
    if not isinstance(error, int):
        return failure(*error)
    return Reply(error, "", () if retry_after is None else (("Retry-After", retry_after),))


def bullet(token: str, endpoints: list[str], *, ping_interval: float, ping_timeout: float) -> Reply:
    """The token reply; intervals are given in seconds and told in milliseconds."""
    servers = [
        {
            "endpoint": endpoint,
            "encrypt": endpoint.startswith("wss:"),
            "protocol": "websocket",
            "pingInterval": round(ping_interval * 1000),
            "pingTimeout": round(ping_timeout * 1000),
        }
        for endpoint in endpoints
    ]
    return success({"token": token, "instanceServers": servers})


def status(state: str, message: str) -> Reply:
    """Whether the exchange is open, and its words for it."""
    return success({"status": state, "msg": message})


@attrs.frozen
class Request:
    """A GET request after the market was told apart: `path` without any prefix, `query` with single values."""

    market: MarketName
    path: str
    query: Mapping[str, str]
    time_ns: int
    changes_ago: int = 0
    """How old a book is when it is told."""


def weight(market: MarketName, path: str) -> int:
    """What a request costs of the quota; unknown ones cost 1."""
    if path.startswith(_SPOT_BOOK):
        return 2
    if path.startswith("/api/v1/level2/depth"):
        return 5
    if path == "/api/v1/timestamp":
        return 3 if market == "spot" else 2
    return {
        "/api/v1/bullet-public": 10,
        SIGNED_BOOK: 3,
        "/api/v1/level2/snapshot": 3,
        "/api/v2/symbols": 4,
        "/api/v1/market/allTickers": 15,
        "/api/v1/contracts/active": 3,
        "/api/v1/market/histories": 3,
        "/api/v1/trade/history": 5,
    }.get(path, 1)


def is_book(market: MarketName, path: str) -> bool:
    """Whether a request is for a book, or the best levels of one."""
    return path in _BOOKS[market]


def damaged(reply: Reply, damage: Damage) -> Reply:
    """A good *reply* with a book, spoilt; others as they are."""
    if damage == "garbage":
        return attrs.evolve(reply, body=reply.body[: len(reply.body) // 2])
    answer = json.loads(reply.body)
    if answer["code"] != "200000":
        return reply
    bids, asks = answer["data"]["bids"], answer["data"]["asks"]
    if damage == "crossed":
        bids[0][0], asks[0][0] = asks[0][0], bids[0][0]
    else:
        bids[1][0] = bids[0][0]
    return attrs.evolve(reply, body=compact(answer))


def answer(model: MarketModel, request: Request) -> Reply:
    """The reply to any GET request but the status; the token's is a POST. Whoever is signed was looked at before."""
    path = request.path
    if is_book(request.market, path):
        return _with_symbol(model, request, lambda symbol: _book(symbol.moment(request.changes_ago), request))
    if path == "/api/v1/timestamp":
        return success(request.time_ns // 1_000_000)
    return _spot(model, request) if request.market == "spot" else _futures(model, request)


def _not_found() -> Reply:
    return failure("404000", "Url Not Found", status=404)


def _with_symbol(model: MarketModel, request: Request, make: Callable[[SymbolModel], object]) -> Reply:
    symbol = request.query.get("symbol", "")
    if not symbol:
        return failure("400100", "symbol can not be empty")
    found = model.find(request.market, symbol)
    return _unknown_symbol(request.market) if found is None else success(make(found))


def _unknown_symbol(market: MarketName) -> Reply:
    return failure("900001", "symbol not exists") if market == "spot" else failure("200003", "symbol invalid")


def _spot(model: MarketModel, request: Request) -> Reply:
    path = request.path
    now = request.time_ns
    if path == "/api/v2/symbols":
        if request.query.get("market", "USDS") != "USDS":
            return success([])
        return success([_spot_symbol(symbol) for symbol in _all(model, "spot")])
    if path == "/api/v1/market/allTickers":
        return success(
            {"time": now // 1_000_000, "ticker": [_ticker_row(symbol, now) for symbol in _all(model, "spot")]}
        )
    if path == "/api/v1/market/orderbook/level1":
        return _with_symbol(model, request, lambda symbol: spot_ticker(symbol, symbol.time_ns or now))
    if path == "/api/v1/market/histories":
        return _with_symbol(model, request, _spot_trades)
    return _not_found()


def _futures(model: MarketModel, request: Request) -> Reply:
    path = request.path
    now = request.time_ns
    match path.removeprefix("/api/v1/").split("/"):
        case ["contracts", "active"]:
            return success([_contract(symbol, now) for symbol in _all(model, "futures")])
        case ["contracts", name]:
            found = model.find("futures", name)
            return _unknown_symbol("futures") if found is None else success(_contract(found, now))
        case ["funding-rate", name, "current"]:
            found = model.find("futures", name)
            return _unknown_symbol("futures") if found is None else success(_funding(found, now))
        case ["trade", "history"]:
            return _with_symbol(model, request, _futures_trades)
        case ["ticker"]:
            return _with_symbol(model, request, lambda symbol: _last_futures_ticker(symbol, now))
        case _:
            return _not_found()


def _all(model: MarketModel, market: MarketName) -> list[SymbolModel]:
    return [found for name in model.symbols(market) if (found := model.find(market, name)) is not None]


def _book(book: Moment, request: Request) -> dict[str, object]:
    levels = _BOOKS[request.market][request.path]
    instrument = book.instrument
    if request.market == "futures":
        number = instrument.price_number
        return {
            "sequence": book.sequence,
            "symbol": instrument.symbol,
            "bids": [[number(price), size] for price, size in book.bids[:levels]],
            "asks": [[number(price), size] for price, size in book.asks[:levels]],
            "ts": request.time_ns,
        }

    def side(of: list[tuple[int, int]]) -> list[list[str]]:
        return [[instrument.price_text(price), instrument.size_text(size)] for price, size in of[:levels]]

    return {
        "time": request.time_ns // 1_000_000,
        "sequence": str(book.sequence),
        "bids": side(book.bids),
        "asks": side(book.asks),
    }


def _ticker_row(symbol: SymbolModel, time_ns: int) -> dict[str, object]:
    best, name = spot_ticker(symbol, time_ns), symbol.instrument.symbol
    return {
        "symbol": name,
        "symbolName": name,
        "buy": best["bestBid"],
        "bestBidSize": best["bestBidSize"],
        "sell": best["bestAsk"],
        "bestAskSize": best["bestAskSize"],
        "last": best["price"],
    }


def _spot_trades(symbol: SymbolModel) -> list[dict[str, object]]:
    """Oldest first, as the spot sample has it."""
    instrument = symbol.instrument
    return [
        {
            "sequence": str(trade.sequence),
            "price": instrument.price_text(trade.price),
            "size": instrument.size_text(trade.size),
            "side": trade.side,
            "time": trade.time_ns,
        }
        for trade in symbol.recent_trades
    ]


def _futures_trades(symbol: SymbolModel) -> list[dict[str, object]]:
    """Newest first, as the futures sample has it."""
    return [
        {
            "sequence": trade.sequence,
            "contractId": 1,
            "tradeId": str(trade.sequence),
            "makerOrderId": str(trade.maker_order),
            "takerOrderId": str(trade.taker_order),
            "ts": trade.time_ns,
            "size": trade.size,
            "price": symbol.instrument.price_text(trade.price),
            "side": trade.side,
        }
        for trade in reversed(symbol.recent_trades)
    ]


def _last_futures_ticker(symbol: SymbolModel, now: int) -> dict[str, object]:
    """That of the last trade; where nobody has looked on yet, of one before the market began."""
    if symbol.recent_trades:
        return futures_ticker(symbol, symbol.recent_trades[-1])
    side, price, size = symbol.last_side, symbol.last_price, symbol.last_size
    time_ns = symbol.time_ns or now
    return futures_ticker(symbol, Trade(symbol.trade_sequence, symbol.sequence, side, price, size, 0, 0, time_ns))


def _spot_symbol(symbol: SymbolModel) -> dict[str, object]:
    instrument = symbol.instrument
    return {
        "symbol": instrument.symbol,
        "name": instrument.symbol,
        "baseCurrency": instrument.base,
        "quoteCurrency": instrument.quote,
        "feeCurrency": instrument.quote,
        "market": "USDS",
        "baseMinSize": instrument.size_text(1),
        "quoteMinSize": "0.1",
        "baseMaxSize": "10000000000",
        "quoteMaxSize": "99999999",
        "baseIncrement": instrument.size_text(1),
        "quoteIncrement": "0.000001",
        "priceIncrement": instrument.price_text(1),
        "priceLimitRate": "0.1",
        "minFunds": "0.1",
        "isMarginEnabled": True,
        "enableTrading": symbol.status == OPEN,
        "feeCategory": 1,
        "makerFeeCoefficient": "1.00",
        "takerFeeCoefficient": "1.00",
        "st": False,
        "callauctionIsEnabled": False,
        "callauctionPriceFloor": None,
        "callauctionPriceCeiling": None,
        "callauctionFirstStageStartTime": None,
        "callauctionSecondStageStartTime": None,
        "callauctionThirdStageStartTime": None,
        "tradingStartTime": None,
    }


def _next_funding_ms(time_ns: int) -> int:
    return (time_ns // 1_000_000 // FUNDING_INTERVAL_MS + 1) * FUNDING_INTERVAL_MS


def _contract(symbol: SymbolModel, time_ns: int) -> dict[str, object]:
    instrument = symbol.instrument
    dated = instrument.expiry_ms is not None
    return {
        "symbol": instrument.symbol,
        "rootSymbol": instrument.settle,
        "type": "FFICSX" if dated else "FFWCSX",
        "firstOpenDate": 1585555200000,
        "expireDate": instrument.expiry_ms,
        "settleDate": None,
        "baseCurrency": instrument.base,
        "quoteCurrency": instrument.quote,
        "settleCurrency": instrument.settle,
        "maxOrderQty": 1000000,
        "maxPrice": 1000000,
        "lotSize": 1,
        "tickSize": instrument.price_number(1),
        "indexPriceTickSize": 10 ** -(instrument.price_decimals + 1),
        "multiplier": -float(instrument.multiplier) if instrument.is_inverse else float(instrument.multiplier),
        "makerFeeRate": 0.0002,
        "takerFeeRate": 0.0006,
        "isInverse": instrument.is_inverse,
        "markMethod": "FairPrice",
        "fairMethod": "FundingRate",
        "fundingRateSymbol": None if dated else f".{instrument.symbol}FPI8H",
        "indexSymbol": f".K{instrument.base}{instrument.quote}",
        "status": symbol.status,
        "fundingFeeRate": None if dated else symbol.funding_rate,
        "predictedFundingFeeRate": None if dated else symbol.funding_rate,
        "fundingRateGranularity": None if dated else FUNDING_INTERVAL_MS,
        "openInterest": "6748176",
        "markPrice": symbol.mark_price,
        "indexPrice": symbol.index_price,
        "lastTradePrice": instrument.price_number(symbol.last_price),
        "nextFundingRateTime": None if dated else _next_funding_ms(time_ns) - time_ns // 1_000_000,
    }


def _funding(symbol: SymbolModel, time_ns: int) -> dict[str, object]:
    settlement = _next_funding_ms(time_ns)
    return {
        "symbol": f".{symbol.instrument.symbol}FPI8H",
        "granularity": FUNDING_INTERVAL_MS,
        "timePoint": settlement - FUNDING_INTERVAL_MS,
        "value": symbol.funding_rate,
        "predictedValue": symbol.funding_rate,
        "fundingRateCap": FUNDING_CAP,
        "fundingRateFloor": -FUNDING_CAP,
        "period": 0,
        "fundingTime": settlement,
    }
