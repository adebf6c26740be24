"""What only the SQLite log has: a file that outlives it, that others may have touched, and a disk that may be full."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from feed import Feed, FeedUnavailable, Indeterminate, Invalid, LogRefused, Overloaded, Retention
from feed.event import text_draft
from feed.log import IdempotencyKey, sqlite
from feed.log.paging import read_back, read_on
from feed.log.sqlite import SQLiteLog, file, writer
from feed.log.sqlite.holes import Holes
from feed.log.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION
from feed.pattern import EVERYTHING, Selection
from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is."""
    return tmp_path / "feed.db"


async def open_at(path: Path, **retention: Any) -> SQLiteLog:
    return await SQLiteLog.open(str(path), Retention(**retention))


async def publish(log: SQLiteLog, count: int = 1) -> list[str]:
    return (await log.append([text_draft("a", "x")] * count)).ids


async def ids(log: SQLiteLog) -> list[str]:
    found: list[str] = []
    after = 0
    while after < log.position:
        page = await log.read(after, log.position, EVERYTHING, 1_000)  # which may end early: others wait for their turn
        found += [event.id for event in page.events]
        after = page.end
    return found


async def test_p3_a_restart_goes_on_counting_and_keeps_every_id_valid(path: Path) -> None:
    published: list[str] = []
    positions: list[str] = []
    for _ in range(4):
        log = await open_at(path)
        positions.append(log.id_at(log.position))
        published += await publish(log, 3)
        await log.close()
    log = await open_at(path)
    assert await ids(log) == published
    assert [int(id.partition("-")[2]) for id in published] == list(range(1, 13))
    assert len({id.partition("-")[0] for id in published}) == 4
    assert [await log.locate(id) for id in published] == list(range(1, 13))
    assert [await log.locate(id) for id in positions] == [0, 3, 6, 9]
    await log.close()


async def test_an_epoch_without_events_is_valid_at_its_position_only(path: Path) -> None:
    log = await open_at(path)
    await publish(log, 2)
    await log.close()
    log = await open_at(path)
    idle = log._epochs.current
    await log.close()
    log = await open_at(path)
    assert await log.locate(f"{idle}-2") == 2
    assert await log.locate(f"{idle}-1") is None
    await publish(log, 2)
    assert await log.locate(f"{idle}-3") is None
    await log.close()


async def test_p4_ids_of_a_restored_older_copy_are_told_apart_though_numbers_recur(path: Path, tmp_path: Path) -> None:
    log = await open_at(path)
    kept = await publish(log, 2)
    await log.close()
    copy = path.read_bytes()
    log = await open_at(path)
    lost = await publish(log, 3)
    await log.close()
    path.write_bytes(copy)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    log = await open_at(path)
    new = await publish(log, 5)
    assert [await log.locate(id) for id in kept] == [1, 2]
    assert [await log.locate(id) for id in lost] == [None, None, None]
    assert [await log.locate(id) for id in new] == [3, 4, 5, 6, 7]
    await log.close()


async def test_epochs_do_not_pile_up_but_those_of_retained_events_stay(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "_EMPTY_EPOCHS", 3)
    log = await open_at(path)
    first = await publish(log)
    await log.close()
    for _ in range(10):
        await (await open_at(path)).close()
    log = await open_at(path)
    assert await ids(log) == first
    assert await log.locate(first[0]) == 1
    assert len(log._epochs._names) == 5
    await log.close()


async def test_p6_keys_survive_a_restart(path: Path) -> None:
    key = IdempotencyKey("me", "k", b"f")
    log = await open_at(path)
    answer = await log.append([text_draft("a", "x")] * 2, key)
    await log.close()
    log = await open_at(path)
    again = await log.append([text_draft("a", "x")] * 2, key)
    assert (again.ids, again.repeated) == (answer.ids, True)
    with pytest.raises(Invalid):
        await log.append([text_draft("a", "x")], IdempotencyKey("me", "k", b"g"))
    assert log.position == 2
    await log.close()


