"""`tests/typing/api.py`, which mypy checks, leaves out nothing of the feed and its records that a user would touch."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

import kufeed
from kufeed import Feed, Level, StreamEvent, Subscription, Topic, Update

if TYPE_CHECKING:
    from collections.abc import Iterator

API = ast.parse((Path(__file__).parent / "typing" / "api.py").read_text(encoding="utf-8"))


def asserted() -> Iterator[tuple[str, str]]:
    """Class and attribute of each `assert_type(thing.attribute…)`, by the annotation of the parameter `thing`."""
    for function in API.body:
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        classes = {one.arg: ast.unparse(one.annotation) for one in function.args.args if one.annotation is not None}
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "assert_type":
                for node in ast.walk(call.args[0]):
                    if isinstance(node, ast.Attribute) and ast.unparse(node.value) in classes:
                        yield classes[ast.unparse(node.value)].partition("[")[0].removeprefix("kufeed."), node.attr


ASSERTED = set(asserted())
CLASSES = [getattr(kufeed, name) for name in kufeed.__all__ if isinstance(getattr(kufeed, name), type)]
RECORDS = [
    one
    for one in CLASSES
    if issubclass(one, (Update, StreamEvent, kufeed.FeedEvent, Level, kufeed.BookChange, Topic, kufeed.QueueStatistics))
    or one in (kufeed.SymbolInfo, kufeed.FeedStatistics, kufeed.ConnectionStatistics, kufeed.HandlerStatistics)
    or one is kufeed.BookStatistics
]


def own_names(thing: Any) -> set[str]:
    """Public fields and properties of *thing* that no base has."""
    fields = getattr(thing, "_fields", None) or [field.name for field in attrs.fields(thing) if not field.inherited]
    names = {*fields, *(name for name, value in vars(thing).items() if isinstance(value, property))}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_and_property_of_a_record_has_an_asserted_type(record: Any) -> None:
    assert own_names(record) <= {name for owner, name in ASSERTED if owner == record.__name__}


@pytest.mark.parametrize("thing", [Feed, Subscription, kufeed.FeedEvents, kufeed.LiveBook, kufeed.OrderBook])
def test_every_method_has_an_asserted_type(thing: type) -> None:
    public = {name for name, _ in inspect.getmembers(thing, inspect.isroutine) if not name.startswith("_")}
    assert public <= {name for owner, name in ASSERTED if owner == thing.__name__}
