"""A bounded run of consecutive events, against the plainest possible model: a list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed import Event
from feed.log.window import Window
from feed.pattern import Selection


def event(seq: int, topic: str = "a", data: str = "") -> Event:
    return Event("e", seq, topic, "message", data, False, 0)


@given(st.lists(st.integers(0, 40), max_size=20), st.integers(1, 30), st.integers(0, 20))
def test_it_keeps_the_newest_events_whatever_comes_in_which_portions(
    portions: list[int], max_events: int, start: int
) -> None:
    window = Window(start, max_events=max_events, max_bytes=1 << 20)
    model: list[int] = []
    position = start
    for portion in portions:
        window.extend([event(position + 1 + offset) for offset in range(portion)])
        model += range(position + 1, position + 1 + portion)
        position += portion
        model = model[-max_events:]
        assert (window.position, len(window), window.first) == (position, len(model), position + 1 - len(model))
        for after in range(start, position + 1):
            found = window.after(after, 7)
            if after + 1 < window.first:
                assert found is None
            else:
                assert [e.seq for e in found or []] == [seq for seq in model if seq > after][:7]
            assert [e.seq for e in window.before(after, 5)] == [seq for seq in model if seq < after][-5:]


def test_it_keeps_no_more_bytes_than_it_may() -> None:
    window = Window(0, max_events=100, max_bytes=600)
    window.extend([event(seq, data="x" * 100) for seq in range(1, 11)])
    assert window.bytes <= 600
    assert len(window) == 3
    assert window.bytes == sum(e.size for e in window.after(7, 10) or [])
    window.extend([event(11, data="x" * 1000)])
    assert (len(window), window.bytes, window.position, window.first) == (0, 0, 11, 12)


def test_it_begins_behind_the_last_hole() -> None:
    window = Window(5, max_events=10, max_bytes=1000)
    window.extend([event(6), event(7), event(9), event(10)])
    assert (window.first, window.position, len(window)) == (9, 10, 2)
    assert window.bytes == event(9).size + event(10).size
    assert window.after(7, 10) is None, "who has not got beyond the hole reads on where it is seen"


def test_what_was_there_already_is_a_mistake() -> None:
    window = Window(5, max_events=10, max_bytes=1000)
    with pytest.raises(ValueError, match="event 5 cannot follow 5"):
        window.extend([event(5)])


def test_old_events_can_be_let_go() -> None:
    window = Window(0, max_events=10, max_bytes=10_000)
    window.extend([event(seq) for seq in range(1, 6)])
    window.drop_before(4)
    oldest = window.oldest()
    assert oldest is not None
    assert (window.first, oldest.seq) == (4, 4)
    window.drop_before(100)
    assert (window.first, window.oldest(), window.bytes) == (6, None, 0)


def test_pages_are_read_from_it_in_both_directions() -> None:
    window = Window(0, max_events=10, max_bytes=10_000)
    window.extend([event(seq, "ab"[seq % 2]) for seq in range(1, 13)])
    selection = Selection(["a"])
    page = window.page(4, selection, 2)
    assert page is not None
    assert ([e.seq for e in page.events], page.start, page.end) == ([6, 8], 4, 8)
    page = window.page(4, selection, 10)
    assert page is not None
    assert ([e.seq for e in page.events], page.end) == ([6, 8, 10, 12], 12)
    assert window.page(1, selection, 2) is None
    page = window.page_backward(13, selection, 2)
    assert page is not None
    assert ([e.seq for e in page.events], page.start, page.end) == ([10, 12], 9, 12)
    page = window.page_backward(6, selection, 5)
    assert page is not None
    assert ([e.seq for e in page.events], page.start) == ([4], 2)
    assert window.page_backward(3, selection, 5) is None
    assert window.page_backward(14, selection, 5) is None, "what it has not got yet"


def test_it_can_skip_ahead_over_what_it_never_had() -> None:
    window = Window(0, max_events=10, max_bytes=10_000)
    window.extend([event(seq) for seq in range(1, 6)])
    window.skip_to(100)
    assert (window.position, window.first, len(window), window.bytes) == (100, 101, 0, 0)
    window.extend([event(101)])
    assert window.first == 101


def test_what_has_left_is_let_go_wire_formats_and_all() -> None:
    window = Window(0, max_events=3, max_bytes=10_000)
    events = [event(seq) for seq in range(1, 11)]
    assert all(e.sse for e in events)
    window.extend(events)
    assert [bool(e.__dict__) for e in events] == [False] * 7 + [True] * 3
    assert not set(map(id, events[:7])) & set(map(id, window._events))
