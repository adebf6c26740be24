"""What went wrong, in the feed's own words: those of SQLite may contain the data of an event, or a path."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time

from feed.errors import FeedError, FeedUnavailable, Indeterminate

logger = logging.getLogger("feed.log.sqlite")

_REPEAT = 60.0  # seconds until the same trouble is logged again

_WORDS = {
    sqlite3.SQLITE_ERROR: "its file was changed by another program",  # a table is missing, for one
    sqlite3.SQLITE_BUSY: "its file is locked by another program",
    sqlite3.SQLITE_LOCKED: "its file is locked by another program",
    sqlite3.SQLITE_NOMEM: "the server is short of memory",
    sqlite3.SQLITE_READONLY: "its file or its disk is read-only",
    sqlite3.SQLITE_IOERR: "its disk does not read or write",
    sqlite3.SQLITE_CORRUPT: "its file is damaged",
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
    sqlite3.SQLITE_CONSTRAINT: "its file was changed by another program",
    sqlite3.SQLITE_NOTADB: "its file is damaged",
}

_UNFORESEEN = "unexpected error, see the server's log"

_NOT_COMMITTED = frozenset({
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_NOTADB,
})  # fmt: skip
_NOT_WRITTEN = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_WRITE})


def code_of(error: BaseException) -> int | None:
    """Return SQLite's own code of an error. None where Python failed, not SQLite."""
    return getattr(error, "sqlite_errorcode", None) if isinstance(error, sqlite3.Error) else None


def is_unreadable(error: BaseException) -> bool:
    """Return whether a value was read that is not valid text. Python's message then repeats the value."""
    return isinstance(error, sqlite3.OperationalError) and code_of(error) is None


def words_for(error: BaseException) -> str:
    """Return what went wrong, without anything from the file."""
    if isinstance(error, FeedError):
        return str(error)
    if isinstance(error, MemoryError):
        return _WORDS[sqlite3.SQLITE_NOMEM]
    if is_unreadable(error):
        return _WORDS[sqlite3.SQLITE_CORRUPT]
    return _WORDS.get((code_of(error) or 0) & 0xFF, _UNFORESEEN)


def unavailable(error: BaseException) -> FeedUnavailable:
    """Return the error for a caller for whom nothing was done."""
    retry_after = error.retry_after if isinstance(error, FeedUnavailable) else 1
    return FeedUnavailable(f"the log cannot be used now: {words_for(error)}", retry_after)


def indeterminate(error: BaseException) -> Indeterminate:
    """Return the error for a caller whose events may be found in the file after the next start."""
    return Indeterminate(f"the log could not finish a commit: {words_for(error)}. The events may have been published")


def may_be_committed(error: BaseException) -> bool:
    """Return whether the events of a commit that failed like this may be found in the write-ahead log after a crash.

    They are there once all is written, and only the sync or the index of the log is left to do. Errors of writing come
    before that, and so do errors that are not SQLite's.
    """
    if isinstance(error, MemoryError):
        return True  # Python's own, or SQLite's
    code = code_of(error)
    return code is not None and not (code & 0xFF in _NOT_COMMITTED or code in _NOT_WRITTEN)


class Reports:
    """Log trouble for the operator: once, and a minute later how often it came since. All threads may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}  # by the feed's own words, of which there are few
        self._untold: dict[str, int] = {}

    def tell(self, error: Exception) -> None:
        """Log what went wrong. This never raises: the caller has to go on."""
        with contextlib.suppress(Exception):
            words = words_for(error)
            name = getattr(error, "sqlite_errorname", None)
            foreseen = isinstance(error, FeedError) or words != _UNFORESEEN
            if (again := self._again(words)) is not None:
                named = f" [{name}]" if name else ""
                logger.error("the log: %s%s%s", words, named, again, exc_info=None if foreseen else error)

    def warn(self, words: str, fact: str = "") -> None:
        """Log that another program has done something to the file."""
        if (again := self._again(words)) is not None:
            logger.warning("the log: %s%s%s", words, f" ({fact})" if fact else "", again)

    def _again(self, words: str) -> str | None:
        """Return None if this was logged within the last minute, else how often it came since, as text."""
        now = time.monotonic()
        with self._lock:
            if now - self._told.get(words, -_REPEAT) < _REPEAT:
                self._untold[words] = self._untold.get(words, 0) + 1
                return None
            self._told[words] = now
            times = self._untold.pop(words, 0)
        return f" (and {times:,} times more since it was last said)" if times else ""

    def over(self) -> None:
        """Log that the log works again, and log the next trouble at once."""
        with self._lock:
            times = sum(self._untold.values())
            self._told.clear()
            self._untold.clear()
        logger.warning(
            "the log takes events again%s", f"; {times:,} more attempts had failed meanwhile" if times else ""
        )
