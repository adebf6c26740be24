"""Debian's nginx, Caddy and HAProxy, with a configuration of the test's own and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.support.redis_server import free_port
from tests.support.streams import eventually

PACKAGES = {"nginx": "nginx-light", "caddy": "caddy", "haproxy": "haproxy"}


def program(name: str) -> str:
    """Where it is; where it is missing its tests are skipped, and fail in CI."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None:
        reason = f"{name} is missing: apt-get install {PACKAGES[name]}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def free_ports(count: int) -> list[int]:
    """So many different ones that nobody listens on."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in taken]


@contextlib.contextmanager
def running_nginx(folder: Path, http: str, ready: str) -> Iterator[None]:
    """nginx with what stands in its `http` block, beside Debian's own settings, for as long as the block lasts. It is
    there once `ready` is answered."""
    places = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    {places}
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    gzip on;
    {http}
}}
""")
    with _running([program("nginx"), "-p", str(folder), "-c", "nginx.conf"], folder, ready):
        yield


@contextlib.contextmanager
def nginx_in_front(folder: Path, server: str, around: str = "") -> Iterator[str]:
    """nginx with one server, of which this stands in its block, and that beside it. Gives its URL, where `/readyz` is
    answered."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with running_nginx(folder, f"{around} server {{ listen 127.0.0.1:{port}; {server} }}", f"{url}/readyz"):
        yield url


@contextlib.contextmanager
def running_caddy(folder: Path, sites: str, ready: str) -> Iterator[None]:
    """Caddy, which asks nobody for certificates, opens no port of its own and writes to `folder` only."""
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n\tauto_https off\n\n\tgrace_period 100ms\n}}\n{sites}")
    command = [program("caddy"), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    places = {name: str(folder) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    with _running(command, folder, ready, places):
        yield


@contextlib.contextmanager
def running_haproxy(folder: Path, sections: str, ready: str) -> Iterator[None]:
    """HAProxy, with a limit on connections that needs no rights."""
    (folder / "haproxy.cfg").write_text(f"global\n    maxconn 500\n    nbthread 1\n{sections}")
    with _running([program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")], folder, ready):
        yield


@contextlib.contextmanager
def _running(command: list[str], folder: Path, ready: str, environment: Mapping[str, str] = {}) -> Iterator[None]:
    """`folder / "output"` has what it says."""
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "output").read_text()
        try:
            return httpx.get(ready, verify=False).status_code == 200
        except httpx.TransportError:
            return False

    try:
        eventually(is_ready)
        yield
    finally:
        process.terminate()
        process.wait(10)
