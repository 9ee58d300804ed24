"""The API keys of the exchange, and whether a request is signed with one of them.

Written from PROTOCOL.md section 10, and independent of kufeed's own signing on purpose: the one checks the other.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import uuid
from typing import TYPE_CHECKING

from kufeed import Credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

_NEEDED = ("kc-api-key", "kc-api-sign", "kc-api-timestamp", "kc-api-passphrase", "kc-api-key-version")
_VERSIONS = ("2", "3")  # computed alike; the first, whose passphrase went out as it is, is dead since 2021
_MOST_OFF_MS = 5000


class KeyOffice:
    """Issues credentials and judges signatures. Its `repr` shows how many there are, never one of them."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(f"{seed}:keys")
        self._issued: dict[str, Credentials] = {}

    def __repr__(self) -> str:
        return f"<KeyOffice: {len(self._issued)} issued>"

    def issue(self) -> Credentials:
        """New ones, of the shape that KuCoin's have."""
        made = Credentials(
            key=self._rng.randbytes(12).hex(),
            secret=str(uuid.UUID(bytes=self._rng.randbytes(16), version=4)),
            passphrase=f"passphrase-{self._rng.getrandbits(32):08x}",
        )
        self._issued[made.key] = made
        return made

    def refusal(self, headers: Mapping[str, str], method: str, target: str, now_ms: int) -> tuple[str, str] | None:
        """Code and message where a request without a body is not well signed; None where it is.

        *headers* have names in lower case; *target* is path and query, without percent signs.
        """
        if not all(headers.get(name) for name in _NEEDED) or headers["kc-api-key-version"] not in _VERSIONS:
            named = ", ".join(name.upper() for name in _NEEDED[:4])
            return "400001", f"Please check the header of your request for {named}"
        timestamp = headers["kc-api-timestamp"]
        if not timestamp.isascii() or not timestamp.isdigit() or abs(int(timestamp[:20]) - now_ms) > _MOST_OFF_MS:
            return "400002", "KC-API-TIMESTAMP Invalid"
        known = self._issued.get(headers["kc-api-key"])
        if known is None:
            return "400003", "KC-API-KEY not exists"
        if headers["kc-api-passphrase"] != _hmac(known.secret, known.passphrase):
            return "400004", "KC-API-PASSPHRASE error"
        if headers["kc-api-sign"] != _hmac(known.secret, timestamp + method + target):
            return "400005", "Invalid KC-API-SIGN"
        return None


def _hmac(secret: str, text: str) -> str:
    digest = hmac.new(secret.encode("utf-8"), text.encode("utf-8"), hashlib.sha256).digest()
    return base64.b64encode(digest).decode("ascii")
