"""The requests of the checks: to one URL, with or without a token, and with one topic to publish to.

Anything may be at the other end: what is read of an answer is bounded, also if it is compressed, each request has a
deadline, and the lack of an answer is an answer too (`Answer.error`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import orjson

from feed import TooLarge
from feed.client.environment import proxy_for, tls_context
from feed.client.frames import Frames
from feed.media_types import SSE

REDIRECTS = frozenset({301, 302, 303, 307, 308})

MAX_BODY = 256 << 10
"""Bytes of an answer that are read."""

MAX_PIECES = 1000
"""Events of one stream that are read."""

REFUSED = "refused"
"""Why a stream is empty that was answered with another status than 200."""

MAX_STREAM = 4 << 20
"""Bytes of one stream that are read."""

ROOM = (
    "raise FEED_MAX_SUBSCRIBERS_PER_ADDRESS (the doctor opens a dozen streams at once) or FEED_MAX_SUBSCRIBERS, or try "
    "again when fewer streams are open"
)
"""The cure where the feed turns streams away."""

_MOST_OPEN = 1 << 20  # bytes of an event or line that has not ended: a feed sends no longer ones here
_KEPT = 1024  # characters of an event's data
_UNPACKED = 64 << 10  # bytes that are unpacked at a time: a few bytes may unpack to gigabytes
_CODINGS = "gzip, deflate"  # browsers accept them too, and the doctor can unpack them


class Answer(NamedTuple):
    """An answer. `status` is 0 if none came, and `error` says why."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    error: str = ""

    def all(self, name: str) -> list[str]:
        """Return all values of a header."""
        return [value for key, value in self.headers if key == name]

    def one(self, name: str) -> str:
        """Return the first value of a header, "" without one."""
        return next(iter(self.all(name)), "")

    @property
    def json(self) -> Any:
        """The body, parsed; None if it is not JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None

    @property
    def published(self) -> str:
        """The id of the event that was published, "" if none was."""
        return str(self.json.get("id", "")) if self.status == 201 and isinstance(self.json, dict) else ""

    @property
    def is_problem(self) -> bool:
        """Whether the answer is a refusal by the feed, and not a page of a proxy."""
        return self.one("content-type").startswith("application/problem+json") and isinstance(self.json, dict)

    @property
    def is_busy(self) -> bool:
        """Whether the feed says that it cannot do this now."""
        return self.status == 503 and self.is_problem

    @property
    def detail(self) -> str:
        """The feed's reason for a refusal."""
        return str(self.json.get("detail", "")) if self.is_problem else ""

    def __str__(self) -> str:
        if not self.status:
            return f"no answer ({self.error})"
        if self.is_problem:
            return f"{self.status} ({shortened(self.detail)})"
        return f"{self.status} {self.one('content-type').partition(';')[0]}".strip()


def shortened(text: str) -> str:
    """Shorten a text of others to 200 characters."""
    return text if len(text) <= 200 else f"{text[:199]}…"


class Piece(NamedTuple):
    """An event of a stream, or a comment (`event` is then `:`). `at` is when it came, by the monotonic clock."""

    at: float
    event: str
    id: str
    data: str


