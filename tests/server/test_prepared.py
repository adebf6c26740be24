"""Lines that are put together from a line that was made before: the same as if each was made anew."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

import pytest

from feed.fastapi.logging.records import FactRecord
from feed.fastapi.logging.requests import REQUESTS, request_facts
from feed_server.logging.formatters import JournalLine, JsonLine, OneLine
from feed_server.logging.prepared import prepared_line
from feed_server.logging.stderr import OutputHandler, only_handler

NOW = 1_764_500_000.1235

FORMATTERS: dict[str, Callable[[], logging.Formatter]] = {
    "JSON": lambda: JsonLine(timed=True, server={}),
    "JSON of a worker": lambda: JsonLine(timed=True, server={"worker": 2}),
    "JSON without the time": lambda: JsonLine(timed=False, server={}),
    "text": lambda: OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"),
    "the journal": lambda: JournalLine("%(name)s: %(message)s"),
}


class Lines:
    """An output that keeps what it takes."""

    dropped = 0

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def put(self, line: bytes) -> None:
        self.taken.append(line)

    def close(self) -> None: ...


@pytest.fixture(params=list(FORMATTERS))
def handler(request: pytest.FixtureRequest) -> OutputHandler:
    made = OutputHandler(FORMATTERS[request.param]())
    made.output = Lines()
    return made


@pytest.mark.parametrize("path", ["/events/a", "/events/100%25/%s%d", '/events/"\\', "/events/ä\u2028"])
@pytest.mark.parametrize("principal", [None, "ann", 'an "n\n'], ids=["nobody", "ann", "a strange name"])
def test_a_line_is_the_same_as_one_of_a_record(
    handler: OutputHandler, path: str, principal: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed_server.logging.prepared.time.time_ns", lambda: int(NOW * 1000) * 1_000_000)
    line = prepared_line(handler, logging.INFO, "POST", path, 201, principal)
    assert line is not None
    taken = handler.output
    assert isinstance(taken, Lines)
    for seconds, client in ((0.00031, "127.0.0.1"), (0.0, "2001:db8::1"), (12.3456, "a.b"), (0.001, "10.0.0.9")):
        assert line.write(seconds, 200, 36, client)
        facts = request_facts("POST", path, 201, seconds, 200, 36, (client, 1), principal)
        record = FactRecord(REQUESTS.name, logging.INFO, facts)
        record.created, record.msecs = NOW, NOW % 1 * 1000
        assert taken.taken.pop() == handler.line(record)


def test_an_address_that_could_break_a_line_is_not_put_into_one(handler: OutputHandler) -> None:
    line = prepared_line(handler, logging.INFO, "POST", "/events/a", 201, None)
    assert line is not None
    for client in ("", 'a"', "a b", "a\n", "\u2028", "x" * 129, "a,", "fe80::1%eth0"):
        assert not line.write(0.1, 1, 1, client)


@pytest.mark.parametrize("path", ["/events/86523571.43", "/events/7214639851", "/198.51.100.231", "/86399.571"])
def test_a_path_that_looks_like_a_number_of_a_line_is_not_taken_for_it(path: str) -> None:
    handler = OutputHandler(JsonLine(timed=True, server={}))
    handler.output = taken = Lines()
    line = prepared_line(handler, logging.INFO, "POST", path, 201, None)
    if line is not None:
        line.write(0.1, 1, 2, "127.0.0.1")
        assert json.loads(taken.taken[0])["path"] == path


def test_lines_are_prepared_only_where_nobody_else_gets_the_records() -> None:
    parent, child = logging.getLogger("prepared"), logging.getLogger("prepared.requests")
    parent.propagate = False
    handler, other = OutputHandler(JsonLine(timed=True, server={})), logging.NullHandler()
    assert only_handler(child) is None
    parent.addHandler(handler)
    assert only_handler(child) is handler
    child.addHandler(other)
    assert only_handler(child) is None
    child.removeHandler(other)
    child.addFilter(lambda record: True)
    assert only_handler(child) is None
