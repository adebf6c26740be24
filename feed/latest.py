"""How a reader of state reads the log: of each topic the newest event only.

A reader of state gets what any reader gets, less each event that a later one of its topic has superseded by the time it
is read. So its first load, its resume, and its catching up after it was slow are the same: it goes in *rounds*.

A round takes down which topics have changed beyond the reader's cursor when it begins, in the order of their newest
events then. Each of them is handed out once, as it is when its turn comes. A cursor over the log alone would leave out
for ever what is updated faster than the reader reads:

    the log:              a1 b2 a3 c4      the round at 4, cursor 0:   b2 a3 c4
    while b2 is sent:     b5               handed out:                 b2 a3 c4
    while a3 is sent:     c6               handed out:                 b2 a3 c6
    the next round, at 6:                  handed out:                 b5          (c6 is known)

Each event is handed out with its *place*, the seq that its topic had when the round began. To resume there means: all
that has changed up to this place is known. `resume_id` makes an id of it.
"""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from feed.event import Event
from feed.log import Log
from feed.log.contract import PAGE_BYTES
from feed.log.epochs import SNAPSHOT_ID
from feed.log.window import Window
from feed.pattern import Selection
from feed.state import State
from feed.terms import DELETED

_PAGE_EVENTS = 100
_PAGE_BYTES = 16 << 10  # a slow reader takes a while for a page, and what is on it gets old
_LOOKED_AT = 2_000  # topics that are compared with a reader's patterns in one turn of the event loop


class Place(NamedTuple):
    """Where a reader of state is. All that has changed up to `cursor` is known to it. It began when the log was at
    `as_of`: of topics that are gone since then it may hold a value."""

    cursor: int
    as_of: int

    @property
    def knows_up_to(self) -> int:
        """The position of the log up to which nothing that is gone can be unknown to the reader."""
        return max(self.cursor, self.as_of)


def resume_id(log: Log, place: Place) -> str:
    """Return the id with which a client resumes at a place. Before the reader has come to where the log was when it
    began, the id says both: `<epoch>-<cursor>-<as_of>`."""
    if place.cursor >= place.as_of:
        return log.id_at(place.cursor)
    epoch, _, position = log.id_at(place.as_of).partition("-")
    return f"{epoch}-{place.cursor}-{position}"


async def locate(log: Log, id: str) -> Place | None:
    """Return the place of an id, None if it is not valid. Raises `FeedUnavailable`."""
    if (found := SNAPSHOT_ID.fullmatch(id)) is None:
        position = await log.locate(id)
        return None if position is None else Place(position, position)
    epoch, cursor, as_of = found.groups()
    position = await log.locate(f"{epoch}-{as_of}")
    return None if position is None or int(cursor) > position else Place(int(cursor), position)


Wanted = tuple[Sequence[str], Sequence[int]]
"""Topics and their places, as two lists of equal length: one of pairs would take six times as much memory."""


class StatePage(NamedTuple):
    """Events with their places, and the cursor behind them."""

    events: Sequence[tuple[Event, int]]
    end: int


class _Round:
    """The topics of a round, with their places, in order. Both lists may be shared with other rounds."""

    def __init__(self, wanted: Wanted, position: int, known: Mapping[str, int]) -> None:
        self.topics, self.places = wanted
        self.position = position
        self.known = known  # topics with the seqs that the round before has handed out already
        self.ahead: dict[str, int] = {}  # the same, for the round behind this one
        self.at = 0

    def go_to(self, place: int) -> bool:
        """Go on behind this place. Return whether the round is over."""
        self.at = bisect_right(self.places, place, self.at)
        return self.at == len(self.places)


