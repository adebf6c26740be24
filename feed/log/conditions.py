"""The rule for the terms of a publish (`feed.terms`), as every log judges them in the step that commits.

Redis judges in a script of its own, `append.lua`, which says the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from feed.errors import NoEvents, PreconditionFailed
from feed.event import Draft
from feed.terms import ANY, DELETED, Terms


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
