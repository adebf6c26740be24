"""The format of log lines: one line for each record, whatever a client has sent, and never a token.

Lines are text for people, or JSON for programs, an object a line. The journal of systemd adds the time itself, and
reads the level from a prefix of each line (sd-daemon(3)).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from feed.fastapi.logging.records import FactRecord, without_tokens
from feed.wire import rfc3339

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 controls, the line ends of Unicode, characters that change the direction of text, and surrogates, which no
encoding accepts."""

_LEVELS = {level: logging.getLevelName(level).lower() for level in (10, 20, 30, 40, 50)}
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def one_line(text: str) -> str:
    """Return the text with everything escaped that could end the line or control a terminal."""
    if text.isascii() and text.isprintable():
        return text
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class OneLine(logging.Formatter):
    """Formats a record as one line. A traceback follows in indented lines, none of which can be mistaken for a record,
    even if it quotes a client."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """See `logging.Formatter`."""
        return self.stamp(record.created)

    @staticmethod
    def stamp(created: float) -> str:
        """Return a time, in seconds since 1970, as the lines have it."""
        second, zone = _second(int(created))
        return f"{second}.{int(created % 1 * 1000):03}{zone}"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """See `logging.Formatter`."""
        message = record.message
        record.message = one_line(message if isinstance(record, FactRecord) else without_tokens(message))
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802
        """See `logging.Formatter`."""
        return self._set_in(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        """See `logging.Formatter`."""
        return self._set_in(super().formatStack(stack_info))

    def _set_in(self, text: str) -> str:
        return "\n".join(f"  {one_line(line)}" for line in without_tokens(text).split("\n"))


@lru_cache(maxsize=4)
def _second(second: int) -> tuple[str, str]:
    """Return local time, which people read, and its offset from UTC. Without the offset the time would mean nothing
    elsewhere, nor in the hour that comes twice in autumn."""
    time_and_zone = datetime.fromtimestamp(second, UTC).astimezone().isoformat(" ")
    return time_and_zone[:19], time_and_zone[19:]


class JournalLine(OneLine):
    """Formats a record as text for the journal, each line with its priority."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return prefix + super().format(record).replace("\n", f"\n{prefix}")


class JsonLine(logging.Formatter):
    """Formats a record as a JSON object: `level`, `time` except for the journal, `worker` where there are several; then
    the record's facts, or `logger`, `message` and `exception`. The members of `server` are in every object."""

    def __init__(self, *, timed: bool, server: Mapping[str, Any]) -> None:
        super().__init__()
        self._timed = timed
        self._server = server

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        return self.encoded(record).decode()

    @staticmethod
    def stamp(created: float) -> str:
        """Return a time, in seconds since 1970, as the lines have it."""
        return rfc3339(int(created * 1000))

    def encoded(self, record: logging.LogRecord) -> bytes:
        """Return the line as bytes."""
        begin: dict[str, Any] = {"time": self.stamp(record.created)} if self._timed else {}
        begin["level"] = _LEVELS.get(record.levelno) or record.levelname.lower()
        line = {**begin, **self._server, **(record.facts if isinstance(record, FactRecord) else self._words(record))}
        try:
            encoded = orjson.dumps(line)
        except orjson.JSONEncodeError:  # a lone surrogate, or a value that a library has logged
            return json.dumps(line, default=str).encode()
        if encoded.isascii() and b"\x7f" not in encoded:
            return encoded  # other controls are escaped already
        return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded.decode()).encode()

    def _words(self, record: logging.LogRecord) -> dict[str, Any]:
        words = {"logger": record.name, "message": without_tokens(record.getMessage())}
        if record.exc_info:
            words["exception"] = without_tokens(self.formatException(record.exc_info))
        return words
