"""How many deliveries a second the bench's own readers can take and check on one core: `python -m
tests.support.capacity`.

A server that does nothing but send ready-made bytes, at a pace that leaves the readers idle for a part of the time;
what their process used then says how much they could take. A bench whose readers are slower than its server measures
itself.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

import psutil

from feed_server.bench.cores import share_cores
from feed_server.bench.framing import FEED_SSE, FEED_WS, Form
from feed_server.bench.payload import make_data, make_token
from feed_server.bench.readers import Finish, Open, ReadersJob, Result
from feed_server.bench.worker import Worker, now

READERS = 1_000
SECONDS = 3.0
PACE = 150_000  # events a second to all readers together, where each is read for itself
PACE_BATCHED = 400_000


def event(form: Form, number: int) -> bytes:
    """An event as a feed would send it."""
    data = make_data(make_token(0, number, now()), 200)
    if not form.is_websocket:
        return b"id: abcdef-%d\ndata: %b\n\n" % (number, data)
    text = b'{"id":"abcdef-%d","topic":"bench","type":"message","data":%b,"time":"%b"}' % (number, data, b"t" * 24)
    return b"\x81\x7e" + len(text).to_bytes(2, "big") + text


def opening(form: Form) -> bytes:
    """What a feed would answer."""
    if form.is_websocket:
        text = b'{"type":"feed.open","id":"abcdef-0","data":{}}'
        return b"HTTP/1.1 101 Switching\r\n\r\n\x81" + bytes((len(text),)) + text
    return b"HTTP/1.1 200 OK\r\n\r\nid: abcdef-0\nevent: feed.open\ndata: {}\n\n"


def blast(listening: socket.socket, form: Form, batch: int, pace: float, done: list[int]) -> None:
    """Take on all readers, then send to all of them, batch by batch."""
    connections = []
    for _ in range(READERS):
        connection = listening.accept()[0]
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.recv(4096)
        connection.sendall(opening(form))
        connections.append(connection)
    time.sleep(0.2)
    number, start = 0, time.monotonic()
    while time.monotonic() < start + SECONDS:
        chunk = b"".join(event(form, number + place) for place in range(1, batch + 1))
        number += batch
        for connection in connections:
            connection.sendall(chunk)
        time.sleep(max(0, start + number * READERS / pace - time.monotonic()))
    done.append(number)
    time.sleep(1)


def measure(form: Form, batch: int, pace: float, rest: float) -> str:
    """One line: what the readers used, and what that comes to."""
    cores = share_cores()
    os.sched_setaffinity(0, cores.server)
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        done: list[int] = []
        thread = threading.Thread(target=blast, args=(listening, form, batch, pace, done))
        job = ReadersJob("127.0.0.1", listening.getsockname()[1], "/", form, 200, rest, 0)
        worker = Worker(job, cores.load)
        worker.send(Open(READERS))
        process = psutil.Process(worker.pid)
        thread.start()
        while worker.receive() is None:
            pass
        before, begin = process.cpu_times(), now()
        while not done:
            time.sleep(0.05)
        after, end = process.cpu_times(), now()
        worker.send(Finish(done[0], begin, end, 2.0))
        result = None
        while not isinstance(result, Result):
            result = worker.receive()
        worker.close()
        thread.join()
    cpu = after.user + after.system - before.user - before.system
    each = cpu * 1e6 / result.deliveries
    right = not result.sequences.strays and not result.garbled and set(result.sequences.positions) == {done[0]}
    return (
        f"{form.name}, rest {rest * 1000:g} ms, "
        f"{result.deliveries / result.receives:4.1f} events a read: {each:.2f} µs a delivery at "
        f"{result.deliveries * 1e6 / (end - begin):9,.0f}/s, room for {1e6 / each:9,.0f}/s on one core; "
        f"{'all right' if right else f'WRONG {result.garbled}'}"
    )


if __name__ == "__main__":
    if not share_cores().apart:
        sys.exit("needs two cores")
    for form in (FEED_SSE, FEED_WS):
        print(measure(form, 1, PACE, 0.0))
        print(measure(form, 1, PACE, 0.002))
        print(measure(form, 16, PACE_BATCHED, 0.0), flush=True)