async def test_retention_holds_over_a_restart_and_rows_are_deleted(path: Path) -> None:
    log = await open_at(path, events=100)
    for _ in range(30):
        await publish(log, 100)
    assert log.oldest == 2_901
    retained = log.retained
    assert retained.events == 100
    await log.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM feed_events").fetchone()[0] <= 300
    connection.close()
    log = await open_at(path, events=100)
    assert (log.position, log.oldest) == (3_000, 2_901)
    assert log.retained == retained
    assert len(await ids(log)) == 100
    await log.close()


async def test_position_survives_when_retention_has_taken_every_event(path: Path) -> None:
    log = await SQLiteLog.open(str(path), Retention(age=0.001))
    await publish(log, 2_000)
    await publish(log, 2_000)
    await log.close()
    log = await SQLiteLog.open(str(path), Retention(age=0.001))
    assert (log.position, log.oldest) == (4_000, 4_001)
    assert await ids(log) == []
    assert (await publish(log))[0].endswith("-4001")
    await log.close()


async def test_concurrent_publishers_share_commits(path: Path) -> None:
    log = await open_at(path)
    commits = 0

    def count(statement: str) -> None:
        nonlocal commits
        commits += statement == "COMMIT"

    log._writer._connection.set_trace_callback(count)
    await asyncio.gather(*(publish(log) for _ in range(500)))
    assert commits < 250
    await log.close()


@pytest.mark.parametrize("pattern", ["rare", "rare/*", "*/needle", "rare/**"])
async def test_reading_a_rare_topic_costs_what_it_returns_not_what_is_stored(path: Path, pattern: str) -> None:
    log = await open_at(path)
    await log.append([text_draft("rare", "x"), text_draft("rare/needle", "x")])
    for _ in range(10):
        await log.append([text_draft(f"common/{number % 20}", "x") for number in range(2_000)])
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    def read(connection: sqlite3.Connection) -> int:
        connection.set_progress_handler(step, 100)
        return len(log._readers._read(connection, 0, log.position, Selection([pattern]), 10).events)

    assert await log._readers.run(read) == 1
    assert steps < 40, "hundreds of SQLite's virtual machine instructions; a scan would take ten thousands"
    await log.close()


# P8: the disk.


@pytest.mark.parametrize(
    ("breaks", "mends", "reason"),
    [
        ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000", "full"),
        ("PRAGMA query_only = ON", "PRAGMA query_only = OFF", "read-only"),
    ],
)
async def test_p8_a_full_or_read_only_disk_refuses_and_works_again_by_itself(
    path: Path, breaks: str, mends: str, reason: str
) -> None:
    log = await open_at(path)
    before = await publish(log)
    log._writer._connection.execute(breaks)
    refused = 0
    for _ in range(300):  # a page that exists already may still take some
        try:
            before += await publish(log)
        except FeedUnavailable as error:
            assert reason in str(error)
            refused += 1
    assert refused
    if reason == "read-only":
        with pytest.raises(FeedUnavailable):
            await log.check()
    assert await ids(log) == before
    log._writer._connection.execute(mends)
    before += await publish(log)
    await log.check()
    assert await ids(log) == before
    await log.close()


async def test_p8_somebody_elses_lock_refuses_in_time_and_never_blocks_the_loop(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "BUSY_TIMEOUT", 0.3)
    log = await open_at(path)
    published = await publish(log)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    publishing = asyncio.create_task(publish(log))
    turns = 0
    while not publishing.done():
        await asyncio.sleep(0.001)
        turns += 1
    with pytest.raises(FeedUnavailable, match="locked"):
        await publishing
    assert turns > 50, "the event loop went on turning while the log waited"
    assert await ids(log) == published
    other.execute("ROLLBACK")
    other.close()
    published += await publish(log)
    assert await ids(log) == published
    await log.close()


@pytest.mark.parametrize("suffix", ["", "-wal"])
async def test_a_file_that_is_removed_under_us_takes_nothing_more(path: Path, suffix: str) -> None:
    log = await open_at(path)
    await publish(log)
    Path(f"{path}{suffix}").unlink()
    with pytest.raises(FeedUnavailable, match="removed or replaced") as raised:
        await publish_until_refused(log)
    assert str(path) not in str(raised.value), "clients are told no paths"
    await log.close()


async def publish_until_refused(log: SQLiteLog) -> None:
    """The file is not looked for at each commit, but at the latest after a twentieth of a second."""
    async with asyncio.timeout(5):
        while True:
            await publish(log)


