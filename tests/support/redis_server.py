"""A real `redis-server` of the tests' own: on a free port, in a directory of its own, to be killed and stalled."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from feed.log.redis.address import parse_address

START_SECONDS = 20.0


# Of a process each port once. Systems give others by themselves, to whoever connects or listens on port 0: from 32,768
# on, or from 49,152 (RFC 6335).
_PORTS = range(10_000, 32_000)
_ports = itertools.islice(itertools.cycle(_PORTS), random.randrange(len(_PORTS)), None)


def free_port() -> int:
    """A port that nobody listens on now."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


class RedisServer:
    """One `redis-server`. Unless told otherwise every write is in its append-only file before it is answered.

    `options` are Redis's own, such as `appendonly="no"` or `rename_command=("XREAD", "")`.
    """

    def __init__(self, program: str, directory: Path, port: int = 0, **options: str | tuple[str, ...]) -> None:
        self.directory = directory
        self.port = port or free_port()
        self._program = program
        self._options: dict[str, str | tuple[str, ...]] = {
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            **options,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "redis.log"

    def url(self, stream: str = "feed") -> str:
        """The feed's log on it."""
        return f"redis://127.0.0.1:{self.port}/0?stream={stream}"

    def start(self) -> RedisServer:
        """Start it, and wait until it has loaded its data and answers."""
        arguments = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        for name, value in self._options.items():
            arguments += [f"--{name.replace('_', '-')}", *([value] if isinstance(value, str) else value)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(redis.RedisError), self.client() as client:
                if client.ping():
                    return self
            assert self._process.poll() is None, f"redis-server ended: {self._log.read_text()}"
            assert time.monotonic() < deadline, f"redis-server does not answer: {self._log.read_text()}"
            time.sleep(0.02)

    def client(self) -> redis.Redis:
        """A client, for the test's own looks and tricks."""
        password = self._options.get("requirepass")
        return redis.Redis(port=self.port, password=password if isinstance(password, str) else None, socket_timeout=5)

    def command(self, *arguments: str | bytes | int) -> Any:
        """One command."""
        with self.client() as client:
            return client.execute_command(*arguments)

    def clients(self) -> set[str]:
        """What the connections of nodes to it are for."""
        with self.client() as client:
            names = [str(each["name"]) for each in client.client_list()]
        return {name.split("-")[1] for name in names if name.startswith("feed-")}

    def follow(self, primary: RedisServer) -> None:
        """Become its replica, and have what it has."""
        self.command("REPLICAOF", "127.0.0.1", primary.port)
        deadline = time.monotonic() + START_SECONDS
        while self.command("INFO", "replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline, f"it does not become a replica: {self._log.read_text()}"
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send a signal: SIGSTOP makes it deaf, SIGCONT lets it hear again."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(START_SECONDS)

    def wipe(self) -> None:
        """Remove its data. Only while it does not run."""
        for path in self.directory.iterdir():
            if path != self._log:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def copy_data(self, target: Path) -> None:
        """A copy of its files as they are now, for `restore`."""
        shutil.copytree(self.directory, target, ignore=shutil.ignore_patterns("*.log"))

    def restore(self, source: Path) -> None:
        """Put such a copy in place of what is there. Only while it does not run."""
        self.wipe()
        shutil.copytree(source, self.directory, dirs_exist_ok=True)

    def close(self) -> None:
        """Leave nothing behind."""
        if self._process is not None and self._process.poll() is None:
            self.kill()


class Stream:
    """The keys of one feed on a server, and what may become of them.

    `another_server` needs a Redis with `enable_debug_command="yes"`.
    """

    def __init__(self, server: RedisServer) -> None:
        self.name = secrets.token_hex(8)
        self.url = server.url(self.name)
        self._server = server
        self._keys = parse_address(self.url).keys
        self._keys += [f"{{{self.name}}}:lanes:{place}" for place in range(1, 34)]

    def forget(self) -> None:
        """As FLUSHALL would."""
        self._server.command("DEL", *self._keys)

    def save(self) -> dict[str, bytes]:
        """All keys, as they are."""
        with self._server.client() as client:
            return {key: client.dump(key) for key in self._keys if client.exists(key)}

    def restore(self, saved: dict[str, bytes], *, another_server: bool = True) -> None:
        """Put them back, as a restart from an older file would."""
        with self._server.client() as client, client.pipeline(transaction=True) as at_once:
            at_once.delete(*self._keys)
            for key, value in saved.items():
                at_once.restore(key, 0, value)
            if another_server:
                at_once.execute_command("DEBUG", "CHANGE-REPL-ID")
            at_once.execute()

    def change_server(self) -> None:
        """As a restart that lost nothing would."""
        self._server.command("DEBUG", "CHANGE-REPL-ID")

    def command(self, name: str, key: str, *arguments: str | bytes | int) -> Any:
        """A command on one of the keys."""
        return self._server.command(name, f"{{{self.name}}}:{key}", *arguments)

    @property
    def epochs(self) -> list[str]:
        """What is recorded."""
        with self._server.client() as client:
            return [entry.decode() for entry in client.lrange(self._keys[1], 0, -1)]


def redis_program() -> str:
    """`redis-server`; where it is missing its tests are skipped, and fail in CI."""
    program = shutil.which("redis-server")
    if program is None and os.environ.get("CI"):
        pytest.fail("redis-server is missing: apt-get install redis-server")
    if program is None:
        pytest.skip("redis-server is missing: apt-get install redis-server")
    return program


@contextlib.contextmanager
def running_redis(directory: Path, port: int = 0, **options: str | tuple[str, ...]) -> Iterator[RedisServer]:
    """A server for as long as the block lasts."""
    directory.mkdir(parents=True, exist_ok=True)
    server = RedisServer(redis_program(), directory, port, **options)
    try:
        yield server.start()
    finally:
        server.close()
