"""The client's parsing: bytes in, what the server said out; held against httpx-sse, and bounded."""

from __future__ import annotations

import json
import tracemalloc

import msgspec
import pytest
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from hypothesis import given
from hypothesis import strategies as st

from feed import TooLarge, control
from feed.client import Event, Page
from feed.client.errors import Again
from feed.client.frames import Control, Frame, Frames, of_frame, of_gap, of_object, of_page, of_topics
from feed.event import Placed
from feed.pages import TopicInfo, TopicsPage
from feed.terms import DELETED
from feed.wire import message, sse

LIMIT = 1 << 20

# What lines are made of, cut where it hurts.
PIECES = [
    "data",
    "event",
    "id",
    "retry",
    ":",
    " ",
    "x",
    "é",
    "\u2028",
    "\0",
    "12",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\ufeff",
]


def frames(*chunks: bytes, limit: int = LIMIT) -> list[Frame]:
    parser = Frames(limit)
    return [frame for chunk in chunks for frame in parser.feed(chunk)]


def oracle(text: str) -> list[tuple[str, str, int | None]]:
    """What httpx-sse makes of it, but for frames that it should not make at all: those without data."""
    lines, decoder = SSELineDecoder(), SSEDecoder()
    found = [decoder.decode(line) for line in lines.decode(text)]
    return [(frame.event, frame.data, frame.retry) for frame in found if frame is not None and frame.data]


@given(st.lists(st.sampled_from(PIECES), max_size=40), st.integers(1, 7))
def test_httpx_sse_reads_the_same_however_the_bytes_are_cut(pieces: list[str], size: int) -> None:
    text = "".join(pieces) + "\n\n"
    raw = text.encode()
    found = frames(*(raw[start : start + size] for start in range(0, len(raw), size)))
    ours = [(frame.event or "message", frame.data, frame.retry) for frame in found if frame.data]
    text = text.removeprefix("\ufeff")  # httpx has taken it off before
    assert ours == oracle(text)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data\n\n", [Frame("", "", None, None)]),
        (b"data:\ndata\n\n", [Frame("", "\n", None, None)]),
        (b"id: 1\n\n", [Frame("", None, "1", None)]),
        (b"id: a\0b\ndata: x\n\n", [Frame("", "x", None, None)]),
        (b"event: e\n\n:\n\n\n", []),
        (b"retry: 5x\nretry: \ndata: x\n\n", [Frame("", "x", None, None)]),
        (b"retry: 99999999999\nretry: 7\n\n", [Frame("", None, None, 7)]),
        (b"data: \xff\n\n", [Frame("", "\ufffd", None, None)]),
        (b"\xef\xbb\xbfdata: x\n\n\xef\xbb\xbfdata: y\n\n", [Frame("", "x", None, None)]),
        (b"data: cut", []),
    ],
)
def test_a_frame_is_what_the_standard_says(raw: bytes, expected: list[Frame]) -> None:
    assert frames(raw) == expected
    assert frames(*(bytes([byte]) for byte in raw)) == expected


@pytest.mark.parametrize("endless", [b"x" * 1000, b"data: " + b"x" * 993 + b"\n", b"data\n" * 200, b"id: 12\n" * 140])
def test_what_does_not_end_does_not_fill_the_memory(endless: bytes) -> None:
    parser = Frames(100_000)
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="an event is larger than 100,000 bytes"):
            for _ in range(100_000):
                assert list(parser.feed(endless)) == []
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_what_is_not_kept_has_no_bound() -> None:
    parser = Frames(1000)
    for _ in range(1000):
        assert list(parser.feed(b": a heartbeat\nunknown: field\n")) == []
        assert len(list(parser.feed(b"data: " + b"x" * 900 + b"\n\n"))) == 1


def test_an_event_at_the_limit_is_one_event() -> None:
    raw = b"data: " + b"x" * 94
    assert len(frames(raw + b"\n\n", limit=101)) == 1
    with pytest.raises(TooLarge):
        frames(raw + b"x\n\n", limit=101)


def test_both_forms_of_an_event_are_the_same() -> None:
    line = message("e-1", "a/é", "t", '{"n": 1.10}', is_json=True, time_ms=0)
    expected = Event("e", 1, "a/é", "t", '{"n": 1.10}', True, 0)
    assert of_object(line.decode()) == expected
    [frame] = frames(b"id: e-1\ndata: " + line + b"\n\n")
    assert of_frame(frame) == expected


