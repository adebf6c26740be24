"""What a publish may ask of its topic: that it is in a certain state, that its value is deleted, that it runs out.

The log judges them (`feed.log.conditions`), in the step that commits: of two writers that ask the same at once, one
succeeds.
"""

from __future__ import annotations

import msgspec

from feed.arguments import check_text
from feed.errors import Invalid
from feed.units import bounded_duration

DELETED = "feed.deleted"
"""The type of a tombstone: the topic has no value any more. No publisher can name it."""

ANY = "*"

_TTL = 1, 7 * 24 * 3600  # seconds

_LONGEST_ID = 256
_UNLIKE_AN_ID = frozenset('", ')


class Terms(msgspec.Struct, frozen=True):
    """The terms of one event to publish.

    With `delete` the event is a tombstone. `if_match` is the id that the topic's newest event has to have, or `ANY` for
    any event that is not a tombstone. With `if_none_match` the topic may have no event, or a tombstone as its newest.
    `ttl` is after how many milliseconds a tombstone follows, if this is still the topic's newest event then.
    """

    delete: bool = False
    if_match: str | None = None
    if_none_match: bool = False
    ttl: int | None = None


def terms_of(
    if_match: str | None,
    if_none_match: str | None,
    ttl: float | str | None = None,
    *,
    delete: bool = False,
    names: tuple[str, str] = ("if_match", "if_none_match"),
) -> Terms | None:
    """Return the terms with these conditions, None if there are none. `names` are what errors call them.

    An id may be in quotes, as in the header (RFC 9110, 8.8.3). `ttl` is as for `check_ttl`. Raises `Invalid`, and
    `TypeError` for what is not text, or not a number.
    """
    if if_none_match is not None and check_text(if_none_match, names[1]) != ANY:
        raise Invalid(names[1], f"has to be *, for a topic without a value: to ask for a certain one, use {names[0]}")
    if if_match is not None:
        if_match = check_text(if_match, names[0])
        if len(if_match) > 1 and if_match[0] == if_match[-1] == '"':
            if_match = if_match[1:-1]
        if not if_match or len(if_match) > _LONGEST_ID or not _UNLIKE_AN_ID.isdisjoint(if_match):
            raise Invalid(names[0], "has to be the id of one event, or * for any value")
    if delete and ttl is not None:
        raise Invalid("ttl", "is for a value: what is deleted has none")
    milliseconds = None if ttl is None else check_ttl(ttl)
    if if_match is None and if_none_match is None and milliseconds is None and not delete:
        return None
    return Terms(delete=delete, if_match=if_match, if_none_match=if_none_match is not None, ttl=milliseconds)


def check_ttl(ttl: float | str) -> int:
    """Return a time to live in milliseconds, for a number of seconds, or a text such as `30s`. Raises `Invalid` for one
    that is too short or too long, and `TypeError` for what is neither."""
    if isinstance(ttl, bool) or not isinstance(ttl, int | float | str):
        raise TypeError(f"ttl has to be a number of seconds, not {type(ttl).__name__}")
    return round(bounded_duration(ttl, "ttl", *_TTL, "1 second to 7 days: 30s, 5m, 1d") * 1000)
