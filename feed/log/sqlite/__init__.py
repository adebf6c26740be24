"""The durable log: one SQLite file, written by one thread. An event is acknowledged when it is synced to disk.

**One writing connection, in one thread.** SQLite 3.7.0 to 3.51.2, the versions on most machines, can corrupt a WAL
database when two connections write or checkpoint at once. Events that come while a commit runs are the next commit
(group commit), so that many publishers share the cost of one sync. The event loop never waits for the disk.

**Readers** are a few separate read-only connections, each in its own thread. Their transactions are as short as one
page, so that the write-ahead log can always be reused from its start.

**Retention** takes effect at once, by `oldest`, and costs nothing. The rows are deleted later, some thousand at a time.
The newest row is never deleted, because it holds the position.

The tables have names with `feed_` in front: see `feed.log.sqlite.schema`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from feed.errors import FeedUnavailable
from feed.event import Draft, Event
from feed.histogram import Histogram
from feed.log.backlog import CommitBacklog
from feed.log.classes import Classes, Retention
from feed.log.contract import SCAN_EVENTS, Answers, Appended, FileBytes, Loss, Page, Retained, Topic
from feed.log.idempotency import IdempotencyKey
from feed.log.sqlite.file import open_file
from feed.log.sqlite.reader import Readers
from feed.log.sqlite.writer import Check, Outcome, Renewal, Request, Writer
from feed.log.tail import Tails
from feed.pattern import Selection

_LOOK_SECONDS = 1.0  # that a page waits for the writer
_ENOUGH = 32  # requests for one commit: the writer is woken although more may come


class SQLiteLog:
    """The log of `sqlite:PATH`. `open` makes it."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self.position = writer.position
        self._writer = writer
        self._readers = readers
        self._epochs = writer.epochs
        self._tails = Tails()
        self._backlog = CommitBacklog()
        self._closed = False
        self._waking = False
        self._loop = asyncio.get_running_loop()
        self._thread: threading.Thread

    @classmethod
    async def open(cls, path: str, retention: Retention) -> SQLiteLog:
        """Open the file or make it: take its lock, check it, migrate it if an older version wrote it, and begin a new
        epoch.

        Raises `LogRefused` for a file that is in use, not a feed's, newer than this program, or damaged. The file is
        then as it was before.
        """
        opening = asyncio.ensure_future(asyncio.to_thread(_open, Path(path), retention))
        try:
            writer, readers = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_let_go)  # the thread goes on, and would keep the lock of the file
            raise
        log = cls(writer, readers)
        loop = asyncio.get_running_loop()

        def committed(outcomes: Sequence[Outcome], events: Sequence[Event]) -> None:
            # When a process ends without `close`, the loop may be closed already, and nobody waits for an answer.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(log._committed, outcomes, events)

        log._thread = threading.Thread(target=writer.run, args=(committed,), name="feed-log-writer", daemon=True)
        log._thread.start()
        return log

    @property
    def oldest(self) -> int:
        """See `Log`."""
        return self._writer.oldest

    @property
    def classes(self) -> Classes:
        """See `Log`."""
        return self._writer.classes

    @property
    def retained(self) -> Retained:
        """See `Log`. As of the last commit, or of the last time that the writer looked for events that are too old."""
        return self._writer.retained

    @property
    def oldest_time(self) -> int | None:
        """See `Log`. As of the same time as `retained`."""
        return self._writer.oldest_time

    @property
    def commits(self) -> Histogram:
        """See `Log`."""
        return self._writer.commits

    @property
    def file_bytes(self) -> FileBytes:
        """See `Log`."""
        return self._writer.file_bytes()

    @property
    def reconnects(self) -> int:
        """See `Log`."""
        return 0

    async def append(self, drafts: Sequence[Draft], key: IdempotencyKey | None = None) -> Appended:
        """See `Log`. If the call is cancelled, the batch may still be committed, but never in part."""
        if self._closed:
            raise FeedUnavailable("the log is closed")
        append = self._backlog.add(drafts, key)
        self._request(append)
        return await append.future

    async def renew(self, topic: str, ttl: int) -> None:
        """See `Log`. A renewal for the same time changes no file."""
        if self._closed:
            raise FeedUnavailable("the log is closed")
        future: asyncio.Future[None] = self._loop.create_future()
        self._request(Renewal(topic, ttl, future))
        await future

    def _request(self, request: Request) -> None:
        """Hand a request to the writer. Requests that come together wake the writer once."""
        self._writer.requests.append(request)
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake, 0)

    def _wake(self, before: int) -> None:
        """Wake the writer after a turn of the loop that has brought no further request: a commit costs much the same
        for one as for many."""
        waiting = len(self._writer.requests)
        if before < waiting < _ENOUGH:
            self._loop.call_soon(self._wake, waiting)
            return
        self._waking = False
        if self._writer.waits:  # else it looks for requests when it has committed what it has
            self._writer.wake.put(None)

    def _committed(self, outcomes: Sequence[Outcome], events: Sequence[Event]) -> None:
        if events:
            self.position = events[-1].seq
            self._tails.push(events)
        for request, outcome in outcomes:
            future = request.future
            self._backlog.remove(request)
            if future.done():
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def read(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        page = await self._readers.read(after, until, selection, limit)
        if page.end - page.start > SCAN_EVENTS:  # read by index, which does not notice missing events
            await self._look()
            page = self._readers.up_to_known_hole(page)
        return page

    async def _look(self) -> None:
        """Let the writer see what other programs have deleted. If the writer is busy for long, its last look has to
        do."""
        look: asyncio.Future[None] = self._loop.create_future()
        self._request(Check(look, writes=False))
        done, _ = await asyncio.wait([look], timeout=_LOOK_SECONDS)
        if done:
            look.result()

    async def read_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        return await self._readers.read_backward(before, selection, limit)

    async def fetch(self, seqs: Sequence[int]) -> Sequence[Event]:
        """See `Log`."""
        return await self._readers.fetch(seqs)

    async def topics(self) -> Sequence[Topic]:
        """See `Log`."""
        return await self._readers.topics()

    async def before_time(self, time: int) -> int:
        """See `Log`."""
        return await self._readers.before_time(time)

    def follow(self, after: int) -> AsyncIterator[Sequence[Event]]:
        """See `Log`."""
        return self._tails.follow(self, after)

    def id_at(self, position: int) -> str:
        """See `Log`."""
        return self._epochs.id_at(position)

    async def locate(self, id: str) -> int | None:
        """See `Log`."""
        return self._epochs.locate(id, self.position)

    def losses_beyond(self, id: str) -> Sequence[Loss]:
        """See `Log`: this log loses nothing while it is open."""
        return ()

    async def check(self) -> None:
        """See `Log`: the writer takes the write lock and releases it, in its turn."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self._closed:
            raise FeedUnavailable("the log is closed")
        self._request(Check(future))
        await future

    async def ask_others(self, question: bytes) -> Answers:
        """See `Log`: there are no other nodes."""
        return Answers()

    def answer_others(self, answer: Callable[[bytes], bytes]) -> None:
        """See `Log`: there are no other nodes."""

    async def close(self) -> None:
        """See `Log`. Another event loop may call this when the log's own has ended."""
        if self._closed:
            return
        self._closed = True
        self._writer.requests.append(None)
        self._writer.wake.put(None)
        # The caller may be cancelled, as by a loop that ends. Work that has not begun in a thread would be, too.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._let_go))

    def _let_go(self) -> None:
        self._thread.join()
        self._readers.close()
        self._writer.release()


def _let_go(opening: asyncio.Future[tuple[Writer, Readers]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        writer, _ = opening.result()
        writer.release()


def _open(path: Path, retention: Retention) -> tuple[Writer, Readers]:
    path = Path(os.path.realpath(path))
    lock, connection, content = open_file(path)
    try:
        writer = Writer(path, lock, connection, content, retention)
    except BaseException:
        connection.close()
        lock.close()
        raise
    return writer, Readers(path, writer)
