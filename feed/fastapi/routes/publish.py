"""Publish over HTTP: turn a request into drafts, and the log's answer into a response."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import ParamSpec, TypeVar

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from feed import Invalid, Malformed
from feed.event import (
    DEFAULT_TYPE,
    Draft,
    check_json_size,
    check_topic,
    check_type,
    json_draft,
    text_draft,
)
from feed.fastapi.auth.grants import Grants
from feed.fastapi.http.json_body import LARGE, SPACE, UNREADABLE, Kind, check_count
from feed.fastapi.http.parameters import Use
from feed.fastapi.http.problems import SAFE, Refused, UnreadProblem
from feed.fastapi.http.request import media_type, path_parameter, query_of
from feed.fastapi.routes import cloudevents
from feed.fastapi.routes.gate import Gate, principal
from feed.fastapi.routes.refusals import publishes_counted
from feed.json_rules import BOM
from feed.log.idempotency import idempotency_key
from feed.media_types import JSON, NDJSON

P = ParamSpec("P")
T = TypeVar("T")


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """One event in JSON. `data` is cut out of the text unchanged, and never decoded."""

    topic: str
    data: msgspec.Raw
    type: str = DEFAULT_TYPE


_BLANKS = re.compile(rb"[ \t\r\n]*")
_STEP = 64 << 10  # bytes

_JSON_HEADER = (b"content-type", JSON.encode())
_envelope = Kind(Envelope, "an event")


@publishes_counted
async def publish_to_topic(gate: Gate, request: Request) -> Response:
    """Answer `POST /events/{topic}`: the body is the data."""
    grants = await gate.publisher(request)
    topic = path_parameter(request, "topic") or ""
    grants.check_publish(topic)
    max_data = gate.feed.options.max_data
    kind = media_type(request)
    if (form := cloudevents.form_of(kind, request.scope["headers"])) is not None:
        return await _publish_cloudevents(gate, request, grants, form, topic)
    is_json = kind == JSON
    # A JSON string may be up to six times as long as the text it stands for.
    limit = min(gate.max_body, 6 * max_data + 2) if is_json else max_data
    # Read the body before other checks: a client that is refused while it still sends may never see why.
    async with gate.bodies.read(request, "data", limit) as body:
        check_topic(topic)
        type_ = _type(gate, request) or DEFAULT_TYPE
        draft = _json(topic, body, type_, max_data) if is_json else text_draft(topic, text_of(body), type_)
        if gate.topics:
            gate.topics.check(draft)
        ids = await _append(gate, request, grants, [draft])
    return Created({"id": ids[0], "topic": topic})


@publishes_counted
async def publish_batch(gate: Gate, request: Request) -> Response:
    """Answer `POST /events`: the body names the topic, for one event or for many."""
    grants = await gate.publisher(request)
    kind = media_type(request)
    if (form := cloudevents.form_of(kind, request.scope["headers"])) is not None:
        return await _publish_cloudevents(gate, request, grants, form, None)
    if kind not in {JSON, NDJSON}:
        raise Refused(
            UnreadProblem(
                415, f"send {JSON} or {NDJSON} here; to publish the body as it is, name a topic: POST /events/TOPIC"
            )
        )
    async with gate.bodies.read(request, "body", gate.max_body) as body:
        query_of(request).check(Use.BATCH, gate.parameters)
        parse = _lines if kind == NDJSON else _batch
        drafts, one = await _in_thread_if_large(body, parse, body, gate.feed.options.max_data)
        grants.check_publish_all({draft.topic: None for draft in drafts})
        gate.count_more(request, grants, len(drafts) - 1)
        if gate.topics:
            place = (lambda _: "") if one else partial(_line_of, body) if kind == NDJSON else "event {}".format
            await _in_thread_if_large(body, gate.topics.check_all, drafts, place)
        ids = await _append(gate, request, grants, drafts, "one" if one else "batch")
    return Created({"id": ids[0], "topic": drafts[0].topic} if one else {"ids": ids})


async def _publish_cloudevents(
    gate: Gate, request: Request, grants: Grants, form: cloudevents.Form, topic: str | None
) -> Response:
    """Publish CloudEvents, on either route. The URL's topic and type win over those of the CloudEvents."""
    max_data = gate.feed.options.max_data
    limit = min(gate.max_body, 6 * max_data + 2) if form == "binary" else gate.max_body
    async with gate.bodies.read(request, "body", limit) as body:
        if topic is None:
            query_of(request).check(Use.BATCH, gate.parameters)
            type_ = None
        else:
            check_topic(topic)
            type_ = _type(gate, request)

        def parse() -> tuple[list[cloudevents.CloudEvent], list[Draft]]:
            events = cloudevents.read(form, body, request.scope["headers"])
            if form != "batch":
                return events, [events[0].draft(topic, type_, max_data)]
            drafts = []
            for place, event in enumerate(events):
                try:
                    drafts.append(event.draft(topic, type_, max_data))
                except (Invalid, Malformed) as error:
                    raise _placed(error, f"event {place}") from None
            return events, drafts

        events, drafts = await _in_thread_if_large(body, parse)
        grants.check_publish_all({draft.topic: None for draft in drafts})
        gate.count_more(request, grants, len(drafts) - 1)
        if gate.topics:
            place = "event {}".format if form == "batch" else lambda _: ""
            await _in_thread_if_large(body, gate.topics.check_all, drafts, place)
        ids = await _append(gate, request, grants, drafts, "cloudevents", cloudevents.key_of(events))
    return Created({"ids": ids} if form == "batch" else {"id": ids[0], "topic": drafts[0].topic})


