"""Whether requests and answers pass as they are: large bodies, refusals, paths, and the addresses of clients."""

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
"""Bytes of the body that is tried: more than nginx allows unless told to."""

_EVENT = 128 << 10  # bytes, less than an event may have
_CLAIMED = "203.0.113.7"  # of nobody (RFC 5737)
_TRIES, _AGAIN = 4, 0.5  # seconds


def large_batch(topic: str) -> bytes:
    """A batch of that size which is refused as a whole at its end, so that nothing of it is published."""
    event = orjson.dumps({"topic": topic, "data": "x" * _EVENT})
    return b"\n".join([*[event] * (SIZE // _EVENT), orjson.dumps({"topic": "", "data": ""})])


async def look_body(target: Target) -> Answer:
    """Send it."""
    headers = {"Content-Type": NDJSON}
    return await target.ask("POST", "/events", headers, content=large_batch(target.topic))


def judge_body(answer: Answer) -> Finding:
    """Whether the feed got it: then it is the feed that refuses it."""
    size = f"{SIZE >> 20} MiB"
    if answer.status == 422 and answer.is_problem:
        return ok("bodies", f"a request of {size} gets there")
    if answer.status == 413 and answer.is_problem:
        return ok("bodies", f"a request of {size} gets there, and is more than FEED_MAX_BODY")
    if answer.status in {401, 403, 429} and answer.is_problem:
        words = f"how large a request may be was not tried, as nothing may be published: {answer}"
        return unknown("bodies", words, "give a token that may publish to the topic")
    if answer.status == 413 or not answer.status:
        cure = "let the proxy take as much as FEED_MAX_BODY, 16 MiB (nginx: `client_max_body_size 16m`)"
        return fail("bodies", f"a request of {size} does not get there: {answer}", cure)
    return warn("bodies", f"a request of {size} is answered {answer}", "what on the way answers instead of the feed?")


async def look_refusal(target: Target) -> Answer:
    """Ask for nothing in particular, which is refused."""
    return await target.ask("GET", "/events", {"Accept": JSON})


def judge_refusal(answer: Answer) -> Finding:
    """Whether clients get to know why."""
    if answer.status == 422 and answer.is_problem:
        return ok("refusals", "they come as the feed writes them")
    cure = "let the proxy pass errors on as they are (nginx: no `proxy_intercept_errors`)"
    words = f"a refusal of the feed's, 422 with its reason, comes as {answer}"
    return fail("refusals", words, cure)


class Paths(NamedTuple):
    """The answers for a topic as it is, with its slash as %2F, with an empty segment, and with a slash behind it. The
    feed takes the second for the first, and refuses the others."""

    plain: Answer
    encoded: Answer
    doubled: Answer
    trailing: Answer


async def look_paths(target: Target, type: str) -> Paths:
    """Publish one event, and ask for pages of history."""
    await target.publish(type)
    topic = quote(target.topic)
    for _ in range(_TRIES):  # another node may be a moment behind
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
    """Whether the feed sees paths as they were sent."""
    cure = "let the proxy pass the path on as it came (nginx: `proxy_pass http://feed;`, with nothing behind the host)"
    if _told(paths.plain) != _told(paths.encoded):
        words = f"%2F in a path, as encodeURIComponent writes a topic, is answered {paths.encoded}"
        return warn("paths", words, cure)
    for what, answer in (("two slashes", paths.doubled), ("a slash at its end", paths.trailing)):
        if answer.status in REDIRECTS:
            return warn("paths", f"a path with {what} is redirected, which loses what a POST brings", cure)
        if answer.status != 422:
            return warn("paths", f"a path with {what} is not refused, but answered {answer}: it is rewritten", cure)
    return ok("paths", "they get there as they were sent")


def _told(answer: Answer) -> tuple[int, object]:
    events = answer.json.get("events") if answer.status == 200 and isinstance(answer.json, dict) else None
    return answer.status, events


class Seen(NamedTuple):
    """As which address the feed sees us, honest and with a forged X-Forwarded-For; None if it does not show us.
    `answer` is that of /subscriptions, and `local` whether we are on its machine."""

    local: bool
    answer: Answer
    honest: str | None = None
    forged: str | None = None


async def look_addresses(target: Target, honest: str, forged: str) -> Seen:
    """Two streams, told apart by their types, and the list of who listens."""
    lie = {"X-Forwarded-For": _CLAIMED}
    async with (
        target.reading(target.path(type=honest)) as first,
        target.reading(target.path(type=forged), lie) as second,
    ):
        await first.until(lambda: first.opened, target.moment)
        await second.until(lambda: second.opened, target.moment)
        streams = [stream.first("feed.open") for stream in (first, second)]
        ids = [None if stream is None else _subscription(stream.data) for stream in streams]
        for _ in range(_TRIES):  # another node may not have been heard of in time
            answer = await target.ask("GET", "/subscriptions?limit=1000")
            addresses = _addresses(answer)
            if answer.status != 200 or all(id is None or id in addresses for id in ids):
                break
            await asyncio.sleep(_AGAIN)
    return Seen(target.is_local, answer, *(None if id is None else addresses.get(id) for id in ids))


def _addresses(answer: Answer) -> dict[str, str]:
    """Of each subscription in a list of them."""
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
    """Whether limits for each address count clients, and not the proxy or what clients claim."""
    if seen.honest is None:
        words = f"as whom the feed sees clients is not known: /subscriptions: {seen.answer}"
        return unknown("addresses", words, "give a token with admin, and a topic that it may read")
    if seen.forged == _CLAIMED:
        words = "a client can claim any address with X-Forwarded-For"
        cure = "let the first proxy set it, rather than add to it (nginx: `$remote_addr`), and list it in FEED_PROXIES"
        return warn("addresses", words, cure)
    if not seen.local and _is_inside(seen.honest):
        words = f"the feed takes all clients for {seen.honest}, the proxy: limits for each address count all as one"
        return warn("addresses", words, "let the proxy set X-Forwarded-For, and list the proxy in FEED_PROXIES")
    return ok("addresses", f"the feed sees {seen.honest}, and not what a client claims to be")


def _is_inside(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False
