"""A process that publishes on several connections, each one POST at a time: as fast as it is answered, or by a
schedule. What was accepted, and how long it took, is kept until the end."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from feed.media_types import JSON, NDJSON
from feed_server.bench.payload import make_data, make_token, topic_number
from feed_server.bench.worker import BenchError, Control, Progress, Ready, now

ANSWER_SECONDS = 30.0
_REPORT_MICROSECONDS = 250_000
_RECEIVE = 256 << 10
_SPIN = 1500  # microseconds; epoll wakes up to a millisecond late

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb'"id" *: *"([^"]+)"')


@dataclass(frozen=True)
class Publish:
    """Publish from `begin` to `end`, microseconds of the monotonic clock, then say `Published`."""

    begin: int
    end: int


@dataclass(frozen=True)
class PublishCount:
    """Publish so many events as fast as it goes, then say `Published`."""

    count: int


@dataclass(frozen=True)
class Published:
    """What was accepted: tokens with the ids that the answers gave, if they gave any. Times are in microseconds: when
    a request was meant to be sent, and when it was answered."""

    tokens: list[bytes]
    ids: list[bytes]
    sent: array[int]
    answered: array[int]
    newest: dict[int, int] = field(default_factory=dict)
    """If the events were spread over topics, neither tokens nor ids are kept, as there may be millions: the seq of the
    newest event of each topic, by its number, of all that was published so far."""


@dataclass(frozen=True)
class PublishersJob:
    """Where and what to publish."""

    host: str
    ports: Sequence[int]
    """Publishers are spread over them in turn."""
    path: str
    headers: str
    """In whole lines."""
    topic: str
    publishers: int
    size: int
    batch: int
    rate: float | None
    """Events per second of all of them together; None: each as fast as it is answered."""
    is_text: bool = False
    """Whether the data of single events is sent as text, else as JSON."""
    apart: bool = False
    """Whether head and body are sent apart."""
    spread: int = 0
    """Over how many topics the events are spread, `topic/0` and so on; 0: all go to `topic`."""

    def run(self, control: Control) -> None:
        """Obey commands until there are no more."""
        with contextlib.closing(Publishers(self, control)) as publishers:
            control.send(Ready())
            while True:
                match control.recv():
                    case Publish() as command:
                        control.send(publishers.publish(command.begin, command.end))
                    case PublishCount() as command:
                        control.send(publishers.publish(now(), None, command.count))


@dataclass
class _Publisher:
    """One connection."""

    number: int
    connection: socket.socket
    serial: int = 0
    answer: bytes = b""
    tokens: list[bytes] = field(default_factory=list)
    due: int = 0


class Publishers:
    """The publishers of this process."""

    def __init__(self, job: PublishersJob, control: Control) -> None:
        self._job = job
        self._control = control
        self._epoll = select.epoll()
        self._by_descriptor: dict[int, _Publisher] = {}
        kind = NDJSON if job.batch > 1 else "text/plain" if job.is_text else JSON
        self._post = f"POST {job.path}".encode()
        self._head = (f" HTTP/1.1\r\nHost: localhost\r\n{job.headers}Content-Type: {kind}\r\nContent-Length: ").encode()
        self._newest: dict[int, int] = {}
        for number in range(job.publishers):
            port = job.ports[number % len(job.ports)]
            connection = socket.create_connection((job.host, port), ANSWER_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._by_descriptor[connection.fileno()] = _Publisher(number, connection)
            self._epoll.register(connection, select.EPOLLIN)
        self._reported = 0
        self._restart()

    def close(self) -> None:
        """Close all connections."""
        self._epoll.close()
        for publisher in self._by_descriptor.values():
            publisher.connection.close()

    def _restart(self) -> None:
        self._tokens: list[bytes] = []
        self._ids: list[bytes] = []
        self._sent = array("q")
        self._answered = array("q")

    def publish(self, begin: int, end: int | None, count: int | None = None) -> Published:
        """Publish until a time, or so many events."""
        self._restart()
        self._left = count
        time.sleep(max(0, begin - now()) / 1e6)
        if self._job.rate is None or end is None:
            self._closed_loop(end)
        else:
            self._scheduled(begin, end, self._job.rate)
        return Published(self._tokens, self._ids, self._sent, self._answered, self._newest)

    def _closed_loop(self, end: int | None) -> None:
        busy = 0
        for publisher in self._by_descriptor.values():
            busy += self._send_next(publisher, end)
        last = now()
        while busy:
            answered = self._answers(ANSWER_SECONDS)
            if answered:
                last = now()
            elif now() > last + ANSWER_SECONDS * 1e6:
                raise BenchError(f"{busy} publishes were not answered within {ANSWER_SECONDS:g} s")
            for publisher in answered:
                busy -= not self._send_next(publisher, end)

    def _send_next(self, publisher: _Publisher, end: int | None) -> bool:
        at = now()
        if (end is not None and at >= end) or self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        self._send(publisher, at)
        return True

    def _scheduled(self, begin: int, end: int, rate: float) -> None:
        """A publish that is due while its publisher still waits for an answer is sent late, but its time counts from
        when it was due."""
        step = self._job.batch / rate * 1e6
        publishers = list(self._by_descriptor.values())
        idle = set(range(len(publishers)))
        queues: list[list[int]] = [[] for _ in publishers]
        number = 0
        last = now()
        while True:
            due = int(begin + number * step)
            if due >= end and len(idle) == len(publishers):
                return
            wait = min(due, end) - now() if due < end else int(ANSWER_SECONDS * 1e6)
            if wait > _SPIN or len(idle) < len(publishers):
                for publisher in self._answers(max(0, wait - _SPIN) / 1e6):
                    last = now()
                    if queues[publisher.number]:
                        self._send(publisher, queues[publisher.number].pop(0))
                    else:
                        idle.add(publisher.number)
            elif wait > 0:
                time.sleep(wait / 1e6)
            if len(idle) == len(publishers):
                last = now()
            elif now() > last + ANSWER_SECONDS * 1e6:
                raise BenchError(f"a publish was not answered within {ANSWER_SECONDS:g} s")
            while due < end and due <= now():
                turn = number % len(publishers)
                if turn in idle:
                    idle.remove(turn)
                    self._send(publishers[turn], due)
                else:
                    queues[turn].append(due)
                number += 1
                due = int(begin + number * step)

    def _send(self, publisher: _Publisher, due: int) -> None:
        job = self._job
        # How old a value of state is, is asked of the server: that its publisher is late must not count.
        at = now() if job.spread else due
        publisher.tokens = [make_token(publisher.number, publisher.serial + place, at) for place in range(job.batch)]
        publisher.serial += job.batch
        publisher.due = due
        place = b""
        if job.batch == 1:
            body = make_data(publisher.tokens[0], job.size)
            place = self._place(publisher.tokens[0])
        else:
            topic = job.topic.encode()
            body = b"\n".join(
                b'{"topic":"%b%b","data":%b}' % (topic, self._place(token), make_data(token, job.size))
                for token in publisher.tokens
            )
        head = b"%b%b%b%d\r\n\r\n" % (self._post, place, self._head, len(body))
        if job.apart:
            publisher.connection.sendall(head)
            publisher.connection.sendall(body)
        else:
            publisher.connection.sendall(head + body)

    def _place(self, token: bytes) -> bytes:
        """What follows the topic where the events are spread."""
        job = self._job
        return b"/%d" % topic_number(token, job.publishers, job.spread) if job.spread else b""

    def _answers(self, timeout: float) -> list[_Publisher]:
        """The publishers whose answer has come."""
        answered = []
        for descriptor, _ in self._epoll.poll(timeout):
            publisher = self._by_descriptor[descriptor]
            data = publisher.connection.recv(_RECEIVE)
            if not data:
                raise BenchError("the server closed a publisher's connection")
            publisher.answer += data
            if self._accept(publisher):
                answered.append(publisher)
        if (at := now()) > self._reported + _REPORT_MICROSECONDS:
            self._reported = at
            self._control.send(Progress(0, len(self._tokens)))
        return answered

    def _accept(self, publisher: _Publisher) -> bool:
        """Note an answer, if it is there in full."""
        answer = publisher.answer
        head, ended, body = answer.partition(b"\r\n\r\n")
        if not ended:
            return False
        length = _LENGTH.search(head)
        if length is None:
            raise BenchError(f"an answer without a length: {head[:200].decode(errors='replace')}")
        if len(body) < int(length[1]):
            return False
        if answer[9:10] != b"2":
            raise BenchError(f"a publish was refused: {answer[9:300].decode(errors='replace')}")
        publisher.answer = b""
        ids: list[bytes] = []
        if self._job.batch > 1:
            ids = [id.encode() for id in orjson.loads(body)["ids"]]
        elif (found := _ID.search(body)) is not None:
            ids = [found[1]]
        if self._job.spread:
            self._note_newest(publisher.tokens, ids)
        else:
            self._tokens += publisher.tokens
            self._ids += ids
        self._sent.append(publisher.due)
        self._answered.append(now())
        return True

    def _note_newest(self, tokens: Sequence[bytes], ids: Sequence[bytes]) -> None:
        job, newest = self._job, self._newest
        for token, id in zip(tokens, ids, strict=True):
            place, seq = topic_number(token, job.publishers, job.spread), int(id.rpartition(b"-")[2])
            if seq > newest.get(place, 0):
                newest[place] = seq
