"""Publish over HTTP: turn a request into drafts, and the log's answer into a response."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, ParamSpec, Protocol, TypeVar

import msgspec
import orjson
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from feed import Invalid, Malformed
from feed.event import (
    DEFAULT_TYPE,
    Draft,
    check_json_size,
    check_topic,
    check_type,
    deletion,
    json_draft,
    on_terms,
    text_draft,
)
from feed.fastapi.auth.grants import Grants
from feed.fastapi.auth.origins import Headers
from feed.fastapi.http.json_body import LARGE, SPACE, UNREADABLE, Kind, check_count
from feed.fastapi.http.parameters import Use
from feed.fastapi.http.problems import SAFE, Refused, UnreadProblem
from feed.fastapi.http.request import Query, address, header_values, media_type, path_parameter, query_of
from feed.fastapi.routes import cloudevents
from feed.fastapi.routes.gate import Gate, principal
from feed.fastapi.routes.refusals import publishes_counted
from feed.fastapi.routes.terms import check_no_terms, commit, terms_in_head
from feed.json_rules import BOM
from feed.log.contract import Appended
from feed.log.idempotency import IdempotencyKey, idempotency_key
from feed.media_types import JSON, NDJSON
from feed.terms import Terms, terms_of

DataForm = Literal["text", "json"]
BodyForm = DataForm | cloudevents.Form
"""What the body of a publish is: the data of an event, or CloudEvents."""

P = ParamSpec("P")
T = TypeVar("T")


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """One event in JSON. `data` is cut out of the text unchanged, and never decoded. With `delete` there is none, and
    the topic is deleted. The conditions and `ttl`, seconds or a text such as `30s`, are those of `Terms`."""

    topic: str
    data: msgspec.Raw = msgspec.Raw(b"")
    type: str = DEFAULT_TYPE
    delete: bool = False
    if_match: str | None = None
    if_none_match: str | None = None
    ttl: float | str | None = None


_BLANKS = re.compile(rb"[ \t\r\n]*")
_STEP = 64 << 10  # bytes

KEY = b"idempotency-key"

_topic_json = lru_cache(maxsize=4096)(orjson.dumps)  # of topics, which are short

_JSON_HEADER = (b"content-type", JSON.encode())
_envelope = Kind(Envelope, "an event")


@publishes_counted
async def publish_to_topic(gate: Gate, request: Request) -> Response:
    """Answer `POST /events/{topic}`: the body is the data."""
    grants = await gate.publisher(request)
    topic = granted_topic(request, grants)
    form = form_of(request)
    if form != "text" and form != "json":
        return await _publish_cloudevents(gate, request, grants, form, topic)
    # Read the body before other checks: a client that is refused while it still sends may never see why.
    async with gate.bodies.read(request, "data", body_limit(gate, form)) as body:
        if not body and is_renewal(query_of(request)):
            return await _renew(gate, request, topic)
        draft = event_of(gate, request, topic, form).draft(gate, body)
        key = key_of(header_values(request.scope, KEY), principal(grants, address(request)), [draft])
        appended = await commit(gate, grants, [draft], key)
    return Created(created_body(appended, topic))


async def _renew(gate: Gate, request: Request, topic: str) -> Response:
    """Answer a publish without a body that bears `ttl`: the value that is there runs out later."""
    query_of(request).check(Use.ONE, gate.parameters)
    terms = terms_in_head(request)
    if terms is None or terms.ttl is None or terms.if_match or terms.if_none_match:
        raise Invalid("ttl", "without a body renews the lease of what is there: that takes no condition")
    await gate.feed.renew(topic, ttl=terms.ttl / 1000)
    return Created(b'{"topic":%b}\n' % _topic_json(topic), 200)


@publishes_counted
async def delete_topic(gate: Gate, request: Request) -> Response:
    """Answer `DELETE /events/{topic}`: its value is deleted. What is deleted already stays as it is."""
    grants = await gate.publisher(request)
    topic = check_topic(granted_topic(request, grants))
    query_of(request).check(Use.DELETE, gate.parameters)
    draft = deletion(topic, terms_in_head(request, delete=True))
    key = key_of(header_values(request.scope, KEY), principal(grants, address(request)), [draft])
    return Created(created_body(await commit(gate, grants, [draft], key), topic), 200)


class EventHead(msgspec.Struct, frozen=True):
    """What the head of `POST /events/{topic}` says of the event whose data is the body."""

    topic: str
    type: str
    form: DataForm
    terms: Terms | None = None

    def draft(self, gate: Gate, body: bytes) -> Draft:
        """Return the event with this body. Raises `Malformed` and `TooLarge`, and `Mismatch` where a typed topic does
        not take it."""
        if self.form == "json":
            draft = _json(self.topic, body, self.type, gate.feed.options.max_data)
        else:
            draft = text_draft(self.topic, text_of(body), self.type)
        if gate.topics.are_checked:
            gate.topics.check(draft)
        return on_terms(draft, self.terms)


def is_renewal(query: Query) -> bool:
    """Return whether a publish that has no body renews a lease, and publishes nothing."""
    return query.one("ttl") is not None and query.one("type") is None


def granted_topic(connection: HTTPConnection, grants: Grants) -> str:
    """Return the topic in the path. Raises `Unauthenticated` or `Forbidden` if these grants do not allow to publish
    there, and `Invalid` if the path is not UTF-8."""
    topic = path_parameter(connection, "topic") or ""
    grants.check_publish(topic)
    return topic


def form_of(connection: HTTPConnection) -> BodyForm:
    """Return what the body of `POST /events/{topic}` is. Raises `Refused` for a media type that is not accepted."""
    kind = media_type(connection)
    return cloudevents.form_of(kind, connection.scope["headers"]) or ("json" if kind == JSON else "text")


def body_limit(gate: Gate, form: DataForm) -> int:
    """Return the most bytes that a body of one event may have."""
    max_data = gate.feed.options.max_data
    # A JSON string may be up to six times as long as the text it stands for.
    return min(gate.max_body, 6 * max_data + 2) if form == "json" else max_data


def event_of(gate: Gate, connection: HTTPConnection, topic: str, form: DataForm) -> EventHead:
    """Return what the URL says of the event. Raises `Invalid` for the topic, the type, or another parameter."""
    return EventHead(check_topic(topic), _type(gate, connection) or DEFAULT_TYPE, form, terms_in_head(connection))


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
        check_no_terms(request)
        parse = _lines if kind == NDJSON else _batch
        drafts, one = await _in_thread_if_large(body, parse, body, gate.feed.options.max_data)
        grants.check_publish_all({draft.topic: None for draft in drafts})
        gate.count_more(request, grants, len(drafts) - 1)
        if gate.topics.are_checked:
            place = (lambda _: "") if one else partial(_line_of, body) if kind == NDJSON else "event {}".format
            await _in_thread_if_large(body, gate.topics.check_all, drafts, place)
        owner = principal(grants, address(request))
        key = key_of(header_values(request.scope, KEY), owner, drafts, "one" if one else "batch")
        appended = await commit(gate, grants, drafts, key)
    return Created(created_body(appended, drafts[0].topic if one else None))


async def _publish_cloudevents(
    gate: Gate, request: Request, grants: Grants, form: cloudevents.Form, topic: str | None
) -> Response:
    """Publish CloudEvents, on either route. The URL's topic and type win over those of the CloudEvents."""
    max_data = gate.feed.options.max_data
    limit = min(gate.max_body, 6 * max_data + 2) if form == "binary" else gate.max_body
    async with gate.bodies.read(request, "body", limit) as body:
        if topic is None:
            query_of(request).check(Use.BATCH, gate.parameters)
            check_no_terms(request)
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
        if topic is not None and (terms := terms_in_head(request)) is not None:
            if form == "batch":
                check_no_terms(request)
            drafts = [on_terms(draft, terms) for draft in drafts]
        grants.check_publish_all({draft.topic: None for draft in drafts})
        gate.count_more(request, grants, len(drafts) - 1)
        if gate.topics.are_checked:
            place = "event {}".format if form == "batch" else lambda _: ""
            await _in_thread_if_large(body, gate.topics.check_all, drafts, place)
        owner = principal(grants, address(request))
        key = key_of(header_values(request.scope, KEY), owner, drafts, "cloudevents", cloudevents.key_of(events))
        appended = await commit(gate, grants, drafts, key)
    return Created(created_body(appended, None if form == "batch" else drafts[0].topic))


