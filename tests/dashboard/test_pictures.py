"""The dashboard's pictures, in a real Chromium: what they are drawn from, as tables; how they look, on a page of the
tests' own under the dashboard's policy."""

from __future__ import annotations

import itertools
import random
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.conftest import Serve
from tests.support.browser import Watched
from tests.support.paths import ARTIFACTS
from tests.support.running import FEED, RunningServer

pytestmark = pytest.mark.browser


HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Pictures</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="assets/tokens.css"><link rel="stylesheet" href="assets/style.css">
<link rel="stylesheet" href="assets/vendor/uplot/uPlot.min.css"><link rel="stylesheet" href="assets/pictures.css">
<script src="assets/vendor/uplot/uPlot.iife.min.js" defer></script></head>
<body><div role="main"><h1>Pictures</h1><div id="pictures"></div></div></body></html>"""

# Time stands still but for `tick`, which moves it on. What comes is as old as `late` says.
BEGIN = """async (chart) => {
    const { Pictures } = await import(new URL('assets/app/pictures.js', location));
    document.querySelector('[role=main]').style = 'max-width: 21rem; padding: 0 1rem'; // as in the dashboard
    window.chosen = [];
    window.now = Date.now();
    window.count = 0;
    window.pictures = new Pictures(document.querySelector('#pictures'), {
        base: new URL('./', location), chart, onChart: (choice) => chosen.push(choice),
    });
    window.event = (topic, text, { late = 0, live = true, json = true } = {}) => ({
        id: `e-${++count}`, topic, type: 'message', time: new Date(now - late).toISOString(), json, text, live,
    });
    window.come = (events) => pictures.add(events, now);
    window.tick = (seconds = 1) => { for (; seconds > 0; seconds -= 1) pictures.tick(now += 1000); };
    tick();
}"""

FOLLOW = """() => {
    let live = false;
    const source = new EventSource('events/**?envelope=1&last=50');
    source.addEventListener('feed.live', () => (live = true));
    source.addEventListener('message', ({ data }) => {
        const event = JSON.parse(data);
        pictures.add([{ ...event, json: true, text: JSON.stringify(event.data), live }], Date.now());
    });
    window.following = setInterval(() => pictures.tick(Date.now()), 1000);
}"""


@pytest.fixture(scope="module")
def tab(browser: Browser, server: RunningServer) -> Iterator[Page]:
    """A page without a policy, for the parts that need no page at all."""
    with browser.new_context() as context:
        opened = context.new_page()
        opened.goto(f"{server.url}/healthz")
        yield opened


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(locale="en-GB", viewport={"width": 375, "height": 900}) as context:
        opened = context.new_page()
        opened.set_default_timeout(15_000)
        yield opened


def show(page: Page, server: RunningServer, chart: dict[str, str] | None = None) -> None:
    """Open the pictures on a page of their own, under the policy of the real one."""
    policy = server.http.get(f"{server.url}/").headers["content-security-policy"]
    page.route(
        f"{server.url}/pictures",
        lambda route: route.fulfill(
            body=HTML,
            content_type="text/html",
            headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"},
        ),
    )
    page.goto(f"{server.url}/pictures")
    page.evaluate(BEGIN, chart)


def pure(tab: Page, module: str, code: str, argument: Any = None) -> Any:
    """What a function of a module makes of a value: `code` has the module as `it` and the value as `given`."""
    return tab.evaluate(
        f"async (given) => {{ const it = await import('/assets/app/{module}.js'); {code} }}",
        argument,
    )


# series.js


def test_counts_are_of_full_seconds_and_not_of_those_that_nobody_watched(tab: Page) -> None:
    code = """
        const counts = new it.Counts(5);
        counts.add(10_500, 0);
        for (const [now, count] of [[11_000, 2], [11_900, 3], [13_100, 4], [14_500, 9]]) counts.add(now, count);
        return [counts.read(14_500), counts.rate(14_500, 2), counts.rate(14_500, 5), new it.Counts(5).rate(0, 5)];"""
    assert pure(tab, "series", code) == [[None, None, 5, 0, 4], 2, 3, None]


def test_counts_keep_no_more_than_their_seconds(tab: Page) -> None:
    code = """
        const counts = new it.Counts(3);
        for (let second = 0; second < 1000; second += 1) counts.add(second * 1000, second);
        const full = counts.read(1_000_000);
        return [full, counts.read(1_002_000), counts.read(9_000_000)];"""
    assert pure(tab, "series", code) == [[997, 998, 999], [999, 0, 0], [0, 0, 0]]


def test_counts_begin_anew_when_the_clock_is_set_back(tab: Page) -> None:
    code = """
        const counts = new it.Counts(3);
        counts.add(5_000, 7);
        counts.add(2_000, 1);
        counts.add(3_000, 2);
        return counts.read(4_000);"""
    assert pure(tab, "series", code) == [None, None, 2]


def test_quantiles_are_a_twentieth_off_at_most(tab: Page) -> None:
    chance = random.Random(6)
    delays = [chance.lognormvariate(3, 2) for _ in range(5_000)]
    code = """
        const delays = new it.Delays(10);
        for (const ms of given) delays.add(5_000, ms);
        return delays.quantiles(5_999, 0, [0.01, 0.5, 0.9, 0.99, 1]);"""
    found = pure(tab, "series", code, delays)
    delays.sort()
    for quantile, value in zip([0.01, 0.5, 0.9, 0.99, 1], found, strict=True):
        exact = delays[max(0, int(quantile * len(delays) + 0.999999) - 1)]
        assert value == pytest.approx(exact, rel=0.055, abs=0.5)


@pytest.mark.parametrize(("ms", "least", "most"), [(-5_000, 0, 0), (0, 0, 0), (0.4, 0, 0), (1e12, 9e7, 2e8)])
def test_delays_out_of_range_are_at_its_ends(tab: Page, ms: float, least: float, most: float) -> None:
    code = "const delays = new it.Delays(10); delays.add(0, given); return delays.quantiles(0, 0, [0.5])[0];"
    assert least <= pure(tab, "series", code, ms) <= most


def test_quantiles_are_of_the_window_alone(tab: Page) -> None:
    code = """
        const delays = new it.Delays(10);
        for (let n = 0; n < 90; n += 1) delays.add(Math.floor(n / 3) * 1000, 10 ** (Math.floor(n / 3) % 3));
        const wanted = [0, 1];
        const windows = [0, 1, 2, 50].map((window) => delays.quantiles(29_999, window, wanted).map(Math.round));
        return [windows, delays.quantiles(60_000, 5, wanted), (delays.clear(), delays.quantiles(29_999, 5, wanted))];"""
    windows, later, cleared = pure(tab, "series", code)
    assert [[round(value, -1 if value > 20 else 0) for value in window] for window in windows] == [
        [100, 100],
        [10, 100],
        [1, 100],
        [1, 100],
    ]
    assert later == cleared == [None, None]


def test_the_line_of_quantiles_is_the_quantiles_of_each_second(tab: Page) -> None:
    code = """
        const delays = new it.Delays(20);
        const wanted = [0.5, 0.99];
        const single = [];
        for (let second = 0; second < 50; second += 1) {
            for (let n = 0; n < second % 4; n += 1) delays.add(second * 1000, (second * 37 + n * 11) % 200);
            if (second >= 30 + 4) single.push(delays.quantiles(second * 1000 + 999, 4 - 1, wanted));
        }
        return [delays.over(50_000, 4, wanted).map((list) => list.slice(4)), single];"""
    lines, single = pure(tab, "series", code)
    assert [list(pair) for pair in zip(*lines, strict=True)] == single


def test_points_are_in_order_once_and_bounded(tab: Page) -> None:
    code = """
        const points = new it.Points(4);
        for (const [time, value, id] of given) points.add(time, value, id);
        return [points.times, points.values];"""
    given = [(3000, 3, "c"), (1000, 1, "a"), (2000, 2, "b"), (2000, 2, "b"), (2000, 2.5, "b2"), (3000, 3, "c")]
    assert pure(tab, "series", code, given) == [[1, 2, 2, 3], [1, 2, 2.5, 3]]
    assert pure(tab, "series", code, [*given, (500, 0, "z"), (4000, 4, "d")]) == [[2, 2, 3, 4], [2, 2.5, 3, 4]]
    many = [(number, number, str(number)) for number in range(5_000)]
    assert pure(tab, "series", code, many)[1] == [4996, 4997, 4998, 4999]


# numbers.js


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1, "b": -2.5, "c": "3", "d": null, "e": true, "f": [4], "g": 1e400}', {"a": 1, "b": -2.5}),
        ('{"a": {"b": 1, "c": {"d": 2}}, "e": {}}', {"a.b": 1}),
        ('{"a.b": 1, "a": {"c": 2}}', {"a.b": 1, "a.c": 2}),
        ('{"a.b": {"c.d": 7}}', {"a.b.c.d": 7}),
        ('{"": 1, "x": {"": 2}}', {"": 1, "x.": 2}),
        ('{"__proto__": 1, "constructor": 2, "toString": 3}', {"__proto__": 1, "constructor": 2, "toString": 3}),
        ('{"__proto__": {"polluted": 1}, "constructor": {"prototype": 2}}', None),
        ('{"n": 123456789012345678901234567890}', {"n": 1.2345678901234568e29}),
        ("42", {"": 42}),
        ('"42"', {}),
        ("[1, 2]", {}),
        ("null", {}),
        ("{", {}),
    ],
)
def test_the_numbers_of_json_are_found_and_read_by_their_names(
    tab: Page, text: str, found: dict[str, float] | None
) -> None:
    code = """
        return it.fieldsOf(it.parsed(given)).map((name) => [name, Number(it.numeralAt(given, name))]);"""
    if found is None:
        found = {"__proto__.polluted": 1, "constructor.prototype": 2}
    assert dict(pure(tab, "numbers", code, text)) == found
    assert tab.evaluate("({}).polluted === undefined && {}.constructor === Object")


@pytest.mark.parametrize(
    "field", ["constructor", "__proto__", "a.constructor", "a.b.c", "toString.length", "length", ".", ""]
)
def test_what_is_no_number_of_the_data_is_not_read(tab: Page, field: str) -> None:
    code = 'return it.numeralAt(\'{"a": {"b": "x"}}\', given) ?? null;'
    assert pure(tab, "numbers", code, field) is None


def test_no_more_than_200_topics_and_30_fields_are_offered_and_it_says_so(tab: Page) -> None:
    code = """
        const fields = new it.Fields();
        const wide = JSON.stringify(Object.fromEntries(Array.from({ length: given.fields }, (_, n) => [`f${n}`, n])));
        for (let n = 0; n < given.topics; n += 1) {
            fields.look({ topic: `t${n}`, json: true, text: wide }, Math.floor(n / 50) * 1000);
        }
        return [fields.topics().length, fields.of('t0').length, fields.more];"""
    assert pure(tab, "numbers", code, {"topics": 200, "fields": 30}) == [200, 30, False]
    assert pure(tab, "numbers", code, {"topics": 201, "fields": 30}) == [200, 30, True]
    assert pure(tab, "numbers", code, {"topics": 1, "fields": 31}) == [1, 30, True]


def test_few_events_are_looked_into(tab: Page) -> None:
    """At any rate, and with any number of topics: each look parses somebody's JSON."""
    code = """
        const parse = JSON.parse;
        let looks = 0;
        JSON.parse = (text) => (looks += 1, parse(text));
        const fields = new it.Fields();
        const one = [];
        for (let ms = 0; ms < 30_000; ms += 1) fields.look({ topic: 'one', json: true, text: '{"a": 1}' }, ms);
        const ofOne = looks;
        for (let n = 0; n < 1000; n += 1) fields.look({ topic: `t${n}`, json: true, text: '{}' }, 40_000);
        const ofMany = looks - ofOne;
        fields.look({ topic: 'long', json: true, text: `{"a": "${'x'.repeat(70_000)}"}` }, 50_000);
        fields.look({ topic: 'text', json: false, text: '{"a": 1}' }, 50_000);
        JSON.parse = parse;
        return [ofOne, ofMany, looks - ofOne - ofMany];"""
    assert pure(tab, "numbers", code) == [3, 50, 0]


