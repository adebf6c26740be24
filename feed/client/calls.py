"""A call: one request that is repeated until it is answered. What is sent, what an answer means, and how long to wait
before the next attempt. No sockets.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from ssl import SSLCertVerificationError
from typing import Generic, TypeVar
from urllib.parse import quote

import httpx
import msgspec
import orjson

from feed.arguments import check_key
from feed.client.answers import Refusal, is_json, is_own, refusal
from feed.client.errors import Again, GaveUp
from feed.client.frames import no_feed, of_page, of_topics
from feed.client.waits import ANSWER, CONNECT, FIRST_CALL, LONGEST_CALL, Waits
from feed.errors import Invalid, TooLarge
from feed.event import Draft, Event, check_topic, list_of_drafts
from feed.media_types import JSON, NDJSON
from feed.pages import Page, PageRequest, TopicsPage, check_latest
from feed.pattern import select
from feed.terms import ANY, Terms, check_ttl
from feed.units import duration_text
from feed.wire import json_text, rfc3339

MAX_ANSWER = 64 << 20  # bytes of one; the server ends a page of history at 1 MiB and one event
_MAX_DETAIL = 1 << 20  # bytes of an answer that are read for the reason of a refusal
_MOMENT = 0.001  # seconds
_LAST_TRY = 0.05, 0.5  # this share of the patience, at most so many seconds, is kept for one more attempt at its end

A = TypeVar("A")

Parameters = list[tuple[str, str]]
"""Query parameters, in their order."""


class Call(Generic[A]):
    """One request, and what its attempts have come to.

    `path` is below the feed's URL. `status` is that of success, and `read` makes the result of the body. `renewable`:
    the token is asked for again at each attempt, so that a first 401 may be due to one that has just expired.
    """

    def __init__(
        self,
        method: str,
        headers: Mapping[str, str],
        status: int,
        read: Callable[[bytes], A],
        *,
        path: str = "/events",
        parameters: httpx.QueryParams | None = None,
        content: bytes | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.parameters = parameters or httpx.QueryParams()
        self.content = content
        self._status = status
        self._read = read

    def begin(self, server: str, patience: float, *, renewable: bool) -> None:
        """Start the clock."""
        self._server = server
        self._patience = patience
        self._deadline = time.monotonic() + patience
        self._waits = Waits(FIRST_CALL, LONGEST_CALL)
        self._renewable = renewable
        self._reason = ""
        self._is_over = False

    @property
    def timeout(self) -> httpx.Timeout:
        """The timeout of the next attempt. Raises `GaveUp` when there is no time left for one."""
        left = self._deadline - time.monotonic()
        if left <= 0 or self._is_over:
            raise self.gave_up()
        return httpx.Timeout(min(ANSWER, left), connect=min(CONNECT, left))

    def body(self, response: httpx.Response) -> Body:
        """Return what takes the body of an answer."""
        return Body(MAX_ANSWER, self._deadline) if self._is_good(response) else Body.of_refusal(self._deadline)

    def answered(self, response: httpx.Response, body: Body) -> A:
        """Return the result of an answer. Raises `Again`, and a `Refusal` where the answer is final."""
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

    def _refusal(self, response: httpx.Response, body: Body) -> Again | Refusal:
        status, headers, renewable = response.status_code, response.headers, self._renewable
        self._renewable = renewable and not (status == 401 and is_own(status, headers, body))
        return refusal(status, response.reason_phrase, headers, body, renewable=renewable)

    def wait(self, again: Again) -> float:
        """Return how long to wait before the next attempt. The last attempt is made just before the patience is over;
        after that one only the rest of the patience is waited for. Raises `GaveUp` where the server asks for a longer
        wait than that."""
        left = max(0.0, self._deadline - time.monotonic())
        share, most = _LAST_TRY
        before_last = left - min(share * self._patience, most)
        was_last = before_last < _MOMENT
        if self._reason and was_last:
            self._is_over = True  # the last attempt may have failed only because it was short
            return left
        self._reason = again.reason
        if again.at_least > max(before_last, 0.0):
            self._reason += f"; it asks for a wait of {again.at_least:,.0f} s, which is longer than the patience"
            raise self.gave_up()
        self._is_over = was_last
        return left if self._is_over else min(max(again.at_least, self._waits.next()), before_last)

    def gave_up(self) -> GaveUp:
        """Make the error that says that there was no answer in time, or that there will be none."""
        elapsed = time.monotonic() - self._deadline + self._patience
        reason = self._reason or "no answer"
        return GaveUp(f"given up after {elapsed:.1f} s: {self._server}: {reason}", reason)


class Body:
    """The body of an answer: not more than `limit` bytes of it, and not after `deadline`."""

    def __init__(self, limit: int, deadline: float = float("inf")) -> None:
        self.content = bytearray()
        self.is_cut = False
        self._limit = limit
        self._deadline = deadline

    @classmethod
    def of_refusal(cls, deadline: float = float("inf")) -> Body:
        """Make the body of a refusal, which is read for its reason."""
        return cls(_MAX_DETAIL, deadline)

    def takes(self, chunk: bytes) -> bool:
        """Take a piece. Returns False when nothing more is wanted. Raises `Again` after the deadline."""
        self.content += chunk
        if len(self.content) > self._limit:
            self.is_cut = True
        if time.monotonic() > self._deadline:
            raise Again("the answer does not end")
        return not self.is_cut


def publishing(drafts: Iterable[Draft], key: str | None) -> Call[list[str]]:
    """Make the call that publishes a batch. Raises `Invalid` for a bad key or no event at all, `TypeError` for what is
    not a draft."""
    headers = {"Content-Type": NDJSON, "Idempotency-Key": _key(key)}
    content = b"\n".join([_envelope(draft) for draft in list_of_drafts(drafts)])
    if not content:
        raise Invalid("batch", "has no event in it")
    return Call("POST", headers, 201, lambda body: _many.decode(body).ids, content=content)


def publishing_one(draft: Draft, key: str | None) -> Call[str]:
    """Make the call that publishes one event, or deletes the value of a topic. Raises `Invalid` for a bad key."""
    headers = {"Content-Type": JSON, "Idempotency-Key": _key(key)}
    return Call("POST", headers, 201, lambda body: _one.decode(body).id, content=_envelope(draft))


def renewing(topic: str, ttl: float) -> Call[None]:
    """Make the call that renews the lease on the value of a topic. Raises `Invalid` for a bad topic or `ttl`."""
    # In the path, as only there a publish may be without an event. No segment of a topic is of dots alone, which httpx
    # would resolve.
    path = f"/events/{quote(check_topic(topic), safe='/')}"
    parameters = httpx.QueryParams({"ttl": duration_text(check_ttl(ttl) / 1000)})
    return Call("POST", {"Accept": JSON}, 200, _renewed, path=path, parameters=parameters)


def page_of(parameters: Parameters, request: PageRequest) -> Call[Page]:
    """Make the call that reads a page of history or of state."""
    return _reading_page(parameters, request, of_page)


def newest_of(topic: str) -> Call[Event | None]:
    """Make the call that reads the newest event of a topic. Raises `Invalid` for a bad topic."""
    # A page of state that begins anew has no tombstones.
    return _reading_page([("topic", check_topic(topic))], PageRequest(limit=1, latest=True), _first)


def topics_of(parameters: Parameters, after: str, limit: int) -> Call[TopicsPage]:
    """Make the call that reads a page of the topics that match, beyond the name `after`."""
    given = [("list", "topics"), *parameters, ("limit", str(limit))]
    if after:
        given.append(("after_topic", after))
    return Call("GET", {"Accept": JSON}, 200, of_topics, parameters=httpx.QueryParams(tuple(given)))


def _reading_page(parameters: Parameters, request: PageRequest, read: Callable[[bytes], A]) -> Call[A]:
    since = None if request.since is None else rfc3339(request.since)
    named = {
        "after": request.after,
        "before": request.before,
        "since": since,
        "last": request.last,
        "limit": request.limit,
        "latest": 1 if request.latest else None,
    }
    given = [*parameters, *((name, str(value)) for name, value in named.items() if value is not None)]
    return Call("GET", {"Accept": JSON}, 200, read, parameters=httpx.QueryParams(tuple(given)))


def selected(patterns: Iterable[str | Iterable[str]], types: Iterable[str], *, latest: bool = False) -> Parameters:
    """Return the parameters that streams and pages have in common. Raises `Invalid` for a bad pattern or type, and for
    types together with `latest`."""
    selection = select(patterns, types)
    check_latest(latest, {"types": selection.types})
    # No pattern goes into the path: httpx would resolve dots there, and ask for something else.
    return [("topic", pattern) for pattern in selection.patterns] + [("type", name) for name in sorted(selection.types)]


def _envelope(draft: Draft) -> bytes:
    topic, terms = orjson.dumps(draft.topic), b"" if draft.terms is None else _said_of(draft.terms)
    if draft.terms is not None and draft.terms.delete:
        return b'{"topic":%b,"delete":true%b}' % (topic, terms)
    data = draft.text.encode() if draft.is_json else json_text(draft.text)
    return b'{"topic":%b,"type":%b,"data":%b%b}' % (topic, orjson.dumps(draft.type), data, terms)


def _said_of(terms: Terms) -> bytes:
    """Return the fields that say these terms, each behind a comma."""
    fields = {
        "if_match": terms.if_match,
        "if_none_match": ANY if terms.if_none_match else None,
        "ttl": None if terms.ttl is None else duration_text(terms.ttl / 1000),
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return b"," + orjson.dumps(given)[1:-1] if given else b""


def words(error: httpx.RequestError, silence: str) -> str:
    """Say what has happened to a connection. `silence` are the words for a connection on which nothing came."""
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
    """Say that there is no connection, and why, where this side can do something: a certificate that is not trusted."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SSLCertVerificationError):
            return f"cannot connect: the server's certificate is not trusted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return "cannot connect"


def _key(key: str | None) -> str:
    return secrets.token_urlsafe(18) if key is None else check_key(key)


class _One(msgspec.Struct):
    id: str


class _Many(msgspec.Struct):
    ids: list[str]


class _Topic(msgspec.Struct):
    topic: str


_one = msgspec.json.Decoder(_One)
_many = msgspec.json.Decoder(_Many)
_topic = msgspec.json.Decoder(_Topic)


def _renewed(body: bytes) -> None:
    _topic.decode(body)


def _first(body: bytes) -> Event | None:
    return next(iter(of_page(body).events), None)
