"""KuCoin's market-data protocol without I/O: topics, messages, records. Imports neither Trio nor a clock."""

from .bookview import OrderBook
from .events import (
    Delisted,
    Disconnected,
    Dropped,
    Gap,
    GapCause,
    GapFill,
    Halted,
    Refused,
    Restored,
    Resynced,
    SlowConsumer,
    Stale,
    StreamEvent,
)
from .market import Channel, Market, MergeKey, Topic, UpdateType
from .orderbook import BookEvent, BookSnapshot, BookState, BookSync
from .rest import retry_after
from .sides import BookSide
from .symbols import SymbolInfo, SymbolStatus, SymbolType
from .topics import CHANNELS, MARKETS, market_of, parse_topic, topic
from .updates import (
    Announcement,
    BookChange,
    BookDelta,
    CallAuction,
    CallAuctionDepth,
    Candle,
    Depth,
    FundingRate,
    IndexPrice,
    Level,
    Level1,
    MarkPrice,
    Side,
    Stats24h,
    Ticker,
    Trade,
    Update,
)

__all__ = [
    "CHANNELS",
    "MARKETS",
    "Announcement",
    "BookChange",
    "BookDelta",
    "BookEvent",
    "BookSide",
    "BookSnapshot",
    "BookState",
    "BookSync",
    "CallAuction",
    "CallAuctionDepth",
    "Candle",
    "Channel",
    "Delisted",
    "Depth",
    "Disconnected",
    "Dropped",
    "FundingRate",
    "Gap",
    "GapCause",
    "GapFill",
    "Halted",
    "IndexPrice",
    "Level",
    "Level1",
    "MarkPrice",
    "Market",
    "MergeKey",
    "OrderBook",
    "Refused",
    "Restored",
    "Resynced",
    "Side",
    "SlowConsumer",
    "Stale",
    "Stats24h",
    "StreamEvent",
    "SymbolInfo",
    "SymbolStatus",
    "SymbolType",
    "Ticker",
    "Topic",
    "Trade",
    "Update",
    "UpdateType",
    "market_of",
    "parse_topic",
    "retry_after",
    "topic",
]

# Tracebacks and reprs name what users import; what `kufeed` exports as well, it claims afterwards.
for _name in __all__:
    _thing = globals()[_name]
    if getattr(_thing, "__module__", "").startswith("kufeed."):
        _thing.__module__ = "kufeed.protocol"
del _name, _thing
