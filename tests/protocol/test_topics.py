"""Topics as values: made from what people write, or refused before anything is dialled, with what they meant."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kufeed.errors import MessageRefused, UsageError
from kufeed.protocol import CHANNELS, MARKETS, Topic, UpdateType, market_of, parse_topic, topic
from kufeed.protocol.futures import FUTURES
from kufeed.protocol.spot import SPOT, one_of_all
from kufeed.protocol.topics import distinct, suggestions, topics

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

currencies = st.text(LETTERS, min_size=1, max_size=10)
spot_symbols = st.builds("{}-{}".format, currencies, currencies)
perpetuals = st.builds("{}{}M".format, currencies, st.sampled_from(["USDT", "USDC", "USD"]))
dated = st.builds("{}{}{}".format, perpetuals, st.sampled_from("FGHJKMNQUVXZ"), st.integers(20, 99))
futures_symbols = (perpetuals | dated).filter(lambda symbol: not symbol.startswith("BTCUSD"))
nearly_symbols = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["BTC", "XBT", "btc", "BTCX", "BTCUSD", "ETH"]) | currencies,
    st.sampled_from(["", "", "-", "/", "_", " ", ":"]),
    st.sampled_from(["USDT", "usdt", "USD", "BTC", ""]),
    st.sampled_from(["", "M", "-PERP", ":USDT", "MH21"]),
)
anything_written = nearly_symbols | nearly_symbols | st.text(max_size=30) | st.text(LETTERS + "abc-/_: ", max_size=30)


# -- making topics ----------------------------------------------------------------------------------------------------


ONLY_SPOT = {UpdateType.LEVEL1, UpdateType.CALL_AUCTION, UpdateType.CALL_AUCTION_DEPTH}
ONLY_FUTURES = {UpdateType.FUNDING_RATE, UpdateType.ANNOUNCEMENT}
DERIVED = {UpdateType.BOOK}
"""Made of other kinds, and no topic's: what is subscribed to are the changes."""
OPTIONS: dict[UpdateType, dict[str, Any]] = {UpdateType.DEPTH: {"levels": 50}, UpdateType.CANDLE: {"interval": "1hour"}}
BOTH_INTERVALS = ["1min", "3min", "5min", "15min", "30min", "1hour", "2hour", "4hour", "8hour", "12hour"]
FUTURES_INTERVALS = [*BOTH_INTERVALS, "1day", "1week", "1month"]
SPOT_INTERVALS = [*FUTURES_INTERVALS, "6hour"]


def test_there_are_two_markets_and_each_row_of_the_table_is_of_one() -> None:
    assert MARKETS == (SPOT, FUTURES)
    assert {channel.market.name for channel in CHANNELS} == {"spot", "futures"}


@pytest.mark.parametrize("symbol", ["BTC-USDT", "XBTUSDTM"])
def test_who_wants_a_book_as_a_topic_is_told_where_books_are(symbol: str) -> None:
    with pytest.raises(UsageError, match=rf"no book stream \({symbol}\); feed.book\('{symbol}'\) makes books of its"):
        topic("book", symbol)


@given(st.sampled_from(list(UpdateType)), spot_symbols | futures_symbols)
def test_a_topic_reads_as_it_is_written(kind: UpdateType, symbol: str) -> None:
    """`str()` is the wire topic, `parse_topic()` the way back, and the dash tells the market."""
    options = OPTIONS.get(kind, {})
    if kind in DERIVED | (ONLY_FUTURES if "-" in symbol else ONLY_SPOT):
        hint = "; feed.book" if kind is UpdateType.BOOK else "$"
        with pytest.raises(UsageError, match=rf"the (spot|futures) market has no {kind} stream \({symbol}\){hint}"):
            topic(kind, symbol, **options)
        return
    made = topic(kind, symbol, **options)
    assert made.kind is kind
    assert made.symbol == symbol
    assert made.channel.market is (SPOT if "-" in symbol else FUTURES)
    suffix = "_1hour" if kind is UpdateType.CANDLE else ""
    assert str(made) == made.wire == f"{made.channel.path}:{symbol}{suffix}"
    parsed = parse_topic(str(made))
    if kind in (UpdateType.INDEX_PRICE, UpdateType.FUNDING_RATE) and "-" not in symbol:
        assert parsed == topic("mark_price", symbol), "the first of three that share it"
    else:
        assert parsed == made
        assert hash(parsed) == hash(made)
    assert topic(str(kind), symbol, **options) == made, "a kind may be named by its text"


