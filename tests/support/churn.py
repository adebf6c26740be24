"""Correctness under load: readers of every form that come, leave, stall and come back, and publishers of every kind.

At the end the log is read as history, and each reader's ids are compared with it. What is right is judged here by
rules of this module's own: how a pattern matches, and what a reader should have got.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import NamedTuple

import orjson

from tests.support.crowd import Crowd, Form, Http, Item, Reader, masked, until
from tests.support.judge import Got, judge

TOPICS = [f"churn/{name}/{number}" for name in "abcde" for number in range(8)]
TYPES = ["message", "created", "gone"]
END = "end"
AWAY = [Reader.reset, Reader.leave, Reader.half_close]


@lru_cache
def _expression(pattern: str) -> re.Pattern[str]:
    segments = {"*": "[^/]+", "**": ".+"}
    return re.compile("/".join(segments.get(segment) or re.escape(segment) for segment in pattern.split("/")))


class Wish(NamedTuple):
    """What a reader asks for. Everybody wants to know of the end."""

    patterns: tuple[str, ...]
    types: tuple[str, ...]

    @classmethod
    def random(cls, chance: random.Random) -> Wish:
        """Of every kind, and mostly narrow."""
        number = chance.randrange(8)
        patterns = chance.choice(
            [
                tuple(chance.sample(TOPICS, 5)),
                (f"churn/{chance.choice('abcde')}/*",),
                (f"churn/*/{number}", f"churn/a/{number}"),
                (f"*/{chance.choice('abcde')}/*", chance.choice(TOPICS)),
                (chance.choice(["churn/**", "**"]),),
            ]
        )
        types = () if chance.random() < 0.6 else (*chance.sample(TYPES, 2), END)
        return cls((*patterns, END), types)

    @property
    def path(self) -> str:
        """As a query."""
        return "?" + "&".join([f"topic={topic}" for topic in self.patterns] + [f"type={type}" for type in self.types])

    def wants(self, topic: str, type: str) -> bool:
        """Whether an event is asked for."""
        if self.types and type not in self.types:
            return False
        return any(_expression(pattern).fullmatch(topic) for pattern in self.patterns)


class Guest:
    """A reader that comes and goes, always in another form and with the last id it was told."""

    def __init__(self, chance: random.Random) -> None:
        self.wish = Wish.random(chance)
        self.got = array("Q")
        self.start: int | None = None
        self.last_id: str | None = None
        self.visits = 0
        self.faults: list[Item] = []
        self._chance = chance

    @property
    def last(self) -> int:
        """The place of the last event it got."""
        return self.got[-1] if self.got else 0

    def take(self, item: Item) -> None:
        """Note it."""
        if item.is_event:
            self.got.append(place(str(item.id)))
        elif item.type == "feed.open":
            self.start = place(str(item.id)) if self.start is None else self.start
        elif item.type not in ("feed.position", "feed.live"):
            self.faults.append(item)  # nothing here is ever expired, nor a stream ended
        self.last_id = item.id or self.last_id

    async def visit(self, crowd: Crowd) -> Reader:
        """Open a stream, some through a small buffer."""
        chance = self._chance
        buffer = 8192 if chance.random() < 0.3 else None
        reader = await crowd.reader(chance.choice(list(Form)), self.wish.path, self.take, self.last_id, buffer)
        assert reader.status in (101, 200), reader.parser.refusal
        self.visits += 1
        return reader

    async def come_and_go(self, crowd: Crowd, stopping: asyncio.Event) -> Reader:
        """Until it is time to stay. Gives the stream that stays open."""
        chance = self._chance
        while not stopping.is_set():
            reader = await self.visit(crowd)
            for _ in range(chance.randrange(3)):
                await pause(stopping, chance.uniform(0, 1.5))
                reader.stall()
                await pause(stopping, chance.uniform(0, 2))
                reader.go_on()
            await pause(stopping, chance.expovariate(1))
            chance.choice(AWAY)(reader)
            async with asyncio.timeout(20):
                await reader.gone.wait()
            crowd.forget(reader)
            await pause(stopping, chance.choice([0, 0, chance.uniform(0, 2)]))
        return await self.visit(crowd)

    def check(self, events: list[tuple[int, str, str]]) -> None:
        """Compare what it got with what it should have."""
        assert not self.faults, self.faults[:3]
        assert self.start is not None
        wanted = [seq for seq, topic, type in events if seq > self.start and self.wish.wants(topic, type)]
        if wanted != list(self.got):  # to say which it is; and what is equal is good
            verdict = judge([(seq, str(seq)) for seq in wanted], [Got(str(seq)) for seq in self.got])
            raise AssertionError(f"{self.wish} from {self.start}: {verdict}")


def place(id: str) -> int:
    """Where in the log an event is."""
    return int(id.rpartition("-")[2])


async def pause(stopping: asyncio.Event, seconds: float) -> None:
    """Wait, but not beyond the end."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()


