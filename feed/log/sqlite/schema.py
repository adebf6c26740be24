"""The tables of the file, and how the tables of an older file become these.

All names begin with `feed_`, so that an application may keep tables of its own beside them. Version 1 had the names
`events`, `epochs` and `answers`, and version 2 had no `ids` of answers, no leases and no classes. The header of the
file names its owner and the version (sqlite.org/fileformat2.html, 1.3), so a program that is older than the file
refuses it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

APPLICATION_ID = 0x66656564  # "feed"
SCHEMA_VERSION = 3

TABLES = ("feed_events", "feed_epochs", "feed_answers", "feed_leases", "feed_classes")
OLD_TABLES = ("events", "epochs", "answers")
"""The same tables in version 1."""

_INDEXES = (
    "CREATE INDEX feed_events_by_topic ON feed_events (topic)",
    "CREATE INDEX feed_answers_by_expiry ON feed_answers (expires)",
)
_OLD_INDEXES = ("events_by_topic", "answers_by_expiry")
_VERSION = f"PRAGMA user_version = {SCHEMA_VERSION}"

_LEASES = """
    CREATE TABLE feed_leases (
        topic TEXT PRIMARY KEY,
        seq INTEGER NOT NULL,     -- of the event whose value runs out
        ttl INTEGER NOT NULL      -- milliseconds, which begin anew when the log is opened
    )
"""

_CLASSES = """
    CREATE TABLE feed_classes (
        id INTEGER PRIMARY KEY,        -- never that of a class of before: events name it
        pattern TEXT NOT NULL UNIQUE,  -- '' is the default class
        first INTEGER NOT NULL,        -- the seq from which on its topics belong to it
        taken INTEGER NOT NULL,        -- the highest seq of an event that was taken from it
        ended INTEGER NOT NULL         -- the highest seq of a tombstone that was taken though the newest are kept
    )
"""

_SCHEMA = (
    """
    CREATE TABLE feed_events (
        seq INTEGER PRIMARY KEY,
        topic TEXT NOT NULL,
        type TEXT NOT NULL,
        is_json INTEGER NOT NULL,
        time INTEGER NOT NULL,    -- of the commit, milliseconds since 1970
        start INTEGER NOT NULL,   -- the sizes of all events before this one, together
        -- Behind the others, so that those are read without it; then the class of retention.
        data TEXT NOT NULL,
        class INTEGER
    )
    """,
    "CREATE TABLE feed_epochs (epoch TEXT PRIMARY KEY, first INTEGER NOT NULL)",
    """
    CREATE TABLE feed_answers (
        principal TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        epoch TEXT NOT NULL,
        first INTEGER NOT NULL,
        count INTEGER NOT NULL,
        expires INTEGER NOT NULL, -- milliseconds since 1970
        ids TEXT,                 -- of all events, with blanks between them, where `first` and `count` do not say it
        UNIQUE (principal, key)
    )
    """,
    _LEASES,
    _CLASSES,
    *_INDEXES,
    f"PRAGMA application_id = {APPLICATION_ID}",
    _VERSION,
)


def create(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file, in one transaction."""
    connection.execute("BEGIN EXCLUSIVE")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("COMMIT")


def is_old(connection: sqlite3.Connection) -> bool:
    """Return whether the tables are those of an older version. An application whose tables are beside them may have set
    the version to a number of its own, so the tables have to say so, too."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version < SCHEMA_VERSION and not _has(connection, TABLES[-1])


def tables_of(connection: sqlite3.Connection) -> Sequence[str]:
    """Return the names of the tables that are there, or should be, in this version of the file."""
    if not is_old(connection):
        return TABLES
    return TABLES[: len(OLD_TABLES)] if _has(connection, TABLES[0]) else OLD_TABLES


def _has(connection: sqlite3.Connection, table: str) -> bool:
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
    return found is not None


def migrate(connection: sqlite3.Connection) -> None:
    """Give the tables of an older version the form of now. The caller begins the transaction, and commits it.

    Rows are not touched, so it takes no longer for many. Views and triggers that an application has put on the tables
    follow their names. An index cannot be renamed: both are made anew.
    """
    if not _has(connection, TABLES[0]):
        for old, new in zip(OLD_TABLES, TABLES, strict=False):
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")
        for old in _OLD_INDEXES:
            connection.execute(f"DROP INDEX IF EXISTS {old}")
        for statement in _INDEXES:
            connection.execute(statement)
    for statement in (
        "ALTER TABLE feed_answers ADD COLUMN ids TEXT",
        "ALTER TABLE feed_events ADD COLUMN class INTEGER",
        _LEASES,
        _CLASSES,
        _VERSION,
    ):
        connection.execute(statement)
