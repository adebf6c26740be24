"""The pages: short enough, linked as they say, in plain words, and their programs correct by `mypy --strict`."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.pages import Block, Link, Page, read_pages, slug_of
from tests.support.paths import ROOT

PAGES = read_pages()

MOST_LINES = {"README.md": 200}
"""And 400 for all others."""

BEGINNINGS = ("README.md", "docs/index.md")

TOP = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}

IN_THE_SITE = re.compile(r"(?:docs|deploy)/.*|[A-Z]+\.md|Dockerfile|LICENSE|compose\.yaml")
"""What `make docs` copies. Other files are named, without a link: the site does not have them."""

UNTYPED = {"celery", "django"}
"""Packages that have no types: of a program that uses one of them the rest is judged."""

OF_BEFORE = {
    r"\bpublish_all\b": "publish_batch",
    r"\bOutgoing\b": "draft",
    r"\bHistoryPage\b": "Page",
    r"\bpage\.messages\b": "page.events",
    r"\bevent\.json\(\)": "event.data",
    r"\bfrom web import\b|\bpython -m web\b": "feed.fastapi, feed_server, python -m feed",
    r"\bweb\.(?:requests|streams)\b": "feed.requests, feed.streams",
    r"\bfeed\.(?:feed\.figures|figures)\b": "feed.statistics",
    r"\b(?:Turnstile|Wires?|counted_as|farewell)\b": "Admission, Encoder, address_key, drain",
}
"""Names that nothing bears any more, and what stands for them. The changelog shows them to those who used them."""

_THINGS = "error|event|id|key|list|log|name|number|pattern|setting|text|token|topic|URL"
RIDDLES = {
    r"(?<!there )(?<!There )\bis none\b": "is not one",
    rf"(?<!there )(?<!There )\b(?:is|are) no (?:{_THINGS})s?\b": "is not a",
}
"""Turns of speech that readers had to translate, and what says the same. ("There is no key" is plain.)"""


@pytest.fixture(params=list(PAGES.values()), ids=list(PAGES))
def page(request: pytest.FixtureRequest) -> Page:
    found: Page = request.param
    return found


def test_a_page_is_not_longer_than_one_can_read(page: Page) -> None:
    assert len(page.text.splitlines()) <= MOST_LINES.get(page.name, 400)


def test_every_block_names_its_language(page: Page) -> None:
    assert [block.line for block in page.blocks if not block.language] == []


def test_every_link_leads_somewhere(page: Page) -> None:
    assert [f"{page.name}:{link.line}: {fault}" for link in page.links if (fault := fault_of(page, link))] == []


def fault_of(page: Page, link: Link) -> str | None:
    target = page.target(link)
    if not (ROOT / target).is_file():
        return f"{link.path} is not a file"
    if not IN_THE_SITE.fullmatch(target):
        return f"{link.path} is not in the site: name it without a link"
    if link.anchor and (target not in PAGES or link.anchor not in PAGES[target].anchors):
        return f"{target} has no heading #{link.anchor}"
    return None


def test_every_page_is_reached_by_links() -> None:
    reached, waiting = set(BEGINNINGS), deque(BEGINNINGS)
    while waiting:
        page = PAGES[waiting.popleft()]
        found = {page.target(link) for link in page.links} & PAGES.keys()
        waiting += found - reached
        reached |= found
    assert PAGES.keys() - reached == set()


def test_the_pages_at_the_top_are_those_that_are_expected_there() -> None:
    assert {name for name in PAGES if "/" not in name} == TOP


_A_PATH = re.compile(r"(?:\.ci|deploy|docs|feed|requirements|tests|web)(?:/[\w.-]+)*/[\w-]+(?:\.\w+|/)")
_A_TEST = re.compile(r"test_\w+")


def test_every_file_that_is_named_is_there(page: Page) -> None:
    missing = {
        f"{page.name}:{line}: {span}"
        for line, span in page.code_spans
        if _A_PATH.fullmatch(span) and "NAME" not in span and not (ROOT / span).exists()
    }
    assert missing == set()


def test_every_test_that_is_named_is_there() -> None:
    there = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        for name in re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = {span for _, span in PAGES["docs/faults.md"].code_spans if _A_TEST.fullmatch(span)}
    assert len(named) > 50
    assert named - there == set()


def test_no_page_uses_a_name_of_before(page: Page) -> None:
    text = page.text
    if page.name == "CHANGELOG.md":
        text = re.sub(r"^### If you used a build before.*?(?=^## |\Z)", "", text, flags=re.DOTALL | re.MULTILINE)
    found = {match[0]: better for name, better in OF_BEFORE.items() if (match := re.search(name, text))}
    assert found == {}


def test_no_page_speaks_in_riddles(page: Page) -> None:
    prose = "\n".join(re.sub("`.*?`", "", line) for _, line in page.prose)
    found = {match[0]: better for riddle, better in RIDDLES.items() if (match := re.search(riddle, prose))}
    assert found == {}


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    releases = re.findall(r"^## (\d+\.\d+\.\d+) — \d{4}-\d\d-\d\d$", PAGES["CHANGELOG.md"].text, re.MULTILINE)
    assert releases[0] == project == version("feed")


# The programs.


class Program(NamedTuple):
    """A block of Python that is whole: it begins with an import.

    `module` is what it is called for mypy. Programs that follow on its page import it by `saved`: the sentence before
    the block says "as `shop.py`".
    """

    page: Page
    block: Block
    module: str
    saved: str | None


_SAVED = re.compile(r"\bas `(\w+)\.py`")


def programs(page: Page) -> Iterator[Program]:
    stem = re.sub(r"\W", "_", page.name.removesuffix(".md"))
    lines = page.text.splitlines()
    for block in page.blocks:
        if block.language == "python" and re.match(r"\n*(?:from|import) ", block.text):
            paragraph = "\n".join(lines[: block.line - 2]).rstrip().rpartition("\n\n")[2]
            named = _SAVED.search(paragraph)
            yield Program(page, block, f"{stem}_{block.line}", named and named[1])


PROGRAMS = [program for page in PAGES.values() for program in programs(page)]


def test_every_block_of_python_is_python(page: Page) -> None:
    """A fragment, too: as it stands, or within a function."""
    for block in page.blocks:
        if block.language == "python":
            within = "async def fragment():\n" + "".join(f"    {line}\n" for line in block.text.splitlines())
            try:
                ast.parse(block.text)
            except SyntaxError:
                ast.parse(within, f"{page.name}:{block.line}")


@pytest.mark.timeout(400)
def test_every_program_is_correct_by_mypy_strict(tmp_path: Path) -> None:
    for program in PROGRAMS:
        # As many lines before it as in the page, so that an error names its line there.
        text = "\n" * (program.block.line - 1) + _with_own_names(program)
        (tmp_path / f"{program.module}.py").write_text(text, encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(_configuration(tmp_path), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", tmp_path / "mypy.ini", *sorted(tmp_path.glob("*.py"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
    )
    said = done.stdout
    for program in PROGRAMS:
        said = re.sub(rf"^(?:.*/)?{program.module}\.py:", f"{program.page.name}:", said, flags=re.MULTILINE)
    assert done.returncode == 0, said + done.stderr


def _with_own_names(program: Program) -> str:
    """Let a program import those before it on its page, each of which is a module of its own here."""
    text = program.block.text
    files = {
        other.saved: other.module
        for other in PROGRAMS
        if other.page is program.page and other.saved and other.block.line < program.block.line
    }
    for name, module in files.items():
        text = re.sub(rf"^( *)from {name} import", rf"\1from {module} import", text, flags=re.MULTILINE)
        text = re.sub(rf"^( *)import {name}$", rf"\1import {module} as {name}", text, flags=re.MULTILINE)
    return text


def _configuration(folder: Path) -> str:
    """Write mypy's. What has no types is Any, and so is what is derived from it, or decorated by it."""
    untyped = [
        program.module
        for program in PROGRAMS
        if re.search(rf"^(?:from|import) (?:{'|'.join(UNTYPED)})\b", program.block.text, re.MULTILINE)
    ]
    lines = [
        "[mypy]",
        "strict = True",
        "plugins = pydantic.mypy",
        "follow_imports = silent",
        f"mypy_path = {ROOT}:{ROOT / 'web'}:{folder}",
        f"cache_dir = {ROOT / '.mypy_cache/pages'}",
    ]
    for package in sorted(UNTYPED):
        lines += [f"[mypy-{package},{package}.*]", "ignore_missing_imports = True"]
    for module in untyped:
        lines += [
            f"[mypy-{module}]",
            "disallow_untyped_decorators = False",
            "disallow_subclassing_any = False",
            "disallow_any_generics = False",
            "warn_return_any = False",
        ]
    return "\n".join([*lines, ""])


