"""The logs: one contract (`feed.log.contract`), an implementation a module, and `open_log` to choose by URL."""

from __future__ import annotations

from feed.errors import LogRefused
from feed.log.contract import Appended, IdempotencyKey, Log, Page, Retention
from feed.log.memory import MemoryLog
from feed.log.sqlite import SQLiteLog

__all__ = ["Appended", "IdempotencyKey", "Log", "Page", "Retention", "open_log"]


async def open_log(url: str, retention: Retention) -> Log:
    """Open the log that `url` names: `memory:`, or `sqlite:PATH`, which is made if it is not there.

    Raises `LogRefused`.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "memory" and colon and not rest:
        return MemoryLog(retention)
    if scheme == "sqlite" and rest:
        return await SQLiteLog.open(rest, retention)
    raise LogRefused(f"{url!r} names no log: use memory: or sqlite:PATH, such as sqlite:feed.db")
