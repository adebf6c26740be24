"""The one connection that writes, in its one thread: group commit, idempotency keys, retention."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO

import msgspec

from feed.errors import FeedError, FeedUnavailable, Invalid
from feed.event import Draft, Event, event_size
from feed.figures import Histogram
from feed.log.contract import KEY_LIFETIME_MS, KEY_REUSED, Appended, IdempotencyKey, Retained, Retention
from feed.log.epochs import Epochs
from feed.log.sqlite.file import LOCK_SUFFIX, identity, report, unavailable

READERS = 2
"""Threads that read: few at once, so that a storm of replays does not starve everything else."""

_RETAIN_BYTES = 1 << 30  # unless said
_GROUP_EVENTS = 5_000  # a commit takes in what waits up to these two
_GROUP_BYTES = 8 << 20
_STATEMENT_ROWS = 64
_LOOK_UP = 0.05  # seconds between looks at whether the files are still there: they cost a third of a commit
_HOUSEKEEPING = 5.0  # seconds between looks at the age of events while nothing is published
_DELETE_EVENTS = 5_000  # rows that one commit deletes, or twice as many as it inserts
_WAL_BYTES = 64 << 20  # beyond this the readers are held for a moment, so that the write-ahead log can start anew


class Append(msgspec.Struct, frozen=True, eq=False):
    drafts: Sequence[Draft]
    key: IdempotencyKey | None
    bytes: int
    future: asyncio.Future[Appended]


class Check(msgspec.Struct, frozen=True, eq=False):
    future: asyncio.Future[None]


Request = Append | Check | None  # None ends the writer
Row = tuple[int, str, str, bool, int, int, str]
Outcome = tuple[Append, Appended | BaseException]


class Writer:
    """The one connection that writes. `run` is its thread; everything else is read by other threads at most."""

    def __init__(
        self, path: Path, lock: IO[str], connection: sqlite3.Connection, epochs: Epochs, retention: Retention
    ) -> None:
        self.requests: deque[Request] = deque()
        self.wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # put to after `requests` were: a wake for many
        self.gate = threading.Semaphore(READERS)
        self.epochs = epochs
        self.oldest = 1
        self.position = 0
        self.retained = Retained(0, 0)  # replaced as a whole: the numbers that it is made of change one after the other
        self.oldest_time: int | None = None
        self.commits = Histogram()
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
        self._files_seen = time.monotonic()

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

    def run(self, committed: Callable[[Sequence[Outcome], Sequence[Event]], None]) -> None:
        """Take what is queued, commit it, say so; until None comes."""
        tidied = time.monotonic()
        going_on = True
        while going_on:
            if time.monotonic() - tidied >= _HOUSEKEEPING:
                self._tidy()
                tidied = time.monotonic()
            if not self.requests:
                with contextlib.suppress(queue.Empty):
                    self.wake.get(timeout=_HOUSEKEEPING)
            group, going_on = self._gather()
            if group:
                committed(*self._commit(group))

    def _gather(self) -> tuple[list[Append], bool]:
        """The appends that wait, up to what one commit takes, and whether the writer is to go on after them."""
        group: list[Append] = []
        events, size = 0, 0
        while self.requests and events < _GROUP_EVENTS and size < _GROUP_BYTES:
            request = self.requests.popleft()
            if request is None:
                return group, False
            if isinstance(request, Check):
                self._answer_check(request)
            else:
                group.append(request)
                events += len(request.drafts)
                size += request.bytes
        return group, True

    def _commit(self, group: Sequence[Append]) -> tuple[list[Outcome], list[Event]]:
        now, begun = _now(), time.perf_counter()
        try:
            if self._is_one_statement(group):
                self._check_files()
                outcomes, events, end = self._insert(group, now)
            else:
                with self._transaction():
                    outcomes, events, end = self._insert(group, now)
                    self._delete_some(max(_DELETE_EVENTS, 2 * len(events)))  # more than came, or the file would outgrow
        except Exception as error:  # noqa: BLE001  whatever it is, this thread goes on, and everybody gets an answer
            report(error)
            # Each waiter gets an exception of its own: a shared one would gather everybody's traceback.
            return [(request, unavailable(error)) for request in group], []
        if events:
            self.commits.observe(time.perf_counter() - begun)
            if self.oldest > self.position:
                self._oldest_start, self._oldest_time = self._end, now
            self.position = events[-1].seq
            self._end = end
            try:
                self._retain(now)
            except sqlite3.Error as error:
                report(error)  # what is committed is committed: retention comes with the next one
        return outcomes, events

    def _is_one_statement(self, group: Sequence[Append]) -> bool:
        """Whether it needs no transaction around it: one statement is one. Each statement more is a time that this
        thread lets go of the interpreter's lock and has to wait for it."""
        return (
            sum(len(request.drafts) for request in group) <= _STATEMENT_ROWS
            and all(request.key is None for request in group)
            and not self._deletable
        )

    def _insert(self, group: Sequence[Append], now: int) -> tuple[list[Outcome], list[Event], int]:
        outcomes: list[Outcome] = []
        events: list[Event] = []
        rows: list[Row] = []
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
        self._insert_rows(rows)
        return outcomes, events, end

    def _insert_rows(self, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), _STATEMENT_ROWS):
            some = rows[start : start + _STATEMENT_ROWS]
            values = ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * len(some))
            self._connection.execute(f"INSERT INTO events VALUES {values}", list(chain.from_iterable(some)))  # noqa: S608

    def _earlier_answer(self, key: IdempotencyKey, now: int) -> Appended | Invalid | None:
        row = self._connection.execute(
            "SELECT fingerprint, epoch, first, count FROM answers WHERE principal = ? AND key = ? AND expires > ?",
            (key.principal, key.key, now),
        ).fetchone()
        if row is None:
            return None
        if row[0] != key.fingerprint:
            return Invalid("Idempotency-Key", KEY_REUSED)
        return Appended(row[1], row[2], row[3], repeated=True)

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
        self.retained = Retained(self.position + 1 - self.oldest, self._end - self._oldest_start)
        self.oldest_time = self._oldest_time if self.oldest <= self.position else None

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

    @property
    def _deletable(self) -> int:
        """How many rows may be deleted; 0 while it is not worth it."""
        gone = min(self.oldest, self.position) - self._first_row  # the newest row stays: it holds the position
        return gone if gone >= min(1_000, self._retention.events) else 0

    def _delete_some(self, most: int) -> None:
        gone = self._deletable
        if not gone:
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
            report(error)

    def _shorten_wal(self) -> None:
        with contextlib.suppress(OSError):
            if os.stat(f"{self._path}-wal").st_size < _WAL_BYTES:  # noqa: PTH116
                return
        for _ in range(READERS):
            self.gate.acquire()
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self.gate.release(READERS)

    def _answer_check(self, request: Check) -> None:
        outcome: FeedUnavailable | None = None
        try:
            with self._transaction():
                pass
        except (sqlite3.Error, FeedError) as error:
            outcome = unavailable(error)

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
        self._check_files()
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

    def _check_files(self) -> None:
        """Raises `FeedUnavailable` if somebody removed or replaced the file. We still hold the old one, and what we
        wrote there would be gone at the next start: better not to take it."""
        now = time.monotonic()
        if now - self._files_seen < _LOOK_UP:
            return
        if self._look_up_files() != self._identity:
            raise FeedUnavailable("its file was removed or replaced: the server has to be restarted", 30)
        self._files_seen = now

    def _look_up_files(self) -> Sequence[tuple[int, int] | None]:
        return [identity(f"{self._path}{suffix}") for suffix in ("", "-wal", LOCK_SUFFIX)]

    def release(self) -> None:
        """Close the file, then let go of its lock."""
        self._connection.close()
        self._lock.close()


def _now() -> int:
    return time.time_ns() // 1_000_000
