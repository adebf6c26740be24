"""The servers that are measured: a feed, nginx with nchan, and a FastAPI application; each started as a child with
nothing of its own left behind, and how each is spoken to."""

from __future__ import annotations

import abc
import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil  # type: ignore[import-untyped]

from web.bench.framing import FEED_SSE, FEED_WS, FEED_WS_BATCH, PLAIN_SSE, PLAIN_WS, Form
from web.bench.payload import TOPIC
from web.bench.worker import BenchError, on_cores

START_SECONDS = 30.0
STOP_SECONDS = 3.0

FORMS = {form.name: form for form in (FEED_SSE, FEED_WS, FEED_WS_BATCH)}

_NCHAN_PLACES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules", "/etc/nginx/modules")
_NCHAN_MODULE = "ngx_nchan_module.so"


@dataclass(frozen=True)
class Usage:
    """What a server's processes have used so far."""

    cpu: float
    """Seconds."""
    memory: int
    """Resident bytes."""


@dataclass
class Running:
    """A target that runs, and how to speak to it."""

    target: Target
    host: str
    port: int
    publish_path: str
    subscribe_path: str
    form: Form
    topic: str = TOPIC
    process: subprocess.Popen[bytes] | None = None
    output: Path | None = None

    def check(self) -> None:
        """Raises `BenchError` if the server has died."""
        if self.process is not None and (code := self.process.poll()) is not None:
            said = self.output.read_text(errors="replace")[-2000:].strip() if self.output else ""
            raise BenchError(f"{self.target.name} has died (exit code {code}): {said or 'without a word'}")

    def usage(self) -> Usage | None:
        """What it has used; None if it is not a child of ours."""
        if self.process is None:
            return None
        cpu, memory = 0.0, 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in _tree(self.process.pid):
                with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
                    times = process.cpu_times()
                    cpu += times.user + times.system
                    memory += process.memory_info().rss
        return Usage(cpu, memory)

    def wait_for_readers(self, count: int) -> None:
        """Wait until the server itself counts so many readers, where their own view does not prove it."""
        path = self.target.count_path
        if path is None:
            return
        deadline = time.monotonic() + START_SECONDS
        with httpx.Client(verify=False) as http:  # noqa: S501  no TLS, and loading certificates takes its time
            while True:
                headers = {"Accept": "application/json"}
                answer = http.get(f"http://{self.host}:{self.port}{path}", headers=headers)
                there = answer.json()["subscribers"] if answer.is_success else 0
                if there >= count:
                    return
                if time.monotonic() > deadline:
                    raise BenchError(f"{self.target.name}: only {there:,} of {count:,} readers are registered")
                time.sleep(0.02)


