"""The list of events at `/`, in a real Chromium against a real server: what comes, pauses, filters, an event opened."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Serve
from tests.support.browser import MARKUP, Watched
from tests.support.dashboard import Dashboard
from tests.support.running import RunningServer

pytestmark = pytest.mark.browser

KEPT = 5_000


@pytest.fixture
def dashboard(page: Page, server: RunningServer, watched: Watched) -> Dashboard:
    """On a server that the module's tests share."""
    return Dashboard(page, server)


@pytest.fixture
def alone(page: Page, serve: Serve, watched: Watched) -> Dashboard:
    """On a server of the test's own."""
    return Dashboard(page, serve("--log", "memory:"))


def test_an_event_published_with_curl_shows_on_the_page(dashboard: Dashboard, curl_program: str) -> None:
    dashboard.open()
    url = f"{dashboard.server.url}/events/shown/curl?type=greeting"
    answer = subprocess.run([curl_program, "-sS", "-d", "from curl", url], check=True, capture_output=True, text=True)
    event = dashboard.row("shown/curl", "from curl")
    expect(event.get_by_test_id("event-type")).to_have_text("greeting")
    expect(event.get_by_test_id("event-id")).to_have_text(json.loads(answer.stdout)["id"])
    expect(dashboard.part("last-id")).to_have_text(json.loads(answer.stdout)["id"])


def test_the_newest_event_is_on_top_and_what_was_there_before_is_shown_too(dashboard: Dashboard) -> None:
    dashboard.server.publish("order", "before 1")
    dashboard.server.publish("order", "before 2")
    dashboard.open()
    dashboard.server.publish("order", "after")
    dashboard.wait_for("order", "after")
    assert dashboard.data("order") == ["before 1", "before 2", "after"]
    expect(dashboard.part("event-data").first).to_have_text("after")


def test_no_more_than_5000_events_are_kept_and_only_those_in_view_are_in_the_document(alone: Dashboard) -> None:
    alone.open()
    alone.publish_many("many", [str(number) for number in range(KEPT + 1_000)])
    expect(alone.part("count")).to_have_text("the newest 5,000 kept")
    alone.wait_for("many", str(KEPT + 999))
    assert alone.part("event").count() < 80
    assert alone.data("many") == [str(number) for number in range(1_000, KEPT + 1_000)]


def test_a_pause_keeps_the_list_as_it_is_and_loses_nothing(alone: Dashboard) -> None:
    alone.open()
    alone.publish_many("pause", [f"before {number}" for number in range(3)])
    alone.wait_for("pause", "before 2")
    alone.page.keyboard.press("Space")
    alone.publish_many("pause", [f"during {number}" for number in range(37)])
    expect(alone.part("fresh")).to_have_text("37 new")
    assert alone.data("pause") == [f"before {number}" for number in range(3)]
    alone.page.keyboard.press("Space")
    alone.wait_for("pause", "during 36")
    expect(alone.part("fresh")).to_have_count(0)
    alone.publish_many("pause", ["after"])
    alone.wait_for("pause", "after")
    expected = [f"before {number}" for number in range(3)] + [f"during {number}" for number in range(37)] + ["after"]
    assert alone.data("pause") == expected


def test_a_list_that_is_scrolled_stays_where_it_is_and_goes_on_at_its_top(alone: Dashboard) -> None:
    alone.publish_many("scroll", [str(number) for number in range(150)])
    alone.open()
    alone.wait_for("scroll", "149")
    alone.part("events").evaluate("(list) => { list.scrollTop = 40 * 32 }")
    alone.wait_for("scroll", "109")
    alone.publish_many("scroll", ["new"] * 5)
    expect(alone.part("fresh")).to_have_text("5 new")
    assert alone.part("events").evaluate("(list) => list.scrollTop") == 40 * 32
    expect(alone.row("scroll", "109")).to_be_in_viewport()
    alone.part("fresh").click()
    expect(alone.row("scroll", "new")).to_have_count(5)


def test_clear_empties_the_list_and_what_comes_is_shown(dashboard: Dashboard) -> None:
    dashboard.server.publish("clear", "before")
    dashboard.open()
    dashboard.wait_for("clear", "before")
    dashboard.part("clear").click()
    expect(dashboard.part("event")).to_have_count(0)
    dashboard.server.publish("clear", "after")
    dashboard.wait_for("clear", "after")
    assert dashboard.data("clear") == ["after"]


