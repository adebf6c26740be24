"""From a request to its grants: who asks, and what they may do.

The token is looked for in one place after the other, and the first one found counts. A token that is presented must be
valid, even where none would be needed.
"""

from __future__ import annotations

import hashlib
import math
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
"""Return what a request may do. Raises `Unauthenticated` for a token that is not valid, and `FeedUnavailable` where
that cannot be known now."""


class Verifier(Protocol):
    """Where the grants of a token come from: `feed_server.auth.tokens.Tokens`."""

    def remembered(self, digest: bytes) -> Grants | None:
        """Return the grants of a token that was verified before, by its `token_digest`; None if it is not known, or not
        valid any more."""

    async def grants(self, token: str) -> Grants:
        """Return the grants. Raises `Unauthenticated` and `FeedUnavailable`."""


async def allow_everything(_: HTTPConnection) -> Grants:
    """Allow everything: there is no key, or the application around the feed decides for itself."""
    return EVERYTHING


class Access:
    """An `Authorize` by tokens. Requests without a token may subscribe to the patterns of `public`."""

    def __init__(self, tokens: Verifier, public: Sequence[str] = ()) -> None:
        self._tokens = tokens
        self._public = tuple(public)
        self._anybody = Grants(subscribe=self._public, expires=math.inf, anonymous=True, hint="a token is needed")
        self._mistaken = msgspec.structs.replace(
            self._anybody, hint="a token is needed: the header Authorization has to be `Bearer TOKEN`"
        )

    async def __call__(self, connection: HTTPConnection) -> Grants:
        """Return the grants of a request: see `Authorize`."""
        token = token_of(connection)
        if token is None:
            return self._mistaken if _has_strange_authorization(connection) else self._anybody
        grants = await self._tokens.grants(token)
        if (log := request_log_of(connection.scope)) is not None:
            log.principal = grants.subject
        if self._public:
            return msgspec.structs.replace(grants, subscribe=(*grants.subscribe, *self._public))
        return grants


def token_of(connection: HTTPConnection) -> str | None:
    """Return the token of a request, None if it has none. Raises `Unauthenticated` where it is not clear which one
    counts, and what `query_of` raises."""
    return bearer_token(connection) or _query_token(connection) or _cookie_token(connection)


def token_digest(token: str) -> bytes:
    """Return the name under which a verified token is remembered: a dump of this process's memory shall hold none."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def bearer_token(connection: HTTPConnection) -> str | None:
    """Return the token of the header `Authorization` (RFC 6750, 2.1), or None. Other schemes than Bearer are for
    somebody else, such as a proxy. Raises `Unauthenticated` for a header without a token, and for two headers."""
    values = [value for name, value in connection.scope["headers"] if name == b"authorization"]
    tokens = [token for scheme, _, token in (value.partition(b" ") for value in values) if scheme.lower() == b"bearer"]
    if not tokens:
        return None
    token: str = tokens[0].strip(b" \t").decode("latin-1")
    if len(tokens) > 1 or not token:
        raise Unauthenticated("the header Authorization has to hold one token", invalid=True)
    return token


def _has_strange_authorization(connection: HTTPConnection) -> bool:
    """Return whether a header may have been meant to hold a token: `Token …`, or the token alone."""
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
    """Return the token of the cookie. Another subdomain, or a page on another path, can set a second cookie of the same
    name (RFC 6265, 8.6), and nothing tells which one is whose: then neither counts."""
    tokens = set()
    for name, value in connection.scope["headers"]:
        if name == b"cookie":
            for pair in value.split(b";"):
                key, _, token = pair.partition(b"=")
                if key.strip(b" \t") == _COOKIE:
                    tokens.add(token.strip(b' \t"').decode("latin-1"))
    tokens.discard("")
    if len(tokens) > 1:
        raise Unauthenticated(
            f"there are several cookies {COOKIE}, with different tokens: clear those of this site", invalid=True
        )
    return tokens.pop() if tokens else None
