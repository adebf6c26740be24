"""What a soak has shown, in words and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from web.bench.report import machine, without_passwords
from web.bench.soak.run import Outcome, clock
from web.bench.soak.samples import KIB, Sample

MIB = 1 << 20


def print_report(outcome: Outcome, console: Console) -> None:
    """Everything, in a page."""
    for line in report(outcome):
        console.print(line, soft_wrap=True)


def report(outcome: Outcome) -> list[str]:
    """The lines of it."""
    plan, seen, tally = outcome.plan, outcome.seen, outcome.seen.tally
    early = "" if outcome.seconds >= plan.seconds else f", ended after {clock(outcome.seconds)}"
    lines = [f"feed bench --soak: {plan.description}{early}", ""]
    rows = [
        ("events", f"{seen.events:,} in {tally.get('publishes', 0):,} publishes, {tally.get('keys', 0):,} with a key, "
         f"{tally.get('repeats', 0):,} repeats of such; {tally.get('bad publishes', 0):,} bad ones were refused"),
        ("turned over", f"the log {max(0, seen.events // plan.retained):,} times"),
        ("deliveries", f"{tally.get('deliveries', 0):,}, {tally.get('checked', 0):,} of them checked by id"),
        ("connections", f"{tally.get('connections', 0):,}, of which {tally.get('resumes', 0):,} resumed; "
         f"left: {tally.get('closed', 0):,} closed, {tally.get('reset', 0):,} reset, {tally.get('half-closed', 0):,} "
         f"half-closed; {tally.get('stalls', 0):,} stalls, {tally.get('slow', 0):,} slow visits"),
        ("gaps announced", f"{tally.get('gaps', 0):,}, to readers who were away for too long"),
        ("pages of history", f"{tally.get('pages', 0):,}"),
        *((kind, f"{seen.findings.get(kind, 0):,}") for kind in ("lost", "doubled", "reordered", "refused")),
    ]  # fmt: skip
    lines += [f"{name:<18}{value}" for name, value in rows]
    lines += ["", *_process(outcome), ""]
    lines += [f"WRONG: {fault}" for fault in outcome.faults]
    lines += [f"  such as {example}" for example in seen.examples]
    if not outcome.faults:
        lines.append("every reader got every event once and in order, or was told; nothing was left behind")
    return lines


def _process(outcome: Outcome) -> list[str]:
    """The server's process."""
    part, plan = outcome.part, outcome.plan
    if not part:
        return ["too short to see anything of the server's process"]
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
        "(begin and end are of the measured part: "
        f"the first fifth, {clock(outcome.seconds / 5)}, is a warm-up and left out)"
    )
    if (line := outcome.slope) is not None:
        lines.append(
            f"memory slope       {line.per_minute / KIB:+,.1f} KiB a minute, {line.per_connection:+,.1f} bytes a "
            f"connection, by least squares over {len(part)} samples in {clock(line.seconds)}"
            + ("" if line.seconds >= plan.bounds.least_seconds else "; too short to be judged")
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
