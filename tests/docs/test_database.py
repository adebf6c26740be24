"""The recipe for publishing what is in a database: the outbox, and a crash at each moment."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from feed.testing import AppServer
from tests.docs.saved import save, saved
from tests.docs.serving import page_of, uvicorn
from tests.support.streams import eventually

PAGE = "docs/recipes/database.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save(tmp_path, saved(PAGE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def waiting(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "shop.db")) as database:
        [count] = database.execute("SELECT COUNT(*) FROM outbox").fetchone()
    return int(count)


def test_each_change_is_an_event_and_the_outbox_is_empty_then(folder: Path) -> None:
    with uvicorn(folder) as url, httpx.Client(base_url=f"{url}/live") as client:
        for state in ("new", "paid"):
            assert httpx.put(f"{url}/orders/7/{state}").json() == {"id": 7, "state": state}
        eventually(lambda: len(page_of(client, "orders/7")) == 2)
        eventually(lambda: waiting(folder) == 0)
        events = page_of(client, "orders/7")
    assert [(event["type"], event["data"]) for event in events] == [
        ("changed", {"id": 7, "state": "new"}),
        ("changed", {"id": 7, "state": "paid"}),
    ]


def test_what_a_crash_left_behind_is_published_at_the_next_start_and_once(folder: Path) -> None:
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile((folder / "shop.py").read_text(), "shop.py", "exec", dont_inherit=True), names)
    database = names["database"]

    async def crash_between_the_commit_and_the_publish() -> None:
        with database:
            names["add_to_outbox"]("orders/7", {"id": 7, "state": "new"}, "changed")

    async def crash_between_the_publish_and_the_delete() -> None:
        row = database.execute("SELECT * FROM outbox").fetchone()
        async with names["feed"]:
            await names["publish_outbox"]()
        with database:
            database.execute("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", row)

    asyncio.run(crash_between_the_commit_and_the_publish())
    asyncio.run(crash_between_the_publish_and_the_delete())
    database.close()
    assert waiting(folder) == 1
    with uvicorn(folder) as url, httpx.Client(base_url=f"{url}/live") as client:
        eventually(lambda: waiting(folder) == 0)
        assert [event["data"] for event in page_of(client, "orders/7")] == [{"id": 7, "state": "new"}]


def test_changes_go_on_while_the_feed_is_away(folder: Path) -> None:
    names: dict[str, Any] = {"__name__": "shop"}
    source = (folder / "shop.py").read_text()
    exec(compile(source, "shop.py", "exec", dont_inherit=True), names)
    unavailable = asyncio.Event()

    async def publish(*_: object, **__: object) -> str:
        unavailable.set()
        raise names["FeedError"]("away")

    feed = names["feed"]
    original = feed.publish
    feed.publish = publish
    with AppServer(names["app"], feed) as server, httpx.Client(base_url=f"{server.url}/live") as client:
        assert httpx.put(f"{server.url}/orders/7/new").status_code == 200
        eventually(unavailable.is_set)
        assert waiting(folder) == 1
        feed.publish = original
        eventually(lambda: waiting(folder) == 0)
        assert [event["data"] for event in page_of(client, "orders/7")] == [{"id": 7, "state": "new"}]
    names["database"].close()
