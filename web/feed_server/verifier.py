"""Makes the verifier of tokens from the settings.

Apart from `feed_server.auth`, which does not know the settings: they check their keys with it. The import takes a tenth
of a second, for PyJWT and cryptography, and is done only where there is a key.
"""

from __future__ import annotations

from pydantic import SecretStr

from feed_server.auth.jwks import RemoteKeys
from feed_server.auth.keys import Key, KeyUse, public_key_of, secret_keys
from feed_server.auth.tokens import Tokens
from feed_server.settings import Settings


def verifier_of(settings: Settings) -> Tokens | None:
    """Make the verifier of tokens. None where the settings name no key."""
    if not settings.has_key:
        return None
    remote = None if settings.jwks_url is None else RemoteKeys(settings.jwks_url)
    return Tokens(keys_of(settings), remote, audience=settings.jwt_audience, issuer=settings.jwt_issuer)


def keys_of(settings: Settings) -> list[Key]:
    """Return the keys that the settings themselves hold; those behind `jwks_url` have to be fetched."""
    return [
        *_keys(settings.jwt_secret, settings.jwt_public_key, KeyUse.ALL),
        *_keys(settings.publisher_jwt_secret, settings.publisher_jwt_public_key, KeyUse.PUBLISH),
        *_keys(settings.subscriber_jwt_secret, settings.subscriber_jwt_public_key, KeyUse.SUBSCRIBE),
    ]


def _keys(secret: SecretStr | None, public_key: str | None, use: KeyUse) -> list[Key]:
    found = [] if secret is None else secret_keys(secret.get_secret_value(), use)
    return found if public_key is None else [*found, public_key_of(public_key, use)]
