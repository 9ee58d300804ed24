"""Arrows between modules point one way: a module imports only from the lines above its own (docs/design.rst)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kufeed

PACKAGE = Path(kufeed.__file__).parent

# The picture, from the ground up. Modules of one line do not know each other, except where a line says so in order.
LAYERS = [
    ["errors"],
    ["_untrusted", "_json"],
    ["_credentials"],
    ["protocol.market"],
    ["protocol.events"],
    ["protocol.updates"],
    ["protocol.fields"],
    ["protocol.spot", "protocol.futures"],
    ["protocol.topics"],
    ["protocol.sides", "protocol.bookview"],
    ["protocol.orderbook", "protocol.merge"],
    ["protocol.snapshots"],
    ["protocol.messages", "protocol.rest", "protocol.clock"],
    ["protocol.symbols", "protocol.history", "protocol.staleness", "protocol.glances"],
    ["protocol.session"],
    ["protocol.upgrade", "protocol.frames"],
    ["protocol"],
    ["_lifecycle"],
    ["_journal"],
    ["_standing"],
    ["_limiter", "_breaker", "_backoff", "_supervisor"],
    ["_shared_budget"],
    ["_budget"],
    ["_tls"],
    ["_network"],
    ["_proxy"],
    ["_websocket", "_http"],
    ["_rest"],
    ["_requests"],
    ["_signing"],
    ["_maintenance"],
    ["_config"],
    ["_buffers"],
    ["_changes"],
    ["_channels"],
    ["_refusals", "_lateness", "_race"],
    ["_streams", "_delivery", "_inline"],
    ["_whole_market"],
    ["_observing"],
    ["_symbols", "_glance"],
    ["_standby", "_servers"],
    ["_link"],
    ["_line"],
    ["_connection"],
    ["_pool"],
    ["_backfill", "_staleness"],
    ["_bookkeeper"],
    ["_refused_key"],
    ["_books"],
    ["_live_books"],
    ["_subscription"],
    ["_handler"],
    ["_handlers"],
    ["_feed"],
    [""],
    ["testing"],
    ["cli"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ONLY_PUBLIC_NAMES = {
    "cli": {"", "_untrusted", "errors", "protocol", "testing"},
    "testing": {"", "errors", "protocol", "_network", "_observing"},
}
NOT_IN_PROTOCOL = {"trio", "trio_websocket", "time", "random", "httpcore2", "socket", "asyncio"}
NOTHING_OF_KUCOIN = ("_limiter", "_breaker", "_backoff", "_shared_budget", "_supervisor", "_tls")

MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def group(name: str) -> str:
    """The line a module stands on: everything inside `cli` and `testing` is one subject."""
    top = name.split(".")[0]
    return top if top in ("cli", "testing") else name


def imports(path: Path) -> set[str]:
    """What *path* imports, absolute; `if TYPE_CHECKING` blocks count too, apart from what they defer on purpose."""
    package = ["kufeed", *path.relative_to(PACKAGE).parent.parts]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                deeper = PACKAGE.parent.joinpath(*source.split("."), alias.name)
                is_module = deeper.is_dir() or deeper.with_suffix(".py").exists()
                found.add(f"{source}.{alias.name}" if is_module else source)
    return found


def own_imports(path: Path) -> set[str]:
    return {name.removeprefix("kufeed").removeprefix(".") for name in imports(path) if name.split(".")[0] == "kufeed"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: module_name(path) or "kufeed")
def test_a_module_imports_only_from_the_lines_above_its_own(path: Path) -> None:
    own = group(module_name(path))
    assert own in LEVEL, f"kufeed/{path.relative_to(PACKAGE)} stands on no line of the picture: add it here and in docs"
    for target in sorted(own_imports(path)):
        if group(target) == own:
            continue
        assert group(target) in LEVEL, f"{own} imports {target}, which stands on no line"
        assert LEVEL[group(target)] < LEVEL[own], f"{own} imports {target}: that arrow points the wrong way"
        if own in ONLY_PUBLIC_NAMES:
            assert group(target) in ONLY_PUBLIC_NAMES[own], f"{own} is built on public names, not on {target}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "protocol").glob("*.py")), ids=module_name)
def test_the_protocol_is_pure(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & NOT_IN_PROTOCOL


@pytest.mark.parametrize("name", NOTHING_OF_KUCOIN)
def test_the_primitives_have_never_heard_of_kucoin(name: str) -> None:
    assert own_imports(PACKAGE / f"{name}.py") <= {"errors", *NOTHING_OF_KUCOIN}