FILTERS = [
    ("ANN", ["1", "3"]),
    ("customer.name=Ann", ["1"]),
    ("total>10", ["2"]),
    ("total<=7.5", ["1"]),
    ("type=paid", ["2"]),
    ("type!=paid", ["0", "1", "3", "4", "5"]),
    ("topic=filter/3", ["3"]),
    ('customer.name = "Ann"', ["1"]),
    ("user.id=12345678901234567890", ["4"]),
    ("user.id=12345678901234567000", []),
    ("user.id!=12345678901234567890", ["5"]),
    ("user.id>12345678901234567890", ["5"]),
    ("price=1.10", ["4", "5"]),
    ("price=1.1", ["4", "5"]),
    ("price=1.1000000000000000001", []),
    ("price<1.1000000000000000001", ["4", "5"]),
    ("n=4", ["4"]),
    ("n=5", ["4"]),
    ("flag=true", ["5"]),
    ("nothing like it", []),
]


def test_the_list_shows_what_passes_the_filter(alone: Dashboard) -> None:
    events = [
        {"topic": "filter/0", "data": "a text"},
        {"topic": "filter/1", "data": {"n": 1, "total": 7.5, "customer": {"name": "Ann"}}},
        {"topic": "filter/2", "data": {"n": 2, "total": 70}, "type": "paid"},
        {"topic": "filter/3", "data": "Annual report, total 3"},
    ]
    assert alone.server.http.post(f"{alone.server.url}/events", json=events).status_code == 201
    as_written = {
        "filter/4": '{"user": {"id": 12345678901234567890}, "price": 1.10, "n": 4, "n": 5}',
        "filter/5": '{"user": {"id": 12345678901234567891}, "price": 11e-1, "flag": true}',
    }
    for topic, data in as_written.items():
        alone.server.publish(topic, data, **{"Content-Type": "application/json"})
    alone.open()
    expect(alone.part("event")).to_have_count(6)
    for text, passing in FILTERS:
        alone.part("filter").fill(text)
        expect(alone.part("event")).to_have_count(len(passing))
        assert [row["topic"].removeprefix("filter/") for row in alone.rows()] == passing, text
    alone.part("reset-filter").click()
    expect(alone.part("event")).to_have_count(6)


def test_the_filter_can_be_a_regular_expression_and_says_what_is_wrong_with_one(alone: Dashboard) -> None:
    alone.publish_many("regex", ["cat", "cot", "cart"])
    alone.open()
    alone.part("filter").fill("^c.t$")
    expect(alone.part("nothing-passes")).to_be_visible()
    alone.part("regex").click()
    expect(alone.part("event")).to_have_count(2)
    alone.part("filter").fill("(")
    expect(alone.part("filter-error")).to_contain_text("Invalid regular expression")
    expect(alone.part("event")).to_have_count(3)


def test_a_regular_expression_in_an_address_is_not_run_before_somebody_wants_it(alone: Dashboard) -> None:
    alone.publish_many("redos", ["x" * 40, "cat"])
    alone.open("?filter=(x%2Bx%2B)%2By&regex=1")
    expect(alone.part("event")).to_have_count(2)
    expect(alone.part("regex-held")).to_be_visible()
    alone.open("?filter=^c.t$&regex=1")
    expect(alone.part("event")).to_have_count(2)
    alone.part("regex-held").get_by_role("button").click()
    expect(alone.part("event-data")).to_have_text(["cat"])
    expect(alone.part("regex-held")).to_have_count(0)


def test_types_topics_and_the_filter_are_in_the_address_and_come_back_with_it(alone: Dashboard) -> None:
    for topic, kind, text in [("a/1", "x", "ripe"), ("a/1", "y", "ripe"), ("a/2", "x", "green"), ("b", "x", "ripe")]:
        alone.server.publish(f"{topic}?type={kind}", text)
    alone.open()
    alone.part("type-filter").select_option("x")
    alone.page.get_by_label("a", exact=True).check()
    alone.part("filter").fill("ripe")
    expect(alone.part("event")).to_have_count(1)
    expect(alone.part("count")).to_have_text("1 shown of 4 kept")
    assert alone.page.url == f"{alone.server.url}/?show=a&type=x&filter=ripe"
    alone.page.reload()
    expect(alone.part("event")).to_have_count(1)
    expect(alone.page.get_by_label("a", exact=True)).to_be_checked()
    alone.part("show-all").click()
    alone.part("filter").fill("")
    alone.part("type-filter").select_option("")
    expect(alone.part("event")).to_have_count(4)
    assert alone.page.url == f"{alone.server.url}/"