@pytest.mark.parametrize("channel", CHANNELS, ids=str)
def test_every_channel_has_topics(channel: Any) -> None:
    symbol = "all" if channel.symbol_in_subject else "BTC-USDT" if channel.market is SPOT else "XBTUSDTM"
    interval = None if channel.intervals is None else "1min"
    made = topic(channel.kind, symbol, levels=channel.levels, interval=interval)
    assert made == Topic(channel, symbol, interval)
    assert made.wire == f"{channel.path}:{symbol}" + ("_1min" if interval else "")


@pytest.mark.parametrize("channel", CHANNELS, ids=repr)
@pytest.mark.parametrize("again", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy, copy.copy])  # noqa: S301
def test_a_copy_of_a_row_is_that_row_in_another_process_too(channel: Any, again: Any) -> None:
    """So that a topic that was sent there is equal to the one that is made there."""
    assert again(channel) is channel


def test_depth_comes_in_two_depths() -> None:
    assert str(topic("depth", "BTC-USDT", levels=5)) == "/spotMarket/level2Depth5:BTC-USDT"
    assert str(topic("depth", "XBTUSDTM", levels=50)) == "/contractMarket/level2Depth50:XBTUSDTM"
    assert topic("depth", "XBTUSDTM", levels=50) != topic("depth", "XBTUSDTM", levels=5)


@pytest.mark.parametrize("levels", [None, 0, 20, "5", 5.0, True])
def test_other_levels_are_a_usage_error_with_the_choices(levels: Any) -> None:
    with pytest.raises(UsageError, match="levels=5 or 50, not"):
        topic("depth", "BTC-USDT", levels=levels)


@pytest.mark.parametrize(("symbol", "intervals"), [("BTC-USDT", SPOT_INTERVALS), ("XBTUSDTM", FUTURES_INTERVALS)])
def test_candles_have_the_intervals_of_their_market(symbol: str, intervals: list[str]) -> None:
    """PROTOCOL.md, sections 6 and 7; futures have no `6hour`."""
    made = [topic("candle", symbol, interval=interval) for interval in intervals]
    assert [parse_topic(str(one)) for one in made] == made
    assert [one.interval for one in made] == intervals
    assert len(set(made)) == len(intervals)
    (channel,) = {one.channel for one in made}
    assert set(channel.intervals or ()) == set(intervals)
    for wrong in (None, "", "1m", "7hour", 60, ["1min"]):
        with pytest.raises(UsageError, match=r"needs an interval of 1min, .*1week") as caught:
            topic("candle", symbol, interval=wrong)  # type: ignore[arg-type]
        assert all(interval in str(caught.value) for interval in intervals)
    with pytest.raises(UsageError, match="needs an interval"):
        parse_topic(f"{channel.path}:{symbol}")
    with pytest.raises(UsageError, match="needs an interval"):
        parse_topic(f"{channel.path}:{symbol}_7hour")


def test_futures_have_no_candles_of_six_hours() -> None:
    with pytest.raises(UsageError, match="'6hour'"):
        topic("candle", "XBTUSDTM", interval="6hour")


