"""Read a request's query, path and headers, strictly. Its body: see `feed.fastapi.http.bodies`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from feed import Invalid
from feed.errors import Malformed
from feed.fastapi.http.parameters import OPENED, RECONNECTED, Use, check_parameters
from feed.fastapi.http.problems import Refused, UnreadProblem
from feed.wire import parse_rfc3339

_DECIMAL = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)

# These are read before it is known who asks, so they must cost next to nothing; a head can hold tens of thousands.
_MAX_PARAMETERS = 1_000
_MAX_ACCEPT = 4_096  # characters

_SWITCH = {None: False, "": False, "0": False, "false": False, "1": True, "true": True}
_PREFIX = re.compile(r"(/[\w.~!$&'()*+;=:@%-]+)*", re.ASCII)

_QUERY = "feed.query"  # in the scope


def header_values(scope: Scope, name: bytes) -> list[str]:
    """Return the values of a header, without the space around them, in the order in which they came."""
    return [value.decode("latin-1").strip(" \t") for key, value in scope["headers"] if key == name]


def query_of(connection: HTTPConnection) -> Query:
    """Return the parameters of the URL, parsed once in a request. Raises `Malformed` as `Query` does."""
    query: Query | None = connection.scope.get(_QUERY)
    if query is None:
        query = connection.scope[_QUERY] = Query(connection.scope["query_string"])
    return query


def forget_query(connection: HTTPConnection) -> None:
    """Drop the parsed query, which a stream of days does not need any more."""
    connection.scope.pop(_QUERY, None)


class Query:
    """The parameters of a URL. Raises `Malformed` for invalid UTF-8, and for more than a thousand parameters."""

    def __init__(self, raw: bytes) -> None:
        if raw.count(b"&") >= _MAX_PARAMETERS:
            raise Malformed(f"query: more than {_MAX_PARAMETERS:,} parameters")
        try:
            pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict") if raw else []
        except (UnicodeDecodeError, ValueError):
            raise Malformed("query: not UTF-8, or not percent-encoded") from None
        self._pairs = pairs
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def all(self, name: str) -> list[str]:
        """Return all values of a parameter that may be repeated."""
        return self._values.get(name, [])

    def check(self, use: Use, own: Collection[str] = ()) -> None:
        """Raises `Invalid` as `check_parameters` does."""
        if self._values:
            check_parameters(self._values, use, own)

    def one(self, name: str) -> str | None:
        """Return the value of a parameter: the last one, if there are several."""
        return self._values[name][-1] if name in self._values else None

    def newest(self, names: Collection[str]) -> str | None:
        """Return the value of a parameter that has several names. The last one that is not empty counts: clients add to
        a URL at its end."""
        return next((value for name, value in reversed(self._pairs) if value and name in names), None)

    def number(self, name: str, *, least: int, most: int) -> int | None:
        """Return a whole number, None if it is not given. Raises `Invalid` if it is out of bounds."""
        value = self.one(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and len(value) < 10 and least <= int(value) <= most):
            raise Invalid(name, f"has to be a whole number from {least:,} to {most:,}")
        return int(value)

    def flag(self, name: str) -> bool:
        """Return whether a switch is on. Raises `Invalid` for what is neither on nor off."""
        value = self.one(name)
        if value not in _SWITCH:
            raise Invalid(name, "has to be 1 or 0")
        return _SWITCH[value]

    def seconds(self, name: str, *, most: int) -> float:
        """Return a duration in seconds, 0 if it is not given. Raises `Invalid`."""
        value = self.one(name)
        seconds = 0.0 if value is None else float(value) if _DECIMAL.fullmatch(value) else -1.0
        if not 0 <= seconds <= most:
            raise Invalid(name, f"has to be a number of seconds from 0 to {most}")
        return seconds

    def time(self, name: str) -> int | None:
        """Return an RFC 3339 time in milliseconds since 1970, None if it is not given. Raises `Invalid`."""
        value = self.one(name)
        if value is None:
            return None
        # The plus of an offset arrives as a space if it was not percent-encoded.
        value = value[:19] + value[19:].replace(" ", "+")
        milliseconds = parse_rfc3339(value)
        if milliseconds is None:
            raise Invalid(name, "has to be an RFC 3339 time, such as 2026-11-21T03:05:00Z")
        return milliseconds


def path_parameter(connection: HTTPConnection, name: str, called: str | None = None) -> str | None:
    """Return the topic or pattern in the path, None if the route has none. Raises `Invalid` for invalid UTF-8, and
    calls the parameter `called`, or `name`."""
    value: str | None = connection.path_params.get(name)
    if value is not None and "\ufffd" in value:
        # Servers put this character where bytes were not UTF-8; then the text is not what the client asked for.
        try:
            unquote_to_bytes(connection.scope.get("raw_path", b"")).decode()
        except UnicodeDecodeError:
            raise Invalid(called or name, "is not UTF-8") from None
    return value


def last_event_id(connection: HTTPConnection, query: Query) -> str | None:
    """Return the id to resume after. A reconnect's id must win over the one that the URL was opened with: the header
    (browsers) comes first, then what polyfills add to the URL, then the URL's own."""
    for name, value in connection.scope["headers"]:
        if name == b"last-event-id":
            # Space around a header's value is not part of it (RFC 9110, 5.5), though servers pass it on.
            header: str = value.strip(b" \t").decode("utf-8", "replace")
            if header:
                return header
    return query.newest(RECONNECTED) or query.newest(OPENED)


