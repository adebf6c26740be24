"""What schemathesis, in a process of its own, has to know beyond `/openapi.json`: `tests.test_schema` names this module
in SCHEMATHESIS_HOOKS.

- Streams have no end, so a subscription is asked for as history (`Accept: application/json`), and no page waits longer
  than a moment (`wait`).
- The formats of `web/openapi.py` (topic, pattern, type) and NDJSON have rules that no schema can say; here they are
  made so that they are valid, and what is accepted shows it.
- A key belongs to one request: what is sent as valid data has a fresh one each time.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

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
        wait = (case.query or {}).get("wait")
        if isinstance(wait, int | float) and not isinstance(wait, bool) and 0 < wait <= 60:
            case.query["wait"] = _MOMENT
    if case.meta is not None and case.meta.generation.mode.is_positive:
        _mend(case)
    elif case.meta is not None and "`format`" in (case.meta.phase.data.description or ""):
        _spoil(case)


def _mend(case: Any) -> None:
    """Make valid what schemathesis takes for valid: it does not keep to a format everywhere, and takes the pattern that
    reading calls `topic` for a topic to publish to."""
    publishes = case.method.upper() == "POST"
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = f"{os.getpid()}-{next(_keys)}"
    _mend_member(case.path_parameters, "topic", check_topic if publishes else check_pattern)
    _mend_member(case.query, "topic", check_pattern)
    _mend_member(case.query, "type", check_type)
    for envelope in _envelopes_of(case):
        _mend_member(envelope, "topic", check_topic)
        _mend_member(envelope, "type", check_type)


def _spoil(case: Any) -> None:
    """Make invalid what schemathesis takes for a text that is not of its format: it cannot know."""
    for envelope in _envelopes_of(case):
        envelope["topic"] = "no//topic"


def _envelopes_of(case: Any) -> list[dict[str, Any]]:
    bodies = case.body if isinstance(case.body, list) else [case.body]
    return [body for body in bodies if isinstance(body, dict) and case.path == "/events"]


def _mend_member(values: Any, name: str, check: Callable[[str], str]) -> None:
    value = (values or {}).get(name)
    if isinstance(value, list):
        values[name] = [item if _is_valid(check)(item) else "mended" for item in value]
    elif value is not None and not _is_valid(check)(unquote(value)):
        values[name] = "mended"
