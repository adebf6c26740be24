"""A page of history, and the long poll."""

from __future__ import annotations

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response

from feed import Feed, Page, Subscription
from feed.fastapi.http.problems import SAFE
from feed.fastapi.http.request import query_of
from feed.fastapi.routes.subscribe import SubscribeRequest
from feed.media_types import JSON
from feed.pages import MAX_LAST, PageRequest

_MAX_WAIT = 60  # seconds


async def history_page(feed: Feed, request: Request, wanted: SubscribeRequest) -> Response:
    """Answer `GET /events…` with `Accept: application/json`. A long poll ends when the grants expire."""
    if wanted.refused is not None:
        raise wanted.refused
    query = query_of(request)
    limit = query.number("limit", least=1, most=MAX_LAST)
    wait = min(query.seconds("wait", most=_MAX_WAIT), wanted.grants.expires - time.time())
    before = query.one("before")
    asked = PageRequest(wanted.after, before, query.time("since"), wanted.last, limit)
    page = await feed.read_page(wanted.selection, asked)
    if not page.events and page.gap is None and wait > 0 and before is None:
        await _something(feed, request, wanted, page.next, wait)
        page = await feed.read_page(wanted.selection, PageRequest(after=page.next, limit=asked.most))
    document = _document(page)
    feed.counters.delivered["history"].add(len(page.events), len(document))
    response = Response(document, media_type=JSON, headers={"Cache-Control": "no-store"})
    response.raw_headers += SAFE
    return response


async def _something(feed: Feed, request: Request, wanted: SubscribeRequest, after: str, wait: float) -> None:
    """Wait until there is an event or a gap after the id, for at most `wait` seconds, or until the client leaves.
    Raises `FeedUnavailable` if there is no room to wait: an empty page at once would make the client ask again and
    again."""
    subscription = await feed.attach(wanted.selection, after=after, last=None, peer=wanted.peer)
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
    events = b",".join([event.message for event in page.events])
    return b'{"events":[%b],"next":"%b"%b}\n' % (events, page.next.encode(), gap)
