"""Tokens: from the text that a client presents to what the client may do.

PyJWT checks signatures and times. A token's header only says which of our keys to try: the algorithm is the key's own,
and keys or their addresses in a header (`jwk`, `jku`, `x5u`) are ignored. Whatever is wrong with a token, the answer is
`Unauthenticated` with a short reason in our own words. The reason never repeats a part of the token, except the start
of what should be a pattern: patterns are not secret.
"""

from __future__ import annotations

import base64
import math
import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import jwt
import msgspec

from feed import Invalid, Unauthenticated
from feed.event import check_pattern
from feed.fastapi.auth.access import token_digest
from feed.fastapi.auth.grants import Grants
from feed_server.auth.jwks import ALGORITHMS, RemoteKeys
from feed_server.auth.keys import Key, KeyUse, PrivateKey, one_name

if TYPE_CHECKING:
    from jwt.types import Options

MAX_TOKEN = 16 << 10  # characters: PyJWT takes time in proportion to the length
MAX_SUBJECT = 255  # characters
MAX_PATTERNS = 100  # of each kind: each publish is compared with all of them
LEEWAY = 10  # seconds that another's clock may be ahead of ours (RFC 7519, 4.1.5)
LAST_TIME = 253402300799  # the end of the year 9999; a later time was counted in milliseconds

_REPEATED = 64  # characters of a pattern or a member that errors repeat
_NAMED = 3  # unknown members that are named
_REMEMBERED = 10_000  # tokens
_REMEMBERED_BYTES = 8 << 20  # of tokens; what is remembered of a token is not larger than the token
_OVERHEAD = 512  # bytes that each token counts for besides its length


class _Claim(msgspec.Struct):
    """The claim `feed`."""

    publish: list[str] = []
    subscribe: list[str] = []
    admin: bool = False


