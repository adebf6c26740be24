"""The rules for topics, patterns, types and data, and that an event is encoded once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


HOLDS_ITSELF: list[object] = []
HOLDS_ITSELF.append(HOLDS_ITSELF)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "JSON has no form for object"),
        ({1, 2}, "JSON has no form for set"),
        (b"bytes", "JSON has no form for bytes"),
        ({"a": object()}, "JSON has no form for object"),
        ({(1, 2): 1}, "the keys of an object have to be text or numbers"),
        (float("nan"), "a number that is not finite, or a value that holds itself"),
        (HOLDS_ITSELF, "a number that is not finite, or a value that holds itself"),
        (["\ud800"], "a lone surrogate: half of a pair such as \\ud83d\\ude00"),
    ],
)
def test_a_value_that_json_has_no_form_for_is_malformed(value: object, words: str) -> None:
    with pytest.raises(Malformed) as raised:
        value_draft("t", value)
    assert str(raised.value) == f"data: not a value that JSON can hold: {words}"


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
