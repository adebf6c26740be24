"""The OpenAPI texts of the feed's routes, written by hand: FastAPI does not see what they read and stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from feed.control import Reason
from feed.terms import DELETED


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
            "description": "For data that does not fit its typed topic: what is wrong, and where (a JSON pointer).",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
        "topic": {"type": "string", "description": "The topic that is not as the request asks."},
        "current": {"type": "string", "description": "For 412: the id of its newest event."},
    },
}

_RETRY_AFTER = {
    "Retry-After": {
        "required": True,
        "description": "Seconds to wait before trying again.",
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
_TIME_SPAN: dict[str, Any] = {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(ms|s|m|h|d)?\s*$"}

_ENVELOPE: dict[str, Any] = {
    "type": "object",
    "required": ["topic"],
    "oneOf": [{"required": ["data"]}, {"required": ["delete"]}],
    "additionalProperties": False,
    "properties": {
        "topic": _TOPIC,
        "data": {"description": "Any JSON value. A string is published as text."},
        "type": {**_TYPE, "default": "message"},
        "delete": {"const": True, "description": "Delete the topic's value: there is neither data nor type."},
        "if_match": {"type": ["string", "null"], "description": "As the header `If-Match`."},
        "if_none_match": {"enum": ["*", None], "description": "As the header `If-None-Match`."},
        "ttl": {"type": ["string", "number", "null"], "description": "As the parameter: `30s`, or seconds."},
    },
}


def event_schema(type: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an event as a JSON object, from the schemas of its type and its data."""
    return {
        "type": "object",
        "required": ["id", "topic", "type", "data", "time"],
        "properties": {
            "id": {"type": "string", "description": "As `If-Match` takes it.", "example": "k3f9a2xm-184467"},
            "resume": {
                "type": "string",
                "description": "The id to resume after, in the first load of `latest`, where it is not `id`.",
            },
            "topic": {"type": "string"},
            "type": type,
            "data": data,
            "time": {"type": "string", "format": "date-time"},
        },
    }


_EVENT = event_schema({"type": "string"}, {"description": "The JSON value as it was published; text is a string."})


def _object(optional: Sequence[str] = (), **properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "properties": properties,
    }


_INCOMPLETE: dict[str, Any] = {
    "const": False,
    "description": "Of what begins with the oldest event: older events that were asked for are gone.",
}

_GAP = _object(requested={"type": "string"}, resumed_from={"type": "string"}, reason={"enum": ["expired", "unknown"]})

PAYLOADS: dict[str, dict[str, Any]] = {
    "feed.open": _object(["complete"], subscription={"type": "string"}, complete=_INCOMPLETE),
    "feed.gap": _GAP,
    "feed.live": _object(replayed={"type": "integer", "minimum": 0}),
    "feed.position": {"type": "object"},
    "feed.closing": _object(
        reason={"enum": list(get_args(Reason))},
        retry={"type": "integer", "minimum": 0, "description": "Milliseconds to wait before reconnecting."},
    ),
    "feed.ack": {
        **_object(["ref", "id", "topic"], ref={}, id={"type": "string"}, topic={"type": "string"}),
        "oneOf": [{"required": ["id"]}, {"required": ["topic"]}],
    },
    "feed.error": _object(
        ["ref", "current"],
        ref={},
        status={"type": "integer"},
        detail={"type": "string"},
        current={"type": "string", "description": "For 412: the id of the topic's newest event."},
    ),
}
"""The data of each control event, by type."""

ANSWERS = ["feed.ack", "feed.error"]
"""Those of `PAYLOADS` that only answer a message sent over a WebSocket."""

MARKS: dict[str, dict[str, Any]] = {DELETED: {"type": "object", "maxProperties": 0}}
"""The data of each event of the log that only the feed makes, by type."""


def control_schema(name: str) -> dict[str, Any]:
    """Return the schema of a control event, as it is a WebSocket message or a line of NDJSON."""
    return _object(["id"], type={"const": name}, id={"type": "string"}, data=PAYLOADS[name])


_LINE: dict[str, Any] = {"anyOf": [_EVENT, *(control_schema(name) for name in PAYLOADS if name not in ANSWERS)]}

