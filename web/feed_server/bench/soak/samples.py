"""What is seen of the server's process while it runs, and what of it does not go away again: samples in, words out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import linear_regression

KIB = 1024


@dataclass(frozen=True)
class Sample:
    """One look. Sizes are in bytes."""

    at: float
    """Seconds since the load began; before it, it is 0."""
    memory: int
    """Resident."""
    descriptors: int
    threads: int
    tasks: int
    """Of asyncio."""
    cpu: float
    """Seconds, in sum."""
    stored: int
    """What the log takes on disk."""
    streams: int
    """Open, as the load sees it."""
    connections: int
    """Streams that were opened so far."""
    load_memory: int
    """Of the process that makes the load."""


@dataclass(frozen=True)
class Bounds:
    """What is taken for a leak. Each is more than what a server that leaks nothing was seen to differ by."""

    memory: float = 2048 * KIB
    """Bytes by which a line through all samples after the warm-up may rise: allocators breathe."""
    memory_rate: float = 128 * KIB
    """Bytes a minute that it may rise besides: idempotency keys are kept for a day, and connections differ."""
    least_warmup: float = 180.0
    """Seconds. After a shorter one memory is not judged: on SQLite it was seen to rise for 170 s, and then no more."""
    descriptors: int = 12
    """More than before the first reader, when all have left: connections to the log that were opened since stay."""
    tasks: int = 4
    """More than before the first reader."""
    threads: int = 4
    """More than when the measured part began: pools have grown until then."""
    patience: float = 20.0
    """Seconds that what readers leave behind has to go, once they have."""

    def judges_memory(self, part: Sequence[Sample]) -> bool:
        """Whether these samples are late enough."""
        return bool(part) and part[0].at >= self.least_warmup

    def allowed(self, seconds: float) -> float:
        """Bytes by which memory may rise in this time."""
        return self.memory + self.memory_rate * seconds / 60


@dataclass(frozen=True)
class Slope:
    """How memory went in the measured part."""

    seconds: float
    per_minute: float
    """Bytes."""
    per_connection: float
    """Bytes for each stream that was opened meanwhile."""

    @property
    def growth(self) -> float:
        """Bytes from the beginning of the line to its end."""
        return self.per_minute * self.seconds / 60


def measured(samples: Sequence[Sample], seconds: float) -> list[Sample]:
    """Those after the warm-up, the first fifth of the time."""
    return [sample for sample in samples if sample.at >= seconds / 5]


def slope(samples: Sequence[Sample]) -> Slope | None:
    """The line through the memory of these samples, by least squares; None if there are too few for one."""
    if len(samples) < 2 or samples[-1].at <= samples[0].at:
        return None
    each = linear_regression([sample.at for sample in samples], [sample.memory for sample in samples]).slope
    seconds, connections = samples[-1].at - samples[0].at, samples[-1].connections - samples[0].connections
    return Slope(seconds, each * 60, each * seconds / connections if connections else 0.0)


def leaks(before: Sample, part: Sequence[Sample], after: Sample, bounds: Bounds) -> list[str]:
    """What did not go away. `before` is without load, `part` what was measured, `after` when all have left."""
    found = []
    line = slope(part)
    if line is not None and bounds.judges_memory(part) and line.growth > bounds.allowed(line.seconds):
        found.append(
            f"memory grew by {line.per_minute / KIB:,.0f} KiB a minute ({line.per_connection:,.0f} bytes a connection),"
            f" more than the {bounds.allowed(line.seconds) * 60 / line.seconds / KIB:,.0f} that are allowed"
        )
    if after.descriptors > before.descriptors + bounds.descriptors:
        found.append(
            f"{after.descriptors} descriptors after the last reader left, {before.descriptors} before the first came"
        )
    if after.tasks > before.tasks + bounds.tasks:
        found.append(f"{after.tasks} tasks after the last reader left, {before.tasks} before the first came")
    if part and after.threads > part[0].threads + bounds.threads:
        found.append(
            f"{after.threads} threads after the last reader left, {part[0].threads} when the measured part began"
        )
    return found
