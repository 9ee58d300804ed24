"""Signed requests: PROTOCOL.md section 10, judged without kufeed's own signing."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest
import trio

from kufeed import Credentials
from kufeed.testing import Exchange, MemoryNetwork
from kufeed.testing.keys import KeyOffice
from kufeed.testing.network import EPOCH_NS

PATH = "/api/v3/market/orderbook/level2?symbol=BTC-USDT"


def signature(secret: str, text: str) -> str:
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()).decode()


def signed(credentials: Credentials, now_ms: int, target: str = PATH, method: str = "GET") -> dict[str, str]:
    return {
        "KC-API-KEY": credentials.key,
        "KC-API-SIGN": signature(credentials.secret, f"{now_ms}{method}{target}"),
        "KC-API-TIMESTAMP": str(now_ms),
        "KC-API-PASSPHRASE": signature(credentials.secret, credentials.passphrase),
        "KC-API-KEY-VERSION": "2",
    }


async def ask(tools: Any, network: MemoryNetwork, headers: dict[str, str]) -> Any:
    async with await network.open_stream("api.kucoin.com", 443, None) as stream:
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return (await tools.http(stream, "GET", PATH, "api.kucoin.com", extra=extra)).json


async def test_a_whole_spot_book_is_for_who_signs(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(live=False, book_levels=500)
    credentials = exchange.issue_credentials()
    async with MemoryNetwork(exchange) as network:
        await trio.sleep(12)
        now_ms = EPOCH_NS // 1_000_000 + 12_000
        for version in ("2", "3"):
            reply = await ask(tools, network, signed(credentials, now_ms) | {"KC-API-KEY-VERSION": version})
            assert reply["code"] == "200000"
            assert len(reply["data"]["bids"]) == len(reply["data"]["asks"]) == 500
            assert int(reply["data"]["sequence"]) == exchange.book("BTC-USDT").sequence
        for off in (-5000, 5000):
            assert (await ask(tools, network, signed(credentials, now_ms + off)))["code"] == "200000"


@pytest.mark.parametrize("skew", [-3600.0, 0.0, 5.25])
async def test_what_is_not_well_signed_is_refused_as_kucoin_does(
    tools: Any, autojump_clock: object, skew: float
) -> None:
    exchange = Exchange(live=False)
    exchange.faults.clock_skew = skew
    ours, other = exchange.issue_credentials(), Exchange(seed=1).issue_credentials()
    async with MemoryNetwork(exchange) as network:
        told = (await tools.Dialler(network).request("spot", "GET", "/api/v1/timestamp")).data
        now_ms = EPOCH_NS // 1_000_000 + round(skew * 1000)
        assert told == now_ms
        good = signed(ours, now_ms)
        assert (await ask(tools, network, good))["code"] == "200000"
        cases = [({name: ""}, "400001") for name in good]
        cases += [({"KC-API-KEY-VERSION": "1"}, "400001")]
        cases += [(signed(ours, now_ms + off), "400002") for off in (-5001, 5001)]
        cases += [({"KC-API-TIMESTAMP": text}, "400002") for text in ("soon", "-1", "9" * 400)]
        cases += [({"KC-API-KEY": other.key}, "400003")]
        cases += [({"KC-API-PASSPHRASE": text}, "400004") for text in (ours.passphrase, other.passphrase, "x")]
        cases += [({"KC-API-SIGN": signature(other.secret, f"{now_ms}GET{PATH}")}, "400005")]
        cases += [({"KC-API-SIGN": signed(ours, now_ms, PATH, "POST")["KC-API-SIGN"]}, "400005")]
        cases += [({"KC-API-SIGN": signed(ours, now_ms, PATH + "x")["KC-API-SIGN"]}, "400005")]
        cases += [({"KC-API-TIMESTAMP": str(now_ms + 1)}, "400005")]
        for changed, code in cases:
            reply = await ask(tools, network, good | changed)
            assert (reply["code"], bool(reply["msg"])) == (code, True), changed


def test_credentials_are_drawn_by_the_seed_and_each_time_others() -> None:
    exchange = Exchange(seed=3)
    issued = [exchange.issue_credentials() for _ in range(3)]
    assert len({one.key for one in issued} | {one.secret for one in issued}) == 6
    assert Exchange(seed=3).issue_credentials() == issued[0]
    assert Exchange(seed=4).issue_credentials() != issued[0]


def test_no_repr_shows_a_key() -> None:
    office = KeyOffice(0)
    key = office.issue().key
    assert repr(office) == "<KeyOffice: 1 issued>"
    assert key not in repr(office)
