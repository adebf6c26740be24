"""The other end: a feed's client for Python.

    async with Client("http://127.0.0.1:8000") as client:
        await client.publish("orders/42", {"state": "paid"})
        async for item in client.subscribe("orders/*"):
            ...

It knows the contract, and nothing of the server's code. How long it waits, when it tries again and when it gives up
is decided on this page and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import secrets
from collections.abc import AsyncGenerator, Iterable, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, TypeVar

import httpx
import msgspec
import orjson
from httpx_sse import EventSource, ServerSentEvent

from feed.errors import FeedError, Invalid, Malformed

# In seconds.
PATIENCE = 60.0  # for which a publish is repeated before it is given up
SILENCE = 45.0  # three heartbeats: a stream that says nothing for longer is dead, and opened anew
LONGEST_WAIT = 30.0  # between two tries to open a stream
_FIRST_WAIT = 1.0  # until the server has said when to come back
_LONGEST_PUBLISH_WAIT = 5.0
_FIRST_PUBLISH_WAIT = 0.2
_SHORTEST_WAIT = 0.05
_CONNECT = 10.0
_ANSWER = 30.0  # to a publish, each time it is tried

_AGAIN = frozenset({429, 502, 503, 504})  # statuses that may be another one the next time
_MAX_DETAIL = 64 << 10  # bytes of an answer that are read for the reason of a refusal

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1

_Parameters = dict[str, Sequence[str]]
_A = TypeVar("_A")  # what a publish is answered with

NDJSON = "application/x-ndjson"
JSON = "application/json"
SSE = "text/event-stream"


class Refused(FeedError):
    """The server's answer is final: to repeat the request as it is will not help. `detail` is its own reason."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"refused with {status}: {detail}")
        self.status = status
        self.detail = detail


class GaveUp(FeedError):
    """No answer in time. It is not known whether the events are published: repeat them with the same key."""


class Outgoing(msgspec.Struct, frozen=True):
    """An event to publish. A `str` is text; `bytes` are JSON that goes out as it is; anything else becomes JSON."""

    topic: str
    data: object
    type: str = "message"

    def envelope(self) -> bytes:
        """The JSON object, on one line. Raises `Malformed` for data that is not JSON and cannot become it."""
        return b'{"topic":%b,"type":%b,"data":%b}' % (_encode(self.topic), _encode(self.type), _json(self.data))


class Message(msgspec.Struct, frozen=True):
    """An event as a subscriber receives it. `time` is RFC 3339; `raw` is the data as JSON, as it was published; `line`
    is the whole event as one JSON object."""

    id: str
    topic: str
    type: str
    time: str
    raw: str
    line: str

    @property
    def data(self) -> Any:
        """The data as a Python value."""
        return json.loads(self.raw)

    @property
    def text(self) -> str:
        """The data as text: JSON, unless it was published as text."""
        return str(self.data) if self.raw.startswith('"') else self.raw


class Notice(msgspec.Struct, frozen=True):
    """What the server says of the stream itself: `feed.open`, `feed.gap`, `feed.closing` … `position` is the id a
    resume would name now."""

    type: str
    data: dict[str, Any]
    position: str


class Reconnecting(msgspec.Struct, frozen=True):
    """The stream is broken, for `reason`, and is opened again in `wait` seconds, where it was. Nothing is lost."""

    wait: float
    reason: str


Item = Message | Notice | Reconnecting
"""What a subscription yields."""


class Waits:
    """Waits between tries, in seconds: each about twice the one before, up to a bound, and spread by a quarter, so that
    a crowd that lost its server at one moment does not come back at one moment."""

    def __init__(self, first: float, longest: float) -> None:
        self._longest = longest
        self.begin(first)

    def begin(self, first: float) -> None:
        """All is well: the next wait is the first again."""
        self._next = min(max(first, _SHORTEST_WAIT), self._longest)

    def next(self) -> float:
        """How long to wait now."""
        wait = min(self._next * random.uniform(0.75, 1.25), self._longest)
        self._next = min(self._next * 2, self._longest)
        return wait


