"""One link's life, with time as an argument: first each promise by an example, then all of them against a machine."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
import ujson
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kufeed.errors import DialError, LinkSilent, SendStuck, TokenExpired
from kufeed.protocol import Topic, topic
from kufeed.protocol.session import (
    Acked,
    Event,
    Failed,
    Frame,
    LinkFull,
    Ponged,
    Rejected,
    Session,
    Slowed,
    Unanswered,
    Unknown,
    Welcomed,
)

PING, PONG, ACK = 18.0, 10.0, 5.0
WELCOME = {"id": "kufeed-1", "type": "welcome"}

A, B, C, D = (topic("ticker", f"{letter}-USDT") for letter in "ABCD")
MANY = [topic("ticker", f"C{number}-USDT") for number in range(250)]
MARK, INDEX = topic("mark_price", "XBTUSDTM"), topic("index_price", "XBTUSDTM")
"""Two kinds, and one topic on the wire."""
TRADES = [topic("trade", f"C{number}-USDT") for number in range(3)]


class Client:
    """A session and its sender: what goes out is taken by the network at once, unless `stuck`."""

    def __init__(self, *, generation: int = 1, ack_timeout: float = ACK, welcome: bool = True) -> None:
        self.now = 100.0
        self.session = Session(
            generation=generation,
            welcome_by=self.now + 10,
            ping_interval=PING,
            pong_timeout=PONG,
            ack_timeout=ack_timeout,
        )
        self.events: list[Event] = []
        self.frames: list[dict[str, Any]] = []
        if welcome:
            assert self.receive(WELCOME) == [Welcomed()]
            self.events.clear()

    def receive(self, frame: dict[str, Any]) -> list[Event]:
        self.session.heard()
        events = self.session.receive(frame, self.now)
        self.events += events
        return events

    def ack(self, frame: dict[str, Any]) -> list[Event]:
        return self.receive({"id": frame["id"], "type": "ack"})

    def error(self, frame: dict[str, Any] | None, code: int, text: str) -> list[Event]:
        named = {} if frame is None else {"id": frame["id"]}
        return self.receive({**named, "type": "error", "code": code, "data": text})

    def flush(self) -> list[dict[str, Any]]:
        """Send what is due; the frames that went out."""
        sent = []
        while (frame := self.session.next_frame()) is not None:
            self.session.sending(frame, self.now)
            self.session.sent()
            sent.append(ujson.loads(frame.text))
        self.frames += sent
        return sent

    def pass_time(self, seconds: float, *, heard: bool = False) -> list[Event]:
        """Let time go by, doing what is due when it is due. With *heard*, data arrive all the while."""
        until = self.now + seconds
        events: list[Event] = []
        turns = 0
        while (due := self.session.deadline()) <= until:
            assert due >= self.now
            turns += 1
            assert turns < 100_000, "what is due is never done"
            self.now = due
            if heard:
                self.session.heard()
            events += self.session.tick(self.now)
            self.flush()
        self.now = until
        self.events += events
        return events

    def pings(self) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == "ping"]


def asked(frames: list[dict[str, Any]]) -> list[str]:
    return [symbol for frame in frames for symbol in frame["topic"].partition(":")[2].split(",")]


# -- welcome ----------------------------------------------------------------------------------------------------------


def test_no_request_goes_out_before_the_welcome() -> None:
    client = Client(welcome=False)
    client.session.subscribe([A])
    assert not client.session.wants_to_send()
    assert client.flush() == []
    client.receive(WELCOME)
    assert client.session.wants_to_send()
    assert [frame["type"] for frame in client.flush()] == ["subscribe"]
    assert not client.session.wants_to_send()


def test_without_a_welcome_in_time_the_link_fails() -> None:
    client = Client(welcome=False)
    assert client.session.deadline() == 110.0
    assert client.pass_time(9.999) == []
    (failed,) = client.pass_time(0.001)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, DialError)
    assert str(failed.error) == "welcome: the server sent no welcome"
    assert failed.error.phase == "welcome"


def test_what_it_is_at_first() -> None:
    session = Client(generation=7, welcome=False).session
    assert (session.generation, session.ping_interval, session.pong_timeout, session.ack_timeout) == (
        7,
        PING,
        PONG,
        ACK,
    )
    assert (session.welcomed, session.has_ponged, session.is_held, session.holds) == (False, False, False, 0)
    session.receive(WELCOME, 100.0)
    assert session.welcomed is True
    assert [session.probe(), session.probe()] == ["7-1", "7-2"]


def test_a_second_welcome_is_a_frame_nobody_waited_for() -> None:
    client = Client()
    before = client.session.deadline()
    client.now += 3
    assert client.receive(WELCOME) == [Unknown(WELCOME)]
    assert client.session.deadline() == before, "it does not move the schedule of the pings"


# -- pings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heard", [False, True], ids=["answered", "data flow"])
def test_pings_go_out_on_a_fixed_schedule_whether_or_not_data_flow(heard: bool) -> None:
    """The server closes a link without pings after 60 s even while it sends (PROTOCOL.md, section 3)."""
    client = Client()
    times = []
    for _ in range(200):
        client.now = client.session.deadline()
        assert client.session.tick(client.now) == []
        times.append(client.now)
        (ping,) = client.flush()
        assert ping["type"] == "ping"
        if heard:
            client.session.heard()
        else:
            assert client.receive({"id": ping["id"], "type": "pong"}) == []
    assert times == [100.0 + PING * count for count in range(1, 201)]
    assert len({ping["id"] for ping in client.frames} - {None}) == 200, "each has an id of its own"


def test_a_late_tick_does_not_shift_the_schedule_and_sends_one_ping() -> None:
    client = Client()
    client.now = 100 + 5 * PING + 1
    client.session.heard()
    client.session.tick(client.now)
    assert len(client.flush()) == 1
    client.session.heard()
    assert client.session.deadline() == 100 + 6 * PING


def test_a_ping_goes_before_requests() -> None:
    client = Client()
    client.session.subscribe([A])
    client.now += PING
    client.session.tick(client.now)
    assert [frame["type"] for frame in client.flush()] == ["ping", "subscribe"]


def test_a_ping_that_waits_for_its_turn_is_not_joined_by_another() -> None:
    client = Client()
    for _ in range(3):
        client.now += PING
        client.session.tick(client.now)
    assert [frame["type"] for frame in client.flush()] == ["ping"]


@pytest.mark.parametrize("frame", [{"type": "pong", "id": "other"}, {"type": "ack"}, {"type": "notice"}, {}])
def test_whatever_arrives_proves_the_link_alive(frame: dict[str, Any]) -> None:
    client = Client()
    client.pass_time(PING)
    assert client.session.deadline() == client.now + PONG
    client.receive(frame)
    assert client.session.deadline() == client.now + PING


def test_silence_after_a_ping_fails_the_link_at_the_pong_deadline() -> None:
    client = Client()
    assert client.pass_time(PING + PONG - 0.001) == []
    events = client.pass_time(0.001)
    assert [type(event) for event in events] == [Failed]
    (failed,) = events
    assert isinstance(failed.error, LinkSilent)
    assert failed.error.waited_for == "pong"
    assert str(failed.error) == "no pong within 10 s"


def test_it_knows_whether_the_server_answers_pings_at_all() -> None:
    client = Client()
    client.receive({"type": "notice"})
    assert client.session.has_ponged is False
    client.receive({"type": "pong"})
    assert client.session.has_ponged is True


def test_of_probes_that_nobody_answers_the_last_eight_are_remembered() -> None:
    client = Client()
    probes = [client.session.probe() for _ in range(9)]
    assert client.flush() == [{"id": probe, "type": "ping"} for probe in probes]
    told = [client.receive({"id": probe, "type": "pong"}) for probe in probes]
    assert told == [[], *([Ponged(probe)] for probe in probes[1:])]


def test_a_probe_is_answered_by_its_own_pong_alone() -> None:
    """The pong of an earlier ping says nothing of what the server had sent before it saw the probe."""
    client = Client()
    client.pass_time(PING)
    (ping,) = client.pings()
    probe, later = client.session.probe(), client.session.probe()
    client.flush()
    assert client.receive({"id": ping["id"], "type": "pong"}) == []
    assert client.receive({"id": later, "type": "pong"}) == [Ponged(later)]
    assert client.receive({"type": "pong"}) == []
    assert client.receive({"id": probe, "type": "pong"}) == [Ponged(probe)]
    assert client.receive({"id": probe, "type": "pong"}) == [], "it was answered already"


def test_a_later_ping_does_not_put_off_the_pong_deadline() -> None:
    client = Client()
    client.session.ping_interval = 4.0
    client.receive({})
    events = client.pass_time(PING + PONG)
    assert [type(event) for event in events] == [Failed]


# -- a stuck send -----------------------------------------------------------------------------------------------------


def test_a_send_that_the_network_does_not_take_is_noticed_while_data_flow() -> None:
    client = Client()
    client.session.subscribe([A])
    frame = client.session.next_frame()
    assert frame is not None
    client.session.sending(frame, client.now)
    for _ in range(9):
        client.now += 1
        client.session.heard()
        assert client.session.tick(client.now) == []
    assert client.session.deadline() == 110
    client.now = 110
    client.session.heard()
    (failed,) = client.session.tick(client.now)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, SendStuck)
    assert str(failed.error) == "a frame could not be sent within 10 s"


# -- acks -------------------------------------------------------------------------------------------------------------


def test_a_request_is_acked_by_its_id() -> None:
    client = Client()
    client.session.subscribe([A, B, *TRADES])
    first, second = client.flush()
    assert (asked([first]), asked([second])) == (["A-USDT", "B-USDT"], [one.symbol for one in TRADES])
    assert client.ack(second) == [Acked(tuple(TRADES))]
    assert client.ack(first) == [Acked((A, B))]
    assert client.pass_time(10, heard=True) == []


def test_a_numeric_id_in_an_ack_is_read_as_text() -> None:
    """It came back as text where a number was sent; the other way round must not matter either."""
    client = Client()
    client.session._new_id = lambda: "17"  # type: ignore[method-assign]
    client.session.subscribe([A])
    client.flush()
    assert client.receive({"id": 17, "type": "ack"}) == [Acked((A,))]


@pytest.mark.parametrize("frame_id", [None, "", "2-1", "1-99", "kufeed-1", 1, 1.0, [], {"a": 1}, True])
@pytest.mark.parametrize("kind", ["ack", "error"])
def test_an_answer_to_nothing_of_this_link_changes_nothing(kind: str, frame_id: Any) -> None:
    """Ids carry the link's generation: a late answer from before a reconnect matches nothing."""
    client = Client()
    client.session.subscribe([A])
    (sent,) = client.flush()
    before = client.session.deadline()
    frame = {"id": frame_id, "type": kind, "code": 404, "data": "topic is not found"}
    assert client.receive(frame) == [Unknown(frame)]
    assert client.session.deadline() == before
    assert client.flush() == []
    assert client.ack(sent) == [Acked((A,))]


