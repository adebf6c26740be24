"""FAULTS.md, R5 to R8: what two nodes on one Redis are for readers and publishers who go from one to the other, and
what becomes of them when Redis takes no writes, when an answer is lost, and when connections die silently."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from websockets.sync.client import connect

from feed import Retention
from feed.event import text_draft
from feed.log.redis.log import RedisLog
from tests.conftest import StartRedis
from tests.support.judge import Got
from tests.support.nodes import (
    Nodes,
    StartNodes,
    assert_heartbeats,
    assert_stayed,
    assert_unavailable,
    post,
    ready,
    traffic,
)
from tests.support.proxy import proxy_to
from tests.support.redis_server import RedisServer, Stream, free_port
from tests.support.running import RunningServer
from tests.support.streams import eventually, subscribed


@pytest.fixture
def two(shared_redis: RedisServer, start_nodes: StartNodes) -> Nodes:
    """Two nodes on one stream."""
    url = shared_redis.url(secrets.token_hex(8))
    return start_nodes(url, url)


# R5


def test_r5_a_reader_that_comes_back_to_another_node_finds_the_same_ids_and_the_same_events(two: Nodes) -> None:
    a, b = two
    ids = [two[number % 2].publish("p/x", str(number)) for number in range(30)]
    for id in (*ids, "earliest", "nonsense"):
        assert a.history(last_event_id=id, limit=7) == b.history(last_event_id=id, limit=7)
        if id != "earliest":
            assert a.history(before=id, limit=7) == b.history(before=id, limit=7)
    assert a.history(last=5) == b.history(last=5)
    assert [event["id"] for event in b.history(last=5)["events"]] == ids[-5:]
    since = a.history()["events"][10]["time"]
    assert a.history(since=since) == b.history(since=since)
    got, position = [], ids[0]
    for node in itertools.islice(itertools.cycle(two), 7):
        with subscribed(f"{node.url}/events/p/*", last_event_id=position) as stream:
            frames = stream.frames(4)
            got += [frame.id for frame in frames]
            position = got[-1] or ""
    assert got == ids[1:29]


def test_r5_an_id_that_one_node_has_just_given_is_known_to_the_other(two: Nodes) -> None:
    for number in range(20):
        here, there = two[number % 2], two[1 - number % 2]
        id = here.publish("p/x", str(number))
        with subscribed(f"{there.url}/events/p/*", last_event_id=id) as stream:
            assert stream.frame().event == "feed.live"
            after = here.publish("p/x", f"{number} after")
            assert stream.frame().id == after


def test_r5_a_key_that_was_used_on_one_node_is_answered_by_the_other(two: Nodes) -> None:
    id = two[0].publish("p/x", "once", **{"Idempotency-Key": "k"})
    assert two[1].publish("p/x", "once", **{"Idempotency-Key": "k"}) == id
    assert post(two[1], "another", **{"Idempotency-Key": "k"}).status_code == 422
    with ThreadPoolExecutor(8) as pool:
        answers = {pool.submit(node.publish, "p/x", "at once", **{"Idempotency-Key": "k2"}) for node in [*two] * 4}
        assert len({answer.result() for answer in answers}) == 1
    assert [event["data"] for event in two[0].history()["events"]] == ["once", "at once"]


# R6


def test_r6_publishers_on_two_nodes_make_one_order_for_all_readers_on_both(
    start_redis: StartRedis, start_nodes: StartNodes
) -> None:
    redis = start_redis()
    nodes = start_nodes(redis.url(), redis.url())
    with traffic(redis, nodes, pause=0) as flow:
        flow.more(1_000)
        flow.finish()
        flow.check()
        order = list(flow.stored())
        assert all(reader.account == [Got(id) for id in order] for reader in flow.readers)
        assert_stayed(flow, 0)


# R7


def set_(name: str, value: str) -> Callable[[RedisServer], None]:
    return lambda redis: redis.command("CONFIG", "SET", name, value)


def make_replica_of_nobody_there(redis: RedisServer) -> None:
    redis.command("REPLICAOF", "127.0.0.1", free_port())


def make_master(redis: RedisServer) -> None:
    redis.command("REPLICAOF", "NO", "ONE")


def fail_to_save(redis: RedisServer) -> None:
    redis.command("CONFIG", "SET", "save", "3600 1")
    redis.command("CONFIG", "SET", "dir", "/proc")
    save(redis, "err")


def save_again(redis: RedisServer) -> None:
    redis.command("CONFIG", "SET", "dir", str(redis.directory))
    save(redis, "ok")


def save(redis: RedisServer, status: str) -> None:
    redis.command("BGSAVE")
    eventually(lambda: redis.command("INFO", "persistence")["rdb_last_bgsave_status"] == status)


REFUSALS = {
    "maxmemory": (set_("maxmemory", "100kb"), set_("maxmemory", "0")),
    "replica": (make_replica_of_nobody_there, make_master),
    "lonely": (set_("min-replicas-to-write", "1"), set_("min-replicas-to-write", "0")),
    "disk": (fail_to_save, save_again),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_r7_a_redis_that_takes_no_writes_is_503_and_streams_stay_and_go_on_when_it_takes_them_again(
    start_redis: StartRedis, start_nodes: StartNodes, why: str
) -> None:
    redis = start_redis(enable_protected_configs="yes")
    nodes = start_nodes(redis.url(), redis.url())
    refuse, heal = REFUSALS[why]
    with traffic(redis, nodes) as flow:
        refuse(redis)
        for node in nodes:
            answer = eventually(lambda: (a := post(node, "refused")).status_code == 503 and a)
            assert_unavailable(answer)
            assert_unavailable(post(node, "refused", **{"Idempotency-Key": "again"}))
            batch = node.http.post(f"{node.url}/events", json=[{"topic": "p/post", "data": "refused"}] * 50)
            assert_unavailable(batch)
            page = node.history(last=3)
            assert len(page["events"]) == 3, "what is there can be read"
        assert_heartbeats(flow.readers)
        heal(redis)
        for node in nodes:
            eventually(lambda: ready(node) == 200)
        flow.more()
        assert "refused" not in flow.stored().values()
        flow.publish(nodes[1], "refused", **{"Idempotency-Key": "again"})
        flow.finish()
        flow.check()
        flow.check_insistence()
        assert all(reader.connections == 1 and not reader.gaps for reader in flow.readers)
        assert not any("Traceback" in node.output for node in nodes)


def test_r7_a_batch_is_there_whole_or_not_at_all_while_memory_runs_out_and_is_there_again(
    start_redis: StartRedis, start_nodes: StartNodes
) -> None:
    redis = start_redis(appendonly="no")
    nodes = start_nodes(redis.url(), redis.url())
    stopping = threading.Event()
    statuses: list[tuple[int, str]] = []

    def publish(node: RunningServer, name: str) -> None:
        with httpx.Client(verify=False, timeout=20) as http:
            for number in itertools.count():
                if stopping.is_set():
                    return
                batch = [{"topic": "p/x", "data": f"{name} {number}"}] * 100
                statuses.append((http.post(f"{node.url}/events", json=batch).status_code, f"{name} {number}"))

    with ThreadPoolExecutor(4) as pool:
        publishing = [pool.submit(publish, node, f"{node.port}-{place}") for node in nodes for place in range(2)]
        try:
            for limit in ["100kb", "0"] * 10:
                redis.command("CONFIG", "SET", "maxmemory", limit)
                before = len(statuses)
                eventually(lambda: len(statuses) > before + 10)
        finally:
            stopping.set()
        for each in publishing:
            each.result()
    assert {status for status, _ in statuses} == {201, 503}
    stored = [fields[b"data"].decode() for _, fields in redis.command("XRANGE", "{feed}:events", "-", "+")]
    acknowledged = {data for status, data in statuses if status == 201}
    assert Counter(stored) == dict.fromkeys(acknowledged, 100)
    assert all(len(set(stored[start : start + 100])) == 1 for start in range(0, len(stored), 100)), "together"


def test_r7_a_publish_whose_answer_is_lost_is_504_and_repeated_with_its_key_it_is_there_once(
    start_redis: StartRedis, start_nodes: StartNodes
) -> None:
    redis = start_redis()
    with proxy_to(redis.port) as proxy:
        direct, behind = start_nodes(redis.url(), proxy.url())
        with subscribed(f"{direct.url}/events/p/*") as stream:
            for number in range(3):
                key = {"Idempotency-Key": str(number)}
                proxy.lose_answer_to(f"lost {number}".encode())
                answer = post(behind, f"lost {number}", **key)
                assert answer.status_code == 504
                assert answer.headers["content-type"] == "application/problem+json"
                repeated = post((behind, direct)[number % 2], f"lost {number}", **key)
                assert repeated.status_code == 201
                assert stream.frame().id == repeated.json()["id"]
            assert proxy.lost_answers == 3
            with connect(f"{behind.url.replace('http', 'ws')}/ws/p/socket") as socket:
                socket.recv()
                for _ in range(2):
                    proxy.lose_answer_to(b"by socket")
                    socket.send('{"data": "by socket", "key": "s", "ref": 1}')
                    while (message := json.loads(socket.recv(10)))["type"] not in {"feed.ack", "feed.error"}:
                        pass
                    assert message["data"]["status"] == 504
        data = [event["data"] for event in direct.history()["events"]]
        assert data == ["lost 0", "lost 1", "lost 2", "by socket"]


# R8


def test_r8_connections_that_die_silently_are_noticed_within_ten_seconds(
    start_redis: StartRedis, start_nodes: StartNodes
) -> None:
    redis = start_redis()
    with proxy_to(redis.port) as proxy:
        nodes = start_nodes(redis.url(), proxy.url())
        with traffic(redis, nodes) as flow:
            proxy.stall(new=False)
            began = time.monotonic()
            missed = flow.publish(nodes[0], "missed")
            eventually(lambda: all(reader.has(missed) for reader in flow.readers), 10)
            assert time.monotonic() - began < 10
            flow.more()
            flow.finish()
            flow.check()
            flow.check_insistence()
            assert_stayed(flow, 0)
            assert [reconnects(node) for node in nodes] == [0, 1]


def reconnects(node: RunningServer) -> float:
    """What its metrics say of the follower's."""
    text = node.http.get(f"{node.url}/metrics").text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("feed_log_reconnects_total"))


