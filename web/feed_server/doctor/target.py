"""How the checks ask: one URL, with or without a token, and one topic to publish to.

Whatever is at the other end may be anything: what is read of an answer is bounded, also where it is compressed, each
request has a time, and an answer that does not come is an answer too (`Answer.error`).
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
"""Bytes of an answer that are looked at."""

MAX_PIECES = 1000
"""Events of one stream that are looked at."""

REFUSED = "refused"
"""Why there is nothing on a stream that was answered with another status than 200."""

MAX_STREAM = 4 << 20
"""Bytes of one stream that are looked at."""

ROOM = (
    "raise FEED_MAX_SUBSCRIBERS_PER_ADDRESS (a dozen streams are opened at once) or FEED_MAX_SUBSCRIBERS, or look "
    "again when fewer are there"
)
"""The cure where the feed turns streams away."""

_MOST_OPEN = 1 << 20  # bytes of an event or line that has not ended: more is no stream of a feed
_KEPT = 1024  # characters of an event's data
_UNPACKED = 64 << 10  # bytes that are unpacked at a time: a few may claim to be gigabytes
_CODINGS = "gzip, deflate"  # what browsers take, too, and what is unpacked here


class Answer(NamedTuple):
    """What was answered. `status` is 0 where nothing was, and `error` says why."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    error: str = ""

    def all(self, name: str) -> list[str]:
        """The values of a header, one for each time that it is there."""
        return [value for key, value in self.headers if key == name]

    def one(self, name: str) -> str:
        """The first value of a header, or nothing."""
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
        """The id of the event that was published, or nothing if none was."""
        return str(self.json.get("id", "")) if self.status == 201 and isinstance(self.json, dict) else ""

    @property
    def is_problem(self) -> bool:
        """Whether it is a refusal of the feed's own, and not somebody else's page."""
        return self.one("content-type").startswith("application/problem+json") and isinstance(self.json, dict)

    @property
    def is_busy(self) -> bool:
        """Whether the feed says that it cannot do it now."""
        return self.status == 503 and self.is_problem

    @property
    def detail(self) -> str:
        """What the feed says of a refusal."""
        return str(self.json.get("detail", "")) if self.is_problem else ""

    def __str__(self) -> str:
        if not self.status:
            return f"no answer ({self.error})"
        if self.is_problem:
            return f"{self.status} ({shortened(self.detail)})"
        return f"{self.status} {self.one('content-type').partition(';')[0]}".strip()


def shortened(text: str) -> str:
    """At most so much of what others say."""
    return text if len(text) <= 200 else f"{text[:199]}…"


class Piece(NamedTuple):
    """An event of a stream, or a comment (`event` is then `:`). `at` is when it came, by the clock of the loop."""

    at: float
    event: str
    id: str
    data: str


