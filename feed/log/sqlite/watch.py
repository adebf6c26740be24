"""Whether the log's files are still those that were opened, and nobody else has written into them.

Looking costs a third of a commit, so it is done twenty times a second at most. There is more than one way to take the
log from under a server that runs:

- The file is removed or replaced by another one: its name leads to another inode.
- Another program writes through SQLite (a row deleted, `.restore`): `PRAGMA data_version` of the writing connection
  changes.
- The file is overwritten in place (`cp copy.db feed.db`): SQLite does not notice. But only a checkpoint writes to that
  file, and those are made by the one that watches: at any other time its size and time stay.
- The write-ahead log is cut off (`truncate -s 0 feed.db-wal`, to free a disk): between our checkpoints it only grows.

The last two may be harmless (`VACUUM`, `touch`, somebody else's checkpoint, an error before). What is in the file then
says whether it is still this log.
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
    """What the writer knows of the log, and no other log nor an older copy of this one has: its epoch, its position,
    and the sizes of all before the newest event. And what is retained: from `oldest` on, so many events."""

    epoch: str
    position: int
    start: int
    oldest: int
    events: int


class Watch:
    """For the thread that writes."""

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
        """Whether the last look is long enough ago, or found nothing good."""
        return self._broken is not None or time.monotonic() - self._seen >= _LOOK

    def look(self, known: Known) -> Holes | None:
        """Raises `FeedUnavailable` if this is not the log any more: what we wrote would be gone at the next start.

        If it is still the log, and events are not there any more: the holes that are in it now. Else None.
        """
        if self._look_up_files() != self._files:
            raise FeedUnavailable("its file was removed or replaced: the server has to be restarted", 30)
        # In this order: who cuts it off through SQLite changes the version, too.
        holes, stamp, ahead, version = None, self._stamp_now(), self.wal_bytes(), self._data_version()
        is_other = stamp[0] != self._stamp[0] or ahead < self._ahead  # a copy, older or newer: parts of both are in it
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
        """Around what writes to the file, which then has changed by us."""
        unchanged, uncut = self._stamp_now() == self._stamp, self.wal_bytes() >= self._ahead
        try:
            yield
        finally:
            if unchanged:
                self._stamp = self._stamp_now()
            if uncut:
                self._ahead = self.wal_bytes()

    def wal_bytes(self) -> int:
        """How large the write-ahead log is."""
        return _size(f"{self._path}-wal")

    def file_bytes(self) -> FileBytes:
        """See `FileBytes`."""
        ahead = self.wal_bytes()
        return FileBytes(_size(str(self._path)) + ahead, ahead)

    def _examine(self, known: Known, *, overwritten: bool) -> Holes | None:
        # Not by the connection that writes: what that has in memory is what was in the file.
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
    """Which file this is, whatever its name; None if there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return status.st_dev, status.st_ino
