"""What a check has found, and how bad that is. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple


class Severity(enum.Enum):
    """How bad a finding is, from good to bad."""

    OK = "ok"
    UNKNOWN = "unknown"
    """Nothing could be found out: it may work or not."""
    WARN = "warn"
    """It works, but worse than it could, or not for everyone."""
    FAIL = "fail"


_MOST_WORDS = 600
"""Characters of a finding: some of them come from the other side."""


class Finding(NamedTuple):
    """One verdict: the check, what was seen in words, and what to do about it."""

    check: str
    severity: Severity
    words: str
    cure: str = ""


def ok(check: str, words: str) -> Finding:
    """Make the finding that all is well."""
    return _made(check, Severity.OK, words)


def unknown(check: str, words: str, cure: str = "") -> Finding:
    """Make the finding that nothing could be found out, and say what that would take."""
    return _made(check, Severity.UNKNOWN, words, cure)


def warn(check: str, words: str, cure: str) -> Finding:
    """Make the finding that something could be better."""
    return _made(check, Severity.WARN, words, cure)


def fail(check: str, words: str, cure: str) -> Finding:
    """Make the finding that something is broken."""
    return _made(check, Severity.FAIL, words, cure)


def _made(check: str, severity: Severity, words: str, cure: str = "") -> Finding:
    # Headers may hold bytes that are not text, which could not be printed as JSON.
    words = words.encode("utf-8", "replace").decode()
    return Finding(check, severity, words if len(words) <= _MOST_WORDS else f"{words[:_MOST_WORDS]}…", cure)


UNREACHED = 1
_CODES = {Severity.WARN: 3, Severity.FAIL: 4}  # 2 is a wrong command line, as with every command


def exit_code(findings: Iterable[Finding], *, reached: bool) -> int:
    """Return 0 if nothing wrong was found, 1 if no feed answered, 3 for warnings at most, 4 if something is broken."""
    if not reached:
        return UNREACHED
    return max((_CODES.get(finding.severity, 0) for finding in findings), default=0)
