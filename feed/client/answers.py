"""Whose word an answer is, and what it means.

Between a client and a feed stand proxies, which answer for it while it is away: with a 404 that knows no such route
yet, a 403 of a filter, a login page, a redirect. None of that is the feed's answer, and none of it is final. Final is
what the feed itself says, and it says it in a problem document (RFC 9457).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

import httpx
import orjson

from feed.client.errors import Again, Refused
from feed.client.waits import LONGEST_OBEYED
from feed.media_types import JSON, PROBLEM, SSE

_AGAIN = frozenset({408, 425, 429, *range(500, 600)}) - {501, 505}  # statuses that may be another one the next time
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_WORDS = 300  # characters of what others say
_LONGEST = 1e9  # seconds that anybody is told of


class Content(Protocol):
    """The body of an answer, as far as it was read."""

    @property
    def content(self) -> bytearray: ...


def is_json(headers: Mapping[str, str]) -> bool:
    """Whether an answer claims to be JSON, as a feed's is where all went well, or nothing else."""
    return _media_type(headers) in {JSON, ""}


def is_stream(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer claims to be a stream."""
    return status == 200 and _media_type(headers) == SSE


def refusal(
    status: int, phrase: str, headers: Mapping[str, str], body: Content, *, renewable: bool = False
) -> Again | Refused:
    """What an answer other than the hoped-for means. `renewable`: a 401 may be of a token that has just expired."""
    detail = _document(body).get("detail")
    reason = (detail if isinstance(detail, str) else "") or phrase or "no reason given"
    if not is_own(status, headers, body) and not _is_end(status, headers):
        return Again(f"{status}: {reason[:_MOST_WORDS]}{_whose(status, headers)}", retry_after(headers))
    if status in _AGAIN or (status == 401 and renewable):
        return Again(f"{status}: {reason}", retry_after(headers))
    return Refused(status, reason)


def is_own(status: int, headers: Mapping[str, str], body: Content) -> bool:
    """Whether it is the feed itself that refuses: in a problem document with the status that it came with."""
    said = _document(body).get("status")
    return _media_type(headers) == PROBLEM and type(said) is int and said == status


def retry_after(headers: Mapping[str, str]) -> float:
    """For how many seconds the server asks to stay away, in either way that there is to say it (RFC 9110, 10.2.3);
    0 for nothing, for what cannot be read, and for a time that is over."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value) if len(value) < 7 else 0.0  # no number of seconds that anybody means
    until = _moment(value)
    if until is None:
        return 0.0
    by_our_clock, sent = until - time.time(), _moment(headers.get("date", ""))
    seconds = by_our_clock if sent is None else until - sent  # by the clock that it was written by
    if seconds > LONGEST_OBEYED:
        seconds = min(seconds, by_our_clock)  # the answer may be an old one that was kept
    return min(max(0.0, seconds), _LONGEST)


def _is_end(status: int, headers: Mapping[str, str]) -> bool:
    """Whether it is what an `EventSource` is told so that it does not come back."""
    return status == 204 and _media_type(headers) == SSE


def _whose(status: int, headers: Mapping[str, str]) -> str:
    """Why an answer is not believed that would else be the end; nothing where it is as good as any."""
    if status in _REDIRECTS:
        return f", to {_place(headers.get('location', ''))}; redirects are not followed"
    if status in _AGAIN:
        return ""
    return ", and that is not in the feed's words: a proxy's, or the URL is wrong"


def _place(location: str) -> str:
    """Without what may be secret in it."""
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
    """When that is, in seconds since 1970: an HTTP date, in the obsolete forms too (RFC 9110, 5.6.7)."""
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
