"""What schemathesis, in a process of its own, has to know beyond `/openapi.json`: `tests.test_schema` names this module
in SCHEMATHESIS_HOOKS.

- Streams have no end, so a subscription is asked for as history (`Accept: application/json`), and no page waits longer
  than a moment (`wait`).
- The formats of `web/openapi.py` (topic, pattern, type) and NDJSON have rules that no schema can say; here they are
  made so that they are valid, and what is accepted shows it.
- A key belongs to one request: what is sent as valid data has a fresh one each time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import strategies as st

from feed import Invalid
from feed.event import check_pattern, check_topic, check_type

_MOMENT = 0.01  # seconds
_keys = itertools.count()


def _is_valid(check: Callable[[str], str]) -> Callable[[str], bool]:
    def valid(text: str) -> bool:
        try:
            check(text)
        except Invalid:
            return False
        return True

    return valid


# `?`, `#` and `%` are for the client to encode, which is tried in `tests.test_fuzz`.
_segments = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs", "Cn", "Co", "Zs", "Zl", "Zp"), exclude_characters="*/"),
    min_size=1,
    max_size=12,
)
_topics = st.lists(_segments, min_size=1, max_size=4).map("/".join).filter(_is_valid(check_topic))
_patterns = (
    st.tuples(st.lists(_segments | st.just("*"), max_size=3), _segments | st.sampled_from(["*", "**"]))
    .map(lambda parts: "/".join([*parts[0], parts[1]]))
    .filter(_is_valid(check_pattern))
)
_types = _segments.filter(_is_valid(check_type))
_envelopes = st.fixed_dictionaries(
    {"topic": _topics, "data": st.none() | st.integers(-(2**53), 2**53) | st.text(max_size=20)},
    optional={"type": _types},
)

schemathesis.openapi.format("topic", _topics)
schemathesis.openapi.format("topic-pattern", _patterns)
schemathesis.openapi.format("event-type", _types)
schemathesis.openapi.media_type(
    "application/x-ndjson",
    st.lists(_envelopes, min_size=1, max_size=5).map(lambda lines: "\n".join(map(json.dumps, lines)).encode()),
)


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """See above."""
    if case.method.upper() == "GET" and case.path.startswith("/events"):
        case.headers["Accept"] = "application/json"
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if float(case.query["wait"]) <= 60:
                case.query["wait"] = str(min(_MOMENT, float(case.query["wait"])))
    if case.meta is not None and case.meta.generation.mode.is_positive and "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = f"{os.getpid()}-{next(_keys)}"
