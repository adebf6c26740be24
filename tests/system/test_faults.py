"""FAULTS.md, process and log: P1 to P8 against a real server that is killed, starved and tampered with.

What is lost, doubled or out of order is judged by ids (`tests.support.judge`), never by counters. `FEED_SOAK` asks for
the full number of rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import shutil
import sqlite3
import threading
import time
from pathlib import Path

import httpx
import pytest

from feed import Feed, FeedOptions, Retention
from tests.conftest import Serve
from tests.support.judge import Announced, Got, judge
from tests.support.running import RunningServer
from tests.support.streams import eventually, subscribed
from tests.support.traffic import Follower, Publisher, threads_stopped, wait_for_more

ROUNDS = 50 if os.environ.get("FEED_SOAK") else 5


@pytest.fixture
def durable(serve: Serve, tmp_path: Path) -> RunningServer:
    """A server on a SQLite log, in a file `feed.db`."""
    return serve("--log", f"sqlite:{tmp_path / 'feed.db'}")


def integrity(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        connection.close()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_p1_kill_9_while_publishing_loses_doubles_and_reorders_nothing(durable: RunningServer, tmp_path: Path) -> None:
    chance = random.Random(1)
    publishers = [Publisher(durable, name) for name in ("a", "b", "c", "d")]
    followers = [Follower(durable) for _ in range(3)]
    with threads_stopped(*publishers, *followers):
        for _ in range(ROUNDS):
            # At a random moment: after so many more acknowledged events, wherever the next one is just then.
            wait_for_more(publishers, chance.randrange(1, 150))
            durable.kill()
            durable.start()
        for publisher in publishers:
            publisher.stopping.set()
            publisher.join(15)
        last = durable.publish("p/last", "last")
        for follower in followers:
            eventually(lambda: follower.has(last), 30)
    assert durable.stop() == 0
    assert integrity(tmp_path / "feed.db") == "ok"
    acknowledged = {id for publisher in publishers for id in publisher.acknowledged} | {last}
    unanswered = set.union(*(publisher.unanswered for publisher in publishers))
    stored = stored_events(tmp_path / "feed.db")
    assert acknowledged <= set(stored), "every acknowledged event is in the log"
    expected = [(seq, id) for id, (seq, _) in stored.items()]
    for follower in followers:
        assert follower.connections > ROUNDS / 2
        assert follower.gaps == []
        verdict = judge(expected, [entry for entry in follower.account if isinstance(entry, Got)])
        assert verdict.good, verdict
        # What was not acknowledged and is there all the same was at least sent, and is there once.
        extra = [follower.got[id] for id in follower.got if id not in acknowledged]
        assert set(extra) <= unanswered
        assert len(extra) == len(set(extra))


def stored_events(path: Path) -> dict[str, tuple[int, str]]:
    """What the file holds, by id: seq and data. Read with SQL, not with the server's own code."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(
            "SELECT (SELECT epoch FROM feed_epochs WHERE first <= seq ORDER BY first DESC, rowid DESC LIMIT 1),"
            " seq, data FROM feed_events ORDER BY seq"
        )
        return {f"{epoch}-{seq}": (seq, data) for epoch, seq, data in rows}
    finally:
        connection.close()


def test_p2_what_was_committed_before_a_crash_but_never_sent_comes_on_the_return(
    durable: RunningServer,
) -> None:
    for _ in range(3):
        with subscribed(f"{durable.url}/events/a", opened=False) as stream:
            position = stream.frame().id or ""
        ids = [durable.publish("a", str(number)) for number in range(20)]
        durable.kill()
        durable.start()
        with subscribed(f"{durable.url}/events/a", Last_Event_ID=position) as stream:
            assert [frame.id for frame in stream.until("feed.live")][:-1] == ids


def test_p3_a_restart_goes_on_and_no_id_is_used_twice(durable: RunningServer) -> None:
    ids = []
    for end in (durable.kill, durable.stop, durable.kill):
        ids += [durable.publish("a", "x") for _ in range(5)]
        end()
        durable.start()
    assert [event["id"] for event in durable.history()["events"]] == ids
    assert [int(id.split("-")[1]) for id in ids] == list(range(1, 16))
    for count, id in enumerate(ids, 1):
        page = durable.history(last_event_id=id)
        assert "gap" not in page
        assert len(page["events"]) == 15 - count


