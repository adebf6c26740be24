"""The AsyncAPI 3 document at `/asyncapi.json`. It describes streams and WebSockets, which OpenAPI cannot.

The document takes the feed's side: the feed *sends* events to subscribers and *receives* what is published. Each topic,
or address of typed topics, is two channels, because its messages differ between HTTP and WebSocket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from feed.fastapi.describe.openapi import (
    ANSWERS,
    MARKS,
    PAYLOADS,
    SECURITY_SCHEMES,
    control_schema,
    event_schema,
)
from feed.fastapi.http.request import Place
from feed.fastapi.topics import Topics

Json = dict[str, Any]

_HTTP, _WEBSOCKET = "http", "websocket"
_STRING: Json = {"type": "string"}
_SWITCH: Json = {"enum": ["0", "1", "false", "true"]}


class _Schemas(GenerateJsonSchema):
    """Generates JSON Schema for AsyncAPI, in which a discriminator is a name and not OpenAPI's object."""

    def tagged_union_schema(self, schema: Any) -> Json:
        made = super().tagged_union_schema(schema)
        if isinstance(made.get("discriminator"), dict):
            made["discriminator"] = made["discriminator"]["propertyName"]
        return made


def document(place: Place, description: Json) -> Json:
    """Complete the document that `describe` made, for clients that reach the feed at this address."""
    secure = "s" if place.secure else ""
    servers = {
        _HTTP: ("http", "events", "Server-Sent Events, NDJSON, history, and publishing by POST."),
        _WEBSOCKET: ("ws", "ws", "The same events as text messages. What a client sends is published."),
    }
    security = [
        {"$ref": f"#/components/securitySchemes/{name}"} for name in description["components"]["securitySchemes"]
    ]
    return {
        **description,
        "servers": {
            name: {
                "host": place.host,
                "pathname": f"{place.path}/{base}",
                "protocol": f"{protocol}{secure}",
                "description": f"{words} A channel's URL is this server's URL, a slash, and the channel's address. If "
                "a proxy strips a path, that path is missing here, unless the proxy sends X-Forwarded-Prefix.",
                **({"security": security} if security else {}),
            }
            for name, (protocol, base, words) in servers.items()
        },
    }


def describe(topics: Topics, *, title: str, version: str, key: bool) -> Json:
    """Describe what does not depend on the request. `key`: whether tokens are needed."""
    wanted = sorted(
        enumerate(topics.topics), key=lambda each: each[1].address
    )  # stable: at each address the topics keep their order
    schemas, definitions = (
        TypeAdapter.json_schemas(
            [(place, "validation", topic.adapter) for place, topic in wanted],
            ref_template="#/components/schemas/{model}",
            schema_generator=_Schemas,
        )
        if wanted
        else ({}, {})
    )
    channels: Json = {}
    operations: Json = {}
    for address, group in groupby(wanted, key=lambda each: each[1].address):
        kinds = [(topic.type, schemas[place, "validation"]) for place, topic in group]
        parameters: Json = {name: {} for name in re.findall(r"\{(\w+)\}", address)}
        _add(channels, operations, _identifier(address, channels), address, parameters, kinds)
    if not topics.strict:
        parameters = {
            "topic": {"description": "A topic to publish to. A pattern to subscribe to: `orders/*`, `orders/**`, `**`."}
        }
        _add(channels, operations, "any", "{topic}", parameters, [(None, None)])
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "messages": {**dict(_controls())},
            "securitySchemes": dict(map(_security, SECURITY_SCHEMES.items())) if key else {},
        },
    }