# In the form in which FastAPI describes the items of its own streams.
_FRAME: dict[str, Any] = {
    "type": "object",
    "description": "An SSE frame. If `event` begins with `feed.`, it is a control event: it tells how the stream is.",
    "properties": {
        "id": {"type": "string"},
        "event": {"type": "string", "description": "The event's type; absent for `message`."},
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
    "properties": {"ids": _list({"type": "string"}, description="One for each event, in the batch's order.")},
}

_KEY = _parameter(
    "Idempotency-Key",
    "header",
    "Makes a publish safe to repeat: for 24 hours the same request gets the first answer again. Visible ASCII.",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
)

_CONDITIONS = [
    _parameter(
        "If-Match",
        "header",
        "Publish only if this is the id of the topic's newest event, with or without quotes; `*`: if it has a value.",
    ),
    _parameter("If-None-Match", "header", "Publish only if the topic has no value.", {"type": "string", "const": "*"}),
]

SECURITY_SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "query": {"type": "apiKey", "in": "query", "name": "token"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "feed_token"},
}
"""Where a request may carry a token."""

_MAY_NOT = _problems(
    status_401="There is no token or login, or it is not valid.",
    status_403="The request is not allowed, or comes from a page of another origin.",
)
_UNREADABLE = _problems(status_400="The query is not UTF-8, or the request is not valid HTTP.")
_UNKNOWN = _problems(
    status_503="The log, another node or the keys for tokens cannot be reached now: try again after `Retry-After`."
)

_SUBSCRIPTION: dict[str, Any] = {
    "type": "object",
    "required": ["id", "patterns", "transport", "since", "address", "subject"],
    "properties": {
        "id": {"type": "string"},
        "patterns": _list({"type": "string"}),
        "transport": {"enum": ["sse", "ndjson", "websocket", "poll", "library"]},
        "since": {"type": "string", "format": "date-time"},
        "address": {"type": "string"},
        "subject": {
            "type": ["string", "null"],
            "description": "Who reads: the `sub` of the token, or the `subject` of an application's `Grants`.",
        },
    },
}

