"""Generated garbage against the way from payloads to queues, with a stream of every channel.

Each message is a valid one, of a channel or of the session, with up to three named damages, or plain bytes. Whatever it
is, nothing is raised; it is an update, one that came before or too late, a frame for the session, unwanted, or refused,
exactly one of them; and one that is refused leaves no trace but its count. An update is sound in every field, and
batches come to what their messages come to one by one. Streams lose their connection now and then, and a real session
gets what has no topic. The long run is `pytest -m long tests/fuzz`. A failure names its number, from which
`generate()` makes it.
"""

from __future__ import annotations

import ast
import copy
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import attrs
import orjson
import pytest
import trio
import ujson

import kufeed
from kufeed import BookChange, BookDelta, Candle, Depth, FundingRate, Gap, Level, Overflow, Update, UpdateType, topic
from kufeed._channels import UpdateQueue
from kufeed._json import loads
from kufeed._lateness import Lateness
from kufeed._refusals import Refusals
from kufeed._streams import Routes, Stream, stage
from kufeed._whole_market import stream_of
from kufeed.errors import LinkClosed, LinkError
from kufeed.protocol.market import MergeKey
from kufeed.protocol.session import Acked, Failed, LinkFull, Rejected, Session, Slowed, Unknown, Welcomed
from kufeed.protocol.spot import SYMBOL

SHORT, LONG = 2_000, 1_000_000
NOW = 1_750_000_000_500_000_000
MS, NS, S = 1_750_000_000_250, 1_750_000_000_250_000_001, 1_749_999_960

LEVELS = [["101.4", "3"], ["101.3", "1"]]
CONTRACTS = [[1.5, 3], ["1.25", 1]]
ROW = [str(S), "1", "2", "3", "0.5", "10", "15"]
SPOT = {"symbol": "AB-CD"}
FUTURES = {"symbol": "ABCDM"}
RANGE = {f"{side}OrderRange{end}Price": "1.5" for side in ("sell", "buy") for end in ("Low", "High")}
TICKER = {
    "sequence": "71",
    "price": "101.5",
    "size": "0.250",
    "bestBid": "101.4",
    "bestBidSize": "3",
    "bestAsk": "101.6",
    "bestAskSize": "0.00000001",
    "time": MS,
}

