"""Whether the classes of retention do what they were made for, as far as the server's figures tell."""

from __future__ import annotations

import re
from collections.abc import Mapping

from feed.pattern import covers
from feed_server.doctor.finding import Finding, ok, warn
from feed_server.doctor.target import Answer, Target

_CLASS = re.compile(r'^feed_class_events\{(?:[^}]*,)?class="((?:[^"\\]|\\.)*)"[^}]*\} ([0-9.e+]+)$', re.MULTILINE)


async def look_retention(target: Target) -> Answer:
    """Ask for the server's figures."""
    return await target.ask("GET", "/metrics")


def judge_retention(answer: Answer) -> Finding | None:
    """Judge whether each class has events, and whether another class has its topics. None if the figures cannot be
    read: they are for an admin, and not everywhere."""
    if answer.status != 200:
        return None
    classes = events_by_class(answer.body.decode("utf-8", "replace"))
    if not classes:
        return ok("retention", "all topics are kept alike: no classes are set (FEED_RETAIN)")
    empty = [pattern for pattern, events in classes.items() if not events and pattern != "default"]
    words = [_words(pattern, classes) for pattern in empty]
    if not words:
        return ok("retention", f"each of {len(classes) - 1} classes has events")
    cure = "compare FEED_RETAIN with `feed topics`: the first pattern that matches a topic counts"
    return warn("retention", "; ".join(words), cure)


def events_by_class(text: str) -> Mapping[str, float]:
    """Return how many events each class holds, by its pattern, from what `/metrics` says."""
    return {re.sub(r"\\(.)", r"\1", name): float(value) for name, value in _CLASS.findall(text)}


def _words(pattern: str, classes: Mapping[str, float]) -> str:
    wider = next((each for each in classes if each not in (pattern, "default") and covers(each, pattern)), None)
    if wider is None:
        return f"the class {pattern} has no events: no topic matches, or all its events were too old"
    return f"the class {pattern} has no events: {wider} has its topics if it stands in front"
