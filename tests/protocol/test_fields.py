"""A field is taken exactly, or refused by its name; nothing in between, and nothing else is raised."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import ujson
from hypothesis import example, given
from hypothesis import strategies as st

from kufeed._json import loads as strict_loads
from kufeed.errors import MessageRefused
from kufeed.protocol import Level, Side, fields, topic
from kufeed.protocol.fields import EXACT, FLOAT, NUMBERS, Numbers

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)
SCIENTIFIC = re.compile(r"[0-9]+(\.[0-9]+)?[eE][+-]?[0-9]{1,2}", re.ASCII)
LONGEST = 200

OF_ANOTHER_TYPE: list[Any] = [None, True, False, [], ["1"], {}, {"a": 1}, b"1", [[[]]] * 1000]
HUGE = 10**100_000

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def accepted(read: Callable[[Any, str], Any], value: Any) -> bool:
    """Whether *read* takes *value*; whatever else it raises than a refusal by the field's name is an error."""
    refusal = None
    try:
        read(value, "some field")
    except MessageRefused as error:
        refusal = error
    if refusal is not None:
        assert refusal.cause == "some field"
        assert len(str(refusal)) < 120
        assert str(refusal).isascii()
        assert str(refusal).isprintable()
    return refusal is None


def short(value: Any) -> str:
    """A parameter as the name of a test may carry it."""
    return "huge" if isinstance(value, int) and abs(value) >= 10**30 else ascii(value)[:20]


REFUSALS: list[tuple[Callable[..., Any], Any, str]] = [
    (EXACT.decimal, "1_0", "'1_0'"),
    (EXACT.decimal, HUGE, "an integer of more than 30 digits"),
    (EXACT.decimal, strict_loads(b"-1.5"), "'-1.5'"),
    (EXACT.optional_decimal, " ", "' '"),
    (EXACT.signed_decimal, "--1", "'-1'"),
    (EXACT.signed_decimal, "+1", "'+1'"),
    (EXACT.signed_decimal, -(10**200), "an integer of more than 30 digits"),
    (EXACT.signed_decimal, 1e300, "1e+300"),
    (EXACT.signed_decimal, True, "True"),
    (EXACT.optional_signed_decimal, "x", "'x'"),
    (EXACT.decimals, ["1", "x"], "'x'"),
    *((read, value, type(value).__name__) for read in (fields.mapping, fields.seven) for value in ([1] * 6, [1] * 8)),
    *((fields.three, value, ascii(value)) for value in ("1,2", "1,2,3,4", "", 1, None)),
    (fields.three, "1,2," + "3" * 196, ascii("1,2," + "3" * 36)),
    (fields.candle_start, "x", "'x'"),
    (fields.candle_start, 60, "not seconds: 60"),
    (fields.candle_start, 9 * 10**9, "not seconds: 9000000000"),
    (fields.candle_start, 10**9, "not a whole minute: 1000000000"),
    (fields.candle_start, "1749999961", "not a whole minute: '1749999961'"),
    (fields.candle_start, "1750000080", "begins after its message: '1750000080'"),
    (fields.contracts, 0.5, "0.5"),
    (fields.many_contracts, [1, "x"], "'x'"),
    (fields.optional_contracts, "x", "'x'"),
    (fields.sequence, 2**63, "9223372036854775808"),
    (fields.optional_sequence, "", "''"),
    (fields.milliseconds, "x", "'x'"),
    *((fields.milliseconds, value, f"not milliseconds: {value}") for value in (-1, 7, 10**12 - 1, 9 * 10**12)),
    (fields.nanoseconds, "x", "'x'"),
    (fields.nanoseconds, "7", "not nanoseconds: '7'"),
    *((fields.nanoseconds, value, f"not nanoseconds: {value}") for value in (-1, 10**18 - 1, 9 * 10**18)),
    (fields.funding_interval, "x", "'x'"),
    (fields.funding_interval, 7, "not an interval of funding: 7"),
    (fields.side, "Buy", "'Buy'"),
    (fields.text, 7, "7"),
    (fields.word, "a b", "'a b'"),
    (fields.flag, 1, "1"),
    (EXACT.levels, {}, "dict"),
    (EXACT.levels, [["1", "1"]] * 1001, "1001 levels, of which there are 1000 at most"),
    *((EXACT.levels, [["1", "1"], row], "not pairs of price and size") for row in (["1"], ["1", "1", "1"], "11", None)),
    (EXACT.levels, [["x", "1"]], "'x'"),
    (EXACT.levels, [["1", "y"]], "'y'"),
]
MORE: dict[Callable[..., Any], dict[str, Any]] = {
    fields.candle_start: {"time_ns": 1_750_000_000 * 10**9},
    EXACT.levels: {"sizes": EXACT.decimals, "descending": True},
}
"""What these are given besides the value and the name of its field."""