# Path and argument, subject, data: each shape that the decoders know, documented or recorded.
MESSAGES: list[tuple[str, str, dict[str, Any]]] = [
    ("/market/ticker:AB-CD", "trade.ticker", TICKER),
    ("/market/ticker:all", "AB-CD", TICKER),
    (
        "/market/match:AB-CD",
        "trade.l3match",
        {**SPOT, "sequence": "72", "price": "101.5", "size": "1", "side": "sell", "tradeId": "t", "time": str(NS)},
    ),
    ("/spotMarket/level1:AB-CD", "level1", {"bids": ["101.4", "3"], "asks": ["101.6", "0.5"], "timestamp": MS}),
    *(
        (f"{path}:AB-CD", "level2", {"bids": LEVELS, "asks": LEVELS, "timestamp": MS})
        for path in ("/spotMarket/level2Depth5", "/spotMarket/level2Depth50", "/callauction/level2Depth50")
    ),
    (
        "/market/level2:AB-CD",
        "trade.l2update",
        {
            **SPOT,
            "sequenceStart": 75,
            "sequenceEnd": 77,
            "time": MS,
            "changes": {"bids": [["101.4", "0", "75"], ["0", "0", "77"]], "asks": [["101.6", "0.5", "76"]]},
        },
    ),
    ("/market/candles:AB-CD_1min", "trade.candles.update", {**SPOT, "candles": ROW, "time": NS}),
    (
        "/market/snapshot:AB-CD",
        "trade.snapshot",
        {
            "sequence": "78",
            "data": {
                **SPOT,
                "datetime": MS,
                "lastTradedPrice": 1.5,
                "high": 2.5,
                "low": 0.5,
                "vol": 9.25,
                "volValue": 12.5,
                "changePrice": -0.25,
                "changeRate": -0.0534,
                "board": 0,
            },
        },
    ),
    ("/indicator/markPrice:AB-CD", "tick", {**SPOT, "granularity": 5000, "timestamp": MS, "value": 0.0234}),
    ("/indicator/index:AB-CD", "tick", {**SPOT, "granularity": 5000, "timestamp": MS, "value": 0.0234}),
    (
        "/callauction/callauctionData:AB-CD",
        "callauction.callauctionData",
        {**SPOT, "estimatedPrice": "0.17", "estimatedSize": "0.03", **RANGE, "time": MS},
    ),
    (
        "/contractMarket/tickerV2:ABCDM",
        "tickerV2",
        {
            **FUTURES,
            "sequence": 73,
            "bestBidPrice": "0.00120",
            "bestBidSize": 11,
            "bestAskPrice": "0.00121",
            "bestAskSize": 12,
            "ts": NS,
        },
    ),
    (
        "/contractMarket/execution:ABCDM",
        "match",
        {**FUTURES, "sequence": 74, "price": 0.00121, "size": 5, "side": "buy", "tradeId": "t74", "ts": NS},
    ),
    *(
        (f"/contractMarket/{name}:ABCDM", "level2", {"bids": CONTRACTS, "asks": CONTRACTS, "sequence": 79, stamp: MS})
        for name, stamp in (("level2Depth5", "timestamp"), ("level2Depth50", "ts"))
    ),
    ("/contractMarket/level2:ABCDM", "level2", {"sequence": 80, "change": "39069.0,buy,23960", "timestamp": MS}),
    (
        "/contract/instrument:ABCDM",
        "mark.index.price",
        {"markPrice": 1.5, "indexPrice": 1.25, "granularity": 1000, "timestamp": MS},
    ),
    (
        "/contract/instrument:ABCDM",
        "funding.rate",
        {"granularity": 28_800_000, "fundingRate": -0.002966, "timestamp": MS},
    ),
    ("/contractMarket/limitCandle:ABCDM_1min", "candle.stick", {**FUTURES, "candles": ROW, "time": MS}),
    (
        "/contractMarket/snapshot:ABCDM",
        "snapshot.24h",
        {
            **FUTURES,
            "volume": 5834.46,
            "turnover": 526.5,
            "lastPrice": 29912,
            "lowPrice": 29332.0,
            "highPrice": 31884.0,
            "priceChg": -1688,
            "priceChgPct": -0.0534,
            "ts": NS,
        },
    ),
    *(
        (wire, "funding.begin", {**FUTURES, "fundingTime": MS + 1, "fundingRate": -0.002966, "timestamp": MS})
        for wire in ("/contract/announcement:ABCDM", "/contract/announcement")
    ),
]
TOPICS = [
    topic("ticker", "all"),
    *(topic(kind, "AB-CD") for kind in ("ticker", "trade", "level1", "book_delta", "stats_24h", "call_auction")),
    *(topic(kind, "AB-CD") for kind in ("mark_price", "index_price", "call_auction_depth")),
    *(topic(kind, "ABCDM") for kind in ("ticker", "trade", "book_delta", "mark_price", "index_price", "funding_rate")),
    *(topic(kind, "ABCDM") for kind in ("stats_24h", "announcement")),
    *(topic("depth", symbol, levels=levels) for symbol in ("AB-CD", "ABCDM") for levels in (5, 50)),
    *(topic("candle", symbol, interval="1min") for symbol in ("AB-CD", "ABCDM")),
]
SYMBOLS = ("AB-CD", "ABCDM")
CONTROL: list[dict[str, Any]] = [
    {"type": "welcome", "id": "kufeed"},
    {"type": "ack", "id": "{id}"},
    {"type": "pong", "id": "{id}"},
    {"type": "error", "id": "{id}", "code": 404, "data": "topic /market/ticker:AB-CD is not found"},
    {"type": "error", "code": 404, "data": "topic /market/ticker:AB-CD is not found"},
    {"type": "error", "id": "{id}", "code": 415, "data": "type is not supported"},
    {"type": "error", "code": 509, "data": "exceed max permits per second"},
    {"type": "error", "id": "{id}", "code": 509, "data": "exceed max subscription count limitation of 100 per time"},
    {"type": "error", "code": 509, "data": "exceed max subscription count limitation of 300 per session"},
    {"type": "error", "code": 401, "data": "token is expired"},
    {"type": "notice", "data": {}},
]
"""Frames without a topic; `{id}` stands for that of the first request of the session."""