@pytest.mark.anyio
async def test_r8_the_reconnect_is_counted(start_redis: StartRedis) -> None:
    with proxy_to(start_redis().port) as proxy:
        log = await RedisLog.open(proxy.url(), Retention(), "node")
        events = log.follow(0)
        await log.append([text_draft("a", "1")])
        assert [event.seq for event in await anext(events)] == [1]
        assert log.reconnects == 0
        proxy.stall(purpose="follow", new=False)
        await log.append([text_draft("a", "2")])
        async with asyncio.timeout(10):
            assert [event.seq for event in await anext(events)] == [2]
        assert log.reconnects == 1
        await log.close()


# A Redis that may not be used


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_redis_that_may_evict_events_is_refused_with_the_setting_to_change(
    start_redis: StartRedis, start_nodes: StartNodes, policy: str
) -> None:
    redis = start_redis(appendonly="no", maxmemory_policy=policy)
    node = RunningServer("--log", redis.url())
    with pytest.raises(RuntimeError, match="did not start"):
        node.start()
    assert node.wait() == 1
    assert len(node.output.splitlines()) == 1
    assert f"maxmemory-policy is {policy}" in node.output
    assert "set maxmemory-policy noeviction" in node.output
    node.close()
    redis.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    (node,) = start_nodes(redis.url())
    assert node.publish("a", "x")


