"""KuCoin's market-data protocol without I/O: topics, messages, records. Imports neither Trio nor a clock."""

from .market import Channel, Market, MergeKey, Topic, UpdateType
from .topics import CHANNELS, MARKETS, market_of, parse_topic, topic
from .updates import Side, Ticker, Trade, Update

__all__ = [
    "CHANNELS",
    "MARKETS",
    "Channel",
    "Market",
    "MergeKey",
    "Side",
    "Ticker",
    "Topic",
    "Trade",
    "Update",
    "UpdateType",
    "market_of",
    "parse_topic",
    "topic",
]
