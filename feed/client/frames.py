"""The bytes of a stream in, what the server said out. No socket, no clock.

The SSE stream is parsed as in the WHATWG HTML standard, section 9.2. httpx-sse is not used, as its lines have no bound
(an endless line fills the memory) and its parser needs a response; the tests compare this parser with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Literal, cast

import msgspec
import orjson

from feed import control
from feed.client.errors import Again
from feed.control import Gap
from feed.errors import TooLarge
from feed.event import Event, Placed
from feed.pages import Page, TopicInfo, TopicsPage
from feed.terms import DELETED
from feed.wire import milliseconds_of

_ID = re.compile("[!-~]{1,256}")  # what can go back in a header
_SEQ = re.compile("0|[1-9][0-9]{0,17}")
_OWN_EVENTS = frozenset({DELETED})  # types of the feed's own that are events of the log, and not about the stream


class Frame(msgspec.Struct, frozen=True):
    """An SSE frame: the fields that it had. `retry` is in milliseconds."""

    event: str
    data: str | None
    id: str | None
    retry: int | None


class Frames:
    """The frames of one SSE stream. Of an incomplete frame no more than `limit` bytes are kept.

    `comments` counts the comments, which a feed sends as a sign of life.
    """

    def __init__(self, limit: int) -> None:
        self.comments = 0
        self._limit = limit
        self._line: list[bytes] = []  # the pieces of one that has not ended
        self._line_size = 0
        self._at_start = True
        self._after_cr = False
        self._clear()

    def _clear(self) -> None:
        self._event = ""
        self._data: list[bytes] = []
        self._id: str | None = None
        self._retry: int | None = None
        self._fields_size = 0

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Yield the frames that `chunk` completes. Raises `TooLarge`."""
        for piece in chunk.splitlines(keepends=True):  # of bytes: at CR, LF and CRLF alone
            if self._after_cr:
                self._after_cr = False
                if piece == b"\n":
                    continue  # the other half of a CRLF
            self._line_size += len(piece)
            if self._line_size + self._fields_size > self._limit:
                raise TooLarge("an event", self._limit)
            if piece[-1] not in b"\r\n":
                self._line.append(piece)
                continue
            self._after_cr = piece[-1] == b"\r"[0]
            if self._line:
                piece = b"".join([*self._line, piece])
                self._line.clear()
            self._line_size = 0
            if line := piece.rstrip(b"\r\n"):
                self._read(line)
            elif self._fields_size and (frame := self._dispatched()) is not None:
                yield frame

    def _dispatched(self) -> Frame | None:
        data = b"\n".join(self._data).decode(errors="replace") if self._data else None
        frame = Frame(self._event, data, self._id, self._retry)
        self._clear()
        return None if frame.data is None and frame.id is None and frame.retry is None else frame

    def _read(self, line: bytes) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self._retry = int(value)
        else:  # nothing of it is kept
            self.comments += not name  # else it is a field that nobody knows
            return
        self._fields_size += len(line)


class Control(msgspec.Struct, frozen=True):
    """A message about the stream itself, as it was received. `id` is the position, if there is one. `retry` is a field
    of SSE, in milliseconds."""

    type: str
    data: dict[str, Any]
    id: str | None = None
    retry: int | None = None


Received = Event | Placed | Control
"""What comes. A `Placed` event is one in a snapshot, where a client does not resume after the event's own id."""


class _Object(msgspec.Struct):
    type: str
    data: msgspec.Raw
    id: str | None = None
    resume: str | None = None
    topic: str = ""
    time: datetime | None = None


class _Gap(msgspec.Struct):
    requested: str
    resumed_from: str
    reason: str


class _Page(msgspec.Struct):
    events: list[msgspec.Raw]
    next: str
    gap: _Gap | None = None
    live: bool = False
    complete: bool = True


class _Topic(msgspec.Struct):
    topic: str
    last_id: str
    last_time: Annotated[datetime, msgspec.Meta(tz=True)]
    type: str


