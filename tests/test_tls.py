"""TLS in batches: whom it trusts, what one read gives, and how it ends, against peers of other makes."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import re
import shutil
import ssl
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import (
    MockClock,
    check_two_way_stream,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

import kufeed
from kufeed._network import RealNetwork
from kufeed._tls import TLSStream, default_context

HOST = "ws-api.kucoin.example"
AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert(HOST, "127.0.0.1")
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["TLS 1.2", "TLS 1.3"])
SEVERAL_RECORDS = b"".join(number.to_bytes(4, "big") for number in range(10_000))


def client_context(version: ssl.TLSVersion | None = None, *, trust: trustme.CA | None = AUTHORITY) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata="" if trust is None else trust.cert_pem.bytes().decode())
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def server_context(certificate: trustme.LeafCert = CERTIFICATE) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


class Watched(trio.abc.Stream):
    """A transport that counts what is read from it, and delivers it in pieces of given sizes."""

    def __init__(self, stream: trio.abc.Stream, sizes: Iterable[int] = ()) -> None:
        self.stream = stream
        self.sizes = itertools.chain(sizes, itertools.repeat(1 << 20))
        self.reads = 0
        self.bytes_read = 0
        self.sends = 0
        self.moved = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.stream.receive_some(min(max_bytes or 1 << 20, next(self.sizes)))
        self.reads += 1
        self.bytes_read += len(data)
        self.moved.set()
        self.moved = trio.Event()
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sends += 1
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


class Peer:
    """The server's side by hand: its records arrive where, when and in which pieces a test says."""

    def __init__(self, stream: trio.abc.Stream, context: ssl.SSLContext | None = None) -> None:
        self.stream = stream
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or server_context()).wrap_bio(self.incoming, self.outgoing, server_side=True)

    async def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.flush()
                self.incoming.write(await self.stream.receive_some())
            else:
                await self.flush()
                return

    async def flush(self) -> None:
        await self.stream.send_all(self.outgoing.read())

    def records(self, *payloads: bytes) -> bytes:
        for payload in payloads:
            self.tls.write(payload)
        return self.outgoing.read()

    def close_notify(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()

    async def receive(self) -> bytes:
        """What the client has sent by now."""

        async def pump() -> None:
            while data := await self.stream.receive_some():
                self.incoming.write(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        parts = []
        try:
            while self.incoming.pending:
                parts.append(self.tls.read(1 << 16))
        except ssl.SSLWantReadError:
            pass
        return b"".join(parts)


@asynccontextmanager
async def by_hand(
    version: ssl.TLSVersion | None = None,
    *,
    sizes: Iterable[int] = (),
    client: ssl.SSLContext | None = None,
    server: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[TLSStream, Watched, Peer]]:
    """A client after its handshake with a `Peer`, over memory."""
    ours, theirs = memory_stream_pair()
    transport, peer = Watched(ours), Peer(theirs, server)
    stream = TLSStream(transport, client or client_context(version), server_hostname=HOST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.shake_hands)
        await stream.do_handshake()
    # Session tickets, so that they do not mix with what a test counts.
    await peer.stream.send_all(peer.records(b"begin"))
    assert await stream.receive_some() == b"begin"
    transport.reads = transport.bytes_read = transport.sends = 0
    transport.sizes = itertools.chain(sizes, transport.sizes)
    try:
        yield stream, transport, peer
    finally:
        await trio.aclose_forcefully(stream)
        await trio.aclose_forcefully(theirs)


async def shake_hands(*streams: TLSStream | trio.SSLStream[Any]) -> None:
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.do_handshake)


async def with_trio_as_server(
    version: ssl.TLSVersion | None = None, *, lockstep: bool = False, sizes: Iterable[int] = ()
) -> tuple[TLSStream, trio.SSLStream[Any]]:
    ours, theirs = lockstep_stream_pair() if lockstep else memory_stream_pair()
    client = TLSStream(Watched(ours, sizes), client_context(version), server_hostname=HOST)
    server = trio.SSLStream(theirs, server_context(), server_side=True)
    await shake_hands(client, server)
    return client, server


async def receive_all(stream: trio.abc.ReceiveStream, max_bytes: int | None = None) -> bytes:
    data = b""
    while part := await stream.receive_some(max_bytes):
        data += part
    return data


# -- whom it trusts ---------------------------------------------------------------------------------------------------


async def attempt(
    client: ssl.SSLContext, host: str, server: ssl.SSLContext, *, lockstep: bool = False
) -> tuple[trio.BrokenResourceError | None, ssl.SSLError | None]:
    """A handshake over memory: why it failed on the client's side, and on the server's."""
    ours, theirs = lockstep_stream_pair() if lockstep else memory_stream_pair()
    errors: list[Any] = [None, None]

    async def serve() -> None:
        try:
            secured = trio.SSLStream(theirs, server, server_side=True)
            await secured.do_handshake()
            await secured.receive_some()  # under TLS 1.3 the server learns only here that it was refused
        except trio.BrokenResourceError as error:
            errors[1] = error.__cause__
        finally:
            await trio.aclose_forcefully(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        stream = TLSStream(ours, client, server_hostname=host)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError as error:
            errors[0] = error
        await stream.aclose()
    return errors[0], errors[1]


@VERSIONS
@pytest.mark.parametrize("host", [HOST, "127.0.0.1"])
async def test_a_certificate_of_the_name_or_the_address_is_accepted(
    version: ssl.TLSVersion, host: str, autojump_clock: MockClock
) -> None:
    assert await attempt(client_context(version), host, server_context()) == (None, None)
    assert trio.current_time() == 0


def expired() -> trustme.LeafCert:
    then = datetime.datetime.now(datetime.UTC)
    return AUTHORITY.issue_cert(
        HOST, not_before=then - datetime.timedelta(days=9), not_after=then - datetime.timedelta(days=1)
    )


def self_signed(directory: Path) -> ssl.SSLContext:
    """A certificate that is its own issuer, and that nobody has vouched for."""
    lonely = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    file = directory / "self-signed.pem"
    file.write_bytes(lonely.private_key_pem.bytes() + lonely.cert_pem.bytes())
    context.load_cert_chain(file)
    return context


@VERSIONS
@pytest.mark.parametrize(
    ("host", "fault", "problem"),
    [
        ("elsewhere.example", None, "Hostname mismatch"),
        ("127.0.0.2", None, "IP address mismatch"),
        ("::1", None, "IP address mismatch"),
        (HOST, "expired", "certificate has expired"),
        (HOST, "self-signed", "self-signed certificate"),
        (HOST, "wrong authority", "unable to get local issuer certificate"),
    ],
)
async def test_any_other_certificate_is_named_as_the_cause_at_once_and_the_server_is_told(
    version: ssl.TLSVersion, host: str, fault: str | None, problem: str, tmp_path: Path, autojump_clock: MockClock
) -> None:
    if fault == "self-signed":
        server = self_signed(tmp_path)
    else:
        certificate = {"expired": expired, "wrong authority": lambda: trustme.CA().issue_cert(HOST)}
        server = server_context(certificate[fault]() if fault else CERTIFICATE)
    ours, theirs = await attempt(client_context(version), host, server)
    assert trio.current_time() == 0
    assert ours is not None
    assert isinstance(ours.__cause__, ssl.SSLCertVerificationError)
    assert problem in ours.__cause__.verify_message
    assert problem in str(ours)
    assert theirs is not None
    assert "ALERT" in (theirs.reason or "")


async def test_a_server_that_takes_no_alert_delays_the_failure_by_half_a_second_at_most(
    autojump_clock: MockClock,
) -> None:
    ours, theirs = lockstep_stream_pair()
    peer = Peer(theirs)

    async def answer_and_read_no_more() -> None:
        peer.incoming.write(await theirs.receive_some())
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.do_handshake()
        await peer.flush()

    stream = TLSStream(ours, client_context(TLS_1_2, trust=trustme.CA()), server_hostname=HOST)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer_and_read_no_more)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.do_handshake()
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert trio.current_time() == pytest.approx(0.5)
    for call in (stream.receive_some, stream.do_handshake, lambda: stream.send_all(b"x")):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await call()
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)


