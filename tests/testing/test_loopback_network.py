"""KuCoin's hosts over real sockets: what the memory network is, with the kernel in between."""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

import kufeed
from kufeed.testing import Exchange, LoopbackNetwork

if TYPE_CHECKING:
    from kufeed._network import Network


async def test_it_is_a_network_as_kufeed_asks_for_one() -> None:
    async with LoopbackNetwork(Exchange()) as loopback:
        network: Network = loopback
        assert abs(network.time_ns() - time.time_ns()) < 1_000_000_000
        begun = network.perf_counter()
        await trio.sleep(0.01)
        assert network.perf_counter() - begun >= 0.009


@pytest.mark.parametrize("host", ["api.kucoin.com", "api-futures.kucoin.com"])
async def test_kucoins_hosts_are_there_as_sockets(tools: Any, host: str) -> None:
    async with LoopbackNetwork(Exchange()) as network:
        stream = await network.open_stream(host, 443, ssl.create_default_context())
        assert isinstance(stream, trio.SocketStream)
        async with stream:
            reply = await tools.http(stream, "POST", "/api/v1/bullet-public", host)
        market = "spot" if host == "api.kucoin.com" else "futures"
        (server,) = reply.data["instanceServers"]
        assert server["endpoint"] == f"wss://ws-api-{market}.kucoin.com/"


async def test_instance_servers_have_a_port_each(tools: Any) -> None:
    exchange = Exchange(instance_servers=2)
    async with LoopbackNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot", server=0), dialler.open("futures", server=1) as second:
            assert [(one.market, one.server) for one in exchange.sessions] == [("spot", 0), ("futures", 1)]
            exchange.kill_server(1)
            assert await second.closed() == 1006
            with pytest.raises(ConnectionRefusedError):
                await network.open_stream("ws-api-futures-2.kucoin.com", 443, None)
            await (await network.open_stream("ws-api-futures.kucoin.com", 443, None)).aclose()


@pytest.mark.parametrize("host", ["api.example.org", "ws-api-spot-2.kucoin.com"])
async def test_an_unknown_host_is_a_dns_failure(host: str) -> None:
    async with LoopbackNetwork(Exchange()) as network:
        with pytest.raises(socket.gaierror):
            await network.open_stream(host, 443, None)


async def test_dials_can_be_refused_some_or_all() -> None:
    exchange = Exchange()
    async with LoopbackNetwork(exchange) as network:
        exchange.faults.refuse_dials = 2
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                await network.open_stream("api.kucoin.com", 443, None)
        await (await network.open_stream("api.kucoin.com", 443, None)).aclose()
    with pytest.raises(ConnectionRefusedError):
        await network.open_stream("api.kucoin.com", 443, None)


async def test_it_is_entered_once_and_errors_of_the_body_come_out() -> None:
    network = LoopbackNetwork(Exchange())
    with pytest.raises(KeyError, match="mine"):
        async with network:
            raise KeyError("mine")
    with pytest.raises(RuntimeError, match="a LoopbackNetwork can be entered once"):
        await network.__aenter__()
    with pytest.raises(RuntimeError, match="was not entered"):
        await LoopbackNetwork(Exchange()).__aexit__(None, None, None)


async def test_a_feed_over_it() -> None:
    exchange = Exchange(update_interval=0.01, instance_servers=2)
    async with LoopbackNetwork(exchange) as network, kufeed.open_feed(network=network) as feed:
        with trio.fail_after(10):
            async with feed.ticker("XBTUSDTM", "BTC-USDT") as tickers:
                seen = set()
                while len(seen) < 2:
                    seen.add((await tickers.receive()).symbol)
