"""Publishers of every kind, and those who look into the history: what they are answered is what the ledger knows."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from typing import Any

import httpx
import orjson

from feed.media_types import JSON, NDJSON
from feed_server.bench.payload import make_data, make_token
from feed_server.bench.soak.ledger import TOPICS, TYPES, WISHES, Committed, Ledger, Wish
from feed_server.bench.soak.readers import House
from feed_server.bench.soak.streams import Form, Item, Stream, masked, request
from feed_server.bench.worker import now

_BATCH = 10  # events at the most
_PART_OF_BATCHES = 0.3
_MEAN_EVENTS = 1 - _PART_OF_BATCHES + _PART_OF_BATCHES * (2 + _BATCH) / 2
_KEYS_PER_SECOND = 1.0  # the server keeps them for a day: what they take is no leak, and would look like one
_REFUSED = 0.05  # of the publishes
_LARGE = 100  # every so-manieth event is of this size:
_LARGE_BYTES = 20_000
_PAGE_SECONDS = 0.5
_IDLE_SECONDS = 2.0  # the server closes a connection after five
_NDJSON = {"Content-Type": NDJSON}
_JSON = {"Content-Type": JSON}

_WRONG: Sequence[tuple[str, bytes, dict[str, str]]] = (
    ("/events/soak/*", b"a pattern", {}),
    ("/events/soak/a/1?type=feed.open", b"a reserved type", {}),
    ("/events", b"[]", _JSON),
    ("/events", b'{"topic":"soak/a/1","data":1,"more":2}', _JSON),
    ("/events", b'[{"topic":"soak/a/1","data":1},{"topic":"$soak","data":2}]', _JSON),
    ("/events", b'{"topic":"soak/a/1","data":1}\n{"topic":"soak//1","data":2}', _NDJSON),
)


class Publishers:
    """All publishers, over one pool of connections and a WebSocket. `rate` is events per second of all together."""

    def __init__(
        self, house: House, ledger: Ledger, http: httpx.AsyncClient, count: int, rate: float, size: int
    ) -> None:
        self._house = house
        self._ledger = ledger
        self._http = http
        self._count = count
        self._rate = rate
        self._size = size
        self._serials = itertools.count(1)
        self._keys = itertools.count(1)
        self._keyed = min(0.1, _KEYS_PER_SECOND * _MEAN_EVENTS / rate)

    async def publish(self, number: int) -> None:
        """One publisher, until it is time to stop. The first of them is a WebSocket."""
        house, chance = self._house, random.Random(self._house.chance.random())
        socket = await self._socket() if number == 0 else None
        clock = asyncio.get_running_loop().time
        due = clock() + chance.uniform(0, 2) * self._count / self._rate
        while not house.stopping.is_set():
            await house.pause(max(0, due - clock()))
            if chance.random() < _REFUSED:
                await self._wrong(chance)
                continue
            many = chance.randrange(2, _BATCH + 1) if chance.random() < _PART_OF_BATCHES else 1
            if socket is not None:
                many = 1
                await self._over(socket, self._draft(number, chance))
            else:
                await self._request(number, many, chance)
            # What is late is made up for, but never by more than a second.
            due = max(due, clock() - 1) + chance.uniform(0, 2) * many * self._count / self._rate
        if socket is not None:
            socket.stream.leave()

    def _draft(self, number: int, chance: random.Random) -> tuple[Committed, bytes]:
        serial = next(self._serials)
        event = Committed(chance.choice(TOPICS), chance.choice(TYPES), serial)
        return event, make_data(make_token(number, serial, now()), _LARGE_BYTES if serial % _LARGE == 0 else self._size)

    async def _request(self, number: int, many: int, chance: random.Random) -> None:
        drafts = [self._draft(number, chance) for _ in range(many)]
        events = [event for event, _ in drafts]
        if many == 1:
            path, body, headers = f"/events/{events[0].topic}?type={events[0].type}", drafts[0][1], _JSON
        else:
            path, headers = "/events", _NDJSON
            body = b"\n".join(
                b'{"topic":"%b","type":"%b","data":%b}' % (event.topic.encode(), event.type.encode(), data)
                for event, data in drafts
            )
        keyed = chance.random() < self._keyed
        if keyed:
            headers = {**headers, "Idempotency-Key": f"soak-{next(self._keys)}"}
            self._house.tally["keys"] += 1
        answers = [self._post(path, body, headers)]
        if keyed and chance.random() < 0.5:
            answers.append(self._post(path, body, headers))
        ids = await asyncio.gather(*answers) if chance.random() < 0.5 else [await answer for answer in answers]
        if keyed and chance.random() < 0.5:
            ids.append(await self._post(path, body, headers))
        self._house.tally["repeats"] += len(ids) - 1
        given = [each for each in ids if each is not None]
        if any(each != given[0] for each in given):
            self._house.findings.note("ids", f"a repeat was given other ids: {given[0][:2]} and {given[-1][:2]}")
        if given:
            self._commit(given[0], events)

    def _commit(self, ids: Sequence[str], events: Sequence[Committed]) -> None:
        self._house.tally["publishes"] += 1
        self._ledger.commit([self._house.place(id) for id in ids], events)

    async def _post(self, path: str, body: bytes, headers: dict[str, str]) -> list[str] | None:
        """The ids; None if it was refused, which it should not be."""
        try:
            answer = await self._http.post(path, content=body, headers=headers)
        except httpx.HTTPError as error:
            self._house.findings.note("refused", f"a publish: {error!r}")
            return None
        if answer.status_code != 201:
            self._house.findings.note("refused", f"a publish: {answer.status_code} {answer.text[:200]}")
            return None
        value = orjson.loads(answer.content)
        return list(value["ids"]) if "ids" in value else [value["id"]]

    async def _wrong(self, chance: random.Random) -> None:
        """A publish that is to be refused, all of it: what it would publish is known to nobody, and so a finding."""
        path, body, headers = chance.choice(_WRONG)
        try:
            answer = await self._http.post(path, content=body, headers=headers)
        except httpx.HTTPError as error:
            self._house.findings.note("refused", f"a bad publish: {error!r}")
            return
        self._house.tally["bad publishes"] += 1
        if answer.status_code != 422:
            self._house.findings.note("taken", f"{body.decode()} to {path} was answered {answer.status_code}")

    async def _socket(self) -> _Socket:
        """A WebSocket that hears what it publishes, and acknowledgements."""
        socket = _Socket(self._house)
        await socket.stream.open(self._house.host, self._house.port)
        return socket

    async def _over(self, socket: _Socket, draft: tuple[Committed, bytes]) -> None:
        event, data = draft
        message = b'{"topic":"%b","type":"%b","data":%b}' % (event.topic.encode(), event.type.encode(), data)
        answer = await socket.ask(message)
        if answer is None:
            self._house.findings.note("refused", "a publish over a WebSocket was not answered")
        elif answer.type == "feed.ack":
            self._commit([answer.json["id"]], [event])
        else:
            self._house.findings.note("refused", f"a publish over a WebSocket: {answer.data}")

    async def look_back(self) -> None:
        """Pages of history: each has to hold what the ledger does, once that is settled."""
        house, chance = self._house, random.Random(self._house.chance.random())
        while not house.stopping.is_set():
            await house.pause(chance.uniform(0, 2 * _PAGE_SECONDS))
            wish = chance.choice(WISHES)
            after = max(0, self._ledger.settled - chance.randrange(house.retained))
            wait = {"wait": "1"} if chance.random() < 0.1 else {}
            path = f"/events{wish.query(limit='200', last_event_id=f'{house.epoch}-{after}', **wait)}"
            try:
                answer = await self._http.get(path, headers={"Accept": JSON})
            except httpx.HTTPError as error:
                house.findings.note("refused", f"a page of history: {error!r}")
                continue
            if answer.status_code != 200:
                house.findings.note("refused", f"a page of history: {answer.status_code} {answer.text[:200]}")
                continue
            await self._check_page(orjson.loads(answer.content), wish, after)

    async def _check_page(self, page: dict[str, Any], wish: Wish, after: int) -> None:
        house, ledger = self._house, self._ledger
        house.tally["pages"] += 1
        if "gap" in page:
            after = house.place(page["gap"]["resumed_from"])
        end = house.place(page["next"])
        for _ in range(100):
            if ledger.settled >= end:
                break
            await asyncio.sleep(0.05)
        else:
            return  # what is missing is found when the ledger is closed
        if after < ledger.forgotten:
            return
        got = [house.place(event["id"]) for event in page["events"]]
        if got != list(ledger.wanted(wish, after, end)[0]):
            house.findings.note("history", f"the page of {wish} from {after} to {end} is another one: {got[:5]}")


class _Socket:
    """A WebSocket to publish over: one message after the other."""

    def __init__(self, house: House) -> None:
        self._answers: asyncio.Queue[Item] = asyncio.Queue()
        head = request(Form.WS, WISHES[-1].query(), host=f"localhost:{house.port}")
        self.stream = Stream(Form.WS, head, self._take)

    def _take(self, item: Item) -> None:
        if item.type in {"feed.ack", "feed.error"}:
            self._answers.put_nowait(item)

    async def ask(self, message: bytes) -> Item | None:
        """Send it, and give the answer; None if there is none."""
        self.stream.send(masked(1, message))
        try:
            async with asyncio.timeout(20):
                return await self._answers.get()
        except TimeoutError:
            return None


def pool(host: str, port: int, size: int) -> httpx.AsyncClient:
    """Connections for so many at once."""
    limits = httpx.Limits(max_connections=size, max_keepalive_connections=size, keepalive_expiry=_IDLE_SECONDS)
    headers = {"Host": f"localhost:{port}"}
    return httpx.AsyncClient(
        base_url=f"http://{host}:{port}",
        verify=False,  # noqa: S501  no TLS, and loading certificates takes its time
        timeout=30,
        limits=limits,
        headers=headers,
        trust_env=False,
    )