@pytest.mark.parametrize(("host", "announced"), [(HOST, HOST), ("127.0.0.1", None), ("::1", None)])
async def test_a_name_is_sent_to_the_server_an_address_is_not(host: str, announced: str | None) -> None:
    server = server_context()
    seen: list[str | None] = []
    server.sni_callback = lambda tls, name, context: seen.append(name)
    client = client_context()
    client.check_hostname = False
    assert await attempt(client, host, server) == (None, None)
    assert seen == [announced]


async def test_what_the_context_says_is_honoured() -> None:
    """Neither more nor less is verified, offered or agreed on than it asks for."""
    trusting = client_context(trust=None)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    assert await attempt(trusting, "elsewhere.example", server_context()) == (None, None)

    old = server_context()
    old.maximum_version = TLS_1_2
    _, theirs = await attempt(client_context(TLS_1_3), HOST, old)
    assert theirs is not None
    assert theirs.reason == "UNSUPPORTED_PROTOCOL"

    server = server_context()
    server.set_alpn_protocols(["http/1.1"])
    client = client_context()
    client.set_alpn_protocols(["h2", "http/1.1"])
    async with by_hand(client=client, server=server) as (_, _, peer):
        assert peer.tls.selected_alpn_protocol() == "http/1.1"

    demanding = server_context()
    demanding.verify_mode = ssl.CERT_REQUIRED
    AUTHORITY.configure_trust(demanding)
    assert any(await attempt(client_context(), HOST, demanding))
    client = client_context()
    AUTHORITY.issue_cert("a-client.example").configure_cert(client)
    assert await attempt(client, HOST, demanding) == (None, None)


async def test_a_name_that_cannot_be_one_is_refused_before_anything_is_sent() -> None:
    ours, _ = memory_stream_pair()
    with pytest.raises(ValueError, match="server_hostname"):
        TLSStream(ours, client_context(), server_hostname="")


async def test_over_the_network_a_failed_handshake_leaves_no_socket_behind() -> None:
    left = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, server_context(), server_side=True)
        with pytest.raises(trio.BrokenResourceError):
            await receive_all(secured)
        await trio.aclose_forcefully(secured)
        left.set()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            port = listeners[0].socket.getsockname()[1]
            with pytest.raises(trio.BrokenResourceError) as caught:
                await RealNetwork().open_stream("127.0.0.1", port, client_context(trust=trustme.CA()))
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
            await left.wait()
            nursery.cancel_scope.cancel()


async def test_over_the_network_a_cancelled_handshake_leaves_no_socket_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[trio.SocketStream] = []
    open_tcp_stream = trio.open_tcp_stream

    async def noting(*arguments: Any) -> trio.SocketStream:
        opened.append(await open_tcp_stream(*arguments))
        return opened[0]

    monkeypatch.setattr(trio, "open_tcp_stream", noting)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def serve(stream: trio.SocketStream) -> None:
                await stream.receive_some(1)  # the hello has come, and is not answered
                scope.cancel()

            listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
            with scope:
                await RealNetwork().open_stream("127.0.0.1", listeners[0].socket.getsockname()[1], client_context())
            assert scope.cancelled_caught
            assert opened[0].socket.fileno() == -1
            nursery.cancel_scope.cancel()


