"""The process that makes the load of a soak: all readers and publishers in one event loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from feed_server.bench.soak.ledger import Findings, Ledger
from feed_server.bench.soak.publishers import Publishers, pool
from feed_server.bench.soak.readers import Guest, House
from feed_server.bench.soak.streams import Form
from feed_server.bench.worker import BenchError, Control

_TICK = 0.25  # seconds between two checks
_ARRIVE_SECONDS = 1.0  # over which the first readers come
_PAGERS = 2
# Times what the server keeps: in the sockets of a slow reader may be megabytes that expired long ago.
_REMEMBERED = 60


@dataclass(frozen=True)
class Stop:
    """Publish nothing more, let every reader get what is for it, and say `Done`."""


@dataclass(frozen=True)
class Seen:
    """What the load has seen so far."""

    events: int
    streams: int
    tally: dict[str, int]
    findings: dict[str, int]
    examples: list[str]


@dataclass(frozen=True)
class Done:
    """All readers have left."""

    seen: Seen


@dataclass(frozen=True)
class LoadJob:
    """Who comes, and where."""

    host: str
    port: int
    forms: Sequence[Form]
    readers: int
    publishers: int
    rate: float
    size: int
    retained: int
    seed: int

    def run(self, control: Control) -> None:
        """Obey commands until there are no more."""
        uvloop.run(_Load(self, control).run())
        control.recv()  # the end


class _Load:
    def __init__(self, job: LoadJob, control: Control) -> None:
        self._job = job
        self._control = control
        self._guests: list[Guest] = []

    async def run(self) -> None:
        job = self._job
        async with pool(job.host, job.port, 2 * job.publishers + _PAGERS + 1) as http:
            answer = await http.post("/events/begin", content=b"the beginning")  # which no wish wants
            if answer.status_code != 201:
                raise BenchError(f"the first publish was refused: {answer.status_code} {answer.text[:300]}")
            epoch, _, begin = answer.json()["id"].rpartition("-")
            findings = Findings()
            ledger = Ledger(int(begin), _REMEMBERED * job.retained, findings)
            house = House(
                job.host,
                job.port,
                job.forms,
                job.retained,
                job.retained / job.rate,
                epoch,
                ledger,
                findings,
                random.Random(job.seed),
            )
            self._guests = [Guest(house, number) for number in range(1, job.readers + 1)]
            ticking = asyncio.create_task(self._tick(house, ledger))
            try:
                publishers = Publishers(house, ledger, http, job.publishers, job.rate, job.size)
                await self._play(house, ledger, publishers)
            finally:
                ticking.cancel()
        self._control.send(Done(self._seen(house, ledger)))

    async def _play(self, house: House, ledger: Ledger, publishers: Publishers) -> None:
        async with asyncio.TaskGroup() as coming:
            for number, guest in enumerate(self._guests):
                coming.create_task(_late(guest, number / len(self._guests) * _ARRIVE_SECONDS, house))
            async with asyncio.TaskGroup() as working:
                for number in range(self._job.publishers):
                    working.create_task(publishers.publish(number))
                for _ in range(_PAGERS):
                    working.create_task(publishers.look_back())
        ledger.close()
        async with asyncio.TaskGroup() as staying:
            for guest in self._guests:
                staying.create_task(guest.stay())
        async with asyncio.TaskGroup() as going:
            for guest in self._guests:
                going.create_task(guest.go())

    async def _tick(self, house: House, ledger: Ledger) -> None:
        while True:
            if self._control.poll():  # a loop that watches it would make it one that does not block
                try:
                    self._control.recv()
                except EOFError:  # the bench is gone
                    raise SystemExit(1) from None
                house.stopping.set()
            for guest in self._guests:
                guest.check()
            self._control.send(self._seen(house, ledger))
            await asyncio.sleep(_TICK)

    def _seen(self, house: House, ledger: Ledger) -> Seen:
        streams = sum(guest.stream is not None and guest.stream.is_open for guest in self._guests)
        findings = house.findings
        return Seen(ledger.events, streams, dict(house.tally), dict(findings.counts), list(findings.examples))


async def _late(guest: Guest, seconds: float, house: House) -> None:
    await house.pause(seconds)
    await guest.come_and_go()
