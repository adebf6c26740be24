"""The durable log: one SQLite file, one thread that writes it, and nothing acknowledged before it is synced to disk.

**One writing connection, in one thread.** SQLite 3.7.0 to 3.51.2, which is what most machines have, can corrupt a WAL
database when two connections write or checkpoint at once. What queues up while a commit runs is the next commit
(group commit), so that many publishers share the cost of one sync. The event loop never waits for the disk.

**Readers** are separate read-only connections, few, each in a thread of its own, with transactions of one page, so
that the write-ahead log can always be reused from its start.

**Retention** is in force at once, by `oldest`, and costs nothing; the rows go later, some thousand at a time. The
newest row is never deleted: it is what remembers the position.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import heapq
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from feed.errors import FeedError, FeedUnavailable, Invalid, LogRefused, Overloaded
from feed.event import Draft, Event, event_size
from feed.log.contract import (
    KEY_LIFETIME_MS,
    KEY_REUSED,
    PAGE_BYTES,
    SCAN_EVENTS,
    Appended,
    IdempotencyKey,
    Page,
    Retention,
)
from feed.log.epochs import Epochs, new_epoch
from feed.log.tail import Tails
from feed.pattern import Selection, literal_prefix

logger = logging.getLogger(__name__)

APPLICATION_ID = 0x66656564  # "feed"
SCHEMA_VERSION = 1

_SCHEMA = f"""
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    type TEXT NOT NULL,
    is_json INTEGER NOT NULL,
    time INTEGER NOT NULL,    -- of the commit, milliseconds since 1970
    start INTEGER NOT NULL,   -- the sizes of all events before this one, together
    data TEXT NOT NULL        -- last, so that the other columns are read without it
);
CREATE INDEX events_by_topic ON events (topic);
CREATE TABLE epochs (epoch TEXT PRIMARY KEY, first INTEGER NOT NULL);
CREATE TABLE answers (
    principal TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    epoch TEXT NOT NULL,
    first INTEGER NOT NULL,
    count INTEGER NOT NULL,
    expires INTEGER NOT NULL, -- milliseconds since 1970
    UNIQUE (principal, key)
);
CREATE INDEX answers_by_expiry ON answers (expires);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

_RETAIN_BYTES = 1 << 30  # unless said
_READERS = 2  # threads that read: few at once, so that a storm of replays does not starve everything else
_MAX_WAITING_EVENTS = 20_000  # of all appends that wait for their commit; beyond these two: `Overloaded`
_MAX_WAITING_BYTES = 64 << 20
_GROUP_EVENTS = 5_000  # a commit takes in what waits up to these two
_GROUP_BYTES = 8 << 20
_BUSY_TIMEOUT = 2.0  # seconds that a commit waits for somebody else's lock on the file
_HOUSEKEEPING = 5.0  # seconds between looks at the age of events while nothing is published
_DELETE_EVENTS = 5_000  # rows that one commit deletes, or twice as many as it inserts
_MAX_TOPICS = 64  # a pattern that matches so many topics is read topic by topic; one that matches more, by scanning
_WAL_BYTES = 64 << 20  # beyond this the readers are held for a moment, so that the write-ahead log can start anew
_EMPTY_EPOCHS = 1_000  # epochs of which no event is left are forgotten, but for the newest of them

Result = TypeVar("Result")


class _Append(msgspec.Struct, frozen=True, eq=False):
    drafts: Sequence[Draft]
    key: IdempotencyKey | None
    bytes: int
    future: asyncio.Future[Appended]


class _Check(msgspec.Struct, frozen=True, eq=False):
    future: asyncio.Future[None]


_Request = _Append | _Check | None  # None ends the writer
_Outcome = tuple[_Append, Appended | BaseException]


