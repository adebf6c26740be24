"""Lines on their way out: one each, in the form that is asked for, and nobody waits for whoever takes them."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import logging.handlers
import os
import pty
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feed.fastapi.logging.records import FactRecord, without_tokens
from feed_server.logging.formatters import JsonLine, OneLine
from feed_server.logging.stderr import DirectOutput, OutputHandler, QueuedOutput, _formatter
from tests.support.hostile import Raw
from tests.support.running import FEED, RunningServer
from tests.support.scraping import scraped
from tests.support.streams import eventually

EVIL = "a\r\n2026-11-21 00:00:00 ERROR feed: forged\x1b[31m\x9b31m\u2028\u202e\ud800"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2lnbmF0dXJl"
PIPE = 4096  # bytes that the pipes of these tests hold


def record(message: str, *arguments: object, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord("feed.x", level, "x.py", 1, message, arguments, None)


def failing(text: str) -> logging.LogRecord:
    try:
        raise ValueError(text)
    except ValueError:
        return logging.LogRecord("feed.x", logging.ERROR, "x.py", 1, "broke", (), sys.exc_info())


FACTS = {
    "event": "request",
    "method": "GET",
    "path": "/a",
    "status": None,
    "ms": 0.5,
    "principal": "ann lee",
    "x": ["a", "b"],
}


# What a line looks like.


def test_facts_are_their_values_with_names_where_they_need_some() -> None:
    assert FactRecord("x", logging.INFO, FACTS).getMessage() == 'request GET /a - ms=0.5 principal="ann lee" x=a,b'


def test_facts_can_be_taken_by_any_handler() -> None:
    """A host application's may format by what they like, or send records on."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    fields = ("asctime", "levelname", "name", "pathname", "lineno", "funcName", "process", "threadName")
    handler.setFormatter(logging.Formatter(" ".join(f"%({name})s" for name in fields) + " %(msecs)d %(message)s"))
    passed: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    facts = FactRecord("x", logging.INFO, FACTS)
    handler.handle(facts)
    logging.handlers.QueueHandler(passed).handle(facts)
    assert stream.getvalue().endswith('request GET /a - ms=0.5 principal="ann lee" x=a,b\n')
    assert passed.get().getMessage().startswith("request GET /a")


def test_facts_have_all_that_a_record_has_before_anybody_asks_for_their_words() -> None:
    """python-json-logger looks at `msg` first, and structlog makes another record of what is there."""
    facts = FactRecord("x", logging.INFO, FACTS)
    assert vars(logging.makeLogRecord({})).keys() <= vars(facts).keys()
    other = logging.makeLogRecord(vars(facts))
    assert (other.name, other.levelno, other.levelname) == ("x", logging.INFO, "INFO")
    assert other.getMessage().startswith("request GET /a")


def test_as_json_a_line_has_its_facts_or_its_words() -> None:
    line = JsonLine(timed=True, server={"worker": 3})
    facts = json.loads(line.format(FactRecord("x", logging.INFO, FACTS)))
    assert facts.pop("time").endswith("Z")
    assert facts == {"level": "info", "worker": 3, **FACTS}
    words = json.loads(JsonLine(timed=False, server={}).format(record("%d of %s", 1, "two")))
    assert words == {"level": "error", "logger": "feed.x", "message": "1 of two"}


def test_as_json_a_traceback_is_a_part_of_its_line() -> None:
    text = JsonLine(timed=True, server={}).format(failing(EVIL))
    assert len(text.splitlines()) == 1
    assert json.loads(text)["exception"].startswith("Traceback ")
    assert json.loads(text)["exception"].endswith(f"ValueError: {EVIL}")


@given(text=st.text(st.characters(exclude_categories=())))
def test_w10_whatever_the_words_it_is_one_line_and_the_same_words(text: str) -> None:
    plain = without_tokens(text)
    for facts in (record("%s", text), FactRecord("x", logging.INFO, {"event": text})):
        line = JsonLine(timed=True, server={}).format(facts)
        assert len(line.splitlines()) == 1
        assert line.encode()
        assert plain in json.loads(line).values() or text in json.loads(line).values()
        assert len(OneLine("%(message)s|").format(facts).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [f"GET /a?token={TOKEN}&x=1", f"Authorization: Bearer {TOKEN}", f"feed_token={TOKEN}; a=b", TOKEN, f"('{TOKEN}',)"],
)
def test_what_looks_like_a_token_is_in_no_line(text: str) -> None:
    for line in (JsonLine(timed=True, server={}), OneLine("%(message)s")):
        for said in (record("%s", text), failing(text)):
            assert "***" in line.format(said)
            assert TOKEN[-10:] not in line.format(said)
            assert "eyJ" not in line.format(said)