def test_the_ids_of_two_generations_never_meet() -> None:
    ids = []
    for generation in (1, 11):
        client = Client(generation=generation)
        client.session.subscribe([*MANY, *TRADES])
        ids += [frame["id"] for frame in client.flush()]
    assert len(set(ids)) == len(ids) == 8
    assert all(isinstance(one, str) for one in ids)


def test_no_answer_is_due_to_a_request_whose_frame_waits_for_its_turn_at_the_network() -> None:
    client = Client()
    client.session.subscribe([A])
    frame = client.session.next_frame()
    assert client.session.deadline() == 100 + PING
    client.now += PING
    assert client.session.tick(client.now) == []
    assert frame is not None
    client.session.sending(frame, client.now)
    assert client.session.deadline() == client.now + ACK


def test_an_ack_twice_is_told_once() -> None:
    client = Client()
    client.session.subscribe([A])
    (sent,) = client.flush()
    assert client.ack(sent) == [Acked((A,))]
    assert client.ack(sent) == [Unknown({"id": sent["id"], "type": "ack"})]


def test_a_missing_ack_is_asked_for_again_and_given_up_at_two_time_outs_from_the_first_sending() -> None:
    client = Client()
    client.now += 3
    client.session.subscribe([A, B])
    (first,) = client.flush()
    assert client.pass_time(ACK - 0.001) == []
    assert client.frames == [first]
    assert client.pass_time(0.001) == []
    again = client.frames[-1]
    assert (again["type"], again["topic"], again["id"] != first["id"]) == ("subscribe", first["topic"], True)
    assert client.pass_time(ACK - 0.001) == []
    assert client.pass_time(0.001) == [Unanswered((A, B))]
    assert client.now == 103 + 2 * ACK
    assert client.ack(first) == [Unknown({"id": first["id"], "type": "ack"})]
    assert client.ack(again) == [Unknown({"id": again["id"], "type": "ack"})]
    assert client.pass_time(100, heard=True) == []
    assert len(client.frames) - len(client.pings()) == 2


