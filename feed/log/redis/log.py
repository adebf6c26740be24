"""The log on Redis, composed of its reader, followers and writer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from feed.errors import FeedUnavailable, Indeterminate, LogRefused
from feed.event import Draft, Event
from feed.histogram import Histogram
from feed.log.classes import Classes, Retention
from feed.log.contract import Answers, Appended, FileBytes, Loss, Page, Retained, Topic
from feed.log.epochs import is_id
from feed.log.idempotency import IdempotencyKey
from feed.log.redis.address import parse_address
from feed.log.redis.follower import Follower
from feed.log.redis.link import Ask, Link, Renewal, Work
from feed.log.redis.nodes import Nodes
from feed.log.redis.reader import Reader
from feed.log.redis.state import State
from feed.log.redis.writer import Writer
from feed.pattern import Selection

logger = logging.getLogger(__name__)

_READERS = 2
_LOOK_SECONDS = 1.0
_OLDEST_REDIS = 7


class RedisLog:
    """`redis://HOST:PORT/DB?stream=NAME`. Use `open` to make one."""

    def __init__(self, url: str, retention: Retention, node: str) -> None:
        self._address = parse_address(url)
        self._node = node
        self._nodes: Nodes | None = None
        self._state = State(retention)
        self._renewal = Renewal()
        self._asker = self._link("ask")
        self._reader = Reader([self._link("read") for _ in range(_READERS)], self._state)
        self._writer = Writer(self._link("append"), self._state)
        self._following: set[Link] = set()  # all links that were ever used to follow
        self._followers: set[Follower] = set()
        self._idle_links: list[Link] = []
        self._asking = asyncio.Lock()
        self._asked = 0
        self._answered = True
        self._watch: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, url: str, retention: Retention, node: str) -> RedisLog:
        """Connect, and begin an epoch if that is necessary.

        Raises `LogRefused` for a Redis that may not be used, and `FeedUnavailable` for one that cannot be reached yet.
        """
        log = cls(url, retention, node)
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
    def classes(self) -> Classes:
        """See `Log`."""
        return self._state.classes

    @property
    def retained(self) -> Retained:
        """See `Log`."""
        return self._state.retained

    @property
    def oldest_time(self) -> int | None:
        """See `Log`. The answer of Redis when it was last asked for the log's state."""
        return self._state.oldest_time

    @property
    def commits(self) -> Histogram:
        """See `Log`: each is a round trip to Redis, including the script."""
        return self._writer.commits

    @property
    def file_bytes(self) -> FileBytes:
        """See `Log`: there are no files here."""
        return FileBytes()

    @property
    def reconnects(self) -> int:
        """See `Log`."""
        return sum(link.reconnects for link in self._following)

    async def append(self, drafts: Sequence[Draft], key: IdempotencyKey | None = None) -> Appended:
        """See `Log`."""
        return await self._writer.append(drafts, key)

    async def renew(self, topic: str, ttl: int) -> None:
        """See `Log`."""
        try:
            await self._writer.renew(topic, ttl)
        except Indeterminate:
            raise FeedUnavailable("Redis does not answer") from None  # to renew once more does no harm

    async def read(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        if not self.classes:
            after = max(after, self.oldest - 1)
        return await self._reader.read(after, until, selection, limit)

    async def read_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        return await self._reader.read_backward(self.oldest, min(before, self.position + 1), selection, limit)

    async def fetch(self, seqs: Sequence[int]) -> Sequence[Event]:
        """See `Log`."""
        return await self._reader.fetch(seqs)

    async def topics(self) -> Sequence[Topic]:
        """See `Log`."""
        return await self._reader.topics()

    async def before_time(self, time: int) -> int:
        """See `Log`. If the clock of Redis was set back, the answer may be off by what was committed meanwhile."""
        return await self._reader.first_since(time, self.oldest, self.position) - 1

    async def follow(self, after: int) -> AsyncIterator[Sequence[Event]]:
        """See `Log`. While Redis cannot be reached this waits, and then continues from where it was."""
        link = self._idle_links.pop() if self._idle_links else self._link("follow")
        self._following.add(link)
        follower = Follower(self._state, link, self._writer, self._address.keys[0], after)
        self._followers.add(follower)
        try:
            while True:
                if events := await follower.next():
                    yield events
        finally:
            self._followers.discard(follower)
            self._idle_links.append(link)  # not closed: no `await` may come between raising and catching `LogLost`

    def id_at(self, position: int) -> str:
        """See `Log`."""
        return self._state.epochs.id_at(position)

    async def locate(self, id: str) -> int | None:
        """See `Log`. Another node may know an id that this one does not: then Redis is asked."""
        position = self._state.epochs.locate(id, self.position)
        if position is None and is_id(id):
            await self._look()
            await self._state.up_to_date()
            position = self._state.epochs.locate(id, self.position)
        return position

    def losses_beyond(self, id: str) -> Sequence[Loss]:
        """See `Log`."""
        return self._state.record.losses_beyond(id)

    async def _look(self) -> None:
        """Ask Redis for the log's state. All who wait for their turn share the next answer."""
        asked = self._asked
        async with self._asking:
            if asked == self._asked:
                self._asked += 1
                self._answered = False
                await self._ask(self._state.check)
                self._answered = True
        if not self._answered:
            raise FeedUnavailable("Redis does not answer")

    async def _ask(self, work: Work) -> None:
        try:
            await self._asker.use(work)
        except Indeterminate as error:
            raise FeedUnavailable("Redis does not answer") from error

    async def check(self) -> None:
        """See `Log`: Redis takes writes, and the followers can follow."""
        await self._ask(self._state.check_writable)
        if any(follower.away for follower in self._followers):
            raise FeedUnavailable("this node cannot follow the log now")

    async def ask_others(self, question: bytes) -> Answers:
        """See `Log`."""
        return await self._nodes.ask(question) if self._nodes is not None else Answers()

    def answer_others(self, answer: Callable[[bytes], bytes]) -> None:
        """See `Log`."""
        if self._nodes is None:
            self._nodes = Nodes(self._address, self._node, self._link("speak"), self._link("listen"))
        self._nodes.answer = answer

    async def close(self) -> None:
        """See `Log`."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._nodes is not None:
            await self._nodes.close()
        await self._writer.close()
        await self._reader.close()
        await self._asker.close()
        for link in self._following:
            await link.close()

    async def _keep_watch(self) -> None:
        """Check the log's state once a second, unless another task has done so. So a follower with a deaf connection is
        found out, and events that are too old are removed where nobody follows, too. End the leases that run out."""
        loop, state = asyncio.get_running_loop(), self._state
        while True:
            due = state.lease_due
            await asyncio.sleep(_LOOK_SECONDS if due is None else min(_LOOK_SECONDS, max(0.01, due - loop.time())))
            try:
                if state.lease_due is not None and state.lease_due <= loop.time():
                    await self._writer.end_leases()
                    await self._ask(state.check)
                elif loop.time() - state.seen > _LOOK_SECONDS * 0.9:
                    await self._ask(state.check)
            except (FeedUnavailable, Indeterminate):
                await asyncio.sleep(_LOOK_SECONDS)  # the follower logs it
            except Exception:
                logger.exception("checking the state of the log failed; trying again in a second")
                await asyncio.sleep(_LOOK_SECONDS)

    def _link(self, purpose: str) -> Link:
        name = "".join(character if "!" <= character <= "~" else "-" for character in f"feed-{purpose}-{self._node}")
        return Link(self._address, name[:100], self._greet, self._renewal)

    async def _greet(self, ask: Ask) -> bool:
        information = _parse_information(await ask("INFO", "server", "memory"))
        version = information.get("redis_version", "0")
        if int(version.partition(".")[0]) < _OLDEST_REDIS:
            raise LogRefused(f"this Redis is version {version}: the feed needs {_OLDEST_REDIS}.0 or newer, or Valkey")
        policy = information.get("maxmemory_policy", "noeviction")
        if policy.startswith("allkeys"):
            raise LogRefused(
                f"this Redis may evict the feed's events (maxmemory-policy is {policy}): "
                "set maxmemory-policy noeviction"
            )
        return await self._state.check(ask)


def _parse_information(answer: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in answer.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}
