"""When the market moves: on a fixed grid of beats, and only the symbols that somebody asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from kufeed.testing.beats import Beats
from kufeed.testing.market import OPEN

if TYPE_CHECKING:
    from kufeed.testing.gate import Gate
    from kufeed.testing.market import SymbolModel
    from kufeed.testing.premises import WallClock
    from kufeed.testing.publisher import Publisher

_BREATH = 200  # symbols advanced between two checkpoints


class Pulse:
    """Moves the market every *interval* seconds while it is `live`, and has the publisher tell of it."""

    def __init__(self, clock: WallClock, gate: Gate, publisher: Publisher, *, interval: float, live: bool) -> None:
        self._clock = clock
        self._gate = gate
        self._publisher = publisher
        self._grid = Beats(interval)
        self.live = live
        self.beats = 0
        """How many there were."""

    def begin(self) -> None:
        """The first beat is one interval from now."""
        self._grid.begin(trio.current_time())

    async def run_market(self) -> None:
        """Advance the held symbols on the grid; sleep without any timer while none is held."""
        while True:
            await trio.lowlevel.checkpoint()
            if not self.live or not self._publisher.is_needed:
                await self._publisher.wait_joined()
                continue
            await self._gate.wait_open()
            await trio.sleep_until(self._grid.at(self._grid.number(trio.current_time()) + 1))
            if self._gate.is_open:
                await self._beat()

    async def _beat(self) -> None:
        self.beats += 1
        now_ns = self._clock.now_ns()
        beat_number = self._grid.number(trio.current_time())
        for number, model in enumerate(self._publisher.needed()):
            if number % _BREATH == _BREATH - 1:
                await trio.lowlevel.checkpoint()
            if not self._publisher.needs(model) or model.status != OPEN:
                continue  # its last holder left during a checkpoint, or it is halted
            self._grid.live(model, beat_number)
            self._publisher.tell(model, model.advance(now_ns))

    def catch_up(self, model: SymbolModel) -> None:
        """Let a symbol that nobody held live the beats it missed; nobody is there to be told."""
        if not (self._clock.goes and self._gate.is_open) or model.status != OPEN or self._publisher.routes_of(model):
            return
        now, now_ns = trio.current_time(), self._clock.now_ns()
        for number in self._grid.missed(model, now):
            at = self._grid.at(number)
            self._publisher.note_unheld(model, model.advance(now_ns - round((now - at) * 1e9)), at)

    def set_status(self, model: SymbolModel, status: str) -> None:
        """Let a symbol trade or not. What it missed while it was halted it does not live later."""
        resumed = status == OPEN != model.status
        model.status = status
        if resumed and self._clock.goes:
            self._grid.missed(model, trio.current_time())