@pytest.mark.parametrize(("read", "value", "detail"), REFUSALS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_refusal_names_the_field_and_shows_the_value(read: Callable[..., Any], value: Any, detail: str) -> None:
    with pytest.raises(MessageRefused) as caught:
        read(value, field="some field", **MORE.get(read, {}))
    assert (caught.value.cause, str(caught.value)) == ("some field", f"some field: {detail}")


def test_what_stands_inside_is_given_back_as_it_is() -> None:
    inside, row = {"a": 1}, [1, None, "3", 4, 5, 6, 7]
    assert fields.mapping(inside, "data") is inside
    assert fields.seven(row, "candles") is row
    assert (fields.text("any text", "subject"), fields.word("word", "tradeId")) == ("any text", "word")
    assert (fields.flag(True, "flag"), fields.flag(False, "flag")) == (True, False)
    assert (fields.optional_sequence(7), fields.optional_sequence("8")) == (7, 8)
    assert fields.many_contracts([1, "2"], "asks") == [1, 2]


def test_a_book_change_has_three_parts_and_is_no_longer_than_a_number_may_be() -> None:
    longest = ["1", "buy", "3" * 193]
    assert fields.three(",".join(longest), "change") == longest
    assert not accepted(fields.three, ",".join(longest) + "3")


def test_fields_that_have_one_name_everywhere_need_not_be_named() -> None:
    for read, name in ((fields.sequence, "sequence"), (fields.optional_sequence, "sequence"), (fields.side, "side")):
        with pytest.raises(MessageRefused) as caught:
            read("x")
        assert caught.value.cause == name


# -- prices and amounts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "0.0",
        "1",
        "10",
        "3200.00",
        "0.00000637",
        "57798",
        "0.08200000000000000000",
        "123456789.987654321",
        "9" * 60,
    ],
)
def test_text_as_kucoin_writes_it_survives_to_the_last_digit(text: str) -> None:
    assert format(EXACT.decimal(text, "price"), "f") == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("01", "1"),
        ("007.50", "7.50"),
        ("1e-8", "0.00000001"),
        ("1E+2", "100"),
        ("2.5e3", "2500"),
        ("0e-8", "0.00000000"),
    ],
)
def test_other_ways_to_write_the_same_number_are_taken_too(text: str, value: str) -> None:
    """Leading zeros and an exponent of at most two digits: they mean one number only."""
    assert EXACT.decimal(text, "price") == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        *("1_0", " 1 ", "1 ", " 1", "1\n", "\t1", "١", "१२", "１", "²", "½"),
        *("NaN", "nan", "sNaN", "Infinity", "inf", "-Infinity", "-1", "-0", "-0.0", "+1"),
        *("", ".", "1.", ".5", "1..2", "1.2.3", "1,5", "0x10", "1e", "e5", "1e+", "1e-", "1.e5", "1e1.5", "--1"),
        *("1e999999", "1e-999999", "1e100", "9" * 201, "0." + "0" * 199, "1" * 4_000_000, "." * 4_000_000),
        *("1\x00", "\x00", "1\ud800", "\ud800", "\u202e1", "1\u200b", "one", "None", "true"),
    ],
    ids=short,
)
def test_what_is_no_number_is_refused_though_decimal_would_often_take_it(text: str) -> None:
    assert not accepted(EXACT.decimal, text)
    assert text == "" or not accepted(EXACT.optional_decimal, text)


