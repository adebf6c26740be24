"""Correctness under load: readers of every form that come, leave, stall and come back, and publishers of every kind.

The readers are those of `feed bench --soak`, and so is what they ask for. What they should have got is judged here: at
the end the log is read as history, and each reader's account is compared with it by `tests.support.judge`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import orjson

from feed_server.bench.payload import MIN_SIZE, make_data, make_token
from feed_server.bench.soak.ledger import TOPICS, TYPES, Findings, Wish
from feed_server.bench.soak.readers import Guest, House
from feed_server.bench.soak.streams import Form, Item, masked
from tests.support.crowd import Crowd, Http
from tests.support.judge import Got, judge

_RETAINED = 10_000_000  # more than is ever published: no gap is due
_STAY_SECONDS = 1.0
_SLOW = 0.3
_KEPT, _ABANDONED = 0, 1  # who published it, in an event's token


class Event(NamedTuple):
    """What was published, or is stored. `serial` is there once."""

    topic: str
    type: str
    serial: int


class Draft(NamedTuple):
    """An event, and the data it is published with."""

    event: Event
    data: str

    @property
    def line(self) -> dict[str, object]:
        """As an envelope."""
        return {"topic": self.event.topic, "type": self.event.type, "data": self.data}


class Diary:
    """What one reader is told, for the judge. It compares nothing while it is written."""

    checked = 0
    is_checked = False

    def __init__(self, diaries: Diaries, wish: Wish, name: str) -> None:
        self.wish = wish
        self.name = name
        self.start: int | None = None
        self.frontier: int | None = None
        self.got: list[Got] = []
        self._diaries = diaries

    @property
    def reached(self) -> bool:
        """Whether it was told of everything there is for it."""
        wanted = self._diaries.wanted(self.wish)
        return self.frontier is not None and self.frontier >= (wanted[-1][0] if wanted else 0)

    def opened(self, position: int) -> None:
        """What comes after this is to come to this reader."""
        self.start = self.frontier = position

    def event(self, seq: int, serial: int) -> None:
        """An event."""
        self.got.append(Got(_named(seq, serial)))
        self.moved(seq)

    def moved(self, position: int) -> None:
        """Told that there is nothing more for it up to there."""
        self.frontier = max(self.frontier or 0, position)

    def gap(self, position: int) -> None:
        """Told that something may be missing, which is a finding of the guest's own."""

    def check(self) -> None:
        """Nothing yet: see `judge`."""

    def end(self) -> None:
        """No more comes to it: what it has not got is lost."""
        self.frontier = _RETAINED

    def judge(self) -> None:
        """Compare what it was told with what is stored."""
        start, frontier = self.start or 0, self.frontier or 0
        due = [each for each in self._diaries.wanted(self.wish) if start < each[0] <= frontier]
        verdict = judge(due, self.got)
        assert verdict.good, f"{self.name}, {self.wish} from {start} to {frontier}: {verdict}"


class Diaries:
    """Those of all readers. `stored` is what the log holds, by place, as soon as that is known."""

    settled = 0

    def __init__(self) -> None:
        self.stored: dict[int, Event] = {}
        self.all: list[Diary] = []
        self._wanted: dict[Wish, list[tuple[int, str]]] = {}

    def follower(self, wish: Wish, name: str) -> Diary:
        """One more reader's."""
        self.all.append(Diary(self, wish, name))
        return self.all[-1]

    def wanted(self, wish: Wish) -> list[tuple[int, str]]:
        """What is stored and asked for, by place."""
        if wish not in self._wanted:
            self._wanted[wish] = [
                (seq, _named(seq, event.serial))
                for seq, event in self.stored.items()
                if wish.wants(event.topic, event.type)
            ]
        return self._wanted[wish]


def _named(seq: int, serial: int) -> str:
    """An event's name for the judge: one with another's data is not the same."""
    return f"{seq} ({serial})"


def place(id: str) -> int:
    """Where in the log an event is."""
    return int(id.rpartition("-")[2])


