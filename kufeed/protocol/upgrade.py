"""The answer to a request for a WebSocket, judged: the head of a 101, or a refusal. Pure, and strict.

Another parser (h11) reads the head of the 101 again, and takes more for one: any version, lines that end in a bare line
feed. Where the two differed about the end of a head, frames would pass that nobody has checked. So it sees nothing but
a head that means the same to both, once that is complete; of any other answer it sees nothing at all.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .._untrusted import has_control

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONGEST = 16_384
"""Bytes of the heads together: those of interim answers (100, 103) may come before."""
_VERSION = b"HTTP/"
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_STATUS_LINE = re.compile(rb"HTTP/([0-9]\.[0-9]) ([0-9]{3})(?: [^\r\n]*)?\r?\n")


class Refusal(Exception):  # a fact about the peer, not an error of this module
    """The peer did not upgrade. `status` is its HTTP status; None where it broke HTTP/1.1, or our limits.

    `headers` is what came of its header together with the status: a name in lower case, and its value.
    """

    def __init__(self, problem: str, status: int | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem)
        self.status = status
        self.headers = headers or {}


class UpgradeAnswer:
    """Feed bytes until `feed()` returns what follows the head of the 101; `head` is then for the other parser."""

    def __init__(self) -> None:
        self.head = b""
        self._data = bytearray()
        self._start = 0  # of the head that is being read
        self._line = 0
        self._status: bytes | None = None

    def feed(self, data: bytes) -> bytes | None:
        """Take *data* in; None while the head is incomplete.

        Raises `Refusal` as soon as it is known, which for a status is the end of its line: nobody waits for a body.
        """
        self._data += data
        while (end := self._data.find(b"\n", self._line, _LONGEST) + 1) > 0:
            line = bytes(self._data[self._line : end])
            self._line = end
            if self._status is None:
                self._status = self._judge(line)
            elif has_control(line):  # h11 takes quadratic time to find one behind many blanks
                raise Refusal("a control character in the answer's head")
            elif not line.endswith(b"\r\n"):
                raise Refusal("a line of the answer's head ended in a bare line feed")
            elif line == b"\r\n" and self._status == b"101":
                self.head = bytes(self._data[self._start : end])
                return bytes(self._data[end:])
            elif line == b"\r\n":
                self._start, self._status = end, None
        if self._status is None and not _VERSION.startswith(self._data[self._line : self._line + len(_VERSION)]):
            raise Refusal("illegal status line")
        if len(self._data) > _LONGEST:
            raise Refusal(f"the answer's head has more than {_LONGEST} bytes")
        return None

    def _judge(self, line: bytes) -> bytes:
        """The status of an answer that more follows: 101, or an interim one."""
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise Refusal("illegal status line")
        version, status = found.groups()
        if status[:1] != b"1":
            raise Refusal(f"the server answered HTTP {status.decode()}", int(status), self._fields())
        if version != b"1.1" or not line.endswith(b"\r\n"):
            raise Refusal("illegal status line: not HTTP/1.1")
        return status

    def _fields(self) -> dict[str, str]:
        """The lines of the header that are whole, by name. Split, not searched: a search may take for ever."""
        head, complete, _ = bytes(self._data[self._line : _LONGEST]).partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        found = (line.partition(b":") for line in (lines if complete else lines[:-1]))
        return {
            name.decode().lower(): value.strip(b" \t").decode("latin-1")
            for name, _, value in found
            if _NAME.fullmatch(name)
        }