class Reading:
    """A stream that is being read: what came so far, and when."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.head: Answer | None = None
        self.pieces: list[Piece] = []
        self.end = ""
        """Why there will be no more; empty while there may be."""
        self.ended_at = 0.0
        self._news = asyncio.Event()

    def add(self, piece: Piece) -> None:
        """One more came."""
        self.pieces.append(piece)
        self.tell()

    def tell(self) -> None:
        """Something has changed."""
        self._news.set()

    def finish(self, why: str) -> None:
        """There will be no more."""
        self.end = why
        self.ended_at = time.monotonic()
        self.tell()

    def first(self, event: str) -> Piece | None:
        """The first of this name."""
        return next((piece for piece in self.pieces if piece.event == event), None)

    @property
    def opened(self) -> float | None:
        """Seconds until the stream's first event was there."""
        opening = self.first("feed.open")
        return None if opening is None else opening.at - self.began

    @property
    def turned_away(self) -> str:
        """In which words the feed itself said that it takes on no stream now; nothing if it did not."""
        closing = self.first("feed.closing")
        if closing is not None and self.opened is None:
            return f"feed.closing {closing.data}"
        return str(self.head) if self.head is not None and self.head.is_busy else ""

    async def until(self, condition: Callable[[], object], seconds: float) -> bool:
        """Wait until it holds, the stream ends, or the time is over. Whether it holds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (condition() or self.end):
                    self._news.clear()
                    await self._news.wait()
        return bool(condition())


class Target:
    """A feed to be looked at, and as whom.

    `url` is its base, without a slash at its end. `topic` is the only one that is published to; checks that share it
    tell their events apart by type. `idle` is for how many seconds a quiet stream is watched, `patience` for how many
    each request's answer is waited for; what should come at once is given half of that. Raises `Invalid` for a proxy or
    a file of certificates in the environment that is no good.
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
            trust_env=False,  # what it says is read by us
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
        """Whether it is on this machine."""
        return self.parsed.host in {"localhost", "::1"} or self.parsed.host.startswith("127.")

    @property
    def bearer(self) -> dict[str, str]:
        """The header that bears the token, where there is one."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    def path(self, kind: str = "events", **query: str) -> str:
        """Of the topic, below `/events` or `/ws`."""
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
        """One request, as the one whom the token names, or without it. Redirects are not followed."""
        sent = {**(self.bearer if named else {}), **(headers or {})}
        try:
            async with (
                asyncio.timeout(self.patience * 3),
                self._http.stream(method, self.url + path, headers=sent, content=content) as response,
            ):
                self._http.cookies.clear()  # each request has those that it says it has
                return Answer(response.status_code, _headers(response), await _body(response))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ValueError) as error:
            return Answer(0, error=_why(error))

    async def publish(self, type: str, data: str = "feed doctor was here") -> Answer:
        """One event to the topic."""
        return await self.ask("POST", self.path(type=type), {"Content-Type": "text/plain"}, content=data.encode())

    @contextlib.asynccontextmanager
    async def reading(
        self, path: str, headers: Mapping[str, str] | None = None, *, named: bool = True
    ) -> AsyncIterator[Reading]:
        """A stream that is read for as long as the block lasts. It may not be there yet, nor ever."""
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
    """One that nobody else has."""
    return f"feed-doctor/{secrets.token_hex(6)}"


def type_of_its_own(check: str) -> str:
    """A type that tells a check's own events from others on the topic."""
    return f"doctor-{check}-{secrets.token_hex(3)}"


def _headers(response: httpx.Response) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in response.headers.multi_items()]


async def _unpacked(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body piece by piece, each of a bounded size. Not by httpx, which unpacks all of what came at once, and
    several layers of it. Raises `ValueError` for what was not asked for, or is not what it claims to be."""
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding in {"", "identity"}:
        async for chunk in response.aiter_raw():
            yield chunk
        return
    if coding not in {"gzip", "deflate"}:
        raise ValueError(f"it is packed as {coding!r}, which nobody asked for")
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # either, as its first bytes say
    async for chunk in response.aiter_raw():
        while chunk and not unpacker.eof:
            try:
                yield unpacker.decompress(chunk, _UNPACKED)
            except zlib.error:
                raise ValueError(f"it is not packed as {coding}, though it says so") from None
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
    """Read SSE, or lines of JSON, until it ends. False where that was not to be waited for."""
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
    """Server-Sent Events, as the client reads them. A comment comes after the events of the same bytes."""

    def __init__(self) -> None:
        self._frames = Frames(_MOST_OPEN)

    def pieces(self, chunk: bytes, at: float) -> Iterator[Piece]:
        """Yield what ends within `chunk`. Raises `TooLarge`."""
        comments = self._frames.comments
        for frame in self._frames.feed(chunk):
            yield Piece(at, frame.event or "message", frame.id or "", (frame.data or "")[:_KEPT])
        for _ in range(self._frames.comments - comments):
            yield _comment(at)


class _JsonLines:
    """An event a line, as JSON. A line that is something else counts as a comment."""

    def __init__(self) -> None:
        self._rest = b""

    def pieces(self, chunk: bytes, at: float) -> Iterator[Piece]:
        """Yield what ends within `chunk`. Raises `TooLarge`."""
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
