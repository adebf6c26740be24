"""What a caller may give in code: the checks and the words that the library and the clients share.

A value of the wrong type is a mistake in a program, and raises `TypeError`. A value of the right type that breaks a
rule raises `Invalid`, as it does over HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum

from feed.errors import Invalid

BYTES = (bytes, bytearray, memoryview)

_KEY = re.compile(r"[!-~]{1,255}")


def check_text(value: object, what: str) -> str:
    """Return the value itself. Raises `TypeError` for what is not a text."""
    if isinstance(value, str):
        return value
    raise TypeError(f"{what} has to be a str, not {type(value).__name__}{_cure(value)}")


def check_id(value: object, what: str) -> str:
    """Return the id itself, which may be any text. Raises `TypeError` for what is not a text."""
    if isinstance(value, str):
        return value
    raise TypeError(f"{what} has to be an id, which is a str such as event.id, not {type(value).__name__}")


def check_key(value: object, what: str = "key") -> str:
    """Return the idempotency key itself. Raises `Invalid` unless it is 1 to 255 visible ASCII characters, `TypeError`
    for what is not a text."""
    if not _KEY.fullmatch(key := check_text(value, what)):
        raise Invalid(what, "must be 1 to 255 visible ASCII characters")
    return key


def _cure(value: object) -> str:
    if isinstance(value, (bytes, bytearray)):
        return ": write .decode() after it"
    if isinstance(value, Enum):
        return ": write .value after it"
    return "" if value is None or isinstance(value, Iterable) else ": write str(…) around it"
