"""`feed bench state`: whether its readers notice what is wrong with the state, and a small run of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socketserver
import threading
from multiprocessing import Pipe
from pathlib import Path

import pytest

from feed_server.bench.payload import make_data, make_token, sent_at, topic_number
from feed_server.bench.publishers import Publishers, PublishersJob
from feed_server.bench.state_readers import Account, Crawler, Queues, queues
from feed_server.bench.worker import now
from feed_server.cli.main import run
from tests.support import forking

SECONDS = 60.0
LIVE = b'id: k3f-9\nevent: feed.live\ndata: {"replayed":1}\n\n'


def frame(topic: str, seq: int, sent_at: int = 5_000_000, *, resume: str = "") -> bytes:
    """One event as it comes to a reader of state."""
    data = make_data(make_token(7, 42, sent_at), 200)
    return b'id: k3f-%d\ndata: {"id":"k3f-%d",%b"topic":"%b","type":"message","data":%b,"time":"2026-11-21"}\n\n' % (
        seq,
        seq,
        b'"resume":"%b",' % resume.encode() if resume else b"",
        topic.encode(),
        data,
    )


# What a reader was told.


def test_what_a_reader_holds_is_found_wherever_the_bytes_are_cut() -> None:
    stream = frame("a/1", 3, resume="k3f-3-9") + LIVE + frame("a/2", 7) + frame("a/1", 8)
    for cut in range(len(stream)):
        account = Account()
        told = [*account.take(stream[:cut]), *account.take(stream[cut:])]
        assert account.newest == {b"a/1": 8, b"a/2": 7}
        assert (account.events, account.turned_back, account.is_live) == (3, 0, True), cut
        assert [each.topic for each in told] == [b"a/1", b"a/2", b"a/1"]
        assert [stream[: each.end].endswith(b"}\n") for each in told] == [True] * 3, cut


@pytest.mark.parametrize("seqs", [(3, 3), (4, 3)])
def test_a_value_that_comes_again_or_too_late_is_noticed(seqs: tuple[int, int]) -> None:
    account = Account()
    for number, seq in enumerate(seqs):
        account.note(frame("a/1", seq) + frame("a/2", 9 + number))
    assert account.turned_back == 1


def test_the_kernels_table_says_what_is_under_way_on_each_connection() -> None:
    table = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   1: 0100007F:8B09 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2453585 1 0 100 0 0 10 0
   2: 0100007F:8B09 0100007F:9ED0 01 00000100:00000000 01:00000000 00000000     0        0 2453587 2 0 20 0 0 11 -1
   3: 0100007F:9ED0 0100007F:8B09 01 00000000:0000000A 00:00000000 00000000     0        0 2453586 3 0 20 4 0 10 -1
   4: 0100007F:9ED2 0100007F:8B0A 01 00000000:0000000B 00:00000000 00000000     0        0 2453586 3 0 20 4 0 10 -1
"""
    assert queues(table, 0x8B09) == {0x9ED0: Queues(256, 10)}


def test_a_value_is_as_old_as_it_was_when_the_server_wrote_it() -> None:
    crawler = Crawler(begin=1_000_000)
    one, two = frame("a/1", 3, 2_000_000), frame("a/1", 4, 2_500_000)
    crawler.look(2_100_000, Queues(unsent=len(one), unread=0))
    crawler.look(3_700_000, Queues(unsent=len(two), unread=len(one)))
    crawler.take(one + two[:50])
    assert crawler.oldest == 100_000, "the first was under way already"
    crawler.look(9_000_000, Queues(unsent=0, unread=len(two) - 50))
    crawler.take(two[50:])
    assert crawler.oldest == 1_200_000


def test_what_was_there_before_a_reader_came_may_be_as_old_as_it_likes() -> None:
    crawler = Crawler(begin=1_000_000)
    crawler.look(5_000_000, Queues(0, 1_000))
    crawler.take(frame("a/1", 3, sent_at=999_999))
    assert crawler.oldest == 0


def test_a_topic_that_is_written_no_value_for_too_long_is_left_out() -> None:
    crawler = Crawler(begin=0)
    for at in (50, 100, 250, 300):
        value = frame("a/1", at, sent_at=0)
        crawler.look(at, Queues(unsent=0, unread=len(value)))
        crawler.take(value)
    crawler.look(900, Queues(unsent=0, unread=1_000))
    crawler.take(frame("a/1", 999, sent_at=0), end=350)  # written behind the end: it is not judged
    topics = {b"a/1": 999}
    assert crawler.left_out(topics, 149, 350) == 1, "between 100 and 250"
    assert crawler.left_out(topics, 150, 350) == 0
    assert crawler.left_out({**topics, b"a/2": 1}, 349, 350) == 1, "a/2 never came"
    assert crawler.rate(at=1_000_000) == crawler.account.received


