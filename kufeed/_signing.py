"""Signed requests of one feed: by the exchange's clock, which one of them asks for and all of them use."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

import trio

from ._budget import SNAPSHOT_LANE
from ._rest import Signature
from .errors import ClockOff
from .protocol.rest import SPOT_BOOK, SPOT_TIME

if TYPE_CHECKING:
    from ._credentials import Credentials
    from ._requests import Requests
    from ._rest import Rest
    from .protocol.clock import ServerClock
    from .protocol.market import Topic
    from .protocol.orderbook import BookSnapshot


class Signer:
    """Whole spot books for who has *credentials*. What it sends, the clock too, is each in a turn of *requests*."""

    def __init__(self, requests: Requests, credentials: Credentials) -> None:
        self._requests = requests
        self._credentials = credentials
        self._clock: ServerClock | None = None
        self._asking = trio.Lock()

    async def fetch_book(
        self, rest: Rest, topic: Topic, lane: int, numbers: type[Decimal] | type[float] = Decimal
    ) -> BookSnapshot:
        """The whole book of *topic*, in its turn; *rest* is the spot market's.

        Where the exchange finds the time of signing wrong, its clock is asked again and the book once more. Raises as
        `Requests.run` does, `ClockOff` where that did not help. Cancelled, it leaves the clock for others to ask.
        """
        try:
            return await self._try(rest, topic, lane, numbers)
        except ClockOff:
            pass  # the second try is not made here: its error would have this one for its context
        return await self._try(rest, topic, lane, numbers)

    async def _try(self, rest: Rest, topic: Topic, lane: int, numbers: type[Decimal] | type[float]) -> BookSnapshot:
        clock = await self._ask_clock(rest)
        send = partial(rest.fetch_book, topic, Signature(self._credentials, clock), numbers)
        try:
            return await self._requests.run(rest, SPOT_BOOK.path, SPOT_BOOK.weight, lane, send)
        except ClockOff:
            if self._clock is clock:  # else it was asked meanwhile, for another who signed by this one
                self._clock = None
            raise

    async def _ask_clock(self, rest: Rest) -> ServerClock:
        """What is known of the exchange's clock; where nothing is, one asks, and the next one where that one fails."""
        async with self._asking:
            if self._clock is None:
                # Whoever asks: a snapshot may wait for it.
                lane = SNAPSHOT_LANE
                self._clock = await self._requests.run(rest, SPOT_TIME.path, SPOT_TIME.weight, lane, rest.fetch_clock)
            return self._clock