# Which form.


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a small one."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE)
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def journal_stream(descriptor: int) -> str:
    """What systemd would say of it, were it the journal's."""
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}"


def test_it_is_text_on_a_terminal_and_json_elsewhere(pipe: tuple[int, int]) -> None:
    terminal = pty.openpty()
    try:
        assert _formatter("auto", terminal[1], None).format(record("hello")).endswith(" ERROR feed.x: hello")
        assert json.loads(_formatter("json", terminal[1], 2).format(record("hello")))["worker"] == 2
    finally:
        for end in terminal:
            os.close(end)
    assert json.loads(_formatter("auto", pipe[1], None).format(record("hello")))["message"] == "hello"
    assert _formatter("text", pipe[1], 2).format(record("hello")).endswith(" ERROR worker 2 feed.x: hello")


def test_for_the_journal_each_line_has_its_priority_and_no_time(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", journal_stream(pipe[1]))
    text = _formatter("text", pipe[1], 2)
    assert text.format(record("hello")) == "<3>worker 2 feed.x: hello"
    assert text.format(record("hello", level=logging.WARNING)) == "<4>worker 2 feed.x: hello"
    assert text.format(FactRecord("x", logging.INFO, {"event": "e"})) == "<6>worker 2 x: e"
    assert all(line.startswith("<3>") for line in text.format(failing("x\ny")).splitlines())
    assert json.loads(_formatter("auto", pipe[1], None).format(record("hello"))).keys() == {
        "level",
        "logger",
        "message",
    }
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert "time" in json.loads(_formatter("auto", pipe[1], None).format(record("hello")))


# Nobody waits.


def remark(count: int) -> bytes:
    return b"%d dropped\n" % count


@pytest.fixture
def queued(pipe: tuple[int, int]) -> Iterator[QueuedOutput]:
    output = QueuedOutput(pipe[1], remark)
    yield output
    with contextlib.suppress(OSError):  # nothing more is there, or a test has closed it
        os.set_blocking(pipe[0], False)
        while os.read(pipe[0], 1 << 20):
            time.sleep(0.001)
    output.close()


class Reader(threading.Thread):
    """Reads a pipe to its end."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self.data = b""
        self._descriptor = descriptor
        self.start()

    def run(self) -> None:
        while data := os.read(self._descriptor, 1 << 20):
            self.data += data


def test_lines_come_out_whole_and_in_order(pipe: tuple[int, int], queued: QueuedOutput) -> None:
    reader = Reader(pipe[0])
    lines = [b"%d %b\n" % (number, b"x" * (number % 7_000)) for number in range(200)]
    for line in lines:
        queued.put(line)
    eventually(lambda: reader.data == b"".join(lines))
    assert queued.dropped == 0
    queued.close()
    os.close(pipe[1])
    reader.join(5)


def test_where_nobody_reads_nobody_waits_and_what_is_dropped_is_said(
    pipe: tuple[int, int], queued: QueuedOutput
) -> None:
    line = b"x" * 999 + b"\n"
    for _ in range(10_000):
        queued.put(line)
    dropped = queued.dropped
    assert 10_000 * 1_000 - dropped * 1_000 <= 4 << 20, "more waits than may"
    reader = Reader(pipe[0])
    eventually(lambda: reader.data.endswith(b"dropped\n"))
    *written, said = reader.data.splitlines(keepends=True)
    assert said == remark(dropped)
    assert written == [line] * (10_000 - dropped)
    queued.put(b"and on\n")
    eventually(lambda: reader.data.endswith(b"and on\n"))
    queued.close()
    os.close(pipe[1])
    reader.join(5)


def test_it_ends_within_moments_though_nobody_reads(pipe: tuple[int, int]) -> None:
    output = QueuedOutput(pipe[1], remark)
    for _ in range(100):
        output.put(b"x" * 999 + b"\n")
    output.close()
    reader = Reader(pipe[0])  # lets its thread end
    eventually(lambda: len(reader.data) >= 100_000)
    os.close(pipe[1])
    reader.join(5)


def test_where_the_reader_is_gone_lines_are_dropped(pipe: tuple[int, int], queued: QueuedOutput) -> None:
    os.close(pipe[0])
    queued.put(b"one\n")
    queued.put(b"two\n")
    eventually(lambda: queued.dropped >= 2)


def test_a_pipe_that_somebody_has_made_nonblocking_is_waited_for(pipe: tuple[int, int], queued: QueuedOutput) -> None:
    os.set_blocking(pipe[1], False)
    for _ in range(20):
        queued.put(b"x" * 999 + b"\n")
    reader = Reader(pipe[0])
    eventually(lambda: len(reader.data) == 20_000)
    assert queued.dropped == 0
    queued.close()
    os.close(pipe[1])
    reader.join(5)


def test_a_process_that_forks_drops_what_it_cannot_write_at_once(pipe: tuple[int, int]) -> None:
    output = DirectOutput(pipe[1])
    for _ in range(10):
        output.put(b"x" * 1_999 + b"\n")
    assert output.dropped > 0
    assert os.read(pipe[0], 1 << 20) == (b"x" * 1_999 + b"\n") * (10 - output.dropped)
    output.put(b"and on\n")
    assert os.read(pipe[0], 1 << 20) == b"and on\n"


def test_a_line_has_a_bound() -> None:
    handler = OutputHandler(OneLine("%(message)s"))
    line = handler.line(record("é" * 100_000))
    assert len(line) < 33_000
    assert line.decode().endswith("é ...\n")


def test_lines_of_many_threads_are_all_there(pipe: tuple[int, int], queued: QueuedOutput) -> None:
    reader = Reader(pipe[0])

    def write() -> None:
        for _ in range(500):
            queued.put(b"line\n")

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: len(reader.data) == 8 * 500 * 5)
    queued.close()
    os.close(pipe[1])
    reader.join(5)


# The server.


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a server whose standard error is a pipe's end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(stderr: int, **settings: str) -> subprocess.Popen[bytes]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")}
        command = [FEED, "serve", "--port", "0", "--log", "memory:"]
        process = subprocess.Popen(command, env={**plain, **settings}, stdout=subprocess.PIPE, stderr=stderr)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def url_of(process: subprocess.Popen[bytes]) -> str:
    """Where it listens, once it does."""
    assert process.stdout is not None
    for line in process.stdout:
        if b"dashboard" in line:
            return line.split()[1].decode().rstrip("/")
    raise AssertionError("it did not start")


def test_a_server_whose_standard_error_nobody_reads_serves_on_and_stops(
    pipe: tuple[int, int], start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(pipe[1])
    url = url_of(process)
    server = RunningServer()
    server.port = int(url.rpartition(":")[2])
    many = b"GET /events/a//%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"x" * 480) * 10
    client = Raw(server)
    with client.socket:
        for _ in range(900):
            client.send(many)
            answers = 0
            while answers < 10:
                answers += client.receive().count(b"HTTP/1.1 422")
    (dropped,) = scraped(httpx.get(f"{url}/metrics", verify=False).text)["feed_dropped_log_lines_total"].values()
    assert dropped > 0
    assert httpx.post(f"{url}/events/a", content=b"x", verify=False).status_code == 201
    reader = Reader(pipe[0])
    eventually(lambda: b"log lines were dropped" in reader.data)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    os.close(pipe[1])
    reader.join(5)
    lines = [json.loads(line) for line in reader.data.splitlines()]
    assert [line["status"] for line in lines[:100]] == [422] * 100
    (said,) = (line for line in lines if line.get("message", "").endswith("log lines were dropped"))
    assert said["level"] == "warning"
    assert len(lines) - 1 + int(said["message"].split()[0]) == 900 * 10 + 1, "and the publish"


def test_a_server_under_systemd_leaves_the_time_to_the_journal(
    pipe: tuple[int, int], start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(pipe[1], FEED_LOG_FORMAT="text", JOURNAL_STREAM=journal_stream(pipe[1]))
    url = url_of(process)
    assert httpx.post(f"{url}/events/a", content=b"x").status_code == 201
    assert os.read(pipe[0], PIPE).startswith(b"<6>feed.requests: request POST /events/a 201 ms=")


def test_as_a_library_nothing_is_configured() -> None:
    code = """
import logging
from feed import Feed
from feed.fastapi import feed_router
from feed_server import create_app, Settings
create_app(Settings(log="memory:")); feed_router(Feed("memory:"))
names = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("feed", "feed_server")]
assert names
for logger in (logging.root, *map(logging.getLogger, names)):
    assert (logger.handlers, logger.propagate, logger.disabled) == ([], True, False), logger
    assert logger.level == (logging.WARNING if logger is logging.root else logging.NOTSET), logger
"""
    subprocess.run([sys.executable, "-c", code], check=True)
