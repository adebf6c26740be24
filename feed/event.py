"""Events, and the rules for what they are made of: topic, type, data.

A `Draft` is an event to publish. The log makes an `Event` of it by giving it a place (epoch and seq) and a time. Every
rule about topic, type and data is here and nowhere else, so that HTTP, WebSocket, library and both clients have the
same ones.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any, Self, TypeVar, overload

import msgspec
import orjson

from feed import wire
from feed.arguments import BYTES, check_text
from feed.errors import Invalid, Malformed, TooLarge
from feed.json_rules import BOM, TOO_DEEP, dump_json, is_too_deep, json_fault
from feed.terms import DELETED, Terms
from feed.wire import moment

T = TypeVar("T")

MAX_TOPIC = 256  # bytes of UTF-8
MAX_TYPE = 128  # bytes of UTF-8

DEFAULT_TYPE = "message"
_RESERVED_TYPES = frozenset({"open", "error"})  # an EventSource fires these itself

_PLAIN = re.compile(r"[!-)+-~]+")  # printable ASCII without the asterisk
_FORBIDDEN = frozenset({"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"})  # control, format, surrogate, and every kind of space


class _Kept(cached_property[T]):
    """A `cached_property` without the lock that Python 3.11 takes for it. Two threads may both make the value, which
    does no harm here."""

    @overload
    def __get__(self, event: None, owner: type[Any] | None = None) -> Self: ...

    @overload
    def __get__(self, event: object, owner: type[Any] | None = None) -> T: ...

    def __get__(self, event: object, owner: type[Any] | None = None) -> Self | T:
        if event is None:
            return self
        value = event.__dict__[self.func.__name__] = self.func(event)
        return value


class Event(msgspec.Struct, frozen=True, dict=True):
    """An event of the log, in the library and in the clients. Immutable.

    `data` is the value that was published: of JSON, where `is_json`, else a text. `text` is the same as a text: the
    JSON as it was published, byte for byte, or the text. `time` is the moment of the commit, `time_ms` the same in
    milliseconds since 1970. `id` is the epoch, the name that the log had at the commit, and `seq`, the event's place
    in the log (1, 2, 3 …).

    Each wire format is made at its first use and kept, so that it is made once for all subscribers.
    """

    epoch: str
    seq: int
    topic: str
    type: str
    text: str
    is_json: bool
    time_ms: int

    @_Kept
    def id(self) -> str:
        """The event's name, unique in its log. A reader that has seen the event resumes after this id."""
        return f"{self.epoch}-{self.seq}"

    @_Kept
    def sse(self) -> bytes:
        """The SSE frame."""
        return wire.sse(self.id, self.type, self.text)

    @_Kept
    def message(self) -> bytes:
        """The JSON object, as a WebSocket's message."""
        return wire.message(self.id, self.topic, self.type, self.text, is_json=self.is_json, time_ms=self.time_ms)

    @_Kept
    def line(self) -> bytes:
        """The JSON object as a line of NDJSON."""
        return self.message + b"\n"

    @_Kept
    def envelope(self) -> bytes:
        """The JSON object inside an SSE frame, for `?envelope=1`."""
        return wire.envelope(self.id, self.type, self.message)

    def forget_wire_formats(self) -> None:
        """Free the memory of the wire formats. They are made again at their next use."""
        self.__dict__.clear()

    @property
    def data(self) -> Any:
        """The data as a Python value, parsed at each use: JSON's value, or the text itself."""
        return json.loads(self.text) if self.is_json else self.text

    @property
    def time(self) -> datetime:
        """The moment of the commit, in UTC."""
        return moment(self.time_ms)

    @property
    def size(self) -> int:
        """What the event counts for in queues, windows and retention: roughly its bytes in memory and on disk."""
        return event_size(self.topic, self.type, self.text)


class Placed(msgspec.Struct, frozen=True):
    """An event in a snapshot. A client resumes there after the id `resume`, which is not the event's own (see
    `feed.latest`). It has the wire formats of an `Event`; as no other reader is at the same place, none is kept."""

    event: Event
    resume: str

    @property
    def sse(self) -> bytes:
        """The SSE frame, whose id is that to resume at."""
        return wire.sse(self.resume, self.event.type, self.event.text)

    @property
    def message(self) -> bytes:
        """The JSON object, with both ids."""
        event = self.event
        return wire.message(
            event.id,
            event.topic,
            event.type,
            event.text,
            is_json=event.is_json,
            time_ms=event.time_ms,
            resume=self.resume,
        )

    @property
    def line(self) -> bytes:
        """The JSON object as a line of NDJSON."""
        return self.message + b"\n"

    @property
    def envelope(self) -> bytes:
        """The JSON object inside an SSE frame."""
        return wire.envelope(self.resume, self.event.type, self.message)