class SQLiteLog:
    """`sqlite:PATH`. Made by `open`."""

    def __init__(self, writer: _Writer, readers: _Readers) -> None:
        self.position = writer.position
        self._writer = writer
        self._readers = readers
        self._epochs = writer.epochs
        self._tails = Tails()
        self._waiting_events = 0
        self._waiting_bytes = 0
        self._closed = False
        self._thread: threading.Thread

    @classmethod
    async def open(cls, path: str, retention: Retention) -> SQLiteLog:
        """Open the file, or make it. Takes its lock, checks it, and begins a new epoch in it.

        Raises `LogRefused` for a file that is in use, not ours, newer than this program, or damaged. It is then as it
        was before.
        """
        writer, readers = await asyncio.to_thread(_open, Path(path), retention)
        log = cls(writer, readers)
        loop = asyncio.get_running_loop()

        def committed(outcomes: Sequence[_Outcome], events: Sequence[Event]) -> None:
            # The loop may be closed already when a process ends without `close`: then nobody waits for an answer.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(log._committed, outcomes, events)

        log._thread = threading.Thread(target=writer.run, args=(committed,), name="feed-log-writer", daemon=True)
        log._thread.start()
        return log

    @property
    def oldest(self) -> int:
        """See `Log`."""
        return self._writer.oldest

    async def append(self, drafts: Sequence[Draft], key: IdempotencyKey | None = None) -> Appended:
        """See `Log`. Cancelling it leaves open whether the batch is committed; it is never committed in part."""
        if self._closed:
            raise FeedUnavailable("the log is closed")
        size = sum(event_size(draft.topic, draft.type, draft.data) for draft in drafts)
        if self._waiting_events and (
            self._waiting_events + len(drafts) > _MAX_WAITING_EVENTS or self._waiting_bytes + size > _MAX_WAITING_BYTES
        ):
            raise Overloaded("more is being published than the log can take in")
        self._waiting_events += len(drafts)
        self._waiting_bytes += size
        future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._writer.requests.put(_Append(drafts, key, size, future))
        return await future

    def _committed(self, outcomes: Sequence[_Outcome], events: Sequence[Event]) -> None:
        if events:
            self.position = events[-1].seq
            self._tails.push(events)
        for request, outcome in outcomes:
            future = request.future
            self._waiting_events -= len(request.drafts)
            self._waiting_bytes -= request.bytes
            if future.done():
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def read(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        return await self._readers.run(lambda connection: self._read(connection, after, until, selection, limit))

    def _read(self, connection: sqlite3.Connection, after: int, until: int, selection: Selection, limit: int) -> Page:
        newest = _newest(connection)
        # Read after the transaction has its snapshot: rows go only after `oldest` has passed them.
        start = max(after, self.oldest - 1)
        end = min(until, newest)
        if end <= start:
            return Page([], start, start)
        seqs, end = _candidates(connection, selection, start, end, limit, backward=False)
        events, full = self._fetch(connection, seqs, backward=False)
        return Page(events, start, events[-1].seq if full else end)

    async def read_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        return await self._readers.run(lambda connection: self._read_backward(connection, before, selection, limit))

    def _read_backward(self, connection: sqlite3.Connection, before: int, selection: Selection, limit: int) -> Page:
        newest = _newest(connection)
        start = self.oldest - 1
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
            event = Event(self._epochs.of(seq), seq, topic, type_, data, bool(is_json), time_)
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
        return await self._readers.run(lambda connection: self._before_time(connection, time))

    def _before_time(self, connection: sqlite3.Connection, time: int) -> int:
        newest = _newest(connection)
        low, high = self.oldest - 1, newest  # the answer is in low..high
        while low < high:
            middle = (low + high) // 2
            row = connection.execute("SELECT time FROM events WHERE seq = ?", (middle + 1,)).fetchone()
            if row[0] < time:
                low = middle + 1
            else:
                high = middle
        return low

    def follow(self, after: int) -> AsyncIterator[Sequence[Event]]:
        """See `Log`."""
        return self._tails.follow(self, after)

    def id_at(self, position: int) -> str:
        """See `Log`."""
        return self._epochs.id_at(position)

    async def locate(self, id: str) -> int | None:
        """See `Log`."""
        return self._epochs.locate(id, self.position)

    async def check(self) -> None:
        """See `Log`: takes the write lock and lets it go, in its turn."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._closed:
            raise FeedUnavailable("the log is closed")
        self._writer.requests.put(_Check(future))
        await future

    async def close(self) -> None:
        """See `Log`."""
        if self._closed:
            return
        self._closed = True
        self._writer.requests.put(None)
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._readers.close)
        await asyncio.to_thread(self._writer.release)


class _Writer:
    """The one connection that writes. `run` is its thread; everything else is read by other threads at most."""

    def __init__(
        self, path: Path, lock: IO[str], connection: sqlite3.Connection, epochs: Epochs, retention: Retention
    ) -> None:
        self.requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self.gate = threading.Semaphore(_READERS)
        self.epochs = epochs
        self.oldest = 1
        self.position = 0
        self._path = path
        self._lock = lock
        self._connection = connection
        self._retention = retention
        self._end = 0  # the sizes of all events up to the newest, together
        self._oldest_start = 0
        self._oldest_time = 0
        self._first_row = 1
        self._reload()
        self._identity = self._look_up_files()

    def _reload(self) -> None:
        row = self._connection.execute(
            "SELECT seq, topic, type, data, start FROM events ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return
        self.position = row[0]
        self._end = row[4] + event_size(*row[1:4])
        self._first_row = self._connection.execute("SELECT min(seq) FROM events").fetchone()[0]
        self.oldest = self._first_row
        self._look_at_oldest()
        self._retain(_now())

    def run(self, committed: Callable[[Sequence[_Outcome], Sequence[Event]], None]) -> None:
        """Take what is queued, commit it, say so; until None comes."""
        tidied = time.monotonic()
        going_on = True
        while going_on:
            if time.monotonic() - tidied >= _HOUSEKEEPING:
                self._tidy()
                tidied = time.monotonic()
            try:
                request = self.requests.get(timeout=_HOUSEKEEPING)
            except queue.Empty:
                continue
            group, going_on = self._gather(request)
            if group:
                committed(*self._commit(group))

    def _gather(self, request: _Request) -> tuple[list[_Append], bool]:
        """The appends that wait, up to what one commit takes, and whether the writer is to go on after them."""
        group: list[_Append] = []
        events, size = 0, 0
        while request is not None:
            if isinstance(request, _Check):
                self._answer_check(request)
            else:
                group.append(request)
                events += len(request.drafts)
                size += request.bytes
            if events >= _GROUP_EVENTS or size >= _GROUP_BYTES:
                return group, True
            try:
                request = self.requests.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, group: Sequence[_Append]) -> tuple[list[_Outcome], list[Event]]:
        now = _now()
        try:
            with self._transaction():
                outcomes, events, end = self._insert(group, now)
                self._delete_some(max(_DELETE_EVENTS, 2 * len(events)))  # more than came, or the file would outgrow
        except Exception as error:  # noqa: BLE001  whatever it is, this thread goes on, and everybody gets an answer
            _report(error)
            # Each waiter gets an exception of its own: a shared one would gather everybody's traceback.
            return [(request, _unavailable(error)) for request in group], []
        if events:
            if self.oldest > self.position:
                self._oldest_start, self._oldest_time = self._end, now
            self.position = events[-1].seq
            self._end = end
            try:
                self._retain(now)
            except sqlite3.Error as error:
                _report(error)  # what is committed is committed: retention comes with the next one
        return outcomes, events

    def _insert(self, group: Sequence[_Append], now: int) -> tuple[list[_Outcome], list[Event], int]:
        outcomes: list[_Outcome] = []
        events: list[Event] = []
        rows: list[tuple[int, str, str, bool, int, int, str]] = []
        position, end = self.position, self._end
        for request in group:
            if request.key is not None:
                answer = self._earlier_answer(request.key, now)
                if answer is not None:
                    outcomes.append((request, answer))
                    continue
            appended = Appended(self.epochs.current, position + 1, len(request.drafts))
            for draft in request.drafts:
                position += 1
                rows.append((position, draft.topic, draft.type, draft.is_json, now, end, draft.data))
                events.append(Event(appended.epoch, position, draft.topic, draft.type, draft.data, draft.is_json, now))
                end += event_size(draft.topic, draft.type, draft.data)
            if request.key is not None:
                self._remember_answer(request.key, appended, now)
            outcomes.append((request, appended))
        self._connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        return outcomes, events, end

    def _earlier_answer(self, key: IdempotencyKey, now: int) -> Appended | Invalid | None:
        row = self._connection.execute(
            "SELECT fingerprint, epoch, first, count FROM answers WHERE principal = ? AND key = ? AND expires > ?",
            (key.principal, key.key, now),
        ).fetchone()
        if row is None:
            return None
        if row[0] != key.fingerprint:
            return Invalid("Idempotency-Key", KEY_REUSED)
        return Appended(*row[1:])

    def _remember_answer(self, key: IdempotencyKey, appended: Appended, now: int) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                key.principal,
                key.key,
                key.fingerprint,
                appended.epoch,
                appended.first,
                appended.count,
                now + KEY_LIFETIME_MS,
            ),
        )
        # Row ids count up, so this is the bound on how many there are, without counting them.
        self._connection.execute(
            "DELETE FROM answers WHERE rowid <= (SELECT max(rowid) FROM answers) - ?", (self._retention.keys,)
        )

    def _retain(self, now: int) -> None:
        """Move `oldest` to where the retention's bounds put it. Rows are left to `_delete_some`."""
        retention = self._retention
        oldest = max(self.oldest, self.position + 1 - retention.events)
        if oldest != self.oldest:
            self.oldest = oldest
            self._look_at_oldest()
        max_bytes = retention.bytes or _RETAIN_BYTES
        if self._end - self._oldest_start > max_bytes:
            self._skip_to("start >= ?", self._end - max_bytes)
        if self.oldest <= self.position and self._oldest_time < now - retention.age * 1000:
            self._skip_to("time >= ?", now - int(retention.age * 1000))

    def _skip_to(self, condition: str, bound: int) -> None:
        # Walks over the rows that are to go, each of them once in its life: no index needed.
        row = self._connection.execute(
            f"SELECT seq FROM events WHERE seq >= ? AND {condition} ORDER BY seq LIMIT 1",  # noqa: S608
            (self.oldest, bound),
        ).fetchone()
        self.oldest = row[0] if row else self.position + 1
        self._look_at_oldest()

    def _look_at_oldest(self) -> None:
        row = self._connection.execute("SELECT start, time FROM events WHERE seq = ?", (self.oldest,)).fetchone()
        self._oldest_start, self._oldest_time = row or (self._end, _now())

    def _delete_some(self, most: int) -> None:
        gone = min(self.oldest, self.position) - self._first_row  # the newest row stays: it holds the position
        if gone < min(1_000, self._retention.events):
            return
        until = self._first_row + min(gone, most)
        self._connection.execute("DELETE FROM events WHERE seq < ?", (until,))
        self._first_row = until

    def _tidy(self) -> None:
        now = _now()
        try:
            with self._transaction():
                self._connection.execute("DELETE FROM answers WHERE expires <= ?", (now,))
                self._delete_some(_DELETE_EVENTS)
            self._retain(now)
            self._shorten_wal()
        except (sqlite3.Error, FeedError) as error:
            _report(error)

    def _shorten_wal(self) -> None:
        with contextlib.suppress(OSError):
            if os.stat(f"{self._path}-wal").st_size < _WAL_BYTES:  # noqa: PTH116
                return
        for _ in range(_READERS):
            self.gate.acquire()
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self.gate.release(_READERS)

    def _answer_check(self, request: _Check) -> None:
        outcome: FeedUnavailable | None = None
        try:
            with self._transaction():
                pass
        except (sqlite3.Error, FeedError) as error:
            outcome = _unavailable(error)

        def answer() -> None:
            if request.future.done():
                return
            if outcome is None:
                request.future.set_result(None)
            else:
                request.future.set_exception(outcome)

        with contextlib.suppress(RuntimeError):
            request.future.get_loop().call_soon_threadsafe(answer)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._look_up_files() != self._identity:
            # Somebody removed or replaced the file. We still hold the old one, and what we wrote there would be gone
            # at the next start: better not to take it.
            raise FeedUnavailable("its file was removed or replaced: the server has to be restarted", 30)
        before = self._first_row
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._first_row = before
            # A full disk may have rolled it back already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _look_up_files(self) -> Sequence[tuple[int, int] | None]:
        return [_identity(f"{self._path}{suffix}") for suffix in ("", "-wal", ".lock")]

    def release(self) -> None:
        """Close the file, then let go of its lock."""
        self._connection.close()
        self._lock.close()


class _Readers:
    """A few threads, each with a read-only connection of its own; a job is one short transaction."""

    def __init__(self, path: Path, gate: threading.Semaphore) -> None:
        self._path = path
        self._gate = gate
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False
        self._threads = ThreadPoolExecutor(_READERS, "feed-log-reader")

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            uri = f"{self._path.as_uri()}?mode=ro"
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT
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
            _report(error)
            raise _unavailable(error) from error

    def _run(self, job: Callable[[sqlite3.Connection], Result]) -> Result:
        if self._closed:
            raise FeedUnavailable("the log is closed")
        connection = self._connection()
        with self._gate:
            connection.execute("BEGIN")
            try:
                return job(connection)
            finally:
                connection.execute("COMMIT")

    def close(self) -> None:
        """Wait for what runs, then close the connections."""
        self._closed = True  # what waits in a queue finds that, and is not cancelled: its callers were not
        self._threads.shutdown()
        for connection in self._connections:
            connection.close()


def _open(path: Path, retention: Retention) -> tuple[_Writer, _Readers]:
    path = Path(os.path.realpath(path))
    lock = _take_lock(path)
    try:
        new = _check_header(path)
        # The header was read before the connection opens: closing any descriptor of a file drops all of a process's
        # POSIX locks on it, SQLite's too.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT)
        try:
            epochs = _prepare(connection, path, new=new)
            writer = _Writer(path, lock, connection, epochs, retention)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        lock.close()
        raise LogRefused(f"{path}: {error}: it was left as it is; restore it, or name another file") from error
    except BaseException:
        lock.close()
        raise
    return writer, _Readers(path, writer.gate)


def _take_lock(path: Path) -> IO[str]:
    """One server a file. The lock is on a file beside it, and ends with the process that holds it."""
    try:
        lock = Path(f"{path}.lock").open("a+")  # noqa: SIM115
    except OSError as error:
        raise LogRefused(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read(20).strip() or "unknown"
        lock.close()
        raise LogRefused(
            f"{path}: in use by another server (process {owner}): stop that one, or name another file"
        ) from None
    with contextlib.suppress(OSError):  # only a hint for people: a full disk is no reason not to start
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
    return lock


def _check_header(path: Path) -> bool:
    """Whether the file is new. Raises `LogRefused` for one that is not ours, without having touched it.

    The header's fields: sqlite.org/fileformat2.html, section 1.3.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise LogRefused(f"{path}: cannot be opened: {error.strerror}") from error
    if not header:
        return True
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise LogRefused(f"{path}: not an SQLite database: it was left as it is; name another file")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise LogRefused(f"{path}: an SQLite database, but not a feed's: it was left as it is; name another file")
    version = int.from_bytes(header[60:64], "big")
    if version > SCHEMA_VERSION:
        raise LogRefused(
            f"{path}: written by a newer feed (schema {version}, this one knows {SCHEMA_VERSION}): upgrade feed"
        )
    return False


def _prepare(connection: sqlite3.Connection, path: Path, *, new: bool) -> Epochs:
    """Make the schema or check what is there, then begin a new epoch."""
    if new:
        # Before it becomes a WAL database, so that the file's own header names its owner from the first moment.
        connection.executescript(f"BEGIN EXCLUSIVE;{_SCHEMA}COMMIT;")
    else:
        _check_content(connection, path)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise LogRefused(f"{path}: this file system cannot hold a write-ahead log: use a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    position, oldest = connection.execute("SELECT coalesce(max(seq), 0), min(seq) FROM events").fetchone()
    recorded = connection.execute("SELECT epoch, first FROM epochs ORDER BY first, rowid").fetchall()
    epochs = [*recorded, (new_epoch(), position + 1)]
    kept = _without_forgotten(epochs, position + 1 if oldest is None else oldest)
    connection.executemany("DELETE FROM epochs WHERE epoch = ?", [(name,) for name, _ in set(epochs) - set(kept)])
    connection.execute("INSERT INTO epochs VALUES (?, ?)", epochs[-1])
    connection.execute("COMMIT")
    return Epochs(kept)


def _check_content(connection: sqlite3.Connection, path: Path) -> None:
    """Before anything is changed: is it whole, and is what we need in it?"""
    for table in ("events", "epochs", "answers"):
        connection.execute(f"SELECT * FROM {table} LIMIT 0")  # noqa: S608
    damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise LogRefused(
            f"{path}: damaged ({damage.splitlines()[0]}): it was left as it is; restore it from a copy, or name another"
        )


def _without_forgotten(epochs: list[tuple[str, int]], oldest: int) -> list[tuple[str, int]]:
    """All epochs that cover a retained event, the current one, and the newest `_EMPTY_EPOCHS` of the others."""
    ends = [first - 1 for _, first in epochs[1:]]
    empty = [epoch for epoch, end in zip(epochs, ends, strict=False) if end < oldest or end < epoch[1]]
    forgotten = set(empty[: max(0, len(empty) - _EMPTY_EPOCHS)])
    return [epoch for epoch in epochs if epoch not in forgotten]


def _candidates(
    connection: sqlite3.Connection, selection: Selection, start: int, end: int, limit: int, *, backward: bool
) -> tuple[Sequence[int], int]:
    """The seqs of at most `limit` wanted events in `start + 1 … end`, from the near end, and how far was looked.

    Far is the last seq looked at, going forward; the one before the first looked at, going backward.
    """
    topics = _topics(connection, selection)
    wanted, far = [], start if backward else end
    walk = _walk(connection, topics, start, end, backward=backward)
    for looked, (seq, topic, type_) in enumerate(walk, 1):
        if selection.wants(topic, type_):
            wanted.append(seq)
        if len(wanted) == limit or looked == SCAN_EVENTS:
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


def _report(error: Exception) -> None:
    expected = isinstance(error, (sqlite3.Error, FeedError))
    logger.error("the log: %s", error, exc_info=None if expected else error)


def _unavailable(error: Exception) -> FeedUnavailable:
    retry_after = error.retry_after if isinstance(error, FeedUnavailable) else 1
    return FeedUnavailable(f"the log cannot do it now: {error}", retry_after)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _now() -> int:
    return time.time_ns() // 1_000_000