def test_both_forms_of_an_event_in_a_snapshot_have_the_events_own_id_and_that_to_resume_at() -> None:
    event = Event("e", 7, "a", DELETED, "{}", True, 0)
    placed = Placed(event, "e-3-9")
    assert of_object(placed.message.decode()) == placed
    [frame] = frames(placed.envelope)
    assert frame.event == DELETED
    assert of_frame(frame) == placed
    [frame] = frames(b"id: e-3-9\ndata: " + event.message + b"\n\n")
    assert of_frame(frame) == placed, "the id of the frame counts"


def test_a_topic_that_is_deleted_is_an_event_of_the_log_in_both_forms() -> None:
    event = Event("e", 7, "a", DELETED, "{}", True, 0)
    assert of_object(event.message.decode()) == event
    [frame] = frames(event.envelope)
    assert (frame.event, of_frame(frame)) == (DELETED, event)


def test_both_forms_of_what_the_stream_says_of_itself_are_the_same() -> None:
    [frame] = frames(sse("e-1", "feed.open", '{"subscription":"s"}', retry=50))
    assert of_frame(frame) == Control("feed.open", {"subscription": "s"}, "e-1", 50)
    told = of_object('{"type":"feed.open","id":"e-1","data":{"subscription":"s"}}')
    assert told == Control("feed.open", {"subscription": "s"}, "e-1", None)


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "{}", "[]", "null", '{"type":1}', '{"type":"t","data":1}', '{"type":"feed.open","data":[]}',
        "[" * 9999,
        '{"type":"feed.open","data":{},"id":"a b"}', '{"type":"feed.open","data":{},"id":"\\r\\nX: y"}',
        '{"type":"t","data":1,"id":"e-1","topic":"a","time":5}',
        '{"type":"t","data":1,"id":"%s","topic":"a","time":"now"}' % ("x" * 300),
        b"{}",
    ],
)  # fmt: skip
def test_what_no_feed_sends_is_not_believed(text: str | bytes) -> None:
    with pytest.raises(Again, match="not from a feed"):
        of_object(text)


def test_a_page_is_events_and_where_to_go_on() -> None:
    line = message("e-1", "a", "t", "1", is_json=True, time_ms=0)
    gap = {"requested": "x", "resumed_from": "e-0", "reason": "unknown"}
    body = b'{"events":[%b],"next":"e-1","gap":%b}' % (line, json.dumps(gap).encode())
    found = of_page(body)
    assert found == Page([Event("e", 1, "a", "t", "1", True, 0)], "e-1", control.gap("x", "e-0", "unknown"))
    assert of_gap(Control("feed.gap", gap)) == found.gap
    with pytest.raises(Again):
        of_gap(Control("feed.gap", {"requested": 1}))


def test_a_page_of_state_says_where_each_event_is_resumed_and_whether_it_is_whole() -> None:
    events = [Event("e", seq, f"a/{seq}", "t", "1", True, 0) for seq in (5, 9)]
    body = b'{"events":[%b,%b],"next":"e-9","live":true}' % (Placed(events[0], "e-5-9").message, events[1].message)
    assert of_page(body) == Page(events, "e-9", None, True, ["e-5-9", None])


def test_a_page_of_topics_is_names_and_their_newest_events() -> None:
    topic = '{"topic":"a/é","last_id":"e-1","last_time":"1970-01-01T00:00:01.500Z","type":"t"}'
    found = of_topics(f'{{"topics":[{topic}],"next":"a/é"}}'.encode())
    assert found == TopicsPage([TopicInfo("a/é", "e-1", 1500, "t")], "a/é")
    assert of_topics(b'{"topics":[],"next":null}') == TopicsPage([], None)
    for wrong in (topic.replace("Z", ""), topic.replace('"a/é"', "1")):
        with pytest.raises(msgspec.DecodeError):
            of_topics(f'{{"topics":[{wrong}],"next":null}}'.encode())


def test_comments_are_counted() -> None:
    parser = Frames(LIMIT)
    assert list(parser.feed(b": one\n\n:\ndata: x: y\n:two\n unknown: 3\nx\n\n")) == [Frame("", "x: y", None, None)]
    assert parser.comments == 3
