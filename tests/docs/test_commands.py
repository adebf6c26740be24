"""The commands that pages show: each is one that there is, with options that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from feed_server.cli.main import app
from tests.support.paths import DOCS, README, ROOT

PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

GROUP: Any = typer.main.get_command(app)

_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(rf"(?<!`)`(feed (?:{'|'.join(GROUP.commands)})\b[^`\n]*)`(?!`)")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_COMMAND = re.compile(r"(?:^|[(|;&]|[A-Z]=\S+) *feed ([a-z]+)([^\n|)&;]*)", re.MULTILINE)
_OPTION = re.compile(r"(?<=\s)--[a-z][a-z-]*")


def shown(page: Path) -> list[tuple[str, list[str]]]:
    """The commands of a page's blocks and code spans, each with its options."""
    text = page.read_text(encoding="utf-8")
    code = [_COMMENT.sub("", block.replace("\\\n", " ")) for block in _BLOCK.findall(text)]
    code += _SPAN.findall(text)
    return [
        (name, _OPTION.findall(rest.partition(" -- ")[0])) for part in code for name, rest in _COMMAND.findall(part)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=lambda page: page.name)
def test_every_command_that_a_page_shows_is_there_with_its_options(page: Path) -> None:
    faults = []
    for name, options in shown(page):
        if name not in GROUP.commands:
            faults.append(f"feed {name}")
            continue
        known = {option for parameter in GROUP.commands[name].params for option in parameter.opts} | {"--help"}
        faults += [f"feed {name} {option}" for option in options if option not in known]
    assert faults == []


def test_commands_are_found_where_they_are() -> None:
    found = [name for page in PAGES if page.exists() for name, _ in shown(page)]
    assert {"serve", "publish", "tail", "token", "doctor", "bench", "demo"} <= set(found)
