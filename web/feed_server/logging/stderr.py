"""The output of the log: standard error, without waiting for it.

Standard error may block: a full pipe, a disk, a terminal that somebody has paused. So a thread writes the lines. Lines
that it cannot write in time are dropped and counted, and the log says how many when there is room again. Nothing here
touches the host application's logging: only `feed serve` calls `logging_to_stderr`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from feed_server.logging.formatters import JournalLine, JsonLine, OneLine

Format = Literal["auto", "text", "json"]
Level = Literal["debug", "info", "warning", "error"]

_OWN = (
    "feed",
    "feed_server",
)  # the level is for their records; of libraries only warnings are logged: their debug lines contain URLs

_MOST_BYTES = 4 << 20  # of lines that wait
_MOST_LINE = 32 << 10  # bytes of one
_ATOMIC = 4096  # bytes that a pipe takes whole, also where other workers write to it (PIPE_BUF, pipe(7))
_AT_ONCE = 64 << 10  # bytes of one write by a process that writes alone
_GATHER = 0.1  # seconds that a line waits for others: a write for each would cost more than all the rest
_FAREWELL = 1.0  # seconds for the lines that wait when the server ends


class Output(Protocol):
    """An output for lines. `dropped` counts the lines that could not be written."""

    dropped: int

    def put(self, line: bytes) -> None:
        """Take a line from any thread, without waiting."""

    def close(self) -> None:
        """Write the lines that wait, for at most a second."""


class QueuedOutput:
    """Writes from a thread of its own. `remark` makes the line that says how many lines were dropped. `others` says
    that other processes write to the same descriptor."""

    def __init__(self, descriptor: int, remark: Callable[[int], bytes], *, others: bool = False) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._piece = _ATOMIC if others else _AT_ONCE
        self._remark = remark
        self._lines: list[bytes] = []
        self._size = 0  # of what waits, and of what is being written
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._closing = threading.Event()
        self._woken = False
        self._thread = threading.Thread(target=self._run, name="feed-log-lines", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """See `Output`."""
        with self._lock:
            if self._size + len(line) > _MOST_BYTES:
                self.dropped += 1
            else:
                self._lines.append(line)
                self._size += len(line)
            if self._woken:
                return
            self._woken = True
        self._some.set()

    def close(self) -> None:
        """See `Output`."""
        self._closing.set()
        self._some.set()
        self._thread.join(_FAREWELL)

    def _run(self) -> None:
        told = 0
        while True:
            self._some.wait()
            is_last = self._closing.wait(_GATHER)
            with self._lock:
                lines, self._lines = self._lines, []
                dropped = self.dropped
                self._woken = False
                if not is_last:
                    self._some.clear()
            for piece in _pieces(lines, self._piece):
                self._write(piece)
            if dropped > told:
                self._write(self._remark(dropped - told))
                told = dropped
            with self._lock:
                self._size -= sum(map(len, lines))
            if is_last:
                return

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process that shares the descriptor has made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError:  # the reader is gone
                with self._lock:
                    self.dropped += bytes(rest).count(b"\n")
                return


def _pieces(lines: list[bytes], most: int) -> Iterator[bytes]:
    """Yield runs of whole lines to be written at once."""
    run: list[bytes] = []
    size = 0
    for line in lines:
        if run and size + len(line) > most:
            yield b"".join(run)
            run, size = [], 0
        run.append(line)
        size += len(line)
    if run:
        yield b"".join(run)


class DirectOutput:
    """Writes a line if that does not block, else drops it. For a process that forks and must not have threads."""

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def put(self, line: bytes) -> None:
        """See `Output`."""
        for start in range(0, len(line), _ATOMIC):
            # A pipe that is writable takes this many bytes at once.
            if not self._poll.poll(0):
                self.dropped += 1
                return
            with contextlib.suppress(OSError):
                os.write(self._descriptor, line[start : start + _ATOMIC])

    def close(self) -> None:
        """See `Output`."""


class OutputHandler(logging.Handler):
    """Passes records to an output, as lines."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.output: Output

    def handle(self, record: logging.LogRecord) -> bool:
        """See `logging.Handler`. Without its lock: the output has its own."""
        self.emit(record)
        return True

    def line(self, record: logging.LogRecord) -> bytes:
        """Return the line of a record."""
        if isinstance(self.formatter, JsonLine):
            line = self.formatter.encoded(record)
        else:
            line = self.format(record).encode("utf-8", "backslashreplace")
        if len(line) > _MOST_LINE:
            line = line[:_MOST_LINE].decode("utf-8", "ignore").encode() + b" ..."
        return line + b"\n"

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            self.output.put(self.line(record))
        except Exception:  # noqa: BLE001  whatever it is, the caller has better things to do
            self.handleError(record)

    @property
    def stamp(self) -> Callable[[float], str]:
        """What makes a time, in seconds since 1970, as the lines have it, if they have one."""
        return self.formatter.stamp if isinstance(self.formatter, JsonLine | OneLine) else str

    def remark(self, count: int) -> bytes:
        """Return the line that says how many lines were dropped."""
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, "%d log lines were dropped", (count,), None)
        return self.line(record)


@contextlib.contextmanager
def logging_to_stderr(
    format: Format, level: Level, *, quiet_publishes: bool = False, worker: int | None = None, forks: bool = False
) -> Iterator[None]:
    """Log to standard error for as long as the block lasts.

    `auto` is text on a terminal, else JSON. Records of at least `level` are logged, without those of successful
    publishes where `quiet_publishes` is true. `worker` is named in each line. `forks` says that the process forks and
    must not have threads.
    """
    descriptor = sys.stderr.fileno()
    handler = OutputHandler(_formatter(format, descriptor, worker))
    handler.output = (
        DirectOutput(descriptor) if forks else QueuedOutput(descriptor, handler.remark, others=worker is not None)
    )
    least = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(least, logging.WARNING), handlers=[handler], force=True)
    for name in _OWN:
        logging.getLogger(name).setLevel(least)
    quiet = logging.WARNING if quiet_publishes else logging.NOTSET  # a line costs a twentieth of a publish
    logging.getLogger("feed.requests.publishes").setLevel(quiet)
    try:
        yield
    finally:
        handler.output.close()


def _formatter(format: Format, descriptor: int, worker: int | None) -> logging.Formatter:
    is_journal = _is_journal(descriptor)
    if format == "json" or (format == "auto" and not os.isatty(descriptor)):
        return JsonLine(timed=not is_journal, server={} if worker is None else {"worker": worker})
    who = "" if worker is None else f"worker {worker} "
    if is_journal:
        return JournalLine(f"{who}%(name)s: %(message)s")
    return OneLine(f"%(asctime)s %(levelname)s {who}%(name)s: %(message)s")


def _is_journal(descriptor: int) -> bool:
    """Whether a descriptor is the journal's socket, by what systemd sets (systemd.exec(5), JOURNAL_STREAM)."""
    status = os.fstat(descriptor)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def only_handler(logger: logging.Logger) -> OutputHandler | None:
    """Return the handler that gets all that this logger logs, None if others, or other handlers, get it too."""
    found: list[logging.Handler] = []
    above: logging.Logger | None = logger
    while above is not None:
        if above.filters:
            return None
        found += above.handlers
        above = above.parent if above.propagate else None
    handler = found[0] if len(found) == 1 else None
    return handler if isinstance(handler, OutputHandler) else None


def dropped_lines() -> int:
    """Return how many lines of this process could not be written."""
    return sum(handler.output.dropped for handler in logging.getLogger().handlers if isinstance(handler, OutputHandler))
