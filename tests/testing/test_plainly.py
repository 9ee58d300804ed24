"""The second reading of what the exchange says agrees with the decoders, and sees each field that does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
from trio.testing import MockClock

import kufeed
from kufeed import UpdateType
from kufeed.protocol import topic
from kufeed.testing import Exchange, MemoryNetwork
from kufeed.testing.plainly import FIELDS, misread
from kufeed.testing.readings import read_all

if TYPE_CHECKING:
    from kufeed.testing import Publication

KINDS = [
    *(("futures", kind) for kind in ("ticker", "trade", "book_delta", "depth", "mark_price", "funding_rate")),
    *(("futures", kind) for kind in ("index_price", "candle", "stats_24h")),
    *(("spot", kind) for kind in ("ticker", "trade", "book_delta", "depth", "level1", "mark_price", "index_price")),
    *(("spot", kind) for kind in ("candle", "stats_24h")),
]


@pytest.fixture(scope="module")
def published() -> dict[tuple[str, str], list[tuple[Publication, Any]]]:
    """What an exchange has published of every kind, and what the decoders read of it."""
    exchange = Exchange(seed=1, ledger=True)
    chosen = {
        (market, kind): topic(
            kind,
            "XBTUSDTM" if market == "futures" else "BTC-USDT",
            **({"interval": "1min"} if kind == "candle" else {"levels": 5} if kind == "depth" else {}),
        )
        for market, kind in KINDS
    }

    async def main() -> None:
        async with MemoryNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
            async with feed.subscribe(*chosen.values()):
                await trio.sleep(3)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert exchange.truth is not None
    return {
        key: [(one.publication, one.update) for one in read_all(exchange.truth, of)[of].all]
        for key, of in chosen.items()
    }


@pytest.mark.parametrize("key", KINDS, ids="-".join)
def test_what_is_read_is_compared_with_what_was_published_field_by_field(
    published: dict[tuple[str, str], list[tuple[Publication, Any]]], key: tuple[str, str]
) -> None:
    assert published[key]
    for publication, update in published[key]:
        assert misread(publication, update) is None
        fields = set(FIELDS[key[0], UpdateType(key[1])])
        own = {one.name for one in attrs.fields(type(update)) if one.eq and one.init}
        untold = {"topic", "symbol", "received_time_ns", "gap_before", "late", "misdated", "raw", "changes"}
        made_of_others = {"interval", "predicted"} if key[1] in ("candle", "funding_rate") else set[str]()
        assert {one for one in own - untold - made_of_others if getattr(update, one) is not None} == fields
        for field in fields:
            value = getattr(update, field)
            other = value[1:] if isinstance(value, tuple) else f"{value}1" if isinstance(value, str) else value + 1
            assert misread(publication, attrs.evolve(update, **{field: other})) is not None
        if key[1] == "book_delta":
            (first, *others) = update.changes
            for wrong in (others, (first._replace(side="sell" if first.side == "buy" else "buy"), *others)):
                assert misread(publication, attrs.evolve(update, changes=tuple(wrong))) is not None


@pytest.mark.parametrize("key", KINDS, ids="-".join)
def test_what_is_read_as_floats_is_compared_too(
    published: dict[tuple[str, str], list[tuple[Publication, Any]]], key: tuple[str, str]
) -> None:
    for publication, update in published[key]:
        of = update.topic
        read: Any = of.channel.decoders[float](json.loads(publication.text), of, 0)
        assert misread(publication, read) is None
        for field in FIELDS[key[0], UpdateType(key[1])]:
            if isinstance(value := getattr(read, field), float):
                assert misread(publication, attrs.evolve(read, **{field: value + 1.0})) is not None
