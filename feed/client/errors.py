"""What can go wrong at this end.

`Invalid`, `Malformed` and `TooLarge` (`feed.errors`) are for what is not even sent, or not read; the server's own no is
`Refused`; no answer in time is `GaveUp`. Whatever may be better the next time is repeated and not raised.
"""

from __future__ import annotations

from feed.errors import FeedError


class Refused(FeedError):
    """The feed's answer is final: to repeat the request as it is will not help. `status` is that of HTTP, `detail` the
    feed's own reason. Nobody else's answer is final, whatever its status: see `feed.client.answers`."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"refused with {status}: {detail}")
        self.status = status
        self.detail = detail


class GaveUp(FeedError):
    """No answer in time, for `reason`. Of a publish it is not known whether the events are in: repeat it with the same
    key."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Again(Exception):
    """It did not work and may the next time, not before `at_least` seconds have gone. Never leaves this package."""

    def __init__(self, reason: str, at_least: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at_least = at_least
