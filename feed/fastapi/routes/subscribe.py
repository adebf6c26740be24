"""Read and check a reader's request, in one place for SSE, NDJSON, pages of history and WebSockets."""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.requests import HTTPConnection

from feed import FeedUnavailable, Invalid, Subscription
from feed.fastapi.auth.grants import NOTHING, Grants
from feed.fastapi.http.parameters import Use
from feed.fastapi.http.request import Query, last_event_id, path_parameter, query_of
from feed.fastapi.routes.gate import Gate, peer
from feed.pages import MAX_LAST, check_every, check_latest
from feed.pattern import Selection
from feed.peer import Peer

Transport = Literal["sse", "ndjson", "poll", "websocket"]


class SubscribeRequest(msgspec.Struct, frozen=True):
    """A reader's request that is well formed and allowed.

    `pattern` is the pattern in the path, None if all are in the query. `refused` says why no stream can begin now,
    though the request is correct: over SSE a reader is told so by a stream that ends. `latest` asks for state,
    `every` for a batch of what changes in each such time, and `envelope` for the JSON objects over SSE.
    """

    pattern: str | None
    selection: Selection
    grants: Grants
    peer: Peer
    after: str | None
    last: int | None
    latest: bool
    every: float | None
    envelope: bool
    refused: FeedUnavailable | None

    async def attach(self, gate: Gate) -> Subscription:
        """Begin the subscription. Raises `FeedUnavailable` if none can begin now, and what `Feed.attach` raises."""
        if self.refused is not None:
            raise self.refused
        return await gate.feed.attach(
            self.selection, after=self.after, last=self.last, latest=self.latest, every=self.every, peer=self.peer
        )


async def subscribe_request(gate: Gate, connection: HTTPConnection, transport: Transport) -> SubscribeRequest:
    """Read a request or a WebSocket's handshake, and ask the gate whether it is allowed.

    Raises `Malformed`, `Invalid`, `Unauthenticated` and `Forbidden`, and what `authorize` raises.
    """
    query = query_of(connection)
    pattern = path_parameter(connection, "pattern" if transport == "websocket" else "topic", "pattern")
    patterns = [*([] if pattern is None else [pattern]), *query.all("topic")]
    if not patterns:
        raise Invalid("pattern", "is missing: name a topic, or ** for everything, in the path or with ?topic=")
    selection = gate.feed.select(patterns, query.all("type"))
    grants, refused = NOTHING, None
    try:
        grants = await gate.subscriber(connection, selection.patterns)
    except FeedUnavailable as error:
        refused = error
    query.check(Use.PAGE if transport == "poll" else Use.STREAM, gate.parameters)
    latest, envelope = query.flag("latest"), query.one("envelope") not in (None, "", "0", "false")
    if latest:
        check_latest(latest, {name: query.one(name) for name in ("type", "last", "before", "since")})
        envelope = _envelope_of_state(query, envelope, selection)
    return SubscribeRequest(
        pattern,
        selection,
        grants,
        peer(connection, transport, grants),
        last_event_id(connection, query),
        query.number("last", least=1, most=MAX_LAST),
        latest,
        check_every(query.one("every"), latest=latest),
        envelope,
        refused,
    )


def _envelope_of_state(query: Query, asked: bool, selection: Selection) -> bool:
    """Return whether a stream of state has envelopes. Plain frames carry no topic, so they are for one topic only."""
    several = len(selection.patterns) > 1 or "*" in selection.patterns[0]
    if several and not asked and query.one("envelope") is not None:
        raise Invalid("envelope", "cannot be 0 with latest and several topics, as plain frames do not name their topic")
    return asked or several
