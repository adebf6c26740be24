"""The servers that are measured: a feed of one node or several, nginx with nchan, and a FastAPI application; each
started as a child with nothing of its own left behind, and how each is spoken to."""

from __future__ import annotations

import abc
import contextlib
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from feed.log import is_shared
from feed.log.redis.address import without_password
from feed.media_types import JSON
from feed_server.bench.children import START_SECONDS, Child, Usage, a_folder, child, free_port
from feed_server.bench.cores import Cores
from feed_server.bench.framing import FEED_SSE, FEED_WS, FEED_WS_BATCH, PLAIN_SSE, PLAIN_WS, Form
from feed_server.bench.logs import OWN_REDIS, check_log, fresh_log
from feed_server.bench.payload import TOPIC
from feed_server.bench.worker import BenchError

FORMS = {form.name: form for form in (FEED_SSE, FEED_WS, FEED_WS_BATCH)}

_DAY = 86400  # seconds

_NCHAN_PLACES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules", "/etc/nginx/modules")
_NCHAN_MODULE = "ngx_nchan_module.so"


@dataclass
class Running:
    """A target that runs, and how to speak to it."""

    target: Target
    host: str
    ports: Sequence[int]
    """A port a node. Readers and publishers are spread over them."""
    publish_path: str
    subscribe_path: str
    form: Form
    topic: str = TOPIC
    headers: str = ""
    """What each request bears besides, in whole lines."""
    nodes: Sequence[Child] = ()
    """Its processes, if it is the bench that has started them."""
    redis: Child | None = None
    """The Redis behind them, if it is the bench's own."""

    def check(self) -> None:
        """Raises `BenchError` if something of it has died."""
        if self.redis is not None:
            self.redis.check()
        for node in self.nodes:
            node.check()

    def usage(self) -> Usage | None:
        """What all nodes together have used; None if they are not children of ours."""
        return reduce(add, (node.usage() for node in self.nodes)) if self.nodes else None

    def redis_usage(self) -> Usage | None:
        """What the Redis behind them has used; None if it is not a child of ours."""
        return None if self.redis is None else self.redis.usage()

    def wait_for_readers(self, count: int) -> None:
        """Wait until the server itself counts so many readers, where their own view does not prove it."""
        path = self.target.count_path
        if path is None:
            return
        deadline = time.monotonic() + START_SECONDS
        with httpx.Client(verify=False) as http:  # noqa: S501  no TLS, and loading certificates takes its time
            while True:
                headers = {"Accept": JSON}
                answer = http.get(f"http://{self.host}:{self.ports[0]}{path}", headers=headers)
                there = answer.json()["subscribers"] if answer.is_success else 0
                if there >= count:
                    return
                if time.monotonic() > deadline:
                    raise BenchError(f"{self.target.name}: only {there:,} of {count:,} readers are registered")
                time.sleep(0.02)


class Target(abc.ABC):
    """A server that can be measured."""

    name: str
    nodes = 1
    owns_redis = False
    """Whether a Redis is started for it."""
    count_path: str | None = None
    probe_path = "/healthz"
    takes_batches = False
    delivers = True
    """Whether it has readers."""
    resumes = False
    """Whether its readers can come back with the id of their last event."""
    has_state = False
    """Whether its readers can ask for state, and its topics are the bench's own."""

    @abc.abstractmethod
    def form(self, transport: str) -> Form:
        """How its readers read when this transport is asked for."""

    def check(self) -> None:  # noqa: B027  most need nothing but Python
        """Raises `BenchError` if it cannot be started here."""

    @abc.abstractmethod
    @contextlib.contextmanager
    def running(self, transport: str, readers: int, cores: Cores) -> Iterator[Running]:
        """The server, on these cores, for as long as the block lasts."""


