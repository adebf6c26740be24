"""Everything that can go wrong, on one page, by whose fault it is.

    FeedError
    ├── RequestError        the caller's: repeating it as it is will not help
    │   ├── Malformed           it cannot be read: broken JSON or text                       (HTTP 400)
    │   ├── TooLarge            it is bigger than this feed takes                            (HTTP 413)
    │   ├── Invalid             it can be read, and breaks a rule for topics, types, …       (HTTP 422)
    │   ├── Unauthenticated     it may be allowed to somebody, and does not say who asks     (HTTP 401)
    │   └── Forbidden           whoever asks may not do it                                   (HTTP 403)
    ├── FeedUnavailable     nobody's in particular, and nothing was done: try again      (HTTP 503)
    │   ├── Overloaded          more is being published than the log takes in, or one may    (HTTP 429)
    │   └── Draining            this server is being stopped; another will answer            (HTTP 503)
    ├── Indeterminate       nobody's, and it cannot be known whether it was published    (HTTP 504)
    └── LogRefused          the operator's: this log cannot be opened; says why and what to do

At the HTTP edge they become problem documents (`feed.fastapi.http.problems`); nothing else of an error reaches a
client.
"""

from __future__ import annotations


class FeedError(Exception):
    """Whatever this package raises on purpose."""


class RequestError(FeedError):
    """The caller has to change the request."""


class Malformed(RequestError):
    """The bytes are not what they claim to be."""


class TooLarge(RequestError):
    """`limit` is in bytes."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"{what} is larger than {limit:,} bytes, the limit here")
        self.what = what
        self.limit = limit


class Invalid(RequestError):
    """`what` names the field that breaks the rule; `detail` says which rule."""

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(f"{what}: {detail}")
        self.what = what
        self.detail = detail


class Unauthenticated(RequestError):
    """There is no token, or none that is valid. `invalid` tells the second from the first."""

    def __init__(self, detail: str, *, invalid: bool = False) -> None:
        super().__init__(detail)
        self.invalid = invalid


class Forbidden(RequestError):
    """It is known who asks, or from where, and that is not enough."""


class FeedUnavailable(FeedError):
    """It cannot be done now; what was to be published is not. `retry_after` is in seconds."""

    def __init__(self, detail: str, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Overloaded(FeedUnavailable):
    """What waits to be committed has reached its bound, or one client's publishes theirs."""


class Draining(FeedUnavailable):
    """No new streams here. `retry_after` is when those that were here are back elsewhere."""


class Indeterminate(FeedError):
    """The connection to the log broke after the events were sent and before the answer came. Repeat it with the same
    idempotency key, and it is there once."""


class LogRefused(FeedError):
    """The log's file or server is not one that this feed may use."""
