"""The checks before every route of a feed: the page's origin, the client's grants, and its rate limit.

A feed has one gate, and every handler gets its grants from there.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from starlette.requests import HTTPConnection

from feed import Feed
from feed.fastapi.auth.access import Authorize, allow_everything
from feed.fastapi.auth.grants import Grants
from feed.fastapi.auth.origins import Origins
from feed.fastapi.auth.rate_limit import Rate
from feed.fastapi.http.bodies import Bodies
from feed.fastapi.http.request import address
from feed.fastapi.topics import Topics
from feed.peer import Peer, address_key


class Gate(msgspec.Struct, frozen=True):
    """A feed, and the rules for access to it.

    `origins` is None if the application checks the origin of every request itself. `topics` are the typed topics.
    `max_body` bounds one request's body, in bytes, and `bodies` all bodies together. `rate` limits what one client may
    publish. `shutdown_grace` is the time, in seconds, in which an SSE stream may send `feed.closing` when the server
    around it stops. `parameters` are query parameters of the application, and never refused.
    """

    feed: Feed
    authorize: Authorize = allow_everything
    origins: Origins | None = Origins()
    topics: Topics = Topics()
    bodies: Bodies = msgspec.field(default_factory=Bodies)
    max_body: int = 16 << 20
    shutdown_grace: float = 5.0
    rate: Rate | None = None
    parameters: frozenset[str] = frozenset()

    async def publisher(self, connection: HTTPConnection) -> Grants:
        """Return the grants of a client that wants to publish, to topics that are not known yet, and count one event.
        Raises `Forbidden`, what `Authorize` raises, and `Overloaded` above the client's rate limit."""
        self._check_origin(connection)
        grants = await self.authorize(connection)
        grants.check_publishes_at_all()
        self.count(address(connection), grants)
        return grants

    def count(self, address: str, grants: Grants) -> None:
        """Charge one event to the rate limit of the client at this address, even if publishing fails later. Raises
        `Overloaded`."""
        if self.rate is not None:
            self.rate.take(principal(grants, address_key(address)))

    def count_more(self, connection: HTTPConnection, grants: Grants, events: int) -> None:
        """Charge the other events of a batch, whose first event `publisher` has charged."""
        if self.rate is not None:
            self.rate.take_more(principal(grants, address_key(address(connection))), events)

    async def subscriber(self, connection: HTTPConnection, patterns: Iterable[str]) -> Grants:
        """Return the grants of a client that wants these patterns. Raises `Forbidden`, and what `Authorize` raises."""
        self._check_origin(connection)
        grants = await self.authorize(connection)
        grants.check_subscribe(patterns)
        return grants

    def _check_origin(self, connection: HTTPConnection) -> None:
        if self.origins is not None:
            self.origins.check(connection.scope)


def peer(connection: HTTPConnection, transport: str, grants: Grants) -> Peer:
    """Return what the feed has to know of a subscriber."""
    return Peer(transport, address(connection), grants.expires, grants.subject)


def principal(grants: Grants, address: str) -> str:
    """Return the owner of idempotency keys: the token's subject, or the client's address."""
    # No address contains a space, so an address and a subject cannot pass for each other.
    return address if grants.subject is None else f"token {grants.subject}"