class FeedTarget(Target):
    """`feed serve`, as one node or as several on one log."""

    takes_batches = True
    resumes = True
    has_state = True

    def __init__(
        self, log: str, nodes: int = 1, *, named: bool = False, key: str | None = None, log_level: str = "warning"
    ) -> None:
        """`named` is whether its name says how many nodes it has. With a `key` all who publish and read bear a token.
        Unless `log_level` says otherwise, requests are not logged, as the other servers log none."""
        count = f", {nodes} node{'' if nodes == 1 else 's'}" if named else ""
        self.name = f"feed ({without_password(log)}{count}{'' if key is None else ', tokens'})"
        self._key = key
        self._log_level = log_level
        self.nodes = nodes
        self.owns_redis = log == OWN_REDIS
        self._log = log

    def form(self, transport: str) -> Form:
        """How its readers read when this transport is asked for."""
        return FORMS[transport]

    def check(self) -> None:
        """Raises `BenchError` if it cannot be started here."""
        check_log(self._log)
        if self.nodes > 1 and not (self.owns_redis or is_shared(self._log)):
            raise BenchError(
                f"--nodes {self.nodes}: the log {self._log} is for one process; several nodes need Redis: --log redis: "
                "or --log redis://HOST:PORT/DB"
            )

    @contextlib.contextmanager
    def running(self, transport: str, readers: int, cores: Cores) -> Iterator[Running]:
        """All nodes, and their Redis if it is the bench's own, for as long as the block lasts."""
        form = self.form(transport)
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(a_folder())
            log = stack.enter_context(fresh_log(self._log, folder, cores.redis))
            nodes = [stack.enter_context(self._node(number, log.url, folder, cores)) for number in range(self.nodes)]
            ports = [node.announced_port(rb"dashboard +http://\S+:(\d+)/") for node in nodes]
            paths = _paths(TOPIC, form)
            headers = "" if self._key is None else f"Authorization: Bearer {_token(self._key)}\r\n"
            yield Running(self, "127.0.0.1", ports, *paths, form, headers=headers, nodes=nodes, redis=log.redis)

    def _node(self, number: int, log: str, folder: Path, cores: Cores) -> contextlib.AbstractContextManager[Child]:
        place = folder / f"node{number}"
        place.mkdir()
        name = self.name if self.nodes == 1 else f"node {number + 1} of {self.name}"
        # Without the folder where this runs in its path: that may hold a `feed` of its own.
        command = [sys.executable, "-P", "-m", "feed", "serve", "--port", "0", "--log", log]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")}
        environment["FEED_LOG_LEVEL"] = self._log_level
        if self._key is not None:
            environment["FEED_JWT_SECRET"] = self._key
        return child(name, command, place, cores.nodes[number], environment)


def _token(key: str) -> str:
    from feed.fastapi.auth.grants import Grants
    from feed_server.auth.tokens import issue

    return issue(Grants(["**"], ["**"], subject="bench", expires=time.time() + _DAY), key, "HS256")


def _paths(topic: str, form: Form) -> tuple[str, str]:
    """Where a feed is published to and read."""
    return f"/events/{topic}", f"/{'ws' if form.is_websocket else 'events'}/{topic}"


