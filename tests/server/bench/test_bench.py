"""`feed bench`: whether its readers notice all that can go wrong with a stream, and small runs of everything."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socketserver
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from feed_server.bench import targets
from feed_server.bench.checker import Checker, judge
from feed_server.bench.cores import Cores, share_cores, share_out
from feed_server.bench.framing import (
    FEED_SSE,
    FEED_WS,
    FEED_WS_BATCH,
    PLAIN_SSE,
    PLAIN_WS,
    Form,
    Garbled,
    audit,
    frame,
    id_of,
    plain,
    scan,
    token_of,
)
from feed_server.bench.measure import Load, percentiles, true_order
from feed_server.bench.payload import make_data, make_token, publisher_of, sent_at
from feed_server.bench.plan import Plan, Scenario
from feed_server.bench.publishers import Published
from feed_server.bench.targets import FeedTarget, NaiveTarget, NchanTarget
from feed_server.bench.worker import BenchError
from feed_server.cli.main import run
from tests.conftest import StartRedis
from tests.support import forking
from tests.support.redis_server import RedisServer, redis_program
from tests.support.streams import eventually

SECONDS = 60.0
SIZE = 200
FORMS = [FEED_SSE, FEED_WS, FEED_WS_BATCH, PLAIN_SSE, PLAIN_WS]

# What is published, and how it comes in.


def token(number: int) -> bytes:
    return make_token(number % 16, number // 16, 1_000_000 + number)


def websocket(text: bytes) -> bytes:
    if len(text) < 126:
        return b"\x81" + bytes((len(text),)) + text
    if len(text) < 1 << 16:
        return b"\x81\x7e" + len(text).to_bytes(2, "big") + text
    return b"\x81\x7f" + len(text).to_bytes(8, "big") + text


def text(form: Form, number: int) -> bytes:
    data = make_data(token(number), SIZE)
    if not form.gives_ids:
        return data
    return b'{"id":"k3f-%d","topic":"bench","type":"message","data":%b,"time":"2026-11-21T03:05:00.123Z"}' % (
        number,
        data,
    )


def record(form: Form, number: int) -> bytes:
    """One event as it comes to a reader."""
    if form.is_websocket:
        return websocket(text(form, number))
    if form.gives_ids:
        return b"id: k3f-%d\ndata: %b\n\n" % (number, make_data(token(number), SIZE))
    return b"id: 1795241725:%d\ndata: %b\n\n" % (number, make_data(token(number), SIZE))


def key(form: Form, number: int) -> bytes:
    """Which event that is."""
    return b"k3f-%d %b" % (number, token(number)) if form.gives_ids else token(number)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def test_data_has_its_size_and_says_who_sent_it_and_when() -> None:
    made = make_token(7, 42, 123_456)
    data = make_data(made, SIZE)
    assert len(data) == SIZE
    assert json.loads(data)["n"] == made.decode()
    assert (publisher_of(made), sent_at(made)) == (7, 123_456)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.name}-{'ids' if form.gives_ids else 'plain'}")
def test_events_are_found_wherever_the_bytes_are_cut(form: Form) -> None:
    stream = b"".join(record(form, number) for number in (1, 2, 3))
    for cut in range(1, len(stream)):
        checker = Checker(form)
        reader = checker.add()
        checker.take(reader, stream[:cut])
        checker.take(reader, stream[cut:])
        assert [plain(form, found) for found in checker.reference] == [key(form, number) for number in (1, 2, 3)], cut


def test_a_key_has_the_id_and_the_token() -> None:
    for form in FORMS:
        (found,) = scan(form, record(form, 5)).keys
        assert token_of(found) == token(5)
        if form.gives_ids:
            assert id_of(found) == b"k3f-5"


def test_events_of_one_message_are_told_apart() -> None:
    message = websocket(b"\n".join(text(FEED_WS_BATCH, number) for number in range(1, 400)))
    assert len(scan(FEED_WS_BATCH, message).keys) == 399
    assert audit(FEED_WS_BATCH, HEAD + message, SIZE) == [key(FEED_WS_BATCH, number) for number in range(1, 400)]


def test_control_events_and_comments_are_no_events() -> None:
    stream = (
        b"retry: 3000\nid: k3f-0\nevent: feed.open\ndata: {}\n\n:\n"
        + record(FEED_SSE, 1)
        + b'id: k3f-1\nevent: feed.live\ndata: {"replayed":1}\n\n'
    )
    piece = scan(FEED_SSE, stream)
    assert piece.count == 1
    assert piece.live
    assert audit(FEED_SSE, HEAD + stream, SIZE) == [key(FEED_SSE, 1)]


def test_pings_are_found_between_events() -> None:
    piece = scan(FEED_WS, record(FEED_WS, 1) + b"\x89\x04ping" + record(FEED_WS, 2))
    assert (piece.count, piece.pings, piece.rest) == (2, [b"ping"], b"")
    assert frame(0xA, b"ping") == b"\x8a\x84\0\0\0\0ping"


def test_chunks_of_http_are_joined_for_the_audit() -> None:
    records = record(FEED_SSE, 1) + record(FEED_SSE, 2)
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (records[:100], records[100:]))
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert audit(FEED_SSE, head + chunked, SIZE) == [key(FEED_SSE, 1), key(FEED_SSE, 2)]
    with pytest.raises(Garbled, match="chunk"):
        audit(FEED_SSE, head + chunked[1:], SIZE)


@pytest.mark.parametrize("form", [FEED_SSE, FEED_WS, PLAIN_WS])
def test_an_audit_notices_a_single_wrong_byte_of_data(form: Form) -> None:
    good = record(form, 1)
    assert audit(form, HEAD + good, SIZE) == [key(form, 1)]
    with pytest.raises(Garbled):
        audit(form, HEAD + good.replace(b"xx", b"xy", 1), SIZE)


# Streams that are not what they should be.

Doctor = Callable[[list[int]], list[int]]


def lose(numbers: list[int]) -> list[int]:
    return numbers[:7_000] + numbers[7_001:]


def swap(numbers: list[int]) -> list[int]:
    return [*numbers[:7_000], numbers[7_001], numbers[7_000], *numbers[7_002:]]


def double(numbers: list[int]) -> list[int]:
    return numbers[:7_000] + numbers[6_999:]


def lose_the_last(numbers: list[int]) -> list[int]:
    return numbers[:-1]


@pytest.mark.parametrize("who", ["one", "first", "all"])
@pytest.mark.parametrize(
    ("doctor", "kind", "what"),
    [
        (lose, "lost", [7_001]),
        (swap, "reordered", [7_001]),
        (double, "doubled", [7_000]),
        (lose_the_last, "lost", [10_000]),
    ],
    ids=["lost", "swapped", "doubled", "last"],
)
def test_one_event_in_10_000_that_is_wrong_is_noticed(doctor: Doctor, kind: str, what: list[int], who: str) -> None:
    numbers = list(range(1, 10_001))
    wrong = {"one": {3}, "first": {0}, "all": set(range(5))}[who]
    records = {number: record(FEED_SSE, number) for number in numbers}
    whole = b"".join(map(records.__getitem__, numbers))
    doctored = b"".join(map(records.__getitem__, doctor(numbers)))
    chances = random.Random(1)
    checker = Checker(FEED_SSE)
    for reader in range(5):
        checker.add()
        stream = doctored if reader in wrong else whole
        place = 0
        while place < len(stream):
            size = chances.choice((1, 260, 4_000, 60_000))
            checker.take(reader, stream[place : place + size])
            place += size
    truth = [key(FEED_SSE, number) for number in numbers]
    faults = checker.sequences().faults(truth)
    assert sum(fault.readers for fault in faults) == len(wrong)
    for fault in faults:
        found = {name: getattr(fault, name) for name in ("lost", "doubled", "reordered", "unknown")}
        assert found.pop(kind) == [key(FEED_SSE, number) for number in what]
        assert not any(found.values())
        assert kind in str(fault)


def test_all_right_is_no_fault() -> None:
    checker = Checker(FEED_WS)
    for reader in range(3):
        checker.add()
        for number in range(1, 50):
            checker.take(reader, record(FEED_WS, number))
    assert checker.slowest == 49
    assert not checker.sequences().faults([key(FEED_WS, number) for number in range(1, 50)])


def test_an_event_that_nobody_published_is_a_fault() -> None:
    assert judge([b"a"], [b"a", b"b"]).unknown == [b"b"]


def test_the_true_order_is_that_of_the_ids_or_else_of_those_who_read() -> None:
    published = Published([b"x", b"y", b"z"], [b"e-10", b"e-9", b"e-11"], *[percentiles_array()] * 2)
    assert true_order(published, True, ()) == [b"e-9 y", b"e-10 x", b"e-11 z"]
    assert true_order(published, False, [b"z", b"z", b"x", b"?"]) == [b"z", b"x", b"y"]


def percentiles_array() -> Any:
    from array import array

    return array("q")


def test_percentiles_are_of_all_values() -> None:
    counts = Counter({1_000: 98, 5_000: 1, 9_000: 1})
    assert percentiles(counts) == {"p50": 1.0, "p99": 5.0, "p999": 9.0}
    assert percentiles(Counter()) == {}


# A server that is not what it says. It speaks just as much HTTP as the bench does.


class Liar(socketserver.ThreadingTCPServer):
    """Accepts events, and sends them to its readers as `tell` says: which numbers to send when one is accepted."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, tell: Callable[[int], list[int]]) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.tell = tell
        self.lock = threading.Lock()
        self.data: list[bytes] = []
        self.readers: list[Conversation] = []

    def accept(self, data: bytes) -> int:
        with self.lock:
            self.data.append(data)
            for number in self.tell(len(self.data)):
                event = b"id: liar-%d\ndata: %b\n\n" % (number, self.data[number - 1])
                for reader in self.readers:
                    reader.request.sendall(event)
            return len(self.data)