class Tokens:
    """Verifies tokens, and remembers verified ones until they expire.

    `audience` and `issuer` are what a token's `aud` and `iss` must be; where one is None, the claim is ignored.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        remote: RemoteKeys | None = None,
        *,
        audience: str | None = None,
        issuer: str | None = None,
    ) -> None:
        self._keys = tuple(keys)
        self._remote = remote
        self._version = 0  # of the remote keys that verified the remembered tokens
        self._audience = audience
        self._issuer = issuer
        self._options: Options = {
            "require": ["exp"],
            "verify_aud": audience is not None,
            # RFC 7519, 4.1.6: `iat` says how old a token is, not when it is valid. Clocks differ, and a token that was
            # made a second "later" is as good as any.
            "verify_iat": False,
            "verify_nbf": False,  # see `_check_begun`
        }
        self._known = _TokenCache(_REMEMBERED, _REMEMBERED_BYTES)

    async def grants(self, token: str) -> Grants:
        """Return what this token allows now. Raises `Unauthenticated`, and `FeedUnavailable` where the keys cannot be
        fetched."""
        if len(token) > MAX_TOKEN:  # before any work that grows with the length
            raise _refusal(f"it is longer than {MAX_TOKEN:,} characters")
        digest = token_digest(token)
        known = self.remembered(digest)
        if known is not None:
            return known
        grants = await self._verified(token)
        self._remembered().add(digest, grants, len(token))
        return grants

    def remembered(self, digest: bytes) -> Grants | None:
        """See `Verifier`."""
        return self._remembered().get(digest)

    def _remembered(self) -> _TokenCache:
        """Return the tokens that were verified with the present keys; after a change of keys all are verified anew."""
        if self._remote is not None and self._version != self._remote.version:
            self._version = self._remote.version
            self._known.clear()
        return self._known

    async def aclose(self) -> None:
        """Close the connections that fetch keys."""
        if self._remote is not None:
            await self._remote.aclose()

    async def _verified(self, token: str) -> Grants:
        named, kid = _header(token)
        algorithm = one_name(named)
        own = [key for key in self._keys if key.algorithm == algorithm]
        remote = self._remote if algorithm in ALGORITHMS else None
        if not own and remote is None:
            raise _refusal("its algorithm is not allowed here")
        grants = self._try(token, named, own)
        if grants is None and remote is not None:
            await remote.need()
            grants = self._try(token, named, remote.fitting(algorithm, kid))
            if grants is None and await remote.look_again(kid):
                grants = self._try(token, named, remote.fitting(algorithm, kid))
        if grants is None:
            raise _refusal("no key of this server has signed it (was it made with another secret or key?)")
        return grants

    def _try(self, token: str, algorithm: str, keys: Sequence[Key]) -> Grants | None:
        """Return what the token allows if one of these keys has signed it by an algorithm of this name, else None."""
        for key in keys:
            try:
                claims = jwt.decode(
                    token,
                    key.bound_to(algorithm),
                    algorithms=[algorithm],
                    options=self._options,
                    audience=self._audience,
                    issuer=self._issuer,
                )
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, *_ODD) as error:
                raise _refusal(_reason(error)) from None
            _check_begun(claims)
            return _grants(claims, key.use)
        return None


_ODD = (ValueError, TypeError, ArithmeticError, LookupError, RecursionError)
"""What the parsers of libraries raise at input that they do not expect."""


class _TokenCache:
    """Verified tokens by their digests: a dump of this process's memory holds no tokens from here. When there are too
    many, the oldest is forgotten. `size` is what all count for, in bytes."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._entries: dict[bytes, tuple[Grants, int]] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes) -> Grants | None:
        """Return what the token allows. None if it is not known or has expired."""
        entry = self._entries.get(digest)
        if entry is None:
            return None
        if entry[0].expires > time.time():
            return entry[0]
        self._remove(digest)
        return None

    def add(self, digest: bytes, grants: Grants, size: int) -> None:
        """Remember what a token of `size` characters allows."""
        self._remove(digest)
        size += _OVERHEAD
        self._entries[digest] = (grants, size)
        self.size += size
        while len(self._entries) > self._most or self.size > self._most_bytes:
            self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget all tokens."""
        self._entries.clear()
        self.size = 0

    def _remove(self, digest: bytes) -> None:
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self.size -= entry[1]


def issue(
    grants: Grants, key: PrivateKey | str, algorithm: str, *, audience: str | None = None, issuer: str | None = None
) -> str:
    """Make a token with these grants, signed with a private key or a secret."""
    allowed = {"publish": list(grants.publish), "subscribe": list(grants.subscribe), "admin": grants.admin}
    claims = {
        "sub": grants.subject,
        "iss": issuer,
        "aud": audience,
        "iat": int(time.time()),
        "exp": math.ceil(grants.expires),
        "feed": {name: value for name, value in allowed.items() if value},
    }
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm=algorithm)


class UnverifiedClaims(msgspec.Struct, frozen=True):
    """A token's claims, not verified: anyone may have written them. `text` is the claims as they were written."""

    algorithm: str
    kid: str | None
    text: str
    claims: dict[str, Any]

    @property
    def unclear(self) -> Iterator[str]:
        """Describe valid claims that are probably not what the token's maker meant."""
        if "feed" not in self.claims:
            yield "the claim `feed` is missing: the token allows nothing"
        elif isinstance(claim := self.claims["feed"], dict):
            known = _Claim.__struct_fields__
            for name in [name for name in claim if name not in known][:_NAMED]:
                yield f"`feed` has {name[:_REPEATED]!a}, which means nothing: it may have {', '.join(known)}"

    @property
    def grants(self) -> Grants:
        """What the claims would allow. Raises `Unauthenticated` for claims that cannot be understood."""
        return _grants(self.claims, KeyUse.ALL)


def read_unverified(token: str) -> UnverifiedClaims:
    """Read a token's claims without verifying them. Raises `Unauthenticated` where the token cannot be read."""
    algorithm, kid = _header(token)
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, *_ODD) as error:
        raise _refusal(_reason(error)) from None
    payload = token.split(".")[1].rstrip("=")
    text = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).decode("utf-8", "backslashreplace")
    return UnverifiedClaims(algorithm, kid, text, claims)


