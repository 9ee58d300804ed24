"""Frames both ways: what we ask for, and what the server's answers mean."""

from __future__ import annotations

from typing import Any

import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from kufeed.protocol import Topic, messages, topic
from kufeed.protocol.messages import ErrorFrame, Meaning

from .. import samples

SYMBOLS = [f"C{number}-USDT" for number in range(320)] + [f"C{number}USDTM" for number in range(320)]
topic_sets = st.lists(st.builds(topic, st.sampled_from(["ticker", "trade"]), st.sampled_from(SYMBOLS)), unique=True)


# -- to the server ----------------------------------------------------------------------------------------------------


def test_a_ping() -> None:
    assert ujson.loads(messages.ping("3-17")) == {"id": "3-17", "type": "ping"}


@pytest.mark.parametrize("verb", ["subscribe", "unsubscribe"])
def test_a_request_asks_for_an_answer(verb: str) -> None:
    """`response` is false by default, and then nobody ever learns whether it worked."""
    frame = getattr(messages, verb)("3-18", "/market/ticker:BTC-USDT,ETH-USDT")
    assert ujson.loads(frame) == {
        "id": "3-18",
        "type": verb,
        "topic": "/market/ticker:BTC-USDT,ETH-USDT",
        "privateChannel": False,
        "response": True,
    }
    assert r"\/" not in frame


def test_topics_of_one_channel_are_joined_by_commas() -> None:
    made = [topic("trade", symbol) for symbol in ("XBTUSDTM", "ETHUSDTM")]
    assert messages.joined(iter(made)) == "/contractMarket/execution:XBTUSDTM,ETHUSDTM"


def test_the_topic_of_all_symbols_has_a_frame_of_its_own() -> None:
    """Comma lists are documented for symbols; nobody says what `all` among them does."""
    made = [topic("ticker", symbol) for symbol in ("BTC-USDT", "all", "ETH-USDT")]
    assert [messages.joined(batch) for batch in messages.batches(made)] == [
        "/market/ticker:BTC-USDT,ETH-USDT",
        "/market/ticker:all",
    ]


@given(topic_sets)
def test_a_batch_is_of_one_channel_and_at_most_100_symbols(wanted: list[Topic]) -> None:
    """Every topic is in exactly one, in its order; no frame more than needed."""
    batches = list(messages.batches(iter(wanted)))
    assert sorted(map(str, (one for batch in batches for one in batch))) == sorted(map(str, wanted))
    for batch in batches:
        assert 1 <= len(batch) <= 100
        assert len({one.channel for one in batch}) == 1
    for channel in {one.channel for one in wanted}:
        own = [one for one in wanted if one.channel is channel]
        assert [one for batch in batches for one in batch if one.channel is channel] == own
        assert sum(batch[0].channel is channel for batch in batches) == -(-len(own) // 100)


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (100, [100]), (101, [100, 1]), (300, [100] * 3)])
def test_batches_are_full_but_the_last(count: int, sizes: list[int]) -> None:
    wanted = [topic("ticker", symbol) for symbol in SYMBOLS[:count]]
    assert [len(batch) for batch in messages.batches(wanted)] == sizes


# -- from the server --------------------------------------------------------------------------------------------------


def error(code: Any, data: Any, **more: Any) -> ErrorFrame:
    return messages.read_error({"type": "error", "code": code, "data": data, **more})


@pytest.mark.parametrize(
    ("code", "text", "meaning", "wait"),
    [
        (401, "token is expired", Meaning.TOKEN_EXPIRED, 0.0),
        (404, "topic /market/ticker:NO-NO is not found", Meaning.TOPIC_REFUSED, 0.0),
        (415, "type is not supported", Meaning.OTHER, 0.0),
        (509, "exceed max permits per second", Meaning.TOO_FAST, 1.0),
        (509, "exceed max permits per 10 seconds", Meaning.TOO_FAST, 10.0),
        (509, "exceed max subscription count limitation of 100 per time", Meaning.FRAME_TOO_LARGE, 0.0),
        (509, "exceed max subscription count limitation of 300 per session", Meaning.LINK_FULL, 0.0),
        (509, "exceed max subscription count limitation of 100 per session", Meaning.LINK_FULL, 0.0),
        (509, "a text nobody has seen yet", Meaning.TOO_FAST, 10.0),
        (509, "", Meaning.TOO_FAST, 10.0),
        (500, "internal", Meaning.OTHER, 0.0),
    ],
)
def test_what_an_error_means(code: int, text: str, meaning: Meaning, wait: float) -> None:
    """509 stands for four different things; an unknown text of it is read as the careful one."""
    for frame_id, read in (("7-1", error(code, text, id="7-1")), (None, error(code, text))):
        assert (read.frame_id, read.code, read.message, read.meaning, read.wait) == (
            frame_id,
            code,
            text,
            meaning,
            wait,
        )


