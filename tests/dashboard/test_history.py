"""How the dashboard reads the past (`app/history.js`) and has it happen again (`app/replay.js`), in a real Chromium:
with the pages of a real server, and by a clock of the tests' own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.conftest import Serve
from tests.support.running import RunningServer

pytestmark = pytest.mark.browser

READ = """async ([method, ...args]) => {
    const { History } = await import('/assets/app/history.js');
    const { topics, types } = window.asked ?? {};
    const history = new History({ base: new URL('/', location), topics, types });
    const events = ({ id, topic, type, time, json, text, live }) => ({ id, topic, type, time, json, text, live });
    try {
        if (method === 'since') args[0] = new Date(args[0]);
        const page = await history[method](...args);
        return { ...page, events: page.events.map(events) };
    } catch (error) {
        return { name: error.name, status: error.status, detail: error.detail, message: error.message };
    }
}"""

# A feed of `times` (milliseconds from the first event's) in pages of `size`, a clock that stands still unless somebody
# waits for it, and what a replay did: when, by that clock.
STAGE = """async ({ times, size = 500, gaps = {}, onBatch = '', options = {} }) => {
    const { replay } = await import('/assets/app/replay.js');
    const start = Date.UTC(2026, 10, 21);
    const events = times.map((time, place) => ({ id: `e-${place + 1}`, time: new Date(start + time).toISOString() }));
    const pages = [];
    const page = (first, limit) => {
        const slice = events.slice(first, first + Math.min(limit, size));
        const next = `e-${first + slice.length}`;
        return { events: slice, next, gap: gaps[first] ?? null, end: slice.length === 0 };
    };
    const number = (id) => (id === 'earliest' ? 0 : Number(id.slice(2)));
    const history = {
        newest: async () => page(Math.max(0, events.length - 1), 1),
        newer: async (id, limit) => { pages.push([number(id), stage.done]); return page(number(id), limit); },
        at: async (id, limit) => { pages.push([number(id) - 1, stage.done]); return page(number(id) - 1, limit); },
        since: async (time, limit) => page(events.findIndex((event) => Date.parse(event.time) >= time), limit),
    };
    const timers = new Map();
    let now = 0;
    let count = 0;
    const clock = {
        now: () => now,
        set: (callback, ms) => (timers.set(++count, { callback, at: now + ms }), count),
        clear: (timer) => timers.delete(timer),
    };
    const stop = new AbortController();
    const channel = new MessageChannel();
    const turn = () => new Promise((resolve) => {
        channel.port1.onmessage = resolve;
        channel.port2.postMessage(null);
    });
    const stage = window.stage = {
        start, pages, stop, batches: [], told: [], gaps: [], done: 0, over: '',
        work: (ms) => (now += ms), // what the page does with a batch
        onBatch: new Function(onBatch),
        now: () => now,
        // Let the time go on, to each moment that is waited for, until this one.
        until: async (moment) => {
            for (;;) {
                await turn();
                const [timer, next] = [...timers].sort(([, one], [, other]) => one.at - other.at)[0] ?? [];
                if (!next || next.at > moment) break;
                timers.delete(timer);
                now = Math.max(now, next.at);
                next.callback();
            }
            if (Number.isFinite(moment)) now = Math.max(now, moment);
        },
    };
    stage.ride = replay({
        history, from: null, to: null, speed: 1, ...options, clock, signal: stop.signal,
        emit: (batch) => {
            stage.batches.push({ at: now, ids: batch.map(({ id }) => number(id)) });
            stage.done += batch.length;
            stage.onBatch();
        },
        progress: (told) => stage.told.push({ ...told, at: Date.parse(told.at) - start }),
        gap: (gap) => stage.gaps.push([stage.done, gap]),
    });
    stage.ride.done.then(() => (stage.over = 'done'), (error) => (stage.over = error.name));
}"""


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        opened = context.new_page()
        opened.set_default_timeout(15_000)
        yield opened


@pytest.fixture
def page(tab: Page, server: RunningServer) -> Iterator[Page]:
    """At an address without a content security policy, so that a test can run what it likes."""
    tab.goto(f"{server.url}/healthz")
    yield tab
    tab.unroute_all()


def ask(page: Page, *topics: str, types: tuple[str, ...] = ()) -> None:
    page.evaluate("(asked) => { window.asked = asked; }", {"topics": list(topics), "types": list(types)})


def read(page: Page, method: str, *args: Any) -> Any:
    return page.evaluate(READ, [method, *args])


def ids_of(document: Any) -> list[str]:
    return [event["id"] for event in document["events"]]


# history.js


def test_going_back_page_by_page_meets_every_event_once_down_to_the_first(server: RunningServer, page: Page) -> None:
    ids = server.publish_numbers("back", 25)
    ask(page, "back")
    found = read(page, "newest", 7)
    got = ids_of(found)
    while not (found := read(page, "older", got[0], 7))["end"]:
        got = ids_of(found) + got
    assert got == ids


def test_the_newest_are_the_newest_also_when_they_are_too_large_for_a_page(server: RunningServer, page: Page) -> None:
    ids = [server.publish("large", "x" * 250_000) for _ in range(8)]
    ask(page, "large")
    got = ids_of(read(page, "newest", 8))
    assert 2 <= len(got) < 8
    assert got == ids[-len(got) :]


def test_of_one_event_there_is_nothing_older(server: RunningServer, page: Page) -> None:
    id = server.publish("single")
    ask(page, "single")
    assert (ids_of(read(page, "newest", 5)), read(page, "newest", 5)["end"]) == ([id], True)


def test_going_on_page_by_page_meets_every_event_once_up_to_the_last(server: RunningServer, page: Page) -> None:
    ids = server.publish_numbers("on", 25)
    ask(page, "on")
    got: list[str] = []
    after = "earliest"
    while not (found := read(page, "newer", after, 7))["end"]:
        got += ids_of(found)
        after = found["next"]
    assert got == ids


def test_a_page_at_an_id_begins_with_that_event(server: RunningServer, page: Page) -> None:
    ids = server.publish_numbers("at", 10)
    ask(page, "at")
    assert ids_of(read(page, "at", ids[4], 3)) == ids[4:7]
    first = server.history()["events"][0]["id"]
    ask(page, "**")
    assert ids_of(read(page, "at", first, 1)) == [first]


def test_a_page_since_a_time_begins_there(server: RunningServer, page: Page) -> None:
    server.publish_numbers("since", 3)
    edge = datetime.now(UTC) + timedelta(milliseconds=5)
    page.wait_for_function("(edge) => Date.now() > edge", arg=edge.timestamp() * 1000 + 5)
    later = server.publish_numbers("since", 3)
    ask(page, "since")
    assert ids_of(read(page, "since", edge.timestamp() * 1000, 10)) == later


def test_only_the_topics_and_types_asked_for_are_read(server: RunningServer, page: Page) -> None:
    ids = [server.publish(path) for path in ("only/1?type=a", "only/2?type=b", "other?type=a", "another?type=a")]
    ask(page, "only/*", "other", types=("a",))
    assert ids_of(read(page, "newest", 10)) == [ids[0], ids[2]]


RAW = [
    '{"z": 123456789012345678901234567890, "a": 1.0, "a": 1E2}',
    '{"data":"}", "time":"x", "next":{"events":[{"id":"no"}]}}',
    '[[[{"]":"}"},"\\"]}",{}],[]],"\\\\"]',
    '{"a":{"b":{"c":{"d":{"e":["{","[","\\"","\\u0022"]}}}}}',
    "-0.0",
    "true",
    "null",
    "{}",
    "[]",
]


@pytest.mark.parametrize("raw", RAW)
def test_json_stays_as_it_was_published(server: RunningServer, page: Page, raw: str) -> None:
    server.publish("raw", raw, **{"Content-Type": "application/json"})
    server.publish("raw", "after it")
    ask(page, "raw")
    before, after = read(page, "newest", 2)["events"]
    assert (before["text"], before["json"], before["live"]) == (raw, True, False)
    assert (after["text"], after["json"]) == ("after it", False)


@pytest.mark.parametrize(
    "text", ["", '"}]}', "\\", "two\nlines\r\0", "\u2028 \U0001f600", '{"not": "JSON", as published}']
)
def test_text_stays_as_it_was_published(server: RunningServer, page: Page, text: str) -> None:
    server.publish("text", text)
    ask(page, "text")
    [event] = read(page, "newest", 1)["events"]
    assert (event["text"], event["json"]) == (text, False)


@pytest.mark.parametrize("method", ["older", "newer", "at"])
def test_an_id_that_the_log_does_not_know_is_a_gap(server: RunningServer, page: Page, method: str) -> None:
    ids = server.publish_numbers(f"gap-{method}", 3)
    ask(page, f"gap-{method}")
    found = read(page, method, "nonsense-7", 10)
    assert found["gap"]["reason"] == "unknown"
    assert not found["end"]
    assert ids_of(found) == ids


def test_events_that_are_gone_are_a_gap(serve: Serve, page: Page) -> None:
    server = serve("--log", "memory:", retain_events=5)
    ids = server.publish_numbers("a", 20)
    page.goto(f"{server.url}/healthz")
    found = read(page, "newer", ids[3], 10)
    assert found["gap"] == {"requested": ids[3], "resumedFrom": ids[14], "reason": "expired"}
    assert ids_of(found) == ids[15:]


def test_a_problem_is_an_error_with_status_and_detail(server: RunningServer, page: Page) -> None:
    ask(page, "a//b")
    error = read(page, "newest", 5)
    refused = server.http.get(f"{server.url}/events?topic=a//b", headers={"Accept": "application/json"})
    assert (error["name"], error["status"]) == ("HistoryError", 422)
    assert error["detail"] == refused.json()["detail"]
    assert error["message"] == f"422: {error['detail']}"


def test_no_answer_is_an_error_too(server: RunningServer, page: Page) -> None:
    page.route("**/events?*", lambda route: route.abort("connectionrefused"))
    error = read(page, "newest", 5)
    assert (error["name"], error["status"]) == ("HistoryError", 0)
    assert error["message"]


def test_an_answer_that_is_no_page_is_an_error(server: RunningServer, page: Page) -> None:
    page.route("**/events?*", lambda route: route.fulfill(body="<html>welcome", content_type="text/html"))
    assert read(page, "newest", 5)["name"] == "HistoryError"


def test_what_is_stopped_rejects_with_the_reason(server: RunningServer, page: Page) -> None:
    name = page.evaluate(
        """async () => {
            const { History } = await import('/assets/app/history.js');
            const stop = new AbortController();
            const reading = new History({ base: new URL('/', location) }).newest(5, stop.signal);
            stop.abort();
            return reading.then(() => 'read', (error) => error.name);
        }"""
    )
    assert name == "AbortError"


def test_an_empty_page_that_leads_up_to_a_loss_is_not_the_end(server: RunningServer, page: Page) -> None:
    """A log that was lost says so at the beginning of the page after the loss."""
    gap = {"requested": "old-9", "resumed_from": "new-0", "reason": "unknown"}

    def answer(route: Route) -> None:
        lost = "after=old-9" in route.request.url
        document = {"events": [], "next": "new-0", "gap": gap} if lost else {"events": [], "next": "old-9"}
        route.fulfill(json=document)

    page.route("**/events?*", answer)
    found = read(page, "newer", "old-5", 10)
    told = {"requested": "old-9", "resumedFrom": "new-0", "reason": "unknown"}
    assert (found["gap"], found["end"]) == (told, False)


@pytest.mark.parametrize(
    ("id", "number", "before"),
    [
        ("k3f9a2-184467", 184467, "k3f9a2-184466"),
        ("k3f9a2-1", 1, "k3f9a2-0"),
        ("k3f9a2-0", 0, "k3f9a2-0"),
        ("a-b-10", 10, "a-b-9"),
        ("earliest", None, "earliest"),
        ("", None, ""),
        ("k-1x", None, "k-1x"),
    ],
)
def test_the_id_before_an_id(page: Page, id: str, number: int | None, before: str) -> None:
    found = page.evaluate(
        """async (id) => {
            const { numberOf, predecessorOf } = await import('/assets/app/history.js');
            return [Number.isNaN(numberOf(id)) ? null : numberOf(id), predecessorOf(id)];
        }""",
        id,
    )
    assert found == [number, before]


# replay.js


def perform(page: Page, times: list[int], until: float = float("inf"), **rest: Any) -> Any:
    """Replay these events until a moment of the stage's clock, and say what was done until then."""
    stage = {name: rest.pop(name) for name in ("size", "gaps", "onBatch") if name in rest}
    speed = rest.pop("speed", 1)
    page.evaluate(
        f"async (play) => {{ play.options.speed = Number(play.options.speed); await ({STAGE})(play); }}",
        {"times": times, **stage, "options": {"speed": str(speed), **rest}},
    )
    return go_on(page, until)


