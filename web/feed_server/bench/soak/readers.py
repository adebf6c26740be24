"""Readers that come, stay, stall, leave in every way, and come back in another form with the last id they were told."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from feed_server.bench.payload import TOKEN_BYTES
from feed_server.bench.soak.ledger import WISHES, Findings, Wish
from feed_server.bench.soak.streams import Form, Item, Stream, request

_STEADY = 0.1  # of the readers come once and stay
_RETURNS = 0.8  # of those who leave come back with their last id; the others are as good as new
_AWAY_SECONDS = 3.0  # at the most, but for those who are
_LONG_AWAY = 0.03  # away until what they missed has expired
_END_SECONDS = 60.0
_TRY_AGAIN = 0.5
_GONE_SECONDS = 20.0


class Account(Protocol):
    """What one reader is told, however often it comes back. The bench's is `ledger.Follower`; tests have another."""

    checked: int
    """Events that were compared with what was published."""

    @property
    def frontier(self) -> int | None:
        """Up to where it was told everything; None before it was told anything."""

    @property
    def reached(self) -> bool:
        """Whether it was told of everything there is for it."""

    @property
    def is_checked(self) -> bool:
        """Whether all that it got has been compared."""

    def opened(self, position: int) -> None:
        """Note the first `feed.open`: what comes after it is to come to this reader."""

    def event(self, seq: int, serial: int) -> None:
        """Note an event."""

    def moved(self, position: int) -> None:
        """Note that there is nothing for it up to there."""

    def gap(self, position: int) -> None:
        """Note that something may be missing up to there."""

    def check(self) -> None:
        """Compare what can be compared so far."""

    def end(self) -> None:
        """Take what it has not got for lost: no more comes to it, and no more was published."""


class Books(Protocol):
    """Where the accounts are kept. The bench's is `ledger.Ledger`."""

    @property
    def settled(self) -> int:
        """Up to where every event is known."""

    def follower(self, wish: Wish, name: str) -> Account:
        """Open the account of one reader."""


