"""The rounds: a fresh server each, the load on it, and figures out of what everybody saw."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from statistics import linear_regression
from typing import Any, Protocol, TypeVar

import psutil

from feed_server.bench.checker import judge
from feed_server.bench.children import Usage
from feed_server.bench.cores import Cores
from feed_server.bench.payload import TOKEN_BYTES, publisher_of, sent_at
from feed_server.bench.plan import Plan, Scenario
from feed_server.bench.prober import Probe, Probed, ProberJob
from feed_server.bench.publishers import Publish, PublishCount, Published, PublishersJob
from feed_server.bench.readers import Drop, Dropped, Finish, Open, Opened, ReadersJob, Result
from feed_server.bench.targets import Running
from feed_server.bench.worker import BenchError, Job, Ready, Worker, descriptor_limit, now

ANSWER_SECONDS = 180.0
_READERS_PER_PROCESS = 250  # at least, where there are several cores for them
_ADDRESSES_PER_PROCESS = 4
_SETTLE_SECONDS = 5.0
_SETTLE_STEP = 200_000  # microseconds
_LEAST_PATIENCE = 2.0  # seconds without any event until what is missing is taken for lost
_LEAD = 50_000  # microseconds between telling the publishers to begin and their beginning

MIB = 1 << 20
KIB = 1 << 10

Answer = TypeVar("Answer")


class Show(Protocol):
    """Where progress is shown."""

    def status(self, text: str) -> None:
        """What is being done just now."""

    def line(self, text: str) -> None:
        """Something that is to stay."""


@dataclass
class Round:
    """What one round gave: figures by name, and what was wrong."""

    target: str
    number: int
    figures: dict[str, float]
    faults: list[str] = field(default_factory=list)
    load: dict[str, float] = field(default_factory=dict)
    """How busy the load was: each kind of process in cores, and `busy`, the part of the load's cores that was used."""


def run(plan: Plan, cores: Cores, show: Show, play: Callable[[Load], Round]) -> Iterator[Round]:
    """All rounds: the first of each target, then the second of each, and so on. `play` makes one of them."""
    for number in range(1, plan.rounds + 1):
        for target in plan.targets:
            title = f"round {number}/{plan.rounds}, {target.name}"
            show.status(f"{title}: starting")
            with (
                target.running(plan.transport, plan.most_readers, cores) as running,
                Load(plan, cores, running, partial(_prefixed, show, title)) as load,
            ):
                result = play(load)
                result.number = number
            yield result


def _prefixed(show: Show, title: str, text: str) -> None:
    show.status(f"{title}: {text}")


