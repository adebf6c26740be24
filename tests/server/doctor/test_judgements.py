"""What the doctor makes of the facts: each judgement as a table, facts in, verdict out."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from feed_server.doctor.finding import Finding, Severity, exit_code, fail, ok, unknown, warn
from feed_server.doctor.flow import Flow, Quiet, Seen, judge_buffering, judge_caching, judge_compression, judge_quiet
from feed_server.doctor.pages import Cors, Origins, Session, judge_cors, judge_origins, judge_session
from feed_server.doctor.reach import (
    Clocks,
    Way,
    judge_clock,
    judge_health,
    judge_right,
    judge_stranger,
    judge_tls,
    judge_unreachable,
    judge_version,
)
from feed_server.doctor.requests import Paths, judge_addresses, judge_body, judge_paths, judge_refusal
from feed_server.doctor.requests import Seen as SeenAs
from feed_server.doctor.resume import Resumed, judge_header, judge_replay
from feed_server.doctor.retention import judge_retention
from feed_server.doctor.target import Answer
from feed_server.doctor.websocket import QuietSocket, Socket, judge_quiet_socket, judge_socket

ORIGIN = "https://app.example.org"


def problem(status: int, detail: str = "why", *headers: tuple[str, str]) -> Answer:
    body = json.dumps({"status": status, "detail": detail}).encode()
    return Answer(status, [("content-type", "application/problem+json"), *headers], body)


def page(status: int) -> Answer:
    return Answer(status, [("content-type", "text/html")], b"<h1>Oh</h1>")


def said(status: int, document: object, *headers: tuple[str, str]) -> Answer:
    return Answer(status, [("content-type", "application/json"), *headers], json.dumps(document).encode())


def verdict(finding: Finding | None) -> str:
    return "none" if finding is None else finding.severity.value


NOBODY = Answer(0, error="nothing came in time")
ALIVE = said(200, {"status": "alive"})
EMPTY = said(200, {"events": [], "next": "a-1"})


@pytest.mark.parametrize(
    ("way", "expected", "words"),
    [
        (Way(True, False, "h2", 60), "none", ""),
        (Way(True, False, error="self-signed certificate", untrusted=True), "fail", "self-signed"),
        (Way(False, False, error="refused"), "fail", "no connection: refused"),
        (Way(True, False, error="wrong version number", plain=True), "fail", "does not speak TLS"),
    ],
)
def test_what_keeps_everybody_out(way: Way, expected: str, words: str) -> None:
    finding = judge_unreachable(way)
    assert verdict(finding) == expected
    assert finding is None or words in finding.words


@pytest.mark.parametrize(
    ("way", "tls", "version"),
    [
        (Way(True, False, "h2", 60), "ok", "ok"),
        (Way(True, False, "http/1.1", 60), "ok", "warn"),
        (Way(True, False, "h2", 13), "warn", "ok"),
        (Way(False, True), "ok", "ok"),
        (Way(False, False), "warn", "ok"),
    ],
)
def test_tls_and_the_version_of_http(way: Way, tls: str, version: str) -> None:
    assert (verdict(judge_tls(way)), verdict(judge_version(way))) == (tls, version)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (EMPTY, None),
        (problem(401), None),
        (problem(403), None),
        (problem(403, "set FEED_HOSTS to the host"), "FEED_HOSTS"),
        (Answer(301, [("location", "https://x.example/")]), "elsewhere: https://x.example/"),
        (page(502), "no feed behind it: 502"),
        (problem(503, "the log does not answer"), "takes no requests: 503 (the log does not answer)"),
        (page(404), "no feed at this URL: 404 text/html"),
        (said(200, ["events"]), "no feed"),
        (page(403), "no feed"),
        (NOBODY, "does not answer: nothing came in time"),
    ],
)
def test_whether_it_is_a_feed(answer: Answer, words: str | None) -> None:
    finding = judge_stranger(answer)
    assert (finding is None) == (words is None)
    assert finding is None or (words or "") in finding.words


INVALID = ("www-authenticate", 'Bearer error="invalid_token"')


@pytest.mark.parametrize(
    ("answer", "token", "expected", "words"),
    [
        (EMPTY, True, "ok", "may be read"),
        (problem(401, "why", INVALID), True, "fail", "does not accept the token"),
        (problem(401, "why", ("www-authenticate", "Bearer")), True, "fail", "did not get the token"),
        (problem(401, "why", ("www-authenticate", "Bearer")), False, "unknown", "may not be read"),
        (problem(403), True, "unknown", "may not be read"),
    ],
)
def test_whether_the_topic_may_be_read(answer: Answer, token: bool, expected: str, words: str) -> None:
    finding = judge_right(answer, token=token)
    assert verdict(finding) == expected
    assert words in finding.words


@pytest.mark.parametrize(
    ("healthz", "readyz", "expected"),
    [
        (ALIVE, ALIVE, "ok"),
        (ALIVE, problem(503, "the log does not answer"), "fail"),
        (page(404), page(404), "unknown"),
        (page(200), page(200), "unknown"),
        (ALIVE, page(503), "unknown"),
    ],
)
def test_health(healthz: Answer, readyz: Answer, expected: str) -> None:
    assert verdict(judge_health(healthz, readyz)) == expected


@pytest.mark.parametrize(
    ("clocks", "expected", "words"),
    [
        (Clocks(100.0, 100.4, event=100.2), "ok", "the feed's clock agrees"),
        (Clocks(100.0, 100.4, event=98.1), "ok", "agrees"),
        (Clocks(100.0, 100.4, event=90.0), "warn", "10 s behind"),
        (Clocks(100.0, 100.4, event=3700.4), "warn", "3,600 s ahead"),
        (Clocks(100.0, 100.4, date=101.0, event=90.0), "warn", "behind"),
        (Clocks(100.0, 130.0, event=115.0), "ok", "agrees"),
        (Clocks(100.9, 101.0, date=99.0), "ok", "perhaps the proxy's"),
        (Clocks(100.0, 100.4, date=60.0), "warn", "39 s behind"),
        (Clocks(100.0, 100.4), "unknown", "no answer says"),
    ],
)
def test_the_clock(clocks: Clocks, expected: str, words: str) -> None:
    finding = judge_clock(clocks)
    assert verdict(finding) == expected
    assert words in finding.words


SENT = [("a-1", 10.0), ("a-2", 10.3), ("a-3", 10.6), ("a-4", 10.9)]
FRESH = ("no-store", "", "")


def seen(
    *late: float, opened: float | None = 0.01, encoding: str = "", name: str = "x", cache: tuple[str, str, str] = FRESH
) -> Seen:
    """How late each of the events came; those behind them never did."""
    arrived = {id: at + delay for (id, at), delay in zip(SENT, late, strict=False)}
    return Seen(opened, arrived, encoding, name, cache)


ONCE = seen(0, 0, 0, 0)
NEVER = seen(opened=None)
ELSEWHERE = seen()._replace(position="b-0")


@pytest.mark.parametrize(
    ("flow", "expected", "words"),
    [
        (Flow(SENT, ONCE, ONCE, ONCE), "ok", "at once"),
        (Flow(SENT, ONCE, seen(-0.01, 0.9, 0, 0), ONCE), "ok", "within 900 ms"),
        (Flow(SENT, NEVER, NEVER, NEVER), "fail", "0 of 4 came"),
        (Flow(SENT, ONCE, seen(0, 0), ONCE), "fail", "2 of 4 came"),
        (Flow(SENT, ONCE, seen(), ONCE, released=20 << 10), "fail", "came after 20 KiB"),
        (Flow(SENT, ONCE, seen(1.5, 1.2, 0.9, 0.6), ONCE), "fail", "come together, up to 1.5 s late"),
        (Flow(SENT, ONCE, seen(1.5, 1.5, 1.5, 1.5), ONCE), "warn", "1.5 s late"),
        (Flow(SENT, ONCE, seen(1.5, 1.5, 1.5, 1.5), ONCE, trip=0.6), "ok", "at once"),
        (Flow(SENT, ONCE, seen(1.5, 1.2, 0.9, 0.6), ONCE, trip=0.6), "fail", "come together, up to 1.5 s late"),
        (Flow(SENT, ONCE, ONCE, seen()), "warn", "JSON lines"),
        (Flow(SENT, seen(), ONCE, ONCE), "ok", "at once"),
        (Flow([], ONCE, ONCE, ONCE, problem(403)), "unknown", "403 (why)"),
        (Flow([], NEVER, NEVER, NEVER, problem(403)), "fail", "not even the first bytes"),
        (Flow([("a-1", 10.0), ("b-1", 10.3)], ONCE, seen(0), ONCE), "fail", "different logs"),
        (Flow(SENT, ONCE, ELSEWHERE, ONCE), "fail", "different logs"),
    ],
)
def test_whether_events_come_at_once(flow: Flow, expected: str, words: str) -> None:
    finding = judge_buffering(flow)
    assert (verdict(finding), words in finding.words) == (expected, True), finding


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        (Flow(SENT, ONCE, ONCE, ONCE), "ok"),
        (Flow(SENT, seen(0, 0, 0, 0, encoding="gzip"), ONCE, ONCE), "warn"),
        (Flow(SENT, seen(encoding="gzip"), ONCE, ONCE), "fail"),
        (Flow(SENT, NEVER, ONCE, ONCE), "fail"),
        (Flow(SENT, NEVER, NEVER, NEVER), "unknown"),
        (Flow([], seen(encoding="br"), ONCE, ONCE, problem(403)), "warn"),
    ],
)
def test_whether_streams_are_compressed(flow: Flow, expected: str) -> None:
    assert verdict(judge_compression(flow)) == expected


@pytest.mark.parametrize(
    ("plain", "expected", "words"),
    [
        (seen(name="y"), "ok", "of its own"),
        (seen(name="x"), "fail", "the same stream"),
        (seen(name="y", cache=("no-store", "12", "")), "fail", "Age: 12"),
        (seen(name="y", cache=("no-store", "0", "HIT from cdn")), "fail", "HIT from cdn"),
        (seen(name="y", cache=("no-store", "0", "MISS")), "ok", "of its own"),
        (seen(name="y", cache=("public, max-age=60", "", "")), "warn", "max-age=60"),
        (NEVER, "unknown", "nothing came"),
    ],
)
def test_whether_a_cache_is_on_the_way(plain: Seen, expected: str, words: str) -> None:
    finding = judge_caching(Flow(SENT, ONCE, plain, ONCE))
    assert (verdict(finding), words in finding.words) == (expected, True), finding


@pytest.mark.parametrize(
    ("quiet", "expected", "words"),
    [
        (Quiet(75, True, [15, 30, 45, 60, 75]), "ok", "stays open for at least 75 s, with a heartbeat every 15 s"),
        (Quiet(75, True, [15, 30, 45, 60]), "ok", "stays open"),
        (Quiet(75, True, [15, 30]), "fail", "falls silent after 30 s"),
        (Quiet(75, True, []), "warn", "without a heartbeat"),
        (Quiet(5, True, []), "unknown", "without a heartbeat"),
        (Quiet(75, True, [], 10, "reset"), "fail", "cut after 10 s, before"),
        (Quiet(75, True, [15, 30, 45], 60, "reset"), "warn", "cut after 60 s, although it was alive"),
        (Quiet(75, True, [15], 20, 'feed.closing {"reason":"shutdown"}'), "warn", "the feed itself"),
        (Quiet(75, False, how="refused"), "unknown", "refused"),
    ],
)
def test_whether_a_quiet_stream_is_kept(quiet: Quiet, expected: str, words: str) -> None:
    finding = judge_quiet(quiet)
    assert (verdict(finding), words in finding.words) == (expected, True), finding


OPEN = ["feed.open", "feed.gap", "feed.live"]


@pytest.mark.parametrize(
    ("by_header", "by_query", "expected"),
    [
        (OPEN, OPEN, "ok"),
        (["feed.open"], OPEN, "fail"),
        (["feed.open"], ["feed.open"], "fail"),
        ([], [], "unknown"),
        ([], OPEN, "fail"),
    ],
)
def test_whether_the_last_id_gets_there(by_header: Sequence[str], by_query: Sequence[str], expected: str) -> None:
    assert verdict(judge_header(by_header, by_query)) == expected


@pytest.mark.parametrize(
    ("resumed", "expected"),
    [
        (Resumed(published=["a-1", "a-2", "a-3"], replayed=["a-2", "a-3"]), "ok"),
        (Resumed(published=["a-1", "a-2", "a-3"], replayed=["a-3"]), "fail"),
        (Resumed(published=["a-1", "a-2", "a-3"], replayed=["a-3", "a-2"]), "fail"),
        (Resumed(published=["a-1", "a-2", "a-3"], replayed=["a-2", "a-2", "a-3"]), "fail"),
        (Resumed(published=["a-1", "a-2", "a-3"]), "unknown"),
        (Resumed(refused=problem(403)), "unknown"),
    ],
)
def test_whether_what_is_replayed_is_whole(resumed: Resumed, expected: str) -> None:
    assert verdict(judge_replay(resumed)) == expected


SWITCHED = Answer(101)


@pytest.mark.parametrize(
    ("socket", "expected", "words"),
    [
        (Socket(SWITCHED, True, True, True, True), "ok", "both ways"),
        (Socket(SWITCHED, True, True, True, False), "fail", "does not resume"),
        (Socket(SWITCHED, True, True, False), "fail", "does not come back"),
        (Socket(SWITCHED, True, False, None, None, "403 no grant"), "unknown", "403 no grant"),
        (Socket(SWITCHED), "fail", "nothing arrives over it"),
        (Socket(problem(426)), "fail", "upgrade got lost"),
        (Socket(problem(503)), "unknown", "turned it away"),
        (Socket(page(503)), "fail", "does not open: 503"),
        (Socket(page(404)), "fail", "does not open: 404"),
        (Socket(problem(403)), "unknown", "not allowed"),
        (Socket(NOBODY), "fail", "no answer"),
    ],
)
def test_whether_a_websocket_works(socket: Socket, expected: str, words: str) -> None:
    finding = judge_socket(socket)
    assert (verdict(finding), words in finding.words) == (expected, True), finding


@pytest.mark.parametrize(
    ("quiet", "expected"),
    [
        (QuietSocket(75, True, answered=True), "ok"),
        (QuietSocket(75, True), "fail"),
        (QuietSocket(75, True, 10, "without a word"), "fail"),
        (QuietSocket(75, True, 10, "without a word", busy_ended=40), "fail"),
        (QuietSocket(75, True, 10, "without a word", busy_ended=10.5), "warn"),
        (QuietSocket(75, True, 0.4, "without a word", busy_ended=0.4), "fail"),
        (QuietSocket(75, True, 10, "with 1001 shutdown"), "warn"),
        (QuietSocket(75, False), "unknown"),
    ],
)
def test_whether_a_quiet_websocket_is_kept(quiet: QuietSocket, expected: str) -> None:
    assert verdict(judge_quiet_socket(quiet)) == expected


STRANGER = problem(403, "list that origin in FEED_ORIGINS")


@pytest.mark.parametrize(
    ("own", "stranger", "expected"),
    [
        (problem(422), STRANGER, "ok"),
        (problem(401), STRANGER, "ok"),
        (STRANGER, STRANGER, "fail"),
        (problem(422), problem(422), "warn"),
        (problem(422), page(403), "unknown"),
    ],
)
def test_whether_pages_are_known_from_each_other(own: Answer, stranger: Answer, expected: str) -> None:
    assert verdict(judge_origins(Origins(own, stranger))) == expected


ALLOWED = (("access-control-allow-origin", ORIGIN), ("access-control-allow-credentials", "true"))
HEADERS = ("access-control-allow-headers", "Last-Event-ID, Authorization, Content-Type, Idempotency-Key")
TOLD = said(200, {}, *ALLOWED)


@pytest.mark.parametrize(
    ("preflight", "answer", "expected", "words"),
    [
        (Answer(204, [*ALLOWED, HEADERS]), TOLD, "ok", "may read"),
        (problem(403), said(200, {}), "fail", "preflight is answered 403"),
        (Answer(204, [*ALLOWED, HEADERS]), said(200, {}), "fail", "do not allow the origin"),
        (Answer(204, [*ALLOWED, HEADERS]), said(200, {}, *ALLOWED, ALLOWED[0]), "fail", "2 times"),
        (Answer(204, [*ALLOWED, HEADERS]), said(200, {}, (ALLOWED[0][0], "*")), "fail", "allow *"),
        (Answer(204, [*ALLOWED, HEADERS]), said(200, {}, (ALLOWED[0][0], "https://b.example")), "fail", "another"),
        (Answer(204, [*ALLOWED, HEADERS]), said(200, {}, ALLOWED[0]), "fail", "credentials"),
        (Answer(204, [*ALLOWED, (HEADERS[0], "Content-Type")]), TOLD, "fail", "does not allow last-event-id"),
    ],
)
def test_whether_another_page_may_use_it(preflight: Answer, answer: Answer, expected: str, words: str) -> None:
    finding = judge_cors(Cors(ORIGIN, preflight, answer))
    assert (verdict(finding), words in finding.words) == (expected, True), finding


def cookie(text: str) -> Answer:
    return Answer(204, [("set-cookie", f"feed_token=abc; {text}")])


STRICT = "HttpOnly; Path=/; SameSite=strict"
STREAM = Answer(200)


@pytest.mark.parametrize(
    ("session", "expected", "words"),
    [
        (Session(True, cookie(f"{STRICT}; Secure"), STREAM), "ok", "a stream opens"),
        (Session(False, cookie(STRICT), STREAM), "ok", "a stream opens"),
        (Session(True, cookie(STRICT), STREAM), "warn", "not Secure"),
        (Session(False, cookie(f"{STRICT}; Secure"), STREAM), "fail", "never sends it"),
        (Session(False, cookie("HttpOnly; Path=/live; SameSite=strict"), STREAM), "warn", "was changed"),
        (Session(False, cookie(STRICT), problem(401)), "fail", "does not open a stream: 401"),
        (Session(False, Answer(204)), "unknown", "no cookie came"),
        (Session(False, page(404)), "unknown", "another application"),
        (Session(False, problem(401)), "fail", "does not accept the token"),
        (None, "unknown", "no token"),
    ],
)
def test_whether_a_cookie_works(session: Session | None, expected: str, words: str) -> None:
    finding = judge_session(session)
    assert (verdict(finding), words in finding.words) == (expected, True), finding


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (problem(422), "ok"),
        (problem(413), "ok"),
        (page(413), "fail"),
        (NOBODY, "fail"),
        (problem(403), "unknown"),
        (problem(429), "unknown"),
        (page(503), "warn"),
    ],
)
def test_whether_large_bodies_get_there(answer: Answer, expected: str) -> None:
    assert verdict(judge_body(answer)) == expected


@pytest.mark.parametrize(
    ("answer", "expected"), [(problem(422), "ok"), (page(422), "fail"), (page(200), "fail"), (NOBODY, "fail")]
)
def test_whether_refusals_come_as_they_are(answer: Answer, expected: str) -> None:
    assert verdict(judge_refusal(answer)) == expected


ONE = said(200, {"events": [{"id": "a-1"}], "next": "a-1"})


@pytest.mark.parametrize(
    ("paths", "expected", "words"),
    [
        (Paths(ONE, ONE, problem(422), problem(422)), "ok", "as they were sent"),
        (Paths(problem(403), problem(403), problem(422), problem(422)), "ok", "as they were sent"),
        (Paths(ONE, page(404), problem(422), problem(422)), "warn", "%2F"),
        (Paths(ONE, EMPTY, problem(422), problem(422)), "warn", "%2F"),
        (Paths(ONE, ONE, EMPTY, problem(422)), "warn", "two slashes is not refused"),
        (Paths(ONE, ONE, problem(422), page(301)), "warn", "redirected"),
    ],
)
def test_whether_paths_get_there(paths: Paths, expected: str, words: str) -> None:
    finding = judge_paths(paths)
    assert (verdict(finding), words in finding.words) == (expected, True), finding


LISTED = said(200, {"subscriptions": []})


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (SeenAs(False, LISTED, "198.51.100.7", "198.51.100.7"), "ok"),
        (SeenAs(False, LISTED, "10.0.0.3", "10.0.0.3"), "ok"),  # as on a network of one's own
        (SeenAs(True, LISTED, "127.0.0.1", "127.0.0.1"), "ok"),
        (SeenAs(False, LISTED, "127.0.0.1", "127.0.0.1"), "warn"),
        (SeenAs(True, LISTED, "127.0.0.1", "203.0.113.7"), "warn"),
        (SeenAs(False, problem(403)), "unknown"),
    ],
)
def test_whose_address_is_seen(seen: SeenAs, expected: str) -> None:
    assert verdict(judge_addresses(seen)) == expected


@pytest.mark.parametrize(
    ("findings", "reached", "code"),
    [
        ([ok("a", "b")], True, 0),
        ([ok("a", "b"), unknown("a", "b")], True, 0),
        ([warn("a", "b", "c"), unknown("a", "b")], True, 3),
        ([warn("a", "b", "c"), fail("a", "b", "c"), ok("a", "b")], True, 4),
        ([fail("a", "b", "c")], False, 1),
    ],
)
def test_the_exit_code_is_the_worst(findings: list[Finding], reached: bool, code: int) -> None:
    assert exit_code(findings, reached=reached) == code


def test_severities_have_a_word_each() -> None:
    assert [each.value for each in Severity] == ["ok", "unknown", "warn", "fail"]


@pytest.mark.parametrize(
    ("events", "severity", "words"),
    [
        ({}, Severity.OK, "all topics are kept alike"),
        ({"a/**": 3, "default": 0}, Severity.OK, "each of 1 classes has events"),
        ({"a/**": 0, "default": 9}, Severity.WARN, "the class a/** has no events: no topic matches"),
        ({"a/**": 5, "a/b": 0, "default": 0}, Severity.WARN, "the class a/b has no events: a/** has its topics"),
        ({'a"\\b': 0, "default": 0}, Severity.WARN, 'the class a"\\b has no events'),
    ],
)
def test_a_class_of_retention_that_holds_nothing_is_named(
    events: dict[str, int], severity: Severity, words: str
) -> None:
    escaped = {name.replace("\\", "\\\\").replace('"', '\\"'): count for name, count in events.items()}
    lines = [f'feed_class_events{{class="{name}",node="n"}} {count}.0' for name, count in escaped.items()]
    finding = judge_retention(Answer(200, (), "\n".join(["feed_log_events 3", *lines]).encode()))
    assert finding is not None
    assert finding.severity is severity
    assert words in finding.words


def test_figures_that_cannot_be_read_say_nothing_of_retention() -> None:
    assert judge_retention(problem(401)) is None
