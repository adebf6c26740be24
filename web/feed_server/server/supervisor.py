"""The parent of `feed serve --workers N`: it holds the port, and keeps N workers serving it.

uvicorn's own supervisor is not used, as little of it would be left: it does not limit a drain, ignores a second signal,
does not say why a worker failed to start, leaves its workers behind when it is killed, and lets all accept from one
socket, which spreads connections badly (see `feed_server.server.listening`).

Workers are forked from a parent that has imported everything and runs neither a thread nor an event loop: a new worker
serves after some ten milliseconds. Meanwhile its connections wait in its socket, which the parent holds.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from prometheus_client.multiprocess import mark_process_dead

from feed.backoff import Backoff
from feed_server.logging.stderr import logging_to_stderr
from feed_server.server.hangup import Hangups
from feed_server.server.listening import ServeError, listen, url_of
from feed_server.server.server import FORCED, greet, on_port, prepare
from feed_server.server.worker import DRAIN, END, FAILED, LEAVING, LISTENING, RETIRE, work
from feed_server.settings import Settings

logger = logging.getLogger(__name__)

_PRELOADED = ("feed.log.redis.log", "uvloop", "feed_server.server.protocol")  # modules that a server imports late

_HUNG_SECONDS = 10.0  # without a sign of life
_LOOK_SECONDS = 1.0
_STEADY_SECONDS = 10.0  # a worker that ends after a longer life is replaced at once
_KILL_SECONDS = 2.0  # after the time that workers have to end, until they are killed

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def serve_with_workers(settings: Settings) -> None:
    """Serve with several workers until a signal comes. Raises `ServeError` if they cannot start."""
    prepare(settings)
    for name in _PRELOADED:
        importlib.import_module(name)
    sockets = listen(settings.host, settings.port, settings.workers)
    url = url_of(sockets[0])
    with logging_to_stderr(settings.log_format, settings.log_level, forks=True):
        Supervisor(on_port(settings, sockets[0]), sockets, lambda: greet(url, settings)).run()


class _Worker:
    """A worker as its parent knows it: the `number` of its socket, what it has said, and the channel to it."""

    def __init__(self, number: int, pid: int, channel: socket.socket) -> None:
        self.number = number
        self.pid = pid
        self.channel = channel
        self.begun = self.heard = time.monotonic()
        self.listening = False
        self.leaving = False
        self.failure: str | None = None
        self._rest = b""

    def read(self) -> Sequence[bytes] | None:
        """Return the words that have come from the worker, None if it has ended."""
        with contextlib.suppress(ConnectionError):
            if data := self.channel.recv(4096):
                *words, self._rest = (self._rest + data).split(b"\n")
                return words
        return None

    def tell(self, word: bytes) -> None:
        """Send a word. A worker that is ending may not read it."""
        with contextlib.suppress(OSError):
            self.channel.send(word + b"\n")

    def kill(self) -> None:
        """Kill the worker. Its end is noticed by the channel, like any other."""
        os.kill(self.pid, signal.SIGKILL)


class Supervisor:
    """Keeps a worker on each of `sockets`, which listen on one port. `on_listening` is called when the first worker
    serves.

    SIGTERM, SIGINT and the end of the terminal let the workers drain, a second SIGTERM or SIGINT ends them at once. Any
    other SIGHUP replaces them, one after the other, without refusing a connection. A worker that dies, or whose event
    loop stands still for ten seconds, is replaced.
    """

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket], on_listening: Callable[[], None]) -> None:
        self._settings = settings
        self._sockets = list(sockets)
        self._on_listening = on_listening
        self._workers: list[_Worker] = []
        self._due: dict[int, float] = {}  # numbers without a worker, and when to start one
        self._backoffs = [Backoff() for _ in sockets]
        self._replacing: deque[int] = deque()
        self._served = False
        self._stopping = False
        self._deadline = float("inf")
        self._looked = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._bell, self._ring = socket.socketpair()  # the numbers of signals
        self._hangups = Hangups()

    def run(self) -> None:
        """Run until a signal has come and all workers have ended. Raises `ServeError` if the first cannot start."""
        with self._signals_taken():
            try:
                self._due = dict.fromkeys(range(1, len(self._sockets) + 1), 0.0)
                while self._workers or self._due:
                    self._turn()
            finally:
                self._end_all()

    @contextlib.contextmanager
    def _signals_taken(self) -> Iterator[None]:
        self._ring.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ, self._rung)
        signal.set_wakeup_fd(self._ring.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)

    def _turn(self) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._start(number)
        pause = min([_LOOK_SECONDS, self._deadline - now, *(due - now for due in self._due.values())])
        for key, _ in self._selector.select(max(0.0, pause)):
            key.data()
        self._look(time.monotonic())

    def _look(self, now: float) -> None:
        if now - self._looked > 2 * _LOOK_SECONDS:
            for worker in self._workers:
                worker.heard = now  # this process stood still, and the workers perhaps with it
        self._looked = now
        for worker in self._workers:
            if now > self._deadline:
                logger.warning("worker %d did not end in time: killed", worker.number)
                worker.kill()
            elif now - worker.heard > _HUNG_SECONDS:
                logger.error("worker %d gave no sign of life for %g s: killed", worker.number, _HUNG_SECONDS)
                worker.heard = now
                worker.kill()
        if now > self._deadline:
            self._deadline = float("inf")

    # Workers.

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # else the child would pass a signal on to the parent too
        pid = os.fork()
        if pid == 0:
            os._exit(self._be_worker(number, ours, theirs))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        worker = _Worker(number, pid, ours)
        self._workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, partial(self._hear, worker))

    def _be_worker(self, number: int, ours: socket.socket, channel: socket.socket) -> int:
        """Be a worker, in the new process. What it shares with the others is closed: else their ends go unnoticed."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._selector.close()
            listening = self._sockets[number - 1]
            others = {each for each in self._sockets if each is not listening}
            for each in (ours, self._bell, self._ring, *others, *(worker.channel for worker in self._workers)):
                each.close()
            settings = self._settings.model_copy(update={"node": f"{self._settings.node_name}/{number}"})
            form, level, quiet = settings.log_format, settings.log_level, settings.quiet_publishes
            with logging_to_stderr(form, level, quiet_publishes=quiet, worker=number):
                try:
                    return work(settings, listening, channel)
                except BaseException:
                    logger.exception("worker %d has failed", number)
                    return 1
        except BaseException:
            logger.exception("worker %d has failed", number)
            return 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    def _hear(self, worker: _Worker) -> None:
        words = worker.read()
        if words is None:
            self._ended(worker)
            return
        worker.heard = time.monotonic()
        for word in words:
            if word == LISTENING:
                self._listening(worker)
            elif word == LEAVING and not self._stopping and self._alone(worker):
                self._start(worker.number)
            elif word.startswith(FAILED):
                worker.failure = json.loads(word[len(FAILED) :])

    def _listening(self, worker: _Worker) -> None:
        worker.listening = True
        if not self._served and not self._stopping:
            self._served = True
            self._on_listening()
        for other in self._before(worker):
            other.leaving = True
            other.tell(RETIRE)

    def _alone(self, worker: _Worker) -> bool:
        return all(other is worker or other.number != worker.number for other in self._workers)

    def _before(self, worker: _Worker) -> list[_Worker]:
        """Return the older workers that this one replaces."""
        return [other for other in self._workers if other.number == worker.number and other.begun < worker.begun]

    def _ended(self, worker: _Worker) -> None:
        self._selector.unregister(worker.channel)
        worker.channel.close()
        self._workers.remove(worker)
        _, status = os.waitpid(worker.pid, 0)
        mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
        code = os.waitstatus_to_exitcode(status)
        if self._stopping:
            return
        if not self._served and (worker.failure is not None or code > 0):
            raise ServeError(worker.failure or f"worker {worker.number} ended with exit code {code} before it served")
        if not worker.leaving:
            why = worker.failure or (f"signal {-code}" if code < 0 else f"exit code {code}")
            logger.error("worker %d has ended: %s", worker.number, why)
        if self._alone(worker):
            self._replace_soon(worker)
        elif not worker.listening and self._before(worker):
            logger.error(
                "worker %d is not replaced, and the others are not either: the new one did not start", worker.number
            )
            self._replacing.clear()
        if worker.leaving:
            self._replace_next()

    def _replace_soon(self, worker: _Worker) -> None:
        backoff = self._backoffs[worker.number - 1]
        now = time.monotonic()
        if now - worker.begun > _STEADY_SECONDS:
            backoff.reset()
            self._due[worker.number] = now
        else:
            self._due[worker.number] = now + backoff.next()

    # Signals.

    def _rung(self) -> None:
        for number in self._bell.recv(64):
            if number != signal.SIGHUP:
                self._stop()
            elif self._hangups.is_end():
                if not self._stopping:  # a shell sends SIGHUP twice, which must not end the drain
                    self._stop()
            elif not self._replacing:
                self._replacing.extend(range(1, len(self._sockets) + 1))
                self._replace_next()

    def _replace_next(self) -> None:
        """Start a second worker on a socket. When it serves, the first one ends, and then the next is replaced."""
        while self._replacing and not self._stopping:
            number = self._replacing.popleft()
            if sum(worker.number == number for worker in self._workers) == 1:
                self._start(number)
                break

    def _stop(self) -> None:
        """Let all workers drain; the second time end them at once."""
        patience = 0.0 if self._stopping else self._settings.drain + FORCED
        self._deadline = min(self._deadline, time.monotonic() + patience + _KILL_SECONDS)
        for worker in self._workers:
            worker.tell(END if self._stopping else DRAIN)
        self._stopping = True
        self._due.clear()
        for each in self._sockets:
            each.close()  # else new connections would wait here without an answer

    def _end_all(self) -> None:
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            os.waitpid(worker.pid, 0)
            worker.channel.close()
        for each in (*self._sockets, self._bell, self._ring):
            each.close()
        self._selector.close()
