"""A soak from its beginning to its end: a server, the load on it, samples of the server's process, and the outcome."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import psutil

from feed.log.redis.address import without_password
from feed_server.bench.children import Child, a_folder, child
from feed_server.bench.cores import Cores
from feed_server.bench.logs import OWN_REDIS, check_log, fresh_log
from feed_server.bench.measure import Show
from feed_server.bench.payload import MAX_PUBLISHERS, MIN_SIZE
from feed_server.bench.soak.load import Done, LoadJob, Seen, Stop
from feed_server.bench.soak.samples import Bounds, Sample, Slope, leaks, measured, slope
from feed_server.bench.soak.streams import Form
from feed_server.bench.worker import BenchError, Worker, descriptor_limit

_SPARE = 300  # descriptors a server needs for itself
_RETAINED_SECONDS = 15  # of events, so that the log turns over several times a minute
_LEAST_RETAINED = 200
_MOST_RETAINED = 20_000
_LINE_SECONDS = 60.0
_TASKS_SECONDS = 10.0
_START_SECONDS = 30.0  # of the process that makes the load
_FINISH_SECONDS = 180.0
_READY = 0.5  # seconds in which a server settles that nobody has spoken to


@dataclass(frozen=True)
class Plan:
    """One soak."""

    seconds: float
    log: str
    forms: Sequence[Form]
    readers: int
    publishers: int
    rate: float
    size: int
    bounds: Bounds = field(default_factory=Bounds)
    program: Sequence[str] = ("-m", "feed_server.bench.soak.inside")
    """What Python is to run as the server; its arguments are a file, and then those of `feed`."""

    def check(self) -> None:
        """Raises `BenchError` for what cannot be done here."""
        if self.size < MIN_SIZE:
            raise BenchError(f"--data {self.size}: an event's token alone needs {MIN_SIZE} bytes")
        if self.publishers > MAX_PUBLISHERS:
            raise BenchError(f"--publishers {self.publishers}: must be at most {MAX_PUBLISHERS}")
        limit, needed = descriptor_limit(), self.readers + 2 * self.publishers + _SPARE
        if needed > limit:
            raise BenchError(
                f"{self.readers:,} readers need {needed:,} descriptors in the server's process, and the limit is "
                f"{limit:,}: raise it with ulimit -n {needed}, or take fewer readers"
            )
        if self.log.startswith("sqlite:") and self.log != "sqlite:":
            raise BenchError(f"--log {self.log}: a soak needs a new log, which it makes in TMPDIR: give --log sqlite:")
        check_log(self.log)

    @property
    def retained(self) -> int:
        """Events that the server keeps."""
        return min(max(_LEAST_RETAINED, int(self.rate * _RETAINED_SECONDS)), _MOST_RETAINED)

    @property
    def description(self) -> str:
        """The load, in words."""
        return (
            f"{self.readers:,} readers that come and go ({', '.join(self.forms)}), {self.publishers} publishers, "
            f"{self.rate:g} {self.size}-byte events/s, of which {self.retained:,} are kept, {clock(self.seconds)} on "
            f"{without_password(self.log)}"
        )

    @property
    def owns_redis(self) -> bool:
        """Whether a Redis is started for it."""
        return self.log == OWN_REDIS


@dataclass(frozen=True)
class Outcome:
    """What a soak has shown."""

    plan: Plan
    seconds: float
    """How long it was, which is less than planned where somebody ended it."""
    seen: Seen
    before: Sample
    """When nobody was there yet."""
    samples: list[Sample]
    after: Sample
    """When all had left."""
    tasks_after: dict[str, int]
    """Which, by the names of their coroutines."""

    @property
    def part(self) -> list[Sample]:
        """The samples that count."""
        return measured(self.samples, self.seconds)

    @property
    def slope(self) -> Slope | None:
        """How memory went."""
        return slope(self.part)

    @property
    def faults(self) -> list[str]:
        """What was wrong, a line each."""
        counts = [f"{count:,} {kind}" for kind, count in self.seen.findings.items()]
        return counts + leaks(self.before, self.part, self.after, self.plan.bounds)


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def soak(plan: Plan, cores: Cores, show: Show) -> Outcome:
    """Let them come and go. Ctrl-C ends it early, a second one at once."""
    show.status("starting")
    with contextlib.ExitStack() as stack:
        interrupted = stack.enter_context(_interruptions())
        folder = stack.enter_context(a_folder())
        log = stack.enter_context(fresh_log(plan.log, folder, cores.redis))
        server = stack.enter_context(_server(plan, log.url, folder, cores))
        port = server.announced_port(rb"dashboard +http://\S+:(\d+)/")
        job = LoadJob(
            "127.0.0.1",
            port,
            plan.forms,
            plan.readers,
            plan.publishers,
            plan.rate,
            plan.size,
            plan.retained,
            secrets.randbits(32),
        )
        return _Soak(plan, server, folder, show, interrupted).run(partial(_start, stack, job, cores))


def _server(plan: Plan, log: str, folder: Path, cores: Cores) -> contextlib.AbstractContextManager[Child]:
    place = folder / "server"
    place.mkdir()
    command = [sys.executable, *plan.program, str(folder / "tasks"), "serve", "--port", "0", "--log", log]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")}
    environment["FEED_RETAIN_EVENTS"] = str(plan.retained)
    environment["FEED_WINDOW_EVENTS"] = str(plan.retained // 4)  # or no replay would ever read the log
    return child(f"feed ({without_password(plan.log)})", command, place, cores.nodes[0], environment)


def _start(stack: contextlib.ExitStack, job: LoadJob, cores: Cores) -> Worker:
    worker = Worker(job, cores.load)
    stack.callback(worker.close)
    return worker


@contextlib.contextmanager
def _interruptions() -> Iterator[list[int]]:
    """The signals that came within the block: the first asks for the end, the second is as ever."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