def _tree(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


class Target(abc.ABC):
    """A server that can be measured."""

    name: str
    log: str | None = None
    count_path: str | None = None
    probe_path = "/healthz"
    takes_batches = False
    resumes = False
    """Whether its readers can come back with the id of their last event."""

    @abc.abstractmethod
    def form(self, transport: str) -> Form:
        """How its readers read when this transport is asked for."""

    def check_installed(self) -> None:  # noqa: B027  most come with Python
        """Raises `BenchError` if it cannot be started here."""

    @abc.abstractmethod
    @contextlib.contextmanager
    def running(self, transport: str, readers: int, cores: Iterable[int]) -> Iterator[Running]:
        """The server, on these cores, for as long as the block lasts."""


class FeedTarget(Target):
    """`feed serve`."""

    takes_batches = True
    resumes = True

    def __init__(self, log: str) -> None:
        self.log = log
        self.name = f"feed ({log})"

    def form(self, transport: str) -> Form:
        """How its readers read when this transport is asked for."""
        return FORMS[transport]

    @contextlib.contextmanager
    def running(self, transport: str, readers: int, cores: Iterable[int]) -> Iterator[Running]:
        """The server, on these cores, for as long as the block lasts."""
        with _folder() as folder:
            log = f"sqlite:{folder / 'feed.db'}" if self.log == "sqlite:" else str(self.log)
            command = [sys.executable, "-c", "from web.cli import main; main()", "serve", "--port", "0", "--log", log]
            environment = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")}
            with _child(command, folder, cores, environment) as (process, output):
                port = _announced(self.name, process, output, rb"dashboard +http://\S+:(\d+)/")
                yield _feed(self, transport, "127.0.0.1", port, TOPIC, process, output)


class FeedUrlTarget(Target):
    """A feed that runs already."""

    takes_batches = True
    resumes = True

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise BenchError(f"--url {url}: only http:// is measured, the bench speaks no TLS")
        self.name = f"feed at {parts.netloc}"
        self._host, self._port = parts.hostname, parts.port or 80

    def form(self, transport: str) -> Form:
        """How its readers read when this transport is asked for."""
        return FORMS[transport]

    @contextlib.contextmanager
    def running(self, transport: str, readers: int, cores: Iterable[int]) -> Iterator[Running]:
        """The server, which is left as it is."""
        try:
            address = str(socket.getaddrinfo(self._host, self._port, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
            socket.create_connection((address, self._port), START_SECONDS).close()
        except OSError as error:
            raise BenchError(f"{self.name} does not answer: {error.strerror or error}") from None
        yield _feed(self, transport, address, self._port, f"{TOPIC}/{secrets.token_hex(6)}")


def _feed(
    target: Target,
    transport: str,
    host: str,
    port: int,
    topic: str,
    process: subprocess.Popen[bytes] | None = None,
    output: Path | None = None,
) -> Running:
    form = target.form(transport)
    path = f"/{'ws' if form.is_websocket else 'events'}/{topic}"
    return Running(target, host, port, f"/events/{topic}", path, form, topic, process, output)


class NchanTarget(Target):
    """nginx with nchan, one worker."""

    name = "nchan"
    count_path = "/pub"

    def form(self, transport: str) -> Form:
        """How its readers read when this transport is asked for."""
        return PLAIN_SSE if transport == "sse" else PLAIN_WS

    def check_installed(self) -> None:
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
    def running(self, transport: str, readers: int, cores: Iterable[int]) -> Iterator[Running]:
        """The server, on these cores, for as long as the block lasts."""
        self.check_installed()
        with _folder() as folder:
            port = _free_port()
            configuration = folder / "nginx.conf"
            configuration.write_text(_nginx_configuration(folder, port, readers))
            command = [str(_nginx()), "-p", str(folder), "-c", str(configuration)]
            with _child(command, folder, cores, dict(os.environ)) as (process, output):
                form = self.form(transport)
                running = Running(
                    self, "127.0.0.1", port, "/pub", f"/{form.name}", form, process=process, output=output
                )
                _wait_until_listening(running)
                yield running


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
    def running(self, transport: str, readers: int, cores: Iterable[int]) -> Iterator[Running]:
        """The server, on these cores, for as long as the block lasts."""
        command = [sys.executable, "-m", "web.bench.naive"]
        with _folder() as folder, _child(command, folder, cores, dict(os.environ)) as (process, output):
            port = _announced(self.name, process, output, rb"listening on (\d+)")
            yield Running(self, "127.0.0.1", port, "/publish", "/ws", PLAIN_WS, process=process, output=output)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="feed-bench-") as name:
        yield Path(name)


@contextlib.contextmanager
def _child(
    command: list[str], folder: Path, cores: Iterable[int], environment: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process with its output in a file; ended when the block is, with all its children."""
    output = folder / "output"
    with output.open("wb") as file, on_cores(cores):
        process = subprocess.Popen(  # noqa: S603  the servers that were asked for
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=folder,
            process_group=0,  # so that Ctrl-C comes to the bench alone, which ends it
        )
    try:
        yield process, output
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        tree = _tree(process.pid)
    except psutil.NoSuchProcess:
        tree = []
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in tree[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _announced(name: str, process: subprocess.Popen[bytes], output: Path, pattern: bytes) -> int:
    """The port that the server says it listens on."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        text = output.read_bytes()
        if (found := re.search(pattern, text)) is not None:
            return int(found[1])
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"{name} did not start: {text.decode(errors='replace').strip()[-2000:]}")
        time.sleep(0.02)


def _wait_until_listening(running: Running) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        running.check()
        try:
            socket.create_connection((running.host, running.port), START_SECONDS).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"{running.target.name} does not listen: {error.strerror or error}") from None
            time.sleep(0.02)
        else:
            return


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
