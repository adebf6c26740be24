"""Errors of the clients.

`Invalid`, `Malformed` and `TooLarge` (`feed.errors`) are raised for what is not even sent, or is not read. `NoEvents`
and `PreconditionFailed` are raised as by the library, `Refused` is any other refusal of the server, `GaveUp` means no
answer in time. What may work the next time is repeated and not raised.
"""

from __future__ import annotations

from feed.errors import FeedError


class Refused(FeedError):
    """The feed refused the request, and will refuse it again. `status` is the HTTP status, `detail` the feed's reason.

    Only the feed's own answers are final, whatever their status. Other answers are those of a proxy in front of it, and
    are repeated.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"refused with {status}: {detail}")
        self.status = status
        self.detail = detail


class GaveUp(FeedError):
    """There was no answer in time, for `reason`. The events may have been published: repeat the call with the same
    key."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Again(Exception):
    """An attempt failed, and the next one may work, after `at_least` seconds. This error never leaves the package."""

    def __init__(self, reason: str, at_least: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at_least = at_least
