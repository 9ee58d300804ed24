"""Trades as REST replies have them, and which of them belong into a hole."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import attrs
import pytest

from kufeed.errors import MessageRefused
from kufeed.protocol import Gap, GapCause, GapFill, Side, Trade, rest, topic
from kufeed.protocol.history import HISTORIES, fill, read_trades

from ..samples import load

SPOT, FUTURES = topic("trade", "BTC-USDT"), topic("trade", "XBTUSDTM")
NOW = 1_729_300_000_000_000_000


def sample(name: str) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = json.loads(load(f"{name}.jsonl")[0].text)["data"]
    return data


def two_rows() -> list[dict[str, Any]]:
    """As spot has them."""
    time = 1729177117877000000
    return [
        {"sequence": str(number), "price": "67122.9", "size": "0.05", "side": "buy", "time": time}
        for number in (10976028003549185, 10976028003549188)
    ]


def test_the_documented_reply_of_spot() -> None:
    """It has no ids: they are the sequence, as in pushed trades today."""
    first, *_, last = read_trades(sample("rest_spot_histories"), SPOT, NOW)
    assert first == Trade(
        SPOT,
        "BTC-USDT",
        10976028003549185,
        1729177117877000000,
        NOW,
        Decimal(67122),
        Decimal("0.000025"),
        Side.BUY,
        "10976028003549185",
    )
    assert first.backfilled
    assert last.sequence == 10976028003549191


def test_the_documented_reply_of_futures_has_the_newest_first() -> None:
    trades = read_trades(sample("rest_futures_trade_history"), FUTURES, NOW)
    assert [trade.sequence for trade in trades] == [1697915257701, 1697915257749, 1697915257909]
    assert trades[-1] == Trade(
        FUTURES,
        "XBTUSDTM",
        1697915257909,
        1729242032152000000,
        NOW,
        Decimal(67878),
        1,
        Side.SELL,
        "1697915257909",
    )


def test_floats_and_the_row_where_they_are_asked_for() -> None:
    data = two_rows()
    trade = read_trades(data, SPOT, NOW, numbers=float, keep_raw=True)[0]
    assert (type(trade.price), trade.raw) == (float, data[0])
    trade = read_trades(data, SPOT, NOW)[0]
    assert (type(trade.price), trade.raw) == (Decimal, None)


def test_a_trade_that_is_there_twice_is_one() -> None:
    data = two_rows()
    assert len(read_trades(data + data, SPOT, NOW)) == len(data)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"price": "1_0"}, "price"),
        ({"size": None}, "size"),
        ({"side": "both"}, "side"),
        ({"sequence": None}, "sequence"),
        ({"sequence": 10**5000}, "sequence"),
        ({"time": 1729177117877}, "time"),
        ({"symbol": "ETH-USDT"}, "symbol"),
        ({"tradeId": ""}, "tradeId"),
    ],
)
def test_one_row_that_is_not_valid_spoils_the_whole_reply(change: dict[str, Any], cause: str) -> None:
    """What is missing then is not known."""
    data = two_rows()
    data[1] |= change
    with pytest.raises(MessageRefused) as error:
        read_trades(data, SPOT, NOW)
    assert error.value.cause == cause


@pytest.mark.parametrize("field", ["sequence", "price", "size", "side", "time"])
def test_so_does_one_that_lacks_a_field(field: str) -> None:
    data = two_rows()
    del data[1][field]
    with pytest.raises(MessageRefused) as error:
        read_trades(data, SPOT, NOW)
    assert error.value.cause == field
    assert str(error.value) == (f"{field}: missing" if field != "sequence" else "sequence: None")


@pytest.mark.parametrize(
    ("data", "shown"),
    [(None, "None"), ({}, "dict"), ("trades", "'trades'"), ([None], "None"), ([[]], "list")],
    ids=repr,
)
def test_what_is_no_list_of_trades_is_refused(data: object, shown: str) -> None:
    with pytest.raises(MessageRefused, match=f"^data: {shown}$"):
        read_trades(data, SPOT, NOW)


def test_a_reply_is_no_longer_than_ten_of_todays() -> None:
    row = two_rows()[0]
    assert len(read_trades([row] * 1000, SPOT, NOW)) == 1
    with pytest.raises(MessageRefused, match=r"^data: 1001 trades, of which there are 100 at most$"):
        read_trades([row] * 1001, SPOT, NOW)


def test_each_market_has_its_history() -> None:
    assert {SPOT.channel.market: rest.SPOT_TRADES, FUTURES.channel.market: rest.FUTURES_TRADES} == HISTORIES


# -- into the hole ----------------------------------------------------------------------------------------------------


def trade(sequence: int) -> Trade:
    time = NOW + sequence
    return Trade(SPOT, "BTC-USDT", sequence, time, time, Decimal(1), Decimal(1), Side.BUY, str(sequence))


GAP = Gap(SPOT, GapCause.RECONNECT, None, None, NOW + 10, NOW + 20)


def filled(history: list[int]) -> list[Any]:
    """Sequences, and gaps as how far they are filled, since and until when."""
    told = fill(GAP, trade(10), trade(20), [trade(number) for number in history])
    found: list[Any] = []
    for one in told:
        if isinstance(one, Gap):
            assert one.since_ns is not None
            assert one.until_ns is not None
            found.append((one.filled, one.since_ns - NOW, one.until_ns - NOW))
        else:
            found.append(one.sequence)
    return found


def test_a_history_that_reaches_from_one_side_to_the_other_fills_the_hole() -> None:
    """What it has besides is on either side of it."""
    assert filled([8, 10, 12, 17, 20, 21]) == [(GapFill.FILLED, 10, 20), 12, 17]
    assert filled([9, 12, 21]) == [(GapFill.FILLED, 10, 20), 12]
    assert filled([10, 20]) == [(GapFill.FILLED, 10, 20)]


def test_what_is_still_missing_is_told_where_it_is() -> None:
    assert filled([12, 17, 20]) == [(GapFill.PARTLY, 10, 12), 12, 17]
    assert filled([10, 12, 17]) == [12, 17, (GapFill.PARTLY, 17, 20)]
    assert filled([12, 17]) == [(GapFill.PARTLY, 10, 12), 12, 17, (GapFill.PARTLY, 17, 20)]
    assert filled([10, 12, 14, 17]) == [12, 14, 17, (GapFill.PARTLY, 17, 20)]
    assert filled([12]) == [(GapFill.PARTLY, 10, 12), 12, (GapFill.PARTLY, 12, 20)]


def test_a_gap_among_numbers_may_begin_before_the_last_trade() -> None:
    """What came too late is missing from further back, where the history was not compared."""
    late = attrs.evolve(GAP, cause=GapCause.SEQUENCE)
    told = fill(late, trade(10), trade(20), [trade(number) for number in (10, 12, 20)])
    assert told == [attrs.evolve(late, until_ns=NOW + 12, filled=GapFill.PARTLY), trade(12)]


@pytest.mark.parametrize("history", [[], [3, 9, 10], [20, 25], [30]])
def test_a_history_that_says_nothing_of_the_hole(history: list[int]) -> None:
    assert filled(history) == [(GapFill.UNKNOWN, 10, 20)]


def test_none_at_all_is_the_same() -> None:
    assert fill(GAP, trade(10), trade(20), None) == [attrs.evolve(GAP, filled=GapFill.UNKNOWN)]
