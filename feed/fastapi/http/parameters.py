"""The query parameters of all routes, in one table. Other parameters are ignored, unless they look like a slip.

A parameter that is silently ignored loses events (`?lst=3` begins now) or falsifies them (`?typ=x`). So a name that is
close to one in the table, or that belongs to another route, is refused. All others are left to whoever they are for: a
cache, a proxy, or the application around the feed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from enum import Enum
from functools import lru_cache

from feed import Invalid


class Use(Enum):
    """What a request asks for, as error messages name it."""

    STREAM = "a stream of events"
    PAGE = "a page of history (GET with Accept: application/json)"
    ONE = "POST /events/TOPIC"
    BATCH = "POST /events"
    DELETE = "DELETE /events/TOPIC"
    TOPICS = "a list of topics (GET /events?list=topics)"
    SESSION = "/session"
    SUBSCRIPTIONS = "GET /subscriptions"
    KICK = "DELETE /subscriptions/ID"
    KICK_ALL = "DELETE /subscriptions"


RECONNECTED = ("lastEventId", "Last-Event-ID", "evs_last_event_id")
"""Parameters that polyfills of `EventSource` add to the URL when they reconnect."""

OPENED = ("after", "last_event_id")
"""Parameters with which a client resumes after an event."""

_READING = frozenset({Use.STREAM, Use.PAGE})

PARAMETERS: dict[str, frozenset[Use]] = {
    "topic": _READING | {Use.TOPICS},
    "type": _READING | {Use.ONE},
    "after": _READING | {Use.SUBSCRIPTIONS},
    "last_event_id": _READING,
    **dict.fromkeys(RECONNECTED, _READING),
    "last": _READING,
    "ttl": frozenset({Use.ONE}),
    "latest": _READING,
    "every": frozenset({Use.STREAM}),
    "envelope": _READING,
    "list": frozenset({Use.TOPICS}),
    "after_topic": frozenset({Use.TOPICS}),
    "limit": frozenset({Use.PAGE, Use.SUBSCRIPTIONS, Use.TOPICS}),
    "before": frozenset({Use.PAGE}),
    "since": frozenset({Use.PAGE}),
    "wait": frozenset({Use.PAGE}),
    "subject": frozenset({Use.KICK_ALL}),
    "token": frozenset(Use),
}
"""What each parameter may be used for. Add a new parameter here, and all routes know it."""


def _letters(name: str) -> str:
    """Reduce a name to its letters and digits in lower case: people mistake case, separators and `[]` most often."""
    return re.sub(r"[\W_]", "", name).lower()


_KNOWN = {name: _letters(name) for name in PARAMETERS}
_COMPARED = 100  # unknown names of one request that are compared: each takes a while
SHORTEST, _LONGEST = 3, 20  # letters of a name that may be a slip
_LOOKED_AT = 40  # characters of a name that are compared, which bounds the cache's keys
_LONG = 8  # letters of a name in which two slips are allowed, not one
_REPEATED = 64  # characters of a name that an error repeats


def check_parameters(names: Iterable[str], use: Use, own: Collection[str] = ()) -> None:
    """Raises `Invalid` for a parameter of another route, and for a name that is close to a known one. `own` are
    parameters of the application around the feed, which are allowed whatever they look like."""
    compared = 0
    for name in names:
        uses = PARAMETERS.get(name)
        if (uses is not None and use in uses) or name in own:
            continue
        if uses is not None:
            other = next(each for each in Use if each in uses)
            raise Invalid(name, f"is not a parameter of {use.value}: did you mean {other.value}?")
        compared += 1
        if compared <= _COMPARED and (meant := _meant(name[:_LOOKED_AT], use)) is not None:
            where = "" if use in PARAMETERS[meant] else f", which is not a parameter of {use.value}"
            raise Invalid(ascii(name[:_REPEATED]), f"is not a parameter: did you mean {meant}{where}?")


@lru_cache(maxsize=1024)
def _meant(name: str, use: Use) -> str | None:
    """Return the known parameter that was probably meant, preferably one that `use` has."""
    letters = _letters(name)
    if not SHORTEST <= len(letters) <= _LONGEST:
        return None
    found = [known for known, wanted in _KNOWN.items() if _is_close(letters, wanted)]
    return min(found, key=lambda known: use not in PARAMETERS[known], default=None)


def _is_close(one: str, other: str) -> bool:
    slips = 2 if len(other) >= _LONG else 1
    return abs(len(one) - len(other)) <= slips and _slips(one, other) <= slips


def _slips(one: str, other: str) -> int:
    """Count the letters to add, drop, change, or swap with their neighbour that turn one name into the other."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        line = [row]
        for column, wanted in enumerate(other, 1):
            least = min(last[column] + 1, line[-1] + 1, last[column - 1] + (letter != wanted))
            if row > 1 and column > 1 and letter == other[column - 2] and wanted == one[row - 2]:
                least = min(least, before[column - 2] + 1)
            line.append(least)
        before, last = last, line
    return last[-1]
