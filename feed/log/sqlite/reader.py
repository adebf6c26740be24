"""The connections that read: pages by index where the patterns allow it, else by a scan of all events."""

from __future__ import annotations

import asyncio
import heapq
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from feed.errors import FeedUnavailable
from feed.event import Event
from feed.log.classes import Classes
from feed.log.contract import LOOK_AT_CLOCK, PAGE_BYTES, SCAN_EVENTS, Page, Topic
from feed.log.sqlite import file
from feed.log.sqlite.trouble import is_unreadable, unavailable
from feed.log.sqlite.writer import READERS, Writer
from feed.pattern import Selection, literal_prefix
from feed.terms import DELETED

_MAX_TOPICS = 64  # patterns that match so many topics are read topic by topic; if they match more, by a scan

_TOPICS = (
    "SELECT topic, min(seq), max(seq) FROM feed_events INDEXED BY feed_events_by_topic"
    " WHERE topic >= '' AND seq >= ? GROUP BY topic"
)
_ENDS = "SELECT seq FROM feed_events WHERE type = ?"

_PAGE_SECONDS = 0.02  # how long events are scanned for one page: others wait for their turn

Result = TypeVar("Result")


class Readers:
    """A few threads, each with its own read-only connection. A job is one short transaction."""

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
        except FeedUnavailable:
            raise
        except Exception as error:  # noqa: BLE001
            self._writer.reports.tell(error)
            raise unavailable(error) from None  # the message of SQLite may contain an event

    def _run(self, job: Callable[[sqlite3.Connection], Result]) -> Result:
        if self._closed:
            raise FeedUnavailable("the log is closed")
        with self._writer.gate:
            connection = self._connection()
            try:
                return _in_transaction(connection, job)
            except sqlite3.Error as error:
                if not is_unreadable(error):
                    self._forget(connection)  # it may still be in a state that would break the next jobs, too
                    raise
            connection.text_factory = _text_or_bytes
            try:
                return _in_transaction(connection, job)
            finally:
                connection.text_factory = str

    def _forget(self, connection: sqlite3.Connection) -> None:
        self._local.connection = None
        self._connections.remove(connection)
        connection.close()

    async def read(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        return await self.run(lambda connection: self._read(connection, after, until, selection, limit))

    def _read(self, connection: sqlite3.Connection, after: int, until: int, selection: Selection, limit: int) -> Page:
        end = min(
            until, self._writer.position
        )  # taken before the transaction has its snapshot: the snapshot has all events up to it
        newest = self._newest(connection)
        # Read after the transaction has its snapshot: rows are deleted only after `oldest`, or the mark of their class,
        # has passed them.
        if classes := self._writer.classes:
            return self._read_classed(connection, after, min(end, newest), selection, limit, classes)
        start = max(after, self._writer.oldest - 1)
        if end <= start:
            return Page([], start, start)
        start, end = self._first_run(start, end, newest)
        if end <= start:
            return Page([], start, start)
        seqs, end = _candidates(connection, selection, start, end, limit, backward=False)
        events, full = self._fetch(connection, seqs, backward=False)
        return _up_to_hole(connection, Page(events, start, events[-1].seq if full else end))

    def _read_classed(
        self,
        connection: sqlite3.Connection,
        after: int,
        end: int,
        selection: Selection,
        limit: int,
        classes: Classes,
    ) -> Page:
        """Read forward where events may be missing between others, because their class does not keep them."""
        taken = classes.taken(selection, after)
        if end <= after:
            return Page([], after, after, taken)
        seqs, end = _candidates(
            connection, selection, after, end, limit, backward=False, is_dense=False, without=self._writer.gone
        )
        events, full = self._fetch(connection, seqs, backward=False)
        return Page(events, after, events[-1].seq if full else end, taken)

    async def read_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        return await self.run(lambda connection: self._read_backward(connection, before, selection, limit))

    def _read_backward(self, connection: sqlite3.Connection, before: int, selection: Selection, limit: int) -> Page:
        end = min(before - 1, self._writer.position)
        newest = self._newest(connection)
        start = self._writer.oldest - 1
        if end <= start:
            return Page([], start, max(start, end))
        if self._writer.classes:
            seqs, start = _candidates(
                connection, selection, start, end, limit, backward=True, is_dense=False, without=self._writer.gone
            )
            events, full = self._fetch(connection, seqs, backward=True)
            return Page(events, events[0].seq - 1 if full else start, end)
        start, end = self._last_run(start, end, newest)
        if end <= start:
            return Page([], start, start)
        seqs, start = _candidates(connection, selection, start, end, limit, backward=True)
        events, full = self._fetch(connection, seqs, backward=True)
        return _down_to_hole(connection, Page(events, events[0].seq - 1 if full else start, end))

    def up_to_known_hole(self, page: Page) -> Page:
        """Return the page up to the first hole that the writer knows."""
        start, end = self._first_run(page.start, page.end, page.end)
        return _cut(page, start, end)

    def _newest(self, connection: sqlite3.Connection) -> int:
        """Return the seq of this log's newest event in the file. Without the epoch in the file it is another log, whose
        seqs mean nothing here: then 0."""
        newest: int = connection.execute(
            "SELECT coalesce(max(seq), 0) FROM feed_events WHERE EXISTS (SELECT 1 FROM feed_epochs WHERE epoch = ?)",
            (self._writer.epochs.current,),
        ).fetchone()[0]
        return newest

    def _first_run(self, start: int, end: int, newest: int) -> tuple[int, int]:
        """Return the first part of `start + 1 … end` that has no known hole and does not go beyond `newest`."""
        run = self._writer.holes.first_run(start, min(end, newest))
        return run if start < newest and run[0] < run[1] else (end, end)

    def _last_run(self, start: int, end: int, newest: int) -> tuple[int, int]:
        """Return the last such part."""
        return self._writer.holes.last_run(start, max(start, min(end, newest)))

    def _fetch(
        self, connection: sqlite3.Connection, seqs: Sequence[int], *, backward: bool
    ) -> tuple[list[Event], bool]:
        """Return the events of `seqs`, oldest first, up to a page's bytes, and whether the page is full."""
        rows = connection.execute(
            f"SELECT seq, topic, type, data, is_json, time FROM feed_events WHERE seq IN ({_marks(seqs)})"  # noqa: S608
            f" ORDER BY seq {'DESC' if backward else ''}",
            seqs,
        )
        events, size = [], 0
        for seq, topic, type_, data, is_json, time_ in rows:
            if not type(topic) is type(type_) is type(data) is str:
                _note_unreadable(connection)
                continue
            event = Event(self._writer.epochs.of(seq), seq, topic, type_, data, bool(is_json), time_)
            events.append(event)
            size += event.size
            if size > PAGE_BYTES:
                full = True
                break
        else:
            full = False
        if backward:
            events.reverse()
        return events, full

    async def fetch(self, seqs: Sequence[int]) -> Sequence[Event]:
        """See `Log`."""
        return await self.run(lambda connection: self._fetched(connection, seqs))

    def _fetched(self, connection: sqlite3.Connection, seqs: Sequence[int]) -> Sequence[Event]:
        newest = self._newest(connection)
        oldest = self._writer.oldest
        gone = self._writer.gone
        there = [seq for seq in seqs if oldest <= seq <= newest and seq not in gone]
        return self._fetch(connection, there, backward=False)[0]

    async def topics(self) -> Sequence[Topic]:
        """See `Log`. Read from the index, without the events."""
        return await self.run(self._topics)

    def _topics(self, connection: sqlite3.Connection) -> Sequence[Topic]:
        if not self._newest(connection):
            return ()
        found = connection.execute(_TOPICS, (self._writer.oldest,))
        if not self._writer.classes:
            return [Topic(*row) for row in found if type(row[0]) is str]
        gone = self._writer.gone
        ends = connection.execute(_ENDS, (DELETED,))  # few of all events
        ended = {seq for (seq,) in ends}
        return [
            Topic(topic, first, newest, newest in ended)
            for topic, first, newest in found
            if type(topic) is str and newest not in gone
        ]

    async def before_time(self, time: int) -> int:
        """See `Log`. By bisection, as times never go back."""
        return await self.run(lambda connection: self._before_time(connection, time))

    def _before_time(self, connection: sqlite3.Connection, time: int) -> int:
        newest = self._newest(connection)
        low, high = self._writer.oldest - 1, max(newest, self._writer.oldest - 1)  # the answer is in low..high
        while low < high:
            middle = (low + high) // 2
            row = connection.execute(
                "SELECT time FROM feed_events WHERE seq > ? AND typeof(time) = 'integer' ORDER BY seq LIMIT 1",
                (middle,),
            ).fetchone()
            if row is not None and row[0] < time:
                low = middle + 1
            else:
                high = middle
        return low

    def close(self) -> None:
        """Wait for the jobs that run, then close the connections."""
        self._closed = True  # jobs in the queue see this. They are not cancelled, as their callers are not
        self._threads.shutdown()
        for connection in self._connections:
            connection.close()


def _candidates(
    connection: sqlite3.Connection,
    selection: Selection,
    start: int,
    end: int,
    limit: int,
    *,
    backward: bool,
    is_dense: bool = True,
    without: Set[int] = frozenset(),
) -> tuple[Sequence[int], int]:
    """Return the seqs of at most `limit` wanted events in `start + 1 … end`, from the near end, and how far the scan
    went.

    Forward that is the last seq that was looked at, backward the seq before the first one. Events of `without` are not
    wanted, whatever they are.
    """
    topics = _topics(connection, selection)
    if topics is None and is_dense:  # a scan looks at every event, so it gets a bound
        start, end = (max(start, end - SCAN_EVENTS), end) if backward else (start, min(end, start + SCAN_EVENTS))
    wanted, far = [], start if backward else end
    until = time.perf_counter() + _PAGE_SECONDS
    walk = _walk(connection, topics, start, end, backward=backward)
    for looked, (seq, topic, type_) in enumerate(walk, 1):
        if not type(topic) is type(type_) is str:
            _note_unreadable(connection)
        elif selection.wants(topic, type_) and seq not in without:
            wanted.append(seq)
        late = looked % LOOK_AT_CLOCK == 0 and time.perf_counter() > until
        if len(wanted) == limit or looked == SCAN_EVENTS or late:
            far = seq - 1 if backward else seq
            break
    return wanted, far


def _walk(
    connection: sqlite3.Connection, topics: Sequence[str] | None, start: int, end: int, *, backward: bool
) -> Iterator[tuple[int, str, str]]:
    """Iterate over `(seq, topic, type)` of the events of `topics`, or of all events, in order, read on demand."""
    order = "DESC" if backward else "ASC"
    if topics is None:
        return iter(
            connection.execute(
                f"SELECT seq, topic, type FROM feed_events WHERE seq > ? AND seq <= ? ORDER BY seq {order}",  # noqa: S608
                (start, end),
            )
        )
    walks = [
        connection.execute(
            "SELECT seq, topic, type FROM feed_events INDEXED BY feed_events_by_topic"  # noqa: S608
            f" WHERE topic = ? AND seq > ? AND seq <= ? ORDER BY seq {order}",
            (topic, start, end),
        )
        for topic in topics
    ]
    return heapq.merge(*walks, reverse=backward)


def _topics(connection: sqlite3.Connection, selection: Selection) -> Sequence[str] | None:
    """Return the topics to read by index. None if there are too many, so that all events have to be scanned."""
    if selection.everything or connection.text_factory is not str:  # some topics may be unreadable
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
            row = connection.execute("SELECT min(topic) FROM feed_events WHERE topic > ?", (topic,)).fetchone()
            topic = row[0]
            if topic is not None and type(topic) is not str:
                _note_unreadable(connection)
            if topic is None or not topic.startswith(prefix):
                break
            budget -= 1
            if selection.wants_topic(topic):
                found[topic] = None
        else:
            return None
    return list(found) if len(found) <= max(_MAX_TOPICS, len(selection.patterns)) else None


def _up_to_hole(connection: sqlite3.Connection, page: Page) -> Page:
    """Return the page up to the first missing event. `start` moves beyond events that are missing at the beginning."""
    start, end = page.start, page.end
    for seq in _absent(connection, start, end):
        if seq > start + 1:
            end = seq - 1
            break
        start = seq
    return _cut(page, start, end)


def _down_to_hole(connection: sqlite3.Connection, page: Page) -> Page:
    """Return the page back to the last missing event, in the same way."""
    start, end = page.start, page.end
    for seq in reversed(_absent(connection, start, end)):
        if seq < end:
            start = seq
            break
        end = seq - 1
    return _cut(page, start, end)


def _cut(page: Page, start: int, end: int) -> Page:
    if (start, end) == (page.start, page.end):
        return page
    return Page([event for event in page.events if start < event.seq <= end], start, end)


def _absent(connection: sqlite3.Connection, start: int, end: int) -> Sequence[int]:
    """Return the seqs in `start + 1 … end` that are missing or cannot be read, if a page looks at so many. Where there
    are more, in a page by index, the writer has searched for holes."""
    if end - start > SCAN_EVENTS:
        return ()
    if connection.text_factory is str:
        count = connection.execute(
            "SELECT count(*) FROM feed_events WHERE seq > ? AND seq <= ?", (start, end)
        ).fetchone()
        if count[0] == end - start:
            return ()
    rows = connection.execute(
        "SELECT seq, topic, type, data FROM feed_events WHERE seq > ? AND seq <= ? ORDER BY seq", (start, end)
    )
    there = {seq for seq, *values in rows if all(type(value) is str for value in values)}
    return [seq for seq in range(start + 1, end + 1) if seq not in there]


def _in_transaction(connection: sqlite3.Connection, job: Callable[[sqlite3.Connection], Result]) -> Result:
    connection.execute("BEGIN")
    try:
        return job(connection)
    finally:
        # Whatever happened, the next job needs a connection without a transaction.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _note_unreadable(connection: sqlite3.Connection) -> None:
    """Raise at the first look. At the second look the event is skipped, and `_absent` reports it."""
    if connection.text_factory is str:
        raise sqlite3.OperationalError("a value that is not text")


def _text_or_bytes(value: bytes) -> str | bytes:
    """Decode what is text: the second look, after the first one met a value that is not."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
