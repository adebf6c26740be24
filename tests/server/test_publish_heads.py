"""The heads of plain publishes: whatever is read without the parser, the parser reads in the same way."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from feed import Feed
from feed.fastapi.auth.origins import Hosts, Origins
from feed.fastapi.routes.gate import Gate
from feed_server.publishing import Accepted, Publishing
from feed_server.server.protocol.heads import LastHead, PublishHead, PublishHeads

HEAD = (
    b"POST /events/a/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n"
    b"Idempotency-Key: k1\r\nX-More: y\r\n\r\n"
)
BODY = b"Hello"


class Client:
    """A connection, as far as heads depend on it."""

    def __init__(self) -> None:
        self.server = ("127.0.0.1", 8000)
        self.client = ("127.0.0.1", 50_000)
        self.scheme: str = "http"
        self.place = b"127.0.0.1,"
        self.last_head: LastHead | None = None


def heads() -> PublishHeads:
    """With rules of a server without a key."""
    return PublishHeads(Publishing(Gate(Feed("memory:")), Origins(), Hosts()), 64 << 10)


def said(head: PublishHead | None) -> tuple[object, ...] | None:
    """All that a head says."""
    if head is None:
        return None
    accepted: Accepted = head.accepted
    return accepted.event, accepted.limit, accepted.path, head.end, head.length, tuple(head.keys)


def test_a_head_is_read_wherever_it_begins() -> None:
    reader, client = heads(), Client()
    first = reader.read(HEAD + BODY, 0, client)  # type: ignore[arg-type]
    assert said(first) == said(reader.read(HEAD + BODY, 0, client))  # type: ignore[arg-type]
    third = reader.read(b"xyz" + HEAD + BODY, 3, client)  # type: ignore[arg-type]
    assert first is not None
    assert third == first._replace(end=first.end + 3)
    assert (first.length, first.keys) == (5, ("k1",))


def test_the_length_and_the_key_of_a_head_that_is_known_are_its_own() -> None:
    reader, client = heads(), Client()
    known = reader.read(HEAD, 0, client)  # type: ignore[arg-type]
    other = reader.read(HEAD.replace(b": 5", b": 60").replace(b"k1", b"k2"), 0, client)  # type: ignore[arg-type]
    assert known is not None
    assert other is not None
    assert (other.length, other.keys) == (60, ("k2",))
    assert other.accepted is known.accepted
    without = HEAD.replace(b"Idempotency-Key: k1\r\n", b"")
    for length in (7, 12_345, 0):  # the last head of the connection, without a search
        head = reader.read(without.replace(b": 5", b": %d" % length), 0, client)  # type: ignore[arg-type]
        assert head is not None
        assert (head.length, head.keys) == (length, ())


UNUSUAL = {
    "a large body": (b": 5", b": 65537"),
    "another version": (b"HTTP/1.1", b"HTTP/1.0"),
    "the last of its connection": (b"X-More: y", b"Connection: close"),
    "chunks": (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    "chunks and a length": (b"X-More: y", b"Transfer-Encoding: chunked"),
    "what is to be continued": (b"X-More: y", b"Expect: 100-continue"),
    "an upgrade": (b"X-More: y", b"Connection: Upgrade\r\nUpgrade: h2c"),
    "two lengths": (b"X-More: y", b"content-LENGTH: 5"),
    "two keys": (b"X-More: y", b"idempotency-key: k1"),
    "a key in another case": (b"Idempotency-Key", b"IDEMPOTENCY-KEY"),
    "a folded line": (b"X-More: y", b"X-More: y\r\n folded"),
    "a line that is folded at its begin": (b"Idempotency-Key: k1\r\n", b"Idempotency-Key: k1\r\n folded\r\n"),
    "a line break alone": (b"X-More: y", b"X-More: y\nX-Other: z"),
    "an end without CR": (b"Host: localhost\r\n", b"Host: localhost\n\n"),
    "NUL": (b"X-More: y", b"X-More: \0"),
    "no name": (b"X-More: y", b": y"),
    "a space before the colon": (b"Content-Length:", b"Content-Length :"),
    "a sign before the length": (b": 5", b": +5"),
    "two Hosts": (b"X-More: y", b"Host: localhost"),
    "no Host": (b"Host: localhost\r\n", b""),
    "another Host": (b"localhost", b"evil.example"),
    "a page of another origin": (b"X-More: y", b"Origin: https://evil.example"),
    "a whole URL": (b"/events/a/1", b"http://localhost/events/a/1"),
    "a target that is not ASCII": (b"/a/1", b"/a/\xff"),
    "another path": (b"/events/a/1", b"/events"),
    "another method": (b"POST", b"PUT"),
    "many headers": (b"X-More: y", b"\r\n".join([b"X: y"] * 300)),
    "a long head": (b"X-More: y", b"X-More: " + b"y" * 5_000),
}


def test_what_is_unusual_is_left_to_the_routes_also_where_the_usual_is_known() -> None:
    for name, (old, new) in UNUSUAL.items():
        reader, client = heads(), Client()
        for known in (None, HEAD, HEAD.replace(b"Idempotency-Key: k1\r\n", b"")):
            if known is not None:
                assert reader.read(known, 0, client) is not None  # type: ignore[arg-type]
            assert reader.read(HEAD.replace(old, new), 0, client) is None, name  # type: ignore[arg-type]


LINES = [b"Content-Length: 5", b"Idempotency-Key: k", b"Host: localhost", b"Transfer-Encoding: chunked", b"X: y"]
MARKS = [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"5", b"0", b"\0", b"\xff", b"%41", b"\r\n\r\n", b"?type=t", b""]
pieces = st.sampled_from([*MARKS, *(line + b"\r\n" for line in LINES)])


@given(st.lists(st.tuples(st.integers(0, len(HEAD)), st.integers(0, 8), pieces), min_size=1, max_size=3))
def test_a_head_that_was_changed_is_read_as_if_no_other_one_was_known(changes: list[tuple[int, int, bytes]]) -> None:
    data = HEAD + BODY
    for place, gone, put in changes:
        data = data[:place] + put + data[place + gone :]
    warm, client = heads(), Client()
    for known in (HEAD, HEAD.replace(b"Idempotency-Key: k1\r\n", b"")):
        warm.read(known + BODY, 0, client)  # type: ignore[arg-type]
    found = said(warm.read(data, 0, client))  # type: ignore[arg-type]
    assert found == said(heads().read(data, 0, Client()))  # type: ignore[arg-type]
