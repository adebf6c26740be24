"""The head of a request: what is refused though the parser accepts it, and the heads of plain publishes.

This module does no input or output: it takes bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol
from urllib.parse import unquote

import httptools
from starlette.types import Scope

from feed_server.publishing import Accepted, Publishing

MAX_HEADERS = 256
"""Headers of a request. Each takes some hundred bytes of memory, however small it is."""

HEAD_END = b"\r\n\r\n"

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)

_PUBLISH = b"POST /events/"
_MAX_BODY = 64 << 10  # bytes of a body that is published without the routes
_MAX_KNOWN_HEAD = 4 << 10  # bytes
_MOST_KNOWN = 4096
_DIGITS = 5  # of a length
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?(\d{1,5})(?=\r\n)")
_KEY = re.compile(rb"\r\n[Ii]dempotency-[Kk]ey: ?([!-~]{1,255})(?=\r\n)")
_UNUSUAL = frozenset({b"expect", b"transfer-encoding", b"upgrade", b"trailer", b"te"})

Headers = Sequence[tuple[bytes, bytes]]


class Unacceptable(Exception):
    """A request that is refused while it is read."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def check_head(method: bytes, url: bytes, version: str, headers: Headers, max_head: int) -> None:
    """Raise `Unacceptable` for what the parser accepts but proxies read in another way than we would (RFC 9112, 2.3,
    3.2, 6.1), and for a head of more than `max_head` bytes. Names of headers are in lower case."""
    if version not in ("1.1", "1.0"):
        raise Unacceptable(400, "send HTTP/1.1")
    if method == b"CONNECT":
        raise Unacceptable(400, "this server is not a proxy")
    size = len(url) + 16
    hosts = 0
    for name, value in headers:
        size += len(name) + len(value) + 4
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding" and (version == "1.0" or value.lower() != b"chunked"):
            raise Unacceptable(400, "Transfer-Encoding may only be chunked, and only in HTTP/1.1")
    if size > max_head:
        raise head_too_large(max_head)
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise Unacceptable(400, "a request must have one Host header")


def head_too_large(most: int) -> Unacceptable:
    """Return the refusal of a head of more than `most` bytes."""
    return Unacceptable(431, f"the head of the request is larger than {most:,} bytes, the limit here")


def authority_of(url: bytes) -> tuple[bytes, bytes]:
    """Return the host and the target of a URL that is not a path. Raises `Unacceptable` for what is not one."""
    found = _ABSOLUTE.fullmatch(url)
    if found is None or not found[1] or b"@" in found[1]:
        raise Unacceptable(400, "the target of a request must be a path, or a whole http:// URL without a user")
    return found[1], found[2] if found[2].startswith(b"/") else b"/" + found[2]


class Connection(Protocol):
    """What is known of a request before its head: see the HTTP connection scope of ASGI."""

    server: tuple[str, int | None] | None
    client: tuple[str, int] | None
    scheme: Literal["http", "https"] | None
    place: bytes
    """What `PublishHeads.place_of` says."""
    last_head: LastHead | None
    """The last head that was remembered on this connection."""


class PublishHead(NamedTuple):
    """The head of a request that can be published without the routes. `end` is where its body begins, `length` the
    bytes of the body, and `keys` are the values of `Idempotency-Key`."""

    accepted: Accepted
    end: int
    length: int
    keys: Sequence[str]


class LastHead(NamedTuple):
    """A head without the length of the body: what stands before and behind the number. It may hold a token, as long as
    its connection is open: so do the requests of uvicorn."""

    before: bytes
    behind: bytes
    accepted: Accepted


