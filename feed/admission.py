"""Admits a crowd a few at a time, so that the event loop turns meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque


class Admission:
    """Admits at most `per_turn` callers in each turn of the event loop, first come, first served."""

    def __init__(self, per_turn: int) -> None:
        self._per_turn = per_turn
        self._entered = 0  # in this turn
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Return at once, or wait for a turn of the loop that has room."""
        if self._entered == 0 and not self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        if self._entered < self._per_turn and not self._waiting:
            self._entered += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    def _turn(self) -> None:
        self._entered = 0
        while self._waiting and self._entered < self._per_turn:
            turn = self._waiting.popleft()
            if not turn.done():  # cancelled
                turn.set_result(None)
                self._entered += 1
        if self._entered:
            asyncio.get_running_loop().call_soon(self._turn)
