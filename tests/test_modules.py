"""The dashboard's pure modules as tables: what goes in, what comes out."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import Watched
from tests.modules import outputs
from tests.running import RunningServer

pytestmark = pytest.mark.browser

Given = Callable[[str, str, Sequence[Sequence[object]]], list[Any]]


@pytest.fixture
def given(server: RunningServer, page: Page, watched: Watched) -> Given:
    """`given("app/filter.js", "fieldOf", [[…], …])`: what it gives for each row of arguments."""
    page.goto(f"{server.url}/healthz")
    return lambda module, name, table: outputs(page, server, module, name, table)


SHELL = [
    "plain",
    "",
    "two words",
    "it's",
    "''",
    "'; touch /tmp/never; '",
    "$(id) `id` $HOME ${x}",
    '"double" \\ back',
    "!history ~ * ? [a] {b,c}",
    "two\nlines\tand a tab",
    "-n",
    "<script>&amp;",
    "é \u2028 \U0001f600",
]


def test_a_quoted_word_is_one_word_to_a_shell_and_the_same(given: Given) -> None:
    for text, quoted in zip(SHELL, given("app/commands.js", "quoted", [[text] for text in SHELL]), strict=True):
        shown = subprocess.run(["sh", "-c", f"printf '<%s>' {quoted}"], capture_output=True, text=True, check=True)
        assert shown.stdout == f"<{text}>"


def test_a_field_is_found_by_its_path_and_nothing_that_was_not_published_is(given: Given) -> None:
    value = {"a": {"b": [1, {"c": None}]}, "a.b": "with a dot", "": "nameless", "n": 0}
    rows = [
        ("n", 0),
        ("a.b", "with a dot"),
        ("a.b.0", 1),
        ("a.b.1.c", None),
        ("", "nameless"),
        ("missing", None),
        ("a.missing.deeper", None),
        ("constructor", None),
        ("__proto__", None),
        ("a.constructor.name", None),
        ("toString", None),
        ("n.toFixed", None),
    ]
    found = given("app/filter.js", "fieldOf", [[value, path] for path, _ in rows])
    assert dict(zip([path for path, _ in rows], found, strict=True)) == dict(rows)


def test_pretty_json_is_the_same_json_to_the_digit(given: Given) -> None:
    texts = [
        '{"z": 123456789012345678901234567890, "a": 1.0, "a": 1E2}',
        '["{\\"a\\": [1, 2]}", "\\\\", "\\\\\\"", "\\u2028"]',
        "[]",
        '{"a": {}, "b": [[], [{}]]}',
        "1e999",
        '"text"',
    ]
    for text, pretty in zip(texts, given("app/commands.js", "pretty", [[text] for text in texts]), strict=True):
        assert tokens(pretty) == tokens(text)


def tokens(text: str) -> str:
    """JSON without the space between its tokens."""
    found, inside, escaped = "", False, False
    for character in text:
        if inside or not character.isspace():
            found += character
        if inside and not escaped and character == '"':
            inside = False
        elif not inside and character == '"':
            inside = True
        escaped = inside and character == "\\" and not escaped
    return found


def test_an_error_of_the_module_is_its_words(given: Given) -> None:
    assert given("app/filter.js", "filterOf", [["(", True]])[0].startswith("SyntaxError: Invalid regular expression")


PROBLEM = "application/problem+json"
READ_REFUSAL = """async (answers) => {
    const { refusalIn, refusalOf } = await import("/assets/feed/history.js");
    const read = async ([status, type, body, headers = {}]) => {
        const answer = await refusalOf(new Response(body, { status, headers: { "Content-Type": type, ...headers } }));
        return [refusalIn(answer)?.reason ?? null, answer.detail, answer.retry];
    };
    return Promise.all(answers.map(read));
}"""


def test_only_a_problem_document_of_the_very_status_refuses_for_good(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    page.goto(f"{server.url}/healthz")
    final = [
        ([401, PROBLEM, '{"status": 401, "detail": "a token is needed"}'], ["unauthenticated", "a token is needed"]),
        ([403, f"{PROBLEM.upper()} ; charset=utf-8", '{"status": 403}'], ["forbidden", "403"]),
        ([422, PROBLEM, '{"status": 422.0, "detail": "so"}'], ["invalid", "so"]),
        ([404, PROBLEM, '{"status": 404, "detail": 5}'], ["invalid", "404"]),
    ]
    assert page.evaluate(READ_REFUSAL, [answer for answer, _ in final]) == [[*said, None] for _, said in final]
    passing = [
        *([status, PROBLEM, f'{{"status": {status}, "detail": "so"}}'] for status in (408, 425, 429, 500, 503)),
        *([status, "text/html", "<h1>no"] for status in (400, 401, 403, 404, 405, 410, 422, 451)),
        *([403, kind, '{"status": 403}'] for kind in ("application/json", f"{PROBLEM}x", f"x/{PROBLEM}", "")),
        *([403, PROBLEM, body] for body in ("", "<h1>no", "null", "403", '"403"', "[403]", "{}", '[{"status": 403}]')),
        *([403, PROBLEM, f'{{"status": {status}}}'] for status in ('"403"', "404", "403.5", "null", "[403]", "true")),
    ]
    answers = page.evaluate(READ_REFUSAL, passing)
    assert [passing[at] for at, (reason, *_) in enumerate(answers) if reason is not None] == []


RETRY_AFTER = {
    "0": 0,
    "7": 7_000,
    "Sun, 06 Nov 1994 08:49:37 GMT": 37_000,
    "Sunday, 06-Nov-94 08:49:37 GMT": 37_000,
    "Sun Nov  6 08:49:37 1994": 37_000,
    "Mon Nov 14 08:49:00 1994": 8 * 86_400_000,
    "Sun, 06 Nov 1994 08:48:00 GMT": 0,  # is over
    "Sunday, 06-Nov-93 08:49:37 GMT": 0,
    "Friday, 06-Nov-43 08:49:00 GMT": 1_546_300_800_000,  # 2043: not more than 50 years ahead
    "Sunday, 06-Nov-45 08:49:00 GMT": 0,  # 1945
    "": None,
    "soon": None,
    "-1": None,
    "1.5": None,
    "0x10": None,
    "1e3": None,
    "1994": 1_994_000,
    "06 Nov 1994": None,
    "Sun, 06 Nov 1994 08:49:37 CET": None,
    "Sun, 36 Nov 1994 08:49:37 GMT": None,
    "1994-11-06T08:49:37Z": None,
}


def test_retry_after_is_seconds_or_a_date_in_any_of_the_three_ways(given: Given) -> None:
    now = 784_111_740_000  # 08:49:00 on that day
    found = given("feed/history.js", "waitIn", [[header, now] for header in RETRY_AFTER])
    assert dict(zip(RETRY_AFTER, found, strict=True)) == RETRY_AFTER


def test_a_date_to_come_back_at_is_by_the_clock_of_whoever_sent_it(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    page.goto(f"{server.url}/healthz")
    headers = {"Date": "Sun, 06 Nov 1994 08:49:37 GMT", "Retry-After": "Sun, 06 Nov 1994 08:49:57 GMT"}
    answers = page.evaluate(READ_REFUSAL, [[503, "text/html", "", headers]])
    assert [retry for *_, retry in answers] == [20_000]


def test_waits_grow_and_are_what_the_feed_says_and_not_less_than_anybody_says(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    page.goto(f"{server.url}/healthz")
    found = page.evaluate(
        """async () => {
            const { Waits } = await import("/assets/feed/waits.js");
            Math.random = () => 1; // the longest of what may be
            const waits = new Waits();
            const first = Array.from({ length: 7 }, () => waits.next({}));
            const says = [{ told: 5 }, { told: 1500 }, { told: Infinity }, { told: 1e9 },
                { least: 0 }, { least: 40_000 }, { least: null }, { least: Infinity }];
            const said = says.map((each) => waits.next(each));
            waits.reset();
            Math.random = () => 0;
            return [first, said, [waits.next({}), waits.next({ least: 500 })]];
        }"""
    )
    assert found == [
        [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000],
        [100, 1_500, 30_000, 300_000, 30_000, 40_000, 30_000, 300_000],
        [100, 500],
    ]
