"""What a check has found, and how bad it is. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple


class Severity(enum.Enum):
    """How bad it is, from good to bad."""

    OK = "ok"
    UNKNOWN = "unknown"
    """It could not be found out: no verdict, and no promise that it works."""
    WARN = "warn"
    """It works, but worse than it could, or not for everybody."""
    FAIL = "fail"


_MOST_WORDS = 600
"""Characters: some are the other side's."""


class Finding(NamedTuple):
    """One verdict: which check, in words what was seen, and what to do about it."""

    check: str
    severity: Severity
    words: str
    cure: str = ""


def ok(check: str, words: str) -> Finding:
    """All is well."""
    return _made(check, Severity.OK, words)


def unknown(check: str, words: str, cure: str = "") -> Finding:
    """What could not be found out, and what it would take."""
    return _made(check, Severity.UNKNOWN, words, cure)


def warn(check: str, words: str, cure: str) -> Finding:
    """Could be better."""
    return _made(check, Severity.WARN, words, cure)


def fail(check: str, words: str, cure: str) -> Finding:
    """Broken."""
    return _made(check, Severity.FAIL, words, cure)


def _made(check: str, severity: Severity, words: str, cure: str = "") -> Finding:
    # Headers may hold what is no text at all, which could not be printed as JSON.
    words = words.encode("utf-8", "replace").decode()
    return Finding(check, severity, words if len(words) <= _MOST_WORDS else f"{words[:_MOST_WORDS]}…", cure)


UNREACHED = 1
_CODES = {Severity.WARN: 3, Severity.FAIL: 4}  # 2 is a wrong command line, as with every command


def exit_code(findings: Iterable[Finding], *, reached: bool) -> int:
    """0: nothing wrong was found. 1: there was no feed to look at. 3: a warning at most. 4: something is broken."""
    if not reached:
        return UNREACHED
    return max((_CODES.get(finding.severity, 0) for finding in findings), default=0)
