"""`feed doctor` as a command: what it prints, how it ends, and what it does to the feed."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import pty
import re
import subprocess
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.asyncio.server import ServerConnection, serve

from feed_server.doctor.examination import Report, examine
from feed_server.doctor.finding import Finding
from feed_server.doctor.resume import Resumed, look_resume
from feed_server.doctor.target import MAX_BODY, MAX_PIECES, Answer, Piece, Reading, Target
from feed_server.doctor.websocket import Socket, judge_socket, look_socket
from tests.support import forking
from tests.support.proxy import Proxy, proxy_to
from tests.support.redis_server import free_port
from tests.support.running import FEED, RunningServer, running
from tests.support.streams import eventually


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running("--log", "memory:", heartbeat=0.5) as shared:
        yield shared


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    named = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")} | environment
    done = forking.run(["doctor", *arguments], named, timeout=60)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_line_for_each_check_and_nothing_else(server: RunningServer) -> None:
    done = run(server.url, "--idle", "1.2s")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) >= 18
    assert all(re.match(r"(ok|unknown) +[a-z ]+  \S", line) for line in lines), done.stdout
    assert "\x1b" not in done.stdout


def test_json_for_machines_and_events_only_on_the_topic_that_was_given(server: RunningServer) -> None:
    before = len(server.history()["events"])
    done = run(server.url, "--idle", "1.2s", "--json", "--topic", "a/topic", "--origin", "https://app.example.org")
    document = json.loads(done.stdout)
    assert (document["url"], document["topic"], document["exit"], document["reached"]) == (
        server.url,
        "a/topic",
        done.returncode,
        True,
    )
    [cors] = [each for each in document["findings"] if each["check"] == "cors"]
    assert cors == {
        "check": "cors",
        "severity": "fail",
        "words": cors["words"],
        "cure": "list it: FEED_ORIGINS=https://app.example.org",
    }
    assert done.returncode == 4
    added = server.history()["events"][before:]
    assert {event["topic"] for event in added} == {"a/topic"}
    assert len(added) == 10


def test_where_nobody_is_it_says_so_with_a_code_of_its_own() -> None:
    done = run(f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert re.fullmatch(r"fail +reach  no connection: .*; cure: .*\n", done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ftp://x",),
        ("http://127.0.0.1:1", "--idle", "soon"),
        ("http://127.0.0.1:1", "--idle", "0"),
        ("http://127.0.0.1:1", "--topic", "a//b"),
        ("http://127.0.0.1:1", "--origin", "*"),
        ("http://127.0.0.1:1", "--token", "two words"),
    ],
)
def test_wrong_use_is_one_line_and_the_code_that_it_always_has(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_on_a_terminal_verdicts_are_coloured_words(server: RunningServer) -> None:
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "300"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        [FEED, "doctor", server.url, "--idle", "1s"], stdout=follower, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while chunk := os.read(leader, 65536):
                shown += chunk
        assert process.wait(30) == 0
    os.close(leader)
    assert re.search(rb"\x1b\[1;32mok *\x1b\[0m", shown)
    assert b"done" in shown


def test_a_feed_that_has_no_room_for_all_its_streams_is_not_called_broken() -> None:
    with running("--log", "memory:", heartbeat=0.5, max_subscribers_per_address=1) as full:
        document = json.loads(run(full.url, "--idle", "1.2s", "--json").stdout)
    assert document["exit"] == 0, document["findings"]
    assert {each["check"] for each in document["findings"] if "turned" in each["words"]} & {"buffering", "websocket"}


def test_a_websocket_that_dies_silently_is_found(server: RunningServer) -> None:
    def is_open() -> bool:
        return bool(server.http.get(f"{server.url}/subscriptions").json()["subscriptions"])

    async def watched(proxy: Proxy) -> Report:
        async with Target(f"http://127.0.0.1:{proxy.port}", None, "a/silent", None, 0.5, patience=1) as target:
            looking = asyncio.create_task(examine(target, groups=["quiet socket"]))
            await asyncio.to_thread(eventually, is_open)
            await asyncio.to_thread(proxy.stall)
            return await looking

    eventually(lambda: not is_open())
    with proxy_to(server.port) as proxy, ThreadPoolExecutor(1) as thread:
        report = thread.submit(asyncio.run, watched(proxy)).result(30)
    [finding] = [each for each in report.findings if each.check == "websocket idle"]
    assert finding.severity.value == "fail"
    assert "forgets connections" in finding.cure


class NodeBehind(Target):
    """Whose streams are live a moment before their node has what was published last."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", None, "a/b", None, 1)
        self._published = 0

    async def publish(self, type: str, data: str = "") -> Answer:
        self._published += 1
        return Answer(201, body=b'{"id":"e-%d"}' % self._published)

    @contextlib.asynccontextmanager
    async def reading(self, *_: object, **__: object) -> AsyncIterator[Reading]:
        reading, later = Reading(), asyncio.get_running_loop().call_later
        for place, event in enumerate(("feed.open", "feed.gap", "feed.live", "t", "t")):
            later(0.01 * place, reading.add, Piece(0.0, event, f"e-{place - 1}", ""))
        yield reading