@pytest.mark.parametrize("answered", [0, 1], ids=["first", "second"])
def test_of_a_request_asked_twice_either_answer_counts_for_both(answered: int) -> None:
    client = Client()
    client.session.subscribe([A])
    client.flush()
    client.pass_time(ACK)
    one, other = client.frames[answered], client.frames[1 - answered]
    assert client.ack(one) == [Acked((A,))]
    assert client.ack(other) == [Unknown({"id": other["id"], "type": "ack"})]
    assert client.pass_time(20, heard=True) == []


def test_an_answer_that_comes_before_the_second_asking_went_out_withdraws_it() -> None:
    client = Client()
    client.session.subscribe([A])
    (sent,) = client.flush()
    client.now += ACK
    client.session.tick(client.now)
    assert client.session.wants_to_send()
    assert client.ack(sent) == [Acked((A,))]
    assert not client.session.wants_to_send()
    assert client.flush() == []


def subscribed(client: Client, *topics: Topic) -> None:
    client.session.subscribe(topics)
    (sent,) = client.flush()
    assert client.ack(sent) == [Acked(topics)]
    client.frames.clear()


def test_a_topic_that_is_asked_for_anew_is_given_back_first() -> None:
    """To who has it already, the exchange would change nothing."""
    client = Client()
    subscribed(client, A, B)
    client.session.resubscribe([A])
    given_back, anew = client.flush()
    assert [(frame["type"], frame["topic"]) for frame in (given_back, anew)] == [
        ("unsubscribe", str(A)),
        ("subscribe", str(A)),
    ]
    assert client.ack(given_back) == []
    assert client.session.waits_for_answers()
    assert client.ack(anew) == [Acked((A,))]


def test_a_topic_that_is_asked_for_anew_can_be_given_up_meanwhile() -> None:
    client = Client()
    subscribed(client, A)
    client.session.resubscribe([A])
    client.session.unsubscribe([A])
    assert {frame["type"] for frame in client.flush()} == {"unsubscribe"}


def test_an_unsubscribe_is_answered_silently() -> None:
    client = Client()
    subscribed(client, A, B, C)
    client.session.unsubscribe([A])
    (sent,) = client.flush()
    assert sent["type"] == "unsubscribe"
    assert client.ack(sent) == []
    client.session.unsubscribe([B])
    (sent,) = client.flush()
    refusal = {"id": sent["id"], "type": "error", "code": 404, "data": "topic is not found"}
    assert client.receive(refusal) == [Unknown(refusal)]
    client.session.unsubscribe([C])
    client.flush()
    assert client.pass_time(20, heard=True) == []


@pytest.mark.parametrize("sent", [False, True])
def test_kinds_that_share_a_wire_topic_are_one_topic_to_a_link(sent: bool) -> None:
    """Whichever asked for it, whichever else left last gives it back, or takes its place."""
    client = Client()
    client.session.subscribe([MARK])
    if sent:
        (frame,) = client.flush()
        client.ack(frame)
    client.session.unsubscribe([INDEX])
    assert [frame["type"] for frame in client.flush()] == ["unsubscribe"] * sent
    client.session.subscribe([INDEX])
    client.session.subscribe([MARK])
    assert [frame["topic"] for frame in client.flush()] == [str(MARK)]