# -- whom the default context trusts ----------------------------------------------------------------------------------

TRUSTED = """
import ssl, sys
from kufeed._tls import default_context

def trusted(client, certificate):
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (client.wrap_bio(back, there, server_hostname="{host}"), server.wrap_bio(there, back, server_side=True))
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError:
                return False
    return True

context = {context}
print(trusted(context, sys.argv[1]), getattr(context, "keylog_filename", None))
"""


def says(context: str, directory: Path, **environment: str) -> tuple[bool, str]:
    """Whether a fresh interpreter with *environment* trusts our authority by *context*, and where keys are logged."""
    certificate = directory / "server.pem"
    CERTIFICATE.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SSL")}
    result = subprocess.run(
        [sys.executable, "-c", TRUSTED.format(host=HOST, context=context), str(certificate)],
        env=clean | {"PYTHONPATH": str(Path(kufeed.__file__).parents[1])} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    trusted, keylog = result.stdout.split()
    return trusted == "True", keylog


@pytest.fixture(params=["SSL_CERT_FILE", "SSL_CERT_DIR"])
def authority_in_environment(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    bundle = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(bundle))
    if request.param == "SSL_CERT_FILE":
        return {request.param: str(bundle)}
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command names the files of such a directory")
    command = [openssl, "x509", "-noout", "-subject_hash", "-in", str(bundle)]
    name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "authorities").mkdir()
    AUTHORITY.cert_pem.write_to_path(str(tmp_path / "authorities" / f"{name}.0"))
    return {request.param: str(tmp_path / "authorities")}


def test_the_environment_has_a_say_only_where_it_was_asked(
    authority_in_environment: dict[str, str], tmp_path: Path
) -> None:
    """The standard library's own context, by contrast, looks into it silently."""
    keys = str(tmp_path / "keys")
    environment = authority_in_environment | {"SSLKEYLOGFILE": keys}
    assert says("ssl.create_default_context()", tmp_path, **environment) == (True, keys)
    assert says("default_context(trust_env=True)", tmp_path, **environment) == (True, keys)
    assert says("default_context(trust_env=False)", tmp_path, **environment) == (False, "None")
    assert says("default_context(trust_env=True)", tmp_path) == (False, "None")


@pytest.mark.parametrize("place", ["openssl_cafile", "openssl_capath"])
@pytest.mark.parametrize("authority_in_environment", ["SSL_CERT_DIR"], indirect=True)
def test_without_it_the_places_that_openssl_was_built_with_count(
    place: str, authority_in_environment: dict[str, str], tmp_path: Path
) -> None:
    """They belong to the system, so a stand-in for the standard library's answer names others."""
    (directory,) = authority_in_environment.values()
    paths = {"openssl_cafile": str(tmp_path / "missing.pem"), "openssl_capath": str(tmp_path / "missing")}
    paths[place] = directory if place == "openssl_capath" else str(next(Path(directory).iterdir()))
    patched = "[setattr(ssl, 'get_default_verify_paths', lambda: {}), default_context(trust_env=False)][1]"
    answer = f"ssl.DefaultVerifyPaths(None, None, 'SSL_CERT_FILE', {paths['openssl_cafile']!r}, 'SSL_CERT_DIR', "
    assert says(patched.format(answer + f"{paths['openssl_capath']!r})"), tmp_path) == (True, "None")


def test_it_verifies_as_the_standard_librarys() -> None:
    ours, standard = default_context(trust_env=False), ssl.create_default_context()
    for setting in ("verify_mode", "verify_flags", "check_hostname", "options", "minimum_version", "maximum_version"):
        assert getattr(ours, setting) == getattr(standard, setting), setting
    assert ours.get_ciphers() == standard.get_ciphers()


def test_a_variable_that_names_nothing_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    default_context(trust_env=False)
    assert not caplog.records
    default_context(trust_env=True)
    assert [record.message for record in caplog.records] == [
        f"SSL_CERT_FILE names {tmp_path / 'missing.pem'}, which does not exist"
    ]


# -- a stream like any other ------------------------------------------------------------------------------------------


@VERSIONS
async def test_it_behaves_as_trio_demands_of_a_stream(version: ssl.TLSVersion) -> None:
    """Trio's own suite, both ways, with `trio.SSLStream` as the other end: order, duplex, busy, broken, closed."""

    async def clogged() -> tuple[TLSStream, trio.SSLStream[Any]]:
        return await with_trio_as_server(version, lockstep=True)

    await check_two_way_stream(lambda: with_trio_as_server(version), clogged)


@VERSIONS
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=300), st.integers(50, 50_000))
def test_cuts_of_the_network_change_nothing(version: ssl.TLSVersion, sizes: list[int], max_bytes: int) -> None:
    async def main() -> None:
        client, server = await with_trio_as_server(version, sizes=sizes)

        async def echo() -> None:
            await server.send_all(await receive_exactly(server, len(SEVERAL_RECORDS)))
            await server.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            nursery.start_soon(client.send_all, SEVERAL_RECORDS)
            assert await receive_all(client, max_bytes) == SEVERAL_RECORDS
        assert not client.truncated
        await client.aclose()

    trio.run(main)


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive_some(size - len(data))
    return data


