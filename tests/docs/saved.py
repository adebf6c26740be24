"""The files that a reader of a page saves: the blocks that follow a sentence with "as `NAME`"."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.paths import ROOT

_NAME = re.compile(r"\bas `([\w.-]+\.\w+)`")


def section(page: str, title: str = "") -> str:
    """Return the text of a page, or of one of its sections with those below it."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if not title:
        return text
    level, is_code, lines = 0, False, list[str]()
    for line in text.splitlines():
        is_code ^= line.startswith("```")
        heading = None if is_code else re.fullmatch(r"(#+) (.*)", line)
        if heading and level and len(heading[1]) <= level:
            break
        if heading and heading[2] == title:
            level = len(heading[1])
        if level:
            lines.append(line)
    assert level, f"{page} has no section {title!r}"
    return "\n".join(lines) + "\n"


def blocks(page: str, language: str, title: str = "") -> list[str]:
    """Return the blocks of one language, in their order."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", section(page, title), re.DOTALL | re.MULTILINE)
    assert found, f"{page} shows no {language} in {title!r}"
    return found


def saved(page: str, title: str = "") -> dict[str, str]:
    """Return what a reader saves, by the name of the file."""
    files: dict[str, str] = {}
    before = ""
    for part in re.split(r"^(```\w+\n.*?^```)$", section(page, title), flags=re.DOTALL | re.MULTILINE):
        if part.startswith("```"):
            paragraph = before.rstrip().rsplit("\n\n", 1)[-1]
            if name := _NAME.search(paragraph):
                files[name[1]] = part.split("\n", 1)[1].removesuffix("```")
        before = part
    assert files, f"{page} has nothing to save in {title!r}"
    return files


def save(folder: Path, files: dict[str, str]) -> None:
    """Do as the reader does."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
