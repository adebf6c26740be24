"""Nonsense against a real server: never a fault of its own, never a dead stream; what it refuses is nowhere, and what
it acknowledges is heard by everybody as it was sent.

Each test lets hypothesis make up requests, and compares what comes of them with the contract. `audience` then knows
what was acknowledged, and `settle` that all have heard that and nothing else: over SSE plain and with envelopes,
NDJSON, WebSocket and history. FEED_SOAK tries more, and each time other nonsense.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from feed.event import check_pattern, check_topic, check_type
from feed.fastapi.auth.grants import Grants
from feed.pattern import covers, matches
from feed_server.auth.tokens import issue
from tests.support.nonsense import Answer, Audience, Data, ask, encoded, is_valid, json_data, no_constant, parsed
from tests.support.running import RunningServer, running
from tests.support.streams import WAIT_SECONDS, subscribed

SOAK = bool(os.environ.get("FEED_SOAK"))
EXAMPLES = 1000 if SOAK else 25
TRY = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not SOAK,
    database=None,
    suppress_health_check=list(HealthCheck),
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1200 if SOAK else 120)]

HISTORY = [(b"Accept", b"application/json")]
JSON = [(b"Content-Type", b"application/json")]
NDJSON = [(b"Content-Type", b"application/x-ndjson")]


@pytest.fixture(scope="module")
def audience() -> Iterator[Audience]:
    """A server without a key, and its audience."""
    with running("--log", "memory:", heartbeat="1s") as server:
        audience = Audience(server)
        yield audience
        server.kill()
        audience.leave()


# What nonsense is made of.

texts = st.text(max_size=20)
nearly_names = st.text(st.sampled_from("ab.*/$é \u200b\n\ufffd\ud800😀%?#"), max_size=8)
long_names = st.builds(
    lambda character, count, rest: character * count + rest,
    st.sampled_from("aé😀/"),
    st.integers(60, 260),
    st.sampled_from(["", "a", "/a", "*"]),
)
names = (texts | nearly_names | long_names).map(lambda text: text.encode("utf-8", "surrogatepass"))
utf8 = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
fields = st.binary(max_size=40).map(lambda value: re.sub(rb"[\r\n\0]", b"", value))
huge_fields = st.builds(lambda value, count: value * count, fields, st.integers(1, 3000))


def nested(opening: str, closing: str = "") -> Callable[[int], str]:
    return lambda depth: opening * depth + closing * depth


scalars = st.one_of(
    st.sampled_from(["null", "true", "0", "-0", "1e400", "1e-400", "-1E+308", "01", "NaN", "Infinity", "nul", ""]),
    st.sampled_from(['"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\x"', '"']),
    st.sampled_from(['"\ufeff"', "\ufeff1", '"\x00"', '"\n"', "1" * 400]),
    st.integers().map(str),
    st.floats().map(repr),
    utf8.map(json.dumps),
    utf8.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from([99, 100, 101, 50_000]).map(nested("[", "]")),
    st.sampled_from([50, 51]).map(nested('{"a":[', "]}")),
    st.sampled_from([100_000, 101]).map(nested("[")),
    utf8,
)
spaces = st.text(st.sampled_from(" \t\r\n"), max_size=2)
keys = utf8.map(json.dumps) | st.sampled_from(['"a"', '"data"', '"\\ud800"', "a"])


values: st.SearchStrategy[str] = st.deferred(lambda: scalars | scalars | lists | objects)
lists: st.SearchStrategy[str] = st.builds(
    lambda items, space: f"[{f',{space}'.join(items)}]", st.lists(values, max_size=3), spaces
)
members_of = st.builds("{}{}:{}{}".format, keys, spaces, spaces, values)
objects: st.SearchStrategy[str] = st.builds(
    lambda items, space: f"{{{f'{space},'.join(items)}}}", st.lists(members_of, max_size=3), spaces
)
json_texts = st.builds("{}{}{}".format, spaces, values, spaces)
json_bodies = json_texts.map(str.encode) | st.binary(max_size=20)


# Topics, patterns, types.


@st.composite
def in_urls(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A name, and how it may stand in a URL: some of its bytes as they are, the rest percent-encoded."""
    name = draw(names)
    plain = draw(st.sets(st.sampled_from(b"abcxyz019-._~!$&'()*+,;=:@/")))
    return name, b"".join(bytes([byte]) if byte in plain else encoded(bytes([byte])) for byte in name)


