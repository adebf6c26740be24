"""What one request may do: patterns for publishing, patterns for subscribing, and whether it may look after the feed.

Pure: where grants come from is the business of `feed_server.auth.tokens` and `feed.fastapi.auth.access`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

import msgspec

from feed import Forbidden, Unauthenticated
from feed.pattern import Selection, covers

_REPEATED = 128  # characters of a topic or pattern that are said back


class Grants(msgspec.Struct, frozen=True):
    """What is allowed, and to whom.

    `subject` is who it is, for idempotency keys and rates; None where nobody has said so. `expires` is in seconds since
    1970. `anonymous` tells a request without a token from one whose token does not go far enough; `hint` is then why
    none may have been found.

    A pattern may be subscribed to if **one** grant covers it whole (`feed.pattern.covers`): two grants that only
    together match all of its topics, `a/*` and `a/*/**` for `a/**`, do not.
    """

    publish: Sequence[str] = ()
    subscribe: Sequence[str] = ()
    admin: bool = False
    subject: str | None = None
    expires: float = math.inf
    anonymous: bool = False
    hint: str = ""

    def __post_init__(self) -> None:
        """Raises `TypeError` for one string instead of several: its letters would be patterns, and `*` is one."""
        if isinstance(self.publish, str) or isinstance(self.subscribe, str):
            raise TypeError("publish and subscribe are lists of patterns, not one string")

    def check_publish(self, topic: str) -> None:
        """Raises `Unauthenticated` or `Forbidden` unless events may be published to this topic."""
        if not _covered(self.publish, topic):
            raise self._refusal(f"publish to {topic[:_REPEATED]!r}")

    def check_publish_all(self, topics: Iterable[str]) -> None:
        """The same for many, as quickly as 10,000 topics and 100 patterns call for."""
        allowed = Selection(self.publish)
        for topic in topics:
            if not allowed.wants_topic(topic):
                raise self._refusal(f"publish to {topic[:_REPEATED]!r}")

    def check_publishes_at_all(self) -> None:
        """The same, before it is known to which topics."""
        if not self.publish:
            raise self._refusal("publish")

    def check_subscribe(self, patterns: Iterable[str]) -> None:
        """Raises `Unauthenticated` or `Forbidden` unless each of these patterns may be subscribed to."""
        for pattern in patterns:
            if not _covered(self.subscribe, pattern):
                raise self._refusal(f"subscribe to {pattern[:_REPEATED]!r}")

    def check_admin(self) -> None:
        """Raises `Unauthenticated` or `Forbidden` unless it is somebody who looks after the feed."""
        if not self.admin:
            if self.anonymous:
                raise Unauthenticated(self._hinted("a token with `admin` is needed"))
            raise self._refusal("do this: it is for those with `admin`")

    def check_not_expired(self) -> None:
        """Raises `Unauthenticated` once the token has ended."""
        if self.expires <= time.time():
            raise Unauthenticated("the token has expired", invalid=True)

    def _refusal(self, what: str) -> Unauthenticated | Forbidden:
        if self.anonymous:
            return Unauthenticated(self._hinted(f"a token is needed to {what}"))
        return Forbidden(f"this token does not allow to {what}")

    def _hinted(self, detail: str) -> str:
        return f"{detail}: {self.hint}" if self.hint else detail


NOTHING = Grants(anonymous=True)
"""Nobody has been let in yet."""

EVERYTHING = Grants(publish=("**",), subscribe=("**",), admin=True)
"""Where there is no key, or somebody else decides."""


def _covered(grants: Sequence[str], pattern: str) -> bool:
    return "**" in grants or any(covers(grant, pattern) for grant in grants)
