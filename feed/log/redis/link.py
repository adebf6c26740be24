"""One connection to Redis: made when it is needed, checked before it is used, thrown away at the first fault.

redis-py's own client would reconnect and repeat in between, without our check, and would not tell whether a command
was sent. So it is its `Connection` that is used here, and its errors become the feed's:

- refused, or failed before the command was sent: `FeedUnavailable`. Nothing was done.
- broken after it was sent: `Indeterminate`. It may have been done.

A connection may outlive its server's role: behind an address that leads to whoever is the primary (a Service, a DNS
name, a load balancer) those from before a failover lead to what is a replica now, and work. So whatever says that the
other end is not the one that takes writes makes all connections of the log old (`Renewal`).
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
"""Within which Redis has to answer, or it is taken for deaf."""

_CONNECT_SECONDS = 2.0

_RENEWAL_SECONDS = 1.0  # at least, and half as much again at most, between two renewals that did not help
_HELPED_SECONDS = 10.0  # without another one: then the renewal has helped

_NOT_THE_PRIMARY = (ReadOnlyError, BusyLoadingError, MasterDownError, ClusterDownError)
_NOT_THE_PRIMARY_WORDS = ("UNBLOCKED", "NOREPLICAS")
"""Answers by which a server says that it is a replica now, or about to become one, or cut off from those that count.
One that was restarted has no connections from before. Full memory and a full disk are no such thing: whoever is the
primary has them."""

_NOT_LET_IN = "Redis does not let us in: see that the URL has a user and a password that it knows"
_NAMED = re.compile(r"(UNKNOWN|FORBIDDEN) (\w+)")

Argument = str | bytes | int
Ask = Callable[..., Awaitable[Any]]
Work = Callable[[Ask], Awaitable[bool]]
"""Some commands and scripts in a row. Gives whether it is the primary that has answered."""


class Renewal:
    """Makes the connections of one log old, all at once: what one of them has met counts for the others, which may
    notice nothing, as reading and listening work on a replica too.

    Where a new connection leads to a replica again renewals pause, longer each time, up to a second or so: what can be
    done on a replica is done meanwhile.
    """

    def __init__(self) -> None:
        self.age = 0
        self._backoff = Backoff(longest=_RENEWAL_SECONDS)
        self._last = -_HELPED_SECONDS
        self._not_before = 0.0

    def ask_for(self, age: int) -> None:
        """A connection of this age does not lead to the primary."""
        now = asyncio.get_running_loop().time()
        if age != self.age or now < self._not_before:
            return
        if now - self._last > _HELPED_SECONDS:
            self._backoff.reset()
        self.age += 1
        self._last = now
        self._not_before = now + self._backoff.next()


class Script:
    """A Lua script: what is shared, and its own. Redis knows it by its hash once it has run."""

    def __init__(self, name: str) -> None:
        folder = files("feed.log.redis") / "scripts"
        shebang, _, own = (folder / f"{name}.lua").read_text("utf-8").partition("\n")
        self.source = f"{shebang}\n{(folder / 'common.lua').read_text('utf-8')}\n{own}"
        self.hash = hashlib.sha1(self.source.encode()).hexdigest()  # noqa: S324  what Redis calls it by


class Link:
    """A connection that one command at a time uses. `greet` is awaited on each new one, with what asks over it; what it
    raises leaves it unused. `renewal` is shared by the links of one log.

    After a failed attempt to connect it refuses at once for a while, longer each time.
    """

    def __init__(self, address: Address, name: str, greet: Work, renewal: Renewal) -> None:
        options: dict[str, Any] = dict(parse_url(address.url))
        self._class: type[AbstractConnection] = options.pop("connection_class", Connection)
        self._options = {
            **options,
            **({} if "path" in options else {"socket_keepalive": True}),
            "socket_timeout": None,  # the times are ours
            "socket_connect_timeout": _CONNECT_SECONDS,
            "client_name": name,
            "protocol": 2,
        }
        self._greet = greet
        self._keys = address.keys
        self._connection: AbstractConnection | None = None
        self._renewal = renewal
        self._complaint = Reminder()
        self._age = renewal.age  # of the connection
        self._lock = asyncio.Lock()
        self._backoff = Backoff()
        self._not_before = 0.0
        self._connects = 0
        self._moved_to: dict[str, str | int] = {}  # by a Redis Cluster
        self._closed = False

    @property
    def reconnects(self) -> int:
        """How often it had to connect again."""
        return max(0, self._connects - 1)

    async def open(self) -> None:
        """Connect, unless it is. Raises `FeedUnavailable`, and `LogRefused` for a Redis that may not be used."""
        async with self._lock:
            await self._ready()

    async def ask(self, *command: Argument, patience: float = ANSWER_SECONDS) -> Any:
        """One command, and its answer, as redis-py parses it."""
        async with self._lock, self._refusals_hidden():
            await self._ready()
            return await self._exchange(*command, patience=patience)

    async def run(self, script: Script, *arguments: Argument) -> Any:
        """A script on the log's keys, and its answer."""
        async with self._lock, self._refusals_hidden():
            await self._ready()
            return await self._run(script, *arguments)

    async def use(self, work: Work) -> None:
        """Some commands and scripts in a row, that nothing comes between."""
        async with self._lock, self._refusals_hidden():
            await self._ready()
            await self._look_for_the_primary(work)

    async def say(self, *command: Argument) -> None:
        """A command whose answer `listen` gives. Nothing happens where the connection is closed, or still waits for an
        answer, for which this one's would be taken. Raises `FeedUnavailable`."""
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
        """What Redis says next to a connection that has subscribed to a channel. Raises `FeedUnavailable`, also if it
        says nothing for `patience` seconds, or the connection has become old."""
        connection = self._connection
        if connection is None:
            raise FeedUnavailable("the connection to Redis is closed")
        if self._age != self._renewal.age:
            await self.drop()
            raise FeedUnavailable("the connection to Redis is old")
        try:
            async with asyncio.timeout(patience):
                return await connection.read_response()
        except (RedisError, OSError) as error:
            await self.drop()
            raise FeedUnavailable("the connection to Redis broke") from error

    async def close(self) -> None:
        """Let the connection go for good."""
        self._closed = True
        await self.drop()

    async def drop(self) -> None:
        """Let the connection go. It comes back when it is needed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    @contextlib.asynccontextmanager
    async def _refusals_hidden(self) -> AsyncIterator[None]:
        """What an operator has to know is for the log of the server, not for those who are served meanwhile."""
        try:
            yield
        except LogRefused as error:
            if self._complaint.is_due(str(error)):
                logger.error("%s", error)
            raise FeedUnavailable("the log cannot be used", 5) from error
        except _Moved as error:
            raise FeedUnavailable("the log has just moved within the Redis Cluster") from error

    async def _ready(self) -> None:
        connection = self._connection
        if connection is not None:
            is_old = self._age != self._renewal.age
            if not is_old and not _is_broken(connection) and not await connection.can_read():
                return
            await self.drop()  # Redis has hung up, or said something that nobody asked for, or is somebody else now
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
            # Taught and run in one step: between two another client may empty Redis's memory of scripts again.
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
            await self.drop()  # the answer would be taken for that to the next command
            raise

    def _refused(self, command: Sequence[Argument], error: RedisError) -> FeedError:
        """What is to be said of an answer that is a refusal: nothing was done."""
        words = str(error)
        if isinstance(error, _NOT_THE_PRIMARY) or words.startswith(_NOT_THE_PRIMARY_WORDS):
            self._renewal.ask_for(self._age)
        if words.startswith(("WRONGTYPE", "FOREIGN")):
            return LogRefused(
                f"the keys {self._keys[0]} and its like are somebody else's, or somebody else has written into them: "
                "choose another name with ?stream=, or see that there are only events, numbered on (XDEL, XSETID)"
            )
        name = str(command[0])
        if (found := _NAMED.match(words)) is not None:  # by a script
            name = found[2]
        if words.startswith(("unknown command", "UNKNOWN ")):
            return LogRefused(f"this Redis has no command {name}: it was renamed or disabled, and the feed needs it")
        if isinstance(error, NoPermissionError) or words.startswith("FORBIDDEN "):
            return LogRefused(f"Redis does not let us use {name}, or not with these keys: see that its ACL allows it")
        if self._complaint.is_due(words):
            logger.warning("Redis refuses %s: %s", name, words)
        return FeedUnavailable(f"Redis refuses: {_reason(error)}")


def _is_broken(connection: AbstractConnection) -> bool:
    """Whether it is known to be gone. redis-py itself takes one that was reset for a sound one, until it is used: then
    nobody could tell whether the command was sent."""
    writer = connection._writer  # noqa: SLF001  it has no name in public
    return writer is None or writer.is_closing()


class _Moved(Exception):
    """Another node of the Redis Cluster has the keys, and is connected to from now on. Nothing was done."""


class _UnknownScript(Exception):
    """Redis does not know the script: it was started anew, or another client has emptied its memory of them."""


def _reason(error: RedisError) -> str:
    """What a client may know of it: the kind, not the words, which may name keys and settings."""
    match type(error).__name__:
        case "OutOfMemoryError":
            return "its memory is full"
        case "ReadOnlyError":
            return "it is a read-only replica"
        case "BusyLoadingError":
            return "it is loading its data"
    return "it cannot take a command now"