def _refusal(detail: str) -> Unauthenticated:
    return Unauthenticated(f"the token is not valid: {detail}", invalid=True)


def _header(token: str) -> tuple[str, str | None]:
    """Return the algorithm in a token's header, and the name of the key. PyJWT checks `kid` and `crit`."""
    if len(token) > MAX_TOKEN:
        raise _refusal(f"it is longer than {MAX_TOKEN:,} characters")
    if _COMPACT.fullmatch(token) is None:
        raise _refusal(_UNREADABLE)
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, *_ODD) as error:
        raise _refusal(_reason(error)) from None
    return str(header.get("alg")), header.get("kid")


_UNREADABLE = "it cannot be read"

# RFC 7515, 7.1. PyJWT before 2.14 ignores characters that do not belong there. `none` has no signature.
_COMPACT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)


def _reason(error: Exception) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "it has expired"
        case jwt.MissingRequiredClaimError():
            return f"it has no `{error.claim}`"
        case jwt.InvalidAudienceError():
            return "it is for another audience (`aud`)"
        case jwt.InvalidIssuerError():
            return "it is from another issuer (`iss`)"
        case jwt.exceptions.InvalidSubjectError():
            return "`sub` is not text"
    return _UNREADABLE


def _grants(claims: dict[str, Any], use: KeyUse) -> Grants:
    expires = _time(claims, "exp")
    if "nbf" in claims:
        _time(claims, "nbf")
    claim = _claim(claims)
    return Grants(
        publish=_patterns(claim.publish, "publish") if use is not KeyUse.SUBSCRIBE else (),
        subscribe=_patterns(claim.subscribe, "subscribe") if use is not KeyUse.PUBLISH else (),
        admin=claim.admin and use is KeyUse.ALL,
        subject=_subject(claims),
        expires=datetime.fromtimestamp(expires, UTC),  # a number of long ago would pass for a duration
    )


def _check_begun(claims: dict[str, Any]) -> None:
    """Raise `Unauthenticated` for a token that is not valid yet. PyJWT's own leeway would prolong `exp` too."""
    if "nbf" in claims and _time(claims, "nbf") > time.time() + LEEWAY:
        raise _refusal("it is not valid yet (`nbf`)")


def _time(claims: dict[str, Any], name: str) -> int:
    """Return a time in whole seconds, rounded down as PyJWT does. PyJWT accepts "1" and true as times; we do not."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LAST_TIME:
        raise _refusal(f"`{name}` is not a time in seconds")
    return int(value)


def _claim(claims: dict[str, Any]) -> _Claim:
    if "feed" not in claims:
        return _Claim()
    try:
        return msgspec.convert(claims["feed"], _Claim)
    except msgspec.ValidationError:
        raise _refusal(
            '`feed` is not an object such as {"publish": ["orders/**"], "subscribe": ["orders/*"], "admin": false}'
        ) from None


def _patterns(patterns: list[str], what: str) -> tuple[str, ...]:
    if len(patterns) > MAX_PATTERNS:
        raise _refusal(f"`feed.{what}` has more than {MAX_PATTERNS} patterns")
    return tuple(dict.fromkeys(_pattern(pattern, what) for pattern in patterns))


def _pattern(pattern: str, what: str) -> str:
    try:
        return check_pattern(pattern)
    except Invalid:
        raise _refusal(f"`feed.{what}` holds {pattern[:_REPEATED]!a}, which is not a pattern") from None


def _subject(claims: dict[str, Any]) -> str | None:
    subject: str | None = claims.get("sub")
    if subject is None:
        return None
    try:
        size = len(subject.encode()) and len(subject)
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= MAX_SUBJECT:
        raise _refusal(f"`sub` is not 1 to {MAX_SUBJECT} characters of text")
    return subject