async def test_what_waits_for_the_disk_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feed.log.backlog.MAX_EVENTS", 10)
    log = await open_at(path)
    results = await asyncio.gather(*(publish(log) for _ in range(50)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, Overloaded)]
    assert len(refused) == 40
    assert log.position == 10
    await publish(log, 50)  # one batch is taken however large it is
    await log.close()


async def test_an_unforeseen_error_answers_everybody_and_the_writer_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await open_at(path)
    with monkeypatch.context() as patched:
        patched.setattr(log._writer, "_insert", lambda *_: 1 / 0)
        with pytest.raises(FeedUnavailable):
            await publish(log)
    assert len(await publish(log)) == 1
    await log.close()


async def test_a_closed_log_takes_nothing_and_commits_what_waited(path: Path) -> None:
    log = await open_at(path)
    publishing = [asyncio.create_task(publish(log)) for _ in range(20)]
    await asyncio.sleep(0)
    await log.close()
    assert len({(await each)[0] for each in publishing}) == 20
    with pytest.raises(FeedUnavailable, match="closed"):
        await publish(log)
    with pytest.raises(FeedUnavailable, match="closed"):
        await log.check()
    assert not Path(f"{path}-wal").exists(), "the last connection leaves one whole file"


async def test_the_write_ahead_log_stays_small_while_readers_never_rest(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_WAL_BYTES", 8 << 20)
    monkeypatch.setattr(writer, "_HOUSEKEEPING", 0.05)
    log = await open_at(path)
    stop = False

    async def read() -> None:
        while not stop:
            await log.read(0, log.position, EVERYTHING, 500)

    readers = [asyncio.create_task(read()) for _ in range(8)]
    largest = 0
    for _ in range(150):
        await log.append([text_draft("a", "x" * 4_000)] * 100)
        largest = max(largest, os.stat(f"{path}-wal").st_size)  # noqa: PTH116
    stop = True
    await asyncio.gather(*readers)
    written = 150 * 100 * 4_000
    assert largest < written / 2
    await log.close()


class Failing:
    """A connection on which some statements fail: before they run, or after."""

    def __init__(
        self, connection: sqlite3.Connection, statement: str, error: Exception, *, after: bool = False
    ) -> None:
        self._connection = connection
        self._statement = statement
        self._error = error
        self._after = after
        self.failed = 0

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        fails = statement.startswith(self._statement)
        if fails and not self._after:
            self.failed += 1
            raise self._error
        cursor = self._connection.execute(statement, *parameters)
        if fails:
            self.failed += 1
            raise self._error
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("SECRET is what SQLite says")
    error.sqlite_errorcode = code
    error.sqlite_errorname = "SQLITE_…"
    return error


@contextlib.contextmanager
def failing(log: SQLiteLog, statement: str, error: Exception, *, after: bool = False) -> Iterator[Failing]:
    """For as long as the block lasts, statements that begin like this one fail for the writer."""
    real = log._writer._connection
    log._writer._connection = broken = Failing(real, statement, error, after=after)  # type: ignore[assignment]
    yield broken
    log._writer._connection = real


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, Indeterminate),
        (sqlite3.SQLITE_IOERR_SHMSIZE, Indeterminate),
        (sqlite3.SQLITE_IOERR_WRITE, FeedUnavailable),
        (sqlite3.SQLITE_FULL, FeedUnavailable),
    ],
)
@pytest.mark.parametrize("keyed", [False, True])
async def test_what_a_crash_could_bring_back_is_not_called_unpublished(
    path: Path, code: int, expected: type[Exception], keyed: bool
) -> None:
    log = await open_at(path)
    key = IdempotencyKey("", "k", b"f") if keyed else None
    with (
        failing(log, "COMMIT" if keyed else "INSERT INTO feed_events", sqlite_error(code)),
        pytest.raises(expected) as raised,
    ):
        await log.append([text_draft("a", "x")], key)
    assert "SECRET" not in str(raised.value)
    assert len(await publish(log)) == 1
    assert log.position == 1
    await log.close()


