"""The recipe for typed topics, run as it stands there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from feed import EARLIEST
from feed.testing import AppServer
from tests.docs.saved import blocks, saved, section
from tests.docs.serving import page_of

PAGE = "docs/recipes/typed-topics.md"


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(saved(PAGE)["shop.py"], "shop.py", "exec", dont_inherit=True), names)
    return names


@pytest.fixture
def client(names: dict[str, Any]) -> Iterator[httpx.Client]:
    with AppServer(names["app"], names["feed"]) as server, httpx.Client(base_url=server.url) as client:
        yield client


def test_a_typed_topic_checks_what_is_published_from_outside(client: httpx.Client) -> None:
    id = client.post("/shop/7", json={"total": 3, "customer": "Ann"}).json()
    refused = client.post("/events/orders/7", json={"total": "x"})
    assert (refused.status_code, [each["pointer"] for each in refused.json()["errors"]]) == (
        422,
        ["/total", "/customer"],
    )
    [shown] = blocks(PAGE, "text")
    assert re.findall(r'"pointer":"([^"]+)"', shown) == ["/total", "/customer"]
    assert client.post("/events/free", json={"total": "x"}).status_code == 201
    assert client.post("/events/orders/7", json={"total": 4, "customer": "Bob", "more": 1}).status_code == 201
    assert [(event["id"] == id, event["data"]) for event in page_of(client, "orders/7")] == [
        (True, {"total": 3, "customer": "Ann"}),
        (False, {"total": 4, "customer": "Bob", "more": 1}),
    ]


def test_an_event_is_parsed_and_a_topic_is_named_as_the_table_says(names: dict[str, Any]) -> None:
    async def read() -> object:
        feed, orders = names["feed"], names["orders"]
        async with feed:
            await orders(id=7).publish(feed, names["Order"](total=3, customer="Ann"))
            async with feed.subscribe(orders.pattern, after=EARLIEST) as events:
                async for event in events:
                    return orders.parse(event)
        return None

    assert asyncio.run(read()) == names["Order"](total=3, customer="Ann")
    shown = dict(re.findall(r"^\| `(orders[^`]+)` \|.*`\"([^\"]+)\"`", section(PAGE), re.MULTILINE))
    assert shown == {"orders(id=7)": names["orders"](id=7), "orders.pattern": names["orders"].pattern}


def test_of_those_who_change_an_order_at_once_each_adds_to_what_is_there(names: dict[str, Any]) -> None:
    [program] = [block for block in blocks(PAGE, "python") if block.startswith("async def add(")]
    exec(compile(f"from feed import PreconditionFailed\n{program}", PAGE, "exec", dont_inherit=True), names)

    async def scenario() -> object:
        feed, order = names["feed"], names["orders"](id=7)
        async with feed:
            await order.publish(feed, names["Order"](total=3, customer="Ann"), if_none_match="*")
            await asyncio.gather(*(names["add"](7, 1) for _ in range(5)), names["add"](8, 1))
            total = (await order.latest(feed)).total
            await order.delete(feed)
            return total, await order.latest(feed)

    assert asyncio.run(scenario()) == (8, None)
