"""Every Python block of README.md and docs/ is run as it is printed, against the simulated exchange.

Blocks run in order, in one namespace per page, under a virtual clock. A block that awaits at its top level runs inside
`async with kufeed.open_feed() as feed:`. Without an exchange of its own, a feed gets one in memory, and a program that
never ends (`trio.run` of an endless loop) is cut after a virtual minute. What a block prints is compared with the
`text` block of class `output` that follows it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import re
from collections import Counter
from contextlib import asynccontextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
import trio
from sybil import Sybil
from sybil.parsers import markdown, rest
from trio.testing import MockClock

import kufeed
from kufeed._observing import CONDITIONS
from kufeed.testing import Exchange, MemoryNetwork, faults

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sybil import Example

ROOT = Path(kufeed.__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.rst"))]
A_MINUTE = 60.0

open_real_feed = kufeed.open_feed
run_really = trio.run


@asynccontextmanager
async def open_feed(*arguments: Any, **options: Any) -> AsyncIterator[kufeed.Feed]:
    """`kufeed.open_feed()`, with a network in memory unless the caller, or who runs him, says where the exchange is."""
    if arguments or options or CONDITIONS.get() is not None:
        async with open_real_feed(*arguments, **options) as feed:
            yield feed
    else:
        async with MemoryNetwork(Exchange()) as network, open_real_feed(network=network) as feed:
            yield feed


def run(main: Callable[..., Awaitable[Any]], *arguments: Any, clock: Any = None) -> Any:
    """`trio.run()` of a program that may never end: cut after a virtual minute. One of kufeed's own ends by itself."""
    if str(main.__module__).startswith("kufeed."):
        return run_really(main, *arguments, clock=clock)

    async def limited() -> None:
        with trio.move_on_after(A_MINUTE):
            await main(*arguments)

    return run_really(limited, clock=clock or MockClock(autojump_threshold=0))


def evaluate_python(example: Example) -> None:
    source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
    code = compile(source, str(example.path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    namespace = example.namespace
    namespace.setdefault("kufeed", kufeed)
    namespace.setdefault("trio", trio)

    async def with_feed() -> None:
        # Sockets do not wait for a virtual clock, nor may a block of a guide wait for ever; for a candle it may.
        with trio.fail_after(2 * A_MINUTE):
            async with open_feed() as feed:
                namespace["feed"] = feed
                await eval(code, namespace)  # noqa: S307  # our own pages

    printed = io.StringIO()
    with redirect_stdout(printed):
        if code.co_flags & inspect.CO_COROUTINE:
            run_really(with_feed, clock=None if ".listen(" in source else MockClock(autojump_threshold=0))
        else:
            exec(code, namespace)  # noqa: S102  # our own pages
    namespace["printed"] = printed.getvalue()


def evaluate_output(example: Example) -> None:
    if example.region.lexemes["options"].get("class") == "output":
        assert example.namespace["printed"].strip() == example.parsed.strip()


PARSERS = {
    ".md": Sybil([markdown.CodeBlockParser("python", evaluate_python)]),
    ".rst": Sybil([rest.CodeBlockParser("python", evaluate_python), rest.CodeBlockParser("text", evaluate_output)]),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_printed_works(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kufeed, "open_feed", open_feed)
    monkeypatch.setattr(trio, "run", run)
    for example in PARSERS[page.suffix].parse(page).examples():
        example.evaluate()


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.rst"])
def test_the_first_program_prints_quotes(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kufeed, "open_feed", open_feed)
    monkeypatch.setattr(trio, "run", run)
    path = ROOT / page
    first = next(iter(PARSERS[path.suffix].parse(path).examples()))
    first.evaluate()
    lines = first.namespace["printed"].splitlines()
    assert len(lines) > 100
    assert {line.split()[0] for line in lines} == {"XBTUSDTM", "BTC-USDT"}


def test_the_readme_has_the_two_commands_of_one_line() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = dict(re.findall(r"<!-- the (\w+) command -->\n+```sh\n(.+)\n```", text))
    assert list(commands) == ["demo", "test"]
    assert commands["demo"].endswith("kufeed demo --seconds 10")
    assert commands["test"].endswith("python -m pytest -n auto")


def test_the_picture_of_a_book_shows_every_transition_of_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from kufeed.protocol import BookState
    from kufeed.protocol.orderbook import TRANSITIONS

    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    automaton = importlib.import_module("automaton")
    table = {(state.value, event.value): following.value for (state, event), following in TRANSITIONS.items()}
    moves = {(state, event) for (state, event), following in table.items() if state != following}
    arrows = automaton.arrows(table)
    assert {(start, event) for (start, _), events in arrows.items() for event in events} == moves
    drawn = automaton.picture([state.value for state in BookState], table)
    root = ElementTree.fromstring(drawn)  # noqa: S314  # our own drawing
    assert len([node for node in root.iter("path") if "marker-end" in node.attrib]) == len(arrows)
    words = Counter(node.text for node in root.iter("text"))
    assert words == Counter([*BookState, *(event for _, event in moves)])
    (size,) = [float(side) for side in root.attrib["viewBox"].split()[2:3]]
    assert all(0 < float(node.attrib["x"]) < size for node in root.iter("text"))


def test_the_table_of_faults_has_each_of_them_with_its_severity() -> None:
    text = (ROOT / "docs" / "testing.rst").read_text(encoding="utf-8")
    rows = re.findall(r"^   \* - `(\w+) <kufeed\.testing\.faults\.(\w+)>`\n     - (\w+)$", text, re.MULTILINE)
    assert rows == [(kind.__name__, kind.__name__, kind.severity) for kind in faults.KINDS]
    assert {"KINDS", "Fault", "LastingFault", "Severity", *(name for name, _, _ in rows)} == set(faults.__all__)


def test_the_picture_of_the_layers_is_the_one_that_is_tested() -> None:
    from .test_layers import LAYERS

    text = (ROOT / "docs" / "design.rst").read_text(encoding="utf-8")
    picture = text.partition(":class: layers\n\n")[2].partition("\n\n")[0]
    drawn = [re.split(r"\s{2,}", line.strip())[0].split() for line in picture.splitlines()]
    assert [["" if name == "kufeed" else name for name in line] for line in drawn] == LAYERS
