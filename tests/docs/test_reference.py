"""The reference pages say what the code says: each of its names once, and nothing that is out of date."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import pytest

import feed
import feed.client
from feed.client import AsyncClient, Client
from feed.control import Reason
from feed.fastapi.describe.openapi import MARKS, PAYLOADS
from feed.fastapi.http.parameters import PARAMETERS
from feed.fastapi.metrics.table import FIGURES
from feed_server.settings import Settings, variable
from tests.docs.reference import INNER, REFERENCE, REGIONS
from tests.docs.regions import first_cells, plain, region_names, rewritten, table
from tests.docs.signatures import is_error
from tests.support.doc_blocks import section
from tests.support.paths import DASHBOARD

PAGES = sorted(REFERENCE.glob("*.md"))
ERRORS = sorted(
    {value for module in (feed, feed.client) for value in vars(module).values() if is_error(value)},
    key=lambda error: error.__name__,
)


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_what_the_code_says(page: Path) -> None:
    assert rewritten(text(page), REGIONS) == text(page), "python -m tests.docs.reference --write"


def test_each_region_stands_on_one_page() -> None:
    assert sorted(name for page in PAGES for name in region_names(text(page))) == sorted(REGIONS)


def rows(names: Iterable[str]) -> dict[str, int]:
    """How many rows of the reference each name has."""
    found = Counter(re.sub("`", "", cell) for page in PAGES for cell in first_cells(text(page)))
    return {name: found[name] for name in names}


def test_every_setting_has_one_row() -> None:
    assert set(rows(map(variable, Settings.model_fields)).values()) == {1}


def test_every_parameter_has_one_row() -> None:
    """Beside those of headers, options and members that have the same name."""
    cells = [re.sub("`", "", cell) for cell in first_cells(section("reference/http.md", "Query parameters"))]
    assert sorted(cells) == sorted(PARAMETERS)


def test_every_metric_has_one_row() -> None:
    found = rows(f"{figure.name}{'_total' if getattr(figure, 'kind', '') == 'counter' else ''}" for figure in FIGURES)
    assert set(found.values()) == {1}


def test_every_error_has_one_row() -> None:
    found = rows(f"{'feed' if hasattr(feed, error.__name__) else 'feed.client'}.{error.__name__}" for error in ERRORS)
    assert set(found.values()) == {1}
    assert len(found) == len(ERRORS) > 10


def test_every_control_event_and_every_reason_has_one_row() -> None:
    assert set(rows([*PAYLOADS, *MARKS]).values()) == {1}
    assert set(rows(get_args(Reason)).values()) == {1}


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("reference/control-events.md", "Control events"),
        ("reference/control-events.md", "Events that only the feed makes"),
        ("reference/errors.md", "Statuses"),
        ("reference/errors.md", "Exceptions of `feed`"),
        ("reference/errors.md", "Exceptions of `feed.client`"),
    ],
)
def test_what_is_written_by_hand_is_there_for_each_row(page: str, title: str) -> None:
    lines = [line for line in section(page, title).splitlines() if line.startswith("| `")]
    assert lines
    assert [line for line in lines if line.endswith("| |")] == []


@pytest.mark.parametrize("kind", [feed.Feed, AsyncClient, Client], ids=lambda kind: kind.__name__)
def test_every_parameter_of_a_method_is_explained(kind: type) -> None:
    methods = [each for name, each in vars(kind).items() if inspect.isfunction(each) and not name.startswith("_")]
    silent = [
        f"{method.__name__}: {name}"
        for method in methods
        for name in inspect.signature(method).parameters
        if name != "self" and method.__name__ not in INNER["Feed"] and method.__name__ != "kick"
        if f"`{name}`" not in (method.__doc__ or "")
    ]
    assert silent == []


def test_the_client_of_plain_code_says_what_its_twin_says() -> None:
    page = text(REFERENCE / "client.md")
    found = re.findall(r"As \[`AsyncClient\.(\w+)`\]\(#\w+\), without", page)
    assert sorted(found) == [
        "delete", "history", "latest", "now", "page", "publish", "publish_batch", "renew", "subscribe", "topics"
    ]  # fmt: skip


# feed.js: its page is written by hand, and its types say what has to stand there.


def members(interface: str) -> list[str]:
    """The names of an interface's members in the types of feed.js."""
    types = (DASHBOARD / "feed" / "types.d.ts").read_text(encoding="utf-8")
    found = re.search(rf"interface {interface}(?: extends \w+)? {{\n(.*?)\n}}", types, re.DOTALL)
    assert found, interface
    return re.findall(r"^  (?:readonly )?(\w+)\??:", found[1], re.MULTILINE)


def cells(title: str) -> list[str]:
    return [re.sub("`", "", cell) for cell in first_cells(section("reference/feed-js.md", title))]


def test_the_page_about_feed_js_has_each_option_and_each_event() -> None:
    kinds = ["CommonOptions", "FeedOptions", "LatestOptions"]
    assert sorted(cells("Options of `connect`")) == sorted({name for kind in kinds for name in members(kind)})
    assert sorted(cells("Events of the feed")) == sorted(members("FeedEventMap"))


def test_the_page_about_feed_js_has_each_state_with_its_facts() -> None:
    page = section("reference/feed-js.md", "States")
    kinds = ["Connecting", "Replaying", "Live", "Waiting", "Offline", "Refused", "Closed"]
    assert cells("States") == [kind.lower() for kind in kinds]
    for kind in kinds:
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{kind.lower()}` |")]
        assert [name for name in members(kind) if name != "name" and f"`{name}`" not in row] == []


# The regions themselves.


def test_a_table_keeps_what_was_written_by_hand_for_the_rows_that_are_still_there() -> None:
    present = "| a | b | c |\n| --- | --- | --- |\n| `x` | old | mine \\| yours |\n| `gone` | old | lost |\n"
    assert table(present, ["a", "b"], [("`x`", "new"), ("`y`", "one|two")], by_hand="c") == (
        "| a | b | c |\n| --- | --- | --- |\n| `x` | new | mine \\| yours |\n| `y` | one\\|two | |\n"
    )


def test_only_regions_are_written() -> None:
    page = "# A\n\n<!-- begin: one -->\nold\n<!-- end -->\n\nby hand\n"
    assert rewritten(page, {"one": str.upper}) == page.replace("old", "OLD")


def test_what_is_not_markdown_is_shown_as_it_is() -> None:
    assert plain("a/*, <b> and `c/*`") == "a/\\*, \\<b> and `c/*`"