def test_a_field_that_comes_later_is_found_too(tab: Page) -> None:
    code = """
        const fields = new it.Fields();
        fields.look({ topic: 'a', json: true, text: '{"x": 1}' }, 0);
        fields.look({ topic: 'a', json: true, text: '{"y": 1}' }, 10_000);
        return fields.of('a');"""
    assert pure(tab, "numbers", code) == ["x", "y"]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("short(0)", "0"),
        ("short(20)", "20"),
        ("short(19.2)", "19.2"),
        ("short(0.125)", "0.125"),
        ("short(1234)", "1.23k"),
        ("short(-17179869184)", "-17.2G"),
        ("short(0.00001234)", "1.2e-5"),
        ("short(17179869184, 1000000)", "17.18G"),
        ("short(1500, 500)", "1.5k"),
        ("short(2000, 1000)", "2k"),
        ("short(0.3, 0.1)", "0.3"),
        ("short(1e300)", "1e+288T"),
        ("bytes(0)", "0 B"),
        ("bytes(999)", "999 B"),
        ("bytes(68000)", "68 kB"),
        ("bytes(1234567)", "1.23 MB"),
        ("span(0)", "0 ms"),
        ("span(2.34)", "2.3 ms"),
        ("span(12.4)", "12 ms"),
        ("span(1234)", "1.2 s"),
        ("delayText(12.3, null)", "12 ms"),
        ("delayText(-3, null)", "0 ms"),
        ("delayText(12.3, { uncertainty: 4 })", "12 ms"),
        ("delayText(2, { uncertainty: 4 })", "< 6 ms"),
        ("delayText(-2, { uncertainty: 4 })", "< 2 ms"),
        ("delayText(-20, { uncertainty: 4 })", "< 1 ms"),
        ("delayText(0, { uncertainty: 0.2 })", "< 1 ms"),
    ],
)
def test_how_numbers_are_written(tab: Page, call: str, text: str) -> None:
    assert pure(tab, "numbers", f"return it.{call};") == text