def _type(gate: Gate, request: Request) -> str | None:
    """Return the event type in the URL, None if there is none. Raises `Invalid`."""
    query = query_of(request)
    query.check(Use.ONE, gate.parameters)
    type_ = query.one("type")
    return None if type_ is None else check_type(type_)


async def _in_thread_if_large(body: bytes, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `do`, in a thread if the body is large, so that the event loop is not held up."""
    return await asyncio.to_thread(do, *args, **kwargs) if len(body) > LARGE else do(*args, **kwargs)


async def _append(
    gate: Gate, request: Request, grants: Grants, drafts: Sequence[Draft], form: str = "one", own_key: str | None = None
) -> list[str]:
    """Append the drafts to the log, and return their ids. `own_key` is used if the request has no `Idempotency-Key`."""
    headers = request.headers.getlist("idempotency-key")
    if len(headers) > 1:
        raise Invalid("Idempotency-Key", "may be given only once")
    name = headers[0].strip(" \t") if headers else own_key
    key = None if name is None else idempotency_key(principal(request, grants), name, drafts, form, "Idempotency-Key")
    return (await gate.feed.append(drafts, key)).ids


def _batch(body: bytes, max_data: int) -> tuple[list[Draft], bool]:
    """Return the drafts of a JSON body, and whether it was one event rather than a list."""
    body = body.removeprefix(BOM)
    if not body.startswith(b"[", _after_blanks(body, 0)):
        return [_draft(_envelope.decode(body), max_data)], True
    drafts = []
    for place, envelope in enumerate(_envelope.decode_all(body)):
        try:
            drafts.append(_draft(envelope, max_data))
        except (Invalid, Malformed) as error:
            raise _placed(error, f"event {place}") from None
    return drafts, False


def _lines(body: bytes, max_data: int) -> tuple[list[Draft], bool]:
    """Return the drafts of an NDJSON body, one event a line. Empty lines are ignored."""
    body = body.removeprefix(BOM)
    drafts: list[Draft] = []
    start = 0
    while (start := _after_blanks(body, start)) < len(body):
        end = body.find(b"\n", start)
        end = len(body) if end < 0 else end
        check_count(len(drafts) + 1)
        try:
            drafts.append(_draft(_envelope.one.decode(body[start:end]), max_data))
        except (Invalid, Malformed) as error:
            raise _placed(error, _line(body, start)) from None
        except UNREADABLE as error:
            raise _envelope.fault(error, body[start:end], _line(body, start)) from None
        start = end
    return drafts, False


def _after_blanks(body: bytes, start: int) -> int:
    """Return the position after the whitespace at `start`. It goes in steps: millions of empty lines take a while, and
    other threads can run only between two calls."""
    while (end := _BLANKS.match(body, start, start + _STEP).end()) == start + _STEP:  # type: ignore[union-attr]
        start = end
    return end


def _line(body: bytes, place: int) -> str:
    count = body.count(b"\n", 0, place)
    return f"line {count + 1}"


def _line_of(body: bytes, event: int) -> str:
    """Name the line of an event in an NDJSON body."""
    body = body.removeprefix(BOM)
    start = 0
    for _ in range(event):
        start = body.index(b"\n", _after_blanks(body, start))
    return _line(body, _after_blanks(body, start))


def _draft(envelope: Envelope, max_data: int) -> Draft:
    return json_draft(envelope.topic, check_json_size(bytes(envelope.data), max_data), envelope.type)


def _json(topic: str, body: bytes, type: str, max_data: int) -> Draft:
    # Space around the value is not part of it, and not published.
    return json_draft(topic, check_json_size(body.removeprefix(BOM).strip(SPACE), max_data), type)


def _placed(error: Invalid | Malformed, place: str) -> Invalid | Malformed:
    return Invalid(place, str(error)) if isinstance(error, Invalid) else Malformed(f"{place}: {error}")


def text_of(body: bytes) -> str:
    """Decode data that is text. Raises `Malformed`."""
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"data: not UTF-8: byte {error.start} is {body[error.start]:#04x}") from None


class Created(Response):
    """The answer to a publish. Its few headers are made by hand, because Starlette takes longer for them than the log
    for the event."""

    def __init__(self, answer: dict[str, object]) -> None:
        self.status_code = 201
        self.background = None
        self.body = orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE)
        self.raw_headers = [
            _JSON_HEADER,
            (b"content-length", b"%d" % len(self.body)),
            *SAFE,
        ]
