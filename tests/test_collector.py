"""Connections leave nothing to the garbage collector, which sets them aside while there are many."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.running import GREETING, START_SECONDS
from web.collector import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    yield Collector()
    gc.unfreeze()


def test_many_connections_are_set_aside_and_given_back_when_there_are_few(collector: Collector) -> None:
    gc.unfreeze()
    for connections in range(1, 401):
        collector.connected(connections)
    assert gc.get_freeze_count() > 0
    for connections in range(400, 90, -1):
        collector.disconnected(connections)
    assert gc.get_freeze_count() == 0


def test_few_connections_are_left_to_the_collector(collector: Collector) -> None:
    gc.unfreeze()
    for _ in range(10):
        for connections in range(1, 100):
            collector.connected(connections)
    assert gc.get_freeze_count() == 0


# A server without a collector, and what is left for one once its clients have gone: nothing may be.
SERVER = """
import gc, os, sys, threading
import web.server
from web.cli import main

def report():
    sys.stdin.readline()
    gc.unfreeze()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    left = sorted({type(one).__name__ for one in gc.garbage if type(one).__module__.startswith(("web", "uvicorn"))})
    print("left:", *left, flush=True)
    os._exit(0)

threading.Thread(target=report, daemon=True).start()
gc.disable()
sys.argv = ["feed", "serve", "--port", "0", "--log", "memory:"]
main()
"""

CLIENT = """
import socket, sys
port, request = int(sys.argv[1]), sys.argv[2].encode().decode("unicode_escape").encode()
clients = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(20)]
for client in clients:
    client.sendall(request)
    assert client.recv(1000)
for client in clients:
    client.shutdown(socket.SHUT_WR)
for client in clients:
    while client.recv(1000):
        pass
"""

REQUESTS = {
    "SSE": "GET /events/a HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n",
    "publish": "POST /events/a HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 1\\r\\n\\r\\nx",
    "WebSocket": "GET /ws/a HTTP/1.1\\r\\nHost: localhost\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
    "Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n",
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_connection_that_has_ended_leaves_no_garbage(request_: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            greeting = [server.stdout.readline() for _ in range(GREETING)]
            port = greeting[1].rpartition(":")[2].strip().rstrip("/")
            client = [sys.executable, "-c", CLIENT, port, request_]
            subprocess.run(client, check=True, timeout=START_SECONDS)
            subprocess.run(
                [*client[:4], REQUESTS["publish"]], check=True, timeout=START_SECONDS
            )  # all else is done then
            server.stdin.write("now\n")
            server.stdin.flush()
            assert server.stdout.readline() == "left:\n"
        finally:
            server.kill()
