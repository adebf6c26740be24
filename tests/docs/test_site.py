"""The site of the pages: `make docs` builds it, and finds dead links itself. Here is what it is built from."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from packaging.requirements import Requirement

from tests.support.pages import read_pages
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]


def test_the_navigation_has_every_page_once() -> None:
    assert sorted(leaves(PROJECT["nav"])) == sorted(read_pages())


def leaves(tree: Any) -> Iterator[str]:
    """Go through the navigation: lists of pages, each a path, or a title and what is below it."""
    if isinstance(tree, str):
        yield tree
    else:
        for each in tree.values() if isinstance(tree, dict) else tree:
            yield from leaves(each)


def test_readers_of_the_site_ask_no_other_server() -> None:
    assert PROJECT["theme"]["font"] is False
    assert not {"extra_css", "extra_javascript"} & PROJECT.keys()


def test_what_builds_it_is_locked_with_hashes() -> None:
    text = (ROOT / "requirements/docs.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+).* \\$", text, re.MULTILINE))
    assert len(re.findall(r"^[\w.-]+==.* \\\n    --hash=sha256:", text, re.MULTILINE)) == len(
        re.findall(r"^\w", text, re.MULTILINE)
    )
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    for requirement in map(Requirement, groups["docs"]):
        assert requirement.specifier.contains(pins[requirement.name])
