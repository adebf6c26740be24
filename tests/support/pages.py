"""The pages: their headings, links and blocks, as GitHub and the site's generator read them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.support.paths import ROOT

_FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
_HEADING = re.compile(r"^#{1,6} +(.*?) *#* *$")
_CODE_SPAN = re.compile(r"(`+)(.+?)(?<!`)\1(?!`)")
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^()\s>]+)>?(?: +\"[^\"]*\")?\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]: +<?(\S+?)>?(?: .*)?$")
_TAG_ANCHOR = re.compile(r"<[^>]+\b(?:id|name)=\"([^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """What stands between two fences. `line` is that of its first line in the page, counted from 1."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Link:
    """A link to a file of the repository: `path` as it is written, '' for the page itself, and `anchor`, '' for none.

    `line` is counted from 1."""

    path: str
    anchor: str
    line: int


@dataclass(frozen=True)
class Page:
    """A page of Markdown. `name` is its path in the repository."""

    name: str
    text: str

    @cached_property
    def blocks(self) -> list[Block]:
        """The fenced blocks, in their order. Raises `ValueError` for a fence that is not closed."""
        found: list[Block] = []
        opened: tuple[str, str, int] | None = None
        lines: list[str] = []
        for number, line in enumerate(self.text.splitlines(), 1):
            fence = _FENCE.match(line)
            if opened is None:
                if fence:
                    opened, lines = (fence[2], fence[3].strip(), number), []
            elif fence and fence[2].startswith(opened[0]) and not fence[3].strip():
                found.append(Block(opened[1], "".join(f"{each}\n" for each in lines), opened[2] + 1))
                opened = None
            else:
                lines.append(line)
        if opened is not None:
            raise ValueError(f"{self.name}:{opened[2]}: this block does not end")
        return found

    @cached_property
    def prose(self) -> list[tuple[int, str]]:
        """The lines that are not in a block, with their numbers."""
        in_blocks = {
            block.line + place for block in self.blocks for place in range(-1, len(block.text.splitlines()) + 1)
        }
        return [(number, line) for number, line in enumerate(self.text.splitlines(), 1) if number not in in_blocks]

    @cached_property
    def code_spans(self) -> list[tuple[int, str]]:
        """What stands between backticks within a line, with the line's number."""
        return [(number, match[2].strip()) for number, line in self.prose for match in _CODE_SPAN.finditer(line)]

    @cached_property
    def anchors(self) -> set[str]:
        """Where links can lead to: an anchor for each heading, as GitHub makes them, and those of HTML tags."""
        found: set[str] = set()
        seen: Counter[str] = Counter()
        for _, line in self.prose:
            found.update(_TAG_ANCHOR.findall(line))
            if heading := _HEADING.match(line):
                slug = slug_of(heading[1])
                found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
                seen[slug] += 1
        return found

    @cached_property
    def links(self) -> list[Link]:
        """The links that lead to files of the repository, or to places in the page."""
        return [
            Link(*_parted(target), number) for number, target in self._targets() if not re.match(r"[a-z]+:", target)
        ]

    def _targets(self) -> Iterator[tuple[int, str]]:
        for number, line in self.prose:
            without_code = _CODE_SPAN.sub(lambda match: "x" * len(match[0]), line)
            for pattern in (_LINK, _REFERENCE):
                for match in pattern.finditer(without_code):
                    yield number, match[1]

    def target(self, link: Link) -> str:
        """Give the path in the repository that a link leads to. It may lead out of the repository: `..`."""
        if not link.path:
            return self.name
        parts: list[str] = []
        for part in [*self.name.split("/")[:-1], *link.path.split("/")]:
            if part == ".." and parts and parts[-1] != "..":
                parts.pop()
            elif part not in {"", "."}:
                parts.append(part)
        return "/".join(parts)


def slug_of(heading: str) -> str:
    """Give the anchor of a heading, as GitHub does: letters, digits, `-` and `_` stay, a space becomes `-`."""
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    heading = re.sub(r"(?<![\w*])\*+(.+?)\*+(?![\w*])", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def read_pages(root: Path = ROOT) -> dict[str, Page]:
    """Read all pages: those below `docs/`, and those beside the README."""
    paths = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    names = sorted(path.relative_to(root).as_posix() for path in paths)
    return {name: Page(name, (root / name).read_text(encoding="utf-8")) for name in names}


def _parted(target: str) -> tuple[str, str]:
    path, _, anchor = target.partition("#")
    return path, anchor