@pytest.mark.parametrize("value", OF_ANOTHER_TYPE, ids=short)
def test_what_is_neither_text_nor_a_number_is_refused(value: Any) -> None:
    assert not accepted(EXACT.decimal, value)
    for whole in (fields.sequence, fields.contracts, fields.milliseconds, fields.nanoseconds):
        assert not accepted(whole, value)
    assert not accepted(fields.side, value)
    assert not accepted(fields.text, value)


@given(st.from_regex(r"[0-9]{1,30}(\.[0-9]{1,29})?", fullmatch=True, alphabet="0123456789."))
def test_any_plain_decimal_text_survives_exactly(text: str) -> None:
    found = EXACT.decimal(text, "price")
    assert found == Decimal(text)
    assert found.as_tuple() == Decimal(text).as_tuple(), "no digit is rounded away, and trailing zeros stay"


number_like = st.text("0123456789.eE+-_ ١NaInfity\x00\ud800", max_size=210) | st.text(max_size=10)


@given(number_like)
def test_any_other_text_is_refused_and_nothing_else_is_raised(text: str) -> None:
    valid = len(text) <= LONGEST and bool(PLAIN.fullmatch(text) or SCIENTIFIC.fullmatch(text))
    assert accepted(EXACT.decimal, text) is valid


@given(st.just(0.0) | st.floats(min_value=1e-90, max_value=1e90))
def test_an_old_messages_json_number_means_the_shortest_text_of_its_float(number: float) -> None:
    """31528.00000000 on the wire was written from a decimal: not 31527.999999… of the double that stands for it."""
    assert EXACT.decimal(number, "price") == Decimal(repr(number))


def test_prices_of_old_messages_through_the_json_decoder() -> None:
    for text in ("3200.00", "31528.00000000", "0.00000001", "57798", "110224.7", "0.1", "9007199254740993"):
        assert EXACT.decimal(ujson.loads(text), "price") == Decimal(text)


fraction = st.builds(
    "{}{}.{}{}".format,
    *(st.sampled_from(["", "-"]), st.just("0") | st.integers(1, 10**40).map(str)),
    *(st.text("0123456789", min_size=1, max_size=40), st.sampled_from(["", "e5", "E-7", "e+10"])),
)


@given(fraction)
@example("12345678901.123456789")
@example("-0.0")
def test_a_json_number_is_exact_to_its_last_digit(text: str) -> None:
    """Read by the feed's own decoder; where it is negative it is refused, or not, as text is."""
    number = strict_loads(text.encode())
    for numbers in NUMBERS.values():
        for read in (
            numbers.decimal,
            numbers.optional_decimal,
            numbers.signed_decimal,
            numbers.optional_signed_decimal,
        ):
            found, cause = outcome(read, number)
            assert (found, cause) == outcome(read, text)
            assert str(found) == str(outcome(read, text)[0])
    assert EXACT.signed_decimal(number, "rate") == Decimal(text)


@pytest.mark.parametrize(
    "number", [math.nan, math.inf, -math.inf, -1.0, -1, -0.0, 1e300, 5e-324, HUGE, -HUGE, 10**200], ids=short
)
def test_a_number_without_a_meaning_as_a_price_is_refused(number: float) -> None:
    assert not accepted(EXACT.decimal, number)


@given(json_values)
def test_whatever_json_brings_a_field_is_taken_or_refused_by_its_name(value: Any) -> None:
    for read in (
        *(EXACT.decimal, EXACT.optional_decimal, fields.contracts, fields.optional_contracts, fields.sequence),
        *(fields.optional_sequence, fields.milliseconds, fields.nanoseconds, fields.side, fields.text),
    ):
        accepted(read, value)


@given(json_values)
def test_a_price_that_is_taken_is_finite_and_not_negative(value: Any) -> None:
    if accepted(EXACT.decimal, value):
        assert EXACT.decimal(value, "price").is_finite()
        assert not EXACT.decimal(value, "price").is_signed()


def test_a_side_of_the_book_may_be_empty() -> None:
    for nothing in (None, ""):
        assert EXACT.optional_decimal(nothing, "bestBid") is None
        assert fields.optional_contracts(nothing, "bestBidSize") is None
    assert EXACT.optional_decimal("0.1", "bestBid") == Decimal("0.1")
    assert fields.optional_contracts(7, "bestBidSize") == 7
    assert not accepted(EXACT.optional_decimal, False)
    assert not accepted(fields.optional_contracts, 0.0)


