"""What is traded: the symbol lists of both markets, read row by row into `SymbolInfo`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, localcontext
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import attrs

from ..errors import MessageRefused, UsageError
from . import fields, rest
from .fields import EXACT
from .futures import FUTURES
from .spot import SPOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .market import Market
    from .rest import Endpoint
    from .updates import Number

_DIGITS = 50
"""Significant digits of a quotient: more than the size (19 at most) and the price it comes from have together."""
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX)
_ROUNDED = Context(prec=_DIGITS, Emax=MAX_EMAX, Emin=MIN_EMIN)
_LONGEST_COUNTDOWN = 10**10
"""Milliseconds, 115 days: a time since the epoch, which its name promises, has more digits."""


class SymbolType(StrEnum):
    """What is traded under a symbol."""

    SPOT = "spot"
    PERPETUAL = "perpetual"
    """A contract without an end (`FFWCSX`)."""
    DATED = "dated"
    """A contract that is settled at its expiry (`FFICSX`)."""


class SymbolStatus(StrEnum):
    """Whether a symbol can be traded: KuCoin's words for contracts, and one for spot, where it only says yes or no."""

    OPEN = "open"
    """Trading: a contract that is `Open`, a spot symbol with `enableTrading`."""
    INIT = "init"
    CANCEL_ONLY = "cancel_only"
    PAUSED = "paused"
    BEING_SETTLED = "being_settled"
    SETTLED = "settled"
    CLOSED = "closed"
    DISABLED = "disabled"
    """A spot symbol without `enableTrading`: not yet, not now or not any more, which the list does not tell apart."""
    UNKNOWN = "unknown"
    """A word that kufeed does not know; `SymbolInfo.exchange_status` has it."""


_STATUSES = {
    "Open": SymbolStatus.OPEN,
    "Init": SymbolStatus.INIT,
    "CancelOnly": SymbolStatus.CANCEL_ONLY,
    "Paused": SymbolStatus.PAUSED,
    "BeingSettled": SymbolStatus.BEING_SETTLED,
    "Settled": SymbolStatus.SETTLED,
    "Closed": SymbolStatus.CLOSED,
}
_TYPES = {"FFWCSX": SymbolType.PERPETUAL, "FFICSX": SymbolType.DATED}


@attrs.frozen(kw_only=True)
class SymbolInfo:
    """What the exchange says about one symbol, as `Feed.symbols` returns it. All numbers are exact.

    Sources: KuCoin's REST documentation, "get all symbols" of each market.
    """

    symbol: str
    market: str
    """`futures` or `spot`."""
    type: SymbolType
    base: str
    """The currency that is traded; futures call Bitcoin XBT."""
    quote: str
    """The currency that prices are in."""
    settle: str
    """The currency that gains are paid in: the base of an inverse contract, else the quote."""
    tick: Decimal
    """The step of prices."""
    lot: Number
    """The step of sizes: an amount of the base currency (spot, `Decimal`) or contracts (futures, `int`)."""
    multiplier: Decimal
    """What one contract is: so much of the base currency, or of the quote currency where `is_inverse`.

    As the exchange writes it, so negative for inverse contracts; 1 for spot.
    """
    is_inverse: bool
    """Whether the contract is worth a fixed amount of the quote currency, and settled in the base currency."""
    status: SymbolStatus
    exchange_status: str | bool
    """What the exchange itself says: its word (futures), or whether trading is enabled (spot)."""
    expiry: datetime | None
    """When a contract ends (UTC); None for spot, and for a perpetual whose end is not announced."""
    funding_interval: float | None
    """Seconds between two fundings of a perpetual; None where the exchange does not say."""
    next_funding: datetime | None
    """When the next one is due (UTC); None where the exchange does not say.

    It says how long until then; this counts from when the reply had arrived, and is late by as long as it travelled.
    """

    def base_size(self, size: Number, price: Number | None = None) -> Decimal:
        """The amount of the base currency that *size* is: contracts of futures, for spot *size* itself.

        A linear contract is worth `multiplier` at any *price*, which is not needed then: the result is exact. An
        inverse one is worth `multiplier` without its sign in the quote currency: that is divided by *price*, and
        rounded to 50 significant digits. A negative size, such as a short position, gives a negative amount.

        Raises `UsageError` for contracts that are not whole, for a price that is not above zero or is missing where it
        is needed, and for anything but `Decimal` and `int`. The caller's decimal context has no say.
        """
        amount = _number(size, "size")
        divisor = None if price is None else _number(price, "price")
        if divisor is not None and divisor <= 0:
            raise UsageError(f"price must be above zero, not {price!r}")
        if self.type is SymbolType.SPOT:
            return amount
        with localcontext(_EXACT):
            if amount != amount.to_integral_value():
                raise UsageError(f"{self.symbol} is traded in whole contracts, not {size!r}")
            value = amount * abs(self.multiplier)
        if not self.is_inverse:
            return value
        if divisor is None:
            raise UsageError(f"{self.symbol} is an inverse contract: its size in {self.base} takes a price")
        return _ROUNDED.copy().divide(value, divisor)


