"""The recipe for presence: who is here, and who came and left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from feed.testing import AppServer
from tests.docs.saved import saved
from tests.support.streams import eventually

PAGE = "docs/recipes/presence.md"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppServer]:
    monkeypatch.chdir(tmp_path)
    source = saved(PAGE)["room.py"]
    assert "SECONDS = 2.0" in source
    names: dict[str, Any] = {"__name__": "room"}
    exec(compile(source.replace("SECONDS = 2.0", "SECONDS = 0.05"), "room.py", "exec", dont_inherit=True), names)
    with AppServer(names["app"], names["feed"]) as server:
        yield server


def test_whoever_comes_and_leaves_is_listed_and_published(server: AppServer) -> None:
    def users() -> object:
        return httpx.get(f"{server.url}/presence").json()["users"]

    with ExitStack() as stack:
        streams = {}
        for number, user in enumerate(("ann", "bob", "ann")):
            opened = stack.enter_context(ExitStack())
            opened.enter_context(
                httpx.stream("GET", f"{server.url}/live/events/room/chat", headers={"Cookie": f"user={user}"})
            )
            streams[number] = opened
        eventually(lambda: users() == ["ann", "bob"])
        streams[0].close()  # ann has another tab
        streams[1].close()
        eventually(lambda: users() == ["ann"])
    eventually(lambda: users() == [])
    page = httpx.get(
        f"{server.url}/live/events/room/presence", headers={"Accept": "application/json", "Cookie": "user=ann"}
    ).json()
    changes = [(event["data"]["user"], event["type"]) for event in page["events"]]
    assert [kind for user, kind in changes if user == "ann"] == ["joined", "left"]
    assert [kind for user, kind in changes if user == "bob"] == ["joined", "left"]
    assert httpx.get(f"{server.url}/live/events/room/chat").status_code == 401