def test_a_topic_is_taken_just_if_it_is_one(audience: Audience) -> None:
    @TRY
    @given(in_urls())
    @example((b"a\xff", b"a%FF"))
    @example(("a\ufffd".encode(), b"a%EF%BF%BD"))
    @example((b"x" * 256, b"x" * 256))
    @example((b"x" * 257, b"x" * 257))
    @example(("é".encode() * 129, encoded("é".encode() * 129)))
    @example(("a\u202eb".encode(), b"a%E2%80%AEb"))
    def attempt(named: tuple[bytes, bytes]) -> None:
        name, target = named
        answer = audience.post(b"/events/" + target)
        assert answer.status == (201 if is_valid(check_topic, name) else 422), (name, answer)
        if answer.status == 201:
            assert answer.json["topic"] == name.decode()
            audience.acknowledged(answer.json["id"], name.decode(), Data("x", False))

    attempt()
    audience.settle()


def test_a_path_of_any_bytes_is_the_topic_that_it_encodes(audience: Audience) -> None:
    @TRY
    @given(st.text(st.sampled_from('abz019AF%%%%.-~/*$@:\x7f\xe9\xff\\^`{|}"<>'), max_size=20))
    def attempt(path: str) -> None:
        target = path.encode("latin-1")
        answer = audience.post(b"/events/" + target)
        name = unquote_to_bytes(target)
        if answer.status == 400:  # HTTP's own parser
            assert not target.isascii() or b"\x7f" in target
        else:
            assert answer.status == (201 if is_valid(check_topic, name) else 422), answer
        if answer.status == 201:
            audience.acknowledged(answer.json["id"], name.decode(), Data("x", False))

    attempt()
    audience.settle()


def test_a_pattern_is_taken_just_if_it_is_one(audience: Audience) -> None:
    @TRY
    @given(in_urls())
    def attempt(named: tuple[bytes, bytes]) -> None:
        name, target = named
        expected = 200 if is_valid(check_pattern, name) else 422
        answer = ask(audience.server, b"GET", b"/events/%b?limit=1" % target, HISTORY).checked()
        assert answer.status == expected, (name, answer)
        answer = ask(audience.server, b"GET", b"/events?topic=a/b&topic=" + encoded(name), HISTORY).checked()
        assert answer.status == (expected if _is_utf8(name) else 400), (name, answer)

    attempt()
    audience.settle()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_a_type_is_taken_just_if_it_is_one(audience: Audience) -> None:
    @TRY
    @given(names | st.sampled_from([b"open", b"error", b"feed.", b"feed.x", b"feed", b"message", b"Open"]))
    def attempt(name: bytes) -> None:
        expected = 400 if not _is_utf8(name) else 201 if is_valid(check_type, name) else 422
        answer = audience.post(b"/events/typed?type=" + encoded(name))
        assert answer.status == expected, (name, answer)
        if answer.status == 201:
            audience.acknowledged(answer.json["id"], "typed", Data("x", False), name.decode())
        answer = ask(audience.server, b"GET", b"/events/a?limit=1&type=" + encoded(name), HISTORY).checked()
        assert answer.status == {201: 200}.get(expected, expected)

    attempt()
    audience.settle()


# Queries and headers.


@st.composite
def queries(draw: st.DrawFn) -> bytes:
    """Anything that can stand behind the question mark, with the names that mean something."""
    name = st.sampled_from([b"topic", b"type", b"last", b"limit", b"wait", b"since", b"before", b"last_event_id"])
    value = st.integers(-2, 70).map(lambda number: b"%d" % number) | names.map(encoded) | fields
    pairs = draw(st.lists(st.tuples(name | fields, value), max_size=4))
    return re.sub(rb"[\x00-\x20#\x7f]", b"", b"&".join(b"%b=%b" % pair for pair in pairs))


