"""Writes what waits in the queues of many subscriptions, without a task, a lock or a timer for any of them.

Whoever has something to be written is *woken*. All that were woken between two turns of the event loop are one *run*;
what is published while one run goes on is written together in the next, a write a reader. A turn does a few
milliseconds of work, then gives the loop back, and runs take turns, so that an event for one reader does not wait for
one for fifteen thousand.

Replays have a line of their own, and a part of each turn: whoever asks for the past is served in turn, however many do,
and neither readers of the present nor publishers wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from feed.statistics import Counters

logger = logging.getLogger(__name__)

_TURN_SECONDS = 0.004
_REPLAY_SECONDS = 0.002  # of a turn in which there is much else to write
_TURN_WRITES = 500  # uvloop sends only after the callbacks of its turn, some 5 µs a write that the clock does not see
_TURN_BYTES = 4 << 20
_MAX_LAG = 0.25  # of a queue: what may have been passed on since the oldest run began, for one more publish
_ADMITTED = 16  # publishes in a turn


class Flushed(Protocol):
    """What the pump drives."""

    def flush(self, now: float) -> int:
        """Write what waits, as far as that is possible, and give roughly how many bytes. `now` is the loop's time."""

    def break_off(self) -> None:
        """End at once: writing has failed for a reason that nobody foresaw. Silence would be worse."""


class Pump:
    """One for a feed.

    `passed` is counted up by who fills the queues, in queues full; `backlog` is how much of it came while the oldest
    run was waiting for its turns: beyond one, readers would fall behind for no fault of theirs. Publishers wait at
    `admit` meanwhile: else they would be served at the expense of those whom they publish to.
    """

    def __init__(self, counters: Counters | None = None) -> None:
        self.passed = 0.0
        self.counters = counters or Counters()
        self._committed: int | None = None
        self._woken: list[Flushed] = []
        self._runs: deque[_Run] = deque()
        self._replays: deque[Flushed] = deque()
        self._held: deque[asyncio.Future[None]] = deque()
        self._loop = asyncio.get_running_loop()
        self._scheduled = False

    def wake(self, flushed: Flushed) -> None:
        """Let it be flushed in the next run. It is for the woken one to see to it that it is so only once."""
        self._woken.append(flushed)
        self._schedule()

    def wake_replay(self, flushed: Flushed) -> None:
        """The same for one that reads the past: it gets in line behind others of its kind."""
        self._replays.append(flushed)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def carry(self, committed: int) -> None:
        """What was woken just now is to be sent events of which the oldest was committed at that time, in milliseconds
        since 1970."""
        if self._woken and self._committed is None:
            self._committed = committed

    @property
    def backlog(self) -> float:
        """See `Pump`."""
        return self.passed - min((run.passed for run in self._runs), default=self.passed)

    @property
    def busy(self) -> bool:
        """Whether a publisher would have to wait at `admit`."""
        return bool(self._held) or self.backlog > _MAX_LAG

    async def admit(self) -> None:
        """Wait until what was published before has been written far enough, and for one's turn."""
        if self.busy:
            held = self._loop.create_future()
            self._held.append(held)
            await held

    def _turn(self) -> None:
        if self._held and self.backlog <= _MAX_LAG:
            for _ in range(min(_ADMITTED, len(self._held))):
                held = self._held.popleft()
                if not held.done():  # cancelled
                    held.set_result(None)
        if self._woken:
            self._runs.append(_Run(self.passed, iter(self._woken), self._committed))
            self._woken, self._committed = [], None
        end = time.perf_counter() + _TURN_SECONDS
        now = self._loop.time()
        self._write(now, end)
        if self._replays:
            self._replay(now, max(end, time.perf_counter() + _REPLAY_SECONDS))
        if self._runs or self._woken or self._replays or self._held:
            self._loop.call_soon(self._turn)
        else:
            self._scheduled = False

    def _write(self, now: float, end: float) -> None:
        writes = size = 0
        while self._runs:
            run = self._runs.popleft()
            for flushed in run.woken:
                try:
                    size += flushed.flush(now)
                except Exception:
                    logger.exception("a stream broke")
                    _break_off(flushed)
                writes += 1
                if writes >= _TURN_WRITES or size >= _TURN_BYTES or time.perf_counter() > end:
                    self._runs.append(run)
                    return
            if run.committed is not None:
                self.counters.fan_outs.observe(time.perf_counter() - run.begun)
                self.counters.delays.observe(max(0.0, time.time() - run.committed / 1000))

    def _replay(self, now: float, end: float) -> None:
        size = 0
        for _ in range(min(len(self._replays), _TURN_WRITES)):
            flushed = self._replays.popleft()
            try:
                size += flushed.flush(now)
            except Exception:
                logger.exception("a stream broke")
                _break_off(flushed)
            if size >= _TURN_BYTES or time.perf_counter() > end:
                break


def _break_off(flushed: Flushed) -> None:
    with contextlib.suppress(Exception):
        flushed.break_off()


class _Run:
    __slots__ = ("begun", "committed", "passed", "woken")

    def __init__(self, passed: float, woken: Iterator[Flushed], committed: int | None) -> None:
        self.begun = time.perf_counter()
        self.committed = committed
        self.passed = passed
        self.woken = woken