@VERSIONS
async def test_a_transport_that_gives_one_byte_a_read_changes_nothing(version: ssl.TLSVersion) -> None:
    client, server = await with_trio_as_server(version, sizes=itertools.repeat(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"hello")
        assert await receive_exactly(server, 5) == b"hello"
        nursery.start_soon(server.send_all, SEVERAL_RECORDS[:20_000])
        assert await receive_exactly(client, 20_000) == SEVERAL_RECORDS[:20_000]
        nursery.start_soon(server.aclose)
        assert await client.receive_some() == b""
    await client.aclose()


@VERSIONS
async def test_two_pieces_cut_at_every_byte(version: ssl.TLSVersion) -> None:
    """A tiny record, one of a message's size, two of nothing much, an end: cut everywhere into two."""
    payloads = (b"1", b"m" * 350, b"2", b"3")
    async with by_hand(version) as (stream, transport, peer):
        for cut in itertools.count():
            sent = peer.records(*payloads)
            if cut == len(sent):
                break
            transport.sizes = itertools.chain([cut] if cut else [], itertools.repeat(1 << 20))
            await peer.stream.send_all(sent)
            assert await receive_exactly(stream, 353) == b"".join(payloads)


# -- batches ----------------------------------------------------------------------------------------------------------


@VERSIONS
async def test_all_records_of_one_read_come_out_of_one_call(version: ssl.TLSVersion) -> None:
    async with by_hand(version) as (stream, transport, peer):
        payloads = [number.to_bytes(350, "big") for number in range(170)]
        await peer.stream.send_all(peer.records(*payloads))
        assert await stream.receive_some() == b"".join(payloads)
        assert transport.reads == 1


@VERSIONS
async def test_what_max_bytes_leaves_comes_without_another_read(version: ssl.TLSVersion) -> None:
    async with by_hand(version) as (stream, transport, peer):
        await peer.stream.send_all(peer.records(b"abc", b"defg", b"h", b"ijklmn"))
        parts = [await stream.receive_some(4) for _ in range(4)]
        assert parts == [b"abcd", b"efgh", b"ijkl", b"mn"]
        assert transport.reads == 1
        with trio.testing.assert_checkpoints():
            await peer.stream.send_all(peer.records(b"xy"))
        for expected in (b"x", b"y"):
            with trio.testing.assert_checkpoints():
                assert await stream.receive_some(1) == expected


@VERSIONS
async def test_a_slow_consumer_holds_the_peer_not_the_data(version: ssl.TLSVersion) -> None:
    """One read and one record: nothing is read ahead of what has been handed out."""
    async with by_hand(version) as (stream, transport, peer):
        sent = peer.records(*[b"x" * 16_384] * 100)
        await peer.stream.send_all(sent)
        received = 0
        while received < 1_638_400:
            received += len(await stream.receive_some(1000))
            assert transport.bytes_read - received < 65_536 + 17_000
        assert transport.bytes_read == len(sent)


async def test_what_is_sent_leaves_in_one_piece() -> None:
    async with by_hand() as (stream, transport, peer):
        await stream.send_all(SEVERAL_RECORDS)
        assert transport.sends == 1
        assert await peer.receive() == SEVERAL_RECORDS
        await stream.send_all(memoryview(b"view"))
        await stream.send_all(bytearray())
        assert await peer.receive() == b"view"


# -- the end ----------------------------------------------------------------------------------------------------------


@VERSIONS
async def test_a_close_notify_is_the_end_and_it_is_complete(version: ssl.TLSVersion) -> None:
    async with by_hand(version) as (stream, transport, peer):
        await peer.stream.send_all(peer.records(b"last") + peer.close_notify() + b"not TLS at all")
        assert await stream.receive_some() == b"last"
        for _ in range(2):
            with trio.testing.assert_checkpoints():
                assert await stream.receive_some() == b""
        assert not stream.truncated
        assert transport.reads == 1
        await stream.send_all(b"still here")
        assert await peer.receive() == b"still here"


@VERSIONS
async def test_an_end_without_close_notify_is_an_end_too_and_known_wherever_it_falls(version: ssl.TLSVersion) -> None:
    async with by_hand(version) as (_, _, peer):
        length = len(peer.records(b"one", b"two"))
    for cut in range(0, length + 1, 3):
        async with by_hand(version) as (stream, _, peer):
            await peer.stream.send_all(peer.records(b"one", b"two")[:cut])
            await peer.stream.aclose()
            data = await receive_all(stream)
            assert data in (b"", b"one", b"onetwo")
            assert (data == b"onetwo") == (cut == length)
            assert stream.truncated
            assert await stream.receive_some() == b""


@VERSIONS
async def test_what_is_not_tls_breaks_the_stream_after_all_that_was(version: ssl.TLSVersion) -> None:
    async with by_hand(version) as (stream, _, peer):
        good, bad = peer.records(b"good"), bytearray(peer.records(b"bad"))
        bad[-1] ^= 1
        await peer.stream.send_all(good + bad + peer.records(b"good again"))
        assert await stream.receive_some() == b"good"
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="BAD_RECORD_MAC") as caught:
                await stream.receive_some()
            assert isinstance(caught.value.__cause__, ssl.SSLError)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
        with pytest.raises(ssl.SSLError, match=r"(?i)alert bad record mac"):
            await peer.receive()
        await stream.aclose()


async def test_a_transport_that_breaks_passes_its_error_on() -> None:
    async with by_hand() as (stream, _, peer):
        await peer.stream.send_all(peer.records(b"before"))
        assert await stream.receive_some() == b"before"
        await trio.aclose_forcefully(peer.stream)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await stream.wait_send_all_might_not_block()
        assert await stream.receive_some() == b""
        await stream.aclose()


