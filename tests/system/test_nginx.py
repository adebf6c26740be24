"""Two nodes on one Redis behind one nginx with its default settings for proxies, and no sticky sessions."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import Serve
from tests.support.judge import Got, judge
from tests.support.proxies import nginx_in_front
from tests.support.redis_server import RedisServer
from tests.support.running import RunningServer
from tests.support.streams import eventually, subscribed
from tests.support.traffic import Follower, Publisher, data_of, threads_stopped, wait_for_more

READERS = 8


@dataclass(frozen=True)
class Nginx:
    """One that listens there."""

    url: str


@pytest.fixture
def nodes(shared_redis: RedisServer, serve: Serve, request: pytest.FixtureRequest) -> list[RunningServer]:
    """Two nodes that share a stream."""
    return [
        # Unless told otherwise nginx puts the name of its upstream for Host.
        serve("--log", shared_redis.url(re.sub(r"\W", "", request.node.name)[:50]), heartbeat=0.5, hosts="feed")
        for _ in range(2)
    ]


@pytest.fixture
def nginx(nodes: list[RunningServer], tmp_path: Path) -> Iterator[Nginx]:
    """It is told of the nodes, and nothing else about how to pass anything to them."""
    upstream = f"upstream feed {{ {' '.join(f'server 127.0.0.1:{node.port};' for node in nodes)} }}"
    with nginx_in_front(tmp_path, "location / { proxy_pass http://feed; }", upstream) as url:
        yield Nginx(url)


def streams(node: RunningServer) -> int:
    """How many connections it has."""
    connections = psutil.Process(node.pid).net_connections("tcp")
    return sum(each.status == "ESTABLISHED" and each.laddr.port == node.port for each in connections)


def test_readers_are_spread_and_those_of_a_node_that_dies_come_back_on_the_other_and_miss_nothing(
    nginx: Nginx, nodes: list[RunningServer]
) -> None:
    readers = [Follower(nginx) for _ in range(READERS)]
    publishers = [Publisher(nginx, f"p{number}", 0.01, insists=number % 2 == 0) for number in range(4)]
    with threads_stopped(*readers):
        eventually(lambda: all(reader.connections for reader in readers))
        eventually(lambda: [streams(node) for node in nodes] == [READERS // 2] * 2)
        with threads_stopped(*publishers):
            wait_for_more(publishers, 100)
            nodes[1].kill()
            wait_for_more(publishers, 100)
            eventually(lambda: sum(reader.connections for reader in readers) == READERS + READERS // 2)
            wait_for_more(publishers, 50)
        last = nodes[0].publish("p/last", "last")
        for reader in readers:
            eventually(lambda: reader.has(last))
        assert streams(nodes[0]) >= READERS
    events = nodes[0].history()["events"]
    ids = [event["id"] for event in events]
    stored = {event["id"]: event["data"] for event in events}
    known = data_of(stored, *publishers, *readers)
    assert known == stored
    acknowledged = {id for publisher in publishers for id in publisher.acknowledged}
    assert {stored[id] for id in set(ids) - acknowledged - {last}} <= set().union(*(p.unanswered for p in publishers))
    assert len(set(stored.values())) == len(ids), "what was repeated is there once"
    for reader in readers:
        assert reader.gaps == []
        verdict = judge(list(enumerate(ids, 1)), [entry for entry in reader.account if isinstance(entry, Got)])
        assert verdict.good, verdict
    assert not [surprise for publisher in publishers for surprise in publisher.surprises]


def test_events_are_passed_on_at_once_and_a_quiet_stream_has_its_heartbeats(
    nginx: Nginx, nodes: list[RunningServer]
) -> None:
    with subscribed(f"{nginx.url}/events/a") as stream:
        for node in nodes * 5:
            began = time.monotonic()
            id = node.publish("a", "x")
            assert stream.frame().id == id
            assert time.monotonic() - began < 0.5
        while not stream.line().startswith(":"):
            pass
