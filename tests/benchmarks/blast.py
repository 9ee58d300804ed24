"""A KuCoin of the bare minimum, as fast as a socket takes bytes: one token, one connection, pre-encoded tickers.

Run as a program it serves for ever and prints its port; `python tests/benchmarks/blast.py [frames]`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator

SYMBOLS = ("BTC-USDT", "ETH-USDT", "KCS-USDT", "SOL-USDT")
TIME = 1654032320677
CHUNK = 200  # frames in one send: about what a busy server's socket holds


def ticker(number: int) -> bytes:
    symbol = SYMBOLS[number % len(SYMBOLS)]
    data = {
        "bestAsk": f"{31785 + number % 97}.{number % 10}",
        "bestAskSize": f"1.0{number % 1000:03d}57",
        "bestBid": f"{31784 + number % 97}.{number % 10}",
        "bestBidSize": f"0.46{number % 1000:03d}37",
        "price": f"{31784 + number % 97}.{number % 10}",
        "sequence": str(1630218274617 + number),
        "size": "0.03133705",
        "time": TIME,
    }
    frame = {"type": "message", "topic": f"/market/ticker:{symbol}", "subject": "trade.ticker", "data": data}
    return json.dumps(frame, separators=(",", ":")).encode()


def encode(payload: bytes) -> bytes:
    head = (
        struct.pack("!BB", 0x81, len(payload)) if len(payload) < 126 else struct.pack("!BBH", 0x81, 126, len(payload))
    )
    return head + payload


def read_frame(reader: object) -> dict[str, object]:
    read = reader.read  # type: ignore[attr-defined]
    _, second = read(2)
    length = second & 127
    if length == 126:
        (length,) = struct.unpack("!H", read(2))
    mask, body = read(4), read(length)
    return json.loads(bytes(byte ^ mask[index % 4] for index, byte in enumerate(body)))


def serve(connection: socket.socket, port: int, chunks: Iterable[bytes]) -> None:
    with connection, connection.makefile("rb") as reader:
        request = reader.readline().decode()
        headers: dict[str, str] = {}
        while (line := reader.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if request.startswith("POST"):
            server = {"endpoint": f"ws://127.0.0.1:{port}/", "pingInterval": 18000, "pingTimeout": 10000}
            body = json.dumps({"code": "200000", "data": {"token": "bench", "instanceServers": [server]}})
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            return
        key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()  # noqa: S324  # RFC 6455 wants it
        connection.sendall(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        connection.sendall(encode(b'{"id":"bench","type":"welcome"}'))
        frame = read_frame(reader)
        connection.sendall(encode(json.dumps({"id": frame["id"], "type": "ack"}).encode()))
        for chunk in chunks:
            connection.sendall(chunk)
        connection.recv(1)  # the client leaves first


def dated(chunks: list[bytes]) -> Iterator[bytes]:
    """*chunks* with the time in a second: neither late nor misdated for who takes them off the socket that fast."""
    for chunk in chunks:
        yield chunk.replace(b"%d" % TIME, b"%d" % (time.time_ns() // 10**6 + 1000))


def main() -> None:
    frames = [encode(ticker(number)) for number in range(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)]
    chunks = [b"".join(frames[start : start + CHUNK]) for start in range(0, len(frames), CHUNK)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        print(port, flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, port, dated(chunks)), daemon=True).start()


if __name__ == "__main__":
    main()
