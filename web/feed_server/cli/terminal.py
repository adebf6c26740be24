"""What the command line prints for people: an error is one line on standard error, and nothing that somebody else wrote
can steer the terminal."""

from __future__ import annotations

import sys

import typer

from feed_server.logging.formatters import UNSAFE

_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class WrongUse(typer.BadParameter):
    """Exit code 2, and the message as it is."""

    def format_message(self) -> str:
        """The message."""
        return self.message


def say(text: str) -> None:
    """One line on standard error, whatever `text` holds."""
    print(escaped(text), file=sys.stderr, flush=True)


def escaped(text: str) -> str:
    """`text` on one line, without what a terminal would obey."""
    return UNSAFE.sub(lambda found: _ESCAPES.get(found[0]) or _escape(found[0]), text)


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}"


def escaped_json(line: str) -> str:
    """The same for a JSON text, which stays the same JSON: what is escaped can stand in it only inside strings."""
    return UNSAFE.sub(lambda found: _escape(found[0]), line)
