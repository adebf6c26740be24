"""The contract of publishing, a row a test, over real HTTP."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gzip
import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Serve
from tests.support.hostile import MEGABYTE, peak_memory
from tests.support.running import RunningServer

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def post(server: RunningServer, path: str, content: bytes | str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.http.post(f"{server.url}{path}", content=content, headers=named)


def assert_problem(answer: httpx.Response, status: int, says: str = "") -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["title"]
    assert says in document["detail"]
    assert "Traceback" not in answer.text
    assert "/" not in document["type"]


def position(server: RunningServer) -> object:
    """Where the log is: the same before and after what must change nothing."""
    return server.history()["next"]


@pytest.fixture
def unchanged(server: RunningServer) -> Iterator[None]:
    """The test leaves the log as it was, and the server alive."""
    before = position(server)
    yield
    assert position(server) == before
    assert server.alive


def last(server: RunningServer, topic: str) -> dict[str, object]:
    event: dict[str, object] = server.history(topic, last=1)["events"][0]
    return event


# What is accepted.


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "text/plain; charset=utf-8", "application/x-www-form-urlencoded", "image/png"]
)
def test_any_body_that_is_not_json_is_published_as_text_as_it_is(
    server: RunningServer, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content_type": content_type}
    answer = post(server, "/events/text/1", "a=1&b=%20 \n{", **headers)
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    event = last(server, "text/1")
    assert answer.json() == {"id": event["id"], "topic": "text/1"}
    assert event["data"] == "a=1&b=%20 \n{"
    assert event["type"] == "message"


def test_a_json_body_is_published_as_the_value_it_is(server: RunningServer) -> None:
    raw = '{"n": 123456789012345678901234567890,\n "a":1, "a":2, "deep": ' + "[" * 99 + "]" * 99 + "}"
    assert post(server, "/events/json/1", raw, content_type="application/json; charset=UTF-8").status_code == 201
    page = server.http.get(f"{server.url}/events/json/1", headers={"Accept": "application/json"}).text
    assert f'"data":{raw.replace(chr(10), " ")},' in page


def test_a_json_string_is_text(server: RunningServer) -> None:
    post(server, "/events/json/2", '"hel\\nlo"', **{"content-type": "application/json"})
    assert last(server, "json/2")["data"] == "hel\nlo"


@pytest.mark.parametrize("body", [b"", b"\0", "é\u2028\ufeff".encode(), b"x" * 262_144])
def test_text_may_be_empty_or_odd_or_as_large_as_the_limit(server: RunningServer, body: bytes) -> None:
    assert post(server, "/events/odd", body).status_code == 201
    assert str(last(server, "odd")["data"]).encode() == body


def test_the_type_comes_from_the_query(server: RunningServer) -> None:
    assert post(server, "/events/typed?type=order.created", "x").status_code == 201
    assert last(server, "typed")["type"] == "order.created"


@pytest.mark.parametrize(
    ("path", "topic"),
    [
        ("a%2Fb", "a/b"),
        ("t%C3%B3pic", "tópic"),
        ("a%25b", "a%b"),
        ("a+b", "a+b"),
        ("x" * 256, "x" * 256),
        ("a:b", "a:b"),
    ],
)
def test_a_topic_may_be_percent_encoded(server: RunningServer, path: str, topic: str) -> None:
    answer = post(server, f"/events/{path}", "x")
    assert (answer.status_code, answer.json()["topic"]) == (201, topic)


def test_one_event_in_an_envelope(server: RunningServer) -> None:
    answer = post(
        server, "/events", '{"topic":"env/1","data":{"x":1e400000},"type":"t"}'.replace("e400000", ""), **JSON
    )
    assert answer.status_code == 201
    event = last(server, "env/1")
    assert answer.json() == {"id": event["id"], "topic": "env/1"}
    assert (event["data"], event["type"]) == ({"x": 1}, "t")


def test_a_batch_is_committed_in_order_and_gives_its_ids(server: RunningServer) -> None:
    body = json.dumps([{"topic": f"batch/{number % 3}", "data": number} for number in range(500)])
    answer = post(server, "/events", body, **JSON)
    assert answer.status_code == 201
    events = server.history("batch/*", last=500)["events"]
    assert [event["id"] for event in events] == answer.json()["ids"]
    assert [event["data"] for event in events] == list(range(500))


def test_a_batch_of_one_gives_ids_too(server: RunningServer) -> None:
    assert list(post(server, "/events", '[{"topic":"b1","data":null}]', **JSON).json()) == ["ids"]


def test_ndjson_is_an_event_a_line_blank_lines_and_crlf_included(server: RunningServer) -> None:
    lines = [
        '{"topic":"nd","data":"one"}',
        "",
        '{"topic":"nd","data":{"two":2},"type":"t"}',
        '{"data":3,"topic":"nd"}',
        "",
    ]
    answer = post(server, "/events", "\r\n".join(lines), **NDJSON)
    assert answer.status_code == 201
    events: list[dict[str, object]] = server.history("nd", last=3)["events"]
    assert [event["id"] for event in events] == answer.json()["ids"]
    assert [(event["data"], event["type"]) for event in events] == [
        ("one", "message"),
        ({"two": 2}, "t"),
        (3, "message"),
    ]


def test_a_batch_may_hold_ten_thousand_events_and_not_one_more(server: RunningServer) -> None:
    batch = [{"topic": "large", "data": 1}] * 10_000
    assert len(post(server, "/events", json.dumps(batch), **JSON).json()["ids"]) == 10_000
    before = position(server)
    assert_problem(post(server, "/events", json.dumps([*batch, batch[0]]), **JSON), 422, "10,000")
    lines = "\n".join(json.dumps(event) for event in [*batch, batch[0]])
    assert_problem(post(server, "/events", lines, **NDJSON), 422, "10,000")
    assert position(server) == before


@pytest.mark.parametrize("size", [5_000, 250_000])
def test_a_large_body_is_as_good_as_a_small_one(server: RunningServer, size: int) -> None:
    many = {"brackets": "[" * 200 + "," * 200, "padding": "x" * size}
    batch = [{"topic": "sizes", "data": {**many, "place": place}, "type": "t"} for place in range(800_000 // size)]
    ids = post(server, "/events", json.dumps(batch), **JSON).json()["ids"]
    events = server.history("sizes", last=len(batch))["events"]
    assert [event["id"] for event in events] == ids
    assert [(event["data"], event["type"]) for event in events] == [(event["data"], "t") for event in batch]
    one = post(server, "/events", json.dumps(batch[0]) + " " * 300_000, **JSON)
    assert list(one.json()) == ["id", "topic"]


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/events/bom/1", b'{"n": 1}', "application/json"),
        ("/events", b'{"topic":"bom/1","data":{"n": 1}}', "application/json"),
        ("/events", b'[{"topic":"bom/1","data":{"n": 1}}]', "application/json"),
        ("/events", b'\n{"topic":"bom/1","data":{"n": 1}}\n', "application/x-ndjson"),
        (
            "/events/bom/1",
            b'{"specversion":"1.0","id":"%d","source":"s","type":"message","data":{"n": 1}}',
            "application/cloudevents+json",
        ),
        (
            "/events/bom/1",
            b'[{"specversion":"1.0","id":"%d","source":"s","type":"message","data":{"n": 1}}]',
            "application/cloudevents-batch+json",
        ),
    ],
)
def test_a_byte_order_mark_before_json_is_passed_over(server: RunningServer, path: str, body: bytes, kind: str) -> None:
    first, second = (body.replace(b"%d", number) for number in (b"1" + kind.encode(), b"2" + kind.encode()))
    assert post(server, path, BOM + first, **{"Content-Type": kind}).status_code == 201
    assert last(server, "bom/1")["data"] == {"n": 1}
    assert_problem(post(server, path, BOM + BOM + second, **{"Content-Type": kind}), 400, "not JSON")


def test_a_large_body_may_begin_with_one_too_and_a_line_is_still_told_by_its_number(server: RunningServer) -> None:
    event = b'{"topic":"bom/2","data":"%b"}\n' % (b"x" * 1_000)
    assert len(post(server, "/events", BOM + event * 400, **NDJSON).json()["ids"]) == 400
    assert_problem(post(server, "/events", BOM + event + b"nope", **NDJSON), 400, "line 2")


def test_binary_cloudevents_may_begin_with_one_too(server: RunningServer) -> None:
    event = {"ce-specversion": "1.0", "ce-id": "bom", "ce-source": "s", "ce-type": "t"}
    assert post(server, "/events/bom/3", BOM + b'{"n": 1}', **event, **JSON).status_code == 201
    assert last(server, "bom/3")["data"] == {"n": 1}


def test_a_byte_order_mark_in_text_is_text(server: RunningServer) -> None:
    post(server, "/events/bom/4", BOM + b"x")
    assert last(server, "bom/4")["data"] == "\ufeffx"


def test_answers_in_json_end_with_a_line_s_end(server: RunningServer) -> None:
    asked = {"Accept": "application/json"}
    answers = [
        post(server, "/events/ends", "x"),
        post(server, "/events", '[{"topic":"ends","data":1}]', **JSON),
        post(server, "/events/a//b", "x"),
        server.http.put(f"{server.url}/events/a"),
        *(server.http.get(f"{server.url}{path}", headers=asked) for path in ("/events/ends", "/healthz", "/readyz")),
        *(server.http.get(f"{server.url}{path}", headers=asked) for path in ("/subscriptions", "/asyncapi.json")),
    ]
    for answer in answers:
        assert answer.content.endswith(b"}\n"), answer.url
        assert answer.content.count(b"\n") == 1
        assert int(answer.headers["content-length"]) == len(answer.content)


def test_so_does_what_no_request_may_be(server: RunningServer) -> None:
    assert raw_request(server, "POST", "ftp://x/", b"").endswith(b"}\n")


# What is refused.


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/events/bad", b'{"a":'),
        ("/events/bad", b""),
        ("/events/bad", b"NaN"),
        ("/events/bad", b'"\xff"'),
        ("/events/bad", b'{"a":"\\ud800"}'),
        ("/events/bad", b"[" * 101 + b"]" * 101),
        ("/events/bad", b"[" * 100_000 + b"]" * 100_000),
        ("/events", b"nope"),
        ("/events", b'{"topic":"bad","data":"\xff"}'),
        ("/events", b'{"topic":"\\udfff","data":1}'),
        ("/events", b'{"topic":"\xff","data":1}'),
        ("/events", b'[{"topic":"bad","type":"\xff","data":1}]'),
        ("/events", b'{"topic":"bad","data":1,"\xff":1}'),
        ("/events", b'[{"topic":"bad","data":1},{"topic":"bad","data":"\\ud800"}]'),
        ("/events", b'[{"topic":"bad","data":1},{"topic":"bad","data":' + b"[" * 101 + b"]" * 101 + b"}]"),
        ("/events", b'{"topic":"bad","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
)
def test_w3_malformed_json_is_400_and_nothing_is_stored(
    server: RunningServer, unchanged: None, path: str, body: bytes
) -> None:
    assert_problem(post(server, path, body, **JSON), 400)


@pytest.mark.parametrize("end", ["", " and more"])
@pytest.mark.parametrize(("path", "envelope"), [("/events/bad", '"%s"'), ("/events", '{"topic":"bad","data":"%s"}')])
def test_w3_half_of_a_surrogate_pair_is_called_so(
    server: RunningServer, unchanged: None, path: str, envelope: str, end: str
) -> None:
    body = (envelope % f"\\ud800{end}").encode()
    assert_problem(post(server, path, body, **JSON), 400, "surrogate")


@pytest.mark.parametrize("line", [b'{"topic":"\xff","data":1}', b'{"topic":"bad","type":"\xff","data":1}'])
def test_w3_a_line_that_is_not_utf_8_is_400_and_named(server: RunningServer, unchanged: None, line: bytes) -> None:
    body = b'{"topic":"bad","data":1}\n' + line
    assert_problem(
        post(server, "/events", body, **{"Content-Type": "application/x-ndjson"}),
        400,
        "line 2: not JSON: not UTF-8: byte ",
    )


FIELDS = "topic, data, type, delete, if_match, if_none_match and ttl"


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ("/events/bad", b"", "data: not JSON: it is empty"),
        ("/events/bad", b" \n", "data: not JSON: it is empty"),
        ("/events/bad", b'{"a":', "data: not JSON: it breaks off before its end"),
        ("/events/bad", b'{"a":\n 01}', "data: not JSON: line 2, column 3: JSON does not allow what begins there"),
        ("/events/bad", b"1 x", "data: not JSON: line 1, column 3: JSON does not allow what begins there"),
        ("/events/bad", b'"\xff"', "data: not JSON: not UTF-8: byte 1 is 0xff"),
        ("/events/bad", b"-Infinity", "data: not JSON: -Infinity is not a number in JSON"),
        ("/events/bad", b"[1e400]", "data: not JSON: a number beyond the range of a double, such as 1e400"),
        ("/events/bad", b'["\\udfff"]', "data: not JSON: a lone surrogate: half of a pair such as \\ud83d\\ude00"),
        ("/events/bad", b"[" * 5_000 + b"]" * 5_000, "data: not JSON: nested deeper than 100 levels"),
        ("/events/bad", b"[" * 101 + b"]" * 101, "data: nested deeper than 100 levels"),
        (
            "/events",
            b'{"topic":"bad","data":1e400}',
            "data: not JSON: a number beyond the range of a double, such as 1e400",
        ),
        ("/events", b'{"topic":"bad\xff","data":1}', "body: not JSON: not UTF-8: byte 13 is 0xff"),
        ("/events", b"5", f"body: has to be an event, a JSON object with {FIELDS}, not a number"),
        (
            "/events",
            b'[{"topic":"bad","data":1},null]',
            f"event 1: has to be an event, a JSON object with {FIELDS}, not null",
        ),
        ("/events", b'[{"topic":"bad","data":1},{"topic":"bad"}]', f"event 1: data: is missing: an event has {FIELDS}"),
        ("/events", b'{"topic":["bad"],"data":1}', "topic: has to be text, not an array"),
        ("/events", b'{"topic":"bad","data":1,"tpye":2}', f"'tpye': is not a field of an event, which has {FIELDS}"),
    ],
)
def test_what_is_wrong_with_json_is_said_in_words_of_our_own(
    server: RunningServer, unchanged: None, path: str, body: bytes, detail: str
) -> None:
    assert post(server, path, body, **JSON).json()["detail"] == detail


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson", "application/cloudevents+json"])
def test_a_refusal_is_short_whatever_it_is_for(server: RunningServer, unchanged: None, kind: str) -> None:
    body = b'{"topic":"bad","data":1,"%b":1}' % (b"x" * 400_000)
    answer = post(server, "/events", body, **{"Content-Type": kind})
    assert (answer.status_code, len(answer.content) < 1_000) == (422, True)


@pytest.mark.parametrize("body", [b"\xff", b"abc\xed\xa0\x80", b"\xc0\x80"])
def test_w3_text_that_is_not_utf_8_is_400(server: RunningServer, unchanged: None, body: bytes) -> None:
    assert_problem(post(server, "/events/bad", body), 400, "UTF-8")


@pytest.mark.parametrize(
    "path",
    [
        "/events/",
        "/events//",
        "/events/a//b",
        "/events/a/",
        "/events/%2e%2e/a",
        "/events/a/%2E",
        "/events/$SYS",
        "/events/*",
        "/events/a/**",
        "/events/a%20b",
        "/events/a%0Ab",
        "/events/a%0A",
        "/events/%0Aa",
        "/events/a%0Db",
        "/events/a%00b",
        "/events/a%E2%80%AEb",
        "/events/a%FFb",
        "/events/" + "x" * 257,
        "/events/bad?type=",
        "/events/bad?type=open",
        "/events/bad?type=error",
        "/events/bad?type=feed.gap",
        "/events/bad?type=a%0Ab",
        "/events/bad?type=a%0Db",
        "/events/bad?type=a%00b",
        "/events/bad?type=a%20b",
        "/events/bad?type=" + "x" * 129,
    ],
)
def test_w1_a_bad_topic_or_type_is_422_and_nothing_is_stored(server: RunningServer, unchanged: None, path: str) -> None:
    answer = raw_request(server, "POST", path, b"x")
    assert answer.startswith(b"HTTP/1.1 422 "), answer
    assert b"application/problem+json" in answer


def raw_request(server: RunningServer, method: str, path: str, body: bytes, head: bytes = b"") -> bytes:
    """The path just as it is: clients like to tidy up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
            + head
            + b"Content-Length: %d\r\n\r\n" % len(body)
            + body
        )
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("key", [b"a b", b"\xe9", b"x" * 256, b"a\x7fb"])
def test_w1_a_bad_idempotency_key_is_refused(server: RunningServer, unchanged: None, key: bytes) -> None:
    answer = raw_request(server, "POST", "/events/bad", b"x", b"Idempotency-Key: " + key + b"\r\n")
    assert answer.startswith((b"HTTP/1.1 422 ", b"HTTP/1.1 400 ")), answer