@pytest.mark.parametrize("tampering", ["deleted", "emptied", "restored"])
def test_p4_a_log_that_is_not_the_same_any_more_is_a_gap_though_its_numbers_recur(
    durable: RunningServer, tmp_path: Path, tampering: str
) -> None:
    kept = [durable.publish("a", f"kept {number}") for number in range(5)]
    durable.stop()
    path = tmp_path / "feed.db"
    shutil.copy(path, tmp_path / "copy.db")
    durable.start()
    lost = [durable.publish("a", f"lost {number}") for number in range(5)]
    durable.kill()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    if tampering == "restored":
        shutil.copy(tmp_path / "copy.db", path)
    if tampering == "emptied":
        path.touch()
    durable.start()
    new = [durable.publish("a", f"new {number}") for number in range(12)]
    assert not set(new) & {*kept, *lost}
    with subscribed(f"{durable.url}/events/a", last_event_id=lost[2]) as stream:
        gap, *frames = stream.until("feed.live")
        assert gap.json["reason"] == "unknown"
        expected = [*kept, *new] if tampering == "restored" else new
        assert [frame.id for frame in frames[:-1]] == expected
    page = durable.history(last_event_id=kept[4])
    if tampering == "restored":
        assert "gap" not in page
        assert [event["id"] for event in page["events"]] == new
    else:
        assert page["gap"]["reason"] == "unknown"


def test_p4_a_log_deleted_under_a_running_server_takes_nothing_more_and_says_so(
    durable: RunningServer, tmp_path: Path
) -> None:
    durable.publish("a", "x")
    (tmp_path / "feed.db").unlink()

    def refused() -> httpx.Response | None:
        answer = durable.http.post(f"{durable.url}/events/a", content="y")
        return answer if answer.status_code == 503 else None

    assert "restart" in eventually(refused).json()["detail"]
    assert durable.http.get(f"{durable.url}/readyz").status_code == 503
    assert durable.http.get(f"{durable.url}/healthz").status_code == 200


def execute(path: Path, statement: str) -> None:
    """As another program does to the file of a server that runs."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(statement)


def copy_database(source: Path, target: Path) -> None:
    """Like `.backup` and `.restore`."""
    with contextlib.closing(sqlite3.connect(source)) as there, contextlib.closing(sqlite3.connect(target)) as here:
        there.backup(here)


def pages(server: RunningServer, pattern: str, after: str) -> list[str | tuple[str, str]]:
    """The ids of events, and from where to where gaps are, page after page until there is nothing more."""
    found: list[str | tuple[str, str]] = []
    while True:
        page = server.history(pattern, last_event_id=after)
        if "gap" in page:
            found.append((page["gap"]["requested"], page["gap"]["resumed_from"]))
        elif not page["events"]:
            return found
        found += [event["id"] for event in page["events"]]
        after = page["next"]


def stream(server: RunningServer, pattern: str, after: str) -> list[str | tuple[str, str]]:
    """The same of a stream, until it is live."""
    with subscribed(f"{server.url}/events/{pattern}", Last_Event_ID=after) as frames:
        return [
            (frame.json["requested"], frame.json["resumed_from"]) if frame.event == "feed.gap" else frame.id or ""
            for frame in frames.until("feed.live")[:-1]
        ]


def test_p4_an_older_copy_restored_under_a_running_server_is_told_to_readers_and_takes_nothing(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", window_events=1)
    ids = [server.publish("a", str(number)) for number in range(10)]
    copy_database(tmp_path / "feed.db", tmp_path / "copy.db")
    ids += [server.publish("a", str(number)) for number in range(10)]
    copy_database(tmp_path / "copy.db", tmp_path / "feed.db")
    for pattern in ("a", "**"):
        assert pages(server, pattern, ids[3]) == [*ids[4:10], (ids[9], ids[19])]
        assert stream(server, pattern, ids[3]) == [*ids[4:10], (ids[9], ids[19])]
    assert server.http.get(f"{server.url}/readyz").status_code == 503
    answer = server.http.post(f"{server.url}/events/a", content="y")
    assert answer.status_code == 503
    assert "restart" in answer.json()["detail"]
    assert server.stop() == 0
    server.start()
    assert server.history("a")["events"][-1]["id"] == ids[9]
    assert server.history("a", last_event_id=ids[15])["gap"]["reason"] == "unknown"
    assert server.publish("a", "z")


def test_p4_an_event_deleted_under_a_running_server_is_a_gap_and_the_next_start_works(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", window_events=1)
    ids = [server.publish("a", str(number)) for number in range(10)]
    execute(tmp_path / "feed.db", "DELETE FROM feed_events WHERE seq = 6")
    for _ in range(2):
        for pattern in ("a", "**"):
            expected = [ids[3], ids[4], (ids[4], ids[5]), *ids[6:]]
            assert pages(server, pattern, ids[2]) == expected
            assert stream(server, pattern, ids[2]) == expected
        assert server.http.get(f"{server.url}/readyz").status_code == 200
        ids.append(server.publish("a", "more"))
        assert server.stop() == 0
        server.start()


def test_p9_an_event_that_cannot_be_read_is_a_gap_while_it_runs_and_no_start_after_that(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", window_events=1)
    ids = [server.publish("a", f"SECRET {number}") for number in range(10)]
    execute(tmp_path / "feed.db", "UPDATE feed_events SET data = CAST(x'534543524554ff' AS TEXT) WHERE seq = 6")
    for pattern in ("a", "**"):
        expected = [ids[3], ids[4], (ids[4], ids[5]), *ids[6:]]
        assert pages(server, pattern, ids[2]) == expected
        assert stream(server, pattern, ids[2]) == expected
    assert server.publish("a", "more")
    assert server.stop() == 0
    with pytest.raises(RuntimeError, match="did not start"):
        server.start()
    assert server.wait() == 1
    assert "event 6 cannot be read" in server.output
    assert "SECRET" not in server.output
    assert len(server.output.splitlines()) == 1


def limit_file_size(server: RunningServer, size: int) -> None:
    """A disk that is full from the server's point of view: no file may grow beyond `size`."""
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, hard))


