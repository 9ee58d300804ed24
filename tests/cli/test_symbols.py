"""`kufeed symbols`: what it prints to whom, and with which exit code."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from decimal import Decimal

import attrs
import pytest

from kufeed.testing import Exchange

from ..bookish import change_replies
from .process import called, painted, run

LOT_OF_ETHER = '"baseIncrement":"0.0000001"'


async def test_lines_for_a_pipe_are_parted_by_tabs() -> None:
    async with Exchange(futures=["XBTUSDM", "XBTMH27"]).listen() as address:
        urls = ("--futures-url", address.futures_url, "--spot-url", address.spot_url)
        both = await run("symbols", *urls)
        spot = await run("symbols", "spot", *urls)
        matched = await run("symbols", "futures", "--match", "xbtusd", *urls)
        nothing = await run("symbols", "--match", "DOGE", *urls)
    assert (both.code, both.err) == (0, [])
    rows = {line.split("\t")[0]: line.split("\t") for line in both.out}
    assert list(rows) == ["XBTUSDTM", "ETHUSDTM", "XBTUSDM", "XBTMH27", "BTC-USDT", "ETH-USDT"]
    assert rows["XBTUSDTM"][1:-1] == ["perpetual", "XBT", "USDT", "0.1", "1", "0.001", "open", "8 h"]
    assert rows["XBTUSDM"][6] == "-1.0"
    assert rows["XBTMH27"][-2:] == ["-", "2027-03-26 08:00:00"]
    assert rows["BTC-USDT"][1:] == ["spot", "BTC", "USDT", "0.1", "0.00000001", "1", "open", "-", "-"]
    assert {len(row) for row in rows.values()} == {10}
    assert spot.out == both.out[-2:]
    assert [line.split("\t")[0] for line in matched.out] == ["XBTUSDTM", "XBTUSDM"]
    assert (nothing.code, nothing.out, nothing.err) == (0, [], [])


async def test_json_holds_every_field_exactly() -> None:
    async with Exchange(futures=["XBTMH27"]).listen() as address:
        urls = ("--futures-url", address.futures_url, "--spot-url", address.spot_url)
        ended = await run("symbols", "--json", *urls)
    assert (ended.code, ended.err) == (0, [])
    rows = {row["symbol"]: row for row in map(json.loads, ended.out)}
    linear, dated, pair = rows["XBTUSDTM"], rows["XBTMH27"], rows["BTC-USDT"]
    assert (linear["market"], linear["type"], linear["lot"], linear["multiplier"]) == (
        "futures",
        "perpetual",
        1,
        "0.001",
    )
    assert (linear["status"], linear["exchange_status"], linear["is_inverse"]) == ("open", "Open", False)
    assert datetime.fromisoformat(linear["next_funding"]).utcoffset() is not None
    assert dated["expiry"] == "2027-03-26T08:00:00+00:00"
    assert (pair["exchange_status"], Decimal(pair["lot"])) == (True, Decimal("1e-8"))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
async def test_a_terminal_gets_a_table() -> None:
    async with Exchange().listen() as address:
        text = await painted("symbols", "futures", "--futures-url", address.futures_url, columns=160)
    for word in ("symbol", "tick", "lot", "multiplier", "status", "funding", "XBTUSDTM", "0.001", "open", "8 h"):
        assert word in text


async def test_a_row_that_is_not_as_documented_is_left_out_and_said_so() -> None:
    exchange = Exchange()
    change_replies(
        exchange,
        lambda _, reply: attrs.evolve(reply, body=reply.body.replace(LOT_OF_ETHER, '"baseIncrement":"much"')),
    )
    async with exchange.listen() as address:
        ended = await run("symbols", "spot", "--spot-url", address.spot_url)
    assert ended.code == 0
    assert [line.split("\t")[0] for line in ended.out] == ["BTC-USDT"]
    (line,) = ended.err
    assert line.startswith("kufeed: left out, being not as documented: ")
    assert line.endswith(" 1")


async def test_what_the_exchange_refuses_is_one_clear_line() -> None:
    exchange = Exchange()
    exchange.faults.request_error = ("500000", "Internal error")
    async with exchange.listen() as address:
        ended = await run("symbols", "spot", "--spot-url", address.spot_url)
        assert (ended.code, ended.out) == (1, [])
        assert ended.err == ["kufeed: /api/v2/symbols: Internal error (code 500000)"]
    ended = await run("symbols", "spot", "--spot-url", address.spot_url)  # nobody listens there any more
    assert (ended.code, ended.out) == (1, [])
    (line,) = ended.err
    assert line.startswith("kufeed: /api/v2/symbols: ")
    assert str(address.port) in line


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(("margin",), "margin"), (("spot", "--spot-url", "kucoin"), "spot_url"), (("--mach", "X"), "--mach")],
)
def test_wrong_use_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], word: str
) -> None:
    ended = called(capsys, monkeypatch, "symbols", *arguments)
    assert (ended.code, ended.out) == (2, [])
    (line,) = ended.err
    assert line.startswith("kufeed: ")
    assert word in line
