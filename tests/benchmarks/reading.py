"""What reading costs: frames of 350 bytes through the frame tap, no JSON: `python tests/benchmarks/reading.py`.

Plain TCP, TLS with large records, and TLS with a record per frame, as an exchange sends them; TLS once by kufeed's own
stream and once by `trio.SSLStream`. The sender is another process at full speed over loopback, each client a process of
its own, and the clients take turns. What counts is the client's CPU seconds from the first byte to the end; a batch is
what one call of `receive_some` brought, in frames, on average. Every frame is counted: none may be lost.
"""

from __future__ import annotations

import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import trio
import trustme

from kufeed._tls import TLSStream
from kufeed._websocket import FrameTap

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from blast import encode  # noqa: E402

PAYLOAD = b'{"type":"message","topic":"/market/match:BTC-USDT"}'.ljust(346)
FRAME = encode(PAYLOAD)
PER_RECORD = {"plain": 46, "large": 46, "single": 1}  # 46 frames: 16,100 bytes, where 16,384 is the most
HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
CLIENTS = {
    "plain TCP": "plain",
    "large records, trio.SSLStream": "large",
    "large records, kufeed": "large",
    "a record a frame, trio.SSLStream": "single",
    "a record a frame, kufeed": "single",
}


# -- the sender -------------------------------------------------------------------------------------------------------


class Sealed:
    """The server's TLS by hand, so that everything can be encrypted before the first byte leaves."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                connection.sendall(self.outgoing.read())
                self.incoming.write(connection.recv(65_536))
            else:
                connection.sendall(self.outgoing.read())
                return

    def seal(self, pieces: Sequence[bytes]) -> bytes:
        for piece in pieces:
            self.tls.write(piece)
        return self.outgoing.read()


def serve(connection: socket.socket, kind: str, frames: int, context: ssl.SSLContext) -> None:
    size = PER_RECORD[kind]
    pieces = [HEAD, *[FRAME * min(size, frames - start) for start in range(0, frames, size)]]
    with connection:
        connection.sendall(b"".join(pieces) if kind == "plain" else Sealed(connection, context).seal(pieces))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # the client leaves first


def accept(listener: socket.socket, kind: str, frames: int, context: ssl.SSLContext) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, kind, frames, context), daemon=True).start()


def serve_for_ever(directory: Path, frames: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem")
    threads = []
    for kind in PER_RECORD:
        listener = socket.create_server(("127.0.0.1", 0))
        print(kind, listener.getsockname()[1], flush=True)
        threads.append(threading.Thread(target=accept, args=(listener, kind, frames, context)))
        threads[-1].start()


# -- a client ---------------------------------------------------------------------------------------------------------


async def open_stream(name: str, port: int, context: ssl.SSLContext) -> trio.abc.Stream:
    transport = await trio.open_tcp_stream("127.0.0.1", port)
    if name == "plain TCP":
        return transport
    secured: TLSStream | trio.SSLStream[trio.SocketStream]
    if name.endswith("kufeed"):
        secured = TLSStream(transport, context, server_hostname="127.0.0.1")
    else:
        secured = trio.SSLStream(transport, context, server_hostname="127.0.0.1", https_compatible=True)
    await secured.do_handshake()
    return secured


async def read(name: str, port: int, frames: int, authority: Path) -> tuple[float, float, float]:
    counts: list[int] = []

    async def deliver(texts: Sequence[bytes]) -> None:
        assert texts[-1] == PAYLOAD
        counts.append(len(texts))

    stream = await open_stream(name, port, ssl.create_default_context(cafile=authority))
    tap = FrameTap(stream, deliver, 1 << 20)
    head = await tap.receive_some()
    wall, cpu = time.perf_counter(), time.process_time()
    before = sum(counts)
    assert head == HEAD
    assert await tap.receive_some() == b""
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert sum(counts) == frames
    await trio.aclose_forcefully(tap)
    return wall / (frames - before), cpu / (frames - before), statistics.mean(counts)


# -- all of them ------------------------------------------------------------------------------------------------------


def main(frames: int = 100_000, rounds: int = 7) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "authority.pem"))
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
        command = [sys.executable, __file__, "serve", str(directory), str(frames)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                ports = dict(server.stdout.readline().split() for _ in PER_RECORD)
                figures = {name: [] for name in CLIENTS}
                for _ in range(rounds):
                    for name, kind in CLIENTS.items():
                        client = [sys.executable, __file__, "read", name, ports[kind], str(frames), str(directory)]
                        output = subprocess.run(client, check=True, capture_output=True, text=True).stdout
                        figures[name].append(tuple(map(float, output.split())))
            finally:
                server.kill()
    print(f"{'':32}  CPU s per 100,000 (of {rounds})  frames/s   frames a batch")
    for name, rows in figures.items():
        cpus = sorted(cpu * 100_000 for _, cpu, _ in rows)
        rate = statistics.median(1 / wall for wall, _, _ in rows)
        batch = statistics.median(batch for _, _, batch in rows)
        spread = f"({cpus[0]:.3f} to {cpus[-1]:.3f})"
        print(f"{name:32}  {statistics.median(cpus):.3f} {spread:19}  {rate:10,.0f}   {batch:8.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve_for_ever(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["read"]:
        arguments = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]) / "authority.pem"
        print(*trio.run(read, *arguments))
    else:
        main(*map(int, sys.argv[1:]))