class Latest:
    """Where one reader of state is, and its round. `place` is its place."""

    def __init__(self, state: State, selection: Selection, place: Place, *, is_empty: bool) -> None:
        """`is_empty` tells that the reader holds nothing yet: then it is not told of topics that were deleted."""
        self.place = place
        self._state = state
        self._selection = selection
        self._is_empty = is_empty
        self._known: Mapping[str, int] = {}
        self._round: _Round | None = None

    def is_behind(self, position: int) -> bool:
        """Return whether there is anything to hand out before the log's position `position`."""
        return self._round is not None or self.place.cursor < position or not self._state.is_whole

    def has_lost(self) -> bool:
        """Return whether a topic that the reader may hold is gone without its knowledge."""
        known = self.place.knows_up_to
        return known < self._state.topics.purged(self._selection, known)

    def begin_anew(self, position: int) -> None:
        """Go back to the start: the client forgets what it has."""
        self.place = Place(0, position)
        self._is_empty = True
        self._round, self._known = None, {}

    def move_to(self, cursor: int) -> None:
        """Note that all events up to here were handed out as they came."""
        self.place = Place(cursor, self.place.as_of)

    def page_in_memory(self, window: Window, limit: int = _PAGE_EVENTS) -> StatePage | None:
        """Return the next page if it can be had at once: from memory, and without a look at many topics."""
        if not self._state.is_whole:
            return None
        round_ = self._round
        if round_ is None:
            changed = self._changed()
            if len(changed) > _LOOKED_AT:
                return None
            round_ = self._begin(self._those_wanted(changed), window.position)
        wanted, end = self._next(round_, limit)
        if any(seq < window.first for _, seq, _ in wanted):
            return None
        return self._page(round_, wanted, {seq: window.at(seq) for _, seq, _ in wanted}, end)

    async def page(self, log: Log, window: Window, limit: int = _PAGE_EVENTS) -> StatePage:
        """Return the next page. Raises `FeedUnavailable`."""
        await self._state.whole()
        round_ = self._round or await self._begin_slowly(window)
        wanted, end = self._next(round_, limit)
        events = {event.seq: event for event in await log.fetch(sorted(seq for _, seq, _ in wanted))}
        if wanted and sum(event.size for event in events.values()) > PAGE_BYTES:
            there = _up_to(wanted, max(events))
            if not there:  # there was no room for the first one, as its topic has the newest event of them
                there = wanted[:1]
                events = {event.seq: event for event in await log.fetch([there[0][1]])}
            if len(there) < len(wanted):
                wanted, end = there, there[-1][2]
        return self._page(round_, wanted, events, end)

    def _changed(self) -> Sequence[tuple[str, int]]:
        """Return the topics that have changed beyond the cursor, with the seqs of their newest events, in order. Of a
        few exact topics each is looked up."""
        topics, cursor, patterns = self._state.topics, self.place.cursor, self._selection.patterns
        if not self._selection.is_exact:
            return topics.beyond(cursor)
        found = [(topic, seq) for topic in patterns if (seq := topics.newest(topic)) is not None and seq > cursor]
        return sorted(found, key=lambda entry: entry[1])

    def _those_wanted(self, changed: Sequence[tuple[str, int]]) -> Wanted:
        wants = self._selection.wants_topic
        wanted = [entry for entry in changed if wants(entry[0])]
        return [topic for topic, _ in wanted], array("Q", [place for _, place in wanted])

    async def _begin_slowly(self, window: Window) -> _Round:
        """Begin a round. Readers that begin at the same place at the same time, as in a storm, share its lists."""
        position, cursor = window.position, self.place.cursor
        wanted = self._state.shared_round(self._selection.patterns, cursor, position)
        if wanted is None:
            changed = self._changed()
            topics: list[str] = []
            places = array("Q")
            for start in range(0, len(changed), _LOOKED_AT):
                some = self._those_wanted(changed[start : start + _LOOKED_AT])
                topics += some[0]
                places.extend(some[1])
                await asyncio.sleep(0)
            wanted = topics, places
            self._state.share_round(self._selection.patterns, cursor, position, wanted)
        return self._begin(wanted, position)

    def _begin(self, wanted: Wanted, position: int) -> _Round:
        self._round, self._known = _Round(wanted, position, self._known), {}
        return self._round

    def _next(self, round_: _Round, limit: int) -> tuple[Sequence[tuple[str, int, int]], int]:
        """Return the next topics of the round with the seqs of their newest events now, and their places; and the place
        behind which the round goes on."""
        at, newest = round_.at, self._state.topics.newest
        topics, places = round_.topics[at : at + limit], round_.places[at : at + limit]
        wanted = [
            (topic, seq, place)
            for topic, place in zip(topics, places, strict=True)
            if (seq := newest(topic)) is not None
        ]
        return wanted, places[-1] if places else round_.position

    def _page(
        self, round_: _Round, wanted: Sequence[tuple[str, int, int]], events: Mapping[int, Event], end: int
    ) -> StatePage:
        handed: list[tuple[Event, int]] = []
        size = 0
        for topic, seq, place in wanted:
            if seq > round_.position:
                round_.ahead[topic] = seq
            if (event := events.get(seq)) is None or round_.known.get(topic) == seq:
                continue
            if not (self._is_empty and event.type == DELETED):
                handed.append((event, place))
                size += event.size
                if size >= _PAGE_BYTES:
                    end = place
                    break
        if round_.go_to(end):
            end, self._round, self._known, self._is_empty = round_.position, None, round_.ahead, False
        self.place = Place(end, self.place.as_of)
        return StatePage(handed, end)


def _up_to(wanted: Sequence[tuple[str, int, int]], fetched: int) -> Sequence[tuple[str, int, int]]:
    """Return those in front of the first one that was not looked for, because a page was full."""
    for number, (_, seq, _) in enumerate(wanted):
        if seq > fetched:
            return wanted[:number]
    return wanted