class Publishers:
    """One of each kind. `acknowledged` has what each place was given to."""

    def __init__(self, crowd: Crowd, house: House, begin: int) -> None:
        self.acknowledged: dict[int, Event] = {}
        self.repeats = 0
        self.abandoned = 0
        self._crowd = crowd
        self._house = house
        self._chance = random.Random(house.chance.random())
        self._numbers = itertools.count(1)
        self._keys = (f"{begin}-{number}" for number in itertools.count(1))

    def kinds(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What is to run."""
        return [self.text, self.json, self.array, self.lines, self.websocket, self.twice, self.abandoning]

    async def _turns(self, seconds: float = 0.03) -> AsyncIterator[Http]:
        http = self._crowd.http()
        while not self._house.stopping.is_set():
            yield http
            await self._house.pause(self._chance.uniform(0, 2 * seconds))

    def _draft(self, publisher: int = _KEPT, mark: int = 0) -> Draft:
        """An event whose data is there once."""
        chance, serial = self._chance, next(self._numbers)
        size = 20_000 if chance.random() < 0.05 else MIN_SIZE + chance.randrange(150)
        data = make_data(make_token(publisher, serial, mark), size).decode()
        return Draft(Event(chance.choice(TOPICS), chance.choice(TYPES), serial), data)

    def _many(self) -> list[Draft]:
        return [self._draft() for _ in range(self._chance.randrange(1, 20))]

    def _note(self, ids: list[str], drafts: list[Draft]) -> None:
        for id, draft in zip(ids, drafts, strict=True):
            assert place(id) not in self.acknowledged
            self.acknowledged[place(id)] = draft.event

    async def text(self) -> None:
        """Single events, as text."""
        async for http in self._turns():
            draft = self._draft()
            answer = await http.publish(f"{draft.event.topic}?type={draft.event.type}", draft.data)
            assert answer.status == 201, answer
            self._note(answer.ids, [draft])

    async def json(self) -> None:
        """Single events, as JSON in an envelope."""
        async for http in self._turns():
            draft = self._draft()
            answer = await http.request("POST", "/events", orjson.dumps(draft.line), Content_Type="application/json")
            assert answer.status == 201, answer
            self._note(answer.ids, [draft])

    async def array(self) -> None:
        """Batches as arrays."""
        async for http in self._turns(0.1):
            drafts = self._many()
            body = orjson.dumps([draft.line for draft in drafts])
            answer = await http.request("POST", "/events", body, Content_Type="application/json")
            assert answer.status == 201, answer
            self._note(answer.ids, drafts)

    async def lines(self) -> None:
        """Batches as lines."""
        async for http in self._turns(0.1):
            drafts = self._many()
            answer = await http.publish_lines([draft.line for draft in drafts])
            assert answer.status == 201, answer
            self._note(answer.ids, drafts)

    async def websocket(self) -> None:
        """Over the socket it reads, some with a key and sent twice."""
        answers: asyncio.Queue[Item] = asyncio.Queue()

        def take(item: Item) -> None:
            if item.type in ("feed.ack", "feed.error"):
                answers.put_nowait(item)

        reader = await self._crowd.reader(Form.WS, "/churn/websocket", take)
        async for _ in self._turns():
            draft = self._draft()
            message = draft.line
            times = self._chance.choice([1, 1, 2])
            if times > 1:
                message["key"] = next(self._keys)
            reader.send(masked(1, orjson.dumps(message)) * times)
            acks = [(await answers.get()).json for _ in range(times)]
            assert len({ack["id"] for ack in acks}) == 1, acks
            self.repeats += times - 1
            self._note([acks[0]["id"]], [draft])

    async def twice(self) -> None:
        """With a key, and the same again: at once, or after the answer."""
        other = self._crowd.http()
        async for http in self._turns(0.1):
            drafts = self._many()
            lines = [draft.line for draft in drafts]
            key = next(self._keys)
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
            self.abandoned += 1
            lines = [self._draft(_ABANDONED, mark=self.abandoned).line for _ in range(3)]
            asking = asyncio.ensure_future(http.publish_lines(lines))
            await asyncio.sleep(self._chance.choice([0, 0, 0.001, 0.003]))
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            http.close()


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
    diaries, findings = Diaries(), Findings()
    async with Crowd(port) as crowd:
        http = crowd.http()
        (begin,) = (await http.publish("begin", "the beginning")).ids
        house = House(
            host="127.0.0.1",
            port=port,
            forms=list(Form),
            retained=_RETAINED,
            expires_after=_STAY_SECONDS,
            epoch=begin.rpartition("-")[0],
            ledger=diaries,
            findings=findings,
            chance=random.Random(seed),
            stay=_STAY_SECONDS,
            slow=_SLOW,
        )
        publishers = Publishers(crowd, house, place(begin))
        with _everybody(house, guests) as everybody:
            visits = [crowd.task(guest.come_and_go()) for guest in everybody]
            working = [crowd.task(work()) for work in publishers.kinds()]
            ended = asyncio.ensure_future(asyncio.sleep(seconds))
            # One that fails ends it.
            await asyncio.wait([ended, *visits, *working], return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            house.stopping.set()
            async with asyncio.timeout(40):
                await asyncio.gather(*working)
                await asyncio.gather(*visits)
            # Readers may begin with what was there before.
            stored = [event for event in await http.history("**") if event["topic"] in TOPICS]
            diaries.stored = {place(event["id"]): _event(event) for event in stored}
            await asyncio.gather(*(guest.stay() for guest in everybody))
            await asyncio.gather(*(guest.go() for guest in everybody))
    assert findings.counts == {}, findings.examples
    fresh = [event for event in stored if place(event["id"]) > place(begin)]
    check_history(fresh, publishers.acknowledged, place(begin))
    for diary in diaries.all:
        diary.judge()
    assert sum(len(diary.got) for diary in diaries.all) == house.tally["deliveries"]
    return Report(
        events=len(publishers.acknowledged),
        deliveries=house.tally["deliveries"],
        visits=house.tally["connections"],
        repeats=publishers.repeats,
        abandoned=publishers.abandoned,
    )


@contextlib.contextmanager
def _everybody(house: House, count: int) -> Iterator[list[Guest]]:
    """The readers. Whatever happens, at the end of the block they are gone."""
    everybody = [Guest(house, number) for number in range(count)]
    try:
        yield everybody
    finally:
        for guest in everybody:
            if guest.stream is not None:
                guest.stream.reset()


def _event(stored: dict[str, str]) -> Event:
    return Event(stored["topic"], stored["type"], int(_token(stored)[4:12]))


def _token(stored: dict[str, str]) -> str:
    token: str = orjson.loads(stored["data"])["n"]
    return token


def check_history(stored: list[dict[str, str]], acknowledged: dict[int, Event], begin: int) -> None:
    """All that was acknowledged is there, each once, and beside it only what was abandoned, whole."""
    there = {place(event["id"]): _event(event) for event in stored}
    assert list(there) == list(range(begin + 1, begin + 1 + len(stored))), "in order, without a hole"
    assert {seq: there.get(seq) for seq in acknowledged} == acknowledged
    assert len({event.serial for event in there.values()}) == len(stored), "each once"
    extra = [_token(event) for event in stored if place(event["id"]) not in acknowledged]
    assert all(int(token[:3]) == _ABANDONED for token in extra), extra
    batches = Counter(token[13:] for token in extra)
    assert set(batches.values()) <= {3}, "a batch is there whole, or not at all"
