"""Every message that KuCoin was recorded or documented to send: decoded to the right values, or survived.

What is expected is derived here from the JSON text and the tables of PROTOCOL.md, not by kufeed's decoders.
"""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import pytest
import ujson

from kufeed._streams import Refusals, Routes, Stream, stage
from kufeed.protocol import Side, Ticker, Trade, Update, parse_topic
from kufeed.protocol.session import Acked, Failed, Rejected, Session, Slowed, Unknown, Welcomed

from .. import samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..samples import Sample

NOW = 1_700_000_000_123_456_789


def price(raw: Any) -> Decimal:
    """Exact: the text as it stands, or the shortest text of an old message's JSON number."""
    return Decimal(raw)


def milliseconds(raw: Any) -> int:
    assert len(str(raw)) == 13
    return int(raw) * 1_000_000


def nanoseconds(raw: Any) -> int:
    assert len(str(raw)) == 19
    return int(raw)


# PROTOCOL.md, sections 5 (units), 6 and 7: attribute of the record -> (what it is, its names in `data`, best first).
# `matchSize` and `time` are how the futures documents of 2019 call them; `size` is then what is left of the order.
BUILT: dict[tuple[str, str], tuple[type[Update], dict[str, tuple[Callable[[Any], Any], tuple[str, ...]]]]] = {
    ("/market/ticker", "trade.ticker"): (
        Ticker,
        {
            "sequence": (int, ("sequence",)),
            "exchange_time_ns": (milliseconds, ("time", "Time")),
            "bid": (price, ("bestBid",)),
            "bid_size": (price, ("bestBidSize",)),
            "ask": (price, ("bestAsk",)),
            "ask_size": (price, ("bestAskSize",)),
            "price": (price, ("price",)),
            "size": (price, ("size",)),
        },
    ),
    ("/market/match", "trade.l3match"): (
        Trade,
        {
            "sequence": (int, ("sequence",)),
            "exchange_time_ns": (nanoseconds, ("time",)),
            "price": (price, ("price",)),
            "size": (price, ("size",)),
            "side": (Side, ("side",)),
            "trade_id": (str, ("tradeId",)),
        },
    ),
    ("/contractMarket/tickerV2", "tickerV2"): (
        Ticker,
        {
            "sequence": (int, ("sequence",)),
            "exchange_time_ns": (nanoseconds, ("ts",)),
            "bid": (price, ("bestBidPrice",)),
            "bid_size": (int, ("bestBidSize",)),
            "ask": (price, ("bestAskPrice",)),
            "ask_size": (int, ("bestAskSize",)),
            "price": (price, ()),
            "size": (int, ()),
        },
    ),
    ("/contractMarket/execution", "match"): (
        Trade,
        {
            "sequence": (int, ("sequence",)),
            "exchange_time_ns": (nanoseconds, ("ts", "time")),
            "price": (price, ("price",)),
            "size": (int, ("matchSize", "size")),
            "side": (Side, ("side",)),
            "trade_id": (str, ("tradeId",)),
        },
    ),
}


def read(sample: Sample) -> Any:
    """The JSON of *sample*, in which no number has gone through a float."""
    return json.loads(sample.text, parse_float=Decimal)


def is_built(sample: Sample) -> bool:
    message = read(sample)
    path = str(message.get("topic")).partition(":")[0]
    return (path, message.get("subject")) in BUILT


def assert_right(update: Any, sample: Sample) -> None:
    message = read(sample)
    path, _, symbol = message["topic"].partition(":")
    record, fields = BUILT[path, message["subject"]]
    assert type(update) is record, sample
    assert {field.name for field in attrs.fields(record)} == {
        *fields,
        "topic",
        "symbol",
        "received_time_ns",
        "gap_before",
    }
    assert (str(update.topic), update.symbol, update.received_time_ns) == (message["topic"], symbol, NOW), sample
    for name, (convert, keys) in fields.items():
        raw = next((message["data"][key] for key in keys if key in message["data"]), None)
        expected = None if raw is None else convert(raw)
        found = getattr(update, name)
        assert found == expected, f"{name} of {sample}"
        assert type(found) is type(expected), f"{name} of {sample}"
        if convert is price and isinstance(raw, str):
            assert format(found, "f") == raw, f"{name} of {sample}: not a digit more or less"