@dataclass
class House:
    """What all who make the load share: where the server is, what is known, and when to stop."""

    host: str
    port: int
    forms: Sequence[Form]
    retained: int
    """Events that the server keeps."""
    expires_after: float
    """Seconds after which it has let go of them."""
    epoch: str
    ledger: Books
    findings: Findings
    chance: random.Random
    stay: float = 8.0
    """Seconds that a visit lasts, on average."""
    slow: float = 0.05
    """The part of the visits whose reader is slow."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    tally: Counter[str] = field(default_factory=Counter)

    async def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()

    def place(self, id: str) -> int:
        """The number in an id. Another epoch is a finding: the log has not been opened again."""
        epoch, _, number = id.rpartition("-")
        if epoch != self.epoch:
            self.findings.note("ids", f"{id} is of another epoch than {self.epoch}")
        return int(number)


class Guest:
    """A reader with one wish."""

    def __init__(self, house: House, number: int) -> None:
        self.stream: Stream | None = None
        self._house = house
        self._chance = random.Random(house.chance.random())
        self._number = number
        self._steady = self._chance.random() < _STEADY
        self._retired: list[Account] = []
        self._come()

    def _come(self) -> None:
        """As somebody who was never here before. What the one before got is still to be checked."""
        self._wish = self._chance.choice(WISHES)
        self._follower = self._house.ledger.follower(self._wish, f"reader {self._number}")
        self._last_id: str | None = None

    def check(self) -> None:
        """Compare what it got with what is settled."""
        for follower in (*self._retired, self._follower):
            before = follower.checked
            follower.check()
            self._house.tally["checked"] += follower.checked - before
        self._retired = [follower for follower in self._retired if not follower.is_checked]

    def _take(self, item: Item) -> None:
        house, follower = self._house, self._follower
        seq = None if item.id is None else house.place(item.id)
        if item.is_event:
            house.tally["deliveries"] += 1
            follower.event(house.place(str(item.id)), _serial(item.json))
        elif item.type == "feed.open" and seq is not None:
            if follower.frontier is None:
                follower.opened(seq)
        elif item.type == "feed.position" and seq is not None:
            follower.moved(seq)
        elif item.type == "feed.gap":
            self._gap(item)
        elif item.type != "feed.live":
            house.findings.note("ended", f"reader {self._number} was told {item.type} {item.data}")
        self._last_id = item.id or self._last_id

    def _gap(self, item: Item) -> None:
        house, follower, said = self._house, self._follower, item.json
        house.tally["gaps"] += 1
        missed = house.ledger.settled - (follower.frontier or 0)
        if said["reason"] != "expired" or missed < house.retained // 2:
            house.findings.note("gaps not due", f"reader {self._number}, {missed} events behind: {said}")
        follower.gap(house.place(said["resumed_from"]))

    async def visit(self) -> Stream | None:
        """Open a stream; None if that was refused."""
        house, chance = self._house, self._chance
        slow = not house.stopping.is_set() and chance.random() < house.slow
        form = chance.choice(house.forms)
        after, parameters = self._last_id, {}
        if after is not None:
            house.tally["resumes"] += 1
        elif (begin := chance.random()) < 0.1:
            after = "earliest"
        elif begin < 0.3:
            parameters["last"] = str(chance.randrange(1, 50))
        house.tally["connections"] += 1
        house.tally["slow"] += slow
        head = request(form, self._wish.query(**parameters), after, f"localhost:{house.port}")
        stream = self.stream = Stream(form, head, self._take, slow=slow)
        try:
            await stream.open(house.host, house.port)
        except OSError as error:
            house.findings.note("refused", f"a reader: {error!r}")
            return None
        if not stream.is_open:
            said = stream.parser.refusal.decode(errors="replace")
            house.findings.note("refused", f"a reader ({form}): {stream.status} {said or stream.garbled}")
            return None
        return stream

    async def come_and_go(self) -> None:
        """Until it is time to stay; then until it has everything."""
        house = self._house
        while not house.stopping.is_set():
            stream = await self.visit()
            if stream is None:
                await house.pause(_TRY_AGAIN)
                continue
            await self._stay(stream)
            if house.stopping.is_set():
                break
            await self._leave(stream)
            if self._chance.random() > _RETURNS:
                self._retired.append(self._follower)
                self._come()
            elif self._chance.random() < _LONG_AWAY:
                house.tally["long away"] += 1
                await house.pause(house.expires_after * self._chance.uniform(1, 2))
            else:
                await house.pause(self._chance.choice([0, 0, self._chance.uniform(0, _AWAY_SECONDS)]))

    async def _stay(self, stream: Stream) -> None:
        """For a while, with a stall now and then, or until the server ends it."""
        house, chance = self._house, self._chance
        if self._steady:
            await self._pause(stream, None)
        while chance.random() < 0.3 and not house.stopping.is_set():
            await self._pause(stream, chance.uniform(0, 1))
            house.tally["stalls"] += 1
            stream.stall()
            await self._pause(stream, chance.uniform(0, 3))
            stream.go_on()
        await self._pause(stream, chance.expovariate(1 / house.stay))
        if stream.gone.is_set():
            house.findings.note("ended", f"reader {self._number}: {stream.garbled or 'the server closed its stream'}")

    async def _pause(self, stream: Stream, seconds: float | None) -> None:
        waiting = [asyncio.ensure_future(self._house.stopping.wait()), asyncio.ensure_future(stream.gone.wait())]
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    async def _leave(self, stream: Stream) -> None:
        name, way = self._chance.choice(_WAYS)
        self._house.tally[name] += 1
        way(stream)
        stream.hurry()  # or what is left for it is read at its own pace
        try:
            async with asyncio.timeout(_GONE_SECONDS):
                await stream.gone.wait()
        except TimeoutError:
            self._house.findings.note("ended", f"the server kept a stream open whose reader had said goodbye ({name})")
            stream.reset()

    async def stay(self) -> None:
        """Come back if it is away, and wait until it has everything that is for it."""
        deadline = asyncio.get_running_loop().time() + _END_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            if self.stream is None or not self.stream.is_open or self.stream.left:
                if await self.visit() is None:
                    await asyncio.sleep(_TRY_AGAIN)
                continue
            self.stream.hurry()
            if self._follower.reached:
                break
            await asyncio.sleep(0.05)
        self._follower.end()
        self.check()

    async def go(self) -> None:
        """For good."""
        if self.stream is not None and self.stream.is_open:
            await self._leave(self.stream)


_WAYS: list[tuple[str, Callable[[Stream], None]]] = [
    ("closed", Stream.leave),
    ("reset", Stream.reset),
    ("half-closed", Stream.half_close),
]


def _serial(data: dict[str, str]) -> int:
    token, filling = data["n"], data["x"]
    if len(token) != TOKEN_BYTES or filling.strip("x"):
        raise ValueError(f"not what was published: {str(data)[:80]}")
    return int(token[4:12])