def _number(value: object, name: str) -> Decimal:
    if type(value) is int:
        return Decimal(value)
    if type(value) is Decimal and value.is_finite():
        return value
    raise UsageError(f"{name} must be a whole number or a finite Decimal, not {value!r}")


def read_row(row: object, market: Market, received_time_ns: int) -> SymbolInfo:
    """One row of the symbol list of *market*, which had arrived at *received_time_ns*; `MessageRefused` if not valid.

    Fields that kufeed does not know are ignored, and so are optional ones that are absent or null.
    """
    _, read = LISTS[market]
    try:
        return read(fields.mapping(row, "data"), received_time_ns)
    except KeyError as error:
        raise MessageRefused(str(error.args[0]), "missing") from None


def _read_spot(row: Mapping[str, Any], received_time_ns: int) -> SymbolInfo:
    enabled = fields.flag(row["enableTrading"], "enableTrading")
    quote = fields.word(row["quoteCurrency"], "quoteCurrency")
    return SymbolInfo(
        symbol=fields.word(row["symbol"], "symbol"),
        market=SPOT.name,
        type=SymbolType.SPOT,
        base=fields.word(row["baseCurrency"], "baseCurrency"),
        quote=quote,
        settle=quote,
        tick=_positive(row["priceIncrement"], "priceIncrement"),
        lot=_positive(row["baseIncrement"], "baseIncrement"),
        multiplier=Decimal(1),
        is_inverse=False,
        status=SymbolStatus.OPEN if enabled else SymbolStatus.DISABLED,
        exchange_status=enabled,
        expiry=None,
        funding_interval=None,
        next_funding=None,
    )


def _read_contract(row: Mapping[str, Any], received_time_ns: int) -> SymbolInfo:
    kind = _TYPES.get(fields.word(row["type"], "type"))
    if kind is None:
        raise MessageRefused("type", fields.shown(row["type"]))  # who knows what one of its contracts is worth
    status = fields.word(row["status"], "status")
    is_inverse = fields.flag(row["isInverse"], "isInverse")
    multiplier = EXACT.signed_decimal(row["multiplier"], "multiplier")
    if multiplier == 0 or (multiplier < 0 and not is_inverse):
        raise MessageRefused("multiplier", fields.shown(row["multiplier"]))
    lot = fields.contracts(row["lotSize"], "lotSize")
    if lot == 0:
        raise MessageRefused("lotSize", "0")
    expiry, interval, countdown = map(row.get, ("expireDate", "fundingRateGranularity", "nextFundingRateTime"))
    if kind is SymbolType.DATED and expiry is None:
        raise MessageRefused("expireDate", "missing")
    return SymbolInfo(
        symbol=fields.word(row["symbol"], "symbol"),
        market=FUTURES.name,
        type=kind,
        base=fields.word(row["baseCurrency"], "baseCurrency"),
        quote=fields.word(row["quoteCurrency"], "quoteCurrency"),
        settle=fields.word(row["settleCurrency"], "settleCurrency"),
        tick=_positive(row["tickSize"], "tickSize"),
        lot=lot,
        multiplier=multiplier,
        is_inverse=is_inverse,
        status=_STATUSES.get(status, SymbolStatus.UNKNOWN),
        exchange_status=status,
        expiry=None if expiry is None else _utc(fields.milliseconds(expiry, "expireDate")),
        funding_interval=None if interval is None else _span(interval, "fundingRateGranularity") / 1000,
        next_funding=None
        if countdown is None
        else _utc(received_time_ns + _span(countdown, "nextFundingRateTime") * 1_000_000),
    )


LISTS: dict[Market, tuple[Endpoint, Callable[[Mapping[str, Any], int], SymbolInfo]]] = {
    SPOT: (rest.SPOT_SYMBOLS, _read_spot),
    FUTURES: (rest.FUTURES_CONTRACTS, _read_contract),
}
"""Where each market's list is asked for, and how one of its rows is read."""


def _positive(value: object, field: str) -> Decimal:
    number = EXACT.decimal(value, field)
    if number == 0:
        raise MessageRefused(field, fields.shown(value))
    return number


def _span(value: object, field: str) -> int:
    """A length of time in milliseconds."""
    if type(value) is int and 0 <= value < _LONGEST_COUNTDOWN:
        return value
    raise MessageRefused(field, f"no length of time in milliseconds: {fields.shown(value)}")


def _utc(time_ns: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_ns // 1000)
