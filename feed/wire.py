"""How an event looks on the wire: values in, bytes or text out.

Nothing here reads a clock, a setting or a socket: the output only depends on the input. `feed.event` decides what is
allowed in a topic, type or id: these functions trust that ids and types contain no line break.

The SSE stream is defined by the WHATWG HTML standard, section 9.2 "Server-sent events".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import orjson

from feed.json_rules import ends_lines, spare_readers

_LINE_END = re.compile("\r\n|\n|\r")  # what ends a line in SSE; str.splitlines() knows many more
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)

HEARTBEAT = b":\n"
"""A comment, without a blank line after it: some client libraries make an event of every blank line."""


def moment(milliseconds: int) -> datetime:
    """Return milliseconds since 1970 as a time in UTC."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def milliseconds_of(moment: datetime) -> int:
    """Return an aware time in milliseconds since 1970."""
    return (moment - _EPOCH) // _MILLISECOND


def parse_rfc3339(text: str) -> int | None:
    """Return a time as in RFC 3339 in milliseconds since 1970, None for a text that is not one."""
    try:
        return milliseconds_of(datetime.fromisoformat(text.upper())) if _RFC_3339.fullmatch(text) else None
    except ValueError:
        return None


def rfc3339(milliseconds: int) -> str:
    """Return milliseconds since 1970 as RFC 3339, in UTC, to the millisecond: `2026-11-21T03:05:00.123Z`."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_rfc3339_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=256)  # most events of a moment share their second
def _rfc3339_second(seconds: int) -> str:
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S}"


def sse(id: str | None, type: str, text: str, *, retry: int | None = None) -> bytes:
    """Make an SSE frame. The `type` "message" is left out, as browsers assume it; `retry` is in milliseconds."""
    if "\n" in text or "\r" in text:
        text = _LINE_END.sub("\ndata: ", text)
    head = "" if retry is None else f"retry: {retry}\n"
    if id is not None:
        head += f"id: {id}\n"
    if type != "message":
        head += f"event: {type}\n"
    return f"{head}data: {text}\n\n".encode()


def message(
    id: str, topic: str, type: str, text: str, *, is_json: bool, time_ms: int, resume: str | None = None
) -> bytes:
    """Make the JSON object of an event, for a WebSocket message, an NDJSON line or a page of history.

    Data that was published as JSON goes in as it came, byte for byte; text becomes a JSON string. Topics and types
    cannot contain the characters that `json_text` escapes. `resume` is the id to resume at, where it is not `id`.
    """
    return b'{"id":"%b",%b"topic":%b,"type":%b,"data":%b,"time":"%b"}' % (
        id.encode(),
        b"" if resume is None else b'"resume":"%b",' % resume.encode(),
        orjson.dumps(topic),
        orjson.dumps(type),
        text.encode() if is_json else json_text(text),
        rfc3339(time_ms).encode(),
    )


def envelope(id: str, type: str, message: bytes) -> bytes:
    """Make the SSE frame of an event's JSON object, for `?envelope=1`. It has no name, so that one `onmessage` sees
    every type; but what has a name of the feed's own keeps that."""
    if type.startswith("feed."):
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (id.encode(), type.encode(), message)
    return b"id: %b\ndata: %b\n\n" % (id.encode(), message)


def json_text(text: str) -> bytes:
    """Make a JSON string of a text, which is one line for all readers (`spare_readers`)."""
    return spare_readers(orjson.dumps(text)) if ends_lines(text) else orjson.dumps(text)


def json_object(value: dict[str, str | int]) -> bytes:
    """Make JSON of a flat object, which is one line for all readers."""
    raw = orjson.dumps(value)
    return raw if raw.isascii() else spare_readers(raw)


def control(type: str, text: str, id: str | None) -> bytes:
    """Make the JSON object of a control event. `text` is JSON already."""
    if id is None:
        return b'{"type":"%b","data":%b}' % (type.encode(), text.encode())
    return b'{"type":"%b","id":"%b","data":%b}' % (type.encode(), id.encode(), text.encode())