class Client:
    """A connection to one server, for the length of an `async with` block.

    `token` says what this client may do, and goes with each request. `patience` and `silence` are in seconds. Raises
    `Invalid` for a URL or token that is none.
    """

    def __init__(
        self, url: str, token: str | None = None, *, patience: float = PATIENCE, silence: float = SILENCE
    ) -> None:
        self.url = checked_url(url)
        self._patience = patience
        self._silence = silence
        headers = {} if checked_token(token) is None else {"Authorization": f"Bearer {token}"}
        if headers and httpx.URL(url).userinfo:
            raise Invalid("url", "holds a password, and there is a token too: only one of them can be sent")
        # Redirects are not followed: a token is for this server alone.
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=httpx.Timeout(_ANSWER, connect=_CONNECT))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    # Publishing.

    async def publish(self, topic: str, data: object, *, type: str = "message", key: str | None = None) -> str:
        """Publish one event, and give its id. What `data` may be is said at `Outgoing`.

        It is repeated until the server answers or `patience` is over, and is there once all the same: `key`, or one
        of its own, makes sure of it. Raises `Refused`, `GaveUp`, and `Malformed` or `Invalid` for what cannot be sent.
        """
        return (await self._post(Outgoing(topic, data, type).envelope(), JSON, key, _one)).id

    async def publish_batch(self, events: Sequence[Outgoing], *, key: str | None = None) -> list[str]:
        """Publish events, all of them or none, in order, and give their ids. Else as `publish`."""
        return (await self._post(b"\n".join([event.envelope() for event in events]), NDJSON, key, _many)).ids

    async def _post(self, body: bytes, media_type: str, key: str | None, answer: msgspec.json.Decoder[_A]) -> _A:
        headers = {"Content-Type": media_type, "Idempotency-Key": _key(key)}
        waits = Waits(_FIRST_PUBLISH_WAIT, _LONGEST_PUBLISH_WAIT)
        reason = "no answer"
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    try:
                        return await self._try_post(body, headers, answer)
                    except _Again as again:
                        reason = again.reason
                        await asyncio.sleep(max(again.at_least, waits.next()))
        except TimeoutError:
            raise GaveUp(f"given up after {self._patience:g} s: {self.url}: {reason}") from None

    async def _try_post(self, body: bytes, headers: dict[str, str], answer: msgspec.json.Decoder[_A]) -> _A:
        try:
            async with self._http.stream("POST", "/events", content=body, headers=headers) as response:
                if response.status_code != HTTPStatus.CREATED:
                    raise await _refusal(response)
                return answer.decode(await response.aread())
        except httpx.RequestError as error:
            raise _Again(_words(error)) from error
        except msgspec.DecodeError:
            raise Refused(201, f"{self.url} is no feed") from None

    # Subscribing.

    async def subscribe(
        self, *patterns: str, types: Iterable[str] = (), after: str | None = None, last: int | None = None
    ) -> AsyncGenerator[Item, None]:
        """What is published to topics that match, in order and without end: each event once, over every broken
        connection and restarted server.

        It begins after the id `after` (`earliest`: with the oldest retained event), or with the newest `last` ones,
        else with what is published from now on. A `Notice` of type `feed.gap` says where events may be missing. Raises
        `Refused` when the server will never take it on.
        """
        parameters = _parameters(patterns, types, after, last)
        waits = Waits(_FIRST_WAIT, LONGEST_WAIT)
        position = ""
        while True:
            at_least, reason = 0.0, "the stream ended"
            try:
                async with contextlib.aclosing(self._frames(parameters, position)) as frames:
                    async for frame in frames:
                        position = frame.id or position
                        if frame.event == "feed.open":
                            waits.begin(_FIRST_WAIT if frame.retry is None else frame.retry / 1000)
                        elif frame.retry is not None:
                            at_least = min(frame.retry / 1000, LONGEST_WAIT)
                        if frame.data:
                            yield _item(frame)
            except _Again as again:
                at_least, reason = again.at_least, again.reason
            wait = max(at_least, waits.next())
            yield Reconnecting(wait, reason)
            await asyncio.sleep(wait)

    async def _frames(self, parameters: _Parameters, position: str) -> AsyncGenerator[ServerSentEvent, None]:
        """The frames of one stream, until it ends. Raises `_Again` for what may be better the next time."""
        headers = {"Accept": SSE, "Cache-Control": "no-store"}
        if position:
            headers["Last-Event-ID"] = position
        timeout = httpx.Timeout(_ANSWER, connect=_CONNECT, read=self._silence)
        try:
            async with self._http.stream(
                "GET", "/events", params=parameters, headers=headers, timeout=timeout
            ) as response:
                if response.status_code != HTTPStatus.OK:
                    raise await _refusal(response)
                if not response.headers.get("content-type", "").startswith(SSE):
                    raise Refused(200, f"{self.url} is no feed")
                async with contextlib.aclosing(EventSource(response).aiter_sse()) as frames:
                    async for frame in frames:
                        yield frame
        except httpx.RequestError as error:
            raise _Again(_words(error)) from error