@pytest.mark.parametrize("kind", [kind for kind in UpdateType if kind not in ONLY_SPOT | ONLY_FUTURES | DERIVED])
def test_levels_and_intervals_are_refused_where_there_are_none(kind: UpdateType) -> None:
    if kind is not UpdateType.DEPTH:
        with pytest.raises(UsageError, match="has no levels"):
            topic(kind, "BTC-USDT", levels=5)
    if kind is not UpdateType.CANDLE:
        with pytest.raises(UsageError, match="has no interval"):
            topic(kind, "BTC-USDT", **{**OPTIONS.get(kind, {}), "interval": "1min"})


@pytest.mark.parametrize(
    "symbol", ["XBTUSDTM", "XBTUSDCM", "XBTUSDM", "XBTMH21", "XBTMM22", "ETHUSDTM", "1000PEPEUSDTM"]
)
def test_perpetual_and_dated_contracts_are_futures(symbol: str) -> None:
    assert market_of(symbol) is FUTURES


@pytest.mark.parametrize("symbol", ["BTC-USDT", "KCS-BTC", "1INCH-USDT", "USDT-BTC", "A-B"])
def test_two_currencies_with_a_dash_are_spot(symbol: str) -> None:
    assert market_of(symbol) is SPOT


def test_all_spot_tickers_are_one_topic() -> None:
    """PROTOCOL.md, section 6: `/market/ticker:all`."""
    made = topic("ticker", "all")
    assert (str(made), made.symbol, made.kind, made.channel.market) == ("/market/ticker:all", "all", "ticker", SPOT)
    assert parse_topic("/market/ticker:all") == made == topic(UpdateType.TICKER, "all")
    assert str(made.channel) == "/market/ticker:all"
    assert made not in {topic("ticker", "BTC-USDT"), topic("ticker", "XBTUSDTM")}
    assert topics("ticker", ["all", "BTC-USDT", "XBTUSDTM"])[0] == made


@pytest.mark.parametrize("kind", [kind for kind in UpdateType if kind is not UpdateType.TICKER])
def test_no_other_kind_has_a_topic_of_all_symbols(kind: UpdateType) -> None:
    with pytest.raises(UsageError, match=f"{kind} has no topic of all symbols"):
        topic(kind, "all", **OPTIONS.get(kind, {}))
    with pytest.raises(UsageError, match="has no levels"):
        topic("ticker", "all", levels=5)
    with pytest.raises(UsageError, match="has no interval"):
        topic("ticker", "all", interval="1min")


def test_one_symbol_of_the_topic_of_all_is_no_topic_to_subscribe_to() -> None:
    """An update of `all` has such a topic: it is another stream than the ticker of that symbol, and says so."""
    part = one_of_all(topic("ticker", "all"), "BTC-USDT")
    own = topic("ticker", "BTC-USDT")
    assert (str(part), part.symbol, part.kind) == (str(own), "BTC-USDT", "ticker")
    assert part != own
    assert part == one_of_all(topic("ticker", "all"), "BTC-USDT")
    assert hash(part) == hash(one_of_all(topic("ticker", "all"), "BTC-USDT"))
    assert repr(part) == "<Topic /market/ticker:BTC-USDT of /market/ticker:all>"
    assert repr(topic("ticker", "all")) == "<Topic /market/ticker:all>"
    with pytest.raises(UsageError, match=r"BTC-USDT is one symbol of /market/ticker:all"):
        distinct([own, part])


@given(spot_symbols | futures_symbols | anything_written | st.none() | st.integers() | st.lists(st.text(), max_size=2))
def test_a_subject_names_a_spot_symbol_or_is_refused(subject: Any) -> None:
    try:
        part = one_of_all(topic("ticker", "all"), subject)
    except MessageRefused as refusal:
        assert refusal.cause == "subject"  # noqa: PT017  # one of two right outcomes
        assert not is_spot(subject)
    else:
        assert part.symbol == subject
        assert is_spot(subject)
    with pytest.raises(MessageRefused):
        one_of_all(topic("ticker", "BTC-USDT"), "ETH-USDT")


