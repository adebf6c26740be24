"""The nouns: what a client publishes, and what it gets."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import orjson

from feed.errors import Malformed
from feed.json_rules import BOM, dump_json, json_fault


class Outgoing(msgspec.Struct, frozen=True):
    """An event to publish. A `str` is text; `bytes` are JSON that goes out as it is; anything else becomes JSON."""

    topic: str
    data: object
    type: str = "message"

    def envelope(self) -> bytes:
        """The JSON object, on one line. Raises `Malformed` for data that is not JSON and cannot become it."""
        return b'{"topic":%b,"type":%b,"data":%b}' % (_encode(self.topic), _encode(self.type), _json(self.data))


class Message(msgspec.Struct, frozen=True):
    """An event as it was received. `time` is RFC 3339; `raw` is the data as JSON, as it was published; `line` is the
    whole event as one JSON object."""

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


class Gap(msgspec.Struct, frozen=True):
    """Events may be missing between `requested` and `resumed_from`: load afresh what you made of the events.

    `reason` is `expired`: the event after `requested` is retained no longer; or `unknown`: that is no id of this log.
    """

    requested: str
    resumed_from: str
    reason: str


class Notice(msgspec.Struct, frozen=True):
    """What the server says of the stream itself: `feed.open`, `feed.live`, `feed.position`, `feed.closing`."""

    type: str
    data: dict[str, Any]


class Reconnecting(msgspec.Struct, frozen=True):
    """The stream is broken, for `reason`, and is opened again in `wait` seconds, where it was. Nothing is lost."""

    wait: float
    reason: str


Item = Message | Gap | Notice | Reconnecting
"""What a subscription yields."""


class Page(msgspec.Struct, frozen=True):
    """A page of history, oldest first. `next` is where the next page begins, also when this one is empty; `gap` says
    that events before it are gone."""

    messages: list[Message]
    next: str
    gap: Gap | None = None


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
            return dump_json(data)
    except ValueError as error:
        raise Malformed(f"not JSON: {error}") from None
    data = data.removeprefix(BOM)
    try:
        orjson.loads(data)  # it must be one value, and nothing that would end the envelope around it
    except orjson.JSONDecodeError:
        raise Malformed(f"not JSON: {json_fault(data)}") from None
    # Valid, so that line breaks stand only between tokens; each would end the line of a batch.
    return data.replace(b"\r", b" ").replace(b"\n", b" ")
