"""`admin_router`, and the pages of `feed_router`, in somebody else's application under its own login."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Cookie, Depends, FastAPI, HTTPException

from feed import Feed, FeedOptions
from feed.fastapi import Grants, admin_router, feed_router
from feed.testing import AppServer
from tests.support.streams import eventually, subscribed

BOSS = {"Cookie": "user=boss"}
CLERK = {"Cookie": "user=clerk"}


async def login(user: Annotated[str | None, Cookie()] = None) -> str:
    if user is None:
        raise HTTPException(401, "sign in first")
    return user


async def authorize(user: Annotated[str, Depends(login)]) -> Grants:
    return Grants(["**"], ["**"], admin=user == "boss", subject=user)


@pytest.fixture(scope="module")
def server() -> Iterator[AppServer]:
    feed = Feed("memory:", FeedOptions(node="shop-1"))
    app = FastAPI()
    app.include_router(feed_router(feed, authorize=authorize, dashboard=True), prefix="/shop/live")
    app.include_router(admin_router(feed, authorize=authorize), prefix="/shop/live")
    with AppServer(app, feed) as running:
        yield running


def get(server: AppServer, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{server.url}/shop/live/{path}", headers=headers)


@pytest.mark.parametrize("path", ["metrics", "subscriptions"])
def test_figures_and_subscriptions_are_for_those_who_run_the_feed(server: AppServer, path: str) -> None:
    assert get(server, path, **BOSS).status_code == 200
    refused = get(server, path, **CLERK)
    assert (refused.status_code, refused.headers["content-type"]) == (403, "application/problem+json")
    stranger = get(server, path)
    assert (stranger.status_code, stranger.json()) == (401, {"detail": "sign in first"})


def test_the_figures_are_those_of_this_feed_under_its_nodes_name(server: AppServer) -> None:
    with subscribed(f"{server.url}/shop/live/events/a", CLERK):
        lines = get(server, "metrics", **BOSS).text.splitlines()
    assert 'feed_subscribers{node="shop-1"} 1.0' in lines
    assert not [line for line in lines if "feed_dropped_log_lines" in line], "its log is the application's"


def test_a_subscription_is_listed_and_ended(server: AppServer) -> None:
    with subscribed(f"{server.url}/shop/live/events/kicked", CLERK) as stream:
        [found] = get(server, "subscriptions", **BOSS).json()["subscriptions"]
        assert (found["patterns"], found["node"]) == (["kicked"], "shop-1")
        ended = httpx.delete(f"{server.url}/shop/live/subscriptions/{found['id']}", headers=BOSS)
        assert ended.status_code == 204
        assert stream.until("feed.closing")[-1].json["reason"] == "kicked"
    eventually(lambda: get(server, "subscriptions", **BOSS).json()["subscriptions"] == [])


def test_the_streams_of_two_subjects_are_not_ended_by_one_request(server: AppServer) -> None:
    url = f"{server.url}/shop/live/subscriptions?subject=clerk&subject=ann"
    with subscribed(f"{server.url}/shop/live/events/kept", CLERK):
        refused = httpx.delete(url, headers=BOSS)
        assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
        assert refused.json()["detail"].startswith("subject: may be given only once")
        assert len(get(server, "subscriptions", **BOSS).json()["subscriptions"]) == 1


@pytest.mark.parametrize(("path", "status"), [("healthz", "alive"), ("readyz", "ready")])
def test_a_load_balancer_needs_no_login(server: AppServer, path: str, status: str) -> None:
    answer = get(server, path)
    assert (answer.status_code, answer.json()) == (200, {"status": status})
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_login_may_stand_before_the_whole_router() -> None:
    feed, app = Feed("memory:"), FastAPI()
    app.include_router(admin_router(feed), prefix="/admin", dependencies=[Depends(login)])
    with AppServer(app, feed) as server:
        for path in ("metrics", "subscriptions", "healthz", "readyz"):
            url = f"{server.url}/admin/{path}"
            assert (httpx.get(url).status_code, httpx.get(url, headers=CLERK).status_code) == (401, 200)


def test_without_metrics_prometheus_client_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "feed.fastapi.metrics.prometheus", None)
    feed, app = Feed("memory:"), FastAPI()
    app.include_router(admin_router(feed, metrics=False))
    with AppServer(app, feed) as server:
        statuses = {
            path: httpx.get(f"{server.url}/{path}").status_code for path in ("metrics", "subscriptions", "readyz")
        }
    assert statuses == {"metrics": 404, "subscriptions": 200, "readyz": 200}


def test_where_prometheus_client_is_missing_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("prometheus_client", "feed.fastapi.metrics"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "feed.fastapi.routes.metrics", raising=False)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=r"pip install 'feed\[metrics\]', or pass metrics=False"):
        admin_router(Feed("memory:"))


def test_pages_and_assets_lie_below_the_prefix_and_are_for_everybody(server: AppServer) -> None:
    page = get(server, "")
    assert page.status_code == 200
    assert 'data-login="own"' in page.text
    assert "require-trusted-types-for 'script'" in page.headers["content-security-policy"]
    assert page.headers["referrer-policy"] == "no-referrer"
    script = get(server, "assets/feed.js")
    assert (script.status_code, script.headers["content-type"]) == (200, "text/javascript; charset=utf-8")


@pytest.mark.parametrize("path", ["", "__init__.py", "py.typed", "../../pyproject.toml", "no.js", "app", "%00", "a%0A"])
def test_nothing_else_is_an_asset(server: AppServer, path: str) -> None:
    answer = httpx.request("GET", f"{server.url}/shop/live/assets/{path.replace('..', '%2E%2E')}")
    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("options", "there"),
    [
        ({}, []),
        ({"assets": True}, ["assets/feed.js"]),
        ({"dashboard": True}, ["assets/feed.js", ""]),
    ],
    ids=str,
)
def test_pages_are_there_only_where_they_are_wanted(options: dict[str, Any], there: list[str]) -> None:
    feed, app = Feed("memory:"), FastAPI()
    app.include_router(feed_router(feed, **options))
    with AppServer(app, feed) as server:
        found = {path for path in ("assets/feed.js", "") if httpx.get(f"{server.url}/{path}").status_code == 200}
    assert found == set(there)