@pytest.mark.parametrize("error", [MemoryError(), sqlite_error(sqlite3.SQLITE_IOERR_FSYNC), ZeroDivisionError()])
@pytest.mark.parametrize("keyed", [False, True])
async def test_what_is_committed_is_answered_so_whatever_fails_after_that(
    path: Path, error: Exception, keyed: bool
) -> None:
    log = await open_at(path)
    key = IdempotencyKey("", "k", b"f") if keyed else None
    with failing(log, "COMMIT" if keyed else "INSERT INTO feed_events", error, after=True) as broken:
        appended = await log.append([text_draft("a", "x")], key)
    assert broken.failed
    assert (appended.first, log.position) == (1, 1)
    assert (await ids(log)) == appended.ids
    assert len(await publish(log)) == 1
    await log.close()


@pytest.mark.parametrize("error", [MemoryError(), ZeroDivisionError(), sqlite_error(sqlite3.SQLITE_IOERR_READ)])
@pytest.mark.parametrize("statement", ["DELETE FROM feed_answers", "PRAGMA wal_checkpoint", "SELECT seq, start, time"])
async def test_housekeeping_that_fails_leaves_the_writer_alive(
    path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, error: Exception
) -> None:
    monkeypatch.setattr(writer, "_HOUSEKEEPING", 0.01)
    monkeypatch.setattr(writer, "_WAL_BYTES", 0)
    monkeypatch.setattr(writer, "_CHECKPOINT_BYTES", 0)
    log = await open_at(path, events=1)
    await publish(log)
    with failing(log, statement, error) as broken:
        async with asyncio.timeout(10):
            while broken.failed < 3:
                await publish(log)
    assert len(await publish(log)) == 1
    await log.close()


async def test_a_transaction_that_could_not_be_ended_takes_in_nothing_more(path: Path) -> None:
    log = await open_at(path)
    with failing(log, "ROLLBACK", MemoryError()):
        log._writer._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises((FeedUnavailable, Indeterminate)):
            await publish(log)
    published = await publish(log)
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM feed_events").fetchone()[0] == len(published)
    await log.close()


async def test_a_log_that_takes_no_event_is_not_ready_though_nobody_publishes(path: Path) -> None:
    log = await open_at(path)
    log._writer._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(FeedUnavailable, match="read-only"):
        await log.check()
    log._writer._connection.execute("PRAGMA query_only = OFF")
    await becomes_ready(log)
    assert len(await publish(log)) == 1
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM feed_answers").fetchone()[0] == 0, "what it has tried is gone"
    await log.close()


async def becomes_ready(log: SQLiteLog) -> None:
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(FeedUnavailable):
                await log.check()
                return
            await asyncio.sleep(0.02)