# What reads them.


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Set up", "set-up"),
        ("Who may do what?", "who-may-do-what"),
        ("`feed.gap` and its kin", "feedgap-and-its-kin"),
        ("A · B", "a--b"),
        ("0.1.0 — 2026-11-30", "010--2026-11-30"),
        ("snake_case, *stressed* and **more**", "snake_case-stressed-and-more"),
        ("With [a link](design.md#x)", "with-a-link"),
        ("Über_Größe", "über_größe"),
    ],
)
def test_an_anchor_is_made_as_github_makes_it(heading: str, anchor: str) -> None:
    assert slug_of(heading) == anchor


def test_links_and_blocks_are_found_where_they_are() -> None:
    text = """# One

[a](b/c.md#d) and `[not](one.md)`, ![picture](../x.png "title"), [`code`](#one) <https://example.org> [w](https://x.y)

```sh
# [no](link.md)
```

## One
[ref]: other.md
````text
```
````
"""
    page = Page("docs/guides/x.md", text)
    assert [(page.target(link), link.anchor, link.line) for link in page.links] == [
        ("docs/guides/b/c.md", "d", 3),
        ("docs/x.png", "", 3),
        ("docs/guides/x.md", "one", 3),
        ("docs/guides/other.md", "", 10),
    ]
    assert page.blocks == [Block("sh", "# [no](link.md)\n", 6), Block("text", "```\n", 12)]
    assert page.anchors == {"one", "one-1"}
    with pytest.raises(ValueError, match=r"x\.md:1: this block does not end"):
        _ = Page("x.md", "```sh\nls\n").blocks


def test_a_program_begins_with_an_import_and_may_be_saved_under_a_name() -> None:
    text = """
Save this
as `shop.py`:

```python
from feed import Feed
```

And this:

```python
import shop

shop.feed
```

```python
print("a fragment")
```
"""
    assert [(program.module, program.saved) for program in programs(Page("docs/a-b.md", text))] == [
        ("docs_a_b_6", "shop"),
        ("docs_a_b_12", None),
    ]
