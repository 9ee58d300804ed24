"""What links repeat, reorder and miss, from payloads to queues: none twice, none out of order, holes told by number."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

from kufeed import Gap, Topic, UpdateType, topic
from kufeed._bookkeeper import BookKeeper, KeptBook
from kufeed._buffers import Overflow
from kufeed._channels import UpdateQueue
from kufeed._json import loads
from kufeed._lateness import Lateness
from kufeed._refusals import Refusals
from kufeed._streams import Routes, stage
from kufeed._whole_market import stream_of
from kufeed.errors import LinkClosed
from kufeed.protocol import BookSnapshot, BookState, BookSync, GapCause

if TYPE_CHECKING:
    from kufeed._channels import Sink

MS = 10**6
T = 1_750_000_000_000
"""A time of the exchange, in ms."""
TRADES, TICKERS, DELTAS = topic("trade", "AB-CD"), topic("ticker", "AB-CD"), topic("book_delta", "AB-CD")
ALL, MARK, INDEX = topic("ticker", "all"), topic("mark_price", "ABCDM"), topic("index_price", "ABCDM")


def trade(number: int, ms: int | None = None) -> dict[str, Any]:
    data = {
        "symbol": "AB-CD",
        "sequence": str(number),
        "price": "1",
        "size": "1",
        "side": "buy",
        "tradeId": f"{number}",
    }
    time = str((T + (number if ms is None else ms)) * MS)
    return {"topic": str(TRADES), "subject": "trade.l3match", "data": {**data, "time": time}}


def ticker(number: int, ms: int, symbol: str = "AB-CD", *, of_all: bool = False) -> dict[str, Any]:
    sides = {"bestBid": "1", "bestBidSize": "1", "bestAsk": "2", "bestAskSize": "1", "price": "1", "size": "1"}
    wire, subject = (str(ALL), symbol) if of_all else (f"/market/ticker:{symbol}", "trade.ticker")
    return {"topic": wire, "subject": subject, "data": {**sides, "sequence": str(number), "time": T + ms}}


def delta(first: int, last: int | None = None, ms: int | None = None) -> dict[str, Any]:
    end = first if last is None else last
    changes = {"asks": [], "bids": [["1", str(end), str(end)]]}
    data = {"sequenceStart": first, "sequenceEnd": end, "symbol": "AB-CD", "changes": changes}
    time = T + (end if ms is None else ms)
    return {"topic": str(DELTAS), "subject": "trade.l2update", "data": {**data, "time": time}}


def prices(ms: int) -> dict[str, Any]:
    data = {"markPrice": 1.5, "indexPrice": 1.25, "granularity": 1000, "timestamp": T + ms}
    return {"topic": "/contract/instrument:ABCDM", "subject": "mark.index.price", "data": data}


class Desk:
    """Streams with one queue, and links that bring messages."""

    def __init__(self, *topics: Topic, sinks: tuple[Sink, ...] = ()) -> None:
        self.queue = UpdateQueue(dict.fromkeys(UpdateType, Overflow.DROP_OLDEST), 10_000)
        self.routes = Routes()
        self.refusals = Refusals()
        self.streams = [stream_of(one) for one in topics]
        for stream in self.streams:
            for sink in (self.queue, *sinks):
                stream.add(sink)
            self.routes.add(stream)

    def bring(self, generation: int, *messages: dict[str, Any]) -> list[int | Gap | None]:
        """What the consumer gets of it: numbers (times in ms after `T` where there is none) and gaps."""
        touched = stage(
            [json.dumps(one).encode() for one in messages],
            loads=loads,
            by_wire=self.routes.by_wire,
            received_time_ns=T * MS,
            on_control=lambda frame: pytest.fail(f"{frame}"),
            refusals=self.refusals,
            lateness=Lateness(None),
            generation=generation,
        )
        for stream in touched:
            for sink in stream.sinks:
                assert sink.hand_over()
        assert self.refusals.causes == {}
        taken: list[Any] = []
        while True:
            try:
                taken.append(self.queue.take(events=True))
            except trio.WouldBlock:
                break
        return [one if isinstance(one, Gap) else self._shown(one) for one in taken if not _is_of_link(one)]

    def _shown(self, update: Any) -> int:
        return update.sequence if update.sequence is not None else (update.exchange_time_ns // MS) - T

    def lose(self) -> None:
        for stream in self.streams:
            stream.lose(LinkClosed(1006, ""), 0.0)

    def counts(self) -> tuple[int, int]:
        return self.refusals.duplicates, self.refusals.disordered


def _is_of_link(event: object) -> bool:
    return type(event).__name__ in ("Disconnected", "Restored")


def gap(of: Topic, cause: GapCause, since: int | None, until: int, numbers: tuple[int, int] | None = None) -> Gap:
    first, last = numbers or (None, None)
    return Gap(of, cause, first, last, None if since is None else (T + since) * MS, (T + until) * MS)


# -- two links at once ------------------------------------------------------------------------------------------------


def test_the_first_arrival_wins_and_the_other_is_counted() -> None:
    desk = Desk(TRADES)
    assert desk.bring(1, trade(1), trade(2)) == [1, 2]
    assert desk.bring(2, trade(1), trade(2), trade(3)) == [3]
    latest = desk.streams[0].latest
    assert desk.bring(1, trade(3)) == []
    assert desk.streams[0].latest is latest
    assert desk.bring(1, trade(4)) == [4], "losing one link loses nothing and raises no gap"
    assert desk.counts() == (3, 0)


def test_a_gap_reaches_back_to_what_came_too_late() -> None:
    """Found by a fault plan: it began at the last update, which was later than what was missing."""
    desk = Desk(TRADES)
    desk.bring(1, trade(1), trade(2))
    assert desk.bring(1, trade(6), trade(4), trade(3), trade(5)) == [6]
    assert desk.bring(1, trade(7)) == [gap(TRADES, GapCause.SEQUENCE, 3, 7), 7]
    assert desk.bring(1, trade(9), trade(8), trade(10)) == [9, gap(TRADES, GapCause.SEQUENCE, 8, 10), 10]


def test_streams_that_share_a_message_are_merged_each_for_itself() -> None:
    desk = Desk(MARK, INDEX)
    assert desk.bring(1, prices(1), prices(2)) == [1, 1, 2, 2]
    assert desk.bring(2, prices(1), prices(3)) == [3, 3]
    assert desk.counts() == (2, 0)


def test_in_the_topic_of_all_symbols_each_symbol_is_merged_for_itself() -> None:
    desk = Desk(ALL)
    first = [ticker(5, 5, of_all=True), ticker(900, 5, "EF-GH", of_all=True)]
    assert desk.bring(1, *first) == [5, 900]
    assert desk.bring(2, *first, ticker(6, 6, of_all=True)) == [6]
    assert desk.bring(1, ticker(6, 6, of_all=True), ticker(901, 7, "EF-GH", of_all=True)) == [901]
    assert desk.counts() == (3, 0)
    desk.lose()
    assert desk.bring(3, ticker(901, 7, "EF-GH", of_all=True), ticker(902, 8, "EF-GH", of_all=True)) == [902]
    told = desk.bring(3, ticker(9, 9, of_all=True))
    assert [type(one) for one in told] == [Gap, int], "the other one may have missed something"


def test_a_trade_that_was_missed_is_told_before_the_next() -> None:
    desk = Desk(TRADES)
    desk.bring(1, trade(1), trade(2), trade(4))
    assert desk.bring(2, trade(3), trade(4)) == []
    assert desk.bring(1, trade(5), trade(6)) == [gap(TRADES, GapCause.SEQUENCE, 3, 5), 5, 6]
    assert desk.counts() == (1, 1)


# -- numbers that are missing -----------------------------------------------------------------------------------------


def test_a_hole_in_the_exchanges_numbers_is_told_by_number_to_everybody() -> None:
    other = UpdateQueue(dict.fromkeys(UpdateType, Overflow.RAISE), 10)
    desk = Desk(DELTAS, sinks=(other,))
    told = gap(DELTAS, GapCause.SEQUENCE, 6, 10, (7, 8))
    assert desk.bring(1, delta(5), delta(6), delta(9, 10), delta(11)) == [5, 6, told, 10, 11]
    taken = [other.take() for _ in range(4)]
    assert [one.gap_before for one in taken] == [None, None, told, None]  # type: ignore[union-attr]
    assert desk.bring(1, delta(7), delta(12)) == [12], "it is late, and told already"
    assert desk.counts() == (0, 1)


def test_a_renumbering_is_told_without_numbers() -> None:
    desk = Desk(DELTAS)
    desk.bring(1, delta(1000, ms=1), delta(1001, ms=2))
    assert desk.bring(1, delta(7, ms=3), delta(8, ms=3)) == [gap(DELTAS, GapCause.SEQUENCE, 2, 3), 7, 8]


# -- after a lost connection ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", [1, 2])
def test_numbers_that_go_on_prove_that_a_lost_connection_cost_nothing(generation: int) -> None:
    desk = Desk(DELTAS)
    desk.bring(1, delta(5), delta(6))
    desk.lose()
    assert desk.bring(generation, delta(6), delta(7), delta(8)) == [7, 8]
    desk.lose()
    assert desk.bring(generation, delta(8, 9)) == [9], "an overlap is no hole"


def test_the_gap_of_a_lost_connection_has_the_numbers_that_it_cost() -> None:
    desk = Desk(DELTAS)
    desk.bring(1, delta(5), delta(6))
    desk.lose()
    assert desk.bring(2, delta(10), delta(11)) == [gap(DELTAS, GapCause.RECONNECT, 6, 10, (7, 9)), 10, 11]
    desk.lose()
    assert desk.bring(3, delta(1, ms=99)) == [gap(DELTAS, GapCause.RECONNECT, 11, 99), 1]


@pytest.mark.parametrize(
    ("of", "one", "two", "later"),
    [(TRADES, trade(1), trade(2), trade(9)), (TICKERS, ticker(1, 1), ticker(2, 2), ticker(9, 9))],
)
def test_what_was_delivered_last_coming_first_proves_that_nothing_is_missing(
    of: Topic, one: dict[str, Any], two: dict[str, Any], later: dict[str, Any]
) -> None:
    desk = Desk(of)
    desk.bring(1, one, two)
    desk.lose()
    assert desk.bring(2, two, later) == [9]
    desk.lose()
    more = trade(12) if of is TRADES else ticker(12, 12)
    assert desk.bring(3, more) == [gap(of, GapCause.RECONNECT, 9, 12), 12], "nothing proves it"


def test_a_proof_does_not_forgive_what_was_missing_before() -> None:
    desk = Desk(TRADES)
    desk.bring(1, trade(1), trade(3), trade(2))
    desk.lose()
    assert desk.bring(2, trade(3), trade(4)) == [gap(TRADES, GapCause.SEQUENCE, 2, 4), 4]


def test_a_proof_does_not_forgive_what_comes_too_late_on_another_link() -> None:
    """The link that proves it begins with what was delivered last, so that it does not bring what was before."""
    desk = Desk(TRADES)
    desk.bring(1, trade(1), trade(3))
    desk.lose()
    assert desk.bring(2, trade(2)) == []
    assert desk.bring(3, trade(3), trade(4)) == [gap(TRADES, GapCause.RECONNECT, 2, 4), 4]


def test_what_came_too_late_for_another_is_in_nobodys_gap_who_came_after_it() -> None:
    other = UpdateQueue(dict.fromkeys(UpdateType, Overflow.DROP_OLDEST), 10)
    desk = Desk(TRADES)
    (stream,) = desk.streams
    desk.bring(1, trade(1), trade(3), trade(2))
    stream.add(other)
    stream.remove(desk.queue)
    desk.bring(1, trade(4))
    desk.lose()
    desk.bring(2, trade(9))
    assert [one.gap_before for one in other.take_up_to(2)] == [None, gap(TRADES, GapCause.RECONNECT, 4, 9)]


def test_a_gap_reaches_no_further_back_than_its_reader() -> None:
    other = UpdateQueue(dict.fromkeys(UpdateType, Overflow.DROP_OLDEST), 10)
    desk = Desk(TRADES)
    desk.bring(1, trade(1), trade(3), trade(2))
    desk.streams[0].add(other)
    desk.lose()
    assert desk.bring(2, trade(9)) == [gap(TRADES, GapCause.SEQUENCE, 2, 9), 9]
    assert [one.gap_before for one in other.take_up_to(2)] == [gap(TRADES, GapCause.RECONNECT, 3, 9)]


def test_a_lost_connection_may_have_cost_nothing_but_what_came_too_late_for_others() -> None:
    other = UpdateQueue(dict.fromkeys(UpdateType, Overflow.DROP_OLDEST), 10)
    desk = Desk(TRADES)
    desk.bring(1, trade(1), trade(3), trade(2))
    desk.streams[0].add(other)
    desk.lose()
    assert desk.bring(2, trade(3), trade(4)) == [gap(TRADES, GapCause.SEQUENCE, 2, 4), 4]
    assert [one.gap_before for one in other.take_up_to(2)] == [None]


def test_a_stream_does_not_wait_for_a_clock_after_an_outage() -> None:
    """That was ahead when the stream began."""
    desk = Desk(TICKERS)
    desk.bring(1, ticker(10, 40_000), ticker(11, 11_000))
    desk.lose()
    found = desk.bring(2, ticker(12, 12_000), ticker(13, 13_000))
    assert found == [gap(TICKERS, GapCause.RECONNECT, 11_000, 12_000), 12, 13]


def test_a_stream_that_only_repeats_itself_came_on_its_link_all_the_same() -> None:
    desk = Desk(TICKERS)
    desk.bring(1, ticker(1, 1))
    (stream,) = desk.streams
    stream.begin_link()
    assert not stream.came_on_link()
    desk.bring(2, ticker(1, 1))
    assert stream.came_on_link()


# -- books ------------------------------------------------------------------------------------------------------------


def kept(desk_topic: Topic) -> tuple[BookKeeper, BookSync]:
    keeper = BookKeeper(lambda keeper, book: None)
    book = keeper.books[desk_topic] = KeptBook(BookSync(desk_topic), stir=lambda: None)
    return keeper, book.sync


def seeded(sync: BookSync, number: int) -> None:
    sync.seed(sync.ask(), BookSnapshot(number, (T + number) * MS, T * MS, (), (), None))
    assert sync.state is BookState.LIVE


def test_a_book_sees_what_it_must_and_is_not_disturbed_by_a_link_that_lags() -> None:
    keeper, sync = kept(DELTAS)
    desk = Desk(DELTAS, sinks=(keeper,))
    desk.bring(1, delta(5))
    seeded(sync, 5)
    desk.bring(1, delta(6), delta(7))
    desk.bring(2, delta(5), delta(6), delta(8))
    assert (sync.state, sync.sequence) == (BookState.LIVE, 8)
    desk.bring(1, delta(10))
    assert (sync.state, sync.missing) == (BookState.BROKEN, (9, 9))


@pytest.mark.parametrize("generation", [1, 2])
def test_a_book_sees_a_renumbering_at_once(generation: int) -> None:
    keeper, sync = kept(DELTAS)
    desk = Desk(DELTAS, sinks=(keeper,))
    desk.bring(1, delta(1000, ms=1000))
    seeded(sync, 1000)
    desk.bring(1, delta(1001))
    desk.bring(generation, delta(7, ms=1002))
    assert sync.state is BookState.BROKEN