def test_topics_make_a_tree_with_counts(alone: Dashboard) -> None:
    for topic in ["orders/1", "orders/1", "orders/2", "chat"]:
        alone.server.publish(topic, "text")
    alone.open()
    expect(alone.part("branch")).to_have_text(
        [re.compile(r"orders\s+3"), re.compile(r"1\s+2"), re.compile(r"2\s+1"), re.compile(r"chat\s+1")]
    )
    alone.part("topic-search").fill("chat")
    expect(alone.part("branch")).to_have_text([re.compile(r"chat\s+1")])


def test_a_pattern_that_is_added_is_what_is_subscribed_to(alone: Dashboard) -> None:
    alone.server.publish("orders/1", "kept")
    alone.server.publish("chat", "not asked for")
    alone.open()
    expect(alone.part("event")).to_have_count(2)
    alone.part("pattern").fill("orders/*")
    alone.part("add-pattern").click()
    expect(alone.part("event-topic")).to_have_text(["orders/1"])
    expect(alone.state).to_have_text("Live")
    assert alone.page.url == f"{alone.server.url}/?topic=orders/*"
    alone.part("pattern").fill("chat")
    alone.part("add-pattern").click()
    expect(alone.part("event")).to_have_count(2)
    alone.page.get_by_label("Unsubscribe from orders/*").click()
    expect(alone.part("event-topic")).to_have_text(["chat"])


def test_a_pattern_that_is_none_is_refused_in_the_servers_words(alone: Dashboard) -> None:
    alone.open()
    alone.part("pattern").fill("a//b")
    alone.part("add-pattern").click()
    refused = httpx.get(f"{alone.server.url}/events", params={"topic": "a//b"}).json()["detail"]
    expect(alone.part("pattern-error")).to_have_text(refused)
    expect(alone.part("pattern")).to_have_value("a//b")
    expect(alone.state).to_have_text("Live")
    alone.open("?topic=a//b", state="Refused")
    expect(alone.part("note")).to_have_text(refused)


def test_a_pattern_that_a_proxy_refuses_is_no_bad_one(alone: Dashboard) -> None:
    alone.open()
    alone.page.route("**/events?*limit=1", lambda route: route.fulfill(status=403, body="<h1>no</h1>"), times=1)
    alone.part("pattern").fill("orders/*")
    alone.part("add-pattern").click()
    expect(alone.part("patterns")).to_contain_text("orders/*")
    expect(alone.part("pattern-error")).to_have_count(0)
    expect(alone.state).to_have_text("Live")


def test_an_event_opens_with_its_data_laid_out_and_nothing_of_it_changed(alone: Dashboard) -> None:
    raw = '{"z":123456789012345678901234567890,"a":1.0,"a":1E2,"list":[],"data":"}","deep":{"é":"{ }"}}'
    alone.open()
    alone.server.publish("exact", raw, **{"Content-Type": "application/json"})
    alone.wait_for("exact", raw)
    alone.row("exact", raw).click()
    content = alone.part("inspector-content")
    shown = content.text_content() or ""
    assert re.sub(r"\n\s*|(?<=:) ", "", shown) == raw
    assert shown.startswith('{\n  "z": 123456789012345678901234567890,\n')
    alone.page.keyboard.press("Escape")
    expect(alone.part("inspector")).to_have_count(0)


def test_the_raw_frame_is_what_a_stream_carries(alone: Dashboard) -> None:
    alone.server.publish("frame?type=note", "two\nlines")
    alone.open()
    alone.part("event").click()
    alone.part("show-frame").click()
    with httpx.stream("GET", f"{alone.server.url}/events/frame?last=1") as stream:
        received = ""
        for text in stream.iter_text():
            received += text
            if "feed.live" in received:
                break
    frame = alone.part("inspector-content").text_content() or ""
    assert frame.startswith("id: ")
    assert frame in received


def test_long_data_is_cut_and_says_so(alone: Dashboard) -> None:
    alone.server.publish("long", "x" * 200_000)
    alone.open()
    alone.part("event").click()
    expect(alone.part("inspector")).to_contain_text("and 100,000 more characters")


AWKWARD = [
    ("plain/topic", "message", '{"total": 3}', True),
    ('it\'s/a "quoted"topic'.replace(" ", "-"), "ty'pe", 'it\'s $(touch x) `y` \\ "z" !!', False),
    ("ü/%2e%2e/a&b=c#d?e", "q?&=#", "@file\nand a second line", False),
    ("control", "message", "\x1b[2Jescape \u202e direction", False),
    ("markup/<b>", "<i>", MARKUP, False),
    ("json", "message", '{"text":"it\'s \\u001b \u202e"}', True),
]