class Publishers:
    """One of each kind. `acknowledged` has what each id was given for: topic and type."""

    def __init__(self, crowd: Crowd, chance: random.Random, stopping: asyncio.Event, numbers: itertools.count[int]):
        self.acknowledged: dict[int, tuple[str, str]] = {}
        self.repeats = 0
        self.abandoned = 0
        self._crowd = crowd
        self._chance = chance
        self._stopping = stopping
        self._numbers = numbers

    def kinds(self) -> list[Callable[[], object]]:
        """What is to run."""
        return [self.text, self.json, self.array, self.lines, self.websocket, self.twice, self.abandoning]

    async def _turns(self, seconds: float = 0.03) -> AsyncIterator[Http]:
        http = self._crowd.http()
        while not self._stopping.is_set():
            yield http
            await pause(self._stopping, self._chance.uniform(0, 2 * seconds))

    def _draft(self, mark: str = "m") -> tuple[str, str, str]:
        """A topic, a type, and data that is there once."""
        chance = self._chance
        size = 20_000 if chance.random() < 0.05 else chance.randrange(150)
        data = f"{mark} {next(self._numbers)} {'x' * size}"
        return chance.choice(TOPICS), chance.choice(TYPES), data

    def _many(self) -> list[tuple[str, str, str]]:
        return [self._draft() for _ in range(self._chance.randrange(1, 20))]

    def _note(self, ids: list[str], drafts: list[tuple[str, str, str]]) -> None:
        for id, (topic, type, _) in zip(ids, drafts, strict=True):
            assert place(id) not in self.acknowledged
            self.acknowledged[place(id)] = (topic, type)

    async def text(self) -> None:
        """Single events, as text."""
        async for http in self._turns():
            topic, type, data = draft = self._draft()
            answer = await http.publish(f"{topic}?type={type}", data)
            assert answer.status == 201, answer
            self._note(answer.ids, [draft])

    async def json(self) -> None:
        """Single events, as JSON in an envelope."""
        async for http in self._turns():
            topic, type, data = draft = self._draft()
            body = orjson.dumps({"topic": topic, "type": type, "data": data})
            answer = await http.request("POST", "/events", body, Content_Type="application/json")
            assert answer.status == 201, answer
            self._note(answer.ids, [draft])

    async def array(self) -> None:
        """Batches as arrays."""
        async for http in self._turns(0.1):
            drafts = self._many()
            body = orjson.dumps([{"topic": topic, "type": type, "data": data} for topic, type, data in drafts])
            answer = await http.request("POST", "/events", body, Content_Type="application/json")
            assert answer.status == 201, answer
            self._note(answer.ids, drafts)

    async def lines(self) -> None:
        """Batches as lines."""
        async for http in self._turns(0.1):
            drafts = self._many()
            answer = await http.publish_lines([{"topic": t, "type": type, "data": data} for t, type, data in drafts])
            assert answer.status == 201, answer
            self._note(answer.ids, drafts)

    async def websocket(self) -> None:
        """Over the socket it reads, some with a key and sent twice."""
        answers: asyncio.Queue[Item] = asyncio.Queue()

        def take(item: Item) -> None:
            if item.type in ("feed.ack", "feed.error"):
                answers.put_nowait(item)

        reader = await self._crowd.reader(Form.WEBSOCKET, "/churn/websocket", take)
        async for _ in self._turns():
            topic, type, data = draft = self._draft()
            message: dict[str, str] = {"topic": topic, "type": type, "data": data}
            times = self._chance.choice([1, 1, 2])
            if times > 1:
                message["key"] = f"w{next(self._numbers)}"
            reader.send(masked(1, orjson.dumps(message)) * times)
            acks = [orjson.loads((await answers.get()).data) for _ in range(times)]
            assert len({ack["id"] for ack in acks}) == 1, acks
            self.repeats += times - 1
            self._note([acks[0]["id"]], [draft])

    async def twice(self) -> None:
        """With a key, and the same again: at once, or after the answer."""
        other = self._crowd.http()
        async for http in self._turns(0.1):
            drafts = self._many()
            lines: list[dict[str, object]] = [{"topic": t, "type": type, "data": data} for t, type, data in drafts]
            key = f"h{next(self._numbers)}"
            both = [http.publish_lines(lines, Idempotency_Key=key), other.publish_lines(lines, Idempotency_Key=key)]
            if self._chance.random() < 0.5:
                first, second = await asyncio.gather(*both)
            else:
                first, second = [await each for each in both]
            assert first.status == second.status == 201, (first, second)
            assert first.ids == second.ids
            self.repeats += 1
            self._note(first.ids, drafts)

    async def abandoning(self) -> None:
        """Leaves before the answer: it may be published or not, but in no case twice or in part."""
        async for http in self._turns(0.2):
            mark = f"abandoned-{next(self._numbers)}"
            drafts = [self._draft(mark) for _ in range(3)]
            asking = asyncio.ensure_future(
                http.publish_lines([{"topic": topic, "type": type, "data": data} for topic, type, data in drafts])
            )
            await asyncio.sleep(self._chance.choice([0, 0, 0.001, 0.003]))
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            http.close()
            self.abandoned += 1