def test_no_query_is_too_odd(audience: Audience) -> None:
    @TRY
    @given(queries())
    def attempt(query: bytes) -> None:
        type = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)).get("type")
        answer = audience.post(b"/events/query?" + query)
        assert answer.status in {201, 400, 422}
        if answer.status == 201:
            audience.acknowledged(answer.json["id"], "query", Data("x", False), type or "message")
        bounded = re.sub(rb"wait=[\d.]+", b"wait=0", query)
        for head in (HISTORY, []):
            assert ask(audience.server, b"GET", b"/events/query?" + bounded, head).checked().status in {200, 400, 422}

    attempt()
    audience.settle()


whole_numbers = st.integers(-3, 1100).map(str) | st.sampled_from(["٣", "1e2", "+1", " 1", "0x1", "1_0", "1" * 5000, ""])


@pytest.mark.parametrize(("name", "most"), [("limit", 1000), ("last", 1000)])
def test_a_number_is_taken_just_within_its_bounds(audience: Audience, name: str, most: int) -> None:
    @TRY
    @given(whole_numbers)
    def attempt(value: str) -> None:
        answer = ask(
            audience.server, b"GET", f"/events/a?{name}=".encode() + encoded(value.encode()), HISTORY
        ).checked()
        assert answer.status == (200 if re.fullmatch("[0-9]{1,9}", value) and 1 <= int(value) <= most else 422), answer

    attempt()


def test_no_place_to_look_from_is_too_odd(audience: Audience) -> None:
    places = names.map(encoded) | st.datetimes().map(lambda moment: f"{moment.isoformat()}Z".encode())

    @TRY
    @given(st.sampled_from([b"before", b"since", b"last_event_id", b"lastEventId"]), places)
    def attempt(name: bytes, place: bytes) -> None:
        target = b"/events/a?limit=1&%b=%b" % (name, place)
        answer = ask(audience.server, b"GET", target, HISTORY).checked()
        assert answer.status in ({200, 400, 422} if name == b"since" else {200, 400})

    attempt()


@st.composite
def nearly_ids(draw: st.DrawFn) -> tuple[str, str]:
    """What is nearly an id: of this epoch or nearly, and around the log's end."""
    epoch = draw(st.sampled_from(["{}", "{}x", "", "k3f9a2xm"]))
    seq = draw(st.integers(-3, 3).map("{}".format) | st.sampled_from(["", "1e3", "٣", "0x1", "9" * 40, "0", "1", "-1"]))
    return epoch, seq


def test_an_id_is_valid_or_a_gap_and_never_an_error(audience: Audience) -> None:
    server = audience.server

    @TRY
    @given(nearly_ids() | fields | huge_fields.filter(lambda value: len(value) < 60_000))
    def attempt(given: tuple[str, str] | bytes) -> None:
        epoch, newest = audience.newest
        if isinstance(given, bytes):
            value, is_known = given, False
        else:
            seq = str(newest + int(given[1])) if re.fullmatch("-?[0-9]", given[1]) else given[1]
            value = f"{given[0].format(epoch)}-{seq}".encode()
            is_known = given[0] == "{}" and re.fullmatch("[0-9]+", seq) is not None and int(seq) <= newest
        head = [(b"Last-Event-ID", value), *HISTORY]
        answer = ask(server, b"GET", b"/events/a?limit=1", head).checked()
        if answer.status == 400:  # HTTP's own parser: control characters
            assert re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value)
            return
        assert answer.status == 200
        text = value.strip(b" \t").decode("utf-8", "replace")
        expects_gap = bool(text) and text != "earliest" and not is_known
        assert ("gap" in answer.json) == expects_gap, (value, answer)
        assert len(answer.json.get("gap", {}).get("requested", "").encode()) <= 128
        if len(text) > 5_000:
            return  # encoded it might be longer than a head may be
        with subscribed(f"{server.url}/events/nobody?last_event_id=" + encoded(text.encode()).decode()) as stream:
            if text:
                events = [frame.event for frame in stream.until("feed.live")]
                assert events == (["feed.gap", "feed.live"] if expects_gap else ["feed.live"])

    attempt()
    audience.settle()


