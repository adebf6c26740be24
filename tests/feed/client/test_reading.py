"""What a subscription makes of what happens to it, without a socket: its place, its waits, its rights."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed import Invalid, control
from feed.client import Event, GaveUp, Notice, Refused, draft
from feed.client.answers import Refusal
from feed.client.calls import Body, publishing_one
from feed.client.errors import Again
from feed.client.frames import Control
from feed.client.reading import Reading, Transport
from feed.client.waits import obeyed
from feed.event import Placed

EVENT = Event("e", 5, "a", "t", "1", True, 0)
ENDED = Again("the stream ended")


def reading(transport: Transport = "sse", *, after: str | None = None, renewable: bool = False) -> Reading:
    return Reading(["a/*", "b"], ["t"], after, 7, transport, renewable=renewable)


def opened(transport: Transport = "sse", retry: int | None = 2000) -> Reading:
    found = reading(transport)
    found.take(Control("feed.open", {}, "e-1", retry))
    return found


def closing(**data: Any) -> Control:
    return Control("feed.closing", data, None, None)


def test_an_sse_stream_asks_for_envelopes_and_a_websocket_for_nothing_else() -> None:
    asked = [("topic", "a/*"), ("topic", "b"), ("type", "t"), ("after", "e-1"), ("last", "7")]
    assert reading(after="e-1").parameters.multi_items() == [("envelope", "1"), *asked]
    assert reading("websocket", after="e-1").parameters.multi_items() == asked


@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_state_is_asked_for_and_how_often(transport: Transport) -> None:
    def asked(every: float | None) -> list[tuple[str, str]]:
        found = Reading(["a/*"], (), "e-1", None, transport, latest=True, every=every, renewable=False)
        return [each for each in found.parameters.multi_items() if each[0] != "envelope"]

    state = [("topic", "a/*"), ("latest", "1")]
    assert asked(None) == [*state, ("after", "e-1")]
    assert asked(0.5) == [*state, ("every", "0.5s"), ("after", "e-1")]
    assert asked(60) == [*state, ("every", "1m"), ("after", "e-1")]


@pytest.mark.parametrize(
    ("latest", "every", "error", "words"),
    [
        (False, 0.5, Invalid, "every: is only for latest"),
        (True, 0.05, Invalid, "every: has to be from 100 ms to 60 seconds"),
        (True, 61, Invalid, "every: has to be from 100 ms to 60 seconds"),
        (True, False, TypeError, "every has to be a number of seconds, not bool"),
    ],
)
def test_how_often_state_may_come_has_bounds(latest: bool, every: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Reading(["a"], (), None, None, "sse", latest=latest, every=every, renewable=False)


def test_the_position_before_the_first_id_is_none() -> None:
    assert reading(after="").parameters == reading(after=None).parameters


def test_another_transport_is_refused() -> None:
    with pytest.raises(Invalid):
        reading("carrier pigeon")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("received", "item", "position"),
    [
        (Control("feed.open", {"subscription": "s"}, "e-1", 50), Notice("feed.open", {"subscription": "s"}), "e-1"),
        (EVENT, EVENT, "e-5"),
        (Placed(EVENT, "e-2-9"), EVENT, "e-2-9"),
        (Control("feed.position", {}, "e-9"), Notice("feed.position", {}), "e-9"),
        (Control("feed.live", {"replayed": 3}), Notice("feed.live", {"replayed": 3}), ""),
        (
            Control("feed.gap", {"requested": "x", "resumed_from": "e-3", "reason": "expired"}, "e-3"),
            control.gap("x", "e-3", "expired"),
            "e-3",
        ),
        (Control("", {}, None, 60), None, ""),
        (Control("", {}, "e-4"), None, "e-4"),
    ],
)
def test_a_position_is_kept_of_whatever_names_one(received: Any, item: Any, position: str) -> None:
    found = reading()
    assert found.take(received) == item
    assert found.position == position
    assert found.headers({}).get("Last-Event-ID", "") == position


@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_a_server_that_sends_its_readers_away_is_obeyed_to_the_letter(transport: Transport) -> None:
    found = opened(transport)
    for retry in (140, 7321, 61_000):
        found.take(Control("feed.open", {}, "e-1"))
        found.take(closing(reason="shutdown", retry=retry))
        assert found.ended(ENDED).wait == retry / 1000


@pytest.mark.parametrize(
    ("retry", "wait"),
    [
        (0, 0.05),
        (-5, 0.05),
        (10**12, 300),
        (10**400, 300),
        (-(10**400), 0.05),
        (1e400, 300),
        ("soon", None),
        (None, None),
    ],
)
def test_it_is_obeyed_within_reason(retry: object, wait: float | None) -> None:
    found = opened()
    found.take(closing(retry=retry))
    waited = found.ended(ENDED).wait
    assert waited == wait if wait else 1.5 <= waited <= 2.5


def test_a_server_that_never_lets_us_in_is_asked_less_and_less_often() -> None:
    found = reading()
    waits = []
    for _ in range(8):
        found.take(closing(reason="busy", retry=1200))
        waits.append(found.ended(ENDED).wait)
    assert all(wait >= 1.2 for wait in waits)
    assert waits[5] > 15


def test_what_one_stream_asked_for_does_not_count_for_the_next() -> None:
    found = opened(retry=50)
    found.take(closing(retry=9000))
    assert found.ended(ENDED).wait == 9
    assert found.ended(Again("cannot connect")).wait < 1


def test_without_a_word_from_the_server_a_crowd_comes_back_over_seconds() -> None:
    waits = [opened("websocket", None).ended(ENDED).wait for _ in range(500)]
    assert 2.25 <= min(waits) < 2.5
    assert 3.5 < max(waits) <= 3.75


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 524])
def test_what_may_be_better_later_is_tried_again_after_the_time_the_server_names(status: int) -> None:
    found = reading()
    again = found.refused(status, "Busy", {"retry-after": "40"}, Body.of_refusal())
    assert isinstance(again, Again)
    assert found.ended(again).wait == 40


def asked_away(value: str, **headers: str) -> float:
    """For how many seconds a `Retry-After` sends us away."""
    again = reading().refused(503, "Busy", {"retry-after": value, **headers}, Body.of_refusal())
    assert isinstance(again, Again)
    return again.at_least


@pytest.mark.parametrize(
    "form",
    ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"],
    ids=["IMF-fixdate", "RFC 850", "asctime"],
)
def test_a_time_to_come_back_may_be_a_date_in_each_form_there_is(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feed.client.answers.time.time", lambda: 1_800_000_000.0)

    def at(moment: int) -> str:
        return datetime.fromtimestamp(moment, UTC).strftime(form)

    assert asked_away(at(1_800_000_040)) == 40
    assert asked_away(at(1_800_000_000)) == asked_away(at(1_799_999_000)) == asked_away(at(784_111_777)) == 0
    assert asked_away(at(1_800_003_600)) == 3600
    # By the clock that wrote it, if it says what that shows; but not by an answer that was kept for long.
    assert asked_away(at(1_800_009_040), date=at(1_800_009_000)) == 40
    assert asked_away(at(1_800_009_000), date=at(1_800_009_040)) == 0
    assert asked_away(at(1_800_000_040), date=at(784_111_777)) == 40
    assert asked_away(at(1_800_000_040), date="yesterday") == 40


def test_a_date_far_ahead_is_obeyed_within_reason() -> None:
    found = reading()
    again = found.refused(503, "Busy", {"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, Body.of_refusal())
    assert isinstance(again, Again)
    assert found.ended(again).wait == 300


@given(st.text(max_size=40) | st.from_regex(r"[A-Za-z]{0,9},? ?[0-9 ]{0,5}[ -]\w{0,4}[ -][0-9:]{0,20} ?[-+\w]{0,9}"))
def test_whatever_a_time_to_come_back_is_it_is_a_number_of_seconds(value: str) -> None:
    assert 0 <= asked_away(value, date=value) <= 1e9


@pytest.mark.parametrize(
    "value",
    [
        "",
        "-1",
        "x",
        "1.5",
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "Wed, 32 Oct 2026 07:28:00 GMT",
        "Wed, 21 Oct",
        "99999999999 GMT",
        "²",
        "9999999",
    ],
)
def test_a_time_that_is_none_is_not_waited_for(value: str) -> None:
    again = reading().refused(503, "Busy", {"retry-after": value}, Body.of_refusal())
    assert isinstance(again, Again)
    assert again.at_least == 0


def test_a_first_401_asks_for_another_token_where_there_is_one_and_a_second_is_final() -> None:
    def ask(found: Reading) -> Again | Refusal:
        body = Body.of_refusal()
        body.takes(b'{"status": 401}')
        return found.refused(401, "No", {"content-type": "application/problem+json; charset=utf-8"}, body)

    found = reading(renewable=True)
    assert isinstance(found.refused(401, "No", {}, Body.of_refusal()), Again)  # somebody else's
    assert isinstance(ask(found), Again)
    assert isinstance(ask(found), Refused)
    found.take(Control("feed.open", {}, "e-1"))
    assert isinstance(ask(found), Again)
    assert isinstance(ask(reading()), Refused)


def test_a_compressed_stream_is_not_read() -> None:
    headers = {"content-type": "text/event-stream; charset=utf-8"}
    reading().opened(headers)
    with pytest.raises(Again, match="compressed"):
        reading().opened({**headers, "content-encoding": "gzip"})


def test_obeying_is_bounded() -> None:
    assert [obeyed(asked) for asked in (-1, 0, 2, 10**9)] == [0.05, 0.05, 2, 300]


class Clock:
    """One that only waits move."""

    def __init__(self) -> None:
        self.now = 7.0

    def monotonic(self) -> float:
        return self.now


def gave_up(again: Again, patience: float, monkeypatch: pytest.MonkeyPatch) -> tuple[list[float], str]:
    """The moments at which a call is tried whose every try ends at once in this way, and how it is given up."""
    clock = Clock()
    monkeypatch.setattr("feed.client.calls.time", clock)
    call = publishing_one(draft("a", "x"), None)
    call.begin("http://feed.example", patience, renewable=False)
    tries = []
    with pytest.raises(GaveUp) as raised:
        while call.timeout:
            tries.append(clock.now - 7)
            clock.now += call.wait(again)
    return tries, str(raised.value)


@pytest.mark.parametrize(("patience", "last"), [(0.5, 0.475), (1, 0.95), (60, 59.5)])
def test_a_patience_is_used_to_its_end(patience: float, last: float, monkeypatch: pytest.MonkeyPatch) -> None:
    tries, words = gave_up(Again("503: full"), patience, monkeypatch)
    assert tries[0] == 0
    assert 0.15 <= tries[1] <= 0.25
    assert tries[-1] == pytest.approx(last, abs=0.001)  # a try so shortly before the last one is the last one
    assert words == f"given up after {patience:.1f} s: http://feed.example: 503: full"


def test_a_server_that_asks_for_more_than_there_is_patience_is_given_up_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(gave_up(Again("503: full", 20), 50, monkeypatch)[0]) == 3
    assert gave_up(Again("503: full", 20), 10, monkeypatch) == (
        [0],
        "given up after 0.0 s: http://feed.example: 503: full; it asks for a wait of 20 s, which is longer than the "
        "patience",
    )


def test_what_an_eventsource_takes_for_the_end_is_one_and_any_other_answer_without_content_is_not() -> None:
    end = reading().refused(204, "No Content", {"content-type": "text/event-stream"}, Body.of_refusal())
    assert isinstance(end, Refused)
    assert isinstance(reading().refused(204, "No Content", {}, Body.of_refusal()), Again)