def test_a_password_is_never_shown(start_redis: StartRedis, start_nodes: StartNodes) -> None:
    password = "s3cret-w0rd"
    redis = start_redis(appendonly="no", requirepass=password)
    url = redis.url().replace("redis://", f"redis://:{password}@")
    (node,) = start_nodes(url)
    node.publish("a", "x")
    redis.kill()
    eventually(lambda: ready(node) == 503)
    assert_unavailable(post(node))
    assert node.stop() == 0
    assert "cannot follow" in node.output
    refused = RunningServer("--log", url.replace(password, "wr0ng-w0rd"))
    redis.start()
    with pytest.raises(RuntimeError, match="did not start"):
        refused.start()
    assert refused.wait() == 1
    assert len(refused.output.splitlines()) == 1
    refused.close()
    assert password not in node.output
    assert "wr0ng-w0rd" not in refused.output


# What somebody else does to the keys


def test_what_somebody_deletes_or_writes_is_a_gap_also_on_a_node_that_starts_later(
    shared_redis: RedisServer, start_nodes: StartNodes
) -> None:
    keys = Stream(shared_redis)
    (early,) = start_nodes(keys.url)
    ids = [early.publish("p/x", str(number)) for number in range(20)]
    keys.command("XDEL", "events", *(f"0-{seq}" for seq in (5, 6, 7, 20)))
    (late,) = start_nodes(keys.url)
    with subscribed(f"{late.url}/events/p/*", last_event_id=ids[0]) as stream:
        frames = stream.until("feed.live")
        assert [frame.id for frame in frames[:-1]] == [*ids[1:4], ids[6], *ids[7:19], ids[19]]
        for frame, requested in ((frames[3], ids[3]), (frames[-2], ids[18])):
            assert frame.event == "feed.gap"
            assert frame.json == {"requested": requested, "resumed_from": frame.id, "reason": "expired"}
        keys.command("XADD", "events", "0-*", "somebody", "else's")
        ids.append(early.publish("p/x", "new"))
        gap, event = stream.frames(2)
        assert (gap.event, event.id, event.data) == ("feed.gap", ids[-1], "new")
    page = early.history(last=2)
    assert [event["id"] for event in page["events"]] == [ids[18]], "a page ends before a hole"
    page = early.history(last_event_id=page["next"])
    assert (page["gap"], [event["id"] for event in page["events"]]) == (
        {"requested": ids[18], "resumed_from": gap.id, "reason": "expired"},
        [ids[-1]],
    )
    assert [ready(node) for node in (early, late)] == [200, 200]
    assert not any("Traceback" in node.output for node in (early, late))


def test_nodes_know_of_each_other_and_answer_while_redis_is_made_to_forget_scripts(
    shared_redis: RedisServer, start_nodes: StartNodes
) -> None:
    url = Stream(shared_redis).url
    nodes = start_nodes(url, url)
    stopping = threading.Event()

    def forget() -> None:
        with shared_redis.client() as client:
            while not stopping.is_set():
                client.script_flush()

    forgetting = threading.Thread(target=forget)
    forgetting.start()
    try:
        with subscribed(f"{nodes[0].url}/events/p/*"):
            for number in range(100):
                nodes[0].publish("p/x", str(number))
                nodes[1].history(last_event_id="earliest")
            listed = eventually(lambda: nodes[1].http.get(f"{nodes[1].url}/subscriptions").json()["subscriptions"])
            assert len(listed) == 1
    finally:
        stopping.set()
        forgetting.join()
    assert not any("Traceback" in node.output for node in nodes)