@pytest.mark.parametrize(
    "name",
    [
        b"Accept",
        b"Authorization",
        b"Cookie",
        b"User-Agent",
        b"Idempotency-Key",
        b"Expect",
        b"Range",
        b"X-Forwarded-For",
    ],
)
def test_no_header_is_too_odd(audience: Audience, name: bytes) -> None:
    one = (
        fields
        | huge_fields
        | st.sampled_from([b"*/*;q=", b"application/json;q=nan", b"Bearer ", b"Bearer", b"100-continue"])
    )

    @TRY
    @given(st.lists(one, min_size=1, max_size=3))
    def attempt(values: list[bytes]) -> None:
        head = [(name, value) for value in values]
        answer = audience.post(b"/events/head", head)
        assert answer.status in {201, 400, 422, 431}, answer
        if answer.status == 201:
            audience.acknowledged(answer.json["id"], "head", Data("x", False))
        if name == b"Idempotency-Key" and answer.status in {201, 422}:
            is_key = len(values) == 1 and re.fullmatch(rb"[!-~]{1,255}", values[0].strip(b" \t"))
            assert (answer.status == 201) == bool(is_key)
        assert ask(audience.server, b"GET", b"/events/head?last=1", head).checked().status in {200, 400, 431}

    attempt()
    audience.settle()


def test_a_media_type_says_what_the_body_is(audience: Audience) -> None:
    kinds = st.sampled_from(
        [b"application/json", b"APPLICATION/JSON", b"text/plain", b"application/x-ndjson", b"", b"/"]
    )
    charsets = st.sampled_from([b"", b";charset=utf-8", b'; charset="UTF-8"', b";charset=latin-1", b";charset=", b";;"])

    @TRY
    @given(
        st.builds(bytes.__add__, kinds, charsets) | fields,
        st.sampled_from([b"", b"identity", b"gzip", b"identity, br"]),
    )
    def attempt(kind: bytes, coding: bytes) -> None:
        answer = audience.post(b"/events/kind", [(b"Content-Type", kind), (b"Content-Encoding", coding)], b"[1]")
        if answer.status == 400:
            assert re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", kind)
            return
        assert answer.status in {201, 415}
        assert answer.status == 415 or coding in {b"", b"identity"}
        if answer.status == 201:
            is_json = kind.partition(b";")[0].strip().lower() == b"application/json"
            audience.acknowledged(answer.json["id"], "kind", Data("[1]", is_json))

    attempt()
    audience.settle()


@pytest.mark.parametrize("name", [b"Host", b"Origin"])
def test_no_other_page_or_name_gets_in(audience: Audience, name: bytes) -> None:
    own = [
        b"localhost",
        b"localhost:1",
        b"LOCALHOST",
        b"127.0.0.1",
        b"[::1]:80",
        b"http://localhost",
        b"https://localhost",
    ]
    almost = st.builds(lambda first, last: first + last, st.sampled_from(own), fields)

    @TRY
    @given(st.lists(almost | fields | st.sampled_from([*own, b"null", b"*"]), min_size=1, max_size=2))
    def attempt(values: list[bytes]) -> None:
        answer = audience.post(b"/events/page", [(name, value) for value in values])
        assert answer.status in {201, 400, 403}
        if answer.status == 201:
            audience.acknowledged(answer.json["id"], "page", Data("x", False))
            pages = rb"localhost|127\.0\.0\.1|\[::1\]"
            allowed = rb"https?://localhost" if name == b"Origin" else rb"(?i:%b)(:\d{1,5})?" % pages
            assert len(values) == 1
            assert re.fullmatch(allowed, values[0].strip(b" \t")), values

    attempt()
    audience.settle()


# Bodies.


def test_json_is_taken_just_if_it_is_json_and_comes_back_as_it_was(audience: Audience) -> None:
    @settings(TRY, max_examples=4 * EXAMPLES)
    @given(json_bodies)
    @example(b"[" * 100 + b"]" * 100)
    @example(b"[" * 101 + b"]" * 101)
    @example(b"[1,\r\n2]\n")
    @example(b"\xef\xbb\xbf1")
    @example(b'{"a":1,"a":123456789012345678901234567890}')
    def attempt(body: bytes) -> None:
        answer, data = audience.post(b"/events/json", JSON, body), json_data(body.removeprefix(b"\xef\xbb\xbf"))
        assert answer.status == (400 if data is None else 201), (body[:200], answer)
        if data is not None:
            audience.acknowledged(answer.json["id"], "json", data)

    attempt()
    audience.settle()


