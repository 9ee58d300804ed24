"""What one can set on an exchange and what one can read from it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, get_args

import attrs

from kufeed.testing import checks

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from kufeed.testing.market import MarketName
    from kufeed.testing.spoilt import Spoiling


Damage = Literal["crossed", "duplicate", "garbage"]


def _not_negative(_: object, field: attrs.Attribute[Any], value: float) -> None:
    if not value >= 0:
        raise ValueError(f"{field.name} must be zero or more, not {value!r}")


@attrs.frozen(kw_only=True)
class BookFault:
    """What is wrong with the answers to requests for books over REST; all of it together, where several are set.

    - `error`: an HTTP status, or KuCoin's code and message in a reply with HTTP 200, instead of a book.
    - `delay`: seconds between the request, whose moment the book is of, and the answer; `math.inf` hangs.
    - `stale`: the book is as it was so many changes ago, or as far back as the exchange remembers.
    - `damage`: "crossed", the best bid and ask have each other's price; "duplicate", two bids have one price;
      "garbage", half of the JSON is missing.
    - `times`: how many requests meet it; None for all.
    - `symbols`: whose books; None for all.
    - `source`: whatever tells who has set it; it stays with what is left of it.

    Raises `ValueError` naming the field that is out of range.
    """

    error: int | tuple[str, str] | None = attrs.field(
        default=None, validator=checks.must(checks.is_error, checks.ERROR, optional=True)
    )
    delay: float = attrs.field(default=0.0, validator=_not_negative)
    stale: int = attrs.field(default=0, validator=_not_negative)
    damage: Damage | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.in_(get_args(Damage)))
    )
    times: int | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.ge(1)))
    symbols: Container[str] | None = None
    source: object = attrs.field(default=None, eq=False, repr=False)

    def concerns(self, symbol: str) -> bool:
        """Whether it is about the book of *symbol*."""
        return self.symbols is None or symbol in self.symbols

    def met(self) -> BookFault | None:
        """What is left of it once one more request has met it."""
        if self.times is None:
            return self
        return attrs.evolve(self, times=self.times - 1) if self.times > 1 else None


def _named(symbol: str, symbols: set[str]) -> bool:
    return symbol in symbols or "*" in symbols


def _count_set(faults: Faults, field: attrs.Attribute[Any], value: Any) -> Any:
    faults._sets[field.name] += 1  # noqa: SLF001  # a hook of that class
    return value


@attrs.define(kw_only=True, on_setattr=_count_set)
class Faults:
    """What the exchange does wrong, changeable at any time.

    - `withhold_welcome`, `withhold_acks`, `withhold_pongs`: these frames are not sent.
    - `ack_twice`: each ack is sent two times. `wrong_acks`: acks have another id than what they answer.
    - `old_acks`: acks have the id of a request that was made on the market's connection before; none, no ack.
    - `pong_twice`, `wrong_pongs`: the same of pongs.
    - `late_welcome`, `late_acks`, `late_pongs`: seconds that these frames come later than they should; nothing else
      waits for them.
    - `refuse_dials`: True, or how many more connections (REST ones too) are refused at the transport.
    - `dead_servers`: connections to the instance servers of these numbers (from 0) are refused at the transport.
    - `lag`: by instance server, seconds that all the exchange says on connections made from now on takes to arrive;
      `Session.lag` is that of one connection.
    - `token_error`: an HTTP status, or KuCoin's code and message in a reply with HTTP 200, instead of a token.
    - `request_error`: the same, in answer to every other request.
    - `upgrade_error`: an HTTP status instead of the upgrade to a WebSocket.
    - `retry_after`: the value of a `Retry-After` header that comes with each of these statuses, seconds or a date.
      `token_retry_after`, `request_retry_after`, `upgrade_retry_after`: of one of them only, in its place.
    - `reply_bodies`: bodies of REST replies are `"slow"` (a byte every 0.1 s), `"endless"` (blanks, until this is
      over), `"garbage"` (half of it, and what is no text) or `"short"` (half of it, then the connection ends).
    - `token_life`: seconds that tokens issued meanwhile live; then their connection is cut.
    - `dials_per_minute`, `messages_per_10s`: enforced where they are less than `Limits` has by these names.
    - `maintenance`: the exchange's state and its words for it, ``("close", "upgrade until 10:00")`` or `"cancelonly"`;
      None is open. This alone changes what `GET /api/v1/status` says.
    - `maintenance_refuses`: while the state is `"close"`, tokens and upgrades are refused too, with HTTP 503.
    - `ignore_topics`: a subscribe naming one of these wire topics (one symbol each) is not answered, and they get no
      pushes.
    - `mute_topics`: acked as usual, but never pushed.
    - `ignore_symbols`, `mute_symbols`: the same of all topics of these symbols; `"*"` stands for every topic.
    - `book`: what is wrong with books over REST, see `BookFault`; None again when it was met as often as it says.
      `books`: further ones, of which a request meets the first one that concerns it, where `book` does not.
    - `clock_skew`: seconds that the exchange's clock is ahead, in time stamps and where signatures are judged.
    """

    withhold_welcome: bool = False
    withhold_acks: bool = False
    withhold_pongs: bool = False
    ack_twice: bool = False
    wrong_acks: bool = False
    old_acks: bool = False
    pong_twice: bool = False
    wrong_pongs: bool = False
    late_welcome: float = 0.0
    late_acks: float = 0.0
    late_pongs: float = 0.0
    refuse_dials: bool | int = False
    dead_servers: set[int] = attrs.field(factory=set)
    lag: Mapping[int, float] = attrs.field(factory=dict)
    token_error: int | tuple[str, str] | None = None
    request_error: int | tuple[str, str] | None = None
    upgrade_error: int | None = None
    retry_after: str | None = None
    token_retry_after: str | None = None
    request_retry_after: str | None = None
    upgrade_retry_after: str | None = None
    reply_bodies: Spoiling | None = None
    token_life: float | None = None
    dials_per_minute: int | None = None
    messages_per_10s: int | None = None
    maintenance: tuple[str, str] | None = None
    maintenance_refuses: bool = False
    ignore_topics: Container[str] = ()
    mute_topics: Container[str] = ()
    ignore_symbols: set[str] = attrs.field(factory=set)
    mute_symbols: set[str] = attrs.field(factory=set)
    book: BookFault | None = None
    books: list[BookFault] = attrs.field(factory=list)
    clock_skew: float = 0.0
    _sets: Counter[str] = attrs.field(factory=Counter, init=False, repr=False, eq=False)

    def count_sets(self, name: str) -> int:
        """How often the field *name* was set: whether by hand since is not seen from its value."""
        return self._sets[name]

    def ignores(self, topic: str, symbol: str) -> bool:
        """Whether a subscribe for this wire topic of *symbol* is not answered."""
        return topic in self.ignore_topics or (bool(self.ignore_symbols) and _named(symbol, self.ignore_symbols))

    def mutes(self, topic: str, symbol: str) -> bool:
        """Whether this wire topic of *symbol* is not pushed."""
        return topic in self.mute_topics or (bool(self.mute_symbols) and _named(symbol, self.mute_symbols))

    def next_book(self, symbol: str) -> BookFault | None:
        """What the next request for the book of *symbol* meets; it is used up by asking."""
        if self.book is not None and self.book.concerns(symbol):
            fault = self.book
            self.book = fault.met()
            return fault
        for number, fault in enumerate(self.books):
            if fault.concerns(symbol):
                left = fault.met()
                self.books[number : number + 1] = [] if left is None else [left]
                return fault
        return None

    @property
    def shut(self) -> int | None:
        """The HTTP status with which maintenance refuses tokens and upgrades; None where it does not."""
        closed = self.maintenance is not None and self.maintenance[0] == "close"
        return 503 if closed and self.maintenance_refuses else None


@attrs.frozen
class Dial:
    """One attempt to open a WebSocket: when (`trio.current_time()`), on which market, and the HTTP status it got.

    `server` is the number of the instance server, from 0. What is refused at the transport is no such attempt.
    """

    at: float
    market: MarketName
    status: int
    server: int = 0


@attrs.frozen
class Address:
    """Where a listening exchange is reached: REST bases of both markets. The token reply names the WebSocket.

    `server_ports` has the port of each instance server; where there is only one, that is `port`.
    """

    host: str
    port: int
    futures_url: str
    spot_url: str
    server_ports: tuple[int, ...] = ()


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
