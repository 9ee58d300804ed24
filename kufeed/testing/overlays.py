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
    stamp: Any = None


class Overlays:
    """A stack of values for each place. What lies on top counts; below all stands what was there before.

    A value that somebody else wrote to the place meanwhile counts from then on, and all that lay there is void. One is
    known by its type and value; or by a stamp, so that it may be the same value that lies there.
    """

    def __init__(self) -> None:
        self._stacks: dict[Hashable, _Stack] = {}

    def lay(
        self,
        place: Hashable,
        value: Any,
        read: Callable[[], Any],
        write: Callable[[Any], None],
        stamp: Callable[[], Any] | None = None,
    ) -> Callable[[], None]:
        """Lay *value* over what *place* has, by *write*; what is returned takes this one off again, once.

        *stamp* tells something else after each time that somebody wrote there.
        """
        read_stamp = stamp or (lambda: (type(read()), read()))
        stack = self._stacks.get(place)
        if stack is None:
            stack = self._stacks[place] = _Stack(read(), [])
        elif read_stamp() != stack.stamp:
            stack.base = read()
            stack.layers.clear()
        layer = _Layer(value)
        stack.layers.append(layer)
        write(value)
        stack.stamp = read_stamp()

        def take_off() -> None:
            if layer not in stack.layers:
                return
            if read_stamp() == stack.stamp:
                stack.layers.remove(layer)
                write(stack.layers[-1].value if stack.layers else stack.base)
                stack.stamp = read_stamp()
            else:
                stack.layers.clear()
            if not stack.layers:
                del self._stacks[place]

        return take_off