class FeedUrlTarget(Target):
    """A feed that runs already."""

    takes_batches = True
    resumes = True

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise BenchError(f"--url {url}: only http:// can be measured: the bench does not speak TLS")
        self.name = f"feed at {parts.netloc}"
        self._host, self._port = parts.hostname, parts.port or 80

    def form(self, transport: str) -> Form:
        """How its readers read when this transport is asked for."""
        return FORMS[transport]

    @contextlib.contextmanager
    def running(self, transport: str, readers: int, cores: Cores) -> Iterator[Running]:
        """The server, which is left as it is."""
        try:
            address = str(socket.getaddrinfo(self._host, self._port, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
            socket.create_connection((address, self._port), START_SECONDS).close()
        except OSError as error:
            raise BenchError(f"{self.name} does not answer: {error.strerror or error}") from None
        form, topic = self.form(transport), f"{TOPIC}/{secrets.token_hex(6)}"
        yield Running(self, address, [self._port], *_paths(topic, form), form, topic)


class NchanTarget(Target):
    """nginx with nchan, one worker."""

    name = "nchan"
    count_path = "/pub"

    def form(self, transport: str) -> Form:
        """How its readers read when this transport is asked for."""
        return PLAIN_SSE if transport == "sse" else PLAIN_WS

    def check(self) -> None:
        """Raises `BenchError` if it cannot be started here."""
        missing = []
        if _nginx() is None:
            missing.append("nginx")
        if _nchan_module() is None:
            missing.append(f"its module {_NCHAN_MODULE}")
        if missing:
            raise BenchError(
                f"--against nchan: {' and '.join(missing)} cannot be found; "
                "on Debian or Ubuntu: apt-get install nginx-light libnginx-mod-nchan"
            )

    @contextlib.contextmanager
    def running(self, transport: str, readers: int, cores: Cores) -> Iterator[Running]:
        """The server, on these cores, for as long as the block lasts."""
        self.check()
        with a_folder() as folder:
            port = free_port()
            configuration = folder / "nginx.conf"
            configuration.write_text(_nginx_configuration(folder, port, readers))
            command = [str(_nginx()), "-p", str(folder), "-c", str(configuration)]
            with child(self.name, command, folder, cores.nodes[0], os.environ) as nginx:
                nginx.wait_until_listening(port)
                form = self.form(transport)
                yield Running(self, "127.0.0.1", [port], "/pub", f"/{form.name}", form, nodes=[nginx])


def _nginx() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def _nchan_module() -> Path | None:
    return next((path for folder in _NCHAN_PLACES if (path := Path(folder) / _NCHAN_MODULE).exists()), None)


def _nginx_configuration(folder: Path, port: int, readers: int) -> str:
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker could not enter our folder
    temporary = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    channel = "nchan_channel_id bench;"
    return f"""
{user}
load_module {_nchan_module()};
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections {readers + 2_000}; }}
http {{
    access_log off;
    {temporary}
    client_body_buffer_size 1m;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    nchan_max_reserved_memory 256m;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /pub {{
            nchan_publisher http; {channel}
            nchan_message_buffer_length 1000; nchan_message_timeout 1m;
        }}
        location = /sse {{ nchan_subscriber eventsource; {channel} nchan_subscriber_first_message newest; }}
        location = /ws {{ nchan_subscriber websocket; {channel} nchan_subscriber_first_message newest; }}
        location = /healthz {{ return 200 alive; }}
    }}
}}
"""


class NaiveTarget(Target):
    """The WebSocket broadcast of `naive`. It has no SSE: its readers are always WebSockets."""

    name = "naive"
    count_path = "/readers"

    def form(self, transport: str) -> Form:
        """How its readers read when this transport is asked for."""
        return PLAIN_WS

    @contextlib.contextmanager
    def running(self, transport: str, readers: int, cores: Cores) -> Iterator[Running]:
        """The server, on these cores, for as long as the block lasts."""
        command = [sys.executable, "-m", "feed_server.bench.naive"]
        with a_folder() as folder, child(self.name, command, folder, cores.nodes[0], os.environ) as server:
            port = server.announced_port(rb"listening on (\d+)")
            yield Running(self, "127.0.0.1", [port], "/publish", "/ws", PLAIN_WS, nodes=[server])


class AsgiTarget(Target):
    """The application of `nothing`: what the server below an application costs."""

    name = "asgi"
    delivers = False

    def form(self, transport: str) -> Form:
        """Unused: it has no readers."""
        return PLAIN_SSE

    @contextlib.contextmanager
    def running(self, transport: str, readers: int, cores: Cores) -> Iterator[Running]:
        """The server, on these cores, for as long as the block lasts."""
        command = [sys.executable, "-m", "feed_server.bench.nothing"]
        with a_folder() as folder, child(self.name, command, folder, cores.nodes[0], os.environ) as server:
            port = server.announced_port(rb"listening on (\d+)")
            yield Running(self, "127.0.0.1", [port], "/events/bench", "/", PLAIN_SSE, nodes=[server])
