"""Whether the exchange says itself that it is closed: asked while a connection has given up."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import trio

from ._lifecycle import ExchangeClosed
from ._untrusted import printable
from .errors import ExchangeError, KufeedError
from .protocol import rest

if TYPE_CHECKING:
    from ._journal import Journal
    from ._requests import Requests
    from ._rest import Rest
    from .protocol.market import Market

_log = logging.getLogger("kufeed.pool")

_NOT_AGAIN = 60.0
"""Seconds: many connections give up at once, and all would hear the same."""
_LONGEST_REPLY = 16 * 2**10
_OPEN = "open"


class Maintenance:
    """Asks for the state of markets, and tells the journal of one that is not open."""

    def __init__(self, requests: Requests, journal: Journal) -> None:
        self._requests = requests
        self._journal = journal
        self._asked_at: dict[Market, float] = {}

    def is_due(self, market: Market) -> bool:
        """Whether to `ask()` now; once it was true, not again for a minute."""
        now = trio.current_time()
        if now < self._asked_at.get(market, -math.inf) + _NOT_AGAIN:
            return False
        self._asked_at[market] = now
        return True

    async def ask(self, market: Market, rest_of_market: Rest) -> None:
        """`GET /api/v1/status`, once. Raises nothing: no answer says no more than that the exchange is out of reach."""
        try:
            answer = await self._requests.ask(rest_of_market, rest.STATUS, _LONGEST_REPLY)
            status, message = _read(answer.data)
        except KufeedError as error:
            _log.info("cannot tell whether the %s market is open: %s", market.name, error)
            return
        if status != _OPEN:
            _log.warning("the exchange says that its %s market is not open (%s): %s", market.name, status, message)
            self._journal.tell(ExchangeClosed(market.name, status, message))


def _read(data: Any) -> tuple[str, str]:
    status = data.get("status") if isinstance(data, dict) else None
    if not isinstance(status, str):
        raise ExchangeError(f"{rest.STATUS.path}: not a status")
    message = data.get("msg")
    return printable(status), printable(message) if isinstance(message, str) else ""
