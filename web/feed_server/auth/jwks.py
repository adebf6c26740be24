"""The public keys of the service that makes the tokens, fetched from a URL: a JWK Set (RFC 7517).

The keys are fetched at the first use and then every five minutes. They are also fetched when a token names an unknown
key, but at most twice a minute: a client that sends made-up names must not make us flood another's server. However many
requests wait, only one fetch runs. Whatever the answer, good keys stay until there are new ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

import httpx
import jwt
import msgspec
import orjson

from feed import FeedUnavailable, Invalid
from feed.client.calls import no_connection, words
from feed.client.environment import proxy_for, tls_context
from feed_server.auth.keys import Key, checked_jwk

logger = logging.getLogger(__name__)

ALGORITHMS = frozenset({"RS256", "ES256", "EdDSA"})
"""The algorithms of fetched keys. None of them uses a secret: a secret that has a URL is not a secret."""

MOST_KEYS = 100
MOST_TRIED = 10  # keys for one token: a token that does not name its key may fit many
_MAX_BODY = 512 << 10  # bytes


class Pace(msgspec.Struct, frozen=True):
    """How often keys are fetched, in seconds."""

    renew: float = 300.0
    again: float = 30.0  # at least, from any fetch to one for an unknown key, and after one that failed
    first: float = 1.0  # at least, between two fetches as long as there are no keys at all
    timeout: float = 5.0  # of a whole fetch


def check_jwks_url(url: str) -> str:
    """Return the URL. Raises `ValueError` for one that is not an absolute HTTP URL."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        parsed = httpx.URL("")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError("is not an http:// or https:// URL")
    return url


class RemoteKeys:
    """The keys behind a URL. `version` counts how often they have changed."""

    def __init__(self, url: str, pace: Pace | None = None) -> None:
        parsed = httpx.URL(check_jwks_url(url))
        self._url = url
        self._shown = f"{parsed.scheme}://{parsed.netloc.decode()}{parsed.path}"  # no password, no query
        self._pace = pace or Pace()
        self._http: httpx.AsyncClient | None = None
        self._keys: tuple[Key, ...] = ()
        self._members: list[Any] = []
        self._tried = -float("inf")
        self._failure = ""
        self._fetching: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None
        self.version = 0

    async def aclose(self) -> None:
        """Stop renewing the keys, until they are needed again."""
        tasks = [task for task in (self._renewing, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._renewing = None
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def need(self) -> None:
        """Wait until there are keys. Raises `FeedUnavailable` where none could ever be fetched."""
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew(), name="feed-jwks")
        if not self._keys:
            await self._fetch_after(self._pace.first)
        if not self._keys:
            raise FeedUnavailable("the server cannot fetch the keys that verify tokens", retry_after=2)

    async def look_again(self, kid: str | None) -> bool:
        """Fetch the keys if `kid` is not one of them, or not named. Return whether they were fetched."""
        if kid is not None and any(key.id == kid for key in self._keys):
            return False
        return await self._fetch_after(self._pace.again)

    def fitting(self, algorithm: str, kid: str | None) -> list[Key]:
        """Return the keys to try for a token of this algorithm that names the key `kid`, or no key."""
        found = [key for key in self._keys if key.algorithm == algorithm and kid in (None, key.id)]
        return found[:MOST_TRIED]

    async def _fetch_after(self, pause: float) -> bool:
        """Fetch the keys, or wait for the fetch that runs, unless the last one began less than `pause` seconds ago."""
        if self._fetching is None:
            if time.monotonic() < self._tried + pause:
                return False
            self._tried = time.monotonic()
            self._fetching = asyncio.create_task(self._fetch(), name="feed-jwks-fetch")
        # The caller may be cancelled while others still wait for the fetch.
        await asyncio.shield(self._fetching)
        return True

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._pace.again if self._failure else self._pace.renew)
            await self._fetch_after(0)

    async def _fetch(self) -> None:
        try:
            members = _members(await self._body())
            keys = _keys(members)
        except (httpx.HTTPError, OSError, TimeoutError, ValueError, Invalid) as error:
            self._fail(_words(error))
        except Exception as error:
            logger.exception("the fetched keys cannot be read")
            self._fail(type(error).__name__)
        else:
            self._take(members, keys)
        finally:
            self._fetching = None

    async def _body(self) -> bytes:
        # Not compressed: else a small answer could become a large one.
        if self._http is None:
            self._http = httpx.AsyncClient(
                follow_redirects=False,
                timeout=self._pace.timeout,
                verify=tls_context() if self._url.lower().startswith("https:") else False,
                trust_env=False,  # proxies and certificates are read from the environment by `feed.client`
                proxy=proxy_for(httpx.URL(self._url)),
            )
        headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
        body = b""
        async with (
            asyncio.timeout(self._pace.timeout),
            self._http.stream("GET", self._url, headers=headers) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"answered with {response.status_code}")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MAX_BODY:
                    raise ValueError(f"answered with more than {_MAX_BODY:,} bytes")
        return body

    def _fail(self, reason: str) -> None:
        if reason != self._failure:
            kept = f"the keys from before stay in use ({len(self._keys)})" if self._keys else "there are no keys"
            logger.warning("keys for tokens: %s: %s: %s", self._shown, reason, kept)
        self._failure = reason

    def _take(self, members: list[Any], keys: tuple[Key, ...]) -> None:
        if self._failure:
            logger.warning("keys for tokens: %s: answers again", self._shown)
        self._failure = ""
        if members != self._members:
            self._members, self._keys = members, keys
            self.version += 1


def _members(body: bytes) -> list[Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError("the answer is not JSON") from None
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise ValueError("the answer is not a JWK Set")  # noqa: TRY004  of a parsed answer, not of an argument
    return members[:MOST_KEYS]


def _keys(members: list[Any]) -> tuple[Key, ...]:
    keys = tuple(key for member in members if isinstance(member, Mapping) and (key := _key(dict(member))))
    if not keys:
        raise ValueError("the answer holds no key of a supported kind: RSA (RS256), EC P-256 (ES256), Ed25519 (EdDSA)")
    return keys


def _key(member: dict[str, Any]) -> Key | None:
    """Return the key. None for one that is not for signatures, or not of a supported kind."""
    operations = member.get("key_ops", ["verify"])
    if member.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        return Key(checked_jwk(member))
    except (ValueError, jwt.PyJWTError):
        return None


def _words(error: Exception) -> str:
    match error:
        case httpx.TimeoutException() | TimeoutError():
            return "no answer in time"
        case httpx.ConnectError():
            return no_connection(error)
        case httpx.ProxyError():
            return words(error, "")
        case httpx.HTTPError():
            return "the connection broke"
    return str(error)
