"""FAULTS.md, readers and load: L1 to L5 and L7, and the churn, against a real server.

No figure of speed is asserted here, but that nobody pays for somebody else: what is compared was measured in the same
run. What is lost, doubled or out of order is judged by ids (`tests.judge`). `FEED_SOAK` asks for the full numbers.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Serve
from tests.crowd import Crowd, Form, Item, many_descriptors, until

pytestmark = pytest.mark.anyio

SOAK = bool(os.environ.get("FEED_SOAK"))
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The readers share a processor with the server they test: they must be cheap."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    with many_descriptors(12_000 if SOAK else 4_000):
        yield


# L1: a slow reader among many.


class Fleet:
    """Fast readers of one topic, and how long each event takes to each of them."""

    def __init__(self, crowd: Crowd, topic: str) -> None:
        self.ids: list[str] = []
        self._crowd = crowd
        self._topic = topic
        self._http = crowd.http()
        self._count = 0
        self._arrivals: list[float] = []
        self._all_there = asyncio.Event()

    async def gather(self, count: int) -> None:
        """Open the streams."""
        for _ in range(count):
            await self._crowd.reader(Form.SSE, f"/{self._topic}", self._take)
            self._count += 1

    def _take(self, item: Item) -> None:
        if item.is_event:
            self._arrivals.append(time.perf_counter())
            if len(self._arrivals) == self._count:
                self._all_there.set()

    async def p99(self, events: int = 20) -> float:
        """Publish so many, one after the other, and give the 99th percentile of the seconds to a reader."""
        delays: list[float] = []
        for number in range(events):
            self._arrivals, began = [], time.perf_counter()
            self._all_there.clear()
            self.ids += (await self._http.publish(self._topic, f"{number} {'x' * 200}")).ids
            async with asyncio.timeout(10):
                await self._all_there.wait()
            delays += [arrival - began for arrival in self._arrivals]
        return statistics.quantiles(delays, n=100)[98]


async def test_l1_a_reader_at_a_kilobyte_a_second_delays_nobody_and_gets_everything_late(serve: Serve) -> None:
    stall = 3.0
    server = serve("--log", "memory:", stall=stall)
    async with Crowd(server.port) as crowd:
        fleet, http = Fleet(crowd, "l1/all"), crowd.http()
        await fleet.gather(999)
        await fleet.p99()  # to warm up
        before = [await fleet.p99() for _ in range(5)]
        already = len(fleet.ids)
        slow = crowd.slow_reader(Form.SSE, "/l1/**")
        await until(lambda: slow.items)
        # More than may wait in its queue and in the system: from here on it is behind.
        bulk = [id for _ in range(30) for id in (await http.publish("l1/bulk", "x" * 100_000)).ids]
        began = time.monotonic()
        during: list[float] = []
        while len(during) < 5 or time.monotonic() - began < 2 * stall:
            during.append(await fleet.p99())
        everything = [*bulk, *fleet.ids[already:]]
        assert len(slow.ids) < len(everything) / 2, "it is far behind"
        assert not slow.ended, server.output
        slow.hurry()
        await until(lambda: len(slow.ids) >= len(everything) or slow.ended)
        assert slow.ids == everything
        after = [await fleet.p99() for _ in range(5)]
    usual = max(statistics.median(before), statistics.median(after))
    assert statistics.median(during) < 2 * usual + 0.01, (before, during, after)
    assert "cut off" not in server.output