class _Topics(msgspec.Struct):
    topics: list[_Topic]
    next: str | None


_object = msgspec.json.Decoder(_Object)
_page = msgspec.json.Decoder(_Page)
_topics = msgspec.json.Decoder(_Topics)
_dictionary = msgspec.json.Decoder(dict[str, Any])


def of_frame(frame: Frame) -> Received:
    """Return what a frame of an `?envelope=1` stream says. Where its id is not that of the event, the client resumes
    after the frame's. Raises `Again` for what a feed would not send."""
    if frame.data is None or _is_about_the_stream(frame.event):
        return Control(frame.event, _parsed(frame.data or "{}"), _checked(frame.id), frame.retry)
    found, id = of_object(frame.data), _checked(frame.id)
    return Placed(found, id) if isinstance(found, Event) and id is not None and id != found.id else found


def of_object(text: str | bytes) -> Received:
    """Return what a message of a WebSocket says. Raises `Again` for what a feed would not send, such as bytes."""
    if isinstance(text, bytes):
        raise no_feed()
    try:
        found = _object.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise no_feed() from None
    data = bytes(found.data).decode()
    if _is_about_the_stream(found.type):
        return Control(found.type, _parsed(data), _checked(found.id))
    event, resume = _event(found, data), _checked(found.resume)
    return event if resume is None else Placed(event, resume)


def of_page(body: bytes) -> Page:
    """Return the page of history or of state that an answer holds. Raises `msgspec.DecodeError` and `Again`."""
    page = _page.decode(body)
    events: list[Event] = []
    resumes: list[str | None] = []
    for raw in page.events:
        match of_object(bytes(raw).decode()):
            case Placed(event=event, resume=resume):
                events.append(event)
                resumes.append(resume)
            case Event() as event:
                events.append(event)
                resumes.append(None)
    gap = None if page.gap is None else _gap(page.gap)
    return Page(events, page.next, gap, page.live, resumes if any(resumes) else [], page.complete)


def of_topics(body: bytes) -> TopicsPage:
    """Return the page of topics that an answer holds. Raises `msgspec.DecodeError` and `Again`."""
    page = _topics.decode(body)
    topics = [
        TopicInfo(each.topic, _checked(each.last_id) or "", milliseconds_of(each.last_time), each.type)
        for each in page.topics
    ]
    return TopicsPage(topics, page.next)


def of_gap(received: Control) -> Gap:
    """Return what a `feed.gap` says. Raises `Again`."""
    try:
        return _gap(msgspec.convert(received.data, _Gap))
    except msgspec.ValidationError:
        raise no_feed() from None


def no_feed() -> Again:
    """Make the error for an answer that is not a feed's, such as that of a proxy in front of it. Try again later."""
    return Again("the answer is not from a feed")


def _is_about_the_stream(type: str) -> bool:
    return type.startswith("feed.") and type not in _OWN_EVENTS


def _event(found: _Object, data: str) -> Event:
    epoch, dash, seq = (_checked(found.id) or "").rpartition("-")
    moment = found.time
    if not (dash and found.topic and _SEQ.fullmatch(seq)) or moment is None or moment.tzinfo is None:
        raise no_feed()
    is_json = not data.startswith('"')
    try:
        text = data if is_json else orjson.loads(data)
    except orjson.JSONDecodeError:
        raise no_feed() from None
    return Event(epoch, int(seq), found.topic, found.type, text, is_json, milliseconds_of(moment))


def _gap(found: _Gap) -> Gap:
    return control.gap(found.requested, found.resumed_from, cast("Literal['expired', 'unknown']", found.reason))


def _parsed(data: str) -> dict[str, Any]:
    try:
        return _dictionary.decode(data)
    except (msgspec.DecodeError, RecursionError):
        raise no_feed() from None


def _checked(id: str | None) -> str | None:
    if id is not None and _ID.fullmatch(id) is None:
        raise no_feed()
    return id