def _type(gate: Gate, connection: HTTPConnection) -> str | None:
    """Return the event type in the URL, None if there is none. Raises `Invalid`."""
    query = query_of(connection)
    query.check(Use.ONE, gate.parameters)
    type_ = query.one("type")
    return None if type_ is None else check_type(type_)


async def _in_thread_if_large(body: bytes, do: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `do`, in a thread if the body is large, so that the event loop is not held up."""
    return await asyncio.to_thread(do, *args, **kwargs) if len(body) > LARGE else do(*args, **kwargs)


def key_of(
    names: Sequence[str], owner: str, drafts: Sequence[Draft], form: str = "one", own_name: str | None = None
) -> IdempotencyKey | None:
    """Return the key of a request that publishes these drafts, None if it has none. `names` are the values of
    `Idempotency-Key`; `own_name` is used if there are none. Raises `Invalid` for two of them, and what
    `idempotency_key` raises."""
    if len(names) > 1:
        raise Invalid("Idempotency-Key", "may be given only once")
    name = names[0] if names else own_name
    return None if name is None else idempotency_key(owner, name, drafts, form, "Idempotency-Key")


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
    return draft_of(envelope.topic, envelope, max_data, _envelope)


class Fields(Protocol):
    """What a message says of an event besides its topic: see `Envelope`."""

    data: msgspec.Raw
    type: str
    delete: bool
    if_match: str | None
    if_none_match: str | None
    ttl: float | str | None


def draft_of(topic: str, fields: Fields, max_data: int, kind: Kind[Any]) -> Draft:
    """Return the event that a message asks for. Raises `Invalid`, `Malformed` and `TooLarge`."""
    terms = None
    if fields.if_match is not None or fields.if_none_match is not None or fields.ttl is not None:
        terms = terms_of(fields.if_match, fields.if_none_match, fields.ttl, delete=fields.delete)
    raw = bytes(fields.data)
    if fields.delete:
        if raw or fields.type != DEFAULT_TYPE:
            raise Invalid("delete", "ends the value of the topic: data and type cannot be given with it")
        return deletion(topic, terms)
    if not raw:
        raise Invalid("data", f"is missing: {kind.has}")
    return on_terms(json_draft(topic, check_json_size(raw, max_data), fields.type), terms)


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


def created_body(appended: Appended, topic: str | None) -> bytes:
    """Return the body of the answer to a publish: of one event to `topic`, or of a batch where this is None."""
    if topic is None:
        return orjson.dumps({"ids": appended.ids}, option=orjson.OPT_APPEND_NEWLINE)
    return b'{"id":"%b-%d","topic":%b}\n' % (appended.epoch.encode(), appended.first, _topic_json(topic))


def created_headers(length: bytes) -> Headers:
    """Return the headers of the answer to a publish, whose body has this many bytes, in decimal."""
    return [_JSON_HEADER, (b"content-length", length), *SAFE]


class Created(Response):
    """The answer to a publish. Its few headers are made by hand, because Starlette takes longer for them than the log
    for the event."""

    def __init__(self, body: bytes, status: int = 201) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.raw_headers = created_headers(b"%d" % len(body))