def is_spot(symbol: Any) -> bool:
    try:
        return market_of(symbol) is SPOT
    except UsageError:
        return False


def test_topics_differ_by_channel_and_symbol_alone() -> None:
    made = {topic("ticker", "BTC-USDT"), topic("trade", "BTC-USDT"), topic("ticker", "ETH-USDT")}
    assert len(made | {parse_topic("/market/ticker:BTC-USDT")}) == 3
    assert repr(topic("ticker", "BTC-USDT")) == "<Topic /market/ticker:BTC-USDT>"


# -- impossible ones --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("BTC/USDT", ["BTC-USDT"]),
        ("BTC_USDT", ["BTC-USDT"]),
        ("btc-usdt", ["BTC-USDT"]),
        (" BTC-USDT ", ["BTC-USDT"]),
        ("XBTUSDT", ["XBT-USDT", "XBTUSDTM"]),
        ("BTCUSDT", ["BTC-USDT", "XBTUSDTM"]),
        ("ETHBTC", ["ETH-BTC", "ETHBTCM"]),
        ("BTCUSDTM", ["XBTUSDTM"]),
        ("BTCUSDM", ["XBTUSDM"]),
        ("BTCMH21", ["XBTMH21"]),
        ("btcdomusdtm", ["BTCDOMUSDTM"]),
        ("xbtusdtm", ["XBTUSDTM"]),
        ("BTC/USDT:USDT", ["XBTUSDTM"]),
        ("ETH/USDT:USDT", ["ETHUSDTM"]),
        ("all", []),
        ("", []),
        ("-", []),
        ("USDT", []),
        ("A-B-C", []),
        ("BTC-USDT,ETH-USDT", []),
    ],
)
def test_a_misspelt_symbol_is_told_how_kucoin_spells_it(written: str, meant: list[str]) -> None:
    assert suggestions(written) == meant
    with pytest.raises(UsageError) as caught:
        market_of(written)
    assert repr(written) in str(caught.value)
    for one in meant:
        assert one in str(caught.value)