def test_an_older_request_of_another_kind_is_not_told_or_repeated() -> None:
    client = Client()
    client.session.subscribe([MARK])
    client.flush()
    client.session.unsubscribe([INDEX])
    client.flush()
    client.pass_time(ACK)
    assert [frame["type"] for frame in client.frames] == ["subscribe", "unsubscribe", "unsubscribe"]


def test_what_was_never_asked_for_is_not_given_back() -> None:
    """However often somebody changes their mind before a frame leaves, at most one waits for each topic."""
    client = Client()
    for _ in range(1000):
        client.session.subscribe([A, B])
        client.session.unsubscribe([A, B])
    assert client.flush() == []
    subscribed(client, A)
    for _ in range(1000):
        client.session.unsubscribe([A])
        client.session.subscribe([A, B])
    (sent,) = client.flush()
    assert sent["topic"] == "/market/ticker:A-USDT,B-USDT"
    assert client.ack(sent) == [Acked((A, B))]


def test_a_full_link_without_an_id_concerns_the_only_request_there_is() -> None:
    client = Client()
    text = "exceed max subscription count limitation of 300 per session"
    client.session.subscribe([A])
    client.flush()
    assert client.error(None, 509, text) == [LinkFull((A,), 300)]
    client.session.subscribe([B, topic("trade", "B-USDT")])
    client.flush()
    assert [type(event) for event in client.error(None, 509, text)] == [Unknown]


def test_a_refusal_without_an_id_concerns_the_topic_it_names() -> None:
    client = Client()
    client.session.subscribe([A, B])
    (sent,) = client.flush()
    refusal = {"type": "error", "code": 404, "data": "topic /market/ticker:B-USDT is not found"}
    assert client.receive(refusal) == [Rejected(B, 404, "topic /market/ticker:B-USDT is not found")]
    assert client.receive(refusal) == [Unknown(refusal)]
    assert client.ack(sent) == [Acked((A,))]


def test_of_a_request_whose_every_topic_was_refused_by_name_no_answer_is_due() -> None:
    client = Client()
    client.session.subscribe([A])
    (sent,) = client.flush()
    client.error(None, 404, "topic /market/ticker:A-USDT is not found")
    assert not client.session.waits_for_answers()
    assert client.ack(sent) == [Unknown({"id": sent["id"], "type": "ack"})]


def test_a_topic_that_is_refused_by_name_after_it_was_given_back_is_nobodys() -> None:
    client = Client()
    client.session.subscribe([A, B])
    sent, *_ = client.flush()
    client.session.unsubscribe([A])
    client.flush()
    assert client.error(None, 404, "topic /market/ticker:A-USDT is not found") == []
    assert client.ack(sent) == [Acked((B,))]


def test_an_unanswered_unsubscribe_is_not_repeated_over_a_newer_subscribe() -> None:
    """Asked again after the topic is wanted anew, it would silence a stream that everybody believes acked."""
    client = Client()
    subscribed(client, A, B)
    client.session.unsubscribe([A, B])
    client.flush()
    client.session.subscribe([A])
    (newer,) = client.flush()
    assert client.ack(newer) == [Acked((A,))]
    client.pass_time(ACK)
    assert [frame["topic"] for frame in client.frames if frame["type"] == "unsubscribe"] == [
        "/market/ticker:A-USDT,B-USDT",
        "/market/ticker:B-USDT",
    ]


def test_a_refused_unsubscribe_is_not_repeated_over_a_newer_subscribe() -> None:
    client = Client()
    subscribed(client, A)
    client.session.unsubscribe([A])
    (older,) = client.flush()
    client.session.subscribe([A])
    (newer,) = client.flush()
    text = "exceed max permits per second"
    assert client.error(older, 509, text) == [Slowed(1.0, 509, text)]
    assert client.ack(newer) == [Acked((A,))]
    client.pass_time(ACK, heard=True)
    assert client.frames == [older, newer]


def test_an_unanswered_subscribe_is_not_repeated_over_a_newer_unsubscribe() -> None:
    client = Client()
    client.session.subscribe([A])
    client.flush()
    client.session.unsubscribe([A])
    (newer,) = client.flush()
    assert client.ack(newer) == []
    client.pass_time(ACK)
    assert [frame["type"] for frame in client.frames] == ["subscribe", "unsubscribe"]


# -- a reader that is held -------------------------------------------------------------------------------------------


def test_while_nothing_is_read_pings_go_on_and_nothing_is_missed() -> None:
    client = Client()
    subscribed(client, A)
    client.session.hold(client.now)
    assert client.pass_time(300) == []
    assert len(client.pings()) == 16
    client.session.resume(client.now)
    assert client.pass_time(PONG - 0.1) == []
    client.receive({"id": client.frames[-1]["id"], "type": "pong"})
    assert client.pass_time(PING) == []


def test_silence_after_the_reader_goes_on_is_noticed_in_the_usual_time() -> None:
    """However long it was held: what came meanwhile is there to be read at once."""
    client = Client()
    subscribed(client, A)
    client.pass_time(PING)
    client.session.hold(client.now)
    client.pass_time(300)
    client.session.resume(client.now)
    assert client.pass_time(PONG + 0.1) == [Failed(client.events[-1].error)]  # type: ignore[union-attr]
    assert isinstance(client.events[-1].error, LinkSilent)  # type: ignore[union-attr]


def test_a_stuck_send_is_noticed_while_nothing_is_read() -> None:
    client = Client()
    subscribed(client, A)
    client.session.hold(client.now)
    client.session.subscribe([B])
    frame = client.session.next_frame()
    assert frame is not None
    client.session.sending(frame, client.now)
    assert [type(event) for event in client.pass_time(PONG + 0.1)] == [Failed]


