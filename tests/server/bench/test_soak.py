"""`feed bench --soak`: whether it notices what is lost and what stays behind, and small runs of it."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from feed_server.bench.cores import share_cores
from feed_server.bench.framing import Garbled
from feed_server.bench.soak.ledger import Committed, Findings, Follower, Ledger, Wish
from feed_server.bench.soak.report import report
from feed_server.bench.soak.run import Plan, soak
from feed_server.bench.soak.samples import Bounds, Sample, leaks, measured, slope
from feed_server.bench.soak.streams import Form, Parser, request
from tests.support.running import FEED

SECONDS = 60.0
ALL, ONE = Wish(("soak/**",)), Wish(("soak/a/0",))
WISHES = (ALL, ONE)

# What a reader should have got.


class Case:
    """A ledger that begins at 100, and one reader of everything."""

    def __init__(self, keep: int = 10_000) -> None:
        self.findings = Findings()
        self.ledger = Ledger(100, keep, self.findings, WISHES)
        self.reader = Follower(self.ledger, ALL, self.findings)
        self.reader.opened(100)

    def commit(self, *seqs: int) -> None:
        self.ledger.commit(seqs, [Committed("soak/a/1", "message", seq + 1000) for seq in seqs])

    def get(self, *seqs: int) -> None:
        for seq in seqs:
            self.reader.event(seq, seq + 1000)

    @property
    def found(self) -> dict[str, int]:
        self.reader.check()
        return dict(self.findings.counts)


def test_a_reader_that_got_everything_is_right_whoever_is_told_first() -> None:
    case = Case()
    case.get(101, 102)
    assert case.found == {}
    case.commit(102)
    case.commit(101, 103)
    assert case.found == {}
    case.get(103)
    assert case.found == {}
    assert (case.reader.checked, case.ledger.settled, case.ledger.events) == (3, 103, 3)


@pytest.mark.parametrize(
    ("got", "found"),
    [
        ((101, 103, 104), {"lost": 1}),
        ((101, 102, 102, 103, 104), {"doubled": 1}),
        ((101, 103, 102, 104), {"reordered": 1}),
    ],
    ids=lambda each: "-".join(map(str, each)),
)
def test_what_is_wrong_with_a_reader_is_found(got: tuple[int, ...], found: dict[str, int]) -> None:
    case = Case()
    case.commit(101, 102, 103, 104)
    case.get(*got)
    assert case.found == found


def test_an_event_that_a_reader_did_not_ask_for_is_found() -> None:
    case = Case()
    reader = Follower(case.ledger, ONE, case.findings)
    reader.opened(100)
    reader.event(101, 1101)
    case.commit(101)
    reader.check()
    assert case.findings.counts == {"unknown": 1}


def test_an_event_that_comes_again_after_it_was_checked_is_doubled() -> None:
    case = Case()
    case.commit(101, 102)
    case.get(101, 102)
    assert case.found == {}
    case.get(102)
    assert case.found == {"doubled": 1}


def test_another_event_under_an_id_is_found() -> None:
    case = Case()
    case.commit(101)
    case.reader.event(101, 7)
    assert case.found == {"lost": 1, "unknown": 1}


def test_what_was_lost_last_is_found_when_no_more_comes() -> None:
    case = Case()
    case.commit(101, 102)
    case.get(101)
    assert case.found == {}
    case.reader.end()
    assert case.found == {"lost": 1}


def test_a_position_promises_that_nothing_is_missing_before_it() -> None:
    case = Case()
    case.commit(101, 102)
    case.reader.moved(102)
    assert case.found == {"lost": 2}


def test_what_an_announced_gap_covers_is_not_lost_and_what_it_does_not_is() -> None:
    case = Case()
    case.commit(*range(101, 121))
    case.get(101, 103)
    case.reader.gap(110)
    case.get(111, 113)
    assert case.found == {"lost": 2}  # 102 and 112
    assert [example.split()[3] for example in case.findings.examples] == ["102", "112"]


def test_a_reader_whose_stream_begins_beyond_what_is_settled_waits_for_it() -> None:
    case = Case()
    reader = Follower(case.ledger, ALL, case.findings)
    reader.opened(103)
    reader.event(104, 1104)
    reader.check()
    case.commit(101, 102, 103)
    reader.check()
    case.commit(104)
    reader.check()
    assert (case.findings.counts, reader.checked) == ({}, 1)


def test_an_id_that_is_given_twice_or_to_nobody_is_found() -> None:
    case = Case()
    case.commit(101, 103)
    case.commit(101)
    case.ledger.close()
    assert case.findings.counts == {"ids": 2}
    assert case.ledger.settled == 103


def test_the_ledger_and_its_readers_keep_no_more_than_they_need() -> None:
    case = Case(keep=500)
    for seq in range(101, 20_101):
        case.commit(seq)
        case.get(seq)
        if seq % 100 == 0:
            assert case.found == {}
            assert len(case.ledger.wanted(ALL, 0, seq)[0]) <= 1500
            assert case.reader.is_checked
    assert case.reader.checked == 20_000


def test_a_reader_that_is_further_behind_than_the_ledger_knows_is_said_to_be() -> None:
    case = Case(keep=500)
    case.commit(*range(101, 5_101))
    assert case.found == {}  # it is away
    case.get(101)
    assert case.found == {"unchecked": 1}


# What comes in.

EVENT = '{"n":1}'
OBJECT = '{"id":"k3f-7","topic":"soak/a/0","type":"created","data":{"n":1},"time":"2026-11-21T03:05:00.123Z"}'
OPEN = '{"type":"feed.open","id":"k3f-6","data":{}}'


def body(form: Form) -> bytes:
    """`feed.open` and an event, as they come."""
    if form is Form.SSE:
        return b'retry: 3000\nid: k3f-6\nevent: feed.open\ndata: {}\n\n:\nid: k3f-7\nevent: created\ndata: {"n":1}\n\n'
    if form is Form.ENVELOPE:
        return f"retry: 3000\nid: k3f-6\nevent: feed.open\ndata: {{}}\n\nid: k3f-7\ndata: {OBJECT}\n\n".encode()
    if form is Form.NDJSON:
        return f"{OPEN}\n{OBJECT}\n".encode()
    if form is Form.WS_BATCH:
        both = f"{OPEN}\n{OBJECT}".encode()
        return b"\x81\x7e" + len(both).to_bytes(2, "big") + both
    return b"".join(b"\x81" + bytes([len(text)]) + text.encode() for text in (OPEN, OBJECT))


def stream(form: Form) -> bytes:
    """A whole answer."""
    if form.is_websocket:
        return b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + body(form)
    half = len(body(form)) // 2
    parts = body(form)[:half], body(form)[half:]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks


@pytest.mark.parametrize("form", Form)
def test_events_are_read_wherever_the_bytes_are_cut(form: Form) -> None:
    whole = stream(form)
    for cut in range(len(whole)):
        parser = Parser(form, lambda _: None)
        items = parser.feed(whole[:cut]) + parser.feed(whole[cut:])
        assert [(item.type, item.id, item.json) for item in items] == [
            ("feed.open", "k3f-6", {}),
            ("created", "k3f-7", {"n": 1}),
        ], cut


def test_data_of_several_lines_and_the_time_to_come_back_are_read() -> None:
    parser = Parser(Form.SSE, lambda _: None)
    body = b"retry: 250\nid: k3f-7\nevent: note\ndata: a\ndata: \ndata: b\n\n"
    head = b"HTTP/1.1 200 OK\r\nX-Node: A\r\nTransfer-Encoding: chunked\r\n\r\n"
    [item] = parser.feed(b"%b%x\r\n%b\r\n" % (head, len(body), body))
    assert (item.type, item.id, item.data) == ("note", "k3f-7", "a\n\nb")
    assert (parser.status, parser.retry) == (200, 250)
    assert "\r\nx-node: a\r\n" in parser.head + "\r\n"


def test_a_stream_that_is_none_is_garbled() -> None:
    for form, wrong in [(Form.SSE, b"5\r\nid:1\n\r\n2\r\n\n\n\r\n"), (Form.NDJSON, b"3\r\n{]\n\r\n")]:
        with pytest.raises(Garbled):
            Parser(form, lambda _: None).feed(b"HTTP/1.1 200 OK\r\n\r\n" + wrong)


def test_a_reader_asks_for_its_wish_after_its_last_id() -> None:
    wish = Wish(("a/*", "b"), ("created",))
    asked = request(Form.NDJSON, wish.query(last="3"), "k3f-7").decode()
    assert asked.startswith("GET /events?topic=a%2F%2A&topic=b&type=created&last=3 HTTP/1.1\r\n")
    assert "\r\nAccept: application/x-ndjson\r\nLast-Event-ID: k3f-7\r\n\r\n" in asked


# What is left behind.

BEFORE = Sample(0.0, 60_000_000, 14, 3, 8, 0.1, 0, 0, 0, 0)


def samples(seconds: int, growth: float) -> list[Sample]:
    """One a second, with so many bytes more each, after ten seconds of a steeper start."""
    return [
        replace(
            BEFORE, at=float(at), memory=int(70_000_000 + at * growth + min(at, 10) * 1_000_000), connections=at * 50
        )
        for at in range(seconds + 1)
    ]


def test_the_slope_is_of_the_measured_part_alone() -> None:
    part = measured(samples(200, 100.0), 200.0)
    assert part[0].at == 40.0
    line = slope(part)
    assert line is not None
    assert (line.seconds, round(line.per_minute), round(line.per_connection, 3)) == (160.0, 6000, 2.0)
    assert slope(part[:1]) is None


def test_a_server_that_gives_everything_back_leaks_nothing() -> None:
    assert leaks(BEFORE, measured(samples(1000, 1000.0), 1000.0), replace(BEFORE, descriptors=20), Bounds()) == []


@pytest.mark.parametrize(
    ("growth", "after", "found"),
    [
        (
            8738.2,
            {},
            "memory grew by 512 KiB a minute (175 bytes a connection), more than the 282 that are allowed",
        ),
        (0.0, {"descriptors": 27}, "27 descriptors after the last reader left, 14 before the first came"),
        (0.0, {"tasks": 13}, "13 tasks after the last reader left, 8 before the first came"),
        (0.0, {"threads": 8}, "8 threads after the last reader left, 3 when the measured part began"),
    ],
    ids=["memory", "descriptors", "tasks", "threads"],
)
def test_a_leak_is_found(growth: float, after: dict[str, int], found: str) -> None:
    part = measured(samples(1000, growth), 1000.0)
    assert leaks(BEFORE, part, replace(BEFORE, **after), Bounds()) == [found]


def test_memory_is_not_judged_after_a_short_warm_up() -> None:
    assert leaks(BEFORE, measured(samples(800, 1e6), 800.0), BEFORE, Bounds()) == []
    assert leaks(BEFORE, measured(samples(900, 1e6), 900.0), BEFORE, Bounds()) != []


# Small runs.


class Quiet:
    """Progress that nobody sees."""

    def status(self, text: str) -> None:
        """Nothing."""

    line = status


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One run to its end."""
    return subprocess.run(
        [FEED, "bench", *arguments], capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
    )


