"""KuCoin market data for Trio programs.

import kufeed, trio

async def main():
    async with kufeed.open_feed() as feed:
        async with feed.ticker("XBTUSDTM", "BTC-USDT") as tickers:
            async for t in tickers:
                print(t.symbol, t.bid, t.ask, t.latency)

trio.run(main)
"""

import logging as _logging

from ._backoff import Backoff
from ._bookkeeper import BookStatistics
from ._breaker import CircuitBreaker, CircuitState, CircuitStatistics
from ._budget import DialBudget, DialLimiter, RestBudget
from ._buffers import Overflow
from ._channels import QueueStatistics
from ._config import FeedConfig
from ._connection import ConnectionStatistics
from ._credentials import Credentials
from ._feed import Feed, FeedStatistics, Latest, SubscriptionOptions, open_feed
from ._handler import HandlerStatistics
from ._handlers import HandlerNursery, Handlers
from ._journal import FeedEvents
from ._lifecycle import (
    CircuitOpened,
    DialFailed,
    ExchangeClosed,
    ExchangeComplained,
    FeedEvent,
    FeedState,
    LinkLost,
    LinkReplaced,
    LinkUp,
    Notice,
    Progress,
    StateChanged,
    StreamDelisted,
    StreamHalted,
    StreamRecovered,
    StreamStale,
    TopicRefused,
    TopicsUnanswered,
)
from ._limiter import LimiterStatistics, Permit, SlidingWindowLimiter
from ._line import LinkStatistics
from ._live_books import LiveBook, LiveBooks
from ._network import Network, RealNetwork
from ._shared_budget import SharedDialBudget
from ._staleness import StaleStream
from ._subscription import Subscription
from .errors import (
    BookNotReady,
    CircuitOpen,
    ClockOff,
    ConnectionFailed,
    CredentialsRefused,
    DialError,
    ExchangeError,
    InsufficientDepth,
    KufeedError,
    LinkClosed,
    LinkError,
    LinkSilent,
    MessageRefused,
    Overflowed,
    ProtocolViolation,
    RequestFailed,
    SendStuck,
    StreamEnded,
    SubscriptionRejected,
    SubscriptionTimeout,
    SymbolDelisted,
    SymbolHalted,
    TokenExpired,
    UsageError,
)
from .protocol import (
    Announcement,
    BookChange,
    BookDelta,
    CallAuction,
    CallAuctionDepth,
    Candle,
    Delisted,
    Depth,
    Disconnected,
    Dropped,
    FundingRate,
    Gap,
    GapCause,
    GapFill,
    Halted,
    IndexPrice,
    Level,
    Level1,
    MarkPrice,
    OrderBook,
    Refused,
    Restored,
    Resynced,
    Side,
    SlowConsumer,
    Stale,
    Stats24h,
    StreamEvent,
    SymbolInfo,
    SymbolStatus,
    SymbolType,
    Ticker,
    Topic,
    Trade,
    Update,
    UpdateType,
    parse_topic,
    topic,
)

__version__ = "0.1.0.dev0"

__all__ = [
    "Announcement",
    "Backoff",
    "BookChange",
    "BookDelta",
    "BookNotReady",
    "BookStatistics",
    "CallAuction",
    "CallAuctionDepth",
    "Candle",
    "CircuitBreaker",
    "CircuitOpen",
    "CircuitOpened",
    "CircuitState",
    "CircuitStatistics",
    "ClockOff",
    "ConnectionFailed",
    "ConnectionStatistics",
    "Credentials",
    "CredentialsRefused",
    "Delisted",
    "Depth",
    "DialBudget",
    "DialError",
    "DialFailed",
    "DialLimiter",
    "Disconnected",
    "Dropped",
    "ExchangeClosed",
    "ExchangeComplained",
    "ExchangeError",
    "Feed",
    "FeedConfig",
    "FeedEvent",
    "FeedEvents",
    "FeedState",
    "FeedStatistics",
    "FundingRate",
    "Gap",
    "GapCause",
    "GapFill",
    "Halted",
    "HandlerNursery",
    "HandlerStatistics",
    "Handlers",
    "IndexPrice",
    "InsufficientDepth",
    "KufeedError",
    "Latest",
    "Level",
    "Level1",
    "LimiterStatistics",
    "LinkClosed",
    "LinkError",
    "LinkLost",
    "LinkReplaced",
    "LinkSilent",
    "LinkStatistics",
    "LinkUp",
    "LiveBook",
    "LiveBooks",
    "MarkPrice",
    "MessageRefused",
    "Network",
    "Notice",
    "OrderBook",
    "Overflow",
    "Overflowed",
    "Permit",
    "Progress",
    "ProtocolViolation",
    "QueueStatistics",
    "RealNetwork",
    "Refused",
    "RequestFailed",
    "RestBudget",
    "Restored",
    "Resynced",
    "SendStuck",
    "SharedDialBudget",
    "Side",
    "SlidingWindowLimiter",
    "SlowConsumer",
    "Stale",
    "StaleStream",
    "StateChanged",
    "Stats24h",
    "StreamDelisted",
    "StreamEnded",
    "StreamEvent",
    "StreamHalted",
    "StreamRecovered",
    "StreamStale",
    "Subscription",
    "SubscriptionOptions",
    "SubscriptionRejected",
    "SubscriptionTimeout",
    "SymbolDelisted",
    "SymbolHalted",
    "SymbolInfo",
    "SymbolStatus",
    "SymbolType",
    "Ticker",
    "TokenExpired",
    "Topic",
    "TopicRefused",
    "TopicsUnanswered",
    "Trade",
    "Update",
    "UpdateType",
    "UsageError",
    "open_feed",
    "parse_topic",
    "topic",
]

# A program that configures no logging hears of failures by exceptions and statistics, not on its stderr.
_logging.getLogger("kufeed").addHandler(_logging.NullHandler())

# Tracebacks and reprs name what users import, not the file it happens to live in.
for _name in __all__:
    _thing = globals()[_name]
    if getattr(_thing, "__module__", "").startswith("kufeed."):
        _thing.__module__ = "kufeed"
del _name, _thing
