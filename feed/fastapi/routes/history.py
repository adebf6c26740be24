"""A page of history or of state, the long poll, and the list of topics."""

from __future__ import annotations

import asyncio
import time

import orjson
from starlette.requests import Request
from starlette.responses import Response

from feed import Feed, Invalid, Page, Subscription
from feed.event import Placed
from feed.fastapi.http.parameters import Use
from feed.fastapi.http.problems import SAFE
from feed.fastapi.http.request import path_parameter, query_of
from feed.fastapi.routes.gate import Gate
from feed.fastapi.routes.refusals import reads_counted
from feed.fastapi.routes.subscribe import SubscribeRequest
from feed.media_types import JSON
from feed.pages import MAX_LAST, PageRequest
from feed.wire import rfc3339

_MAX_WAIT = 60  # seconds
_TOPICS = 100  # of one page, unless the request says otherwise


async def history_page(feed: Feed, request: Request, wanted: SubscribeRequest) -> Response:
    """Answer `GET /events…` with `Accept: application/json`. A long poll ends when the grants expire."""
    if wanted.refused is not None:
        raise wanted.refused
    query = query_of(request)
    limit = query.number("limit", least=1, most=MAX_LAST)
    wait = min(query.seconds("wait", most=_MAX_WAIT), wanted.grants.expires - time.time())
    before = query.one("before")
    asked = PageRequest(wanted.after, before, query.time("since"), wanted.last, limit, wanted.latest)
    page = await feed.read_page(wanted.selection, asked)
    if not page.events and page.gap is None and wait > 0 and before is None:
        await _something(feed, request, wanted, page.next, wait)
        again = PageRequest(after=page.next, limit=asked.most, latest=wanted.latest)
        page = await feed.read_page(wanted.selection, again)
    document = _document(page)
    feed.counters.delivered["history"].add(len(page.events), len(document))
    response = Response(document, media_type=JSON, headers={"Cache-Control": "no-store"})
    response.raw_headers += SAFE
    return response


async def _something(feed: Feed, request: Request, wanted: SubscribeRequest, after: str, wait: float) -> None:
    """Wait until there is an event or a gap after the id, for at most `wait` seconds, or until the client leaves.
    Raises `FeedUnavailable` if there is no room to wait: an empty page at once would make the client ask again and
    again."""
    subscription = await feed.attach(wanted.selection, after=after, last=None, latest=wanted.latest, peer=wanted.peer)
    tasks = [asyncio.create_task(_next(subscription)), asyncio.create_task(_disconnected(request))]
    try:
        await asyncio.wait(tasks, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
    finally:
        feed.detach(subscription)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _next(subscription: Subscription) -> None:
    async for _ in subscription:
        return


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _document(page: Page) -> bytes:
    gap = b"" if page.gap is None else b',"gap":%b' % page.gap.text.encode()
    resumes = page.resumes or [None] * len(page.events)
    events = b",".join(
        [
            event.message if resume is None else Placed(event, resume).message
            for event, resume in zip(page.events, resumes, strict=True)
        ]
    )
    live = b',"live":true' if page.live else b"" if page.complete else b',"complete":false'
    return b'{"events":[%b],"next":"%b"%b%b}\n' % (events, page.next.encode(), gap, live)


@reads_counted
async def list_of_topics(gate: Gate, request: Request) -> Response:
    """Answer `GET /events?list=topics`: the topics that have retained events, by name, in pages."""
    query = query_of(request)
    query.check(Use.TOPICS, gate.parameters)
    if query.one("list") != "topics":
        raise Invalid("list", "has to be topics")
    pattern = path_parameter(request, "topic", "pattern")
    selection = gate.feed.select([*([] if pattern is None else [pattern]), *query.all("topic")])
    await gate.subscriber(request, selection.patterns)
    limit = query.number("limit", least=1, most=MAX_LAST)
    page = await gate.feed.read_topics(selection, query.one("after_topic") or "", limit or _TOPICS)
    topics = [
        {"topic": topic.name, "last_id": topic.last_id, "last_time": rfc3339(topic.last_time_ms), "type": topic.type}
        for topic in page.topics
    ]
    response = Response(
        orjson.dumps({"topics": topics, "next": page.next}, option=orjson.OPT_APPEND_NEWLINE),
        media_type=JSON,
        headers={"Cache-Control": "no-store"},
    )
    response.raw_headers += SAFE
    return response