def test_the_deadlines_of_answers_stand_still() -> None:
    client = Client()
    subscribed(client, A)
    client.session.unsubscribe([A])
    client.flush()
    assert not client.session.waits_for_answers()  # nothing that somebody waits for
    client.session.hold(client.now)
    client.pass_time(100)
    client.session.resume(client.now)
    before = len(client.frames)
    client.pass_time(ACK - 0.1, heard=True)
    assert "unsubscribe" not in [frame["type"] for frame in client.frames[before:]]
    client.pass_time(0.2, heard=True)
    assert client.frames[-1]["type"] == "unsubscribe"


def test_it_tells_whether_an_answer_is_due() -> None:
    client = Client()
    assert not client.session.waits_for_answers()
    client.session.subscribe([A])
    assert client.session.waits_for_answers()
    (frame,) = client.flush()
    assert client.session.waits_for_answers()
    client.ack(frame)
    assert not client.session.waits_for_answers()


def test_who_was_not_answered_before_is_not_waited_for() -> None:
    client = Client()
    client.session.subscribe([A], again=True)
    client.flush()
    assert not client.session.waits_for_answers()
    client.session.subscribe([B])
    assert client.session.waits_for_answers()


@pytest.mark.parametrize(
    "text", ["exceed max permits per second", "exceed max subscription count limitation of 100 per time"]
)
def test_who_is_asked_for_once_more_is_waited_for_as_before(text: str) -> None:
    for again in (False, True):
        client = Client()
        client.session.subscribe([A, B], again=again)
        (sent,) = client.flush()
        client.error(sent, 509, text)
        assert client.session.waits_for_answers() is not again


def test_it_counts_how_often_its_reader_was_held() -> None:
    client = Client()
    for count in (1, 2, 3):
        client.session.hold(client.now)
        assert (client.session.is_held, client.session.holds) == (True, count)
        client.now += 1
        client.session.resume(client.now)
        assert (client.session.is_held, client.session.holds) == (False, count)


def test_the_pong_is_due_as_much_later_as_the_reader_was_held() -> None:
    client = Client()
    client.pass_time(PING)
    client.pass_time(4)
    client.session.hold(client.now)
    assert client.session.deadline() == 100 + 2 * PING, "neither pong nor ack can come"
    client.now += 3
    client.session.resume(client.now)
    assert client.session.deadline() == 100 + PING + PONG + 3


def test_no_pong_is_due_that_was_not_before_the_reader_was_held() -> None:
    client = Client()
    client.session.hold(client.now)
    client.now += 3
    client.session.resume(client.now)
    assert client.session.deadline() == 100 + PING


def test_both_deadlines_of_a_request_stand_still_once_however_often_it_was_asked() -> None:
    client = Client(ack_timeout=2.0)
    client.session.subscribe([A])
    client.flush()
    client.pass_time(2.5)
    assert len(client.frames) == 2
    client.session.hold(client.now)
    client.pass_time(7)
    client.session.resume(client.now)
    assert client.session.deadline() == 100 + 4 + 7
    assert client.pass_time(1.5) == [Unanswered((A,))]


def test_a_welcome_is_not_missed_while_nothing_is_read() -> None:
    client = Client(welcome=False)
    client.session.hold(client.now)
    assert client.pass_time(20) == []
    client.session.resume(client.now)
    assert client.session.deadline() == 110
    assert [type(event) for event in client.session.tick(client.now)] == [Failed]


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_refused_token_fails_the_link_once_and_then_nothing_more_happens() -> None:
    client = Client()
    client.session.subscribe([A])
    (sent,) = client.flush()
    (failed,) = client.error(None, 401, "token is expired")
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, TokenExpired)
    assert str(failed.error) == "token is expired"
    client.session.subscribe([B])
    assert client.error(None, 401, "token is expired") == []
    assert client.ack(sent) == []
    assert client.error(sent, 404, "topic is not found") == []
    assert client.session.deadline() == math.inf
    assert client.session.tick(client.now + 1000) == []
    assert not client.session.wants_to_send()
    assert client.flush() == []


def test_a_refused_token_instead_of_a_welcome() -> None:
    client = Client(welcome=False)
    assert [type(event) for event in client.error(None, 401, "token is expired")] == [Failed]
    assert client.receive(WELCOME) == []
    assert client.session.deadline() == math.inf


def test_a_refused_topic_is_rejected_with_the_servers_words() -> None:
    client = Client()
    client.session.subscribe([A])
    (sent,) = client.flush()
    assert client.error(sent, 404, "topic /market/ticker:A-USDT is not found") == [
        Rejected(A, 404, "topic /market/ticker:A-USDT is not found")
    ]
    assert client.pass_time(20, heard=True) == []


def test_an_unknown_error_for_one_topic_rejects_it() -> None:
    client = Client()
    client.session.subscribe([A])
    (sent,) = client.flush()
    assert client.error(sent, 415, "type is not supported") == [Rejected(A, 415, "type is not supported")]


