"""What a publish may ask of its topic: that it is in a certain state, that its value is deleted, that it runs out.

The log judges them (`feed.log.conditions`), in the step that commits: of two writers that ask the same at once, one
succeeds.
"""

from __future__ import annotations

import msgspec

from feed.arguments import check_text
from feed.errors import Invalid

DELETED = "feed.deleted"
"""The type of a tombstone: the topic has no value any more. No publisher can name it."""

ANY = "*"

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
    *,
    delete: bool = False,
    names: tuple[str, str] = ("if_match", "if_none_match"),
) -> Terms | None:
    """Return the terms with these conditions, None if there are none. `names` are what errors call them.

    An id may be in quotes, as in the header (RFC 9110, 8.8.3). Raises `Invalid`, and `TypeError` for what is not text.
    """
    if if_none_match is not None and check_text(if_none_match, names[1]) != ANY:
        raise Invalid(names[1], f"has to be *, for a topic without a value: to ask for a certain one, use {names[0]}")
    if if_match is not None:
        if_match = check_text(if_match, names[0])
        if len(if_match) > 1 and if_match[0] == if_match[-1] == '"':
            if_match = if_match[1:-1]
        if not if_match or len(if_match) > _LONGEST_ID or not _UNLIKE_AN_ID.isdisjoint(if_match):
            raise Invalid(names[0], "has to be the id of one event, or * for any value")
    if if_match is None and if_none_match is None and not delete:
        return None
    return Terms(delete=delete, if_match=if_match, if_none_match=if_none_match is not None)
