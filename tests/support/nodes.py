"""Several nodes on one Redis, and traffic over them that goes on whatever happens. What of it is lost, doubled or out
of order is judged by ids."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence

import httpx

from tests.support.judge import Got, judge
from tests.support.redis_server import RedisServer
from tests.support.running import RunningServer
from tests.support.streams import eventually, subscribed
from tests.support.traffic import (
    Chronicle,
    Follower,
    Publisher,
    WebSocketFollower,
    data_of,
    threads_stopped,
    wait_for_more,
)

HEARTBEAT = 0.5
"""Seconds; what the nodes are started with."""

Nodes = Sequence[RunningServer]
StartNodes = Callable[..., Nodes]


class Traffic:
    """On each node two publishers, of which one insists, a reader over SSE and one over a WebSocket."""

    def __init__(self, redis: RedisServer, nodes: Nodes, pause: float) -> None:
        self.redis = redis
        self.nodes = nodes
        self.chronicle = Chronicle()
        self.published: dict[str, str] = {}
        self.publishers = [
            Publisher(node, f"{kind}{place}", pause, insists=kind == "insisting")
            for place, node in enumerate(nodes)
            for kind in ("plain", "insisting")
        ]
        self.readers = [kind(node) for node in nodes for kind in (Follower, WebSocketFollower)]
        self.note()

    def of(self, node: RunningServer) -> Sequence[Follower]:
        """The readers on a node."""
        return [reader for reader in self.readers if reader.server is node]

    def publish(self, node: RunningServer, data: str, **headers: str) -> str:
        """One event more, of the test's own."""
        id = node.publish("p/own", data, **headers)
        self.published[id] = data
        return id

    def more(self, count: int = 40) -> None:
        """Let so many more events be acknowledged."""
        wait_for_more(self.publishers, count)

    def note(self) -> list[str]:
        """Keep in mind which epochs there are, and give them."""
        epochs = [entry.decode().split()[0] for entry in self.redis.command("LRANGE", "{feed}:epochs", 0, -1)]
        self.chronicle.note(epochs)
        return epochs

    def wait_for_epoch(self, count: int) -> str:
        """Until there are as many as this that were ever noted; the newest one."""
        eventually(lambda: self.note() and len(self.chronicle.epochs) >= count, 20)
        return self.chronicle.epochs[-1]

    def finish(self) -> None:
        """No more events but a last one, which all readers come to."""
        for publisher in self.publishers:
            publisher.stopping.set()
        for publisher in self.publishers:
            publisher.join(25)
        last = self.publish(self.nodes[0], "last")
        for reader in self.readers:
            eventually(lambda: reader.has(last), 20)
        self.note()

    def stored(self) -> dict[str, str]:
        """What the stream holds, by id, in its order. Read with Redis's own commands, not with the feed's code."""
        stored = {}
        for id, fields in self.redis.command("XRANGE", "{feed}:events", "-", "+"):
            stored[f"{fields[b'epoch'].decode()}-{id.decode().split('-')[1]}"] = fields[b"data"].decode()
        return stored

    def check(self) -> None:
        """Lost 0, doubled 0, reordered 0, for all readers; and nothing is there that was refused."""
        stored = self.stored()
        known = data_of(stored, self.published, *self.publishers, *self.readers)
        ids = sorted(known, key=self.chronicle.key)
        acknowledged = {*self.published, *(id for publisher in self.publishers for id in publisher.acknowledged)}
        refused = {data for publisher in self.publishers if not publisher.insists for data in publisher.refused}
        unanswered = set[str]().union(*(publisher.unanswered for publisher in self.publishers))
        assert not [surprise for publisher in self.publishers for surprise in publisher.surprises]
        assert not refused & set(known.values()), "what was answered by 503 was not published"
        assert {known[id] for id in known.keys() - acknowledged} <= unanswered, "nothing came from nowhere"
        # What is in the log now has to have come too, though its publisher may not know.
        expected = [(place, id) for place, id in enumerate(ids, 1) if id in acknowledged or id in stored]
        for reader in self.readers:
            verdict = judge(expected, self.chronicle.account(reader, ids), known.keys())
            assert verdict.good, (reader.server.url, type(reader), verdict, reader.gaps)
            keys = [self.chronicle.key(entry.id) for entry in reader.account if isinstance(entry, Got)]
            assert all(earlier < later for earlier, later in itertools.pairwise(keys))

    def check_insistence(self) -> None:
        """What was repeated under its key until it was acknowledged is there once."""
        data = [text for text in self.stored().values() if text.startswith("insisting")]
        assert len(data) == len(set(data))
        assert {text for each in self.publishers if each.insists for text in each.sent.values()} <= set(data)


