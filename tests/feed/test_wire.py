"""The bytes: values in, bytes out. sse-starlette's encoder and a parser after the WHATWG text are the oracles."""

from __future__ import annotations

import json

import pytest
from httpx_sse._decoders import SSEDecoder
from hypothesis import given
from hypothesis import strategies as st
from sse_starlette import ServerSentEvent

from feed import control, wire
from tests.support.event_stream import parse_event_stream

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


def as_lines(data: str) -> str:
    """What SSE keeps of text: every line end becomes LF."""
    return data.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (wire.sse("e-1", "message", "hello"), b"id: e-1\ndata: hello\n\n"),
        (wire.sse("e-1", "created", "hello"), b"id: e-1\nevent: created\ndata: hello\n\n"),
        (wire.sse("e-1", "message", ""), b"id: e-1\ndata: \n\n"),
        (wire.sse("e-1", "message", "a\nb\r\nc\rd"), b"id: e-1\ndata: a\ndata: b\ndata: c\ndata: d\n\n"),
        (wire.sse("e-1", "message", "a\n"), b"id: e-1\ndata: a\ndata: \n\n"),
        (wire.sse("e-1", "message", "a\u2028b\x85c\x0bd"), "id: e-1\ndata: a\u2028b\x85c\x0bd\n\n".encode()),
        (wire.sse("e-1", "message", " a"), b"id: e-1\ndata:  a\n\n"),
        (wire.sse("e-0", "feed.open", "{}", retry=3000), b"retry: 3000\nid: e-0\nevent: feed.open\ndata: {}\n\n"),
        (wire.sse(None, "feed.live", "{}"), b"event: feed.live\ndata: {}\n\n"),
    ],
)
def test_a_frame_is_these_very_bytes(frame: bytes, expected: bytes) -> None:
    assert frame == expected


@given(NAMES, NAMES, st.text())
def test_any_data_comes_back_from_the_parser_of_the_standard(id: str, type: str, data: str) -> None:
    assert parse_event_stream(wire.sse(id, type, data)) == [(id, type, as_lines(data))]


@given(NAMES, NAMES, st.text())
def test_frames_are_those_of_sse_starlette(id: str, type: str, data: str) -> None:
    theirs = ServerSentEvent(data, event=None if type == "message" else type, id=id, sep="\n")
    # It drops a line break at the very end, which the standard keeps: there we follow the standard.
    if not data.endswith(("\n", "\r")):
        assert wire.sse(id, type, data) == theirs.encode()


@given(st.text())
def test_httpx_sse_reads_the_same_text(data: str) -> None:
    decoder = SSEDecoder()
    lines = wire.sse("e-1", "message", data).decode().split("\n")[:-1]
    events = [event for line in lines if (event := decoder.decode(line)) is not None]
    assert [event.data for event in events] == [as_lines(data)]


def test_a_heartbeat_is_no_event_to_anybody() -> None:
    assert parse_event_stream(wire.HEARTBEAT + wire.sse("e-1", "message", "x")) == [("e-1", "message", "x")]
    decoder = SSEDecoder()
    assert [decoder.decode(line) for line in wire.HEARTBEAT.decode().splitlines()] == [None]
    assert b"\n\n" not in wire.HEARTBEAT


def test_json_data_goes_into_the_message_as_it_came() -> None:
    raw = '{"n":123456789012345678901234567890, "a":1,"a":2}'
    message = wire.message("e-1", "a/b", "t", raw, is_json=True, time_ms=0)
    assert (
        message == b'{"id":"e-1","topic":"a/b","type":"t","data":%b,"time":"1970-01-01T00:00:00.000Z"}' % raw.encode()
    )


@given(st.text())
def test_text_goes_into_the_message_as_one_json_string_on_one_line(data: str) -> None:
    message = wire.message("e-1", "tópic", "t", data, is_json=False, time_ms=1)
    assert b"\n" not in message
    assert b"\r" not in message
    assert json.loads(message) == {
        "id": "e-1",
        "topic": "tópic",
        "type": "t",
        "data": data,
        "time": "1970-01-01T00:00:00.001Z",
    }


OTHERS_LINE_ENDS = "\x85\u2028\u2029"


@given(st.text(st.sampled_from('\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\\"é漢😀a')))
def test_text_in_the_message_is_one_line_for_all_who_read_by_lines(data: str) -> None:
    message = wire.message("e-1", "t", "t", data, is_json=False, time_ms=1).decode()
    assert message.splitlines() == [message]
    assert json.loads(message)["data"] == data


def test_json_that_others_published_keeps_what_ends_a_line_for_some() -> None:
    raw = json.dumps(OTHERS_LINE_ENDS, ensure_ascii=False)
    assert raw in wire.message("e-1", "t", "t", f"[{raw}]", is_json=True, time_ms=1).decode()


def test_what_a_client_asked_to_resume_after_is_repeated_on_one_line() -> None:
    gap = control.gap(f"é{OTHERS_LINE_ENDS}", "e-1", "unknown")
    assert len(gap.line.decode().splitlines()) == 1
    assert json.loads(gap.text)["requested"] == f"é{OTHERS_LINE_ENDS}"


def test_control_objects_have_an_id_only_where_there_is_a_position() -> None:
    assert json.loads(wire.control("feed.live", '{"replayed":3}', None)) == {
        "type": "feed.live",
        "data": {"replayed": 3},
    }
    assert json.loads(wire.control("feed.position", "{}", "e-7")) == {"type": "feed.position", "id": "e-7", "data": {}}


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [(0, "1970-01-01T00:00:00.000Z"), (1795231290380, "2026-11-21T03:21:30.380Z"), (-1, "1969-12-31T23:59:59.999Z")],
)
def test_times_are_rfc_3339_in_utc_to_the_millisecond(milliseconds: int, expected: str) -> None:
    assert wire.rfc3339(milliseconds) == expected