def vocabulary() -> set[str]:
    """Every text constant of the decoders, and the causes that name no field."""
    found = {"json", "envelope", "topic", "subject", "data", "malformed", "sequence", "side"}
    for name in ("spot", "futures"):
        tree = ast.parse((Path(kufeed.__file__).parent / "protocol" / f"{name}.py").read_text())
        found.update(
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
    return found


CAUSES = vocabulary()


# -- damages ----------------------------------------------------------------------------------------------------------

Path_ = tuple[Any, ...]
VERBATIM = "\ue000"
"""Stands before text that goes into the message as it is, without quotes: what `json.dumps` would not write."""

NUMBERS = (
    *("-", "01", "1.", "1.e5", "00", "-01", "-.5", "-0.", ".5", "+1", "1e", "0x1", "1_0", "--1", "1..2", "٣"),
    *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "-0", "-0.0", "1e5", "0e0"),
)
TEXTS = (
    *("", " ", " 1 ", "1_0", "١", "1e999999", "NaN", "inf", "-1", "+1", "0x1", "1.", ".1", "1,2", "1.1.1", "\0"),
    *("\u202e101.4", "\u2066x\u2069", "\ud800", "\udfff\ud800", "\x1b[31m", "a\nb", "9" * 20, "9" * 201, "x" * 5_000),
    *("ü", "\U0001f600", "null", "true", "[]", "{}", "buy ", "BUY", "%s", "{0}"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(10**400)),
    *(
        0.0,
        0.5,
        1e300,
        5e-324,
        1.0,
        [],
        {},
        [[]],
        [None],
        [1, 2],
        ["1", "2"],
        {"": None},
        [["1"]],
        [["1", "2", "3", "4"]],
    ),
)


def paths(value: Any, at: Path_ = ()) -> list[Path_]:
    """Every place below *value*, outermost first."""
    found: list[Path_] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += [(*at, key), *paths(inner, (*at, key))]
    return found


def holder(message: Any, path: Path_) -> Any:
    for key in path[:-1]:
        message = message[key]
    return message


def pick(rng: random.Random, message: Any) -> tuple[Any, Any]:
    """A container in *message* and a key of it; mostly one inside `data`."""
    every = paths(message)
    inner = [path for path in every if len(path) > 1] if rng.random() < 0.85 else every
    path = rng.choice(inner or every)
    return holder(message, path), path[-1]


def drop(rng: random.Random, message: Any) -> None:
    container, key = pick(rng, message)
    del container[key]


def wrong_type(rng: random.Random, message: Any) -> None:
    container, key = pick(rng, message)
    container[key] = copy.deepcopy(rng.choice(VALUES))


def wrong_text(rng: random.Random, message: Any) -> None:
    container, key = pick(rng, message)
    container[key] = rng.choice(TEXTS)


def bad_number(rng: random.Random, message: Any) -> None:
    container, key = pick(rng, message)
    container[key] = VERBATIM + rng.choice(NUMBERS)


def negative(rng: random.Random, message: Any) -> None:
    container, key = pick(rng, message)
    value = container[key]
    container[key] = -value if isinstance(value, int | float) else f"-{value}" if isinstance(value, str) else -1


def time_unit(rng: random.Random, message: Any) -> None:
    """Seconds for milliseconds and so on, and times of another year."""
    container, key = pick(rng, message)
    number = rng.choice(
        [S, MS, MS * 1000, NS, NS * 1000, 0, MS - 7_200_000, MS + 120_000, NS + 120 * 10**9, 10**13 - 1]
    )
    container[key] = rng.choice([number, str(number), float(number)])


def other_symbol(rng: random.Random, message: Any) -> None:
    other = rng.choice(["EF-GH", "EFGHM", *SYMBOLS, "", None, "ab-cd", "AB-CD "])
    if isinstance(message.get("data"), dict) and rng.random() < 0.5:
        message["data"]["symbol"] = other
    elif isinstance(wire := message.get("topic"), str):
        message["topic"] = wire.replace("AB-CD", str(other)).replace("ABCDM", str(other))


def swap(rng: random.Random, message: Any) -> None:
    """Two values change places: sequences, sides, prices and times."""
    (one, key), (two, other) = pick(rng, message), pick(rng, message)
    if not contains(one[key], two) and not contains(two[other], one):
        one[key], two[other] = two[other], one[key]


def contains(outer: Any, wanted: Any) -> bool:
    if outer is wanted:
        return True
    inner = outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()
    return any(contains(one, wanted) for one in inner)


def emptied(rng: random.Random, message: Any) -> None:
    container, key = pick(rng, message)
    container[key] = rng.choice([[], {}, ""])


def doubled(rng: random.Random, message: Any) -> None:
    """A list with its elements twice, a text written twice."""
    container, key = pick(rng, message)
    if isinstance(container[key], str | list):
        container[key] = copy.deepcopy(container[key]) + copy.deepcopy(container[key])


def unknown(rng: random.Random, message: Any) -> None:
    part = message["data"] if isinstance(message.get("data"), dict) and rng.random() < 0.7 else message
    part[rng.choice(["new", "", "\u202e", "x" * 300, "__class__", "sn", "matchSize", "Time"])] = rng.choice(TEXTS)