def test_text_is_taken_just_if_it_is_utf_8_and_comes_back_as_it_was(audience: Audience) -> None:
    odd = st.text(st.sampled_from("\r\n\0\ufeff\u2028\x85: a😀"), max_size=12).map(str.encode)

    @TRY
    @given(odd | st.binary(max_size=20) | utf8.map(str.encode))
    def attempt(body: bytes) -> None:
        answer = audience.post(b"/events/text", [], body)
        assert answer.status == (201 if _is_utf8(body) else 400)
        if answer.status == 201:
            audience.acknowledged(answer.json["id"], "text", Data(body.decode(), False))

    attempt()
    audience.settle()


Members = list[tuple[str, str]]


def members(*more: str) -> st.SearchStrategy[Members]:
    """Of an envelope, as JSON: mostly good ones, each once."""
    topic = st.sampled_from(["a/b", "é", "a b", "", "*", "$x", "a//b"]).map(json.dumps) | scalars
    type = st.sampled_from(["t", "open", "feed.x", "a/b"]).map(json.dumps) | scalars
    kinds = {
        "topic": topic | st.just('"a"'),
        "data": json_texts,
        "type": type | st.just('"t"'),
        **dict.fromkeys(more, scalars),
    }
    good = st.fixed_dictionaries({"topic": st.just('"a"'), "data": json_texts})
    any = st.fixed_dictionaries({}, optional={**kinds, "id": scalars})
    return (good | any).flatmap(lambda found: st.permutations(list(found.items())))


def written(envelope: Members) -> str:
    listed = ", ".join(f'"{name}": {value}' for name, value in envelope)
    return f"{{{listed}}}"


def envelope_event(envelope: Members, allowed: set[str], topic: str | None = None) -> tuple[str, str, Data] | None:
    """Topic, type and data that it says, None if it is not to be taken."""
    found = dict(envelope)
    try:
        # A `ref` comes back as it is, a number beyond a double too: it is for its sender alone.
        said = {name: parsed(value) for name, value in envelope if name != "ref" or value != "1e400"}
    except ValueError:
        return None
    data = json_data(found.get("data", "").encode())
    if topic is not None and said.get("topic") is None:
        said["topic"] = topic  # a WebSocket takes null for left out
    topic, type = said.get("topic"), said.get("type", "message")
    if not (found.keys() <= allowed and isinstance(topic, str) and isinstance(type, str)) or data is None:
        return None
    return (topic, type, data) if is_valid(check_topic, topic) and is_valid(check_type, type) else None


FIELDS = {"topic", "data", "type"}


def test_an_envelope_is_taken_just_if_it_is_one(audience: Audience) -> None:
    @settings(TRY, max_examples=2 * EXAMPLES)
    @given(members())
    def attempt(envelope: Members) -> None:
        answer, event = audience.post(b"/events", JSON, written(envelope).encode()), envelope_event(envelope, FIELDS)
        assert answer.status in ({400, 422} if event is None else {201}), (written(envelope)[:200], answer)
        if event is not None:
            topic, type, data = event
            audience.acknowledged(answer.json["id"], topic, data, type)

    attempt()
    audience.settle()


def flat(envelope: Members) -> bool:
    return "\n" not in written(envelope)