@pytest.mark.parametrize("key", [b"a\rb", b"a\nb", b"a\0b"])
def test_w1_a_line_break_in_a_header_never_gets_through(server: RunningServer, unchanged: None, key: bytes) -> None:
    answer = raw_request(server, "POST", "/events/bad", b"x", b"Idempotency-Key: " + key + b"\r\n")
    assert answer.startswith((b"HTTP/1.1 422 ", b"HTTP/1.1 400 ")), answer


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("[]", "no event"),
        ("5", "body"),
        ('"x"', "body"),
        ("null", "body"),
        ("[1]", "event 0"),
        ('{"topic":"bad"}', "data"),
        ('{"data":1}', "topic"),
        ('{"topic":1,"data":1}', "topic"),
        ('{"topic":"bad","data":1,"type":5}', "type"),
        ('{"topic":"bad","data":1,"tpye":"x"}', "tpye"),
        ('{"topic":"bad","data":1,"id":"x"}', "id"),
        ('{"topic":"a b","data":1}', "topic"),
        ('{"topic":"","data":1}', "topic"),
        ('{"topic":"bad","data":1,"type":"feed.gap"}', "type"),
        ('[{"topic":"bad","data":1},{"topic":"b*","data":1}]', "event 1"),
    ],
)
def test_a_bad_envelope_is_422_and_says_what_is_wrong(
    server: RunningServer, unchanged: None, body: str, says: str
) -> None:
    assert_problem(post(server, "/events", body, **JSON), 422, says)


