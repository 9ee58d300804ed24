"""What waits for a consumer, in order, and what goes when it is full. Pure: no Trio, no clock, no accounts.

Every update that was let in has a number, its place in the order; what is said about a hole is tied to a place. Two
kinds: a plain queue, fast, where one policy holds for all; and one with keys, where streams keep only their latest
update or policies are mixed.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from .protocol.market import UpdateType

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from .protocol.market import Topic
    from .protocol.updates import Update

Loss = tuple[int, "Update"]
"""An update that was thrown away, and the place before which it is missing."""


class Overflow(StrEnum):
    """What happens to an update that finds its subscription's buffer full."""

    BLOCK = "block"
    """The connection waits for the consumer: nothing is lost, and the exchange may drop instead. It is not shared."""
    DROP_OLDEST = "drop_oldest"
    """The oldest waiting update is dropped."""
    DROP_NEWEST = "drop_newest"
    """It is dropped itself."""
    LATEST = "latest"
    """The buffer never is: it holds one update of each stream, the latest, in the order in which they first came."""
    RAISE = "raise"
    """It is dropped, and `Overflowed` is raised at its place, for consumers to whom a hole is an error."""


DEFAULT_OVERFLOW: Mapping[UpdateType, Overflow] = {
    UpdateType.TICKER: Overflow.LATEST,
    UpdateType.TRADE: Overflow.DROP_OLDEST,
    UpdateType.LEVEL1: Overflow.LATEST,
    UpdateType.DEPTH: Overflow.LATEST,
    UpdateType.BOOK_DELTA: Overflow.RAISE,
    UpdateType.BOOK: Overflow.LATEST,
    UpdateType.MARK_PRICE: Overflow.LATEST,
    UpdateType.INDEX_PRICE: Overflow.LATEST,
    UpdateType.FUNDING_RATE: Overflow.LATEST,
    UpdateType.CANDLE: Overflow.DROP_OLDEST,
    UpdateType.STATS_24H: Overflow.LATEST,
    UpdateType.ANNOUNCEMENT: Overflow.DROP_OLDEST,
    UpdateType.CALL_AUCTION: Overflow.LATEST,
    UpdateType.CALL_AUCTION_DEPTH: Overflow.LATEST,
}
"""What each kind does where the subscription does not say: state is conflated, history is not, books have no holes."""


class Buffer(Protocol):
    """What both kinds do."""

    end: int
    """The number that the next update will get."""
    conflated: int
    """Updates that a later one of their stream has replaced."""
    unchanged: int
    """Updates that were not let in because they say nothing new; 0 where everything is let in."""
    withdrawn: int
    """Those of the conflated ones in whose place nothing waits: their stream was back at what it had said before."""

    @property
    def items(self) -> Collection[object]:
        """What waits, for its truth and its length; always the same object."""
        ...

    def first(self) -> int:
        """The number of the first that waits; `end` where none does."""
        ...

    def accept(self, staged: list[Update]) -> None:
        """Let in from the front of *staged* what fits without any loss, and take it out of the list."""
        ...

    def force(self, staged: list[Update]) -> list[Loss]:
        """Let in all of *staged*, throwing away what has to go; empties the list."""
        ...

    def pop(self) -> Update:
        """Take the first one out."""
        ...

    def oldest(self) -> Update | None:
        """The first one; None where none waits."""
        ...

    def numbers(self) -> Sequence[int]:
        """Those of all that wait, in order."""
        ...

    def part(self, topic: Topic) -> None:
        """The next update of *topic* must not take the place of one that waits: something stands between them."""
        ...


def make_buffer(policies: Mapping[UpdateType, Overflow], bound: int) -> Buffer:
    """A buffer for streams of these kinds, each with its policy, that holds at most *bound* updates.

    Those under `LATEST` do not count: they are one a stream at most.
    """
    chosen = set(policies.values())
    if len(chosen) == 1 and Overflow.LATEST not in chosen:
        return PlainBuffer(chosen.pop(), bound)
    return KeyedBuffer(policies, bound)