async def test_a_log_in_which_there_is_room_for_little_is_not_ready_while_more_does_not_go_in(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_PROBE_AGAIN", 0)
    log = await open_at(path)
    await publish(log)
    pages = log._writer._connection.execute("PRAGMA page_count").fetchone()[0]
    log._writer._connection.execute(f"PRAGMA max_page_count = {pages + 3}")
    with pytest.raises(FeedUnavailable, match="full"):
        await log.append([text_draft("a", "x" * 100_000)])
    for _ in range(3):
        with pytest.raises(FeedUnavailable, match="full"):
            await log.check()
    log._writer._connection.execute("PRAGMA max_page_count = 1000000")
    await becomes_ready(log)
    await log.close()


async def test_trouble_is_a_line_when_it_begins_and_one_when_it_is_over(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = await open_at(path)
    await publish(log)
    log._writer._connection.execute("PRAGMA query_only = ON")
    for _ in range(50):
        with pytest.raises(FeedUnavailable):
            await publish(log)
    log._writer._connection.execute("PRAGMA query_only = OFF")
    await publish(log)
    lines = [record.getMessage() for record in caplog.records if record.name == "feed.log.sqlite"]
    assert lines == [
        "the log: its file or its disk is read-only [SQLITE_READONLY]",
        "the log takes events again; 49 more attempts had failed meanwhile",
    ]
    await log.close()


async def test_nobody_waits_for_a_program_that_reads_the_file_for_long_and_it_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file, "BUSY_TIMEOUT", 600.0)  # whoever waited would do so for longer than the test may take
    monkeypatch.setattr(writer, "_WAL_BYTES", 1 << 20)
    monkeypatch.setattr(writer, "_HOUSEKEEPING", 0.01)
    log = await open_at(path)
    await publish(log)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT max(seq) FROM feed_events").fetchone()
        async with asyncio.timeout(30):
            while "another program has been reading" not in caplog.text:
                await log.append([text_draft("a", "x" * 100_000)])
        assert log.file_bytes.ahead >= 1 << 20
        other.execute("COMMIT")
    async with asyncio.timeout(30):
        while log.file_bytes.ahead >= 1 << 20:
            await publish(log)
    await log.close()


# What others do to the file while it is open.


def execute(path: Path, *statements: str) -> None:
    """As another program does."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement)


def copy(source: Path, target: Path) -> None:
    """Like `.backup` and `.restore`."""
    with contextlib.closing(sqlite3.connect(source)) as there, contextlib.closing(sqlite3.connect(target)) as here:
        there.backup(here)


@pytest.mark.parametrize("again", ["copied", "restored"])
async def test_an_older_copy_in_the_logs_place_takes_nothing_more(path: Path, tmp_path: Path, again: str) -> None:
    log = await open_at(path)
    await publish(log, 1_000)
    copy(path, tmp_path / "copy.db")
    await publish(log, 5)
    if again == "restored":
        copy(tmp_path / "copy.db", path)
    else:
        shutil.copyfile(tmp_path / "copy.db", path)
    for _ in range(2):
        with pytest.raises(FeedUnavailable, match=r"changed|overwritten"):
            await log.check()
        with pytest.raises(FeedUnavailable, match=r"changed|overwritten"):
            await publish(log)
    await log.close()


async def test_another_log_restored_in_its_place_is_a_hole_and_not_other_events_under_its_ids(
    path: Path, tmp_path: Path
) -> None:
    other = await open_at(tmp_path / "other.db")
    await publish(other, 20)
    await other.close()
    log = await open_at(path)
    await publish(log, 10)
    copy(tmp_path / "other.db", path)
    page = await read_on(log, 0, 10, EVERYTHING, 100)
    assert (page.events, page.start) == ([], 10)
    page = await read_back(log, 11, EVERYTHING, 100)
    assert (page.events, page.start, page.end) == ([], 0, 0)
    await log.close()


async def test_a_copy_of_the_same_size_over_the_file_is_noticed_where_it_took_something(
    path: Path, tmp_path: Path
) -> None:
    log = await open_at(path)
    await publish(log, 5)
    await log.close()
    shutil.copyfile(path, tmp_path / "copy.db")
    log = await open_at(path)
    await publish(log, 5)
    await log.close()
    log = await open_at(path)
    assert path.stat().st_size == (tmp_path / "copy.db").stat().st_size
    shutil.copyfile(tmp_path / "copy.db", path)
    with pytest.raises(FeedUnavailable, match="changed"):
        await log.check()
    assert (await read_on(log, 5, 10, EVERYTHING, 100)).start == 10
    await log.close()


async def test_a_write_ahead_log_that_was_cut_off_takes_nothing_more(path: Path) -> None:
    log = await open_at(path)
    await publish(log, 5)
    os.truncate(f"{path}-wal", 0)
    with pytest.raises(FeedUnavailable, match="overwritten"):
        await log.check()
    with pytest.raises(FeedUnavailable, match="overwritten"):
        await publish(log)
    await log.close()


async def test_a_file_touched_just_before_the_log_shortens_its_own_goes_on(path: Path) -> None:
    log = await open_at(path)
    await publish(log, 5)
    await log.check()
    watch = log._writer._watch
    os.utime(path)
    with watch.own_checkpoint():
        log._writer._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    await log.check()
    await publish(log)
    await log.close()


async def test_an_emptied_file_is_called_changed_to_those_who_read(path: Path) -> None:
    log = await open_at(path)
    await publish(log, 5)
    execute(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(b"")
    with pytest.raises(FeedUnavailable, match=r"its file (was changed|is damaged)"):
        await log.read(0, 5, EVERYTHING, 10)
    await log.close()


async def test_a_file_that_was_only_touched_goes_on(path: Path) -> None:
    log = await open_at(path)
    published = await publish(log, 5)
    os.utime(path)
    await log.check()
    published += await publish(log)
    assert await ids(log) == published
    await log.close()


@pytest.mark.parametrize(
    "statement",
    ["VACUUM", "CREATE TABLE mine (x)", "DELETE FROM feed_answers", "ANALYZE", "PRAGMA wal_checkpoint(TRUNCATE)"],
)
async def test_what_others_write_that_is_not_of_the_log_does_no_harm(
    path: Path, caplog: pytest.LogCaptureFixture, statement: str
) -> None:
    log = await open_at(path)
    published = await publish(log, 5)
    execute(path, statement)
    await log.check()
    published += await publish(log, 5)
    assert await ids(log) == published
    assert caplog.text == ""
    await log.close()


@pytest.mark.parametrize("gone", [(), (3, 4, 8), (1, 2, 9, 10), (2, 4, 6, 8, 10), tuple(range(1, 11))])
def test_runs_between_holes_are_those_that_counting_finds(gone: tuple[int, ...]) -> None:
    begins = [seq for seq in gone if seq - 1 not in gone]
    holes = Holes((seq, next(last for last in range(seq, 12) if last + 1 not in gone)) for seq in begins)
    for start in range(11):
        assert holes.gone_from(start + 1) == sum(seq > start for seq in gone)
        for end in range(start, 11):
            there = [seq for seq in range(start + 1, end + 1) if seq not in gone]
            low, high = holes.first_run(start, end)
            if there:
                assert low == there[0] - 1
                assert high == next(seq for seq in range(there[0], end + 1) if seq == end or seq + 1 in gone)
                low, high = holes.last_run(start, end)
                assert high == there[-1]
                assert low == next(seq - 1 for seq in reversed(range(start + 1, high + 1)) if seq - 1 in (start, *gone))
            else:
                assert low == high == end
                assert holes.last_run(start, end) == (start, start)


def test_a_hundred_thousand_holes_cost_no_more_than_a_few() -> None:
    holes = Holes((seq, seq) for seq in range(2, 200_002, 2))
    begun = time.thread_time()
    for seq in range(0, 200_000, 100):
        assert holes.first_run(seq, 200_000) == (seq, seq + 1)
        assert holes.last_run(0, seq + 1) == (seq, seq + 1)
        assert holes.gone_from(seq + 1) == 100_000 - seq // 2
    assert time.thread_time() - begun < 1  # looked at one after the other it takes a minute


async def test_a_hole_counts_in_nothing_that_is_retained_and_goes_with_the_rest(path: Path) -> None:
    log = await open_at(path, events=10)
    await publish(log, 10)
    execute(path, "DELETE FROM feed_events WHERE seq IN (4, 5)")
    await log.check()
    await publish(log)
    assert log.retained.events == 8
    await publish(log, 5)
    assert (log.oldest, log.retained.events, len(log._writer.holes)) == (7, 10, 0)
    await log.close()
    log = await open_at(path, events=10)
    assert (log.oldest, log.retained.events) == (7, 10)
    await log.close()


async def test_a_start_finds_the_holes_and_the_window_begins_behind_the_last(path: Path) -> None:
    log = await open_at(path)
    published = await publish(log, 60)
    await log.close()
    execute(path, "DELETE FROM feed_events WHERE seq BETWEEN 21 AND 30", "DELETE FROM feed_events WHERE seq = 50")
    async with Feed(f"sqlite:{path}") as feed:
        after: str | None = None
        pages = []
        for _ in range(3):
            page = await feed.page("**", limit=100, after=after)
            gap = (page.gap.requested, page.gap.resumed_from) if page.gap else None
            pages.append(([event.seq for event in page.events], gap))
            after = page.next
        at = [id.rpartition("-")[0] + "-" for id in published]
        assert pages == [
            (list(range(1, 21)), None),
            (list(range(31, 50)), (f"{at[0]}20", f"{at[0]}30")),
            (list(range(51, 61)), (f"{at[0]}49", f"{at[0]}50")),
        ]
        before: str | None = (await feed.page("**", after=after)).next
        backward = []
        newest = await feed.publish("a", "x")
        before = newest
        for _ in range(3):
            page = await feed.page("**", limit=100, before=before)
            backward.append(([event.seq for event in page.events], page.gap and page.gap.resumed_from))
            before = page.next
        assert backward == [
            (list(range(51, 61)), None),
            (list(range(31, 50)), f"{at[0]}50"),
            (list(range(1, 21)), f"{at[0]}30"),
        ]


# Bytes that are no text any more, in a file that SQLite finds in order.


def break_data(path: Path, word: bytes) -> None:
    """Let a byte of an event be no UTF-8 any more, wherever it is."""
    for each in (path, Path(f"{path}-wal")):
        if each.exists():
            content = each.read_bytes().replace(word, b"\xff" + word[1:])
            with each.open("r+b") as file_:
                file_.write(content)


async def test_p9_an_event_that_cannot_be_read_refuses_the_start_and_is_named(path: Path) -> None:
    log = await open_at(path)
    for number in range(5):
        await log.append([text_draft("a", f"SECRET {number}")])
    await log.close()
    break_data(path, b"SECRET 3")
    for _ in range(2):
        with pytest.raises(LogRefused, match=r"damaged \(event 4 cannot be read\)") as refused:
            await open_at(path)
        assert "SECRET" not in str(refused.value)
    execute(path, "DELETE FROM feed_events WHERE seq = 4")
    log = await open_at(path)
    assert log.position == 5
    await log.close()


@pytest.mark.parametrize("value", ["CAST(x'ff' AS TEXT)", "x'00'"])
@pytest.mark.parametrize(
    ("column", "patterns"),
    [("data", ["**"]), ("data", ["a"]), ("data", ["*"]), ("type", ["a"]), ("topic", ["**"]), ("topic", ["*"])],
)
async def test_what_cannot_be_read_while_it_runs_is_a_hole(
    path: Path, column: str, value: str, patterns: list[str]
) -> None:
    log = await open_at(path)
    await log.append([text_draft("a", f"SECRET {number}") for number in range(6)])
    execute(path, f"UPDATE feed_events SET {column} = {value} WHERE seq IN (2, 5)")
    selection = Selection(patterns)
    found: list[int] = []
    starts: list[int] = []
    after = 0
    while after < 6:
        page = await read_on(log, after, 6, selection, 100)
        starts.append(page.start)
        found += [event.seq for event in page.events]
        after = page.end
    assert (found, starts) == ([1, 3, 4, 6], [0, 2, 5])
    before = 7
    backward: list[int] = []
    while before > 1:
        page = await read_back(log, before, selection, 100)
        backward = [event.seq for event in page.events] + backward
        before = page.start + 1
    assert backward == found
    assert len(await publish(log)) == 1
    await log.close()


# P9: files that are not for us.


def not_a_database(path: Path) -> None:
    path.write_bytes(b"Dear diary, " * 100)


def too_short(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0")


def somebody_elses_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
    connection.close()


def newer_than_we_are(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(
        f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION + 1}; CREATE TABLE t (x);"
    )
    connection.close()


def ours_without_its_tables(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(
        f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; CREATE TABLE t (x);"
    )
    connection.close()


async def fill(path: Path) -> None:
    log = await open_at(path)
    for _ in range(10):
        await log.append([text_draft(f"topic/{number}", "x" * 500) for number in range(100)])
    await log.close()


def fill_in_a_process(path: Path) -> bytearray:
    script = (
        f"import asyncio, pathlib, tests.feed.log.test_sqlite as t; asyncio.run(t.fill(pathlib.Path({str(path)!r})))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    return bytearray(path.read_bytes())


def damaged(path: Path) -> None:
    content = fill_in_a_process(path)
    half = len(content) // 2
    content[8192:half] = b"\xa5" * (half - 8192)
    path.write_bytes(content)


def truncated(path: Path) -> None:
    content = fill_in_a_process(path)
    path.write_bytes(content[: len(content) // 2])


def a_folder(path: Path) -> None:
    path.mkdir()


def in_a_folder_that_is_not_there(path: Path) -> None:
    path.parent.rmdir()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (not_a_database, "not an SQLite database"),
        (too_short, "not an SQLite database"),
        (somebody_elses_database, "not a feed's"),
        (newer_than_we_are, "newer one"),
        (ours_without_its_tables, "no such table"),
        (damaged, "damaged|malformed|corrupt"),
        (truncated, "damaged|malformed|corrupt"),
        (a_folder, "directory"),
        (in_a_folder_that_is_not_there, "No such file"),
    ],
)
async def test_p9_a_file_that_is_not_ours_is_refused_and_left_as_it_was(
    tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / "folder" / "feed.db"
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.is_file() else None
    beside = sorted(path.parent.glob("*"))
    with pytest.raises(LogRefused, match=says):
        await open_at(path)
    if before is not None:
        assert path.read_bytes() == before
    assert sorted(path.parent.glob("*")) == beside if path.parent.exists() else not beside


async def test_p9_somebody_elses_file_where_the_lock_would_be_is_left_as_it_is(path: Path) -> None:
    beside = Path(f"{path}.feed-lock")
    beside.write_text("precious")
    with pytest.raises(LogRefused, match="not a feed's lock"):
        await open_at(path)
    assert beside.read_text() == "precious"
    assert not path.exists()


async def test_p9_a_file_in_use_is_refused_by_name_of_the_process_and_free_when_that_ends(path: Path) -> None:
    log = await open_at(path)
    with pytest.raises(LogRefused, match="in use by another Feed of this process"):
        await open_at(path)
    link = path.with_name("link.db")
    link.symlink_to(path)
    with pytest.raises(LogRefused, match="in use"):
        await open_at(link)
    await publish(log)
    await log.close()
    log = await open_at(link)
    assert log.position == 1
    await log.close()


async def test_a_file_with_a_second_name_is_refused(path: Path) -> None:
    log = await open_at(path)
    link = path.with_name("link.db")
    os.link(path, link)
    with pytest.raises(LogRefused, match="2 names"):
        await open_at(link)
    assert not Path(f"{link}.feed-lock").exists()
    await publish(log)
    await log.close()
    with pytest.raises(LogRefused, match="2 names"):
        await open_at(path)
    link.unlink()
    log = await open_at(path)
    assert log.position == 1
    await log.close()


async def test_p1_a_start_that_was_killed_while_it_made_the_file_is_made_up_for(path: Path) -> None:
    log = await open_at(path)
    await log.close()
    # What is on the disk just before the first transaction has ended: the file is whole, and its rollback journal says
    # that it was empty before.
    journal = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + struct.pack(">IIIII", 0, 1, 0, 512, 4096)
    Path(f"{path}-journal").write_bytes(journal.ljust(512, b"\0"))
    log = await open_at(path)
    assert len(await publish(log)) == 1
    await log.close()


async def test_an_empty_file_becomes_a_log(path: Path) -> None:
    path.touch()
    log = await open_at(path)
    await publish(log)
    await log.close()


async def test_a_start_that_is_cancelled_leaves_the_file_free(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = sqlite._open

    def slow(where: Path, retention: Retention) -> object:
        opened = real(where, retention)
        begun.set()
        go_on.wait(10)
        return opened

    with monkeypatch.context() as patched:
        patched.setattr(sqlite, "_open", slow)
        opening = asyncio.create_task(open_at(path))
        await asyncio.to_thread(begun.wait, 10)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        go_on.set()
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(LogRefused):
                log = await open_at(path)
                break
            await asyncio.sleep(0.01)
    await publish(log)
    await log.close()


async def test_no_thread_is_left_behind(path: Path) -> None:
    log = await open_at(path)
    await publish(log)
    await ids(log)
    await log.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("feed-log")] == []


async def test_a_lock_that_is_removed_lets_nobody_write_twice(path: Path) -> None:
    log = await open_at(path)
    await publish(log)
    Path(f"{path}.feed-lock").unlink()
    with pytest.raises(FeedUnavailable, match="removed or replaced"):
        await publish_until_refused(log)
    await log.close()


async def test_rows_are_deleted_as_fast_as_they_come(path: Path) -> None:
    log = await open_at(path, events=1_000)
    for _ in range(10):
        await publish(log, 10_000)
    await log.close()
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM feed_events").fetchone()[0] < 25_000
    connection.close()