class Load:
    """The processes that make the load on one server. Leaving the block ends them."""

    def __init__(self, plan: Plan, cores: Cores, running: Running, status: Callable[[str], None]) -> None:
        self.plan = plan
        self.running = running
        self._cores = cores
        self._status = status
        self._stack = contextlib.ExitStack()
        self._workers: list[Worker] = []
        self._answers: dict[Worker, Any] = {}
        self.readers: list[Worker] = []

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, job: Job) -> Worker:
        """One more process."""
        worker = Worker(job, self._cores.load)
        self._stack.callback(worker.close)
        self._workers.append(worker)
        return worker

    def start_readers(self) -> None:
        """The processes for the readers, still without any."""
        plan, running = self.plan, self.running
        most = plan.most_readers
        room = descriptor_limit() - 100
        processes = max(1, min(len(self._cores.load), most // _READERS_PER_PROCESS), -(-most // room))
        # As many for each node, and as many for a target of one node, or its load would be another one.
        processes = -(-processes // plan.most_nodes) * plan.most_nodes
        for number in range(processes):
            job = ReadersJob(
                running.host,
                running.ports[number % len(running.ports)],
                running.subscribe_path,
                running.form,
                plan.size,
                plan.rest,
                number * _ADDRESSES_PER_PROCESS,
                running.headers,
            )
            self.readers.append(self.start(job))

    def open(
        self,
        count: int,
        after: str | None = None,
        *,
        there: int = 0,
        at_once: bool = False,
        doing: Callable[[], str] | None = None,
    ) -> None:
        """Connect so many more readers than are there."""
        share, more = divmod(count, len(self.readers))
        for number, worker in enumerate(self.readers):
            worker.send(Open(share + (number < more), after, at_once))
        doing = doing or (lambda: f"{self._readers_there():,} readers of {count + there:,}")
        self.answers(self.readers, Opened, doing, every=0.05)
        self.running.wait_for_readers(there + count)

    def _readers_there(self) -> int:
        return sum(worker.progress.readers for worker in self.readers)

    def start_publishers(self) -> Worker:
        """The process of all publishers."""
        plan, running = self.plan, self.running
        path = running.publish_path if plan.batch == 1 else "/events"
        return self.start(
            PublishersJob(
                running.host,
                running.ports,
                path,
                running.headers,
                running.topic,
                plan.publishers,
                plan.size,
                plan.batch,
                plan.rate,
                plan.is_text,
                plan.apart,
            )
        )

    def start_probers(self) -> list[Worker]:
        """The processes that look how long the server's loop is held up: one for each node, if that is wanted."""
        running, every = self.running, self.plan.probe
        if every is None:
            return []
        path = running.target.probe_path
        return [self.start(ProberJob(running.host, port, path, every)) for port in running.ports]

    def until(self, moment: int, doing: Callable[[], str], every: Callable[[], None] = lambda: None) -> None:
        """Note what the processes report until that moment."""
        while (left := moment - now()) > 0:
            self._receive(min(left / 1e6, 0.1))
            self._status(doing())
            every()

    def answers(
        self, workers: Iterable[Worker], kind: type[Answer], doing: Callable[[], str], every: float = 0.1
    ) -> list[Answer]:
        """An answer of that kind from each."""
        workers = list(workers)
        deadline = time.monotonic() + ANSWER_SECONDS
        while not all(worker in self._answers for worker in workers):
            self._receive(every)
            self._status(doing())
            if time.monotonic() > deadline:
                raise BenchError(f"the load did not finish within {ANSWER_SECONDS:g} s")
        answers = [self._answers.pop(worker) for worker in workers]
        for answer in answers:
            if not isinstance(answer, kind):
                raise BenchError(f"unexpected: {answer!r:.200}")
        return answers

    def _receive(self, timeout: float) -> None:
        by_connection: dict[object, Worker] = {worker.connection: worker for worker in self._workers}
        for connection in wait([worker.connection for worker in self._workers], timeout):
            worker = by_connection[connection]
            try:
                answer = worker.receive()
            except BenchError:
                self.running.check()  # if it is the server that has died, that is the better explanation
                raise
            if answer is not None:
                self._answers[worker] = answer
        self.running.check()

    def settled_memory(self) -> float:
        """The server's memory once it no longer changes."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        before = -1
        while True:
            usage = self.running.usage()
            memory = 0 if usage is None else usage.memory
            if abs(memory - before) < 64 * KIB or time.monotonic() > deadline:
                return memory
            before = memory
            self.until(now() + _SETTLE_STEP, lambda: "letting memory settle")

    def busy(self) -> Busy:
        """What the cores and the processes of the bench have used so far."""
        usage = self.running.usage()
        kinds = {"readers": 0.0, "others": 0.0}
        for worker in self._workers:
            times = psutil.Process(worker.pid).cpu_times()
            kinds["readers" if worker in self.readers else "others"] += times.user + times.system
        ours = psutil.Process().cpu_times()
        kinds["others"] += ours.user + ours.system
        cores = self._cores
        server = _idle(cores.server) if cores.apart and usage is not None else None
        redis = self.running.redis_usage()
        return Busy(time.monotonic(), _idle(cores.load), server, cores, kinds, usage, redis)


def _idle(cores: Iterable[int]) -> float:
    per_core = psutil.cpu_times(percpu=True)
    return sum(float(per_core[core].idle + getattr(per_core[core], "iowait", 0)) for core in cores)


@dataclass(frozen=True)
class Busy:
    """A look at the cores, in seconds: how long those of the load and of the server had nothing to do, and how much
    the processes have used."""

    at: float
    load_idle: float
    server_idle: float | None
    cores: Cores
    processes: dict[str, float]
    usage: Usage | None
    redis: Usage | None

    def since(self, before: Busy) -> dict[str, float]:
        """How busy they were since then: each kind of process in cores, `busy` as a part of the load's cores, and
        `strangers`, what others took of the server's and the load's."""
        seconds = self.at - before.at
        shares = {name: (cpu - before.processes[name]) / seconds for name, cpu in self.processes.items()}
        cores = len(self.cores.load)
        load = cores - (self.load_idle - before.load_idle) / seconds
        strangers = max(0.0, load - sum(shares.values()))
        if self.usage and before.usage and self.server_idle is not None and before.server_idle is not None:
            server = len(self.cores.server) - (self.server_idle - before.server_idle) / seconds
            shares["server"] = (self.usage.cpu - before.usage.cpu) / seconds
            if self.redis and before.redis:
                shares["redis"] = (self.redis.cpu - before.redis.cpu) / seconds
            strangers += max(0.0, server - shares["server"] - shares.get("redis", 0.0))
        return {**shares, "busy": max(0.0, load / cores), "strangers": strangers}

    def cpu_since(self, before: Busy, work: int, unit: str) -> dict[str, float]:
        """Microseconds of CPU for each `unit` of so much work, of all nodes together and of their Redis."""
        pairs = {"cpu": (before.usage, self.usage), "redis_cpu": (before.redis, self.redis)}
        return {
            f"{name}_per_{unit}": (after.cpu - used.cpu) * 1e6 / work
            for name, (used, after) in pairs.items()
            if used is not None and after is not None and work
        }


def fan_out(load: Load) -> Round:
    """Readers, if there are any, and publishers; what comes to whom, and when."""
    plan, running = load.plan, load.running
    figures: dict[str, float] = {}
    readers = plan.most_readers if running.target.delivers else 0
    publishers, probers = load.start_publishers(), load.start_probers()
    if readers:
        load.start_readers()
        empty = load.settled_memory()
        load.open(readers)
        if empty and plan.scenario is Scenario.FANOUT:
            figures["memory"] = (load.settled_memory() - empty) / readers
    load.answers([publishers, *probers], Ready, lambda: "connecting publishers")
    begin = now() + _LEAD
    window = Window(begin + int(plan.warmup * 1e6), begin + int((plan.warmup + plan.seconds) * 1e6))
    publishers.send(Publish(begin, window.end))
    for prober in probers:
        prober.send(Probe(window.begin, window.end))
    doing = _counting(load, publishers, begin)
    load.until(window.begin, doing)
    busy = load.busy()
    load.until(window.end, doing)
    busy_after = load.busy()
    published = load.answers([publishers], Published, doing)[0]
    figures |= _stall(load.answers(probers, Probed, doing))
    faults = _check_answers(published, running.form.gives_ids)
    accepted, ack = _accepted(published, window)
    figures["publishes"] = accepted / plan.seconds
    if plan.batch > 1:
        figures["events"] = accepted * plan.batch / plan.seconds
    figures |= {f"publish_{name}": value for name, value in percentiles(ack).items()}
    events = work = accepted * plan.batch
    if readers:
        # A server that was slow to answer may be as slow to deliver.
        patience = _LEAST_PATIENCE + 3 * max(ack, default=0) / 1e6
        for worker in load.readers:
            worker.send(Finish(len(published.tokens), window.begin, window.end, patience))
        results = load.answers(load.readers, Result, lambda: "checking what everybody got")
        work = sum(result.deliveries for result in results)
        figures |= _deliveries(results, plan, window)
        faults += _faults(results, published, running)
    per_event = plan.scenario is Scenario.PUBLISH
    figures |= busy_after.cpu_since(busy, events if per_event else work, "event" if per_event else "delivery")
    return Round(running.target.name, 0, figures, faults, busy_after.since(busy))


@dataclass(frozen=True)
class Window:
    """What counts, in microseconds of the monotonic clock: before it is warm-up, after it nothing is sent."""

    begin: int
    end: int

    def __contains__(self, moment: int) -> bool:
        return self.begin <= moment < self.end


def _counting(load: Load, publishers: Worker, begin: int) -> Callable[[], str]:
    def text() -> str:
        seconds = max(0.1, (now() - begin) / 1e6)
        delivered = sum(worker.progress.events for worker in load.readers)
        published = publishers.progress.events
        return f"{published:,} published, {delivered:,} delivered, {(delivered or published) / seconds:,.0f}/s"

    return text


def counted_within(published: Published, window: Window) -> int:
    """How many requests were answered within the window."""
    return sum(at in window for at in published.answered)


def _accepted(published: Published, window: Window) -> tuple[int, Counter[int]]:
    """How many requests were answered within the window, and how long those took that were meant to be sent in it."""
    took = Counter(
        answered - sent for sent, answered in zip(published.sent, published.answered, strict=True) if sent in window
    )
    return counted_within(published, window), took


def _stall(probed: Iterable[Probed]) -> dict[str, float]:
    delays = sorted(delay for each in probed for delay in each.delays)
    if not delays:
        return {}
    return {"stall_p99": delays[int(len(delays) * 0.99)] / 1000, "stall_max": delays[-1] / 1000}


def percentiles(counts: Counter[int]) -> dict[str, float]:
    """p50, p99 and p99.9 of microseconds, in milliseconds."""
    wanted = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    total = counts.total()
    found: dict[str, float] = {}
    seen = 0
    for value in sorted(counts):
        seen += counts[value]
        for name, part in wanted.items():
            if name not in found and seen >= total * part:
                found[name] = value / 1000
    return found


def _deliveries(results: Sequence[Result], plan: Plan, window: Window) -> dict[str, float]:
    deliveries = sum(result.deliveries for result in results)
    receives = sum(result.receives for result in results)
    latencies: Counter[int] = Counter()
    arrived: dict[bytes, int] = {}
    for result in results:
        latencies.update(result.latencies)
        for key, at in zip(result.sequences.reference, result.last, strict=True):
            if at > arrived.get(key, 0):
                arrived[key] = at
    last = Counter(at - sent for key, at in arrived.items() if (sent := sent_at(key)) in window)
    return {
        "deliveries": deliveries / plan.seconds,
        "events_per_read": deliveries / receives if receives else 0.0,
        **{f"latency_{name}": value for name, value in percentiles(latencies).items()},
        **{f"last_{name}": value for name, value in percentiles(last).items() if name != "p999"},
    }


def _check_answers(published: Published, gives_ids: bool) -> list[str]:
    if not gives_ids:
        return []
    tokens, ids = published.tokens, published.ids
    if len(ids) != len(tokens):
        return [f"{len(tokens):,} events were accepted, but {len(ids):,} ids given"]
    if len(set(ids)) != len(ids):
        return [f"{len(ids) - len(set(ids)):,} ids were given twice"]
    if len({id.rpartition(b"-")[0] for id in ids}) > 1:
        return ["the log has changed its epoch"]
    return []


def true_order(published: Published, gives_ids: bool, seen: Sequence[bytes]) -> list[bytes]:
    """Every accepted event once, in plain keys, in the order that all readers should have. Where ids are given it is
    theirs, else what the first readers saw has to do."""
    if gives_ids:
        pairs = zip(published.ids, published.tokens, strict=False)
        return [b"%b %b" % pair for pair in sorted(pairs, key=lambda pair: int(pair[0].rpartition(b"-")[2]))]
    accepted = dict.fromkeys(published.tokens)
    order = [key for key in dict.fromkeys(seen) if key in accepted]
    there = set(order)
    return order + [token for token in accepted if token not in there]


def _faults(results: Sequence[Result], published: Published, running: Running) -> list[str]:
    truth = true_order(published, running.form.gives_ids, results[0].sequences.reference)
    faults = [str(fault) for result in results for fault in result.sequences.faults(truth)]
    return faults + _audit_faults(results, truth) + _publishers_out_of_order(truth)


def _audit_faults(results: Sequence[Result], truth: Sequence[bytes]) -> list[str]:
    faults = []
    for result in results:
        if result.garbled:
            faults.append(f"the audited reader: {result.garbled}")
        elif audited := judge(truth, result.audited):
            faults.append(f"the audited reader: {audited}")
        if result.ended:
            faults.append(f"the server ended {result.ended:,} streams")
    return faults


def _publishers_out_of_order(truth: Sequence[bytes]) -> list[str]:
    """A publisher sends his next event when the one before is accepted: so they have to stand."""
    latest: dict[int, bytes] = {}
    wrong = 0
    for key in truth:
        token = key[-TOKEN_BYTES:]
        publisher = publisher_of(token)
        wrong += token < latest.get(publisher, b"")
        latest[publisher] = token
    return [f"{wrong:,} events stand before others that their publisher had sent earlier"] if wrong else []


def idle(load: Load) -> Round:
    """More and more readers that get nothing: what each costs in memory, as the slope over all steps."""
    plan = load.plan
    load.start_readers()
    there, memory = 0, []
    for step in plan.steps:
        if step > there:
            load.open(step - there, there=there)
            there = step
        memory.append(load.settled_memory())
    if not any(memory):
        raise BenchError("idle: the bench can measure the memory only of servers that it has started itself")
    slope = linear_regression(plan.steps, memory).slope
    figures = {"memory": slope, "memory_base": memory[0]}
    figures |= {f"memory_at_{step}": value for step, value in zip(plan.steps, memory, strict=True)}
    return Round(load.running.target.name, 0, figures)


def storm(load: Load) -> Round:
    """All readers drop and come back at once, each with the same last id, so many events back."""
    plan, running = load.plan, load.running
    publishers = load.start_publishers()
    load.answers([publishers], Ready, lambda: "connecting publishers")
    publishers.send(PublishCount(plan.behind + plan.publishers))
    published = load.answers([publishers], Published, lambda: "publishing what is to be replayed")[0]
    faults = _check_answers(published, gives_ids=True)
    truth = true_order(published, True, ())
    after = truth[-plan.behind - 1].split(b" ")[0].decode()
    load.start_readers()
    load.open(plan.readers)
    before = load.settled_memory()
    for worker in load.readers:
        worker.send(Drop())
    load.answers(load.readers, Dropped, lambda: "dropping all readers")
    peak = [before]

    def look() -> str:
        if (usage := running.usage()) is not None:
            peak.append(usage.memory)
        return f"{sum(worker.progress.events for worker in load.readers):,} events replayed"

    start, used = time.monotonic(), running.usage()
    load.open(plan.readers, after, at_once=True, doing=look)
    seconds, usage = time.monotonic() - start, running.usage()
    for worker in load.readers:
        worker.send(Finish(plan.behind, 0, now(), _LEAST_PATIENCE))
    results = load.answers(load.readers, Result, look)
    figures = {"storm_seconds": seconds, "storm_events": plan.readers * plan.behind / seconds}
    if used is not None and usage is not None:
        figures["memory_base"] = before
        figures["memory_growth"] = max(peak) - before
        figures["cpu_per_delivery"] = (usage.cpu - used.cpu) * 1e6 / (plan.readers * plan.behind)
    replayed = truth[-plan.behind :]
    faults += [str(fault) for result in results for fault in result.sequences.faults(replayed)]
    faults += _audit_faults(results, replayed)
    return Round(running.target.name, 0, figures, faults)
