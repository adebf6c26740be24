"""The sockets that a server listens on: one, or for several workers one each, on the same port."""

from __future__ import annotations

import contextlib
import socket
import sys
from ipaddress import ip_address

from feed import FeedError

BACKLOG = 2048
_UNSENT = 128 << 10  # bytes that wait in the system for one connection, beyond what is under way


class ServeError(FeedError):
    """The server cannot start; the message says why, and what to do."""


def listen(host: str, port: int, count: int = 1) -> list[socket.socket]:
    """`count` sockets that listen on one port; 0 takes a free one. Raises `ServeError`.

    Linux gives each new connection to one of them by a hash of its addresses: 200 went to two workers 80:120 at worst,
    where from one socket that both took from it was 17:183. Whoever takes from a socket may come and go: connections
    wait in it meanwhile. Elsewhere it is the same socket `count` times.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )[0]
        with contextlib.ExitStack() as unfinished:
            # Bound by itself: a port may be shared with sockets of our own, but not with another server's.
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
        raise ServeError(f"cannot listen on {host}:{port}: {reason}: choose others with --host and --port") from error


def check_private(host: str) -> None:
    """Raises `ServeError` if others than this machine could reach a server that listens on `host`."""
    with contextlib.suppress(OSError):  # that it cannot be resolved `listen` says better
        for _, _, _, _, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            if not ip_address(str(address[0]).partition("%")[0]).is_loopback:
                raise ServeError(
                    f"there is no key, so everybody who reaches {host} could publish and read: set FEED_JWT_SECRET (or "
                    "FEED_JWT_PUBLIC_KEY, FEED_JWKS_URL), listen on 127.0.0.1, or say --insecure"
                )


def url_of(listening: socket.socket) -> str:
    """Where a client on this machine finds the server."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  everywhere is also here
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
    """Options that every accepted connection inherits: a peer that vanished without a word is found within a minute,
    and what the system keeps for one that is slow is bounded, unsent, to what we would keep ourselves."""
    options = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_NOTSENT_LOWAT": _UNSENT}
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        if hasattr(socket, name):  # not every system has all of them
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