class Reading:
    """A stream that is being read: what has come so far, and when."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.head: Answer | None = None
        self.pieces: list[Piece] = []
        self.end = ""
        """Why the stream has ended; "" while it is open."""
        self.ended_at = 0.0
        self._news = asyncio.Event()

    def add(self, piece: Piece) -> None:
        """Add a piece that has come."""
        self.pieces.append(piece)
        self.tell()

    def tell(self) -> None:
        """Wake those who wait for a change."""
        self._news.set()

    def finish(self, why: str) -> None:
        """Note that the stream has ended."""
        self.end = why
        self.ended_at = time.monotonic()
        self.tell()

    def first(self, event: str) -> Piece | None:
        """Return the first event of this name."""
        return next((piece for piece in self.pieces if piece.event == event), None)

    @property
    def opened(self) -> float | None:
        """Seconds until the stream's first event came, None before it."""
        opening = self.first("feed.open")
        return None if opening is None else opening.at - self.began

    @property
    def turned_away(self) -> str:
        """The feed's words if it turned the stream away, "" if not."""
        closing = self.first("feed.closing")
        if closing is not None and self.opened is None:
            return f"feed.closing {closing.data}"
        return str(self.head) if self.head is not None and self.head.is_busy else ""

    async def until(self, condition: Callable[[], object], seconds: float) -> bool:
        """Wait until `condition` holds, the stream ends, or the time is over. Return whether it holds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (condition() or self.end):
                    self._news.clear()
                    await self._news.wait()
        return bool(condition())


class Target:
    """The feed to be checked, and the token to check it with.

    `url` is the base URL, without a slash at its end. Events are published only to `topic`; checks share it, and tell
    their events apart by type. A quiet stream is watched for `idle` seconds. Each answer is waited for `patience`
    seconds, and what should come at once for half of that. Raises `Invalid` for a proxy or a file of certificates in
    the environment that cannot be used.
    """

    def __init__(
        self, url: str, token: str | None, topic: str, origin: str | None, idle: float, *, patience: float = 10.0
    ) -> None:
        self.url = url
        self.parsed = httpx.URL(url)
        self.token = token
        self.topic = topic
        self.origin = origin
        self.idle = idle
        self.patience = patience
        self.moment = patience / 2
        self.proxy = proxy_for(self.parsed)
        self.tls = tls_context(system=True)
        self._http = httpx.AsyncClient(
            verify=self.tls,
            trust_env=False,  # proxies and certificates are read from the environment by `feed.client`
            proxy=self.proxy,
            headers={"Accept-Encoding": _CODINGS},
            timeout=httpx.Timeout(patience),
            limits=httpx.Limits(max_connections=None),
        )

    async def __aenter__(self) -> Target:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @property
    def own_origin(self) -> str:
        """The origin of a page that the feed itself serves, as a browser writes it."""
        return f"{self.parsed.scheme}://{self.parsed.netloc.decode()}"

    @property
    def is_local(self) -> bool:
        """Whether the feed is on this machine."""
        return self.parsed.host in {"localhost", "::1"} or self.parsed.host.startswith("127.")

    @property
    def bearer(self) -> dict[str, str]:
        """The header with the token, if there is one."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    def path(self, kind: str = "events", **query: str) -> str:
        """Return the topic's path below `/events` or `/ws`."""
        text = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        return f"/{kind}/{quote(self.topic)}{'?' if text else ''}{text}"

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        content: bytes | None = None,
        named: bool = True,
    ) -> Answer:
        """Send one request, with the token if `named`. Redirects are not followed."""
        sent = {**(self.bearer if named else {}), **(headers or {})}
        try:
            async with (
                asyncio.timeout(self.patience * 3),
                self._http.stream(method, self.url + path, headers=sent, content=content) as response,
            ):
                self._http.cookies.clear()  # a request has only the cookies in its own headers
                return Answer(response.status_code, _headers(response), await _body(response))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ValueError) as error:
            return Answer(0, error=_why(error))

    async def publish(self, type: str, data: str = "feed doctor was here") -> Answer:
        """Publish one event to the topic."""
        return await self.ask("POST", self.path(type=type), {"Content-Type": "text/plain"}, content=data.encode())

    @contextlib.asynccontextmanager
    async def reading(
        self, path: str, headers: Mapping[str, str] | None = None, *, named: bool = True
    ) -> AsyncIterator[Reading]:
        """Read a stream for as long as the block lasts. The stream may not be open yet, and may never open."""
        reading = Reading()
        sent = {"Accept": SSE, **(self.bearer if named else {}), **(headers or {})}
        task = asyncio.create_task(self._read(reading, path, sent))
        try:
            yield reading
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _read(self, reading: Reading, path: str, headers: Mapping[str, str]) -> None:
        timeout = httpx.Timeout(self.patience, read=None)
        try:
            async with self._http.stream("GET", self.url + path, headers=headers, timeout=timeout) as response:
                reading.head = Answer(response.status_code, _headers(response))
                reading.tell()
                if response.status_code != 200:
                    reading.head = reading.head._replace(body=await _body(response))
                    reading.finish(REFUSED)
                    return
                whole = await _pieces(response, reading)
            reading.finish("it was ended" if whole else "too much came")
        except (httpx.HTTPError, TimeoutError, OSError, ValueError, TooLarge) as error:
            reading.finish(_why(error))


