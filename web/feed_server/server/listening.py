"""The sockets that a server listens on: one, or one for each worker, all on the same port."""

from __future__ import annotations

import contextlib
import socket
import sys
from ipaddress import ip_address

from feed import FeedError

BACKLOG = 2048
_UNSENT = 128 << 10  # bytes that may wait in the system for one connection, beyond those under way


class ServeError(FeedError):
    """The server cannot start; the message says why, and what to do."""


def listen(host: str, port: int, count: int = 1) -> list[socket.socket]:
    """Return `count` sockets that listen on one port; port 0 takes a free one. Raises `ServeError`.

    Linux gives each new connection to one of the sockets by a hash of its addresses: 200 connections went to two
    workers 80:120 at worst. With one socket that both accepted from it was 17:183. A worker may end and be replaced:
    connections wait in its socket meanwhile. On other systems all are the same socket.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )[0]
        with contextlib.ExitStack() as unfinished:
            # Bound without sharing first: our own sockets may share a port, but not with another server's.
            first = unfinished.enter_context(_bound(family, address, shared=False))
            spread = count > 1 and sys.platform == "linux"
            if spread:
                first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            first.listen(BACKLOG)
            if not spread:
                unfinished.pop_all()
                return [first] * count
            address = (address[0], first.getsockname()[1], *address[2:])
            listening = [first]
            for _ in range(count - 1):
                listening.append(unfinished.enter_context(_bound(family, address, shared=True)))
                listening[-1].listen(BACKLOG)
            unfinished.pop_all()
            return listening
    except OSError as error:
        reason = error.strerror or str(error)
        raise ServeError(
            f"cannot listen on {host}:{port}: {reason}: choose another address with --host or --port"
        ) from error


def check_private(host: str) -> None:
    """Raise `ServeError` if other machines could reach a server that listens on `host`."""
    with contextlib.suppress(OSError):  # `listen` says better that a name cannot be resolved
        for _, _, _, _, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            if not ip_address(str(address[0]).partition("%")[0]).is_loopback:
                raise ServeError(
                    f"without a key everyone who reaches {host} could publish and read: set FEED_JWT_SECRET (or "
                    "FEED_JWT_PUBLIC_KEY, FEED_JWKS_URL), listen on 127.0.0.1, or give --insecure"
                )


def url_of(listening: socket.socket) -> str:
    """Return the URL of the server for a client on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  all addresses include this one
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bound(family: socket.AddressFamily, address: tuple[object, ...], *, shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _find_the_vanished(bound)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def _find_the_vanished(listening: socket.socket) -> None:
    """Set options that every accepted connection inherits. Keepalive finds a vanished peer within a minute, and the
    unsent bytes that the system keeps for a slow peer are limited to what we would keep ourselves."""
    options = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_NOTSENT_LOWAT": _UNSENT}
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        if hasattr(socket, name):  # not every system has all of them
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
