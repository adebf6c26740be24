"""A bounded run of consecutive events, against the plainest possible model: a list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed import Event
from feed.pattern import Selection
from feed.window import Window


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


def test_a_hole_is_a_mistake() -> None:
    window = Window(5, max_events=10, max_bytes=1000)
    with pytest.raises(ValueError, match="event 7 cannot follow 5"):
        window.extend([event(7)])


def test_old_events_can_be_let_go() -> None:
    window = Window(0, max_events=10, max_bytes=10_000)
    window.extend([event(seq) for seq in range(1, 6)])
    window.drop_before(4)
    oldest = window.oldest()
    assert oldest is not None
    assert (window.first, oldest.seq) == (4, 4)
    window.drop_before(100)
    assert (window.first, window.oldest(), window.bytes) == (6, None, 0)


def test_the_nth_newest_wanted_event_is_found() -> None:
    window = Window(0, max_events=10, max_bytes=10_000)
    window.extend([event(seq, "ab"[seq % 2]) for seq in range(1, 9)])
    found = window.find_last(Selection(["a"]), 2)
    assert found is not None
    assert found.seq == 6
    assert window.find_last(Selection(["a"]), 5) is None
