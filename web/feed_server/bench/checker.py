"""Whether every reader got every event once and in order.

While events come in, `Checker` only compares: what a reader gets has to be the next piece of a reference order, which
is what the reader that is ahead of the others got. A reader that got something else strays, and all its keys are kept.
When all is over `judge` compares the reference and every stray with the truth.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from feed_server.bench.framing import Form, Piece, plain, scan


@dataclass
class Fault:
    """What is wrong with one sequence, and how many readers got it."""

    readers: int
    lost: list[bytes]
    doubled: list[bytes]
    reordered: list[bytes]
    unknown: list[bytes]

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.reordered or self.unknown)

    def __str__(self) -> str:
        kinds = ("lost", self.lost), ("doubled", self.doubled), ("reordered", self.reordered), ("unknown", self.unknown)
        facts = [
            f"{len(keys):,} {kind}, such as {_shown(keys[0])}" + (f" and {_shown(keys[-1])}" if len(keys) > 1 else "")
            for kind, keys in kinds
            if keys
        ]
        return f"{self.readers:,} reader{'' if self.readers == 1 else 's'}: {'; '.join(facts)}"


def _shown(key: bytes) -> str:
    return key.decode("utf-8", "replace")


def judge(truth: Sequence[bytes], got: Sequence[bytes], readers: int = 1) -> Fault:
    """How `got` differs from `truth`, in which every key stands once."""
    place = {key: number for number, key in enumerate(truth)}
    counts = Counter(got)
    reordered = []
    last = -1
    for key in dict.fromkeys(got):
        number = place.get(key)
        if number is None:
            continue
        if number < last:
            reordered.append(key)
        else:
            last = number
    return Fault(
        readers,
        lost=[key for key in truth if key not in counts],
        doubled=[key for key, count in counts.items() if count > 1],
        reordered=reordered,
        unknown=[key for key in counts if key not in place],
    )


@dataclass
class Sequences:
    """What the readers of one process got, in plain keys: how many of them exactly so much of the reference, and the
    strays."""

    reference: list[bytes]
    positions: Counter[int]
    strays: list[list[bytes]]

    def faults(self, truth: Sequence[bytes]) -> list[Fault]:
        """All that differs from the truth."""
        found = [judge(truth, self.reference[:end], readers) for end, readers in self._groups(truth)]
        found += [judge(truth, stray) for stray in self.strays]
        return [fault for fault in found if fault]

    def _groups(self, truth: Sequence[bytes]) -> Iterable[tuple[int, int]]:
        for end, readers in self.positions.items():
            if end != len(truth) or self.reference[:end] != truth:
                yield end, readers


@dataclass
class Checker:
    """The readers of one process. Readers are numbered from 0."""

    form: Form
    reference: list[bytes] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    rests: list[bytes] = field(default_factory=list)
    strays: dict[int, list[bytes]] = field(default_factory=dict)
    _recent: dict[int, Piece] = field(default_factory=dict)

    def add(self) -> int:
        """One more reader; gives its number."""
        self.positions.append(0)
        self.rests.append(b"")
        return len(self.positions) - 1

    def take(self, reader: int, data: bytes) -> Piece:
        """Compare what a reader received. Gives what was found in it."""
        rest = self.rests[reader]
        if rest:
            data = rest + data
        # A dictionary by content would have to hash all of it; comparing stops at the first difference.
        piece = self._recent.get(len(data))
        if piece is None or piece.data != data:
            piece = self._recent[len(data)] = scan(self.form, data)
        if rest is not piece.rest:
            self.rests[reader] = piece.rest
        if piece.count:
            place = self.positions[reader]
            if place != piece.fits_at or self.strays:
                self._compare(reader, place, piece)
            self.positions[reader] = place + piece.count
        return piece

    def _compare(self, reader: int, place: int, piece: Piece) -> None:
        if reader in self.strays:
            self.strays[reader] += piece.keys
            return
        end = place + piece.count
        reference = self.reference
        if end > len(reference):
            known = len(reference) - place
            if reference[place:] == piece.keys[:known]:
                reference += piece.keys[known:]
                piece.fits_at = place
                return
        elif reference[place:end] == piece.keys:
            piece.fits_at = place
            return
        self.strays[reader] = reference[:place] + piece.keys

    @property
    def slowest(self) -> int:
        """How many events the reader got that got the fewest."""
        return min(self.positions, default=0)

    def sequences(self) -> Sequences:
        """What everybody got."""
        exact = Counter(position for reader, position in enumerate(self.positions) if reader not in self.strays)
        strays = [[plain(self.form, key) for key in stray] for stray in self.strays.values()]
        return Sequences([plain(self.form, key) for key in self.reference], exact, strays)
