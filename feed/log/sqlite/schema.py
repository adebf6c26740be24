"""The tables of the file, and how the tables of an older file become these.

All names begin with `feed_`, so that an application may keep tables of its own beside them. Version 1 had the names
`events`, `epochs` and `answers`. The header of the file names its owner and the version (sqlite.org/fileformat2.html,
1.3), so a program that is older than the file refuses it.
"""

from __future__ import annotations

import sqlite3

APPLICATION_ID = 0x66656564  # "feed"
SCHEMA_VERSION = 2

TABLES = ("feed_events", "feed_epochs", "feed_answers")
OLD_TABLES = ("events", "epochs", "answers")
"""The same tables in version 1."""

_INDEXES = (
    "CREATE INDEX feed_events_by_topic ON feed_events (topic)",
    "CREATE INDEX feed_answers_by_expiry ON feed_answers (expires)",
)
_OLD_INDEXES = ("events_by_topic", "answers_by_expiry")
_VERSION = f"PRAGMA user_version = {SCHEMA_VERSION}"

_SCHEMA = (
    """
    CREATE TABLE feed_events (
        seq INTEGER PRIMARY KEY,
        topic TEXT NOT NULL,
        type TEXT NOT NULL,
        is_json INTEGER NOT NULL,
        time INTEGER NOT NULL,    -- of the commit, milliseconds since 1970
        start INTEGER NOT NULL,   -- the sizes of all events before this one, together
        data TEXT NOT NULL        -- last, so that the other columns are read without it
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
        UNIQUE (principal, key)
    )
    """,
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
    """Return whether the tables are those of version 1, of which nothing is renamed yet."""
    if connection.execute("PRAGMA user_version").fetchone()[0] >= SCHEMA_VERSION:
        return False
    there = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", TABLES[:1]).fetchone()
    return there is None


def migrate(connection: sqlite3.Connection) -> None:
    """Give the tables of version 1 the names of now. The caller begins the transaction, and commits it.

    Rows are not touched, so it takes no longer for many. Views and triggers that an application has put on the tables
    follow their names. An index cannot be renamed: both are made anew.
    """
    for old, new in zip(OLD_TABLES, TABLES, strict=True):
        connection.execute(f"ALTER TABLE {old} RENAME TO {new}")
    for old in _OLD_INDEXES:
        connection.execute(f"DROP INDEX IF EXISTS {old}")
    for statement in (*_INDEXES, _VERSION):
        connection.execute(statement)
