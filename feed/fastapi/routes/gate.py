"""What a request passes on its way to the feed: whether its page may ask, who it is for, and what they may.

One gate stands before all routes of a feed; every handler gets its grants from here.
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
    """A feed, and the rules for getting to it.

    `origins` is None where the application judges every request by them. `topics` say what may be published to which.
    `max_body` bounds one request's body, in
    bytes, and `bodies` all of them together; `rate` is how much one client may publish; `farewell`, in seconds, is how
    long an SSE stream may take to say `feed.closing` when the server around it stops. `parameters` of a URL are not the
    feed's, whatever they look like.
    """

    feed: Feed
    authorize: Authorize = allow_everything
    origins: Origins | None = Origins()
    topics: Topics = Topics()
    bodies: Bodies = msgspec.field(default_factory=Bodies)
    max_body: int = 16 << 20
    farewell: float = 5.0
    rate: Rate | None = None
    parameters: frozenset[str] = frozenset()

    async def publisher(self, connection: HTTPConnection) -> Grants:
        """Who wants to publish, to topics that are not known yet. Raises `Forbidden`, what `Authorize` raises, and
        `Overloaded` where it is more than one may."""
        self._check_origin(connection)
        grants = await self.authorize(connection)
        grants.check_publishes_at_all()
        self.count(connection, grants)
        return grants

    def count(self, connection: HTTPConnection, grants: Grants) -> None:
        """An event is to be published, whatever comes of it. Raises `Overloaded` if it is one too many."""
        if self.rate is not None:
            self.rate.take(_named(grants, address_key(address(connection))))

    def count_more(self, connection: HTTPConnection, grants: Grants, events: int) -> None:
        """The same for the other events of a batch whose first is counted already."""
        if self.rate is not None:
            self.rate.take_more(_named(grants, address_key(address(connection))), events)

    async def subscriber(self, connection: HTTPConnection, patterns: Iterable[str]) -> Grants:
        """Who wants to subscribe to these patterns. Raises `Forbidden` and what `Authorize` raises."""
        self._check_origin(connection)
        grants = await self.authorize(connection)
        grants.check_subscribe(patterns)
        return grants

    def _check_origin(self, connection: HTTPConnection) -> None:
        if self.origins is not None:
            self.origins.check(connection.scope)


def peer(connection: HTTPConnection, transport: str, grants: Grants) -> Peer:
    """What the feed has to know of who subscribes."""
    return Peer(transport, address(connection), grants.expires, grants.subject)


def principal(connection: HTTPConnection, grants: Grants) -> str:
    """Whom idempotency keys belong to: the token's subject, or the client's address."""
    return _named(grants, address(connection))


def _named(grants: Grants, address: str) -> str:
    # A space stands in no address: neither can pass for the other.
    return address if grants.subject is None else f"token {grants.subject}"