@pytest.mark.parametrize(
    ("lines", "status", "says"),
    [
        ("", 422, "no event"),
        ("\n\n", 422, "no event"),
        ('{"topic":"bad","data":1}\n{"topic":"bad"}', 422, "line 2"),
        ('{"topic":"bad","data":1}\nnope', 400, "line 2"),
        ('{"topic":"bad","data":1}\n\n{"topic":"b b","data":1}', 422, "line 3"),
        ('{"topic":"bad","data":1},{"topic":"bad","data":2}', 400, "line 1"),
        ('{"topic":"bad"\n"data":1}', 400, "line 1"),
        ('[{"topic":"bad","data":1}]', 422, "line 1"),
    ],
)
def test_a_bad_line_of_ndjson_refuses_the_whole_batch_and_is_named(
    server: RunningServer, unchanged: None, lines: str, status: int, says: str
) -> None:
    assert_problem(post(server, "/events", lines, **NDJSON), status, says)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("[]", 422, "no event"),
        ("5", 422, "body"),
        ("[null]", 422, "event 0"),
        ('[{"topic":"bad","data":1},1]', 422, "event 1"),
        ('[{"topic":"bad","data":1},{"topic":"bad","data":1,"id":"x"}]', 422, "event 1"),
        ('[{"topic":"bad","data":1},{"topic":"bad"', 400, "body"),
        ('[{"topic":"bad","data":1},{"topic":"b*","data":1}]', 422, "event 1"),
    ],
)
def test_a_large_body_that_is_wrong_is_told_the_same_as_a_small_one(
    server: RunningServer, unchanged: None, body: str, status: int, says: str
) -> None:
    small, large = (post(server, "/events", body + space, **JSON) for space in ("", " " * 300_000))
    assert_problem(small, status, says)
    assert status == 400 or small.text == large.text
    assert_problem(large, status, says)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
