"""Every error kufeed raises on purpose, named by what to do next.

KufeedError
├── UsageError              a bug in the calling code: mend it (also a `ValueError`)
├── ExchangeError           the exchange said no, or said something that is not its protocol
│   ├── SubscriptionRejected    it refused a topic: `topic`, `code`, `message`
│   └── CredentialsRefused      it refused who signed a request: `code` tells what to mend about the key
│       └── ClockOff                the time of signing was too far from its own (400002): set this machine's clock
├── RequestFailed           a request got no answer: `path`, and the cause in `__cause__`; ask again
├── SubscriptionTimeout     it never acknowledged a topic: `topics`
├── CircuitOpen             a circuit breaker lets nobody in: `until`, `cause`
├── ConnectionFailed        reconnecting was given up for now: `topics`, `cause`; iterating again waits for recovery
├── StreamEnded             a topic streams no more: `topic`; its subscription goes on with the others
│   ├── SymbolHalted            trading of its symbol is halted: `status`; subscribe again when it resumes
│   └── SymbolDelisted          the exchange lists its symbol no more
├── BookNotReady            the order book is out of step with the exchange; wait: `symbol`, `reason`
├── InsufficientDepth       the levels at hand do not answer that: `symbol`
├── Overflowed              a buffer under `Overflow.RAISE` was full: `topics`, `lost`; iterating goes on after the hole
├── LinkError               one connection was lost or could not be made; the feed reconnects by itself
│   ├── DialError               while connecting: `phase`, and the cause in `__cause__`
│   ├── TokenExpired            the server refused the token
│   ├── LinkClosed              the server closed, or the network did: `code`, `reason`
│   ├── LinkSilent              nothing was heard in time: `waited_for`
│   ├── SendStuck               the peer does not read
│   └── ProtocolViolation       the server broke the WebSocket protocol: `code`
└── MessageRefused          one message was not valid; counted, never raised by a feed: `cause`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

__all__ = [
    "BookNotReady",
    "CircuitOpen",
    "ClockOff",
    "ConnectionFailed",
    "CredentialsRefused",
    "DialError",
    "ExchangeError",
    "InsufficientDepth",
    "KufeedError",
    "LinkClosed",
    "LinkError",
    "LinkSilent",
    "MessageRefused",
    "Overflowed",
    "ProtocolViolation",
    "RequestFailed",
    "SendStuck",
    "StreamEnded",
    "SubscriptionRejected",
    "SubscriptionTimeout",
    "SymbolDelisted",
    "SymbolHalted",
    "TokenExpired",
    "UsageError",
]


class KufeedError(Exception):
    """The root of the tree.

    A copy (`copy.copy`) says the same, with the same cause, and has no traceback yet.
    """

    def __copy__(self) -> Self:
        # Not as of other objects, by calling the class with `args`: most of these take other arguments.
        made = type(self).__new__(type(self), *self.args)
        made.__dict__.update(self.__dict__)
        made.__cause__, made.__suppress_context__ = self.__cause__, self.__suppress_context__
        return made


class UsageError(KufeedError, ValueError):
    """The caller asked for something impossible. Never a reason to reconnect or to try again."""


class ExchangeError(KufeedError):
    """The exchange answered, but not with what was asked for.

    `code` is KuCoin's code as text (`"429000"`, `"404"`), or None where it sent none; `message` is its own text.
    `retry_after` is how many seconds it asked to be left alone, or None where it did not.
    """

    def __init__(self, message: str, *, code: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message if code is None else f"{message} (code {code})")
        self.code = code
        self.message = message
        self.retry_after = retry_after


class SubscriptionRejected(ExchangeError):
    """The exchange refused to stream `topic` (a wire topic such as `/market/ticker:BTC-USDT`)."""

    def __init__(self, topic: str, code: int, message: str) -> None:
        super().__init__(f"{topic} was refused: {message}", code=str(code))
        self.topic = topic
        self.message = message


class RequestFailed(KufeedError):
    """A REST request, such as for the symbols, got no answer: no connection, one that broke, or nothing in time.

    `path` is what was asked for. Nothing is tried again by itself.
    """

    def __init__(self, path: str, problem: object) -> None:
        super().__init__(f"{path}: {_told(problem)}")
        self.path = path


class CredentialsRefused(ExchangeError):
    """The exchange refused a signed request because of who signed it, and will again until that is mended.

    By `code`: 400003, the key is unknown; 400004, the passphrase is another; 400005, the secret is another; 400006, the
    key does not allow this machine's address; 400007, the key lacks the "General" permission; 400001, a header is
    missing (KuCoin, REST authentication). In answer to what was not signed they are an `ExchangeError` like any other.
    """


class ClockOff(CredentialsRefused):
    """The time in a signed request was more than 5 s from the exchange's, also after asking for its time (400002).

    kufeed goes by the exchange's clock as it learned it, so this machine's has jumped, or an answer took very long.
    """


class SubscriptionTimeout(KufeedError):
    """The exchange did not acknowledge `topics` within two times `FeedConfig.ack_timeout`, counted from sending."""

    def __init__(self, topics: Sequence[str], seconds: float) -> None:
        super().__init__(f"no acknowledgement within {seconds:g} s for {_shortened(topics)}")
        self.topics = tuple(topics)
        self.seconds = seconds


class CircuitOpen(KufeedError):
    """A `CircuitBreaker` is open, because of *cause*. It half-opens when `trio.current_time()` is `until`.

    `until` is `math.inf` where it half-opens only by hand.
    """

    def __init__(self, until: float, cause: BaseException | None) -> None:
        super().__init__("the circuit is open" if cause is None else f"the circuit is open: {_told(cause)}")
        self.until = until
        self.cause = cause


class ConnectionFailed(KufeedError):
    """`FeedConfig.max_reconnect_attempts` were used up; `cause` is the last failure.

    Raised once, at its place, to subscriptions with `topics` on the failed link. They stay entered: iterating again
    waits for recovery.
    """

    def __init__(self, topics: Sequence[str], cause: BaseException | None) -> None:
        super().__init__(f"gave up connecting for {_shortened(topics)}: {cause}")
        self.topics = tuple(topics)
        self.cause = cause


class StreamEnded(KufeedError):
    """`topic` (a wire topic) streams no more, and was unsubscribed from.

    Raised once, at its place, to who iterates updates; `Subscription.with_events()` yields the event of the same name
    without "Symbol" instead. The subscription goes on with its other topics, and ends where none is left.
    """

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"{topic} has ended: {reason}")
        self.topic = topic


class SymbolHalted(StreamEnded):
    """The stream was silent, and the exchange says that its symbol is not traded: `status`, as `SymbolStatus` has it.

    Nothing asks for it again: subscribe to it when trading resumes.
    """

    def __init__(self, topic: str, status: str) -> None:
        super().__init__(topic, f"trading is halted ({status})")
        self.status = status


class SymbolDelisted(StreamEnded):
    """The stream was silent, and the exchange lists its symbol no more."""

    def __init__(self, topic: str) -> None:
        super().__init__(topic, "its symbol is not listed any more")


class Overflowed(KufeedError):
    """A buffer under `Overflow.RAISE` was full: `lost` updates of `topics` are missing here.

    Raised at their place in the stream. The subscription stays entered: iterating goes on after the hole.
    """

    def __init__(self, topics: Sequence[str], lost: int) -> None:
        super().__init__(f"the buffer was full: {lost} updates are missing of {_shortened(topics)}")
        self.topics = tuple(topics)
        self.lost = lost


class BookNotReady(KufeedError):
    """The book of `symbol` cannot be read now: it is not in step with the exchange, or not known that deep.

    It comes back by itself. `reason` is the state it is in, or what is missing.
    """

    def __init__(self, symbol: str, reason: str) -> None:
        super().__init__(f"the book of {symbol} is not ready: {reason}")
        self.symbol = symbol
        self.reason = reason


class InsufficientDepth(KufeedError):
    """The levels of `symbol` at hand are too few for the answer; ask a deeper book."""

    def __init__(self, symbol: str, problem: str) -> None:
        super().__init__(f"{symbol}: {problem}")
        self.symbol = symbol


class LinkError(KufeedError):
    """One connection failed. A feed answers with a new one; users meet this only as a cause."""


class DialError(LinkError):
    """A connection could not be made. `phase` is one of budget, token, connect, upgrade, welcome.

    `retry_after` is how many seconds the server asked to be left alone, or None where it did not.
    """

    def __init__(self, phase: str, problem: object, *, retry_after: float | None = None) -> None:
        super().__init__(f"{phase}: {_told(problem)}")
        self.phase = phase
        self.retry_after = retry_after


class TokenExpired(LinkError):
    """The server refused the connection token (error 401, or HTTP 401 at the handshake)."""


class LinkClosed(LinkError):
    """The connection ended without us asking: close `code` (RFC 6455; 1006 where no close frame came) and `reason`."""

    def __init__(self, code: int, reason: str | None) -> None:
        super().__init__(f"closed with code {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason


class LinkSilent(LinkError):
    """The server did not say what was due: `waited_for` is one of pong, acknowledgement, data."""

    def __init__(self, waited_for: str, seconds: float) -> None:
        super().__init__(f"no {waited_for} within {seconds:g} s")
        self.waited_for = waited_for


class SendStuck(LinkError):
    """A frame could not be handed to the network in time: the peer does not read."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"a frame could not be sent within {seconds:g} s")


class ProtocolViolation(LinkError):
    """The server broke RFC 6455; `code` is the close code it was told (1002, 1007 or 1009)."""

    def __init__(self, code: int, problem: str) -> None:
        super().__init__(problem)
        self.code = code


class MessageRefused(KufeedError):
    """One message is not what its channel promises. `cause` is a short stable name to count by, such as `price`."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause


def _told(problem: object) -> str:
    return str(problem) or type(problem).__name__


def _shortened(topics: Sequence[str]) -> str:
    shown = ", ".join(topics[:3])
    return shown if len(topics) <= 3 else f"{shown} and {len(topics) - 3} more"
