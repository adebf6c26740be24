"""The file: its lock, and the checks that it has to pass before anything is written to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

from feed.errors import LogRefused
from feed.log.epochs import Epochs, new_epoch
from feed.log.sqlite import schema
from feed.log.sqlite.holes import Hole, Holes
from feed.log.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION
from feed.log.sqlite.trouble import is_unreadable, words_for

LOCK_SUFFIX = ".feed-lock"
BUSY_TIMEOUT = 2.0  # seconds that a commit waits for another program's lock on the file
_EMPTY_EPOCHS = 1_000  # of the epochs without a retained event the newest are kept, and the others forgotten


class Content(NamedTuple):
    """What the file contains: its epochs, the holes between its events, and the latest time of an event."""

    epochs: Epochs
    holes: Holes
    latest: int


def open_file(path: Path) -> tuple[IO[str], sqlite3.Connection, Content]:
    """Open the file or make it, and begin a new epoch. Return its lock, the one connection that may write, and what the
    file contains.

    Raises `LogRefused` for a file that is in use, not a feed's, newer than this program, or damaged. The file is then
    as it was, and nothing is left beside it.
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
    with contextlib.suppress(OSError):  # only a hint for people: a full disk does not prevent the start
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
    return lock, connection, content


def _why_not(path: Path, error: sqlite3.Error) -> str:
    if is_unreadable(error):
        return _damaged(path)
    return f"{path}: {words_for(error)} ({error}). The file was not changed: repair that, or name another file"


def _damaged(path: Path, where: str = "") -> str:
    return f"{path}: damaged{where}. The file was not changed: restore it from a backup, or name another file"


def _take_lock(path: Path, beside: Path) -> IO[str]:
    """Take the lock: one process at a time may use the file. The lock is on a file beside it, and ends with the process
    that holds it."""
    try:
        lock = beside.open("a+", errors="replace")
    except OSError as error:
        raise LogRefused(f"{path}: cannot be opened: {error.strerror}") from error
    lock.seek(0)
    owner = lock.read(20).strip()
    try:
        if owner and not owner.isdigit():
            raise LogRefused(
                f"{beside}: not a feed's lock. The file was not changed: move it away, or name another log"
            )
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise LogRefused(_in_use(path, owner)) from None
    except LogRefused:
        lock.close()
        raise
    return lock


def _in_use(path: Path, owner: str) -> str:
    if owner == str(os.getpid()):
        return f"{path}: in use by another Feed of this process: use that one, or name another file"
    return (
        f"{path}: in use by another process ({owner or 'unknown'}), and a log on SQLite is for one process. If that "
        "is a second server, started by mistake: stop one of the two, or give this one another file. If these are "
        "workers of one server: start one (--workers 1, WEB_CONCURRENCY=1), or share a log, "
        "redis://HOST:PORT/DB?stream=NAME"
    )