def deep(rng: random.Random, message: Any) -> None:
    container, key = pick(rng, message)
    depth = rng.choice([2, 50, 400, 900, 1_100])
    container[key] = VERBATIM + rng.choice(
        ["[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, "[" * depth]
    )


def digits(rng: random.Random, message: Any) -> None:
    container, key = pick(rng, message)
    container[key] = (
        VERBATIM + rng.choice(["", "-"]) + "9" * rng.choice([18, 19, 20, 40, 308, 309, 4_300, 4_301, 10_000])
    )


def wrong_subject(rng: random.Random, message: Any) -> None:
    message["subject"] = rng.choice([one[1] for one in MESSAGES] + ["", "\u202e"])


SHAPE: tuple[Callable[[random.Random, Any], None], ...] = (
    *(drop, wrong_type, wrong_text, bad_number, negative, time_unit, other_symbol, swap, emptied, doubled, unknown),
    *(deep, digits, wrong_subject),
)


def truncated(rng: random.Random, text: str) -> str:
    return text[: rng.randrange(len(text) + 1)]


def twice(rng: random.Random, text: str) -> str:
    return text + rng.choice(["", ",", "\n", " "]) + text


def repeated_key(rng: random.Random, text: str) -> str:
    """A member once more, with another value, before or behind the one that was there."""
    end = text.find(",")
    extra = (
        f'"{rng.choice(["topic", "subject", "data", "type"])}":{rng.choice(["null", "1", "{}", "[]", json.dumps("x")])}'
    )
    return f"{{{extra},{text[1:]}" if rng.random() < 0.5 or end < 0 else f"{text[:-1]},{extra}}}"


def spaced(rng: random.Random, text: str) -> str:
    """White space after the punctuation: legal, but inside of texts, where it is part of them."""
    return "".join(letter + rng.choice(["", " ", "\n", "\t\r"]) if letter in ",:[{" else letter for letter in text)


def letter(rng: random.Random, text: str) -> str:
    place = rng.randrange(len(text) + 1)
    return text[:place] + rng.choice('0-.,:"[]{}eE\\ \0\u202e\ud800٣') + text[place + rng.randrange(2) :]


TEXT: tuple[Callable[[random.Random, str], str], ...] = (truncated, twice, repeated_key, spaced, letter)


def byte(rng: random.Random, payload: bytes) -> bytes:
    place = rng.randrange(len(payload) + 1)
    return payload[:place] + rng.randbytes(rng.randrange(4)) + payload[place + rng.randrange(3) :]


def written(message: Any) -> str:
    text = json.dumps(message, separators=(",", ":"), ensure_ascii=False, allow_nan=True)
    while (start := text.find(f'"{VERBATIM}')) >= 0:
        end = start + 2
        while text[end] != '"':
            end += 2 if text[end] == "\\" else 1
        text = text[:start] + json.loads(text[start : end + 1])[1:] + text[end + 1 :]
    return text


def age(data: Any, number: int) -> None:
    """Have *data* be later than what has a smaller number: by its numbers, and 1 ms for every 20 of them."""
    for key, value in data.items():
        if isinstance(value, dict):
            age(value, number)
        elif key in ("bids", "asks"):
            for row in value:
                if isinstance(row, list) and len(row) == 3:
                    row[2] = str(int(row[2]) + number)
        elif key in ("sequence", "sequenceStart", "sequenceEnd"):
            data[key] = type(value)(int(value) + number)
        elif key in ("time", "timestamp", "ts", "datetime"):
            millisecond = 10 ** (len(str(value)) - 13)
            data[key] = type(value)(int(value) + number // 20 * millisecond)


def generate(number: int) -> tuple[str, bytes]:
    """The message of this *number*, always the same one, and the names of its damages."""
    rng = random.Random(number)
    if rng.random() < 0.03:
        return "bytes", rng.randbytes(rng.randrange(200))
    message: dict[str, Any]
    if rng.random() < 0.1:
        message = {
            key: "1-1" if value == "{id}" else value for key, value in copy.deepcopy(rng.choice(CONTROL)).items()
        }
    else:
        wire, subject, data = copy.deepcopy(rng.choice(MESSAGES))
        age(data, number + 1)
        message = {"type": "message", "topic": wire, "subject": subject, "data": data}
    names: list[str] = []
    for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 3])):
        shape = rng.choice(SHAPE)
        names.append(shape.__name__)
        if paths(message):
            shape(rng, message)
    text = written(message)
    if rng.random() < 0.25:
        change = rng.choice(TEXT)
        names.append(change.__name__)
        text = change(rng, text)
    payload = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        names.append("byte")
        payload = byte(rng, payload)
    return "+".join(names) or "none", payload


