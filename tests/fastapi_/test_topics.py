"""Typed topics: what is published is held against a model, whichever way it comes, and kept as it came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import fastapi
import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from feed import EARLIEST, Event, Feed, Invalid, NoEvents, PreconditionFailed, draft
from feed.fastapi import Grants, Topic, feed_router
from feed.fastapi.topics import Mismatch, Topics
from feed.testing import AppServer
from tests.support.streams import subscribed


class Line(BaseModel):
    sku: str
    count: int = Field(default=1, ge=1)


class Order(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    total: int
    lines: list[Line] = []
    due: datetime | None = Field(default=None, alias="dueAt")


FASTAPI = tuple(map(int, fastapi.__version__.split(".")[:2]))

orders = Topic("orders/{id}", Order)
lines = Topic("orders/{id}/lines/{number}", Line)
created = Topic("carts/{id}", Order, type="created")
emptied = Topic("carts/{id}", bool, type="emptied")
names = Topic("names", str)


class Broken(BaseModel):
    total: int

    @field_validator("total")
    @classmethod
    def check(cls, total: int) -> int:
        raise RuntimeError("a mistake in somebody's validator")


broken = Topic("broken", Broken)


@pytest.fixture(scope="module")
def feed() -> Feed:
    return Feed("memory:")


@pytest.fixture(scope="module")
def server(feed: Feed) -> Iterator[AppServer]:
    app = FastAPI()
    topics: list[Topic[Any]] = [orders, lines, created, emptied, names, broken]
    app.include_router(feed_router(feed, topics=topics), prefix="/live")
    app.include_router(feed_router(feed, topics=[orders, emptied], strict_topics=True), prefix="/strict")
    only_news = feed_router(feed, topics=[orders], authorize=lambda: Grants(publish=["news"]))
    app.include_router(only_news, prefix="/news")
    with AppServer(app, feed) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: AppServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=10) as client:
        yield client


JSON = {"Content-Type": "application/json"}


def test_what_fits_is_kept_as_it_was_published(client: httpx.Client) -> None:
    text = '{"total": "3",  "unknown": 123456789012345678901234567890, "total": 4}'
    assert client.post("/live/events/orders/1", content=text, headers=JSON).status_code == 201
    page = client.get("/live/events/orders/1", headers={"Accept": "application/json"})
    assert text in page.text


@pytest.mark.parametrize(
    ("data", "errors"),
    [
        ('{"total": "x"}', ["/total"]),
        ("{}", ["/total"]),
        ("[]", [""]),
        ('"text"', [""]),
        ("null", [""]),
        ('{"total": 1, "lines": [{"sku": "a"}, {"sku": 5, "count": 0}]}', ["/lines/1/sku", "/lines/1/count"]),
        ('{"total": 1, "dueAt": "tomorrow"}', ["/dueAt"]),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_wrong_and_where(
    client: httpx.Client, data: str, errors: list[str]
) -> None:
    answer = client.post("/live/events/orders/2", content=data, headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    problem = answer.json()
    assert [each["pointer"] for each in problem["errors"]] == errors
    assert "orders/{id}" in problem["detail"]
    for each in problem["errors"]:
        assert each["detail"] in problem["detail"]
    assert client.get("/live/events/orders/2", headers={"Accept": "application/json"}).json()["events"] == []


def test_json_sent_as_a_form_is_text_and_the_answer_says_so(client: httpx.Client) -> None:
    answer = client.post(
        "/live/events/orders/1",
        content='{"total": 3}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["detail"]


def test_text_is_for_a_model_that_is_text(client: httpx.Client) -> None:
    for headers, content in ((JSON, '"Ann"'), ({}, "Ann")):
        assert client.post("/live/events/names", content=content, headers=headers).status_code == 201
    assert client.post("/live/events/names", content="5", headers=JSON).status_code == 422


GOOD, BAD = {"topic": "orders/1", "data": {"total": 1}}, {"topic": "orders/1", "data": {"total": "x"}}


@pytest.mark.parametrize(
    ("media_type", "body", "place"),
    [
        ("application/json", json.dumps(BAD), "data:"),
        ("application/json", json.dumps([GOOD, GOOD, BAD]), "event 2: data:"),
        ("application/x-ndjson", f"\n{json.dumps(GOOD)}\n\n  {json.dumps(BAD)}", "line 4: data:"),
        ("application/x-ndjson", json.dumps(BAD), "line 1: data:"),
        (
            "application/json",
            json.dumps([{"topic": "n", "data": "x" * 1000}] * 300 + [BAD]),  # large enough for a thread
            "event 300: data:",
        ),
        (
            "application/cloudevents+json",
            json.dumps({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "subject": "orders/1", "data": 1}),
            "data:",
        ),
        (
            "application/cloudevents-batch+json",
            json.dumps(
                [
                    {
                        "specversion": "1.0",
                        "id": f"{n}",
                        "source": "s",
                        "type": "t",
                        "subject": "orders/1",
                        "data": data,
                    }
                    for n, data in enumerate([{"total": 1}, {"total": None}])
                ]
            ),
            "event 1: data:",
        ),
    ],
)
def test_one_event_that_does_not_fit_refuses_the_whole_batch_and_is_named(
    client: httpx.Client, feed: Feed, media_type: str, body: str, place: str
) -> None:
    before = feed.statistics().position
    answer = client.post("/live/events", content=body, headers={"Content-Type": media_type})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{place} does not fit orders/{{id}}: ")
    assert answer.json()["errors"]
    assert feed.statistics().position == before


def test_a_model_that_breaks_publishes_nothing_and_is_counted_whichever_way_it_comes(
    server: AppServer, client: httpx.Client, feed: Feed
) -> None:
    before = feed.counters.publishes["failed"]
    assert client.post("/live/events/broken", content='{"total": 1}', headers=JSON).status_code == 500
    with connect(f"{server.url.replace('http', 'ws')}/live/ws/broken") as socket, pytest.raises(ConnectionClosed):
        socket.send('{"data": {"total": 1}}')
        for _ in range(3):
            socket.recv(5)
    assert feed.counters.publishes["failed"] == before + 2


def test_a_websocket_is_told_for_which_message_and_stays_open(server: AppServer) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/live/ws/orders/ws") as socket:
        socket.recv(10)
        socket.send('{"data": {"total": "x"}, "ref": 7}')
        answer = json.loads(socket.recv(10))
        assert (answer["type"], answer["data"]["ref"], answer["data"]["status"]) == ("feed.error", 7, 422)
        assert "/total: has to be a whole number" in answer["data"]["detail"]
        socket.send("text")
        assert json.loads(socket.recv(10))["data"]["status"] == 422
        socket.send('{"data": {"total": 1}, "ref": 8}')
        assert {json.loads(socket.recv(10))["type"] for _ in range(2)} == {"feed.ack", "message"}


def test_a_binary_cloudevent_is_held_against_the_model_of_its_topic(client: httpx.Client) -> None:
    headers = {"ce-specversion": "1.0", "ce-source": "s", "ce-type": "t", "ce-subject": "orders/1", **JSON}
    for id, data, status in (("bad", "{}", 422), ("good", '{"total": 1}', 201)):
        answer = client.post("/live/events", content=data, headers={**headers, "ce-id": id})
        assert answer.status_code == status


def test_topics_that_nothing_covers_are_free_unless_said_otherwise(client: httpx.Client) -> None:
    statuses = {
        path: [client.post(f"/{each}/events/{path}", json=1).status_code for each in ("live", "strict")]
        for path in ("free", "orders/1/2", "orders", "carts/1?type=other", "carts/1")
    }
    assert statuses == {path: [201, 422] for path in statuses}
    refused = client.post("/strict/events/free", json=1).json()
    assert refused["detail"] == "topic: no topic of this feed is 'free' with the type 'message'"
    assert client.post("/strict/events/carts/1?type=emptied", json=True).status_code == 201


def test_a_type_has_a_model_of_its_own(client: httpx.Client) -> None:
    statuses = [
        client.post(f"/live/events/carts/1?type={type}", json=data).status_code
        for type, data in (("created", {"total": 1}), ("created", True), ("emptied", True), ("emptied", {"total": 1}))
    ]
    assert statuses == [201, 422, 201, 422]


def test_who_may_not_publish_learns_nothing_of_the_model(client: httpx.Client) -> None:
    for path, body in (("orders/1", "1"), ("", json.dumps(BAD)), ("", json.dumps([BAD]))):
        url = f"/news/events/{path}".rstrip("/")
        assert client.post(url, content=body, headers=JSON).status_code == 403


def test_the_first_topic_that_covers_an_event_counts() -> None:
    special = Topic("orders/special", int)
    assert Topics([special, orders]).find("orders/special", "message") is special
    assert Topics([orders, special]).find("orders/special", "message") is orders
    typed = Topic("orders/{id}", int, type="count")
    assert Topics([typed, orders]).find("orders/1", "count") is typed
    assert Topics([typed, orders]).find("orders/1", "other") is orders
    assert Topics([typed]).find("orders/1", "other") is None
    assert not Topics().are_checked


class Many(BaseModel):
    model_config = ConfigDict(extra="forbid")

    count: Annotated[int, Field(gt=0, multiple_of=2)] = 2
    name: Annotated[str, Field(min_length=2, pattern="^[a-z]+$")] = "ab"
    at: datetime = datetime(2026, 11, 21, tzinfo=UTC)
    kind: Literal["new", "old"] = "new"
    tags: Annotated[list[str], Field(max_length=1)] = []
    flag: bool = True
    whole: dict[str, float] = {}
    own: str = ""

    @field_validator("own")
    @classmethod
    def _own(cls, own: str) -> str:
        if own == "custom":
            raise PydanticCustomError("shop_own", "is not {what}", {"what": "ours"})
        if own:
            raise ValueError("is for tomorrow")
        return own


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"count": 0}, "/count: has to be more than 0"),
        ({"count": 3}, "/count: has to be a multiple of 2"),
        ({"name": "a"}, "/name: has to have at least 2 characters"),
        ({"name": "AB"}, "/name: has to match ^[a-z]+$"),
        ({"at": "x"}, "/at: has to be a date and time, such as 2026-11-21T03:05:00Z"),
        ({"kind": "x"}, "/kind: has to be 'new' or 'old'"),
        ({"tags": ["a", "b"]}, "/tags: has to have at most 1 items"),
        ({"tags": 1}, "/tags: has to be an array"),
        ({"flag": 2}, "/flag: has to be true or false"),
        ({"whole": {"a": "b"}}, "/whole/a: has to be a number"),
        ({"whole": []}, "/whole: has to be an object"),
        ({"more": 1}, "/more: is not a field here"),
        ([], "has to be an object"),
        ({"own": "x"}, "/own: is for tomorrow"),
        ({"own": "custom"}, "/own: is not ours"),
    ],
)
def test_what_does_not_fit_is_said_in_words_of_our_own_or_the_model_s(data: object, words: str) -> None:
    with pytest.raises(Mismatch) as raised:
        Topic("a", Many).validate(json.dumps(data), is_json=True)
    assert raised.value.detail == f"does not fit a: {words}"


def test_many_errors_are_told_up_to_a_bound() -> None:
    with pytest.raises(Mismatch, match=r"and 80 more") as raised:
        Topic("n", list[int]).validate(json.dumps(["x"] * 100), is_json=True)
    assert len(raised.value.errors) == 20
    with pytest.raises(Mismatch, match=r"in 1,001 places") as raised:
        Topic("n", list[int]).validate(json.dumps(["x"] * 1001), is_json=True)
    assert len(raised.value.errors) == 0


def test_errors_do_not_give_back_all_that_was_published() -> None:
    with pytest.raises(Mismatch) as raised:
        Topic("n", dict[str, list[int]]).validate(json.dumps({"k" * 100_000: ["x"] * 30}), is_json=True)
    assert len(str(raised.value)) + len(json.dumps(raised.value.errors)) < 20_000


@pytest.mark.parametrize(
    "address",
    [
        "",
        "/orders",
        "orders/",
        "orders//{id}",
        "orders/{}",
        "orders/{a-b}",
        "orders/x{id}",
        "orders/*",
        "orders/{id}/{id}",
        "orders/{id",
        "orders/{id}}",
        "../{id}",
        "$a",
        "a b",
    ],
)
def test_an_address_that_no_topic_can_have_is_refused(address: str) -> None:
    with pytest.raises(Invalid):
        Topic(address, int)


def test_a_topic_has_a_name_for_each_of_its_parameters() -> None:
    assert lines(id=7, number="a") == "orders/7/lines/a"
    assert lines.pattern == "orders/*/lines/*"
    for wrong in ({}, {"id": 7}, {"id": 7, "number": 1, "more": 2}):
        with pytest.raises(TypeError, match="takes these parameters: id, number"):
            lines(**wrong)
    for segment in ("a/b", "", "a b", "..", "*"):
        with pytest.raises(Invalid):
            orders(id=segment)


def test_a_value_is_published_and_read_back_in_python() -> None:
    async def scenario() -> None:
        async with Feed("memory:") as feed:
            due = datetime(2026, 11, 21, tzinfo=UTC)
            order = Order(total=3, due=due)
            await orders(id=7).publish(feed, order, key="k")
            assert (await orders(id=7).publish(feed, order, key="k")).endswith("-1"), "once"
            await created(id=7).publish(feed, order)
            await names().publish(feed, "Ann")
            await feed.publish_batch([orders(id=8).draft(order), draft("orders/9", {"total": "x"})])
            got: list[Any] = []
            async with feed.subscribe("**", after=EARLIEST) as events:
                while len(got) < 5:
                    got.append(await anext(events))
            assert all(isinstance(event, Event) for event in got)
            assert [(event.topic, event.type) for event in got[:3]] == [
                ("orders/7", "message"), ("carts/7", "created"), ("names", "message")
            ]  # fmt: skip
            assert got[0].data == {"total": 3, "lines": [], "dueAt": "2026-11-21T00:00:00Z"}
            assert orders.parse(got[0]) == created.parse(got[1]) == order
            assert (names.parse(got[2]), got[2].is_json) == ("Ann", False)
            with pytest.raises(Mismatch, match="/total"):
                orders.parse(got[4])
            with pytest.raises(Mismatch, match="not one of"):
                orders.parse(got[1])

    asyncio.run(scenario())


def test_the_newest_value_of_a_topic_comes_as_the_model() -> None:
    async def scenario() -> None:
        async with Feed("memory:") as feed:
            seven = orders(id=7)
            assert await seven.latest(feed) is None
            for total in (1, 2):
                await seven.publish(feed, Order(total=total))
            await orders(id=8).publish(feed, Order(total=3))
            newest: Order | None = await seven.latest(feed)
            assert newest == Order(total=2)
            await seven.delete(feed)
            assert await seven.latest(feed) is None
            assert await orders(id=8).latest(feed) == Order(total=3)
            await feed.publish(seven, {"total": "x"})
            with pytest.raises(Mismatch, match="/total"):
                await seven.latest(feed)
            await created(id=1).publish(feed, Order(total=1))
            assert await created(id=1).latest(feed) == Order(total=1)
            with pytest.raises(Mismatch, match="with the type 'created'"):
                await emptied(id=1).latest(feed)

    asyncio.run(scenario())


def test_a_typed_topic_is_published_and_deleted_on_terms() -> None:
    async def scenario() -> None:
        async with Feed("memory:") as feed:
            seven = orders(id=7)
            with pytest.raises(NoEvents):
                await seven.delete(feed)
            first = await seven.publish(feed, Order(total=1), if_none_match="*")
            with pytest.raises(PreconditionFailed) as raised:
                await seven.publish(feed, Order(total=2), if_none_match="*")
            assert raised.value.current == first
            second = await seven.publish(feed, Order(total=3), if_match=first)
            with pytest.raises(PreconditionFailed):
                await seven.delete(feed, if_match=first)
            assert await seven.latest(feed) == Order(total=3)
            gone = await seven.delete(feed, if_match=second, key="k")
            assert await seven.delete(feed, if_match=second, key="k") == gone, "once"
            with pytest.raises(Mismatch):
                await seven.publish(feed, Order.model_construct(total=None), if_none_match="*")  # type: ignore[arg-type]
            with pytest.raises(Invalid, match="ttl"):
                await seven.publish(feed, Order(total=4), ttl=0)
            async with feed.subscribe(seven, latest=True) as events:
                await seven.publish(feed, Order(total=4), ttl=1)
                got: list[Any] = [await anext(events) for _ in range(2)]
            assert [(each.type, each.data) for each in got] == [
                ("message", {"total": 4, "lines": [], "dueAt": None}),
                ("feed.deleted", {}),
            ]
            assert await seven.latest(feed) is None

    asyncio.run(scenario())


def test_a_value_that_its_own_model_would_refuse_is_not_published() -> None:
    async def scenario() -> None:
        async with Feed("memory:") as feed:
            with pytest.raises(Mismatch, match="/total"):
                await orders(id=7).publish(feed, Order.model_construct(total=None))  # type: ignore[arg-type]
            with pytest.raises(Mismatch, match="with the type 'other'"):
                await created(id=7).publish(feed, Order(total=1), type="other")
            assert feed.statistics().position == 0

    asyncio.run(scenario())


def test_the_applications_document_has_the_models(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert {"Order", "Line"} <= set(document["components"]["schemas"])
    path = document["paths"]["/live/events/orders/{id}"]
    body = path["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["$ref"] == "#/components/schemas/Order"
    stream = path["get"]["responses"]["200"]["content"]["text/event-stream"]["itemSchema"]
    if FASTAPI >= (0, 141):  # which before forgets a stream's model where a router is included
        assert stream["properties"]["data"]["contentMediaType"] == "application/json"
        assert stream["properties"]["data"]["contentSchema"] == {"$ref": "#/components/schemas/Order"}
    carts = document["paths"]["/live/events/carts/{id}"]["post"]["requestBody"]["content"]["application/json"]
    kinds = [each.get("$ref", each.get("type")) for each in carts["schema"]["anyOf"]]
    assert kinds == ["#/components/schemas/Order", "boolean"]
    untyped = document["paths"]["/live/events/{topic}"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    assert set(untyped["itemSchema"]["properties"]) == {"id", "event", "data", "retry"}


def test_documenting_a_topic_changes_nothing_of_what_answers(server: AppServer, client: httpx.Client) -> None:
    with subscribed(f"{server.url}/live/events/orders/documented?last=1") as stream:
        client.post("/live/events/orders/documented?type=x", json={"total": 1}).raise_for_status()
        frames = stream.frames(2)
        assert [frame.event for frame in frames] == ["feed.live", "x"]
