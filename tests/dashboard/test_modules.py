"""The dashboard's pure modules as tables: what goes in, what comes out."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.support.browser import Watched
from tests.support.modules import outputs
from tests.support.running import RunningServer

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


NESTED = r"""
 {"a": {"b": [1, {"c": null}, 2.50 ]}, "a.b": "with a dot", "": "nameless", "n": 0, "n":1.10,"e\u0073c": [{}, [ ] ],
  "big": 123456789012345678901234567890, "]}": {"\"": "}"}, "__proto__": {"x": true}, "a": {"b": -1e2}} """
FOUND = {
    "n": ["0", "1.10"],
    "a.b": ['[1, {"c": null}, 2.50 ]', '"with a dot"', "-1e2"],
    "a.b.0": ["1"],
    "a.b.1.c": ["null"],
    "a.b.2": ["2.50"],
    "": ['"nameless"'],
    "esc": ["[{}, [ ] ]"],
    "esc.1": ["[ ]"],
    "big": ["123456789012345678901234567890"],
    "]}": ['{"\\"": "}"}'],
    ']}."': ['"}"'],
    "__proto__.x": ["true"],
    "missing": [],
    "a.missing.deeper": [],
    "constructor": [],
    "__proto__.y": [],
    "a.constructor.name": [],
    "n.toFixed": [],
    "n.": [],
    "a.b.00": [],
    "x": [],
}


def test_values_are_found_by_their_path_as_they_are_written_and_nothing_that_was_not_published_is(given: Given) -> None:
    found = given("feed/json.js", "valuesAt", [[NESTED, path] for path in FOUND])
    assert dict(zip(FOUND, found, strict=True)) == FOUND
    alone = {"1.10": ["1.10"], ' "te]xt" ': ['"te]xt"'], "[1, 2]": [], "": [], " ": []}
    assert given("feed/json.js", "valuesAt", [[text, ""] for text in alone]) == list(alone.values())


@pytest.mark.parametrize(
    "text", ["{", '{"a', '{"a"', '{"a":', '{"a":[', '{"a":[1,,', '{"a" 1}', "[:", "[}", '{"a":{]', "]"]
)
def test_what_is_no_json_is_read_to_its_end(given: Given, text: str) -> None:
    assert [len(each) <= 1 for each in given("feed/json.js", "valuesAt", [[text, "a"], [text, "a.0"]])] == [True, True]


def test_an_event_that_has_lost_its_data_on_the_way_has_none(given: Given) -> None:
    [event] = given("feed/event.js", "eventOf", [['{"topic":"a","id":"e-1","type":"t","time":"t"}', True]])
    assert (event["id"], event["json"], event["text"]) == ("e-1", True, "null"), "and its data is null"


def test_a_key_that_no_element_was_pressed_in_does_nothing(server: RunningServer, page: Page, watched: Watched) -> None:
    page.goto(f"{server.url}/healthz")
    actions = """async () => {
        const { actionOf } = await import("/assets/app/keys.js");
        const actions = [];
        addEventListener("keydown", (event) => actions.push(actionOf(event, true)));
        for (const target of [document.body, document, window])
            target.dispatchEvent(new KeyboardEvent("keydown", { key: "p", bubbles: true }));
        return actions;
    }"""
    assert page.evaluate(actions) == ["togglePublish", None, None]


IN_ORDER = [
    *("-1e1000000", "-12345678901234567891", "-12345678901234567890", "-2", "-1.10", "-0.00000000000000000001"),
    *("0", "1e-400", "1e-399", "0.1", "0.10000000000000001", "1.1", "1.10000000000000000001", "2", "10", "99.9", "100"),
    *("9007199254740992", "9007199254740993", "12345678901234567000", "12345678901234567890", "12345678901234567891"),
    *("1e400", "1e401", "9e999999999999999999999", "1e1000000000000000000000"),
]
EQUAL = [
    ("1.10", "1.1"),
    ("1e2", "100"),
    ("100", "1.00E+2"),
    ("0", "-0.000e5"),
    (".5", "0.5"),
    ("5.", "+5"),
    ("0012", "12"),
    ("1e-1", "0.1"),
]
NO_NUMBERS = ["", "-", ".", "1.2.3", "0x10", "1e", "NaN", "Infinity", "1 ", "true", "null", "1e+-1", "e5"]


def test_numbers_are_compared_to_the_last_digit(given: Given) -> None:
    pairs = [(one, other) for one in range(len(IN_ORDER)) for other in range(len(IN_ORDER))]
    found = given("app/decimals.js", "compared", [[IN_ORDER[one], IN_ORDER[other]] for one, other in pairs])
    assert [(result > 0) - (result < 0) for result in found] == [(one > other) - (one < other) for one, other in pairs]
    assert given("app/decimals.js", "compared", EQUAL) == [0] * len(EQUAL)
    unknown = given("app/decimals.js", "compared", [[pair, "1"] for pair in NO_NUMBERS])
    assert unknown == [None] * len(NO_NUMBERS), "NaN"


def test_very_long_numerals_are_compared_at_once(server: RunningServer, page: Page, watched: Watched) -> None:
    page.goto(f"{server.url}/healthz")
    compare = """async () => {
        const { compared } = await import("/assets/app/decimals.js");
        const zeros = "0".repeat(250_000);
        const pairs = [[`${zeros}1`, `${zeros}1${zeros}`], [`1${zeros}x`, "1"], [`1e1${zeros}`, "1"]];
        return String(pairs.map(([one, other]) => compared(one, other)));
    }"""
    assert page.evaluate(compare) == "-1,NaN,NaN"


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
