"""Who asks, and what they may: from a request to grants.

The token is looked for in one place after the other, and the first that holds one counts: what is presented must be
valid, also where nothing would be needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec
from starlette.requests import HTTPConnection

from feed import Unauthenticated
from feed.fastapi.auth.grants import EVERYTHING, Grants
from feed.fastapi.http.request import query_of
from feed.fastapi.logging.requests import request_log_of

COOKIE = "feed_token"
_COOKIE = COOKIE.encode()
_NOT_FOR_US = {b"basic", b"digest", b"negotiate", b"ntlm"}  # schemes that are a proxy's

Authorize = Callable[[HTTPConnection], Awaitable[Grants]]
"""Says what a request may do. Raises `Unauthenticated` for a token that is not valid, `FeedUnavailable` where that
cannot be known now."""


class Verifier(Protocol):
    """What makes grants of a token: `feed_server.auth.tokens.Tokens`."""

    async def grants(self, token: str) -> Grants:
        """Raises `Unauthenticated` and `FeedUnavailable`."""


async def allow_everything(_: HTTPConnection) -> Grants:
    """Where there is no key, or the application around the feed decides for itself."""
    return EVERYTHING


class Access:
    """An `Authorize` by tokens. Without a token there is what anybody may read: the patterns of `public`."""

    def __init__(self, tokens: Verifier, public: Sequence[str] = ()) -> None:
        self._tokens = tokens
        self._public = tuple(public)
        self._anybody = Grants(subscribe=self._public, anonymous=True)
        self._mistaken = msgspec.structs.replace(
            self._anybody, hint="the header Authorization has to be `Bearer TOKEN`"
        )

    async def __call__(self, connection: HTTPConnection) -> Grants:
        """See `Authorize`."""
        token = bearer_token(connection) or _query_token(connection) or _cookie_token(connection)
        if token is None:
            return self._mistaken if _has_strange_authorization(connection) else self._anybody
        grants = await self._tokens.grants(token)
        if (log := request_log_of(connection.scope)) is not None:
            log.principal = grants.subject
        if self._public:
            return msgspec.structs.replace(grants, subscribe=(*grants.subscribe, *self._public))
        return grants


def bearer_token(connection: HTTPConnection) -> str | None:
    """The token of the header `Authorization` (RFC 6750, 2.1), None if there is none. Another scheme than Bearer is
    not for us: a proxy's own, for one. Raises `Unauthenticated` for a header that holds none, or for two."""
    values = [value for name, value in connection.scope["headers"] if name == b"authorization"]
    tokens = [token for scheme, _, token in (value.partition(b" ") for value in values) if scheme.lower() == b"bearer"]
    if not tokens:
        return None
    token: str = tokens[0].strip(b" \t").decode("latin-1")
    if len(tokens) > 1 or not token:
        raise Unauthenticated("the header Authorization has to hold one token", invalid=True)
    return token


def _has_strange_authorization(connection: HTTPConnection) -> bool:
    """Whether there is a header that may have been meant to bear a token: `Token …`, or the token alone."""
    return any(
        name == b"authorization" and value.partition(b" ")[0].lower() not in _NOT_FOR_US
        for name, value in connection.scope["headers"]
    )


def _query_token(connection: HTTPConnection) -> str | None:
    if not connection.scope["query_string"]:
        return None
    tokens = query_of(connection).all("token")
    if not tokens:
        return None
    if len(tokens) > 1 or not tokens[0]:
        raise Unauthenticated("the parameter token has to hold one token", invalid=True)
    return tokens[0]


def _cookie_token(connection: HTTPConnection) -> str | None:
    """The token of the cookie. A neighbour, another subdomain or a page on another path, can put a cookie of the same
    name beside ours (RFC 6265, 8.6), and nothing tells which of them is whose: then neither counts."""
    tokens = set()
    for name, value in connection.scope["headers"]:
        if name == b"cookie":
            for pair in value.split(b";"):
                key, _, token = pair.partition(b"=")
                if key.strip(b" \t") == _COOKIE:
                    tokens.add(token.strip(b' \t"').decode("latin-1"))
    tokens.discard("")
    if len(tokens) > 1:
        raise Unauthenticated(f"there are different cookies {COOKIE}: clear those of this site", invalid=True)
    return tokens.pop() if tokens else None
