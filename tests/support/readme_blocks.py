"""What the README shows between fences, for the tests that run it as it stands there."""

from __future__ import annotations

import re

from tests.support.paths import README


def section(title: str) -> str:
    """A section of the README, with those below it."""
    text = README.read_text()
    heading = re.search(rf"^(#+) {re.escape(title)}\n", text, re.MULTILINE)
    assert heading, f"the README has no section {title!r}"
    return re.split(rf"^#{{1,{len(heading[1])}}} ", text[heading.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def blocks(title: str, language: str = "python") -> list[str]:
    """The blocks of a language in a section, in their order."""
    found = re.findall(rf"^```{language}\n(.*?)^```", section(title), re.DOTALL | re.MULTILINE)
    assert found, f"the README shows no {language} in {title!r}"
    return found
