"""How fast it is, roughly: `python -m tests.measure`. A real `feed serve` on one core, the load on the other.

Prints publishes committed per second, and the time from the POST to the reader. It is no benchmark against others.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from tests.running import RunningServer, running

SECONDS = 3.0
ROUNDS = 5


async def publish(port: int, path: str, body: bytes, media_type: str, until: float) -> int:
    """POST the same body again and again on one connection; how often it was committed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    count = 0
    while time.perf_counter() < until:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 201 "), answer
        length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        count += 1
    writer.close()
    return count


async def rate(server: RunningServer, publishers: int, batch: int) -> float:
    """Events committed per second, by so many publishers at once, in batches of so many."""
    if batch == 1:
        path, body, media_type = "/events/measure", json.dumps({"x": "x" * 190}).encode(), "application/json"
    else:
        line = json.dumps({"topic": "measure", "data": {"x": "x" * 190}})
        path, body, media_type = "/events", "\n".join([line] * batch).encode(), "application/x-ndjson"
    until = time.perf_counter() + SECONDS
    counts = await asyncio.gather(*(publish(server.port, path, body, media_type, until) for _ in range(publishers)))
    return sum(counts) * batch / SECONDS


class Arrival(asyncio.Protocol):
    """A subscriber that notes when an event came to it."""

    def __init__(self, arrivals: list[float], waiting: asyncio.Event, expected: int) -> None:
        self.arrivals, self.waiting, self.expected = arrivals, waiting, expected

    def connection_made(self, transport: Any) -> None:
        transport.write(b"GET /events/measure HTTP/1.1\r\nHost: localhost\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        if b"feed.open" in data or b"data: {" in data:
            self.arrivals.append(time.perf_counter())
            if len(self.arrivals) == self.expected:
                self.waiting.set()


async def delays(server: RunningServer, readers: int, events: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the POST to the first and to the last of so many readers, for each event."""
    arrivals: list[float] = []
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()
    transports = [
        (await loop.create_connection(lambda: Arrival(arrivals, arrived, readers), "127.0.0.1", server.port))[0]
        for _ in range(readers)
    ]
    await arrived.wait()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    first, last = [], []
    for _ in range(events):
        arrivals.clear()
        arrived.clear()
        began = time.perf_counter()
        body = b'{"x": "' + b"x" * 190 + b'"}'
        writer.write(
            b"POST /events/measure HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await arrived.wait()
        await reader.readuntil(b"}")
        first.append((min(arrivals) - began) * 1000)
        last.append((max(arrivals) - began) * 1000)
    writer.close()
    for transport in transports:
        transport.close()
    return first, last


def spread(values: list[float]) -> str:
    """The median, and from where to where."""
    return f"{statistics.median(values):10,.2f}  ({min(values):,.2f} to {max(values):,.2f})"


async def measure() -> None:
    """Print it all."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    with tempfile.TemporaryDirectory() as folder:
        for log in ("memory:", f"sqlite:{Path(folder) / 'feed.db'}"):
            with running("--log", log) as server:
                os.sched_setaffinity(server.pid, {cores[0]})
                for thread in Path(f"/proc/{server.pid}/task").iterdir():
                    os.sched_setaffinity(int(thread.name), {cores[0]})
                kind = log.partition(":")[0]
                for publishers, batch in ((1, 1), (16, 1), (1, 100), (4, 500)):
                    rates = [await rate(server, publishers, batch) for _ in range(ROUNDS)]
                    print(f"{kind:7} {publishers:3} publishers, batches of {batch:3}: events/s {spread(rates)}")
                for readers in (1, 1_000):
                    first, last = await delays(server, readers, 200)
                    print(f"{kind:7} POST to first of {readers:5,} readers: ms {spread(first)}")
                    print(f"{kind:7} POST to last  of {readers:5,} readers: ms {spread(last)}")
                    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(measure())