class Draft(msgspec.Struct, frozen=True):
    """An event to publish, which has no place in the log yet. `draft` makes one, and checks it.

    `text` is the data as a text: JSON where `is_json`. `data_bytes` is its length in UTF-8. `terms` are what it asks of
    its topic, None if it asks nothing.
    """

    topic: str
    type: str
    text: str
    is_json: bool
    data_bytes: int
    terms: Terms | None = None


def event_size(topic: str, type: str, data: str) -> int:
    """Return roughly the bytes of an event. Characters stand in for bytes, which is exact for ASCII and never more than
    four times off. 64 is for the rest."""
    return len(topic) + len(type) + len(data) + 64


def size_of(events: Iterable[Event]) -> int:
    """Return the sum of the sizes of events. In one place, as it is needed for every event several times."""
    size = 0
    for event in events:
        size += len(event.topic) + len(event.type) + len(event.text) + 64
    return size


def text_draft(topic: str, data: str, type: str = DEFAULT_TYPE) -> Draft:
    """Make a draft whose data is a text, kept as it is.

    Raises `Invalid` for the topic or type, `Malformed` for a text that cannot be UTF-8 (a lone surrogate).
    """
    try:
        data_bytes = len(data) if data.isascii() else len(data.encode())
    except UnicodeEncodeError as error:
        raise Malformed(f"data: cannot be encoded as UTF-8: a lone surrogate at character {error.start}") from None
    return Draft(check_topic(topic), check_type(type), data, False, data_bytes)


def json_draft(topic: str, raw: bytes, type: str = DEFAULT_TYPE) -> Draft:
    """Make a draft from JSON in bytes. A JSON string is a text; any other value is kept as it came.

    Raises `Malformed` for bytes that are not JSON, or are nested too deeply; `Invalid` for the topic or type.
    """
    value = parse_json(raw, "data")
    if isinstance(value, str):
        return text_draft(topic, value, type)
    check_depth(raw, "data")
    # A raw CR or LF can only stand between tokens here: inside a JSON string it would have been an error.
    raw = raw.strip(b" \t\r\n").replace(b"\r", b" ").replace(b"\n", b" ")
    return Draft(check_topic(topic), check_type(type), raw.decode(), True, len(raw))


def value_draft(topic: str, data: object, type: str = DEFAULT_TYPE) -> Draft:
    """Make an event to publish, for `publish_batch`. Its topic, type and data are checked here.

    A `str` is a text, and `bytes` (or `bytearray`, `memoryview`) are one JSON value that is published as it is.
    Anything else becomes JSON: dicts, lists, numbers, None, and also pydantic models, dataclasses, msgspec structs,
    dates and times (ISO 8601), timedelta (seconds), UUID, Enum (its value), Decimal (as a text), sets, paths and IP
    addresses.

    Raises `Invalid` for the topic or type, `Malformed` for data that JSON has no form for, `TypeError` for a topic or
    type that is not a text.
    """
    try:
        if isinstance(data, str):
            return text_draft(topic, str.__str__(data), type)  # a subclass, as an Enum, may format itself otherwise
        if isinstance(data, BYTES):
            return json_draft(topic, bytes(data).removeprefix(BOM), type)
        return json_draft(topic, _dumped(data), type)
    except TypeError:
        # A list, for example, never comes to the rules, as no cache can have it for a key.
        check_text(topic, "topic")
        check_text(type, "type")
        raise


def deletion(topic: str, terms: Terms | None = None) -> Draft:
    """Make a draft that deletes the value of a topic, on these terms. Raises `Invalid` for the topic."""
    return on_terms(tombstone(check_topic(topic)), terms or Terms(delete=True))


def tombstone(topic: str) -> Draft:
    """Make the event that ends the value of a topic, on no terms."""
    return Draft(topic, DELETED, "{}", True, 2)


