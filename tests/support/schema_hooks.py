"""What schemathesis, in a process of its own, has to know beyond `/openapi.json`: `tests.fastapi_.test_openapi` names
this module in SCHEMATHESIS_HOOKS.

- Streams have no end, so a subscription is asked for as history (`Accept: application/json`), and no page waits longer
  than a moment (`wait`).
- The rules for topics, patterns and types are more than the schemas say: what is sent as valid data is made to keep
  them, so that what is refused of it is a mistake. So it is with NDJSON.
- A condition is refused by what the topic holds; a list of topics and `latest` do not take what a stream does: valid
  data is sent without them.
- A key belongs to one request: what is sent as valid data has a fresh one each time, and a CloudEvent an id.
- In the body of `POST /events` a CloudEvent needs a subject.
- An unknown query parameter is let pass. The coverage phase adds one to numbers that it has written as text, and would
  take those for what was wrong.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import schemathesis
from hypothesis import strategies as st

from feed.event import check_pattern, check_topic, check_type
from tests.support.nonsense import is_valid

_MOMENT = 0.01  # seconds
_NUMBERS = frozenset({"last", "limit", "wait"})  # a type or a topic may be 0, and is text
_keys = itertools.count()


_envelopes = st.fixed_dictionaries(
    {"topic": st.sampled_from(["a", "é/😀"]), "data": st.none() | st.integers(-(2**53), 2**53) | st.text(max_size=20)},
    optional={"type": st.just("created")},
)

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
    for name, value in (case.query or {}).items():
        if name in _NUMBERS and isinstance(value, str) and value.isdecimal() and str(int(value)) == value:
            case.query[name] = int(value)  # it goes over the wire as before
    if case.meta is not None and case.meta.generation.mode.is_positive:
        _mend(case)


def _mend(case: Any) -> None:
    publishes = case.method.upper() in ("POST", "DELETE")
    for values, names in (
        (case.headers, ("If-Match", "If-None-Match")),
        (case.query, ("list", "after_topic", "latest", "every")),
    ):
        for name in names:
            (values or {}).pop(name, None)
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = f"{os.getpid()}-{next(_keys)}"
    if (case.path_parameters or {}).get("topic") is not None:  # percent-encoded already
        topic = _mended(unquote(case.path_parameters["topic"]), check_topic if publishes else check_pattern)
        case.path_parameters["topic"] = quote(topic, safe="")
    _mend_member(case.query, "topic", check_pattern)
    _mend_member(case.query, "type", check_type)
    for envelope in case.body if isinstance(case.body, list) else [case.body]:
        if "cloudevents" in (case.media_type or "") and isinstance(envelope, dict):
            envelope["id"] = f"{os.getpid()}-{next(_keys)}"
            envelope["subject"] = envelope.get("subject") or "a"
            for name in ("datacontenttype", "data_base64"):
                envelope.pop(name, None)
            _mend_member(envelope, "subject", check_topic)
            _mend_member(envelope, "type", check_type)
        elif case.path == "/events" and isinstance(envelope, dict):
            _mend_member(envelope, "topic", check_topic)
            _mend_member(envelope, "type", check_type)
            _mend_terms(envelope)


def _mend_terms(envelope: dict[str, Any]) -> None:
    for name in ("if_match", "if_none_match"):
        envelope.pop(name, None)
    if envelope.get("ttl") is not None:
        envelope["ttl"] = "30s"
    if envelope.get("delete"):
        for name in ("type", "ttl"):
            envelope.pop(name, None)


def _mend_member(values: Any, name: str, check: Callable[[str], str]) -> None:
    value = (values or {}).get(name)
    if isinstance(value, list):
        values[name] = [_mended(item, check) for item in value]
    elif value is not None:
        values[name] = _mended(value, check)


def _mended(text: str, check: Callable[[str], str]) -> str:
    """The text, if need be without what it may not hold."""
    if is_valid(check, text):
        return text
    kept = "".join(character for character in text if is_valid(check, character))[:60]
    return kept if is_valid(check, kept) else "mended"
