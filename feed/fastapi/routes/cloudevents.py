"""CloudEvents 1.0 over HTTP (the CloudEvents HTTP binding and its JSON format): turn a request into drafts.

    a CloudEvent's      becomes
    type                the event's type, unless the URL says `?type=`
    subject             the topic, unless the URL names one
    source and id       together the idempotency key, unless there is an `Idempotency-Key`
    data                the data: JSON where `datacontenttype` says so, else text
    data_base64         the same, decoded; it has to be UTF-8

`time` is not kept: a feed's events have the time of their commit. `source`, `id`, `dataschema` and extensions are not
kept either; to keep them, publish the whole CloudEvent as `application/json`. `source` never names the topic: it is the
URI of where an event comes from, not what the event is about.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Literal
from urllib.parse import unquote_to_bytes

import msgspec

from feed import Invalid, Malformed
from feed.event import Draft, check_json_size, json_draft, text_draft
from feed.fastapi.http.json_body import SPACE, Kind
from feed.fastapi.http.problems import Refused, UnreadProblem
from feed.json_rules import BOM

Form = Literal["binary", "structured", "batch"]

_STRUCTURED = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"
_JSON = re.compile(r"[^/]+/(?:json|[^/]+\+json)", re.ASCII)  # JSON format, 3.1
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_HEADERS = frozenset({b"ce-specversion", b"ce-id", b"ce-source", b"ce-type", b"ce-subject"})


class CloudEvent(msgspec.Struct):
    """A CloudEvent in its JSON format. Other attributes are ignored."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str | None = None
    datacontenttype: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    data_base64: str | None = None

    def check(self) -> None:
        """Raises `Invalid` if this does not follow CloudEvents 1.0."""
        if self.specversion != "1.0":
            raise Invalid("specversion", f"only CloudEvents 1.0 are accepted, not {self.specversion[:20]!r}")
        for name, value in (("id", self.id), ("source", self.source), ("type", self.type)):
            if not value:
                raise Invalid(name, "may not be empty")
        if self.data and self.data_base64 is not None:
            raise Invalid("data", "may not be given together with data_base64")

    def draft(self, topic: str | None, type: str | None, max_data: int) -> Draft:
        """Return the draft to publish. The URL's topic and type, if given, win over the CloudEvent's own.

        Raises `Invalid`, `Malformed` and `TooLarge`.
        """
        self.check()
        topic, type = topic or self.subject, type or self.type
        if topic is None:
            raise Invalid("subject", "is missing: it names the topic, unless the URL does (POST /events/TOPIC)")
        data, is_json = self.content()
        if is_json:
            return json_draft(topic, check_json_size(data.removeprefix(BOM).strip(SPACE), max_data), type)
        try:
            return text_draft(topic, data.decode(), type)
        except UnicodeDecodeError as error:
            place = f"byte {error.start} is {data[error.start]:#04x}"
            raise Malformed(f"data: not UTF-8, and a feed carries only text: {place}") from None

    def content(self) -> tuple[bytes, bool]:
        """Return the data, and whether it is JSON; else it is text. Without data it is an empty text."""
        is_json = self.datacontenttype is None or _is_json(self.datacontenttype)
        if self.data_base64 is not None:
            data = _decoded(self.data_base64)
            return data, is_json and bool(data)
        data = bytes(self.data)
        if data and not is_json and not data.startswith(b'"'):
            raise Invalid("data", f"has to be a string, as datacontenttype is {(self.datacontenttype or '')[:100]!r}")
        return data, bool(data)  # also a string in JSON, which the feed publishes as text


class _Binary(CloudEvent):
    """A CloudEvent in binary mode: the body is the data."""

    body: bytes = b""

    def content(self) -> tuple[bytes, bool]:
        return self.body, bool(self.body) and _is_json(self.datacontenttype or "")


_cloudevent = Kind(CloudEvent, "a CloudEvent")


def form_of(media_type: str, headers: Iterable[tuple[bytes, bytes]]) -> Form | None:
    """Return how a request holds CloudEvents, None if it holds none. Without `ce-specversion` other `ce-` headers are
    ignored. Raises `Refused` for a CloudEvents format other than JSON."""
    if media_type.startswith("application/cloudevents"):
        if media_type == _STRUCTURED:
            return "structured"
        if media_type == _BATCH:
            return "batch"
        detail = f"CloudEvents are accepted as {_STRUCTURED}, as {_BATCH}, or in binary mode"
        raise Refused(UnreadProblem(415, detail))
    # A plain loop: every publish runs it, and a generator would cost a microsecond.
    for name, _ in headers:
        if name == b"ce-specversion":
            return "binary"
    return None


def read(form: Form, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> list[CloudEvent]:
    """Read the events of a request. Raises `Malformed`, and `Invalid`, also for two with the same source and id."""
    if form == "binary":
        return [_binary(body, headers)]
    body = body.removeprefix(BOM)
    events = _cloudevent.decode_all(body) if form == "batch" else [_cloudevent.decode(body)]
    first: dict[tuple[str, str], int] = {}
    for place, event in enumerate(events):
        if (earlier := first.setdefault((event.source, event.id), place)) != place:
            raise Invalid(f"event {place}", f"has the same source and id as event {earlier}")
    return events


def _binary(body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> CloudEvent:
    values: dict[str, str] = {}
    for name, value in headers:
        if name == b"content-type":
            values["datacontenttype"] = value.decode("latin-1")
        elif name in _HEADERS:
            attribute = name[3:].decode()
            if attribute in values:
                raise Invalid(f"ce-{attribute}", "may be given only once")
            values[attribute] = _unescaped(attribute, value)
    for attribute in ("id", "source", "type"):
        if attribute not in values:
            raise Invalid(f"ce-{attribute}", "is missing: every CloudEvent has it")
    return msgspec.convert({**values, "body": body}, _Binary)


def key_of(events: Sequence[CloudEvent]) -> str:
    """Return the idempotency key of these events: a digest of their sources and ids, which may be of any length and
    script. A batch has one key, because it is committed whole."""
    digest = hashlib.sha256()
    for event in events:
        for part in (event.source, event.id):
            encoded = part.encode()
            digest.update(b"%d:" % len(encoded))
            digest.update(encoded)
    return f"cloudevents-{digest.hexdigest()}"


def _is_json(media_type: str) -> bool:
    return _JSON.fullmatch(media_type.partition(";")[0].strip().lower()) is not None


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("data_base64: not Base64 (A to Z, a to z, 0 to 9, + and /, in groups of four)") from None


def _unescaped(name: str, value: bytes) -> str:
    """Return the attribute that a header's value stands for (HTTP binding, 3.1.3.2): remove the quotes, if any, then
    percent-decode once."""
    text = value.strip(b" \t").decode("latin-1")
    if found := _QUOTED.fullmatch(text):
        text = re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL)
    try:
        return unquote_to_bytes(text.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise Malformed(f"ce-{name}: not UTF-8, or not percent-encoded") from None
