"""A page of history, and the long poll."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from feed import Event, Feed, FeedUnavailable, HistoryPage
from feed.feed import MAX_LAST
from feed.pattern import Selection
from web.request import Query, last_event_id

_MAX_WAIT = 60  # seconds


async def history_page(feed: Feed, request: Request, selection: Selection, query: Query) -> Response:
    """`GET /events…` with `Accept: application/json`."""
    last = query.number("last", least=1, most=MAX_LAST)
    limit = query.number("limit", least=1, most=MAX_LAST) or last or 100
    wait = query.seconds("wait", most=_MAX_WAIT)
    before = query.one("before")
    page = await feed.history(
        selection,
        limit=limit,
        after=last_event_id(request, query),
        before=before,
        last=last,
        since=query.time("since"),
    )
    if not page.events and wait > 0 and before is None and page.gap is None:
        page = await _first_within(feed, selection, page, limit, wait)
    return Response(_document(page), media_type="application/json", headers={"Cache-Control": "no-store"})


async def _first_within(feed: Feed, selection: Selection, page: HistoryPage, limit: int, wait: float) -> HistoryPage:
    """What comes within `wait` seconds after an empty page; the empty page itself if nothing does."""
    try:
        subscription = await feed.attach(selection, after=page.next, last=None)
    except FeedUnavailable:
        return page
    try:
        async with asyncio.timeout(wait):
            while items := await subscription.take():
                events = [item for item in items if isinstance(item, Event)][:limit]
                if events:
                    return HistoryPage(events, events[-1].id)
    except TimeoutError:
        pass
    finally:
        feed.detach(subscription)
    # What was passed by meanwhile was not wanted: the next poll need not look at it again.
    return await feed.history(selection, limit=limit, after=page.next)


def _document(page: HistoryPage) -> bytes:
    gap = b"" if page.gap is None else b',"gap":%b' % page.gap.data.encode()
    events = b",".join([event.message for event in page.events])
    return b'{"events":[%b],"next":"%b"%b}' % (events, page.next.encode(), gap)
