"""What is to be measured: every option of `feed bench`, checked, and what the machine has to have for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from feed_server.bench.cores import Cores, share_cores
from feed_server.bench.payload import MAX_PUBLISHERS, MIN_SIZE
from feed_server.bench.targets import Target
from feed_server.bench.worker import BenchError, descriptor_limit

_SPARE = 300  # descriptors a server needs for itself


class Scenario(enum.StrEnum):
    """What happens to a server."""

    FANOUT = "fanout"
    PUBLISH = "publish"
    IDLE = "idle"
    STORM = "storm"
    STATE = "state"


@dataclass(frozen=True)
class Plan:
    """One run of the bench."""

    scenario: Scenario
    targets: list[Target]
    transport: str
    readers: int
    publishers: int
    rate: float | None
    seconds: float
    warmup: float
    rounds: int
    size: int
    batch: int
    probe: float | None
    rest: float
    steps: list[int]
    behind: int
    topics: int = 10_000
    """How many topics a first load of state has."""
    hot: int = 1_000
    """How many topics are published to while slow readers read them."""
    reading: float = 10_000.0
    """How many bytes a second a slow reader reads."""
    is_text: bool = False
    """Whether the data of single events is sent as text, else as JSON."""
    apart: bool = False
    """Whether the head and the body of a publish are sent apart, as most clients do."""

    @property
    def most_readers(self) -> int:
        """How many readers there are at once at the most."""
        match self.scenario:
            case Scenario.IDLE:
                return max(self.steps)
        return self.readers

    @property
    def most_nodes(self) -> int:
        """How many nodes the target has that has the most."""
        return max(target.nodes for target in self.targets)

    def cores(self) -> Cores:
        """Where everything is to run: the same for all targets."""
        return share_cores(self.most_nodes, redis=any(target.owns_redis for target in self.targets))

    @property
    def checks(self) -> bool:
        """Whether readers get anything that can be checked."""
        return self.scenario is not Scenario.IDLE and bool(self.most_readers)

    def check(self) -> None:
        """Raises `BenchError` for what cannot be measured here."""
        if self.size < MIN_SIZE:
            raise BenchError(f"--data {self.size}: an event's token alone needs {MIN_SIZE} bytes")
        if self.publishers > MAX_PUBLISHERS:
            raise BenchError(f"--publishers {self.publishers}: must be at most {MAX_PUBLISHERS}")
        limit, needed = descriptor_limit(), self.most_readers + self.publishers + _SPARE
        if needed > limit:
            raise BenchError(
                f"{self.most_readers:,} readers need {needed:,} descriptors in the server's process, and the limit is "
                f"{limit:,}: raise it with ulimit -n {needed}, or take fewer readers"
            )
        if self.is_text and self.batch > 1:
            raise BenchError("--text: cannot be combined with --batch: a batch is JSON")
        if self.scenario is Scenario.STATE:
            self._check_state()
        for target in self.targets:
            if not target.delivers and self.scenario is not Scenario.PUBLISH:
                raise BenchError(f"--against {target.name}: it has no readers: use feed bench publish")
            if self.batch > 1 and not target.takes_batches:
                raise BenchError(f"--batch: {target.name} accepts only one event at a time")
            if self.scenario is Scenario.STATE and not target.has_state:
                raise BenchError(f"state: {target.name} is not a feed that the bench starts: use --log")
            if self.scenario is Scenario.STORM and not target.resumes:
                raise BenchError(f"storm: {target.name} cannot replay events, so there is nothing to compare")
            target.check()

    def _check_state(self) -> None:
        if self.transport != "sse":
            raise BenchError(f"--transport {self.transport}: the readers of feed bench state read SSE")
        if self.is_text:
            raise BenchError("--text: cannot be combined with state, whose slow readers are published batches")
        if self.most_nodes > 1:
            raise BenchError("--nodes: cannot be combined with state, which is measured on one node")

    @property
    def verdict(self) -> str:
        """What was checked, if nothing was wrong; empty if nothing is."""
        if self.scenario is Scenario.STATE:
            return "every reader of state held the newest event of every topic, and was told none twice"
        return "every reader got every event once and in order" if self.checks else ""

    @property
    def description(self) -> str:
        """The load, in words."""
        kind = {"sse": "SSE", "ws": "WebSocket", "ws-batch": "WebSocket (feed.batch)"}[self.transport]
        pace = "closed loop" if self.rate is None else f"{self.rate:g} events/s"
        publishers = f"{self.publishers:,} publisher{'' if self.publishers == 1 else 's'}"
        batches = f" in batches of {self.batch:,}" if self.batch > 1 else ""
        times = f"{self.rounds} round{'' if self.rounds == 1 else 's'}"
        match self.scenario:
            case Scenario.IDLE:
                return f"{', '.join(f'{step:,}' for step in self.steps)} idle {kind} readers, {times}"
            case Scenario.STATE:
                return (
                    f"state of {self.topics:,} topics; {self.hot:,} hot topics, {pace}, {self.size}-byte events, "
                    f"{self.readers:,} SSE readers of {self.reading:,.0f} bytes/s; {times}"
                )
            case Scenario.STORM:
                return f"{self.readers:,} {kind} readers reconnect at once, {self.behind:,} events behind, {times}"
            case _:
                number = f"{self.readers:,}" if self.readers else "no"
                readers = f"{number} {kind} reader{'' if self.readers == 1 else 's'}"
        form = " of text" if self.is_text else ""
        apart = ", head and body sent apart" if self.apart else ""
        events = f"{self.size}-byte events{form}{batches}{apart}"
        rest = f", who rest {self.rest * 1000:g} ms between reads" if self.rest and self.most_readers else ""
        return f"{readers}{rest}, {publishers}, {pace}, {events}, {times} of {self.seconds:g} s"
