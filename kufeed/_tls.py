"""TLS over any Trio stream, for clients: what one read of the network brought is decrypted and handed out as one batch.

`trio.SSLStream` returns one record from each call, and an exchange sends a record per message: every message then costs
a pass of the scheduler. Here everything that is there comes out at once. Nothing that has not been handed out is
decrypted in advance, save in a renegotiation, where it is in the way; and nothing is read before all that came earlier
has been handed out: a slow consumer costs one read and one record of memory, and then holds the peer.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import ssl
import sys
from typing import TYPE_CHECKING, NoReturn, final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

_READ_SIZE = 65_536
"""Bytes asked of the transport at once."""
_LONGEST_RECORD = 16_384
"""Plain bytes in one record (RFC 8446, section 5.1): OpenSSL never returns more from one read."""
_MOST_UNSENT = 65_536
"""Bytes of TLS's own answers that may wait behind a stuck sender before nothing more is read."""
_MOST_SPARE = 1 << 20
"""Bytes that a sender keeps for a receiver in a renegotiation: what a network may hold, and more."""
_FAREWELL_TIME = 0.5
"""How long a close or a failure may wait for its alert to be taken by the transport; it is 31 bytes at most."""

_log = logging.getLogger("kufeed.tls")


def default_context(trust_env: bool) -> ssl.SSLContext:
    """A context that verifies the server as `ssl.create_default_context()` does, by this machine's authorities.

    With *trust_env* it is exactly that one, and so follows `SSL_CERT_FILE`, `SSL_CERT_DIR` and `SSLKEYLOGFILE`; a
    variable that names nothing is warned about, since OpenSSL passes over it in silence. Without, the
    environment has no say: neither in whom to trust nor in where to write the session's keys.
    """
    if trust_env:
        _warn_of_missing("SSL_CERT_FILE", "SSL_CERT_DIR")
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if sys.platform == "win32":
        for store in ("CA", "ROOT"):
            for certificate, encoding, purposes in ssl.enum_certificates(store):
                if encoding == "x509_asn" and (
                    purposes is True or (purposes and ssl.Purpose.SERVER_AUTH.oid in purposes)
                ):
                    with contextlib.suppress(ssl.SSLError):
                        context.load_verify_locations(cadata=certificate)
    # Not `load_default_certs()`, nor `set_default_verify_paths()`: OpenSSL itself looks into the environment there. The
    # paths that it was built with are the ones it uses where the environment is silent. As there, one that is missing
    # or broken is passed over: then nobody is trusted, and each handshake says so.
    paths = ssl.get_default_verify_paths()
    for place in ({"cafile": paths.openssl_cafile}, {"capath": paths.openssl_capath}):
        with contextlib.suppress(OSError):
            context.load_verify_locations(**place)
    return context


def _warn_of_missing(*names: str) -> None:
    for name in names:
        if (path := os.environ.get(name)) and not os.path.exists(path):
            _log.warning("%s names %s, which does not exist", name, path)


