"""Faults of the byte streams between a client and the exchange: the same over sockets and in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import attrs

from kufeed.testing.hazards import Fault, LastingFault, Severity, among, between

if TYPE_CHECKING:
    from collections.abc import Callable

    from kufeed.testing.exchange import Exchange


@attrs.frozen(kw_only=True, repr=False)
class Refuse(LastingFault):
    """New connections are refused at the transport."""

    severity: ClassVar[Severity] = "rough"

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.cable.refuse()


@attrs.frozen(kw_only=True, repr=False)
class Hang(LastingFault):
    """New connections go unanswered: nothing is read (`"connect"`), or the answer to the first request stops in its
    first line (`"handshake"`). Those that it caught stay so when it is over."""

    severity: ClassVar[Severity] = "rough"
    stage: Literal["connect", "handshake"] = among("connect", "connect", "handshake")

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.cable.hang(self.stage)


@attrs.frozen(kw_only=True, repr=False)
class Cut(Fault):
    """Every open connection ends once the exchange has sent `after` more bytes on it (0: at once).

    Frames begin where a send begins, so that 1 ends it within a header and 3 or more within a payload. `"fin"` is an
    end of file, `"reset"` a TCP reset, by which the client may lose what it has not read.
    """

    severity: ClassVar[Severity] = "rough"
    how: Literal["fin", "reset"] = among("fin", "fin", "reset")
    after: int = between(0, 0, 400)

    def strike(self, exchange: Exchange) -> None:
        exchange.cable.cut(self.how, self.after)


@attrs.frozen(kw_only=True, repr=False)
class Silence(LastingFault):
    """Half-open: on every open connection nothing arrives any more, in either direction, and nobody closes it.

    Connections that are made meanwhile work. What was held up is lost; those that outlive it stay dead.
    """

    severity: ClassVar[Severity] = "rough"

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        exchange.cable.silence()
        return _nothing


@attrs.frozen(kw_only=True, repr=False)
class StopReading(LastingFault):
    """The exchange reads nothing from any open connection: what the client sends is stuck. Then it reads on."""

    severity: ClassVar[Severity] = "rough"

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.cable.stop_reading()


@attrs.frozen(kw_only=True, repr=False)
class Delay(LastingFault):
    """What the exchange sends arrives `seconds` later, and up to `jitter` more by chance, in order."""

    severity: ClassVar[Severity] = "mild"
    seconds: float = between(0.1, 0.0, 0.5)
    jitter: float = between(0.0, 0.0, 0.3)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.cable.delay(self.seconds, self.jitter)


@attrs.frozen(kw_only=True, repr=False)
class Bandwidth(LastingFault):
    """Each connection carries `bytes_per_second` from the exchange and no more; the rest waits."""

    severity: ClassVar[Severity] = "mild"
    bytes_per_second: int = between(10_000, 5_000, 100_000, least=1)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.cable.narrow(self.bytes_per_second)


@attrs.frozen(kw_only=True, repr=False)
class Drip(LastingFault):
    """A slow drip: what the exchange sends arrives `size` bytes at a time, `every` seconds."""

    severity: ClassVar[Severity] = "mild"
    size: int = between(64, 16, 512, least=1)
    every: float = between(0.01, 0.001, 0.02)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.cable.drip(self.size, self.every)


@attrs.frozen(kw_only=True, repr=False)
class Split(LastingFault):
    """What the exchange sends arrives in pieces of `size` bytes, one after the other and without delay."""

    severity: ClassVar[Severity] = "mild"
    lasting: float = between(0.5, 0.1, 2.0)
    size: int = between(1, 1, 7, least=1)

    def strike(self, exchange: Exchange) -> Callable[[], None]:
        return exchange.cable.split(self.size)


@attrs.frozen(kw_only=True, repr=False)
class Garble(Fault):
    """On every open connection `count` bytes from the exchange have their bits flipped, `after` more bytes."""

    severity: ClassVar[Severity] = "brutal"
    after: int = between(0, 0, 400)
    count: int = between(1, 1, 4, least=1)

    def strike(self, exchange: Exchange) -> None:
        exchange.cable.garble(self.after, self.count)


def _nothing() -> None:
    """What is dead stays dead."""
