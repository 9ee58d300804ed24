"""Values that are laid over others for a while, one on the other: how faults that overlap end without a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


@attrs.define(eq=False)
class _Layer:
    value: Any


@attrs.define
class _Stack:
    base: Any
    layers: list[_Layer]


class Overlays:
    """A stack of values for each place. What lies on top counts; below all stands what was there before.

    A value that somebody else wrote to the place meanwhile counts from then on, and all that lay there is void.
    """

    def __init__(self) -> None:
        self._stacks: dict[Hashable, _Stack] = {}

    def lay(
        self, place: Hashable, value: Any, read: Callable[[], Any], write: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Lay *value* over what *place* has, by *write*; what is returned takes this one off again, once."""
        stack = self._stacks.get(place)
        if stack is None:
            stack = self._stacks[place] = _Stack(read(), [])
        elif read() != stack.layers[-1].value:
            stack.base = read()
            stack.layers.clear()
        layer = _Layer(value)
        stack.layers.append(layer)
        write(value)

        def take_off() -> None:
            if layer not in stack.layers:
                return
            if read() == stack.layers[-1].value:
                stack.layers.remove(layer)
                write(stack.layers[-1].value if stack.layers else stack.base)
            else:
                stack.layers.clear()
            if not stack.layers:
                del self._stacks[place]

        return take_off
