"""Idempotency keys: a publish that is repeated under its key is committed once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from feed.arguments import check_key
from feed.event import Draft

KEY_LIFETIME_MS = 24 * 3600 * 1000
"""How long an idempotency key is remembered."""

KEY_REUSED = "was used for another request within the last 24 hours: use a new key for a new request"


class IdempotencyKey(msgspec.Struct, frozen=True):
    """`key` is unique within its `principal`. `fingerprint` tells a repeat from another request under the same key."""

    principal: str
    key: str
    fingerprint: bytes


def idempotency_key(
    principal: str, key: str, drafts: Sequence[Draft], form: str = "one", what: str = "key"
) -> IdempotencyKey:
    """Return the key under which these drafts are published once, over HTTP, WebSocket or from code. `form` tells apart
    requests with the same events and different answers: `one` event, or a `batch`, which may hold one event too. `what`
    is how errors call the key.

    Raises what `check_key` raises.
    """
    check_key(key, what)
    digest = hashlib.sha256(form.encode())
    for draft in drafts:
        for part in (draft.topic, draft.type, "json" if draft.is_json else "text", draft.text):
            encoded = part.encode()
            digest.update(b"%d:" % len(encoded))
            digest.update(encoded)
        if draft.terms is not None:
            digest.update(msgspec.msgpack.encode(draft.terms))
    return IdempotencyKey(principal, key, digest.digest())
