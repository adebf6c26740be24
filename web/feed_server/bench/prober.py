"""A process that asks a server for a sign of life every few milliseconds: how long the answer takes is how long the
server's loop was held up."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass

from feed_server.bench.worker import BenchError, Control, Ready, now

ANSWER_SECONDS = 30.0
_NICE = -10  # so that what it measures is the server, not its own waiting for a core


@dataclass(frozen=True)
class Probe:
    """Probe from `begin` to `end`, microseconds of the monotonic clock, then say `Probed`."""

    begin: int
    end: int


@dataclass(frozen=True)
class Probed:
    """How long each answer took, in microseconds."""

    delays: list[int]
    urgent: bool
    """Whether the prober went before the other load."""


@dataclass(frozen=True)
class ProberJob:
    """Where to ask, and how often."""

    host: str
    port: int
    path: str
    every: float

    def run(self, control: Control) -> None:
        """Obey commands until there are no more."""
        with contextlib.suppress(OSError):
            os.nice(_NICE)
        with socket.create_connection((self.host, self.port), ANSWER_SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            control.send(Ready())
            while True:
                match control.recv():
                    case Probe() as command:
                        control.send(self._probe(connection, command))

    def _probe(self, connection: socket.socket, probe: Probe) -> Probed:
        request = f"GET {self.path} HTTP/1.1\r\nHost: localhost:{self.port}\r\n\r\n".encode()
        delays = []
        due = probe.begin
        step = int(self.every * 1e6)
        while due < probe.end:
            time.sleep(max(0, due - now()) / 1e6)
            sent = now()
            connection.sendall(request)
            _read_answer(connection)
            answered = now()
            delays.append(answered - sent)
            due += step
            while due < min(answered, probe.end):  # what could not be asked meanwhile would have waited as well
                delays.append(answered - due)
                due += step
        return Probed(delays, os.nice(0) == _NICE)


def _read_answer(connection: socket.socket) -> None:
    answer = b""
    while True:
        data = connection.recv(65536)
        if not data:
            raise BenchError("the server closed the prober's connection")
        answer += data
        head, ended, body = answer.partition(b"\r\n\r\n")
        if ended:
            _, _, rest = head.lower().partition(b"\r\ncontent-length:")
            if len(body) >= int(rest.partition(b"\r\n")[0] or 0):
                return