# metrics.js

METRICS = """# HELP feed_subscribers Open streams.
# TYPE feed_subscribers gauge
feed_subscribers{node="a:1"} 3.0
feed_subscribers{node="b:2"} 4.0
feed_log_position{node="a:1"} 1.234567e+06
feed_log_position{node="b:2"} 9.0
feed_published_events_total{node="odd \\"}{\\\\"} 5.0
feed_time_seconds 1795273200.5 1795273200000
feed_queued_events{node="a:1"} NaN
feed_log_bytes{node="a:1"} +Inf
python_info{version="3.11"} 1.0
feed_garbage
}{
"""


def test_the_figures_of_several_nodes_are_read_and_put_together(tab: Page) -> None:
    code = """
        const figures = it.figuresOf(given);
        return [[...figures.keys()], it.sum(figures, 'feed_subscribers'), it.max(figures, 'feed_log_position'),
            it.sum(figures, 'feed_published_events_total'), it.max(figures, 'feed_time_seconds'),
            it.sum(figures, 'feed_queued_events') ?? null, it.max(figures, 'feed_log_bytes') ?? null];"""
    names = ["feed_subscribers", "feed_log_position", "feed_published_events_total", "feed_time_seconds"]
    assert pure(tab, "metrics", code, METRICS) == [names, 7, 1_234_567, 5, 1795273200.5, None, None]