class _Soak:
    def __init__(self, plan: Plan, server: Child, folder: Path, show: Show, interrupted: Sequence[int]) -> None:
        self._plan = plan
        self._server = server
        self._process = psutil.Process(server.process.pid)
        self._folder = folder
        self._show = show
        self._interrupted = interrupted
        self._load: psutil.Process | None = None
        self._seen = Seen(0, 0, {}, {}, [])
        self._begun = 0.0
        self._samples: list[Sample] = []

    def run(self, start: Any) -> Outcome:
        plan = self._plan
        time.sleep(_READY)
        before = self._sample()
        worker = start()
        self._load = psutil.Process(worker.pid)
        self._receive(worker, _START_SECONDS)  # the first that it says
        self._begun = time.monotonic()
        self._show.line(f"{self._progress()}; Ctrl-C ends it early")
        end, line = self._begun + plan.seconds, self._begun + _LINE_SECONDS
        every = min(5.0, max(0.25, plan.seconds / 100))
        due = self._begun + every
        while (at := time.monotonic()) < end and not self._interrupted:
            self._receive(worker, min(0.2, end - at))
            if time.monotonic() >= due:
                due += every
                self._samples.append(self._sample())
            if time.monotonic() >= line:
                line += _LINE_SECONDS
                self._show.line(self._progress())
            self._show.status(self._progress())
        seconds = time.monotonic() - self._begun
        worker.send(Stop())
        self._finish(worker)
        return Outcome(plan, seconds, self._seen, before, self._samples, *self._settled(before))

    def _finish(self, worker: Worker) -> None:
        deadline = time.monotonic() + _FINISH_SECONDS
        while not self._receive(worker, 0.2):
            self._show.status(f"{self._progress()}; waiting until all readers have all events")
            if time.monotonic() > deadline:
                raise BenchError(f"the readers did not finish within {_FINISH_SECONDS:g} s")

    def _receive(self, worker: Worker, timeout: float) -> bool:
        """Note what the load says. Whether it is done."""
        self._server.check()
        if not wait([worker.connection], timeout):
            return False
        try:
            answer = worker.receive()
        except BenchError:
            self._server.check()  # if it is the server that has died, that is the better explanation
            raise
        self._seen = answer.seen if isinstance(answer, Done) else answer
        return isinstance(answer, Done)

    def _settled(self, before: Sample) -> tuple[Sample, dict[str, int]]:
        """The server when all have left, as soon as everything has gone that is to go."""
        bounds = self._plan.bounds
        deadline = time.monotonic() + bounds.patience
        while True:
            after = self._sample()
            back = after.descriptors <= before.descriptors + bounds.descriptors
            if (back and after.tasks <= before.tasks + bounds.tasks) or time.monotonic() > deadline:
                return after, self._tasks()
            time.sleep(0.2)

    def _sample(self) -> Sample:
        process, tasks = self._process, sum(self._tasks().values())
        with process.oneshot():
            times = process.cpu_times()
            return Sample(
                at=time.monotonic() - self._begun if self._begun else 0.0,
                memory=process.memory_info().rss,
                descriptors=process.num_fds(),
                threads=process.num_threads(),
                tasks=tasks,
                cpu=times.user + times.system,
                stored=sum(file.stat().st_size for file in self._folder.glob("feed.db*")),
                streams=self._seen.streams,
                connections=self._seen.tally.get("connections", 0),
                load_memory=self._load.memory_info().rss if self._load is not None else 0,
            )

    def _tasks(self) -> dict[str, int]:
        """The server's tasks, by its own count."""
        file = self._folder / "tasks"
        file.unlink(missing_ok=True)
        self._process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + _TASKS_SECONDS
        while not file.exists():
            self._server.check()
            if time.monotonic() > deadline:
                raise BenchError(f"the server's event loop has stood still for {_TASKS_SECONDS:g} s")
            time.sleep(0.005)
        return dict(orjson.loads(file.read_bytes()))

    def _progress(self) -> str:
        seen, plan = self._seen, self._plan
        memory = f", {self._samples[-1].memory / 2**20:.1f} MiB" if self._samples else ""
        found = ", ".join(f"{count:,} {kind}" for kind, count in seen.findings.items()) or "nothing wrong"
        return (
            f"{clock(time.monotonic() - self._begun)} of {clock(plan.seconds)}: {seen.streams:,} streams{memory}, "
            f"{seen.events:,} events, {seen.tally.get('deliveries', 0):,} deliveries, "
            f"{seen.tally.get('connections', 0):,} connections; {found}"
        )
