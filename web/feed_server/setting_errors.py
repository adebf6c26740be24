"""What is wrong with the settings, in words for the person who has set them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from feed_server.settings import Settings, option_and_variable, variable

_LONGEST_NAME = 100  # characters of a name that are repeated and compared
_OTHERS = ("FEED_URL", "FEED_TOKEN", "FEED_SOAK")  # of the other commands, and of the tests


def unknown_variables(environment: Iterable[str]) -> Iterator[str]:
    """Yield a line for each variable that looks like a setting but is not one: a key whose name is mistyped leaves a
    server open."""
    known = {*map(variable, Settings.model_fields), *_OTHERS}
    # In upper and lower case, as pydantic-settings reads them.
    for name in sorted(name for name in environment if name.upper().startswith("FEED_") and name.upper() not in known):
        # Without the prefix, which they have in common.
        alike = difflib.get_close_matches(name.upper()[5:_LONGEST_NAME], [each[5:] for each in known], 1)
        yield f"{name[:_LONGEST_NAME]} is not a setting" + (f": did you mean FEED_{alike[0]}?" if alike else "")


def problems(error: ValidationError) -> Iterator[str]:
    """Yield a line for each problem. It names the setting and does not repeat its value."""
    for problem in error.errors(include_url=False, include_input=False):
        text = _problem(problem)
        if problem["loc"]:
            text = f"{option_and_variable(str(problem['loc'][0]))}: {text}"
        yield text


NO_FLAG = "must be true or false: 1 or 0"


def _problem(problem: ErrorDetails) -> str:
    """Describe a problem in our own words instead of pydantic's."""
    bounds = problem.get("ctx", {})
    match problem["type"]:
        case "int_parsing" | "int_type" | "int_from_float" | "int_parsing_size":
            return "must be a whole number, such as 10"
        case "float_parsing" | "float_type" | "finite_number":
            return "must be a number, such as 10"
        case "greater_than_equal":
            return f"must be at least {bounds['ge']:,}"
        case "greater_than":
            return f"must be more than {bounds['gt']:,}"
        case "less_than_equal":
            return f"must be at most {bounds['le']:,}"
        case "bool_parsing" | "bool_type":
            return NO_FLAG
        case "literal_error":
            return f"must be one of {bounds['expected'].replace(chr(39), '')}"
        case "string_too_short":
            return "must not be empty"
        case "string_too_long":
            return f"must be at most {bounds['max_length']:,} characters long"
        case "value_error":
            return str(bounds["error"])
    return "has a value that this setting does not take"