def one_by_one(values: list[Any], names: list[str]) -> tuple[list[Decimal | None], str]:
    """What `optional_decimal` says of each: the values, and the first refused field's name."""
    found = []
    for value, name in zip(values, names, strict=True):
        try:
            found.append(EXACT.optional_decimal(value, name))
        except MessageRefused as refusal:
            return [], refusal.cause
    return found, ""


price_like = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,9})?", fullmatch=True, alphabet="0123456789.")


@given(st.lists(price_like | price_like | number_like | json_values, min_size=1, max_size=6))
@example([".5", "1"])
@example(["5", "1."])
@example(["1.", "5"])
@example(["1", "1.2.3"])
@example(["1", "", "2"])
@example(["9" * 198, "1"])
@example(["9" * 199, "1"])
@example(["9" * 201])
@example(["١", "1"])
def test_many_prices_at_once_are_each_taken_or_refused_as_if_alone(values: list[Any]) -> None:
    """The fast way for a whole message is a way to save time only: same values, same refusals by the same name."""
    names = [f"field {index}" for index in range(len(values))]
    found: list[Any] = []
    cause = ""
    try:
        found = list(EXACT.optional_decimals(values, names))
    except MessageRefused as refusal:
        cause = refusal.cause
    expected, refused = one_by_one(values, names)
    assert cause == refused
    assert list(map(str, found)) == list(map(str, expected))


@given(st.lists(price_like | price_like | number_like | json_values, max_size=6))
@example([".5", "1"])
@example(["5", "1."])
@example(["1.", "5"])
@example(["1", "1.2.3"])
@example(["1", "", "2"])
@example(["9" * 200, "1"])
@example(["9" * 201, "1"])
@example(["١", "1"])
def test_the_prices_of_a_side_are_each_taken_or_refused_as_if_alone(values: list[Any]) -> None:
    for numbers in NUMBERS.values():
        together = outcome(numbers.decimals, values, "bids")
        alone = outcome(lambda given, field, read=numbers.decimal: [read(one, field) for one in given], values, "bids")
        assert list(map(str, together)) == list(map(str, alone))


class Together(Numbers):
    """Reads nothing by itself."""

    def decimal(self, value: object, field: str) -> Decimal:
        raise AssertionError(f"{value!r} was read by itself")


def test_what_is_plain_is_recognised_all_together() -> None:
    """At half the price: none of them is looked at by itself. As many digits as one number may have, at least."""
    numbers = Together(Decimal, Decimal.copy_negate)
    for values in (["1.5", "20", "0.25"], ["7"], ["1" * 198, "5"], ["1" * 200]):
        read = [Decimal(value) for value in values]
        assert numbers.optional_decimals(values, values) == numbers.decimals(values, "bids") == read
    assert numbers.decimals(["1" * 200] * 2, "bids") == [Decimal("1" * 200)] * 2


def test_many_fields_are_as_many_as_their_names() -> None:
    with pytest.raises(ValueError, match="longer"):
        EXACT.optional_decimals([None, "1"], ["bestBid", "bestBidSize", "bestAsk"])


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *(("-0.25", "-0.25"), ("0.25", "0.25"), ("-0", "-0"), (strict_loads(b"-0.10"), "-0.10")),
        *((-5, "-5"), (5, "5"), (0, "0"), (1, "1"), (-0.5, "-0.5"), (0.5, "0.5"), (0.0, "0.0")),
        *((-(10**200) + 1, str(-(10**200) + 1)), ("-1e-8", "-1E-8")),
    ],
    ids=short,
)
def test_a_signed_number_is_exact_and_keeps_its_sign(value: Any, number: str) -> None:
    for read in (EXACT.signed_decimal, EXACT.optional_signed_decimal):
        assert str(read(value, "priceChg")) == number
    for nothing in (None, ""):
        assert EXACT.optional_signed_decimal(nothing, "priceChg") is None


# -- the same as floats -----------------------------------------------------------------------------------------------

