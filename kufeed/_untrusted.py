"""What others wrote, checked once before it is used or shown: addresses, and texts for errors and logs.

A host that one library reads otherwise than the next, or refuses with an exception of its own, would send a token
astray or end a feed. So an address is taken apart here and nowhere else; what is not plain is refused.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

import attrs

_LONGEST_TEXT = 200
_LONGEST_HOST = 253
# A label as host names have it (RFC 1123), and the underscore that private networks use.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_HTTP_PROBLEMS = (
    "illegal status line",
    "illegal header line",
    "illegal chunk header",
    "malformed chunk footer",
    "bad Content-Length",
    "conflicting Content-Length headers",
    "multiple Transfer-Encoding headers",
    "Only Transfer-Encoding: chunked is supported",
    "Receive buffer too long",
    "peer closed connection without sending complete message body",
    "peer unexpectedly closed connection",
    "Server disconnected without sending a response",
    "Bad accept token",
    "Missing header, 'Connection: Upgrade'",
    "Missing header, 'Upgrade: websocket'",
    "unrecognized extension",
    "unrecognized subprotocol",
)
"""How h11, httpcore2 and wsproto begin to say what is wrong with an answer; what follows may repeat it."""


_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def has_control(head: bytes) -> bool:
    """Whether the head of an HTTP answer has a control character in it, as none has but tab, CR and LF."""
    return _CONTROL.search(head) is not None


@attrs.frozen
class Url:
    """An address taken apart: one host for the look-up, the certificate and the `Host` header alike."""

    scheme: str
    host: str
    """In lower case, without the dot that may end it, an IPv6 address without brackets."""
    port: int
    path: str = ""
    query: str = ""

    @property
    def authority(self) -> str:
        """Host and port as a `Host` header has them: an IPv6 address in brackets, no port that goes without saying."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def read_url(text: object, *schemes: str) -> Url:
    """*text* as an address with one of *schemes*; else a `ValueError` that does not repeat it: it may hold secrets."""
    if not isinstance(text, str):
        raise ValueError("it is not text")
    if not is_visible(text) or "\\" in text:
        raise ValueError("it has a character other than visible ASCII, or a backslash")
    try:
        parts = urlsplit(text)
        scheme, port = parts.scheme, parts.port
        port = _PORTS.get(scheme, 0) if port is None else port
    except ValueError:
        raise ValueError("it cannot be taken apart") from None
    if scheme not in schemes:
        raise ValueError(f"its scheme is not {' or '.join(schemes)}")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("it has a user or a fragment")
    if not port:
        raise ValueError("its port is 0")
    return Url(scheme, read_host(parts.hostname), port, parts.path, parts.query)


def read_host(text: object) -> str:
    """A host as `Url.host` has it; else a `ValueError` that does not repeat *text*."""
    name = text.lower().removesuffix(".") if isinstance(text, str) and is_visible(text) else ""
    if len(name) <= _LONGEST_HOST and all(map(_LABEL.fullmatch, name.split("."))):
        return name
    try:
        if "%" not in name:  # what follows it would be an interface of this machine
            return str(ipaddress.IPv6Address(name))
    except ValueError:
        pass
    raise ValueError("its host is neither a name nor an address")


def is_visible(text: str) -> bool:
    """Whether *text* is made of visible ASCII characters alone; the space is none."""
    return text.isascii() and text.isprintable() and " " not in text


def printable(text: str) -> str:
    """*text* on one line, as an error or a log may carry it: at most 200 characters, escaped where not printable."""
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text[:_LONGEST_TEXT]
    )
    return shown if len(text) <= _LONGEST_TEXT >= len(shown) else shown[: _LONGEST_TEXT - 3] + "..."


def http_problem(error: BaseException) -> str:
    """What a library found wrong with an answer, in the library's fixed words alone.

    The rest of its text repeats what the peer sent, and that may be the token or a password, sent back to us.
    """
    if isinstance(error, UnicodeDecodeError):
        return "a header that is not ASCII"
    text = str(error)
    return next((known for known in _HTTP_PROBLEMS if text.startswith(known)), "against the rules of HTTP")
