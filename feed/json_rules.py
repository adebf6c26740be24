"""The rules for JSON, and the words for what is wrong with a text that breaks them.

The words of a parser change with its releases, and some of them repeat the data. So the parser only finds that there is
a fault, and this module says which, with nothing but the standard library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from feed.json_values import NoForm, json_form, with_text_keys

MAX_DEPTH = 100
"""The most levels of nested arrays and objects that JSON may have here: many readers' parsers fail on more."""

TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"

BOM = b"\xef\xbb\xbf"
"""The byte order mark that some writers put before a text, and a reader of JSON may ignore (RFC 8259, 8.1)."""

_SURROGATE = "a lone surrogate: half of a pair such as \\ud83d\\ude00"
_EXAMINED = 256 << 10  # bytes: finding the place in more would block the event loop for the sake of a bad request
_LINE_ENDS_OF_OTHERS = [(end.encode(), b"\\u%04x" % ord(end)) for end in "\x85\u2028\u2029"]
_SPACE = " \t\r\n"
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def json_fault(raw: bytes) -> str:
    """Return the reason why these bytes are not JSON. The words repeat at most one of the bytes."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return not_utf_8(raw, error)
    if not text.strip(_SPACE):
        return "it is empty"
    if len(raw) > _EXAMINED:
        return "it breaks off, or contains what JSON does not allow there"
    try:
        value = json.loads(text, parse_int=str, parse_float=_finite, parse_constant=_no_constant)
    except _Number as found:
        return str(found)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip(_SPACE)):
            return "it breaks off before its end"
        return f"line {error.lineno}, column {error.colno}: JSON does not allow what begins there"
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
    """Return whether a text contains characters that end a line for many readers, such as Python's `str.splitlines` and
    httpx's `iter_lines`, though neither in JSON nor in SSE."""
    # Python knows of each text whether it is ASCII, as most texts are: for them this costs nothing.
    return not text.isascii() and ("\u2028" in text or "\u2029" in text or "\x85" in text)


def spare_readers(raw: bytes) -> bytes:
    """Return our own JSON with those characters escaped, which can only stand in its strings."""
    for character, escaped in _LINE_ENDS_OF_OTHERS:
        raw = raw.replace(character, escaped)
    return raw


def not_utf_8(raw: bytes, error: UnicodeDecodeError) -> str:
    """Say where bytes are not UTF-8."""
    return f"not UTF-8: byte {error.start} is {raw[error.start]:#04x}"


def is_too_deep(raw: bytes) -> bool:
    """Return whether valid JSON is nested deeper than `MAX_DEPTH`."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", raw).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # the innermost level of everything, at the speed of C
    return bool(brackets)


class _Number(Exception):
    """A number that JSON does not have, or that few readers can represent."""


def _finite(text: str) -> str:
    if float(text) in (float("inf"), -float("inf")):
        raise _Number("a number beyond the range of a double, such as 1e400")
    return text


def _no_constant(name: str) -> NoReturn:
    raise _Number(f"{name} is not a number in JSON")


def _has_surrogate(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
