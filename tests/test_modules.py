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
