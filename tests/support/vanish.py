"""Peers that vanish without a word: `unshare --map-root-user --net python -m tests.support.vanish 60 stall=30`.

Runs in a network namespace of its own, a server and its clients, with nothing but a loopback. Taken down, it makes
everybody vanish for everybody: no packet arrives any more, and none says so. Prints after how many seconds the server
had let go of which connection, and fails if one is still there after so many.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import orjson

from feed_server.bench.soak.streams import Form, request
from tests.support.running import RunningServer, running
from tests.support.streams import eventually

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_REQUEST = struct.Struct("16sH14x")


def set_loopback(*, up: bool) -> None:
    """Let there be a network, or none."""
    with socket.socket() as any_socket:
        _, flags = _REQUEST.unpack(fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _REQUEST.pack(b"lo", 0)))
        flags = flags | _IFF_UP if up else flags & ~_IFF_UP
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _REQUEST.pack(b"lo", flags))


REQUESTS = {
    **{form.value: request(form, "/vanish") for form in Form},
    "lagging": request(Form.SSE, "/lagging"),
}
IDLE = {"idle": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"}
UNFINISHED = {
    "half a head": b"GET /events/a HTTP/1.1\r\nHost: loc",
    "half a body": b"POST /events/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf",
}


def peers(server: RunningServer) -> set[str]:
    """The server's connections, as the inodes of its sockets."""
    found = set()
    for entry in Path(f"/proc/{server.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(str(entry.readlink()))
    return {target for target in found if target.startswith("socket:")}


def vanish(limit: float, requests: dict[str, bytes], settings: dict[str, str]) -> dict[str, float]:
    """After how many seconds each was let go of."""
    with ExitStack() as stack:
        server = stack.enter_context(running("--log", "memory:", **settings))
        own = peers(server)
        places: dict[str, str] = {}
        for name, asked in requests.items():
            before = peers(server)
            peer = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            stack.callback(peer.close)
            peer.sendall(asked)
            if name not in UNFINISHED:
                assert peer.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.1 101"), name
            (places[name],) = eventually(lambda: peers(server) - before)
        # At once: on a slow machine the reader that takes nothing would be cut off while they come one by one.
        batch = [{"topic": "lagging", "data": "x" * 100_000}] * 100
        assert server.http.post(f"{server.url}/events", json=batch).status_code == 201
        server.http.close()
        eventually(lambda: peers(server) == own | set(places.values()))
        began = time.monotonic()
        set_loopback(up=False)
        found: dict[str, float] = {}
        while left := [name for name in places if name not in found]:
            now, there = time.monotonic() - began, peers(server)
            found.update({name: round(now, 1) for name in left if places[name] not in there})
            assert now < limit, f"still there after {now:.0f} s: {left}\n{server.output}"
            time.sleep(0.02)
        set_loopback(up=True)
        again = RunningServer()
        again.url = server.url
        stack.callback(again.http.close)
        assert again.publish("a")
        assert "Traceback" not in server.output, server.output
        return found


if __name__ == "__main__":
    set_loopback(up=True)
    seconds, *assignments = sys.argv[1:]
    told = dict(assignment.split("=") for assignment in assignments)
    # Who owes us nothing, or has not sent all, is found by the system's keepalive, which no setting makes faster.
    requests = REQUESTS if told else REQUESTS | IDLE | UNFINISHED
    print(orjson.dumps(vanish(float(seconds), requests, told)).decode())