def go_on(page: Page, until: float = float("inf"), act: str = "") -> Any:
    return page.evaluate(
        f"""async (until) => {{
            {act};
            await stage.until(Number(until));
            const {{ batches, told, gaps, over, pages }} = stage;
            return {{ batches, told, gaps, over, pages, now: stage.now() }};
        }}""",
        str(until).replace("inf", "Infinity"),
    )


def moments(found: Any) -> dict[int, float]:
    """When each event was emitted."""
    return {number: batch["at"] for batch in found["batches"] for number in batch["ids"]}


def numbers(found: Any) -> list[int]:
    return [number for batch in found["batches"] for number in batch["ids"]]


def test_a_replay_at_1_takes_the_time_that_the_events_took(page: Page) -> None:
    found = perform(page, [0, 100, 100, 1_350, 4_000])
    assert moments(found) == {1: 0, 2: 100, 3: 100, 4: 1_350, 5: 4_000}
    assert found["over"] == "done"
    assert found["told"][-1] == {"done": 5, "at": 4_000, "skipped": 0}


def test_a_replay_at_10_takes_a_tenth(page: Page) -> None:
    assert moments(perform(page, [0, 100, 100, 1_350, 4_000], speed=10)) == {1: 0, 2: 10, 3: 10, 4: 135, 5: 400}


