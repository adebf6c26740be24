"""Debian's nginx, with a configuration of the test's own and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.redis_server import free_port
from tests.streams import eventually


@contextlib.contextmanager
def running_nginx(program: str, folder: Path, server: str, around: str = "") -> Iterator[str]:
    """nginx with what stands in its `server` block, and beside it, for as long as the block lasts. Gives its URL, where
    `/readyz` is answered."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    places = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ }}
http {{
    access_log off;
    {places}
    {around}
    server {{
        listen 127.0.0.1:{port};
        {server}
    }}
}}
""")
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen([program, "-p", str(folder), "-c", "nginx.conf"], stderr=output)
    try:
        eventually(lambda: _is_ready(url))
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.ConnectError:
        return False