@pytest.mark.parametrize("form", ["array", "lines"])
def test_a_batch_is_taken_whole_or_not_at_all(audience: Audience, form: str) -> None:
    good = st.fixed_dictionaries({"topic": st.sampled_from(['"a"', '"b/c"']), "data": json_texts})
    one = good.map(lambda found: list(found.items())) | members()
    batches = st.lists(one.filter(flat) if form == "lines" else one, max_size=4)

    @settings(TRY, max_examples=2 * EXAMPLES)
    @given(batches, st.sampled_from(["\n", "\r\n", "\n \n"]))
    def attempt(batch: list[Members], end: str) -> None:
        texts = [written(envelope) for envelope in batch]
        body = f"[{', '.join(texts)}]" if form == "array" else end.join(texts)
        answer = audience.post(b"/events", JSON if form == "array" else NDJSON, body.encode())
        events = [envelope_event(envelope, FIELDS) for envelope in batch]
        if not events or None in events:
            assert answer.status in {400, 422}
            return
        assert answer.status == 201, (body[:300], answer)
        for id, event in zip(answer.json["ids"], events, strict=True):
            assert event is not None
            topic, type, data = event
            audience.acknowledged(id, topic, data, type)

    attempt()
    audience.settle()


@pytest.mark.parametrize("head", [JSON, NDJSON], ids=["json", "ndjson"])
def test_what_is_no_batch_is_refused(audience: Audience, head: list[tuple[bytes, bytes]]) -> None:
    @TRY
    @given(st.binary(max_size=40) | json_bodies)
    def attempt(body: bytes) -> None:
        assert audience.post(b"/events", head, body).status in {400, 422}

    attempt()
    audience.settle()


# The WebSocket.


def answer_to(websocket: ClientConnection, message: str) -> Any:
    websocket.send(message)
    while True:
        answer = json.loads(websocket.recv(WAIT_SECONDS))
        if answer["type"] in {"feed.ack", "feed.error"}:
            return answer


@pytest.fixture
def websocket(audience: Audience) -> Iterator[ClientConnection]:
    """One that publishes to `ws`, and hears nothing of it."""
    url = f"ws://127.0.0.1:{audience.server.port}/ws/ws?type=none"
    with connect(url, max_size=None, ping_interval=None) as connection:
        yield connection


def test_an_envelope_on_a_websocket_is_taken_just_if_it_is_one(audience: Audience, websocket: ClientConnection) -> None:
    @settings(TRY, max_examples=2 * EXAMPLES)
    @given(members("ref"))
    @example([("data", "1"), ("id", "1")])
    @example([("data", "1"), ("topic", "5")])
    @example([("data", '"\\ud800"')])
    @example([("ref", "1")])
    @example([("topic", "true"), ("data", '"\\ud800"')])
    @example([("topic", "null"), ("data", "null")])
    def attempt(envelope: Members) -> None:
        text = written(envelope)
        answer = answer_to(websocket, text)
        event = envelope_event(envelope, {*FIELDS, "ref"}, "ws")
        if answer["type"] == "feed.error":
            assert event is None, (text[:300], answer)
            assert answer["data"]["status"] in {400, 422}
            assert answer["data"]["detail"]
            return
        if event is None:
            # A text like any other: it has no `data`, or is no JSON at all.
            assert "data" not in dict(envelope) or not _is_json(text), text
            event = ("ws", "message", Data(text, False))
        topic, type, data = event
        audience.acknowledged(answer["data"]["id"], topic, data, type)

    attempt()
    audience.settle()


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_int=str, parse_constant=no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def test_any_other_text_on_a_websocket_is_published_as_it_is(audience: Audience, websocket: ClientConnection) -> None:
    @TRY
    @given(utf8 | json_texts.filter(lambda text: not text.strip().startswith("{")))
    def attempt(text: str) -> None:
        answer = answer_to(websocket, text)
        assert answer["type"] == "feed.ack"
        audience.acknowledged(answer["data"]["id"], "ws", Data(text, False))

    attempt()
    audience.settle()


