"""The sections of the pages, and the blocks between fences in them, for the tests that run them as they stand there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.support.paths import DOCS

_HEADING = re.compile(r"(#{1,6}) (.*)")
_FENCE = re.compile(r"```(\S*)")


def section(page: str, title: str) -> str:
    """Return a section of a page below `docs/`, such as `guides/curl.md`, with the sections below it."""
    level, lines = 0, []
    for line, is_code in _lines(page):
        heading = None if is_code else _HEADING.fullmatch(line)
        if heading and level and len(heading[1]) <= level:
            break
        if level:
            lines.append(line)
        elif heading and heading[2] == title:
            level = len(heading[1])
    assert level, f"docs/{page} has no section {title!r}"
    return "\n".join(lines) + "\n"


def blocks(page: str, title: str, language: str = "python") -> list[str]:
    """Return the blocks of one language in a section, in their order."""
    found = re.findall(rf"^```{language}\n(.*?)^```", section(page, title), re.DOTALL | re.MULTILINE)
    assert found, f"docs/{page} shows no {language} in {title!r}"
    return found


def _lines(page: str) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether the line is part of a block: a comment of Python or a shell looks like a heading."""
    is_code = False
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        fence = _FENCE.match(line)
        yield line, is_code or fence is not None
        is_code ^= fence is not None
