"""What is wrong with the settings, in words for whoever has set them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from feed_server.settings import Settings, option_and_variable, variable

_LONGEST_NAME = 100  # characters that are said back, and compared
_OTHERS = ("FEED_URL", "FEED_TOKEN", "FEED_SOAK")  # of the other commands, and of the tests


def unknown_variables(environment: Iterable[str]) -> Iterator[str]:
    """A line for each of these variables that looks like a setting and is none: a key whose name is mistyped leaves a
    server open."""
    known = {*map(variable, Settings.model_fields), *_OTHERS}
    # Names are taken in any case, as pydantic-settings takes them.
    for name in sorted(name for name in environment if name.upper().startswith("FEED_") and name.upper() not in known):
        # Without the prefix, in which all of them are alike.
        alike = difflib.get_close_matches(name.upper()[5:_LONGEST_NAME], [each[5:] for each in known], 1)
        yield f"{name[:_LONGEST_NAME]} is no setting" + (f": did you mean FEED_{alike[0]}?" if alike else "")


def problems(error: ValidationError) -> Iterator[str]:
    """What is wrong with the settings, each in a line that names the setting and holds nothing of its value."""
    for problem in error.errors(include_url=False, include_input=False):
        text = _problem(problem)
        if problem["loc"]:
            text = f"{option_and_variable(str(problem['loc'][0]))}: {text}"
        yield text


NO_FLAG = "is true or false: 1 or 0"


def _problem(problem: ErrorDetails) -> str:
    """What is wrong, in words that are not pydantic's."""
    bounds = problem.get("ctx", {})
    match problem["type"]:
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return "is a whole number, such as 10"
        case "float_parsing" | "float_type" | "finite_number":
            return "is a number, such as 10"
        case "greater_than_equal":
            return f"is {bounds['ge']:,} at least"
        case "greater_than":
            return f"is more than {bounds['gt']:,}"
        case "less_than_equal":
            return f"is {bounds['le']:,} at most"
        case "bool_parsing" | "bool_type":
            return NO_FLAG
        case "literal_error":
            return f"is one of {bounds['expected'].replace(chr(39), '')}"
        case "string_too_short":
            return "is empty"
        case "string_too_long":
            return f"is {bounds['max_length']:,} characters long at most"
        case "value_error":
            return str(bounds["error"])
    return "is not what this setting takes"
