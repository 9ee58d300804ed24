"""From payloads to the queues: what is wanted arrives in order, what is not is counted, and nothing is raised."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs
import orjson
import pytest
import ujson
from hypothesis import given, settings
from hypothesis import strategies as st

from kufeed._buffers import Overflow
from kufeed._channels import UpdateQueue
from kufeed._json import loads as own_loads
from kufeed._lateness import Lateness
from kufeed._refusals import Refusals
from kufeed._streams import Routes, Stream, stage
from kufeed.errors import MessageRefused
from kufeed.protocol import Channel, MergeKey, Topic, UpdateType, topic
from kufeed.protocol.spot import SPOT

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1_750_000_000_500_000_000

TICKER = topic("ticker", "AB-CD")
TRADES = topic("trade", "AB-CD")
FUTURES = topic("trade", "ABCDM")
MARK_PRICE, INDEX_PRICE = topic("mark_price", "ABCDM"), topic("index_price", "ABCDM")


def ticker(sequence: int, **more: Any) -> dict[str, Any]:
    data = {
        "sequence": str(sequence),
        "bestBid": "1.1",
        "bestBidSize": "2",
        "bestAsk": "1.2",
        "bestAskSize": "3",
        "price": "1.1",
        "size": "0.5",
        "time": 1_750_000_000_250,
    }
    return {"type": "message", "topic": str(TICKER), "subject": "trade.ticker", "data": {**data, **more}}


def spot_trade(sequence: int, **more: Any) -> dict[str, Any]:
    data = {
        "symbol": "AB-CD",
        "sequence": str(sequence),
        "price": "1.1",
        "size": "0.5",
        "side": "buy",
        "tradeId": f"t{sequence}",
        "time": "1750000000250000000",
    }
    return {"type": "message", "topic": str(TRADES), "subject": "trade.l3match", "data": {**data, **more}}


def futures_trade(sequence: int, **more: Any) -> dict[str, Any]:
    data = {
        "symbol": "ABCDM",
        "sequence": sequence,
        "price": 1.1,
        "size": 4,
        "side": "sell",
        "tradeId": f"t{sequence}",
        "ts": 1_750_000_000_250_000_000,
    }
    return {"subject": "match", "topic": str(FUTURES), "type": "message", "sn": sequence, "data": {**data, **more}}


LOADS = {"own": own_loads, "ujson": ujson.loads, "orjson": orjson.loads, "json": json.loads}
MAKERS = [ticker, spot_trade, futures_trade]


class Desk:
    """A queue that wants some topics, and everything else that `stage()` tells."""

    def __init__(self, *topics: Topic, loads: Callable[[bytes], Any] = own_loads) -> None:
        self.queue = UpdateQueue(dict.fromkeys(UpdateType, Overflow.DROP_OLDEST), 10_000)
        self.routes = Routes()
        self.streams = [Stream(one) for one in topics]
        for stream in self.streams:
            stream.add(self.queue)
            self.routes.add(stream)
        self.loads = loads
        self.control: list[Any] = []
        self.refusals = Refusals()
        self.lateness = Lateness(None)
        self.hide: Callable[[str], str] = str

    def stage(self, *payloads: bytes | dict[str, Any]) -> set[Stream]:
        return stage(
            [one if isinstance(one, bytes) else json.dumps(one).encode() for one in payloads],
            loads=self.loads,
            by_wire=self.routes.by_wire,
            received_time_ns=NOW,
            on_control=self.control.append,
            refusals=self.refusals,
            lateness=self.lateness,
            hide=self.hide,
        )

    def staged(self) -> list[tuple[str, int | None]]:
        return [(str(update.topic), update.sequence) for update in self.queue.staged]

    def received(self) -> int:
        return self.queue.statistics().received + len(self.queue.staged)

    def assert_untouched(self) -> None:
        assert self.staged() == []
        assert self.control == []


# -- what is wanted ---------------------------------------------------------------------------------------------------


def test_updates_are_staged_in_the_order_of_their_messages() -> None:
    desk = Desk(TICKER, TRADES, FUTURES)
    touched = desk.stage(ticker(1), futures_trade(9), spot_trade(5), ticker(2))
    assert desk.staged() == [(str(TICKER), 1), (str(FUTURES), 9), (str(TRADES), 5), (str(TICKER), 2)]
    assert touched == set(desk.streams)
    assert all(update.received_time_ns == NOW for update in desk.queue.staged)
    assert (desk.refusals.causes, desk.refusals.unwanted, desk.control) == ({}, 0, [])


def test_only_the_streams_that_have_something_staged_are_told() -> None:
    desk = Desk(TICKER, TRADES, FUTURES)
    assert desk.stage(spot_trade(1)) == {desk.streams[1]}
    assert desk.stage(ticker(1, price="?")) == set()
    assert desk.stage() == set()


def test_one_decoding_serves_every_queue_that_wants_the_stream() -> None:
    desk = Desk(TICKER)
    other = UpdateQueue(dict.fromkeys(UpdateType, Overflow.DROP_OLDEST), 10)
    desk.streams[0].add(other)
    desk.stage(ticker(1))
    assert desk.queue.staged[0] is other.staged[0]
    desk.streams[0].remove(desk.queue)
    desk.stage(ticker(2))
    assert len(desk.queue.staged) == 1
    assert len(other.staged) == 2


def test_route_lists_are_copied_on_change() -> None:
    """The decoding loop may be walking over the old one."""
    stream = Stream(TICKER)
    stream.add(UpdateQueue(dict.fromkeys(UpdateType, Overflow.DROP_OLDEST), 1))
    queues, stagers = stream.sinks, stream.stagers
    stream.add(UpdateQueue(dict.fromkeys(UpdateType, Overflow.DROP_OLDEST), 1))
    assert (len(queues), len(stagers), len(stream.sinks), len(stream.stagers)) == (1, 1, 2, 2)


def test_fields_nobody_knows_and_any_order_of_fields_survive() -> None:
    desk = Desk(TICKER)
    message = {**ticker(1), "sn": 1, "userId": None, "channelType": "public"}
    other = {**ticker(2), "sn": 1, "userId": None, "channelType": "public"}
    desk.stage(message, dict(reversed(other.items())))
    assert len(desk.queue.staged) == 2


# -- several streams on one wire topic --------------------------------------------------------------------------------


@attrs.frozen
class Note:
    topic: Topic
    sequence: int
    exchange_time_ns = None


def channel(*subjects: str, refuses: str = "bad") -> Channel:
    """A channel whose wire topic others may share, as mark prices and funding rates share `/contract/instrument`."""

    def decode(message: Any, topic: Topic, received_time_ns: int) -> Note:
        if refuses in message["data"]:
            raise MessageRefused(refuses, "in the data")
        return Note(topic, message["data"]["n"])

    return Channel(
        market=SPOT,
        kind=UpdateType.TICKER,
        path="/shared/topic",
        subjects=subjects,
        record=Note,
        decoders={Decimal: decode},
        merge_key=MergeKey.TIME,
        time="none",
        source="made up",
    )


MARK, INDEX, FUNDING, ANY = (
    Topic(channel(*subjects), "S-S") for subjects in (["mark"], ["mark"], ["rate", "settled"], [])
)


def note(subject: Any, n: int) -> dict[str, Any]:
    return {"topic": "/shared/topic:S-S", "subject": subject, "data": {"n": n}}


def staged_by(desk: Desk) -> list[tuple[Topic, int]]:
    return [(one.topic, one.sequence) for one in desk.queue.staged]  # type: ignore[misc]


def test_streams_that_share_a_wire_topic_are_told_apart_by_subject() -> None:
    desk = Desk(MARK, FUNDING)
    desk.stage(note("mark", 1), note("rate", 2), note("settled", 3), note("mark", 4), note("other", 5))
    assert staged_by(desk) == [(MARK, 1), (FUNDING, 2), (FUNDING, 3), (MARK, 4)]
    assert desk.refusals.unwanted == 1


def test_a_stream_without_subjects_takes_what_no_other_wants() -> None:
    """The subject of such a channel carries something else, such as the symbol."""
    desk = Desk(MARK, ANY)
    desk.stage(note("mark", 1), note("whatever", 2))
    assert staged_by(desk) == [(MARK, 1), (ANY, 2)]


def test_removing_a_stream_leaves_its_neighbours() -> None:
    desk = Desk(MARK, FUNDING)
    mark, funding = desk.streams
    assert desk.routes.streams() == [mark, funding], "each once, however many subjects it has"
    desk.routes.remove(funding)
    desk.stage(note("mark", 1), note("rate", 2), note("settled", 3))
    assert staged_by(desk) == [(MARK, 1)]
    assert desk.refusals.unwanted == 2
    desk.routes.remove(mark)
    desk.routes.remove(mark)
    assert desk.routes.by_wire == {}


def test_what_came_before_a_stream_was_added_goes_to_its_neighbours_alone() -> None:
    desk = Desk(MARK, FUNDING)
    mark, funding = desk.streams
    before = desk.routes.mark
    assert desk.routes.as_of(before) is desk.routes.by_wire
    desk.routes.add(mark)
    assert desk.routes.mark == before, "it was there"
    desk.routes.remove(funding)
    desk.routes.add(funding)
    assert desk.routes.as_of(before) == {str(MARK): {"mark": (mark,)}}
    assert desk.routes.as_of(desk.routes.mark) is desk.routes.by_wire
    desk.routes.remove(mark)
    desk.routes.add(mark)
    assert desk.routes.as_of(before) == {}


def test_streams_that_share_wire_topic_and_subject_get_each_an_update_of_their_own() -> None:
    desk = Desk(MARK, INDEX)
    mark, index = desk.streams
    assert desk.routes.streams() == [mark, index]
    assert desk.stage(note("mark", 1), note("mark", 2)) == {mark, index}
    assert staged_by(desk) == [(MARK, 1), (INDEX, 1), (MARK, 2), (INDEX, 2)]
    assert [one.latest.sequence for one in desk.streams if one.latest is not None] == [2, 2]
    desk.routes.add(mark)
    desk.routes.remove(mark)
    desk.stage(note("mark", 3))
    assert staged_by(desk)[4:] == [(INDEX, 3)], "added twice, it was there once"


@pytest.mark.parametrize("shared", [[MARK_PRICE, INDEX_PRICE], [INDEX_PRICE, MARK_PRICE]])
def test_what_one_of_them_refuses_none_of_them_delivers(shared: list[Topic]) -> None:
    """The index price does not look at everything that the mark price needs, or the other way round."""
    strict = Topic(channel("mark", refuses="worse"), "S-S")
    for order in ([strict, MARK], [MARK, strict]):
        desk = Desk(*order)
        assert desk.stage({"topic": "/shared/topic:S-S", "subject": "mark", "data": {"n": 1, "worse": 1}}) == set()
        assert desk.queue.staged == []
        assert desk.refusals.causes == {"worse": 1}
        assert [one.latest for one in desk.streams] == [None, None]
    desk = Desk(*shared)
    assert desk.stage(prices(markPrice="?"), prices(indexPrice=None)) == set()
    assert desk.refusals.causes == {"markPrice": 1, "indexPrice": 1}
    assert desk.stage(prices()) == set(desk.streams)


def prices(**more: Any) -> dict[str, Any]:
    data = {"markPrice": 1.5, "indexPrice": 1.25, "granularity": 1000, "timestamp": 1_750_000_000_250}
    return {"topic": "/contract/instrument:ABCDM", "subject": "mark.index.price", "data": {**data, **more}}


# -- what comes without its symbol ------------------------------------------------------------------------------------


def announced(symbol: Any, **more: Any) -> dict[str, Any]:
    time = 1_750_000_000_250
    data = {"symbol": symbol, "fundingTime": time, "fundingRate": -0.002966, "timestamp": time}
    return {"topic": "/contract/announcement", "subject": "funding.begin", "data": {**data, **more}}


def test_an_announcement_goes_by_the_symbol_in_its_data_in_its_place() -> None:
    one, other = topic("announcement", "ABCDM"), topic("announcement", "EFGHM")
    desk = Desk(one, other, FUTURES)
    touched = desk.stage(futures_trade(1), announced("EFGHM"), futures_trade(2), announced("ABCDM"))
    assert touched == set(desk.streams)
    assert [update.topic for update in desk.queue.staged] == [FUTURES, other, FUTURES, one]
    assert desk.refusals.unwanted == 0
    ended = {**announced("ABCDM"), "subject": "funding.end"}
    assert desk.stage({**ended, "topic": str(one)}) == {desk.streams[0]}, "documents show both forms"


@pytest.mark.parametrize(
    "frame",
    [
        *(announced("OTHERM"), {**announced("ABCDM"), "subject": "other"}),
        {**announced("ABCDM"), "topic": "/contractMarket/execution"},
    ],
)
def test_an_announcement_that_nobody_wants_is_counted(frame: dict[str, Any]) -> None:
    desk = Desk(topic("announcement", "ABCDM"), FUTURES)
    assert desk.stage(frame) == set()
    assert (desk.refusals.unwanted, desk.refusals.causes) == (1, {})


@pytest.mark.parametrize("symbol", [None, 7, ["ABCDM"]])
def test_an_announcement_that_does_not_say_whom_it_concerns_is_refused(symbol: Any) -> None:
    desk = Desk(topic("announcement", "ABCDM"), FUTURES)
    assert desk.stage(announced(symbol)) == set()
    assert (desk.refusals.unwanted, desk.refusals.causes) == (0, {"symbol": 1})


@pytest.mark.parametrize("loads", LOADS)
@pytest.mark.parametrize("symbol", [b"9" * 10_000, b"[" * 1_000 + b"]" * 1_000], ids=["digits", "nested"])
def test_a_symbol_that_has_no_text_is_nobodys(symbol: bytes, loads: str) -> None:
    desk = Desk(topic("announcement", "ABCDM"), loads=LOADS[loads])
    text = json.dumps(announced("?")).encode().replace(b'"?"', symbol)
    assert desk.stage(text) == set()
    assert desk.refusals.unwanted + desk.refusals.causes.total() == 1


@pytest.mark.parametrize("name", ["fundingTime", "fundingRate", "timestamp"])
def test_a_damaged_announcement_is_refused_by_its_field(name: str) -> None:
    desk = Desk(topic("announcement", "ABCDM"))
    without = announced("ABCDM")
    del without["data"][name]
    assert desk.stage(announced("ABCDM", **{name: "?"}), without) == set()
    assert desk.refusals.causes == {name: 2}
    assert desk.queue.staged == []


# -- what is not wanted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        {**ticker(1), "topic": "/market/ticker:EF-GH"},
        {**ticker(1), "topic": "/market/level2:AB-CD"},
        {**ticker(1), "topic": ""},
        {**ticker(1), "subject": "trade.snapshot"},
        {"topic": "/market/ticker:EF-GH", "data": None},
    ],
)
def test_what_nobody_here_asked_for_is_counted_as_unwanted(message: dict[str, Any]) -> None:
    desk = Desk(TICKER)
    assert desk.stage(message) == set()
    desk.assert_untouched()
    assert (desk.refusals.unwanted, desk.refusals.causes) == (1, {})


@pytest.mark.parametrize("frame", [{"id": "1", "type": "ack"}, {}, {"type": "notice"}, {"code": "200000", "data": []}])
def test_a_frame_without_a_topic_goes_to_the_session(frame: dict[str, Any]) -> None:
    desk = Desk(TICKER)
    desk.stage(ticker(1), frame, ticker(2))
    assert desk.control == [frame]
    assert desk.staged() == [(str(TICKER), 1), (str(TICKER), 2)]
    assert (desk.refusals.unwanted, desk.refusals.causes) == (0, {})


# -- what is not valid ------------------------------------------------------------------------------------------------


NOT_A_TOPIC: list[Any] = [None, 1, [], {}, [str(TICKER)], True]


@pytest.mark.parametrize(
    ("payload", "cause"),
    [
        *((text, "json") for text in (b"", b"{", b"nonsense", b"\xff", b"{}{}", b'{"a":1', b"[" * 400_000)),
        (b"9" * 4_000_000, "json"),
        *((text, "envelope") for text in (b"[]", b"1", b"null", b'"topic"', b"true", b'["topic"]', b"1.5")),
        *(({**ticker(1), "topic": wire}, "topic") for wire in NOT_A_TOPIC),
        ({key: value for key, value in ticker(1).items() if key != "topic"}, "topic"),
        ({"type": "message", "data": {}}, "topic"),
        ({key: value for key, value in ticker(1).items() if key != "subject"}, "subject"),
        *(({**ticker(1), "subject": subject}, "subject") for subject in (None, 1, ["trade.ticker"], {})),
        *(({**ticker(1), "data": data}, "data") for data in (None, [], "text", 1, ["symbol"])),
        ({key: value for key, value in ticker(1).items() if key != "data"}, "data"),
        ({**ticker(1), "data": {}}, "bestBid"),
        (ticker(1, price="1_0"), "price"),
        (ticker(-1), "sequence"),
        (ticker(1, time=1), "time"),
        (spot_trade(1, symbol="EF-GH"), "symbol"),
        (spot_trade(1, symbol=None), "symbol"),
        (spot_trade(1, side="both"), "side"),
        (spot_trade(1, tradeId=7), "tradeId"),
        (b'{"topic":"/market/match:AB-CD","subject":"trade.l3match","data":{"symbol":"AB-CD"}}', "sequence"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value)[:12],
)
def test_what_is_not_valid_is_counted_by_its_cause_and_changes_nothing(
    payload: bytes | dict[str, Any], cause: str
) -> None:
    desk = Desk(TICKER, TRADES)
    assert desk.stage(payload) == set()
    desk.assert_untouched()
    assert (desk.refusals.causes, desk.refusals.unwanted) == ({cause: 1}, 0)
    assert list(desk.refusals.samples) == [cause]
    assert len(desk.refusals.samples[cause]) < 200


@pytest.mark.parametrize(
    "number",
    [b"-", b"01", b"1.", b"1.e5", b"00", b"-01", b"-.5", b"-0.", b"1e400", b"NaN", b"-Infinity"],
    ids=bytes.decode,
)
@pytest.mark.parametrize("loads", ["own", "orjson"])
def test_a_number_that_is_no_json_is_refused(loads: str, number: bytes) -> None:
    """Also where the price is a JSON number, as in messages of 2023 and before."""
    desk = Desk(FUTURES, loads=LOADS[loads])
    desk.stage(json.dumps(futures_trade(1)).encode().replace(b'"price": 1.1', b'"price": ' + number))
    desk.assert_untouched()
    assert desk.refusals.causes in ({"price": 1}, {"json": 1})


def test_of_each_cause_the_first_is_kept_as_a_sample() -> None:
    desk = Desk(TICKER)
    desk.stage(ticker(1, price="first"), ticker(2, price="second"), ticker(3, size="third"))
    assert desk.refusals.causes == {"price": 2, "size": 1}
    assert desk.refusals.samples == {"price": "price: 'first'", "size": "size: 'third'"}


def test_duplicate_keys_are_read_as_the_json_decoder_reads_them() -> None:
    """The last one counts, in ujson as in json; whichever it is must be valid."""
    desk = Desk(TICKER)
    text = json.dumps(ticker(1))
    desk.stage(text.replace('"price": "1.1"', '"price": "x", "price": "1.1"').encode())
    desk.stage(text.replace('"price": "1.1"', '"price": "1.1", "price": "x"').encode())
    assert len(desk.queue.staged) == 1
    assert desk.refusals.causes == {"price": 1}


@pytest.mark.parametrize("loads", LOADS)
def test_a_bad_message_is_decoded_once(loads: str) -> None:
    """Four megabytes of legal nonsense hold everybody up once, not twice."""
    decoded: list[bytes] = []

    def counting(payload: bytes) -> Any:
        decoded.append(payload)
        return LOADS[loads](payload)

    desk = Desk(TICKER, topic("announcement", "ABCDM"), loads=counting)
    desk.stage(
        b"{", b"[]", ticker(1, price="?"), {}, spot_trade(1), announced("ABCDM"), announced("ABCDM", fundingRate=[])
    )
    assert len(decoded) == 7
    assert desk.refusals.causes == {"json": 1, "envelope": 1, "price": 1, "fundingRate": 1}


def test_what_is_kept_of_a_refused_message_is_hidden_where_it_must_be() -> None:
    desk = Desk(TICKER)
    desk.hide = lambda text: "(hidden)"
    desk.stage(ticker(1, price="secret"), {**ticker(1), "data": None}, announced("secret", fundingRate="secret"))
    assert desk.refusals.samples == {"price": "(hidden)", "data": "(hidden)"}


# -- when it was sent -------------------------------------------------------------------------------------------------

MS, MINUTE, HOUR = 10**6, 60 * 10**9, 3600 * 10**9


def sent(age_ns: int) -> list[dict[str, Any]]:
    """A message of each way to the queues: of one stream, of two that share it, without its symbol in the topic."""
    ms = (NOW - age_ns) // MS
    return [ticker(1, time=ms), prices(timestamp=ms), announced("ABCDM", timestamp=ms)]


@pytest.mark.parametrize(
    ("age", "late", "misdated"),
    [(100 * MS, False, False), (101 * MS, True, False), (HOUR + MS, False, True), (-MINUTE - MS, False, True)],
)
def test_an_update_is_flagged_before_anybody_has_it_and_delivered_like_any_other(
    age: int, late: bool, misdated: bool
) -> None:
    desk = Desk(TICKER, MARK_PRICE, INDEX_PRICE, topic("announcement", "ABCDM"))
    desk.lateness = Lateness(0.1)
    seen: list[tuple[bool, bool]] = []
    for stream in desk.streams:
        stream.stagers = (lambda update: seen.append((update.late, update.misdated)), *stream.stagers)
    assert desk.stage(*sent(age)) == set(desk.streams)
    assert seen == [(late, misdated)] * 4
    assert len(desk.queue.staged) == 4
    assert (desk.lateness.late, desk.lateness.misdated) == (4 * late, 4 * misdated)
    assert desk.refusals.causes == {}


def test_an_update_without_a_time_is_in_time_and_a_refused_one_is_nothing() -> None:
    desk = Desk(TICKER)
    desk.lateness = Lateness(0.1)
    desk.stage(ticker(1, time=None), ticker(2, time=NOW // MS - 200, price="?"))
    assert [(update.late, update.misdated) for update in desk.queue.staged] == [(False, False)]
    assert (desk.lateness.late, desk.lateness.misdated) == (0, 0)


# -- garbage among good messages --------------------------------------------------------------------------------------

junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from([2**63, 10**400, "1_0", " 1 ", "١", "1e999999", "NaN", "-1", "\u202e", "x" * 10_000, [], {}, [[]]]),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)),
)
good = st.sampled_from(MAKERS).map(lambda maker: maker(1))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid message with one thing wrong with it, by name or by byte; it may still be valid."""
    message = draw(good)
    match draw(st.sampled_from(["field", "envelope", "missing", "byte", "cut", "spliced", "nested", "digits"])):
        case "field":
            message["data"][draw(st.sampled_from(sorted(message["data"])))] = draw(junk)
        case "envelope":
            message[draw(st.sampled_from(sorted(message)))] = draw(junk)
        case "missing":
            part = draw(st.sampled_from([message, message["data"]]))
            del part[draw(st.sampled_from(sorted(part)))]
        case "nested":
            depth = draw(st.sampled_from([10, 1_000, 5_000, 100_000]))
            text = json.dumps(message).replace(draw(st.sampled_from(['"1.1"', '"buy"', '"message"'])), "[" * depth)
            return text.encode() + b"]" * depth
        case "digits":
            return (
                json.dumps(message).replace("1750000000", "9" * draw(st.sampled_from([9, 500, 4_400, 10**5]))).encode()
            )
        case damage:
            written = bytearray(json.dumps(message).encode())
            place = draw(st.integers(0, len(written) - 1))
            if damage == "byte":
                written[place] = draw(st.integers(0, 255))
            elif damage == "cut":
                del written[place:]
            else:
                written[place:place] = draw(st.binary(max_size=10))
            return bytes(written)
    return json.dumps(message).encode()


