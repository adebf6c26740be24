"""Connections leave nothing to the garbage collector, which sets them aside while there are many."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from feed_server.server.gc import Collector
from tests.support.running import GREETING, START_SECONDS


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


# A server without a collector, and what is left for one once its clients have gone: nothing may be. What lives is
# counted before and after, as a generator in a piece of garbage ends when that is collected, and may free it unseen.
SERVER = """
import gc, os, sys, threading
from collections import Counter
import feed_server.server.server
from feed_server.cli.main import main

def count():
    kinds = (type(one) for one in gc.get_objects())
    ours = ("feed", "uvicorn", "uvloop", "asyncio", "websockets")
    return Counter(kind.__name__ for kind in kinds if kind.__module__.startswith(ours))

def report():
    sys.stdin.readline()
    before = count()
    print("counted", flush=True)
    sys.stdin.readline()
    print("left:", *sorted(name for name, number in count().items() if number >= before[name] + 10), flush=True)
    os._exit(0)

threading.Thread(target=report, daemon=True).start()
gc.disable()
sys.argv = ["feed", "serve", "--port", "0", "--log", "memory:"]
main()
"""

CLIENT = """
import socket, sys
port, request = int(sys.argv[1]), sys.argv[2].encode().decode("unicode_escape").encode("latin-1")
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

WEBSOCKET = (
    "GET /ws/a HTTP/1.1\\r\\nHost: localhost\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
    "Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n"
)
REQUESTS = {
    "SSE": "GET /events/a HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n",
    "publish": "POST /events/a HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 1\\r\\n\\r\\nx",
    "WebSocket": WEBSOCKET,
    "WebSocket that closes": WEBSOCKET + "\\x88\\x82\\0\\0\\0\\0\\x03\\xe8",
    "WebSocket that breaks the rules": WEBSOCKET + "\\xff\\xff\\0\\0\\0\\0",
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
            said = []
            for _ in range(2):  # what is made once for all is there after the first
                for request in (request_, REQUESTS["publish"]):  # all else is done when that is
                    client = [sys.executable, "-c", CLIENT, port, request]
                    subprocess.run(client, check=True, timeout=START_SECONDS)
                server.stdin.write("now\n")
                server.stdin.flush()
                said.append(server.stdout.readline())
            assert said == ["counted\n", "left:\n"]
        finally:
            server.kill()
