"""Which processes are workers of one server, and which are only alike."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from feed import LogRefused
from feed import siblings as siblings_module
from feed.siblings import check_alone

FORKING = """
import asyncio, os, socket, sys, time
from feed import Feed, LogRefused

def bound(kind):
    if kind == "unix":
        held = socket.socket(socket.AF_UNIX)
        held.bind(sys.argv[1])
    else:
        held = socket.socket()
        held.bind(("127.0.0.1", 0))
    return held

async def opened():
    async with Feed("memory:"), Feed("memory:") as feed:
        await feed.publish("a", "x")

def child(kind, held, ready, end):
    own = bound("tcp") if held is None else held
    ready.recv(1)
    try:
        asyncio.run(opened())
    except LogRefused as error:
        words = f"refused {error}"
    else:
        words = "opened"
    os.write(1, f"{kind} {words}\\n".encode())  # in one piece: there are others who write
    say.send(b"x")
    end.recv(1)
    os._exit(0)

def family(kind, count):
    held = None if kind == "own" else bound(kind)
    (ready, go), (end, over) = socket.socketpair(), socket.socketpair()
    for _ in range(count):
        if os.fork() == 0:
            child(kind, held, ready, end)
    go.send(b"x" * count)
    said.recv(count, socket.MSG_WAITALL)
    over.send(b"x" * count)
    for _ in range(count):
        os.wait()
    os._exit(0)

for kind, count in (("one", 1), ("tcp", 2), ("unix", 2), ("own", 2)):
    said, say = socket.socketpair()
    if os.fork() == 0:
        family(kind, count)
for _ in range(4):
    os.wait()
"""


def test_two_that_hold_one_socket_are_refused_and_all_that_are_only_alike_are_let_be(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKING, str(tmp_path / "socket")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        kind, _, rest = line.partition(" ")
        said.setdefault(kind, []).append(rest)
    assert said["one"] == ["opened"]
    assert said["own"] == ["opened", "opened"]
    for kind, address in (("tcp", "127.0.0.1:"), ("unix", str(tmp_path / "socket"))):
        assert len(said[kind]) == 2
        for line in said[kind]:
            assert line.startswith("refused memory: is a log of one process, and process ")
            assert f"answers at {address}" in line


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    """A socket that a server has handed on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker of gunicorn has loaded."""
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", siblings_module)


@pytest.mark.usefixtures("supervised")
def test_where_processes_cannot_be_seen_a_supervisor_is_warned_of_once_and_a_number_decides(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (None, "1", "many"):
        if number is not None:
            monkeypatch.setenv("WEB_CONCURRENCY", number)
        caplog.clear()
        asyncio.run(check_alone("memory", tmp_path))
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "if there are more workers than this one" in caplog.text
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    with pytest.raises(LogRefused, match=r"WEB_CONCURRENCY is 2: each worker .* feed of its own.*redis://"):
        asyncio.run(check_alone("memory", tmp_path))
    with pytest.raises(LogRefused, match=r"WEB_CONCURRENCY is 2: only one process can use the file: .*redis://"):
        asyncio.run(check_alone("sqlite", tmp_path))


def test_where_processes_cannot_be_seen_and_there_is_no_supervisor_nothing_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "2")  # of the machine, and not of this program
    asyncio.run(check_alone("memory", tmp_path))
    assert caplog.text == ""


@pytest.mark.usefixtures("supervised")
def test_siblings_that_hide_their_sockets_are_warned_of_once(
    bound: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("self", *map(str, (os.getpid(), 1_000_001, 1_000_002))):
        (tmp_path / name / "fd").mkdir(parents=True)
        (tmp_path / name / "stat").write_text(f"1 (a) b) S {os.getppid()} {'0 ' * 17} 7 0")
    (tmp_path / "self/fd" / str(bound.fileno())).symlink_to("socket:[1]")
    sockets = siblings_module._sockets

    def hidden(folder: Path) -> Iterator[tuple[int, str]]:
        if folder.name.startswith("1000"):
            raise PermissionError
        return sockets(folder)

    monkeypatch.setattr(siblings_module, "_sockets", hidden)
    asyncio.run(check_alone("memory", tmp_path))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
