"""What a soak has shown, in words and as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from feed_server.bench.report import machine, without_passwords
from feed_server.bench.soak.run import Outcome, clock
from feed_server.bench.soak.samples import KIB, Sample

MIB = 1 << 20


def report(outcome: Outcome) -> list[str]:
    """Everything, in a page: the lines of it."""
    plan, seen = outcome.plan, outcome.seen
    early = "" if outcome.seconds >= plan.seconds else f", ended after {clock(outcome.seconds)}"
    lines = [f"feed bench --soak: {plan.description}{early}", ""]
    rows = _counted(outcome)
    lines += [f"{name:<18}{value}" for name, value in rows]
    lines += ["", *_process(outcome), ""]
    lines += [f"WRONG: {fault}" for fault in outcome.faults]
    lines += [f"  such as {example}" for example in seen.examples]
    if not outcome.faults:
        lines.append(
            "every reader got every event once and in order, or was told of a gap; all resources were released"
        )
    return lines


def _counted(outcome: Outcome) -> list[tuple[str, str]]:
    """What the load has done and seen."""
    seen, number = outcome.seen, {name: f"{count:,}" for name, count in outcome.seen.tally.items()}
    of = defaultdict(lambda: "0", number)
    return [
        ("events", f"{seen.events:,} ({seen.events / max(1, outcome.seconds):,.0f}/s) in {of['publishes']} publishes"),
        ("", f"{of['keys']} with a key, {of['repeats']} repeats of these; {of['bad publishes']} bad ones refused"),
        ("log replaced", f"{seen.events // outcome.plan.retained:,} times, as retention removed the oldest events"),
        ("deliveries", f"{of['deliveries']}, {of['checked']} of them checked by id"),
        ("connections", f"{of['connections']}, of which {of['resumes']} resumed and {of['slow']} were slow"),
        ("", f"{of['closed']} closed, {of['reset']} reset, {of['half-closed']} half-closed; {of['stalls']} stalls"),
        ("gaps announced", f"{of['gaps']}, to readers that were away too long"),
        ("pages of history", of["pages"]),
        *((kind, f"{seen.findings.get(kind, 0):,}") for kind in ("lost", "doubled", "reordered", "refused")),
    ]


def _process(outcome: Outcome) -> list[str]:
    """The server's process."""
    part, plan = outcome.part, outcome.plan
    if not part:
        return ["the soak was too short to measure the server's process"]
    columns = ("before", outcome.before), ("begin", part[0]), ("end", part[-1]), ("all left", outcome.after)
    rows: dict[str, Callable[[Sample], str]] = {
        "memory, MiB": lambda sample: f"{sample.memory / MIB:.1f}",
        "descriptors": lambda sample: f"{sample.descriptors:,}",
        "threads": lambda sample: f"{sample.threads:,}",
        "tasks": lambda sample: f"{sample.tasks:,}",
        "streams": lambda sample: f"{sample.streams:,}",
        "log on disk, MiB": lambda sample: f"{sample.stored / MIB:.1f}",
        "load's memory, MiB": lambda sample: f"{sample.load_memory / MIB:.1f}",
    }
    lines = [f"{'the server':<20}" + "".join(f"{name:>10}" for name, _ in columns)]
    lines += [f"{name:<20}" + "".join(f"{show(sample):>10}" for _, sample in columns) for name, show in rows.items()]
    lines.append(
        f"(begin and end are of the measured part: the first fifth, {clock(outcome.seconds / 5)}, is a warm-up and left"
        " out)"
    )
    if (line := outcome.slope) is not None:
        lines.append(
            f"memory slope       {line.per_minute / KIB:+,.1f} KiB a minute, {line.per_connection:+,.1f} bytes a "
            f"connection, by least squares over {len(part)} samples in {clock(line.seconds)}"
            + ("" if plan.bounds.judges_memory(part) else "; not judged, because the warm-up was short")
        )
    cores = (part[-1].cpu - part[0].cpu) / (part[-1].at - part[0].at) if len(part) > 1 else 0.0
    most = max(sample.stored for sample in part)
    lines.append(
        f"server CPU         {cores:.2f} cores" + (f"; the log took {most / MIB:.1f} MiB at most" if most else "")
    )
    return lines


def write_json(outcome: Outcome, path: Path, arguments: Sequence[str]) -> None:
    """Everything, in SI units but for those that a name gives."""
    plan = outcome.plan
    value: dict[str, Any] = {
        "command": ["feed", *without_passwords(arguments)],
        "machine": machine(),
        "plan": {**{name: item for name, item in asdict(plan).items() if name != "program"}, "retained": plan.retained},
        "seconds": outcome.seconds,
        "events": outcome.seen.events,
        "tally": outcome.seen.tally,
        "findings": outcome.seen.findings,
        "examples": outcome.seen.examples,
        "slope": None if outcome.slope is None else asdict(outcome.slope),
        "before": asdict(outcome.before),
        "begin": _one(outcome.part[:1]),
        "end": _one(outcome.part[-1:]),
        "after": asdict(outcome.after),
        "tasks_after": outcome.tasks_after,
        "samples": [asdict(sample) for sample in outcome.samples],
        "faults": outcome.faults,
    }
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _one(samples: Sequence[Sample]) -> dict[str, Any] | None:
    return asdict(samples[0]) if samples else None
