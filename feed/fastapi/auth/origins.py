"""Which pages may use this server: the rules for `Host` and `Origin`, and the headers of CORS.

A browser sends requests for any page that asks it to, with the user's cookies and from inside the user's network. The
server can see this by a foreign `Origin` (RFC 6454, 7). In DNS rebinding, another name is bound to this machine's
address, and a foreign page passes for one of the server's own: only `Host` shows that.

This module does no input or output: it takes scopes, and returns headers or raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from starlette.types import Scope

from feed import Forbidden
from feed.fastapi.http.request import header_values

Headers = list[tuple[bytes, bytes]]

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110, 9.2.1: they do not change anything
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
HEALTH = ("/healthz", "/readyz")
"""The paths that a load balancer asks for, under any name of the server."""

_DEFAULT_PORTS = {"http": "80", "https": "443"}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(?::(\d{1,5}))?", re.ASCII)
_ORIGIN = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*)://{_HOST.pattern}", re.ASCII)

_ALLOWED_METHODS = b"GET, HEAD, POST, DELETE"
_ALLOWED_HEADERS = (
    b"Last-Event-ID, Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Cache-Control, "
    b"X-Requested-With, traceparent, tracestate, baggage"
)
_CLOUDEVENT = re.compile(r"ce-[!#$%&'*+.^_`|~0-9a-z-]{1,64}", re.ASCII | re.IGNORECASE)
_MAX_CLOUDEVENT = 50  # headers of a CloudEvent that a page may ask for: ten attributes, and extensions

_EXPOSED_HEADERS = b"Retry-After, WWW-Authenticate"
_PREFLIGHT_SECONDS = b"600"


class _Host(NamedTuple):
    name: str
    port: str | None


class _Origin(NamedTuple):
    scheme: str
    name: str
    port: str | None

    def __str__(self) -> str:
        port = f":{self.port}" if self.port else ""
        return f"{self.scheme}://{self.name}{port}"


@lru_cache(maxsize=1024)
def parse_host(text: str) -> _Host | None:
    """Split `localhost:8000` into its parts, in lower case. None if the text is not a host."""
    found = _HOST.fullmatch(text)
    return None if found is None else _Host(found[1].lower(), found[2])


def parse_origin(text: str) -> _Origin | None:
    """Split `https://app.example.org` into its parts, as a browser writes them: in lower case, without the scheme's
    default port. None for what is not an origin: `null`, a URL with a path, a wildcard."""
    found = _ORIGIN.fullmatch(text)
    if found is None or "*" in text:
        return None
    scheme, name, port = found[1].lower(), found[2].lower(), found[3]
    return _Origin(scheme, name, None if port == _DEFAULT_PORTS.get(scheme) else port)


class Hosts:
    """The names under which a server without a key answers: those of loopback, on any port, and the listed ones. Unless
    it is `exposed`, it also answers only requests over loopback, as the application may be served at any address."""

    def __init__(self, listed: Iterable[str] = (), *, exposed: bool = False) -> None:
        self._known = {parse_host(host) for host in (*_LOOPBACK, *listed)}
        self._exposed = exposed

    def check(self, scope: Scope) -> None:
        """Raise `Forbidden` for a request to another name, or from another machine."""
        server = scope.get("server")
        if not self._exposed and server is not None and not _is_loopback(server[0]):
            raise Forbidden(
                "this server has no key, so it answers on loopback only: configure a key (FEED_JWT_SECRET), or allow "
                "this (FEED_INSECURE)"
            )
        if _asks_for_health(scope):
            return  # a probe may use any address, and the answer is of no use to a foreign page
        hosts = header_values(scope, b"host")
        host = parse_host(hosts[0]) if len(hosts) == 1 else None
        if host is None or (host not in self._known and _Host(host.name, None) not in self._known):
            raise Forbidden(
                "this server has no key, so it answers only to localhost and the names in FEED_HOSTS: set FEED_HOSTS "
                "to the host of the URL, or configure a key (FEED_JWT_SECRET)"
            )


def _asks_for_health(scope: Scope) -> bool:
    root: str = scope.get("root_path", "").rstrip("/")
    path: str = scope.get("path", "")
    if path.startswith(f"{root}/"):
        path = path[len(root) :]
    return scope["type"] == "http" and scope["method"] in {"GET", "HEAD"} and path in HEALTH


class Origins:
    """The origins whose pages may use the server, besides its own."""

    def __init__(self, listed: Iterable[str] = ()) -> None:
        """Raises `ValueError` for a text that is not an origin."""
        self._listed = set()
        for origin in listed:
            if (parsed := parse_origin(origin)) is None:
                raise ValueError(f"{origin!r} is not an origin, such as https://app.example.org")
            self._listed.add(str(parsed))

    def check(self, scope: Scope) -> None:
        """Raise `Forbidden` if a foreign page wants to change something or to open a WebSocket."""
        if scope["type"] == "http" and scope["method"] in _SAFE_METHODS:
            return
        origins = header_values(scope, b"origin")
        if origins and not (len(origins) == 1 and (self._is_own(scope, origins[0]) or self._is_listed(origins[0]))):
            raise Forbidden(
                "the page that asks is of another origin: list that origin in FEED_ORIGINS (in an application of your "
                "own: feed_router's origins) to let it publish, open a WebSocket or set a session; behind a proxy that "
                "changes Host, list the address that browsers see"
            )

    def answer_headers(self, scope: Scope) -> Headers:
        """Return the headers that CORS adds to an answer (Fetch standard, 3.3). Without a list there are none. A page
        that is not on the list gets only `Vary`: caches have to know that the answer depends on the origin."""
        if not self._listed:
            return []
        origins = header_values(scope, b"origin")
        if len(origins) != 1 or not self._is_listed(origins[0]):
            return [(b"vary", b"Origin")]
        return [
            (b"access-control-allow-origin", origins[0].encode("latin-1")),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", _EXPOSED_HEADERS),
            (b"vary", b"Origin"),
        ]

    def preflight_headers(self, scope: Scope) -> Headers | None:
        """Return the headers that answer a preflight, or None if the request is not a preflight. Raises `Forbidden` for
        a page that is not listed."""
        if (
            scope["type"] != "http"
            or scope["method"] != "OPTIONS"
            or not header_values(scope, b"access-control-request-method")
        ):
            return None
        origins = header_values(scope, b"origin")
        if len(origins) != 1 or not self._is_listed(origins[0]):
            raise Forbidden("this origin is not one of FEED_ORIGINS")
        return [
            (b"access-control-allow-methods", _ALLOWED_METHODS),
            (b"access-control-allow-headers", b", ".join([_ALLOWED_HEADERS, *_cloudevent_headers(scope)])),
            (b"access-control-max-age", _PREFLIGHT_SECONDS),
        ]

    def _is_listed(self, origin: str) -> bool:
        return origin in self._listed

    def _is_own(self, scope: Scope, text: str) -> bool:
        """Return whether origin and `Host` are the same. A port that is left out is the default port of the origin's
        scheme: the server's own scheme does not count, as a proxy may speak TLS."""
        origin = parse_origin(text)
        hosts = header_values(scope, b"host")
        host = parse_host(hosts[0]) if len(hosts) == 1 else None
        if origin is None or host is None or origin.scheme not in _DEFAULT_PORTS:
            return False  # as an app on this machine has (capacitor://localhost)
        port = _DEFAULT_PORTS[origin.scheme]
        return (origin.name, origin.port or port) == (host.name, host.port or port)


def _cloudevent_headers(scope: Scope) -> Iterable[bytes]:
    """Return the headers of a CloudEvent that a page asks to send. They cannot be listed, as each extension is one."""
    asked = ",".join(header_values(scope, b"access-control-request-headers")).split(",", 2 * _MAX_CLOUDEVENT)
    names = [name.strip(" \t") for name in asked]
    return [name.encode() for name in names if _CLOUDEVENT.fullmatch(name)][:_MAX_CLOUDEVENT]


@lru_cache(maxsize=64)
def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:  # the path of a Unix socket
        return True
