"""Whether a reader that comes back goes on where it was, by the header that browsers send and by the query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feed_server.doctor.finding import Finding, fail, ok, unknown
from feed_server.doctor.target import ROOM, Answer, Reading, Target

_BAD_ID = "feed-doctor-0"  # of no log: epochs have another form
_EVENTS = 3

_PASS = "let the proxy pass the header Last-Event-ID on: an EventSource has no other way to say where it was"  # noqa: S105


class Resumed(NamedTuple):
    """What streams said that were opened after an id of no log, once in the header and once in the query: the names of
    their first control events; and the ids that a stream was sent of those that were `published`, after the first.

    `replayed` is None where it never got so far as to be live.
    """

    by_header: Sequence[str] = ()
    by_query: Sequence[str] = ()
    published: Sequence[str] = ()
    replayed: Sequence[str] | None = None
    refused: Answer | None = None
    away: str = ""
    """In which words the feed turned one of the first two away, if it did."""


async def look_resume(target: Target, type: str) -> Resumed:
    """Come back three times: after nonsense, and after an event."""
    async with (
        target.reading(target.path(type=type), {"Last-Event-ID": _BAD_ID}) as header,
        target.reading(target.path(type=type, last_event_id=_BAD_ID)) as query,
    ):
        await query.until(lambda: query.first("feed.live"), target.moment)
        await header.until(lambda: header.first("feed.live"), target.moment)
        found = Resumed(_controls(header), _controls(query), away=header.turned_away or query.turned_away)
    published: list[str] = []
    for _ in range(_EVENTS):
        answer = await target.publish(type)
        if not answer.published:
            return found._replace(refused=answer)
        published.append(answer.published)
    async with target.reading(target.path(type=type), {"Last-Event-ID": published[0]}) as reading:
        # Not only until it is live: another node may be a moment behind, and then what follows comes after that.
        await reading.until(
            lambda: reading.first("feed.live") and set(published[1:]) <= set(_ids(reading, type)), target.moment
        )
        is_live = reading.first("feed.live") is not None
        return found._replace(published=published, replayed=_ids(reading, type) if is_live else None)


def _ids(reading: Reading, type: str) -> list[str]:
    return [piece.id for piece in reading.pieces if piece.event == type]


def _controls(reading: Reading) -> list[str]:
    return [piece.event for piece in reading.pieces if piece.event.startswith("feed.")]


def judge_resume(resumed: Resumed) -> list[Finding]:
    """Whether the id gets there, and whether what comes then is whole."""
    header = judge_header(resumed.by_header, resumed.by_query)
    if resumed.away:
        header = unknown("resume", f"the feed turned the stream away: {resumed.away}", ROOM)
    return [header, judge_replay(resumed)]


def judge_header(by_header: Sequence[str], by_query: Sequence[str]) -> Finding:
    """A feed tells whoever comes with an id of no log that there is a gap: so it can be seen what got there."""
    if "feed.gap" in by_header:
        return ok("resume", "Last-Event-ID gets there, and an id that is none is answered with feed.gap")
    if "feed.gap" in by_query:
        return fail("resume", "the header Last-Event-ID does not get there, while ?last_event_id= does", _PASS)
    if not by_header and not by_query:
        return unknown("resume", "nothing came on the stream")
    words = "neither Last-Event-ID nor ?last_event_id= gets there: a reader that comes back misses what was meanwhile"
    return fail("resume", words, "let the proxy pass the header and the query on as they came")


def judge_replay(resumed: Resumed) -> Finding:
    """A reader that comes back after an event gets what followed it, once and in order."""
    if not resumed.published:
        words = f"not looked at, as nothing could be published: {resumed.refused}"
        return unknown("replay", words, "give a token that may publish to the topic")
    if resumed.replayed is None:
        return unknown("replay", "the stream never said that it was live")
    expected = list(resumed.published[1:])
    if list(resumed.replayed) == expected:
        return ok("replay", "a reader that comes back after an event gets all that followed, once and in order")
    words = f"a reader that came back after an event got {len(resumed.replayed)} of {len(expected)} that followed it"
    return fail("replay", words, "do all nodes behind the proxy share one log, and does Last-Event-ID get there?")
