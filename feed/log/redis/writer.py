"""Appends to the stream. What arrives while a group is under way forms the next group; each group is one script
call."""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from feed.errors import (
    FeedError,
    FeedUnavailable,
    Indeterminate,
    InsufficientStorage,
    Invalid,
    NoEvents,
    PreconditionFailed,
)
from feed.event import Draft
from feed.histogram import Histogram
from feed.log import lanes
from feed.log.backlog import Append, CommitBacklog
from feed.log.contract import Appended
from feed.log.epochs import new_epoch
from feed.log.idempotency import KEY_LIFETIME_MS, KEY_REUSED, IdempotencyKey
from feed.log.leases import MAX_LEASES, too_many_leases
from feed.log.redis.entries import pack_batches
from feed.log.redis.link import Link, Script
from feed.log.redis.state import State

logger = logging.getLogger(__name__)

_GROUP_EVENTS = 1_000  # Redis serves nobody else while a script runs
_GROUP_BYTES = 4 << 20


class Writer:
    """Appends for this node, over one connection, one group after the other."""

    def __init__(self, link: Link, state: State) -> None:
        self.commits = Histogram()
        self._link = link
        self._state = state
        self._script, self._renew = Script("append"), Script("renew")
        self._queue: deque[Append] = deque()
        self._backlog = CommitBacklog()
        self._closed = False
        self._group: asyncio.Future[None] | None = None  # done when the current group is answered
        self._task: asyncio.Task[None] | None = None

    async def append(self, drafts: Sequence[Draft], key: IdempotencyKey | None) -> Appended:
        """See `Log`. If this is cancelled, the batch may be committed or not, but never in part."""
        if self._closed:
            raise FeedUnavailable("the log is closed")
        append = self._backlog.add(drafts, key)
        self._queue.append(append)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="feed-log-writer")
        return await append.future

    async def renew(self, topic: str, ttl: int) -> None:
        """See `Log`."""
        answer = await self._link.run(self._renew, topic, ttl, MAX_LEASES)
        if answer == b"404":
            raise NoEvents(topic)
        if answer == b"429":
            raise too_many_leases()

    async def end_leases(self) -> None:
        """Append the tombstones of topics whose values have run out. Raises `FeedError`."""
        await self._commit([])

    async def settled(self, patience: float) -> None:
        """Wait until the current group is answered, if there is one, but at most `patience` seconds."""
        if self._group is not None:
            await asyncio.wait([self._group], timeout=patience)

    async def close(self) -> None:
        """Commit what waits, then close the connection."""
        self._closed = True
        if self._task is not None:
            await self._task
        await self._link.close()

    async def _run(self) -> None:
        await asyncio.sleep(0)  # publishes of the same turn of the loop join the group
        while self._queue:
            group = self._gather()
            done = self._group = asyncio.get_running_loop().create_future()
            answers: Sequence[Appended | FeedError] = [Indeterminate("the log was closed meanwhile") for _ in group]
            try:
                answers = await self._commit(group)
            except Exception as error:
                if not isinstance(error, FeedError):
                    logger.exception("a commit failed")
                    error = Indeterminate("the commit failed: the server's messages say why")
                # Each waiter gets its own exception: a shared one would collect the tracebacks of all.
                answers = [copy.copy(error) for _ in group]
            finally:
                self._answer(group, answers)
                done.set_result(None)
                self._group = None

    def _answer(self, group: Sequence[Append], answers: Sequence[Appended | FeedError]) -> None:
        for append, answer in zip(group, answers, strict=True):
            self._backlog.remove(append)
            if append.future.done():
                continue  # the publisher does not wait any more
            if isinstance(answer, FeedError):
                append.future.set_exception(answer)
            else:
                append.future.set_result(answer)

    def _gather(self) -> list[Append]:
        group: list[Append] = []
        events = size = 0
        while self._queue and events < _GROUP_EVENTS and size < _GROUP_BYTES:
            append = self._queue.popleft()
            group.append(append)
            events += len(append.drafts)
            size += append.bytes
        return group

    async def _commit(self, group: Sequence[Append]) -> list[Appended | FeedError]:
        state, begun = self._state, time.perf_counter()
        try:
            given, oldest, size, committed, *told = await self._link.run(
                self._script,
                *state.written,
                new_epoch(),
                *state.bounds,
                KEY_LIFETIME_MS,
                pack_batches([(append.drafts, append.key) for append in group]),
                lanes.TOMBSTONE_MS,
            )
        except Indeterminate as error:
            raise Indeterminate("Redis did not answer: the event may be published or not") from error
        answers = [_parsed(each, append.drafts) for each, append in zip(given, group, strict=True)]
        if committed:
            epoch, first, count = committed
            state.appended(Appended(epoch.decode(), first, count), oldest, size)
            self.commits.observe(time.perf_counter() - begun)
        if told:
            state.told(told[0])
        return answers


def _parsed(given: Any, drafts: Sequence[Draft]) -> Appended | FeedError:
    if given is None:
        return Invalid("Idempotency-Key", KEY_REUSED)
    if len(given) < 5:
        status, place, *current = given
        topic, at = drafts[place].topic, place if len(drafts) > 1 else None
        if status == b"404":
            return NoEvents(topic, at)
        if status == b"429":
            return too_many_leases()
        if status == b"507":
            return InsufficientStorage(topic, at)
        return PreconditionFailed(topic, current[0].decode() or None, at)
    epoch, first, count, again, ids = given
    return Appended(epoch.decode(), first, count, repeated=bool(again), others=ids.decode().split())