def test_a_node_that_is_a_moment_behind_loses_nothing() -> None:
    async def look() -> Resumed:
        async with NodeBehind() as target:
            return await look_resume(target, "t")

    with ThreadPoolExecutor(1) as thread:  # this one may have a loop already, a browser's
        assert thread.submit(asyncio.run, look()).result(30).replayed == ["e-2", "e-3"]


# A stranger at the other end.

_ENDLESS = b"id: x\nevent: feed.open\ndata: {}\n\n" * 1000
_NONSENSE = [
    b"HTTP/1.1 201 X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
    b'HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n{"subscriptions":1}',
    b"HTTP/1.1 403 X\r\nContent-Type: application/problem+json\r\nContent-Length: 4\r\n\r\nnull",
    b"HTTP/1.1 204 X\r\nSet-Cookie: ;;;=\x00\xff\r\nDate: never\r\n\r\n",
    b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\nnot gzip",
    b"HTTP/1.1 200 X\r\nContent-Type: application/x-ndjson\r\n\r\n[]\n1\nnull\n",
    b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n",
    b"HTTP/1.1 201 X\r\nDate: Mon, 99999999999999999999 Nov 2026 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 X\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 426 X\r\nContent-Type: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
    b"SSH-2.0-OpenSSH\r\n",
    b"",
]


class Stranger:
    """Answers the first question as a feed would, and all others with one piece of nonsense."""

    def __init__(self, nonsense: bytes, *, endless: bool = False) -> None:
        self._nonsense = nonsense
        self._endless = endless
        self._first = True

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            answer, more = self._nonsense, self._endless
            if self._first:
                self._first, more = False, False
                answer = b'HTTP/1.1 200 X\r\nContent-Length: 13\r\nConnection: close\r\n\r\n{"events":[]}'
            writer.write(answer)
            while more:
                writer.write(_ENDLESS)
                await writer.drain()
        writer.close()


