"""What the server logs: a line each, whatever a client has put into it."""

from __future__ import annotations

import logging
import re

UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 controls, the line ends that only Unicode knows, what turns a terminal's text around, and what no encoding
takes."""


def one_line(text: str) -> str:
    """The text with everything escaped that could end the line, or be more than text to a terminal."""
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class OneLine(logging.Formatter):
    """A record is one line. Only a traceback goes on, in lines that are set in: none of them, not even one that quotes
    a client, can be taken for a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """See `logging.Formatter`."""
        record.message = one_line(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802
        """See `logging.Formatter`."""
        return self._set_in(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        """See `logging.Formatter`."""
        return self._set_in(super().formatStack(stack_info))

    def _set_in(self, text: str) -> str:
        return "\n".join(f"  {one_line(line)}" for line in text.split("\n"))


def log_to_stderr(form: str) -> None:
    """Log warnings and errors, in this form; a second call replaces the first."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine(form))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def dropped_lines() -> int:
    return 0
