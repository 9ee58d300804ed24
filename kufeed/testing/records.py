"""What one can set on an exchange and what one can read from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Container

    from kufeed.testing.market import MarketName


@attrs.define(kw_only=True)
class Faults:
    """What the exchange does wrong, changeable at any time.

    - `withhold_welcome`, `withhold_acks`, `withhold_pongs`: these frames are not sent.
    - `refuse_dials`: True, or how many more connections (REST ones too) are refused at the transport.
    - `token_error`: an HTTP status, or KuCoin's code and message in a reply with HTTP 200, instead of a token.
    - `request_error`: the same, in answer to every other request.
    - `upgrade_error`: an HTTP status instead of the upgrade to a WebSocket.
    - `retry_after`: the value of a `Retry-After` header that comes with each of these statuses, seconds or a date.
    - `ignore_topics`: a subscribe naming one of these wire topics (one symbol each) is not answered, and they get no
      pushes.
    - `mute_topics`: acked as usual, but never pushed.
    """

    withhold_welcome: bool = False
    withhold_acks: bool = False
    withhold_pongs: bool = False
    refuse_dials: bool | int = False
    token_error: int | tuple[str, str] | None = None
    request_error: int | tuple[str, str] | None = None
    upgrade_error: int | None = None
    retry_after: str | None = None
    ignore_topics: Container[str] = ()
    mute_topics: Container[str] = ()


@attrs.frozen
class Dial:
    """One attempt to open a WebSocket: when (`trio.current_time()`), on which market, and the HTTP status it got."""

    at: float
    market: MarketName
    status: int


@attrs.frozen
class Address:
    """Where a listening exchange is reached: REST bases of both markets. The token reply names the WebSocket."""

    host: str
    port: int
    futures_url: str
    spot_url: str


@attrs.frozen(kw_only=True)
class ExchangeStatistics:
    """Counts since the exchange was made. `pushes` were queued, `dropped` had no room in their session's buffer."""

    sessions: int
    topics: int
    dials: int
    dials_refused: int
    tokens_issued: int
    requests: int
    beats: int
    pushes: int
    dropped: int
    connections_lost: int