one_value = (
    st.from_regex(r"-?[0-9]{1,30}(\.[0-9]{1,29})?([eE][+-]?[0-9]{1,2})?", fullmatch=True, alphabet="0123456789.-+eE")
    | number_like
    | json_values
    | st.floats(min_value=-1e90, max_value=1e90)
)


@pytest.mark.parametrize("name", ["decimal", "optional_decimal", "signed_decimal", "optional_signed_decimal"])
@given(one_value)
def test_a_float_is_read_of_whatever_is_a_decimal_and_of_nothing_else(name: str, value: Any) -> None:
    """The same refusals with the same text; a value is the float nearest to the exact one, never none, never zero."""
    exact, cause = outcome(getattr(EXACT, name), value)
    found, float_cause = outcome(getattr(FLOAT, name), value)
    assert float_cause == cause
    if exact is None:
        assert found is None
        return
    assert type(exact) is Decimal
    assert type(found) is float
    assert found == float(exact)
    assert math.isfinite(found)
    assert (found == 0) is (exact == 0)
    assert math.copysign(1, found) == (-1 if exact.is_signed() else 1)


@given(st.lists(price_like | price_like | number_like | json_values, min_size=1, max_size=6))
@example([".5", "1"])
@example(["1", "1.2.3"])
@example(["1", "", "2"])
def test_many_floats_at_once_are_refused_where_many_decimals_are(values: list[Any]) -> None:
    names = [f"field {index}" for index in range(len(values))]
    exact, cause = outcome(EXACT.optional_decimals, values, names)
    found, float_cause = outcome(FLOAT.optional_decimals, values, names)
    assert float_cause == cause
    if exact is not None:
        assert [None if value is None else float(value) for value in exact] == found
        assert {type(value) for value in found} <= {float, type(None)}


@pytest.mark.parametrize(
    "text", ["9" * 197 + "e99", "9" * 200, f"0.{'0' * 193}1e-99", f"0.{'0' * 197}1", "1e99", "1e-99"], ids=short
)
def test_no_text_that_is_taken_is_too_large_or_too_small_for_a_float(text: str) -> None:
    """The bound on digits sees to that: these are the largest and the smallest."""
    assert len(text) <= LONGEST
    assert 0 < FLOAT.decimal(text, "price") < math.inf
    assert not accepted(FLOAT.decimal, f"9{text}" if len(text) == LONGEST else f"{text}9")


def test_the_levels_of_a_book_are_of_one_type_of_number() -> None:
    for kind, numbers in NUMBERS.items():
        for size, sizes in ((numbers.decimals, kind), (fields.many_contracts, int)):
            levels = numbers.levels([["1.5", "2"], [1.25, 1]], "bids", size, descending=False)
            assert [level.price for level in levels] == [1.25, 1.5]
            assert {type(level.price) for level in levels} == {kind}
            assert {type(level.size) for level in levels} == {sizes}


@pytest.mark.parametrize("descending", [True, False])
def test_levels_are_sorted_by_their_prices_alone(descending: bool) -> None:
    rows = [["1", "9"], ["3", "1"], ["2", "5"], ["1", "2"]]
    levels = EXACT.levels(rows, "bids", EXACT.decimals, descending=descending)
    prices = [3, 2, 1, 1] if descending else [1, 1, 2, 3]
    assert [level.price for level in levels] == prices
    assert [level.size for level in levels if level.price == 1] == [9, 2], "of one price in the order on the wire"
    assert {type(level) for level in levels} == {Level}
    assert EXACT.levels([], "bids", EXACT.decimals, descending=descending) == ()


def test_there_are_so_many_levels_and_changes_at_most() -> None:
    assert len(EXACT.levels([["1", "1"]] * 1000, "bids", EXACT.decimals, descending=True)) == 1000
    assert len(EXACT.levels([["1", "1"]] * 3, "bids", EXACT.decimals, descending=True, most=3)) == 3
    assert not accepted(
        lambda value, field: EXACT.levels(value, field, EXACT.decimals, descending=True, most=3), [0] * 4
    )
    assert fields.MAX_CHANGES == 100_000


def outcome(read: Callable[..., Any], *arguments: Any) -> tuple[Any, str | None]:
    """What *read* says: a value and None, or None and the text of its refusal."""
    try:
        found = read(*arguments, *(["some field"] if len(arguments) == 1 else []))
    except MessageRefused as refusal:
        return None, str(refusal)
    return found, None


