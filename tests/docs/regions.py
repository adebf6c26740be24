"""Marked regions of a page, which are written from the code, and tables that keep what was written by hand.

A region begins with a line `<!-- begin: NAME -->` and ends with a line `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

Write = Callable[[str], str]
"""Makes a region's new text; takes the present text, for what is written in it by hand."""

_REGION = re.compile(r"(<!-- begin: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_CELL_END = re.compile(r"(?<!\\)\|")


def rewritten(page: str, regions: Mapping[str, Write]) -> str:
    """Return a page with its regions written anew. Raises `KeyError` for a region that has no writer."""
    return _REGION.sub(lambda found: f"{found[1]}{regions[found[2]](found[3])}{found[4]}", page)


def region_names(page: str) -> list[str]:
    """Return the names of a page's regions, in their order."""
    return [name for _, name, _, _ in _REGION.findall(page)]


def table(present: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, by_hand: str = "") -> str:
    """Return a table. With `by_hand` the table has one more column of this name. Its cells are kept as they are in the
    present text, by the first cell of their row."""
    kept = {cells[0]: cells[-1] for cells in map(_cells, present.splitlines()) if len(cells) == len(head) + 1}
    lines = [[*head, by_hand] if by_hand else head]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        cells = [cell_text(cell) for cell in row]
        lines.append([*cells, kept.get(cells[0], "")] if by_hand else cells)
    return "".join(f"| {' | '.join(line)} |\n".replace("|  |", "| |") for line in lines)


def first_cells(text: str) -> list[str]:
    """Return the first cell of each row of the tables in a text, but not of their heads."""
    rows = [_cells(line) for line in text.splitlines()]
    rules = {number for number, cells in enumerate(rows) if cells and set(cells[0]) == {"-"}}
    heads = {number - 1 for number in rules}
    return [cells[0] for number, cells in enumerate(rows) if cells and number not in rules | heads]


def cell_text(text: str) -> str:
    """Return a text as it may stand in a cell: on one line, and without a bar of its own."""
    return _CELL_END.sub(r"\\|", " ".join(text.split()))


def plain(text: str) -> str:
    """Return a text that is not Markdown as Markdown shows it; what stands between backticks is code there, too."""
    return "`".join(
        part if number % 2 else re.sub(r"([*<])", r"\\\1", part) for number, part in enumerate(text.split("`"))
    )


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in _CELL_END.split(line)[1:-1]] if line.startswith("|") else []
