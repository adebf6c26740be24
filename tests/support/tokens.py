"""Tokens for the tests, made as a backend would make them: with PyJWT and the secret."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jwt

SECRET = "a secret of the tests, longer than 32 bytes"
OTHER_SECRET = "a secret that no server of the tests has been told"


def token(
    publish: Sequence[str] = (),
    subscribe: Sequence[str] = (),
    *,
    admin: bool = False,
    seconds: float = 4 * 3600,  # modules make some when they are loaded, and run at any time after that
    secret: str = SECRET,
    algorithm: str = "HS256",
    **claims: Any,
) -> str:
    """A token that ends in so many seconds from now."""
    allowed: dict[str, Any] = {"publish": list(publish), "subscribe": list(subscribe), "admin": admin}
    return jwt.encode({"exp": time.time() + seconds, "feed": allowed, **claims}, secret, algorithm=algorithm)


def bearer(token: str) -> dict[str, str]:
    """The header that bears it."""
    return {"Authorization": f"Bearer {token}"}