def test_a_soak_of_seconds_has_everything_in_it_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    done = bench("--soak", "2s", "--log", "sqlite:", "--readers", "60", "--rate", "300/s", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every reader got every event once and in order, or was told" in done.stdout
    written = json.loads(file.read_text(encoding="utf-8"))
    assert (written["faults"], written["findings"]) == ([], {})
    tally = written["tally"]
    assert written["events"] > 50
    assert tally["checked"] == tally["deliveries"] > 500
    assert all(tally[name] for name in ("connections", "resumes", "pages", "bad publishes", "stalls"))
    assert all(tally[name] for name in ("closed", "reset", "half-closed"))
    assert written["after"]["tasks"] == written["before"]["tasks"]
    assert written["end"]["stored"] > 0
    assert written["plan"]["retained"] == 4500


LYING = """
import asyncio, os, sys
from pathlib import Path
from feed.broadcaster import Broadcaster
from feed.subscription import Subscription
from feed_server.bench.soak import inside
from feed_server.cli.main import main

offer, register, offers, kept = Subscription.offer, Broadcaster.register, 0, []

def lose(self, batch):
    global offers
    offers += 1
    if offers % 20:
        offer(self, batch)

def keep(self, subscription):
    os.open("/dev/null", os.O_RDONLY)
    kept.append(asyncio.ensure_future(asyncio.Event().wait()))
    register(self, subscription)

Subscription.offer, Broadcaster.register = lose, keep
inside.tell_tasks(Path(sys.argv[1]))
del sys.argv[1]
main()
"""


def test_a_server_that_loses_events_and_keeps_what_is_not_needed_is_found_out(tmp_path: Path) -> None:
    program = tmp_path / "lying.py"
    program.write_text(LYING)
    bounds = Bounds(patience=0.1)
    plan = Plan(1.5, "memory:", [Form.SSE], 30, 4, 100.0, 200, bounds, program=(str(program),))
    outcome = soak(plan, share_cores(), Quiet())
    assert set(outcome.seen.findings) == {"lost"}
    assert outcome.faults[0] == f"{outcome.seen.findings['lost']} lost"
    assert [fault.split()[1] for fault in outcome.faults[1:]] == ["descriptors", "tasks"]
    assert [line for line in report(outcome) if line.startswith("WRONG: ")] == [
        f"WRONG: {fault}" for fault in outcome.faults
    ]


def test_ctrl_c_ends_it_with_the_report_of_what_was_seen(tmp_path: Path) -> None:
    file = tmp_path / "soak.json"
    command = [FEED, "bench", "--soak", "1h", "--readers", "5", "--rate", "20/s", "--json", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stderr is not None
            assert "5 readers that come and go" in running.stderr.readline()
            assert "0:00 of 60:00" in running.stderr.readline()
            running.send_signal(signal.SIGINT)
            said, _ = running.communicate(timeout=SECONDS)
        finally:
            running.kill()
    assert running.returncode == 0, said
    assert ", ended after 0:00" in said
    assert "every reader got every event once and in order, or was told" in said
    assert json.loads(file.read_text(encoding="utf-8"))["faults"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--soak", "soon"), "a duration is a number of seconds, or one with s, m or h: 90s, 20m"),
        (("--soak", "1m", "--nodes", "2"), "--soak: cannot be combined with nodes"),
        (("storm", "--soak", "1m"), "--soak: cannot be combined with scenario"),
        (("--soak", "1m", "--log", "memory:", "--log", "sqlite:"), "--soak: takes one --log"),
        (
            ("--soak", "1m", "--log", "sqlite:feed.db"),
            "a soak needs a new log, which it makes in TMPDIR: give --log sqlite:",
        ),
        (("--soak", "1m", "--data", "10"), "--data 10: an event's token alone needs 64 bytes"),
    ],
)
def test_what_makes_no_sense_is_said(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from feed_server.cli.main import run

    assert run(["bench", *arguments]) != 0
    assert message in capsys.readouterr().err