# -- what must hold ---------------------------------------------------------------------------------------------------


class Desk:
    """Every channel's stream, with a queue of each kind for all of them, and all that a message may change."""

    def __init__(
        self, loads: Callable[[bytes], Any], numbers: type[Decimal] | type[float] = Decimal, *, keep_raw: bool = False
    ) -> None:
        self.loads, self.numbers, self.keep_raw = loads, numbers, keep_raw
        self.queue = queue_of(Overflow.DROP_OLDEST, bound=100)
        self.others = (
            queue_of(Overflow.LATEST),
            queue_of(Overflow.DROP_NEWEST, changes_only=True),
            queue_of(Overflow.LATEST, changes_only=True),
        )
        self.queues = (self.queue, *self.others)
        self.routes = Routes()
        self.subscribed = [stream_of(one, numbers=numbers, keep_raw=keep_raw) for one in TOPICS]
        for stream in self.subscribed:
            for queue in self.queues:
                stream.add(queue)
            self.routes.add(stream)
        self.control = 0
        self.session = new_session()
        self.refusals = Refusals()
        self.lateness = Lateness(0.1, perf_counter=lambda: 0.0)
        # So that every stream has a last value, and those of candles one that shows what they know of later ones.
        self.stage(*map(written_message, MESSAGES))
        self.take()

    def stage(self, *payloads: bytes) -> set[Stream]:
        """What *payloads* do, as one read of a connection brought them; whoever has no room gets none."""
        touched = stage(
            payloads,
            loads=self.loads,
            by_wire=self.routes.by_wire,
            received_time_ns=NOW,
            on_control=self._on_control,
            refusals=self.refusals,
            lateness=self.lateness,
        )
        for queue in self.queues:
            if not queue.hand_over():
                queue.force()
            assert not queue.staged
        return touched

    def take(self) -> tuple[list[Update], list[Gap]]:
        """What the subscriber of everything gets."""
        got = list(taken(self.queue))
        return [one for one in got if isinstance(one, Update)], [one for one in got if isinstance(one, Gap)]

    def lose(self, number: int) -> None:
        """The connection of one stream breaks, and is there again."""
        stream = self.subscribed[number % len(self.subscribed)]
        stream.lose(LinkClosed(1006, None), 1.0)
        stream.restore(2.0)

    def _on_control(self, frame: Any) -> None:
        assert isinstance(frame, dict)
        self.control += 1
        before = repr(frame)
        for event in self.session.receive(frame, self.control * 0.01):
            assert_sound_event(event, frame)
            if isinstance(event, Failed):
                self.session = new_session()
        assert repr(frame) == before
        if not self.session.waits_for_answers():
            self.session = new_session()

    def elsewhere(self) -> int:
        """How many were neither updates nor refused."""
        return self.control + self.refusals.unwanted

    def repeated(self) -> int:
        """How many were updates that came before, or too late."""
        return self.refusals.duplicates + self.refusals.disordered

    def streams(self) -> list[Stream]:
        """Also the symbols of the whole market."""
        routed = (one for by in self.routes.by_wire.values() for streams in by.values() for one in streams)
        return list(dict.fromkeys((*self.subscribed, *routed)))

    def told(self) -> tuple[Any, ...]:
        """What there is to see of all that came, in values: equal for two desks that had the same."""
        latest = {repr(one.topic): one.latest for one in self.streams()}
        cells = {name: one._latest.start_ns for name, one in latest.items() if isinstance(one, Candle) and one._latest}
        counts = [attrs.evolve(queue.statistics(), most_pending=0) for queue in self.queues]
        # As text: what ujson makes of NaN is not equal to itself.
        flags = {name: one and (one.late, one.misdated, repr(one.raw)) for name, one in latest.items()}
        waiting = [list(all_of(queue._items)) for queue in self.queues]
        seen = (latest, cells, flags, counts, waiting)
        return (*seen, self.lateness.late, self.lateness.misdated)

    def state(self) -> tuple[Any, ...]:
        """All that a message may change but the counts of what is told elsewhere."""
        return (
            *self.told(),
            [(stream.stagers, stream.sinks, stream.decode) for stream in self.streams()],
            {wire: dict(subjects) for wire, subjects in self.routes.by_wire.items()},
            [queue.statistics() for queue in self.queues],
        )


def queue_of(policy: Overflow, *, bound: int = 10, changes_only: bool = False) -> UpdateQueue:
    policies = dict.fromkeys(UpdateType, policy)
    return UpdateQueue(policies, bound, changes_only=changes_only, perf_counter=lambda: 0.0, time_ns=lambda: NOW)


