"""A state machine drawn from its own table: states in a row, arrows forward above them and back below."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_APART, _WIDE, _HIGH = 220, 110, 40
"""Pixels between the middles of two states, and a state's own."""
_BEND = 62
"""Pixels that an arrow bends away for each state that it goes past."""
_LINE = 14


def arrows(transitions: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], list[str]]:
    """From and to which state -> the events that lead there; those that change nothing are left out."""
    found: dict[tuple[str, str], list[str]] = {}
    for (state, event), following in transitions.items():
        if following != state:
            found.setdefault((state, following), []).append(event)
    return found


def picture(states: Sequence[str], transitions: Mapping[tuple[str, str], str]) -> str:
    """An SVG in the colours of the text around it."""
    place = {state: index for index, state in enumerate(states)}
    drawn = arrows(transitions)
    above = [len(events) * _LINE + _BEND for (a, b), events in drawn.items() if place[b] > place[a]]
    below = [(place[a] - place[b]) * _BEND + len(e) * _LINE for (a, b), e in drawn.items() if place[b] < place[a]]
    middle = max(above, default=0) + _HIGH / 2
    width, height = _APART * (len(states) - 1) + _WIDE + 20, middle + _HIGH / 2 + max(below, default=0) + _LINE

    def x_of(state: str) -> float:
        return 10 + _WIDE / 2 + _APART * place[state]

    lines = [
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="States and what moves between them" '
        f'style="max-width: {width:g}px; width: 100%" fill="none" stroke="currentColor" font-size="12">',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="currentColor" stroke="none"/></marker></defs>',
    ]
    for state in states:
        left, top = x_of(state) - _WIDE / 2, middle - _HIGH / 2
        lines.append(f'<rect x="{left:g}" y="{top:g}" width="{_WIDE}" height="{_HIGH}" rx="6"/>')
        lines.append(_text(x_of(state), middle + 5, state, size=15))
    for (start, end), events in drawn.items():
        distance = place[end] - place[start]
        way = 1 if distance > 0 else -1
        # Forward arrows leave and arrive right of the middle, so that those of both ways do not touch.
        x1, x2 = x_of(start) + way * _WIDE / 5, x_of(end) - way * _WIDE / 5
        y = middle - way * _HIGH / 2
        bend = y - distance * _BEND
        lines.append(
            f'<path d="M{x1:g},{y:g} C{x1:g},{bend:g} {x2:g},{bend:g} {x2:g},{y:g}" marker-end="url(#arrow)"/>'
        )
        edge = (y + 3 * bend) / 4  # how far the curve goes
        first = edge - 5 - (len(events) - 1) * _LINE if way > 0 else edge + _LINE
        lines += [_text((x1 + x2) / 2, first + n * _LINE, event) for n, event in enumerate(events)]
    return "\n".join([*lines, "</svg>"])


def _text(x: float, y: float, text: str, *, size: int = 12) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="middle" font-size="{size}" fill="currentColor" stroke="none">'
        f"{escape(text)}</text>"
    )
