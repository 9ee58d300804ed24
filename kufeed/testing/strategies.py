"""Hypothesis strategies for what KuCoin sends, for what kufeed makes of it, and for what goes wrong.

Needs Hypothesis: ``pip install "kufeed[testing]"``. Nothing else in `kufeed.testing` but `kufeed.testing.machine` does.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import attrs

try:
    from hypothesis import assume
    from hypothesis import strategies as st
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'the strategies of kufeed.testing need Hypothesis: pip install "kufeed[testing]"', name=error.name
    ) from error

from decimal import Decimal

from kufeed import FeedConfig, Topic, UpdateType, topic
from kufeed.protocol import CHANNELS, BookSync, Channel
from kufeed.testing.damages import NAMES, DamagedMessage, can_have, spoilt
from kufeed.testing.exchange import Exchange
from kufeed.testing.hazards import SEVERITIES, Among, Between, Fault, Severity, domains
from kufeed.testing.histories import DeltaHistory, ReferenceBook, delta_message
from kufeed.testing.market import DEFAULT_FUTURES, DEFAULT_SPOT, MarketName
from kufeed.testing.network import EPOCH_NS
from kufeed.testing.plans import FaultPlan, check_size, chosen_kinds, fitted
from kufeed.testing.wireforms import frames, written

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from hypothesis.strategies import DrawFn, SearchStrategy

    from kufeed import Update
    from kufeed.testing.histories import Change, SideName

__all__ = [
    "DamagedMessage",
    "DeltaHistory",
    "damaged_messages",
    "delta_histories",
    "faults",
    "markets",
    "messages",
    "plans",
    "symbols",
    "topics",
    "updates",
]

DamagedMessage.__module__ = DeltaHistory.__module__ = __name__
_loads = FeedConfig().loads


# What is traded


def symbols(market: MarketName | None = None) -> SearchStrategy[str]:
    """Symbols of *market*, or of either: most often those that every `Exchange` has, the simplest first.

    The others are such as KuCoin could list; a subscription to one needs ``Exchange(accept_any_symbol=True)``.
    """
    _check_market(market)
    letters = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=2, max_size=8)
    pairs = st.builds(lambda base, quote: f"{base}-{quote}", letters, st.sampled_from(["USDT", "BTC", "KCS"]))
    # Bitcoin is XBT in that market: BTCUSDTM is nothing.
    roots = letters.filter(lambda root: not root.startswith("BTC"))
    perpetuals = st.builds(lambda root, quote: f"{root}{quote}M", roots, st.sampled_from(["USDT", "USDC", "USD"]))
    dated = st.builds(lambda month, year: f"XBTM{month}{year}", st.sampled_from("HMUZ"), st.integers(26, 35))
    spot = st.sampled_from(DEFAULT_SPOT) | pairs
    futures = st.sampled_from(DEFAULT_FUTURES) | perpetuals | dated
    return {"spot": spot, "futures": futures, None: futures | spot}[market]


def topics(
    market: MarketName | None = None,
    *,
    kinds: Iterable[UpdateType | str] | None = None,
    of: SearchStrategy[str] | None = None,
) -> SearchStrategy[Topic]:
    """Topics of every public channel, or of *kinds*, of *market* or of both.

    *of* draws the symbols, by default those that every `Exchange` has; the topic of all tickers is drawn only without
    it. Raises `ValueError` where there are no such channels.
    """
    _check_market(market)
    wanted = None if kinds is None else {UpdateType(kind) for kind in kinds}
    rows = _channels(market, wanted, of_all=of is None)
    own = st.sampled_from([*DEFAULT_FUTURES, *DEFAULT_SPOT]) if of is None else of
    return st.one_of([_topics_of(channel, own) for channel in rows])


def _channels(
    market: MarketName | None = None, kinds: set[UpdateType] | None = None, *, of_all: bool = True
) -> list[Channel]:
    """Those of *market* and of *kinds*, with that of all tickers if *of_all*. Raises `ValueError` for none."""
    rows = [
        channel
        for channel in CHANNELS
        if market in (None, channel.market.name)
        and (kinds is None or channel.kind in kinds)
        and (of_all or not channel.symbol_in_subject)
    ]
    if not rows:
        raise ValueError(f"the {market or 'exchange'} has no channel of {', '.join(sorted(kinds or ()))}")
    return rows


def _topics_of(channel: Channel, own: SearchStrategy[str]) -> SearchStrategy[Topic]:
    if channel.symbol_in_subject:
        return st.just(Topic(channel, "all"))
    fitting = own.filter(lambda symbol: ("-" in symbol) == (channel.market.name == "spot"))
    intervals = st.none() if channel.intervals is None else st.sampled_from(list(channel.intervals))
    return st.tuples(fitting, intervals).map(lambda drawn: Topic(channel, *drawn))


def _check_market(market: object) -> None:
    if market not in (None, "spot", "futures"):
        raise ValueError(f"market must be 'spot', 'futures' or None, not {market!r}")


# What is sent


def messages(of: Topic | Channel | UpdateType | str | None = None) -> SearchStrategy[str]:
    """Valid messages of a topic, of a channel, of a kind of update, or of any: the JSON text that the exchange sends.

    With the fields of 2024 and later, in its spelling: texts where it writes texts, times in the unit of each channel.
    Each is by itself; their sequences and times are in no order.
    """
    return _chosen(of).flatmap(_frames).map(written)


def damaged_messages(
    of: Topic | Channel | UpdateType | str | None = None, *, damages: Collection[str] | None = None
) -> SearchStrategy[DamagedMessage]:
    """Messages as `messages()` draws them, with one damage: what it is, the text, and the cause of its being refused.

    *damages* are the names of those wanted: `cut off`, `not json`, `no object`, `no topic`, `topic is no text`,
    `no subject`, `subject is no text`, `no data`, `data is no object`, `missing field`, `wrong type`, `bad number`,
    `negative number`, `huge number`, `wrong unit`, `uneven row`, `other symbol`, `wrong side`, `numbers backwards`.
    Some channels cannot have the last four. Each name is drawn as often as another. Raises `ValueError` for others, and
    where no message can have any of them.
    """
    if unknown := set(damages or ()) - set(NAMES):
        raise ValueError(f"there is no damage {min(unknown)!r}; there are {', '.join(NAMES)}")
    wanted = NAMES if damages is None else tuple(damages)
    if not wanted:
        raise ValueError("damages must name at least one")
    channels = _channels_of(of)
    having = {name: [channel for channel in channels if can_have(channel, name)] for name in wanted}
    topics_having = {name: _chosen(of, found) for name, found in having.items() if found}
    if not topics_having:
        raise ValueError(f"no message of {of!r} can have any of {', '.join(wanted)}")
    return _damaged(topics_having)


@st.composite
def _damaged(draw: DrawFn, topics_having: dict[str, SearchStrategy[Topic]]) -> DamagedMessage:
    name = draw(st.sampled_from(list(topics_having)))
    one = draw(topics_having[name])
    possible = spoilt(one, draw(_frames(one)))
    assume(name in possible)  # an empty side of a book has no rows
    text, cause = draw(possible[name])
    return DamagedMessage(name, text, cause)


def _frames(one: Topic) -> SearchStrategy[dict[str, Any]]:
    return frames(one, symbols=symbols("spot"))


def _chosen(
    of: Topic | Channel | UpdateType | str | None, channels: Iterable[Channel] | None = None
) -> SearchStrategy[Topic]:
    """Topics that are meant by *of*, of all its channels or of these."""
    if isinstance(of, Topic):
        return st.just(of)
    own = st.sampled_from([*DEFAULT_FUTURES, *DEFAULT_SPOT])
    return st.one_of([_topics_of(channel, own) for channel in channels or _channels_of(of)])


def _channels_of(of: Topic | Channel | UpdateType | str | None) -> list[Channel]:
    if isinstance(of, Topic | Channel):
        return [of.channel if isinstance(of, Topic) else of]
    return _channels(kinds=None if of is None else {UpdateType(of)})


# What comes of it


def updates(of: Topic | Channel | UpdateType | str | None = None) -> SearchStrategy[Update]:
    """Update records as a feed hands them out: of a topic, a channel, a kind, or any. `"book"` gives `OrderBook` views.

    They were received up to 0.2 s after their exchange time, and have no gap before them.
    """
    if of == UpdateType.BOOK:
        return _views()
    latencies = st.integers(0, 200_000_000)
    return st.builds(_decoded, _chosen(of).flatmap(lambda one: st.tuples(st.just(one), messages(one))), latencies)


def _decoded(sent: tuple[Topic, str], latency_ns: int) -> Update:
    one, text = sent
    frame = _loads(text.encode())
    made: Update = one.channel.decoders[Decimal](frame, one, 0)
    return attrs.evolve(made, received_time_ns=(made.exchange_time_ns or EPOCH_NS) + latency_ns)


@st.composite
def _views(draw: DrawFn) -> Update:
    history = draw(delta_histories())
    book = BookSync(history.topic)
    book.subscribed()
    book.seed(book.ask(), history.snapshot)
    for text in history.published:
        frame = _loads(text.encode())
        book.receive(history.topic.channel.decoders[Decimal](frame, history.topic, history.snapshot.received_time_ns))
    return book.view(draw(st.integers(1, 5)))


# A change of the book: around its middle, so that some would cross it.
_sides: SearchStrategy[SideName] = st.sampled_from(["buy", "sell"])
_changes: SearchStrategy[Change] = st.tuples(_sides, st.integers(80, 121), st.integers(0, 5))


@st.composite
def delta_histories(
    draw: DrawFn,
    market: MarketName | None = None,
    *,
    loss: bool = True,
    repeats: bool = True,
    disorder: bool = True,
    most: int = 20,
) -> DeltaHistory:
    """A snapshot, up to *most* level-2 messages around it, how they arrive, and the true book at each number.

    With *loss* some may not arrive, with *repeats* some may twice, with *disorder* some may after later ones; shrunk,
    all do once and in order. The snapshot is the book before the first message or after any of them.
    """
    _check_market(market)
    symbol = draw(st.sampled_from([*DEFAULT_FUTURES[:1], *DEFAULT_SPOT[:1]]).filter(_is_of(market)))
    size = st.lists(_changes, min_size=1, max_size=4 if "-" in symbol else 1)
    book = ReferenceBook(symbol, draw(st.integers(1, 10**9)))
    published = [written(delta_message(book, book.change(change))) for change in draw(st.lists(size, max_size=most))]
    order = list(range(len(published)))
    if disorder:
        for place in draw(st.lists(st.integers(0, max(0, len(order) - 2)), max_size=3)):
            order[place : place + 2] = reversed(order[place : place + 2])
    arriving: list[int] = []
    for place in order:
        copies = draw(st.sampled_from([1, *([0] if loss else []), *([2] if repeats else [])]))
        arriving += [place] * copies
    return DeltaHistory(
        topic=topic(UpdateType.BOOK_DELTA, symbol),
        snapshot=book.snapshot(draw(st.sampled_from(sorted(book.moments)))),
        published=tuple(published),
        arriving=tuple((place, published[place]) for place in arriving),
        books=dict(book.moments),
    )


def _is_of(market: MarketName | None) -> Callable[[str], bool]:
    return lambda symbol: market is None or ("-" in symbol) == (market == "spot")


# What goes wrong


def plans(
    severity: Severity = "brutal",
    *,
    duration: float = 20.0,
    kinds: Iterable[type[Fault]] | None = None,
    most: int = 5,
) -> SearchStrategy[FaultPlan]:
    """Fault plans of up to *most* faults of this *severity* or milder, or of *kinds*, all over within *duration*.

    The fields are drawn from what `FaultPlan.random()` draws them from. A failing plan shrinks to fewer faults, then to
    milder ones and to those first in `faults.KINDS`, with as many fields as by default as can be, and round times; to
    none where no fault is needed. Raises `ValueError` as `FaultPlan.random()` does, but for a *most* of 0.
    """
    check_size(duration, most, least=0)
    return _plans(_any_of(chosen_kinds(severity, kinds), duration), most)


def faults(severity: Severity = "brutal", *, kinds: Iterable[type[Fault]] | None = None) -> SearchStrategy[Fault]:
    """Single faults as `plans()` has them, for tests that have them strike themselves: `at` is 0."""
    return _any_of(chosen_kinds(severity, kinds), None)


@cache
def _any_of(kinds: tuple[type[Fault], ...], duration: float | None) -> SearchStrategy[Fault]:
    mildest_first = sorted(kinds, key=lambda kind: SEVERITIES.index(kind.severity))  # the rest is as in `KINDS`
    return st.one_of([_faults(kind, _fields_of(kind), duration) for kind in mildest_first])


@st.composite
def _plans(draw: DrawFn, fault: SearchStrategy[Fault], most: int) -> FaultPlan:
    # The number first, and not `st.lists`: of that, faults of more than five fields are not dropped when it shrinks.
    return FaultPlan(*(draw(fault) for _ in range(draw(st.integers(0, most)))))


@st.composite
def _faults(draw: DrawFn, kind: type[Fault], fields: dict[str, SearchStrategy[Any]], duration: float | None) -> Fault:
    """Of one *kind*; without a *duration* one that strikes at once. Composite, so that it is printed as it prints."""
    drawn = {name: draw(values) for name, values in fields.items() if duration is not None or name != "at"}
    return kind(**(drawn if duration is None else fitted(drawn, duration)))


def _fields_of(kind: type[Fault]) -> dict[str, SearchStrategy[Any]]:
    return {name: _values(domain, default) for name, (domain, default) in domains(kind).items()}


def _values(domain: Among | Between, default: Any) -> SearchStrategy[Any]:
    """What a field may be, the default first: that is where shrinking leads."""
    if isinstance(domain, Among):
        return st.sampled_from([default, *(value for value in dict.fromkeys(domain.values) if value != default)])
    low, high = domain.low, domain.high
    if isinstance(low, int) and isinstance(high, int):
        return st.just(default) | st.integers(low, high)
    return st.one_of(st.just(default), *(_rounded(low, high, parts) for parts in (1, 10, 1000)))


def _rounded(low: float, high: float, parts: int) -> SearchStrategy[float]:
    first, last = math.ceil(low * parts), math.floor(high * parts)
    return st.nothing() if first > last else st.integers(first, last).map(lambda number: number / parts)


def markets(**given: Any) -> SearchStrategy[Exchange]:
    """Whole markets: an `Exchange` of any seed, rhythm, depth, number of servers and symbols; not opened.

    *given* are arguments of `Exchange` that all of them have. Printed by Hypothesis as the call that makes it.
    """
    fields = {
        "seed": st.integers(0, 2**32 - 1),
        "update_interval": st.sampled_from([0.1, 0.02, 0.5, 2.0]),
        "generated": st.integers(0, 3),
        "instance_servers": st.integers(1, 2),
        "partial_subscribe": st.booleans(),
        "book_levels": st.sampled_from([130, 40, 300]),
    }
    return st.builds(
        Exchange, **{name: strategy for name, strategy in fields.items() if name not in given}, **_just(given)
    )


def _just(given: dict[str, Any]) -> dict[str, SearchStrategy[Any]]:
    return {name: st.just(value) for name, value in given.items()}
