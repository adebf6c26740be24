"""Read what a publish asks of its topic, from a request's headers or a message's fields, and say why it was refused."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from feed import Invalid, PreconditionFailed
from feed.event import Draft
from feed.fastapi.auth.grants import Grants
from feed.fastapi.http.request import header_values, query_of
from feed.fastapi.routes.gate import Gate
from feed.log.contract import Appended
from feed.log.idempotency import IdempotencyKey
from feed.terms import Terms, terms_of

_IF_MATCH, _IF_NONE_MATCH = b"if-match", b"if-none-match"


def terms_in_head(connection: HTTPConnection, *, delete: bool = False) -> Terms | None:
    """Return the terms in the head of a request that publishes to one topic, None if there are none. Raises
    `Invalid`."""
    names, ttl = {name for name, _ in connection.scope["headers"]}, query_of(connection).one("ttl")
    if _IF_MATCH not in names and _IF_NONE_MATCH not in names and ttl is None:
        return Terms(delete=True) if delete else None
    if_match = _one(connection, _IF_MATCH, "If-Match")
    if_none_match = _one(connection, _IF_NONE_MATCH, "If-None-Match")
    return terms_of(if_match, if_none_match, ttl, delete=delete, names=("If-Match", "If-None-Match"))


def check_no_terms(connection: HTTPConnection) -> None:
    """Raise `Invalid` for a condition in the headers of a request that names its topics in the body."""
    for name, shown, field in ((_IF_MATCH, "If-Match", "if_match"), (_IF_NONE_MATCH, "If-None-Match", "if_none_match")):
        if header_values(connection.scope, name):
            raise Invalid(shown, f"is for a request to one topic, POST /events/TOPIC: write {field!r} into the event")


async def commit(gate: Gate, grants: Grants, drafts: list[Draft], key: IdempotencyKey | None) -> Appended:
    """Publish drafts for who has these grants. Only who may subscribe to a topic is told the id of its newest event.
    Raises what `Feed.append` raises."""
    try:
        return await gate.feed.append(drafts, key)
    except PreconditionFailed as error:
        raise told_to(grants, error) from None


def told_to(grants: Grants, error: PreconditionFailed) -> PreconditionFailed:
    """Return the error as it is told to who has these grants."""
    return error if grants.may_subscribe(error.topic) else PreconditionFailed(error.topic, None, error.place)


def _one(connection: HTTPConnection, name: bytes, shown: str) -> str | None:
    values = header_values(connection.scope, name)
    if len(values) > 1:
        raise Invalid(shown, "may be given only once")
    return values[0] if values else None