def all_of(items: Any) -> Any:
    """The updates that wait, however a buffer keeps them."""
    return items.values() if isinstance(items, dict) else items


def taken(queue: UpdateQueue) -> Iterator[Any]:
    while True:
        try:
            yield queue.take(events=True)
        except trio.WouldBlock:
            return


def new_session() -> Session:
    """One that has been welcomed and waits for the answer to its first request, whose id is `1-1`."""
    session = Session(generation=1, welcome_by=10, ping_interval=18, pong_timeout=10, ack_timeout=5)
    session.receive({"type": "welcome"}, 0.0)
    session.subscribe([topic("ticker", "AB-CD"), topic("ticker", "EF-GH")])
    frame = session.next_frame()
    assert frame is not None
    assert json.loads(frame.text)["id"] == "1-1"
    session.sending(frame, 0.0)
    session.sent()
    return session


def written_message(message: tuple[str, str, dict[str, Any]]) -> bytes:
    wire, subject, data = message
    return json.dumps({"topic": wire, "subject": subject, "data": data}).encode()


@attrs.define
class Report:
    outcomes: Counter[str] = attrs.field(factory=Counter)
    causes: set[str] = attrs.field(factory=set)
    slowest: tuple[float, str, int] = (0.0, "", 0)


def check(desk: Desk, number: int, report: Report) -> None:
    names, payload = generate(number)
    about = f"message {number} ({names}): {payload[:2_000]!r}"
    missing = {stream.whole.topic for stream in desk.streams() if stream._missing}
    before, elsewhere, repeated = desk.state(), desk.elsewhere(), desk.repeated()
    told = desk.told()[:-2]
    refused = desk.refusals.causes.total()
    started = time.process_time()
    try:
        touched = desk.stage(payload)
    except Exception as error:  # the message is what matters
        raise AssertionError(about) from error
    report.slowest = max(report.slowest, (time.process_time() - started, names, number))
    repeated = desk.repeated() - repeated
    came = bool(touched or repeated) + desk.refusals.causes.total() - refused + desk.elsewhere() - elsewhere
    assert came == 1, f"exactly one thing comes of it: {about}"
    if repeated and not touched:
        report.outcomes["repeated"] += 1
        assert desk.told()[:-2] == told, about  # but for whether it was late
        return
    if not touched:
        assert desk.state() == before, about
        report.outcomes["refused" if desk.refusals.causes.total() > refused else "other"] += 1
        return
    report.outcomes["update"] += 1
    updates, gaps = desk.take()
    assert len(updates) == len(touched) <= 2 - repeated, about
    latest = {repr(stream.last(update.topic)) for stream in touched for update in updates}
    assert {repr(attrs.evolve(update, gap_before=None)) for update in updates} <= latest, about
    for update in updates:
        assert_sound(update, desk, about)
        whole = update.topic.channel.symbol_in_subject
        told = bool(update.gap_before)
        report.outcomes["after a gap"] += told
        assert told is any(gap.topic == update.topic for gap in gaps), about
        proven = update.topic.channel.merge_key is MergeKey.CONTIGUOUS  # that nothing is missing, it may be
        assert told or whole or proven or update.topic not in missing, about


SIGNED = {"rate", "change", "change_rate"}


def assert_sound(update: Update, desk: Desk, about: str) -> None:
    """Each field of *update*, and of what is in it, is of its type and within its range."""
    for field in attrs.fields(type(update)):
        if field.name not in ("topic", "raw", "gap_before", "_latest"):
            assert_sound_value(getattr(update, field.name), field.name, desk.numbers, about)
    assert update.symbol in SYMBOLS or (update.topic.is_part and SYMBOL.fullmatch(update.symbol)), about
    assert update.received_time_ns == NOW, about
    assert isinstance(update.raw, dict) is desk.keep_raw, about
    age = 0 if update.exchange_time_ns is None else NOW - update.exchange_time_ns
    assert update.misdated is not (-60 * 10**9 <= age <= 3600 * 10**9), about
    assert update.late is (not update.misdated and age > 10**8), about
    assert len(repr(update)) < 2_000, about
    assert repr(update).isprintable(), about
    match update:
        case Depth():
            for side, sign in ((update.bids, -1), (update.asks, 1)):
                assert len(side) <= 1_000, about
                assert all(sign * one.price <= sign * other.price for one, other in pairwise(side)), about
        case BookDelta(sequence=int(last)):
            assert update.first_sequence <= last, about
            assert all(update.first_sequence <= change.sequence <= last for change in update.changes), about
        case Candle():
            assert update.start_ns % (60 * 10**9) == 0, about
            assert update.start_ns <= update.time_ns + 60 * 10**9, about
            assert update._latest is not None, about
            assert update._latest.start_ns <= NOW + 60 * 10**9, about
        case FundingRate():
            assert (update.interval is None) is update.predicted is (update.next_time_ns is None), about
            assert update.interval is None or 60 < update.interval <= 7 * 86_400, about
            assert update.next_time_ns is None or update.next_time_ns < 2**63, about