def _add(
    channels: Json,
    operations: Json,
    name: str,
    address: str,
    parameters: Json,
    kinds: Sequence[tuple[str | None, Json | None]],
) -> None:
    for server in (_HTTP, _WEBSOCKET):
        channel = f"{name}_{server}"
        sent, received = _sent_over_http(kinds), _published_over_http(kinds)
        query, answers = _STREAM_QUERY, ["committed"]
        commands: list[str] = []
        if server == _WEBSOCKET:
            sent, received = _sent_over_websocket(kinds), _published_over_websocket(kinds)
            query, answers, commands = _SUBSCRIBE_QUERY, ANSWERS, list(_COMMANDS)
        told = [*(each for each in PAYLOADS if each not in ANSWERS), *MARKS]
        own = [*told, *commands, *answers]
        channels[channel] = {
            "address": address,
            "parameters": parameters,
            "servers": [{"$ref": f"#/servers/{server}"}],
            "messages": {
                **sent,
                **received,
                **{each: {"$ref": f"#/components/messages/{each}.{server}"} for each in own},
            },
            **({"bindings": {"ws": {"method": "GET", "query": query}}} if server == _WEBSOCKET else {}),
        }
        at = {"channel": {"$ref": f"#/channels/{channel}"}}
        subscribe, publish = {"method": "GET", "query": query}, {"method": "POST", "query": _PUBLISH_QUERY}
        operations[f"subscribe_{channel}"] = {
            "action": "send",
            "summary": "Events for a subscriber.",
            **at,
            "messages": _references(channel, [*sent, *told]),
            **({"bindings": {"http": subscribe}} if server == _HTTP else {}),
        }
        operations[f"publish_{channel}"] = {
            "action": "receive",
            "summary": "Events to publish.",
            **at,
            "messages": _references(channel, [*received, *commands]),
            "reply": {**at, "messages": _references(channel, answers)},
            **({"bindings": {"http": publish}} if server == _HTTP else {}),
        }


_SUBSCRIBE_QUERY: Json = {
    "type": "object",
    "properties": {
        "after": {**_STRING, "description": "Resume after this id; `earliest`: with the oldest retained event."},
        "last_event_id": {**_STRING, "description": "Another name of `after`."},
        "last": {"type": "integer", "minimum": 1, "maximum": 1000, "description": "Begin with the newest N events."},
        "type": {"type": "array", "items": _STRING, "description": "Only events of these types."},
        "topic": {"type": "array", "items": _STRING, "description": "More patterns."},
        "latest": {**_SWITCH, "description": "`1`: state, of each topic its newest event, then what changes."},
        "every": {
            **_STRING,
            "description": "With `latest`: what changes comes in batches, at most one in each such time: `500ms`.",
        },
    },
}
_STREAM_QUERY: Json = {
    **_SUBSCRIBE_QUERY,
    "properties": {
        **_SUBSCRIBE_QUERY["properties"],
        "envelope": {
            **_SWITCH,
            "description": "`1`: the data is the whole event as JSON. With `latest` and several topics it always is.",
        },
    },
}

_KEY: Json = {**_STRING, "pattern": "^[!-~]{1,255}$", "description": "Makes the publish safe to repeat for 24 hours."}
_IF_MATCH: Json = {**_STRING, "description": "Only if this is the id of the topic's newest event. `*`: any value."}
_IF_NONE_MATCH: Json = {"const": "*", "description": "Only if the topic has no value."}
_TTL: Json = {"description": "After this time the value is deleted, unless there is a newer one: `30s`, or seconds."}
_TOPIC: Json = {**_STRING, "description": "Needed if the connection's URL is a pattern."}
_REF: Json = {"description": "Returned unchanged with the answer."}

_PUBLISH_QUERY: Json = {
    "type": "object",
    "properties": {"type": {**_STRING, "default": "message"}, "ttl": {**_STRING, **_TTL}},
}

_COMMANDS: dict[str, Json] = {
    "deletion": {
        "name": "deletion",
        "title": "Delete the value of a topic",
        "payload": {
            "type": "object",
            "required": ["delete"],
            "properties": {
                "delete": {"const": True},
                "topic": _TOPIC,
                "if_match": _IF_MATCH,
                "key": _KEY,
                "ref": _REF,
            },
            "additionalProperties": False,
        },
    },
    "renewal": {
        "name": "renewal",
        "title": "Let the value of a topic run out later, and publish nothing",
        "payload": {
            "type": "object",
            "required": ["renew", "ttl"],
            "properties": {
                "renew": {"const": True},
                "ttl": {"type": ["number", "string"], "description": "The time from now: `30s`, or seconds."},
                "topic": _TOPIC,
                "ref": _REF,
            },
            "additionalProperties": False,
        },
    },
}
"""What a client may send over a WebSocket that has no data."""


def _type(type: str | None) -> Json:
    return _STRING if type is None else {"const": type}


def _data(schema: Json | None) -> Json:
    return {"description": "Any JSON value; text is a string."} if schema is None else schema


