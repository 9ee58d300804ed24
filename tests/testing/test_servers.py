"""Several instance servers: the token reply names them all, each can die and come back by itself."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from kufeed.testing import Exchange, MemoryNetwork


async def fate_of_a_dial(port: int, market: str) -> bytes:
    """What a server says to who asks for a WebSocket without a token, nothing where it is dead."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        try:
            head = f"GET /{market}/endpoint HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n\r\n"
            await stream.send_all(head.encode())
            return bytes(await stream.receive_some())
        except trio.BrokenResourceError:
            return b""


def test_there_is_at_least_one_server() -> None:
    with pytest.raises(ValueError, match="instance_servers must be 1 or more, not 0"):
        Exchange(instance_servers=0)


@pytest.mark.parametrize("market", ["spot", "futures"])
async def test_the_token_reply_names_every_server(tools: Any, autojump_clock: object, market: str) -> None:
    async with MemoryNetwork(Exchange(instance_servers=3)) as network:
        reply = await tools.Dialler(network).request(market, "POST", "/api/v1/bullet-public")
    assert [server["endpoint"] for server in reply.data["instanceServers"]] == [
        f"wss://ws-api-{market}.kucoin.com/",
        f"wss://ws-api-{market}-2.kucoin.com/",
        f"wss://ws-api-{market}-3.kucoin.com/",
    ]


async def test_sessions_and_dials_tell_their_server(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(instance_servers=2)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot", server=1), dialler.open("futures", server=0):
            assert [(session.market, session.server) for session in exchange.sessions] == [("spot", 1), ("futures", 0)]
            assert [(dial.market, dial.server) for dial in exchange.dials] == [("spot", 1), ("futures", 0)]


async def test_the_network_has_as_many_servers_as_the_exchange(autojump_clock: object) -> None:
    async with MemoryNetwork(Exchange(instance_servers=2)) as network:
        await (await network.open_stream("ws-api-spot-2.kucoin.com", 443, None)).aclose()
        for host in ("ws-api-spot-3.kucoin.com", "ws-api-spot-1.kucoin.com", "ws-api-spot-02.kucoin.com"):
            with pytest.raises(OSError, match="no such host"):
                await network.open_stream(host, 443, None)


async def test_a_dead_server_refuses_and_the_others_live_on(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(instance_servers=2)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        exchange.faults.dead_servers.add(0)
        token = await dialler.token("spot")
        with pytest.raises(ConnectionRefusedError):
            async with dialler.open("spot", token=token):
                pass
        async with dialler.open("spot", token=token, server=1):
            pass
        exchange.faults.dead_servers.clear()
        async with dialler.open("spot", token=token):
            pass
        assert [dial.server for dial in exchange.dials] == [1, 0], "who is refused at the transport made no dial"


async def test_a_killed_server_loses_its_connections_and_can_be_revived(tools: Any, autojump_clock: object) -> None:
    exchange = Exchange(instance_servers=2)
    async with MemoryNetwork(exchange) as network:
        dialler = tools.Dialler(network)
        async with dialler.open("spot") as one, dialler.open("spot", server=1) as other:
            dialling = await network.open_stream("ws-api-spot.kucoin.com", 443, None)
            exchange.kill_server(0)
            assert await one.closed() == 1006
            await dialling.send_all(b"GET /?token=x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n")
            assert await dialling.receive_some() == b"", "a dial under way is lost too"
            await other.send({"id": "1", "type": "ping"})
            assert (await other.receive())["type"] == "pong"
        with pytest.raises(ConnectionRefusedError):
            async with dialler.open("spot"):
                pass
        exchange.revive_server(0)
        async with dialler.open("spot"):
            pass


async def test_a_server_that_does_not_exist_cannot_be_killed() -> None:
    exchange = Exchange(instance_servers=2)
    for index in (-1, 2):
        with pytest.raises(ValueError, match=f"there is no server {index}"):
            exchange.kill_server(index)
        with pytest.raises(ValueError, match=f"there is no server {index}"):
            exchange.revive_server(index)


@pytest.mark.parametrize("market", ["spot", "futures"])
async def test_over_tcp_each_server_has_a_port(tools: Any, market: str) -> None:
    exchange = Exchange(instance_servers=2)
    async with exchange.listen() as address:
        base = getattr(address, f"{market}_url")
        reply = await tools.tcp_request(base, "POST", "/api/v1/bullet-public")
        endpoints = [server["endpoint"] for server in reply.data["instanceServers"]]
        ports = [int(endpoint.split(":")[2].split("/")[0]) for endpoint in endpoints]
        assert len({address.port, *ports}) == 3, "the requests' port lives on when a server is dead"
        assert endpoints == [f"ws://127.0.0.1:{port}/{market}/endpoint" for port in ports]
        async with tools.open_tcp_client(base, server=1) as client:
            assert [session.server for session in exchange.sessions] == [1]
            exchange.kill_server(1)
            assert await client.closed() == 1006
        assert await fate_of_a_dial(ports[1], market) == b""
        async with tools.open_tcp_client(base):
            assert [session.server for session in exchange.sessions] == [0]


async def test_the_only_server_shares_the_port_of_the_requests_and_dies_alone(tools: Any) -> None:
    exchange = Exchange()
    async with exchange.listen() as address:
        exchange.kill_server(0)
        assert await fate_of_a_dial(address.port, "spot") == b""
        await tools.tcp_request(address.spot_url, "GET", "/api/v1/status")
        exchange.revive_server(0)
        async with tools.open_tcp_client(address.spot_url):
            pass
