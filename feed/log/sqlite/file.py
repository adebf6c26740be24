"""The file: its schema, its lock, and the checks that it passes before anything is written to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from pathlib import Path
from typing import IO, NamedTuple

from feed.errors import LogRefused
from feed.log.epochs import Epochs, new_epoch
from feed.log.sqlite.holes import Hole, Holes
from feed.log.sqlite.trouble import is_unreadable, words_for

LOCK_SUFFIX = ".feed-lock"
BUSY_TIMEOUT = 2.0  # seconds that a commit waits for somebody else's lock on the file
_EMPTY_EPOCHS = 1_000  # epochs of which no event is left are forgotten, but for the newest of them

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


class Content(NamedTuple):
    """What the file holds: its epochs, the holes among its events, and the latest time of an event."""

    epochs: Epochs
    holes: Holes
    latest: int


def open_file(path: Path) -> tuple[IO[str], sqlite3.Connection, Content]:
    """The lock, the one connection that may write, and what there is, with a new epoch begun.

    Raises `LogRefused` for a file that is in use, not ours, newer than this program, or damaged. It is then as it was,
    and nothing is left beside it.
    """
    beside = Path(f"{path}{LOCK_SUFFIX}")
    is_new = not beside.exists()
    lock = _take_lock(path, beside)
    try:
        _check_header(path)
        # The header was read before the connection opens: closing any descriptor of a file drops all of a process's
        # POSIX locks on it, SQLite's too.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT)
        try:
            content = _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    except BaseException as error:
        if is_new:
            beside.unlink(missing_ok=True)
        lock.close()
        if isinstance(error, sqlite3.Error):
            raise LogRefused(_why_not(path, error)) from error
        raise
    with contextlib.suppress(OSError):  # only a hint for people: a full disk is no reason not to start
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
    return lock, connection, content


def _why_not(path: Path, error: sqlite3.Error) -> str:
    if is_unreadable(error):
        return f"{path}: damaged: it was left as it is; restore it from a copy, or name another"
    return f"{path}: {words_for(error)} ({error}): it was left as it is; mend that, or name another file"


def _take_lock(path: Path, beside: Path) -> IO[str]:
    """One server a file. The lock is on a file beside it, and ends with the process that holds it."""
    try:
        lock = beside.open("a+", errors="replace")
    except OSError as error:
        raise LogRefused(f"{path}: cannot be opened: {error.strerror}") from error
    lock.seek(0)
    owner = lock.read(20).strip()
    try:
        if owner and not owner.isdigit():
            raise LogRefused(f"{beside}: not a feed's lock: it was left as it is; move it away, or name another log")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise LogRefused(
            f"{path}: in use by another server (process {owner or 'unknown'}): stop that one, or name another file"
        ) from None
    except LogRefused:
        lock.close()
        raise
    return lock


def _check_header(path: Path) -> None:
    """Raises `LogRefused` for a file that is not ours, without having touched it.

    The header's fields: sqlite.org/fileformat2.html, section 1.3.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
            names = os.fstat(file.fileno()).st_nlink
    except FileNotFoundError:
        return
    except OSError as error:
        raise LogRefused(f"{path}: cannot be opened: {error.strerror}") from error
    if names > 1:
        # Lock and write-ahead log go by the name: under two of them two servers would write, and destroy the file.
        raise LogRefused(
            f"{path}: this file has {names} names (hard links), and could be in use under another: "
            "remove the others, or name another file"
        )
    if not header:
        return
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise LogRefused(f"{path}: not an SQLite database: it was left as it is; name another file")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise LogRefused(f"{path}: an SQLite database, but not a feed's: it was left as it is; name another file")
    version = int.from_bytes(header[60:64], "big")
    if version > SCHEMA_VERSION:
        raise LogRefused(
            f"{path}: written by a newer feed (schema {version}, this one knows {SCHEMA_VERSION}): upgrade feed"
        )


