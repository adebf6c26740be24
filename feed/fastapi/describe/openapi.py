"""What `/docs` says of the feed's routes, by hand: they read requests and write streams that FastAPI does not see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from feed.control import Reason


def _parameter(name: str, where: str, description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "description": description,
        "schema": schema or {"type": "string"},
    }


def _problems(**details: str) -> dict[str, Any]:
    return {
        name.removeprefix("status_"): _problem(name.removeprefix("status_"), text) for name, text in details.items()
    }


def _problem(status: str, description: str) -> dict[str, Any]:
    problem = {"description": description, "content": {"application/problem+json": {"schema": _PROBLEM}}}
    return {**problem, "headers": _PROBLEM_HEADERS[status]} if status in _PROBLEM_HEADERS else problem


def _list(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def _number(most: int, least: int = 1) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "A problem document, RFC 9457.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "Of data that is not what its topic is for: what is wrong, and where.",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}

_RETRY_AFTER = {
    "Retry-After": {
        "required": True,
        "description": "Seconds.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    }
}
_PROBLEM_HEADERS: dict[str, Any] = {
    "401": {"WWW-Authenticate": {"required": True, "schema": {"type": "string", "pattern": "^Bearer"}}},
    "429": _RETRY_AFTER,
    "503": _RETRY_AFTER,
}

# The rules for these are too long for a regular expression: see `feed.event`.
_TOPIC: dict[str, Any] = {"type": "string", "example": "orders/42"}
_PATTERN: dict[str, Any] = {"type": "string", "example": "orders/*"}
_TYPE: dict[str, Any] = {"type": "string"}

_ENVELOPE: dict[str, Any] = {
    "type": "object",
    "required": ["topic", "data"],
    "additionalProperties": False,
    "properties": {
        "topic": _TOPIC,
        "data": {"description": "Any JSON value. A string is published as text."},
        "type": {**_TYPE, "default": "message"},
    },
}

_EVENT: dict[str, Any] = {
    "type": "object",
    "required": ["id", "topic", "type", "data", "time"],
    "properties": {
        "id": {"type": "string", "example": "k3f9a2xm-184467"},
        "topic": {"type": "string"},
        "type": {"type": "string"},
        "data": {"description": "The JSON value as it was published, else a string."},
        "time": {"type": "string", "format": "date-time"},
    },
}


def _object(optional: Sequence[str] = (), **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "properties": properties,
    }


_GAP = _object(requested={"type": "string"}, resumed_from={"type": "string"}, reason={"enum": ["expired", "unknown"]})

PAYLOADS: dict[str, dict[str, Any]] = {
    "feed.open": _object(subscription={"type": "string"}),
    "feed.gap": _GAP,
    "feed.live": _object(replayed={"type": "integer", "minimum": 0}),
    "feed.position": {"type": "object"},
    "feed.closing": _object(
        reason={"enum": list(get_args(Reason))},
        retry={"type": "integer", "minimum": 0, "description": "Milliseconds: when to come back."},
    ),
    "feed.ack": _object(["ref"], ref={}, id={"type": "string"}),
    "feed.error": _object(["ref"], ref={}, status={"type": "integer"}, detail={"type": "string"}),
}
"""What the feed says of a stream itself, by type: the data."""

ANSWERS = ["feed.ack", "feed.error"]
"""Of these, what only answers what a WebSocket sent."""


def control_schema(name: str) -> dict[str, Any]:
    """The object that such a message is on a WebSocket, and as a line of NDJSON."""
    return _object(["id"], type={"const": name}, id={"type": "string"}, data=PAYLOADS[name])


_LINE: dict[str, Any] = {"anyOf": [_EVENT, *(control_schema(name) for name in PAYLOADS if name not in ANSWERS)]}

# As FastAPI describes the items of a stream of its own.
_FRAME: dict[str, Any] = {
    "type": "object",
    "description": "A frame; those whose `event` begins with `feed.` say how the stream is.",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string", "description": "The event's type; left out for `message`."},
        "data": {"type": "string"},
        "retry": {"type": "integer", "minimum": 0},
    },
}

_ONE: dict[str, Any] = {
    "type": "object",
    "required": ["id", "topic"],
    "properties": {"id": {"type": "string"}, "topic": {"type": "string"}},
}

_MANY: dict[str, Any] = {
    "type": "object",
    "required": ["ids"],
    "properties": {"ids": _list({"type": "string"}, description="In the batch's order.")},
}

_KEY = _parameter(
    "Idempotency-Key",
    "header",
    "Makes it safe to repeat: for 24 hours the same request gets the first answer again. Visible ASCII.",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
)

SECURITY_SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "query": {"type": "apiKey", "in": "query", "name": "token"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "feed_token"},
}
"""Where a token may stand."""

_MAY_NOT = _problems(
    status_401="A token is needed, or the one that was sent is not valid.",
    status_403="The token does not allow it, or a page of a foreign origin asks.",
)
_UNREADABLE = _problems(status_400="A query that is not UTF-8, or what is no HTTP request.")
_UNKNOWN = _problems(status_503="The log, another node or the keys for tokens cannot be reached now.")

_SUBSCRIPTION: dict[str, Any] = {
    "type": "object",
    "required": ["id", "patterns", "transport", "since", "address"],
    "properties": {
        "id": {"type": "string"},
        "patterns": _list({"type": "string"}),
        "transport": {"enum": ["sse", "ndjson", "websocket", "poll", "library"]},
        "since": {"type": "string", "format": "date-time"},
        "address": {"type": "string"},
    },
}

LIST_SUBSCRIPTIONS: dict[str, Any] = {
    "parameters": [
        _parameter("after", "query", "Go on after this id: what `next` says."),
        _parameter("limit", "query", "Subscriptions on a page.", {**_number(1000), "default": 100}),
    ],
    "responses": {
        "200": {
            "description": "A page.",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["subscriptions", "next", "silent"],
                        "properties": {
                            "subscriptions": _list(_SUBSCRIPTION),
                            "next": {"type": ["string", "null"]},
                            "silent": _list({"type": "string"}),
                        },
                    }
                }
            },
        },
        **_MAY_NOT,
        **_UNREADABLE,
        **_UNKNOWN,
        **_problems(status_422="An invalid parameter."),
    },
}

END_SUBSCRIPTION: dict[str, Any] = {
    "parameters": [_parameter("id", "path", "As in the list, and in the stream's own `feed.open`.")],
    "responses": {
        "204": {"description": "It was told `feed.closing`."},
        **_MAY_NOT,
        **_UNREADABLE,
        **_UNKNOWN,
        **_problems(status_404="There is no such subscription.", status_422="A parameter of another route."),
    },
}

METRICS: dict[str, Any] = {
    "responses": {
        "200": {
            "description": "As the header `Accept` asks for.",
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "application/openmetrics-text": {"schema": {"type": "string"}},
            },
        },
        **_MAY_NOT,
        **_UNREADABLE,
        **_UNKNOWN,
    },
}

_HEALTH = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
HEALTH: dict[str, Any] = {"responses": {"200": {"content": {"application/json": {"schema": _HEALTH}}}}}
READINESS: dict[str, Any] = {
    "responses": {
        **HEALTH["responses"],
        **_problems(status_503="This server is being stopped, or the log does not answer."),
    }
}

_COOKIE = {"Set-Cookie": {"schema": {"type": "string"}}}
_FOREIGN = _problems(status_403="A page of a foreign origin asks.")

BEGIN_SESSION: dict[str, Any] = {
    "responses": {
        "204": {"description": "Done. Without a key there is no cookie.", "headers": _COOKIE},
        **_FOREIGN,
        **_UNREADABLE,
        **_problems(
            status_401="There is no token in the header, or one that is not valid.",
            status_422="The token is longer than a cookie may be, or a parameter is one of another route.",
            status_503="It cannot be known now whether the token is valid.",
        ),
    },
}

END_SESSION: dict[str, Any] = {
    "responses": {
        "204": {"description": "The cookie is cleared.", "headers": _COOKIE},
        **_FOREIGN,
        **_UNREADABLE,
        **_problems(status_422="A parameter of another route."),
    }
}

_PUBLISH_PROBLEMS = _MAY_NOT | _problems(
    status_400="Malformed JSON or text, or a query that is not UTF-8.",
    status_408="The body did not come in time.",
    status_413="The data or the body is too large.",
    status_415="A compressed body, a charset other than UTF-8, or a media type that this route does not take.",
    status_422="An invalid topic, type, key or field, or an empty batch.",
    status_429="More than the log can take in: try again after `Retry-After`.",
    status_503="The log cannot take it, and nothing was published: try again after `Retry-After`.",
    status_504="It cannot be known whether it was published: Redis did not answer. Repeat it with the same key.",
)

_CLOUDEVENT: dict[str, Any] = {
    "type": "object",
    "description": "A CloudEvent 1.0. Its `subject` is the topic unless the path names one, its `type` the event's "
    "type, `source` and `id` together the idempotency key unless there is one. `datacontenttype` and `data_base64` are "
    "understood; `time` and whatever else it has are not kept. Binary mode (`ce-` headers) is taken, too.",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1},
        "type": {**_TYPE, "minLength": 1},
        "subject": {**_TOPIC, "type": ["string", "null"]},
        "data": {},
    },
}
_CLOUDEVENTS: dict[str, Any] = {
    "application/cloudevents+json": {"schema": _CLOUDEVENT},
    "application/cloudevents-batch+json": {"schema": _list(_CLOUDEVENT, minItems=1, maxItems=10_000)},
}

PUBLISH_TO_TOPIC: dict[str, Any] = {
    "parameters": [
        _parameter("topic", "path", "Segments joined by `/`: `orders/42`.", _TOPIC),
        _parameter("type", "query", "The event's name, SSE's `event:` field.", {**_TYPE, "default": "message"}),
        _KEY,
    ],
    "requestBody": {
        "description": "The data: JSON if it is `application/json`, else UTF-8 text, as it is.",
        "content": {
            "application/json": {"schema": {}},
            "text/plain": {"schema": {"type": "string"}},
            **_CLOUDEVENTS,
        },
    },
    "responses": {
        "201": {
            "description": "Committed to the log.",
            "content": {"application/json": {"schema": {"oneOf": [_ONE, _MANY]}}},
        },
        **_PUBLISH_PROBLEMS,
    },
}

PUBLISH_BATCH: dict[str, Any] = {
    "parameters": [_KEY],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        _ENVELOPE,
                        {"type": "array", "items": _ENVELOPE, "minItems": 1, "maxItems": 10_000},
                    ]
                }
            },
            "application/x-ndjson": {"schema": {"type": "string", "description": "An event a line."}},
            **_CLOUDEVENTS,
        },
    },
    "responses": {
        "201": {
            "description": "Committed to the log, whole and in order.",
            "content": {"application/json": {"schema": {"oneOf": [_ONE, _MANY]}}},
        },
        **_PUBLISH_PROBLEMS,
    },
}

_TOPICS = _parameter(
    "topic",
    "query",
    "A pattern; may be repeated. `*` is one segment, a last `**` one or more.",
    _list(_PATTERN, minItems=1, maxItems=100),
)

SUBSCRIBE: dict[str, Any] = {
    "parameters": [
        {**_TOPICS, "required": True},
        _parameter("type", "query", "Only events of these types; may be repeated.", _list(_TYPE)),
        _parameter("Last-Event-ID", "header", "Resume after this event; `earliest`: from the oldest retained."),
        _parameter("last_event_id", "query", "The same, for clients that cannot set the header, which wins."),
        _parameter("after", "query", "The same by another name. Of the two the one counts that stands last."),
        _parameter("lastEventId", "query", "The same, as polyfills add it on a reconnect: it goes before both."),
        _parameter("last", "query", "Where no id is given: begin with the newest N.", _number(1000)),
        _parameter("envelope", "query", "`1`: SSE's `data` is the whole event as JSON.", {"type": "string"}),
        _parameter("limit", "query", "History: events on a page.", {**_number(1000), "default": 100}),
        _parameter("before", "query", "History: page backwards from this id."),
        _parameter("since", "query", "History: from this time on.", {"type": "string", "format": "date-time"}),
        _parameter(
            "wait",
            "query",
            "History: seconds an empty page waits for the first event.",
            {"type": "number", "minimum": 0, "maximum": 60},
        ),
    ],
    "responses": {
        "200": {
            "description": "A stream, as Server-Sent Events or a JSON object a line; with `Accept: application/json` a "
            "page of history.",
            "content": {
                "text/event-stream": {"itemSchema": _FRAME},
                "application/x-ndjson": {"schema": {"type": "string"}, "itemSchema": _LINE},
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["events", "next"],
                        "properties": {
                            "events": {"type": "array", "items": _EVENT},
                            "next": {"type": "string", "description": "Go on from here."},
                            "gap": _GAP,
                        },
                    }
                },
            },
        },
        **_MAY_NOT,
        **_problems(
            status_400="A query that is not UTF-8.",
            status_422="An invalid pattern, type or parameter.",
            status_503="No stream here now: try again after `Retry-After`.",
        ),
    },
}

SUBSCRIBE_TO_PATTERN: dict[str, Any] = {
    **SUBSCRIBE,
    "parameters": [
        # As publishing calls it: one path of a document has one name for what stands there (OpenAPI 3.1, 4.8.8).
        _parameter("topic", "path", "A pattern: a topic in which a segment may be `*`, and the last `**`.", _PATTERN),
        {**_TOPICS, "schema": _list(_PATTERN, maxItems=99)},
        *SUBSCRIBE["parameters"][1:],
    ],
}


def publish_typed(type: str | None) -> dict[str, Any]:
    """What publishing to a typed topic takes besides what FastAPI knows: of the events of one type, or of any."""
    name = {**_TYPE, "default": "message"} if type is None else {"const": type}
    parameter = {**_parameter("type", "query", "The event's name.", name), "required": type is not None}
    return {
        "parameters": [parameter, _KEY],
        "responses": {
            "201": {"description": "Committed to the log.", "content": {"application/json": {"schema": _ONE}}},
            **_PUBLISH_PROBLEMS,
        },
    }


SUBSCRIBE_TYPED: dict[str, Any] = {
    "parameters": [
        each for each in SUBSCRIBE["parameters"][1:] if each["name"] not in {"limit", "before", "since", "wait"}
    ],
    "responses": {status: answer for status, answer in SUBSCRIBE["responses"].items() if status != "200"},
}
"""The same for subscribing to it."""

_EVERYWHERE = _problems(
    status_400="This is no HTTP request.",
    status_403="The request is for a name that is not this server's, or a page of a foreign origin asks.",
    status_408="The head of the request did not come in time.",
    status_431="The head of the request is too large.",
)


def of_server(document: dict[str, Any], *, key: bool, public: bool, metrics_public: bool) -> dict[str, Any]:
    """The document of our own server, with what holds for every request to it. `key`: whether there is one, and so
    tokens; `public`: whether there are topics that need none, and `metrics_public` whether `/metrics` needs one."""
    if key:
        document.setdefault("components", {})["securitySchemes"] = SECURITY_SCHEMES
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, answer in _EVERYWHERE.items():
                operation["responses"].setdefault(status, answer)
            if key and (security := _security(path, method)):
                subscribes = method == "get" and path.startswith("/events")
                free = (public and subscribes) or (metrics_public and path == "/metrics")
                operation["security"] = [{}, *security] if free else security
    return document


def _security(path: str, method: str) -> list[dict[str, list[str]]]:
    if path in {"/healthz", "/readyz"} or (path, method) == ("/session", "delete"):
        return []
    return [{scheme: []} for scheme in (("bearer",) if path == "/session" else SECURITY_SCHEMES)]
