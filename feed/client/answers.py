"""The meaning of an answer, which depends on who has given it.

Proxies stand between a client and a feed, and answer while the feed is away: with a 404 for a route that they do not
know yet, a 403 of a filter, a login page or a redirect. None of that is the feed's answer, and none of it is final. The
feed's own refusals are final, and are problem documents (RFC 9457).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import httpx
import orjson

from feed.client.errors import Again, Refused
from feed.client.waits import LONGEST_OBEYED
from feed.errors import InsufficientStorage, NoEvents, PreconditionFailed
from feed.media_types import JSON, PROBLEM, SSE

# Statuses after which the next attempt may work.
_AGAIN = frozenset({408, 425, 429, *range(500, 600)}) - {501, 505, 507}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_WORDS = 300  # characters of what others say
_LONGEST = 1e9  # seconds: no wait is longer
_PLACE = re.compile("event ([0-9]{1,9}): ")

Refusal = Refused | NoEvents | PreconditionFailed | InsufficientStorage
"""The feed's own refusal: the error that the library raises for what a topic has, else `Refused`."""


class Content(Protocol):
    """The part of an answer's body that was read."""

    @property
    def content(self) -> bytearray:
        """The bytes that were read."""


def is_json(headers: Mapping[str, str]) -> bool:
    """Return whether an answer claims to be JSON, as a feed's answers are on success, or claims nothing."""
    return _media_type(headers) in {JSON, ""}


def is_stream(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether an answer claims to be a stream."""
    return status == 200 and _media_type(headers) == SSE


def refusal(
    status: int, phrase: str, headers: Mapping[str, str], body: Content, *, renewable: bool = False
) -> Again | Refusal:
    """Return the error for an answer that is not a success. With `renewable` a 401 may be due to a token that has just
    expired."""
    document = _document(body)
    detail = document.get("detail")
    reason = (detail if isinstance(detail, str) else "") or phrase or "no reason given"
    if not is_own(status, headers, body) and not _is_end(status, headers):
        return Again(f"{status}: {reason[:_MOST_WORDS]}{_whose(status, headers)}", retry_after(headers))
    if status in _AGAIN or (status == 401 and renewable):
        return Again(f"{status}: {reason}", retry_after(headers))
    return _of_topic(status, reason, document) or Refused(status, reason)


def _of_topic(status: int, reason: str, document: Mapping[str, Any]) -> Refusal | None:
    """Return the error that says what a topic has, None if the feed refuses for another reason."""
    topic, current = document.get("topic"), document.get("current")
    if not isinstance(topic, str):
        return None
    found = _PLACE.match(reason)
    place = None if found is None else int(found[1])
    match status:
        case 404:
            return NoEvents(topic, place)
        case 412:
            return PreconditionFailed(topic, current if isinstance(current, str) else None, place)
        case 507:
            return InsufficientStorage(topic, place)
    return None


def is_own(status: int, headers: Mapping[str, str], body: Content) -> bool:
    """Return whether the feed itself refuses: with a problem document that names the status it came with."""
    said = _document(body).get("status")
    return _media_type(headers) == PROBLEM and type(said) is int and said == status


def retry_after(headers: Mapping[str, str]) -> float:
    """Return for how many seconds the server asks to stay away, as a number or as a date (RFC 9110, 10.2.3).

    The result is 0 if the server does not ask, if the header cannot be read, and for a time that is over.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value) < 7 else 0.0  # a longer number cannot be meant
    until = _moment(value)
    if until is None:
        return 0.0
    by_our_clock, sent = until - time.time(), _moment(headers.get("date", ""))
    seconds = by_our_clock if sent is None else until - sent  # by the clock of the server that wrote both
    if seconds > LONGEST_OBEYED:
        seconds = min(seconds, by_our_clock)  # a cache may have kept the answer for long
    return min(max(0.0, seconds), _LONGEST)


def _is_end(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether the answer tells an `EventSource` not to come back."""
    return status == 204 and _media_type(headers) == SSE


def _whose(status: int, headers: Mapping[str, str]) -> str:
    """Return why an answer is not taken as final, for the end of a sentence."""
    if status in _REDIRECTS:
        return f", to {_place(headers.get('location', ''))}; redirects are not followed"
    if status in _AGAIN:
        return ""
    return ", which is not an answer of the feed: a proxy gave it, or the URL is wrong"


def _place(location: str) -> str:
    """Return a URL without the parts that may be secret."""
    try:
        url = httpx.URL(location)
    except (httpx.InvalidURL, UnicodeError):
        return "nowhere"
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))[:_MOST_WORDS] or "nowhere"


def _media_type(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _document(body: Content) -> Mapping[str, Any]:
    try:
        document = orjson.loads(bytes(body.content))
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _moment(text: str) -> float | None:
    """Return an HTTP date in seconds since 1970, also one in the obsolete forms (RFC 9110, 5.6.7)."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
