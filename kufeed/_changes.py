"""`changes_only`: a buffer that keeps outside what says nothing new. Pure, as the buffers are."""

from __future__ import annotations

from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import attrs

from ._buffers import KeyedBuffer, Overflow
from .protocol.updates import Update

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._buffers import Loss
    from .protocol.market import Topic, UpdateType


@cache
def _own_fields(record: type[Update]) -> Callable[[Any], object]:
    common = {field.name for field in attrs.fields(Update)}
    return attrgetter(*(field.name for field in attrs.fields(record) if field.name not in common and field.eq))


def says_the_same(one: Update, other: Update) -> bool:
    """Whether two updates of one topic are equal in the fields of their own record: all but time, sequence and gap."""
    own = _own_fields(type(one))  # type: ignore[arg-type]  # mypy looks at the hash of its instances
    return bool(own(one) == own(other))


def forget(known: dict[Topic, Update], topic: Topic) -> None:
    """Take *topic* out of *known*, with all of its symbols where it has several."""
    for one in [topic] if topic in known else list(filter(topic.covers, known)):
        del known[one]


class ChangesBuffer(KeyedBuffer):
    """Any policies. An update is looked at when it enters: what was lost before is known then.

    It is compared with the last one of its topic that entered; under `LATEST`, where that may be replaced by what is
    looked at, with the last one that was taken.
    """

    def __init__(self, policies: Mapping[UpdateType, Overflow], bound: int) -> None:
        super().__init__(policies, bound)
        self._known: dict[Topic, Update] = {}

    def accept(self, staged: list[Update]) -> None:
        for position, update in enumerate(staged):
            if self._is_unchanged(update):
                continue
            policy = self._policies[update.kind]
            if policy is Overflow.LATEST:
                self._put_latest(update)
            elif self._counted < self._bound:
                self._put(update, policy)
                self._known[update.topic] = update
            else:
                del staged[:position]
                return
        staged.clear()

    def force(self, staged: list[Update]) -> list[Loss]:
        lost: list[Loss] = []
        for update in staged:
            entering = [update]
            self.accept(entering)
            if entering:  # there is no room
                self._known[update.topic] = update
                lost += super().force(entering)
                _, gone = lost[-1]
                if self._known.get(gone.topic) is gone:  # else a later one of its topic is still to be taken
                    del self._known[gone.topic]
        staged.clear()
        return lost

    def pop(self) -> Update:
        first = next(iter(self.items.values()))
        if self._policies[first.kind] is Overflow.LATEST and first.topic not in self._parted:
            self._known[first.topic] = first
        return super().pop()

    def part(self, topic: Topic) -> None:
        super().part(topic)
        forget(self._known, topic)

    def _is_unchanged(self, update: Update) -> bool:
        known = self._known.get(update.topic)
        if known is None or not says_the_same(known, update):
            return False
        self.unchanged += 1
        if (place := self._latest.pop(update.topic, None)) is not None:
            del self.items[place]  # the stream has been elsewhere, and is back before anybody saw it
            self.conflated += 1
            self.withdrawn += 1
        return True
