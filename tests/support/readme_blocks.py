"""What the README shows between fences, for the tests that run it as it stands there."""

from __future__ import annotations

import re

from tests.support.paths import README


def blocks(section: str, language: str) -> list[str]:
    """The blocks of a language in a section, in their order."""
    body = README.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", body, re.DOTALL | re.MULTILINE)