def _prepare(connection: sqlite3.Connection, path: Path) -> Content:
    """Make the schema or check what is there, then begin a new epoch."""
    # Whether it is new is asked of SQLite, not of the file: of a start that was killed while it made the schema, the
    # header may be there, and goes when the connection opens.
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        # Before it becomes a WAL database, so that the file's own header names its owner from the first moment.
        connection.executescript(f"BEGIN EXCLUSIVE;{_SCHEMA}COMMIT;")
    else:
        _check_content(connection, path)
    holes, latest = _look_through(connection, path)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise LogRefused(f"{path}: this file system cannot hold a write-ahead log: use a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # the writer does it, and so knows who has changed the file
    connection.execute("BEGIN IMMEDIATE")
    position, oldest = connection.execute("SELECT coalesce(max(seq), 0), min(seq) FROM events").fetchone()
    recorded = connection.execute("SELECT epoch, first FROM epochs ORDER BY first, rowid").fetchall()
    epochs = [*recorded, (new_epoch(), position + 1)]
    kept = _without_forgotten(epochs, position + 1 if oldest is None else oldest)
    connection.executemany("DELETE FROM epochs WHERE epoch = ?", [(name,) for name, _ in set(epochs) - set(kept)])
    connection.execute("INSERT INTO epochs VALUES (?, ?)", epochs[-1])
    connection.execute("COMMIT")
    return Content(Epochs(kept), holes, latest)


def _check_content(connection: sqlite3.Connection, path: Path) -> None:
    """Before anything is changed: is it whole, and is what we need in it?"""
    for table in ("events", "epochs", "answers"):
        connection.execute(f"SELECT * FROM {table} LIMIT 0")  # noqa: S608
    damage = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]  # an event that no index finds is lost, too
    if damage != "ok":
        raise LogRefused(
            f"{path}: damaged ({damage.splitlines()[0]}): it was left as it is; restore it from a copy, or name another"
        )


def _look_through(connection: sqlite3.Connection, path: Path) -> tuple[Holes, int]:
    """Read each event once: the holes among them, and the latest time. Raises `LogRefused` if one cannot be read."""
    if connection.execute(
        "SELECT 1 FROM epochs WHERE typeof(epoch) != 'text' OR typeof(first) != 'integer'"
    ).fetchone():
        raise LogRefused(f"{path}: damaged: it was left as it is; restore it from a copy, or name another")
    holes: list[Hole] = []
    latest, before = 0, None
    try:
        for seq, topic, type_, data, time, start in connection.execute(
            "SELECT seq, topic, type, data, time, start FROM events ORDER BY seq"
        ):
            if not (type(topic) is type(type_) is type(data) is str and type(time) is type(start) is int):
                raise _damaged_at(path, seq)
            if before is not None and seq != before + 1:
                holes.append((before + 1, seq - 1))
            before = seq
            latest = max(latest, time)
    except sqlite3.Error as error:
        if not is_unreadable(error):
            raise
        after = -1 if before is None else before
        seq = connection.execute("SELECT min(seq) FROM events WHERE seq > ?", (after,)).fetchone()[0]
        raise _damaged_at(path, seq) from None  # the error holds the event's data
    return Holes(holes), latest


def _damaged_at(path: Path, seq: int) -> LogRefused:
    return LogRefused(
        f"{path}: damaged (event {seq} cannot be read): it was left as it is; restore it from a copy, name another, or "
        f"delete that event from its table, and its readers are told of a gap"
    )


def _without_forgotten(epochs: list[tuple[str, int]], oldest: int) -> list[tuple[str, int]]:
    """All epochs that cover a retained event, the current one, and the newest `_EMPTY_EPOCHS` of the others."""
    ends = [first - 1 for _, first in epochs[1:]]
    empty = [epoch for epoch, end in zip(epochs, ends, strict=False) if end < oldest or end < epoch[1]]
    forgotten = set(empty[: max(0, len(empty) - _EMPTY_EPOCHS)])
    return [epoch for epoch in epochs if epoch not in forgotten]