LIST_SUBSCRIPTIONS: dict[str, Any] = {
    "parameters": [
        _parameter("after", "query", "Continue after this id: the `next` of the page before."),
        _parameter("limit", "query", "Subscriptions on a page.", {**_number(1000), "default": 100}),
    ],
    "responses": {
        "200": {
            "description": "A page of subscriptions.",
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
    "parameters": [_parameter("id", "path", "The subscription's id, from the list or from the stream's `feed.open`.")],
    "responses": {
        "204": {"description": "The subscription was ended with `feed.closing`."},
        **_MAY_NOT,
        **_UNREADABLE,
        **_UNKNOWN,
        **_problems(status_404="There is no such subscription.", status_422="A parameter belongs to another route."),
    },
}

END_SUBSCRIPTIONS: dict[str, Any] = {
    "parameters": [
        {
            **_parameter("subject", "query", "Whose: as `subject` in the list.", {"type": "string", "minLength": 1}),
            "required": True,
        }
    ],
    "responses": {
        "200": {
            "description": "So many were ended with `feed.closing`, and these nodes did not answer in time. Theirs may "
            "still be open.",
            "content": {
                "application/json": {
                    "schema": _object(ended={"type": "integer", "minimum": 0}, silent_nodes=_list({"type": "string"}))
                }
            },
        },
        **_MAY_NOT,
        **_UNREADABLE,
        **_problems(
            status_422="`subject` is missing or empty, or a parameter belongs to another route.",
            status_503="Nothing was ended, and not every node has answered: try again after `Retry-After`.",
        ),
    },
}

METRICS: dict[str, Any] = {
    "responses": {
        "200": {
            "description": "The metrics, in the format that `Accept` asks for.",
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
_FOREIGN = _problems(status_403="The request comes from a page of another origin.")

BEGIN_SESSION: dict[str, Any] = {
    "responses": {
        "204": {
            "description": "The cookie is set. A server without a key needs no tokens, and sets none.",
            "headers": _COOKIE,
        },
        **_FOREIGN,
        **_UNREADABLE,
        **_problems(
            status_401="The header `Authorization` has no token, or one that is not valid.",
            status_422="The token is longer than a cookie may be, or a parameter belongs to another route.",
            status_503="The token cannot be verified now: try again after `Retry-After`.",
        ),
    },
}

END_SESSION: dict[str, Any] = {
    "responses": {
        "204": {"description": "The cookie is cleared.", "headers": _COOKIE},
        **_FOREIGN,
        **_UNREADABLE,
        **_problems(status_422="A parameter belongs to another route."),
    }
}

_PUBLISH_PROBLEMS = _MAY_NOT | _problems(
    status_400="Malformed JSON or text, or a query that is not UTF-8.",
    status_404="A topic that shall be deleted has no event, or one whose time shall begin anew has no value.",
    status_408="The body did not arrive in time.",
    status_412="The topic's newest event is another one; `current` is its id, for who may subscribe there.",
    status_413="The data or the body is too large.",
    status_415="A compressed body, a charset other than UTF-8, or a media type that this route does not accept.",
    status_422="An invalid topic, type, key or field, or an empty batch.",
    status_429="More than the log can take, or than this client may publish: try again after `Retry-After`.",
    status_503="The log is not available, and nothing was published: try again after `Retry-After`.",
    status_504="Redis did not answer, so it is unknown whether the event was published: repeat it with the same key.",
)

_CLOUDEVENT: dict[str, Any] = {
    "type": "object",
    "description": "A CloudEvent 1.0. Its `subject` becomes the topic and its `type` the event's type, unless the URL "
    "names them; its `source` and `id` become the idempotency key, unless the request has one. `datacontenttype` and "
    "`data_base64` are obeyed; `time` and other attributes are not kept. Binary mode (`ce-` headers) works too.",
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

_TTL = _parameter(
    "ttl",
    "query",
    "After this time, 1 s to 7 d, the topic is deleted, if the event is still its newest. Without a body and a "
    "type nothing is published: the time of the value that is there begins anew.",
    {**_TIME_SPAN, "example": "30s"},
)
_RENEWED = {
    "description": "The value's time begins anew; nothing was published.",
    "content": {"application/json": {"schema": _object(topic=_TOPIC)}},
}

PUBLISH_TO_TOPIC: dict[str, Any] = {
    "parameters": [
        _parameter("topic", "path", "The topic: segments joined by `/`, such as `orders/42`.", _TOPIC),
        _parameter("type", "query", "The event's type: SSE's `event:` field.", {**_TYPE, "default": "message"}),
        _TTL,
        *_CONDITIONS,
        _KEY,
    ],
    "requestBody": {
        "description": "The data: JSON if the media type is `application/json`, else UTF-8 text, unchanged.",
        "content": {
            "application/json": {"schema": {}},
            "text/plain": {"schema": {"type": "string"}},
            **_CLOUDEVENTS,
        },
    },
    "responses": {
        "201": {
            "description": "The event was committed to the log.",
            "content": {"application/json": {"schema": {"oneOf": [_ONE, _MANY]}}},
        },
        "200": _RENEWED,
        **_PUBLISH_PROBLEMS,
    },
}

DELETE_TOPIC: dict[str, Any] = {
    "parameters": [
        _parameter("topic", "path", "The topic: segments joined by `/`, such as `orders/42`.", _TOPIC),
        *_CONDITIONS,
        _KEY,
    ],
    "responses": {
        "200": {
            "description": "The topic is deleted. The id is that of its tombstone, which may be an earlier one.",
            "content": {"application/json": {"schema": _ONE}},
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
            "application/x-ndjson": {"schema": {"type": "string", "description": "One event a line."}},
            **_CLOUDEVENTS,
        },
    },
    "responses": {
        "201": {
            "description": "All events were committed to the log, in order.",
            "content": {"application/json": {"schema": {"oneOf": [_ONE, _MANY]}}},
        },
        **_PUBLISH_PROBLEMS,
    },
}

_TOPICS = _parameter(
    "topic",
    "query",
    "A pattern; may be repeated. `*` matches one segment, `**` at the end one or more.",
    _list(_PATTERN, minItems=1, maxItems=100),
)

_SWITCH = {"type": "string", "enum": ["0", "1", "false", "true"]}

_PAGE: dict[str, Any] = {
    "type": "object",
    "required": ["events", "next"],
    "properties": {
        "events": {"type": "array", "items": _EVENT},
        "next": {"type": "string", "description": "The id to continue with."},
        "gap": _GAP,
        "live": {"const": True, "description": "With `latest`: the state is whole with this page."},
        "complete": _INCOMPLETE,
    },
}

_TOPICS_PAGE: dict[str, Any] = {
    "type": "object",
    "required": ["topics", "next"],
    "properties": {
        "topics": _list(
            {
                "type": "object",
                "required": ["topic", "last_id", "last_time", "type"],
                "properties": {
                    "topic": {"type": "string"},
                    "last_id": {"type": "string", "description": "The id of the newest event."},
                    "last_time": {"type": "string", "format": "date-time"},
                    "type": {"type": "string", "description": "`feed.deleted` for a topic that was deleted."},
                },
            }
        ),
        "next": {"type": ["string", "null"], "description": "The `after_topic` of the next page, if there is one."},
    },
}

SUBSCRIBE: dict[str, Any] = {
    "parameters": [
        {**_TOPICS, "required": True},
        _parameter("type", "query", "Only events of these types; may be repeated.", _list(_TYPE)),
        _parameter("Last-Event-ID", "header", "Resume after this id; `earliest`: with the oldest retained event."),
        _parameter("after", "query", "Resume after this id, as with the header, which wins over it."),
        _parameter("last_event_id", "query", "Another name of `after`. If a URL has both, the last one counts."),
        _parameter("lastEventId", "query", "The same, as polyfills add it on a reconnect. It wins over `after`."),
        _parameter("last", "query", "Begin with the newest N events, if no id is given.", _number(1000)),
        _parameter("envelope", "query", "`1`: SSE's `data` is the whole event as JSON.", {"type": "string"}),
        _parameter("latest", "query", "`1`: state, of each topic its newest event, then what changes.", _SWITCH),
        _parameter(
            "every",
            "query",
            "With `latest`, for a stream: what changes after the first load comes in batches, at most one in each such "
            "time, 100 ms to 60 s, in which each topic stands once.",
            {**_TIME_SPAN, "example": "500ms"},
        ),
        _parameter(
            "list", "query", "`topics`: not events, but the topics that have any, as JSON.", {"const": "topics"}
        ),
        _parameter("after_topic", "query", "List of topics: go on behind this topic, the `next` of the page before."),
        _parameter("limit", "query", "Events of a page, or topics of a list.", {**_number(1000), "default": 100}),
        _parameter("before", "query", "History: page backwards from this id."),
        _parameter("since", "query", "History: events from this time on.", {"type": "string", "format": "date-time"}),
        _parameter(
            "wait",
            "query",
            "History: seconds that an empty page waits for an event (long poll).",
            {"type": "number", "minimum": 0, "maximum": 60},
        ),
    ],
    "responses": {
        "200": {
            "description": "A stream of Server-Sent Events; with `Accept: application/x-ndjson` of JSON lines; with "
            "`Accept: application/json` a page of history.",
            "content": {
                "text/event-stream": {"itemSchema": _FRAME},
                "application/x-ndjson": {"schema": {"type": "string"}, "itemSchema": _LINE},
                "application/json": {"schema": {"oneOf": [_PAGE, _TOPICS_PAGE]}},
            },
        },
        **_MAY_NOT,
        **_problems(
            status_400="The query is not UTF-8.",
            status_422="An invalid pattern, type or parameter.",
            status_503="No stream can begin here now: try again after `Retry-After`.",
        ),
    },
}

SUBSCRIBE_TO_PATTERN: dict[str, Any] = {
    **SUBSCRIBE,
    "parameters": [
        # The same name as in publishing: within a path, OpenAPI allows one name for a parameter (OpenAPI 3.1, 4.8.8).
        _parameter(
            "topic", "path", "A pattern: a topic in which any segment may be `*`, and the last one `**`.", _PATTERN
        ),
        {**_TOPICS, "schema": _list(_PATTERN, maxItems=99)},
        *SUBSCRIBE["parameters"][1:],
    ],
}


def publish_typed(type: str | None) -> dict[str, Any]:
    """Describe publishing to a typed topic, except for its model. `type` is None for topics of several types."""
    name = {**_TYPE, "default": "message"} if type is None else {"const": type}
    parameter = {**_parameter("type", "query", "The event's type.", name), "required": type is not None}
    return {
        "parameters": [parameter, _TTL, *_CONDITIONS, _KEY],
        "responses": {
            "201": {
                "description": "The event was committed to the log.",
                "content": {"application/json": {"schema": _ONE}},
            },
            "200": _RENEWED,
            **_PUBLISH_PROBLEMS,
        },
    }


SUBSCRIBE_TYPED: dict[str, Any] = {
    "parameters": [
        each
        for each in SUBSCRIBE["parameters"][1:]
        if each["name"] not in {"list", "after_topic", "limit", "before", "since", "wait"}
    ],
    "responses": {status: answer for status, answer in SUBSCRIBE["responses"].items() if status != "200"},
}
"""Describes subscribing to a typed topic, except for its model."""

_EVERYWHERE = _problems(
    status_400="The request is not valid HTTP.",
    status_403="The request is for a host name that is not this server's, or comes from a page of another origin.",
    status_408="The head of the request did not arrive in time.",
    status_431="The head of the request is too large.",
)


def of_server(document: dict[str, Any], *, key: bool, public: bool, metrics_public: bool) -> dict[str, Any]:
    """Add to our own server's document what holds for all its requests. `key`: the server has a key, and so needs
    tokens; `public`: some topics can be read without a token; `metrics_public`: so can `/metrics`."""
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