def test_a_batch_in_another_media_type_is_415(server: RunningServer, unchanged: None, content_type: str) -> None:
    assert_problem(post(server, "/events", '{"topic":"bad","data":1}', content_type=content_type), 415, "POST /events/")


@pytest.mark.parametrize("content_type", ["text/plain; charset=latin-1", 'application/json; charset="utf-16"'])
@pytest.mark.parametrize("path", ["/events/bad", "/events"])
def test_a_charset_other_than_utf_8_is_415(
    server: RunningServer, unchanged: None, path: str, content_type: str
) -> None:
    assert_problem(post(server, path, '"x"', content_type=content_type), 415, "UTF-8")


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=x", "Multipart/Mixed", "multipart/form-data", "multipart/related"]
)
@pytest.mark.parametrize("path", ["/events/bad", "/events"])
def test_a_form_in_parts_is_415(server: RunningServer, unchanged: None, path: str, content_type: str) -> None:
    form = '--x\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--x--\r\n'
    assert_problem(post(server, path, form, content_type=content_type), 415, "multipart")
    event = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}
    assert_problem(post(server, path, form, content_type=content_type, **event), 415, "multipart")


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "x-anything"])
@pytest.mark.parametrize("path", ["/events/bad", "/events"])
def test_a_compressed_body_is_415(server: RunningServer, unchanged: None, path: str, encoding: str) -> None:
    body = gzip.compress(b'{"topic":"bad","data":1}')
    answer = post(server, path, body, content_encoding=encoding, content_type="application/json")
    assert_problem(answer, 415, "compressed")