class Conversation(socketserver.StreamRequestHandler):
    """One connection."""

    server: Liar

    def handle(self) -> None:
        while line := self.rfile.readline():
            length = 0
            while (header := self.rfile.readline()) not in {b"\r\n", b""}:
                if header.lower().startswith(b"content-length:"):
                    length = int(header.partition(b":")[2])
            if line.startswith(b"POST "):
                answer = b'{"id":"liar-%d"}' % self.server.accept(self.rfile.read(length))
                self.request.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
            elif line.startswith(b"GET /healthz"):
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            else:
                with self.server.lock:
                    self.request.sendall(HEAD + b"id: liar-0\nevent: feed.open\ndata: {}\n\n")
                    self.server.readers.append(self)


def honest(number: int) -> list[int]:
    return [number]


def losing(number: int) -> list[int]:
    return [] if number == 50 else [number]


@pytest.mark.parametrize(
    ("tell", "wrong"),
    [
        (honest, None),
        (losing, "3 readers: 1 lost, such as liar-50"),
    ],
)
def test_a_server_that_lies_is_found_out(tell: Callable[[int], list[int]], wrong: str | None) -> None:
    with Liar(tell) as liar:
        threading.Thread(target=liar.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        url = f"http://127.0.0.1:{liar.server_address[1]}"
        done = bench("--url", url, "--readers", "3", "--rate", "250/s", *SHORT)
        liar.shutdown()
    assert done.returncode == (0 if wrong is None else 1), done.stderr
    if wrong is None:
        assert "every reader got every event once and in order" in done.stdout
    else:
        assert f"WRONG: round 1, feed at {url[7:]}: {wrong}" in done.stdout


# Small runs.

SHORT = ("--rounds", "1", "--seconds", "0.4", "--warmup", "0.1")


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One run to its end."""
    done = forking.run(["bench", *arguments], os.environ, timeout=SECONDS)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def figures(done: subprocess.CompletedProcess[str], file: Path) -> Any:
    """What a run has written to its JSON file."""
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["faults"] == []
    return written


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bench.json"


@pytest.fixture
def nchan() -> None:
    """nginx with nchan; where it is missing its tests are skipped, and fail in CI."""
    try:
        NchanTarget().check()
    except BenchError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def redis_here() -> None:
    """A `redis-server` that the bench can start; where it is missing its tests are skipped, and fail in CI."""
    redis_program()


def test_a_feed_is_compared_with_itself_with_a_key(file: Path) -> None:
    done = bench(*SHORT, "--against", "token", "--readers", "20", "--publishers", "4", "--json", str(file))
    written = figures(done, file)
    assert [round["target"] for round in written["rounds"]] == ["feed (memory:)", "feed (memory:, tokens)"]
    for round in written["rounds"]:
        assert round["figures"]["deliveries"] > 0


@pytest.mark.usefixtures("nchan")
def test_a_feed_is_compared_with_another_server(file: Path) -> None:
    done = bench(*SHORT, "--against", "nchan", "--readers", "20", "--publishers", "4", "--json", str(file))
    written = figures(done, file)
    assert [round["target"] for round in written["rounds"]] == ["feed (memory:)", "nchan"]
    for round in written["rounds"]:
        found = round["figures"]
        # How many come in so short a time is the machine's matter. That each came to all the bench judges by ids.
        assert found["deliveries"] > 0
        assert found["publishes"] > 0
        assert 0 < found["latency_p50"] <= found["latency_p99"] <= found["latency_p999"]
        assert found["last_p50"] >= found["latency_p50"]
        assert found["cpu_per_delivery"] > 0
        assert found["stall_max"] > 0
    ratio = written["ratios"]["feed (memory:) / nchan"]["deliveries"]["median"]
    ours, theirs = (written["figures"][name]["deliveries"]["median"] for name in ("feed (memory:)", "nchan"))
    assert ratio == pytest.approx(ours / theirs)
    assert written["command"][:2] == ["feed", "bench"]
    assert written["machine"]["cores"] == os.cpu_count()
    assert re.search(r"deliveries per second +[\d,]+ +[\d,]+ +\d+\.\d\d", done.stdout)
    assert re.search(r"server on core 0|share one core", done.stdout)


@pytest.mark.only_soak
@pytest.mark.usefixtures("nchan")
def test_websockets_of_all_servers_are_read(file: Path) -> None:
    done = bench(
        *("--transport", "ws", "--against", "nchan", "--against", "naive", "--readers", "5", "--rate", "100/s"),
        *(*SHORT, "--publishers", "3", "--probe", "0", "--json", str(file)),
    )
    for round in figures(done, file)["rounds"]:
        assert round["figures"]["deliveries"] > 0
        assert "stall_max" not in round["figures"]


def test_publishing_to_two_logs_is_compared(file: Path) -> None:
    done = bench(
        *("publish", "--log", "sqlite:", "--log", "memory:", "--batch", "50", "--publishers", "2"),
        *(*SHORT, "--json", str(file)),
    )
    written = figures(done, file)
    for target in ("feed (sqlite:)", "feed (memory:)"):
        found = written["figures"][target]
        assert found["events"]["median"] == found["publishes"]["median"] * 50 > 0
        assert found["cpu_per_event"]["median"] > 0
    assert "events" in written["ratios"]["feed (sqlite:) / feed (memory:)"]


def test_publishing_with_a_reader_is_compared_with_an_application_that_does_nothing(file: Path) -> None:
    done = bench(
        *("publish", "--against", "asgi", "--text", "--apart", "--readers", "1", "--publishers", "2"),
        *(*SHORT, "--json", str(file)),
    )
    written = figures(done, file)
    assert written["figures"]["feed (memory:)"]["deliveries"]["median"] > 0
    assert "deliveries" not in written["figures"]["asgi"]
    assert written["ratios"]["feed (memory:) / asgi"]["cpu_per_event"]["median"] > 0
    assert "of text, head and body sent apart" in done.stderr


# Several nodes, and Redis.


def test_each_node_and_redis_have_a_core_where_there_are_enough_and_the_load_always_has_one() -> None:
    one, two, three, four = (frozenset({core}) for core in range(4))
    assert share_out([0, 1, 2, 3, 4], 2, redis=True) == Cores([one, two], three, frozenset({3, 4}))
    assert share_out([0, 1, 2, 3], 2, redis=True) == Cores([one, two], three, four)
    assert share_out([0, 1, 2, 3], 1, redis=False) == Cores([one], None, frozenset({1, 2, 3}))
    for crowded in (share_out([0, 1], 2, redis=True), share_out([0, 1, 2], 3, redis=False)):
        assert crowded.crowded
        assert crowded.apart
    assert not share_out([0], 1, redis=False).apart
    assert str(share_out([0, 1], 2, redis=True)) == "2 nodes and redis-server together on core 0, load on core 1"
    assert str(share_out([0, 1, 2, 3], 2, redis=True)) == "2 nodes on core 0, 1, redis-server on core 2, load on core 3"


@pytest.mark.only_soak
def test_two_nodes_on_one_redis_are_compared_with_one(file: Path, shared_redis: RedisServer) -> None:
    with shared_redis.client() as client:
        client.set("somebody's", "own")
        done = bench(
            *("--nodes", "2", "--log", shared_redis.url(), "--readers", "21", "--publishers", "4", "--rate", "200/s"),
            *(*SHORT, "--json", str(file)),
        )
        assert client.keys("*") == [b"somebody's"]
        client.delete("somebody's")
    written = figures(done, file)
    one, two = (f"feed ({shared_redis.url()}, {nodes})" for nodes in ("1 node", "2 nodes"))
    assert [round["target"] for round in written["rounds"]] == [two, one]
    for round in written["rounds"]:
        assert round["figures"]["deliveries"] > 0
        assert "redis_cpu_per_delivery" not in round["figures"]
    assert "cpu_per_delivery" in written["ratios"][f"{two} / {one}"]
    assert len(written["cores"]["nodes"]) == 2
    assert "every reader got every event once and in order" in done.stdout


@pytest.mark.parametrize("transport", [pytest.param("ws", marks=pytest.mark.only_soak), "ws-batch"])
def test_readers_and_publishers_are_spread_over_all_nodes(start_redis: StartRedis, transport: str) -> None:
    redis = start_redis(appendonly="no")
    target = FeedTarget(redis.url(), 2)
    with target.running(transport, 10, share_cores(2)) as running:
        plan = Plan(Scenario.FANOUT, [target], transport, 10, 4, None, 0.1, 0, 1, SIZE, 1, None, 0, [0, 1], 1)
        with Load(plan, share_cores(2), running, lambda text: None) as load:
            load.start_publishers()
            load.start_readers()
            load.open(plan.readers)
            for node in running.nodes:
                connections = psutil.Process(node.process.pid).net_connections("tcp")
                ours = [
                    each for each in connections if each.laddr.port in running.ports and each.status == "ESTABLISHED"
                ]
                assert len(ours) == 5 + 2


@pytest.mark.only_soak
@pytest.mark.usefixtures("redis_here")
def test_a_log_on_redis_is_compared_on_a_server_of_the_benchs_own(file: Path) -> None:
    done = bench(
        *("--log", "redis:", "--log", "memory:", "--readers", "10", "--publishers", "1", "--rate", "50/s"),
        *(*SHORT, "--json", str(file)),
    )
    written = figures(done, file)
    assert written["figures"]["feed (redis:)"]["redis_cpu_per_delivery"]["median"] >= 0
    added = written["differences"]["feed (redis:) / feed (memory:)"]["p50"]["median"]
    ours, theirs = (written["figures"][f"feed ({log}:)"]["latency_p50"]["median"] for log in ("redis", "memory"))
    assert added == pytest.approx(ours - theirs)
    assert re.search(r"latency of feed \(redis:\) over feed \(memory:\): p50 -?[\d.]+ ms, p99 -?[\d.]+ ms", done.stdout)


@pytest.mark.only_soak
def test_a_storm_is_replayed_by_several_nodes(file: Path, shared_redis: RedisServer) -> None:
    done = bench(
        *("storm", "--nodes", "2", "--log", shared_redis.url("storm"), "--readers", "30", "--behind", "40"),
        *("--rounds", "1", "--json", str(file)),
    )
    assert len(figures(done, file)["rounds"]) == 2
    assert "once and in order" in done.stdout


def test_a_password_of_redis_is_not_shown(file: Path, start_redis: StartRedis) -> None:
    redis = start_redis(appendonly="no", requirepass="hush")
    url = redis.url().replace("//", "//:hush@")
    done = bench("publish", "--log", url, *SHORT, "--json", str(file))
    figures(done, file)
    assert "hush" not in done.stdout + done.stderr + file.read_text(encoding="utf-8")


def test_a_missing_redis_server_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(BenchError, match=r"apt-get install redis-server.*--log redis://"):
        FeedTarget("redis:").check()


@pytest.mark.usefixtures("redis_here")
def test_a_redis_server_that_dies_is_named() -> None:
    with FeedTarget("redis:").running("sse", 1, share_cores(redis=True)) as running:
        running.check()
        assert running.redis is not None
        running.redis.process.kill()
        running.redis.process.wait()
        with pytest.raises(BenchError, match=r"redis-server has died \(exit code -9\)"):
            running.check()


def test_memory_of_idle_readers_is_a_slope(file: Path) -> None:
    done = bench("idle", "--steps", "0,100,200", "--rounds", "1", "--json", str(file))
    found = figures(done, file)["rounds"][0]["figures"]
    assert 1_000 < found["memory"] < 200_000
    assert found["memory_at_0"] < found["memory_at_200"]


def test_a_storm_replays_exactly_what_was_missed(file: Path) -> None:
    done = bench("storm", "--readers", "30", "--behind", "40", "--rounds", "1", "--json", str(file))
    found = figures(done, file)["rounds"][0]["figures"]
    assert found["storm_seconds"] > 0
    assert found["storm_events"] == pytest.approx(30 * 40 / found["storm_seconds"])
    assert "once and in order" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--readers", "1000000"], 1, r"1,000,000 readers need 1,000,316 descriptors .* ulimit -n 1000316"),
        (["--rate", "often"], 2, r"--rate.*1/s, 200/s"),
        (["--probe", "often"], 2, r"--probe.*5ms"),
        (["idle", "--steps", "5"], 2, r"--steps.*0,2000,5000,10000"),
        (["--json", "/nowhere/at/all.json"], 2, r"--json /nowhere/at/all.json: No such file"),
        (["--data", "10"], 1, r"--data 10: .* 64 bytes"),
        (["--url", "https://example.org"], 1, r"does not speak TLS"),
        (["--url", "http://127.0.0.1:1"], 1, r"does not answer"),
        (["storm", "--against", "naive"], 1, r"naive cannot replay"),
        (["--batch", "5", "--against", "naive"], 1, r"naive accepts only one event at a time"),
        (["--against", "asgi"], 1, r"asgi: it has no readers: use feed bench publish"),
        (["publish", "--text", "--batch", "5"], 1, r"--text: cannot be combined with --batch"),
        (["--nodes", "2"], 1, r"--nodes 2: the log memory: is for one process.*--log redis:"),
        (["--nodes", "2", "--log", "sqlite:"], 1, r"--nodes 2: the log sqlite: is for one process.*--log redis:"),
        (["--nodes", "2", "--url", "http://127.0.0.1:1"], 2, r"--nodes: cannot be combined with --url"),
        (["--log", "redis://127.0.0.1:1/0"], 1, r"redis://127.0.0.1:1/0 does not answer"),
        (["--log", "redis://127.0.0.1/zero"], 1, r"--log: .*number of a database"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_line(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *arguments]) == code
    said = capsys.readouterr().err
    assert re.search(message, said.splitlines()[-1]), said


def test_a_server_that_does_not_start_is_quoted() -> None:
    done = bench("--log", "sqlite:/nowhere/at/all/feed.db")
    assert done.returncode == 1
    assert re.search("did not start: .*nowhere", done.stderr.splitlines()[-1]), done.stderr


def test_a_missing_nginx_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "_NCHAN_PLACES", ())
    with pytest.raises(BenchError, match="apt-get install nginx-light libnginx-mod-nchan"):
        NchanTarget().check()


def test_a_server_that_dies_is_named_with_what_it_said() -> None:
    with NaiveTarget().running("ws", 1, share_cores()) as running:
        running.check()
        (server,) = running.nodes
        server.process.kill()
        server.process.wait()
        with pytest.raises(BenchError, match=r"naive has died \(exit code -9\)"):
            running.check()


@pytest.fixture
def long_run() -> Iterator[forking.Forked | subprocess.Popen[bytes]]:
    """A bench that would go on for long, and is publishing."""
    process = forking.popen(["bench", "--readers", "5", "--seconds", "600"], os.environ)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        # The server, the readers, the publishers and the prober.
        eventually(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 4, 30)
        yield process
        process.kill()
        process.wait(30)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_that_was_started(long_run: forking.Forked, number: int, code: int) -> None:
    children = psutil.Process(long_run.pid).children(recursive=True)
    long_run.send_signal(number)
    assert long_run.wait(30) == code
    assert not psutil.wait_procs(children, 5)[1]


def test_a_server_that_is_killed_ends_the_run_with_an_error(long_run: forking.Forked) -> None:
    children = psutil.Process(long_run.pid).children(recursive=True)
    (server,) = (child for child in children if "serve" in child.cmdline())
    server.kill()
    assert long_run.wait(30) == 1
    assert long_run.stderr is not None
    assert b"feed (memory:) has died (exit code -9)" in long_run.stderr.read()
    assert not psutil.wait_procs(children, 5)[1]


def test_nothing_of_it_is_loaded_by_other_commands() -> None:
    started = time.monotonic()
    wanted = "('psutil', 'feed_server.bench.measure')"
    code = f"import sys, feed_server.cli.main; print(*[name for name in sys.modules if name in {wanted}])"
    done = subprocess.run([psutil.Process().exe(), "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert done.stdout.split() == [], time.monotonic() - started