def _check_header(path: Path) -> None:
    """Raise `LogRefused` for a file that is not a feed's, without touching it.

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
            f"{path}: this file has {names} names (hard links), and may be in use under another one: remove the "
            "others, or name another file"
        )
    if not header:
        return
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise LogRefused(f"{path}: not an SQLite database. The file was not changed: name another one")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise LogRefused(
            f"{path}: an SQLite database, but not a feed's. The file was not changed: name another one. A feed makes "
            "its file itself"
        )
    _check_version(path, int.from_bytes(header[60:64], "big"))


def _check_version(path: Path, version: int) -> None:
    if version > SCHEMA_VERSION:
        raise LogRefused(
            f"{path}: its user_version is {version}, and this feed knows up to {SCHEMA_VERSION}: upgrade feed if a "
            "newer one wrote the file; an application whose tables are in it has to leave user_version alone"
        )


def _prepare(connection: sqlite3.Connection, path: Path) -> Content:
    """Make the tables, or check those that are there; then begin a new epoch."""
    # SQLite is asked whether the file is new: when a start was killed while it made the tables, the file may have a
    # header, which goes when the connection opens.
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        # Before it becomes a WAL database, so that the file's header names its owner from the first moment.
        schema.create(connection)
        holes, latest = Holes(), 0
    else:
        _check_version(path, connection.execute("PRAGMA user_version").fetchone()[0])  # the header may be older
        _check_content(connection, path, schema.tables_of(connection))
        look = _migrate if schema.is_old(connection) else _look_through
        holes, latest = look(connection, path)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise LogRefused(f"{path}: this file system cannot hold a write-ahead log: use a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # the writer does it, and so knows who has changed the file
    connection.execute("BEGIN IMMEDIATE")
    position, oldest = connection.execute("SELECT coalesce(max(seq), 0), min(seq) FROM feed_events").fetchone()
    recorded = connection.execute("SELECT epoch, first FROM feed_epochs ORDER BY first, rowid").fetchall()
    epochs = [*recorded, (new_epoch(), position + 1)]
    kept = _without_forgotten(epochs, position + 1 if oldest is None else oldest)
    connection.executemany("DELETE FROM feed_epochs WHERE epoch = ?", [(name,) for name, _ in set(epochs) - set(kept)])
    connection.execute("INSERT INTO feed_epochs VALUES (?, ?)", epochs[-1])
    connection.execute("COMMIT")
    return Content(Epochs(kept), holes, latest)


def _migrate(connection: sqlite3.Connection, path: Path) -> tuple[Holes, int]:
    """Migrate the tables of an older file, and look through them, in one transaction: a start that fails or is killed
    leaves the older file."""
    connection.execute("BEGIN IMMEDIATE")
    schema.migrate(connection)
    found = _look_through(connection, path)
    connection.execute("COMMIT")
    # Into the file itself: an older program reads the version in its header, and then says what to do.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return found


def _check_content(connection: sqlite3.Connection, path: Path, tables: Sequence[str]) -> None:
    """Check, before anything is changed, that the tables are there and nothing is damaged."""
    for table in tables:
        connection.execute(f"SELECT * FROM {table} LIMIT 0")  # noqa: S608
    damage = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]  # an event that no index finds is lost, too
    if damage != "ok":
        raise LogRefused(_damaged(path, f" ({damage.splitlines()[0]})"))


def _look_through(connection: sqlite3.Connection, path: Path) -> tuple[Holes, int]:
    """Read each event once. Return the holes between them, and the latest time. Raises `LogRefused` if an event cannot
    be read."""
    if connection.execute(
        "SELECT 1 FROM feed_epochs WHERE typeof(epoch) != 'text' OR typeof(first) != 'integer'"
    ).fetchone():
        raise LogRefused(_damaged(path))
    holes: list[Hole] = []
    latest, before = 0, None
    try:
        for seq, topic, type_, data, time, start in connection.execute(
            "SELECT seq, topic, type, data, time, start FROM feed_events ORDER BY seq"
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
        seq = connection.execute("SELECT min(seq) FROM feed_events WHERE seq > ?", (after,)).fetchone()[0]
        raise _damaged_at(path, seq) from None  # the error holds the event's data
    return Holes(holes), latest


def _damaged_at(path: Path, seq: int) -> LogRefused:
    return LogRefused(
        f"{path}: damaged (event {seq} cannot be read). The file was not changed: restore it from a backup, name "
        f"another file, or delete the event with this seq from its table, and readers are told of a gap"
    )


def _without_forgotten(epochs: list[tuple[str, int]], oldest: int) -> list[tuple[str, int]]:
    """Return the epochs that cover a retained event, the current one, and the newest `_EMPTY_EPOCHS` of the others."""
    ends = [first - 1 for _, first in epochs[1:]]
    empty = [epoch for epoch, end in zip(epochs, ends, strict=False) if end < oldest or end < epoch[1]]
    forgotten = set(empty[: max(0, len(empty) - _EMPTY_EPOCHS)])
    return [epoch for epoch in epochs if epoch not in forgotten]
