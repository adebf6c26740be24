"""FAULTS.md, R1 to R4: two nodes, readers and publishers on both, and a Redis that is killed, emptied, restored from an
older file, cut off and replaced.

What is lost, doubled or out of order is judged by ids (`tests.support.judge`), never by counters. `FEED_SOAK` asks for
the full number of rounds.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.conftest import StartRedis
from tests.support.nodes import (
    Nodes,
    StartNodes,
    Traffic,
    assert_heartbeats,
    assert_stayed,
    assert_told_once,
    assert_told_where_it_was_lost,
    assert_unavailable,
    post,
    ready,
    traffic,
)
from tests.support.proxy import Proxy, proxy_to
from tests.support.redis_server import RedisServer
from tests.support.running import RunningServer
from tests.support.streams import eventually, subscribed

SOAK = bool(os.environ.get("FEED_SOAK"))
ROUNDS = 20 if SOAK else 3
LOSSES = 20 if SOAK else 2
AWAY_SECONDS = 30.0 if SOAK else 2.0


# R1


@pytest.mark.soak
@pytest.mark.timeout(900 if SOAK else 120)
def test_r1_a_redis_that_is_killed_and_comes_back_whole_costs_nobody_an_event(
    start_redis: StartRedis, start_nodes: StartNodes
) -> None:
    chance = random.Random(1)
    redis = start_redis()
    nodes = start_nodes(redis.url(), redis.url())
    with traffic(redis, nodes) as flow:
        first = flow.readers[0].last_id
        for turn in range(ROUNDS):
            flow.more(chance.randrange(1, 60))
            redis.kill()
            for node in nodes:
                eventually(lambda: ready(node) == 503)
            if turn == 0:
                assert_heartbeats(flow.readers)
                assert_unavailable(eventually(lambda: (a := post(nodes[1], "refused")).status_code == 503 and a))
            redis.start()
            for node in nodes:
                eventually(lambda: ready(node) == 200)
            flow.wait_for_epoch(turn + 2)
            flow.more()
        flow.finish()
        flow.check()
        flow.check_insistence()
        assert "refused" not in flow.stored().values()
        assert all(reader.connections == 1 and not reader.gaps for reader in flow.readers)
        for node in nodes:
            assert "gap" not in node.history(last_event_id=first), "ids from before are valid"
    for node in nodes:
        assert "Traceback" not in node.output


def test_r1_nodes_that_start_before_redis_begin_by_themselves_when_it_is_there(
    start_redis: StartRedis, start_nodes: StartNodes
) -> None:
    redis = start_redis()
    redis.kill()
    nodes = start_nodes(redis.url(), redis.url())
    for node in nodes:
        assert ready(node) == 503
        assert node.http.get(f"{node.url}/healthz").status_code == 200
        assert_unavailable(post(node))
        with subscribed(f"{node.url}/events/p/*", opened=False) as stream:
            assert [frame.event for frame in stream.rest()] == ["feed.closing"]
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{node.url.replace('http', 'ws')}/ws/p/*")
        assert refused.value.response.status_code == 503
        assert node.http.get(f"{node.url}/events/p/*", headers={"Accept": "application/json"}).status_code == 503
    redis.start()
    for node in nodes:
        eventually(lambda: ready(node) == 200)
    with traffic(redis, nodes) as flow:
        flow.more()
        flow.finish()
        flow.check()
        assert len(flow.chronicle.epochs) == 1, "two nodes that begin at the same moment agree on one epoch"


# R2 and R3


def flush(redis: RedisServer) -> None:
    redis.command("FLUSHALL")


def restart_empty(redis: RedisServer) -> None:
    redis.kill()
    redis.wipe()
    redis.start()


@pytest.mark.soak
@pytest.mark.timeout(900 if SOAK else 120)
@pytest.mark.parametrize("lose", [flush, restart_empty])
def test_r2_a_redis_that_has_forgotten_all_is_a_gap_for_everybody_once(
    start_redis: StartRedis, start_nodes: StartNodes, lose: Callable[[RedisServer], None]
) -> None:
    redis = start_redis()
    nodes = start_nodes(redis.url(), redis.url())
    with traffic(redis, nodes) as flow:
        for turn in range(LOSSES):
            before = list(flow.stored())[-1]
            lose(redis)
            assert_told_once(flow, turn)
            for node in nodes:
                assert node.history(last_event_id=before)["gap"]["reason"] == "unknown"
        flow.finish()
        flow.check()
        assert_stayed(flow, LOSSES)


@pytest.mark.soak
@pytest.mark.timeout(900 if SOAK else 120)
@pytest.mark.parametrize("kind", ["rdb", "aof"])
def test_r3_a_redis_without_its_newest_events_is_a_gap_for_everybody_once_and_older_ids_stay_valid(
    start_redis: StartRedis, start_nodes: StartNodes, tmp_path: Path, kind: str
) -> None:
    redis = start_redis(appendonly="yes" if kind == "aof" else "no")
    with proxy_to(redis.port) as proxy:
        nodes = start_nodes(redis.url(), proxy.url())
        lose_the_tail(redis, nodes, proxy, kind, tmp_path)


def lose_the_tail(redis: RedisServer, nodes: Nodes, proxy: Proxy, kind: str, folder: Path) -> None:
    """Again and again; every other time one node is away meanwhile, and has not even seen all that is kept."""
    with traffic(redis, nodes) as flow:
        for turn in range(LOSSES):
            if turn % 2:
                proxy.cut()
                flow.more()
            kept = list(flow.stored())
            if kind == "rdb":
                redis.command("SAVE")
            redis.copy_data(folder / f"older{turn}")
            flow.more()
            before = flow.stored()
            redis.kill()
            redis.restore(folder / f"older{turn}")
            redis.start()
            if turn % 2:
                flow.more()
                proxy.heal()
            assert_told_once(flow, turn)
            after = flow.stored()
            lost = [id for id in before if id not in after]
            assert lost
            assert set(kept) <= set(after)
            for node in nodes:
                assert node.history(last_event_id=lost[-1])["gap"]["reason"] == "unknown"
                assert_told_where_it_was_lost(node, kept[-3], list(after))
        flow.finish()
        flow.check()
        assert_stayed(flow, LOSSES)


# R4


@pytest.mark.soak
@pytest.mark.timeout(1800 if SOAK else 120)
@pytest.mark.parametrize(("how", "rounds"), [("cut", ROUNDS - ROUNDS // 2), ("stall", ROUNDS // 2)])
def test_r4_a_node_that_was_cut_off_from_redis_gives_its_readers_what_they_missed(
    start_redis: StartRedis, start_nodes: StartNodes, how: str, rounds: int
) -> None:
    redis = start_redis()
    with proxy_to(redis.port) as proxy:
        nodes = start_nodes(redis.url(), proxy.url())
        with traffic(redis, nodes) as flow:
            here, there = flow.of(nodes[0]), flow.of(nodes[1])
            for _ in range(rounds):
                getattr(proxy, how)()
                end = time.monotonic() + AWAY_SECONDS
                eventually(lambda: ready(nodes[1]) == 503)
                missed = flow.publish(nodes[0], "missed")
                eventually(lambda: all(reader.has(missed) for reader in here))
                assert_unavailable(eventually(lambda: (a := post(nodes[1], "refused")).status_code == 503 and a))
                time.sleep(max(0, end - time.monotonic()))
                assert_heartbeats(there)
                assert not any(reader.has(missed) for reader in there)
                proxy.heal()
                eventually(lambda: all(reader.has(missed) for reader in there))
                eventually(lambda: ready(nodes[1]) == 200)
                flow.more()
            flow.finish()
            flow.check()
            flow.check_insistence()
            assert "refused" not in flow.stored().values()
            assert_stayed(flow, 0)


# A failover


@pytest.mark.parametrize("tail", ["kept", "lost"])
def test_a_failover_is_a_new_epoch_and_a_gap_only_if_it_lost_the_tail(
    start_redis: StartRedis, start_nodes: StartNodes, tail: str
) -> None:
    master, replica = start_redis(repl_diskless_sync_delay="0"), start_redis()
    with proxy_to(master.port) as proxy, proxy_to(master.port) as replication:
        replica.command("REPLICAOF", "127.0.0.1", replication.port)
        eventually(lambda: replica.command("INFO", "replication")["master_link_status"] == "up")
        nodes = start_nodes(proxy.url(), proxy.url())
        with traffic(master, nodes) as flow:
            kept = list(flow.stored())[-3]
            flow.more()
            eventually(lambda: offset(replica, "slave_repl_offset") >= offset(master, "master_repl_offset") - 5_000)
            if tail == "lost":
                replication.stall()
                flow.more()
            else:
                master.command("CLIENT", "PAUSE", 60_000, "WRITE")
                eventually(lambda: offset(replica, "slave_repl_offset") >= offset(master, "master_repl_offset"))
            master.kill()
            replication.cut()
            proxy.target = replica.port
            proxy.reset()
            for node in nodes:
                eventually(lambda: post(node).status_code == 503)
            replica.command("REPLICAOF", "NO", "ONE")
            flow.redis = replica
            if tail == "lost":
                assert_told_once(flow, 0)
            flow.wait_for_epoch(2)
            flow.more()
            flow.finish()
            flow.check()
            assert len(flow.chronicle.epochs) == 2
            for reader in flow.readers:
                assert reader.connections == 1
                assert len(reader.gaps) == (tail == "lost")
            for node in nodes:
                if tail == "lost":
                    assert_told_where_it_was_lost(node, kept, list(flow.stored()))
                else:
                    assert "gap" not in node.history(last_event_id=kept)
                assert "Traceback" not in node.output


def offset(redis: RedisServer, name: str) -> int:
    return int(redis.command("INFO", "replication")[name])


def hand_over(old: RedisServer, new: RedisServer) -> None:
    """Nothing is lost."""
    old.command("FAILOVER", "TO", "127.0.0.1", new.port)
    eventually(lambda: new.command("INFO", "replication")["role"] == "master")


def depose(old: RedisServer, new: RedisServer) -> None:
    """What the old one takes meanwhile is lost."""
    new.command("REPLICAOF", "NO", "ONE")
    old.command("REPLICAOF", "127.0.0.1", new.port)


@pytest.mark.parametrize(("change", "is_late"), [(hand_over, True), (depose, False)])
def test_a_primary_that_became_a_replica_is_left_though_its_connections_still_work(
    start_redis: StartRedis, start_nodes: StartNodes, change: Callable[[RedisServer, RedisServer], None], is_late: bool
) -> None:
    """One address leads to whoever is the primary, at once or a little later; connections from before stay."""
    old, new = start_redis(repl_diskless_sync_delay="0"), start_redis(repl_diskless_sync_delay="0")
    with proxy_to(old.port) as proxy:
        new.follow(old)
        nodes = start_nodes(proxy.url(), proxy.url())
        with traffic(old, nodes) as flow:
            kept = flow.note() and list(flow.stored())[-3]
            if not is_late:
                proxy.target = new.port
            change(old, new)
            if is_late:
                for node in nodes:
                    assert_unavailable(eventually(lambda: (a := post(node)).status_code == 503 and a))
                proxy.target = new.port
            began = time.monotonic()
            for node in nodes:
                eventually(lambda: published(flow, node))
            print(f"\n{time.monotonic() - began:.2f} s until both nodes took events again")
            for node in nodes:
                eventually(lambda: ready(node) == 200)
            flow.redis = new
            flow.wait_for_epoch(2)
            flow.more()
            flow.finish()
            flow.check()
            if change is hand_over:
                flow.check_insistence()
                assert not any(reader.gaps for reader in flow.readers)
            assert all(reader.connections == 1 for reader in flow.readers)
            for node in nodes:
                assert node.history(last_event_id=kept)["events"]
                eventually(lambda: hears_all(node))
                assert "Traceback" not in node.output
            assert old.clients() <= {"ask", "read"}, "those are left when they are used next"


def hears_all(node: RunningServer) -> bool:
    """Whether it knows who listens on all nodes."""
    found = node.http.get(f"{node.url}/subscriptions").json()
    return found["silent"] == [] and len(found["subscriptions"]) == 4


def published(flow: Traffic, node: RunningServer) -> bool:
    """Whether it takes an event."""
    answer = post(node)
    if answer.status_code == 201:
        flow.published[answer.json()["id"]] = "x"
    return answer.status_code == 201
