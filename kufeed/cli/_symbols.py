"""What the exchange trades, printed once: a table, lines, or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from rich.table import Table
from rich.text import Text

from .. import open_feed
from ._output import complain
from ._views import info_as_json, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Literal

    from rich.console import Console

    from .. import FeedConfig, SymbolInfo
    from ._output import Output

_COLUMNS = ("symbol", "type", "base", "quote", "tick", "lot", "multiplier", "status", "funding", "next or expiry (UTC)")


@attrs.frozen(kw_only=True)
class Listing:
    """Which symbols to print, and how."""

    config: FeedConfig
    markets: Sequence[Literal["futures", "spot"]]
    match: str
    """Only symbols with this in them, in capitals or not."""
    json: bool
    output: Output
    console: Console

    async def run(self) -> None:
        """Raises what `Feed.symbols` does, and `OutputClosed`."""
        async with open_feed(self.config) as feed:
            # One after the other: what one market refuses is no reason to ask the other.
            listed = [info for market in self.markets for info in (await feed.symbols(market)).values()]
            refused = feed.statistics().refused
        wanted = self.match.upper()
        chosen = [info for info in listed if wanted in info.symbol.upper()]
        if self.json:
            await self.output.write("".join(map(info_as_json, chosen)))
        elif self.output.is_terminal:
            self.console.print(_table(chosen))
        else:
            await self.output.write("".join("\t".join(_cells(info)) + "\n" for info in chosen))
        if refused:
            causes = ", ".join(f"{cause} {count}" for cause, count in refused.items())
            complain(f"left out, being not as documented: {causes}")


def _table(infos: Iterable[SymbolInfo]) -> Table:
    table = Table()
    for name in _COLUMNS:
        numeric = name in ("tick", "lot", "multiplier", "funding")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=name == "symbol")
    for info in infos:
        table.add_row(*map(Text, _cells(info)))  # the exchange's text is no markup
    return table


def _cells(info: SymbolInfo) -> tuple[str, ...]:
    when = info.next_funding if info.expiry is None else info.expiry
    return (
        info.symbol,
        info.type.value,
        info.base,
        info.quote,
        number(info.tick),
        number(info.lot),
        number(info.multiplier),
        info.status.value,
        "-" if info.funding_interval is None else f"{info.funding_interval / 3600:g} h",
        "-" if when is None else f"{when:%Y-%m-%d %H:%M:%S}",
    )