def test_silence_is_shortened_to_5_s_and_told(page: Page) -> None:
    found = perform(page, [0, 4_000, 604_000, 605_000, 3_605_000])
    assert moments(found) == {1: 0, 2: 4_000, 3: 9_000, 4: 10_000, 5: 15_000}
    assert [told["skipped"] for told in found["told"]] == [0, 0, 595_000, 595_000, 3_590_000]


def test_as_fast_as_possible_waits_for_nothing_and_gives_the_loop_back_after_500(page: Page) -> None:
    found = perform(page, [number * 60_000 for number in range(2_300)], speed="Infinity", size=800)
    assert numbers(found) == list(range(1, 2_301))
    assert max(len(batch["ids"]) for batch in found["batches"]) == 500
    assert found["now"] == 0
    assert found["told"][-1]["done"] == 2_300


def test_a_page_that_is_slow_to_take_events_gets_fewer_at_once(page: Page) -> None:
    slow = "stage.work(0.1 * stage.batches.at(-1).ids.length)"
    found = perform(page, list(range(20_000)), speed="Infinity", onBatch=slow)
    sizes = [len(batch["ids"]) for batch in found["batches"]]
    assert sizes[0] == 500
    assert all(size <= 100 or next <= size // 2 + 1 for size, next in itertools.pairwise(sizes))
    assert numbers(found) == list(range(1, 20_001))


def test_one_page_is_read_ahead_and_no_more(page: Page) -> None:
    found = perform(page, [number * 10 for number in range(500)], size=100)
    assert found["over"] == "done"
    # Each page: after which event, and how many were emitted when it was asked for.
    assert [first for first, _ in found["pages"]] == [0, 100, 200, 300, 400]
    assert all(emitted >= first - 100 for first, emitted in found["pages"])
    assert all(emitted < first for first, emitted in found["pages"][1:]), "read while the one before is played"


def test_pause_holds_and_resume_goes_on_where_it_was(page: Page) -> None:
    found = perform(page, [0, 1_000, 2_000, 3_000], until=1_400)
    assert numbers(found) == [1, 2]
    assert numbers(go_on(page, 100_000, "stage.ride.pause()")) == [1, 2]
    found = go_on(page, act="stage.ride.resume()")
    assert moments(found) == {1: 0, 2: 1_000, 3: 100_600, 4: 101_600}


def test_another_speed_holds_from_that_moment_on(page: Page) -> None:
    perform(page, [0, 1_000, 2_000, 12_000, 16_000], until=1_500)
    found = go_on(page, 2_400, "stage.ride.speed = 10")
    assert moments(found) == {1: 0, 2: 1_000, 3: 1_550, 4: 2_050}
    found = go_on(page, act="stage.ride.speed = Infinity")
    assert moments(found)[5] == 2_400


def test_from_as_fast_as_possible_to_1_it_goes_on_at_the_events_pace(page: Page) -> None:
    slower = "if (stage.done === 500) stage.ride.speed = 1"
    found = perform(page, [number * 1_000 for number in range(1_000)], speed="Infinity", onBatch=slower)
    assert numbers(found) == list(range(1, 1_001))
    assert moments(found)[500] == 0
    assert moments(found)[501] == 1_000
    assert moments(found)[1_000] == 500_000


@pytest.mark.parametrize("act", ["", "stage.ride.pause();", "stage.ride.speed = Infinity;"])
def test_after_a_stop_nothing_is_emitted(page: Page, act: str) -> None:
    perform(page, [0, 1_000, 2_000, 3_000], until=1_400)
    found = go_on(page, 100_000, f"{act} stage.stop.abort()")
    assert numbers(found) == [1, 2]
    assert found["over"] == "AbortError"


def test_a_stop_in_the_middle_of_a_burst_ends_it_with_the_batch(page: Page) -> None:
    found = perform(page, list(range(5_000)), speed="Infinity", onBatch="stage.stop.abort()")
    assert numbers(found) == list(range(1, 501))


def test_a_gap_is_told_between_the_events_that_it_is_between(page: Page) -> None:
    gap = {"requested": "e-2", "resumedFrom": "e-2", "reason": "unknown"}
    found = perform(page, [0, 1, 2, 3], size=2, gaps={2: gap})
    assert found["gaps"] == [[2, gap]]
    assert numbers(found) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("ends", "wanted"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"from": "e-3"}, [3, 4, 5, 6]),
        ({"to": "e-3"}, [1, 2, 3]),
        ({"from": "e-2", "to": "e-5"}, [2, 3, 4, 5]),
        ({"from": "e-4", "to": "e-4"}, [4]),
        ({"from": "e-5", "to": "e-2"}, []),
        ({"from": 25}, [4, 5, 6]),
        ({"to": 20}, [1, 2, 3]),
        ({"from": 10, "to": 35}, [2, 3, 4]),
        ({"from": "e-2", "to": 35}, [2, 3, 4]),
        ({"to": "e-600"}, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_a_range_is_what_lies_between_its_ends_and_they_too(
    page: Page, ends: dict[str, Any], wanted: list[int]
) -> None:
    midnight = datetime(2026, 11, 21, tzinfo=UTC).timestamp() * 1000
    ends = {name: end if isinstance(end, str) else midnight + end for name, end in ends.items()}
    found = perform(page, [0, 10, 20, 30, 40, 50], size=2, speed="Infinity", **ends)
    assert (numbers(found), found["over"]) == (wanted, "done")


def test_of_an_empty_feed_nothing_is_replayed(page: Page) -> None:
    assert perform(page, [])["over"] == "done"


def test_a_replay_of_a_real_feed_ends_at_what_was_newest_when_it_began(server: RunningServer, page: Page) -> None:
    ids = server.publish_numbers("real", 1_700)
    server.publish_numbers("unreal", 10)
    begun = """async (ends) => {
        const { History } = await import('/assets/app/history.js');
        const { replay } = await import('/assets/app/replay.js');
        const history = new History({ base: new URL('/', location), topics: ['real'] });
        window.ids = [];
        window.first = new Promise((resolve) => {
            window.ride = replay({
                history, speed: Infinity, ...ends,
                emit: (events) => { window.ids.push(...events.map(({ id }) => id)); resolve(); window.ride?.pause(); },
            });
        });
        await window.first;
    }"""
    page.evaluate(begun, {})
    server.publish_numbers("real", 200)
    go_on_to_the_end = (
        "async () => { const on = setInterval(() => ride.resume()); await ride.done; clearInterval(on); return ids; }"
    )
    assert page.evaluate(go_on_to_the_end) == ids
    page.evaluate(begun, {"from": ids[600], "to": ids[1_500]})
    assert page.evaluate(go_on_to_the_end) == ids[600:1_501]


def test_the_end_of_a_range_has_to_be_known(server: RunningServer, page: Page) -> None:
    server.publish("known")
    said = page.evaluate(
        """async () => {
            const { History } = await import('/assets/app/history.js');
            const { replay } = await import('/assets/app/replay.js');
            const ride = replay({
                history: new History({ base: new URL('/', location) }), to: 'nobody-5', speed: 1, emit: () => {},
            });
            return ride.done.then(() => '', (error) => error.message);
        }"""
    )
    assert said == "The log does not know nobody-5."
