"""The logs: one contract (`feed.log.contract`), one implementation in each module, and `open_log` to choose by URL."""

from __future__ import annotations

import contextlib

from feed.errors import LogRefused
from feed.log.classes import Retention
from feed.log.contract import Appended, Log, Page
from feed.log.idempotency import IdempotencyKey
from feed.log.memory import MemoryLog
from feed.log.redis.address import SCHEMES, parse_address, without_password
from feed.log.sqlite import SQLiteLog
from feed.log.sqlite.address import parse_path, suggestion

KINDS = "memory:, sqlite:PATH or redis://HOST:PORT/DB?stream=NAME"

__all__ = [
    "Appended",
    "IdempotencyKey",
    "Log",
    "Page",
    "Retention",
    "check_log_url",
    "is_shared",
    "open_log",
    "take_over",
    "without_password",
]


def check_log_url(url: str) -> str:
    """Return the URL itself if it names a log. Raises `LogRefused`, with the URLs that there are."""
    scheme, colon, path = url.partition(":")
    if colon and scheme in SCHEMES:
        parse_address(url)
        return url
    if (scheme, colon, path) == ("memory", ":", ""):
        return url
    if scheme == "sqlite" and path:
        parse_path(url)
        return url
    meant = _meant(url)
    raise LogRefused(
        f"{without_password(url)!r} does not name a log: use {KINDS}" + (f"; did you mean {meant}?" if meant else "")
    )


def _meant(url: str) -> str | None:
    scheme, colon, path = url.partition(":")
    kind = scheme.lower().partition("+")[0]
    if kind == "memory" or url == ":memory:":
        return "memory:"
    if colon and path and kind in ("sqlite", "sqlite3", "file"):
        return " or ".join(suggestion(path))
    if not colon and url.endswith((".db", ".sqlite", ".sqlite3")):
        return f"sqlite:{url}"
    return None


def is_shared(url: str) -> bool:
    """Return whether several processes may have the log open at once."""
    return url.partition(":")[0] in SCHEMES


async def open_log(url: str, retention: Retention, node: str = "") -> Log:
    """Open the log that `url` names, or make it. `node` is the name of this process among those that share the log.

    Raises `LogRefused`, and `FeedUnavailable` where the log's server cannot be reached yet.
    """
    scheme = check_log_url(url).partition(":")[0]
    if scheme == "memory":
        return MemoryLog(retention)
    if scheme == "sqlite":
        return await SQLiteLog.open(parse_path(url), retention)
    from feed.log.redis.log import RedisLog  # redis-py takes a tenth of a second, and the other logs do not need it

    return await RedisLog.open(url, retention, node)


async def take_over(left: Log) -> Log | None:
    """Take over the log that an event loop has left open when it ended. A log in memory is returned, and goes on in the
    loop that runs now. Any other log is closed, and None returned, so that it can be opened afresh."""
    if isinstance(left, MemoryLog):
        left.forget_followers()
        return left
    with contextlib.suppress(Exception):  # its connections belong to the ended loop, and go with their objects
        await left.close()
    return None
