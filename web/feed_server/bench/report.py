"""What the rounds gave, judged and as JSON for programs. `feed_server.cli.bench_report` prints it for people."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from feed_server.bench.cores import Cores
from feed_server.bench.measure import KIB, MIB, Round
from feed_server.bench.plan import Plan

BUSY = 0.9
_PASSWORD = re.compile(r"(//[^/@:]*:)[^/@]*@")
STRANGERS = 0.2
COALESCED = 0.9
_PACKAGES = (
    "feed",
    "redis",
    "hiredis",
    "uvicorn",
    "uvloop",
    "httptools",
    "websockets",
    "starlette",
    "fastapi",
    "sse-starlette",
)


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    label: str
    digits: int = 0
    divisor: float = 1.0
    compared: bool = True


FIGURES = [
    Figure("deliveries", "deliveries per second"),
    Figure("publishes", "publishes accepted per second"),
    Figure("events", "events accepted per second"),
    Figure("cpu_per_delivery", "server CPU per delivery, µs", 2),
    Figure("redis_cpu_per_delivery", "Redis's CPU per delivery, µs", 2),
    Figure("cpu_per_event", "server CPU per event, µs", 1),
    Figure("redis_cpu_per_event", "Redis's CPU per event, µs", 1),
    Figure("latency_p50", "latency p50, ms", 2),
    Figure("latency_p99", "latency p99, ms", 2),
    Figure("latency_p999", "latency p99.9, ms", 2),
    Figure("last_p50", "last reader's p50, ms", 2),
    Figure("last_p99", "last reader's p99, ms", 2),
    Figure("publish_p50", "publish answered p50, ms", 2),
    Figure("publish_p99", "publish answered p99, ms", 2),
    Figure("publish_p999", "publish answered p99.9, ms", 2),
    Figure("stall_p99", "loop stall p99, ms", 2),
    Figure("stall_max", "loop stall max, ms", 2),
    Figure("storm_seconds", "all live again, s", 2),
    Figure("storm_events", "events replayed per second"),
    Figure("memory", "memory per connection, KiB", 1, KIB),
    Figure("memory_growth", "memory growth, MiB", 1, MIB),
    Figure("memory_base", "memory before, MiB", 1, MIB),
    Figure("load_live", "first load until feed.live, s", 3),
    Figure("load_live_max", "the slowest of them, s", 3),
    Figure("load_cpu", "server CPU per first load, s", 3),
    Figure("load_topics", "topics in a first load", compared=False),
    Figure("load_bytes", "bytes of a first load, KiB", 0, KIB),
    Figure("state_without", "events accepted per second"),
    Figure("state_beside", "beside readers of state"),
    Figure("state_ratio", "with them / without them", 2),
    Figure("hot_events", "hot topics: events per second"),
    Figure("hot_seconds", "measured for, s", 1, compared=False),
    Figure("hot_rate", "read by a slow reader, bytes/s", compared=False),
    Figure("hot_read", "events read by slow readers", compared=False),
    Figure("hot_oldest", "oldest value when written, s", 2),
    Figure("hot_left_out", "topics left out for two rounds", compared=False),
    Figure("hot_unsent", "unsent in the kernel for one, KiB", 1, KIB),
    Figure("hot_memory", "memory before, MiB", 1, MIB),
    Figure("hot_memory_third", "memory after a third, MiB", 1, MIB),
    Figure("hot_memory_end", "memory at the end, MiB", 1, MIB),
    Figure("server", "server, cores", 2, compared=False),
    Figure("redis", "redis-server, cores", 2, compared=False),
    Figure("busy", "load's cores, busy part", 2, compared=False),
    Figure("readers", "readers, cores", 2, compared=False),
    Figure("others", "publishers and prober, cores", 2, compared=False),
    Figure("strangers", "other programs, cores", 2, compared=False),
    Figure("events_per_read", "events per read of a reader", 1, compared=False),
]


_LATENCIES = {"latency_p50": "p50", "latency_p99": "p99"}


@dataclass(frozen=True)
class Spread:
    """The median of all rounds, and from where to where they went."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of some values."""
        return cls(median(values), min(values), max(values))

    def text(self, digits: int, divisor: float = 1.0) -> str:
        """As it stands in the table."""
        middle, least, most = (f"{value / divisor:,.{digits}f}" for value in (self.median, self.least, self.most))
        return middle if least == most else f"{middle}  ({least} to {most})"