@VERSIONS
def test_a_peer_that_vanishes_anywhere_in_the_handshake_is_noticed_with_a_cause(version: ssl.TLSVersion) -> None:
    """The server's answer ends after each number of bytes in turn."""

    async def answer_of(limit: int, *sizes: int) -> tuple[trio.BrokenResourceError | None, int]:
        ours, theirs = memory_stream_pair()

        async def serve() -> None:
            peer, left = Peer(theirs), limit
            while data := await theirs.receive_some():
                peer.incoming.write(data)
                with contextlib.suppress(ssl.SSLWantReadError):
                    peer.tls.do_handshake()
                answer = peer.outgoing.read()[:left]
                left -= len(answer)
                await theirs.send_all(answer)
                if not left:
                    break
            await theirs.aclose()

        transport = Watched(ours, sizes)
        stream = TLSStream(transport, client_context(version), server_hostname=HOST)
        error = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            try:
                await stream.do_handshake()
            except trio.BrokenResourceError as caught:
                error = caught
            await stream.aclose()
        return error, transport.bytes_read

    async def main() -> None:
        error, length = await answer_of(1 << 20, *[1] * 10_000)
        assert error is None
        for limit in range(0, length - 10, 3):  # the length of a signature differs by some bytes
            error, _ = await answer_of(limit)
            assert error is not None
            # Where exactly its first flight was left, the client's answer is what fails.
            assert isinstance(error.__cause__, ssl.SSLError) or "closed" in str(error), limit

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_garbage_in_the_handshake_has_its_cause() -> None:
    ours, theirs = memory_stream_pair()
    await theirs.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(trio.BrokenResourceError, match="WRONG_VERSION_NUMBER") as caught:
        await TLSStream(ours, client_context(), server_hostname=HOST).do_handshake()
    assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_a_handshake_waits_as_long_as_its_caller(autojump_clock: MockClock) -> None:
    ours, _theirs = memory_stream_pair()
    stream = TLSStream(ours, client_context(), server_hostname=HOST)
    with trio.move_on_after(1000):
        await stream.do_handshake()
    assert trio.current_time() == 1000
    with pytest.raises(trio.BrokenResourceError):
        await stream.do_handshake()
    await stream.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await stream.do_handshake()


async def test_nothing_goes_before_the_handshake_and_a_second_one_does_nothing() -> None:
    ours, theirs = memory_stream_pair()
    stream, peer = TLSStream(ours, client_context(), server_hostname=HOST), Peer(theirs)
    with pytest.raises(trio.NeedHandshakeError):
        await stream.receive_some()
    with pytest.raises(trio.NeedHandshakeError):
        await stream.send_all(b"x")
    assert repr(stream) == f"<TLSStream to {HOST}: before the handshake>"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.do_handshake)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await stream.do_handshake()
        nursery.start_soon(peer.shake_hands)
    with trio.testing.assert_checkpoints():
        await stream.do_handshake()
    assert repr(stream) == f"<TLSStream to {HOST}: TLSv1.3>"
    await stream.aclose()
    assert repr(stream) == f"<TLSStream to {HOST}: closed>"


# -- closing ----------------------------------------------------------------------------------------------------------


@VERSIONS
async def test_closing_tells_the_peer_and_does_not_wait_for_its_answer(
    version: ssl.TLSVersion, autojump_clock: MockClock
) -> None:
    client, server = await with_trio_as_server(version)
    await server.send_all(b"never received")
    await client.send_all(b"last")
    await client.aclose()
    await client.aclose()
    assert trio.current_time() == 0
    assert await receive_all(server) == b"last"  # which raises where there is no close_notify


async def test_closing_ends_whoever_waits_and_no_peer_can_hold_it(autojump_clock: MockClock) -> None:
    client, _server = await with_trio_as_server(lockstep=True)

    async def expect_closed(call: Any, *arguments: Any) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await call(*arguments)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, client.send_all, b"nobody reads this")
        nursery.start_soon(expect_closed, client.receive_some)
        await wait_all_tasks_blocked()
        await client.aclose()
    assert trio.current_time() == 0


async def test_a_peer_that_takes_no_close_notify_delays_the_close_by_half_a_second_at_most(
    autojump_clock: MockClock,
) -> None:
    client, server = await with_trio_as_server(lockstep=True)
    await client.aclose()
    assert trio.current_time() == pytest.approx(0.5)
    await trio.aclose_forcefully(server)


async def test_a_forceful_close_during_a_polite_one_ends_both_at_once(autojump_clock: MockClock) -> None:
    client, server = await with_trio_as_server(lockstep=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.aclose)
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(client)
        with pytest.raises(trio.BrokenResourceError):
            await server.send_all(b"x")
    assert trio.current_time() == 0


# -- half-close -------------------------------------------------------------------------------------------------------


@VERSIONS
async def test_after_send_eof_the_rest_can_still_be_received(version: ssl.TLSVersion) -> None:
    client, server = await with_trio_as_server(version)
    await client.send_all(b"question")
    with trio.testing.assert_checkpoints():
        await client.send_eof()
    await client.send_eof()
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"more")
    assert await receive_all(server) == b"question"
    await server.send_all(SEVERAL_RECORDS)
    await server.aclose()
    assert await receive_all(client) == SEVERAL_RECORDS
    assert not client.truncated
    await client.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await client.send_eof()


@VERSIONS
async def test_send_eof_loses_nothing_that_has_come_in_whatever_its_state(version: ssl.TLSVersion) -> None:
    """Half of a record handed out, records that have not been opened, and one of which only a part is there."""
    payloads = (b"abcdefgh", b"second", b"third")
    for cut in range(0, 40, 3):
        async with by_hand(version) as (stream, transport, peer):
            sent = peer.records(*payloads)
            transport.sizes = itertools.chain([len(sent) - cut], transport.sizes)
            await peer.stream.send_all(sent)
            assert await stream.receive_some(3) == b"abc"
            await stream.send_eof()
            assert await stream.receive_some(2) == b"de"
            await peer.stream.send_all(peer.records(b"fourth") + peer.close_notify())
            assert await receive_all(stream) == b"fghsecondthirdfourth"
            assert not stream.truncated


