"""What a publish may ask of its topic: that it is in a certain state, that its value is deleted, that it runs out.

The rules are judged by the log, in the step that commits. Two writers that ask the same at once cannot both succeed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from feed.errors import NoEvents, PreconditionFailed

if TYPE_CHECKING:
    from feed.event import Draft

DELETED = "feed.deleted"
"""The type of a tombstone: the topic has no value any more. No publisher can name it."""

ANY = "*"


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


class Newest(NamedTuple):
    """The newest event of a topic. A tombstone is one, too."""

    id: str
    is_deleted: bool


class Judged(NamedTuple):
    """The drafts of a batch that are committed, and the ids of all drafts. A topic that is deleted already is not
    deleted again: then the id is that of its tombstone."""

    drafts: Sequence[Draft]
    ids: Sequence[str]


def judged(drafts: Sequence[Draft], epoch: str, first: int, newest_of: Callable[[str], Newest | None]) -> Judged:
    """Judge the terms of a batch, in order: each event counts for those behind it.

    The first event that is committed gets the seq `first`. `newest_of` returns the newest event of a topic in the log.

    Raises `PreconditionFailed`, and `NoEvents` for deleting what is not there. Of a batch, the error names the event.
    """
    here: dict[str, Newest] = {}
    kept: list[Draft] = []
    ids: list[str] = []
    for place, draft in enumerate(drafts):
        topic, terms = draft.topic, draft.terms
        if terms is not None:
            newest = here.get(topic) or newest_of(topic)
            if (refusal := refusal_of(terms, topic, newest)) is not None:
                raise refusal.at(place) if len(drafts) > 1 else refusal
            if terms.delete and newest is not None and newest.is_deleted:
                ids.append(newest.id)
                continue
        id = f"{epoch}-{first + len(kept)}"
        here[topic] = Newest(id, draft.type == DELETED)
        kept.append(draft)
        ids.append(id)
    return Judged(kept, ids)


def refusal_of(terms: Terms, topic: str, newest: Newest | None) -> PreconditionFailed | NoEvents | None:
    """Return why an event with these terms may not follow the topic's newest event, None if it may."""
    is_live = newest is not None and not newest.is_deleted
    current = None if newest is None else newest.id
    if terms.if_none_match and is_live:
        return PreconditionFailed(topic, current)
    if terms.if_match is not None and not (is_live if terms.if_match == ANY else terms.if_match == current):
        return PreconditionFailed(topic, current)
    return NoEvents(topic) if terms.delete and newest is None else None


def has_terms(drafts: Sequence[Draft]) -> bool:
    """Return whether any of the drafts has terms."""
    return any(draft.terms is not None for draft in drafts)
