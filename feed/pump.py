"""Writes the queues of many subscriptions without a task, a lock or a timer for any of them.

A subscription that has something to write is *woken*. All subscriptions woken between two turns of the event loop form
one *run*. Events published during one run are written together in the next, with one write for each reader. A turn
works for a few milliseconds, then gives the loop back. Runs take turns, so that an event for one reader does not wait
for one for fifteen thousand.

Replays have a queue of their own and a share of each turn. Readers of the past are served one after the other, however
many there are; neither live readers nor publishers wait for them.
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
_REPLAY_SECONDS = 0.002  # at least, in each turn, however much else there is to write
_TURN_WRITES = 500  # uvloop sends after the callbacks of its turn: some 5 µs a write that our clock does not see
_TURN_BYTES = 4 << 20
_MAX_LAG = 0.25  # of a queue: a publisher waits if more was passed on since the oldest run began
_ADMITTED = 16  # publishers let go on in one turn


class Flushed(Protocol):
    """What the pump writes: a subscription, for example."""

    def flush(self, now: float) -> int:
        """Write what waits, as far as possible, and return roughly how many bytes. `now` is the loop's time."""

    def break_off(self) -> None:
        """End at once, because writing failed in a way that nobody foresaw. Silence would be worse."""


class Pump:
    """One for each feed.

    Whoever fills the queues adds to `passed`, in units of a full queue. `backlog` is how much was added while the
    oldest run waited for its turns: beyond one full queue, readers would fall behind through no fault of their own.
    Meanwhile publishers wait at `admit`, or they would be served at the expense of their readers.
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
        """Flush this one in the next run. The caller makes sure to wake it only once."""
        self._woken.append(flushed)
        self._schedule()

    def wake_replay(self, flushed: Flushed) -> None:
        """Flush this reader of the past, after the other readers of the past that wait."""
        self._replays.append(flushed)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def carry(self, committed: int) -> None:
        """Note the commit time (milliseconds since 1970) of the oldest event in the run that is being collected: the
        histogram of delays needs it."""
        if self._woken and self._committed is None:
            self._committed = committed

    @property
    def backlog(self) -> float:
        """How much was passed on since the oldest run began, in full queues."""
        if not self._runs:
            return 0.0
        return self.passed - min([run.passed for run in self._runs])

    @property
    def busy(self) -> bool:
        """Whether a publisher would have to wait at `admit`."""
        return bool(self._held) or (bool(self._runs) and self.backlog > _MAX_LAG)

    async def admit(self) -> None:
        """Wait until earlier events have been written far enough, and for the publisher's turn."""
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
                    logger.exception("writing to a stream failed; the stream ends")
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
                logger.exception("writing to a stream failed; the stream ends")
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
