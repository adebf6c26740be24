"""Pages of past events, as both ends read them: what can be asked for, what a page is, and which page comes next."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from feed.arguments import check_id
from feed.control import Gap
from feed.errors import Invalid
from feed.event import Event
from feed.units import bounded_duration
from feed.wire import milliseconds_of, parse_rfc3339

EARLIEST = "earliest"
"""In place of an id, for `after`: begin with the oldest retained event."""

MAX_LAST = 1_000
"""How many events `last` and `limit` can ask for at most."""

NEWEST_TIME = 253_402_300_799_999
"""The last moment that RFC 3339 can say, in milliseconds since 1970."""

_DEFAULT_LIMIT = 100
_EVERY = 0.1, 60  # seconds


class Page(msgspec.Struct, frozen=True):
    """Past events, the oldest first.

    `next` is an id: reading goes on after it, or before it where `before` was given, also if there are no events on
    this page. `gap` says that events in front of this page may be missing. Of a page that begins with the oldest event,
    `complete` is False if older ones were there, which retention has taken.

    Of a page of state, `live` tells that the state is whole with it, and `resumes` are the ids to go on after each
    event, where those are not the events' own.
    """

    events: list[Event]
    next: str
    gap: Gap | None = None
    live: bool = False
    resumes: list[str | None] = []
    complete: bool = True


class TopicInfo(msgspec.Struct, frozen=True):
    """A topic that has retained events, and its newest event: id, time of the commit in milliseconds since 1970, and
    type, which is `feed.deleted` for a topic whose value was deleted."""

    name: str
    last_id: str
    last_time_ms: int
    type: str


class TopicsPage(msgspec.Struct, frozen=True):
    """Topics, by name. `next` is the name after which the next page begins, None if this is the last one. A page can be
    empty although there is a next one."""

    topics: list[TopicInfo]
    next: str | None


class PageRequest(msgspec.Struct, frozen=True):
    """Where a page begins, and how many events it may hold. `since` is in milliseconds since 1970.

    Of `before`, `after`, `last` and `since` the first that is given counts. Without any of them the page begins with
    the oldest retained event. With `latest` it is a page of state, which has only the newest event of each topic; then
    only `after` may be given.
    """

    after: str | None = None
    before: str | None = None
    since: int | None = None
    last: int | None = None
    limit: int | None = None
    latest: bool = False

    @property
    def most(self) -> int:
        """How many events the page may hold."""
        return self.limit or self.last or _DEFAULT_LIMIT


def page_request(
    *,
    after: str | None,
    before: str | None,
    since: str | datetime | None,
    last: int | None,
    limit: int | None,
    latest: bool = False,
) -> PageRequest:
    """Check what a caller asks for. Raises `Invalid`, and `TypeError` for a value of the wrong type."""
    after = check_after(after)
    if before is not None:
        check_id(before, "before")
    given = {"after": after, "before": before, "since": since, "last": last}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise Invalid(names[1], f"cannot be combined with {names[0]}: give one of after, before, since and last")
    check_latest(latest, {**given, "after": None})
    check_last(last)
    check_last(limit, "limit")
    return PageRequest(after, before, None if since is None else _moment(since), last, limit, latest)


def check_latest(latest: bool, others: Mapping[str, object]) -> None:
    """Raise `Invalid` if one of `others`, which are None where they are not given, cannot go together with `latest`."""
    for name, value in others.items():
        if latest and value:
            raise Invalid(name, "cannot be combined with latest, which is the newest event of each topic")


def check_every(every: float | str | None, *, latest: bool) -> float | None:
    """Return the time in seconds in which a reader of state gets one batch at most, None if any number may come. It is
    given as a number, or as a text such as `500ms`. Raises `Invalid` for one that is too short or too long, or without
    `latest`, and `TypeError` for what is neither."""
    if every is None:
        return None
    if isinstance(every, bool) or not isinstance(every, int | float | str):
        raise TypeError(f"every has to be a number of seconds, not {type(every).__name__}")
    if not latest:
        raise Invalid("every", "is only for latest, which may leave out what was superseded meanwhile")
    return bounded_duration(every, "every", *_EVERY, "100 ms to 60 seconds: 500ms, 5s")


def check_after(after: str | None) -> str | None:
    """Return the id to go on after. None if there is none: "" is what a client's `position` is before its first id.
    Raises `TypeError` for what is not a text."""
    return None if after is None else check_id(after, "after") or None


def check_last(last: int | None, name: str = "last") -> None:
    """Raise `Invalid` for a number of events that cannot be asked for, `TypeError` for what is not a whole number."""
    if last is None:
        return
    if isinstance(last, bool) or not isinstance(last, int):
        raise TypeError(f"{name} has to be a whole number (int) from 1 to {MAX_LAST:,}, not {type(last).__name__}")
    if not 1 <= last <= MAX_LAST:
        raise Invalid(name, f"has to be a whole number from 1 to {MAX_LAST:,}")


class Paging:
    """Which page of a history comes next, and whether there is one."""

    def __init__(self, request: PageRequest) -> None:
        self.request = request
        """What to ask for next, as long as it has not `ended`."""
        self.ended = False
        self._was_empty = False

    def turn(self, page: Page) -> None:
        """Go on after this page, or before it. With `last` there is only one page.

        An empty page is not always the end: what lies beyond a place where events were lost begins another page.
        """
        asked = self.request
        is_empty = not page.events and page.gap is None
        if asked.before is not None:
            self.ended = not page.events
            self.request = PageRequest(before=page.next, limit=asked.limit)
        elif asked.latest:
            self.ended = page.live
            self.request = PageRequest(after=page.next, limit=asked.limit, latest=True)
        else:
            self.ended = asked.last is not None or (is_empty and (self._was_empty or page.next == asked.after))
            self.request = PageRequest(after=page.next, limit=asked.limit)
        self._was_empty = is_empty


def _moment(since: str | datetime) -> int:
    if isinstance(since, datetime):
        if since.utcoffset() is None:
            raise Invalid("since", "has no time zone: give an aware datetime, such as datetime.now(UTC), or a text")
        milliseconds: int | None = milliseconds_of(since)
    elif not isinstance(since, str):
        raise TypeError(f"since has to be an aware datetime, or a str as in RFC 3339, not {type(since).__name__}")
    else:
        milliseconds = parse_rfc3339(since)
    if milliseconds is None:
        raise Invalid("since", "has to be a time as in RFC 3339, such as 2026-11-21T03:05:00Z")
    return min(max(milliseconds, 0), NEWEST_TIME)