def test_meanings_are_words_where_they_are_printed() -> None:
    assert [meaning.value for meaning in Meaning] == [
        *("token expired", "topic refused", "too many frames: wait", "too many symbols in one frame"),
        *("too many topics on this connection", "other"),
    ]


def test_what_an_error_names() -> None:
    assert error(404, "topic /market/ticker:NO-NO is not found").topic == "/market/ticker:NO-NO"
    assert error(404, "no such thing").topic is None
    assert error(509, "exceed max subscription count limitation of 98 per session").limit == 98
    assert error(509, "exceed max permits per second").limit is None


def test_every_control_frame_of_the_samples_has_its_meaning() -> None:
    """Line by line: welcome, ack, pong carry their ids, and each recorded error text its meaning."""
    frames = [ujson.loads(sample.text) for sample in samples.load("control_frames.jsonl")]
    found = [
        (frame["type"], messages.read_id(frame), messages.read_error(frame).meaning if "code" in frame else None)
        for frame in frames
    ]
    assert found == [
        ("welcome", "hQvf8jkno", None),
        ("welcome", "NSkIrWGB1s", None),
        ("ack", "1545910660739", None),
        ("ack", "1", None),
        ("pong", "1545910590801", None),
        ("error", None, Meaning.TOKEN_EXPIRED),
        ("error", "1551623050668", Meaning.TOPIC_REFUSED),
        ("error", "1", Meaning.OTHER),
        ("error", None, Meaning.TOO_FAST),
        ("error", "XMFzvWJeHw", Meaning.TOO_FAST),
        ("error", "1", Meaning.FRAME_TOO_LARGE),
        ("error", "1", Meaning.LINK_FULL),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", "1"),
        ("", ""),
        (1, "1"),
        (-1, "-1"),
        (1545910660739, "1545910660739"),
        (10**20 - 1, "9" * 20),
        (10**20, None),
        (-(10**20), None),
        (10**100_000, None),
    ],
    ids=lambda value: "huge" if isinstance(value, int) and value > 10**30 else None,
)
def test_an_id_is_text_even_where_the_server_wrote_a_number(value: Any, expected: str | None) -> None:
    assert messages.read_id({"id": value}) == expected


@pytest.mark.parametrize("value", [None, True, 1.0, [], {}, ["1"]])
def test_what_is_no_id_is_none(value: Any) -> None:
    assert messages.read_id({"id": value}) is None
    assert messages.read_id({}) is None


@pytest.mark.parametrize(
    ("code", "read"), [(0, 0), (1, 1), (10**9 - 1, 10**9 - 1), (10**9, 0), (-1, 0), (404.0, 0), (None, 0)]
)
def test_a_code_is_a_number_of_nine_digits_or_0(code: Any, read: int) -> None:
    assert error(code, "").code == read


def test_the_text_of_an_error_is_shown_as_far_as_it_is_one() -> None:
    assert error(500, "ab" * 100).message == "ab" * 100
    assert error(500, "ab" * 100 + "c").message == "ab" * 100
    assert error(500, "a\nb").message == r"'a\nb'"
    assert error(500, {"a": 1}).message == "dict"
    assert messages.read_error({"type": "error"}) == ErrorFrame(None, 0, "", Meaning.OTHER)


def test_an_error_names_nothing_unless_its_text_does() -> None:
    bare = ErrorFrame("1", 500, "internal", Meaning.OTHER)
    assert (bare.wait, bare.limit, bare.topic) == (0.0, None, None)
    assert error(500, "internal", id="1") == bare
    assert error(404, "topic is not found") == ErrorFrame(None, 404, "topic is not found", Meaning.TOPIC_REFUSED)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "data",
    [None, 1, 10**100_000, [], nested(1_000), {"a": nested(1_000)}, "x" * 10**6, "\ud800", "\x1b[31m", [10**100_000]],
    ids=["None", "1", "huge", "list", "nested", "nested in an object", "long", "surrogate", "escape", "huge in a list"],
)
@pytest.mark.parametrize("code", [401, 404, 509, None, "404", True, 10**100_000, []], ids=lambda code: str(type(code)))
def test_an_error_frame_of_any_shape_is_read(data: Any, code: Any) -> None:
    """Its text ends up in error messages and logs: bounded, whatever the server put there."""
    read = error(code, data, id=data)
    assert isinstance(read.meaning, Meaning)
    assert len(read.message) <= 200
    assert read.message.isprintable()
    assert read.code == (code if code in (401, 404, 509) else 0)