@pytest.mark.parametrize(("publishers", "topics"), [(1, 7), (16, 1_000), (5, 3)])
def test_publishers_go_through_all_topics_in_turn(publishers: int, topics: int) -> None:
    tokens = [make_token(number, serial, 0) for serial in range(topics) for number in range(publishers)]
    found = [topic_number(token, publishers, topics) for token in tokens]
    assert found == [number % topics for number in range(topics * publishers)]


class _Accepting(socketserver.StreamRequestHandler):
    """Accepts what is published, and keeps the tokens."""

    def handle(self) -> None:
        tokens: list[bytes] = []
        self.server.tokens = tokens  # type: ignore[attr-defined]
        length = 0
        for line in self.rfile:
            if found := re.fullmatch(rb"Content-Length: (\d+)\r\n", line):
                length = int(found[1])
            if line != b"\r\n":
                continue
            tokens += re.findall(rb'"n":"([^"]+)"', self.rfile.read(length))
            body = b'{"id":"a-%d","topic":"t"}' % len(tokens)
            self.wfile.write(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@pytest.mark.parametrize("spread", [0, 7])
def test_that_a_publisher_is_late_makes_no_value_of_state_older(spread: int) -> None:
    ours, theirs = Pipe()
    with ours, theirs, socketserver.TCPServer(("127.0.0.1", 0), _Accepting) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        port = server.server_address[1]
        job = PublishersJob("127.0.0.1", [port], "/events/t", "", "t", 1, 200, 1, rate=100.0, spread=spread)
        with contextlib.closing(Publishers(job, ours)) as publishers:
            called = now()
            published = publishers.publish(called - 5_000_000, called - 4_970_000)
        thread.join()
        times = [sent_at(token) for token in server.tokens]  # type: ignore[attr-defined]
        due = [called - 5_000_000 + number * 10_000 for number in range(3)]
        assert list(published.sent) == due, "what a publish took counts from when it was due"
        assert [time >= called for time in times] == [True] * 3 if spread else times == due


def test_a_stream_that_begins_or_ends_is_known_to() -> None:
    account = Account()
    account.note(b"retry: 3000\nid: k3f-0-9\nevent: feed.open\n")
    assert (account.is_open, account.is_closing) == (True, False)
    account.note(b'data: {}\n\nretry: 9\nevent: feed.closing\ndata: {"reason":"busy","retry":9}\n\n')
    assert account.is_closing


# A small run.


def bench(*arguments: str) -> tuple[int, str]:
    """One run to its end: the exit code, and what it said."""
    done = forking.run(["bench", "state", *arguments], os.environ, timeout=SECONDS)
    return done.returncode, (done.stdout + done.stderr).decode()


def test_a_small_run_has_all_three_parts_in_it(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    code, said = bench(
        *("--topics", "40", "--hot", "20", "--readers", "3", "--reading", "100000", "--rate", "300/s"),
        *("--publishers", "3", "--seconds", "0.6", "--warmup", "0.1", "--json", str(file)),
    )
    assert code == 0, said
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["faults"] == []
    [round] = written["rounds"]
    found = round["figures"]
    # How fast all that was is the machine's matter. That everybody held what they should the bench judges by ids.
    assert found["load_topics"] == 40
    assert found["load_bytes"] > 40 * 200
    assert found["load_live_max"] >= found["load_live"] > 0
    assert found["hot_read"] >= 3 * 20
    assert {"state_without", "state_beside", "hot_events", "hot_left_out", "hot_oldest"} <= set(found)
    assert found["hot_unsent"] >= 0
    assert all(found[name] > 0 for name in ("hot_memory", "hot_memory_third", "hot_memory_end"))
    assert "every reader of state held the newest event of every topic, and was told none twice" in said
    assert "first load until feed.live, s" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--transport", "ws"], "--transport ws: the readers of feed bench state read SSE"),
        (["--text"], "--text: cannot be combined with state"),
        (["--nodes", "2", "--log", "redis:"], "--nodes: cannot be combined with state"),
        (["--against", "naive"], "state: naive is not a feed that the bench starts"),
        (["--url", "http://127.0.0.1:1"], "is not a feed that the bench starts: use --log"),
    ],
)
def test_what_state_cannot_be_measured_with_is_said(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "state", *arguments]) == 1
    assert message in capsys.readouterr().err
