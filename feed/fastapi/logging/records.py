"""Log records made of names and values, and the removal of tokens from text that is logged."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any

# Our own lines contain no query and no headers. This is for the lines of other code, and for tracebacks.
_TOKEN = re.compile(r"(?i)(token=|bearer\s+)[^\s&;,'\"]+|\beyJ[\w-]+\.[\w-]+\.[\w-]*")


def without_tokens(text: str) -> str:
    """Replace everything in `text` that looks like a token by `***`."""
    return _TOKEN.sub(lambda found: f"{found[1] or ''}***", text)


# Default attributes of a record, without a source location: our records never show one.
_WITHOUT_PLACE = {**vars(logging.makeLogRecord({})), "process": None, "thread": None}
_LEVEL_NAMES = {level: logging.getLevelName(level) for level in (10, 20, 30, 40, 50)}


class FactRecord(logging.LogRecord):
    """A record of names and values. It is made as fast as possible, because there is one for each request.

    It works with any handler: a handler may look at all attributes of a record, or copy them to another record.
    """

    facts: Mapping[str, Any]

    def __init__(self, name: str, level: int, facts: Mapping[str, Any]) -> None:
        # The base's constructor is not called: it takes twice as long as all the rest of a line.
        created = time.time()
        self.__dict__ = {
            **_WITHOUT_PLACE,
            "name": name,
            "levelno": level,
            "levelname": _LEVEL_NAMES[level],
            "created": created,
            "msecs": created % 1 * 1000,
            "msg": _Words(facts),
            "facts": facts,
        }


class _Words:
    """The facts as text, a value with its name unless it needs none. The text is made only if a handler asks for it."""

    __slots__ = ("_facts",)

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def __str__(self) -> str:
        return " ".join([_text(name, value) for name, value in self._facts.items()])


_BARE = frozenset({"event", "method", "path", "status"})


def _text(name: str, value: Any) -> str:
    if isinstance(value, str):
        if " " in value or '"' in value or not value:
            value = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, list):
        value = ",".join(value)
    elif value is None:
        value = "-"
    return f"{value}" if name in _BARE else f"{name}={value}"
