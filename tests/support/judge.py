"""Judges a reader by comparing sets and orders of ids, never by counters.

What was acknowledged to publishers is a list in the order of the log. A reader's account is what it got, in the order
in which it got it: events, and gaps that were announced to it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Got:
    """An event, by its id."""

    id: str


@dataclass(frozen=True)
class Announced:
    """A `feed.gap`: what lies after the place `after` up to and with the place `until` may be missing. A place is
    where an event stands in the log, counted from 1."""

    after: int
    until: int


Entry = Got | Announced


@dataclass
class Verdict:
    """What is wrong, by id. All empty: nothing is."""

    lost: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether the reader got what it should."""
        return not (self.lost or self.unexpected or self.doubled or self.reordered)


def judge(
    acknowledged: Sequence[tuple[int, str]], account: Sequence[Entry], indeterminate: Collection[str] = ()
) -> Verdict:
    """Compare what a reader should have got, as `(place, id)` in order, with what it says it got.

    `indeterminate` are ids of events whose publisher had no answer: the reader may have them or not.
    """
    verdict = Verdict()
    places = {id: place for place, id in acknowledged}
    announced = [entry for entry in account if isinstance(entry, Announced)]
    seen: set[str] = set()
    last = 0
    for entry in account:
        if isinstance(entry, Announced):
            continue
        if entry.id in seen:
            verdict.doubled.append(entry.id)
        elif entry.id not in places:
            if entry.id not in indeterminate:
                verdict.unexpected.append(entry.id)
        elif places[entry.id] < last:
            verdict.reordered.append(entry.id)
        else:
            last = places[entry.id]
        seen.add(entry.id)
    verdict.lost = [
        id
        for place, id in acknowledged
        if id not in seen and not any(gap.after < place <= gap.until for gap in announced)
    ]
    return verdict
