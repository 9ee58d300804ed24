"""The tokens which open a WebSocket: issued by REST, good for one market and one day."""

from __future__ import annotations

import base64
import math
import random
from typing import TYPE_CHECKING, Literal

import attrs

if TYPE_CHECKING:
    from kufeed.testing.market import MarketName

_REMEMBERED = 100_000  # the oldest are forgotten, and then are unknown rather than expired


@attrs.define
class _Issued:
    market: MarketName
    issued_at: float
    life: float | None
    """Seconds, where it is shorter than that of others."""
    expired: bool = False


class TokenOffice:
    """Issues tokens and judges them. Its `repr` shows how many there are, never one of them."""

    def __init__(self, seed: int, life: float | None) -> None:
        self._rng = random.Random(f"{seed}:tokens")
        self._life = life
        self._issued: dict[str, _Issued] = {}
        self.count = 0

    def __repr__(self) -> str:
        return f"<TokenOffice: {self.count} issued>"

    def issue(self, market: MarketName, now: float, life: float | None = None) -> str:
        """A new token for *market*: about 200 url-safe characters, ending in `==` as the real ones do.

        It is good for *life* seconds, where that is given; and then its connection is cut, too.
        """
        long, short = self._rng.randbytes(129), self._rng.randbytes(16)
        token = f"{base64.urlsafe_b64encode(long).decode()}.{base64.urlsafe_b64encode(short).decode()}"
        self._issued[token] = _Issued(market, now, life)
        self.count += 1
        if len(self._issued) > _REMEMBERED:
            del self._issued[next(iter(self._issued))]
        return token

    def judge(self, token: str, market: MarketName, now: float) -> Literal["good", "expired", "unknown"]:
        """Whether *token* opens a connection of *market*; a token of the other market is unknown here."""
        issued = self._issued.get(token)
        if issued is None or issued.market != market:
            return "unknown"
        if issued.expired or now >= self.end(token):
            return "expired"
        if self._life is not None and now >= issued.issued_at + self._life:
            return "expired"
        return "good"

    def end(self, token: str) -> float:
        """When a token of a shorter life ends, and its connection with it; `math.inf` for all others."""
        issued = self._issued.get(token)
        return math.inf if issued is None or issued.life is None else issued.issued_at + issued.life

    def forget_all(self) -> None:
        """Every token issued so far is unknown from now on."""
        self._issued.clear()

    def expire_all(self) -> None:
        """Every token issued so far is expired from now on."""
        for issued in self._issued.values():
            issued.expired = True
