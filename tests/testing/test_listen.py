"""The same exchange over loopback TCP: one port, both markets told apart by the path."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
import trio_websocket
import trustme

from kufeed.testing import Exchange


@pytest.mark.parametrize(
    ("market", "topic"),
    [("futures", "/contractMarket/tickerV2:XBTUSDTM"), ("spot", "/market/ticker:BTC-USDT")],
)
async def test_both_markets_are_served_on_one_port(tools: Any, market: str, topic: str) -> None:
    exchange = Exchange(update_interval=0.01)
    async with exchange.listen() as address:
        base = getattr(address, f"{market}_url")
        assert base == f"http://127.0.0.1:{address.port}/{market}"
        async with tools.open_tcp_client(base) as client:
            assert (await client.subscribe(topic))["type"] == "ack"
            assert {push["topic"] for push in await client.pushes(5)} == {topic}


async def test_the_token_reply_names_the_local_endpoint(tools: Any) -> None:
    async with Exchange().listen() as address:
        response = await tools.tcp_request(address.spot_url, "POST", "/api/v1/bullet-public")
        (server,) = response.data["instanceServers"]
        assert server["endpoint"] == f"ws://127.0.0.1:{address.port}/spot/endpoint"
        other = await tools.tcp_request(f"http://127.0.0.1:{address.port}", "GET", "/api/v1/status")
        assert other.status == 404, "neither a prefix nor a host that tells the market"


async def test_a_script_of_many_frames_arrives_whole_and_in_order(tools: Any) -> None:
    exchange = Exchange(live=False)
    frames = [f'{{"topic":"/market/match:A-B","type":"message","data":{number}}}' for number in range(5000)]
    async with exchange.listen() as address, tools.open_tcp_client(address.spot_url) as client:
        await client.subscribe("/market/match:A-B")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.play, frames)
            assert [push["data"] for push in await client.pushes(5000)] == list(range(5000))


async def test_links_can_be_cut_and_dials_refused(tools: Any) -> None:
    exchange = Exchange()
    async with exchange.listen() as address:
        async with tools.open_tcp_client(address.futures_url) as client:
            await exchange.disconnect_all()
            assert await client.closed() == 1006
        exchange.faults.refuse_dials = 1
        with pytest.raises((AssertionError, trio.BrokenResourceError)):
            await tools.tcp_request(address.spot_url, "GET", "/api/v1/status")
        await tools.tcp_request(address.spot_url, "GET", "/api/v1/status")


async def test_the_error_of_the_body_comes_out_as_itself_and_the_port_is_free_again(tools: Any) -> None:
    exchange = Exchange()
    ports: list[int] = []

    async def use_it() -> None:
        async with exchange.listen() as address:
            ports.append(address.port)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await use_it()
    (port,) = ports
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        await trio.open_tcp_stream("127.0.0.1", port)
    async with exchange.listen(port=port) as again:
        assert again.port == port
        await tools.tcp_request(again.spot_url, "GET", "/api/v1/status")


async def test_a_taken_port_is_an_oserror() -> None:
    async with Exchange().listen() as address:
        with pytest.raises(OSError, match="use"):
            async with Exchange().listen(port=address.port):
                pass


async def test_it_can_be_served_over_tls() -> None:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    exchange = Exchange(update_interval=0.01)
    async with exchange.listen(tls=server) as address:
        assert address.spot_url.startswith("https://")
        async with await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", address.port, ssl_context=client, https_compatible=True
        ) as stream:
            head = f"POST /spot/api/v1/bullet-public HTTP/1.1\r\nHost: 127.0.0.1:{address.port}\r\n"
            await stream.send_all(f"{head}Content-Length: 0\r\n\r\n".encode())
            reply = bytes(await stream.receive_some())
        assert f'"wss://127.0.0.1:{address.port}/spot/endpoint"'.encode() in reply
        token = reply.partition(b'"token":"')[2].partition(b'"')[0].decode()
        url = f"wss://127.0.0.1:{address.port}/spot/endpoint?token={token}"
        async with trio_websocket.open_websocket_url(url, ssl_context=client) as websocket:
            assert '"welcome"' in await websocket.get_message()
