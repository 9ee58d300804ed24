"""The public strategies: valid messages are taken, damaged ones refused by name, histories true, plans shrink."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from kufeed import FeedConfig, OrderBook, Topic, Update, UpdateType, topic
from kufeed._lateness import Lateness
from kufeed._refusals import Refusals
from kufeed._streams import Routes, stage
from kufeed._whole_market import stream_of
from kufeed.protocol import CHANNELS, BookSync, Channel, market_of
from kufeed.testing import Exchange, FaultPlan, faults, strategies
from kufeed.testing.damages import NAMES, can_have, spoilt
from kufeed.testing.network import EPOCH_NS
from kufeed.testing.wireforms import frames

RECEIVED = EPOCH_NS + 86_400 * 10**9
loads = FeedConfig().loads
each_channel = pytest.mark.parametrize("channel", CHANNELS, ids=repr)
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def topic_of(channel: Channel) -> Topic:
    symbol = "all" if channel.symbol_in_subject else "BTC-USDT" if channel.market.name == "spot" else "XBTUSDTM"
    return Topic(channel, symbol, None if channel.intervals is None else "1min")


class Desk:
    """What a feed makes of a message: an update, something unwanted, or a refusal."""

    def __init__(self, one: Topic) -> None:
        self.stream = stream_of(one)
        self.routes = Routes()
        self.routes.add(self.stream)
        self.refusals = Refusals()

    def stage(self, text: str) -> int:
        """How many streams have an update of it."""
        touched = stage(
            [text.encode()],
            loads=loads,
            by_wire=self.routes.by_wire,
            received_time_ns=RECEIVED,
            on_control=lambda frame: None,
            refusals=self.refusals,
            lateness=Lateness(0.1, perf_counter=lambda: 0.0),
        )
        return len(touched)


@each_channel
def test_each_valid_message_is_an_update(channel: Channel) -> None:
    @quick
    @given(strategies.messages(topic_of(channel)))
    def check(text: str) -> None:
        desk = Desk(topic_of(channel))
        assert desk.stage(text) == 1
        assert not desk.refusals.causes

    check()


@each_channel
def test_each_damaged_message_is_refused_by_its_cause(channel: Channel) -> None:
    @settings(quick, max_examples=40)
    @given(strategies.damaged_messages(topic_of(channel)))
    def check(damaged: strategies.DamagedMessage) -> None:
        desk = Desk(topic_of(channel))
        assert desk.stage(damaged.text) == 0
        assert desk.refusals.causes == {damaged.cause: 1}

    check()


@pytest.mark.parametrize("name", NAMES)
def test_each_damage_can_be_asked_for(name: str) -> None:
    @settings(quick, max_examples=3)
    @given(strategies.damaged_messages(_with(name), damages=[name]))
    def check(damaged: strategies.DamagedMessage) -> None:
        assert damaged.damage == name

    check()


def _with(damage: str) -> str:
    return {"wrong side": "trade", "uneven row": "level1", "numbers backwards": "book_delta"}.get(damage, "trade")


def test_no_other_damage_is_known() -> None:
    with pytest.raises(ValueError, match="no damage 'rust'; there are cut off, not json"):
        strategies.damaged_messages(damages=["rust"])
    with pytest.raises(ValueError, match="no message of 'ticker' can have any of wrong side, numbers backwards"):
        strategies.damaged_messages("ticker", damages=["wrong side", "numbers backwards"])
    with pytest.raises(ValueError, match="damages must name at least one"):
        strategies.damaged_messages(damages=[])


def test_damages_that_few_channels_can_have_are_drawn_as_often_as_others() -> None:
    drawn: Counter[str] = Counter()

    @settings(quick, max_examples=400, phases=[Phase.generate], database=None, derandomize=True)
    @given(strategies.damaged_messages(damages=["numbers backwards", "wrong side", "cut off"]))
    def count(damaged: strategies.DamagedMessage) -> None:
        drawn[damaged.damage] += 1

    count()
    assert min(drawn.values()) > 80


@each_channel
def test_a_channel_has_the_damages_that_are_known_of_it(channel: Channel) -> None:
    drawn: set[str] = set()

    @settings(quick, max_examples=20, phases=[Phase.generate])
    @given(frames(topic_of(channel), symbols=st.just("BTC-USDT")))
    def look(frame: dict[str, Any]) -> None:
        drawn.update(spoilt(topic_of(channel), frame))

    look()
    assert drawn == {name for name in NAMES if can_have(channel, name)}


def test_candles_may_be_of_any_interval() -> None:
    for channel in CHANNELS:
        for interval in channel.intervals or ():
            one = strategies.messages(Topic(channel, topic_of(channel).symbol, interval))
            find(one, lambda text: True, settings=settings(phases=[Phase.generate], database=None))


def test_messages_are_of_what_they_are_asked_of() -> None:
    @quick
    @given(strategies.messages("trade"), strategies.messages(topic("candle", "BTC-USDT", interval="1hour")))
    def check(trade: str, candle: str) -> None:
        assert ast.literal_eval(trade)["topic"].split(":")[0] in ("/market/match", "/contractMarket/execution")
        assert ast.literal_eval(candle)["topic"] == "/market/candles:BTC-USDT_1hour"

    check()


@quick
@given(strategies.symbols(), strategies.symbols("spot"), strategies.symbols("futures"))
def test_symbols_are_of_their_market(any_symbol: str, pair: str, contract: str) -> None:
    assert market_of(any_symbol)
    assert market_of(pair).name == "spot"
    assert market_of(contract).name == "futures"


def test_topics_are_of_every_channel() -> None:
    seen: set[Channel] = set()

    @settings(quick, max_examples=300)
    @given(strategies.topics())
    def look(one: Topic) -> None:
        seen.add(one.channel)

    look()
    assert seen == set(CHANNELS)
    with pytest.raises(ValueError, match="spot has no channel of funding_rate"):
        strategies.topics("spot", kinds=["funding_rate"])
    with pytest.raises(ValueError, match="market must be"):
        strategies.topics("margin")  # type: ignore[arg-type]


@quick
@given(strategies.topics("futures", kinds=["trade", "ticker"], of=strategies.symbols("futures")))
def test_topics_can_be_narrowed(one: Topic) -> None:
    assert one.channel.market.name == "futures"
    assert one.kind in (UpdateType.TRADE, UpdateType.TICKER)


@pytest.mark.parametrize("kind", UpdateType)
def test_updates_are_the_records_of_their_kind(kind: UpdateType) -> None:
    @settings(quick, max_examples=10)
    @given(strategies.updates(kind))
    def check(update: Update) -> None:
        assert update.kind is kind
        assert isinstance(update, OrderBook) == (kind is UpdateType.BOOK)
        assert update.gap_before is None
        assert update.exchange_time_ns is not None
        assert 0 <= update.latency <= 0.2

    check()


@settings(quick, max_examples=100)
@given(strategies.delta_histories(), st.data())
def test_a_book_kept_of_a_history_is_the_reference_or_unreadable(
    history: strategies.DeltaHistory, data: st.DataObject
) -> None:
    assert set(history.books) >= {history.snapshot.sequence}
    book = BookSync(history.topic)
    book.subscribed()
    ticket = book.ask()
    seeded_after = data.draw(st.integers(0, len(history.arriving)), label="seeded after")
    for number, (_, text) in enumerate((*history.arriving, (-1, "")), start=0):
        if number == seeded_after:
            book.seed(ticket, history.snapshot)
        if text:
            decode = history.topic.channel.decoders[Decimal]
            book.receive(decode(loads(text.encode()), history.topic, EPOCH_NS))
        if book.is_readable(1):
            view, truth = book.view(3), history.books[book.sequence]
            assert (view.bids, view.asks) == (truth.bids[:3], truth.asks[:3])
    if history.is_whole:
        assert book.is_readable(1)
        assert book.sequence == max(history.books)


def test_histories_can_lose_repeat_and_jumble() -> None:
    def places(history: strategies.DeltaHistory) -> list[int]:
        return [place for place, _ in history.arriving]

    def has(condition: Callable[[list[int], int], bool]) -> None:
        find(
            strategies.delta_histories(),
            lambda one: condition(places(one), len(one.published)),
            settings=settings(database=None, phases=[Phase.generate]),
        )

    has(lambda arriving, sent: len(set(arriving)) < sent)
    has(lambda arriving, sent: len(set(arriving)) < len(arriving))
    has(lambda arriving, sent: arriving != sorted(arriving))
    whole = strategies.delta_histories("spot", loss=False, repeats=False, disorder=False)

    @quick
    @given(whole)
    def check(history: strategies.DeltaHistory) -> None:
        assert history.is_whole
        assert history.topic.symbol == "BTC-USDT"

    check()


@quick
@given(strategies.plans())
def test_plans_can_be_printed_and_stored(plan: FaultPlan) -> None:
    assert eval(repr(plan), {"FaultPlan": FaultPlan, "faults": faults}) == plan  # noqa: S307  # our own text
    assert FaultPlan.from_json(plan.to_json()) == plan
    assert len(plan) <= 5
    assert plan.until <= 20.001


@quick
@given(strategies.plans("mild", duration=3.0, most=2))
def test_plans_keep_within_what_was_asked(plan: FaultPlan) -> None:
    assert len(plan) <= 2
    assert plan.until <= 3.001
    assert {fault.severity for fault in plan} <= {"mild"}


def test_plans_are_refused_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="severity must be one of mild, rough, brutal"):
        strategies.plans("gentle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one"):
        strategies.plans(kinds=())


@pytest.mark.parametrize("kind", [faults.Delay, faults.Hang, faults.Restart, faults.SpoilBooks])
def test_a_plan_shrinks_to_the_one_fault_by_default(kind: type[faults.Fault]) -> None:
    found = find(strategies.plans(), lambda plan: any(type(fault) is kind for fault in plan))
    assert found == FaultPlan(kind())


def test_the_fields_that_matter_shrink_to_round_numbers() -> None:
    found = find(strategies.plans(kinds=[faults.Hang]), lambda plan: any(one.until > 4 for one in plan))
    assert found in (FaultPlan(faults.Hang(at=3.0)), FaultPlan(faults.Hang(lasting=5.0)))
    assert find(strategies.plans(), lambda plan: True) == FaultPlan()


@settings(quick, max_examples=10)
@given(strategies.markets(book_levels=40))
def test_markets_are_exchanges_with_what_is_given(exchange: Exchange) -> None:
    assert exchange.book("BTC-USDT").bids


def test_a_market_is_printed_as_the_call_that_makes_it(capsys: pytest.CaptureFixture[str]) -> None:
    @settings(quick, database=None, print_blob=False)
    @given(strategies.markets())
    def check(exchange: Exchange) -> None:
        raise AssertionError

    with pytest.raises(AssertionError) as caught:
        check()
    assert any("Exchange(" in note and "seed=0" in note for note in caught.value.__notes__)


def test_only_these_modules_need_hypothesis() -> None:
    """And where it is not installed, they say what to install."""
    code = (
        "import sys; import kufeed.testing; assert 'hypothesis' not in sys.modules\n"
        "sys.modules['hypothesis'] = None\n"
        "for name in ('strategies', 'machine'):\n"
        "    try: __import__(f'kufeed.testing.{name}')\n"
        "    except ModuleNotFoundError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.count('pip install "kufeed[testing]"') == 2


def test_the_simplest_of_each_is_simple() -> None:
    simplest: dict[str, Any] = {
        "symbol": find(strategies.symbols(), lambda one: True),
        "topic": str(find(strategies.topics(kinds=["trade"]), lambda one: True)),
    }
    assert simplest == {"symbol": "XBTUSDTM", "topic": "/market/match:BTC-USDT"}
