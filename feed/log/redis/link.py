"""A connection to Redis: made when it is needed, checked before it is used, dropped at the first fault.

redis-py's own client would reconnect and repeat a command without our check, and would not tell whether a command was
sent. So its `Connection` is used here, and its errors become the feed's:

- refused, or failed before the command was sent: `FeedUnavailable`. Nothing was done.
- broken after the command was sent: `Indeterminate`. The command may have been done.

A connection may outlive the role of its server. Behind an address that leads to the current primary (a Service, a DNS
name, a load balancer), connections from before a failover lead to what is a replica now, and still work. So any sign
that the other end does not take writes makes all connections of the log old (`Renewal`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from feed.backoff import Backoff, Reminder
from feed.errors import FeedError, FeedUnavailable, Indeterminate, LogRefused
from feed.log.redis.address import Address

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 4.0
"""The time in which Redis has to answer; after it the connection counts as dead."""

_CONNECT_SECONDS = 2.0

_RENEWAL_SECONDS = 1.0  # the longest pause after a renewal that did not help, before jitter of up to a half
_HELPED_SECONDS = 10.0  # without another renewal: then the last one has helped

_NOT_THE_PRIMARY = (ReadOnlyError, BusyLoadingError, MasterDownError, ClusterDownError)
_NOT_THE_PRIMARY_WORDS = ("UNBLOCKED", "NOREPLICAS")
"""Answers of a server that is a replica now, or is about to become one, or is cut off from the others. (A restarted
server has no connections from before.) Full memory and a full disk are not among them: a primary has these too."""

_NOT_LET_IN = "Redis refuses the login: check the user and the password in the URL"
_NAMED = re.compile(r"(UNKNOWN|FORBIDDEN) (\w+)")

Argument = str | bytes | int
Ask = Callable[..., Awaitable[Any]]
Work = Callable[[Ask], Awaitable[bool]]
"""Some commands and scripts in a row. Returns whether the server that answered is the primary."""


class Renewal:
    """Makes all connections of one log old at once. What one of them has met counts for the others, which may notice
    nothing, because reading and listening work on a replica too.

    If a new connection leads to a replica again, renewals pause, longer each time, up to a second or so. Meanwhile
    everything that a replica can do still works.
    """

    def __init__(self) -> None:
        self.age = 0
        self._backoff = Backoff(longest=_RENEWAL_SECONDS)
        self._last = -_HELPED_SECONDS
        self._not_before = 0.0

    def ask_for(self, age: int) -> None:
        """Note that a connection of this age does not lead to the primary."""
        now = asyncio.get_running_loop().time()
        if age != self.age or now < self._not_before:
            return
        if now - self._last > _HELPED_SECONDS:
            self._backoff.reset()
        self.age += 1
        self._last = now
        self._not_before = now + self._backoff.next()


class Script:
    """A Lua script: the shared part, and its own. Redis knows the script by its hash once it has run."""

    def __init__(self, name: str) -> None:
        folder = files("feed.log.redis") / "scripts"
        shebang, _, own = (folder / f"{name}.lua").read_text("utf-8").partition("\n")
        self.source = f"{shebang}\n{(folder / 'common.lua').read_text('utf-8')}\n{own}"
        self.hash = hashlib.sha1(self.source.encode()).hexdigest()  # noqa: S324  Redis names scripts by it


class Link:
    """A connection that runs one command at a time. On each new connection `greet` is awaited, with a function that
    asks over it; if it raises, the connection is not used. All links of one log share `renewal`.

    After a failed attempt to connect the link refuses at once for a while, longer each time.
    """

    def __init__(self, address: Address, name: str, greet: Work, renewal: Renewal) -> None:
        options: dict[str, Any] = dict(parse_url(address.url))
        self._class: type[AbstractConnection] = options.pop("connection_class", Connection)
        self._options = {
            **options,
            **({} if "path" in options else {"socket_keepalive": True}),
            "socket_timeout": None,  # our own timeouts apply
            "socket_connect_timeout": _CONNECT_SECONDS,
            "client_name": name,
            "protocol": 2,
        }
        self._greet = greet
        self._keys = address.keys
        self._connection: AbstractConnection | None = None
        self._renewal = renewal
        self._complaint = Reminder()
        self._age = renewal.age  # of the connection, as `Renewal` counts
        self._lock = asyncio.Lock()
        self._backoff = Backoff()
        self._not_before = 0.0
        self._connects = 0
        self._moved_to: dict[str, str | int] = {}  # the address that a Redis Cluster gave
        self._closed = False

    @property
    def reconnects(self) -> int:
        """How often the link had to connect again."""
        return max(0, self._connects - 1)

    async def open(self) -> None:
        """Connect, unless there is a connection. Raises `FeedUnavailable`, and `LogRefused` for a Redis that may not be
        used."""
        async with self._lock:
            await self._ready()

    async def ask(self, *command: Argument, patience: float = ANSWER_SECONDS) -> Any:
        """Run one command, and return its answer as redis-py parses it."""
        async with self._lock, self._refusals_hidden():
            await self._ready()
            return await self._exchange(*command, patience=patience)

    async def run(self, script: Script, *arguments: Argument) -> Any:
        """Run a script on the log's keys, and return its answer."""
        async with self._lock, self._refusals_hidden():
            await self._ready()
            return await self._run(script, *arguments)

    async def use(self, work: Work) -> None:
        """Run some commands and scripts in a row; nothing else comes between."""
        async with self._lock, self._refusals_hidden():
            await self._ready()
            await self._look_for_the_primary(work)

    async def say(self, *command: Argument) -> None:
        """Send a command whose answer `listen` returns. Does nothing if the connection is closed, or still waits for
        another answer, which would be mistaken for the answer to this one. Raises `FeedUnavailable`."""
        connection = self._connection
        if connection is None or self._lock.locked():
            return
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await connection.send_packed_command(connection.pack_command(*command), check_health=False)
        except (RedisError, OSError) as error:
            await self.drop()
            raise FeedUnavailable("the connection to Redis broke") from error

    async def listen(self, patience: float) -> Any:
        """Return the next message on a connection that has subscribed to a channel. Raises `FeedUnavailable`, also if
        nothing comes for `patience` seconds, or the connection has become old."""
        connection = self._connection
        if connection is None:
            raise FeedUnavailable("the connection to Redis is closed")
        if self._age != self._renewal.age:
            await self.drop()
            raise FeedUnavailable("the connection to Redis is replaced, because it may not lead to the primary")
        try:
            async with asyncio.timeout(patience):
                return await connection.read_response()
        except (RedisError, OSError) as error:
            await self.drop()
            raise FeedUnavailable("the connection to Redis broke") from error

    async def close(self) -> None:
        """Close the connection for good."""
        self._closed = True
        await self.drop()

    async def drop(self) -> None:
        """Close the connection. A new one is made when it is needed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    @contextlib.asynccontextmanager
    async def _refusals_hidden(self) -> AsyncIterator[None]:
        """Log what only an operator has to know; clients that are served meanwhile get `FeedUnavailable`."""
        try:
            yield
        except LogRefused as error:
            if self._complaint.is_due(str(error)):
                logger.error("%s", error)
            raise FeedUnavailable("the log cannot be used: the server's messages say why", 5) from error
        except _Moved as error:
            raise FeedUnavailable("the log has just moved within the Redis Cluster: try again") from error

    async def _ready(self) -> None:
        connection = self._connection
        if connection is not None:
            is_old = self._age != self._renewal.age
            if not is_old and not _is_broken(connection) and not await connection.can_read():
                return
            await self.drop()  # Redis has hung up, or sent something unasked, or another server is the primary now
        if self._closed:
            raise FeedUnavailable("the log is closed")
        if asyncio.get_running_loop().time() < self._not_before:
            raise FeedUnavailable("Redis cannot be reached")
        try:
            try:
                await self._connect()
            except _Moved:
                await self._connect()
        except BaseException as error:
            await self.drop()
            self._not_before = asyncio.get_running_loop().time() + self._backoff.next()
            self._moved_to = {}
            if isinstance(error, _Moved):
                raise FeedUnavailable("the nodes of the Redis Cluster do not agree on where the log is") from error
            raise
        self._backoff.reset()
        self._connects += 1

    async def _connect(self) -> None:
        self._age = self._renewal.age
        connection = self._class(**{**self._options, **self._moved_to})
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, (AuthenticationError, AuthorizationError, NoPermissionError)):
                raise LogRefused(_NOT_LET_IN) from error
            if isinstance(error, (RedisError, OSError)):
                raise FeedUnavailable("Redis cannot be reached") from error
            raise
        self._connection = connection
        if self._closed:
            raise FeedUnavailable("the log is closed")
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await self._look_for_the_primary(self._greet)
        except (Indeterminate, TimeoutError) as error:
            raise FeedUnavailable("Redis cannot be reached") from error

    async def _look_for_the_primary(self, work: Work) -> None:
        if not await work(self._run_or_exchange):
            self._renewal.ask_for(self._age)

    async def _run_or_exchange(self, what: Script | str, *arguments: Argument) -> Any:
        if isinstance(what, Script):
            return await self._run(what, *arguments)
        return await self._exchange(what, *arguments)

    async def _run(self, script: Script, *arguments: Argument) -> Any:
        command = (script.hash, len(self._keys), *self._keys, *arguments)
        try:
            return await self._exchange("EVALSHA", *command)
        except _UnknownScript:
            # Loaded and run in one step: between two, another client might flush Redis's scripts again.
            return await self._exchange("EVAL", script.source, *command[1:])

    async def _exchange(self, *command: Argument, patience: float = ANSWER_SECONDS) -> Any:
        connection = self._connection
        if connection is None:
            raise FeedUnavailable("the connection to Redis is closed")
        try:
            async with asyncio.timeout(patience):
                await connection.send_packed_command(connection.pack_command(*command), check_health=False)
                return await connection.read_response()
        except NoScriptError as error:
            raise _UnknownScript from error
        except MovedError as error:
            await self.drop()
            self._moved_to = {"port": error.port, **({"host": error.host} if error.host else {})}
            raise _Moved from error
        except (AuthenticationError, AuthorizationError) as error:
            await self.drop()
            raise LogRefused(_NOT_LET_IN) from error
        except (ResponseError, BusyLoadingError) as error:
            raise self._refused(command, error) from error
        except (RedisError, OSError) as error:
            await self.drop()
            raise Indeterminate("Redis did not answer") from error
        except BaseException:
            await self.drop()  # its answer would be mistaken for that to the next command
            raise

    def _refused(self, command: Sequence[Argument], error: RedisError) -> FeedError:
        """Return the error for an answer that is a refusal: nothing was done."""
        words = str(error)
        if isinstance(error, _NOT_THE_PRIMARY) or words.startswith(_NOT_THE_PRIMARY_WORDS):
            self._renewal.ask_for(self._age)
        if words.startswith(("WRONGTYPE", "FOREIGN")):
            return LogRefused(
                f"the keys {self._keys[0]} and its like belong to another program, or were changed by one: choose "
                "another name with ?stream=, or leave only events in the stream, with ids that go on (XDEL, XSETID)"
            )
        name = str(command[0])
        if (found := _NAMED.match(words)) is not None:  # a script's error names the command
            name = found[2]
        if words.startswith(("unknown command", "UNKNOWN ")):
            return LogRefused(f"this Redis has no command {name}, which the feed needs: undo its renaming or disabling")
        if isinstance(error, NoPermissionError) or words.startswith("FORBIDDEN "):
            return LogRefused(f"Redis does not allow {name}, or not with these keys: allow it in the user's ACL")
        if self._complaint.is_due(words):
            logger.warning("Redis refuses %s: %s", name, words)
        return FeedUnavailable(f"Redis refuses: {_reason(error)}")


def _is_broken(connection: AbstractConnection) -> bool:
    """Tell whether the connection is known to be gone. redis-py itself takes a connection that was reset for a sound
    one until it is used; then nobody could tell whether the command was sent."""
    writer = connection._writer  # noqa: SLF001  there is no public name for it
    return writer is None or writer.is_closing()


class _Moved(Exception):
    """Another node of the Redis Cluster has the keys; the next connection goes there. Nothing was done."""


class _UnknownScript(Exception):
    """Redis does not know the script: Redis was restarted, or another client has flushed its scripts."""


def _reason(error: RedisError) -> str:
    """Return what a client may know of the error: its kind, not its words, which may name keys and settings."""
    match type(error).__name__:
        case "OutOfMemoryError":
            return "its memory is full"
        case "ReadOnlyError":
            return "it is a read-only replica"
        case "BusyLoadingError":
            return "it is loading its data"
    return "it cannot take a command now"
