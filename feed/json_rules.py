"""What JSON may be here, and in our own words what is wrong with what is none.

A parser's words change with its release, and some repeat what they stumble over. So the parser in use only says that
there is a fault, and this says which: by looking for itself, with nothing but the standard library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from feed.json_values import NoForm, json_form, with_text_keys

MAX_DEPTH = 100
"""Levels of nested arrays and objects that JSON may have here: many readers' parsers break on more."""

TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"

BOM = b"\xef\xbb\xbf"
"""What some writers put before a text, and a reader of JSON may pass over (RFC 8259, 8.1)."""

_SURROGATE = "a lone surrogate: half of a pair such as \\ud83d\\ude00"
_EXAMINED = 256 << 10  # bytes: to find the place in more would hold everybody up for the sake of a bad request
_LINE_ENDS_OF_OTHERS = [(end.encode(), b"\\u%04x" % ord(end)) for end in "\x85\u2028\u2029"]
_SPACE = " \t\r\n"
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def json_fault(raw: bytes) -> str:
    """Why no reader could take this for JSON. The words repeat nothing of it but one byte."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return not_utf_8(raw, error)
    if not text.strip(_SPACE):
        return "it is empty"
    if len(raw) > _EXAMINED:
        return "it breaks off, or holds what cannot stand there"
    try:
        value = json.loads(text, parse_int=str, parse_float=_finite, parse_constant=_no_constant)
    except _Number as found:
        return str(found)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip(_SPACE)):
            return "it breaks off before its end"
        return f"line {error.lineno}, column {error.colno}: what begins there cannot stand there"
    except RecursionError:
        return TOO_DEEP
    if is_too_deep(raw):
        return TOO_DEEP
    return _SURROGATE if _has_surrogate(value) else "it cannot be read"


def dump_json(value: object) -> bytes:
    """Return a Python value as JSON, on one line. `feed.json_values` says what becomes of dates, models and others.

    Raises `ValueError` for a value that JSON has no form for, and says why.
    """
    try:
        try:
            text = _dumped(value, json_form)
        except TypeError:  # a key that is neither text nor a number
            text = _dumped(with_text_keys(value), lambda part: with_text_keys(json_form(part)))
        return spare_readers(text.encode()) if ends_lines(text) else text.encode()
    except NoForm:
        raise
    except UnicodeEncodeError:
        raise ValueError(_SURROGATE) from None
    except ValueError:
        raise ValueError("a number that is not finite, or a value that contains itself") from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def _dumped(value: object, form: Callable[[Any], object]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=form)


def ends_lines(text: str) -> bool:
    """Whether a text holds what ends a line for many who read line by line, though neither in JSON nor in SSE: for
    Python's `str.splitlines`, and with it for httpx's `iter_lines`."""
    # Python knows of each text whether it is ASCII: for what most are this costs nothing.
    return not text.isascii() and ("\u2028" in text or "\u2029" in text or "\x85" in text)


def spare_readers(raw: bytes) -> bytes:
    """JSON of our own making in which that is escaped, as it stands in strings only."""
    for character, escaped in _LINE_ENDS_OF_OTHERS:
        raw = raw.replace(character, escaped)
    return raw


def not_utf_8(raw: bytes, error: UnicodeDecodeError) -> str:
    """Where bytes are no text."""
    return f"not UTF-8: byte {error.start} is {raw[error.start]:#04x}"


def is_too_deep(raw: bytes) -> bool:
    """Whether valid JSON is nested deeper than `MAX_DEPTH`."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", raw).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # the innermost level of everything, at the speed of C
    return bool(brackets)


class _Number(Exception):
    """A number that JSON does not have, or that few readers can hold."""


def _finite(text: str) -> str:
    if float(text) in (float("inf"), -float("inf")):
        raise _Number("a number beyond the range of a double, such as 1e400")
    return text


def _no_constant(name: str) -> NoReturn:
    raise _Number(f"{name} is no number of JSON")


def _has_surrogate(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