# -- cancellation -----------------------------------------------------------------------------------------------------


@VERSIONS
def test_a_receive_cancelled_anywhere_loses_nothing(version: ssl.TLSVersion) -> None:
    """Every call is cancelled after some number of task steps; what comes out is what was sent."""

    class CancelAfter(trio.abc.Instrument):
        def __init__(self) -> None:
            self.left, self.scope = -1, trio.CancelScope()

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()

    async def main(steps: int) -> int:
        canceller = CancelAfter()
        sizes = (1 + number * 37 % 500 for number in itertools.count())
        client, server = await with_trio_as_server(version, sizes=sizes)
        data, cancelled, closed = b"", 0, False
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for start in range(0, 4000, 100):
                    await server.send_all(SEVERAL_RECORDS[start : start + 100])
                await server.aclose()

            nursery.start_soon(send)
            trio.lowlevel.add_instrument(canceller)
            while not closed:
                before = len(data)
                with trio.CancelScope() as canceller.scope:
                    canceller.left = steps
                    data += await client.receive_some(60)
                    closed = len(data) == before
                cancelled += canceller.scope.cancelled_caught
                if canceller.scope.cancelled_caught:
                    await trio.lowlevel.checkpoint()
                    with trio.CancelScope():
                        canceller.left = -1
                        part = await client.receive_some(60)
                        closed = not part
                        data += part
            trio.lowlevel.remove_instrument(canceller)
        assert data == SEVERAL_RECORDS[:4000]
        await client.aclose()
        return cancelled

    assert sum(trio.run(main, steps) for steps in range(1, 12)) > 20


async def test_a_send_cut_short_ends_sending_alone() -> None:
    client, server = await with_trio_as_server(lockstep=True)
    with trio.move_on_after(0.01) as scope:
        await client.send_all(b"nobody reads this")
    assert scope.cancelled_caught
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"more")
    with pytest.raises(trio.BrokenResourceError):
        await client.send_eof()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, b"answer")
        assert await receive_exactly(client, 6) == b"answer"
    await client.aclose()
    await trio.aclose_forcefully(server)


# -- a receiver that has to answer ------------------------------------------------------------------------------------


@asynccontextmanager
async def asked_for_a_certificate() -> AsyncIterator[tuple[TLSStream, Watched, Peer]]:
    """TLS 1.3 lets a server ask for the client's certificate long after the handshake, if the client has agreed."""
    client, server = client_context(TLS_1_3), server_context()
    client.post_handshake_auth = True
    AUTHORITY.issue_cert("a-client.example").configure_cert(client)
    AUTHORITY.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    server.post_handshake_auth = True
    async with by_hand(client=client, server=server) as (stream, transport, peer):
        peer.tls.verify_client_post_handshake()
        yield stream, transport, peer


async def test_a_receiver_answers_by_itself() -> None:
    async with asked_for_a_certificate() as (stream, _, peer):
        await peer.stream.send_all(peer.records(b"who are you?"))
        async with trio.open_nursery() as nursery:
            assert await stream.receive_some() == b"who are you?"
            nursery.start_soon(stream.receive_some)
            await wait_all_tasks_blocked()
            assert await peer.receive() == b""
            assert peer.tls.getpeercert()
            nursery.cancel_scope.cancel()


