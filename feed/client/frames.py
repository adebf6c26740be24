"""A stream's bytes in, what the server said out. No socket, no clock.

The SSE stream is parsed as the WHATWG HTML standard has it, section 9.2. Not by httpx-sse, whose lines have no bound
(an endless one fills the memory) and whose parser is not to be had apart from a response; the tests hold this one
against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from feed.client.errors import Again
from feed.client.items import Gap, Message, Page
from feed.errors import TooLarge

_ID = re.compile("[!-~]{1,256}")  # what can go back in a header


class Frame(msgspec.Struct, frozen=True):
    """One SSE frame: the fields it had. `retry` is in milliseconds."""

    event: str
    data: str | None
    id: str | None
    retry: int | None


class Frames:
    """The frames of one SSE stream, which keeps no more than `limit` bytes of one that is not complete.

    `comments` is how many comments there were: a feed sends them as a sign of life.
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
        """The frames that `chunk` completes, made as they are asked for. Raises `TooLarge`."""
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
    """What the server says of the stream itself. `id` is the position it stands for, if any; `retry`, in milliseconds,
    a field of SSE."""

    type: str
    data: dict[str, Any]
    id: str | None = None
    retry: int | None = None


Received = Message | Control


class _Object(msgspec.Struct):
    type: str
    data: msgspec.Raw
    id: str | None = None
    topic: str = ""
    time: str = ""


class _Page(msgspec.Struct):
    events: list[msgspec.Raw]
    next: str
    gap: Gap | None = None


_object = msgspec.json.Decoder(_Object)
_page = msgspec.json.Decoder(_Page)
_dictionary = msgspec.json.Decoder(dict[str, Any])


def of_frame(frame: Frame) -> Received:
    """What a frame of an `?envelope=1` stream says. Raises `Again` for what no feed sends."""
    if frame.data is None or frame.event.startswith("feed."):
        return Control(frame.event, _parsed(frame.data or "{}"), _checked(frame.id), frame.retry)
    return of_object(frame.data)


def of_object(text: str | bytes) -> Received:
    """What a message of a WebSocket says. Raises `Again` for what no feed sends, bytes for one."""
    if isinstance(text, bytes):
        raise no_feed()
    try:
        found = _object.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise no_feed() from None
    data = bytes(found.data).decode()
    if found.type.startswith("feed."):
        return Control(found.type, _parsed(data), _checked(found.id))
    if not (found.id and found.topic and found.time):
        raise no_feed()
    return Message(_checked(found.id) or "", found.topic, found.type, found.time, data, text)


def of_page(body: bytes) -> Page:
    """A page of history. Raises `msgspec.DecodeError` and `Again`."""
    page = _page.decode(body)
    messages = [found for raw in page.events if isinstance(found := of_object(bytes(raw).decode()), Message)]
    return Page(messages, page.next, page.gap)


def of_gap(control: Control) -> Gap:
    """What a `feed.gap` says."""
    try:
        return msgspec.convert(control.data, Gap)
    except msgspec.ValidationError:
        raise no_feed() from None


def no_feed() -> Again:
    """It answers, and is something else: what stands in front of a feed for a while, it may be."""
    return Again("what it sends is no feed's")


def _parsed(data: str) -> dict[str, Any]:
    try:
        return _dictionary.decode(data)
    except (msgspec.DecodeError, RecursionError):
        raise no_feed() from None


def _checked(id: str | None) -> str | None:
    if id is not None and _ID.fullmatch(id) is None:
        raise no_feed()
    return id
