"""The dashboard in somebody else's application: below its prefix, behind its login."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import pytest
from fastapi import Cookie, Depends, FastAPI, HTTPException
from playwright.sync_api import Page, expect

from feed import Feed, Unauthenticated
from feed.fastapi import Grants, admin_router, feed_router
from feed.testing import AppServer
from tests.support.browser import Watched

pytestmark = pytest.mark.browser


async def login(user: Annotated[str | None, Cookie()] = None, way: Annotated[str, Cookie()] = "") -> str:
    if user is not None:
        return user
    raise Unauthenticated("sign in first") if way == "feed" else HTTPException(401, "sign in first")


async def authorize(user: Annotated[str, Depends(login)]) -> Grants:
    return Grants(["**"], ["**"], admin=True, subject=user)


@pytest.fixture
def server() -> Iterator[AppServer]:
    feed, app = Feed("memory:"), FastAPI()
    app.include_router(feed_router(feed, authorize=authorize, dashboard=True), prefix="/shop/live")
    app.include_router(admin_router(feed, authorize=authorize), prefix="/shop/live")
    with AppServer(app, feed) as running:
        yield running


def test_whoever_is_signed_in_sees_events_and_figures_and_is_asked_for_no_token(
    server: AppServer, page: Page, watched: Watched
) -> None:
    page.context.add_cookies([{"name": "user", "value": "ann", "url": server.url}])
    page.goto(f"{server.url}/shop/live/")
    expect(page.get_by_test_id("state")).to_have_text("Live")
    status = page.evaluate("fetch('events/orders/1', {method: 'POST', body: 'seen'}).then((answer) => answer.status)")
    assert status == 201
    expect(page.get_by_test_id("event-data")).to_have_text("seen")
    expect(page.get_by_test_id("token")).to_have_count(0)
    assert watched.faults == []


# Only what the feed itself says is final: what else answers could be a proxy that asks for a moment's patience.
@pytest.mark.parametrize(("way", "state"), [("feed", "Sign in first"), ("application", "Reconnecting")])
def test_whoever_is_not_signed_in_is_asked_for_no_token_and_goes_on_after_it(
    server: AppServer, page: Page, watched: Watched, way: str, state: str
) -> None:
    page.context.add_cookies([{"name": "way", "value": way, "url": server.url}])
    page.goto(f"{server.url}/shop/live/")
    expect(page.get_by_test_id("state")).to_have_text(state)
    expect(page.get_by_test_id("token-box")).to_have_count(0)
    page.context.add_cookies([{"name": "user", "value": "ann", "url": server.url}])
    if way == "feed":  # else it goes on by itself
        page.get_by_test_id("retry").click()
    expect(page.get_by_test_id("state")).to_have_text("Live")
    assert watched.faults == []