@pytest.mark.parametrize(
    ("samples", "best"),
    [
        ([], None),
        ([(1000, 1020, 5010)], (4000, 11)),
        ([(1000, 1020, 5012), (2000, 2004, 6001), (3000, 3100, 7060)], (3999, 3)),
        ([(1000, 1004, 5002), (2000, 2004, 9002)], (7000, 3)),  # the server's clock was set: the old one means nothing
    ],
)
def test_the_clock_is_what_the_shortest_round_trip_says(
    tab: Page, samples: list[tuple[int, int, int]], best: tuple[int, int] | None
) -> None:
    code = """
        const clock = new it.Clock();
        for (const sample of given) clock.add(...sample);
        return clock.best && [clock.best.offset, clock.best.uncertainty];"""
    assert pure(tab, "metrics", code, samples) == (best and list(best))


def test_a_short_round_trip_is_not_believed_for_ever(tab: Page) -> None:
    code = """
        const clock = new it.Clock();
        clock.add(0, 2, 1);
        for (let n = 1; n <= 12; n += 1) clock.add(n * 5000, n * 5000 + 20, n * 5000 + 10);
        return clock.best.uncertainty;"""
    assert pure(tab, "metrics", code) == 11


# On a page


def numbers_of(page: Page, name: str) -> Locator:
    return page.get_by_test_id(f"{name}-numbers")


def without_metrics(page: Page) -> None:
    page.route("**/metrics", lambda route: route.abort("connectionrefused"))


