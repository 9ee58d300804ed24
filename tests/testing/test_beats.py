"""The grid of beats: which one it is, and which of them a symbol has missed."""

from __future__ import annotations

from kufeed.testing.beats import MOST_MISSED, Beats
from kufeed.testing.market import MarketModel, SymbolModel


def a_symbol() -> SymbolModel:
    model = MarketModel().find("spot", "BTC-USDT")
    assert model is not None
    return model


def test_beats_are_where_the_grid_says_also_after_many_of_them() -> None:
    grid = Beats(0.1)
    grid.begin(1000.0)
    for number in (0, 1, 7, 86_400 * 10):
        assert grid.number(grid.at(number)) == number
        assert grid.number(grid.at(number) + 0.05) == number


def test_each_missed_beat_is_lived_once() -> None:
    grid, model = Beats(0.1), a_symbol()
    grid.begin(0.0)
    assert not grid.missed(model, 5.0), "it does not miss what was before its first beat"
    grid.live(model, 50)
    assert list(grid.missed(model, 5.55)) == [51, 52, 53, 54, 55]
    assert not grid.missed(model, 5.55)
    assert list(grid.missed(model, 5.6)) == [56]


def test_of_a_long_absence_the_newest_beats_are_lived() -> None:
    grid, model = Beats(0.1), a_symbol()
    grid.begin(0.0)
    grid.live(model, 0)
    missed = grid.missed(model, 3600.0)
    assert (len(missed), missed[-1]) == (MOST_MISSED, 36_000)


def test_a_grid_that_begins_anew_has_forgotten_who_lived() -> None:
    grid, model = Beats(0.1), a_symbol()
    grid.begin(0.0)
    grid.live(model, 3)
    grid.begin(100.0)
    assert grid.number(100.0) == 0
    assert not grid.missed(model, 200.0)
