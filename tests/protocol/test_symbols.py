"""Rows of the symbol lists, and what a size in contracts is worth."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import MAX_EMAX, MIN_EMIN, ROUND_UP, Context, Decimal, localcontext
from fractions import Fraction
from typing import Any

import attrs
import pytest
import ujson
from hypothesis import example, given
from hypothesis import strategies as st

from kufeed import MessageRefused, SymbolInfo, SymbolStatus, SymbolType, UsageError
from kufeed.protocol import MARKETS
from kufeed.protocol.rest import FUTURES_CONTRACTS, SPOT_SYMBOLS
from kufeed.protocol.symbols import LISTS, read_row

from .. import samples

SPOT, FUTURES = MARKETS
AT_NS = 1_750_000_000_123_456_789
AT = datetime(2025, 6, 15, 15, 6, 40, 123456, tzinfo=UTC)


def rows(name: str) -> list[dict[str, Any]]:
    found = [row for sample in samples.load(name) for row in ujson.loads(sample.text)["data"]]
    assert found
    return found


CONTRACT: dict[str, Any] = {
    "symbol": "XBTUSDTM",
    "type": "FFWCSX",
    "expireDate": None,
    "baseCurrency": "XBT",
    "quoteCurrency": "USDT",
    "settleCurrency": "USDT",
    "lotSize": 1,
    "tickSize": 0.1,
    "multiplier": 0.001,
    "isInverse": False,
    "status": "Open",
    "fundingRateGranularity": 28800000,
    "nextFundingRateTime": 17752926,
}
INVERSE = CONTRACT | {
    "symbol": "XBTUSDM",
    "quoteCurrency": "USD",
    "settleCurrency": "XBT",
    "multiplier": -1.0,
    "isInverse": True,
}
DATED = INVERSE | {"symbol": "XBTMH21", "type": "FFICSX", "expireDate": 1616745600000}
PAIR: dict[str, Any] = {
    "symbol": "BTC-USDT",
    "name": "BTC-USDT",
    "baseCurrency": "BTC",
    "quoteCurrency": "USDT",
    "priceIncrement": "0.1",
    "baseIncrement": "0.00000001",
    "enableTrading": True,
}


def contract(**changes: Any) -> SymbolInfo:
    return read_row(CONTRACT | changes, FUTURES, AT_NS)


def pair(**changes: Any) -> SymbolInfo:
    return read_row(PAIR | changes, SPOT, AT_NS)


# -- what was recorded ------------------------------------------------------------------------------------------------


def test_the_recorded_contracts_are_read() -> None:
    linear, inverse, newer = (read_row(row, FUTURES, AT_NS) for row in rows("rest_contracts_active.jsonl"))
    assert linear == SymbolInfo(
        symbol="XBTUSDTM",
        market="futures",
        type=SymbolType.PERPETUAL,
        base="XBT",
        quote="USDT",
        settle="USDT",
        tick=Decimal(1),
        lot=1,
        multiplier=Decimal("0.001"),
        is_inverse=False,
        status=SymbolStatus.OPEN,
        exchange_status="Open",
        expiry=None,
        funding_interval=None,
        next_funding=AT + timedelta(milliseconds=25242841),
    )
    assert (inverse.symbol, inverse.settle, inverse.multiplier, inverse.is_inverse) == ("XBTUSDM", "XBT", -1, True)
    assert (newer.tick, newer.funding_interval) == (Decimal("0.1"), 28800.0)


def test_the_recorded_spot_symbol_is_read() -> None:
    (only,) = (read_row(row, SPOT, AT_NS) for row in rows("rest_spot_symbols.jsonl"))
    assert only == SymbolInfo(
        symbol="BTC-USDT",
        market="spot",
        type=SymbolType.SPOT,
        base="BTC",
        quote="USDT",
        settle="USDT",
        tick=Decimal("0.1"),
        lot=Decimal("0.00000001"),
        multiplier=Decimal(1),
        is_inverse=False,
        status=SymbolStatus.OPEN,
        exchange_status=True,
        expiry=None,
        funding_interval=None,
        next_funding=None,
    )


def test_the_lists_are_asked_for_where_they_are_documented() -> None:
    assert {market.name: endpoint for market, (endpoint, _) in LISTS.items()} == {
        "spot": SPOT_SYMBOLS,
        "futures": FUTURES_CONTRACTS,
    }
    assert (SPOT_SYMBOLS.method, SPOT_SYMBOLS.path, SPOT_SYMBOLS.weight) == ("GET", "/api/v2/symbols", 4)
    assert (FUTURES_CONTRACTS.path, FUTURES_CONTRACTS.weight) == ("/api/v1/contracts/active", 3)


# -- field by field ---------------------------------------------------------------------------------------------------


def test_types_and_statuses_have_the_names_that_users_write() -> None:
    assert list(SymbolType) == ["spot", "perpetual", "dated"]
    assert list(SymbolStatus) == [
        *("open", "init", "cancel_only", "paused", "being_settled", "settled", "closed", "disabled", "unknown")
    ]


def test_a_dated_contract_has_an_expiry() -> None:
    info = read_row(DATED, FUTURES, AT_NS)
    assert (info.type, info.expiry) == (SymbolType.DATED, datetime(2021, 3, 26, 8, tzinfo=UTC))


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("Open", "open"),
        ("Init", "init"),
        ("CancelOnly", "cancel_only"),
        ("Paused", "paused"),
        ("BeingSettled", "being_settled"),
        ("Settled", "settled"),
        ("Closed", "closed"),
        ("PreMarket", "unknown"),
    ],
)
def test_what_the_exchange_says_of_the_status_is_kept(said: str, status: str) -> None:
    info = contract(status=said)
    assert (info.status, info.exchange_status) == (SymbolStatus(status), said)


def test_spot_says_only_whether_it_trades() -> None:
    info = pair(enableTrading=False)
    assert (info.status, info.exchange_status) == (SymbolStatus.DISABLED, False)


@pytest.mark.parametrize("loads", [json.loads, ujson.loads])
@pytest.mark.parametrize("text", ["1.0E-7", "0.0000001", "1e-07", '"0.0000001"', '"1E-7"'])
def test_numbers_are_exact_however_they_are_written(text: str, loads: Any) -> None:
    value = loads(text)
    assert contract(tickSize=value, multiplier=value).tick == Decimal("0.0000001")
    assert contract(tickSize=value, multiplier=value).multiplier == Decimal("0.0000001")


@pytest.mark.parametrize("name", ["expireDate", "fundingRateGranularity", "nextFundingRateTime"])
def test_what_may_be_absent_may_be_absent(name: str) -> None:
    row = {key: value for key, value in CONTRACT.items() if key != name}
    assert read_row(row, FUTURES, AT_NS) == contract(**{name: None})


@pytest.mark.parametrize("row", [CONTRACT, DATED, PAIR])
def test_nothing_else_may_be_absent_and_the_refusal_names_it(row: dict[str, Any]) -> None:
    market = SPOT if row is PAIR else FUTURES
    optional = {"name", "fundingRateGranularity", "nextFundingRateTime", *(["expireDate"] if row is CONTRACT else [])}
    for name in row.keys() - optional:
        with pytest.raises(MessageRefused, match="missing") as refusal:
            read_row({key: value for key, value in row.items() if key != name}, market, AT_NS)
        assert refusal.value.cause == name


NAMES: list[Any] = ["", "A B", "x" * 65, "a\n", "\x1b[31m", "\u202e", None, 7, ["A"]]
POSITIVE: list[Any] = [0, "0", "0.0", 0.0, -1, "-1", "1_0", "1e999", "", None, True, float("nan"), float("inf"), [1]]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("symbol", NAMES),
        ("baseCurrency", NAMES),
        ("quoteCurrency", NAMES),
        ("settleCurrency", NAMES),
        ("status", NAMES),
        ("type", [*NAMES, "FFXXXX", "ffwcsx"]),
        ("tickSize", POSITIVE),
        ("lotSize", [*POSITIVE, 0.5, 1.0]),
        ("multiplier", POSITIVE),
        ("isInverse", [None, 0, 1, "false", ""]),
        ("expireDate", ["", 0, 1616745600, 1616745600000.0, True, -1]),
        ("fundingRateGranularity", ["28800000", -1, 1.5, True, 10**10]),
        ("nextFundingRateTime", ["17752926", -1, 1.5, True, 1750000000000]),
    ],
)
def test_a_bad_contract_is_refused_by_the_fields_name(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(MessageRefused) as refusal:
            contract(**{name: value})
        assert refusal.value.cause == name, value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("symbol", NAMES),
        ("baseCurrency", NAMES),
        ("quoteCurrency", NAMES),
        ("priceIncrement", POSITIVE),
        ("baseIncrement", POSITIVE),
        ("enableTrading", [None, 0, 1, "true", ""]),
    ],
)
def test_a_bad_spot_symbol_is_refused_by_the_fields_name(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(MessageRefused) as refusal:
            pair(**{name: value})
        assert refusal.value.cause == name, value


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (CONTRACT | {"type": "FFXXXX"}, "type: 'FFXXXX'"),
        (CONTRACT | {"multiplier": -2}, "multiplier: -2"),
        (CONTRACT | {"lotSize": 0}, "lotSize: 0"),
        (CONTRACT | {"tickSize": "0.0"}, "tickSize: '0.0'"),
        (DATED | {"expireDate": None}, "expireDate: missing"),
        (CONTRACT | {"expireDate": 7}, "expireDate: not milliseconds: 7"),
        (
            CONTRACT | {"fundingRateGranularity": "x"},
            "fundingRateGranularity: no length of time in milliseconds: 'x'",
        ),
        (PAIR | {"priceIncrement": "0.0"}, "priceIncrement: '0.0'"),
    ],
)
def test_a_refusal_says_what_stood_there(row: dict[str, Any], said: str) -> None:
    with pytest.raises(MessageRefused) as refusal:
        read_row(row, SPOT if "enableTrading" in row else FUTURES, AT_NS)
    assert str(refusal.value) == said


def test_lengths_of_time_are_from_nothing_to_115_days() -> None:
    longest = 10**10 - 1
    for milliseconds in (0, longest):
        info = contract(fundingRateGranularity=milliseconds, nextFundingRateTime=milliseconds)
        assert info.funding_interval == milliseconds / 1000
        assert info.next_funding == AT + timedelta(milliseconds=milliseconds)


@pytest.mark.parametrize("row", [None, 7, "XBTUSDTM", [CONTRACT]])
def test_what_is_no_object_is_refused(row: object) -> None:
    for market in MARKETS:
        with pytest.raises(MessageRefused) as refusal:
            read_row(row, market, AT_NS)
        assert refusal.value.cause == "data"


def test_an_inverse_multiplier_may_have_either_sign_and_no_other_may() -> None:
    for multiplier in (-1.0, 1.0, "-10"):
        assert read_row(INVERSE | {"multiplier": multiplier}, FUTURES, AT_NS).multiplier == Decimal(str(multiplier))
    with pytest.raises(MessageRefused):
        read_row(INVERSE | {"multiplier": 0.0}, FUTURES, AT_NS)


def test_it_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        contract().tick = Decimal(2)  # type: ignore[misc]


# -- sizes ------------------------------------------------------------------------------------------------------------

LINEAR_INFO, INVERSE_INFO, SPOT_INFO = contract(), read_row(INVERSE, FUTURES, AT_NS), pair()

numbers = st.integers(1, 10**15).flatmap(lambda digits: st.integers(-12, 6).map(lambda e: Decimal(digits).scaleb(e)))
sizes = st.integers(-(2**63), 2**63)


def test_sizes_by_hand() -> None:
    assert LINEAR_INFO.base_size(1500) == Decimal("1.5")
    assert INVERSE_INFO.base_size(100_000, 50_000) == 2
    assert INVERSE_INFO.base_size(-100_000, Decimal(50_000)) == -2
    assert str(INVERSE_INFO.base_size(1, 3)) == "0." + "3" * 50
    assert SPOT_INFO.base_size(Decimal("0.25"), 50_000) == Decimal("0.25")
    assert LINEAR_INFO.base_size(Decimal("1500.0")) == Decimal("1.5")
    assert type(SPOT_INFO.base_size(1)) is Decimal


@given(sizes, numbers, numbers)
@example(2**63 - 1, Decimal(10**15 - 1).scaleb(-12), Decimal(1))  # 34 digits
def test_a_linear_size_is_exact_and_knows_no_price(size: int, multiplier: Decimal, price: Decimal) -> None:
    info = attrs.evolve(LINEAR_INFO, multiplier=multiplier)
    found = info.base_size(size, price)
    assert found == info.base_size(size)
    assert Fraction(found) == size * Fraction(multiplier)


@given(sizes, numbers, numbers)
def test_an_inverse_size_times_the_price_is_the_value(size: int, multiplier: Decimal, price: Decimal) -> None:
    info = attrs.evolve(INVERSE_INFO, multiplier=multiplier.copy_negate())
    value = size * Fraction(multiplier)
    found = info.base_size(size, price)
    assert abs(Fraction(found) * Fraction(price) - value) <= abs(value) / 10**49 / 2
    assert len(found.as_tuple().digits) <= 50
    assert found == attrs.evolve(info, multiplier=multiplier).base_size(size, price)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=12) | sizes.map(Decimal), numbers)
def test_a_spot_size_is_itself(size: Decimal, price: Decimal) -> None:
    assert str(SPOT_INFO.base_size(size, price)) == str(SPOT_INFO.base_size(size)) == str(size)


def test_the_callers_decimal_context_has_no_say_and_is_left_alone() -> None:
    big = 2**62 + 1
    with localcontext(Context(prec=2, rounding=ROUND_UP, Emax=3, Emin=-3)) as context:
        linear, inverse = LINEAR_INFO.base_size(big), INVERSE_INFO.base_size(1, 3)
        assert not any(context.flags.values())
    assert linear == Decimal("4611686018427387.905")
    assert str(inverse) == "0." + "3" * 50


@pytest.mark.parametrize("exponent", [-(10**12), 10**12])
def test_no_exponent_is_too_large(exponent: int) -> None:
    """What the context of a caller would call an overflow, or round to nothing, is exact."""
    vast = Decimal(1).scaleb(exponent, Context(Emax=MAX_EMAX, Emin=MIN_EMIN))
    assert str(attrs.evolve(LINEAR_INFO, multiplier=vast).base_size(2)) == f"2E{exponent:+}"
    assert str(attrs.evolve(INVERSE_INFO, multiplier=vast).base_size(2, 1)) == f"2E{exponent:+}"


@pytest.mark.parametrize("price", [0, -1, Decimal(0), Decimal("-0.1"), 1.5, "1", True, Decimal("NaN"), Decimal("inf")])
def test_a_price_that_is_none_is_refused_whether_it_is_needed_or_not(price: Any) -> None:
    for info in (LINEAR_INFO, INVERSE_INFO, SPOT_INFO):
        with pytest.raises(UsageError, match=r"^price must be "):
            info.base_size(1, price)


@pytest.mark.parametrize("size", [1.0, "1", None, True, Decimal("NaN"), Decimal("-inf"), [1]])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    for info in (LINEAR_INFO, INVERSE_INFO, SPOT_INFO):
        with pytest.raises(UsageError, match=r"^size must be "):
            info.base_size(size, 1)


@pytest.mark.parametrize("size", [Decimal("0.5"), Decimal("1." + "0" * 40 + "1")])
def test_contracts_are_whole(size: Decimal) -> None:
    for info in (LINEAR_INFO, INVERSE_INFO):
        with pytest.raises(UsageError, match=f"{info.symbol} is traded in whole contracts"):
            info.base_size(size, 1)


def test_an_inverse_size_takes_a_price() -> None:
    with pytest.raises(UsageError, match="XBTUSDM is an inverse contract: its size in XBT takes a price"):
        INVERSE_INFO.base_size(1)