class Stuck(Watched):
    """A transport that takes nothing before its gate is open, and one call at a time."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        super().__init__(stream)
        self.gate = trio.Event()
        self.busy = False

    async def wait_send_all_might_not_block(self) -> None:
        if self.busy:
            raise trio.BusyResourceError
        self.busy = True
        try:
            await self.gate.wait()
        finally:
            self.busy = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.wait_send_all_might_not_block()
        await super().send_all(data)


@asynccontextmanager
async def receiving_while_stuck() -> AsyncIterator[tuple[TLSStream, Stuck, Peer, list[bytes], trio.Nursery]]:
    async with asked_for_a_certificate() as (stream, transport, peer), trio.open_nursery() as nursery:
        stream._transport = stuck = Stuck(transport.stream)
        received: list[bytes] = []

        async def receive() -> None:
            while True:
                received.append(await stream.receive_some())

        nursery.start_soon(receive)
        yield stream, stuck, peer, received, nursery
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("sending", [True, False])
async def test_a_receiver_that_has_to_answer_does_not_wait_for_a_stuck_sender(sending: bool) -> None:
    """The sender, once it can, sends the answer along; neither cuts into the other."""
    async with receiving_while_stuck() as (stream, stuck, peer, received, nursery):
        if sending:
            nursery.start_soon(stream.send_all, b"stuck")
        else:
            nursery.start_soon(stream.wait_send_all_might_not_block)
        for question in (b"who are you?", b"and more"):
            await wait_all_tasks_blocked()
            await peer.stream.send_all(peer.records(question))
        await wait_all_tasks_blocked()
        assert received == [b"who are you?", b"and more"]
        stuck.gate.set()
        assert await peer.receive() == (b"stuck" if sending else b"")
        assert peer.tls.getpeercert()


async def test_a_sender_that_gives_up_behind_a_stuck_answer_has_ended_sending() -> None:
    """What it has encrypted is the next record in the order, and can be neither taken back nor left out."""
    async with receiving_while_stuck() as (stream, stuck, peer, received, _):
        await peer.stream.send_all(peer.records(b"who are you?"))
        await wait_all_tasks_blocked()
        assert received == [b"who are you?"]
        with trio.move_on_after(0.01) as scope:
            await stream.send_all(b"too late")
        assert scope.cancelled_caught
        stuck.gate.set()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"more")


async def test_a_receiver_cancelled_before_its_answer_is_taken_gives_it_later() -> None:
    async with asked_for_a_certificate() as (stream, transport, peer):
        stream._transport = stuck = Stuck(transport.stream)
        await peer.stream.send_all(peer.records(b"who are you?"))
        assert await stream.receive_some() == b"who are you?"
        with trio.move_on_after(0.01) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
        stuck.gate.set()
        await stream.send_all(b"me")
        assert await peer.receive() == b"me"
        assert peer.tls.getpeercert()


class Throttled(Watched):
    """A transport that says it takes data, and then is long about it."""

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data[:10])
        await trio.sleep_forever()


async def test_a_receiver_cancelled_while_its_answer_is_taken_has_ended_sending() -> None:
    """Nobody knows how much of the record has left: what would come after it is not sent, by whomever it waits."""
    async with asked_for_a_certificate() as (stream, transport, peer), trio.open_nursery() as nursery:
        stream._transport = Throttled(transport.stream)
        await peer.stream.send_all(peer.records(b"who are you?"))
        assert await stream.receive_some() == b"who are you?"

        async def send() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(b"behind the answer")

        async with trio.open_nursery() as receiver:
            receiver.start_soon(stream.receive_some)
            await wait_all_tasks_blocked()
            nursery.start_soon(send)
            await wait_all_tasks_blocked()
            receiver.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        await peer.stream.send_all(peer.records(b"all the same"))
        assert await stream.receive_some() == b"all the same"
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"more")
        await trio.aclose_forcefully(stream)
        assert len(await receive_all(peer.stream)) == 10


class KeyUpdates:
    """The server's sending side of TLS 1.3 by hand (RFC 8446, sections 5.2 and 7.2), from its key log."""

    def __init__(self, key_log: str) -> None:
        (secret,) = re.findall(r"^SERVER_TRAFFIC_SECRET_0 \S+ (\S+)$", key_log, re.MULTILINE)
        self.change_keys(bytes.fromhex(secret))
        self.number = 1  # the first record has been sent by `by_hand()`

    def change_keys(self, secret: bytes) -> None:
        self.secret, self.number = secret, 0
        self.key, self.iv = AESGCM(self.derive(b"key", 32)), self.derive(b"iv", 12)

    def derive(self, label: bytes, size: int) -> bytes:
        info = struct.pack("!HB", size, 6 + len(label)) + b"tls13 " + label + b"\0"
        return HKDFExpand(hashes.SHA384(), size, info).derive(self.secret)

    def record(self, payload: bytes, kind: int) -> bytes:
        head = struct.pack("!BHH", 23, 0x303, len(payload) + 17)
        nonce = (int.from_bytes(self.iv, "big") ^ self.number).to_bytes(12, "big")
        self.number += 1
        return head + self.key.encrypt(nonce, payload + bytes([kind]), head)

    def ask(self, times: int) -> bytes:
        """So many requests to change keys, each to be answered by 27 bytes."""
        asked = b""
        for _ in range(times):
            asked += self.record(b"\x18\0\0\1\1", 22)
            self.change_keys(self.derive(b"traffic upd", 48))
        return asked


@pytest.mark.parametrize("broken", [False, True], ids=["a stuck sender", "a sender that was cut short"])
async def test_what_a_peer_asks_for_without_reading_does_not_pile_up(tmp_path: Path, broken: bool) -> None:
    log = tmp_path / "keys"
    server = server_context()
    server.num_tickets, server.keylog_filename = 0, str(log)
    async with by_hand(TLS_1_3, server=server) as (stream, transport, peer), trio.open_nursery() as nursery:
        keys = KeyUpdates(log.read_text())
        stream._transport = stuck = Stuck(transport.stream)
        received: list[bytes] = []

        async def receive() -> None:
            while True:
                received.append(await stream.receive_some())

        if broken:
            with trio.move_on_after(0.01):
                await stream.send_all(b"ping")
        else:
            nursery.start_soon(stream.send_all, b"ping")
            await wait_all_tasks_blocked()
        nursery.start_soon(receive)
        for _ in range(10):
            await peer.stream.send_all(keys.ask(2000))
            await wait_all_tasks_blocked()
            assert stream._outgoing.pending < 3 * 65_536
        assert stuck.bytes_read < 4 * 65_536 or broken
        await peer.stream.send_all(keys.record(b"data", 23))
        stuck.gate.set()
        await wait_all_tasks_blocked()
        assert received == [b"data"]
        assert stream._outgoing.pending == 0
        nursery.cancel_scope.cancel()


