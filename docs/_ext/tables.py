"""What is drawn from the package itself, so that it cannot differ: channels, markets, fields, errors, books."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs
from automaton import picture
from docutils import nodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from kufeed import FeedConfig, errors
from kufeed.protocol import CHANNELS, MARKETS, BookState
from kufeed.protocol.orderbook import TRANSITIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sphinx.application import Sphinx


class _Table(SphinxDirective):
    def draw(self, header: Sequence[str], rows: Iterable[Sequence[str]], widths: str = "auto") -> list[nodes.Node]:
        lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
        for row in (header, *rows):
            first, *others = (cell or "\\" for cell in row)
            lines += [f"   * - {first}", *(f"     - {cell}" for cell in others)]
        return self.parse_text_to_nodes("\n".join(lines))


class ChannelTable(_Table):
    def run(self) -> list[nodes.Node]:
        rows = [
            (
                channel.market.name,
                channel.kind.value,
                f"``{channel}``",
                ", ".join(f"``{subject}``" for subject in channel.subjects) or "the symbol",
                f"`{channel.record.__name__}`",
                channel.time,
                channel.sizes or "",
                channel.merge_key.value,
                channel.merge_key.gap,
                channel.source,
            )
            for channel in CHANNELS
        ]
        header = ("market", "kind", "wire topic", "subject", "record", "time stamp", "sizes count")
        return self.draw((*header, "merge key", "a gap is told by", "source"), rows)


class MarketTable(_Table):
    def run(self) -> list[nodes.Node]:
        fields = [field.name for field in attrs.fields(type(MARKETS[0])) if field.name != "name"]
        rows = [(f"``{field}``", *(f"``{getattr(market, field)}``" for market in MARKETS)) for field in fields]
        return self.draw(("", *(market.name for market in MARKETS)), rows)


class ConfigTable(_Table):
    def run(self) -> list[nodes.Node]:
        analyzer = ModuleAnalyzer.for_module(FeedConfig.from_env.__func__.__globals__["__name__"])
        analyzer.analyze()
        rows = []
        for field in attrs.fields(FeedConfig):
            text = " ".join(analyzer.attr_docs["FeedConfig", field.name]).strip()
            kind = re.sub(r"Callable\[.*\]", "callable", str(field.type))
            rows.append((f"``{field.name}``", f"``{kind}``", f"``{_shown(field.default)}``", text))
        return self.draw(("field", "type", "default", "meaning"), rows, "22 18 15 45")


class BookAutomaton(_Table):
    """The picture, what the states mean, and every transition."""

    def run(self) -> list[nodes.Node]:
        analyzer = ModuleAnalyzer.for_module("kufeed.protocol.orderbook")
        analyzer.analyze()
        drawn = picture(
            [state.value for state in BookState], {(a.value, e.value): b.value for (a, e), b in TRANSITIONS.items()}
        )
        meanings = [
            (f"``{state.value}``", " ".join(analyzer.attr_docs["BookState", state.name]).strip()) for state in BookState
        ]
        rows = [
            (f"``{state.value}``", event.value, "stays" if following is state else f"``{following.value}``")
            for (state, event), following in TRANSITIONS.items()
        ]
        return [
            nodes.raw("", drawn, format="html"),
            *self.draw(("state", "meaning"), meanings),
            *self.draw(("a book that is", "when", "is then"), rows),
        ]


class ErrorTree(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        drawn = errors.__doc__.partition("\n\n")[2].rstrip()
        return [nodes.literal_block(drawn, drawn, language="text")]


def _shown(value: object) -> str:
    return getattr(value, "__name__", None) or repr(value)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("channel-table", ChannelTable)
    app.add_directive("market-table", MarketTable)
    app.add_directive("config-table", ConfigTable)
    app.add_directive("error-tree", ErrorTree)
    app.add_directive("book-automaton", BookAutomaton)
    return {"parallel_read_safe": True}
