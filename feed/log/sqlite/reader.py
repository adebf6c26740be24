"""The connections that read: pages by index where the patterns allow it, else by looking at every event."""

from __future__ import annotations

import asyncio
import heapq
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from feed.errors import FeedUnavailable
from feed.event import Event
from feed.log.contract import LOOK_AT_CLOCK, PAGE_BYTES, SCAN_EVENTS, Page
from feed.log.sqlite import file
from feed.log.sqlite.file import report, unavailable
from feed.log.sqlite.writer import READERS, Writer
from feed.pattern import Selection, literal_prefix

_MAX_TOPICS = 64  # a pattern that matches so many topics is read topic by topic; one that matches more, by scanning

_PAGE_SECONDS = 0.02  # that events are looked at for one page: others wait for their turn

Result = TypeVar("Result")


class Readers:
    """A few threads, each with a read-only connection of its own; a job is one short transaction."""

    def __init__(self, path: Path, writer: Writer) -> None:
        self._path = path
        self._writer = writer
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False
        self._threads = ThreadPoolExecutor(READERS, "feed-log-reader")

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            uri = f"{self._path.as_uri()}?mode=ro"
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=file.BUSY_TIMEOUT
            )
            self._local.connection = connection
            self._connections.append(connection)
        return connection

    async def run(self, job: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run `job` in one of the threads, in a transaction. Raises `FeedUnavailable`."""
        if self._closed:
            raise FeedUnavailable("the log is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, job)
        except sqlite3.Error as error:
            report(error)
            raise unavailable(error) from error

    def _run(self, job: Callable[[sqlite3.Connection], Result]) -> Result:
        if self._closed:
            raise FeedUnavailable("the log is closed")
        connection = self._connection()
        with self._writer.gate:
            connection.execute("BEGIN")
            try:
                return job(connection)
            finally:
                connection.execute("COMMIT")

    async def read(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        return await self.run(lambda connection: self._read(connection, after, until, selection, limit))

    def _read(self, connection: sqlite3.Connection, after: int, until: int, selection: Selection, limit: int) -> Page:
        newest = _newest(connection)
        # Read after the transaction has its snapshot: rows go only after `oldest` has passed them.
        start = max(after, self._writer.oldest - 1)
        end = min(until, newest)
        if end <= start:
            return Page([], start, start)
        seqs, end = _candidates(connection, selection, start, end, limit, backward=False)
        events, full = self._fetch(connection, seqs, backward=False)
        return Page(events, start, events[-1].seq if full else end)

    async def read_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        return await self.run(lambda connection: self._read_backward(connection, before, selection, limit))

    def _read_backward(self, connection: sqlite3.Connection, before: int, selection: Selection, limit: int) -> Page:
        newest = _newest(connection)
        start = self._writer.oldest - 1
        end = min(before - 1, newest)
        if end <= start:
            return Page([], start, max(start, end))
        seqs, start = _candidates(connection, selection, start, end, limit, backward=True)
        events, full = self._fetch(connection, seqs, backward=True)
        return Page(events, events[0].seq - 1 if full else start, end)

    def _fetch(
        self, connection: sqlite3.Connection, seqs: Sequence[int], *, backward: bool
    ) -> tuple[list[Event], bool]:
        """The events of `seqs`, oldest first, up to a page's bytes; whether there were more than that."""
        rows = connection.execute(
            f"SELECT seq, topic, type, data, is_json, time FROM events WHERE seq IN ({_marks(seqs)})"  # noqa: S608
            f" ORDER BY seq {'DESC' if backward else ''}",
            seqs,
        )
        events, size = [], 0
        for seq, topic, type_, data, is_json, time_ in rows:
            event = Event(self._writer.epochs.of(seq), seq, topic, type_, data, bool(is_json), time_)
            events.append(event)
            size += event.size
            if size > PAGE_BYTES:
                break
        full = len(events) < len(seqs)
        if backward:
            events.reverse()
        return events, full

    async def before_time(self, time: int) -> int:
        """See `Log`. Found by halving, so exact where the clock did not step back."""
        return await self.run(lambda connection: self._before_time(connection, time))

    def _before_time(self, connection: sqlite3.Connection, time: int) -> int:
        newest = _newest(connection)
        low, high = self._writer.oldest - 1, newest  # the answer is in low..high
        while low < high:
            middle = (low + high) // 2
            row = connection.execute("SELECT time FROM events WHERE seq = ?", (middle + 1,)).fetchone()
            if row[0] < time:
                low = middle + 1
            else:
                high = middle
        return low

    def close(self) -> None:
        """Wait for what runs, then close the connections."""
        self._closed = True  # what waits in a queue finds that, and is not cancelled: its callers were not
        self._threads.shutdown()
        for connection in self._connections:
            connection.close()


def _candidates(
    connection: sqlite3.Connection, selection: Selection, start: int, end: int, limit: int, *, backward: bool
) -> tuple[Sequence[int], int]:
    """The seqs of at most `limit` wanted events in `start + 1 … end`, from the near end, and how far was looked.

    Far is the last seq looked at, going forward; the one before the first looked at, going backward.
    """
    topics = _topics(connection, selection)
    wanted, far = [], start if backward else end
    until = time.perf_counter() + _PAGE_SECONDS
    walk = _walk(connection, topics, start, end, backward=backward)
    for looked, (seq, topic, type_) in enumerate(walk, 1):
        if selection.wants(topic, type_):
            wanted.append(seq)
        late = looked % LOOK_AT_CLOCK == 0 and time.perf_counter() > until
        if len(wanted) == limit or looked == SCAN_EVENTS or late:
            far = seq - 1 if backward else seq
            break
    return wanted, far


def _walk(
    connection: sqlite3.Connection, topics: Sequence[str] | None, start: int, end: int, *, backward: bool
) -> Iterator[tuple[int, str, str]]:
    """`(seq, topic, type)` of the events of `topics`, or of all, in order, read as they are asked for."""
    order = "DESC" if backward else "ASC"
    if topics is None:
        return iter(
            connection.execute(
                f"SELECT seq, topic, type FROM events WHERE seq > ? AND seq <= ? ORDER BY seq {order}",  # noqa: S608
                (start, end),
            )
        )
    walks = [
        connection.execute(
            "SELECT seq, topic, type FROM events INDEXED BY events_by_topic"  # noqa: S608
            f" WHERE topic = ? AND seq > ? AND seq <= ? ORDER BY seq {order}",
            (topic, start, end),
        )
        for topic in topics
    ]
    return heapq.merge(*walks, reverse=backward)


def _topics(connection: sqlite3.Connection, selection: Selection) -> Sequence[str] | None:
    """The topics to read by index; None if they are too many, and all events have to be looked at."""
    if selection.everything:
        return None
    found: dict[str, None] = {}
    budget = 4 * _MAX_TOPICS
    for pattern in selection.patterns:
        if "*" not in pattern:
            found[pattern] = None
            continue
        prefix = literal_prefix(pattern)
        topic = prefix
        while budget:
            # From one topic to the next by the index, whatever the number of events between.
            row = connection.execute("SELECT min(topic) FROM events WHERE topic > ?", (topic,)).fetchone()
            topic = row[0]
            if topic is None or not topic.startswith(prefix):
                break
            budget -= 1
            if selection.wants_topic(topic):
                found[topic] = None
        else:
            return None
    return list(found) if len(found) <= max(_MAX_TOPICS, len(selection.patterns)) else None


def _newest(connection: sqlite3.Connection) -> int:
    position: int = connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
    return position


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
