"""The log on Redis, put together from what reads, follows and appends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Sequence

from feed.errors import FeedUnavailable, Indeterminate, LogRefused
from feed.event import Draft, Event
from feed.log.contract import Appended, IdempotencyKey, Page, Retention
from feed.log.epochs import is_id
from feed.log.redis.address import parse_address
from feed.log.redis.follower import Follower
from feed.log.redis.link import Ask, Link
from feed.log.redis.reader import Reader
from feed.log.redis.state import State
from feed.log.redis.writer import Writer
from feed.pattern import Selection

_READERS = 2
_LOOK_SECONDS = 1.0
_OLDEST_REDIS = 7


class RedisLog:
    """`redis://HOST:PORT/DB?stream=NAME`. Made by `open`."""

    def __init__(self, url: str, retention: Retention) -> None:
        self._address = parse_address(url)
        self._state = State(retention)
        self._asker = self._link("ask")
        self._reader = Reader([self._link("read") for _ in range(_READERS)])
        self._writer = Writer(self._link("append"), self._state)
        self._following: set[Link] = set()
        self._reconnects = 0
        self._watch: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, retention: Retention) -> RedisLog:
        """Connect, and begin an epoch if there has to be one.

        Raises `LogRefused` for a Redis that may not be used, `FeedUnavailable` for one that is not there yet.
        """
        log = cls(url, retention)
        try:
            await log._asker.open()
        except BaseException:
            await log.close()
            raise
        log._watch = asyncio.create_task(log._keep_watch(), name="feed-log-watch")
        return log

    @property
    def position(self) -> int:
        """See `Log`."""
        return self._state.position

    @property
    def oldest(self) -> int:
        """See `Log`."""
        return self._state.oldest

    @property
    def reconnects(self) -> int:
        """See `Log`."""
        return self._reconnects + sum(link.reconnects for link in self._following)

    async def append(self, drafts: Sequence[Draft], key: IdempotencyKey | None = None) -> Appended:
        """See `Log`."""
        return await self._writer.append(drafts, key)

    async def read(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        return await self._reader.read(max(after, self.oldest - 1), until, selection, limit)

    async def read_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        return await self._reader.read_backward(self.oldest, min(before, self.position + 1), selection, limit)

    async def before_time(self, time: int) -> int:
        """See `Log`. Where the clock of Redis was set back, it may be off by what was committed meanwhile."""
        return await self._reader.first_since(time, self.oldest, self.position) - 1

    async def follow(self, after: int) -> AsyncIterator[Sequence[Event]]:
        """See `Log`. While Redis is away it waits, and goes on where it was."""
        link = self._link("follow")
        follower = Follower(self._state, link, self._address.keys[0], after)
        self._following.add(link)
        self._state.followers += 1
        try:
            while True:
                if events := await follower.next():
                    yield events
        finally:
            self._state.followers -= 1
            self._following.discard(link)
            self._reconnects += link.reconnects
            await link.close()

    def id_at(self, position: int) -> str:
        """See `Log`."""
        return self._state.epochs.id_at(position)

    async def locate(self, id: str) -> int | None:
        """See `Log`. An id that is not known here may be known to another node: Redis is asked."""
        position = self._state.epochs.locate(id, self.position)
        if position is None and is_id(id):
            await self._look()
            await self._state.up_to_date()
            position = self._state.epochs.locate(id, self.position)
        return position

    async def _look(self) -> None:
        try:
            await self._asker.use(self._state.check)
        except Indeterminate as error:
            raise FeedUnavailable("Redis does not answer") from error

    async def check(self) -> None:
        """See `Log`: whether Redis takes writes."""
        try:
            await self._asker.use(self._state.check_writable)
        except Indeterminate as error:
            raise FeedUnavailable("Redis does not answer") from error

    async def close(self) -> None:
        """See `Log`."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._writer.close()
        await self._reader.close()
        await self._asker.close()

    async def _keep_watch(self) -> None:
        """Look once a second, if nobody else did: so that a follower whose connection is deaf is found out, and what is
        too old goes also where nobody follows."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if asyncio.get_running_loop().time() - self._state.seen > _LOOK_SECONDS * 0.9:
                with contextlib.suppress(FeedUnavailable, Indeterminate):  # the follower tells of it
                    await self._asker.use(self._state.check)

    def _link(self, purpose: str) -> Link:
        return Link(self._address, f"feed-{purpose}-{socket.gethostname()}-{os.getpid()}"[:100], self._greet)

    async def _greet(self, ask: Ask) -> None:
        information = _parse_information(await ask("INFO", "server", "memory"))
        version = information.get("redis_version", "0")
        if int(version.partition(".")[0]) < _OLDEST_REDIS:
            raise LogRefused(f"this Redis is {version}: the feed needs {_OLDEST_REDIS}.0 or newer, or Valkey")
        policy = information.get("maxmemory_policy", "noeviction")
        if policy.startswith("allkeys"):
            raise LogRefused(
                f"this Redis may evict the feed's events (maxmemory-policy is {policy}): "
                "set maxmemory-policy noeviction"
            )
        await self._state.check(ask)


def _parse_information(answer: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in answer.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}
