"""Say why a value does not fit its model. The words are our own: pydantic's change between releases."""

from __future__ import annotations

from typing import Any, get_args

from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

_KNOWN = frozenset(get_args(ErrorType))

_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is not a field here",
    "none_required": "has to be null",
    "bool_type": "has to be true or false",
    "bool_parsing": "has to be true or false",
    "finite_number": "has to be a finite number",
    "string_not_ascii": "has to be ASCII",
    "greater_than": "has to be more than {gt}",
    "greater_than_equal": "has to be at least {ge}",
    "less_than": "has to be less than {lt}",
    "less_than_equal": "has to be at most {le}",
    "multiple_of": "has to be a multiple of {multiple_of}",
    "string_too_short": "has to have at least {min_length} characters",
    "string_too_long": "has to have at most {max_length} characters",
    "bytes_too_short": "has to have at least {min_length} bytes",
    "bytes_too_long": "has to have at most {max_length} bytes",
    "too_short": "has to have at least {min_length} items",
    "too_long": "has to have at most {max_length} items",
    "string_pattern_mismatch": "has to match {pattern}",
    "literal_error": "has to be {expected}",
    "enum": "has to be {expected}",
    "union_tag_invalid": "has to have one of {expected_tags} in its field {discriminator}",
    "union_tag_not_found": "has to name its kind in the field {discriminator}",
    "date_past": "has to be in the past",
    "datetime_past": "has to be in the past",
    "date_future": "has to be in the future",
    "datetime_future": "has to be in the future",
    "timezone_aware": "has to have a time zone",
    "timezone_naive": "may not have a time zone",
    "decimal_max_digits": "has to have at most {max_digits} digits",
    "decimal_max_places": "has to have at most {decimal_places} digits after the point",
    "decimal_whole_digits": "has to have at most {whole_digits} digits before the point",
    "url_scheme": "has to be a URL that begins with {expected_schemes}",
    "url_too_long": "has to be a URL of at most {max_length} characters",
    "uuid_version": "has to be a UUID of version {expected_version}",
    "recursion_depth_exceeded": "is nested too deeply",
}

_KINDS = {  # by the beginning of pydantic's error code, longer ones first
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
    """Say what is wrong in one place. Messages of the model's own code are passed on as they are."""
    code = error["type"]
    facts: dict[str, Any] = error.get("ctx", {})
    if code in ("value_error", "assertion_error"):
        return str(facts["error"])
    if code not in _KNOWN:  # the code and the words are those of the model's author
        return error["msg"]
    try:
        if (words := _WORDS.get(code)) is not None:
            return words.format(**facts)
    except LookupError:  # another release of pydantic, with other facts
        pass
    kind = next((kind for begin, kind in _KINDS.items() if code.startswith(f"{begin}_")), None)
    return "does not fit" if kind is None else f"has to be {kind}"
