"""What `/docs` says of the feed's routes, by hand: they read requests and write streams that FastAPI does not see."""

from __future__ import annotations

from typing import Any


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
        name.removeprefix("status_"): {
            "description": text,
            "content": {"application/problem+json": {"schema": _PROBLEM}},
        }
        for name, text in details.items()
    }


def _list(description: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string"}, "description": description}


def _number(most: int, least: int = 1) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "A problem document, RFC 9457.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}

_ENVELOPE: dict[str, Any] = {
    "type": "object",
    "required": ["topic", "data"],
    "additionalProperties": False,
    "properties": {
        "topic": {"type": "string", "example": "orders/42"},
        "data": {"description": "Any JSON value. A string is published as text."},
        "type": {"type": "string", "default": "message"},
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

_ONE: dict[str, Any] = {
    "type": "object",
    "required": ["id", "topic"],
    "properties": {"id": {"type": "string"}, "topic": {"type": "string"}},
}

_MANY: dict[str, Any] = {"type": "object", "required": ["ids"], "properties": {"ids": _list("In the batch's order.")}}

_KEY = _parameter(
    "Idempotency-Key",
    "header",
    "Makes it safe to repeat: for 24 hours the same request gets the first answer again. Visible ASCII.",
    {"type": "string", "minLength": 1, "maxLength": 255},
)

SECURITY: list[dict[str, list[str]]] = [{}, {"bearer": []}, {"query": []}, {"cookie": []}]
SECURITY_SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    "query": {"type": "apiKey", "in": "query", "name": "token"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "feed_token"},
}
"""Where a token may stand. Without a key none is needed, and with one not for what is public."""

_MAY_NOT = _problems(
    status_401="A token is needed, or the one that was sent is not valid.",
    status_403="The token does not allow it, or a page of a foreign origin asks.",
)

FOR_ADMIN: dict[str, Any] = {
    "security": SECURITY,
    "responses": {**_MAY_NOT, **_problems(status_503="The log or another node does not answer now.")},
}

_COOKIE_SET = {"204": {"description": "Done.", "headers": {"Set-Cookie": {"schema": {"type": "string"}}}}}
_FOREIGN = _problems(status_403="A page of a foreign origin asks.")

BEGIN_SESSION: dict[str, Any] = {
    "security": [{}, {"bearer": []}],
    "responses": {
        **_COOKIE_SET,
        **_problems(
            status_401="There is no token in the header, or one that is not valid.",
            status_422="The token is longer than a cookie may be.",
            status_503="It cannot be known now whether the token is valid.",
        ),
        **_FOREIGN,
    },
}

END_SESSION: dict[str, Any] = {"responses": {**_COOKIE_SET, **_FOREIGN}}

_PUBLISH_PROBLEMS = _MAY_NOT | _problems(
    status_400="Malformed JSON or text.",
    status_413="The data or the body is too large.",
    status_415="A compressed body, a charset other than UTF-8, or a media type that this route does not take.",
    status_422="An invalid topic, type, key or field, or an empty batch.",
    status_429="More than the log can take in: try again after `Retry-After`.",
    status_503="The log cannot take it, and nothing was published: try again after `Retry-After`.",
    status_504="It cannot be known whether it was published: Redis did not answer. Repeat it with the same key.",
)

PUBLISH_TO_TOPIC: dict[str, Any] = {
    "security": SECURITY,
    "parameters": [
        _parameter("topic", "path", "Segments joined by `/`: `orders/42`."),
        _parameter(
            "type", "query", "The event's name, SSE's `event:` field.", {"type": "string", "default": "message"}
        ),
        _KEY,
    ],
    "requestBody": {
        "description": "The data: JSON if it is `application/json`, else UTF-8 text, as it is.",
        "content": {"application/json": {"schema": {}}, "text/plain": {"schema": {"type": "string"}}},
    },
    "responses": {
        "201": {"description": "Committed to the log.", "content": {"application/json": {"schema": _ONE}}},
        **_PUBLISH_PROBLEMS,
    },
}

PUBLISH_BATCH: dict[str, Any] = {
    "security": SECURITY,
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

SUBSCRIBE: dict[str, Any] = {
    "security": SECURITY,
    "parameters": [
        _parameter("topic", "query", "A pattern; may be repeated.", _list("`*` is one segment, a last `**` any.")),
        _parameter("type", "query", "Only events of these types; may be repeated.", _list("")),
        _parameter("Last-Event-ID", "header", "Resume after this event; `earliest`: from the oldest retained."),
        _parameter("last_event_id", "query", "The same, for clients that cannot set the header, which wins."),
        _parameter("last", "query", "Where no id is given: begin with the newest N.", _number(1000)),
        _parameter("envelope", "query", "`1`: SSE's `data` is the whole event as JSON.", {"type": "string"}),
        _parameter("limit", "query", "History: events on a page.", {**_number(1000), "default": 100}),
        _parameter("before", "query", "History: page backwards from this id."),
        _parameter("since", "query", "History: from this time on (RFC 3339)."),
        _parameter("wait", "query", "History: seconds an empty page waits for the first event.", _number(60, least=0)),
    ],
    "responses": {
        "200": {
            "description": "A stream, as Server-Sent Events or a JSON object a line; with `Accept: application/json` a "
            "page of history.",
            "content": {
                "text/event-stream": {"schema": {"type": "string"}},
                "application/x-ndjson": {"schema": {"type": "string"}},
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["events", "next"],
                        "properties": {
                            "events": {"type": "array", "items": _EVENT},
                            "next": {"type": "string", "description": "Go on from here."},
                            "gap": {
                                "type": "object",
                                "properties": {
                                    "requested": {"type": "string"},
                                    "resumed_from": {"type": "string"},
                                    "reason": {"enum": ["expired", "unknown"]},
                                },
                            },
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
        _parameter("pattern", "path", "A topic in which a segment may be `*`, and the last `**`."),
        *SUBSCRIBE["parameters"],
    ],
}
