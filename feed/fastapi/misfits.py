"""What of a value does not fit its model, in our own words: pydantic's change with its release."""

from __future__ import annotations

from typing import Any, get_args

from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

_KNOWN = frozenset(get_args(ErrorType))

_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is no field here",
    "none_required": "has to be null",
    "bool_type": "has to be true or false",
    "bool_parsing": "has to be true or false",
    "finite_number": "has to be a number that is finite",
    "string_not_ascii": "has to be ASCII",
    "greater_than": "has to be more than {gt}",
    "greater_than_equal": "has to be {ge} at least",
    "less_than": "has to be less than {lt}",
    "less_than_equal": "has to be {le} at most",
    "multiple_of": "has to be a multiple of {multiple_of}",
    "string_too_short": "has to have {min_length} characters at least",
    "string_too_long": "has to have {max_length} characters at most",
    "bytes_too_short": "has to have {min_length} bytes at least",
    "bytes_too_long": "has to have {max_length} bytes at most",
    "too_short": "has to have {min_length} items at least",
    "too_long": "has to have {max_length} items at most",
    "string_pattern_mismatch": "has to match {pattern}",
    "literal_error": "has to be {expected}",
    "enum": "has to be {expected}",
    "union_tag_invalid": "has to be one of {expected_tags} in its field {discriminator}",
    "union_tag_not_found": "has to say in its field {discriminator} what it is",
    "date_past": "has to be in the past",
    "datetime_past": "has to be in the past",
    "date_future": "has to be in the future",
    "datetime_future": "has to be in the future",
    "timezone_aware": "has to have a time zone",
    "timezone_naive": "has to have no time zone",
    "decimal_max_digits": "has to have {max_digits} digits at most",
    "decimal_max_places": "has to have {decimal_places} digits after the point at most",
    "decimal_whole_digits": "has to have {whole_digits} digits before the point at most",
    "url_scheme": "has to be a URL that begins with {expected_schemes}",
    "url_too_long": "has to be a URL of {max_length} characters at most",
    "uuid_version": "has to be a UUID of version {expected_version}",
    "recursion_depth_exceeded": "is nested too deeply",
}

_KINDS = {  # by what a code begins with, the longer ones first
    "model": "an object",
    "dataclass": "an object",
    "dict": "an object",
    "mapping": "an object",
    "list": "an array",
    "tuple": "an array",
    "set": "an array",
    "frozen_set": "an array",
    "deque": "an array",
    "named_tuple": "an array",
    "iterable": "an array",
    "string": "text",
    "bytes": "text",
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "complex": "a number",
    "fraction": "a number",
    "datetime": "a date and time, such as 2026-11-21T03:05:00Z",
    "date": "a date, such as 2026-11-21",
    "time_delta": "a duration, such as PT30S",
    "time": "a time, such as 03:05:00",
    "timezone": "a date and time with another offset",
    "uuid": "a UUID",
    "url": "a URL",
}


def misfit(error: ErrorDetails) -> str:
    """What is wrong at one place. What the model's own code says of it is passed on as it is."""
    code = error["type"]
    facts: dict[str, Any] = error.get("ctx", {})
    if code in ("value_error", "assertion_error"):
        return str(facts["error"])
    if code not in _KNOWN:  # a code, and words, of whoever wrote the model
        return error["msg"]
    try:
        if (words := _WORDS.get(code)) is not None:
            return words.format(**facts)
    except LookupError:  # a release of pydantic that tells other facts
        pass
    kind = next((kind for begin, kind in _KINDS.items() if code.startswith(f"{begin}_")), None)
    return "does not fit" if kind is None else f"has to be {kind}"