# L6: how large.


def test_l6_data_one_byte_over_the_limit_is_413(server: RunningServer, unchanged: None) -> None:
    over = "x" * 262_145
    assert_problem(post(server, "/events/bad", over), 413, "262,144")
    assert_problem(post(server, "/events/bad", json.dumps(over), **JSON), 413, "262,144")
    assert_problem(post(server, "/events/bad", json.dumps([over]), **JSON), 413, "262,144")
    assert_problem(post(server, "/events", json.dumps({"topic": "bad", "data": over}), **JSON), 413, "262,144")
    batch = "\n".join(json.dumps({"topic": "bad", "data": data}) for data in ("fine", over))
    assert_problem(post(server, "/events", batch, **NDJSON), 413, "262,144")


@pytest.mark.parametrize("body", [b"[" + b"{}," * 500_000, b" [" + b"x" * 262_144])
def test_l6_json_over_the_limit_is_not_even_looked_at(server: RunningServer, unchanged: None, body: bytes) -> None:
    assert_problem(post(server, "/events/bad", body, **JSON), 413, "262,144")  # else 400: it is no JSON


def test_l6_space_around_json_does_not_count(server: RunningServer) -> None:
    space = b" \t\r\n" * 70_000
    assert post(server, "/events/spaced", space + b"[1]" + space, **JSON).status_code == 201
    assert post(server, "/events/spaced", space + json.dumps("é" * 131_072).encode(), **JSON).status_code == 201
    assert_problem(post(server, "/events/bad", b"[" + space + b"]", **JSON), 413, "262,144")