def on_terms(draft: Draft, terms: Terms | None) -> Draft:
    """Return the draft on these terms."""
    return draft if terms is None else msgspec.structs.replace(draft, terms=terms)


def _dumped(data: object) -> bytes:
    try:
        return dump_json(data)
    except ValueError as error:
        raise Malformed(f"data: cannot be published as JSON: {error}") from error.__cause__


def list_of_drafts(drafts: Iterable[Draft]) -> list[Draft]:
    """Return the drafts of a batch. Raises `TypeError` for what is not an iterable of drafts."""
    if isinstance(drafts, Draft):
        raise TypeError("a batch is made of drafts, in a list, and this is a single one: write […] around it")
    if not isinstance(drafts, Iterable):
        raise TypeError(f"a batch is made of drafts, in a list such as [draft(topic, data)], not {_name(drafts)}")
    drafts = list(drafts)
    for draft in drafts:
        if not isinstance(draft, Draft):
            raise TypeError(f"a batch is made of drafts, such as draft(topic, data), not of {_name(draft)}")
    return drafts


def _name(value: object) -> str:
    return type(value).__name__


def parse_json(raw: bytes, what: str) -> Any:
    """Return the parsed value, only to look at: what is published is the bytes. Raises `Malformed`.

    orjson is the judge, as it refuses what would break a stream later: invalid UTF-8 and lone surrogate escapes.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Malformed(f"{what}: not JSON: {json_fault(raw)}") from None


def check_json_size(raw: bytes, max_data: int) -> bytes:
    """Return the JSON itself, or raise `TooLarge`, before anything looks into it. A JSON string may be six times as
    long as its text."""
    if len(raw) > (6 * max_data + 2 if raw.startswith(b'"') else max_data):
        raise TooLarge("data", max_data)
    return raw


def check_depth(raw: bytes, what: str) -> None:
    """Raise `Malformed` if valid JSON is nested deeper than `MAX_DEPTH`."""
    if is_too_deep(raw):
        raise Malformed(f"{what}: {TOO_DEEP}")


@lru_cache(maxsize=4096)
def check_topic(topic: str) -> str:
    """Return the topic itself, or raise `Invalid`, and `TypeError` for what is not a text."""
    _check_segments(topic, "topic")
    if "*" in topic:
        raise Invalid("topic", "may not contain '*': only the pattern of a subscription may")
    return topic


@lru_cache(maxsize=4096)
def check_pattern(pattern: str) -> str:
    """Return the pattern itself, or raise `Invalid`, and `TypeError` for what is not a text. A segment may be `*`, the
    last one `**`."""
    _check_segments(pattern, "pattern")
    *parents, last = pattern.split("/")
    for segment in [*parents, "*" if last == "**" else last]:
        if "*" in segment and segment != "*":
            raise Invalid("pattern", "'*' may only be a whole segment, and '**' only the last one: orders/*, orders/**")
    return pattern


@lru_cache(maxsize=1024)
def check_type(type: str) -> str:
    """Return the type itself, or raise `Invalid`, and `TypeError` for what is not a text."""
    _check_characters(type, "type", MAX_TYPE)
    if "/" in type or "*" in type:
        raise Invalid("type", "may not contain '/' or '*'")
    if type.startswith("feed.") or type in _RESERVED_TYPES:
        raise Invalid("type", "'open', 'error' and names that begin with 'feed.' are reserved")
    return type


def _check_segments(path: str, what: str) -> None:
    _check_characters(path, what, MAX_TOPIC)
    if path.startswith("$"):
        raise Invalid(what, "may not begin with '$', which is reserved")
    for segment in path.split("/"):
        if segment in {"", ".", ".."}:
            raise Invalid(what, f"a segment may not be {'empty' if not segment else repr(segment)}")


def _check_characters(value: str, what: str, limit: int) -> None:
    check_text(value, what)
    if not value:
        raise Invalid(what, "may not be empty")
    if len(value) > limit:
        raise Invalid(what, f"may be {limit} bytes long at most")
    if _PLAIN.fullmatch(value):
        return
    for character in value:
        if unicodedata.category(character) in _FORBIDDEN:
            raise Invalid(what, f"may not contain the character U+{ord(character):04X} (a space or control character)")
    if len(value.encode()) > limit:
        raise Invalid(what, f"may be {limit} bytes long at most")