def test_too_fast_pauses_everything_but_pings_and_then_asks_again() -> None:
    """1 s or 10 s by its text. What was refused starts anew: the pause does not use up its time."""
    for text, wait in (("exceed max permits per second", 1.0), ("exceed max permits per 10 seconds", 10.0)):
        client = Client(ack_timeout=20)
        client.session.subscribe([A, *TRADES])
        first, second = client.flush()
        client.now += 1
        assert client.error(first, 509, text) == [Slowed(wait, 509, text)]
        assert not client.session.wants_to_send()
        assert client.session.deadline() == client.now + wait
        assert client.pass_time(wait - 0.001) == []
        assert client.frames == [first, second]
        assert client.pass_time(0.001) == []
        assert client.frames[-1]["topic"] == first["topic"]
        sent_at = client.now
        assert client.ack(second) == [Acked(tuple(TRADES))]
        assert client.pass_time(40 - 0.001, heard=True) == []
        assert client.pass_time(0.001, heard=True) == [Unanswered((A,))]
        assert client.now == sent_at + 40


def test_too_fast_without_an_id_only_pauses() -> None:
    client = Client()
    text = "exceed max permits per second"
    assert client.error(None, 509, text) == [Slowed(1.0, 509, text)]
    client.session.subscribe([A])
    assert client.flush() == []
    client.pass_time(1)
    assert len(client.frames) == 1


def test_pings_go_out_during_a_pause() -> None:
    client = Client()
    client.now += PING - 5
    client.error(None, 509, "exceed max permits per 10 seconds")
    client.session.subscribe([A])
    client.pass_time(5)
    assert [frame["type"] for frame in client.frames] == ["ping"]


def test_what_is_given_up_during_a_pause_is_not_asked_for_afterwards() -> None:
    """Told once that nobody answered, its owner has drawn the conclusion."""
    client = Client()
    client.session.subscribe([A])
    client.flush()
    client.now += 1
    client.error(None, 509, "exceed max permits per 10 seconds")
    assert client.pass_time(30, heard=True) == [Unanswered((A,))]
    assert [frame["type"] for frame in client.frames if frame["type"] != "ping"] == ["subscribe"]


def test_too_many_symbols_in_a_frame_are_asked_for_in_halves() -> None:
    client = Client()
    client.session.subscribe([A, B, C])
    (sent,) = client.flush()
    assert client.error(sent, 509, "exceed max subscription count limitation of 100 per time") == []
    halves = client.flush()
    assert [asked([half]) for half in halves] == [["A-USDT"], ["B-USDT", "C-USDT"]]
    assert [client.ack(half) for half in halves] == [[Acked((A,))], [Acked((B, C))]]


def test_a_full_link_names_the_topics_that_need_another() -> None:
    client = Client()
    client.session.subscribe([A, B])
    (sent,) = client.flush()
    assert client.error(sent, 509, "exceed max subscription count limitation of 300 per session") == [
        LinkFull((A, B), 300)
    ]
    assert client.pass_time(20, heard=True) == []
    assert client.frames == [sent, *client.pings()]


@pytest.mark.parametrize("text", ["topic is not found", "type is not supported"])
@given(
    st.sets(st.integers(0, len(MANY) - 1), min_size=1, max_size=8),
    st.integers(1, len(MANY)),
)
@settings(max_examples=30)
def test_halving_ends_with_exactly_the_bad_topics_rejected(text: str, bad: set[int], count: int) -> None:
    """A server that refuses a whole frame for one bad symbol: all good ones get through all the same."""
    client = Client()
    wanted = MANY[:count]
    unknown = {MANY[index].symbol for index in bad} & {one.symbol for one in wanted}
    client.session.subscribe(wanted)
    for _ in range(10_000):
        frames = client.flush()
        if not frames:
            break
        for frame in frames:
            if unknown.isdisjoint(asked([frame])):
                client.ack(frame)
            else:
                client.error(frame, 404, text)
    acked = [one for event in client.events if isinstance(event, Acked) for one in event.topics]
    rejected = [event.topic for event in client.events if isinstance(event, Rejected)]
    assert sorted(one.symbol for one in rejected) == sorted(unknown)
    assert sorted(map(str, acked + rejected)) == sorted(map(str, wanted))
    assert len(client.frames) <= 3 + 2 * 8 * max(1, len(unknown)), "a search by halves, not one by one"


# -- what nobody knows ------------------------------------------------------------------------------------------------

FRAMES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["welcome", "ack", "error", "pong", "ping", "notice", "message"])
        | st.none()
        | st.text(),
        "id": st.none() | st.integers() | st.text() | st.lists(st.integers(), max_size=1),
        "code": st.sampled_from([404, 509, 415, "404", None]),
        "data": st.text() | st.none() | st.lists(st.none(), max_size=1),
    },
)


@given(st.lists(FRAMES, max_size=20))
def test_no_control_frame_whatever_raises_or_answers_for_us(frames: list[dict[str, Any]]) -> None:
    client = Client()
    client.session.subscribe([A])
    (sent,) = client.flush()
    for frame in frames:
        assert not [event for event in client.receive(frame) if isinstance(event, Acked | Rejected | Failed)]
    assert client.ack(sent) == [Acked((A,))]


@pytest.mark.parametrize("frame", [{}, {"type": "notice"}, {"type": "command"}, {"type": None}, {"type": ["ack"]}])
def test_types_nobody_knows_are_handed_on(frame: dict[str, Any]) -> None:
    assert Client().receive(frame) == [Unknown(frame)]


# -- time -------------------------------------------------------------------------------------------------------------