EVENT = b'{"topic":"bad","data":0}'
DENSE = {
    "empty lines": (NDJSON, b"\n" * (16 * MEGABYTE), "no event"),
    "blank lines": (NDJSON, b" \r\n\t" * (4 * MEGABYTE), "no event"),
    "events": (JSON, b"[" + b",".join([EVENT] * 650_000) + b"]", "10,000"),
    "events after space": (JSON, b" " * 300_000 + b"[" + b",".join([EVENT] * 600_000) + b"]", "10,000"),
    "something after them": (NDJSON, b"\n" * (16 * MEGABYTE - 1) + b"5", "line 16777216"),
}


@pytest.mark.parametrize("name", DENSE)
def test_l6_a_large_body_of_next_to_nothing_takes_no_more_memory_than_another(serve: Serve, name: str) -> None:
    server = serve("--log", "memory:")
    headers, body, says = DENSE[name]
    assert_problem(post(server, "/events", b"x" * len(body), **headers), 400)
    peak = peak_memory(server)
    assert_problem(post(server, "/events", body, **headers), 422, says)
    assert peak_memory(server) - peak < 24 * MEGABYTE


def test_l6_json_at_the_limit_is_taken_though_its_escapes_are_longer(server: RunningServer) -> None:
    assert post(server, "/events/full", json.dumps("é" * 131_072), **JSON).status_code == 201


def test_l6_a_body_over_the_limit_is_413_before_it_is_sent(server: RunningServer, unchanged: None) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            b"POST /events HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 16777217\r\n\r\n"
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", ["/events", "/events/bad"])
def test_l6_a_chunked_body_without_end_is_413_while_it_streams_in(
    server: RunningServer, unchanged: None, path: str
) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
            + b"Transfer-Encoding: chunked\r\n\r\n"
        )
        connection.setblocking(False)
        answer, sent, deadline = b"", 0, time.monotonic() + 20
        while b"\r\n\r\n" not in answer:
            assert time.monotonic() < deadline
            with contextlib.suppress(BlockingIOError):
                sent += connection.send(chunk[sent % len(chunk) :])
            with contextlib.suppress(BlockingIOError):
                answer += connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert sent < 64 << 20


