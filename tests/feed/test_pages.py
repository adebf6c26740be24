"""Pages of past events: what may be asked for, and which page comes next. Both clients and the library use this."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from feed import Event, Invalid, Page, control
from feed.pages import NEWEST_TIME, PageRequest, Paging, page_request

NOTHING: dict[str, Any] = {"after": None, "before": None, "since": None, "last": None, "limit": None}


@pytest.mark.parametrize(
    ("since", "milliseconds"),
    [
        ("1970-01-01T00:00:01.5Z", 1_500),
        ("1970-01-01t01:00:00+01:00", 0),
        (datetime(1970, 1, 1, 0, 0, 0, 123_999, UTC), 123),
        (datetime(1970, 1, 1, 2, 0, 1, tzinfo=timezone(timedelta(hours=2))), 1_000),
        (datetime(1, 1, 1, tzinfo=UTC), 0),
        (datetime(9999, 12, 31, 23, 59, 59, 999_999, timezone(-timedelta(hours=23))), NEWEST_TIME),
    ],
)
def test_since_is_an_aware_time_or_rfc_3339(since: str | datetime, milliseconds: int) -> None:
    assert page_request(**{**NOTHING, "since": since}).since == milliseconds


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"since": datetime(2026, 11, 30)}, "since: has no time zone: give an aware datetime"),  # noqa: DTZ001
        ({"since": "yesterday"}, "since: has to be a time as in RFC 3339, such as"),
        ({"since": "2026-11-30"}, "since: has to be a time as in RFC 3339, such as"),
        ({"last": 0}, "last: has to be a whole number from 1 to 1,000"),
        ({"limit": 1_001}, "limit: has to be a whole number from 1 to 1,000"),
        ({"after": "e-1", "last": 5}, "last: cannot be combined with after: give one of"),
        ({"before": "e-1", "since": "2026-11-30T00:00:00Z"}, "since: cannot be combined with before: give one of"),
    ],
)
def test_what_cannot_be_asked_for_raises_and_says_why(given: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid) as raised:
        page_request(**{**NOTHING, **given})
    assert str(raised.value).startswith(words)


WHOLE = "has to be a whole number (int) from 1 to 1,000, not"
AN_ID = "has to be an id, which is a str such as event.id, not"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"last": "5"}, f"last {WHOLE} str"),
        ({"last": 1.5}, f"last {WHOLE} float"),
        ({"last": True}, f"last {WHOLE} bool"),
        ({"limit": "5"}, f"limit {WHOLE} str"),
        ({"after": 5}, f"after {AN_ID} int"),
        ({"after": 0}, f"after {AN_ID} int"),
        ({"before": b"e-1"}, f"before {AN_ID} bytes"),
        ({"since": 5}, "since has to be an aware datetime, or a str as in RFC 3339, not int"),
        ({"since": date(2026, 11, 30)}, "since has to be an aware datetime, or a str as in RFC 3339, not date"),
    ],
)
def test_a_value_of_the_wrong_type_is_the_programs_mistake(given: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError) as raised:
        page_request(**{**NOTHING, **given})
    assert str(raised.value) == words


def test_the_position_before_the_first_id_is_none() -> None:
    assert page_request(**{**NOTHING, "after": "", "last": 5}) == PageRequest(last=5)


EVENT = Event("e", 5, "a", "t", "1", True, 0)
FULL, EMPTY = Page([EVENT], "e-5"), Page([], "e-9")


@pytest.mark.parametrize(
    ("pages", "ended"),
    [
        ([FULL], False),
        ([FULL, EMPTY], False),  # a gap may come
        ([FULL, EMPTY, EMPTY], True),
        ([FULL, Page([], "e-5")], True),
        ([FULL, EMPTY, Page([], "e-10", control.gap("e-9", "e-10", "unknown"))], False),
        ([FULL, EMPTY, Page([], "e-10")], True),
    ],
)
def test_a_history_ends_where_nothing_more_is_to_come(pages: list[Page], ended: bool) -> None:
    paging = Paging(PageRequest())
    for page in pages:
        assert not paging.ended
        paging.turn(page)
    assert paging.ended == ended


def test_the_newest_are_one_page_and_backwards_ends_at_the_oldest() -> None:
    newest = Paging(PageRequest(last=5))
    newest.turn(FULL)
    assert newest.ended
    backwards = Paging(PageRequest(before="e-9", limit=7))
    backwards.turn(FULL)
    assert (backwards.ended, backwards.request) == (False, PageRequest(before="e-5", limit=7))
    backwards.turn(EMPTY)
    assert backwards.ended