def topic_of_its_own() -> str:
    """Return a topic that nobody else uses."""
    return f"feed-doctor/{secrets.token_hex(6)}"


def type_of_its_own(check: str) -> str:
    """Return a type that tells a check's own events from others on the topic."""
    return f"doctor-{check}-{secrets.token_hex(3)}"


def _headers(response: httpx.Response) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in response.headers.multi_items()]


async def _unpacked(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the body in pieces of bounded size. httpx would unpack all that has come at once, and several layers of it.
    Raises `ValueError` for a coding that was not asked for, and for a body that is not in the coding that it names."""
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding in {"", "identity"}:
        async for chunk in response.aiter_raw():
            yield chunk
        return
    if coding not in {"gzip", "deflate"}:
        raise ValueError(f"it is compressed as {coding!r}, which was not asked for")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either, as its first bytes say
    async for chunk in response.aiter_raw():
        while chunk and not unpacker.eof:
            try:
                yield unpacker.decompress(chunk, _UNPACKED)
            except zlib.error:
                raise ValueError(f"it is not compressed as {coding}, although its header says so") from None
            chunk = unpacker.unconsumed_tail


async def _body(response: httpx.Response) -> bytes:
    body = b""
    async for chunk in _unpacked(response):
        body += chunk
        if len(body) >= MAX_BODY:
            break
    return body[:MAX_BODY]


def _why(error: Exception) -> str:
    if isinstance(error, (TimeoutError, httpx.TimeoutException)):
        return "nothing came in time"
    return shortened(str(error) or type(error).__name__)


async def _pieces(response: httpx.Response, reading: Reading) -> bool:
    """Read SSE, or lines of JSON, until the end. Return False if too much came."""
    is_json = "ndjson" in response.headers.get("content-type", "")
    pieces_of = (_JsonLines() if is_json else _SseFrames()).pieces
    left = MAX_STREAM
    async for chunk in _unpacked(response):
        left -= len(chunk)
        for piece in pieces_of(chunk, time.monotonic()):
            reading.add(piece)
            if len(reading.pieces) >= MAX_PIECES:
                return False
        if left < 0:
            return False
    return True


class _SseFrames:
    """Parses Server-Sent Events, as the client does. A comment comes after the events of the same bytes."""

    def __init__(self) -> None:
        self._frames = Frames(_MOST_OPEN)

    def pieces(self, chunk: bytes, at: float) -> Iterator[Piece]:
        """Yield the events that end within `chunk`. Raises `TooLarge`."""
        comments = self._frames.comments
        for frame in self._frames.feed(chunk):
            yield Piece(at, frame.event or "message", frame.id or "", (frame.data or "")[:_KEPT])
        for _ in range(self._frames.comments - comments):
            yield _comment(at)


class _JsonLines:
    """Parses lines of JSON, an event each. Any other line counts as a comment."""

    def __init__(self) -> None:
        self._rest = b""

    def pieces(self, chunk: bytes, at: float) -> Iterator[Piece]:
        """Yield the events that end within `chunk`. Raises `TooLarge`."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _MOST_OPEN:
            raise TooLarge("a line", _MOST_OPEN)
        for line in lines:
            try:
                event = orjson.loads(line)
            except orjson.JSONDecodeError:
                event = None
            if isinstance(event, dict):
                type, id, data = (str(event.get(name, "")) for name in ("type", "id", "data"))
                yield Piece(at, type, id, data[:_KEPT])
            else:
                yield _comment(at)


def _comment(at: float) -> Piece:
    return Piece(at, ":", "", "")
