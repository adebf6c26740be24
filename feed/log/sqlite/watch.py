"""A watch over the log's files: are they still those that were opened, and has no other program written to them?

A look costs a third of a commit, so there are at most twenty a second. A log can be taken away from a running server in
several ways:

- The file is removed or replaced. Its name then leads to another inode.
- Another program writes through SQLite (it deletes a row, or `.restore`s). `PRAGMA data_version` of the writing
  connection changes.
- The file is overwritten in place (`cp copy.db feed.db`). SQLite does not notice. But only a checkpoint writes to that
  file, and the thread that watches makes all checkpoints. At any other time the file keeps its size and time.
- The write-ahead log is truncated (`truncate -s 0 feed.db-wal`, to free a disk). Between two checkpoints it only grows.

The last two may be harmless (`VACUUM`, `touch`, a checkpoint of another program, an earlier error). Then the content of
the file tells whether it is still this log. Tables of an application in the same file do not matter.
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
from feed.log.sqlite.file import LOCK_SUFFIX
from feed.log.sqlite.holes import Holes

_LOOK = 0.05  # seconds between looks

_OVERWRITTEN = "its file was overwritten by another program: the server has to be restarted"

_HOLES = """
SELECT before + 1, seq - 1
FROM (SELECT seq, lag(seq, 1, ?1 - 1) OVER (ORDER BY seq) AS before FROM feed_events WHERE seq >= ?1)
WHERE seq != before + 1 ORDER BY seq
"""


_COUNT = "SELECT count(*) FROM feed_events NOT INDEXED WHERE seq >= ?"
_COUNT_BY_TOPIC = "SELECT count(*) FROM feed_events INDEXED BY feed_events_by_topic WHERE topic >= '' AND seq >= ?"


class Known(NamedTuple):
    """What the writer knows, and what neither another log nor an older copy of this one has: the epoch, the position,
    and the sizes of all events before the newest one. `events` is how many are retained, from `oldest` on."""

    epoch: str
    position: int
    start: int
    oldest: int
    events: int


class Watch:
    """The watch. The thread that writes uses it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._files = self._look_up_files()
        self._version = self._data_version()
        self._stamp = self._stamp_now()
        self._ahead = self.wal_bytes()
        self._seen = time.monotonic()
        self._broken: str | None = None

    def is_due(self) -> bool:
        """Return whether the last look is long enough ago, or has found something wrong."""
        return self._broken is not None or time.monotonic() - self._seen >= _LOOK

    def look(self, known: Known) -> Holes | None:
        """Raise `FeedUnavailable` if the files are not this log any more: what is written now would be gone at the next
        start.

        Return the holes if events are missing that were there before, else None.
        """
        if self._look_up_files() != self._files:
            raise FeedUnavailable("its file was removed or replaced: the server has to be restarted", 30)
        # In this order: a program that truncates it through SQLite also changes the version.
        holes, stamp, ahead, version = None, self._stamp_now(), self.wal_bytes(), self._data_version()
        is_other = (
            stamp[0] != self._stamp[0] or ahead < self._ahead
        )  # an older or newer copy: the file is a mixture of both
        if self._broken is None and version == self._version and is_other:
            self._broken = _OVERWRITTEN
        elif self._broken is None and (version, stamp) != (self._version, self._stamp):
            holes = self._examine(known, overwritten=version == self._version)
        if self._broken is not None:
            raise FeedUnavailable(self._broken, 30)
        self._stamp, self._version, self._ahead, self._seen = stamp, version, ahead, time.monotonic()
        return holes

    @contextlib.contextmanager
    def own_checkpoint(self) -> Iterator[None]:
        """Surround a checkpoint of this program: the file changes, and that is right."""
        unchanged, uncut = self._stamp_now() == self._stamp, self.wal_bytes() >= self._ahead
        try:
            yield
        finally:
            if unchanged:
                self._stamp = self._stamp_now()
            if uncut:
                self._ahead = self.wal_bytes()

    def wal_bytes(self) -> int:
        """Return the size of the write-ahead log."""
        return _size(f"{self._path}-wal")

    def file_bytes(self) -> FileBytes:
        """See `FileBytes`."""
        ahead = self.wal_bytes()
        return FileBytes(_size(str(self._path)) + ahead, ahead)

    def _examine(self, known: Known, *, overwritten: bool) -> Holes | None:
        # Not with the connection that writes: its cache has what was in the file before.
        uri = f"{self._path.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0)) as connection:
            is_ours = connection.execute("SELECT 1 FROM feed_epochs WHERE epoch = ?", (known.epoch,)).fetchone()
            newest = connection.execute("SELECT seq, start FROM feed_events ORDER BY seq DESC LIMIT 1").fetchone()
            counts = [connection.execute(count, (known.oldest,)).fetchone()[0] for count in (_COUNT, _COUNT_BY_TOPIC)]
            if is_ours is None or (newest or (0, known.start)) != (known.position, known.start):
                self._broken = "its events were changed by another program: the server has to be restarted"
            elif counts == [known.events, known.events]:
                return None
            elif overwritten or counts[0] != counts[1]:
                self._broken = _OVERWRITTEN
            else:
                return Holes(connection.execute(_HOLES, (known.oldest,)))
        return None

    def _data_version(self) -> int:
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return version

    def _look_up_files(self) -> Sequence[tuple[int, int] | None]:
        return [_identity(f"{self._path}{suffix}") for suffix in ("", "-wal", LOCK_SUFFIX)]

    def _stamp_now(self) -> tuple[int, int]:
        with contextlib.suppress(OSError):
            status = os.stat(self._path)  # noqa: PTH116
            return status.st_size, status.st_mtime_ns
        return 0, 0


def _size(path: str) -> int:
    with contextlib.suppress(OSError):
        return os.stat(path).st_size  # noqa: PTH116
    return 0


def _identity(path: str) -> tuple[int, int] | None:
    """Return which file this is, whatever its name. None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_dev, status.st_ino