# -- whole numbers ----------------------------------------------------------------------------------------------------


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_a_sequence_is_the_same_number_as_text_and_as_a_number(number: int) -> None:
    for read in (fields.sequence, fields.contracts):
        assert read(number, "sequence") == number
        assert read(str(number), "sequence") == number


@pytest.mark.parametrize(
    "value",
    [
        *(-1, 2**63, 2**64, HUGE, -HUGE, 1.0, 1e18, math.nan, math.inf),
        *(
            "",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "1_0",
            "١",
            "²",
            str(2**63),
            "9" * 20,
            f"{1:020}",
            "1" * 4_000_000,
            "\ud800",
        ),
    ],
    ids=short,
)
def test_what_is_no_whole_number_of_at_most_63_bits_is_refused(value: Any) -> None:
    assert not accepted(fields.sequence, value)
    assert not accepted(fields.contracts, value)
    assert not accepted(fields.optional_sequence, value)


def test_a_sequence_may_be_left_out_but_not_be_empty() -> None:
    assert fields.optional_sequence(None) is None
    assert not accepted(fields.optional_sequence, "")


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1_704_873_323_416, "1704873323416"])
def test_milliseconds_become_nanoseconds(value: Any) -> None:
    assert fields.milliseconds(value, "time") == 1_704_873_323_416_000_000


@pytest.mark.parametrize("value", [1_616_362_601_277_456_186, "1616362601277456186"])
def test_nanoseconds_stay_to_the_last_digit(value: Any) -> None:
    assert fields.nanoseconds(value, "ts") == 1_616_362_601_277_456_186


@given(st.integers(min_value=0, max_value=2**63 - 1), st.booleans())
def test_the_count_of_digits_tells_the_unit(number: int, as_text: bool) -> None:
    """13 digits are milliseconds, 19 nanoseconds; seconds and microseconds are refused, never guessed at.

    All end in the same year: one that begins with a 9 is none that fits into 63 bits, whatever its unit.
    """
    value = str(number) if as_text else number
    assert accepted(fields.milliseconds, value) is (len(str(number)) == 13 and str(number)[0] != "9")
    assert accepted(fields.nanoseconds, value) is (len(str(number)) == 19 and str(number)[0] != "9")


@pytest.mark.parametrize("digits", range(1, 20))
def test_a_time_of_another_length_is_refused(digits: int) -> None:
    for number in (10 ** (digits - 1), 9 * 10 ** (digits - 1) - 1):
        assert accepted(fields.milliseconds, number) is (digits == 13)
        assert accepted(fields.nanoseconds, number) is (digits == 19)
    for number in (9 * 10 ** (digits - 1), 10**digits - 1):
        assert not accepted(fields.milliseconds, number)
        assert not accepted(fields.nanoseconds, number)


def starts(value: Any, field: str) -> int:
    """A candle's start in a message of the last moment that there is."""
    return fields.candle_start(value, 2**63, field)


@given(st.integers(0, 2 * 10**10) | st.integers(10**7, 2 * 10**8).map((60).__mul__), st.booleans())
def test_a_candle_starts_at_a_whole_minute_of_its_seconds(number: int, as_text: bool) -> None:
    value = str(number) if as_text else number
    assert accepted(starts, value) is (10**9 <= number < 9 * 10**9 and number % 60 == 0)
    if accepted(starts, value):
        assert starts(value, "candles") == number * 10**9


@given(st.integers(-(10**12), 10**12))
@example(60 * 10**9)
@example(60 * 10**9 + 1)
def test_a_candle_starts_at_most_a_minute_after_its_message(ahead: int) -> None:
    start = 1_749_999_960
    taken = accepted(lambda value, field: fields.candle_start(value, start * 10**9 - ahead, field), str(start))
    assert taken is (ahead <= 60 * 10**9)


@given(st.integers(0, 2**63 - 1) | st.integers(0, 10**9))
@example(59_999)
@example(60_000)
@example(604_800_000)
@example(604_800_001)
def test_rates_are_funded_every_minute_to_every_week(number: int) -> None:
    assert accepted(fields.funding_interval, number) is (60_000 <= number <= 604_800_000)