def test_the_commands_to_copy_do_what_they_say_whatever_is_in_the_event(
    alone: Dashboard, curl_program: str, tmp_path: Path
) -> None:
    alone.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=alone.server.url)
    alone.open()
    alone.page.evaluate(
        """() => {
            const Native = EventSource;
            window.opened = [];
            window.EventSource = class extends Native {
                constructor(...given) { super(...given); opened.push(this); }
            };
        }"""
    )

    def copied(label: str) -> str:
        alone.part("inspector").get_by_role("button", name=label, exact=True).click()
        return str(alone.clipboard())

    for topic, kind, data, as_json in AWKWARD:
        body = (
            f'{{"topic":{json.dumps(topic)},"type":{json.dumps(kind)},"data":{data if as_json else json.dumps(data)}}}'
        )
        headers = {"Content-Type": "application/json"}
        answer = alone.server.http.post(f"{alone.server.url}/events", content=body, headers=headers)
        assert answer.status_code == 201
        expect(alone.part("event").first.get_by_test_id("event-id")).to_have_text(answer.json()["id"])
        alone.part("event").first.click()

        first = alone.server.history("**")["events"][-1]
        assert copied("Id") == first["id"] == answer.json()["id"]
        assert copied("Data") == data
        publish = copied("curl publish")
        assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", publish)
        done = subprocess.run(["bash", "-c", publish], cwd=tmp_path, capture_output=True, text=True, timeout=20)
        second = alone.server.history("**")["events"][-1]
        assert second["id"] != first["id"], done
        for name in ("topic", "type", "data"):
            assert second[name] == first[name], done
        assert list(tmp_path.iterdir()) == []

        followed = followed_until(f"id: {second['id']}\n", copied("curl subscribe"), tmp_path)
        assert f"id: {first['id']}\n" not in followed.partition("feed.open")[2].partition("\n\n")[2]

        script = copied("JavaScript").replace(
            "console.log(event.lastEventId, event.data)", "window.got = event.lastEventId"
        )
        alone.page.evaluate(f"() => {{ {script} }}")
        alone.page.wait_for_function("(id) => window.got === id", arg=second["id"])
        alone.page.evaluate("opened.pop().close()")  # a browser has no more than six connections
        alone.part("inspector-close").click()


def followed_until(line: str, command: str, folder: Path) -> str:
    """What a command prints up to this line."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    said = ""
    try:
        assert process.stdout is not None
        with process.stdout:
            while line not in said:
                more = process.stdout.readline()
                assert more, said
                said += more
    finally:
        process.kill()
        process.wait()
    return said


def test_markup_is_shown_as_text(dashboard: Dashboard) -> None:
    dashboard.open()
    topic = "hostile/<script>alert(3)<"
    answer = dashboard.server.http.post(
        f"{dashboard.server.url}/events",
        json=[{"topic": topic, "type": "<b>", "data": MARKUP}, {"topic": topic, "data": {"<i>": MARKUP}}],
    )
    assert answer.status_code == 201, answer.text
    dashboard.wait_for(topic, MARKUP)
    events = dashboard.part("event").filter(has_text="hostile/")
    expect(events.last.get_by_test_id("event-type")).to_have_text("<b>")
    events.first.click()
    assert json.loads(dashboard.part("inspector-content").text_content() or "") == {"<i>": MARKUP}
    assert dashboard.page.locator("#page :is(img, script, b, i)").count() == 0


def test_an_empty_feed_shows_three_commands_with_the_servers_own_address(alone: Dashboard) -> None:
    url = alone.server.url
    alone.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
    alone.open()
    commands = {
        "curl-subscribe": f"curl -N {url}/events/hello",
        "curl-publish": f"curl -d 'Hello' {url}/events/hello",
        "js-subscribe": f'new EventSource("{url}/events/hello").onmessage = (event) => console.log(event.data)',
    }
    for name, command in commands.items():
        expect(alone.part(name)).to_have_text(command)
    for button, command in zip(alone.part("empty").get_by_role("button").all(), commands.values(), strict=True):
        button.click()
        assert alone.clipboard() == command
    alone.server.publish("hello", "Hello")
    alone.wait_for("hello", "Hello")
    expect(alone.part("empty")).to_have_count(0)