async def open_s_server(version: str, directory: Path) -> tuple[trio.Process, int]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("only the openssl command lets a test ask for this")
    CERTIFICATE.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
    command = [openssl, "s_server", "-accept", "127.0.0.1:0", "-cert", str(directory / "server.pem"), version]
    process = await trio.lowlevel.open_process(
        [*command, "-naccept", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    banner = await told(process, b"ACCEPT 127.0.0.1:")
    while not banner.endswith(b"\n"):
        banner += await process.stdout.receive_some(1)  # type: ignore[union-attr]
    return process, int(banner.rpartition(b":")[2])


async def told(process: trio.Process, words: bytes) -> bytes:
    assert process.stdout is not None
    output = b""
    while not output.endswith(words):
        letter = await process.stdout.receive_some(1)
        assert letter, output
        output += letter
    return output


@asynccontextmanager
async def renegotiating(directory: Path) -> AsyncIterator[tuple[TLSStream, trio.Process, trio.Event, trio.abc.Stream]]:
    """TLS 1.2 over a network that holds what we send: our answer to a renegotiation is on its way, and data come.

    The stream, OpenSSL's own server, the event that lets go, and the end from which the stream is fed. "two" has come.
    """
    process, port = await open_s_server("-tls1_2", directory)
    assert process.stdin is not None
    ours, theirs = memory_stream_pair()
    let_go, asked, come = trio.Event(), trio.Event(), trio.Event()
    let_go.set()

    async def up(server: trio.abc.Stream) -> None:
        while data := await theirs.receive_some():
            asked.set()
            await let_go.wait()
            await server.send_all(data)

    async def down(server: trio.abc.Stream) -> None:
        while data := await server.receive_some():
            await theirs.send_all(data)
            come.set()

    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(up, server)
            nursery.start_soon(down, server)
            stream = TLSStream(ours, client_context(), server_hostname="127.0.0.1")
            await stream.do_handshake()
            await process.stdin.send_all(b"one\n")
            assert await stream.receive_some() == b"one\n"
            let_go, asked = trio.Event(), trio.Event()
            await process.stdin.send_all(b"r\n")
            async with trio.open_nursery() as inner:
                inner.start_soon(stream.receive_some)
                await asked.wait()
                inner.cancel_scope.cancel()
            come = trio.Event()
            await process.stdin.send_all(b"two\n")
            await come.wait()
            yield stream, process, let_go, theirs
            nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.move_on_after(5, shield=True):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()  # type: ignore[union-attr]


@pytest.mark.parametrize("read_before", [False, True])
async def test_data_that_come_in_a_renegotiation_are_kept_for_whoever_receives(
    tmp_path: Path, read_before: bool
) -> None:
    with trio.fail_after(20):
        async with renegotiating(tmp_path) as (stream, process, let_go, _), trio.open_nursery() as nursery:
            if read_before:  # and not decrypted yet
                stream._incoming.write(await stream._transport.receive_some())
            nursery.start_soon(stream.send_all, b"hello\n")
            await wait_all_tasks_blocked()
            let_go.set()
            await told(process, b"hello\n")
            assert await stream.receive_some() == b"two\n"


async def test_what_breaks_in_a_renegotiation_is_remembered(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with renegotiating(tmp_path) as (stream, _, _, theirs):
            await theirs.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            with pytest.raises(trio.BrokenResourceError) as sending:
                await stream.send_all(b"hello\n")
            assert isinstance(sending.value.__cause__, ssl.SSLError)
            assert await stream.receive_some() == b"two\n"
            for _ in range(2):
                with pytest.raises(trio.BrokenResourceError) as receiving:
                    await stream.receive_some()
                assert receiving.value.__cause__ is sending.value.__cause__


async def test_the_failure_of_a_send_is_what_a_receiver_is_told() -> None:
    """Not what OpenSSL says when it is asked again. No peer is known to cause this: hence the stand-in."""

    class Failing:
        def __init__(self, inner: ssl.SSLObject) -> None:
            self.inner = inner

        def write(self, data: bytes) -> int:
            raise ssl.SSLError("cannot write")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    async with by_hand() as (stream, _, peer):
        await peer.stream.send_all(peer.records(b"never decrypted"))
        stream._ssl = Failing(stream._ssl)  # type: ignore[assignment]
        for call in (partial(stream.send_all, b"x"), stream.receive_some, stream.receive_some):
            with pytest.raises(trio.BrokenResourceError, match="cannot write"):
                await call()


async def test_data_that_do_not_end_in_a_renegotiation_are_not_kept_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kufeed._tls._MOST_SPARE", 3)
    with trio.fail_after(20):
        async with renegotiating(tmp_path) as (stream, _, _, _):
            with pytest.raises(trio.BrokenResourceError, match="goes on sending"):
                await stream.send_all(b"hello\n")
            assert await stream.receive_some() == b"two\n"


@pytest.mark.parametrize(
    ("version", "command"),
    [("-tls1_3", b"k\n"), ("-tls1_3", b"K\n"), ("-tls1_2", b"r\n")],
    ids=["key update", "key update, to be answered", "renegotiation"],
)
async def test_new_keys_in_the_middle(version: str, command: bytes, tmp_path: Path) -> None:
    """As OpenSSL's own server does it on request: Python's `ssl` lets no peer ask for either."""
    with trio.fail_after(20):
        process, port = await open_s_server(version, tmp_path)
        assert process.stdin is not None
        received = bytearray()
        try:
            transport = Watched(await trio.open_tcp_stream("127.0.0.1", port))
            async with TLSStream(transport, client_context(), server_hostname="127.0.0.1") as stream:
                await stream.do_handshake()

                async def receive() -> None:
                    while data := await stream.receive_some():
                        received.extend(data)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive)
                    for number in range(20):
                        await process.stdin.send_all(b"before %d\n" % number)
                        while not received.endswith(b"before %d\n" % number):
                            await transport.moved.wait()
                            await wait_all_tasks_blocked()
                        await process.stdin.send_all(command)
                        await transport.moved.wait()
                        await stream.send_all(b"answer %d\n" % number)
                        await told(process, b"answer %d\n" % number)
                    nursery.cancel_scope.cancel()
        finally:
            process.kill()
            with trio.move_on_after(5, shield=True):
                await process.wait()
                await process.stdin.aclose()
                await process.stdout.aclose()  # type: ignore[union-attr]
