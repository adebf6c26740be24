"""Which pages may use this server: the rules for `Host` and `Origin`, and what CORS tells a browser of them.

A browser sends requests for whatever page asks it to, with the user's cookies and from inside the user's network. That
a request has a foreign `Origin` is how a server finds out (RFC 6454, 7); that a name was bound anew to this machine's
address, which makes a foreign page one of our own, shows in `Host` alone.

Pure: scopes in, answers out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from starlette.types import Scope

from feed import Forbidden

Headers = list[tuple[bytes, bytes]]

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110, 9.2.1: they change nothing
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
HEALTH = ("/healthz", "/readyz")
"""What a load balancer asks for, by whatever name it knows the server."""

_DEFAULT_PORTS = {"http": "80", "https": "443"}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/?#@\[\]]+)(?::(\d{1,5}))?", re.ASCII)
_ORIGIN = re.compile(rf"([A-Za-z][A-Za-z0-9+.-]*)://{_HOST.pattern}", re.ASCII)

_ALLOWED_METHODS = b"GET, HEAD, POST, DELETE"
_ALLOWED_HEADERS = (
    b"Last-Event-ID, Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Cache-Control, "
    b"X-Requested-With, traceparent, tracestate, baggage"
)
_CLOUDEVENT = re.compile(r"ce-[!#$%&'*+.^_`|~0-9a-z-]{1,64}", re.ASCII | re.IGNORECASE)
_MAX_CLOUDEVENT = 50  # headers of one that a page may ask to send: it has ten attributes, and extensions

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
    """`localhost:8000` in its parts, in lower case; None if it is not a host."""
    found = _HOST.fullmatch(text)
    return None if found is None else _Host(found[1].lower(), found[2])


def parse_origin(text: str) -> _Origin | None:
    """`https://app.example.org` in its parts, as a browser writes it: in lower case, without the scheme's own port.
    None for what is not an origin: `null`, a path behind it, a wildcard."""
    found = _ORIGIN.fullmatch(text)
    if found is None or "*" in text:
        return None
    scheme, name, port = found[1].lower(), found[2].lower(), found[3]
    return _Origin(scheme, name, None if port == _DEFAULT_PORTS.get(scheme) else port)


class Hosts:
    """The names under which a server without a key answers: those that mean this machine on this machine, on any port,
    and those that are listed. Unless it is `exposed`, it answers only what comes over loopback, too: whoever serves the
    application may have it listen anywhere."""

    def __init__(self, listed: Iterable[str] = (), *, exposed: bool = False) -> None:
        self._known = {parse_host(host) for host in (*_LOOPBACK, *listed)}
        self._exposed = exposed

    def check(self, scope: Scope) -> None:
        """Raises `Forbidden` for a request to another name, or from elsewhere."""
        server = scope.get("server")
        if not self._exposed and server is not None and not _is_loopback(server[0]):
            raise Forbidden(
                "this server has no key, so it answers on loopback only: configure one (FEED_JWT_SECRET), or say so "
                "(FEED_INSECURE)"
            )
        if _asks_for_health(scope):
            return  # a probe goes by whatever address it has, and is told nothing that a foreign page could use
        hosts = _values(scope, b"host")
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
    """Which pages besides the server's own may use it."""

    def __init__(self, listed: Iterable[str] = ()) -> None:
        """Raises `ValueError` for what is not an origin."""
        self._listed = set()
        for origin in listed:
            if (parsed := parse_origin(origin)) is None:
                raise ValueError(f"{origin!r} is not an origin, such as https://app.example.org")
            self._listed.add(str(parsed))

    def check(self, scope: Scope) -> None:
        """Raises `Forbidden` for a request that changes something, or opens a WebSocket, for a foreign page."""
        if scope["type"] == "http" and scope["method"] in _SAFE_METHODS:
            return
        origins = _values(scope, b"origin")
        if origins and not (len(origins) == 1 and (self._is_own(scope, origins[0]) or self._is_listed(origins[0]))):
            raise Forbidden(
                "the page that asks is of another origin: list that origin in FEED_ORIGINS (in an application of your "
                "own: feed_router's origins) to let it publish, open a WebSocket or set a session; behind a proxy that "
                "changes Host, list the address that browsers see"
            )

    def answer_headers(self, scope: Scope) -> Headers:
        """What CORS adds to an answer (Fetch standard, 3.3): nothing without a list, and for a page that is not on it
        only that the answer depends on who asks, which caches have to know."""
        if not self._listed:
            return []
        origins = _values(scope, b"origin")
        if len(origins) != 1 or not self._is_listed(origins[0]):
            return [(b"vary", b"Origin")]
        return [
            (b"access-control-allow-origin", origins[0].encode("latin-1")),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", _EXPOSED_HEADERS),
            (b"vary", b"Origin"),
        ]

    def preflight_headers(self, scope: Scope) -> Headers | None:
        """The answer to a browser's question what a page may send; None if it is not such a question. Raises
        `Forbidden` for a page that is not listed."""
        if (
            scope["type"] != "http"
            or scope["method"] != "OPTIONS"
            or not _values(scope, b"access-control-request-method")
        ):
            return None
        origins = _values(scope, b"origin")
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
        """Host and port are the same. A port that one of them leaves out is the one that the origin's scheme has: a
        proxy may have spoken TLS, and our own scheme tells nothing."""
        origin = parse_origin(text)
        hosts = _values(scope, b"host")
        host = parse_host(hosts[0]) if len(hosts) == 1 else None
        if origin is None or host is None or origin.scheme not in _DEFAULT_PORTS:
            return False  # no page that we serve has another scheme: an app on this machine may (capacitor://localhost)
        port = _DEFAULT_PORTS[origin.scheme]
        return (origin.name, origin.port or port) == (host.name, host.port or port)


def _cloudevent_headers(scope: Scope) -> Iterable[bytes]:
    """Those of a CloudEvent that a page asks to send: there is no end of them, as each extension is one."""
    asked = ",".join(_values(scope, b"access-control-request-headers")).split(",", 2 * _MAX_CLOUDEVENT)
    names = [name.strip(" \t") for name in asked]
    return [name.encode() for name in names if _CLOUDEVENT.fullmatch(name)][:_MAX_CLOUDEVENT]


@lru_cache(maxsize=64)
def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address.partition("%")[0]).is_loopback
    except ValueError:  # the path of a Unix socket
        return True


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip(" \t") for key, value in scope["headers"] if key == name]