class PlainBuffer:
    """One policy for all, and none of them `LATEST`."""

    def __init__(self, policy: Overflow, bound: int) -> None:
        self.items: deque[Update] = deque()
        self.end = 0
        self.conflated = self.unchanged = self.withdrawn = 0
        self.pop = self.items.popleft
        self._drops_oldest = policy is Overflow.DROP_OLDEST
        self._bound = bound

    def first(self) -> int:
        return self.end - len(self.items)

    def accept(self, staged: list[Update]) -> None:
        room = self._bound - len(self.items)
        if len(staged) <= room:
            self.items.extend(staged)
            self.end += len(staged)
            staged.clear()
        elif room:
            self.items.extend(staged[:room])
            self.end += room
            del staged[:room]

    def force(self, staged: list[Update]) -> list[Loss]:
        excess = max(0, len(self.items) + len(staged) - self._bound)
        if self._drops_oldest:
            waiting = min(excess, len(self.items))
            lost = [self.pop() for _ in range(waiting)] + staged[: excess - waiting]
            del staged[: excess - waiting]
            place = self.first()
            self.accept(staged)
        else:
            lost = staged[len(staged) - excess :]
            del staged[len(staged) - excess :]
            self.accept(staged)
            place = self.end
        return [(place, update) for update in lost]

    def oldest(self) -> Update | None:
        return self.items[0] if self.items else None

    def numbers(self) -> Sequence[int]:
        return range(self.first(), self.end)

    def part(self, topic: Topic) -> None:
        pass


class KeyedBuffer:
    """Policies by kind."""

    def __init__(self, policies: Mapping[UpdateType, Overflow], bound: int) -> None:
        self.items: OrderedDict[int, Update] = OrderedDict()
        self.end = 0
        self.conflated = self.unchanged = self.withdrawn = 0
        self._policies = policies
        self._bound = bound
        self._counted = 0  # what counts against the bound
        self._latest: dict[Topic, int] = {}  # where the one update of a stream waits
        self._parted: set[Topic] = set()
        self._droppable: deque[int] = deque()  # places under DROP_OLDEST

    def first(self) -> int:
        return next(iter(self.items), self.end)

    def accept(self, staged: list[Update]) -> None:
        for position, update in enumerate(staged):
            policy = self._policies[update.kind]
            if policy is Overflow.LATEST:
                self._put_latest(update)
            elif self._counted < self._bound:
                self._put(update, policy)
            else:
                del staged[:position]
                return
        staged.clear()

    def force(self, staged: list[Update]) -> list[Loss]:
        lost: list[Loss] = []
        for update in staged:
            policy = self._policies[update.kind]
            if policy is Overflow.LATEST:
                self._put_latest(update)
            elif self._counted < self._bound:
                self._put(update, policy)
            elif policy is Overflow.DROP_OLDEST and self._droppable:
                place = self._droppable.popleft()
                lost.append((place + 1, self.items.pop(place)))
                self._counted -= 1
                self._put(update, policy)
            else:
                lost.append((self.end, update))
        staged.clear()
        return lost

    def pop(self) -> Update:
        place, update = self.items.popitem(last=False)
        if self._latest.get(update.topic) == place:
            del self._latest[update.topic]
            self._parted.discard(update.topic)
        else:
            self._counted -= 1
            if self._droppable and self._droppable[0] == place:
                self._droppable.popleft()
        return update

    def oldest(self) -> Update | None:
        return next(iter(self.items.values()), None)

    def numbers(self) -> Sequence[int]:
        return list(self.items)

    def part(self, topic: Topic) -> None:
        self._parted.update([topic] if topic in self._latest else filter(topic.covers, self._latest))

    def _put(self, update: Update, policy: Overflow) -> None:
        if policy is Overflow.DROP_OLDEST:
            self._droppable.append(self.end)
        self.items[self.end] = update
        self.end += 1
        self._counted += 1

    def _put_latest(self, update: Update) -> None:
        topic = update.topic
        place = self._latest.get(topic)
        if place is None:
            place = self._latest[topic] = self.end
            self.end += 1
        else:
            self.conflated += 1
            if topic in self._parted:
                self._parted.discard(topic)
                del self.items[place]
                place = self._latest[topic] = self.end
                self.end += 1
        self.items[place] = update