def test_a_websocket_opens_just_for_a_pattern(audience: Audience) -> None:
    upgrade = [
        *((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")),
        *((b"Sec-WebSocket-Version", b"13"), (b"Sec-WebSocket-Key", b"AAAAAAAAAAAAAAAAAAAAAA==")),
    ]

    def opened(target: bytes) -> Answer:
        return ask(audience.server, b"GET", target, upgrade).checked()

    @TRY
    @given(in_urls(), queries())
    def attempt(named: tuple[bytes, bytes], query: bytes) -> None:
        name, target = named
        assert opened(b"/ws/" + target).status == (101 if is_valid(check_pattern, name) else 422), name
        assert opened(b"/ws/a?" + query).status in {101, 400, 422}

    attempt()
    audience.settle()


# Tokens.

SECRET = "a secret that is long enough for HS256"
LATER = time.time() + 3600


def token(**grants: Any) -> str:
    return issue(Grants(subject="s", expires=LATER, **grants), SECRET, "HS256")


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningServer]:
    """A server with a key, and a few events in it."""
    with running("--log", "memory:", jwt_secret=SECRET) as server:
        yield server


def position(server: RunningServer) -> object:
    head = [(b"Authorization", f"Bearer {ADMIN}".encode()), *HISTORY]
    return ask(server, b"GET", b"/events/**?last=1", head).json["next"]


ADMIN = token(publish=["**"], subscribe=["**"], admin=True)


@st.composite
def almost_tokens(draw: st.DrawFn) -> bytes:
    """A token with a byte or a part of it changed."""
    good = ADMIN.encode()
    place, length = draw(st.integers(0, len(good) - 1)), draw(st.sampled_from([0, 1, 1, 40]))
    changed = good[:place] + draw(st.sampled_from([b"", b".", b"A", b"=", b"\xff", b"e30"])) + good[place + length :]
    assume(_signed(changed) != _signed(good))
    return changed


def _signed(text: bytes) -> tuple[bytes, bytes]:
    """What is signed, and the signature: base64 has several ways to write one."""
    claims, _, signature = text.rpartition(b".")
    try:
        return claims, base64.urlsafe_b64decode(signature.rstrip(b"=") + b"==")
    except ValueError:
        return claims, signature


def test_no_token_is_too_odd_and_none_but_the_right_one_gets_in(guarded: RunningServer) -> None:
    before = position(guarded)

    @TRY
    @given(almost_tokens() | fields | huge_fields, st.sampled_from(["bearer", "cookie", "query", "twice"]))
    def attempt(text: bytes, place: str) -> None:
        target, head = b"/events/a", []
        if place == "query":
            target += b"?token=" + encoded(text)
        elif place == "cookie":
            head = [(b"Cookie", b"a=b; feed_token=" + text)]
        else:
            head = [(b"Authorization", b"Bearer " + text)] * (2 if place == "twice" else 1)
        for method, path in ((b"POST", target), (b"GET", target), (b"POST", target.replace(b"/events/a", b"/session"))):
            answer = ask(guarded, method, path, [*HISTORY, *head], b"x" if method == b"POST" else None).checked()
            assert answer.status in {400, 401, 431}, answer

    attempt()
    assert position(guarded) == before
    assert guarded.remarks == ""


# Grants. Few names, so that patterns often have to do with each other.

few = st.lists(st.sampled_from(["a", "b", "*"]), max_size=2)
patterns = st.builds(lambda first, last: "/".join([*first, last]), few, st.sampled_from(["a", "b", "*", "**"]))
grant_lists = st.lists(patterns, max_size=3)
TOPICS = [f"{first}{rest}" for first in "ab" for rest in ("", "/a", "/b", "/a/a", "/a/b", "/b/a", "/a/b/a")]


@pytest.fixture(scope="module")
def peopled(guarded: RunningServer) -> RunningServer:
    """The same with an event of each topic, whose data is its topic."""
    batch = "\n".join(json.dumps({"topic": topic, "data": topic}) for topic in TOPICS)
    head = [(b"Authorization", f"Bearer {ADMIN}".encode()), *NDJSON]
    assert ask(guarded, b"POST", b"/events", head, batch.encode()).status == 201
    return guarded


def test_who_may_subscribe_is_who_has_a_grant_that_covers_it_and_hears_nothing_else(peopled: RunningServer) -> None:
    @settings(TRY, max_examples=2 * EXAMPLES)
    @given(grant_lists, st.lists(patterns, min_size=1, max_size=3), st.booleans())
    def attempt(grants: list[str], asked: list[str], over_websocket: bool) -> None:
        bearer = f"Bearer {token(subscribe=grants, publish=['**'])}"
        query = "&".join(f"topic={pattern}" for pattern in asked) + "&last_event_id=earliest"
        is_allowed = all(any(covers(grant, pattern) for grant in grants) for pattern in asked)
        answer = ask(peopled, b"GET", f"/events?{query}".encode(), [(b"Authorization", bearer.encode()), *HISTORY])
        assert answer.checked().status == (200 if is_allowed else 403), (grants, asked)
        expected = [topic for topic in TOPICS if any(matches(pattern, topic) for pattern in asked)]
        if is_allowed:
            assert all(any(matches(grant, topic) for grant in grants) for topic in expected)
            assert [event["topic"] for event in answer.json["events"] if event["data"] == event["topic"]] == expected
        assert _heard(peopled, query, bearer, over_websocket=over_websocket) == (expected if is_allowed else None)

    attempt()


def _heard(server: RunningServer, query: str, bearer: str, *, over_websocket: bool) -> list[str] | None:
    """The topics of which a stream tells, None if it is refused."""
    if over_websocket:
        url = f"ws://127.0.0.1:{server.port}/ws?{query}"
        try:
            with connect(url, additional_headers={"Authorization": bearer}) as websocket:
                return _topics(lambda: json.loads(websocket.recv(WAIT_SECONDS)))
        except InvalidStatus as refused:
            assert refused.response.status_code == 403
            return None
    accept = "application/x-ndjson"
    with subscribed(f"{server.url}/events?{query}", opened=False, Authorization=bearer, Accept=accept) as stream:
        if stream.response.status_code == 403:
            return None
        return _topics(stream.object)


def _topics(next_object: Callable[[], Any]) -> list[str]:
    found = []
    while (message := next_object())["type"] != "feed.live":
        if not message["type"].startswith("feed.") and message["data"] == message["topic"]:
            found.append(message["topic"])
    return found


def test_a_live_stream_hears_nothing_but_what_its_grant_matches(peopled: RunningServer) -> None:
    admin = f"Bearer {ADMIN}"

    @settings(TRY, max_examples=EXAMPLES // 2)
    @given(grant_lists.filter(bool), st.lists(st.sampled_from(TOPICS), min_size=1, max_size=10), st.data())
    def attempt(grants: list[str], published: list[str], data: st.DataObject) -> None:
        pattern = data.draw(patterns.filter(lambda wanted: any(covers(grant, wanted) for grant in grants)))
        headers = {"Authorization": f"Bearer {token(subscribe=grants)}", "Accept": "application/x-ndjson"}
        end = pattern.replace("**", "b").replace("*", "b")
        with subscribed(f"{peopled.url}/events/{pattern}", headers) as stream:
            for topic in published:
                peopled.publish(topic, "live", Authorization=admin)
            peopled.publish(end, "end", Authorization=admin)
            heard = []
            while (event := stream.object())["data"] != "end":
                heard.append(event["topic"])
        assert heard == [topic for topic in published if matches(pattern, topic)]
        assert all(any(matches(grant, topic) for grant in grants) for topic in heard)

    attempt()


def test_who_may_publish_is_who_has_a_grant_that_matches(peopled: RunningServer) -> None:
    @settings(TRY, max_examples=2 * EXAMPLES)
    @given(grant_lists, st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3))
    def attempt(grants: list[str], topics: list[str]) -> None:
        head = [(b"Authorization", f"Bearer {token(publish=grants, subscribe=['**'])}".encode())]
        before = position(peopled)
        is_allowed = [any(matches(grant, topic) for grant in grants) for topic in topics]
        for topic, allowed in zip(topics, is_allowed, strict=True):
            answer = ask(peopled, b"POST", f"/events/{topic}".encode(), head, b"x").checked()
            assert answer.status == (201 if allowed else 403)
        if not any(is_allowed):
            assert position(peopled) == before
        batch = json.dumps([{"topic": topic, "data": "x"} for topic in topics])
        before = position(peopled)
        answer = ask(peopled, b"POST", b"/events", [*head, *JSON], batch.encode()).checked()
        assert answer.status == (201 if all(is_allowed) else 403)
        assert (position(peopled) == before) == (not all(is_allowed))

    attempt()
