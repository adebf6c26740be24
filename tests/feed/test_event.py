"""The rules for topics, patterns, types and data, and that an event is encoded once."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, ip_network
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel, field_serializer

from feed import Event, Invalid, Malformed
from feed.event import (
    check_pattern,
    check_topic,
    check_type,
    json_draft,
    text_draft,
    value_draft,
)
from feed.json_rules import MAX_DEPTH

GOOD_TOPICS = [
    "a",
    "orders/42",
    "a/b/c/d",
    "tópic/日本",
    "a.b",
    "...",
    "a$",
    "x" * 256,
    "é" * 128,
    "a:b@c;d,e=f?g#h&i%j",
]
BAD_TOPICS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/./b",
    "a/..",
    "$a",
    "*",
    "a/*",
    "a*",
    "a b",
    " a",
    "a\tb",
    "a\nb",
    "a\rb",
    "a\0b",
    "a\x7fb",
    "a\x85b",
    "a\u00a0b",
    "a\u2028b",
    "a\u3000b",
    "a\u200bb",
    "a\ufeffb",
    "a\u202eb",
    "a\ud800b",
    "x" * 257,
    "é" * 129,
]


@pytest.mark.parametrize("topic", GOOD_TOPICS)
def test_a_good_topic_is_a_topic_and_a_pattern(topic: str) -> None:
    assert check_topic(topic) == topic
    assert check_pattern(topic) == topic


@pytest.mark.parametrize("topic", BAD_TOPICS)
def test_a_bad_topic_is_refused_and_the_error_says_what_is_wrong(topic: str) -> None:
    with pytest.raises(Invalid, match=r"^topic: .{10}"):
        check_topic(topic)


@pytest.mark.parametrize("pattern", ["*", "**", "a/*", "*/a", "a/*/b", "a/**", "*/**", "*/*"])
def test_a_wildcard_may_be_a_whole_segment_and_two_stars_the_last(pattern: str) -> None:
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", ["**/a", "a/**/b", "a*", "*a", "a/b*c", "***", "a/***", "$a/*", "a//*", "a/ /*"])
def test_any_other_star_is_refused(pattern: str) -> None:
    with pytest.raises(Invalid, match=r"^pattern: "):
        check_pattern(pattern)


@pytest.mark.parametrize("type", ["message", "created", "order.created", "é", "x" * 128, ".", "..", "a:b", "feeds"])
def test_a_good_type_is_taken(type: str) -> None:
    assert check_type(type) == type


@pytest.mark.parametrize(
    "type", ["", "open", "error", "feed.gap", "feed.", "a b", "a\nb", "a\0", "a/b", "a*", "x" * 129]
)
def test_a_bad_type_is_refused(type: str) -> None:
    with pytest.raises(Invalid, match=r"^type: "):
        check_type(type)


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b"1", "1"),
        (b"null", "null"),
        (b' {"a": 1}\n', '{"a": 1}'),
        (b'{"a":\r\n1,\n"b":\r2}', '{"a":  1, "b": 2}'),
        (b'{"b":1,"a":2,"b":3}', '{"b":1,"a":2,"b":3}'),
        (b"123456789012345678901234567890", "123456789012345678901234567890"),
        (b"[1.0, 1e2, -0]", "[1.0, 1e2, -0]"),
        (b'["\\u00e9\\n"]', '["\\u00e9\\n"]'),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "[" * MAX_DEPTH + "]" * MAX_DEPTH),
        (b'["' + b"[" * 500 + b'\\"{"]', '["' + "[" * 500 + '\\"{"]'),
    ],
)
def test_json_is_kept_as_it_came_but_for_line_breaks_between_tokens(raw: bytes, data: str) -> None:
    draft = json_draft("t", raw)
    assert (draft.text, draft.is_json, draft.data_bytes) == (data, True, len(data.encode()))


@pytest.mark.parametrize(
    ("raw", "text"), [(b'"hello"', "hello"), (b'"a\\nb\\u0000\\ud83d\\ude00"', "a\nb\0😀"), (b'""', "")]
)
def test_a_json_string_is_text(raw: bytes, text: str) -> None:
    draft = json_draft("t", raw)
    assert (draft.text, draft.is_json) == (text, False)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b"{}x",
        b"{'a':1}",
        b"[1,]",
        b"NaN",
        b"Infinity",
        b'"a\nb"',
        b'"\xff"',
        b'{"\xff":1}',
        b"\xef\xbb\xbf1",
        b'"\\ud800"',
        b'["\\udc00"]',
        b'"\xed\xa0\x80"',
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
        b"[" * 100_000 + b"]" * 100_000,
    ],
)
def test_what_is_not_json_or_would_break_a_reader_is_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed, match=r"^data: "):
        json_draft("t", raw)


def test_text_that_utf_8_cannot_hold_is_malformed() -> None:
    with pytest.raises(Malformed, match="surrogate at character 1"):
        text_draft("t", "a\ud800")


def test_json_that_is_made_here_is_one_line_for_all_who_read_by_lines() -> None:
    value = {"a\u2028": ["\x85", "\u2029", "\\\u2028", "é"]}
    draft = value_draft("t", value)
    assert len(draft.text.splitlines()) == 1
    assert json.loads(draft.text) == value


class Colour(Enum):
    RED = "red"


class Size(str, Enum):  # noqa: UP042  it formats itself otherwise than StrEnum
    LARGE = "large"


class Order(BaseModel):
    price: Decimal
    at: datetime


@dataclass
class Line:
    name: str
    colour: Colour


class Place(msgspec.Struct):
    host: IPv4Address
    since: date


class Parcel(msgspec.Struct, rename={"price": "cost"}):
    price: Decimal
    after: timedelta
    content: Any


NOON = datetime(2026, 11, 30, 12, 0, 0, 5_000, tzinfo=UTC)
KEY = UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Order(price=Decimal("1.10"), at=NOON), {"price": "1.10", "at": "2026-11-30T12:00:00.005000Z"}),
        (RootModel[list[int]]([1, 2]), [1, 2]),
        (Line("hat", Colour.RED), {"name": "hat", "colour": "red"}),
        (Place(IPv4Address("192.0.2.1"), date(2026, 11, 30)), {"host": "192.0.2.1", "since": "2026-11-30"}),
        (
            Parcel(Decimal("1.10"), timedelta(seconds=90), {KEY: [NOON, Colour.RED, {1}, Line("hat", Colour.RED)]}),
            {
                "cost": "1.10",
                "after": 90.0,
                "content": {str(KEY): [NOON.isoformat(), "red", [1], {"name": "hat", "colour": "red"}]},
            },
        ),
        ([NOON, NOON.date(), NOON.time()], ["2026-11-30T12:00:00.005000+00:00", "2026-11-30", "12:00:00.005000"]),
        (timedelta(minutes=1, milliseconds=500), 60.5),
        ({"id": KEY}, {"id": str(KEY)}),
        ({"price": Decimal("1.10")}, {"price": "1.10"}),
        ([{3, 1, 2}, frozenset("a"), deque([1, 2])], [[1, 2, 3], ["a"], [1, 2]]),
        ([PurePosixPath("/a/b"), ip_network("192.0.2.0/24")], ["/a/b", "192.0.2.0/24"]),
        ([Line("hat", Colour.RED), {"at": [NOON.date()]}], [{"name": "hat", "colour": "red"}, {"at": ["2026-11-30"]}]),
        (MappingProxyType({"a": 1}), {"a": 1}),
        ({KEY: {NOON.date(): {Colour.RED: 1, 2: 3}}}, {str(KEY): {"2026-11-30": {"red": 1, "2": 3}}}),
        ({KEY: Line("hat", Colour.RED)}, {str(KEY): {"name": "hat", "colour": "red"}}),
    ],
)  # fmt: skip
def test_values_that_json_does_not_know_have_a_form(value: object, expected: object) -> None:
    draft = value_draft("t", value)
    assert draft.is_json
    assert json.loads(draft.text) == expected


@pytest.mark.parametrize(
    ("value", "text"), [(NOON, NOON.isoformat()), (KEY, str(KEY)), (Size.LARGE, "large"), (Decimal("1.10"), "1.10")]
)
def test_a_value_whose_form_is_a_text_is_published_as_text(value: object, text: str) -> None:
    draft = value_draft("t", value)
    assert (draft.text, draft.is_json, type(draft.text)) == (text, False, str)


@pytest.mark.parametrize("name", ["topic", "type"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5, "int: write str(…) around it"),
        (b"a", "bytes: write .decode() after it"),
        (["a"], "list"),
        (None, "NoneType"),
        (Colour.RED, "Colour: write .value after it"),
    ],
)
def test_a_topic_or_type_that_is_no_text_is_the_programs_mistake(name: str, value: object, words: str) -> None:
    given: Any = {"topic": "t", "type": "message", name: value}
    for data in ("x", b"1", {"n": 1}):
        with pytest.raises(TypeError) as raised:
            value_draft(data=data, **given)
        assert str(raised.value) == f"{name} has to be a str, not {words}"


@pytest.mark.parametrize(
    ("raw", "text", "is_json"),
    [
        (b' {"n": 1.10,\n "m": 1}\n', '{"n": 1.10,  "m": 1}', True),
        (b'"caf\\u00e9"', "caf\u00e9", False),
        (b"\xef\xbb\xbf[1]", "[1]", True),
    ],
)
def test_bytes_are_one_json_value_as_it_is(raw: bytes, text: str, is_json: bool) -> None:
    draft = value_draft("t", raw)
    assert (draft.text, draft.is_json) == (text, is_json)


@pytest.mark.parametrize("raw", [bytearray(b'{"n":1.10}'), memoryview(b'{"n":1.10}')])
def test_a_buffer_of_bytes_is_one_json_value_too(raw: bytearray | memoryview) -> None:
    draft = value_draft("t", raw)
    assert (draft.text, draft.is_json) == ('{"n":1.10}', True)


def test_sets_with_the_same_members_are_the_same_data() -> None:
    texts = {value_draft("t", {str(number) for number in numbers}).text for numbers in (range(50), range(49, -1, -1))}
    assert len(texts) == 1


CONTAINS_ITSELF: list[object] = []
CONTAINS_ITSELF.append(CONTAINS_ITSELF)


class Broken(BaseModel):
    value: Any

    @field_serializer("value")
    def fail(self, value: Any) -> Any:
        raise RuntimeError("it fails")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            object(),
            "JSON has no form for object: make it a dict, a list, a text or a number first, or use a",
        ),
        ({"a": [object()]}, "JSON has no form for object: "),
        (Order, "JSON has no form for ModelMetaclass: "),
        (
            {"a": b"bytes"},
            "JSON has no form for bytes inside other data: make them text first, such as with",
        ),
        (Parcel(Decimal(1), timedelta(1), b"bytes"), "JSON has no form for bytes inside other data: "),
        (Parcel(Decimal(1), timedelta(1), {(1, 2): 1}), "a key of the type tuple: make it a text or a number first"),
        ({(1, 2): 1}, "a key of the type tuple: make it a text or a number first"),
        (Broken(value=1), "model_dump(mode='json') of Broken failed: "),
        (float("nan"), "a number that is not finite, or a value that contains itself"),
        (CONTAINS_ITSELF, "a number that is not finite, or a value that contains itself"),
        (["\ud800"], "a lone surrogate: half of a pair such as \\ud83d\\ude00"),
    ],
)
def test_a_value_that_json_has_no_form_for_is_malformed_and_says_what_to_do(value: object, words: str) -> None:
    with pytest.raises(Malformed) as raised:
        value_draft("t", value)
    assert str(raised.value).startswith(f"data: cannot be published as JSON: {words}")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_a_published_value_comes_back(value: object) -> None:
    draft = value_draft("t", value)
    event = Event("e", 1, draft.topic, draft.type, draft.text, draft.is_json, 0)
    assert event.data == value


def test_an_event_gives_its_data_as_a_value_and_as_a_text_and_its_time_in_utc() -> None:
    event = Event("a-b", 7, "t", "t", '{"price": 1.10}', True, 1_764_504_000_123)
    assert (event.id, event.data, event.text) == ("a-b-7", {"price": 1.1}, '{"price": 1.10}')
    assert event.time == datetime(2025, 11, 30, 12, 0, 0, 123_000, UTC)
    assert event.time.tzinfo is UTC
    text = Event("e", 7, "t", "t", "[1]", False, 0)
    assert (text.data, text.text) == ("[1]", "[1]")


def test_an_event_has_one_id_and_one_object_per_wire_format() -> None:
    event = Event("e", 7, "a/b", "t", '{"x":1}', True, 0)
    assert event.id == "e-7"
    assert event.sse is event.sse
    assert event.message is event.message
    assert event.line is event.line == event.message + b"\n"
    assert event.envelope is event.envelope
    assert json.loads(event.message)["data"] == {"x": 1}
    assert event.envelope == b"id: e-7\ndata: " + event.message + b"\n\n"


def test_an_event_cannot_be_changed() -> None:
    event = Event("e", 7, "a/b", "t", "x", False, 0)
    with pytest.raises(AttributeError):
        event.text = "y"  # type: ignore[misc]