class Staged:
    """What `stage()` makes of messages when every topic that occurs in the samples is wanted."""

    def __init__(self, messages: Iterable[Sample], loads: Callable[[bytes], Any] = ujson.loads) -> None:
        self.updates: list[Any] = []
        self.control: list[Any] = []
        self.refusals = Refusals()
        self.touched = stage(
            [sample.text.encode() for sample in messages],
            loads=loads,
            by_wire=self._routes().by_wire,
            received_time_ns=NOW,
            on_control=self.control.append,
            refusals=self.refusals,
        )

    def _routes(self) -> Routes:
        routes = Routes()
        for wire in sorted({read(sample)["topic"] for sample in samples.load() if is_built(sample)}):
            stream = Stream(parse_topic(wire))
            stream.stagers = (self.updates.append,)
            routes.add(stream)
        return routes

    def counts(self) -> tuple[int, int, int, int]:
        refused = sum(self.refusals.causes.values())
        return len(self.updates), len(self.control), self.refusals.unwanted, refused


@pytest.fixture(scope="module")
def messages() -> list[Sample]:
    return samples.load()


def test_the_samples_are_all_there(messages: list[Sample]) -> None:
    """Each channel built here was seen in recorded or documented messages: this many."""
    assert Counter(sample.file for sample in messages if is_built(sample)) == {
        "futures_execution.jsonl": 5,
        "futures_tickerV2.jsonl": 5,
        "session_spot_2021-04-23_ticker_match.jsonl": 800,
        "session_spot_2021-04-25_EQZ_COV.jsonl": 58,
        "spot_match.jsonl": 3,
        "spot_ticker.jsonl": 4,
    }
    assert len(messages) > 1_100


@pytest.mark.parametrize("loads", [ujson.loads, orjson.loads], ids=["ujson", "orjson"])
def test_every_line_of_a_channel_built_here_has_the_right_values(
    messages: list[Sample], loads: Callable[[bytes], Any]
) -> None:
    """Prices exact, sizes in their unit, times by the table of units, whatever year the message is from; in order."""
    built = [sample for sample in messages if is_built(sample)]
    staged = Staged(built, loads)
    assert staged.counts() == (len(built), 0, 0, 0), staged.refusals
    for update, sample in zip(staged.updates, built, strict=True):
        assert_right(update, sample)
    assert {str(stream.topic) for stream in staged.touched} == {read(sample)["topic"] for sample in built}


def test_a_decoder_alone_says_the_same(messages: list[Sample]) -> None:
    for sample in filter(is_built, messages):
        message = ujson.loads(sample.text)
        topic = parse_topic(message["topic"])
        assert_right(topic.channel.decode(message["data"], topic, NOW), sample)


def test_every_other_line_is_survived(messages: list[Sample]) -> None:
    """Other channels are unwanted; what has no topic (control frames, REST answers, UTA) goes to the session. No more.

    Nothing becomes an update, nothing is called invalid, and nothing is raised.
    """
    others = [sample for sample in messages if not is_built(sample)]
    assert others
    with_topic = [sample for sample in others if "topic" in read(sample)]
    staged = Staged(others)
    assert staged.counts() == (0, len(others) - len(with_topic), len(with_topic), 0), staged.refusals
    assert staged.touched == set()
    assert staged.control == [ujson.loads(sample.text) for sample in others if sample not in with_topic]


def test_a_recorded_session_reads_as_it_was_served(messages: list[Sample]) -> None:
    """Welcome, acks, then tickers and trades: each message where it belongs, the updates in their order."""
    session = [sample for sample in messages if sample.file.startswith("session_spot_2021-04-23")]
    staged = Staged(session)
    assert staged.counts() == (800, 3, 0, 0)
    assert Counter(type(update) for update in staged.updates) == {Ticker: 788, Trade: 12}
    for update, sample in zip(staged.updates, filter(is_built, session), strict=True):
        assert_right(update, sample)


def test_every_line_without_a_topic_is_survived_by_the_session(messages: list[Sample]) -> None:
    """Also those that are no answers to anything: only a refused token ends a link."""
    for sample in messages:
        session = Session(generation=1, welcome_by=10, ping_interval=18, pong_timeout=10, ack_timeout=5)
        frame = ujson.loads(sample.text)
        if "topic" in frame:
            continue
        events = session.receive(frame, 0.0)
        match frame.get("type"), frame.get("code"):
            case "welcome", _:
                assert events == [Welcomed()], sample
            case "pong", _:
                assert events == [], sample
            case "error", 401:
                assert [type(event) for event in events] == [Failed], sample
            case "error", 509 if "permits" in frame["data"]:
                assert [type(event) for event in events] == [Slowed], sample
            case _:
                assert events == [Unknown(frame)], sample
        assert not [event for event in events if isinstance(event, Acked | Rejected)], sample


def test_without_samples_ci_fails_and_everybody_else_skips(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("SAMPLES_DIR", str(tmp_path_factory.mktemp("nothing")))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"no KuCoin samples in .*nothing"):
        samples.load()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="SAMPLES_DIR names another directory"):
        samples.load()