class _OneAtATime:
    """What one task may do at a time; a second one gets `trio.BusyResourceError`."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._taken = False

    def __enter__(self) -> None:
        if self._taken:
            raise trio.BusyResourceError(f"another task is {self._doing} this TLSStream")
        self._taken = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._taken = False


@final
class TLSStream(trio.abc.HalfCloseableStream):
    """The client's side of TLS 1.2 or 1.3 over *transport*, with everything *context* says honoured.

    The server is verified as *server_hostname*, a name or an IP address; a name is also sent to it (SNI). Call
    `do_handshake()` first: anything else before raises `trio.NeedHandshakeError`. One task may send while another one
    receives. The constructor raises what the `ssl` module raises for a name that cannot be one (`ValueError`); the
    transport then still is the caller's.
    """

    def __init__(self, transport: trio.abc.Stream, context: ssl.SSLContext, *, server_hostname: str) -> None:
        self._transport = transport
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._sending = _OneAtATime("sending on")
        self._receiving = _OneAtATime("receiving from")
        self._send_lock = trio.Lock()  # of the transport: a receiver has to answer a renegotiation
        self._read_done: trio.Event | None = None  # of the task that reads from the transport
        self._spare = b""  # decrypted, and not handed out; only by `send_eof()` and in a renegotiation
        self._secured = False
        self._failure: ssl.SSLError | None = None
        self._broken = False
        self._send_broken = False
        self._eof_sent = False
        self._transport_ended = False
        self._ended = False
        self._truncated = False
        self._closed = False

    @property
    def truncated(self) -> bool:
        """Whether the bytes ended without the peer's close_notify; known once `receive_some()` has returned `b""`."""
        return self._truncated

    def __repr__(self) -> str:
        state = (
            "closed"
            if self._closed
            else "broken"
            if self._broken
            else "before the handshake"
            if not self._secured
            else f"{self._ssl.version()}{', truncated' if self._truncated else ', ended' if self._ended else ''}"
        )
        return f"<TLSStream to {self._ssl.server_hostname}: {state}>"

    # -- handshake ----------------------------------------------------------------------------------------------------

    async def do_handshake(self) -> None:
        """Agree on keys and verify the server; returns when both are done, at once when they were done before.

        There is no time-out: put it into a cancel scope. Raises `trio.BrokenResourceError`: with the `ssl.SSLError` as
        its cause where the handshake is refused by either side or the peer leaves in it, an
        `ssl.SSLCertVerificationError` as soon as the certificate has been seen; and the transport's own where that
        breaks. The peer is told by an alert, unless it does not take one within half a second. After a failed or
        cancelled handshake the stream can only be closed.
        """
        with self._sending, self._receiving:
            self._check_open()
            if self._secured:
                await trio.lowlevel.checkpoint()
                return
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                await self._shake_hands()
            except BaseException:
                self._broken = True
                raise
            self._secured = True

    async def _shake_hands(self) -> None:
        while not self._step_handshake():
            if self._failure is not None:
                await self._fail(self._failure)
            await self._flush()
            await self._read_transport()
            if self._transport_ended:
                self._incoming.write_eof()
        await self._flush()

    def _step_handshake(self) -> bool:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self._failure = error
            return False
        return True

    # -- receiving ----------------------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Everything that one read of the transport brought, decrypted, up to *max_bytes*; the rest the next time.

        `b""` is the end: the peer's close_notify, or the end of the transport without one (as over HTTPS: many servers
        send none). Then `truncated` tells them apart; a protocol that does not say by itself when it is complete has to
        look. Raises `trio.BrokenResourceError` where the transport breaks or what came is not TLS (with the
        `ssl.SSLError` as its cause), after everything before it has been handed out; `trio.BusyResourceError` while
        another task receives; `trio.ClosedResourceError` after `aclose()`.

        A cancelled call loses nothing that was received: the next one returns what it would have. Where TLS itself has
        to answer, the call waits until the transport may take the answer, which can be cancelled, too; only while it is
        being taken, a cancellation ends sending, as in `send_all`.
        """
        limit = sys.maxsize if max_bytes is None else operator.index(max_bytes)
        if limit < 1:
            raise ValueError("max_bytes must be 1 or more")
        with self._receiving:
            self._check_secured()
            await trio.lowlevel.checkpoint_if_cancelled()
            waited = False
            while True:
                # From a read of the transport to `return` nothing can be cancelled: that is why nothing can be lost.
                data = self._decrypt(limit)
                if data or self._ended:
                    if not waited:
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    return data
                if self._failure is not None:
                    await self._fail(self._failure)
                await self._answer_or_read()
                waited = True

    async def _answer_or_read(self) -> None:
        """Read more; but first send what the peer may be waiting for, an answer of TLS itself."""
        unsent = self._outgoing.pending
        if self._send_broken:
            self._outgoing.read()  # nobody will send it
        # Whoever holds the lock sends it along; a peer that reads nothing and asks for more and more waits for that.
        elif unsent > _MOST_UNSENT or (unsent and not self._send_lock.locked()):
            async with self._send_lock:
                await self._transport.wait_send_all_might_not_block()
                if not self._send_broken:
                    await self._flush_locked()
            return
        await self._read_transport()

    def _decrypt(self, limit: int) -> bytes:
        """Up to *limit* bytes of what has been read already."""
        parts: list[bytes] = []
        if self._spare:
            parts.append(self._spare[:limit])
            self._spare = self._spare[limit:]
            limit -= len(parts[0])
        if self._failure is not None:
            return b"".join(parts)
        read, incoming = self._ssl.read, self._incoming
        try:
            while limit and (incoming.pending or self._ssl.pending()):
                part = read(limit if limit < _LONGEST_RECORD else _LONGEST_RECORD)
                if not part:
                    self._ended = True
                    break
                parts.append(part)
                limit -= len(part)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._ended = True
        except ssl.SSLError as error:
            self._failure = error
        return b"".join(parts)

    async def _read_transport(self) -> None:
        """Read once; where another task is reading already, wait for what it brings."""
        if self._read_done is not None:
            await self._read_done.wait()
        elif self._transport_ended:
            self._ended = self._truncated = True
            await trio.lowlevel.checkpoint()
        else:
            self._read_done = done = trio.Event()
            try:
                data = await self._transport.receive_some(_READ_SIZE)
            finally:
                self._read_done = None
                done.set()
            if data:
                self._incoming.write(data)
            else:
                self._transport_ended = True

    # -- sending ------------------------------------------------------------------------------------------------------

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt *data* and give it to the transport in one piece.

        Cancelled, or failed, some of a record may be on its way: nothing can be sent after it, and every later call
        raises `trio.BrokenResourceError`, while what the peer sends can still be received. Raises
        `trio.BrokenResourceError` where the connection is lost, `trio.BusyResourceError` while another task sends or
        waits to, `trio.ClosedResourceError` after `send_eof()` or `aclose()`.
        """
        with self._sending:
            self._check_may_send()
            if not data:
                await trio.lowlevel.checkpoint()
                return
            await trio.lowlevel.checkpoint_if_cancelled()
            with self._breaks_sending():
                if self._ssl.version() is None:  # so it says in a handshake, be it not the first
                    self._make_way()
                while not self._encrypt(data):
                    # The peer renegotiates (TLS 1.2 only), and takes no data before it has what it asked for. One wait,
                    # then another look: what a receiver does meanwhile may be all that was missing.
                    if self._outgoing.pending:
                        await self._flush()
                    else:
                        await self._read_transport()
                    self._make_way()
                    if self._ended:
                        raise trio.BrokenResourceError("the peer has left in a renegotiation")
                    if len(self._spare) > _MOST_SPARE:
                        raise trio.BrokenResourceError("the peer goes on sending data in a renegotiation")
                await self._flush()

    def _make_way(self) -> None:
        """Decrypt the data that came before the next record of a renegotiation: writing would stumble over them."""
        self._spare = self._decrypt(sys.maxsize)
        if self._failure is not None:
            raise trio.BrokenResourceError(str(self._failure)) from self._failure

    def _encrypt(self, data: bytes | bytearray | memoryview) -> bool:
        try:
            self._ssl.write(data)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self._failure = self._failure or error
            raise trio.BrokenResourceError(str(error)) from error
        return True

    async def wait_send_all_might_not_block(self) -> None:
        """Return when the transport may take data; cancelled or not, nothing has changed. Errors as for `send_all`."""
        with self._sending:
            self._check_may_send()
            async with self._send_lock:
                await self._transport.wait_send_all_might_not_block()
                await self._flush_locked()

    async def send_eof(self) -> None:
        """Tell the peer by a close_notify that nothing more will come. Receiving goes on.

        A peer that speaks TLS 1.3 may go on sending; one that speaks TLS 1.2 has to answer by its own close_notify at
        once, though many do not. Calling it again does nothing. Cancellation and errors as for `send_all`.
        """
        with self._sending:
            if self._eof_sent and not self._closed:
                await trio.lowlevel.checkpoint()
                return
            self._check_may_send()
            await trio.lowlevel.checkpoint_if_cancelled()
            self._eof_sent = True
            with self._breaks_sending():
                try:
                    self._write_close_notify()
                except ssl.SSLError as error:  # a renegotiation is under way
                    raise trio.BrokenResourceError(str(error)) from error
                await self._flush()

    def _write_close_notify(self) -> None:
        # Python's `unwrap()` looks for the peer's close_notify at once, and takes unread data before it for an error
        # that ends the connection. So it gets to see none.
        while size := self._ssl.pending():
            self._spare += self._ssl.read(size)
        unread = self._incoming.read()
        try:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._ssl.unwrap()
        finally:
            self._incoming.write(unread)

    async def _flush(self) -> None:
        async with self._send_lock:
            await self._flush_locked()

    async def _flush_locked(self) -> None:
        # Taken from the BIO under the lock: what was encrypted first leaves first.
        self._check_unbroken()
        with self._breaks_sending():
            while data := self._outgoing.read():
                await self._transport.send_all(data)

    @contextlib.contextmanager
    def _breaks_sending(self) -> Iterator[None]:
        """An error inside, a cancellation too, may have cut a record in two."""
        try:
            yield
        except BaseException:
            self._send_broken = True
            raise

    # -- end ----------------------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Send a close_notify, without waiting for the peer's, and close the transport.

        Nothing is waited for longer than half a second: a transport that takes no data by then, or that another task is
        just sending on, is closed without close_notify; so it is when this call is cancelled. Blocked calls of other
        tasks raise `trio.ClosedResourceError`. Data that has not been received is lost.
        """
        polite = self._secured and not (self._closed or self._eof_sent or self._broken or self._send_broken)
        self._closed = True
        try:
            if polite and not self._send_lock.locked():
                with contextlib.suppress(ssl.SSLError):
                    self._write_close_notify()
                await self._say_goodbye()
        except BaseException:
            await trio.aclose_forcefully(self._transport)
            raise
        await self._transport.aclose()

    async def _fail(self, failure: ssl.SSLError) -> NoReturn:
        """Raise *failure*, after the alert about it that OpenSSL has written."""
        self._broken = True
        if not self._send_broken and not self._send_lock.locked():
            await self._say_goodbye()
        raise trio.BrokenResourceError(str(failure)) from failure

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(_FAREWELL_TIME):
                await self._flush()

    # -- checks -------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this TLSStream is closed")
        if self._broken:
            raise trio.BrokenResourceError(str(self._failure or "the handshake was cut short")) from self._failure

    def _check_secured(self) -> None:
        self._check_open()
        if not self._secured:
            raise trio.NeedHandshakeError("call do_handshake() first")

    def _check_may_send(self) -> None:
        self._check_secured()
        if self._eof_sent:
            raise trio.ClosedResourceError("send_eof() has been called")
        self._check_unbroken()

    def _check_unbroken(self) -> None:
        if self._send_broken:
            raise trio.BrokenResourceError("an earlier send was cut short")
