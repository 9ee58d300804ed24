"""The memory network: KuCoin's hosts and no others, and a virtual clock."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio

import kufeed
from kufeed.testing import Exchange, MemoryNetwork

if TYPE_CHECKING:
    from kufeed._network import Network


async def test_it_is_a_network_as_kufeed_asks_for_one(autojump_clock: object) -> None:
    async with MemoryNetwork(Exchange()) as memory:
        network: Network = memory
        start = network.time_ns(), network.perf_counter()
        await trio.sleep(3600.25)
        assert network.time_ns() - start[0] == 3_600_250_000_000
        assert network.perf_counter() - start[1] == 3600.25
        assert start[0] == 1_767_225_600_000_000_000, "with a MockClock every run begins at the same time"


@pytest.mark.parametrize(
    "host", ["api.kucoin.com", "api-futures.kucoin.com", "ws-api-spot.kucoin.com", "ws-api-futures.kucoin.com"]
)
async def test_kucoins_hosts_are_there_and_tls_is_taken_for_granted(
    tools: Any, autojump_clock: object, host: str
) -> None:
    async with MemoryNetwork(Exchange()) as network:
        stream = await network.open_stream(host, 443, ssl.create_default_context())
        async with stream:
            assert (await tools.http(stream, "GET", "/api/v1/status", host)).data["status"] == "open"


class Noting:
    """A network of a user's own: what `kufeed.Network` asks for, and no more."""

    def __init__(self, memory: MemoryNetwork) -> None:
        self.memory = memory
        self.time_ns, self.perf_counter = memory.time_ns, memory.perf_counter
        self.asked: list[ssl.SSLContext | None] = []

    async def open_stream(self, host: str, port: int, tls: ssl.SSLContext | None) -> trio.abc.Stream:
        self.asked.append(tls)
        return await self.memory.open_stream(host, port, tls)


async def settings_of(network: Any) -> list[ssl.SSLContext | None]:
    """What a feed on *network* had it secure its connections with: for the token, for the WebSocket."""
    network.asked.clear()
    async with kufeed.open_feed(network=network) as feed, feed.ticker("XBTUSDTM"):
        pass
    assert len(network.asked) == 2
    return list(network.asked)


async def test_a_network_may_have_tls_settings_for_who_gave_none(autojump_clock: object) -> None:
    """A simulated one has: to read the machine's authorities takes longer than all else that a feed does there."""
    async with MemoryNetwork(Exchange()) as memory:
        network: Any = Noting(memory)
        first, second = await settings_of(network)
        assert first is second is not None
        assert first.verify_mode is ssl.CERT_REQUIRED
        assert first.check_hostname
        assert first.get_ca_certs() == ssl.create_default_context().get_ca_certs()
        network.ssl_context = memory.ssl_context
        assert await settings_of(network) == [memory.ssl_context] * 2
    assert memory.ssl_context.get_ca_certs() == [], "should it ever meet a network, it trusts nobody"


async def test_an_unknown_host_is_a_dns_failure(autojump_clock: object) -> None:
    async with MemoryNetwork(Exchange()) as network:
        with pytest.raises(socket.gaierror):
            await network.open_stream("api.example.org", 443, None)


async def test_dials_can_be_refused_some_or_all(autojump_clock: object) -> None:
    exchange = Exchange()
    async with MemoryNetwork(exchange) as network:
        exchange.faults.refuse_dials = 2
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                await network.open_stream("api.kucoin.com", 443, None)
        await (await network.open_stream("api.kucoin.com", 443, None)).aclose()
        exchange.faults.refuse_dials = True
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await network.open_stream("api.kucoin.com", 443, None)


async def test_it_is_entered_once(autojump_clock: object) -> None:
    network = MemoryNetwork(Exchange())
    async with network:
        pass
    with pytest.raises(RuntimeError, match="once"):
        await network.__aenter__()
