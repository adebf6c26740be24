"""What Redis says of the log: which epochs it has had, and from where to where it reaches now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from feed.log.contract import LogLost, Loss
from feed.log.epochs import Epochs


class Record(msgspec.Struct, frozen=True):
    """`recorded` are the epochs as `(name, first seq)`, oldest first; `lossy` the names of those that began where
    events had been lost. Unless it is `current`, Redis has become another server since the newest epoch began. Times
    are milliseconds since 1970.
    """

    recorded: Sequence[tuple[str, int]]
    lossy: frozenset[str]
    current: bool
    position: int
    oldest: int
    oldest_time: int
    now: int

    @property
    def names(self) -> list[str]:
        """The epochs' names, oldest first."""
        return [name for name, _ in self.recorded]

    @property
    def epochs(self) -> Epochs:
        """What ids mean by it."""
        return Epochs(self.recorded, self.lossy)

    def has_same_epochs(self, other: Record) -> bool:
        """Whether ids mean in both the same."""
        return self.recorded == other.recorded and self.lossy == other.lossy

    def loss_since(self, before: Record, position: int) -> LogLost | None:
        """What is lost for somebody who has seen all up to `position` of the log as it was `before`."""
        losing = self._losing(before, position)
        if losing is None:
            return None
        name, first = losing
        epochs, former = self.epochs, before.epochs
        if first < self.oldest:
            return LogLost(self.oldest - 1, epochs.id_at(self.oldest - 1), former, epochs)
        return LogLost(first - 1, f"{name}-{first - 1}", former, epochs)

    def until_loss(self, before: Record, position: int) -> Record:
        """The same without the epoch that `loss_since` speaks of, and those after it."""
        losing = self._losing(before, position)
        count = len(self.recorded) if losing is None else self.recorded.index(losing)
        recorded = self.recorded[:count]
        return msgspec.structs.replace(self, recorded=recorded, lossy=self.lossy & {name for name, _ in recorded})

    def _losing(self, before: Record, position: int) -> tuple[str, int] | None:
        known = set(before.names)
        following = next((epoch for epoch in self.recorded if epoch[0] not in known), None)
        is_valid = following is None or position < following[1]
        losses = [epoch for epoch in self.recorded if epoch[0] in self.lossy - before.lossy]
        if following is not None and not is_valid:
            losses.append(following)
        return min(losses, key=lambda epoch: epoch[1], default=None)

    def loss_beyond(self, id: str) -> Loss | None:
        """See `Log`."""
        names = self.names
        name = id.partition("-")[0]
        if name in names:
            for place in range(names.index(name) + 1, len(names)):
                following, first = self.recorded[place]
                if following in self.lossy:
                    return Loss(first - 1, f"{names[place - 1]}-{first - 1}", f"{following}-{first - 1}")
        return None


def parse_record(answer: Sequence[Any]) -> Record:
    """From what the scripts `look` and `enter` give."""
    entries, current, position, oldest, oldest_time, now = answer
    recorded: list[tuple[str, int]] = []
    lossy: set[str] = set()
    for entry in entries:
        name, first, *marks = entry.decode().split()
        recorded.append((name, int(first)))
        if marks:
            lossy.add(name)
    return Record(recorded, frozenset(lossy), bool(current), position, oldest, oldest_time, now)
