"""Tokens put together by hand: PyJWT refuses to make many of those that a server has to refuse."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import strategies as st

from tests.support.tokens import SECRET

NOW = int(time.time())
LATER = NOW + 3600
ALLOWED = {"publish": ["a/**"], "subscribe": ["b/*"], "admin": True}
HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
"""Whatever may stand where a claim is expected."""


def b64(data: bytes) -> str:
    """Base64 as a token has it: for URLs, and without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def sealed(header: object, claims: object, key: str | bytes = SECRET, hash: str = "HS256") -> str:
    """A token with whatever header and claims, with an HMAC. `bytes` are taken as they are."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    text = ".".join(map(b64, parts))
    secret = key if isinstance(key, bytes) else key.encode()
    return f"{text}.{b64(hmac.new(secret, text.encode(), HASHES[hash]).digest())}"


def ed25519_token(key: ed25519.Ed25519PrivateKey, kid: str | None = None) -> str:
    """A token whose header has the algorithm by its newer name (RFC 9864), of which PyJWT knows nothing."""
    header = {"alg": "Ed25519", **({} if kid is None else {"kid": kid})}
    text = ".".join(b64(json.dumps(part).encode()) for part in (header, {"exp": LATER, "feed": ALLOWED}))
    return f"{text}.{b64(key.sign(text.encode()))}"


def saying(**claims: object) -> str:
    """A token whose signature is good, with these claims beside a good `exp`."""
    return sealed({"alg": "HS256"}, {"exp": LATER, **claims})
