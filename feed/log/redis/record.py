"""What Redis says about the log: its epochs, and which events it holds now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from feed.log.contract import LogLost, Loss
from feed.log.epochs import Epochs
from feed.log.redis.classes import Settings, Told, parse_told


class Record(msgspec.Struct, frozen=True):
    """`recorded` are the epochs as `(name, first seq)`, oldest first; `lossy` names those that began where events had
    been lost. If it is not `current`, Redis has become another server since the newest epoch began. Times are in
    milliseconds since 1970. `bytes` is the sum of the sizes of the retained events. `primary` tells whether the server
    that answered is one: a replica may be behind, and may follow nobody. `lease_due` is when the next lease runs out,
    -1 if there is none. `told` and `settings` are about the classes of retention, if there are any."""

    recorded: Sequence[tuple[str, int]]
    lossy: frozenset[str]
    current: bool
    position: int
    oldest: int
    oldest_time: int
    now: int
    bytes: int
    primary: bool
    lease_due: int = -1
    told: Told | None = None
    settings: Settings = b""

    @property
    def names(self) -> list[str]:
        """The epochs' names, oldest first."""
        return [name for name, _ in self.recorded]

    @property
    def epochs(self) -> Epochs:
        """What ids mean according to this record."""
        return Epochs(self.recorded, self.lossy)

    def has_same_epochs(self, other: Record) -> bool:
        """Tell whether ids mean the same in both records."""
        return self.recorded == other.recorded and self.lossy == other.lossy

    def loss_since(self, before: Record, position: int) -> LogLost | None:
        """Return what is lost for a reader that has seen everything up to `position` in the log as it was `before`."""
        known = before.names
        following = next((epoch for epoch in self.recorded if epoch[0] not in known), None)
        losses = [epoch for epoch in self.recorded if epoch[0] in self.lossy - before.lossy]
        if following is not None and following[1] <= position:
            losses.append(following)
        if not losses:
            return None
        place = min(self._place(first) for _, first in losses)
        return LogLost(place, self.epochs.id_at(place), before.epochs, self.epochs)

    def up_to(self, position: int, before: Record) -> Record:
        """Return the part of this record for a reader that knows it as it was `before` and has come to `position`:
        without later losses, and what followed them."""
        known = before.names
        recorded: list[tuple[str, int]] = []
        lossy: set[str] = set()
        end = self.position
        for name, first in self.recorded:
            if name in self.lossy and (name in before.lossy or self._place(first) <= position):
                lossy.add(name)
            elif name in self.lossy and name not in known:
                end = self._place(first)
                break
            recorded.append((name, first))
        part = msgspec.structs.replace(self, recorded=recorded, lossy=frozenset(lossy), position=end)
        return self if part.has_same_epochs(self) else part

    def _place(self, first: int) -> int:
        """Return the position after which events were lost before an epoch that begins at `first`, for a reader of what
        is there."""
        return max(first, self.oldest) - 1

    def losses_beyond(self, id: str) -> Sequence[Loss]:
        """See `Log`. Several losses at one place are reported as one."""
        names = self.names
        name = id.partition("-")[0]
        losses: list[Loss] = []
        for place in range(names.index(name) + 1 if name in names else len(names), len(names)):
            following, first = self.recorded[place]
            if following in self.lossy:
                before = f"{names[place - 1]}-{first - 1}"
                if losses and losses[-1].position == first - 1:
                    before = losses.pop().before
                losses.append(Loss(first - 1, before, f"{following}-{first - 1}"))
        return losses


def parse_record(answer: Sequence[Any]) -> Record:
    """Parse the answer of the scripts `look` and `enter`."""
    entries, current, position, oldest, oldest_time, now, size, primary, lease_due, told, settings = answer
    recorded: list[tuple[str, int]] = []
    lossy: set[str] = set()
    for entry in entries:
        name, first, *marks = entry.decode().split()
        recorded.append((name, int(first)))
        if marks:
            lossy.add(name)
    return Record(
        recorded,
        frozenset(lossy),
        bool(current),
        position,
        oldest,
        oldest_time,
        now,
        size,
        bool(primary),
        lease_due,
        parse_told(told),
        settings,
    )
