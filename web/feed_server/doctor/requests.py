"""Whether requests and answers pass unchanged: large bodies, refusals, paths, and the addresses of clients."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import quote

import orjson

from feed.media_types import JSON, NDJSON
from feed_server.doctor.finding import Finding, fail, ok, unknown, warn
from feed_server.doctor.target import REDIRECTS, Answer, Target

SIZE = 2 << 20
"""Bytes of the body that is tried: more than nginx allows by default."""

_EVENT = 128 << 10  # bytes, less than an event may have
_CLAIMED = "203.0.113.7"  # an address for documentation (RFC 5737)
_TRIES, _AGAIN = 4, 0.5  # seconds


def large_batch(topic: str) -> bytes:
    """Return a batch of that size whose last event is refused, and with it the whole batch: nothing is published."""
    event = orjson.dumps({"topic": topic, "data": "x" * _EVENT})
    return b"\n".join([*[event] * (SIZE // _EVENT), orjson.dumps({"topic": "", "data": ""})])


async def look_body(target: Target) -> Answer:
    """Send the large batch."""
    headers = {"Content-Type": NDJSON}
    return await target.ask("POST", "/events", headers, content=large_batch(target.topic))


def judge_body(answer: Answer) -> Finding:
    """Judge whether the feed got the batch: then it is the feed that refuses it."""
    size = f"{SIZE >> 20} MiB"
    if answer.status == 422 and answer.is_problem:
        return ok("bodies", f"a request of {size} arrives")
    if answer.status == 413 and answer.is_problem:
        return ok("bodies", f"a request of {size} arrives, and is larger than FEED_MAX_BODY")
    if answer.status in {401, 403, 429} and answer.is_problem:
        words = f"large requests were not tried, because nothing may be published: {answer}"
        return unknown("bodies", words, "give a token that may publish to the topic")
    if answer.status == 413 or not answer.status:
        cure = "let the proxy accept as much as FEED_MAX_BODY, 16 MiB (nginx: `client_max_body_size 16m`)"
        return fail("bodies", f"a request of {size} does not arrive: {answer}", cure)
    return warn("bodies", f"a request of {size} is answered {answer}", "find out what answers instead of the feed")


async def look_refusal(target: Target) -> Answer:
    """Ask for events without a topic, which the feed refuses."""
    return await target.ask("GET", "/events", {"Accept": JSON})


def judge_refusal(answer: Answer) -> Finding:
    """Judge whether clients are told why they are refused."""
    if answer.status == 422 and answer.is_problem:
        return ok("refusals", "refusals arrive as the feed writes them")
    cure = "let the proxy pass errors on unchanged (nginx: no `proxy_intercept_errors`)"
    words = f"a refusal of the feed, 422 with its reason, comes as {answer}"
    return fail("refusals", words, cure)


class Paths(NamedTuple):
    """The answers for a topic as it is, with its slash as %2F, with an empty segment, and with a slash at its end. For
    the feed the second is the same as the first, and the others are refused."""

    plain: Answer
    encoded: Answer
    doubled: Answer
    trailing: Answer


async def look_paths(target: Target, type: str) -> Paths:
    """Publish one event, and ask for pages of history."""
    await target.publish(type)
    topic = quote(target.topic)
    for _ in range(_TRIES):  # another node may lag for a moment
        answers = [
            target.ask("GET", f"/events/{path}?last=1&type={type}", {"Accept": JSON})
            for path in (topic, quote(target.topic, safe=""), f"{topic}//doctor", f"{topic}/")
        ]
        paths = Paths(*await asyncio.gather(*answers))
        if _told(paths.plain) == _told(paths.encoded):
            break
        await asyncio.sleep(_AGAIN)
    return paths


def judge_paths(paths: Paths) -> Finding:
    """Judge whether the feed sees paths as they were sent."""
    cure = "let the proxy pass the path on unchanged (nginx: `proxy_pass http://feed;`, with nothing behind the host)"
    if _told(paths.plain) != _told(paths.encoded):
        words = f"%2F in a path, as encodeURIComponent writes a topic, is answered {paths.encoded}"
        return warn("paths", words, cure)
    for what, answer in (("two slashes", paths.doubled), ("a slash at its end", paths.trailing)):
        if answer.status in REDIRECTS:
            return warn("paths", f"a path with {what} is redirected, which loses the body of a POST", cure)
        if answer.status != 422:
            return warn("paths", f"a path with {what} is not refused, but answered {answer}: a proxy changes it", cure)
    return ok("paths", "paths arrive as they were sent")


def _told(answer: Answer) -> tuple[int, object]:
    events = answer.json.get("events") if answer.status == 200 and isinstance(answer.json, dict) else None
    return answer.status, events


class Seen(NamedTuple):
    """The address that the feed sees for our two streams, an honest one and one with a forged X-Forwarded-For; None if
    it does not show them. `answer` is that of /subscriptions, and `local` says whether the feed is on this machine."""

    local: bool
    answer: Answer
    honest: str | None = None
    forged: str | None = None


async def look_addresses(target: Target, honest: str, forged: str) -> Seen:
    """Open two streams, with different types to tell them apart, and ask for the list of subscriptions."""
    lie = {"X-Forwarded-For": _CLAIMED}
    async with (
        target.reading(target.path(type=honest)) as first,
        target.reading(target.path(type=forged), lie) as second,
    ):
        await first.until(lambda: first.opened, target.moment)
        await second.until(lambda: second.opened, target.moment)
        streams = [stream.first("feed.open") for stream in (first, second)]
        ids = [None if stream is None else _subscription(stream.data) for stream in streams]
        for _ in range(_TRIES):  # another node may not have answered in time
            answer = await target.ask("GET", "/subscriptions?limit=1000")
            addresses = _addresses(answer)
            if answer.status != 200 or all(id is None or id in addresses for id in ids):
                break
            await asyncio.sleep(_AGAIN)
    return Seen(target.is_local, answer, *(None if id is None else addresses.get(id) for id in ids))


def _addresses(answer: Answer) -> dict[str, str]:
    """Return the address of each subscription in a list, by id."""
    try:
        return {str(each["id"]): str(each["address"]) for each in answer.json["subscriptions"]}
    except (KeyError, TypeError):
        return {}


def _subscription(data: str) -> str:
    try:
        return str(orjson.loads(data)["subscription"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""


def judge_addresses(seen: Seen) -> Finding:
    """Judge whether limits for each address count clients, not the proxy or what clients claim."""
    if seen.honest is None:
        words = f"the addresses that the feed sees are not known: /subscriptions: {seen.answer}"
        return unknown("addresses", words, "give a token with admin that may subscribe to the topic")
    if seen.forged == _CLAIMED:
        words = "a client can claim any address with X-Forwarded-For"
        cure = "let the first proxy set it instead of adding to it (nginx: `$remote_addr`), and list it in FEED_PROXIES"
        return warn("addresses", words, cure)
    if not seen.local and _is_inside(seen.honest):
        words = f"the feed sees all clients as {seen.honest}, the proxy: limits for each address count them as one"
        return warn("addresses", words, "let the proxy set X-Forwarded-For, and list the proxy in FEED_PROXIES")
    return ok("addresses", f"the feed sees {seen.honest}, and not an address that a client claims")


def _is_inside(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
