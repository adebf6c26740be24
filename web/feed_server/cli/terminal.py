"""What the command line prints for people. An error is one line on standard error, and text from others cannot control
the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import typer

from feed_server.logging.formatters import UNSAFE

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class WrongUse(typer.BadParameter):
    """A wrong command line: exit code 2. The message is printed unchanged."""

    def format_message(self) -> str:
        """Return the message."""
        return self.message


def say(text: str) -> None:
    """Print `text` as one line on standard error, with control characters escaped."""
    print(escaped(text), file=sys.stderr, flush=True)


def escaped(text: str) -> str:
    """Return `text` as one line, with everything escaped that a terminal would obey."""
    return UNSAFE.sub(lambda found: _ESCAPES.get(found[0]) or _escape(found[0]), text)


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}"


def escaped_json(line: str) -> str:
    """Escape a JSON text in the same way. It stays the same JSON: these characters stand only inside its strings."""
    return UNSAFE.sub(lambda found: _escape(found[0]), line)


def show_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table. Its cells are escaped."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(escaped, row))
    Console(highlight=False, markup=False).print(table)
