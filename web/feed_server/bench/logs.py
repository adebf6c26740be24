"""The log that a feed is measured on: each run has one of its own, and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import redis

from feed.errors import LogRefused
from feed.log import is_shared
from feed.log.redis.address import Address, parse_address, without_password
from feed_server.bench.children import START_SECONDS, Child, child, free_port
from feed_server.bench.worker import BenchError

OWN_REDIS = "redis:"
"""The log on a Redis that the bench starts for itself."""

_PROGRAM = "redis-server"
_ANSWER_SECONDS = 5.0
_KEYS_AT_ONCE = 1000


@dataclass(frozen=True)
class Log:
    """Where to keep the events of one run, and the Redis that keeps them if it is the bench's own."""

    url: str
    redis: Child | None = None


def check_log(url: str) -> None:
    """Raises `BenchError` for a Redis that cannot be used, or not be started here."""
    if url == OWN_REDIS:
        _program()
    elif is_shared(url):
        try:
            parse_address(url)
        except LogRefused as error:
            raise BenchError(f"--log: {error}") from None


@contextlib.contextmanager
def fresh_log(url: str, folder: Path, cores: Iterable[int] | None) -> Iterator[Log]:
    """A log of that kind, for as long as the block lasts. `cores` are those of a Redis of the bench's own."""
    if url == OWN_REDIS:
        with _own_redis(folder, cores or os.sched_getaffinity(0)) as (server, port):
            yield Log(f"redis://127.0.0.1:{port}/0?stream=bench", server)
    elif is_shared(url):
        with _own_stream(url) as address:
            yield Log(address)
    else:
        yield Log(f"sqlite:{folder / 'feed.db'}" if url == "sqlite:" else url)


def _program() -> str:
    program = shutil.which(_PROGRAM)
    if program is None:
        raise BenchError(
            f"--log redis: {_PROGRAM} cannot be found; on Debian or Ubuntu: apt-get install redis-server. "
            "Or name a Redis that runs: --log redis://127.0.0.1:6379/0"
        )
    return program


@contextlib.contextmanager
def _own_redis(folder: Path, cores: Iterable[int]) -> Iterator[tuple[Child, int]]:
    """A Redis that keeps nothing on disk, and its port."""
    place = folder / "redis"
    place.mkdir()
    port = free_port()
    options = {"port": str(port), "bind": "127.0.0.1", "dir": str(place), "appendonly": "no", "save": ""}
    command = [_program(), *(word for name, value in options.items() for word in (f"--{name}", value))]
    with child(_PROGRAM, command, place, cores, dict(os.environ)) as server:
        server.wait_until_listening(port)
        yield server, port


@contextlib.contextmanager
def _own_stream(url: str) -> Iterator[str]:
    """A stream of this run's own on a Redis that may hold anything else. Its keys are removed, and no others."""
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    query["stream"] = f"{query.get('stream', 'feed-bench')[:80]}-{secrets.token_hex(6)}"
    fresh = parts._replace(query=urlencode(query)).geturl()
    try:
        address = parse_address(fresh)
    except LogRefused as error:
        raise BenchError(f"--log: {error}") from None
    try:
        with _client(address) as client:
            client.ping()
    except (redis.RedisError, OSError) as error:
        raise BenchError(f"{without_password(url)} does not answer: {error}") from None
    try:
        yield fresh
    finally:
        with contextlib.suppress(redis.RedisError, OSError), _client(address) as client:
            _remove_keys(client, address)


def _client(address: Address) -> redis.Redis:
    return redis.Redis.from_url(address.url, socket_timeout=_ANSWER_SECONDS, socket_connect_timeout=_ANSWER_SECONDS)


def _remove_keys(client: redis.Redis, address: Address) -> None:
    """The nodes have ended when this runs, but what they sent last may still be under way."""
    pattern = address.key("*")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = list(client.scan_iter(match=pattern, count=_KEYS_AT_ONCE))
        if not found:
            return
        client.unlink(*found)
