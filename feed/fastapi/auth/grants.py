"""What one request may do: the topics it may publish to, the patterns it may read, and whether it may manage the feed.

This module does no input or output: `feed_server.auth.tokens` and `feed.fastapi.auth.access` decide who gets what.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from feed import Forbidden, Invalid, Unauthenticated
from feed.event import check_pattern
from feed.pattern import Selection, covers

DEFAULT_SECONDS = 15 * 60
"""The time in seconds for which grants are valid, unless `expires` says otherwise."""

_FIRST_TIME = 1_000_000_000  # in the year 2001: what is before was meant as a duration
_LAST_TIME = 253_402_300_799  # the last second of the year 9999: what is beyond was not meant in seconds
_REPEATED = 128  # characters of a topic or pattern that an error repeats


class Grants(msgspec.Struct, frozen=True):
    """The rights of a request, and who makes it.

    `publish` and `subscribe` are lists of patterns. A pattern may be subscribed to if **one** of the list covers it
    whole (`feed.pattern.covers`). Two patterns that match all of its topics only together, as `a/*` and `a/*/**` do for
    `a/**`, are not enough. A user's name that becomes part of a pattern has to be one segment without `*`: the name `*`
    would match the topics of all users.

    `admin` allows to see and end subscriptions, and to read `/metrics`. `subject` is who it is, as text: idempotency
    keys, rates and `Feed.kick(subject=)` go by it. None if the caller is not known.

    `expires` is when the grants end: an aware datetime, or seconds since 1970. Unless given, that is 15 minutes from
    now. `math.inf` is never. At that time an open stream ends with `feed.closing`, reason `token-expired`; its client
    comes back, and `authorize` is asked again.

    `anonymous` says that the caller has not logged in, so that a refusal is 401 and not 403. `hint` is what such a
    refusal then asks for.

    Raises `ValueError` for what is not a pattern, for an empty subject and for a time that cannot be meant; `TypeError`
    for one string instead of a list, a subject that is not text, and `expires` that is not a time.
    """

    publish: Sequence[str] = ()
    subscribe: Sequence[str] = ()
    admin: bool = False
    subject: str | None = None
    if TYPE_CHECKING:
        expires: float = math.inf
    else:
        expires: float | datetime | None = None
    anonymous: bool = False
    hint: str = ""

    if TYPE_CHECKING:  # what may be given for `expires` is more than what is kept

        def __init__(
            self,
            publish: Sequence[str] = (),
            subscribe: Sequence[str] = (),
            admin: bool = False,
            subject: str | None = None,
            expires: float | datetime | None = None,
            anonymous: bool = False,
            hint: str = "",
        ) -> None: ...

    def __post_init__(self) -> None:
        """Check what was given, and keep it in one form: tuples, and seconds since 1970."""
        keep = msgspec.structs.force_setattr
        keep(self, "publish", _checked(self.publish, "publish"))
        keep(self, "subscribe", _checked(self.subscribe, "subscribe"))
        keep(self, "expires", _seconds(self.expires))
        if self.subject is not None and not isinstance(self.subject, str):
            raise TypeError(f"Grants: subject is text, not {type(self.subject).__name__}: write str(…) around it")
        if self.subject == "":
            raise ValueError("Grants: subject is empty: leave it out if the caller is not known")

    def check_publish(self, topic: str) -> None:
        """Raise `Unauthenticated` or `Forbidden` unless events may be published to this topic."""
        if not _covered(self.publish, topic):
            raise self._refusal(f"publish to {topic[:_REPEATED]!r}")

    def check_publish_all(self, topics: Iterable[str]) -> None:
        """Check many topics, as fast as 10,000 topics and 100 patterns call for. Raises as `check_publish`."""
        allowed = Selection(self.publish)
        for topic in topics:
            if not allowed.wants_topic(topic):
                raise self._refusal(f"publish to {topic[:_REPEATED]!r}")

    def check_publishes_at_all(self) -> None:
        """Check before the topics are known. Raises as `check_publish`."""
        if not self.publish:
            raise self._refusal("publish")

    def check_subscribe(self, patterns: Iterable[str]) -> None:
        """Raise `Unauthenticated` or `Forbidden` unless each of these patterns may be subscribed to."""
        for pattern in patterns:
            if not _covered(self.subscribe, pattern):
                raise self._refusal(f"subscribe to {pattern[:_REPEATED]!r}")

    def may_subscribe(self, pattern: str) -> bool:
        """Return whether this pattern may be subscribed to."""
        return _covered(self.subscribe, pattern)

    def check_admin(self) -> None:
        """Raise `Unauthenticated` or `Forbidden` unless these grants have `admin`."""
        if not self.admin:
            raise self._refusal("do this without `admin`")

    def check_not_expired(self) -> None:
        """Raise `Unauthenticated` if the grants have ended."""
        if self.expires <= time.time():
            raise Unauthenticated("your permission has expired: log in again", invalid=True)

    def _refusal(self, what: str) -> Unauthenticated | Forbidden:
        if self.anonymous:
            return Unauthenticated(f"not allowed to {what}: {self.hint or 'log in first'}")
        return Forbidden(f"not allowed to {what}")


def _checked(patterns: Sequence[str], right: str) -> Sequence[str]:
    """Return the patterns as a tuple. Raises `TypeError` and `ValueError`, as `Grants` does."""
    if isinstance(patterns, str | bytes) or not isinstance(patterns, Iterable):
        # The letters of a string would be patterns, and `*` is one.
        raise TypeError(f"Grants: {right} is a list of patterns, such as {right}=['orders/*'], not {_named(patterns)}")
    patterns = tuple(patterns)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"Grants: {right} is a list of patterns, and {_named(pattern)} is not a pattern")
        try:
            check_pattern(pattern)
        except Invalid as error:
            raise ValueError(
                f"Grants: {right}: {pattern[:_REPEATED]!r} is not a pattern: {error.detail}. If a user's name is part "
                "of it: that has to be one segment, without '*' and '/'"
            ) from None
    return patterns


def _named(value: object) -> str:
    return "one string" if isinstance(value, str) else type(value).__name__


def _seconds(expires: float | datetime | None) -> float:
    """Return when grants end, in seconds since 1970."""
    if expires is None:
        return time.time() + DEFAULT_SECONDS
    if isinstance(expires, datetime):
        if expires.tzinfo is None:
            raise ValueError("Grants: expires is a datetime without a time zone: datetime.now(UTC) has one")
        return expires.timestamp()
    if isinstance(expires, bool) or not isinstance(expires, int | float):
        raise TypeError(f"Grants: expires is a datetime or seconds since 1970, not {type(expires).__name__}")
    if not expires <= _LAST_TIME and expires != math.inf:
        raise ValueError(f"Grants: expires is in seconds since 1970, and {expires} is beyond all time: milliseconds?")
    if expires < _FIRST_TIME:
        raise ValueError(
            f"Grants: expires is a moment, not a duration, and {expires} would be one long past: write "
            "time.time() + 900, or datetime.now(UTC) + timedelta(minutes=15), for a quarter of an hour from now"
        )
    return float(expires)


def _covered(grants: Sequence[str], pattern: str) -> bool:
    return "**" in grants or any(covers(grant, pattern) for grant in grants)


NOTHING = Grants(expires=math.inf, anonymous=True)
"""The grants before anybody was asked."""

EVERYTHING = Grants(publish=("**",), subscribe=("**",), admin=True, expires=math.inf)
"""The grants where there is no key, or where the application decides elsewhere."""