def test_of_two_content_encodings_one_is_enough(server: RunningServer, unchanged: None) -> None:
    head = b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n"
    assert raw_request(server, "POST", "/events/bad", b"x", head).startswith(b"HTTP/1.1 415 ")


def test_the_limits_are_settings(serve: Serve) -> None:
    server = serve("--log", "memory:", max_data="1K", max_body="2K")
    assert post(server, "/events/a", "x" * 1024).status_code == 201
    assert_problem(post(server, "/events/a", "x" * 1025), 413)
    assert_problem(post(server, "/events", " " * 2049, **JSON), 413)


# P6: idempotency.


def test_p6_a_repeat_gives_the_first_answer_and_publishes_nothing(server: RunningServer) -> None:
    first = post(server, "/events/once", "x", idempotency_key="k-1")
    before = position(server)
    again = post(server, "/events/once", "x", idempotency_key="k-1")
    assert (first.status_code, first.content) == (again.status_code, again.content) == (201, first.content)
    assert position(server) == before


def test_p6_repeats_at_the_same_time_wait_for_the_first(server: RunningServer) -> None:
    body = json.dumps([{"topic": "once/many", "data": number} for number in range(100)])
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: post(server, "/events", body, idempotency_key="k-2", **JSON), range(8)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    assert len(server.history("once/many", last=1000)["events"]) == 100


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/events/once3", "y", {}),
        ("/events/once4", "x", {}),
        ("/events/once3?type=t", "x", {}),
        ("/events", '[{"topic":"once3","data":"x"}]', JSON),
    ],
)
def test_p6_a_key_with_another_body_topic_or_type_is_422(
    server: RunningServer, path: str, body: str, headers: dict[str, str]
) -> None:
    post(server, "/events/once3", "x", idempotency_key="k-3")
    before = position(server)
    assert_problem(post(server, path, body, idempotency_key="k-3", **headers), 422, "Idempotency-Key")
    assert position(server) == before


def test_p6_only_successes_are_remembered(server: RunningServer) -> None:
    assert_problem(post(server, "/events/a b", "x", idempotency_key="k-4"), 422)
    assert post(server, "/events/once5", "x", idempotency_key="k-4").status_code == 201


def test_p6_the_same_key_of_somebody_else_is_an_event_of_its_own(server: RunningServer) -> None:
    ids = set()
    for address in ("127.0.0.1", "127.0.0.2"):
        with httpx.Client(transport=httpx.HTTPTransport(local_address=address)) as client:
            answer = client.post(f"{server.url}/events/once6", content="x", headers={"Idempotency-Key": "k-5"})
            ids.add(answer.json()["id"])
    assert len(ids) == 2


def test_p6_a_key_survives_a_restart(serve: Serve, tmp_path: object) -> None:
    server = serve("--log", f"sqlite:{tmp_path}/feed.db")
    first = post(server, "/events/once", "x", idempotency_key="k")
    server.kill()
    server.start()
    assert post(server, "/events/once", "x", idempotency_key="k").content == first.content
    assert_problem(post(server, "/events/once", "y", idempotency_key="k"), 422)
    assert len(server.history()["events"]) == 1


# Around it.


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/events/a", 405),
        ("DELETE", "/events", 405),
        ("PATCH", "/events", 405),
        ("GET", "/nothing/here", 404),
        ("POST", "/healthz", 405),
    ],
)
def test_other_methods_and_paths_are_problems_too(server: RunningServer, method: str, path: str, status: int) -> None:
    assert_problem(server.http.request(method, f"{server.url}{path}"), status)


def test_no_route_redirects_for_a_slash(server: RunningServer) -> None:
    for path in ("/events/", "/events/a/", "/ws/", "/healthz/", "/docs/", "/readyz/"):
        assert not server.http.get(f"{server.url}{path}").is_redirect


def test_two_idempotency_keys_are_one_too_many(server: RunningServer, unchanged: None) -> None:
    answer = raw_request(server, "POST", "/events/bad", b"x", b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n")
    assert answer.startswith(b"HTTP/1.1 422 ")


@pytest.mark.parametrize("body", [b"[" + b"[]," * 80_000 + b"[]]", b'{"a":' * 90 + b"1" + b"}" * 90])
def test_odd_json_within_the_limits_is_no_work(server: RunningServer, body: bytes) -> None:
    began = time.monotonic()
    assert post(server, "/events/brackets", body, **JSON).status_code == 201
    assert time.monotonic() - began < 2
