"""The one connection that writes, in its thread: group commit, idempotency keys, retention."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import IO

import msgspec

from feed.errors import FeedError, FeedUnavailable, Invalid, NoEvents
from feed.event import Draft, Event, event_size, tombstone
from feed.histogram import Histogram
from feed.log.backlog import Append
from feed.log.classes import Classes, Mark, Retention
from feed.log.clock import Clock, now
from feed.log.conditions import Newest, judged
from feed.log.contract import Appended, FileBytes, Retained, appended_as
from feed.log.epochs import Epochs
from feed.log.idempotency import KEY_LIFETIME_MS, KEY_REUSED, IdempotencyKey
from feed.log.lanes import Lanes, Room
from feed.log.leases import Changes, Lease, Leases, check_room, lease_changes
from feed.log.sqlite import file
from feed.log.sqlite.classes import load_classes, load_lanes, save_marks
from feed.log.sqlite.file import Content
from feed.log.sqlite.holes import Holes
from feed.log.sqlite.trouble import Reports, indeterminate, may_be_committed, unavailable, words_for
from feed.log.sqlite.watch import Known, Watch
from feed.terms import DELETED

READERS = 2
"""Threads that read. They are few, so that many replays at once do not starve everything else."""

_RETAIN_BYTES = 1 << 30  # by default
_GROUP_EVENTS = 5_000  # a commit takes the events that wait, up to this number and this size
_GROUP_BYTES = 8 << 20
_GATHER_SECONDS = 0.001  # that a commit waits for more at most; not longer than the last commit has taken
_STATEMENT_ROWS = 64
_HOUSEKEEPING = 5.0  # seconds between looks at the age of events while nothing is published
_DELETE_EVENTS = 5_000  # rows that one commit deletes, or twice as many as it inserts
_CHECKPOINT_BYTES = 4 << 20  # written since the last one
_COMMIT_BYTES = 2 * 4096  # that a commit writes besides its events: the pages that it changes
_WAL_BYTES = 64 << 20  # beyond this, readers are held for a moment, so that the write-ahead log can start afresh
_RUN_OUT_AGAIN = 1.0  # seconds after a failure until tombstones are committed again
_EXPIRY_STEP = 0.1  # seconds at least between looks at the age of events kept in classes
_MANY_GONE = 500  # events that were taken from their class before a commit deletes some
_PROBE = 5.0  # seconds without a commit until a check really writes: an empty transaction succeeds on a full disk
_PROBE_AGAIN = 1.0  # seconds after a failure until a check tries again
_PROBE_BYTES = 1 << 20  # at most: a probe is as large as the events that failed
_PROBE_KEY = ("", "\0")  # in the table of keys: a key of a publish never looks like this


class Renewal(msgspec.Struct, frozen=True, eq=False):
    """The wish that the value of a topic runs out in `ttl` milliseconds from now."""

    topic: str
    ttl: int
    future: asyncio.Future[None]


class Check(msgspec.Struct, frozen=True, eq=False):
    """The question whether the log is still there and, with `writes`, takes events."""

    future: asyncio.Future[None]
    writes: bool = True


Request = Append | Check | Renewal | None  # None ends the writer
Row = tuple[int, str, str, bool, int, int, str, int | None]
Outcome = tuple[Append, Appended | BaseException]


class _Group:
    """One commit: its events, and the answers to its requests when it is done."""

    def __init__(self, position: int, newest_start: int, end: int) -> None:
        self.outcomes: list[Outcome] = []
        self.events: list[Event] = []
        self.leases: Changes = {}
        self.position = position
        self.end = end
        self.newest_start = newest_start


class Writer:
    """The one connection that writes. `run` is its thread; other threads only read attributes."""

    def __init__(
        self, path: Path, lock: IO[str], connection: sqlite3.Connection, content: Content, retention: Retention
    ) -> None:
        self.requests: deque[Request] = deque()
        self.wake: queue.SimpleQueue[None] = queue.SimpleQueue()  # put to after `requests`: one wake-up for many
        # Set before this thread looks for requests, and read after a request was added: one of the two sees the other.
        self.waits = False
        self.gate = threading.Semaphore(READERS)
        self.classes = Classes()
        self.gone: set[int] = set()  # events that were taken from their class, and are not deleted yet
        self.epochs: Epochs = content.epochs
        self.holes = content.holes  # replaced as a whole
        self.reports = Reports()
        self.oldest = 1
        self.position = 0
        self.retained = Retained(0, 0)  # replaced as a whole, as its numbers change one after the other
        self.oldest_time: int | None = None
        self.commits = Histogram()
        self._path = path
        self._lock = lock
        self._connection = connection
        self._retention = retention
        self._end = 0  # the sizes of all events up to the newest, together
        self._oldest_start = 0
        self._oldest_time = 0
        self._newest_start = 0  # `_end` before the newest event
        self._first_row = 1
        self._clock = Clock(content.latest)
        self._leases = Leases()
        self._lanes: Lanes | None = None
        self._numbers: Sequence[int | None] = ()  # of the classes, as they stand in the file
        self._deleted: Sequence[int] = ()  # by the transaction that is open
        self._saved: Sequence[Mark] = ()  # what was taken from each class, as it stands there
        self._unchecked = 0  # bytes that were written since the last checkpoint, roughly
        self._took = 0.0  # seconds of the last commit
        self._written = 0.0  # when something was committed last, by the monotonic clock
        self._failed: FeedUnavailable | None = None  # why the last commit or probe failed
        self._failed_bytes = 0
        self._probed = 0.0
        self._reload_classes()
        self._reload()
        self._reload_leases()
        self._watch = Watch(path, connection)

    def _reload(self) -> None:
        row = self._connection.execute(
            "SELECT seq, topic, type, data, start FROM feed_events ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return
        self.position = row[0]
        self._newest_start = row[4]
        self._end = row[4] + event_size(*row[1:4])
        self._first_row = self._connection.execute("SELECT min(seq) FROM feed_events").fetchone()[0]
        self.oldest = self._first_row
        self._look_at_oldest()
        self._retain(now())

    def _reload_classes(self) -> None:
        oldest, position = self._connection.execute(
            "SELECT min(seq), coalesce(max(seq), 0) FROM feed_events"
        ).fetchone()
        missing = max((oldest or 1) - 1, self.holes.last)
        most = self._retention.bytes or _RETAIN_BYTES
        self._connection.execute("BEGIN IMMEDIATE")
        self.classes, self._numbers = load_classes(self._connection, self._retention, most, position, missing)
        self._connection.execute("COMMIT")
        if self.classes:
            self._reload_lanes()

    def _reload_lanes(self) -> None:
        """Look through all events. With classes some are missing between others, which is no hole."""
        self._lanes, gone = load_lanes(self._connection, self._retention, self.classes, self._numbers)
        self.gone = set(gone)
        self.holes = Holes()

    def _reload_leases(self) -> None:
        """Let each lease run for its full time again."""
        rows = self._connection.execute("SELECT topic, seq, ttl FROM feed_leases").fetchall()
        self._leases.change({topic: Lease(seq, ttl) for topic, seq, ttl in rows}, time.monotonic())

    def run(self, committed: Callable[[Sequence[Outcome], Sequence[Event]], None]) -> None:
        """Commit what is queued and report it to `committed`, until None comes. Whatever goes wrong, this thread goes
        on: without it, nobody who publishes would get an answer."""
        tidied = time.monotonic()
        going_on = True
        together = 0  # publishes that the last commit has answered
        while going_on:
            if time.monotonic() - tidied >= _HOUSEKEEPING:
                self._safely(self._tidy)
                tidied = time.monotonic()
            if self._lanes is not None:
                self._take(now())
            if (due := self._leases.next_due()) is not None and due <= time.monotonic() and (gone := self._run_out()):
                committed((), gone)
            self.waits = True
            if not self.requests:
                with contextlib.suppress(queue.Empty):
                    self.wake.get(timeout=self._patience(due))
            elif len(self.requests) < together:
                # Those who were just answered are about to publish again. Two half commits take twice the time of one.
                time.sleep(min(self._took, _GATHER_SECONDS))
            self.waits = False
            group, going_on = self._gather()
            together = len(group)
            if group:
                committed(*self._commit(group))
            if self._unchecked >= _CHECKPOINT_BYTES:  # nobody waits for it
                self._safely(self._checkpoint)
        if self.gone:
            self._safely(self._tidy)  # the next one to open the file may have other classes

    def _patience(self, due: float | None) -> float:
        """Return how long to wait for requests until something else is due, in seconds."""
        patience = _HOUSEKEEPING if due is None else min(_HOUSEKEEPING, max(0.0, due - time.monotonic()))
        if self._lanes is None or (expiry := self._lanes.next_expiry()) is None:
            return patience
        return min(patience, max(_EXPIRY_STEP, (expiry - now()) / 1000))

    def _run_out(self) -> Sequence[Event]:
        """Append the tombstones of topics whose values have run out."""
        topics, today = self._leases.run_out(time.monotonic()), self._clock.next()
        group, begun = _Group(self.position, self._newest_start, self._end), time.perf_counter()
        try:
            with self._transaction():
                there = [topic for topic in topics if self._newest_of(topic) is not None]
                rows: list[Row] = []
                self._place([tombstone(topic) for topic in there], group, rows, today)
                self._insert_rows(rows)
                group.leases |= dict.fromkeys(topics)
                self._write_leases(group.leases)
        except Exception as error:  # noqa: BLE001  this thread goes on, and tries again
            if not self._is_there(group):
                self.reports.tell(error)
                self._leases.delay(topics, time.monotonic() + _RUN_OUT_AGAIN)
                return ()
        self._leases.change(group.leases, time.monotonic())
        if group.events:
            self._safely(self._committed, group, today, time.perf_counter() - begun)
        return group.events

    def _write_leases(self, changes: Changes) -> None:
        for topic, lease in changes.items():
            if lease is None:
                self._connection.execute("DELETE FROM feed_leases WHERE topic = ?", (topic,))
            else:
                self._connection.execute(
                    "INSERT OR REPLACE INTO feed_leases VALUES (?, ?, ?)", (topic, lease.seq, lease.ttl)
                )

    def _renew(self, request: Renewal) -> None:
        outcome: BaseException | None = None
        try:
            lease = self._leases.get(request.topic)
            is_known = lease is not None and lease.ttl == request.ttl and lease.seq >= self.oldest
            if lease is None or not is_known or self._lanes is not None:  # else the file says it already
                newest = self._newest_of(request.topic)
                if newest is None or newest.is_deleted:
                    raise NoEvents(request.topic)
                if lease is None:
                    check_room(self._leases)
                lease = Lease(int(newest.id.partition("-")[2]), request.ttl)
                with self._transaction():
                    self._write_leases({request.topic: lease})
            self._leases.set(request.topic, lease, time.monotonic())
        except FeedError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001  this thread goes on
            self.reports.tell(error)
            outcome = unavailable(error)
        _tell(request.future, outcome)

    def _safely(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001
            self.reports.tell(error)

    def _gather(self) -> tuple[list[Append], bool]:
        """Return the appends that wait, as many as one commit takes, and whether to go on after them."""
        group: list[Append] = []
        events, size = 0, 0
        while self.requests and events < _GROUP_EVENTS and size < _GROUP_BYTES:
            request = self.requests.popleft()
            if request is None:
                return group, False
            if isinstance(request, Check):
                self._answer_check(request)
            elif isinstance(request, Renewal):
                self._renew(request)
            else:
                group.append(request)
                events += len(request.drafts)
                size += request.bytes
        return group, True

    def _commit(self, requests: Sequence[Append]) -> tuple[Sequence[Outcome], Sequence[Event]]:
        time_, begun = self._clock.next(), time.perf_counter()
        group = _Group(self.position, self._newest_start, self._end)
        try:
            if self._connection.in_transaction:  # an earlier rollback failed: nothing may get into it
                self._connection.execute("ROLLBACK")
            if self._is_one_statement(requests):
                self._look()
                self._insert(group, requests, time_)
            else:
                with self._transaction():
                    self._insert(group, requests, time_)
                    # More than were inserted, or the file would grow for ever.
                    self._delete_some(max(_DELETE_EVENTS, 2 * len(group.events)))
        except Exception as error:  # noqa: BLE001  whatever happened, everybody gets an answer
            if not self._is_there(group):
                return self._refused(requests, error), ()
            self.reports.tell(error)
        if group.leases:
            self._leases.change(group.leases, time.monotonic())
        if group.events:
            self._safely(self._committed, group, time_, time.perf_counter() - begun)
        return group.outcomes, group.events

    def _committed(self, group: _Group, time_: int, seconds: float) -> None:
        """Update what depends on a commit. A failure here does not undo the commit."""
        if self.oldest > self.position:
            self._oldest_start, self._oldest_time = self._end, time_
        self._newest_start = group.newest_start
        self._unchecked += _COMMIT_BYTES + 2 * (group.end - self._end)
        self.position, self._end = group.position, group.end
        self.commits.observe(seconds)
        self._took = seconds
        self._works()
        if self._lanes is not None:
            self.gone.update(seq for event in group.events if (seq := self._lanes.add_event(event)) is not None)
        self._retain(now())

    def _is_there(self, group: _Group) -> bool:
        """Return whether a group was committed, and only what came after it has failed."""
        if not group.events or self._connection.in_transaction:
            return False
        try:
            row = self._connection.execute("SELECT max(seq) FROM feed_events").fetchone()
        except Exception:  # noqa: BLE001
            return False
        return bool(row[0] == group.position)

    def _refused(self, requests: Sequence[Append], error: Exception) -> Sequence[Outcome]:
        self.reports.tell(error)
        answer = indeterminate if may_be_committed(error) else unavailable
        self._failed = FeedUnavailable(words_for(error))
        self._failed_bytes = max(request.bytes for request in requests)
        self._probed = time.monotonic()
        # Each waiter gets its own exception: a shared one would collect everybody's traceback.
        return [(request, answer(error)) for request in requests]

    def _works(self) -> None:
        """Note that something was written."""
        self._written = time.monotonic()
        if self._failed is not None:
            self._failed = None
            self.reports.over()

    def _is_one_statement(self, group: Sequence[Append]) -> bool:
        """Return whether the group is one statement, which needs no transaction around it. For each further statement
        this thread would release the interpreter's lock and wait for it again."""
        return (
            sum(len(request.drafts) for request in group) <= _STATEMENT_ROWS
            and all(request.key is None and not request.has_terms for request in group)
            and not self._deletable
            and not (self._leases and any(draft.topic in self._leases for append in group for draft in append.drafts))
        )

    def _insert(self, group: _Group, requests: Sequence[Append], time_: int) -> None:
        rows: list[Row] = []
        room = None if self._lanes is None else self._lanes.room()
        here: dict[str, Newest] = {}  # the newest events of topics in this group, where a request has terms
        is_judged = any(request.has_terms for request in requests)

        def newest_of(topic: str) -> Newest | None:
            return here.get(topic) or self._newest_of(topic)

        for request in requests:
            if request.key is not None:
                answer = self._earlier_answer(request.key, time_)
                if answer is not None:
                    group.outcomes.append((request, answer))
                    continue
            try:
                drafts, appended = self._admitted(request, group, room, newest_of)
            except FeedError as refusal:
                group.outcomes.append((request, refusal))
                continue
            self._place(drafts, group, rows, time_)
            if is_judged:
                here |= {
                    event.topic: Newest(event.id, event.type == DELETED)
                    for event in group.events[len(group.events) - len(drafts) :]
                }
            if request.key is not None:
                self._remember_answer(request.key, appended, time_)
            group.outcomes.append((request, appended))
        self._insert_rows(rows)
        if group.leases:
            self._write_leases(group.leases)

    def _admitted(
        self, request: Append, group: _Group, room: Room | None, newest_of: Callable[[str], Newest | None]
    ) -> tuple[Sequence[Draft], Appended]:
        """Return what of a request is committed, and its answer. Raises `FeedError` for one that is refused."""
        epoch, drafts, first = self.epochs.current, request.drafts, group.position + 1
        appended = Appended(epoch, first, len(drafts))
        if request.has_terms:
            drafts, ids = judged(drafts, epoch, first, newest_of)
            appended = appended_as(ids, len(drafts))
        changes: Changes = {}
        if request.has_terms or self._leases or group.leases:
            changes = lease_changes(self._leases, group.leases, zip(drafts, count(first)))
        if room is not None:
            room.take(request.drafts)  # the places in them are those of the request
        group.leases |= changes
        return drafts, appended

    def _place(self, drafts: Sequence[Draft], group: _Group, rows: list[Row], time_: int) -> None:
        """Give drafts their place in a group: make their rows, and the events that they become."""
        epoch, position, start, end = self.epochs.current, group.position, group.newest_start, group.end
        for draft in drafts:
            position, start = position + 1, end
            number = self._numbers[self.classes.of(draft.topic)] if self.classes else None
            rows.append((position, draft.topic, draft.type, draft.is_json, time_, end, draft.text, number))
            group.events.append(Event(epoch, position, draft.topic, draft.type, draft.text, draft.is_json, time_))
            end += event_size(draft.topic, draft.type, draft.text)
        group.position, group.newest_start, group.end = position, start, end

    def _insert_rows(self, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), _STATEMENT_ROWS):
            some = rows[start : start + _STATEMENT_ROWS]
            values = ", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * len(some))
            self._connection.execute(f"INSERT INTO feed_events VALUES {values}", list(chain.from_iterable(some)))  # noqa: S608

    def _newest_of(self, topic: str) -> Newest | None:
        row = self._connection.execute(
            "SELECT seq, type FROM feed_events INDEXED BY feed_events_by_topic WHERE topic = ? AND seq >= ?"
            " ORDER BY seq DESC LIMIT 1",
            (topic, self.oldest),
        ).fetchone()
        if row is None or row[0] in self.gone:
            return None
        return Newest(self.epochs.id_at(row[0]), row[1] == DELETED)

    def _earlier_answer(self, key: IdempotencyKey, time_: int) -> Appended | Invalid | None:
        row = self._connection.execute(
            "SELECT fingerprint, epoch, first, count, ids FROM feed_answers"
            " WHERE principal = ? AND key = ? AND expires > ?",
            (key.principal, key.key, time_),
        ).fetchone()
        if row is None:
            return None
        if row[0] != key.fingerprint:
            return Invalid("Idempotency-Key", KEY_REUSED)
        others = () if row[4] is None else tuple(row[4].split())
        return Appended(row[1], row[2], row[3], repeated=True, others=others)

    def _remember_answer(self, key: IdempotencyKey, appended: Appended, time_: int) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO feed_answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                key.principal,
                key.key,
                key.fingerprint,
                appended.epoch,
                appended.first,
                appended.count,
                time_ + KEY_LIFETIME_MS,
                " ".join(appended.others) or None,
            ),
        )
        # Row ids increase, so this bounds the number of rows without counting them.
        self._connection.execute(
            "DELETE FROM feed_answers WHERE rowid <= (SELECT max(rowid) FROM feed_answers) - ?", (self._retention.keys,)
        )

    def _retain(self, today: int) -> None:
        """Move `oldest` to where the retention puts it. `_delete_some` deletes the rows."""
        if self._lanes is not None:
            self._take(today)
            return
        retention = self._retention
        oldest = max(self.oldest, self.position + 1 - retention.events)
        if oldest != self.oldest:
            self.oldest = oldest
            self._look_at_oldest()
        max_bytes = retention.bytes or _RETAIN_BYTES
        if self._end - self._oldest_start > max_bytes:
            self._skip_to("start >= ?", self._end - max_bytes)
        if self.oldest <= self.position and self._oldest_time < today - retention.age * 1000:
            self._skip_to("time >= ?", today - int(retention.age * 1000))
        if self.holes and self.holes.are_before(self.oldest):
            self.holes = Holes()
        self.retained = Retained(self.position + 1 - self.oldest - self._gone, self._end - self._oldest_start)
        self.oldest_time = self._oldest_time if self.oldest <= self.position else None

    def _take(self, today: int) -> None:
        """Take from each class what is beyond its bounds. `_delete_some` deletes the rows."""
        assert self._lanes is not None  # noqa: S101  mypy
        self.gone.update(self._lanes.take(today))
        self.retained, self.oldest_time = self._lanes.retained, self._lanes.oldest_time
        if not self.retained.events:
            self.oldest = self.position + 1

    @property
    def _gone(self) -> int:
        """How many of the retained events are missing."""
        return self.holes.gone_from(self.oldest)

    def _skip_to(self, condition: str, bound: int) -> None:
        # This scans the rows that will be deleted, each of them once, so no index is needed.
        row = self._connection.execute(
            f"SELECT seq FROM feed_events WHERE seq >= ? AND {condition} ORDER BY seq LIMIT 1",  # noqa: S608
            (self.oldest, bound),
        ).fetchone()
        self.oldest = row[0] if row else self.position + 1
        self._look_at_oldest()

    def _look_at_oldest(self) -> None:
        row = self._connection.execute(
            "SELECT seq, start, time FROM feed_events WHERE seq >= ? ORDER BY seq LIMIT 1", (self.oldest,)
        ).fetchone()
        self.oldest, self._oldest_start, self._oldest_time = row or (self.position + 1, self._end, now())

    @property
    def _deletable(self) -> int:
        """How many rows may be deleted. 0 while they are too few to be worth a statement."""
        if self._lanes is not None:
            return len(self.gone) if len(self.gone) >= _MANY_GONE else 0
        gone = min(self.oldest, self.position) - self._first_row  # the newest row stays: it holds the position
        return gone if gone >= min(1_000, self._retention.events) else 0

    def _delete_some(self, most: int) -> None:
        gone = self._deletable
        if not gone:
            return
        if self._lanes is not None:
            self._delete_gone(most)
            return
        until = self._first_row + min(gone, most)
        self._connection.execute("DELETE FROM feed_events WHERE seq < ?", (until,))
        self._first_row = until

    def _delete_gone(self, most: int) -> None:
        """Delete events that were taken from their class, and note up to where that was done."""
        gone = sorted(self.gone - {self.position})[:most]  # the newest row stays: it holds the position
        self._connection.executemany("DELETE FROM feed_events WHERE seq = ?", [(seq,) for seq in gone])
        self._saved = save_marks(self._connection, self.classes, self._saved)
        self._deleted = gone

    def _note_deleted(self) -> None:
        self.gone.difference_update(self._deleted)
        row = self._connection.execute("SELECT min(seq) FROM feed_events").fetchone()
        self.oldest = max(self.oldest, row[0] or 0)

    def _tidy(self) -> None:
        with self._transaction():
            self._connection.execute("DELETE FROM feed_answers WHERE expires <= ?", (self._clock.next(),))
            if self._lanes is not None:
                self._delete_gone(_DELETE_EVENTS)  # however few they are
            else:
                self._delete_some(_DELETE_EVENTS)
        self._retain(now())
        self._shorten_wal()

    def _checkpoint(self) -> None:
        """Copy the write-ahead log into the file, except what would disturb readers. This never waits."""
        self._unchecked = 0
        with self._watch.own_checkpoint():
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _shorten_wal(self) -> None:
        size = self._watch.wal_bytes()
        if size < _WAL_BYTES:
            return
        for _ in range(READERS):
            self.gate.acquire()
        try:
            self._connection.execute(
                "PRAGMA busy_timeout = 0"
            )  # other programs may read for long, and nobody should wait for them
            with self._watch.own_checkpoint():
                busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            self.gate.release(READERS)
            self._connection.execute(f"PRAGMA busy_timeout = {int(file.BUSY_TIMEOUT * 1000)}")
        if busy:
            self.reports.warn(
                "another program has been reading the log's file for long: the write-ahead log, a file beside it, "
                "grows until that program has finished",
                f"{size >> 20} MiB by now",
            )

    def _answer_check(self, request: Check) -> None:
        outcome: FeedUnavailable | None = None
        try:
            self._look(at_once=True)
            if request.writes:
                self._check()
        except Exception as error:  # noqa: BLE001  this thread goes on
            outcome = unavailable(error)

        _tell(request.future, outcome)

    def _check(self) -> None:
        """Raise if an event could not be committed now. After a failure, and after a while without a commit, only
        writing can tell."""
        today = time.monotonic()
        failed = self._failed
        if failed is not None and today - self._probed < _PROBE_AGAIN:
            raise FeedUnavailable(str(failed))
        if failed is None and today - self._written < _PROBE:
            with self._transaction():
                return
        self._probed = today
        try:
            self._probe(min(self._failed_bytes, _PROBE_BYTES) if failed is not None else 0)
        except Exception as error:
            self._failed = FeedUnavailable(words_for(error))
            self.reports.tell(error)
            raise
        self._works()

    def _probe(self, size: int) -> None:
        """Write and delete again, as much as has failed before: a full disk may still have room for a little."""
        with self._transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO feed_answers VALUES (?, ?, zeroblob(?), '', 0, 0, 0, NULL)", (*_PROBE_KEY, size)
            )
        self._unchecked += 2 * _COMMIT_BYTES + size
        with self._transaction():
            self._connection.execute("DELETE FROM feed_answers WHERE principal = ? AND key = ?", _PROBE_KEY)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._look()
        before, self._deleted = self._first_row, list[int]()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
            if self._deleted:
                self._note_deleted()
        except BaseException:
            self._first_row, self._saved = before, ()
            # On a full disk, SQLite may have rolled back already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    def _look(self, *, at_once: bool = False) -> None:
        """Raise `FeedUnavailable` if another program has removed or changed the log. Note what it has deleted."""
        if at_once or self._watch.is_due():
            oldest, count = self.oldest, self.position + 1 - self.oldest - self._gone
            if self._lanes is not None:
                oldest, count = 0, self.retained.events + len(self.gone)
            holes = self._watch.look(Known(self.epochs.current, self.position, self._newest_start, oldest, count))
            if holes is not None:
                self.reports.warn("another program has deleted events from the log's file: readers get a gap")
                self._note_holes(holes)

    def _note_holes(self, holes: Holes) -> None:
        if self._lanes is None:
            self.holes = holes
            return
        # Which of the missing events were taken from their class cannot be known: any reader may miss some.
        for mark in self.classes.marks:
            mark.taken = self.position
        self._reload_lanes()
        self._take(now())

    def file_bytes(self) -> FileBytes:
        """Return the sizes of the files. All threads may call this."""
        return self._watch.file_bytes()

    def release(self) -> None:
        """Close the file, then release its lock."""
        self._connection.close()
        self._lock.close()


def _tell(future: asyncio.Future[None], outcome: BaseException | None) -> None:
    """Answer a request of another thread."""

    def answer() -> None:
        if future.done():
            return
        if outcome is None:
            future.set_result(None)
        else:
            future.set_exception(outcome)

    with contextlib.suppress(RuntimeError):
        future.get_loop().call_soon_threadsafe(answer)
