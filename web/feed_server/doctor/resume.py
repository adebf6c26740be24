"""Whether a reader that reconnects goes on where it was, by the header that browsers send and by the query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feed_server.doctor.finding import Finding, fail, ok, unknown
from feed_server.doctor.target import ROOM, Answer, Reading, Target

_BAD_ID = "feed-doctor-0"  # not an id of any log: epochs have another form
_EVENTS = 3

_PASS = "let the proxy pass the header Last-Event-ID on: an EventSource has no other way to resume"  # noqa: S105


class Resumed(NamedTuple):
    """What three streams sent. Two were opened after an id that no log has, one by the header and one by the query:
    `by_header` and `by_query` are the names of their control events. The third was opened after the first of the
    `published` ids: `replayed` are the ids that it was sent, None if it never became live.
    """

    by_header: Sequence[str] = ()
    by_query: Sequence[str] = ()
    published: Sequence[str] = ()
    replayed: Sequence[str] | None = None
    refused: Answer | None = None
    away: str = ""
    """The feed's words if it turned one of the first two away."""


async def look_resume(target: Target, type: str) -> Resumed:
    """Resume three times: twice after an id that no log has, and once after an event."""
    async with (
        target.reading(target.path(type=type), {"Last-Event-ID": _BAD_ID}) as header,
        target.reading(target.path(type=type, after=_BAD_ID)) as query,
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
        # Not only until it is live: another node may lag for a moment, and then the rest comes after that.
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
    """Judge whether the id arrives at the feed, and whether the replay is complete."""
    header = judge_header(resumed.by_header, resumed.by_query)
    if resumed.away:
        header = unknown("resume", f"the feed turned the stream away: {resumed.away}", ROOM)
    return [header, judge_replay(resumed)]


def judge_header(by_header: Sequence[str], by_query: Sequence[str]) -> Finding:
    """Judge whether the header and the query arrive: a feed answers an id that no log has with a gap."""
    if "feed.gap" in by_header:
        return ok("resume", "Last-Event-ID arrives at the feed, and an unknown id is answered with feed.gap")
    if "feed.gap" in by_query:
        return fail("resume", "the header Last-Event-ID does not arrive at the feed, while ?after= does", _PASS)
    if not by_header and not by_query:
        return unknown("resume", "nothing came on the stream")
    words = "neither Last-Event-ID nor ?after= arrives: a reader that reconnects misses the events meanwhile"
    return fail("resume", words, "let the proxy pass the header and the query on unchanged")


def judge_replay(resumed: Resumed) -> Finding:
    """Judge whether a reader that resumes after an event gets all later ones, once and in order."""
    if not resumed.published:
        words = f"not checked, because nothing could be published: {resumed.refused}"
        return unknown("replay", words, "give a token that may publish to the topic")
    if resumed.replayed is None:
        return unknown("replay", "the stream never became live: no feed.live came")
    expected = list(resumed.published[1:])
    if list(resumed.replayed) == expected:
        return ok("replay", "a reader that resumes after an event gets all later ones, once and in order")
    words = f"a reader that resumed after an event got {len(resumed.replayed)} of the {len(expected)} later ones"
    return fail("replay", words, "do all nodes behind the proxy share one log, and does Last-Event-ID arrive there?")