def _sent_over_http(kinds: Sequence[tuple[str | None, Json | None]]) -> Json:
    """Describe SSE frames: `data` is the payload, the other fields are headers. In an envelope the data is the event
    as a JSON object, and the frame has no name."""
    plain = (
        {
            "name": type or "event",
            "title": "An event",
            "headers": _frame({"event": {**_type(type), "description": "Absent for `message`."}}),
            "payload": _data(schema),
        }
        for type, schema in kinds
    )
    enveloped = (
        {
            "name": type or "event",
            "title": "An event in an envelope",
            "headers": _frame({}),
            "payload": event_schema(_type(type), _data(schema)),
        }
        for type, schema in kinds
    )
    return {**_named("event", plain), **_named("envelope", enveloped)}


def _frame(fields: Json) -> Json:
    return {"type": "object", "required": ["id"], "properties": {"id": _STRING, **fields}}


def _sent_over_websocket(kinds: Iterable[tuple[str | None, Json | None]]) -> Json:
    return _named(
        "event",
        (
            {"name": type or "event", "title": "An event", "payload": event_schema(_type(type), _data(schema))}
            for type, schema in kinds
        ),
    )


def _published_over_http(kinds: Iterable[tuple[str | None, Json | None]]) -> Json:
    headers = {"Idempotency-Key": _KEY, "If-Match": _IF_MATCH, "If-None-Match": _IF_NONE_MATCH}
    return _named(
        "published",
        (
            {
                "name": "published",
                "headers": {"type": "object", "properties": headers},
                "payload": _data(schema),
            }
            for type, schema in kinds
        ),
    )


def _published_over_websocket(kinds: Iterable[tuple[str | None, Json | None]]) -> Json:
    return _named(
        "published",
        (
            {
                "name": "published",
                "payload": {
                    "type": "object",
                    "required": ["data"] if type is None else ["data", "type"],
                    "properties": {
                        "data": _data(schema),
                        "type": {**_STRING, "default": "message"} if type is None else {"const": type},
                        "topic": _TOPIC,
                        "key": _KEY,
                        "if_match": _IF_MATCH,
                        "if_none_match": _IF_NONE_MATCH,
                        "ttl": {"type": ["number", "string"], **_TTL},
                        "ref": _REF,
                    },
                },
            }
            for type, schema in kinds
        ),
    )


def _controls() -> Iterable[tuple[str, Json]]:
    """Describe the control events, the events that only the feed makes, the commands, and the answers to publishing."""
    for name, payload in PAYLOADS.items():
        yield f"{name}.{_WEBSOCKET}", {"name": name, "payload": control_schema(name)}
        if name not in ANSWERS:
            headers = {"type": "object", "required": ["event"], "properties": {"event": {"const": name}, "id": _STRING}}
            yield f"{name}.{_HTTP}", {"name": name, "headers": headers, "payload": payload}
    for name, data in MARKS.items():
        whole = event_schema({"const": name}, data)
        headers = _frame({"event": {"const": name}})
        yield f"{name}.{_WEBSOCKET}", {"name": name, "payload": whole}
        yield f"{name}.{_HTTP}", {"name": name, "headers": headers, "payload": {"anyOf": [data, whole]}}
    for name, command in _COMMANDS.items():
        yield f"{name}.{_WEBSOCKET}", command
    committed = {"type": "object", "required": ["id", "topic"], "properties": {"id": _STRING, "topic": _STRING}}
    yield f"committed.{_HTTP}", {"name": "committed", "title": "201: committed to the log", "payload": committed}


def _references(channel: str, messages: Iterable[str]) -> list[Json]:
    return [{"$ref": f"#/channels/{channel}/messages/{each}"} for each in messages]


def _named(what: str, messages: Iterable[Json]) -> Json:
    """Name the messages: `event`, or `event_1`, `event_2` … if there are several types."""
    made = list(messages)
    return {what if len(made) == 1 else f"{what}_{place}": each for place, each in enumerate(made, 1)}


def _identifier(address: str, taken: Json) -> str:
    name = unique = re.sub(r"\W+", "_", address, flags=re.ASCII).strip("_") or "topic"
    count = 1
    while unique == "any" or f"{unique}_{_HTTP}" in taken:
        count += 1
        unique = f"{name}_{count}"
    return unique


def _security(scheme: tuple[str, Json]) -> tuple[str, Json]:
    name, described = scheme
    return name, {**described, "type": "httpApiKey"} if described["type"] == "apiKey" else described