def test_p8_a_full_disk_is_503_streams_stay_and_it_works_again_by_itself(
    durable: RunningServer, tmp_path: Path
) -> None:
    ids = [durable.publish("a", "x")]
    with subscribed(f"{durable.url}/events/a?last_event_id=earliest") as stream:
        assert stream.frame().id == ids[0]
        stream.until("feed.live")
        limit_file_size(durable, (tmp_path / "feed.db-wal").stat().st_size)
        refused = 0
        for number in range(20):
            answer = durable.http.post(f"{durable.url}/events/a", content=f"{number} " + "x" * 50_000)
            if answer.status_code == 201:
                ids.append(answer.json()["id"])
            else:
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.headers["content-type"] == "application/problem+json"
                assert str(tmp_path) not in answer.text
                refused += 1
        assert refused > 5
        assert durable.http.get(f"{durable.url}/healthz").status_code == 200
        answer = durable.http.get(f"{durable.url}/readyz")
        assert answer.status_code == 503
        assert "disk" in answer.json()["detail"]
        limit_file_size(durable, resource.RLIM_INFINITY)
        eventually(lambda: durable.http.get(f"{durable.url}/readyz").status_code == 200)
        eventually(lambda: "takes events again" in durable.remarks)
        assert len(durable.remarks.splitlines()) == 2, "one when it began, and one when it was over"
        ids += [durable.publish("a", "again") for _ in range(3)]
        assert [frame.id for frame in stream.frames(len(ids) - 1)] == ids[1:], "nothing that was refused was sent"
    durable.kill()
    durable.start()
    assert [event["id"] for event in durable.history()["events"]] == ids


def test_p8_a_lock_held_by_another_process_is_503_and_the_loop_is_never_blocked(
    durable: RunningServer, tmp_path: Path
) -> None:
    durable.publish("a", "x")
    other = sqlite3.connect(tmp_path / "feed.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answers: list[httpx.Response] = []
    publishing = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{durable.url}/events/a", content="y", timeout=30, verify=False))
    )
    publishing.start()
    health = 0
    while publishing.is_alive():
        assert durable.http.get(f"{durable.url}/healthz").status_code == 200
        health += 1
    publishing.join()
    assert answers[0].status_code == 503
    assert health > 5, "the lock was waited for elsewhere, for two seconds"
    assert durable.http.get(f"{durable.url}/readyz").status_code == 503
    other.execute("ROLLBACK")
    other.close()
    assert durable.publish("a", "z")
    assert durable.http.get(f"{durable.url}/readyz").status_code == 200
    assert [event["data"] for event in durable.history()["events"]] == ["x", "z"]


def test_p9_a_second_server_on_the_same_file_does_not_start(
    durable: RunningServer, serve: Serve, tmp_path: Path
) -> None:
    second = RunningServer("--log", f"sqlite:{tmp_path / 'feed.db'}")
    with pytest.raises(RuntimeError, match=r"in use by another process \(\d+\).* second server.* workers .*redis://"):
        second.start()
    assert second.wait() == 1
    assert durable.publish("a", "x")


def test_p12_a_second_signal_ends_it_at_once_with_the_log_intact(durable: RunningServer, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(subscribed(f"{durable.url}/events/a"))
        ids = [durable.publish("a", str(number)) for number in range(50)]
        durable.signal(15)
        durable.signal(15)
        assert durable.wait() == 0
    assert "Traceback" not in durable.output
    assert integrity(tmp_path / "feed.db") == "ok"
    assert list(stored_events(tmp_path / "feed.db")) == ids


def test_p13_a_clock_that_steps_back_changes_neither_ids_nor_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = time.time_ns
    step = 0
    monkeypatch.setattr(time, "time_ns", lambda: real() + step)

    async def publish() -> None:
        nonlocal step
        options = FeedOptions(retention=Retention(events=10))
        for url in ("memory:", f"sqlite:{tmp_path / 'clock.db'}"):
            async with Feed(url, options) as feed:
                ids = []
                for day in (0, 1, -1, 0):
                    step = day * 86_400 * 10**9
                    ids += [await feed.publish("a", "x") for _ in range(4)]
                page = await feed.page("**")
                assert [event.id for event in page.events] == ids[-10:]
                assert [event.seq for event in page.events] == list(range(7, 17))

    asyncio.run(publish())


def test_a_gap_in_the_account_of_a_follower_would_be_seen() -> None:
    assert not judge([(1, "a"), (2, "b")], [Got("a"), Announced(2, 3)]).good