bad = damaged() | st.binary(max_size=100) | st.builds(lambda value: json.dumps(value).encode(), junk)


@pytest.mark.parametrize("loads", LOADS)
@given(st.lists(st.tuples(bad, good), min_size=1, max_size=5))
@settings(max_examples=400, deadline=None)
def test_garbage_costs_nothing_but_itself(loads: str, pairs: list[tuple[bytes, dict[str, Any]]]) -> None:
    """Every good message around the bad ones arrives, in order; every bad one is counted exactly once, or was valid."""
    desk = Desk(TICKER, TRADES, FUTURES, loads=LOADS[loads])
    accepted = 0
    for number, (payload, message) in enumerate(pairs, start=2**63 - 10):  # higher than garbage can make a number
        message["data"]["sequence"] = type(message["data"]["sequence"])(number)
        before = desk.received()
        desk.stage(payload)
        accepted += desk.received() - before
        desk.stage(message)
        assert desk.staged()[-1] == (message["topic"], number)
    late = desk.refusals.duplicates + desk.refusals.disordered
    assert desk.received() == len(pairs) + accepted
    assert accepted + late + len(desk.control) + desk.refusals.unwanted + desk.refusals.causes.total() == len(pairs)

    batch = Desk(TICKER, TRADES, FUTURES, loads=LOADS[loads])
    batch.stage(*(one for pair in pairs for one in pair))
    assert batch.staged() == desk.staged(), "one batch or many: the same"
    assert batch.refusals == desk.refusals
    assert len(batch.control) == len(desk.control)
