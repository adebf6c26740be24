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
from feed.fastapi.http.parameters import PARAMETERS, Use
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


def judged(document: Any, channel: str, name: str, message: Any) -> None:
    """Hold a message against what the document says of it, and see that it says anything."""
    validator = payload_validator(document, channel, name)
    assert validator.is_valid(message), (name, message)
    assert not validator.is_valid("text"), name


def test_state_is_sent_as_the_document_says(typed: AppServer) -> None:
    document = document_of(typed.url, "/live/asyncapi.json")
    events = f"{typed.url}/live/events"
    for id in ("old", "new"):
        httpx.post(f"{events}/orders/{id}", json={"total": 1}).raise_for_status()
    for query, name in (
        ("orders/new?latest=1", "event"),
        ("orders/new?topic=orders/old&latest=1&every=100ms", "envelope"),
    ):
        with subscribed(f"{events}/{query}", opened=False) as stream:
            first = stream.until("feed.live")
            httpx.delete(f"{events}/orders/new").raise_for_status()
            gone = stream.until("feed.deleted")[-1]
        for frame in [*first, gone]:
            judged(document, "orders_id_http", frame.event or name, frame.json)
        httpx.post(f"{events}/orders/new", json={"total": 2}).raise_for_status()
    with connect(f"ws://127.0.0.1:{typed.port}/live/ws/orders/new?topic=orders/old&latest=1") as socket:
        messages = [json.loads(socket.recv(10)) for _ in range(4)]
        assert "resume" in messages[1], "the first load has two ids"
        httpx.delete(f"{events}/orders/new").raise_for_status()
        messages.append(json.loads(socket.recv(10)))
    assert [message["type"] for message in messages] == ["feed.open", "message", "message", "feed.live", "feed.deleted"]
    for message in messages:
        judged(document, "orders_id_websocket", message["type"].replace("message", "event"), message)


def test_a_stream_says_as_the_document_does_whether_older_events_are_gone(serve: Serve) -> None:
    server = serve("--log", "memory:", "--retain", "noise/**=5")
    document = document_of(server.url)
    batch = [{"topic": "noise/1", "data": 1}] * 20 + [{"topic": "quiet", "data": 1}]
    server.http.post(f"{server.url}/events", json=batch).raise_for_status()
    server.http.get(f"{server.url}/events/**?latest=1", headers={"Accept": "application/json"})  # all was passed on
    for topic, said in (("noise/1", {"complete": False}), ("quiet", {})):
        with subscribed(f"{server.url}/events/{topic}?after=earliest", opened=False) as stream:
            over_http = stream.frame().json
        with connect(f"ws://127.0.0.1:{server.port}/ws/{topic}?after=earliest") as socket:
            message = json.loads(socket.recv(10))
        for channel, opened, data in (
            ("any_http", over_http, over_http),
            ("any_websocket", message, message["data"]),
        ):
            assert {name: data[name] for name in data if name == "complete"} == said, channel
            judged(document, channel, "feed.open", opened)
            wrong = json.loads(json.dumps(opened))
            (wrong if opened is data else wrong["data"])["complete"] = True
            assert not payload_validator(document, channel, "feed.open").is_valid(wrong), "it is never true"


@pytest.mark.parametrize(
    ("name", "message", "answer"),
    [
        ("published", {"data": {"total": 1}, "ttl": "1h"}, "feed.ack"),
        ("published", {"data": {"total": 1}, "ttl": 60, "if_match": "*"}, "feed.ack"),
        ("published", {"data": {"total": 1}, "if_none_match": "*"}, 412),
        ("published", {"data": {"total": 1}, "if_none_match": "old-1"}, 422),
        ("published", {"data": {"total": 1}, "ttl": [1]}, 422),
        ("renewal", {"renew": True, "ttl": "2h", "topic": "orders/asked", "ref": {"a": 1}}, "feed.ack"),
        ("renewal", {"renew": True, "ttl": 60, "key": "a"}, 422),
        ("renewal", {"renew": True}, 422),
        ("deletion", {"delete": True, "data": 1}, 422),
        ("deletion", {"delete": True, "if_match": "old-1", "ref": 1}, 412),
        ("deletion", {"delete": True, "if_match": "*", "key": "k"}, "feed.ack"),
    ],
)
def test_a_message_is_taken_if_the_document_says_so(
    typed: AppServer, name: str, message: dict[str, Any], answer: str | int
) -> None:
    document = document_of(typed.url, "/live/asyncapi.json")
    httpx.post(f"{typed.url}/live/events/orders/asked", json={"total": 1}).raise_for_status()
    assert payload_validator(document, "orders_id_websocket", name).is_valid(message) is (answer != 422)
    with connect(f"ws://127.0.0.1:{typed.port}/live/ws/orders/asked") as socket:
        socket.recv(10)
        socket.send(json.dumps(message))
        while not (got := json.loads(socket.recv(10)))["type"].startswith(("feed.ack", "feed.error")):
            pass
    judged(document, "orders_id_websocket", got["type"], got)
    assert answer == (got["type"] if got["type"] == "feed.ack" else got["data"]["status"])
    assert ("topic" in got["data"]) is (name == "renewal" and answer == "feed.ack")
    assert ("current" in got["data"]) is (answer == 412)


def test_the_query_of_a_stream_says_what_can_be_asked_of_state(typed: AppServer) -> None:
    document = document_of(typed.url, "/live/asyncapi.json")
    over_http = document["operations"]["subscribe_any_http"]["bindings"]["http"]["query"]["properties"]
    over_websocket = document["channels"]["any_websocket"]["bindings"]["ws"]["query"]["properties"]
    assert {"latest", "every"} <= set(over_websocket)
    assert set(over_http) - set(over_websocket) == {"envelope"}, "a WebSocket always has the whole event"
    assert set(over_http) <= {name for name, uses in PARAMETERS.items() if Use.STREAM in uses}
    published = document["operations"]["publish_any_http"]["bindings"]["http"]["query"]["properties"]
    assert set(published) == {name for name, uses in PARAMETERS.items() if Use.ONE in uses} - {"token"}


def test_an_application_that_hides_its_documents_hides_this_one(typed: AppServer) -> None:
    assert httpx.get(f"{typed.url}/hidden/asyncapi.json").status_code == 404
    assert httpx.get(f"{typed.url}/hidden/events/a", headers={"Accept": "application/json"}).status_code == 200
