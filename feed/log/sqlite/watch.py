"""Whether the log's files are still those that were opened, and nobody else has written into them.

Looking costs a third of a commit, so it is done twenty times a second at most. There is more than one way to take the
log from under a server that runs:

- The file is removed or replaced by another one: its name leads to another inode.
- Another program writes through SQLite (a row deleted, `.restore`): `PRAGMA data_version` of the writing connection
  changes. Not only then, so what is in the file says whether it is still this log.
- The file is overwritten in place (`cp copy.db feed.db`): SQLite does not notice. But only a checkpoint writes to that
  file, and those are made by the one that watches, or by another program that writes through SQLite.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from feed.errors import FeedUnavailable
from feed.log.contract import FileBytes
from feed.log.sqlite.file import LOCK_SUFFIX, Hole

_LOOK = 0.05  # seconds between looks

_GAPS = """
SELECT before + 1, seq - 1 FROM (SELECT seq, lag(seq) OVER (ORDER BY seq) AS before FROM events)
WHERE before IS NOT NULL AND seq != before + 1 ORDER BY seq
"""


class Newest(NamedTuple):
    """What tells this log from any other, and from an older copy of itself: its epoch, and its newest event (0 for a
    log that never had one), with the sizes of all before it."""

    epoch: str
    seq: int
    start: int


class Watch:
    """For the thread that writes."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._files = self._look_up_files()
        self._version = self._data_version()
        self._stamp = self._stamp_now()
        self._seen = time.monotonic()
        self._broken: str | None = None

    def is_due(self) -> bool:
        """Whether the last look is long enough ago."""
        return time.monotonic() - self._seen >= _LOOK

    def look(self, newest: Newest) -> Sequence[Hole] | None:
        """Raises `FeedUnavailable` if this is not the log any more: what we wrote would be gone at the next start.

        If somebody else may have written, and it is still the log: the holes that are in it now. Else None.
        """
        if self._look_up_files() != self._files:
            raise FeedUnavailable("its file was removed or replaced: the server has to be restarted", 30)
        holes, stamp, version = None, self._stamp_now(), self._data_version()
        if self._broken is None and version != self._version:
            holes = self._examine(newest)
        elif self._broken is None and stamp != self._stamp:
            self._broken = "its file was overwritten by another program: the server has to be restarted"
        if self._broken is not None:
            raise FeedUnavailable(self._broken, 30)
        self._stamp, self._version, self._seen = stamp, version, time.monotonic()
        return holes

    @contextlib.contextmanager
    def own_checkpoint(self) -> Iterator[None]:
        """Around what writes to the file, which then has changed by us."""
        unchanged = self._stamp_now() == self._stamp
        try:
            yield
        finally:
            if unchanged:
                self._stamp = self._stamp_now()

    def wal_bytes(self) -> int:
        """How large the write-ahead log is."""
        return _size(f"{self._path}-wal")

    def file_bytes(self) -> FileBytes:
        """See `FileBytes`."""
        ahead = self.wal_bytes()
        return FileBytes(_size(str(self._path)) + ahead, ahead)

    def _examine(self, newest: Newest) -> Sequence[Hole]:
        connection = self._connection
        known = connection.execute("SELECT 1 FROM epochs WHERE epoch = ?", (newest.epoch,)).fetchone()
        last = connection.execute("SELECT seq, start FROM events ORDER BY seq DESC LIMIT 1").fetchone()
        if known is None or (last or (0, newest.start)) != (newest.seq, newest.start):
            self._broken = "its events were changed by another program: the server has to be restarted"
            return ()
        return connection.execute(_GAPS).fetchall()

    def _data_version(self) -> int:
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    def _look_up_files(self) -> Sequence[tuple[int, int] | None]:
        return [_identity(f"{self._path}{suffix}") for suffix in ("", "-wal", LOCK_SUFFIX)]

    def _stamp_now(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            status = os.stat(self._path)  # noqa: PTH116
            return status.st_size, status.st_mtime_ns
        return None


def _size(path: str) -> int:
    with contextlib.suppress(OSError):
        return os.stat(path).st_size  # noqa: PTH116
    return 0


def _identity(path: str) -> tuple[int, int] | None:
    """Which file this is, whatever its name; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_dev, status.st_ino