@contextlib.contextmanager
def traffic(redis: RedisServer, nodes: Nodes, pause: float = 0.02) -> Iterator[Traffic]:
    """It flows for as long as the block lasts, and does when the block begins."""
    flow = Traffic(redis, nodes, pause)
    with threads_stopped(*flow.publishers, *flow.readers):
        eventually(lambda: all(reader.connections for reader in flow.readers))
        flow.more()
        yield flow


def ready(node: RunningServer) -> int:
    """The status that it gives to who asks whether it is ready."""
    return node.http.get(f"{node.url}/readyz").status_code


def post(node: RunningServer, content: str = "x", **headers: str) -> httpx.Response:
    """Publish, whatever the answer."""
    return node.http.post(f"{node.url}/events/p/post", content=content, headers=headers)


def assert_unavailable(answer: httpx.Response) -> None:
    """It is a 503 as it should be."""
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 503
    assert "127.0.0.1" not in answer.text


def assert_heartbeats(readers: Sequence[Follower]) -> None:
    """Those that have signs of life to show, have them."""
    streams = [(reader, reader.heartbeats) for reader in readers if type(reader) is Follower]
    eventually(lambda: all(reader.heartbeats >= before + 2 for reader, before in streams), 2 + 2 * HEARTBEAT)


def assert_told_once(flow: Traffic, turn: int) -> None:
    """All readers are told of a loss, with what is true, and publishing goes on."""
    epoch = flow.wait_for_epoch(turn + 2)
    eventually(lambda: all(len(reader.gaps) > turn for reader in flow.readers))
    flow.more()
    for reader in flow.readers:
        told = reader.gaps[turn]
        assert told.reason == "unknown"
        assert told.resumed_from.split("-")[0] == epoch
        assert flow.chronicle.key(told.requested) < flow.chronicle.key(told.resumed_from)


def assert_told_where_it_was_lost(node: RunningServer, id: str, after: Sequence[str]) -> None:
    """Who comes back with this id, from before a loss, has what was kept, is told, and goes on. `after` is the log."""
    with subscribed(f"{node.url}/events/p/*", last_event_id=id) as stream:
        frames = stream.until("feed.live")[:-1]
    told = [place for place, frame in enumerate(frames) if frame.event == "feed.gap"]
    assert len(told) == 1
    gap = frames.pop(told[0])
    got = [frame.id or "" for frame in frames]
    assert all(earlier == later for earlier, later in zip(got, after[after.index(id) + 1 :], strict=False))
    assert {each.split("-")[0] for each in got[: told[0]]} <= {id.split("-")[0]}
    assert gap.json["resumed_from"].split("-")[0] == got[told[0]].split("-")[0]
    page = node.history(last_event_id=id)
    assert "gap" not in page
    assert [event["id"] for event in page["events"]] == got[: told[0]]
    page = node.history(last_event_id=page["next"])
    assert page["gap"] == gap.json
    assert [event["id"] for event in page["events"]][: len(got) - told[0]] == got[told[0] :]


def assert_stayed(flow: Traffic, gaps: int) -> None:
    """No stream was ended, all were told of so many gaps, and nothing broke that nobody foresaw."""
    assert len(flow.chronicle.epochs) == gaps + 1, "nodes that notice at the same moment agree on one epoch"
    for reader in flow.readers:
        assert reader.connections == 1
        assert len(reader.gaps) == gaps, reader.gaps
    for node in flow.nodes:
        assert "Traceback" not in node.output
