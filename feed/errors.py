"""All errors of this package on one page, by whose fault they are.

    FeedError
    ├── RequestError        the caller's fault: the same request will fail again
    │   ├── Malformed           the request cannot be read: broken JSON or text              (HTTP 400)
    │   ├── TooLarge            the request is larger than this feed takes                   (HTTP 413)
    │   ├── Invalid             the request breaks a rule for topics, types, …               (HTTP 422)
    │   ├── NoEvents            the topic has no event that could be deleted or renewed      (HTTP 404)
    │   ├── PreconditionFailed  the topic's newest event is not the one that the caller knows (HTTP 412)
    │   ├── InsufficientStorage the topic would be one kept value too many                   (HTTP 507)
    │   ├── Unauthenticated     the request does not prove who is asking                     (HTTP 401)
    │   └── Forbidden           the caller may not do this                                   (HTTP 403)
    ├── FeedUnavailable     the feed cannot do it now, and nothing was done: try again   (HTTP 503)
    │   ├── Overloaded          more is published than the log, or one client's limit, takes (HTTP 429)
    │   └── Draining            this server is stopping; another one will answer             (HTTP 503)
    ├── Indeterminate       the log did not answer: the event may be published or not    (HTTP 504)
    └── LogRefused          the operator's fault: the log cannot be opened; says why and what to do

At the HTTP edge they become problem documents (`feed.fastapi.http.problems`); a client sees nothing else of an error.
"""

from __future__ import annotations


class FeedError(Exception):
    """The base of all errors that this package raises on purpose."""


class RequestError(FeedError):
    """The caller has to change the request."""


class Malformed(RequestError):
    """The data is not valid JSON or text, or has no JSON form."""


class TooLarge(RequestError):
    """`what` is larger than `limit` bytes."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"{what} is larger than {limit:,} bytes, the limit here")
        self.what = what
        self.limit = limit


class Invalid(RequestError):
    """`what` names the field that breaks a rule; `detail` says which rule."""

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(f"{what}: {detail}")
        self.what = what
        self.detail = detail


class TopicRefusal(RequestError):
    """What `topic` has now does not allow this. Of a batch, `place` is the number of the event, from 0."""

    says = "does not allow this"

    def __init__(self, topic: str, place: int | None = None) -> None:
        super().__init__(f"{'' if place is None else f'event {place}: '}{topic!r} {self.says}")
        self.topic = topic
        self.place = place


class NoEvents(TopicRefusal):
    """The log has no event of `topic`."""

    says = "has no event"

    def at(self, place: int) -> NoEvents:
        """Return the same error for an event of a batch."""
        return NoEvents(self.topic, place)


class PreconditionFailed(TopicRefusal):
    """The newest event of `topic` is not the one that `if_match` names, or there is one despite `if_none_match`.
    `current` is its id; None if there is none, or the caller may not know it."""

    says = "has changed: read its newest event, and try again with that id"

    def __init__(self, topic: str, current: str | None = None, place: int | None = None) -> None:
        super().__init__(topic, place)
        self.current = current

    def at(self, place: int) -> PreconditionFailed:
        """Return the same error for an event of a batch."""
        return PreconditionFailed(self.topic, self.current, place)


class InsufficientStorage(TopicRefusal):
    """The newest event of `topic` would be kept (`Keep.latest`), and there is no room for it: too many topics, or too
    many bytes, are kept already. Deleting others makes room."""

    says = "cannot be kept: as many topics or bytes as may be are kept already (max_kept). Delete some"

    def at(self, place: int) -> InsufficientStorage:
        """Return the same error for an event of a batch."""
        return InsufficientStorage(self.topic, place)


class Unauthenticated(RequestError):
    """There is no token (`invalid` is False), or the token is not valid (`invalid` is True)."""

    def __init__(self, detail: str, *, invalid: bool = False) -> None:
        super().__init__(detail)
        self.invalid = invalid


class Forbidden(RequestError):
    """The caller, or where the request comes from, is known and not allowed to do this."""


class FeedUnavailable(FeedError):
    """The feed cannot do this now; nothing was published. Try again after `retry_after` seconds."""

    def __init__(self, detail: str, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Overloaded(FeedUnavailable):
    """Too much waits to be committed, or one client publishes more than its limit."""


class Draining(FeedUnavailable):
    """The server takes no new streams. After `retry_after` seconds its readers will be back elsewhere."""


class Indeterminate(FeedError):
    """The connection to the log broke after the events were sent and before the answer came. Repeat the publish with
    the same idempotency key: the events are then committed once."""


class LogRefused(FeedError):
    """The feed may not use this log: its file or server is not a suitable one."""
