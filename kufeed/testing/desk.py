"""What requests over REST are answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from kufeed.testing import rest
from kufeed.testing.http import server_host
from kufeed.testing.limits import WeightPool
from kufeed.testing.premises import note_refusal
from kufeed.testing.records import BookFault

if TYPE_CHECKING:
    from kufeed.testing.http import Where
    from kufeed.testing.keys import KeyOffice
    from kufeed.testing.premises import Premises, WallClock
    from kufeed.testing.pulse import Pulse
    from kufeed.testing.tokens import TokenOffice

_NO_FAULT = BookFault()


class Desk:
    """Answers requests, within the quota and as the faults allow; of a symbol only once it has moved on.

    Its token replies name so many *servers*, with *ping_interval* and *ping_timeout* (seconds).
    """

    def __init__(
        self,
        premises: Premises,
        clock: WallClock,
        pulse: Pulse,
        tokens: TokenOffice,
        keys: KeyOffice,
        *,
        servers: int,
        ping_interval: float,
        ping_timeout: float,
    ) -> None:
        self._premises = premises
        self._clock = clock
        self._pulse = pulse
        self._tokens = tokens
        self._keys = keys
        self._weights = WeightPool(premises.limits.rest_weight)
        self.servers = servers
        self.ping_interval = ping_interval
        self.ping_timeout = ping_timeout
        self.ports: list[int] = []
        """Over TCP: of each instance server."""
        self.requests = 0
        """How many there were."""

    def answer(self, method: str, where: Where | None, headers: dict[str, str], *, secure: bool) -> rest.Reply:
        """The reply to a request; with *secure* it came by TLS."""
        self.requests += 1
        if where is None:
            return rest.failure("404000", "Url Not Found", status=404)
        model, faults = self._premises.model, self._premises.faults
        now = trio.current_time()
        symbol = model.find(where.market, where.query.get("symbol", ""))
        if symbol is not None:
            self._pulse.catch_up(symbol)
        admitted = self._weights.take(rest.weight(where.market, where.path), now)
        quota = tuple(self._weights.headers(now))
        if not admitted:
            note_refusal(self._premises, "weight", where.market, f"{where.path} was requested")
            reply = rest.failure("429000", "Too Many Requests", status=429)
        elif where.path == "/api/v1/bullet-public":
            reply = self._issue_token(method, where, now, secure=secure)
        elif faults.request_error is not None:
            reply = rest.refusal(faults.request_error, faults.request_retry_after or faults.retry_after)
        elif method != "GET":
            reply = rest.failure("404000", "Url Not Found", status=404)
        elif rest.is_book(where.market, where.path):
            reply = self.answer_book(where, headers)
        elif where.path == rest.STATUS:
            reply = rest.status(*(faults.maintenance or ("open", "")))
        else:
            reply = rest.answer(model, rest.Request(where.market, where.path, where.query, self._clock.now_ns()))
        if reply.body:  # a bare status comes from some gateway, which knows nothing of quotas
            reply = attrs.evolve(reply, headers=(*reply.headers, *quota))
        return reply

    def answer_book(self, where: Where, headers: dict[str, str]) -> rest.Reply:
        """The reply to a request for a book."""
        faults = self._premises.faults
        fault = faults.next_book(where.query.get("symbol", "")) or _NO_FAULT
        now = self._clock.now_ns()
        refusal: tuple[str, str] | None = None
        if where.path == rest.SIGNED_BOOK:
            refusal = self._keys.refusal(headers, "GET", where.target, now // 1_000_000)
        if error := fault.error or refusal:
            reply = rest.refusal(error, faults.retry_after)
        else:
            request = rest.Request(where.market, where.path, where.query, now, fault.stale)
            self._note_book(request)
            reply = rest.answer(self._premises.model, request)
            if fault.damage is not None:
                reply = rest.damaged(reply, fault.damage)
        return attrs.evolve(reply, delay=fault.delay)

    def _note_book(self, request: rest.Request) -> None:
        truth, symbol = self._premises.truth, request.query.get("symbol", "")
        model = None if truth is None else self._premises.model.find(request.market, symbol)
        if truth is not None and model is not None:
            time_ns = request.time_ns if request.market == "futures" else request.time_ns // 1_000_000 * 1_000_000
            truth.books.setdefault(symbol, set()).add((model.moment(request.changes_ago).sequence, time_ns))

    def _issue_token(self, method: str, where: Where, now: float, *, secure: bool) -> rest.Reply:
        if method != "POST":
            return rest.failure("400100", "Request method not supported", status=405)
        faults = self._premises.faults
        error = faults.token_error or faults.shut
        if error is not None:
            return rest.refusal(error, faults.token_retry_after or faults.retry_after)
        endpoints = [f"wss://{server_host(where.market, server)}/" for server in range(self.servers)]
        if where.prefixed:
            scheme, name = "wss" if secure else "ws", where.host
            hosts = [f"{name.rpartition(':')[0]}:{port}" for port in self.ports] if self.servers > 1 else [name]
            endpoints = [f"{scheme}://{host}/{where.market}/endpoint" for host in hosts]
        token = self._tokens.issue(where.market, now, faults.token_life)
        return rest.bullet(token, endpoints, ping_interval=self.ping_interval, ping_timeout=self.ping_timeout)