def test_the_rate_counts_what_comes_live_and_not_what_is_replayed(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    without_metrics(page)
    show(page, server)
    page.evaluate(
        """() => {
            for (let second = 0; second < 5; second += 1) {
                tick();
                come(Array.from({ length: 10 }, () => event('a', 'x', { json: false })));
                come(Array.from({ length: 99 }, () => event('a', 'x', { json: false, live: false, late: 60_000 })));
            }
            tick();
        }"""
    )
    expect(numbers_of(page, "rate")).to_have_text("10 a second now, 10 at most")
    assert page.evaluate("pictures.delay") == {"p50": 0, "p99": 0, "now": 0}


def test_delays_are_told_as_quantiles_and_that_the_clocks_may_differ(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    without_metrics(page)
    show(page, server)
    assert page.evaluate("[pictures.delay, pictures.clock]") == [{"p50": None, "p99": None, "now": None}, None]
    page.evaluate(
        "() => { come(Array.from({ length: 100 }, (_, n) => event('a', '1', { late: n < 97 ? 20 : 4000 }))); tick(); }"
    )
    expect(numbers_of(page, "delay")).to_have_text("p50 20 ms p99 4.1 s")
    expect(page.get_by_test_id("delay-note")).to_contain_text("if the clocks agree")
    page.evaluate("() => { tick(6); come([event('a', '1', { late: 300 })]); tick(); }")
    assert page.evaluate("pictures.delay.now") == pytest.approx(300, rel=0.05)
    page.evaluate("() => tick(70)")
    expect(numbers_of(page, "delay")).to_have_text("p50 – p99 –")


def test_delays_are_told_by_the_servers_clock(server: RunningServer, page: Page, watched: Watched) -> None:
    """A server whose clock is an hour behind: its events look an hour late, and are not."""
    ahead = 3_600_000

    def answer(route: Route) -> None:
        now = time.time() - ahead / 1000
        route.fulfill(body=f'feed_time_seconds{{node="a"}} {now:.6f}\n', content_type="text/plain")

    page.route("**/metrics", answer)
    show(page, server)
    page.wait_for_function("() => pictures.clock !== null")
    clock = page.evaluate("pictures.clock")
    assert clock["offset"] == pytest.approx(-ahead, abs=clock["uncertainty"])
    page.evaluate("(late) => { come([event('a', '1', { late })]); tick(); }", ahead + 5_000)
    assert page.evaluate("pictures.delay.now") == pytest.approx(5_000, rel=0.06, abs=clock["uncertainty"])
    expect(page.get_by_test_id("delay-note")).to_contain_text("with clocks compared to")


def test_delays_from_before_the_clocks_were_compared_are_forgotten(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    held: list[Route] = []
    page.route("**/metrics", lambda route: held.append(route))
    show(page, server)
    page.evaluate("() => { come([event('a', '1', { late: 3_600_000 })]); tick(); }")
    assert page.evaluate("pictures.delay.p50") > 3_000_000
    assert asked_until_now(page, held) == 1
    held[0].fulfill(body="feed_time_seconds 1\n", content_type="text/plain")
    page.wait_for_function("() => (pictures.tick(now), pictures.clock !== null && pictures.delay.p50 === null)")


def test_a_delay_below_what_is_known_of_the_clocks_is_not_told_as_a_number(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    show(page, server)
    page.wait_for_function("() => pictures.clock !== null")
    page.evaluate("() => { come([event('a', '1', { late: -60_000 })]); tick(); }")
    expect(numbers_of(page, "delay")).to_contain_text("p50 < ")


def test_what_the_server_says_is_shown_and_what_it_does_not_say_is_left_out(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    page.route("**/metrics", lambda route: route.fulfill(body=METRICS, content_type="text/plain"))
    show(page, server)
    picture = page.get_by_test_id("picture-server")
    page.wait_for_function("() => (tick(), document.querySelectorAll('dt').length > 0)")
    assert picture.locator("dt").all_text_contents() == [
        "Subscribers",
        "Published since its start",
        "Position of the log",
    ]
    assert picture.locator("dd").all_text_contents() == ["7", "5", "1,234,567"]


def test_a_real_server_says_all_of_it(server: RunningServer, page: Page, watched: Watched) -> None:
    server.publish("said")
    show(page, server)
    page.wait_for_function("() => (tick(), document.querySelectorAll('dt').length > 0)")
    assert page.get_by_test_id("picture-server").locator("dt").count() == 8


def test_figures_that_need_a_token_say_so(serve: Serve, page: Page, watched: Watched) -> None:
    server = serve("--log", "memory:", jwt_secret="x" * 32, public="**")
    show(page, server)
    page.wait_for_function("() => (tick(), document.body.textContent.includes('Needs a token with admin.'))")


def test_figures_that_a_proxy_refuses_need_no_token(server: RunningServer, page: Page, watched: Watched) -> None:
    page.route("**/metrics", lambda route: route.fulfill(status=403, body="<h1>no</h1>"))
    show(page, server)
    page.wait_for_function("() => (tick(), document.body.textContent.includes('It answers 403.'))")


def test_figures_grow_old_when_the_server_is_gone(server: RunningServer, page: Page, watched: Watched) -> None:
    show(page, server)
    page.wait_for_function("() => (tick(), document.querySelectorAll('dt').length > 0)")
    without_metrics(page)
    page.wait_for_function(
        "() => (tick(5), document.body.textContent.includes('It does not answer: these numbers are'))"
    )
    assert page.get_by_test_id("picture-server").locator("dt").count() > 0


def test_the_server_is_asked_three_times_for_its_clock_and_then_every_5_s(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    held: list[Route] = []
    page.route("**/metrics", lambda route: held.append(route))
    show(page, server)
    seconds: list[float] = []
    for second in range(15):
        if asked_until_now(page, held) > len(seconds):
            seconds.append(second)
            held[-1].fulfill(body=f"feed_subscribers {second}\n", content_type="text/plain")
            page.wait_for_function(
                "(told) => (pictures.tick(now), document.querySelector('dd')?.textContent === told)", arg=str(second)
            )
        page.evaluate("() => tick()")
    assert seconds == [0, 1, 2, 7, 12]


def test_a_server_that_does_not_answer_is_asked_nothing_more_meanwhile_and_a_hidden_page_asks_nothing(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    held: list[Route] = []
    page.route("**/metrics", lambda route: held.append(route))
    show(page, server)
    page.evaluate("() => tick(60)")
    assert asked_until_now(page, held) == 1
    page.evaluate("() => Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    held[0].fulfill(body="feed_time_seconds 1\n", content_type="text/plain")
    page.wait_for_function("() => pictures.clock !== null")
    page.evaluate("() => tick(60)")
    assert asked_until_now(page, held) == 1
    page.evaluate("() => { delete document.hidden; tick(); }")
    assert asked_until_now(page, held) == 2


def asked_until_now(page: Page, held: list[Route]) -> int:
    """How many requests there were: all that were sent before this one."""
    page.evaluate("() => fetch('healthz')")
    return len(held)


def test_nothing_is_drawn_that_cannot_be_seen(server: RunningServer, page: Page, watched: Watched) -> None:
    without_metrics(page)
    show(page, server)
    page.evaluate(
        """() => {
            const { clearRect } = CanvasRenderingContext2D.prototype;
            CanvasRenderingContext2D.prototype.clearRect = function (...args) {
                window.drawn += 1;
                clearRect.apply(this, args);
            };
        }"""
    )
    count = """async () => {
        drawn = 0;
        tick(3);
        await new Promise((resolve) => setTimeout(resolve)); // uPlot paints in a microtask
        return drawn;
    }"""
    assert page.evaluate(count) > 0
    page.evaluate("() => { document.querySelector('[role=main]').hidden = true; }")
    assert page.evaluate(count) == 0
    page.evaluate("() => { document.querySelector('[role=main]').hidden = false; }")
    page.evaluate("() => Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    assert page.evaluate(count) == 0


def test_a_field_is_charted_at_one_click_with_what_was_before(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    for number in range(30):
        server.publish(
            "click", f'{{"depth": {number}, "inner": {{"temp": {number * 2}}}}}', **{"Content-Type": "application/json"}
        )
    show(page, server)
    expect(page.get_by_test_id("picture-field").get_by_role("img")).to_be_hidden()
    page.evaluate('() => { come([event(\'click\', \'{"depth": 100, "inner": {"temp": 5}}\')]); tick(); }')
    page.get_by_role("button", name="click · depth").click()
    expect(numbers_of(page, "field")).to_contain_text("0 to")
    assert page.evaluate("chosen") == [{"topic": "click", "field": "depth"}]
    page.get_by_label("Field", exact=True).select_option("inner.temp")
    expect(numbers_of(page, "field")).to_have_text("58 now, 0 to 58 here")
    page.evaluate("() => { come([event('click', '{\"inner\": {\"temp\": 71}}', { late: -60_000 })]); tick(); }")
    expect(numbers_of(page, "field")).to_have_text("71 now, 0 to 71 here")
    assert page.evaluate("chosen.at(-1)") == {"topic": "click", "field": "inner.temp"}
    page.get_by_role("button", name="click · depth").click()
    page.get_by_role("button", name="click · depth").click()
    assert page.evaluate("[chosen.at(-1), pictures.chart]") == [None, None]
    expect(page.get_by_test_id("picture-field").get_by_role("img")).to_be_hidden()


def test_a_choice_from_the_address_is_charted_before_its_topic_was_seen(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    server.publish("address", "7", **{"Content-Type": "application/json"})
    show(page, server, {"topic": "address", "field": ""})
    expect(numbers_of(page, "field")).to_have_text("7 now, 7 to 7 here")
    assert page.evaluate("chosen") == []
    expect(page.get_by_label("Topic", exact=True)).to_have_value("address")


def test_the_newest_value_is_told_as_it_was_written(server: RunningServer, page: Page, watched: Watched) -> None:
    server.publish("written", "12345678901234567890", **{"Content-Type": "application/json"})
    show(page, server, {"topic": "written", "field": ""})
    expect(numbers_of(page, "field")).to_contain_text("12345678901234567890 now, ")
    for minutes, (text, told) in enumerate({"1.10": "1.10", "0." + "1" * 99: "0." + "1" * 38 + "…"}.items(), 1):
        page.evaluate(
            "([text, late]) => { come([event('written', text, { late })]); tick(); }", [text, -60_000 * minutes]
        )
        expect(numbers_of(page, "field")).to_contain_text(f"{told} now, ")


def test_of_very_many_values_ten_a_second_are_drawn_and_the_last_one_always(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    without_metrics(page)
    page.route("**/events?*", lambda route: route.abort("connectionrefused"))
    show(page, server, {"topic": "fast", "field": "n"})
    page.evaluate(
        """() => {
            window.parses = 0;
            const parse = JSON.parse;
            JSON.parse = (text) => (parses += 1, parse(text));
            for (let n = 0; n < 1000; n += 1) come([event('fast', `{"n": ${n}}`, { late: 1000 - n })]);
            JSON.parse = parse;
            tick();
        }"""
    )
    expect(numbers_of(page, "field")).to_have_text("999 now, 0 to 999 here")
    assert page.evaluate("parses") <= 12
    expect(page.get_by_text("Of more than ten values a second, ten are drawn.")).to_be_visible()


def test_a_thousand_events_a_second_cost_next_to_nothing(server: RunningServer, page: Page, watched: Watched) -> None:
    without_metrics(page)
    show(page, server, {"topic": "t0", "field": "percent"})
    took = page.evaluate(
        """() => {
            const fields = Array.from({ length: 20 }, (_, n) => [`f${n}`, n]);
            const text = JSON.stringify({ percent: 12.5, ...Object.fromEntries(fields) });
            const seconds = Array.from({ length: 20 }, (_, second) => Array.from({ length: 1000 }, (_, n) =>
                event(`t${n % 100}`, text, { late: 20_000 - second * 1000 - n })));
            const began = performance.now();
            for (const events of seconds) { now += 1000; come(events); }
            const added = performance.now();
            tick(20);
            return [(added - began) / 20_000, (performance.now() - added) / 20];
        }"""
    )
    assert took[0] < 0.1, "ms for each event"
    assert took[1] < 50, "ms for each second's drawing"


def test_screen_readers_are_told_the_numbers_every_5_s_at_most_and_never_interrupted(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    without_metrics(page)
    show(page, server, {"topic": "a", "field": "n"})
    labels = page.evaluate(
        """() => {
            const labels = [];
            for (let second = 0; second < 20; second += 1) {
                come([event('a', `{"n": ${second}}`)]);
                tick();
                labels.push([...document.querySelectorAll('[role=img]')].map((chart) => chart.ariaLabel).join(' '));
            }
            return labels;
        }"""
    )
    changes = [place for place in range(1, 20) if labels[place] != labels[place - 1]]
    assert len(changes) >= 3
    assert all(later - earlier >= 5 for earlier, later in itertools.pairwise(changes))
    assert "a, n. Values: " in labels[-1]
    assert "a second now" in labels[-1]
    assert page.locator("[aria-live], [role=status], [role=log], [role=alert]").count() == 0


def test_names_from_the_feed_are_text(server: RunningServer, page: Page, watched: Watched) -> None:
    without_metrics(page)
    show(page, server)
    page.evaluate(
        """() => {
            come([event('<img src=x onerror=alert(1)>', JSON.stringify({ '<b>"\\'</b>': 1 }))]);
            come([event('__proto__', '{"__proto__": 5, "constructor": {"prototype": 6}}')]);
            tick();
        }"""
    )
    page.get_by_role("button", name="<img src=x onerror=alert(1)> · <b>\"'</b>").click()
    page.get_by_role("button", name="__proto__ · __proto__").click()
    assert page.evaluate("pictures.chart") == {"topic": "__proto__", "field": "__proto__"}
    page.evaluate("() => { come([event('__proto__', '{\"__proto__\": 6}')]); tick(); }")
    expect(numbers_of(page, "field")).to_have_text("6 now, 6 to 6 here")
    assert page.locator("#pictures img, #pictures b").count() == 0


def test_nothing_scrolls_sideways(server: RunningServer, page: Page, watched: Watched) -> None:
    without_metrics(page)
    show(page, server)
    page.evaluate(
        """() => {
            const name = 'x'.repeat(200);
            come([event('wide/' + 'unbroken'.repeat(30), JSON.stringify({ [name]: -1.7976931348623157e308 }))]);
            tick();
        }"""
    )
    page.get_by_test_id("chart-chip").click()
    for width in (320, 375, 768, 1440):
        page.set_viewport_size({"width": width, "height": 740})
        sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert sizes[0] <= sizes[1], f"{width} wide"


def test_charts_are_as_wide_as_their_place_also_when_that_changes(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    without_metrics(page)
    show(page, server)
    same = """() => [...document.querySelectorAll('.plot')].filter((place) => place.clientWidth).every((place) =>
        Math.abs(place.clientWidth - place.querySelector('canvas').getBoundingClientRect().width) < 1)"""
    for width in (320, 700, 375):
        page.set_viewport_size({"width": width, "height": 740})
        page.wait_for_function(same)


def test_another_theme_is_painted_in_its_colours(server: RunningServer, page: Page, watched: Watched) -> None:
    without_metrics(page)
    show(page, server)
    painted = """async () => {
        await new Promise((resolve) => setTimeout(resolve));
        const canvas = document.querySelector('canvas');
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const accent = getComputedStyle(document.documentElement).getPropertyValue('--accent').trim();
        const wanted = [1, 3, 5].map((at) => parseInt(accent.slice(at, at + 2), 16));
        let found = 0;
        for (let at = 0; at < data.length; at += 4) {
            if (data[at + 3] === 255 && wanted.every((value, n) => data[at + n] === value)) found += 1;
        }
        return found;
    }"""
    page.evaluate("() => { for (let n = 0; n < 100; n += 1) { come([event('a', '1')]); tick(); } }")
    assert page.evaluate(painted) > 50
    page.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    assert page.evaluate(painted) < 5
    page.evaluate("() => pictures.theme()")
    assert page.evaluate(painted) > 50


def test_closing_leaves_nothing_behind(server: RunningServer, page: Page, watched: Watched) -> None:
    show(page, server)
    page.evaluate("() => pictures.close()")
    assert page.locator("#pictures *").count() == 0


def test_the_processors_of_feed_demo_at_one_click(serve: Serve, page: Page, watched: Watched) -> None:
    """What it looks like is in `test-artifacts`."""
    server = serve("--log", "memory:")
    demo = subprocess.Popen([FEED, "demo", "--url", server.url, "--every", "0.1"], stdout=subprocess.DEVNULL)
    try:
        show(page, server)
        page.evaluate(FOLLOW)
        page.get_by_role("button", name="system/cpu · percent").click()
        expect(numbers_of(page, "field")).to_contain_text(" now, ")
        page.wait_for_function("() => pictures.delay.now !== null && document.querySelector('dd')?.textContent === '1'")
        expect(numbers_of(page, "rate")).to_contain_text("a second now")
        assert page.evaluate("chosen") == [{"topic": "system/cpu", "field": "percent"}]
        ARTIFACTS.mkdir(exist_ok=True)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.evaluate("() => pictures.theme()")
            for width in (320, 1440):
                page.set_viewport_size({"width": width, "height": 900})
                page.screenshot(path=ARTIFACTS / f"pictures-{width}-{scheme}.png", full_page=True)
    finally:
        demo.terminate()
        demo.wait()