class PublishHeads:
    """Reads the heads of plain publishes, and remembers them: a publisher sends the same one again and again.

    Two lines differ from one event to the next, `Content-Length` and `Idempotency-Key`. They are cut out of a head, and
    the digest of the rest is looked up. So a remembered head costs two searches and a digest, and no parser. A digest,
    because a head may hold a token, and no token shall be kept longer than the connection on which it came.

    A cut cannot make one request pass for another. The parser has accepted the rest before, with a line of a length at
    its place. A line that is cut begins and ends between two line ends, and heads with a folded line are never
    remembered (RFC 9112, 5.2): so the lines around the cut are the same ones with it and without it.
    """

    def __init__(self, publishing: Publishing, max_head: int) -> None:
        self.publishing = publishing
        self._max_head = max_head
        self._known: dict[bytes, Accepted] = {}
        self._own_headers: Headers = ()
        self._own_lines = b""

    def read(self, data: bytes, start: int, connection: Connection) -> PublishHead | None:
        """Return the head that begins at `start`. None if it is not complete, or the routes have to answer."""
        last = connection.last_head
        if last is not None and data.startswith(last.before, start):
            place = start + len(last.before)
            stop = data.find(b"\r", place, place + _DIGITS + 1)
            if data.startswith(last.behind, stop) and (digits := data[place:stop]).isdigit():
                size = int(digits)
                accepted = last.accepted
                if size <= _MAX_BODY and (accepted.token is None or self.publishing.still_allows(accepted)):
                    return PublishHead(accepted, stop + len(last.behind), size, ())
        if not data.startswith(_PUBLISH, start):
            return None
        end = data.find(HEAD_END, start)
        if end < 0:
            return None
        end += len(HEAD_END)
        head = data[start:end]
        length = _LENGTH.search(head)
        if length is None or (size := int(length[1])) > _MAX_BODY or len(head) > _MAX_KNOWN_HEAD:
            return None
        rest = head[: length.start()] + head[length.end() :]
        keys: Sequence[str] = ()
        if b"dempotency-" in rest and (key := _KEY.search(rest)) is not None:
            keys = (key[1].decode("ascii"),)
            rest = rest[: key.start()] + rest[key.end() :]
        digest = hashlib.sha256(connection.place + rest).digest()
        known = self._known.get(digest)
        if known is None or not self.publishing.still_allows(known):
            known = self._parsed(head, connection, len(keys))
            if known is None:
                return None
            self._remember(digest, known)
        if not keys:
            connection.last_head = LastHead(head[: length.start(1)], head[length.end(1) :], known)
        return PublishHead(known, end, size, keys)

    def own_lines(self, headers: Headers) -> bytes:
        """Return the lines of the headers that the server adds to each answer. The list is another one each second."""
        if headers is not self._own_headers:
            self._own_headers = headers
            self._own_lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        return self._own_lines

    def place_of(self, server: tuple[str, int | None] | None, client: tuple[str, int] | None) -> bytes:
        """Tell apart connections for which the same head may be answered otherwise: by the address at which they came,
        and by that of a proxy."""
        hosts = [server, client if self.publishing.believes_proxies else None]
        return ",".join(["" if host is None else host[0] for host in hosts]).encode("utf-8", "surrogateescape")

    def _parsed(self, head: bytes, connection: Connection, keys: int) -> Accepted | None:
        """Return what a head allows, None if the routes have to answer: also where the head does not end where it
        seems to, has other than this number of keys, or anything in it that is unusual."""
        if b"\r\n " in head or b"\r\n\t" in head:
            return None
        reader = _Reader()
        parser = httptools.HttpRequestParser(reader)
        try:
            parser.feed_data(head[:-1])
            if reader.is_complete():
                return None
            parser.feed_data(head[-1:])
            if not reader.is_complete() or parser.should_upgrade() or not parser.should_keep_alive():
                return None
            headers = reader.headers
            check_head(parser.get_method(), reader.url, parser.get_http_version(), headers, self._max_head)
            target = target_of(reader.url)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, Unacceptable, ValueError):
            return None
        names = [name for name, _ in headers]
        if (
            len(headers) > MAX_HEADERS
            or parser.get_http_version() != "1.1"
            or not _UNUSUAL.isdisjoint(names)
            or names.count(b"content-length") != 1
            or names.count(b"idempotency-key") != keys
        ):
            return None
        return self.publishing.accept(
            {
                "type": "http",
                "http_version": "1.1",
                "method": "POST",
                "scheme": connection.scheme,
                "server": connection.server,
                "client": connection.client,
                "root_path": "",
                "headers": headers,
                **target,
            }
        )

    def _remember(self, digest: bytes, accepted: Accepted) -> None:
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[digest] = accepted


def target_of(url: bytes) -> Scope:
    """Return what the scope of ASGI says of a target that is a path."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return {
        "path": unquote(path) if "%" in path else path,
        "raw_path": parsed.path,
        "query_string": parsed.query or b"",
    }


class _Reader:
    """What httptools calls."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self._complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._complete = True

    def is_complete(self) -> bool:
        """Return whether the end of the head has come."""
        return self._complete
