"""A call: one request that is repeated until it is answered. What is sent, what an answer means, and how long to wait
before the next try; the sockets are elsewhere.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from ssl import SSLCertVerificationError
from typing import Generic, TypeVar

import httpx
import msgspec

from feed.client.answers import is_json, is_own, refusal
from feed.client.errors import Again, GaveUp, Refused
from feed.client.frames import no_feed, of_page
from feed.client.items import Outgoing, Page
from feed.client.waits import ANSWER, CONNECT, FIRST_CALL, LONGEST_CALL, Waits
from feed.errors import Invalid, TooLarge
from feed.media_types import JSON, NDJSON

MAX_ANSWER = 64 << 20  # bytes of one; the server ends a page of history at 1 MiB and one event
_MAX_DETAIL = 1 << 20  # bytes of an answer that are read for the reason of a refusal
_MOMENT = 0.001  # seconds
_LAST_TRY = 0.05, 0.5  # of the patience, but no more seconds: what is kept for one more try at its end

A = TypeVar("A")


class Call(Generic[A]):
    """One request, and what its tries have come to. `status` is that of success, `read` makes the answer of its body.

    `renewable`: the token is asked anew for each try, so that a first 401 may be of one that has just expired.
    """

    def __init__(
        self,
        method: str,
        headers: Mapping[str, str],
        status: int,
        read: Callable[[bytes], A],
        *,
        parameters: httpx.QueryParams | None = None,
        content: bytes | None = None,
    ) -> None:
        self.method = method
        self.headers = headers
        self.parameters = parameters or httpx.QueryParams()
        self.content = content
        self._status = status
        self._read = read

    def begin(self, server: str, patience: float, *, renewable: bool) -> None:
        """The clock runs from here."""
        self._server = server
        self._patience = patience
        self._deadline = time.monotonic() + patience
        self._waits = Waits(FIRST_CALL, LONGEST_CALL)
        self._renewable = renewable
        self._reason = ""
        self._is_over = False

    @property
    def timeout(self) -> httpx.Timeout:
        """For the next try. Raises `GaveUp` when there is no time left for one."""
        left = self._deadline - time.monotonic()
        if left <= 0 or self._is_over:
            raise self.gave_up()
        return httpx.Timeout(min(ANSWER, left), connect=min(CONNECT, left))

    def body(self, response: httpx.Response) -> Body:
        """What takes the body of an answer."""
        return Body(MAX_ANSWER, self._deadline) if self._is_good(response) else Body.of_refusal(self._deadline)

    def answered(self, response: httpx.Response, body: Body) -> A:
        """What an answer means. Raises `Again`, and `Refused` where it is final."""
        if not self._is_good(response):
            raise self._refusal(response, body)
        if body.is_cut:
            raise TooLarge("the answer", MAX_ANSWER)
        try:
            return self._read(bytes(body.content))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise no_feed() from None

    def _is_good(self, response: httpx.Response) -> bool:
        return response.status_code == self._status and is_json(response.headers)

    def _refusal(self, response: httpx.Response, body: Body) -> Again | Refused:
        status, headers, renewable = response.status_code, response.headers, self._renewable
        self._renewable = renewable and not (status == 401 and is_own(status, headers, body))
        return refusal(status, response.reason_phrase, headers, body, renewable=renewable)

    def wait(self, again: Again) -> float:
        """How long to wait before the next try. The last one is just before the patience is over; after it there is but
        the rest to wait. Raises `GaveUp` where the server asks for more than there is."""
        left = max(0.0, self._deadline - time.monotonic())
        share, most = _LAST_TRY
        before_last = left - min(share * self._patience, most)
        was_last = before_last < _MOMENT
        if self._reason and was_last:
            self._is_over = True  # what the last try met may be no more than that it was short
            return left
        self._reason = again.reason
        if again.at_least > max(before_last, 0.0):
            self._reason += f"; it asks to be left alone for {again.at_least:,.0f} s, longer than there is patience"
            raise self.gave_up()
        self._is_over = was_last
        return left if self._is_over else min(max(again.at_least, self._waits.next()), before_last)

    def gave_up(self) -> GaveUp:
        """No answer in time; or it is known already that there will be none."""
        elapsed = time.monotonic() - self._deadline + self._patience
        reason = self._reason or "no answer"
        return GaveUp(f"given up after {elapsed:.1f} s: {self._server}: {reason}", reason)


class Body:
    """The body of an answer, no more than `limit` bytes of it, and not for longer than until `deadline`."""

    def __init__(self, limit: int, deadline: float = float("inf")) -> None:
        self.content = bytearray()
        self.is_cut = False
        self._limit = limit
        self._deadline = deadline

    @classmethod
    def of_refusal(cls, deadline: float = float("inf")) -> Body:
        """As much of it as a reason may be long."""
        return cls(_MAX_DETAIL, deadline)

    def takes(self, chunk: bytes) -> bool:
        """Take a piece; False when that was enough."""
        self.content += chunk
        if len(self.content) > self._limit:
            self.is_cut = True
        if time.monotonic() > self._deadline:
            raise Again("the answer does not end")
        return not self.is_cut


def publishing(events: Sequence[Outgoing], key: str | None) -> Call[list[str]]:
    """A batch of events. Raises `Malformed` or `Invalid` for what cannot be sent."""
    headers = {"Content-Type": NDJSON, "Idempotency-Key": _key(key)}
    content = b"\n".join([event.envelope() for event in events])
    return Call("POST", headers, 201, lambda body: _many.decode(body).ids, content=content)


def publishing_one(event: Outgoing, key: str | None) -> Call[str]:
    """One event. Raises as `publishing`."""
    headers = {"Content-Type": JSON, "Idempotency-Key": _key(key)}
    return Call("POST", headers, 201, lambda body: _one.decode(body).id, content=event.envelope())


def page_of(
    patterns: Sequence[str],
    types: Iterable[str],
    after: str | None,
    before: str | None,
    since: str | datetime | None,
    last: int | None,
    limit: int | None,
) -> Call[Page]:
    """A page of history."""
    parameters = selected(patterns, types)
    moment = since.astimezone(UTC).isoformat() if isinstance(since, datetime) else since
    named = {"last_event_id": after, "before": before, "since": moment, "last": last, "limit": limit}
    parameters += [(name, str(value)) for name, value in named.items() if value is not None]
    return Call("GET", {"Accept": JSON}, 200, of_page, parameters=httpx.QueryParams(tuple(parameters)))


class Paging:
    """Which page of a history comes next, and when there is none."""

    def __init__(self, after: str | None, before: str | None, since: str | datetime | None, last: int | None) -> None:
        self.after, self.before, self.since, self.last = after, before, since, last
        self.ended = False
        self._was_empty = False

    def turn(self, page: Page) -> None:
        """The page is there: go on after it, or before it. `last` asks for one page only.

        An empty page is not always the end: what is beyond a place where events were lost begins another one.
        """
        is_empty = not page.messages and page.gap is None
        if self.before is not None:
            self.ended = not page.messages
            self.before = page.next
        else:
            self.ended = self.last is not None or (is_empty and (self._was_empty or page.next == self.after))
            self.after, self.since = page.next, None
        self._was_empty = is_empty


def selected(patterns: Sequence[str], types: Iterable[str]) -> list[tuple[str, str]]:
    """What both streams and pages are asked for."""
    # No pattern in the path: httpx would resolve dots there, and ask for something else.
    parameters = [("topic", pattern) for pattern in patterns] + [("type", type) for type in types]
    for name, value in parameters:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Invalid(name, "not encodable as UTF-8") from None
    return parameters


def words(error: httpx.RequestError, silence: str) -> str:
    """What has happened to a connection, and what it is called if nothing came."""
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return no_connection(error)
        case httpx.ReadTimeout():
            return silence
        case httpx.ProxyError():
            status = re.match("[0-9]{3}", str(error))  # for which there is no field
            return f"the proxy refuses with {status[0]}" if status else "cannot connect through the proxy"
        case httpx.NetworkError() | httpx.RemoteProtocolError():
            return "the connection broke"
    return str(error) or type(error).__name__


def no_connection(error: BaseException) -> str:
    """That there is none; and why, where that is for the client's side to mend: a certificate it does not trust."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SSLCertVerificationError):
            return f"cannot connect: the server's certificate is not trusted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return "cannot connect"


def _key(key: str | None) -> str:
    if key is None:
        return secrets.token_urlsafe(18)
    if not 1 <= len(key) <= 255 or not all("!" <= character <= "~" for character in key):
        raise Invalid("key", "is 1 to 255 visible ASCII characters")
    return key


class _One(msgspec.Struct):
    id: str


class _Many(msgspec.Struct):
    ids: list[str]


_one = msgspec.json.Decoder(_One)
_many = msgspec.json.Decoder(_Many)
