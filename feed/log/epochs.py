"""Ids and positions: which epoch covers which seqs.

An epoch is the name that a log takes each time it is opened. It is recorded with the first seq that it covers, and ends
where the next epoch begins. An id `<epoch>-<seq>` is valid if the epoch is recorded and covers the seq. `first - 1`
counts too: a reader gets that position if it comes before the epoch has an event.
"""

from __future__ import annotations

import re
import secrets
from bisect import bisect_right
from collections.abc import Collection, Sequence

_ID = re.compile(r"([0-9A-Za-z]{1,64})-(0|[1-9][0-9]{0,17})")
SNAPSHOT_ID = re.compile(r"([0-9A-Za-z]{1,64})-(0|[1-9][0-9]{0,17})-(0|[1-9][0-9]{0,17})")
"""The id of a place in a snapshot (see `feed.latest`)."""
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH = 8
_NAMES = len(_ALPHABET) ** _LENGTH


def new_epoch() -> str:
    """Return a name that no log has had: 41 random bits, and a log has few epochs."""
    number = secrets.randbelow(_NAMES)  # one draw: on Redis every group of appends brings a name, in case it needs one
    name = ""
    for _ in range(_LENGTH):
        number, place = divmod(number, len(_ALPHABET))
        name += _ALPHABET[place]
    return name


def is_id(id: str) -> bool:
    """Tell whether this has the form of an id."""
    return len(id) <= 128 and _ID.fullmatch(id) is not None


class Epochs:
    """The epochs of one log, oldest first. The last one is current, and covers all events to come.

    Where a `lossy` epoch begins, other events were lost. The position just before its first event belongs to the lossy
    epoch: a reader there is past the loss.
    """

    def __init__(self, recorded: Sequence[tuple[str, int]], lossy: Collection[str] = ()) -> None:
        self._names = [name for name, _ in recorded]
        self._firsts = [first for _, first in recorded]
        self._starts = list(self._firsts)
        for place in reversed(range(len(recorded))):
            # A lossy epoch starts one position earlier, and the epochs before it must not start after it.
            start = self._firsts[place] - (self._names[place] in lossy)
            self._starts[place] = min([start, *self._starts[place + 1 : place + 2]])
        self._places = {name: place for place, name in enumerate(self._names)}

    @property
    def current(self) -> str:
        """The epoch under which events are committed now."""
        return self._names[-1]

    def of(self, seq: int) -> str:
        """Return the epoch that covers `seq`; the oldest one for seqs before all epochs."""
        return self._names[max(0, bisect_right(self._starts, seq) - 1)]

    def id_at(self, position: int) -> str:
        """Return the id of a position."""
        return f"{self.of(position)}-{position}"

    def locate(self, id: str, position: int) -> int | None:
        """Return the position of a valid id, None for any other. `position` is the log's end: ids beyond it are not
        valid."""
        if len(id) > 128 or (parts := _ID.fullmatch(id)) is None:
            return None
        place, seq = self._places.get(parts[1]), int(parts[2])
        if place is None or seq < self._firsts[place] - 1:
            return None
        last = self._firsts[place + 1] - 1 if place + 1 < len(self._firsts) else position
        return seq if seq <= last else None