@pytest.mark.parametrize("quote", ["USDT", "USDC", "USD", "BTC", "ETH", "KCS", "EUR", "TRY", "BRL"])
def test_what_is_written_in_one_word_is_split_before_its_quote_currency(quote: str) -> None:
    assert suggestions(f"LTC{quote}") == [f"LTC-{quote}", f"LTC{quote}M"]


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("BTC/USDT", "; did you mean BTC-USDT?"),
        ("BTCUSDT", "; did you mean BTC-USDT or XBTUSDTM?"),
        ("-", "; spot is BTC-USDT, futures XBTUSDTM"),
    ],
)
def test_whose_symbol_nobody_can_guess_is_told_what_symbols_look_like(written: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        market_of(written)
    assert str(caught.value) == f"{written!r} is no KuCoin symbol{hint}"


@given(anything_written)
def test_any_text_gives_a_topic_or_a_usage_error_whose_suggestions_are_valid(written: str) -> None:
    try:
        made = topic("ticker", written)
    except UsageError:
        made = None
    assert made is None or str(made).endswith(f":{written}")
    for one in suggestions(written):
        assert one != written
        assert topic("ticker", one).symbol == one


@given(anything_written, st.sampled_from([channel.path for channel in CHANNELS] + ["/market/level9", "", "/market"]))
def test_any_wire_topic_parses_or_is_a_usage_error(symbol: str, path: str) -> None:
    for wire in (f"{path}:{symbol}", path + symbol, symbol):
        try:
            made = parse_topic(wire)
        except UsageError:
            continue
        assert str(made) == wire


@pytest.mark.parametrize(
    "wire",
    [
        *("/market/ticker", "/market/ticker:", "market/ticker:BTC-USDT", "/market/level9:BTC-USDT", ""),
        *("/market/ticker:XBTUSDTM", "/contractMarket/tickerV2:BTC-USDT", "/market/ticker:BTC-USDT,ETH-USDT"),
        *("/market/match:all", "/market/ticker:BTC-USDT:BTC-USDT", "/MARKET/TICKER:BTC-USDT"),
        *(
            "/contractMarket/tickerV2:all",
            "/market/candles:all_1min",
            "/market/ticker:BTC-USDT,all",
            "/market/ticker:ALL",
        ),
    ],
)
def test_a_wire_topic_of_no_channel_or_of_the_other_market_is_a_usage_error(wire: str) -> None:
    with pytest.raises(UsageError):
        parse_topic(wire)


@pytest.mark.parametrize(
    ("wire", "said"),
    [
        (
            "/market/level9:BTC-USDT",
            "'/market/level9:BTC-USDT' is not a topic kufeed knows; paths are /market/ticker, ",
        ),
        ("/market/ticker:XBTUSDTM", "XBTUSDTM is no symbol of the spot market, which /market/ticker belongs to"),
        ("/market/ticker:BTC-USDT:X", "'BTC-USDT:X' is no KuCoin symbol"),
    ],
)
def test_the_part_of_a_wire_topic_that_is_wrong_is_named(wire: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_topic(wire)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("kind", ["tickers", "", None, 3, ["ticker"], "TICKER"])
def test_an_unknown_kind_is_a_usage_error_that_lists_the_kinds(kind: Any) -> None:
    with pytest.raises(UsageError, match="ticker, trade"):
        topic(kind, "BTC-USDT")


@pytest.mark.parametrize("symbol", [None, 3, b"BTC-USDT", ["BTC-USDT"], ("BTC-USDT",)])
def test_a_symbol_that_is_not_text_is_a_usage_error(symbol: Any) -> None:
    with pytest.raises(UsageError, match="a symbol is text"):
        topic("ticker", symbol)


def test_a_usage_error_is_a_value_error_too() -> None:
    with pytest.raises(ValueError, match="did you mean BTC-USDT"):
        topic("ticker", "BTC/USDT")


# -- several at once --------------------------------------------------------------------------------------------------


@given(st.lists(spot_symbols | futures_symbols, min_size=1, max_size=20, unique=True))
def test_several_symbols_of_both_markets_keep_their_order(symbols: list[str]) -> None:
    assert [one.symbol for one in topics("trade", symbols)] == symbols
    assert topics("trade", iter(symbols)) == topics("trade", symbols)


def test_several_symbols_have_the_same_levels_or_interval() -> None:
    depths = topics("depth", ["BTC-USDT", "XBTUSDTM"], levels=5)
    assert [one.wire for one in depths] == [
        "/spotMarket/level2Depth5:BTC-USDT",
        "/contractMarket/level2Depth5:XBTUSDTM",
    ]
    candles = topics("candle", ["BTC-USDT", "ETH-USDT"], interval="1min")
    assert [one.argument for one in candles] == ["BTC-USDT_1min", "ETH-USDT_1min"]


def test_a_bare_string_where_symbols_belong_is_a_usage_error() -> None:
    """Python would walk over its letters."""
    with pytest.raises(UsageError, match="symbols are separate arguments"):
        topics("ticker", "BTC-USDT")


def test_no_symbols_at_all_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="at least one symbol"):
        topics("ticker", [])


def test_the_same_symbol_twice_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="/market/ticker:BTC-USDT stands twice"):
        topics("ticker", ["BTC-USDT", "ETH-USDT", "BTC-USDT"])
    with pytest.raises(UsageError, match="stands twice"):
        distinct([parse_topic("/market/ticker:BTC-USDT"), topic("ticker", "BTC-USDT")])
    assert len(distinct([topic("ticker", "BTC-USDT"), topic("trade", "BTC-USDT")])) == 2


def test_one_impossible_symbol_refuses_all() -> None:
    with pytest.raises(UsageError, match="'BTC/USDT' is no KuCoin symbol"):
        topics("ticker", ["ETH-USDT", "BTC/USDT"])