def assert_sound_value(value: object, name: str, numbers: type[Decimal] | type[float], about: str) -> None:
    about = f"{name}: {about}"
    if isinstance(value, Level | BookChange):
        assert type(value.price) is numbers, about
    if isinstance(value, tuple):
        for inner in value:
            assert_sound_value(inner, name, numbers, about)
    elif isinstance(value, Decimal | float):
        assert type(value) is (float if name == "interval" else numbers), about
        assert Decimal(value).is_finite(), about
        assert name in SIGNED or not Decimal(value).is_signed(), about
    elif isinstance(value, str):  # a `Side` is one
        assert 0 < len(value) <= 64, about
        assert value.isascii(), about
        assert value.isprintable(), about
        assert " " not in value, about
    elif type(value) is int:
        assert 0 <= value < 2**63, about
        assert not name.endswith("_ns") or 10**18 <= value < 9 * 10**18, about
    else:
        assert value is None or type(value) is bool, about


def assert_sound_event(event: object, frame: dict[str, Any]) -> None:
    """What a session makes of *frame* is bounded and can be shown, whatever the exchange wrote."""
    about = repr(frame)[:2_000]
    match event:
        case Rejected(_, code, message):
            assert 0 <= code < 10**9, about
            assert len(message) <= 200, about
            assert message.isprintable(), about
        case LinkFull(_, limit):
            assert limit is None or 0 <= limit < 10**6, about
        case Slowed(seconds):
            assert seconds in (1.0, 10.0), about
        case Failed(error):
            assert isinstance(error, LinkError), about
            assert len(str(error)) <= 200, about
            assert str(error).isprintable(), about
        case Unknown(unknown):
            assert unknown is frame, about
        case _:
            assert isinstance(event, Welcomed | Acked), about


def run(desk: Desk, twin: Desk, numbers: range) -> Report:
    """Each message alone at *desk*, and in batches at *twin*, to which the same must come."""
    report = Report()
    rng = random.Random(numbers.start)
    left = list(numbers)
    while left:
        batch, left = left[: (count := rng.choice([1, 2, 2, 8]))], left[count:]
        if rng.random() < 0.2:
            for one in (desk, twin):
                one.lose(batch[0])
        for number in batch:
            check(desk, number, report)
        twin.stage(*(generate(number)[1] for number in batch))
        twin.take()
        about = f"messages {batch[0]} to {batch[-1]} together"
        assert twin.told() == desk.told(), about
        assert twin.refusals == desk.refusals, about
        assert twin.control == desk.control, about
        if rng.random() < 0.2:
            for one in (desk, twin):
                for queue in one.others:
                    list(taken(queue))
    for queue in desk.queues:
        counts = queue.statistics()
        gone = counts.delivered + counts.conflated + counts.dropped + counts.unchanged + counts.pending
        assert counts.received == gone
    report.causes = set(desk.refusals.causes)
    assert report.causes <= CAUSES, report.causes - CAUSES
    for sample in desk.refusals.samples.values():
        assert sample.isprintable()
        assert len(sample) <= 200
    return report


KINDS: dict[str, Callable[[], Desk]] = {
    "own": lambda: Desk(loads),
    "own, floats, raw": lambda: Desk(loads, float, keep_raw=True),
    "ujson, raw": lambda: Desk(ujson.loads, keep_raw=True),
    "orjson, floats": lambda: Desk(orjson.loads, float),
}


@pytest.mark.parametrize("kind", KINDS)
def test_garbage_is_survived_and_leaves_no_trace(kind: str) -> None:
    desk = KINDS[kind]()
    start = list(KINDS).index(kind) * SHORT  # other messages for each: what one decoder makes of them is no news
    report = run(desk, KINDS[kind](), range(start, start + SHORT))
    assert min(report.outcomes[outcome] for outcome in ("update", "refused", "other")) > SHORT // 20
    assert report.outcomes["after a gap"] > 10
    assert len(report.causes) > 40
    _, latest, changes, latest_changes = (queue.statistics() for queue in desk.queues)
    assert min(latest.conflated, changes.unchanged, latest_changes.unchanged, latest_changes.conflated) > 10
    assert min(one.delivered for one in (latest, changes, latest_changes)) > 10
    assert changes.dropped > 10


