"""A file of an older version: its first start with this program, and what may go wrong in it. In version 1 the tables
had no prefix, in version 2 there were no leases."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from feed import Feed, Gap, LogRefused, Retention
from feed.event import text_draft
from feed.log import IdempotencyKey
from feed.log.sqlite import SQLiteLog
from feed.log.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION, TABLES
from feed.pattern import EVERYTHING
from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio

VERSION_1 = f"""
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
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""
"""As it was. It is written down here, and never changed."""

KEY = IdempotencyKey("me", "k", b"f")
MIGRATED = {*TABLES, "feed_events_by_topic", "feed_answers_by_expiry"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the log is."""
    return tmp_path / "feed.db"


def execute(path: Path, *statements: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        found: list[Any] = []
        for statement in statements:
            found = connection.execute(statement).fetchall()
        return found


def names(path: Path) -> set[str]:
    return {name for (name,) in execute(path, "SELECT name FROM sqlite_master WHERE sql IS NOT NULL")}


def content(path: Path, prefix: str = "") -> Sequence[Any]:
    """What version 1 has, in whatever version."""
    answers = "principal, key, fingerprint, epoch, first, count, expires"
    events = "seq, topic, type, is_json, time, start, data"
    columns = {"events": events, "epochs": "*", "answers": answers}
    return [execute(path, f"SELECT {names} FROM {prefix}{name} ORDER BY rowid") for name, names in columns.items()]


async def make_version_1(path: Path) -> list[str]:
    """A file as version 1 left it: two starts, some events, an idempotency key, an event deleted by hand."""
    new = path.with_name("new.db")
    ids: list[str] = []
    for _ in range(2):
        log = await SQLiteLog.open(str(new), Retention())
        ids += (await log.append([text_draft(f"a/{number}", f"{number} ü") for number in range(50)])).ids
        ids += (await log.append([text_draft("keyed", "x")], None if len(ids) > 60 else KEY)).ids
        await log.close()
    execute(new, "DELETE FROM feed_events WHERE seq = 60")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(VERSION_1)
        connection.execute("ATTACH ? AS new", (str(new),))
        for name in ("events", "epochs", "answers"):
            columns = ", ".join(row[1] for row in connection.execute(f"PRAGMA table_info({name})"))
            connection.execute(f"INSERT INTO {name} SELECT {columns} FROM new.feed_{name}")
    return ids


async def test_everything_is_there_under_the_same_ids_and_it_goes_on(path: Path) -> None:
    ids = await make_version_1(path)
    events, epochs, answers = content(path)
    async with Feed(f"sqlite:{path}") as feed:
        running = feed.running
        assert running is not None
        log = running.log
        assert log.position == 102
        assert [await log.locate(id) for id in ids] == list(range(1, 103))
        page = await log.read(0, 59, EVERYTHING, 100)
        assert [event.id for event in page.events] == ids[:59]
        again = await log.append([text_draft("keyed", "x")], KEY)
        assert (again.ids, again.repeated) == ([ids[50]], True)
        async with feed.subscribe("**", after=ids[98]) as stream:
            assert [item.id for item in [await anext(stream) for _ in range(3)] if not isinstance(item, Gap)] == ids[
                99:
            ]
        async with feed.subscribe("**", after=ids[57]) as stream:
            items = [await anext(stream) for _ in range(2)]
            assert isinstance(items[1], Gap), "what was deleted by hand is told as before"
        assert (await feed.publish("a", "x")).endswith("-103")
    assert names(path) == MIGRATED
    found = content(path, "feed_")
    assert (found[0][:-1], found[1][:-1], found[2]) == (events, epochs, answers)
    assert execute(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    log = await SQLiteLog.open(str(path), Retention())
    assert log.position == 103
    await log.close()


async def test_an_older_program_refuses_it_from_then_on_by_what_it_reads_in_the_header(path: Path) -> None:
    await make_version_1(path)
    log = await SQLiteLog.open(str(path), Retention())
    assert int.from_bytes(path.read_bytes()[60:64], "big") == SCHEMA_VERSION, "while it runs, too"
    await log.close()
    assert int.from_bytes(path.read_bytes()[60:64], "big") == SCHEMA_VERSION


KILLED = """
import os, pathlib, signal, sys
from feed.log.sqlite import file

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "before":
    file._look_through = kill  # in the transaction, when all is renamed
else:
    file.new_epoch = kill  # just after it
file.open_file(pathlib.Path(sys.argv[1]))
"""


def start_and_be_killed(path: Path, when: str) -> int:
    return subprocess.run([sys.executable, "-c", KILLED, str(path), when], cwd=ROOT, check=False).returncode


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_start_that_is_killed_leaves_it_whole(path: Path, when: str) -> None:
    ids = await make_version_1(path)
    before = content(path)
    for _ in range(2):
        assert start_and_be_killed(path, when) == -signal.SIGKILL
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        if Path(f"{path}{suffix}").exists():
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
    assert content(copy, "feed_" if when == "after" else "") == before
    assert execute(copy, "PRAGMA integrity_check") == [("ok",)]
    assert execute(copy, "PRAGMA user_version") == [(SCHEMA_VERSION if when == "after" else 1,)]
    log = await SQLiteLog.open(str(path), Retention())
    assert [await log.locate(id) for id in ids] == list(range(1, 103))
    await log.close()


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE events SET data = CAST(x'ff' AS TEXT) WHERE seq = 7", r"event 7 cannot be read"),
        ("UPDATE epochs SET first = 'x'", "damaged"),
        ("DROP TABLE answers", "no such table: answers"),
        ("CREATE TABLE feed_answers (mine)", "feed_answers"),
    ],
)
async def test_one_that_cannot_be_migrated_is_left_as_it_was(path: Path, statement: str, says: str) -> None:
    await make_version_1(path)
    execute(path, statement, "PRAGMA wal_checkpoint(TRUNCATE)")
    before, listed = path.read_bytes(), names(path)
    for _ in range(2):
        with pytest.raises(LogRefused, match=says):
            await SQLiteLog.open(str(path), Retention())
    assert path.read_bytes() == before
    assert names(path) == listed
    assert execute(path, "PRAGMA user_version") == [(1,)]


async def test_views_and_triggers_of_an_application_follow_the_names(path: Path) -> None:
    await make_version_1(path)
    execute(
        path,
        "CREATE TABLE mine (topic TEXT)",
        "CREATE VIEW topics AS SELECT DISTINCT topic FROM events",
        "CREATE TRIGGER noted AFTER INSERT ON events BEGIN INSERT INTO mine VALUES (new.topic); END",
    )
    async with Feed(f"sqlite:{path}") as feed:
        await feed.publish("new", "x")
    assert execute(path, "SELECT * FROM mine") == [("new",)]
    assert execute(path, "SELECT count(*) FROM topics") == [(52,)]


# An application that keeps its own tables in the same file.

OWN = (
    "CREATE TABLE events (id INTEGER PRIMARY KEY, title TEXT)",
    "CREATE TABLE epochs (name TEXT)",
    "CREATE TABLE answers (question TEXT, answer TEXT)",
    "CREATE INDEX events_by_topic ON events (title)",
)


async def test_tables_of_an_application_beside_it_may_have_the_names_of_before(path: Path) -> None:
    async with Feed(f"sqlite:{path}") as feed:
        first = await feed.publish("a", "1")
    execute(path, *OWN, "INSERT INTO events VALUES (7, 'party')")
    async with Feed(f"sqlite:{path}") as feed:
        running = feed.running
        assert running is not None
        execute(path, "INSERT INTO answers VALUES ('life', '42')", "INSERT INTO events VALUES (8, 'show')")
        second = await feed.publish("a", "2")
        async with feed.subscribe("a", after=first) as stream:
            event = await anext(stream)
            assert not isinstance(event, Gap)
            assert event.id == second
    assert execute(path, "SELECT * FROM events") == [(7, "party"), (8, "show")]
    assert execute(path, "SELECT * FROM answers") == [("life", "42")]
    assert {*MIGRATED, "events", "epochs", "answers", "events_by_topic"} == names(path)


async def test_an_application_that_counts_its_own_versions_is_not_mistaken_for_an_older_file(path: Path) -> None:
    async with Feed(f"sqlite:{path}") as feed:
        await feed.publish("a", "1")
    execute(path, *OWN, "INSERT INTO events VALUES (7, 'party')", "PRAGMA user_version = 1")
    async with Feed(f"sqlite:{path}") as feed:
        await feed.publish("a", "2")
    assert execute(path, "SELECT * FROM events") == [(7, "party")]
    assert execute(path, "SELECT count(*) FROM feed_events") == [(2,)]


async def test_an_applications_own_database_is_refused_and_it_is_said_what_to_do(path: Path) -> None:
    execute(path, *OWN)
    with pytest.raises(LogRefused, match=r"an SQLite database, but not a feed's.*name another one"):
        await SQLiteLog.open(str(path), Retention())
    assert names(path) == {"events", "epochs", "answers", "events_by_topic"}


async def test_a_file_of_version_2_gets_what_it_lacks(path: Path) -> None:
    log = await SQLiteLog.open(str(path), Retention())
    first = await log.append([text_draft("a", "x")], KEY)
    await log.close()
    execute(
        path,
        "DROP TABLE feed_leases",
        "DROP TABLE feed_classes",
        "ALTER TABLE feed_events DROP COLUMN class",
        "ALTER TABLE feed_answers DROP COLUMN ids",
        "PRAGMA user_version = 2",
    )
    log = await SQLiteLog.open(str(path), Retention())
    again = await log.append([text_draft("a", "x")], KEY)
    assert (again.ids, again.repeated) == (first.ids, True)
    await log.close()
    assert set(TABLES) <= names(path)
    assert execute(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