async def examined(stranger: Stranger) -> Report:
    # The first connection only sees whether somebody is there.
    server = await asyncio.start_server(stranger.answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Target(url, "token", "a/b", "https://app.example.org", 0.5, patience=6) as target:
        return await examine(target)


def test_whatever_answers_it_comes_to_an_end_and_finds_fault() -> None:
    async def all_of_them() -> list[Report]:
        strangers = [*map(Stranger, _NONSENSE)]
        strangers.append(Stranger(b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n\r\n", endless=True))
        return await asyncio.gather(*map(examined, strangers))

    with ThreadPoolExecutor(1) as thread:  # this one may have a loop already, a browser's
        reports = thread.submit(asyncio.run, all_of_them()).result(100)
    for report in reports:
        assert report.reached
        assert {"fail", "warn"} & {each.severity.value for each in report.findings}
        words = [each.words for each in report.findings]
        assert "".join(words).encode()  # no half of a character, which could not be printed
        assert max(map(len, words)) < 1000


def test_of_a_stream_without_end_so_much_is_kept() -> None:
    async def read() -> int:
        stranger = Stranger(b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\n\r\n", endless=True)
        stranger._first = False
        server = await asyncio.start_server(stranger.answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, Target(url, None, "a/b", None, 1) as target, target.reading("/events/a") as reading:
            await reading.until(lambda: False, 10)
            assert reading.end == "too much came"
            return len(reading.pieces)

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(asyncio.run, read()).result(30) == MAX_PIECES


def fetched(head: bytes, body: Sequence[bytes]) -> tuple[Answer, Reading, int]:
    """What a server of one answer is found to say, asked once and read once, and the bytes that took at most."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 X\r\n%b\r\n\r\n" % head)
            for piece in body:
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def ask() -> tuple[Answer, Reading]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, Target(url, None, "a/b", None, 1) as target, target.reading("/events/a") as reading:
            await reading.until(lambda: False, 10)
            return await target.ask("GET", "/"), reading

    tracemalloc.start()
    try:
        with ThreadPoolExecutor(1) as thread:
            return *thread.submit(asyncio.run, ask()).result(60), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_little_that_unpacks_to_a_lot_is_unpacked_as_far_as_it_is_looked_at() -> None:
    bomb = gzip.compress(b"\n" * (64 << 20))
    answer, reading, most = fetched(b"Content-Encoding: gzip", [bomb])
    assert (answer.status, len(answer.body), reading.end) == (200, MAX_BODY, "too much came")
    assert most < 16 << 20

    answer, reading, most = fetched(b"Content-Encoding: gzip, gzip", [gzip.compress(bomb)])
    assert "not asked for" in answer.error
    assert "not asked for" in reading.end
    assert most < 16 << 20


def test_a_stream_is_read_as_the_client_reads_it() -> None:
    body = [
        b": hi\r\n\r\nid: 1\r\ndata: one\r\nda",
        b"ta: two\r\n\r\nevent: feed.closing\rdata: {}\r\r: a sign of life\n\n",
    ]
    _, reading, _ = fetched(b"Content-Type: text/event-stream", body)
    events = [piece[1:] for piece in reading.pieces if piece.event != ":"]
    assert events == [("message", "1", "one\ntwo"), ("feed.closing", "", "{}")]
    assert len(reading.pieces) == 4
    _, reading, _ = fetched(b"Content-Type: application/x-ndjson", [b'{"type":"a","id":"1","da', b'ta":5}\n\n[]\n'])
    assert [piece[1:] for piece in reading.pieces] == [("a", "1", "5"), (":", "", ""), (":", "", "")]


@pytest.mark.parametrize("kind", [b"text/event-stream", b"application/x-ndjson"])
def test_an_event_without_end_is_no_feeds(kind: bytes) -> None:
    _, reading, most = fetched(b"Content-Type: " + kind, [b"data: "] + [b"x" * 60_000] * 30)
    assert "is larger than 1,048,576 bytes" in reading.end
    assert reading.pieces == []
    assert most < 32 << 20


def test_a_frame_without_end_is_read_so_far_whatever_its_fields_are_called() -> None:
    fields = [b"%d%b: x\n" % (number, b"a" * 60000) for number in range(1000)]
    _, reading, most = fetched(b"Content-Type: text/event-stream", fields)
    assert (reading.end, reading.pieces) == ("too much came", [])
    assert most < 32 << 20


def test_a_websocket_that_says_half_of_what_a_feed_says_is_found_to() -> None:
    async def answer(socket: ServerConnection) -> None:
        await socket.send('{"type": "feed.open"}')
        await socket.send('{"type": "feed.error", "data": []}')
        await socket.wait_closed()

    async def ask(url: str) -> Socket:
        async with Target(url, None, "a/b", None, 1, patience=2) as target:
            return await look_socket(target, "some-type")

    async def found() -> Socket:
        async with serve(answer, "127.0.0.1", 0) as server:
            return await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    with ThreadPoolExecutor(1) as thread:
        socket = thread.submit(asyncio.run, found()).result(30)
    assert (socket.opened, socket.refusal) == (True, "feed.error")


def test_no_websocket_follows_to_elsewhere() -> None:
    came = []

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 302 X\r\nLocation: /ws/elsewhere\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def found() -> Finding:
        server = await asyncio.start_server(lead, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, Target(url, "token", "a/b", None, 1, patience=2) as target:
            return judge_socket(await look_socket(target, "some-type"))

    with ThreadPoolExecutor(1) as thread:
        finding = thread.submit(asyncio.run, found()).result(30)
    assert (finding.severity.value, len(came)) == ("fail", 1)
    assert "/ws/elsewhere" in finding.words