@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a\n", "\x1b[31m", "\u202e1", "\xfc", "\U0001f600", "x" * 65, 7, None]
)
def test_a_word_is_short_and_visible(value: Any) -> None:
    assert not accepted(fields.word, value)
    for right in ("x", "x" * 64, "11067996711960577", "60844d2ab6b8d80007dc6c2d", "~!"):
        assert fields.word(right, "tradeId") == right


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_a_side_is_buy_or_sell_in_small_letters() -> None:
    assert fields.side("buy") is Side.BUY
    assert fields.side("sell") is Side.SELL
    for value in ("Buy", "SELL", "", " buy", "b", "\ud800", 1, ["buy"]):
        assert not accepted(fields.side, value)


def test_a_message_about_another_symbol_than_its_topic_is_nobodys() -> None:
    wanted = topic("trade", "XBTUSDTM")
    fields.check_symbol({"symbol": "XBTUSDTM"}, wanted)
    for value in ("ETHUSDTM", "", None, 1, ["XBTUSDTM"], HUGE, "\ud800" * 100):
        with pytest.raises(MessageRefused) as caught:
            fields.check_symbol({"symbol": value}, wanted)
        assert (caught.value.cause, str(caught.value)) == ("symbol", f"symbol: {fields.shown(value)}")


@given(json_values | st.binary() | st.sampled_from([HUGE, -HUGE, "x" * 10**6, b"x" * 10**6, [[]] * 10**5]))
def test_an_error_text_shows_a_value_shortly_and_printably(value: Any) -> None:
    shown = fields.shown(value)
    assert len(shown) <= 60
    assert shown.isascii()
    assert shown.isprintable()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "None"), (1.5, "1.5"), ({"a": 1}, "dict"), ([1], "list"), ("a'b", '"a\'b"'), (True, "True")),
        *((10**30 - 1, "9" * 30), (1 - 10**30, f"-{'9' * 30}")),
        *((sign * 10**30, "an integer of more than 30 digits") for sign in (1, -1)),
        *((kind("x" * 41), ascii(kind("x" * 40))) for kind in (str, str.encode)),
        *(("\xe9" * 14 + "ab", ascii("\xe9" * 14 + "ab")), ("\xe9" * 14 + "abc", ascii("\xe9" * 14)[:-1] + "...")),
    ],
    ids=short,
)
def test_a_value_is_shown_as_python_writes_it_where_that_is_short(value: Any, text: str) -> None:
    assert fields.shown(value) == text


# -- what a JSON decoder may do to us ---------------------------------------------------------------------------------

BOMBS = {
    "an integer of 4 million digits": b"9" * 4_000_000,
    "an exponent of 4 million digits": b"1e" + b"9" * 4_000_000,
    "a fraction of 4 million digits": b"0." + b"3" * 4_000_000,
    "400,000 lists in one another": b"[" * 400_000 + b"]" * 400_000,
    "400,000 lists never closed": b"[" * 400_000,
    "400,000 objects in one another": b'{"a":' * 400_000 + b"1" + b"}" * 400_000,
    "1,000 lists in one another": b"[" * 1_000 + b"]" * 1_000,
    "a lone surrogate": rb'"\ud800"',
    "a lone surrogate as bytes": b'"\xed\xa0\x80"',
    "4 million backslashes": b'"' + b"\\" * 4_000_000 + b'"',
    "not a number": b"NaN",
    "more than a double holds": b"1e400",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("loads", [ujson.loads, orjson.loads, json.loads], ids=["ujson", "orjson", "json"])
def test_a_message_made_to_hurt_is_refused_in_bounded_time(loads: Callable[[bytes], Any], name: str) -> None:
    """Whether the JSON decoder refuses it or a field does: no recursion, no quadratic conversion of digits."""
    try:
        value = loads(BOMBS[name])
    except (ValueError, RecursionError):
        return
    for read in (EXACT.decimal, fields.sequence, fields.milliseconds, fields.nanoseconds, fields.side):
        taken = accepted(read, value)
        assert not taken or (name == "a fraction of 4 million digits" and read == EXACT.decimal)
    assert len(fields.shown(value)) <= 60