class _Again(Exception):
    """It did not work, and may the next time, `at_least` so many seconds later."""

    def __init__(self, reason: str, at_least: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.at_least = at_least


def checked_url(url: str) -> str:
    """Where `url` leads, without a password it may hold. Raises `Invalid`."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        parsed = httpx.URL("")
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        if "://" not in url and _leads_somewhere(f"http://{url}"):
            raise Invalid("url", f"{url!r} is not a URL: http:// is missing")
        raise Invalid("url", f"{url!r} is not a URL such as http://127.0.0.1:8000")
    return f"{parsed.scheme}://{parsed.netloc.decode()}{parsed.path}".rstrip("/")


def _leads_somewhere(url: str) -> bool:
    try:
        return bool(httpx.URL(url).host)
    except (httpx.InvalidURL, UnicodeError):
        return False


def checked_token(token: str | None) -> str | None:
    """The token itself. Raises `Invalid`, without repeating it, for one that no header can carry."""
    if token is not None and _TOKEN.fullmatch(token) is None:
        raise Invalid("token", "is not a token: give it alone, without Bearer or line breaks")
    return token


def _parameters(patterns: Sequence[str], types: Iterable[str], after: str | None, last: int | None) -> _Parameters:
    # No pattern in the path: httpx would resolve dots there, and subscribe to something else.
    parameters: _Parameters = {"envelope": "1", "topic": patterns, "type": list(types)}
    if after is not None:
        parameters["last_event_id"] = after
    if last is not None:
        parameters["last"] = str(last)
    return parameters


def _key(key: str | None) -> str:
    if key is None:
        return secrets.token_urlsafe(18)
    if not 1 <= len(key) <= 255 or not all("!" <= character <= "~" for character in key):
        raise Invalid("key", "is 1 to 255 visible ASCII characters")
    return key


def _encode(text: str) -> bytes:
    try:
        return orjson.dumps(text)
    except TypeError:
        raise Malformed("not encodable as UTF-8") from None


def _json(data: object) -> bytes:
    if isinstance(data, str):
        return _encode(data)
    try:
        if not isinstance(data, bytes):
            return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        orjson.loads(data)  # it must be one value, and nothing that would end the envelope around it
    except (TypeError, ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from None
    # Valid, so that line breaks stand only between tokens; each would end the line of a batch.
    return data.replace(b"\r", b" ").replace(b"\n", b" ")


async def _refusal(response: httpx.Response) -> Exception:
    """What an answer other than the hoped-for means: `_Again` or `Refused`."""
    body = b""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _MAX_DETAIL:
            break
    status = response.status_code
    detail = _detail(body) or response.reason_phrase or "no reason given"
    if status in _AGAIN:
        return _Again(f"{status}: {detail}", _retry_after(response))
    return Refused(status, detail)


def _detail(problem: bytes) -> str:
    try:
        document = orjson.loads(problem)
    except orjson.JSONDecodeError:
        return ""
    detail = document.get("detail") if isinstance(document, dict) else None
    return detail if isinstance(detail, str) else ""


def _retry_after(response: httpx.Response) -> float:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 7 else 0.0


def _words(error: httpx.RequestError) -> str:
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return "cannot connect"
        case httpx.ReadTimeout():
            return "it fell silent"
        case httpx.NetworkError() | httpx.RemoteProtocolError():
            return "the connection broke"
    return str(error) or type(error).__name__


class _One(msgspec.Struct):
    id: str


class _Many(msgspec.Struct):
    ids: list[str]


class _Envelope(msgspec.Struct):
    id: str
    topic: str
    type: str
    data: msgspec.Raw
    time: str


_one = msgspec.json.Decoder(_One)
_many = msgspec.json.Decoder(_Many)
_envelope = msgspec.json.Decoder(_Envelope)
_object = msgspec.json.Decoder(dict[str, Any])


def _item(frame: ServerSentEvent) -> Message | Notice:
    try:
        if frame.event.startswith("feed."):
            return Notice(frame.event, _object.decode(frame.data), frame.id)
        event = _envelope.decode(frame.data)
    except (msgspec.DecodeError, RecursionError):
        raise Refused(200, "what it sends is no feed's") from None
    return Message(event.id, event.topic, event.type, event.time, bytes(event.data).decode(), frame.data)
