"""The logs: one contract (`feed.log.contract`), an implementation a module, and `open_log` to choose by URL."""

from __future__ import annotations

from feed.errors import LogRefused
from feed.log.contract import Appended, IdempotencyKey, Log, Page, Retention
from feed.log.memory import MemoryLog
from feed.log.sqlite import SQLiteLog

__all__ = ["Appended", "IdempotencyKey", "Log", "Page", "Retention", "check_log_url", "open_log"]


def check_log_url(url: str) -> str:
    """The URL itself, if it names a log: `memory:`, or `sqlite:PATH`. Raises `LogRefused`."""
    scheme, colon, path = url.partition(":")
    if colon and (scheme, bool(path)) in {("memory", False), ("sqlite", True)}:
        return url
    raise LogRefused(f"{url!r} names no log: use memory: or sqlite:PATH, such as sqlite:feed.db")


async def open_log(url: str, retention: Retention) -> Log:
    """Open the log that `url` names; an SQLite file is made if it is not there. Raises `LogRefused`."""
    scheme, _, path = check_log_url(url).partition(":")
    if scheme == "memory":
        return MemoryLog(retention)
    return await SQLiteLog.open(path, retention)
