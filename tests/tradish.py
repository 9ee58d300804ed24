"""For tests of trades that were missed: an exchange whose trades are made by hand, and whose history can be spoilt."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
import trio.testing

import kufeed
from kufeed import Disconnected, FeedConfig, Gap, Trade
from kufeed.testing import Exchange
from kufeed.testing.http import Where
from kufeed.testing.market import Beat, Side
from kufeed.testing.market import Trade as Match
from kufeed.testing.rest import Reply
from kufeed.testing.wire import compact

from .bookish import Watched, change_replies, until_blocked, watched

BOTH = ("BTC-USDT", "XBTUSDTM")
HISTORIES = ("/api/v1/market/histories", "/api/v1/trade/history")
BACK = FeedConfig(reconnect_delay=0.1, max_reconnect_delay=1.0)

Spoil = Callable[[Reply], Reply]


def wire(symbol: str) -> str:
    return str(kufeed.topic("trade", symbol))


class Trading(Exchange):
    """Silent by itself; `spoil` gets every reply with trades and returns what is sent instead."""

    def __init__(self, **options: Any) -> None:
        super().__init__(live=False, accept_any_symbol=False, **options)
        self.spoil: Spoil = lambda reply: reply
        change_replies(self, self._changed)
        self.made: dict[str, list[int]] = {symbol: [] for symbol in BOTH}
        """The sequences of all trades there were."""
        self.times: dict[tuple[str, int], int] = {}
        """When they were, by symbol and sequence."""

    def trade(self, symbol: str, count: int = 1, *, skip: int = 1) -> int:
        """Have *count* trades, numbered *skip* apart, and push them to whoever holds the topic; the last one's number.

        Where the topic is muted, or nobody holds it, they are in the history only.
        """
        model = self._model(symbol)
        matches = []
        time = max(self._clock.now_ns(), self.times[symbol, self.made[symbol][-1]] + 1 if self.made[symbol] else 0)
        for number in range(count):
            model.trade_sequence += skip
            side: Side = "buy" if number % 2 else "sell"
            price, size = model.last_price + number % 3, 1 + number
            match = Match(model.trade_sequence, model.sequence, side, price, size, 7, 8, time + number)
            model.recent_trades.append(match)
            matches.append(match)
            self.made[symbol].append(match.sequence)
            self.times[symbol, match.sequence] = match.time_ns
        for route in self._publisher.routes_of(model):
            self._publisher.publish(route, model, Beat(self._clock.now_ns(), (), tuple(matches)))
        return model.trade_sequence

    def _changed(self, where: Where | None, reply: Reply) -> Reply:
        return self.spoil(reply) if where is not None and where.path in HISTORIES else reply


def delayed(seconds: float) -> Spoil:
    return lambda reply: attrs.evolve(reply, delay=seconds)


def answered(text: str, status: int = 200) -> Spoil:
    return lambda reply: attrs.evolve(reply, body=text, status=status)


def rows(change: Callable[[list[dict[str, Any]]], object]) -> Spoil:
    """Replies whose trades *change* has changed, oldest first, as they are kept here."""

    def spoil(reply: Reply) -> Reply:
        answer = json.loads(reply.body)
        data = sorted(answer["data"], key=lambda row: int(row["sequence"]))
        changed = change(data)
        answer["data"] = data if changed is None else changed
        return attrs.evolve(reply, body=compact(answer))

    return spoil


async def miss(exchange: Trading, count: int, symbol: str, *, skip: int = 1) -> None:
    """Cut every connection, have *count* trades meanwhile, of *symbol*, and return when all is streamed again."""
    held = tuple(exchange._publisher.routes)
    await trio.testing.wait_all_tasks_blocked()
    await exchange.disconnect_all()
    if count:
        exchange.trade(symbol, count, skip=skip)
    await exchange.wait_subscribed(*held)
    await trio.testing.wait_all_tasks_blocked()


async def all_of(trades: Any) -> list[Any]:
    """The trades and gaps that can be had now."""
    found = await until_blocked(trades.with_events())
    return [one for one in found if isinstance(one, Trade | Gap)]


def kinds(items: list[Any]) -> list[str]:
    """What they are: `old` a recovered trade, `new` a live one, a gap by how far it was filled."""
    return [
        ("old" if one.backfilled else "new") if isinstance(one, Trade) else str(one.filled)
        for one in items
        if not isinstance(one, Disconnected)
    ]


def sequences(items: list[Any]) -> list[int]:
    return [one.sequence for one in items if isinstance(one, Trade)]


def asked(network: Watched) -> int:
    """How often a history was asked for."""
    return sum(one.path in HISTORIES for one in network.requests)


@asynccontextmanager
async def trading(config: FeedConfig = BACK) -> AsyncIterator[tuple[Trading, kufeed.Feed, Watched]]:
    exchange = Trading()
    async with watched(exchange, config) as (_, feed, network):
        yield exchange, feed, network