@given(
    st.floats(0.01, 1e5),
    st.floats(0.01, 1e4),
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
)
@example(16.0, 0.01, [1.0])
def test_a_deadline_lies_never_in_the_past_whatever_the_clock_shows(
    start: float, interval: float, steps: list[float]
) -> None:
    """Ticked late by any amount, with floats that do not add up: no busy loop, and never two pings for one turn."""
    session = Session(generation=1, welcome_by=1e12, ping_interval=interval, pong_timeout=1e12, ack_timeout=1e12)
    now = start
    session.receive(WELCOME, now)
    for step in steps:
        now = max(now + step, session.deadline())
        session.tick(now)
        assert now < session.deadline() <= now + interval * (1 + 1e-9) + 1e-6


# -- all promises at once ---------------------------------------------------------------------------------------------

PENDING, ACKED, REJECTED, UNANSWERED, FULL = "pending", "acked", "rejected", "unanswered", "full"
GIVEN_BACK = "given back"


@attrs.define
class Sent:
    """A frame of ours that the server has not answered yet."""

    frame_id: str
    topics: tuple[Topic, ...]


class AnyServer(RuleBasedStateMachine):
    """A session against a server that answers as it pleases, on a clock that goes as it pleases.

    The model knows only what was asked for, sent and answered; it has no timers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.session = Session(generation=3, welcome_by=10.0, ping_interval=PING, pong_timeout=PONG, ack_timeout=ACK)
        self.fresh = iter([*MANY, *(topic("trade", one.symbol) for one in MANY)])
        self.state: dict[str, str] = {}
        self.open: list[Sent] = []
        self.last_said: dict[str, str] = {}
        self.by_wire: dict[str, Topic] = {}
        self.sending: Frame | None = None
        self.sending_since = math.inf
        self.ping_sent_at = math.inf
        self.pings: list[float] = []
        self.welcomed_at = math.inf
        self.paused_until = -math.inf
        self.failed = False

    # what happened to a topic is told once, and in one way

    def take(self, events: list[Event], *, expected: set[str]) -> None:
        for event in events:
            assert not self.failed, f"{event} after the link had failed"
            match event:
                case Acked(topics) if "ack" in expected:
                    self.finish(topics, ACKED)
                case Rejected(one) if "error" in expected:
                    self.finish((one,), REJECTED)
                case LinkFull(topics) if "error" in expected:
                    self.finish(topics, FULL)
                case Unanswered(topics) if "tick" in expected:
                    self.finish(topics, UNANSWERED)
                case Failed():
                    self.check_failure(event, expected)
                    self.failed = True
                case Welcomed() if "welcome" in expected:
                    pass
                case Slowed(seconds) if "slow" in expected:
                    self.paused_until = max(self.paused_until, self.now + seconds)
                case Unknown() if "unknown" in expected:
                    pass
                case _:
                    pytest.fail(f"{event} out of nothing: only {expected} happened")

    def finish(self, topics: tuple[Topic, ...], how: str) -> None:
        assert topics
        for one in topics:
            assert self.state[str(one)] == PENDING, f"{one} is {self.state[str(one)]} and now {how}"
            self.state[str(one)] = how

    def check_failure(self, event: Failed, expected: set[str]) -> None:
        match event.error:
            case TokenExpired():
                assert "token" in expected
            case DialError():
                assert self.welcomed_at == math.inf
                assert self.now >= 10.0
            case SendStuck():
                assert self.now >= self.sending_since + PONG
            case LinkSilent():
                assert self.now >= self.ping_sent_at + PONG
            case _:
                pytest.fail(f"no reason for {event}")

    # rules: time

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 2.5, 5.0, 9.0]) | st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        """Time passes as the watchdog lives it: it wakes at each deadline, and ticks."""
        until = self.now + seconds
        for _ in range(1_000):
            due = self.session.deadline()
            if due > until:
                break
            self.now = max(self.now, due)
            self.tick()
        else:
            pytest.fail("a busy loop")
        self.now = until

    @rule(seconds=st.floats(0, 100))
    def oversleep(self, seconds: float) -> None:
        """Or the machine was asleep, and everything is late."""
        self.now += seconds
        self.tick()

    @rule()
    def tick(self) -> None:
        self.take(self.session.tick(self.now), expected={"tick"})
        assert self.session.deadline() > self.now

    # rules: our side

    @rule(count=st.sampled_from([1, 2, 3, 7, 101]))
    def subscribe(self, count: int) -> None:
        topics = [one for _, one in zip(range(count), self.fresh, strict=False)]
        self.session.subscribe(topics)
        self.state.update((str(one), PENDING) for one in topics)
        self.by_wire.update((str(one), one) for one in topics)

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        wanted = [wire for wire, how in self.state.items() if how in (PENDING, ACKED)][-5:]
        if wanted:
            wire = data.draw(st.sampled_from(wanted))
            self.session.unsubscribe([self.by_wire[wire]])
            self.state[wire] = GIVEN_BACK

    @rule(data=st.data())
    def want_again(self, data: st.DataObject) -> None:
        given_back = [wire for wire, how in self.state.items() if how == GIVEN_BACK]
        if given_back:
            wire = data.draw(st.sampled_from(given_back))
            self.session.subscribe([self.by_wire[wire]])
            self.state[wire] = PENDING

    @precondition(lambda self: self.sending is None)
    @rule()
    def send(self) -> None:
        wanted = self.session.wants_to_send()
        frame = self.session.next_frame()
        if frame is None:
            assert not self.session.wants_to_send(), "a sender woken in vain may sleep again"
            return
        assert wanted
        assert not self.failed
        self.session.sending(frame, self.now)
        self.sending, self.sending_since = frame, self.now
        written = ujson.loads(frame.text)
        if written["type"] == "ping":
            self.pings.append(self.now)
            self.ping_sent_at = min(self.ping_sent_at, self.now)
            return
        assert self.welcomed_at <= self.now
        assert self.paused_until <= self.now
        path, _, symbols = written["topic"].partition(":")
        topics = tuple(self.by_wire[f"{path}:{symbol}"] for symbol in symbols.split(","))
        assert 1 <= len(topics) <= 100
        told = {self.state[str(one)] for one in topics} - {PENDING, GIVEN_BACK}
        assert not told, f"{written['type']} for what is {told} already"
        assert written["id"] not in {sent.frame_id for sent in self.open}
        self.open.append(Sent(written["id"], topics))
        self.last_said.update((str(one), written["type"]) for one in topics)

    @precondition(lambda self: self.sending is not None)
    @rule()
    def network_takes_it(self) -> None:
        self.session.sent()
        self.sending, self.sending_since = None, math.inf

    # rules: the server's side

    def heard(self) -> None:
        self.session.heard()
        self.ping_sent_at = math.inf

    @rule()
    def data_arrive(self) -> None:
        self.heard()

    def receive(self, frame: dict[str, Any], expected: set[str]) -> list[Event]:
        self.heard()
        events = self.session.receive(frame, self.now)
        self.take(events, expected=expected)
        return events

    @initialize(welcome=st.sampled_from([True, True, True, False]))
    def start(self, welcome: bool) -> None:
        if welcome:
            self.welcome()

    @rule()
    def welcome(self) -> None:
        first = self.welcomed_at == math.inf
        if first and not self.failed:
            self.welcomed_at = self.now
        self.receive(WELCOME, {"welcome"} if first else {"unknown"})

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        sent = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        events = self.receive({"id": sent.frame_id, "type": "ack"}, {"ack", "unknown"})
        if not self.failed:
            assert len(events) <= 1

    @precondition(lambda self: self.open)
    @rule(
        data=st.data(),
        text=st.sampled_from(
            [
                (404, "topic is not found"),
                (415, "type is not supported"),
                (509, "exceed max subscription count limitation of 100 per time"),
                (509, "exceed max subscription count limitation of 300 per session"),
            ]
        ),
    )
    def refuse(self, data: st.DataObject, text: tuple[int, str]) -> None:
        sent = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.receive({"id": sent.frame_id, "type": "error", "code": text[0], "data": text[1]}, {"error", "unknown"})

    @rule(data=st.data(), wait=st.sampled_from(["second", "10 seconds"]), named=st.booleans())
    def slow_down(self, data: st.DataObject, wait: str, named: bool) -> None:
        frame: dict[str, Any] = {"type": "error", "code": 509, "data": f"exceed max permits per {wait}"}
        if named and self.open:
            frame["id"] = self.open.pop(data.draw(st.integers(0, len(self.open) - 1))).frame_id
        self.receive(frame, {"slow"})

    @rule(frame_id=st.sampled_from([None, "2-1", "4-1", "3-0", "3-99999", 7]), kind=st.sampled_from(["ack", "error"]))
    def answer_to_something_else(self, frame_id: Any, kind: str) -> None:
        before = self.session.deadline()
        alive = self.ping_sent_at
        self.receive({"id": frame_id, "type": kind, "code": 404, "data": "topic is not found"}, {"unknown"})
        assert alive < math.inf or self.session.deadline() == before

    @precondition(lambda self: len(self.state) > 100)
    @rule()
    def refuse_the_token(self) -> None:
        events = self.receive({"type": "error", "code": 401, "data": "token is expired"}, {"token"})
        assert self.failed
        assert len(events) <= 1

    # what holds at any time

    @invariant()
    def a_failed_link_is_silent(self) -> None:
        if self.failed:
            assert self.session.deadline() == math.inf
            assert not self.session.wants_to_send()
            assert self.session.next_frame() is None

    @invariant()
    def something_is_always_due(self) -> None:
        """Never infinite: the next ping, or the welcome; and an unanswered request is never forgotten."""
        if self.failed:
            return
        due = self.session.deadline()
        assert due < math.inf
        if self.welcomed_at == math.inf:
            assert due <= 10.0
        else:
            assert due <= max(self.now, self.welcomed_at) + PING
        assert due <= self.sending_since + PONG
        assert due <= self.ping_sent_at + PONG

    @invariant()
    def pings_keep_their_schedule(self) -> None:
        if self.welcomed_at < math.inf:
            assert len(self.pings) <= (self.now - self.welcomed_at) / PING + 1e-6

    def teardown(self) -> None:
        """Answered by nobody for long enough, every topic has come to exactly one end.

        And the last that the server heard of each is what was last wanted: no older request undoes a newer one.
        """
        if self.failed or self.welcomed_at == math.inf:
            return
        self.session.sent()
        self.heard()
        self.tick()
        for _ in range(400):
            while self.session.wants_to_send():
                self.sending = None
                self.send()
                self.session.sent()
            self.heard()
            if PENDING not in self.state.values() and self.now >= self.paused_until:
                break
            self.now = max(self.now, self.session.deadline())
            self.tick()
        assert PENDING not in self.state.values(), "somebody would wait for ever"
        for wire, how in self.state.items():
            if how in (ACKED, GIVEN_BACK):
                said = self.last_said.get(wire, "unsubscribe")  # what was never asked for needs no giving back
                assert said == ("subscribe" if how == ACKED else "unsubscribe"), f"{wire} is {how}"


AnyServer.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAnyServer = AnyServer.TestCase