@dataclass(frozen=True)
class Report:
    """All rounds of a run."""

    plan: Plan
    cores: Cores
    rounds: list[Round]

    @property
    def targets(self) -> list[str]:
        """Names, the first being what the others are compared with."""
        return list(dict.fromkeys(round.target for round in self.rounds))

    def values(self, target: str, name: str) -> list[float]:
        """One figure of one target, round by round."""
        rounds = [round for round in self.rounds if round.target == target]
        found = [round.load.get(name, round.figures.get(name)) for round in rounds]
        return [value for value in found if value is not None]

    def spreads(self, target: str) -> dict[str, Spread]:
        """All figures of a target."""
        names = {name for round in self.rounds for name in (*round.figures, *round.load)}
        return {name: Spread.of(values) for name in sorted(names) if (values := self.values(target, name))}

    def ratio(self, name: str, other: str) -> Spread | None:
        """The first target's figure as a part of another's, round by round."""
        pairs = zip(self.values(self.targets[0], name), self.values(other, name), strict=False)
        ratios = [ours / theirs for ours, theirs in pairs if theirs]
        return Spread.of(ratios) if ratios else None

    def differences(self, other: str) -> dict[str, Spread]:
        """By how many milliseconds the first target is later than another, round by round."""
        pairs = {
            label: list(zip(self.values(self.targets[0], name), self.values(other, name), strict=False))
            for name, label in _LATENCIES.items()
        }
        return {label: Spread.of([ours - theirs for ours, theirs in each]) for label, each in pairs.items() if each}

    @property
    def faults(self) -> list[str]:
        """What was wrong, a line each."""
        return [f"round {round.number}, {round.target}: {fault}" for round in self.rounds for fault in round.faults]

    @property
    def warnings(self) -> list[str]:
        """What to doubt the figures for."""
        found = []
        if not self.cores.apart:
            found.append(str(self.cores))
        elif self.cores.crowded:
            found.append(f"fewer cores than processes: {self.cores}")
            if self.plan.most_nodes > 1:
                found.append(
                    "with so few cores several nodes cannot deliver more than one: compare their CPU per delivery"
                )
        found += [
            f"{other}: its readers got {1 / ratio.median:.1f} times as many events in one read as those of "
            f"{self.targets[0]}, which makes a delivery cheaper; --publishers 1 or --rate compare the same work"
            for other in self.targets[1:]
            if self.plan.most_nodes > 1
            and (ratio := self.ratio("events_per_read", other)) is not None
            and ratio.median < COALESCED
        ]
        for target in self.targets:
            strangers = self.values(target, "strangers")
            if strangers and max(strangers) > STRANGERS:
                found.append(f"{target}: other programs used up to {max(strangers):.2f} cores meanwhile")
            if self.plan.rate is None:
                busy = self.values(target, "busy")
                if busy and median(busy) > BUSY:
                    found.append(
                        f"{target}: the load's cores were {median(busy):.0%} busy (the server's "
                        f"{median(self.values(target, 'server') or [0]):.0%}): the load may have been the limit; "
                        "--rest 2ms makes the load cheaper"
                    )
        return found


def write_json(report: Report, path: Path, arguments: Sequence[str]) -> None:
    """Everything, in SI units but for those that a name gives: milliseconds, bytes, microseconds of CPU."""
    first, *others = report.targets
    plan = report.plan
    value: dict[str, Any] = {
        "command": ["feed", *without_passwords(arguments)],
        "machine": machine(),
        "plan": {
            **{name: item for name, item in vars(plan).items() if name != "targets"},
            "targets": [target.name for target in plan.targets],
        },
        "cores": {
            "nodes": [sorted(node) for node in report.cores.nodes],
            "redis": sorted(report.cores.redis or ()),
            "load": sorted(report.cores.load),
        },
        "rounds": [asdict(round) for round in report.rounds],
        "figures": {
            target: {name: asdict(spread) for name, spread in report.spreads(target).items()}
            for target in report.targets
        },
        "ratios": {
            f"{first} / {other}": {
                name: asdict(ratio)
                for name in report.spreads(first)
                if (ratio := report.ratio(name, other)) is not None
            }
            for other in others
        },
        "differences": {
            f"{first} / {other}": {name: asdict(spread) for name, spread in report.differences(other).items()}
            for other in others
        },
        "warnings": report.warnings,
        "faults": report.faults,
    }
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def without_passwords(arguments: Iterable[str]) -> list[str]:
    """A command line as it may be shown."""
    return [_PASSWORD.sub(r"\1***@", argument) for argument in arguments]


def machine() -> dict[str, object]:
    """What it was measured on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {sys.version.split()[0]}",
        "versions": _versions(_PACKAGES),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