def media_type(connection: HTTPConnection) -> str:
    """Return the body's media type in lower case, without parameters. Raises `Refused` for a charset other than UTF-8,
    for compression, and for multipart: nobody wants the boundaries of a form published."""
    scope = connection.scope
    kind, _, parameters = next(iter(header_values(scope, b"content-type")), "").partition(";")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip(' "').lower() not in {"utf-8", "utf8", "us-ascii"}:
            raise Refused(UnreadProblem(415, "the charset has to be UTF-8"))
    if any(value.lower() not in {"", "identity"} for value in header_values(scope, b"content-encoding")):
        raise Refused(UnreadProblem(415, "a compressed body is not accepted: send it uncompressed"))
    kind = kind.strip().lower()
    if kind.startswith("multipart/"):
        detail = "a multipart form is not an event: send the data itself as the body (curl -d or --data-binary, not -F)"
        raise Refused(UnreadProblem(415, detail))
    return kind


def accepted(connection: HTTPConnection, offered: Iterable[str]) -> str | None:
    """Return the offered media type that the client prefers among those it names, None if it names none of them.
    Raises `Malformed` for a header of more than `_MAX_ACCEPT` characters."""
    best, found = 0.0, None
    offered = frozenset(offered)
    headers = connection.headers.getlist("accept")
    if sum(map(len, headers)) > _MAX_ACCEPT:
        raise Malformed(f"Accept: longer than {_MAX_ACCEPT:,} characters")
    for header in headers:
        for entry in header.split(","):
            kind, *parameters = (part.strip().lower() for part in entry.split(";"))
            quality = 1.0
            for parameter in parameters:
                if parameter.startswith("q="):
                    try:
                        quality = float(parameter[2:])
                    except ValueError:
                        quality = 0.0
            if kind in offered and quality > best:
                best, found = quality, kind
    return found


class Place(NamedTuple):
    """A feed's address, as a client sees it: `path` is the part before `/events`."""

    host: str
    path: str
    secure: bool


def place_of(request: Request, below: str) -> Place:
    """Return the address of the feed whose own path `below` was requested. The feed may be under a prefix, in a mounted
    application, or behind a proxy that strips a path (known from `root_path` or X-Forwarded-Prefix)."""
    root: str = request.scope.get("root_path", "").rstrip("/")
    path: str = request.scope["path"]
    if not path.startswith(f"{root}/"):
        path = root + path
    taken = _taken_away(request)
    if not path.startswith(f"{taken}/"):  # else `root_path` says the same once more
        path = taken + path
    return Place(request.url.netloc, path.removesuffix(below), request.url.scheme == "https")


def _taken_away(request: Request) -> str:
    """Return the path that proxies in front say they stripped, "" if it is not a path. A client that invents one only
    gets its own words back, as with the header `Host`."""
    said = ",".join(request.headers.getlist("x-forwarded-prefix"))
    path = "".join(each.strip(" \t").rstrip("/") for each in said.split(","))
    return path if _PREFIX.fullmatch(path) else ""


def address(connection: HTTPConnection) -> str:
    """Return the client's address, as the server sees it or a trusted proxy says; "" if there is none."""
    return connection.client.host if connection.client is not None else ""