class Report(NamedTuple):
    """What there was of it."""

    events: int
    deliveries: int
    visits: int
    repeats: int
    abandoned: int


async def churn(port: int, guests: int, seconds: float, seed: int) -> Report:
    """Let them all come and go for so long; then all stay, and each must have got just what it should. At the end all
    are gone."""
    chance = random.Random(seed)
    stopping = asyncio.Event()
    everybody = [Guest(random.Random(chance.random())) for _ in range(guests)]
    async with Crowd(port) as crowd:
        http = crowd.http()
        (begin,) = (await http.publish("begin", "the beginning")).ids
        publishers = Publishers(crowd, chance, stopping, itertools.count(place(begin) * 1_000))
        visits = [crowd.task(guest.come_and_go(crowd, stopping)) for guest in everybody]
        working = [crowd.task(work()) for work in publishers.kinds()]  # type: ignore[arg-type]
        ended = asyncio.ensure_future(asyncio.sleep(seconds))
        await asyncio.wait([ended, *visits, *working], return_when=asyncio.FIRST_COMPLETED)  # one that fails ends it
        ended.cancel()
        stopping.set()
        async with asyncio.timeout(40):
            await asyncio.gather(*working)
            await asyncio.gather(*visits)
        (end,) = (await http.publish(f"{END}?type={END}", "the end")).ids
        last = place(end)
        await until(lambda: all(guest.last == last for guest in everybody), 60, "the last event, at every reader")
        stored = await http.history("**", begin)
    check_history(stored[:-1], publishers.acknowledged, place(begin))
    events = [(place(event["id"]), event["topic"], event["type"]) for event in stored]
    for guest in everybody:
        guest.check(events)
    return Report(
        events=len(publishers.acknowledged),
        deliveries=sum(len(guest.got) for guest in everybody),
        visits=sum(guest.visits for guest in everybody),
        repeats=publishers.repeats,
        abandoned=publishers.abandoned,
    )


def check_history(stored: list[dict[str, str]], acknowledged: dict[int, tuple[str, str]], begin: int) -> None:
    """All that was acknowledged is there, each once, and beside it only what was abandoned, whole."""
    places = [place(event["id"]) for event in stored]
    assert places == list(range(begin + 1, begin + 1 + len(stored))), "in order, without a hole"
    there = {place(event["id"]): (event["topic"], event["type"]) for event in stored}
    assert {seq: there.get(seq) for seq in acknowledged} == acknowledged
    assert len({event["data"].split()[1] for event in stored}) == len(stored), "each once"
    extra = Counter(event["data"].split()[0] for event in stored if place(event["id"]) not in acknowledged)
    assert all(mark.startswith("abandoned-") for mark in extra), extra
    assert set(extra.values()) <= {3}, "a batch is there whole, or not at all"
