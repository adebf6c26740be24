"""CloudEvents over HTTP: pure first, then to a real server, from the CNCF's own SDK and by hand."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from feed import Invalid, Malformed, TooLarge
from feed.event import Draft
from feed.fastapi.http.problems import Refused
from feed.fastapi.routes.cloudevents import form_of, key_of, read
from tests.conftest import Serve
from tests.support.running import RunningServer
from tests.support.tokens import SECRET, bearer, token

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
EVENT = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "com.example.created", "subject": "orders/42"}


def structured(**changes: Any) -> Draft:
    given = {name: value for name, value in {**EVENT, **changes}.items() if value != "gone"}
    return read("structured", json.dumps(given).encode(), [])[0].draft(None, None, 1_000)


def binary(body: bytes = b"x", /, **headers: str | None) -> Draft:
    named = {f"ce-{name}": value for name, value in {**EVENT, **headers}.items()}
    named["content-type"] = named.pop("ce-content_type", None)
    lines = [(name.encode(), value.encode("latin-1")) for name, value in named.items() if value is not None]
    return read("binary", body, lines)[0].draft(None, None, 1_000)


@pytest.mark.parametrize(
    ("changes", "data", "is_json"),
    [
        ({"data": {"n": 10**30, "b": 1, "a": 2}}, '{"n": 1000000000000000000000000000000, "b": 1, "a": 2}', True),
        ({"data": {"n": 1}, "datacontenttype": "application/json; charset=utf-8"}, '{"n": 1}', True),
        ({"data": [1], "datacontenttype": "application/vnd.order+json"}, "[1]", True),
        ({"data": "a text", "datacontenttype": "text/plain"}, "a text", False),
        ({"data": "<order/>", "datacontenttype": "application/xml"}, "<order/>", False),
        ({"data": "a JSON string"}, "a JSON string", False),
        ({"data": None}, "null", True),
        ({}, "", False),
        ({"data_base64": base64.b64encode(b'{"n": 1}').decode()}, '{"n": 1}', True),
        ({"data_base64": base64.b64encode("é".encode()).decode(), "datacontenttype": "text/plain"}, "é", False),
        ({"data_base64": ""}, "", False),
    ],
)
def test_data_is_json_where_its_content_type_says_so_and_else_text(
    changes: dict[str, Any], data: str, is_json: bool
) -> None:
    draft = structured(**changes)
    assert (draft.text, draft.is_json) == (data, is_json)
    assert (draft.topic, draft.type) == ("orders/42", "com.example.created")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"specversion": "0.3"}, "specversion: only CloudEvents 1.0"),
        ({"specversion": "gone"}, "specversion: is missing: a CloudEvent has "),
        ({"id": "gone"}, "id: is missing: a CloudEvent has "),
        ({"source": "gone"}, "source: is missing: a CloudEvent has "),
        ({"type": "gone"}, "type: is missing: a CloudEvent has "),
        ({"id": ""}, "id: may not be empty"),
        ({"source": ""}, "source: may not be empty"),
        ({"id": 5}, "id: has to be text, not a number"),
        ({"subject": "gone"}, "subject: is missing"),
        ({"subject": None}, "subject: is missing"),
        ({"subject": ""}, "topic: may not be empty"),
        ({"subject": "orders/*"}, "topic: may not contain"),
        ({"subject": "an order"}, "topic: may not contain the character U\\+0020"),
        ({"type": "feed.gap"}, "type: "),
        ({"type": "a b"}, "type: "),
        ({"data": {"n": 1}, "datacontenttype": "text/plain"}, "data: has to be a string"),
        ({"data": "x", "data_base64": "eA=="}, "data: may not be given together with data_base64"),
    ],
)
def test_what_is_no_cloudevent_or_no_event_of_ours_is_invalid(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        structured(**changes)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "it is empty"),
        (b"{", "breaks off"),
        (b'{"id": "\\ud800 and more"}', "surrogate"),
        (b'{"id": "\xff"}', "not UTF-8: byte 8"),
        (b'{"x": ' + b"[" * 100_000, "breaks off|nested deeper"),
        (json.dumps({**EVENT, "data": 0})[:-2].encode() + b"[" * 101 + b"]" * 101 + b"}", "nested deeper"),
        (json.dumps({**EVENT, "data_base64": "!"}).encode(), "not Base64"),
        (json.dumps({**EVENT, "data_base64": "/w==", "datacontenttype": "image/png"}).encode(), "data: not UTF-8"),
        (json.dumps({**EVENT, "data_base64": "/w=="}).encode(), "data: not JSON"),
    ],
)
def test_what_cannot_be_read_is_malformed(body: bytes, words: str) -> None:
    with pytest.raises(Malformed, match=words):
        read("structured", body, [])[0].draft(None, None, 1_000)


def test_json_data_that_is_too_large_is() -> None:
    with pytest.raises(TooLarge):
        structured(data=["x" * 1_000])


@pytest.mark.parametrize(
    ("header", "topic"),
    [
        ("orders/42", "orders/42"),
        ("Euro-%E2%82%AC-%F0%9F%98%80", "Euro-€-😀"),
        ('"quoted/\\"a\\\\b\\""', 'quoted/"a\\b"'),
        ("%22a%22", '"a"'),
        ("once%2525", "once%25"),
        ("100%", "100%"),
        (" around ", "around"),
    ],
)
def test_a_header_is_taken_out_of_its_quotes_and_decoded_once(header: str, topic: str) -> None:
    assert binary(subject=header).topic == topic


@pytest.mark.parametrize("attribute", ["specversion", "type", "subject", "datacontenttype"])
def test_a_refusal_does_not_give_back_all_that_was_sent(attribute: str) -> None:
    with pytest.raises(Invalid) as raised:
        structured(**{"data": {}, attribute: "\x85" * 100_000})
    assert len(str(raised.value)) < 1_000


def test_headers_that_are_missing_doubled_or_no_text_are_refused() -> None:
    for name in ("id", "source", "type"):
        with pytest.raises(Invalid, match=f"ce-{name}: is missing"):
            binary(**{name: None})
    with pytest.raises(Malformed, match="ce-subject: not UTF-8"):
        binary(subject="%ff")
    with pytest.raises(Invalid, match="ce-id: may be given only once"):
        read("binary", b"", [(b"ce-specversion", b"1.0"), (b"ce-id", b"1"), (b"ce-id", b"2")])


@pytest.mark.parametrize(
    ("content_type", "body", "is_json"),
    [
        ("application/json", b'{"n": 1}', True),
        ("application/vnd.order+json; v=1", b"1", True),
        ("text/plain", b"1", False),
        (None, b"1", False),
        ("application/json", b"", False),
    ],
)
def test_in_binary_mode_the_body_is_the_data(content_type: str | None, body: bytes, is_json: bool) -> None:
    draft = binary(body, content_type=content_type)
    assert (draft.text, draft.is_json) == (body.decode(), is_json)


def test_the_key_is_made_of_source_and_id_and_of_nothing_else() -> None:
    def key(*pairs: tuple[str, str]) -> str:
        return key_of(
            [
                read("structured", json.dumps({**EVENT, "source": source, "id": id, "data": source}).encode(), [])[0]
                for source, id in pairs
            ]
        )

    keys = [
        key(("a", "b")),
        key(("ab", "b")),
        key(("b", "a")),
        key(("a", "b"), ("c", "d")),
        key(("c", "d"), ("a", "b")),
        key(("a", "bcd")),
        key(("é" * 300, "\n")),
    ]
    assert len(set(keys)) == len(keys)
    assert key(("a", "b")) == keys[0]
    assert all(1 <= len(each) <= 255 and each.isascii() for each in keys)


def test_a_format_of_cloudevents_that_is_not_json_is_refused_as_a_media_type() -> None:
    with pytest.raises(Refused) as raised:
        form_of("application/cloudevents+avro", [])
    assert raised.value.response.status_code == 415
    assert form_of("application/json", [(b"ce-id", b"1"), (b"ce-type", b"t")]) is None


# Over HTTP.


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url) as client:
        yield client


def events_of(client: httpx.Client, topic: str) -> Any:
    return client.get(f"/events/{topic}", headers={"Accept": "application/json"}).json()["events"]


def send(client: httpx.Client, message: HTTPMessage, path: str = "/events") -> httpx.Response:
    return client.post(path, content=message.body, headers=message.headers)


@pytest.mark.parametrize("form", [to_binary, to_structured])
@pytest.mark.parametrize(
    ("data", "content_type", "expected"),
    [
        ({"total": 3, "é": "😀"}, "application/json", {"total": 3, "é": "😀"}),
        ("a text\nof two lines", "text/plain", "a text\nof two lines"),
        ("é😀".encode(), "application/octet-stream", "é😀"),
        (None, None, ""),
    ],
)
def test_what_the_sdk_sends_is_published(
    client: httpx.Client, form: Any, data: Any, content_type: str | None, expected: Any
) -> None:
    topic = f"sdk/{form.__name__}/€/{str(content_type).replace('/', '.')}"
    attributes = {
        "id": f"A-1 {topic}",
        "source": "https://shop.example.org/orders?a=b",
        "type": "com.example.order.created",
        "subject": topic,
        "time": datetime(2020, 1, 1, tzinfo=UTC),
        "traceparent": "00-1-2-01",
        "specversion": "1.0",
        **({"datacontenttype": content_type} if content_type else {}),
    }
    message = form(CloudEvent(attributes=attributes, data=data), JSONFormat())
    answer = send(client, message)
    assert answer.status_code == 201, answer.text
    assert answer.json()["topic"] == topic
    assert send(client, message).json() == answer.json(), "the same source and id: once"
    [event] = events_of(client, "sdk/**")[-1:]
    assert (event["id"], event["topic"], event["type"]) == (answer.json()["id"], topic, "com.example.order.created")
    assert event["data"] == expected
    assert event["time"] > "2026", "when it was committed"


def test_the_url_goes_before_subject_and_type(client: httpx.Client) -> None:
    body = {**EVENT, "id": "url", "type": "has/a/slash", "subject": "no topic", "data": 1}
    answer = client.post("/events/url/1?type=named", content=json.dumps(body), headers={"Content-Type": STRUCTURED})
    assert answer.json()["topic"] == "url/1"
    assert events_of(client, "url/1")[0]["type"] == "named"
    bad = client.post("/events/url/*", content=json.dumps(body), headers={"Content-Type": STRUCTURED})
    assert bad.status_code == 422


def test_the_same_source_and_id_with_something_else_is_refused_and_a_key_of_its_own_wins(
    client: httpx.Client,
) -> None:
    def post(data: int, **headers: str) -> int:
        body = json.dumps({**EVENT, "id": "same", "subject": "same", "data": data})
        return client.post("/events", content=body, headers={"Content-Type": STRUCTURED, **headers}).status_code

    assert [post(1), post(1), post(2)] == [201, 201, 422]
    assert [post(2, **{"Idempotency-Key": "own"}), post(2, **{"Idempotency-Key": "own"})] == [201, 201]
    assert [event["data"] for event in events_of(client, "same")] == [1, 2]


def test_a_batch_is_committed_whole_in_order_and_once(client: httpx.Client) -> None:
    def post(*events: dict[str, Any], path: str = "/events") -> httpx.Response:
        body = json.dumps([{**EVENT, "subject": "batch", **event} for event in events])
        return client.post(path, content=body, headers={"Content-Type": BATCH})

    first = post({"id": "a", "data": 1}, {"id": "b", "data": 2})
    assert first.status_code == 201
    assert [event["id"] for event in events_of(client, "batch")] == first.json()["ids"]
    assert post({"id": "a", "data": 1}, {"id": "b", "data": 2}).json() == first.json()
    for refused, words in (
        (post({"id": "c"}, {"id": "d", "type": "a b"}), "event 1: type: "),
        (post({"id": "c"}, {"id": "c"}), "event 1: has the same source and id as event 0"),
        (post({"id": "c"}, {"id": "d", "specversion": "2.0"}), "event 1: specversion: "),
        (post(), "batch: has no event in it"),
    ):
        assert (refused.status_code, refused.json()["detail"][: len(words)]) == (422, words)
    assert post({"id": "e", "subject": "no topic"}, path="/events/batch").status_code == 201
    assert [event["data"] for event in events_of(client, "batch")] == [1, 2, ""]


def test_other_headers_that_begin_alike_change_nothing(client: httpx.Client) -> None:
    headers = {"ce-id": "1", "ce-source": "s", "ce-type": "t", "ce-subject": "elsewhere"}
    assert client.post("/events/plain", content="x", headers=headers).json()["topic"] == "plain"
    assert events_of(client, "plain")[0]["type"] == "message"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/cloudevents+protobuf"}, 415),
        ({"Content-Type": f"{STRUCTURED}; charset=utf-16"}, 415),
        ({"Content-Type": STRUCTURED}, 400),
        ({"ce-specversion": "1.0"}, 422),
        ({"ce-specversion": "2.0", "ce-id": "1", "ce-source": "s", "ce-type": "t", "ce-subject": "a"}, 422),
    ],
)
def test_what_is_refused_is_a_problem_on_both_routes(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    for path in ("/events", "/events/a"):
        answer = client.post(path, content="{", headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_grants_count_for_the_topic_that_the_subject_names(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET, max_data="1K")
    headers = {"Content-Type": STRUCTURED, **bearer(token(["orders/*"], ["**"], sub="shop"))}

    def post(path: str = "/events", data: str = "x", **changes: str) -> int:
        body = json.dumps({**EVENT, "data": data, **changes})
        return server.http.post(f"{server.url}{path}", content=body, headers=headers).status_code

    assert post() == 201
    assert post(subject="news/1", id="2") == 403
    assert post("/events/news/1", id="3") == 403
    assert post("/events/orders/1", subject="news/1", id="4") == 201
    assert post(data="x" * 1_025, id="5") == 413
    batch = json.dumps([{**EVENT, "id": "6"}, {**EVENT, "id": "7", "subject": "news/1"}])
    refused = server.http.post(f"{server.url}/events", content=batch, headers={**headers, "Content-Type": BATCH})
    assert refused.status_code == 403
    page = server.http.get(f"{server.url}/events/**", headers={**headers, "Accept": "application/json"}).json()
    assert [event["topic"] for event in page["events"]] == ["orders/42", "orders/1"]