def test_a_trace_would_be_seen() -> None:
    """Each thing that a refused message might change makes another state."""
    desk = Desk(loads)
    candles = next(stream for stream in desk.subscribed if isinstance(stream.latest, Candle))
    assert isinstance(candles.latest, Candle)
    cell = candles.latest._latest
    assert cell is not None

    def moved(change: Callable[[], object]) -> bool:
        before = desk.state()
        change()
        return bool(desk.state() != before)

    assert not moved(lambda: None)
    assert moved(lambda: setattr(cell, "start_ns", cell.start_ns + 1))
    assert moved(lambda: setattr(desk.lateness, "late", 9))
    assert moved(lambda: setattr(candles, "latest", None))
    assert moved(lambda: desk.lose(0))
    assert moved(lambda: candles.remove(desk.queue))
    for queue in desk.queues:
        assert moved(lambda queue=queue: (queue.staged.append(desk.subscribed[1].latest), queue.hand_over()))
    parts = [stream for stream in desk.streams() if stream.whole is not stream]
    assert parts
    assert moved(lambda: setattr(parts[0], "latest", None))


def test_every_message_undamaged_is_an_update() -> None:
    """Else the garbage would be refused for what its maker got wrong."""
    for wire, subject, data in copy.deepcopy(MESSAGES):
        desk = Desk(loads)
        assert not desk.refusals.causes
        age(data, 20)
        touched = desk.stage(written_message((wire, subject, data)))
        assert touched, (wire, desk.refusals)
    assert {channel_of(wire) for wire, _, _ in MESSAGES} == {one.channel.path for one in TOPICS}
    assert {one.channel for one in TOPICS} == set(kufeed.protocol.CHANNELS)


def channel_of(wire: str) -> str:
    return wire.partition(":")[0]


DIGITS = b"9" * 4_000_000
LONG_RUN = pytest.mark.long
HUGE = {
    "digits": DIGITS,
    "minus digits": b"-" + DIGITS,
    "an exponent": b"1e" + DIGITS,
    "lists nested": b"[" * 400_000 + b"]" * 400_000,
    "objects nested": b'{"a":' * 400_000 + b"1" + b"}" * 400_000,
    "empty lists": b"[" + b"[]," * 1_000_000 + b"[]]",
    "levels": b"[" + b'["1","2"],' * 400_000 + b'["1","2"]]',
    "names": b"{" + b'"a":1,' * 650_000 + b'"a":1}',
    "bidi characters": b'"' + "\u202e".encode() * 1_000_000 + b'"',
    "lone surrogates": b'"' + b"\\ud800" * 500_000 + b'"',
}
"""As large as a message may be, in place of a price, of the data, of the topic, and of everything."""


@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=LONG_RUN if size in ("empty lists", "levels", "names") else ()) for size in HUGE]
)
def test_what_is_as_large_as_a_message_may_be_is_refused_and_told_in_short(size: str) -> None:
    """Also where the program has lifted Python's limit for integers: those of four million digits take minutes."""
    wire, subject, data = MESSAGES[1]
    frame = {"topic": wire, "subject": subject, "data": data}
    damaged = [{**frame, "data": {**data, "price": "?"}}, {**frame, "data": "?"}, {**frame, "topic": "?"}, "?"]
    payloads = [json.dumps(one).encode().replace(b'"?"', HUGE[size]) for one in damaged]
    desk = Desk(loads)
    before = desk.state()
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        assert desk.stage(*payloads) == set()
    finally:
        sys.set_int_max_str_digits(limit)
    assert desk.state() == before
    # A text that is nobody's topic is no damage, and an object without a topic is for the session.
    assert desk.refusals.causes.total() + desk.refusals.unwanted + desk.control == len(payloads)
    assert set(desk.refusals.causes) <= CAUSES
    assert all(len(sample) <= 200 for sample in desk.refusals.samples.values())


@pytest.mark.long
def test_a_million_messages_of_garbage_are_survived() -> None:
    started = time.perf_counter()
    report = Report()
    first = len(KINDS) * SHORT
    for start, kind in zip(range(first, first + LONG, 100_000), cycle(KINDS), strict=False):
        part = run(KINDS[kind](), KINDS[kind](), range(start, start + 100_000))
        report.outcomes.update(part.outcomes)
        report.slowest = max(report.slowest, part.slowest)
        report.causes |= part.causes
    seconds, names, number = report.slowest
    print(f"{LONG:,} messages in {time.perf_counter() - started:.0f} s: {dict(report.outcomes)}")
    print(f"{len(report.causes)} causes; slowest {seconds * 1e3:.1f} ms, message {number} ({names})")
