"""The AsyncAPI document, held against AsyncAPI's own schema (npm's `@asyncapi/specs`, Apache-2.0: a copy of the one for
3.0.0 lies beside), and against what the feed does."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import jsonschema_rs
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field
from websockets.sync.client import connect

from feed import Feed
from feed.fastapi import Topic, feed_router
from feed.testing import AppServer
from tests.conftest import Serve
from tests.support.running import RunningServer
from tests.support.streams import subscribed
from tests.support.tokens import SECRET

SCHEMA = json.loads(gzip.decompress((Path(__file__).parent / "asyncapi/3.0.0.json.gz").read_bytes()))
VALIDATOR = jsonschema_rs.validator_for(SCHEMA)


class Card(BaseModel):
    kind: Literal["card"]


class Cash(BaseModel):
    kind: Literal["cash"]
    coins: list[int]


class Order(BaseModel):
    total: int
    paid: Annotated[Card | Cash, Field(discriminator="kind")] | None = None


TOPICS: list[Topic[Any]] = [
    Topic("orders/{id}", Order),
    Topic("carts/{id}", Order, type="created"),
    Topic("carts/{id}", tuple[int, str], type="ordéred"),
    Topic("carts_id", int),
    Topic("any", int),
]


@pytest.fixture(scope="module")
def typed() -> Iterator[AppServer]:
    feed = Feed("memory:")
    app = FastAPI(title="Shop", version="7")
    app.include_router(feed_router(feed, topics=TOPICS), prefix="/live")
    app.include_router(feed_router(feed, topics=TOPICS[:1], strict_topics=True), prefix="/strict")
    hidden = FastAPI(openapi_url=None)
    hidden.include_router(feed_router(feed))
    app.mount("/hidden", hidden)
    with AppServer(app, feed) as server:
        yield server


def document_of(url: str, path: str = "/asyncapi.json", **headers: str) -> Any:
    """What is served, once it is known to be valid."""
    answer = httpx.get(f"{url}{path}", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    document = answer.json()
    assert [f"{error.instance_path}: {error.message}" for error in VALIDATOR.iter_errors(document)] == []
    for reference in references(document):
        resolve(document, reference)
    return document


def references(node: Any) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if key == "$ref":
            yield value
        yield from references(value)


def resolve(document: Any, reference: str) -> Any:
    assert reference.startswith("#/")
    for part in reference[2:].split("/"):
        document = document[part.replace("~1", "/").replace("~0", "~")]
    return document


def payload_validator(document: Any, channel: str, message: str) -> Any:
    found = document["channels"][channel]["messages"][message]
    found = resolve(document, found["$ref"]) if "$ref" in found else found
    return jsonschema_rs.Draft7Validator({**found["payload"], "components": document["components"]})


def test_a_document_that_breaks_the_rules_is_found() -> None:
    assert not VALIDATOR.is_valid({"asyncapi": "3.0.0", "info": {"title": "x"}})
    broken = {"asyncapi": "3.0.0", "info": {"title": "x", "version": "1"}, "operations": {"a": {"action": "listen"}}}
    assert not VALIDATOR.is_valid(broken)


def test_without_a_key_it_describes_an_open_feed(server: RunningServer) -> None:
    document = document_of(server.url)
    assert set(document["channels"]) == {"any_http", "any_websocket"}
    assert document["channels"]["any_http"]["address"] == "{topic}"
    assert "security" not in document["servers"]["http"]
    host = f"127.0.0.1:{server.port}"
    described = {name: (each["protocol"], each["host"], each["pathname"]) for name, each in document["servers"].items()}
    assert described == {"http": ("http", host, "/events"), "websocket": ("ws", host, "/ws")}
    actions = {name: operation["action"] for name, operation in document["operations"].items()}
    assert actions == {
        "subscribe_any_http": "send",
        "publish_any_http": "receive",
        "subscribe_any_websocket": "send",
        "publish_any_websocket": "receive",
    }


def test_with_a_key_it_says_where_a_token_goes_and_through_a_proxy_with_tls_that_it_is_there(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET, proxies="127.0.0.0/8")
    document = document_of(
        server.url, Host="feed.example.org", X_Forwarded_Proto="https", **{"X-Forwarded-Proto": "https"}
    )
    assert [each["$ref"] for each in document["servers"]["websocket"]["security"]] == [
        f"#/components/securitySchemes/{name}" for name in ("bearer", "query", "cookie")
    ]
    assert document["components"]["securitySchemes"]["cookie"] == {
        "type": "httpApiKey",
        "in": "cookie",
        "name": "feed_token",
    }
    assert [each["protocol"] for each in document["servers"].values()] == ["https", "wss"]
    assert document["servers"]["http"]["host"] == "feed.example.org"


def test_typed_topics_are_channels_with_their_parameters_and_models(typed: AppServer) -> None:
    document = document_of(typed.url, "/live/asyncapi.json")
    assert document["info"] == {"title": "Shop", "version": "7"}
    addresses = {name: channel["address"] for name, channel in document["channels"].items() if name.endswith("_http")}
    assert addresses == {
        "orders_id_http": "orders/{id}",
        "carts_id_http": "carts/{id}",
        "carts_id_2_http": "carts_id",
        "any_2_http": "any",
        "any_http": "{topic}",
    }
    assert list(document["channels"]["orders_id_http"]["parameters"]) == ["id"]
    assert document["servers"]["http"]["pathname"] == "/live/events"
    assert document["components"]["schemas"]["Order"]["properties"]["total"]["type"] == "integer"
    carts = document["channels"]["carts_id_http"]["messages"]
    assert [carts[name]["name"] for name in ("event_1", "event_2")] == ["created", "ordéred"]
    strict = document_of(typed.url, "/strict/asyncapi.json")
    assert set(strict["channels"]) == {"orders_id_http", "orders_id_websocket"}, "nothing else may be published"


def test_what_is_sent_and_taken_is_what_the_document_says(typed: AppServer) -> None:
    document = document_of(typed.url, "/live/asyncapi.json")
    data = {"total": 3, "paid": {"kind": "cash", "coins": [1, 2]}}
    assert payload_validator(document, "orders_id_http", "published").is_valid(data)
    assert not payload_validator(document, "orders_id_http", "published").is_valid({"total": "x"})
    with (
        subscribed(f"{typed.url}/live/events/orders/1?last_event_id=nonsense", opened=False) as stream,
        connect(f"ws://127.0.0.1:{typed.port}/live/ws/orders/1") as socket,
    ):
        socket.send(json.dumps({"data": data, "ref": 1}))
        socket.send("text")
        messages = [json.loads(socket.recv(10)) for _ in range(4)]
        frames = stream.frames(4)
    assert {frame.event for frame in frames} == {None, "feed.open", "feed.gap", "feed.live"}
    for frame in frames:
        validator = payload_validator(document, "orders_id_http", frame.event or "event")
        assert validator.is_valid(frame.json), frame
    assert {message["type"] for message in messages} == {"message", "feed.open", "feed.ack", "feed.error"}
    for message in messages:
        name = message["type"] if message["type"] != "message" else "event"
        assert payload_validator(document, "orders_id_websocket", name).is_valid(message), message


def test_an_application_that_hides_its_documents_hides_this_one(typed: AppServer) -> None:
    assert httpx.get(f"{typed.url}/hidden/asyncapi.json").status_code == 404
    assert httpx.get(f"{typed.url}/hidden/events/a", headers={"Accept": "application/json"}).status_code == 200
